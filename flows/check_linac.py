"""check-linac: is everything that a linac in service needs as it should be?

    prefect deployment run check-linac/4299
    python -m flows.check_linac --serial 4299

The checklist of add-linac, for a linac in service, every week by itself. It changes nothing, and where the linac is being
recorded it looks at what is recorded: a linac never gets a second connection. The run fails if a check does, so that somebody
looks.
"""

import sys

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from linac.errors import LinacError
from tasks.checks import STEADINESS_SECONDS, make_checklist
from tasks.command_line import run_from_command_line
from tasks.forms import SerialField, SteadinessField
from tasks.provision import load_linac
from tasks.record import report_check


@flow(name="check-linac", flow_run_name="check-linac-{serial}", description=__doc__)
def check_linac(serial: SerialField, steadiness_seconds: SteadinessField = STEADINESS_SECONDS) -> State[None]:
    """Check one linac.

    Args:
        serial: Serial of a linac in service, for example 4299. It has 1 to 40 letters, digits, dashes or underscores.
        steadiness_seconds: How many seconds, 1 to 3600, the network to the linac is watched. A minute shows the worst, a longer
            time at a busy hour shows more.
    """
    linac = load_linac(serial)
    checklist = make_checklist(linac, steadiness_seconds)
    report_check(linac, checklist)
    if checklist.failed:
        raise LinacError(f"{checklist.verdict} " + " ".join(f"{check.name}: {check.seen}" for check in checklist.failed))
    return Completed(message=checklist.verdict)


if __name__ == "__main__":
    sys.exit(run_from_command_line(check_linac))
