"""What add-linac leaves behind on the Prefect server: the linac's block, its capture deployment, its site's nightly schedule."""

from uuid import UUID

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
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

from blocks import Linac, Site, SmbCredentials, block_name, load, load_all
from linac.errors import SetupError

CAPTURE_TEMPLATE = "icom-capture/by-serial"
NIGHTLY = "trf-index/nightly"
NIGHTLY_CRON = "30 2 * * *"
"""02:30 in the site's time zone: treatments are over, backups written."""

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


def linacs_in_service(serial: str | None = None, site: str | None = None) -> list[Linac]:
    """All linacs, one linac, or those of the site with that block name, in order of their serials."""
    if serial:
        return [load_linac(serial)]
    linacs = load_all(Linac)
    if site:
        wanted = load_site(site)
        linacs = [linac for linac in linacs if linac.site.name == wanted.name]
    return sorted(linacs, key=lambda linac: linac.serial)


@task(name="save the linac's block", task_run_name="save-{linac.serial}", cache_policy=NO_CACHE)
def save_linac(linac: Linac) -> str:
    """Save or update `linac-<serial>`; say what changed. Raises `SetupError` if another linac has its name or address."""
    name = block_name(linac.serial)
    others = [other for other in linacs_in_service() if other.serial != linac.serial]
    for other in others:
        if block_name(other.serial) == name:
            raise SetupError(
                f"Linac {other.serial} in service has the block name {name!r} already. Choose a clearly different name."
            )
        if (other.address, other.port) == (linac.address, linac.port):
            raise SetupError(f"Linac {other.serial} in service has the address {linac.address} already. One of the two is wrong.")
    before = load(Linac, name)
    linac.save(name, overwrite=True)
    if before is None:
        text = f"Block {name} made."
    else:
        changes = [
            f"{title} {old} → {new}"
            for title, old, new in (
                ("address", before.address, linac.address),
                ("port", before.port, linac.port),
                ("site", before.site.name, linac.site.name),
                ("backup folder", before.backup.path, linac.backup.path),
            )
            if old != new
        ]
        text = f"Block {name} updated: {', '.join(changes)}." if changes else f"Block {name} was there and is unchanged."
    get_run_logger().info(text)
    return text


@task(name="make the capture deployment", task_run_name="deploy-capture-{linac.serial}", cache_policy=NO_CACHE)
def make_capture_deployment(linac: Linac) -> str:
    """Create or update `icom-capture/<serial>`, which runs the same code as the by-serial deployment, in the site's pool."""
    with get_client(sync_client=True) as client:
        template = _deployment(client, CAPTURE_TEMPLATE)
        client.create_deployment(
            flow_id=template.flow_id,
            name=linac.serial,
            description=f"Records the iCom stream of linac {linac.serial} until it is cancelled. Run it again to go on.",
            parameters={"serial": linac.serial},
            tags=["icom", linac.serial],
            work_pool_name=linac.site.work_pool,
            entrypoint=template.entrypoint,
            path=template.path,
            pull_steps=template.pull_steps,
            parameter_openapi_schema=template.parameter_openapi_schema,
            enforce_parameter_schema=True,
            job_variables={"stream_output": False},
        )
    text = f"Deployment icom-capture/{linac.serial} is in place, in work pool {linac.site.work_pool}."
    get_run_logger().info(text)
    return text


@task(name="start the capture", task_run_name="start-capture-{serial}", cache_policy=NO_CACHE)
def start_capture(serial: str) -> str:
    """`ensure_capture` as a step of a flow."""
    text = ensure_capture(serial)
    get_run_logger().info(text)
    return text


def ensure_capture(serial: str) -> str:
    """Start `icom-capture/<serial>` unless a run of it is under way; says which."""
    with get_client(sync_client=True) as client:
        deployment = _deployment(client, f"icom-capture/{serial}")
        running = unfinished_runs(client, deployment.id)
        if running:
            return f"icom-capture/{serial} is running already ({running[0].name})."
        run = client.create_flow_run_from_deployment(deployment.id)
        return f"icom-capture/{serial} was started ({run.name})."


@task(name="schedule the nightly index", task_run_name="schedule-{site.name}", cache_policy=NO_CACHE)
def schedule_nightly(site: Site, block: str) -> str:
    """`ensure_nightly` as a step of a flow."""
    text = ensure_nightly(site, block)
    get_run_logger().info(text)
    return text


def ensure_nightly(site: Site, block: str) -> str:
    """See to it that `trf-index/nightly` runs for this site at 02:30 by the site's clock."""
    wanted = CronSchedule(cron=NIGHTLY_CRON, timezone=site.time_zone)
    slug = f"site-{block}"
    with get_client(sync_client=True) as client:
        nightly = _deployment(client, NIGHTLY)
        present = [schedule for schedule in nightly.schedules if schedule.slug == slug]
        if not present:
            new = DeploymentScheduleCreate(schedule=wanted, active=True, slug=slug, parameters={"site": block})
            client.create_deployment_schedules(nightly.id, [new])
        elif present[0].schedule != wanted:
            client.update_deployment_schedule(nightly.id, present[0].id, schedule=wanted)
    return f"{NIGHTLY} collects this site's TRF logs every night at 02:30, {site.time_zone} time."


def unfinished_runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Runs of a deployment that have not ended."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
    )


def _deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise SetupError(
            f"The deployment {name} is not on the Prefect server. Run `prefect --no-prompt deploy --all` in the project's folder."
        ) from error
