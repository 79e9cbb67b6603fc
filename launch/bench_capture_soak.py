"""A week of a linac's messages in minutes: does memory stay flat, does every message arrive?

A week is 2.4 million messages, 19 GB: the journal is kept small (what is archived goes early), and each archived session is
compared with what was sent, byte by byte, and then removed.
"""

import contextlib
import hashlib
import lzma
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launch.bench import BenchError, Limit, Row, Setting
from launch.bench_capture_sides import SERIAL, MeasuredLinac, loopback_linac, wait_until
from launch.bench_process import CAN_TELL, cpu_seconds, memory_bytes
from launch.stack import PROJECT
from linac.capture import control, journal
from linac.capture.spool import Spool
from linac.errors import LinacError
from linac.simulator import AS_FAST_AS_POSSIBLE, Beam, Session

TITLE = "Recording a week of iCom messages"

WEEK_MESSAGES = 7 * 86400 * 4
MEMORY_MB = Limit(40)
GROWTH_MB = Limit(2)
NO_LOSS = Limit(0)

JOURNAL_LIMIT_BYTES = 256 << 20
NEEDED_BYTES = 4 << 30
FULL_BACKLOG_BYTES, FREE_BACKLOG_BYTES = 96 << 20, 24 << 20
"""The linac slows down when the first waits for the archiver, until no more than the second does: a session and a little."""

WAIT_BYTES = 2 << 20
"""After so much the linac waits until the journal has it. The listener never holds the linac up, so at hundreds of times the real
speed it would drop what comes while the disk pauses for half a second."""

WAIT_SECONDS = 30.0
SLOW_PACE_SECONDS = 0.1
LOOK_SECONDS = 1.0
IDLE_MESSAGES = 2400
CATCH_UP_SECONDS = 120.0

ARCHIVER = "launch.bench_capture_archiver"
_ID = "SOAK-%05d"
_ID_AT = slice(39, 49)
"""Where the simulated linac's messages have the patient ID: 27 bytes of header, 12 of the first item."""


class Written:
    """How much was ever written to a journal, from outside, also where old segments are removed meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[int, int] = {}
        self._gone = 0

    def bytes(self) -> int:
        """To be asked at least once a minute: a segment that came and went in between would be missed."""
        now: dict[int, int] = {}
        for sequence, path in journal.segments(self._folder).items():
            with contextlib.suppress(OSError):
                size = path.stat().st_size if path.suffix == journal.SUFFIX else 0  # a packed one has not grown
                now[sequence] = max(size, self._seen.get(sequence, 0))
        self._gone += sum(size for sequence, size in self._seen.items() if sequence not in now)
        self._seen = now
        return self._gone + sum(now.values())


@dataclass
class Soak:
    """What was sent and seen until now. Every `WAIT_BYTES` the linac waits for the journal, which `written` looks at."""

    linac: MeasuredLinac
    written: Written
    sent: dict[bytes, "hashlib._Hash"] = field(default_factory=dict)
    counts: dict[bytes, int] = field(default_factory=dict)
    compared: int = 0
    compared_messages: int = 0
    wrong: int = 0
    memory: dict[str, list[float]] = field(default_factory=dict)
    disk: float = 0.0
    behind: int = 0  # sent since the journal was last seen to have everything, and what it held then
    held: int = 0

    def on_send(self, _moment: int, data: bytes) -> None:
        self.behind += len(data)
        if self.behind >= WAIT_BYTES:
            self.linac.hold = self.keep_up
        patient = data[_ID_AT]
        if patient.startswith(b"SOAK-"):
            digest = self.sent.get(patient)
            if digest is None:
                digest = self.sent[patient] = hashlib.sha256()
            digest.update(data)
            self.counts[patient] = self.counts.get(patient, 0) + 1

    def keep_up(self) -> None:
        """Wait until the journal has what was sent."""
        wait_until(lambda: self.written.bytes() >= self.held + self.behind, WAIT_SECONDS, every=0.002)
        self.held, self.behind = self.written.bytes(), 0

    def compare(self, root: Path, ended: set[bytes]) -> None:
        """Compare what is archived of sessions that have ended, and remove it."""
        for path in (root / "patients").glob("SOAK-*_*/*.xz"):
            patient = path.parent.name.partition("_")[0].encode()
            if patient not in ended or patient not in self.sent:
                continue
            with contextlib.suppress(lzma.LZMAError, OSError):
                content = lzma.decompress(path.read_bytes())
                self.compared += 1
                self.compared_messages += self.counts.pop(patient)
                self.wrong += hashlib.sha256(content).digest() != self.sent.pop(patient).digest()
                path.unlink()
                path.parent.rmdir()


def measure(setting: Setting) -> Iterator[Row]:
    """Run for `setting.minutes`, or until the week is over."""
    if shutil.disk_usage(setting.work).free < NEEDED_BYTES:
        raise BenchError(f"The soak test needs {NEEDED_BYTES >> 30} GB of free disk. Choose another folder with --work.")
    work = setting.work / "soak"
    root, spool = work / "iCom", work / "spool"
    root.mkdir(parents=True)
    with loopback_linac(speed=AS_FAST_AS_POSSIBLE, keep=False) as linac:
        soak = Soak(linac, Written(Spool(spool, SERIAL).journal))
        linac.on_send = soak.on_send
        linac.pace = 0.25
        host, port = linac.address
        running = control.start(SERIAL, host, port, spool)
        archiver = subprocess.Popen(
            [
                sys.executable,
                "-m",
                ARCHIVER,
                str(spool),
                SERIAL,
                host,
                str(root),
                str(JOURNAL_LIMIT_BYTES),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
        )
        try:
            wait_until(lambda: linac.client_stays(0.5), 30, "the listener did not connect")
            pids = {"listener": running.pid, "archiver": _said_pid(archiver)}
            began, before = time.monotonic(), _used(pids)
            _run(setting, linac, soak, spool, root, pids, began + setting.minutes * 60)
            sent, seconds = linac.messages_sent, time.monotonic() - began
            after = _used(pids)
            status = control.status(spool, SERIAL)
        finally:
            control.stop(spool, SERIAL)
            if archiver.stdin is not None:
                archiver.stdin.close()
            try:
                archiver.wait(60)
            except subprocess.TimeoutExpired:
                archiver.kill()
                archiver.wait()
    yield Row("messages sent", sent, n=1)
    yield Row("that is, of a linac's time", sent / 4 / 86400, "days")
    yield Row("messages a second", sent / seconds)
    yield Row("messages of sessions compared with what was archived, byte by byte", soak.compared_messages)
    yield Row("sessions not archived as they were sent", soak.wrong + len(soak.sent), n=soak.compared, limit=NO_LOSS)
    if status is not None:
        yield Row("gaps", status.gaps, limit=NO_LOSS)
        yield Row("dropped because the disk did not keep up", status.dropped_bytes / 1e6, "MB", limit=NO_LOSS)
    for what, seen in soak.memory.items():
        yield Row(f"memory of the {what}, at most", max(seen), "MB", n=len(seen), limit=MEMORY_MB)
        quarter = max(len(seen) // 4, 1)
        grown = statistics.median(seen[-quarter:]) - statistics.median(seen[quarter : 2 * quarter] or seen)
        yield Row(f"memory of the {what}: last quarter above the second", grown, "MB", n=quarter, limit=GROWTH_MB)
    for what in after:
        yield Row(f"seconds of a core for 1000 messages: {what}", 1000 * (after[what] - before[what]) / sent, "s")
    yield Row("journal on the disk, at most", soak.disk, "MB")
    setting.note(
        f"{sent / WEEK_MESSAGES:.0%} of a week's {WEEK_MESSAGES:,} messages, in {seconds / 60:.1f} minutes (`--minutes`). Half "
        "of them belong to patient sessions of 10 minutes, all different. What is archived leaves the journal early, and each "
        "archived session is removed once it has been compared."
    )


def _said_pid(process: "subprocess.Popen[bytes]") -> int:
    """The process number by its own word: on Windows the one that we started is only a launcher."""
    line = process.stdout.readline() if process.stdout is not None else b""
    if not line.strip().isdigit():
        raise BenchError("The archiver did not start.")
    return int(line)


def _run(setting: Setting, linac: MeasuredLinac, soak: Soak, spool: Path, root: Path, pids: dict[str, int], until: float) -> None:
    """Treat one patient after the other until it is time, then let the archiver catch up."""
    sessions: list[Session] = []
    number, told, slow, last = 0, time.monotonic(), False, False
    linac.pace = 0.0
    while True:
        over = time.monotonic() > until or linac.messages_sent >= WEEK_MESSAGES
        if over and not last:
            last, until = True, time.monotonic() + CATCH_UP_SECONDS
        while not last and sum(not session.started.is_set() for session in sessions) < 2:
            sessions.append(linac.start_session(make_session(number)))
            number += 1
        ended = {str(session.patient_id).encode() for session in sessions if session.ended.is_set()}
        soak.compare(root, ended)
        sessions = [
            session for session in sessions if not session.ended.is_set() or str(session.patient_id).encode() in soak.sent
        ]
        linac.sessions[:] = sessions
        if CAN_TELL:
            for what, pid in pids.items():
                soak.memory.setdefault(what, []).append(memory_bytes(pid) / 1e6)
        backlog = _waiting(spool)
        soak.disk = max(soak.disk, journal.size(Spool(spool, SERIAL).journal) / 1e6)
        slow = backlog > FULL_BACKLOG_BYTES or (slow and backlog > FREE_BACKLOG_BYTES)
        linac.pace = SLOW_PACE_SECONDS if slow and not last else 0.0
        if last and not sessions:
            return
        if last and time.monotonic() > until:
            return
        if time.monotonic() > told + 15:
            told = time.monotonic()
            now = ", ".join(f"{what} {seen[-1]:.1f} MB" for what, seen in soak.memory.items())
            setting.say(
                f"{linac.messages_sent:,} messages, {soak.compared} sessions compared, {now}, backlog {backlog / 1e6:.0f} MB"
            )
        time.sleep(LOOK_SECONDS)


def make_session(number: int) -> Session:
    """Ten minutes with one of a hundred different treatments, then as long without a patient."""
    mu = 200.0 + number % 100
    beam = Beam("1-1", "Prostate", mu, 0.0, 100.0, dose_rate=mu / 9, phase=number / 100)
    return Session(_ID % number, "Simulated^Patient", [beam], idle_after=IDLE_MESSAGES)


def _waiting(spool: Path) -> int:
    """What waits for the archiver, in bytes."""
    try:
        status = control.status(spool, SERIAL)
    except LinacError:
        return 0
    return status.backlog_bytes if status is not None else 0


def _used(pids: dict[str, int]) -> dict[str, float]:
    return {what: cpu_seconds(pid) for what, pid in pids.items()} if CAN_TELL else {}
