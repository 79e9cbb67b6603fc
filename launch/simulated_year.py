"""A year of three simulated linacs in a records folder, with the things in it that physicists look for.

Nobody was treated. Leaf 34 of bank Y1 of linac 4299 gets worse until its motor is changed in September; linac 2694 has a bad
early summer; patient TEST-0001 has a course of two arcs in March, one of which ends in a fault one day and is finished after it.
The same call makes the same year. It is what the pictures in docs/ are drawn from, see `launch.pictures`.
"""

import lzma
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from linac.index import Index, Log
from linac.index.icom import add_session
from linac.simulator import PATIENTS, Beam, Session, make_beams
from linac.simulator.logs import CHECKING, TERMINATED_OK, make_counts
from linac.simulator.messages import make_message
from linac.simulator.session import moments
from linac.transport import Folder, connect
from linac.trf.item_parts import STANDARD_PARTS
from linac.trf.writer import encode

YEAR = 2025
LINACS = {"4299": 0.010, "2694": 0.014, "5512": 0.008}
"""Serials, and the share of their deliveries that end in a fault in an ordinary month."""

WORST_LINAC, WORST_LEAF, MOTOR_CHANGED = "4299", 34, date(YEAR, 9, 15)
BAD_LINAC, BAD_MONTHS, BAD_SHARE = "2694", (5, 6), 0.09

COURSE_LINAC, COURSE_BEGINS, FRACTIONS, FAULT_IN = "4299", date(YEAR, 3, 3), 20, 9
PATIENT_ID, PATIENT_NAME = PATIENTS[0]
ARCS = (
    Beam("1-1", "Prostate", 182.4, -178.0, 178.0, collimator=5.0, interrupted_at=0.45),
    Beam("1-2", "Prostate", 156.1, 178.0, -178.0, collimator=-5.0),
)

OFFSET = timedelta(hours=1)
TERMINATED_FAULT = 47
KINDS = 12
"""Different beams that a linac delivers, apart from those of the course."""

_COLUMNS = {(part.part, part.subpart): number for number, part in enumerate(STANDARD_PARTS)}
_STATE = _COLUMNS[2543, 111]
_ERRORS = {bank: [_COLUMNS[first + leaf, 220] for leaf in range(1, 81)] for bank, first in (("Y2", 2379), ("Y1", 2459))}


def build(records: Path, *, days: int = 365, per_day: int = 4) -> int:
    """Make the first `days` days of the year below `records`, which is made; how many deliveries there are.

    Each linac delivers about `per_day` fields on each weekday, more or less, besides the course.
    """
    with connect(records).make_root() as folder:
        index = Index(folder)
        for serial in LINACS:
            index.add(serial, _logs(serial, days, per_day))
        for day, beams in _course(days):
            _record(folder, day, beams)
        return len(index.deliveries(columns=["sha256"]))


def _weekdays(days: int) -> Iterator[date]:
    for number in range(days):
        day = date(YEAR, 1, 1) + timedelta(days=number)
        if day.weekday() < 5:
            yield day


def _logs(serial: str, days: int, per_day: int) -> Iterator[Log]:
    course = dict(_course(days)) if serial == COURSE_LINAC else {}
    for day in _weekdays(days):
        rng = np.random.default_rng([int(serial), day.toordinal()])
        start = datetime.combine(day, time(8), UTC) - OFFSET
        for _ in range(max(1, round(per_day + rng.normal(0, per_day / 6)))):
            start += timedelta(minutes=float(rng.uniform(9, 40)))
            kind = int(rng.integers(KINDS))
            bad = serial == BAD_LINAC and day.month in BAD_MONTHS
            fault = rng.random() < (BAD_SHARE if bad else LINACS[serial])
            yield _log(serial, _kinds(serial)[kind], start, rng, fault=fault)
        for start, beam, fault in _times(day, course.get(day, [])):
            yield _log(serial, beam, start, rng, fault=fault, cut=False)


@lru_cache
def _kinds(serial: str) -> tuple[Beam, ...]:
    return tuple(replace(beam, interrupted_at=None) for beam in make_beams(KINDS, f"year {serial}"))


@lru_cache(maxsize=64)
def _counts(beam: Beam) -> Any:
    return make_counts(beam)


def _log(serial: str, beam: Beam, start: datetime, rng: np.random.Generator, *, fault: bool, cut: bool = True) -> Log:
    counts = _counts(beam).copy()
    if fault and cut:
        counts = counts[: max(50, int(len(counts) * rng.uniform(0.2, 0.9)))]
        counts[-40:, _STATE] = CHECKING
    counts[-10:, _STATE] = TERMINATED_FAULT if fault else TERMINATED_OK
    day = start.date()
    for bank, columns in _ERRORS.items():
        counts[:, columns] = np.rint(rng.normal(0, 1.1 + 0.1 * (bank == "Y2"), (len(counts), 80)))
    if serial == WORST_LINAC:
        spread = _spread_mm(day) * 10 * rng.uniform(0.85, 1.15)
        counts[:, _ERRORS["Y1"][WORST_LEAF - 1]] = np.rint(rng.normal(0, spread, len(counts)))
    data = encode(
        counts,
        None,
        start=start.replace(microsecond=0),
        utc_offset="+01:00",
        field=f"{beam.label}/{beam.name}",
        machine=serial,
        prescribed_mu=beam.mu,
    )
    return Log(f"{start:%y_%m_%d %H_%M_%S} Z {beam.label}.trf", data, f"SDD+{serial}+{day:%Y%m%d}_020000.zip")


def _spread_mm(day: date) -> float:
    """How far the failing leaf is off, in mm: a slow beginning, then faster, until its motor is changed."""
    if day >= MOTOR_CHANGED:
        return 0.11
    return 0.12 + 0.75 * math.exp((day - MOTOR_CHANGED).days / 60)


def _course(days: int) -> Iterator[tuple[date, list[tuple[Beam, bool]]]]:
    """The days of the course, and its beams: whether each ends in a fault."""
    fractions = [day for day in _weekdays(days) if day >= COURSE_BEGINS][:FRACTIONS]
    for number, day in enumerate(fractions, start=1):
        first, second = replace(ARCS[0], interrupted_at=0.45 if number % 7 == 3 else None), ARCS[1]
        if number == FAULT_IN:
            part = round(second.mu * 0.4, 1)
            turned = second.gantry_from + (second.gantry_to - second.gantry_from) * 0.4
            rest = replace(second, mu=round(second.mu - part, 1), gantry_from=turned)
            yield day, [(first, False), (replace(second, mu=part, gantry_to=turned), True), (rest, False)]
        else:
            yield day, [(first, False), (second, False)]


def _times(day: date, beams: list[tuple[Beam, bool]]) -> Iterator[tuple[datetime, Beam, bool]]:
    """When the beams of a fraction are delivered (aware, UTC): the day's last patient; after a fault it takes 12 minutes."""
    start = datetime.combine(day, time(16, 30), UTC) - OFFSET + timedelta(minutes=day.day % 4)
    for beam, fault in beams:
        yield start, beam, fault
        start += timedelta(seconds=round(beam.seconds) + (720 if fault else 75))


def _record(records: Folder, day: date, beams: list[tuple[Beam, bool]]) -> None:
    """What iCom says of a fraction: a session for each beam, archived and in Parquet."""
    for start, beam, _ in _times(day, beams):
        local = (start + OFFSET).replace(tzinfo=None) + timedelta(seconds=40)  # two clocks of the linac
        session = Session(PATIENT_ID, PATIENT_NAME, beams=[beam])
        messages = [
            make_message(moment, local + timedelta(seconds=number / 4), number % 256, COURSE_LINAC)
            for number, moment in enumerate(moments(session, 4.0))
        ]
        data, stamp = lzma.compress(b"".join(messages), preset=0), f"{local:%Y%m%d_%H%M%S}"
        name = f"iCom/patients/{PATIENT_ID}_{PATIENT_NAME.replace('^', ', ')}/{stamp}.xz"
        records.write(name, data)
        add_session(records, COURSE_LINAC, name, data, stamp, arrived=(start, start + timedelta(seconds=len(messages) / 4)))
