"""A hospital site: where its records go and by which clock it lives."""

import zoneinfo

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from blocks.share import Share

DEFAULT_WORK_POOL = "linac-flows"
"""The pool that `python run.py serve` gives a worker to."""


class Site(Block):
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
