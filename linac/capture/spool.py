"""Where capture keeps its files on the local disk, and how it writes them whole.

<spool>/<serial>/
    journal/00000001.journal ...   raw bytes from the linac (`linac.capture.journal`)
    status.json                    what the listener is doing, replaced every second (`linac.capture.status`)
    listener.lock                  held by the listener while it lives (`linac.capture.lock`)
    archiver.lock                  held by the archiver while it works
    follower.lock, follower.json   held by who sees to the listener; who that is, or was before a crash, its iCom folder, and
                                   when it was last there (`linac.capture.follower`)
    stop                           a request to the listener to end (`linac.capture.control`)
    listener.log, listener.out     what a detached listener has to say, bounded
    checkpoint.json                how far the archiver is: only saves work, may be deleted
    sessions.jsonl                 what was archived, without identities (`linac.capture.ledger`)
    archive.json                   why nothing can be archived just now, if so
    drafts/                        sessions that are going on or wait for the share, packed; made anew from the journal

The spool is on a local disk, never on a share: the listener must not depend on a network behind it. Journal and drafts hold the
identities of patients, so on Linux the folder of a linac is closed to all other accounts (0700, the journal's files 0600). On
Windows it inherits the rights of the folder above it: keep the spool below a folder that only the service's account and
administrators open.
"""

import contextlib
import os
import re
import stat
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from linac.errors import SetupError

DEFAULT_SPOOL = Path.home() / ".linac-flows" / "spool"

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9_-]|[A-Za-z0-9]")

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

WINDOWS_DEVICES = {
    *("con", "prn", "aux", "nul", "conin$", "conout$"),
    *(f"{name}{digit}" for name in ("com", "lpt") for digit in "123456789\u00b9\u00b2\u00b3"),
}
"""Names that Windows keeps for devices, with any extension, in any folder (Microsoft's "Naming Files, Paths, and Namespaces",
which counts the raised digits 1 to 3 as digits, and "Console Handles")."""


@dataclass(frozen=True)
class Spool:
    """The folder of one linac: `root` is the spool, `serial` names the linac.

    Raises `SetupError` where the serial cannot be a folder's name on every system.
    """

    root: Path
    serial: str

    def __post_init__(self) -> None:
        if not _SERIAL.fullmatch(self.serial) or self.serial.split(".")[0].lower() in WINDOWS_DEVICES:
            raise SetupError(
                f"The serial {self.serial!r} cannot name a folder. Give the linac's serial number, for example 4299: letters, "
                "digits, '-', '_' and '.' only."
            )
        object.__setattr__(self, "root", Path(self.root).absolute())

    @cached_property
    def folder(self) -> Path:
        return self.root / self.serial

    @cached_property
    def journal(self) -> Path:
        return self.folder / "journal"

    @cached_property
    def status(self) -> Path:
        return self.folder / "status.json"

    @cached_property
    def lock(self) -> Path:
        return self.folder / "listener.lock"

    @cached_property
    def archiver_lock(self) -> Path:
        return self.folder / "archiver.lock"

    @cached_property
    def follower_lock(self) -> Path:
        return self.folder / "follower.lock"

    @cached_property
    def follower(self) -> Path:
        return self.folder / "follower.json"

    @cached_property
    def stop(self) -> Path:
        return self.folder / "stop"

    @cached_property
    def log(self) -> Path:
        return self.folder / "listener.log"

    @cached_property
    def out(self) -> Path:
        return self.folder / "listener.out"

    @cached_property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.json"

    @cached_property
    def ledger(self) -> Path:
        return self.folder / "sessions.jsonl"

    @cached_property
    def archive_status(self) -> Path:
        return self.folder / "archive.json"

    @cached_property
    def drafts(self) -> Path:
        return self.folder / "drafts"

    def make(self) -> None:
        """Make the folders. Raises `SetupError` where that is not allowed."""
        try:
            for folder in (*reversed(self.root.parents), self.root, self.folder, self.journal):
                if not folder.exists():
                    folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
            _close(self.folder)
        except OSError as error:
            raise SetupError(
                f"The spool {self.folder} cannot be made: {error.strerror or error}. Choose a folder on a local disk that the "
                "account running the listener may write to."
            ) from error


def _close(folder: Path) -> None:
    """Close a folder that is open to everybody; one for which somebody has set group or list rights stays as it is."""
    if os.name != "nt" and stat.S_IMODE(folder.stat().st_mode) & stat.S_IRWXO:
        with contextlib.suppress(PermissionError):  # it belongs to another account: that one is to close it
            folder.chmod(_PRIVATE_FOLDER)


def private(path: str, flags: int) -> int:
    """Opener for `open`: files that are made are for this account alone."""
    return os.open(path, flags, _PRIVATE_FILE)


def write_whole(path: Path, data: bytes, *, keep: bool = True, tries: int = 5) -> None:
    """Write a small file beside, then rename it over `path`: readers see the old or the new one, after a power cut too.

    `keep=False` leaves out the wait for the disk (for what is written again in a second anyway). Windows refuses the rename
    while somebody reads the old file: a few short tries, then the `PermissionError` is the caller's.
    """
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    handle = os.open(part, _WRITE, _PRIVATE_FILE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        if keep:
            os.fsync(handle)
    finally:
        os.close(handle)
    for attempt in range(tries):
        try:
            os.replace(part, path)
            break
        except PermissionError:
            if attempt == tries - 1:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
            time.sleep(0.02 * 2**attempt)
    if keep:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new and renamed names in a folder survive a power cut. Windows does so by itself and cannot open folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
