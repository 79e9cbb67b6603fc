"""What else is in service: no two linacs with one name or address, no second listener of ours on this linac."""

from collections.abc import Sequence

from blocks import Linac, block_name
from linac.capture import control
from linac.capture.lock import EndpointLock, numbers
from linac.capture.status import Status
from linac.errors import LinacError
from tasks.check import Check, Seen, failed, passed, warned
from tasks.check_folders import is_recorded_here
from tasks.provision import linacs_in_service

UNFINISHED = "An earlier add-linac of it was not finished: add-linac finishes it, remove-linac undoes it."


def others(linac: Linac) -> Seen:
    """The linacs in service beside this one, and the listeners on this computer."""
    in_service = linacs_in_service()
    return Seen([unique(linac, in_service), listener(linac, in_service)])


def unique(linac: Linac, in_service: list[Linac]) -> Check:
    """No other linac has this one's serial, address or, in the same iView database, alias.

    A linac has a block from the time that add-linac begins to change things; in service it is once the block says since when.
    """
    name = "Other linacs"
    for other in in_service:
        if other.serial == linac.serial:
            continue
        if block_name(other.serial) == block_name(linac.serial):
            return failed(name, f"Linac {other.serial} has a name too much like it. Choose a clearly different name.")
        if _same(other, linac):
            return failed(name, f"Linac {other.serial} has the address {linac.address} already. One of the two is wrong.")
        if linac.iview_alias and _alias(other) == _alias(linac):
            return failed(
                name,
                f"Linac {other.serial} has the iView alias {other.iview_alias} already. Give each its own: "
                "the images of one would be taken for the other's.",
            )
    before = next((other for other in in_service if other.serial == linac.serial), None)
    count = sum(other.in_service is not None for other in in_service if other is not before)
    seen = f"{count} in service, none with this serial, address or iView alias." if count else "None in service."
    if before is None:
        return passed(name, seen)
    if not _same(before, linac):
        known = "is in service already" if before.in_service else "has been added before, though not to the end"
        was = f"It {known}, at {before.address} port {before.port}"
        return warned(name, f"{was}: this changes its address. Is it really the same machine?")
    return passed(name, f"{seen} {UNFINISHED if before.in_service is None else 'It is in service itself already.'}")


def _same(one: Linac | Status, other: Linac) -> bool:
    """Whether both mean one iCom service, however its address is written."""
    return one.port == other.port and numbers(one.address) == numbers(other.address)


def _alias(linac: Linac) -> tuple[str, str]:
    """A linac's name in the iView's database, and whose that is: two databases may each know a linac by the same name."""
    site = linac.site
    return linac.iview_alias.strip().lower(), (site.iview.path if site.iview is not None else site.name).lower()


def listener(linac: Linac, in_service: Sequence[Linac] = ()) -> Check:
    """No other listener of ours on this computer holds the linac's connection, but that of its own block in service."""
    name = "Other listeners"
    before = next((other for other in in_service if other.serial == linac.serial), None)
    try:
        status = control.status(linac.spool, linac.serial) if is_recorded_here(linac) else None
        own = own_listener(linac, before)
    except LinacError as error:
        return failed(name, error)
    if own is not None and not own.standalone and (status is None or not status.running):  # a service is not ours to end
        return passed(
            name, f"The linac's own, process {own.pid}, records it as it is in service now; it is ended before the new one."
        )
    if not is_recorded_here(linac):
        return passed(name, "Those on this computer do not matter.") if _free(linac) else _taken(name, linac)
    if status is not None and status.running:
        if _same(status, linac):
            if status.archive_trouble:
                return warned(name, f"Ours records it, process {status.pid}, but it is not archived: {status.archive_trouble}")
            return passed(name, f"Ours records it, process {status.pid}.")
        return warned(
            name, f"Ours records {status.address} port {status.port} under this serial; it is ended before the new one starts."
        )
    return passed(name, "None on this computer is connected to it.") if _free(linac) else _taken(name, linac)


def own_listener(linac: Linac, before: Linac | None) -> Status | None:
    """The listener that records this address now for the block in service, on this computer. Raises `LinacError`."""
    if before is None or before.serial != linac.serial or not is_recorded_here(before):
        return None
    status = control.status(before.spool, before.serial)
    return status if status is not None and status.running and _same(status, linac) else None


def _free(linac: Linac) -> bool:
    claim = EndpointLock(linac.address, linac.port)
    mine = claim.acquire()
    claim.release()
    return mine


def _taken(name: str, linac: Linac) -> Check:
    return failed(
        name,
        f"Another listener or check on this computer has claimed {linac.address} port {linac.port}; which one is not known. A "
        "linac must have one connection only: let another run for this linac end, or stop that listener (`python -m linac.icom "
        "status` lists those of a spool), then check again.",
    )
