"""Both sides of the capture benchmark: a simulated linac that is measured, and the listeners, ours and PyMedPhys's.

Each trial has a linac with an address of its own (PyMedPhys always connects to port 1706) and an iCom folder of its own.
"""

import contextlib
import itertools
import lzma
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from launch.bench import BenchError
from launch.bench_process import kill
from launch.stack import PROJECT, own_group
from linac.capture import control
from linac.capture.connection import ICOM_PORT
from linac.errors import LinacError, SetupError
from linac.icom import MessageStream
from linac.simulator import Session, SimulatedLinac
from linac.simulator.client import Client

SERIAL = "4299"
SHARE_SCRIPT = Path(__file__).with_name("bench_capture_share.py")
START_SECONDS = 30.0
END_SECONDS = 15.0

AHEAD = -15
"""How far before others the simulated linac gets the processor where time is measured, of 20."""

_BUSY = struct.Struct("<168xQ")
"""Microseconds in Linux's `struct tcp_info` (tcpi_busy_time)."""

_numbers = itertools.count(2)


def go_ahead() -> None:
    """Let this thread, and those that it starts, have the processor before others where the system allows that: a real linac has
    a computer of its own, and waits for the network and the listener alone. The listeners stay as they are (`Side.start`)."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, AHEAD)


class Untaken:
    """How long at a stretch the system had bytes for a client that the client's system had not taken yet. It counts for itself,
    whenever this program gets to run, so this is what the listener does, without what the linac's own computer does.

    `longest`: seconds, None where the system does not tell. Ask with `look`, about every half second.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looked, self._busy, self._stretch = time.monotonic(), self._seconds(), 0.0
        self.longest = None if self._busy is None else 0.0

    def look(self) -> None:
        now, busy = time.monotonic(), self._seconds()
        if busy is None or self._busy is None or self.longest is None:
            return
        more, passed = busy - self._busy, now - self._looked
        self._stretch = self._stretch + more if more > 0.9 * passed else more  # all the time: then it goes on from before
        self.longest = max(self.longest, self._stretch)
        self._looked, self._busy = now, busy

    def _seconds(self) -> float | None:
        if sys.platform != "linux":
            return None
        told = self._client.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return float(_BUSY.unpack_from(told)[0]) / 1e6 if len(told) >= _BUSY.size else None


class MeasuredLinac(SimulatedLinac):
    """A simulated linac that says when it sent what.

    `on_send(moment_ns, data)` is called when a message goes to the connected clients, with `time.perf_counter_ns`. `pace`: with
    `speed=AS_FAST_AS_POSSIBLE`, wait so many seconds before each message; 0 is as fast as possible, and may be changed. `hold`,
    likewise: called once before the next message, which waits for it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_send: Callable[[int, bytes], None] | None = None
        self.pace = 0.0
        self.hold: Callable[[], None] | None = None

    def forget_sends(self) -> None:
        """From now on `longest_send_seconds` counts anew; a send that is under way counts as a whole."""
        for client in self.clients:
            client._longest = 0.0

    def _send(self, data: bytes, sent: Callable[[], None] | None = None, then: str | None = None) -> None:
        if self.on_send is not None and data and self._alive():
            self.on_send(time.perf_counter_ns(), data)
        super()._send(data, sent, then)

    def _keep_pace(self) -> None:
        if self.hold is not None:
            hold, self.hold = self.hold, None
            hold()
        if self.pace:
            self._stop.wait(self.pace)
        else:
            super()._keep_pace()


def loopback_linac(**options: Any) -> MeasuredLinac:
    """A linac, not yet started, at a loopback address where port 1706 is free. Raises `BenchError` where there is none."""
    for number in itertools.islice(_numbers, 50):
        host = f"127.17.{number // 250 % 250}.{number % 250 + 1}"
        with socket.socket() as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, ICOM_PORT))
            except OSError:
                continue
        return MeasuredLinac(SERIAL, host=host, port=ICOM_PORT, **options)
    raise BenchError(
        f"No loopback address has port {ICOM_PORT} free, to which PyMedPhys connects. On macOS, only 127.0.0.1 can be used."
    )


@dataclass
class Side:
    """A listener as it would run at a site, in a folder of its own. Use it with `with`; it is ended, in the end by force.

    `root`: the iCom folder. `share`: whether it shall misbehave on demand, see `behave` (this costs a little time, so not where
    time is measured).
    """

    work: Path
    address: tuple[str, int]
    share: bool = False
    root: Path = field(init=False)
    process: "subprocess.Popen[bytes] | None" = None
    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self.root = self.work / "iCom"
        self.root.mkdir(parents=True)
        self._orders, self._pid = self.work / "orders", self.work / "pid"

    def command(self) -> tuple[list[str], list[str]]:
        """Python and its module path; the module and its arguments."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it. Raises `BenchError` if it does not start."""
        (python, path), program = self.command()
        self._pid.unlink(missing_ok=True)
        share = [str(self._orders) if self.share else "-", str(self.root)]
        with (self.work / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [python, "-I", str(SHARE_SCRIPT), str(self._pid), path, *share, *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.work,
                env={**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"},
                **own_group(),
            )
        wait_until(lambda: self._pid.exists(), START_SECONDS, f"{self.name} did not start")

    @property
    def main_pid(self) -> int:
        return int(self._pid.read_text(encoding="ascii"))

    def pids(self) -> dict[str, int]:
        """Its processes, by what they do."""
        return {"listener": self.main_pid}

    def behave(self, order: str = "") -> None:
        """From now on the share is `slow SECONDS`, it `hang`s, it is `readonly`, or as it should be."""
        part = self.work / "orders.part"
        part.write_text(order, encoding="ascii")
        for _ in range(50):
            with contextlib.suppress(PermissionError):  # Windows: it is being read
                os.replace(part, self._orders)
                return
            time.sleep(0.005)

    def kill(self) -> None:
        """`kill -9` for all of it."""
        for pid in self.pids().values():
            kill(pid)
        if self.process is not None:
            self.process.kill()
            self.process.wait(END_SECONDS)

    def end(self) -> None:
        """End it as an operator would; by force if that does not work."""
        self.behave()
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.process.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def archived(self) -> Iterator[tuple[str, list[bytes]]]:
        """What is archived now: each file's patient folder, and its messages. Files that are still being written are left out."""
        for path in sorted((self.root / "patients").glob("**/*.xz")):
            with contextlib.suppress(OSError, EOFError, lzma.LZMAError):
                data = lzma.decompress(path.read_bytes())
                stream = MessageStream()
                messages = stream.feed(data) + stream.close()
                aside = path.parent.parent.name == "unknown_error_in_record"
                yield f"{'aside/' if aside else ''}{path.parent.name}", [message.raw for message in messages]


class Ours(Side):
    """`python -m linac.icom listen`: a process that archives and, started by it, the listener."""

    name = "linac-flows"

    def command(self) -> tuple[list[str], list[str]]:
        host, port = self.address
        where = [host, str(self.root), "--port", str(port), "--serial", SERIAL, "--spool", str(self.spool)]
        return [sys.executable, str(PROJECT)], ["linac.icom", "listen", *where]

    @property
    def spool(self) -> Path:
        return self.work / "spool"

    def listener_pid(self) -> int | None:
        """The listener's process, if it runs."""
        try:
            said = control.status(self.spool, SERIAL)
        except LinacError:
            return None
        return said.pid if said is not None and said.running else None

    def pids(self) -> dict[str, int]:
        listener = self.listener_pid()
        return ({"listener": listener} if listener else {}) | {"archiver": self.main_pid}

    def end(self) -> None:
        super().end()
        with contextlib.suppress(LinacError):
            control.stop(self.spool, SERIAL)


@dataclass
class Peer(Side):
    """`pymedphys icom listen`."""

    python: Path = field(default_factory=Path)
    name = "PyMedPhys"

    def command(self) -> tuple[list[str], list[str]]:
        if self.address[1] != ICOM_PORT:
            raise SetupError(f"PyMedPhys connects to port {ICOM_PORT} only, not to {self.address[1]}.")
        return [str(self.python), ""], ["pymedphys", "icom", "listen", self.address[0], str(self.root)]


class Sink(Side):
    """A program that reads and keeps nothing: what this computer allows at this moment, with everything else that it does."""

    name = "floor"

    def command(self) -> tuple[list[str], list[str]]:
        return [sys.executable, str(PROJECT)], ["launch.bench_capture_sink", self.address[0], str(self.address[1])]


def wait_until(done: Callable[[], bool], seconds: float, otherwise: str = "", every: float = 0.02) -> bool:
    """Wait for something; False after so long. Raises `BenchError` then, if `otherwise` says what has failed."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            if otherwise:
                raise BenchError(f"{otherwise} within {seconds:.0f} s.")
            return False
        time.sleep(every)
    return True


@dataclass(frozen=True)
class Kept:
    """What became of sessions' messages. `right`: archived, under their patient; `wrong`: under another one; `aside`: set aside
    as not understood; `lost`: sent but nowhere. `names_cut`: sessions filed under a part of the patient's name."""

    sent: int
    right: int
    wrong: int = 0
    aside: int = 0
    names_cut: int = 0

    @property
    def lost(self) -> int:
        return max(self.sent - self.right - self.wrong - self.aside, 0)

    def __str__(self) -> str:
        more = [f"{count} {what}" for count, what in ((self.wrong, "under another patient"), (self.aside, "set aside")) if count]
        more += ["name cut short"] if self.names_cut else []
        return f"{self.right} of {self.sent}" + (f" ({', '.join(more)})" if more else "")


def kept(side: Side, sessions: Iterable[Session]) -> Kept:
    """Compare the archive with what was sent, message by message. Each message counts once."""
    found = list(side.archived())
    sent = right = wrong = aside = names_cut = 0
    for session in sessions:
        sent += session.sent
        mine, unseen = f"{_text(session.patient_id)}_", set(session.raw)
        folders = sorted(found, key=lambda one: not one[0].startswith(mine))  # its own first
        for folder, messages in folders:
            hit = unseen.intersection(messages)
            unseen -= hit
            if not hit:
                continue
            if folder.startswith(mine):
                right += len(hit)
                names_cut += not all(part in folder for part in _parts(session.patient_name))
            elif folder.startswith("aside/"):
                aside += len(hit)
            else:
                wrong += len(hit)
    return Kept(sent, right, wrong, aside, names_cut)


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _parts(name: str | bytes | None) -> list[str]:
    """A name's words."""
    return _text(name).replace("^", " ").replace("/", " ").split()


def all_archived(side: Side, sessions: Iterable[Session]) -> bool:
    now = kept(side, sessions)
    return now.right >= now.sent


class InThread:
    """A trial in a thread of its own. `result` waits for it and gives its value, or raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value
