r"""A real SSH server on this computer, for tests, the demo and training: OpenSSH's sshd, run by the user at hand.

    with SshServer(Path("somewhere")) as server:
        Gateway(server.host, server.port, server.user, server.host_key, key=server.key_file)

It listens on 127.0.0.1, on a free port, with a host key of its own, and lets in the account that runs it, with the key that it
made and no other. It needs no root, but an account that is not locked (`nobody` is). It reads nothing of the system's own SSH
set-up, and changes nothing in it.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from linac.errors import SetupError

START_SECONDS = 10.0
END_SECONDS = 5.0
HOST = "127.0.0.1"

SETTINGS = {
    "UsePAM": "no",
    "StrictModes": "no",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "PermitRootLogin": "prohibit-password",
    "AllowTcpForwarding": "yes",
    "GatewayPorts": "clientspecified",
    "UseDNS": "no",
    "PrintMotd": "no",
    "LogLevel": "VERBOSE",
    "Subsystem": "sftp internal-sftp",
}
"""What differs from OpenSSH's defaults; `settings` may differ further. `UsePAM` needs root, and StrictModes a folder that is not
in /tmp."""


def is_installed() -> bool:
    """Whether OpenSSH's server and its key maker are here."""
    return bool(_find("sshd") and _find("ssh-keygen"))


class SshServer:
    """An sshd in a folder of its own. Use it in a `with` statement, or call `start` and `stop`.

    `settings`: lines of sshd_config that differ. `port` is kept over `stop` and `start`, and so are the keys.
    """

    host = HOST

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Makes its keys. Raises `SetupError` where OpenSSH's server is not installed."""
        self.folder = folder
        self.settings = {**SETTINGS, **(settings or {})}
        self.user = getpass.getuser()
        self.port = 0
        self._sshd, self._keygen = _program("sshd"), _program("ssh-keygen")
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.key_file = self.make_key("id_ed25519")
        self.new_host_key()
        (folder / "authorized_keys").write_text(self.key_file.with_suffix(".pub").read_text(encoding="ascii"), encoding="ascii")

    def make_key(self, name: str, kind: str = "ed25519", passphrase: str = "") -> Path:
        """A private key in its folder (the public one beside it), made unless it is there."""
        path = self.folder / name
        if not path.exists():
            size = ["-b", "2048"] if kind == "rsa" else []
            order = [self._keygen, "-q", "-t", kind, *size, "-N", passphrase, "-C", "linac-flows test", "-f", str(path)]
            subprocess.run(order, stdin=subprocess.DEVNULL, check=True, timeout=60)
        return path

    def new_host_key(self, kind: str = "ed25519") -> None:
        """Another host key from the next `start` on."""
        for old in self.folder.glob("host_key*"):
            old.unlink()
        self.host_key_file = self.make_key("host_key", kind)

    @property
    def host_key(self) -> str:
        """Its public host key, as the block wants it."""
        return " ".join(self.host_key_file.with_suffix(".pub").read_text(encoding="ascii").split()[:2])

    @property
    def log(self) -> str:
        """What sshd said so far."""
        path = self.folder / "sshd.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Run it. Raises `SetupError` where it does not listen within 10 s."""
        self.port = self.port or _free_port()
        written = {
            "Port": str(self.port),
            "ListenAddress": HOST,
            "HostKey": str(self.host_key_file),
            "AuthorizedKeysFile": str(self.folder / "authorized_keys"),
            "PidFile": "none",
            **self.settings,
        }
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in written.items()), encoding="utf-8")
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd run by root insists on it
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._sshd, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with socket.create_connection((HOST, self.port), 1) as probe:
                    if probe.recv(4) == b"SSH-":
                        return self
            except OSError:
                time.sleep(0.02)
        self.stop()
        said = self.log.strip().splitlines()
        raise SetupError(f"sshd did not start within {START_SECONDS:g} s: {said[-1] if said else 'it did not say why'}")

    def stop(self) -> None:
        """End it and all its connections, whatever state they are in."""
        if self._process is None:
            return
        for pid in self.processes():
            _signal(pid, "SIGKILL")
        self._process.kill()
        self._process.wait(END_SECONDS)
        self._process = None

    kill = stop

    def freeze(self) -> None:
        """Stop it (SIGSTOP) with all its connections: they stay open and say nothing any more."""
        for pid in self.processes():
            _signal(pid, "SIGSTOP")

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        for pid in self.processes():
            _signal(pid, "SIGCONT")

    def processes(self) -> list[int]:
        """The server, and below it those of its connections (found by /proc)."""
        if self._process is None:
            return []
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _find(name: str) -> str | None:
    """A program's path; sshd lies where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")


def _program(name: str) -> str:
    found = _find(name)
    if found is None:
        raise SetupError(
            f"{name} is not installed. On Debian and Ubuntu: apt install openssh-server; on Windows: the feature OpenSSH Server."
        )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _signal(pid: int, name: str) -> None:
    with contextlib.suppress(ProcessLookupError, AttributeError):
        os.kill(pid, getattr(signal, name))
