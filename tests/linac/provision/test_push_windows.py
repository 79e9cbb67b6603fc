"""Pushing to a Windows capture host: a real sshd, whose sessions end in a real cmd.exe (Debian's wine), real batch files, a real
listener and a simulated linac. Stood in: nssm, sc, icacls, the listener's start by nssm, and PowerShell."""

import contextlib
import io
import os
import shlex
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.capture import control
from linac.errors import SetupError
from linac.provision import NSSM, Listening, Services
from linac.provision import push as pushing
from linac.provision import windows as batch
from linac.provision.push import Programs, _pending, _placed, _started, look, push, withdraw
from linac.provision.push_windows import Windows as PushedWindows
from linac.provision.pushing import RUNNING, STARTING, STOPPED, sums
from linac.simulator import SimulatedLinac
from linac.simulator.sshd import SshServer, is_installed
from linac.transport.ssh import Gateway

pytestmark = pytest.mark.skipif(os.name == "nt" or not is_installed(), reason="OpenSSH's server is not installed")

FOLDER = "Größe (x86) & Maß! ^caret;, a=b"
PASSWORD = "pa!s^s&w(o)r d|<>;=,~"
ACCOUNT = "HOSPITAL\\icom-recorder"

# As OpenSSH does on Windows: cmd.exe gets the command line between one pair of quotation marks, as it stands.
RUN = r"""
var files = new ActiveXObject("Scripting.FileSystemObject");
var command = files.OpenTextFile(WScript.Arguments.Item(0) + "\\command.txt", 1, false, -1).ReadAll();
WScript.Quit(new ActiveXObject("WScript.Shell").Run(command, 0, true));
"""
SESSION = r"""#!/bin/bash
{exports}
cd {profile} || exit 1
command="$SSH_ORIGINAL_COMMAND"
case "$command" in internal-sftp*) exec /usr/lib/openssh/sftp-server -d {profile} ;; esac
here="$(mktemp -d)"; trap 'rm -rf "$here"' EXIT
dos="Z:${{here//\//\\}}"
cat >"$here/in.txt"
echo "$command" >>{lab}/commands.txt
if [ -e {lab}/powershell ]; then
  case "$command" in
    "cmd.exe --% /d /s /c "*) command="${{command#cmd.exe --% /d /s /c \"}}"; command="${{command%\"}}" ;;
    'echo %OS%-$PSHOME') echo '%OS%-C:\Windows\System32\WindowsPowerShell\v1.0'; exit 0 ;;
    *) echo "PowerShell does not understand: $command"; exit 1 ;;
  esac
fi
if [ -e {lab}/listen ] && [ -e {tools}/running-icom_listening_4299 ] && [ ! -e {lab}/started ]; then
  touch {lab}/started
  setsid {python} -m linac.icom listen $(cat {lab}/listen) >{lab}/listener.log 2>&1 </dev/null &
  echo $! >{lab}/listen.pid
fi
case "$command" in *services-status*) {python} -m linac.icom status --serial 4299 --spool {spool} >{tools}/status 2>&1 ;; esac
printf '\xff\xfe' >"$here/command.txt"
printf 'cmd.exe /s /c "%s >"%s\\out.txt" 2>&1 <"%s\\in.txt""' "$command" "$dos" "$dos" |
  iconv -f UTF-8 -t UTF-16LE >>"$here/command.txt"
wine cscript //nologo {run} "$dos" >/dev/null 2>&1; status=$?
cat "$here/out.txt"
exit $status
"""


@pytest.fixture
def lab(windows: Any, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A capture host: an sshd whose sessions end in cmd.exe."""
    profile = tmp_path / "profile of physics"
    profile.mkdir()
    wanted = ("WINEPREFIX", "WINEDEBUG", "WINEDLLOVERRIDES", "WINEPATH", "LANG", "LC_ALL", "PATH", "HOME")
    values = {name: windows.environment[name] for name in wanted if name in windows.environment}
    values["PYTHONPATH"] = str(Path(__file__).parents[3])
    places = {"profile": profile, "lab": tmp_path, "tools": windows.tools, "python": sys.executable, "spool": tmp_path / "spool"}
    session, run = tmp_path / "session.sh", tmp_path / "run.js"
    run.write_text(RUN)
    session.write_text(
        SESSION.format(
            exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items()),
            run=shlex.quote("Z:" + str(run).replace("/", "\\")),
            **{name: shlex.quote(str(path)) for name, path in places.items()},
        )
    )
    home = "Z:" + str(tmp_path / FOLDER / "linac-listener").replace("/", "\\")
    with SshServer(tmp_path / "sshd", {"ForceCommand": f"bash {session}"}) as server:
        gateway = Gateway(server.host, server.port, server.user, server.host_key, key=server.key_file)
        yield SimpleNamespace(
            top=tmp_path,
            gateway=gateway,
            home=home,
            folder=tmp_path / FOLDER / "linac-listener",
            windows=windows,
            profile=profile,
        )
    if (tmp_path / "listen.pid").exists():  # first the command, which would start the listener again
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((tmp_path / "listen.pid").read_text()), signal.SIGKILL)
    assert control.stop(tmp_path / "spool", "4299", 30)


def programs(windows: Any) -> Programs:
    """An embeddable zip in which python.exe is a program of Windows that records how it is called, and answers."""
    tools, out = windows.tools, io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("python311._pth", "python311.zip\r\n.\r\n")
        archive.writestr("python311.zip", b"PK not really")
        archive.write(tools / "python.exe", "python.exe")
        archive.write(tools / "python-script.py", "python-script.py")
    return Programs(out.getvalue())


def services(*serials: str, **changes: Any) -> Services:
    linacs = tuple(Listening(serial, f"192.168.17.{number}") for number, serial in enumerate(serials or ("4299",), start=40))
    return Services(**{"kind": NSSM, "linacs": linacs, "records": r"\\srv\Größe", "spool": r"C:\linac spool (1)", **changes})


@pytest.fixture
def pushed(lab: SimpleNamespace) -> Callable[..., list[str]]:
    def run(what: Services, **more: Any) -> list[str]:
        said: list[str] = []
        push(lab.gateway, what, said.append, programs(lab.windows), home=lab.home, **more)
        return said

    return run


def test_a_push_ends_with_messages_and_pushing_again_changes_nothing(
    lab: SimpleNamespace, pushed: Callable[..., list[str]]
) -> None:
    (lab.top / "records").mkdir()
    what = services(log_on=ACCOUNT)
    with SimulatedLinac("4299", speed=4) as linac:
        host, port = linac.address
        (lab.top / "listen").write_text(f"{host} {lab.top}/records --port {port} --serial 4299 --spool {lab.top}/spool")
        first = pushed(what, password=PASSWORD, wait_seconds=60)
        assert first[0].startswith("copied, ")
        assert "icom_listening_4299: is being installed." in first[1]
        assert first[2] == "icom_listening_4299: runs."
        assert first[3].startswith("Linac 4299: ")
        assert first[3].endswith(" messages have arrived.")
        calls = lab.windows.calls()
        assert [call[4:] for call in calls if call[:4] == ["nssm", "set", "icom_listening_4299", "ObjectName"]] == [
            [ACCOUNT, PASSWORD]
        ]
        assert ["nssm", "set", "icom_listening_4299", "AppDirectory", lab.home] in calls
        assert ["nssm", "start", "icom_listening_4299"] in calls
        assert PASSWORD not in "".join(first)
        for path in [lab.top / "commands.txt", *lab.folder.rglob("*")]:
            assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()
        assert list(lab.profile.iterdir()) == []
        assert not list(lab.folder.rglob("*.new")) + list(lab.folder.rglob("*.next.txt"))

        before = {path: path.stat().st_mtime_ns for path in lab.folder.rglob("*") if path.is_file()}
        again = pushed(what)
        assert again[0] == f"{lab.home}: unchanged."
        assert {path: path.stat().st_mtime_ns for path in lab.folder.rglob("*") if path.is_file()} == before
        assert not [
            call for call in lab.windows.calls() if call[:2] in (["nssm", "install"], ["nssm", "start"], ["nssm", "stop"])
        ]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services with few settings: each takes wine its time, and test_windows.py looks at all of them."""
    monkeypatch.setattr(batch, "NSSM_SETTINGS", batch.NSSM_SETTINGS[:2])


def test_a_login_shell_may_be_powershell(lab: SimpleNamespace) -> None:
    (lab.top / "powershell").touch()
    system = PushedWindows(lab.gateway, lab.home)
    assert (system.found({}), system.state("4299")[0]) == ({}, STOPPED)
    files = {"program/a.py": b"a", "4299_listening.bat": b"b", "SHA256SUMS.txt": f"{'0' * 64} *program/a.py\n".encode()}
    system.place(files, ["program/a.py", "4299_listening.bat"], ["not-there.txt"])
    assert {path.relative_to(lab.folder).as_posix(): path.read_bytes() for path in lab.folder.rglob("*.*")} == files
    assert system.found(files) == {"program/a.py": "0" * 64}
    (lab.folder / "program" / "a.py").write_bytes(b"")
    assert system.found(files) == {"program/a.py": ""}, "what is cut short there is copied again"
    (lab.folder / "program" / "a.py").unlink()
    assert system.found(files) == {"program/a.py": ""}, "and so is what is missing"


LISTINGS = {
    "English": """ Volume in drive C is OS
 Volume Serial Number is 5A00-0000

 Directory of {home}

11/29/2026  11:39 PM               734 SHA256SUMS.txt
               1 File(s)            734 bytes

 Directory of {home}\\program\\Linac

11/29/2026  11:39 PM                18 a.py
11/29/2026  11:39 PM                 0 b.py
               2 File(s)             18 bytes
""",
    "German": """ Volume in Laufwerk C: hat keine Bezeichnung.

 Verzeichnis von {home}

29.11.2026  23:39               734 SHA256SUMS.txt
               1 Datei(en),            734 Bytes

 Verzeichnis von {home}\\program\\Linac

29.11.2026  23:39                18 a.py
29.11.2026  23:39                 0 b.py
               2 Datei(en),             18 Bytes
     Anzahl der angezeigten Dateien:
""",
}


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=list(LISTINGS))
@pytest.mark.parametrize("home", ["C:\\linac-listener", "D:\\Größe (x86)\\linac-listener"])
def test_files_are_told_from_a_listing_in_whatever_language_and_code_page(home: str, listing: str) -> None:
    def run(command: str, *_: Any) -> tuple[int, str]:
        if command.startswith("type"):
            return (0, f"{'0' * 64} *program/linac/a.py\n{'1' * 64} *a.py\n") if command.endswith('SHA256SUMS.txt"') else (1, "")
        said = "" if broken else listing.format(home=home.replace("ö", "\ufffd")).replace("\n", "\r\n")
        return 0, f"{said}Windows_NT"

    broken = False
    host: Any = SimpleNamespace(run=run)
    system = PushedWindows(host, home)
    assert system.found({}) == {"program/linac/a.py": "0" * 64, "a.py": ""}
    assert system.found({"program/linac/a.py": bytes(18)}) == {"program/linac/a.py": "0" * 64, "a.py": ""}
    assert system.found({"program/linac/a.py": bytes(19)}) == {"program/linac/a.py": "", "a.py": ""}, "cut short"
    broken = True
    assert system.found({}) == {"program/linac/a.py": "0" * 64, "a.py": "1" * 64}


SC = "\r\nSERVICE_NAME: icom_listening_4299 \r\n        TYPE  : 10  WIN32_OWN_PROCESS  \r\n        STATE : "


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ((0, f"{SC}4  RUNNING \r\n"), RUNNING),
        ((0, f"{SC}2  START_PENDING \r\n"), STARTING),
        ((0, f"{SC}5  CONTINUE_PENDING \r\n"), STARTING),
        ((0, f"{SC}3  STOP_PENDING \r\n"), STOPPED),
        ((0, f"{SC}7  PAUSED \r\n"), STOPPED),
        ((0, f"{SC}1  STOPPED \r\n"), STOPPED),
        ((0, ""), STOPPED),
        ((1060, f"{SC}4  RUNNING \r\n"), STOPPED),
    ],
)
def test_the_state_of_a_service_is_the_one_that_sc_names(said: tuple[int, str], state: str) -> None:
    host: Any = SimpleNamespace(run=lambda command, *_: (0, "Windows_NT-$PSHOME") if command.startswith("echo") else said)
    assert PushedWindows(host, "C:\\x").state("4299") == (state, said[1])


def test_a_service_that_is_still_starting_is_asked_again_and_no_longer_than_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "_PAUSE_SECONDS", 0)
    states = [(STOPPED, ""), (STARTING, "2  START_PENDING"), (RUNNING, "4  RUNNING")]
    system: Any = SimpleNamespace(service=lambda serial: f"icom_listening_{serial}", state=lambda _: states.pop(0))
    _started(system, "4299")
    assert states == []
    monkeypatch.setattr(pushing, "START_SECONDS", 0)
    system.state = lambda _: (STARTING, "  STATE : 2\r\n  START_PENDING")
    with pytest.raises(SetupError, match=r"icom_listening_4299 is installed, but does not run.*says: STATE : 2 START_PENDING"):
        _started(system, "4299")


def test_a_linac_more_a_linac_less_and_a_push_that_broke_off_leave_the_running_one_alone(
    lab: SimpleNamespace, pushed: Callable[..., list[str]]
) -> None:
    one, both = services("4299"), services("4299", "9183")
    pushed(one, wait_seconds=None)
    lab.windows.calls()
    assert "copied" not in pushed(both, wait_seconds=None)[0]
    calls = lab.windows.calls()
    assert [call[2] for call in calls if call[:2] == ["nssm", "install"]] == ["icom_listening_9183"]
    assert [call[2] for call in calls if call[:2] == ["nssm", "start"]] == ["icom_listening_9183"]
    assert (lab.folder / "9183_listening.bat").exists()

    lab.windows.calls()
    said: list[str] = []
    withdraw(lab.gateway, both, "9183", said.append, one, programs(lab.windows), home=lab.home)
    calls = [call[1:3] for call in lab.windows.calls() if call[0] == "nssm" and call[1] != "get"]
    assert calls == [["stop", "icom_listening_9183"], ["remove", "icom_listening_9183"]]
    assert not list(lab.folder.glob("9183*"))
    assert b"9183" not in (lab.folder / "services-install.bat").read_bytes()

    sums = lab.folder / "SHA256SUMS.txt"
    coming = "".join(line for line in sums.read_text().splitlines(True) if "README" not in line)
    (lab.folder / "SHA256SUMS.next.txt").write_text(f"{coming}{'0' * 64} *README.txt\n")
    assert look(lab.gateway, one, programs(lab.windows), home=lab.home).changed == ("README.txt",), "what broke off there"


def test_what_the_host_refuses_is_told(lab: SimpleNamespace, pushed: Callable[..., list[str]]) -> None:
    (lab.windows.tools / "refuse-AppDirectory").touch()
    with pytest.raises(SetupError, match=r"(?s)The installation failed on the host.*NSSM refused: AppDirectory"):
        pushed(services(), wait_seconds=0)


@pytest.mark.parametrize("password", ['a"b & echo PWNED', "ends in \\", "Größe", "two\nlines"])
def test_a_password_that_a_batch_file_cannot_pass_on_is_refused(password: str) -> None:
    with pytest.raises(SetupError, match="a quotation mark") as caught:
        batch.check_password(password)
    assert password not in str(caught.value)


def test_a_newer_program_waits_until_nothing_runs() -> None:
    placed: dict[str, Any] = {}
    files = {"program/a.py": b"new", "program/b.py": b"added", "9183_listening.bat": b"x", "SHA256SUMS.txt": b"..."}
    there = {"program/a.py": "0" * 64, "program/old.py": "1" * 64, "4299_listening.bat": "2" * 64}
    running, starting = ["4299"], list[str]()
    system: Any = SimpleNamespace(
        home="C:\\x",
        found=lambda files: there,
        state=lambda serial: ((RUNNING if serial in running else STARTING if serial in starting else STOPPED), ""),
        in_use=lambda name, serials: PushedWindows.in_use(system, name, serials),
        place=lambda files, changed, gone: placed.update(sums=files["SHA256SUMS.txt"].decode(), changed=changed, gone=gone),
    )
    with pytest.raises(SetupError, match=r"4299_listening\.bat changes, but the service of linac 4299 runs"):
        _pending(system, files, services("4299", "9183"))
    del there["4299_listening.bat"]
    pending = _pending(system, files, services("4299", "9183"))
    assert (pending.changed, pending.gone, pending.stopped) == (("9183_listening.bat",), (), ("9183",))
    assert "3 files of the program wait" in _placed(system, files, pending)
    assert placed["changed"] == ("9183_listening.bat",)
    listed = sums(placed["sums"])
    assert (listed["program/a.py"], listed["program/old.py"], set(listed)) == (
        "0" * 64,
        "1" * 64,
        {"program/a.py", "program/old.py", "9183_listening.bat"},
    )
    running[:], starting[:] = [], ["4299"]
    pending = _pending(system, files, services("4299", "9183"))
    assert (pending.changed, pending.stopped) == (("9183_listening.bat",), ("4299", "9183")), "its program is in use already"
    starting.clear()
    pending = _pending(system, files, services("4299", "9183"))
    assert (set(pending.changed), pending.gone) == ({"program/a.py", "program/b.py", "9183_listening.bat"}, ("program/old.py",))


@pytest.mark.parametrize("home", [r"\\server\share\x", "C:x", "C:\\100%\\x", 'C:\\a"b', "/opt/x"])
def test_a_folder_that_no_command_line_can_name_is_refused(home: str) -> None:
    with pytest.raises(SetupError, match="cannot be the bundle's folder"):
        PushedWindows(None, home)  # type: ignore[arg-type]


def test_a_host_of_the_other_system_is_refused(tmp_path: Path) -> None:
    with SshServer(tmp_path) as server:
        gateway = Gateway(server.host, server.port, server.user, server.host_key, key=server.key_file)
        with pytest.raises(SetupError, match="needs Windows with OpenSSH Server"):
            PushedWindows(gateway, "C:\\x")
