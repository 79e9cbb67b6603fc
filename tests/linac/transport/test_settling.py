"""A fetched file can be read at once; it is known only when the disk has it."""

import os
import threading
from pathlib import Path

import pytest

from linac.transport import connect, fetching, settling
from linac.transport.settling import SETTLING

pytestmark = pytest.mark.skipif(not settling.BEHIND, reason="Windows brings files to the disk at once")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    there = tmp_path / "there"
    there.mkdir()
    (there / "a.zip").write_bytes(b"backup" * 1000)
    return there


class Disk:
    """A disk that takes its time, until it is told to do its work or to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on, self.fails = threading.Event(), False
        self.synced = 0
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, _: int) -> None:
        assert self.go_on.wait(30)
        if self.fails:
            raise OSError(5, "Input/output error")
        self.synced += 1


def test_a_slow_disk_delays_nobody_and_the_file_is_known_once_it_is_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, disk = tmp_path / "a.zip", Disk(monkeypatch)
    with connect(source) as folder:
        assert folder.fetch("a.zip", local)
        assert local.read_bytes() == (source / "a.zip").read_bytes()
        assert not SETTLING.wait(local, 0.05)
        assert fetching.is_begun(local)
        disk.go_on.set()
        assert not folder.fetch("a.zip", local), "it waits for the disk instead of fetching again"
    assert disk.synced == 1
    assert sorted(path.name for path in tmp_path.glob("a.zip*")) == ["a.zip"]


def test_a_file_that_the_disk_did_not_take_is_fetched_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, disk = tmp_path / "a.zip", Disk(monkeypatch)
    disk.fails = True
    disk.go_on.set()
    with connect(source) as folder:
        assert folder.fetch("a.zip", local)
        assert SETTLING.wait(local)
        disk.fails = False
        assert folder.fetch("a.zip", local), "nobody can say that it outlasts a power cut"
        assert not folder.fetch("a.zip", local)


def test_after_a_power_cut_before_the_sync_the_file_is_fetched_again(source: Path, tmp_path: Path) -> None:
    """What is then on the disk: the name, the size, the time, no content, and the record."""
    local = tmp_path / "a.zip"
    with connect(source) as folder:
        assert folder.fetch("a.zip", local)
        assert SETTLING.wait(local)
        time_ns = local.stat().st_mtime_ns
        local.write_bytes(bytes(local.stat().st_size))
        os.utime(local, ns=(time_ns, time_ns))
        local.with_name(local.name + fetching.RECORD).write_text("0badc0de")
        assert folder.fetch("a.zip", local)
    assert local.read_bytes() == (source / "a.zip").read_bytes()


def test_a_record_of_a_newer_fetch_is_not_removed_by_the_older_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, disk = tmp_path / "a.zip", Disk(monkeypatch)
    record = local.with_name(local.name + fetching.RECORD)
    with connect(source) as folder:
        assert folder.fetch("a.zip", local)
        record.write_text("a newer fetch has begun")
        disk.go_on.set()
        assert SETTLING.wait(local)
    assert record.exists()


def test_a_file_that_was_only_wanted_for_a_moment_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, disk = tmp_path / "a.zip", Disk(monkeypatch)
    with connect(source) as folder:
        assert folder.fetch("a.zip", local)
        local.unlink()
        disk.go_on.set()
        assert SETTLING.wait()
    assert list(tmp_path.glob("a.zip*")) == []


def test_its_thread_ends_with_its_work(source: Path, tmp_path: Path) -> None:
    with connect(source) as folder:
        assert folder.fetch("a.zip", tmp_path / "a.zip")
    assert SETTLING.wait()
    for thread in threading.enumerate():
        if thread.name == "files-to-disk":
            thread.join(10)
            assert not thread.is_alive()
