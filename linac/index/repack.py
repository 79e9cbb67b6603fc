"""Samples files packed harder: the same row groups, the same pages, by a stronger compressor.

What comes in at night is to be in the index soon, so it is packed by Snappy (or, in files of older software, at zstd's quickest
level). Then there is time: `repacked` unpacks every page and packs it by zstd at a level that takes a hundred times longer to
write and hardly any longer to read. Neither values nor encodings change, so no log is needed for it, and row groups stay in their
order. The footer notes how many row groups were done: a file can be continued behind them, and what was done is only copied the
next time.

A page whose checksum is not right is a damaged one. Then `DamagedError` is raised: packing it anew would give it a right one.
"""

import functools
import struct
import zlib
from collections.abc import Callable
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from linac.errors import DamagedError
from linac.index.parquet import BINARY, I32, I64, LIST, MAGIC, SNAPPY, STRUCT, ZSTD, Struct, quick, read_struct, write_struct

LEVEL = 17
"""zstd's level: half the size of what comes in. Level 15 takes two thirds of the time for 5 % more bytes, level 19 twice
the time for 2 % fewer."""

DONE_KEY = b"linac.index.repacked"
"""In a file's metadata: how many row groups, from the first on, are packed at `LEVEL`."""

# Fields of Parquet's footer and page headers (parquet.thrift).
_FILE_GROUPS, _FILE_NOTES = 4, 5
_GROUP_CHUNKS, _GROUP_BYTES, _GROUP_PLACE, _GROUP_PACKED = 1, 2, 5, 6
_CHUNK_PLACE, _CHUNK_META = 2, 3
_META_CODEC, _META_BYTES, _META_PACKED, _META_DATA, _META_DICTIONARY = 4, 6, 7, 9, 11
_PAGE_BYTES, _PAGE_PACKED, _PAGE_CHECKSUM = 2, 3, 4


@functools.cache
def codec(level: int) -> Any:
    """zstd."""
    return pa.Codec("zstd", compression_level=level)


def done(metadata: dict[bytes, bytes] | None) -> int:
    """How many row groups of a file are packed harder already, by its metadata."""
    text = (metadata or {}).get(DONE_KEY, b"0")
    return int(text) if text.isdigit() else 0


def is_repacked(stream: IO[bytes]) -> bool:
    """Whether all row groups of a samples file are packed harder: its footer is read alone. False for what is no such file."""
    try:
        metadata = pq.read_metadata(stream)
    except (pa.ArrowException, OSError):
        return False
    return done(metadata.metadata) >= int(metadata.num_row_groups)


def repacked(old: bytes, name: str, keep: Callable[[], None] = lambda: None, level: int = LEVEL) -> bytes | None:
    """A samples file packed harder; None if it is already. `keep` is called after each row group, as this takes a while.

    Raises `DamagedError` for what is no such file, or where a page's checksum is not right.
    """
    try:
        return _repacked(old, name, keep, level)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, struct.error, pa.ArrowException, OSError) as error:
        raise DamagedError(f"{name} cannot be read as a samples file ({type(error).__name__}). Run verify.") from error


def _repacked(old: bytes, name: str, keep: Callable[[], None], level: int) -> bytes | None:
    size = int(struct.unpack_from("<I", old, len(old) - 8)[0])
    footer, _ = read_struct(old[len(old) - 8 - size : len(old) - 8])
    groups: list[Struct] = footer[_FILE_GROUPS][1][1]
    notes = {fields[1][1]: fields[2][1] for fields in footer[_FILE_NOTES][1][1]}
    first = done(notes)
    if first >= len(groups):
        return None
    out = bytearray(MAGIC)
    for number, group in enumerate(groups):
        place, total, packed = len(out), 0, 0
        for chunk in group[_GROUP_CHUNKS][1][1]:
            meta: Struct = chunk[_CHUNK_META][1]
            begin = _number(meta, _META_DICTIONARY if _META_DICTIONARY in meta else _META_DATA)
            data, at = _number(meta, _META_DATA), len(out)
            end = begin + _number(meta, _META_PACKED)
            if number < first or _number(meta, _META_CODEC) not in (SNAPPY, ZSTD):
                out += old[begin:end]
                meta[_META_DATA] = I64, at + data - begin
            else:
                meta[_META_DATA] = I64, at
                meta[_META_BYTES] = I64, 0
                while begin < end:
                    if begin == data:
                        meta[_META_DATA] = I64, len(out)
                    begin = _page(out, old, begin, meta, name, level)
                meta[_META_CODEC] = I32, ZSTD
            if _META_DICTIONARY in meta:
                meta[_META_DICTIONARY] = I64, at
            meta[_META_PACKED] = I64, len(out) - at
            chunk[_CHUNK_PLACE] = I64, at
            total, packed = total + _number(meta, _META_BYTES), packed + len(out) - at
        for field, value in ((_GROUP_BYTES, total), (_GROUP_PLACE, place), (_GROUP_PACKED, packed)):
            group[field] = I64, value
        if number >= first:
            keep()
    notes[DONE_KEY] = str(len(groups)).encode()
    footer[_FILE_NOTES] = LIST, (STRUCT, [{1: (BINARY, key), 2: (BINARY, value)} for key, value in notes.items()])
    written = write_struct(footer)
    return bytes(out) + written + struct.pack("<I", len(written)) + MAGIC


def _number(fields: Struct, field: int) -> int:
    return int(fields[field][1])


def _page(out: bytearray, old: bytes, at: int, meta: Struct, name: str, level: int) -> int:
    """Append one page, packed by zstd as `level` does it; one that was smaller, and packed by zstd too, as it was. Where the next
    page begins in `old`."""
    head, data_at = read_struct(old, at)
    size, packed_size = _number(head, _PAGE_BYTES), _number(head, _PAGE_PACKED)
    packed = old[data_at : data_at + packed_size]
    if zlib.crc32(packed) != _number(head, _PAGE_CHECKSUM) & 0xFFFFFFFF:
        raise DamagedError(f"{name} is damaged at byte {data_at}: a page's checksum is not right. Restore it from a backup.")
    was_zstd = _number(meta, _META_CODEC) == ZSTD
    data = (codec(level) if was_zstd else quick()).decompress(packed, size, asbytes=True)
    again = codec(level).compress(data, asbytes=True)
    if not was_zstd or len(again) < len(packed):
        if codec(level).decompress(again, size, asbytes=True) != data:
            raise DamagedError(f"{name} could not be packed harder: the compressor failed on it. It was left as it is.")
        packed, checksum = again, zlib.crc32(again)
        head[_PAGE_PACKED] = I32, len(packed)
        head[_PAGE_CHECKSUM] = I32, checksum - (1 << 32) if checksum >> 31 else checksum
    written = write_struct(head)
    out += written
    out += packed
    meta[_META_BYTES] = I64, _number(meta, _META_BYTES) + len(written) + size
    return data_at + packed_size
