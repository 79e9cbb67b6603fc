"""Two runs at once, and runs that are killed: each log is in the index once in the end."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from linac.index import Index, Log
from linac.transport import connect

PROGRAM = """
import sys
from pathlib import Path
from linac.index import Index, Log
from linac.transport import connect

root, names, stale = Path(sys.argv[1]), sys.argv[2].split(), float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with connect(root / "records").make_root() as folder:
    index = Index(folder, batch_bytes=60_000, stale_seconds=stale, wait_seconds=60)
    added = index.add("4299", (Log(name, (root / name).read_bytes(), "SDD+1.zip") for name in names))
print(added.indexed, added.duplicates, flush=True)
"""


def start(root: Path, numbers: range, stale: float = 5.0) -> "subprocess.Popen[str]":
    names = " ".join(f"{number}.trf" for number in numbers)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), names, str(stale)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def write_logs(root: Path, make_log: Callable[..., bytes], numbers: range) -> set[str]:
    found = set()
    for number in numbers:
        data = make_log(number, rows=10)
        (root / f"{number}.trf").write_bytes(data)
        found.add(hashlib.sha256(data).hexdigest())
    return found


def test_three_runs_at_once_index_each_log_once(tmp_path: Path, make_log: Callable[..., bytes], look: Callable[..., Any]) -> None:
    hashes = write_logs(tmp_path, make_log, range(40))
    runs = [start(tmp_path, numbers) for numbers in (range(30), range(29, -1, -1), range(10, 40))]
    for run in runs:
        go(run)
    counts = [run.communicate(timeout=60)[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sum(int(indexed) for indexed, _ in counts) == 40
    assert sum(int(duplicates) for _, duplicates in counts) == 50
    seen = look(tmp_path / "records")
    assert not seen.twice
    assert set(seen.deliveries) == set(seen.samples) == hashes
    with connect(tmp_path / "records") as folder:
        assert Index(folder).verify(values=True).problems == []


def test_runs_killed_at_any_time_leave_nothing_twice_and_nothing_out(
    tmp_path: Path, make_log: Callable[..., bytes], look: Callable[..., Any]
) -> None:
    hashes = write_logs(tmp_path, make_log, range(60))
    for attempt in range(4):
        run = start(tmp_path, range(60), stale=0.3)
        go(run)
        time.sleep(0.05 + 0.17 * attempt)
        run.kill()
        run.communicate(timeout=60)
        assert not look(tmp_path / "records").twice
    with connect(tmp_path / "records") as folder:
        index = Index(folder, stale_seconds=0.3, wait_seconds=60)
        index.add("4299", [Log(f"{number}.trf", (tmp_path / f"{number}.trf").read_bytes()) for number in range(60)])
        seen = look(tmp_path / "records")
        assert not seen.twice
        assert set(seen.deliveries) == set(seen.samples) == hashes
        assert index.verify(values=True).problems == []


def test_readers_are_undisturbed_while_files_grow(tmp_path: Path, make_log: Callable[..., bytes]) -> None:
    """Plain pandas in a loop, while another process adds batch after batch to the same two files: never an error, never less."""
    write_logs(tmp_path, make_log, range(60))
    with connect(tmp_path / "records").make_root() as folder:
        Index(folder).add("4299", [Log("first.trf", make_log(99, rows=10))])
    run = start(tmp_path, range(60))
    go(run)
    seen = []
    while run.poll() is None:
        rows = pd.read_parquet(tmp_path / "records" / "TRF" / "deliveries", columns=["sha256", "rows"])
        samples = pd.read_parquet(tmp_path / "records" / "TRF" / "samples", columns=["sha256", "row", "y1_leaves_mm"])
        assert set(rows["sha256"]) <= set(samples["sha256"])
        assert samples.groupby("sha256", observed=True).size().eq(10).all()
        seen.append(len(rows))
    run.communicate(timeout=60)
    assert run.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "the files should have grown while they were read"
    assert len(list((tmp_path / "records").rglob("samples-*.parquet"))) == 1
