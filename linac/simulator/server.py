"""The pretend linac's iCom service: a clock that makes a message 4 times a second, and a TCP server that sends them."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from linac.errors import SetupError
from linac.simulator.client import FIN, RESET, Client, Outgoing
from linac.simulator.messages import change, make_message
from linac.simulator.session import IDLE, Moment, Session, moments

AS_FAST_AS_POSSIBLE = float("inf")

BEHIND = 50
"""When sending as fast as possible, so many messages may wait for a client before the clock stops for it."""


class SimulatedLinac:
    """A linac that speaks iCom, for the demo, tests and training.

    `machine`: the machine ID in its messages. `port` 0 takes a free one (see `address`). `rate_hz` messages per second of
    machine time; `speed` times faster than real time, `AS_FAST_AS_POSSIBLE` as fast as the clients read. `send_buffer`: SO_SNDBUF
    in bytes. `replay`: so many earlier messages are sent to a client that connects. `idle_id`: the patient ID between patients,
    None leaves it out. `clock`: the linac's local time at the start, now unless given. `chunk`: send so many bytes at a time,
    with so many seconds between. `keep`: keep the bytes of the sessions' messages in `Session.raw`. `counter`: the first
    message's.

    Use it in a `with` statement, or call `start` and `stop`. All other methods may be called at any time, from any thread, and
    from a session's `events`.
    """

    def __init__(
        self,
        machine: str = "4299",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate_hz: float = 4.0,
        speed: float = 1.0,
        send_buffer: int | None = None,
        replay: int = 0,
        idle_id: str | None = None,
        clock: datetime | None = None,
        chunk: tuple[int, float] | None = None,
        keep: bool = True,
        counter: int = 0,
    ) -> None:
        if not (rate_hz > 0 and speed > 0):
            raise SetupError(
                f"The simulated linac cannot make {rate_hz:g} messages a second at {speed:g} times real time. Give numbers "
                "greater than 0."
            )
        self.machine = machine
        self.rate_hz, self.speed = rate_hz, speed
        self.idle_id, self.chunk, self.keep = idle_id, chunk, keep
        self.clients: list[Client] = []
        self.sessions: list[Session] = []
        self.messages_made = 0
        self.messages_sent = 0
        self._host, self._port, self._send_buffer = host, port, send_buffer
        self._clock = clock or datetime.now()  # noqa: DTZ005 (a linac's messages have its local time)
        self._counter = counter - 1
        self._waiting: deque[Session] = deque()
        self._history: deque[bytes] = deque(maxlen=max(replay, 1))
        self._replay = replay
        self._last: bytes | None = None
        self._cut: str | None = None
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._connected = threading.Event()
        self._machine = self._live()
        self._server: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    # Life.

    def start(self) -> Self:
        """Listen, and begin to make messages. Raises `SetupError` if the port is taken."""
        try:
            server = socket.create_server((self._host, self._port))
        except OSError as error:
            raise SetupError(
                f"The simulated linac cannot listen on {self._host}:{self._port}: {error.strerror}. Another program, perhaps "
                "another simulator, has the port: end it, or choose another port."
            ) from error
        if self._send_buffer is not None:  # accepted connections inherit it
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        server.settimeout(0.1)
        self._server = server
        self._port = server.getsockname()[1]
        for work, arguments in ((self._accept, (server,)), (self._run, ())):
            thread = threading.Thread(target=work, args=arguments, name=f"simulated linac {self.machine}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Say goodbye to all clients (FIN) and end, within seconds."""
        self._stop.set()
        self._running.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.hang_up(FIN)
            client.join(5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self._host, self._port

    # What a test or a demo asks it to do.

    def start_session(self, session: Session | None = None, **planned: Any) -> Session:
        """Treat a patient after those already waiting; begins with the next message. `planned` as for `Session`."""
        session = session or Session(**planned)
        with self._lock:
            self.sessions.append(session)
            self._waiting.append(session)
        return session

    def pause(self) -> None:
        """Fall silent at once: no messages until `resume`. Connections stay."""
        with self._lock:
            self._running.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running.set()

    def garbage(self, data: bytes) -> None:
        """Send bytes that are no message."""
        with self._lock:
            self._send(data)

    def jump(self, by: int = 5) -> None:
        """Skip counters, as if messages had been lost."""
        with self._lock:
            self._counter += by

    def repeat(self, *, changed: bool = False) -> None:
        """Send the last message again; `changed`: with its counter, but other data."""
        with self._lock:
            if self._last is not None:
                self._send(change(self._last) if changed else self._last)

    def step_clock(self, by: timedelta) -> None:
        """Set the linac's clock forward or back."""
        with self._lock:
            self._clock += by

    def send_in(self, chunk: tuple[int, float] | None) -> None:
        """From now on send so many bytes at a time, with so many seconds between; None: all at once."""
        with self._lock:
            self.chunk = chunk
            for client in self.clients:
                client.chunk = chunk

    def hang_up(self) -> None:
        """End all connections in order (FIN), after what is under way. New ones are welcome."""
        with self._lock:
            self._send(b"", then=FIN)

    def reset(self) -> None:
        """Break all connections off (RST), after what is under way. New ones are welcome."""
        with self._lock:
            self._send(b"", then=RESET)

    def half_message(self, then: str = FIN) -> None:
        """Send only half of the next message, then end all connections, by `fin` or `reset`."""
        with self._lock:
            self._cut = then

    # What they can wait for, and see.

    def wait_for_client(self, timeout: float | None = None) -> bool:
        """Wait until the first client has connected; False if none has."""
        return self._connected.wait(timeout)

    def client_stays(self, seconds: float) -> bool:
        """Whether a client has been connected for so long, and still is."""
        return any(time.monotonic() - client.connected_at >= seconds for client in self._alive())

    def wait_ended(self, session: Session, timeout: float) -> bool:
        """Wait until a session, and the idle messages after it, are handed to the network. False after `timeout` seconds."""
        until = time.monotonic() + timeout
        return session.ended.wait(timeout) and self.wait_sent(max(until - time.monotonic(), 0.0))

    def wait_sent(self, timeout: float) -> bool:
        """Wait until everything made so far is handed to the network; what is made meanwhile does not count. False after
        `timeout` seconds."""
        until = time.monotonic() + timeout
        with self._lock:
            queued = [(client, client.queued) for client in self._alive()]
        while any(client.ending is None and client.handed < count for client, count in queued):
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    @property
    def longest_send_seconds(self) -> float:
        """How long the longest send of one message took, to any client."""
        return max((client.longest_send_seconds for client in self.clients), default=0.0)

    def status(self) -> dict[str, Any]:
        """Numbers for a parent process, ready for JSON. No patient."""
        return {
            "machine": self.machine,
            "host": self._host,
            "port": self._port,
            "clients": len(self._alive()),
            "connections": len(self.clients),
            "messages_made": self.messages_made,
            "messages_sent": self.messages_sent,
            "longest_send_seconds": round(self.longest_send_seconds, 4),
            "received_bytes": sum(client.received_bytes for client in self.clients),
            "sessions": [
                {
                    "state": "ended" if session.ended.is_set() else "running" if session.started.is_set() else "waiting",
                    "beams": len(session.beams),
                    "messages": session.messages,
                    "messages_sent": session.sent,
                    "planned_mu": session.planned_mu,
                    "delivered_mu": session.delivered_mu,
                }
                for session in self.sessions
            ],
        }

    # The machine: what its next message says.

    def _live(self) -> Iterator[tuple[Moment, int]]:
        while True:
            if not self._waiting:
                yield IDLE, 0
                continue
            session = self._waiting.popleft()
            session.started.set()
            for number, moment in enumerate(moments(session, self.rate_hz)):
                yield moment, number
            for _ in range(session.idle_after):
                yield IDLE, 0
            session.ended.set()

    def _tick(self) -> None:
        """Make one message and send it."""
        moment, number = next(self._machine)
        session = moment.session
        if session is not None and number in session.events:
            session.events[number](self)
        self._counter += 1
        self._clock += timedelta(seconds=1 / self.rate_hz)
        with_name = session is None or number % session.name_every == 0
        raw = make_message(moment, self._clock, self._counter, self.machine, with_name=with_name, idle_id=self.idle_id)
        self.messages_made += 1
        if session is not None:
            session.messages += 1
        if self._cut is not None:
            self._send(raw[: len(raw) // 2], then=self._cut)
            self._cut = None
            return
        if session is not None:
            session.metersets.append(moment.mu)
            if self.keep:
                session.raw.append(raw)
        self._last = raw
        self._history.append(raw)
        self._send(raw, self._counting(session))

    def _counting(self, session: Session | None) -> Callable[[], None]:
        """What to do once a message is sent: count it, once, however many clients there are."""
        first = threading.Lock()

        def sent() -> None:
            if first.acquire(blocking=False):
                with self._lock:
                    self.messages_sent += 1
                    if session is not None:
                        session.sent += 1

        return sent

    # Its network.

    def _send(self, data: bytes, sent: Callable[[], None] | None = None, then: str | None = None) -> None:
        for client in self._alive():
            client.put(Outgoing(data, sent, then))

    def _alive(self) -> list[Client]:
        return [client for client in list(self.clients) if client.ending is None]

    def _accept(self, server: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            try:
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # gone again already
                connection.close()
                continue
            with self._lock:
                client = Client(connection, self.chunk)
                for raw in list(self._history)[: self._replay]:
                    client.put(Outgoing(raw))
                self.clients.append(client)
                client.start()
            self._connected.set()

    def _run(self) -> None:
        interval = 0.0 if self.speed == AS_FAST_AS_POSSIBLE else 1 / (self.rate_hz * self.speed)
        due = time.monotonic()
        while not self._stop.is_set():
            self._running.wait(1.0)
            if not interval:
                self._keep_pace()
            with self._lock:
                if self._running.is_set() and not self._stop.is_set():
                    self._tick()
            due = max(due + interval, time.monotonic() - 1.0)
            self._stop.wait(max(due - time.monotonic(), 0.0))

    def _keep_pace(self) -> None:
        """As fast as possible means: as fast as the slowest client reads; without a client there is no hurry."""
        while not self._stop.is_set() and self._running.is_set():
            alive = self._alive()
            if alive and all(client.waiting < BEHIND for client in alive):
                return
            self._stop.wait(0.001)
