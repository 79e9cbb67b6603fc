"""The command line: what it prints, and its exit codes."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from linac.index import Index
from linac.index.__main__ import main
from linac.transport import Entry, connect


@pytest.fixture
def sources(tmp_path: Path, make_log: Callable[..., bytes]) -> Path:
    """Two backups that overlap, a single log, and a folder with a log in it."""
    where = tmp_path / "sources"
    (where / "inside").mkdir(parents=True)
    for name, numbers in (("SDD+1.zip", range(3)), ("SDD+2.zip", range(2, 5))):
        with zipfile.ZipFile(where / name, "w", zipfile.ZIP_DEFLATED) as packed:
            for number in numbers:
                packed.writestr(f"TCS/Logs/{number}.trf", make_log(number))
            packed.writestr("TCS/readme.txt", b"no log")
    (where / "5.TRF").write_bytes(make_log(5))
    (where / "inside" / "6.trf").write_bytes(make_log(6))
    return where


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "records").mkdir()
    return str(tmp_path / "records")


def test_backups_logs_and_folders_are_brought_in_and_a_second_time_is_quick(
    sources: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add", root, "--machine", "4299", str(sources)]) == 0
    assert "7 logs indexed" in capsys.readouterr().out
    assert main(["add", root, "--machine", "4299", str(sources)]) == 0
    out = capsys.readouterr().out
    assert "0 logs indexed" in out
    assert "2 known before" in out
    assert "2 backups were taken in before" in out
    assert main(["add", root, "--machine", "4299", "--again", str(sources / "*.zip")]) == 0
    assert "6 known before" in capsys.readouterr().out


def test_what_cannot_be_read_is_said_and_the_rest_goes_on(
    sources: Path, root: str, capsys: pytest.CaptureFixture[str], make_log: Callable[..., bytes]
) -> None:
    whole = (sources / "SDD+2.zip").read_bytes()
    (sources / "SDD+2.zip").write_bytes(whole[: len(whole) // 2])
    (sources / "bad.trf").write_bytes(b"nonsense")
    assert main(["add", root, "--machine", "4299", str(sources), str(sources / "gone.trf"), str(sources / "gone.zip")]) == 1
    seen = capsys.readouterr()
    assert "1 in quarantine" in seen.out
    assert "SDD+2.zip" in seen.err
    assert "In quarantine: bad.trf: log " in seen.err
    assert seen.err.count("gone.") == 2
    assert main(["find", root, "--field", "0-1"]) == 0
    (sources / "SDD+2.zip").write_bytes(whole)
    (sources / "bad.trf").write_bytes(make_log(7))
    assert main(["add", root, "--machine", "4299", str(sources)]) == 0
    assert "1 left it" in capsys.readouterr().out


def test_deliveries_are_found_and_printed(sources: Path, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["add", root, "--machine", "4299", str(sources)])
    capsys.readouterr()
    assert main(["find", root, "--field", "beam 3", "--day", "2026-01-05", "--machine", "4299"]) == 0
    out = capsys.readouterr().out
    assert "Beam 3" in out
    assert "2026-01-05 10:33:00" in out
    sha256 = out.split()[-1]
    assert main(["find", root, "--hash", sha256[:12], "--csv"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.startswith("sha256,linac,header_machine,")
    assert row.startswith(sha256)
    assert main(["find", root, "--field", "nothing"]) == 1
    assert "No such delivery" in capsys.readouterr().err


def test_verify_and_compact_say_how_it_is(sources: Path, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["add", root, "--machine", "4299", str(sources)])
    capsys.readouterr()
    assert main(["verify", root, "--values"]) == 0
    assert "7 deliveries, 84 rows" in capsys.readouterr().out
    Path(root, "TRF/catalogue/2026.parquet").unlink()
    Path(root, "TRF/raw/4299/2026/01/5.trf").unlink()
    assert main(["verify", root, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2
    assert main(["compact", root]) == 0
    assert "lists 7 deliveries" in capsys.readouterr().out
    assert main(["verify", root]) == 1
    seen = capsys.readouterr()
    assert "1 problems" in seen.out
    assert "5.trf" in seen.err


def test_retry_brings_in_what_can_be_read_now(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_log: Callable[..., bytes]
) -> None:
    (tmp_path / "a.trf").write_bytes(b"nonsense")
    main(["add", root, "--machine", "4299", str(tmp_path / "a.trf")])
    assert main(["retry", root, "--machine", "4299"]) == 1
    (set_aside,) = Path(root, "TRF/quarantine/4299").glob("*.trf")
    set_aside.write_bytes(make_log(1))  # somebody mended it in place
    assert main(["retry", root, "--machine", "4299"]) == 0
    assert "1 left it" in capsys.readouterr().out
    assert list(Path(root, "TRF/quarantine/4299").iterdir()) == []


@pytest.mark.parametrize("wrong", [[], ["add", "x"], ["find", "x", "--day", "yesterday"], ["nonsense", "x"]])
def test_a_wrong_command_line_is_code_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(wrong)
    assert exit_.value.code == 2


def test_a_wrong_serial_or_hash_is_said(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", root, "--machine", "a/b", str(tmp_path)]) == 1
    assert main(["find", root, "--hash", "xyz"]) == 1
    assert "cannot name a folder" in capsys.readouterr().err


def test_damaged_backups_are_listed_and_dismissed(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    with connect(root) as folder:
        index = Index(folder)
        entries = [Entry(f"SDD+{number}.zip", number, datetime(2026, 1, number, tzinfo=UTC)) for number in (1, 2)]
        for each in entries:
            index.mark_damaged("4299", each, "It is cut short.")
        assert index.new_backups("4299", entries) == []
        assert not index.is_done("4299", entries[0])
        assert main(["dismiss", root, "--machine", "4299"]) == 0
        assert capsys.readouterr().out.count("It is cut short.") == 2
        assert main(["dismiss", root, "--machine", "4299", "--backup", "SDD+1.zip"]) == 0
        assert main(["dismiss", root, "--machine", "4299", "--backup", "SDD+1.zip"]) == 1
        assert "There are: SDD+2.zip." in capsys.readouterr().err
        assert [backup.name for backup in index.damaged_backups("4299")] == ["SDD+2.zip"]
        assert [(backup.name, backup.dismissed) for backup in index.backups("4299")] == [("SDD+1.zip", "It is cut short.")]
        assert index.new_backups("4299", entries) == []


@pytest.mark.parametrize("command", [["find"], ["verify"], ["compact"], ["retry", "--machine", "4299"]])
def test_a_root_that_is_not_there_is_said_and_not_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "unplugged"
    assert main([command[0], str(where), *command[1:]]) == 1
    assert "not there" in capsys.readouterr().err
    assert not where.exists()


@pytest.mark.parametrize("command", [["find"], ["compact"], ["retry", "--machine", "4299"], ["dismiss", "--machine", "4299"]])
def test_a_folder_without_an_index_is_said_so_and_not_written_to(
    command: list[str], root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], root, *command[1:]]) == 1
    assert "holds no index: there is no folder TRF" in capsys.readouterr().err
    assert list(Path(root).iterdir()) == []


@pytest.mark.parametrize("command", ["find", "add", "verify"])
def test_the_folder_trf_given_for_the_records_root_is_said_so(
    command: str, root: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["add", root, "--machine", "4299", str(sources)])
    before = sorted(Path(root).rglob("*"))
    more = ["--machine", "4299", str(sources)] if command == "add" else []
    assert main([command, f"{root}/TRF", *more]) == 1
    assert "Give the records root, which is one above" in capsys.readouterr().err
    assert sorted(Path(root).rglob("*")) == before


def test_a_day_that_is_none_is_said_so(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["find", root, "--day", "31.1.2026"])
    assert "'31.1.2026' is no day. Give year, month and day, such as 2026-01-31." in capsys.readouterr().err


def test_columns_are_printed_as_the_data_dictionary_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["columns"]) == 0
    out = capsys.readouterr().out
    assert "| `gantry_error_deg` |" in out
    assert "| `delivered_mu` |" in out


def test_logs_that_may_be_another_linacs_are_told(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_log: Callable[..., bytes]
) -> None:
    (tmp_path / "a.trf").write_bytes(make_log(1, machine="LINAC B"))
    assert main(["add", root, "--machine", "4299", str(tmp_path / "a.trf")]) == 0
    assert "'LINAC B'; they are filed under 4299" in capsys.readouterr().err
    (tmp_path / "b.trf").write_bytes(make_log(2, machine="4299"))
    assert main(["add", root, "--machine", "2694", str(tmp_path / "b.trf")]) == 1
    assert "of linac 4299, which this index has" in capsys.readouterr().err


def test_it_runs_as_a_module(sources: Path, root: str, project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "linac.index", "add", root, "--machine", "4299", str(sources)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "7 logs indexed" in done.stdout


def test_measure_prints_its_figures_and_cleans_up(
    tmp_path: Path, samples: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from linac.index import measure

    for name, value in (("REPEATS", 1), ("ADDED", 2), ("LINACS", 1), ("MONTHS", 12)):
        monkeypatch.setattr(measure, name, value)
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(samples.glob("17*.trf"))[:2]:
        (few / path.name).write_bytes(path.read_bytes())
    assert main(["measure", str(tmp_path), "--samples", str(few), "--deliveries", "60"]) == 0
    out = capsys.readouterr().out
    for words in (
        "from counts (ours): writing",
        "samples to committed Parquet",
        "zip of 2 logs",
        "largest delivery",
        "index of 60 deliveries",
        "by field",
    ):
        assert words in out
    assert list(tmp_path.iterdir()) == [few]
    assert main(["measure", str(tmp_path), "--samples", str(tmp_path)]) == 1
