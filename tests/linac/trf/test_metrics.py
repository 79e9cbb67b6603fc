"""Metrics: equal to an independent computation from Elekta's own exports, and right on made deliveries."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from linac import trf
from linac.trf.item_parts import STANDARD
from linac.trf.metrics import Metrics, meanings, summarise

Make = Callable[..., bytes]
WHERE = {item.column: index for index, item in enumerate(STANDARD)}


def exported(path: Path) -> pd.DataFrame:
    """An export as text cells: nothing of it has gone through our reader."""
    return pd.read_csv(path, skiprows=9, index_col=False, dtype=str)


def tenths(text: str) -> int:
    """A cell with at most one decimal, in tenths, by its digits."""
    whole, _, decimal = text.partition(".")
    return int(whole + (decimal or "0"))


def independent(table: pd.DataFrame, row_ms: list[int] | None = None) -> dict[str, Any]:
    """The metrics from the cells of an export, with plain Python: no numpy, no scale of ours."""

    def cells(name: str) -> list[float]:
        return [tenths(text) / 10 for text in table[name] if text != "-32767"]

    states = table["Linac State/Actual Value (None)"].tolist()
    rates = [int(text) for text in table["Actual Dose Rate/Actual Value (Mu/min)"]]
    on = [row for row, state in enumerate(states) if state == "Radiation On" and rates[row] > 0]
    ends = row_ms or [40 * row for row in range(len(states))]
    lengths = [b - a for a, b in pairwise(ends)] + [40]
    dose = cells("Step Dose/Actual Value (Mu)")

    def errors(names: list[str], suffix: str) -> dict[str, float]:
        sizes = []
        for name in names:
            column = table[name].tolist()
            sizes += [abs(tenths(column[row])) for row in on]
        sizes.sort()
        place, part = divmod(95 * (len(sizes) - 1), 100)
        low, high = sizes[place], sizes[min(place + 1, len(sizes) - 1)]
        return {
            f"rms_{suffix}": math.sqrt(sum(size * size for size in sizes) / len(sizes)) / 10,
            f"p95_{suffix}": (low + (high - low) * part / 100) / 10,
            f"max_{suffix}": sizes[-1] / 10,
        }

    def travel(angles: list[float]) -> float:
        steps = [math.radians(b - a) for a, b in pairwise(angles)]
        return sum(abs(math.degrees(math.atan2(math.sin(step), math.cos(step)))) for step in steps)

    gantry, collimator = cells("Step Gantry/Scaled Actual (deg)"), cells("Step Collimator/Scaled Actual (deg)")
    found: dict[str, Any] = {
        "duration_s": sum(lengths) / 1000,
        "beam_on_s": sum(lengths[row] for row in on) / 1000,
        "radiation_state_s": sum(length for length, state in zip(lengths, states, strict=True) if state == "Radiation On") / 1000,
        "interruptions": 0,
        "end_state": states[-1],
        "delivered_mu": sum(max(b - a, 0.0) for a, b in pairwise(dose)),
        "dose_rate_max_mu_per_min": float(max(rates[row] for row in on)),
        "dose_rate_mean_mu_per_min": sum(rates[row] for row in on) / len(on),
        "energy_cal_blocks": tuple(sorted({int(number) for number in cells("Energy Cal Block/Set (None)")})),
        "gantry_start_deg": gantry[0],
        "gantry_stop_deg": gantry[-1],
        "gantry_travel_deg": travel(gantry),
        "collimator_start_deg": collimator[0],
        "collimator_stop_deg": collimator[-1],
        "collimator_travel_deg": travel(collimator),
        "rows": len(table),
        "missing_values": sum(int((table[name] == "-32767").sum()) for name in table.columns),
    }
    leaves = {bank: [f"{bank} Leaf {leaf}/Positional Error (mm)" for leaf in range(1, 81)] for bank in ("Y1", "Y2")}
    for key, names, unit in (
        ("y1_leaves", leaves["Y1"], "mm"),
        ("y2_leaves", leaves["Y2"], "mm"),
        ("x1_diaphragm", ["X1 Diaphragm/Positional Error (mm)"], "mm"),
        ("x2_diaphragm", ["X2 Diaphragm/Positional Error (mm)"], "mm"),
        ("gantry", ["Step Gantry/Positional Error (deg)"], "deg"),
        ("collimator", ["Step Collimator/Positional Error (deg)"], "deg"),
    ):
        found |= {f"{key}_error_{what}": value for what, value in errors(names, unit).items()}
    rms = {name.partition("/")[0]: errors([name], "")["rms_"] for name in leaves["Y1"] + leaves["Y2"]}
    found["worst_leaf"] = max(rms, key=lambda name: rms[name])
    found["worst_leaf_error_rms_mm"] = rms[found["worst_leaf"]]
    return found


def compare(metrics: Metrics, wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        ours = getattr(metrics, name)
        if isinstance(value, float):
            assert ours == pytest.approx(value, abs=1e-6), name
        else:
            assert ours == value, name


def test_the_exported_deliveries(exports: list[tuple[Path, Path]]) -> None:
    for log, export in exports:
        compare(summarise(trf.read(log)), independent(exported(export)))


def test_the_other_real_deliveries(logs: list[Path], exports: list[tuple[Path, Path]]) -> None:
    """No export of these is known: the cells are `to_pandas`, which PyMedPhys confirms."""
    for path in logs:
        if path in [log for log, _ in exports]:
            continue
        log = trf.read(path)
        table = log.to_pandas().reset_index().astype(str)
        compare(summarise(log), independent(table, log.utc_ms.tolist()))


class TestWhatAPhysicistKnowsOfTheRealDeliveries:
    def metrics(self, samples: Path, name: str) -> Metrics:
        return summarise(trf.read(samples / name))

    def test_all_reached_their_dose_and_ended_well(self, logs: list[Path]) -> None:
        for path in logs:
            metrics = summarise(trf.read(path))
            assert metrics.delivered_mu == (metrics.prescribed_mu or 100)  # the service beam prescribes 0 and gave 100
            assert metrics.end_state == "Terminated Ok"
            assert metrics.trailing_bytes == metrics.unknown_item_parts == 0

    def test_the_arc_went_round(self, samples: Path) -> None:
        metrics = self.metrics(samples, "17_04_24 02_23_05 Z 1-1_1ARCVMAT.trf")
        assert (metrics.gantry_start_deg, metrics.gantry_stop_deg) == (-179.9, 180)
        assert metrics.gantry_travel_deg is not None
        assert 359.9 <= metrics.gantry_travel_deg < 365
        assert metrics.start_local.isoformat() == "2017-04-24T12:23:05+10:00"
        assert metrics.end_utc == metrics.start_utc + timedelta(seconds=3199 * 0.04)

    def test_step_and_shoot_restarts_its_dose_and_its_moves_do_not_count_as_errors(self, samples: Path) -> None:
        metrics = self.metrics(samples, "INT4 18_12_12 08_21_44 Z [ICOM_ 7_03_2018 15_16_23] D Abut..trf")
        assert metrics.prescribed_mu == metrics.delivered_mu == 40
        assert metrics.y1_leaves_error_max_mm is not None
        assert metrics.y1_leaves_error_max_mm < 0.5
        assert metrics.row_clock_ahead_s == 448.338

    def test_the_missing_control_point_is_counted(self, samples: Path) -> None:
        assert self.metrics(samples, "17_04_19 21_18_39 Z .trf").missing_values == 1


def delivery(make: Make, columns: dict[str, Any], version: int = 1, **more: Any) -> Metrics:
    rows = len(next(iter(columns.values())))

    def change(counts: np.ndarray) -> None:
        counts[:] = 0
        counts[:, WHERE["linac_state"]] = 42
        counts[:, WHERE["dose_rate_mu_per_min"]] = 400
        for name, values in columns.items():
            counts[:, WHERE[name]] = values

    return summarise(trf.read(make(version, rows=rows, change=change, **more)))


def test_interruptions_are_entries_into_an_interrupted_state(make: Make) -> None:
    assert delivery(make, {"linac_state": [43, 44, 42, 44, 43, 43, 42, 47]}).interruptions == 2
    assert delivery(make, {"linac_state": [43, 44, 42, 44, 43, 43, 42, 47]}).end_state == "Terminated Fault"
    assert delivery(make, {"linac_state": [42, 42, 46]}).interruptions == 0


def test_the_dose_restarts(make: Make) -> None:
    assert delivery(make, {"step_dose_mu": [0, 10, 25, 0, 5, -32767, 7, 7]}).delivered_mu == 3.2


def test_travel_takes_the_short_way_round(make: Make) -> None:
    metrics = delivery(make, {"gantry_deg": [1790, 1800, -1795, -1790, -1795], "collimator_deg": [0, 10, -32767, 0, 0]})
    assert metrics.gantry_travel_deg == 1 + 0.5 + 0.5 + 0.5
    assert metrics.collimator_travel_deg == 2


def test_errors_count_only_while_the_beam_is_on(make: Make) -> None:
    metrics = delivery(
        make,
        {
            "linac_state": [41, 42, 42, 42, 45],
            "dose_rate_mu_per_min": [400, 0, 400, 400, 400],
            "gantry_error_deg": [900, 900, 3, -4, 900],
            "y2_leaf_3_error_mm": [0, 0, 0, 8, 0],
            "y1_leaf_9_error_mm": [500, 500, 1, -32767, 500],
        },
    )
    assert metrics.gantry_error_rms_deg == pytest.approx(math.sqrt((0.09 + 0.16) / 2), abs=1e-6)
    assert metrics.gantry_error_p95_deg == pytest.approx(0.395)
    assert metrics.gantry_error_max_deg == 0.4
    assert metrics.y1_leaves_error_max_mm == 0.1
    assert (metrics.worst_leaf, metrics.worst_leaf_error_rms_mm) == ("Y2 Leaf 3", pytest.approx(0.8 / math.sqrt(2), abs=1e-6))
    assert metrics.missing_values == 1
    assert metrics.beam_on_s == 0.08
    assert metrics.radiation_state_s == 0.12


def test_times_come_from_the_rows_clock_where_there_is_one(make: Make) -> None:
    data = bytearray(make(3, rows=4))
    header = trf.read_header(bytes(data))
    for row, ms in enumerate((1_709_211_907_000, 1_709_211_907_043, 1_709_211_907_001, 1_709_211_908_001)):
        at = header.size + row * header.row_bytes
        data[at : at + 8] = ms.to_bytes(8, "little")
    metrics = summarise(trf.read(bytes(data)))
    assert metrics.duration_s == 0.043 + 0 + 1 + 0.04
    assert metrics.row_clock_ahead_s == 0
    assert metrics.start_utc == datetime(2024, 2, 29, 13, 5, 7, tzinfo=UTC)


def test_a_clock_that_is_nonsense_fails_nothing(make: Make) -> None:
    data = bytearray(make(3, rows=2))
    header = trf.read_header(bytes(data))
    data[header.size + header.row_bytes : header.size + header.row_bytes + 8] = b"\xff" * 7 + b"\x7f"
    metrics = summarise(trf.read(bytes(data)))
    assert metrics.duration_s == 0.08, "a leap of ages is no row's length"
    assert metrics.end_utc == metrics.start_utc + timedelta(seconds=0.08)


def test_what_the_log_does_not_hold_is_none(make: Make) -> None:
    metrics = summarise(trf.read(make(1, rows=5, item_parts=[(2224, 129), (7, 7)])))
    nothing = [name for name in meanings() if getattr(metrics, name) is None]
    assert "delivered_mu" in nothing
    assert "beam_on_s" in nothing
    assert "worst_leaf" in nothing
    assert metrics.gantry_start_deg is not None
    assert metrics.energy_cal_blocks == ()
    assert metrics.unknown_item_parts == 1


def test_every_metric_has_a_meaning_and_every_number_a_unit() -> None:
    names = set(Metrics.__dataclass_fields__)
    assert set(meanings()) == names
    assert all(meaning.endswith(".") for meaning in meanings().values())
    counted = {"version", "interruptions", "rows", "missing_values", "unknown_item_parts", "trailing_bytes"}
    texts = {"machine", "field_label", "field_name", "end_state", "worst_leaf", "energy_cal_blocks"}
    times = {"start_utc", "start_local", "end_utc"}
    for name in names - counted - texts - times:
        assert name.endswith(("_s", "_mu", "_mu_per_min", "_deg", "_mm")), name
