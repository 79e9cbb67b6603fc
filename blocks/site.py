"""A hospital site: where its records go and by which clock it lives."""

import zoneinfo
from typing import Literal

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, field_validator

from blocks.credentials import SshGateway
from blocks.schema import OneSchema
from blocks.share import Share

DEFAULT_WORK_POOL = "linac-flows"
"""The pool that `python run.py serve` gives a worker to."""


class Forward(BaseModel):
    """A port that leads through a gateway to a service on the other side."""

    model_config = ConfigDict(extra="forbid")
    """A field that is misspelt would be left out without a word, and the port be open to others than was meant."""

    direction: Literal["local", "remote"] = Field(
        description="Direction: 'local' listens on this site's computer and leads to the gateway's side, 'remote' the other way.",
    )
    listen_address: str = Field(
        default="127.0.0.1",
        title="Listen on address",
        description="Address to listen on: '127.0.0.1' for that computer alone, '*' for its whole network.",
    )
    listen_port: int = Field(ge=1, le=65535, title="Listen on port", description="Port to listen on, for example 44540.")
    target_host: str = Field(
        min_length=1, title="Target", description="Name or address that the forward leads to, for example '192.168.17.40'."
    )
    target_port: int = Field(ge=1, le=65535, title="Target's port", description="Port that it leads to, for example 445.")
    label: str = Field(default="", max_length=80, description="What it is for, in a few words, for example 'NSS of linac 4299'.")

    @field_validator("listen_address", "target_host", "label")
    @classmethod
    def _trimmed(cls, text: str) -> str:
        return text.strip()


class Site(OneSchema, Block):
    """A site with its records share, its time zone and the computer that records its linacs.

    Example:
        ```python
        from blocks import Site

        site = Site.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Site"
    _block_type_slug = "site"

    name: str = Field(min_length=1, description="Name of the site as people say it, for example 'NBCC'.")
    time_zone: str = Field(
        title="Time zone",
        description="IANA name of the site's time zone, for example 'Australia/Sydney'; nightly work runs by it.",
    )
    records: Share = Field(
        description="Share where iCom and TRF records are kept; its account must be allowed to write.",
    )
    spool: str = Field(
        min_length=1,
        title="Spool folder",
        description=(
            "Folder on a local disk of the computer that records the iCom streams, for example 'D:\\linac-flows\\spool'; "
            "what the linacs send is kept here until it is safe on the records share."
        ),
    )
    capture_host: str = Field(
        default="",
        title="Capture host",
        description=(
            "Name of the computer that records the iCom streams, for example 'nbccc-capture'; leave it empty where that is the "
            "computer of the site's Prefect worker."
        ),
    )
    capture_spool: str = Field(
        default="",
        title="Spool folder of services",
        description=(
            "Spool folder of the linacs that a Windows service or systemd records, for example 'D:\\linac-flows\\spool'; left "
            "empty, it is the spool folder above or, where that is a path of the other system, "
            "'C:\\ProgramData\\linac-flows\\spool' or '/var/lib/linac-flows/spool'."
        ),
    )
    iview: Share | None = Field(
        default=None,
        title="iView database",
        description="Share that the iViews mount and keep their database of images on; leave it empty where there is none.",
    )
    pymedphys_config: Share | None = Field(
        default=None,
        title="PyMedPhys configuration",
        description=(
            "Folder with PyMedPhys's config.toml, kept up to date by add-linac, for example 'C:\\Users\\physics\\.pymedphys'; "
            "leave it empty where nobody uses PyMedPhys's apps."
        ),
    )
    gateway: SshGateway | None = Field(
        default=None,
        title="Gateway of the tunnels",
        description="SSH gateway that the site's worker keeps its forwards up to; leave it empty where there are none.",
    )
    forwards: list[Forward] = Field(
        default_factory=list,
        description="Ports that flow site-tunnel keeps open through that gateway, for example from port 44540 to an NSS.",
    )
    work_pool: str = Field(
        default=DEFAULT_WORK_POOL,
        title="Work pool",
        description="Prefect work pool whose worker runs at this site, for example 'linac-flows'.",
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in zoneinfo.available_timezones():
            raise ValueError(f"{name!r} is no IANA time zone. Give one such as 'Europe/London' or 'Australia/Sydney'.")
        return name
