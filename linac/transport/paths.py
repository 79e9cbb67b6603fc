"""The folder interface that the rest of the code uses, and its implementation on what the operating system can open."""

import contextlib
import errno
import fnmatch
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from types import TracebackType
from typing import IO, Self

from linac.errors import SetupError, StorageError

REPLACE_TRIES = 8
"""Windows refuses to replace a file that somebody has open (virus scanners do, for a moment): tries before giving up."""

REPLACE_FIRST_PAUSE_SECONDS = 0.05
"""Pause after the first refused replacement; it doubles each time, 6 s in all."""

ASIDE = ".part-"
"""Marks a file still being written: `<name>.part-<random>`. Listings leave such files out; `sweep` removes old ones."""


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

    Names are relative to it. All methods raise `StorageError` where the storage fails and `SetupError` where a name or path
    cannot be right. `location` is the folder's path as an operator would type it.
    """

    location: str

    @abstractmethod
    def list(self, pattern: str = "*") -> list[Entry]:
        """Files and folders matching `pattern`, by name. Only its last part may hold wildcards. A missing folder is empty."""

    @abstractmethod
    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        """A binary file object (`rb`), to be closed by the caller. Whole-file writing goes through `write` or `store`."""

    @abstractmethod
    def fetch(self, name: str, local: Path) -> None:
        """Copy a file of this folder to the local disk, whole or not at all."""

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
        """Make a folder, and those above it, unless it is there."""

    @abstractmethod
    def free(self) -> int:
        """Free space, in bytes."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all; its folders are made, an older file is replaced."""

    def check(self) -> None:
        """Raise `StorageError` unless the folder is there and can be listed."""
        self.list()

    def read(self, name: str) -> bytes:
        """A small file's content."""
        with self.open(name) as file:
            return file.read()

    def find(self, name: str) -> Entry | None:
        """The entry of one file or folder, or None."""
        head, _, tail = "/".join(split_name(name)).rpartition("/")
        escaped = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in tail)
        found = self.list(f"{head}/{escaped}" if head else escaped)
        return found[0] if found else None

    def close(self) -> None:  # noqa: B027 (not every folder holds a connection)
        """Let go of connections. A closed folder is not used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def split_name(name: str) -> list[str]:
    """The parts of a relative name, with `/` or `\\` between them. Raises `SetupError` if it would leave its folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name[:1] in ("/", "\\") or PureWindowsPath(name).drive or ".." in parts:
        raise SetupError(f"The name {name!r} leads out of its folder. Give a name below the folder, without '..' or a drive.")
    return parts


class LocalFolder(Folder):
    """A folder that the operating system opens by itself: local disk, mapped drive, mounted share, on Windows a UNC path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.location = str(self.path)

    def _at(self, name: str) -> Path:
        return self.path.joinpath(*split_name(name))

    @contextlib.contextmanager
    def _explained(self, action: str, name: str) -> Iterator[None]:
        """Turn an OSError into a StorageError that says what to do."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"Could not {action} {self._at(name)}: {_why(error)}") from error

    def list(self, pattern: str = "*") -> list[Entry]:
        *above, last = split_name(pattern) or ["*"]
        where = "/".join(above)
        entries = []
        with self._explained("list", where):
            try:
                found = list(os.scandir(self._at(where)))
            except FileNotFoundError:
                return []
            for item in found:
                if ASIDE in item.name or not fnmatch.fnmatch(item.name, last):
                    continue
                with contextlib.suppress(FileNotFoundError):  # removed since the listing
                    stat = item.stat()
                    folder = item.is_dir()
                    modified = datetime.fromtimestamp(stat.st_mtime, UTC)
                    entries.append(Entry(item.name, 0 if folder else stat.st_size, modified, folder))
        return sorted(entries, key=lambda entry: entry.name)

    def check(self) -> None:
        with self._explained("list", ""), os.scandir(self.path):
            pass

    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        if mode != "rb":
            raise ValueError("files are opened for reading only; write them with write() or store(), which never leave a part")
        with self._explained("open", name):
            return self._at(name).open("rb")

    def fetch(self, name: str, local: Path) -> None:
        with self._explained("fetch", name):
            _copy_whole(self._at(name), local)

    def store(self, local: Path, name: str) -> None:
        with self._explained("store", name):
            _copy_whole(local, self._at(name))

    def replace(self, old: str, new: str) -> None:
        with self._explained("replace", new):
            self._at(new).parent.mkdir(parents=True, exist_ok=True)
            _replace(self._at(old), self._at(new))

    def remove(self, name: str) -> None:
        with self._explained("remove", name), contextlib.suppress(FileNotFoundError):
            path = self._at(name)
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()

    def make(self, name: str = "") -> None:
        with self._explained("make", name):
            self._at(name).mkdir(parents=True, exist_ok=True)

    def free(self) -> int:
        with self._explained("measure free space of", ""):
            return shutil.disk_usage(self.path).free

    def write(self, name: str, data: bytes) -> None:
        with self._explained("write", name), _aside(self._at(name)) as part:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def _why(error: OSError) -> str:
    """What an OSError means to an operator, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "it is not there. Check the path, and that the share is connected."
    if isinstance(error, PermissionError):
        return "access denied. Give the account that runs this the right to it, or close the program that has it open."
    if error.errno == errno.ENOSPC:
        return "the disk or share is full. Free some space; the next run continues where this one stopped."
    return f"{error.strerror or error}. Check that the disk or share is reachable, then try again."


def _copy_whole(source: Path, target: Path) -> None:
    with _aside(target) as part:
        with source.open("rb") as reader, part.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        shutil.copystat(source, part)


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, renamed to it at the end, removed if the writing fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}{ASIDE}{uuid.uuid4().hex[:8]}")
    try:
        yield part
        _replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _replace(old: Path, new: Path) -> None:
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


def connect(path: str | os.PathLike[str]) -> Folder:
    """The folder at `path`: a local path, a mapped drive, or on Windows a UNC path.

    Raises `SetupError` for a relative path (it would depend on where a worker happens to run) and for a UNC path where the
    operating system cannot open one.
    """
    text = os.fspath(path)
    if text.replace("/", "\\").startswith("\\\\") and os.name != "nt" and not text.startswith("//"):
        raise SetupError(
            f"{text} is a UNC path, which this operating system cannot open by itself. Mount the share, then give the folder "
            "where it is mounted."
        )
    if not Path(text).is_absolute() and not PureWindowsPath(text).is_absolute():
        raise SetupError(f"The folder {text!r} is not an absolute path. Give it from the root or the drive letter on.")
    return LocalFolder(text)
