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

from linac.errors import SetupError, StorageError, TrfError
from linac.trf.header import MAX_HEADER_BYTES, Header, parse_header
from linac.trf.item_parts import Part
from linac.trf.reader import Trf, as_bytes, decode

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
"""A file's path, its bytes, or a binary file object, which is read from where it stands."""

USUAL_HEADER_BYTES = 1 << 14
"""What `read_header` reads at first, to be quick over a network: ten times the size of all headers seen."""

MAX_FILE_BYTES = 1 << 30
"""More than any delivery has: 15 hours of rows, half of that in version 4."""

MAX_PATH_SHOWN = 1 << 10
"""Longer texts are no paths; errors do not show them."""

__all__ = ["Header", "Part", "Source", "Trf", "TrfError", "decode", "parse_header", "read", "read_header"]


def read(source: Source) -> Trf:
    """Read a TRF: a path, bytes, or a binary file object.

    Raises `TrfError` for what is not a TRF or is damaged, `StorageError` where the file cannot be opened or read, `SetupError`
    for what is none of these three.
    """
    with _opened(source) as (file, path):
        if isinstance(file, bytes | bytearray | memoryview):
            return decode(file, path)
        if _left(file) > MAX_FILE_BYTES:
            raise TrfError(path, MAX_FILE_BYTES, "the end of the log by then", "more bytes", "No delivery's log is as large.")
        return decode(_bytes(file.read()), path)


def read_header(source: Source) -> Header:
    """Read only the header, from the first bytes of the file. Errors as for `read`."""
    with _opened(source) as (file, path):
        if isinstance(file, bytes | bytearray | memoryview):
            return parse_header(as_bytes(file), path)
        data = _bytes(file.read(USUAL_HEADER_BYTES))
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
    if not isinstance(source, str | os.PathLike) and not callable(getattr(source, "read", None)):
        raise SetupError(f"A TRF is read from a path, from bytes or from an open binary file, not from {type(source).__name__}.")
    given = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    try:
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                yield file, path
        else:
            yield source, path
    except OSError as error:
        what = (path if _may_be_a_path(path) else f"a text of {len(path)} characters as a path") if path else "the TRF"
        text = f"Could not read {what}: {error.strerror or 'it failed'}."
        raise StorageError(f"{text} Check the path and the right to read it, then try again.") from error
    except ValueError as error:  # a zero byte, or letters that this system's file names cannot have
        if path is None or _may_be_a_path(path):
            raise
        raise StorageError(
            f"Could not read a text of {len(path)} characters as a path: no file is called so. Give a TRF's content as bytes."
        ) from error


def _left(file: IO[bytes]) -> int:
    """How many bytes are yet to be read; 0 where the file object cannot say."""
    try:
        at = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(at)
    except (OSError, ValueError, AttributeError):
        return 0
    return end - at


def _bytes(data: object) -> bytes:
    if not isinstance(data, bytes):
        raise SetupError("The TRF was opened as a text file. Open it as a binary one: open(path, 'rb').")
    return data


def _may_be_a_path(text: str) -> bool:
    """Whether a text can be shown as a path, and is not the content of a file given in its place."""
    return len(text) <= MAX_PATH_SHOWN and text.isprintable()
