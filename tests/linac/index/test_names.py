"""Names that come from logs and zips become names that every file system takes, and nothing leaves its folder."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linac.errors import SetupError
from linac.index import names
from linac.transport import Entry
from linac.transport.paths import split_name


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("17_04_19 21_18_39 Z .trf", "17_04_19 21_18_39 Z .trf"),
        ("TCS/Logs\\26 Z 1-1_Größe?.TRF", "26 Z 1-1_Größe_.trf"),
        ("../../evil.trf", "evil.trf"),
        ("..", "log.trf"),
        ("", "log.trf"),
        (".trf", "log.trf"),
        ("CON.trf", "_CON.trf"),
        ("nul", "_nul.trf"),
        ("a.part-1234.trf", "a_part-1234.trf"),
        ('a<b>c:"d|e*\x00\n.trf', "a_b_c__d_e___.trf"),
        ("no ending", "no ending.trf"),
    ],
)
def test_a_log_keeps_its_name_as_far_as_it_can_be_kept(given_name: str, kept: str) -> None:
    assert names.log_name(given_name) == kept


@given(st.text(st.characters()), st.sampled_from(["", "a" * 64]))
def test_any_name_becomes_one_that_can_be_used(name: str, suffix: str) -> None:
    kept = names.log_name(name, suffix)
    assert split_name(kept) == [kept]
    assert len(kept.encode()) <= 255
    assert not set(kept) & set('<>:"/\\|?*')
    assert kept.endswith(".trf")
    assert ".part-" not in kept


@pytest.mark.parametrize("serial", ["4299", "0042", "Agility-2", "a", "LA_1.2"])
def test_serials_that_can_name_a_folder_are_taken(serial: str) -> None:
    assert names.check_serial(serial) == serial


@pytest.mark.parametrize(
    "serial", ["", ".", "..", "a/b", "a\\b", "a b", "CON", "nul.x", "_x", "a.", "ä", "a" * 33, "x=y", "4299\n"]
)
def test_serials_that_cannot_are_refused(serial: str) -> None:
    with pytest.raises(SetupError, match="cannot name a folder"):
        names.check_serial(serial)


def test_a_month_is_that_of_the_start_in_utc() -> None:
    assert names.month_of(datetime(2026, 2, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))) == "2026-01"


def test_a_partition_says_its_linac_and_month() -> None:
    path = names.partition("samples", "4299", "2026-01") + "/a.parquet"
    assert names.split_partition(path) == ("4299", "2026-01")


def test_a_backup_that_changed_has_another_note() -> None:
    entry = Entry("SDD+1.zip", 10, datetime(2026, 1, 5, 9, 30, 1, 500_000, tzinfo=UTC))
    notes = {
        names.backup_name(changed)
        for changed in (
            entry,
            Entry("SDD+2.zip", 10, entry.modified),
            Entry("SDD+1.zip", 11, entry.modified),
            Entry("SDD+1.zip", 10, entry.modified + timedelta(seconds=1)),
        )
    }
    assert len(notes) == 4
    assert names.backup_name(entry) == "SDD+1.zip.10.20260105T093001Z.json"
