"""A real SMB server on the loopback address, for the demo and the tests: Samba's smbd, started by us, with shares of our own.

>>> import tempfile
>>> from pathlib import Path
>>> with tempfile.TemporaryDirectory() as there:  # doctest: +SKIP
...     with Samba(Path(there), {"Backup": False, "physics": True}) as server:
...         print(server.unc("Backup", "TCS"), server.port, server.user)
\\\\127.0.0.1\\Backup\\TCS 40213 icomreader

It needs no rights of an administrator, and leaves nothing behind but the shares' folders. It is no server for real records: it
listens on the loopback address only, and its one account is that of whoever starts it.
"""

import contextlib
import getpass
import os
import secrets
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
from linac.transport.credentials import Credentials

HOST = "127.0.0.1"
READY_SECONDS = 15.0
STOP_SECONDS = 5.0
PORT_TRIES = 3

_GLOBAL = """[global]
server role = standalone server
workgroup = LAB
netbios name = LABNSS
interfaces = lo
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
passdb backend = tdbsam:{home}/private/passdb.tdb
private dir = {home}/private
lock directory = {home}/lock
state directory = {home}/state
cache directory = {home}/cache
pid directory = {home}/pid
ncalrpc dir = {home}/ncalrpc
log file = {home}/log/smbd.log
load printers = no
printing = bsd
printcap name = /dev/null
disable spoolss = yes
username map = {home}/users.map
unix extensions = no
map to guest = never
"""

_SHARE = """[{name}]
path = {path}
read only = {read_only}
"""


class Samba:
    """smbd with some shares and one account, from `with` to its end.

    `shares` says for each share whether it can be written to; `work` gets a folder for each, named like it, and one for smbd
    itself. `more` holds further settings of a share, as lines of smb.conf. Raises `SetupError` where Samba is missing or does
    not start.
    """

    def __init__(
        self,
        work: Path,
        shares: Mapping[str, bool],
        *,
        user: str = "icomreader",
        more: Mapping[str, str] | None = None,
        settings: str = "",
    ) -> None:
        self.work, self.user = work, user
        self.password = secrets.token_urlsafe(12)
        self.port = 0
        self._shares, self._more, self._settings = dict(shares), dict(more or {}), settings
        self._home = work / "smbd"
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Samba({str(self.work)!r}, port={self.port})"

    @property
    def credentials(self) -> Credentials:
        """The account, as `linac.transport.connect` takes it."""
        return Credentials(self.user, self.password)

    def folder(self, share: str) -> Path:
        """Where a share's files are on this computer."""
        return self.work / share

    def unc(self, share: str, *below: str) -> str:
        """A path on it, as Windows writes it; the port is not part of that."""
        return "\\\\" + "\\".join([HOST, share, *below])

    def start(self) -> None:
        """Start it, on the port that it had before, if it ran before."""
        smbd, pdbedit = _program("smbd"), _program("pdbedit")
        first = self.port == 0
        for last_try in (*[False] * (PORT_TRIES - 1 if first else 0), True):
            if first:
                self.port = _free_port()
                self._prepare(pdbedit)
            try:
                self._run(smbd)
                return
            except SetupError:
                self.stop()
                if last_try:
                    raise

    def _prepare(self, pdbedit: str) -> None:
        for name in ("private", "lock", "state", "cache", "pid", "ncalrpc", "log"):
            (self._home / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        texts = [_GLOBAL.format(port=self.port, home=self._home), self._settings]
        for name, writable in self._shares.items():
            self.folder(name).mkdir(parents=True, exist_ok=True)
            read_only = "no" if writable else "yes"
            texts += [_SHARE.format(name=name, path=self.folder(name), read_only=read_only), self._more.get(name, "")]
        self._config.write_text("\n".join(texts), encoding="utf-8")
        account = _unix_account()
        (self._home / "users.map").write_text(f"{account} = {self.user}\n", encoding="utf-8")
        made = subprocess.run(
            [pdbedit, "-s", str(self._config), "-a", "-t", "-u", account],
            input=f"{self.password}\n{self.password}\n".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=READY_SECONDS,
            check=False,
        )
        if made.returncode:
            raise SetupError(f"Samba's pdbedit could not make an account: {_last_line(made.stdout)}")

    def _run(self, smbd: str) -> None:
        log = self._home / "log" / "start.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [smbd, "--foreground", "--no-process-group", "-s", str(self._config), "--debug-stdout", "-d1"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it can be ended with all its children
            )
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise SetupError(f"Samba's smbd ended at once: {_last_line(log.read_bytes())}")
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
                return
            time.sleep(0.05)
        raise SetupError(f"Samba's smbd did not get ready within {READY_SECONDS:.0f} s: {_last_line(log.read_bytes())}")

    def freeze(self) -> None:
        """Stop it in mid-work, as a server that hangs: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and its children at once, as a power cut would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(STOP_SECONDS)
            self._process = None

    def stop(self) -> None:
        """End it in order."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def _signal(self, number: int) -> None:
        """To smbd and its children, a process for each connection: they are a process group of their own."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    @property
    def _config(self) -> Path:
        return self._home / "smb.conf"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)


def is_installed() -> bool:
    """Whether Samba's server is there."""
    return all(_found(name) for name in ("smbd", "pdbedit"))


def _found(name: str) -> str | None:
    if os.name == "nt":
        return None
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"]))


def _program(name: str) -> str:
    found = _found(name)
    if found is None:
        raise SetupError(
            f"Samba's {name} is not on this computer, so there is no SMB server to start. On Debian and Ubuntu it comes with "
            "`sudo apt-get install --no-install-recommends samba`."
        )
    return found


def _unix_account() -> str:
    """Samba's accounts must be accounts of the system; smbd can act for the one that it runs as."""
    try:
        return getpass.getuser() if os.geteuid() else "root"
    except (KeyError, OSError) as error:
        raise SetupError("Samba needs the name of the account that this runs as, but the system has none for it.") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it did not say why"
