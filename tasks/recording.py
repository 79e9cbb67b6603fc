"""A linac's recording as others see it: started, ended in order, and where it stands."""

import time
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled, Cancelling

from blocks import Linac, block_name, load
from blocks.linac import Service
from linac.capture import control
from linac.capture.follower import is_a_commands
from linac.errors import SetupError
from tasks.check_folders import is_recorded_here
from tasks.plan import Step
from tasks.provision import ensure_capture, find_deployment, unfinished_runs

CANCEL_SECONDS = 45.0
"""A recording's run stops its listener within 10 s; Prefect ends one that ignores its cancel after 30 s."""

LISTENER_SECONDS = 20.0


def started_step(linac: Linac, *, ended: bool = False) -> Step:
    """A run of `icom-capture/<serial>` is under way. `ended`: a step before this one ends those that are now."""
    change = "" if runs_of(linac.serial) and not ended else f"icom-capture/{linac.serial} is started"
    return Step("Recording", change, lambda: _start(linac))


def _start(linac: Linac) -> None:
    ensure_capture(linac.serial)


def ended_step(linac: Linac) -> Step:
    """A recording of the same serial at another place is ended before the new one starts: one connection per linac.

    One that is a service is IT's to end: it would start again by itself.
    """
    name = "Recording as it was"
    before = load(Linac, block_name(linac.serial))
    if before is None or before.service is not Service.WORKER or _place(before) == _place(linac):
        return Step(name)
    if not runs_of(linac.serial) and not listens(before):
        return Step(name)
    return Step(name, f"ended in order, at {before.address} port {before.port}", lambda: end(before))


def removed_step(linac: Linac) -> Step:
    """The recording is ended in order. One that is a service is IT's to end: it would start again by itself."""
    if linac.service is not Service.WORKER or not (runs_of(linac.serial) or listens(linac)):
        return Step("Recording")
    return Step("Recording", "ended in order; what was recorded is kept", lambda: end(linac))


def _place(linac: Linac) -> tuple[object, ...]:
    return linac.address.lower(), linac.port, linac.spool, linac.site.work_pool, linac.recorded_by.lower(), linac.service


def listens(linac: Linac) -> bool:
    """Whether a listener of this linac runs on this computer."""
    return Path(linac.spool).is_dir() and is_recorded_here(linac) and control.is_running(linac.spool, linac.serial)


def runs_of(serial: str) -> list[FlowRun]:
    """The runs of `icom-capture/<serial>` that have not ended."""
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client, f"icom-capture/{serial}")
        return unfinished_runs(client, deployment.id) if deployment is not None else []


def end(linac: Linac) -> None:
    """Cancel the runs, which end the listener in order and archive; then see to it that no listener is left on this computer,
    but for one that a command or a service of its own runs.

    Raises `SetupError` where it does not end.
    """
    with get_client(sync_client=True) as client:
        for run in runs_of(linac.serial):
            waiting = run.state is None or run.state.type in (StateType.SCHEDULED, StateType.PAUSED)
            client.set_flow_run_state(run.id, Cancelled() if waiting else Cancelling(), force=waiting)
        _wait(client, linac.serial)
    if not listens(linac) or is_a_commands(linac.spool, linac.serial):
        return
    if not control.stop(linac.spool, linac.serial, LISTENER_SECONDS):
        raise SetupError(
            f"The listener of linac {linac.serial} was asked to end and has not within {LISTENER_SECONDS:.0f} s. See its log in "
            f"{linac.spool}, then run this again."
        )


def _wait(client: SyncPrefectClient, serial: str) -> None:
    """Until the runs have ended. One whose worker is gone never does: it is marked as cancelled."""
    until = time.monotonic() + CANCEL_SECONDS
    while runs_of(serial) and time.monotonic() < until:
        time.sleep(0.5)
    for run in runs_of(serial):
        client.set_flow_run_state(run.id, Cancelled(message="It did not end; its worker is probably gone."), force=True)
