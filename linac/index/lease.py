"""One writer at a time in a records root, on any share, without waiting for ever for one that crashed.

A lease is a small file that its holder makes, rewrites while it works and removes. Whoever finds it there watches it by its own
clock: unchanged for `stale_seconds`, its holder is dead, and the lease is taken over. No two clocks are ever compared, and
nothing is asked of the share but to make a file only if it is not there.

>>> import tempfile
>>> from linac.transport import connect
>>> with tempfile.TemporaryDirectory() as there, connect(there) as folder:
...     with Lease(folder, "writer.lease") as held:
...         held.keep()
...         [entry.name for entry in folder.list()]
['writer.lease']

The holder calls `keep` between the steps of its work, so a step may not take longer than `stale_seconds`. That bounds what a
lease can promise: a holder that stands still for longer than that, between `keep` and the step after it, may meet another.
So what it guards must be harmless when done twice; the index is.
"""

import contextlib
import hashlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from linac.errors import AlreadyRunningError, StorageError
from linac.transport import Folder

STALE_SECONDS = 120.0
"""A lease unchanged for so long was left by a crashed run. No single step of a writer takes that long: the largest is to copy
one file of some 10 MB to the share."""

WAIT_SECONDS = 900.0
"""How long a run waits for another's lease before it gives up: several batches of the other, or its death and a batch."""

POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)


class Lease:
    """The right to write, held from `with` to its end. Raises `AlreadyRunningError` where another keeps it for too long."""

    def __init__(
        self,
        folder: Folder,
        name: str,
        *,
        stale_seconds: float = STALE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._name = folder, name
        self._stale, self._wait = stale_seconds, wait_seconds
        self._clock, self._sleep = clock, sleep
        self._owner = uuid.uuid4().hex
        self._beats = 0
        self._last = 0.0

    def __enter__(self) -> Self:
        begin = self._clock()
        seen, since, claims = b"", begin, 0
        while True:
            before = self._clock()
            if self._folder.create(self._name, self._text()):
                self._last = before
                return self
            found = self._read()
            if found != seen:
                if not seen:
                    logger.warning(
                        "%s is being written to by another run (%s): waiting, %.0f s at most; %.0f s if that run crashed.",
                        self._folder.location,
                        _holder(found),
                        self._wait,
                        self._stale,
                    )
                seen, since, claims = found, self._clock(), 0
            elif self._clock() - since > self._stale:
                if self._take_over(seen, claims):
                    return self
                since, claims = self._clock(), claims + 1
            if self._clock() - begin > self._wait:
                raise AlreadyRunningError(
                    f"Another run has been writing to {self._folder.location} for {self._wait:.0f} s ({_holder(found)}). Let it "
                    "finish, then run again: what is there already is not done twice."
                )
            self._sleep(min(POLL_SECONDS, self._stale / 4))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(StorageError):  # then it goes stale by itself
            if self._is_ours():
                self._folder.remove(self._name)

    def keep(self, *, surely: bool = False) -> None:
        """Show that this writer lives, and make sure that no other took over. Call it before every step that changes files.

        It looks every now and then by this computer's clock, which stands still while the computer is suspended; `surely`, it
        looks now, as before a step that would undo another's work. Raises `StorageError` if the lease is lost: then stop at once,
        and let the next run finish the work.
        """
        now = self._clock()
        due = now - self._last >= self._stale / 10
        if not due and not surely:
            return
        if not self._is_ours():
            raise StorageError(
                f"This run stood still while writing to {self._folder.location}, and another run went on in its place. Run "
                "again: what is there already is not done twice."
            )
        if not due:
            return
        self._beats += 1
        self._folder.write(self._name, self._text())
        self._last = now

    def _take_over(self, seen: bytes, claim: int) -> bool:
        """Put our lease in the place of a dead one. Of several who try, only one makes the claim file for it.

        A claimant can die too. Then its claim stays and the lease does not change, so whoever watches on makes the next claim.
        """
        mark = f"{self._name}.{hashlib.sha256(seen).hexdigest()[:12]}-{claim}"
        before = self._clock()
        if not self._folder.create(mark, self._text()):
            return False
        if self._read() == seen:
            self._folder.write(self._name, self._text())
        ours = self._is_ours()
        for entry in self._folder.list(f"{self._name}.*"):
            if ours or entry.name == mark.rpartition("/")[2]:
                self._folder.remove("/".join([*self._name.split("/")[:-1], entry.name]))
        self._last = before
        return ours

    def _text(self) -> bytes:
        known = {"owner": self._owner, "host": socket.gethostname(), "process": os.getpid(), "beats": self._beats}
        return json.dumps(known).encode()

    def _read(self) -> bytes:
        """What the lease says; nothing if it is gone."""
        for _ in range(5):
            try:
                return self._folder.read(self._name)
            except StorageError as error:
                if self._folder.find(self._name) is None:
                    return b""
                failed = error  # replaced or removed under our hands: look again
                self._sleep(POLL_SECONDS / 4)
        raise failed

    def _is_ours(self) -> bool:
        with contextlib.suppress(ValueError, TypeError):
            return bool(json.loads(self._read())["owner"] == self._owner)
        return False


def _holder(text: bytes) -> str:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        known = json.loads(text)
        return f"process {known['process']} on {known['host']}"
    return "unknown holder"
