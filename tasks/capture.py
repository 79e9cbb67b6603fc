"""Recording a linac: its listener started or adopted, its finished sessions brought to the records share, its state shown."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from blocks import Linac
from linac.capture import control
from linac.capture.archive import Archived, sessions
from linac.capture.lock import FileLock
from linac.capture.sessions import told_missing
from linac.capture.spool import Spool
from linac.errors import LinacError
from tasks.archiving import ROUND_SECONDS, Archiving
from tasks.live import News, Rate, today_of
from tasks.queryable import Queryable
from tasks.reports import artifact_key, table

STATE_SECONDS = 5.0
"""How often a run asks for its own state: after an outage of the API a cancel no longer reaches it otherwise (lab-prefect.md)."""

ARTIFACT_SECONDS = 30.0
HAND_OVER_SECONDS = 45.0
"""A new run waits so long for an old one of the same linac that is just ending, then leaves the work to it."""

STOP_SECONDS = 10.0
LAST_ROUND_SECONDS = 8.0
PARQUET_SECONDS = 6.0
"""Stopping, archiving and this are to end before Prefect kills a cancelled run, after 30 s."""


@contextlib.contextmanager
def only_follower(linac: Linac) -> Iterator[bool]:
    """Hold the linac's recording for this run; False where another run has it, even after a while. A crash frees it."""
    places = Spool(Path(linac.site.spool), linac.serial)
    places.make()
    lock = FileLock(places.folder / "icom-capture.lock")
    mine = lock.acquire(HAND_OVER_SECONDS)
    try:
        yield mine
    finally:
        if mine:
            lock.release()


@task(name="start or adopt the listener", task_run_name="listener-{linac.serial}", cache_policy=NO_CACHE)
def start_listener(linac: Linac) -> str:
    """See to it that exactly one listener of this linac runs on this computer."""
    running = control.start(linac.serial, linac.address, linac.port, linac.site.spool)
    text = f"Listener of linac {linac.serial}: process {running.pid}, {'adopted' if running.adopted else 'started'}."
    get_run_logger().info(text)
    return text


def follow(linac: Linac) -> State[None]:
    """Archive what the listener records until the run is cancelled; then stop the listener in order.

    Whatever else ends this function leaves the listener recording, for the next run to adopt.
    """
    run_id = UUID(str(flow_run.id))
    follower = _Follower(linac)
    try:
        ended = follower.until(run_id)
    except (TerminationSignal, KeyboardInterrupt):
        if _state_type(run_id) in (StateType.CANCELLING, StateType.CANCELLED):
            follower.finish()
        raise
    if ended in (StateType.CANCELLING, StateType.CANCELLED):
        follower.finish()
        return Cancelled(message="Recording was stopped in order.")
    return Completed(message="This run was ended from outside; the listener goes on recording.")


class _Follower:
    """One run's view of one linac."""

    def __init__(self, linac: Linac) -> None:
        self.linac = linac
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

    def until(self, run_id: UUID) -> StateType:
        """Work in rounds; returns the state that ended the run from outside."""
        self.queryable.start()
        self.archiving.start()
        next_state = next_artifact = 0.0
        while True:
            self.round()
            now = time.monotonic()
            if now >= next_artifact:
                next_artifact = now + ARTIFACT_SECONDS
                self.show()
            if now >= next_state:
                next_state = now + STATE_SECONDS
                state = _state_type(run_id)
                if state not in (None, StateType.RUNNING):
                    return state
            time.sleep(ROUND_SECONDS)

    def round(self) -> None:
        """See to the listener, and tell what the archiver did. Nothing here waits for the records share."""
        spool, serial = self.linac.site.spool, self.linac.serial
        failed = ""
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
        spool, serial = self.linac.site.spool, self.linac.serial
        status = control.status(spool, serial)
        rows: list[tuple[str, object]] = [("As of", _shown(datetime.now(UTC)))]
        if status is not None:
            rows += [
                ("Listener", f"{status.state}, process {status.pid}" if status.running else "stopped"),
                ("Connected since", _shown(status.connected_since) if status.connected else "not connected"),
                ("Messages", status.messages),
                ("Messages a second, last half hour", self.rate.drawn(status.messages)),
                ("Last message", _shown(status.last_message)),
                ("Times messages may be missing since the listener started", status.gaps),
                ("Journal", f"{status.journal_bytes / 2**20:.1f} MiB"),
                ("Not yet archived", f"{status.backlog_bytes / 2**20:.1f} MiB"),
            ]
        today = today_of(sessions(spool, serial), self.linac.site.time_zone)
        gaps, missing = sum(line.gaps for line in today), sum(line.missing for line in today)
        told = told_missing(missing, at_least=any(line.at_least for line in today))
        rows += [
            ("Sessions archived today", len(today)),
            ("MU in them", f"{sum(line.mu for line in today):.1f}"),
            ("Gaps in them", f"{gaps} ({told} messages missing)" if gaps else 0),
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
        try:
            if control.stop(self.linac.site.spool, serial, STOP_SECONDS):
                self.log.info("Recording of linac %s was stopped.", serial)
            else:
                self.log.error("The listener of linac %s was asked to end and has not within %s s.", serial, STOP_SECONDS)
        except LinacError as error:
            self.log.error("%s", error)
        if not self.archiving.finish(LAST_ROUND_SECONDS):
            self.log.warning("The records share does not answer; what is not archived waits in the spool for the next run.")
        self.tell()
        self.queryable.finish(PARQUET_SECONDS)
        self.show()


def _shown(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "none"


def _state_type(run_id: UUID) -> StateType | None:
    """The run's state on the server, or None where the server cannot be asked."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
    except Exception:
        return None
    return state.type if state else None
