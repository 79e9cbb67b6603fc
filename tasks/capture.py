"""Recording a linac: its listener started or adopted, its finished sessions brought to the records share, its state shown."""

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed

from blocks import Linac
from linac.capture import control
from linac.capture.archive import Archived, sessions
from linac.capture.follower import COMMAND, RUN, Follower, Holder, follower_of
from linac.capture.sessions import told_gaps
from linac.capture.status import told_interruptions
from linac.errors import LinacError
from tasks.archiving import ROUND_SECONDS, Archiving
from tasks.live import News, Rate, beat, today_of
from tasks.provision import asked_once, cancel, ensure_capture, state_type_of, unfinished_runs, was_cancelled
from tasks.queryable import Queryable
from tasks.reports import artifact_key, table

STATE_SECONDS = 5.0
"""How often a run asks for its own state: after an outage of the API a cancel no longer reaches it otherwise (lab-prefect.md)."""

ARTIFACT_SECONDS = 30.0
BEAT_SECONDS = 10.0
CLAIM_SECONDS, HAND_OVER_SECONDS = 1.0, 45.0
"""A new run waits so long for an old one of the same linac that is just ending, then leaves the work to it."""

TAKE_OVER_SECONDS = 15.0
"""A run that watches a `listen` command takes its place when it has been gone for so long: a service that starts it anew is back
by then."""

STOP_SECONDS = 10.0
LAST_ROUND_SECONDS = 8.0
PARQUET_SECONDS = 6.0
"""Stopping, archiving and this are to end before Prefect kills a cancelled run, after 30 s."""


@contextlib.contextmanager
def only_follower(linac: Linac) -> Iterator[Follower]:
    """Claim the linac's recording for this run. It is not `mine` where a `listen` command has it, or another run, even after a
    while. A crash frees it."""
    follower = Follower(linac.spool, linac.serial, RUN, os.path.join(linac.site.records.path, "iCom"))
    until = time.monotonic() + HAND_OVER_SECONDS
    try:
        while not follower.acquire(CLAIM_SECONDS) and time.monotonic() < until and not by_command(linac):
            pass
        yield follower
    finally:
        follower.release()


def by_command(linac: Linac) -> Holder | None:
    """The `listen` command that sees to the listener now, run by a service or a person."""
    holder = follower_of(linac.spool, linac.serial)
    return holder if holder is not None and holder.kind == COMMAND else None


@task(name="start or adopt the listener", task_run_name="listener-{linac.serial}", cache_policy=NO_CACHE)
def start_listener(linac: Linac) -> str:
    """See to it that exactly one listener of this linac runs on this computer."""
    running = control.start(linac.serial, linac.address, linac.port, linac.spool)
    text = f"Listener of linac {linac.serial}: process {running.pid}, {'adopted' if running.adopted else 'started'}."
    get_run_logger().info(text)
    return text


def follow(linac: Linac, claim: Follower) -> State[None]:
    """Archive what the listener records until the run is cancelled; then stop the listener in order.

    Whatever else ends this function leaves the listener recording, for the next run to adopt. While a `listen` command has the
    claim, the run only watches: the command archives, and it alone ends the listener.
    """
    run_id = UUID(str(flow_run.id))
    follower = _Follower(linac, claim)
    try:
        ended = follower.until(run_id)
    except (TerminationSignal, KeyboardInterrupt):
        if not was_cancelled(run_id):
            raise
        # The run says itself that it is cancelled: the worker takes its time to, and until then it would count as silent.
        ended = StateType.CANCELLING
    if ended in (StateType.CANCELLING, StateType.CANCELLED):
        follower.finish()
        return Cancelled(message="Recording was stopped in order." if not follower.left else follower.left)
    if ended is None:
        return Completed(message=f"Linac {linac.serial} is recorded by another run by now; this one is not needed.")
    if ended in (StateType.CRASHED, StateType.FAILED) and claim.mine:
        follower.hand_on()
    return Completed(message="This run was ended from outside; the listener goes on recording.")


def cancelled_meanwhile() -> bool:
    """Whether this run was cancelled, for instance while it waited for its turn."""
    return state_type_of(UUID(str(flow_run.id))) in (StateType.CANCELLING, StateType.CANCELLED)


class _Follower:
    """One run's view of one linac."""

    def __init__(self, linac: Linac, claim: Follower) -> None:
        self.linac, self.claim = linac, claim
        self.gone_since: float | None = None  # while watching: since when nobody has the claim
        self.left = ""  # at the end: why the listener records on, else empty
        self.log = get_run_logger()
        self.trouble = ""
        self.trouble_since: datetime | None = None
        self.warnings: list[str] = []
        self.listening = ""  # why the listener cannot be seen to, else empty
        self.artifact: UUID | None = None
        self.archiving = Archiving(linac)
        self.news = News(linac.serial)
        self.rate = Rate()
        self.queryable = Queryable(linac, self.log)
        self.archived: list[Archived] = []

    def until(self, run_id: UUID) -> StateType | None:
        """Work in rounds; returns the state that ended the run from outside, None if another run has the work by now."""
        if self.claim.mine:
            self.take_up()
        else:
            self.log.info("Recorded by %s: this run only watches.", by_command(self.linac) or "a command")
        next_beat = next_state = next_artifact = 0.0
        while True:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_SECONDS
                beat(run_id, deployment.id)
            if self.claim.mine or self.inherit():
                self.round()
            elif self.another():
                return None
            else:
                self.look()
            now = time.monotonic()
            if now >= next_artifact:
                next_artifact = now + ARTIFACT_SECONDS
                self.show()
            if now >= next_state:
                next_state = now + STATE_SECONDS
                state = state_type_of(run_id)
                if state not in (None, StateType.RUNNING):
                    return state
            time.sleep(ROUND_SECONDS)

    def take_up(self) -> None:
        self.queryable.start()
        self.archiving.start()

    def inherit(self) -> bool:
        """While watching: take the place of a command that has ended and is not started again. Whether it is ours now."""
        if follower_of(self.linac.spool, self.linac.serial) is not None:
            self.gone_since = None
            return False
        self.gone_since = self.gone_since or time.monotonic()
        if time.monotonic() - self.gone_since < TAKE_OVER_SECONDS or not self.claim.acquire(CLAIM_SECONDS):
            return False
        self.log.warning("The command that recorded has ended; this run goes on in its place.")
        self.take_up()
        return True

    def another(self) -> bool:
        """While watching: whether another run has taken the command's place."""
        holder = follower_of(self.linac.spool, self.linac.serial)
        return holder is not None and holder.kind == RUN

    def look(self) -> None:
        """While watching: tell what the command's listener does."""
        try:
            self.news.compare(control.status(self.linac.spool, self.linac.serial))
        except LinacError as error:
            self.log.warning("%s", error)

    def round(self) -> None:
        """See to the listener, and tell what the archiver did. Nothing here waits for the records share."""
        spool, serial = self.linac.spool, self.linac.serial
        failed = ""
        self.claim.seen()
        try:
            if not control.is_running(spool, serial):
                running = control.start(serial, self.linac.address, self.linac.port, spool)
                self.log.warning("The listener had ended; process %s goes on in its place.", running.pid)
            self.news.compare(control.status(spool, serial))
        except LinacError as error:
            failed = str(error)
        if failed and failed != self.listening:
            self.log.error("%s", failed)
        self.listening = failed
        self.tell()

    def tell(self) -> None:
        """What the archiver did; each session is told by its time, never by its patient."""
        for now in self.archiving.news():
            self.warnings = now.warnings
            for item in now.done:
                self.take(item)
            if now.trouble == self.trouble:
                continue
            if now.trouble:
                self.trouble_since = self.trouble_since or datetime.now(UTC)
                self.log.error("Not archived: %s What is recorded stays in the spool until it can be archived.", now.trouble)
            else:
                self.trouble_since = None
                self.log.info("Archiving works again.")
            self.trouble = now.trouble
            self.show()

    def take(self, item: Archived) -> None:
        """One session that was archived or set aside."""
        self.archived.append(item)
        self.queryable.put(item)
        self.news.tell(
            "archived",
            stamp=item.stamp,
            outcome=item.outcome,
            messages=item.messages,
            mu=item.mu,
            gaps=item.gaps,
            missing=item.missing,
        )
        if item.reason:
            self.log.warning("The %s was set aside: %s", item, item.reason)
        else:
            self.log.info("Archived: %s.", item)

    def show(self) -> None:
        """Keep the status artifact up to date; a Prefect server that is away must not disturb the recording."""
        try:
            with asked_once():
                if self.artifact is None:
                    key = artifact_key("icom-capture", self.linac.serial)
                    description = f"State of the recording of linac {self.linac.serial}"
                    self.artifact = UUID(str(create_markdown_artifact(self.text(), key=key, description=description)))
                else:
                    with get_client(sync_client=True) as client:
                        client.update_artifact(self.artifact, ArtifactUpdate(data=self.text()))
        except Exception as error:
            self.log.warning("The status artifact could not be written: %s", type(error).__name__)

    def text(self) -> str:
        """The state of the recording, as Markdown. No patient in it."""
        spool, serial = self.linac.spool, self.linac.serial
        status = control.status(spool, serial)
        rows: list[tuple[str, object]] = [("As of", _shown(datetime.now(UTC)))]
        if status is not None:
            rows += [
                ("Seen to by", "this run" if self.claim.mine else f"{by_command(self.linac) or 'a command that has ended'}"),
                ("Listener", f"{status.state}, process {status.pid}" if status.running else "stopped"),
                ("Connected since", _shown(status.connected_since) if status.connected else "not connected"),
                ("Messages", status.messages),
                ("Messages a second, last half hour", self.rate.drawn(status.messages)),
                ("Last message", _shown(status.last_message)),
                ("Times messages may be missing since this listener took over", status.gaps),
                ("Interruptions", told_interruptions(status.lately())),
                ("Journal", f"{status.journal_bytes / 2**20:.1f} MiB"),
                ("Not yet archived", f"{status.backlog_bytes / 2**20:.1f} MiB"),
            ]
        today = today_of(sessions(spool, serial), self.linac.site.time_zone)
        gaps, missing = sum(line.gaps for line in today), sum(line.missing for line in today)
        told = told_gaps(gaps, missing, at_least=any(line.at_least for line in today))
        rows += [
            ("Sessions of today, archived", len(today)),
            ("MU in them", f"{sum(line.mu for line in today):.1f}"),
            ("Missing in them", told),
            ("Trouble", self.trouble or self.listening or "none"),
        ]
        loud = ""
        if self.trouble:
            since = _shown(self.trouble_since)
            loud = f"\n\n**ATTENTION: nothing is archived since {since}.** {self.trouble} Recording goes on, into the spool."
        notes = "".join(f"\n- {finding}" for finding in [*(status.findings if status else []), *self.warnings])
        return f"# Recording of linac {self.linac.serial}{loud}\n\n{table(['What', 'Now'], rows)}\n{notes}"

    def finish(self) -> None:
        """Stop the listener in order (FIN to the linac), archive what is complete, leave the last state to be read."""
        serial = self.linac.serial
        self.left = self.not_ours()
        if self.left:
            self.log.info("%s", self.left)
        try:
            if self.left:
                pass
            elif control.stop(self.linac.spool, serial, STOP_SECONDS):
                self.news.end(control.status(self.linac.spool, serial), "cancelled")
                self.log.info("Recording of linac %s was stopped.", serial)
            else:
                self.log.error("The listener of linac %s was asked to end and has not within %s s.", serial, STOP_SECONDS)
        except LinacError as error:
            self.log.error("%s", error)
        if self.claim.mine:
            self.claim.forget()
            self.cancel_waiting()
        if not self.archiving.finish(LAST_ROUND_SECONDS):
            self.log.warning("The records share does not answer; what is not archived waits in the spool for the next run.")
        self.tell()
        self.queryable.finish(PARQUET_SECONDS)
        self.show()

    def hand_on(self) -> None:
        """Marked as ended while it lives, as after an outage of the server: see to it that a new run takes its place, whatever
        the automations do."""
        try:
            with asked_once():
                self.log.warning("This run was marked as ended. %s", ensure_capture(self.linac.serial))
        except Exception as error:
            self.log.warning("A new run could not be started: %s", type(error).__name__)

    def cancel_waiting(self) -> None:
        """Runs that wait for the place of this one, which was cancelled, are not to take it: nobody wants the recording."""
        try:
            with asked_once(), get_client(sync_client=True) as client:
                for run in unfinished_runs(client, UUID(str(deployment.id))):
                    if run.id != UUID(str(flow_run.id)):
                        cancel(client, run)
        except Exception as error:
            self.log.warning("Other runs of this recording could not be cancelled: %s", type(error).__name__)

    def not_ours(self) -> str:
        """Why the listener is not to be stopped by this run, else empty."""
        spool, serial = self.linac.spool, self.linac.serial
        with contextlib.suppress(LinacError):
            holder = by_command(self.linac)
            if not self.claim.mine:
                return f"Linac {serial} is recorded on by {holder or 'the command that did before'}: this run only watched."
            status = control.status(spool, serial)
            if status is not None and status.running and status.standalone:
                return (
                    f"The listener of linac {serial}, process {status.pid}, is run by a service or command of its own and "
                    "records on: end it there."
                )
        return ""


def _shown(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "none"
