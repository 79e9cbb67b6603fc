"""Which kind of folder a path means."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Protocol

from linac.errors import LinacError, SetupError
from linac.transport.credentials import Credentials
from linac.transport.paths import Folder, LocalFolder, split_name

SMB_PORT = 445
TIMEOUT_SECONDS = 30.0
"""Longest wait for a sign of life of a server."""

_WITH_PORT = re.compile(r"(?P<host>[^:@]+)[:@](?P<port>[0-9]+)")

_UNC = re.compile(r"[\\/]{2}([^\\/]+)[\\/]+([^\\/]+)((?:[\\/].*)?)\Z", re.DOTALL)


class Line(Protocol):
    """A connection that is open, used like a socket: by one thread that reads and others that write."""

    def settimeout(self, seconds: float, /) -> None: ...
    def send(self, data: memoryview, /) -> int: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class Way(Protocol):
    """Connections to one server, such as `linac.transport.ssh_route.Route`."""

    def dial(self) -> Line:
        """A connection, made within a bounded time. Raises `UnreachableError` where the way or the server is away."""

    def failure(self, seconds: float) -> LinacError | None:
        """Why nothing comes through, or None where the gateway gives a sign of life within so many seconds."""

    def close(self) -> None:
        """End all connections, without waiting for anybody."""


class Gateway(Protocol):
    """What leads to a server that cannot be reached directly, such as `linac.transport.ssh.Gateway`."""

    def route(self, host: str, port: int) -> Way:
        """The way to `host`, `port`. Nothing is connected yet."""


def split_unc(path: str) -> tuple[str, str, str] | None:
    r"""Server, share and the path below it of a UNC path; None if it is none.

    >>> split_unc(r"\\192.168.17.40\Backup\TCS"), split_unc("//nss/Backup/"), split_unc("D:/records")
    (('192.168.17.40', 'Backup', 'TCS'), ('nss', 'Backup', ''), None)
    """
    found = _UNC.match(path)
    if found is None or found[1] in ("?", "."):
        return None
    return found[1], found[2], "/".join(_parts(found[3]))


def _parts(text: str) -> Iterator[str]:
    for part in re.split(r"[\\/]+", text):
        if part == "..":
            raise SetupError(f"The path holds '..' ({text}). Give it without, from the share on.")
        if part not in ("", "."):
            yield part


def connect(
    path: str | os.PathLike[str],
    credentials: Credentials | None = None,
    port: int = SMB_PORT,
    gateway: Gateway | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Folder:
    r"""The folder at `path`: a local path, a mapped drive, or a UNC path as in `\\server\share\folder`.

    A UNC path is opened by the operating system where that can do it (Windows) and neither credentials nor a port nor a
    gateway are given; otherwise by SMB right from here, on any system. `timeout`: seconds without a sign of life of the server
    after which it counts as hung; what the operating system opens goes by its own (Windows: a minute or so). Nothing is connected
    yet: the first use does that.

    Raises `SetupError` for a relative path (it would depend on where a worker happens to run), for a path of Windows on another
    system, for a gateway or credentials with a local path, for a UNC path without credentials where the operating system cannot
    open it by itself, and for a path, a port or a timeout that cannot be.
    """
    text = os.fspath(path)
    check_numbers(port, timeout)
    if not isinstance(credentials, Credentials | None):
        raise SetupError("The credentials are none. Give them as Credentials(user, password, domain).")  # never what they hold
    _check_letters(text)
    unc = split_unc(text)
    if unc is not None:
        _check_share(text, unc[0], unc[1])
    if unc is None:
        if text.replace("/", "\\").startswith("\\\\") and not text.startswith(("\\\\?\\", "\\\\.\\")):
            raise SetupError(rf"The path {text!r} names a server but no share. Write it as in '\\server\share\folder'.")
        if not Path(text).is_absolute() and not PureWindowsPath(text).is_absolute():
            raise SetupError(f"The folder {text!r} is not an absolute path. Give it from the root or the drive letter on.")
        if os.name != "nt" and not Path(text).is_absolute():
            raise SetupError(
                f"{text} is a path of Windows, and this computer does not run Windows. Give the folder's path on this computer, "
                r"as in '/srv/records', or that of the share, as in '\\server\share\folder'."
            )
        if gateway is not None or credentials is not None or port != SMB_PORT:
            raise SetupError(
                f"{text} is a folder of this computer, so credentials, a port or a gateway mean nothing for it. Leave them "
                r"out, or give the share's own path, as in '\\server\share\folder'."
            )
        return LocalFolder(text)
    if os.name == "nt" and credentials is None and gateway is None and port == SMB_PORT:
        return LocalFolder(text)
    if os.name != "nt" and credentials is None:
        raise SetupError(
            f"{text} is a share, which this operating system does not open by itself. Give the account that opens it "
            "(credentials), or mount the share and give the folder where it is mounted."
        )
    from linac.transport.smb import SmbFolder  # here: recording and the simulator do without smbprotocol

    server, share, below = unc
    return SmbFolder(server, share, below, credentials, port=port, gateway=gateway, timeout=timeout)


def check_numbers(port: int, timeout: float) -> None:
    """Raise `SetupError` for a port that is none, and for a timeout that is no time, or no end."""
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise SetupError(f"{port!r} is no port. Give one from 1 to 65535; file sharing (SMB) has {SMB_PORT}, SSH 22.")
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:  # NaN is neither
        raise SetupError(
            f"Nobody can wait for {timeout} seconds. Give a timeout of more than 0 s; {TIMEOUT_SECONDS:.0f} s is usual."
        )


def _check_letters(text: str) -> None:
    """Raise `SetupError` where the operating system could not even be asked for a path."""
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise SetupError(f"The path {text!r} holds a character that no path can hold. Type it anew.")


def _check_share(text: str, server: str, share: str) -> None:
    """Raise `SetupError` for what people write where server and share should stand."""
    found = _WITH_PORT.fullmatch(server)
    if found is not None:
        raise SetupError(
            f"The path {text!r} holds the port of the server. Give the port by itself, {found['port']} in the field for it, and "
            rf"the path without, as in '\\{found['host']}\{share}'."
        )
    if share.upper() == "IPC$":
        raise SetupError(
            f"The path {text!r} names IPC$, which holds no files: servers keep it for messages. Give the share that holds the "
            "files."
        )
    if server in (".", "..") or share in (".", ".."):
        raise SetupError(rf"The path {text!r} names no server and share. Write it as in '\\server\share\folder'.")
    split_name(share)
