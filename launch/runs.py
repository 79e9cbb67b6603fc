"""Flow runs as `serve` and the demo handle them: ended in order, and taken up again after a pause."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling, Crashed

from launch.stack import write_json
from tasks.provision import UNFINISHED, ensure_capture, linacs_in_service

CANCEL_SECONDS = 40.0
"""A capture run stops its listener within 10 s; Prefect ends a run that ignores its cancel after 30 s."""


def unfinished(client: SyncPrefectClient, flow: str | None = None, states: list[StateType] = UNFINISHED) -> list[FlowRun]:
    """Runs that have not ended, of one flow or of all."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])) if flow else None,
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
    )


def cancel_running(say: Callable[[str], None]) -> bool:
    """Cancel what is under way and wait for it. False where something had not ended in time."""
    active = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
    with get_client(sync_client=True) as client:
        for run in unfinished(client, states=active):
            say(f"Ending {run.name}...")
            client.set_flow_run_state(run.id, Cancelling())
        until = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < until:
            if not unfinished(client, states=active):
                return True
            time.sleep(0.5)
    return False


def running_captures() -> list[str]:
    """Serials whose icom-capture is under way."""
    with get_client(sync_client=True) as client:
        runs = unfinished(client, "icom-capture")
        return sorted({str(run.parameters["serial"]) for run in runs if "serial" in run.parameters})


def remember_captures(path: Path) -> None:
    """Write down which linacs are being recorded, for the next start."""
    write_json(path, running_captures())


def resume_captures(path: Path, say: Callable[[str], None]) -> None:
    """Start the captures that ran when `serve` last ended, in order or by a power cut."""
    remembered: list[str] = []
    with contextlib.suppress(FileNotFoundError, ValueError):
        remembered = [str(serial) for serial in json.loads(path.read_text(encoding="utf-8"))]
    with get_client(sync_client=True) as client:
        for run in unfinished(client, "icom-capture", [StateType.RUNNING, StateType.CANCELLING, StateType.PENDING]):
            remembered.append(str(run.parameters.get("serial", "")))
            client.set_flow_run_state(run.id, Crashed(message="Its worker ended without a word."), force=True)
    known = {linac.serial for linac in linacs_in_service()}
    for serial in sorted(set(remembered) & known):
        say(ensure_capture(serial))
    path.unlink(missing_ok=True)


def wait_for_run(run_id: UUID, seconds: float) -> FlowRun:
    """The run once it has ended. Raises `TimeoutError` if it has not by then."""
    until = time.monotonic() + seconds
    with get_client(sync_client=True) as client:
        while True:
            run = client.read_flow_run(run_id)
            if run.state is not None and run.state.is_final():
                return run
            if time.monotonic() > until:
                raise TimeoutError(f"{run.name} had not ended after {seconds:.0f} s; its state is {run.state_name}.")
            time.sleep(0.5)
