"""trf-index: what is new is indexed once, what is damaged is told and hinders nothing."""

import zipfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from linac.errors import LinacError
from linac.simulator import write_backup

if TYPE_CHECKING:
    from tests.flows.conftest import Lab


def put_into_service(lab: "Lab") -> None:
    """The block alone: what trf-index needs of add-linac."""
    from blocks import Linac, Share, block_name
    from tasks.provision import load_site

    linac = Linac(serial=lab.serial, address="127.0.0.1", site=load_site(lab.site_name), backup=Share(path=str(lab.backup)))
    linac.save(block_name(lab.serial), overwrite=True)


def run(lab: "Lab") -> str:
    from flows.index_trf import trf_index

    state = trf_index(serial=lab.serial, return_state=True)
    assert state.is_completed(), state.message
    return str(state.message)


def deliveries(lab: "Lab") -> pd.DataFrame:
    """As a user reads them: without our code."""
    return pd.read_parquet(lab.records / "TRF" / "deliveries")


def test_overlapping_backups_index_each_log_once_and_a_second_run_finds_nothing(lab: "Lab") -> None:
    put_into_service(lab)
    for day in (18, 19):
        write_backup(lab.backup, date(2026, 11, day), serial=lab.serial, per_day=1)
    message = run(lab)
    logs = {
        name for path in lab.backup.glob("*.zip") for name in zipfile.ZipFile(path).namelist() if name.lower().endswith(".trf")
    }
    found = deliveries(lab)
    assert len(found) == found["sha256"].nunique() == len({Path(name).name for name in logs})
    assert message.startswith(f"{len(found)} TRFs indexed")
    assert "from 2 new backups" in message
    assert run(lab).startswith("0 TRFs indexed (0 rows), 0 known ones skipped, 0 set aside, 0 sources failed, from 0 new backups")
    assert len(deliveries(lab)) == len(found)


def test_a_file_that_is_no_trf_is_set_aside_with_its_reason_and_the_rest_goes_on(lab: "Lab") -> None:
    put_into_service(lab)
    write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1, damaged=1)
    message = run(lab)
    assert ", 1 set aside," in message
    assert len(deliveries(lab)) > 0
    aside = list((lab.records / "TRF" / "quarantine" / lab.serial).iterdir())
    assert len(aside) == 2, "the file and its reason"
    assert "Set aside" in lab.report(f"trf-index-{lab.serial.lower()}")


def test_a_zip_cut_short_gives_what_it_has_fails_the_run_in_words_and_is_tried_again(lab: "Lab") -> None:
    from flows.index_trf import trf_index

    put_into_service(lab)
    whole = write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1)
    good = whole.read_bytes()
    whole.write_bytes(good[: len(good) // 2])
    write_backup(lab.backup, date(2026, 11, 19), serial=lab.serial, per_day=1)
    with pytest.raises(LinacError, match=whole.name.replace("+", r"\+")):
        trf_index(serial=lab.serial)
    first = len(deliveries(lab))
    assert first > 0, "the other backup was indexed"
    assert whole.name in lab.report(f"trf-index-{lab.serial.lower()}")
    whole.write_bytes(good)
    assert "from 1 new backups" in run(lab)


def test_a_linac_whose_backups_cannot_be_listed_fails_in_words_and_hinders_no_other(
    lab: "Lab", monkeypatch: pytest.MonkeyPatch
) -> None:
    from blocks import Linac, Share, block_name
    from flows.index_trf import trf_index
    from tasks.provision import load_site

    put_into_service(lab)
    write_backup(lab.backup, date(2026, 11, 18), serial=lab.serial, per_day=1)
    gone = Share(path=str(lab.root / "unplugged"))
    other = Linac(serial="A0", address="127.0.0.1", site=load_site(lab.site_name), backup=gone)
    other.save(block_name("A0"), overwrite=True)
    monkeypatch.setattr("tasks.trf.RETRY_SECONDS", 0)
    from tasks.trf import list_new_backups

    monkeypatch.setattr(list_new_backups, "retries", 0)
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
            write_backup(attic / f"2026 Müller {day}", date(2026, 11, day), serial=lab.serial, per_day=1)
        with zipfile.ZipFile(write_backup(lab.root / "x", date(2026, 10, 1), serial=lab.serial, per_day=1)) as other:
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
