"""trf-index: collect the linacs' TRF logs from their NSS backups and index them, each distinct log once.

What fails for one linac or one backup is reported and does not hinder the others; the run then ends as failed, so that somebody
looks. Run it again at any time: what is indexed already is known by its content.
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
from tasks.reports import BackupResult, artifact_key, report_index
from tasks.trf import index_backup, list_new_backups

AS_MANY_AS_CORES: Any = ThreadPoolTaskRunner(max_workers=os.cpu_count() or 1)


@flow(name="trf-index", description=__doc__, task_runner=AS_MANY_AS_CORES)
def trf_index(serial: Serial | None = None, site: str | None = None, backlog: str | None = None) -> State[None]:
    """Index what is new.

    Args:
        serial: Serial of one linac in service, for example 4299; left empty for all of them.
        site: Name of a Site block, to index the linacs of that site only; left empty for all sites.
        backlog: Folder with old backups or TRF files of that one linac, in any depth, to take in instead of the new backups.
    """
    results: list[BackupResult] = []
    failures: list[tuple[str, str]] = []
    if backlog:
        if not serial:
            raise SetupError("A backlog belongs to one linac: give its serial, too.")
        results, failures = index_backlog(load_linac(serial), backlog)
    for linac in linacs_in_service(serial, site) if not backlog else []:
        try:
            backups = list_new_backups(linac)
        except LinacError as error:
            failures.append((f"Linac {linac.serial}", str(error)))
            continue
        for backup in backups:
            try:
                results.append(index_backup(linac, backup))
            except LinacError as error:
                failures.append((f"Linac {linac.serial}, {backup.name}", str(error)))
    verdict = report_index(results, failures, artifact_key("trf-index", serial or site or "all"))
    get_run_logger().info(verdict)
    problems = [*failures, *((result.backup, result.problem) for result in results if result.problem)]
    if problems:
        raise LinacError(f"{verdict} " + " ".join(f"{what}: {why}" for what, why in problems))
    return Completed(message=verdict)
