"""A look at an iCom service: what is wrong is said in words that name who can mend it."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.capture import control
from linac.capture.check import probe, probe_journal
from linac.errors import AlreadyRunningError, NotIcomError, UnreachableError, WrongMachineError


@contextlib.contextmanager
def sending(peer: Any, messages: list[bytes], every: float = 0.02) -> Iterator[None]:
    """Send them to every client, again and again, until the end."""
    ending = threading.Event()

    def run() -> None:
        number = 0
        while not ending.wait(every):
            for connection in list(peer.connections):
                with contextlib.suppress(OSError):
                    connection.sendall(messages[number % len(messages)])
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def test_a_linac_that_answers(peer: Any, lab: SimpleNamespace) -> None:
    with sending(peer, lab.session("TEST-1", 200)):
        seen = probe("127.0.0.1", peer.port, "4299", seconds=0.5)
    assert seen.messages >= 10
    assert seen.machine_ids == ["4299"]
    assert seen.skipped_bytes == 0
    assert 0 < seen.first_message_after_s < 0.4
    assert 0.4 < seen.seconds < 1.5
    assert seen.patient_loaded
    assert not seen.from_journal
    assert "TEST-1" not in repr(seen)
    assert "Nobody" not in repr(seen)
    lab.wait_for(lambda: peer.endings)
    assert peer.endings == {0: "fin"}, "it leaves in order, and has said nothing"


def test_another_machine(peer: Any, lab: SimpleNamespace) -> None:
    with (
        sending(peer, lab.idle(200, 0, machine="2619")),
        pytest.raises(WrongMachineError, match="answers machine 2619") as caught,
    ):
        probe("127.0.0.1", peer.port, "4299", seconds=0.3)
    assert "4299" in str(caught.value)
    lab.wait_for(lambda: peer.endings == {0: "fin"})


def test_a_machine_without_id_and_no_serial_asked_for(peer: Any, lab: SimpleNamespace) -> None:
    with sending(peer, lab.idle(200, 0, machine="")):
        assert probe("127.0.0.1", peer.port, "4299", seconds=0.3).machine_ids == []
    with sending(peer, lab.idle(200, 0, machine="2619")):
        assert probe("127.0.0.1", peer.port, seconds=0.3).machine_ids == ["2619"]


def test_no_icom_service(peer: Any) -> None:
    with sending(peer, [b"SSH-2.0-OpenSSH_9.2p1\r\n"]), pytest.raises(NotIcomError, match="does not speak iCom"):
        probe("127.0.0.1", peer.port, "4299", seconds=0.3, timeout=0.5)


def test_a_silent_service(peer: Any, lab: SimpleNamespace) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="says nothing"):
        probe("127.0.0.1", peer.port, "4299", seconds=0.2, timeout=0.6)
    assert 0.5 < time.monotonic() - began < 2
    lab.wait_for(lambda: peer.endings == {0: "fin"})


def test_a_service_that_hangs_up(peer: Any) -> None:
    threading.Thread(target=lambda: peer.wait() and peer.hang_up()).start()
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="says nothing"):
        probe("127.0.0.1", peer.port, "4299", seconds=0.3)
    assert time.monotonic() - began < 2


def test_a_refused_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnreachableError) as caught:
        probe("127.0.0.1", port, "4299")
    assert str(caught.value) == (
        f"Linac 4299: the NSS at 127.0.0.1 refused port {port}. First see whether the linac is switched on. If it is, the "
        "iCom licence or firewall rule is probably missing on the NSS: ask the Elekta engineer to allow this server, then try "
        "again."
    )
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_an_address_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableError, match="does not resolve"):
        probe("nss-4299.hospital.invalid", 1706, "4299")


def test_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    from linac.capture import connection

    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(10) and [])
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="does not resolve"):
        connection.resolve("4299", "nss-4299", 1706, timeout=0.2)
    assert time.monotonic() - began < 1
    answer.set()


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses where Linux drops")
def test_nobody_answers() -> None:
    """A port whose queue of connections is full drops what comes, as a firewall does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(4):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(server.getsockname())
            waiting.append(other)
        time.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="nothing answers"):
            probe("127.0.0.1", server.getsockname()[1], "4299", timeout=0.6)
        assert time.monotonic() - began < 3
        for other in waiting:
            other.close()


def test_a_linac_that_is_listened_to_is_looked_at_through_the_journal(peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    assert probe_journal(spool, "4299") is None
    control.start("4299", "127.0.0.1", peer.port, spool)
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.connected)
    with pytest.raises(UnreachableError, match="says nothing"):
        probe_journal(spool, "4299", seconds=0.1, timeout=0.3)
    with sending(peer, lab.session("TEST-1", 250)):
        lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages > 3)
        with pytest.raises(AlreadyRunningError, match="one connection only"):
            probe("127.0.0.1", peer.port, "4299")
        seen = probe_journal(spool, "4299", seconds=0.5)
    assert seen is not None
    assert seen.from_journal
    assert seen.machine_ids == ["4299"]
    assert 5 <= seen.messages < 60
    assert len(peer.connections) == 1
    with sending(peer, lab.idle(250, 0, machine="2619")), pytest.raises(WrongMachineError):
        probe_journal(spool, "4299", seconds=0.3)


def test_a_listener_that_cannot_connect_says_why(spool: Path, lab: SimpleNamespace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    control.start("4299", "127.0.0.1", port, spool)
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.last_error)
    with pytest.raises(UnreachableError, match="refused port"):
        probe_journal(spool, "4299", seconds=0.1, timeout=0.2)
