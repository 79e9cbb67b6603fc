"""icom-capture: record the iCom stream of one linac until the run is cancelled.

The listener is a process of its own, which outlives this run, its worker and the Prefect server; the run starts it or adopts the
one that is there, brings finished sessions to the records share, and keeps a status artifact up to date. Cancel the run to
stop recording; run it again to go on. A run that crashes leaves the listener recording, and the next run adopts it.

Where a service or a person records the linac with `python -m linac.icom listen` into the same spool, the run only watches,
and takes over when that has ended. A listener that a service or command runs by itself is never stopped from here.
"""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from blocks.linac import Serial
from tasks.capture import by_command, cancelled_meanwhile, follow, only_follower, start_listener
from tasks.provision import load_linac

RETRIES = 10
RETRY_SECONDS = 30


@flow(
    name="icom-capture",
    flow_run_name="icom-capture-{serial}",
    description=__doc__,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
)
def icom_capture(serial: Serial) -> State[None]:
    """Record one linac until this run is cancelled.

    Args:
        serial: Serial of a linac in service, for example 4299.
    """
    linac = load_linac(serial)
    with only_follower(linac) as claim:
        if claim.mine:
            if cancelled_meanwhile():
                return Cancelled(message="It was cancelled before it recorded anything.")
            start_listener(linac)
        elif not by_command(linac):
            return Completed(message=f"Linac {serial} is recorded by another run already; this one is not needed.")
        return follow(linac, claim)
