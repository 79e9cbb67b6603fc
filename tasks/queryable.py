"""Archived sessions as Parquet, beside the archiving and never in its way: a thread of its own, which may fail and try again."""

import queue
import threading
import time
from datetime import UTC, datetime
from logging import Logger, LoggerAdapter
from typing import Any

from blocks import Linac
from linac.capture.archive import Archived, sessions
from linac.capture.ledger import ARCHIVED
from linac.capture.listener import where_raised
from linac.capture.priority import lower_priority
from linac.errors import LinacError, StorageError
from linac.transport.records import require

RETRY_SECONDS = 600.0
"""After a failure, what is missing in the Parquet files is looked for again so much later."""


class Queryable(threading.Thread):
    """Brings the sessions of one linac into `iCom/deliveries` and `iCom/samples`: those that are `put`, and at its start those
    that an earlier run left out. No patient is in what it logs."""

    def __init__(self, linac: Linac, log: "Logger | LoggerAdapter[Any]") -> None:
        super().__init__(name=f"queryable {linac.serial}", daemon=True)
        self.linac, self.log = linac, log
        self.waiting: queue.Queue[Archived | None] = queue.Queue()
        self.ending = threading.Event()
        self.repair_at = 0.0

    def put(self, item: Archived) -> None:
        """Take a session that was just archived."""
        if item.outcome == ARCHIVED:
            self.waiting.put(item)

    def finish(self, seconds: float) -> None:
        """Do what waits, for so many seconds at most; the next run does the rest."""
        self.ending.set()
        self.waiting.put(None)
        if self.is_alive():
            self.join(seconds)

    def run(self) -> None:
        lower_priority()
        while True:
            try:
                item = self.waiting.get(timeout=1.0)
            except queue.Empty:
                item = None
            try:
                if item is not None:
                    self.add(item)
                elif self.ending.is_set():
                    return
                elif time.monotonic() >= self.repair_at:
                    self.repair()
            except LinacError as error:
                self.repair_at = time.monotonic() + RETRY_SECONDS
                self.log.warning("Parquet of linac %s: %s It is tried again in 10 minutes.", self.linac.serial, error)
            except Exception as error:  # a fault of ours: what it says could hold anything, where it was does not
                self.repair_at = time.monotonic() + RETRY_SECONDS
                told = f"Unexpected {type(error).__name__} ({where_raised(error)})."
                self.log.warning("Parquet of linac %s: %s It is tried again in 10 minutes.", self.linac.serial, told)

    def add(self, item: Archived) -> None:
        """One session, with what the recorder knows of its arrival."""
        from linac.index.icom import add_session

        name = f"iCom/{item.path}"
        with self.linac.site.records.connect() as records:
            require(records)
            try:
                data = records.read(name)
            except LinacError:  # its text has the path, and so the patient
                raise StorageError(
                    f"The archived session of {item.stamp} could not be read back from the records share."
                ) from None
            lines = [line for line in sessions(self.linac.spool, self.linac.serial) if line.stamp == item.stamp]
            arrived = (_utc(lines[-1].first_ns), _utc(lines[-1].last_ns)) if lines else None
            beams = add_session(records, self.linac.serial, name, data, item.stamp, item.gaps, arrived)
        self.log.info("The session of %s is in the Parquet files: %s beams.", item.stamp, beams)

    def repair(self) -> None:
        """What earlier runs archived and could not bring in."""
        from linac.index.icom import repair

        with self.linac.site.records.connect() as records:
            require(records)
            done = repair(records, self.linac.serial)
        self.repair_at = time.monotonic() + RETRY_SECONDS if done.failed else float("inf")
        if done.sessions:
            self.log.info("%s sessions archived earlier are in the Parquet files now: %s beams.", done.sessions, done.beams)
        for reason in done.failed:
            self.log.warning("Not in the Parquet files: %s", reason)


def _utc(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
