"""Recording a linac's iCom stream: `python -m linac.icom listen` beside `pymedphys icom listen`, with the same simulated linac.

Where seconds of a core, memory or latency are measured, the sides run one after the other. Trials that only wait (shares that
hang, faults) run side by side, each with a linac and folders of its own.
"""

import contextlib
import hashlib
import lzma
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from launch.bench import Limit, Row, Setting
from launch.bench_capture_faults import FAULTS, Outcome, Trial, run_trials
from launch.bench_capture_sides import SERIAL, InThread, MeasuredLinac, Ours, Peer, Side, Sink, kept, loopback_linac, wait_until
from launch.bench_capture_watch import watch_for
from launch.bench_process import CAN_TELL, cpu_seconds, memory_bytes
from linac.capture import journal
from linac.capture.spool import Spool
from linac.simulator import AS_FAST_AS_POSSIBLE, Beam, Session, SimulatedLinac
from linac.simulator.session import moments

TITLE = "Recording the iCom stream"

SECONDS_PER_1000 = Limit(0.05)
LATENCY_MS = Limit(5)
BLOCKED_MS = Limit(50)
NO_LOSS = Limit(0)

SMALL_BUFFER = 4096
"""SO_SNDBUF of the simulated linac, bytes: less than a message, so that a listener that does not read holds it up at once."""

MARGIN_SECONDS = 1.0
SETTLE_SECONDS = 6.0

WAIT_MESSAGES = 256
"""After so many messages of a flood, 2 MB, the linac waits until our journal has them."""

SLOW_MESSAGES = 16
"""So many messages before a flooded session's end the linac goes back to its own pace."""

Kind = Callable[..., Side]
"""Makes a listener: `work`, `address` and perhaps `share`, see `Side`."""


@dataclass(frozen=True)
class Sizes:
    """How long each part takes, seconds; `session_seconds` of a linac's time."""

    latency_seconds: float = 20.0
    session_seconds: float = 1800.0
    archive_bound: float = 90.0
    flood_bound: float = 120.0
    hang_seconds: float = 20.0
    fault_bound: float = 20.0
    at_once: int = 7
    faults: tuple[str, ...] = tuple(FAULTS)


QUICK = Sizes(4.0, 60.0, 15.0, 60.0, 4.0, 12.0, 4, ("none", "end of the connection (FIN)", "10-character ID"))


@dataclass
class Part:
    """What one process used for `messages` messages: seconds of a core, and bytes it grew by."""

    messages: int
    seconds: float
    grown: int

    @property
    def seconds_per_1000(self) -> float:
        return 1000 * self.seconds / self.messages

    @property
    def mb_per_1000(self) -> float:
        return self.grown / 1e6 * 1000 / self.messages


@dataclass
class Found:
    """What one side reached."""

    used: dict[str, Part] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    blocked: float = 0.0
    still_blocked: bool = False
    archived_after: float | None = None

    def total(self, what: str) -> float | None:
        """Of all its processes together."""
        return sum(getattr(part, what) for part in self.used.values()) if self.used else None

    def of(self, process: str, what: str) -> float | None:
        return getattr(self.used[process], what) if process in self.used else None


def measure(setting: Setting, sizes: Sizes | None = None) -> Iterator[Row]:
    """All figures, with PyMedPhys's where there is one."""
    sizes = sizes or (QUICK if setting.quick else Sizes())
    if not CAN_TELL:
        setting.note("This system does not tell what other processes use: no seconds of a core, no memory.")
    kinds: list[tuple[str, Kind]] = [("ours", Ours)]
    if setting.peer is not None:
        kinds.append(("peer", partial(Peer, python=setting.peer)))
    yield from _at_pace({name: pace_trial(setting, sizes, name, kind) for name, kind in kinds}, setting)
    yield from _flooded({name: flood_trial(setting, sizes, name, kind) for name, kind in kinds}, setting, sizes)
    yield from _shares(setting, sizes, kinds)
    yield from _faults(setting, sizes, kinds)


def make_session(seconds: float, patient: tuple[str, str] = ("TEST-0001", "Simulated^Patient")) -> Session:
    """A session of about so long, four beams, radiation nearly all the time."""
    each = max(seconds / 4 - 6.5, 3.0)  # the rest of each quarter goes into turning the gantry and the like
    angles = (0.0, 24.0, 0.0, 24.0, 0.0)
    beams = [
        Beam(f"1-{number + 1}", "Prostate", round(each * 40 / 60, 1), angles[number], angles[number + 1], dose_rate=40.0)
        for number in range(4)
    ]
    return Session(*patient, beams)


# At the linac's own pace.


def pace_trial(setting: Setting, sizes: Sizes, name: str, kind: Kind) -> Found:
    """A session at 4 messages a second: what it costs, and how long each message takes to the disk."""
    setting.say(f"{name}: {sizes.latency_seconds:.0f} s at 4 messages a second")
    found = Found()
    with loopback_linac() as linac, kind(setting.work / f"pace-{name}", linac.address) as side:
        watch = watch_for(side)
        linac.on_send = lambda moment, data: watch.sent.append((moment, data))
        side.start()
        connected(linac, side)
        session = linac.start_session(make_session(sizes.latency_seconds * 2))
        wait_until(session.started.is_set, 5, "no session began")
        pids = side.pids()
        before, first = _cpu(pids), len(watch.sent)
        until = time.monotonic() + sizes.latency_seconds
        while time.monotonic() < until:
            watch.look()
            time.sleep(0.0002)
        after, last = _cpu(pids), len(watch.sent)
        found.used = {what: Part(last - first, after[what] - before[what], 0) for what in after}
        found.latency_ms, found.memory = watch.latencies_ms(first), _memory(pids)
    return found


def _at_pace(found: dict[str, Found], setting: Setting) -> Iterator[Row]:
    ours, peer = found["ours"], found.get("peer")
    n = len(ours.latency_ms)
    yield Row(
        "message sent to message on disk, 4 a second, median",
        statistics.median(ours.latency_ms),
        "ms",
        statistics.median(peer.latency_ms) if peer and peer.latency_ms else None,
        n=n,
        limit=LATENCY_MS,
    )
    yield Row("the same, 95 % are faster than", _p95(ours.latency_ms), "ms", _p95(peer.latency_ms) if peer else None, n=n)
    yield from _costs("at 4 messages a second", found, None)
    yield from _held("at 4 messages a second", ours, peer)
    setting.note(
        "On disk: ours in the journal, PyMedPhys's in `live/`; a look at the file every 0.2 ms, from outside. PyMedPhys writes a "
        "message when the next one arrives."
    )
    setting.note(
        "At 4 messages a second, 1000 messages are 250 s: our seconds are then mostly waking up for each message, the status "
        "file and the sync of every second, and the archiver, which looks four times a second and writes `live/`."
    )


def _costs(when: str, found: dict[str, Found], limit: Limit | None) -> Iterator[Row]:
    ours, peer = found["ours"], found.get("peer")
    listener = ours.of("listener", "seconds_per_1000")
    if listener is None:
        return
    theirs = peer.total("seconds_per_1000") if peer else None
    n = ours.used["listener"].messages
    yield Row(f"seconds of a core for 1000 messages, {when}: listener", listener, "s", theirs, n=n, limit=limit)
    yield Row(f"the same, {when}: listener and archiver", ours.total("seconds_per_1000"), "s", theirs, n=n)


def _held(when: str, ours: Found, peer: Found | None) -> Iterator[Row]:
    for process, held in ours.memory.items():
        theirs = peer.memory.get("listener") if peer else None
        yield Row(f"memory {when}: {process}", held / 1e6, "MB", theirs / 1e6 if theirs else None)


def _p95(values: list[float]) -> float | None:
    return sorted(values)[int(len(values) * 0.95)] if values else None


# As fast as it goes, then a long session's end.


def flood_trial(setting: Setting, sizes: Sizes, name: str, kind: Kind) -> Found:
    """A long session as fast as the listener takes it; then 4 messages a second while the session is archived."""
    setting.say(f"{name}: a session of {sizes.session_seconds / 60:.0f} minutes as fast as possible, then its archiving")
    found = Found()
    with (
        loopback_linac(speed=AS_FAST_AS_POSSIBLE) as linac,
        kind(setting.work / f"flood-{name}", linac.address) as side,
    ):
        linac.pace = 0.25
        side.start()
        connected(linac, side)
        wait_until(lambda: linac.messages_sent >= 4, 10, "no messages were sent")
        pids, [client] = side.pids(), linac.clients
        session = make_session(sizes.session_seconds)
        marks: dict[int, tuple[dict[str, float], dict[str, int]]] = {}

        def look(at: int) -> None:
            _settle(pids)
            marks[at] = (_cpu(pids), _memory(pids))

        def mark(at: int, _linac: SimulatedLinac) -> None:
            linac.hold = partial(look, at)

        def slow_down(_linac: SimulatedLinac) -> None:
            linac.pace = 0.25
            client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)

        sent = [0]

        def count(_moment: int, data: bytes) -> None:
            sent[0] += len(data)

        def keep_up(_linac: SimulatedLinac) -> None:
            linac.hold = partial(_journal_keeps_up, side, sent)

        linac.on_send = count
        total = sum(1 for _ in moments(session, linac.rate_hz))
        first, last = total // 6, total * 5 // 6
        session.events = dict.fromkeys(range(WAIT_MESSAGES, total, WAIT_MESSAGES), keep_up)
        session.events |= {at: partial(mark, at) for at in (first, last)}
        session.events |= {total - SLOW_MESSAGES: slow_down, total - 1: lambda _linac: linac.forget_sends()}
        linac.start_session(session)
        linac.pace = 0.0
        wait_until(session.ended.is_set, sizes.flood_bound, "the session did not end")
        ended = time.monotonic()
        if first in marks and last in marks:
            (cpu_0, memory_0), (cpu_1, memory_1) = marks[first], marks[last]
            found.used = {what: Part(last - first, cpu_1[what] - cpu_0[what], memory_1[what] - memory_0[what]) for what in cpu_1}
            found.memory = memory_1
        bound = ended + sizes.archive_bound
        looked: set[tuple[Path, int]] = set()
        content = hashlib.sha256(b"".join(session.raw)).digest()
        while found.archived_after is None and time.monotonic() < bound:
            time.sleep(0.1)
            if _has_file(side, content, looked):
                found.archived_after = time.monotonic() - ended
        time.sleep(MARGIN_SECONDS)
        found.blocked, found.still_blocked = client.longest_send_seconds, client.waiting > 1
        if found.archived_after is None:
            setting.say(f"{name}: archived so far: {kept(side, [session])}")
    return found


def _flooded(found: dict[str, Found], setting: Setting, sizes: Sizes) -> Iterator[Row]:
    ours, peer = found["ours"], found.get("peer")
    yield from _costs("as fast as it goes", found, SECONDS_PER_1000)
    for process, part in ours.used.items():
        theirs = peer.of("listener", "mb_per_1000") if peer else None
        name = f"memory grows for 1000 messages of a session: {process}"
        yield Row(name, part.mb_per_1000, "MB", theirs, n=part.messages)
    yield from _held("after that", ours, peer)
    minutes = f"{sizes.session_seconds / 60:.0f} minutes"
    yield blocked_row(f"longest blocked send of the linac while a session of {minutes} is archived", ours, peer)
    yield Row(
        "from the session's end to its file, whole",
        _seconds(ours.archived_after, sizes.archive_bound),
        "s",
        _seconds(peer.archived_after, sizes.archive_bound) if peer else None,
    )
    setting.note(
        f"The linac's SO_SNDBUF is {SMALL_BUFFER} bytes, less than a message: a listener that does not read at once holds up the "
        'linac. The system\'s receive buffer still takes a few messages. "Still" means: blocked when the trial ended.'
    )


def blocked_row(name: str, ours: Found, peer: Found | None, floor: Found | None = None) -> Row:
    """How long a send of the linac was blocked."""
    least = 1000 * floor.blocked if floor else None
    return Row(name, 1000 * ours.blocked, "ms", _blocked(peer) if peer else None, least, limit=BLOCKED_MS)


def _blocked(found: Found) -> float | str:
    milliseconds = 1000 * found.blocked
    return f"> {milliseconds:,.0f} (still)" if found.still_blocked else milliseconds


def _seconds(value: float | None, bound: float) -> float | str:
    return value if value is not None else f"> {bound:.0f}"


# A share that does not answer.


def share_trial(setting: Setting, sizes: Sizes, order: str, name: str, kind: Kind) -> Found:
    """A session at 4 messages a second while the share hangs or is slow: how long the linac's sends are blocked."""
    found = Found()
    work = setting.work / f"{order.split()[0]}-{name}"
    with loopback_linac(send_buffer=SMALL_BUFFER) as linac, kind(work, linac.address, share=True) as side:
        side.start()
        connected(linac, side)
        linac.start_session(make_session(2 * sizes.hang_seconds + 60))
        time.sleep(3)
        side.behave(order)
        time.sleep(sizes.hang_seconds)
        [client] = linac.clients
        found.blocked, found.still_blocked = client.longest_send_seconds, client.waiting > 1
    return found


def _shares(setting: Setting, sizes: Sizes, kinds: list[tuple[str, Kind]]) -> Iterator[Row]:
    setting.say("shares that hang or are slow")
    orders = {"hang": "hangs", "slow 2": "takes 2 s for each operation"}
    running = {
        (order, name): InThread(partial(share_trial, setting, sizes, order, name, kind))
        for order in orders
        for name, kind in [*kinds, ("floor", Sink)]
    }
    results = {key: trial.result() for key, trial in running.items()}
    for order, what in orders.items():
        name = f"longest blocked send of the linac while the share {what}, {sizes.hang_seconds:.0f} s"
        yield blocked_row(name, results[order, "ours"], results.get((order, "peer")), results[order, "floor"])
    setting.note(
        "Floor: a program that only reads and throws away, with a linac of its own at the same time. Its linac, too, waits until "
        "the system lets it and the reader run."
    )
    setting.note(
        "The share's trouble is made in the listening process by an audit hook of Python, the same for both: each opening, "
        "making, listing, renaming or removing of a file in the iCom folder first waits, or fails where the share is read-only."
    )


# Faults.


def _faults(setting: Setting, sizes: Sizes, kinds: list[tuple[str, Kind]]) -> Iterator[Row]:
    setting.say(f"faults: {', '.join(sizes.faults)}")
    trials = [
        Trial(fault, FAULTS[fault], name, kind, setting.work / f"fault-{number}-{name}", sizes.fault_bound)
        for number, fault in enumerate(sizes.faults)
        for name, kind in kinds
        if name == "ours" or not FAULTS[fault].ours_only
    ]
    outcomes = run_trials(trials, sizes.at_once)
    lost: dict[str, list[Outcome]] = {name: [] for name, _ in kinds}
    for fault in sizes.faults:
        ours, peer = outcomes[fault, "ours"], outcomes.get((fault, "peer"))
        yield Row(f"{fault}: messages archived", str(ours.kept), "", str(peer.kept) if peer else None)
        if FAULTS[fault].breaks or any(one and one.again is not None for one in (ours, peer)):
            yield Row(
                f"{fault}: connected again after",
                _again(ours, sizes.fault_bound),
                "s",
                _again(peer, sizes.fault_bound) if peer else None,
            )
        for name in lost:
            if ((fault, name) in outcomes and (fault, "peer") in outcomes) or name == "ours":
                lost[name].append(outcomes[fault, name])
    yield Row(
        "messages sent but not archived under their patient, all faults together",
        sum(one.kept.sent - one.kept.right for one in lost["ours"]),
        "",
        sum(one.kept.sent - one.kept.right for one in lost["peer"]) if lost.get("peer") else None,
        n=len(lost["ours"]),
        limit=NO_LOSS,
    )
    setting.note(
        f"Faults: two patients, ten times as fast as real, the fault in the first one's session; {sizes.fault_bound:.0f} s from "
        'then on, that is all. "n of m": messages of the sessions archived under their patient, of those that the linac could '
        "hand to the network. A killed process's linac says nothing more until it sees the connection end."
    )


def _again(outcome: Outcome, bound: float) -> float | str:
    if not outcome.ended:
        return "stayed"
    return outcome.again if outcome.again is not None else f"> {bound:.0f}"


# Helpers.


def connected(linac: MeasuredLinac, side: Side) -> None:
    """Wait until the listener is connected, and settled."""
    wait_until(lambda: linac.client_stays(0.5), 30, f"{side.name} did not connect; see {side.work / 'log'}")


def _cpu(pids: dict[str, int]) -> dict[str, float]:
    return {what: cpu_seconds(pid) for what, pid in pids.items()} if CAN_TELL else {}


def _memory(pids: dict[str, int]) -> dict[str, int]:
    return {what: memory_bytes(pid) for what, pid in pids.items()} if CAN_TELL else {}


def _has_file(side: Side, content: bytes, looked: set[tuple[Path, int]]) -> bool:
    """Whether a file with this content (its hash) is archived. Cheap: the linac, in this process, is not to be disturbed."""
    for path in (side.root / "patients").glob("*/*.xz"):
        with contextlib.suppress(OSError, EOFError, lzma.LZMAError):
            here = (path, path.stat().st_size)
            if here not in looked:
                looked.add(here)
                if hashlib.sha256(lzma.decompress(path.read_bytes())).digest() == content:
                    return True
    return False


def _journal_keeps_up(side: Side, sent: list[int]) -> None:
    """Wait until our journal has what was sent: hundreds of times faster than real, a disk that pauses for half a second would
    fill the listener's queue, which never holds the linac up but drops."""
    if isinstance(side, Ours):
        folder = Spool(side.spool, SERIAL).journal
        wait_until(lambda: journal.size(folder) >= sent[0], SETTLE_SECONDS, every=0.002)


def _settle(pids: dict[str, int]) -> None:
    """Wait until a listener has worked off what was sent: it hardly uses its core any more."""
    quiet, until, before = 0, time.monotonic() + SETTLE_SECONDS, sum(_cpu(pids).values())
    while quiet < 3 and time.monotonic() < until:
        time.sleep(0.1)
        now = sum(_cpu(pids).values())
        quiet, before = (quiet + 1 if now - before < 0.01 else 0), now
