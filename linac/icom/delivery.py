"""What was delivered: control points and monitor units, from the messages of a session.

Two orientations occur. `Delivery` is in PyMedPhys's, so that its tools can go on with it; `iec_leaves_mm`, `iec_jaws_mm` and
`iec_angle_deg` turn a control point into IEC 61217 as DICOM writes it. All conversions of leaves and jaws are in this file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Self

from linac.icom.items import JAWS_Y
from linac.icom.message import Message

Pair = tuple[float, float]


@dataclass
class Delivery:
    """Control points, one per message, in PyMedPhys's orientation: equal to `pymedphys.Delivery.from_icom(...)`.

    `mu`: monitor units since the first message; a step down (the next beam) counts as none. `gantry_deg`, `collimator_deg`: as
    the linac sends them. `mlc_mm`: 80 pairs per control point; pairs reversed and swapped, second bank negated, so that open is
    positive on both sides. `jaws_mm`: two per control point, ASYMY reversed, open is positive. Source: PyMedPhys 0.41,
    `_icom/delivery.py`.

    `messages` are those that the control points come from; `left_out` counts messages without a meterset, an angle, 160 leaves or
    the Y jaws, of which no control point can be made (PyMedPhys fails on the whole session then).
    """

    mu: list[float] = field(default_factory=list)
    gantry_deg: list[float] = field(default_factory=list)
    collimator_deg: list[float] = field(default_factory=list)
    mlc_mm: list[list[Pair]] = field(default_factory=list)
    jaws_mm: list[Pair] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list, repr=False)
    left_out: int = 0

    @classmethod
    def from_messages(cls, messages: Iterable[Message], *, only_moving_mu: bool = True) -> Self:
        """Control points of a session.

        `only_moving_mu` keeps those next to which MU were delivered, as PyMedPhys does; without it every message has one.
        """
        delivery = cls()
        readings: list[float] = []
        for message in messages:
            meterset, gantry, collimator = (message.number(name) for name in ("Delivery MU", "Gantry", "Collimator"))
            leaves, jaws = message.leaves_cm, message.positions(JAWS_Y)
            if meterset is None or gantry is None or collimator is None or leaves is None or jaws is None or len(jaws) != 2:
                delivery.left_out += 1
                continue
            readings.append(meterset)
            delivery.gantry_deg.append(gantry)
            delivery.collimator_deg.append(collimator)
            delivery.mlc_mm.append(_mlc_mm(leaves))
            delivery.jaws_mm.append((_mm(jaws[1]), _mm(jaws[0])))
            delivery.messages.append(message)
        delivery.mu = _cumulated(readings)
        return delivery._keep(_moving(delivery.mu)) if only_moving_mu else delivery

    @property
    def delivered_mu(self) -> float:
        """Monitor units from the first control point to the last."""
        return self.mu[-1] if self.mu else 0.0

    def _keep(self, kept: list[int]) -> Self:
        return type(self)(
            mu=[self.mu[i] for i in kept],
            gantry_deg=[self.gantry_deg[i] for i in kept],
            collimator_deg=[self.collimator_deg[i] for i in kept],
            mlc_mm=[self.mlc_mm[i] for i in kept],
            jaws_mm=[self.jaws_mm[i] for i in kept],
            messages=[self.messages[i] for i in kept],
            left_out=self.left_out,
        )


def delivered_mu(messages: Iterable[Message]) -> float:
    """The monitor units delivered in the messages: the sum of the positive steps of `Delivery MU`.

    Messages without a meterset are passed over, so a gap in the record does not change the sum (unless a beam ended within it).
    """
    readings = [mu for message in messages if (mu := message.number("Delivery MU")) is not None]
    return _cumulated(readings)[-1] if readings else 0.0


def iec_leaves_mm(mlc_mm: Sequence[Pair]) -> list[float]:
    """160 leaf positions in mm as DICOM has them (bank X1, then X2, IEC 61217), from one control point's pairs.

    Source: PyMedPhys's DICOM export (`mlc_dd2dcm`).
    """
    return [-b for _, b in reversed(mlc_mm)] + [a for a, _ in reversed(mlc_mm)]


def iec_jaws_mm(jaws_mm: Pair) -> Pair:
    """Y1 and Y2 in mm in IEC 61217, from one control point's jaws. Source: PyMedPhys's DICOM export (`jaw_dd2dcm`)."""
    return -jaws_mm[1], jaws_mm[0]


def iec_angle_deg(angle: float) -> float:
    """An angle from 0 up to 360 degrees, as IEC 61217 has it, from one that goes from -180 to 180."""
    return angle % 360.0


def _cumulated(readings: Sequence[float]) -> list[float]:
    """Running sum of the positive steps. The order of additions is numpy's `cumsum`, so that the last digits agree, too."""
    if not readings:
        return []
    return list(accumulate((max(after - before, 0.0) for before, after in pairwise(readings)), initial=0.0))


def _moving(mu: list[float]) -> list[int]:
    """Indices of the control points with MU delivered just before or after (PyMedPhys's `remove_irrelevant_control_points`)."""
    if len(mu) < 2:
        return list(range(len(mu)))
    moves = [after != before for before, after in pairwise(mu)]
    return [i for i, near in enumerate(zip([False, *moves], [*moves, False], strict=True)) if any(near)]


@lru_cache(maxsize=1 << 14)  # positions have two decimals, so few values return again and again
def _mm(position_cm: float) -> float:
    """Centimetres to millimetres, rounded to 10 decimals in the way numpy rounds, so that equal stays equal."""
    return round(position_cm * 10 * 1e10) / 1e10


def _mlc_mm(leaves_cm: Sequence[float]) -> list[Pair]:
    mm = list(map(_mm, reversed(leaves_cm)))
    return [(second, -first) for second, first in zip(mm[::2], mm[1::2], strict=True)]
