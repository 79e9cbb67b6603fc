"""A patient session as the machine lives it: one moment after the other, 4 a second."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from linac.simulator.plan import LEAF_PAIRS, PATIENTS, Beam, Position, make_beams

if TYPE_CHECKING:
    from linac.simulator.server import SimulatedLinac

GANTRY_SPEED = 6.0
"""Degrees per second, between beams."""

SETUP_SECONDS, HOLD_SECONDS, INTERRUPTED_SECONDS, RAMP_SECONDS = 3.0, 1.5, 3.0, 1.0

PARKED = Position(0.0, 0.0, (50.0,) * LEAF_PAIRS, (50.0,) * LEAF_PAIRS, (50.0, 50.0))
"""Where a linac without a patient stands."""


@dataclass
class Session:
    """A patient session, planned and then recorded. Give it to `SimulatedLinac.start_session`.

    Planned: `patient_id`, `patient_name` (empty: the item is there with no value; None: it is missing); `beams`; `name_every`
    shows the name only in every n-th message; `events` are done just before the session's n-th message (from 0), such as
    `{40: lambda linac: linac.reset()}`; `idle_after` so many idle messages follow, 0 for none before the next patient.

    Recorded: `messages` made, `sent` to a client in full, `delivered_mu` by the machine, `metersets` and `raw` of the messages
    made and not cut in half (`raw` only if the linac keeps them), and whether it has `started` and `ended`.
    """

    patient_id: str | bytes | None = PATIENTS[0][0]
    patient_name: str | bytes | None = PATIENTS[0][1]
    beams: list[Beam] = field(default_factory=lambda: make_beams(2))
    name_every: int = 1
    events: dict[int, "Callable[[SimulatedLinac], object]"] = field(default_factory=dict)
    idle_after: int = 4
    messages: int = 0
    sent: int = 0
    metersets: list[float] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def planned_mu(self) -> float:
        """The sum of the beams' MU: what is delivered once the session has ended."""
        return round(sum(beam.mu for beam in self.beams), 2)

    @property
    def delivered_mu(self) -> float:
        """MU delivered until now: the sum of the positive steps of what the messages said."""
        steps = (after - before for before, after in pairwise(self.metersets))
        return round(sum(max(step, 0.0) for step in steps), 2)


@dataclass(frozen=True)
class Moment:
    """What one message says. `beam` is None before the first one; MU are those of the current beam."""

    position: Position
    session: Session | None = None
    beam: Beam | None = None
    mu: float = 0.0
    segment: int = 0
    radiating: bool = False
    interlocks: tuple[str, ...] = ()
    beam_seconds: float = 0.0


IDLE = Moment(PARKED)


def moments(session: Session, rate_hz: float) -> Iterator[Moment]:
    """Every message of a session, from loading the patient to unloading."""
    step = 1 / rate_hz
    here = PARKED
    yield from [Moment(here, session)] * round(SETUP_SECONDS * rate_hz)
    for beam in session.beams:
        start = beam.at(0.0)
        way = (start.gantry - here.gantry) / GANTRY_SPEED
        ticks = max(round(abs(way) * rate_hz), round(SETUP_SECONDS * rate_hz))
        for tick in range(1, ticks + 1):
            gantry = here.gantry + (start.gantry - here.gantry) * tick / ticks
            yield Moment(start._replace(gantry=gantry), session, beam, interlocks=("Not ready",))
        yield from _radiate(session, beam, step)
        here = beam.at(1.0)
        done = Moment(here, session, beam, beam.mu, beam.segments, beam_seconds=beam.seconds)
        yield from [done] * max(round(HOLD_SECONDS * rate_hz), 1)


def _radiate(session: Session, beam: Beam, step: float) -> Iterator[Moment]:
    mu, seconds, interrupted = 0.0, 0.0, False
    while True:
        seconds += step
        mu = min(mu + beam.dose_rate / 60 * step * min(seconds / RAMP_SECONDS, 1.0), beam.mu)
        fraction = mu / beam.mu if beam.mu else 1.0
        moment = Moment(
            beam.at(fraction),
            session,
            beam,
            round(mu, 2),
            min(int(fraction * beam.segments) + 1, beam.segments),
            radiating=True,
            beam_seconds=seconds,
        )
        if fraction >= 1.0:
            return
        yield moment
        if beam.interrupted_at is not None and not interrupted and fraction >= beam.interrupted_at:
            interrupted = True
            for _ in range(max(round(INTERRUPTED_SECONDS / step), 1)):
                yield replace(moment, radiating=False, interlocks=("Interrupt", "Gantry"))
