"""Fetching a file to the local disk: whole or not at all, going on where an earlier try broke off, and not twice.

While it is under way, `<name>.part-<digest>` lies beside the target with what has arrived and, once that is worth keeping,
`<name>.part-fetch.json`, which says of which file it is and how much of it is safely on the disk. The record is written after
the data was: what a power cut leaves is never taken for more than it is. The digest is of the file's place, size and time, so
that two versions of it never mix; two who fetch the same version at the same time write the same bytes to the same offsets.

A file may be read as soon as it is in its place. It is brought to the disk behind the reader's back (`settling`); until then the
record stays, and a file with a record beside it is not known: after a power cut it is fetched again.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from linac.errors import StorageError
from linac.transport.settling import SETTLING

KEEP_SECONDS = 5.0
"""So often the data is brought to the disk and the record says so, while the next bytes arrive: what a power cut costs."""

PART, RECORD = ".part-", ".part-fetch.json"

SAME_TIME_NS = 1_000_000
"""Times closer than this are the same: file systems keep them to 100 ns or so."""


@dataclass(frozen=True)
class Source:
    """A file as it is now: where, its size in bytes, the time of its last change in ns since 1970."""

    location: str
    size: int
    time_ns: int


def is_known(source: Source, local: Path) -> bool:
    """Whether the local file is this one, by size and time, and safely on the disk."""
    try:
        stat = local.stat()
    except OSError:
        return False
    if stat.st_size != source.size or abs(stat.st_mtime_ns - source.time_ns) >= SAME_TIME_NS:
        return False
    try:
        return SETTLING.wait(local) and not _record(local).exists()
    except OSError:
        return False


def fetch(
    source: Source,
    copy: Callable[[int, Callable[[memoryview | bytes], object]], Callable[[], Source]],
    local: Path,
    verify: Callable[[Path], None] | None,
    replace: Callable[[Path, Path], None],
) -> None:
    """Fetch a file. `copy(offset, take)` hands its bytes from an offset on to `take`; what it returns tells how the file is then.

    Raises what `copy` and `verify` raise, OSError where the local disk fails, and `StorageError` if the file changed meanwhile.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(source, local)
    record = _record(local)
    begin = _kept(source, part, record)
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as file:
        file.seek(begin)
        progress = _Progress(source, file, record, begin)
        try:
            after = copy(begin, progress.take)
        except BaseException:
            progress.keep_what_there_is()
            raise
        progress.end()
        file.truncate()
        now = after()
    if progress.done != source.size or now != source:
        _forget(part, record)
        raise StorageError(
            f"{source.location} changed while it was fetched (it had {source.size} bytes, {progress.done} arrived): it is still "
            "being written. It is fetched anew at the next try."
        )
    if verify is not None:
        _verify(verify, part, local, record)
    with SETTLING.file(local, record, uuid.uuid4().hex):
        try:
            os.utime(part, ns=(source.time_ns, source.time_ns))
            replace(part, local)
        except FileNotFoundError:  # another has fetched the same meanwhile
            if local.stat().st_size != source.size:
                raise
            os.utime(local, ns=(source.time_ns, source.time_ns))


def _verify(verify: Callable[[Path], None], part: Path, local: Path, record: Path) -> None:
    """Raises what `verify` raises, and then nothing stays of what it does not take."""
    try:
        verify(part)
    except Exception:
        if part.exists() or not local.exists():
            _forget(part, record)
            raise
        verify(local)  # another, who fetches the same, has put it there meanwhile


def part_of(source: Source, local: Path) -> Path:
    """Where a version of a file is gathered."""
    digest = hashlib.sha256(json.dumps(asdict(source)).encode(errors="surrogatepass")).hexdigest()[:12]
    return local.with_name(f"{local.name}{PART}{digest}")


def _record(local: Path) -> Path:
    return local.with_name(local.name + RECORD)


def is_begun(local: Path) -> bool:
    """Whether there is something to compare with or to go on from, as far as can be seen."""
    try:
        return local.exists() or _record(local).exists()
    except OSError:
        return False


class _Progress:
    """Takes the bytes; brings them to the disk in a thread of its own, so that the network need not wait for the disk."""

    def __init__(self, source: Source, file: BinaryIO, record: Path, begin: int) -> None:
        self._source, self._file, self._record = source, file, record
        self.done = begin
        self._kept = time.monotonic()
        self._keeper: threading.Thread | None = None

    def take(self, data: memoryview | bytes) -> None:
        self._file.write(data)
        self.done += len(data)
        now = time.monotonic()
        if now - self._kept >= KEEP_SECONDS and (self._keeper is None or not self._keeper.is_alive()):
            self._file.flush()
            self._kept = now
            self._keeper = threading.Thread(target=self._keep, args=(self.done,), name="fetch-to-disk", daemon=True)
            self._keeper.start()

    def _keep(self, done: int) -> None:
        with contextlib.suppress(OSError):  # then a later try begins earlier
            os.fsync(self._file.fileno())
            text = json.dumps({**asdict(self._source), "done": done})
            aside = self._record.with_name(f"{self._record.name}.new")
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, self._record)

    def end(self) -> None:
        self._file.flush()
        if self._keeper is not None:
            self._keeper.join()

    def keep_what_there_is(self) -> None:
        """After a failure."""
        with contextlib.suppress(OSError):
            self.end()
            if self.done:
                self._keep(self.done)


def _kept(source: Source, part: Path, record: Path) -> int:
    """How many bytes of this very file an earlier try has left, for sure."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        said = json.loads(record.read_text(encoding="utf-8"))
        done = int(said.pop("done"))
        kept = Source(**said)
        if kept != source:
            _forget(part_of(kept, part.with_name(record.name.removesuffix(RECORD))), record)  # a version that is no more
        elif 0 < done <= min(source.size, part.stat().st_size):
            return done
    return 0


def _forget(*paths: Path) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
