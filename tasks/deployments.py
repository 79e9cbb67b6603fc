"""A linac's deployments, its work queue and its site's nightly schedule: as they should be, compared with what is there."""

import zlib
from dataclasses import dataclass, field
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound

from blocks import Linac, Site
from blocks.linac import Service
from blocks.loading import named
from linac.errors import SetupError
from tasks.plan import MADE, Step
from tasks.provision import NIGHTLY, ensure_nightly, find_deployment, linacs_in_service, nightly_of, nightly_slug, read_deployment

CAPTURE, CHECK = "icom-capture", "check-linac"
TEMPLATE = "by-serial"

WEEKLY = "weekly"


def weekly_cron(serial: str) -> str:
    """Mondays between 06:00 and 07:00 by the site's clock: before the first patient, and somebody sees the result in time.

    Each linac has a minute of its own, more or less: the checks of a large site, all at once, would load the computer that
    records and disturb each other's measurements.

    >>> weekly_cron("4299"), weekly_cron("2619")
    ('2 6 * * 1', '38 6 * * 1')
    """
    return f"{zlib.crc32(serial.encode()) % 60} 6 * * 1"


def queue_name(serial: str) -> str:
    """The queue that a linac's recording waits in."""
    return f"icom-{serial}"


@dataclass(frozen=True)
class Wanted:
    """A deployment for one linac, which runs the same code as its flow's `by-serial` deployment."""

    flow: str
    serial: str
    pool: str
    description: str
    tags: list[str]
    queue: str | None = None
    job_variables: dict[str, Any] = field(default_factory=dict)
    weekly_in: str = ""

    @property
    def name(self) -> str:
        return f"{self.flow}/{self.serial}"

    def facts(self, template: DeploymentResponse) -> dict[str, Any]:
        """What `create_deployment` is told."""
        return {
            "description": self.description,
            "parameters": {"serial": self.serial},
            "tags": self.tags,
            "work_pool_name": self.pool,
            **({"work_queue_name": self.queue} if self.queue else {}),
            "entrypoint": template.entrypoint,
            "path": template.path,
            "pull_steps": template.pull_steps,
            "parameter_openapi_schema": template.parameter_openapi_schema,
            "job_variables": self.job_variables,
        }

    def step(self) -> Step:
        """Make it, or bring it up to date."""
        name = f"Deployment {self.name}"
        with get_client(sync_client=True) as client:
            need_pool(client, self.pool)
            template = read_deployment(client, f"{self.flow}/{TEMPLATE}")
            present = find_deployment(client, self.name)
        if present is None:
            return Step(name, MADE, self.put)
        changed = [title for title, value in self.facts(template).items() if getattr(present, title) != value]
        if self.weekly_in and not self._scheduled(present):
            changed.append("schedule")
        return Step(name, f"updated: {', '.join(changed).replace('_', ' ')}" if changed else "", self.put)

    def put(self) -> None:
        """Create or update it. A schedule that somebody has paused or moved stays so, unless the site's time zone changed."""
        with get_client(sync_client=True) as client:
            template = read_deployment(client, f"{self.flow}/{TEMPLATE}")
            made = client.create_deployment(
                flow_id=template.flow_id, name=self.serial, enforce_parameter_schema=True, **self.facts(template)
            )
            if not self.weekly_in:
                return
            present = [schedule for schedule in client.read_deployment(made).schedules if schedule.slug == WEEKLY]
            wanted = CronSchedule(cron=weekly_cron(self.serial), timezone=self.weekly_in)
            if not present:
                client.create_deployment_schedules(made, [DeploymentScheduleCreate(schedule=wanted, active=True, slug=WEEKLY)])
            elif not self._scheduled(client.read_deployment(made)):
                client.update_deployment_schedule(made, present[0].id, schedule=wanted)

    def _scheduled(self, present: DeploymentResponse) -> bool:
        zones = [getattr(schedule.schedule, "timezone", None) for schedule in present.schedules if schedule.slug == WEEKLY]
        return zones == [self.weekly_in]


def capture_deployment(linac: Linac) -> Wanted:
    """`icom-capture/<serial>`, in a queue of its own; its output does not hang on the worker, so that it outlives that."""
    return Wanted(
        flow=CAPTURE,
        serial=linac.serial,
        pool=linac.site.work_pool,
        description=f"Records the iCom stream of linac {linac.serial} until it is cancelled. Run it again to go on.",
        tags=["icom", linac.serial],
        queue=queue_name(linac.serial),
        job_variables={"stream_output": False},
    )


def check_deployment(linac: Linac) -> Wanted:
    """`check-linac/<serial>`, every week."""
    return Wanted(
        flow=CHECK,
        serial=linac.serial,
        pool=linac.site.work_pool,
        description=f"Checks linac {linac.serial}, its network, its shares and disks, and reports. It changes nothing.",
        tags=["check", linac.serial],
        weekly_in=linac.site.time_zone,
    )


QUEUE_LIMIT = 2
"""One run records; a second, as a restart that came twice, has room to see that and leave. It must not wait in the queue: there
it would start when somebody cancels the first, and record on against his will."""


def queue_step(linac: Linac) -> Step:
    """The linac's own work queue, for one run and the next, which takes over or leaves."""
    name, pool = queue_name(linac.serial), linac.site.work_pool
    with get_client(sync_client=True) as client:
        need_pool(client, pool)
        try:
            present = client.read_work_queue_by_name(name, pool)
        except ObjectNotFound:
            present = None

    def do() -> None:
        with get_client(sync_client=True) as client:
            if present is None:
                client.create_work_queue(name, concurrency_limit=QUEUE_LIMIT, work_pool_name=pool)
            else:
                client.update_work_queue(present.id, concurrency_limit=QUEUE_LIMIT)

    change = MADE if present is None else "" if present.concurrency_limit == QUEUE_LIMIT else "updated: limit"
    return Step(f"Work queue {name}", change, do)


def nightly_step(linac: Linac, site: str) -> Step:
    """The site's linacs are indexed every night, this one with them."""
    with get_client(sync_client=True) as client:
        present = [item for item in read_deployment(client, NIGHTLY).schedules if item.slug == nightly_slug(site)]
    change = MADE if not present else "" if present[0].schedule == nightly_of(linac.site) else "updated: time zone"
    return Step(f"Nightly index, {linac.site.name}", change, lambda: _nightly(linac, site))


def _nightly(linac: Linac, site: str) -> None:
    ensure_nightly(linac.site, site)


def nightly_removed_step(linac: Linac) -> Step:
    """The site's nightly schedule goes with the last of its linacs; its name stands in the schedule."""
    name = f"Nightly index, {linac.site.name}"
    if any(other.site.name == linac.site.name for other in linacs_in_service() if other.serial != linac.serial):
        return Step(name)
    with get_client(sync_client=True) as client:
        nightly = find_deployment(client, NIGHTLY)
        sites = {nightly_slug(block): block for block in _block_names(linac)}
        schedules = [item for item in nightly.schedules if item.slug in sites] if nightly is not None else []

    def do() -> None:
        with get_client(sync_client=True) as opened:
            for schedule in schedules:
                if nightly is not None:
                    opened.delete_deployment_schedule(nightly.id, schedule.id)

    return Step(name, "removed, as this is the site's last linac" if schedules else "", do)


def _block_names(linac: Linac) -> list[str]:
    """Names of the Site blocks that are this linac's site."""
    return [name for name, site in named(Site) if site.name == linac.site.name]


def removed_steps(linac: Linac, flows: tuple[str, ...] = (CAPTURE, CHECK)) -> list[Step]:
    """The deployments of those flows go, and the queue with the recording's."""
    steps = []
    with get_client(sync_client=True) as client:
        for flow in flows:
            present = find_deployment(client, f"{flow}/{linac.serial}")
            step = Step(f"Deployment {flow}/{linac.serial}")
            if present is not None:
                step = Step(step.name, "removed", lambda here=present.id: _removed(here))  # type: ignore[misc]
            steps.append(step)
        if CAPTURE in flows:
            name = queue_name(linac.serial)
            try:
                queue = client.read_work_queue_by_name(name, linac.site.work_pool)
                steps.append(Step(f"Work queue {name}", "removed", lambda: _queue_removed(queue.id)))
            except ObjectNotFound:
                steps.append(Step(f"Work queue {name}"))
    return steps


def _removed(deployment: Any) -> None:
    with get_client(sync_client=True) as client:
        client.delete_deployment(deployment)


def _queue_removed(queue: Any) -> None:
    with get_client(sync_client=True) as client:
        client.delete_work_queue_by_id(queue)


def need_pool(client: SyncPrefectClient, pool: str) -> None:
    """Raise `SetupError` unless the site's work pool is there."""
    try:
        client.read_work_pool(pool)
    except ObjectNotFound as error:
        raise SetupError(
            f"There is no work pool {pool!r} on the Prefect server. Make it in Prefect's UI under Work Pools, of the type "
            "process, and start a worker for it at the site; or correct the name in the Site block."
        ) from error


def by_worker(linac: Linac | None) -> bool:
    """Whether a Prefect worker keeps its recording running."""
    return linac is not None and linac.service is Service.WORKER
