"""Parquet of an open file, read in few pieces and by nobody but the thread that asks.

pyarrow reads ahead too (`pre_buffer`), on threads of its own. These let go of the file, or of bytes made by Python, after the
answer is there, and for that they need the interpreter: a process that ends just then is aborted ("terminate called without an
active exception"). So nothing here is read on them.
"""

import os
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

GAP_BYTES = 64 << 10
"""What lies between two columns is read with them, unless it is more: on a share, asking again takes longer."""


class ParquetFile:
    """An open Parquet file, or the bytes of one. Raises what pyarrow raises: `ArrowException` or `OSError`."""

    def __init__(self, source: IO[bytes] | bytes, *, check_pages: bool = False) -> None:
        self._ahead = None if isinstance(source, bytes) else _Ahead(source)
        stream = pa.BufferReader(source) if isinstance(source, bytes) else self._ahead
        self._file = pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=check_pages)
        self.metadata = self._file.metadata

    def read(self, row_group: int, columns: list[str] | None = None) -> Any:
        """One row group as an Arrow table: all columns or some."""
        if self._ahead is not None:
            self._ahead.fetch(self._pieces(row_group, columns))
        return self._file.read_row_group(row_group, columns=columns, use_threads=False)

    def read_all(self, columns: list[str] | None = None) -> Any:
        """All row groups as one table."""
        if self._ahead is not None:
            groups = range(self.metadata.num_row_groups)
            self._ahead.fetch(piece for row_group in groups for piece in self._pieces(row_group, columns))
        return self._file.read(columns=columns, use_threads=False)

    def _pieces(self, row_group: int, columns: list[str] | None) -> Iterator[tuple[int, int]]:
        group = self.metadata.row_group(row_group)
        for column in map(group.column, range(group.num_columns)):
            if columns is None or column.path_in_schema.partition(".")[0] in columns:
                begin = column.data_page_offset
                if column.has_dictionary_page:
                    begin = min(begin, column.dictionary_page_offset)
                yield begin, begin + column.total_compressed_size


class _Ahead:
    """A file for pyarrow, of which some pieces were read before."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._at = 0
        self._pieces: list[tuple[int, bytes]] = []

    def fetch(self, pieces: Iterator[tuple[int, int]]) -> None:
        """Have these pieces (begin and end) at hand, and no others."""
        joined: list[tuple[int, int]] = []
        for begin, end in sorted(pieces):
            if not 0 <= begin <= end <= self._size:
                continue  # the file is damaged: pyarrow says how
            if joined and begin - joined[-1][1] <= GAP_BYTES:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((begin, end))
        self._pieces = []
        for begin, end in joined:
            self._file.seek(begin)
            self._pieces.append((begin, self._file.read(end - begin)))

    def read(self, size: int = -1) -> bytes:
        data = self._read(size)
        self._at += len(data)
        return data

    def _read(self, size: int) -> bytes:
        for begin, data in self._pieces:
            if size >= 0 and begin <= self._at and self._at + size <= begin + len(data):
                return data[self._at - begin : self._at - begin + size]
        self._file.seek(self._at)
        return self._file.read(size)

    def seek(self, to: int, whence: int = 0) -> int:
        self._at = to + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        """The file is closed by whoever opened it."""
