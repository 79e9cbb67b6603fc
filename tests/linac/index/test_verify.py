"""`verify` tells the truth: nothing where all is well, and each kind of harm by its name."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linac import trf
from linac.errors import SetupError, StorageError
from linac.index import Index, Log, deliveries
from linac.index import samples as samples_files
from linac.index.verify import as_json
from linac.transport import Entry, connect


@pytest.fixture
def sound(index: Index, make_log: Callable[..., bytes]) -> Index:
    index.add("4299", [Log(f"{n}.trf", make_log(n, rows=4)) for n in range(3)] + [Log("bad.trf", b"?")])
    index.add("4299", [Log("feb.trf", make_log(3, start=datetime(2026, 2, 2, tzinfo=UTC)))])
    index.mark_done("4299", Entry("SDD+1.zip", 1, datetime(2026, 1, 1, tzinfo=UTC)))
    return index


def one(index: Index, pattern: str) -> str:
    """The one file that matches, below the root."""
    root = Path(index.folder.location)
    (path,) = root.glob(f"TRF/{pattern}")
    return path.relative_to(root).as_posix()


JANUARY = "deliveries/machine=4299/month=2026-01/*.parquet"
ROWS = "samples/machine=4299/month=2026-01/*.parquet"


def problems(index: Index, *, values: bool = False) -> str:
    """All problems as one text; there must be some."""
    report = index.verify(values=values)
    assert not report.ok
    return "\n".join(report.problems)


def test_a_sound_index_has_no_problems_and_is_counted(sound: Index, make_log: Callable[..., bytes]) -> None:
    said: list[str] = []
    report = sound.verify(said.append, values=True)
    assert report.problems == []
    assert (report.deliveries, report.rows, report.samples_files, report.quarantined, report.backups) == (4, 24, 2, 1, 1)
    assert report.raw_bytes == sum(len(make_log(n, rows=4)) for n in range(3)) + len(make_log(3))
    assert said == ["4299 2026-01", "4299 2026-02"]
    assert '"ok": true' in as_json(report)


def test_a_raw_log_that_changed_or_is_gone(sound: Index) -> None:
    sound.folder.write("TRF/raw/4299/2026/01/0.trf", b"changed")
    sound.folder.remove("TRF/raw/4299/2026/01/1.trf")
    text = problems(sound)
    assert "0.trf is not as it was" in text
    assert "1.trf" in text
    assert "restore it from a backup" in text


def test_a_raw_log_without_delivery(sound: Index, make_log: Callable[..., bytes]) -> None:
    sound.folder.write("TRF/raw/4299/2026/01/lost.trf", make_log(9))
    assert "lost.trf is not in the index" in problems(sound)
    sound.add("4299", [Log("lost.trf", make_log(9))])
    assert sound.verify().ok


def test_rows_that_are_gone(sound: Index) -> None:
    sound.folder.remove(one(sound, ROWS))
    assert problems(sound).count("are not there") == 3


def test_rows_without_delivery(sound: Index) -> None:
    sound.folder.remove(one(sound, JANUARY))
    text = problems(sound)
    assert text.count("which the index does not have there") == 3
    assert text.count("is not in the index, its rows are. Move the deliveries and the samples") == 3
    assert "Add it again" not in text, "that would put the rows there twice"


def test_what_verify_advises_makes_the_index_whole_again(sound: Index, make_log: Callable[..., bytes]) -> None:
    sound.folder.remove(one(sound, JANUARY))
    sound.folder.remove(one(sound, ROWS))
    raw = [f"{n}.trf" for n in range(3)]
    sound.add("4299", [Log(name, sound.folder.read(f"TRF/raw/4299/2026/01/{name}")) for name in raw])
    assert sound.verify(values=True).problems == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("delivered_mu", 9999.0),
        ("end_state", "Terminated Fault"),
        ("field_name", "XX"),
        ("start_utc", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_a_delivery_that_somebody_changed(sound: Index, column: str, value: object) -> None:
    name = one(sound, JANUARY)
    table = deliveries.decode(sound.folder.read(name), name)
    changed = [value, *table.column(column).to_pylist()[1:]]
    place = table.column_names.index(column)
    wrong = table.set_column(place, column, pa.array(changed, table.schema.field(column).type))
    sound.folder.write(name, deliveries.encode(wrong))
    assert f"differs from what its log says in {column}." in problems(sound, values=True)


@pytest.mark.parametrize("name", ["old.record", "desktop.ini.record", "x_2026_zz.record"])
def test_what_somebody_put_among_the_pending_ones_stops_nothing(sound: Index, make_log: Callable[..., bytes], name: str) -> None:
    sound.folder.write(f"TRF/pending/{name}", b"?")
    assert f"TRF/pending/{name} is not of the index. Move it away." in problems(sound)
    assert sound.add("4299", [Log("9.trf", make_log(9))]).indexed == 1
    assert sound.folder.read(f"TRF/pending/{name}") == b"?"


def test_rows_that_are_there_twice(sound: Index) -> None:
    name = one(sound, ROWS)
    sound.folder.write(name.replace("samples-", "copy-"), sound.folder.read(name))
    assert "and not only" in problems(sound)


def test_deliveries_that_are_there_twice(sound: Index) -> None:
    name = one(sound, JANUARY)
    sound.folder.write(name.replace(".parquet", "-copy.parquet"), sound.folder.read(name))
    assert problems(sound).count("and again in") == 3


def test_deliveries_in_the_wrong_place(sound: Index) -> None:
    name = one(sound, JANUARY)
    sound.folder.replace(name, name.replace("2026-01", "2026-03"))
    assert "belongs to 4299, 2026-01" in problems(sound)


def test_a_delivery_with_other_rows_than_the_index_says(sound: Index) -> None:
    name = one(sound, JANUARY)
    table = deliveries.decode(sound.folder.read(name), name)
    wrong = table.set_column(table.column_names.index("rows"), "rows", pa.array([4, 4, 5], pa.int64()))
    sound.folder.write(name, deliveries.encode(wrong))
    assert "has 4 rows, and 5 in the index" in problems(sound)


def test_values_that_are_not_those_of_the_log(sound: Index, make_log: Callable[..., bytes]) -> None:
    name = one(sound, ROWS)
    logs = [make_log(n, rows=4) for n in range(3)]
    encoded = samples_files.Encoded()
    for number, data in enumerate(logs):
        other = make_log(8, rows=4) if number == 1 else data
        encoded.add(trf.read(other), hashlib.sha256(data).hexdigest())
    sound.folder.write(name, encoded.file())
    assert sound.verify().ok, "who reads only names and numbers cannot know"
    text = problems(sound, values=True)
    assert "differs from its log in gantry_deg" in text
    assert "y1_leaves_mm" in text


@pytest.mark.parametrize("pattern", [JANUARY, ROWS, "catalogue/2026.parquet", "backups/4299/*.json"])
def test_files_that_cannot_be_read(sound: Index, pattern: str) -> None:
    name = one(sound, pattern)
    sound.folder.write(name, b"damaged")
    assert name in problems(sound)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("pattern", [JANUARY, ROWS, "catalogue/2026.parquet"])
def test_a_torn_parquet_file(sound: Index, pattern: str, share: float) -> None:
    name = one(sound, pattern)
    data = sound.folder.read(name)
    sound.folder.write(name, data[: int(len(data) * share)])
    assert name in problems(sound)


@pytest.mark.parametrize("pattern", [JANUARY, ROWS, "catalogue/*.parquet"])
def test_an_index_of_newer_software_is_refused(sound: Index, pattern: str) -> None:
    name = one(sound, pattern)
    with sound.folder.open(name) as stream:
        file = pq.ParquetFile(stream)
        metadata = {**file.schema_arrow.metadata, **file.metadata.metadata, b"linac.index.version": b"99"}
        table = file.read().replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    sound.folder.write(name, sink.getvalue().to_pybytes())
    with pytest.raises(SetupError, match="written by a newer version"):
        sound.verify()


@pytest.mark.parametrize("pattern", [JANUARY, ROWS])
def test_what_somebody_put_beside_the_files(sound: Index, pattern: str) -> None:
    where = one(sound, pattern).rpartition("/")[0]
    sound.folder.write(f"{where}/.DS_Store", b"readers leave that out")
    assert sound.verify().ok
    sound.folder.write(f"{where}/Copy of notes.xlsx", b"?")
    assert f"{where}/Copy of notes.xlsx is not of the index" in problems(sound)


def test_a_share_that_is_away_is_not_a_sound_index(sound: Index, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not there"):
        Index(connect(tmp_path / "unplugged")).verify()
    (tmp_path / "mount point").mkdir()
    assert "holds no index" in problems(Index(connect(tmp_path / "mount point")))


def test_a_log_in_quarantine_without_its_reason(sound: Index) -> None:
    (item,) = sound.quarantined("4299")
    sound.folder.remove(item.file + ".reason.txt")
    assert "has no reason beside it" in problems(sound)
    sound.retry("4299")
    assert sound.verify().ok


def test_what_lies_in_the_quarantine_and_is_no_log_set_aside(sound: Index) -> None:
    (item,) = sound.quarantined("4299")
    folder = Path(sound.folder.location) / "TRF" / "quarantine"
    (folder / "notes.txt").write_text("mine")
    (folder / "4299" / "Log of ours.trf").write_text("mine")
    (folder / "4299" / "old").mkdir()
    sound.folder.remove(item.file)
    report = sound.verify()
    assert report.quarantined == 0
    said = sorted(problem.partition(" is not of")[0].partition(" says why")[0] for problem in report.problems)
    assert said == sorted(
        [f"{item.file}.reason.txt", "TRF/quarantine/notes.txt", "TRF/quarantine/4299/Log of ours.trf", "TRF/quarantine/4299/old"]
    )


def test_compact_removes_what_a_killed_run_was_writing(sound: Index) -> None:
    pending = Path(sound.folder.location) / "TRF" / "pending"
    torn = pending / "2026.parquet.new.part-0123abcd"
    torn.write_bytes(b"half")
    mine = pending / "notes.part-of mine"
    mine.write_bytes(b"whole")
    os.utime(torn, (1, 1))
    sound.compact()
    assert not torn.exists()
    assert mine.exists()


def test_damaged_backups_are_counted_and_their_notes_are_read(sound: Index) -> None:
    sound.mark_damaged("4299", Entry("SDD+2.zip", 1, datetime(2026, 1, 2, tzinfo=UTC)), "It is cut short.")
    report = sound.verify()
    assert report.ok
    assert (report.backups, report.damaged_backups) == (1, 1)
    name = one(sound, "backups/4299/*.damaged")
    sound.folder.write(name, b"?")
    assert f"{name} is damaged" in problems(sound)


def test_a_bit_that_turned_over_in_the_rows(sound: Index) -> None:
    name = one(sound, ROWS)
    data = bytearray(sound.folder.read(name))
    data[len(data) // 3] ^= 1
    sound.folder.write(name, bytes(data))
    assert name in problems(sound)


def test_a_catalogue_that_is_missing_or_behind(sound: Index, make_log: Callable[..., bytes]) -> None:
    before = sound.folder.read("TRF/catalogue/2026.parquet")
    sound.add("4299", [Log("5.trf", make_log(5))])
    sound.folder.write("TRF/catalogue/2026.parquet", before)
    assert "lacks 1 deliveries and has 0" in problems(sound)
    sound.folder.remove("TRF/catalogue/2026.parquet")
    assert "is slow until compact" in problems(sound)
    assert sound.compact().deliveries == 5
    assert sound.verify().ok


def test_what_an_interrupted_run_left(sound: Index) -> None:
    sound.folder.write("TRF/pending/x.new", b"half")
    assert "interrupted" in problems(sound)
    sound.compact()
    assert sound.verify().ok


def test_a_log_in_quarantine_that_somebody_changed(sound: Index) -> None:
    (item,) = sound.quarantined("4299")
    sound.folder.write(item.file, b"mended?")
    assert "not as it was when it was set aside" in problems(sound)
