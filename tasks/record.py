"""The commissioning record: who looked when, at what, with which result, and what was done. It is kept in Prefect's UI."""

import getpass
import platform
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from prefect import __version__ as prefect_version
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from blocks import Linac
from blocks.linac import Service
from linac.errors import LinacError, SetupError
from tasks.check import Check, Outcome
from tasks.check_server import UNFINISHED
from tasks.checks import Checklist
from tasks.plan import Step, changes, summary
from tasks.reports import artifact_key

SIGNS = {Outcome.PASS: "✅ pass", Outcome.WARN: "⚠️ warn", Outcome.FAIL: "❌ fail"}


@dataclass
class Record:
    """What one run of add-linac found and did, noted as it goes on, so that it is complete wherever the run ends.

    `done_by`: the person, as the form says it; `unfinished`: an earlier run got part of the way; `error`: why it stopped;
    `waiting`: what others have to do before the linac is in service.
    """

    linac: Linac
    dry_run: bool = False
    done_by: str = ""
    unfinished: bool = False
    checklist: Checklist = field(default_factory=Checklist)
    plan: list[Step] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    chain: list[Check] = field(default_factory=list)
    error: str = ""
    waiting: str = ""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    was_in_service: bool = field(init=False)

    def __post_init__(self) -> None:
        self.was_in_service = self.linac.in_service is not None

    @property
    def key(self) -> str:
        """The artifact's key."""
        return artifact_key("add-linac", self.linac.serial)

    @property
    def hindrances(self) -> list[tuple[str, str]]:
        """What stands in the way of carrying the plan out: the check or step, and why; each reason once."""
        found = [(check.name, check.seen) for check in self.checklist.failed]
        for step in self.plan:
            if step.problem and not any(step.problem in why for _, why in found):
                found.append((step.name, step.problem))
        return found

    @property
    def problems(self) -> list[str]:
        """Why the plan cannot be carried out."""
        return [why for _, why in self.hindrances]

    def refuse_if_anything_is_wrong(self) -> None:
        """Raise `SetupError` if a check failed or a step cannot be done: then nothing is changed at all."""
        if self.problems:
            why = " ".join(f"{name}: {text}" for name, text in self.hindrances)
            raise SetupError(f"Linac {self.linac.serial} was not added; nothing was changed. {self._earlier}{why}")

    @property
    def _earlier(self) -> str:
        return f"{UNFINISHED} " if self.unfinished else ""

    def note_failure(self, error: BaseException) -> None:
        """Why the run ends before its time. Only our own errors are told in full: others may hold what is for nobody's eyes."""
        self.error = told(error)

    def verdict(self) -> str:
        """The record's first lines: where this linac stands, and what to do next."""
        serial = self.linac.serial
        if self.problems and not self.done:
            mend = f"Mend this, then run add-linac again:\n\n{listed(self.hindrances)}"
            return f"**Not added.** Nothing was changed. {self._earlier}{mend}"
        if self.error:
            return f"**Not finished.** {plain(self.error)} What is listed as done stays; run add-linac again to go on from there."
        if self.dry_run:
            return (
                f"**Dry run.** Every check went well enough to add it. {summary(self.plan)} Nothing was changed; the record "
                "has the plan. Run it again without dry run."
            )
        if self.waiting:
            return f"**Prepared, not yet in service.** {self.waiting}"
        same = " It was so already: nothing had to change." if self.was_in_service and not self.done else ""
        how = f"Its stream is recorded by icom-capture/{serial}"
        if self.linac.service is not Service.WORKER:
            how = f"Its stream is recorded by a service ({self.linac.service.value})"
        return f"**In service** since {self.linac.in_service}. {how}, its logs are indexed every night.{same}"

    def text(self) -> str:
        """The whole record, as Markdown. No patient and no secret in it."""
        parts = [
            f"# Linac {self.linac.serial}: commissioning record",
            self.verdict(),
            "## This run",
            _who(self.began, self.done_by),
        ]
        parts += checklist_parts(self.checklist)
        if self.plan:
            title = "## Plan, carried out as listed under Done" if self.done else "## Plan"
            if self.problems and not self.done:
                title = "## Plan, of which nothing was carried out"
            parts += [title, summary(self.plan), listed((step.name, step.told) for step in self.plan)]
            parts += [_folded(step) for step in changes(self.plan) if step.diff]
        if self.done:
            parts += ["## Done", bullets(self.done)]
        if self.chain:
            parts += ["## Seen through the whole chain", check_lines(self.chain)]
        parts += ["## Where things are", listed(places(self.linac))]
        parts += ["", "Read and accepted by: ______________________  on: ______________"]
        return "\n\n".join(parts)

    def write(self) -> None:
        """Leave it as the artifact `add-linac-<serial>`."""
        create_markdown_artifact(self.text(), key=self.key, description=f"Commissioning record of linac {self.linac.serial}")


def told(error: BaseException) -> str:
    """An error as a report may say it."""
    if isinstance(error, LinacError):
        return str(error)
    if isinstance(error, Exception):
        return f"Something unforeseen went wrong ({type(error).__name__}); the run's log has the details."
    return "It was cancelled."


def checklist_parts(checklist: Checklist) -> list[str]:
    """The checklist and its pictures."""
    if not checklist.checks:
        return []
    made_on = f"{checklist.verdict} Made on {checklist.made_on}."
    return ["## Checks", made_on, check_lines(checklist.checks), *checklist.pictures]


def report_check(linac: Linac, checklist: Checklist) -> None:
    """What check-linac saw, as the artifact `check-linac-<serial>`."""
    parts = [f"# Linac {linac.serial}: checks", _who(datetime.now(UTC)), *checklist_parts(checklist)]
    parts += ["## Where things are", listed(places(linac))]
    key = artifact_key("check-linac", linac.serial)
    create_markdown_artifact("\n\n".join(parts), key=key, description=f"What the last check of linac {linac.serial} saw")


def report_removed(linac: Linac, plan: list[Step], done: list[str], kept: list[str], error: str, dry_run: bool) -> None:
    """What remove-linac did and what it left, as the artifact `remove-linac-<serial>`."""
    verdict = "**Taken out of service.** All that was recorded is kept."
    if error:
        verdict = f"**Not finished.** {plain(error)} What is listed as done stays; run remove-linac again to go on from there."
    elif dry_run:
        verdict = f"**Dry run.** {summary(plan)} Nothing was changed."
    parts = [f"# Linac {linac.serial}: removal", verdict, _who(datetime.now(UTC))]
    parts += ["## Plan", listed((step.name, step.told) for step in plan)]
    parts += [_folded(step) for step in changes(plan) if step.diff]
    if done:
        parts += ["## Done", bullets(done)]
    parts += ["## Kept", bullets(kept)]
    key = artifact_key("remove-linac", linac.serial)
    create_markdown_artifact("\n\n".join(parts), key=key, description=f"What remove-linac did for {linac.serial}")


def places(linac: Linac) -> list[tuple[str, str]]:
    """Where everything of a linac is, for people who look for it."""
    site = linac.site
    known = [
        ("iCom service", f"{linac.address} port {linac.port}"),
        ("Recorded by", f"{linac.recorded_by or 'the computer of the Prefect worker'} ({linac.service.value})"),
        ("Records", site.records.path),
        ("Spool on the capture host", linac.spool),
        ("Backups of the NSS", linac.backup.path),
        ("iView database", f"{site.iview.path}{f', as {linac.iview_alias}' if linac.iview_alias else ''}" if site.iview else ""),
        ("PyMedPhys configuration", site.pymedphys_config.path if site.pymedphys_config else ""),
        ("Energies", ", ".join(linac.energies)),
        ("Site", f"{site.name}, {site.time_zone}"),
    ]
    return [(what, where) for what, where in known if where]


# Lists, not tables: Prefect's pages do not break the lines of a table's cells, so that the end of a sentence would be out of
# sight, and not on paper at all.


def check_lines(checks: Iterable[Check]) -> str:
    """A checklist: how each ended, what it was, what was seen."""
    return "\n".join(f"- {SIGNS[check.outcome]}: **{plain(check.name)}**. {plain(check.seen)}" for check in checks)


def listed(rows: Iterable[tuple[str, object]]) -> str:
    """Names with what belongs to them, a line each."""
    return "\n".join(f"- **{plain(name)}**: {plain(str(text))}" for name, text in rows)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def plain(text: str) -> str:
    r"""Text that Markdown leaves as it is, UNC paths above all.

    >>> print(plain(r"\\nss\Backup\SDD+*.zip <b>"))
    \\\\nss\\Backup\\SDD+\*.zip \<b\>
    """
    return re.sub(r"([\\*<>`\[\]])", r"\\\1", text.replace("\n", " "))


def _folded(step: Step) -> str:
    """A file's difference, folded up where a page can."""
    longest = max((len(run) for run in _ticks(step.diff)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"<details><summary>{step.name}</summary>\n\n{fence}diff\n{step.diff}\n{fence}\n\n</details>"


def _ticks(text: str) -> list[str]:
    runs, run = [], ""
    for letter in text + " ":
        if letter == "`":
            run += letter
        elif run:
            runs.append(run)
            run = ""
    return runs


def _who(began: datetime, done_by: str = "") -> str:
    """Who ran it, when, where, with which versions. The account is the worker's; only the form knows the person."""
    account = f"{_user()} on {socket.gethostname()}"
    rows = [
        ("When", f"{began:%Y-%m-%d %H:%M:%S} UTC"),
        ("Run", run_name()),
        ("By", f"{done_by.strip()}, under the account {account}" if done_by.strip() else account),
        (
            "With",
            f"linac-flows {own_version()}, Prefect {prefect_version}, Python {platform.python_version()}, {platform.platform()}",
        ),
    ]
    return listed(rows)


def run_name() -> str:
    """The run's name as the server has it now: it is renamed while it starts, and this process may still know the old one."""
    if not flow_run.id:
        return "no run"
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run.id).name


def own_version() -> str:
    """The version of this project."""
    try:
        return version("linac-flows")
    except PackageNotFoundError:
        return "not installed"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        return "unknown"
