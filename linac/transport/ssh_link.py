"""One live SSH connection to a gateway, watched. Only this and `ssh_packets` talk to paramiko's transport.

Paramiko waits for hours where a peer falls silent: a stopped sshd is never noticed by its keepalive, writing to it blocks for
ever, and so do closing a channel and asking for a forward. So every call that waits runs beside a watchman. He notes when the
peer was last heard, by any byte at all (a reply to a keepalive may queue behind megabytes on a slow line), asks for a sign of
life when it falls silent, and when none comes shuts the socket down: that, and nothing else, ends whatever waits.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import paramiko

from linac.errors import LinacError, SetupError
from linac.transport.dialing import dial
from linac.transport.ssh_errors import (
    ForwardProhibitedError,
    GatewayHungError,
    GatewayLostError,
    GatewayRefusedError,
    GatewayUnreachableError,
    HostKeyChangedError,
    ListenRefusedError,
    LoginRefusedError,
    NotSshError,
    TargetRefusedError,
)
from linac.transport.ssh_keys import ALGORITHMS, HostKey
from linac.transport.ssh_packets import Wire
from linac.transport.ssh_wire import BROKEN, Inlet, Outlet, Transport

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
"""The fastest first (measured); none of those that OpenSSH no longer offers."""

PROBE_SECONDS = 3.0
"""After so much silence the peer is asked for a sign of life."""

HUNG_SECONDS = 9.0
"""It has so long to give one. Both together, and a tick or two, stay below 15 s."""

KEYS_SECONDS = 120.0
"""Agreeing on new keys takes long on a slow line; who does not answer at all is noticed sooner."""

TICK_SECONDS = 0.25
JOIN_SECONDS = 2.0

GREETING_SECONDS = 3.0
"""Who says something, but in so long nothing of SSH, is no SSH service. (Lines of its own may precede the greeting.)"""

REFUSALS = (b"Exceeded MaxStartups", b"Not allowed")
"""What OpenSSH says instead of its greeting to an address that comes too often."""

PROHIBITED = 1
"""Reason for a channel refused, RFC 4254 section 5.1: administratively prohibited."""

Keys = Callable[[float], AbstractContextManager[Sequence[paramiko.PKey]]]
"""Gives the keys to log in with, for the time of the login, and may ask an agent for so many seconds."""

Incoming = Callable[["paramiko.Channel", tuple[str, int], tuple[str, int]], None]


class Link:
    """A connection that is logged in. `ended` is set when it is over, `trouble` then says why (None: we closed it).

    `name` is how errors call the gateway: 'host port 22'. All methods may be called from any thread.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        pinned: Sequence[HostKey],
        keys: Keys,
        timeout: float,
    ) -> None:
        """Connect and log in within about `timeout` seconds.

        Raises the errors of `linac.transport.ssh_errors`.
        """
        self.name, self.user, self.timeout = f"{host} port {port}", user, timeout
        self.ended = threading.Event()
        self.trouble: LinacError | None = None
        self._lock = threading.Lock()
        self._requests = threading.Lock()
        self._handler: Incoming | None = None
        self.wire, self._transport = greet(host, port, [key.kind for key in pinned], timeout)
        try:
            self._check_host_key(pinned, f"key {host}" if port == 22 else f"key {host} --port {port}")
            self._login(keys, timeout)
        except BaseException:
            _drop(self.wire, self._transport)
            raise
        self._watchman = threading.Thread(target=self._watch, name=f"watch ssh {host}", daemon=True)
        self._watchman.start()

    # Beginning.

    def _check_host_key(self, pinned: Sequence[HostKey], asking: str) -> None:
        """`asking`: the command that prints the key."""
        try:
            shown = _shown_key(self._transport)
        except BROKEN as error:  # it is gone again
            raise self._hung_up() from error
        if shown in pinned:
            return
        expected = " or ".join(f"{key.kind} {key.fingerprint}" for key in pinned)
        raise HostKeyChangedError(
            f"The gateway {self.name} shows another host key than its SSH gateway block holds: {shown.kind} "
            f"{shown.fingerprint}, expected was {expected}. Nothing was sent to it. Was it installed anew? Ask whoever runs "
            "it to read its fingerprint out (`ssh-keygen -lf` on its /etc/ssh/*.pub). If it is the one shown here, put the "
            f"line that `.venv/bin/python -m linac.transport {asking}` (on Windows `.venv\\Scripts\\python`) prints into the "
            "block; if not, somebody stands in between: tell hospital IT."
        )

    def _login(self, keys: Keys, timeout: float) -> None:
        until, tried = time.monotonic() + timeout, 0
        with keys(timeout) as found:
            for key in found:
                tried += 1
                if self._let_in(key, until):
                    return
                if not self._transport.is_active():
                    break  # too many tries for its taste
        which = "no key at all was to be had from the SSH agent"
        if tried:
            which = "the key tried was not accepted" if tried == 1 else f"none of the {tried} keys tried was accepted"
        raise LoginRefusedError(
            f"The gateway {self.name} did not let {self.user!r} in: {which}. Check the user name and the key in the SSH gateway "
            f"block, and that the public half stands in {self.user}'s authorized_keys on the gateway (on Windows, for "
            "administrators: C:\\ProgramData\\ssh\\administrators_authorized_keys), in a file that nobody else may write."
        )

    def _let_in(self, key: paramiko.PKey, until: float) -> bool:
        """Whether that key opens the door."""
        self._transport.auth_timeout = max(until - time.monotonic(), 1.0)
        try:
            self._transport.auth_publickey(self.user, key)
        except paramiko.BadAuthenticationType as error:
            raise LoginRefusedError(
                f"The gateway {self.name} takes no keys from {self.user!r}, only {', '.join(error.allowed_types) or 'nothing'}. "
                "Ask its administrator to set PubkeyAuthentication yes; passwords are never used here."
            ) from error
        except paramiko.AuthenticationException as error:
            if "timeout" in str(error).lower():
                raise self.hung("did not answer our login") from error
            if not self._transport.is_active() and not self._transport.took_leave:  # it said nothing of the key
                raise self._hung_up() from error
            return False
        except BROKEN as error:
            raise self._hung_up() from error
        return bool(self._transport.is_authenticated())

    def _hung_up(self) -> GatewayLostError:
        return _hung_up(self.name)

    def hung(self, what: str) -> GatewayHungError:
        """The error for a gateway that does not answer."""
        return GatewayHungError(
            f"The gateway {self.name} {what}. Its SSH service or its computer hangs, or a firewall drops the connection "
            "silently: restart the service, or ask hospital IT."
        )

    # Watching.

    def _watch(self) -> None:
        """Until the end: ask for signs of life, end the connection when there are none. Waiting is counted in ticks, so that a
        pause of our own computer (suspend, a snapshot of the machine) does not look like the peer's silence."""
        asked_at, waited, last = 0.0, 0.0, time.monotonic()
        asker: threading.Thread | None = None
        while not self.ended.wait(TICK_SECONDS):
            now = time.monotonic()
            waited, last = waited + min(now - last, 2 * TICK_SECONDS), now
            if not self._transport.is_active():
                self._end(
                    GatewayLostError(
                        f"The gateway {self.name} ended the connection: its SSH service stopped, or the network between was "
                        "cut. It is made anew with the next try."
                    )
                )
            elif self.wire.heard >= asked_at and now - self.wire.heard >= PROBE_SECONDS:
                if asker is None or not asker.is_alive():
                    asker = threading.Thread(target=self._ask, name="ask ssh", daemon=True)
                    try:
                        asker.start()
                    except RuntimeError:  # this computer is out of threads: the next tick tries again
                        asker = None
                        continue
                asked_at, waited = now, 0.0
            elif self.wire.heard < asked_at and waited >= HUNG_SECONDS:
                self._end(self.hung(f"has not said a byte for {now - self.wire.heard:.0f} s"))

    def _ask(self) -> None:
        with contextlib.suppress(Exception), self._requests:
            self._transport.global_request("keepalive@openssh.com", wait=True)

    def failure(self, seconds: float) -> LinacError | None:
        """Why the gateway is of no use now, or None if it gives a sign of life within so many seconds."""
        asked = time.monotonic()
        if self.alive:
            with contextlib.suppress(RuntimeError):  # this computer is out of threads
                threading.Thread(target=self._ask, name="ask ssh", daemon=True).start()
            while self.alive and self.wire.heard < asked and time.monotonic() - asked < seconds:
                self.ended.wait(0.02)
        if not self.alive:
            return self.why_ended()
        return None if self.wire.heard >= asked else self.hung(f"gave no sign of life within {seconds:g} s")

    def _end(self, why: LinacError | None) -> None:
        with self._lock:
            if self.ended.is_set():
                return
            self.trouble = why
            self.ended.set()
        _drop(self.wire, self._transport)

    @contextlib.contextmanager
    def ended_after(self, seconds: float, why: LinacError) -> Iterator[None]:
        """Around what the library waits for without end, as long as the peer lives: after so long the connection ends, `why` says
        so."""
        timer = threading.Timer(max(seconds, 0.1), self._end, [why])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def close(self) -> None:
        """End it, with all its channels. Never waits for the peer."""
        self._end(None)
        self._transport.join(JOIN_SECONDS)
        if self._watchman is not threading.current_thread():
            self._watchman.join(JOIN_SECONDS)

    @property
    def alive(self) -> bool:
        return not self.ended.is_set() and bool(self._transport.is_active())

    def why_ended(self) -> LinacError:
        """The trouble of a connection that is over, noticed a moment ago or not yet."""
        self.ended.wait(4 * TICK_SECONDS)
        return self.trouble or GatewayLostError(f"The connection to the gateway {self.name} is closed.")

    # Using.

    def open(
        self, target: tuple[str, int], timeout: float | None = None, buffer: type[Outlet] | type[Inlet] = Outlet
    ) -> paramiko.Channel:
        """A connection from the gateway to `target` (host and port as the gateway knows them), as a channel. `buffer`: what keeps
        what arrives, for a `Pipe` or for a `Stream`.

        Raises `ForwardProhibitedError`, `TargetRefusedError`, or why the gateway was lost.
        """
        channel: paramiko.Channel = self._open("direct-tcpip", target, timeout, buffer)
        return channel

    def session(self, timeout: float | None = None) -> paramiko.Channel:
        """A channel for a command, or for files."""
        channel: paramiko.Channel = self._open("session", None, timeout)
        return channel

    def _open(
        self, kind: str, target: tuple[str, int] | None, timeout: float | None, buffer: type[Outlet] | type[Inlet] = Outlet
    ) -> Any:
        seconds = self.timeout if timeout is None else timeout
        if not self.alive:
            raise self.why_ended()
        try:
            return self._transport.open(kind, target, seconds, buffer)
        except BROKEN as error:
            refusal = self._transport.refusal()
            if refusal is not None:
                raise self._refused(target, *refusal) from error
            if not self.alive:
                raise self.why_ended() from error
            if target is None:
                raise self.hung(f"opened no session within {seconds:g} s") from error
            raise TargetRefusedError(
                f"The gateway {self.name} had no answer from {target[0]} port {target[1]} within {seconds:g} s. Is that "
                "computer switched on, is the address right as seen from the gateway, and does the firewall between the two "
                "allow it?"
            ) from error

    def _refused(self, target: tuple[str, int] | None, code: int, words: str) -> LinacError:
        if target is None:
            return SetupError(f"The gateway {self.name} gives {self.user!r} no session. Ask its administrator to allow commands.")
        where = f"{target[0]} port {target[1]}"
        if code == PROHIBITED:
            return ForwardProhibitedError(
                f"The gateway {self.name} does not allow {self.user!r} to be forwarded to {where}. Ask its administrator: "
                "AllowTcpForwarding must be yes (or local), and PermitOpen, if set, must name that address."
            )
        said = words.strip().lower()
        if "refused" in said:
            why = "it refused the connection. Is the service running there, and the port right?"
        elif "name" in said or "unknown host" in said or "resol" in said:
            why = "the gateway does not know that name. Give an address, or a name that the gateway's DNS knows."
        elif "time" in said:
            why = "it does not answer. Is it switched on, and does the firewall between the two allow it?"
        else:
            why = f"it says {words.strip()!r}. Check the address as seen from the gateway, and the firewall between the two."
        return TargetRefusedError(f"The gateway {self.name} works, but could not reach {where}: {why}")

    def request_listening(self, address: str, port: int, seconds: float | None = None) -> int:
        """Let the gateway listen; connections go to the handler of `handle_incoming`. The port (0 takes a free one).

        Raises `ListenRefusedError`.
        """
        answer: list[int | None] = []

        def request() -> None:
            with contextlib.suppress(Exception), self._requests:
                answer.append(self._transport.request_port_forward(address, port, self._dispatch))

        self._within(request, seconds)
        if not self.alive:
            raise self.why_ended()
        if not answer or answer[0] is None:
            raise ListenRefusedError(
                f"The gateway {self.name} does not let {self.user!r} listen on {address or '*'} port {port}. Either the port "
                "is taken there, perhaps by the tunnel's last connection, which its SSH service still holds "
                "(ClientAliveInterval 5 and ClientAliveCountMax 3 let go of it soon), or AllowTcpForwarding or PermitListen "
                "in its sshd_config forbids it."
            )
        return answer[0]

    def cancel_listening(self, address: str, port: int, seconds: float | None = None) -> None:
        """Let the gateway listen there no more."""

        def request() -> None:
            with contextlib.suppress(Exception), self._requests:
                self._transport.global_request("cancel-tcpip-forward", (address, port), wait=True)

        self._within(request, seconds)

    def handle_incoming(self, handler: Incoming) -> None:
        """`handler(channel, origin, listening)` is called for each connection to a port that the gateway listens on. It is called
        by the thread that reads everything, so it must not wait: not even to close the channel."""
        self._handler = handler

    def _dispatch(self, channel: paramiko.Channel, origin: tuple[str, int], listening: tuple[str, int]) -> None:
        if self._handler is None:
            refuse(channel)
        else:
            self._handler(channel, origin, listening)

    def _within(self, work: Callable[[], None], seconds: float | None = None) -> None:
        """Run what may wait for ever in a thread beside us; it ends when the connection does. Raises if the peer hangs."""
        seconds = self.timeout if seconds is None else seconds
        thread = threading.Thread(target=work, name="request ssh", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self._end(self.hung(f"did not answer a request within {seconds:g} s"))
            thread.join(JOIN_SECONDS)
            raise self.why_ended()


def refuse(channel: paramiko.Channel) -> None:
    """Close it without waiting, as the thread that reads must do."""
    with contextlib.suppress(RuntimeError):  # this computer is out of threads: it ends with the connection
        threading.Thread(target=channel.close, name="refuse ssh", daemon=True).start()


def greet(host: str, port: int, kinds: Sequence[str], timeout: float) -> tuple[Wire, Transport]:
    """Connect and agree on keys, host keys of those kinds preferred; nobody is logged in yet.

    Raises the errors of `linac.transport.ssh_errors`, or `SetupError` where the name is unknown.
    """
    name = f"{host} port {port}"
    until = time.monotonic() + timeout
    sock = _connected(host, port, timeout)
    wire = Wire(sock)
    try:
        transport = Transport(wire)
    except BaseException:
        wire.close()
        raise
    try:
        options = transport.get_security_options()
        options.ciphers = CIPHERS
        preferred = [algorithm for kind in kinds for algorithm in ALGORITHMS[kind]]
        rest = [algorithm for algorithms in ALGORITHMS.values() for algorithm in algorithms if algorithm not in preferred]
        options.key_types = tuple(dict.fromkeys([*preferred, *rest]))
        left = max(until - time.monotonic(), 1.0)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = left
        transport.clear_to_send_timeout = KEYS_SECONDS
        _negotiate(wire, transport, until)
    except BROKEN as error:
        over = time.monotonic() >= until - 0.5
        _drop(wire, transport)
        raise _why_no_greeting(name, wire, error, timeout if over else None) from error
    except BaseException:
        _drop(wire, transport)
        raise
    return wire, transport


def _negotiate(wire: Wire, transport: Transport, until: float) -> None:
    """Let the library agree on keys, no longer than until then, nor with what is no SSH service. Raises one of `BROKEN`."""
    done = threading.Event()
    transport.start_client(event=done)
    while not done.wait(0.05):
        now = time.monotonic()
        if now >= until or (wire.greeted_at and not wire.is_ssh and now - wire.greeted_at >= GREETING_SECONDS):
            raise TimeoutError
        if not transport.is_active():
            break
    if not transport.is_active():
        raise transport.get_exception() or EOFError


def _why_no_greeting(name: str, wire: Wire, error: BaseException, waited: float | None) -> LinacError:
    """`waited`: seconds, where it was given up for being silent."""
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return NotSshError(
            f"The gateway {name} speaks SSH, but shares no algorithm with us: {str(error).strip().rstrip('.')}. Its SSH service "
            f"is too old, or its sshd_config allows too little. `Ciphers` must allow one of {', '.join(CIPHERS)}; `MACs`, for "
            "those that end in ctr, hmac-sha2-256 or hmac-sha2-512; `KexAlgorithms` curve25519-sha256@libssh.org or "
            "ecdh-sha2-nistp256."
        )
    if wire.greeting and not wire.is_ssh and not wire.greeting.startswith(REFUSALS):
        return NotSshError(f"What answers at {name} does not speak SSH. Check address and port in the SSH gateway block.")
    if waited is not None:
        how = "stopped in the middle of the greeting" if wire.greeting else "said nothing"
        return GatewayHungError(
            f"The gateway {name} accepted the connection, but {how} within {waited:g} s. Its SSH service hangs, or it is no "
            "SSH service: restart it, or check the port in the SSH gateway block."
        )
    return GatewayRefusedError(
        f"The gateway {name} hung up before the login. It limits connections (MaxStartups, fail2ban), or lets only some "
        "addresses in: ask its administrator whether this computer is blocked."
    )


def shown_host_key(host: str, port: int, kinds: Sequence[str], timeout: float) -> HostKey:
    """The host key that answers there, unchecked. Nobody is logged in."""
    wire, transport = greet(host, port, kinds, timeout)
    try:
        return _shown_key(transport)
    except BROKEN as error:
        raise _hung_up(f"{host} port {port}") from error
    finally:
        _drop(wire, transport)
        transport.join(JOIN_SECONDS)


def _connected(host: str, port: int, timeout: float) -> socket.socket:
    name = f"{host} port {port}"
    try:
        sock = dial(host, port, timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (socket.gaierror, UnicodeError) as error:  # the latter from a name that DNS cannot know
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            raise GatewayUnreachableError(
                f"The gateway's name {host!r} could not be looked up: no name server answers. Look whether this computer's "
                "network works, or give the gateway's address in its block instead."
            ) from error
        if "@" in host or ":" in host:
            raise SetupError(
                f"The gateway's name {host!r} is not known here. Give the name or address alone: user and port have fields of "
                "their own in the SSH gateway block; for `key HOST` no user is needed, and the port is given as `--port N`."
            ) from error
        raise SetupError(
            f"The gateway's name {host!r} is not known here. Check it in the SSH gateway block, or give its address instead."
        ) from error
    except ConnectionRefusedError as error:
        raise GatewayRefusedError(
            f"The gateway {name} refused the connection: no SSH service listens there. Start it (on Windows the service "
            "'OpenSSH SSH Server'), or check the port in the SSH gateway block."
        ) from error
    except TimeoutError as error:
        raise GatewayUnreachableError(
            f"The gateway {name} did not answer within {timeout:g} s. It is switched off, or a firewall is in the way: ask "
            f"hospital IT to allow TCP port {port} from this computer to it."
        ) from error
    except OSError as error:
        raise GatewayUnreachableError(
            f"The gateway {name} cannot be reached: {error.strerror or error}. Check this computer's network, then the "
            "address in the SSH gateway block."
        ) from error
    return sock


def _hung_up(name: str) -> GatewayLostError:
    return GatewayLostError(f"The gateway {name} hung up during the login. Try again; if it stays, ask whoever runs it.")


def _shown_key(transport: paramiko.Transport) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


def _drop(wire: Wire, transport: paramiko.Transport) -> None:
    """Shut the socket down first: closing in order would wait for a peer that hangs. Then the library's timer, and its thread."""
    wire.close()
    transport.packetizer.complete_handshake()
    with contextlib.suppress(Exception):
        transport.close()
