"""One connected client of the pretend linac: a queue, and a thread that sends from it and measures how long each send takes."""

import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

QUEUE_LIMIT = 4000
"""Messages that wait for a slow client before it is dropped: a quarter of an hour. What a real linac does is not known."""

LOOK_SECONDS = 0.1
"""How often a client that has nothing to get is looked at: has it hung up?"""

FIN, RESET = "fin", "reset"


@dataclass
class Outgoing:
    """Bytes for a client. `sent` is called once they are handed to the network in full; `then` ends the connection after them."""

    data: bytes = b""
    sent: Callable[[], None] | None = None
    then: str | None = None


@dataclass
class Client:
    """A connection. `ending` says who ended it and how: `fin` or `reset` by us, `client fin` or `client reset`; None while it
    lasts.

    `queued` and `handed`: how much was put into the queue, and how much of it is handed to the network.
    `longest_send_seconds` includes a send that is under way. `received_bytes` should stay 0: a listener says nothing.
    `chunk`: send so many bytes at a time, with so many seconds between.
    """

    connection: socket.socket
    chunk: tuple[int, float] | None = None
    queue: "queue.Queue[Outgoing]" = field(default_factory=lambda: queue.Queue(QUEUE_LIMIT))
    ending: str | None = None
    messages: int = 0
    queued: int = 0
    handed: int = 0
    received_bytes: int = 0
    connected_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    _longest: float = 0.0
    _sending_since: float | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to send what is put into the queue."""
        self._thread = threading.Thread(target=self._run, name="simulated linac: client", daemon=True)
        self._thread.start()

    @property
    def longest_send_seconds(self) -> float:
        """How long the longest send of one message took, pauses between chunks left out."""
        since = self._sending_since
        return max(self._longest, time.monotonic() - since if since is not None else 0.0)

    @property
    def waiting(self) -> int:
        """What is not yet handed to the network."""
        return self.queue.unfinished_tasks

    def put(self, outgoing: Outgoing) -> None:
        """Queue something to send. A client that is a quarter of an hour behind is dropped."""
        try:
            self.queue.put_nowait(outgoing)
            self.queued += 1
        except queue.Full:
            self.hang_up()

    def hang_up(self, how: str = FIN) -> None:
        """End the connection now, whatever still waits."""
        self._end(how)
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait until its thread has ended."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self._look():
                try:
                    outgoing = self.queue.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    continue
                self._sending_since = time.monotonic()
                self._send(outgoing.data)
                self._sending_since = None
                if outgoing.sent is not None:
                    self.messages += 1
                    outgoing.sent()
                self.handed += 1
                self.queue.task_done()
                if outgoing.then is not None:
                    self._end(outgoing.then)
                    return
        except (ConnectionResetError, ConnectionAbortedError):  # the second is Windows' name for some of them
            self._end("client reset")
        except (OSError, ValueError):  # ValueError: closed by `hang_up` meanwhile
            self._end("client fin")  # it had said goodbye; what was sent after that failed
        finally:
            self._sending_since = None

    def _send(self, data: bytes) -> None:
        size, pause = self.chunk or (len(data) or 1, 0.0)
        longest = 0.0
        for at in range(0, len(data), size):
            began = time.monotonic()
            self._sending_since = began - longest
            self.connection.sendall(data[at : at + size])
            longest += time.monotonic() - began
            if pause and self._stop.wait(pause):
                return
        self._longest = max(self._longest, longest)

    def _look(self) -> bool:
        """Read what the client says, which should be nothing; False when it has hung up."""
        while select.select([self.connection], [], [], 0)[0]:
            said = self.connection.recv(4096)
            if not said:
                self._end("client fin")
                return False
            self.received_bytes += len(said)
        return True

    def _end(self, how: str) -> None:
        if self.ending is not None:
            return
        self.ending, self.ended_at = how, time.monotonic()
        try:
            if how == RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("HH" if _WINDOWS else "ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # gone already
        self.connection.close()


_WINDOWS = hasattr(socket, "SO_EXCLUSIVEADDRUSE")
