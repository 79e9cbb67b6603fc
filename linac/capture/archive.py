"""From the journal to the archive: patient sessions as PyMedPhys's apps read them, and the latest messages for a live view.

Everything here can be done again. What the archiver knows is in the journal (what came), in the archive (what is written) and
in the ledger (what is done with); `checkpoint.json` only saves reading the whole journal again. The order at the end of a
session is: write the file beside and rename it, read it back and compare, add the line to the ledger, move the checkpoint.
After a crash in between, the steps before are found done. The journal is cleared only behind the checkpoint.

Memory stays flat, however long a session is and however much waits: each is packed as its messages come, into a file in the
spool.
"""

import hashlib
import json
import lzma
import os
import secrets
import shutil
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

from linac.capture import journal
from linac.capture.journal import Position, Reader
from linac.capture.ledger import ARCHIVED, NO_MU, SET_ASIDE, Ledger, Line, line_for, read_lines
from linac.capture.lock import FileLock
from linac.capture.names import address_folder, patient_folder
from linac.capture.sessions import REMEMBERED, SILENCE_SECONDS, Ended, Kept, Session, SessionCutter, Step, told_gaps
from linac.capture.spool import Spool, write_whole
from linac.errors import AlreadyRunningError, LinacError, StorageError
from linac.transport.paths import Folder

ASIDE = "patients/unknown_error_in_record"
"""Where PyMedPhys puts a session that it cannot read."""

RETENTION_DAYS = 7.0
JOURNAL_LIMIT_BYTES = 50 << 30
"""From 80 % of this on there is a warning; beyond it what is archived goes before its time. What is not archived stays."""

SHORT_BYTES = 4 * journal.RESERVE_BYTES
"""With less than this left on the spool's disk, what is archived goes before its time, oldest first: new data comes first."""

WARN_FREE_BYTES = 10 * journal.RESERVE_BYTES

READ_BYTES = 64 << 20
PENDING_SESSIONS = 16
"""So many finished sessions may wait, packed, for a share that is away; then reading waits, too. The journal holds the rest."""

HANGING_SECONDS = 60.0
"""A call in which nothing has moved for so long waits for a share that does not answer: some system calls never return."""

AWAY_SECONDS = 2.0
"""A failure to store that took longer than this means that the share is away."""

LOOK_SECONDS = 5.0
"""How often the share is looked at while there is nothing to write."""

LIVE_SECONDS = 2.0
"""Messages older than this are not written to `live/` any more."""

LIVE_BUDGET_SECONDS = 0.5
"""What one call may spend on `live/`; what does not fit is left out, oldest first."""

LIVE_PAUSE_SECONDS = 30.0
"""After a failed write, `live/` is left alone for so long."""

SEAL_AFTER_SECONDS = 3600.0
_MARK_EVERY = 256
_LATER_STAMPS = 600
_PIECE_BYTES = 64 << 10
_PRIVATE = 0o600
_STALE_SECONDS = 86400.0


@dataclass(frozen=True)
class Archived:
    """One session that was written. `path` is relative to the iCom folder and holds the patient's identity: never log it.

    `outcome`: `archived` or `set_aside` (then `reason` says why). `stamp`: its file's name without `.xz`. `mu`: monitor units
    delivered. `gaps`: how many times messages may be missing; `missing`: about how many are, or `at_least` so many. `started`,
    `ended`: naive, the linac's local time.
    """

    outcome: str
    path: str = field(repr=False)
    stamp: str
    messages: int
    mu: float
    gaps: int
    started: datetime
    ended: datetime
    reason: str = ""
    missing: int = 0
    at_least: bool = False

    def __str__(self) -> str:
        """One line for a log. No patient in it."""
        gaps = told_gaps(self.gaps, self.missing, at_least=self.at_least)
        return f"session of {self.stamp}, {self.messages} messages, {self.mu:.1f} MU, {gaps}"


@dataclass(frozen=True)
class Backlog:
    """What is in the journal but not yet in the archive: bytes (the session going on included), sessions that wait or go on,
    and when the oldest of them began to arrive (UTC; None without one)."""

    bytes: int
    sessions_open: int
    oldest: datetime | None


class _GoneError(Exception):
    """Somebody removed a draft, or put another journal in the place of ours: begin anew at the checkpoint."""


class _Look(NamedTuple):
    """A packed file as it is: SHA-256 and size, and the SHA-256 of what is packed in it (empty if it is no whole xz file)."""

    digest: str
    size: int
    content: str


class _Draft:
    """A session's file while it grows, in the spool: packed at once, so that half an hour takes 1 or 2 MB and not 60.

    `content`: hash of the messages; `digest`, `size`: of the file, once `finish` was called. Raises `StorageError`.
    """

    def __init__(self, session: Session, folder: Path) -> None:
        self.session = session
        self.content, self._packed = hashlib.sha256(), hashlib.sha256()
        self.size = 0
        self.tried = ""  # a stamp under which we wrote, but what we wrote was not found: ours to write again
        self.path = folder / f"{session.start.sequence}-{session.start.offset}-{secrets.token_hex(4)}.xz"
        self._packer = lzma.LZMACompressor(filters=journal.packing())
        with self._explained():
            folder.mkdir(mode=0o700, exist_ok=True)
            self._file: IO[bytes] | None = self.path.open("wb", buffering=0)  # None once finished
            self._usual = stat.S_IMODE(self.path.stat().st_mode)
            self._set_rights(_PRIVATE)

    def add(self, raw: bytes) -> None:
        self.content.update(raw)
        self._append(self._packer.compress(raw))

    def finish(self) -> None:
        """The session is over. May be called again."""
        if self._file is not None:
            self._append(self._packer.flush())
            self._file.close()
            self._file = None

    @contextmanager
    def open_to_all(self) -> Iterator[None]:
        """While it is stored the file has usual rights, as storing may copy them into the archive; else this account alone may
        read it. It lies in a closed folder all the time."""
        self._set_rights(self._usual)
        try:
            yield
        finally:
            self._set_rights(_PRIVATE)

    def _set_rights(self, mode: int) -> None:
        if os.name != "nt":
            with suppress(OSError):
                self.path.chmod(mode)

    @property
    def digest(self) -> str:
        return self._packed.hexdigest()

    def remove(self) -> None:
        """The file is not needed any more. Never raises: what stays is removed at the next start."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
            self.path.unlink()

    def _append(self, part: bytes) -> None:
        if not part:
            return
        if self._file is None:
            raise ValueError("a finished session takes no more messages")
        self._packed.update(part)
        self.size += len(part)
        with self._explained():
            view = memoryview(part)
            while view:
                view = view[self._file.write(view) :]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The spool {self.path.parent} cannot be written: {error.strerror or error}. Free some space or have the disk "
                "checked: archiving goes on by itself."
            ) from error


class Archiver:
    """Archives one linac's journal into `folder`, the site's iCom folder. Call `run_once` again and again.

    `address` names the folder under `live/`; `live=False` leaves that out. `ready` is asked before anything is written, and
    raises a `LinacError` while the share is away; unless given, the folder has to be there. Two archivers for one spool take
    turns at worst: the second one's `run_once` raises `AlreadyRunningError` while the first is at work.
    """

    def __init__(
        self,
        spool: str | os.PathLike[str],
        serial: str,
        address: str,
        folder: Folder,
        *,
        live: bool = True,
        ready: Callable[[], None] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        retention_days: float = RETENTION_DAYS,
        journal_limit_bytes: int = JOURNAL_LIMIT_BYTES,
    ) -> None:
        self.places = Spool(Path(spool), serial)
        self.folder, self.live, self.ready = folder, live, ready or folder.check
        self.silence_seconds, self.retention_days = silence_seconds, retention_days
        self.journal_limit_bytes = journal_limit_bytes
        self.warnings: list[str] = []
        self._live_folder = f"live/{address_folder(address)}"
        self._live_pause_until = float("-inf")
        self._live: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        self._ledger = Ledger(self.places.ledger)
        self._reader: Reader | None = None
        self._cutter = SessionCutter(silence_seconds)
        self._handled = Position(0, 0)  # sessions that began before are done with
        self._draft: _Draft | None = None
        self._pending: list[_Draft] = []
        self._done: list[Archived] = []
        self._moved: float | None = None  # when something was last done in the call that is going on; None outside of one
        self._not_ready: LinacError | None = None  # what was found at the last look at the share
        self._failed: LinacError | None = None  # these four: in the call that is going on
        self._away = False
        self._asked = False
        self._tried: list[_Draft] = []
        self._told: str | None = None
        self._trouble_since = ""
        self._looked_at = float("-inf")
        self._marks: list[Position] = []
        self._marked = 0
        self._runs: dict[int, str] = {}
        self._saved: dict[str, Any] | None = None
        self._saved_at = self._tended_at = float("-inf")

    def run_once(self, seconds: float = 5.0) -> list[Archived]:
        """Do what there is to do, reading for at most about `seconds`; returns what was newly written.

        Raises `StorageError` while the share or the disk is away: the next call goes on from there, and returns also what this
        one had written. Raises `AlreadyRunningError` while another process archives this linac.
        """
        self._moved = time.monotonic()
        try:
            return self._run_once(seconds)
        finally:
            self._moved = None

    def hanging(self) -> str:
        """Why the call of `run_once` that another thread makes does not get on, if so: then `archive.json` says it, too. Empty
        otherwise."""
        moved = self._moved
        if moved is None or (seconds := time.monotonic() - moved) < HANGING_SECONDS:
            return ""
        text = (
            f"The iCom folder {self.folder.location} does not answer. Have its server and the network looked at; archiving goes "
            "on by itself."
        )
        self._leave(text, datetime.now(UTC) - timedelta(seconds=seconds))
        return text

    def _run_once(self, seconds: float) -> list[Archived]:
        self.places.make()
        with self._alone():
            try:
                failed = self._work(seconds)
            except _GoneError:
                self._forget()
                failed = None
            except BaseException:  # also a flow's cancel: whatever was half done is forgotten, and read again from the checkpoint
                self._forget()
                raise
        if failed is not None:
            raise failed
        done, self._done = self._done, []
        return done

    def _work(self, seconds: float) -> LinacError | None:
        reader = self._restore()
        if self._replaced(reader):
            raise _GoneError
        if self._free() < SHORT_BYTES:  # first of all: on a full disk nothing of what follows works
            self._tend()
        self._failed, self._away, self._asked, self._tried = None, False, False, []
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:  # also while nothing waits, so that it is known early
            self._is_ready()
        self._store_all()
        self._read(reader, time.monotonic() + seconds)
        self._store_all()
        self._write_live()
        self._save()
        self._tend()  # also while much waits: that is when the disk fills
        self._failed = self._failed or self._not_ready  # also in a call that had no need to look
        self._tell()
        return self._failed

    def _is_ready(self) -> bool:
        """Whether the share is there, asked once in a call: a share that is away is never written to, so that nothing comes into
        being where it should be."""
        if not self._asked:
            self._asked, self._looked_at = True, time.monotonic()
            self._not_ready = None
            try:
                self.ready()
            except LinacError as error:
                self._not_ready, self._away = error, True
                self._failed = self._failed or error
        return not self._away

    def _tell(self) -> None:
        """Leave for others to read why nothing can be archived, or that it can. It says nothing of a patient, as all errors."""
        self._leave(str(self._failed) if self._failed is not None else "", datetime.now(UTC))

    def _leave(self, trouble: str, since: datetime) -> None:
        if trouble == self._told:
            return
        if not self._told:
            self._trouble_since = since.isoformat(timespec="seconds")
        facts = {"trouble": trouble, "since": self._trouble_since}
        with suppress(OSError):
            write_whole(self.places.archive_status, json.dumps(facts).encode(), keep=False)
            self._told = trouble

    def finish(self) -> list[Archived]:
        """Archive everything, also the session that is going on, as if the patient had left. For a linac that is removed.

        Raises as `run_once` does.
        """
        done = self.run_once(float("inf"))
        while self._reader is None or not self._reader.at_end:
            done += self.run_once(float("inf"))
        with self._alone():
            self._take_all(self._cutter.end_session())
            self._store_all()
            self._save(force=True)
        self._done = done + self._done
        if self._failed is not None:
            raise self._failed
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Leave the checkpoint where everything before is archived, and nothing in the spool that the next one would not use. The
        next `run_once` begins at the checkpoint."""
        if self._reader is not None:
            with suppress(LinacError), self._alone():  # it only saves work, and tells how much is not archived
                self._save(force=True)
        self._forget()

    def backlog(self) -> Backlog:
        """What is not yet archived."""
        waiting = [draft.session for draft in self._pending]
        if self._draft is not None:
            waiting.append(self._draft.session)
        oldest = min((session.first_ns for session in waiting), default=None)
        committed = self._committed() if self._reader else _read_checkpoint(self.places)[0]
        when = None if oldest is None else datetime.fromtimestamp(oldest / 1e9, UTC)
        return Backlog(_bytes_behind(self.places.journal, committed), len(waiting), when)

    # Reading: journal -> sessions -> drafts.

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.places.archiver_lock)
        if not lock.acquire(1.0):
            raise AlreadyRunningError(
                f"Linac {self.places.serial}: another process archives from the spool {self.places.root} right now. Leave it "
                "to that one; if it should not run, stop its flow run or command."
            )
        try:
            yield
        finally:
            lock.release()

    def _restore(self) -> Reader:
        """Begin where the checkpoint says, a little before it so that repeated messages are recognised."""
        if self._reader is None:
            self._sweep()
            self._handled, warm = _read_checkpoint(self.places)
            self._reader = Reader(self.places.journal, warm)
            self._marks = [warm]
        return self._reader

    def _replaced(self, reader: Reader) -> bool:
        """Whether this is another journal than a moment ago: somebody cleared it by hand, and a new listener began from 1."""
        sequence = reader.position.sequence
        known = journal.segments(self.places.journal)
        if sequence not in known:
            return bool(known) and max(known) < sequence
        ours, now = self._runs.get(sequence), journal.run_of(self.places.journal, sequence)
        return bool(ours and now) and ours != now

    def _sweep(self) -> None:
        """Remove the drafts of processes that were killed: the journal still has what is in them."""
        for left in self.places.drafts.glob("*.xz"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    left.unlink()

    def _forget(self) -> None:
        self._reader, self._cutter, self._marked, self._runs = None, SessionCutter(self.silence_seconds), 0, {}
        for draft in [*self._pending, *([self._draft] if self._draft else [])]:
            draft.remove()
        self._draft, self._pending, self._tried = None, [], []

    def _read(self, reader: Reader, deadline: float) -> None:
        """Take entries from the journal, storing sessions as they end."""
        for entry in reader.read(READ_BYTES):
            going_on = self._cutter.session
            if going_on is not None and going_on.start < self._handled <= entry.start:
                self._cutter.end_session()
            self._runs[entry.end.sequence] = entry.run
            self._moved = time.monotonic()
            self._take_all(self._cutter.feed(entry))
            if self._cutter.messages - self._marked >= _MARK_EVERY:
                self._marked = self._cutter.messages
                self._marks.append(entry.end)
            if self._pending:
                self._store_all()
            if len(self._pending) >= PENDING_SESSIONS or time.monotonic() > deadline:
                return
        if reader.at_end:
            self._take_all(self._cutter.now(time.time_ns(), time.monotonic_ns()))

    def _take_all(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Kept):
                self._take(step)
            elif isinstance(step, Ended):
                draft, self._draft = self._draft, None
                if draft is not None:
                    draft.finish()
                    self._pending.append(draft)

    def _take(self, kept: Kept) -> None:
        session = kept.session
        if session is not None and session.start >= self._handled:
            if self._draft is None:
                self._draft = _Draft(session, self.places.drafts)
            self._draft.add(kept.message.raw)
        if self.live and time.time_ns() - kept.arrived_ns < LIVE_SECONDS * 1e9:
            self._live[kept.message.counter] = (kept.message.raw, kept.arrived_ns)
            self._live.move_to_end(kept.message.counter)

    # Writing: drafts -> files.

    def _store_all(self) -> None:
        """Store what waits, each once a call. One that fails does not hold up the others, unless failing takes long: then the
        share is away."""
        for draft in list(self._pending):
            if draft in self._tried or not self._is_ready():
                continue
            self._tried.append(draft)
            began = time.monotonic()
            try:
                self._store(draft)
                self._moved = time.monotonic()
            except LinacError as error:
                self._failed = self._failed or error
                self._away = time.monotonic() - began > AWAY_SECONDS
            else:
                self._pending.remove(draft)
                draft.remove()
                self._save(force=True)

    def _store(self, draft: _Draft) -> None:
        session = draft.session
        if self._ledger.has(session):
            return
        outcome, reason = judge(session)
        if outcome == NO_MU:
            self._ledger.append(line_for(session, NO_MU))
            return
        patient = patient_folder(session.patient_id, session.patient_name)
        where = f"{'patients' if outcome == ARCHIVED else ASIDE}/{patient}"
        try:
            stamp, digest, size = self._write(where, draft)
            if reason:
                text = f"Session of {session.stamp}, {session.messages} messages: {reason}\n"
                self.folder.write(f"{where}/{stamp}.reason.txt", text.encode())
        except LinacError as error:
            # the text holds the path, and so the patient: neither it nor the error it came from may travel on
            text = str(error).replace(patient, "(patient)")
            which = f"Linac {self.places.serial}, session of {session.stamp}"
            raise StorageError(f"{which}: {text} It waits in the journal, and is stored as soon as that works.") from None
        self._ledger.append(line_for(session, outcome, stamp=stamp, sha256=digest, size=size, reason=reason))
        path = f"{where}/{stamp}.xz"
        self._done.append(
            Archived(
                outcome,
                path,
                stamp,
                session.messages,
                session.mu,
                session.gaps,
                session.started,
                session.ended,
                reason,
                session.missing,
                session.at_least,
            )
        )

    def _write(self, where: str, draft: _Draft) -> tuple[str, str, int]:
        """Write a session's file unless it is there: its stamp, and the file's SHA-256 and size.

        PyMedPhys takes nothing but a time as a name, so a second session of the same second gets the next free one.
        """
        for later in range(_LATER_STAMPS):
            stamp = f"{draft.session.started + timedelta(seconds=later):%Y%m%d_%H%M%S}"
            path = f"{where}/{stamp}.xz"
            if stamp != draft.tried and self.folder.find(path) is not None:
                found = self._look(path)
                if found.content == draft.content.hexdigest():
                    return stamp, found.digest, found.size
                continue
            if not draft.path.exists():
                raise _GoneError
            draft.tried = stamp
            with draft.open_to_all():
                self.folder.store(draft.path, path)
            if self._look(path) != _Look(draft.digest, draft.size, draft.content.hexdigest()):
                raise StorageError(f"{self.folder.location}: a file just written reads back different. Have the storage checked.")
            draft.tried = ""
            return stamp, draft.digest, draft.size
        raise StorageError(f"{self.folder.location}: {_LATER_STAMPS} other sessions stand where this one belongs.")

    def _look(self, path: str) -> "_Look":
        """What an archived file is, piece by piece. Raises `StorageError`."""
        unpacker, packed, content, size, whole = lzma.LZMADecompressor(), hashlib.sha256(), hashlib.sha256(), 0, True
        with self.folder.open(path) as file:
            try:
                while piece := file.read(_PIECE_BYTES):
                    packed.update(piece)
                    size += len(piece)
                    while whole and not unpacker.eof and (piece or not unpacker.needs_input):
                        try:
                            content.update(unpacker.decompress(piece, _PIECE_BYTES))
                        except lzma.LZMAError:
                            whole = False
                        piece = b""
            except OSError as error:
                raise StorageError(
                    f"{self.folder.location}: a session that was archived cannot be read back: {error.strerror or error}."
                ) from None
        return _Look(packed.hexdigest(), size, content.hexdigest() if whole and unpacker.eof else "")

    def _write_live(self) -> None:
        """Best effort: the newest messages first, no longer than the budget, nothing is kept for later."""
        waiting, self._live = self._live, OrderedDict()
        deadline = time.monotonic() + LIVE_BUDGET_SECONDS
        if not waiting or time.monotonic() < self._live_pause_until or not self._is_ready():
            return
        for counter, (raw, _) in reversed(waiting.items()):
            try:
                self.folder.write(f"{self._live_folder}/{counter:03d}.txt", raw, durable=False)
            except LinacError:
                self._live_pause_until = time.monotonic() + LIVE_PAUSE_SECONDS
                return
            if time.monotonic() > deadline:
                return

    # The checkpoint, and what lies behind it.

    def _committed(self) -> Position:
        """Before this, everything is archived."""
        assert self._reader is not None  # noqa: S101 (callers see to it)
        places = [draft.session.start for draft in self._pending]
        if self._draft is not None:
            places.append(self._draft.session.start)
        return max(min(places, default=self._reader.position), self._handled)

    def _warm(self, committed: Position) -> Position:
        """Where to read again from, so that everything a new connection may repeat is known."""
        while len(self._marks) > REMEMBERED // _MARK_EVERY + 2 and self._marks[REMEMBERED // _MARK_EVERY + 1] <= committed:
            del self._marks[0]
        return min(self._marks[0], committed)

    def _save(self, *, force: bool = False) -> None:
        committed = self._committed()
        warm = self._warm(committed)
        if committed.sequence not in self._runs:
            self._runs[committed.sequence] = journal.run_of(self.places.journal, committed.sequence) or ""
        facts = {"committed": committed, "run": self._runs[committed.sequence], "warm": warm}
        if facts == self._saved or (not force and time.monotonic() - self._saved_at < 5.0):
            return
        try:
            write_whole(self.places.checkpoint, json.dumps(facts).encode())
        except OSError:
            return  # it only saves work; the local disk's trouble shows elsewhere
        self._saved, self._saved_at = facts, time.monotonic()

    def _tend(self) -> None:
        """Pack old segments, remove archived ones after their time, warn before the disk is full. In small bits, now and then."""
        if time.monotonic() - self._tended_at < 60.0:
            return
        committed = self._committed()
        warm = self._warm(committed)
        known = journal.segments(self.places.journal)
        sizes, ages = {}, {}
        for sequence, path in known.items():
            with suppress(OSError):
                found = path.stat()
                sizes[sequence], ages[sequence] = found.st_size, time.time() - found.st_mtime
        total, newest, free = sum(sizes.values()), max(known, default=0), self._free()
        for sequence in sizes:
            late = ages[sequence] > self.retention_days * 86400 or total > self.journal_limit_bytes or free < SHORT_BYTES
            if sequence < min(warm.sequence, newest) and late:
                with suppress(OSError):
                    known[sequence].unlink()
                    total, free = total - sizes[sequence], free + sizes[sequence]
        plain = [number for number in sizes if known[number].name.endswith(journal.SUFFIX) and known[number].exists()]
        ripe = [number for number in plain if number != newest and ages[number] > SEAL_AFTER_SECONDS]
        self._tended_at = time.monotonic()
        self.warnings = list(self._warn(total))
        if ripe:
            try:
                if journal.seal(self.places.journal, ripe[0]) and len(ripe) > 1:
                    self._tended_at = float("-inf")
            except StorageError as error:
                self.warnings.append(str(error))

    def _warn(self, total: int) -> Iterator[str]:
        if total > 0.8 * self.journal_limit_bytes:
            yield (
                f"The journal of linac {self.places.serial} takes {total >> 20} of the {self.journal_limit_bytes >> 20} MB it "
                "may take. If the records share is away, bring it back: the backlog then drains by itself."
            )
        free = self._free()
        if free < WARN_FREE_BYTES:
            yield (
                f"The disk of the spool {self.places.root} has only {int(free) >> 20} MB left. "
                f"Below {journal.RESERVE_BYTES >> 20} MB the recording of the linac stops. Free some space."
            )

    def _free(self) -> float:
        """Bytes left on the spool's disk."""
        with suppress(OSError):
            return shutil.disk_usage(self.places.journal).free
        return float("inf")


def judge(session: Session) -> tuple[str, str]:
    """What becomes of a session, and why if it is set aside: `archived`, `no_mu` or `set_aside`.

    As PyMedPhys does it: what it could not read as a delivery is set aside, so that everything under `patients/` can be read.
    """
    if session.lacking and (session.mu or "Delivery MU" in session.lacking):
        missing = ", ".join(f"{count} without {name}" for name, count in session.lacking.items())
        return SET_ASIDE, f"no delivery can be made of it: {missing}. Every message is kept in the file beside this one."
    return (ARCHIVED, "") if session.mu else (NO_MU, "")


def sessions(spool: str | os.PathLike[str], serial: str) -> list[Line]:
    """What was done with the sessions of a linac, oldest first, without identities. Raises `StorageError`."""
    places = Spool(Path(spool), serial)
    try:
        return read_lines(places.ledger)
    except OSError as error:
        raise StorageError(f"The list of sessions {places.ledger} cannot be read: {error.strerror or error}.") from error


def backlog_bytes(spool: str | os.PathLike[str], serial: str) -> int:
    """What the journal holds that is not yet archived, in bytes, as of the archiver's last checkpoint."""
    places = Spool(Path(spool), serial)
    return _bytes_behind(places.journal, _read_checkpoint(places)[0])


def _bytes_behind(folder: Path, committed: Position) -> int:
    total = 0
    for sequence, path in journal.segments(folder).items():
        if sequence >= committed.sequence:
            with suppress(OSError):
                size = path.stat().st_size  # packed it may be less than the offset, which counts unpacked bytes
                total += max(size - (committed.offset if sequence == committed.sequence else 0), 0)
    return total


def _read_checkpoint(places: Spool) -> tuple[Position, Position]:
    """Up to where everything is archived, and where to begin reading. The beginning, if there is no checkpoint or the journal is
    another one than it was made for."""
    try:
        facts = json.loads(places.checkpoint.read_bytes())
        committed, warm = Position(*map(int, facts["committed"])), Position(*map(int, facts["warm"]))
        run = facts["run"]
    except (OSError, ValueError, TypeError, KeyError):
        return Position(0, 0), Position(0, 0)
    if committed.sequence and journal.run_of(places.journal, committed.sequence) != run:
        return Position(0, 0), Position(0, 0)
    return committed, warm
