"""What the forms of add-linac and its siblings ask for: each field's title, its checks, and the linac that the answers make.

A field's description stands in its flow's docstring, where Prefect looks for it. As the title Prefect would show the
parameter's name; `json_schema_extra` gives a better one. Patterns are checked by the form; what a pattern cannot say is checked
when the run starts. The browser tells a pattern that is not met as it is, so each description has it in words.
"""

from typing import Annotated, Any

from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import get_call_parameters
from pydantic import Field, ValidationError

from blocks import Linac, Share, block_name, load
from blocks.linac import Address, Energy, Host, Port, Serial, Service
from linac.errors import SetupError
from tasks.provision import load_credentials, load_gateway, load_site

NAME = r"^\s*[a-z0-9]+(-[a-z0-9]+)*\s*$"

ENERGY = r"^\s*[1-9][0-9]?\s*([Mm][Vv]|[Mm][Ee][Vv]|([Mm][Vv]\s+)?[Ff][Ff][Ff])?\s*$"
"""What blocks.linac.checked_energy takes, for forms, whose patterns know no "either case"."""


def titled(title: str, **more: Any) -> Any:
    """A field that the form shows under this title."""
    return Field(json_schema_extra={"title": title, **more})


ADDRESS = r"^\s*([0-9]+(\.[0-9]+){3}|(?![0-9.]+\s*$)[A-Za-z0-9:][A-Za-z0-9:.-]{0,252})\s*$"
"""Four numbers, or what is not numbers alone: a host's name or an IPv6 address."""


SerialField = Annotated[Serial, titled("Serial number or unique name", pattern=r"^\s*[A-Za-z0-9][A-Za-z0-9_-]{0,39}\s*$")]
AddressField = Annotated[Address, titled("Hospital DNS IP address of the NSS", pattern=ADDRESS)]
SiteField = Annotated[str, titled("Site", pattern=NAME)]
CredentialsField = Annotated[str, titled("NSS credentials", pattern=f"^$|{NAME}")]
GatewayField = Annotated[str, titled("SSH gateway to the NSS", pattern=f"^$|{NAME}")]
BackupField = Annotated[str, titled("Backup folder of the NSS")]
ServiceField = Annotated[Service, titled("Recording kept running by")]
HostField = Annotated[Host, titled("Capture host")]
EnergiesField = Annotated[list[Annotated[Energy, titled("Energy", pattern=ENERGY)]], titled("Energies")]
AliasField = Annotated[str, Field(max_length=64), titled("iView alias")]
ServiceFolderField = Annotated[str, titled("Folder for service files")]
LoginField = Annotated[str, titled("SSH login of the capture host", pattern=f"^$|{NAME}")]
AccountField = Annotated[str, titled("Account of the service", pattern=f"^$|{NAME}")]
SteadinessField = Annotated[int, Field(ge=1, le=3600), titled("Watch the network for (seconds)")]
WaitField = Annotated[int, Field(ge=0, le=3600), titled("Wait for first messages (seconds)")]
SessionField = Annotated[int, Field(ge=0, le=600), titled("Wait for first session (minutes)")]
PortField = Annotated[Port, titled("iCom port")]
SmbPortField = Annotated[Port, titled("SMB port of the NSS")]
DoneByField = Annotated[str, Field(max_length=80), titled("Done by")]
DryRunField = Annotated[bool, titled("Dry run")]
ListField = Annotated[str, Field(min_length=1), titled("File with the linacs")]
DefaultSiteField = Annotated[str, titled("Site", pattern=f"^$|{NAME}")]


def check_answers(flow: Flow[..., Any], answers: dict[str, Any]) -> None:
    """Raise `SetupError` unless the answers fit the flow's form: a run that is made with others fails, named by lot."""
    try:
        flow.validate_parameters(get_call_parameters(flow.fn, (), answers))
    except ParameterTypeError as error:
        told = str(error).strip().replace("Flow run received invalid parameters", "These answers do not fit")
        raise SetupError(told.replace("Value error, ", "")) from None


def make_linac(
    serial: str,
    address: str,
    site: str,
    nss_credentials: str = "",
    nss_gateway: str = "",
    backup_folder: str = "",
    icom_port: int = 1706,
    nss_port: int = 445,
    service: Service = Service.WORKER,
    capture_login: str = "",
    service_account: str = "",
    **other: Any,
) -> Linac:
    """The linac that a form's answers describe, in service since when it was already.

    Raises `SetupError` for a site, credentials or a gateway that are not there, for a login that nothing is installed with, for a
    backup folder that is no whole path, and for an iView alias with a quote or a line break.
    """
    where = load_site(site.strip())
    account = load_credentials(nss_credentials.strip()) if nss_credentials.strip() else None
    gateway = load_gateway(nss_gateway.strip()) if nss_gateway.strip() else None
    login = load_gateway(capture_login.strip()) if capture_login.strip() else None
    if login is not None and service is Service.WORKER:
        raise SetupError(
            "The SSH login of the capture host installs a service there. Choose nssm (Windows) or systemd (Linux) for what keeps "
            "the recording running, or leave the login empty."
        )
    path = backup_folder.strip() or rf"\\{address}\Backup\TCS"
    try:
        backup = Share(path=path, port=nss_port, credentials=account, gateway=gateway)
    except ValidationError as error:
        raise SetupError(f"Backup folder of the NSS: {_told(error)}") from None
    alias = other.get("iview_alias", "")
    if not alias.isprintable() or any(mark in alias for mark in "\"'"):
        raise SetupError(
            "iView alias: it has a quote or a line break in it. Write the name as the iView shows it, as in 4299_iView."
        )
    linac = Linac(
        serial=serial,
        address=address,
        port=icom_port,
        site=where,
        backup=backup,
        service=service,
        capture_login=login,
        service_account=load_credentials(service_account.strip()) if service_account.strip() else None,
        **other,
    )
    before = load(Linac, block_name(linac.serial))
    if before is not None and (before.address.lower(), before.port) == (linac.address.lower(), linac.port):
        linac.in_service = before.in_service
    return linac


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, in the words of its check."""
    return error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
