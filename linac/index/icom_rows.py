"""The rows of the two tables, from what a session's messages say. No files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linac.icom.delivery import iec_angle_deg, iec_jaws_mm, iec_leaves_mm
from linac.index.icom_beams import Beam, Said, number, text
from linac.index.icom_read import Doubles, Session
from linac.index.icom_schema import BANK, DELIVERIES_SCHEMA, LEAVES, SAMPLES_SCHEMA

CLOCKS_AGREE_SECONDS = 5.0
"""A session that took so much longer by one clock than by the other had a clock set in it, or old messages sent again."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Arrival:
    """When the session's first and last message arrived (aware; None where not known), and how many gaps the recorder noted."""

    first: datetime | None = None
    last: datetime | None = None
    gaps: int = 0


# The deliveries: a row per beam.


def deliveries(session: Session, *, linac: str, stamp: str, archive_file: str, samples_file: str, arrival: Arrival) -> Any:
    """The rows of a session's beams, as an Arrow table."""
    common: Row = {
        "sha256": session.sha256,
        "linac": linac,
        "session_stamp": stamp,
        "archive_file": archive_file.encode("utf-8", "replace").decode("utf-8"),
        "samples_file": samples_file,
        "session_arrived_first_utc": arrival.first,
        "session_arrived_last_utc": arrival.last,
        "session_gaps": arrival.gaps,
    }
    names = _patient_names(session.said)
    rows = [common | _beam_row(session, beam, arrival, names) for beam in session.beams]
    return pa.Table.from_pylist(rows, schema=DELIVERIES_SCHEMA)


def _beam_row(session: Session, beam: Beam, arrival: Arrival, patient_names: dict[str | None, str]) -> Row:
    marks, said = session.marks, session.said
    start, end = marks[beam.messages[0]].timestamp, marks[beam.messages[-1]].timestamp
    mu = _numbers(said, beam.messages, "Delivery MU")
    patient = next(iter(_texts(said, beam.messages, "Patient ID")), None)
    row: Row = {
        "beam_number": beam.number,
        "start_local": start,
        "end_local": end,
        "first_mu_local": marks[beam.grew[0]].timestamp if beam.grew else None,
        "last_mu_local": marks[beam.grew[-1]].timestamp if beam.grew else None,
        "start_utc": _utc(session, arrival, start),
        "end_utc": _utc(session, arrival, end),
        "machine_id": next(iter(_texts(said, beam.messages, "Machine ID")), None),
        "patient_id": patient,
        "patient_name": patient_names.get(patient),
        "field_id": next(iter(_texts(said, beam.messages, "Field ID")), None),
        "total_mu": max(_numbers(said, beam.messages, "Total MU"), default=None),
        "delivered_mu": beam.delivered_mu,
        "mu_first": mu[0] if mu else None,
        "mu_last": mu[-1] if mu else None,
        "segment_max": max((whole for i in beam.messages if (whole := _whole(said[i], "Segment")) is not None), default=None),
        "interruptions": beam.interruptions,
        "interrupted_s": beam.interrupted_s,
        "gaps": beam.gaps,
        "missing_messages": beam.missing,
        "longest_silence_s": beam.longest_silence_s,
        "messages": len(beam.messages),
        "incomplete_messages": sum(not session.complete[i] for i in beam.messages),
    }
    for name in ("Rx Site", "Beam Description", "Radiation Type", "Energy", "Wedge"):
        found = _texts(said, beam.delivering, name)
        row[name.lower().replace(" ", "_")] = "; ".join(found) or None
    for name in ("Gantry", "Collimator"):
        edges = [beam.before_mu, beam.grew[-1]] if beam.before_mu is not None else [beam.messages[0], beam.messages[-1]]
        for edge, index in zip(("start", "stop"), edges, strict=True):
            angle = number(said[index], name)
            row[f"{name.lower()}_{edge}_recorded_deg"] = angle
            row[f"{name.lower()}_{edge}_iec_deg"] = None if angle is None else iec_angle_deg(angle)
    return row


def _texts(said: Sequence[Said], indices: Iterable[int], name: str) -> list[str]:
    """The different texts under a name, in order."""
    return list(dict.fromkeys(found for index in indices if (found := text(said[index], name)) is not None))


def _numbers(said: Sequence[Said], indices: Iterable[int], name: str) -> list[float]:
    return [found for index in indices if (found := number(said[index], name)) is not None]


def _patient_names(said: Iterable[Said]) -> dict[str | None, str]:
    """By patient ID the first name that comes with it: not every message has the name."""
    names: dict[str | None, str] = {}
    for one in said:
        name = text(one, "Patient Name")
        if name is not None:
            names.setdefault(text(one, "Patient ID"), name)
    return names


def _utc(session: Session, arrival: Arrival, local: datetime) -> datetime | None:
    """A time of the linac's clock by the recording computer's, if the two went alike all through the session."""
    first, last = session.marks[0].timestamp, session.marks[-1].timestamp
    if arrival.first is None or arrival.last is None:
        return None
    apart = (arrival.last - arrival.first) - (last - first)
    return arrival.first.astimezone(UTC) + (local - first) if abs(apart) <= timedelta(seconds=CLOCKS_AGREE_SECONDS) else None


# The samples: a row per message.


def samples(session: Session, rows: slice = slice(None)) -> Any:
    """The rows of a session's messages, all or some of them, as an Arrow table."""
    said = session.said[rows]
    numbers = dict.fromkeys(range(len(session.said)), None) | {i: beam.number for beam in session.beams for i in beam.messages}
    order = range(len(session.said))[rows]
    asymx = session.asymx_cm[rows]
    columns: dict[str, Any] = {
        "sha256": [session.sha256] * len(said),
        "row": order,
        "beam_number": [numbers[row] for row in order],
        "timestamp_local": [mark.timestamp for mark in session.marks[rows]],
        "counter": [mark.counter for mark in session.marks[rows]],
        "segment": [_whole(one, "Segment") for one in said],
        "asymx_1_recorded_cm": [None if pair is None else pair[0] for pair in asymx],
        "asymx_2_recorded_cm": [None if pair is None else pair[1] for pair in asymx],
        "interlocks": [one["Interlocks"] for one in said],
        "previous_interlocks": [one["Previous Interlocks"] for one in said],
    }
    for name in ("Delivery MU", "Backup MU", "Segment MU", "Total MU", "Beam Timer"):
        columns[name.lower().replace(" ", "_")] = [number(one, name) for one in said]
    for name in ("Radiation Type", "Energy", "Wedge"):
        columns[name.lower().replace(" ", "_")] = [text(one, name) for one in said]
    for name in ("Gantry", "Collimator"):
        angles = [number(one, name) for one in said]
        columns[f"{name.lower()}_recorded_deg"] = angles
        columns[f"{name.lower()}_iec_deg"] = [None if angle is None else iec_angle_deg(angle) for angle in angles]
    for name in ("Column", "Isocentric"):
        columns[f"table_{name.lower()}_recorded_deg"] = [number(one, f"Table {name}") for one in said]
    for name in ("Vertical", "Longitudinal", "Lateral"):
        columns[f"table_{name.lower()}_recorded_cm"] = [number(one, f"Table {name}") for one in said]
    columns |= _meterset(session, rows) | _positions(session, rows)
    return pa.table([_array(columns[item.name], item.type) for item in SAMPLES_SCHEMA], schema=SAMPLES_SCHEMA)


def _array(values: Any, kind: Any) -> Any:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _whole(said: Said, name: str) -> int | None:
    """A value that is a whole number and has room in 32 bits."""
    found = number(said, name)
    return int(found) if found is not None and found == int(found) and abs(found) < 1 << 31 else None


def _meterset(session: Session, rows: slice) -> Row:
    """The running sum of MU over the control points, and which of them PyMedPhys keeps: those next to which MU were delivered.

    Added up in the order in which `Delivery` and PyMedPhys do it, so that the last digits agree, too.
    """
    readings = [number(one, "Delivery MU") for one, there in zip(session.said, session.complete, strict=True) if there]
    steps = np.maximum(np.diff(np.array(readings, np.float64)), 0.0)
    mu = np.append(0.0, np.cumsum(steps))[: len(readings)]
    moves = np.diff(mu) != 0
    near = np.append(moves, False) | np.append(False, moves) if len(mu) > 1 else np.full(len(mu), True)
    chosen = np.zeros(len(session.complete), bool)
    chosen[session.complete] = near
    there = session.complete[rows]
    points = session.complete[: rows.start or 0].sum()
    return {
        "session_mu": _spread(mu[points : points + there.sum()], there),
        "control_point": pa.array(chosen[rows]),
    }


def _positions(session: Session, rows: slice) -> Row:
    """Leaves and jaws, null in the rows of messages of which no control point can be made."""
    there = session.complete[rows]
    first = session.complete[: rows.start or 0].sum()
    points = slice(first, first + there.sum())
    mlc, jaws = session.mlc_mm[points], session.jaws_mm[points]
    iec = np.array([iec_leaves_mm(pairs) for pairs in mlc.tolist()], np.float64).reshape(-1, 2 * LEAVES)
    iec_jaws = np.array([iec_jaws_mm(pair) for pair in jaws.tolist()], np.float64).reshape(-1, 2)
    return {
        "leaves_x1_iec_mm": _bank(iec[:, :LEAVES], there),
        "leaves_x2_iec_mm": _bank(iec[:, LEAVES:], there),
        "mlc_1_pymedphys_mm": _bank(mlc[:, :, 0], there),
        "mlc_2_pymedphys_mm": _bank(mlc[:, :, 1], there),
        "jaw_y1_iec_mm": _spread(iec_jaws[:, 0], there),
        "jaw_y2_iec_mm": _spread(iec_jaws[:, 1], there),
        "jaw_1_pymedphys_mm": _spread(jaws[:, 0], there),
        "jaw_2_pymedphys_mm": _spread(jaws[:, 1], there),
    }


def _spread(values: Doubles, there: npt.NDArray[np.bool_]) -> Any:
    """One value for each row that is `there`, null in the others."""
    rows = np.zeros(len(there), np.float64)
    rows[there] = values
    return pa.array(rows, mask=~there)


def _bank(values: Doubles, there: npt.NDArray[np.bool_]) -> Any:
    """A list for each row that is `there`, null in the others."""
    offsets = np.concatenate([[0], np.cumsum(there) * LEAVES]).astype(np.int32)
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=BANK, mask=pa.array(~there))
