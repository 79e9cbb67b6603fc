"""Row groups of a Parquet file, written straight from whole numbers: smaller and faster than from a table of floats.

Why not `pyarrow.parquet` alone? A TRF holds whole counts, tenths of a millimetre; users get physical values. pyarrow's writer
would hash two million floats per log to find that they are a few hundred distinct ones. From the counts the dictionary is a
look-up table, and it can do two things that no option of pyarrow asks for: sort the dictionary, and give its indices whole
bytes (Parquet allows any width that is wide enough), so that the compressor sees the machine's own numbers. Measured on the
samples this is about three times faster and, by the same compressor, a sixth smaller. It writes a small and old part of the
format: data pages of version 1, dictionary (`RLE_DICTIONARY`) and `DELTA_BINARY_PACKED` pages, Snappy, checksums.

The footer's schema is pyarrow's own, and reading is left to pyarrow. The format: https://github.com/apache/parquet-format
(`parquet.thrift`, `Encodings.md`), its footer in Thrift's compact protocol.
"""

import functools
import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from isal import isal_zlib

MAGIC = b"PAR1"
PAGE_ROWS = 1 << 15
"""Rows of a data page, at most: 22 minutes of a log."""
PROBES = 1 << 12
"""Counts that are looked at to learn whether most of those in between occur."""
SMALL_CHUNK = 192
"""A column chunk of fewer bytes than this is not worth a compressor's time: it is stored as it is."""

INT32, INT64, FLOAT, BYTE_ARRAY = 1, 2, 4, 6
PLAIN, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT = 0, 3, 5, 8, 9
UNCOMPRESSED, SNAPPY, ZSTD = 0, 1, 6
DATA_PAGE, DICTIONARY_PAGE = 0, 2


# Thrift's compact protocol, as far as a footer needs it. A struct is a dict of field number to (type, value).

_TRUE, _FALSE, _I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 4, 5, 6, 8, 9, 12
_RAW = -1  # elements that are encoded already

Struct = dict[int, tuple[int, Any]]

_SHORT = tuple(bytes([number]) for number in range(0x80))


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _zigzag(number: int) -> bytes:
    return _varint((number << 1) ^ (number >> 63))


def _write(kind: int, value: Any) -> bytes:
    if kind == _RAW:
        return bytes(value)
    if kind in (_I16, I32, I64):
        return _zigzag(value)
    if kind == BINARY:
        return _varint(len(value)) + bytes(value)
    if kind == STRUCT:
        return write_struct(value)
    element, values = value
    of = STRUCT if element == _RAW else element
    head = bytes([len(values) << 4 | of]) if len(values) < 15 else bytes([0xF0 | of]) + _varint(len(values))
    return head + b"".join(_write(element, item) for item in values)


def write_struct(fields: Struct) -> bytes:
    """A struct, its fields in ascending order."""
    out, last = bytearray(), 0
    for number, (kind, value) in sorted(fields.items()):
        out += bytes([number - last << 4 | kind])  # no footer skips 15 numbers
        if kind not in (_TRUE, _FALSE):
            out += _write(kind, value)
        last = number
    return bytes(out + b"\0")


def read_struct(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """A struct, and where it ends."""
    fields: Struct = {}
    number = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if not step:
            raise ValueError("a field number in the long form, which no footer needs")
        number += step
        value, at = (None, at) if kind in (_TRUE, _FALSE) else _read(data, at, kind)
        fields[number] = kind, value
    return fields, at + 1


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return number, at


def _read(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == STRUCT:
        return read_struct(data, at)
    if kind == LIST:
        element, count = data[at] & 15, data[at] >> 4
        at += 1
        if count == 15:
            count, at = _read_varint(data, at)
        values = []
        for _ in range(count):
            value, at = _read(data, at, element)
            values.append(value)
        return (element, values), at
    number, at = _read_varint(data, at)
    if kind == BINARY:
        return data[at : at + number], at + number
    if kind in (_I16, I32, I64):
        return (number >> 1) ^ -(number & 1), at
    raise ValueError(f"Thrift type {kind}, which no footer needs")


# Values


class Values(NamedTuple):
    """One column of one delivery.

    `width` is 1, or the number of values per row of a list column; 0 says that the whole column is null. `present` tells which
    of the rows x width values are not null (None: all are). Of those that are, in order: `indices` into `dictionary` (`entries`
    values, encoded PLAIN; None if there is but one), or `whole` numbers, to be stored as differences, or `floats`. `bounds` are
    the least and the greatest value, encoded PLAIN, for the statistics.
    """

    width: int = 1
    present: npt.NDArray[np.bool_] | None = None
    indices: npt.NDArray[Any] | None = None
    dictionary: bytes = b""
    entries: int = 0
    whole: npt.NDArray[np.int64] | None = None
    floats: npt.NDArray[np.float32] | None = None
    bounds: tuple[bytes, bytes] | None = None


NULL = Values(width=0)


def distinct(counts: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """The distinct counts, ascending, and for each count its place among them; None where there is but one.

    By table, without sorting, unless they lie far apart. Where most numbers between the least and the greatest occur, as leaf
    positions of an arc do, all of them are given, and no table is needed. There must be at least one count.
    """
    flat = counts.reshape(-1)
    low, high = int(flat.min()), int(flat.max())
    span = high - low + 1
    if span == 1:
        return flat[:1], None
    if span > 1 << 16:
        found, places = np.unique(flat, return_inverse=True)
        return found, places.astype(_index_type(len(found)))
    offsets = flat - flat.dtype.type(low)  # wraps where 16 bits are too few for the difference, which as unsigned is right
    offsets = offsets.view(np.uint16) if offsets.dtype.itemsize == 2 else offsets.astype(np.uint16)
    seen = np.zeros(span, np.bool_)
    if len(flat) > PROBES:
        seen[offsets[:: 1 + len(offsets) // PROBES]] = True
        if span <= 1 << 8 or np.count_nonzero(seen) * 2 > span:
            return np.arange(low, high + 1).astype(flat.dtype), offsets.astype(_index_type(span), copy=False)
    where = offsets.astype(np.intp)
    seen[where] = True
    found = np.flatnonzero(seen)
    table = np.zeros(span, _index_type(len(found)))
    table[found] = np.arange(len(found))
    return (found + low).astype(flat.dtype), table.take(where)


def _index_type(entries: int) -> Any:
    return np.uint8 if entries <= 1 << 8 else np.uint16 if entries <= 1 << 16 else np.uint32


# Pages


def _bit_packed(values: npt.NDArray[Any]) -> list[bytes]:
    """Numbers of whole bytes in the RLE / bit-packing hybrid, as they are: their width, then one run of groups of 8."""
    size = values.dtype.itemsize
    groups = -(-len(values) // 8)
    little = values.astype(f"<u{size}", copy=False)
    return [bytes([8 * size]) + _varint(groups << 1 | 1), little.tobytes(), bytes((groups * 8 - len(values)) * size)]


def _indices(values: npt.NDArray[Any]) -> list[bytes]:
    """Dictionary indices: as runs where they mostly repeat, such as the linac's state, else as they are."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    if len(changes) * 16 > len(values):
        return _bit_packed(values)
    size = values.dtype.itemsize
    starts = [0, *changes.tolist()]
    runs = zip(starts, [*starts[1:], len(values)], values[starts].tolist(), strict=True)
    return [bytes([8 * size]), *(_varint((end - start) << 1) + value.to_bytes(size, "little") for start, end, value in runs)]


def _level_run(level: int, count: int) -> bytes:
    run = _varint(count << 1) + bytes([level])
    return struct.pack("<I", len(run)) + run


def _level_bits(bits: npt.NDArray[Any], count: int) -> bytes:
    packed = np.packbits(bits, bitorder="little").tobytes()
    groups = -(-count // 8)
    per_group = max(1, bits.size // max(1, count))  # bytes of a group of 8 levels is the width of a level in bits
    run = _varint(groups << 1 | 1) + packed + bytes(groups * per_group - len(packed))
    return struct.pack("<I", len(run)) + run


def _repetition(rows: int, width: int) -> bytes:
    """0 where a row begins, 1 within it."""
    bits = np.ones((rows, width), np.bool_)
    bits[:, 0] = False
    return _level_bits(bits, rows * width)


def _definition(present: npt.NDArray[np.bool_] | None, count: int, deepest: int) -> bytes:
    """`deepest` where there is a value, one less where there is none."""
    if present is None or present.all():
        return _level_run(deepest, count)
    if not present.any():
        return _level_run(deepest - 1, count)
    levels = np.where(present, deepest, deepest - 1)
    return _level_bits(levels[:, None] >> np.arange(deepest.bit_length()) & 1, count)


@functools.lru_cache(maxsize=64)
def _levels_of_all(rows: int, width: int, definition: int, repetition: int) -> bytes:
    """The levels of a page in which no value is null; `width` 0: in which all rows are."""
    deepest = definition if width else 0
    if not repetition:
        return _level_run(deepest, rows)
    return (_repetition(rows, width) if width else _level_run(0, rows)) + _level_run(deepest, rows * max(1, width))


def _deltas(values: npt.NDArray[np.int64]) -> bytes:
    """DELTA_BINARY_PACKED: blocks of 128 differences, in 4 miniblocks of 32, each packed in as many bits as it needs."""
    head = _varint(128) + _varint(4) + _varint(len(values)) + _zigzag(int(values[0]) if len(values) else 0)
    if len(values) < 2:
        return head
    differences = np.diff(values)
    filled = np.full(-(-len(differences) // 128) * 128, differences[-1])
    filled[: len(differences)] = differences
    blocks = filled.reshape(-1, 128)
    least = blocks.min(axis=1)
    minis = (blocks - least[:, None]).view(np.uint64).reshape(-1, 32)
    minis.reshape(-1)[len(differences) :] = 0
    widths = [int(most).bit_length() for most in minis.max(axis=1)]
    packed = [b""] * len(minis)
    for width in set(widths) - {0}:
        places = [place for place, other in enumerate(widths) if other == width]
        bits = (minis[places][:, :, None] >> np.arange(width, dtype=np.uint64) & np.uint64(1)).astype(np.bool_)
        data = np.packbits(bits, bitorder="little").tobytes()
        for number, place in enumerate(places):
            packed[place] = data[number * 4 * width : (number + 1) * 4 * width]
    out = [head]
    for number, low in enumerate(least.tolist()):
        out += [_zigzag(low), bytes(widths[4 * number : 4 * number + 4]), *packed[4 * number : 4 * number + 4]]
    return b"".join(out)


class Leaf(NamedTuple):
    """A column of the file's schema: its path, its physical type, and how deep its values are nested."""

    path: str
    type: int
    definition: int
    repetition: int


class Chunk(NamedTuple):
    """A column chunk as written: where its pages begin in the body, and what the footer says of it. `known` are the fields of
    its metadata that are the same wherever it stands, `statistics` are encoded too."""

    known: bytes
    uncompressed: int
    compressed: int
    data_at: int
    dictionary_at: int | None
    statistics: bytes

    @property
    def first(self) -> int:
        """Where its first page begins."""
        return self.data_at if self.dictionary_at is None else self.dictionary_at


@functools.cache
def quick() -> Any:
    """Snappy: what comes in is to be in the index soon. It takes half the time of zstd at its quickest; `repack` packs harder,
    when there is time."""
    return pa.Codec("snappy")


def _i32s(*numbers: int) -> bytes:
    """Fields of a struct that follow each other, all int32."""
    return b"".join([b"\x15" + _zigzag(number) for number in numbers])


def _page(out: bytearray, kind: int, data: bytes, is_packed: bool, specific: bytes) -> int:
    """Append a page to `out`; how large it is uncompressed, its header included. `specific` is the end of its header."""
    packed = quick().compress(data, asbytes=True) if is_packed else data
    crc = isal_zlib.crc32(packed)
    head = _i32s(kind, len(data), len(packed), crc - (1 << 32) if crc >> 31 else crc) + specific
    out += head
    out += packed
    return len(head) + len(data)


def _pages(leaf: Leaf, rows: int, values: Values, encoding: int) -> list[tuple[int, bytes, bytes]]:
    """Kind, content and end of the header of each page of a column chunk."""
    pages = []
    if values.entries:
        # Field 7 of a page's header: the dictionary's entries, PLAIN.
        pages.append((DICTIONARY_PAGE, values.dictionary, b"\x3c" + _i32s(values.entries, PLAIN) + b"\0\0"))
    stored = next((part for part in (values.whole, values.floats, values.indices) if part is not None), None)
    width, done = values.width, 0
    for start in range(0, rows, PAGE_ROWS):
        page_rows = min(PAGE_ROWS, rows - start)
        count = page_rows * max(1, width)
        if values.present is None:
            here = count
            parts = [_levels_of_all(page_rows, width, leaf.definition, leaf.repetition)]
        else:
            present = values.present[start * width : start * width + count]
            here = int(np.count_nonzero(present))
            parts = [_repetition(page_rows, width) if leaf.repetition else b"", _definition(present, count, leaf.definition)]
        if width:
            parts += _encoded(encoding, stored[done : done + here] if stored is not None else None, here, width)
            done += here
        # Field 5 of a page's header: values, their encoding, and that of the levels.
        pages.append((DATA_PAGE, b"".join(parts), b"\x1c" + _i32s(count, encoding, RLE, RLE) + b"\0\0"))
    return pages


def write_chunk(out: bytearray, leaf: Leaf, rows: int, values: Values) -> Chunk:
    """Append one column of one delivery to the body `out`."""
    at = len(out)
    if values.indices is None and values.whole is None and values.floats is None and values.present is None:
        body, (known, uncompressed, compressed, data_at, dictionary_at, _) = _constant(
            leaf, rows, values.width, values.dictionary, values.entries
        )
        out += body
        place = at + dictionary_at if dictionary_at is not None else None
        return Chunk(known, uncompressed, compressed, at + data_at, place, _statistics(values))
    return _chunk(out, leaf, rows, values)


@functools.lru_cache(maxsize=256)
def _constant(leaf: Leaf, rows: int, width: int, dictionary: bytes, entries: int) -> tuple[bytes, Chunk]:
    """A column of one value, or of none: most columns of most logs."""
    body = bytearray()
    chunk = _chunk(body, leaf, rows, Values(width=width, dictionary=dictionary, entries=entries))
    return bytes(body), chunk


def _chunk(out: bytearray, leaf: Leaf, rows: int, values: Values) -> Chunk:
    """Append the pages of a column to `out`."""
    encoding = RLE_DICTIONARY if values.entries else PLAIN
    if values.whole is not None:
        encoding = DELTA_BINARY_PACKED
    elif values.floats is not None:
        encoding = BYTE_STREAM_SPLIT
    pages = _pages(leaf, rows, values, encoding)
    is_packed = sum([len(data) for _, data, _ in pages]) >= SMALL_CHUNK
    first = data_at = len(out)
    uncompressed = 0
    for number, (kind, data, specific) in enumerate(pages):
        uncompressed += _page(out, kind, data, is_packed, specific)
        if not number and values.entries:
            data_at = len(out)
    packed_by = SNAPPY if is_packed else UNCOMPRESSED
    # Fields 5, 6, 7 of a chunk's metadata: values, bytes uncompressed and compressed.
    sizes = [b"\x16" + _zigzag(size) for size in (rows * max(1, values.width), uncompressed, len(out) - first)]
    return Chunk(
        _known_of(leaf, packed_by, encoding, bool(values.entries)) + b"".join(sizes),
        uncompressed,
        len(out) - first,
        data_at,
        first if values.entries else None,
        _statistics(values),
    )


def _encoded(encoding: int, part: Any, count: int, width: int) -> list[bytes]:
    """The values of one page."""
    if encoding == DELTA_BINARY_PACKED:
        return [_deltas(part)]
    if encoding == BYTE_STREAM_SPLIT:
        return [np.ascontiguousarray(part.astype("<f4").view(np.uint8).reshape(-1, 4).T).tobytes()]
    if encoding == RLE_DICTIONARY and part is None:
        return [b"\x01" + _varint(count << 1) + b"\0"]
    if encoding == RLE_DICTIONARY:
        return _indices(part) if width == 1 else _bit_packed(part)
    return []


def _statistics(values: Values) -> bytes:
    if values.bounds is None:
        return b""
    nulls = int(len(values.present) - np.count_nonzero(values.present)) if values.present is not None else 0
    low, high = values.bounds
    return write_struct({3: (I64, nulls), 5: (BINARY, high), 6: (BINARY, low)})


class Group(NamedTuple):
    """A row group as written."""

    rows: int
    chunks: list[Chunk]


@functools.lru_cache(maxsize=1024)
def _known_of(leaf: Leaf, packed_by: int, encoding: int, has_dictionary: bool) -> bytes:
    """The fields of a column chunk that are the same in every row group: type, encodings, path, codec."""
    encodings = sorted({RLE, encoding, *([PLAIN] if has_dictionary else [])})
    path = [part.encode() for part in leaf.path.split(".")]
    return write_struct({1: (I32, leaf.type), 2: (LIST, (I32, encodings)), 3: (LIST, (BINARY, path)), 4: (I32, packed_by)})[:-1]


def _group(group: Group, base: int) -> bytes:
    """A row group for the footer; `base` is where the body begins in the file."""
    columns = []
    for known, _, _, data_at, dictionary_at, statistics in group.chunks:
        # 2: its place; 3: its metadata; therein 9 and 11: where its data and its dictionary begin; 12: statistics.
        data = _varint((base + data_at) << 1)
        first, places = data, b"\x26" + data
        if dictionary_at is not None:
            first = _varint((base + dictionary_at) << 1)
            places += b"\x26" + first
        if statistics:
            places += (b"\x1c" if dictionary_at is not None else b"\x3c") + statistics
        columns.append(b"".join((b"\x26", first, b"\x1c", known, places, b"\0\0")))
    return write_struct(
        {
            1: (LIST, (_RAW, columns)),
            2: (I64, sum([chunk.uncompressed for chunk in group.chunks])),
            3: (I64, group.rows),
            5: (I64, base + group.chunks[0].first),
            6: (I64, sum([chunk.compressed for chunk in group.chunks])),
        }
    )


class Layout:
    """What pyarrow makes of a schema: the footer of a file without rows, and the leaves in order."""

    def __init__(self, schema: Any) -> None:
        sink = io.BytesIO()
        pq.write_table(schema.empty_table(), sink, compression="zstd")
        empty = sink.getvalue()
        found = pq.ParquetFile(io.BytesIO(empty)).schema
        types = {"INT32": INT32, "INT64": INT64, "FLOAT": FLOAT, "BYTE_ARRAY": BYTE_ARRAY}
        self.leaves = tuple(
            Leaf(leaf.path, types[leaf.physical_type], leaf.max_definition_level, leaf.max_repetition_level)
            for leaf in (found.column(index) for index in range(len(found)))
        )
        self._footer, _ = read_struct(empty[len(empty) - 8 - struct.unpack_from("<I", empty, len(empty) - 8)[0] :])
        self.keys = frozenset(pair[1][1] for pair in self._footer[5][1][1])

    def file(
        self, body: bytes | bytearray, groups: Sequence[Group], base: int = len(MAGIC), notes: Mapping[bytes, bytes] | None = None
    ) -> bytes:
        """A whole file. Offsets are right if `body` stands at `base` in it. `notes` go to the file's metadata."""
        kind, known = self._footer[5][1]
        more: list[Struct] = [{1: (BINARY, key), 2: (BINARY, value)} for key, value in (notes or {}).items()]
        footer = write_struct(
            {
                **self._footer,
                5: (LIST, (kind, [*known, *more])),
                3: (I64, sum(group.rows for group in groups)),
                4: (LIST, (_RAW, [_group(group, base) for group in groups])),
            }
        )
        return MAGIC + bytes(body) + footer + struct.pack("<I", len(footer)) + MAGIC


def join(old: bytes, layout: Layout, body: bytes | bytearray, groups: Sequence[Group]) -> bytes | None:
    """`old` with more row groups behind its own, which stay where they are, byte by byte, and with the notes of its own. None if
    its schema is another."""
    end = len(old) - 8 - int(struct.unpack_from("<I", old, len(old) - 8)[0])
    metadata = pq.read_metadata(io.BytesIO(old))
    notes = {key: value for key, value in metadata.metadata.items() if key not in layout.keys}
    more = pq.read_metadata(io.BytesIO(layout.file(b"", groups, base=end, notes=notes)))
    if not metadata.schema.equals(more.schema) or metadata.metadata != more.metadata:
        return None
    metadata.append_row_groups(more)
    sink = io.BytesIO()
    metadata.write_metadata_file(sink)
    return old[:end] + bytes(body) + sink.getvalue()[len(MAGIC) :]
