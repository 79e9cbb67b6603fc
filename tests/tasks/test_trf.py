"""What the processes of a backlog do, without a server: each file gives what it can, and nothing tells a name."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks import Linac, Share, Site, SmbCredentials
from linac.errors import LinacError, SetupError, StorageError, TrfError, UnreachableError
from linac.index import Index
from linac.transport import Entry, LocalFolder, connect
from linac.transport.records import MARK, mark
from linac.transport.settling import SETTLING
from linac.trf.writer import encode
from tasks import backlog, trf

NAME = "Geheimnis^Träger"
"""An invented patient's name, where it must not be told."""


def make_log(number: int) -> bytes:
    start = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(minutes=number)
    return encode([[42] * 350] * 5, start=start, utc_offset="+01:00", field=f"{number}-1/{NAME}", machine="4299", prescribed_mu=1)


@pytest.fixture
def records(tmp_path: Path) -> Share:
    with connect(tmp_path / "records").make_root() as folder:
        mark(folder)
    return Share(path=str(tmp_path / "records"))


@pytest.fixture
def attic(tmp_path: Path) -> Path:
    """Two zips and two logs in folders called after a patient."""
    where = tmp_path / "attic" / f"7_{NAME}"
    where.mkdir(parents=True)
    for number in (1, 2):
        with zipfile.ZipFile(where / f"{NAME} {number}.zip", "w") as packed:
            packed.writestr(f"{NAME}/{number}.trf", make_log(number))
        (where / f"{NAME} {number + 2}.trf").write_bytes(make_log(number + 2))
    return tmp_path / "attic"


def todo(attic: Path, records: Share) -> backlog.Todo:
    with connect(attic) as folder:
        return backlog.look(folder, "4299", records)


@pytest.fixture
def count(records: Share) -> Iterator[Callable[[], int]]:
    with records.connect() as folder:
        yield lambda: len(Index(folder).deliveries(columns=["sha256"]))


def test_a_batch_takes_in_zips_and_loose_logs_and_only_logs_are_looked_at_again(
    attic: Path, records: Share, count: Callable[[], int]
) -> None:
    found = todo(attic, records)
    (batch,) = found.batches
    assert (len(batch.files), found.known) == (4, 0)
    results = backlog.take_in(1, "4299", records, Share(path=str(attic)), batch)
    assert [(result.indexed, result.problem) for result in results] == [(1, ""), (1, ""), (2, "")]
    assert count() == 4
    again = todo(attic, records)
    assert again.known == 2
    assert [name.endswith(".trf") for name, _ in again.batches[0].files] == [True, True]


def test_one_zip_that_cannot_be_fetched_does_not_hold_up_the_others(
    attic: Path, records: Share, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = LocalFolder.fetch

    def fetch(self: LocalFolder, name: str, local: Path, *more: object) -> bool:
        if name.endswith(" 1.zip"):
            raise StorageError(f"Could not fetch {self.location}/{name}: access denied.") from OSError(13, name)
        return really(self, name, local)

    monkeypatch.setattr(LocalFolder, "fetch", fetch)
    (batch,) = todo(attic, records).batches
    results = backlog.take_in(1, "4299", records, Share(path=str(attic)), batch)
    assert count() == 3
    (failed,) = [result for result in results if result.problem]
    assert "access denied" in failed.problem
    assert failed.entry is None, "it is not noted as damaged: it is tried again"
    assert "Geheimnis" not in str([(result.backup, result.aside, result.problem) for result in results])


def test_without_the_records_share_nothing_is_done(attic: Path, records: Share) -> None:
    (batch,) = todo(attic, records).batches
    Path(records.path, MARK).unlink()
    with pytest.raises(UnreachableError, match="is away"):
        backlog.take_in(1, "4299", records, Share(path=str(attic)), batch)
    assert not list(Path(records.path).iterdir())


def test_a_log_larger_than_any_delivery_is_told_and_not_read(
    attic: Path, records: Share, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (trf, backlog):
        monkeypatch.setattr(module, "MAX_LOG_BYTES", len(make_log(1)) - 1)
    (batch,) = todo(attic, records).batches
    results = backlog.take_in(1, "4299", records, Share(path=str(attic)), batch)
    assert count() == 0
    assert all("larger than" in result.problem and "Geheimnis" not in result.problem for result in results)


@pytest.mark.parametrize(
    "error",
    [
        StorageError(f"Could not write /mnt/records/TRF/raw/4299/2026/01/26_01_05 Z 1-1_{NAME}.trf: the share is full."),
        StorageError(f"Could not write \\\\hub\\records\\TRF\\quarantine\\4299\\x {NAME} [0f].trf.reason.txt: denied."),
        StorageError(f"Could not open /attic/7_{NAME}/a b.zip: it is not there."),
        TrfError(f"7_{NAME}/a b.zip", 3, "a date", "nothing"),
        SetupError(f"The name 'a b.zip/7_{NAME}' leads out of its folder."),
    ],
)
def test_errors_are_told_without_the_names_of_files(error: LinacError) -> None:
    with pytest.raises(LinacError) as caught, trf.nameless(f"7_{NAME}/a b.zip"):
        raise error from OSError(2, "No such file", f"7_{NAME}")
    text = str(caught.value)
    assert "Geheimnis" not in text
    assert "a b.zip" not in text
    assert caught.value.__suppress_context__
    assert isinstance(caught.value, type(error)) or isinstance(error, TrfError)
    for kept in ("the share is full", "denied", "it is not there", "expected a date", "leads out"):
        if kept in str(error):
            assert kept in text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such folders")
def test_a_folder_that_windows_could_not_hold_is_told_and_holds_up_no_other(attic: Path, records: Share) -> None:
    (attic / f"{NAME} 12:30").mkdir()
    (attic / f"{NAME} 12:30" / "1.trf").write_bytes(make_log(9))
    found = todo(attic, records)
    assert sum(len(batch.files) for batch in found.batches) == 4
    (why,) = found.refused
    assert "Rename it" in why
    assert "Geheimnis" not in why


def damaged_zip(path: Path) -> None:
    """Two logs; the directory at the end is gone."""
    with zipfile.ZipFile(path, "w") as packed:
        for number in (1, 2):
            packed.writestr(f"TCS/{number}.trf", make_log(number))
    path.write_bytes(path.read_bytes()[:-40])


def test_a_backup_that_arrives_without_its_directory_is_fetched_again(
    records: Share, tmp_path: Path, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    damaged_zip(there / "SDD+1.zip")
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as packed:
        packed.writestr("TCS/1.trf", make_log(1))
    really, fetched = LocalFolder.fetch, []

    def fetch(self: LocalFolder, name: str, local: Path, *more: object) -> bool:
        fetched.append(local)
        if len(fetched) == 2:
            (there / "SDD+1.zip").write_bytes(whole.read_bytes())  # by now the NSS has written it to its end
        return really(self, name, local, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalFolder, "fetch", fetch)
    with connect(there) as folder, records.connect() as share:
        (entry,) = folder.list("SDD+*.zip")
        result = trf.add_backup(Index(share), "4299", folder, entry.name, entry)
    assert (len(fetched), result.problem, count()) == (2, "", 1)


def test_a_backup_that_is_damaged_where_it_lies_gives_what_can_be_read_of_it(
    records: Share, tmp_path: Path, count: Callable[[], int]
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    damaged_zip(there / "SDD+1.zip")
    with connect(there) as folder, records.connect() as share:
        (entry,) = folder.list("SDD+*.zip")
        result = trf.add_backup(Index(share), "4299", folder, entry.name, entry)
    assert "2 TRFs could be read" in result.problem
    assert count() == 2


def test_a_backlog_on_a_share_of_the_linac_is_opened_as_that_share_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = SmbCredentials(username="reader", password=SecretStr("invented"))
    other = SmbCredentials(username="writer", password=SecretStr("invented"))
    site = Site(
        name="Lab",
        time_zone="Europe/Berlin",
        records=Share(path=r"\\hub\physics\records", port=4450, credentials=other),
        spool=str(tmp_path),
    )
    linac = Linac(serial="4299", address="127.0.0.1", site=site, backup=Share(path=r"\\nss-4299\Backup\TCS", credentials=account))
    found = backlog.share_of(linac, r' "//NSS-4299/backup/old years" ')
    assert (found.path, found.credentials, found.port) == ("//NSS-4299/backup/old years", account, 445)
    found = backlog.share_of(linac, r"\\hub\physics\attic")
    assert (found.credentials, found.port) == (other, 4450)
    assert backlog.share_of(linac, str(tmp_path)).credentials is None
    monkeypatch.setattr(backlog, "load", lambda _kind, name: found if name == "attic" else None)
    assert backlog.share_of(linac, "attic") is found
    with pytest.raises(SetupError, match="no Share block named 'attics'"):
        backlog.share_of(linac, "attics")
    with pytest.raises(SetupError, match="not an absolute path"):
        backlog.share_of(linac, "old/attic")
    if os.name != "nt":
        with pytest.raises(SetupError, match="Make a Share block"):
            backlog.share_of(linac, r"\\elsewhere\attic")


def test_backups_are_called_by_their_names_only_if_those_are_the_nss_own() -> None:
    at = datetime(2026, 1, 18, 2, tzinfo=UTC)
    assert trf.shown(Entry("SDD+4299+20260118_020000.zip", 7, at)) == "SDD+4299+20260118_020000.zip"
    assert trf.shown(Entry(f"{NAME}.zip", 7, at)) == "zip of 7 bytes of 2026-01-18 02:00:00 UTC"
    assert trf.shown(Entry(f"SDD+{NAME}.zip", 7, at)) == "zip of 7 bytes of 2026-01-18 02:00:00 UTC"


def test_what_has_arrived_of_a_backup_outlasts_a_failure_and_goes_when_it_is_indexed(
    tmp_path: Path, records: Share, attic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with connect(next(attic.iterdir())) as folder, records.connect() as there:
        entry = folder.list("*.zip")[0]
        index = trf.Index(there)
        with monkeypatch.context() as broken:
            broken.setattr(index, "add", lambda *_: (_ for _ in ()).throw(StorageError("the share went away")))
            with pytest.raises(StorageError):
                trf.add_backup(index, "4299", folder, entry.name, entry, spool)
        assert SETTLING.wait()
        (arrived,) = (spool / trf.ARRIVING).iterdir()
        assert arrived.stat().st_size == entry.size
        assert arrived.parent.stat().st_mode & 0o077 == 0 or os.name == "nt"
        assert not folder.fetch(entry.name, arrived), "it is known by size and time"
        added = trf.add_backup(index, "4299", folder, entry.name, entry, spool)
        assert added.indexed > 0
        assert SETTLING.wait()
        assert list((spool / trf.ARRIVING).iterdir()) == []


def test_what_nobody_came_back_for_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trf._arriving(tmp_path) as here:
        (here / "old.zip").write_bytes(b"x")
    later = time.time() + trf.ARRIVING_SECONDS + 60
    monkeypatch.setattr(trf.time, "time", lambda: later)
    with trf._arriving(tmp_path) as here:
        assert list(here.iterdir()) == []


def test_without_a_spool_on_this_computer_a_backup_arrives_in_a_folder_for_now(tmp_path: Path) -> None:
    with trf._arriving(tmp_path / "D" / "spool") as here:
        assert here.is_dir()
    assert not here.exists()
    assert not (tmp_path / "D").exists()


def test_a_problem_that_a_backup_has_a_thousand_times_is_told_once(records: Share, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    within = tmp_path / "within.zip"
    with zipfile.ZipFile(within, "w") as packed:
        packed.writestr("1.trf", make_log(1))
    with zipfile.ZipFile(there / "SDD+1.zip", "w") as packed:
        for number in range(1_000):
            packed.write(within, f"{number}.zip")
    with connect(there) as folder, records.connect() as share:
        (entry,) = folder.list("SDD+*.zip")
        result = trf.add_backup(Index(share), "4299", folder, entry.name, entry)
        assert result.problem.count("A zip within the backup holds TRFs") == 1
        assert "(1000 times.)" in result.problem
        assert Index(share).new_backups("4299", [entry]) == [entry], "it is not taken for done"


RUN = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from tasks import backlog

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=backlog.end_with_the_run)
    print(pool.submit(backlog.os.getpid).result(), flush=True)
    sys.stdin.readline()
"""


def test_the_processes_of_a_backlog_end_with_a_run_that_is_killed(project: Path, tmp_path: Path) -> None:
    """Prefect kills a cancelled run that takes more than half a minute to end."""
    program = tmp_path / "run.py"
    program.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(project)}
    run = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    run.kill()
    try:
        run.communicate(timeout=60)  # the output ends once nobody holds it any more
    except subprocess.TimeoutExpired:
        os.kill(pid, signal.SIGTERM)
        raise
