"""Asking the index: which deliveries there are, and the rows of one."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linac.errors import DamagedError, SetupError
from linac.index import catalogue, deliveries, names, writer
from linac.index.samples import SamplesFile
from linac.index.schema import BANKS, DELIVERIES_SCHEMA, LEAVES, SAMPLES_SCHEMA, UTC_MS
from linac.transport import Folder

if TYPE_CHECKING:
    import pandas as pd

Where = tuple[str, str]
"""A linac's serial and a month: what a partition holds."""

ORDER = ["start_utc", "sha256"]
"""What deliveries are sorted by."""

LOOKED_AT = ["sha256", "field_label", "field_name"]
"""What a look-up compares."""

PLACES = ["sha256", "raw_file", "samples_file", "samples_row_group"]
"""What is needed of a delivery's row to read its log or its rows."""


class Reader:
    """What can be asked of the index below a records root. It writes nothing."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

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
        _check(columns, DELIVERIES_SCHEMA)
        tables = [self._between(where, start, end, columns) for where in self._months(machine, start, end)]
        return _frame(_together(tables, columns))

    def find(
        self,
        sha256: str | None = None,
        field: str | None = None,
        day: date | None = None,
        machine: str | None = None,
        columns: list[str] | None = None,
    ) -> "pd.DataFrame":
        """The deliveries that all of these hold for: hash (or its begin), field, day by the site's clock, linac.

        `field` is the label, the name, or `label/name`, in any case; `*` stands for any text. `columns` are names of
        docs/data-dictionary.md.
        """
        _check(columns, DELIVERIES_SCHEMA)
        if sha256 is not None:
            sha256 = _hash(sha256)
        if day is None:
            return _frame(self._search(sha256, field, machine, columns))
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        start, end = noon - timedelta(hours=36), noon + timedelta(hours=36)  # no site is more than a day from UTC
        needed = None if columns is None else [*dict.fromkeys([*columns, *ORDER, *LOOKED_AT, "start_local"])]
        tables = []
        for where in self._months(machine, start, end):
            for name in writer.files(self.folder, "deliveries", *where):
                file = deliveries.DeliveriesFile(self.folder.read(name), name)
                if _on(day, file.read(["start_local"])).num_rows:
                    tables.append(_holding(_on(day, file.read(needed)), sha256, field))
        return _frame(_together(tables, columns))

    def samples(self, sha256: str, columns: list[str] | None = None, *, leaves: str = "lists") -> "pd.DataFrame":
        """The rows of one delivery, all or some columns. `sha256` may be its begin.

        Leaves come as the files have them, an array of 80 per row and bank (`leaves="lists"`), or as one column per leaf, named
        as in `linac.trf` (`leaves="columns"`).
        """
        _check(columns, SAMPLES_SCHEMA)
        if leaves not in ("lists", "columns"):
            raise SetupError(f"leaves={leaves!r} is not known. Give 'lists' or 'columns'.")
        table = self._rows_of(self._one(sha256), columns)
        return _frame(table) if leaves == "lists" else _leaf_columns(table)

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
        """Where the files of one delivery are. Raises `SetupError` where there is none, or more than one."""
        table = self._search(_hash(sha256), None, None, PLACES)
        if table.num_rows != 1:
            many = "no delivery" if not table.num_rows else f"{table.num_rows} deliveries"
            raise SetupError(f"The index in {self.folder.location} has {many} with the hash {sha256}.")
        found: dict[str, Any] = table.to_pylist()[0]
        return found

    def _search(self, sha256: str | None, field: str | None, machine: str | None, columns: list[str] | None) -> Any:
        """By hash or field: in the months that the catalogue says, and in those that it does not know of.

        It may lack the deliveries of a crashed run, which `TRF/pending` tells, and years that were never entered. A whole hash
        that it does not find is looked for everywhere: then the answer is no, and it is worth the time.
        """
        months = list(self._months(machine, None, None))
        if sha256 is None and field is None:
            return self._filtered(months, None, None, columns)
        whole = sha256 is not None and len(sha256) == 64
        years = catalogue.years(entry.name for entry in self.folder.list(f"{names.CATALOGUE}/*.parquet"))
        left = (entry.name.rsplit("_", 2) for entry in self.folder.list(f"{names.PENDING}/*{writer.RECORD}"))
        wanted = {(parts[0], parts[1]) for parts in left}
        for year in sorted(years, reverse=True):
            try:
                hits = self._in_catalogue(year, sha256, field)
            except DamagedError:
                years.remove(year)  # searched without it; verify tells
                continue
            wanted |= hits
            if whole and hits:
                break
        found = self._filtered([where for where in months if where in wanted], sha256, field, columns)
        if whole and found.num_rows:
            return found
        rest = [where for where in months if where not in wanted and (whole or where[1][:4] not in years)]
        return _together([found, self._filtered(rest, sha256, field, columns)], columns)

    def _in_catalogue(self, year: str, sha256: str | None, field: str | None) -> set[Where]:
        name = catalogue.file_name(year)
        needed = [
            "linac",
            "month",
            *(["sha256"] if sha256 else []),
            *(["field_label", "field_name"] if field is not None else []),
        ]
        with self.folder.open(name) as stream:  # of which three parts in four are hashes
            entries = catalogue.decode(stream, name, needed)
        if sha256 is not None:
            entries = catalogue.with_hash(entries, sha256)
        if field is not None:
            entries = catalogue.with_field(entries, field)
        return set(zip(*(entries.column(text).to_pylist() for text in ("linac", "month")), strict=True))

    def _filtered(self, months: Iterable[Where], sha256: str | None, field: str | None, columns: list[str] | None) -> Any:
        """The rows of some months that a hash, or its begin, and a field hold for. A file without any is hardly read."""
        looked_at = LOOKED_AT if field is not None else ["sha256"]
        needed = None if columns is None else [*dict.fromkeys([*columns, *ORDER, *looked_at])]
        tables = []
        for machine, month in months:
            for name in writer.files(self.folder, "deliveries", machine, month):
                file = deliveries.DeliveriesFile(self.folder.read(name), name)
                if needed is not None:
                    tables.append(_holding(file.read(needed), sha256, field))
                    continue
                few = _holding(file.read(looked_at), sha256, field)
                if few.num_rows:
                    table = file.read()
                    tables.append(table.filter(pc.is_in(table.column("sha256"), value_set=few.column("sha256").combine_chunks())))
        return _together(tables, columns)

    def _months(self, machine: str | None, start: datetime | None, end: datetime | None) -> Iterator[Where]:
        """The partitions of a linac, or of all, between two times. Few months are named without listing what else there is."""
        first = names.month_of(start) if start is not None else ""
        last = names.month_of(end) if end is not None else "9999-99"
        few = _few_months(first, last) if start is not None and end is not None else None
        for of in [names.check_serial(machine)] if machine is not None else self.machines():
            for month in few or writer.months(self.folder, of):
                if first <= month <= last:
                    yield of, month

    def _between(self, where: Where, start: datetime | None, end: datetime | None, columns: list[str] | None) -> Any:
        needed = None if columns is None else [*dict.fromkeys([*columns, *ORDER])]
        found = writer.files(self.folder, "deliveries", *where)
        table = _together([deliveries.decode(self.folder.read(name), name, needed) for name in found], needed)
        if start is not None:
            table = table.filter(pc.greater_equal(table.column("start_utc"), pa.scalar(start, UTC_MS)))
        if end is not None:
            table = table.filter(pc.less(table.column("start_utc"), pa.scalar(end, UTC_MS)))
        return table


def _few_months(first: str, last: str, most: int = 3) -> list[str] | None:
    """All months from the first to the last, `yyyy-mm`; None if there are many.

    >>> _few_months("2025-12", "2026-01"), _few_months("2025-12", "2026-12")
    (['2025-12', '2026-01'], None)
    """
    begin, end = (int(text[:4]) * 12 + int(text[5:]) - 1 for text in (first, last))
    months = [f"{number // 12:04}-{number % 12 + 1:02}" for number in range(begin, min(end, begin + most) + 1)]
    return months if len(months) <= most else None


def _hash(text: str) -> str:
    """A hash or its begin, in small letters."""
    if not 4 <= len(text) <= 64 or set(text.lower()) - set("0123456789abcdef"):
        raise SetupError(f"{text!r} is no begin of a hash. Give 4 to 64 hexadecimal digits.")
    return text.lower()


def _check(columns: list[str] | None, schema: Any) -> None:
    if unknown := set(columns or ()) - set(schema.names):
        raise SetupError(f"There is no column {', '.join(sorted(unknown))}. docs/data-dictionary.md lists them.")


def _on(day: date, table: Any) -> Any:
    """The rows of a day by the site's clock."""
    return table.filter(pc.equal(pc.cast(table.column("start_local"), pa.date32()), pa.scalar(day)))


def _holding(table: Any, sha256: str | None, field: str | None) -> Any:
    """The rows of a hash, or its begin, and of a field."""
    if sha256 is not None:
        table = table.filter(pc.starts_with(table.column("sha256"), sha256))
    return catalogue.with_field(table, field) if field is not None else table


def _together(tables: list[Any], columns: list[str] | None) -> Any:
    """Tables of deliveries as one, by start; with `columns`, those alone."""
    empty = DELIVERIES_SCHEMA.empty_table()
    if columns is not None:
        empty = empty.select([*dict.fromkeys([*columns, *ORDER])])
    table = pa.concat_tables([empty, *tables], promote_options="default")
    if table.num_rows > 1:
        table = table.sort_by([(name, "ascending") for name in ORDER])
    return table.select(columns) if columns is not None else table


def _frame(table: Any) -> "pd.DataFrame":
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _leaf_columns(table: Any) -> "pd.DataFrame":
    """Rows with a column per leaf, after all others."""
    import pandas as pd

    banks = [bank for bank in BANKS if bank.column in table.column_names]
    frame = _frame(table.drop_columns([bank.column for bank in banks]))
    leaves = [pd.DataFrame(matrix(table.column(bank.column)), columns=list(bank.leaves)) for bank in banks]
    wide: pd.DataFrame = pd.concat([frame, *leaves], axis=1)
    return wide


def matrix(column: Any) -> Any:
    """The leaves of a bank, rows x 80; NaN where there is no value."""
    values = np.full((len(column), LEAVES), np.nan, np.float32)
    leaves = pc.fill_null(column.combine_chunks().flatten(), np.float32(np.nan))
    values[column.is_valid().to_numpy()] = leaves.to_numpy(zero_copy_only=False).reshape(-1, LEAVES)
    return values
