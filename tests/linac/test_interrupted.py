"""Ctrl-C while a command is still being imported ends it quietly."""

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
