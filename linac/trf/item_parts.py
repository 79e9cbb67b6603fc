"""What the columns of a TRF are: a row per item part, with its names, unit, scale and sign, and how we know.

A TRF's header lists its columns as pairs (item part, sub-part); rows hold whole counts. No public specification says what they
mean. The names are those of Elekta's own CSV export of two sample logs (2017, version 1), whose 350 columns stand in the same
order as the pairs; scales and signs were found by comparing every cell of those exports with the counts, and agree with
PyMedPhys 0.41. Columns that no export confirms say so in `evidence`. What is not in the table is kept with its number and
called unknown: `find` never fails.

>>> find(2224, 129).name, find(2224, 129).column
('Step Gantry/Scaled Actual (deg)', 'gantry_deg')
>>> find(3001, 129).name, find(3001, 129).column
('Unknown 3001/Scaled Actual (Unknown)', 'unknown_3001_129')
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NO_VALUE = -32767
"""The count that stands for "no value". Seen for the control point before a segment is loaded (sample 17_04_19 21_18_39);
Elekta's export prints it as it is. iCom uses the same marker."""

SUB_PARTS = {
    100: "Set",
    101: "Raw value",
    111: "Actual Value",
    129: "Scaled Actual",
    220: "Positional Error",
    227: "Actual Tolerance",
}
"""Sub-part numbers and their names in Elekta's export (the small v of `Raw value` is Elekta's)."""


class Part(NamedTuple):
    """One column of a TRF as its header names it: two signed 16-bit numbers."""

    part: int
    subpart: int


class Code(NamedTuple):
    """One value of a coded column: what we call it, and the spelling of Elekta's export."""

    name: str
    elekta: str
    evidence: str


_IN_EXPORT = "Elekta's export of the sample logs"
_PYMEDPHYS = "PyMedPhys 0.41, made from three months of Elekta's exports; in no sample here"

LINAC_STATES = {
    16: Code("Closed", "Closed", _PYMEDPHYS),
    34: Code("State Code Unknown", "State Code Unknown", _PYMEDPHYS),
    39: Code("Move Only", "Move Only", _PYMEDPHYS),
    40: Code("Pause", "Pause", _PYMEDPHYS),
    41: Code("Intersegment", "Intersegment", _IN_EXPORT),
    42: Code("Radiation On", "Radiation On", _IN_EXPORT),
    43: Code("Interrupted", "Interupted", _PYMEDPHYS),
    44: Code("Interrupted Ready", "Interupted Ready", _PYMEDPHYS),
    45: Code("Terminated Checking", "Terminated Checking", _IN_EXPORT),
    46: Code("Terminated Ok", "Terminated Ok", _IN_EXPORT),
    47: Code("Terminated Fault", "Terminated Fault", _PYMEDPHYS),
}
"""Linac states by number. The export spells `Interupted` with one r."""

WEDGE_POSITIONS = {
    0: Code("Moving", "Moving", _PYMEDPHYS),
    1: Code("In", "In", _PYMEDPHYS),
    2: Code("Out", "Out", _IN_EXPORT),
}
"""Positions of the motorised wedge by number."""

RADIATION_ON = 42
"""The linac state in which the beam is on."""

INTERRUPTED = frozenset({43, 44})
"""The linac states of an interrupted delivery: stopped, and ready to go on."""

TERMINATED = frozenset({45, 46, 47})
"""The linac states after a delivery: being checked, ended well, ended by a fault."""


@dataclass(frozen=True, slots=True)
class ItemPart:
    """One kind of column: what it is called, and how its counts become physical values.

    A physical value is `sign * count / divisor`, in `unit`. `codes` is given where counts stand for words, and `unsigned`
    where a negative count means 65536 more. `export_divisor` is what Elekta's CSV export divides by, which differs from
    `divisor` in two columns; `name` with its unit is the column's name there. `column` is our own name for it.
    """

    part: int
    subpart: int
    name: str
    column: str
    unit: str
    divisor: int = 1
    sign: int = 1
    export_divisor: int = 1
    unsigned: bool = False
    codes: dict[int, Code] | None = None
    known: bool = True
    evidence: str = _IN_EXPORT

    @property
    def has_no_value_marker(self) -> bool:
        """Whether -32767 means "no value" here. Not where all 65536 counts are readings."""
        return not self.unsigned

    def to_physical(self, counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Counts as physical values in `unit`, "no value" as NaN.

        >>> find(2380, 129).to_physical([-1093, 0, -32767])
        array([109.3,   0. ,   nan])
        """
        values = np.asarray(counts).astype(np.float64)
        if self.unsigned:
            values[values < 0] += 1 << 16
        if self.has_no_value_marker:
            values[values == NO_VALUE] = np.nan
        return (values if self.sign > 0 else 0.0 - values) / self.divisor

    def to_counts(self, values: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Physical values as counts, to the nearest; NaN as "no value". What is unsigned wraps at 65536, as on the linac.

        >>> find(2380, 129).to_counts([109.3, float("nan")])
        array([ -1093, -32767], dtype=int32)
        """
        counts = np.rint(np.asarray(values, np.float64) * (self.sign * self.divisor))
        if self.unsigned:
            counts = (counts + (1 << 15)) % (1 << 16) - (1 << 15)
        return np.where(np.isnan(counts), NO_VALUE, counts).astype(np.int32)


def label(codes: dict[int, Code], number: int, *, elekta: bool = False) -> str:
    """The word for a coded value; a number that no table has is kept and called unknown.

    >>> label(LINAC_STATES, 43), label(LINAC_STATES, 43, elekta=True), label(LINAC_STATES, 48)
    ('Interrupted', 'Interupted', 'Unknown (48)')
    """
    code = codes.get(number)
    if code is None:
        return f"Unknown ({number})"
    return code.elekta if elekta else code.name


# What stands for itself: part, sub-part, item, unit in the export, our column, our unit, and what differs from the defaults.
# Raw dose: the export calls the unit 1/64 MU; the ratio to step dose in the samples (14556/64 = 227.4) confirms it.
_SINGLE = (
    ItemPart(2240, 111, "Control point/Actual Value (None)", "control_point", ""),
    ItemPart(2177, 100, "Energy Cal Block/Set (None)", "energy_cal_block", ""),
    ItemPart(2543, 111, "Linac State/Actual Value (None)", "linac_state", "", codes=LINAC_STATES),
    ItemPart(2542, 111, "Actual Dose Rate/Actual Value (Mu/min)", "dose_rate_mu_per_min", "MU/min"),
    ItemPart(2238, 111, "Step Dose/Actual Value (Mu)", "step_dose_mu", "MU", divisor=10, export_divisor=10),
    ItemPart(2162, 101, "Dose/Raw value (1/64th Mu)", "raw_dose_mu", "MU", divisor=64, unsigned=True),
    ItemPart(2200, 111, "PRF Pauses/Actual Value (None)", "prf_pauses", ""),
    ItemPart(2541, 111, "Wedge Position/Actual Value (None)", "wedge_position", "", codes=WEDGE_POSITIONS),
)

_TENTHS_OF_MM_BY_RANGE = (
    "Elekta's export, which labels it deg; taken as mm: a translation, and 650.3 (sample 17_04_24 02_23_05) is too far for cm"
)

# Item, its words in the export, our column's stem, its unit in the export, our unit.
_AXES = (
    (2224, "Step Gantry", "gantry", "deg", "deg"),
    (2225, "Step Collimator", "collimator", "deg", "deg"),
    (2226, "Table Isocentric", "table_isocentric", "deg", "deg"),
    (2227, "Table Longitudinal", "table_longitudinal", "deg", "mm"),
    (2228, "Table Lateral", "table_lateral", "deg", "mm"),
    (2229, "Table Height", "table_height", "deg", "mm"),
)

_ISOCENTRIC = "Elekta's export leaves this one column in tenths: -30 where the others would say -3 (sample 17_04_19 21_59_24)"


def _position(part: int, item: str, stem: str, shown: str, unit: str, sign: int = 1) -> tuple[ItemPart, ItemPart]:
    """An axis: where it is, and its positional error, both recorded in tenths.

    Only Y2 leaf positions change sign on export, their errors do not: so every cell of the two exports says.
    """
    oddity = part == 2226
    evidence = _ISOCENTRIC if oddity else _TENTHS_OF_MM_BY_RANGE if shown != unit else _IN_EXPORT
    return (
        ItemPart(
            part, 129, f"{item}/Scaled Actual ({shown})", f"{stem}_{unit}", unit, 10, sign, 1 if oddity else 10, evidence=evidence
        ),
        ItemPart(part, 220, f"{item}/Positional Error ({shown})", f"{stem}_error_{unit}", unit, 10, 1, 10),
    )


def _rows() -> tuple[ItemPart, ...]:
    """All known item parts, in the order of every sample's header (16 files of two firmware families, all 350 alike)."""
    axes = [item for axis in _AXES for item in _position(*axis)]
    x1, x1_error = _position(2060, "X1 Diaphragm", "x1_diaphragm", "mm", "mm")
    x2, x2_error = _position(2061, "X2 Diaphragm", "x2_diaphragm", "mm", "mm")
    dlg_y2, dlg_y2_error = _position(2064, "Dlg Y2", "dlg_y2", "mm", "mm")
    dlg_y1, dlg_y1_error = _position(2065, "Dlg Y1", "dlg_y1", "mm", "mm")
    # 2420 and 2500 are leaf 41 by the leaves' own numbering; the export calls their tolerance "Leaf 40". Its name is kept.
    tolerances = [
        ItemPart(part, 227, f"{bank} Leaf 40/Actual Tolerance (mm)", f"{bank.lower()}_leaf_40_tolerance_mm", "mm", 10, 1, 10)
        for part, bank in ((2420, "Y2"), (2500, "Y1"))
    ]
    leaves = [
        _position(first + leaf, f"{bank} Leaf {leaf}", f"{bank.lower()}_leaf_{leaf}", "mm", "mm", sign)
        for first, bank, sign in ((2379, "Y2", -1), (2459, "Y1", 1))
        for leaf in range(1, 81)
    ]
    return (
        *_SINGLE,
        *axes,
        *(x1, x2, x1_error, x2_error),
        *(dlg_y2, dlg_y1, dlg_y2_error, dlg_y1_error),
        *tolerances,
        *(position for position, _ in leaves),
        *(error for _, error in leaves),
    )


STANDARD = _rows()
"""The 350 item parts of an Agility head, in the order of every sample."""

MLC_STATUS = ItemPart(
    2170, 111, "Mlc Status/Actual Value (None)", "mlc_status", "", evidence="PyMedPhys 0.41 (Unity, version 4); in no sample here"
)
"""Unity logs (version 4) have this after the 350 others, says PyMedPhys; no sample here."""

STANDARD_PARTS = tuple(Part(item.part, item.subpart) for item in STANDARD)
"""The pairs that a header of versions 1 to 3 lists."""

UNITY_PARTS = (*STANDARD_PARTS, Part(MLC_STATUS.part, MLC_STATUS.subpart))
"""The pairs that a header of version 4 lists (inferred: see `MLC_STATUS`)."""

_KNOWN = {(item.part, item.subpart): item for item in (*STANDARD, MLC_STATUS)}
_ITEM_NAMES = {item.part: item.name.partition("/")[0] for item in (*STANDARD, MLC_STATUS) if item.subpart != 227}


def find(part: int, subpart: int) -> ItemPart:
    """The row of the table for one column. What the table does not have is called unknown and stays in counts."""
    known = _KNOWN.get((part, subpart))
    if known is not None:
        return known
    item = _ITEM_NAMES.get(part, f"Unknown {part}")
    return ItemPart(
        part,
        subpart,
        f"{item}/{SUB_PARTS.get(subpart, f'Unknown {subpart}')} (Unknown)",
        f"unknown_{part}_{subpart}".replace("-", "minus"),
        "",
        known=False,
        evidence="unknown: kept as recorded",
    )


class Column(NamedTuple):
    """One column of one file: which item part, and its names, made unique where a header lists a pair twice."""

    item: ItemPart
    name: str
    column: str


@functools.lru_cache(maxsize=64)
def columns(parts: tuple[Part, ...]) -> tuple[Column, ...]:
    """The columns that a header's pairs stand for, in order. The second of a repeated pair gets ` #2`, and so on.

    >>> [column.column for column in columns((Part(2224, 129), Part(2224, 129)))]
    ['gantry_deg', 'gantry_deg_2']
    """
    seen: dict[str, int] = {}
    found = []
    for part in parts:
        item = find(*part)
        count = seen[item.column] = seen.get(item.column, 0) + 1
        found.append(Column(item, item.name, item.column) if count == 1 else _again(item, count))
    return tuple(found)


def _again(item: ItemPart, count: int) -> Column:
    return Column(item, f"{item.name} #{count}", f"{item.column}_{count}")
