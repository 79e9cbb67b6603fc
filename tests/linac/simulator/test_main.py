"""`python -m linac.simulator`: a parent process can wait for it, watch it, and end it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linac.icom import MessageStream
from linac.simulator.__main__ import main

ROOT = Path(__file__).parents[3]


def start(*arguments: str) -> "subprocess.Popen[str]":
    flags = subprocess.CREATE_NEW_PROCESS_GROUP if os.name == "nt" else 0
    command = [sys.executable, "-m", "linac.simulator", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8", creationflags=flags)


def test_ready_watch_and_end(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    backup = tmp_path / "TCS"
    simulator = start(
        *("--serial", "4711", "--machine-id", "4712", "--port", "0", "--speed", "40", "--delay", "0.6", "--mu", "10"),
        *("--sessions", "2", "--beams", "1", "--backup", str(backup), "--logs-per-day", "1", "--status", str(status)),
    )
    try:
        assert simulator.stdout is not None
        lines = []
        while not lines or not lines[-1].startswith("ready: "):
            lines.append(simulator.stdout.readline())
            assert lines[-1], "it ended before it was ready"
        assert [line.split(":")[0] for line in lines] == ["backup written", "backup written", "ready"]
        assert len(list(backup.glob("SDD+4711+*.zip"))) == 2
        host, port = lines[-1].removeprefix("ready: iCom on ").strip().split(":")
        stream, machines = MessageStream(), set()
        with socket.create_connection((host, int(port)), timeout=20) as peek:  # a check, which no patient should begin for
            peek.recv(1000)
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                for message in stream.feed(connection.recv(65536)):
                    machines.add(message.get("Machine ID"))
                known = json.loads(status.read_text(encoding="utf-8")) if status.exists() else {"sessions": []}
                if [session["state"] for session in known["sessions"]] == ["ended", "ended"]:
                    break
            simulator.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGTERM)
            while connection.recv(65536):  # until its FIN
                pass
        rest = simulator.stdout.read()
        assert simulator.wait(10) == 0
    finally:
        simulator.kill()
        simulator.wait(10)
    assert machines == {"4712"}
    assert [session["delivered_mu"] for session in known["sessions"]] == [10.0, 10.0]
    assert [session["messages_sent"] for session in known["sessions"]] == [session["messages"] for session in known["sessions"]]
    assert (known["connections"], known["received_bytes"]) == (2, 0)
    assert "a client is connected" in rest
    assert "patient session 2 has ended: 10.0 of 10.0 MU" in rest
    assert "TEST" not in rest
    assert json.loads(status.read_text(encoding="utf-8"))["state"] == "ended"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["TCS", "status.json"]


def test_a_port_that_is_taken_ends_it_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGINT", "SIGTERM")}
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            assert main(["--port", str(taken.getsockname()[1])]) == 1
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
    assert "choose another port" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_ends_it_with_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGINT", "SIGTERM")}
    (tmp_path / "file").write_text("not a folder")
    try:
        assert main(["--port", "0", "--backup", str(tmp_path / "file")]) == 1
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
    assert "Check the path" in capsys.readouterr().err


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "fast"])
def test_a_speed_that_cannot_be_is_refused(speed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--port", "0", "--speed", speed])
    assert ended.value.code == 2
    assert "greater than 0" in capsys.readouterr().err


def test_logs_without_a_backup_to_put_them_into_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--port", "0", "--trf", str(tmp_path)])
    assert "--backup DIR" in capsys.readouterr().err
