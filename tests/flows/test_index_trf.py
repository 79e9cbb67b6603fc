"""trf-index: what is new is indexed once, what is damaged is told and hinders nothing."""

import json
import time
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from linac.errors import LinacError
from linac.simulator import write_backup
from linac.transport import connect
from linac.transport.records import MARK, mark

if TYPE_CHECKING:
    from tests.flows.conftest import Lab


def put_into_service(lab: "Lab") -> None:
    """The block and the mark in the records share: what trf-index needs of add-linac."""
    from blocks import Linac, Share, block_name
    from tasks.provision import load_site

    linac = Linac(serial=lab.serial, address="127.0.0.1", site=load_site(lab.site_name), backup=Share(path=str(lab.backup)))
    linac.save(block_name(lab.serial), overwrite=True)
    with connect(lab.records) as folder:
        mark(folder)


def run(lab: "Lab", **more: str) -> str:
    from flows.index_trf import trf_index

    state = trf_index(serial=lab.serial, return_state=True, **more)
    assert state.is_completed(), state.message
    return f"{state.name}: {state.message}"


def fail(lab: "Lab", **more: str) -> str:
    """The message of a run that must fail."""
    from flows.index_trf import trf_index

    with pytest.raises(LinacError) as caught:
        trf_index(serial=lab.serial, **more)
    return str(caught.value)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks do not wait for a share to come back."""
    from tasks import trf

    for task in (trf.list_new_backups, trf.index_backup, trf.note_damaged):
        monkeypatch.setattr(task, "retries", 0)


def deliveries(lab: "Lab") -> pd.DataFrame:
    """As a user reads them: without our code."""
    return pd.read_parquet(lab.records / "TRF" / "deliveries")


def test_overlapping_backups_index_each_log_once_and_a_second_run_finds_nothing(lab: "Lab") -> None:
    put_into_service(lab)
    for day in (18, 19):
        write_backup(lab.backup, date(2026, 11, day), serial=lab.serial, per_day=1, days=3, mu=30)
    message = run(lab)
    logs = {
        name for path in lab.backup.glob("*.zip") for name in zipfile.ZipFile(path).namelist() if name.lower().endswith(".trf")
    }
    found = deliveries(lab)
    assert len(found) == found["sha256"].nunique() == len({Path(name).name for name in logs})
    assert message.startswith(f"Completed: {len(found)} TRFs indexed")
    assert "from 2 new backups" in message
    nothing = "Completed: 0 TRFs indexed (0 rows), 0 known ones skipped, 0 set aside, 0 sources failed, from 0 new backups."
    assert run(lab) == nothing
    assert len(deliveries(lab)) == len(found)


def test_a_night_with_nothing_new_costs_a_few_listings_and_reads_and_writes_nothing(
    lab: "Lab", monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much lies in the records: on a share behind a tunnel each listing takes its time."""
    from linac.transport import LocalFolder

    put_into_service(lab)
    write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30)
    run(lab)
    (lab.records / "iCom" / "patients" / "1_Nobody").mkdir(parents=True)
    asked: list[str] = []

    def watch(what: str) -> None:
        really = getattr(LocalFolder, what)

        def call(self: LocalFolder, name: str = "*", *more: object, **others: object) -> object:
            asked.append(f"{what} {name}" if self.location == str(lab.records) else f"{what} of backups")
            return really(self, name, *more, **others)

        monkeypatch.setattr(LocalFolder, what, call)

    for what in ("list", "open", "read", "write", "create", "replace", "remove", "fetch", "sweep"):
        watch(what)
    run(lab)
    assert {question.split(" ")[0] for question in asked} == {"list"}, asked
    assert not [question for question in asked if "raw" in question or "month=" in question or "patients" in question]
    assert len(asked) <= 10, asked


def test_a_file_that_is_no_trf_is_set_aside_with_its_reason_and_the_rest_goes_on(lab: "Lab") -> None:
    put_into_service(lab)
    write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30, damaged=1)
    message = run(lab)
    assert message.startswith("Completed with warnings: ")
    assert ", 1 set aside," in message
    assert len(deliveries(lab)) > 0
    aside = list((lab.records / "TRF" / "quarantine" / lab.serial).iterdir())
    assert len(aside) == 2, "the file and its reason"
    assert "Set aside" in lab.report(f"trf-index-{lab.serial.lower()}")


def test_the_same_unreadable_file_from_two_backups_is_set_aside_and_counted_once(lab: "Lab") -> None:
    put_into_service(lab)
    for day in (18, 19):
        write_backup(lab.backup, date(2026, 11, day), serial=lab.serial, per_day=1, days=3, mu=30, damaged=1)
    assert ", 1 set aside," in run(lab)
    report = lab.report(f"trf-index-{lab.serial.lower()}")
    assert report.count("- log ") == 1
    assert "Logs that earlier runs had set aside came again: 1." in report
    assert len(list((lab.records / "TRF" / "quarantine" / lab.serial).glob("*.trf"))) == 1
    write_backup(lab.backup, date(2026, 11, 20), serial=lab.serial, per_day=1, days=3, mu=30, damaged=1)
    assert ", 0 set aside," in run(lab), "it was told of yesterday"


def test_a_zip_cut_short_gives_what_it_has_and_fails_the_run_in_words_once(lab: "Lab") -> None:
    """The next nights name it in their report and read it again when it changes."""
    put_into_service(lab)
    whole = write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30)
    good = whole.read_bytes()
    whole.write_bytes(good[: len(good) // 2])
    write_backup(lab.backup, date(2026, 11, 19), serial=lab.serial, per_day=1, days=3, mu=30)
    assert whole.name in fail(lab)
    first = len(deliveries(lab))
    assert first > 0, "the other backup was indexed"
    key = f"trf-index-{lab.serial.lower()}"
    assert whole.name in lab.report(key)
    for _ in range(2):
        message = run(lab)
        assert message.startswith("Completed with warnings: 0 TRFs indexed")
        assert message.endswith("from 0 new backups. Damaged backups told of before: 1.")
        assert whole.name in lab.report(key)
        assert "cut short or damaged" in lab.report(key)
    whole.write_bytes(good)
    message = run(lab)
    assert message.startswith("Completed: ")
    assert message.endswith("from 1 new backups.")
    assert whole.name not in lab.report(key).partition("## Damaged")[2]


def test_a_damaged_zip_is_dismissed_by_its_name_and_gone_from_the_report(lab: "Lab") -> None:
    put_into_service(lab)
    damaged = write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert damaged.name in fail(lab)
    assert f"There are: {damaged.name}" in fail(lab, dismiss="SDD+other.zip")
    assert run(lab, dismiss=damaged.name).startswith("Completed: 0 TRFs")
    assert run(lab).startswith("Completed: 0 TRFs")
    assert damaged.name not in lab.report(f"trf-index-{lab.serial.lower()}")
    damaged.write_bytes(damaged.read_bytes()[:4000])
    assert damaged.name in fail(lab), "it changed, and is as good as a new one"


def test_a_damaged_zip_that_was_deleted_is_not_spoken_of(lab: "Lab") -> None:
    put_into_service(lab)
    damaged = write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    fail(lab)
    damaged.unlink()
    assert run(lab).startswith("Completed: 0 TRFs")


def test_a_run_that_dies_before_its_report_leaves_the_damaged_zip_to_the_next(
    lab: "Lab", monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_service(lab)
    damaged = write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30)
    damaged.write_bytes(damaged.read_bytes()[:5000])

    def die(*_: object) -> None:
        raise LinacError("The power went.")

    from flows import index_trf

    with monkeypatch.context() as patch:
        patch.setattr(index_trf, "report_index", die)
        assert fail(lab) == "The power went."
    assert damaged.name in fail(lab)


@pytest.mark.parametrize("away", ["mount point empty", "mount point gone"])
def test_without_the_records_share_it_fails_in_words_and_writes_nothing(lab: "Lab", away: str) -> None:
    put_into_service(lab)
    write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30)
    (lab.records / MARK).unlink()
    if away == "mount point gone":
        lab.records.rmdir()
    message = fail(lab)
    assert f"The records share {lab.records} is away" in message
    assert "Connect the share again" in message
    assert lab.records.name in lab.report(f"trf-index-{lab.serial.lower()}")
    assert "is away" in fail(lab, backlog=str(lab.backup))
    assert not lab.records.exists() if away == "mount point gone" else not list(lab.records.iterdir())
    lab.records.mkdir(exist_ok=True)
    (lab.records / MARK).write_text("")
    assert "from 1 new backups" in run(lab)


MARKER = "Geheimnis^Träger"
"""A patient's name where it can stand in a site's files: field, file, folder and zip names, damaged bytes. Invented."""


def test_no_name_gets_into_logs_reports_states_or_events(lab: "Lab", monkeypatch: pytest.MonkeyPatch) -> None:
    from linac.errors import StorageError
    from linac.transport import LocalFolder
    from linac.trf.writer import encode

    put_into_service(lab)
    start = datetime(2026, 11, 17, 8, tzinfo=UTC)
    log = encode([[42] * 350] * 30, start=start, utc_offset="+10:00", field=f"1-1/{MARKER}", machine="T", prescribed_mu=1)
    damaged = log[:60] + b"\xff" * 40 + MARKER.encode() * 5
    attic = lab.root / "attic"
    for where in (lab.backup / "SDD+1.zip", attic / f"7_{MARKER}_x" / f"{MARKER}.zip"):
        where.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(where, "w") as packed:
            packed.writestr(f"TCS/{MARKER}/1-1_{MARKER}.trf", log)
            packed.writestr(f"TCS/{MARKER}/bad {MARKER}.trf", damaged)
            packed.writestr(f"TCS/{MARKER}/worse {MARKER}.trf", MARKER.encode())
    (lab.backup / "SDD+2.zip").write_bytes((lab.backup / "SDD+1.zip").read_bytes()[:-60].replace(b"\xff" * 9, b"\xfe" * 9))
    (attic / f"cut {MARKER}.zip").write_bytes((lab.backup / "SDD+1.zip").read_bytes()[:-60])
    (attic / f"7_{MARKER}_x" / f"1-1_{MARKER}.trf").write_bytes(log)
    (attic / f"7_{MARKER}_x" / f"gone {MARKER}.trf").symlink_to(attic / "nowhere")

    fail(lab)
    fail(lab, backlog=str(attic))
    run(lab)
    really = LocalFolder.write

    def write(self: LocalFolder, name: str, data: bytes) -> None:
        if name.endswith(".trf"):
            raise StorageError(f"Could not write {self.location}/{name}: the share is full.") from OSError(28, "full", name)
        really(self, name, data)

    with zipfile.ZipFile(lab.backup / "SDD+3.zip", "w") as packed:
        packed.writestr(f"new {MARKER}.trf", log.replace(b"1-1/", b"1-2/"))
    monkeypatch.setattr(LocalFolder, "write", write)
    message = fail(lab)
    assert "(a log)" in message
    assert "the share is full" in message

    everything = told_to_prefect(lab)
    assert "SDD+1.zip" in everything, "it is about this linac"
    assert "Set aside" in everything
    for part in ("Geheimnis", "Träger", "Tr\\u00e4ger", "Tr\u00e4ger", "1-1_"):
        assert part not in everything, everything[max(everything.index(part) - 300, 0) :][:600]


def told_to_prefect(lab: "Lab") -> str:
    """All that the server has: runs and their states, logs, artifacts, and events."""
    import httpx
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL

    APILogHandler().flush()
    time.sleep(2)  # events go another way
    found = []
    for what in ("flow_runs", "task_runs", "logs", "artifacts", "flow_run_states", "events"):
        for page in range(20):
            ask = {"limit": 200, "offset": 200 * page}
            if what == "events":
                ask = {"limit": 50}
            answer = httpx.post(f"{PREFECT_API_URL.value()}/{what}/filter", json=ask, timeout=30)
            if what == "flow_run_states" and answer.status_code >= 400:
                break
            answer.raise_for_status()
            rows = answer.json()["events"] if what == "events" else answer.json()
            found += rows
            if what == "events" or len(rows) < 200:
                break
    return json.dumps(found, ensure_ascii=False)


def test_a_linac_whose_backups_cannot_be_listed_fails_in_words_and_hinders_no_other(lab: "Lab") -> None:
    from blocks import Linac, Share, block_name
    from flows.index_trf import trf_index
    from tasks.provision import load_site

    put_into_service(lab)
    write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, days=3, mu=30)
    gone = Share(path=str(lab.root / "unplugged"))
    other = Linac(serial="A0", address="127.0.0.1", site=load_site(lab.site_name), backup=gone)
    other.save(block_name("A0"), overwrite=True)
    with pytest.raises(LinacError, match=r"(?s)Linac A0: .*unplugged.*it is not there"):
        trf_index(site=lab.site_name)
    assert len(deliveries(lab)) > 0
    Linac.delete(block_name("A0"))


def test_a_linac_that_is_not_in_service_is_said_so(prefect_server: str) -> None:
    from flows.index_trf import trf_index

    with pytest.raises(LinacError, match="not in service"):
        trf_index(serial="nobody")


class TestBacklog:
    def test_a_folder_of_zips_and_logs_is_taken_in_on_all_cores_and_again_finds_nothing_new(self, lab: "Lab") -> None:
        from flows.index_trf import trf_index
        from tasks import backlog

        put_into_service(lab)
        attic = lab.root / "attic"
        for day in (1, 10):
            write_backup(attic / f"2026 Müller {day}", date(2026, 11, day), serial=lab.serial, per_day=1, days=3)
        with zipfile.ZipFile(write_backup(lab.root / "x", date(2026, 10, 1), serial=lab.serial, per_day=1, days=3)) as other:
            other.extractall(attic / "loose")
        logs = {path.name for path in attic.rglob("*.trf")}
        for path in attic.rglob("*.zip"):
            logs |= {Path(name).name for name in zipfile.ZipFile(path).namelist() if name.lower().endswith(".trf")}
        batch_bytes, backlog.BATCH_BYTES = backlog.BATCH_BYTES, 1 << 20  # several batches
        try:
            state = trf_index(serial=lab.serial, backlog=str(attic), return_state=True)
            assert state.is_completed(), state.message
            assert len(deliveries(lab)) == len(logs)
            again = trf_index(serial=lab.serial, backlog=str(attic), return_state=True)
        finally:
            backlog.BATCH_BYTES = batch_bytes
        assert str(again.message).startswith("0 TRFs indexed")
        assert len(deliveries(lab)) == len(logs)

    def test_it_wants_to_know_the_linac_and_a_folder_that_is_there(self, lab: "Lab") -> None:
        from flows.index_trf import trf_index

        put_into_service(lab)
        with pytest.raises(LinacError, match="belongs to one linac"):
            trf_index(backlog=str(lab.root))
        with pytest.raises(LinacError, match="it is not there"):
            trf_index(serial=lab.serial, backlog=str(lab.root / "nowhere"))
        with pytest.raises(LinacError, match="holds no zip"):
            trf_index(serial=lab.serial, backlog=str(lab.records))

    def test_what_is_taken_in_already_is_no_failure(self, lab: "Lab") -> None:
        put_into_service(lab)
        attic = lab.root / "attic"
        write_backup(attic, date(2026, 11, 1), serial=lab.serial, per_day=1, days=2, mu=30)
        assert "from 1 new backups" in run(lab, backlog=str(attic))
        assert run(lab, backlog=str(attic)).startswith("Completed: 0 TRFs indexed")
        (damaged,) = attic.iterdir()
        damaged.write_bytes(damaged.read_bytes()[:9000])
        assert damaged.name in fail(lab, backlog=str(attic))
        assert run(lab, backlog=str(attic)).startswith("Completed with warnings: 0 TRFs indexed")
