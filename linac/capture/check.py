"""Does the iCom service answer, and for which machine? A look of a few seconds, for check-linac and for people.

A linac must have one connection from us only. So `probe` refuses where a listener of ours on this computer is connected to that
address; `probe_journal` then looks at what that listener records instead.
"""

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from linac.capture import control
from linac.capture.connection import CONNECT_SECONDS, ICOM_PORT, close_in_order, connect
from linac.capture.journal import Kind, Position, Reader, Record, segments
from linac.capture.lock import EndpointLock
from linac.capture.spool import Spool
from linac.errors import AlreadyRunningError, NotIcomError, UnreachableError, WrongMachineError
from linac.icom import Message, MessageStream

_TAIL_BYTES = 256 << 10
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Probe:
    """What was seen. `messages`: how many; `machine_ids`: what the linac calls itself, as a rule one; `first_message_after_s`:
    seconds until the first complete message; `seconds`: how long it was watched; `skipped_bytes`: what belonged to no message;
    `patient_loaded`: whether any message named a patient (not which); `from_journal`: seen through the listener that runs.
    """

    messages: int
    machine_ids: list[str] = field(default_factory=list)
    first_message_after_s: float = 0.0
    seconds: float = 0.0
    skipped_bytes: int = 0
    patient_loaded: bool = False
    from_journal: bool = False


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
                with contextlib.suppress(TimeoutError):
                    data = sock.recv(65536)
                    if not data:
                        break
                    watch.take(data)
        except OSError as error:
            watch.ended = error.strerror or type(error).__name__
        finally:
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
            if isinstance(entry.what, Record) and entry.what.kind == Kind.DATA:
                watch.take(entry.what.payload)
        time.sleep(_POLL_SECONDS)
    said = control.status(spool, serial)
    if not watch.messages and said is not None and not said.connected:
        reason = said.last_error or "it has not connected yet"
        raise UnreachableError(f"Linac {serial}: the listener that runs is not connected: {reason}")
    where = f"{said.address} port {said.port}" if said else "the listener's address"
    return watch.judge(serial, serial, where, from_journal=True)


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
    """Takes bytes for a while and judges what they were."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.bytes = 0
        self.messages: list[Message] = []
        self.first_after = 0.0
        self.ended = ""
        self._stream = MessageStream()

    def wants_more(self, seconds: float, timeout: float) -> bool:
        passed = time.monotonic() - self.began
        return passed < seconds or (not self.messages and passed < max(seconds, timeout))

    def take(self, data: bytes) -> None:
        self.bytes += len(data)
        self._keep(self._stream.feed(data))

    def _keep(self, found: list[Message]) -> None:
        if found and not self.messages:
            self.first_after = time.monotonic() - self.began
        self.messages += found

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
            seconds=round(time.monotonic() - self.began, 3),
            skipped_bytes=self._stream.skipped_bytes,
            patient_loaded=any(message.text("Patient ID") for message in self.messages),
            from_journal=from_journal,
        )
