"""PyMedPhys's tree of TRF files and the entries of its `index.json`: names and values, no files.

>>> folder_of("nbcc", Patient("TEST-1", "Müller", "Anna"), "2-2", "DIR SCALP", datetime(2017, 4, 20, 7, 59, 24), "2694")
'nbcc/TEST-1_Mller_Anna/clinical/None_2-2_DIR-SCALP_Unspecified/2017-04-20_075924_2694'

Evidence for all of it: PyMedPhys 0.41, `_trf/manage/index.py`, `_mosaiq/delivery.py`, `_utilities/filesystem.py`. What only
Mosaiq knows is null in the entries, and so reads `None` in a folder's name, as PyMedPhys's own code writes a null.
"""

import re
import string
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

INDEX = "index.json"
INDEXED = "indexed"
NO_PATIENT = "no_mosaiq_record_found"
NO_LABEL = "no_field_label_in_logfile"
UNREADABLE = "unknown_error_in_logfile"
"""Below the export: PyMedPhys's index, its tree, and its folders for what it could not put there."""

UNSPECIFIED = "Unspecified"
"""Mosaiq's word for a field without a type (`constants.FIELD_TYPES[0]`)."""

MAX_PART = 100
"""Letters of one folder's name. PyMedPhys knows no limit; Windows takes 260 for the whole path."""

_VALID = frozenset(f"-_.() {string.ascii_letters}{string.digits}")


class Patient(NamedTuple):
    """Whose delivery a log is: ID, last and first name; None where it is not known. Its repr shows nothing of them."""

    id: str
    last_name: str | None
    first_name: str | None

    def __repr__(self) -> str:
        return "Patient(...)"


def to_patient(patient_id: str, name: str | None) -> Patient:
    """A patient by ID and name in DICOM's form, `Last^First`."""
    last, _, rest = (name or "").partition("^")
    return Patient(patient_id, last or None, rest.partition("^")[0] or None)


def valid_name(text: str) -> str:
    """A folder's name as PyMedPhys makes it: other letters are dropped, umlauts too, and blanks become `-`.

    It may not end in a dot (Windows drops that, and others then do not find it) and is cut where it is too long.
    """
    return "".join(letter for letter in text if letter in _VALID).replace(" ", "-")[:MAX_PART].rstrip(".")


def folder_of(site: str, patient: Patient, label: str, name: str, start_local: datetime, machine: str) -> str:
    """The folder of one log, below `indexed`, with `/` between its parts."""
    parts = (
        f"{patient.id}_{patient.last_name}_{patient.first_name}",
        "clinical",
        f"{None}_{label}_{name}_{UNSPECIFIED}",
        f"{start_local:%Y-%m-%d_%H%M%S}_{machine}",
    )
    return "/".join([site, *(valid_name(part) for part in parts)])


def entry_of(row: Mapping[str, Any], patient: Patient, file: str) -> dict[str, Any]:
    """A log's entry in `index.json`. `row` is its row of the deliveries, `file` where it lies below `indexed`.

    PyMedPhys 0.41 would put the whole list of item parts into the header as well, and fails over it: a numpy array is no JSON.
    """
    return {
        "filepath": file,
        "delivery_details": {
            "patient_id": patient.id,
            "field_id": None,
            "last_name": patient.last_name,
            "first_name": patient.first_name,
            "qa_mode": None,
            "field_type": UNSPECIFIED,
            "beam_completed": None,
        },
        "logfile_header": {
            "machine": row["header_machine"],
            "date": f"{row['start_utc']:%y/%m/%d %H:%M:%S} Z",
            "timezone": _offset(row["utc_offset_minutes"]),
            "field_label": row["field_label"],
            "field_name": row["field_name"],
            "mu": round(row["prescribed_mu"] * 10, 6),  # PyMedPhys keeps the header's tenths
            "version": row["version"],
            "item_parts_number": row["item_parts"],
            "item_parts_length": row["item_parts"] * 2,
        },
        "local_time": f"{row['start_local']:%Y-%m-%d %H:%M:%S}",
    }


def _offset(minutes: int) -> str:
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def is_site(text: str) -> bool:
    """Whether a site can be called so: it names a folder."""
    return valid_name(text) == text != "" and not re.fullmatch(r"\.*|(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", text)
