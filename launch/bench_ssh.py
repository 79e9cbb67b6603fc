"""Forwards through an SSH gateway: ours beside OpenSSH's `ssh -L` with its default settings, through one and the same sshd.

Both carry the same bytes between the same two processes, in turns; each ratio is the median of the ratios of each turn. The floor
is the same transfer without any gateway.
"""

import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launch.bench import BenchError, Limit, Row, Setting, median_ratio
from linac.errors import SetupError
from linac.simulator.sshd import SshServer
from linac.transport.ssh import Gateway

TITLE = "Through an SSH gateway"

WAYS = {
    "read": "reading",
    "write": "writing",
    "ask": "reading, 1 MiB asked for at a time",
}
AT_LEAST_OPENSSH = Limit(1.0, at_most=False)
MIB = 1 << 20
TRANSFER_SECONDS = 300.0
START_SECONDS = 15.0

ENDS = Path(__file__).with_name("bench_ssh_ends.py")

Address = tuple[str, int]


def measure(setting: Setting, size: int | None = None, rounds: int | None = None) -> Iterator[Row]:
    """A ratio and our MB/s for each way. Raises `BenchError` where sshd or ssh is not installed."""
    size = size or (16 if setting.quick else 256) * MIB
    rounds = rounds or (2 if setting.quick else 7)
    try:
        server = SshServer(setting.work / "sshd")
    except SetupError as error:
        raise BenchError(f"Could not measure through a gateway. {error}") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        target = stack.enter_context(_service())
        gateway = Gateway(server.host, server.port, server.user, server.host_key, key=server.key_file)
        ours = stack.enter_context(gateway.forward(*target))
        openssh = stack.enter_context(_ssh_forward(server, target, setting.work))
        setting.note(
            f"{size // MIB} MiB each time; `ssh -L` is {_version()}, both go through one sshd; floor: without a gateway."
        )
        for way, name in WAYS.items():
            sides = {"ours": ours, "openssh": openssh, "direct": target}
            speeds: dict[str, list[float]] = {side: [] for side in sides}
            for turn in range(rounds):
                for side in sides if turn % 2 == 0 else reversed(sides):
                    speeds[side].append(_transfer(way, sides[side], size))
            ratio = median_ratio(speeds["ours"], speeds["openssh"])
            yield Row(f"{name}: ours / `ssh -L`", ratio, "times", n=rounds, limit=AT_LEAST_OPENSSH)
            yield Row(
                f"{name}: ours", statistics.median(speeds["ours"]), "MB/s", None, statistics.median(speeds["direct"]), rounds
            )
            yield Row(f"{name}: `ssh -L`", statistics.median(speeds["openssh"]), "MB/s", n=rounds)


@contextlib.contextmanager
def _service() -> Iterator[Address]:
    """What lies behind the gateway."""
    process = subprocess.Popen([sys.executable, "-I", str(ENDS), "serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 (for mypy: it is a pipe)
        yield "127.0.0.1", int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _ssh_forward(server: SshServer, target: Address, work: Path) -> Iterator[Address]:
    """The same forward by OpenSSH's client, as shipped: no configuration file, no option that changes its speed."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise BenchError("Could not measure through a gateway: ssh is not installed (Debian: openssh-client).")
    known = work / "known_hosts"
    known.write_text(f"[{server.host}]:{server.port} {server.host_key}\n", encoding="ascii")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = ("127.0.0.1", int(probe.getsockname()[1]))
    options = {"UserKnownHostsFile": known, "IdentitiesOnly": "yes", "ExitOnForwardFailure": "yes", "BatchMode": "yes"}
    command = [ssh, "-F", "none", "-N", "-i", str(server.key_file), "-p", str(server.port)]
    command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command += ["-L", f"{here[0]}:{here[1]}:{target[0]}:{target[1]}", f"{server.user}@{server.host}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(here, 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError("Could not measure through a gateway: `ssh -L` did not come up.")
            time.sleep(0.05)
        yield here
    finally:
        process.kill()
        process.wait()


def _transfer(way: str, address: Address, size: int) -> float:
    """MB a second of one transfer, by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-I", str(ENDS), way, address[0], str(address[1]), str(size)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TRANSFER_SECONDS,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BenchError(f"A transfer ({way}) failed: {said[-1] if said else 'it did not say why'}.")
    return float(done.stdout)


def _version() -> str:
    done = subprocess.run([shutil.which("ssh") or "ssh", "-V"], capture_output=True, text=True, timeout=10, check=False)
    return done.stderr.split(",")[0].strip()
