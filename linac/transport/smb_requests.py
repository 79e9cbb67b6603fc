"""Requests as they go over the line and answers as they come, without smbprotocol's structures: [MS-SMB2] 2.2.1.2.

smbprotocol takes a message apart field by field and copies what it carries several times, which costs as much time as decrypting
it. It is left to log in; everything later goes this way. An answer that nobody waits for any more is dropped as it arrives.
"""

import struct
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from linac.transport.smb_messages import HEADER, Message

CREDIT = 65536
"""Bytes that one credit pays for."""

PENDING = 0x00000103
SIGNED, RELATED = 0x00000008, 0x00000004

_REQUEST = struct.Struct("<4sHHIHHIIQIIQ16s")
_ANSWER = struct.Struct("<4sHHIHHIIQ")
_MARK = b"\xfeSMB"


class Request:
    """A request under way. `event` is set once the answer is there, or none can come any more (`answer` is None then).
    `asked` and `answered`: when (`time.monotonic`)."""

    __slots__ = ("answer", "answered", "asked", "event", "number", "status")

    def __init__(self, number: int) -> None:
        self.number, self.status = number, 0
        self.asked = self.answered = time.monotonic()
        self.answer: memoryview | None = None
        self.event = threading.Event()


class Answer(NamedTuple):
    """One message of those that came in one piece: where it begins and ends there, its status, the credits that come with it."""

    begin: int
    end: int
    status: int
    granted: int
    number: int


def charge(message: Message, large: bool) -> int:
    """Credits that a message costs, and numbers that it uses up; `large`: the connection counts by size."""
    return (message.payload - 1) // CREDIT + 1 if large else 1


def packed(
    sent: Sequence[Message], numbers: Sequence[int], wanted: int, session: int, tree: int, *, large: bool, signed: bool
) -> list[tuple[bytes | memoryview, ...]]:
    """Messages with their headers, each as pieces in order, to be sent all together, yet unsigned. Those after the first are
    about the same file.

    `wanted`: how many credits to ask for.
    """
    parts: list[tuple[bytes | memoryview, ...]] = []
    for place, (message, number) in enumerate(zip(sent, numbers, strict=True)):
        length = HEADER + len(message.data) + len(message.body)
        padding = 0 if place == len(sent) - 1 else -length % 8
        following = 0 if place == len(sent) - 1 else length + padding
        flags = (RELATED if place else 0) | (SIGNED if signed else 0)
        cost = charge(message, large)
        header = _REQUEST.pack(
            _MARK,
            HEADER,
            cost if large else 0,
            0,
            message.COMMAND,
            cost if place else wanted,
            flags,
            following,
            number,
            0,
            tree,
            session,
            bytes(16),
        )
        parts.append((header, message.data, message.body, bytes(padding)))
    return parts


def answers(message: bytes | memoryview) -> list[Answer]:
    """The messages that came in one piece. Raises ValueError for what is none."""
    found: list[Answer] = []
    at, following = 0, 1
    while following:
        if at + HEADER > len(message):
            raise ValueError("a message that is cut off")
        mark, size, _, status, _, granted, _, following, number = _ANSWER.unpack_from(message, at)
        if mark != _MARK or size != HEADER or (following and following < HEADER):
            raise ValueError("not a message of SMB 2")
        end = at + following if following else len(message)
        found.append(Answer(at, end, status, granted, number))
        at = end
    return found
