"""What is brought into the index, what is known, what is set aside, and what is noted of backups."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from linac import trf
from linac.errors import BackupError, DamagedError, SetupError
from linac.index import Added, Index, Log, adding, deliveries, samples
from linac.transport import Entry, Folder, connect
from linac.trf.metrics import summarise
from linac.trf.writer import encode


def below(folder: Folder, where: str) -> list[str]:
    root = Path(folder.location)
    return sorted(path.relative_to(root).as_posix() for path in (root / where).rglob("*") if path.is_file())


def test_each_distinct_log_is_indexed_once(index: Index, logs: list[Log], look: Callable[..., Any]) -> None:
    added = index.add("4299", [*logs, *logs[:3], Log("other name.trf", logs[0].data, "SDD+9.zip")])
    assert (added.indexed, added.duplicates, added.quarantined, added.recovered) == (10, 4, [], 0)
    assert added.bytes == sum(len(log.data) for log in logs)
    again = index.add("4299", logs)
    assert (again.indexed, again.duplicates, again.files) == (0, 10, [])
    seen = look(Path(index.folder.location))
    assert not seen.twice
    assert set(seen.deliveries) == {hashlib.sha256(log.data).hexdigest() for log in logs}
    assert added.rows == sum(seen.samples.values()) == sum(seen.deliveries.values())


def test_the_same_log_from_another_linacs_backup_is_known(index: Index, logs: list[Log], make_log: Callable[..., bytes]) -> None:
    index.add("4299", logs[:2])
    added = index.add("2694", [*logs[:2], Log("own.trf", make_log(30, machine="2694"))])
    assert (added.indexed, added.duplicates, added.called) == (1, 2, [])
    assert index.machines() == ["2694", "4299"]


def test_a_log_of_a_linac_that_the_index_has_is_set_aside_and_the_others_go_on(
    index: Index, make_log: Callable[..., bytes]
) -> None:
    index.add("4299", [Log("0.trf", make_log(0))])
    wrong = Log("1.trf", make_log(1, machine="4299"))
    added = index.add("2694", [wrong, Log("2.trf", make_log(2, machine="2694"))])
    assert added.indexed == 1
    [(name, reason)] = added.quarantined
    assert name == "1.trf"
    assert "of linac 4299, which this index has, and came as one of 2694" in reason
    assert sorted(index.deliveries()["linac"]) == ["2694", "4299"]
    assert index.verify().problems == []

    assert index.add("4299", [wrong]).indexed == 1
    assert index.add("2694", [wrong]).released == 1, "once it is where it belongs it leaves by itself"
    assert index.verify().problems == []


def test_a_name_that_is_not_the_serial_is_told_once_as_it_may_be_another_linacs(
    index: Index, make_log: Callable[..., bytes]
) -> None:
    def logs(first: int, *machines: str) -> list[Log]:
        return [Log(f"{first + n}.trf", make_log(first + n, machine=machine)) for n, machine in enumerate(machines)]

    added = index.add("4299", logs(0, "4299", "LINAC A", "LINAC A"))
    assert added.called == ["LINAC A"]
    assert "'LINAC A'; they are filed under 4299" in added.doubt("4299")
    again = index.add("4299", logs(10, "LINAC A", "4299"))
    assert (again.indexed, again.called, again.doubt("4299")) == (2, [], "")
    assert index.add("4299", logs(20, "LINAC B")).called == ["LINAC B"]
    assert index.add("2694", logs(30, "LINAC A")).called == ["LINAC A"], "known of another linac only"


def test_a_row_tells_where_the_log_came_from_and_where_it_lies(index: Index, make_log: Callable[..., bytes]) -> None:
    data = make_log(3, rows=7, field="2-1/Prostate/PTV", machine="LINAC A", utc_offset="-09:30") + b"cut"
    index.add("4299", [Log("TCS/Logs/a log.trf", data, "SDD+2026-01-05.zip")])
    (row,) = index.deliveries().to_dict("records")
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert (row["linac"], row["header_machine"]) == ("4299", "LINAC A")
    assert (row["field"], row["field_label"], row["field_name"]) == ("2-1/Prostate/PTV", "2-1", "Prostate/PTV")
    assert (row["rows"], row["trailing_bytes"], row["size_bytes"]) == (7, 3, len(data))
    assert (row["original_name"], row["backup"]) == ("TCS/Logs/a log.trf", "SDD+2026-01-05.zip")
    assert row["start_utc"].to_pydatetime() == trf.read_header(data).start
    assert row["start_local"].tzinfo is None
    assert row["start_local"].to_pydatetime() == (trf.read_header(data).start - timedelta(hours=9.5)).replace(tzinfo=None)
    assert row["utc_offset_minutes"] == -570
    assert row["raw_file"] == "TRF/raw/4299/2026/01/a log.trf"
    assert index.folder.read(row["raw_file"]) == data
    assert index.raw(row["sha256"][:12]) == data


def test_the_metrics_are_those_of_linac_trf(index: Index, samples: Path) -> None:
    paths = sorted(samples.glob("*.trf"))
    index.add("2694", (Log(path.name, path.read_bytes()) for path in paths))
    for path in paths:
        (row,) = index.find(sha256=hashlib.sha256(path.read_bytes()).hexdigest()).to_dict("records")
        said = summarise(trf.read(path))
        for name in ("delivered_mu", "beam_on_s", "worst_leaf", "end_state", "gantry_travel_deg", "y1_leaves_error_rms_mm"):
            assert row[name] == getattr(said, name), name
        assert row["header_machine"] == said.machine
        assert list(row["energy_cal_blocks"]) == list(said.energy_cal_blocks)
        assert row["end_utc"].to_pydatetime() == said.end_utc


def test_logs_are_kept_under_their_names_and_others_of_the_same_name_beside_them(
    index: Index, make_log: Callable[..., bytes]
) -> None:
    one, two, three = (make_log(number) for number in range(3))
    added = index.add("4299", [Log("a.trf", one), Log("x/A.TRF", two), Log("b.trf", one), Log("a?.trf", three)])
    assert added.indexed == 3
    digest = hashlib.sha256(two).hexdigest()
    assert below(index.folder, "TRF/raw") == [
        "TRF/raw/4299/2026/01/" + name for name in sorted([f"A [{digest[:8]}].trf", "a.trf", "a_.trf"])
    ]


def test_batches_are_as_large_as_asked_and_files_do_not_become_many(folder: Folder, make_log: Callable[..., bytes]) -> None:
    index = Index(folder, batch_bytes=1)
    added = index.add("4299", (Log(f"{n}.trf", make_log(n)) for n in range(12)))
    assert added.indexed == 12
    assert len(below(folder, "TRF/samples")) == 1
    assert len(below(folder, "TRF/deliveries")) == 1
    assert index.verify(values=True).problems == []


def test_a_samples_file_that_is_large_is_not_continued(
    folder: Folder, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linac.index.writer.GROW_BYTES", 40_000)
    index = Index(folder)
    for number in range(8):
        index.add("4299", [Log(f"{number}.trf", make_log(number, rows=30))])
    sizes = [Path(folder.location, name).stat().st_size for name in below(folder, "TRF/samples")]
    assert 2 <= len(sizes) <= 6
    assert sum(size < 40_000 for size in sizes) <= 1
    assert index.verify(values=True).problems == []


def test_a_damaged_samples_file_is_not_built_upon(folder: Folder, make_log: Callable[..., bytes]) -> None:
    index = Index(folder)
    index.add("4299", [Log("1.trf", make_log(1))])
    (name,) = below(folder, "TRF/samples")
    folder.write(name, b"damaged")
    index.add("4299", [Log("2.trf", make_log(2))])
    assert folder.read(name) == b"damaged"
    assert len(below(folder, "TRF/samples")) == 2


def test_a_damaged_deliveries_file_stops_the_adding_with_advice(folder: Folder, make_log: Callable[..., bytes]) -> None:
    """What it held is not known, so nothing can be called new."""
    index = Index(folder)
    index.add("4299", [Log("1.trf", make_log(1))])
    (name,) = below(folder, "TRF/deliveries")
    folder.write(name, b"damaged")
    with pytest.raises(DamagedError, match="Restore it from a backup"):
        index.add("4299", [Log("2.trf", make_log(2))])
    assert folder.read(name) == b"damaged"


def test_files_of_newer_software_are_not_touched(folder: Folder, make_log: Callable[..., bytes]) -> None:
    index = Index(folder)
    index.add("4299", [Log("1.trf", make_log(1))])
    (name,) = below(folder, "TRF/deliveries")
    table = deliveries.decode(folder.read(name), name)
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"linac.index.version": b"2"}), sink)
    folder.write(name, sink.getvalue())
    with pytest.raises(SetupError, match="newer version"):
        index.add("4299", [Log("2.trf", make_log(2))])
    assert folder.read(name) == sink.getvalue()


def test_what_cannot_be_read_is_set_aside_with_its_reason_once(index: Index, make_log: Callable[..., bytes]) -> None:
    cut = make_log(1)[:300]
    given = [Log("good.trf", make_log(2)), Log("dir/cut.trf", cut, "SDD+1.zip"), Log("empty.trf", b"", "SDD+1.zip")]
    added = index.add("4299", given)
    assert added.indexed == 1
    assert [name for name, _ in added.quarantined] == ["cut.trf", "empty.trf"]
    assert all("expected" in reason for _, reason in added.quarantined)
    digest = hashlib.sha256(cut).hexdigest()[:12]
    (first, second) = index.quarantined("4299")
    assert (first.file, first.name, first.size) == (f"TRF/quarantine/4299/cut [{digest}].trf", "cut.trf", 300)
    assert first.reason == added.quarantined[0][1]
    assert second.name == "empty.trf"
    text = index.folder.read(first.file + ".reason.txt").decode()
    assert "SDD+1.zip" in text
    assert "retry" in text
    files = below(index.folder, "TRF/quarantine")
    index.add("4299", given)
    assert below(index.folder, "TRF/quarantine") == files


def test_a_log_leaves_the_quarantine_when_a_whole_copy_comes(index: Index, make_log: Callable[..., bytes]) -> None:
    whole = make_log(1)
    index.add("4299", [Log("a.trf", whole[:300]), Log("b.trf", b"nonsense")])
    added = index.add("4299", [Log("a.trf", whole)])
    assert (added.indexed, added.released) == (1, 1)
    assert [item.name for item in index.quarantined("4299")] == ["b.trf"]


def test_a_log_that_would_take_all_memory_is_set_aside_and_the_rest_goes_on(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "MAX_CELLS", 100 * adding.COLUMNS)
    added = index.add("4299", [Log("long.trf", make_log(1, rows=101)), Log("fits.trf", make_log(2, rows=100))])
    assert added.indexed == 1
    [(name, reason)] = added.quarantined
    assert name == "long.trf"
    assert "101 rows" in reason
    assert not adding._too_large(1, 400)
    assert adding._too_large(40, 16_000)


def test_another_log_of_the_same_name_does_not_let_it_go(index: Index, make_log: Callable[..., bytes]) -> None:
    cut = make_log(1)[:300]
    added = index.add("4299", [Log("d1/log.trf", cut), Log("d2/log.trf", make_log(2))])
    assert (added.indexed, added.released, len(added.quarantined)) == (1, 0, 1)
    assert index.add("4299", [Log("log.trf", make_log(3))]).released == 0
    [item] = index.quarantined("4299")
    assert index.folder.read(item.file) == cut
    assert index.add("4299", [Log("log.trf", make_log(1))]).released == 1
    assert index.quarantined("4299") == []


def test_very_many_logs_that_cannot_be_read_are_listed_once(tmp_path: Path, make_log: Callable[..., bytes]) -> None:
    """As after an update of the linac's software, with a backlog: a listing for each would take days."""
    from linac.transport import LocalFolder

    listed = []

    class Counting(LocalFolder):
        def list(self, pattern: str = "*") -> "list[Entry]":
            if "quarantine" in pattern:
                listed.append(pattern)
            return super().list(pattern)

    index = Index(Counting(tmp_path))
    newer = [Log(f"{number}.trf", make_log(number).replace(b"\x01\0\0\0\x5e\x01", b"\x07\0\0\0\x5e\x01")) for number in range(60)]
    assert len(index.add("4299", newer).newly_quarantined) == 60
    assert len(listed) == 1
    listed.clear()
    assert index.add("4299", newer).quarantined_before == 60
    assert len(listed) == 1
    listed.clear()
    added = index.add("4299", [Log(f"{number}.trf", make_log(number)) for number in range(60)])
    assert (added.indexed, added.released) == (60, 60)
    assert len(listed) == 1


def test_a_log_that_another_run_let_go_meanwhile_is_no_failure(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("4299", [Log("a.trf", make_log(1)[:300])])

    def logs() -> Iterator[Log]:
        yield Log("b.trf", b"nonsense")  # by now it has looked into the quarantine
        Index(index.folder).add("4299", [Log("a.trf", make_log(1))])
        yield Log("a.trf", make_log(1))

    added = index.add("4299", logs())
    assert (added.duplicates, added.released) == (1, 0)
    assert [item.name for item in index.quarantined("4299")] == ["b.trf"]


def test_a_log_leaves_the_quarantine_when_newer_software_reads_it(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_log(1)

    def refuse(*_: Any) -> None:
        raise ValueError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "summarise", refuse)
        added = index.add("4299", [Log("a.trf", data, "SDD+1.zip"), Log("bad.trf", b"")])
    assert added.indexed == 0
    assert "ValueError in test_adding.py" in added.quarantined[0][1]
    assert "a fault of ours" not in added.quarantined[0][1], "it may quote the log"
    added = index.retry("4299")
    assert (added.indexed, added.released, len(added.quarantined)) == (1, 1, 1)
    (row,) = index.deliveries().to_dict("records")
    assert (row["original_name"], row["backup"]) == ("a.trf", "SDD+1.zip")
    assert [item.name for item in index.quarantined("4299")] == ["bad.trf"]


def test_a_log_that_our_encoder_fails_on_does_not_keep_the_others_out(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = hashlib.sha256(make_log(1)).hexdigest()
    real = samples.Encoded.add

    def add(self: samples.Encoded, log: Any, sha256: str) -> int:
        if sha256 == bad:
            raise ArithmeticError("a fault of ours")
        return real(self, log, sha256)

    monkeypatch.setattr(samples.Encoded, "add", add)
    added = index.add("4299", [Log(f"{n}.trf", make_log(n)) for n in range(3)])
    assert (added.indexed, len(added.quarantined)) == (2, 1)
    assert index.verify().problems == []
    monkeypatch.undo()
    assert index.retry("4299").indexed == 1


def test_what_came_before_a_failing_source_is_kept(index: Index, logs: list[Log]) -> None:
    """As with a zip that is cut short: its first logs can be read."""

    def source() -> Iterator[Log]:
        yield from logs[:3]
        raise BackupError("the zip is cut short")

    with pytest.raises(BackupError, match="cut short"):
        index.add("4299", source())
    assert len(index.deliveries()) == 3


def test_progress_is_told_after_each_log(index: Index, logs: list[Log]) -> None:
    seen: list[tuple[int, int]] = []

    def progress(added: Added) -> None:
        seen.append((added.indexed, added.duplicates))

    index.add("4299", [*logs, logs[0]], progress)
    assert len(seen) == len(logs) + 2
    assert seen[-1] == (10, 1)


def test_nothing_is_kept_in_memory_beyond_a_batch(folder: Folder, make_log: Callable[..., bytes]) -> None:
    """A generator sees how many logs were taken since the last were written."""
    index = Index(folder, batch_bytes=50_000)
    most = 0

    def source() -> Iterator[Log]:
        nonlocal most
        for number in range(30):
            kept = len(list(Path(folder.location).rglob("raw/**/*.trf")))
            most = max(most, number - kept)
            yield Log(f"{number}.trf", make_log(number, rows=8))

    index.add("4299", source())
    assert 1 < most * len(make_log(0, rows=8)) <= 50_000 + len(make_log(0, rows=8))


@pytest.mark.parametrize("serial", ["", "../x", "a b"])
def test_a_serial_that_cannot_name_a_folder_is_refused(index: Index, serial: str, logs: list[Log]) -> None:
    with pytest.raises(SetupError, match="serial"):
        index.add(serial, logs)


def test_a_log_of_any_encodable_header_can_be_added(index: Index) -> None:
    """Umlauts, Latin-1, slashes, emptiness, control characters: the header is the log's, the index only keeps it."""
    start = datetime(2026, 1, 5, tzinfo=UTC)
    fields = ["3-1/AP/PA", "Größe", "", "/", "a\nb\x00c", "名" * 60, "'; DROP TABLE x"]
    data = [encode([[1] * 350], start=start, field=field, machine="M ä") for field in fields]
    data.append(encode([[1] * 350], start=start, field="Größe 2", machine="9", encoding="latin-1"))
    assert index.add("4299", (Log("same.trf", item) for item in data)).indexed == len(data)
    frame = index.deliveries()
    assert sorted(frame["field"]) == sorted([*fields, "Größe 2"])
    assert set(frame["header_encoding"]) == {"utf-8", "latin-1"}
    for field in fields:
        if field not in ("", "/"):  # these two are the same label and name
            assert len(index.find(field=field)) == 1, field
    assert index.verify(values=True).problems == []


def entry(name: str = "SDD+1.zip", size: int = 10, minute: int = 0) -> Entry:
    return Entry(name, size, datetime(2026, 1, 5, 9, minute, tzinfo=UTC))


def test_backups_taken_in_are_noted_with_what_they_brought(index: Index, logs: list[Log]) -> None:
    first, second = entry(), entry("SDD+2.zip")
    assert index.new_backups("4299", [first, second]) == [first, second]
    added = index.add("4299", logs)
    index.mark_done("4299", first, added.counts)
    assert index.is_done("4299", first)
    assert not index.is_done("4299", second)
    assert not index.is_done("2694", first)
    assert index.new_backups("4299", [first, second]) == [second]
    assert index.new_backups("4299", [entry(size=11), entry(minute=1)]) == [entry(size=11), entry(minute=1)]
    (backup,) = index.backups("4299")
    assert (backup.name, backup.size, backup.modified) == ("SDD+1.zip", 10, first.modified)
    assert backup.counts == {"indexed": 10, "duplicates": 0, "quarantined": 0, "rows": added.rows, "bytes": added.bytes}
    assert (datetime.now(UTC) - backup.done).total_seconds() < 60


def test_asking_what_is_new_costs_one_listing(tmp_path: Path) -> None:
    from linac.transport import LocalFolder

    calls = []

    class Counting(LocalFolder):
        def list(self, pattern: str = "*") -> "list[Entry]":
            calls.append(("list", pattern))
            return super().list(pattern)

        def open(self, name: str, mode: str = "rb") -> Any:
            calls.append(("open", name))
            return super().open(name, mode)

    index = Index(Counting(tmp_path))
    backups = [entry(f"SDD+{number}.zip") for number in range(50)]
    for backup in backups:
        index.mark_done("4299", backup)
    calls.clear()
    assert index.new_backups("4299", backups) == []
    assert calls == [("list", "TRF/backups/4299/*")]


def test_a_damaged_note_is_said_and_does_not_hide_new_backups(index: Index) -> None:
    index.mark_done("4299", entry())
    (name,) = below(index.folder, "TRF/backups")
    for damaged in (b"", b"[]", b"{}", json.dumps({"name": 1, "modified": "x", "done": "y"}).encode()):
        index.folder.write(name, damaged)
        with pytest.raises(DamagedError, match="Remove it"):
            index.backups("4299")
        assert index.new_backups("4299", [entry("SDD+2.zip")]) == [entry("SDD+2.zip")]


def test_adding_to_an_index_that_lost_its_catalogue_makes_it_anew(
    index: Index, logs: list[Log], make_log: Callable[..., bytes]
) -> None:
    index.add("4299", logs[:3])
    (name,) = below(index.folder, "TRF/catalogue")
    index.folder.remove(name)
    index.add("2694", [Log("3.trf", make_log(3, machine="2694"))])
    assert index.verify().problems == []
    index.folder.write(name, b"damaged")
    index.add("4299", logs[4:5])
    assert index.verify().problems == []


def test_many_months_at_once_are_filed_each_under_its_own(folder: Folder, make_log: Callable[..., bytes]) -> None:
    index = Index(folder)
    starts = [datetime(2024 + number // 12, number % 12 + 1, 15, tzinfo=UTC) for number in range(26)]
    index.add("4299", (Log(f"{n}.trf", make_log(n, start=start)) for n, start in enumerate(starts)))
    assert index.add("4299", (Log(f"{n}.trf", make_log(n, start=start)) for n, start in enumerate(starts))).duplicates == 26
    assert len(below(folder, "TRF/deliveries")) == 26
    assert len(below(folder, "TRF/catalogue")) == 3
    assert index.verify().problems == []


def test_it_works_in_a_folder_whose_path_is_strange(tmp_path: Path, logs: list[Log]) -> None:
    with connect(tmp_path / "Ärzte & Physik [neu]" / "a=b").make_root() as folder:
        index = Index(folder)
        index.add("4299", logs)
        assert len(index.deliveries()) == 10
        assert len(index.samples(index.deliveries()["sha256"][0])) > 0
