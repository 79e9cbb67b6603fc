"""The capture benchmark measures what it says: small trials with real processes, and the judgement of an archive."""

import importlib.util
import lzma
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import bench_capture
from launch.bench import Setting
from launch.bench_capture import Sizes, pace_trial
from launch.bench_capture_faults import FAULTS, Trial, run_trials
from launch.bench_capture_hang import hang_trial
from launch.bench_capture_sides import SHARE_SCRIPT, Kept, Ours, Peer, kept
from launch.bench_capture_soak import Soak, make_session
from launch.bench_process import CAN_TELL, cpu_seconds, memory_bytes
from linac.simulator import Session, SimulatedLinac
from linac.simulator.session import moments

needs_process_numbers = pytest.mark.skipif(not CAN_TELL, reason="this system does not tell what other processes use")


def under_share(tmp_path: Path, order: str, program: str) -> "subprocess.Popen[bytes]":
    """A program of one module, with a share in the folder `share`."""
    (tmp_path / "share").mkdir(exist_ok=True)
    (tmp_path / "prog.py").write_text(program, encoding="ascii")
    (tmp_path / "orders").write_text(order, encoding="ascii")
    what = [str(tmp_path / "pid"), str(tmp_path), str(tmp_path / "orders"), str(tmp_path / "share"), "prog"]
    return subprocess.Popen([sys.executable, "-I", str(SHARE_SCRIPT), *what], cwd=tmp_path)


WRITE = "open('share/a', 'w').write('x')\nopen('b', 'w').write('x')\n"


def test_a_read_only_share_refuses_changes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "old").write_text("x", encoding="ascii")
    program = (
        "import errno, os\nassert open('share/old').read() == 'x'\nopen('b', 'w').write('x')\n"
        "for work in (lambda: open('share/a', 'w'), lambda: os.mkdir('share/d'), lambda: os.rename('share/old', 'share/new')):\n"
        "    try:\n        work()\n    except OSError as error:\n        assert error.errno == errno.EROFS\n"
        "    else:\n        raise SystemExit(5)\n"
    )
    assert under_share(tmp_path, "readonly", program).wait(20) == 0
    assert [path.name for path in (tmp_path / "share").iterdir()] == ["old"]


def test_a_share_that_hangs_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    process = under_share(tmp_path, "hang", WRITE)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        assert not (tmp_path / "b").exists()
        (tmp_path / "orders").write_text("", encoding="ascii")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "share" / "a").read_text(encoding="ascii") == "x"


@needs_process_numbers
def test_what_a_process_uses_is_what_it_used(tmp_path: Path) -> None:
    program = (
        "import time\nheld = bytearray(50_000_000)\nwhile time.process_time() < 0.5: pass\nopen('done', 'w')\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-I", "-c", program], cwd=tmp_path)
    try:
        until = time.monotonic() + 20
        while not (tmp_path / "done").exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert 0.45 < cpu_seconds(process.pid) < 1.0
        assert 50e6 < memory_bytes(process.pid) < 90e6
    finally:
        process.kill()
        process.wait()


def test_each_message_sent_is_found_right_wrong_aside_or_lost(tmp_path: Path) -> None:
    side = Ours(tmp_path / "side", ("127.0.0.1", 1706))
    sessions = [Session("TEST-1", "Müller^Invented"), Session("TEST-2", "Nobody^Else")]
    with SimulatedLinac(speed=400) as linac:
        for session in sessions:
            session.beams = session.beams[:1]
            linac.start_session(session)
        assert sessions[1].ended.wait(20)
    first, second = (session.raw for session in sessions)
    sessions[0].sent, sessions[1].sent = len(first), len(second)
    for folder, messages in (
        ("TEST-1_Müller, Invented", first[:10] + first[:10]),
        ("TEST-1_M", first[10:15]),
        ("unknown_error_in_record/TEST-1_M", first[15:17]),
        ("TEST-1_Other", second[:3]),
        ("TEST-2_Nobody, Else", second[10:]),
    ):
        (side.root / "patients" / folder).mkdir(parents=True)
        (side.root / "patients" / folder / "20260101_101010.xz").write_bytes(lzma.compress(b"".join(messages)))
    (side.root / "patients" / "TEST-2_Nobody, Else" / "20260101_101011.xz").write_bytes(lzma.compress(second[3])[:-9])
    found = kept(side, sessions)
    assert found == Kept(len(first) + len(second), 15 + len(second) - 10, wrong=3, aside=2, names_cut=1)
    assert found.lost == len(first) - 17 + 7


@needs_process_numbers
def test_latency_and_seconds_are_measured_at_the_linacs_pace(tmp_path: Path) -> None:
    found = pace_trial(Setting(tmp_path, [], None), Sizes(latency_seconds=2.0), "ours", Ours)
    assert 5 <= len(found.latency_ms) <= 9
    assert all(0 < latency < 2000 for latency in found.latency_ms)
    assert set(found.used) == {"listener", "archiver"}
    assert all(0 < part.seconds < 2 for part in found.used.values())


def test_faults_ours_keeps_all_and_the_other_side_is_bounded(tmp_path: Path) -> None:
    cases = [("end of the connection (FIN)", "ours", Ours), ("read-only share", "ours", Ours)]
    if importlib.util.find_spec("pymedphys") is not None:
        cases.append(("end of the connection (FIN)", "peer", partial(Peer, python=Path(sys.executable))))
    trials = [
        Trial(fault, FAULTS[fault], name, make, tmp_path / f"{number}", bound=5.0, speed=20.0)
        for number, (fault, name, make) in enumerate(cases)
    ]
    outcomes = run_trials(trials, at_once=3)
    ended = outcomes["end of the connection (FIN)", "ours"]
    assert ended.ended
    assert ended.again is not None
    assert 0.5 < ended.again < 5
    unbroken = outcomes["read-only share", "ours"]
    assert not unbroken.ended
    assert unbroken.again is None
    for outcome in (ended, unbroken):
        assert outcome.kept.sent == outcome.kept.right > 100
    peer = outcomes.get(("end of the connection (FIN)", "peer"))
    if peer is not None:
        assert (peer.ended, peer.again, peer.kept.right) == (True, None, 0)


def test_a_share_that_hangs_holds_up_no_linac_and_what_waited_arrives(tmp_path: Path) -> None:
    """`bench hang` for a moment, as it runs for ten minutes."""
    found = hang_trial(Setting(tmp_path, [], None), 18.0, "ours", Ours)
    assert not found.still_blocked
    assert found.blocked < 1.0, "a listener that waits for the share blocks the linac for as long as the share hangs"
    assert found.losses == 0
    if found.waiting:  # on a computer that is not too busy
        assert found.drained is not None
        assert found.right == found.sent > 0


def test_the_soak_test_notices_a_session_that_is_not_as_it_was_sent(tmp_path: Path) -> None:
    soak = Soak(SimpleNamespace(hold=None), SimpleNamespace(bytes=lambda: 0))  # type: ignore[arg-type]
    session = make_session(7)
    session.beams[0] = bench_capture.make_session(1).beams[0]
    session.idle_after = 1
    with SimulatedLinac(speed=400) as linac:
        linac.start_session(session)
        assert session.ended.wait(20)
    for raw in session.raw:
        soak.on_send(0, raw)
    assert soak.counts == {b"SOAK-00007": len(session.raw)}
    where = tmp_path / "patients" / "SOAK-00007_Patient, Simulated"
    where.mkdir(parents=True)
    (where / "20260101_101010.xz").write_bytes(lzma.compress(b"".join(session.raw[:-1])))
    soak.compare(tmp_path, set())
    assert soak.compared == 0
    soak.compare(tmp_path, {b"SOAK-00007"})
    assert (soak.compared, soak.wrong, soak.compared_messages) == (1, 1, len(session.raw))
    assert not where.exists()


def test_a_session_is_about_as_long_as_it_was_asked_for() -> None:
    for seconds in (60, 1800):
        assert sum(1 for _ in moments(bench_capture.make_session(seconds), 4.0)) == pytest.approx(4 * seconds, rel=0.25)
