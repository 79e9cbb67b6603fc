"""Sessions of the simulated linac into Parquet, each beam exactly once, whatever happens in between."""

import hashlib
import lzma
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linac.errors import DamagedError, LinacError, SetupError, StorageError
from linac.icom import split
from linac.icom.delivery import iec_leaves_mm
from linac.index import icom_read, icom_rows, icom_schema
from linac.index.icom import add_session, missing, rebuild, repair
from linac.index.icom_beams import beam_numbers, mu_steps
from linac.simulator import PATIENTS, Beam, Session, make_beams
from linac.simulator.messages import make_message
from linac.simulator.session import Moment, moments
from linac.transport import Folder, LocalFolder, connect

START = datetime.fromisoformat("2026-01-05 09:30:00")
STAMP = "20260105_093000"
QUARTER = timedelta(seconds=0.25)


def record(session: Session, *, machine: str = "4299", start: datetime = START, lost: Sequence[int] = ()) -> list[bytes]:
    """The messages of a session as they are archived; those whose numbers are in `lost` never came."""
    return [
        make_message(moment, start + n * QUARTER, n, machine, with_name=n % session.name_every == 0)
        for n, moment in enumerate(moments(session, 4.0))
        if n not in lost
    ]


def pack(raw: Sequence[bytes]) -> bytes:
    return lzma.compress(b"".join(raw), preset=1)


def archive(records: Folder, raw: Sequence[bytes], stamp: str = STAMP, patient: str = "TEST-0001_Simulated, Patient") -> str:
    name = f"iCom/patients/{patient}/{stamp}.xz"
    records.write(name, pack(raw))
    return name


def add(records: Folder, raw: Sequence[bytes], stamp: str = STAMP, **more: Any) -> int:
    name = archive(records, raw, stamp)
    return add_session(records, "4299", name, records.read(name), stamp, **more)


@pytest.fixture
def records(tmp_path: Path) -> Folder:
    return connect(tmp_path / "records").make_root()


def read(records: Folder, tree: str) -> pd.DataFrame:
    """As a pandas user without our code does it."""
    frame = pd.read_parquet(Path(records.location) / "iCom" / tree)
    return frame.sort_values(["sha256", "beam_number" if tree == "deliveries" else "row"], ignore_index=True)


def in_place(records: Folder) -> dict[str, str]:
    """Every file of the two trees, and its hash."""
    root = Path(records.location) / "iCom"
    found = [path for tree in ("deliveries", "samples") for path in (root / tree).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


# What a beam comes to.


def test_every_beam_is_a_row_with_its_mu_and_its_plan(records: Folder) -> None:
    session = Session(*PATIENTS[1], beams=make_beams(6), name_every=7)
    raw = record(session)
    assert add(records, raw) == 6
    rows = read(records, "deliveries")
    assert rows["beam_number"].tolist() == [1, 2, 3, 4, 5, 6]
    assert rows["delivered_mu"].tolist() == [beam.mu for beam in session.beams]
    assert rows["total_mu"].tolist() == [beam.mu for beam in session.beams]
    assert rows["field_id"].tolist() == [beam.label for beam in session.beams]
    assert rows["rx_site"].tolist() == [beam.name for beam in session.beams]
    assert rows["energy"].tolist() == [beam.energy for beam in session.beams]
    assert rows["segment_max"].tolist() == [beam.segments for beam in session.beams]
    assert rows["interruptions"].tolist() == [int(beam.interrupted_at is not None) for beam in session.beams]
    assert rows["interrupted_s"].tolist() == [
        pytest.approx(3.0 if beam.interrupted_at else 0.0, abs=1.0) for beam in session.beams
    ]
    for edge, angles in (("start", "gantry_from"), ("stop", "gantry_to")):
        for recorded, iec, beam in zip(
            rows[f"gantry_{edge}_recorded_deg"], rows[f"gantry_{edge}_iec_deg"], session.beams, strict=True
        ):
            assert recorded == pytest.approx(getattr(beam, angles), abs=0.006)
            assert iec == pytest.approx(getattr(beam, angles) % 360, abs=0.006)
    assert rows["collimator_stop_iec_deg"].tolist() == [beam.collimator % 360 for beam in session.beams]
    assert set(rows["patient_id"]) == {"TEST-00002"}  # ten characters, which PyMedPhys cannot read
    assert set(rows["patient_name"]) == {"Invented^Müller"}  # only in every seventh message
    assert set(rows["machine_id"]) == set(rows["linac"]) == {"4299"}
    assert rows[["gaps", "missing_messages", "incomplete_messages", "session_gaps"]].to_numpy().sum() == 0
    assert rows["wedge"].unique().tolist() == ["OUT"]
    assert rows["start_utc"].isna().all()  # nobody said when it arrived
    assert rows["session_arrived_first_utc"].isna().all()
    samples = read(records, "samples")
    assert len(samples) == len(raw)
    assert rows["messages"].tolist() == samples["beam_number"].value_counts().sort_index().tolist()
    assert samples["beam_number"].isna().sum() == 12  # 3 s before the first field
    assert (rows["first_mu_local"] > rows["start_local"]).all()
    assert (rows["end_local"] >= rows["last_mu_local"]).all()


def test_a_row_for_each_message_says_what_it_says(records: Folder) -> None:
    raw = record(Session(beams=make_beams(2, mu=40)))
    add(records, raw)
    rows = read(records, "samples")
    messages = split(b"".join(raw))
    assert rows["timestamp_local"].tolist() == [message.timestamp for message in messages]
    assert rows["counter"].tolist() == [message.counter for message in messages]
    for column, name in (
        ("delivery_mu", "Delivery MU"),
        ("backup_mu", "Backup MU"),
        ("segment_mu", "Segment MU"),
        ("beam_timer", "Beam Timer"),
        ("gantry_recorded_deg", "Gantry"),
        ("table_vertical_recorded_cm", "Table Vertical"),
        ("table_longitudinal_recorded_cm", "Table Longitudinal"),
        ("table_lateral_recorded_cm", "Table Lateral"),
        ("table_column_recorded_deg", "Table Column"),
    ):
        expected = pd.Series([message.number(name) for message in messages], dtype="float64")
        pd.testing.assert_series_equal(rows[column], expected, check_names=False)
    assert rows["interlocks"].map(list).tolist() == [message.get("Interlocks") for message in messages]
    assert ["Interrupt", "Gantry"] in rows["interlocks"].map(list).tolist()
    assert np.stack(rows["leaves_x1_iec_mm"]) == pytest.approx(np.array([message.leaves_cm for message in messages])[:, ::2] * 10)
    assert np.stack(rows["leaves_x2_iec_mm"]) == pytest.approx(
        np.array([message.leaves_cm for message in messages])[:, 1::2] * 10
    )
    assert rows["asymx_1_recorded_cm"].tolist() == [10.0] * len(rows)
    jaws = np.array([message.jaws_cm.y for message in messages])
    assert rows["jaw_y1_iec_mm"].to_numpy() == pytest.approx(-10 * jaws[:, 0])
    assert rows["jaw_y2_iec_mm"].to_numpy() == pytest.approx(10 * jaws[:, 1])


def test_control_points_are_those_of_pymedphys_to_the_last_bit(records: Folder) -> None:
    pymedphys = pytest.importorskip("pymedphys", reason="PyMedPhys is what it is compared with: pip install the 'peer' extra")
    raw = record(Session(beams=make_beams(3, mu=30)), lost=[40, 41])
    add(records, raw)
    theirs = pymedphys.Delivery.from_icom(b"".join(raw))
    rows = read(records, "samples")
    ours = rows[rows["control_point"]]
    assert len(ours) > 50
    assert ours["session_mu"].tolist() == list(theirs.mu)
    assert ours["gantry_recorded_deg"].tolist() == list(theirs.gantry)
    assert ours["collimator_recorded_deg"].tolist() == list(theirs.collimator)
    mlc = np.stack([np.stack(ours["mlc_1_pymedphys_mm"]), np.stack(ours["mlc_2_pymedphys_mm"])], axis=2)
    assert np.array_equal(mlc, np.array(theirs.mlc))
    assert np.array_equal(ours[["jaw_1_pymedphys_mm", "jaw_2_pymedphys_mm"]].to_numpy(), np.array(theirs.jaw))
    iec = np.hstack([np.stack(ours["leaves_x1_iec_mm"]), np.stack(ours["leaves_x2_iec_mm"])])
    assert iec.tolist() == [iec_leaves_mm(leaves.tolist()) for leaves in np.array(theirs.mlc)]


def test_rows_are_the_same_however_they_are_grouped() -> None:
    raw = record(Session(beams=make_beams(1, mu=20)))
    bad = len(raw) - 9
    raw[bad] = raw[bad].replace(b"MLCX", b"MLCQ")
    session = icom_read.read(pack(raw), "it")
    whole = icom_rows.samples(session)
    for step in (7, 64, len(raw)):
        parts = [icom_rows.samples(session, slice(start, start + step)) for start in range(0, len(raw), step)]
        assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()


# How beams are cut.


@st.composite
def treatments(draw: st.DrawFn) -> tuple[list[Beam], list[int]]:
    """Beams whose labels may be alike or missing, and messages that get lost."""
    count = draw(st.integers(1, 5))
    labels = draw(st.lists(st.sampled_from(["", "1-1", "1-2"]), min_size=count, max_size=count))
    made = make_beams(count, seed=draw(st.integers(0, 99)))
    made = [
        replace(beam, label=label, mu=draw(st.sampled_from([2.0, 5.5, 12.0]))) for beam, label in zip(made, labels, strict=True)
    ]
    return made, draw(st.lists(st.integers(0, 400), max_size=3))


def told_by(moment: Moment) -> dict[str, Any]:
    """What the message of a moment says, as far as cutting asks."""
    who = {"Patient ID": "TEST-1", "Field ID": moment.beam.label or None if moment.beam else None}
    return who | {"Segment": moment.segment if moment.beam else None, "Delivery MU": moment.mu}


@given(treatments())
@settings(max_examples=150, deadline=None)
def test_beams_are_cut_where_they_begin_whatever_their_fields_are_called(treatment: tuple[list[Beam], list[int]]) -> None:
    """Each message in which MU grow is its own beam's, and no MU come or go by cutting."""
    planned, lost = treatment
    if any(a.label and a.label == b.label and a.segments < b.segments for a, b in pairwise(planned)):
        planned = [replace(beam, segments=1) for beam in planned]  # else these look like one that counts MU by segment
    kept = [moment for n, moment in enumerate(moments(Session(beams=planned), 4.0)) if n not in lost]
    told = [told_by(moment) for moment in kept]
    numbers, steps = beam_numbers(told), mu_steps(told)
    assert max(number or 0 for number in numbers) == len(planned)
    for moment, number, step in zip(kept, numbers, steps, strict=True):
        assert not step or (number and planned[number - 1] is moment.beam)
    for number, beam in enumerate(planned, 1):
        assert sum(step for step, of in zip(steps, numbers, strict=True) if of == number) == pytest.approx(beam.mu)


def mu(*readings: float | None, **more: Any) -> list[dict[str, Any]]:
    return [{"Delivery MU": reading, **more} for reading in readings]


CUTS: dict[str, tuple[list[dict[str, Any]], list[int | None]]] = {
    "nothing delivered, no field: no beam": (mu(0, 0, 0), [None] * 3),
    "a field loaded and never treated is a beam": (mu(0, Field_ID="A") + mu(0, Field_ID="B"), [1, 2]),
    "before the first field is no beam": (mu(0, 0) + mu(0, 1, Field_ID="A"), [None, None, 1, 1]),
    "without a field all is the first beam's": (mu(0, 0, 1, 2), [1, 1, 1, 1]),
    "MU that fall and grow again": (mu(0, 1, 2, 0, 0, 1), [1, 1, 1, 2, 2, 2]),
    "MU that fall and do not grow again": (mu(0, 1, 2, 0, 0), [1] * 5),
    "reset, then the next field": (mu(0, 2, 0, Field_ID="A") + mu(0, 3, Field_ID="B"), [1, 1, 1, 2, 2]),
    "the next field, then the reset": (mu(0, 2, Field_ID="A") + mu(2, 0, 3, Field_ID="B"), [1, 1, 2, 2, 2]),
    "a first field after beams without": (mu(0, 2, 0) + mu(0, 3, Field_ID="B"), [1, 1, 2, 2, 2]),
    "a field that is said late": (mu(0, 2) + mu(3, 4, Field_ID="B"), [1, 1, 1, 1]),
    "a field that is not always said": (mu(0, Field_ID="A") + mu(2, 3, Field_ID=None) + mu(4, Field_ID="A"), [1] * 4),
    "the same field twice": (mu(0, 2, 0, 3, Field_ID="A", Segment=1), [1, 1, 2, 2]),
    "MU by segment": (mu(0, 2, Field_ID="A", Segment=1) + mu(0, 3, Field_ID="A", Segment=2), [1] * 4),
    "MU by segment, field not said again": (mu(0, 2, Field_ID="A", Segment=1) + mu(0, 3, Field_ID=None, Segment=2), [1, 1, 2, 2]),
    "MU by segment, field not known": (mu(0, 2, Segment=1) + mu(0, 3, Segment=2), [1, 1, 2, 2]),
    "a display that flickers": (mu(0, 2, 1.95, 2, 3), [1] * 5),
    "MU that are not said are no reset": (mu(0, 2, None, 3), [1] * 4),
    "recording begins within a beam": (mu(50, 51, 0, 1), [1, 1, 2, 2]),
    "another patient": (mu(0, 2, Field_ID="A") + mu(0, 0, Patient_ID="TEST-2", Field_ID=None) + mu(1), [1, 1, 2, 2, 2]),
    "another patient, same field": (mu(0, 2, Field_ID="A") + mu(0, Patient_ID="TEST-2"), [1, 1, 2]),
    "another patient who is not treated": (mu(0, 2, Field_ID="A") + mu(0, Patient_ID="TEST-2", Field_ID=None), [1, 1, None]),
}


@pytest.mark.parametrize("name", CUTS)
def test_where_beams_begin(name: str) -> None:
    steps, expected = CUTS[name]
    now: dict[str, Any] = {"Patient ID": "TEST-1", "Field ID": None, "Segment": None, "Delivery MU": None}
    told = [now := now | {key.replace("_", " "): value for key, value in step.items()} for step in steps]
    assert beam_numbers(told) == expected


def test_mu_never_pass_from_one_patient_to_the_next(records: Folder) -> None:
    first = record(Session("TEST-01", "Invented^One", beams=make_beams(1, mu=10)))
    second = record(Session("TEST-02", "Invented^Two", beams=make_beams(1, mu=20)), start=START + timedelta(minutes=5))
    tail = next(n for n, message in enumerate(split(b"".join(second))) if (message.number("Delivery MU") or 0) > 15)
    add(records, first + second[tail:])  # as PyMedPhys archived it, and the start of the second lost
    rows = read(records, "deliveries")
    assert rows["patient_id"].tolist() == ["TEST-01", "TEST-02"]
    assert rows["patient_name"].tolist() == ["Invented^One", "Invented^Two"]
    assert rows["delivered_mu"].tolist() == [10.0, pytest.approx(20 - rows["mu_first"][1])]
    assert rows["mu_first"][1] > 15


def test_gaps_are_counted_where_they_are(records: Folder) -> None:
    session = Session(beams=make_beams(2, mu=60))
    within_second = [n for n, moment in enumerate(moments(session, 4.0)) if moment.beam is session.beams[1] and moment.radiating]
    add(records, record(session, lost=[*within_second[4:7], within_second[12]]), gaps=5)
    rows = read(records, "deliveries")
    assert rows["gaps"].tolist() == [0, 2]
    assert rows["missing_messages"].tolist() == [0, 4]
    assert rows["session_gaps"].tolist() == [5, 5]
    assert rows["delivered_mu"].tolist() == [60.0, 60.0]
    assert rows["longest_silence_s"].tolist() == [1.0, pytest.approx(1.0, abs=1.0)]


def test_a_message_without_leaves_keeps_what_else_it_says(records: Folder) -> None:
    raw = record(Session(beams=make_beams(1, mu=20)))
    bad = next(n for n, message in enumerate(split(b"".join(raw))) if (message.number("Delivery MU") or 0) > 10)
    leaves = b"DS\x00R\x04\x00\x00\x00MLC"
    raw[bad] = raw[bad].replace(leaves + b"X", leaves + b"Q")
    add(records, raw)
    rows = read(records, "samples")
    for column in (
        "leaves_x1_iec_mm",
        "leaves_x2_iec_mm",
        "mlc_1_pymedphys_mm",
        "mlc_2_pymedphys_mm",
        "session_mu",
        "jaw_y1_iec_mm",
    ):
        assert rows[column].isna().tolist() == [n == bad for n in range(len(raw))], column
    assert rows[["delivery_mu", "gantry_iec_deg"]].notna().all(axis=None)
    assert rows["control_point"][bad - 1 : bad + 2].tolist() == [True, False, True]
    assert read(records, "deliveries")["incomplete_messages"].tolist() == [1]
    assert read(records, "deliveries")["delivered_mu"].tolist() == [20.0]


# When it was, in UTC.


def test_utc_where_arrival_is_known_and_the_clocks_agree(records: Folder) -> None:
    raw = record(Session(beams=make_beams(2, mu=20)))
    begin = datetime(2026, 1, 5, 8, 29, 58, 123456, tzinfo=UTC)
    add(records, raw, arrived=(begin, begin + len(raw) * QUARTER))
    rows = read(records, "deliveries")
    apart = rows["start_local"].dt.tz_localize("UTC") - rows["start_utc"]
    assert apart.dt.total_seconds().tolist() == pytest.approx([3600 + 1.877] * 2)
    assert str(rows["start_utc"].dtype).endswith("UTC]")
    assert rows["session_arrived_first_utc"][0] == pd.Timestamp(begin).floor("ms")
    late = begin + len(raw) * QUARTER - timedelta(seconds=9)  # the first messages came late, after a reconnection
    add(records, raw, arrived=(late, begin + len(raw) * QUARTER))
    rows = read(records, "deliveries")
    assert rows["start_utc"].isna().all()
    assert rows["session_arrived_first_utc"].notna().all()
    with pytest.raises(ValueError, match="aware"):
        add(records, raw, arrived=(START, START))


def test_what_the_recorder_knew_survives_a_rebuild(records: Folder) -> None:
    raw = record(Session(beams=make_beams(1, mu=20)))
    begin = datetime(2026, 1, 5, 8, 30, tzinfo=UTC)
    add(records, raw, gaps=2, arrived=(begin, begin + len(raw) * QUARTER))
    before = in_place(records)
    done = rebuild(records, "4299")
    assert (done.sessions, done.beams, done.failed) == (1, 1, [])
    assert in_place(records) == before


# Files.


def test_pandas_and_duckdb_read_all_of_it_and_types_are_the_schemas(records: Folder) -> None:
    for n, machine in enumerate(("4299", "4299", "2619")):
        start = START + timedelta(days=20 * n)
        stamp = f"{start:%Y%m%d_%H%M%S}"
        raw = record(Session(beams=make_beams(2, seed=n, mu=20)), start=start, machine=machine)
        name = archive(records, raw, stamp)
        assert add_session(records, machine, name, records.read(name), stamp) == 2
    root = Path(records.location) / "iCom"
    assert sorted(path.relative_to(root).as_posix().rpartition("/")[0] for path in root.glob("deliveries/*/*/*.parquet")) == [
        "deliveries/machine=2619/month=2026-02",
        "deliveries/machine=4299/month=2026-01",
        "deliveries/machine=4299/month=2026-01",
    ]
    frame = read(records, "deliveries")
    assert frame.groupby("linac")["delivered_mu"].sum().to_dict() == {"4299": 80.0, "2619": 40.0}
    ducks = duckdb.sql(
        f"SELECT d.linac, count(*), max(len(s.leaves_x1_iec_mm)) FROM read_parquet('{root}/deliveries/*/*/*.parquet') d "
        f"JOIN read_parquet('{root}/samples/*/*/*.parquet') s USING (sha256, beam_number) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    rows = read(records, "samples")
    assert [(linac, count) for linac, count, _ in ducks] == [
        (linac, int(rows[rows["machine"].astype(str) == linac]["beam_number"].notna().sum())) for linac in ("2619", "4299")
    ]
    assert {leaves for *_, leaves in ducks} == {80}
    kinds = duckdb.sql(f"DESCRIBE SELECT start_local, start_utc FROM read_parquet('{root}/deliveries/*/*/*.parquet')").fetchall()
    assert [kind[1] for kind in kinds] == ["TIMESTAMP", "TIMESTAMP WITH TIME ZONE"]
    for tree, schema in (("deliveries", icom_schema.DELIVERIES_SCHEMA), ("samples", icom_schema.SAMPLES_SCHEMA)):
        for path in (root / tree).rglob("*.parquet"):
            file = pq.ParquetFile(path)
            assert file.schema_arrow.names == schema.names
            assert file.metadata.metadata[b"linac.index.kind"] == f"icom-{tree}".encode()
            assert file.metadata.metadata[b"linac.index.version"] == b"1"


def test_no_identity_in_samples_nor_in_the_names_of_files(records: Folder) -> None:
    raw = record(Session("TEST-SECRET", "Invented^Secret", beams=make_beams(1, mu=20)))
    add(records, raw)
    assert not any("SECRET" in name.upper() for name in in_place(records))
    for path in (Path(records.location) / "iCom" / "samples").rglob("*.parquet"):
        assert b"secret" not in path.read_bytes().lower()
        assert "secret" not in str(pq.read_table(path).to_pylist()).lower()


def test_adding_twice_writes_the_same_files(records: Folder) -> None:
    raw = record(Session(beams=make_beams(2, mu=20)))
    add(records, raw)
    before = in_place(records)
    add(records, raw)
    assert in_place(records) == before
    assert len(before) == 2


class Flaky(LocalFolder):
    """A folder that breaks at its n-th change, before or after it is done: what a crash leaves is what stands there then."""

    def __init__(self, path: Path, breaks_at: int, *, after: bool) -> None:
        super().__init__(path)
        self.left, self.after = breaks_at, after

    def _change(self, change: Callable[[], None]) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KeyboardInterrupt
        change()
        if self.left == 0:
            raise KeyboardInterrupt

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._change(lambda: super(Flaky, self).write(name, data, durable=durable))

    def replace(self, old: str, new: str) -> None:
        self._change(lambda: super(Flaky, self).replace(old, new))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("breaks_at", [1, 2, 3, 4])
def test_whatever_a_crash_interrupts_is_found_missing_and_mended(records: Folder, breaks_at: int, *, after: bool) -> None:
    raw = record(Session(beams=make_beams(2, mu=10)))
    name = archive(records, raw)
    with pytest.raises(KeyboardInterrupt):
        add_session(Flaky(Path(records.location), breaks_at, after=after), "4299", name, records.read(name), STAMP)
    there = in_place(records)
    assert all(path.endswith(".parquet") for path in there)
    in_deliveries = any(path.startswith("deliveries") for path in there)
    assert in_deliveries == (breaks_at == 4 and after)
    assert not in_deliveries or any(path.startswith("samples") for path in there)
    assert missing(records, "4299") == ([] if in_deliveries else [name])
    repair(records, "4299")
    assert missing(records, "4299") == []
    mended = in_place(records)
    add_session(connect(Path(records.location) / "other").make_root(), "4299", name, records.read(name), STAMP)
    assert mended == in_place(connect(Path(records.location) / "other"))
    assert not list((Path(records.location) / "iCom" / "pending").iterdir())


def test_two_who_add_the_same_session_at_once_do_no_harm(records: Folder) -> None:
    raw = record(Session(beams=make_beams(1, mu=10)))
    name = archive(records, raw)

    class Raced(LocalFolder):
        def replace(self, old: str, new: str) -> None:
            super().replace(old, new)  # the other one moves the file that both had written ...
            super().replace(old, new)  # ... and ours is gone

    assert add_session(Raced(records.location), "4299", name, records.read(name), STAMP) == 1
    assert len(in_place(records)) == 2


def test_a_damaged_file_of_ours_is_made_anew_and_a_newer_one_left_alone(records: Folder) -> None:
    raw = record(Session(beams=make_beams(1, mu=10)))
    add(records, raw)
    before = in_place(records)
    [target] = (Path(records.location) / "iCom" / "deliveries").rglob("*.parquet")
    target.write_bytes(target.read_bytes()[:-30])
    add(records, raw)
    assert in_place(records) == before
    table = pq.read_table(target)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"linac.index.version": b"2"}), target)
    newer = in_place(records)
    with pytest.raises(SetupError, match="newer version"):
        add(records, raw)
    assert in_place(records) == newer


# What is missing.


def test_missing_are_this_linacs_sessions_only_oldest_first(records: Folder) -> None:
    assert missing(records, "4299") == []
    short = Session(beams=make_beams(1, mu=5))
    later = archive(records, record(short, start=START + timedelta(days=1)), "20260106_093000", "TEST-03_Nobody, At All")
    ours = archive(records, record(short))
    archive(records, record(short, machine="2619"), "20260104_080000")
    nameless = [re.sub(rb"(\xb2\x00SH\x00P\x04\x00\x00\x00)4299", rb"\1    ", message) for message in record(short)]
    archive(records, nameless, "20260103_080000")
    records.write("iCom/patients/TEST-0001_Simulated, Patient/notes.xz", b"not a session")
    archive(records, record(short), "20260102_080000", "unknown_error_in_record")
    records.write("iCom/patients/unknown_error_in_record/TEST-9_Nobody/20260102_080000.xz", pack(record(short)))
    assert missing(records, "4299") == [ours, later]
    assert missing(records, "Linac 1", ["4299"]) == [ours, later]
    done = repair(records, "4299")
    assert (done.sessions, done.beams, done.failed) == (2, 2, [])
    assert missing(records, "4299") == []
    assert len(missing(records, "2619")) == 1


def test_sessions_of_the_same_second_are_told_apart(records: Folder) -> None:
    """Two linacs, two patients, one second: each is added once, and neither hides the other."""
    short = make_beams(1, mu=5)
    first = archive(records, record(Session("TEST-01", "Invented^One", beams=short)), patient="TEST-01_Invented, One")
    other = archive(
        records, record(Session("TEST-02", "Invented^Two", beams=short), machine="2619"), patient="TEST-02_Invented, Two"
    )
    add_session(records, "2619", other, records.read(other), STAMP)
    assert missing(records, "4299") == [first]
    assert missing(records, "2619") == []
    repair(records, "4299")
    assert missing(records, "4299") == missing(records, "2619") == []
    assert read(records, "deliveries")["patient_id"].tolist().count("TEST-01") == 1
    assert rebuild(records, "4299").sessions == 1


def test_what_is_added_is_not_opened_again(records: Folder) -> None:
    for day in range(3):
        start = START + timedelta(days=day)
        add(records, record(Session(beams=make_beams(1, mu=5)), start=start), f"{start:%Y%m%d_%H%M%S}")

    class Listed(LocalFolder):
        def open(self, name: str, mode: str = "rb") -> Any:
            raise AssertionError(f"{name} was opened")

    assert missing(Listed(records.location), "4299") == []


# What goes wrong.

SECRET = "TEST-SECRET_Invented, Secret"
BAD = {
    "no xz": b"not an xz file",
    "empty": b"",
    "cut off": pack(record(Session("TEST-SECRET", "Invented^Secret", beams=make_beams(1, mu=5))))[:-100],
    "no iCom in it": lzma.compress(b"some other stream" * 100),
    "no beam": pack(record(Session("TEST-SECRET", "Invented^Secret", beams=[]))),
}


def whole_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("name", BAD)
def test_a_session_that_is_no_session_is_told_without_the_patient(records: Folder, name: str) -> None:
    path = f"iCom/patients/{SECRET}/{STAMP}.xz"
    with pytest.raises(DamagedError) as error:
        add_session(records, "4299", path, BAD[name], STAMP)
    assert f"Linac 4299: the archived session of {STAMP}" in str(error.value)
    assert hashlib.sha256(BAD[name]).hexdigest()[:16] in str(error.value)
    assert "SECRET" not in whole_text(error.value).upper()
    assert in_place(records) == {}


def test_one_bad_session_does_not_hold_up_the_others(records: Folder) -> None:
    records.write(f"iCom/patients/{SECRET}/20260101_080000.xz", BAD["cut off"])
    archive(records, record(Session(beams=make_beams(1, mu=5))))
    seen = []
    done = repair(records, "4299", progress=lambda added: seen.append(added.sessions))
    assert (done.sessions, len(done.failed), seen) == (1, 1, [0, 1])
    assert "20260101_080000" in done.failed[0]
    assert "SECRET" not in done.failed[0].upper()


def test_storage_that_fails_says_nothing_of_the_patient(records: Folder) -> None:
    for n in range(4):
        archive(records, record(Session(beams=make_beams(1, mu=5))), f"2026010{n + 1}_080000", SECRET)

    class Away(LocalFolder):
        def open(self, name: str, mode: str = "rb") -> Any:
            raise StorageError(f"Could not open {self._at(name)}: access denied.")

    class Gone(LocalFolder):
        def list(self, pattern: str = "*") -> Any:
            if pattern.endswith(".xz"):
                raise StorageError(f"Could not list {self.path / pattern}: access denied.")
            return super().list(pattern)

    for folder in (Away(records.location), Gone(records.location)):
        with pytest.raises(StorageError, match="access denied") as error:
            repair(folder, "4299")
        assert "SECRET" not in whole_text(error.value).upper()


@pytest.mark.parametrize(("serial", "stamp"), [("../4299", STAMP), ("4299", "yesterday"), ("4299", "20261332_000000")])
def test_serials_and_stamps_that_cannot_be_are_refused(records: Folder, serial: str, stamp: str) -> None:
    data = pack(record(Session(beams=make_beams(1, mu=5))))
    with pytest.raises(SetupError):
        add_session(records, serial, f"iCom/patients/x/{stamp}.xz", data, stamp)


GOOD = b"".join(record(Session(beams=make_beams(1, mu=2)))[-16:])


@given(st.binary(max_size=300), st.integers(0, len(GOOD)))
@settings(max_examples=60, deadline=None)
def test_no_other_error_than_ours_comes_out_of_any_bytes(noise: bytes, at: int) -> None:
    content = GOOD[:at] + noise + GOOD[at + len(noise) :]
    for data in (noise, lzma.compress(content, preset=0)):
        try:
            session = icom_read.read(data, "it")
            icom_rows.samples(session).validate(full=True)
            arrival = icom_rows.Arrival()
            icom_rows.deliveries(session, linac="1", stamp=STAMP, archive_file="", samples_file="", arrival=arrival)
        except LinacError:
            pass


# What it says of itself, and what it costs.


def test_the_data_dictionary_has_every_column_as_it_is(project: Path) -> None:
    text = (project / "docs" / "data-dictionary-icom.md").read_text(encoding="utf-8")
    for columns in (icom_schema.DELIVERIES, icom_schema.SAMPLES):
        assert icom_schema.as_markdown(columns) in text
        assert not {"machine", "month"} & {column.name for column in columns}
        assert len({column.name for column in columns}) == len(columns)
        for column in columns:
            for end, unit in (("_mm", "mm"), ("_deg", "deg"), ("_cm", "cm"), ("_mu", "MU"), ("_utc", "UTC"), ("_s", "s")):
                assert not column.name.endswith(end) or column.unit == unit


def test_the_data_dictionarys_examples_run(project: Path, records: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    pymedphys = pytest.importorskip("pymedphys", reason="PyMedPhys is what it is compared with: pip install the 'peer' extra")
    raw = record(Session(beams=make_beams(2, mu=20)))
    add(records, raw)
    monkeypatch.chdir(Path(records.location).parent)
    text = (project / "docs" / "data-dictionary-icom.md").read_text(encoding="utf-8")
    known: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, known)
    assert known["interrupted"]["field_id"].tolist() == ["1-2"]
    assert known["arc"]["delivery_mu"].max() == 20.0
    for ours, theirs in zip(known["delivery"], pymedphys.Delivery.from_icom(b"".join(raw)), strict=True):
        assert np.array_equal(ours, theirs)
    [query] = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert duckdb.sql(query).fetchall() == []
    assert len(duckdb.sql(query.replace("> 0.5", "<= 0.5")).fetchall()) == 2


def test_small_and_quick(records: Folder) -> None:
    """A 5-minute session: a few bytes a message, and far faster than it was treated."""
    raw = record(Session(beams=make_beams(6)))
    name = archive(records, raw)
    data = records.read(name)
    began = time.process_time()
    add_session(records, "4299", name, data, STAMP)
    seconds = time.process_time() - began
    sizes = {path.parts[-4]: path.stat().st_size for path in (Path(records.location) / "iCom").rglob("*.parquet")}
    print(f"{len(raw)} messages: {seconds:.2f} s of CPU, {sizes}, archive {len(data)}")  # noqa: T201 (seen with pytest -s)
    assert sizes["samples"] < 300 * len(raw)
    assert seconds < 5e-3 * len(raw)
