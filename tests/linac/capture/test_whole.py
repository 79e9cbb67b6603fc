"""From a (pretend) linac to files that PyMedPhys reads, with everything that can happen to a connection on the way."""

import lzma
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.capture import archive, control
from linac.capture.archive import Archived, Archiver
from linac.capture.listener import Listener
from linac.simulator import Session, SimulatedLinac, make_beams
from linac.transport.paths import LocalFolder


@pytest.fixture
def archiving(spool: Path, tmp_path: Path, lab: SimpleNamespace) -> Any:
    """Archives in a thread, as a flow would; `upto(n)` waits for n sessions."""
    archiver = Archiver(spool, "4299", "127.0.0.1", LocalFolder(tmp_path / "icom").make_root(), live=False)
    done: list[Archived] = []
    ending = threading.Event()

    def run() -> None:
        while not ending.wait(0.1):
            done.extend(archiver.run_once())

    def upto(count: int) -> dict[str, bytes]:
        lab.wait_for(lambda: len(done) >= count, timeout=30, what=f"archiving {count} sessions")
        ending.set()
        thread.join()
        assert len(done) == count
        return {each.path: lzma.decompress((tmp_path / "icom" / each.path).read_bytes()) for each in done}

    thread = threading.Thread(target=run)
    thread.start()
    yield upto
    ending.set()
    thread.join()


def test_a_day_full_of_trouble_is_archived_without_a_message_missing(spool: Path, archiving: Any) -> None:
    """What a reconnect misses the linac sends again; so every message made is in the archive, once."""
    trouble = {
        20: lambda linac: linac.reset(),
        60: lambda linac: linac.garbage(b"\x00 no message \xff" * 20),
        75: lambda linac: linac.repeat(),
        90: lambda linac: linac.half_message(),
        140: lambda linac: linac.hang_up(),
        180: lambda linac: linac.send_in((1000, 0.0005)),
    }
    sessions = [
        Session("TEST-0001", "Simulated^Patient", make_beams(2, seed=1, mu=60), events=trouble, idle_after=0),
        Session("TEST-00002", "Invented^Müller", make_beams(1, seed=2, mu=40), name_every=5),
        Session("TEST-0001", "Simulated^Patient", make_beams(1, seed=3, mu=30), idle_after=8),
    ]
    with SimulatedLinac("4299", speed=30, replay=900, idle_id="") as linac:
        listener = Listener("4299", *linac.address, spool, first_wait_seconds=0.05)
        listening = threading.Thread(target=listener.run, daemon=True)
        listening.start()
        assert linac.wait_for_client(10)
        for session in sessions:
            linac.start_session(session)
        files = archiving(3)
        listener.stop("end of the test")
        listening.join(10)
        assert len(linac.clients) == 4
    lines = archive.sessions(spool, "4299")
    for (path, data), session, line in zip(files.items(), sessions, lines, strict=True):
        assert data == b"".join(session.raw), path
        assert (line.mu, line.outcome) == (pytest.approx(session.planned_mu), "archived")
    assert [path.split("/")[1] for path in files] == [
        "TEST-0001_Simulated, Patient",
        "TEST-00002_Invented, Müller",
        "TEST-0001_Simulated, Patient",
    ]
    kinds = [event["kind"] for event in lines[0].events]
    assert kinds.count("reconnect") == 3
    assert {"repeats", "skipped"} <= set(kinds)
    pymedphys = pytest.importorskip("pymedphys")
    for data, session in zip(files.values(), sessions, strict=True):
        assert pymedphys.Delivery.from_icom(data).mu[-1] == pytest.approx(session.planned_mu)


def test_a_listener_killed_in_the_middle_costs_what_was_sent_meanwhile_and_no_more(
    spool: Path, archiving: Any, lab: SimpleNamespace
) -> None:
    session = Session("TEST-03", "Nobody^At All", make_beams(1, seed=4, mu=50), idle_after=8)
    with SimulatedLinac("4299", speed=20) as linac:
        first = control.start("4299", *linac.address, spool)
        assert linac.wait_for_client(10)
        linac.start_session(session)
        lab.wait_for(lambda: session.messages > 25)
        os.kill(first.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        lab.wait_for(lambda: not control.is_running(spool, "4299"))
        second = control.start("4299", *linac.address, spool)
        assert not second.adopted
        [(_, data)] = archiving(1).items()
    [line] = archive.sessions(spool, "4299")
    [gap] = [event for event in line.events if event["kind"] == "restart"]
    at = session.raw.index(next(raw for raw in session.raw if raw[26] == gap["after"]["counter"] and raw in data))
    missing = session.raw[at - gap["missing"] : at]
    assert data == b"".join(raw for raw in session.raw if raw not in missing)
    assert 0 < gap["missing"] < 100
    assert line.gaps == 1
    assert line.messages == len(session.raw) - gap["missing"]
