"""A connection comes about within its time, or not at all, whatever name servers and addresses do."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from linac.errors import UnreachableError
from linac.transport import Credentials, connect
from linac.transport.dialing import dial
from linac.transport.ssh import shown_key

ENOUGH = 20.0
"""Seconds: a busy machine's share on top of a second or two."""


@pytest.fixture
def silent_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Name servers that do not answer."""
    over, real = threading.Event(), socket.getaddrinfo
    before = set(threading.enumerate())

    def asked(host: str, *words: Any, flags: int = 0, **more: Any) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            over.wait(60)
        return real(host, *words, flags=flags, **more)

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    yield
    over.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)


@pytest.mark.usefixtures("silent_names")
def test_a_name_server_that_does_not_answer_is_not_waited_for() -> None:
    began = time.monotonic()
    with pytest.raises(socket.gaierror):
        dial("nss.example", 445, 0.5)
    with connect(r"\\nss.example\Backup", Credentials("a", "b"), timeout=0.5) as folder:
        with pytest.raises(UnreachableError, match="give its IP address"):
            folder.check()
    with pytest.raises(UnreachableError, match="no name server answers"):
        shown_key("gate.example", timeout=0.5)
    assert time.monotonic() - began < ENOUGH


def test_an_address_that_nobody_answers_at_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as full, socket.create_server(("127.0.0.1", 0)) as good:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", one.getsockname()) for one in (full, good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        began = time.monotonic()
        with dial("nss.example", 445, 4.0) as sock:
            assert sock.getpeername() == good.getsockname()
        assert time.monotonic() - began < ENOUGH
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found[:1] * 3)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            dial("nss.example", 445, 1.5)
        assert time.monotonic() - began < ENOUGH
        for filler in fillers:
            filler.close()


def test_addresses_need_no_look_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = threading.active_count()
        with dial("127.0.0.1", server.getsockname()[1], 5):
            assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        dial("127.0.0.1", _closed_port(), 5)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
