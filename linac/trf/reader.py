"""The rows of a TRF: bytes in, a `Trf` out. Counts stay as recorded, in place; `table` and `to_pandas` make them physical."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from linac.trf.header import VERSIONS, Header, parse_header

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROW_SECONDS = 0.04
"""The time from row to row. Elekta's export counts in it; the timestamps of versions 2 to 4 step by 37 to 43 ms."""

ROW_MS = 40
"""The same in milliseconds."""

Counts = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Trf:
    """One TRF log.

    `counts` is a read-only matrix of rows x item parts, as recorded (int16, int32 in version 4), a view of the file's bytes.
    `timestamp_ms` is when each row was recorded, milliseconds since 1970 in UTC (int64), or None in version 1, which does not
    say. `trailing_bytes` counts what follows the last whole row: a cut row, left out.
    """

    header: Header
    counts: Counts
    timestamp_ms: npt.NDArray[np.int64] | None
    trailing_bytes: int

    @property
    def rows(self) -> int:
        """Number of whole rows."""
        return len(self.counts)

    @property
    def utc_ms(self) -> npt.NDArray[np.int64]:
        """When each row was recorded, milliseconds since 1970 in UTC: as recorded, in version 1 start + row x 40 ms."""
        if self.timestamp_ms is not None:
            return self.timestamp_ms
        start = round(self.header.start.timestamp() * 1000)
        return np.arange(start, start + ROW_MS * self.rows, ROW_MS, dtype=np.int64)

    @functools.cached_property
    def table(self) -> "pa.Table":
        """The log in physical units, as an Arrow table: see `linac.trf.table.make_table`."""
        from linac.trf.table import make_table

        return make_table(self)

    def to_pandas(self) -> "pd.DataFrame":
        """The log as Elekta's own CSV export shows it: see `linac.trf.frame.make_frame`."""
        from linac.trf.frame import make_frame

        return make_frame(self)


def as_bytes(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """Bytes that nobody can change: the same ones where that is so already, a copy otherwise."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    return view.cast("B") if view.readonly and view.c_contiguous else bytes(view)


def decode(data: bytes | bytearray | memoryview, path: str | None = None) -> Trf:
    """Read a whole TRF. `path` is named in errors.

    The counts are a view of `data` where nobody can change it, and of a copy otherwise. Raises `TrfError` where the header
    cannot be read; rows cannot fail: every pattern of bits is a count. A file may hold no row at all.
    """
    data = as_bytes(data)
    header = parse_header(data, path)
    rows, trailing = divmod(len(data) - header.size, header.row_bytes)
    stamp, size = VERSIONS[header.version]
    kind = np.dtype(f"<i{size}")
    shape = (rows, len(header.item_parts))
    strides = (header.row_bytes, size)
    # ndarray rather than frombuffer: the same view for rows with and without a timestamp, at any offset.
    counts: Counts = np.ndarray(shape, kind, data, min(header.size + stamp, len(data)), strides)
    timestamp_ms = np.ndarray((rows,), "<i8", data, header.size, (header.row_bytes,)) if stamp else None
    return Trf(header, counts, timestamp_ms, trailing)
