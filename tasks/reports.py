"""Reports that stay in Prefect's UI, for a physicist and for IT. No patient appears in any of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prefect.artifacts import create_markdown_artifact

from blocks import Linac
from tasks.checks import Check, Outcome

SIGNS = {Outcome.PASS: "✅ pass", Outcome.WARN: "⚠️ warn", Outcome.FAIL: "❌ fail"}


@dataclass(frozen=True)
class BackupResult:
    """What one backup brought: logs indexed, their rows, logs known before, why files were set aside, a problem."""

    serial: str
    backup: str
    indexed: int = 0
    rows: int = 0
    duplicates: int = 0
    aside: list[str] = field(default_factory=list)
    problem: str = ""


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


def report_added_linac(linac: Linac, checks: list[Check], done: list[str], error: str = "", dry_run: bool = False) -> None:
    """The checklist and what was done, as the artifact `add-linac-<serial>`."""
    failed = any(check.outcome is Outcome.FAIL for check in checks)
    if failed:
        verdict = "**Not added.** Mend what failed below, then run add-linac again. Nothing was changed."
    elif error:
        verdict = f"**Not finished.** {error} What is listed as done stays; run add-linac again to go on from there."
    elif dry_run:
        verdict = "**Dry run.** Every check went well enough to add it; nothing was changed. Run it again without dry run."
    else:
        verdict = f"**In service.** Its stream is recorded by icom-capture/{linac.serial}, its logs are indexed every night."
    text = [
        f"# Linac {linac.serial}",
        verdict,
        "## Checks",
        table(["Check", "Result", "What was seen"], [(check.name, SIGNS[check.outcome], check.seen) for check in checks]),
    ]
    if done:
        text += ["## Done", "\n".join(f"- {step}" for step in done)]
    text += [
        "## Where things are",
        table(
            ["What", "Where"],
            [
                ("iCom service", f"{linac.address} port {linac.port}"),
                ("Records", linac.site.records.path),
                ("Spool on the capture computer", linac.site.spool),
                ("Backups of the NSS", linac.backup.path),
                ("Site", f"{linac.site.name}, {linac.site.time_zone}"),
            ],
        ),
    ]
    create_markdown_artifact(
        "\n\n".join(text),
        key=artifact_key("add-linac", linac.serial),
        description=f"What add-linac found and did for {linac.serial}",
    )


def report_index(results: Sequence[BackupResult], failures: Sequence[tuple[str, str]], key: str) -> str:
    """What a night of indexing found, as the artifact `trf-index`; returns its first line."""
    indexed, duplicates = sum(result.indexed for result in results), sum(result.duplicates for result in results)
    rows, aside = sum(result.rows for result in results), [item for result in results for item in result.aside]
    verdict = (
        f"{indexed} TRFs indexed ({rows} rows), {duplicates} known ones skipped, {len(aside)} set aside, "
        f"{len(failures)} sources failed, from {len(results)} new backups."
    )
    text = ["# TRF index", verdict]
    if results:
        columns = ["Linac", "Backup", "Indexed", "Rows", "Known", "Set aside", "Problem"]
        lines = [
            (result.serial, result.backup, result.indexed, result.rows, result.duplicates, len(result.aside), result.problem)
            for result in results
        ]
        text += ["## Backups", table(columns, lines)]
    if aside:
        text += ["## Set aside in TRF/quarantine, where each lies under its hash", "\n".join(f"- {reason}" for reason in aside)]
    if failures:
        text += ["## Failed", table(["What", "Why, and what to do"], failures)]
    create_markdown_artifact("\n\n".join(text), key=key, description="What the last trf-index run did")
    return verdict
