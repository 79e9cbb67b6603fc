"""What is told of a recording: each change once, with figures and times, never a patient."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from linac.capture.ledger import Line
from linac.capture.status import Status
from tasks import live

SINCE = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
UP = Status(
    serial="4299", address="127.0.0.1", port=1706, pid=7, running=True, connected=True, connected_since=SINCE, connections=1
)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []

    def emit(event: str, resource: dict[str, str], payload: dict[str, Any]) -> None:
        assert resource == {"prefect.resource.id": "linac.4299", "prefect.resource.name": "Linac 4299"}
        events.append((event, payload))

    monkeypatch.setattr(live, "emit_event", emit)
    return events


def names(told: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [event.removeprefix("linac.icom.") for event, _ in told]


def test_connecting_losing_and_a_gap_are_told_once_each(told: list[tuple[str, dict[str, Any]]]) -> None:
    news = live.News("4299")
    for status in (None, replace(UP, connected=False), UP, UP, replace(UP, connected=False, last_error="refused")):
        news.compare(status)
    news.compare(replace(UP, connections=2, gaps=1, connected_since=datetime(2026, 11, 22, 11, 0, tzinfo=UTC)))
    assert names(told) == ["connected", "lost", "connected", "gap"]
    assert told[0][1] == {"since": "2026-11-22T10:00:00+00:00", "connections": 1}
    assert told[1][1]["reason"] == "refused"
    assert told[3][1]["gaps"] == 1


def test_a_reconnect_between_two_looks_is_told(told: list[tuple[str, dict[str, Any]]]) -> None:
    news = live.News("4299")
    news.compare(UP)
    news.compare(replace(UP, connected_since=datetime(2026, 11, 22, 12, 0, tzinfo=UTC), connections=2, gaps=1))
    assert names(told) == ["connected", "connected", "gap"]


def test_an_adopted_listener_s_old_gaps_are_no_news(told: list[tuple[str, dict[str, Any]]]) -> None:
    live.News("4299").compare(replace(UP, gaps=5))
    assert names(told) == ["connected"]


def test_another_listener_s_start_and_a_stop_on_purpose_are_told(told: list[tuple[str, dict[str, Any]]]) -> None:
    news = live.News("4299")
    news.compare(UP)
    news.compare(replace(UP, pid=8, connected=False, gaps=1, state="starting"))
    assert names(told) == ["connected", "lost", "gap"], "the time between two listeners is a gap"
    news.end(replace(UP, running=False, connected=False, last_message=SINCE), "cancelled")
    assert names(told)[3:] == ["stopped"]
    assert told[3][1] == {"reason": "cancelled", "last_message": "2026-11-22T10:00:00+00:00"}


def test_the_rate_is_messages_a_second_between_two_looks() -> None:
    rate = live.Rate()
    assert rate.drawn(0, now=0.0) == "not known yet"
    assert rate.drawn(120, now=30.0) == "█ 4.0"
    assert rate.drawn(120, now=60.0) == "█▁ 0.0"
    assert rate.drawn(0, now=90.0) == "█▁▁ 0.0", "another listener counts from 0: never negative"
    for minute in range(200):
        rate.drawn(minute, now=100.0 + minute)
    assert len(rate.rates) == live.RATE_POINTS


def test_today_is_by_the_sites_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2026, 11, 22, 20, 0, tzinfo=UTC).astimezone(tz)

    monkeypatch.setattr(live, "datetime", Clock)
    lines = [
        Line("archived", "a", "2026-11-22T23:00:00", "", 1, 1.0, 0),
        Line("archived", "b", "2026-11-23T06:00:00", "", 1, 1.0, 0),
        Line("no_mu", "c", "2026-11-23T06:30:00", "", 1, 0.0, 0),
    ]
    assert [line.stamp for line in live.today_of(lines, "Australia/Sydney")] == ["b"]
    assert [line.stamp for line in live.today_of(lines, "Europe/London")] == ["a"]


def test_a_beat_counts_as_a_sign_of_life_of_the_run_and_of_no_other_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.events.schemas.automations import EventTrigger
    from prefect.server.events.schemas.events import ReceivedEvent

    from tasks.automations import automations

    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(live, "emit_event", lambda **facts: sent.append(facts))
    run, ours, other = uuid4(), uuid4(), uuid4()
    live.beat(run, str(ours))
    live.beat(run, None)
    [facts] = sent
    event = ReceivedEvent(occurred=datetime.now(UTC), payload={}, id=uuid4(), **facts)
    assert event.resource.id == f"prefect.flow-run.{run}"
    for deployment, watched in ((ours, True), (other, False)):
        trigger = EventTrigger.model_validate(automations("4299", deployment)[0].trigger.model_dump())
        assert trigger.covers(event) == watched
        assert trigger.starts_after(event.event)
        assert trigger.expects(event.event)
