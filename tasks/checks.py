"""Looking before leaping: what add-linac asks of a linac and its folders before it changes anything."""

from dataclasses import dataclass
from enum import Enum

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks import Linac, Share
from linac.capture import check, control
from linac.errors import LinacError
from linac.transport import connect

ICOM_WATCH_SECONDS = 2.0
ICOM_WAIT_SECONDS = 10.0
"""An iCom service speaks 4 times a second (facts-icom.md); one that is silent for so long has nothing to say."""


WRITE_TEST = ".linac-flows-write-test"

SPOOL_WANTED_BYTES = 25 << 30
"""8 kB, 4 times a second (facts-icom.md), for a week without the share."""


class Outcome(Enum):
    """How a check ended: `WARN` is worth reading and hinders nothing, `FAIL` must be mended first."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line of the checklist: what was looked at, how it ended, what was seen or what to do."""

    name: str
    outcome: Outcome
    seen: str


@task(name="check iCom", task_run_name="check-icom-{linac.serial}", cache_policy=NO_CACHE)
def check_icom(linac: Linac) -> Check:
    """Do messages of this very machine arrive from its iCom service?"""
    name = f"iCom service, {linac.address} port {linac.port}"
    try:
        seen = None
        if _recorded_now(linac):  # exactly one connection per linac: look at what the one that is there receives
            seen = check.probe_journal(linac.site.spool, linac.serial, ICOM_WATCH_SECONDS, ICOM_WAIT_SECONDS)
        if seen is None:
            seen = check.probe(linac.address, linac.port, linac.serial, ICOM_WATCH_SECONDS, ICOM_WAIT_SECONDS)
    except LinacError as error:
        return _noted(Check(name, Outcome.FAIL, str(error)))
    return _noted(Check(name, Outcome.PASS, f"{seen.messages} messages of machine {linac.serial} arrived."))


@task(name="check backup folder", task_run_name="check-backup-{linac.serial}", cache_policy=NO_CACHE)
def check_backup(linac: Linac) -> Check:
    """Can the NSS's diagnostic backups be listed, and are there any?"""
    name = f"Backup folder, {linac.backup.path}"
    try:
        with linac.backup.connect() as folder:
            folder.check()
            backups = folder.list("SDD+*.zip")
    except LinacError as error:
        return _noted(Check(name, Outcome.FAIL, str(error)))
    if not backups:
        advice = (
            "It holds no SDD+*.zip yet. If none appears within a week, ask the Elekta engineer for scheduled diagnostic backups."
        )
        return _noted(Check(name, Outcome.WARN, advice))
    newest = max(entry.modified for entry in backups)
    return _noted(Check(name, Outcome.PASS, f"{len(backups)} backups, the newest of {newest:%Y-%m-%d %H:%M} UTC."))


@task(name="check records share", cache_policy=NO_CACHE)
def check_records(records: Share) -> Check:
    """Can files be written, replaced and removed where the records go?"""
    name = f"Records share, {records.path}"
    try:
        with records.connect() as folder:
            folder.make()
            folder.write(WRITE_TEST, b"1")
            folder.write(WRITE_TEST, b"2")
            whole = folder.read(WRITE_TEST) == b"2"
            folder.remove(WRITE_TEST)
            free_gib = folder.free() / 2**30
    except LinacError as error:
        return _noted(Check(name, Outcome.FAIL, str(error)))
    if not whole:
        return _noted(
            Check(name, Outcome.FAIL, "A file that was replaced still shows its old content. Turn off offline caching.")
        )
    return _noted(Check(name, Outcome.PASS, f"It can be written; {free_gib:.0f} GiB are free."))


@task(name="check spool", cache_policy=NO_CACHE)
def check_spool(linac: Linac) -> Check:
    """Can this computer keep what the linac sends on a disk of its own?"""
    name = f"Spool folder on this computer, {linac.site.spool}"
    try:
        with connect(linac.site.spool) as folder:
            folder.make()
            folder.write(WRITE_TEST, b"1")
            folder.remove(WRITE_TEST)
            free = folder.free()
    except LinacError as error:
        return _noted(Check(name, Outcome.FAIL, str(error)))
    if free < SPOOL_WANTED_BYTES:
        seen = f"Only {free / 2**30:.1f} GiB are free. A linac fills 3 GB a day: free {SPOOL_WANTED_BYTES >> 30} GiB at least, "
        return _noted(Check(name, Outcome.WARN, seen + "or choose another disk in the Site block."))
    return _noted(Check(name, Outcome.PASS, f"It can be written; {free / 2**30:.0f} GiB are free."))


def _recorded_now(linac: Linac) -> bool:
    """Whether our listener is connected to this very address."""
    status = control.status(linac.site.spool, linac.serial)
    return status is not None and status.running and (status.address, status.port) == (linac.address, linac.port)


def _noted(result: Check) -> Check:
    """The same check, told in the run's log as well."""
    logger = get_run_logger()
    say = {Outcome.PASS: logger.info, Outcome.WARN: logger.warning, Outcome.FAIL: logger.error}[result.outcome]
    say("%s: %s. %s", result.outcome.value, result.name, result.seen)
    return result
