"""Ctrl-C while a command is still being imported ends it quietly, and what is missing is said in a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["linac.index", "linac.trf", "linac.simulator"])
def test_ctrl_c_during_the_imports_prints_no_traceback(name: str, tmp_path: Path, project: Path) -> None:
    """Each imports numpy: here it is where the Ctrl-C arrives."""
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(("name", "package"), [("linac.transport", "paramiko"), ("linac.trf", "numpy")])
def test_a_python_without_the_packages_says_in_one_line_which_to_use(name: str, package: str, project: Path) -> None:
    """-S: without site-packages, as another Python of the computer is."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", name, "--help"], cwd=project, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"no package '{package}'" in line
    assert ".venv" in line


def test_a_module_of_ours_that_is_missing_is_shown_in_full(tmp_path: Path, project: Path) -> None:
    (tmp_path / "numpy.py").write_text("import linac.nothing\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "linac.trf", "--help"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.startswith("Traceback")


def test_another_error_of_the_imports_is_shown_in_full(tmp_path: Path, project: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('broken')\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "linac.trf", "--help"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "RuntimeError: broken" in done.stderr
