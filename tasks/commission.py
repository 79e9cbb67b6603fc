"""The last step: messages are seen to come all the way from the linac to the records share; then it is in service."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks import Linac, block_name
from blocks.linac import Service
from linac.capture import check, control
from linac.capture.archive import sessions
from linac.capture.ledger import ARCHIVED, Line
from linac.capture.names import address_folder
from linac.errors import LinacError, SetupError, StorageError, UnreachableError
from linac.transport import Folder
from tasks.check import Check, passed
from tasks.check_folders import is_recorded_here

POLL_SECONDS = 0.5
JOURNAL_SECONDS = 1.0


@dataclass(frozen=True)
class Link:
    """One link of the chain. `look` gives what was seen, or nothing yet; `missing` says what to do where nothing comes."""

    name: str
    look: Callable[[], str]
    missing: str


@task(name="wait for the first messages", task_run_name="chain-{linac.serial}", cache_policy=NO_CACHE)
def wait_for_messages(linac: Linac, seconds: float, seen: list[Check]) -> str:
    """Follow messages link by link until they reach the records share, for at most so many seconds in all.

    What was seen is added to `seen`. Gives what others have to do first: nothing, as a rule; to install the service where IT does
    that; to run add-linac again where nobody waits. Raises `UnreachableError` with the link that is missing and what to do.
    """
    if not seconds:
        return "Nobody waited for its messages: run add-linac again to see them come and to put it into service."
    log = get_run_logger()
    until = time.monotonic() + seconds
    with linac.site.records.connect("iCom") as icom:
        for link in chain(linac, icom):
            text = _wait(link, until)
            if not text:
                advice = f"{link.missing} Then run add-linac again: it goes on from here."
                if linac.service is not Service.WORKER and linac.capture_login is None and not seen:
                    return advice
                raise UnreachableError(
                    f"Linac {linac.serial}: nothing came as far as this within {seconds:.0f} s: {link.name}. {advice}"
                )
            seen.append(passed(link.name, text))
            log.info("%s: %s", link.name, text)
    return ""


def chain(linac: Linac, icom: Folder) -> list[Link]:
    """The links that can be looked at from this computer, in the order in which a message passes them."""
    if linac.service is Service.WORKER:
        pool = linac.site.work_pool
        nobody = f"Is a worker of work pool {pool} running at the site? Look at the run icom-capture-{linac.serial} and its log."
    else:
        where = linac.recorded_by or "the capture host"
        nobody = f"Install and start the service on {where} with the files that add-linac wrote."
        if linac.capture_login is not None:
            nobody = f"Does the service on {where} connect to the linac? Its log there says what hinders it."
    links = []
    if is_recorded_here(linac):
        links += [
            Link("Listener connected to the linac", lambda: _listener(linac), nobody),
            Link("Messages in the journal", lambda: _journal(linac), "Look at listener.log in the spool."),
        ]
    live = _Live(icom, linac.address)
    shared = "Can the account of the recording write to the records share? Its log says what hinders it."
    return [*links, Link("Messages on the records share", live.look, shared if links else f"{nobody} {shared}")]


def _wait(link: Link, until: float) -> str:
    """What a link shows, as soon as it shows anything; empty where it does not in time."""
    while True:
        try:
            text = link.look()
        except (UnreachableError, StorageError):
            text = ""
        if text or time.monotonic() >= until:
            return text
        time.sleep(POLL_SECONDS)


def _listener(linac: Linac) -> str:
    status = control.status(linac.spool, linac.serial)
    if status is None or not status.running or not status.connected or not status.messages:
        return ""
    since = f", since {status.connected_since:%Y-%m-%d %H:%M:%S} UTC" if status.connected_since else ""
    return f"Process {status.pid}{since}."


def _journal(linac: Linac) -> str:
    seen = check.probe_journal(linac.spool, linac.serial, JOURNAL_SECONDS)
    return f"{seen.messages} in {seen.seconds:.1f} s, of machine {linac.serial}." if seen is not None else ""


class _Live:
    """The folder of the latest messages: what changes in it from the first look on has come now, whatever clock the share has."""

    def __init__(self, icom: Folder, address: str) -> None:
        self.icom, self.where = icom, f"live/{address_folder(address)}"
        self.before: set[tuple[str, datetime]] | None = None

    def look(self) -> str:
        present = {(entry.name, entry.modified) for entry in self.icom.list(f"{self.where}/*.txt")}
        if self.before is None:
            self.before = present
        return f"{len(present - self.before)} new in iCom/{self.where}." if present - self.before else ""


@task(name="wait for the first session", task_run_name="session-{linac.serial}", cache_policy=NO_CACHE)
def wait_for_session(linac: Linac, minutes: float) -> Check:
    """Wait for the first session that is archived from now on. Raises `UnreachableError` if none is in time."""
    if not is_recorded_here(linac):
        raise SetupError(
            f"{linac.recorded_by} records linac {linac.serial}, so that its sessions cannot be waited for from here. Run this "
            "with a worker there, or without waiting for a session."
        )
    known = len(_archived(linac))
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        found = _archived(linac)[known:]
        if found:
            line = found[0]
            return passed("First session archived", f"{line.messages} messages, {line.mu:.1f} MU, {line.gaps} gaps.")
        time.sleep(POLL_SECONDS)
    raise UnreachableError(
        f"Linac {linac.serial}: no session was archived within {minutes:g} min. Deliver a beam with a patient or phantom loaded, "
        "and run add-linac again."
    )


def _archived(linac: Linac) -> list[Line]:
    try:
        return [line for line in sessions(linac.spool, linac.serial) if line.outcome == ARCHIVED]
    except LinacError:
        return []


@task(name="put into service", task_run_name="in-service-{linac.serial}", cache_policy=NO_CACHE)
def put_into_service(linac: Linac) -> Linac:
    """Note in the linac's block since when it is in service; the day stays the first one."""
    if linac.in_service is None:
        linac = linac.model_copy(update={"in_service": datetime.now(ZoneInfo(linac.site.time_zone)).date()})
        linac.save(block_name(linac.serial), overwrite=True)
        get_run_logger().info("Linac %s is in service since %s.", linac.serial, linac.in_service)
    return linac
