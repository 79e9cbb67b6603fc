"""add-linac as a physicist does it: the form in a browser, Submit, the run, the record with its checklist and picture.

With LINAC_FLOWS_PICTURES set to a folder, the pages are kept there as pictures for the documentation.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from linac.simulator import SimulatedLinac, write_backup
from tests.launch import browser

if TYPE_CHECKING:
    from launch.stack import Stack

SERIAL = "4299"
RUN_SECONDS = 300.0


class Hospital:
    """A site with a linac and a worker, and what is asked of its Prefect server."""

    def __init__(self, root: Path, stack: "Stack", linac: SimulatedLinac) -> None:
        from blocks import Share, Site

        self.stack, self.linac, self.ui = stack, linac, stack.ui
        self.backup, self.records, self.spool = root / "Backup" / "TCS", root / "records", root / "spool"
        self.records.mkdir()
        write_backup(self.backup, datetime.now(UTC).date(), serial=SERIAL)
        site = Site(name="NBCC", time_zone="UTC", records=Share(path=str(self.records)), spool=str(self.spool))
        site.save("nbcc", overwrite=True)

    def wait_for_run(self, run: UUID) -> str:
        """The run's last state and message."""
        from prefect.client.orchestration import get_client

        until = time.monotonic() + RUN_SECONDS
        with get_client(sync_client=True) as client:
            while True:
                state = client.read_flow_run(run).state
                if state is not None and state.is_final():
                    return f"{state.name}: {state.message}"
                assert time.monotonic() < until, f"the run has not ended; its state is {state and state.name}"
                time.sleep(1)

    def runs_of(self, deployment: str) -> list[UUID]:
        """The runs that the form's Submit has made."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

        wanted = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment(deployment)]))
        with get_client(sync_client=True) as client:
            return [run.id for run in client.read_flow_runs(deployment_filter=wanted)]

    def artifact(self, key: str) -> UUID:
        """The newest artifact of that key."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
        from prefect.client.schemas.sorting import ArtifactSort

        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        with get_client(sync_client=True) as client:
            return client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC, limit=1)[0].id

    def deployment(self, name: str) -> UUID:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return client.read_deployment_by_name(name).id


@pytest.fixture
def hospital(prefect_stack: "Stack") -> Iterator[Hospital]:
    """The hospital, in a folder whose name looks well in a picture."""
    from blocks import Linac, block_name, load
    from flows.remove_linac import remove_linac
    from linac.capture import control

    with SimulatedLinac(SERIAL) as linac, tempfile.TemporaryDirectory(prefix="hospital-", ignore_cleanup_errors=True) as root:
        made = Hospital(Path(root), prefect_stack, linac)
        prefect_stack.start_worker()
        try:
            yield made
        finally:
            try:
                if load(Linac, block_name(SERIAL)) is not None:
                    remove_linac(SERIAL)
            finally:
                if prefect_stack.worker is not None:
                    prefect_stack.worker.end()
                assert control.stop(made.spool, SERIAL, 20)


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    if browser.CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian and Ubuntu: apt install chromium)")
    with browser.opened(tmp_path_factory.mktemp("chromium")) as connection:
        yield browser.Page(connection)


def keep(page: browser.Page, name: str) -> None:
    """A picture of the page, where somebody wants pictures."""
    folder = os.environ.get("LINAC_FLOWS_PICTURES")
    if folder:
        page.picture(Path(folder) / name)


def test_a_linac_is_added_from_the_form_and_its_record_is_read(hospital: Hospital, page: browser.Page) -> None:
    host, port = hospital.linac.address
    text = page.visit(f"{hospital.ui}/deployments/deployment/{hospital.deployment('add-linac/add-linac')}/run", "Dry run")
    assert "Serial number or unique name" in text
    assert "Hospital DNS IP address that the linac's NSS was given, four numbers with dots between" in text
    assert "password" not in text.lower()

    page.press_until("Submit", lambda: "is a required property" in page.text())  # an empty form is refused in words

    page.fill("Serial number or unique name", SERIAL)
    page.fill("Hospital DNS IP address of the NSS", host)
    page.fill("Site", "nbcc")
    page.fill("Backup folder of the NSS (Optional)", str(hospital.backup))
    page.fill("Watch the network for (seconds) (Optional)", "10")
    page.fill("iCom port (Optional)", str(port))
    page.fill("Done by (Optional)", "A. Miller")
    keep(page, "add-linac-form.png")
    page.press_until("Submit", lambda: hospital.runs_of("add-linac/add-linac"))
    (run,) = hospital.runs_of("add-linac/add-linac")
    ended = hospital.wait_for_run(run)
    assert ended.startswith(f"Completed: In service since {datetime.now(UTC):%Y-%m-%d}."), ended
    page.visit(f"{hospital.ui}/runs/flow-run/{run}", f"add-linac-{SERIAL}")
    page.wait_for("Completed")
    keep(page, "add-linac-run.png")

    page.visit(f"{hospital.ui}/artifacts/key/add-linac-{SERIAL}", f"Commissioning record of linac {SERIAL}")
    text = page.visit(f"{hospital.ui}/artifacts/artifact/{hospital.artifact(f'add-linac-{SERIAL}')}", "Where things are")
    assert f"Linac {SERIAL}: commissioning record" in text
    assert "In service since" in text
    assert "A. Miller, under the account" in text
    for words in ("iCom messages", "Steadiness of the network, over 10 s", "Diagnostic backups", "Messages on the records share"):
        assert words in text
    assert "❌" not in text
    seen = page.run("[...document.images].filter(item => item.src.startsWith('data:image/svg')).map(item => item.naturalWidth)")
    assert seen
    assert min(seen) > 500, "the picture of the arrivals is shown"
    keep(page, "add-linac-record.png")

    text = page.visit(f"{hospital.ui}/deployments", "check-linac")
    assert SERIAL in text
    keep(page, "deployments.png")
