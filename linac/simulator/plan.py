"""Who is treated, and how: invented patients and their beams.

Everything follows from seeds, so that the same call always makes the same treatment. Nobody here exists.
"""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

LEAF_PAIRS = 80

PATIENTS = (
    ("TEST-0001", "Simulated^Patient"),
    ("TEST-00002", "Invented^Müller"),
    ("TEST-03", "Nobody^At All"),
    ("TEST-0004", "Exists^Not/Jörg"),
)
"""ID and name. The second has an ID of 10 characters and an umlaut, which today's tools lose."""

NAMES = ("Prostate", "DIR SCALP", "Lunge rechts", "Schädel", "Boost/AP", "Brust links außen", "HWS", "Whole pelvis with nodes")
"""Field names: plain, with umlauts, with a slash."""


class Position(NamedTuple):
    """Where everything stands. Angles in degrees (-180..180), lengths in mm. Leaves and jaws: open is positive on both sides."""

    gantry: float
    collimator: float
    bank_1: tuple[float, ...]
    bank_2: tuple[float, ...]
    jaws: tuple[float, float]


@dataclass(frozen=True)
class Beam:
    """A beam: an arc if its gantry moves. `mu` in MU, `dose_rate` in MU/min, `interrupted_at` a fraction of the MU, or None.

    `segments` greater than 1 makes it step and shoot: leaves move between the segments and stand while the beam is on.
    """

    label: str
    name: str
    mu: float
    gantry_from: float
    gantry_to: float
    collimator: float = 0.0
    energy: str = "6 MV"
    dose_rate: float = 600.0
    interrupted_at: float | None = None
    segments: int = 1
    phase: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of radiation at the full dose rate."""
        return self.mu / self.dose_rate * 60

    def at(self, fraction: float) -> Position:
        """Where everything stands when this fraction (0..1) of the MU is delivered."""
        if self.segments > 1:
            fraction = min(int(fraction * self.segments), self.segments - 1) / self.segments
        gantry = self.gantry_from + (self.gantry_to - self.gantry_from) * fraction
        bank_1, bank_2 = [], []
        turn = 2 * math.pi * (self.phase + 2 * fraction)
        for leaf in range(LEAF_PAIRS):
            inside = abs(leaf - (LEAF_PAIRS - 1) / 2) < 16
            centre = 22 * math.sin(turn + leaf / 9)
            half = 14 + 9 * math.cos(1.7 * turn + leaf / 5) if inside else 0.3
            bank_1.append(half - centre)
            bank_2.append(half + centre)
        jaw = 62 + 8 * math.sin(turn / 2)
        return Position(gantry, self.collimator, tuple(bank_1), tuple(bank_2), (jaw, jaw - 4))


def make_beams(count: int, seed: str | int = 1, mu: float | None = None) -> list[Beam]:
    """Beams of one session: arcs to and fro, every third a step-and-shoot field, every second interrupted once.

    `mu` sets what each delivers; else it is drawn between 60 and 300 MU.
    """
    rng = random.Random(f"beams {seed}")  # noqa: S311 (a treatment that never happens)
    beams = []
    for number in range(count):
        there = rng.choice([-178.0, -150.0, -120.0])
        back = -there - rng.choice([0.0, 15.0, 40.0])
        static = number % 3 == 2
        beams.append(
            Beam(
                label=f"1-{number + 1}",
                name=rng.choice(NAMES),
                mu=mu if mu is not None else round(rng.uniform(60, 300), 1),
                gantry_from=there if number % 2 == 0 else back,
                gantry_to=(there if number % 2 == 0 else back) if static else (back if number % 2 == 0 else there),
                collimator=rng.choice([0.0, 5.0, 10.0, -5.0]),
                energy=rng.choice(["6 MV", "6 MV FFF", "10 MV"]),
                dose_rate=rng.choice([360.0, 480.0, 600.0]),
                interrupted_at=round(rng.uniform(0.3, 0.7), 2) if number % 2 == 1 else None,
                segments=4 if static else 1,
                phase=rng.random(),
            )
        )
    return beams
