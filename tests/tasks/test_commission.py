"""The first messages, followed from the linac to the records share: seen link by link, or told where they got stuck."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from blocks import Linac, Share, Site
from blocks.linac import Service
from linac.capture import control
from linac.capture.archive import Archiver
from linac.errors import SetupError, UnreachableError
from linac.simulator import SimulatedLinac, make_beams
from linac.transport import connect
from linac.transport.records import mark
from tasks.check import Check, Outcome
from tasks.commission import wait_for_messages, wait_for_session


@pytest.fixture
def machine() -> Iterator[SimulatedLinac]:
    with SimulatedLinac("4299", speed=20) as linac:
        yield linac


@pytest.fixture
def make(tmp_path: Path, machine: SimulatedLinac) -> Callable[..., Linac]:
    (tmp_path / "records").mkdir()
    with connect(tmp_path / "records") as folder:
        mark(folder)

    def made(**other: Any) -> Linac:
        records = Share(path=str(tmp_path / "records"))
        site = Site(name="Lab", time_zone="Australia/Sydney", records=records, spool=str(tmp_path / "spool"))
        host, port = machine.address
        return Linac(**{"serial": "4299", "address": host, "port": port, "site": site, "backup": records, **other})

    return made


@contextlib.contextmanager
def recording(linac: Linac, archive: bool = True) -> Iterator[None]:
    """A listener and, unless told otherwise, an archiver."""
    ending = threading.Event()

    def run() -> None:
        with linac.site.records.connect("iCom") as icom:
            archiver = Archiver(linac.site.spool, linac.serial, linac.address, icom)
            while not ending.wait(0.2):
                archiver.run_once()

    control.start(linac.serial, linac.address, linac.port, linac.site.spool)
    thread = threading.Thread(target=run)
    if archive:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        if archive:
            thread.join()
        assert control.stop(linac.site.spool, linac.serial, 20)


def wait(linac: Linac, seconds: float) -> tuple[str, list[Check]]:
    seen: list[Check] = []
    with disable_run_logger():
        return wait_for_messages.fn(linac, seconds, seen), seen


def test_messages_that_come_through_are_seen_at_every_link(make: Callable[..., Linac]) -> None:
    linac = make()
    with recording(linac):
        waiting, seen = wait(linac, 60)
    assert waiting == ""
    assert [check.name for check in seen] == [
        "Listener connected to the linac",
        "Messages in the journal",
        "Messages on the records share",
    ]
    assert {check.outcome for check in seen} == {Outcome.PASS}


def test_old_files_on_the_share_are_not_taken_for_new_ones(make: Callable[..., Linac], tmp_path: Path) -> None:
    linac = make()
    live = tmp_path / "records" / "iCom" / "live" / linac.address
    live.mkdir(parents=True)
    (live / "007.txt").write_bytes(b"from yesterday")
    with recording(linac, archive=False), pytest.raises(UnreachableError, match="Messages on the records share"):
        wait(linac, 4)


def test_no_listener_and_no_worker(make: Callable[..., Linac]) -> None:
    with pytest.raises(UnreachableError, match="Is a worker of work pool linac-flows running"):
        wait(make(), 1)


def test_a_service_that_it_has_not_installed_yet_is_waited_for_not_complained_about(make: Callable[..., Linac]) -> None:
    waiting, seen = wait(make(service=Service.SYSTEMD), 1)
    assert waiting.startswith("Install and start the service on the capture host with the files that add-linac wrote.")
    assert seen == []


def test_nobody_waits_for_no_seconds(make: Callable[..., Linac]) -> None:
    assert "Nobody waited" in wait(make(), 0)[0]


def test_from_another_computer_the_share_alone_is_looked_at(make: Callable[..., Linac]) -> None:
    here = make()
    with recording(here):
        waiting, seen = wait(make(capture_host="nbccc-capture"), 60)
    assert (waiting, [check.name for check in seen]) == ("", ["Messages on the records share"])
    with disable_run_logger(), pytest.raises(SetupError, match="nbccc-capture records linac 4299"):
        wait_for_session.fn(make(capture_host="nbccc-capture"), 1)


def test_the_first_session_is_waited_for(make: Callable[..., Linac], machine: SimulatedLinac) -> None:
    linac = make()
    with recording(linac), disable_run_logger():
        with pytest.raises(UnreachableError, match="no session was archived within"):
            wait_for_session.fn(linac, 0.01)
        timer = threading.Timer(
            1.0,
            lambda: machine.start_session(patient_id="TEST-1", patient_name="Simulated^Patient", beams=make_beams(1, mu=20)),
        )
        timer.start()
        check = wait_for_session.fn(linac, 1.5)
    assert check.outcome is Outcome.PASS
    assert "20.0 MU" in check.seen
    assert "TEST-1" not in check.seen
    assert "Simulated" not in check.seen
