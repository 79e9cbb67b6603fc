"""One iCom message: what the linac said at one moment."""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from linac.errors import NotIcomError
from linac.icom import layout
from linac.icom.items import (
    JAWS_X,
    JAWS_Y,
    LEAF_COUNT,
    LEAVES,
    NO_VALUE,
    POSITION_TAG,
    PRIVATE_HIGH_BYTES,
    SHAPE_TAG,
    VALUES,
    Item,
    Value,
    decode,
    head,
)

Reading = float | int | str | list[str] | None

# For each name: the 8 bytes that its items begin with (only the last 6 count where the group is open), and the row of the table.
_ROWS = {row.name: (head(row.group or 0, row.element, row.vr, row.part), row) for row in VALUES}

_NO_VALUE = str(NO_VALUE)

_SHAPE = head(*SHAPE_TAG, "DS", "R")
_POSITION = head(*POSITION_TAG, "DS", "R")
_POSITIONS = layout.repeated(_POSITION)


class Jaws(NamedTuple):
    """Actual jaw positions in centimetres, as recorded: two values each, or None where the message has none.

    Sign (from PyMedPhys's use of `y`): positive is open, away from the beam's axis. That `x` has the same sign is assumed.
    """

    x: tuple[float, float] | None
    y: tuple[float, float] | None


class Message:
    """What the linac said at one moment.

    `raw`: its bytes, header and items. `timestamp`: naive datetime, the linac's local time, to the second. `counter`: 0..255, one
    more in each message. `replaces`: this message was given out before, by `flush`, with fewer items (see `MessageStream`).

    Messages with the same bytes are equal. The repr shows nothing of a patient.

    Raises `NotIcomError` if `raw` does not begin with the header of a message.
    """

    __slots__ = ("_known", "counter", "raw", "replaces", "timestamp")

    def __init__(self, raw: bytes, *, replaces: bool = False) -> None:
        time = layout.read_time(raw) if len(raw) >= layout.HEADER_SIZE else None
        if time is None:
            raise NotIcomError(
                f"These {len(raw)} bytes do not begin with an iCom message: a date like 2024-05-0612:13:14 should stand at "
                "byte 8. What they came from is probably not iCom: check the path or the address."
            )
        self.raw = raw
        self.timestamp: datetime = time
        self.counter: int = raw[layout.DATE_END]
        self.replaces = replaces
        self._known = layout.HEADER_SIZE

    @property
    def unread(self) -> bytes:
        """Bytes at the end of `raw` that are no items. Empty, unless a message holds something that is not known yet."""
        return self.raw[layout.walk(self.raw, layout.HEADER_SIZE, len(self.raw)) :]

    @property
    def items(self) -> tuple[Item, ...]:
        """Every item of the message, known or not, in order."""
        found, at, end = [], layout.HEADER_SIZE, len(self.raw) - len(self.unread)
        while at < end:
            value = layout.value(self.raw, at)
            found.append(Item(*layout.read_tag(self.raw, at), value))
            at += layout.ITEM_HEADER_SIZE + len(value)
        return tuple(found)

    def get(self, name: str) -> Reading:
        """The value of a name in `items.VALUES`: a number or text; for both interlock rows a list of texts, perhaps empty.

        None where it is absent, empty, "no value" (-32767), or no number where a number belongs (see `items` then). Of several,
        the first that has a value. Raises `KeyError` for a name that the table does not have.
        """
        if name not in _ROWS:
            raise KeyError(f"no iCom value is called {name!r}; the names are {', '.join(_ROWS)}")
        begin, row = _ROWS[name]
        texts = (decode(value).strip(" \x00") for value in self._values(begin, row))
        if row.kind == "texts":
            return [text for text in texts if text and text != _NO_VALUE]
        for text in texts:
            if text and text != _NO_VALUE:
                reading = text if row.kind == "text" else _number(text, row.kind)
                if reading is not None:
                    return reading
        return None

    def text(self, name: str) -> str | None:
        """`get`, for the names that hold text."""
        reading = self.get(name)
        return reading if isinstance(reading, str) else None

    def number(self, name: str) -> float | None:
        """`get`, for the names that hold a number."""
        reading = self.get(name)
        return float(reading) if isinstance(reading, int | float) else None

    # Looking a value up walks no more of the message than it must: the bytes that its item begins with are searched for, then the
    # walk goes from item to item until there, to be sure that an item begins there and they are not part of another one's value.

    def _values(self, begin: bytes, row: Value) -> Iterator[bytes]:
        """The values of the items that begin so, in order. Where the table leaves the group open, its low byte may be any."""
        begin, back = (begin, 0) if row.group is not None else (begin[2:], 2)
        at = self.raw.find(begin)
        while at >= 0:
            if self._item_at(at - back) and (not back or self.raw[at - 1] in PRIVATE_HIGH_BYTES):
                yield layout.value(self.raw, at - back)
            at = self.raw.find(begin, at + 1)

    def _item_at(self, at: int) -> bool:
        """Whether a whole item begins at `at`."""
        self._known = layout.walk(self.raw, self._known if self._known <= at else layout.HEADER_SIZE, at)
        return self._known == at and layout.whole_item(self.raw, at)

    def positions(self, device: str) -> tuple[float, ...] | None:
        """Actual positions of `MLCX`, `ASYMX` or `ASYMY` in centimetres, in the message's order; None where there are none."""
        shape = _SHAPE + len(device).to_bytes(4, "little") + device.encode()
        at = self.raw.find(shape)
        while at >= 0 and not self._item_at(at):
            at = self.raw.find(shape, at + 1)
        match = _POSITIONS.match(self.raw, at + len(shape)) if at >= 0 else None
        if not match:
            return None
        pieces = match[0].split(_POSITION)[1:]  # each is a length, four bytes, and a value
        try:
            return tuple([float(piece[4:]) for piece in pieces if len(piece) == 4 + piece[0]])
        except ValueError:
            return None

    @property
    def leaves_cm(self) -> tuple[float, ...] | None:
        """The 160 actual leaf positions in centimetres, in the message's order (80 pairs); None where there are not 160."""
        leaves = self.positions(LEAVES)
        return leaves if leaves is not None and len(leaves) == LEAF_COUNT else None

    @property
    def jaws_cm(self) -> Jaws:
        """The actual jaw positions in centimetres, in the message's order."""
        x, y = self.positions(JAWS_X), self.positions(JAWS_Y)
        return Jaws(
            (x[0], x[1]) if x is not None and len(x) == 2 else None, (y[0], y[1]) if y is not None and len(y) == 2 else None
        )

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, Message) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"Message({self.timestamp:%Y-%m-%d %H:%M:%S}, counter {self.counter}, {len(self.raw)} bytes)"


def _number(text: str, kind: str) -> float | int | None:
    """The number that `text` shows, None if it shows none (or one that is not finite, or -32767)."""
    try:
        number = float(text)
        if number == NO_VALUE or not math.isfinite(number) or "_" in text:
            return None
        return int(number) if kind == "whole" and number == int(number) else number
    except ValueError:
        return None
