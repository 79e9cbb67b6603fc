"""`python run.py test`: the parts that run side by side miss no test, tell how far they are, and do not hang for ever."""

import time
from pathlib import Path

import pytest

from launch import progress
from launch import test as checks

GOOD = "def test_good(): pass\n"
BAD = "def test_bad(): assert 'cause' == 'effect'\n"
SKIPPED = "import pytest\n@pytest.mark.skip(reason='no linac here')\ndef test_skipped(): pass\n"
UNSTEADY = """
import pathlib
def test_unsteady(tmp_path_factory):
    seen = pathlib.Path(__file__).with_suffix(".seen")
    before = seen.exists()
    seen.touch()
    assert before
"""
HANGS = "import time\ndef test_hangs(): time.sleep(300)\n"


def part(name: str, code: str, tmp_path: Path) -> checks.Part:
    file = tmp_path / f"test_of_{name}.py"
    file.write_text(code)
    return checks.Part(name, [*checks.PYTEST, f"--rootdir={tmp_path}", str(file)], tmp_path)


def test_every_part_is_told_by_its_outcome(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    parts = [part("good", GOOD + SKIPPED, tmp_path), part("bad", GOOD + BAD, tmp_path)]
    assert checks._watch(parts, time.monotonic()) == ["bad"]
    out = capsys.readouterr().out
    assert "good: 1 passed, 1 skipped" in out
    assert "no linac here" in out
    assert "FAILED" in out
    assert "assert 'cause' == 'effect'" in out
    assert progress.read(parts[1].file).done == 2


def test_what_fails_beside_others_is_run_once_more_alone_and_told(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    begun = time.monotonic()
    monkeypatch.setattr(checks, "ALONE_AT_MOST", 1)
    codes = {"shaky": GOOD + UNSTEADY, "bad": GOOD + BAD, "worse": BAD + BAD.replace("test_bad", "test_worse")}
    parts = [part(name, code, tmp_path) for name, code in codes.items()]
    failed = checks._watch(parts, begun)
    assert sorted(failed) == ["bad", "shaky", "worse"]
    assert checks._once_more(parts, failed, begun) == ["test_of_shaky.py::test_unsteady"]
    assert sorted(failed) == ["bad", "worse"]
    assert [part.name for part in parts[3:]] == ["shaky, once more", "bad, once more"], "many failures are no matter of the load"
    assert "shaky, once more: 1 passed" in capsys.readouterr().out


def test_what_hangs_is_ended_and_named(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(checks, "TELL_SECONDS", 0.5)
    monkeypatch.setattr(checks, "LIMIT_MINUTES", 0.0)
    hanging = part("hanging", HANGS, tmp_path)
    until = time.monotonic() + 60
    while not progress.read(hanging.file).now:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert checks._watch([hanging], time.monotonic() - 1) == ["hanging"]
    assert hanging.child.ended()
    out = capsys.readouterr().out
    assert "test_hangs: not at its end" in out
    assert "KeyboardInterrupt" in out, "it was ended in order, and shows where it was"


def test_the_parts_together_are_all_tests_each_once(project: Path) -> None:
    apart = {path.removeprefix("--ignore=") for path in checks.TESTS["library"]}
    assert apart == set(checks.SERVERS)
    own = (*checks.RECORDING, *checks.ADDING)
    assert all((project / path).exists() for path in (*checks.SERVERS, *own))
    assert all(path.startswith(tuple(f"{folder}/" for folder in checks.SERVERS)) for path in own)
    assert checks.TESTS["servers"] == [*checks.SERVERS, *(f"--ignore={path}" for path in own)]
    assert checks.TESTS["recording"] + checks.TESTS["adding"] == list(own)


def test_a_file_that_is_not_there_yet_or_cut_short_says_nothing(tmp_path: Path) -> None:
    assert progress.read(tmp_path / "none").total == 0
    (tmp_path / "cut").write_text('{"total": 7, "do')
    assert progress.read(tmp_path / "cut").total == 0
