"""Between socket and disk: a bounded queue and the thread that empties it into the journal.

The thread that reads the socket only ever puts into a queue in memory, so a disk that stalls for minutes does not hold it up.
While the disk fails, the queue fills. When it is full, what comes is counted and dropped; as soon as half of it is free again,
the journal gets a record that says what is missing, and recording goes on.

One thread puts, one takes: each counts its bytes for itself, and the difference is what waits. No lock is shared.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from linac.capture.journal import DiskFullError, Kind, Writer
from linac.errors import StorageError

QUEUE_BYTES = 8 << 20
"""Four minutes of one linac's stream."""

SYNC_SECONDS = 0.75
"""Written records are synced after so long, so that a power cut takes less than the last second."""

SYNC_BYTES = 2 << 20
BATCH_BYTES = 1 << 20
RETRY_SECONDS = 1.0
TELL_SECONDS = 60.0
"""What goes on is said again after so long: how much was dropped so far, and why nothing can be written."""

Item = tuple[Kind, bytes | dict[str, Any], int, int]


class Recorder:
    """Takes records from one thread and writes them in another. `say` gets a line when the disk fails or recovers.

    `failing`: why nothing can be written at the moment, or empty. `queue_bytes`, `dropped_bytes`, `drops`: see `Status`.
    `dropped_full`: whether something was dropped because the disk had no room, and not because it was slow or broken.
    """

    def __init__(self, writer: Writer, say: Callable[[str], None], queue_bytes: int = QUEUE_BYTES) -> None:
        self.writer, self.limit = writer, queue_bytes
        self.failing = self._told = ""
        self._told_at: dict[str, float] = {}
        self._told_drop_at = 0.0
        self.dropped_bytes = self.drops = 0
        self.dropped_full = False
        self._say = say
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._put = self._taken = 0
        self._hole: dict[str, int] = {}
        self._closing = threading.Event()
        self._renewing = self._full = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="recorder")

    @property
    def queue_bytes(self) -> int:
        """What is not yet in the journal."""
        return self._put - self._taken

    @property
    def unsafe_bytes(self) -> int:
        """What would be lost if it ended now."""
        return self.queue_bytes + self.writer.unsafe_bytes

    @property
    def full(self) -> bool:
        """Whether nothing can be written because the disk has no room."""
        return self._full

    @property
    def losing(self) -> bool:
        """Whether what comes cannot be written now: it waits in memory, or is dropped."""
        return bool(self.failing or self._hole)

    def start(self) -> None:
        self._thread.start()

    # The thread that reads the socket calls these three. None of them waits for the disk.

    def data(self, payload: bytes) -> None:
        """Record bytes that just arrived, at most 256 KiB."""
        wall, mono, size = time.time_ns(), time.monotonic_ns(), len(payload)
        room = self.limit - self._put + self._taken
        if self._hole and room >= self.limit // 2:
            self._say(f"recording goes on; {self._lost()}")
            self._close_hole()
        if self._hole or room < size:
            self.drops += not self._hole
            self.dropped_bytes += size
            self.dropped_full = self.dropped_full or self._full
            self._hole = {
                "bytes": self._hole.get("bytes", 0) + size,
                "first_wall_ns": self._hole.get("first_wall_ns", wall),
                "last_wall_ns": wall,
            }
            if self._hole["bytes"] == size or mono - self._told_drop_at >= TELL_SECONDS * 1e9:
                self._told_drop_at = mono
                why = self.failing or "The spool's disk is too slow."
                self._say(f"ATTENTION, what the linac sends is being lost; so far {self._lost()}. {why}")
            return
        self._put += size
        self._queue.put((Kind.DATA, payload, wall, mono))

    def note(self, kind: Kind, **facts: Any) -> None:
        """Record that something happened."""
        self._queue.put((kind, facts, time.time_ns(), time.monotonic_ns()))

    def renew(self) -> None:
        """The journal's folder is gone: make it again."""
        self._renewing = True

    def close(self, timeout: float) -> bool:
        """Write out what is queued and let go of the journal; False if that did not succeed in `timeout` seconds."""
        if self._hole:
            self._say(self._lost())
            self._close_hole()
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self.failing

    def _lost(self) -> str:
        since = datetime.fromtimestamp(self._hole["first_wall_ns"] / 1e9, UTC)
        return f"{self._hole['bytes']} bytes were lost since {since:%Y-%m-%d %H:%M:%S} UTC"

    def _close_hole(self) -> None:
        facts, self._hole = self._hole, {}
        self.note(Kind.DROPPED, **facts)

    # The recorder's own thread.

    def _run(self) -> None:
        dirty_since: float | None = None
        unsynced, last_tries = 0, 3
        ended = False
        while True:
            try:
                if not self.failing:
                    due = None if dirty_since is None else dirty_since + SYNC_SECONDS
                    taken, ended = self._take(due)
                    unsynced += taken
                if self._renewing:
                    self.writer.renew()
                    self._renewing = False
                self.writer.commit()
                if self.writer.dirty and dirty_since is None:
                    dirty_since = time.monotonic()
                overdue = dirty_since is not None and time.monotonic() - dirty_since >= SYNC_SECONDS
                if ended or overdue or unsynced > SYNC_BYTES:
                    self.writer.sync()
                    dirty_since, unsynced = None, 0
                self._tell("")
                self._full = False
                if ended:
                    self.writer.close()
                    return
            except Exception as error:  # a full disk, or a fault of ours: neither ends the recording
                ours = not isinstance(error, StorageError)
                self._full = isinstance(error, DiskFullError)
                text = f"unexpected {type(error).__name__} while writing the journal" if ours else str(error)
                self._tell(text, type(error).__name__)
                dirty_since, unsynced = None, 0
                with contextlib.suppress(Exception):  # what was written before is to be safe, whatever fails now
                    self.writer.sync()
                if self._closing.wait(RETRY_SECONDS):
                    last_tries -= 1
                    if not last_tries:
                        return
                    time.sleep(RETRY_SECONDS / 10)

    def _take(self, due: float | None) -> tuple[int, bool]:
        """Hand the next records to the writer, at most about 1 MiB, waiting for them until `due`: their bytes, and whether they
        were the last."""
        taken, wait = 0, None if due is None else max(due - time.monotonic(), 0.0)
        try:
            item = self._queue.get(timeout=wait)
            while item is not None:
                kind, what, wall, mono = item
                if isinstance(what, dict):
                    self.writer.note(kind, wall, mono, **what)
                else:
                    self.writer.append(kind, what, wall, mono)
                    taken += len(what)
                    self._taken += len(what)
                if taken >= BATCH_BYTES:
                    return taken, False
                item = self._queue.get_nowait()
        except queue.Empty:
            return taken, False
        return taken, True

    def _tell(self, failing: str, kind: str = "") -> None:
        """Say why nothing can be written, once a minute at most for each kind of reason: free space changes all the time."""
        self.failing = failing
        if failing and failing != self._told and time.monotonic() - self._told_at.get(kind, float("-inf")) >= TELL_SECONDS:
            self._told, self._told_at[kind] = failing, time.monotonic()
            self._say(failing)
        elif not failing and self._told:
            self._told = ""
            self._say("the journal can be written again")
