"""Children that do not outlive us, and the one of an earlier start that did: found by number and time, ended, never mistaken."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch import processes
from launch.processes import Child, end_stranger, start_of

PARENT = """
import os, sys, time
from pathlib import Path
from launch.processes import Child
child = Child("waiter", {module!r}, Path({log!r}), dict(os.environ))
print(child.process.pid, flush=True)
time.sleep(60)
"""

WAITER = '''
"""A program of the test's own."""
import sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(" ".join(sys.argv[1:]))
try:
    time.sleep(60)
except KeyboardInterrupt:
    Path(sys.argv[1]).write_text("ended in order")
'''


@pytest.fixture
def waiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A module that says that it runs, and how it ended, in the file that is its first argument."""
    (tmp_path / "waiter_of_the_test.py").write_text(WAITER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return ["waiter_of_the_test", str(tmp_path / "said"), "-x", "two words"]


def wait(what: str, condition: Callable[[], object], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def said(waiter: list[str]) -> str:
    return Path(waiter[1]).read_text() if Path(waiter[1]).exists() else ""


def test_a_child_gets_its_arguments_and_ends_in_order(waiter: list[str], tmp_path: Path) -> None:
    child = Child("waiter", waiter, tmp_path / "logs" / "log", dict(os.environ))
    wait("running", lambda: said(waiter))
    assert said(waiter) == " ".join(waiter[1:])
    assert not child.ended()
    child.end()
    assert child.ended()
    assert said(waiter) == "ended in order"
    child.end()  # twice does no harm


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_child_ends_by_itself_and_in_order_when_its_parent_is_killed(waiter: list[str], tmp_path: Path, how: str) -> None:
    code = PARENT.format(module=waiter, log=str(tmp_path / "log"))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait("running", lambda: said(waiter))
    parent.send_signal(getattr(signal, how, signal.SIGTERM))
    parent.wait(10)
    wait("ended in order", lambda: said(waiter) == "ended in order")
    wait("gone", lambda: not start_of(pid))
    assert f"{parent.pid} that started this one has gone" in (tmp_path / "log").read_text()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal that a process can ignore there")
def test_a_deaf_child_is_ended_with_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    deaf += "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    deaf += "open(sys.argv[1], 'w').write(str(inner.pid))\ntime.sleep(60)\n"
    (tmp_path / "deaf_of_the_test.py").write_text(deaf)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("deaf", ["deaf_of_the_test", str(tmp_path / "said")], tmp_path / "log", dict(os.environ))
    wait("running", lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text())
    inner = int((tmp_path / "said").read_text())
    assert start_of(inner)
    child.end(0.5)
    assert child.ended()
    wait("its child gone, too", lambda: not start_of(inner), 5)


def test_a_process_of_an_earlier_start_is_known_by_its_number_and_its_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **processes.own_group())
    started = start_of(process.pid)
    try:
        assert started
        assert start_of(process.pid) == started
        assert end_stranger(process.pid, "another time"), "that process has gone: its number is another's now"
        assert process.poll() is None, "and the other is left alone"
    finally:
        assert end_stranger(process.pid, started)
        process.wait(10)
    assert start_of(process.pid) == ""
    assert start_of(2**22 + 5) == ""
