"""Forwards that stand for months: kept up through one gateway, and made anew whenever the gateway is lost.

A local forward lets this computer's neighbours reach something behind the gateway; a remote forward lets the gateway's neighbours
reach something here. While the gateway is away nobody listens, so whoever connects is refused at once instead of hanging.

A remote forward listens where it was asked to, or not at all. Servers do not say where they listen: with OpenSSH's
`GatewayPorts no` every request ends up on the loopback address, with `yes` on all addresses, whatever was asked. So each new
one is tried from the gateway's own side, with a secret word that must arrive here by the address that was asked for, and must
not by another. Where the gateway forbids that, a forward for its loopback address is tried from this side: it must not answer.
"""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from linac.errors import LinacError, SetupError, UnreachableError
from linac.transport.dialing import dial
from linac.transport.ssh_errors import ForwardProhibitedError, ListenRefusedError, TargetRefusedError
from linac.transport.ssh_link import Link, refuse
from linac.transport.ssh_route import Address
from linac.transport.ssh_wire import BROKEN
from linac.transport.tunnel import Listener, Pipe, Pipes, reset

LOCAL, REMOTE = "local", "remote"

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
"""Between tries to reach a gateway that is away; each pause is twice the one before."""

SETUP_PAUSE_SECONDS = 60.0
"""Longest pause where our own set-up or the gateway's key is wrong: trying often gets an address blocked there."""

SETTLED_SECONDS = 10.0
"""A connection that lasted so long begins with the first pause again."""

LOOK_SECONDS = 0.25
TARGET_SECONDS = 5.0
WORD_SECONDS = 2.0
ARRIVE_SECONDS = 3.0
STOP_SECONDS = 20.0

ALL = ("", "*", "0.0.0.0", "::")  # noqa: S104 (asked for by the operator)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OTHER_LOOPBACK = "127.0.0.2"
"""Answers where a server listens on all addresses, and not where it listens on 127.0.0.1 alone (Linux, Windows)."""


@dataclass(frozen=True)
class Forward:
    """One forward: `direction` is `local` (listens here, leads to the gateway's side) or `remote` (the other way round)."""

    direction: str
    listen: Address
    target: Address
    label: str = ""

    @property
    def name(self) -> str:
        """As people say it: its label, else what it does."""
        return self.label or f"{self.direction} {self.listen[0] or '*'}:{self.listen[1]}"


@dataclass(frozen=True)
class ForwardStatus:
    """How a forward is: `up` since when; `trouble`: why not, or why its last connection failed; `note`: what should be known.
    Counts of connections and bytes (both ways) are since the start."""

    forward: Forward
    up: bool = False
    since: datetime | None = None
    trouble: str = ""
    note: str = ""
    connections: int = 0
    open: int = 0
    carried: int = 0


@dataclass(frozen=True)
class Status:
    """How the tunnels are: `connected` since when, how often (`connections`), why not (`trouble`), and each forward."""

    gateway: str
    connected: bool = False
    since: datetime | None = None
    connections: int = 0
    trouble: str = ""
    forwards: tuple[ForwardStatus, ...] = ()


class _Standing:
    """One forward and what serves it now."""

    def __init__(self, forward: Forward) -> None:
        self.status = ForwardStatus(forward)
        self.listener: Listener | None = None
        self.pipes: Pipes | None = None
        self.checked = False
        self.next_try = 0.0
        self.pause = FIRST_PAUSE_SECONDS
        self._before = (0, 0)
        self._lock = threading.Lock()

    @property
    def forward(self) -> Forward:
        return self.status.forward

    def set(self, **changes: Any) -> None:
        with self._lock:  # its connections have something to tell as well
            self.status = replace(self.status, **changes)

    def now(self) -> ForwardStatus:
        connections, carried = self._before
        pipes = self.pipes
        if pipes is None:
            return replace(self.status, connections=connections, carried=carried, open=0)
        return replace(self.status, connections=connections + pipes.total, carried=carried + pipes.carried, open=pipes.open)

    def down(self, trouble: str = "") -> list[Callable[[], None]]:
        """Stop serving; what is to be waited for once the link is closed."""
        pipes, listener = self.pipes, self.listener
        if listener is not None:
            listener.stop()
        if pipes is not None:
            pipes.stop()
            self._before = self._before[0] + pipes.total, self._before[1] + pipes.carried
        self.pipes = self.listener = None
        self.checked, self.next_try, self.pause = False, 0.0, FIRST_PAUSE_SECONDS
        self.set(up=False, since=None, note="", trouble=trouble)
        return [waiting.join for waiting in (listener, pipes) if waiting is not None]


class Tunnels:
    """Keeps forwards up through one gateway, from `start` to `stop`; a `with` statement does both.

    `connect` gives a connection to the gateway (`Gateway.connect`); `name` is how the gateway is called in `status`.
    """

    def __init__(self, connect: Callable[[], Link], forwards: Sequence[Forward], name: str = "") -> None:
        """Raises `SetupError` where two forwards are in each other's way."""
        check_forwards(forwards)
        self._connect, self.name = connect, name
        self._standing = [_Standing(forward) for forward in forwards]
        self._status = Status(name)
        self._over = threading.Event()
        self._words: dict[bytes, threading.Event] = {}
        self._thread = threading.Thread(target=self._keep, name="ssh tunnels", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> bool:
        """End everything. Whether nothing is left; a gateway that hangs while we connect is left after 20 s."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        return not self._thread.is_alive()

    def __enter__(self) -> "Tunnels":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def status(self) -> Status:
        """How things are now."""
        return replace(self._status, forwards=tuple(standing.now() for standing in self._standing))

    # The connection.

    def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._over.is_set():
            longest, begun = LONGEST_PAUSE_SECONDS, time.monotonic()
            try:
                self._once()
            except UnreachableError as error:
                self._away(str(error))
            except LinacError as error:
                self._away(str(error))
                longest = SETUP_PAUSE_SECONDS
            except Exception as error:  # whatever it is, the tunnels are tried again
                self._away(f"Unexpected: {type(error).__name__}: {error}")
            if time.monotonic() - begun >= SETTLED_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._over.wait(min(pause, longest))
            pause = min(pause * 2, longest)

    def _away(self, trouble: str) -> None:
        self._status = replace(self._status, connected=False, since=None, trouble=trouble)

    def _once(self) -> None:
        """Connect and serve, until the link ends or we do. Raises why the link could not be made, or ended."""
        link = self._connect()
        connections = self._status.connections + 1
        self._status = replace(self._status, connected=True, since=datetime.now(UTC), connections=connections, trouble="")
        try:
            self._serve(link)
        finally:
            trouble = link.why_ended() if link.ended.is_set() else None
            waits = [wait for standing in self._standing for wait in standing.down(str(trouble or ""))]
            link.close()
            for wait in waits:
                wait()
            self._away("")
        if trouble is not None:
            raise trouble

    def _serve(self, link: Link) -> None:
        """Put up what is not up, again and again, until the link ends or we do."""
        link.handle_incoming(self._incoming)
        while not self._over.is_set():
            for standing in self._standing:
                if standing.status.up or time.monotonic() < standing.next_try or not link.alive:
                    continue
                try:
                    note = self._put_up(link, standing)
                except LinacError as error:
                    if link.alive:
                        standing.set(trouble=str(error))
                    standing.next_try = time.monotonic() + standing.pause
                    standing.pause = min(standing.pause * 2, LONGEST_PAUSE_SECONDS)
                else:
                    standing.set(up=True, since=datetime.now(UTC), trouble="", note=note)
            if link.ended.wait(LOOK_SECONDS):
                return

    def _put_up(self, link: Link, standing: _Standing) -> str:
        """Make one forward listen; what should be known about it."""
        forward = standing.forward
        if forward.direction == LOCAL:
            standing.listener = Listener(forward.listen, partial(self._serve_local, link, standing))
            standing.pipes = standing.listener.pipes
            return ""
        address = "" if forward.listen[0] in ALL[:2] else forward.listen[0]
        standing.pipes = standing.pipes or Pipes()
        link.request_listening(address, forward.listen[1])
        try:
            note = self._where_it_listens(link, forward)
        except BaseException:
            link.cancel_listening(address, forward.listen[1])
            raise
        standing.checked = True
        return note

    # Connections.

    def _serve_local(self, link: Link, standing: _Standing, sock: socket.socket) -> None:
        try:
            channel = link.open(standing.forward.target)
        except LinacError as error:
            if link.alive:
                standing.set(trouble=str(error))
            reset(sock)
            return
        standing.set(trouble="")
        pipes = standing.pipes
        if pipes is not None:
            pipes.run(Pipe(sock, channel))

    def _incoming(self, channel: Any, _: Address, listening: Address) -> None:
        """In the link's own thread: only hand it on. Forwards listen on different ports, so the port tells which one it is."""
        for standing in self._standing:
            pipes = standing.pipes
            asked = standing.forward.direction == REMOTE and standing.forward.listen[1] == listening[1]
            if asked and pipes is not None and pipes.start(partial(self._serve_remote, standing, pipes, channel)):
                return
        refuse(channel)

    def _serve_remote(self, standing: _Standing, pipes: Pipes, channel: Any) -> None:
        first = b""
        if not standing.checked:
            first = _first_bytes(channel)
            expected = self._words.get(first)
            if expected is not None:
                expected.set()
                _close(channel)
                return
        target = standing.forward.target
        try:
            sock = dial(*target, TARGET_SECONDS)
        except (OSError, UnicodeError) as error:
            where = f"{target[0]} port {target[1]}"
            advice = "Check the forward's target, and that it is switched on."
            standing.set(
                trouble=f"{where} could not be reached from this computer: {getattr(error, 'strerror', None) or error}. {advice}"
            )
            _close(channel)
            return
        standing.set(trouble="")
        pipes.run(Pipe(sock, channel, first))

    # Where a remote forward listens.

    def _where_it_listens(self, link: Link, forward: Forward) -> str:
        """Try it from the gateway's side; a note where that is forbidden. Raises `ListenRefusedError` if it is not as asked."""
        host, port = forward.listen
        asked = f"{host or '*'} port {port}"
        if host == "::":  # IPv6 has but one loopback address: whether it is all of them cannot be seen from there
            wanted, unwanted = "::1", None
        elif host in ALL:
            wanted, unwanted = OTHER_LOOPBACK, None
        elif host in LOOPBACK:
            wanted, unwanted = ("::1" if host == "::1" else "127.0.0.1"), OTHER_LOOPBACK
        else:
            wanted, unwanted = host, "127.0.0.1"
        elsewhere = self._arrives(link, (unwanted, port)) if unwanted is not None else False
        there = self._arrives(link, (wanted, port))
        if there is False:
            raise ListenRefusedError(
                f"The gateway {link.name} was asked to listen on {asked}, and what connects there does not arrive here. "
                "Either its sshd_config says `GatewayPorts no`, so that it listens on its loopback address alone (ask "
                "its administrator for `clientspecified`), or another program has the port there. The forward was taken "
                "back."
            )
        if elsewhere is None and (host in LOOPBACK or host.startswith("127.")):
            elsewhere = self._arrives_from_here(link, forward) or None
        if elsewhere:
            raise ListenRefusedError(
                f"The gateway {link.name} was asked to listen on {asked} only, and listens on all its addresses. The "
                "forward was taken back. Ask its administrator to set `GatewayPorts clientspecified` in sshd_config "
                "(with `yes` it ignores what is asked)."
            )
        if elsewhere is None or there is None:
            return (
                "Where the gateway listens could not be verified: it does not let this account look (PermitOpen). Have its "
                f"administrator check that it is {asked} (`ss -ltn`)."
            )
        return ""

    def _arrives(self, link: Link, address: Address) -> bool | None:
        """Whether a connection from the gateway to that address arrives here; None where the gateway forbids to try."""
        with self._word() as (word, arrived):
            try:
                channel = link.open(address, TARGET_SECONDS)
            except TargetRefusedError:
                return False
            except ForwardProhibitedError:
                return None
            try:
                channel.sendall(word)
                return arrived.wait(ARRIVE_SECONDS)
            except BROKEN:
                return False
            finally:
                _close(channel)

    def _arrives_from_here(self, link: Link, forward: Forward) -> bool:
        """Whether a connection from this computer arrives here, by the gateway's address or, where the gateway is this computer,
        by another of its own than was asked for."""
        host, port = forward.listen
        with self._word() as (word, arrived), contextlib.suppress(OSError):
            address = str(link.wire.getpeername()[0])
            if address == "::1" or address.startswith("127."):
                address = "127.0.0.1" if host == OTHER_LOOPBACK else OTHER_LOOPBACK
            with socket.create_connection((address, port), ARRIVE_SECONDS) as sock:
                sock.sendall(word)
                return arrived.wait(ARRIVE_SECONDS)
        return False

    @contextlib.contextmanager
    def _word(self) -> Iterator[tuple[bytes, threading.Event]]:
        """A secret word, and what is set once it has come through a forward."""
        word, arrived = secrets.token_bytes(16), threading.Event()
        self._words[word] = arrived
        try:
            yield word, arrived
        finally:
            del self._words[word]


def check_forwards(forwards: Sequence[Forward]) -> None:
    """Raise `SetupError` where two forwards are in each other's way."""
    taken: dict[tuple[str, object], Forward] = {}
    for forward in forwards:
        key = (forward.direction, forward.listen[1] if forward.direction == REMOTE else forward.listen)
        if key in taken:
            raise SetupError(
                f"The forwards {taken[key].name!r} and {forward.name!r} listen on the same port {forward.listen[1]}. Give "
                "one of them another port."
            )
        taken[key] = forward


def _first_bytes(channel: Any) -> bytes:
    """What the other side says at once, 16 bytes or less; nothing where it waits for us to begin."""
    until, found = time.monotonic() + WORD_SECONDS, b""
    with contextlib.suppress(*BROKEN):
        while len(found) < 16 and (left := until - time.monotonic()) > 0:
            channel.settimeout(left)
            data = channel.recv(16 - len(found))
            if not data:
                break
            found += data
    with contextlib.suppress(OSError):
        channel.settimeout(None)
    return found


def _close(channel: Any) -> None:
    with contextlib.suppress(*BROKEN):
        channel.close()
