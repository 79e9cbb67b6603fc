"""The export is what PyMedPhys's own code reads and goes on with, whatever happens while it is made. Patients are invented."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linac.errors import DamagedError, LinacError, SetupError, StorageError
from linac.index import Index, Log, icom_schema
from linac.index.__main__ import main
from linac.index.export import Exported, export_pymedphys
from linac.index.export_layout import to_patient
from linac.index.export_patients import Beam, whose
from linac.transport import Folder, connect

# PyMedPhys does not install on Python 3.13: there the export is tested against the names and entries that it makes elsewhere.
has_pymedphys = pytest.mark.skipif(
    importlib.util.find_spec("pymedphys") is None, reason="PyMedPhys is not installed on this Python"
)

START = datetime(2026, 1, 5, 9, tzinfo=UTC)  # 10:00 on the linac's clock
Recording = tuple[str, str | None, timedelta, float]


@pytest.fixture
def out(tmp_path: Path) -> Folder:
    return connect(tmp_path / "pymedphys").make_root()


def delivered(index: Index, begin: str) -> float:
    return float(index.find(field=begin)["delivered_mu"].iloc[0])


def record(folder: Folder, patient_id: str, name: str | None, start: datetime, mu: float, serial: str = "4299") -> None:
    """A beam of 20 s as icom-capture leaves it in Parquet; `start` by the linac's clock."""
    row = dict.fromkeys(icom_schema.DELIVERIES_SCHEMA.names)
    row |= {"linac": serial, "beam_number": 1, "patient_id": patient_id, "patient_name": name, "delivered_mu": mu}
    row |= {"start_local": start, "end_local": start + timedelta(seconds=20)}
    target = icom_schema.file_name("deliveries", serial, f"{start:%Y%m%d_%H%M%S}", f"{abs(hash((patient_id, start))):064x}")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row], schema=icom_schema.DELIVERIES_SCHEMA), sink)
    folder.write(target, sink.getvalue().to_pybytes())


@pytest.fixture
def treated(index: Index, make_log: Callable[..., bytes]) -> Index:
    """Four logs and one that is none: of a recorded patient, of nobody's, without label, of the same name as the first's."""
    first = make_log(1, rows=40, start=START, field="2-2/DIR SCALP: Müller")
    other = make_log(2, rows=40, start=START + timedelta(hours=2), field="1-1/Boost", machine="Versa HD")
    service = make_log(3, rows=40, start=START + timedelta(hours=3), field="Service QA")
    again = make_log(4, rows=40, start=START + timedelta(hours=5), field="1-1/Boost")
    index.add(
        "4299", [Log("a.trf", first), Log("b.trf", other), Log("c.trf", service), Log("b.trf", again), Log("bad.trf", b"?")]
    )
    record(
        index.folder,
        "TEST-7",
        "Invented^Änne",
        datetime(2026, 1, 5, 10, 2),  # noqa: DTZ001
        delivered(index, "2-2"),
    )
    return index


def export(index: Index, out: Folder, **more: Any) -> Exported:
    return export_pymedphys(index.folder, out, "nbcc", **more)


def tree(out: Folder) -> set[str]:
    """All files below the export, but for our own notes."""
    root = Path(out.location)
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("linac-flows/")}


PATIENT = "indexed/nbcc/TEST-7_Invented_nne/clinical/None_2-2_DIR-SCALP-Mller_Unspecified/2026-01-05_100000_4299/a.trf"


def test_each_log_is_where_pymedphys_would_have_put_it(treated: Index, out: Folder) -> None:
    done = export(treated, out)
    assert (done.indexed, done.no_patient, done.no_label, done.unreadable, done.problems) == (1, 2, 1, 1, [])
    names = tree(out)
    (twin,) = [name for name in names if name.startswith("no_mosaiq_record_found/b [")]
    assert names == {
        "index.json",
        PATIENT,
        "no_mosaiq_record_found/b.trf",
        twin,
        "no_field_label_in_logfile/c.trf",
        "unknown_error_in_logfile/bad.trf",
    }
    (entry,) = json.loads(out.read("index.json")).values()
    assert entry == {
        "filepath": PATIENT.removeprefix("indexed/"),
        "delivery_details": {
            "patient_id": "TEST-7",
            "field_id": None,
            "last_name": "Invented",
            "first_name": "Änne",
            "qa_mode": None,
            "field_type": "Unspecified",
            "beam_completed": None,
        },
        "logfile_header": {
            "machine": "4299",
            "date": "26/01/05 09:00:00 Z",
            "timezone": "+01:00",
            "field_label": "2-2",
            "field_name": "DIR SCALP: Müller",
            "mu": 1000.0,
            "version": 1,
            "item_parts_number": 350,
            "item_parts_length": 700,
        },
        "local_time": "2026-01-05 10:00:00",
    }


def test_a_second_time_costs_listings_and_changes_nothing(treated: Index, out: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    export(treated, out)
    root = Path(out.location)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    opened: list[str] = []
    really = type(treated.folder).open

    def opening(self: Any, name: str, mode: str = "rb") -> Any:
        opened.append(f"{self.location}/{name}")
        return really(self, name, mode)

    monkeypatch.setattr(type(treated.folder), "open", opening)
    assert export(treated, out).new == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    assert not [name for name in opened if name.startswith(treated.folder.location)]


def test_what_is_new_comes_to_it_and_the_rest_stays(treated: Index, out: Folder, make_log: Callable[..., bytes]) -> None:
    export(treated, out)
    treated.add("4299", [Log("new.trf", make_log(8, rows=40, start=START + timedelta(days=1), field="1-2/New"))])
    record(treated.folder, "TEST-8", None, datetime(2026, 1, 6, 10), delivered(treated, "1-2"))  # noqa: DTZ001
    done = export(treated, out)
    assert (done.new, done.indexed) == (1, 1)
    assert len(json.loads(out.read("index.json"))) == 2
    assert "indexed/nbcc/TEST-8_None_None/clinical/None_1-2_New_Unspecified/2026-01-06_100000_4299/new.trf" in tree(out)


def test_a_log_moves_to_its_patient_once_the_recording_is_there(treated: Index, out: Folder) -> None:
    export(treated, out)
    boosts = treated.find(field="boost")
    mu = float(boosts["delivered_mu"].iloc[0])
    assert abs(mu - boosts["delivered_mu"].iloc[1]) > 0
    record(treated.folder, "TEST-9", "Late^Comer", datetime(2026, 1, 5, 12), mu)  # noqa: DTZ001
    done = export(treated, out)
    assert (done.new, done.moved) == (0, 1)
    assert "no_mosaiq_record_found/b.trf" not in tree(out)
    assert len([name for name in tree(out) if "/TEST-9_Late_Comer/" in name]) == 1
    assert len(json.loads(out.read("index.json"))) == 2


def test_a_dry_run_counts_and_writes_nothing(treated: Index, out: Folder) -> None:
    done = export(treated, out, dry_run=True)
    assert (done.indexed, done.no_patient, done.no_label, done.unreadable) == (1, 2, 1, 1)
    assert not list(Path(out.location).iterdir())


def test_one_linac_alone(treated: Index, out: Folder, make_log: Callable[..., bytes]) -> None:
    treated.add("2694", [Log("z.trf", make_log(9, field="1-1/Z", machine="2694"))])
    assert export(treated, out, machine="2694").new == 1
    assert export(treated, out).new == 5


def test_interrupted_at_any_write_and_run_again_it_ends_the_same(
    treated: Index, out: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(treated, out)
    whole = {name: out.read(name) for name in tree(out)}
    really, told = type(out).write, list[str]()
    for step in range(20):
        other = connect(tmp_path / f"interrupted-{step}").make_root()
        left = step

        def write(self: Any, name: str, data: bytes) -> None:
            nonlocal left
            if name != "linac-flows/writer.lease":
                if not left:
                    raise StorageError(f"Could not write {name}: the power went.")
                left -= 1
            really(self, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(type(out), "write", write)
            try:
                export(treated, other)
            except StorageError as error:
                told.append(str(error))
            else:
                break
        index = json.loads(other.read("index.json")) if other.find("index.json") else {}
        assert all(other.find(f"indexed/{entry['filepath']}") for entry in index.values()), "it tells of what is there only"
        export(treated, other)
        assert {name: other.read(name) for name in tree(other)} == whole
    assert 7 <= step < 20
    assert not any(part in text for text in told for part in ("TEST-7", "Invented", "SCALP"))


def test_without_its_notes_it_finds_what_is_there(treated: Index, out: Folder) -> None:
    export(treated, out)
    whole = {name: out.read(name) for name in tree(out)}
    shutil.rmtree(Path(out.location) / "linac-flows")
    done = export(treated, out)
    assert done.bytes == 0
    assert {name: out.read(name) for name in tree(out)} == whole


def test_a_raw_log_that_changed_is_not_exported_but_told_each_time(treated: Index, out: Folder) -> None:
    treated.folder.write("TRF/raw/4299/2026/01/a.trf", b"changed")
    for _ in range(2):
        assert "a.trf is not as it was" in " ".join(export(treated, out).problems)
    assert PATIENT not in tree(out)


@pytest.mark.parametrize("text", [b"{", b"[1]", b'{"a": 1}', b'{"a": {"filepath": null}}'])
def test_an_index_that_cannot_be_read_is_left_alone(treated: Index, out: Folder, text: bytes) -> None:
    out.write("index.json", text)
    with pytest.raises(DamagedError, match=r"index\.json is damaged, or not PyMedPhys's"):
        export(treated, out)
    assert out.read("index.json") == text


@pytest.mark.parametrize("site", ["", "a/b", "..", "CON", "nul.txt", "a:b", "x."])
def test_a_site_that_cannot_name_a_folder_is_refused(treated: Index, out: Folder, site: str) -> None:
    with pytest.raises(SetupError, match="cannot name a folder"):
        export_pymedphys(treated.folder, out, site)


def test_the_command_line_says_what_it_did_and_does_not_make_the_folder(
    treated: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "away"
    command = ["export-pymedphys", treated.folder.location, "--out", str(where), "--site", "nbcc"]
    assert main(command) == 1
    assert "not there" in capsys.readouterr().err
    assert not where.exists()
    where.mkdir()
    assert main([*command, "--dry-run"]) == 0
    assert "5 new logs would be exported: 1 under their patients, 2 without" in capsys.readouterr().out
    assert main(command) == 0
    assert "1 without a field label, 1 unreadable" in capsys.readouterr().out
    assert main(command) == 0
    assert "0 new logs" in capsys.readouterr().out


class TestWhoseLog:
    """Never a guess: better nobody than the wrong one."""

    ROW: ClassVar[dict[str, Any]] = {"start_local": datetime(2026, 1, 5, 10), "duration_s": 60.0, "delivered_mu": 200.0}  # noqa: DTZ001

    def beam(self, patient: str = "TEST-1", *, after: int = 0, mu: float = 200.0, name: str | None = "A^B") -> Beam:
        start = self.ROW["start_local"] + timedelta(seconds=after)
        return Beam(to_patient(patient, name), start, start + timedelta(seconds=60), mu)

    @pytest.mark.parametrize("after", [-299, -60, 0, 60, 299])
    def test_clocks_may_differ_by_minutes(self, after: int) -> None:
        found = whose([self.beam(after=after)], self.ROW)
        assert found is not None
        assert found.id == "TEST-1"

    @pytest.mark.parametrize("after", [-301, 301])
    def test_not_by_more(self, after: int) -> None:
        assert whose([self.beam(after=after)], self.ROW) is None

    def test_the_mu_must_agree(self) -> None:
        assert whose([self.beam(mu=201.9)], self.ROW) is not None
        assert whose([self.beam(mu=203)], self.ROW) is None
        assert whose([self.beam(mu=0)], {**self.ROW, "delivered_mu": 0.0}) is None

    @pytest.mark.parametrize("seconds", [9e12, 1e300, -9e12])
    def test_a_log_whose_rows_carry_an_absurd_clock_is_nobodys(self, seconds: float) -> None:
        assert whose([self.beam()], {**self.ROW, "duration_s": seconds}) is None

    def test_the_next_patient_is_told_apart_by_the_mu_and_else_neither_is_taken(self) -> None:
        mine, next_one = self.beam(), self.beam("TEST-2", after=150, mu=120)
        found = whose([mine, next_one], self.ROW)
        assert found is not None
        assert found.id == "TEST-1"
        assert whose([mine, self.beam("TEST-2", after=150)], self.ROW) is None

    def test_one_patient_with_a_name_and_without_is_one(self) -> None:
        found = whose([self.beam(name=None), self.beam(name="Invented^Anna^Maria", after=5)], self.ROW)
        assert found == ("TEST-1", "Invented", "Anna")
        assert "Invented" not in repr(found)


# PyMedPhys's own code on it.


@has_pymedphys
def test_pymedphys_names_the_folder_the_same_finds_and_hashes_the_file_the_same(treated: Index, out: Folder) -> None:
    from pymedphys._mosaiq.delivery import create_ois_delivery_details_class
    from pymedphys._trf.manage.identify import date_convert
    from pymedphys._trf.manage.index import create_logfile_directory_name
    from pymedphys._utilities.config import get_filepath, get_index
    from pymedphys._utilities.filehash import hash_file

    export(treated, out)
    config = {"linac_logfile_data_directory": out.location}
    index = get_index(config)
    ((sha1, entry),) = index.items()
    path = Path(get_filepath(index, config, sha1))
    assert path.read_bytes() == out.read(PATIENT)
    assert hash_file(path) == sha1
    details = create_ois_delivery_details_class()(**entry["delivery_details"])
    mosaiq_time, path_time = date_convert(entry["logfile_header"]["date"], "Europe/Berlin")
    assert mosaiq_time == entry["local_time"]
    named = create_logfile_directory_name("nbcc", details, SimpleNamespace(**entry["logfile_header"]), path_time)
    assert Path(named) == Path(entry["filepath"]).parent
    found = list((Path(out.location) / "indexed").glob("*/TEST-7_*/*/*/*/*.trf"))  # as its MetersetMap app looks
    assert found == [path]


@has_pymedphys
def test_the_header_is_the_one_that_pymedphys_reads(index: Index, out: Folder, samples: Path) -> None:
    from pymedphys._trf.decode.header import decode_header_from_file

    path = samples / "17_04_19 21_59_24 Z 2-2_DIR SCALP.trf"
    index.add("2694", [Log(path.name, path.read_bytes())])
    row = index.find().iloc[0]
    record(index.folder, "TEST-7", "Invented^Anna", row["start_local"].to_pydatetime(), row["delivered_mu"], "2694")
    assert export(index, out).indexed == 1
    (entry,) = json.loads(out.read("index.json")).values()
    expected = decode_header_from_file(path)._asdict()
    del expected["item_parts"]
    assert entry["logfile_header"] == expected


@has_pymedphys
def test_pymedphys_goes_on_with_our_index(
    treated: Index, out: Folder, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its indexing with a pretended Mosaiq: it knows what we exported, adds its own, and our next export keeps that."""
    from pymedphys._mosaiq.delivery import create_ois_delivery_details_class
    from pymedphys._trf.decode.header import decode_header_from_file
    from pymedphys._trf.manage import index as theirs

    export(treated, out)
    new = make_log(8, rows=40, start=START + timedelta(days=1), field="1-2/New")
    out.write("to_be_indexed/TCS/known.trf", out.read(PATIENT))
    out.write("to_be_indexed/TCS/new.trf", new)
    details = create_ois_delivery_details_class()("TEST-5", 77, "Mosaiq", "Made", False, "VMAT", True)
    monkeypatch.setattr(theirs._pp_mosaiq, "connect", lambda *_: None)
    monkeypatch.setattr(theirs, "get_mosaiq_delivery_details", lambda *_, **__: details)

    def indexing() -> None:
        sites = {"nbcc": {"timezone": "Europe/Berlin", "mosaiq_sql_server": "nowhere:1433"}}
        theirs.index_logfiles(sites, {"4299": {"centre": "nbcc"}}, out.location)

    before = out.read("index.json")
    with pytest.raises(TypeError, match="ndarray is not JSON serializable"):
        indexing()  # PyMedPhys 0.41 itself: it cannot write the item parts of any header
    assert out.read("index.json") == before

    def without_array(path: str) -> Any:
        header = decode_header_from_file(path)
        return header._replace(item_parts=header.item_parts.tolist())

    monkeypatch.setattr(theirs, "decode_header_from_file", without_array)
    indexing()
    assert not list((Path(out.location) / "to_be_indexed").rglob("*.trf")), "it took the one for known, and filed the other"
    both = json.loads(out.read("index.json"))
    assert {entry["delivery_details"]["patient_id"] for entry in both.values()} == {"TEST-5", "TEST-7"}

    treated.add("4299", [Log("new.trf", new)])
    record(treated.folder, "TEST-6", "Other^Name", datetime(2026, 1, 6, 10), delivered(treated, "1-2"))  # noqa: DTZ001
    done = export(treated, out)
    assert done.bytes == 0, "PyMedPhys has it already"
    assert json.loads(out.read("index.json")) == both


def test_an_index_without_deliveries_gives_an_empty_index(tmp_path: Path, out: Folder) -> None:
    empty = connect(tmp_path / "empty").make_root()
    assert export_pymedphys(empty, out, "nbcc").new == 0
    assert json.loads(out.read("index.json")) == {}


def test_an_error_of_the_folder_names_no_patient(treated: Index, out: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, name: str, data: bytes) -> NoReturn:
        raise StorageError(f"Could not write {self.location}/{name}: the share is full.")

    really = type(out).write
    monkeypatch.setattr(
        type(out), "write", lambda self, name, data: (refuse if name.endswith(".trf") else really)(self, name, data)
    )
    with pytest.raises(LinacError, match="the share is full") as caught:
        export(treated, out)
    assert not any(part in str(caught.value) for part in ("TEST-7", "Invented", "SCALP", "a.trf"))
    assert caught.value.__suppress_context__
