"""The line to an SMB server: our own socket, and smbprotocol's connection over it, with an end to each wait.

The connection's reading thread sorts what arrives: answers to our own requests go straight to who waits for them, without a copy;
what smbprotocol asked for itself, while it logs in, goes to it.
"""

import contextlib
import logging
import socket
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from smbprotocol.connection import Connection
from smbprotocol.exceptions import SMBConnectionClosed
from smbprotocol.session import Session

from linac.transport import smb_messages as messages
from linac.transport.connecting import Line
from linac.transport.smb_messages import Message
from linac.transport.smb_protection import HEAD, Cipher, Room, Rooms, Signatures, UnsafeError
from linac.transport.smb_requests import PENDING, Request, answers, charge, packed

logging.getLogger("smbprotocol").setLevel(logging.CRITICAL)  # it logs paths, which can hold names; our errors say what matters


class StatusError(Exception):
    """The server's answer to one request is an error. Internal: `Folder` methods turn it into an error with advice."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status 0x{status:08X}")
        self.status = status


class HungError(Exception):
    """Nothing was heard for too long."""


class Wire:
    """An open connection in the shape of smbprotocol's `Tcp`."""

    def __init__(self, sock: Line, timeout: float) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self.connected = True
        self.reader_lives = False
        self._buffer = bytearray()
        self._rooms = Rooms()
        self._theirs: deque[bytes] = deque()
        self._held: list[bytes] = []
        self.requests: dict[int, Request] = {}
        """Ours that are under way, by their numbers; smbprotocol has its own list of its own."""
        self.granted: Callable[[int], None] = lambda _: None
        """Told of the credits that come with an answer."""
        self.signatures: Signatures | None = None
        """Each message must be signed from when it is there."""
        self.cipher: Cipher | None = None
        """Each message must be encrypted from when it is there."""
        self.heard = time.monotonic()
        sock.settimeout(timeout)
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):  # it may be over already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connect(self) -> None:
        """It is connected already."""

    def send(self, header: bytes | memoryview) -> None:
        """Send a message of smbprotocol's, or one with its length before it, whole, after those that are held back. Raises
        OSError, TimeoutError among it, once nothing moves."""
        rest = header if isinstance(header, memoryview) else memoryview(struct.pack(">I", len(header)) + header)
        with self._sending:
            if self._held:
                rest = memoryview(b"".join((*self._held, rest)))
                self._held.clear()
            while rest:
                rest = rest[self._sock.send(rest) :]

    def hold(self, message: memoryview) -> None:
        """Send a message together with the next one, or when `send_held` is called: what goes at one go costs once."""
        with self._sending:
            self._held.append(bytes(message))

    def send_held(self) -> None:
        if self._held:
            self.send(memoryview(b""))

    def recv(self, timeout: float) -> bytes | None:
        """The next message for smbprotocol; None once the connection is closed. Called by its reading thread alone, which answers
        our own requests in passing."""
        self.reader_lives = True
        try:
            while not self._theirs:
                message = self._whole(timeout)
                if message is None:
                    self._give_up()
                    return None
                if self.requests:
                    self._sort(message)
                else:
                    self._theirs.append(bytes(message))
            return self._theirs.popleft()
        except TimeoutError:
            raise
        except BaseException:
            self.connected = False
            self._give_up()
            raise

    def _sort(self, whole: memoryview) -> None:
        """Ours to those who wait, without a copy; the others to smbprotocol, each by itself."""
        for answer in answers(whole):
            request = self.requests.get(answer.number)
            if request is None:
                self._theirs.append(
                    b"".join((whole[answer.begin : answer.begin + 20], bytes(4), whole[answer.begin + 24 : answer.end]))
                )
                continue
            self.granted(answer.granted)
            if answer.status != PENDING:  # else the server works on it
                del self.requests[answer.number]
                request.status, request.answer = answer.status, whole[answer.begin + messages.HEADER : answer.end]
                request.answered = self.heard
                request.event.set()

    def _give_up(self) -> None:
        """Nobody is to wait any more."""
        for request in list(self.requests.values()):
            request.event.set()

    def _whole(self, timeout: float) -> memoryview | None:
        header = self._filled(memoryview(bytearray(4)), timeout)
        if header is None:
            return None
        length = int.from_bytes(header[1:], "big")
        if self.cipher is None:
            whole = self._rooms.of(length)
            if self._filled(whole, timeout) is None:
                return None
            if self.signatures is not None:
                self.signatures.check(whole)
            return whole
        if len(self._buffer) < length + 16:
            self._buffer = bytearray(length + 16)
        hidden = memoryview(self._buffer)[: length + 16]
        if self._filled(hidden[:length], timeout) is None:
            return None
        if bytes(hidden[:4]) != b"\xfdSMB":
            raise UnsafeError("a message that is not encrypted")
        if length < 52:
            raise UnsafeError("a message that is cut off")
        whole = self._rooms.of(length - 52)
        self.cipher.decrypt(hidden, whole)
        return whole

    def _filled(self, buffer: memoryview, timeout: float) -> memoryview | None:
        """The buffer, once it is full of what the server sends."""
        rest, length = buffer, len(buffer)
        last = time.monotonic()
        while rest:
            try:
                received = self._sock.recv_into(rest)
            except TimeoutError:
                if self.connected and time.monotonic() - last < timeout:
                    continue
                if self.connected and len(rest) == length == 4:
                    raise  # idle between messages: smbprotocol sends its sign of life
                received = 0
            except OSError:
                received = 0
            if not received:
                self.connected = False
                self._sock.close()
                return None
            self.heard = last = time.monotonic()
            rest = rest[received:]
        return buffer

    def close(self) -> None:
        """At once. The reading thread sees the end of the stream and closes the descriptor: nobody else may, it could be given to
        another socket while that thread still reads from it."""
        self.connected = False
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if not self.reader_lives:
            self._sock.close()


class SmbConnection(Connection):  # type: ignore[misc]  # smbprotocol has no types
    """smbprotocol's connection over our socket, with an end to each wait."""

    def __init__(self, wire: Wire, server: str, port: int, timeout: float) -> None:
        self._wire: Wire | None = None
        self._given, self._timeout = wire, timeout
        self._plain, self._hidden = Room(), Room()
        """For `post`, which one thread at a time uses."""
        super().__init__(uuid.uuid4(), server, port, require_signing=True)
        wire.granted = self._granted

    @property
    def transport(self) -> Wire | None:
        return self._wire

    @transport.setter
    def transport(self, made: object) -> None:
        """`Connection.connect` makes a `Tcp` here; it gets ours."""
        self._wire = None if made is None else self._given

    def receive(
        self,
        request: Any,
        wait: bool = True,
        timeout: float | None = None,
        resolve_symlinks: bool = True,  # noqa: ARG002 (it would wait without end)
    ) -> Any:
        """The answer to a request of smbprotocol's. Raises `HungError` when nothing at all is heard for `timeout`."""
        while True:
            self._await(request.response_event, timeout)
            with request.response_event_lock:
                if request.response is not None and wait and request.response["status"].get_value() == PENDING:
                    request.response_event.clear()  # the server works on it
                    continue
            return super().receive(request, wait=wait, timeout=1, resolve_symlinks=False)

    def take(self, request: Request, timeout: float | None = None) -> memoryview:
        """The answer to a request of ours, without its header. Raises `StatusError`, or `HungError` like `receive`."""
        self._await(request.event, timeout)
        if request.answer is None:
            raise SMBConnectionClosed("closed")
        if request.status:
            raise StatusError(request.status)
        return request.answer

    def _await(self, event: threading.Event, timeout: float | None) -> None:
        """Wait for as long as something is heard (as the link was told), or `timeout`."""
        began = time.monotonic()
        limit = self._timeout if timeout is None else min(timeout, self._timeout)
        while not event.is_set():
            rest = max(began, self._given.heard) + limit - time.monotonic()
            if not event.wait(max(0.0, min(rest, 1.0))):
                if rest <= 0:
                    raise HungError
                if not self._given.connected:
                    raise SMBConnectionClosed("closed")

    def post(self, sent: Sequence[Message], session: Session, tree_id: int, wanted: int, *, hold: bool = False) -> list[Request]:
        """Send messages in one piece, each after the first about the same file; there must be credits for them. `hold`: see
        `Wire.hold`."""
        large = bool(self.supports_multi_credit)
        requests = []
        with self.sequence_lock:
            for message in sent:
                requests.append(Request(self.sequence_window["low"]))
                self.sequence_window["low"] += charge(message, large)
        signatures = self._given.signatures if session.signing_required and session.signing_key else None
        numbers = [request.number for request in requests]
        parts = packed(sent, numbers, wanted, session.session_id, tree_id, large=large, signed=signatures is not None)
        data = self._plain.of(HEAD + sum(len(piece) for part in parts for piece in part))
        data[:HEAD] = struct.pack(">I", len(data) - HEAD)
        at = HEAD
        for part, number, message in zip(parts, numbers, sent, strict=True):
            begin = at
            for piece in part:
                data[at : at + len(piece)] = piece
                at += len(piece)
            if signatures is not None:
                signatures.sign(data[begin:at], number, message.COMMAND)
        tree = session.tree_connect_table.get(tree_id)
        if session.encrypt_data or (tree is not None and tree.encrypt_data):
            data = self._cipher(session).encrypt(data[HEAD:], self._hidden)
        self._given.requests.update((request.number, request) for request in requests)
        self._check_worker_running()  # after they are listed: the reading thread, if it ends now, wakes who waits for them
        (self._given.hold if hold else self._given.send)(data)
        return requests

    def _granted(self, more: int) -> None:
        with self.sequence_lock:
            self.sequence_window["high"] += more or (0 if self.supports_multi_credit else 1)

    def verify_signature(self, header: Any, session_id: int, force: bool = False) -> None:
        if force or (self._given.signatures is None and self._given.cipher is None):  # else it was checked when it arrived
            super().verify_signature(header, session_id, force)

    def _encrypt(self, b_data: bytes, session: Session) -> memoryview:
        """Called by smbprotocol, from its reading thread as well."""
        return self._cipher(session).encrypt(b_data)

    def _cipher(self, session: Session) -> Cipher:
        if self._given.cipher is None:
            self._given.cipher = Cipher(self, session)
        return self._given.cipher
