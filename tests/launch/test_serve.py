"""`python run.py serve`: what it refuses, and that whenever it is told to end it leaves nothing running."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import serve
from launch.processes import start_of
from launch.stack import free_port


@pytest.mark.parametrize("port", ["0", "99999", "-1", "http"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        serve._options(["--port", port])
    assert caught.value.code == 2
    assert "a port is a number from 1 to 65535" in capsys.readouterr().err


def started(data: Path, port: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "launch.serve", "--port", str(port), "--data", str(data)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_data_folder_that_is_a_file_is_refused(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (tmp_path / "file").write_text("")
    process = started(tmp_path / "file", free_port())
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "cannot be used" in out
    assert "Traceback" not in out


def children(data: Path, least: int, seconds: float = 90.0) -> list[tuple[str, int, str]]:
    """Server and worker, once so many of them are there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            found = [(name, pid, start) for name, pid, start in json.loads((data / "serve.json").read_text())["children"]]
        except OSError:
            found = []
        if len(found) >= least:
            return found
        time.sleep(0.1)
    raise AssertionError(f"serve did not start {least} children in {seconds:.0f} s")


def wait_for_port(port: int, seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing answers at port {port} after {seconds:.0f} s")


@pytest.mark.skipif(os.name == "nt", reason="sends signals to one process")
def test_told_to_end_while_it_starts_then_killed_it_leaves_nothing_running_and_forgets_no_recording(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    data, port = tmp_path / "data", free_port()
    data.mkdir()
    (data / "captures.json").write_text('["4299"]')
    process = started(data, port)
    first = children(data, least=1)
    process.send_signal(signal.SIGTERM)  # the server is just coming up
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "Traceback" not in out
    assert out.endswith("Stopped.\n")
    assert not any(start_of(pid) == start for _, pid, start in first)
    assert json.loads((data / "captures.json").read_text()) == ["4299"]

    process = started(data, port)  # on the same port
    first = children(data, least=1)
    wait_for_port(port)
    process.kill()
    process.wait(10)
    again = started(data, port)  # at once: the killed one's server may still be there, with its port
    second = children(data, least=1)
    while second == first:
        time.sleep(0.1)
        second = children(data, least=1)
    assert not any(start_of(pid) == start for _, pid, start in first)
    again.send_signal(signal.SIGINT)
    assert again.communicate(timeout=60)[0].endswith("Stopped.\n")
    assert not any(start_of(pid) == start for _, pid, start in second)
