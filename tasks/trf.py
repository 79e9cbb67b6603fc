"""TRF logs: what is new in a linac's backup folder, brought into the index of its site's records share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks import Linac
from linac.errors import BackupError, StorageError, UnreachableError
from linac.index import Index, Log
from linac.transport import Entry, Folder
from linac.trf.backup import read_trfs
from tasks.reports import BackupResult

BACKUPS = "SDD+*.zip"
"""Names of the NSS's diagnostic backups (facts-trf.md)."""

RETRIES = 2
RETRY_SECONDS = 20


def worth_another_try(_task: object, _run: object, state: Any) -> bool:
    """Worth another try: storage or a network that failed. A damaged file or a wrong set-up stays as it is."""
    return isinstance(state.result(raise_on_failure=False), StorageError | UnreachableError)


@task(
    name="list new backups",
    task_run_name="list-{linac.serial}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=worth_another_try,
)
def list_new_backups(linac: Linac) -> list[Entry]:
    """The backups in the linac's folder that the index has not taken in completely, oldest first."""
    with linac.backup.connect() as folder, linac.site.records.connect() as records:
        folder.check()
        present = folder.list(BACKUPS)
        new = Index(records).new_backups(linac.serial, present)
    get_run_logger().info("Linac %s: %s backups, %s of them new.", linac.serial, len(present), len(new))
    return sorted(new, key=lambda entry: entry.modified)


@task(
    name="index a backup",
    task_run_name="index-{linac.serial}-{entry.name}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=worth_another_try,
)
def index_backup(linac: Linac, entry: Entry) -> BackupResult:
    """Take every log of one backup into the index. A damaged backup gives what can be read of it and is tried again next time."""
    with linac.backup.connect() as folder, linac.site.records.connect() as records:
        result = add_backup(Index(records), linac.serial, folder, entry.name, entry)
    log = get_run_logger()
    log.info(
        "%s: %s TRFs indexed (%s rows), %s known, %s set aside.",
        entry.name,
        result.indexed,
        result.rows,
        result.duplicates,
        len(result.aside),
    )
    for reason in result.aside:
        log.warning("Set aside in TRF/quarantine: %s", reason)
    if result.problem:
        log.error("%s: %s", entry.name, result.problem)
    return result


def add_backup(index: Index, serial: str, folder: Folder, name: str, entry: Entry) -> BackupResult:
    """Fetch one backup, index its logs, and note it as done unless something was wrong with it."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="linac-flows-") as here:
        local = Path(here) / "backup.zip"
        folder.fetch(name, local)
        added = index.add(serial, _logs(local, entry.name, problems))
    if not problems:
        index.mark_done(serial, entry, added.counts)
    return BackupResult(
        serial=serial,
        backup=entry.name,
        indexed=added.indexed,
        rows=added.rows,
        duplicates=added.duplicates,
        aside=[reason for _, reason in added.quarantined],  # the files' names hold fields' names
        problem=" ".join(problems),
    )


def _logs(local: Path, backup: str, problems: list[str]) -> Iterator[Log]:
    """The logs of a zip one after the other; what is wrong with the zip or a member goes to `problems`, the rest goes on."""
    try:
        for member in read_trfs(local):
            if member.data is None:
                problems.append(str(member.error))
            else:
                yield Log(name=member.name, data=member.data, source=backup)
    except BackupError as error:
        problems.append(str(error))
