"""Logs for the TRF tests: the real ones, and made ones of every version."""

import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linac.trf.item_parts import STANDARD_PARTS, UNITY_PARTS
from linac.trf.writer import encode

START = datetime(2024, 2, 29, 13, 5, 7, tzinfo=UTC)


@pytest.fixture(scope="session")
def logs(samples: Path) -> list[Path]:
    """The real TRF files."""
    found = sorted(samples.glob("*.trf"))
    assert found, f"no .trf file in {samples}"
    return found


@pytest.fixture(scope="session")
def exports(samples: Path) -> list[tuple[Path, Path]]:
    """Real TRF files for which Elekta's own CSV export is there: (log, export)."""
    found = [(path.with_suffix(".trf"), path) for path in sorted(samples.glob("*.csv"))]
    assert found, f"no .csv file in {samples}"
    return found


@pytest.fixture
def make() -> Callable[..., bytes]:
    """Make a TRF of any version with plausible counts; what is given goes to `encode`, `change(counts)` edits the counts."""

    def made(version: int = 1, rows: int = 50, change: Callable[[Any], None] | None = None, **header: Any) -> bytes:
        parts = header.pop("item_parts", UNITY_PARTS if version == 4 else STANDARD_PARTS)
        random = np.random.default_rng(version)
        counts = random.integers(-1500, 1500, (rows, len(parts)), dtype=np.int32)
        where = {tuple(part): index for index, part in enumerate(parts)}
        for part, values in {
            (2543, 111): np.where(np.arange(rows) < rows // 4, 41, 42),
            (2541, 111): 2,
            (2542, 111): 400,
            (2238, 111): np.arange(rows) * 3 % 30_000,
        }.items():
            if part in where:
                counts[:, where[part]] = values
        if change:
            change(counts)
        stamps = None if version == 1 else 1_709_211_907_123 + np.arange(rows) * 40
        return encode(
            counts, stamps, version=version, item_parts=parts, **{"start": START, "machine": "2694", "field": "1-1/AP"} | header
        )

    return made


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Run something, and say how much memory it took at its peak above the start (Python's and numpy's; not Arrow's own)."""

    def measured(function: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            function()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measured
