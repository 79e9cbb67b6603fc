"""Forwards: sockets here, channels of an SSH connection there, and bytes copied between the two.

A connection whose other side ended in order is ended in order; one that broke on this computer, or with the gateway, is reset, so
that nobody takes what has arrived for the whole. (OpenSSH tells a connection that was reset behind it as one that ended.)
Nothing here waits for a peer for ever: sockets are asked in short turns, and channels end with their link.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from linac.errors import LinacError
from linac.transport.ssh_errors import ListenRefusedError
from linac.transport.ssh_link import Link
from linac.transport.ssh_packets import acknowledge, end, give
from linac.transport.ssh_route import Address, Route
from linac.transport.ssh_wire import BROKEN, Outlet

CHUNK = 1 << 20
"""Bytes read from a socket or a channel at once."""

TURN_SECONDS = 0.25
"""So long a thread waits for its socket before it looks whether its work is over. Shutting the socket down would wake it at once,
but would also tell the other side that all is in order."""

ACCEPT_SECONDS = 0.2
JOIN_SECONDS = 2.0
BACKLOG = 64

MOST_CONNECTIONS = 500
"""So many at the same time go through one forward; more are refused. A flood of them would end all forwards: nobody would have
the time to answer the gateway."""

_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""SO_LINGER with no time at all: closing sends RST."""


class Pipe:
    """Copies both ways between a socket and a channel until both have ended. `carried` counts bytes."""

    def __init__(self, sock: socket.socket, channel: Any, first: bytes = b"") -> None:
        self._socket, self._channel, self._first = sock, channel, first
        self._over = threading.Event()
        self._torn = False
        self.carried = 0
        with contextlib.suppress(OSError):  # it may be over already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(TURN_SECONDS)

    def run(self) -> None:
        """Copy, in this thread and one more, until it is over."""
        other = threading.Thread(target=self._guarded, args=(self._to_channel,), name="ssh pipe", daemon=True)
        other.start()
        self._guarded(self._to_socket)
        other.join()
        self._finish()

    def stop(self) -> None:
        """End it from outside, as broken: `run` returns within a turn once the channel's link has ended."""
        self._torn = True
        self._over.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BROKEN:  # either end is gone: the other is not to wait for it
            self.stop()
            with contextlib.suppress(*BROKEN):
                self._channel.close()

    def _to_channel(self) -> None:
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while not self._over.is_set():
            try:
                count = self._socket.recv_into(buffer)
            except TimeoutError:
                if self._channel.closed:
                    return
                continue
            if count == 0:
                end(self._channel)
                return
            rest = view[:count]
            while rest:
                sent = give(self._channel, rest)
                if sent == 0:
                    raise EOFError
                rest = rest[sent:]
            self.carried += count

    def _to_socket(self) -> None:
        """Most goes to the socket by itself, see `Outlet`; the rest, the windows and the end are this thread's."""
        self._send(self._first)
        outlet: Outlet = self._channel.in_buffer
        direct = self._socket.dup()
        direct.settimeout(0)
        outlet.attach(direct)
        try:
            while True:
                data, passed, closed = outlet.take(TURN_SECONDS)
                self._send(data)
                count = passed + len(data)
                if count:
                    self.carried += count
                    acknowledge(self._channel, count)
                elif closed:
                    break
        finally:
            outlet.attach(None)
            direct.close()
        if not self._channel.eof_received:
            raise EOFError  # it did not end, it broke
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:
                if self._over.is_set():
                    raise EOFError from None

    def _finish(self) -> None:
        if self._torn:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.close()
        with contextlib.suppress(*BROKEN):
            self._channel.close()


class Pipes:
    """The connections of one forward: threads that `start` makes, each of which gives its pipe to `run`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, Pipe | None] = {}
        self._stopped = False
        self._carried = 0
        self.total = 0

    def start(self, work: Callable[[], None]) -> bool:
        """Do it in a thread of its own. Whether that is done: not where all is over, or there are too many already."""
        thread = threading.Thread(target=self._work, args=(work,), name="ssh forward", daemon=True)
        with self._lock:
            if self._stopped or len(self._threads) >= MOST_CONNECTIONS:
                return False
            try:
                thread.start()
            except RuntimeError:  # this computer is out of threads
                return False
            self._threads[thread] = None
            return True

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._threads.pop(threading.current_thread(), None)

    def run(self, pipe: Pipe) -> None:
        """Copy until the pipe has ended."""
        with self._lock:
            self._threads[threading.current_thread()] = pipe
            self.total += 1
            stopped = self._stopped
        if stopped:
            pipe.stop()
        pipe.run()
        with self._lock:
            self._threads[threading.current_thread()] = None
            self._carried += pipe.carried

    @property
    def open(self) -> int:
        """How many are under way."""
        with self._lock:
            return sum(pipe is not None for pipe in self._threads.values())

    @property
    def carried(self) -> int:
        """Bytes, both ways."""
        with self._lock:
            return self._carried + sum(pipe.carried for pipe in self._threads.values() if pipe is not None)

    def stop(self) -> None:
        """End all of them, without waiting. Their link is to be closed next."""
        with self._lock:
            self._stopped = True
            pipes = [pipe for pipe in self._threads.values() if pipe is not None]
        for pipe in pipes:
            pipe.stop()

    def join(self, seconds: float = JOIN_SECONDS) -> None:
        """Wait for their threads, once their link is closed."""
        until = time.monotonic() + seconds
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.05))


class Listener:
    """Accepts connections on an address of this computer and hands each to `serve(socket)`, in a thread of its own."""

    def __init__(self, address: Address, serve: Callable[[socket.socket], None]) -> None:
        """Raises `ListenRefusedError` where the port cannot be had."""
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if sys.platform == "win32":  # else another program may take a port that is in use
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("" if host == "*" else host, port))
            self._socket.listen(BACKLOG)
            self._socket.settimeout(ACCEPT_SECONDS)
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise ListenRefusedError(
                f"This computer cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}. Another "
                "program has the port, or the address is none of this computer's: choose another, or end that program."
            ) from error
        name: Address = self._socket.getsockname()[:2]
        self.address = name
        self.pipes = Pipes()
        self._serve = serve
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=f"ssh forward {name[1]}", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:
                if self._over.wait(TURN_SECONDS):  # too many open files, or a client that is gone already
                    return
                continue
            if not self.pipes.start(partial(self._serve, sock)):
                reset(sock)

    def stop(self) -> None:
        """No more connections; those under way end. `join` waits for it."""
        self._over.set()
        self._socket.close()
        self.pipes.stop()

    def join(self) -> None:
        self._thread.join(JOIN_SECONDS)
        self.pipes.join()


class LocalForward:
    """A port of this computer that leads through a gateway to `target`, for as long as a `with` statement lasts.

    Entering it logs in to the gateway and opens the first connection to the target, so that whatever is wrong is raised here in
    words, and gives `(host, port)` to connect to. Where the gateway is lost meanwhile, connections under way are reset, and
    the next one logs in anew. `trouble` is why the last connection failed, or None.
    """

    def __init__(self, connect: Callable[[], Link], target: Address) -> None:
        self._route = Route(connect, target)
        self._lock = threading.Lock()
        self._first: Any = None
        self._listener: Listener | None = None

    @property
    def trouble(self) -> LinacError | None:
        """Why the gateway or its last connection failed, in words, or None."""
        return self._route.trouble

    def __enter__(self) -> Address:
        try:
            self._first = self._route.open(Outlet)
            self._listener = Listener(("127.0.0.1", 0), self._serve)
        except BaseException:
            self._route.close()
            raise
        return self._listener.address

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._listener is not None:
            self._listener.stop()
        self._first = None
        self._route.close()
        if self._listener is not None:
            self._listener.join()

    def _serve(self, sock: socket.socket) -> None:
        try:
            channel = self._channel()
        except LinacError:
            reset(sock)
            return
        assert self._listener is not None  # noqa: S101 (it called us)
        self._listener.pipes.run(Pipe(sock, channel))

    def _channel(self) -> Any:
        with self._lock:
            first, self._first = self._first, None
        if first is not None and not first.closed and not first.eof_received:
            return first
        return self._route.open(Outlet)


def reset(sock: socket.socket) -> None:
    """Close it so that the other side sees an error, not an end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
