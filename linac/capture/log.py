"""Lines for people, written by a thread of their own: a full pipe or a stalled disk must hold nobody up."""

import contextlib
import os
import queue
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from linac.capture.spool import private

LARGEST_BYTES = 1 << 20


class Log:
    """Prints lines with the time (UTC) before them, or appends them to `path`, which is bounded: at 1 MB it becomes `<path>.1`.

    Lines that cannot be written are left out.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=1000)
        self._thread = threading.Thread(target=self._run, daemon=True, name="log")
        self._thread.start()

    def line(self, text: str) -> None:
        """Write one line. Never waits, never raises."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")

    def close(self, timeout: float = 1.0) -> None:
        """Write what is waiting, for at most `timeout` seconds."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):
                if self.path is None:
                    sys.stdout.write(line)
                    sys.stdout.flush()
                else:
                    self._append(self.path, line)

    @staticmethod
    def _append(path: Path, line: str) -> None:
        with open(path, "a", encoding="utf-8", errors="backslashreplace", opener=private) as file:
            file.write(line)
            full = file.tell() > LARGEST_BYTES
        if full:
            os.replace(path, path.with_name(f"{path.name}.1"))
