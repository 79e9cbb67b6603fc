"""Cutting a stream of iCom bytes into messages, however the bytes arrive.

How a message's end is found. The length in its prefix is only assumed to be one, and a date can stand in a value, so neither
may decide alone. The items decide: from a header on, each item says where the next one begins, until something stands there that
is no item. If that is the header of the next message, all is well. Everything else is a derailment: garbage between two messages,
a message cut short whose last item swallowed the next header, or an item of a form that is not known yet. Then the next header is
searched for from the broken message's own start (not from where the walk ended, which may lie messages further on), and what
we know decides:

    the next header stands inside what was walked            the message was cut short: skipped
    the items end, then other bytes, then a header           the message is whole, the bytes are garbage: skipped
    likewise, but the prefix's length says that it goes on   the message was cut short: skipped
    likewise, and that length ends just at the header        the message is whole, with items at its end that cannot be read yet

The last two ask the prefix, and only once its length has been right for `PROOF` messages on this connection.

Nothing here depends on how the bytes were cut, because every decision waits for all the bytes that it looks at. Memory stays
within `layout.MAX_MESSAGE` plus what was fed at once.
"""

from linac.icom import layout
from linac.icom.message import Message

PROOF = 8
"""So many messages in a row must agree with the length in their prefix before that length is used."""

DISTRUST = 4
"""What one disagreement costs, counted in messages; several in a row end the trust."""

MAX_OFFSET = 32
"""The length may leave out parts of the header (its own four bytes, the prefix, all of it): at most so many bytes."""

_SEARCHING, _WALKING, _DERAILED = range(3)


class MessageStream:
    """Cuts one connection's bytes into messages. No socket, no clock: the caller owns both.

    `feed(data)` returns the messages that the next one's header shows to be complete. `close()` ends the stream and returns those
    still inside: none or one as a rule, more only if a damaged item hid them. Both raise `ValueError` after `close`: every
    connection gets its own stream.

    Without the next header, a message is complete when 100 ms pass with no bytes after it. The caller, who has the clock, then
    calls `flush()`; there is no need to wait when `whole` is true. Later bytes may show that more items belonged to a message
    that was flushed: then it is returned again, all of it, marked `replaces`. Who never calls `flush` never meets such a message.

    Counters, for status and reports: `messages` returned, `skipped_bytes` that belong to no message returned,
    `broken_messages` (cut short or damaged).
    """

    def __init__(self) -> None:
        self.messages = 0
        self.skipped_bytes = 0
        self.broken_messages = 0
        self._buffer = bytearray()
        self._state = _SEARCHING
        self._start = 0  # of the message being walked
        self._at = 0  # searching: where to search on; walking and derailed: where the items walked so far end
        self._seek = 0  # derailed: where to search on for the next header
        self._flushed = -1  # where the items ended when `flush` gave this message out, or -1
        self._length = _Length()
        self._ended = False

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes, return the messages that are now complete, in order.

        Raises `TypeError` for anything but bytes.
        """
        self._check()
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(
                f"an iCom stream is fed with bytes as they came from the socket, not with {type(data).__name__}: open a recorded "
                "file in binary mode, for example path.read_bytes()"
            )
        self._buffer += data
        return self._advance()

    def flush(self) -> list[Message]:
        """The message at the end of the bytes so far, if its items end exactly there; else nothing. Once each.

        For the caller to call after 100 ms of silence. Nothing comes if the prefix's length, proven, says that there is more.
        """
        self._check()
        if self._state != _WALKING or self._at != len(self._buffer) or self._flushed == self._at:
            return []
        if self._length.expected(self._field()) > self._at - self._start:
            return []
        message = self._message(self._at)
        self._flushed = self._at
        return [message]

    def close(self) -> list[Message]:
        """The stream has ended: return what is still inside and complete, count the rest as skipped.

        A message that was cut exactly where an item ends looks complete, and is returned, unless the prefix's length is proven.
        """
        self._check()
        self._ended = True
        found = self._advance()
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()
        return found

    @property
    def whole(self) -> bool:
        """Whether the message at the end of the bytes so far is complete by two witnesses: its items and the proven length."""
        walked = self._at - self._start
        at_end = self._state == _WALKING and self._at == len(self._buffer) and self._flushed != self._at
        return at_end and self._length.expected(self._field()) == walked

    def _check(self) -> None:
        if self._ended:
            raise ValueError("this stream was closed; every connection needs a new MessageStream")

    # The three states, each a method that does as much as the bytes allow and says whether there may be more to do.

    def _advance(self) -> list[Message]:
        found: list[Message] = []
        while True:
            if self._state == _SEARCHING:
                going = self._search()
            elif self._state == _WALKING:
                going = self._walk(found)
            else:
                going = self._recover(found)
            if not going:
                break
        used = self._at if self._state == _SEARCHING else self._start
        del self._buffer[:used]
        self._start, self._at, self._seek = self._start - used, self._at - used, self._seek - used
        if self._flushed >= 0:
            self._flushed -= used
        return found

    def _search(self) -> bool:
        header, looked = self._find_header(self._at)
        self.skipped_bytes += (looked if header < 0 else header) - self._at
        if header < 0:
            self._at = looked
            return False
        self._begin(header)
        return True

    def _walk(self, found: list[Message]) -> bool:
        data, size, limit = self._buffer, len(self._buffer), self._start + layout.MAX_MESSAGE
        while True:
            match = layout.ITEMS.match(data, self._at, min(size, limit))
            self._at = match.end() if match else self._at
            left = size - self._at
            if left < layout.ITEM_HEADER_SIZE:
                return self._ended and self._end(found, may_go_on=left > 0 and layout.may_begin_item(data, self._at))
            step = layout.item_size(data, self._at)
            if step < 0:
                break
            if self._at + step > limit:
                return self._derail()
            if step > left:
                return self._ended and self._end(found, may_go_on=True)
            self._at += step
        if left < layout.HEADER_SIZE and not self._ended:
            return False
        if left < layout.HEADER_SIZE or not layout.header_at(data, self._at):
            return self._derail()
        if self._swallowed_another():
            return self._derail()
        self._length.learn(self._field(), self._at - self._start, sure=True)
        self._finish(found, self._at)
        self._begin(self._at)
        return True

    def _swallowed_another(self) -> bool:
        """Whether a message that ends cleanly is two: the first was cut in a long value, which took in the next one's header."""
        expected = self._length.expected(self._field())
        if expected in (-1, self._at - self._start):
            return False
        header, _ = self._find_header(self._start + layout.DATE_END)
        return 0 <= header < self._at

    def _derail(self) -> bool:
        whole = self._length.expected(self._field()) == self._at - self._start  # then a header inside it is only a value
        self._state, self._seek = _DERAILED, self._at if whole else self._start + layout.DATE_END
        return True

    def _recover(self, found: list[Message]) -> bool:
        """Derailed: find the next header, then judge the message before it by the table at the top of this file."""
        header, self._seek = self._find_header(self._seek)
        given_up = self._seek > self._start + layout.MAX_MESSAGE
        if header < 0 and not given_up and not self._ended:
            return False
        if header < 0 or given_up:
            header = -1
        walked, distance = self._at - self._start, header - self._start
        expected = self._length.expected(self._field())
        if header >= 0:
            self._length.learn(self._field(), distance, sure=False)
        if header >= 0 and expected == distance:
            self._finish(found, header)
        elif 0 <= header < self._at or expected > walked:
            self._drop(self._at if header < 0 else header)
        else:
            self._finish(found, self._at)
            self.skipped_bytes += max(header - self._at, 0)
        if header >= 0:
            self._begin(header)
        else:
            self._state = _SEARCHING
        return True

    def _end(self, found: list[Message], *, may_go_on: bool) -> bool:
        """The stream ended while walking, at the end of an item or (`may_go_on`) inside what may be one more."""
        walked, expected = self._at - self._start, self._length.expected(self._field())
        if may_go_on and expected != walked:
            return self._end_inside(found)
        if expected > walked:
            self._drop(self._at)
        else:
            self._finish(found, self._at)
        self._state = _SEARCHING
        return False

    def _end_inside(self, found: list[Message]) -> bool:
        """The stream ended inside an item. A damaged length may have made it swallow messages: find them."""
        header, _ = self._find_header(self._start + layout.DATE_END)
        if header < 0:
            self._drop(len(self._buffer))
            self._at, self._state = len(self._buffer), _SEARCHING
            return False
        if self._length.expected(self._field()) == header - self._start:
            self._finish(found, header)
        else:
            self._drop(header)
        self._begin(header)
        return True

    # The parts they share.

    def _begin(self, header: int) -> None:
        self._state, self._start, self._at, self._flushed = _WALKING, header, header + layout.HEADER_SIZE, -1

    def _finish(self, found: list[Message], end: int) -> None:
        if self._flushed != end:
            found.append(self._message(end))

    def _message(self, end: int) -> Message:
        replaces = self._flushed >= 0
        self.messages += not replaces
        return Message(bytes(self._buffer[self._start : end]), replaces=replaces)

    def _drop(self, end: int) -> None:
        self.broken_messages += 1
        self.skipped_bytes += end - self._start

    def _field(self) -> int:
        """The first four bytes of the prefix: perhaps the length of the message being walked."""
        return int.from_bytes(self._buffer[self._start : self._start + 4], "little")

    def _find_header(self, at: int) -> tuple[int, int]:
        """Where the first header at or after `at` begins, or -1 and where to search on when there are more bytes.

        A date alone is no header, it could be garbage or part of a value: an item or the next header must follow.
        """
        data, size = self._buffer, len(self._buffer)
        while True:
            match = layout.DATE.search(data, at + layout.PREFIX_SIZE)
            if match is None:
                return -1, max(at, size if self._ended else size - layout.DATE_END + 1)
            header = match.start() - layout.PREFIX_SIZE
            after = header + layout.HEADER_SIZE
            left = size - after
            if layout.header_at(data, header):
                if left >= layout.ITEM_HEADER_SIZE and layout.item_size(data, after) >= 0:
                    return header, header
                if left >= layout.HEADER_SIZE and layout.header_at(data, after):
                    return header, header
                if left == 0 and self._ended:
                    return header, header
                undecided = left < layout.ITEM_HEADER_SIZE or (left < layout.HEADER_SIZE and layout.item_size(data, after) < 0)
                if undecided and not self._ended:
                    return -1, header
            at = header + 1


class _Length:
    """Whether the first four bytes of the prefix are a length: learned from messages whose end is known otherwise.

    They are one if the same number of bytes is left out of it in message after message.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._score = 0

    def learn(self, field: int, size: int, *, sure: bool) -> None:
        """A message of `size` bytes had `field` in its prefix. Not `sure`: garbage may be counted in `size`."""
        offset = size - field
        if offset == self._offset and self._score:
            self._score = min(self._score + 1, 2 * PROOF)
        elif self._score >= PROOF and not sure:
            self._score -= DISTRUST
        else:
            self._offset, self._score = offset, int(abs(offset) <= MAX_OFFSET)

    def expected(self, field: int) -> int:
        """The size in bytes of a message with `field` in its prefix; -1 while that is not proven."""
        return field + self._offset if self._score >= PROOF else -1


def split(data: bytes) -> list[Message]:
    """The messages in a recorded session: messages one after the other, as an archived `.xz` holds them."""
    stream = MessageStream()
    return stream.feed(data) + stream.close()
