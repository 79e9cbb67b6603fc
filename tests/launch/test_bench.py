"""`run.py bench` in small: figures come from work that was really done, tables are well formed, a missing peer is no obstacle."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from launch import bench, bench_index, bench_trf, bench_worker
from linac.errors import SetupError
from linac.index import Index, measure
from linac.index.adding import Added
from linac.simulator import make_beams, make_log
from linac.trf import read

TINY_TRF = bench_trf.Sizes(rounds=2, seconds=0, peaks=1, long_rows=300)
TINY_INDEX = bench_index.Sizes(deliveries=240, added=3, nights=2, repeats=1, look_ups=2, peer_entries=(0, 5), peer_logs=1)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "log.trf"
    path.write_bytes(invented("Field 1"))
    return path


def invented(name: str) -> bytes:
    beam = replace(make_beams(1, mu=20)[0], name=name)
    return make_log(beam, datetime(2026, 1, 5, tzinfo=UTC), "4299", seed=1).data


@pytest.fixture
def setting(tmp_path: Path, log: Path) -> bench.Setting:
    again = tmp_path / "again.trf"
    again.write_bytes(log.read_bytes())
    return bench.Setting(tmp_path, [log, again], None)


@pytest.fixture
def worker() -> Iterator[bench.Worker]:
    with bench.Worker(Path(sys.executable)) as found:
        yield found


def figures(rows: list[bench.Row]) -> dict[str, bench.Row]:
    return {row.name: row for row in rows}


def check_table(text: str) -> list[list[str]]:
    """Cells of a table of Markdown, line by line, once it is sure that it is one."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "the columns do not stand below each other"
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len({len(cells) for cells in table}) == 1
    assert all(re.fullmatch(r"-{2,}[-:]", cell) for cell in table[1])
    return table


# What is measured


def test_time_is_that_of_the_work_per_pass() -> None:
    slept = bench_worker.timed(lambda: time.sleep(0.02), 0.1)
    assert slept["passes"] > 1
    assert 0.02 <= slept["clock"] < 0.5
    assert slept["cpu"] < slept["clock"] / 2, "sleeping is no work of the core"
    worked = bench_worker.timed(lambda: sum(range(200_000)), 0)
    assert worked["passes"] == 1
    assert worked["cpu"] > 0


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() and os.name != "nt", reason="this system does not tell peak memory"
)
def test_memory_sees_what_was_let_go_again() -> None:
    size = 64 << 20
    before = bench_worker._forget_peak()
    bytearray(b"x") * size
    after = bench_worker._peak()
    assert before is not None
    assert after is not None
    assert size * 0.9 < after - before < size * 3
    if os.name != "nt":
        again = bench_worker._forget_peak()
        assert again is not None
        assert again - before < size / 2


def test_more_logs_take_longer(worker: bench.Worker, log: Path) -> None:
    one = [worker.ask("time", what="linac table", files=[str(log)], seconds=0)["cpu"] for _ in range(9)]
    many = [worker.ask("time", what="linac table", files=[str(log)] * 8, seconds=0)["cpu"] for _ in range(9)]
    assert min(many) > 3 * min(one)


def test_the_floors_turn_the_whole_matrix(log: Path) -> None:
    counts = read(log).counts
    (shape,) = bench_worker.shapes([str(log)]).values()
    turned = bench_worker.turned(str(log), shape)
    assert (turned == counts.T).all()
    assert turned.flags.c_contiguous
    assert abs(bench_worker.turned_to_float(str(log), shape) - counts.T / 10).max() < 0.01


def test_what_fails_in_a_worker_is_told(worker: bench.Worker) -> None:
    with pytest.raises(bench.BenchError, match=r"missing\.trf"):
        worker.ask("time", what="linac table", files=["missing.trf"], seconds=0)
    worker._process.kill()
    worker._process.wait()
    with pytest.raises(bench.BenchError, match="ended"):
        worker.ask("time", what="linac table", files=[], seconds=0)


def test_sides_take_turns_and_none_is_always_first() -> None:
    asked = []

    class Side:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, **order: Any) -> dict[str, Any]:
            asked.append(self.name)
            return order

    a: Any = Side("a")
    b: Any = Side("b")
    answers = bench.in_turns([("a", a, {"do": "x"}), ("b", b, {"do": "y"})], 3)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert answers == {"a": [{"do": "x"}] * 3, "b": [{"do": "y"}] * 3}
    assert bench.median_ratio([2, 30, 8], [1, 10, 2]) == 3


# The parts


def test_reading_is_measured_beside_pymedphys(setting: bench.Setting) -> None:
    pytest.importorskip("pymedphys", reason="PyMedPhys is not installed (it is test-only)")
    setting.peer = Path(sys.executable)
    rows = figures(list(bench_trf.measure(setting, TINY_TRF)))
    table = rows["`read(f).table` of all logs"]
    size = sum(path.stat().st_size for path in setting.logs)
    assert isinstance(table.ours, float)
    assert isinstance(table.peer, float)
    assert isinstance(table.floor, float)
    assert 0 < table.floor < table.ours < table.peer
    assert rows["the same, bytes"].ours == pytest.approx(size / 1e6 / (table.ours / 1000))
    assert all(isinstance(row.ours, float) and row.ours > 0 for row in rows.values())
    assert f"{2 * read(setting.logs[0]).rows:,} rows" in setting.notes[0]


def test_logs_that_pymedphys_refuses_do_not_stop_the_comparison(setting: bench.Setting) -> None:
    pytest.importorskip("pymedphys", reason="PyMedPhys is not installed (it is test-only)")
    umlaut = setting.work / "umlaut.trf"
    umlaut.write_bytes(invented("Schädel"))
    with bench.Worker(Path(sys.executable)) as theirs:
        setting.logs = [umlaut, setting.logs[0]]
        assert bench_trf._keep_what_it_reads(setting, theirs)
        assert umlaut not in setting.logs
        assert len(setting.logs) == 1
        assert "reads 1 of the 2 logs" in setting.notes[0]
        setting.logs = [umlaut]
        assert not bench_trf._keep_what_it_reads(setting, theirs)
        assert setting.logs == [umlaut]


def test_the_index_is_measured(setting: bench.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pymedphys", reason="PyMedPhys is not installed (it is test-only)")
    monkeypatch.setattr(measure, "LINACS", 2)
    monkeypatch.setattr(measure, "MONTHS", 4)
    setting.logs.pop().unlink()
    setting.peer = Path(sys.executable)
    rows = figures(list(bench_index.measure(setting, TINY_INDEX)))
    assert all(isinstance(row.ours, int | float) and row.ours > 0 for row in rows.values())
    assert "adding 3 logs, 0 MB, to an index of 246 deliveries" in rows, "240 made up, and a night of 3 for each of 2 linacs"
    (one,) = (row for row in rows.values() if row.name.startswith("adding one log"))
    assert "PyMedPhys: of 6" in one.name
    assert isinstance(one.peer, float)
    assert one.peer > 0
    assert list(setting.work.iterdir()) == [], "what was made is removed"


def test_logs_that_were_not_indexed_give_no_figure(setting: bench.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "add", lambda *_: Added())
    with pytest.raises(bench.BenchError, match="0 of 2 logs"):
        list(bench_index.measure(setting, TINY_INDEX))


def test_nights_are_new_logs_each_time(log: Path) -> None:
    logs = [bench_index.Log(log.name, log.read_bytes())]
    start = datetime(2026, 1, 5, tzinfo=UTC)
    nights = [made.data for number in (0, 1) for made in bench_index.make_night(logs, 5, start, number)]
    assert len(set(nights)) == 10
    assert {read(data).rows for data in nights} == {read(log).rows}


# The command and its tables


def test_without_pymedphys_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse() -> Path:
        raise SetupError("no network")

    monkeypatch.setattr(bench, "peer_python", refuse)
    monkeypatch.setattr(bench_trf, "QUICK", TINY_TRF)
    out = tmp_path / "new" / "benchmarks.md"
    assert bench.main(["trf", "--quick", "--samples", str(tmp_path / "none"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "no network" in said.err
    assert "no PyMedPhys" in said.out
    assert "invented" in said.out
    heading, _, *rows = check_table(said.out)
    assert "PyMedPhys" not in heading
    assert heading[:3] == ["figure", "unit", "linac-flows"]
    assert len(rows) >= 7
    assert check_table(out.read_text(encoding="utf-8")) == [heading, _, *rows]


def test_a_table_is_well_formed_whatever_is_missing() -> None:
    rows = [
        bench.Row("a long name of a figure", 0.0123, "ms", n=7),
        bench.Row("b", 1234.5, "MB/s", peer=11.7, limit=bench.Limit(60, at_most=False)),
        bench.Row("c", "none lost", peer="3 lost"),
        bench.Row("d", 3.0, "times", limit=bench.Limit(2.5)),
    ]
    table = check_table(bench.as_table(rows))
    assert table[0] == ["figure", "unit", "linac-flows", "PyMedPhys", "n", "target", "reached"]
    assert table[2] == ["a long name of a figure", "ms", "0.012", "", "7", "", ""]
    assert table[3] == ["b", "MB/s", "1,234", "11.7", "1", "at least 60", "yes"]
    assert table[4] == ["c", "", "none lost", "3 lost", "1", "", ""]
    assert table[5] == ["d", "times", "3.00", "", "1", "at most 2.5", "NO"]
    assert "Not reached: d." in bench.as_section("T", "a machine", rows, [])


def test_keeping_replaces_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.md"
    file.write_text("# Mine\n\n<!-- bench index -->\nold\n<!-- end of bench index -->\n\nWhy it is so.\n", encoding="utf-8")
    bench.keep(file, {"trf": "new \\1 trf\n", "index": "new index\n"})
    once = file.read_text(encoding="utf-8")
    assert "old" not in once
    assert once.index("# Mine") < once.index("new index") < once.index("Why it is so.") < once.index("new \\1 trf")
    bench.keep(file, {"trf": "new \\1 trf\n"})
    assert file.read_text(encoding="utf-8") == once
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.md"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="looked at where Python tells a process's cores")
def test_one_core_for_this_process_and_its_children_and_back() -> None:
    before = os.sched_getaffinity(0)
    with bench.one_core() as where:
        assert len(os.sched_getaffinity(0)) == 1
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"], capture_output=True, text=True, timeout=30
        )
        assert child.stdout.strip() == "1"
        assert "core" in where
    assert os.sched_getaffinity(0) == before


# PyMedPhys's environment


def test_the_peer_is_made_once_from_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    home = tmp_path / "peer"

    def create(_: object, folder: Path) -> None:
        for name in ("bin/python", "Scripts/python.exe"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text("")

    def pip(command: list[str], **_: object) -> "subprocess.CompletedProcess[bytes]":
        calls.append(command)
        return subprocess.CompletedProcess(command, len(calls) == 1, stdout=b"no such\nno network here")

    monkeypatch.setattr("venv.EnvBuilder.create", create)
    monkeypatch.setattr(bench.subprocess, "run", pip)
    with pytest.raises(SetupError, match="no network here"):
        bench.peer_python(home)
    assert bench.peer_python(home) == bench.peer_python(home)
    assert len(calls) == 2, "what failed is tried again, what is there is left"
    assert calls[1][-len(bench.PEER_PACKAGES) :] == list(bench.PEER_PACKAGES)
    assert "requirements.txt" in calls[1][calls[1].index("-c") + 1]


def test_the_pins_have_what_the_peer_needs() -> None:
    assert bench.pin("pymedphys") == "0.41.0"
    assert all(bench.pin(package) != "?" for package in bench.PEER_PACKAGES)
