"""Logs made to measure, and how somebody without our code sees the files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from linac.index import Index, Log
from linac.transport import Folder, connect
from linac.trf.item_parts import STANDARD_PARTS, UNITY_PARTS
from linac.trf.writer import encode

START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def _make_log(number: int = 0, *, rows: int = 12, start: datetime | None = None, version: int = 1, **header: Any) -> bytes:
    """A TRF whose counts nobody else has: `number` seeds them."""
    parts = header.pop("item_parts", UNITY_PARTS if version == 4 else STANDARD_PARTS)
    start = start or START + timedelta(minutes=number)
    random = np.random.default_rng(number)
    counts = random.integers(-40, 40, (rows, len(parts))) + np.arange(len(parts)) % 7
    where = {tuple(part): index for index, part in enumerate(parts)}
    if (2543, 111) in where:
        counts[:, where[2543, 111]] = 42
    if (2541, 111) in where:
        counts[:, where[2541, 111]] = 2
    stamps = None if version == 1 else int(start.timestamp() * 1000) + 40 * np.arange(rows)
    return encode(
        counts,
        stamps,
        start=start,
        **{"utc_offset": "+01:00", "field": f"{number}-1/Beam {number}", "machine": "4299", "prescribed_mu": 100.0, **header},
        version=version,
        item_parts=parts,
    )


@pytest.fixture(scope="session")
def make_log() -> Callable[..., bytes]:
    return _make_log


@pytest.fixture(scope="session")
def logs(make_log: Callable[..., bytes]) -> list[Log]:
    """Ten logs: two months, three versions, one without rows."""
    made = [Log(f"log {n}.trf", make_log(n, rows=5 + n), "SDD+1.zip") for n in range(4)]
    made += [Log(f"log {n}.trf", make_log(n, rows=9, start=datetime(2026, 2, 3, n, tzinfo=UTC)), "SDD+2.zip") for n in (4, 5, 6)]
    made += [
        Log("log 7.trf", make_log(7, version=3)),
        Log("log 8.trf", make_log(8, version=4)),
        Log("log 9.trf", make_log(9, rows=0)),
    ]
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with connect(tmp_path / "records").make_root() as opened:
        yield opened


@pytest.fixture
def index(folder: Folder) -> Index:
    return Index(folder, stale_seconds=0.4, wait_seconds=30)


@dataclass
class Plain:
    """What somebody without our code finds below a records root, by pandas and by DuckDB."""

    deliveries: dict[str, int]  # hash: rows, as the index says
    samples: dict[str, int]  # hash: rows, counted
    twice: list[str]  # hashes that stand in either tree more than once


def _look(root: Path, *, ducks_too: bool = True) -> Plain:
    def tree(name: str) -> Path:
        return root / "TRF" / name

    deliveries: dict[str, int] = {}
    samples: dict[str, int] = {}
    twice: list[str] = []
    if any(tree("deliveries").rglob("*.parquet")):
        frame = pd.read_parquet(tree("deliveries"), columns=["sha256", "rows"])
        deliveries = dict(zip(frame["sha256"], frame["rows"], strict=True))
        twice += frame["sha256"][frame["sha256"].duplicated()].tolist()
        if ducks_too:
            ducks = duckdb.sql(f"SELECT sha256, rows FROM read_parquet('{tree('deliveries')}/**/*.parquet')").fetchall()
            assert sorted(ducks) == sorted(zip(frame["sha256"], frame["rows"], strict=True))
    if any(tree("samples").rglob("*.parquet")):
        frame = pd.read_parquet(tree("samples"), columns=["sha256", "row"])
        counted = frame.groupby("sha256", observed=True)["row"]
        samples = counted.size().to_dict()
        twice += [sha256 for sha256, rows in counted if sorted(rows) != list(range(len(rows)))]
        if ducks_too:
            ducks = duckdb.sql(
                f"SELECT sha256, count(*) FROM read_parquet('{tree('samples')}/**/*.parquet') GROUP BY 1"
            ).fetchall()
            assert dict(ducks) == samples
    return Plain(deliveries, samples, twice)


@pytest.fixture(scope="session")
def look() -> Callable[..., Plain]:
    return _look
