"""What shall run as a service, checked: the linacs of a site, or a Prefect worker. `windows` and `systemd` make files of it."""

import ipaddress
import ntpath
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from linac.capture.connection import ICOM_PORT
from linac.capture.spool import Spool
from linac.errors import SetupError

NSSM, SYSTEMD = "nssm", "systemd"
KINDS = (NSSM, SYSTEMD)

RESTART_SECONDS = 300
"""How long the service manager waits before it starts an ended program again (AppRestartDelay of the old procedure, in ms there).

A lost connection never comes so far: the listener makes it anew by itself, at its own measured pace. What ends the whole
program is a wrong set-up or a fault, which trying more often does not mend; and a start is a new connection to the linac, of
which there shall be few (PyMedPhys issue 849)."""

RESTART_WORKER_SECONDS = 10
"""The same for a Prefect worker, which has no connection to a linac."""

STOP_SECONDS = 40
"""How long a stop may take: 10 s to end the connection in order, 10 s to archive what came last, and a slow computer."""

TOP = "linac-listener"
"""A bundle's folder."""

LINUX_HOME = f"/opt/{TOP}"
"""Where the units for Linux expect it."""

WINDOWS_HOME = rf"C:\Program Files\{TOP}"
r"""Where `push` puts it on Windows. Who is no administrator may not change what lies there; right below C:\ he may."""

_LABEL = "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_IPV6 = re.compile(r"[A-Fa-f0-9:.]*:[A-Fa-f0-9:.]*")
_MEANT_AS_IP = re.compile(r"(.*\.)?[0-9]+|[0-9]+(\.[0-9]+){2}\..*|[0-9][^.]*(\.[0-9][^.]*)+")
"""Numbers that somebody meant as an IP address: the last part is a number (no DNS name ends so), the first three are, or each
part begins with a digit: 192.168.17.400, 192.168.17.4O, 192.168.17."""

_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/\[\]-]+")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_WINDOWS_ACCOUNT = re.compile(r"([A-Za-z0-9.][A-Za-z0-9 ._-]*\\)?[A-Za-z0-9][A-Za-z0-9 ._@$-]*|")
_FORBIDDEN_ON_WINDOWS = '<>"|?*'


def checked_address(text: str) -> str:
    """`text`, if it is an IP address or may be a host's name. Raises `SetupError`, also for a mistyped IP address.

    >>> checked_address("192.168.17.40"), checked_address("nss-4299.nbcc.example")
    ('192.168.17.40', 'nss-4299.nbcc.example')
    >>> checked_address("192.168.17.4O")
    Traceback (most recent call last):
    ...
    linac.errors.SetupError: '192.168.17.4O' is not an address. Give the NSS's hospital IP address, for example 192.168.17.40.
    """
    try:
        if ":" not in text or _IPV6.fullmatch(text):  # not what may stand behind a "%" there
            return str(ipaddress.ip_address(text))
    except ValueError:
        if _HOST.fullmatch(text) and not _MEANT_AS_IP.fullmatch(text):
            return text
    raise SetupError(f"{text!r} is not an address. Give the NSS's hospital IP address, for example 192.168.17.40.")


@dataclass(frozen=True)
class Listening:
    """One linac to listen to. Raises `SetupError` where the serial or the address cannot be right."""

    serial: str
    address: str
    port: int = ICOM_PORT

    def __post_init__(self) -> None:
        Spool(Path(), self.serial)  # says what a serial may look like
        object.__setattr__(self, "address", checked_address(self.address))
        if not 1 <= self.port <= 65535:
            raise SetupError(f"{self.port} is not a port. The iCom service of a linac has port {ICOM_PORT}.")


@dataclass(frozen=True)
class Services:
    """The listeners of one computer, all with the same records and spool.

    `records`: the records folder (or its `iCom` folder), a local path or a share; `spool`: a folder on a local disk; `python`:
    the folder of the Python to use, relative to the files' own folder, or absolute; `log_on`: the account that runs the
    services (no password: services-install.bat asks for it); `program`: where this project's modules lie, on Linux, if that
    Python does not find them by itself. Empty fields get the kind's defaults: with those the files are a bundle's, and lie in
    its folder. Raises `SetupError` where something cannot be right.
    """

    kind: str
    linacs: tuple[Listening, ...]
    records: str
    spool: str = ""
    python: str = ""
    log_on: str = ""
    program: str = ""

    def __post_init__(self) -> None:
        if self.kind == SYSTEMD and not self.python and not self.program:
            object.__setattr__(self, "program", f"{LINUX_HOME}/program")
        _defaults(self, self.kind)
        if not self.linacs:
            raise SetupError("No linac was named. Give --serial and --address, or --linac SERIAL=ADDRESS for each linac.")
        _different("serial", [linac.serial.lower() for linac in self.linacs])
        _different("address", [f"{linac.address.lower()} port {linac.port}" for linac in self.linacs])
        object.__setattr__(self, "records", _path(self.kind, "records folder", self.records))

    @property
    def icom(self) -> str:
        """The folder in which `live/` and `patients/` appear: the records folder's `iCom`."""
        pure: PurePath = PureWindowsPath(self.records) if self.kind == NSSM else PurePosixPath(self.records)
        return self.records if pure.name.lower() == "icom" else str(pure / "iCom")

    def listen(self, linac: Listening) -> list[str]:
        """The arguments of `python -m linac.icom` for one linac."""
        port = [] if linac.port == ICOM_PORT else ["--port", str(linac.port)]
        return ["listen", linac.address, self.icom, "--serial", linac.serial, *port, "--spool", self.spool]


def _different(what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise SetupError(f"Two linacs have the {what} {twice[0]}. A linac must have one listener only: correct one of them.")


@dataclass(frozen=True)
class Worker:
    """A Prefect worker as a service.

    `project`: the folder of this project; `api_url`: the Prefect server's; `pool`: its work pool; `python`: by default the
    project's own. `records`: the records folder of the site, if it is to be writable under systemd. Raises `SetupError`.
    """

    kind: str
    project: str
    api_url: str = "http://127.0.0.1:4200/api"
    pool: str = "linac-flows"
    records: str = ""
    spool: str = ""
    python: str = ""
    log_on: str = ""

    def __post_init__(self) -> None:
        project = _path(self.kind, "project folder", self.project)
        object.__setattr__(self, "project", project)
        if not self.python:
            at = ntpath.join(project, ".venv", "Scripts") if self.kind == NSSM else posixpath.join(project, ".venv/bin")
            object.__setattr__(self, "python", at)
        _defaults(self, self.kind)
        if self.records:
            object.__setattr__(self, "records", _path(self.kind, "records folder", self.records))
        if not _POOL.fullmatch(self.pool):
            raise SetupError(f"{self.pool!r} is not a work pool's name. Prefect's UI lists them under Work Pools.")
        if not _URL.fullmatch(self.api_url):
            raise SetupError(f"{self.api_url!r} is not a Prefect server's address. It looks like http://127.0.0.1:4200/api.")


DEFAULTS: Mapping[str, Mapping[str, str]] = {
    NSSM: {"spool": r"C:\ProgramData\linac-flows\spool", "python": "python", "log_on": ""},
    SYSTEMD: {"spool": "/var/lib/linac-flows/spool", "python": "/usr/bin", "log_on": "linac-flows"},
}
"""As in a bundle: on Windows its own Python, beside the files, on Linux the server's. On Windows the account is asked for at the
installation."""


def _defaults(which: Services | Worker, kind: str) -> None:
    if kind not in KINDS:
        raise SetupError(f"There is no service kind {kind!r}. Choose {NSSM} (Windows) or {SYSTEMD} (Linux).")
    for name, value in DEFAULTS[kind].items():
        object.__setattr__(which, name, getattr(which, name) or value)
    object.__setattr__(which, "spool", _path(kind, "spool", which.spool))
    object.__setattr__(which, "python", _path(kind, "Python folder", which.python, relative=kind == NSSM))
    if kind == NSSM:
        for what, value in (("spool", which.spool), ("Python folder", which.python)):
            if not value.isascii():
                raise SetupError(
                    f"The {what} {value} has letters that batch files do not hold safely. Choose a folder with plain letters, "
                    "for example below C:\\ProgramData; the records folder may have any name."
                )
        if PureWindowsPath(which.spool).drive.startswith("\\\\"):
            raise SetupError(
                f"The spool {which.spool} is on a share. Choose a local disk: the recording must not wait for a network."
            )
        if not _WINDOWS_ACCOUNT.fullmatch(which.log_on):
            raise SetupError(
                f"{which.log_on!r} is not an account's name. It looks like HOSPITAL\\icom-recorder, in plain letters."
            )
    elif not _USER.fullmatch(which.log_on):
        raise SetupError(f"{which.log_on!r} is not a name for a Linux account. Use small letters, digits, '-' and '_'.")


def _path(kind: str, what: str, text: str, *, relative: bool = False) -> str:
    """A folder's path without separators at its end. Raises `SetupError` where it is none for that system."""
    windows = kind == NSSM
    pure: PurePath = PureWindowsPath(text) if windows else PurePosixPath(text)
    example = r"\\server\share\folder or D:\folder" if windows else "/mnt/records"
    if not text.strip() or not text.isprintable() or (windows and any(letter in _FORBIDDEN_ON_WINDOWS for letter in text)):
        raise SetupError(f"{text!r} cannot be a {what}. Give a path like {example}.")
    if not pure.is_absolute() and not (relative and not pure.drive and not pure.root and ".." not in pure.parts):
        raise SetupError(
            f"The {what} {text} is not an absolute path of {'Windows' if windows else 'Linux'}. Give one like {example}."
        )
    return str(pure)
