"""What else is in service: no two linacs with one name or address, no second listener of ours on this linac."""

from blocks import Linac, block_name
from linac.capture import control
from linac.capture.lock import EndpointLock, numbers
from linac.capture.status import Status
from linac.errors import LinacError
from tasks.check import Check, Seen, failed, passed, warned
from tasks.check_folders import is_recorded_here
from tasks.provision import linacs_in_service


def others(linac: Linac) -> Seen:
    """The linacs in service beside this one, and the listeners on this computer."""
    return Seen([unique(linac, linacs_in_service()), listener(linac)])


def unique(linac: Linac, in_service: list[Linac]) -> Check:
    """No other linac has this one's serial, address or, in the same iView database, alias."""
    name = "Other linacs"
    for other in in_service:
        if other.serial == linac.serial:
            continue
        if block_name(other.serial) == block_name(linac.serial):
            return failed(name, f"Linac {other.serial} in service has a name too much like it. Choose a clearly different name.")
        if _same(other, linac):
            return failed(
                name, f"Linac {other.serial} in service has the address {linac.address} already. One of the two is wrong."
            )
        if linac.iview_alias and _alias(other) == _alias(linac):
            return failed(
                name,
                f"Linac {other.serial} in service has the iView alias {other.iview_alias} already. Give each its own: "
                "the images of one would be taken for the other's.",
            )
    before = next((other for other in in_service if other.serial == linac.serial), None)
    count = len(in_service) - (before is not None)
    seen = f"{count} in service, none with this serial, address or iView alias." if count else "None in service."
    if before is None:
        return passed(name, seen)
    if not _same(before, linac):
        was = f"It is in service already, at {before.address} port {before.port}"
        return warned(name, f"{was}: this changes its address. Is it really the same machine?")
    return passed(name, f"{seen} It is in service itself already.")


def _same(one: Linac | Status, other: Linac) -> bool:
    """Whether both mean one iCom service, however its address is written."""
    return one.port == other.port and numbers(one.address) == numbers(other.address)


def _alias(linac: Linac) -> tuple[str, str]:
    """A linac's name in the iView's database, and whose that is: two databases may each know a linac by the same name."""
    site = linac.site
    return linac.iview_alias.strip().lower(), (site.iview.path if site.iview is not None else site.name).lower()


def listener(linac: Linac) -> Check:
    """No other listener of ours on this computer holds the linac's connection."""
    name = "Other listeners"
    if not is_recorded_here(linac):
        return passed(name, "Those on this computer do not matter.") if _free(linac) else _taken(name, linac)
    try:
        status = control.status(linac.spool, linac.serial)
    except LinacError as error:
        return failed(name, error)
    if status is not None and status.running:
        if _same(status, linac):
            return passed(name, f"Ours records it, process {status.pid}.")
        return warned(
            name, f"Ours records {status.address} port {status.port} under this serial; it is ended before the new one starts."
        )
    return passed(name, "None on this computer is connected to it.") if _free(linac) else _taken(name, linac)


def _free(linac: Linac) -> bool:
    claim = EndpointLock(linac.address, linac.port)
    mine = claim.acquire()
    claim.release()
    return mine


def _taken(name: str, linac: Linac) -> Check:
    return failed(
        name,
        f"Another listener on this computer, with another spool or serial, is connected to {linac.address} port {linac.port}. A "
        "linac must have one connection only: stop that one first (`python -m linac.icom status` lists those of a spool).",
    )
