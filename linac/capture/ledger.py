"""What was archived, without saying whose it is: `sessions.jsonl` in the spool, one JSON object a line.

Reports and the demo list sessions from it, and the archiver knows by it what is done. A line is appended and synced in one write;
one torn by a power cut is passed over by the readers, and the session is archived (found to be there already) once more.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from linac.capture.journal import Position
from linac.capture.sessions import Session, facts_of
from linac.capture.spool import private
from linac.errors import StorageError

ARCHIVED, SET_ASIDE, NO_MU = "archived", "set_aside", "no_mu"


@dataclass(frozen=True)
class Line:
    """One session that is done with. Nothing in it says who the patient was.

    `outcome`: `archived`, `set_aside` (not understood, see `reason`) or `no_mu` (nothing delivered: no file). `stamp`: name of
    its file without `.xz`, as a rule the linac's local time of the first message. `started`, `ended`: linac's local time, ISO.
    `mu`: monitor units delivered. `gaps`: how many times messages may be missing; `missing`: about how many are, `at_least` where
    that is only a lower bound. `events`: these and other irregularities, with what stood before and after. `sha256`: of the file
    as it was written (empty for `no_mu`); `size`: its bytes. `recorded`: when this line was written, ISO, UTC. The rest tells the
    archiver which piece of the journal it was.
    """

    outcome: str
    stamp: str
    started: str
    ended: str
    messages: int
    mu: float
    gaps: int
    sha256: str = ""
    size: int = 0
    reason: str = ""
    machine_ids: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    recorded: str = ""
    first_ns: int = 0
    last_ns: int = 0
    runs: list[str] = field(default_factory=list)
    start: tuple[int, int] = (0, 0)
    end: tuple[int, int] = (0, 0)
    last_message: str = ""
    missing: int = 0
    at_least: bool = False


def line_for(session: Session, outcome: str, **more: Any) -> Line:
    """The line about a session."""
    facts: dict[str, Any] = {
        "stamp": session.stamp,
        "started": session.started.isoformat(),
        "ended": session.ended.isoformat(),
        "messages": session.messages,
        "mu": round(session.mu, 3),
        "gaps": session.gaps,
        "missing": session.missing,
        "at_least": session.at_least,
        "machine_ids": list(session.machine_ids),
        "events": [facts_of(event) for event in session.events],
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "first_ns": session.first_ns,
        "last_ns": session.last_ns,
        "runs": list(session.runs),
        "start": tuple(session.start),
        "end": tuple(session.end),
        "last_message": session.last_message,
    }
    return Line(outcome, **facts | more)


class _Place(NamedTuple):
    """What has to be remembered of a line to know its session again: a year of lines would take tens of megabytes."""

    runs: tuple[str, ...]
    start: Position
    messages: int

    def covers(self, session: Session) -> bool:
        """Whether it was that session, or one of which it is the end (read from the middle on). The last message is the same."""
        return bool(set(self.runs) & set(session.runs)) and self.start <= session.start and self.messages >= session.messages


class Ledger:
    """The lines of one linac, for the archiver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, list[_Place]] = {}  # by the session's last message
        self._read_to = -1

    def has(self, session: Session) -> bool:
        """Whether a session is done with. From memory unless the file has changed. Raises `StorageError`."""
        self._read()
        return any(place.covers(session) for place in self._places.get(bytes.fromhex(session.last_message), ()))

    def _read(self) -> None:
        try:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size != self._read_to:
                self._places = {}
                for line in each_line(self.path):
                    self._remember(line)
                self._read_to = size
        except OSError as error:
            raise _failed(self.path, error) from error

    def _remember(self, line: Line) -> None:
        runs = tuple(sys.intern(run) for run in line.runs)
        with contextlib.suppress(ValueError, TypeError):
            key = bytes.fromhex(line.last_message)
            self._places.setdefault(key, []).append(_Place(runs, Position(*line.start), line.messages))

    def append(self, line: Line) -> None:
        """Add a line, on the disk when this returns. Raises `StorageError`."""
        text = json.dumps(dataclasses.asdict(line)).encode() + b"\n"
        self._read()
        try:
            with open(self.path, "ab+", opener=private) as file:
                if file.tell() and not self._ends_whole(file):
                    text = b"\n" + text
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                self._remember(line)
                self._read_to = file.tell()
        except OSError as error:
            self._read_to = -1
            raise _failed(self.path, error) from error

    @staticmethod
    def _ends_whole(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return bool(file.read(1) == b"\n")


def read_lines(path: Path) -> list[Line]:
    """The sessions in a ledger, oldest first. A missing file has none; lines that cannot be read are passed over.

    Raises `OSError` where the file is there but cannot be read.
    """
    return list(each_line(path))


def each_line(path: Path) -> Iterator[Line]:
    """As `read_lines`, one at a time."""
    known = {item.name for item in dataclasses.fields(Line)}
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for text in file:
            try:
                facts = json.loads(text)
                line = Line(**{name: value for name, value in facts.items() if name in known})
            except (ValueError, TypeError, AttributeError):
                continue
            yield line


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(f"The list of sessions {path} cannot be used: {error.strerror or error}. Check the local disk.")
