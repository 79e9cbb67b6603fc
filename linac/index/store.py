"""The index as its users see it: add logs, find deliveries, read their rows."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linac import trf
from linac.errors import DamagedError, SetupError, TrfError
from linac.index import backups, catalogue, deliveries, names, quarantine, writer
from linac.index.backups import Backup
from linac.index.lease import STALE_SECONDS, WAIT_SECONDS, Lease
from linac.index.quarantine import Quarantined
from linac.index.samples import SamplesFile
from linac.index.schema import BANKS, DELIVERIES_SCHEMA, LEAVES, SAMPLES_SCHEMA
from linac.index.writer import New, Writer
from linac.transport import Entry, Folder

if TYPE_CHECKING:
    import pandas as pd

    from linac.index.verify import Report

BATCH_BYTES = 64 << 20
"""Raw bytes that are brought into the index at a time, and the most that is kept in memory of what `add` is given."""

KNOWN_MONTHS = 12
"""Months whose hashes are kept in memory while adding: a few MB each."""


@dataclass(frozen=True)
class Log:
    """A TRF as it came: its file name (folders may stand before it), its bytes, and the backup or folder it came from."""

    name: str
    data: bytes
    source: str = ""


@dataclass
class Added:
    """What `add` did.

    `indexed` logs are new in the index, with `rows` rows and `bytes` bytes; `duplicates` were known; `quarantined` could not be
    read and were set aside (name and reason); `released` left the quarantine; `recovered` deliveries were left half-done by a
    crashed run. `files` are the Parquet files written, below the records root.
    """

    indexed: int = 0
    duplicates: int = 0
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    released: int = 0
    recovered: int = 0
    rows: int = 0
    bytes: int = 0
    files: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers alone, for a report or `mark_done`."""
        return {
            "indexed": self.indexed,
            "duplicates": self.duplicates,
            "quarantined": len(self.quarantined),
            "rows": self.rows,
            "bytes": self.bytes,
        }


class Index:
    """The index of TRF logs below a records root.

    Everything lies in `TRF/` of `folder` and is read and written through it alone, so it can be a local disk or a share. Many
    may read while one writes; a second writer waits, `wait_seconds` at most. A crashed writer's lease ends after
    `stale_seconds`. Raises `StorageError` where the storage fails, `DamagedError` where a file of the index cannot be read,
    `SetupError` where newer software wrote it, `AlreadyRunningError` where another writer does not end.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        batch_bytes: int = BATCH_BYTES,
        stale_seconds: float = STALE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.folder = folder
        self._batch_bytes = batch_bytes
        self._stale, self._wait = stale_seconds, wait_seconds

    def lease(self) -> Lease:
        """The right to write, to be used with `with`."""
        return Lease(self.folder, names.LEASE, stale_seconds=self._stale, wait_seconds=self._wait)

    # Adding

    def add(self, serial: str, logs: Iterable[Log], progress: Callable[[Added], None] | None = None) -> Added:
        """Bring logs of one linac into the index, each distinct content once.

        `logs` may be endless: it is read one by one, and every 64 MB are brought in. If it raises, what came before is brought
        in, then the error goes on. What cannot be read goes to the quarantine. `progress` is called after each log and batch.
        Running it again, twice at once, or after a crash does no harm.
        """
        return _Adding(self, names.check_serial(serial), progress).run(logs)

    def retry(self, serial: str, progress: Callable[[Added], None] | None = None) -> Added:
        """Try what is in quarantine again, as after an update of this software. What can be read now leaves it."""
        return self.add(serial, self._quarantined_logs(serial), progress)

    def _quarantined_logs(self, serial: str) -> Iterator[Log]:
        for item in quarantine.listed(self.folder, names.check_serial(serial)):
            yield Log(item.name, self.folder.read(item.file), quarantine.reason_of(self.folder, item)[1])

    def quarantined(self, serial: str) -> list[Quarantined]:
        """What is set aside for a linac, with the reasons."""
        found = quarantine.listed(self.folder, names.check_serial(serial))
        return [
            Quarantined(item.file, item.name, item.sha256_begin, item.size, quarantine.reason_of(self.folder, item)[0])
            for item in found
        ]

    # Backups

    def new_backups(self, serial: str, entries: Iterable[Entry]) -> list[Entry]:
        """Those of a listing of backups that are not taken in yet, or have changed since. It costs one listing, nothing else."""
        return backups.new(self.folder, names.check_serial(serial), entries)

    def is_done(self, serial: str, entry: Entry) -> bool:
        """Whether a backup, by its name, size and time of change, is taken in."""
        return backups.is_done(self.folder, names.check_serial(serial), entry)

    def mark_done(self, serial: str, entry: Entry, counts: Mapping[str, int] | None = None) -> None:
        """Note that a backup is taken in completely. `counts` is what `Added.counts` says."""
        backups.mark(self.folder, names.check_serial(serial), entry, counts or {})

    def backups(self, serial: str) -> list[Backup]:
        """The backups taken in for a linac, the oldest first, with what each brought."""
        return backups.read(self.folder, names.check_serial(serial))

    # Reading

    def machines(self) -> list[str]:
        """The serials of the linacs that have deliveries."""
        return writer.machines(self.folder)

    def deliveries(
        self,
        machine: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        columns: list[str] | None = None,
    ) -> "pd.DataFrame":
        """The rows of the index, by start: of one linac, that began at `start` or later and before `end` (aware times).

        Only the months asked for are read. `columns` are names of docs/data-dictionary.md.
        """
        if unknown := set(columns or ()) - set(DELIVERIES_SCHEMA.names):
            raise SetupError(f"The index has no column {', '.join(sorted(unknown))}. docs/data-dictionary.md lists them.")
        tables = [self._between(machine, month, start, end, columns) for machine, month in self._months(machine, start, end)]
        return _frame(_together(tables, columns))

    def find(
        self,
        sha256: str | None = None,
        field: str | None = None,
        day: date | None = None,
        machine: str | None = None,
    ) -> "pd.DataFrame":
        """The deliveries that all of these hold for: hash (or its begin), field, day by the site's clock, linac.

        `field` is the label, the name, or `label/name`, in any case; `*` stands for any text.
        """
        if sha256 is not None and not _is_hash(sha256):
            raise SetupError(f"{sha256!r} is no begin of a hash. Give 4 to 64 hexadecimal digits.")
        if day is not None:
            begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
            table = _together(
                [
                    self._between(of, month, begin - timedelta(days=1), begin + timedelta(days=2), None)
                    for of, month in self._months(machine, begin - timedelta(days=1), begin + timedelta(days=2))
                ],
                None,
            )
            table = table.filter(pc.equal(pc.cast(table.column("start_local"), pa.date32()), pa.scalar(day)))
            if field is not None:
                table = catalogue.with_field(table, field)
            if sha256 is not None:
                table = table.filter(pc.starts_with(table.column("sha256"), sha256.lower()))
            return _frame(table)
        return _frame(self._by_catalogue(sha256, field, machine))

    def samples(self, sha256: str, columns: list[str] | None = None, *, leaves: str = "lists") -> "pd.DataFrame":
        """The rows of one delivery, all or some columns. `sha256` may be its begin.

        Leaves come as the files have them, an array of 80 per row and bank (`leaves="lists"`), or as one column per leaf, named
        as in `linac.trf` (`leaves="columns"`).
        """
        row = self._one(sha256)
        table = self._rows_of(row, columns)
        if leaves == "columns":
            return _with_leaf_columns(table)
        return _frame(table)

    def raw(self, sha256: str) -> bytes:
        """The TRF file of one delivery, as it came. `sha256` may be its begin."""
        row = self._one(sha256)
        data = self.folder.read(row["raw_file"])
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise DamagedError(f"{row['raw_file']} is not as it was when it was indexed. Restore it from a backup.")
        return data

    def _rows_of(self, row: Mapping[str, Any], columns: list[str] | None) -> Any:
        for last_try in (False, True):
            if row["samples_file"] is None:
                table = SAMPLES_SCHEMA.empty_table()
                return table.select(columns) if columns is not None else table
            with self.folder.open(row["samples_file"]) as stream:
                file = SamplesFile(stream, row["samples_file"])
                if file.hash(row["samples_row_group"]) == row["sha256"]:
                    return file.read(row["samples_row_group"], columns)
            if not last_try:
                row = self._one(row["sha256"])
        raise DamagedError(f"{row['samples_file']} does not hold the delivery that the index has there. Run verify.")

    def _one(self, sha256: str) -> dict[str, Any]:
        """The row of one delivery. Raises `SetupError` where there is none, or more than one."""
        if not _is_hash(sha256):
            raise SetupError(f"{sha256!r} is no begin of a hash. Give 4 to 64 hexadecimal digits.")
        table = self._by_catalogue(sha256, None, None)
        if table.num_rows != 1:
            many = "no delivery" if not table.num_rows else f"{table.num_rows} deliveries"
            raise SetupError(f"The index in {self.folder.location} has {many} with the hash {sha256}.")
        found: dict[str, Any] = table.to_pylist()[0]
        return found

    def _by_catalogue(self, sha256: str | None, field: str | None, machine: str | None) -> Any:
        """By hash or field: from the catalogue of each year that has one, and the deliveries of the other years."""
        covered = catalogue.years(entry.name for entry in self.folder.list(f"{names.CATALOGUE}/*.parquet"))
        left_over = {(parts[0], parts[1]) for parts in self._pending()}
        wanted: set[tuple[str, str]] = {where for where in left_over if machine in (None, where[0])}
        whole = sha256 is not None and len(sha256) == 64
        if sha256 is not None or field is not None:
            for year in sorted(covered, reverse=True):
                name = catalogue.file_name(year)
                entries = catalogue.decode(self.folder.read(name), name, _needed(sha256, field))
                if sha256 is not None:
                    entries = catalogue.with_hash(entries, sha256.lower())
                if field is not None:
                    entries = catalogue.with_field(entries, field)
                hits = set(zip(*(entries.column(name).to_pylist() for name in ("linac", "month")), strict=True))
                wanted |= {(linac, month) for linac, month in hits if machine in (None, linac)}
                if whole and entries.num_rows:
                    break
        found = self._filtered(sorted(wanted), sha256, field)
        if found.num_rows and whole:
            return found
        rest = [
            (of, month)
            for of, month in self._months(machine, None, None)
            if (of, month) not in wanted and (whole or month[:4] not in covered or (sha256 is None and field is None))
        ]
        return _together([found, self._filtered(rest, sha256, field)], None)

    def _filtered(self, where: Iterable[tuple[str, str]], sha256: str | None, field: str | None) -> Any:
        tables = []
        for machine, month in where:
            for name in writer.files(self.folder, "deliveries", machine, month):
                data = self.folder.read(name)
                if sha256 is None and field is None:
                    tables.append(deliveries.decode(data, name))
                    continue
                few = deliveries.decode(data, name, ["sha256", "field_label", "field_name"])
                if sha256 is not None:
                    few = few.filter(pc.starts_with(few.column("sha256"), sha256.lower()))
                if field is not None:
                    few = catalogue.with_field(few, field)
                if few.num_rows:
                    table = deliveries.decode(data, name)
                    tables.append(table.filter(pc.is_in(table.column("sha256"), value_set=few.column("sha256").combine_chunks())))
        return _together(tables, None)

    def _pending(self) -> list[list[str]]:
        """Machine, month and batch of what a crashed run left: the catalogue may lack it."""
        return [entry.name.rsplit("_", 2) for entry in self.folder.list(f"{names.PENDING}/*{writer.RECORD}")]

    def _months(self, machine: str | None, start: datetime | None, end: datetime | None) -> Iterator[tuple[str, str]]:
        for of in [names.check_serial(machine)] if machine is not None else self.machines():
            for month in writer.months(self.folder, of):
                if (start is None or month >= names.month_of(start)) and (end is None or month <= names.month_of(end)):
                    yield of, month

    def _between(self, machine: str, month: str, start: datetime | None, end: datetime | None, columns: list[str] | None) -> Any:
        needed = None if columns is None else [*dict.fromkeys([*columns, "start_utc", "sha256"])]
        tables = [
            deliveries.decode(self.folder.read(name), name, needed)
            for name in writer.files(self.folder, "deliveries", machine, month)
        ]
        table = _together(tables, needed)
        if start is not None:
            table = table.filter(pc.greater_equal(table.column("start_utc"), pa.scalar(start, pa.timestamp("ms", "UTC"))))
        if end is not None:
            table = table.filter(pc.less(table.column("start_utc"), pa.scalar(end, pa.timestamp("ms", "UTC"))))
        return table

    # Keeping

    def verify(self, progress: Callable[[str], None] | None = None) -> "Report":
        """Read everything again and tell what is wrong: see `linac.index.verify`."""
        from linac.index.verify import verify

        return verify(self.folder, progress)

    def compact(self) -> int:
        """Finish what crashed runs left, and make the catalogue anew from the deliveries. How many deliveries it lists.

        Data files need none of it: they never come to be small, see `linac.index.writer`.
        """
        work = Writer(self.folder, "", self.lease)
        work.recover()
        with self.lease() as lease:
            return work.renew_catalogue(lease)


def _needed(sha256: str | None, field: str | None) -> list[str]:
    return ["linac", "month"] + (["sha256"] if sha256 else []) + (["field_label", "field_name"] if field else [])


def _is_hash(text: str) -> bool:
    return 4 <= len(text) <= 64 and all(letter in "0123456789abcdefABCDEF" for letter in text)


def _together(tables: list[Any], columns: list[str] | None) -> Any:
    """Tables of deliveries as one, by start."""
    empty = DELIVERIES_SCHEMA.empty_table()
    table = pa.concat_tables([empty if columns is None else empty.select(columns), *tables], promote_options="default")
    order = [("start_utc", "ascending"), ("sha256", "ascending")]
    return table.sort_by(order)


def _frame(table: Any) -> "pd.DataFrame":
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _with_leaf_columns(table: Any) -> "pd.DataFrame":
    import pandas as pd

    parts = []
    for name in table.column_names:
        bank = next((bank for bank in BANKS if bank.column == name), None)
        if bank is None:
            parts.append(table.select([name]).to_pandas())
            continue
        column = table.column(name).combine_chunks()
        values = pc.fill_null(column.values, np.nan).to_numpy(zero_copy_only=False).reshape(-1, LEAVES)
        if column.null_count:
            values = np.where(column.is_null().to_numpy(zero_copy_only=False)[:, None], np.float32(np.nan), values)
        parts.append(pd.DataFrame(values, columns=list(bank.leaves)))
    frame: pd.DataFrame = pd.concat(parts, axis=1)
    return frame


class _Adding:
    """One call of `add`."""

    def __init__(self, index: Index, serial: str, progress: Callable[[Added], None] | None) -> None:
        self._folder, self._serial, self._progress = index.folder, serial, progress
        self._writer = Writer(index.folder, serial, index.lease)
        self._batch_bytes = index._batch_bytes
        self._known: dict[str, dict[str, str]] = {}
        self._batch: dict[str, New] = {}
        self._size = 0
        self._aside: list[Quarantined] | None = None
        self.added = Added()

    def run(self, logs: Iterable[Log]) -> Added:
        self.added.recovered = self._writer.recover()
        try:
            for log in logs:
                self._take(log)
                if self._size >= self._batch_bytes:
                    self._flush()
                self._report()
        except Exception:
            self._flush()
            raise
        self._flush()
        self._report()
        return self.added

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self.added)

    def _take(self, log: Log) -> None:
        sha256 = hashlib.sha256(log.data).hexdigest()
        try:
            read = trf.decode(log.data, f"log {sha256[:12]}")  # names hold fields, and reasons travel into reports
        except TrfError as error:
            self._set_aside(log, sha256, str(error))
            return
        month = names.month_of(read.header.start)
        if month not in self._known:
            while len(self._known) >= KNOWN_MONTHS:
                del self._known[next(iter(self._known))]
            self._known[month] = writer.known(self._folder, month)
        if sha256 in self._batch or sha256 in self._known[month]:
            self.added.duplicates += 1
            if sha256 not in self._batch:
                self._release(log.name, sha256)
            return
        try:
            row = deliveries.make_row(
                read,
                sha256,
                linac=self._serial,
                name=log.name,
                source=log.source,
                size=len(log.data),
                indexed=datetime.now(UTC),
            )
        except MemoryError:
            raise
        except Exception as error:  # a fault of ours must not keep all other logs out, night after night
            self._set_aside(log, sha256, _our_fault(error))
            return
        self._batch[sha256] = New(sha256, log.name, log.data, read, row)
        self._size += len(log.data)

    def _flush(self) -> None:
        batch, self._batch, self._size = list(self._batch.values()), {}, 0
        if not batch:
            return
        done = self._writer.write(batch)
        for new in done.indexed:
            self.added.indexed += 1
            self.added.rows += new.trf.rows
            self.added.bytes += len(new.data)
        self.added.duplicates += len(done.known)
        self.added.files += [name for name in done.files if name not in self.added.files]
        for new in [*done.indexed, *done.known]:
            self._known.setdefault(new.month, {})[new.sha256] = self._serial
            self._release(new.name, new.sha256)
        for new, error in done.failed:
            self._set_aside(Log(new.name, new.data, new.row["backup"]), new.sha256, _our_fault(error))

    def _set_aside(self, log: Log, sha256: str, reason: str) -> None:
        quarantine.put(self._folder, self._serial, log.name, sha256, log.data, reason, log.source)
        self.added.quarantined.append((names.log_name(log.name), reason))
        self._aside = None

    def _release(self, name: str, sha256: str) -> None:
        """Let go of what was set aside and is in the index now: the same content, or the same log in a better copy."""
        if self._aside is None:
            self._aside = quarantine.listed(self._folder, self._serial)
        for item in [item for item in self._aside if item.sha256_begin == sha256[:12] or item.name == names.log_name(name)]:
            quarantine.remove(self._folder, item)
            self._aside.remove(item)
            self.added.released += 1


def _our_fault(error: Exception) -> str:
    return (
        f"This software failed on it ({type(error).__name__}: {str(error)[:300]}). The log may be in order: report this with the "
        "file, and run retry after the next update."
    )
