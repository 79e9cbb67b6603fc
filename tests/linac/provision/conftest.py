"""A real cmd.exe (Debian's wine), with programs of Windows that record how they are called and answer as they would."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# The stand-ins are Windows programs: setuptools's launcher runs the program named in <name>-script.py, here wine's script host
# with this script. So what they record is what a Windows program gets of a batch file's line, and their exit codes are seen by
# cmd.exe.
# wine's script host ends with exit code 0 where a script fails to begin or throws: whatever can fail is tried again.
SCRIPT = r"""
function insist(act) {
  for (var tries = 0; ; tries++) try { return act(); } catch (error) {
    if (tries == 100) WScript.Quit(97);
    WScript.Sleep(100);
  }
}
var files = insist(function () { return new ActiveXObject("Scripting.FileSystemObject"); });
var here = files.GetParentFolderName(WScript.ScriptFullName);
var words = [], i;
for (i = 0; i < WScript.Arguments.length; i++) words.push(String(WScript.Arguments.Item(i)));
var program = files.GetFileName(words.shift()).replace("-script.py", "");
var out = insist(function () { return files.OpenTextFile(here + "\\calls.txt", 8, true, -1); });
out.WriteLine([program].concat(words).join("\t"));
out.Close();
function path(name) { return here + "\\" + name; }
function known(service) { return files.FileExists(path("service-" + service)); }
function running(service) { return files.FileExists(path("running-" + service)); }
function refused(word) { return files.FileExists(path("refuse-" + word)); }
function keep(name) { insist(function () { files.CreateTextFile(path(name), true).Close(); }); }
function drop(name) { insist(function () { files.DeleteFile(path(name)); }); }
function nssm(verb, service, parameter) {
  if (refused(verb) || (verb == "set" && refused(parameter))) return 1;
  if (verb == "install") { if (known(service)) return 5; keep("service-" + service); return 0; }
  if (!known(service)) return 3;
  if (verb == "start") { if (running(service)) return 1; keep("running-" + service); }
  if (verb == "stop") { if (!running(service)) return 1; drop("running-" + service); }
  if (verb == "remove") { if (words[2] != "confirm" || running(service)) return 1; drop("service-" + service); }
  return 0;
}
function sc(verb, service) {
  if (refused("sc")) return 0;
  if (!known(service)) return 1060;
  WScript.Echo("        STATE              : " + (running(service) ? "4  RUNNING" : "1  STOPPED"));
  return 0;
}
function powershell() {
  if (!files.FileExists(path("password"))) return 1;
  var password = files.OpenTextFile(path("password"), 1).ReadAll();
  var unsafe = new RegExp(words[2].match(/-match '([^']*)'/)[1]);
  WScript.Echo(unsafe.test(password) && !refused("unsafe") ? "!" : "." + password);
  return 0;
}
function python() {
  if (words.join(" ").indexOf(" status ") > 0 && files.FileExists(path("status")))
    WScript.Echo(files.OpenTextFile(path("status"), 1).ReadAll());
  return refused("python") ? 1 : 0;
}
var does = {nssm: nssm, sc: sc, powershell: powershell, python: python};
WScript.Quit(does[program] ? does[program].apply(null, words) : (refused(program) ? 1 : 0));
"""

STAND_INS = ("nssm", "sc", "powershell", "icacls", "python")


class Windows:
    """cmd.exe of one wine prefix. `tools` is first on its PATH and holds the stand-ins and their state."""

    def __init__(self, prefix: Path, tools: Path) -> None:
        self.prefix, self.tools = prefix, tools
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")},
            "WINEPREFIX": str(prefix),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=",
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "WINEPATH": dos(tools),
        }

    def put(self, name: str, folder: Path) -> None:
        """A stand-in called `name` in `folder`, with its state in `tools`."""
        import setuptools

        shutil.copy(Path(setuptools.__file__).with_name("cli-64.exe"), folder / f"{name}.exe")
        (folder / f"{name}-script.py").write_text(
            f"#!C:\\windows\\system32\\cscript.exe //nologo {dos(self.tools)}\\stand-in.js\n"
        )

    def run(self, *command: str, cwd: Path, answers: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:  # wine's own services hold a pipe open
            given.write(answers.replace("\n", "\r\n").encode())
            given.seek(0)
            done = subprocess.run(
                ["wine", *command],
                cwd=cwd,
                env=self.environment | environment,
                stdin=given,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=300,
                check=False,
            )
            said.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, said.read().decode("utf-8", "replace"))

    def batch(self, path: Path, *words: str, answers: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a batch file as somebody would who sits in its folder."""
        return self.run("cmd", "/c", path.name, *words, cwd=path.parent, answers=answers, **environment)

    def calls(self) -> list[list[str]]:
        """The stand-ins' calls since the last time, each as program and arguments."""
        path = self.tools / "calls.txt"
        text = path.read_text(encoding="utf-16") if path.exists() else ""
        path.unlink(missing_ok=True)
        return [line.split("\t") for line in text.splitlines()]

    def clear(self) -> None:
        for pattern in ("calls.txt", "service-*", "running-*", "refuse-*", "password", "status"):
            for path in self.tools.glob(pattern):
                path.unlink()


def dos(path: Path) -> str:
    """A path of this computer as wine's programs see it."""
    return "Z:" + str(path).replace("/", "\\")


@pytest.fixture(scope="session")
def _windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Windows]:
    if os.name == "nt" or shutil.which("wine") is None:
        pytest.skip("wine is not installed: no cmd.exe to run batch files in")
    top = tmp_path_factory.mktemp("wine")
    tools = top / "tools"
    tools.mkdir()
    windows = Windows(top / "prefix", tools)
    (tools / "stand-in.js").write_text(SCRIPT)
    for name in STAND_INS:
        windows.put(name, tools)
    made = windows.run("cmd", "/c", "exit 7", cwd=top)
    assert made.returncode == 7, made
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    open_all_day = subprocess.Popen(
        ["wine", "cmd"], env=windows.environment, stdin=subprocess.PIPE, **quiet
    )  # else wine starts anew each time
    yield windows
    open_all_day.communicate(timeout=60)


@pytest.fixture
def windows(_windows: Windows) -> Iterator[Windows]:
    """cmd.exe, with nothing installed and nothing recorded yet."""
    _windows.clear()
    yield _windows
    _windows.clear()


@pytest.fixture
def arguments_of() -> object:
    """Runs a line of Python as a batch file would, and returns the `sys.argv` that the program sees."""

    def run(code: str, *words: str) -> list[str]:
        import sys

        shown = "import json,sys,types;sys.modules['runpy']=m=types.ModuleType('runpy');"
        shown += "m.run_module=lambda *a,**k:print(json.dumps(sys.argv[1:]));"
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", shown + code, *words], capture_output=True, text=True, check=True
        )
        return list(json.loads(done.stdout))

    return run
