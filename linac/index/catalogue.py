"""What finds one delivery among a million without reading them all: hash, linac, month and field of each, a file per year.

It is made from the deliveries and can be made again. A year's file is whole or not there, and a year without one is searched in
the deliveries themselves: so it makes answers fast, never wrong.
"""

import io
import re
from collections.abc import Iterable
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linac.errors import DamagedError
from linac.index import names
from linac.index.ahead import ParquetFile
from linac.index.schema import KIND_KEY, TEXT, VERSION, VERSION_KEY, check

SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.binary(32)),
        pa.field("linac", TEXT),
        pa.field("month", TEXT),
        pa.field("field_label", TEXT),
        pa.field("field_name", TEXT),
    ],
    metadata={KIND_KEY: b"catalogue", VERSION_KEY: str(VERSION).encode()},
)
TAKEN = ["sha256", "linac", "start_utc", "field_label", "field_name"]
"""The columns of the deliveries that it is made from."""

TEXTS = ("linac", "month", "field_label", "field_name")

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
    month = pc.strftime(table.column("start_utc"), format="%Y-%m")
    texts = [table.column("linac"), month, table.column("field_label"), table.column("field_name")]
    return pa.table([hashes, *(column.dictionary_encode() for column in texts)], schema=SCHEMA)


def merge(old: Any, new: Any) -> Any | None:
    """Entries of both, each once; None if `old` has them all."""
    fresh = new.filter(pc.invert(pc.is_in(new.column("sha256"), value_set=old.column("sha256").combine_chunks())))
    return pa.concat_tables([old, fresh]) if fresh.num_rows else None


def encode(table: Any) -> bytes:
    """A catalogue file. Hashes do not get smaller, so they are stored as they are, to be read at memory speed."""
    sink = io.BytesIO()
    packed = {name: "none" if name == "sha256" else "zstd" for name in SCHEMA.names}
    one = table.unify_dictionaries().combine_chunks()
    pq.write_table(one, sink, compression=packed, use_dictionary=list(TEXTS), write_statistics=False)
    return sink.getvalue()


def decode(source: bytes | IO[bytes], name: str, columns: list[str] | None = None) -> Any:
    """A catalogue file, or some columns of it: then only their bytes are read of an open file.

    Raises `DamagedError` for what is none, `SetupError` for one of newer software.
    """
    try:
        file = ParquetFile(source)
        check(file.metadata.metadata, "catalogue", name)
        return file.read_all(columns)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(
            f"{name} cannot be read ({type(error).__name__}). Remove it, then run compact: it is made again."
        ) from error


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
    label, name = (_dictionary(table.column(column)) for column in ("field_label", "field_name"))
    mask = pc.or_kleene(_matching(label, pattern), _matching(name, pattern))
    for index, letter in enumerate(pattern):  # label/name: either may hold slashes of its own
        if letter == "/":
            mask = pc.or_kleene(mask, pc.and_kleene(_matching(label, pattern[:index]), _matching(name, pattern[index + 1 :])))
    return table.filter(mask)


def _dictionary(column: Any) -> Any:
    column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _matching(column: Any, pattern: str) -> Any:
    """Which rows of a dictionary-encoded column match; each distinct text is looked at once."""
    wanted = ".*".join(re.escape(part) for part in pattern.split("*"))
    good = pc.match_substring_regex(column.dictionary, f"(?is)^{wanted}$")
    return pc.take(good, column.indices)
