"""The one connection to a linac: made in bounded time, watched, and always ended in order.

Why so careful: if a listener drops off during a beam, the record-and-verify system may stop recording (PyMedPhys issue 849). A
close with unread bytes in the socket makes the operating system send a reset, so the end of a connection is: FIN, read on for
a moment, close.
"""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from linac.errors import LinacError, UnreachableError

if sys.platform == "win32":
    import ctypes

ICOM_PORT = 1706
CONNECT_SECONDS = 5.0
RESOLVE_SECONDS = 5.0
RECEIVE_BUFFER = 4 << 20
"""Asked of the operating system before connecting: room for what comes while this process does not get to run. Windows gives all
of it, two minutes of iCom; Linux as much as `net.core.rmem_max` allows, as a rule six seconds' worth."""

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 10, 5, 3
"""Seconds without a byte until the system asks for the other end; seconds between asking; times until it gives up."""


def resolve(serial: str, address: str, port: int, timeout: float = RESOLVE_SECONDS) -> list[tuple[int, Any]]:
    """Address families and socket addresses for a name. Raises `UnreachableError`.

    A look-up cannot be interrupted and may take a minute where a name server is away: it is left behind after `timeout` seconds.
    """
    found: list[tuple[int, Any]] = []
    failed: list[OSError] = []

    def look_up() -> None:
        try:
            for family, _, _, _, target in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM):
                found.append((family, target))
        except OSError as error:
            failed.append(error)
        except UnicodeError as error:
            failed.append(OSError(str(error)))

    thread = threading.Thread(target=look_up, daemon=True, name="resolve")
    thread.start()
    thread.join(timeout)
    if found:
        return list(found)
    raise UnreachableError(
        f"Linac {serial}: the address {address!r} does not resolve. It is probably mistyped, or the name server is away. "
        "Check it, or give the NSS's IP address, then try again."
    ) from (failed[0] if failed else None)


def connect(
    serial: str,
    address: str,
    port: int = ICOM_PORT,
    timeout: float = CONNECT_SECONDS,
    stopping: Callable[[], bool] = lambda: False,
) -> socket.socket:
    """A connection to the iCom service, within about `timeout` seconds for each address of a name. Raises `UnreachableError`.

    `stopping` is asked a few times a second; once it is true the attempt ends with an `UnreachableError`.
    """
    failure: LinacError | None = None
    for family, target in resolve(serial, address, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _set_options(sock)
            error = _connect(sock, target, timeout, stopping)
        except OSError as caught:
            error = caught
        if error is None:
            return sock
        sock.close()
        failure = explain(error, serial, address, port)
        if stopping():
            break
    raise failure or UnreachableError(f"Linac {serial}: the address {address!r} has no address to connect to.")


def _connect(sock: socket.socket, target: Any, timeout: float, stopping: Callable[[], bool]) -> OSError | None:
    """Connect without ever waiting longer than a quarter of a second at a time."""
    sock.setblocking(False)
    try:
        sock.connect(target)
    except BlockingIOError:
        pass
    else:
        return None
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and not stopping():
        _, writable, broken = select.select([], [sock], [sock], 0.25)  # Windows shows a failure among the broken ones
        if writable or broken:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return _error(code) if code else None
    return TimeoutError("no answer")


def _error(code: int) -> OSError:
    """An OSError of the right class for an error number, also one of Windows's."""
    if sys.platform == "win32":
        return OSError(0, ctypes.FormatError(code), None, code)
    return OSError(code, os.strerror(code))


def _set_options(sock: socket.socket) -> None:
    """Options that exist everywhere are set, the others where they exist."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "win32":
        sock.ioctl(socket.SIO_KEEPALIVE_VALS, (1, KEEPALIVE_IDLE * 1000, KEEPALIVE_INTERVAL * 1000))
        return
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPALIVE", KEEPALIVE_IDLE),  # what macOS calls it
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def peer_of(sock: socket.socket) -> str:
    """The other end's IP address; empty if it has broken the connection off already."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return ""


def close_in_order(sock: socket.socket, take: Callable[[bytes], None], seconds: float = 0.5) -> None:
    """End a connection: FIN, hand to `take` what still comes within `seconds`, close. The network's errors are ignored."""
    try:
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(0.1)
        deadline = time.monotonic() + seconds
        while data := sock.recv(65536):
            take(data)
            late = time.monotonic() - deadline
            if late >= seconds:
                break
            if late >= 0:
                sock.setblocking(False)  # no longer waited for, but what is there already: unread, it would make a reset
    except OSError:  # gone already, or nothing came for a moment: now the buffer is empty
        pass
    finally:
        sock.close()


def explain(error: OSError, serial: str, address: str, port: int) -> UnreachableError:
    """What a failed connection means, and who can mend it. `error` becomes its cause."""
    if isinstance(error, ConnectionRefusedError):
        told = UnreachableError(
            f"Linac {serial}: the NSS at {address} refused port {port}. First see whether the linac is switched on. If it is, "
            "the iCom licence or firewall rule is probably missing on the NSS: ask the Elekta engineer to allow this server, "
            "then try again."
        )
    elif isinstance(error, TimeoutError):
        told = UnreachableError(
            f"Linac {serial}: nothing answers at {address} port {port}. The linac is switched off, the address is wrong, or a "
            "firewall in between drops the connection: check the address, then ask hospital IT to open the port for this server."
        )
    else:
        told = UnreachableError(
            f"Linac {serial}: {address} port {port} cannot be reached: {error.strerror or error}. Check this server's network "
            "and the route to the linac, then try again."
        )
    told.__cause__ = error
    return told
