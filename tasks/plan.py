"""What add-linac is going to change, worked out before anything is: a list of steps, shown first, then carried out in order.

Every step looks at what is there and says what would change; one with nothing to change is left alone. So a plan made twice is
empty the second time, and one that was cut off half-way is finished by making and carrying it out again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from linac.errors import LinacError, SetupError

MADE, KEPT = "made", "is as it should be"
PARTICIPLE = re.compile(r"(made|\w+ed)\b")


@dataclass(frozen=True)
class Step:
    """One thing to bring about.

    `change`: what will happen to it, empty where nothing has to; `do` does it. `diff`: how a file changes, as a unified diff.
    `problem`: why it cannot be worked out, or must not be done.
    """

    name: str
    change: str = ""
    do: Callable[[], None] | None = None
    diff: str = ""
    problem: str = ""

    @property
    def told(self) -> str:
        """The step's line in a plan: what is still to be done, not what was.

        >>> Step("Block", "made").told
        'to be made'
        >>> Step("Recording", "icom-capture/4299 is started").told
        'to be done: icom-capture/4299 is started'
        """
        if self.problem:
            return f"cannot be done. {self.problem}"
        if not self.change:
            return KEPT
        return f"{'to be' if PARTICIPLE.match(self.change) else 'to be done:'} {self.change}"


def planned(name: str, work_out: Callable[[], Step]) -> Step:
    """A step, or why it cannot be worked out."""
    try:
        return work_out()
    except LinacError as error:
        return Step(name, problem=str(error))


def changes(steps: list[Step]) -> list[Step]:
    """The steps that change something."""
    return [step for step in steps if step.change and not step.problem]


def refuse_problems(steps: list[Step]) -> None:
    """Raise `SetupError` if a step cannot be done: then nothing is changed at all."""
    problems = [step.problem for step in steps if step.problem]
    if problems:
        raise SetupError(f"Nothing was changed. {' '.join(problems)}")


def summary(steps: list[Step]) -> str:
    """One line: how much there is to change."""
    count = len(changes(steps))
    return "Nothing has to change." if not count else f"{count} of {len(steps)} things have to change."


@task(name="carry out", cache_policy=NO_CACHE)
def carry_out(step: Step) -> str:
    """Do one step; what was done."""
    if step.do is not None:
        step.do()
    text = f"{step.name}: {step.change}"
    get_run_logger().info(text)
    return text


def carry_out_all(steps: list[Step], done: list[str]) -> None:
    """Do what changes something, in order, noting each in `done` at once: where one fails, it holds what came before."""
    for step in changes(steps):
        name = step.name.replace("{", "{{").replace("}", "}}")
        done.append(carry_out.with_options(task_run_name=name)(step))


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What differs, in the order of `after`.

    >>> differences({"address": "10.0.0.1", "port": 1706}, {"address": "10.0.0.2", "port": 1706})
    ['address 10.0.0.1 → 10.0.0.2']
    """
    return [f"{name} {_shown(before.get(name))} → {_shown(value)}" for name, value in after.items() if before.get(name) != value]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value in (None, "") else str(value)
