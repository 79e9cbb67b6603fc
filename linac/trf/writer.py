"""TRFs made from counts: for the simulator and the tests. What `reader` reads, `encode` writes, byte for byte."""

import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from linac.trf.header import MAX_ITEM_PARTS, MAX_STRING_BYTES, PRESCRIBED_TENTHS, VERSIONS
from linac.trf.item_parts import STANDARD_PARTS, UNITY_PARTS
from linac.trf.reader import Trf


def encode(
    counts: npt.ArrayLike,
    timestamp_ms: npt.ArrayLike | None = None,
    *,
    start: datetime | str,
    utc_offset: timedelta | str = "+00:00",
    field: str = "",
    machine: str,
    prescribed_mu: float = 0.0,
    version: int = 1,
    item_parts: Sequence[tuple[int, int]] | None = None,
    encoding: str = "utf-8",
) -> bytes:
    """The bytes of a TRF.

    `counts` is a matrix of rows x item parts, in the vendor's scale (tenths of mm and degree: `ItemPart.to_counts` makes
    them); `timestamp_ms`, one per row, is required in versions 2 to 4 and refused in version 1. `start` is aware, or the text
    to write; `utc_offset` a timedelta, or the text. `field` is `label/name`. `item_parts` are those of the samples unless
    given. Raises ValueError for what no TRF can hold.
    """
    if version not in VERSIONS:
        raise ValueError(f"no TRF version {version}: 1, 2, 3 or 4")
    stamp, size = VERSIONS[version]
    if item_parts is None:
        item_parts = UNITY_PARTS if version == 4 else STANDARD_PARTS
    matrix = np.asarray(counts)
    if matrix.size == 0 and matrix.ndim < 2:
        matrix = np.zeros((0, len(item_parts)), np.int16)
    if matrix.ndim != 2 or matrix.shape[1] != len(item_parts):
        raise ValueError(f"counts of shape {matrix.shape} for {len(item_parts)} item parts")
    if not 1 <= len(item_parts) <= MAX_ITEM_PARTS:
        raise ValueError(f"{len(item_parts)} item parts: 1 to {MAX_ITEM_PARTS} fit")
    if (timestamp_ms is None) != (stamp == 0):
        raise ValueError(f"version {version} {'needs a timestamp for each row' if stamp else 'has no timestamps'}")
    if not math.isfinite(prescribed_mu):
        raise ValueError(f"a prescribed dose of {prescribed_mu} MU")
    head = (
        b"".join(_string(text, encoding) for text in (_start(start), _utc_offset(utc_offset), field, machine))
        + struct.pack("<dii", prescribed_mu * PRESCRIBED_TENTHS, version, len(item_parts))
        + np.asarray(_whole(item_parts, np.dtype("<i2"))).tobytes()
    )
    body = _whole(matrix, np.dtype(f"<i{size}"))
    if timestamp_ms is None:
        return head + body.tobytes()
    stamps = _whole(timestamp_ms, np.dtype("<i8"))
    if stamps.shape != (len(matrix),):
        raise ValueError(f"{stamps.shape} timestamps for {len(matrix)} rows")
    rows = np.empty(len(matrix), np.dtype([("timestamp_ms", "<i8"), ("counts", f"<i{size}", (len(item_parts),))]))
    rows["timestamp_ms"], rows["counts"] = stamps, body
    return head + rows.tobytes()


def encode_trf(trf: Trf) -> bytes:
    """The bytes of a log that was read: the same as it was read from, without a cut last row."""
    header = trf.header
    return encode(
        trf.counts,
        trf.timestamp_ms,
        start=header.start_text,
        utc_offset=header.utc_offset_text,
        field=header.field,
        machine=header.machine,
        prescribed_mu=header.prescribed_mu,
        version=header.version,
        item_parts=header.item_parts,
        encoding=header.encoding,
    )


def _whole(values: Any, kind: "np.dtype[Any]") -> npt.NDArray[Any]:
    """Whole numbers as `kind`, refusing those that do not fit or are not whole: no count is changed in silence."""
    given = np.asarray(values)
    with np.errstate(invalid="ignore"):
        written = given.astype(kind)
    if not np.array_equal(written, given):
        raise ValueError(f"numbers that are not whole, or do not fit {kind.itemsize * 8} bits")
    return written


def _string(text: str, encoding: str) -> bytes:
    """A .NET string: its length in 7-bit groups, low group first, then its characters."""
    raw = text.encode(encoding)
    if len(raw) > MAX_STRING_BYTES:
        raise ValueError(f"a header string of {len(raw)} bytes: at most {MAX_STRING_BYTES} fit")
    length, groups = len(raw), bytearray()
    while length >= 0x80:
        groups.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(groups) + bytes([length]) + raw


def _start(start: datetime | str) -> str:
    if isinstance(start, str):
        return start
    if start.tzinfo is None:
        raise ValueError("start has no time zone: give an aware datetime")
    return start.astimezone(UTC).strftime("%y/%m/%d %H:%M:%S Z")


def _utc_offset(utc_offset: timedelta | str) -> str:
    if isinstance(utc_offset, str):
        return utc_offset
    minutes = round(utc_offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
