"""Writing iCom messages, for the simulator and the tests. Nothing here is ever sent to a linac."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from linac.icom.items import BY_NAME, GROUP_PRIVATE_SEEN, POSITION_TAG, SHAPE_TAG, Item, head
from linac.icom.layout import HEADER_SIZE

PREFIX_MARK = b"\x04\x04\x00\x00"
"""Bytes 4..7 of the prefix. `04 04` was seen in notebooks, the other two are assumed."""


def encode(timestamp: datetime, counter: int, items: Iterable[Item] = (), *, length: int | None = None) -> bytes:
    """The bytes of a message. `timestamp`: linac local time. `counter` is taken modulo 256.

    `length` goes into the first four bytes of the prefix; unless given, it is the message's whole size.
    """
    return encode_message(timestamp, counter, b"".join(map(encode_item, items)), length=length)


def encode_message(timestamp: datetime, counter: int, body: bytes, *, length: int | None = None) -> bytes:
    """`encode`, for items that are bytes already."""
    size = HEADER_SIZE + len(body) if length is None else length
    date = timestamp.strftime("%Y-%m-%d%H:%M:%S").encode()
    return b"".join((size.to_bytes(4, "little"), PREFIX_MARK, date, bytes([counter % 256]), body))


def encode_item(item: Item) -> bytes:
    """The bytes of one item: tag, VR, 0, part, length, value."""
    return head(item.group, item.element, item.vr, item.part) + len(item.value).to_bytes(4, "little") + item.value


def named(name: str, value: str | bytes | float, part: str | None = None) -> Item:
    """The item for a name of `items.VALUES`. Text becomes UTF-8, a float two decimals, an int its digits.

    `part` asks for another part than the table's, such as the prescribed gantry angle.
    """
    row = BY_NAME[name]
    return Item(GROUP_PRIVATE_SEEN if row.group is None else row.group, row.element, row.vr, part or row.part, _value(value))


def device(name: str, positions_cm: Sequence[float], part: str = "R") -> list[Item]:
    """The items of `MLCX`, `ASYMX` or `ASYMY`: the one that names it, then one per position, in centimetres."""
    shape = Item(*SHAPE_TAG, "DS", part, name.encode())
    return [shape, *(Item(*POSITION_TAG, "DS", part, _value(float(position))) for position in positions_cm)]


def encode_device(name: str, positions_cm: Sequence[float], part: str = "R") -> bytes:
    """The bytes of `device`'s items. Faster, for the simulator's sake."""
    begin = head(*POSITION_TAG, "DS", part)
    values = [b"%.2f" % position for position in positions_cm]
    positions = [begin + len(value).to_bytes(4, "little") + value for value in values]
    return encode_item(Item(*SHAPE_TAG, "DS", part, name.encode())) + b"".join(positions)


def _value(value: str | bytes | float) -> bytes:
    if isinstance(value, bytes):
        return value
    return (f"{value:.2f}" if isinstance(value, float) else str(value)).encode()
