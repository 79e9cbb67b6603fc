r"""SSH gateways: a computer at another site that lets us through to that site's linacs and shares.

    gateway = Gateway("gate.hospital.example", 38471, "tunnel", host_key="ssh-ed25519 AAAA...", key=Path("id_ed25519"))
    with gateway.forward("192.168.17.40", 445) as (host, port):
        ...  # connect to host and port: it is the NSS's share

Only a gateway that shows the pinned host key is spoken to; who logs in does so with a key, never with a password. Every wait is
bounded, whatever the gateway does. `python -m linac.transport key HOST` prints a gateway's host key, to be confirmed and pasted.
It does not change anything on a gateway, and reads none of the user's OpenSSH files.
"""

import contextlib
import io
import posixpath
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import paramiko

from linac.errors import SetupError, StorageError
from linac.transport.connecting import check_numbers
from linac.transport.ssh_errors import GatewayHungError
from linac.transport.ssh_keys import ALGORITHMS, HostKey, host_keys, private_key
from linac.transport.ssh_link import Link, shown_host_key
from linac.transport.ssh_route import Route
from linac.transport.ssh_wire import BROKEN
from linac.transport.tunnel import LocalForward

TIMEOUT_SECONDS = 15.0
COMMAND_SECONDS = 60.0
OUTPUT_LIMIT = 1 << 20
"""More than so many bytes of a command's output are not kept."""


class Gateway:
    """How to reach one gateway; holds no connection, so it can be kept, copied and used from any thread.

    `host_key`: its public key or keys, a line each. `key`: a private key as text, or a `Path` to one, with its `passphrase` if it
    has one. `agent`: log in with the keys of the SSH agent (OpenSSH's, or Pageant); by default where no key is given.
    `timeout`: seconds for connecting and logging in, and for each answer.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        host_key: str,
        *,
        key: str | Path | None = None,
        passphrase: str | None = None,
        agent: bool | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Raises `SetupError` where a key cannot be read, or a number cannot be. The network is not touched."""
        check_numbers(port, timeout)
        self.host, self.port, self.user, self.timeout = host, port, user, timeout
        self.pinned = host_keys(host_key)
        self._key = private_key(key, passphrase) if key is not None else None
        self._agent = key is None if agent is None else agent

    def __repr__(self) -> str:
        return f"Gateway({self.host!r}, {self.port}, {self.user!r})"

    def connect(self) -> Link:
        """A connection, logged in and watched; to be closed by the caller. Raises the errors of `linac.transport.ssh_errors`."""
        return Link(self.host, self.port, self.user, self.pinned, self._keys, self.timeout)

    def forward(self, host: str, port: int) -> LocalForward:
        """For a `with` statement: `(host, port)` of this computer, leading to that host and port as the gateway sees them.

        Entering it raises the errors of `linac.transport.ssh_errors`. Meanwhile a port on 127.0.0.1 is open to every program of
        this computer; what lies behind it still asks for its own password.
        """
        return LocalForward(self.connect, (host, port))

    def route(self, host: str, port: int) -> Route:
        """The same for this program alone, without any port of this computer: `dial` on it gives connections. To be closed."""
        return Route(self.connect, (host, port))

    def run(self, command: str, timeout: float = COMMAND_SECONDS, given: bytes = b"") -> tuple[int, str]:
        """Run a command line on the gateway, in the account's own shell; exit status and output (both streams, at most 1 MiB).

        `given`: what the command can read from its input, a password for instance: no command line shows it, and no log.

        A command that fails raises nothing: look at its status. Raises `GatewayHungError` where it takes longer than `timeout`
        seconds, `SetupError` where the account may run none, and the errors of `linac.transport.ssh_errors`.
        """
        until = time.monotonic() + timeout
        link = self.connect()
        try:
            channel = link.session()
            channel.set_combine_stderr(True)
            channel.settimeout(max(until - time.monotonic(), 0.1))
            with link.ended_after(until - time.monotonic(), _too_long(link, timeout)):
                channel.exec_command(command)
            with contextlib.suppress(OSError):  # of a command that has ended without reading it, the status tells
                channel.sendall(given)
            channel.shutdown_write()
            pieces: list[bytes] = []
            kept = 0
            while True:
                channel.settimeout(max(until - time.monotonic(), 0.01))
                data = channel.recv(1 << 16)
                if not data:
                    break
                if kept < OUTPUT_LIMIT:
                    pieces.append(data[: OUTPUT_LIMIT - kept])
                    kept += len(pieces[-1])
            if not channel.status_event.wait(max(until - time.monotonic(), 0.01)):
                raise TimeoutError
            status = channel.exit_status
            if not link.alive and status == -1:
                raise link.why_ended()
            return int(status), b"".join(pieces).decode("utf-8", "replace")
        except TimeoutError as error:
            raise _too_long(link, timeout) from error
        except BROKEN as error:
            raise (link.why_ended() if not link.alive else _no_session(link)) from error
        finally:
            link.close()

    def put(self, local: Path, remote: str, timeout: float = 600.0) -> None:
        """Copy a file to the gateway by SFTP, whole or not at all: written aside, its size compared, then renamed.

        `remote`: an absolute path with `/`, on Windows as `C:/ProgramData/...`; its folder must exist.
        Raises `StorageError` where it cannot be written there, or takes longer than `timeout`.
        """
        if not local.is_file():
            raise StorageError(f"{local} is not there, so it cannot be copied to the gateway.")
        path = remote.replace("\\", "/")
        if len(path) > 1 and path[1] == ":":
            path = "/" + path  # Windows' OpenSSH calls its drives /C:/
        with self._sftp(local.name, remote, timeout) as (files, until), local.open("rb") as source:
            _send(files, source, path, until)

    def put_all(self, contents: Mapping[str, bytes], folder: str, timeout: float = 600.0) -> None:
        """Copy files into `folder`, a path as for `put` or one below the account's own folder; their folders are made.

        Each is there whole or not at all. Raises as `put` does.
        """
        with self._sftp(f"{len(contents)} files", folder, timeout) as (files, until):
            made: set[str] = set()
            for name, data in contents.items():
                path = posixpath.join(folder, name)
                for above in reversed([str(parent) for parent in PurePosixPath(path).parents if str(parent) not in "./"]):
                    if above not in made:
                        _make(files, above)
                        made.add(above)
                _send(files, io.BytesIO(data), path, until)

    @contextlib.contextmanager
    def _sftp(self, what: str, remote: str, timeout: float) -> Iterator[tuple[paramiko.SFTPClient, float]]:
        """A file transfer and when it must be done, with what goes wrong told as `put` says."""
        until = time.monotonic() + timeout
        link = self.connect()
        try:
            channel = link.session()
            channel.settimeout(self.timeout)
            with link.ended_after(self.timeout, link.hung("did not open a file transfer")):
                channel.invoke_subsystem("sftp")
            with paramiko.SFTPClient(channel) as files:
                yield files, until
        except TimeoutError as error:
            if time.monotonic() < until:
                raise link.hung("stopped answering while a file was copied") from error
            raise StorageError(f"Copying {what} to the gateway {link.name} took longer than {timeout:g} s. Try again.") from error
        except BROKEN as error:
            if not link.alive:
                raise link.why_ended() from error
            if isinstance(error, OSError) and error.strerror:
                raise StorageError(
                    f"{remote} cannot be written on the gateway {link.name}: {error.strerror}. Make its folder, and let "
                    f"{self.user!r} write there."
                ) from error
            if isinstance(error, OSError) and error.errno is None and str(error):
                raise StorageError(
                    f"{remote} cannot be written on the gateway {link.name}: {error}. Check its free space and rights."
                ) from error
            raise _no_session(link) from error
        finally:
            link.close()

    @contextlib.contextmanager
    def _keys(self, seconds: float) -> Iterator[list[paramiko.PKey]]:
        """The keys to log in with, for as long as the login takes."""
        agent = _Agent(seconds) if self._agent else None
        try:
            yield [*([self._key] if self._key is not None else []), *(agent.keys if agent is not None else [])]
        finally:
            if agent is not None:
                agent.close()


def _send(files: paramiko.SFTPClient, source: BinaryIO, path: str, until: float) -> None:
    aside = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.part")

    def in_time(*_: Any) -> None:
        if time.monotonic() > until:
            raise TimeoutError

    try:
        files.putfo(source, aside, callback=in_time)  # compares the sizes in the end
        try:
            files.posix_rename(aside, path)
        except OSError:  # a server without that extension cannot replace a file
            with contextlib.suppress(FileNotFoundError):
                files.remove(path)
            files.rename(aside, path)
    except BaseException:
        with contextlib.suppress(*BROKEN):
            files.remove(aside)
        raise


def _make(files: paramiko.SFTPClient, folder: str) -> None:
    try:
        files.mkdir(folder)
    except OSError:  # "Failure" is all that SFTP says of one that is there
        files.stat(folder)


def _too_long(link: Link, seconds: float) -> GatewayHungError:
    return GatewayHungError(
        f"A command on the gateway {link.name} had not ended after {seconds:g} s. It may go on there; look at the gateway before "
        "you try again."
    )


def _no_session(link: Link) -> SetupError:
    return SetupError(
        f"The gateway {link.name} lets {link.user!r} in, but gives no command line or file transfer: its account is perhaps "
        "for forwards only. Ask its administrator."
    )


class _Agent:
    """This account's SSH agent and its `keys`, none where there is no agent. One that hangs is waited for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.keys: list[paramiko.PKey] = []
        self._agent: paramiko.Agent | None = None
        self._seconds = seconds
        thread = threading.Thread(target=self._ask, name="ssh agent", daemon=True)
        thread.start()
        thread.join(seconds)

    def _ask(self) -> None:
        with contextlib.suppress(*BROKEN):
            self._agent = paramiko.Agent()
            connection = getattr(self._agent, "_conn", None)
            if connection is not None and hasattr(connection, "settimeout"):
                connection.settimeout(self._seconds)  # signing asks it again, in the library's own thread
            self.keys = list(self._agent.get_keys())

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()


def shown_key(host: str, port: int = 22, kind: str = "ssh-ed25519", timeout: float = TIMEOUT_SECONDS) -> HostKey:
    """The host key that a gateway shows, one of `kind` if it has one. It is not confirmed by anything: an operator must do that.

    Raises the errors of `linac.transport.ssh_errors`, and `SetupError` for a port or a timeout that cannot be.
    """
    check_numbers(port, timeout)
    kinds = [kind, *(other for other in ALGORITHMS if other != kind)]
    return shown_host_key(host, port, kinds, timeout)
