"""A line of a checklist."""

from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """How a check ended: `WARN` is worth reading and hinders nothing, `FAIL` must be mended first."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line of the checklist: what was looked at, how it ended, what was seen and, unless it passed, what to do."""

    name: str
    outcome: Outcome
    seen: str


@dataclass(frozen=True)
class Seen:
    """What one look brought: lines of the list, and pictures as Markdown."""

    checks: list[Check] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)


def passed(name: str, seen: str) -> Check:
    return Check(name, Outcome.PASS, seen)


def warned(name: str, seen: str) -> Check:
    return Check(name, Outcome.WARN, seen)


def failed(name: str, seen: object) -> Check:
    return Check(name, Outcome.FAIL, str(seen))
