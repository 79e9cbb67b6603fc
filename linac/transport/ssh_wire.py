"""What paramiko's transport gets from us, and what its channels keep their data in.

It copies what arrives several times and wakes a thread for each packet of 32 KiB; with Python's one interpreter for all threads
that made a transfer half as fast. Here data is handed on in large pieces, or by the thread that decrypts it.
"""

import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import paramiko
from paramiko.buffered_pipe import BufferedPipe
from paramiko.transport import ChannelMap

from linac.transport.ssh_packets import Data, Note, Packetizer, Wire

PACKET = 1 << 15
"""The largest packet that we let a peer send, bytes."""

ACKNOWLEDGED = 1 << 19
"""After so many bytes the peer is told that more may come; its window is 2 MiB. Telling more often wakes a thread more often
(half of this made transfers a tenth slower), telling later leaves a long line idle."""

GATHER_SECONDS = 0.25
"""A reader who wants much gets after so long what there is."""

_log = logging.getLogger("linac.transport.ssh.library")
_log.addHandler(logging.NullHandler())
_log.propagate = False  # the library tells every failure with a traceback; we raise it in words
_log.setLevel(logging.CRITICAL)

BROKEN = (OSError, EOFError, paramiko.SSHException)
"""What using a channel or a connection that is over may raise."""


class Outlet(BufferedPipe):  # type: ignore[misc]  # the library has no types
    """What has arrived for a channel; once a socket is attached, on its way there.

    Paramiko hands everything from the thread that decrypts to the one that asks, which costs half the speed when both want
    the interpreter at once. Here the decrypting thread gives data to the socket itself as long as that takes it without waiting;
    only what it does not take waits here for the other thread, which also tells the peer how much more may come: the
    decrypting thread must not, because telling may have to wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sink: socket.socket | None = None
        self._passed = 0
        self._sending = False
        self._is_gone = False

    def attach(self, sink: socket.socket | None) -> None:
        """From now on data goes to this socket, which must not block. None: no more."""
        with self._lock:
            self._sink = sink

    def feed(self, data: bytes) -> None:
        with self._lock:
            if self._sink is not None and not self._buffer and not self._sending:
                try:
                    sent = self._sink.send(data)
                except ConnectionError:  # told once only, so the other thread would take it for an end in order
                    sent, self._is_gone = 0, True
                except OSError:  # full
                    sent = 0
                self._passed += sent
                if sent == len(data):
                    if self._passed >= ACKNOWLEDGED:
                        self._cv.notify_all()
                    return
                data = data[sent:]
            if self._event is not None:
                self._event.set()
            self._buffer.frombytes(data)
            self._cv.notify_all()

    def take(self, seconds: float) -> tuple[bytes, int, bool]:
        """What waits to be sent, how many bytes went to the socket by themselves since the last call, and whether no more will
        come. Waits so long for any of them. What is taken must be sent before the next call.

        Raises OSError where the socket broke.
        """
        with self._lock:
            if self._is_gone:
                raise ConnectionResetError
            self._sending = False
            if not self._buffer and not self._closed and self._passed < ACKNOWLEDGED:
                self._cv.wait(seconds)
            passed, self._passed = self._passed, 0
            data = self._buffer.tobytes()
            del self._buffer[:]
            self._sending = bool(data)
            return data, passed, self._closed


class Inlet(BufferedPipe):  # type: ignore[misc]
    """What has arrived for a channel that one thread reads. It is woken once for all that it wants, not for each packet."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: deque[memoryview] = deque()
        self._held = 0
        self._wanted = 1

    def feed(self, data: bytes) -> None:
        with self._lock:
            if not self._closed:
                self._pieces.append(memoryview(data))
                self._held += len(data)
                if self._held >= self._wanted:
                    self._cv.notify()

    def take_into(self, buffer: memoryview, seconds: float) -> int:
        """Fill the buffer, or begin to: how many bytes, at most `ACKNOWLEDGED`, fewer where they come slowly. 0: no more come.

        Raises `TimeoutError` where none came for so many seconds.
        """
        until = time.monotonic() + seconds
        taken: list[memoryview] = []
        with self._lock:
            self._wanted = min(len(buffer), ACKNOWLEDGED)
            while self._held < self._wanted and not self._closed:
                if not self._cv.wait(GATHER_SECONDS):
                    if self._held:
                        break
                    if time.monotonic() >= until:
                        raise TimeoutError
            room = count = min(self._held, self._wanted)
            self._held -= count
            while room:
                piece = self._pieces.popleft()
                if len(piece) > room:
                    self._pieces.appendleft(piece[room:])
                    piece = piece[:room]
                taken.append(piece)
                room -= len(piece)
        at = 0
        for piece in taken:
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        return count


class _Channels(ChannelMap):  # type: ignore[misc]
    """Paramiko's list of channels, each of which gets its `Outlet` or `Inlet` before anything can arrive for it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.local()

    def put(self, number: int, channel: paramiko.Channel) -> None:
        channel.in_buffer = getattr(self.asked, "buffer", Outlet)()
        super().put(number, channel)


class _Mine(threading.local):
    """What a thread has to do with a transport: what it is just sending, and which channel it last asked for."""

    def __init__(self) -> None:
        self.sending = False
        self.late: list[Any] = []
        self.number = -1


class Transport(paramiko.Transport):  # type: ignore[misc]  # the library has no types
    """Paramiko's, mended in some places.

    - It tells the gateway's own words about a channel that it refuses to its log only, as it does where the gateway takes its
      leave, and keeps one failure for all threads: here each thread gets its own.
    - When a channel is closed while new keys are agreed upon (every 512 MiB), the thread that reads waits to answer for keys that
      it alone could bring about, until the connection is given up: here it answers later.
    - What one thread has ready for a channel that another closes meanwhile is sent after the end, for which OpenSSH ends the
      whole connection: here it is not sent any more. (A channel counts as closed before it is told.)
    - A channel that the garbage collector closes while its thread is sending would wait for that thread: here it is told later.
    - What the thread that reads died of, whatever it was, comes as one of `BROKEN`.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire, default_max_packet_size=PACKET, packetizer_class=Packetizer)
        self.set_log_channel(_log.name)
        self._channels = _Channels()
        self._mine = _Mine()
        self._refusals: dict[int, tuple[int, str]] = {}
        self._held: list[Any] = []
        self.took_leave = False
        """Whether the gateway said that it ends the connection, as after too many keys."""

    def _send_user_message(self, message: Any) -> None:
        if self._mine.sending:
            self._mine.late.append(message)
        elif threading.current_thread() is self and not self.clear_to_send.is_set():
            self._held.append(message)
        else:
            with self._sending():
                super()._send_user_message(message)

    def _send_message(self, message: Any) -> None:
        if isinstance(message, Data | Note) and message.channel.closed:
            return
        with contextlib.nullcontext() if self._mine.sending else self._sending():
            super()._send_message(message.message if isinstance(message, Note) else message)

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """Sending; then what came up amid that."""
        self._mine.sending = True
        try:
            yield
        finally:
            self._mine.sending = False
        while self._mine.late:
            self._send_user_message(self._mine.late.pop(0))

    def get_exception(self) -> Exception | None:
        error: Exception | None = super().get_exception()
        if error is None or isinstance(error, BROKEN):
            return error
        broken: Exception = paramiko.SSHException("what the peer sent was not to be understood")
        broken.__cause__ = error
        return broken

    def _negotiate_keys(self, message: Any) -> None:
        with self._sending():  # it holds the lock that sending waits for
            super()._negotiate_keys(message)

    def _send_kex_init(self) -> None:
        with contextlib.nullcontext() if self._mine.sending else self._sending():
            super()._send_kex_init()

    def _parse_newkeys(self, message: Any) -> None:
        with self._sending():
            super()._parse_newkeys(message)
        held, self._held = self._held, []
        for one in held:
            self._send_message(one)

    def open(self, kind: str, target: tuple[str, int] | None, seconds: float, buffer: type[Outlet] | type[Inlet]) -> Any:
        """A channel that keeps what arrives in a buffer of that kind. Raises one of `BROKEN`; see `refusal`."""
        self._channels.asked.buffer = buffer
        try:
            return self.open_channel(kind, target, ("127.0.0.1", 0), timeout=seconds)
        finally:
            del self._channels.asked.buffer

    def _next_channel(self) -> int:
        self._mine.number = super()._next_channel()
        return int(self._mine.number)

    def _parse_disconnect(self, message: Any) -> None:
        self.took_leave = True
        super()._parse_disconnect(message)

    def _parse_channel_open_failure(self, message: Any) -> None:
        number, reason, words = message.get_int(), message.get_int(), message.get_text()
        self._refusals[number] = reason, words
        message.rewind()
        super()._parse_channel_open_failure(message)

    def refusal(self) -> tuple[int, str] | None:
        """Code and words of the refusal of the last channel that this thread asked for, if it was refused."""
        return self._refusals.pop(self._mine.number, None)
