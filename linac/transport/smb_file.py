"""A file on a share as Python's readers want it: `zipfile`, pyarrow, anything that seeks and reads.

It reads ahead while it is read in order, ever more of it, so that a slow line is kept busy; a jump ends that. Each position is
asked for once: what a jump leaves unread of the pieces under way is given up.
"""

import contextlib
import io
from collections import deque
from collections.abc import Callable
from typing import Any

from linac.errors import LinacError
from linac.transport import smb_errors
from linac.transport import smb_messages as messages
from linac.transport.smb_link import Link
from linac.transport.smb_wire import StatusError

BUFFER = 256 << 10
"""Bytes of the buffer in front of it: what a small read asks for."""


class SmbFile(io.RawIOBase):
    """An open file of a share, for reading. May be used by several threads, one at a time. Closing waits for no
    answer."""

    def __init__(self, link: Link, handle: bytes, size: int, name: str, failed: Callable[[int], LinacError]) -> None:
        super().__init__()
        self.name, self.size = name, size
        self._link, self._handle, self._failed = link, handle, failed
        self._at = 0
        self._next = -1
        self._width = 0
        self._ahead: deque[tuple[int, int, Any]] = deque()
        self._rest = memoryview(b"")  # what has arrived of the file from `_rest_at` on
        self._rest_at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self.closed:
            raise ValueError("the file is closed")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the begin of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError("the file is closed")
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), max(0, self.size - self._at))
        if not wanted:
            return 0
        with self._link.lock:
            try:
                if wanted >= self._link.read_chunk and not self._has(self._at):
                    got = self._read_straight(target[:wanted])
                else:
                    got = self._read_ahead(target[:wanted])
            except StatusError as error:
                raise self._failed(error.status) from error
        self._at += got
        self._next = self._at
        return got

    def readall(self) -> bytes:
        whole = bytearray(max(0, self.size - self._at))
        rest = memoryview(whole)
        while rest and (got := self.readinto(rest)):
            rest = rest[got:]
        return bytes(whole[: len(whole) - len(rest)])

    def _read_straight(self, target: memoryview) -> int:
        """A large piece, right to where it is wanted."""
        self._drop()
        at = 0

        def take(data: memoryview) -> None:
            nonlocal at
            target[at : at + len(data)] = data
            at += len(data)

        return self._link.read_range(self._handle, self._at, len(target), take)

    def _has(self, at: int) -> bool:
        """Whether what stands at a position has arrived, or is under way as the next piece."""
        if self._rest_at <= at < self._rest_at + len(self._rest):
            return True
        return bool(self._ahead) and self._ahead[0][0] == at

    def _read_ahead(self, target: memoryview) -> int:
        """A small piece, from what was read ahead as far as possible."""
        if not self._rest_at <= self._at < self._rest_at + len(self._rest):
            if not self._ahead or self._ahead[0][0] != self._at:
                self._drop()
            in_order = self._at == self._next
            self._width = min(self._link.read_chunk * self._link.depth, self._width * 2) if in_order else 0
            self._width = max(self._width, len(target))
            self._ask(self._at)
            at, length, request = self._ahead.popleft()
            self._rest, self._rest_at = self._link._data(request), at
            if len(self._rest) < length:
                self._drop(keep_rest=True)  # shorter than asked: the rest is asked for again
        here = self._at - self._rest_at
        got = min(len(target), len(self._rest) - here)
        target[:got] = self._rest[here : here + got]
        return got

    def _ask(self, begin: int) -> None:
        """Have as much under way, from a position on, as the reading in order so far is worth."""
        at = self._ahead[-1][0] + self._ahead[-1][1] if self._ahead else begin
        while at < min(self.size, begin + self._width):
            length = min(self._link.read_chunk, self.size - at, max(BUFFER, begin + self._width - at))
            if self._ahead:
                if self._link.room(length) < length or len(self._ahead) >= self._link.depth:
                    return
            else:
                length = self._link.room(length) or 65536
            self._ahead.append((at, length, self._link.begin(messages.read(at, length, self._handle))))
            at += length

    def _drop(self, keep_rest: bool = False) -> None:
        self._ahead.clear()
        if not keep_rest:
            self._rest = memoryview(b"")

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        self._ahead.clear()
        self._link.close_soon(self._handle)

    def let_go(self) -> None:
        """Close it with the connection's next request. For the garbage collector, which comes amid anything: if something were
        sent then, it could wait for its own thread."""
        if not self.closed:
            super().close()
            self._ahead.clear()
            self._link.close_later(self._handle)

    def __del__(self) -> None:
        self.let_go()


class _Reader(io.BufferedReader):
    """Its buffer; it would close the file by itself where nobody has done so."""

    raw: SmbFile

    def __del__(self) -> None:
        raw: SmbFile | None = None
        with contextlib.suppress(ValueError):  # the file was taken out of it
            raw = self.raw
        if raw is not None:
            raw.let_go()


def reader(link: Link, opened: messages.Opened, name: str, failed: Callable[[int], LinacError]) -> io.BufferedReader:
    """A seekable binary file object."""
    if opened.is_folder:
        link.close_soon(opened.handle)
        raise failed(smb_errors.IS_A_FOLDER)
    return _Reader(SmbFile(link, opened.handle, opened.size, name, failed), BUFFER)
