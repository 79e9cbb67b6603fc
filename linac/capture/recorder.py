"""Between socket and disk: a bounded queue and the thread that empties it into the journal.

The thread that reads the socket only ever appends to a list in memory, so a disk that stalls for minutes does not hold it up.
While the disk fails, the queue fills. When it is full, what comes is counted and dropped; as soon as half of it is free again,
the journal gets a record that says what is missing, and recording goes on.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from linac.capture.journal import Kind, Writer
from linac.errors import StorageError

QUEUE_BYTES = 16 << 20
"""Eight minutes of one linac's stream."""

SYNC_SECONDS = 0.75
"""Written records are synced after so long, so that a power cut takes less than the last second."""

SYNC_BYTES = 4 << 20
BATCH_BYTES = 1 << 20
RETRY_SECONDS = 1.0


class Recorder:
    """Takes records from one thread and writes them in another. `say` gets a line when the disk fails or recovers.

    `failing`: why nothing can be written at the moment, or empty. `queue_bytes`, `dropped_bytes`, `drops`: see `Status`.
    """

    def __init__(self, writer: Writer, say: Callable[[str], None], queue_bytes: int = QUEUE_BYTES) -> None:
        self.writer, self.limit = writer, queue_bytes
        self.failing = ""
        self.queue_bytes = self.dropped_bytes = self.drops = 0
        self._say = say
        self._queue: deque[tuple[Kind, bytes | dict[str, Any], int, int]] = deque()
        self._changed = threading.Condition()
        self._hole: dict[str, int] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="recorder")

    def start(self) -> None:
        self._thread.start()

    def data(self, payload: bytes) -> None:
        """Record bytes that just arrived, at most 1 MiB. Never waits for the disk."""
        wall, mono, size = time.time_ns(), time.monotonic_ns(), len(payload)
        with self._changed:
            if self._hole is None and self.queue_bytes + size > self.limit:
                self._hole = {"bytes": 0, "first_wall_ns": wall}
                self.drops += 1
            if self._hole is not None:
                self._hole["bytes"] += size
                self._hole["last_wall_ns"] = wall
                self.dropped_bytes += size
                return
            self._queue.append((Kind.DATA, payload, wall, mono))
            self.queue_bytes += size
            self._changed.notify()

    def note(self, kind: Kind, **facts: Any) -> None:
        """Record that something happened. Never waits for the disk."""
        with self._changed:
            self._queue.append((kind, facts, time.time_ns(), time.monotonic_ns()))
            self._changed.notify()

    def close(self, timeout: float) -> bool:
        """Write out what is queued and let go of the journal; False if that did not succeed in `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self.failing

    def _run(self) -> None:
        synced, unsynced = time.monotonic(), 0
        while True:
            batch, closing = self._take(synced + SYNC_SECONDS)
            try:
                for kind, what, wall, mono in batch:
                    if isinstance(what, dict):
                        self.writer.note(kind, wall, mono, **what)
                    else:
                        self.writer.append(kind, what, wall, mono)
                        unsynced += len(what)
                if not self.writer.dirty:
                    synced = time.monotonic()
                self.writer.commit()
                if closing or unsynced > SYNC_BYTES or time.monotonic() - synced >= SYNC_SECONDS:
                    self.writer.sync()
                    synced, unsynced = time.monotonic(), 0
                if closing and not self._queue:
                    self.writer.close()
                    self._told("")
                    return
                self._told("")
            except StorageError as error:
                self._told(str(error))
                if closing:
                    return
                self._pause()
            except Exception as error:  # a fault of ours must not end the recording
                self._told(f"unexpected {type(error).__name__} while writing the journal")
                self._pause()

    def _take(self, sync_due: float) -> tuple[list[tuple[Kind, bytes | dict[str, Any], int, int]], bool]:
        """The next records, at most about 1 MiB, or none when a sync is due; and whether this is to be the end."""
        with self._changed:
            while not self._queue and not self._closing and not self.failing:
                left = sync_due - time.monotonic() if self.writer.dirty else None
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            batch, size = [], 0
            while self._queue and size < BATCH_BYTES and not self.failing:
                item = self._queue.popleft()
                size += len(item[1]) if item[0] == Kind.DATA else 0
                batch.append(item)
            self.queue_bytes -= size
            if self._hole is not None and self.queue_bytes <= self.limit // 2 and not self.failing:
                self._queue.append((Kind.DROPPED, dict(self._hole), time.time_ns(), time.monotonic_ns()))
                self._hole = None
            return batch, self._closing

    def _pause(self) -> None:
        with self._changed:
            deadline = time.monotonic() + RETRY_SECONDS
            while not self._closing and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _told(self, failing: str) -> None:
        if failing != self.failing:
            self._say(failing or "the journal can be written again")
        self.failing = failing
