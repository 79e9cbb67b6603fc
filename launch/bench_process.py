"""What another process of ours uses: seconds of a core, and memory. By its process number, on Linux and Windows."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from linac.errors import LinacError

CAN_TELL = sys.platform in ("linux", "win32")
"""Whether this system tells."""


class GoneError(LinacError):
    """The process has ended."""


def cpu_seconds(pid: int) -> float:
    """Seconds of a core that it has used, user and system, all its threads. Raises `GoneError`."""
    try:
        if sys.platform == "win32":
            return _windows_seconds(pid)
        return time.clock_gettime(~pid << 3 | 2)  # the clock of a process by its number, in nanoseconds (clock_getcpuclockid(3))
    except OSError as error:
        raise GoneError(f"The process {pid} that was to be measured has ended.") from error


def memory_bytes(pid: int) -> int:
    """What of it is in memory now (resident, working set). Raises `GoneError`."""
    try:
        if sys.platform == "win32":
            return _windows_memory(pid)
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError as error:
        raise GoneError(f"The process {pid} that was to be measured has ended.") from error


def kill(pid: int) -> None:
    """End it at once, without letting it act: `kill -9`. Gone already is fine."""
    try:
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has no other signal, and this one is as hard
    except OSError:
        return


if sys.platform == "win32":

    class _Memory(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS"""

        _fields_ = (
            ("size", ctypes.c_uint32),
            ("faults", ctypes.c_uint32),
            *((name, ctypes.c_size_t) for name in ("peak", "resident", "a", "b", "c", "d", "e", "f")),
        )

    def _opened(pid: int) -> tuple[Any, int]:
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = kernel.OpenProcess(0x1000 | 0x0010, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_VM_READ
        if not handle:
            raise ctypes.WinError(ctypes.get_last_error())
        return kernel, handle

    def _windows_seconds(pid: int) -> float:
        kernel, handle = _opened(pid)
        times = [ctypes.c_uint64() for _ in range(4)]
        kernel.GetProcessTimes(ctypes.c_void_p(handle), *(ctypes.byref(value) for value in times))
        kernel.CloseHandle(ctypes.c_void_p(handle))
        return (times[2].value + times[3].value) / 1e7

    def _windows_memory(pid: int) -> int:
        kernel, handle = _opened(pid)
        found = _Memory(size=ctypes.sizeof(_Memory))
        kernel.K32GetProcessMemoryInfo(ctypes.c_void_p(handle), ctypes.byref(found), found.size)
        kernel.CloseHandle(ctypes.c_void_p(handle))
        return int(found.resident)
