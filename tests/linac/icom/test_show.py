"""`python -m linac.icom show`: says what is in a recording; the patient only when asked."""

import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from linac.icom.__main__ import main


@pytest.fixture
def recording(tmp_path: Path, treating: Callable[..., bytes]) -> Path:
    path = tmp_path / "20240506_121314.xz"
    messages = [treating(i, 0.5 * i) for i in range(20)]
    del messages[10]
    path.write_bytes(lzma.compress(b"".join(messages) + b"tail"))
    return path


def test_summary(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(recording)]) == 0
    shown = capsys.readouterr().out
    assert "19 messages, 2024-05-06 12:13:14 to 2024-05-06 12:13:18" in shown
    assert "machine 4299, 1 patient(s)" in shown
    assert "9.50 MU delivered over 19 control points, gantry from -180.0 to -170.5 deg" in shown
    assert "1 place(s) where the counter does not follow: 9 at 2024-05-06 12:13:16 to 11 at" in shown
    assert "4 bytes belong to no message" in shown
    assert "TEST" not in shown
    assert "Simulated" not in shown


def test_identity_and_items_when_asked(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--identity", "--items", str(recording)]) == 0
    shown = capsys.readouterr().out
    assert "Patient ID: TEST-0001" in shown
    assert "Patient Name: Simulated^Patient" in shown
    assert "(300A,011E) DS R       19 x  Gantry" in shown
    assert "(300A,011C) DS R     3116 x" in shown


def test_a_live_file_and_what_cannot_be_read(
    recording: Path, treating: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    live, cut, other = recording.with_name("041.txt"), recording.with_name("cut.xz"), recording.with_name("other.txt")
    live.write_bytes(treating(41, 1.0))
    cut.write_bytes(recording.read_bytes()[:-20])
    other.write_bytes(b"something else")
    missing = recording.with_name("missing.xz")
    assert main(["show", *map(str, (missing, cut, other, live))]) == 1
    shown = capsys.readouterr()
    assert "missing.xz cannot be read" in shown.err
    assert "cut.xz is no .xz file, or a damaged one" in shown.err
    assert "no iCom message in 14 bytes" in shown.out
    assert "1 messages" in shown.out


def test_it_runs_on_a_bare_python(recording: Path) -> None:
    """`-S` leaves out site-packages: nothing but the standard library may be needed."""
    command = [sys.executable, "-S", "-m", "linac.icom", "show", str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3], check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "19 messages" in done.stdout
