"""The begins of many files, of small ones the whole: each opened, read and closed at one go, the next while one is worked on.

What is asked for ahead is bounded by the link's depth and its credits, a piece of `read_chunk` bytes each. Nothing stays open on
the server, whatever becomes of the reader.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from linac.errors import LinacError
from linac.transport import smb_errors
from linac.transport import smb_messages as messages
from linac.transport.smb_link import Link
from linac.transport.smb_requests import Request
from linac.transport.smb_wire import StatusError

K = TypeVar("K")


class Begin(NamedTuple):
    """A file as it is, closed again, and what it begins with (nothing where that was not asked for)."""

    file: messages.Opened
    data: memoryview

    @property
    def is_whole(self) -> bool:
        return not self.file.is_folder and len(self.data) == self.file.size


def ask(link: Link, path: str, length: int) -> list[Request]:
    """Send for a file's begin."""
    open_it = messages.open_file(path, messages.READ_DATA | messages.READ_ATTRIBUTES)
    reading = [messages.read(0, length)] if length else []
    return link.begin_chain(open_it, *reading, messages.close(tell=True))


def answer(link: Link, requests: list[Request]) -> Begin | None:
    """What was sent for. None if the file was just changing, or cannot be read. Raises `StatusError` if it cannot be opened."""
    opening, *reading, closing = link.end_chain(requests)
    if isinstance(opening, StatusError):
        raise opening
    opened = messages.opened(opening)
    if isinstance(closing, StatusError) or messages.closed(closing) != (opened.size, opened.time_100ns):
        return None
    if not reading:
        return Begin(opened, memoryview(b""))
    if isinstance(reading[0], StatusError):
        empty = reading[0].status == smb_errors.END_OF_FILE and opened.size == 0
        return Begin(opened, memoryview(b"")) if empty else None
    return Begin(opened, messages.data_read(reading[0]))


def has_room(link: Link) -> bool:
    """Whether the credits pay for one more begin."""
    return link.room(link.read_chunk) == link.read_chunk


def begins(get_link: Callable[[], Link], wanted: Iterable[tuple[K, str | None, bool]]) -> Iterator[tuple[K, Begin | None]]:
    """File after file with its begin. `wanted`: what the caller calls it, its path on the share, whether its content is wanted.

    None instead of a begin where anything is not as it should be, or the path is None: whoever takes that file by itself will
    see. Raises what `get_link` raises.
    """
    waiting = iter(wanted)
    under_way: deque[tuple[K, Link, list[Request]]] = deque()
    more = True
    while True:
        link = get_link()
        while more and (not under_way or (len(under_way) < link.depth and has_room(link))):
            item = next(waiting, None)
            if item is None:
                more = False
            else:
                under_way.append((item[0], link, _asked(link, item[1], item[2])))
        if not under_way:
            return
        key, of, requests = under_way.popleft()
        yield key, _answered(of, requests)


def _asked(link: Link, path: str | None, with_data: bool) -> list[Request]:
    try:
        with link.lock:
            if path is None or (with_data and not has_room(link)):
                return []
            return ask(link, path, link.read_chunk if with_data else 0)
    except LinacError:
        return []


def _answered(link: Link, requests: list[Request]) -> Begin | None:
    try:
        with link.lock:
            return answer(link, requests) if requests else None
    except (StatusError, LinacError):
        return None
