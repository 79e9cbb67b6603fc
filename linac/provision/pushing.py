"""What pushing to a host needs of it, whichever system it has."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from linac.errors import SetupError

COMMAND_SECONDS = 60.0
INSTALL_SECONDS = 180.0

RUNNING, STARTING, STOPPED = "running", "starting", "stopped"
"""How a service is; stopped is everything that is neither, such as one that is not installed or waits for its next start."""

_SUM = re.compile(r"([0-9a-f]{64}) \*([A-Za-z0-9._/+-]+)")


class Host(Protocol):
    """What `linac.transport.ssh.Gateway` offers: a command line's exit status and output, and files copied whole."""

    def run(self, command: str, timeout: float = ..., given: bytes = ...) -> tuple[int, str]: ...

    def put(self, local: Path, remote: str, timeout: float = ...) -> None: ...

    def put_all(self, contents: Mapping[str, bytes], folder: str, timeout: float = ...) -> None: ...


class System(Protocol):
    """A host with its system's ways. `serial` is always a linac's; what fails raises `SetupError` with what the host said."""

    home: str

    def service(self, serial: str) -> str:
        """What its service is called."""

    def found(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """The files of the bundle there by its list, and their checksums; none for one that is missing or damaged.

        `files`: what shall be there, where only a file's size can be seen.
        """

    def in_use(self, name: str, running: Sequence[str]) -> bool:
        """Whether a file cannot be replaced while the listeners of these linacs run."""

    def place(self, files: Mapping[str, bytes], changed: Sequence[str], gone: Sequence[str]) -> None:
        """Bring the folder from what it is to `files`, of which `changed` differ; `gone` are there and shall not be."""

    def install(self, password: str | None) -> str:
        """Install and start all services of the bundle; what the host says. `password`: of their account, if it has one."""

    def state(self, serial: str) -> tuple[str, str]:
        """How its service is, and what the host says of it."""

    def status(self, serial: str) -> str:
        """What `python -m linac.icom status` says there."""

    def uninstall(self, serial: str) -> str:
        """Stop its service in order and remove it; what the host says."""


def sums(text: str) -> dict[str, str]:
    """The checksums of a bundle's list, by the files' names. Lines that are none are passed over: the text is a host's."""
    return {
        name: digest
        for digest, name in (found.groups() for found in map(_SUM.fullmatch, text.splitlines()) if found)
        if ".." not in name and not name.startswith("/")
    }


def done(host: Host, command: str, what: str, timeout: float = COMMAND_SECONDS, given: bytes = b"") -> str:
    """The output of a command that must succeed. Raises `SetupError` with what it said."""
    status, said = host.run(command, timeout, given)
    if status:
        raise SetupError(f"{what} failed on the host (exit code {status}): {said.strip()[-600:]} Mend that, then push again.")
    return said
