"""Where capture keeps its files on the local disk, and how it writes them whole.

<spool>/<serial>/
    journal/00000001.journal ...   raw bytes from the linac (`linac.capture.journal`)
    status.json                    what the listener is doing, replaced every second (`linac.capture.status`)
    listener.lock                  held by the listener while it lives (`linac.capture.lock`)
    archiver.lock                  held by the archiver while it works
    stop                           a request to the listener to end (`linac.capture.control`)
    listener.log, listener.out     what a detached listener has to say, bounded
    checkpoint.json                how far the archiver is: only saves work, may be deleted
    sessions.jsonl                 what was archived, without identities (`linac.capture.ledger`)

The spool is on a local disk, never on a share: the listener must not depend on a network behind it.
"""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from linac.errors import SetupError

DEFAULT_SPOOL = Path.home() / ".linac-flows" / "spool"

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9_-]|[A-Za-z0-9]")

WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10))}
"""Names that Windows keeps for devices, with any extension, in any folder (Microsoft's "Naming Files, Paths, and Namespaces")."""


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

    @property
    def folder(self) -> Path:
        return self.root / self.serial

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def status(self) -> Path:
        return self.folder / "status.json"

    @property
    def lock(self) -> Path:
        return self.folder / "listener.lock"

    @property
    def archiver_lock(self) -> Path:
        return self.folder / "archiver.lock"

    @property
    def stop(self) -> Path:
        return self.folder / "stop"

    @property
    def log(self) -> Path:
        return self.folder / "listener.log"

    @property
    def out(self) -> Path:
        return self.folder / "listener.out"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.json"

    @property
    def ledger(self) -> Path:
        return self.folder / "sessions.jsonl"

    def make(self) -> None:
        """Make the folders. Raises `SetupError` where that is not allowed."""
        try:
            self.journal.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"The spool {self.folder} cannot be made: {error.strerror or error}. Choose a folder on a local disk that the "
                "account running the listener may write to."
            ) from error


def write_whole(path: Path, data: bytes, *, keep: bool = True, tries: int = 5) -> None:
    """Write a small file beside, then rename it over `path`: readers see the old or the new one, after a power cut too.

    `keep=False` leaves out the wait for the disk (for what is written again in a second anyway). Windows refuses the rename
    while somebody reads the old file: a few short tries, then the `PermissionError` is the caller's.
    """
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    with part.open("wb") as file:
        file.write(data)
        if keep:
            file.flush()
            os.fsync(file.fileno())
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
