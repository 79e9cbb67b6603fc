"""run.py, which must work before anything is installed: what it refuses, what it installs, what it leaves alone."""

import ast
import subprocess
import sys
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

    def __call__(self, command: list[str], **_options: object) -> "subprocess.CompletedProcess[bytes]":
        self.calls.append(command)
        return subprocess.CompletedProcess(command, self.returncode, stdout=b"no such package")


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
    monkeypatch.setattr(run.subprocess, "run", pip)
    assert run.install() is None
    assert len(pip.calls) == 2
    assert run.install() is None
    assert len(pip.calls) == 2


def test_changed_pins_install_again(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_venv(monkeypatch)
    pip = Pip()
    monkeypatch.setattr(run.subprocess, "run", pip)
    run.install()
    (clone / "requirements.txt").write_text("prefect==3.8.8\n")
    assert run.install() is None
    assert len(pip.calls) == 4


def test_an_install_cut_short_starts_over(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_venv(monkeypatch)
    monkeypatch.setattr(run.subprocess, "run", Pip(returncode=1))
    problem = run.install()
    assert problem is not None
    assert "no such package" in problem
    assert not run.STAMP.exists()
    pip = Pip()
    monkeypatch.setattr(run.subprocess, "run", pip)
    assert run.install() is None
    assert len(pip.calls) == 2


def test_an_environment_of_another_python_is_made_anew(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_venv(monkeypatch)
    (clone / ".venv").mkdir()
    (clone / ".venv" / "pyvenv.cfg").write_text("version = 3.9.1\n")
    (clone / ".venv" / "old").write_text("")
    monkeypatch.setattr(run.subprocess, "run", Pip())
    assert run.install() is None
    assert not (clone / ".venv" / "old").exists()


def test_the_pins_name_no_download_address(project: Path) -> None:
    pins = (project / "requirements.txt").read_text(encoding="utf-8")
    assert "://" not in pins
    assert "prefect==3.8.8" in pins
    assert "--index" not in pins
