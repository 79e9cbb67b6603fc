"""Start, adopt, watch, stop: never two, never by name, and always in order."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.capture import control
from linac.capture.lock import EndpointLock, FileLock, is_held
from linac.errors import AlreadyRunningError, SetupError, StorageError


def test_start_adopt_status_stop(spool: Path, peer: Any, lab: SimpleNamespace) -> None:
    assert control.status(spool, "4299") is None
    assert not control.is_running(spool, "4299")
    first = control.start("4299", "127.0.0.1", peer.port, spool)
    assert not first.adopted
    assert control.is_running(spool, "4299")
    peer.wait()
    second = control.start("4299", "127.0.0.1", peer.port, spool)
    assert (second.adopted, second.pid) == (True, first.pid)
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.connected)
    began = time.monotonic()
    assert control.stop(spool, "4299")
    assert time.monotonic() - began < 3
    lab.wait_for(lambda: peer.endings)
    assert peer.endings == {0: "fin"}
    assert len(peer.connections) == 1
    assert not control.is_running(spool, "4299")
    assert not (spool / "4299" / "stop").exists()
    status = control.status(spool, "4299")
    assert status is not None
    assert not status.running
    assert status.state == "stopped"
    assert control.stop(spool, "4299"), "what does not run is stopped"
    text = first.log.read_text()
    assert "listening to linac 4299" in text
    assert "stopped: asked to by the stop file" in text


def test_started_again_after_a_stop(spool: Path, peer: Any) -> None:
    pids = set()
    for number in range(2):
        pids.add(control.start("4299", "127.0.0.1", peer.port, spool).pid)
        peer.wait(number)
        assert control.stop(spool, "4299")
    assert len(pids) == 2


def test_a_start_waits_for_one_that_is_ending(spool: Path, peer: Any) -> None:
    first = control.start("4299", "127.0.0.1", peer.port, spool)
    peer.wait()
    (spool / "4299" / "stop").touch()
    second = control.start("4299", "127.0.0.1", peer.port, spool)
    assert not second.adopted
    assert second.pid != first.pid
    peer.wait(1)
    assert control.is_running(spool, "4299")


def test_many_starts_at_once_make_one_listener(spool: Path, peer: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        running = list(pool.map(lambda _: control.start("4299", "127.0.0.1", peer.port, spool), range(4)))
    assert len({each.pid for each in running}) == 1
    peer.wait()
    time.sleep(0.5)
    assert len(peer.connections) == 1


def test_an_old_stop_request_does_not_stop_a_new_listener(spool: Path, peer: Any) -> None:
    (spool / "4299").mkdir(parents=True)
    (spool / "4299" / "stop").touch()
    control.start("4299", "127.0.0.1", peer.port, spool)
    peer.wait()
    time.sleep(0.6)
    assert control.is_running(spool, "4299")


def test_a_listener_to_another_address_is_not_adopted(spool: Path, peer: Any) -> None:
    control.start("4299", "127.0.0.1", peer.port, spool)
    with pytest.raises(SetupError, match="stop that listener first"):
        control.start("4299", "127.0.0.1", 1706, spool)
    with pytest.raises(SetupError, match="stop that listener first"):
        control.start("4299", "192.168.17.40", peer.port, spool)
    assert control.start("4299", " 127.0.0.1 ", peer.port, spool).adopted


def test_a_listener_with_another_spool_is_not_doubled(spool: Path, peer: Any, tmp_path: Path) -> None:
    control.start("4299", "127.0.0.1", peer.port, spool)
    peer.wait()
    with pytest.raises(AlreadyRunningError, match="one connection only"):
        control.start("4299", "127.0.0.1", peer.port, tmp_path / "other")
    assert len(peer.connections) == 1


def test_what_does_not_start_says_why(spool: Path, peer: Any) -> None:
    with pytest.raises(SetupError, match="no address"):
        control.start("4299", "127.0.0.1", 70000, spool)


def test_it_outlives_who_started_it(spool: Path, peer: Any) -> None:
    """Killed, not ended; with its whole process group, as a worker's is."""
    code = (
        "import sys; from linac.capture import control\n"
        "running = control.start('4299', '127.0.0.1', int(sys.argv[1]), sys.argv[2])\n"
        "print(running.pid, flush=True); import time; time.sleep(60)\n"
    )
    root = Path(control.__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(peer.port), str(spool)],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    peer.wait()
    os.killpg(parent.pid, 9) if os.name == "posix" else parent.kill()
    parent.wait()
    assert parent.stdout.read() == "", "the listener does not hold its pipe"
    time.sleep(0.5)
    assert control.start("4299", "127.0.0.1", peer.port, spool) == control.Running(pid, True, spool / "4299" / "listener.log")
    assert len(peer.connections) == 1
    assert not peer.endings


def test_a_stop_that_is_not_heard_says_so(spool: Path) -> None:
    (spool / "4299").mkdir(parents=True)
    lock = FileLock(spool / "4299" / "listener.lock")
    assert lock.acquire()
    assert not control.stop(spool, "4299", timeout=0.3)
    lock.release()


def test_the_status_outlives_damage(spool: Path, peer: Any, lab: SimpleNamespace) -> None:
    control.start("4299", "127.0.0.1", peer.port, spool)
    peer.wait()
    (spool / "4299" / "status.json").write_bytes(b'{"half')
    lab.wait_for(lambda: control.status(spool, "4299") is not None)


@pytest.mark.parametrize("serial", ["", "../x", "a/b", "con", "nul.1", ".hidden", "x" * 65, "4299 "])
def test_a_serial_that_is_no_folder_is_refused(spool: Path, serial: str) -> None:
    with pytest.raises(SetupError, match="Give the linac's serial number"):
        control.start(serial, "127.0.0.1", 1706, spool)


def test_a_lock_is_held_by_one_and_freed_by_death(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from linac.capture.lock import EndpointLock, FileLock\n"
        "print(FileLock(Path(sys.argv[2])).acquire(), EndpointLock('10.0.0.9', 1706).acquire(), flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    code = code.replace(
        "print(FileLock(Path(sys.argv[2])).acquire(), EndpointLock('10.0.0.9', 1706).acquire()",
        "one, two = FileLock(Path(sys.argv[2])), EndpointLock('10.0.0.9', 1706); print(one.acquire(), two.acquire()",
    )
    root = str(Path(control.__file__).parents[2])
    holder = subprocess.Popen([sys.executable, "-c", code, root, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True True\n"
    mine, endpoint = FileLock(path), EndpointLock("10.0.0.9", 1706)
    assert is_held(path)
    assert not mine.acquire()
    assert not endpoint.acquire()
    assert EndpointLock("10.0.0.9", 1707).acquire(), "another port is another linac"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert mine.acquire()
    assert endpoint.acquire()
    assert is_held(path)
    mine.release()
    endpoint.release()
    assert not is_held(path)


def test_a_share_that_hangs_delays_neither_linac_nor_journal(
    spool: Path, peer: Any, lab: SimpleNamespace, tmp_path: Path
) -> None:
    """The archiver sits in a write that does not return; the linac's sends go on within milliseconds."""
    from linac.capture.archive import Archiver
    from linac.capture.journal import Kind, Reader, Record
    from linac.transport.paths import LocalFolder

    class Hung(LocalFolder):
        going = threading.Event()
        reached = threading.Event()

        def store(self, local: Path, name: str) -> None:
            self.reached.set()
            self.going.wait(30)
            super().store(local, name)

    folder = Hung(tmp_path / "icom").make_root()
    control.start("4299", "127.0.0.1", peer.port, spool)
    connection = peer.wait()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    archiver = Archiver(spool, "4299", "127.0.0.1", folder, live=False)
    done: list[Any] = []
    ending = threading.Event()

    def archive() -> None:
        while not ending.is_set():
            done.extend(archiver.run_once())
            ending.wait(0.05)

    thread = threading.Thread(target=archive)
    thread.start()
    stream = [*lab.session("TEST-1", 30), *lab.idle(3, 30), *lab.session("TEST-2", 60, first=33), *lab.idle(3, 93)]
    longest = 0.0
    for message in stream:
        began = time.monotonic()
        connection.sendall(message)
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)
    assert folder.reached.is_set()
    assert done == []
    assert longest < 0.5, f"a send blocked for {longest * 1000:.0f} ms"

    def journalled() -> bytes:
        what = [entry.what for entry in Reader(spool / "4299" / "journal").read()]
        return b"".join(each.payload for each in what if isinstance(each, Record) and each.kind == Kind.DATA)

    lab.wait_for(lambda: journalled() == b"".join(stream))
    folder.going.set()
    lab.wait_for(lambda: len(done) == 2)
    ending.set()
    thread.join()
    assert [each.messages for each in done] == [30, 60]


@pytest.mark.parametrize("other", ["127.1", " 127.0.0.1 ", "localhost", "LOCALHOST"])
def test_one_linac_by_two_names_is_one_endpoint(other: str) -> None:
    if "." not in other and socket.gethostbyname(other) != "127.0.0.1":
        pytest.skip("this computer's localhost is another")
    first, second = EndpointLock("127.0.0.1", 4299), EndpointLock(other, 4299)
    assert first.name == second.name
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_what_no_dns_knows_is_an_endpoint_of_its_own() -> None:
    assert EndpointLock("no such host", 1).name == EndpointLock("No such host ", 1).name != EndpointLock("127.0.0.1", 1).name


def test_a_disk_that_is_read_only_is_not_laid_to_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(SetupError, match=r"Read-only file system\. Have the disk checked, and mount it again for writing\."):
        FileLock(tmp_path / "lock").acquire()
    monkeypatch.setattr(control, "is_running", lambda *_: True)
    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(StorageError, match=r"Read-only file system\. See to the spool's disk first\."):
        control.stop(tmp_path, "4299")
