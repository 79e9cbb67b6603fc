"""`python -m linac.icom listen` and `status`: in place of `pymedphys icom listen`."""

import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.capture import archive, cli, control, follower
from linac.capture.log import Log
from linac.capture.spool import Spool
from linac.errors import LinacError
from linac.transport.paths import LocalFolder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows knows no signals between processes that let code run")

ROOT = Path(control.__file__).parents[2]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "linac.icom", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)


@pytest.fixture
def listen(spool: Path, peer: Any, tmp_path: Path) -> Iterator[Any]:
    """Starts `listen` against the peer; ends it at the end."""
    running: list[subprocess.Popen[str]] = []
    (tmp_path / "icom").mkdir()

    def start(*more: str) -> "subprocess.Popen[str]":
        command = ["listen", "127.0.0.1", str(tmp_path / "icom"), "--port", str(peer.port), "--spool", str(spool), *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "linac.icom", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_it_makes_the_folders_of_pymedphys_and_ends_in_order(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    command = listen("--serial", "4299")
    peer.wait()
    one, two = lab.session("0123456789", 20), lab.session("TEST-2", 20, first=20, name="Jörg^Nobody")
    peer.send(*one, *two, *lab.idle(4, 40))
    icom = tmp_path / "icom"
    lab.wait_for(lambda: len(list(icom.glob("patients/*/*.xz"))) == 2)
    lab.wait_for(lambda: (icom / "live/127.0.0.1/042.txt").exists())
    assert (icom / "live/127.0.0.1/042.txt").read_bytes() == lab.message(42)
    found = {path.parent.name: lzma.decompress(path.read_bytes()) for path in icom.glob("patients/*/*.xz")}
    assert found == {"0123456789_Nobody, At All": b"".join(one), "TEST-2_Jörg, Nobody": b"".join(two)}
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 44)
    shown = run("status", "--spool", str(spool))
    assert shown.returncode == 0
    assert "messages         44" in shown.stdout
    assert "connected since  20" in shown.stdout
    command.send_signal(signal.SIGTERM)
    out, _ = command.communicate(timeout=15)
    assert command.returncode == 0
    lab.wait_for(lambda: peer.endings == {0: "fin"})
    assert not control.is_running(spool, "4299")
    assert "archived: session of 20240506_121314, 20 messages, 19.0 MU, 0 gaps" in out
    for text in (out, (spool / "4299" / "listener.log").read_text(), shown.stdout):
        assert "0123456789" not in text
        assert "Nobody" not in text
        assert "TEST-2" not in text
    shown = run("status", "--spool", str(spool), "--serial", "4299")
    assert shown.returncode == 1
    assert "not running" in shown.stdout


def test_killed_and_started_again_it_adopts_the_listener_and_loses_nothing(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    first = listen()  # without a serial the address names the spool's folder
    peer.wait()
    treated = lab.session("TEST-1", 40)
    peer.send(*treated[:10])
    lab.wait_for(lambda: (status := control.status(spool, "127.0.0.1")) and status.messages == 10)
    first.kill()
    first.wait()
    peer.send(*treated[10:20])
    second = listen()
    peer.send(*treated[20:], *lab.idle(3, 40))
    lab.wait_for(lambda: archive.sessions(spool, "127.0.0.1"))
    [path] = (tmp_path / "icom").glob("patients/*/*.xz")
    assert lzma.decompress(path.read_bytes()) == b"".join(treated)
    assert [line.gaps for line in archive.sessions(spool, "127.0.0.1")] == [0]
    assert len(peer.connections) == 1
    second.send_signal(signal.SIGINT)
    assert second.wait(15) == 0


def test_it_starts_a_listener_that_died_again(listen: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    listen("--serial", "4299")
    peer.wait()
    peer.send(lab.message(0))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 1)
    status = control.status(spool, "4299")
    assert status is not None
    os.kill(status.pid, signal.SIGTERM)
    peer.wait(1, timeout=15)


def test_only_listening(listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace) -> None:
    command = listen("--no-archive", "--serial", "4299")
    peer.wait()
    peer.send(*lab.session("TEST-1", 5), *lab.idle(3, 5))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 8 and status.pid == command.pid)
    command.send_signal(signal.SIGTERM)
    assert command.wait(10) == 0
    assert list((tmp_path / "icom").iterdir()) == []


def test_a_second_one_for_another_address_is_refused(listen: Any, peer: Any, spool: Path, tmp_path: Path) -> None:
    listen("--serial", "4299")
    peer.wait()
    second = run("listen", "192.0.2.1", str(tmp_path / "icom"), "--serial", "4299", "--spool", str(spool))
    assert second.returncode == 3
    assert "is already recorded" in second.stderr


def test_a_second_one_is_refused_while_the_first_lives_and_nothing_happens_to_the_first(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    first = listen("--serial", "4299")
    peer.wait()
    peer.send(lab.message(0))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 1)
    where = ["listen", "127.0.0.1", str(tmp_path / "icom"), "--port", str(peer.port), "--spool", str(spool)]
    for more in (["--serial", "4299"], ["--serial", "4299", "--no-archive"]):
        second = run(*where, *more)
        assert second.returncode == 3
        assert f"already recorded with the spool {spool}, by process {first.pid} (listen)" in second.stderr
    other = run(*where)
    assert other.returncode == 3
    assert "already listens to 127.0.0.1" in other.stderr
    assert [path.name for path in spool.iterdir()] == ["4299"], "a refused one leaves nothing behind"
    assert peer.endings == {}
    assert len(peer.connections) == 1
    assert control.is_running(spool, "4299")


def test_a_run_that_follows_keeps_a_command_out_and_a_crash_lets_it_in(
    listen: Any, peer: Any, spool: Path, tmp_path: Path
) -> None:
    run_of_a_flow = follower.Follower(spool, "4299", follower.RUN)
    assert run_of_a_flow.acquire()
    second = run(
        "listen", "127.0.0.1", str(tmp_path / "icom"), "--port", str(peer.port), "--spool", str(spool), "--serial", "4299"
    )
    assert second.returncode == 3
    assert f"by process {os.getpid()} (flow run)" in second.stderr
    run_of_a_flow.release()
    listen("--serial", "4299")
    peer.wait()


def of_a_killed_run(spool: Path, port: int, target: Path) -> "follower.Follower":
    """The listener of a flow run that archived to `target` and was killed."""
    run_of_a_flow = follower.Follower(spool, "4299", follower.RUN, str(target))
    assert run_of_a_flow.acquire()
    control.start("4299", "127.0.0.1", port, spool)
    run_of_a_flow.release()
    return run_of_a_flow


def test_a_flow_runs_listener_is_not_archived_to_another_folder(peer: Any, spool: Path, tmp_path: Path) -> None:
    left = of_a_killed_run(spool, peer.port, tmp_path / "records" / "iCom")
    peer.wait()
    (tmp_path / "other").mkdir()
    where = ["listen", "127.0.0.1", str(tmp_path / "other"), "--port", str(peer.port), "--spool", str(spool), "--serial", "4299"]
    refused = run(*where)
    assert refused.returncode == 3
    assert f"archives to {tmp_path / 'records' / 'iCom'}, not to {tmp_path / 'other'}" in refused.stderr
    assert "cancel icom-capture/4299" in refused.stderr
    assert control.is_running(spool, "4299")
    assert peer.endings == {}
    assert left.acquire(), "the next run has its place"
    left.forget()
    left.release()
    assert follower.Follower(spool, "4299", follower.COMMAND, str(tmp_path / "other")).acquire(), "as the message says"


def test_a_command_that_archives_for_a_flow_run_leaves_its_listener_running(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    of_a_killed_run(spool, peer.port, tmp_path / "icom")
    peer.wait()
    peer.send(*lab.session("TEST-1", 12), *lab.idle(3, 12))
    first = listen("--serial", "4299")
    lab.wait_for(lambda: len(list((tmp_path / "icom").glob("patients/*/*.xz"))) == 1)
    first.kill()
    first.wait()
    second = listen("--serial", "4299")
    lab.wait_for(lambda: (holder := follower.follower_of(spool, "4299")) and holder.pid == second.pid)
    second.send_signal(signal.SIGTERM)
    out, _ = second.communicate(timeout=15)
    assert second.returncode == 0
    assert "it is the listener of icom-capture/4299" in out
    assert "records on" in out
    assert control.is_running(spool, "4299")
    assert peer.endings == {}


def test_a_commands_listener_stays_that_when_a_flow_run_took_it_over(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    """A service that comes back to it may archive where it always did, and ends it."""
    first = listen("--serial", "4299")
    peer.wait()
    first.kill()
    first.wait()
    run_of_a_flow = follower.Follower(spool, "4299", follower.RUN, str(tmp_path / "records" / "iCom"))
    assert run_of_a_flow.acquire()
    run_of_a_flow.release()
    second = listen("--serial", "4299")
    lab.wait_for(lambda: (holder := follower.follower_of(spool, "4299")) and holder.pid == second.pid)
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.connected)
    second.send_signal(signal.SIGTERM)
    assert second.wait(15) == 0
    assert not control.is_running(spool, "4299")


def test_a_listener_whose_command_was_killed_and_is_not_started_again_is_told(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    first = listen("--serial", "4299")
    peer.wait()
    peer.send(*lab.session("TEST-1", 12))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 12 and status.backlog_bytes)
    said = Spool(spool, "4299").follower
    long_ago = time.time() - 2 * follower.GRACE_SECONDS
    os.utime(said, (long_ago, long_ago))
    assert run("status", "--spool", str(spool)).returncode == 0, "it lives"
    lab.wait_for(lambda: time.time() - said.stat().st_mtime < 60, 30, "its sign of life")
    first.kill()
    first.wait()
    assert run("status", "--spool", str(spool)).returncode == 0, "its service starts it again"
    os.utime(said, (long_ago, long_ago))
    shown = run("status", "--spool", str(spool))
    assert shown.returncode == 1
    assert "ATTENTION        not archived since 20" in shown.stdout
    assert "Nobody archives what is recorded. Start `listen` again, or run icom-capture/4299." in shown.stdout
    second = listen("--serial", "4299")
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and not status.archive_trouble)
    second.send_signal(signal.SIGTERM)
    assert second.wait(15) == 0


def test_one_that_joins_a_listener_of_its_own_archives_and_leaves_it_running(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    listen("--no-archive", "--serial", "4299")
    peer.wait()
    second = listen("--serial", "4299")
    peer.send(*lab.session("TEST-1", 12), *lab.idle(3, 12))
    lab.wait_for(lambda: len(list((tmp_path / "icom").glob("patients/*/*.xz"))) == 1)
    second.send_signal(signal.SIGTERM)
    out, _ = second.communicate(timeout=15)
    assert second.returncode == 0
    assert "records on" in out
    assert control.is_running(spool, "4299")
    assert peer.endings == {}


def test_the_time_between_two_listeners_is_told(listen: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    def has_come(number: int) -> None:
        peer.wait(number, timeout=20)
        peer.send(lab.message(number), number=number)
        lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.connected and status.messages, timeout=20)

    first = listen("--serial", "4299")
    has_come(0)
    assert "none in the last 24 h" in run("status", "--spool", str(spool)).stdout
    first.send_signal(signal.SIGTERM)
    assert first.wait(15) == 0
    listen("--serial", "4299")
    has_come(1)
    shown = run("status", "--spool", str(spool)).stdout
    assert "losses           1 since" in shown
    assert "interruptions    1 in the last 24 h" in shown
    assert "stopped" in shown
    status = control.status(spool, "4299")
    assert status is not None
    os.kill(status.pid, signal.SIGKILL)
    has_come(2)
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and len(status.lately()) == 2)
    status = control.status(spool, "4299")
    assert status is not None
    assert "killed" in status.lately()[-1].reason


def test_a_folder_that_hangs_is_told_at_the_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    archiver = SimpleNamespace(run_once=lambda: over.wait(20) and [], warnings=[], close=lambda: None)
    log = Log()
    archiving = cli._Archiving(archiver, log)  # type: ignore[arg-type]
    monkeypatch.setattr(cli, "PATIENCE_SECONDS", 0.2)
    archiving.start()
    archiving.end(0.5)
    over.set()
    log.close()
    out = capsys.readouterr().out
    assert "waiting for the iCom folder" in out
    assert "does not answer; what is not archived waits in the journal" in out


def test_a_folder_that_hangs_is_told_while_it_does(
    capsys: pytest.CaptureFixture[str], spool: Path, tmp_path: Path, lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HANGING_SECONDS", 0.3)
    over = threading.Event()
    archiver = archive.Archiver(spool, "4299", "127.0.0.1", LocalFolder(tmp_path), ready=lambda: over.wait(20) and None)
    log = Log()
    archiving = cli._Archiving(archiver, log)
    archiving.start()
    try:
        lab.wait_for(archiver.hanging)
        archiving.look()
        archiving.look()
        trouble, _ = control._archive_trouble(Spool(spool, "4299"))
        assert "does not answer" in trouble
    finally:
        over.set()
    lab.wait_for(lambda: control._archive_trouble(Spool(spool, "4299")) == ("", None))
    archiving.end(5)
    log.close()
    out = capsys.readouterr().out
    assert out.count("ATTENTION, not archived: The iCom folder") == 1
    assert "archiving works again" in out


def test_lines_that_differ_in_their_numbers_only_are_not_told_every_second(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    archiving = cli._Archiving(SimpleNamespace(), log)  # type: ignore[arg-type]
    for left in range(20, 10, -1):
        archiving.say(f"only {left} MB left")
    archiving.say("something else")
    log.close()
    assert [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()] == ["only 20 MB left", "something else"]


def test_what_cannot_be_written_is_told_counted_and_an_exit_code(
    listen: Any, peer: Any, spool: Path, lab: SimpleNamespace
) -> None:
    command = listen("--serial", "4299")
    peer.wait()
    treated = lab.session("TEST-1", 20)
    peer.send(*treated[:10])
    journal = spool / "4299" / "journal"
    lab.wait_for(lambda: sum(path.stat().st_size for path in journal.iterdir()) > len(b"".join(treated[:10])))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 10)
    assert run("status", "--spool", str(spool)).returncode == 0
    time.sleep(1.5)  # what is there is safe
    shutil.rmtree(journal)
    journal.write_text("in the way")
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.losing)
    peer.send(*treated[10:])
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 20)
    shown = run("status", "--spool", str(spool))
    assert shown.returncode == 1
    assert "ATTENTION        NOTHING IS BEING WRITTEN: the journal" in shown.stdout
    assert f"not written      {len(b''.join(treated[10:])) / 1e6:.2f} MB wait in memory, 0.00 MB are lost" in shown.stdout
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=20)
    assert command.returncode == 1
    lost = len(b"".join(treated[10:]))
    assert f"ATTENTION, the last {lost} bytes from the linac could not be written and are lost" in out
    assert "listener: connected to 127.0.0.1" in out
    assert "listener: NOTHING IS BEING WRITTEN: the journal in" in out
    assert f"listener: ATTENTION, the journal could not be completed, the last {lost} bytes from the linac are lost" in out
    assert "lost: the spool's disk cannot be written to." in out
    assert "TEST-1" not in out
    lab.wait_for(lambda: peer.endings == {0: "fin"})


def test_ctrl_c_during_the_imports_is_no_traceback() -> None:
    code = (
        "import runpy, sys, builtins\n"
        "import linac.icom\n"
        "chosen = sys.argv[1]\n"
        "real = builtins.__import__\n"
        "def slow(name, *rest, **more):\n"
        "    if name == chosen: raise KeyboardInterrupt\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = slow\n"
        "sys.argv[1:] = ['status']\n"
        "runpy.run_module('linac.icom', run_name='__main__')\n"
    )
    for module in ("argparse", "linac.capture"):
        done = subprocess.run([sys.executable, "-c", code, module], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert done.returncode == 130, done
        assert "Traceback" not in done.stderr


def test_a_status_without_any_listener(spool: Path) -> None:
    shown = run("status", "--spool", str(spool))
    assert shown.returncode == 1
    assert "no listener has run" in shown.stdout
    assert run("status", "--spool", str(spool), "--serial", "4299").returncode == 1


def test_a_folder_that_is_not_there_is_told_and_never_made_and_what_waits_arrives_later(
    listen: Any, peer: Any, spool: Path, tmp_path: Path, lab: SimpleNamespace
) -> None:
    icom = tmp_path / "icom"
    icom.rmdir()
    command = listen("--serial", "4299")
    peer.wait()
    peer.send(*lab.session("TEST-1", 20), *lab.idle(4, 20))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.archive_trouble and status.messages == 24)
    shown = run("status", "--spool", str(spool))
    assert "ATTENTION        not archived since" in shown.stdout
    assert "TEST-1" not in shown.stdout
    assert not icom.exists()
    icom.mkdir()
    lab.wait_for(lambda: len(list(icom.glob("patients/*/*.xz"))) == 1, 20)
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and not status.archive_trouble)
    command.send_signal(signal.SIGTERM)
    out, _ = command.communicate(timeout=15)
    assert "ATTENTION, not archived" in out
    assert "waits in the spool" in out
    assert "archiving works again" in out
    assert "1 archived in the last 24 h, in them 0 gaps" in run("status", "--spool", str(spool)).stdout


def test_a_folder_that_is_not_there_stays_told_while_nothing_comes(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only every few seconds is it looked at then; in between it does not count as back."""
    monkeypatch.setattr(archive, "LOOK_SECONDS", 0.3)
    folder = LocalFolder(tmp_path / "icom")
    archiver = archive.Archiver(spool, "4299", "127.0.0.1", folder, ready=lambda: cli._require(folder))
    for pause in (0.0, 0.0, 0.4, 0.0):
        time.sleep(pause)
        with pytest.raises(LinacError, match="is not there"):
            archiver.run_once()
    assert "is not there" in control._archive_trouble(Spool(spool, "4299"))[0]
    folder.path.write_text("somebody's")
    time.sleep(0.4)
    with pytest.raises(LinacError, match="is a file"):
        archiver.run_once()
    folder.path.unlink()
    folder.path.mkdir()
    time.sleep(0.4)
    assert archiver.run_once() == []
    assert control._archive_trouble(Spool(spool, "4299")) == ("", None)


def test_status_can_be_watched(listen: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    listen("--serial", "4299")
    peer.wait()
    command = [sys.executable, "-u", "-m", "linac.icom", "status", "--spool", str(spool), "--watch"]
    watching = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        while "last said" not in watching.stdout.readline():
            pass
        time.sleep(1.0)
        peer.reset()
        lines = iter(watching.stdout.readline, "")
        assert any("disconnected" in line for line in lines), "log lines as they come"
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) in (0, 1)


@pytest.mark.skipif(os.name == "nt", reason="rights are inherited there")
def test_nobody_else_can_look_into_the_spool(listen: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    listen("--serial", "4299")
    peer.wait()
    peer.send(*lab.session("TEST-1", 20), *lab.idle(4, 20))
    lab.wait_for(lambda: archive.sessions(spool, "4299"))
    for path in (spool, *(spool / "4299").rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
