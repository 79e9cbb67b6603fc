"""A site's forwards through its gateway: kept up by one run at a time, shown, told as events; and the deployment that does it."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from blocks import Site
from linac.capture.lock import EndpointLock
from linac.errors import LinacError, SetupError
from linac.transport.tunnels import Forward, ForwardStatus, Status, Tunnels, check_forwards
from tasks.automations import automations, put_automation
from tasks.provision import asked_once, load_site, read_deployment, state_type_of, unfinished_runs, was_cancelled
from tasks.reports import artifact_key, table

FLOW = "site-tunnel"
TEMPLATE = f"{FLOW}/by-site"

ROUND_SECONDS = 1.0
STATE_SECONDS = 5.0
"""How often a run asks for its own state: after an outage of the API a cancel no longer reaches it otherwise (lab-prefect.md)."""

ARTIFACT_SECONDS = 30.0
RELOAD_SECONDS = 15.0
"""How often the Site block is read again: a forward that is added, or a key that is changed, needs no restart."""

HAND_OVER_SECONDS = 45.0
"""A new run waits so long for an old one of the same site that is just ending, then leaves the work to it."""


# The run.


@contextlib.contextmanager
def only_keeper(name: str) -> Iterator[bool]:
    """Hold the site's tunnels for this run; False where another run on this computer has them. A crash frees them."""
    lock = EndpointLock(f"{FLOW} {name}", 0)
    mine = lock.acquire(HAND_OVER_SECONDS)
    try:
        yield mine
    finally:
        if mine:
            lock.release()


def forwards_of(name: str, site: Site) -> list[Forward]:
    """The forwards of a site. Raises `SetupError` where it has none, no gateway, or two are in each other's way."""
    if site.gateway is None or not site.forwards:
        missing = "gateway of the tunnels" if site.gateway is None else "forwards"
        raise SetupError(
            f"The Site block {name!r} names no {missing}. Complete it in Prefect's UI under Blocks, then run this again."
        )
    found = [
        Forward(
            forward.direction,
            (forward.listen_address, forward.listen_port),
            (forward.target_host, forward.target_port),
            forward.label,
        )
        for forward in site.forwards
    ]
    check_forwards(found)
    return found


def keep_up(name: str) -> State[None]:
    """Keep the site's forwards up until the run is cancelled; then close them in order."""
    run_id = UUID(str(flow_run.id))
    keeper = _Keeper(name)
    try:
        ended = keeper.until(run_id)
    except (TerminationSignal, KeyboardInterrupt):
        keeper.finish()
        if not was_cancelled(run_id):
            raise
        # The run says itself that it is cancelled: the worker takes its time to, and until then it would count as silent.
        ended = StateType.CANCELLING
    except BaseException:  # something unforeseen: a retry in this process needs the ports
        keeper.finish()
        raise
    else:
        keeper.finish()
    if ended in (StateType.CANCELLING, StateType.CANCELLED):
        return Cancelled(message="The tunnels were closed in order.")
    return Completed(message="This run was ended from outside; the tunnels are closed.")


class _Keeper:
    """One run's tunnels, and what has been told of them."""

    def __init__(self, name: str) -> None:
        """Raises `SetupError` where the site has nothing to keep up, or its keys cannot be used."""
        self.name = name
        self.log = get_run_logger()
        self.artifact: UUID | None = None
        self.site = load_site(name)
        self.tunnels = self._made(self.site)
        self.told = self.tunnels.status()
        self.resource = {"prefect.resource.id": f"{FLOW}.{name}", "prefect.resource.name": f"Tunnels of {name}"}

    def _made(self, site: Site) -> Tunnels:
        forwards = forwards_of(self.name, site)
        assert site.gateway is not None  # noqa: S101 (forwards_of has seen to it)
        return Tunnels(site.gateway.open().connect, forwards, f"{site.gateway.host} port {site.gateway.port}")

    def until(self, run_id: UUID) -> StateType:
        """Watch in rounds; returns the state that ended the run from outside."""
        self.tunnels.start()
        began = time.monotonic()
        next_state = next_artifact = began
        next_load = began + RELOAD_SECONDS
        while True:
            if self.tell(self.tunnels.status()):
                next_artifact = min(next_artifact, time.monotonic() + 1)  # a change is shown soon
            now = time.monotonic()
            if now >= next_artifact:
                next_artifact = now + ARTIFACT_SECONDS
                self.show()
            if now >= next_load:
                next_load = now + RELOAD_SECONDS
                self.reload()
            if now >= next_state:
                next_state = now + STATE_SECONDS
                state = state_type_of(run_id)
                if state not in (None, StateType.RUNNING):
                    return state
            time.sleep(ROUND_SECONDS)

    def tell(self, now: Status) -> bool:
        """Log and emit what has changed since the last round; whether anything has."""
        before, self.told = self.told, now
        another = now.connections != before.connections
        if now.connected and (another or not before.connected):
            self.log.info("Connected to the gateway %s.", now.gateway)
            self._emit("connected", gateway=now.gateway, connections=now.connections)
        elif not now.connected and (another or before.connected):
            self.log.error("The gateway %s is lost. %s", now.gateway, now.trouble)
            self._emit("lost", gateway=now.gateway, reason=now.trouble)
        elif now.trouble and now.trouble != before.trouble:
            self.log.error("%s It is tried again and again.", now.trouble)
        changed = (now.connected, now.trouble) != (before.connected, before.trouble)
        for one, was in zip(now.forwards, before.forwards, strict=True):
            if one.up != was.up:
                changed = True
                (self.log.info if one.up else self.log.warning)("%s is %s.", one.forward.name, "up" if one.up else "down")
                self._emit("up" if one.up else "down", forward=one.forward.name)
                if one.note:
                    self.log.warning("%s: %s", one.forward.name, one.note)
            if one.trouble and one.trouble != was.trouble and now.connected:
                changed = True
                self.log.warning("%s: %s", one.forward.name, one.trouble)
        return changed

    def _emit(self, what: str, **facts: object) -> None:
        """One event. Prefect sends it in the background; a server that is away loses it."""
        emit_event(event=f"linac.tunnel.{what}", resource=self.resource, payload=facts)

    def reload(self) -> None:
        """Take over what has changed in the blocks. What cannot be used is told, and the tunnels stay as they are."""
        try:
            with asked_once():
                site = load_site(self.name)
            if _same(site, self.site):
                return
            new = self._made(site)
        except LinacError as error:
            self.log.warning("The Site block has changed, but cannot be used: %s The tunnels stay as they were.", error)
            return
        except Exception as error:  # the Prefect server is away: later
            self.log.debug("The Site block could not be read: %s", type(error).__name__)
            return
        self.log.info("The Site block has changed: the tunnels are made anew.")
        self.tunnels.stop()
        self.site, self.tunnels, self.told = site, new, new.status()
        self.tunnels.start()

    def show(self) -> None:
        """Keep the status artifact up to date; a Prefect server that is away must not disturb the tunnels."""
        try:
            text = report(self.name, self.tunnels.status())
            if self.artifact is None:
                key = artifact_key(FLOW, self.name)
                self.artifact = UUID(str(create_markdown_artifact(text, key=key, description=f"Tunnels of {self.name}")))
            else:
                with asked_once(), get_client(sync_client=True) as client:
                    client.update_artifact(self.artifact, ArtifactUpdate(data=text))
        except Exception as error:
            self.log.warning("The status artifact could not be written: %s", type(error).__name__)

    def finish(self) -> None:
        """Close everything, and leave that to be read."""
        if not self.tunnels.stop():
            self.log.warning("The gateway hangs; what is left of the connection ends with this process.")
        self.log.info("The tunnels of %s are closed.", self.name)
        self.show()


def report(name: str, status: Status) -> str:
    """The tunnels as Markdown."""
    facts = [
        ("As of", _shown(datetime.now(UTC))),
        ("Gateway", status.gateway),
        ("Connected since", _shown(status.since) if status.connected else "not connected"),
        ("Connections made", status.connections),
        ("Trouble", status.trouble or "none"),
    ]
    columns = ["Forward", "Listens on", "Leads to", "State", "Connections", "Open", "MiB carried", "Trouble"]
    rows = [_row(one) for one in status.forwards]
    return f"# Tunnels of {name}\n\n{table(['What', 'Now'], facts)}\n\n## Forwards\n\n{table(columns, rows)}\n"


def _row(one: ForwardStatus) -> tuple[object, ...]:
    forward = one.forward
    here, there = ("here", "the gateway's side") if forward.direction == "local" else ("the gateway", "this site")
    listens, leads = f"{forward.listen[0] or '*'}:{forward.listen[1]}", f"{forward.target[0]}:{forward.target[1]}"
    state = f"✅ up since {_shown(one.since)}" if one.up else "❌ down"
    trouble = one.trouble or one.note or "none"
    return (
        forward.name,
        f"{here}, {listens}",
        f"{there}, {leads}",
        state,
        one.connections,
        one.open,
        f"{one.carried / 2**20:.1f}",
        trouble,
    )


def _same(one: Site, other: Site) -> bool:
    """Whether two states of the Site block want the same tunnels, made with the same keys."""
    return _wanted(one) == _wanted(other)


def _wanted(site: Site) -> tuple[object, ...]:
    gateway = site.gateway
    if gateway is None:
        return (None,)
    return (
        tuple(str(forward) for forward in site.forwards),
        *(getattr(gateway, name) for name in type(gateway).model_fields),
    )


def _shown(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "none"


# The deployment.


def make_tunnel_deployment(name: str) -> str:
    """Create or update `site-tunnel/<name of the Site block>` in the site's pool, and what starts it again when it dies.

    Gives a line about it. Raises `SetupError` where the site has nothing to keep up.
    """
    site = load_site(name)
    forwards = forwards_of(name, site)
    with get_client(sync_client=True) as client:
        template = read_deployment(client, TEMPLATE)
        deployment = client.create_deployment(
            flow_id=template.flow_id,
            name=name,
            description=f"Keeps the forwards of {site.name} up until it is cancelled. Run it again to go on.",
            parameters={"site": name},
            tags=["tunnel", name],
            work_pool_name=site.work_pool,
            entrypoint=template.entrypoint,
            path=template.path,
            pull_steps=template.pull_steps,
            parameter_openapi_schema=template.parameter_openapi_schema,
            enforce_parameter_schema=True,
            job_variables={"stream_output": False},
        )
        for automation in tunnel_automations(name, deployment):
            put_automation(client, automation)
    return f"Deployment {FLOW}/{name} is in place, in work pool {site.work_pool}: {len(forwards)} forwards."


def tunnel_automations(name: str, deployment: UUID) -> list[AutomationCore]:
    """As for a recording (see `tasks.automations`): a run that gives no sign of life counts as crashed, a new one follows.

    One run too many finds that another has the tunnels, and ends.
    """
    silent, again = automations(name, deployment)
    return [
        silent.model_copy(
            update={
                "name": f"{FLOW}/{name}: mark silent runs as crashed",
                "description": "A run of these tunnels that sends no heartbeat any more is marked as crashed.",
            }
        ),
        again.model_copy(
            update={
                "name": f"{FLOW}/{name}: start again",
                "description": "A run of these tunnels that crashed or failed is followed by a new one.",
            }
        ),
    ]


def ensure_tunnel(name: str) -> str:
    """Start `site-tunnel/<name>` unless a run of it is under way; says which."""
    with get_client(sync_client=True) as client:
        deployment = read_deployment(client, f"{FLOW}/{name}")
        running = unfinished_runs(client, deployment.id)
        if running:
            return f"{FLOW}/{name} is running already ({running[0].name})."
        run = client.create_flow_run_from_deployment(deployment.id, name=f"{FLOW}-{name}")
        return f"{FLOW}/{name} was started ({run.name})."
