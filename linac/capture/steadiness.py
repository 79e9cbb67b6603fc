"""How steadily messages arrive, and what that means: is this network fit to record a linac through?

>>> from datetime import datetime
>>> from linac.capture.check import Arrival
>>> quiet = [Arrival(i * 0.25, i % 256, datetime(2026, 11, 22), 0) for i in range(41)]
>>> seen = measure(quiet, 10.2)
>>> seen.messages, seen.rate_hz, seen.jitter_ms, seen.longest_silence_s, seen.lost
(41, 4.0, 0.0, 0.25, 0)
>>> judge(seen, Trips())
([], [])

A listening computer that drops off the network during a beam can stop the record-and-verify system (PyMedPhys issue 849), so the
server for it should have "near-zero network interruptions". `measure` counts them, `round_trips` asks the NSS at the same time
how long the way there and back takes, without a second iCom connection. The limits in `judge` are our choice, for want of a
vendor's: a linac sends every 250 ms (facts from PyMedPhys's listener), and TCP needs a second or more to repair a loss.
It measures no bandwidth; 33 kB a second is all that a linac sends.
"""

import itertools
import os
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from linac.capture.check import Arrival, Break
from linac.capture.connection import resolve
from linac.errors import UnreachableError

SMB_PORT = 445
"""Asked for round trips: an NSS shares its backups there, and even a refusal is an answer that has travelled."""

LOWEST_RATE_HZ = 3.5
"""Of 4 a second (PyMedPhys's listener, measured 253 ms). A linac that catches up after a pause may send faster."""

LONG_SILENCE_S = 1.0
TOO_LONG_SILENCE_S = 5.0
"""Longer than one lost packet takes to be sent again; longer than several do: somebody would have noticed."""

SLOW_TRIP_MS = 100.0
"""In a hospital's network a round trip takes a few milliseconds, from site to site some tens."""

PROBE_WAIT_SECONDS = 2.0
"""An answer later than this counts as lost: TCP has then sent its question at least twice."""

PROBE_EVERY_SECONDS = 1.0
_CUT_FAR = 3.0
_LATE = 2.5


@dataclass(frozen=True)
class Steadiness:
    """What was measured. `seconds`: watched; `rate_hz`: messages a second between the first and the last; `jitter_ms`: standard
    deviation of the intervals between them; `late`: intervals over 2.5 times the usual one; `longest_silence_s`: without any
    message, the end of the watching included; `lost`: messages that the counter shows to be missing (at least: it wraps at 256);
    `breaks`: when the connection was cut.
    """

    seconds: float = 0.0
    messages: int = 0
    rate_hz: float = 0.0
    jitter_ms: float = 0.0
    late: int = 0
    longest_silence_s: float = 0.0
    lost: int = 0
    breaks: tuple[Break, ...] = ()


@dataclass(frozen=True)
class Trip:
    """One question to the NSS, asked so many seconds after the beginning: milliseconds to its answer, None if none came."""

    seconds: float
    ms: float | None


@dataclass(frozen=True)
class Trips:
    """Round trips to `where`, asked for by connecting there and hanging up at once."""

    where: str = ""
    trips: tuple[Trip, ...] = field(default=(), repr=False)

    @property
    def answered_ms(self) -> list[float]:
        return [trip.ms for trip in self.trips if trip.ms is not None]

    @property
    def lost(self) -> int:
        return len(self.trips) - len(self.answered_ms)

    @property
    def known(self) -> bool:
        """Whether anything answered: a firewall that swallows every question says nothing about the network."""
        return bool(self.answered_ms)


def measure(arrivals: Sequence[Arrival], seconds: float, breaks: Sequence[Break] = ()) -> Steadiness:
    """Figures of the messages that were seen in so many seconds."""
    if not arrivals:
        return Steadiness(seconds=seconds, longest_silence_s=round(seconds, 2), breaks=tuple(breaks))
    times = [arrival.seconds for arrival in arrivals]
    intervals = [later - earlier for earlier, later in itertools.pairwise(times)]
    usual = statistics.median(intervals) if intervals else 0.0
    lost = 0
    for before, after in itertools.pairwise(arrivals):
        missing = (after.counter - before.counter - 1) % 256
        if missing < 128:  # more would be a repeat: after a reconnect a linac may send earlier messages again
            lost += missing
    span = times[-1] - times[0]
    return Steadiness(
        seconds=seconds,
        messages=len(arrivals),
        rate_hz=round((len(times) - 1) / span, 2) if span > 0 else 0.0,
        jitter_ms=round(statistics.pstdev(intervals) * 1000, 1) if intervals else 0.0,
        late=sum(interval > max(_LATE * usual, 0.02) for interval in intervals),
        longest_silence_s=round(max([*intervals, seconds - times[-1]]), 2),
        lost=lost,
        breaks=tuple(breaks),
    )


def judge(seen: Steadiness, trips: Trips) -> tuple[list[str], list[str]]:
    """What speaks against recording through this network, and what is worth knowing. Two lists of sentences, empty if nothing."""
    bad: list[str] = []
    odd: list[str] = []
    if seen.breaks:
        bad.append(f"The connection was cut {_times(len(seen.breaks))}, first with: {seen.breaks[0].reason}.")
    if seen.longest_silence_s > TOO_LONG_SILENCE_S:
        bad.append(f"No message came for {seen.longest_silence_s:.1f} s.")
    elif seen.longest_silence_s > LONG_SILENCE_S:
        odd.append(f"No message came for {seen.longest_silence_s:.1f} s.")
    if seen.lost:
        odd.append(f"{seen.lost} messages at least are missing, by the linac's counter.")
    if seen.seconds >= _CUT_FAR and seen.rate_hz < LOWEST_RATE_HZ:
        odd.append(f"Only {seen.rate_hz:.1f} messages a second came; a linac sends 4.")
    if trips.known:
        if trips.lost >= 2 and trips.lost > 0.02 * len(trips.trips):
            bad.append(f"{trips.lost} of {len(trips.trips)} round trips got no answer.")
        elif trips.lost:
            odd.append(f"{trips.lost} of {len(trips.trips)} round trips got no answer.")
        slow = [ms for ms in trips.answered_ms if ms > SLOW_TRIP_MS]
        if slow:
            odd.append(f"{len(slow)} round trips took over {SLOW_TRIP_MS:.0f} ms, the slowest {max(slow):.0f} ms.")
    return bad, odd


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class RoundTrips:
    """Asks for round trips in a thread of its own while something else is watched. Use it in a `with` statement.

    A name that does not resolve gives no trips.
    """

    def __init__(self, address: str, port: int = SMB_PORT, every_seconds: float = PROBE_EVERY_SECONDS) -> None:
        self.address, self.port, self.every_seconds = address, port, every_seconds
        self._trips: list[Trip] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="round trips")

    def __enter__(self) -> "RoundTrips":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(PROBE_WAIT_SECONDS + 1)

    def result(self) -> Trips:
        """What is known so far."""
        return Trips(f"{self.address} port {self.port}", tuple(self._trips))

    def _run(self) -> None:
        began = time.monotonic()
        try:
            family, target = resolve("", self.address, self.port)[0]
        except UnreachableError:
            return
        while not self._ending.is_set():
            asked = time.monotonic()
            ms = _round_trip_ms(family, target)
            if ms is not None or not self._ending.is_set():
                self._trips.append(Trip(round(asked - began, 3), ms))
            self._ending.wait(max(0.0, self.every_seconds - (time.monotonic() - asked)))


def _round_trip_ms(family: int, target: object) -> float | None:
    """Milliseconds until the other end accepts or refuses a connection, None if it does neither in time.

    Windows asks three times before it believes a refusal, which takes it 1.5 s: there the time of a refusal says nothing, and it
    counts as an answer of no length.
    """
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(PROBE_WAIT_SECONDS)
        began = time.perf_counter()
        try:
            sock.connect(target)  # type: ignore[arg-type]
        except ConnectionRefusedError:
            return 0.0 if os.name == "nt" else _since_ms(began)
        except OSError:
            return None
        return _since_ms(began)


def _since_ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 2)
