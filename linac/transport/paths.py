"""The folder interface that the rest of the code uses, and its implementation on what the operating system can open."""

import contextlib
import errno
import fnmatch
import io
import os
import re
import shutil
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from linac.errors import LinacError, SetupError, StorageError, UnreachableError
from linac.transport import fetching
from linac.transport.fetching import Source

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

REPLACE_TRIES = 8
"""Windows refuses to replace a file that somebody has open (virus scanners do, for a moment): tries before giving up."""

REPLACE_FIRST_PAUSE_SECONDS = 0.05
"""Pause after the first refused replacement; it doubles each time, 6 s in all."""

CREATE_TRIES, CREATE_PAUSE_SECONDS = 20, 0.05
"""How long to wait for Windows to finish the removal of a file whose name is wanted again."""

ASIDE = ".part-"
"""Marks a file still being written: `<name>.part-<random>`. Listings leave such files out; `sweep` removes old ones."""

LONGEST_NAME = 32_000
"""Letters of a name that no system could be asked for any more: Windows counts them in 16 bits."""

LONG_PATH = 230
"""Letters of a path from which on Windows gets it in its long form: room for the ending of a file being written is left."""

STALE_SECONDS = 86400.0
"""A file still being written that nobody has touched for so long was left by a crash or a power cut."""

LEFT = re.compile(r"\.part-[0-9a-f]{8}")
"""How the name of a file ends that `write` or `store` was amid: what is called otherwise is another's."""

_FORBIDDEN = re.compile('[\x00-\x1f"*:<>?|\ud800-\udfff]')
_FORBIDDEN_IN_PATTERNS = re.compile('[\x00-\x1f":<>|\ud800-\udfff]')
"""What a name on a Windows server cannot hold (a colon would even lead into another stream of the file), and half characters,
which no server has. It counts on every system alike: what is written to a local folder today may lie on a share tomorrow."""

_DEVICES = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[1-9\u00b9\u00b2\u00b3])[ ]*(?:\..*)?", re.IGNORECASE | re.DOTALL
)
"""Names that mean a device on Windows, whatever follows their first dot."""

_AWAY = frozenset(
    getattr(errno, name)
    for name in (
        *("ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNREFUSED", "ECONNRESET"),
        *("ECONNABORTED", "ENOTCONN", "ESHUTDOWN", "ESTALE", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)
"""What the system says of a file whose server cannot be reached: with mounted shares on Linux, and with sockets anywhere."""

_AWAY_ON_WINDOWS = frozenset(
    {51, 53, 54, 55, 57, 58, 59, 64, 71, 121, 1203, 1222, 1225, 1231, 1232, 1233, 1234, 1236, 1460, 2250}
)
"""The same by numbers of Windows ([MS-ERREF] 2.2), of which Python takes some for a file that is not there: no such server, the
network busy or gone, the share gone, no more connections, timed out, refused, unreachable, broken off."""

_IN_WORDS = {
    errno.ENOSPC: "the disk or share is full. Free some space; the next run does what this one could not.",
    errno.EROFS: "it is write-protected. Let the account that runs this write to it.",
    errno.EISDIR: "it is a folder, not a file.",
    errno.ENOTDIR: "something on the way to it is a file, not a folder.",
    errno.ENOTEMPTY: "the folder is not empty.",
    errno.EEXIST: "something of that name is there already.",
    errno.ENAMETOOLONG: "its name is too long for that disk or share. Give a shorter one.",
    errno.ELOOP: "the links on the way to it lead in a circle. Have them mended.",
    getattr(
        errno, "EDQUOT", -1
    ): "the quota of the account that runs this is used up. Free some space or have it raised, then try again.",
}
"""What the operating system says of files, as `smb_errors` says it."""

_NO_SHARE = 67
_ACCOUNT = frozenset({86, 1219, 1311, 1326, 1327, 1328, 1329, 1330, 1331, 1385, 1396, 1787, 1789, 1793, 1907, 1909})
"""Windows: the share is not there; the account is not let in, or another is connected to that server already."""


T = TypeVar("T")


class AwayError(UnreachableError, StorageError):
    """A share cannot be reached: for who minds the network an `UnreachableError`, for who wants to write a `StorageError`."""


class ClosedError(SetupError, ValueError):
    """A folder is used after it was closed, as Python's own files say it."""


@dataclass(frozen=True)
class Entry:
    """One file or folder in a listing.

    `name` is the last part only; `size` is in bytes (0 for folders); `modified` is aware, UTC.
    """

    name: str
    size: int
    modified: datetime
    is_folder: bool = False


class Folder(ABC):
    """A folder somewhere, with the few operations that this project needs of it.

    Names are relative to it. All methods raise `StorageError` where the storage fails, `UnreachableError` where the network
    does, and `SetupError` where an account, a name or a path cannot be right. `location` is the folder's path as an operator
    would type it.

    The folder itself, its root, is never made in passing: a share that is not connected must not come into being as a folder
    on the local disk. Only `make_root` makes it; everything else that writes raises `StorageError` where it is missing.
    """

    location: str

    mark = ""
    """Of a root: a file without which no folder is made in it: a share can go away between two files and leave an empty one."""

    @property
    def root(self) -> "Folder":
        """The folder that has to exist: this one, or for one got by `below` the one that it lies in."""
        return self

    @abstractmethod
    def list(self, pattern: str = "*") -> list[Entry]:
        """Files and folders matching `pattern`, by name. Only its last part may hold wildcards. A missing folder is empty."""

    @abstractmethod
    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        """A binary file object (`rb`), to be closed by the caller; reading it raises what the folder's methods raise. Others may
        write, rename and remove the file meanwhile. Whole-file writing goes through `write` or `store`."""

    @abstractmethod
    def fetch(self, name: str, local: Path, verify: Callable[[Path], None] | None = None) -> bool:
        """Copy a file of this folder to the local disk, whole or not at all, with its time. Whether there was anything to do.

        A local file of the same size and time is taken for this one and left. A fetch that breaks off leaves what it has
        beside `local`, and the next goes on from there. `verify` gets the whole copy before it takes its name; if it
        raises, the copy is thrown away, so that the next fetch begins anew.
        """

    def fetch_many(
        self, pairs: Iterable[tuple[str, Path]], verify: Callable[[Path], None] | None = None
    ) -> Iterator[tuple[str, bool | LinacError]]:
        """Fetch file after file: each name with what `fetch` gives, once that file is in its place, or with its error.

        A file that fails does not stop those after it. That the share cannot be reached does: this is raised
        (`UnreachableError`, or why its account is refused), what was given by then stays, and the next call goes on. The next
        files are asked for meanwhile, so that many small ones take little longer than a large one.
        """
        for name, local in pairs:
            yield name, tried(lambda name=name, local=local: self.fetch(name, local, verify))  # type: ignore[misc]

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | LinacError]]:
        """Read small file after small file: each name with its content, or with its error. Else like `fetch_many`."""
        for name in names:
            yield name, tried(lambda name=name: self.read(name))  # type: ignore[misc]

    @abstractmethod
    def store(self, local: Path, name: str) -> None:
        """Copy a local file into this folder, whole or not at all; its folders are made, an older file is replaced."""

    @abstractmethod
    def replace(self, old: str, new: str) -> None:
        """Rename a file, replacing `new` if it exists: readers see the old or the new one, never a part."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file or an empty folder. What is already gone is fine."""

    @abstractmethod
    def make(self, name: str = "") -> None:
        """Make a folder, and those between it and the root, unless it is there."""

    @abstractmethod
    def make_root(self) -> Self:
        """Make this folder itself, and those above it, unless it is there. Gives the folder."""

    @abstractmethod
    def free(self) -> int:
        """Free space, in bytes."""

    @abstractmethod
    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a small file, whole or not at all; its folders are made, an older file is replaced.

        `durable=False`: without waiting for the disk, for what is written again in a moment anyway. Power cut soon after may
        leave an empty file.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Make a file holding `data` unless there is one of that name, and say whether it was made: of several who try at the
        same time, one makes it. It is exclusive, not whole: power cut in between leaves a file with less in it. What fails for
        want of space is removed again, so that the next try does not find it there.
        """

    @abstractmethod
    def sweep(self, name: str = "", older_seconds: float = STALE_SECONDS) -> int:
        """Remove what crashed writers left half-written in a folder, not in those below it; how many files that were."""

    @abstractmethod
    def below(self, name: str) -> "Folder":
        """A folder in this one, as a folder of its own; its root stays this one's. Both use the same connections."""

    def check(self) -> None:
        """Raise `StorageError` unless the folder is there and can be listed; one got by `below` may still be to be made."""
        self.list()

    def read(self, name: str) -> bytes:
        """A small file's content."""
        with self.open(name) as file:
            return file.read()

    def find(self, name: str) -> Entry | None:
        """The entry of one file or folder, or None."""
        head, _, tail = "/".join(split_file_name(name)).rpartition("/")
        escaped = tail.replace("[", "[[]")
        found = self.list(f"{head}/{escaped}" if head else escaped)
        return found[0] if found else None

    def close(self) -> None:  # noqa: B027 (not every folder holds a connection)
        """Let go of connections. A closed folder is not used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def closed(location: str) -> ClosedError:
    """The error of a folder that was closed."""
    return ClosedError(f"The folder {location} was closed. Connect to it again.")


def tried(work: Callable[[], T]) -> T | LinacError:
    """What comes of a piece of work on one file, its error too, unless it is that nothing can be reached."""
    try:
        return work()
    except (UnreachableError, ClosedError):
        raise
    except LinacError as error:
        return error


def split_name(name: str) -> list[str]:
    """The parts of a relative name, with `/` or `\\` between them, none for the folder itself.

    Raises `SetupError` if it would leave its folder, or if a Windows share could not hold it.
    """
    parts = _split(name)
    for part in parts:
        _check_part(part)
    return parts


def split_file_name(name: str) -> list[str]:
    """The same for a file, which has a name: one part at least."""
    parts = split_name(name)
    if not parts:
        raise SetupError(f"The name {name!r} is that of the folder itself. Give the name of a file in it.")
    return parts


def split_pattern(pattern: str) -> tuple[list[str], str]:
    """The parts of a folder's name and, for what is in it, a pattern with `*`, `?` and `[...]`. Raises as `split_name` does."""
    *above, last = _split(pattern) or ["*"]
    for part in above:
        _check_part(part)
    if _FORBIDDEN_IN_PATTERNS.search(last):
        raise _cannot_be(last)
    return above, last


def _split(name: str) -> list[str]:
    if len(name) > LONGEST_NAME:
        raise SetupError(f"A name of {len(name)} letters is too long for any system ({name[:40]!r}...). Give a shorter one.")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name[:1] in ("/", "\\") or (":" in name and PureWindowsPath(name).drive) or ".." in parts:
        raise SetupError(f"The name {name!r} leads out of its folder. Give a name below the folder, without '..' or a drive.")
    return parts


def _check_part(part: str) -> None:
    if _FORBIDDEN.search(part) or part.endswith((".", " ")) or _DEVICES.fullmatch(part):
        raise _cannot_be(part)


def _cannot_be(part: str) -> SetupError:
    return SetupError(
        f'The name {part!r} cannot be on a Windows share: no control characters, none of " * : < > ? |, no dot or space at its '
        "end, and none of Windows's devices such as CON, NUL or COM1. Rename it first."
    )


def extended_path(path: str) -> str:
    """A path of Windows that may be longer than 260 letters, the limit where the computer's settings are old."""
    if len(path) < LONG_PATH or path.startswith("\\\\?\\"):
        return path
    return f"\\\\?\\UNC\\{path[2:]}" if path.startswith("\\\\") else f"\\\\?\\{path}"


class LocalFolder(Folder):
    """A folder that the operating system opens by itself: local disk, mapped drive, mounted share, on Windows a UNC path.

    No name leads out of it. A symbolic link or junction that lies in it does, if whoever laid it wanted so: records are put on
    a larger disk that way, and who can lay one there can write there as well. How long a server that hangs is waited for is the
    operating system's business (Windows gives up after a minute or so).
    """

    def __init__(self, path: str | os.PathLike[str], *, within: "LocalFolder | None" = None) -> None:
        self.path = Path(path)
        self.location = str(self.path)
        self._within = within
        self._closed = False

    @property
    def root(self) -> "LocalFolder":
        return self if self._within is None else self._within.root

    def below(self, name: str) -> "LocalFolder":
        return LocalFolder(self._at(name), within=self)

    def close(self) -> None:
        self.root._closed = True

    def _at(self, name: str) -> Path:
        return self._joined(split_name(name))

    def _file(self, name: str) -> Path:
        return self._joined(split_file_name(name))

    def _joined(self, parts: Sequence[str]) -> Path:
        if self.root._closed:
            raise closed(self.location)
        path = self.path.joinpath(*parts)
        return Path(extended_path(str(path))) if os.name == "nt" else path

    def _explained(self, action: str, name: str) -> "contextlib.AbstractContextManager[None]":
        return explain(action, "", lambda: self._at(name))

    def list(self, pattern: str = "*") -> list[Entry]:
        above, last = split_pattern(pattern)
        where = "/".join(above)
        entries = []
        with self._explained("list", where):
            found: list[os.DirEntry[str]] = []
            with _fine_if_missing():
                found = list(os.scandir(self._at(where)))
            for item in found:
                if ASIDE in item.name or not fnmatch.fnmatch(item.name, last):
                    continue
                try:
                    status, folder = item.stat(), item.is_dir()
                except OSError as error:  # removed since the listing; or a link that leads nowhere
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        raise
                    continue
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                entries.append(Entry(item.name, 0 if folder else status.st_size, modified, folder))
        return sorted(entries, key=lambda entry: entry.name)

    def find(self, name: str) -> Entry | None:
        try:
            return super().find(name)
        except StorageError as error:
            if isinstance(error.__cause__, NotADirectoryError):  # a file where its folder should be
                return None
            raise

    def check(self) -> None:
        with self.root._explained("list", ""), os.scandir(self.root._at("")):
            pass
        if self._within is not None:
            self.list()

    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        if mode != "rb":
            raise ValueError("files are opened for reading only; write them with write() or store(), which never leave a part")
        path = self._file(name)
        with self._explained("open", name):
            return io.BufferedReader(_LocalFile(path))

    def fetch(self, name: str, local: Path, verify: Callable[[Path], None] | None = None) -> bool:
        with self._explained("fetch", name):
            path = self._file(name)
            source = self._source(path)
            if fetching.is_known(source, local):
                return False
            with _LocalFile(path) as file:

                def copy(offset: int, take: Callable[[memoryview | bytes], object]) -> Callable[[], Source]:
                    file.seek(offset)
                    buffer = memoryview(bytearray(1 << 20))
                    while length := file.readinto(buffer):
                        take(buffer[:length])
                    return lambda: self._source(path)

                fetching.fetch(source, copy, local, verify, replace_local)
        return True

    @staticmethod
    def _source(path: Path) -> Source:
        status = path.stat()
        return Source(str(path), status.st_size, status.st_mtime_ns)

    def store(self, local: Path, name: str) -> None:
        with self._explained(f"store {local} as", name):
            self._make_above(name)
            _copy_whole(local, self._file(name))

    def replace(self, old: str, new: str) -> None:
        source, target = self._file(old), self._file(new)
        with self._explained(f"rename {source} to", new):
            self._in_folder(target, lambda: replace_local(source, target))

    def remove(self, name: str) -> None:
        with self._explained("remove", name), _fine_if_missing():
            path = self._file(name)
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()

    def make(self, name: str = "") -> None:
        with self._explained("make", name):
            self._make(self._at(name))

    def make_root(self) -> Self:
        with self._explained("make", ""):
            self._at("").mkdir(parents=True, exist_ok=True)
        return self

    def _make_above(self, name: str) -> None:
        self._make(self._file(name).parent)

    def _in_folder(self, path: Path, work: Callable[[], T]) -> T:
        """What comes of work on a file, whose folder is mostly there: it is made, and the work done again, where it is not."""
        try:
            return work()
        except FileNotFoundError:
            self._make(path.parent)
            return work()

    def _make(self, path: Path) -> None:
        """Make a folder and those between it and the root, not the root: step by step, as it can go at any moment."""
        if path.is_dir():
            return
        root = self.root.path
        if not root.is_dir():
            raise _RootMissingError(root)
        self._make(path.parent)
        if path.parent == root and self.root.mark and not (root / self.root.mark).exists():
            raise _RootMissingError(root)
        path.mkdir(exist_ok=True)

    def free(self) -> int:
        with self._explained("measure free space of", ""):
            return shutil.disk_usage(self.root._at("")).free

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        with self._explained("write", name):
            path = self._file(name)
            with _aside(path) as part, self._in_folder(path, lambda: part.open("wb")) as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())

    def create(self, name: str, data: bytes) -> bool:
        path = self._file(name)
        with self._explained("make", name):
            for last_try in (*[False] * CREATE_TRIES, True):
                try:
                    file = self._in_folder(path, lambda: path.open("xb"))
                    _fill(file, data, path)
                    return True
                except FileExistsError:
                    return False
                except PermissionError:  # Windows denies access to the name of a file that is just being removed
                    if last_try or os.name != "nt":
                        raise
                    time.sleep(CREATE_PAUSE_SECONDS)
        return False

    def sweep(self, name: str = "", older_seconds: float = STALE_SECONDS) -> int:
        removed = 0
        with self._explained("tidy", name), _fine_if_missing():
            before = time.time() - older_seconds
            for item in list(os.scandir(self._at(name))):
                with contextlib.suppress(FileNotFoundError, PermissionError):  # another sweeps too, or still writes it
                    if LEFT.fullmatch(item.name[-14:]) and item.is_file() and item.stat().st_mtime < before:
                        os.unlink(item.path)
                        removed += 1
        return removed


_opener: Callable[[str, int], int] | None = None
"""How a file is opened that is others' as well; None: as Python does it."""

if sys.platform == "win32":

    def _open_shared(path: str, _: int) -> int:
        """A descriptor to read from. Python's own `open` keeps everybody from renaming and removing the file while it is open."""
        create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
        create.restype = wintypes.HANDLE
        create.argtypes = [wintypes.LPCWSTR, *[wintypes.DWORD] * 2, wintypes.LPVOID, *[wintypes.DWORD] * 2, wintypes.HANDLE]
        generic_read, share_all, open_existing = 0x80000000, 0x7, 3
        handle = create(str(path), generic_read, share_all, None, open_existing, 0, None)
        if handle == wintypes.HANDLE(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT)

    _opener = _open_shared


class _LocalFile(io.FileIO):
    """A file to be read that others may write, rename and remove meanwhile: it is theirs, and may be the linac's. What goes wrong
    while it is read is told as the folder's methods tell it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb", opener=_opener)

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer) or 0
        except OSError as error:
            raise self._told(error) from error

    def readall(self) -> bytes:
        try:
            return super().readall() or b""
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> LinacError:
        return _kind(error)(f"Could not read {self.name}: {_why(error)}")


class _RootMissingError(FileNotFoundError):
    """The folder that has to exist is not there."""

    def __init__(self, root: Path) -> None:
        super().__init__(errno.ENOENT, "No such folder", str(root))


@contextlib.contextmanager
def explain(action: str, what: str, shown: Callable[[], object] | None = None) -> Iterator[None]:
    """Turn an OSError into an error that says what to do: an `AwayError` where a server is away, else mostly a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise _kind(error)(f"Could not {action} {shown() if shown else what}: {_why(error)}") from error


def _kind(error: OSError) -> type[LinacError]:
    """Who must act."""
    code = getattr(error, "winerror", None)
    if code == _NO_SHARE or code in _ACCOUNT:
        return SetupError
    return AwayError if code in _AWAY_ON_WINDOWS or error.errno in _AWAY else StorageError


@contextlib.contextmanager
def _fine_if_missing() -> Iterator[None]:
    """Go on where a file or folder is not there, unless that is because its server or share is not."""
    try:
        yield
    except FileNotFoundError as error:
        if _kind(error) is not StorageError:
            raise


def _why(error: OSError) -> str:
    """What an OSError means to an operator, and what to do."""
    if isinstance(error, _RootMissingError):
        return (
            f"the folder {error.filename} is not there. If it is on a share or another disk, connect that; if it is a new "
            "folder, make it first. It is not made by itself, so that nothing is written to the wrong disk."
        )
    code = getattr(error, "winerror", None)
    if code == _NO_SHARE:
        return r"the server has no share of that name. Check the path: it reads \\server\share\folder."
    if code == 1219:
        return (
            "Windows is connected to that server with another account already. Give the share its account (credentials), so that "
            "it is opened without Windows's help."
        )
    if code in _ACCOUNT:
        return (
            f"the server does not let the account in that this runs as ({error.strerror}). Have it allowed there, or give the "
            "share an account of its own (credentials)."
        )
    if _kind(error) is AwayError:
        return (
            f"its server cannot be reached ({error.strerror or error}). Look whether it is switched on and whether this "
            "computer's network reaches it; the next try connects anew."
        )
    if isinstance(error, FileNotFoundError):
        return "it is not there. Check the path, and that the share is connected."
    if isinstance(error, PermissionError):
        return "access denied. Give the account that runs this the right to it, or close the program that has it open."
    if error.errno in _IN_WORDS:
        return _IN_WORDS[error.errno]
    return f"{error.strerror or error}. Check that the disk or share is reachable, then try again."


def _fill(file: IO[bytes], data: bytes, path: Path) -> None:
    """Write a file just made at `path`, and close it. If that fails it is removed again, unless it is another's by then."""
    made = os.fstat(file.fileno())
    try:
        with file:
            file.write(data)
    except BaseException:
        with contextlib.suppress(OSError):
            if os.path.samestat(made, path.stat()):
                path.unlink()
        raise


def _copy_whole(source: Path, target: Path) -> None:
    with _aside(target) as part:
        with source.open("rb") as reader, part.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        shutil.copystat(source, part)
    _sync_names(target.parent)


def _sync_names(folder: Path) -> None:
    """Bring new names in a folder to the disk, too, where the system can do that. Windows does it by itself."""
    if os.name != "nt":
        with contextlib.suppress(OSError):  # some file systems refuse it
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, renamed to it at the end, removed if the writing fails."""
    part = target.with_name(f"{target.name}{ASIDE}{uuid.uuid4().hex[:8]}")
    try:
        yield part
        replace_local(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def replace_local(old: Path, new: Path) -> None:
    """`os.replace`, tried again while somebody holds the target open (Windows and SMB refuse it then)."""
    pause = REPLACE_FIRST_PAUSE_SECONDS
    for attempt in range(REPLACE_TRIES):
        try:
            os.replace(old, new)
            return
        except PermissionError:
            if attempt == REPLACE_TRIES - 1:
                raise
            time.sleep(pause)
            pause *= 2
