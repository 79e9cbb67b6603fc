"""When does a message stand on the disk? Seen from outside, by looking at the files again and again."""

import contextlib
import time
from pathlib import Path

from launch.bench_capture_sides import SERIAL, Ours, Side
from linac.capture import journal
from linac.capture.journal import Kind, Record
from linac.capture.spool import Spool


class Watch:
    """Looks for the messages of a connection, in their order. `sent`: `perf_counter_ns` and bytes of each, from the first one on;
    whoever owns the list adds to it. `seen`: by the message's place in that list, the moment of the look that found it."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.seen: list[int] = []

    def look(self) -> None:
        """Look now. Cheap where nothing has changed."""
        raise NotImplementedError

    def latencies_ms(self, first: int) -> list[float]:
        """From being sent to being seen, of the messages from `first` on that were seen."""
        pairs = list(zip(self.sent, self.seen, strict=False))[first:]
        return [(seen - sent) / 1e6 for (sent, _), seen in pairs]


class JournalWatch(Watch):
    """Our journal: a message is there once the linac's bytes up to its last one are."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._path: Path | None = None
        self._rest = b""
        self._read = self._bytes = self._wanted = 0

    def look(self) -> None:
        if self._path is None:
            self._path = next(iter(journal.segments(self._folder).values()), None)
            return
        with contextlib.suppress(OSError):
            if self._path.stat().st_size == self._read:
                return
            now = time.perf_counter_ns()
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self._read += len(new)
            data, end = self._rest + new, 0
            for what, upto in journal.decode(data, final=False):
                end = upto
                if isinstance(what, Record) and what.kind == Kind.DATA:
                    self._bytes += len(what.payload)
            self._rest = data[end:]
            while len(self.seen) < len(self.sent) and self._bytes >= self._wanted + len(self.sent[len(self.seen)][1]):
                self._wanted += len(self.sent[len(self.seen)][1])
                self.seen.append(now)


class LiveWatch(Watch):
    """PyMedPhys's `live/`: a message is there once the file named by its counter holds it, whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def look(self) -> None:
        if len(self.seen) == len(self.sent):
            return
        _, data = self.sent[len(self.seen)]
        path = self._folder / f"{data[26]:03d}.txt"
        with contextlib.suppress(OSError):
            if path.stat().st_size == len(data):
                now = time.perf_counter_ns()
                if path.read_bytes() == data:
                    self.seen.append(now)


def watch_for(side: Side) -> Watch:
    """The place where a side first puts a message on the disk."""
    if isinstance(side, Ours):
        return JournalWatch(Spool(side.spool, SERIAL).journal)
    return LiveWatch(side.root / "live" / side.address[0])
