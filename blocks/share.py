"""A folder that flows read or write, and how to reach it."""

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from blocks.credentials import SmbCredentials, SshGateway
from linac.errors import SetupError
from linac.transport import Folder, connect


class Share(Block):
    r"""A local folder, a mapped drive or a UNC path, with the account and the gateway that it needs, if any.

    Example:
        ```python
        from blocks import Share

        with Share.load("BLOCK_NAME").connect() as folder:
            print([entry.name for entry in folder.list("SDD+*.zip")])
        ```
    """

    _block_type_name = "Share"
    _block_type_slug = "share"

    path: str = Field(
        min_length=1,
        description=r"Folder or UNC path, for example '\\192.168.17.40\Backup\TCS' or 'D:\physics\records'.",
    )
    port: int = Field(default=445, ge=1, le=65535, description="Port of the SMB service, 445 nearly everywhere.")
    credentials: SmbCredentials | None = Field(
        default=None, description="Account that opens the share; leave it empty for local folders."
    )
    gateway: SshGateway | None = Field(
        default=None, description="Gateway to go through; leave it empty where the share can be reached directly."
    )

    @field_validator("path")
    @classmethod
    def _trimmed(cls, path: str) -> str:
        return path.strip().strip('"')

    def connect(self, below: str = "") -> Folder:
        """The folder, or the one of that name below it, ready for use; to be closed by the caller.

        Raises `SetupError` where this version cannot reach it: it opens what the operating system opens by itself.
        """
        if self.gateway is not None or self.port != 445:
            raise SetupError(
                f"{self.path}: this version opens shares through the operating system only, without a gateway and on port 445. "
                "Mount the share on the worker's computer and give the mounted folder in its Share block."
            )
        return connect(f"{self.path.rstrip('/' + chr(92))}/{below}" if below else self.path)
