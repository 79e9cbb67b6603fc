"""A share behind a real gateway that dies or hangs: that is told in time, nothing is torn or left, the next try succeeds."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from linac.errors import LinacError
from linac.simulator.samba import Samba
from linac.transport import AwayError, connect, smb, ssh_link
from linac.transport.settling import SETTLING
from linac.transport.smb import SmbFolder
from linac.transport.ssh import Gateway
from linac.transport.ssh_errors import HostKeyChangedError

if TYPE_CHECKING:
    from linac.simulator.sshd import SshServer

BOUND = 30.0
"""Seconds: the timeout of 4 s, 5 s for the gateway's sign of life, and a busy machine's share."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stops and kills processes by POSIX signals")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before, sockets = set(threading.enumerate()), open_sockets()
    yield
    until = time.monotonic() + 8
    while (left := set(threading.enumerate()) - before) or open_sockets() > sockets:
        assert time.monotonic() < until, f"left: {[thread.name for thread in left]}, {open_sockets() - sockets} sockets"
        time.sleep(0.02)


def open_sockets() -> int:
    links = []
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sum(link.startswith("socket:") for link in links)


@pytest.fixture
def gate(ssh_server: "SshServer", tmp_path: Path) -> Iterator["SshServer"]:
    """A gateway for this test alone."""
    with type(ssh_server)(tmp_path / "sshd") as made:
        yield made


@pytest.fixture
def behind(gate: "SshServer", smb_server: Samba, tmp_path: Path) -> Iterator[Callable[[], SmbFolder]]:
    """Folders of the share behind it, closed at the end."""
    gateway = Gateway(gate.host, gate.port, gate.user, gate.host_key, key=gate.key_file, timeout=8)
    made: list[Any] = []

    def dial() -> SmbFolder:
        below = smb_server.unc("physics", f"behind {tmp_path.name}")
        made.append(connect(below, smb_server.credentials, port=smb_server.port, gateway=gateway, timeout=4))
        return made[-1].make_root()  # type: ignore[no-any-return]

    yield dial
    for folder in made:
        folder.close()


@pytest.fixture(params=["killed", "hung", "hung, and noticed by the gateway's watchman"])
def trouble(request: pytest.FixtureRequest, gate: "SshServer", monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """What happens to the gateway, and how it comes back."""
    if request.param == "killed":
        yield gate.kill, gate.start
        return
    monkeypatch.setattr(smb, "GATEWAY_SECONDS", 1.5)
    if "watchman" in request.param:
        monkeypatch.setattr(ssh_link, "PROBE_SECONDS", 0.3)
        monkeypatch.setattr(ssh_link, "HUNG_SECONDS", 0.7)
    yield gate.freeze, gate.thaw
    gate.thaw()


def meddle(folder: SmbFolder, method: str, after: int, happens: Callable[[], object]) -> None:
    """Let something happen after so many requests of this thread's connection."""
    link = folder._links.get()
    real, calls = getattr(link, method), [0]

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            happens()
        return real(*arguments)

    setattr(link, method, counted)


def blamed(work: Callable[[], object]) -> None:
    """It fails in time, and by its error an operator looks at the gateway, not at the server."""
    began = time.monotonic()
    with pytest.raises(AwayError, match=r"[Tt]he gateway 127") as caught:
        work()
    assert time.monotonic() - began < BOUND
    assert isinstance(caught.value, LinacError)
    assert "did not answer for 4 s" not in str(caught.value)


def test_in_mid_transfer(trouble: Any, behind: Callable[[], SmbFolder], big: Path, tmp_path: Path) -> None:
    happens, ends = trouble
    folder = behind()
    folder.store(big, "a.zip")
    meddle(folder, "end", 6, happens)
    blamed(lambda: folder.fetch("a.zip", tmp_path / "a.zip"))
    assert not (tmp_path / "a.zip").exists()
    blamed(lambda: folder.list())
    ends()
    assert folder.fetch("a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == big.read_bytes()
    assert SETTLING.wait()
    assert [path.name for path in tmp_path.glob("a.zip*")] == ["a.zip"]

    meddle(folder, "begin", 6, happens)
    with pytest.raises(AwayError, match="gateway"):
        folder.store(tmp_path / "a.zip", "b.zip")
    ends()
    assert [entry.name for entry in folder.list()] == ["a.zip"]
    folder.store(big, "b.zip")
    assert folder.read("b.zip") == big.read_bytes()


def test_a_server_that_a_gateway_does_not_reach_is_not_told_as_a_gateway_that_failed(
    gate: "SshServer", own_server: Samba
) -> None:
    gateway = Gateway(gate.host, gate.port, gate.user, gate.host_key, key=gate.key_file, timeout=8)
    unc = own_server.unc("physics")
    with connect(unc, own_server.credentials, port=own_server.port, gateway=gateway, timeout=4) as folder:
        folder.check()
        own_server.kill()
        with pytest.raises(AwayError):
            folder.list()  # the connection breaks off
        for _ in range(2):
            with pytest.raises(AwayError, match="works, but could not reach") as caught:
                folder.list()
            assert "failed" not in str(caught.value)


def test_a_gateway_that_stays_away_is_told_the_same_at_each_try(behind: Callable[[], SmbFolder], gate: "SshServer") -> None:
    folder = behind()
    folder.write("a", b"1")
    gate.kill()
    for _ in range(4):
        blamed(lambda: folder.write("a", b"2"))
    gate.start()
    folder.write("a", b"3")
    assert folder.read("a") == b"3"


def test_a_server_that_fails_behind_a_healthy_gateway_is_told_as_the_server(
    gate: "SshServer", own_server: Samba, tmp_path: Path
) -> None:
    gateway = Gateway(gate.host, gate.port, gate.user, gate.host_key, key=gate.key_file, timeout=5)
    with connect(own_server.unc("physics"), own_server.credentials, port=own_server.port, gateway=gateway, timeout=4) as folder:
        folder.write("a", b"1")
        own_server.freeze()
        with pytest.raises(AwayError, match=r"The server .*, through the gateway did not answer for 4 s"):
            folder.read("a")
        own_server.thaw()
        assert folder.read("a") == b"1"


def test_a_gateway_whose_key_has_changed_is_not_gone_through(behind: Callable[[], SmbFolder], gate: "SshServer") -> None:
    folder = behind()
    folder.write("a", b"1")
    gate.stop()
    gate.new_host_key("ecdsa")
    gate.start()
    with pytest.raises((AwayError, HostKeyChangedError)):  # the latter where the end of the old connection was noticed before
        folder.read("a")
    with pytest.raises(HostKeyChangedError, match="another host key"):
        folder.read("a")
