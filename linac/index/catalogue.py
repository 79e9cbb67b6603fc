"""What finds one delivery among a million without reading them all: hash, linac, start and field of each, a file per year.

It is made from the deliveries and can be made again. A year's file is whole or not there, and a year without one is searched in
the deliveries themselves: so it makes answers fast, never wrong.
"""

import io
import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linac.errors import DamagedError
from linac.index import names
from linac.index.schema import KIND_KEY, UTC_MS, VERSION, VERSION_KEY, check

SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.binary(32)),
        pa.field("linac", pa.string()),
        pa.field("start_utc", UTC_MS),
        pa.field("field_label", pa.string()),
        pa.field("field_name", pa.string()),
    ],
    metadata={KIND_KEY: b"catalogue", VERSION_KEY: str(VERSION).encode()},
)
TAKEN = ["sha256", "linac", "start_utc", "field_label", "field_name"]
"""The columns of the deliveries that it is made from."""

_YEAR = re.compile(r"([0-9]{4})\.parquet")


def file_name(year: str) -> str:
    """The file of one year."""
    return f"{names.CATALOGUE}/{year}.parquet"


def years(listed: Iterable[str]) -> list[str]:
    """The years that a listing of the catalogue's folder has."""
    return [match[1] for name in listed if (match := _YEAR.fullmatch(name))]


def from_deliveries(table: Any) -> Any:
    """Entries for rows of deliveries."""
    hashes = pa.array([bytes.fromhex(text) for text in table.column("sha256").to_pylist()], pa.binary(32))
    return pa.table([hashes, *(table.column(name).cast(SCHEMA.field(name).type) for name in TAKEN[1:])], schema=SCHEMA)


def encode(table: Any) -> bytes:
    """A catalogue file. Hashes do not get smaller, so they are stored as they are, to be read at memory speed."""
    sink = io.BytesIO()
    packed = {name: "none" if name == "sha256" else "zstd" for name in TAKEN}
    pq.write_table(table, sink, compression=packed, use_dictionary=["linac", "field_label", "field_name"])
    return sink.getvalue()


def decode(data: bytes, name: str, columns: list[str] | None = None) -> Any:
    """A catalogue file. Raises `DamagedError` for what is none, `SetupError` for one of newer software."""
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        check(file.schema_arrow, "catalogue", name)
        return file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{name} cannot be read ({type(error).__name__}). Remove it, then run compact: it is made again.") from error


def with_hash(table: Any, prefix: str) -> Any:
    """The entries whose hash begins with `prefix`, in hex."""
    whole = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    column = table.column("sha256")
    if len(whole) == 32:
        return table.filter(pc.equal(column, pa.scalar(whole, pa.binary(32))))
    low = whole + (bytes([int(prefix[-1], 16) << 4]) if len(prefix) % 2 else b"")
    high = whole + (bytes([int(prefix[-1], 16) << 4 | 15]) if len(prefix) % 2 else b"")
    lowest, highest = low.ljust(32, b"\0"), high.ljust(32, b"\xff")
    plain = column.cast(pa.binary())
    return table.filter(pc.and_(pc.greater_equal(plain, lowest), pc.less_equal(plain, highest)))


def with_field(table: Any, pattern: str) -> Any:
    """The entries whose field's label, name, or `label/name` is `pattern`: any case, `*` for any text."""
    wanted = re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.IGNORECASE | re.DOTALL)
    label, name = (table.column(column).combine_chunks().dictionary_encode() for column in ("field_label", "field_name"))
    hits = [_matching(column, wanted) for column in (label, name)]
    if "/" in pattern or "*" in pattern:
        both = pc.binary_join_element_wise(table.column("field_label"), table.column("field_name"), "/").combine_chunks()
        hits.append(_matching(both.dictionary_encode(), wanted))
    mask = hits[0]
    for more in hits[1:]:
        mask = pc.or_(mask, more)
    return table.filter(mask)


def _matching(column: Any, wanted: "re.Pattern[str]") -> Any:
    """Which rows of a dictionary-encoded column match; each distinct text is looked at once."""
    good = [index for index, text in enumerate(column.dictionary.to_pylist()) if wanted.fullmatch(text)]
    return pc.fill_null(pc.is_in(column.indices, value_set=pa.array(good, pa.int32())), False)
