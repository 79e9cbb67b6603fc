"""What the Parquet files hold: a row per column, with its type, unit and meaning. They outlive this software.

>>> [column.name for column in SAMPLES][:4]
['sha256', 'row', 'timestamp', 'control_point']
>>> next(column.unit for column in DELIVERIES if column.name == "duration_s")
's'

Both kinds of file say in their metadata what they are (`linac.index.kind`) and by which version of this table they were written
(`linac.index.version`). Columns may be added without a new version: readers fill what an older file lacks with nulls and keep
what a newer one has more. A column that is renamed, or means something else, makes a new version and an entry in `UPGRADES`.

No column is called `machine` or `month`: those are the folders' names, and pandas refuses a file that repeats one of them with
another type. The linac's serial is in `linac`, which is text whatever it looks like; readers guess the type of `machine`.
"""

import re
import types
import typing
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from linac.errors import DamagedError, SetupError
from linac.trf.item_parts import MLC_STATUS, STANDARD, ItemPart
from linac.trf.metrics import Metrics, meanings

VERSION = 1
"""Version of this table, in the metadata of each file."""

KIND_KEY, VERSION_KEY = b"linac.index.kind", b"linac.index.version"

LEAVES = 80
"""Leaves of a bank."""

UTC_MS = pa.timestamp("ms", "UTC")
LOCAL_MS = pa.timestamp("ms")
TEXT = pa.dictionary(pa.int32(), pa.string())
"""Text that repeats: plain text to other readers, a category to pandas, and a few bytes in the file."""
BANK = pa.list_(pa.field("element", pa.float32()))
"""Always 80 long. Not Arrow's fixed-size list: pyarrow 25 writes one that is null and cannot read it again."""
OTHERS = pa.list_(
    pa.field(
        "element",
        pa.struct([pa.field("item_part", pa.int32()), pa.field("sub_part", pa.int32()), pa.field("count", pa.int32())]),
    )
)


class Column(NamedTuple):
    """One column of the files. `unit` is empty where there is none."""

    name: str
    type: Any
    unit: str
    meaning: str


_LEAF = re.compile(r"(y[12])_leaf_([0-9]+)_(error_)?mm")


class Bank(NamedTuple):
    """One of the lists of 80 leaves, and the names of its leaves in `linac.trf`, leaf 1 first."""

    column: str
    leaves: tuple[str, ...]


def _banks() -> tuple[Bank, ...]:
    return tuple(
        Bank(f"{bank}_leaves_{error}mm", tuple(f"{bank}_leaf_{leaf}_{error}mm" for leaf in range(1, LEAVES + 1)))
        for bank in ("y1", "y2")
        for error in ("", "error_")
    )


BANKS = _banks()

AXES: tuple[ItemPart, ...] = tuple(item for item in (*STANDARD, MLC_STATUS) if not _LEAF.fullmatch(item.column))
"""The item parts that have a column of their own: all but the leaves."""


def _axis(item: ItemPart) -> Column:
    meaning = f"Elekta's `{item.name}`"
    if item.codes is not None:
        return Column(item.column, TEXT, "", f"{meaning}, as its word; a code that no table has reads `Unknown (48)`.")
    scale = f": count / {item.divisor}" if item.divisor > 1 else ": as counted"
    scale += " (unsigned 16 bit: wraps at 1024 MU)" if item.unsigned else ""
    return Column(item.column, pa.int32() if item.divisor == 1 else pa.float32(), item.unit, f"{meaning}{scale}.")


def _bank(bank: Bank) -> Column:
    name, error = bank.column[:2].upper(), "error" in bank.column
    what = "Positional Error" if error else "Scaled Actual"
    sign = "-count / 10" if name == "Y2" and not error else "count / 10"
    return Column(
        bank.column,
        BANK,
        "mm",
        f"Elekta's `{name} Leaf n/{what} (mm)` for n = 1 to {LEAVES}, leaf 1 first: {sign}. A leaf that the log does not have "
        "is null.",
    )


SAMPLES: tuple[Column, ...] = (
    Column("sha256", TEXT, "", "SHA-256 of the TRF file, in hex: which delivery the row belongs to."),
    Column("row", pa.int32(), "", "Number of the row in the log, from 0. Elekta's export counts time as row x 0.04 s."),
    Column(
        "timestamp",
        UTC_MS,
        "UTC",
        "When the row was recorded, to the millisecond: in version 1, which does not say, the header's start + row x 40 ms. Null "
        "where the log says a time before year 1 or after 9999.",
    ),
    *(_axis(item) for item in AXES),
    *(_bank(bank) for bank in BANKS),
    Column(
        "other_items",
        OTHERS,
        "",
        "What this table has no column for, if the log has such: item part, sub-part and the count as recorded, one each.",
    ),
)
"""The columns of the samples: a row per 40 ms."""

RENAMED = {"machine": "header_machine"}
"""Metrics that are called otherwise in the files: `machine` is a folder's name there, and the linac's serial."""

_UNITS = {
    "_mm": "mm",
    "_deg": "deg",
    "_s": "s",
    "_mu": "MU",
    "_mu_per_min": "MU/min",
    "_utc": "UTC",
    "_local": "site's wall clock",
    "_bytes": "bytes",
    "_minutes": "min",
}


def _unit(name: str) -> str:
    return next((unit for end, unit in sorted(_UNITS.items(), key=lambda pair: -len(pair[0])) if name.endswith(end)), "")


def _arrow(name: str, hint: Any) -> Any:
    """The Arrow type of a field of `Metrics`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) in (tuple, list):
        return pa.list_(pa.field("element", _arrow(name, typing.get_args(hint)[0])))
    if hint is datetime:
        return LOCAL_MS if name.endswith("_local") else UTC_MS
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[hint]


def _metrics() -> list[Column]:
    said = meanings()
    return [
        Column(RENAMED.get(name, name), _arrow(name, hint), _unit(name), said[name])
        for name, hint in typing.get_type_hints(Metrics).items()
    ]


DELIVERIES: tuple[Column, ...] = (
    Column("sha256", pa.string(), "", "SHA-256 of the TRF file, in hex: the delivery's identity, here and in the samples."),
    Column("linac", pa.string(), "", "The linac's serial, as the operator gave it; also in the folder's name, as `machine`."),
    *_metrics(),
    Column("field", pa.string(), "", "The field as the log says it, label and name in one."),
    Column("utc_offset_minutes", pa.int32(), "min", "The site's UTC offset by the header: start_local = start_utc + this."),
    Column("item_parts", pa.int32(), "", "Number of columns of the log (350 in all versions 1 to 3 seen)."),
    Column("header_encoding", pa.string(), "", "How the header's text was read: utf-8, or latin-1 where it is not UTF-8."),
    Column("size_bytes", pa.int64(), "bytes", "Size of the TRF file."),
    Column("original_name", pa.string(), "", "The TRF file's name where it came from, folders included."),
    Column("backup", pa.string(), "", "The backup, or the folder, that it came from first."),
    Column("raw_file", pa.string(), "", "Where the TRF file is kept, below the records root."),
    Column("samples_file", pa.string(), "", "The Parquet file with its rows, below the records root. Null if it has no row."),
    Column("samples_row_group", pa.int32(), "", "Which row group of that file is this delivery, and nothing else, from 0."),
    Column("indexed_utc", UTC_MS, "UTC", "When it was taken into the index."),
)
"""The columns of the index: a row per delivery."""


def as_markdown(columns: tuple[Column, ...]) -> str:
    """Columns as a table of docs/data-dictionary.md."""
    plain = {str(TEXT): "text", "string": "text", str(UTC_MS): "timestamp, UTC", str(LOCAL_MS): "timestamp, no zone"}
    plain |= {str(BANK): "list of 80 float", str(OTHERS): "list of struct", "list<element: int64>": "list of int64"}
    rows = [
        f"| `{name}` | {plain.get(str(kind), str(kind))} | {unit} | {meaning.replace('|', chr(92) + '|')} |"
        for name, kind, unit, meaning in columns
    ]
    return "\n".join(["| column | type | unit | meaning |", "| --- | --- | --- | --- |", *rows])


def _schema(kind: str, columns: tuple[Column, ...]) -> Any:
    fields = [pa.field(column.name, column.type, metadata={"unit": column.unit} if column.unit else None) for column in columns]
    return pa.schema(fields, metadata={KIND_KEY: kind.encode(), VERSION_KEY: str(VERSION).encode()})


DELIVERIES_SCHEMA = _schema("deliveries", DELIVERIES)
SAMPLES_SCHEMA = _schema("samples", SAMPLES)

UPGRADES: dict[str, dict[int, Callable[[Any], Any]]] = {"deliveries": {}, "samples": {}}
"""By kind and version: what makes a table of that version one of the next. Version 1 is the first."""


def check(metadata: dict[bytes, bytes] | None, kind: str, name: str) -> int:
    """The version of a file by its metadata.

    Raises `DamagedError` if it is no such file of ours, `SetupError` if newer software wrote it.
    """
    metadata = metadata or {}
    if metadata.get(KIND_KEY, b"").decode("utf-8", "replace") != kind:
        raise DamagedError(
            f"{name} is not a file of the index ({kind}). Something else put it there, or changed it: move it out of the folder "
            "TRF, then run verify."
        )
    text = metadata.get(VERSION_KEY, b"")
    if not text.isdigit() or int(text) > VERSION:
        raise SetupError(
            f"{name} was written by a newer version of this software (layout {text.decode('utf-8', 'replace')}; this one knows "
            f"up to {VERSION}). Update this installation; nothing was changed."
        )
    return int(text)


def upgrade(table: Any, kind: str, version: int, name: str) -> Any:
    """A table as read from a file of `version`, as this version has it: upgraded, missing columns null, columns in order.

    Columns that this version does not know stay, at the end.
    """
    for step in range(version, VERSION):
        table = UPGRADES[kind][step](table)
    schema = DELIVERIES_SCHEMA if kind == "deliveries" else SAMPLES_SCHEMA
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    have = {field.name: index for index, field in enumerate(table.schema)}
    arrays, fields = [], []
    for field in schema:
        if field.name in have:
            column = table.column(have[field.name])
            arrays.append(column if column.type == field.type else _cast(column, field, name))
        else:
            arrays.append(pa.nulls(table.num_rows, field.type))
        fields.append(field)
    for field in table.schema:
        if schema.get_field_index(field.name) < 0:
            arrays.append(table.column(have[field.name]))
            fields.append(field)
    return pa.table(arrays, schema=pa.schema(fields, metadata=schema.metadata))


def _cast(column: Any, field: Any, name: str) -> Any:
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DamagedError(
            f"{name}: the column {field.name} is {column.type} and not {field.type}. Something else changed the file: restore it "
            "from a backup, or move it away and add the raw logs again."
        ) from error
