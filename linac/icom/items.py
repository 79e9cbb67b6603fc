"""The values that an iCom message carries, as a table: name, tag, kind of value, unit, and how we know.

An item is a DICOM tag (group, element), a VR (DICOM's two letters for a kind of value), a part (`P` prescribed, `S` set, `R` run,
that is actual) and a value in plain text. No public specification exists. Evidence, per row:

- `pymedphys`: the byte patterns of PyMedPhys 0.41 (`_icom/mappings.py`, `_icom/extract.py`), which clinics use daily.
- `private`: the same patterns, but they leave the group open: only its high byte is known to be one of 30, 00, 70, 50 (hex).

What stands in no row here is kept all the same: `Message.items` has every item of a message.
"""

from typing import NamedTuple

NO_VALUE = -32767
"""What the linac writes where it has no value. Evidence: PyMedPhys skips it."""

PRIVATE_HIGH_BYTES = b"0\x00pP"
"""High bytes that the groups of `private` rows can have. Evidence: PyMedPhys's pattern `[0\\x00pP]` before the element."""

GROUP_PRIVATE_SEEN = 0x3001
"""The one private group seen (for Segment, element 1007, in a notebook). The simulator uses it for all private rows."""


class Item(NamedTuple):
    """One item of a message as it stands there. Its repr leaves the value out: it may be a patient's."""

    group: int
    element: int
    vr: str
    part: str
    value: bytes

    @property
    def text(self) -> str:
        """The value as text: UTF-8, else Latin-1."""
        return decode(self.value)

    def __repr__(self) -> str:
        return f"Item(({self.group:04X},{self.element:04X}) {self.vr} {self.part}, {len(self.value)} bytes)"


class Value(NamedTuple):
    """One row of the table below. `group` is None where only its high byte is known (`PRIVATE_HIGH_BYTES`).

    `kind`: `text`, `number` (float), `whole` (int), or `texts` (a list: the item may repeat).
    """

    name: str
    group: int | None
    element: int
    vr: str
    part: str
    kind: str
    unit: str
    evidence: str


def head(group: int, element: int, vr: str, part: str) -> bytes:
    """The 8 bytes that an item begins with, before its length."""
    return group.to_bytes(2, "little") + element.to_bytes(2, "little") + vr.encode() + b"\x00" + part.encode()


VALUES = (
    Value("Patient ID", 0x0010, 0x0020, "LO", "P", "text", "", "pymedphys"),
    Value("Patient Name", 0x0010, 0x0010, "PN", "P", "text", "", "pymedphys"),
    Value("Machine ID", 0x300A, 0x00B2, "SH", "P", "text", "", "pymedphys"),
    Value("Radiation Type", 0x300A, 0x00C6, "CS", "R", "text", "", "pymedphys"),
    Value("Energy", 0x300A, 0x0114, "SH", "R", "text", "", "pymedphys"),
    Value("Wedge", 0x300A, 0x0118, "CS", "R", "text", "", "pymedphys"),
    Value("Gantry", 0x300A, 0x011E, "DS", "R", "number", "deg", "pymedphys"),
    Value("Collimator", 0x300A, 0x0120, "DS", "R", "number", "deg", "pymedphys"),
    Value("Table Column", 0x300A, 0x0122, "DS", "R", "number", "deg", "pymedphys"),
    Value("Table Isocentric", 0x300A, 0x0125, "DS", "R", "number", "deg", "pymedphys"),
    Value("Table Vertical", 0x300A, 0x0128, "DS", "R", "number", "cm (assumed)", "pymedphys"),
    Value("Table Longitudinal", 0x300A, 0x0129, "DS", "R", "number", "cm (assumed)", "pymedphys"),
    Value("Table Lateral", 0x300A, 0x012A, "DS", "R", "number", "cm (assumed)", "pymedphys"),
    Value("Delivery MU", 0x3008, 0x0032, "DS", "R", "number", "MU", "pymedphys"),
    Value("Backup MU", 0x3008, 0x0033, "DS", "R", "number", "MU", "pymedphys"),
    Value("Beam Timer", 0x3008, 0x0038, "SH", "R", "number", "not known", "pymedphys"),
    Value("Segment", None, 0x1007, "DS", "R", "whole", "", "private"),
    Value("Total MU", None, 0x1009, "DS", "R", "number", "MU", "private"),
    Value("Rx Site", None, 0x1001, "LO", "P", "text", "", "private"),
    Value("Field ID", None, 0x1003, "LO", "P", "text", "", "private"),
    Value("Segment MU", None, 0x000B, "DS", "R", "number", "MU", "private"),
    Value("Beam Description", None, 0x000C, "SH", "R", "text", "", "private"),
    Value("Interlocks", None, 0x1016, "LO", "R", "texts", "", "private"),
    Value("Previous Interlocks", None, 0x1018, "LO", "R", "texts", "", "private"),
)

BY_NAME = {value.name: value for value in VALUES}

SHAPE_TAG = (0x300A, 0x00B8)
"""Item whose value names a collimating device, `MLCX`, `ASYMX` or `ASYMY`; its positions follow (DS; pymedphys)."""

POSITION_TAG = (0x300A, 0x011C)
"""Item with one position of the device named before: 160 leaves or 2 jaws, in centimetres (DS; pymedphys)."""

LEAVES, JAWS_X, JAWS_Y = "MLCX", "ASYMX", "ASYMY"
LEAF_COUNT = 160

LINAC_STATES = {
    0: "unknown",
    1: "preparatory",
    2: "confirm settings",
    3: "ready to start",
    4: "segment start",
    5: "segment irradiate",
    6: "segment interrupt",
    7: "segment interrupted",
    8: "segment restart",
    9: "segment terminate",
    10: "segment pause",
    11: "field terminate",
    12: "terminate checking",
    13: "field terminated",
    14: "move only",
}
"""States as the vendor's DLL names them. Where they stand in a message is not known, so nothing here reads them."""


def decode(value: bytes) -> str:
    """A value's text: UTF-8 where it is valid UTF-8, else Latin-1 (which never fails)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
