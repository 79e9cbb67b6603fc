"""The linac itself: does its iCom service answer, for this very machine, how steadily, and what time does it think it is?

All of that comes from one look of a minute or so: a linac gets one connection from us, never two. Where our listener is connected
already, its journal is looked at instead.
"""

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from blocks import Linac
from linac.capture import check, control
from linac.capture.check import Arrival, Probe
from linac.capture.connection import resolve
from linac.capture.lock import numbers
from linac.capture.steadiness import RoundTrips, Steadiness, Trips, judge, measure
from linac.errors import AlreadyRunningError, LinacError, UnreachableError
from tasks.check import Check, Seen, failed, passed, warned
from tasks.check_server import own_listener
from tasks.drawing import as_image, draw_arrivals

ICOM_WAIT_SECONDS = 10.0
"""An iCom service speaks 4 times a second (facts-icom.md); one that is silent for so long has nothing to say."""

CLOCK_FINE_SECONDS = 30.0
CLOCK_FAR_SECONDS = 120.0
"""A TRF's time is compared with the record-and-verify system's within 240 s either way (facts-site.md): half of it is far."""

CLOCK_NEAR_SECONDS = 300.0
"""A clock that drifted by so much, and is whole or half hours off besides, is still more likely in another time zone."""


def look(linac: Linac, seconds: float, before: Linac | None = None) -> Seen:
    """Watch the linac for so many seconds: address, port, messages, steadiness, clock. `before`: its block in service now."""
    try:
        addresses = resolve(linac.serial, linac.address, linac.port)
    except UnreachableError as error:
        return Seen([failed(_address(linac), error)])
    with RoundTrips(linac.address) as asked:
        try:
            seen = watch(linac, seconds, before)
        except LinacError as error:
            return Seen([_answer(linac, addresses, asked.result()), *_no_messages(linac, error)])
    trips = asked.result()
    steady = measure(seen.arrivals, seen.seconds, seen.breaks)
    checks = [
        _answer(linac, addresses, trips, answered=True),
        passed(_port(linac), "Open; our listener is connected to it." if seen.from_journal else "Open."),
        _messages(linac, seen),
        steadiness(steady, trips),
        clock(linac, seen.arrivals),
    ]
    return Seen(checks, [_picture(linac, seen, steady, trips)])


def watch(linac: Linac, seconds: float, before: Linac | None = None) -> Probe:
    """What arrives from the linac, by the journal of our listener or, where none records it, by a connection for this look."""
    seen = None
    if recorded_here(linac):
        seen = check.probe_journal(linac.spool, linac.serial, seconds, ICOM_WAIT_SECONDS)
    elif before is not None and own_listener(linac, before) is not None:
        seen = check.probe_journal(before.spool, linac.serial, seconds, ICOM_WAIT_SECONDS)
    return seen or check.probe(linac.address, linac.port, linac.serial, seconds, ICOM_WAIT_SECONDS)


def recorded_here(linac: Linac) -> bool:
    """Whether our listener on this computer is connected to this very address."""
    status = control.status(linac.spool, linac.serial)
    return (
        status is not None and status.running and status.port == linac.port and numbers(status.address) == numbers(linac.address)
    )


def steadiness(steady: Steadiness, trips: Trips) -> Check:
    """The measurement against "near-zero network interruptions"."""
    name = f"Steadiness of the network, over {steady.seconds:.0f} s"
    figures = (
        f"{steady.messages} messages, {steady.rate_hz:.1f} a second, jitter {steady.jitter_ms:.0f} ms, {steady.late} late, "
        f"longest silence {steady.longest_silence_s:.2f} s, {steady.lost} missing by the counter"
    )
    if trips.known:
        typical, slowest = statistics.median(trips.answered_ms), max(trips.answered_ms)
        figures += f"; {len(trips.trips)} round trips, {typical:.1f} ms typical, {slowest:.1f} ms at worst, {trips.lost} lost."
    else:
        figures += f"; round trips unknown, as nothing answers at {trips.where}." if trips.where else "."
    bad, odd = judge(steady, trips)
    if bad:
        return failed(
            name,
            f"{' '.join(bad)} {figures} A listener that drops off during a beam can stop the record-and-verify system: record "
            "from a computer close to the linac, on a cable, or have hospital IT mend the way to it, then check again.",
        )
    if odd:
        return warned(name, f"{' '.join(odd)} {figures} Check again at a busy hour; if it stays, show this to hospital IT.")
    return passed(name, figures)


def clock(linac: Linac, arrivals: Sequence[Arrival]) -> Check:
    """The linac's clock against this computer's."""
    name = "Clock of the linac, against this computer's"
    ahead = clock_ahead_seconds(arrivals, linac.site.time_zone)
    if ahead is None:
        return warned(name, "No message told the time.")
    seen = f"It is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}, by {linac.site.time_zone} time."
    if abs(ahead) <= CLOCK_FINE_SECONDS:
        return passed(name, seen)
    half_hours = round(ahead / 1800)
    if half_hours and abs(ahead - half_hours * 1800) <= CLOCK_NEAR_SECONDS:
        nearly = "" if abs(ahead - half_hours * 1800) <= CLOCK_FINE_SECONDS else "nearly "
        return warned(
            name,
            f"{seen} That is {nearly}{abs(half_hours) / 2:g} h: the Site block's time zone is probably wrong, or one "
            "of the two does not change to daylight saving time.",
        )
    advice = "Have the clock of the linac or of this computer set"
    if abs(ahead) > CLOCK_FAR_SECONDS:
        advice += "; beyond 4 minutes logs are no longer found in the record-and-verify system"
    return warned(name, f"{seen} {advice}.")


def clock_ahead_seconds(arrivals: Sequence[Arrival], zone: str) -> float | None:
    """How far the linac's clock is ahead of ours, typically. In the hour that comes twice a year, the nearer one is meant."""
    differences = []
    for arrival in arrivals:
        ours = datetime.fromtimestamp(arrival.wall_ns / 1e9, UTC)
        either = [
            (arrival.linac_time.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) - ours).total_seconds()
            for fold in (0, 1)
        ]
        differences.append(min(either, key=abs))
    return statistics.median(differences) if differences else None


def _address(linac: Linac) -> str:
    return f"Address {linac.address}"


def _port(linac: Linac) -> str:
    return f"iCom port {linac.port}"


def _answer(linac: Linac, addresses: list[tuple[int, object]], trips: Trips, answered: bool = False) -> Check:
    numbers = ", ".join(sorted({str(target[0]) for _, target in addresses if isinstance(target, tuple)}))
    seen = f"It is {numbers}, which answers" if numbers != linac.address else "It answers"
    if trips.known:
        return passed(_address(linac), f"{seen}, within {statistics.median(trips.answered_ms):.1f} ms as a rule.")
    if answered:
        return passed(_address(linac), f"{seen}.")
    return warned(
        _address(linac),
        f"It is {numbers}; nothing answers there at port 445 either. The linac is switched off, the address is wrong, or a "
        "firewall is in between.",
    )


def _no_messages(linac: Linac, error: LinacError) -> list[Check]:
    """The lines of a look that failed: at the port, at what it said, or at another listener of ours."""
    if isinstance(error, AlreadyRunningError):
        return [failed("Other listeners", error)]
    if isinstance(error, UnreachableError) and error.__cause__ is not None:
        return [failed(_port(linac), error)]
    return [passed(_port(linac), "Open."), failed("iCom messages", error)]


def _messages(linac: Linac, seen: Probe) -> Check:
    name = "iCom messages"
    text = f"{seen.messages} messages arrived, the first after {seen.first_message_after_s:.1f} s"
    if not seen.machine_ids:
        return warned(name, f"{text}; none names its machine, so that nothing shows whether it is linac {linac.serial}.")
    if seen.skipped_bytes:
        return warned(name, f"{text}, of machine {linac.serial}; {seen.skipped_bytes} bytes between them were not understood.")
    return passed(name, f"{text}, of machine {linac.serial}.")


def _picture(linac: Linac, seen: Probe, steady: Steadiness, trips: Trips) -> str:
    title = f"Linac {linac.serial}: when its messages came, and the round trips"
    return as_image(draw_arrivals([arrival.seconds for arrival in seen.arrivals], steady, trips, title), title)
