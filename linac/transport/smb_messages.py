"""The SMB messages about files and folders, as bytes: [MS-SMB2] 2.2.13 to 2.2.40, and [MS-FSCC] 2.4 and 2.5 for what they carry.

smbprotocol has structures for them, too. These are plain `struct` formats instead, because a transfer makes thousands of them
and because a mebibyte should not be copied once per field. Logging in is smbprotocol's own, see `smb_link`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

HEADER = 64
"""Length of the header before each message; the offsets inside a message count from its begin."""

SAME_FILE = b"\xff" * 16
"""In a chain of messages: the file that the chain's first message opens."""

READ_CHUNK = 1 << 20

# Rights ([MS-SMB2] 2.2.13.1)
READ_DATA, WRITE_DATA, READ_ATTRIBUTES, WRITE_ATTRIBUTES, DELETE = 0x1, 0x2, 0x80, 0x100, 0x10000
LIST_FOLDER = READ_DATA | READ_ATTRIBUTES

# What others may do meanwhile
SHARE_ALL, SHARE_NONE = 0x7, 0x0

# What if the file is there, or is not
OPEN, CREATE, OPEN_OR_CREATE = 1, 2, 3

# Options
A_FOLDER, A_FILE, SEQUENTIAL = 0x1, 0x40, 0x4

FOLDER_ATTRIBUTE = 0x10

_CREATE = struct.Struct("<HBBIQQIIIIIHHII")
_CREATED = struct.Struct("<HBBIQQQQQQII16sII")
_HANDLE = struct.Struct("<HHI16s")
_CLOSED = struct.Struct("<HHIQQQQQQI")
_READ = struct.Struct("<HBBIQ16sIIIHHx")
_READ_DONE = struct.Struct("<HBBIII")
_WRITE = struct.Struct("<HHIQ16sIIHHI")
_WRITTEN = struct.Struct("<HHI")
_QUERY_FOLDER = struct.Struct("<HBBI16sHHI")
_QUERY_INFO = struct.Struct("<HBBIHHIII16sx")
_SET_INFO = struct.Struct("<HBBIHHI16s")
_INFO = struct.Struct("<HHI")
_LISTED = struct.Struct("<IIQQQQQQII")

FILE_DIRECTORY_INFORMATION = 1
FILE_BASIC_INFORMATION, FILE_RENAME_INFORMATION, FILE_DISPOSITION_INFORMATION = 4, 10, 13
FS_FULL_SIZE_INFORMATION = 7
OF_FILE, OF_FILE_SYSTEM = 1, 2

EPOCH_100NS = 116444736000000000
"""1970-01-01 as Windows counts time: in units of 100 ns from 1601-01-01 UTC."""


@dataclass(frozen=True)
class Message:
    """A message's command and its bytes. `payload`: how many bytes it carries or asks for at most: that costs credits. `body`:
    what follows its bytes, kept apart so that it need not be copied."""

    COMMAND: int
    data: bytes
    payload: int = 1
    body: bytes | memoryview = b""


class Opened(NamedTuple):
    """An open file or folder."""

    handle: bytes
    size: int
    time_100ns: int
    is_folder: bool


class Listed(NamedTuple):
    """One line of a folder's listing."""

    name: str
    size: int
    time_100ns: int
    is_folder: bool


def open_file(path: str, rights: int, *, share: int = SHARE_ALL, if_there: int = OPEN, options: int = 0) -> Message:
    """Open or make a file or folder; `path` is relative to the share, with backslashes, empty for the share itself."""
    name = path.encode("utf-16-le", errors="surrogatepass")
    attributes = 0 if options & A_FOLDER else 0x80
    fixed = _CREATE.pack(57, 0, 0, 2, 0, 0, rights, attributes, share, if_there, options, HEADER + _CREATE.size, len(name), 0, 0)
    return Message(5, fixed + (name or b"\0\0"))


def opened(answer: bytes | memoryview) -> Opened:
    fields = _CREATED.unpack_from(answer)
    return Opened(fields[12], fields[9], fields[6], bool(fields[10] & FOLDER_ATTRIBUTE))


def close(handle: bytes = SAME_FILE, *, tell: bool = False) -> Message:
    """`tell`: the answer holds size and time as they are now."""
    return Message(6, _HANDLE.pack(24, int(tell), 0, handle))


def closed(answer: bytes | memoryview) -> tuple[int, int]:
    """Size, and time of the last change."""
    fields = _CLOSED.unpack_from(answer)
    return fields[8], fields[5]


def flush(handle: bytes = SAME_FILE) -> Message:
    """To the server's disk."""
    return Message(7, _HANDLE.pack(24, 0, 0, handle))


def read(offset: int, length: int, handle: bytes = SAME_FILE) -> Message:
    return Message(8, _READ.pack(49, 0x50, 0, length, offset, handle, 0, 0, 0, 0, 0), length)


def data_read(answer: bytes | memoryview) -> memoryview:
    _, offset, _, length, _, _ = _READ_DONE.unpack_from(answer)
    return memoryview(answer)[offset - HEADER : offset - HEADER + length]


def write(offset: int, data: bytes | memoryview, handle: bytes = SAME_FILE) -> Message:
    fixed = _WRITE.pack(49, HEADER + _WRITE.size, len(data), offset, handle, 0, 0, 0, 0, 0)
    return Message(9, fixed, max(1, len(data)), data)


def written(answer: bytes | memoryview) -> int:
    """How many bytes the server took."""
    return int(_WRITTEN.unpack_from(answer)[2])


def list_folder(pattern: str, length: int, handle: bytes = SAME_FILE) -> Message:
    """The next lines of a listing, `length` bytes at most."""
    name = pattern.encode("utf-16-le", errors="surrogatepass")
    fixed = _QUERY_FOLDER.pack(33, FILE_DIRECTORY_INFORMATION, 0, 0, handle, HEADER + _QUERY_FOLDER.size, len(name), length)
    return Message(14, fixed + name, length)


def listed(answer: bytes | memoryview) -> Iterator[Listed]:
    _, offset, length = _INFO.unpack_from(answer)
    lines = bytes(answer[offset - HEADER : offset - HEADER + length])
    at = 0
    while at + _LISTED.size <= len(lines):
        following, _, _, _, changed, _, size, _, attributes, name_length = _LISTED.unpack_from(lines, at)
        raw = lines[at + _LISTED.size : at + _LISTED.size + name_length]
        yield Listed(raw.decode("utf-16-le", errors="surrogatepass"), size, changed, bool(attributes & FOLDER_ATTRIBUTE))
        if not following:
            return
        at += following


def ask_free_space(handle: bytes = SAME_FILE) -> Message:
    return Message(16, _QUERY_INFO.pack(41, OF_FILE_SYSTEM, FS_FULL_SIZE_INFORMATION, 32, 0, 0, 0, 0, 0, handle))


def free_space(answer: bytes | memoryview) -> int:
    """Bytes that the account may still write."""
    _, offset, _ = _INFO.unpack_from(answer)
    _, for_us, _, sectors, sector = struct.unpack_from("<QQQII", answer, offset - HEADER)
    return int(for_us * sectors * sector)


def _set(kind: int, data: bytes, handle: bytes) -> Message:
    return Message(17, _SET_INFO.pack(33, OF_FILE, kind, len(data), HEADER + _SET_INFO.size, 0, 0, handle) + data, len(data))


def rename(path: str, handle: bytes = SAME_FILE, *, replace: bool = True) -> Message:
    """Rename the open file to `path`, relative to the share."""
    name = path.encode("utf-16-le", errors="surrogatepass")
    return _set(FILE_RENAME_INFORMATION, struct.pack("<B7xQI", int(replace), 0, len(name)) + name, handle)


def set_time(time_100ns: int, handle: bytes = SAME_FILE) -> Message:
    """The time of the last change; the rest stays."""
    return _set(FILE_BASIC_INFORMATION, struct.pack("<QQQQII", 0, 0, time_100ns, 0, 0, 0), handle)


def delete(handle: bytes = SAME_FILE) -> Message:
    """Delete the open file or empty folder when it is closed."""
    return _set(FILE_DISPOSITION_INFORMATION, b"\x01", handle)


def echo() -> Message:
    return Message(13, struct.pack("<HH", 4, 0))


def as_datetime(time_100ns: int) -> datetime:
    """Aware, UTC, to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=(time_100ns - EPOCH_100NS + 5) // 10)


def as_ns(time_100ns: int) -> int:
    """Nanoseconds since 1970, as `os.utime` takes them."""
    return (time_100ns - EPOCH_100NS) * 100


def from_ns(time_ns: int) -> int:
    return time_ns // 100 + EPOCH_100NS
