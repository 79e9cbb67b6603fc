"""trf-index: collect the linacs' TRF logs from their NSS backups and index them, each distinct log once.

What fails for one linac or one backup is reported and does not hinder the others; the run then ends as failed, so that somebody
looks. Run it again at any time: what is indexed already is known by its content.
"""

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.linac import Serial
from linac.errors import LinacError
from tasks.provision import linacs_in_service
from tasks.reports import artifact_key, report_index
from tasks.trf import index_backup, list_new_backups


@flow(name="trf-index", description=__doc__)
def trf_index(serial: Serial | None = None, site: str | None = None) -> State[None]:
    """Index what is new.

    Args:
        serial: Serial of one linac in service, for example 4299; left empty for all of them.
        site: Name of a Site block, to index the linacs of that site only; left empty for all sites.
    """
    results, failures = [], []
    for linac in linacs_in_service(serial, site):
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
