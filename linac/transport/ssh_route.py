"""The way through a gateway to one host and port: one login, made anew whenever it was lost, for any number of connections.

`Route.dial` gives a connection that is used like a socket, without any port of this computer; `tunnel.LocalForward` puts one in
front, for programs that want an address.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from linac.errors import LinacError
from linac.transport.ssh_errors import GatewayLostError
from linac.transport.ssh_link import Link
from linac.transport.ssh_packets import acknowledge, give
from linac.transport.ssh_wire import BROKEN, Inlet, Outlet

Address = tuple[str, int]


class Route:
    """Connections to `target`, host and port as the gateway sees them. Nothing is connected yet. `close` ends all of them."""

    def __init__(self, connect: Callable[[], Link], target: Address) -> None:
        self._connect, self.target = connect, target
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._link: Link | None = None
        self._lost: Link | None = None
        self._again: Link | None = None  # the lost one, while another is being made
        self._trouble: LinacError | None = None
        self._logins = 0
        self._refused: LinacError | None = None  # why the last of them failed

    def dial(self) -> "Stream":
        """A connection. Raises the errors of `linac.transport.ssh_errors`."""
        return Stream(self.open(Inlet))

    def open(self, buffer: type[Outlet] | type[Inlet]) -> Any:
        """A channel; the gateway is logged in to if need be. Raises the errors of `linac.transport.ssh_errors`."""
        try:
            channel = self._logged_in().open(self.target, buffer=buffer)
        except LinacError as error:
            self._trouble = error
            raise
        self._trouble = None
        return channel

    def _logged_in(self) -> Link:
        logins = self._logins
        with self._lock:
            if self._over.is_set():
                raise GatewayLostError("The way through the gateway is closed.")
            if self._link is None or not self._link.alive:
                refused = self._refused
                if refused is not None and self._logins != logins:  # another thread was, while we waited: we would be, too
                    raise type(refused)(str(refused)) from refused
                self._again, self._link = self._lost or self._link, None
                self._refused = None
                try:
                    self._link = self._connect()
                except LinacError as error:
                    self._refused = error
                    raise
                finally:
                    self._lost, self._again = self._again, None
                    self._logins += 1
                if self._over.is_set():
                    self._link.close()
            return self._link

    @property
    def trouble(self) -> LinacError | None:
        """Why the gateway or its last connection failed, in words, or None."""
        link = self._link
        return (link.trouble if link is not None else None) or self._trouble

    def failure(self, seconds: float) -> LinacError | None:
        """The same; also where the gateway gives no sign of life, or does not let us in again, within so many seconds."""
        until = time.monotonic() + seconds
        while self._again is not None and time.monotonic() < until:
            time.sleep(0.02)
        again, link = self._again, self._link
        if again is not None:
            return again.hung(f"did not let us in again within {seconds:g} s")
        return link.failure(seconds) if link is not None else self._trouble

    def close(self) -> None:
        """End it, with all its connections. Never waits for the gateway."""
        self._over.set()
        link = self._link  # without the lock: who holds it may be logging in anew, and ends that itself
        if link is not None:
            link.close()


class Stream:
    """A connection through a gateway, used like a socket by one thread that reads and others that write."""

    def __init__(self, channel: Any) -> None:
        """`channel`: one with an `Inlet`."""
        self._channel = channel
        self._inlet: Inlet = channel.in_buffer
        self._seconds = 0.0

    def settimeout(self, seconds: float) -> None:
        """How long reading and writing wait for anything to move before they raise `TimeoutError`."""
        self._seconds = seconds
        self._channel.settimeout(seconds)

    def send(self, data: memoryview) -> int:
        """Send some of it: how much. Raises OSError where the connection is over."""
        try:
            sent = give(self._channel, data)
        except OSError:  # TimeoutError among it
            raise
        except BROKEN as error:
            raise ConnectionResetError from error
        if not sent:
            raise ConnectionResetError
        return sent

    def recv_into(self, buffer: memoryview) -> int:
        """Read some bytes, in large pieces where there are more to come; 0 at the end."""
        count = self._inlet.take_into(buffer, self._seconds)
        if count:
            try:
                acknowledge(self._channel, count)
            except BROKEN:  # what has come has come; the next call sees the end
                self._inlet.close()
        return count

    def shutdown(self, _how: int) -> None:
        """Nothing more is read: whoever waits gets the end. Never waits."""
        self._inlet.close()

    def close(self) -> None:
        """Tell the other side. That may have to wait, for as long as the gateway counts as alive: others do not wait for it."""
        with contextlib.suppress(RuntimeError):  # this computer is out of threads: it ends with the gateway's connection
            threading.Thread(target=self._close, name="close ssh", daemon=True).start()

    def _close(self) -> None:
        with contextlib.suppress(*BROKEN):
            self._channel.close()
