"""A TRF as the CSV text that Elekta's own export writes: the two exports among the samples come out byte for byte."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from linac.trf.frame import TIME
from linac.trf.item_parts import Column, columns, label
from linac.trf.reader import ROW_SECONDS, Trf

BLOCK_ROWS = 1000
"""Rows turned into text at a time, so that a long log needs little memory."""


def csv_lines(trf: Trf) -> Iterator[str]:
    """The lines of the export, each with its line feed; to be written as UTF-8 without a byte order mark.

    Eight lines on the delivery, an empty one, the columns' names, the rows; every line from the names on ends with a comma.
    `Linac Scale` is not in a TRF: it is `Bipolar` in both exports, whose angles are as recorded, and is written so. Values
    are those of `Trf.to_pandas`. Versions 2 to 4 have the same lines: no export of one is known, and the timestamps are
    left to `Trf.table`.
    """
    header, found = trf.header, columns(trf.header.item_parts)
    leaves = sum("Leaf" in column.name and "/Scaled Actual" in column.name for column in found)
    yield f"Version = {header.version}\n"
    yield f"Linac Id = {_one_line(header.machine)}\n"
    yield f"Treatment Name = {_one_line(header.field)}\n"
    yield f"Total Dose = {_number(header.prescribed_mu)} MU\n"
    yield f"Number of Leaves  = {leaves}\n"
    yield f"UTC Time = {_one_line(header.start_text)}\n"
    yield f"UTC Offset = {_one_line(header.utc_offset_text)}\n"
    yield "Linac Scale = Bipolar\n"
    yield "\n"
    yield ",".join([TIME, *(column.name for column in found)]) + ",\n"
    for start in range(0, trf.rows, BLOCK_ROWS):
        block = trf.counts[start : start + BLOCK_ROWS]
        times = [_number(round(row * ROW_SECONDS, 2)) for row in range(start, start + len(block))]
        words = [_words(column, block[:, index]) for index, column in enumerate(found)]
        for row in zip(times, *words, strict=True):
            yield ",".join(row) + ",\n"


def _words(column: Column, counts: npt.NDArray[Any]) -> list[str]:
    """One column's cells. Few of the possible counts occur in it, so each is put into words once."""
    item = column.item
    numbers, where = np.unique(counts, return_inverse=True)
    words = []
    for number in numbers.tolist():
        if item.codes is not None:
            words.append(label(item.codes, number, elekta=True))
        else:
            count = number + (1 << 16) if item.unsigned and number < 0 else number
            words.append(_number(item.sign * count / item.export_divisor))
    return [words[place] for place in where.tolist()]


def _number(value: float) -> str:
    """A number as the export writes it: the shortest text, whole ones without a point, never `-0`."""
    return str(int(value)) if value == int(value) else repr(value)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
