"""The rows of a log as Parquet: a row group per delivery, in physical units.

A samples file holds many deliveries, each a row group of its own. So one delivery is read without the others, the statistics of
`sha256` and `timestamp` let DuckDB, Polars and pyarrow skip the others too, and a file can be continued: its row groups stay
where they are, byte by byte, and more follow.
"""

import functools
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linac.errors import DamagedError
from linac.index.ahead import ParquetFile
from linac.index.parquet import NULL, Group, Layout, Values, distinct, join, write_chunk
from linac.index.schema import AXES, BANKS, SAMPLES_SCHEMA, check, upgrade
from linac.trf.item_parts import NO_VALUE, ItemPart, Part, columns, label
from linac.trf.reader import Trf

_TIMES = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
MIN_MS, MAX_MS = (int((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1000 for time in _TIMES)
"""What a timestamp may be, in ms: other readers fail on years that no calendar has."""


@functools.cache
def layout() -> Layout:
    """The schema of samples files as Parquet has it."""
    return Layout(SAMPLES_SCHEMA)


class _Places(NamedTuple):
    """Where a list of item parts has what the schema asks for. -1: nowhere."""

    axes: tuple[int, ...]
    banks: tuple[npt.NDArray[np.intp], ...]
    others: tuple[int, ...]


@functools.lru_cache(maxsize=16)
def _places(parts: tuple[Part, ...]) -> _Places:
    where = {column.column: index for index, column in reversed(list(enumerate(columns(parts))))}
    axes = tuple(where.get(item.column, -1) for item in AXES)
    banks = tuple(np.array([where.get(leaf, -1) for leaf in bank.leaves], np.intp) for bank in BANKS)
    taken = {*axes, *(int(index) for bank in banks for index in bank)}
    return _Places(axes, banks, tuple(index for index in range(len(parts)) if index not in taken))


def _columns(trf: Trf, sha256: str) -> Iterator[Values]:
    """The leaves of the schema in order, from one log with at least one row."""
    places = _places(trf.header.item_parts)
    yield _text(None, [sha256], bounds=True)
    yield Values(whole=np.arange(trf.rows, dtype=np.int64))
    yield _timestamps(np.ascontiguousarray(trf.utc_ms))
    axes = np.ascontiguousarray(trf.counts[:, list(places.axes)].T)  # where it is -1 it takes the last column, unused
    same = (axes == axes[:, :1]).all(axis=1).tolist()
    for at, (index, counts, is_same) in enumerate(zip(places.axes, axes, same, strict=True)):
        if index < 0:
            yield NULL
        else:
            yield _one_count(at, int(counts[0])) if is_same else _counted(counts, AXES[at], width=1)
    for indices in places.banks:
        yield _bank(trf, indices)
    yield from _others(trf, places.others)


def _timestamps(utc_ms: npt.NDArray[np.int64]) -> Values:
    present = (utc_ms >= MIN_MS) & (utc_ms <= MAX_MS)
    if not present.any():
        return NULL
    whole = present.all()
    known = utc_ms if whole else utc_ms[present]
    bounds = (struct.pack("<q", int(known.min())), struct.pack("<q", int(known.max())))
    return Values(present=None if whole else present, whole=known, bounds=bounds)


def _text(indices: npt.NDArray[Any] | None, words: list[str], present: Any = None, *, bounds: bool = False) -> Values:
    encoded = [word.encode() for word in words]
    dictionary = b"".join(struct.pack("<I", len(word)) + word for word in encoded)
    return Values(
        present=present,
        indices=indices,
        dictionary=dictionary,
        entries=len(words),
        bounds=(min(encoded), max(encoded)) if bounds else None,
    )


@functools.lru_cache(maxsize=1024)
def _one_count(item_at: int, count: int) -> Values:
    """An axis that stands still, as most do in most logs."""
    return _counted(np.array([count], np.int32), AXES[item_at], width=1)


def _counted(counts: npt.NDArray[Any], item: ItemPart, width: int) -> Values:
    """One item part, or a bank of leaves. Counts become the nearest float32 to the decimal number; "no value" is null."""
    flat = counts.reshape(-1)
    found, indices = distinct(flat)
    present = None
    if item.has_no_value_marker and NO_VALUE in found:
        present = flat != NO_VALUE
        if not present.any():
            return NULL if width == 1 else Values(width=width, present=present)
        flat = flat[present]
        found, indices = distinct(flat)
    if item.codes is not None:
        return _text(indices, [label(item.codes, int(number)) for number in found], present)
    if item.divisor == 1:
        entries = found.astype("<i4").tobytes()
    else:
        entries = item.to_physical(found).astype("<f4").tobytes()
        if (
            indices is not None and width == 1 and len(found) * 4 > len(flat)
        ):  # hardly any value twice, such as a dose that grows: no dictionary
            floats = np.frombuffer(entries, "<f4")[indices]
            return Values(present=present, floats=floats)
    return Values(width=width, present=present, indices=indices, dictionary=entries, entries=len(found))


def _bank(trf: Trf, indices: npt.NDArray[np.intp]) -> Values:
    """The 80 leaves of a bank, row by row. Their columns stand side by side in all logs seen; any other order is taken too."""
    absent = indices < 0
    if absent.all():
        return NULL
    first = int(indices[0])
    item = columns(trf.header.item_parts)[int(indices[~absent][0])].item
    if np.array_equal(indices, np.arange(first, first + len(indices))):
        counts = np.ascontiguousarray(trf.counts[:, first : first + len(indices)])
    else:
        counts = np.where(absent, np.asarray(NO_VALUE, trf.counts.dtype), trf.counts[:, indices])
    return _counted(counts, item, width=len(indices))


def _others(trf: Trf, indices: tuple[int, ...]) -> Iterator[Values]:
    """Item part, sub-part and count of whatever the schema has no column for."""
    if not indices:
        yield from (NULL, NULL, NULL)
        return
    parts = np.array([trf.header.item_parts[index] for index in indices], np.int16)
    counts = np.ascontiguousarray(trf.counts[:, list(indices)])
    for numbers in (np.tile(parts[:, 0], trf.rows), np.tile(parts[:, 1], trf.rows), counts):
        found, places = distinct(numbers)
        entries = found.astype("<i4").tobytes()
        yield Values(width=len(indices), indices=places, dictionary=entries, entries=len(found))


class Encoded:
    """Deliveries encoded one after the other: a samples file in the making, or more row groups for one."""

    def __init__(self) -> None:
        self.hashes: list[str] = []
        self.rows = 0
        self._body = bytearray()
        self._groups: list[Group] = []

    def __len__(self) -> int:
        """Bytes so far."""
        return len(self._body)

    def add(self, trf: Trf, sha256: str) -> int:
        """Encode one more delivery; the number of its row group. Raises ValueError for a log without rows."""
        if not trf.rows:
            raise ValueError("a log without rows has no row group")
        end = len(self._body)
        try:
            chunks = [
                write_chunk(self._body, leaf, trf.rows, values)
                for leaf, values in zip(layout().leaves, _columns(trf, sha256), strict=True)
            ]
        except BaseException:
            del self._body[end:]
            raise
        self._groups.append(Group(trf.rows, chunks))
        self.hashes.append(sha256)
        self.rows += trf.rows
        return len(self._groups) - 1

    def file(self) -> bytes:
        """A whole samples file."""
        return layout().file(self._body, self._groups)

    def continuing(self, old: bytes) -> bytes | None:
        """The samples file `old` with these deliveries behind its own. None where its schema is another."""
        return join(old, layout(), self._body, self._groups)


def encode(logs: Iterable[tuple[str, Trf]]) -> bytes:
    """A samples file of these logs (hash and log), a row group each."""
    encoded = Encoded()
    for sha256, trf in logs:
        encoded.add(trf, sha256)
    return encoded.file()


class SamplesFile:
    """A samples file, open for reading. `name` is named in errors.

    Raises `DamagedError` for what is no samples file, `SetupError` for one of newer software.
    """

    def __init__(self, source: IO[bytes] | bytes, name: str, *, check_pages: bool = False) -> None:
        self.name = name
        try:
            self._file = ParquetFile(source, check_pages=check_pages)
            self.metadata = self._file.metadata
            self.version = check(self.metadata.metadata, "samples", name)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(name, error) from error

    @functools.cached_property
    def hashes(self) -> list[str]:
        """The deliveries, a row group each, in order."""
        return [self.hash(row_group) for row_group in range(self.metadata.num_row_groups)]

    def hash(self, row_group: int) -> str:
        """Which delivery a row group is: the least and greatest `sha256` in it, which are the same."""
        if not 0 <= row_group < self.metadata.num_row_groups:
            return ""
        statistics = self.metadata.row_group(row_group).column(0).statistics
        if statistics is None or statistics.min != statistics.max:
            raise DamagedError(f"{self.name}: row group {row_group} does not say which one delivery it holds. Run verify.")
        return str(statistics.min)

    def rows(self, row_group: int) -> int:
        """Number of rows of one delivery."""
        return int(self.metadata.row_group(row_group).num_rows)

    def read(self, row_group: int, names: list[str] | None = None) -> Any:
        """One delivery as an Arrow table, as this version of the schema has it; only the columns `names`, if given."""
        try:
            table = self._file.read(row_group, names)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.name, error) from error
        return table if names is not None else upgrade(table, "samples", self.version, self.name)


def _damaged(name: str, error: BaseException) -> DamagedError:
    return DamagedError(
        f"{name} cannot be read as a samples file ({type(error).__name__}: {str(error)[:200]}). Restore it from a backup. Or "
        "move it and the deliveries of that month away, and add the raw logs of that month again."
    )
