"""What a listener is doing, as it says itself once a second in `status.json`. No patient in it.

>>> status = Status(serial="4299", address="192.168.17.40", port=1706, pid=4321, connected=True, messages=12)
>>> Status.from_json(status.to_json()) == status
True
"""

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

Json = str | bytes
_TIMES = ("started", "written", "connected_since", "last_message", "archive_trouble_since")


@dataclass(frozen=True)
class Status:
    """One look at a listener. Times are aware, UTC; sizes are bytes; counts are since `started`.

    `running`: whether the process lives, by its lock (filled in by `control.status`). `state`: `starting`, `connecting`,
    `connected`, `waiting` (before the next try), `stopping`, `stopped`. `messages`: by their date headers; the archive counts
    exactly. `gaps`: times that messages may be missing (lost connections, dropped bytes). `silent`: connected, but no byte for 10
    s; `silences`: how often. `queue_bytes`: not yet in the journal. `dropped_bytes`: lost because the disk did not keep up.
    `backlog_bytes`: not yet archived; `archive_trouble`: why nothing can be archived, since `archive_trouble_since`, else empty
    (all three filled in by `control.status`). `last_error`: why there is no connection, else empty. `findings`: what an operator
    should know now.
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
    journal_bytes: int = 0
    backlog_bytes: int = 0
    archive_trouble: str = ""
    archive_trouble_since: datetime | None = None
    disk_free_bytes: int = 0
    last_error: str = ""
    findings: list[str] = field(default_factory=list)

    @property
    def age_seconds(self) -> float:
        """How old this is. More than a few seconds from a running listener: its disk or its computer is stalled."""
        return (datetime.now(UTC) - self.written).total_seconds() if self.written else float("inf")

    def to_json(self) -> str:
        facts = {name: value.isoformat() if isinstance(value := getattr(self, name), datetime) else value for name in _FIELDS}
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
            return cls(**known)
        except TypeError as error:
            raise ValueError(str(error)) from error


_FIELDS = tuple(item.name for item in dataclasses.fields(Status))
