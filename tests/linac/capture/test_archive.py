"""The archive: every session in one file, read back, whatever fails in between; and no patient anywhere else."""

import contextlib
import hashlib
import io
import itertools
import json
import lzma
import os
import shutil
import stat
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.capture import archive, journal, sessions
from linac.capture.archive import Archived, Archiver, backlog_bytes
from linac.capture.journal import Kind, Writer
from linac.capture.lock import FileLock
from linac.errors import AlreadyRunningError, StorageError, UnreachableError
from linac.transport.paths import LocalFolder
from linac.transport.records import mark, require


@pytest.fixture
def site(tmp_path: Path, lab: SimpleNamespace) -> SimpleNamespace:
    """A spool with a journal to write to, and an iCom folder."""
    spool, icom = tmp_path / "spool", tmp_path / "icom"
    icom.mkdir()
    folder = spool / "4299" / "journal"
    folder.mkdir(parents=True)
    site = SimpleNamespace(spool=spool, icom=icom, journal=folder, writer=Writer(folder, "4299"), lab=lab)

    def record(*messages: bytes, ago: float = 0.0) -> None:
        for message in messages:
            past = int(ago * 1e9)
            site.writer.append(Kind.DATA, message, time.time_ns() - past, time.monotonic_ns() - past)
        site.writer.commit()
        site.writer.sync()

    def note(kind: Kind, **facts: Any) -> None:
        site.writer.note(kind, time.time_ns(), time.monotonic_ns(), **facts)
        site.writer.commit()

    def restart() -> None:
        site.writer.close()
        site.writer = Writer(folder, "4299")
        note(Kind.STARTED, pid=1)

    def archiver(target: Any = None, live: bool = False, **more: Any) -> Archiver:
        return Archiver(spool, "4299", "192.168.17.40", target or LocalFolder(icom), live=live, **more)

    def files() -> dict[str, bytes]:
        found = sorted(path for path in icom.rglob("*") if path.is_file())
        return {path.relative_to(icom).as_posix(): path.read_bytes() for path in found}

    site.record, site.note, site.restart, site.archiver, site.files = record, note, restart, archiver, files
    return site


def unpacked(data: bytes) -> bytes:
    return lzma.decompress(data)


def test_a_session_becomes_the_file_that_pymedphys_expects(site: SimpleNamespace) -> None:
    treated = site.lab.session("TEST-00002", 12, first=4, name="Invented^Müller")
    site.record(*site.lab.idle(4, 0), *treated, *site.lab.idle(2, 16))
    [done] = site.archiver().run_once()
    [(path, data)] = site.files().items()
    assert path == done.path == "patients/TEST-00002_Invented, Müller/20240506_121315.xz"
    assert unpacked(data) == b"".join(treated)
    assert (done.outcome, done.stamp, done.messages, done.mu, done.gaps) == ("archived", "20240506_121315", 12, 11.0, 0)
    assert "TEST-00002" not in repr(done)
    assert "Invented" not in repr(done)
    [line] = archive.sessions(site.spool, "4299")
    assert (line.stamp, line.messages, line.mu, line.gaps, line.sha256) == (
        "20240506_121315",
        12,
        11.0,
        0,
        hashlib.sha256(data).hexdigest(),
    )


def test_pymedphys_reads_what_was_archived(site: SimpleNamespace) -> None:
    pymedphys = pytest.importorskip("pymedphys")
    extract = pytest.importorskip("pymedphys._icom.extract")
    treated = site.lab.session("TEST-1", 12, name="Nobody^Test")
    site.record(*treated, *site.lab.idle(2, 12))
    [done] = site.archiver().run_once()
    with lzma.open(site.icom / done.path, "r") as file:  # as its apps do
        stream = file.read()
    assert extract.get_data_points(stream) == treated
    delivery = pymedphys.Delivery.from_icom(stream)
    assert delivery.mu[-1] == done.mu == 11.0
    assert len(delivery.mu) == 12
    pandas = pytest.importorskip("pandas")
    assert str(pandas.to_datetime(Path(done.path).stem, format="%Y%m%d_%H%M%S")) == "2024-05-06 12:13:14"


def test_the_same_session_never_appears_twice(site: SimpleNamespace) -> None:
    site.record(*site.lab.session("TEST-1", 12), *site.lab.idle(2, 12))
    archiver = site.archiver()
    assert len(archiver.run_once()) == 1
    before = site.files()
    assert archiver.run_once() == []
    assert site.archiver().run_once() == [], "another process, from the checkpoint"
    (site.spool / "4299" / "checkpoint.json").unlink()
    assert site.archiver().run_once() == [], "without the checkpoint, from the ledger"
    (site.spool / "4299" / "checkpoint.json").unlink()
    (site.spool / "4299" / "sessions.jsonl").unlink()
    [found] = site.archiver().run_once()
    assert site.files() == before, "without anything, from the file that is there"
    assert found.stamp == "20240506_121314"


def test_a_session_is_archived_once_it_has_ended_however_it_arrives(site: SimpleNamespace) -> None:
    treated = site.lab.session("TEST-1", 12)
    archiver = site.archiver()
    for message in [*treated, *site.lab.idle(1, 12)]:
        site.record(message)
        assert archiver.run_once() == []
    assert archiver.backlog().sessions_open == 1
    site.record(*site.lab.idle(2, 13))
    [done] = archiver.run_once()
    assert done.messages == 12


def test_an_archiver_that_is_replaced_at_any_message_loses_and_doubles_nothing(site: SimpleNamespace) -> None:
    lab = site.lab
    one, two = lab.session("TEST-1", 7), lab.session("TEST-2", 7, first=7)
    stream = [*one, *two, *lab.idle(3, 14), *lab.session("TEST-1", 7, first=17), *lab.idle(3, 24)]
    done: list[Archived] = []
    for number, message in enumerate(stream):
        site.record(message)
        done += site.archiver().run_once()
        if number == 10:
            site.restart()
    assert [(each.stamp, each.messages) for each in done] == [
        ("20240506_121314", 7),
        ("20240506_121315", 7),
        ("20240506_121318", 7),
    ]
    assert unpacked(site.files()["patients/TEST-2_Nobody, At All/20240506_121315.xz"]) == b"".join(two)
    assert [line.gaps for line in archive.sessions(site.spool, "4299")] == [0, 1, 0]


def test_messages_sent_again_are_recognised_by_a_new_archiver(site: SimpleNamespace) -> None:
    lab = site.lab
    one = lab.session("TEST-1", 9)
    site.record(*one, *lab.idle(3, 9))
    assert len(site.archiver().run_once()) == 1
    site.note(Kind.DISCONNECTED, reason="x")
    site.note(Kind.CONNECTED)
    site.record(*one[5:], *lab.idle(3, 9), *lab.session("TEST-2", 5, first=12), *lab.idle(2, 17))
    [done] = site.archiver().run_once()
    assert done.messages == 5
    assert "TEST-2" in done.path
    assert len(site.files()) == 2


class Storage(LocalFolder):
    """A share that can be told to fail: `fail` is asked before every operation, and after every one that changes something."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fail: Callable[[str, str, str], None] = lambda *_: None
        self.steps: list[str] = []

    def _do(self, action: str, name: str, work: Callable[[], Any]) -> Any:
        self.steps.append(action)
        self.fail("before", action, name)
        result = work()
        self.fail("after", action, name)
        return result

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._do("write", name, lambda: super(Storage, self).write(name, data, durable=durable))

    def store(self, local: Path, name: str) -> None:
        self._do("store", name, lambda: super(Storage, self).store(local, name))

    def list(self, pattern: str = "*") -> Any:
        return self._do("list", pattern, lambda: super(Storage, self).list(pattern))

    def open(self, name: str, mode: str = "rb") -> Any:
        return self._do("open", name, lambda: super(Storage, self).open(name, mode))


class PowerCutError(BaseException):
    """The process ends here."""


def test_power_may_go_at_any_step_of_archiving(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = site.lab
    one, two = lab.session("TEST-1", 9), lab.session("TEST-2", 9, first=9)
    site.record(*one, *two, *lab.idle(2, 18))
    left = {"steps": 0}

    def maybe(*_: str) -> None:
        left["steps"] -= 1
        if left["steps"] == 0:
            raise PowerCutError

    original = archive.Ledger.append
    whole = archive.write_whole

    def append(self: Any, line: Any) -> None:
        maybe()
        original(self, line)
        maybe()

    def write_whole(path: Path, data: bytes, **more: Any) -> None:
        maybe()
        whole(path, data, **more)
        maybe()

    monkeypatch.setattr(archive.Ledger, "append", append)
    monkeypatch.setattr(archive, "write_whole", write_whole)
    storage = Storage(site.icom)
    storage.fail = maybe
    for cut in itertools.count(1):
        left["steps"] = cut
        try:
            site.archiver(storage).run_once()
        except PowerCutError:
            reached = True
        else:
            reached = False
        left["steps"] = 0
        site.archiver(storage).run_once()
        files = site.files()
        assert {path: unpacked(data) for path, data in files.items()} == {
            "patients/TEST-1_Nobody, At All/20240506_121314.xz": b"".join(one),
            "patients/TEST-2_Nobody, At All/20240506_121316.xz": b"".join(two),
        }
        assert [line.stamp for line in archive.sessions(site.spool, "4299")] == ["20240506_121314", "20240506_121316"]
        if not reached:
            break
        for path in files:
            (site.icom / path).unlink()
        (site.spool / "4299" / "sessions.jsonl").unlink()
        (site.spool / "4299" / "checkpoint.json").unlink()
    assert cut > 20, "there were that many steps to fail at"


def test_a_share_that_is_away_keeps_the_sessions_waiting(site: SimpleNamespace) -> None:
    lab = site.lab
    storage = Storage(site.icom)
    archiver = site.archiver(storage)

    def away(when: str, action: str, name: str) -> None:
        raise StorageError(f"Could not {action} //server/share/iCom/{name}: it is away.")

    storage.fail = away
    for round_ in range(5):
        first = round_ * 11
        site.record(*lab.session(f"TEST-{round_}", 9, first=first), *lab.idle(2, first + 9))
        with pytest.raises(StorageError, match="waits in the journal") as caught:
            archiver.run_once()
        assert "TEST-" not in str(caught.value)
        assert "Nobody" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    backlog = archiver.backlog()
    assert backlog.sessions_open >= 4
    assert backlog.oldest is not None
    assert backlog.bytes > 4 * 9 * 2700
    assert backlog_bytes(site.spool, "4299") > 4 * 9 * 2700
    storage.fail = lambda *_: None
    site.record(*lab.idle(2, 60))
    assert [done.messages for done in archiver.run_once()] == [9] * 5
    assert archiver.backlog().sessions_open == 0
    assert archiver.backlog().bytes < 3000, "at most the message that is not complete yet"
    assert len(site.files()) == 5


def test_a_share_away_for_a_week_does_not_fill_the_memory(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PENDING_SESSIONS", 3)
    storage = Storage(site.icom)
    storage.fail = lambda *_: (_ for _ in ()).throw(StorageError("away"))
    archiver = site.archiver(storage)
    for n in range(10):
        site.record(*site.lab.session(f"TEST-{n}", 5, first=7 * n), *site.lab.idle(2, 7 * n + 5))
    for _ in range(3):
        with pytest.raises(StorageError):
            archiver.run_once()
        assert archiver.backlog().sessions_open <= 4
    storage.fail = lambda *_: None
    site.record(*site.lab.idle(2, 70))
    assert sum(len(archiver.run_once()) for _ in range(5)) == 10


def test_one_folder_that_cannot_be_written_does_not_hold_up_the_others(site: SimpleNamespace) -> None:
    site.icom.joinpath("patients").mkdir(parents=True)
    blocked = site.icom / "patients" / "TEST-1_Nobody, At All"
    blocked.write_bytes(b"a file where the folder should be")
    site.record(*site.lab.session("TEST-1", 9), *site.lab.session("TEST-2", 9, first=9), *site.lab.idle(2, 18))
    archiver = site.archiver()
    with pytest.raises(StorageError) as caught:
        archiver.run_once()
    assert "TEST-1" not in str(caught.value)
    assert "patients/TEST-2_Nobody, At All/20240506_121316.xz" in site.files()
    blocked.unlink()
    assert [done.messages for done in archiver.run_once()] == [9, 9], "what was written before is reported, too"


def test_a_flow_that_is_cancelled_in_the_middle_can_go_on_with_the_same_archiver(site: SimpleNamespace) -> None:
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(2, 9))
    storage = Storage(site.icom)
    archiver = site.archiver(storage)
    storage.fail = lambda *_: (_ for _ in ()).throw(PowerCutError)
    with pytest.raises(PowerCutError):
        archiver.run_once()
    storage.fail = lambda *_: None
    assert [done.messages for done in archiver.run_once()] == [9]


def test_a_record_that_was_taken_but_not_worked_on_is_taken_again(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel may come between any two lines."""
    treated = site.lab.session("TEST-1", 9)
    site.record(*treated, *site.lab.idle(2, 9))
    archiver = site.archiver()
    original = archive.SessionCutter.feed
    for stop_at in range(1, 13):
        calls = 0

        def feed(self: Any, entry: Any, stop_at: int = stop_at) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise PowerCutError
            return original(self, entry)

        with monkeypatch.context() as patch:
            patch.setattr(archive.SessionCutter, "feed", feed)
            with pytest.raises(PowerCutError):
                archiver.run_once()
    assert [done.messages for done in archiver.run_once()] == [9]
    [data] = site.files().values()
    assert unpacked(data) == b"".join(treated)


def test_a_session_without_mu_is_noted_but_not_archived(site: SimpleNamespace) -> None:
    still = [site.lab.message(n, patient="TEST-1", mu=5.0) for n in range(9)]
    novalue = [site.lab.message(n, patient="TEST-2", mu="-32767") for n in range(9, 15)]
    site.record(*still, *novalue, *site.lab.idle(2, 15))
    assert site.archiver().run_once() == []
    assert site.files() == {}
    assert [(line.outcome, line.messages, line.sha256) for line in archive.sessions(site.spool, "4299")] == [
        ("no_mu", 9, ""),
        ("no_mu", 6, ""),
    ]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"leaves": 159}, "1 without 160 leaf positions"), ({"mu": None}, "1 without Delivery MU"), ({"mu": "much"}, "Delivery MU")],
)
def test_what_is_not_understood_is_set_aside_whole_with_its_reason(site: SimpleNamespace, wrong: Any, reason: str) -> None:
    treated = site.lab.session("TEST-1", 9)
    treated[4] = site.lab.message(4, **{"patient": "TEST-1", "mu": 4.0} | wrong)
    site.record(*treated, *site.lab.idle(2, 9))
    [done] = site.archiver().run_once()
    where = "patients/unknown_error_in_record/TEST-1_Nobody, At All/20240506_121314"
    files = site.files()
    assert sorted(files) == [f"{where}.reason.txt", f"{where}.xz"]
    assert unpacked(files[f"{where}.xz"]) == b"".join(treated)
    assert reason in files[f"{where}.reason.txt"].decode()
    assert reason in done.reason
    assert done.outcome == "set_aside"
    assert "TEST-1" not in files[f"{where}.reason.txt"].decode()


def test_two_sessions_of_one_second_do_not_overwrite_each_other(site: SimpleNamespace) -> None:
    lab = site.lab
    one = [lab.message(n, patient="TEST-1", mu=n, time=lab.START) for n in range(9)]
    two = [lab.message(n, patient="TEST-1", mu=n, time=lab.START) for n in range(12, 21)]
    site.record(*one, *lab.idle(3, 9), *two, *lab.idle(2, 21))
    assert [done.stamp for done in site.archiver().run_once()] == ["20240506_121314", "20240506_121315"]
    assert [unpacked(data) for data in site.files().values()] == [b"".join(one), b"".join(two)]


def test_a_file_of_somebody_else_is_not_overwritten(site: SimpleNamespace) -> None:
    there = site.icom / "patients" / "TEST-1_Nobody, At All" / "20240506_121314.xz"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"what PyMedPhys was writing when it was killed")
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(2, 9))
    [done] = site.archiver().run_once()
    assert done.stamp == "20240506_121315"
    assert there.read_bytes() == b"what PyMedPhys was writing when it was killed"


def test_a_file_that_reads_back_different_is_not_done(site: SimpleNamespace) -> None:
    class Rotten(LocalFolder):
        rotten = True

        def open(self, name: str, mode: str = "rb") -> Any:
            with super().open(name, mode) as file:
                data = file.read()
            return io.BytesIO(data[:-1] if self.rotten else data)

    folder = Rotten(site.icom)
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(2, 9))
    archiver = site.archiver(folder)
    with pytest.raises(StorageError, match="reads back different"):
        archiver.run_once()
    assert archive.sessions(site.spool, "4299") == []
    folder.rotten = False
    [path] = [site.icom / name for name in site.files()]
    path.write_bytes(path.read_bytes()[:-1])  # it was not only the reading
    assert [done.stamp for done in archiver.run_once()] == ["20240506_121314"]
    [data] = site.files().values()
    assert unpacked(data) == b"".join(site.lab.session("TEST-1", 9))


def test_no_patient_in_the_spool_except_in_the_journal(site: SimpleNamespace) -> None:
    lab = site.lab
    site.record(*lab.session("TEST-1", 9)[:5])
    site.note(Kind.DISCONNECTED, reason="x")
    site.note(Kind.CONNECTED)
    site.record(*lab.session("TEST-1", 9)[6:], *lab.idle(2, 9))
    assert [done.gaps for done in site.archiver().run_once()] == [1]
    for path in (site.spool / "4299").iterdir():
        if path.is_file():
            text = path.read_text()
            assert "TEST-1" not in text, path.name
            assert "Nobody" not in text, path.name
    [line] = archive.sessions(site.spool, "4299")
    [gap] = line.events
    assert gap["kind"] == "reconnect"
    assert gap["missing"] == 1
    assert gap["before"]["counter"] == 4
    assert gap["after"]["counter"] == 6


def test_a_torn_line_in_the_ledger_costs_nothing(site: SimpleNamespace) -> None:
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(2, 9))
    site.archiver().run_once()
    ledger = site.spool / "4299" / "sessions.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    (site.spool / "4299" / "checkpoint.json").unlink()
    site.record(*site.lab.session("TEST-2", 9, first=11), *site.lab.idle(2, 20))
    assert [done.stamp for done in site.archiver().run_once()] == ["20240506_121314", "20240506_121316"]
    assert len(site.files()) == 2
    assert len(archive.sessions(site.spool, "4299")) == 2


def test_only_one_archiver_works_at_a_time(site: SimpleNamespace) -> None:
    site.spool.joinpath("4299").mkdir(exist_ok=True)
    other = FileLock(site.spool / "4299" / "archiver.lock")
    assert other.acquire()
    with pytest.raises(AlreadyRunningError):
        site.archiver().run_once()
    other.release()
    assert site.archiver().run_once() == []


def test_two_archivers_in_turn_archive_once(site: SimpleNamespace) -> None:
    one, two = site.archiver(), site.archiver()
    for message in [*site.lab.session("TEST-1", 9), *site.lab.idle(3, 9)]:
        site.record(message)
        one.run_once()
        two.run_once()
    assert len(site.files()) == 1
    assert len(archive.sessions(site.spool, "4299")) == 1


def test_finish_archives_the_session_that_is_going_on(site: SimpleNamespace) -> None:
    site.record(*site.lab.session("TEST-1", 9))
    archiver = site.archiver()
    assert archiver.run_once() == []
    [done] = archiver.finish()
    assert done.messages == 8, "the last one is complete only when the next one comes, or time passes"
    site.note(Kind.STOPPED, reason="x")
    assert site.archiver().run_once() == []


def test_what_comes_after_a_session_was_finished_by_hand_is_a_session_of_its_own(site: SimpleNamespace) -> None:
    treated = site.lab.session("TEST-1", 20)
    site.record(*treated[:10])
    [first] = site.archiver().finish()
    site.record(*treated[10:], *site.lab.idle(3, 20))
    [second] = site.archiver().run_once()
    files = site.files()
    assert unpacked(files[first.path]) + unpacked(files[second.path]) == b"".join(treated)


def test_live_has_the_latest_message_of_every_counter(site: SimpleNamespace) -> None:
    messages = [*site.lab.session("TEST-1", 9, first=250), *site.lab.idle(2, 259)]
    site.record(*messages)
    site.archiver(live=True).run_once()
    live = {path: data for path, data in site.files().items() if path.startswith("live/")}
    assert sorted(live) == [f"live/192.168.17.40/{n:03d}.txt" for n in (0, 1, 2, 3, 250, 251, 252, 253, 254, 255)]
    assert live["live/192.168.17.40/003.txt"] == messages[9]
    assert not [path for path in site.files() if "part" in path]


def test_old_messages_are_not_live(site: SimpleNamespace) -> None:
    site.record(*site.lab.idle(5, 0), ago=60.0)
    site.archiver(live=True).run_once()
    assert site.files() == {}


def test_live_is_dropped_when_the_share_is_slow_and_archiving_goes_on(site: SimpleNamespace) -> None:
    class Slow(Storage):
        def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
            if name.startswith("live/"):
                time.sleep(0.3)
            super().write(name, data, durable=durable)

    site.record(*site.lab.session("TEST-1", 30), *site.lab.idle(2, 30))
    began = time.monotonic()
    [done] = site.archiver(Slow(site.icom), live=True).run_once()
    assert time.monotonic() - began < 2.0
    live = [path for path in site.files() if path.startswith("live/")]
    assert 1 <= len(live) <= 3
    assert "live/192.168.17.40/030.txt" in live, "the newest come first"
    assert done.messages == 30


def test_live_that_fails_is_left_alone_for_a_while(site: SimpleNamespace) -> None:
    (site.icom / "live").write_bytes(b"a file where the folder should be")
    archiver = site.archiver(live=True)
    for n in range(3):
        site.record(*site.lab.idle(2, 2 * n))
        assert archiver.run_once() == []


def test_the_journal_goes_only_when_all_of_it_is_archived_and_old(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "REMEMBERED", 8)
    monkeypatch.setattr(archive, "_MARK_EVERY", 4)
    site.writer.segment_bytes = 20_000
    lab = site.lab
    for n in range(8):
        site.record(*lab.session(f"TEST-{n}", 9, first=12 * n), *lab.idle(3, 12 * n + 9))
    storage = Storage(site.icom)
    storage.fail = lambda *_: (_ for _ in ()).throw(StorageError("away"))
    archiver = site.archiver(storage, retention_days=0.0)
    count = len(journal.segments(site.journal))
    with pytest.raises(StorageError):
        archiver.run_once()
    assert len(journal.segments(site.journal)) == count, "nothing is archived, nothing goes"
    storage.fail = lambda *_: None
    archiver._tended_at = float("-inf")
    archiver.run_once()
    left = journal.segments(site.journal)
    assert 1 <= len(left) < count // 2
    site.record(*lab.session("TEST-9", 9, first=96), *lab.idle(3, 105))
    assert [done.messages for done in site.archiver().run_once()][-1] == 9
    assert len(site.files()) == 9


def test_the_journal_stays_for_its_time(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "REMEMBERED", 8)
    monkeypatch.setattr(archive, "_MARK_EVERY", 4)
    monkeypatch.setattr(archive, "SEAL_AFTER_SECONDS", 0.0)
    site.writer.segment_bytes = 20_000
    for n in range(8):
        site.record(*site.lab.session(f"TEST-{n}", 9, first=12 * n), *site.lab.idle(3, 12 * n + 9))
    archiver = site.archiver(retention_days=1.0)
    before = journal.size(site.journal)
    count = len(journal.segments(site.journal))
    for _ in range(count + 1):
        archiver._tended_at = float("-inf")
        archiver.run_once()
    assert len(journal.segments(site.journal)) == count
    assert journal.size(site.journal) < before / 2, "old segments are packed"
    assert archiver.warnings == [] or all("disk" in warning for warning in archiver.warnings)
    (site.spool / "4299" / "checkpoint.json").unlink()
    assert site.archiver().run_once() == [], "and packed ones read as before"


def test_a_journal_over_its_limit_is_warned_about_and_cleared_as_far_as_it_is_archived(
    site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "REMEMBERED", 8)
    monkeypatch.setattr(archive, "_MARK_EVERY", 4)
    site.writer.segment_bytes = 20_000
    for n in range(8):
        site.record(*site.lab.session(f"TEST-{n}", 9, first=12 * n), *site.lab.idle(3, 12 * n + 9))
    archiver = site.archiver(journal_limit_bytes=60_000)
    archiver.run_once()
    assert journal.size(site.journal) <= 80_000
    assert any("The journal of linac 4299" in warning for warning in archiver.warnings)


@pytest.mark.parametrize("away", [False, True])
def test_when_the_disk_is_nearly_full_what_is_archived_yields_to_new_data_and_nothing_else_does(
    site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    monkeypatch.setattr(archive, "REMEMBERED", 8)
    monkeypatch.setattr(archive, "_MARK_EVERY", 4)
    site.writer.segment_bytes = 20_000
    storage = Storage(site.icom)
    if away:
        storage.fail = lambda *_: (_ for _ in ()).throw(StorageError("away"))
    for n in range(8):
        site.record(*site.lab.session(f"TEST-{n}", 9, first=12 * n), *site.lab.idle(3, 12 * n + 9))
    archiver = site.archiver(storage)
    with contextlib.suppress(StorageError):
        archiver.run_once()
    count = len(journal.segments(site.journal))
    assert count > 4
    free = archive.SHORT_BYTES - 50_000
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    archiver._tended_at = float("-inf")
    with contextlib.suppress(StorageError):
        archiver.run_once()
    left = len(journal.segments(site.journal))
    assert left == count if away else left in range(count - 4, count), "no more than needed, and only what is archived"
    assert any("MB left" in warning for warning in archiver.warnings)
    storage.fail = lambda *_: None
    while archiver.run_once():
        pass
    assert len(site.files()) == 8


def test_a_full_disk_is_cleared_although_no_draft_can_be_written(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "REMEMBERED", 8)
    monkeypatch.setattr(archive, "_MARK_EVERY", 4)
    site.writer.segment_bytes = 20_000
    for n in range(8):
        site.record(*site.lab.session(f"TEST-{n}", 9, first=12 * n), *site.lab.idle(3, 12 * n + 9))
    archiver = site.archiver()
    archiver.run_once()
    count = len(journal.segments(site.journal))
    site.record(*site.lab.session("TEST-9", 9, first=96), *site.lab.idle(3, 105))

    def full(*_: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as within:
        within.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        within.setattr(archive, "_Draft", full)
        archiver._tended_at = float("-inf")
        with pytest.raises(StorageError):
            archiver.run_once()
    assert len(journal.segments(site.journal)) < count
    assert [done.messages for done in archiver.run_once()] == [9]


@pytest.mark.skipif(os.name == "nt", reason="rights are inherited there")
def test_a_draft_is_for_this_account_alone_and_the_archived_file_has_usual_rights(site: SimpleNamespace) -> None:
    site.record(*site.lab.session("TEST-1", 9))
    archiver = site.archiver()
    archiver.run_once()
    [draft] = (site.spool / "4299" / "drafts").glob("*.xz")
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600
    site.record(*site.lab.idle(3, 9))
    archiver.run_once()
    plain = site.icom / "plain"
    plain.touch()
    [path] = site.icom.rglob("*.xz")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_filling_disk_is_warned_about_while_many_sessions_wait_for_a_share_that_is_away(site: SimpleNamespace) -> None:
    storage = Storage(site.icom)
    storage.fail = lambda *_: (_ for _ in ()).throw(StorageError("away"))
    for n in range(archive.PENDING_SESSIONS + 4):
        site.record(*site.lab.session(f"TEST-{n}", 9, first=12 * n), *site.lab.idle(3, 12 * n + 9))
    archiver = site.archiver(storage, journal_limit_bytes=1000)
    with pytest.raises(StorageError):
        archiver.run_once()
    assert any("The journal of linac 4299" in warning for warning in archiver.warnings)
    storage.fail = lambda *_: None
    while archiver.run_once():
        pass
    assert len(site.files()) == archive.PENDING_SESSIONS + 4, "and none of them was lost to the clearing"


def test_a_new_journal_is_not_taken_for_the_old_one(site: SimpleNamespace) -> None:
    """Somebody cleared the journal by hand: the checkpoint and the ledger speak of another one."""
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(3, 9))
    assert len(site.archiver().run_once()) == 1
    site.writer.close()
    for path in site.journal.iterdir():
        path.unlink()
    site.writer = Writer(site.journal, "4299")
    site.record(*site.lab.session("TEST-2", 9), *site.lab.idle(3, 9))
    assert len(site.archiver().run_once()) == 1
    assert len(site.files()) == 2


@pytest.mark.parametrize("restarts", [0, 2], ids=["from the same segment", "from an earlier one"])
@pytest.mark.parametrize("count", [2, 30], ids=["shorter", "longer"])
def test_an_archiver_at_work_notices_a_new_journal_in_the_place_of_the_old_one(
    site: SimpleNamespace, restarts: int, count: int
) -> None:
    for _ in range(restarts):
        site.restart()
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(3, 9))
    archiver = site.archiver()
    assert len(archiver.run_once()) == 1
    site.writer.close()
    for path in site.journal.iterdir():
        path.unlink()
    assert archiver.run_once() == []
    site.writer = Writer(site.journal, "4299")
    treated = site.lab.session("TEST-2", count)
    site.record(*treated, *site.lab.idle(3, count))
    assert [item.messages for _ in range(3) for item in archiver.run_once()] == [count]
    assert b"".join(treated) in [unpacked(data) for name, data in site.files().items() if "TEST-2" in name]
    site.record(*site.lab.session("TEST-3", 9), *site.lab.idle(3, 9))
    assert len(archiver.run_once()) == 1, "and stays with it"


def test_the_backlog_counts_every_segment_that_waits_also_behind_a_packed_one(site: SimpleNamespace) -> None:
    site.record(*site.lab.idle(300, 0))
    site.archiver().run_once()
    site.restart()
    site.record(*site.lab.session("TEST-1", 30))
    assert journal.seal(site.journal, 1)
    plain = (site.journal / f"{2:08d}{journal.SUFFIX}").stat().st_size
    assert backlog_bytes(site.spool, "4299") >= plain


def test_the_checkpoint_holds_positions_only(site: SimpleNamespace) -> None:
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(3, 9))
    site.archiver().run_once()
    facts = json.loads((site.spool / "4299" / "checkpoint.json").read_bytes())
    assert sorted(facts) == ["committed", "run", "warm"]


def test_an_archiver_that_ends_leaves_nothing_as_not_archived_but_the_session_that_goes_on(site: SimpleNamespace) -> None:
    """The checkpoint is written every five seconds at most; `status` must not count what came since as waiting."""
    archiver = site.archiver()
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(3, 9))
    archiver.run_once()
    site.record(*site.lab.idle(20, 12))
    archiver.run_once()
    assert backlog_bytes(site.spool, "4299") > 0
    archiver.close()
    assert backlog_bytes(site.spool, "4299") == 0
    going_on = site.lab.session("TEST-2", 9, first=32)
    site.record(*going_on)
    archiver.run_once()
    archiver.close()
    assert backlog_bytes(site.spool, "4299") >= len(b"".join(going_on[1:])), "from what completed its first message on"


def test_memory_stays_flat_over_a_long_session(site: SimpleNamespace) -> None:
    import tracemalloc

    archiver = site.archiver(live=False)

    def feed(first: int, count: int) -> None:
        site.record(*[site.lab.message(n, patient="TEST-1", mu=n / 10) for n in range(first, first + count)])
        archiver.run_once(float("inf"))

    feed(0, 300)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    feed(300, 1500)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1_500_000, f"{grown} bytes for 4 MB of messages"
    assert sessions.REMEMBERED == 4096


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() <= before


def test_a_share_that_is_away_is_never_written_to_and_its_root_is_never_made(site: SimpleNamespace) -> None:
    """Gone, or an empty folder where it should be mounted: nothing comes into being there, and everything arrives afterwards."""
    folder = LocalFolder(site.icom)
    mark(folder)
    archiver = site.archiver(folder, live=True, ready=lambda: require(folder))
    aside = site.icom.with_name("somewhere else")
    site.icom.rename(aside)
    for round_, empty in enumerate((False, True)):
        if empty:
            site.icom.mkdir()
        site.record(*site.lab.session(f"TEST-{round_}", 9, first=11 * round_), *site.lab.idle(2, 11 * round_ + 9))
        with pytest.raises(UnreachableError, match="is away"):
            archiver.run_once()
        assert not site.icom.exists() or list(site.icom.iterdir()) == []
        status = json.loads((site.spool / "4299" / "archive.json").read_text())
        assert "is away" in status["trouble"]
    site.icom.rmdir()
    aside.rename(site.icom)
    assert [done.messages for done in archiver.run_once()] == [9, 9]
    assert json.loads((site.spool / "4299" / "archive.json").read_text())["trouble"] == ""


def test_a_share_that_is_away_is_noticed_while_there_is_nothing_to_write(site: SimpleNamespace) -> None:
    site.icom.rmdir()
    archiver = site.archiver()
    with pytest.raises(StorageError):
        archiver.run_once()
    assert not site.icom.exists()
    site.icom.mkdir()
    archiver._looked_at = float("-inf")  # some seconds later
    assert archiver.run_once() == []


def drafts(site: SimpleNamespace) -> list[Path]:
    return sorted((site.spool / "4299" / "drafts").glob("*"))


def test_what_waits_is_packed_in_the_spool_for_this_account_alone_and_goes_when_it_is_archived(site: SimpleNamespace) -> None:
    storage = Storage(site.icom)
    (site.spool / "4299" / "plain").write_bytes(b"")
    storage.fail = lambda *_: (_ for _ in ()).throw(StorageError("away"))
    archiver = site.archiver(storage)
    site.record(*site.lab.session("TEST-1", 9), *site.lab.session("TEST-2", 9, first=9), *site.lab.idle(2, 18))
    site.record(*site.lab.session("TEST-3", 5, first=20))
    with pytest.raises(StorageError):
        archiver.run_once()
    assert len(drafts(site)) == 3
    assert all("TEST" not in path.name for path in drafts(site))
    if os.name != "nt":
        assert stat.S_IMODE(drafts(site)[0].parent.stat().st_mode) == 0o700
    storage.fail = lambda *_: None
    assert len(archiver.run_once()) == 2
    if os.name != "nt":
        made = {stat.S_IMODE(path.stat().st_mode) for path in site.icom.rglob("*.xz")}
        assert made == {stat.S_IMODE((site.spool / "4299" / "plain").stat().st_mode)}, "as any file of this account"
    assert len(drafts(site)) == 1, "the session that is going on"
    archiver.close()
    assert drafts(site) == []
    site.record(*site.lab.idle(2, 25))
    assert [done.messages for done in archiver.run_once()] == [5], "from the checkpoint on"


def test_drafts_of_killed_processes_are_removed_after_a_day(site: SimpleNamespace) -> None:
    where = site.spool / "4299" / "drafts"
    where.mkdir()
    old, new = where / "1-2-old.xz", where / "1-2-new.xz"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 90000,) * 2)
    site.archiver().run_once()
    assert drafts(site) == [new]


def test_a_draft_that_somebody_removed_is_made_again_from_the_journal(site: SimpleNamespace) -> None:
    storage = Storage(site.icom)
    storage.fail = lambda *_: (_ for _ in ()).throw(StorageError("away"))
    archiver = site.archiver(storage)
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(2, 9))
    with pytest.raises(StorageError):
        archiver.run_once()
    for path in drafts(site):
        path.unlink()
    storage.fail = lambda *_: None
    assert [done.messages for _ in range(2) for done in archiver.run_once()] == [9]
    [data] = site.files().values()
    assert unpacked(data) == b"".join(site.lab.session("TEST-1", 9))


def test_the_archiver_knows_what_it_did_without_holding_every_line(site: SimpleNamespace) -> None:
    """A year of sessions: the list on the disk is long, what is held of it is small, and a session in it is known again."""
    site.record(*site.lab.session("TEST-1", 9), *site.lab.idle(2, 9))
    [_] = site.archiver().run_once()
    path = site.spool / "4299" / "sessions.jsonl"
    line = json.loads(path.read_text())
    event = {"kind": "reconnect", "reason": "x" * 200, "before": None, "after": None}
    with path.open("a") as file:
        for n in range(3000):
            file.write(json.dumps(line | {"last_message": f"{n:016x}", "events": [event] * 5}) + "\n")
    tracemalloc.start()
    ledger = archive.Ledger(path)
    again = [step.session for step in everything(site) if isinstance(step, sessions.Ended)]
    before = tracemalloc.get_traced_memory()[0]
    assert [ledger.has(session) for session in again] == [True]
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held < 3000 * 600, f"{held / 3000:.0f} bytes a session"


def everything(site: SimpleNamespace) -> list[Any]:
    cutter = sessions.SessionCutter()
    return [step for entry in journal.Reader(site.journal).read() for step in cutter.feed(entry)]


@pytest.mark.skipif(os.name == "nt", reason="there nobody can remove a file that is open")
def test_a_journal_removed_under_way_is_a_gap_of_the_session(site: SimpleNamespace) -> None:
    """The archiver's own files go with it: it begins anew, and the journal's numbers tell that something was there before."""
    treated = site.lab.session("TEST-1", 40)
    archiver = site.archiver()
    site.record(*treated[:20])
    assert archiver.run_once() == []
    shutil.rmtree(site.spool / "4299")
    site.writer.renew()
    site.record(*treated[20:], *site.lab.idle(3, 40))
    [done] = [done for _ in range(3) for done in archiver.run_once()]
    assert (done.messages, done.gaps, done.missing, done.at_least) == (20, 1, 0, True)
    assert "1 gap (an unknown number of messages missing)" in str(done)


class HangingFolder(LocalFolder):
    """A mounted share whose system calls do not return until it is let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.going = threading.Event()

    def store(self, source: Path, path: str) -> None:
        self.going.wait(30)
        super().store(source, path)


def test_a_share_that_never_answers_is_told_while_the_call_hangs(
    site: SimpleNamespace, lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HANGING_SECONDS", 0.5)
    folder = HangingFolder(site.icom)
    archiver = site.archiver(folder)
    site.record(*lab.session("TEST-1", 20), *lab.idle(3, 20), ago=5)
    assert archiver.hanging() == "", "nothing is going on"
    thread = threading.Thread(target=archiver.run_once, daemon=True)
    thread.start()
    lab.wait_for(archiver.hanging)
    facts = json.loads((site.spool / "4299" / "archive.json").read_text())
    assert "does not answer" in facts["trouble"]
    assert str(site.icom) in facts["trouble"]
    assert "TEST-1" not in facts["trouble"]
    folder.going.set()
    thread.join(10)
    assert archiver.hanging() == ""
    assert len(site.files()) == 1
    archiver.run_once()
    assert json.loads((site.spool / "4299" / "archive.json").read_text())["trouble"] == ""
