"""Does the iCom service answer, for which machine, and how steadily? A look of seconds or minutes, for check-linac.

A linac must have one connection from us only. So `probe` refuses where a listener of ours on this computer is connected to that
address; `probe_journal` then looks at what that listener records instead. `linac.capture.steadiness` judges what either saw.
"""

import os
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from linac.capture import control
from linac.capture.connection import CONNECT_SECONDS, ICOM_PORT, close_in_order, connect
from linac.capture.journal import Kind, Position, Reader, Record, segments
from linac.capture.lock import EndpointLock
from linac.capture.spool import Spool
from linac.errors import AlreadyRunningError, NotIcomError, UnreachableError, WrongMachineError
from linac.icom import Message, MessageStream

_POLL_SECONDS = 0.1
_PAUSE_NS = 100_000_000
"""A message with nothing behind it for so long is complete (`MessageStream.flush`)."""


class Arrival(NamedTuple):
    """One message as it came: seconds since the watching began, its counter (0 to 255), the linac's local time in it (naive) and
    this computer's time then (nanoseconds since 1970, UTC)."""

    seconds: float
    counter: int
    linac_time: datetime
    wall_ns: int


class Break(NamedTuple):
    """A moment, in seconds since the watching began, when the stream was cut, and why."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Probe:
    """What was seen. `messages`: how many; `machine_ids`: what the linac calls itself, as a rule one; `first_message_after_s`:
    seconds until the first complete message; `seconds`: how long it was watched; `skipped_bytes`: what belonged to no message;
    `patient_loaded`: whether any message named a patient (not which); `from_journal`: seen through the listener that runs;
    `arrivals`: when each message came; `breaks`: when the connection was cut while it was watched.
    """

    messages: int
    machine_ids: list[str] = field(default_factory=list)
    first_message_after_s: float = 0.0
    seconds: float = 0.0
    skipped_bytes: int = 0
    patient_loaded: bool = False
    from_journal: bool = False
    arrivals: tuple[Arrival, ...] = field(default=(), repr=False)
    breaks: tuple[Break, ...] = ()


def probe(address: str, port: int = ICOM_PORT, serial: str = "", seconds: float = 3.0, timeout: float = CONNECT_SECONDS) -> Probe:
    """Connect, read for `seconds` (longer, up to `timeout`, if nothing came yet), end in order with FIN.

    `serial` is the machine expected there; empty accepts any. Raises `UnreachableError` (no address, no answer, refused, or
    a service that says nothing), `NotIcomError`, `WrongMachineError`, and `AlreadyRunningError` if a listener of ours on this
    computer holds the connection.
    """
    name = serial or "(serial not given)"
    claim = EndpointLock(address, port)
    if not claim.acquire():
        raise AlreadyRunningError(
            f"Linac {name}: a listener on this computer is already connected to {address} port {port}. A linac must have one "
            "connection only: look at that listener's status instead, or stop it first."
        )
    watch = _Watch()
    try:
        sock = connect(name, address, port, timeout)
        try:
            sock.settimeout(_POLL_SECONDS)
            while watch.wants_more(seconds, timeout):
                try:
                    data = sock.recv(65536)
                except TimeoutError:
                    watch.pause()
                    continue
                if not data:
                    watch.cut("the linac closed the connection")
                    break
                watch.take(data)
        except OSError as error:
            watch.cut(error.strerror or type(error).__name__)
        finally:
            watch.over()
            close_in_order(sock, watch.take)
    finally:
        claim.release()
    return watch.judge(name, serial, f"{address} port {port}")


def probe_journal(
    spool: str | os.PathLike[str], serial: str, seconds: float = 3.0, timeout: float = CONNECT_SECONDS
) -> Probe | None:
    """The same through the journal of the listener that runs; None if none runs with this spool.

    Raises as `probe` does; `UnreachableError` carries the listener's own reason while it is not connected.
    """
    places = Spool(Path(spool), serial)
    if not control.is_running(spool, serial):
        return None
    reader = Reader(places.journal, _end(places.journal))
    watch = _Watch()
    while watch.wants_more(seconds, timeout):
        for entry in reader.read():
            if isinstance(entry.what, Record):
                _take_record(watch, entry.what)
        time.sleep(_POLL_SECONDS)
    watch.over()
    said = control.status(spool, serial)
    if not watch.messages and said is not None and not said.connected:
        reason = said.last_error or "it has not connected yet"
        raise UnreachableError(f"Linac {serial}: the listener that runs is not connected: {reason}")
    where = f"{said.address} port {said.port}" if said else "the listener's address"
    return watch.judge(serial, serial, where, from_journal=True)


def _take_record(watch: "_Watch", record: Record) -> None:
    """A journal's record, with the time at which the listener received it."""
    if record.kind == Kind.DATA:
        watch.take(record.payload, record.mono_ns, record.wall_ns)
    elif record.kind == Kind.DISCONNECTED:
        watch.cut(str(record.facts().get("reason", "")) or "the connection was lost", record.mono_ns)
    elif record.kind == Kind.DROPPED:
        watch.cut("the capture computer's disk did not keep up", record.mono_ns)


def _end(folder: Path) -> Position:
    """Where the journal ends now."""
    known = segments(folder)
    if not known:
        return Position(0, 0)
    newest = max(known)
    position = Position(newest, 0)
    for entry in Reader(folder, position).read():
        position = entry.end
    return position


class _Watch:
    """Takes bytes for a while and judges what they were.

    A message arrives with its last byte, but only the next one's header proves it complete, a quarter of a second later. So a
    pause of 100 ms flushes it, and it counts as arrived when the bytes before the pause came.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.bytes = 0
        self.messages: list[Message] = []
        self.arrivals: list[Arrival] = []
        self.breaks: list[Break] = []
        self.first_after = 0.0
        self.ended = ""
        self._began_ns = time.monotonic_ns()
        self._last_ns = self._last_wall_ns = 0  # when the last bytes came
        self._stream = MessageStream()
        self._skipped = 0
        self._seconds = 0.0

    def wants_more(self, seconds: float, timeout: float) -> bool:
        passed = time.monotonic() - self.began
        return passed < seconds or (not self.messages and passed < max(seconds, timeout))

    def take(self, data: bytes, mono_ns: int | None = None, wall_ns: int | None = None) -> None:
        """Bytes, with the times at which they came: now unless given."""
        now_ns = time.monotonic_ns() if mono_ns is None else mono_ns
        self.pause(now_ns)
        self.bytes += len(data)
        self._last_ns, self._last_wall_ns = now_ns, time.time_ns() if wall_ns is None else wall_ns
        self._keep(self._stream.feed(data))
        if self._stream.whole:
            self._keep(self._stream.flush())

    def pause(self, now_ns: int | None = None) -> None:
        """No bytes just now: after 100 ms of that, the last message is complete."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        if self._last_ns and now_ns - self._last_ns >= _PAUSE_NS:
            self._keep(self._stream.flush())

    def cut(self, reason: str, now_ns: int | None = None) -> None:
        """The stream ends here. What follows, if anything, is another connection's."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        self._keep(self._stream.close())
        self._skipped += self._stream.skipped_bytes
        self._stream = MessageStream()
        self.ended = reason
        self.breaks.append(Break(round((now_ns - self._began_ns) / 1e9, 3), reason))

    def over(self) -> None:
        """The watching ends; what still comes while the connection is closed is not timed."""
        self._seconds = time.monotonic() - self.began

    def _keep(self, found: list[Message]) -> None:
        if found and not self.messages:
            self.first_after = time.monotonic() - self.began
        for message in found:
            if message.replaces:
                self.messages[-1:] = [message]
                continue
            self.messages.append(message)
            if not self._seconds:
                seconds = round((self._last_ns - self._began_ns) / 1e9, 4)
                self.arrivals.append(Arrival(seconds, message.counter, message.timestamp, self._last_wall_ns))

    def judge(self, name: str, serial: str, where: str, *, from_journal: bool = False) -> Probe:
        self._keep(self._stream.close())
        if not self.messages and self.bytes:
            raise NotIcomError(
                f"Linac {name}: what answers at {where} does not speak iCom ({self.bytes} bytes without a message). Another "
                "service probably listens there: check the address and the port."
            )
        if not self.messages:
            why = f" ({self.ended})" if self.ended else ""
            raise UnreachableError(
                f"Linac {name}: {where} accepts the connection but says nothing{why}. The linac is probably switched off, or its "
                "iCom service hangs or serves another listener: ask the Elekta engineer, then run check-linac again."
            )
        machines = list(dict.fromkeys(machine for message in self.messages if (machine := message.text("Machine ID"))))
        if serial and machines and serial not in machines:
            raise WrongMachineError(
                f"Linac {serial}: at {where} answers machine {', '.join(machines)}. The address or the serial is wrong: check "
                "which NSS has this address."
            )
        return Probe(
            messages=len(self.messages),
            machine_ids=machines,
            first_message_after_s=round(self.first_after, 3),
            seconds=round(self._seconds or time.monotonic() - self.began, 3),
            skipped_bytes=self._skipped + self._stream.skipped_bytes,
            patient_loaded=any(message.text("Patient ID") for message in self.messages),
            from_journal=from_journal,
            arrivals=tuple(self.arrivals),
            breaks=tuple(self.breaks),
        )
