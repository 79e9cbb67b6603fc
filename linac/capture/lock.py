"""One process at a time, held by the operating system: a crash, a kill or a power cut frees it, a stale file never blocks.

`FileLock` guards a spool folder. `EndpointLock` guards a linac's address on this computer, whatever spool is used: two
connections from one host to one linac would be one too many (PyMedPhys issue 849 says what is at stake). It sees only
listeners of this project, and only those on the same computer.
"""

import contextlib
import errno
import hashlib
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from linac.errors import SetupError

if sys.platform == "win32":
    import ctypes
    import msvcrt
else:
    import fcntl

_LOCKED_BYTE = 1 << 30
"""Windows locks ranges of bytes and then forbids reading them: one far behind the file's content."""

_PAUSE_SECONDS = 0.02


class FileLock:
    """A lock on a file, which is made if need be and never removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, wait_seconds: float = 0.0) -> bool:
        """Whether the lock is ours now. `wait_seconds` outlasts somebody who only looks (`is_held`).

        Raises `SetupError` where the file cannot be opened.
        """
        deadline = time.monotonic() + wait_seconds
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def _try(self) -> bool:
        if self._handle is not None:
            return True
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            advice = "Run this under the account that owns the spool, or give this account the right to write there."
            if error.errno == errno.EROFS:
                advice = "Have the disk checked, and mount it again for writing."
            raise SetupError(f"The lock file {self.path} cannot be opened: {error.strerror or error}. {advice}") from error
        try:
            if sys.platform == "win32":
                os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    @property
    def lost(self) -> bool:
        """Whether the file that we hold is no longer the one at `path`: somebody removed it, so it keeps nobody out."""
        if self._handle is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except OSError:
            return True

    def release(self) -> None:
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                os.lseek(self._handle, _LOCKED_BYTE, os.SEEK_SET)
                msvcrt.locking(self._handle, msvcrt.LK_UNLCK, 1)
            else:
                fcntl.flock(self._handle, fcntl.LOCK_UN)
        os.close(self._handle)
        self._handle = None


def is_held(path: Path) -> bool:
    """Whether another process holds the lock now. Raises `SetupError` where the file may not be opened."""
    if not path.exists():
        return False
    lock = FileLock(path)
    if lock.acquire():
        lock.release()
        return False
    return True


class EndpointLock:
    """A claim on one address and port on this computer.

    Windows: a named mutex, which lives as long as a handle to it. Linux: a name in the abstract socket namespace, which
    lives as long as the socket. Elsewhere: a file in the temporary folder. None of them leaves anything behind.
    """

    def __init__(self, address: str, port: int) -> None:
        """A host name and its IP address are one address, as far as DNS can be asked now."""
        self.name = "linac-icom-" + hashlib.sha256(f"{numbers(address)}:{port}".encode()).hexdigest()[:24]
        self._held: Any = None

    def acquire(self, wait_seconds: float = 0.0) -> bool:
        """Whether the claim is ours now. `wait_seconds` outlasts somebody who only has a look at the linac."""
        deadline = time.monotonic() + wait_seconds
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def _try(self) -> bool:
        if self._held is not None:
            return True
        if sys.platform == "win32":
            self._held = _claim_mutex("Global\\" + self.name)
        elif sys.platform == "linux":
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind("\0" + self.name)
            except OSError:
                claim.close()
            else:
                self._held = claim
        else:
            lock = FileLock(Path(tempfile.gettempdir()) / f"{self.name}.lock")
            self._held = lock if lock.acquire() else None
        return self._held is not None

    def release(self) -> None:
        if self._held is None:
            return
        if sys.platform == "win32":
            _kernel32().CloseHandle(self._held)
        elif sys.platform == "linux":
            self._held.close()
        else:
            self._held.release()
        self._held = None


def numbers(address: str) -> str:
    """The IP address, in its usual form, of a host name or of an address in another form; else the text as it is."""
    address = address.strip().lower()
    try:
        return socket.inet_ntoa(socket.inet_aton(address))
    except OSError:
        pass
    try:
        return socket.gethostbyname(address)
    except (OSError, UnicodeError):
        return address


if sys.platform == "win32":

    def _kernel32() -> Any:
        library = ctypes.WinDLL("kernel32", use_last_error=True)
        library.CreateMutexW.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_wchar_p]
        library.CreateMutexW.restype = ctypes.c_void_p
        library.CloseHandle.argtypes = [ctypes.c_void_p]
        return library

    def _claim_mutex(name: str) -> Any:
        """A handle if nobody had it before, else None. Another account's mutex is refused (5), ours exists already (183)."""
        library = _kernel32()
        handle = library.CreateMutexW(None, 0, name)
        if handle and ctypes.get_last_error() == 183:
            library.CloseHandle(handle)
            return None
        return handle or None
