"""The command line: what it prints and writes, and that one bad file stops nothing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from linac import trf
from linac.trf.__main__ import main
from linac.trf.export import csv_lines

Make = Callable[..., bytes]


@pytest.fixture
def log(make: Make, tmp_path: Path) -> Path:
    path = tmp_path / "24_02_29 13_05_07 Z [ICOM_ x] 1-1_AP..trf"
    path.write_bytes(make(3, field="1-1/Prüfkörper", prescribed_mu=14.7, utc_offset="+10:00")[:-3])
    return path


def test_show_says_what_a_physicist_asks(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(log)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "machine      2694, TRF version 3\n",
        "field        1-1 / Prüfkörper\n",
        "start        2024-02-29 13:05:07 UTC (2024-02-29 23:05:07 at the site, UTC+10:00)\n",
        "dose         14.7 MU prescribed, 14.4 delivered; 400 MU/min on average, 400 at most\n",
        "ended        Radiation On, 0 interruptions\n",
        "rows         49, 0 missing values; the last row is cut: 705 bytes left out\n",
    ):
        assert text in shown


def test_show_sends_nothing_to_the_terminal_that_it_would_obey(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.trf"
    path.write_bytes(make(1, field="\x1b[2Jred", machine="\x07"))
    assert main(["show", str(path)]) == 0
    assert "\x1b" not in (shown := capsys.readouterr().out)
    assert "\x07" not in shown
    assert "?[2Jred" in shown


def test_show_manages_with_a_log_that_holds_hardly_anything(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.trf"
    path.write_bytes(make(1, rows=2, item_parts=[(7, 7)], field="Prüf", encoding="latin-1"))
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "1 unknown column kept as counts" in shown
    assert "read as latin-1" in shown


def test_csv_and_parquet_are_written_beside_the_log_or_where_one_says(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = log.parent / "new" / "folder"
    assert main(["csv", str(log)]) == main(["csv", str(log), "--out", str(other)]) == main(["parquet", str(log)]) == 0
    beside, there = log.with_name(log.stem + ".csv"), other / (log.stem + ".csv")
    assert beside.read_bytes() == there.read_bytes() == "".join(csv_lines(trf.read(log))).encode()
    assert pq.read_table(log.with_name(log.stem + ".parquet")).num_rows == 49
    assert capsys.readouterr().out.splitlines() == [str(beside), str(there), str(log.with_name(log.stem + ".parquet"))]
    assert not list(log.parent.rglob("*.part-*"))


def test_nothing_is_replaced_unless_one_says_so(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = log.with_name(log.stem + ".csv")
    target.write_text("mine")
    assert main(["csv", str(log)]) == 1
    assert target.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["csv", str(log), "--force"]) == 0
    assert target.read_text(encoding="utf-8").startswith("Version = 3\n")


def test_a_log_is_never_replaced_by_its_own_export(log: Path) -> None:
    named = log.rename(log.with_name("a.csv"))
    before = named.read_bytes()
    assert main(["csv", str(named), "--force"]) == 1
    assert named.read_bytes() == before


def test_two_logs_of_one_name_do_not_overwrite_each_others_export(
    log: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    other = log.parent / "other" / log.name
    other.parent.mkdir()
    other.write_bytes(make(1))
    out = log.parent / "out"
    for command in ("csv", "parquet"):
        assert main([command, "--force", "--out", str(out), str(log), str(other)]) == 1
        said = capsys.readouterr()
        assert said.err.startswith(f"{other} was left out: ")
        assert said.out.splitlines() == [str(out / f"{log.stem}.{command}")]
    assert (out / f"{log.stem}.csv").read_text(encoding="utf-8").startswith("Version = 3\n")
    assert main(["csv", "--force", "--out", str(out), str(other)]) == 0


def test_a_folder_and_what_is_no_file_are_told_as_such(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = "/dev/zero" if sys.platform != "win32" else r"\\.\NUL"
    assert main(["show", str(log.parent), device]) == 1
    folder, other = capsys.readouterr().err.splitlines()
    assert folder == f"{log.parent} is a folder. Give the logs in it: {log.parent / '*.trf'}"
    if sys.platform != "win32":
        assert other == f"{device} is no file but a device or a pipe. Give a .trf file."


def test_show_points_at_a_dose_that_the_header_did_not_ask_for(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.trf"
    for prescribed, is_told in ((14.7, False), (1.0, True), (0.0, False)):
        path.write_bytes(make(3, prescribed_mu=prescribed))
        assert main(["show", str(path)]) == 0
        assert ("do the header and the rows belong together?" in capsys.readouterr().out) is is_told


def start(project: Path, *arguments: str, **to: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=project, stderr=subprocess.PIPE, **to)


def test_a_reader_that_goes_away_ends_it_without_a_word(log: Path, project: Path) -> None:
    with start(project, "linac.trf", "show", *[str(log)] * 200, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk at hand is Linux's")
@pytest.mark.parametrize("command", [["linac.trf", "show", "{log}"], ["linac.index", "columns"]])
def test_output_that_goes_to_a_full_disk_is_one_sentence(log: Path, project: Path, command: list[str]) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        start(project, *(part.format(log=log) for part in command), stdout=full) as process,
    ):
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (1, b"The output could not be written: No space left on device.\n")


def test_what_cannot_be_read_is_said_and_the_rest_goes_on(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = log.with_name("bad.trf")
    bad.write_bytes(b"")
    assert main(["csv", str(bad), str(log.with_name("none.trf")), str(log)]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(log.with_name(log.stem + ".csv"))]
    first, second = said.err.splitlines()
    assert first.startswith(f"{bad}: at byte 0 expected ")
    assert second.startswith(f"Could not read {log.with_name('none.trf')}: ")
    assert not bad.with_suffix(".csv").exists()


def test_a_failed_write_leaves_no_part(log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert main(["csv", str(log)]) == 1
    said = capsys.readouterr().err
    assert "No space left on device. Make room there" in said
    assert "has the file open" not in said
    assert [path.name for path in log.parent.iterdir()] == [log.name]


def test_wildcards_work_where_the_shell_has_none(log: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    log.with_name("b.trf").write_bytes(make(1))
    assert main(["show", str(log.parent / "*.trf")]) == 0
    assert capsys.readouterr().out.count("machine ") == 2
    assert main(["show", str(log.parent / "*[ICOM_*.trf")]) == 0
    assert main(["show", str(log.parent / "*.none")]) == 1


def test_it_runs_as_a_module(log: Path, project: Path) -> None:
    """Whatever the console can show: an umlaut on one that knows ASCII alone does not fail it."""
    done = subprocess.run(
        [sys.executable, "-m", "linac.trf", "show", str(log)],
        cwd=project,
        env={"PYTHONIOENCODING": "ascii", "PATH": "", "SYSTEMROOT": "C:\\Windows"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"1-1 / Pr?fk?rper" in done.stdout
