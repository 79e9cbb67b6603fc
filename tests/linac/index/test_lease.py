"""One writer at a time, and none for ever."""

import json
import logging
import threading
import time
from pathlib import Path

import pytest

from linac.errors import AlreadyRunningError, StorageError
from linac.index.lease import Lease
from linac.transport import Folder, connect


def lease(folder: Folder, stale: float = 0.2, wait: float = 5) -> Lease:
    return Lease(folder, "TRF/writer.lease", stale_seconds=stale, wait_seconds=wait)


def held(folder: Folder) -> bool:
    return folder.find("TRF/writer.lease") is not None


def test_a_file_is_made_only_if_it_is_not_there(folder: Folder) -> None:
    assert folder.create("a/b.txt", b"first")
    assert not folder.create("a/b.txt", b"second")
    assert folder.read("a/b.txt") == b"first"


def test_of_many_who_make_a_file_one_does(folder: Folder) -> None:
    made = []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        if folder.create("one", str(number).encode()):
            made.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert folder.read("one") == str(made[0]).encode()


def test_a_lease_is_there_while_it_is_held_and_not_after(folder: Folder) -> None:
    with lease(folder):
        assert held(folder)
    assert not held(folder)


def test_a_lease_is_given_back_when_its_work_fails(folder: Folder) -> None:
    with pytest.raises(RuntimeError), lease(folder):
        raise RuntimeError
    assert not held(folder)


def test_another_waits_for_its_turn_and_says_so(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    order = []

    def second() -> None:
        with lease(folder, stale=5):
            order.append("second")

    with caplog.at_level(logging.WARNING), lease(folder, stale=5):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert "waiting" in caplog.text


def test_a_holder_that_shows_life_is_waited_for_longer_than_a_dead_one(folder: Folder) -> None:
    with lease(folder, stale=0.4) as first:
        thread_failed = []

        def second() -> None:
            try:
                with lease(folder, stale=0.4, wait=1.2):
                    thread_failed.append("it was given away")
            except AlreadyRunningError as error:
                thread_failed.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        while thread.is_alive():
            first.keep()
            time.sleep(0.02)
    (said,) = thread_failed
    assert "process" in said
    assert "run again" in said


def test_a_dead_holders_lease_is_taken_over_after_a_bounded_time(folder: Folder) -> None:
    lease(folder).__enter__()  # and never leaves
    begin = time.monotonic()
    with lease(folder) as second:
        assert 0.2 <= time.monotonic() - begin < 3
        second.keep()
    assert folder.list("TRF/*") == []


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b'{"owner": 1}'])
def test_a_lease_that_a_power_cut_left_unwritten_is_taken_over(folder: Folder, left: bytes) -> None:
    folder.write("TRF/writer.lease", left)
    with lease(folder):
        assert json.loads(folder.read("TRF/writer.lease"))["process"]
    assert folder.list("TRF/*") == []


def test_one_who_died_while_taking_over_is_outlived_too(folder: Folder) -> None:
    dead = lease(folder)
    dead.__enter__()
    text = folder.read("TRF/writer.lease")
    claimant = lease(folder)
    assert claimant._take_over(text, 0)
    folder.write("TRF/writer.lease", text)  # it died before it wrote: only its claim is there
    for claim in (0, 1):
        mark = next(iter(folder.list("TRF/writer.lease.*")), None)
        if mark is None:
            import hashlib

            folder.create(f"TRF/writer.lease.{hashlib.sha256(text).hexdigest()[:12]}-{claim}", b"dead")
    with lease(folder) as third:
        third.keep()
    assert folder.list("TRF/*") == []


def test_of_many_who_take_over_one_does_at_a_time(tmp_path: Path) -> None:
    with connect(tmp_path) as folder:
        lease(folder).__enter__()
    inside, most, done = [0], [0], []
    lock = threading.Lock()

    def run() -> None:
        with connect(tmp_path) as folder, lease(folder, stale=0.5, wait=30) as mine:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            mine.keep()
            time.sleep(0.02)
            with lock:
                inside[0] -= 1
            done.append(1)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(done) == 6


def test_a_holder_that_stood_still_learns_that_another_went_on(folder: Folder) -> None:
    first = lease(folder)
    first.__enter__()
    time.sleep(0.05)
    with lease(folder):
        with pytest.raises(StorageError, match="stood still"):
            first.keep()
        first.__exit__(None, None, None)
        assert held(folder), "one who lost the lease may not give it back"


def test_a_holder_whose_computer_was_suspended_learns_it_before_it_replaces_a_file(folder: Folder) -> None:
    """Its clock stood still as well, so it cannot know by that."""
    first = Lease(folder, "TRF/writer.lease", stale_seconds=0.2, clock=lambda: 100.0)
    with first:
        first.keep(surely=True)
        with lease(folder):
            first.keep()
            with pytest.raises(StorageError, match="stood still"):
                first.keep(surely=True)
