"""What a gateway may do to us: die, hang, come back. Each is noticed in time and told in words, and the next try works."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from linac.transport import ssh_errors, ssh_link
from linac.transport.ssh import Gateway

if TYPE_CHECKING:
    from linac.simulator.sshd import SshServer

NOTICED_SECONDS = 15.0
SLACK_SECONDS = 10.0
"""For a busy machine."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stops and kills processes by POSIX signals")


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 15
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < until, f"left behind: {[thread.name for thread in left]}"
        time.sleep(0.02)


@pytest.fixture
def server(ssh_server: "SshServer", tmp_path: Path) -> Iterator["SshServer"]:
    """One for this test alone."""
    with type(ssh_server)(tmp_path / "sshd") as made:
        yield made


@pytest.fixture
def gateway(server: "SshServer") -> Gateway:
    return Gateway(server.host, server.port, server.user, server.host_key, key=server.key_file, timeout=5)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> float:
    """Hung peers are noticed sooner, where the time itself is not what is tested."""
    monkeypatch.setattr(ssh_link, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(ssh_link, "HUNG_SECONDS", 1.5)
    return 2.5


@pytest.fixture
def target() -> Iterator[int]:
    """A service that answers 'idle' with a word, takes what comes after 'take', and gives without end after 'give'."""
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(0.1)
            what = b""
            while not over.is_set():
                if what == b"give":
                    with contextlib.suppress(TimeoutError):
                        connection.send(bytes(1 << 16))
                    continue
                with contextlib.suppress(TimeoutError):
                    data = connection.recv(1 << 16)
                    if not data:
                        return
                    if not what:
                        what = data[:4]
                        connection.sendall(b"here")

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    yield int(server.getsockname()[1])
    over.set()
    for thread in threads:
        thread.join(5)
    server.close()


def use(address: tuple[str, int], what: bytes, started: threading.Event, ended: dict[bytes, float]) -> None:
    """Idle, send without end, or read without end, until the connection breaks; when it did. One that seems to end in order is a
    failure: who reads would take what has come for the whole."""
    with socket.create_connection(address) as client:
        client.settimeout(40)
        client.sendall(what)
        assert client.recv(4) == b"here"
        started.set()
        try:
            while client.recv(1 << 16) if what != b"take" else client.sendall(bytes(1 << 16)) is None:
                pass
        except ConnectionError:
            ended[what] = time.monotonic()


class Users:
    """Three clients through three forwards of one gateway: one idle, one that sends, one that reads."""

    def __init__(self, gateway: Gateway, target: int) -> None:
        self.forwards = {what: gateway.forward("127.0.0.1", target) for what in (b"idle", b"take", b"give")}
        self.stack = contextlib.ExitStack()
        self.ended: dict[bytes, float] = {}
        self.addresses: dict[bytes, tuple[str, int]] = {}
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> "Users":
        for what, forward in self.forwards.items():
            self.addresses[what] = self.stack.enter_context(forward)
            started = threading.Event()
            thread = threading.Thread(target=use, args=(self.addresses[what], what, started, self.ended), daemon=True)
            thread.start()
            self.threads.append(thread)
            assert started.wait(10)
        time.sleep(0.5)
        return self

    def __exit__(self, *error: object) -> None:
        began = time.monotonic()
        self.stack.close()
        assert time.monotonic() - began < 15, "leaving does not wait for the gateway"
        for thread in self.threads:
            thread.join(10)

    def all_ended(self, within: float) -> float:
        """Seconds until the last of them had noticed."""
        began = time.monotonic()
        while len(self.ended) < 3:
            assert time.monotonic() - began < within, f"only {sorted(self.ended)} noticed in {within} s"
            time.sleep(0.02)
        return time.monotonic() - began

    def talk(self) -> None:
        """A new connection through each of the same forwards."""
        for address in self.addresses.values():
            with socket.create_connection(address) as client:
                client.settimeout(10)
                client.sendall(b"idle")
                assert client.recv(4) == b"here"


def test_a_killed_gateway_is_noticed_at_once_and_the_same_forwards_work_when_it_is_back(
    gateway: Gateway, server: "SshServer", target: int
) -> None:
    with Users(gateway, target) as users:
        server.kill()
        users.all_ended(within=SLACK_SECONDS)
        time.sleep(0.5)
        assert {type(forward.trouble) for forward in users.forwards.values()} == {ssh_errors.GatewayLostError}
        with socket.create_connection(users.addresses[b"idle"]) as client:
            client.settimeout(10)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert isinstance(users.forwards[b"idle"].trouble, ssh_errors.GatewayRefusedError)
        server.start()
        users.talk()
        assert users.forwards[b"idle"].trouble is None


def test_a_gateway_that_hangs_is_noticed_within_15_seconds_idle_sending_or_reading(
    gateway: Gateway, server: "SshServer", target: int
) -> None:
    with Users(gateway, target) as users:
        server.freeze()
        took = users.all_ended(within=NOTICED_SECONDS + SLACK_SECONDS)
        assert took > 5, "a moment's silence is no reason"
        assert {type(forward.trouble) for forward in users.forwards.values()} == {ssh_errors.GatewayHungError}
        server.thaw()
        users.talk()


def test_a_gateway_that_pauses_for_a_moment_is_not_given_up(gateway: Gateway, server: "SshServer", target: int) -> None:
    with gateway.forward("127.0.0.1", target) as address, socket.create_connection(address) as client:
        client.settimeout(20)
        client.sendall(b"idle")
        assert client.recv(4) == b"here"
        server.freeze()
        time.sleep(5)
        server.thaw()
        client.sendall(b"x")
        time.sleep(1)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_nobody_hangs_with_a_gateway_that_does(
    gateway: Gateway, server: "SshServer", target: int, hasty: float, tmp_path: Path
) -> None:
    """Whatever is asked of a gateway that has stopped ends in time: an open forward, a command, a file, a login."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(4 << 30)  # more than any disk takes in a second; it holds nothing
    errors: dict[str, BaseException] = {}

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            errors[name] = error

    forward = gateway.forward("127.0.0.1", target)
    with forward:
        link = gateway.connect()
        threads = [
            threading.Thread(target=attempt, args=("command", lambda: gateway.run("sleep 60", timeout=30))),
            threading.Thread(target=attempt, args=("file", lambda: gateway.put(large, str(tmp_path / "copy")))),
        ]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        server.freeze()
        began = time.monotonic()
        attempt("channel", lambda: link.open(("127.0.0.1", target)))
        attempt("login", gateway.connect)
        for thread in threads:
            thread.join(25)
        assert time.monotonic() - began < 25
        link.close()
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(
        ("command", "file", "channel", "login"), ssh_errors.GatewayHungError
    )
    server.thaw()
    assert gateway.run("echo back") == (0, "back\n")


PROGRAM = """
import os, signal, socket, sys, time
from pathlib import Path
from linac.transport.ssh import Gateway
from linac.transport.tunnels import Forward, Tunnels
host, port, user, host_key, key, target, how = sys.argv[1:]
gateway = Gateway(host, int(port), user, host_key, key=Path(key), timeout=5)
forward = gateway.forward("127.0.0.1", int(target))
address = forward.__enter__()
client = socket.create_connection(address)
client.settimeout(2)
client.sendall(b"take")
client.recv(4)
tunnels = Tunnels(gateway.connect, [Forward("local", ("127.0.0.1", 0), ("127.0.0.1", int(target)))])
tunnels.start()
while not tunnels.status().connected:
    time.sleep(0.05)
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        client.sendall(bytes(1 << 20))
except OSError:
    pass
print("blocked", flush=True)
if how == "in order":
    tunnels.stop()
    forward.__exit__(None, None, None)
"""


@pytest.mark.parametrize("how", ["in order", "just so"])
def test_a_process_can_end_while_its_gateway_hangs(server: "SshServer", target: int, project: Path, how: str) -> None:
    words = [server.host, str(server.port), server.user, server.host_key, str(server.key_file), str(target), how]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=project,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "ready\n"
        server.freeze()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "blocked\n"
        began = time.monotonic()
        _, errors = program.communicate(timeout=60)
        assert time.monotonic() - began < 20
        assert (program.returncode, errors) == (0, "")
    finally:
        if program.poll() is None:
            program.send_signal(signal.SIGKILL)
            program.communicate()


def test_a_login_that_is_going_on_when_a_process_ends_does_not_keep_it(service_that_says_nothing: int, project: Path) -> None:
    program = (
        "import sys, threading, time\n"
        "from linac.transport.ssh import shown_key\n"
        "threading.Thread(target=shown_key, args=('127.0.0.1', int(sys.argv[1])), kwargs={'timeout': 60}, daemon=True).start()\n"
        "time.sleep(0.5)\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, str(service_that_says_nothing)], cwd=project, timeout=120, capture_output=True
    )
    assert done.returncode == 0
    assert time.monotonic() - began < 40


@pytest.fixture
def service_that_says_nothing() -> Iterator[int]:
    """It greets like an SSH service, then falls silent."""
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(server.accept()[0])
                kept[-1].sendall(b"SSH-2.0-Silent\r\n")

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield int(server.getsockname()[1])
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)
    for connection in kept:
        connection.close()
