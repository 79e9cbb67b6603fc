"""add-linac: put a linac into service, at one button.

    prefect deployment run add-linac -p serial=4299 -p address=192.168.17.40 -p site=nbcc

Checks first; changes only when nothing failed; can be run again at any time with the same or other answers.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks import Linac, Share, SmbCredentials
from blocks.linac import ICOM_PORT, Address, Serial
from linac.errors import LinacError, SetupError
from tasks.checks import Outcome, check_backup, check_icom, check_records
from tasks.provision import load_site, make_capture_deployment, save_linac, schedule_nightly, start_capture
from tasks.reports import report_added_linac


@flow(name="add-linac", flow_run_name="add-linac-{serial}", description=__doc__, validate_parameters=True)
def add_linac(
    serial: Annotated[
        Serial,
        Field(
            title="Serial",
            description="Serial number of the linac, or another unique name that never changes, such as 4299.",
        ),
    ],
    address: Annotated[
        Address,
        Field(title="Address", description="Hospital DNS IP address that the linac's NSS was given, such as 192.168.17.40."),
    ],
    site: Annotated[str, Field(title="Site", description="Name of the Site block of the site where the linac stands.")],
    backup_folder: Annotated[
        str | None,
        Field(
            title="Backup folder",
            description=r"Folder of the NSS's diagnostic backups. Left empty: \\<address>\Backup\TCS, as the NSS shares it.",
        ),
    ] = None,
    nss_credentials: Annotated[
        str | None,
        Field(
            title="NSS credentials",
            description="Name of the SMB credentials block with the NSS account; empty for a local or mounted folder.",
        ),
    ] = None,
    icom_port: Annotated[
        int, Field(ge=1, le=65535, title="iCom port", description="Port of the iCom service, 1706 on every real linac.")
    ] = ICOM_PORT,
    dry_run: Annotated[
        bool, Field(title="Dry run", description="Check everything and say what would be done, but change nothing.")
    ] = False,
) -> None:
    where = load_site(site)
    linac = Linac(
        serial=serial,
        address=address,
        port=icom_port,
        site=where,
        backup=Share(
            path=backup_folder or rf"\\{address}\Backup\TCS",
            credentials=SmbCredentials.load(nss_credentials) if nss_credentials else None,
        ),
    )
    checks = [check_icom(linac), check_backup(linac), check_records(where.records)]
    failed = [check for check in checks if check.outcome is Outcome.FAIL]
    done: list[str] = []
    error = ""
    try:
        if not failed and not dry_run:
            done.append(save_linac(linac))
            done.append(make_capture_deployment(linac))
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
