"""Flow runs as `serve` and the demo handle them: ended in order, and taken up again after a pause."""

import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed

from blocks import Linac, Site
from blocks.linac import Service
from blocks.loading import named
from launch.processes import start_of
from launch.stack import write_json
from linac.capture import control
from linac.capture.follower import is_a_commands
from linac.errors import LinacError
from tasks.provision import UNFINISHED, cancel, ensure_capture, linacs_in_service
from tasks.tunnels import ensure_tunnel

CANCEL_SECONDS = 40.0
"""A capture run stops its listener within 10 s; Prefect ends a run that ignores its cancel after 30 s."""

TUNNELS_SECONDS = 5.0
"""So long tunnels wait for the runs that may work through them."""

STRANGER_SECONDS = 10.0
"""A run that was started from a command line looks every 5 s whether it is to end. One that does not was killed."""

LATEST_RUNS = 200

BROKEN_OFF = [StateType.CRASHED, StateType.FAILED, StateType.COMPLETED]

ACTIVE = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]


def unfinished(client: SyncPrefectClient, flow: str | None = None, states: list[StateType] = UNFINISHED) -> list[FlowRun]:
    """Runs that have not ended, of one flow or of all."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])) if flow else None,
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
    )


def cancel_running(say: Callable[[str], None]) -> bool:
    """Cancel what is under way and wait for it: tunnels last, as others work through them. False where something had not ended
    in time; it counts as cancelled from then on."""
    began = time.monotonic()
    asked: dict[UUID, float] = {}
    with get_client(sync_client=True) as client:
        while left := unfinished(client, states=ACTIVE):
            now = time.monotonic()
            tunnels = {run.id for run in unfinished(client, TUNNELS.flow, ACTIVE)}
            if now - began >= CANCEL_SECONDS:
                for run in left:
                    client.set_flow_run_state(run.id, Cancelled(message="It had not ended by itself."), force=True)
                return False
            wait_for_others = now - began < TUNNELS_SECONDS and any(run.id not in tunnels for run in left)
            for run in left:
                if run.id in tunnels and wait_for_others:
                    continue
                if run.id not in asked:
                    asked[run.id] = now
                    say(f"Ending {run.name}...")
                    cancel(client, run)
                elif _is_gone(run):
                    client.set_flow_run_state(run.id, Cancelled(message="Its process has ended."), force=True)
                elif run.work_pool_name is None and now - asked[run.id] >= STRANGER_SECONDS:
                    say(f"{run.name} gives no sign of life; it counts as ended.")
                    client.set_flow_run_state(run.id, Cancelled(message="It gave no sign of life."), force=True)
            time.sleep(0.5)
    return True


def _is_gone(run: FlowRun) -> bool:
    """Whether a run's process has ended. Its worker, on this computer, says so only once it has started another one, which looks
    for hooks of the flow: that takes seconds, on a busy computer half a minute."""
    pid = run.infrastructure_pid or ""
    return pid.isdecimal() and not start_of(int(pid))


@dataclass(frozen=True)
class Lasting:
    """A flow whose runs last until somebody cancels them, each for one linac or site, which its run's parameter names."""

    flow: str
    parameter: str
    file: str
    """In the data folder: what the next start has to start."""
    wanted: Callable[[], set[str]]
    """What it could run for now."""
    ensure: Callable[[str], str]
    trouble: str


CAPTURES = Lasting(
    "icom-capture",
    "serial",
    "captures.json",
    lambda: {linac.serial for linac in recorded_by_workers()},
    lambda serial: ensure_capture(serial),
    "Linac {} is not being recorded",
)
TUNNELS = Lasting(
    "site-tunnel",
    "site",
    "tunnels.json",
    lambda: {name for name, site in named(Site) if site.forwards},
    lambda site: ensure_tunnel(site),
    "The tunnels of site {} are not up",
)
LASTING = (TUNNELS, CAPTURES)
"""Tunnels first: a recording may go through one."""


def under_way(client: SyncPrefectClient, flow: Lasting, states: list[StateType] = UNFINISHED) -> list[FlowRun]:
    """Runs of such a flow that have not ended and say what they are for."""
    return [run for run in unfinished(client, flow.flow, states) if run.parameters.get(flow.parameter)]


# Linacs are owed a recording, sites their tunnels. While `serve` runs, the server's database knows which: they have a run that
# has not ended, or whose last one was not cancelled. An orderly stop ends these runs, so what they are for is written to a file
# first; the next start reads it; only when a new run of each is in the database does the file go. In between both may name a
# linac, never neither, so the power may fail, or somebody press Ctrl-C, at any line. What is named twice is started once:
# `ensure` sees to it.


def remember(flow: Lasting, data: Path) -> None:
    """Write down what runs, for the next start, and what the last start has not got to yet."""
    path = data / flow.file
    with get_client(sync_client=True) as client:
        running = {str(run.parameters[flow.parameter]) for run in under_way(client, flow)}
        broken = broken_off(client, flow)
    write_json(path, sorted(running | broken | remembered(path)))


def broken_off(client: SyncPrefectClient, flow: Lasting) -> set[str]:
    """What the run that ended last was for, unless that one was cancelled.

    Nobody wants a recording to end who does not cancel it: also one that was marked as crashed while it lived, sees that, and
    cannot start its successor, as the server is busy, ends as completed. Of two runs of one linac, the one that ended later tells
    what a person wanted: a run too many, which leaves at once, may have begun later.
    """
    latest: dict[str, FlowRun] = {}
    ended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*BROKEN_OFF, StateType.CANCELLED])))
    for run in client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow.flow])),
        flow_run_filter=ended,
        sort=FlowRunSort.END_TIME_DESC,
        limit=LATEST_RUNS,
    ):
        name = str(run.parameters.get(flow.parameter) or "")
        if name and run.state is not None and (name not in latest or _changed(run) > _changed(latest[name])):
            latest[name] = run
    return {name for name, run in latest.items() if run.state is not None and run.state.type in BROKEN_OFF}


def _changed(run: FlowRun) -> float:
    return run.state.timestamp.timestamp() if run.state is not None else 0.0


def remembered(path: Path) -> set[str]:
    """The names in the file; none where there is no file, or one that a hand has spoilt."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return {str(name) for name in json.loads(path.read_text(encoding="utf-8"))}
    return set()


def resume(flow: Lasting, data: Path, say: Callable[[str], None]) -> None:
    """Start what ran when `serve` last ended, in order or by a power cut.

    A linac that is not in service any more is forgotten. One whose run does not start is told, and tried again at the next
    start; the others go on.
    """
    path = data / flow.file
    remember(flow, data)
    with get_client(sync_client=True) as client:
        for run in under_way(client, flow, [StateType.RUNNING, StateType.CANCELLING, StateType.PENDING]):
            client.set_flow_run_state(run.id, Crashed(message="Its worker ended without a word."), force=True)
    owed = remembered(path)
    failed = set()
    for name in sorted(owed & flow.wanted() if owed else owed):
        try:
            say(flow.ensure(name))
        except (LinacError, httpx.HTTPError) as error:
            failed.add(name)
            say(f"{flow.trouble.format(name)}: {error}")
    if failed:
        write_json(path, sorted(failed))
    else:
        path.unlink(missing_ok=True)


def recorded_by_workers() -> list[Linac]:
    """The linacs whose listeners are started by flow runs, not by a service of their own."""
    return [linac for linac in linacs_in_service() if linac.service is Service.WORKER]


def end_listeners(linacs: list[Linac], say: Callable[[str], None]) -> bool:
    """End in order the listeners that are left on this computer: of a run, say, that was cancelled while it was just starting.

    Side by side, as each may take 10 s. Whether all have ended.
    """

    def end(linac: Linac) -> bool:
        try:
            if control.is_running(linac.spool, linac.serial) and not is_a_commands(linac.spool, linac.serial):
                say(f"Ending the listener of linac {linac.serial}...")
                return control.stop(linac.spool, linac.serial)
        except LinacError as error:
            say(str(error))
            return False
        return True

    with ThreadPoolExecutor(max_workers=len(linacs) or 1) as pool:
        return all(list(pool.map(end, linacs)))


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
