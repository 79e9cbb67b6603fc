"""Whatever happens in between, each log ends in the index once, and nobody ever sees a torn file or half a delivery."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from linac.index import Index, Log
from linac.transport import Entry, Folder, LocalFolder, connect


class PowerCutError(BaseException):
    """The machine is gone. Not an Exception: nothing that runs on may catch it and go on working."""


class DyingFolder(Folder):
    """A folder on a machine whose power fails at the nth change: before it, after it, or with the file half written."""

    def __init__(self, path: Path, dies_at: int, how: str) -> None:
        self._real = LocalFolder(path)
        self.location = self._real.location
        self._left, self._how = dies_at, how
        self.dead = False
        self.changes = 0

    def _change(self, do: Callable[[], Any], name: str, data: bytes = b"") -> Any:
        if self.dead:
            raise PowerCutError
        self.changes += 1
        self._left -= 1
        if self._left:
            return do()
        self.dead = True
        if self._how == "after":
            do()
        if self._how == "torn" and data:
            torn = self._real.path / f"{name}.part-0badcafe"
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(data[: len(data) // 2])
        raise PowerCutError

    def _alive(self) -> LocalFolder:
        if self.dead:
            raise PowerCutError
        return self._real

    def list(self, pattern: str = "*") -> "list[Entry]":
        return self._alive().list(pattern)

    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        return self._alive().open(name, mode)

    def fetch(self, name: str, local: Path) -> None:
        self._alive().fetch(name, local)

    def free(self) -> int:
        return self._alive().free()

    def make(self, name: str = "") -> None:
        self._change(lambda: self._real.make(name), name)

    def remove(self, name: str) -> None:
        self._change(lambda: self._real.remove(name), name)

    def replace(self, old: str, new: str) -> None:
        self._change(lambda: self._real.replace(old, new), new)

    def store(self, local: Path, name: str) -> None:
        self._change(lambda: self._real.store(local, name), name, local.read_bytes())

    def write(self, name: str, data: bytes) -> None:
        self._change(lambda: self._real.write(name, data), name, data)

    def create(self, name: str, data: bytes) -> bool:
        from linac.index.exclusive import create

        def empty() -> None:
            create(self._real, name, b"")

        if self._how == "torn" and self._left == 1:
            empty()  # a file that was made and never filled
        return bool(self._change(lambda: create(self._real, name, data), name))


def hashes(logs: list[Log]) -> set[str]:
    return {hashlib.sha256(log.data).hexdigest() for log in logs}


def add_until_power_fails(root: Path, logs: list[Log], dies_at: int, how: str) -> bool:
    """Whether the power failed before `add` was through."""
    folder = DyingFolder(root, dies_at, how)
    try:
        Index(folder, batch_bytes=40_000, stale_seconds=0.05, wait_seconds=20).add("4299", logs)
    except PowerCutError:
        return True
    return False


@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_after_a_power_cut_at_any_change_a_second_run_completes_the_index(
    how: str, tmp_path: Path, logs: list[Log], look: Callable[[Path], Any]
) -> None:
    """Some logs are in the index already, so that files grow as well as begin; one cannot be read."""
    old, new = logs[:2] + logs[4:5], [*logs[2:4], *logs[5:], Log("not one.trf", b"nonsense")]
    rows = {}
    for step in range(1, 500):
        root = tmp_path / str(step)
        with connect(root) as folder:
            Index(folder).add("4299", old)
            failed = add_until_power_fails(root, new, step, how)

            between = look(root)
            assert not between.twice
            assert hashes(old) <= set(between.deliveries)
            for sha256, count in between.deliveries.items():  # nothing in the index that is not there, and whole
                assert between.samples.get(sha256, 0) == count
            rows.update(between.deliveries)
            for sha256, count in between.samples.items():
                assert rows.get(sha256, count) == count

            index = Index(folder, stale_seconds=0.05, wait_seconds=20)
            index.add("4299", new)
            end = look(root)
            assert not end.twice
            assert set(end.deliveries) == hashes(old + logs)
            assert {sha256: count for sha256, count in end.deliveries.items() if count} == end.samples
            report = index.verify()
            assert report.problems == []
            assert report.quarantined == 1
        if not failed:
            assert step > 25, "the power should have failed more often"
            return
    pytest.fail("add never came to its end")
