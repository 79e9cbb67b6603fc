"""Start, adopt, watch and stop a listener from another process: a flow run, a command, a service's script.

The listener outlives whoever starts it: it has its own session and no handle of ours. So to start means to adopt the one that
runs, if there is one; its lock in the spool says so, never a process number or a name. To stop means to leave a file: that
works on Windows as well, across accounts and sessions, and lets the listener end its connection in order.
"""

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import linac
from linac.capture import lock
from linac.capture.listener import EXIT_ALREADY
from linac.capture.spool import Spool, private
from linac.capture.status import Status
from linac.errors import AlreadyRunningError, LinacError, SetupError, StorageError

START_SECONDS = 15.0
_POLL_SECONDS = 0.05

_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from linac.capture.listener import main; sys.exit(main(sys.argv[1:]))"
"""Runs the listener with nothing but the standard library and this package, wherever the latter lies: `python -I -S` looks at no
environment variable and no site-packages, also where an embedded Python ignores PYTHONPATH."""

_ENVIRONMENT = {
    *("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "USERPROFILE", "TEMP", "TMP", "PROGRAMDATA"),
}
"""What the listener gets of our environment. It lives for months: what else is in there (keys, passwords) is not for it."""

_children: list[subprocess.Popen[bytes]] = []
"""Listeners that this process started: looked at now and then, so that an ended one does not stay behind as a zombie."""


@dataclass(frozen=True)
class Running:
    """A listener that runs. `adopted`: it ran before; else this call started it. `log`: where it writes its lines."""

    pid: int
    adopted: bool
    log: Path


def is_running(spool: str | os.PathLike[str], serial: str) -> bool:
    """Whether a listener for this linac lives on this computer with this spool."""
    _reap()
    return lock.is_held(Spool(Path(spool), serial).lock)


def status(spool: str | os.PathLike[str], serial: str) -> Status | None:
    """What the listener last said, with `running` as it is now; None if there never was one."""
    from linac.capture.archive import backlog_bytes  # here, so that starting and stopping load less
    from linac.capture.follower import unattended_since

    places = Spool(Path(spool), serial)
    said = _read_status(places)
    if said is None:
        return None
    running = is_running(spool, serial)
    backlog = 0
    with contextlib.suppress(LinacError):
        backlog = backlog_bytes(spool, serial)
    if not running:
        said = replace(said, connected=False, silent=False, state="stopped")
    trouble, since = _archive_trouble(places)
    alone_since = unattended_since(spool, serial, said.started) if running and backlog else None
    if alone_since is not None:
        trouble = f"Nobody archives what is recorded. Start `listen` again, or run icom-capture/{serial}."
        since = alone_since
    return replace(said, running=running, backlog_bytes=backlog, archive_trouble=trouble, archive_trouble_since=since)


def last_status(spool: str | os.PathLike[str], serial: str) -> Status | None:
    """What the listener last said, as it said it; None if there never was one."""
    return _read_status(Spool(Path(spool), serial))


def start(serial: str, address: str, port: int, spool: str | os.PathLike[str], *, timeout: float = START_SECONDS) -> Running:
    """Make sure that the listener runs: adopt it or start it.

    Raises `SetupError` if the one that runs listens to another address, or if it does not start; `AlreadyRunningError` if
    a listener with another spool holds this linac.
    """
    places = Spool(Path(spool), serial)
    places.make()
    deadline = time.monotonic() + timeout
    while True:
        adopted = _adopt(places, address, port, deadline)
        if adopted is not None:
            return adopted
        child = _spawn(places, address, port)
        while time.monotonic() < deadline:
            said = _read_status(places)
            if said is not None and said.pid == child.pid and lock.is_held(places.lock):
                return Running(child.pid, adopted=False, log=places.log)
            if child.poll() is not None:
                break
            time.sleep(_POLL_SECONDS)
        else:
            raise SetupError(
                f"Linac {serial}: the listener was started but says nothing for {timeout:.0f} s. See the logs in {places.folder}."
            )
        if child.returncode != EXIT_ALREADY:
            raise SetupError(f"Linac {serial}: the listener does not start. It says: {_last_words(places)}")
        if not is_running(spool, serial):
            raise AlreadyRunningError(_last_words(places))


def stop(spool: str | os.PathLike[str], serial: str, timeout: float = 10.0) -> bool:
    """Ask the listener to end in order and wait for it. True when none runs (any more), False if it takes longer.

    Raises `StorageError` if the request cannot be written.
    """
    places = Spool(Path(spool), serial)
    deadline = time.monotonic() + timeout
    while is_running(spool, serial):
        try:
            places.stop.touch()  # again and again: one that is just starting clears away old requests
        except OSError as error:
            advice = "Run this under the account that owns the spool."
            if error.errno in (errno.EROFS, errno.ENOSPC):
                advice = "See to the spool's disk first."
            raise StorageError(
                f"Linac {serial}: the stop request {places.stop} cannot be written: {error.strerror or error}. {advice}"
            ) from error
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    with contextlib.suppress(OSError):
        places.stop.unlink()
    return True


def _adopt(places: Spool, address: str, port: int, deadline: float) -> Running | None:
    """The listener that runs, once it has said what it listens to. None if none runs; one that is ending is waited for."""
    _reap()
    while lock.is_held(places.lock):
        said = _read_status(places)
        if said is not None and said.state not in ("stopping", "stopped") and not places.stop.exists():
            if (said.address.lower(), said.port) != (address.strip().lower(), port):
                raise SetupError(
                    f"Linac {places.serial}: the listener that runs listens to {said.address} port {said.port}, not to "
                    f"{address} port {port}. If the linac has moved, stop that listener first, then start again."
                )
            return Running(said.pid, adopted=True, log=places.log)
        if time.monotonic() >= deadline:
            raise SetupError(
                f"Linac {places.serial}: a listener holds {places.lock} but does not say what it does, or does not end. See "
                f"{places.log}; if its computer is stalled, restart that."
            )
        time.sleep(_POLL_SECONDS)
    return None


def _read_status(places: Spool) -> Status | None:
    for _ in range(3):
        try:
            return Status.from_json(places.status.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # being replaced on Windows; cut short by a power cut
            time.sleep(0.02)
    return None


def _archive_trouble(places: Spool) -> tuple[str, datetime | None]:
    """What the archiver last said, if it had trouble, and since when."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        facts = json.loads(places.archive_status.read_bytes())
        if facts["trouble"]:
            return str(facts["trouble"]), datetime.fromisoformat(facts["since"])
    return "", None


def _spawn(places: Spool, address: str, port: int) -> subprocess.Popen[bytes]:
    root = str(Path(linac.__file__).resolve().parents[1])
    where = ["--serial", places.serial, "--address", address, "--port", str(port), "--spool", str(places.root)]
    environment = {name: value for name, value in os.environ.items() if name.upper() in _ENVIRONMENT}
    command = [_python(), "-I", "-S", "-c", _BOOT, root, *where, "--detached", "--log", str(places.log)]
    try:
        with open(places.out, "wb", opener=private) as out:
            child = _detached(command, places.folder, environment, out.fileno())
    except OSError as error:
        raise SetupError(
            f"Linac {places.serial}: the listener cannot be started: {error.strerror or error}. Check that {command[0]} may be "
            f"run and {places.folder} be written to by this account."
        ) from error
    _children.append(child)
    return child


if sys.platform == "win32":

    def _detached(command: list[str], folder: Path, environment: dict[str, str], out: int) -> subprocess.Popen[bytes]:
        """No console, so that none can be closed on it; its own group; out of our job object where that is allowed."""
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        for more in (subprocess.CREATE_BREAKAWAY_FROM_JOB, 0):
            try:
                return subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    close_fds=True,
                    creationflags=flags | more,
                )
            except OSError:
                if not more:
                    raise
        raise AssertionError("unreachable")

    def _python() -> str:
        """The interpreter itself: a virtual environment's python.exe is only a launcher, with the real one as its child."""
        return str(getattr(sys, "_base_executable", "") or sys.executable)

else:

    def _detached(command: list[str], folder: Path, environment: dict[str, str], out: int) -> subprocess.Popen[bytes]:
        """A session of its own: no signal for our group or terminal reaches it."""
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            close_fds=True,
            start_new_session=True,
        )

    def _python() -> str:
        return sys.executable


def _last_words(places: Spool) -> str:
    words = ""
    with contextlib.suppress(OSError):
        words = places.out.read_bytes()[-2000:].decode(errors="backslashreplace").strip()
    return words.splitlines()[-1] if words else f"nothing; see {places.log}."


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]
