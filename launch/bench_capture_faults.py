"""Faults while a patient is treated, and what becomes of the messages."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from launch.bench_capture_sides import Kept, MeasuredLinac, Ours, Side, all_archived, kept, loopback_linac, wait_until
from launch.bench_process import kill
from linac.simulator import FIN, Beam, Session, SimulatedLinac

SPEED = 10.0
FAULT_AT = 80
"""The fault comes just before this message of the first session: the beam is on by then."""

NOTICE_SECONDS = 2.0
RESTART_SECONDS = 1.0
"""So long after it was killed a listener is started again, as a service manager does."""

NO_FAULT = "none"
GARBAGE = bytes((n * 89 + 13) % 256 for n in range(300))

Act = Callable[["Running"], object]


@dataclass(frozen=True)
class Fault:
    """What happens. `act` is done just before a message of the first session, `later` just before the first of the second one.

    `breaks`: the connection ends by it. `killed`: processes are killed; then all is started again, unless `restart` is False.
    """

    act: Act = lambda _running: None
    later: Act = lambda _running: None
    breaks: bool = False
    killed: bool = False
    restart: bool = True
    ours_only: bool = False
    first: tuple[str, str] = ("TEST-0001", "Simulated Patient")
    second: tuple[str, str] = ("TEST-0004", "Nobody Else")
    idle_between: int = 8


def _kill_listener(running: "Running") -> None:
    if isinstance(running.side, Ours):
        kill(running.side.pids()["listener"])


FAULTS: dict[str, Fault] = {
    NO_FAULT: Fault(),
    "connection reset": Fault(lambda running: running.linac.reset(), breaks=True),
    "end of the connection (FIN)": Fault(lambda running: running.linac.hang_up(), breaks=True),
    "counter gap": Fault(lambda running: running.linac.jump(5)),
    "message repeated": Fault(lambda running: running.linac.repeat()),
    "message repeated with other data": Fault(lambda running: running.linac.repeat(changed=True)),
    "garbage between messages": Fault(lambda running: running.linac.garbage(GARBAGE)),
    "half a message, then FIN": Fault(lambda running: running.linac.half_message(FIN), breaks=True),
    "kill -9 of everything, started again": Fault(lambda running: running.side.kill(), breaks=True, killed=True),
    "kill -9 of the listener alone": Fault(_kill_listener, breaks=True, killed=True, restart=False, ours_only=True),
    "read-only share": Fault(lambda running: running.side.behave("readonly"), lambda running: running.side.behave()),
    "two patients without idle between": Fault(idle_between=0),
    "10-character ID": Fault(first=("TEST-00002", "Simulated Patient")),
    "umlaut in the name": Fault(first=("TEST-0005", "Müller Invented")),
}


@dataclass
class Running:
    """A trial that is going on. `at`: when the fault came (`time.monotonic`)."""

    linac: MeasuredLinac
    side: Side
    at: float = 0.0
    failed: BaseException | None = None
    came: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Outcome:
    """What became of a trial. `ended`: whether the connection did; `again`: seconds until there was another, None if none."""

    kept: Kept
    ended: bool
    again: float | None


@dataclass(frozen=True)
class Trial:
    """A fault and a side, in a folder of its own. `bound`: seconds from the fault until it is over."""

    fault_name: str
    fault: Fault
    side_name: str
    make: Callable[[Path, tuple[str, int]], Side]
    work: Path
    bound: float
    speed: float = SPEED

    def run(self) -> Outcome:
        """Raises `LinacError` where the listener does not even start."""
        with loopback_linac(speed=self.speed) as linac, self._side(linac) as side:
            running = Running(linac, side)
            side.start()
            wait_until(lambda: linac.client_stays(0.5), 60, f"{side.name} did not connect; see {side.work / 'log'}")
            first, second = self._sessions(running)
            linac.start_session(first)
            linac.start_session(second)
            wait_until(running.came.is_set, 60, "the fault did not come")
            if running.failed is not None:
                raise running.failed
            until = running.at + self.bound
            if self.fault.killed and self.fault.restart:
                time.sleep(RESTART_SECONDS)
                side.start()
            while time.monotonic() < until:
                time.sleep(0.2)
                if second.ended.is_set() and all_archived(side, (first, second)):
                    break
            lost = [client for client in linac.clients if client.ended_at is not None]
            later = [client.connected_at for client in linac.clients[1:]]
            again = later[0] - running.at if later else None
            return Outcome(kept(side, (first, second)), bool(lost), again)

    def _side(self, linac: MeasuredLinac) -> Side:
        side = self.make(self.work, linac.address)
        side.share = True
        return side

    def _sessions(self, running: Running) -> tuple[Session, Session]:
        def strike(_: SimulatedLinac) -> None:
            running.at = time.monotonic()
            try:
                self.fault.act(running)
                if self.fault.killed:  # until the linac sees that nobody is there: what it sent meanwhile, nobody could keep
                    wait_until(lambda: running.linac.clients[0].ending is not None, NOTICE_SECONDS)
            except BaseException as error:
                running.failed = error
            running.came.set()

        def relent(_: SimulatedLinac) -> None:
            self.fault.later(running)

        first = Session(*self.fault.first, [_beam(80.0)], events={FAULT_AT: strike}, idle_after=self.fault.idle_between)
        second = Session(*self.fault.second, [_beam(15.0)], events={0: relent}, idle_after=8)
        return first, second


def _beam(mu: float) -> Beam:
    """A beam that takes as many MU as given, in nearly as many half seconds."""
    return Beam("1-1", "Prostate", mu, 0.0, 18.0, dose_rate=100.0)


def run_trials(trials: Sequence[Trial], at_once: int) -> dict[tuple[str, str], Outcome]:
    """Run trials, several side by side; the outcomes by fault and side."""
    with ThreadPoolExecutor(at_once) as pool:
        running = {(trial.fault_name, trial.side_name): pool.submit(trial.run) for trial in trials}
        return {key: future.result() for key, future in running.items()}
