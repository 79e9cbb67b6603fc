"""add-linac: put a linac into service, at one button.

    prefect deployment run add-linac -p serial=4299 -p address=192.168.17.40 -p site=nbcc -p nss_credentials=nss-4299
    python -m flows.add_linac --serial 4299 --address 192.168.17.40 --site nbcc --nss-credentials nss-4299

It checks, plans, changes what the plan says, and waits for messages to come through. It changes nothing while a check fails. Run
it again at any time: the same answers change nothing, others change what differs, and what broke off half-way is finished.
"""

import sys

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.linac import ICOM_PORT, Service
from tasks.checks import STEADINESS_SECONDS, in_service_now, make_checklist
from tasks.command_line import run_from_command_line
from tasks.commission import put_into_service, wait_for_messages, wait_for_session
from tasks.forms import (
    AccountField,
    AddressField,
    AliasField,
    BackupField,
    CredentialsField,
    DoneByField,
    DryRunField,
    EnergiesField,
    GatewayField,
    HostField,
    LoginField,
    PortField,
    SerialField,
    ServiceField,
    ServiceFolderField,
    SessionField,
    SiteField,
    SmbPortField,
    SteadinessField,
    WaitField,
    make_linac,
)
from tasks.plan import carry_out_all
from tasks.record import Record
from tasks.steps import make_plan


@flow(name="add-linac", flow_run_name="add-linac-{serial}", description=__doc__)
def add_linac(
    serial: SerialField,
    address: AddressField,
    site: SiteField,
    nss_credentials: CredentialsField = "",
    backup_folder: BackupField = "",
    service: ServiceField = Service.WORKER,
    capture_host: HostField = "",
    energies: EnergiesField = [],  # noqa: B006 (Prefect shows it in the form and never changes it)
    iview_alias: AliasField = "",
    service_folder: ServiceFolderField = "",
    capture_login: LoginField = "",
    service_account: AccountField = "",
    steadiness_seconds: SteadinessField = STEADINESS_SECONDS,
    wait_seconds: WaitField = 120,
    wait_for_session_minutes: SessionField = 0,
    icom_port: PortField = ICOM_PORT,
    nss_gateway: GatewayField = "",
    nss_port: SmbPortField = 445,
    done_by: DoneByField = "",
    dry_run: DryRunField = False,
) -> State[None]:
    """Put a linac into service.

    Args:
        serial: Serial number of the linac, or another unique name that never changes, for example 4299. It has 1 to 40 letters,
            digits, dashes or underscores.
        address: Hospital DNS IP address that the linac's NSS was given, four numbers with dots between, for example
            192.168.17.40. A host's name or an IPv6 address is taken, too.
        site: Name of the Site block of the site where the linac stands, for example nbcc. Names of blocks have lower-case
            letters, digits and single dashes.
        nss_credentials: Name of the SMB credentials block with the NSS account, for example nss-4299 (lower-case letters,
            digits and single dashes). Leave it empty for a local or mounted backup folder.
        backup_folder: Folder of the NSS's diagnostic backups. Left empty, it is the folder TCS of the share Backup
            at that address.
        service: What keeps the recording running. With prefect worker it starts from here; with nssm or systemd there are
            service files for IT to install on the capture host, or they are installed by its SSH login below.
        capture_host: Name of the computer that records the iCom stream. Left empty, it is the site's capture host, or else the
            computer of the site's Prefect worker.
        energies: Energies of the linac for PyMedPhys's configuration, for example 6 and 10 FFF. Each is a number from 1 to 99,
            alone or with MV, MeV or FFF behind it.
        iview_alias: Name of the linac in the iView's database, for example 4299_iView. Leave it empty where there is no iView.
        service_folder: Folder where the service files for IT are written. Left empty, it is services on the records share.
        capture_login: Name of the SSH gateway block with an account that may install services on the capture host, for example
            nbccc-capture (lower-case letters, digits and single dashes). The service is then installed there by SSH. Leave it
            empty where hospital IT installs it.
        service_account: Name of the SMB credentials block with the account that runs a Windows service and may write the
            records, for example icom-recorder (lower-case letters, digits and single dashes). Left empty, the service's account
            stays as it is there, at first LocalSystem.
        steadiness_seconds: How many seconds, 1 to 3600, the network to the linac is watched before anything is changed. A
            minute shows the worst, a longer time at a busy hour shows more.
        wait_seconds: How many seconds, 0 to 3600, to wait, once everything is in place, for the first messages to reach the
            records share. With 0 nobody waits, and the linac is put into service by running this again.
        wait_for_session_minutes: How many minutes, 0 to 600, to wait for the first session to be archived. With 0 nobody waits
            for one.
        icom_port: Port of the iCom service, which is 1706 on every real linac.
        nss_gateway: Name of the SSH gateway block through which the NSS's shares are reached, for example nbcc-gateway
            (lower-case letters, digits and single dashes). Leave it empty where they can be reached directly.
        nss_port: Port of the NSS's shares, which is 445 on every real NSS; another one where a tunnel leads there.
        done_by: Name or initials of the person who adds the linac, which is printed on the commissioning record. Left empty,
            the record names the account of the worker only.
        dry_run: Check everything and show the plan with all differences, but change nothing.
    """
    linac = make_linac(
        serial=serial,
        address=address,
        site=site,
        nss_credentials=nss_credentials,
        nss_gateway=nss_gateway,
        backup_folder=backup_folder,
        icom_port=icom_port,
        nss_port=nss_port,
        service=service,
        capture_host=capture_host,
        energies=energies,
        iview_alias=iview_alias,
        service_folder=service_folder,
        capture_login=capture_login,
        service_account=service_account,
    )
    before = in_service_now(linac)
    record = Record(linac, dry_run, done_by, unfinished=before is not None and before.in_service is None)
    try:
        record.checklist = make_checklist(linac, steadiness_seconds)
        record.plan = make_plan(linac, site)
        record.refuse_if_anything_is_wrong()
        if not dry_run:
            carry_out_all(record.plan, record.done)
            record.waiting = wait_for_messages(linac, wait_seconds, record.chain)
            if wait_for_session_minutes and not record.waiting:
                record.chain.append(wait_for_session(linac, wait_for_session_minutes))
            if not record.waiting:
                record.linac = put_into_service(linac)
        return Completed(message=f"{record.verdict()} The record is the artifact {record.key}.".replace("**", ""))
    except BaseException as error:
        record.note_failure(error)
        raise
    finally:
        record.write()


if __name__ == "__main__":
    sys.exit(run_from_command_line(add_linac))
