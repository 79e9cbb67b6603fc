"""A scripted peer, messages and journals for the tests of capture. All patients are invented."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from linac.capture import control
from linac.capture.journal import Entry, Kind, Position, Record

START = datetime(2024, 5, 6, 12, 13, 14)  # noqa: DTZ001 (the linac writes local time)


def item(group: int, element: int, vr: bytes, part: bytes, value: bytes) -> bytes:
    """group u16, element u16, VR, 0, part, length u32, value."""
    return struct.pack("<HH2sxcI", group, element, vr, part, len(value)) + value


def make_message(
    counter: int,
    *,
    patient: str | bytes | None = None,
    name: str | bytes | None = "Nobody^At All",
    mu: float | str | None = 0.0,
    machine: str = "4299",
    leaves: int = 160,
    time: datetime | None = None,
    more: bytes = b"",
) -> bytes:
    """One message, written by hand and not with the project's encoder: its bytes are what the facts say, field by field."""
    body = b""
    if patient is not None:
        body += item(0x0010, 0x0020, b"LO", b"P", patient if isinstance(patient, bytes) else patient.encode())
        if name is not None:
            body += item(0x0010, 0x0010, b"PN", b"P", name if isinstance(name, bytes) else name.encode())
    body += item(0x300A, 0x00B2, b"SH", b"P", machine.encode())
    if mu is not None:
        body += item(0x3008, 0x0032, b"DS", b"R", mu.encode() if isinstance(mu, str) else b"%.2f" % mu)
    body += item(0x300A, 0x011E, b"DS", b"R", b"%.1f" % (counter / 2 - 64))
    body += item(0x300A, 0x0120, b"DS", b"R", b"0.0")
    if leaves:
        body += item(0x300A, 0x00B8, b"DS", b"R", b"MLCX")
        body += b"".join(item(0x300A, 0x011C, b"DS", b"R", b"%.2f" % (leaf % 7 / 4)) for leaf in range(leaves))
    body += item(0x300A, 0x00B8, b"DS", b"R", b"ASYMY") + item(0x300A, 0x011C, b"DS", b"R", b"5.00") * 2
    body += item(0x3001, 0x1016, b"LO", b"R", b"Ready") + more
    stamp = time or START + timedelta(seconds=counter // 4)
    prefix = (27 + len(body)).to_bytes(4, "little") + b"\x04\x04\x00\x00"
    return prefix + f"{stamp:%Y-%m-%d%H:%M:%S}".encode() + bytes([counter % 256]) + body


def make_session(patient: str | bytes, count: int = 12, first: int = 0, **more: object) -> list[bytes]:
    """Messages of one patient: a beam that delivers 1 MU a message from the second on."""
    return [make_message(first + n, patient=patient, mu=float(n), **more) for n in range(count)]  # type: ignore[arg-type]


def make_idle(count: int, first: int, **more: object) -> list[bytes]:
    return [make_message(first + n, **more) for n in range(count)]  # type: ignore[arg-type]


@dataclass
class Script:
    """Journal entries without a disk: `data` and `note` append them, a quarter of a second of machine time apart."""

    run: str = "run-1"
    number: int = 0
    wall_ns: int = 1_715_000_000_000_000_000
    mono_ns: int = 5_000_000_000
    offset: int = 0
    entries: list[Entry] = field(default_factory=list)

    def data(self, *messages: bytes, seconds: float = 0.25) -> "Script":
        for message in messages:
            self._add(Kind.DATA, message, seconds)
        return self

    def note(self, kind: Kind, seconds: float = 0.0, **facts: object) -> "Script":
        import json

        return self._add(kind, json.dumps(facts).encode(), seconds)

    def restart(self, seconds: float = 2.0) -> "Script":
        """The listener was killed and started again."""
        self.run = self.run + "+"
        self.number = 0
        return self.note(Kind.STARTED, seconds).note(Kind.CONNECTED)

    def _add(self, kind: Kind, payload: bytes, seconds: float) -> "Script":
        self.number += 1
        self.wall_ns += int(seconds * 1e9)
        self.mono_ns += int(seconds * 1e9)
        begin = Position(1, self.offset)
        self.offset += 44 + len(payload)
        record = Record(kind, self.number, self.wall_ns, self.mono_ns, payload)
        self.entries.append(Entry(begin, Position(1, self.offset), record, self.run))
        return self


class Peer:
    """A linac's iCom service that does what the test says. Notes how every connection ended: `fin`, `reset` or None."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.accepted: list[float] = []
        self.endings: dict[int, str] = {}
        self._new = threading.Condition()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._new:
                self.connections.append(connection)
                self.accepted.append(time.monotonic())
                threading.Thread(target=self._watch, args=(len(self.connections) - 1, connection), daemon=True).start()
                self._new.notify_all()

    def _watch(self, number: int, connection: socket.socket) -> None:
        try:
            while connection.recv(4096):
                self.endings[number] = "it said something"
                return
            self.endings.setdefault(number, "fin")
        except OSError:
            self.endings.setdefault(number, "reset")

    def wait(self, number: int = 0, timeout: float = 30.0) -> socket.socket:
        """The connection with that number (from 0)."""
        with self._new:
            assert self._new.wait_for(lambda: len(self.connections) > number, timeout), "nobody connected"
        return self.connections[number]

    def send(self, *messages: bytes, number: int | None = None, pause: float = 0.0) -> None:
        connection = (
            self.wait() if number is None and not self.connections else self.connections[-1 if number is None else number]
        )
        for message in messages:
            connection.sendall(message)
            if pause:
                time.sleep(pause)

    def reset(self) -> None:
        connection = self.connections[-1]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RD)
        connection.close()

    def hang_up(self) -> None:
        self.connections[-1].shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._closed = True
        self.server.close()
        for connection in self.connections:
            connection.close()


def wait_for(truth: Callable[[], object], timeout: float = 30.0, what: str = "it") -> None:
    deadline = time.monotonic() + timeout
    while not truth():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout} s"
        time.sleep(0.02)


@pytest.fixture
def lab() -> SimpleNamespace:
    """What the tests make messages and journals with."""
    return SimpleNamespace(
        START=START,
        item=item,
        message=make_message,
        session=make_session,
        idle=make_idle,
        Script=Script,
        wait_for=wait_for,
    )


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    """A spool; listeners that run in it are stopped at the end, whatever happened."""
    root = tmp_path / "spool"
    yield root
    for lock in root.glob("*/listener.lock"):
        assert control.stop(root, lock.parent.name, timeout=10), "a listener did not stop"
