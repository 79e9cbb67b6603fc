"""run.py, which must work before anything is installed: what it refuses, what it installs, what it leaves alone."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with pins that install nothing, so that installing is quick and needs no network."""
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(run, "PROJECT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "STAMP", tmp_path / ".venv" / "linac-flows.installed")
    return tmp_path


class Pip:
    """Stands for the pip runs: what was asked for, and whether it goes well."""

    def __init__(self, returncode: int = 0) -> None:
        self.calls: list[list[str]] = []
        self.returncode = returncode

    def __call__(self, what: list[str]) -> tuple[int, str]:
        self.calls.append(what)
        return self.returncode, "no such package"


def fake_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the virtual environment's skeleton only: the real one takes seconds."""
    import venv

    def create(_self: object, folder: Path) -> None:
        run.venv_python().parent.mkdir(parents=True)
        run.venv_python().write_text("")
        (folder / "pyvenv.cfg").write_text(f"version = {sys.version_info[0]}.{sys.version_info[1]}.0\n")

    monkeypatch.setattr(venv.EnvBuilder, "create", create)


def test_it_imports_the_standard_library_only(project: Path) -> None:
    tree = ast.parse((project / "run.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 14, 0)])
def test_an_unfit_python_is_refused_with_the_way_out(
    version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.sys, "version_info", version)
    assert run.main(["demo"]) == 1
    assert "python3.13 run.py demo" in capsys.readouterr().err


def test_without_a_command_it_tells_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([]) == 2
    assert run.main(["--help"]) == 0
    assert "python run.py demo" in capsys.readouterr().out
    assert run.main(["dmeo"]) == 1
    assert "no command 'dmeo'" in capsys.readouterr().err


def test_a_second_start_does_not_install_again(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_venv(monkeypatch)
    pip = Pip()
    monkeypatch.setattr(run, "pip", pip)
    assert run.install() is None
    assert len(pip.calls) == 2
    assert run.install() is None
    assert len(pip.calls) == 2


def test_changed_pins_install_again(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_venv(monkeypatch)
    pip = Pip()
    monkeypatch.setattr(run, "pip", pip)
    run.install()
    (clone / "requirements.txt").write_text("prefect==3.8.8\n")
    assert run.install() is None
    assert len(pip.calls) == 4


def test_an_install_cut_short_starts_over(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_venv(monkeypatch)
    monkeypatch.setattr(run, "pip", Pip(returncode=1))
    problem = run.install()
    assert problem is not None
    assert "no such package" in problem
    assert not run.STAMP.exists()
    pip = Pip()
    monkeypatch.setattr(run, "pip", pip)
    assert run.install() is None
    assert len(pip.calls) == 2


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found",
            "cannot be reached",
        ),
        ("ERROR: Cannot connect to proxy. ProxyError('407 Proxy Authentication Required')", "global.proxy"),
        ("SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'))\nERROR: No matching distribution", "global.cert"),
        ("ERROR: Could not find a version that satisfies the requirement prefect==3.8.8 (from versions: 3.7)", "64-bit Python"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: [WinError 5] Access is denied: 'python311.dll'", "in use"),
        ("ERROR: something new", "What pip says above"),
    ],
)
def test_a_failure_of_pip_comes_with_what_to_do_about_it(said: str, advice: str) -> None:
    assert advice in run.advice_on(said)


def test_an_environment_of_another_python_is_made_anew(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_venv(monkeypatch)
    (clone / ".venv").mkdir()
    (clone / ".venv" / "pyvenv.cfg").write_text("version = 3.9.1\n")
    (clone / ".venv" / "old").write_text("")
    monkeypatch.setattr(run, "pip", Pip())
    assert run.install() is None
    assert not (clone / ".venv" / "old").exists()


def test_the_pins_name_no_download_address(project: Path) -> None:
    pins = (project / "requirements.txt").read_text(encoding="utf-8")
    assert "://" not in pins
    assert "prefect==3.8.8" in pins
    assert "--index" not in pins


HANDED_TO = '''
"""A module that is handed over to: it counts how often it is interrupted."""
import sys, time
print("begun", *sys.argv[1:], flush=True)
for _ in range(3):
    try:
        time.sleep(1.5)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
sys.exit(7)
'''


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console only")
@pytest.mark.parametrize("whom", ["the process", "its group, as a terminal does"])
def test_an_interrupt_reaches_the_command_once_whoever_sends_it(project: Path, tmp_path: Path, whom: str) -> None:
    (tmp_path / "handed_to.py").write_text(HANDED_TO)
    code = "import run, sys\nfrom pathlib import Path\nrun.venv_python = lambda: Path(sys.executable)\n"
    code += "sys.exit(run.hand_over('handed_to', ['--keep', 'two words']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun --keep two words\n"
    time.sleep(0.2)
    if whom == "the process":
        process.send_signal(signal.SIGINT)
    else:
        os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "interrupted\n"
    assert process.returncode == 7


def test_what_pip_says_comes_back_with_its_exit_code(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "venv_python", lambda: Path(sys.executable))
    code, said = run.pip(["--no-index", "a-package-that-nobody-has"])
    assert code == 1
    assert "No matching distribution" in said
    assert "no such version" in run.advice_on(said)
