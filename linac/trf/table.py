"""A TRF in physical units, as an Arrow table: one column per item part, at memory speed."""

import functools
import os
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from linac.trf.item_parts import NO_VALUE, Code, Column, Part, columns, label
from linac.trf.reader import Counts, Trf

BLOCK_ROWS = 256
"""Rows turned at a time: 256 rows of 350 columns, as float32, stay in a core's own cache."""

TIMESTAMP, TIME = "timestamp", "time_s"
"""The two columns before those of the item parts."""

Bytes = npt.NDArray[np.uint8]
Cells = npt.NDArray[np.float32]
Valid = npt.NDArray[np.bool_]


def make_table(trf: Trf) -> pa.Table:
    """The log as an Arrow table of rows x (2 + item parts), in physical units.

    `timestamp` is when the row was recorded, in UTC to the millisecond (in version 1, which does not say, start + row x 40
    ms); `time_s` the seconds since the first row, float32. Then each item part in the order of the header, under the name
    `ItemPart.column`, unit last (`gantry_deg`, `y1_leaf_40_error_mm`), Elekta's name in the field's metadata as `elekta`:
    float32 where counts are fractions of a unit (the float32 nearest to the decimal number), int32 where they are whole, or
    of unknown meaning; linac state and wedge position as dictionary-encoded text, a code that no table has as
    `Unknown (48)`. "No value" is null. The types depend on the header alone, so tables of one machine can be concatenated.
    Peak memory is about twice the log's size in versions 1 to 3 and once in version 4.
    """
    layout = _layout(trf.header.item_parts)
    whole, cells, stamps = _allocate(layout, trf.rows)
    stamps[:] = utc_ms = trf.utc_ms
    if trf.rows:
        cells[0] = (utc_ms.astype(np.float64) - float(utc_ms[0])) / 1000
    missing = _fill(cells[1:], trf.counts, layout)
    batch = pa.ipc.read_record_batch(pa.py_buffer(whole), layout.plain)
    for index in {*layout.words, *missing}:
        at = index + 2
        valid = trf.counts[:, index] != NO_VALUE if index in missing else None
        if index in layout.words:
            array = _in_words(cells[1 + index].view(np.int32), valid, layout.words[index])
        else:
            array = _with_nulls(batch.column(at), valid)
        batch = batch.set_column(at, layout.schema.field(at), array)
    return pa.Table.from_batches([batch], schema=layout.schema)


def _fill(cells: Cells, counts: Counts, layout: "_Layout") -> set[int]:
    """Write the counts of all columns as physical values, and say which columns hold "no value" somewhere.

    `counts` is rows x columns and `cells` columns x rows, so the work is a transposition. It is done in blocks that fit the
    cache: there the counts are divided, each column by its own divisor, and the quotients written out column by column.
    Dividing rather than multiplying by 0.1 makes them the nearest float32, as a text of 0.1 reads.
    """
    missing = False
    physical = np.empty((min(BLOCK_ROWS, len(counts)), counts.shape[1]), np.float32)
    for start in range(0, len(counts), BLOCK_ROWS):
        block = counts[start : start + BLOCK_ROWS]
        block = block if block.flags.aligned else block.copy()  # headers of odd length: numpy is slow in what follows
        missing = missing or block.min() <= NO_VALUE
        rows = len(block)
        np.divide(block, layout.divisors[:rows], out=physical[:rows], dtype=np.float32, casting="same_kind")
        for run in layout.turned:
            physical[:rows, run] += np.float32(0)  # -0 becomes 0
        cells[:, start : start + rows] = physical[:rows].T
    for index in layout.whole:  # float32 holds any 16-bit count, but not any 32-bit one
        cells[index].view(np.int32)[:] = cells[index] if counts.itemsize == 2 else counts[:, index]
    for index in layout.unsigned:
        cells[index][cells[index] < 0] += (1 << 16) / layout.columns[index].item.divisor
    found = np.flatnonzero((counts == NO_VALUE).any(axis=0)) if missing else ()
    return {int(index) for index in found if index not in layout.unsigned}


class _Words(NamedTuple):
    """The words of a coded column. `places[code + 1]` is where a code's word stands, -1 at both ends and for no word."""

    codes: dict[int, Code]
    words: pa.Array
    places: npt.NDArray[np.int32]


def _words(codes: dict[int, Code]) -> _Words:
    places = np.full(max(codes) + 3, -1, np.int32)
    places[np.array(list(codes)) + 1] = np.arange(len(codes))
    return _Words(codes, pa.array([label(codes, code) for code in codes], pa.string()), places)


def _in_words(counts: npt.NDArray[np.int32], valid: Valid | None, known: _Words) -> pa.DictionaryArray:
    """Codes as words: those of the table, and then the unknown ones that occur."""
    indices = known.places.take(counts + 1, mode="clip")
    words = known.words
    if valid is not None:
        indices[~valid] = 0
    if indices.size and indices.min() < 0:
        unknown = indices < 0
        numbers, where = np.unique(counts[unknown], return_inverse=True)
        indices[unknown] = len(words) + where
        words = pa.array([*words.to_pylist(), *(label(known.codes, int(number)) for number in numbers)], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=None if valid is None else ~valid), words)


def _with_nulls(array: pa.Array, valid: Valid | None) -> pa.Array:
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(array.type, len(array), [bitmap, array.buffers()[1]])


# Making 350 Arrow arrays one by one from Python takes as long as all else together. So all columns are written into one piece
# of memory, laid out as a record batch message of Arrow's IPC format (https://arrow.apache.org/docs/format/Columnar.html), and
# Arrow makes the arrays itself, in place. The message's head is a FlatBuffer, made once per list of item parts by letting
# Arrow serialise one row; in a copy of it only numbers are replaced: the rows, and each buffer's place and length.


class _Layout(NamedTuple):
    """What a list of item parts means for its tables."""

    columns: tuple[Column, ...]
    divisors: Cells  # as wide as the counts, and a block high: numpy is faster so than when it has to repeat a row
    whole: list[int]
    unsigned: list[int]
    turned: list[slice]  # columns that change sign
    words: dict[int, _Words]
    schema: pa.Schema
    plain: pa.Schema
    head: bytes
    rows_at: int
    body_bytes_at: int
    nodes_at: int
    buffers_at: int


@functools.lru_cache(maxsize=4)  # a site's linacs list the same item parts, or two kinds of them
def _layout(parts: tuple[Part, ...]) -> _Layout:
    found = columns(parts)
    items = [column.item for column in found]
    fields = [pa.field(TIMESTAMP, pa.timestamp("ms", "UTC")), pa.field(TIME, pa.float32())]
    plain = list(fields)
    for column in found:
        stored = pa.int32() if column.item.divisor == 1 else pa.float32()
        shown = pa.dictionary(pa.int32(), pa.string()) if column.item.codes else stored
        plain.append(pa.field(column.column, stored))
        fields.append(pa.field(column.column, shown, metadata={"elekta": column.name}))
    one_row = pa.record_batch([pa.array([0], field.type) for field in plain], schema=pa.schema(plain))
    message = one_row.serialize().to_pybytes()
    head = message[: 8 + struct.unpack_from("<I", message, 4)[0]]
    rows_at, body_bytes_at, nodes_at, buffers_at = _places(head)
    return _Layout(
        columns=found,
        divisors=np.tile(np.array([item.sign * item.divisor for item in items], np.float32), (BLOCK_ROWS, 1)),
        whole=[index for index, item in enumerate(items) if item.divisor == 1],
        unsigned=[index for index, item in enumerate(items) if item.unsigned],
        turned=_runs([index for index, item in enumerate(items) if item.sign < 0]),
        words={index: _words(item.codes) for index, item in enumerate(items) if item.codes},
        schema=pa.schema(fields),
        plain=pa.schema(plain),
        head=head,
        rows_at=rows_at,
        body_bytes_at=body_bytes_at,
        nodes_at=nodes_at,
        buffers_at=buffers_at,
    )


def _runs(indices: list[int]) -> list[slice]:
    """Ascending numbers as slices of numbers that follow each other."""
    found: list[slice] = []
    for index in indices:
        if found and found[-1].stop == index:
            found[-1] = slice(found[-1].start, index + 1)
        else:
            found.append(slice(index, index + 1))
    return found


def _places(head: bytes) -> tuple[int, int, int, int]:
    """Where a record batch message's head holds the rows, the body's size, the columns' nodes and the buffers.

    By Arrow's Message.fbs: Message has version, header type, header, bodyLength; RecordBatch has length, nodes, buffers. A
    FlatBuffer table begins with the distance back to its vtable, which says after 4 bytes where each field stands.
    """

    def field(table: int, index: int) -> int:
        vtable = table - int(struct.unpack_from("<i", head, table)[0])
        return table + int(struct.unpack_from("<H", head, vtable + 4 + 2 * index)[0])

    def follow(at: int) -> int:
        return at + int(struct.unpack_from("<I", head, at)[0])

    message = follow(8)
    batch = follow(field(message, 2))
    return field(batch, 0), field(message, 3), follow(field(batch, 1)) + 4, follow(field(batch, 2)) + 4


def _allocate(layout: _Layout, rows: int) -> tuple[Bytes, Cells, npt.NDArray[np.int64]]:
    """Memory for a whole message; in it the cells (columns x rows, of 4 bytes) and the timestamps, yet to be written."""
    count = 1 + len(layout.columns)
    stamp_bytes, cell_bytes = -(-8 * rows // 64) * 64, -(-4 * rows // 64) * 64
    body_bytes = stamp_bytes + count * cell_bytes
    whole = np.empty(len(layout.head) + body_bytes, np.uint8)
    head, body = whole[: len(layout.head)], whole[len(layout.head) :]
    head[:] = np.frombuffer(layout.head, np.uint8)

    def numbers(at: int, size: int) -> npt.NDArray[np.int64]:
        return head[at : at + 8 * size].view("<i8")

    numbers(layout.rows_at, 1)[0] = rows
    numbers(layout.body_bytes_at, 1)[0] = body_bytes
    nodes = numbers(layout.nodes_at, 2 * (1 + count)).reshape(-1, 2)  # rows, nulls
    nodes[:, 0], nodes[:, 1] = rows, 0
    buffers = numbers(layout.buffers_at, 4 * (1 + count)).reshape(-1, 4)  # place and size of the validity, of the data
    buffers[0] = 0, 0, 0, 8 * rows
    buffers[1:, 0] = buffers[1:, 2] = stamp_bytes + cell_bytes * np.arange(count)
    buffers[1:, 1], buffers[1:, 3] = 0, 4 * rows
    cells = body[stamp_bytes:].view("<f4").reshape(count, cell_bytes // 4)[:, :rows]
    return whole, cells, body[:stamp_bytes].view("<i8")[:rows]


def write_parquet(trf: Trf, path: str | os.PathLike[str]) -> None:
    """Write `Trf.table` to one Parquet file, and the header's facts into its metadata. The caller writes aside and renames."""
    header = trf.header
    facts = {
        "start_utc": header.start.isoformat(),
        "start_local": header.local_start.isoformat(),
        "field_label": header.field_label,
        "field_name": header.field_name,
        "machine": header.machine,
        "prescribed_mu": repr(header.prescribed_mu),
        "trf_version": str(header.version),
        "trailing_bytes": str(trf.trailing_bytes),
    }
    pq.write_table(trf.table.replace_schema_metadata(facts), path, compression="zstd")
