"""What is in a recorded session, in plain words, without the patient unless asked for."""

import lzma
from collections import Counter
from itertools import pairwise
from pathlib import Path

from linac.errors import DamagedError
from linac.icom.delivery import Delivery, delivered_mu
from linac.icom.items import VALUES
from linac.icom.message import Message
from linac.icom.stream import MessageStream

MAX_BYTES = 1 << 30
"""Largest recording believed, unpacked: a day and a half of messages. A damaged .xz could claim any size."""

IDENTITY = ("Patient ID", "Patient Name", "Rx Site", "Field ID")


def read(path: Path) -> bytes:
    """A recording's bytes, unpacked if it is an `.xz`. Raises `DamagedError`; its text has the file's name, not the folder's."""
    try:
        with lzma.open(path) if path.suffix.lower() == ".xz" else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror}. Check the path and the share.") from error
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedError(f"{path.name} is no .xz file, or a damaged one ({error}). Copy it again.") from error
    if len(data) > MAX_BYTES:
        raise DamagedError(f"{path.name} holds more than {MAX_BYTES} bytes: this is no recording of iCom.")
    return data


def summary(data: bytes, *, identity: bool = False, items: bool = False) -> list[str]:
    """Lines that describe a recording. `identity` adds the patient and the field, `items` the tags that occur."""
    stream = MessageStream()
    messages = stream.feed(data) + stream.close()
    if not messages:
        return [f"  no iCom message in {len(data)} bytes: this is probably no recording of an iCom stream"]
    first, last = messages[0], messages[-1]
    patients = {message.text("Patient ID") for message in messages} - {None}
    lines = [
        f"  {len(messages)} messages, {first.timestamp} to {last.timestamp} (the linac's local time)",
        f"  machine {_distinct(messages, 'Machine ID')}, {len(patients)} patient(s), energy {_distinct(messages, 'Energy')}",
        f"  {delivered_mu(messages):.2f} MU delivered{_motion(messages)}",
        f"  {_gaps(messages)}",
    ]
    if stream.skipped_bytes:
        lines.append(f"  {stream.skipped_bytes} bytes belong to no message ({stream.broken_messages} messages were cut short)")
    if identity:
        lines += [f"  {name}: {_distinct(messages, name)}" for name in IDENTITY]
    return lines + (_items(messages) if items else [])


def _distinct(messages: list[Message], name: str) -> str:
    return ", ".join(sorted({text for message in messages if (text := message.text(name)) is not None})) or "not given"


def _motion(messages: list[Message]) -> str:
    delivery = Delivery.from_messages(messages)
    if not delivery.mu:
        return ""
    low, high = min(delivery.gantry_deg), max(delivery.gantry_deg)
    return f" over {len(delivery.mu)} control points, gantry from {low:.1f} to {high:.1f} deg"


def _gaps(messages: list[Message]) -> str:
    jumps = [(a, b) for a, b in pairwise(messages) if (b.counter - a.counter) % 256 != 1]
    if not jumps:
        return "no gaps: every message's counter follows the one before"
    shown = "; ".join(f"{a.counter} at {a.timestamp} to {b.counter} at {b.timestamp}" for a, b in jumps[:5])
    return f"{len(jumps)} place(s) where the counter does not follow: {shown}{' ...' if len(jumps) > 5 else ''}"


def _items(messages: list[Message]) -> list[str]:
    """One line per tag: how often, and its name where it is known. No values: this is for looking at what is unknown."""
    names = {(row.element, row.vr, row.part): row.name for row in VALUES}
    counts = Counter((item.group, item.element, item.vr, item.part) for message in messages for item in message.items)
    return [
        f"  ({group:04X},{element:04X}) {vr} {part} {count:8} x  {names.get((element, vr, part), '')}".rstrip()
        for (group, element, vr, part), count in sorted(counts.items())
    ]
