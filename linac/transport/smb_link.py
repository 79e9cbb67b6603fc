"""One connection to an SMB server, of which every wait is bounded.

Logging in, signing and encrypting are smbprotocol's work. What it would wait for without end is replaced here:

- Its socket is ours (`_Wire`): sending gives up when nothing moves for `timeout`, and closing never waits for anybody.
- `_Connection.receive` gives up when nothing has been heard from the server for `timeout`. A slow line that moves is no hang.
- A connection that failed is torn down by shutting its socket; no goodbye is said, as that would wait for an answer. smbclient,
  with its table of connections and the goodbyes at the interpreter's end, is not used at all.

One link serves one thread at a time. Requests can be sent ahead (`begin`) and their answers taken later (`end`): that is what
makes transfers fast. The server grants credits for it, one for each 64 KiB asked or sent.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import socket
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import cmac
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from smbprotocol.connection import Ciphers, Connection, Dialects, SigningAlgorithms
from smbprotocol.exceptions import (
    SMBAuthenticationError,
    SMBConnectionClosed,
    SMBException,
    SMBResponseException,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from linac.errors import LinacError
from linac.transport import smb_errors
from linac.transport import smb_messages as messages
from linac.transport.credentials import Credentials
from linac.transport.paths import AwayError
from linac.transport.smb_errors import Where
from linac.transport.smb_messages import Message
from linac.transport.smb_requests import CREDIT, PENDING, SIGNED, Request, answers, charge, packed, with_signature

CHUNK = 1 << 20
"""Bytes of one request of a transfer. Smaller is slower, larger than 4 MiB too (measured)."""

DEPTH_NEAR, DEPTH_GATEWAY, DEPTH_FAR = 4, 8, 16
"""Requests under way at the same time: on a local network, through a gateway, over a long line."""

FAR_SECONDS = 0.005
"""A server that takes longer than this to answer is far away."""

IDLE_SECONDS = 30.0
"""A connection that was idle for so long is tried before it is used: firewalls forget connections without telling."""

IDLE_ANSWER_SECONDS = 5.0

CANCEL = 12
UNASKED = 0xFFFFFFFFFFFFFFFF

logging.getLogger("smbprotocol").setLevel(logging.CRITICAL)  # it logs paths, which can hold names; our errors say what matters


class StatusError(Exception):
    """The server's answer to one request is an error. Internal: `Folder` methods turn it into an error with advice."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status 0x{status:08X}")
        self.status = status


class _HungError(Exception):
    """Nothing was heard for too long."""


class _UnsafeError(SMBException):  # type: ignore[misc]  # smbprotocol has no types
    """Somebody between us and the server could have said this."""


class _Cipher:
    """What smbprotocol agreed on with the server, applied without copying each message several times ([MS-SMB2] 2.2.41)."""

    _NONCE = struct.Struct("<4s16s16sIHHQ")

    def __init__(self, connection: Connection, session: Session) -> None:
        number = connection.cipher_id if connection.dialect >= Dialects.SMB_3_1_1 else Ciphers.AES_128_CCM
        galois = number in (Ciphers.AES_128_GCM, Ciphers.AES_256_GCM)
        kind = aead.AESGCM if galois else aead.AESCCM
        self._nonce_length = 12 if galois else 11
        self._ours, self._theirs = kind(session.encryption_key), kind(session.decryption_key)
        self._session_id = session.session_id

    def encrypt(self, data: bytes) -> bytes:
        nonce = os.urandom(self._nonce_length)
        header = nonce.ljust(16, b"\0") + struct.pack("<IHHQ", len(data), 0, 1, self._session_id)
        hidden = memoryview(self._ours.encrypt(nonce, data, header))
        return b"".join((b"\xfdSMB", hidden[-16:], header, hidden[:-16]))

    def decrypt(self, message: memoryview) -> bytes:
        """`message` has room for 16 bytes behind it. Raises `InvalidTag` for what was tampered with."""
        message[-16:] = message[4:20]
        nonce = bytes(message[20 : 20 + self._nonce_length])
        return self._theirs.decrypt(nonce, message[52:], bytes(message[20:52]))


class _Signatures:
    """The server's signatures, checked where the messages arrive: smbprotocol by itself copies each one several times, and lets
    unsigned ones pass ([MS-SMB2] 3.1.4.1)."""

    def __init__(self, connection: Connection, session: Session) -> None:
        self._key = session.signing_key
        if connection.dialect >= Dialects.SMB_3_1_1 and connection.signing_algorithm_id is not None:
            self._kind = connection.signing_algorithm_id
        else:
            new = connection.dialect >= Dialects.SMB_3_0_0
            self._kind = SigningAlgorithms.AES_CMAC if new else SigningAlgorithms.HMAC_SHA256

    def check(self, message: bytearray) -> None:
        """Raises `_UnsafeError` for a message, or a chain of them, that is not signed as the server would."""
        at = 0
        while True:
            status, command, flags, following, number = struct.unpack_from("<8xIHxxIIQ", message, at)
            if flags & SIGNED:
                part = memoryview(message)[at : at + following if following else len(message)]
                told = bytes(part[48:64])
                part[48:64] = bytes(16)
                if not hmac.compare_digest(self._made(part, number, command), told):
                    raise _UnsafeError("a message whose signature is not the server's")
            elif status != PENDING and number != UNASKED:  # the server still works on it; or it speaks unasked
                raise _UnsafeError("a message that is not signed")
            if not following:
                return
            at += following

    def _made(self, part: memoryview, number: int, command: int) -> bytes:
        if self._kind == SigningAlgorithms.AES_GMAC:
            nonce = struct.pack("<QI", number, 3 if command == CANCEL else 1)
            return aead.AESGCM(self._key).encrypt(nonce, b"", part)
        if self._kind == SigningAlgorithms.AES_CMAC:
            made = cmac.CMAC(AES(self._key))
            made.update(part)  # type: ignore[arg-type]  # any buffer will do
            return made.finalize()
        return hmac.new(self._key, part, hashlib.sha256).digest()[:16]


class _Wire:
    """A connected socket in the shape of smbprotocol's `Tcp`."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self.connected = True
        self.reader_lives = False
        self._buffer = bytearray()
        self._theirs: deque[bytes] = deque()
        self.requests: dict[int, Request] = {}
        """Ours that are under way, by their numbers; smbprotocol has its own list of its own."""
        self.granted: Callable[[int], None] = lambda _: None
        """Told of the credits that come with an answer."""
        self.signatures: _Signatures | None = None
        """Each message must be signed from when it is there."""
        self.cipher: _Cipher | None = None
        """Each message must be encrypted from when it is there."""
        self.heard = time.monotonic()
        sock.settimeout(timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connect(self) -> None:
        """It is connected already."""

    def send(self, header: bytes) -> None:
        """Send a message whole. Raises OSError, TimeoutError among it, once nothing moves."""
        with self._sending:
            rest = memoryview(b"".join((struct.pack(">I", len(header)), header)))
            while rest:
                rest = rest[self._sock.send(rest) :]

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

    def _sort(self, message: bytes | bytearray) -> None:
        """Ours to those who wait, without a copy; the others to smbprotocol, each by itself."""
        whole = memoryview(message)
        for answer in answers(message):
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
                request.event.set()

    def _give_up(self) -> None:
        """Nobody is to wait any more."""
        for request in list(self.requests.values()):
            request.event.set()

    def _whole(self, timeout: float) -> bytes | bytearray | None:
        header = self._filled(memoryview(bytearray(4)), timeout)
        if header is None:
            return None
        length = int.from_bytes(header[1:], "big")
        if self.cipher is None:
            whole = bytearray(length)
            if self._filled(memoryview(whole), timeout) is None:
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
            raise _UnsafeError("a message that is not encrypted")
        return self.cipher.decrypt(hidden)

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


class _Connection(Connection):  # type: ignore[misc]  # smbprotocol has no types
    """smbprotocol's connection over our socket, with an end to each wait."""

    def __init__(self, wire: _Wire, server: str, port: int, timeout: float) -> None:
        self._wire: _Wire | None = None
        self._given, self._timeout = wire, timeout
        super().__init__(uuid.uuid4(), server, port, require_signing=True)
        wire.granted = self._granted

    @property
    def transport(self) -> _Wire | None:
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
        """The answer to a request of smbprotocol's. Raises `_HungError` when nothing at all is heard for `timeout`."""
        while True:
            self._await(request.response_event, timeout)
            with request.response_event_lock:
                if request.response is not None and wait and request.response["status"].get_value() == PENDING:
                    request.response_event.clear()  # the server works on it
                    continue
            return super().receive(request, wait=wait, timeout=1, resolve_symlinks=False)

    def take(self, request: Request, timeout: float | None = None) -> memoryview:
        """The answer to a request of ours, without its header. Raises `StatusError`, or `_HungError` like `receive`."""
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
                    raise _HungError
                if not self._given.connected:
                    raise SMBConnectionClosed("closed")

    def post(self, sent: Sequence[Message], session: Session, tree_id: int, wanted: int) -> list[Request]:
        """Send messages in one piece, each after the first about the same file; there must be credits for them."""
        large = bool(self.supports_multi_credit)
        requests = []
        with self.sequence_lock:
            for message in sent:
                requests.append(Request(self.sequence_window["low"]))
                self.sequence_window["low"] += charge(message, large)
        signed = bool(session.signing_required and session.signing_key)
        numbers = [request.number for request in requests]
        parts = packed(sent, numbers, wanted, session.session_id, tree_id, large=large, signed=signed)
        if signed:
            parts = [
                with_signature(part, self._generate_signature(part, session.signing_key, number, False, message.COMMAND))
                for part, number, message in zip(parts, numbers, sent, strict=True)
            ]
        data = b"".join(parts)
        tree = session.tree_connect_table.get(tree_id)
        if session.encrypt_data or (tree is not None and tree.encrypt_data):
            data = self._encrypt(data, session)
        self._given.requests.update((request.number, request) for request in requests)
        self._check_worker_running()  # after they are listed: the reading thread, if it ends now, wakes who waits for them
        self._given.send(data)
        return requests

    def _granted(self, more: int) -> None:
        with self.sequence_lock:
            self.sequence_window["high"] += more or (0 if self.supports_multi_credit else 1)

    def verify_signature(self, header: Any, session_id: int, force: bool = False) -> None:
        if force or self._given.signatures is None:  # else it was checked when it arrived
            super().verify_signature(header, session_id, force)

    def _encrypt(self, b_data: bytes, session: Session) -> bytes:
        if self._given.cipher is None:
            self._given.cipher = _Cipher(self, session)
        return self._given.cipher.encrypt(b_data)


class Link:
    """A share of a server, logged in. Raises `SetupError`, `PeerError` and `AwayError` where that does not succeed."""

    def __init__(
        self,
        address: tuple[str, int],
        where: Where,
        credentials: Credentials | None,
        timeout: float,
        lost: Callable[[AwayError], LinacError] = lambda error: error,
    ) -> None:
        """`lost` gets the error of a connection that failed or did not come about, and gives the one to raise."""
        self.where, self.timeout, self._lost = where, timeout, lost
        self.lock = threading.RLock()
        self._broken = False
        self._to_close: deque[bytes] = deque()
        self._inside = 0
        """The thread in the middle of a request; 0 for none."""
        try:
            sock = socket.create_connection(address, timeout)
        except (OSError, UnicodeError) as error:  # the latter from a name that DNS cannot know
            raise lost(smb_errors.connecting(error, where, timeout)) from error
        self._wire = _Wire(sock, timeout)
        self._connection = _Connection(self._wire, where.server, where.port, timeout)
        try:
            self._log_in(credentials)
        except AwayError as error:
            self.tear_down()
            raise lost(error) from error.__cause__
        except BaseException:
            self.tear_down()
            raise
        self.used = time.monotonic()

    def _log_in(self, credentials: Credentials | None) -> None:
        where = self.where
        try:
            self._connection.connect(timeout=self.timeout)
        except _HungError as error:
            raise smb_errors.hung(where, self.timeout) from error
        except (SMBConnectionClosed, OSError) as error:
            raise smb_errors.hung_up(where) from error
        except Exception as error:
            raise smb_errors.strange(where) from error
        login, password = (credentials.login, credentials.password) if credentials else (None, None)
        self.encrypted = bool(self._connection.supports_encryption)
        self._session = Session(self._connection, login, password, require_encryption=self.encrypted)
        with self._explained(lambda status: smb_errors.logon(status, where)):
            self._session.connect()
        if not self._session.encrypt_data:
            self._wire.signatures = _Signatures(self._connection, self._session)
        began = time.monotonic()
        self._tree = TreeConnect(self._session, rf"\\{where.server}\{where.share}")
        with self._explained(lambda status: smb_errors.share(status, where)):
            self._tree.connect()
        answer_seconds = time.monotonic() - began
        self._tree.is_dfs_share = False  # paths are given relative to the share, on DFS roots as well
        near = DEPTH_GATEWAY if where.through_gateway else DEPTH_NEAR
        self.depth = DEPTH_FAR if answer_seconds > FAR_SECONDS else near
        large = bool(self._connection.supports_multi_credit)
        self.read_chunk = min(CHUNK, self._connection.max_read_size) if large else CREDIT
        self.write_chunk = min(CHUNK, self._connection.max_write_size) if large else CREDIT
        self.list_chunk = min(CHUNK, self._connection.max_transact_size) if large else CREDIT
        if self._available < CHUNK // CREDIT + 8:  # a server that is sparing with credits
            self.read_chunk = self.write_chunk = self.list_chunk = CREDIT
        self._wanted = (self.depth + 2) * (CHUNK // CREDIT)

    @contextlib.contextmanager
    def _explained(self, refused: Callable[[int], LinacError]) -> Iterator[None]:
        """Errors while logging in."""
        try:
            yield
        except SMBResponseException as error:
            raise refused(error.status) from error
        except _HungError as error:
            raise smb_errors.hung(self.where, self.timeout) from error
        except SMBAuthenticationError as error:
            raise smb_errors.no_login(self.where) from error
        except (SMBConnectionClosed, OSError) as error:
            raise smb_errors.gone(self.where) from error
        except SMBException as error:
            if "guest" in str(error):
                raise smb_errors.unsafe(self.where) from error
            raise smb_errors.strange(self.where) from error

    # Requests

    def begin(self, message: Message) -> Request:
        """Send a request; its answer is to be taken by `end`. One that nobody takes is dropped when it arrives."""
        return self.begin_chain(message)[0]

    def end(self, request: Request) -> memoryview:
        """The answer to a request, without its header. Raises `StatusError` if it is an error."""
        with self._connected():
            return self._connection.take(request)

    def call(self, message: Message) -> memoryview:
        return self.end(self.begin(message))

    def chain(self, *chained: Message) -> list[memoryview | StatusError]:
        """Messages about one and the same file, which the first one opens: all of them in one go. An answer or an error each."""
        return self.end_chain(self.begin_chain(*chained))

    def begin_chain(self, *chained: Message) -> list[Request]:
        """Send a chain of messages; the answers are to be taken by `end_chain`."""
        self._close_late()
        return self._post(*chained)

    def _post(self, *sent: Message) -> list[Request]:
        wanted = self._credits(*sent)
        with self._connected():
            return self._connection.post(sent, self._session, self._tree.tree_connect_id, wanted)

    def end_chain(self, requests: list[Request]) -> list[memoryview | StatusError]:
        """The answers to a chain, or an error each."""
        answered: list[memoryview | StatusError] = []
        for request in requests:
            try:
                answered.append(self.end(request))
            except StatusError as error:
                answered.append(error)
        return answered

    def close_soon(self, handle: bytes) -> None:
        """Close a file without waiting for the answer. Never raises: a connection that is gone has closed it already.

        It may be called at any moment, by the garbage collector too: amid another request it is put off until after that.
        """
        worker = self._connection._t_worker
        me = threading.get_ident()
        if self._inside == me or (worker is not None and worker.ident == me) or not self.lock.acquire(blocking=False):
            self._to_close.append(handle)
            return
        try:
            with contextlib.suppress(LinacError, StatusError):
                if not self.is_broken:
                    self.begin(messages.close(handle))
        finally:
            self.lock.release()

    def _close_late(self) -> None:
        """Close what could not be closed when it should have been."""
        with contextlib.suppress(IndexError):  # emptied by the garbage collector's calls meanwhile
            while self._to_close and not self.is_broken:
                self._post(messages.close(self._to_close.popleft()))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Tear the connection down when it fails, and say how."""
        if self.is_broken:
            self.tear_down()
            raise self._lost(smb_errors.gone(self.where))
        self._inside = threading.get_ident()
        try:
            yield
            self.used = time.monotonic()
        except StatusError as error:
            if error.status in smb_errors.GONE:
                self.tear_down()
                raise self._lost(smb_errors.gone(self.where)) from error
            raise
        except (_HungError, TimeoutError) as error:
            self.tear_down()
            raise self._lost(smb_errors.hung(self.where, self.timeout)) from error
        except (SMBException, OSError, InvalidTag) as error:
            self.tear_down()
            raise self._lost(smb_errors.gone(self.where)) from error
        except BaseException:  # interrupted, perhaps in the middle of a message
            self.tear_down()
            raise
        finally:
            self._inside = 0

    # Credits

    @property
    def _available(self) -> int:
        window = self._connection.sequence_window
        return int(window["high"] - window["low"])

    def room(self, wanted: int) -> int:
        """How many of the wanted bytes the credits pay for now."""
        return min(wanted, max(0, self._available - 2) * CREDIT)

    def _credits(self, *sent: Message) -> int:
        """Wait until there are credits for some messages; how many to ask for with them."""
        large = bool(self._connection.supports_multi_credit)
        cost = sum(charge(message, large) for message in sent)
        until = time.monotonic() + self.timeout
        while self._available < cost and not self.is_broken:
            if time.monotonic() > until:
                self.tear_down()
                raise self._lost(smb_errors.hung(self.where, self.timeout))
            time.sleep(0.001)
        return min(cost + max(0, self._wanted - self._available), 512)

    # Transfers

    def read_range(self, handle: bytes, offset: int, size: int, take: Callable[[memoryview], object]) -> int:
        """Hand a range of an open file to `take`, piece by piece in order; how many bytes there were (fewer at its end)."""
        pending: deque[tuple[int, int, Request]] = deque()
        asked, end, done = offset, offset + size, offset
        while pending or asked < end:
            while asked < end and len(pending) < self.depth:
                length = self.room(min(self.read_chunk, end - asked))
                if not length:
                    if pending:
                        break
                    length = min(CREDIT, end - asked)
                pending.append((asked, length, self.begin(messages.read(asked, length, handle))))
                asked += length
            at, length, request = pending.popleft()
            data = self._data(request)
            take(data)
            done = at + len(data)
            while len(data) and done < at + length:  # a server may give less than asked
                data = self._data(self.begin(messages.read(done, at + length - done, handle)))
                take(data)
                done += len(data)
            if done < at + length:
                break
        return done - offset

    def _data(self, request: Request) -> memoryview:
        try:
            return messages.data_read(self.end(request))
        except StatusError as error:
            if error.status == smb_errors.END_OF_FILE:
                return memoryview(b"")
            raise

    def write_from(self, handle: bytes, pieces: Iterator[bytes]) -> int:
        """Write pieces, of `write_chunk` bytes at most each, to an open file from its begin; how many bytes they were."""
        pending: deque[tuple[int, Request]] = deque()
        offset = 0

        def take_one() -> None:
            length, request = pending.popleft()
            if messages.written(self.end(request)) != length:
                raise StatusError(0xC000007F)

        for piece in pieces:
            while pending and (len(pending) >= self.depth or self.room(len(piece)) < len(piece)):
                take_one()
            pending.append((len(piece), self.begin(messages.write(offset, piece, handle))))
            offset += len(piece)
        while pending:
            take_one()
        return offset

    # The end

    @property
    def is_broken(self) -> bool:
        return self._broken or not self._wire.connected

    def is_alive(self) -> bool:
        """Whether it can be used. One that was idle for long is asked, a few seconds at most."""
        if self.is_broken:
            return False
        if time.monotonic() - self.used < IDLE_SECONDS:
            return True
        try:
            with self._connected():
                [request] = self._connection.post([messages.echo()], self._session, 0, 1)
                self._connection.take(request, IDLE_ANSWER_SECONDS)
        except (LinacError, StatusError):
            self.tear_down()
        return not self.is_broken

    def tear_down(self) -> None:
        """End the connection at once, without a word to the server; it closes our files when it sees that."""
        self._broken = True
        self._wire.close()
        thread = self._connection._t_worker
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(2)
