"""One iCom message: what the linac said at one moment."""

from datetime import datetime
from typing import NamedTuple

from linac.errors import NotIcomError
from linac.icom import layout
from linac.icom.items import (
    BY_NAME,
    JAWS_X,
    JAWS_Y,
    LEAF_COUNT,
    LEAVES,
    NO_VALUE,
    POSITION_TAG,
    PRIVATE_HIGH_BYTES,
    SHAPE_TAG,
    Item,
    Value,
    decode,
)

Reading = float | int | str | list[str] | None

_SHAPE = SHAPE_TAG[0].to_bytes(2, "little") + SHAPE_TAG[1].to_bytes(2, "little") + b"DS\x00R"
_POSITION = POSITION_TAG[0].to_bytes(2, "little") + POSITION_TAG[1].to_bytes(2, "little") + b"DS\x00R"


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

    __slots__ = ("_walked", "counter", "raw", "replaces", "timestamp")

    def __init__(self, raw: bytes, *, replaces: bool = False) -> None:
        if len(raw) < layout.HEADER_SIZE or not layout.header_at(raw, 0):
            raise NotIcomError(
                f"These {len(raw)} bytes do not begin with an iCom message: a date like 2024-05-0612:13:14 should stand at "
                "byte 8. What they came from is probably not iCom: check the path or the address."
            )
        self.raw = raw
        self.timestamp: datetime = layout.read_time(raw)
        self.counter: int = raw[layout.DATE_END]
        self.replaces = replaces
        self._walked: tuple[list[tuple[bytes, bytes]], int] | None = None

    def _walk(self) -> tuple[list[tuple[bytes, bytes]], int]:
        """The items in runs of equal tags (see `layout.runs`), and where they end. Done when first needed."""
        if self._walked is None:
            self._walked = layout.runs(self.raw)
        return self._walked

    @property
    def _runs(self) -> list[tuple[bytes, bytes]]:
        return self._walk()[0]

    @property
    def unread(self) -> bytes:
        """Bytes at the end of `raw` that are no items. Empty, unless a message holds something that is not known yet."""
        return self.raw[self._walk()[1] :]

    @property
    def items(self) -> tuple[Item, ...]:
        """Every item of the message, known or not, in order."""
        return tuple(Item(*layout.read_tag(head), value) for head, run in self._runs for value in layout.values(run))

    def get(self, name: str) -> Reading:
        """The value of a name in `items.VALUES`: a number or text; for both interlock rows a list of texts, perhaps empty.

        None where it is absent, empty, "no value" (-32767), or no number where a number belongs (see `items` then). Of several,
        the first that has a value. Raises `KeyError` for a name that the table does not have.
        """
        row = BY_NAME.get(name)
        if row is None:
            raise KeyError(f"no iCom value is called {name!r}; the names are {', '.join(BY_NAME)}")
        texts = (decode(value).strip(" \x00") for value in self._find(row))
        if row.kind == "texts":
            return [text for text in texts if text and text != str(NO_VALUE)]
        for text in texts:
            if text and text != str(NO_VALUE):
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

    def _find(self, row: Value) -> list[bytes]:
        tail = row.tail
        if row.group is not None:
            head = row.group.to_bytes(2, "little") + tail
            return [value for found, run in self._runs if found == head for value in layout.values(run)]
        return [
            value
            for found, run in self._runs
            if found[2:] == tail and found[1] in PRIVATE_HIGH_BYTES
            for value in layout.values(run)
        ]

    def positions(self, device: str) -> tuple[float, ...] | None:
        """Actual positions of `MLCX`, `ASYMX` or `ASYMY` in centimetres, in the message's order; None where there are none."""
        wanted, named = device.encode(), b""
        for head, run in self._runs:
            if head == _SHAPE:
                *_, named = layout.values(run)
            elif head == _POSITION and named == wanted:
                try:
                    return tuple(map(float, layout.values(run)))
                except ValueError:
                    return None
            else:
                named = b""
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
        if number == NO_VALUE or number - number != 0 or "_" in text:
            return None
        return int(number) if kind == "whole" and number == int(number) else number
    except ValueError:
        return None
