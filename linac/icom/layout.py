"""Where things stand in an iCom message, and the two questions that splitting asks of bytes: an item here? a header here?

A message is 27 bytes of header, then items until it ends:

    bytes 0..7    prefix; perhaps its first four are the message's length (assumed, so nothing here relies on it)
    bytes 8..25   YYYY-MM-DDHH:MM:SS, local time of the linac
    byte  26      counter, +1 per message, wraps at 256

An item is group u16, element u16, VR (2 capitals), 00, part (1 capital), length u32, value; little endian, no gaps. The two
cannot be mistaken for each other: read as an item, a header's date would be a length of more than 800 million bytes.
"""

import re
import struct
from datetime import datetime

Bytes = bytes | bytearray

PREFIX_SIZE = 8
DATE_END = 26
HEADER_SIZE = 27
ITEM_HEADER_SIZE = 12
TAG_SIZE = 8
"""Bytes of an item before its length: group, element, VR, 0, part."""

MAX_VALUE = 1 << 16
"""Longest value believed, in bytes. Real ones have a few dozen; a length beyond this means that this is no item."""

MAX_MESSAGE = 1 << 18
"""Longest message believed, in bytes. Real ones have about 8000. It bounds the memory that a broken peer can take."""

DATE = re.compile(rb"((?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)")

# Walking a message item by item in Python costs 0.3 us per item, and there are about 400 of them. The regular expression engine
# walks ten times faster, but cannot read a length and then skip so many bytes. So every length that occurs in practice (below 64)
# gets its own branch: "length byte k, three zeros, k bytes", the commonest first. The branches exclude each other, so nothing is
# ever tried twice. Longer values are stepped over in Python (`item_size`), after which the expression goes on.
_LENGTHS = [5, 4, 6, 3, 1, 2, 0, 7, 8, *range(9, 64)]
_VALUE = b"(?:" + b"|".join(re.escape(bytes([n])) + rb"\x00\x00\x00" + b"." * n for n in _LENGTHS) + b")"
_TAG = rb"....[A-Z][A-Z]\x00[A-Z]"

ITEMS = re.compile(b"(?:" + _TAG + _VALUE + b")*", re.DOTALL)
"""Matches as many whole items as follow each other, possibly none."""


def repeated(head: bytes) -> re.Pattern[bytes]:
    """Matches one or more items in a row that begin with these 8 bytes, such as the 160 leaves."""
    return re.compile(b"(?:" + re.escape(head) + _VALUE + b")+", re.DOTALL)


_HEAD = struct.Struct("<HH2sxc").unpack_from


def item_size(data: Bytes, at: int) -> int:
    """Size in bytes of the item whose 12 bytes of head stand at `at`, or -1 if they cannot be the head of an item."""
    if data[at + 6] or not (65 <= data[at + 4] <= 90 and 65 <= data[at + 5] <= 90 and 65 <= data[at + 7] <= 90):
        return -1
    length = int.from_bytes(data[at + 8 : at + 12], "little")
    return ITEM_HEADER_SIZE + length if length <= MAX_VALUE else -1


def whole_item(data: Bytes, at: int) -> bool:
    """Whether an item stands at `at`, all of it."""
    size = item_size(data, at) if len(data) - at >= ITEM_HEADER_SIZE else -1
    return 0 <= size <= len(data) - at


def may_begin_item(data: Bytes, at: int) -> bool:
    """Whether the fewer than 12 bytes from `at` to the end could be the beginning of an item."""
    rest = data[at:]
    return all(65 <= rest[i] <= 90 for i in (4, 5, 7) if i < len(rest)) and not any(rest[6:7]) and not any(rest[11:12])


def header_at(data: Bytes, at: int) -> bool:
    """Whether a message's header stands at `at`: a date that exists, where a header has it. Needs 26 bytes."""
    return read_time(data, at) is not None


def read_time(data: Bytes, at: int = 0) -> datetime | None:
    """The time in the header that stands at `at`: naive, the linac's local time. None if no header stands there."""
    date = DATE.match(data, at + PREFIX_SIZE)
    if date is None:
        return None
    try:
        return datetime.fromisoformat(f"{date[1].decode()} {date[2].decode()}")
    except ValueError:  # 30 February
        return None


def walk(data: Bytes, at: int, end: int) -> int:
    """The last place from `at` to `end` where an item ends, if an item (or the first) begins at `at`.

    So `end` is such a place itself if it is returned. Stops early where something stands that is no item.
    """
    while at < end:
        items = ITEMS.match(data, at, end)
        at = items.end() if items else at
        if at < end:
            size = item_size(data, at) if end - at >= ITEM_HEADER_SIZE else -1
            if size < 0 or at + size > end:
                return at
            at += size
    return at


def value(data: bytes, at: int) -> bytes:
    """The value of the item that begins at `at`."""
    begin = at + ITEM_HEADER_SIZE
    return data[begin : begin + int.from_bytes(data[at + TAG_SIZE : begin], "little")]


def read_tag(data: bytes, at: int) -> tuple[int, int, str, str]:
    """Group, element, VR and part of the item that begins at `at`."""
    group, element, vr, part = _HEAD(data, at)
    return group, element, vr.decode(), part.decode()
