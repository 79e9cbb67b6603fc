"""What can be seen of a recording while it goes on: events for automations, a small picture of its rate. No patient in either."""

import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.events import emit_event

from linac.capture.ledger import ARCHIVED, Line
from linac.capture.status import Status

BARS = "▁▂▃▄▅▆▇█"
HEARTBEAT = "prefect.flow-run.heartbeat"
RATE_POINTS = 60
"""Points of the picture, one each time that the artifact is renewed: half an hour."""


class News:
    """Tells changes of a recording as the events `linac.icom.connected`, `.lost`, `.gap`, `.archived` and `.stopped`."""

    def __init__(self, serial: str) -> None:
        self.resource = {"prefect.resource.id": f"linac.{serial}", "prefect.resource.name": f"Linac {serial}"}
        self.before: Status | None = None

    def tell(self, what: str, **facts: object) -> None:
        """One event, with figures and times only. Prefect sends it in the background; a server that is away loses it."""
        payload = {name: fact.isoformat() if isinstance(fact, datetime) else fact for name, fact in facts.items()}
        emit_event(event=f"linac.icom.{what}", resource=self.resource, payload=payload)

    def compare(self, now: Status | None) -> None:
        """Tell what has changed since the last look at the listener."""
        before, self.before = self.before, now
        if now is None:
            return
        was_connected = before is not None and before.connected
        same = before is not None and before.pid == now.pid
        new_gaps = now.gaps - (before.gaps if before is not None and same else 0)
        if now.connected and (not was_connected or (before is not None and before.connected_since != now.connected_since)):
            self.tell("connected", since=now.connected_since, connections=now.connections)
        if was_connected and not now.connected:
            self.tell("lost", reason=now.last_error or now.state, last_message=now.last_message)
        if new_gaps > 0 and before is not None:
            self.tell("gap", gaps=new_gaps, dropped_bytes=now.dropped_bytes, last_message=now.last_message)

    def end(self, now: Status | None, reason: str) -> None:
        """Tell that the recording was stopped on purpose."""
        self.before = now
        self.tell("stopped", reason=reason, last_message=now.last_message if now is not None else None)


def beat(run: UUID, deployment: str | None) -> None:
    """One more sign of life of a run, the same that Prefect sends by itself, but not as often (see tasks/automations.py). Only
    for the runs of a deployment: nobody watches others."""
    if deployment is not None:
        related = {"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}
        emit_event(event=HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{run}"}, related=[related])


class Rate:
    """Messages a second, remembered for half an hour."""

    def __init__(self) -> None:
        self.rates: deque[float] = deque(maxlen=RATE_POINTS)
        self.before: tuple[float, int] | None = None

    def drawn(self, messages: int, now: float | None = None) -> str:
        """Take the count of messages as it is now and draw what is known, the newest on the right."""
        now = time.monotonic() if now is None else now
        if self.before is not None and now > self.before[0]:
            self.rates.append(max(messages - self.before[1], 0) / (now - self.before[0]))
        if self.before is None or now > self.before[0]:
            self.before = now, messages
        if not self.rates:
            return "not known yet"
        return f"{sparkline(self.rates)} {self.rates[-1]:.1f}"


def sparkline(values: Iterable[float]) -> str:
    """A line of bars, the highest value as the highest bar, nothing as the lowest.

    >>> sparkline([0, 2, 4, 4, 0])
    '▁▅██▁'
    """
    known = list(values)
    top = max(known, default=0.0)
    return "".join(BARS[round(value / top * (len(BARS) - 1))] if top > 0 else BARS[0] for value in known)


def today_of(lines: Iterable[Line], time_zone: str) -> list[Line]:
    """The archived sessions that began today by the site's clock, which is the linac's, too."""
    today = datetime.now(ZoneInfo(time_zone)).date().isoformat()
    return [line for line in lines if line.outcome == ARCHIVED and line.started[:10] == today]
