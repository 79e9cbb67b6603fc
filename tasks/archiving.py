"""The archiver in a thread of its own: a records share that hangs holds up neither a cancel nor the watch over the listener."""

import queue
import threading
from typing import NamedTuple

from blocks import Linac
from linac.capture.archive import Archived, Archiver
from linac.capture.listener import where_raised
from linac.capture.priority import lower_priority
from linac.errors import LinacError
from linac.transport.records import require

ROUND_SECONDS = 1.0
"""Pause between two looks at the journal; a finished session reaches the share about so much later."""


class Round(NamedTuple):
    """What one look at the journal brought: sessions archived, why it did not work (else empty), what an operator should know."""

    done: list[Archived]
    trouble: str
    warnings: list[str]


class Archiving(threading.Thread):
    """Brings finished sessions of one linac to the records share, again and again, until `finish`. Its news wait in `rounds`."""

    def __init__(self, linac: Linac) -> None:
        super().__init__(name=f"archive {linac.serial}", daemon=True)
        self.linac = linac
        self.rounds: queue.SimpleQueue[Round] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._archiver: Archiver | None = None
        self._before = Round([], "", [])

    def news(self) -> list[Round]:
        """What has happened since the last call."""
        found = []
        while not self.rounds.empty():
            found.append(self.rounds.get())
        hanging = self._archiver.hanging() if self._archiver is not None else ""
        if hanging and not found:
            self._before = Round([], hanging, self._before.warnings)  # the next round is news, whatever comes of it
            found.append(self._before)
        return found

    def finish(self, seconds: float) -> bool:
        """Archive once more, and end; False if that takes longer. What is not archived then is for the next run."""
        self._ending.set()
        if self.ident is not None:
            self.join(seconds)
        return not self.is_alive()

    def run(self) -> None:
        lower_priority()
        while True:
            last = self._ending.wait(ROUND_SECONDS)
            self._tell(self._round())
            if last:
                break
        if self._archiver is not None:
            self._archiver.close()

    def _round(self) -> Round:
        try:
            if self._archiver is None:
                self._archiver = self._connect()
            done = self._archiver.run_once()
        except LinacError as error:
            return Round([], str(error), self._warnings())
        except Exception as error:  # a fault of ours: what it says could hold anything, where it was does not
            return Round([], f"Unexpected {type(error).__name__} while archiving ({where_raised(error)}).", self._warnings())
        return Round(done, "", self._warnings())

    def _connect(self) -> Archiver:
        linac = self.linac
        records = linac.site.records.connect()
        return Archiver(linac.spool, linac.serial, linac.address, records.below("iCom"), ready=lambda: require(records))

    def _warnings(self) -> list[str]:
        return list(self._archiver.warnings) if self._archiver is not None else []

    def _tell(self, now: Round) -> None:
        if now.done or now != self._before:
            self.rounds.put(now)
        self._before = now._replace(done=[])
