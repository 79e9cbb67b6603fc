"""Does the index hold what it says? Everything is read again: logs, rows, checksums, and who points to whom."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linac import trf
from linac.errors import LinacError, SetupError
from linac.index import backups, catalogue, deliveries, names, quarantine, writer
from linac.index.reader import matrix
from linac.index.samples import MAX_MS, MIN_MS, SamplesFile
from linac.index.schema import AXES, BANKS, SAMPLES_SCHEMA
from linac.transport import Folder


@dataclass
class Report:
    """What was found. `problems` are sentences that say what is wrong and what to do; none: all is well."""

    deliveries: int = 0
    rows: int = 0
    raw_bytes: int = 0
    samples_files: int = 0
    samples_bytes: int = 0
    quarantined: int = 0
    backups: int = 0
    damaged_backups: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(folder: Folder, progress: Callable[[str], None] | None = None, *, values: bool = False) -> Report:
    """Read everything below `TRF` again. `values` compares every cell of the samples with the log it came from as well.

    It changes nothing and takes no lease: what a writer is doing meanwhile can look like a problem, and is none on a second run.
    Raises `SetupError` where newer software wrote a file of the index.
    """
    return _Verifying(folder, progress or (lambda _: None), values).run()


class _Verifying:
    def __init__(self, folder: Folder, progress: Callable[[str], None], values: bool) -> None:
        self._folder, self._progress, self._values = folder, progress, values
        self.report = Report()
        self._where: dict[bytes, str] = {}  # hash of a delivery: the deliveries file it is in
        self._years: dict[str, set[bytes]] = {}
        self._raw_files: set[str] = set()
        self._rows_alone: set[str] = set()  # hashes of samples without a delivery

    def _wrong(self, text: str) -> None:
        self.report.problems.append(text)

    def run(self) -> Report:
        self._folder.check()  # a share that is away looks like an index without deliveries
        if self._folder.find(names.ROOT) is None:
            self._wrong(
                f"{self._folder.location} holds no index: there is no folder {names.ROOT}. Give the site's records root; if it "
                "is that, its share is probably not connected, or nothing was ever added."
            )
        listed = set(writer.partitions(self._folder))
        for machine, month in sorted(listed | set(writer.partitions(self._folder, names.SAMPLES))):
            self._progress(f"{machine} {month}")
            self._partition(machine, month)
        self._raw_without_delivery()
        self._catalogue()
        self._aside()
        for entry in self._folder.list(f"{names.PENDING}/*"):
            if writer.is_strange(entry.name):
                self._wrong(f"{names.PENDING}/{entry.name} is not of the index. Move it away.")
                continue
            self._wrong(
                f"{names.PENDING}/{entry.name}: a run is at work, or was interrupted. The next add or compact finishes it."
            )
        return self.report

    def _partition(self, machine: str, month: str) -> None:
        rows: dict[str, dict[str, Any]] = {}
        for name in writer.files(self._folder, "deliveries", machine, month):
            try:
                table = deliveries.decode(self._folder.read(name), name)
            except SetupError:  # newer software's: what it means is not known, so nothing can be said of the rest either
                raise
            except LinacError as error:
                self._wrong(str(error))
                continue
            for row in table.to_pylist():
                self._row(row, name, machine, month, rows)
        seen: set[str] = set()
        for name, entry in writer.files(self._folder, "samples", machine, month).items():
            self.report.samples_files += 1
            self.report.samples_bytes += entry.size
            try:
                self._samples(name, rows, seen)
            except SetupError:
                raise
            except LinacError as error:
                self._wrong(str(error))
        self._strangers(machine, month)
        for sha256, row in rows.items():
            if row["rows"] and sha256 not in seen:
                self._wrong(f"{row['samples_file']}: the rows of delivery {sha256[:12]} are not there. {_ANEW}")

    def _strangers(self, machine: str, month: str) -> None:
        """What does not belong beside the files: pandas takes all that lies in a folder for data, but for `.name` and `_name`."""
        for tree in ("deliveries", "samples"):
            where = names.partition(tree, machine, month)
            for entry in self._folder.list(f"{where}/*"):
                if entry.is_folder or not (entry.name.endswith(".parquet") or entry.name.startswith((".", "_"))):
                    self._wrong(f"{where}/{entry.name} is not of the index, and readers stumble over it. Move it away.")

    def _row(self, row: dict[str, Any], name: str, machine: str, month: str, rows: dict[str, dict[str, Any]]) -> None:
        sha256 = row["sha256"]
        key = bytes.fromhex(sha256)
        if key in self._where:
            self._wrong(
                f"Delivery {sha256[:12]} is in {self._where[key]} and again in {name}. Something copied it there: remove one."
            )
            return
        self._where[key] = name
        rows[sha256] = row
        self._years.setdefault(month[:4], set()).add(key)
        self.report.deliveries += 1
        self.report.rows += row["rows"]
        if row["linac"] != machine or names.month_of(row["start_utc"]) != month:
            self._wrong(f"{name}: delivery {sha256[:12]} belongs to {row['linac']}, {names.month_of(row['start_utc'])}. {_ANEW}")
        self._raw(row)

    def _raw(self, row: dict[str, Any]) -> None:
        self._raw_files.add(row["raw_file"])
        try:
            data = self._folder.read(row["raw_file"])
        except LinacError as error:
            self._wrong(f"{error} It is the log of delivery {row['sha256'][:12]}: restore it from a backup.")
            return
        self.report.raw_bytes += len(data)
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            self._wrong(f"{row['raw_file']} is not as it was when it was indexed. Restore it from a backup.")
        elif self._values and (columns := altered(row, data)):
            self._wrong(
                f"{self._where[bytes.fromhex(row['sha256'])]}: delivery {row['sha256'][:12]} differs from what its log says in "
                f"{', '.join(columns)}. {_ANEW}"
            )

    def _samples(self, name: str, rows: dict[str, dict[str, Any]], seen: set[str]) -> None:
        with self._folder.open(name) as stream:
            file = SamplesFile(stream, name, check_pages=True)
            for row_group, sha256 in enumerate(file.hashes):
                row = rows.get(sha256)
                if row is None:
                    self._rows_alone.add(sha256)
                    self._wrong(
                        f"{name}: row group {row_group} is delivery {sha256[:12]}, which the index does not have there. A run "
                        f"was interrupted: the next one finishes it. If not: {_ANEW[0].lower()}{_ANEW[1:]}"
                    )
                    continue
                if sha256 in seen or (row["samples_file"], row["samples_row_group"]) != (name, row_group):
                    self._wrong(f"{name}: delivery {sha256[:12]} is there as row group {row_group}, and not only. {_ANEW}")
                seen.add(sha256)
                table = file.read(row_group)
                if table.num_rows != row["rows"]:
                    self._wrong(
                        f"{name}: delivery {sha256[:12]} has {table.num_rows} rows, and {row['rows']} in the index. {_ANEW}"
                    )
                elif self._values:
                    for column in different(table, self._folder.read(row["raw_file"])):
                        self._wrong(f"{name}: delivery {sha256[:12]} differs from its log in {column}. {_ANEW}")

    def _raw_without_delivery(self) -> None:
        """Logs that were kept but are in no partition: a run was interrupted, or deliveries were removed."""
        for name in _walk(self._folder, names.RAW, 3):
            if name not in self._raw_files:
                machine = name.split("/")[2]
                again = f"Add it again: python -m linac.index add <records root> --machine {machine} <this file>"
                known = self._rows_alone and hashlib.sha256(self._folder.read(name)).hexdigest() in self._rows_alone
                self._wrong(f"{name} is not in the index{', its rows are' if known else ''}. {_ANEW if known else again}")

    def _catalogue(self) -> None:
        for year in sorted({*self._years, *catalogue.years(entry.name for entry in self._folder.list(f"{names.CATALOGUE}/*"))}):
            name = catalogue.file_name(year)
            there = self._years.get(year, set())
            try:
                if self._folder.find(name) is None:
                    self._wrong(f"{name} is not there. Searching is slow until compact has run.")
                    continue
                listed = catalogue.decode(self._folder.read(name), name, ["sha256"]).column("sha256").to_pylist()
            except SetupError:
                raise
            except LinacError as error:
                self._wrong(str(error))
                continue
            missing, extra = len(there - set(listed)), len(set(listed) - there)
            if missing or extra or len(listed) != len(set(listed)):
                self._wrong(f"{name} lacks {missing} deliveries and has {extra} that are gone. Run compact: it is made again.")

    def _aside(self) -> None:
        for entry in self._folder.list(f"{names.QUARANTINE}/*"):
            for item in quarantine.listed(self._folder, entry.name):
                self.report.quarantined += 1
                if not item.is_whole:
                    self._wrong(f"{item.file} has no reason beside it: a run was interrupted. The next retry writes it.")
                data = self._folder.read(item.file)
                if not hashlib.sha256(data).hexdigest().startswith(item.sha256_begin):
                    self._wrong(f"{item.file} is not as it was when it was set aside. If somebody mended it, add it as a log.")
        for entry in self._folder.list(f"{names.BACKUPS}/*"):
            try:
                self.report.damaged_backups += len(backups.damaged(self._folder, entry.name))
                self.report.backups += len(backups.read(self._folder, entry.name))
            except LinacError as error:
                self._wrong(str(error))


_ANEW = "Move the deliveries and the samples of that linac's month away, and add its raw logs again."


def _walk(folder: Folder, where: str, depth: int) -> Iterator[str]:
    """All files so many folders below `where`."""
    for entry in folder.list(f"{where}/*"):
        if entry.is_folder and depth:
            yield from _walk(folder, f"{where}/{entry.name}", depth - 1)
        elif not entry.is_folder:
            yield f"{where}/{entry.name}"


def different(table: Any, raw: bytes) -> list[str]:
    """The columns of one delivery that are not what the log itself says, cell by cell."""
    log = trf.decode(raw)
    table_said = log.table
    said = dict(zip(table_said.column_names, table_said.columns, strict=True))
    wrong = []
    for item in AXES:
        if item.column in said:
            expected = said[item.column].cast(SAMPLES_SCHEMA.field(item.column).type)
        else:
            expected = pa.nulls(log.rows, SAMPLES_SCHEMA.field(item.column).type)
        if not _equal(table.column(item.column), expected):
            wrong.append(item.column)
    for bank in BANKS:
        leaves = [said[leaf].to_numpy() if leaf in said else np.full(log.rows, np.nan, np.float32) for leaf in bank.leaves]
        if not _close(matrix(table.column(bank.column)), np.column_stack(leaves)):
            wrong.append(bank.column)
    if table.column("row").to_pylist() != list(range(log.rows)):
        wrong.append("row")
    known = np.where((log.utc_ms >= MIN_MS) & (log.utc_ms <= MAX_MS), log.utc_ms, -1)  # what no calendar has is null
    if not np.array_equal(pc.fill_null(table.column("timestamp").cast(pa.int64()), -1).to_numpy(), known):
        wrong.append("timestamp")
    return wrong


def altered(row: dict[str, Any], raw: bytes) -> list[str]:
    """The columns of a delivery's row that are not what this software finds in its log."""
    made = deliveries.make_row(
        trf.decode(raw),
        row["sha256"],
        linac=row["linac"],
        name=row["original_name"] or "",
        source=row["backup"] or "",
        size=len(raw),
        indexed=row["indexed_utc"],
    )
    [said] = deliveries.to_table([made]).to_pylist()
    return [name for name, value in said.items() if name not in _PLACES and not _same(row[name], value)]


_PLACES = {"samples_file", "samples_row_group", "raw_file"}


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.isclose(left, right, rtol=1e-6, atol=1e-9, equal_nan=True))
    return bool(left == right)


def _equal(left: Any, right: Any) -> bool:
    """Whether two columns hold the same, whatever pieces and dictionaries they are made of."""

    def plain(column: Any) -> Any:
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column

    left, right = plain(left), plain(right)
    if not pa.types.is_floating(left.type):
        return bool(left.equals(right))
    return _close(left.to_numpy(zero_copy_only=False), right.to_numpy(zero_copy_only=False))


def _close(left: Any, right: Any) -> bool:
    """The same but for the last digit of a float32, in which two ways of dividing a count beyond 16 million may differ."""
    return left.shape == right.shape and bool(np.allclose(left, right, rtol=2e-7, atol=0, equal_nan=True))


def as_json(report: Report) -> str:
    """A report as JSON."""
    return json.dumps({**report.__dict__, "ok": report.ok}, ensure_ascii=False, indent=1)
