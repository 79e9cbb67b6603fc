"""However often an end is asked for, it happens once and in order."""

import os
import signal
import subprocess
import sys
import time

import pytest

STOPPER = """
import sys, time
from launch import ending
ending.end_in_order()
try:
    print("ready", flush=True)
    while not ending.asked():
        time.sleep(0.05)
except KeyboardInterrupt:
    pass
print("stopping", flush=True)
time.sleep({seconds})
ending.say("stopped")
"""

posix = pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console only")


def begun(seconds: float) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPER.format(seconds=seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_any_signal_ends_in_order(name: str) -> None:
    process = begun(0)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("stopping\nstopped\n", "", 0)


@posix
def test_the_same_signal_twice_at_once_is_one_wish() -> None:
    process = begun(0.5)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("stopping\nstopped\n", "")
    assert process.returncode == 0


@posix
def test_a_second_ctrl_c_while_stopping_is_answered_and_cuts_nothing_short() -> None:
    process = begun(2.5)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopping\n"
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out == "stopped\n"
    assert "Still stopping" in err
    assert process.returncode == 0


@posix
def test_a_terminal_that_has_gone_does_not_stop_the_end() -> None:
    process = begun(0.2)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    assert "KeyboardInterrupt" not in process.stderr.read()
    process.wait(20)


@posix
def test_nohup_is_respected() -> None:
    shell = f"trap '' HUP; exec {sys.executable} -c \"$0\""
    process = subprocess.Popen(["sh", "-c", shell, STOPPER.format(seconds=0)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "stopping\nstopped\n"
