"""Bringing files to the disk behind their readers' backs, so that nobody waits for it.

A record beside the file says that the disk may not have it yet. It is made before the file gets its name and removed after the
file has been synced: file systems with a journal keep that order, so a power cut leaves a file with its record or none at all.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

BEHIND = os.name != "nt"
"""Windows lets nobody remove or replace a file that another has open, if only to sync it: there it is done at once."""

WAIT_SECONDS = 60.0
"""So long somebody who asks for a file that is being synced waits for it."""


class Settling:
    """Files on their way to the disk, one after another, in a thread that lives while there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Path, Path, str]] = deque()
        self._busy: dict[Path, int] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def file(self, local: Path, record: Path, mark: str) -> Iterator[None]:
        """Around the replacing of a file: its record, with a mark of its own, is written before; after it the syncing is ours."""
        record.write_text(mark, encoding="utf-8")
        yield
        if not BEHIND:
            _settle(local, record, mark)
            return
        with self._changed:
            self._waiting.append((local, record, mark))
            self._busy[local] = self._busy.get(local, 0) + 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="files-to-disk")  # the interpreter's end waits for it
                self._thread.start()

    def wait(self, local: Path | None = None, seconds: float = WAIT_SECONDS) -> bool:
        """Until a file, or every one, has been seen to; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: local not in self._busy if local else not self._busy, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                local, record, mark = self._waiting.popleft()
            try:
                _settle(local, record, mark)
            finally:
                with self._changed:
                    self._busy[local] -= 1
                    if not self._busy[local]:
                        del self._busy[local]
                    self._changed.notify_all()


def _settle(local: Path, record: Path, mark: str) -> None:
    """Sync a file and remove its record. Where that fails the record stays: the file is fetched again when it is asked for."""
    with contextlib.suppress(FileNotFoundError):  # the file was only wanted for a moment
        try:
            with local.open("r+b") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            pass
        except OSError:
            return
        if record.read_text(encoding="utf-8") == mark:  # else another is fetching a newer version
            record.unlink()


SETTLING = Settling()
