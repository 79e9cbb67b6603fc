"""What brings a recording back by itself: two Prefect automations for each linac, which do no harm when they fire wrongly.

A run whose process died still counts as running; the first automation marks it as crashed once its heartbeat is missing. The
second starts a new run when one has crashed or failed. Fired twice, or at a healthy run, they make a run too many: it adopts
the listener that is there, or finds that another run has it and ends (see tasks/capture.py).
"""

from datetime import timedelta
from uuid import UUID

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from blocks import Linac

HEARTBEAT = "prefect.flow-run.heartbeat"

SILENT_SECONDS = 65
"""Heartbeats come every 30 s (prefect.toml): with two missing a run counts as dead. A new one needs some 10 s to begin."""

ENDED = {"prefect.flow-run.Completed", "prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.Cancelled"}


@task(name="make the automations", task_run_name="automate-{linac.serial}", cache_policy=NO_CACHE)
def make_automations(linac: Linac) -> str:
    """Create or update the two automations of a linac's recording."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"icom-capture/{linac.serial}")
        for automation in automations(linac.serial, deployment.id):
            _put(client, automation)
    text = f"A recording of linac {linac.serial} that dies is started again within 90 s."
    get_run_logger().info(text)
    return text


def names(serial: str) -> tuple[str, str]:
    """What the automations of a linac are called."""
    return f"icom-capture/{serial}: mark silent runs as crashed", f"icom-capture/{serial}: start again"


def automations(serial: str, deployment: UUID) -> list[AutomationCore]:
    """The two automations, for the runs of one deployment."""
    silent, again = names(serial)
    related = ResourceSpecification(
        root={"prefect.resource.role": "deployment", "prefect.resource.id": f"prefect.deployment.{deployment}"}
    )
    any_run = ResourceSpecification(root={"prefect.resource.id": "prefect.flow-run.*"})
    return [
        AutomationCore(
            name=silent,
            description="A run of this recording that sends no heartbeat any more is marked as crashed.",
            trigger=EventTrigger(
                match=any_run,
                match_related=related,
                after={HEARTBEAT},
                expect={HEARTBEAT, *ENDED},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=SILENT_SECONDS),
            ),
            actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message="No sign of life any more.", force=False)],
        ),
        AutomationCore(
            name=again,
            description="A run of this recording that crashed or failed is followed by a new one, which adopts the listener.",
            trigger=EventTrigger(
                match=any_run,
                match_related=related,
                expect={"prefect.flow-run.Crashed", "prefect.flow-run.Failed"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[RunDeployment(source="selected", deployment_id=deployment, parameters=None, job_variables=None)],
        ),
    ]


def _put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """One automation of that name, as it should be; any double is removed."""
    present = client.read_automations_by_name(automation.name)
    for double in present[1:]:
        client.delete_automation(double.id)
    if not present:
        client.create_automation(automation)
    else:
        client.update_automation(present[0].id, automation)
