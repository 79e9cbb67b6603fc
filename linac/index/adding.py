"""Logs into batches, batches into the index: what `Index.add` does with what it is given."""

import hashlib
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath

from linac import trf
from linac.errors import StorageError, TrfError
from linac.index import deliveries, names, quarantine, writer
from linac.index.quarantine import Quarantined
from linac.index.writer import Leasing, New, Writer
from linac.transport import Folder

BATCH_BYTES = 64 << 20
"""Raw bytes that are brought into the index at a time, and the most that is kept in memory of what `add` is given."""

COLUMNS = 360
"""Of a delivery's samples, about: a log with fewer item parts takes as much memory."""

MAX_CELLS = 40_000_000
"""A log with more is set aside, or it could take more memory than the nightly run has: 111,000 rows, 74 minutes."""

KNOWN_MONTHS = 12
"""Months whose hashes are kept in memory while adding: a few MB each."""


@dataclass(frozen=True)
class Log:
    """A TRF as it came: its file name (folders may stand before it), its bytes, and the backup or folder it came from."""

    name: str
    data: bytes
    source: str = ""


@dataclass
class Added:
    """What `add` did.

    `indexed` logs are new in the index, with `rows` rows and `bytes` bytes; `duplicates` were known; `quarantined` could not be
    read (name and reason of each distinct one), `quarantined_before` of them were set aside already by an earlier call;
    `released` left the quarantine; `recovered` deliveries were left half-done by a crashed run. `files` are the Parquet files
    written, below the records root. `called` are names that new logs give their machine, other than the serial and than what the
    linac's latest logs in the index say: the site's name for it, or another linac.
    """

    indexed: int = 0
    duplicates: int = 0
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    released: int = 0
    recovered: int = 0
    rows: int = 0
    bytes: int = 0
    files: list[str] = field(default_factory=list)
    quarantined_before: int = 0
    called: list[str] = field(default_factory=list)

    @property
    def newly_quarantined(self) -> list[tuple[str, str]]:
        """Those of `quarantined` that were not set aside before."""
        return self.quarantined[self.quarantined_before :]

    def doubt(self, serial: str) -> str:
        """What to look at if these logs may be of another linac; nothing if they say what they are expected to."""
        if not self.called:
            return ""
        return (
            f"The logs call their machine {' and '.join(map(repr, self.called))}; they are filed under {serial}. If that is no "
            f"name of linac {serial}, they are another linac's: move the deliveries, samples and raw logs of {serial} of their "
            "months away, run compact, and add each linac's logs again under its own serial."
        )

    @property
    def counts(self) -> dict[str, int]:
        """The numbers alone, for a report or `mark_done`."""
        return {
            "indexed": self.indexed,
            "duplicates": self.duplicates,
            "quarantined": len(self.quarantined),
            "rows": self.rows,
            "bytes": self.bytes,
        }


class Adding:
    """One call of `add`."""

    def __init__(
        self, folder: Folder, serial: str, lease: Leasing, batch_bytes: int, progress: Callable[[Added], None] | None
    ) -> None:
        self._folder, self._serial, self._progress = folder, serial, progress
        self._writer = Writer(folder, serial, lease)
        self._batch_bytes = batch_bytes
        self._known: dict[str, dict[str, str]] = {}
        self._batch: dict[str, New] = {}
        self._size = 0
        self._aside: _Aside | None = None
        self._unreadable: set[str] = set()
        self._expected: set[str] = {serial}
        self.added = Added()

    def run(self, logs: Iterable[Log]) -> Added:
        self.added.recovered = self._writer.recover()
        try:
            for log in logs:
                self._take(log)
                if self._size >= self._batch_bytes:
                    self._flush()
                self._report()
        except Exception:
            self._flush()
            raise
        self._flush()
        self._report()
        return self.added

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self.added)

    def _take(self, log: Log) -> None:
        sha256 = hashlib.sha256(log.data).hexdigest()
        try:
            read = trf.decode(log.data, f"log {sha256[:12]}")  # names hold fields, and reasons travel into reports
        except TrfError as error:
            self._set_aside(log, sha256, str(error))
            return
        if too_large := _too_large(read.rows, len(read.header.item_parts)):
            self._set_aside(log, sha256, too_large)
            return
        month = names.month_of(read.header.start)
        if month not in self._known:
            while len(self._known) >= KNOWN_MONTHS:
                del self._known[next(iter(self._known))]
            self._known[month] = writer.known(self._folder, month)
        if sha256 in self._batch or sha256 in self._known[month]:
            self.added.duplicates += 1
            if sha256 not in self._batch:
                self._release(log.name, sha256, log.data)
            return
        if read.header.machine not in self._expected and (reason := self._foreign(read.header.machine)):
            self._set_aside(log, sha256, reason)
            return
        try:
            row = deliveries.make_row(
                read,
                sha256,
                linac=self._serial,
                name=log.name,
                source=log.source,
                size=len(log.data),
                indexed=datetime.now(UTC),
            )
        except MemoryError:
            raise
        except Exception as error:  # a fault of ours must not keep all other logs out, night after night
            self._set_aside(log, sha256, _our_fault(error))
            return
        self._batch[sha256] = New(sha256, log.name, log.data, read, row)
        self._size += len(log.data)

    def _foreign(self, name: str) -> str:
        """Why logs of this machine cannot be of the linac, if so. Its name is the serial, or one that the site chose: that it is
        another serial of this index is the one thing that cannot be right."""
        if name in writer.machines(self._folder):
            return (
                f"It says that it is of linac {name}, which this index has, and came as one of {self._serial}. If it is of "
                f"{name}, add it under that serial; if it lies in the backups of linac {self._serial}, check which "
                "NSS they are of."
            )
        if len(self._expected) == 1:
            self._expected |= writer.called(self._folder, self._serial)
        if name not in self._expected:
            self._expected.add(name)
            self.added.called.append(name)
        return ""

    def _flush(self) -> None:
        batch, self._batch, self._size = list(self._batch.values()), {}, 0
        if not batch:
            return
        done = self._writer.write(batch)
        for new in done.indexed:
            self.added.indexed += 1
            self.added.rows += new.trf.rows
            self.added.bytes += len(new.data)
        self.added.duplicates += len(done.known)
        self.added.files += [name for name in done.files if name not in self.added.files]
        for new in [*done.indexed, *done.known]:
            self._known.setdefault(new.month, {})[new.sha256] = self._serial
            self._release(new.name, new.sha256, new.data)
        for new, error in done.failed:
            self._set_aside(Log(new.name, new.data, new.row["backup"]), new.sha256, _our_fault(error))

    def _set_aside(self, log: Log, sha256: str, reason: str) -> None:
        path = quarantine.file_name(self._serial, log.name, sha256)
        if path in self._unreadable:
            return  # the same again, from an overlapping backup
        self._unreadable.add(path)
        item = (names.log_name(log.name), reason)
        aside = self._set_aside_before()
        if aside.has(path):
            self.added.quarantined.insert(self.added.quarantined_before, item)
            self.added.quarantined_before += 1
            return
        self.added.quarantined.append(item)
        quarantine.put(self._folder, path, sha256, log.data, reason, log.source)
        aside.put(Quarantined(path, names.log_name(log.name), sha256[:12], len(log.data)))

    def _release(self, name: str, sha256: str, data: bytes) -> None:
        """Let go of what was set aside and is in the index now: the same content, or the same log in a better copy, which has the
        same name. One that says another time is another log."""
        aside = self._set_aside_before()
        for item in aside.like(names.log_name(name), sha256[:12]):
            if item.sha256_begin != sha256[:12]:
                try:
                    time = _said_time(self._folder.read(item.file))
                except StorageError:
                    if self._folder.find(item.file) is not None:
                        raise
                    aside.remove(item)  # another run let it go
                    continue
                if time and not data.startswith(time):
                    continue
            quarantine.remove(self._folder, item)
            aside.remove(item)
            self.added.released += 1

    def _set_aside_before(self) -> "_Aside":
        if self._aside is None:
            self._aside = _Aside(quarantine.listed(self._folder, self._serial))
        return self._aside


class _Aside:
    """What is set aside for the linac, listed once: newer software's logs can be very many."""

    def __init__(self, listed: Iterable[Quarantined]) -> None:
        self._files: dict[str, Quarantined] = {}
        self._called: dict[str, set[str]] = {}  # by name, and by the begin of the hash: the files
        for item in listed:
            self.put(item)

    def has(self, file: str) -> bool:
        """Whether a log lies in this file, with its reason beside it."""
        return file in self._files and self._files[file].is_whole

    def put(self, item: Quarantined) -> None:
        """One more."""
        self._files[item.file] = item
        for key in (item.name, item.sha256_begin):
            self._called.setdefault(key, set()).add(item.file)

    def like(self, name: str, sha256_begin: str) -> list[Quarantined]:
        """Those of this name or this content."""
        files = self._called.get(name, set()) | self._called.get(sha256_begin, set())
        return [self._files[file] for file in sorted(files)]

    def remove(self, item: Quarantined) -> None:
        """One less."""
        del self._files[item.file]
        for key in (item.name, item.sha256_begin):
            self._called[key].discard(item.file)


def _said_time(data: bytes) -> bytes:
    """What a log begins with: the length of its time and date, and these. Nothing where no such text is there."""
    text = data[1 : 1 + data[0]] if data else b""
    return data[: 1 + data[0]] if sum(48 <= letter <= 57 for letter in text) >= 10 else b""


def _too_large(rows: int, parts: int) -> str:
    """Why a log would take more memory than the nightly run has, if so. Parts that are not known take half as much again."""
    if rows * (max(parts, COLUMNS) + max(0, parts - COLUMNS) // 2) <= MAX_CELLS:
        return ""
    return (
        f"It has {rows:,} rows of {parts:,} item parts. The longest that is taken for a log has {MAX_CELLS // COLUMNS:,} rows, "
        "more than an hour of 40 ms each: it is damaged, or no log."
    )


def _our_fault(error: Exception) -> str:
    """What kind of error and where, not its text: that may quote the log, and so a field's name."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {PurePath(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return (
        f"This software failed on it ({type(error).__name__}{where}). The log may be in order: report this with the file, and "
        "run retry after the next update."
    )
