"""A TRF as Elekta's own CSV export shows it, as a pandas DataFrame."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from linac.trf.item_parts import Column, columns, label
from linac.trf.reader import ROW_SECONDS, Trf

if TYPE_CHECKING:
    import pandas as pd

TIME = "Time (s)"
"""Name of the export's first column, and of the frame's index: row x 0.04 s, in every version."""

TIMESTAMP = "timestamp"
"""Name of the column of recorded UTC times in versions 2 to 4. No export has it."""


def make_frame(trf: Trf) -> "pd.DataFrame":
    """The columns and values of Elekta's export: every cell of the two exports among the samples is the same.

    So it keeps what one might call mistakes there: tables' translations labelled `(deg)`; `Table Isocentric/Scaled Actual` in
    tenths of a degree (-30 for -3 degrees); the raw dose in 1/64 MU, wrapping at 65536; "no value" as -32767, or -3276.7
    where a column is in tenths; `Interupted`. `Trf.table` has none of these. Columns in tenths are float64, the others int64,
    linac state and wedge position text; a code that no table has is `Unknown (48)`, an item part `Unknown 3001/...`, in
    counts. The index is the row's time in seconds, rounded to 0.01. Versions 2 to 4 have a last column `timestamp`, UTC.
    """
    import pandas as pd

    data: dict[str, Any] = {
        column.name: _values(column, trf.counts[:, index]) for index, column in enumerate(columns(trf.header.item_parts))
    }
    if trf.timestamp_ms is not None:
        data[TIMESTAMP] = pd.DatetimeIndex(trf.timestamp_ms.astype("datetime64[ms]")).tz_localize("UTC")
    time = np.round(np.arange(trf.rows) * ROW_SECONDS, 2)
    return pd.DataFrame(data, index=pd.Index(time, name=TIME))


def _values(column: Column, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    item = column.item
    if item.codes is not None:
        numbers, where = np.unique(counts, return_inverse=True)
        words = np.array([label(item.codes, int(number), elekta=True) for number in numbers], dtype=object)
        return words[where]
    wide = counts.astype(np.int64)
    if item.unsigned:
        wide[wide < 0] += 1 << 16
    if item.sign < 0:
        wide = -wide
    return wide / item.export_divisor if item.export_divisor > 1 else wide
