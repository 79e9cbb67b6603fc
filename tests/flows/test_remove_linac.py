"""remove-linac undoes what add-linac did and keeps what was recorded."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from linac.errors import SetupError

if TYPE_CHECKING:
    from tests.flows.conftest import Lab


def left_on_the_server(lab: "Lab") -> list[str]:
    """What is there of a linac: blocks, deployments, automations, queues, schedules."""
    from prefect.client.orchestration import get_client

    from blocks import Linac, block_name, load
    from tasks.automations import names
    from tasks.deployments import queue_name
    from tasks.provision import find_deployment

    found = [f"block {lab.serial}"] if load(Linac, block_name(lab.serial)) is not None else []
    with get_client(sync_client=True) as client:
        for name in (f"icom-capture/{lab.serial}", f"check-linac/{lab.serial}"):
            found += [name] if find_deployment(client, name) else []
        for name in names(lab.serial):
            found += [item.name for item in client.read_automations_by_name(name)]
        queues = client.read_work_queues(work_pool_name="linac-flows")
        found += [queue.name for queue in queues if queue.name == queue_name(lab.serial)]
        nightly = client.read_deployment_by_name("trf-index/nightly")
        found += [item.slug for item in nightly.schedules if item.slug == f"site-{lab.site_name}"]
    return found


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_goes_but_the_records_and_the_linac_can_be_added_again(lab: "Lab") -> None:
    from flows.add_linac import add_linac
    from flows.remove_linac import remove_linac
    from linac.capture import control

    add_linac(**lab.answers)
    assert len(left_on_the_server(lab)) == 7
    with lab.recording():
        assert lab.linac.wait_for_client(10)
    recorded = files(lab.records)
    assert recorded

    remove_linac(lab.serial, dry_run=True)
    assert len(left_on_the_server(lab)) == 7
    assert control.is_running(lab.spool, lab.serial)
    assert "**Dry run.**" in lab.report(f"remove-linac-{lab.serial.lower()}")

    remove_linac(lab.serial)
    assert left_on_the_server(lab) == []
    assert not control.is_running(lab.spool, lab.serial)
    assert files(lab.records) == recorded
    assert files(lab.spool / lab.serial / "journal"), "the journal stays as well"
    report = lab.report(f"remove-linac-{lab.serial.lower()}")
    assert "**Taken out of service.** All that was recorded is kept." in report
    assert f"every iCom record and TRF log in {lab.records}" in report

    with pytest.raises(SetupError, match="is not in service"):
        remove_linac(lab.serial)
    add_linac(**lab.answers)
    assert len(left_on_the_server(lab)) == 7


def test_what_broke_off_half_way_is_finished_by_running_it_again(lab: "Lab", monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.add_linac import add_linac
    from flows.remove_linac import remove_linac
    from linac.errors import StorageError
    from tasks import deployments

    def broken(deployment: object) -> None:
        raise StorageError("The power went.")

    add_linac(**lab.answers)
    with monkeypatch.context() as patch:
        patch.setattr(deployments, "_removed", broken)
        with pytest.raises(StorageError):
            remove_linac(lab.serial)
    assert f"block {lab.serial}" in left_on_the_server(lab)
    assert "**Not finished.** The power went." in lab.report(f"remove-linac-{lab.serial.lower()}")
    remove_linac(lab.serial)
    assert left_on_the_server(lab) == []


def test_the_nightly_index_stays_while_the_site_has_another_linac(lab: "Lab") -> None:
    from blocks import Linac, Share, block_name
    from flows.add_linac import add_linac
    from flows.remove_linac import remove_linac
    from tasks.provision import load_site

    add_linac(**lab.answers)
    other = f"{lab.serial[:36]}-B"
    second = Linac(serial=other, address="10.0.0.1", site=load_site(lab.site_name), backup=Share(path=str(lab.backup)))
    second.save(block_name(other), overwrite=True)
    try:
        remove_linac(lab.serial)
        assert left_on_the_server(lab) == [f"site-{lab.site_name}"]
    finally:
        Linac.delete(block_name(other))
