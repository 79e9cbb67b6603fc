"""Child processes that are started, watched, ended in order, and found again after their parent was killed.

A process is known by its number together with the time of its start: numbers are used again, and only what is ours is ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
END_SECONDS = 15.0
POLL_SECONDS = 0.1


class Child:
    """A child process in a process group of its own, so that Ctrl-C reaches us alone and we end things in order.

    It runs a module of Python, and ends by itself when we are killed (`launch.attended`).
    """

    def __init__(self, name: str, module: Sequence[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "launch.attended", str(os.getpid()), *module]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=PROJECT, env=env, **own_group()
            )
        self.started = start_of(self.process.pid)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self, seconds: float = END_SECONDS) -> None:
        """Ask it to end; after a while, make it, with whatever of its group is left."""
        if self.ended():
            return
        ask_to_end(self.process.pid)
        if not _gone(self.process.pid, self.started, seconds):
            self.process.kill()
        kill_group(self.process.pid)  # it is not waited for yet, so its number cannot be another's
        self.process.wait(END_SECONDS)

    def last_words(self, lines: int = 15) -> str:
        """The end of its log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return ""


def own_group() -> dict[str, Any]:
    """Popen's arguments for a child that the terminal's Ctrl-C does not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def ask_to_end(pid: int) -> None:
    """Ctrl-C for one of our children, Ctrl-Break on Windows, where it is a whole group that hears it."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.kill(pid, signal.CTRL_BREAK_EVENT)
        else:
            os.kill(pid, signal.SIGINT)


def kill_group(leader: int) -> None:
    """End at once what is left of a child's group. Windows: nothing to do, a virtual environment's launcher sees to it."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # nobody is left, as a rule
            os.killpg(leader, signal.SIGKILL)


def end_stranger(pid: int, started: str) -> bool:
    """End a process that an earlier start of ours left behind. Whether it has gone.

    `started` is what `start_of` said of it then: a process that has its number now, but another start, is left alone.
    """
    if start_of(pid) != started:
        return True
    ask_to_end(pid)
    if _gone(pid, started, END_SECONDS):
        return True
    kill_group(pid)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGTERM)  # Windows: ends it at once
    return _gone(pid, started, END_SECONDS)


def _gone(pid: int, started: str, seconds: float) -> bool:
    """Wait until the process has ended, without taking note of it in the operating system's books."""
    until = time.monotonic() + seconds
    while start_of(pid) == started:
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _QUERY_LIMITED_INFORMATION = 0x1000
    _STILL_ACTIVE = 259

    def start_of(pid: int) -> str:
        """When the process was started, as a text to be compared; empty where there is none, or none that we may look at."""
        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel32.OpenProcess.restype = wintypes.HANDLE
        kernel32.GetProcessTimes.argtypes = [wintypes.HANDLE, *[ctypes.POINTER(wintypes.FILETIME)] * 4]
        kernel32.GetExitCodeProcess.argtypes = [wintypes.HANDLE, ctypes.POINTER(wintypes.DWORD)]
        kernel32.CloseHandle.argtypes = [wintypes.HANDLE]
        handle = kernel32.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid)
        if not handle:
            return ""
        try:
            code = wintypes.DWORD()
            made, ended, kernel, user = (wintypes.FILETIME() for _ in range(4))
            if not kernel32.GetExitCodeProcess(handle, ctypes.byref(code)) or code.value != _STILL_ACTIVE:
                return ""
            if not kernel32.GetProcessTimes(handle, *(ctypes.byref(one) for one in (made, ended, kernel, user))):
                return ""
            return f"{(made.dwHighDateTime << 32) + made.dwLowDateTime}"
        finally:
            kernel32.CloseHandle(handle)

else:

    def start_of(pid: int) -> str:
        """When the process was started, as a text to be compared; empty where there is none. The boot belongs to it."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""
        return "" if status[0] in ("Z", "X") else f"{boot} {status[19]}"  # fields 3 and 22 of proc(5)
