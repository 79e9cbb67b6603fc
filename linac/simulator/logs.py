"""Invented TRF logs of the beams in `plan`, with the machine's ways: states, interruptions, restarting doses, small errors."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from linac.simulator.plan import LEAF_PAIRS, Beam
from linac.trf.item_parts import NO_VALUE, STANDARD_PARTS, UNITY_PARTS, find
from linac.trf.reader import ROW_MS, ROW_SECONDS
from linac.trf.writer import encode

Numbers = npt.NDArray[np.float64]

INTERSEGMENT, RADIATION_ON, INTERRUPTED, INTERRUPTED_READY, CHECKING, TERMINATED_OK = 41, 42, 43, 44, 45, 46

WAIT_SECONDS, BETWEEN_SECONDS, STOPPED_SECONDS, READY_SECONDS, CHECK_SECONDS, END_SECONDS = 1.2, 1.2, 2.0, 1.0, 3.6, 0.4

RAMP_SECONDS = 0.8
"""Radiation needs so long to reach the full dose rate."""

ROW_CLOCK_AHEAD_MS = 8_500
"""The rows' clock and the header's are two clocks; real ones were minutes apart."""


@dataclass(frozen=True)
class Log:
    """A log as a file: its name, its bytes, and when its delivery began (aware, UTC)."""

    name: str
    data: bytes
    start: datetime


def make_log(beam: Beam, start: datetime, machine: str, *, version: int = 1, utc_offset: str = "+10:00", seed: int = 1) -> Log:
    """The TRF of one beam. `start` is aware. Deterministic. Names follow the samples: start, label, name, `.trf`."""
    counts = make_counts(beam, version=version, seed=seed)
    rng = np.random.default_rng([seed, len(counts)])
    first = round(start.timestamp() * 1000) + ROW_CLOCK_AHEAD_MS
    steps = rng.choice([ROW_MS - 1, ROW_MS, ROW_MS + 1], len(counts))
    stamps = None if version == 1 else first + np.concatenate([[0], np.cumsum(steps)[:-1]])
    field = f"{beam.label}/{beam.name}" if beam.label else beam.name
    data = encode(
        counts,
        stamps,
        start=start,
        utc_offset=utc_offset,
        field=field,
        machine=machine,
        prescribed_mu=beam.mu,
        version=version,
    )
    shown = "".join("_" if letter in '<>:"/\\|?*' else letter for letter in field)
    return Log(f"{start.astimezone(UTC):%y_%m_%d %H_%M_%S} Z {shown}.trf", data, start)


def make_counts(beam: Beam, *, version: int = 1, seed: int = 1) -> npt.NDArray[np.int32]:
    """The rows of one beam's log, in the vendor's scale: rows x item parts."""
    states, mu, segments = _timeline(beam)
    rng = np.random.default_rng(seed)
    rows = len(states)
    fractions = mu / beam.mu if beam.mu else np.zeros(rows)
    bank_1, bank_2, gantry, jaws = _motion(beam, fractions)
    rate = np.concatenate([[0.0], np.diff(mu)]) / ROW_SECONDS * 60
    restart = np.concatenate([[True], np.diff(segments) != 0])
    step_dose = mu - np.maximum.accumulate(np.where(restart, mu, 0.0)) if beam.segments > 1 else mu
    columns: dict[tuple[int, int], Any] = {
        (2240, 111): np.where(
            states == TERMINATED_OK, NO_VALUE, 1 + 2 * (segments - 1) if beam.segments > 1 else 1 + fractions * 90
        ),
        (2177, 100): {"6 MV": 1, "6 MV FFF": 2, "10 MV": 3}.get(beam.energy, 1),
        (2543, 111): states,
        (2542, 111): rate,
        (2238, 111): step_dose,
        (2162, 101): mu,
        (2541, 111): 2,
        (2224, 129): gantry,
        (2224, 220): _jitter(rng, rows, 0.1) * (beam.gantry_from != beam.gantry_to),
        (2225, 129): beam.collimator,
        (2227, 129): 87.5,
        (2228, 129): 5.0,
        (2229, 129): -6.1,
        (2060, 129): jaws[:, 0],
        (2061, 129): jaws[:, 1],
        (2064, 129): 49.9,
        (2065, 129): 50.1,
        (2420, 227): 1.0,
        (2500, 227): 1.0,
    }
    for leaf in range(LEAF_PAIRS):
        columns[2380 + leaf, 129] = bank_2[:, leaf]
        columns[2460 + leaf, 129] = bank_1[:, leaf]
        columns[2380 + leaf, 220] = _jitter(rng, rows, 0.1)
        columns[2460 + leaf, 220] = _jitter(rng, rows, 0.1)
    parts = UNITY_PARTS if version == 4 else STANDARD_PARTS
    counts = np.zeros((rows, len(parts)), np.int32)
    for number, part in enumerate(parts):
        value = columns.get((part.part, part.subpart))
        if value is not None:
            physical = np.broadcast_to(np.asarray(value, np.float64), rows)
            counts[:, number] = find(*part).to_counts(physical)
    return counts


def _timeline(beam: Beam) -> tuple[npt.NDArray[np.int64], Numbers, npt.NDArray[np.int64]]:
    """State, MU delivered since the beam's start, and number of the segment (from 1), row by row."""
    spans: list[tuple[int, float, float, int]] = []  # state, seconds, MU delivered in it, segment
    stops = sorted({round(beam.mu * n / beam.segments, 4) for n in range(beam.segments + 1)})
    for segment, (begin, end) in enumerate(pairwise(stops), start=1):
        spans.append((INTERSEGMENT, WAIT_SECONDS if segment == 1 else BETWEEN_SECONDS, 0.0, segment))
        stop = beam.mu * beam.interrupted_at if beam.interrupted_at is not None else -1.0
        parts = [stop - begin, end - stop] if begin < stop < end else [end - begin]
        for number, part in enumerate(parts):
            if number:
                spans += [(INTERRUPTED, STOPPED_SECONDS, 0.0, segment), (INTERRUPTED_READY, READY_SECONDS, 0.0, segment)]
            spans.append((RADIATION_ON, part / beam.dose_rate * 60 + RAMP_SECONDS / 2, part, segment))
    spans += [(CHECKING, CHECK_SECONDS, 0.0, beam.segments), (TERMINATED_OK, END_SECONDS, 0.0, beam.segments)]
    states, doses, segments = [], [np.zeros(0)], []
    for state, seconds, dose, segment in spans:
        rows = max(round(seconds / ROW_SECONDS), 1)
        shape = np.minimum((np.arange(rows) + 1) * ROW_SECONDS / RAMP_SECONDS, 1.0)
        states += [state] * rows
        segments += [segment] * rows
        doses.append(dose * shape / shape.sum())
    return np.array(states), np.cumsum(np.concatenate(doses)), np.array(segments)


def _motion(beam: Beam, fractions: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Leaves, gantry and jaws, row by row. Positions are computed at 200 places along the beam and drawn from the nearest."""
    places = [beam.at(n / 200) for n in range(201)]
    nearest = np.clip(np.rint(fractions * 200), 0, 200).astype(int)
    bank_1 = np.array([place.bank_1 for place in places])[nearest]
    bank_2 = np.array([place.bank_2 for place in places])[nearest]
    gantry = beam.gantry_from + (beam.gantry_to - beam.gantry_from) * fractions
    return bank_1, bank_2, gantry, np.array([place.jaws for place in places])[nearest]


def _jitter(rng: np.random.Generator, rows: int, size: float) -> Numbers:
    return rng.choice([-size, 0.0, 0.0, 0.0, size], rows)


def day_start(day: date) -> datetime:
    """When treatment begins on a day: 8:00 at a site 10 hours ahead of UTC. Aware."""
    return datetime.combine(day, time(8), UTC) - timedelta(hours=10)
