"""How a run that keeps tunnels up ends: without a server and without a gateway."""

import signal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import TerminationSignal

from tasks import provision, tunnels

RUN = UUID(int=1)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run, what ends it, what the server says of its state then, and what it did."""
    there = SimpleNamespace(raised=None, asked=[], did=[])

    class Keeper:
        def __init__(self, name: str) -> None:
            self.name = name

        def until(self, _: UUID) -> StateType:
            if there.raised is not None:
                raise there.raised
            return StateType.CANCELLING

        def finish(self) -> None:
            there.did.append("closed")

    monkeypatch.setattr(tunnels, "_Keeper", Keeper)
    monkeypatch.setattr(tunnels, "flow_run", SimpleNamespace(id=str(RUN)))
    monkeypatch.setattr(provision, "state_type_of", lambda _: there.asked.pop(0) if there.asked else None)
    monkeypatch.setattr(provision, "ASK_PAUSE_SECONDS", 0.0)
    return there


@pytest.mark.parametrize("asked", [[StateType.CANCELLING], [StateType.CANCELLED], [None, None, StateType.CANCELLING]])
def test_a_run_that_a_cancel_ends_says_itself_that_it_is_cancelled(run: Any, asked: list[StateType | None]) -> None:
    """A worker may take a minute to say so; until then a silent run is followed by a new one."""
    run.raised, run.asked = TerminationSignal(signal.SIGTERM), asked
    assert tunnels.keep_up("nbcc").type is StateType.CANCELLED
    assert run.did == ["closed"]


@pytest.mark.parametrize("raised", [TerminationSignal(signal.SIGTERM), KeyboardInterrupt(), RuntimeError("unforeseen")])
def test_what_ends_a_run_otherwise_is_raised_once_the_tunnels_are_closed(run: Any, raised: BaseException) -> None:
    run.raised, run.asked = raised, [StateType.RUNNING]
    with pytest.raises(type(raised)):
        tunnels.keep_up("nbcc")
    assert run.did == ["closed"]


def test_a_run_that_reads_of_its_cancel_itself_is_cancelled(run: Any) -> None:
    assert tunnels.keep_up("nbcc").type is StateType.CANCELLED
    assert run.did == ["closed"]
