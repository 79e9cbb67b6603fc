"""The records share hangs for ten minutes while patients are treated: is the linac held up, is anything lost?"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from launch.bench import Limit, Row, Setting
from launch.bench_capture import BLOCKED_MS, SMALL_BUFFER, Found, Kind, blocked_row, connected
from launch.bench_capture_sides import (
    SERIAL,
    InThread,
    Ours,
    Peer,
    Sink,
    Untaken,
    all_archived,
    go_ahead,
    kept,
    loopback_linac,
    wait_until,
)
from linac.capture import control
from linac.simulator import Beam, Session

TITLE = "A records share that hangs"

NO_LOSS = Limit(0)
QUICK_SECONDS = 40.0
BEFORE_SECONDS = 3.0
TREATMENT_SECONDS = 100.0
DRAIN_SECONDS = 60.0


@dataclass
class Hung(Found):
    """What one side reached. `sent`: messages of sessions sent; `right`: of those archived in the end; `waiting`: sessions whose
    end came while the share hung; `drained`: seconds from the share's return until they were archived, None if they were not;
    `untaken`: see `Untaken`."""

    sent: int = 0
    right: int = 0
    waiting: int = 0
    drained: float | None = None
    losses: int = 0
    untaken: float | None = None


def measure(setting: Setting) -> Iterator[Row]:
    """Both sides at once, each with a linac of its own, for `setting.minutes`."""
    seconds = QUICK_SECONDS if setting.quick else setting.minutes * 60
    kinds: list[tuple[str, Kind]] = [("ours", Ours)]
    if setting.peer is not None:
        kinds.append(("peer", partial(Peer, python=setting.peer)))
    kinds.append(("floor", Sink))
    setting.say(f"the share hangs for {seconds:.0f} s")
    go_ahead()
    running = {name: InThread(partial(hang_trial, setting, seconds, name, kind)) for name, kind in kinds}
    found: dict[str, Hung] = {name: trial.result() for name, trial in running.items()}
    ours, peer = found["ours"], found.get("peer")
    name = f"longest blocked send of the linac while the share hangs, {seconds:.0f} s"
    yield blocked_row(name, ours, peer, found["floor"])
    if ours.untaken is not None:
        name = "the same as the linac's system counts it: bytes that the listener's had not taken"
        theirs, floor = [1000 * (one.untaken or 0.0) if one else None for one in (peer, found["floor"])]
        yield Row(name, 1000 * ours.untaken, "ms", theirs, floor, limit=BLOCKED_MS)
    yield Row("messages of patients sent in that time", ours.sent, peer=peer.sent if peer else None)
    yield Row("times that the connection was lost, or bytes dropped", ours.losses, limit=NO_LOSS)
    yield Row("sessions that ended while the share hung", ours.waiting)
    drained = ours.drained if ours.drained is not None else f"> {DRAIN_SECONDS:.0f}"
    yield Row("from the share's return until all of these are archived", drained, "s")
    yield Row("messages of these sessions not archived", ours.sent - ours.right, limit=NO_LOSS)
    setting.note(
        f"The linac's SO_SNDBUF is {SMALL_BUFFER} bytes, less than a message, and it sends 4 messages a second. Treatments of "
        f"{TREATMENT_SECONDS:.0f} s follow each other. How the share is made to hang: see the table of `bench capture`. A "
        "linac that is held up sends less. The linacs have the processor before others where the system allows it: a real one "
        "has its own. Floor: a program that only reads and throws away, with a linac of its own at the same time. As the "
        "linac's system counts it (Linux, tcpi_busy_time): without the time in which the linac's program did not get to run."
    )


def hang_trial(setting: Setting, seconds: float, name: str, kind: Kind) -> Hung:
    """Treat patients one after the other while the share hangs; then let it answer again."""
    found = Hung()
    work = setting.work / f"hang-{name}"
    with loopback_linac(send_buffer=SMALL_BUFFER) as linac, kind(work, linac.address, share=True) as side:
        side.start()
        connected(linac, side)
        sessions: list[Session] = []
        began = time.monotonic()
        linac.forget_sends()
        untaken = Untaken(linac.clients[0])
        while (past := time.monotonic() - began - BEFORE_SECONDS) < seconds:
            if past >= 0:
                side.behave("hang")
            if not sessions or sessions[-1].ended.is_set():
                sessions.append(linac.start_session(_treatment(len(sessions), min(TREATMENT_SECONDS, seconds / 3))))
            time.sleep(0.5)
            untaken.look()
        [client] = linac.clients
        found.blocked, found.still_blocked = client.longest_send_seconds, client.waiting > 1
        found.untaken = untaken.longest
        ended = [session for session in sessions if session.ended.is_set()]
        found.waiting = len(ended)
        side.behave()
        returned = time.monotonic()
        if isinstance(side, Ours):
            if wait_until(lambda: all_archived(side, ended), DRAIN_SECONDS, every=0.2):
                found.drained = time.monotonic() - returned
            status = control.status(side.spool, SERIAL)
            found.losses = status.gaps if status is not None else 0
        now = kept(side, ended)
        found.sent, found.right = (now.sent, now.right) if ended else (sum(session.sent for session in sessions), 0)
    return found


def _treatment(number: int, seconds: float) -> Session:
    """One beam; turning the gantry and the like takes some ten seconds of it."""
    beam = Beam("1-1", "Prostate", round(max(seconds - 10, 3) * 40 / 60, 1), 0.0, 24.0, dose_rate=40.0)
    return Session(f"TEST-{number:04}", "Simulated^Patient", [beam])
