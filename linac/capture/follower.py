"""Who sees to a linac's listener: a `listen` command or a flow run, never both, never two.

The follower archives what the listener records, starts it again when it ends, and is the one who ends it. The claim is a lock
of the operating system: a crash frees it, and then the listener, which records on, is anybody's to adopt. Only a flow run's
listener stays that: the next run is on its way, so a command that adopts it archives to the same folder and leaves it running.
What `follower.json` says stays after a crash, and its age tells since when nobody sees to the listener.
"""

import json
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from linac.capture import control
from linac.capture.lock import FileLock, is_held
from linac.capture.spool import Spool, write_whole
from linac.errors import AlreadyRunningError

COMMAND, RUN = "listen", "flow run"

SEEN_SECONDS = 10.0
"""So often a follower says that it is there."""

GRACE_SECONDS = 120.0
"""A follower that was killed has a successor within 90 s. After so long there is none."""


class Holder(NamedTuple):
    """The follower of a linac: its process (0 where that is not known), and whether it is a `COMMAND` or a `RUN`.

    `target`: the iCom folder that it archives to; `of_run`: whether the listener is a flow run's.
    """

    pid: int
    kind: str
    target: str = ""
    of_run: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} ({self.kind})" if self.pid else "another process"


class Follower:
    """This process's claim to see to a linac's listener. `kind`: `COMMAND` or `RUN`; `target`: the iCom folder it archives to.

    `of_run`: whether the listener is a flow run's; it stays that when a command adopts it, and the other way round.
    """

    def __init__(self, spool: str | os.PathLike[str], serial: str, kind: str, target: str = "") -> None:
        self.places, self.kind, self.target = Spool(Path(spool), serial), kind, target
        self.mine, self.of_run = False, kind == RUN
        self._lock = FileLock(self.places.follower_lock)
        self._seen = float("-inf")

    def acquire(self, wait_seconds: float = 1.0) -> bool:
        """Whether the claim is ours now. Makes the spool if need be; raises `SetupError` where that is not allowed, and
        `AlreadyRunningError` for a command that would archive a flow run's listener to another folder."""
        self.places.make()
        if not self._lock.acquire(wait_seconds):
            return False
        try:
            self._adopt()
        except BaseException:
            self._lock.release()
            raise
        self.mine = True
        self._write()
        self._seen = time.monotonic()
        return True

    def seen(self) -> None:
        """Say that we are there: call it every few seconds."""
        if time.monotonic() - self._seen < SEEN_SECONDS:
            return
        self._seen = time.monotonic()
        try:
            os.utime(self.places.follower)
        except OSError:  # somebody removed it
            self._write()

    def forget(self) -> None:
        """The recording was ended on purpose: what is left of it is nobody's."""
        with suppress(OSError):
            self.places.follower.unlink()

    def release(self) -> None:
        self.mine = False
        self._lock.release()

    def _write(self) -> None:
        facts = Holder(os.getpid(), self.kind, self.target, self.of_run)._asdict()
        with suppress(OSError):  # it only serves messages to others
            write_whole(self.places.follower, json.dumps(facts).encode(), keep=False)

    def _adopt(self) -> None:
        before = _last(self.places)
        adopted = before is not None and is_held(self.places.lock)
        self.of_run = before.of_run if before is not None and adopted else self.kind == RUN
        if before is None or self.kind == RUN or not self.of_run or _same(before.target, self.target):
            return
        serial, target = self.places.serial, before.target or "the records share"
        raise AlreadyRunningError(
            f"Linac {serial}: its listener is that of icom-capture, which archives to {target}, not to {self.target}. Its next "
            "run is on its way and goes on from where the last one stopped. To record with `listen` instead, cancel "
            f"icom-capture/{serial}, which ends its listener. Where there is no Prefect any more, remove {self.places.follower}, "
            "then start this again: it takes the listener over."
        )


def follower_of(spool: str | os.PathLike[str], serial: str) -> Holder | None:
    """Who sees to the listener now; None if nobody does. Raises `SetupError` where this account may not look."""
    places = Spool(Path(spool), serial)
    if not is_held(places.follower_lock):
        return None
    return _last(places) or Holder(0, "")


def unattended_since(spool: str | os.PathLike[str], serial: str, started: datetime | None) -> datetime | None:
    """Since when nobody sees to a listener that runs since `started` (aware, UTC); None if somebody does, or did so a moment ago.
    Raises `SetupError` where this account may not look."""
    places, since = Spool(Path(spool), serial), started
    with suppress(OSError):
        since = datetime.fromtimestamp(places.follower.stat().st_mtime, UTC)
    if since is None or (datetime.now(UTC) - since).total_seconds() < GRACE_SECONDS or is_held(places.follower_lock):
        return None
    return since


def is_a_commands(spool: str | os.PathLike[str], serial: str) -> bool:
    """Whether a command or a service of its own records the linac now: then its listener is not for flows to end."""
    holder, status = follower_of(spool, serial), control.status(spool, serial)
    return (holder is not None and holder.kind == COMMAND) or (status is not None and status.running and status.standalone)


def _last(places: Spool) -> Holder | None:
    """Who saw to the listener last, now or before a crash."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        facts = json.loads(places.follower.read_bytes())
        kind = str(facts["kind"])
        return Holder(int(facts["pid"]), kind, str(facts.get("target", "")), bool(facts.get("of_run", kind == RUN)))
    return None


def _same(one: str, other: str) -> bool:
    """Whether two names mean one folder, as far as names tell."""
    return bool(one and other) and os.path.normcase(os.path.normpath(one)) == os.path.normcase(os.path.normpath(other))
