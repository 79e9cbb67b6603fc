"""A linac in service: `add-linac` makes this block, the other flows read it."""

import re
from datetime import date
from enum import Enum
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated

from prefect.blocks.core import Block
from pydantic import AfterValidator, Field

from blocks.credentials import SmbCredentials, SshGateway
from blocks.schema import OneSchema
from blocks.share import Share
from blocks.site import Site
from linac.errors import SetupError
from linac.provision import services

ICOM_PORT = 1706
"""TCP port of the iCom service on every NSS (facts-icom.md: PyMedPhys's listener, certain)."""

SERIAL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""Names and folders are made of it: letters, digits, dash, underscore."""


def checked_serial(serial: str) -> str:
    """The serial without blanks around it. Raises `ValueError` where it cannot be part of a file name."""
    serial = serial.strip()
    if not SERIAL_PATTERN.fullmatch(serial):
        raise ValueError("A serial or unique name has 1 to 40 letters, digits, dashes or underscores, for example '4299'.")
    return serial


def checked_address(address: str) -> str:
    """The address without blanks around it. Raises `ValueError` where it is neither an IP address nor a host name."""
    try:
        return services.checked_address(address.strip())
    except SetupError as error:
        raise ValueError(str(error)) from None


Serial = Annotated[str, AfterValidator(checked_serial)]
Address = Annotated[str, AfterValidator(checked_address)]
Port = Annotated[int, Field(ge=1, le=65535)]


def block_name(serial: str) -> str:
    """Name of a linac's block: `linac-4299`. Block names know lower case, digits and dashes only.

    >>> block_name("Versa_HD-2")
    'linac-versa-hd-2'
    """
    return "linac-" + serial.lower().replace("_", "-")


ENERGY_PATTERN = re.compile(r"[1-9]\d?( ?(MV|MeV|FFF|MV FFF))?", re.IGNORECASE)


class Service(Enum):
    """What keeps a linac's recording running."""

    WORKER = "prefect worker"
    NSSM = "nssm"
    SYSTEMD = "systemd"


def checked_energy(energy: str) -> str:
    """An energy as PyMedPhys's configuration has it. Raises `ValueError` for what is none."""
    energy = " ".join(energy.split())
    if not ENERGY_PATTERN.fullmatch(energy):
        raise ValueError("An energy is a number, for example '6', '10 FFF' or '12 MeV'.")
    return energy


def checked_host(host: str) -> str:
    """A computer's name without blanks around it, or empty. Raises `ValueError` where it is no name."""
    if not host.strip():
        return ""
    try:
        return checked_address(host)
    except ValueError:
        text = "A capture host is a computer's name such as nbccc-capture, or its IP address such as 192.168.17.10."
        raise ValueError(text) from None


Energy = Annotated[str, AfterValidator(checked_energy)]
Host = Annotated[str, AfterValidator(checked_host)]


class Linac(OneSchema, Block):
    """An Elekta linac that is recorded and indexed.

    Example:
        ```python
        from blocks import Linac

        linac = Linac.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Linac"
    _block_type_slug = "linac"

    serial: Serial = Field(description="Serial number of the linac, or another unique name that never changes, such as '4299'.")
    address: Address = Field(description="Hospital DNS IP address of the linac's NSS, for example '192.168.17.40'.")
    port: Port = Field(default=ICOM_PORT, description="Port of the iCom service, 1706 on every real linac.")
    site: Site = Field(description="Site where the linac stands.")
    backup: Share = Field(description="Share where the NSS leaves its diagnostic backups, the files named 'SDD+...zip'.")
    service: Service = Field(
        default=Service.WORKER,
        description="What keeps the recording running: 'prefect worker', a Windows service by 'nssm', or 'systemd'.",
    )
    capture_host: Host = Field(
        default="",
        title="Capture host",
        description="Name of the computer that records this linac; leave it empty for the site's.",
    )
    energies: list[Energy] = Field(
        default_factory=list, description="Energies of the linac for PyMedPhys's configuration, for example '6' and '10 FFF'."
    )
    iview_alias: str = Field(
        default="",
        max_length=64,
        title="iView alias",
        description="Name of the linac in the iView's database, for example '4299_iView'; leave it empty if it has none.",
    )
    service_folder: str = Field(
        default="",
        title="Folder for service files",
        description="Folder where add-linac leaves the service files for IT; empty, it is 'services' on the records share.",
    )
    capture_login: SshGateway | None = Field(
        default=None,
        title="SSH login of the capture host",
        description="Account that may install services on the capture host, where add-linac does; else leave it to IT.",
    )
    service_account: SmbCredentials | None = Field(
        default=None,
        title="Account of the service",
        description="Account that runs a Windows service and may write the records; empty, it stays as it is there.",
    )
    in_service: date | None = Field(
        default=None,
        title="In service since",
        description="Day on which add-linac saw messages come through the whole chain for the first time; it fills this in.",
    )

    @property
    def recorded_by(self) -> str:
        """Name of the computer that records this linac; empty where it is the one of the site's worker."""
        return self.capture_host or self.site.capture_host

    @property
    def spool(self) -> str:
        """Folder for its journals on the computer that records it, as that one's system writes it.

        A service's computer may have another system than the site's worker, so that the worker's folder is none there.
        """
        if self.service is Service.WORKER:
            return self.site.spool
        path = self.site.capture_spool.strip() or self.site.spool
        pure = PureWindowsPath(path) if self.service is Service.NSSM else PurePosixPath(path)
        return path if pure.is_absolute() else services.DEFAULTS[self.service.value]["spool"]
