"""The TRFs inside a diagnostic backup (`SDD+*.zip`) of the NSS, one at a time.

>>> import io, zipfile
>>> packed = io.BytesIO()
>>> with zipfile.ZipFile(packed, "w") as backup:
...     backup.writestr("TCS/Logs/17_04_19 21_18_39 Z .TRF", b"a log")
...     backup.writestr("TCS/other.txt", b"not one")
>>> [(member.name, member.data) for member in read_trfs(packed)]
[('TCS/Logs/17_04_19 21_18_39 Z .TRF', b'a log')]

Only one log is in memory at a time, however many members there are, and nothing is written to disk. It does not decode the
logs, and takes none out of a zip within the zip (no backup is known to hold such): one that has logs comes as a member with an
error. Names are for people: never use one as a path.
"""

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from isal import isal_zlib

from linac.errors import BackupError, StorageError

MAX_TRF_BYTES = 128 << 20
"""A larger member is not read: it would be 2 hours of rows (17.5 kB a second; half as long in version 4), or a zip bomb."""

MAX_DIRECTORY_BYTES = 8 << 20
"""A zip's directory is read whole, which takes many times its size in memory, unless it is larger: 70,000 members or more."""

MAX_ZIP_WITHIN_BYTES = 1 << 30
"""A larger zip within the zip is told without being looked at."""

_CHUNK = 1 << 20
_FIRST_CHUNK = 1 << 12

_IsalError: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub takes the class for an instance

_LOCAL = b"PK\x03\x04"
_ENTRY = b"PK\x01\x02"
_DESCRIPTOR = b"PK\x07\x08"
_STORED, _DEFLATED = 0, 8
_ENCRYPTED_FLAG, _SIZES_FOLLOW_FLAG, _UTF8_FLAG = 0x1, 0x8, 0x800


_NO_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, struct.error, EOFError)
"""What opening a zip raises whose directory is missing or damaged."""


class Member(NamedTuple):
    """One TRF of a backup: its bytes, or why they could not be had. `name` is as the zip says, with `/` between folders."""

    name: str
    data: bytes | None
    error: BackupError | None = None


def read_trfs(source: str | os.PathLike[str] | IO[bytes], *, max_bytes: int = MAX_TRF_BYTES) -> Iterator[Member]:
    """The members whose names end in `.trf`, in any case and any folder, one after the other.

    `source` is the zip's path, or a binary file object that can seek. A member that is damaged, encrypted or larger than
    `max_bytes` comes with its error, and the others go on; so does a zip within the zip that has logs. Where the zip itself is
    damaged or cut short, every log that is whole still comes; then `BackupError` is raised, which says how many there were.
    Raises `StorageError` where the file cannot be opened or read.
    """
    if not isinstance(source, str | os.PathLike):
        yield from _members(source, max_bytes)
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 (closed below; opened here so that its errors are told apart)
    except OSError as error:
        raise _storage(error) from error
    with file:
        yield from _members(file, max_bytes)


def check_zip(path: os.PathLike[str]) -> None:
    """Raise `BackupError` unless the file is a zip that has its directory, as a whole one has at its end; milliseconds.

    Whether the logs in it are whole is checked as they are read. Raises `StorageError` where the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            try:
                _open(file).close()
            except _LargeDirectoryError as large:
                _count_listed(file, large)
    except _NO_ZIP as error:
        raise BackupError("The backup is no zip, or cut short: it has no directory. Fetch it again.") from error
    except OSError as error:
        raise _storage(error) from error


class _LargeDirectoryError(Exception):
    """The zip's directory is larger than `MAX_DIRECTORY_BYTES`: where it begins, and its size."""

    def __init__(self, at: int, size: int) -> None:
        super().__init__(at, size)
        self.at, self.size = at, size


class _Opening:
    """A zip's file, for `zipfile` to open: that reads the directory in one piece, and one that is too large is refused."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.opened = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES and not self.opened:
            raise _LargeDirectoryError(self._file.tell(), size)
        return self._file.read(size)


def _open(file: IO[bytes]) -> zipfile.ZipFile:
    opening: Any = _Opening(file)
    archive = zipfile.ZipFile(opening)
    opening.opened = True
    return archive


def _members(file: IO[bytes], max_bytes: int) -> Iterator[Member]:
    try:
        archive = listed = None
        try:
            archive = _open(file)
        except _LargeDirectoryError as large:
            listed = _count_listed(file, large)
    except _NO_ZIP as error:
        # Bytes are only as bad as their directory, which stands at the end: walk the members from the start instead.
        yield from _salvage(file, max_bytes, error)
        return
    except OSError as error:
        raise _storage(error) from error
    if archive is None:
        yield from _one_by_one(file, max_bytes, listed or 0)
        return
    with archive:
        for info in archive.infolist():
            if _is_trf(info.filename):
                yield _read(archive, file, info, max_bytes)
            elif _is_zip(info.filename) and _holds_logs(archive, info):
                yield _failed(_clean(info.filename), _ZIP_WITHIN)


def _holds_logs(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    """Whether a zip within the zip has logs, or zips of its own, or cannot be looked into. Each member of a zip has its name in
    clear before its bytes."""
    if info.file_size > MAX_ZIP_WITHIN_BYTES:
        return True
    kept = b""
    try:
        with archive.open(info) as inner:
            while chunk := inner.read(_CHUNK):
                kept += chunk
                at = kept.find(_LOCAL)
                while at >= 0:
                    name_at = at + 30
                    name = kept[name_at : name_at + int.from_bytes(kept[at + 26 : at + 28], "little")]
                    if name.lower().endswith((b".trf", b".zip")):
                        return True
                    at = kept.find(_LOCAL, at + 1)
                kept = kept[-(1 << 10) :]  # a name that the next chunk ends
    except OSError as error:
        if error.errno is not None:
            raise _storage(error) from error
        return True
    except (*_NO_ZIP, zlib.error, lzma.LZMAError, RuntimeError):
        return True
    return False


def _read(archive: zipfile.ZipFile, file: IO[bytes], info: zipfile.ZipInfo, max_bytes: int) -> Member:
    name = _clean(info.filename)
    if info.flag_bits & _ENCRYPTED_FLAG:
        return _failed(name, _ENCRYPTED)
    if info.file_size > max_bytes:
        return _failed(name, _too_large(max_bytes))
    try:
        if info.compress_type == _DEFLATED:
            return _read_deflated(file, info, max_bytes)
        with archive.open(info) as member:
            data = member.read(info.file_size + 1)
            complete = len(data) == info.file_size and not member.read(1)
    except NotImplementedError as error:
        return _failed(name, _unknown_method(info.compress_type), error)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, struct.error) as error:
        return _failed(name, _DAMAGED, error)
    except OSError as error:
        if error.errno is None:  # how bz2 says that its data are damaged
            return _failed(name, _DAMAGED, error)
        raise _storage(error) from error
    return Member(name, data) if complete else _failed(name, _DAMAGED)


def _read_deflated(file: IO[bytes], info: zipfile.ZipInfo, max_bytes: int) -> Member:
    """What nearly all members are: unpacked by ISA-L in a third of zlib's time. Size and checksum are those of the directory."""
    local = _local(file, info.header_offset)
    if local is None or local.name != _clean(info.orig_filename):
        return _failed(_clean(info.filename), _DAMAGED)
    local = local._replace(name=_clean(info.filename), flags=local.flags & ~_SIZES_FOLLOW_FLAG, crc=info.CRC)
    return _inflate(file, local, max_bytes, behind=0, size=info.file_size)[0]


# What cannot be read, and what to do. No names: a log's name holds its field's, and messages travel into logs and reports.
_DAMAGED = "A TRF in the backup is damaged (its bytes do not match its checksum). Fetch the backup again; the linac keeps 8 days."
_CUT = "A TRF in the backup is cut short. Fetch the backup again; the linac keeps 8 days."
_ENCRYPTED = "A TRF in the backup is encrypted. Ask the Elekta engineer for backups without a password."
_ZIP_WITHIN = (
    "A zip within the backup holds TRFs, or cannot be looked into: nothing in it was read. Unzip the backup by hand and index "
    "the folder."
)


def _too_large(max_bytes: int) -> str:
    return f"A TRF in the backup is larger than {max_bytes >> 20} MB, which no delivery is. Look at it by hand."


def _unknown_method(method: int) -> str:
    return f"A TRF in the backup is packed by method {method}, which Python cannot unpack. Unzip it by hand and index the folder."


def _failed(name: str, text: str, cause: Exception | None = None) -> Member:
    error = BackupError(text)
    error.__cause__ = cause
    return Member(name, None, error)


def _storage(error: OSError) -> StorageError:
    return StorageError(
        f"Could not read the backup: {error.strerror or error}. Check that its share is connected, then try again."
    )


def _is_trf(name: str) -> bool:
    return name.lower().endswith(".trf")


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _clean(name: str) -> str:
    return name.replace("\\", "/")


# A zip without its end. Members stand one after the other, each behind a local header with its name and, unless the writer did
# not know them yet, its sizes and checksum; then these follow the data. So: find the next header, unpack what it announces,
# keep it only if the checksum agrees, and look on from where it ended. Bytes that are no header are searched for the next one,
# which also gets past a damaged stretch; what looks like a header by chance fails its checksum.


class _Local(NamedTuple):
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    data_at: int


def _salvage(file: IO[bytes], max_bytes: int, cause: Exception) -> Iterator[Member]:
    read = failed = 0
    try:
        for member in _walk(file, max_bytes):
            read, failed = read + (member.error is None), failed + (member.error is not None)
            yield member
    except OSError as error:
        raise _storage(error) from error
    counted = f"{read} TRFs could be read, {failed} could not, and more may be missing"
    raise BackupError(
        f"The backup is no zip, or cut short or damaged: {counted}. Fetch it again; if it is the same on the NSS, make a new "
        "backup there."
    ) from cause


def _one_by_one(file: IO[bytes], max_bytes: int, listed: int) -> Iterator[Member]:
    """The logs of a zip with very many members: those that a walk meets, which are to be as many as the directory lists."""
    met = 0
    try:
        for member in _walk(file, max_bytes):
            met += 1
            yield member
    except OSError as error:
        raise _storage(error) from error
    if met < listed:
        raise BackupError(
            f"The backup has very many members, of which {listed} are TRFs or zips; {met} of these were found. Unzip it by hand "
            "and index the folder."
        )


def _count_listed(file: IO[bytes], directory: _LargeDirectoryError) -> int:
    """How many TRFs and zips a directory lists, an entry at a time. Raises `zipfile.BadZipFile` where it is damaged."""
    file.seek(directory.at)
    count, left = 0, directory.size
    while left > 0:
        head = file.read(46)
        if len(head) < 46 or not head.startswith(_ENTRY):
            raise zipfile.BadZipFile("the directory ends early")
        name_size, extra_size, comment_size = struct.unpack_from("<3H", head, 28)
        count += file.read(name_size).lower().endswith((b".trf", b".zip"))
        file.seek(extra_size + comment_size, os.SEEK_CUR)
        left -= 46 + name_size + extra_size + comment_size
    return count


def _walk(file: IO[bytes], max_bytes: int) -> Iterator[Member]:
    at = _find_local(file, 0)
    while at is not None:
        local = _local(file, at)
        if local is None:
            at = _find_local(file, at + len(_LOCAL))
        elif not _is_trf(local.name):
            at = _find_local(file, at + len(_LOCAL))  # its size is not trusted: a wrong one would skip all the rest
        else:
            member, end = _unpack(file, local, max_bytes)
            yield member
            at = _find_local(file, end)


def _find_local(file: IO[bytes], start: int) -> int | None:
    """Where the next local header begins, from `start` on."""
    file.seek(start)
    kept, size = b"", _FIRST_CHUNK  # mostly it is near
    while chunk := file.read(size):
        found = (kept + chunk).find(_LOCAL)
        if found >= 0:
            return start - len(kept) + found
        start += len(chunk)
        kept, size = (kept + chunk)[-3:], _CHUNK
    return None


def _local(file: IO[bytes], at: int) -> _Local | None:
    file.seek(at)
    head = file.read(30)
    if len(head) < 30 or not head.startswith(_LOCAL):
        return None
    flags, method, crc, packed, _, name_size, extra_size = struct.unpack("<6xHH4xIIIHH", head)
    name = file.read(name_size)
    extra = file.read(extra_size)
    if len(name) < name_size or len(extra) < extra_size:
        return None
    text = name.decode("utf-8", "replace") if flags & _UTF8_FLAG else name.decode("cp437")
    return _Local(_clean(text), flags, method, crc, _long_size(extra, packed), at + 30 + name_size + extra_size)


def _long_size(extra: bytes, packed: int) -> int:
    """The packed size, from the zip64 field (unpacked size, then packed size) where it does not fit 32 bits."""
    while packed == 0xFFFFFFFF and len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 1 and size >= 16 and len(extra) >= 20:
            return int(struct.unpack_from("<Q", extra, 12)[0])
        extra = extra[4 + size :]
    return packed


def _unpack(file: IO[bytes], local: _Local, max_bytes: int) -> tuple[Member, int]:
    """The member behind a local header, and from where to look on."""
    sizes_follow = bool(local.flags & _SIZES_FOLLOW_FLAG)
    behind = local.data_at + (0 if sizes_follow else local.packed)
    if local.flags & _ENCRYPTED_FLAG:
        return _failed(local.name, _ENCRYPTED), behind
    if local.method == _DEFLATED:
        return _inflate(file, local, max_bytes, behind)
    if local.method != _STORED:
        return _failed(local.name, _unknown_method(local.method)), behind
    if sizes_follow:  # nothing says where it ends
        return _failed(local.name, _DAMAGED), local.data_at
    if local.packed > max_bytes:
        return _failed(local.name, _too_large(max_bytes)), local.data_at
    file.seek(local.data_at)
    data = file.read(local.packed)
    if len(data) < local.packed:
        return _failed(local.name, _CUT), local.data_at
    if isal_zlib.crc32(data) != local.crc:
        return _failed(local.name, _DAMAGED), local.data_at
    return Member(local.name, data), behind


def _inflate(file: IO[bytes], local: _Local, max_bytes: int, behind: int, size: int | None = None) -> tuple[Member, int]:
    """The member, which must be of `size` bytes if that is known, and from where to look on."""
    file.seek(local.data_at)
    engine = isal_zlib.decompressobj(-zlib.MAX_WBITS)
    step = _CHUNK if size is None else size + 1
    parts: list[bytes] = []
    total = consumed = 0
    try:
        while not engine.eof:
            packed = engine.unconsumed_tail or file.read(_CHUNK)
            parts.append(engine.decompress(packed, step))  # of nothing: what is left in the engine
            if not packed and not parts[-1] and not engine.eof:
                return _failed(local.name, _CUT if size is None else _DAMAGED), local.data_at
            total += len(parts[-1])
            consumed += len(packed) - len(engine.unused_data if engine.eof else engine.unconsumed_tail)
            if size is not None and total > size:
                return _failed(local.name, _DAMAGED), local.data_at
            if total > max_bytes:
                return _failed(local.name, _too_large(max_bytes)), max(behind, local.data_at + consumed)
    except _IsalError as error:
        return _failed(local.name, _DAMAGED, error), local.data_at
    end = local.data_at + consumed
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    crc = local.crc
    if local.flags & _SIZES_FOLLOW_FLAG:
        file.seek(end)
        follow = file.read(8)
        follow = follow[4:] if follow.startswith(_DESCRIPTOR) else follow[:4]
        if len(follow) < 4:
            return _failed(local.name, _CUT), end
        crc = int.from_bytes(follow, "little")
    whole = isal_zlib.crc32(data) == crc and size in (None, len(data))
    return (Member(local.name, data) if whole else _failed(local.name, _DAMAGED)), end
