"""A session's bytes into the rows of the two tables. No files.

Leaves, jaws and angles are turned by `linac.icom.delivery` alone, so that there is one place for it.
"""

import hashlib
import io
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linac.errors import DamagedError
from linac.icom import VALUES, Delivery, Message, split
from linac.icom.delivery import iec_angle_deg, iec_jaws_mm, iec_leaves_mm
from linac.icom.items import JAWS_X
from linac.icom.show import MAX_BYTES
from linac.index.icom_beams import Beam, Said, beams, number, text
from linac.index.icom_schema import BANK, DELIVERIES_SCHEMA, LEAVES, SAMPLES_SCHEMA

CLOCKS_AGREE_SECONDS = 5.0
"""A session that took so much longer by one clock than by the other had a clock set in it, or old messages sent again."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Session:
    """An archived session, read. The repr shows nothing of the patient.

    `points`: a control point for each message that one can be made of; `complete`: whether each message is one of these.
    """

    sha256: str
    messages: list[Message] = field(repr=False)
    said: list[Said] = field(repr=False)
    beams: list[Beam] = field(repr=False)
    points: Delivery = field(repr=False)
    complete: npt.NDArray[np.bool_] = field(repr=False)


@dataclass(frozen=True)
class Arrival:
    """When the session's first and last message arrived (aware; None where not known), and how many gaps the recorder noted."""

    first: datetime | None = None
    last: datetime | None = None
    gaps: int = 0


def unpack(data: bytes, what: str, limit: int = MAX_BYTES) -> bytes:
    """The first `limit` bytes of what is in an `.xz`. Raises `DamagedError`, which calls the file `what`."""
    try:
        with lzma.open(io.BytesIO(data)) as file:
            return file.read(limit)
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedError(
            f"{what} is no .xz file, or a damaged one ({error}). Restore it from a backup of the records."
        ) from error


def read(data: bytes, what: str) -> Session:
    """An archived session. `what` names it in errors, without the patient. Raises `DamagedError` if there is no beam in it."""
    content = unpack(data, what, MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DamagedError(f"{what} holds more than {MAX_BYTES} bytes: this is no recording of iCom. Move it away.")
    messages = split(content)
    if not messages:
        raise DamagedError(f"{what} holds no iCom message in its {len(content)} bytes. Restore it from a backup of the records.")
    said: list[Said] = [{row.name: message.get(row.name) for row in VALUES} for message in messages]
    found = beams(messages, said)
    if not found:
        raise DamagedError(
            f"{what} holds {len(messages)} messages but no beam: none says a Field ID, and no MU were delivered. Nothing is "
            "to be done unless a patient was treated then; if so, keep the file and report it."
        )
    points = Delivery.from_messages(messages, only_moving_mu=False)
    complete = {id(message) for message in points.messages}
    there = np.array([id(message) in complete for message in messages], bool)
    return Session(hashlib.sha256(data).hexdigest(), messages, said, found, points, there)


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
    rows = [common | _beam_row(session, beam, arrival) for beam in session.beams]
    return pa.Table.from_pylist(rows, schema=DELIVERIES_SCHEMA)


def _beam_row(session: Session, beam: Beam, arrival: Arrival) -> Row:
    messages, said = session.messages, session.said
    start, end = messages[beam.messages[0]].timestamp, messages[beam.messages[-1]].timestamp
    mu = _numbers(said, beam.messages, "Delivery MU")
    patient = next(iter(_texts(said, beam.messages, "Patient ID")), None)
    row: Row = {
        "beam_number": beam.number,
        "start_local": start,
        "end_local": end,
        "first_mu_local": messages[beam.grew[0]].timestamp if beam.grew else None,
        "last_mu_local": messages[beam.grew[-1]].timestamp if beam.grew else None,
        "start_utc": _utc(session, arrival, start),
        "end_utc": _utc(session, arrival, end),
        "machine_id": next(iter(_texts(said, beam.messages, "Machine ID")), None),
        "patient_id": patient,
        "patient_name": _name_of(said, patient),
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


def _name_of(said: Sequence[Said], patient: str | None) -> str | None:
    """The first name in the session's messages with that patient's ID: not every message has it."""
    whose = (index for index, one in enumerate(said) if text(one, "Patient ID") == patient)
    return next(iter(_texts(said, whose, "Patient Name")), None)


def _utc(session: Session, arrival: Arrival, local: datetime) -> datetime | None:
    """A time of the linac's clock by the recording computer's, if the two went alike all through the session."""
    first, last = session.messages[0].timestamp, session.messages[-1].timestamp
    if arrival.first is None or arrival.last is None:
        return None
    apart = (arrival.last - arrival.first) - (last - first)
    return arrival.first.astimezone(UTC) + (local - first) if abs(apart) <= timedelta(seconds=CLOCKS_AGREE_SECONDS) else None


# The samples: a row per message.


def samples(session: Session) -> Any:
    """The rows of a session's messages, as an Arrow table."""
    messages, said = session.messages, session.said
    numbers = {row: beam.number for beam in session.beams for row in beam.messages}
    columns: dict[str, Any] = {
        "sha256": [session.sha256] * len(messages),
        "row": range(len(messages)),
        "beam_number": [numbers.get(row) for row in range(len(messages))],
        "timestamp_local": [message.timestamp for message in messages],
        "counter": [message.counter for message in messages],
        "segment": [_whole(one, "Segment") for one in said],
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
    columns |= _asymx(messages) | _positions(session.points, session.complete)
    return pa.table([_array(columns[item.name], item.type) for item in SAMPLES_SCHEMA], schema=SAMPLES_SCHEMA)


def _array(values: Any, kind: Any) -> Any:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _whole(said: Said, name: str) -> int | None:
    """A value that is a whole number and has room in 32 bits."""
    found = number(said, name)
    return int(found) if found is not None and found == int(found) and abs(found) < 1 << 31 else None


def _asymx(messages: Sequence[Message]) -> Row:
    pairs = [found if (found := message.positions(JAWS_X)) is not None and len(found) == 2 else None for message in messages]
    return {f"asymx_{n + 1}_recorded_cm": [None if pair is None else pair[n] for pair in pairs] for n in (0, 1)}


def _positions(points: Delivery, there: npt.NDArray[np.bool_]) -> Row:
    """What comes from the control points: MU, leaves and jaws, null in the rows of messages that have none."""
    pairs = np.array(points.mlc_mm, np.float64).reshape(-1, LEAVES, 2)
    iec = np.array([iec_leaves_mm(leaves) for leaves in points.mlc_mm], np.float64).reshape(-1, 2 * LEAVES)
    jaws = np.array(points.jaws_mm, np.float64).reshape(-1, 2)
    iec_jaws = np.array([iec_jaws_mm(pair) for pair in points.jaws_mm], np.float64).reshape(-1, 2)
    return {
        "session_mu": _spread(np.array(points.mu, np.float64), there),
        "control_point": _near_mu(points.mu, there),
        "leaves_x1_iec_mm": _bank(iec[:, :LEAVES], there),
        "leaves_x2_iec_mm": _bank(iec[:, LEAVES:], there),
        "mlc_1_pymedphys_mm": _bank(pairs[:, :, 0], there),
        "mlc_2_pymedphys_mm": _bank(pairs[:, :, 1], there),
        "jaw_y1_iec_mm": _spread(iec_jaws[:, 0], there),
        "jaw_y2_iec_mm": _spread(iec_jaws[:, 1], there),
        "jaw_1_pymedphys_mm": _spread(jaws[:, 0], there),
        "jaw_2_pymedphys_mm": _spread(jaws[:, 1], there),
    }


def _near_mu(mu: Sequence[float], there: npt.NDArray[np.bool_]) -> Any:
    """Which rows are control points: those next to which MU were delivered, as `Delivery` and PyMedPhys choose them."""
    moves = np.diff(np.array(mu, np.float64)) != 0
    near = np.append(moves, False) | np.append(False, moves) if len(mu) > 1 else np.full(len(mu), True)
    rows = np.zeros(len(there), bool)
    rows[there] = near
    return pa.array(rows)


def _spread(values: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> Any:
    """One value for each row that is `there`, null in the others."""
    rows = np.zeros(len(there), np.float64)
    rows[there] = values
    return pa.array(rows, mask=~there)


def _bank(values: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> Any:
    """A list for each row that is `there`, null in the others."""
    offsets = np.concatenate([[0], np.cumsum(there) * LEAVES]).astype(np.int32)
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=BANK, mask=pa.array(~there))
