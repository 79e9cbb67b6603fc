"""A moment of the machine as an iCom message of about 8 kB.

The names, tags and forms are those of `linac.icom.items`. Real messages hold more, which nobody has explained: `UNKNOWN` stands
for that and is invented.
"""

from datetime import datetime
from functools import lru_cache

from linac.icom import Item, encode_device, encode_item, encode_message, named
from linac.icom.items import NO_VALUE
from linac.simulator.plan import Beam, Position
from linac.simulator.session import PARKED, Moment

UNKNOWN = b"".join(
    encode_item(Item(0x3001, 0x2000 + n, "DS" if n % 3 else "LO", "RSP"[n % 3], b"%d" % (n * 7919 % 100000))) for n in range(120)
)
"""Invented items, so that a message has the size and the unknown parts of a real one."""


def make_message(
    moment: Moment, time: datetime, counter: int, machine: str, *, with_name: bool = True, idle_id: str | None = None
) -> bytes:
    """The bytes of one message. `idle_id`: the patient ID when there is no patient; None leaves the item out."""
    return encode_message(
        time, counter, _who(moment, with_name, idle_id) + _machine(machine) + _what(moment) + _where(moment.position, moment.beam)
    )


def change(message: bytes) -> bytes:
    """The same message with another gantry angle: the same counter, other data."""
    at = message.index(encode_item(named("Gantry", b"", "R"))[:8]) + 12
    return message[:at] + bytes([message[at] ^ 1 if message[at : at + 1].isdigit() else ord("1")]) + message[at + 1 :]


def _who(moment: Moment, with_name: bool, idle_id: str | None) -> bytes:
    session = moment.session
    if session is None:
        return b"" if idle_id is None else encode_item(named("Patient ID", idle_id))
    items = [] if session.patient_id is None else [named("Patient ID", session.patient_id)]
    if with_name and session.patient_name is not None:
        items.append(named("Patient Name", session.patient_name))
    if moment.beam is not None:
        items += [named("Rx Site", moment.beam.name), named("Field ID", moment.beam.label)]
    return b"".join(map(encode_item, items))


@lru_cache(maxsize=16)
def _machine(machine: str) -> bytes:
    return encode_item(named("Machine ID", machine)) + UNKNOWN


def _what(moment: Moment) -> bytes:
    beam = moment.beam
    items = [
        named("Radiation Type", "PHOTON" if beam else NO_VALUE),
        named("Energy", beam.energy if beam else NO_VALUE),
        named("Wedge", "OUT"),
        named("Segment", moment.segment if beam else NO_VALUE),
        named("Segment MU", beam.mu / beam.segments if beam else NO_VALUE),
        named("Total MU", beam.mu if beam else NO_VALUE),
        named("Beam Description", f"{beam.label} {beam.energy}" if beam else NO_VALUE),
        named("Delivery MU", moment.mu),
        named("Backup MU", moment.mu),
        named("Beam Timer", moment.beam_seconds),
        *(named("Interlocks", text) for text in moment.interlocks),
        named("Previous Interlocks", "Door" if beam is None else ""),
    ]
    return b"".join(map(encode_item, items))


@lru_cache(maxsize=16)  # while nothing moves, the same items go out again and again
def _where(position: Position, beam: Beam | None) -> bytes:
    items = [
        *(named("Gantry", position.gantry, part) for part in "PR"),
        *(named("Collimator", position.collimator, part) for part in "PR"),
        named("Table Column", 0),
        named("Table Isocentric", 0),
        named("Table Vertical", -6.1),
        named("Table Longitudinal", 87.5),
        named("Table Lateral", 0.5),
    ]
    # In the message's order and sign: pairs of (first bank, negative when open; second bank, positive), centimetres.
    leaves = [x for a, b in zip(position.bank_1, position.bank_2, strict=True) for x in (-a / 10, b / 10)]
    jaws = [x / 10 for x in position.jaws]
    return b"".join(
        [
            b"".join(map(encode_item, items)),
            _prescribed(beam),
            encode_device("MLCX", leaves),
            encode_device("ASYMX", [10.0, 10.0]),
            encode_device("ASYMY", jaws),
        ]
    )


@lru_cache(maxsize=16)
def _prescribed(beam: Beam | None) -> bytes:
    """What the plan asks for, at the beam's start."""
    start = PARKED if beam is None else beam.at(0.0)
    leaves = [x for a, b in zip(start.bank_1, start.bank_2, strict=True) for x in (-a / 10, b / 10)]
    return encode_device("MLCX", leaves, "P") + encode_device("ASYMY", [x / 10 for x in start.jaws], "P")
