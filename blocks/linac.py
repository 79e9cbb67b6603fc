"""A linac in service: `add-linac` makes this block, the other flows read it."""

import ipaddress
import re
from typing import Annotated

from prefect.blocks.core import Block
from pydantic import AfterValidator, Field

from blocks.share import Share
from blocks.site import Site

ICOM_PORT = 1706
"""TCP port of the iCom service on every NSS (facts-icom.md: PyMedPhys's listener, certain)."""

SERIAL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""Names and folders are made of it: letters, digits, dash, underscore."""

HOST_PATTERN = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")


def checked_serial(serial: str) -> str:
    """The serial without blanks around it. Raises `ValueError` where it cannot be part of a file name."""
    serial = serial.strip()
    if not SERIAL_PATTERN.fullmatch(serial):
        raise ValueError("A serial or unique name has 1 to 40 letters, digits, dashes or underscores, for example '4299'.")
    return serial


def checked_address(address: str) -> str:
    """The address without blanks around it. Raises `ValueError` where it is neither an IP address nor a host name."""
    address = address.strip()
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        numeric = re.fullmatch(r"[0-9.]+", address)
        if numeric or not HOST_PATTERN.fullmatch(address):
            text = "An address is an IP address such as 192.168.17.40, or the DNS name of the NSS."
            raise ValueError(text) from None
        return address


Serial = Annotated[str, AfterValidator(checked_serial)]
Address = Annotated[str, AfterValidator(checked_address)]
Port = Annotated[int, Field(ge=1, le=65535)]


def block_name(serial: str) -> str:
    """Name of a linac's block: `linac-4299`. Block names know lower case, digits and dashes only.

    >>> block_name("Versa_HD-2")
    'linac-versa-hd-2'
    """
    return "linac-" + serial.lower().replace("_", "-")


class Linac(Block):
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
