"""Backups overlap from night to night, hold logs of every version, and are the same for the same seed."""

import hashlib
import shutil
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from linac.simulator import Beam, make_beams, make_log, write_backup
from linac.simulator.logs import day_start
from linac.trf import read, read_header
from linac.trf.item_parts import RADIATION_ON, STANDARD_PARTS

NIGHT = date(2024, 5, 6)
START = day_start(NIGHT)
REAL = Path(__file__).parents[4] / "shared" / "samples" / "trf"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist() if name.lower().endswith(".trf")}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("TCS")
    return [write_backup(folder, night, mu=12, per_day=2) for night in (NIGHT, date(2024, 5, 7), date(2024, 5, 20))]


def test_the_name_is_what_collectors_look_for(nights: list[Path]) -> None:
    assert sorted(path.name for path in nights[0].parent.iterdir()) == sorted(path.name for path in nights)
    assert nights[0].match("SDD+*.zip")


def test_one_night_to_the_next_seven_of_eight_days_are_the_same(nights: list[Path]) -> None:
    first, second, later = map(members, nights)
    shared = set(first) & set(second)
    assert len(first) == len(second) == 16
    assert len(shared) == 14
    assert all(first[name] == second[name] for name in shared)
    assert not set(first) & set(later)
    assert len({hashlib.sha256(data).digest() for data in (first | second).values()}) == 18


def test_all_versions_and_odd_fields_occur_and_every_log_is_whole(nights: list[Path]) -> None:
    logs = [read(data) for data in members(nights[0]).values()]
    assert {log.header.version for log in logs} == {1, 3, 4}
    assert all(log.trailing_bytes == 0 and log.rows > 100 for log in logs)
    assert all(log.header.machine == "4299" and log.header.prescribed_mu == 12 for log in logs)
    assert "Service QA 10x10" in {log.header.field_name for log in logs if not log.header.field_label}
    assert "Schädel/Boost rechts außen" in {log.header.field_name for log in logs}
    assert any(len(log.header.field) > 50 for log in logs)
    assert all(tuple(log.header.item_parts[:350]) == STANDARD_PARTS for log in logs)


def test_the_same_call_makes_the_same_bytes(nights: list[Path], tmp_path: Path) -> None:
    assert write_backup(tmp_path, NIGHT, mu=12, per_day=2).read_bytes() == nights[0].read_bytes()
    other = write_backup(tmp_path, NIGHT, mu=12, per_day=2, seed=2)
    assert set(members(other).values()).isdisjoint(members(nights[0]).values())


def test_real_logs_are_in_it_unchanged(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("the real TRF samples are not on this machine")
    kept = tmp_path / "real"
    shutil.copytree(REAL, kept)
    found = members(write_backup(tmp_path, NIGHT, days=0, trf_folder=kept))
    expected = {path.name: path.read_bytes() for path in REAL.glob("*.trf")}
    assert {Path(name).name: data for name, data in found.items()} == expected


def test_damaged_files_are_in_it_when_asked(tmp_path: Path) -> None:
    found = members(write_backup(tmp_path, NIGHT, days=0, damaged=2))
    assert len(found) == len(set(found.values())) == 2


# The dynamics of one log.


def frame(beam: Beam, version: int = 1):
    return read(make_log(beam, START, "4299", version=version).data).to_pandas()


def test_an_interrupted_arc() -> None:
    beam = Beam("1-1", "Arc", 60.0, -178.0, 160.0, 5.0, interrupted_at=0.5)
    log = frame(beam)
    states = log["Linac State/Actual Value (None)"]
    order = [str(state) for state in states[states != states.shift()]]
    assert order == [
        "Intersegment",
        "Radiation On",
        "Interupted",
        "Interupted Ready",
        "Radiation On",
        "Terminated Checking",
        "Terminated Ok",
    ]
    dose = log["Step Dose/Actual Value (Mu)"].to_numpy()
    assert dose[-1] == 60.0
    assert np.all(np.diff(dose) >= 0)
    assert np.all(np.diff(dose)[(states != "Radiation On").to_numpy()[1:]] == 0)
    gantry = log["Step Gantry/Scaled Actual (deg)"]
    assert (gantry.iloc[0], gantry.iloc[-1]) == (-178.0, 160.0)
    assert log["Y1 Leaf 40/Scaled Actual (mm)"].nunique() > 50
    assert log["Step Collimator/Scaled Actual (deg)"].eq(5.0).all()
    radiating = log["Actual Dose Rate/Actual Value (Mu/min)"][states == "Radiation On"]
    assert 500 < radiating.median() < 620


def test_step_and_shoot_restarts_its_dose_and_moves_leaves_between_segments() -> None:
    beam = Beam("1-2", "Static", 80.0, 30.0, 30.0, segments=4)
    log = frame(beam, version=3)
    dose = log["Step Dose/Actual Value (Mu)"].to_numpy()
    steps = np.diff(dose)
    assert (steps < 0).sum() == 3
    assert steps[steps > 0].sum() == pytest.approx(80.0, abs=0.2)
    assert log["Dose/Raw value (1/64th Mu)"].iloc[-1] == 80 * 64
    assert set(log["Control point/Actual Value (None)"]) == {1, 3, 5, 7, -32767}


def test_more_than_1024_mu_wrap_the_raw_dose() -> None:
    data = make_log(Beam("1", "Long", 1100.0, 0, 0, dose_rate=600), START, "4299").data
    raw = read(data).counts[:, STANDARD_PARTS.index((2162, 101))]
    assert raw.min() < 0
    assert raw[-1] == 1100 * 64 - 65536


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_headers_and_clocks(version: int) -> None:
    beam = make_beams(1, mu=10)[0]
    log = make_log(beam, START, "4299", version=version)
    header = read_header(log.data)
    assert header.start == START
    assert (header.version, header.machine, header.prescribed_mu) == (version, "4299", 10.0)
    assert (header.field_label, header.field_name) == (beam.label, beam.name)
    assert log.name.startswith("24_05_05 22_00_00 Z 1-1_")
    stamps = read(log.data).timestamp_ms
    if version == 1:
        assert stamps is None
    else:
        assert set(np.diff(stamps)) <= {39, 40, 41}
    assert np.count_nonzero(read(log.data).counts[:, 2] == RADIATION_ON) > 20
