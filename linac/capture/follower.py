"""Who sees to a linac's listener: a `listen` command or a flow run, never both, never two.

The follower archives what the listener records, starts it again when it ends, and is the one who ends it. The claim is a lock
of the operating system: a crash frees it, and then the listener, which records on, is anybody's to adopt.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from linac.capture import control
from linac.capture.lock import FileLock, is_held
from linac.capture.spool import Spool, write_whole

COMMAND, RUN = "listen", "flow run"


class Holder(NamedTuple):
    """The follower of a linac: its process (0 where that is not known), and whether it is a `COMMAND` or a `RUN`."""

    pid: int
    kind: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.kind})" if self.pid else "another process"


class Follower:
    """This process's claim to see to a linac's listener. `kind`: `COMMAND` or `RUN`."""

    def __init__(self, spool: str | os.PathLike[str], serial: str, kind: str) -> None:
        self.places, self.kind = Spool(Path(spool), serial), kind
        self.mine = False
        self._lock = FileLock(self.places.follower_lock)

    def acquire(self, wait_seconds: float = 1.0) -> bool:
        """Whether the claim is ours now. Makes the spool if need be; raises `SetupError` where that is not allowed."""
        self.places.make()
        self.mine = self._lock.acquire(wait_seconds)
        if self.mine:
            with suppress(OSError):  # it only serves messages to others
                write_whole(self.places.follower, json.dumps(Holder(os.getpid(), self.kind)._asdict()).encode(), keep=False)
        return self.mine

    def release(self) -> None:
        self.mine = False
        self._lock.release()


def follower_of(spool: str | os.PathLike[str], serial: str) -> Holder | None:
    """Who sees to the listener now; None if nobody does. Raises `SetupError` where this account may not look."""
    places = Spool(Path(spool), serial)
    if not is_held(places.follower_lock):
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        facts = json.loads(places.follower.read_bytes())
        return Holder(int(facts["pid"]), str(facts["kind"]))
    return Holder(0, "")


def is_a_commands(spool: str | os.PathLike[str], serial: str) -> bool:
    """Whether a command or a service of its own records the linac now: then its listener is not for flows to end."""
    holder, status = follower_of(spool, serial), control.status(spool, serial)
    return (holder is not None and holder.kind == COMMAND) or (status is not None and status.running and status.standalone)
