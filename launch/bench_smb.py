"""SMB shares: `linac.transport` beside Samba's own `smbclient`, beside Python's copy, and through gateways.

Server and client are on this computer; both sides fetch the same files from the same smbd, in turns, to the same folder. Samba's
side is the time of its whole command less that of a command that only logs in; ours is the time from the first request to the
file in place, whole and checked. Where the line is to be long, a proxy of our own holds back every piece for half the round
trip in each direction; nothing of the machine is changed.
"""

import contextlib
import importlib
import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.bench import BenchError, Limit, Row, Setting, median_ratio
from linac.errors import LinacError, SetupError
from linac.simulator.samba import HOST, Samba, is_installed
from linac.transport import Folder, connect
from linac.transport.settling import SETTLING

TITLE = "Reading and writing SMB shares"

BIG = Limit(1.0, at_most=False)
MANY = Limit(0.8, at_most=False)
GATEWAY = Limit(1.0, at_most=False)
FAR = Limit(5.0, at_most=False)

COMMAND_SECONDS = 600.0
ROUND_TRIP_SECONDS = 0.020
MB = 1_000_000


@dataclass(frozen=True)
class Sizes:
    """How much is fetched, in MiB, and how often."""

    big: int = 256
    many: int = 200
    far: int = 32
    big_rounds: int = 25
    rounds: int = 7
    far_rounds: int = 3


QUICK = Sizes(big=16, many=10, far=4, big_rounds=2, rounds=2, far_rounds=1)


def measure(setting: Setting, sizes: Sizes | None = None) -> Iterator[Row]:
    """All figures. Raises `SetupError` where Samba is not installed."""
    sizes = sizes or (QUICK if setting.quick else Sizes())
    if not is_installed() or shutil.which("smbclient") is None:
        raise SetupError(
            "Samba's server or its smbclient is not on this computer. On Debian and Ubuntu: `sudo apt-get install "
            "--no-install-recommends samba smbclient`."
        )
    setting.note(
        "On both sides a file counts as fetched once it is whole and in place. Ours are brought to the disk (fsync) after that, "
        "outside these figures, and are not known until they are; nobody does so for the files of smbclient and shutil."
    )
    setting.note(
        "Before each transfer, of both sides, a file twice as large is written and removed: a virtual machine gives memory that "
        "it does not use back to its host, and who needs it next waits for it, up to four times as long as the transfer takes."
    )
    for how, settings in (("encrypted", ""), ("signed", "server smb encrypt = off")):
        with Samba(setting.work / how, {"Backup": False, "records": True}, settings=settings) as server:
            _fill(server.folder("Backup"), sizes)
            yield from _beside_smbclient(setting, sizes, server, how)
            if how == "encrypted":
                yield from _far(setting, sizes, server)
                yield from _through_gateways(setting, sizes, server)
        shutil.rmtree(setting.work / how, ignore_errors=True)


def _fill(folder: Path, sizes: Sizes) -> None:
    for name, count, size in (("big", 1, sizes.big), ("far", 1, sizes.far), ("many", sizes.many, 1)):
        (folder / name).mkdir()
        for number in range(count):
            with (folder / name / f"{number:03}.zip").open("wb") as file:
                for _ in range(size):
                    file.write(os.urandom(1 << 20))


# On the local network


def _beside_smbclient(setting: Setting, sizes: Sizes, server: Samba, how: str) -> Iterator[Row]:
    with _folder(server) as folder:
        for name, limit, count, size, rounds in (
            ("big", BIG, 1, sizes.big, sizes.big_rounds),
            ("many", MANY, sizes.many, 1, sizes.rounds),
        ):
            what = f"{size} MiB file" if count == 1 else f"{count} files of {size} MiB"
            setting.say(f"{what}, {how}")
            amount = count * (size << 20) / MB
            ours, theirs, floors = [], [], []
            commands = f"cd {name}; get 000.zip" if count == 1 else f"cd {name}; prompt off; mget *"

            def fetch(to: Path, name: str = name, many: bool = count > 1) -> None:
                _fetch(folder, name, to, all_of_them=many)

            def get(to: Path, commands: str = commands) -> None:
                _smbclient(server, to, how, commands)

            for turn in range(rounds):
                for side in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
                    nothing = _timed(lambda: _smbclient(server, setting.work, how, "exit"))
                    with _target(setting, count * size) as to:
                        if side == "ours":
                            ours.append(_timed(lambda to=to: fetch(to)))  # type: ignore[misc]
                        else:
                            theirs.append(max(1e-3, _timed(lambda to=to: get(to)) - nothing))  # type: ignore[misc]
                        _compare(server.folder("Backup") / name, to)
                with _target(setting, count * size) as to:
                    floors.append(_timed(lambda to=to, name=name: _copy_all(server.folder("Backup") / name, to)))  # type: ignore[misc]
            speed = [amount / statistics.median(times) for times in (ours, theirs, floors)]
            yield Row(f"{what}, {how}", speed[0], "MB/s", floor=speed[2], n=rounds)
            yield Row(f"{what}, {how}: Samba's smbclient", speed[1], "MB/s", n=rounds)
            yield Row(f"{what}, {how}: ours / smbclient", median_ratio(theirs, ours), "times", n=rounds, limit=limit)
    if how == "encrypted":
        setting.note("The floor is a copy on the local disk, without any network.")


def _folder(server: Samba, port: int = 0, gateway: Any = None, share: str = "Backup") -> Folder:
    return connect(server.unc(share), server.credentials, port=port or server.port, gateway=gateway, timeout=60)


def _fetch(folder: Folder, name: str, to: Path, *, all_of_them: bool) -> None:
    if not all_of_them:
        folder.fetch(f"{name}/000.zip", to / "000.zip")
        return
    for _, fetched in folder.fetch_many((f"{name}/{entry.name}", to / entry.name) for entry in folder.list(f"{name}/*")):
        if isinstance(fetched, LinacError):
            raise fetched


def _copy_all(source: Path, to: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, to / path.name)


def _smbclient(server: Samba, here: Path, how: str, commands: str) -> None:
    """Samba's own client, with the same protection as ours."""
    account = server.work / "account"
    if not account.exists():
        account.touch(mode=0o600)
        account.write_text(f"username = {server.user}\npassword = {server.password}\n", encoding="utf-8")
    protection = "encrypt" if how == "encrypted" else "sign"
    done = subprocess.run(
        [
            shutil.which("smbclient") or "smbclient",
            f"//{HOST}/Backup",
            "-p",
            str(server.port),
            "-A",
            str(account),
            f"--client-protection={protection}",
            "-c",
            commands,
        ],
        cwd=here,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"smbclient failed: {done.stdout.decode(errors='replace').strip()[-200:]}")


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextlib.contextmanager
def _target(setting: Setting, mib: int) -> Iterator[Path]:
    """An empty folder for so much. What other rounds have left to be written is written first, and the machine has the memory
    for it, so that neither is on anybody's account."""
    to = setting.work / "to"
    to.mkdir()
    if hasattr(os, "sync"):
        os.sync()
    try:
        some = bytes(1 << 20)
        with (to / "before").open("wb") as file:
            for _ in range(2 * mib):
                file.write(some)
        (to / "before").unlink()
        yield to
        if not SETTLING.wait():
            raise BenchError("The disk of this computer does not get done. Is it full, or very busy?")
    finally:
        shutil.rmtree(to, ignore_errors=True)


def _compare(source: Path, to: Path) -> None:
    """What did not arrive whole is not fast."""
    for path in source.iterdir():
        if (to / path.name).stat().st_size != path.stat().st_size:
            raise BenchError(f"{path.name} did not arrive whole. Run `python run.py test`: something is broken.")
    last = max(source.iterdir())
    if (to / last.name).read_bytes() != last.read_bytes():
        raise BenchError(f"{last.name} arrived damaged. Run `python run.py test`: something is broken.")


# A long line


class Delay:
    """A proxy on the loopback address that holds back what it passes on, for half a round trip in each direction."""

    def __init__(self, port: int, round_trip_seconds: float) -> None:
        self._target, self._half = (HOST, port), round_trip_seconds / 2
        self._server = socket.create_server((HOST, 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._pass_on(one, other)

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        waiting: deque[tuple[float, bytes]] = deque()
        some = threading.Condition()

        def take() -> None:
            data = b"begun"
            while data:
                try:
                    data = source.recv(1 << 18)
                except OSError:
                    data = b""
                with some:
                    waiting.append((time.monotonic() + self._half, data))
                    some.notify()

        def give() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with some:
                        while not waiting:
                            some.wait()
                        due, data = waiting.popleft()
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not data:
                        to.shutdown(socket.SHUT_WR)
                        return
                    to.sendall(data)

        for work in (take, give):
            threading.Thread(target=work, daemon=True).start()

    def __enter__(self) -> "Delay":
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._server, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _far(setting: Setting, sizes: Sizes, server: Samba) -> Iterator[Row]:
    """A line of 20 ms: ours beside the copy that smbprotocol's own users make."""
    what = f"{sizes.far} MiB file over a line of {1000 * ROUND_TRIP_SECONDS:.0f} ms"
    setting.say(what)
    theirs_shutil: Any = importlib.import_module("smbclient.shutil")
    pool: Any = importlib.import_module("smbclient")
    amount = (sizes.far << 20) / MB
    ours, theirs = [], []
    with Delay(server.port, ROUND_TRIP_SECONDS) as line, _folder(server, line.port) as folder:
        pool.register_session(HOST, username=server.user, password=server.password, port=line.port, encrypt=True)
        folder.check()
        try:
            for _ in range(sizes.far_rounds):
                with _target(setting, sizes.far) as to:
                    ours.append(_timed(lambda to=to: folder.fetch("far/000.zip", to / "000.zip")))  # type: ignore[misc]
                    _compare(server.folder("Backup") / "far", to)
                with _target(setting, sizes.far) as to:
                    source = server.unc("Backup", "far", "000.zip")
                    theirs.append(_timed(lambda to=to, s=source: theirs_shutil.copyfile(s, str(to / "000.zip"), port=line.port)))  # type: ignore[misc]
                    _compare(server.folder("Backup") / "far", to)
        finally:
            pool.reset_connection_cache()
    yield Row(what, amount / statistics.median(ours), "MB/s", n=sizes.far_rounds)
    yield Row(f"{what}: shutil.copyfile of the library smbclient", amount / statistics.median(theirs), "MB/s", n=sizes.far_rounds)
    yield Row(f"{what}: ours / that", median_ratio(theirs, ours), "times", n=sizes.far_rounds, limit=FAR)


# Through a gateway


def _through_gateways(setting: Setting, sizes: Sizes, server: Samba) -> Iterator[Row]:
    """Our gateway beside OpenSSH's `ssh -L` with its default settings; the same SMB in both."""
    from linac.simulator import sshd
    from linac.transport.ssh import Gateway

    if not sshd.is_installed() or shutil.which("ssh") is None:
        setting.note("No OpenSSH server or client is installed: nothing was measured through gateways.")
        return
    amount = (sizes.big << 20) / MB
    with sshd.SshServer(setting.work / "sshd") as gate:
        gateway = Gateway(gate.host, gate.port, gate.user, gate.host_key, key=gate.key_file)
        with _openssh(gate, server.port) as port:
            for what, share, move in (
                (f"{sizes.big} MiB file through a gateway", "Backup", _read),
                (f"{sizes.big} MiB file written through a gateway", "records", _write),
            ):
                setting.say(what)
                times: dict[str, list[float]] = {"ours": [], "openssh": []}
                with (
                    _folder(server, gateway=gateway, share=share) as ours,
                    _folder(server, port, share=share) as theirs,
                ):
                    sides = {"ours": ours, "openssh": theirs}
                    for folder in sides.values():
                        folder.check()
                    for turn in range(sizes.rounds):
                        for side in sides if turn % 2 == 0 else reversed(sides):
                            times[side].append(move(setting, sizes, server, sides[side]))
                speeds = {side: amount / statistics.median(seconds) for side, seconds in times.items()}
                yield Row(f"{what} of ours", speeds["ours"], "MB/s", n=sizes.rounds)
                yield Row(f"{what}, `ssh -L`", speeds["openssh"], "MB/s", n=sizes.rounds)
                ratio = median_ratio(times["openssh"], times["ours"])
                yield Row(f"{what}: ours / `ssh -L`", ratio, "times", n=sizes.rounds, limit=GATEWAY)


def _read(setting: Setting, sizes: Sizes, server: Samba, folder: Folder) -> float:
    """Seconds to fetch the big file."""
    with _target(setting, sizes.big) as to:
        seconds = _timed(lambda: folder.fetch("big/000.zip", to / "000.zip"))
        _compare(server.folder("Backup") / "big", to)
    return seconds


def _write(setting: Setting, sizes: Sizes, server: Samba, folder: Folder) -> float:
    """Seconds to store the big file, until the server has it on its disk."""
    source, stored = server.folder("Backup") / "big", server.folder("records") / "stored"
    with _target(setting, sizes.big):
        seconds = _timed(lambda: folder.store(source / "000.zip", "stored/000.zip"))
        _compare(source, stored)
        shutil.rmtree(stored)
    return seconds


@contextlib.contextmanager
def _openssh(gate: Any, port: int) -> Iterator[int]:
    """OpenSSH's own forward to a port, with its default settings; the local port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        local = int(probe.getsockname()[1])
    options = [
        "StrictHostKeyChecking=no",
        f"UserKnownHostsFile={os.devnull}",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "LogLevel=ERROR",
    ]
    command = ["ssh", "-F", "none", "-N", "-L", f"{HOST}:{local}:{HOST}:{port}", "-p", str(gate.port), "-i", str(gate.key_file)]
    command += [part for option in options for part in ("-o", option)]
    process = subprocess.Popen([*command, f"{gate.user}@{gate.host}"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, local), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError("`ssh -L` did not come up.")
            time.sleep(0.1)
        yield local
    finally:
        process.kill()
        process.communicate()
