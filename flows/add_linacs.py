"""add-linacs: put many linacs into service from a list, one after the other, with one table at the end.

    prefect deployment run add-linacs -p file=/srv/linac-flows/linacs.toml
    python -m flows.add_linacs --file linacs.csv --dry-run

The list is a TOML file with a [[linac]] for each, or a CSV file with a line for each; their fields are those of add-linac's form.
What fails for one linac does not hinder the others. Run it again when it is mended: linacs in service stay as they are.
"""

import sys

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.add_linac import add_linac
from linac.errors import LinacError
from tasks.command_line import run_from_command_line
from tasks.forms import DefaultSiteField, DryRunField, ListField, check_answers
from tasks.linac_list import Result, read_list, report_list, report_so_far


@flow(name="add-linacs", description=__doc__)
def add_linacs(file: ListField, site: DefaultSiteField = "", dry_run: DryRunField = False) -> State[None]:
    r"""Put many linacs into service.

    Args:
        file: Path of the list on the worker's computer, for example D:\physics\linacs.toml or D:\physics\linacs.csv.
        site: Name of the Site block for the linacs that name none themselves, for example nbcc. Names of blocks
            have lower-case letters, digits and single dashes.
        dry_run: Check everything and show the plans with all differences, but change nothing.
    """
    wanted = read_list(file, site, add_linac.parameters, dry_run)
    results = [Result(answers["serial"]) for answers in wanted]
    for answers, result in zip(wanted, results, strict=True):
        try:
            check_answers(add_linac, answers)
            result.note(add_linac(**answers, return_state=True))
        except LinacError as error:
            result.note_failure(error)
        except Exception as error:  # its run could not even begin or end, as the server was busy
            get_run_logger().exception("The run of add-linac for linac %s could not be made or followed.", result.serial)
            result.note_failure(error)
        report_so_far(results, dry_run)
    verdict = report_list(results, dry_run)
    if any(result.problem for result in results):
        raise LinacError(f"{verdict} " + " ".join(f"Linac {item.serial}: {item.problem}" for item in results if item.problem))
    return Completed(message=verdict)


if __name__ == "__main__":
    sys.exit(run_from_command_line(add_linacs))
