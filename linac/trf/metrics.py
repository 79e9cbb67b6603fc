"""What a delivery comes down to: a row of numbers per log, each with its formula.

>>> from datetime import datetime, timezone
>>> from linac import trf
>>> from linac.trf.writer import encode
>>> made = encode([[1] * 350] * 25, start=datetime(2017, 4, 19, 21, 59, 24, tzinfo=timezone.utc), machine="2694")
>>> metrics = summarise(trf.read(made))
>>> metrics.duration_s, metrics.delivered_mu, metrics.end_state, metrics.y1_leaves_error_max_mm
(1.0, 0.0, 'Unknown (1)', None)
>>> print(meanings()["beam_on_s"])
Seconds of all rows with beam on, each row lasting until the next.

"While the beam is on" means: in rows whose linac state is Radiation On and whose dose rate is above 0. The state alone would
not do: in every sample it begins 2 s before the first dose, and in a step-and-shoot one it lasts while jaws and leaves travel
to the next segment, with errors of 43 mm that no patient sees.

It judges nothing: no tolerance, no pass or fail.
"""

import functools
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt

from linac.trf.item_parts import INTERRUPTED, LINAC_STATES, NO_VALUE, RADIATION_ON, ItemPart, Part, columns, label
from linac.trf.reader import ROW_MS, Trf

DECIMALS = 6
"""Metrics computed from many rows are rounded so: far below what the machine resolves, and free of floating point dust."""

_RMS = "Root mean square positional error of {} while the beam is on: sqrt(mean(error^2))."
_P95 = "95th percentile of |positional error| of {} while the beam is on, interpolated linearly."
_MAX = "Largest |positional error| of {} while the beam is on."
_Y1, _Y2 = (f"the {bank} leaves, all 80 alike, in use or not," for bank in ("Y1", "Y2"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A row of the index. Units end the names; None is what the log does not say, as with no row or no beam."""

    machine: Annotated[str, "The linac's serial, or the site's name for it, as the log says."]
    field_label: Annotated[str, "The field's label: what stands before the first `/`, or nothing."]
    field_name: Annotated[str, "The field's name: what stands after the label."]
    version: Annotated[int, "The log's version: 1 to 4."]
    start_utc: Annotated[datetime, "Start of the log by its header, UTC."]
    start_local: Annotated[datetime, "The same by the site's wall clock, with the UTC offset that the header says."]
    end_utc: Annotated[datetime | None, "start_utc + duration_s."]
    row_clock_ahead_s: Annotated[
        float | None,
        "The first row's timestamp minus start_utc: two clocks of the linac that differ by minutes. None in version 1, whose "
        "rows have no timestamp.",
    ]
    duration_s: Annotated[
        float,
        "Sum of the rows' lengths: each lasts until the next (40 ms in version 1; a clock that is set back counts as 0, one that "
        "leaps by more than an hour as 40 ms), the last one 40 ms.",
    ]
    beam_on_s: Annotated[float | None, "Seconds of all rows with beam on, each row lasting until the next."]
    radiation_state_s: Annotated[
        float | None, "Seconds of all rows in state Radiation On, with the wait for the dose and moves between segments."
    ]
    interruptions: Annotated[int | None, "How often the state became Interrupted or Interrupted Ready from any other."]
    end_state: Annotated[str | None, "The linac state of the last row that has one."]
    prescribed_mu: Annotated[float, "Prescribed MU by the header."]
    delivered_mu: Annotated[
        float | None,
        "Sum of all positive steps of Step Dose from row to row, rows without a value left out: it restarts within a delivery.",
    ]
    dose_rate_max_mu_per_min: Annotated[float | None, "Largest Actual Dose Rate while the beam is on."]
    dose_rate_mean_mu_per_min: Annotated[float | None, "Mean Actual Dose Rate while the beam is on."]
    energy_cal_blocks: Annotated[
        tuple[int, ...],
        "The distinct values of Energy Cal Block, ascending: numbers of the linac's calibration blocks, each of which stands for "
        "an energy.",
    ]
    gantry_start_deg: Annotated[float | None, "Gantry angle in the first row."]
    gantry_stop_deg: Annotated[float | None, "Gantry angle in the last row."]
    gantry_travel_deg: Annotated[float | None, "Sum of |step| of the gantry from row to row, each the short way round."]
    collimator_start_deg: Annotated[float | None, "Collimator angle in the first row."]
    collimator_stop_deg: Annotated[float | None, "Collimator angle in the last row."]
    collimator_travel_deg: Annotated[float | None, "Sum of |step| of the collimator from row to row, each the short way round."]
    y1_leaves_error_rms_mm: Annotated[float | None, _RMS.format(_Y1)]
    y1_leaves_error_p95_mm: Annotated[float | None, _P95.format(_Y1)]
    y1_leaves_error_max_mm: Annotated[float | None, _MAX.format(_Y1)]
    y2_leaves_error_rms_mm: Annotated[float | None, _RMS.format(_Y2)]
    y2_leaves_error_p95_mm: Annotated[float | None, _P95.format(_Y2)]
    y2_leaves_error_max_mm: Annotated[float | None, _MAX.format(_Y2)]
    x1_diaphragm_error_rms_mm: Annotated[float | None, _RMS.format("the X1 jaw")]
    x1_diaphragm_error_p95_mm: Annotated[float | None, _P95.format("the X1 jaw")]
    x1_diaphragm_error_max_mm: Annotated[float | None, _MAX.format("the X1 jaw")]
    x2_diaphragm_error_rms_mm: Annotated[float | None, _RMS.format("the X2 jaw")]
    x2_diaphragm_error_p95_mm: Annotated[float | None, _P95.format("the X2 jaw")]
    x2_diaphragm_error_max_mm: Annotated[float | None, _MAX.format("the X2 jaw")]
    gantry_error_rms_deg: Annotated[float | None, _RMS.format("the gantry")]
    gantry_error_p95_deg: Annotated[float | None, _P95.format("the gantry")]
    gantry_error_max_deg: Annotated[float | None, _MAX.format("the gantry")]
    collimator_error_rms_deg: Annotated[float | None, _RMS.format("the collimator")]
    collimator_error_p95_deg: Annotated[float | None, _P95.format("the collimator")]
    collimator_error_max_deg: Annotated[float | None, _MAX.format("the collimator")]
    worst_leaf: Annotated[str | None, "The leaf with the largest RMS positional error while the beam is on."]
    worst_leaf_error_rms_mm: Annotated[float | None, "Its RMS positional error."]
    rows: Annotated[int, "Whole rows of the log."]
    missing_values: Annotated[int, 'Cells that hold "no value" (-32767).']
    unknown_item_parts: Annotated[int, "Columns that this version of the software does not know; they are kept as counts."]
    trailing_bytes: Annotated[int, "Bytes after the last whole row: a row that was cut."]


def meanings() -> dict[str, str]:
    """The meaning and formula of each metric, by name."""
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(Metrics, include_extras=True).items()}


class _Errors(NamedTuple):
    rms: float | None = None
    p95: float | None = None
    max: float | None = None


_SINGLE = (
    "linac_state",
    "dose_rate_mu_per_min",
    "step_dose_mu",
    "energy_cal_block",
    "gantry_deg",
    "collimator_deg",
    "x1_diaphragm_error_mm",
    "x2_diaphragm_error_mm",
    "gantry_error_deg",
    "collimator_error_deg",
)
"""The columns that metrics are made of, the leaves apart."""


class _Plan(NamedTuple):
    """Where the columns of a list of item parts stand: those of `_SINGLE` that it has, and the leaves' errors of each bank. A
    bank's leaves stand side by side in all logs seen: then it is a slice, which takes a view of them and not a copy."""

    items: list[ItemPart]
    single: dict[str, int]
    banks: dict[str, "list[int] | slice"]
    leaves: list[int]
    readings: list[int]
    unknown: int


@functools.lru_cache(maxsize=16)
def _plan(parts: tuple[Part, ...]) -> _Plan:
    found = columns(parts)
    items = [column.item for column in found]
    where = {column.column: index for index, column in enumerate(found)}
    banks = {
        bank: [where[f"{bank}_leaf_{leaf}_error_mm"] for leaf in range(1, 81) if f"{bank}_leaf_{leaf}_error_mm" in where]
        for bank in ("y1", "y2")
    }
    return _Plan(
        items=items,
        single={name: where[name] for name in _SINGLE if name in where},
        banks={name: _slice(indices) for name, indices in banks.items()},
        leaves=banks["y1"] + banks["y2"],
        readings=[index for index, item in enumerate(items) if not item.has_no_value_marker],
        unknown=sum(not item.known for item in items),
    )


def _slice(indices: list[int]) -> "list[int] | slice":
    side_by_side = bool(indices) and indices == list(range(indices[0], indices[0] + len(indices)))
    return slice(indices[0], indices[-1] + 1) if side_by_side else indices


def summarise(trf: Trf) -> Metrics:
    """The metrics of one log. What the log does not hold is None; no log makes this fail."""
    header = trf.header
    plan = _plan(header.item_parts)
    single = dict(zip(plan.single, np.ascontiguousarray(trf.counts[:, list(plan.single.values())].T), strict=True))

    def counts(name: str, rows: "npt.NDArray[np.bool_] | slice" = slice(None)) -> npt.NDArray[np.int64]:
        """The counts of one column, rows without a value left out; empty where the log has no such column."""
        if name not in single:
            return np.zeros(0, np.int64)
        column = single[name][rows]
        values: npt.NDArray[np.int64] = column[column != NO_VALUE].astype(np.int64)
        return values

    def physical(name: str) -> npt.NDArray[np.float64]:
        return plan.items[plan.single[name]].to_physical(counts(name)) if name in single else np.zeros(0)

    lengths_s = _row_lengths_s(trf)
    duration_s = _seconds(lengths_s)
    state = single.get("linac_state")
    radiation = state == RADIATION_ON if state is not None else np.zeros(trf.rows, bool)
    on = radiation & (single["dose_rate_mu_per_min"] > 0) if "dose_rate_mu_per_min" in single else radiation
    states, step_dose, dose_rate = counts("linac_state"), counts("step_dose_mu"), counts("dose_rate_mu_per_min", on)
    gantry, collimator = physical("gantry_deg"), physical("collimator_deg")
    x1, x2, gantry_error, collimator_error = (
        _errors(single[name][on]) if name in single else _Errors()
        for name in ("x1_diaphragm_error_mm", "x2_diaphragm_error_mm", "gantry_error_deg", "collimator_error_deg")
    )
    (y1, y1_leaves), (y2, y2_leaves) = (_bank(np.ascontiguousarray(trf.counts[:, plan.banks[bank]][on])) for bank in ("y1", "y2"))
    worst, worst_rms = _worst(np.concatenate((y1_leaves, y2_leaves)), plan)
    return Metrics(
        machine=header.machine,
        field_label=header.field_label,
        field_name=header.field_name,
        version=header.version,
        start_utc=header.start,
        start_local=header.local_start,
        end_utc=header.start + timedelta(seconds=duration_s),
        row_clock_ahead_s=_clock_ahead_s(trf),
        duration_s=duration_s,
        beam_on_s=_seconds(lengths_s[on]) if state is not None else None,
        radiation_state_s=_seconds(lengths_s[radiation]) if state is not None else None,
        interruptions=_entries(states, INTERRUPTED) if state is not None else None,
        end_state=label(LINAC_STATES, int(states[-1])) if states.size else None,
        prescribed_mu=header.prescribed_mu,
        delivered_mu=int(np.maximum(np.diff(step_dose), 0).sum()) / 10 if step_dose.size else None,
        dose_rate_max_mu_per_min=float(dose_rate.max()) if dose_rate.size else None,
        dose_rate_mean_mu_per_min=round(float(dose_rate.mean()), DECIMALS) if dose_rate.size else None,
        energy_cal_blocks=tuple(int(number) for number in np.unique(counts("energy_cal_block"))),
        gantry_start_deg=_first(gantry),
        gantry_stop_deg=_last(gantry),
        gantry_travel_deg=_travel_deg(gantry),
        collimator_start_deg=_first(collimator),
        collimator_stop_deg=_last(collimator),
        collimator_travel_deg=_travel_deg(collimator),
        y1_leaves_error_rms_mm=y1.rms,
        y1_leaves_error_p95_mm=y1.p95,
        y1_leaves_error_max_mm=y1.max,
        y2_leaves_error_rms_mm=y2.rms,
        y2_leaves_error_p95_mm=y2.p95,
        y2_leaves_error_max_mm=y2.max,
        x1_diaphragm_error_rms_mm=x1.rms,
        x1_diaphragm_error_p95_mm=x1.p95,
        x1_diaphragm_error_max_mm=x1.max,
        x2_diaphragm_error_rms_mm=x2.rms,
        x2_diaphragm_error_p95_mm=x2.p95,
        x2_diaphragm_error_max_mm=x2.max,
        gantry_error_rms_deg=gantry_error.rms,
        gantry_error_p95_deg=gantry_error.p95,
        gantry_error_max_deg=gantry_error.max,
        collimator_error_rms_deg=collimator_error.rms,
        collimator_error_p95_deg=collimator_error.p95,
        collimator_error_max_deg=collimator_error.max,
        worst_leaf=worst,
        worst_leaf_error_rms_mm=worst_rms,
        rows=trf.rows,
        missing_values=_missing_values(trf, plan.readings),
        unknown_item_parts=plan.unknown,
        trailing_bytes=trf.trailing_bytes,
    )


LEAP_MS = 3_600_000
"""A longer step is no row's length: the row's timestamp is damaged, or a clock was set."""


def _row_lengths_s(trf: Trf) -> npt.NDArray[np.float64]:
    lengths = np.full(trf.rows, ROW_MS, np.float64)
    if trf.timestamp_ms is not None and trf.rows > 1:
        steps = np.maximum(np.diff(trf.timestamp_ms.astype(np.float64)), 0)
        lengths[:-1] = np.where(steps > LEAP_MS, ROW_MS, steps)
    return lengths / 1000


def _seconds(lengths_s: npt.NDArray[np.float64]) -> float:
    return round(float(lengths_s.sum()), 3)


def _clock_ahead_s(trf: Trf) -> float | None:
    if trf.timestamp_ms is None or not trf.rows:
        return None
    return round(int(trf.timestamp_ms[0]) / 1000 - trf.header.start.timestamp(), 3)


def _entries(states: npt.NDArray[np.int64], wanted: frozenset[int]) -> int:
    """How often a run of the wanted states begins."""
    inside = np.isin(states, list(wanted))
    return int(np.count_nonzero(inside & ~np.concatenate(([False], inside[:-1])))) if states.size else 0


def _first(values: npt.NDArray[np.float64]) -> float | None:
    return float(values[0]) if values.size else None


def _last(values: npt.NDArray[np.float64]) -> float | None:
    return float(values[-1]) if values.size else None


def _travel_deg(angles: npt.NDArray[np.float64]) -> float | None:
    if not angles.size:
        return None
    steps = (np.diff(angles) + 180) % 360 - 180
    return round(float(np.abs(steps).sum()), DECIMALS)


# Both banks and all axes record errors in tenths (`item_parts`). There are millions of them, all small whole numbers: so a
# percentile is found by counting, halving the range of what it can be, which takes a third of the time of sorting or of a
# histogram, and no more memory than the counts.

_TENTHS = 10


def _errors(counts: npt.NDArray[Any], squares: float | None = None) -> _Errors:
    """RMS, 95th percentile and maximum of |error|, in mm or degrees, of counts in tenths. None where there is no value.
    `squares` is the sum of all squares, where that is known."""
    flat = counts.ravel()
    if flat.size and flat.min() <= NO_VALUE:
        flat = flat[flat != NO_VALUE]
        if flat.size and flat.min() == np.iinfo(flat.dtype).min:  # the one number whose opposite does not fit
            flat = flat.astype(np.int64)
    if not flat.size:
        return _Errors()
    sizes = np.abs(flat)
    largest = int(sizes.max())
    if squares is None:
        squares = float(_squares(flat[:, None])[0])
    p95 = _percentile(sizes, largest, 0.95)
    return _Errors(*(round(tenths / _TENTHS, DECIMALS) for tenths in (math.sqrt(squares / flat.size), p95, largest)))


def _bank(counts: npt.NDArray[Any]) -> tuple[_Errors, npt.NDArray[np.float64]]:
    """The errors of a bank of leaves, and each leaf's mean square error, -1 where it has no value."""
    known = counts
    numbers: npt.NDArray[Any] = np.full(counts.shape[1], len(counts))
    if counts.size and counts.min() <= NO_VALUE:
        missing = counts == NO_VALUE
        known = np.where(missing, 0, counts)
        numbers -= missing.sum(axis=0)
    squares = _squares(known)
    means = np.divide(squares, numbers, out=np.full(len(numbers), -1.0), where=numbers > 0)
    return _errors(counts, float(squares.sum())), means


def _percentile(sizes: npt.NDArray[Any], largest: int, part: float) -> float:
    """Percentile of whole numbers from 0 to the largest, linear between neighbours, as numpy's default."""
    place = part * (sizes.size - 1)
    rank = math.floor(place)
    low, high = 0, largest
    while low < high:
        middle = (low + high) // 2
        if np.count_nonzero(sizes <= middle) > rank:
            high = middle
        else:
            low = middle + 1
    following = low
    if rank + 1 < sizes.size and np.count_nonzero(sizes <= low) == rank + 1:
        following = int(sizes[sizes > low].min())
    return low + (following - low) * (place - rank)


def _squares(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The sum of squares of each column. That of 16 bits is exact, in 32 bits where it fits them, which is quicker; that of 32
    bits (version 4) may be too large for any whole number."""
    if counts.itemsize > 2:
        return np.asarray(np.einsum("ij,ij->j", counts, counts, dtype=np.float64))
    largest = max(-int(counts.min()), int(counts.max())) if counts.size else 0
    wide: Any = counts.astype(np.int32 if largest**2 * len(counts) < 1 << 31 else np.int64)
    if counts.shape[1] == 1:
        return np.atleast_1d(wide[:, 0] @ wide[:, 0])
    return np.asarray(np.einsum("ij,ij->j", wide, wide))


def _worst(means: npt.NDArray[np.float64], plan: _Plan) -> tuple[str | None, float | None]:
    """The leaf with the largest RMS error, and that error in mm. Of equal ones the first: Y1 before Y2, low numbers first."""
    if not means.size or means.max() < 0:
        return None, None
    worst = int(np.argmax(means))
    return plan.items[plan.leaves[worst]].name.partition("/")[0], round(math.sqrt(means[worst]) / _TENTHS, DECIMALS)


def _missing_values(trf: Trf, readings: list[int]) -> int:
    """Cells that hold "no value", those of columns (`readings`) left out in which that is a value like any other."""
    if not trf.rows or trf.counts.min() > NO_VALUE:
        return 0
    missing = int(np.count_nonzero(trf.counts == NO_VALUE))
    return missing - int(np.count_nonzero(trf.counts[:, readings] == NO_VALUE))
