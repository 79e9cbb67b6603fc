"""icom-capture under a real worker: recorded, archived, cancelled in order, killed without a loss, adopted by the next run."""

import lzma
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pandas as pd
import pytest

from linac.simulator import make_beams
from linac.transport.paths import Entry, LocalFolder
from linac.transport.records import mark

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
    while True:
        began = time.monotonic()
        if condition():
            return
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(max(3 * (time.monotonic() - began), 0.2))  # asking the server costs it, and us, more than it seems


def put_into_service(lab: "Lab", automations: bool = False) -> None:
    from blocks import Linac, Share, block_name
    from tasks import automations as both
    from tasks.deployments import capture_deployment, queue_step
    from tasks.provision import load_site

    mark(LocalFolder(lab.records))
    host, port = lab.linac.address
    backup = Share(path=str(lab.backup))
    linac = Linac(serial=lab.serial, address=host, port=port, site=load_site(lab.site_name), backup=backup)
    linac.save(block_name(lab.serial), overwrite=True)
    queue = queue_step(linac)
    assert queue.do is not None
    queue.do()
    capture_deployment(linac).put()
    if automations:
        both.put(linac.serial)


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


def end(lab: "Lab", *runs: UUID) -> None:
    """Cancel runs, see the listener end in order and then the runs: a worker that still ends one begins no other."""
    from linac.capture import control

    for run in runs:
        cancel(run)
    wait("listener ended", lambda: not control.is_running(lab.spool, lab.serial), 30)
    wait("no run is left", lambda: not runs_under_way(lab))


def connected(lab: "Lab") -> bool:
    from linac.capture import control

    status = control.status(lab.spool, lab.serial)
    return status is not None and status.connected


def says(lab: "Lab", text: str) -> bool:
    """Whether the recording's artifact is there and holds this."""
    try:
        return text in lab.report(f"icom-capture-{lab.serial.lower()}")
    except AssertionError:  # not there yet
        return False


def archived(lab: "Lab") -> list[bytes]:
    return [lzma.decompress(path.read_bytes()) for path in sorted((lab.records / "iCom" / "patients").rglob("*.xz"))]


def treat(lab: "Lab", patient: str) -> bytes:
    """One patient's session; the bytes that the linac sent of it."""
    session = lab.linac.start_session(patient_id=patient, patient_name="Simulated^Patient", beams=make_beams(1, patient, mu=30))
    assert lab.linac.wait_ended(session, 60)
    return b"".join(session.raw)


def test_recording_cancelled_and_run_again_loses_nothing_and_closes_in_order(
    lab: "Lab", worker: "Stack", monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.capture_icom import icom_capture
    from linac.capture import control
    from tasks import capture

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

    monkeypatch.setattr(capture, "HAND_OVER_SECONDS", 1.0)
    second = icom_capture(serial=lab.serial, return_state=True)
    assert second.is_completed()
    assert "another run already" in str(second.message), "a second run leaves the work to the first"
    assert connected(lab)

    cancel(run)
    wait("listener ended", lambda: not control.is_running(lab.spool, lab.serial), 10)
    wait("cancelled", lambda: state(run) == "Cancelled", 30)
    wait("the linac saw the end", lambda: lab.linac.status()["clients"] == 0, 10)
    assert "stopped" in lab.report(f"icom-capture-{lab.serial.lower()}")

    again = start(lab)
    wait("connected again", lambda: connected(lab))
    later = treat(lab, "TEST-0002")
    wait("archived again", lambda: archived(lab) == [sent, later])
    end(lab, again)


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
    end(lab, second)


@pytest.mark.skipif(os.name == "nt", reason="finds the run's process by /proc")
def test_after_run_worker_and_server_were_killed_a_new_run_follows_within_90_s_and_nothing_is_lost(
    lab: "Lab", worker: "Stack"
) -> None:
    from linac.capture import control
    from linac.capture.follower import follower_of

    put_into_service(lab, automations=True)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    before = control.status(lab.spool, lab.serial)
    assert before is not None
    assert worker.worker is not None
    assert worker.server is not None
    for process in (worker.worker.process, worker.server.process):
        process.kill()
        process.wait()
    for pid in processes_of(run):
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    worker.start_server()
    worker.keep_up()
    sent = treat(lab, "TEST-0005")
    assert archived(lab) == []

    def adopted() -> bool:
        others = [one for one in runs_under_way(lab) if one != run]
        return any(state(one) == "Running" for one in others) and follower_of(lab.spool, lab.serial) is not None

    wait("a new run that has the recording, 90 s after the kill", adopted, killed + 90 - time.monotonic())
    wait("it archives", lambda: archived(lab) == [sent])
    after = control.status(lab.spool, lab.serial)
    assert after is not None
    assert (after.pid, after.connections, after.gaps) == (before.pid, 1, 0)
    assert state(run) == "Crashed"
    end(lab, *runs_under_way(lab))


AWAY_SECONDS = 35.0
"""After half a minute without the server, Prefect's own cancelling does not reach a run any more that is under way."""


def test_a_cancel_reaches_the_recording_also_after_the_server_was_away(lab: "Lab", worker: "Stack") -> None:
    from linac.capture import control

    put_into_service(lab)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    before = control.status(lab.spool, lab.serial)
    assert before is not None
    assert worker.server is not None
    worker.server.process.kill()
    worker.server.process.wait()
    back = time.monotonic() + AWAY_SECONDS
    sent = treat(lab, "TEST-0008")
    wait("archived without the server", lambda: archived(lab) == [sent])
    time.sleep(max(back - time.monotonic(), 0.0))
    worker.start_server()
    after = control.status(lab.spool, lab.serial)
    assert after is not None
    assert (after.pid, after.connections, after.gaps) == (before.pid, 1, 0)
    cancel(run)
    wait("listener ended", lambda: not control.is_running(lab.spool, lab.serial), 15)
    wait("cancelled", lambda: state(run) == "Cancelled", 30)
    wait("the linac saw the end", lambda: lab.linac.status()["clients"] == 0, 10)


@pytest.mark.skipif(os.name == "nt", reason="finds the run's process by /proc")
def test_a_worker_that_is_stopped_as_a_service_takes_its_run_along_and_leaves_the_listener_recording(
    lab: "Lab", worker: "Stack"
) -> None:
    from linac.capture import control

    put_into_service(lab, automations=True)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    before = control.status(lab.spool, lab.serial)
    assert before is not None
    processes = processes_of(run)
    assert worker.worker is not None
    worker.worker.end()
    wait("the run's processes are gone", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes), 40)
    sent = treat(lab, "TEST-0009")
    assert connected(lab), "the listener records without worker and run"
    worker.start_worker()
    wait("archived by the run that follows", lambda: archived(lab) == [sent], 150)
    after = control.status(lab.spool, lab.serial)
    assert after is not None
    assert (after.pid, after.connections, after.gaps) == (before.pid, 1, 0)
    end(lab, *runs_under_way(lab))


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


def test_a_share_that_is_away_is_told_loudly_nothing_is_made_in_its_place_and_the_backlog_drains(
    lab: "Lab", worker: "Stack"
) -> None:
    """Twice: an empty mount point stands where the share was; it is gone altogether."""
    from linac.capture import control

    put_into_service(lab)
    run = start(lab)
    wait("connected", lambda: connected(lab))
    key = f"icom-capture-{lab.serial.lower()}"
    sent: list[bytes] = []
    for patient, mount_point in (("TEST-0004", True), ("TEST-0012", False)):
        lab.records.rename(lab.root / "away")
        if mount_point:
            lab.records.mkdir()
        sent.append(treat(lab, patient))
        wait("the trouble is shown", lambda: says(lab, "ATTENTION: nothing is archived since"), 60)
        assert "away" in lab.report(key)
        assert patient not in lab.report(key)
        status = control.status(lab.spool, lab.serial)
        assert status is not None
        assert "away" in status.archive_trouble
        assert status.connected
        if mount_point:
            assert list(lab.records.iterdir()) == [], "nothing was written to the mount point"
            lab.records.rmdir()
        assert not lab.records.exists(), "nothing was made in the share's place"
        (lab.root / "away").rename(lab.records)
        wait("drained", lambda: archived(lab) == sent)
        wait("the trouble is over", lambda: "ATTENTION" not in lab.report(key), 60)
    end(lab, run)


class Stalled(LocalFolder):
    """A share that answers nothing any more once `hung` is set."""

    hung, over = threading.Event(), threading.Event()

    def below(self, name: str) -> "Stalled":
        return Stalled(self.path / name, within=self)

    def list(self, pattern: str = "*") -> "list[Entry]":
        if self.hung.is_set():
            self.over.wait(60)
        return super().list(pattern)


def test_a_share_that_hangs_does_not_hold_up_the_end(lab: "Lab", monkeypatch: pytest.MonkeyPatch) -> None:
    from blocks import Share
    from linac.capture import control
    from tasks import capture
    from tasks.archiving import Archiving
    from tasks.provision import load_linac

    put_into_service(lab)
    linac = load_linac(lab.serial)
    monkeypatch.setattr(Share, "connect", lambda self, below="": Stalled(self.path))
    control.start(lab.serial, *lab.linac.address, lab.spool)
    archiving = Archiving(linac)
    archiving.start()
    try:
        wait("connected", lambda: connected(lab))
        sent = treat(lab, "TEST-0006")
        wait("archived", lambda: archived(lab) == [sent])
        Stalled.hung.set()
        treat(lab, "TEST-0007")
        began = time.monotonic()
        assert control.stop(lab.spool, lab.serial, capture.STOP_SECONDS)
        assert not archiving.finish(1.0)
        assert time.monotonic() - began < 10
    finally:
        Stalled.over.set()
        control.stop(lab.spool, lab.serial)
    assert archiving.finish(10)
    assert len(archived(lab)) == 2, "it came back in time for the last round"


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no signals between processes that let code run")
def test_a_run_beside_a_service_s_command_only_watches_and_takes_over_when_that_is_gone(lab: "Lab", worker: "Stack") -> None:
    from linac.capture import control

    put_into_service(lab)
    icom = lab.records / "iCom"
    icom.mkdir(exist_ok=True)
    host, port = lab.linac.address
    where = ["listen", host, str(icom), "--port", str(port), "--spool", str(lab.spool), "--serial", lab.serial]
    command = subprocess.Popen([sys.executable, "-m", "linac.icom", *where], cwd=Path(control.__file__).parents[2])
    try:
        wait("connected", lambda: connected(lab))
        before = control.status(lab.spool, lab.serial)
        assert before is not None
        run = start(lab)
        wait("the run says who records", lambda: says(lab, f"process {command.pid} (listen)"))
        cancel(run)
        second = start(lab)
        wait("cancelled", lambda: state(run) == "Cancelled", 30)
        assert command.poll() is None
        assert connected(lab), "what the command began goes on"
        sent = treat(lab, "TEST-0010")
        wait("archived by the command", lambda: archived(lab) == [sent])

        wait("running", lambda: state(second) == "Running")
        command.kill()
        command.wait()
        later = treat(lab, "TEST-0011")
        wait("archived by the run", lambda: archived(lab) == [sent, later])
        after = control.status(lab.spool, lab.serial)
        assert after is not None
        assert (after.pid, after.connections, after.gaps) == (before.pid, 1, 0)
        end(lab, second)
    finally:
        command.kill()
        command.wait()
