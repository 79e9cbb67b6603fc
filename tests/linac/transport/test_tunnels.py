"""Forwards that stand: they lead where they should, listen where they were asked to, and come back by themselves."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from linac.errors import SetupError
from linac.transport.ssh import Gateway
from linac.transport.tunnels import LOCAL, REMOTE, Forward, ForwardStatus, Tunnels

if TYPE_CHECKING:
    from linac.simulator.sshd import SshServer

HERE = "127.0.0.1"
ELSEWHERE = "127.0.0.2"


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 15
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < until, f"left behind: {[thread.name for thread in left]}"
        time.sleep(0.02)


def gateway_to(server: "SshServer") -> Gateway:
    return Gateway(server.host, server.port, server.user, server.host_key, key=server.key_file, timeout=5)


@pytest.fixture
def make_server(ssh_server: "SshServer", tmp_path: Path) -> Iterator[Callable[..., "SshServer"]]:
    made = []

    def start(**settings: str) -> "SshServer":
        made.append(type(ssh_server)(tmp_path / f"sshd-{len(made)}", settings))
        return made[-1].start()

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def free() -> Callable[[], int]:
    def port() -> int:
        with socket.socket() as probe:
            probe.bind((HERE, 0))
            return int(probe.getsockname()[1])

    return port


@pytest.fixture
def echo() -> Iterator[int]:
    """A service that says back what it hears, shouting."""
    over = threading.Event()
    server = socket.create_server((HERE, 0))
    server.settimeout(0.05)
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            connection.settimeout(0.1)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    data = connection.recv(1 << 16)
                    if not data:
                        return
                    connection.sendall(data.upper())

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                threads.append(threading.Thread(target=serve, args=(server.accept()[0],), daemon=True))
                threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    yield int(server.getsockname()[1])
    over.set()
    for thread in threads:
        thread.join(5)
    server.close()


def ask(port: int, host: str = HERE, words: bytes = b"a word that is longer than sixteen letters") -> bool:
    """Whether the service behind that port answers."""
    with socket.create_connection((host, port), 5) as client:
        client.settimeout(5)
        client.sendall(words)
        found = b""
        while len(found) < len(words) and (data := client.recv(1 << 16)):
            found += data
        return found == words.upper()


def wait(what: str, condition: Callable[[], object], seconds: float = 40.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def settled(tunnels: Tunnels) -> list[ForwardStatus]:
    """The forwards, once each is up or has said why not."""
    wait("settled", lambda: all(one.up or one.trouble for one in tunnels.status().forwards))
    return list(tunnels.status().forwards)


def up(tunnels: Tunnels) -> bool:
    return all(one.up for one in tunnels.status().forwards)


def test_local_and_remote_forwards_lead_to_their_targets_and_are_counted(
    ssh_server: "SshServer", echo: int, free: Callable[[], int]
) -> None:
    there, back = free(), free()
    forwards = [Forward(LOCAL, (HERE, there), (HERE, echo), "there"), Forward(REMOTE, (HERE, back), (HERE, echo), "back")]
    with Tunnels(gateway_to(ssh_server).connect, forwards, "gate") as tunnels:
        assert [one.trouble for one in settled(tunnels)] == ["", ""]
        for _ in range(3):
            assert ask(there)
            assert ask(back)
        assert ask(back, words=b"hi"), "less than a secret word is let through as well"
        wait("counted", lambda: [(one.connections, one.open) for one in tunnels.status().forwards] == [(3, 0), (4, 0)])
        assert [one.carried for one in tunnels.status().forwards] == [3 * 2 * 42, 3 * 2 * 42 + 4]
        status = tunnels.status()
        assert (status.connected, status.connections, status.gateway, status.trouble) == (True, 1, "gate", "")
    assert not tunnels.status().connected
    for port in (there, back):
        with pytest.raises(ConnectionRefusedError):
            ask(port)


@pytest.mark.skipif(os.name == "nt", reason="kills and stops sshd by POSIX signals")
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_when_the_gateway_is_lost_nobody_listens_and_all_is_made_anew_when_it_is_back(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int], fault: str
) -> None:
    server = make_server()
    there, back = free(), free()
    forwards = [Forward(LOCAL, (HERE, there), (HERE, echo)), Forward(REMOTE, (HERE, back), (HERE, echo))]
    with Tunnels(gateway_to(server).connect, forwards) as tunnels:
        wait("up", lambda: up(tunnels))
        with socket.create_connection((HERE, there)) as client:
            client.settimeout(30)
            client.sendall(b"x")
            assert client.recv(1) == b"X"
            getattr(server, fault)()
            took = wait("noticed", lambda: not tunnels.status().connected, 40)
            assert took < (15 + 8 if fault == "freeze" else 8)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            ask(there)
        assert all(one.trouble for one in tunnels.status().forwards)
        server.stop()
        server.start()
        wait("up again", lambda: up(tunnels), 60)
        assert ask(there)
        assert ask(back)
        status = tunnels.status()
        assert (status.connections, status.trouble) == (2, "")


@pytest.mark.skipif(os.name == "nt", reason="stops sshd by POSIX signals")
def test_a_gateway_that_hung_for_a_while_is_used_again_by_itself(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from linac.transport import ssh_link

    monkeypatch.setattr(ssh_link, "HUNG_SECONDS", 1.0)
    monkeypatch.setattr(ssh_link, "PROBE_SECONDS", 0.5)
    server, back = make_server(), free()
    with Tunnels(gateway_to(server).connect, [Forward(REMOTE, (HERE, back), (HERE, echo))]) as tunnels:
        wait("up", lambda: up(tunnels))
        server.freeze()
        wait("noticed", lambda: not tunnels.status().connected)
        server.thaw()
        wait("up again", lambda: up(tunnels), 60)
        assert ask(back)


def test_a_remote_forward_to_all_addresses_is_reached_by_all(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int]
) -> None:
    everywhere = free()
    with Tunnels(gateway_to(make_server()).connect, [Forward(REMOTE, ("*", everywhere), (HERE, echo))]) as tunnels:
        assert [(one.up, one.trouble, one.note) for one in settled(tunnels)] == [(True, "", "")]
        assert ask(everywhere)
        assert ask(everywhere, ELSEWHERE)


def test_a_server_that_listens_on_more_than_was_asked_for_is_found_out(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int]
) -> None:
    """GatewayPorts yes: it says that it listens on 127.0.0.1, and listens on all addresses."""
    server, port = make_server(GatewayPorts="yes"), free()
    with Tunnels(gateway_to(server).connect, [Forward(REMOTE, (HERE, port), (HERE, echo))]) as tunnels:
        (found,) = settled(tunnels)
        assert not found.up
        assert "GatewayPorts clientspecified" in found.trouble
        for host in (HERE, ELSEWHERE):
            with pytest.raises(OSError, match=r"refused|reset"):
                ask(port, host)


def test_a_server_that_listens_on_less_than_was_asked_for_is_found_out(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int]
) -> None:
    """GatewayPorts no: it listens on 127.0.0.1, and says nothing of it."""
    server, port, other, good = make_server(GatewayPorts="no"), free(), free(), free()
    forwards = [Forward(REMOTE, (host, at), (HERE, echo)) for host, at in (("*", port), ("127.0.0.5", other), (HERE, good))]
    with Tunnels(gateway_to(server).connect, forwards) as tunnels:
        wide, by_address, narrow = settled(tunnels)
        assert (wide.up, by_address.up, narrow.up) == (False, False, True), "one that fails does not keep the others down"
        assert "GatewayPorts no" in wide.trouble
        assert "GatewayPorts no" in by_address.trouble
        assert ask(good)


def test_where_the_gateway_forbids_to_look_and_listens_on_all_addresses_it_is_found_out_from_here(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int]
) -> None:
    server, port = make_server(PermitOpen="none", GatewayPorts="yes"), free()
    with Tunnels(gateway_to(server).connect, [Forward(REMOTE, (HERE, port), (HERE, echo))]) as tunnels:
        (found,) = settled(tunnels)
        assert not found.up
        assert "GatewayPorts clientspecified" in found.trouble


def test_where_the_gateway_forbids_to_look_that_is_told(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int]
) -> None:
    server, port = make_server(PermitOpen="none"), free()
    with Tunnels(gateway_to(server).connect, [Forward(REMOTE, (HERE, port), (HERE, echo))]) as tunnels:
        (found,) = settled(tunnels)
        assert found.up
        assert "could not be verified" in found.note
        assert ask(port)


def test_ports_that_are_taken_are_told_and_had_as_soon_as_they_are_free(
    ssh_server: "SshServer", echo: int, free: Callable[[], int]
) -> None:
    with socket.create_server((HERE, 0)) as here, socket.create_server((HERE, 0)) as there:
        ports = [int(one.getsockname()[1]) for one in (here, there)]
        forwards = [Forward(LOCAL, (HERE, ports[0]), (HERE, echo)), Forward(REMOTE, (HERE, ports[1]), (HERE, echo))]
        tunnels = Tunnels(gateway_to(ssh_server).connect, forwards)
        tunnels.start()
        one, other = settled(tunnels)
        assert "Another program has the port" in one.trouble
        assert "the port is taken there" in other.trouble
    try:
        wait("up", lambda: up(tunnels))
        assert all(ask(port) for port in ports)
    finally:
        assert tunnels.stop()


def test_a_target_that_cannot_be_reached_is_told_and_the_forward_stays(
    ssh_server: "SshServer", echo: int, free: Callable[[], int]
) -> None:
    there, back, closed = free(), free(), free()
    forwards = [Forward(LOCAL, (HERE, there), (HERE, closed)), Forward(REMOTE, (HERE, back), (HERE, closed))]
    with Tunnels(gateway_to(ssh_server).connect, forwards) as tunnels:
        wait("up", lambda: up(tunnels))
        for port in (there, back):
            with contextlib.suppress(ConnectionError):
                assert not ask(port)
        wait("told", lambda: all(str(closed) in one.trouble for one in tunnels.status().forwards))
        assert up(tunnels)
        with socket.create_server((HERE, closed)) as late:
            with socket.create_connection((HERE, there)):
                late.accept()[0].close()
            wait("told no more", lambda: not tunnels.status().forwards[0].trouble)


def test_a_gateway_that_is_away_at_first_is_waited_for(
    ssh_server: "SshServer", tmp_path: Path, echo: int, free: Callable[[], int]
) -> None:
    server = type(ssh_server)(tmp_path / "late")
    server.port, there = free(), free()
    with Tunnels(gateway_to(server).connect, [Forward(LOCAL, (HERE, there), (HERE, echo))]) as tunnels:
        wait("told", lambda: "refused the connection" in tunnels.status().trouble)
        try:
            server.start()
            wait("up", lambda: up(tunnels))
            assert ask(there)
        finally:
            server.stop()


def test_forwards_in_each_others_way_are_refused() -> None:
    one, other = Forward(LOCAL, (HERE, 5000), ("a", 1), "one"), Forward(LOCAL, (HERE, 5000), ("b", 2), "other")
    with pytest.raises(SetupError, match="'one' and 'other' listen on the same port 5000"):
        Tunnels(lambda: pytest.fail("not connected"), [one, other])
    Tunnels(lambda: pytest.fail("not connected"), [one, Forward(REMOTE, (HERE, 5000), ("b", 2))])


def test_the_account_that_the_documentation_recommends_can_do_what_is_needed_and_no_more(
    make_server: Callable[..., "SshServer"], echo: int, free: Callable[[], int], project: Path, tmp_path: Path
) -> None:
    from linac.transport import ssh_errors

    text = (project / "docs" / "tunnels.md").read_text(encoding="utf-8")
    block = text.split("```sshd_config\n")[1].split("```")[0]
    back, other, user = free(), free(), gateway_user()
    config = (
        block.replace("User tunnel", f"User {user}").replace("192.168.17.40:445", f"{HERE}:{echo}").replace(":44540", f":{back}")
    )
    config = config.replace(f" {HERE}:*", f" {HERE}:{back}").replace(f" {ELSEWHERE}:*", f" {ELSEWHERE}:{back}")
    gateway = gateway_to(make_server(Banner=f"none\n{config}"))
    with gateway.forward(HERE, echo) as (_, port):
        assert ask(port)
    with pytest.raises(ssh_errors.ForwardProhibitedError):
        gateway.forward(HERE, other).__enter__()
    assert gateway.run("echo hello")[1] == ""
    with pytest.raises((ssh_errors.GatewayHungError, SetupError)):
        gateway.put(Path(__file__), str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
    forwards = [Forward(REMOTE, (HERE, back), (HERE, echo)), Forward(REMOTE, (HERE, other), (HERE, echo))]
    with Tunnels(gateway.connect, forwards) as tunnels:
        allowed, forbidden = settled(tunnels)
        assert (allowed.up, allowed.note) == (True, "")
        assert ask(back)
        assert "PermitListen" in forbidden.trouble


def gateway_user() -> str:
    import getpass

    return getpass.getuser()
