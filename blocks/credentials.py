"""Accounts: what a login needs, kept encrypted by the Prefect server."""

from pathlib import Path
from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator, model_validator

from blocks.schema import OneSchema
from linac.errors import LinacError, SetupError
from linac.transport.ssh import Gateway, shown_key
from linac.transport.ssh_keys import host_keys


class SmbCredentials(OneSchema, Block):
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


class SshGateway(OneSchema, Block):
    """A computer at another site that lets us through to that site's linacs and shares by SSH.

    Example:
        ```python
        from blocks import SshGateway

        gateway = SshGateway.load("BLOCK_NAME")
        print("\\n".join(gateway.check("192.168.17.40", 445)))
        ```
    """

    _block_type_name = "SSH gateway"
    _block_type_slug = "ssh-gateway"

    host: str = Field(min_length=1, description="Name or address of the gateway, for example 'physics-server.nbcc.example'.")
    port: int = Field(default=22, ge=1, le=65535, description="Port of its SSH service, for example 38471.")
    username: str = Field(min_length=1, title="User name", description="Account on the gateway, for example 'tunnel'.")
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
    passphrase: SecretStr | None = Field(
        default=None,
        description="Passphrase that protects the private key or the key file; leave it empty where there is none.",
    )
    host_key: str = Field(
        title="Host key",
        description=(
            "Public key of the gateway, for example 'ssh-ed25519 AAAAC3Nz...'; whoever shows another key is refused. "
            "`.venv/bin/python -m linac.transport key HOST --port PORT` (on Windows `.venv\\Scripts\\python`) prints it for you "
            "to confirm."
        ),
    )

    @field_validator("host", "username", "host_key")
    @classmethod
    def _trimmed(cls, text: str) -> str:
        return text.strip()

    @field_validator("host_key")
    @classmethod
    def _readable(cls, text: str) -> str:
        try:
            host_keys(text)
        except SetupError as error:
            raise ValueError(str(error)) from None
        return text

    @field_validator("private_key", "passphrase")
    @classmethod
    def _none_if_empty(cls, secret: SecretStr | None) -> SecretStr | None:
        """What a form sends for a field that was left empty."""
        return secret if secret is not None and secret.get_secret_value().strip() else None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.private_key is not None and self.key_file:
            raise ValueError("Give the private key or the path of a key file, not both.")
        return self

    def open(self) -> Gateway:
        """The gateway, ready to be used: `with gateway.open().forward(host, port) as (host, port)`. Nothing is connected yet.

        Raises `SetupError` where the host key, the private key or its passphrase cannot be used.
        """
        key: str | Path | None = None
        if self.private_key is not None:
            key = self.private_key.get_secret_value()
        elif self.key_file and self.key_file.strip():
            key = Path(self.key_file.strip().strip('"'))
        return Gateway(
            self.host,
            self.port,
            self.username,
            self.host_key,
            key=key,
            passphrase=self.passphrase.get_secret_value() if self.passphrase else None,
        )

    def check(self, target_host: str = "", target_port: int = 445) -> list[str]:
        """What works and what does not, a line each, in an operator's words; the last line is the first trouble, if there is one.

        With a `target_host`, also whether the gateway can reach that host and port.
        """
        lines = []
        try:
            pinned = host_keys(self.host_key)
            shown = shown_key(self.host, self.port, pinned[0].kind)
            lines.append(f"ok: {self.host} answers on port {self.port} and speaks SSH.")
            gateway = self.open()
            if shown in pinned:
                lines.append(f"ok: it shows the host key of this block, {shown.kind} {shown.fingerprint}.")
            link = gateway.connect()
            try:
                lines.append(f"ok: it lets {self.username!r} in.")
                if target_host:
                    link.open((target_host, target_port)).close()
                    lines.append(f"ok: through it, {target_host} port {target_port} answers.")
            finally:
                link.close()
        except LinacError as error:
            lines.append(f"trouble: {error}")
        return lines
