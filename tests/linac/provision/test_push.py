"""Pushing to a capture host: a real sshd, a real listener, a simulated linac. Stood in: systemctl, and what makes accounts."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.capture import control
from linac.errors import SetupError, UnreachableError
from linac.provision import NSSM, SYSTEMD, Listening, Services
from linac.provision.__main__ import main
from linac.provision.push import _files, _pending, _placed, push
from linac.provision.push_linux import Linux
from linac.provision.pushing import RUNNING, STARTING, STOPPED
from linac.simulator import SimulatedLinac
from linac.simulator.sshd import is_installed
from tests.linac.provision.linux_host import linux_host

pytestmark = pytest.mark.skipif(os.name == "nt" or not is_installed(), reason="OpenSSH's server is not installed")


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SimpleNamespace]:
    with linux_host(tmp_path) as host:
        yield host


def services(lab: SimpleNamespace, linac: SimulatedLinac, **changes: Any) -> Services:
    listening = Listening("4299", linac.address[0], linac.address[1])
    return Services(
        **{"kind": SYSTEMD, "linacs": (listening,), "records": str(lab.top / "records"), "spool": str(lab.spool), **changes}
    )


@pytest.fixture
def pushed(lab: SimpleNamespace) -> Callable[..., list[str]]:
    def run(what: Services, **more: Any) -> list[str]:
        said: list[str] = []
        push(lab.gateway, what, said.append, home=lab.home, **more)
        return said

    return run


@pytest.mark.skipif(shutil.which("python3", path="/usr/bin") is None, reason="there is no /usr/bin/python3 for the units to run")
def test_a_push_ends_with_messages_and_pushing_again_changes_nothing(
    lab: SimpleNamespace, pushed: Callable[..., list[str]]
) -> None:
    with SimulatedLinac("4299", speed=4) as linac:
        what = services(lab, linac)
        first = pushed(what, wait_seconds=90)
        assert first[0].startswith("copied, ")
        assert "icom-listening-4299.service: installed" in first[1]
        assert first[2] == "icom-listening-4299.service: runs."
        assert first[3].startswith("Linac 4299: ")
        assert first[3].endswith(" messages have arrived.")
        status = control.status(lab.spool, "4299")
        assert status is not None
        assert status.connected
        written = {path: path.stat().st_mtime_ns for path in Path(lab.home).rglob("*.py")}
        again = pushed(what)
        assert again[0] == f"{lab.home}: unchanged."
        assert "icom-listening-4299.service: unchanged" in again[1]
        assert {path: path.stat().st_mtime_ns for path in Path(lab.home).rglob("*.py")} == written
        other = pushed(services(lab, linac, log_on="recorder"))
        assert other[0].startswith("updated, ")
        assert "when no patient is being treated: systemctl restart" in other[1]
        now = control.status(lab.spool, "4299")
        assert now is not None
        assert now.pid == status.pid  # the recording went on
        assert now.reconnects == status.reconnects
        assert not [path for path in lab.top.iterdir() if path.name.startswith("opt.")]


def test_a_file_that_is_missing_or_damaged_on_the_host_is_copied_again(lab: SimpleNamespace) -> None:
    what = Services(SYSTEMD, (Listening("4299", "192.168.17.40"),), str(lab.top / "records"), str(lab.spool))
    system = Linux(lab.gateway, what, lab.home)
    files = _files(what, None, lab.home)

    def placed() -> list[str]:
        pending = _pending(system, files, what)
        _placed(system, files, pending)
        return sorted(pending.changed)

    assert len(placed()) > 10
    assert placed() == []
    gone, damaged = "program/linac/errors.py", "services-install.sh"
    (Path(lab.home) / gone).unlink()
    (Path(lab.home) / damaged).write_bytes(files[damaged][:-1] + b"#")
    assert placed() == [gone, damaged]
    for name in (gone, damaged):
        assert (Path(lab.home) / name).read_bytes() == files[name]
    assert placed() == []
    put(lab, "sha256sum", "exit 127")
    assert placed() == [], "without that program the list counts"


def test_a_dry_run_shows_what_would_be_copied_and_started(lab: SimpleNamespace, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("linac.provision.push.LINUX_HOME", lab.home)
    server = lab.server
    where = ["--host", server.host, "--ssh-port", str(server.port), "--user", server.user, "--key-file", str(server.key_file)]
    what = ["--serial", "4299", "--address", "192.168.17.40", "--records", "/mnt/records"]
    assert main(["push", *where, "--host-key", server.host_key, *what, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "to be copied: icom-listening-4299.service" in said
    assert "to be started: the service of linac 4299" in said
    assert said[-1].endswith("this is what would be changed; nothing was.")
    assert not Path(lab.home).exists()


def test_on_windows_an_account_needs_its_password_from_somewhere(capsys: Any, monkeypatch: Any) -> None:
    host = ["--host", "127.0.0.1", "--user", "physics", "--host-key", HOST_KEY, "--kind", "nssm", "--log-on", "HOSPITAL\\icom"]
    what = ["--serial", "4299", "--address", "192.168.17.40", "--records", "D:\\records"]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.delenv("LINAC_FLOWS_SERVICE_PASSWORD", raising=False)
    assert main(["push", *host, *what]) == 1
    assert "set LINAC_FLOWS_SERVICE_PASSWORD" in capsys.readouterr().err


def test_silence_is_told(lab: SimpleNamespace, pushed: Callable[..., list[str]]) -> None:
    with SimulatedLinac("4299") as linac:
        what = services(lab, linac)
    with pytest.raises(UnreachableError, match="no message has come within"):
        pushed(what, wait_seconds=0)


def test_a_host_that_is_not_fit_or_refuses_is_told_with_what_it_said(
    lab: SimpleNamespace, pushed: Callable[..., list[str]]
) -> None:
    with SimulatedLinac("4299") as linac:
        what = services(lab, linac)
    with pytest.raises(SetupError, match="python-embed"):
        push(lab.gateway, Services(NSSM, what.linacs, "D:\\records"), print)
    put(lab, "useradd", "echo no room for accounts; exit 9")
    put(lab, "getent", "exit 2")
    with pytest.raises(SetupError, match=r"(?s)The installation failed on the host \(exit code 9\).*no room for accounts"):
        pushed(what)
    put(lab, "uname", "echo Darwin")
    with pytest.raises(SetupError, match=r"not fit for the listener.*Darwin"):
        pushed(what)


def test_who_is_not_root_uses_sudo(lab: SimpleNamespace, pushed: Callable[..., list[str]]) -> None:
    with SimulatedLinac("4299") as linac:
        what = services(lab, linac)
    put(lab, "id", 'if [ -n "$AS_ROOT" ]; then echo 0; else echo 1000; fi')
    put(lab, "sudo", "echo a password is required; exit 1")
    with pytest.raises(SetupError, match=r"may not install services: a password is required"):
        pushed(what)
    put(lab, "sudo", '[ "$1" = -n ] && shift; AS_ROOT=1 exec "$@"')
    put(lab, "getent", "exit 2")
    put(lab, "useradd", "exit 9")  # so far it comes as root
    with pytest.raises(SetupError, match=r"exit code 9"):
        pushed(what)


@pytest.mark.parametrize(
    ("said", "state"),
    [((0, "active\n"), RUNNING), ((3, "activating\n"), STARTING), ((3, "inactive\n"), STOPPED), ((4, ""), STOPPED)],
)
def test_the_state_of_a_service_is_the_one_that_systemd_names(said: tuple[int, str], state: str) -> None:
    host: Any = SimpleNamespace(run=lambda command, *_: (0, "Linux\n0\nfit\n") if command.startswith("uname") else said)
    what = Services(SYSTEMD, (Listening("4299", "192.168.17.40"),), "/mnt/records")
    assert Linux(host, what, "/opt/x").state("4299") == (state, said[1])


def put(lab: SimpleNamespace, name: str, text: str) -> None:
    path = lab.top / "tools" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
