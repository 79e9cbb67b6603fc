"""A run of icom-capture that is ended from outside."""

import contextlib
import logging
import signal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.events import Resource
from prefect.exceptions import TerminationSignal

from tasks import automations, capture, provision

RUN, OTHER, NEXT = (UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a run did to others, and the state that it is ended by."""
    did: list[str] = []
    there = SimpleNamespace(ended=StateType.RUNNING, did=did, mine=True, terminated=False, asked=[])

    class Follower:
        left = ""

        def __init__(self, linac: Any, claim: Any) -> None:
            self.linac, self.claim, self.log = linac, claim, logging.getLogger(__name__)

        def until(self, _: UUID) -> StateType:
            if there.terminated:
                raise TerminationSignal(signal.SIGTERM)
            return StateType(there.ended)

        def finish(self) -> None:
            did.append("stopped the listener")

        hand_on, cancel_waiting = capture._Follower.hand_on, capture._Follower.cancel_waiting

    def ensure(serial: str) -> str:
        did.append(f"started {serial}")
        return "started"

    monkeypatch.setattr(capture, "_Follower", Follower)
    monkeypatch.setattr(capture, "flow_run", SimpleNamespace(id=str(RUN)))
    monkeypatch.setattr(capture, "deployment", SimpleNamespace(id=str(UUID(int=9))))
    monkeypatch.setattr(provision, "state_type_of", lambda _: there.asked.pop(0) if there.asked else None)
    monkeypatch.setattr(provision, "ASK_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(capture, "ensure_capture", ensure)
    monkeypatch.setattr(capture, "get_client", lambda sync_client: contextlib.nullcontext(None))
    monkeypatch.setattr(capture, "unfinished_runs", lambda *_: [SimpleNamespace(id=run) for run in (RUN, OTHER, NEXT)])
    monkeypatch.setattr(capture, "cancel", lambda _, run: did.append(f"cancelled {run.id.int}"))
    there.follow = lambda: capture.follow(SimpleNamespace(serial="4299"), SimpleNamespace(mine=there.mine))
    return there


@pytest.mark.parametrize("ended", [StateType.CRASHED, StateType.FAILED])
def test_a_run_that_lives_and_was_marked_as_ended_sees_to_its_successor(recording: Any, ended: StateType) -> None:
    """The automation did so after an outage of the server; the listener records on."""
    recording.ended = ended
    assert recording.follow().type is StateType.COMPLETED
    assert recording.did == ["started 4299"]


def test_one_that_only_watched_starts_nothing(recording: Any) -> None:
    recording.ended, recording.mine = StateType.CRASHED, False
    recording.follow()
    assert recording.did == []


def test_a_server_that_cannot_be_asked_is_no_error_of_the_run(recording: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> str:
        raise ConnectionError

    monkeypatch.setattr(capture, "ensure_capture", away)
    recording.ended = StateType.CRASHED
    assert recording.follow().type is StateType.COMPLETED


def test_a_cancelled_run_stops_the_listener_and_starts_nothing(recording: Any) -> None:
    recording.ended = StateType.CANCELLING
    assert recording.follow().type is StateType.CANCELLED
    assert recording.did == ["stopped the listener"]


@pytest.mark.parametrize("asked", [[StateType.CANCELLING], [StateType.CANCELLED], [None, None, StateType.CANCELLING]])
def test_a_run_that_a_cancel_ends_says_itself_that_it_is_cancelled(recording: Any, asked: list[StateType | None]) -> None:
    """A worker may take a minute to say so; until then a silent run is followed by a new one."""
    recording.terminated, recording.asked = True, asked
    assert recording.follow().type is StateType.CANCELLED
    assert recording.did == ["stopped the listener"]


@pytest.mark.parametrize("asked", [[StateType.RUNNING], [None, None, None]])
def test_what_ends_a_run_otherwise_leaves_the_listener_recording(recording: Any, asked: list[StateType | None]) -> None:
    recording.terminated, recording.asked = True, asked
    with pytest.raises(TerminationSignal):
        recording.follow()
    assert recording.did == []


def test_those_who_wait_for_the_place_of_a_cancelled_run_are_cancelled_too(recording: Any) -> None:
    follower = capture._Follower(SimpleNamespace(serial="4299"), SimpleNamespace(mine=True))  # type: ignore[arg-type]
    follower.cancel_waiting()
    assert recording.did == ["cancelled 2", "cancelled 3"]


def test_a_silent_run_is_followed_by_one_new_run_and_a_crashed_one_too() -> None:
    """The first automation starts one itself; the second leaves alone what the first has marked."""
    silent, again = automations.automations("4299", UUID(int=9))
    assert [action.type for action in silent.actions] == ["change-flow-run-state", "run-deployment"]
    assert [action.type for action in again.actions] == ["run-deployment"]
    assert "prefect.flow-run.Cancelling" in silent.trigger.expect, "what is being cancelled is not followed by anything"  # type: ignore[union-attr]

    def matches(message: str) -> bool:
        run = {"prefect.resource.id": f"prefect.flow-run.{RUN}", "prefect.state-message": message}
        return bool(again.trigger.match.matches(Resource(root=run)))  # type: ignore[union-attr]

    assert not matches(automations.SILENT_MESSAGE)
    assert matches("Flow run process exited with non-zero status code -9.")
