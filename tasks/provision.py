"""The blocks of sites and linacs, and the runs and schedules that go with them, by their names on the Prefect server."""

import time
from contextlib import AbstractContextManager
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Cancelling

from blocks import Linac, Site, SmbCredentials, SshGateway, block_name, load, load_all
from linac.errors import SetupError

NIGHTLY = "trf-index/nightly"
NIGHTLY_CRON = "30 2 * * *"
"""02:30 in the site's time zone: treatments are over, backups written."""

ASK_TRIES, ASK_PAUSE_SECONDS = 3, 1.0
"""How often a run that is ended asks whether that is a cancel, where the server does not answer."""

UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]


def load_site(name: str) -> Site:
    """The site's block. Raises `SetupError` if there is none of that name."""
    site = load(Site, name)
    if site is None:
        raise SetupError(
            f"There is no Site block named {name!r}. Make it in Prefect's UI under Blocks, or with `python run.py blocks FILE`."
        )
    return site


def load_linac(serial: str) -> Linac:
    """The linac's block. Raises `SetupError` if it is not in service."""
    linac = load(Linac, block_name(serial))
    if linac is None:
        raise SetupError(f"Linac {serial} is not in service: there is no block {block_name(serial)!r}. Run add-linac first.")
    return linac


def load_credentials(name: str) -> SmbCredentials:
    """An account's block. Raises `SetupError` if there is none of that name."""
    credentials = load(SmbCredentials, name)
    if credentials is None:
        raise SetupError(f"There is no SMB credentials block named {name!r}. Make it in Prefect's UI under Blocks.")
    return credentials


def load_gateway(name: str) -> SshGateway:
    """A gateway's block. Raises `SetupError` if there is none of that name."""
    gateway = load(SshGateway, name)
    if gateway is None:
        raise SetupError(f"There is no SSH gateway block named {name!r}. Make it in Prefect's UI under Blocks.")
    return gateway


def asked_once() -> AbstractContextManager[object]:
    """Within it, a request to a server that is away fails at once. Prefect's client would try again for a minute, with pauses of
    up to half a minute, in which a cancel would go unseen after the server's return."""
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})


def linacs_in_service(serial: str | None = None, site: str | None = None) -> list[Linac]:
    """All linacs, one linac, or those of the site with that block name, in order of their serials."""
    if serial:
        return [load_linac(serial)]
    linacs = load_all(Linac)
    if site:
        wanted = load_site(site)
        linacs = [linac for linac in linacs if linac.site.name == wanted.name]
    return sorted(linacs, key=lambda linac: linac.serial)


def ensure_capture(serial: str) -> str:
    """Start `icom-capture/<serial>` unless a run of it is under way; says which."""
    with get_client(sync_client=True) as client:
        deployment = read_deployment(client, f"icom-capture/{serial}")
        running = unfinished_runs(client, deployment.id)
        if running:
            return f"icom-capture/{serial} is running already ({running[0].name})."
        run = client.create_flow_run_from_deployment(deployment.id, name=f"icom-capture-{serial}")  # as it names itself later
        return f"icom-capture/{serial} was started ({run.name})."


def ensure_nightly(site: Site, block: str) -> str:
    """See to it that `trf-index/nightly` runs for this site at 02:30 by the site's clock."""
    wanted, slug = nightly_of(site), nightly_slug(block)
    with get_client(sync_client=True) as client:
        nightly = read_deployment(client, NIGHTLY)
        present = [schedule for schedule in nightly.schedules if schedule.slug == slug]
        if not present:
            new = DeploymentScheduleCreate(schedule=wanted, active=True, slug=slug, parameters={"site": block})
            client.create_deployment_schedules(nightly.id, [new])
        elif present[0].schedule != wanted:
            client.update_deployment_schedule(nightly.id, present[0].id, schedule=wanted)
    return f"{NIGHTLY} collects this site's TRF logs every night at 02:30, {site.time_zone} time."


def nightly_of(site: Site) -> CronSchedule:
    """When a site's logs are collected."""
    return CronSchedule(cron=NIGHTLY_CRON, timezone=site.time_zone)


def nightly_slug(block: str) -> str:
    """What a site's schedule is called among those of `trf-index/nightly`."""
    return f"site-{block}"


def unfinished_runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Runs of a deployment that have not ended."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
    )


def cancel(client: SyncPrefectClient, run: FlowRun) -> None:
    """Ask a run to end. One that has not begun is ended at once: a worker that is just starting its process misses the request,
    and nobody would answer it."""
    if run.state is not None and run.state.type is StateType.PENDING:
        client.set_flow_run_state(run.id, Cancelled(message="It was ended before it began."), force=True)
    else:
        client.set_flow_run_state(run.id, Cancelling())


def state_type_of(run: UUID) -> StateType | None:
    """A run's state on the server, or None where the server cannot be asked."""
    try:
        with asked_once(), get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
    except Exception:
        return None
    return state.type if state else None


def was_cancelled(run: UUID) -> bool:
    """Whether it is a cancel that ends a run: the worker has just read so, so a server that is slow is asked again."""
    for _ in range(ASK_TRIES):
        state = state_type_of(run)
        if state is not None:
            return state in (StateType.CANCELLING, StateType.CANCELLED)
        time.sleep(ASK_PAUSE_SECONDS)
    return False


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """A deployment by its name `flow/deployment`, or None."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def read_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """A deployment by its name. Raises `SetupError` if there is none."""
    found = find_deployment(client, name)
    if found is None:
        raise SetupError(
            f"The deployment {name} is not on the Prefect server. Run `prefect --no-prompt deploy --all` in the project's folder."
        )
    return found
