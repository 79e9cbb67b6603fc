"""What the Parquet files of iCom sessions hold, and where they lie.

>>> [column.name for column in DELIVERIES][:4]
['sha256', 'linac', 'beam_number', 'session_stamp']
>>> file_name("samples", "4299", "20260105_093000", "0f" * 32)
'iCom/samples/machine=4299/month=2026-01/20260105_093000_0f0f0f0f0f0f0f0f.parquet'

A file of each kind per session, named by the session's own stamp and content. So adding a session again writes the same files,
and a listing says which sessions are in without opening one. Rules for columns and versions are those of `linac.index.schema`;
the version is counted on its own.
"""

import re
from datetime import datetime
from typing import Any

import pyarrow as pa

from linac.errors import SetupError
from linac.index import schema
from linac.index.names import check_serial
from linac.index.schema import KIND_KEY, LOCAL_MS, TEXT, UTC_MS, VERSION_KEY, Column

VERSION = 1
"""Version of these tables, in the metadata of each file."""

PATIENTS = "iCom/patients"
PENDING = "iCom/pending"
"""Where files are written before they are moved to their place: a reader takes whatever stands in a month's folder for data."""

SHORT_HASH = 16
"""Digits of a session's SHA-256 in its files' names."""

LEAVES = 80
BANK = pa.list_(pa.field("element", pa.float64()))
"""Always 80 long. Doubles, so that 12.3 mm is the same number that PyMedPhys has; packed they take no more room than floats."""
TEXTS = pa.list_(pa.field("element", pa.string()))

_ONCE = "During delivery; of several, all in order with `; ` between (a wedge that drives in, say). Null if not said."
_DICOM = "Turned as PyMedPhys's DICOM export does it."
_RECORDED = "As the linac said it, -180 to 180."
_PART = "Null in a message of which no control point can be made (see `control_point`)."

DELIVERIES: tuple[Column, ...] = (
    Column("sha256", pa.string(), "", "SHA-256 of the archived `.xz`, in hex: the session's identity, here and in the samples."),
    Column("linac", pa.string(), "", "The linac's serial, as the operator gave it; also in the folder's name, as `machine`."),
    Column("beam_number", pa.int32(), "", "Number of the beam in its session, from 1, in order of time."),
    Column(
        "session_stamp", pa.string(), "", "Name of the archived file without `.xz`: the linac's local time at its first message."
    ),
    Column(
        "archive_file",
        pa.string(),
        "",
        "The archived session, below the records root. Its folder's name says who the patient is.",
    ),
    Column("samples_file", pa.string(), "", "The Parquet file with the session's messages, below the records root."),
    Column(
        "start_local", LOCAL_MS, "linac's clock", "First message of the beam, as a rule while the machine still drives there."
    ),
    Column("end_local", LOCAL_MS, "linac's clock", "Last message of the beam."),
    Column(
        "first_mu_local", LOCAL_MS, "linac's clock", "First message in which the MU had grown. Null if nothing was delivered."
    ),
    Column("last_mu_local", LOCAL_MS, "linac's clock", "Last message in which the MU had grown."),
    Column(
        "start_utc",
        UTC_MS,
        "UTC",
        "`start_local` by the recording computer's clock: when the session's first message arrived, plus the time since then by "
        "the linac's clock. To 1 s. Null if arrival is not known, or if the clocks disagree by more than 5 s over the session.",
    ),
    Column("end_utc", UTC_MS, "UTC", "`end_local`, likewise."),
    Column("session_arrived_first_utc", UTC_MS, "UTC", "When the session's first message arrived. Null if not known."),
    Column("session_arrived_last_utc", UTC_MS, "UTC", "When the session's last message arrived. Null if not known."),
    Column("machine_id", pa.string(), "", "What the linac calls itself in the messages."),
    Column("patient_id", pa.string(), "", "Patient ID."),
    Column(
        "patient_name", pa.string(), "", "Patient name as the linac sends it (DICOM's form, `Last^First`). Null if it never came."
    ),
    Column("rx_site", pa.string(), "", f"Rx Site. {_ONCE}"),
    Column("field_id", pa.string(), "", "Field ID. Null if the linac did not say it."),
    Column("beam_description", pa.string(), "", f"Beam Description. {_ONCE}"),
    Column("radiation_type", pa.string(), "", f"Radiation Type. {_ONCE}"),
    Column("energy", pa.string(), "", f"Energy, the linac's words. {_ONCE}"),
    Column("wedge", pa.string(), "", f"Wedge. {_ONCE}"),
    Column(
        "total_mu",
        pa.float64(),
        "MU",
        "Total MU, the greatest said in the beam. Taken to be what is planned for the beam; that is assumed.",
    ),
    Column(
        "delivered_mu", pa.float64(), "MU", "The sum of the positive steps of Delivery MU. What a gap hides before it is lost."
    ),
    Column("mu_first", pa.float64(), "MU", "Delivery MU in the beam's first message that has it. After a gap perhaps not 0."),
    Column("mu_last", pa.float64(), "MU", "Delivery MU in the beam's last message that has it."),
    Column("segment_max", pa.int32(), "", "The greatest Segment said in the beam."),
    *(
        Column(f"{axis}_{edge}_{scale}_deg", pa.float64(), "deg", f"{axis.capitalize()} {when}. {how}")
        for axis in ("gantry", "collimator")
        for edge, when in (("start", "just before the first MU"), ("stop", "at the last MU"))
        for scale, how in (("iec", f"IEC 61217, 0 up to 360. {_DICOM}"), ("recorded", _RECORDED))
    ),
    Column(
        "interruptions",
        pa.int32(),
        "",
        "How often the MU stood still for 2 s or more within a segment and then went on: interruption, gating and hold alike.",
    ),
    Column("interrupted_s", pa.float64(), "s", "How long these lasted together, to 1 s each."),
    Column("gaps", pa.int32(), "", "How often in the beam the counter does not follow the one before: messages are missing."),
    Column("missing_messages", pa.int32(), "", "How many these are at least; the counter only tells it modulo 256."),
    Column(
        "longest_silence_s", pa.float64(), "s", "Longest time between two messages by the linac's clock, which has whole seconds."
    ),
    Column("session_gaps", pa.int32(), "", "Gaps in the whole session as the recorder noted them (lost connections included)."),
    Column("messages", pa.int32(), "", "Messages of the beam."),
    Column(
        "incomplete_messages", pa.int32(), "", "Those of which no control point can be made; see `control_point` in the samples."
    ),
)
"""The columns of iCom/deliveries: a row per beam of a session."""

SAMPLES: tuple[Column, ...] = (
    Column("sha256", TEXT, "", "SHA-256 of the archived `.xz`, in hex: which session the row belongs to."),
    Column("row", pa.int32(), "", "Number of the message in its session, from 0."),
    Column("beam_number", pa.int32(), "", "The beam it belongs to. Null before the patient's first field."),
    Column(
        "timestamp_local", LOCAL_MS, "linac's clock", "Time in the message, whole seconds. About four messages have the same."
    ),
    Column("counter", pa.int32(), "", "Counter of the message, 0 to 255, one more each time."),
    Column("delivery_mu", pa.float64(), "MU", "Delivery MU. Starts again with each beam."),
    Column("backup_mu", pa.float64(), "MU", "Backup MU."),
    Column(
        "session_mu",
        pa.float64(),
        "MU",
        f"Sum of the positive steps of Delivery MU since the session's first message: `mu` of PyMedPhys's Delivery. {_PART}",
    ),
    Column(
        "control_point",
        pa.bool_(),
        "",
        "Whether the row is a control point of PyMedPhys's `Delivery.from_icom`: MU were delivered just before or after. Never "
        "in a message that lacks Delivery MU, an angle, one of 160 leaves or the Y jaws: no control point can be made of it.",
    ),
    Column("segment", pa.int32(), "", "Segment."),
    Column("segment_mu", pa.float64(), "MU", "Segment MU."),
    Column("total_mu", pa.float64(), "MU", "Total MU."),
    Column("beam_timer", pa.float64(), "", "Beam Timer. Its unit is not known."),
    Column("radiation_type", TEXT, "", "Radiation Type."),
    Column("energy", TEXT, "", "Energy, the linac's words."),
    Column("wedge", TEXT, "", "Wedge."),
    Column("gantry_iec_deg", pa.float64(), "deg", f"Gantry in IEC 61217, 0 up to 360. {_DICOM}"),
    Column("gantry_recorded_deg", pa.float64(), "deg", f"Gantry. {_RECORDED} PyMedPhys's Delivery has this."),
    Column("collimator_iec_deg", pa.float64(), "deg", f"Collimator in IEC 61217, 0 up to 360. {_DICOM}"),
    Column("collimator_recorded_deg", pa.float64(), "deg", f"Collimator. {_RECORDED} PyMedPhys's Delivery has this."),
    Column("table_column_recorded_deg", pa.float64(), "deg", "Table Column as recorded."),
    Column("table_isocentric_recorded_deg", pa.float64(), "deg", "Table Isocentric as recorded."),
    Column("table_vertical_recorded_cm", pa.float64(), "cm", "Table Vertical as recorded. The unit is assumed."),
    Column("table_longitudinal_recorded_cm", pa.float64(), "cm", "Table Longitudinal as recorded. The unit is assumed."),
    Column("table_lateral_recorded_cm", pa.float64(), "cm", "Table Lateral as recorded. The unit is assumed."),
    Column(
        "leaves_x1_iec_mm",
        BANK,
        "mm",
        f"Leaves of bank X1 in IEC 61217, leaf 1 first, as DICOM's MLCX has them. {_DICOM} {_PART}",
    ),
    Column("leaves_x2_iec_mm", BANK, "mm", "Leaves of bank X2, likewise."),
    Column("mlc_1_pymedphys_mm", BANK, "mm", f"`mlc[:, 0]` of PyMedPhys's Delivery: bank X2 from leaf 80 to leaf 1. {_PART}"),
    Column("mlc_2_pymedphys_mm", BANK, "mm", "`mlc[:, 1]`: bank X1 negated, from leaf 80 to leaf 1. Open is positive in both."),
    Column("jaw_y1_iec_mm", pa.float64(), "mm", f"Jaw Y1 in IEC 61217. {_DICOM} {_PART}"),
    Column("jaw_y2_iec_mm", pa.float64(), "mm", "Jaw Y2, likewise."),
    Column("jaw_1_pymedphys_mm", pa.float64(), "mm", f"`jaw[0]` of PyMedPhys's Delivery: Y2. {_PART}"),
    Column("jaw_2_pymedphys_mm", pa.float64(), "mm", "`jaw[1]`: Y1 negated. Open is positive in both."),
    Column(
        "asymx_1_recorded_cm",
        pa.float64(),
        "cm",
        "First value of ASYMX as recorded. Which jaw it is, and its sign, is not known.",
    ),
    Column("asymx_2_recorded_cm", pa.float64(), "cm", "Second value of ASYMX, likewise."),
    Column("interlocks", TEXTS, "", "Interlocks, the linac's words; an empty list if none is said."),
    Column("previous_interlocks", TEXTS, "", "Previous Interlocks, likewise."),
)
"""The columns of iCom/samples: a row per message."""


def _schema(kind: str, columns: tuple[Column, ...]) -> Any:
    fields = [pa.field(column.name, column.type, metadata={"unit": column.unit} if column.unit else None) for column in columns]
    return pa.schema(fields, metadata={KIND_KEY: kind.encode(), VERSION_KEY: str(VERSION).encode()})


DELIVERIES_SCHEMA = _schema("icom-deliveries", DELIVERIES)
SAMPLES_SCHEMA = _schema("icom-samples", SAMPLES)


def check_version(metadata: dict[bytes, bytes] | None, name: str) -> None:
    """Raises `SetupError` if newer software wrote the file with this metadata."""
    text = (metadata or {}).get(VERSION_KEY, b"")
    if text.isdigit() and int(text) > VERSION:
        raise SetupError(
            f"{name} was written by a newer version of this software (layout {text.decode()}; this one knows up to {VERSION}). "
            "Update this installation; nothing was changed."
        )


def as_markdown(columns: tuple[Column, ...]) -> str:
    """Columns as a table of docs/data-dictionary-icom.md."""
    text = schema.as_markdown(columns).replace(f"| {BANK} |", "| list of 80 double |")
    return text.replace(f"| {TEXTS} |", "| list of text |")


def read_stamp(stamp: str) -> datetime | None:
    """The time in an archived file's name (`YYYYMMDD_HHMMSS`; naive, the linac's local time), None if it is no such name."""
    if not re.fullmatch(r"[0-9]{8}_[0-9]{6}", stamp):
        return None
    try:
        return datetime.strptime(stamp, "%Y%m%d_%H%M%S")  # noqa: DTZ007 (a linac's messages have its local time)
    except ValueError:
        return None


def file_name(tree: str, serial: str, stamp: str, sha256: str) -> str:
    """The file of a session in `deliveries` or `samples`, below the records root. The month is that of the stamp: local time.

    Raises `SetupError` for a serial that cannot name a folder, or a stamp that is none.
    """
    time = read_stamp(stamp)
    if time is None:
        raise SetupError(
            f"Linac {serial}: {stamp!r} is not the name of an archived session. Give the archived file's name without .xz, such "
            "as 20260105_093000."
        )
    return f"iCom/{tree}/machine={check_serial(serial)}/month={time:%Y-%m}/{stamp}_{sha256[:SHORT_HASH]}.parquet"
