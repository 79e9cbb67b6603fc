"""Which message of a session belongs to which beam, and what a beam came to. Values in, values out; no Parquet.

How beams are cut. A message says which field is loaded, which segment it is in and how many MU are delivered; where it says
the linac's state is not known. So, for the messages of a session in order, a new beam begins

- with the first message of another patient (recordings of PyMedPhys may hold two), once a field is loaded or MU grow;
- with the first message of another Field ID; with the fall of the MU (below) if the beam before never said its own;
- where Delivery MU fell, once it grows again: the fall begins the beam. A fall that no growth follows is the machine's reset
  after a beam, and belongs to it. Not so if in between the same Field ID is said and Segment is greater than when MU last grew:
  then the linac would seem to count MU by segment, and the beam goes on.

Messages before the first Field ID belong to no beam: the patient is being loaded. Where no Field ID comes before MU grow, nothing
tells them apart, and they are the first beam's. A message that does not say its field is the current beam's.

What is uncertain: that Delivery MU starts at 0 with each beam is how PyMedPhys uses it, not a specification. A beam that was
terminated and taken up again later counts as two if its MU start again, as one if they go on. After a gap in which one beam ended
and the next began under the same Field ID (or none), both count as one if the MU are higher after it than before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import fsum
from typing import NamedTuple

from linac.icom.message import Reading

JITTER_MU = 0.1
"""A fall of Delivery MU by less is no reset (assumed)."""

STILL_SECONDS = 2.0
"""MU that stand for so long within a segment, and go on, were interrupted. The linac's clock has whole seconds: it is 1 to 3."""

Said = Mapping[str, Reading]
"""What a message says: the values of `linac.icom.VALUES` by name."""


class Mark(NamedTuple):
    """What a message's header says: the linac's local time, whole seconds, and the counter."""

    timestamp: datetime
    counter: int


def number(said: Said, name: str) -> float | None:
    """A value that is a number, or None."""
    reading = said[name]
    return float(reading) if isinstance(reading, int | float) else None


def text(said: Said, name: str) -> str | None:
    """A value that is text, or None."""
    reading = said[name]
    return reading if isinstance(reading, str) else None


def mu_steps(said: Sequence[Said]) -> list[float]:
    """MU delivered since the message before that had them, for each message; 0 where they fell or are not said.

    No step leads from one patient to another.
    """
    steps, last, patient = [], None, None
    for one in said:
        mu, whose = number(one, "Delivery MU"), text(one, "Patient ID") or patient
        last, patient = (last if patient in (None, whose) else None), whose
        steps.append(max(mu - last, 0.0) if mu is not None and last is not None else 0.0)
        last = last if mu is None else mu
    return steps


def beam_numbers(said: Sequence[Said]) -> list[int | None]:
    """The beam that each message belongs to, from 1; None for those of no beam. The rule is at the top of this file."""
    cutter = _Cutter()
    for one, step in zip(said, mu_steps(said), strict=True):
        cutter.take(one, grew=step > 0)
    return cutter.numbers


@dataclass
class _Cutter:
    """The rule, message by message."""

    numbers: list[int | None] = field(default_factory=list)
    beams: int = 0
    open: bool = False  # whether a beam is going on
    since: int = 0  # while none is: the first message of this patient
    patient: str | None = None
    field_id: str | None = None
    mu: float | None = None
    grown: bool = False  # whether this beam has delivered anything
    segment: float | None = None  # when MU last grew
    fell_at: int | None = None  # where MU fell after that
    said_since: bool = False  # whether the field was said since then

    def take(self, said: Said, *, grew: bool) -> None:
        here, patient, field_id = len(self.numbers), text(said, "Patient ID"), text(said, "Field ID")
        mu, segment = number(said, "Delivery MU"), number(said, "Segment")
        self.numbers.append(None)
        if self.grown and self.fell_at is None and mu is not None and self.mu is not None and self.mu - mu > JITTER_MU:
            self.fell_at, self.said_since = here, False
        self.said_since = self.said_since or field_id is not None
        if patient and self.patient and patient != self.patient:
            self.open, self.since = False, here
        elif self.open and field_id and self.field_id and field_id != self.field_id:
            self._begin(here)
        elif self.open and field_id and not self.field_id and self.fell_at is not None:
            self._begin(self.fell_at)
        if not self.open and (field_id or grew):
            self._begin(here if field_id else self.since)
        self.patient, self.field_id = patient or self.patient, field_id or self.field_id
        if self.open:
            self.numbers[here] = self.beams
            if grew:
                self._grow(segment)
        self.mu = self.mu if mu is None else mu

    def _begin(self, at: int) -> None:
        self.beams += 1
        self.open, self.grown, self.field_id, self.segment, self.fell_at = True, False, None, None, None
        self.numbers[at:] = [self.beams] * (len(self.numbers) - at)

    def _grow(self, segment: float | None) -> None:
        higher = segment is not None and self.segment is not None and segment > self.segment
        if self.fell_at is not None and not (higher and self.said_since):
            field_id = self.field_id if self.said_since else None
            self._begin(self.fell_at)
            self.field_id = field_id
        self.grown, self.segment, self.fell_at = True, segment, None


@dataclass(frozen=True)
class Beam:
    """What the messages of one beam came to. Indices are those of the session's messages.

    `before_mu`: the message just before MU first grew; `grew`: those in which they had grown (both empty if nothing was
    delivered: None, ()). `missing`: messages missing by the counter at least.
    """

    number: int
    messages: tuple[int, ...]
    before_mu: int | None
    grew: tuple[int, ...]
    delivered_mu: float
    interruptions: int
    interrupted_s: float
    gaps: int
    missing: int
    longest_silence_s: float

    @property
    def delivering(self) -> tuple[int, ...]:
        """The messages that tell what was delivered: those in which MU had grown; all of them if there is none."""
        return self.grew or self.messages


def beams(marks: Sequence[Mark], said: Sequence[Said]) -> list[Beam]:
    """The beams of a session, in order. `marks` and `said`: what the header and the items of each message say."""
    numbers, steps = beam_numbers(said), mu_steps(said)
    by_beam: dict[int, list[int]] = {}
    for index, beam in enumerate(numbers):
        if beam is not None:
            by_beam.setdefault(beam, []).append(index)
    found = []
    for beam, indices in by_beam.items():
        grew = tuple(index for index in indices if steps[index] > 0)
        pauses = _pauses(marks, said, indices, steps)
        missing = [count for index in indices if index and (count := _missing(marks[index - 1], marks[index]))]
        silences = [_seconds(marks[index - 1], marks[index]) for index in indices if index]
        found.append(
            Beam(
                number=beam,
                messages=tuple(indices),
                before_mu=max(grew[0] - 1, indices[0]) if grew else None,
                grew=grew,
                delivered_mu=round(fsum(steps[index] for index in indices), 6),
                interruptions=len(pauses),
                interrupted_s=sum(pauses),
                gaps=len(missing),
                missing=sum(missing),
                longest_silence_s=max(silences, default=0.0),
            )
        )
    return found


def _seconds(before: Mark, after: Mark) -> float:
    return (after.timestamp - before.timestamp).total_seconds()


def _missing(before: Mark, after: Mark) -> int:
    """Messages missing between two by the counter. None are where it repeats, or an old message came late."""
    if after.counter == before.counter or after.timestamp < before.timestamp:
        return 0
    return (after.counter - before.counter - 1) % 256


def _pauses(marks: Sequence[Mark], said: Sequence[Said], indices: Sequence[int], steps: Sequence[float]) -> list[float]:
    """Seconds of each stand of the MU within the beam that counts as an interruption.

    Only what messages show to stand counts: over a gap nobody knows. A stand after which another segment goes on is none: leaves
    move to the next shape in between.
    """
    pauses, grew_at, stood_until = [], None, None
    for index in indices:
        if steps[index] > 0:
            if grew_at is not None and stood_until is not None:
                seconds = _seconds(marks[grew_at], marks[stood_until])
                segments = number(said[grew_at], "Segment"), number(said[index], "Segment")
                if seconds >= STILL_SECONDS and (None in segments or segments[0] == segments[1]):
                    pauses.append(seconds)
            grew_at, stood_until = index, None
        elif number(said[index], "Delivery MU") is not None:
            stood_until = index
    return pauses
