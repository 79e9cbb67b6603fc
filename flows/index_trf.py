"""trf-index: collect the linacs' TRF logs from their NSS backups and index them, each distinct log once.

What fails for one linac or one backup is reported and does not hinder the others; the run then ends as failed, so that somebody
looks. So does the run that finds a damaged backup; later runs do not read it again, but name it in their report until it changes,
goes away or is dismissed, and end as *Completed with warnings*. Run it again at any time: what is indexed already is known by its
content.
"""

import os
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from blocks.linac import Serial
from linac.errors import LinacError, SetupError
from tasks.backlog import index_backlog
from tasks.provision import linacs_in_service, load_linac
from tasks.reports import BackupResult, DamagedBackup, artifact_key, report_index
from tasks.trf import dismiss as dismiss_backup
from tasks.trf import index_backup, list_new_backups, note_damaged, repack_samples

AS_MANY_AS_CORES: Any = ThreadPoolTaskRunner(max_workers=os.cpu_count() or 1)


@flow(name="trf-index", description=__doc__, task_runner=AS_MANY_AS_CORES)
def trf_index(
    serial: Serial | None = None, site: str | None = None, backlog: str | None = None, dismiss: str | None = None
) -> State[None]:
    """Index what is new.

    Args:
        serial: Serial of one linac in service, for example 4299; left empty for all of them.
        site: Name of a Site block, to index the linacs of that site only; left empty for all sites.
        backlog: Folder with old backups or TRF files of that one linac, in any depth, to take in instead of the new backups; on
            another share than the linac's or its site's, the name of a Share block.
        dismiss: File name of a damaged backup of that one linac, as the report has it, that is not to be reported any more.
    """
    if (backlog or dismiss) and not serial:
        raise SetupError("A backlog, or a backup to dismiss, belongs to one linac: give its serial, too.")
    linacs = linacs_in_service(serial, site) if not backlog else [load_linac(str(serial))]
    if dismiss:
        dismiss_backup(linacs[0], dismiss)
    results: dict[str, list[BackupResult]] = {}
    failures: list[tuple[str, str]] = []
    damaged: list[DamagedBackup] = []
    if backlog:
        done = index_backlog(linacs[0], backlog)
        results[linacs[0].serial], failures = done.results, done.failures
        damaged = done.damaged
    for linac in linacs if not backlog else []:
        try:
            backups = list_new_backups(linac)
        except LinacError as error:
            failures.append((f"Linac {linac.serial}", str(error)))
            continue
        damaged += backups.damaged
        for backup in backups.new:
            try:
                results.setdefault(linac.serial, []).append(index_backup(linac, backup))
            except LinacError as error:
                failures.append((f"Linac {linac.serial}, {backup.name}", str(error)))
    found = [result for several in results.values() for result in several]
    verdict = report_index(found, failures, artifact_key("trf-index", serial or site or "all"), damaged)
    get_run_logger().info(verdict)
    for doubt in dict.fromkeys(result.doubt for result in found if result.doubt):
        get_run_logger().warning(doubt)
    problems = [*failures, *((result.backup, result.problem) for result in found if result.problem)]
    for linac in linacs:
        if any(result.problem for result in results.get(linac.serial, [])):
            try:
                note_damaged(linac, results[linac.serial])
            except LinacError as error:
                problems.append((f"Linac {linac.serial}: damaged backups could not be noted", str(error)))
    away = {what for what, _ in failures}
    there = [linac for linac in linacs if f"Linac {linac.serial}" not in away]
    tidy = {linac.site.records.path for linac in there if results.get(linac.serial)}  # a night with nothing new lists no more
    for path, linac in {linac.site.records.path: linac for linac in there}.items():
        try:
            problems += [("Samples could not be packed harder", why) for why in repack_samples(linac, tidy=path in tidy)]
        except LinacError as error:
            problems.append(("Samples could not be packed harder", str(error)))
    if problems:
        raise LinacError(f"{verdict} " + " ".join(f"{what}: {why}" for what, why in problems))
    warned = damaged or any(result.aside or result.doubt for result in found)
    return Completed(message=verdict, name="Completed with warnings" if warned else "Completed")
