"""Reports that stay in Prefect's UI, for a physicist and for IT. No patient appears in any of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prefect.artifacts import create_markdown_artifact

from linac.transport import Entry

MOST_LINES = 20
"""After an update of a linac's software thousands of logs can be set aside for one reason."""


@dataclass(frozen=True)
class BackupResult:
    """What one backup brought: logs indexed, their rows, logs known before, why logs were set aside (each log once), how many
    more were set aside by an earlier run, a problem with the backup, which `entry` stands for, and why the logs may be another
    linac's."""

    serial: str
    backup: str
    indexed: int = 0
    rows: int = 0
    duplicates: int = 0
    aside: list[str] = field(default_factory=list)
    problem: str = ""
    aside_before: int = 0
    entry: Entry | None = None
    doubt: str = ""


@dataclass(frozen=True)
class DamagedBackup:
    """A damaged backup that an earlier report told of, and that is still there: linac, name, when it was told, what is wrong."""

    serial: str
    name: str
    told: datetime
    problem: str


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants it: lower case, digits and dashes.

    >>> artifact_key("add-linac", "Versa_HD")
    'add-linac-versa-hd'
    """
    return "-".join(parts).lower().replace("_", "-")


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A Markdown table; what the cells hold cannot break it.

    >>> print(table(["a"], [["x|y"]]))
    | a |
    | --- |
    | x\|y |
    """
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", r"\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def first(lines: Sequence[str], most: int = MOST_LINES) -> list[str]:
    """The first of many lines, and how many more there are.

    >>> first(["a", "b", "c", "d"], most=2)
    ['a', 'b', 'and 2 more like these']
    """
    return [*lines[:most], *([f"and {len(lines) - most} more like these"] if len(lines) > most else [])]


def report_index(
    results: Sequence[BackupResult],
    failures: Sequence[tuple[str, str]],
    key: str,
    damaged: Sequence[DamagedBackup] = (),
) -> str:
    """What a night of indexing found, as the artifact `trf-index`; returns its first line. `damaged`: what
    earlier reports told of."""
    indexed, duplicates = sum(result.indexed for result in results), sum(result.duplicates for result in results)
    rows, aside = sum(result.rows for result in results), [*dict.fromkeys(item for result in results for item in result.aside)]
    again = sum(result.aside_before for result in results)
    verdict = (
        f"{indexed} TRFs indexed ({rows} rows), {duplicates} known ones skipped, {len(aside)} set aside, "
        f"{len(failures)} sources failed, from {len(results)} new backups."
    )
    broken = sum(bool(result.problem) for result in results)
    if broken:
        verdict += f" {broken} of these are damaged."
    if damaged:
        verdict += f" Damaged backups told of before: {len(damaged)}."
    text = ["# TRF index", verdict]
    if results:
        columns = ["Linac", "Backup", "Indexed", "Rows", "Known", "Set aside", "Problem"]
        lines = [
            (result.serial, result.backup, result.indexed, result.rows, result.duplicates, len(result.aside), result.problem)
            for result in results
        ]
        text += ["## Backups", table(columns, lines)]
    if aside:
        text += [
            "## Set aside in TRF/quarantine, where each lies under its hash",
            "\n".join(f"- {line}" for line in first(aside)),
        ]
    if doubts := [*dict.fromkeys(result.doubt for result in results if result.doubt)]:
        text += ["## Whose logs are these?", "\n".join(f"- {doubt}" for doubt in doubts)]
    if again:
        text += [f"Logs that earlier runs had set aside came again: {again}."]
    if damaged:
        told = [(backup.serial, backup.name, f"{backup.told:%Y-%m-%d}", backup.problem) for backup in damaged]
        text += [
            "## Damaged backups that were told of before",
            (
                "What can be read of them is indexed. Each is read again when it changes. If nothing more is to be had from one, "
                "run trf-index with the linac's serial and the backup's name as *dismiss*: it is then not reported any more."
            ),
            table(["Linac", "Backup", "First told", "What is wrong"], told),
        ]
    if failures:
        text += ["## Failed", table(["What", "Why, and what to do"], failures)]
    create_markdown_artifact("\n\n".join(text), key=key, description="What the last trf-index run did")
    return verdict
