"""Logs into files, each exactly once, whatever happens in between.

What readers may see, at any moment and after any crash: whole Parquet files; in `deliveries` only deliveries whose rows are in
`samples` and whose log is in `raw`; each delivery once in either. Plain readers list a folder and open what they find, so
nothing may ever stand there twice, not even while files are joined. Therefore

- a file only ever grows: the old file and more rows, staged in `TRF/pending`, put in its place by one rename. Small files so
  never come to be, no rows ever move from file to file, and no file that a reader has listed disappears;
- nothing unfinished is written beside the files: pandas would take it for data;
- the order is, month by month: raw logs, a record of what is coming (`TRF/pending/*.record`), samples, deliveries; then, for all
  months of the batch: catalogue, records away. A record moves to `TRF/repack`, where it says which month has samples that can
  be packed harder (`linac.index.repack`). A delivery counts as indexed once it is in `deliveries`. After a crash the next
  writer finds the records: where the samples are in place, it does the rest, else it forgets the record, and whoever brings the
  logs again brings them anew. In between, the samples hold whole deliveries that the index does not know yet, which is all that
  a reader can notice;
- one writer at a time (`lease`). What is known is looked up again once the lease is held.

What is known: a log belongs to the month of its own start, so only that month of each linac is looked at, however old the
index is.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from linac.errors import DamagedError, SetupError, StorageError
from linac.index import catalogue, deliveries, names
from linac.index.deliveries import Row
from linac.index.lease import Lease
from linac.index.samples import Encoded, SamplesFile
from linac.index.schema import VERSION
from linac.transport import Entry, Folder
from linac.trf.reader import Trf

GROW_BYTES = 8 << 20
"""A samples file smaller than this is continued by the next logs of its month; a larger one is left as it is."""

RECORD, STAGED = ".record", ".new"
_RECORDED = re.compile(r".+_\d{4}-\d{2}_[0-9a-f]{12}\.record")


@dataclass
class New:
    """A log that is to be indexed."""

    sha256: str
    name: str
    data: bytes
    trf: Trf
    row: Row

    @property
    def month(self) -> str:
        """The month it is filed under."""
        return names.month_of(self.trf.header.start)


@dataclass
class Written:
    """What a batch came to: the logs that are now indexed, those that another run had indexed by then, those that our own
    encoder failed on, and the files changed."""

    indexed: list[New] = field(default_factory=list)
    known: list[New] = field(default_factory=list)
    failed: list[tuple[New, Exception]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Leasing(Protocol):
    """Makes the lease of one batch."""

    def __call__(self) -> Lease: ...


def repack_mark(machine: str, month: str) -> str:
    """The mark that a month has samples that can be packed harder. Only its name counts."""
    return f"{names.REPACK}/{machine}_{month}"


def partitions(folder: Folder, tree: str = names.DELIVERIES) -> Iterator[tuple[str, str]]:
    """Machine and month of all partitions, in order."""
    for machine in machines(folder, tree):
        for month in months(folder, machine, tree):
            yield machine, month


def machines(folder: Folder, tree: str = names.DELIVERIES) -> list[str]:
    """The linacs that have deliveries."""
    return [entry.name.partition("=")[2] for entry in folder.list(f"{tree}/machine=*") if entry.is_folder]


def months(folder: Folder, machine: str, tree: str = names.DELIVERIES) -> list[str]:
    """The months of a linac that have deliveries."""
    found = (entry.name.partition("=")[2] for entry in folder.list(f"{tree}/machine={machine}/month=*") if entry.is_folder)
    return [month for month in found if names.is_month(month)]


def files(folder: Folder, tree: str, machine: str, month: str) -> dict[str, Entry]:
    """The Parquet files of a partition, by name below the root."""
    where = names.partition(tree, machine, month)
    return {f"{where}/{entry.name}": entry for entry in folder.list(f"{where}/*.parquet") if not entry.is_folder}


def is_strange(name: str) -> bool:
    """Whether a file in `TRF/pending` is none of ours: it is left alone."""
    return name.endswith(RECORD) and not _RECORDED.fullmatch(name)


def known(folder: Folder, month: str) -> dict[str, str]:
    """The hashes of all deliveries of a month, and which linac each is filed under."""
    found: dict[str, str] = {}
    for machine in machines(folder):
        for name in files(folder, "deliveries", machine, month):
            hashes = deliveries.decode(folder.read(name), name, ["sha256"]).column("sha256").to_pylist()
            found.update(dict.fromkeys(hashes, machine))
    return found


def called(folder: Folder, machine: str) -> set[str]:
    """The names that the linac's logs of its latest month give their machine; none where there are none that can be read."""
    found: set[str] = set()
    for name in files(folder, "deliveries", machine, max(months(folder, machine), default="")):
        with contextlib.suppress(DamagedError):  # verify tells
            found.update(deliveries.decode(folder.read(name), name, ["header_machine"]).column("header_machine").to_pylist())
    return found


class Writer:
    """Writes batches of logs of one linac."""

    def __init__(self, folder: Folder, machine: str, lease: Leasing) -> None:
        self._folder, self._machine, self._lease = folder, machine, lease
        self._refused: set[str] = set()  # files that could not be replaced, because some reader has them open

    def recover(self) -> int:
        """Finish what a crashed run left, and say how many deliveries came into the index by it. Costs a listing if nothing."""
        if not self._folder.list(f"{names.PENDING}/*"):
            return 0
        with self._lease() as lease:
            return self._recover(lease)

    def write(self, batch: list[New]) -> Written:
        """Bring a batch into the index. Its logs are readable and distinct; some may be known by now."""
        done = Written()
        by_month: dict[str, list[New]] = {}
        for new in sorted(batch, key=lambda new: (new.trf.header.start, new.sha256)):
            by_month.setdefault(new.month, []).append(new)
        encoded = {month: _encode(logs, done.failed) for month, logs in by_month.items()}
        bad = {new.sha256 for new, _ in done.failed}
        with self._lease() as lease:
            self._recover(lease)
            committed: dict[str, tuple[str, Any, list[Any]]] = {}
            for month, all_logs in by_month.items():
                there = known(self._folder, month)
                logs = [new for new in all_logs if new.sha256 not in bad]
                fresh = [new for new in logs if new.sha256 not in there]
                done.known += [new for new in logs if new.sha256 in there]
                if fresh:
                    rows = encoded[month] if len(fresh) == len(logs) else _encode(fresh)
                    self._keep_raw(lease, fresh)
                    changed, record, table, month_now = self._commit(lease, month, fresh, rows)
                    committed[month] = record, table, month_now
                    done.files += changed
                    done.indexed += fresh
            self._enter(
                lease,
                {month: table for month, (_, table, _) in committed.items()},
                {(self._machine, month): month_now for month, (_, _, month_now) in committed.items()},
            )
            for month, (record, _, _) in committed.items():
                lease.keep()
                self._folder.replace(record, repack_mark(self._machine, month))
        return done

    def _keep_raw(self, lease: Lease, logs: list[New]) -> None:
        """Each log under its own name; one of the same name and other content gets the begin of its hash as well."""
        listings: dict[str, dict[str, str]] = {}
        for new in logs:
            where = names.raw_folder(self._machine, new.trf.header.start)
            if where not in listings:
                listings[where] = {entry.name.casefold(): entry.name for entry in self._folder.list(f"{where}/*.trf")}
            for suffix in ("", new.sha256[:8], new.sha256):
                name = names.log_name(new.name, suffix)
                there = listings[where].get(name.casefold())  # Windows and most shares take a.trf and A.trf for one
                if there is None or suffix == new.sha256:
                    lease.keep()
                    self._folder.write(f"{where}/{name}", new.data)
                    listings[where][name.casefold()] = there = name
                elif self._folder.read(f"{where}/{there}") != new.data:
                    continue
                new.row["raw_file"] = f"{where}/{there}"
                break

    def _commit(self, lease: Lease, month: str, logs: list[New], encoded: Encoded) -> tuple[list[str], str, Any, list[Any]]:
        """The samples and deliveries of logs that are not known, of one month.

        Files changed, the record, the rows of it, and what the catalogue takes of all deliveries that the month has now.
        """
        batch = hashlib.sha256("".join(sorted(new.sha256 for new in logs)).encode()).hexdigest()[:12]
        record = f"{names.PENDING}/{self._machine}_{month}_{batch}{RECORD}"
        changed = []
        places = {sha256: index for index, sha256 in enumerate(encoded.hashes)}
        while places:
            target, old = self._samples_to_continue(month, batch)
            data = encoded.continuing(old) if old is not None else encoded.file()
            if data is None:
                self._refused.add(target)
                continue
            first = SamplesFile(old, target).metadata.num_row_groups if old is not None else 0
            for new in logs:
                if new.sha256 in places:
                    new.row["samples_file"], new.row["samples_row_group"] = target, first + places[new.sha256]
            table = deliveries.to_table([new.row for new in logs])
            lease.keep()
            self._folder.write(record, deliveries.to_record(table))
            if self._put(lease, target, data, old is not None):
                changed.append(target)
                break
        else:
            table = deliveries.to_table([new.row for new in logs])
            lease.keep()
            self._folder.write(record, deliveries.to_record(table))
        published, month_now = self._publish(lease, self._machine, month, table)
        return changed + published, record, table, month_now

    def _samples_to_continue(self, month: str, batch: str) -> tuple[str, bytes | None]:
        """The samples file that more rows go to, and what it holds now: the smallest that is small, or else a new one."""
        found = files(self._folder, "samples", self._machine, month)
        small = {name: entry for name, entry in found.items() if entry.size < GROW_BYTES and name not in self._refused}
        for name in sorted(small, key=lambda name: (small[name].size, name)):
            old = self._folder.read(name)
            try:
                if SamplesFile(old, name).version == VERSION:
                    return name, old
            except (DamagedError, SetupError):  # left for verify to tell; nothing is built upon it
                continue
        for count in range(1, len(found) + 2):
            suffix = f"-{count}" if count > 1 else ""
            name = f"{names.partition('samples', self._machine, month)}/samples-{self._machine}-{month}-{batch}{suffix}.parquet"
            if name not in found:
                break
        return name, None

    def _put(self, lease: Lease, name: str, data: bytes, replaces: bool) -> bool:
        """Put a file in its place, all at once. False if it would replace one that a reader keeps open; Windows refuses that."""
        staged = f"{names.PENDING}/{name.rpartition('/')[2]}{STAGED}"
        lease.keep()
        self._folder.write(staged, data)
        lease.keep(surely=True)
        try:
            self._folder.replace(staged, name)
        except StorageError:
            if not replaces:
                raise
            if self._folder.read(name) == data:  # it was done, and only the answer was lost
                return True
            self._folder.remove(staged)
            self._refused.add(name)
            return False
        return True

    def _publish(self, lease: Lease, machine: str, month: str, table: Any) -> tuple[list[str], list[Any]]:
        """Bring rows into `deliveries` (this is the commit), those that are not there yet.

        Files changed, and what the catalogue takes of all deliveries that the month has now.
        """
        changed: list[str] = []
        while True:
            found = files(self._folder, "deliveries", machine, month)
            tables = {name: deliveries.decode(self._folder.read(name), name) for name in found}
            there = {sha256 for old in tables.values() for sha256 in old.column("sha256").to_pylist()}
            fresh = [sha256 not in there for sha256 in table.column("sha256").to_pylist()]
            if not any(fresh):
                return changed, [each.select(catalogue.TAKEN) for each in tables.values()]
            new = table if all(fresh) else table.filter(pa.array(fresh, pa.bool_()))
            free = [name for name in sorted(found, key=lambda name: found[name].size) if name not in self._refused]
            where = f"{names.partition('deliveries', machine, month)}/deliveries-{machine}-{month}"
            if free:
                target, old = free[0], tables[free[0]]
            else:
                target, old = f"{where}-{len(found) + 1}.parquet" if found else f"{where}.parquet", None
                while target in found:
                    target = target.replace(".parquet", "x.parquet")
            if self._put(lease, target, deliveries.encode(deliveries.merge(old, new)), old is not None):
                changed.append(target)
                return changed, [each.select(catalogue.TAKEN) for each in (*tables.values(), new)]

    def _enter(self, lease: Lease, tables: dict[str, Any], now: Mapping[tuple[str, str], list[Any]]) -> None:
        """Bring rows of deliveries, by month, into the catalogue. A year's file is made only with all that the year has; `now`
        is what is known of it already."""
        by_year: dict[str, list[Any]] = {}
        for month, table in tables.items():
            by_year.setdefault(month[:4], []).append(table)
        for year, rows in by_year.items():
            name = catalogue.file_name(year)
            try:
                old = catalogue.decode(self._folder.read(name), name) if self._folder.find(name) else None
            except DamagedError:
                old = None  # made anew
            if old is None:  # from all deliveries of the year, the rows among them
                merged = self.year(year, now)
            else:
                merged = catalogue.merge(old, catalogue.from_deliveries(pa.concat_tables(rows)))
            if merged is not None:
                self._put(lease, name, catalogue.encode(merged), replaces=False)

    def year(self, year: str, now: Mapping[tuple[str, str], list[Any]] | None = None) -> Any:
        """The catalogue of a year, from the deliveries. Partitions whose deliveries are in `now` are not read again."""
        tables = [catalogue.SCHEMA.empty_table()]
        for where in partitions(self._folder):
            if not where[1].startswith(f"{year}-"):
                continue
            found = (now or {}).get(where)
            if found is None:
                there = files(self._folder, "deliveries", *where)
                found = [deliveries.decode(self._folder.read(name), name, catalogue.TAKEN) for name in there]
            tables += [catalogue.from_deliveries(table) for table in found]
        return pa.concat_tables(tables)

    def _recover(self, lease: Lease) -> int:
        """Finish or forget what crashed runs left: only the holder of the lease writes in `TRF/pending`."""
        recovered = 0
        left = self._folder.list(f"{names.PENDING}/*")
        for entry in left:
            if _RECORDED.fullmatch(entry.name):
                recovered += self._finish(lease, f"{names.PENDING}/{entry.name}")
        for entry in left:
            lease.keep()
            if _RECORDED.fullmatch(entry.name):
                machine, month, _ = entry.name.rsplit("_", 2)
                self._folder.replace(f"{names.PENDING}/{entry.name}", repack_mark(machine, month))
            elif not is_strange(entry.name):
                self._folder.remove(f"{names.PENDING}/{entry.name}")
        return recovered

    def _finish(self, lease: Lease, record: str) -> int:
        """One record: the deliveries whose samples are in place come into the index. How many did."""
        machine, month, _ = record.rpartition("/")[2].rsplit("_", 2)
        table = deliveries.from_record(self._folder.read(record), record)
        places = zip(*(table.column(name).to_pylist() for name in ("samples_file", "samples_row_group", "sha256")), strict=True)
        files_there: dict[str, SamplesFile] = {}
        for name, row_group, sha256 in places:
            if name is None:
                continue
            if name not in files_there:
                if self._folder.find(name) is None:
                    return 0
                files_there[name] = SamplesFile(self._folder.read(name), name)
            if files_there[name].hash(row_group) != sha256:
                return 0
        changed, month_now = self._publish(lease, machine, month, table)
        self._enter(lease, {month: table}, {(machine, month): month_now})
        return table.num_rows if changed else 0


def _encode(logs: list[New], failed: list[tuple[New, Exception]] | None = None) -> Encoded:
    """The rows of logs, of those that have any. A log that cannot be encoded goes to `failed`."""
    encoded = Encoded()
    for new in logs:
        try:
            if new.trf.rows:
                encoded.add(new.trf, new.sha256)
        except MemoryError:
            raise
        except Exception as error:
            if failed is None:
                raise
            failed.append((new, error))
    return encoded
