"""The journal: every byte that came from the linac, in the order it came, on the local disk.

A journal is a folder of segments `<sequence>.journal`, to which records are only ever appended. A record is a header and a
payload, see `encode`. Data records hold bytes exactly as received; the others say what happened in between (connected,
disconnected, bytes dropped ...) as a small JSON object. Nothing here knows what an iCom message is.

How it survives. Header and payload each carry a CRC, so that a damaged length never leads astray: after damage the reader
looks for the next marker whose header is sound and says what it passed over. A writer that starts always opens a new segment,
so a torn tail is never written over: in the newest segment it means "still being written, wait", in an older one it is
recorded as a fact. Records are numbered through a run of the writer; after a write or sync that failed, the writer puts what
was not yet safe into a new segment once more, and the reader drops what it has seen and reports what is missing.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, NamedTuple

from linac.capture.spool import private, sync_folder
from linac.errors import JournalError, StorageError

MARKER = b"\xf0LJ1"
"""Starts a record. 0xF0 before ASCII is not UTF-8, and no iCom value seen so far holds it."""

_HEAD = struct.Struct("<4sBxxxQqqI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + 2 * _CRC.size
MAX_PAYLOAD = 256 << 10
READ_BYTES = 512 << 10
"""The reader takes this much at a time: more than the largest record, or it could not tell a damaged one from a long one; and not
much more, or a backlog would cost memory."""

DICTIONARY_BYTES = 128 << 10
"""Of lzma, for everything that capture packs. The default needs 9 MB of memory and packs messages, 8 kB each and much like the
one before, no smaller."""

SEGMENT_BYTES = 32 << 20
SEGMENT_SECONDS = 3600.0
RESERVE_BYTES = 512 << 20
"""The writer leaves this much of the disk free: a full system disk would take the whole computer down."""

_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

SUFFIX = ".journal"
SEALED_SUFFIX = ".journal.xz"
_SEGMENT_NAME = re.compile(r"(\d{8,})\.journal(\.xz)?")


class DiskFullError(StorageError):
    """The journal cannot be written because its disk has no room left."""


class Kind(IntEnum):
    """What a record says, with the facts in it. Readers pass over kinds that they do not know."""

    OPENED = 0  # run (random), serial: the first record of every segment, outside the numbering
    DATA = 1  # no facts but the bytes as received
    CONNECTED = 2  # peer
    DISCONNECTED = 3  # reason
    DROPPED = 4  # bytes, first_wall_ns, last_wall_ns: the disk did not keep up; the stream has a hole here
    STARTED = 5  # pid, address, port
    STOPPED = 6  # reason
    SILENT = 7  # seconds: connected, but nothing came for so long


@dataclass(frozen=True, slots=True)
class Record:
    """One entry. `wall_ns`: nanoseconds since 1970 (UTC) by this computer's clock; `mono_ns`: by its monotonic clock."""

    kind: int
    number: int
    wall_ns: int
    mono_ns: int
    payload: bytes

    def facts(self) -> dict[str, Any]:
        """The facts of a record that is not data. Empty where they cannot be read."""
        with contextlib.suppress(ValueError):
            facts = json.loads(self.payload)
            if isinstance(facts, dict):
                return facts
        return {}


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in the journal where records are lost: `size` bytes passed over (0 where they are missing altogether).

    `torn`: it reaches to the end of its segment, as after a power cut in the middle of a write.
    """

    reason: str
    size: int
    torn: bool = False


class Position(NamedTuple):
    """A place in a journal: segment, and byte offset in it. Positions order like time."""

    sequence: int
    offset: int


class Entry(NamedTuple):
    """What the reader found between two positions, in a run of the writer (a random name, empty where it is not known)."""

    start: Position
    end: Position
    what: Record | Damage
    run: str = ""


def encode(record: Record) -> bytes:
    """The bytes of a record. Raises `ValueError` for a payload over 256 KiB.

    Layout, little endian: marker (4 bytes), kind (u8), 3 unused, number (u64), wall_ns (i64), mono_ns (i64), payload length
    (u32), CRC-32 of all that (u32), CRC-32 of all that and the payload (u32), payload.
    """
    if len(record.payload) > MAX_PAYLOAD:
        raise ValueError(f"a journal record holds at most {MAX_PAYLOAD} bytes, not {len(record.payload)}")
    head = _HEAD.pack(MARKER, record.kind, record.number, record.wall_ns, record.mono_ns, len(record.payload))
    crc = zlib.crc32(head)
    return b"".join((head, _CRC.pack(crc), _CRC.pack(zlib.crc32(record.payload, crc)), record.payload))


_SHORT, _BAD = "it is cut short", "its checksum is wrong"


def _record_at(data: bytes, at: int) -> tuple[Record, int] | str:
    """The record at an offset and where it ends, or why there is none: `_SHORT` if more bytes could still make it one."""
    left = len(data) - at
    if left < HEADER_BYTES:
        return _SHORT if MARKER.startswith(data[at : at + 4]) else _BAD
    if not _sound_header(data, at):
        return _BAD
    _, kind, number, wall_ns, mono_ns, length = _HEAD.unpack_from(data, at)
    end = at + HEADER_BYTES + length
    if end > len(data):
        return _SHORT
    payload = data[at + HEADER_BYTES : end]
    (header_crc,) = _CRC.unpack_from(data, at + _HEAD.size)
    (crc,) = _CRC.unpack_from(data, at + _HEAD.size + _CRC.size)
    if zlib.crc32(payload, header_crc) != crc:
        return _BAD
    return Record(kind, number, wall_ns, mono_ns, payload), end


def _sound_header(data: bytes, at: int) -> bool:
    if not data.startswith(MARKER, at) or len(data) - at < HEADER_BYTES:
        return False
    (crc,) = _CRC.unpack_from(data, at + _HEAD.size)
    (length,) = _CRC.unpack_from(data, at + _HEAD.size - _CRC.size)
    return bool(length <= MAX_PAYLOAD and zlib.crc32(data[at : at + _HEAD.size]) == crc)


def _next_sound_header(data: bytes, at: int) -> int | None:
    while (at := data.find(MARKER, at)) >= 0:
        if _sound_header(data, at):
            return at
        at += 1
    return None


def decode(data: bytes, *, final: bool) -> Iterator[tuple[Record | Damage, int]]:
    """The records in a piece of a segment, each with the offset behind it; damage between them as `Damage`.

    `final`: nothing will follow `data`, so that what is cut short is lost. Otherwise the walk ends before an incomplete
    record; call again with the rest and more.
    """
    at = 0
    while at < len(data):
        found = _record_at(data, at)
        if not isinstance(found, str):
            record, at = found
            yield record, at
            continue
        following = _next_sound_header(data, at + 1)
        if following is None:
            if final:
                yield Damage(f"a record at the end of a journal segment is lost: {found}", len(data) - at, torn=True), len(data)
                return
            if len(data) - at <= HEADER_BYTES + MAX_PAYLOAD:
                return
            following = len(data) - HEADER_BYTES  # no record is that long: pass over it, but not over a header cut in two
        yield Damage(f"a record inside a journal segment is lost: {found}", following - at), following
        at = following


def segments(folder: Path) -> dict[int, Path]:
    """The segments of a journal by sequence number, in order. Raises `StorageError` where the folder cannot be read."""
    found: dict[int, Path] = {}
    try:
        for name in os.listdir(folder):
            match = _SEGMENT_NAME.fullmatch(name)
            if match and (match[2] is None or int(match[1]) not in found):
                found[int(match[1])] = folder / name
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"The journal {folder} cannot be read: {error.strerror or error}. Check the local disk.") from error
    return dict(sorted(found.items()))


def size(folder: Path) -> int:
    """What a journal takes on the disk, in bytes."""
    total = 0
    for path in segments(folder).values():
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def _read(path: Path, offset: int, count: int) -> bytes:
    """Up to `count` bytes of a segment. Raises `OSError`, and `JournalError` for a packed one that cannot be unpacked."""
    if path.name.endswith(SEALED_SUFFIX):
        with contextlib.closing(_Packed(path)) as packed:
            return packed.read(offset, count)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(count)


class _Packed:
    """A packed segment, read from front to back without unpacking it anew for each piece."""

    def __init__(self, path: Path) -> None:
        import lzma  # here, so that the listener, which only writes, does without

        self.path = path
        self._file = lzma.open(path)  # noqa: SIM115 (`close` is the caller's)
        self._at, self._held = 0, b""  # what was handed out last may be asked for once more, from the middle on

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on. Raises `OSError` and `JournalError`."""
        import lzma

        try:
            if offset < self._at:
                self._file.seek(0)
                self._at, self._held = 0, b""
            while offset > self._at + len(self._held):
                self._at += len(self._held)
                self._held = self._file.read(min(READ_BYTES, offset - self._at))
                if not self._held:
                    return b""
            rest = self._held[offset - self._at :]
            self._at, self._held = offset, (rest + self._file.read(count - len(rest)) if len(rest) < count else rest)
            return self._held[:count]
        except (EOFError, lzma.LZMAError) as error:
            raise JournalError(f"The packed journal segment {self.path} is damaged. Move it away to go on without it.") from error

    def close(self) -> None:
        self._file.close()


def run_of(folder: Path, sequence: int) -> str | None:
    """The run that wrote a segment, or None where the segment is gone or its first record unreadable."""
    path = segments(folder).get(sequence)
    if path is None:
        return None
    try:
        head = _read(path, 0, HEADER_BYTES + 4096)
    except (OSError, JournalError):
        return None
    for what, _ in decode(head, final=False):
        if isinstance(what, Record) and what.kind == Kind.OPENED:
            return str(what.facts().get("run", ""))
        break
    return None


class Reader:
    """Reads a journal from a position on, also while it is being written.

    `position` is behind the last entry handed out. What is being written at the end is waited for: call `read` again.
    `at_end`: the last `read` ended because there was no more.
    """

    def __init__(self, folder: Path, position: Position | None = None) -> None:
        self.folder = folder
        self.position = position or Position(0, 0)
        self.at_end = False
        self._run = (run_of(folder, position.sequence) if position and position.offset else None) or ""
        self._whole = self.position == Position(0, 0)  # else segments before it may have had their time
        self._last: int | None = None  # number of the last record of this run
        self._damage: list[Entry] = []  # held back until the next record tells whether anything is lost
        self._packed: _Packed | None = None

    def _piece(self, path: Path, offset: int) -> bytes:
        """The next bytes of a segment."""
        packed = self._packed
        if packed is not None and packed.path != path:
            packed.close()
            packed = self._packed = None
        if not path.name.endswith(SEALED_SUFFIX):
            return _read(path, offset, READ_BYTES)
        if packed is None:
            packed = self._packed = _Packed(path)
        return packed.read(offset, READ_BYTES)

    def read(self, limit_bytes: int | None = None) -> Iterator[Entry]:
        """Entries from `position` to the end that is there now, or until about `limit_bytes` are read.

        Raises `StorageError` where the disk fails; then nothing is lost, call again.
        """
        at, taken = self.position, 0
        self.at_end = False
        if self._damage:
            at = self._damage[-1].end
        while limit_bytes is None or taken < limit_bytes:
            known = segments(self.folder)
            later = min((sequence for sequence in known if sequence > at.sequence), default=None)
            if at.sequence not in known:
                if later is None:
                    self.at_end = True
                    return
                if at.sequence > 0:
                    yield from self._lost(at, later, f"journal segment {at.sequence} is gone; was it removed by hand?")
                at = Position(later, 0)
                continue
            try:
                data = self._piece(known[at.sequence], at.offset)
            except JournalError as error:
                if later is None:
                    raise
                yield from self._lost(at, later, str(error))
                at = Position(later, 0)
                continue
            except OSError as error:
                raise StorageError(
                    f"The journal segment {known[at.sequence]} cannot be read: {error.strerror or error}. Check the disk."
                ) from error
            taken += len(data)
            finished = later is not None and len(data) < READ_BYTES  # `later` was known before reading: all of it is here
            base = at.offset
            for what, end in decode(data, final=finished):
                entry = Entry(at, Position(at.sequence, base + end), what, self._run)
                at = entry.end
                yield from self._judge(entry)
            if finished and later is not None:
                if later != at.sequence + 1:
                    yield from self._lost(at, later, f"journal segments {at.sequence + 1} to {later - 1} are gone")
                at = Position(later, 0)
            elif at.offset == base:
                self.at_end = True
                return

    def _lost(self, start: Position, later: int, reason: str) -> Iterator[Entry]:
        """Go on in a later segment, saying so."""
        self.position = Position(later, 0)
        yield Entry(start, self.position, Damage(reason, 0), self._run)

    def _judge(self, entry: Entry) -> Iterator[Entry]:
        """Hand out a record and the damage before it, or not: repeats are dropped, damage without loss is forgotten."""
        what = entry.what
        if isinstance(what, Damage):
            self._damage.append(entry)
            return
        if what.kind == Kind.OPENED:
            run = str(what.facts().get("run", ""))
            if run == self._run:
                return
            self._last = 0 if self._run or self._whole else None
            self._run = run
        elif self._last is not None:
            if what.number <= self._last:
                return
            if what.number == self._last + 1:
                self._damage.clear()
            elif not self._damage:
                missing = Damage(f"journal records {self._last + 1} to {what.number - 1} are missing", 0)
                self._damage.append(Entry(entry.start, entry.start, missing, self._run))
        for lost in self._damage:
            self.position = lost.end
            yield lost
        self._damage.clear()
        if what.kind != Kind.OPENED:
            self._last = what.number
        self.position = entry.end
        yield entry._replace(run=self._run)


class Writer:
    """Appends records, from one thread. Nothing is on its way to the disk before `commit`, nothing safe before `sync`.

    Both raise `StorageError` when the disk is full or fails; nothing is lost by that: what is not yet safe is kept and
    written again by the next `commit`, into a new segment. The caller decides how much may pile up.
    """

    def __init__(
        self,
        folder: Path,
        serial: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self.folder, self.serial, self.run = folder, serial, secrets.token_hex(8)
        self.segment_bytes, self.segment_seconds, self.reserve_bytes = segment_bytes, segment_seconds, reserve_bytes
        self.free_bytes: int | None = None
        self.written = 0
        self._number = 0
        self.path: Path | None = None  # of the segment that is open
        self._sequence = 0
        self._file: IO[bytes] | None = None
        self._offset = 0
        self._opened = 0.0
        self._looked = float("-inf")
        self._waiting: list[bytes] = []
        self._unsynced: list[bytes] = []

    @property
    def dirty(self) -> bool:
        """Whether something is written that a power cut could still take."""
        return bool(self._unsynced)

    def append(self, kind: Kind, payload: bytes, wall_ns: int, mono_ns: int) -> None:
        """Queue one record of at most 256 KiB."""
        self._number += 1
        self._waiting.append(encode(Record(kind, self._number, wall_ns, mono_ns, payload)))

    def note(self, kind: Kind, wall_ns: int, mono_ns: int, **facts: Any) -> None:
        """Queue a record that is not data."""
        self.append(kind, json.dumps(facts).encode(), wall_ns, mono_ns)

    def commit(self) -> None:
        """Hand the queued records to the operating system: readers see them from here on."""
        if not self._waiting:
            return
        self._check_room()
        try:
            if self._file is None or self._offset >= self.segment_bytes or self._age() >= self.segment_seconds:
                self._next_segment()
            self._write(b"".join(self._waiting))
        except OSError as error:
            self._abandon()
            raise _disk_error(self.folder, error) from error
        self._unsynced += self._waiting
        self._waiting = []

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        if self._file is None or not self._unsynced:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._abandon()
            raise _disk_error(self.folder, error) from error
        self._unsynced = []

    @property
    def unsafe_bytes(self) -> int:
        """What was appended of the linac's bytes and is not yet safe on the disk."""
        records = [*self._waiting, *self._unsynced]
        return sum(len(record) - HEADER_BYTES for record in records if record[len(MARKER)] == Kind.DATA)

    def renew(self) -> None:
        """The folder was taken away under us: make it again and go on in a new segment, with what is not yet safe."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _disk_error(self.folder, error) from error
        self._abandon()

    def close(self) -> None:
        """Commit, sync and let go of the segment. Raises `StorageError` if that fails; the file is let go of all the same."""
        try:
            self.commit()
            self.sync()
        finally:
            file, self._file, self.path = self._file, None, None
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def _age(self) -> float:
        return time.monotonic() - self._opened

    def _check_room(self) -> None:
        if time.monotonic() - self._looked < 1.0:
            return
        try:
            self.free_bytes = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise _disk_error(self.folder, error) from error
        if self.free_bytes < self.reserve_bytes:
            raise DiskFullError(
                f"NOTHING IS BEING WRITTEN: the disk of {self.folder} has only {self.free_bytes >> 20} MB left, and "
                f"{self.reserve_bytes >> 20} MB are kept free for the computer. Free some space: recording resumes by itself as "
                "soon as there is room."
            )
        self._looked = time.monotonic()

    def _next_segment(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file, self._unsynced = None, []
        self._sequence = max(self._sequence, *segments(self.folder), 0) + 1
        path = self.folder / f"{self._sequence:08d}{SUFFIX}"
        self._file, self.path = open(path, "xb", buffering=0, opener=private), path  # noqa: SIM115 (it stays open)
        self._offset, self._opened = 0, time.monotonic()
        try:
            facts = json.dumps({"run": self.run, "serial": self.serial}).encode()
            self._write(encode(Record(Kind.OPENED, 0, time.time_ns(), time.monotonic_ns(), facts)))
            sync_folder(self.folder)
        except OSError:
            self._abandon()
            path.unlink(missing_ok=True)
            raise

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101 (a segment is open: only commit and _next_segment call this)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._offset += len(data)
        self.written += len(data)

    def _abandon(self) -> None:
        """Leave the segment as far as it is good, and queue what was not yet safe once more."""
        self._waiting[:0] = self._unsynced
        self._unsynced = []
        file, self._file, self.path = self._file, None, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.truncate(self._offset)
            with contextlib.suppress(OSError):
                file.close()


def _disk_error(folder: Path, error: OSError) -> StorageError:
    kind = DiskFullError if error.errno in _NO_ROOM else StorageError
    return kind(
        f"NOTHING IS BEING WRITTEN: the journal in {folder} cannot be: {error.strerror or error}. Free some space or have the "
        "disk checked: recording resumes by itself as soon as it can be written again."
    )


def packing() -> list[dict[str, int]]:
    """How capture packs with lzma: ten times faster than the default, and in a megabyte of memory."""
    import lzma

    return [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": DICTIONARY_BYTES}]


def seal(folder: Path, sequence: int) -> bool:
    """Pack a segment that is no longer written to, about twenty times smaller. Whether it is packed now.

    Positions in it stay what they are. The newest segment is left alone. Safe to interrupt: the plain segment goes only
    after the packed one was read back.
    """
    import lzma

    known = segments(folder)
    plain = folder / f"{sequence:08d}{SUFFIX}"
    packed = folder / f"{sequence:08d}{SEALED_SUFFIX}"
    if sequence not in known or sequence == max(known):
        return False
    if known[sequence] != plain:
        return True
    part = packed.with_name(f"{packed.name}.part")
    try:
        with (
            plain.open("rb") as source,
            open(part, "wb", opener=private) as file,
            lzma.open(file, "wb", filters=packing()) as target,
        ):
            shutil.copyfileobj(source, target, READ_BYTES)
        with plain.open("rb") as source, lzma.open(part) as target:
            while block := source.read(READ_BYTES):
                if target.read(len(block)) != block:
                    raise OSError("reading back gave something else")
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        shutil.copystat(plain, part)  # its age counts from when it was written
        os.replace(part, packed)
        sync_folder(folder)
        plain.unlink()
    except PermissionError:  # somebody has it open on Windows: another time
        part.unlink(missing_ok=True)
        return False
    except (OSError, EOFError, lzma.LZMAError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(f"The journal segment {plain} could not be packed: {error}. It is kept as it is.") from error
    return True
