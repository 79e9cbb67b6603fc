"""icom-capture under a real worker: recorded, archived, cancelled in order, killed without a loss, adopted by the next run."""

import lzma
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import pandas as pd
import pytest

from linac.simulator import make_beams

if TYPE_CHECKING:
    from launch.stack import Stack
    from tests.flows.conftest import Lab


@pytest.fixture(scope="module")
def worker(prefect_stack: "Stack") -> Iterator["Stack"]:
    """The server with a worker, for this module."""
    prefect_stack.start_worker()
    yield prefect_stack
    assert prefect_stack.worker is not None
    prefect_stack.worker.end()


def wait(what: str, condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def put_into_service(lab: "Lab", automations: bool = False) -> None:
    from blocks import Linac, Share, block_name
    from tasks.automations import make_automations
    from tasks.provision import load_site, make_capture_deployment

    host, port = lab.linac.address
    backup = Share(path=str(lab.backup))
    linac = Linac(serial=lab.serial, address=host, port=port, site=load_site(lab.site_name), backup=backup)
    linac.save(block_name(lab.serial), overwrite=True)
    from prefect.logging import disable_run_logger

    with disable_run_logger():
        make_capture_deployment.fn(linac)
        if automations:
            make_automations.fn(linac)


def start(lab: "Lab") -> UUID:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"icom-capture/{lab.serial}")
        return client.create_flow_run_from_deployment(deployment.id).id


def state(run: UUID) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(run).state_name)


def cancel(run: UUID) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())


def connected(lab: "Lab") -> bool:
    from linac.capture import control

    status = control.status(lab.spool, lab.serial)
    return status is not None and status.connected


def archived(lab: "Lab") -> list[bytes]:
    return [lzma.decompress(path.read_bytes()) for path in sorted((lab.records / "iCom" / "patients").rglob("*.xz"))]


def treat(lab: "Lab", patient: str) -> bytes:
    """One patient's session; the bytes that the linac sent of it."""
    session = lab.linac.start_session(patient_id=patient, patient_name="Simulated^Patient", beams=make_beams(1, patient, mu=30))
    assert lab.linac.wait_ended(session, 60)
    return b"".join(session.raw)


def test_recording_cancelled_and_run_again_loses_nothing_and_closes_in_order(lab: "Lab", worker: "Stack") -> None:
    from linac.capture import control

    put_into_service(lab)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    sent = treat(lab, "TEST-0001")
    wait("archived", lambda: archived(lab) == [sent])
    report = lab.report(f"icom-capture-{lab.serial.lower()}")
    assert "TEST-0001" not in report
    assert "Simulated" not in report

    wait("in the Parquet files", lambda: (lab.records / "iCom" / "deliveries").exists())
    beams = pd.read_parquet(lab.records / "iCom" / "deliveries")
    assert beams["delivered_mu"].tolist() == [30.0]
    assert beams["session_gaps"].tolist() == [0]

    cancel(run)
    wait("listener ended", lambda: not control.is_running(lab.spool, lab.serial), 10)
    wait("cancelled", lambda: state(run) == "Cancelled", 30)
    wait("the linac saw the end", lambda: lab.linac.status()["clients"] == 0, 10)
    assert "stopped" in lab.report(f"icom-capture-{lab.serial.lower()}")

    again = start(lab)
    wait("connected again", lambda: connected(lab))
    later = treat(lab, "TEST-0002")
    wait("archived again", lambda: archived(lab) == [sent, later])
    cancel(again)
    wait("cancelled again", lambda: state(again) == "Cancelled", 30)


@pytest.mark.skipif(os.name == "nt", reason="finds the run's process by /proc")
def test_a_killed_run_leaves_the_listener_recording_and_the_next_run_adopts_it(lab: "Lab", worker: "Stack") -> None:
    from linac.capture import control

    put_into_service(lab)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    before = control.status(lab.spool, lab.serial)
    assert before is not None
    for pid in processes_of(run):
        os.kill(pid, signal.SIGKILL)
    sent = treat(lab, "TEST-0003")
    assert archived(lab) == []

    second = start(lab)
    wait("archived by the next run", lambda: archived(lab) == [sent])
    after = control.status(lab.spool, lab.serial)
    assert after is not None
    assert (after.pid, after.connections, after.gaps) == (before.pid, 1, 0), "adopted, with the one connection that it had"
    cancel(second)
    wait("cancelled", lambda: state(second) == "Cancelled", 30)
    wait("listener ended", lambda: not control.is_running(lab.spool, lab.serial), 10)


@pytest.mark.skipif(os.name == "nt", reason="finds the run's process by /proc")
def test_when_run_and_worker_are_killed_a_new_run_follows_within_90_s_and_nothing_is_lost(lab: "Lab", worker: "Stack") -> None:
    from linac.capture import control

    put_into_service(lab, automations=True)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    before = control.status(lab.spool, lab.serial)
    assert before is not None
    assert worker.worker is not None
    worker.worker.process.kill()
    worker.worker.process.wait()
    for pid in processes_of(run):
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    worker.keep_up()
    sent = treat(lab, "TEST-0005")
    wait("a new run archives", lambda: archived(lab) == [sent], 120)
    took = time.monotonic() - killed
    assert took < 95, f"90 s to a new run, and some to archive; it took {took:.0f} s"
    after = control.status(lab.spool, lab.serial)
    assert after is not None
    assert (after.pid, after.connections, after.gaps) == (before.pid, 1, 0)
    assert state(run) == "Crashed"
    for one in runs_under_way(lab):
        cancel(one)
    wait("listener ended", lambda: not control.is_running(lab.spool, lab.serial), 40)


def runs_under_way(lab: "Lab") -> list[UUID]:
    from prefect.client.orchestration import get_client

    from tasks.provision import unfinished_runs

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"icom-capture/{lab.serial}")
        return [run.id for run in unfinished_runs(client, deployment.id)]


def processes_of(run: UUID) -> list[int]:
    """The processes that have this flow run in their environment, listeners apart."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                environment = file.read()
            with open(f"/proc/{entry.name}/cmdline", "rb") as file:
                command = file.read()
        except OSError:
            continue
        if str(run).encode() in environment and b"linac.capture.listener" not in command:
            found.append(int(entry.name))
    assert found, "the run's process was not found"
    return found


def test_a_share_that_is_away_is_told_and_the_backlog_drains_when_it_is_back(lab: "Lab", worker: "Stack") -> None:
    put_into_service(lab)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    lab.records.rename(lab.root / "away")
    lab.records.write_text("in the way")  # no folder can be made here now
    sent = treat(lab, "TEST-0004")
    key = f"icom-capture-{lab.serial.lower()}"
    wait("the trouble is shown", lambda: str(lab.records) in lab.report(key) or "none" not in lab.report(key), 60)
    assert "TEST-0004" not in lab.report(key)
    lab.records.unlink()
    (lab.root / "away").rename(lab.records)
    wait("drained", lambda: archived(lab) == [sent])
    cancel(run)
    wait("cancelled", lambda: state(run) == "Cancelled", 30)


def test_a_second_run_for_the_same_linac_leaves_the_work_to_the_first(lab: "Lab", worker: "Stack") -> None:
    from flows.capture_icom import icom_capture
    from tasks import capture

    put_into_service(lab)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    patience, capture.HAND_OVER_SECONDS = capture.HAND_OVER_SECONDS, 1.0
    try:
        second = icom_capture(serial=lab.serial, return_state=True)
    finally:
        capture.HAND_OVER_SECONDS = patience
    assert second.is_completed()
    assert "another run already" in str(second.message)
    assert connected(lab)
    cancel(run)
    wait("cancelled", lambda: state(run) == "Cancelled", 30)
