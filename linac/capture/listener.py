"""The listener: takes bytes off the linac's iCom socket, appends them to the journal, and does nothing else.

    python -m linac.capture.listener --serial 4299 --address 192.168.17.40 --spool C:\\linac-spool

It depends on nothing: standard library only, runs under `python -S`, knows no share, no database, no flow. What it must never do
is hold the linac up or drop off carelessly, so the work is split over threads that never wait for each other:

    main        connect, receive, queue; never touches a disk. Signals arrive here
    recorder    queue -> journal (`linac.capture.recorder`)
    keeper      `status.json` once a second, and a look for the `stop` file twice a second
    log         lines for people, to stdout or a file

Connection rules. One connection, never another while it is open. After a loss: wait 1 s, then up to 60 s, with some randomness;
never more than 5 s after a connection that brought a whole message, for the linac may be treating. A connection that brought
something for ten seconds starts the waiting times anew. Every end that lets code run sends FIN.

Silence. The linac says something four times a second, so 10 s without a byte is noted (journal, status, log). That alone is no
reason to hang up: the connection may be sound and the linac in the middle of something, and the system's keepalive ends one whose
other end is gone. But a tunnel or firewall can keep up a connection that leads nowhere; so after 60 s it is ended in order
and made anew.

Cost. At the linac's four messages a second nearly all of it is waking up: two threads for each message, and the keeper. When
much comes (a backlog after a connection is made, a test), waking for each piece would cost ten times the work itself: from 160
pieces a second on, the listener lets a few milliseconds' worth gather in the system's buffer.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from linac.capture import journal
from linac.capture.connection import ICOM_PORT, close_in_order, connect, peer_of
from linac.capture.journal import Kind, Writer
from linac.capture.lock import EndpointLock, FileLock
from linac.capture.log import Log
from linac.capture.recorder import QUEUE_BYTES, Recorder
from linac.capture.spool import DEFAULT_SPOOL, Spool, write_whole
from linac.capture.status import REMEMBERED, REMEMBERED_HOURS, Interruption, Status
from linac.errors import AlreadyRunningError, LinacError, SetupError, UnreachableError

SILENCE_SECONDS = 10.0
SILENCE_RECONNECT_SECONDS = 60.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.25, 50.0
"""Waiting times double from the first to the longest; each is then taken 0.8 to 1.2 times: 1 s to 60 s in all."""

BROUGHT_WAIT_SECONDS = 4.0
"""The longest waiting time, likewise, after a connection that brought a whole message."""

GOOD_CONNECTION_SECONDS = 10.0
ENDPOINT_SECONDS = 4.0
"""A listener that starts waits so long for somebody else of ours to leave the linac: a look at it takes three seconds."""

STOP_POLL_SECONDS = 0.25
KEEP_SECONDS = 0.5
STATUS_SECONDS = 1.0
SIZE_SECONDS = 30.0
RECEIVE_BYTES = 65536
WINDOW_SECONDS, BUSY_RECEIVES, IDLE_RECEIVES = 0.1, 16, 8
"""More pieces than `BUSY_RECEIVES` in a tenth of a second are a flood, until there are fewer than `IDLE_RECEIVES`. One message is
up to six pieces on a network, and those at the linac's own pace are to be taken at once, each by itself."""

GATHER_SECONDS = 0.01
"""Pause after each piece in a flood, unless more waits already. The system's buffer has room for 25 messages or more, so this
never holds the linac up."""

NOT_ICOM_BYTES = 100_000
WARN_FREE_BYTES = 10 * journal.RESERVE_BYTES

EXIT_STOPPED, EXIT_FAILED, EXIT_SETUP, EXIT_ALREADY = 0, 1, 2, 3

_DATE = re.compile(rb"(?:19|20)\d\d-[01]\d-[0-3]\d[0-2]\d:[0-5]\d:[0-5]\d")
_DATE_BYTES, _TO_COLON = 18, 12


class HeaderCounter:
    """Counts the date headers of messages in a stream of bytes: cheaply (a colon is rare there) and only for the status."""

    def __init__(self) -> None:
        self._tail = b""

    def count(self, data: bytes) -> int:
        joined = self._tail + data
        found = 0
        at = joined.find(b":", _TO_COLON)
        while at >= 0:
            found += _DATE.match(joined, at - _TO_COLON) is not None
            at = joined.find(b":", at + 1)
        self._tail = joined[1 - _DATE_BYTES :]
        return found


class Listener:
    """One linac's listener. `run` blocks until `stop`; the process that calls it does nothing else.

    `say` takes lines for people; `standalone`: see `Status`. The other arguments are the constants of this module, for tests.
    """

    def __init__(
        self,
        serial: str,
        address: str,
        port: int,
        spool: str | os.PathLike[str],
        *,
        say: Callable[[str], None] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        silence_reconnect_seconds: float = SILENCE_RECONNECT_SECONDS,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
        queue_bytes: int = QUEUE_BYTES,
        writer: Writer | None = None,
        standalone: bool = False,
    ) -> None:
        if not 0 < port < 65536 or not address.strip():
            raise SetupError(
                f"Linac {serial}: {address!r} port {port} is no address. Give the NSS's hospital address, and a port from 1 to "
                "65535."
            )
        self.serial, self.address, self.port = serial, address.strip(), port
        self.places = Spool(Path(spool), serial)
        self.silence_seconds, self.silence_reconnect_seconds = silence_seconds, silence_reconnect_seconds
        self.first_wait_seconds, self.queue_bytes = first_wait_seconds, queue_bytes
        self._say, self.standalone = say or (lambda _line: None), standalone
        self._writer = writer
        self._recorder: Recorder | None = None
        self._lock, self._endpoint = FileLock(self.places.lock), EndpointLock(self.address, port)
        self._stopping = ""
        self._keeping = threading.Event()
        self._state = "starting"
        self._started = datetime.now(UTC)
        self._connected_since: datetime | None = None
        self._last_message_ns = 0
        self._messages = self._bytes = self._connections = self._losses = self._silences = 0
        self._silent = False
        self._headers = HeaderCounter()
        self._last_error = ""
        self._interruptions: list[Interruption] = []
        self._lost: tuple[datetime, str] | None = None  # since when, and why, there is no connection any more
        self.unwritten_bytes: int | None = None  # where the journal could not be completed at the end
        self._sized = (0, 0)  # the journal's size when it was measured, and what we had written by then

    def stop(self, reason: str) -> None:
        """Ask the listener to end, from any thread or signal handler. It does within about a second."""
        self._stopping = self._stopping or reason

    def run(self) -> None:
        """Listen until told to stop. Raises `AlreadyRunningError` and `SetupError` before it begins, nothing afterwards."""
        self.places.make()
        self._claim()
        try:
            with contextlib.suppress(OSError):
                self.places.stop.unlink()  # an old request, not meant for us
            self._remember()
            recorder = self._recorder = Recorder(
                self._writer or Writer(self.places.journal, self.serial), self._say, self.queue_bytes
            )
            keeper = threading.Thread(target=self._keep, daemon=True, name="keeper")
            recorder.start()
            recorder.note(Kind.STARTED, pid=os.getpid(), address=self.address, port=self.port)
            keeper.start()
            self._say(f"listening to linac {self.serial} at {self.address} port {self.port}, journal in {self.places.journal}")
            self._listen()
            self._state = "stopping"
            recorder.note(Kind.STOPPED, reason=self._stopping)
            if not recorder.close(5.0):
                self.unwritten_bytes = recorder.unsafe_bytes
                why = "has no room" if recorder.full else "cannot be written to" if recorder.failing else "does not answer"
                self._say(
                    f"ATTENTION, the journal could not be completed, the last {self.unwritten_bytes} bytes from the linac are "
                    f"lost: the spool's disk {why}."
                )
            self._state = "stopped"
            self._keeping.set()
            keeper.join(2.0)
            self._say(f"stopped: {self._stopping}")
        finally:
            self._endpoint.release()
            self._lock.release()

    def _remember(self) -> None:
        """Go on from what the listener before this one left: the time between the two is an interruption, too."""
        try:
            before = Status.from_json(self.places.status.read_bytes())
        except (OSError, ValueError):  # there was none, or a power cut took what it said
            return
        self._interruptions = list(before.interruptions)
        if before.disconnected_since is not None:
            self._lost = before.disconnected_since, before.disconnected_reason
        elif before.connected and before.written is not None:
            self._lost = before.written, "the listener was killed, or its computer went down"
        self._losses += self._lost is not None

    def _flowing(self) -> None:
        """What interrupted the messages is over. Bytes show that, not a connection: a tunnel or a service whose linac is switched
        off may accept one connection after the other, all night."""
        if self._lost is None:
            return
        now, (since, reason), self._lost = datetime.now(UTC), self._lost, None
        recent = [one for one in self._interruptions if one.until > now - timedelta(hours=REMEMBERED_HOURS)]
        over = Interruption(since, max(now, since), reason)  # this computer's clock may have been set back meanwhile
        self._interruptions = [*recent[1 - REMEMBERED :], over]

    def _claim(self) -> None:
        if not self._lock.acquire(wait_seconds=1.0):
            raise AlreadyRunningError(
                f"Linac {self.serial}: a listener already runs with the spool {self.places.root}. One is enough; to replace it, "
                "stop that one first."
            )
        if not self._endpoint.acquire(ENDPOINT_SECONDS):
            self._lock.release()
            raise AlreadyRunningError(
                f"Linac {self.serial}: another listener on this computer, with another spool or serial, already listens to "
                f"{self.address} port {self.port}. A linac must have one connection only: stop that one first."
            )

    # The main thread: connect, receive, queue.

    def _listen(self) -> None:
        waits = 0
        while not self._stopping:
            good, before = False, self._messages
            try:
                good = self._connection()
            except UnreachableError as error:
                if not self._stopping:
                    self._complain(str(error))
            except Exception as error:  # a fault of ours, or of the system: never a reason to end
                self._complain(f"unexpected {type(error).__name__} in the listener ({where_raised(error)})")
            waits = 0 if good else waits
            longest = (
                BROUGHT_WAIT_SECONDS if self._messages > before + 1 else LONGEST_WAIT_SECONDS
            )  # two headers: the first is whole
            self._wait(min(self.first_wait_seconds * 2**waits, longest) * random.uniform(0.8, 1.2))  # noqa: S311
            waits = min(waits + 1, 16)

    def _connection(self) -> bool:
        """One connection from beginning to end. Whether it was a good one. Raises `UnreachableError` if there was none."""
        assert self._recorder is not None  # noqa: S101 (run made it)
        self._state = "connecting"
        sock = connect(self.serial, self.address, self.port, stopping=lambda: bool(self._stopping))
        reason, began, before = "an unexpected error here", time.monotonic(), self._bytes
        try:
            peer = peer_of(sock) or self.address
            self._recorder.note(Kind.CONNECTED, peer=peer)
            self._connected_since, self._state, self._last_error = datetime.now(UTC), "connected", ""
            self._connections += 1
            self._headers = HeaderCounter()
            self._say(f"connected to {peer} port {self.port}")
            reason = self._receive(sock)
        finally:
            close_in_order(sock, self._got)
            self._recorder.note(Kind.DISCONNECTED, reason=reason)
            if self._bytes > before:  # a connection that brought nothing has not ended an interruption, nor is its end one
                self._lost = datetime.now(UTC), f"stopped, {reason}" if self._stopping else reason
                self._losses += not self._stopping
            self._connected_since, self._silent, self._state = None, False, "waiting"
            self._say(f"disconnected: {reason}")
        if not self._stopping and self._bytes > before:
            self._last_error = f"the connection ended: {reason}"
        elif not self._stopping:
            self._last_error = (
                f"the connection brought nothing: {reason}. See whether the linac is switched on, and where a tunnel or "
                "forwarded port leads to it, whether its other end reaches the NSS."
            )
        return self._bytes > before and time.monotonic() - began >= GOOD_CONNECTION_SECONDS

    def _receive(self, sock: socket.socket) -> str:
        """Drain the socket until the connection ends; why it ended."""
        sock.settimeout(STOP_POLL_SECONDS)
        buffer = bytearray(RECEIVE_BYTES)
        view = memoryview(buffer)
        last = window = time.monotonic()
        receives, flood = 0, False
        while not self._stopping:
            try:
                count = sock.recv_into(view)
            except TimeoutError:
                quiet = time.monotonic() - last
                if quiet >= self.silence_seconds and not self._silent:
                    self._note_silence(quiet)
                if quiet >= self.silence_reconnect_seconds:
                    return f"nothing came for {quiet:.0f} s"
                continue
            except OSError as error:
                return f"the network: {error.strerror or type(error).__name__}"
            if count == 0:
                return "the linac ended it"
            last, self._silent = time.monotonic(), False
            self._got(bytes(view[:count]))
            receives += 1
            if last - window >= WINDOW_SECONDS:
                flood = receives > (IDLE_RECEIVES if flood else BUSY_RECEIVES)
                window, receives = last, 0
            if flood and count < RECEIVE_BYTES:
                time.sleep(GATHER_SECONDS)
        return self._stopping

    def _got(self, data: bytes) -> None:
        assert self._recorder is not None  # noqa: S101 (run made it)
        self._recorder.data(data)
        self._bytes += len(data)
        if self._lost is not None:
            self._flowing()
        headers = self._headers.count(data)
        if headers:
            self._messages += headers
            self._last_message_ns = time.time_ns()

    def _note_silence(self, seconds: float) -> None:
        assert self._recorder is not None  # noqa: S101 (run made it)
        self._silent = True
        self._silences += 1
        self._recorder.note(Kind.SILENT, seconds=round(seconds, 1))
        self._say(f"connected, but nothing has come for {seconds:.0f} s")

    def _wait(self, seconds: float) -> None:
        if not self._stopping:
            self._state = "waiting"
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, STOP_POLL_SECONDS))

    def _complain(self, text: str) -> None:
        if text != self._last_error:
            self._say(text)
        self._last_error = text

    # The keeper's thread: status and stop file.

    def _keep(self) -> None:
        status_due = size_due = 0.0
        shown: tuple[str, bool, str] | None = None
        while True:
            now = time.monotonic()
            ending = self._keeping.is_set()
            with contextlib.suppress(OSError, LinacError):
                if now >= size_due:
                    self._sized, size_due = (journal.size(self.places.journal), self._written()), now + SIZE_SECONDS
            if now >= status_due or ending or shown != (self._state, self._silent, self._stopping):
                shown = (self._state, self._silent, self._stopping)
                with contextlib.suppress(Exception):  # most likely Windows, while somebody reads it: the next is due in a second
                    write_whole(self.places.status, self.status().to_json().encode(), keep=ending, tries=3 if ending else 1)
                status_due = now + STATUS_SECONDS
                with contextlib.suppress(OSError, LinacError):
                    self._keep_spool()
            if ending:
                return
            with contextlib.suppress(OSError):
                if not self._stopping and self.places.stop.exists():
                    self.stop("asked to by the stop file")
            self._keeping.wait(KEEP_SECONDS)

    def _keep_spool(self) -> None:
        """If somebody removed our files: bytes written to a removed file are lost without an error, and a removed lock keeps
        nobody out. So make them again."""
        if self._stopping:
            return
        if self._lock.lost:
            self.places.make()
            lock = FileLock(self.places.lock)
            if not lock.acquire(1.0):
                self.stop("another listener has taken over the spool")
                return
            self._lock.release()
            self._lock = lock
            self._say(f"somebody removed files in {self.places.folder}; they are made again")
        path = self._recorder.writer.path if self._recorder else None
        if path is not None and self._recorder is not None and not path.exists():
            self._say(f"the journal segment {path.name} was removed while it was written; what was in it is lost")
            self._recorder.renew()

    def status(self) -> Status:
        """What goes into the status file now."""
        recorder = self._recorder
        assert recorder is not None  # noqa: S101 (run made it)
        writer = recorder.writer
        return Status(
            serial=self.serial,
            address=self.address,
            port=self.port,
            pid=os.getpid(),
            running=self._state != "stopped",
            state="stopping" if self._stopping and self._state != "stopped" else self._state,
            connected=self._connected_since is not None,
            started=self._started,
            written=datetime.now(UTC),
            connected_since=self._connected_since,
            last_message=datetime.fromtimestamp(self._last_message_ns / 1e9, UTC) if self._last_message_ns else None,
            messages=self._messages,
            bytes=self._bytes,
            connections=self._connections,
            reconnects=max(self._connections - 1, 0),
            gaps=self._losses + recorder.drops,
            silent=self._silent,
            silences=self._silences,
            queue_bytes=recorder.queue_bytes,
            waiting_bytes=recorder.unsafe_bytes if recorder.losing else 0,
            dropped_bytes=recorder.dropped_bytes,
            losing=recorder.losing,
            unwritten_bytes=self.unwritten_bytes or 0,
            journal_bytes=self._sized[0] + writer.written - self._sized[1],
            disk_free_bytes=writer.free_bytes or 0,
            last_error="" if self._connected_since else self._last_error,
            findings=list(self._findings(recorder)),
            interruptions=list(self._interruptions),
            disconnected_since=(lost := self._lost) and lost[0],
            disconnected_reason=lost[1] if lost else "",
            standalone=self.standalone,
        )

    def _written(self) -> int:
        return self._recorder.writer.written if self._recorder else 0

    def _findings(self, recorder: Recorder) -> Iterator[str]:
        if recorder.failing:
            yield recorder.failing
        if self.unwritten_bytes:
            yield f"The last {self.unwritten_bytes} bytes could not be written before the listener ended: they are lost."
        if recorder.dropped_bytes:
            lost = f"{recorder.dropped_bytes} bytes were lost"
            if recorder.dropped_full:
                yield f"{lost} while the spool's disk was full. See to it that it cannot fill up again."
            else:
                yield f"{lost} because the disk did not keep up. Have the spool's disk checked."
        if self._silent:
            yield "Connected, but the linac says nothing. Is it switched off, or the tunnel to it broken?"
        if self._bytes > NOT_ICOM_BYTES and not self._messages:
            yield f"What answers at {self.address} port {self.port} does not look like iCom. Check the address."
        free = recorder.writer.free_bytes
        if free is not None and free < WARN_FREE_BYTES:
            yield f"The spool's disk has only {free >> 20} MB left. Below {journal.RESERVE_BYTES >> 20} MB the recording stops."


def where_raised(error: BaseException) -> str:
    """File and line of an unexpected error: what it says could hold anything, where it was does not."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"


def _on_signals(listener: Listener) -> None:
    """End in order on everything that asks for it: Ctrl-C, a service manager's stop, Ctrl-Break and a closed Windows session."""
    for name in ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda given, _frame: listener.stop(signal.Signals(given).name))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit codes: 0 stopped in order, 1 what came last could not be written, 2 set-up wrong, 3 a listener runs
    already."""
    parser = argparse.ArgumentParser(prog="linac.capture.listener", description="Record a linac's iCom stream into a journal.")
    parser.add_argument("--serial", required=True, help="the linac's serial number, for example 4299")
    parser.add_argument("--address", required=True, help="the NSS's hospital address, for example 192.168.17.40")
    parser.add_argument("--port", type=int, default=ICOM_PORT, help="the iCom port (%(default)s)")
    parser.add_argument("--spool", default=str(DEFAULT_SPOOL), help="folder on a local disk for journals (%(default)s)")
    parser.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)  # started by `linac.capture.control`
    parser.add_argument("--log", help="write lines here, at most 1 MB and as much of older ones, instead of to stdout")
    options = parser.parse_args(arguments)
    os.umask(0o077)  # what it writes holds patients' names
    log = Log(Path(options.log) if options.log else None)
    try:
        where = options.serial, options.address, options.port, options.spool
        listener = Listener(*where, say=log.line, standalone=not options.detached)
        _on_signals(listener)
        listener.run()
    except LinacError as error:
        log.close()
        sys.stderr.write(f"{error}\n")
        return EXIT_ALREADY if isinstance(error, AlreadyRunningError) else EXIT_SETUP
    log.close()
    return EXIT_STOPPED if listener.unwritten_bytes is None else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
