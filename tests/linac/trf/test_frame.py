"""`to_pandas` is Elekta's own export, and PyMedPhys's table apart from its documented oddities."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from linac import trf
from linac.trf.item_parts import STANDARD


def exported(path: Path) -> pd.DataFrame:
    """An export as pandas reads it: eight lines on the delivery and an empty one, names, rows; all end with a comma."""
    table = pd.read_csv(path, skiprows=9, index_col=False)
    return table.drop(columns=[name for name in table if name.startswith("Unnamed")]).set_index("Time (s)")


def test_every_cell_of_elektas_exports_is_the_same(exports: list[tuple[Path, Path]]) -> None:
    for log, export in exports:
        ours, theirs = trf.read(log).to_pandas(), exported(export)
        assert ours.columns.tolist() == theirs.columns.tolist() == [item.name for item in STANDARD]
        assert ours.index.name == "Time (s)"
        assert ours.index.tolist() == theirs.index.tolist()
        for name in ours:
            assert ours[name].tolist() == theirs[name].tolist(), f"{export.name}: {name}"


def test_types_depend_on_the_column_alone(logs: list[Path]) -> None:
    for path in logs:
        frame = trf.read(path).to_pandas()
        texts = {"Linac State/Actual Value (None)", "Wedge Position/Actual Value (None)"}
        for item in STANDARD:
            if item.name in texts:
                assert frame[item.name].map(type).eq(str).all()
            else:
                assert frame[item.name].dtype == (np.float64 if item.export_divisor > 1 else np.int64), item.name


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_only_versions_2_to_4_have_a_utc_timestamp(make: Callable[..., bytes], version: int) -> None:
    frame = trf.read(make(version, rows=3)).to_pandas()
    assert frame.index.tolist() == [0, 0.04, 0.08]
    assert ("timestamp" in frame) == (version > 1)
    if version > 1:
        assert str(frame["timestamp"].dt.tz) == "UTC"
        assert frame["timestamp"].iloc[2].isoformat() == "2024-02-29T13:05:07.203000+00:00"


def test_oddities_of_the_export_are_kept(make: Callable[..., bytes]) -> None:
    where = {item.column: index for index, item in enumerate(STANDARD)}

    def change(counts: np.ndarray) -> None:
        counts[:, where["table_isocentric_deg"]] = -30
        counts[:, where["raw_dose_mu"]] = -2
        counts[:, where["y2_leaf_7_mm"]] = 0
        counts[:, where["control_point"]] = counts[:, where["gantry_deg"]] = -32767
        counts[:, where["linac_state"]] = 43

    row = trf.read(make(1, rows=2, change=change)).to_pandas().iloc[1]
    assert row["Table Isocentric/Scaled Actual (deg)"] == -30  # tenths: the other angles would say -3
    assert row["Dose/Raw value (1/64th Mu)"] == 65534  # unsigned, so it wraps at 1024 MU
    assert str(row["Y2 Leaf 7/Scaled Actual (mm)"]) == "0.0"  # sign changed, but no -0
    assert row["Control point/Actual Value (None)"] == -32767  # "no value", as the export shows it
    assert row["Step Gantry/Scaled Actual (deg)"] == -3276.7
    assert row["Linac State/Actual Value (None)"] == "Interupted"


def test_equal_to_pymedphys_apart_from_its_oddities(logs: list[Path]) -> None:
    """PyMedPhys 0.41 differs in three things.

    1. It shows the four 16-bit parts of a row's timestamp as `unknown1` to `unknown4`; together they are ours.
    2. It divides Table Isocentric by 10, then by 0.1, and cuts the decimals off: of -30 it makes -30, of 3 it makes 2.
       We show what is recorded, as Elekta's export does.
    3. Its Y2 leaves show -0.0 where we show 0.0; the two are equal.
    """
    pymedphys = pytest.importorskip("pymedphys", reason="PyMedPhys is not installed (it is test-only)")
    with_timestamps = 0
    for path in logs:
        log = trf.read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header, theirs = pymedphys.trf.read(path)
        ours = log.to_pandas()
        unknown = [name for name in theirs if name.startswith("unknown")]
        if log.timestamp_ms is not None:
            with_timestamps += 1
            assert unknown == ["unknown1", "unknown2", "unknown3", "unknown4"]
            together = sum(theirs[name].astype(np.int64) * (1 << 16 * place) for place, name in enumerate(unknown))
            assert together.tolist() == log.timestamp_ms.tolist()
            ours = ours.drop(columns="timestamp")
        theirs = theirs.drop(columns=unknown)
        assert ours.columns.tolist() == theirs.columns.tolist()
        assert ours.index.tolist() == theirs.index.tolist()
        isocentric = "Table Isocentric/Scaled Actual (deg)"
        assert theirs[isocentric].tolist() == (ours[isocentric] / 10 / 0.1).astype(int).tolist()
        for name in ours.columns.drop(isocentric):
            assert ours[name].tolist() == theirs[name].tolist(), f"{path.name}: {name}"
        said = header.iloc[0]
        assert log.header.machine == said["machine"]
        assert (log.header.field_label, log.header.field_name) == (said["field_label"], said["field_name"])
        assert log.header.prescribed_mu * 10 == said["mu"]  # PyMedPhys leaves it in tenths
        assert log.header.start_text == said["date"]
    assert with_timestamps == 2
