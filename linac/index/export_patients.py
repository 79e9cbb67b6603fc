"""Whose delivery a TRF log is, by the iCom recordings of the same linac: the log itself does not say.

The rule: a beam in `iCom/deliveries` whose time, give or take 240 s, overlaps the log's, and which delivered the same MU to 1 %
or 1 MU. Both times are the linac's wall clock; its clocks differ by minutes (which is why PyMedPhys allows 240 s, too), and in
these minutes the next patient may have come. So the MU must agree as well, and where two patients fit, none is taken. What iCom
calls Field ID is not compared: how it relates to the log's label is not known from a real linac.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linac.errors import DamagedError
from linac.index import icom_schema
from linac.index.export_layout import Patient, to_patient
from linac.transport import Entry, Folder

MARGIN = timedelta(seconds=240)
"""How far the linac's clocks may differ: what PyMedPhys allows between a log and Mosaiq."""

MU_SHARE, MU_LEAST = 0.01, 1.0
"""How far the delivered MU may differ: so much of them, or so many."""

_COLUMNS = ["patient_id", "patient_name", "start_local", "end_local", "delivered_mu"]


@dataclass(frozen=True)
class Beam:
    """One recorded beam: whose, from when to when by the linac's wall clock, and its MU."""

    patient: Patient
    start: datetime
    end: datetime
    mu: float


def files(records: Folder, serial: str, month: str) -> list[tuple[str, Entry]]:
    """The iCom deliveries that logs of a month (`yyyy-mm`, UTC) may belong to: those of that month and its neighbours' edges."""
    found = []
    for near in _months(month):
        where = f"iCom/deliveries/machine={serial}/month={near}"
        found += [(f"{where}/{entry.name}", entry) for entry in records.list(f"{where}/*.parquet") if _near(entry.name, month)]
    return found


def _months(month: str) -> list[str]:
    first = datetime.strptime(month, "%Y-%m")  # noqa: DTZ007 (a month, no time)
    return [f"{day:%Y-%m}" for day in (first - timedelta(days=1), first, first + timedelta(days=31))]


def _near(name: str, month: str) -> bool:
    """Whether a session, by its file's name, began in the month or within two days of it (sessions may last a day)."""
    began = icom_schema.read_stamp(name[:15])
    if began is None:
        return False
    return any(f"{began + timedelta(days=days):%Y-%m}" == month for days in (-2, 0, 2))


def read(records: Folder, serial: str, month: str) -> tuple[list[Beam], int]:
    """The recorded beams that logs of a month may belong to, and how many files could not be read."""
    found: list[Beam] = []
    failed = 0
    for name, _ in files(records, serial, month):
        try:
            found += _beams(records.read(name), name)
        except DamagedError:
            failed += 1
    return found, failed


def _beams(data: bytes, name: str) -> Iterator[Beam]:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        icom_schema.check_version(file.metadata.metadata, name)
        rows = file.read(columns=_COLUMNS).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedError(f"{name} is damaged. Remove it: icom-capture makes it again from the archive.") from error
    for row in rows:
        if row["patient_id"] and all(row[column] is not None for column in ("start_local", "end_local", "delivered_mu")):
            patient = to_patient(row["patient_id"], row["patient_name"])
            yield Beam(patient, row["start_local"], row["end_local"], row["delivered_mu"])


def whose(beams: list[Beam], row: Mapping[str, Any]) -> Patient | None:
    """The patient of a log, given its row of the deliveries; None if nobody fits, or more than one.

    Of several spellings of one patient's name, it is that of the longest.
    """
    if not row["delivered_mu"]:
        return None
    start = row["start_local"]
    try:
        end = start + timedelta(seconds=row["duration_s"] or 0.0)
    except OverflowError:  # a row's clock says what cannot be
        return None
    allowed = max(MU_LEAST, MU_SHARE * row["delivered_mu"])
    fitting = {
        beam.patient
        for beam in beams
        if beam.start - MARGIN <= end and beam.end + MARGIN >= start and abs(beam.mu - row["delivered_mu"]) <= allowed
    }
    if len({patient.id for patient in fitting}) != 1:
        return None
    return max(fitting, key=lambda patient: len(f"{patient.last_name or ''}{patient.first_name or ''}"))
