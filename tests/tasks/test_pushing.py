"""A service put on its capture host by add-linac, and taken away again: planned first, done once, moved with the linac."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from pydantic import SecretStr

from blocks import Linac, Share, Site, SmbCredentials, SshGateway
from blocks.linac import Service
from linac.capture import control
from linac.provision import push
from linac.simulator import SimulatedLinac
from linac.simulator.sshd import is_installed
from tasks import files, pushing
from tasks.plan import Step
from tests.linac.provision.linux_host import linux_host

pytestmark = pytest.mark.skipif(os.name == "nt" or not is_installed(), reason="OpenSSH's server is not installed")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with linux_host(tmp_path) as made:
        monkeypatch.setattr(push, "LINUX_HOME", made.home)
        yield made


@pytest.fixture
def in_service(monkeypatch: pytest.MonkeyPatch) -> list[Linac]:
    """The linacs in service, in the place of a server."""
    present: list[Linac] = []
    monkeypatch.setattr(files, "linacs_in_service", lambda: present)
    return present


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Linac]:
    def made(serial: str = "4299", **other: Any) -> Linac:
        records = Share(path=str(tmp_path / "records"))
        site = Site(name="NBCC", time_zone="UTC", records=records, spool=str(tmp_path / "spool"), capture_host="nbccc-capture")
        answers = {"serial": serial, "address": "192.168.17.40", "site": site, "backup": Share(path="/nss"), **other}
        return Linac(**{"service": Service.SYSTEMD, **answers})

    return made


def login(host: SimpleNamespace) -> SshGateway:
    server = host.server
    return SshGateway(
        host=server.host, port=server.port, username=server.user, key_file=str(server.key_file), host_key=server.host_key
    )


def only(steps: list[Step]) -> Step:
    (step,) = steps
    assert not step.problem, step.problem
    return step


def do(step: Step) -> None:
    assert step.do is not None
    with disable_run_logger():
        step.do()


@pytest.mark.skipif(shutil.which("python3", path="/usr/bin") is None, reason="there is no /usr/bin/python3 for the units to run")
def test_a_service_is_planned_pushed_kept_and_taken_away(
    host: SimpleNamespace, in_service: list[Linac], make: Callable[..., Linac]
) -> None:
    with SimulatedLinac("4299", speed=4) as simulated:
        linac = make(address=simulated.address[0], port=simulated.address[1], capture_login=login(host))
        step = only(pushing.pushed_steps(linac))
        assert step.name == "Service on 127.0.0.1"
        assert step.change.startswith("copied, ")
        assert step.change.endswith("; started: the recording of linac 4299")
        assert "+ icom-listening-4299.service" in step.diff.splitlines()
        assert not Path(host.home).exists(), "a plan changes nothing"
        do(step)
        assert control.is_running(host.spool, "4299")
        in_service.append(linac)
        assert not only(pushing.pushed_steps(linac)).change, "the second time there is nothing to do"
        assert pushing.moved_steps(linac, linac) == []
        assert pushing.moved_steps(make(), linac) == [], "IT's from now on"
        elsewhere = login(host).model_copy(update={"host": "localhost"})
        assert only(pushing.moved_steps(make(capture_login=elsewhere), linac)).name == "Service on 127.0.0.1"

        (moved,) = pushing.moved_steps(make(capture_host="another"), linac)
        assert moved.change == "stopped in order and removed; what was recorded is kept"
        do(only(pushing.withdrawn_steps(linac)))
        assert not (host.units / "icom-listening-4299.service").exists()
        assert not list(host.top.glob("*.pid"))


def test_it_is_its_own_only_where_there_is_a_login(make: Callable[..., Linac]) -> None:
    linac = make()
    assert pushing.pushed_steps(linac) + pushing.withdrawn_steps(linac) + pushing.moved_steps(make("2619"), linac) == []


def test_what_hinders_it_is_told_before_anything_is_changed(
    host: SimpleNamespace,
    in_service: list[Linac],
    make: Callable[..., Linac],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushing, "PROGRAMS", tmp_path / "programs")
    linac = make(service=Service.NSSM, capture_login=login(host))
    linac.site.records = Share(path=r"\\srv\records")
    (step,) = pushing.pushed_steps(linac)
    assert "put python-3.11.9-embed-amd64.zip or newer" in step.problem
    assert "then the service there is IT's" in step.problem
    host.server.stop()
    (step,) = pushing.pushed_steps(make(capture_login=login(host)))
    assert "127.0.0.1" in step.problem


@pytest.mark.parametrize(
    ("account", "log_on"),
    [
        ({"username": "icom", "domain": "HOSPITAL"}, r"HOSPITAL\icom"),
        ({"username": "icom"}, r".\icom"),
        ({"username": "icom@hospital.example"}, "icom@hospital.example"),
    ],
)
def test_an_account_is_named_as_windows_names_it(account: dict[str, str], log_on: str, make: Callable[..., Linac]) -> None:
    linac = make(service=Service.NSSM, service_account=SmbCredentials(**account, password=SecretStr("geheim")))
    linac.site.records, linac.site.spool = Share(path=r"\\srv\records"), r"D:\spool"
    assert (
        files.services_of([make("2619", address="192.168.17.41", service=Service.NSSM, site=linac.site), linac]).log_on == log_on
    )
