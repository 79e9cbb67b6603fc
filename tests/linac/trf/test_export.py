"""The CSV text is Elekta's own, byte for byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from linac import trf
from linac.trf.export import BLOCK_ROWS, csv_lines


def test_elektas_exports_byte_for_byte(exports: list[tuple[Path, Path]]) -> None:
    for log, export in exports:
        assert "".join(csv_lines(trf.read(log))).encode() == export.read_bytes(), export.name


def test_it_reads_back_as_the_frame(make: Callable[..., bytes], tmp_path: Path) -> None:
    """Whatever the log holds, across blocks: unknown columns and codes, no value, long times."""

    def change(counts: np.ndarray) -> None:
        counts[:, 0] = -32767
        counts[:, 2] = 48
        counts[:, 5] = -1

    for version in (1, 3):
        log = trf.read(make(version, rows=BLOCK_ROWS + 3, change=change, field="1-1/Prüf, \nkörper"))
        path = tmp_path / "a.csv"
        path.write_text("".join(csv_lines(log)), encoding="utf-8")
        back = pd.read_csv(path, skiprows=9, index_col=False).iloc[:, :-1].set_index("Time (s)")
        frame = log.to_pandas().drop(columns="timestamp", errors="ignore")
        pd.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)


def test_the_lines_above_the_table(make: Callable[..., bytes]) -> None:
    data = make(4, field="1-1/Prüf\nkörper", start="24-02-29 13:05:07 Z", utc_offset="-03:30", prescribed_mu=100.25)
    assert "".join(csv_lines(trf.read(data))).splitlines()[:10] == [
        "Version = 4",
        "Linac Id = 2694",
        "Treatment Name = 1-1/Prüf körper",
        "Total Dose = 100.25 MU",
        "Number of Leaves  = 160",
        "UTC Time = 24-02-29 13:05:07 Z",
        "UTC Offset = -03:30",
        "Linac Scale = Bipolar",
        "",
        "Time (s)," + ",".join(trf.read(data).to_pandas().columns.drop("timestamp")) + ",",
    ]
