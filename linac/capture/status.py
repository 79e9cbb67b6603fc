"""What a listener is doing, as it says itself once a second in `status.json`. No patient in it.

>>> status = Status(serial="4299", address="192.168.17.40", port=1706, pid=4321, connected=True, messages=12)
>>> Status.from_json(status.to_json()) == status
True
"""

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

Json = str | bytes
_TIMES = ("started", "written", "connected_since", "last_message", "archive_trouble_since", "disconnected_since")

REMEMBERED_HOURS, REMEMBERED = 24, 100
"""Interruptions are remembered so long, and no more than so many."""


class Interruption(NamedTuple):
    """A time in which nothing came for want of a connection, after something had come: it ends with the first bytes of a new one.
    Aware, UTC."""

    since: datetime
    until: datetime
    reason: str


def told_interruptions(some: list[Interruption]) -> str:
    """Interruptions in words, for an operator.

    >>> from datetime import timedelta
    >>> since = datetime(2026, 11, 23, 0, 40, 1, tzinfo=UTC)
    >>> told_interruptions([Interruption(since, since + timedelta(seconds=11), "the linac ended it")])
    '1 in the last 24 h, 11 s in all; the last 2026-11-23 00:40:01 to 00:40:12 UTC (the linac ended it)'
    >>> told_interruptions([])
    'none in the last 24 h'
    """
    if not some:
        return f"none in the last {REMEMBERED_HOURS} h"
    seconds = sum((one.until - one.since).total_seconds() for one in some)
    since, until, reason = some[-1]
    return (
        f"{len(some)} in the last {REMEMBERED_HOURS} h, {seconds:.0f} s in all; the last {since:%Y-%m-%d %H:%M:%S} to "
        f"{until:%H:%M:%S} UTC ({reason})"
    )


@dataclass(frozen=True)
class Status:
    """One look at a listener. Times are aware, UTC; sizes are bytes; counts are since `started`, but
    `gaps` counts the interruption before it, too.

    `running`: whether the process lives, by its lock (filled in by `control.status`). `state`: `starting`, `connecting`,
    `connected`, `waiting` (before the next try), `stopping`, `stopped`. `messages`: by their date headers; the archive counts
    exactly. `gaps`: times that messages may be missing (connections lost that had brought something, dropped bytes). `silent`:
    connected, but no byte for 10 s; `silences`: how often. `queue_bytes`: not yet in the journal. `dropped_bytes`: lost because
    the disk did not keep up.
    `losing`: what comes cannot be written now, so it waits in memory (`waiting_bytes`) and then is dropped.
    `unwritten_bytes`: lost because the disk did not take them when the listener ended.
    `backlog_bytes`: not yet archived; `archive_trouble`: why nothing can be archived, since `archive_trouble_since`, else empty
    (all three filled in by `control.status`). `last_error`: why there is no connection, else empty. `findings`: what an operator
    should know now.

    `interruptions`: those of the last 24 h, the times between two listeners included; `disconnected_since`: when the one that
    goes on began (None while something comes), `disconnected_reason`: why. `standalone`: a service or command of its own runs
    it, and alone ends it.
    """

    serial: str
    address: str
    port: int
    pid: int
    running: bool = False
    state: str = "starting"
    connected: bool = False
    started: datetime | None = None
    written: datetime | None = None
    connected_since: datetime | None = None
    last_message: datetime | None = None
    messages: int = 0
    bytes: int = 0
    connections: int = 0
    reconnects: int = 0
    gaps: int = 0
    silent: bool = False
    silences: int = 0
    queue_bytes: int = 0
    dropped_bytes: int = 0
    losing: bool = False
    waiting_bytes: int = 0
    unwritten_bytes: int = 0
    journal_bytes: int = 0
    backlog_bytes: int = 0
    archive_trouble: str = ""
    archive_trouble_since: datetime | None = None
    disk_free_bytes: int = 0
    last_error: str = ""
    findings: list[str] = field(default_factory=list)
    interruptions: list[Interruption] = field(default_factory=list)
    disconnected_since: datetime | None = None
    disconnected_reason: str = ""
    standalone: bool = False

    @property
    def age_seconds(self) -> float:
        """How old this is. More than a few seconds from a running listener: its disk or its computer is stalled."""
        return (datetime.now(UTC) - self.written).total_seconds() if self.written else float("inf")

    def lately(self) -> list[Interruption]:
        """The interruptions that ended in the last 24 h, oldest first."""
        since = datetime.now(UTC) - timedelta(hours=REMEMBERED_HOURS)
        return [one for one in self.interruptions if one.until >= since]

    def to_json(self) -> str:
        facts = {name: value.isoformat() if isinstance(value := getattr(self, name), datetime) else value for name in _FIELDS}
        facts["interruptions"] = [(one.since.isoformat(), one.until.isoformat(), one.reason) for one in self.interruptions]
        return json.dumps(facts)

    @classmethod
    def from_json(cls, text: "Json") -> "Status":
        """Raises `ValueError` for anything else than what `to_json` gives, other fields apart."""
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError("a status is a JSON object")
        known = {name: value for name, value in facts.items() if name in _FIELDS}
        for name in _TIMES:
            if known.get(name):
                known[name] = datetime.fromisoformat(known[name])
        try:
            known["interruptions"] = [
                Interruption(datetime.fromisoformat(since), datetime.fromisoformat(until), str(reason))
                for since, until, reason in known.get("interruptions", [])
            ]
            return cls(**known)
        except TypeError as error:
            raise ValueError(str(error)) from error


_FIELDS = tuple(item.name for item in dataclasses.fields(Status))
