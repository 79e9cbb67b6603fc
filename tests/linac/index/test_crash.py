"""Whatever happens in between, each log ends in the index once, and nobody ever sees a torn file or half a delivery."""

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

import pytest

from linac.errors import DamagedError, StorageError
from linac.index import Index, Log
from linac.transport import Entry, Folder, LocalFolder, connect


class PowerCutError(BaseException):
    """The machine is gone. Not an Exception: nothing that runs on may catch it and go on working."""


class FailingFolder(Folder):
    """A folder that fails at its nth change, and, as a machine without power, for good.

    `torn` leaves the file that was being written half-written beside its place. `error` is raised once only: the network
    was away for a moment, and the machine lives on.
    """

    def __init__(self, path: Path, fails_at: int, *, torn: bool = False, error: Exception | None = None) -> None:
        self._real = LocalFolder(path)
        self.location = self._real.location
        self.left, self._torn, self._error = fails_at, torn, error
        self._dead = False
        self.tore = False

    def _change(self, do: Callable[[], Any], name: str, data: bytes = b"") -> Any:
        self._alive()
        self.left -= 1
        if self.left:
            return do()
        if self._error is not None:
            raise self._error
        self._dead = True
        if self._torn and data:
            part = self._real.path / f"{name}.part-0badcafe"
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data[: len(data) // 2])
            self.tore = True
        raise PowerCutError

    def _alive(self) -> LocalFolder:
        if self._dead:
            raise PowerCutError
        return self._real

    def list(self, pattern: str = "*") -> "list[Entry]":
        return self._alive().list(pattern)

    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        return self._alive().open(name, mode)

    def fetch(self, name: str, local: Path, verify: Callable[[Path], None] | None = None) -> bool:
        return self._alive().fetch(name, local, verify)

    def make_root(self) -> Self:
        self._alive().make_root()
        return self

    def sweep(self, name: str = "", older_seconds: float = 0) -> int:
        return int(self._change(lambda: self._real.sweep(name, older_seconds), name))

    def below(self, name: str) -> Folder:
        return self._alive().below(name)

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

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._change(lambda: self._real.write(name, data, durable=durable), name, data)

    def create(self, name: str, data: bytes) -> bool:
        if self._torn and self.left == 1:
            self._real.create(name, b"")  # made, and never filled
            self.tore = True
        return bool(self._change(lambda: self._real.create(name, data), name))


@pytest.fixture(scope="module")
def parts(make_log: Callable[..., bytes]) -> tuple[list[Log], list[Log]]:
    """What is in the index before, and what comes: it continues files and begins some, in two batches, one log without rows and
    one that cannot be read among it."""
    from datetime import UTC, datetime

    february = datetime(2026, 2, 3, tzinfo=UTC)
    before = [Log("0.trf", make_log(0, rows=5)), Log("1.trf", make_log(1, rows=3, start=february))]
    coming = [
        Log("2.trf", make_log(2, rows=4)),
        Log("3.trf", make_log(3, rows=2, start=february)),
        before[0],
        Log("bad.trf", b"nonsense"),
        Log("4.trf", make_log(4, rows=0)),
        Log("5.trf", make_log(5, rows=3, start=datetime(2026, 3, 3, tzinfo=UTC))),
    ]
    return before, coming


def hashes(logs: list[Log]) -> set[str]:
    return {hashlib.sha256(log.data).hexdigest() for log in logs if log.data != b"nonsense"}


def patient(folder: Folder) -> Index:
    """An index whose batches are of two small logs and whose dead writers are soon forgotten."""
    return Index(folder, batch_bytes=8_000, stale_seconds=0.03, wait_seconds=60)


def unhurried(folder: Folder) -> Index:
    """The same, but it does not have to show life between its steps: so each run makes the same changes in the same order."""
    return Index(folder, batch_bytes=8_000, stale_seconds=600)


def check_between(root: Path, before: set[str], rows: dict[str, int], look: Callable[..., Any]) -> None:
    """What plain readers find after a failure: whole deliveries, none twice, none in the index that has no rows there."""
    seen = look(root, ducks_too=False)
    assert not seen.twice
    assert before <= set(seen.deliveries)
    assert {sha256: count for sha256, count in seen.deliveries.items() if count}.items() <= seen.samples.items()
    assert seen.samples.items() <= rows.items()


def check_end(index: Index, rows: dict[str, int], look: Callable[..., Any]) -> None:
    """All there, once, and nothing left over."""
    seen = look(Path(index.folder.location))
    assert not seen.twice
    assert seen.deliveries == rows
    assert seen.samples == {sha256: count for sha256, count in rows.items() if count}
    report = index.verify(values=True)
    assert report.problems == []
    assert report.quarantined == 1
    assert index.folder.list("TRF/pending/*") == []


@pytest.fixture
def begun(tmp_path: Path, parts: tuple[list[Log], list[Log]]) -> Path:
    """A records root that holds what was before."""
    with connect(tmp_path / "begun").make_root() as folder:
        Index(folder).add("4299", parts[0])
    return tmp_path / "begun"


@pytest.fixture
def rows(tmp_path: Path, parts: tuple[list[Log], list[Log]]) -> dict[str, int]:
    """How many rows each log has in the end."""
    with connect(tmp_path / "undisturbed").make_root() as folder:
        index = Index(folder)
        index.add("4299", [*parts[0], *parts[1]])
        frame = index.deliveries(columns=["sha256", "rows"])
    return dict(zip(frame["sha256"], frame["rows"], strict=True))


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_after_a_power_cut_at_any_change_a_second_run_completes_the_index(
    torn: bool, tmp_path: Path, begun: Path, parts: Any, rows: dict[str, int], look: Callable[..., Any]
) -> None:
    before, coming = parts
    for step in range(1, 200):
        root = tmp_path / str(step)
        shutil.copytree(begun, root)
        dying = FailingFolder(root, step, torn=torn)
        try:
            unhurried(dying).add("4299", coming)
            failed = False
        except PowerCutError:
            failed = True
        if failed and torn and not dying.tore:
            continue  # no write: nothing but what the other case has
        check_between(root, hashes(before), rows, look)
        with connect(root) as folder:
            again = patient(folder)
            again.add("4299", coming)
            check_end(again, rows, look)
        if not failed:
            assert step > 30, "the power should have failed more often"
            return
    pytest.fail("add never came to its end")


def test_after_power_cuts_in_the_recovery_too_a_later_run_completes_the_index(
    tmp_path: Path, begun: Path, parts: Any, rows: dict[str, int], look: Callable[..., Any]
) -> None:
    """The first run dies with samples in place and no delivery entered; the next die one change later each."""
    before, coming = parts
    died = 0
    for step in range(1, 300):
        try:
            patient(FailingFolder(begun, step)).add("4299", coming)
            break
        except PowerCutError:
            died += 1
            check_between(begun, hashes(before), rows, look)
    else:
        pytest.fail("add never came to its end")
    assert died > 10
    with connect(begun) as folder:
        check_end(patient(folder), rows, look)


def test_after_a_power_cut_while_samples_are_packed_harder_the_next_run_packs_the_rest(
    tmp_path: Path, begun: Path, parts: Any, rows: dict[str, int], look: Callable[..., Any]
) -> None:
    with connect(begun) as folder:
        patient(folder).add("4299", parts[1])
        unpacked = {path: path.read_bytes() for path in begun.rglob("samples-*.parquet")}
    for step in range(1, 100):
        root = tmp_path / str(step)
        shutil.copytree(begun, root)
        try:
            unhurried(FailingFolder(root, step)).repack()
            failed = False
        except PowerCutError:
            failed = True
        check_between(root, set(rows), rows, look)
        with connect(root) as folder:
            again = patient(folder)
            again.repack()
            check_end(again, rows, look)
            assert all((root / path.relative_to(begun)).read_bytes() != data for path, data in unpacked.items())
            assert folder.list("TRF/repack/*") == []
        if not failed:
            assert step > 15, "the power should have failed more often"
            return
    pytest.fail("packing never came to its end")


def test_after_a_storage_error_at_any_change_the_next_run_completes_the_index(
    tmp_path: Path, begun: Path, parts: Any, rows: dict[str, int], look: Callable[..., Any]
) -> None:
    """The share was away for a moment. The run ends with the error, or gets round it; it may not leave a lease behind."""
    before, coming = parts
    for step in range(1, 200, 3):
        root = tmp_path / str(step)
        shutil.copytree(begun, root)
        error = StorageError("the share was away")
        folder = FailingFolder(root, step, error=error)
        with contextlib.suppress(StorageError):
            unhurried(folder).add("4299", coming)
        check_between(root, hashes(before), rows, look)
        if folder.left > 0:
            return
        again = unhurried(folder)
        again.add("4299", coming)
        check_end(again, rows, look)
    pytest.fail("add never came to its end")


def test_a_file_that_a_reader_keeps_open_is_left_alone_and_the_logs_go_into_another(
    begun: Path, parts: Any, rows: dict[str, int], look: Callable[..., Any]
) -> None:
    """As Windows does it: no file that is there can be replaced, all night."""

    class Busy(LocalFolder):
        def replace(self, old: str, new: str) -> None:
            if new.endswith(".parquet") and "catalogue" not in new and self.find(new):
                self.refused = True
                raise StorageError("somebody has it open")
            super().replace(old, new)

    _, coming = parts
    files = {path: path.read_bytes() for path in begun.rglob("*.parquet") if "catalogue" not in str(path)}
    folder = Busy(begun)
    added = patient(folder).add("4299", coming)
    assert folder.refused
    assert added.indexed == 4
    assert {path: path.read_bytes() for path in files} == files
    with connect(begun) as free:
        check_end(patient(free), rows, look)
        assert patient(free).add("4299", coming).indexed == 0


def test_a_record_that_cannot_be_read_stops_the_next_run_with_advice(begun: Path, parts: Any) -> None:
    """What it said is not known: going on could bring rows in twice."""
    with connect(begun) as folder:
        folder.write("TRF/pending/4299_2026-01_0123456789ab.record", b"damaged")
        with pytest.raises(DamagedError, match="run verify"):
            patient(folder).add("4299", parts[1])
        assert folder.find("TRF/pending/4299_2026-01_0123456789ab.record")
