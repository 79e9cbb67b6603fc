"""add-linac: put a linac into service, at one button.

    prefect deployment run add-linac -p serial=4299 -p address=192.168.17.40 -p site=nbcc

Checks first; changes only when nothing failed; can be run again at any time with the same or other answers.
"""

from prefect import flow

from blocks import Linac, Share
from blocks.linac import ICOM_PORT, Address, Port, Serial
from linac.errors import LinacError, SetupError
from tasks.automations import make_automations
from tasks.checks import Outcome, check_backup, check_icom, check_records, check_spool
from tasks.provision import load_credentials, load_site, make_capture_deployment, save_linac, schedule_nightly, start_capture
from tasks.reports import report_added_linac


@flow(name="add-linac", flow_run_name="add-linac-{serial}", description=__doc__)
def add_linac(
    serial: Serial,
    address: Address,
    site: str,
    backup_folder: str | None = None,
    nss_credentials: str | None = None,
    icom_port: Port = ICOM_PORT,
    dry_run: bool = False,
) -> None:
    r"""Put a linac into service.

    Args:
        serial: Serial number of the linac, or another unique name that never changes, for example 4299.
        address: Hospital DNS IP address that the linac's NSS was given, for example 192.168.17.40.
        site: Name of the Site block of the site where the linac stands, for example nbcc.
        backup_folder: Folder of the NSS's diagnostic backups; left empty, it is \\<address>\Backup\TCS, as the NSS shares it.
        nss_credentials: Name of the SMB credentials block with the NSS account; left empty for a local or mounted folder.
        icom_port: Port of the iCom service, 1706 on every real linac.
        dry_run: Check everything and say how it went, but change nothing.
    """
    where = load_site(site)
    linac = Linac(
        serial=serial,
        address=address,
        port=icom_port,
        site=where,
        backup=Share(
            path=backup_folder or rf"\\{address}\Backup\TCS",
            credentials=load_credentials(nss_credentials) if nss_credentials else None,
        ),
    )
    checks = [check_icom(linac), check_backup(linac), check_records(where.records), check_spool(linac)]
    failed = [check for check in checks if check.outcome is Outcome.FAIL]
    done: list[str] = []
    error = ""
    try:
        if not failed and not dry_run:
            done.append(save_linac(linac))
            done.append(make_capture_deployment(linac))
            done.append(make_automations(linac))
            done.append(schedule_nightly(where, site))
            done.append(start_capture(linac.serial))
    except LinacError as problem:
        error = str(problem)
        raise
    finally:
        report_added_linac(linac, checks, done, error, dry_run)
    if failed:
        reasons = " ".join(check.seen for check in failed)
        raise SetupError(f"Linac {serial} was not added; nothing was changed. {reasons}")
