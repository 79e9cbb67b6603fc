"""remove-linac: take a linac out of service. All that was recorded is kept.

    prefect deployment run remove-linac -p serial=4299
    python -m flows.remove_linac --serial 4299 --dry-run

Its recording is ended in order; its deployments, automations, queue, schedules, service files, entry in PyMedPhys's
configuration and block go. Run it again if it broke off; run add-linac to put the linac into service once more.
"""

import sys

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.command_line import run_from_command_line
from tasks.forms import DryRunField, SerialField
from tasks.plan import carry_out_all, refuse_problems, summary
from tasks.provision import load_linac
from tasks.record import report_removed, told
from tasks.reports import artifact_key
from tasks.steps import kept, make_removal_plan


@flow(name="remove-linac", flow_run_name="remove-linac-{serial}", description=__doc__)
def remove_linac(serial: SerialField, dry_run: DryRunField = False) -> State[None]:
    """Take a linac out of service.

    Args:
        serial: Serial of a linac in service, for example 4299. It has 1 to 40 letters, digits, dashes or underscores.
        dry_run: Show what would be removed and what would be kept, but change nothing.
    """
    linac = load_linac(serial)
    plan = make_removal_plan(linac)
    done: list[str] = []
    problem = ""
    try:
        refuse_problems(plan)
        if not dry_run:
            carry_out_all(plan, done)
        if dry_run:
            shown = f"The plan is in the artifact {artifact_key('remove-linac', linac.serial)}."
            return Completed(message=f"{summary(plan)} Nothing was changed. {shown}")
        return Completed(message=f"Linac {serial} is out of service; its records are kept.")
    except BaseException as error:
        problem = told(error)
        raise
    finally:
        report_removed(linac, plan, done, kept(linac), problem, dry_run)


if __name__ == "__main__":
    sys.exit(run_from_command_line(remove_linac))
