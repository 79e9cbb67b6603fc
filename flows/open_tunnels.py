"""site-tunnel: keep a site's forwards through its SSH gateway up until the run is cancelled.

The forwards stand in the Site block: ports here that lead to the gateway's side, ports on the gateway that lead here. A gateway
that is lost or hangs is noticed within 15 s, and everything is made anew as soon as it is back. What is changed in the Site
block is taken over within a quarter of a minute. Cancel the run to close the tunnels; run it again to open them.
"""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.tunnels import keep_up, only_keeper

RETRIES = 10
RETRY_SECONDS = 30

BlockName = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


@flow(
    name="site-tunnel",
    flow_run_name="site-tunnel-{site}",
    description=__doc__,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
)
def site_tunnel(site: BlockName) -> State[None]:
    """Keep a site's forwards up until this run is cancelled.

    Args:
        site: Name of the Site block, for example nbcc.
    """
    with only_keeper(site) as alone:
        if not alone:
            return Completed(message=f"The tunnels of {site} are kept up by another run already; this one is not needed.")
        return keep_up(site)
