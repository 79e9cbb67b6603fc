"""A TRF in physical units, as an Arrow table."""

import numpy as np
import pyarrow as pa

from linac.trf.item_parts import NO_VALUE, columns, label
from linac.trf.reader import Trf


def make_table(trf: Trf) -> pa.Table:
    arrays = [pa.array(trf.utc_ms, pa.timestamp("ms", "UTC"))]
    names = ["timestamp"]
    for index, column in enumerate(columns(trf.header.item_parts)):
        counts = np.ascontiguousarray(trf.counts[:, index])
        item = column.item
        mask = counts == NO_VALUE if item.has_no_value_marker else None
        if item.codes is not None:
            arrays.append(pa.array([None if n == NO_VALUE else label(item.codes, int(n)) for n in counts], pa.string()))
        elif item.divisor == 1:
            arrays.append(pa.array(counts, mask=mask))
        else:
            arrays.append(pa.array(item.to_physical(counts).astype(np.float32), mask=mask))
        names.append(column.column)
    return pa.table(arrays, names=names)
