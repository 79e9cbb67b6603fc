"""The connection itself: made in bounded time, ended in order."""

import socket
import time
from collections.abc import Iterator

import pytest

from linac.capture.connection import close_in_order, connect
from linac.errors import UnreachableError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's and a service's end of one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = connect("4299", "127.0.0.1", server.getsockname()[1])
        service, _ = server.accept()
        service.settimeout(5)
        yield client, service
        client.close()
        service.close()


def test_a_listener_that_does_not_get_to_run_holds_up_no_send(pair: tuple[socket.socket, socket.socket]) -> None:
    """Five seconds of messages, one by one into a send buffer smaller than each, while nobody reads."""
    _, service = pair
    service.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    service.settimeout(0.5)
    for _ in range(20):
        service.sendall(b"x" * 8000)  # raises TimeoutError


def test_bytes_that_nobody_has_read_yet_do_not_turn_the_end_into_a_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    service.sendall(b"x" * 100_000)
    time.sleep(0.1)
    taken: list[bytes] = []
    close_in_order(client, taken.append)
    assert b"".join(taken) == b"x" * 100_000
    assert service.recv(1) == b"", "FIN, not ConnectionResetError"


def test_a_service_that_never_stops_sending_does_not_keep_us(pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    service.setblocking(False)
    taken: list[bytes] = []

    def take(data: bytes) -> None:
        taken.append(data)
        for _ in range(3):
            try:
                service.send(b"more" * 1000)
            except OSError:
                return

    service.send(b"first")
    began = time.monotonic()
    close_in_order(client, take, seconds=0.3)
    assert 0.2 < time.monotonic() - began < 1.0
    assert taken


def test_a_connection_that_is_gone_is_closed_without_a_word(pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    service.close()
    client.close()
    close_in_order(client, lambda _: None)


def test_the_options_that_matter_are_set(pair: tuple[socket.socket, socket.socket]) -> None:
    client, _ = pair
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 200_000
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


def test_an_attempt_ends_as_soon_as_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """192.0.2.1 is an address of documentation that nobody has."""
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        connect("4299", "192.0.2.1", 1706, timeout=30, stopping=lambda: time.monotonic() - began > 0.3)
    assert time.monotonic() - began < 2
