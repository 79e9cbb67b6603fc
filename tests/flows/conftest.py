"""A site and a simulated linac for the flows to work on."""

import contextlib
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from linac.simulator import SimulatedLinac

SECRET = "Sicherlich-geheim-7"


class Lab:
    """A hospital in a folder: a site, a linac, its backup folder, and what the flows leave on the Prefect server."""

    def __init__(self, root: Path, serial: str, linac: SimulatedLinac) -> None:
        from blocks import Share, Site

        self.root, self.serial, self.linac = root, serial, linac
        self.backup, self.records, self.spool = root / "nss" / "TCS", root / "records", root / "spool"
        self.backup.mkdir(parents=True)
        self.records.mkdir()
        self.site_name = f"lab-{serial.lower()}"
        site = Site(
            name=f"Lab {serial}", time_zone="Australia/Sydney", records=Share(path=str(self.records)), spool=str(self.spool)
        )
        site.save(self.site_name, overwrite=True)

    @property
    def answers(self) -> dict[str, object]:
        """What a physicist enters into the form of add-linac."""
        host, port = self.linac.address
        return {
            "serial": self.serial,
            "address": host,
            "icom_port": port,
            "site": self.site_name,
            "backup_folder": str(self.backup),
            "steadiness_seconds": 1,
            "wait_seconds": 0,
        }

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """The linac is recorded and archived while this lasts, as icom-capture does it under a worker."""
        import threading

        from linac.capture import control
        from linac.capture.archive import Archiver
        from linac.transport import connect

        ending = threading.Event()

        def run() -> None:
            with connect(self.records) as records:
                archiver = Archiver(self.spool, self.serial, self.linac.address[0], records.below("iCom"))
                while not ending.wait(0.2):
                    archiver.run_once()

        control.start(self.serial, *self.linac.address, self.spool)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def clear(self) -> None:
        """Take the lab's own things off the server: a worker started later would set to work on what is left."""
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectNotFound

        from blocks import Linac, Site, block_name, load
        from tasks.automations import names
        from tasks.deployments import queue_name
        from tasks.provision import unfinished_runs

        with get_client(sync_client=True) as client:
            with contextlib.suppress(ObjectNotFound):
                deployment = client.read_deployment_by_name(f"icom-capture/{self.serial}")
                for run in unfinished_runs(client, deployment.id):
                    client.delete_flow_run(run.id)
                client.delete_deployment(deployment.id)
            with contextlib.suppress(ObjectNotFound):
                client.delete_deployment(client.read_deployment_by_name(f"check-linac/{self.serial}").id)
            with contextlib.suppress(ObjectNotFound):
                client.delete_work_queue_by_id(client.read_work_queue_by_name(queue_name(self.serial), "linac-flows").id)
            for name in names(self.serial):
                for automation in client.read_automations_by_name(name):
                    client.delete_automation(automation.id)
            nightly = client.read_deployment_by_name("trf-index/nightly")
            for schedule in nightly.schedules:
                if schedule.slug == f"site-{self.site_name}":
                    client.delete_deployment_schedule(nightly.id, schedule.id)
        for kind, name in ((Linac, block_name(self.serial)), (Site, self.site_name)):
            if load(kind, name) is not None:
                kind.delete(name)

    def report(self, key: str) -> str:
        """The newest artifact of that key, as Markdown."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
        from prefect.client.schemas.sorting import ArtifactSort

        with get_client(sync_client=True) as client:
            found = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.UPDATED_DESC, limit=1
            )
        assert found, f"no artifact {key}"
        return str(found[0].data)


@pytest.fixture
def lab(tmp_path: Path, prefect_server: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab with its linac switched on; its listener, if a flow started one, is ended afterwards."""
    from linac.capture import control

    serial = "T" + re.sub(r"[^A-Za-z0-9]", "", request.node.name)[-30:]
    with SimulatedLinac(serial, speed=20) as linac:
        made = Lab(tmp_path, serial, linac)
        yield made
        made.clear()
        assert control.stop(made.spool, serial, 20)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
