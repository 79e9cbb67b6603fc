"""Looking before leaping: what add-linac asks of a linac and its folders before it changes anything."""

from dataclasses import dataclass
from enum import Enum

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks import Linac, Share
from linac.capture import check, control
from linac.errors import LinacError

ICOM_WAIT_SECONDS = 10.0
"""An iCom service speaks 4 times a second (facts-icom.md); one that is silent for so long has nothing to say."""


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
        if control.is_running(linac.site.spool, linac.serial):  # exactly one connection per linac: ask the one that is there
            seen = check.probe_journal(linac.site.spool, linac.serial, linac.address, linac.port, ICOM_WAIT_SECONDS)
        else:
            seen = check.probe(linac.address, linac.port, linac.serial, ICOM_WAIT_SECONDS)
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
    probe = ".linac-flows-write-test"
    try:
        with records.connect() as folder:
            folder.make()
            folder.write(probe, b"1")
            folder.write(probe, b"2")
            whole = folder.read(probe) == b"2"
            folder.remove(probe)
            free_gib = folder.free() / 2**30
    except LinacError as error:
        return _noted(Check(name, Outcome.FAIL, str(error)))
    if not whole:
        return _noted(
            Check(name, Outcome.FAIL, "A file that was replaced still shows its old content. Turn off offline caching.")
        )
    return _noted(Check(name, Outcome.PASS, f"It can be written; {free_gib:.0f} GiB are free."))


def _noted(result: Check) -> Check:
    """The same check, told in the run's log as well."""
    logger = get_run_logger()
    say = {Outcome.PASS: logger.info, Outcome.WARN: logger.warning, Outcome.FAIL: logger.error}[result.outcome]
    say("%s: %s. %s", result.outcome.value, result.name, result.seen)
    return result
