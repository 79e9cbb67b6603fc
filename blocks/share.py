"""A folder that flows read or write, and how to reach it."""

import contextlib
import re
import uuid
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from blocks.credentials import SmbCredentials, SshGateway
from blocks.schema import OneSchema
from linac.errors import LinacError
from linac.transport import Credentials, Folder, connect
from linac.transport.connecting import split_unc


class Line(NamedTuple):
    """One line of a check: what was tried, whether it works, and what it showed or what to do.

    >>> print(Line("Listing it", True, "12 files and folders."))
    ok: Listing it: 12 files and folders.
    """

    what: str
    ok: bool
    seen: str

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'trouble'}: {self.what}: {self.seen}"


class Share(OneSchema, Block):
    r"""A local folder, a mapped drive or a UNC path, with the account and the gateway that it needs, if any.

    Example:
        ```python
        from blocks import Share

        share = Share.load("BLOCK_NAME")
        print(*share.check(), sep="\n")
        with share.connect() as folder:
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
    def _whole(cls, path: str) -> str:
        path = path.strip().strip('"').strip()
        if not path:
            raise ValueError(r"Give a folder, as in 'D:\physics\records' or '\\server\share\folder'.")
        if re.fullmatch(r"[\\/]{2}[^\\/]+[\\/]*", path):
            raise ValueError(rf"{path!r} names a server but no share. Give both, as in '\\server\share\folder'.")
        if not Path(path).is_absolute() and not PureWindowsPath(path).is_absolute():
            raise ValueError(
                rf"{path!r} would depend on where a worker happens to run. Give the whole path, as in 'D:\physics\records', "
                r"'/srv/records' or '\\server\share\folder'."
            )
        return path

    def connect(self, below: str = "") -> Folder:
        """The folder, or the one of that name below it, ready for use; to be closed by the caller.

        Nothing is connected before its first use. Raises `SetupError` where path, account and gateway do not go together.
        """
        account = None
        if self.credentials is not None:
            given = self.credentials
            account = Credentials(given.username.strip(), given.password.get_secret_value(), given.domain.strip())
        folder = connect(self.path, account, self.port, self.gateway.open() if self.gateway is not None else None)
        return folder.below(below) if below else folder

    def check(self, write: bool = False) -> list[Line]:
        """What works and what does not, step by step, in an operator's words; the first step that fails is the last line.

        With `write` it also writes, replaces and removes a small file, as the records need it; without, it changes nothing.
        """
        lines: list[Line] = []
        doing = f"Opening {self.path}"
        try:
            unc = split_unc(self.path)
            if self.gateway is not None and unc is not None:
                for text in self.gateway.check(unc[0], self.port):
                    state, _, seen = text.partition(": ")
                    lines.append(Line(f"Gateway {self.gateway.host}", state == "ok", seen))
                    if state != "ok":
                        return lines
            with self.connect() as folder:
                folder.check()
                lines.append(Line(doing, True, self._opened_as()))
                doing = "Listing it"
                count = len(folder.list())
                lines.append(Line(doing, True, f"{count} files and folders."))
                doing = "Free space"
                lines.append(Line(doing, True, f"{folder.free() / 2**30:.0f} GiB."))
                if write:
                    doing = "Writing, replacing and removing a file in it"
                    lines.append(Line(doing, *_written(folder)))
        except LinacError as error:
            lines.append(Line(doing, False, str(error)))
        return lines

    def _opened_as(self) -> str:
        if self.credentials is None:
            return "this computer opens it by itself."
        return f"it answers on port {self.port}, takes the account {self.credentials.username!r}, and the folder is there."


def _written(folder: Folder) -> tuple[bool, str]:
    name = f"linac-flows-check-{uuid.uuid4().hex[:8]}.txt"
    try:
        folder.write(name, b"1")
        folder.write(name, b"2")
        whole = folder.read(name) == b"2"
    finally:
        with contextlib.suppress(LinacError):
            folder.remove(name)
    if not whole:
        return False, "a file that was replaced still shows its old content. Turn off offline caching of the share."
    return True, "it can be written."
