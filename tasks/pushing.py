"""A linac's service put on its capture host over SSH, or taken away again, as steps of a plan. See linac.provision.push."""

import re
from collections.abc import Callable
from pathlib import Path

from prefect import get_run_logger

from blocks import Linac
from blocks.linac import Service
from linac.errors import SetupError
from linac.provision.push import Pending, Programs, is_there, look, push, withdraw
from tasks.files import others_of, same_host, services_of
from tasks.plan import Step, planned

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
"""Where somebody has put what a bundle for Windows holds of others: on the worker's own disk, as it runs with an administrator's
rights on the capture host."""

_EMBED = re.compile(r"python-(\d+)\.(\d+)\.(\d+)-embed-amd64\.zip")


def pushed_steps(linac: Linac) -> list[Step]:
    """The services of its capture host are installed and run, its own among them; nothing where IT or a worker sees to that."""
    if linac.capture_login is None:
        return []
    return [_planned(linac, lambda: _push_step(linac))]


def moved_steps(linac: Linac, before: Linac | None) -> list[Step]:
    """The service that this software put on another host, or as another kind, is taken away first: one connection per linac."""
    if before is None or before.capture_login is None:
        return []
    was, now = before.capture_login, linac.capture_login or before.capture_login  # without a login, the service there is IT's
    if same_host(before, linac) and (was.host.lower(), was.port) == (now.host.lower(), now.port):
        return []
    return withdrawn_steps(before)


def withdrawn_steps(linac: Linac) -> list[Step]:
    """Its service is stopped in order and removed, where this software put it there."""
    if linac.capture_login is None:
        return []
    return [_planned(linac, lambda: _withdraw_step(linac))]


def _planned(linac: Linac, work_out: Callable[[], Step]) -> Step:
    step = planned(_name(linac), work_out)
    if not step.problem:
        return step
    advice = "Or run add-linac without the SSH login of the capture host: then the service there is IT's."
    return Step(step.name, problem=f"{step.problem} {advice}")


def _name(linac: Linac) -> str:
    return f"Service on {linac.capture_login.host if linac.capture_login else ''}"


def _push_step(linac: Linac) -> Step:
    assert linac.capture_login is not None  # noqa: S101 (see pushed_steps)
    host, what, programs = linac.capture_login.open(), services_of([*others_of(linac), linac]), _programs(linac)
    pending = look(host, what, programs)
    account = linac.service_account
    password = account.password.get_secret_value() if account is not None and what.log_on else None

    def do() -> None:
        push(host, what, get_run_logger().info, programs, password=password)

    return Step(_name(linac), _change(pending), do, _names(pending))


def _change(pending: Pending) -> str:
    parts = []
    if pending.changed or pending.gone:
        parts.append(pending.told)
    if pending.stopped:
        parts.append(f"started: the recording of linac {', '.join(pending.stopped)}")
    return "; ".join(parts)


def _names(pending: Pending) -> str:
    return "\n".join([*(f"+ {name}" for name in pending.changed), *(f"- {name}" for name in pending.gone)])


def _withdraw_step(linac: Linac) -> Step:
    assert linac.capture_login is not None  # noqa: S101 (see withdrawn_steps)
    host, others = linac.capture_login.open(), others_of(linac)
    what, left = services_of([*others, linac]), services_of(others) if others else None
    if not is_there(host, what, linac.serial):
        return Step(_name(linac))
    programs = _programs(linac) if left is not None else None

    def do() -> None:
        withdraw(host, what, linac.serial, get_run_logger().info, left, programs)

    return Step(_name(linac), "stopped in order and removed; what was recorded is kept", do)


def _programs(linac: Linac) -> Programs:
    """Raises `SetupError` where what a Windows host needs is not there."""
    if linac.service is not Service.NSSM:
        return Programs()
    found = {tuple(map(int, match.groups())): path for path in PROGRAMS.glob("*.zip") if (match := _EMBED.fullmatch(path.name))}
    nssm = PROGRAMS / "nssm.exe"
    if not found:
        raise SetupError(
            "A Windows host needs Python: put python-3.11.9-embed-amd64.zip or newer from https://www.python.org, and nssm.exe "
            f"from https://nssm.cc, into the folder {PROGRAMS} of the worker's computer."
        )
    return Programs(found[max(found)].read_bytes(), nssm.read_bytes() if nssm.is_file() else None)
