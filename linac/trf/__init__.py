"""Elekta's TRF logs: the machine's own record of a delivery, every 40 ms.

>>> from datetime import datetime, timezone
>>> from linac import trf
>>> from linac.trf.writer import encode
>>> made = encode([[1] * 350] * 25, start=datetime(2017, 4, 19, 21, 59, 24, tzinfo=timezone.utc), utc_offset="+10:00",
...               field="2-2/DIR SCALP", machine="2694", prescribed_mu=227.4)
>>> log = trf.read(made)  # or a path: trf.read("17_04_19 21_59_24 Z 2-2_DIR SCALP.trf"), or an open binary file
>>> log.header.machine, log.header.field_label, log.header.field_name, log.header.prescribed_mu
('2694', '2-2', 'DIR SCALP', 227.4)
>>> print(log.header.start, "| at the site:", log.header.local_start)
2017-04-19 21:59:24+00:00 | at the site: 2017-04-20 07:59:24+10:00
>>> log.rows, log.counts.dtype.name, log.trailing_bytes
(25, 'int16', 0)
>>> log.to_pandas()["Step Gantry/Scaled Actual (deg)"].iloc[-1]  # as Elekta's own CSV export
np.float64(0.1)
>>> log.table["gantry_deg"][24]  # in physical units, as an Arrow table
<pyarrow.FloatScalar: 0.10000000149011612>

`metrics.summarise(log)` says what the delivery comes down to, `backup.read_trfs` takes the logs out of a diagnostic backup,
`writer.encode` makes logs, and `python -m linac.trf show|csv|parquet FILE...` does it by hand.

It does not know patients: a TRF names none. It does not find logs, keep or index them (`linac.index` does), and it changes
none. Every file that can be read is read, whatever item parts or states newer software adds; what cannot be read raises
`TrfError`.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from linac.errors import StorageError, TrfError
from linac.trf.header import MAX_HEADER_BYTES, Header, parse_header
from linac.trf.item_parts import Part
from linac.trf.reader import Trf, as_bytes, decode

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
"""A file's path, its bytes, or a binary file object, which is read from where it stands."""

USUAL_HEADER_BYTES = 1 << 14
"""What `read_header` reads at first, to be quick over a network: ten times the size of all headers seen."""

__all__ = ["Header", "Part", "Source", "Trf", "TrfError", "decode", "parse_header", "read", "read_header"]


def read(source: Source) -> Trf:
    """Read a TRF: a path, bytes, or a binary file object.

    Raises `TrfError` for what is not a TRF or is damaged, `StorageError` where the file cannot be opened or read.
    """
    with _opened(source) as (file, path):
        return decode(file if isinstance(file, bytes | bytearray | memoryview) else file.read(), path)


def read_header(source: Source) -> Header:
    """Read only the header, from the first bytes of the file. Errors as for `read`."""
    with _opened(source) as (file, path):
        if isinstance(file, bytes | bytearray | memoryview):
            return parse_header(as_bytes(file), path)
        data = file.read(USUAL_HEADER_BYTES)
        try:
            return parse_header(data, path)
        except TrfError:
            more = file.read(MAX_HEADER_BYTES - len(data))
            if not more:
                raise
        return parse_header(data + more, path)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[tuple[bytes | bytearray | memoryview | IO[bytes], str | None]]:
    """The bytes or the open file, and the path if there is one. Failing storage becomes `StorageError`."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield source, None
        return
    given = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    try:
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                yield file, path
        else:
            yield source, path
    except OSError as error:
        text = f"Could not read {path or 'the TRF'}: {error.strerror or error}."
        raise StorageError(f"{text} Check the path and the right to read it, then try again.") from error
