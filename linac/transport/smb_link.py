"""One connection to an SMB server, of which every wait is bounded.

Logging in, signing and encrypting are smbprotocol's work. What it would wait for without end is replaced here:

- Its socket is ours (`Wire`): sending gives up when nothing moves for `timeout`, and closing never waits for anybody.
- `SmbConnection.receive` gives up when nothing has been heard from the server for `timeout`. A slow line that moves is no hang.
- A connection that failed is torn down by shutting its socket; no goodbye is said, as that would wait for an answer. smbclient,
  with its table of connections and the goodbyes at the interpreter's end, is not used at all.

One link serves one thread at a time. Requests can be sent ahead (`begin`) and their answers taken later (`end`): that is what
makes transfers fast. The server grants credits for it, one for each 64 KiB asked or sent.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

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
from linac.transport.connecting import Line
from linac.transport.credentials import Credentials
from linac.transport.paths import AwayError
from linac.transport.smb_errors import Where
from linac.transport.smb_messages import Message
from linac.transport.smb_protection import Signatures
from linac.transport.smb_requests import CREDIT, Request, charge
from linac.transport.smb_wire import HungError, SmbConnection, StatusError, Wire

CHUNK = 1 << 20
"""Bytes of one request of a transfer. Smaller is slower, larger than 4 MiB too (measured)."""

DEPTH_NEAR, DEPTH_GATEWAY, DEPTH_FAR = 6, 8, 16
"""Requests under way at the same time: on a local network, through a gateway, over a long line."""

TOGETHER = 2
"""Requests that are sent at one go, where so many may follow."""

QUICK_SECONDS, SLOW_SECONDS = 1.0, 8.0
"""A write that is answered sooner than that lets the next ones be larger, one that takes longer lets them be smaller: on a slow
line each is to be answered well before the server counts as hung."""

FAR_SECONDS = 0.005
"""A server that takes longer than this to answer is far away."""

IDLE_SECONDS = 30.0
"""A connection that was idle for so long is tried before it is used: firewalls forget connections without telling."""

IDLE_ANSWER_SECONDS = 5.0

LOGIN_TIMEOUTS = 4
"""A login takes no longer than so many times the timeout: a server that gives a byte now and then is never silent."""


class Link:
    """A share of a server, logged in. Raises `SetupError`, `PeerError` and `AwayError` where that does not succeed."""

    def __init__(
        self,
        dial: Callable[[], Line],
        where: Where,
        credentials: Credentials | None,
        timeout: float,
        lost: Callable[[AwayError], LinacError] = lambda error: error,
    ) -> None:
        """`dial` gives the connection to the server; `lost` gets the error of one that failed or did not come about, and gives
        the one to raise."""
        self.where, self.timeout, self._lost = where, timeout, lost
        self.lock = threading.RLock()
        self._broken = False
        self._to_close: deque[bytes] = deque()
        self._inside = 0
        """The thread in the middle of a request; 0 for none."""
        try:
            sock = dial()
        except (OSError, UnicodeError) as error:  # the latter from a name that DNS cannot know
            raise lost(smb_errors.connecting(error, where, timeout)) from error
        self._wire = Wire(sock, timeout)
        self._connection = SmbConnection(self._wire, where.server, where.port, timeout)
        try:
            with self._bounded(LOGIN_TIMEOUTS * timeout):
                self._log_in(credentials)
        except AwayError as error:
            self.tear_down()
            raise lost(error) from error.__cause__
        except BaseException:
            self.tear_down()
            raise
        self.used = time.monotonic()

    @contextlib.contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        """Shut the socket down after so long, which ends whatever waits."""
        over = threading.Event()

        def end() -> None:
            over.set()
            self._wire.close()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except LinacError as error:
            if not over.is_set():
                raise
            raise smb_errors.hung(self.where, seconds) from error
        finally:
            timer.cancel()

    def _log_in(self, credentials: Credentials | None) -> None:
        where = self.where
        try:
            self._connection.connect(timeout=self.timeout)
        except HungError as error:
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
            self._wire.signatures = Signatures(self._connection, self._session)
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
        self.portion = CREDIT
        """Bytes of one write, for now; `write_chunk` at most."""
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
        except HungError as error:
            raise smb_errors.hung(self.where, self.timeout) from error
        except SMBAuthenticationError as error:
            raise smb_errors.no_login(self.where) from error
        except (SMBConnectionClosed, OSError) as error:
            raise smb_errors.gone(self.where) from error
        except SMBException as error:
            if "guest" in str(error):
                raise smb_errors.unsafe(self.where) from error
            raise smb_errors.strange(self.where) from error
        except Exception as error:  # whatever the library makes of an answer that is none
            raise smb_errors.strange(self.where) from error

    # Requests

    def begin(self, message: Message) -> Request:
        """Send a request; its answer is to be taken by `end`. One that nobody takes is dropped when it arrives."""
        return self.begin_chain(message)[0]

    def end(self, request: Request, gone: frozenset[int] = smb_errors.GONE) -> memoryview:
        """The answer to a request, without its header. Raises `StatusError` if it is an error; one of `gone` ends the
        connection."""
        with self._connected(gone):
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

    def _post(self, *sent: Message, hold: bool = False) -> list[Request]:
        wanted = self._credits(*sent)
        with self._connected():
            return self._connection.post(sent, self._session, self._tree.tree_connect_id, wanted, hold=hold)

    def end_chain(self, requests: list[Request]) -> list[memoryview | StatusError]:
        """The answers to a chain, or an error each.

        What follows an error says nothing of the connection: of a file that could not be opened, Samba may say that the tree
        connection has gone (where the account may not enter the share's own folder).
        """
        answered: list[memoryview | StatusError] = []
        gone = smb_errors.GONE
        for request in requests:
            try:
                answered.append(self.end(request, gone))
            except StatusError as error:
                answered.append(error.with_traceback(None))  # its frames hold this list: a circle that keeps all answers
                gone = frozenset()
        return answered

    def close_soon(self, handle: bytes) -> None:
        """Close a file without waiting for the answer. Never raises: a connection that is gone has closed it already.

        Amid another request it is put off until after that.
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

    def close_later(self, handle: bytes) -> None:
        """Close a file with the next request. Never sends: it may be called at any moment, by the garbage collector too."""
        self._to_close.append(handle)

    def _close_late(self) -> None:
        """Close what could not be closed when it should have been."""
        with contextlib.suppress(IndexError):  # emptied by the garbage collector's calls meanwhile
            while self._to_close and not self.is_broken:
                self._post(messages.close(self._to_close.popleft()))

    @contextlib.contextmanager
    def _connected(self, gone: frozenset[int] = smb_errors.GONE) -> Iterator[None]:
        """Tear the connection down when it fails, and say how; a status of `gone` means that it has."""
        if self.is_broken:
            self.tear_down()
            raise self._lost(smb_errors.gone(self.where))
        self._inside = threading.get_ident()
        try:
            yield
            self.used = time.monotonic()
        except StatusError as error:
            if error.status in gone:
                self.tear_down()
                raise self._lost(smb_errors.gone(self.where)) from error
            raise
        except (HungError, TimeoutError) as error:
            self.tear_down()
            raise self._lost(smb_errors.hung(self.where, self.timeout)) from error
        except Exception as error:  # closed; or whatever the reading thread died of
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
            if asked < end and len(pending) <= self.depth - TOGETHER:
                asked = self._ask_ahead(handle, asked, end, pending)
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

    def _ask_ahead(self, handle: bytes, asked: int, end: int, pending: deque[tuple[int, int, Request]]) -> int:
        """Ask for as much more of a range as may be under way, and for something where nothing is; up to where that goes."""
        while asked < end and len(pending) < self.depth:
            wanted = min(self.read_chunk, end - asked)
            length = self.room(wanted)
            if length < min(wanted, self.read_chunk // 2) and pending:  # more credits come with the answers
                break
            length = length or min(CREDIT, wanted)
            self._close_late()
            [request] = self._post(messages.read(asked, length, handle), hold=True)
            pending.append((asked, length, request))
            asked += length
        with self._connected():
            self._wire.send_held()
        return asked

    def _data(self, request: Request) -> memoryview:
        try:
            return messages.data_read(self.end(request))
        except StatusError as error:
            if error.status == smb_errors.END_OF_FILE:
                return memoryview(b"")
            raise

    def write_from(self, handle: bytes, pieces: Iterator[bytes]) -> int:
        """Write pieces to an open file from its begin; how many bytes they were."""
        pending: deque[tuple[int, Request]] = deque()
        offset, answered = 0, 0.0

        def take_one() -> None:
            nonlocal answered
            length, request = pending.popleft()
            if messages.written(self.end(request)) != length:
                raise StatusError(0xC000007F)
            waited, answered = request.answered - max(request.asked, answered), request.answered
            if waited < QUICK_SECONDS and length == self.portion:
                self.portion = min(self.portion * 2, self.write_chunk)
            elif waited > SLOW_SECONDS:
                self.portion = max(self.portion // 2, CREDIT)

        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                while pending and (len(pending) >= self.depth or self.room(self.portion) < min(self.portion, len(rest))):
                    take_one()
                part, rest = rest[: self.portion], rest[self.portion :]
                pending.append((len(part), self.begin(messages.write(offset, part, handle))))
                offset += len(part)
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
        if time.monotonic() - self.used < IDLE_SECONDS or not self.lock.acquire(blocking=False):
            return True  # else another thread uses it just now, for a file of this connection
        try:
            with self._connected():
                [request] = self._connection.post([messages.echo()], self._session, 0, 1)
                self._connection.take(request, IDLE_ANSWER_SECONDS)
        except (LinacError, StatusError):
            self.tear_down()
        finally:
            self.lock.release()
        return not self.is_broken

    def tear_down(self) -> None:
        """End the connection at once, without a word to the server; it closes our files when it sees that."""
        self._broken = True
        self._wire.close()
        thread = self._connection._t_worker
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(2)
