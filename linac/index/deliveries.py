"""The index proper: a row per delivery, and the Parquet files of them."""

import dataclasses
import io
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linac.errors import DamagedError
from linac.index.schema import DELIVERIES_SCHEMA, RENAMED, check, upgrade
from linac.trf.metrics import summarise
from linac.trf.reader import Trf

UNIQUE = ("sha256", "raw_file", "original_name")
"""Columns in which hardly any value occurs twice."""

FEW_ROWS = 32
"""Of fewer rows than this, neither a dictionary nor a compressor makes columns smaller."""

PLACES = ("raw_file", "samples_file", "samples_row_group")
"""Columns that say where the files of a delivery lie."""

Row = dict[str, Any]
"""One delivery, by column."""


def make_row(trf: Trf, sha256: str, *, linac: str, name: str, source: str, size: int, indexed: datetime) -> Row:
    """The row of one log; where its files lie is filled in when they are written. `indexed` is aware."""
    header = trf.header
    row: Row = dict.fromkeys(DELIVERIES_SCHEMA.names)
    found = summarise(trf)
    row.update({RENAMED.get(field.name, field.name): getattr(found, field.name) for field in dataclasses.fields(found)})
    row.update(
        sha256=sha256,
        linac=linac,
        start_local=header.local_start.replace(tzinfo=None),
        field=header.field,
        utc_offset_minutes=round(header.utc_offset.total_seconds() / 60),
        item_parts=len(header.item_parts),
        header_encoding=header.encoding,
        size_bytes=size,
        original_name=_text(name),
        backup=_text(source),
        indexed_utc=indexed,
    )
    return row


def _text(text: str) -> str:
    """Text that can be written as UTF-8: names from a zip or a disk may hold bytes that are none."""
    return text.encode("utf-8", "replace").decode("utf-8")


def to_table(rows: list[Row]) -> Any:
    """Rows as an Arrow table."""
    return pa.Table.from_pylist(rows, schema=DELIVERIES_SCHEMA)


def merge(old: Any | None, new: Any) -> Any:
    """Old and new rows in one table, by start, each delivery once: the old row stays."""
    if old is None:
        table = new
    else:
        known = set(old.column("sha256").to_pylist())
        fresh = [sha256 not in known for sha256 in new.column("sha256").to_pylist()]
        table = pa.concat_tables([old, new.filter(pa.array(fresh, pa.bool_()))], promote_options="default")
    order = list(zip(table.column("start_utc").cast(pa.int64()).to_pylist(), table.column("sha256").to_pylist(), strict=True))
    if order != sorted(order):  # a batch comes in order, and mostly later than what is there: sorting 60 columns takes longer
        table = table.sort_by([("start_utc", "ascending"), ("sha256", "ascending")])
    return table.replace_schema_metadata(DELIVERIES_SCHEMA.metadata)


def encode(table: Any) -> bytes:
    """A deliveries file."""
    sink = io.BytesIO()
    few = table.num_rows < FEW_ROWS
    repeated = [field.name for field in table.schema if pa.types.is_string(field.type) and field.name not in UNIQUE]
    # Statistics of all columns and Arrow's own schema would be more than the rows of a small month.
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="none" if few else "zstd",
        use_dictionary=False if few else repeated,
        write_statistics=["start_utc", "start_local"],
        store_schema=False,
    ) as file:
        file.write_table(table, row_group_size=max(1, table.num_rows))
        file.add_key_value_metadata(DELIVERIES_SCHEMA.metadata)
    return sink.getvalue()


def to_record(table: Any) -> bytes:
    """Rows as a record of what is coming: an Arrow stream, a tenth of the work of a Parquet file."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def from_record(data: bytes, name: str) -> Any:
    """What `to_record` wrote, as this version of the schema has it. Raises `DamagedError`, `SetupError` for newer software's."""
    try:
        table = pa.ipc.open_stream(data).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(
            f"{name}, which an interrupted run left, cannot be read ({type(error).__name__}). Move it away and run verify: if it "
            "tells of rows that the index does not have, move the deliveries and the samples of that linac's month away, and add "
            "its raw logs again."
        ) from error
    return upgrade(table, "deliveries", check(table.schema.metadata, "deliveries", name), name)


def is_current(data: bytes, name: str) -> bool:
    """Whether a deliveries file has all columns of this version of the schema. Errors as for `decode`."""
    try:
        file, _ = _open(data, name)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name, error) from error
    there = file.schema_arrow
    return all(
        there.get_field_index(field.name) >= 0 and there.field(field.name).type == field.type for field in DELIVERIES_SCHEMA
    )


def decode(data: bytes, name: str, columns: list[str] | None = None) -> Any:
    """A deliveries file as this version of the schema has it; with `columns`, those of them that the file has.

    Raises `DamagedError` for what is no such file, `SetupError` for one of newer software.
    """
    return DeliveriesFile(data, name).read(columns)


class DeliveriesFile:
    """A deliveries file, open for reading, for those who first look and then read. Errors as for `decode`."""

    def __init__(self, data: bytes, name: str) -> None:
        self._name = name
        try:
            self._file, self._version = _open(data, name)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(name, error) from error

    def read(self, columns: list[str] | None = None) -> Any:
        """What `decode` gives."""
        try:
            if columns is None:
                return upgrade(self._file.read(use_threads=False), "deliveries", self._version, self._name)
            return self._file.read(columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self._name, error) from error


def _open(data: bytes, name: str) -> tuple[Any, int]:
    file = pq.ParquetFile(pa.BufferReader(data))
    return file, check(file.metadata.metadata, "deliveries", name)


def _damaged(name: str, error: Exception) -> DamagedError:
    return DamagedError(
        f"{name} cannot be read as a deliveries file ({type(error).__name__}: {str(error)[:200]}). Restore it from a backup, "
        "or move it and the samples of that month away and add the raw logs of that month again."
    )
