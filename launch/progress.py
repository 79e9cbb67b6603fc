"""A pytest plugin that keeps in a small file how far it is: `pytest -p launch.progress --progress-file FILE`."""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest


@dataclass
class Progress:
    """How far a run is. `now` began at `since`, in seconds since 1970."""

    total: int = 0
    done: int = 0
    now: str = ""
    since: float = 0.0
    failed: list[str] = field(default_factory=list)


class Reporter:
    """Writes it down whenever a test begins or fails."""

    def __init__(self, path: Path) -> None:
        self.path, self.progress = path, Progress()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.progress.total = len(session.items)
        self._write()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.progress.now, self.progress.since = nodeid, time.time()
        self._write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.progress.failed:
            self.progress.failed.append(report.nodeid)
            self._write()

    def pytest_runtest_logfinish(self) -> None:
        self.progress.done += 1
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # on Windows, just being read
            aside = self.path.with_name(f"{self.path.name}.part")
            aside.write_text(json.dumps(asdict(self.progress)), encoding="utf-8")
            os.replace(aside, self.path)


def read(path: Path) -> Progress:
    """What the file says; nothing yet where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    return Progress()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--progress-file", type=Path, help="a file that always says how far the tests are")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--progress-file")
    if path:
        config.pluginmanager.register(Reporter(path), "linac-flows-progress")
