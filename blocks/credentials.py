"""Accounts: what a login needs, kept encrypted by the Prefect server."""

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, model_validator


class SmbCredentials(Block):
    """The account that opens an SMB share, for instance the NSS account that the Elekta engineer supplies.

    Example:
        ```python
        from blocks import SmbCredentials

        credentials = SmbCredentials.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "SMB credentials"
    _block_type_slug = "smb-credentials"

    username: str = Field(title="User name", description="Name of the account, without its domain, for example 'icomreader'.")
    password: SecretStr = Field(description="Password of the account; it is stored encrypted and never shown again.")
    domain: str = Field(
        default="",
        description="Windows domain of the account, for example 'HOSPITAL'; leave it empty for an account of the server itself.",
    )


class SshGateway(Block):
    """A computer at another site that lets us through to that site's linacs and shares by SSH.

    Example:
        ```python
        from blocks import SshGateway

        gateway = SshGateway.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "SSH gateway"
    _block_type_slug = "ssh-gateway"

    host: str = Field(description="Name or address of the gateway, for example 'physics-server.nbcc.example'.")
    port: int = Field(default=22, ge=1, le=65535, description="Port of its SSH service, for example 38471.")
    username: str = Field(title="User name", description="Account on the gateway, for example 'tunnel'.")
    private_key: SecretStr | None = Field(
        default=None,
        title="Private key",
        description="Private key of that account in OpenSSH format; leave it empty where an SSH agent or a key file holds it.",
    )
    key_file: str | None = Field(
        default=None,
        title="Key file",
        description="Path of a private key file on the worker's computer, for example 'D:\\linac-flows\\id_ed25519'.",
    )
    host_key: str = Field(
        title="Host key",
        description="Public key of the gateway, for example 'ssh-ed25519 AAAAC3Nz...'; whoever shows another key is refused.",
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.private_key is not None and self.key_file:
            raise ValueError("Give the private key or the path of a key file, not both.")
        return self
