"""`python run.py test`: every check of this project: style, types, import rules, tests.

Many of them drive real servers against the clock, four parts side by side. So the few that fail that way are run once more with
nothing beside them, and that counts: one that passes then is told as unsteady, and does not fail the whole.

Given pytest's words, only these tests run: `python run.py test tests/linac/trf`, `python run.py test -k ledger -x`.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

from launch import ending, progress
from launch.ending import say
from launch.processes import Child
from launch.stack import PROJECT

RECORDING = ("tests/flows/test_capture_icom.py",)
ADDING = ("tests/flows/test_add_linac.py", "tests/flows/test_check_linac.py", "tests/flows/test_remove_linac.py")
SERVERS = ("tests/flows", "tests/tasks", "tests/blocks", "tests/launch")
"""These wait for a Prefect server and its runs much of the time, the first two more than all others; the rest computes. Side by
side they take little longer than the longest of them."""

TESTS = {
    "recording": [*RECORDING],
    "adding": [*ADDING],
    "servers": [*SERVERS, *(f"--ignore={path}" for path in (*RECORDING, *ADDING))],
    "library": [f"--ignore={path}" for path in SERVERS],
}

PYTEST = ["pytest", "-p", "launch.progress", "-o", "faulthandler_timeout=300", "--color=no", "-ra", "--durations=8"]
TELL_SECONDS = 20.0
LIMIT_MINUTES = 22.0
"""Beyond this, something hangs: it is ended, and told what it was. Two busy cores take about fifteen."""

ALONE_AT_MOST = 5
ALONE_MINUTES = 3.0
"""How many failed tests of a part may be run once more, and for how long: more than these are no matter of a busy computer."""

END_SECONDS = 60.0
"""For tests that are told to end: their servers are ended first."""


class Part:
    """One of the checks that run side by side, with its output in a file of its own."""

    def __init__(self, name: str, module: list[str], folder: Path, of: str = "") -> None:
        self.name, self.module, self.folder, self.file = name, module, folder, folder / f"{name}.progress"
        if module[0] == "pytest":
            module = [*module, f"--progress-file={self.file}", "-o", f"cache_dir={folder / (of or name)}.cache"]
        self.begun = time.monotonic()
        self.child = Child(name, module, folder / f"{name}.log", {**os.environ, "PYTHONUNBUFFERED": "1"})
        self.told: set[str] = set()

    def alone(self) -> "Part":
        """Its failed tests once more."""
        return Part(
            f"{self.name}, once more", [*self.module, "--last-failed", "--last-failed-no-failures=none"], self.folder, self.name
        )

    def failed_few(self) -> bool:
        """Whether tests failed (pytest's exit code 1), and no more than a busy computer accounts for."""
        return self.child.process.returncode == 1 and 0 < len(progress.read(self.file).failed) <= ALONE_AT_MOST

    def how_far(self) -> str:
        """One line for the one who waits."""
        now = progress.read(self.file)
        if not now.total:
            return f"{self.name}: under way"
        return f"{self.name}: {now.done} of {now.total}, for {time.time() - now.since:.0f} s at {now.now}"

    def new_failures(self) -> list[str]:
        failed = [test for test in progress.read(self.file).failed if test not in self.told]
        self.told.update(failed)
        return failed

    def output(self) -> str:
        return self.child.log.read_text(encoding="utf-8", errors="replace") if self.child.log.exists() else ""


def main(arguments: list[str]) -> int:
    os.chdir(PROJECT)
    if arguments:
        import pytest

        return int(pytest.main(arguments))
    ending.end_in_order()
    with tempfile.TemporaryDirectory(prefix="linac-flows-test-", ignore_cleanup_errors=True) as folder:
        return _everything(Path(folder))


def _everything(folder: Path) -> int:
    begun = time.monotonic()
    failed: list[str] = []
    unsteady: list[str] = []
    say("--- style, format, types, import rules, tests; the long ones side by side")
    parts: list[Part] = []
    try:
        parts = [Part("style", ["ruff", "check", "."], folder), Part("format", ["ruff", "format", "--check", "."], folder)]
        parts += [
            *(Part(name, [*PYTEST, *words], folder) for name, words in TESTS.items()),
            Part("types", ["mypy"], folder),
        ]
        failed = _watch(parts, begun)
        unsteady = _once_more(parts, failed, begun)
    except KeyboardInterrupt:
        say("\nStopping...")
        failed = ["stopped before the end"]
    finally:
        ending.end_undisturbed()
        for part in parts:
            part.child.end(END_SECONDS)
    for test in unsteady:
        say(f"UNSTEADY: {test} failed beside the others (see above) and passed alone.")
    say(f"FAILED: {', '.join(failed)}" if failed else f"Everything passed, in {(time.monotonic() - begun) / 60:.1f} min.")
    return 1 if failed else 0


def _once_more(parts: list[Part], failed: list[str], begun: float) -> list[str]:
    """Run alone what failed, where that is little. What passes then is returned, and its part is struck off `failed`."""
    unsteady: list[str] = []
    for part in [part for part in parts if part.name in failed and part.failed_few()]:
        tests, alone = progress.read(part.file).failed, part.alone()
        parts.append(alone)
        say(f"{_clock(begun)} once more, with nothing beside them: {', '.join(tests)}")
        _watch([alone], begun, min(time.monotonic() + ALONE_MINUTES * 60, begun + LIMIT_MINUTES * 60))
        if alone.child.process.returncode == 0:
            failed.remove(part.name)
            unsteady += tests
    return unsteady


def _watch(parts: list[Part], begun: float, until: float | None = None) -> list[str]:
    """Tell how it goes until all have ended, or `until` on the monotonic clock. The names of those that failed."""
    until = begun + LIMIT_MINUTES * 60 if until is None else until
    running, failed, told = list(parts), [], time.monotonic()
    while running and not ending.asked():
        time.sleep(0.2)
        for part in list(running):
            for test in part.new_failures():
                say(f"{_clock(begun)} FAILED {test}")
            if part.child.ended():
                running.remove(part)
                _tell_end(part, begun)
                if part.child.process.returncode:
                    failed.append(part.name)
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            for part in running:
                say(f"{_clock(begun)} {part.how_far()}")
        if time.monotonic() > until:
            for part in running:
                say(f"{_clock(begun)} {part.how_far()}: not at its end after {(until - part.begun) / 60:.0f} min; ending it.")
                part.child.end(END_SECONDS)
                say(part.output()[-6000:])
            return [*failed, *(part.name for part in running)]
    return failed


def _tell_end(part: Part, begun: float) -> None:
    """All of its output where it failed; else its last line, and the tests left out with the reasons."""
    output, took = part.output().rstrip(), time.monotonic() - part.begun
    if part.child.process.returncode:
        say(f"--- {part.name} failed after {took:.0f} s:\n{output}\n---")
        return
    skipped = re.findall(r"^SKIPPED .*$", output, re.MULTILINE)
    last = output.splitlines()[-1] if output else "passed"
    say("\n".join([f"{_clock(begun)} {part.name}: {last.strip('= ')} ({took:.0f} s)", *(f"    {line}" for line in skipped)]))


def _clock(begun: float) -> str:
    seconds = int(time.monotonic() - begun)
    return f"[{seconds // 60:2d}:{seconds % 60:02d}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
