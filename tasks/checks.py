"""Looking before leaping: the checklist of add-linac and check-linac. It changes nothing that outlives it.

Each line of the list is a plain function of the linac, in check_network (the linac itself), check_folders (shares and disks)
and check_server (what else is in service). Here they become steps of a flow, one after the other: the measurement of the
network must not be disturbed by the test of a share.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks import Linac
from linac.errors import LinacError
from tasks import check_folders, check_network, check_server
from tasks.check import Check, Outcome, Seen
from tasks.provision import linacs_in_service

STEADINESS_SECONDS = 60


@dataclass(frozen=True)
class Checklist:
    """All lines, in order, with the pictures that belong to them, as Markdown; `made_on` is the computer that looked."""

    checks: list[Check] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    made_on: str = field(default_factory=socket.gethostname)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.outcome is Outcome.FAIL]

    @property
    def warned(self) -> list[Check]:
        return [check for check in self.checks if check.outcome is Outcome.WARN]

    @property
    def verdict(self) -> str:
        """One line: how many passed, how many did not."""
        passed = len(self.checks) - len(self.failed) - len(self.warned)
        return f"{passed} checks passed, {len(self.warned)} with a warning, {len(self.failed)} failed."


Look = Callable[[], Seen]


def looks(linac: Linac, seconds: float) -> list[tuple[str, Look]]:
    """What is looked at, in order: a name and the function that does it."""
    return [
        ("other linacs", lambda: check_server.others(linac)),
        ("capture host", lambda: check_folders.capture_host(linac)),
        ("linac", lambda: check_network.look(linac, seconds, in_service_now(linac))),
        ("backups", lambda: check_folders.backups(linac)),
        ("records", lambda: check_folders.records(linac, linacs_in_service())),
        ("spool", lambda: check_folders.spool(linac)),
        ("iView", lambda: check_folders.iview(linac)),
        ("gateways", lambda: check_folders.gateways(linac)),
        ("PyMedPhys", lambda: check_folders.pymedphys(linac)),
    ]


def in_service_now(linac: Linac) -> Linac | None:
    """The block of this linac that is in service, which may differ from what it is to be."""
    return next((other for other in linacs_in_service() if other.serial == linac.serial), None)


def make_checklist(linac: Linac, seconds: float = STEADINESS_SECONDS) -> Checklist:
    """Look at everything, each as a step of the flow that calls this."""
    made = Checklist()
    for name, function in looks(linac, seconds):
        seen = look.with_options(task_run_name=f"check-{name.replace(' ', '-')}-{linac.serial}")(name, function)
        made.checks.extend(seen.checks)
        made.pictures.extend(seen.pictures)
    return made


@task(name="check", cache_policy=NO_CACHE)
def look(name: str, function: Look) -> Seen:
    """One look, told in the run's log. What goes wrong with it is a line of the list, too, and the others go on."""
    try:
        seen = function()
    except LinacError as error:
        seen = Seen([Check(name, Outcome.FAIL, str(error))])
    log = get_run_logger()
    say = {Outcome.PASS: log.info, Outcome.WARN: log.warning, Outcome.FAIL: log.error}
    for check in seen.checks:
        say[check.outcome]("%s: %s. %s", check.outcome.value, check.name, check.seen)
    return seen
