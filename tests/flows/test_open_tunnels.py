"""site-tunnel under a real worker and a real sshd: up, shown, made anew when the gateway was lost, closed in order."""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

if TYPE_CHECKING:
    from blocks import Site
    from launch.stack import Stack
    from linac.simulator.sshd import SshServer

HERE = "127.0.0.1"


def wait(what: str, condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def worker(prefect_stack: "Stack") -> Iterator["Stack"]:
    prefect_stack.start_worker()
    yield prefect_stack
    assert prefect_stack.worker is not None
    prefect_stack.worker.end()


@pytest.fixture
def server(ssh_server: "SshServer", tmp_path: Path) -> Iterator["SshServer"]:
    with type(ssh_server)(tmp_path / "sshd") as made:
        yield made


@pytest.fixture
def target() -> Iterator[int]:
    """A service that welcomes everybody."""
    service = socket.create_server((HERE, 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with service.accept()[0] as connection:
                    connection.sendall(b"welcome")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(service.getsockname()[1])
    with contextlib.suppress(OSError):
        service.shutdown(socket.SHUT_RDWR)
    service.close()
    thread.join(5)


def answers(port: int) -> bool:
    try:
        with socket.create_connection((HERE, port), 3) as client:
            client.settimeout(3)
            return client.recv(20) == b"welcome"
    except OSError:
        return False


class Lab:
    """A site with a gateway, its blocks and its deployment."""

    def __init__(self, name: str, root: Path, server: "SshServer", target: int) -> None:
        from pydantic import SecretStr

        from blocks import Share, Site, SshGateway
        from blocks.site import Forward

        self.name, self.local, self.remote = name, free_port(), free_port()
        gateway = SshGateway(
            host=server.host,
            port=server.port,
            username=server.user,
            host_key=server.host_key,
            private_key=SecretStr(server.key_file.read_text()),
        )
        gateway.save(f"{name}-gateway", overwrite=True)
        self.site = Site(
            name=f"Lab {name}",
            time_zone="Europe/Berlin",
            records=Share(path=str(root)),
            spool=str(root / "spool"),
            gateway=gateway,
            forwards=[
                Forward(direction="local", listen_port=self.local, target_host=HERE, target_port=target, label="to the hub"),
                Forward(direction="remote", listen_port=self.remote, target_host=HERE, target_port=target, label="to the site"),
            ],
        )
        self.site.save(name, overwrite=True)

    def start(self) -> UUID:
        from prefect.client.orchestration import get_client

        from tasks.tunnels import ensure_tunnel, make_tunnel_deployment

        assert "2 forwards" in make_tunnel_deployment(self.name)
        assert "2 forwards" in make_tunnel_deployment(self.name), "twice is as good as once"
        assert "was started" in ensure_tunnel(self.name)
        assert "running already" in ensure_tunnel(self.name)
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs()
            return next(run.id for run in runs if run.deployment_id == self.deployment() and not run.state.is_final())  # type: ignore[union-attr]

    def deployment(self) -> UUID:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return client.read_deployment_by_name(f"site-tunnel/{self.name}").id

    def report(self) -> str:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
        from prefect.client.schemas.sorting import ArtifactSort

        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[f"site-tunnel-{self.name}"]))
        with get_client(sync_client=True) as client:
            found = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC, limit=1)
        return str(found[0].data) if found else ""

    def clear(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectNotFound

        from blocks import Site, SshGateway, load

        with get_client(sync_client=True) as client:
            with contextlib.suppress(ObjectNotFound):
                for run in client.read_flow_runs():
                    if run.deployment_id == self.deployment() and run.state is not None and not run.state.is_final():
                        client.delete_flow_run(run.id)
                for title in ("mark silent runs as crashed", "start again"):
                    found = client.read_automations_by_name(f"site-tunnel/{self.name}: {title}")
                    assert len(found) == 1
                    client.delete_automation(found[0].id)
                client.delete_deployment(self.deployment())
        for kind, name in ((Site, self.name), (SshGateway, f"{self.name}-gateway")):
            if load(kind, name) is not None:
                kind.delete(name)


@pytest.fixture
def lab(prefect_server: str, server: "SshServer", target: int, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    name = "lab-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-30:].strip("-")
    made = Lab(name, tmp_path, server, target)
    yield made
    made.clear()


def state(run: UUID) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(run).state_name)


def cancel(run: UUID) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())


@pytest.mark.skipif(os.name == "nt", reason="kills sshd by POSIX signals")
def test_tunnels_stand_come_back_and_are_closed_in_order(lab: Lab, server: "SshServer", worker: "Stack", target: int) -> None:
    from blocks.site import Forward

    run = lab.start()
    wait("up", lambda: answers(lab.local) and answers(lab.remote))
    wait("shown", lambda: lab.report().count("✅ up") == 2)

    server.kill()
    wait("down", lambda: not answers(lab.local), 30)
    wait("the trouble is shown", lambda: "❌ down" in lab.report() and "refused" in lab.report())
    server.start()
    wait("up again", lambda: answers(lab.local) and answers(lab.remote), 90)

    more = free_port()
    lab.site.forwards.append(Forward(direction="local", listen_port=more, target_host=HERE, target_port=target, label="a third"))
    lab.site.save(lab.name, overwrite=True)
    wait("a forward that was added is taken over", lambda: answers(more), 60)

    cancel(run)
    wait("cancelled", lambda: state(run) == "Cancelled", 60)
    assert not any(answers(port) for port in (lab.local, lab.remote, more))
    assert lab.report().count("❌ down") == 3
    body = server.key_file.read_text().splitlines()[1]
    assert body not in lab.report()


def test_a_second_run_leaves_the_work_to_the_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.open_tunnels import site_tunnel
    from linac.capture.lock import EndpointLock
    from tasks import tunnels

    monkeypatch.setattr(tunnels, "HAND_OVER_SECONDS", 0.5)
    first = EndpointLock(f"site-tunnel {lab.name}", 0)
    assert first.acquire()
    try:
        second: Any = site_tunnel(site=lab.name, return_state=True)
    finally:
        first.release()
    assert second.is_completed()
    assert "another run already" in str(second.message)


def test_whatever_ends_a_run_its_ports_are_free_for_the_retry(
    lab: Lab, server: "SshServer", target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry goes on in the same process."""
    from flows.open_tunnels import site_tunnel
    from tasks import tunnels

    def unforeseen(_: object) -> None:
        wait("up", lambda: answers(lab.local))
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(tunnels, "state_type_of", unforeseen)
    ended: Any = site_tunnel.with_options(retries=0)(site=lab.name, return_state=True)
    assert ended.is_failed()
    assert not answers(lab.local)
    with socket.create_server((HERE, lab.local)):
        pass


def without(site: "Site", **changes: Any) -> "Site":
    return site.model_copy(update=changes)


def test_a_site_without_gateway_or_forwards_is_told_what_is_missing(lab: Lab) -> None:
    from linac.errors import SetupError
    from tasks.tunnels import forwards_of

    with pytest.raises(SetupError, match="no gateway of the tunnels"):
        forwards_of("x", without(lab.site, gateway=None))
    with pytest.raises(SetupError, match="no forwards"):
        forwards_of("x", without(lab.site, forwards=[]))
    with pytest.raises(SetupError, match="same port"):
        forwards_of("x", without(lab.site, forwards=[lab.site.forwards[0], lab.site.forwards[0]]))


def test_the_site_block_is_saved_and_loaded_with_its_forwards(lab: Lab) -> None:
    from blocks import Site, load

    found = load(Site, lab.name)
    assert found is not None
    assert found.forwards == lab.site.forwards
    assert found.gateway is not None
    assert found.gateway.open().host == HERE
