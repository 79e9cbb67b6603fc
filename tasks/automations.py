"""What brings a recording back by itself: two Prefect automations for each linac, which do no harm when they fire wrongly.

A run whose process died still counts as running; the first automation marks it as crashed once its heartbeat is missing, and
starts a new run in its place. The second starts one when a run has crashed or failed in another way. Fired twice, or at a healthy
run, they make a run too many: it adopts the listener that is there, or finds that another run has it and ends (see
tasks/capture.py).

The first does not leave the new run to the second: a server that was just started waits a quarter of an hour with what it does
upon the end of a run of which it has not seen the begin itself (Prefect's "causal ordering" of events, measured on 3.8).
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from blocks import Linac
from tasks.live import HEARTBEAT
from tasks.plan import MADE, Step
from tasks.provision import find_deployment, read_deployment

SILENT_SECONDS = 40
"""After so long without a heartbeat a run counts as dead. Prefect sends one every 30 s, which is as often as it can; a recording
sends its own every 10 s (tasks/live.py), so that one that is killed is noticed within 45 s, as the server looks every 5 s. A new
run needs some 15 s to begin."""

SILENT_MESSAGE = "No sign of life any more."

ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelling", "Cancelled")}
"""A run that is being cancelled is not silent: nobody wants a new one in its place."""


def step(linac: Linac) -> Step:
    """Both automations are there, as they should be, once each."""
    name = "Automations"
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client, f"icom-capture/{linac.serial}")
        if deployment is None:
            return Step(name, MADE, lambda: put(linac.serial))
        wanted = {item.name: item for item in automations(linac.serial, deployment.id)}
        present = {title: client.read_automations_by_name(title) for title in wanted}
    if not any(present.values()):
        return Step(name, MADE, lambda: put(linac.serial))
    good = all(len(present[title]) == 1 and _same(present[title][0], wanted[title]) for title in wanted)
    return Step(name, "" if good else "updated", lambda: put(linac.serial))


def removed_step(serial: str) -> Step:
    """Neither automation is there any more."""
    with get_client(sync_client=True) as client:
        present = [item.id for title in names(serial) for item in client.read_automations_by_name(title)]

    def do() -> None:
        with get_client(sync_client=True) as opened:
            for automation in present:
                opened.delete_automation(automation)

    return Step("Automations", "removed" if present else "", do)


def put(serial: str) -> None:
    """Create or update the two automations of a linac's recording: one that dies is started again within 90 s."""
    with get_client(sync_client=True) as client:
        deployment = read_deployment(client, f"icom-capture/{serial}")
        for automation in automations(serial, deployment.id):
            put_automation(client, automation)


def _same(present: AutomationCore, wanted: AutomationCore) -> bool:
    """Whether an automation on the server is the one that is wanted, whatever the server added to it."""
    was, shall = (
        AutomationCore(**{name: getattr(item, name) for name in AutomationCore.model_fields}).model_dump(mode="json")
        for item in (present, wanted)
    )
    return bool(was["enabled"]) and _without_ids(was) == _without_ids(shall)


def _without_ids(facts: Any) -> Any:
    """Facts without the numbers that are drawn anew each time, and sets in order."""
    if isinstance(facts, dict):
        return {name: _without_ids(value) for name, value in facts.items() if name not in ("id", "enabled")}
    if isinstance(facts, list):
        return sorted((_without_ids(item) for item in facts), key=repr)
    return facts


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
    start = RunDeployment(source="selected", deployment_id=deployment, parameters=None, job_variables=None)
    return [
        AutomationCore(
            name=silent,
            description="A run of this recording without a heartbeat is marked as crashed and followed by a new one.",
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
            actions=[
                ChangeFlowRunState(name=None, state=StateType.CRASHED, message=SILENT_MESSAGE, force=False),
                start,
            ],
        ),
        AutomationCore(
            name=again,
            description="A run of this recording that crashed or failed is followed by a new one, which adopts the listener.",
            trigger=EventTrigger(
                match=ResourceSpecification(root={**any_run.root, "prefect.state-message": f"!{SILENT_MESSAGE}"}),
                match_related=related,
                expect={"prefect.flow-run.Crashed", "prefect.flow-run.Failed"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[start],
        ),
    ]


def put_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """One automation of that name, as it should be; any double is removed."""
    present = client.read_automations_by_name(automation.name)
    for double in present[1:]:
        client.delete_automation(double.id)
    if not present:
        client.create_automation(automation)
    else:
        client.update_automation(present[0].id, automation)
