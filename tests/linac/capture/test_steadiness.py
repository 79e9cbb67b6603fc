"""How steadily messages arrive: counted from arrivals, measured on a real connection, judged in sentences."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linac.capture import check, control, steadiness
from linac.capture.check import Arrival, Break
from linac.capture.steadiness import RoundTrips, Steadiness, Trip, Trips, judge, measure
from linac.simulator import SimulatedLinac

WHEN = datetime.fromisoformat("2026-11-22T08:00:00")


def arrivals(intervals: list[float], counters: list[int] | None = None) -> list[Arrival]:
    times = list(itertools.accumulate([0.1, *intervals]))
    numbers = counters or list(range(len(times)))
    return [Arrival(at, number % 256, WHEN, 0) for at, number in zip(times, numbers, strict=True)]


class TestMeasuring:
    def test_nothing_came(self) -> None:
        assert measure([], 5.0) == Steadiness(seconds=5.0, longest_silence_s=5.0)

    def test_the_silence_at_the_end_counts_too(self) -> None:
        assert measure(arrivals([0.25] * 4), 9.1).longest_silence_s == 8.0

    def test_one_late_message(self) -> None:
        seen = measure(arrivals([0.25] * 10 + [2.0] + [0.25] * 10), 7.2)
        assert (seen.late, seen.longest_silence_s, seen.lost) == (1, 2.0, 0)
        assert seen.jitter_ms > 300

    @given(st.integers(0, 255), st.integers(1, 100), st.integers(1, 40))
    def test_as_many_messages_are_missed_as_the_counter_jumps_wherever_it_wraps(self, first: int, jump: int, more: int) -> None:
        counters = [first, first + 1, first + 2 + jump, *(first + 3 + jump + i for i in range(more))]
        assert measure(arrivals([0.25] * (len(counters) - 1), counters), 60.0).lost == jump

    def test_earlier_messages_sent_again_are_not_counted_as_lost(self) -> None:
        assert measure(arrivals([0.25] * 7, [10, 11, 12, 5, 6, 7, 8, 9]), 2.0).lost == 0


class TestJudging:
    def test_steady_is_fine(self) -> None:
        trips = Trips("nss", tuple(Trip(i, 1.2) for i in range(60)))
        assert judge(measure(arrivals([0.25] * 239), 60.0), trips) == ([], [])

    @pytest.mark.parametrize(
        ("seen", "words"),
        [
            (Steadiness(60, 200, 4.0, breaks=(Break(3.0, "reset"),)), "cut once, first with: reset"),
            (Steadiness(60, 200, 4.0, longest_silence_s=6.0), "No message came for 6.0 s"),
        ],
    )
    def test_what_forbids_recording(self, seen: Steadiness, words: str) -> None:
        (bad,), _ = judge(seen, Trips())
        assert words in bad

    @pytest.mark.parametrize(
        ("seen", "words"),
        [
            (Steadiness(60, 200, 4.0, longest_silence_s=1.5), "No message came for 1.5 s"),
            (Steadiness(60, 200, 4.0, lost=2), "2 messages at least are missing"),
            (Steadiness(60, 100, 1.7), "Only 1.7 messages a second"),
        ],
    )
    def test_what_is_worth_knowing(self, seen: Steadiness, words: str) -> None:
        bad, (odd,) = judge(seen, Trips())
        assert not bad
        assert words in odd

    def test_lost_round_trips(self) -> None:
        def of(lost: int) -> Trips:
            return Trips("nss", tuple(Trip(i, None if i < lost else 1.0) for i in range(60)))

        fine = Steadiness(60, 240, 4.0)
        assert judge(fine, of(0)) == ([], [])
        assert judge(fine, of(1)) == ([], ["1 of 60 round trips got no answer."])
        assert judge(fine, of(3)) == (["3 of 60 round trips got no answer."], [])
        assert judge(fine, of(60)) == ([], []), "a firewall that answers nothing says nothing about the network"

    def test_slow_round_trips(self) -> None:
        _, (odd,) = judge(Steadiness(60, 240, 4.0), Trips("nss", (Trip(0, 2.0), Trip(1, 850.0))))
        assert odd == "1 round trips took over 100 ms, the slowest 850 ms."


class TestRoundTrips:
    def test_a_port_that_accepts_and_one_that_refuses_both_answer(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with RoundTrips("127.0.0.1", port, every_seconds=0.05) as asked:
                time.sleep(0.4)
            open_port = asked.result()
        with RoundTrips("127.0.0.1", port, every_seconds=0.05) as asked:
            time.sleep(0.4)
        for trips in (open_port, asked.result()):
            assert trips.known
            assert len(trips.trips) >= 3
            assert trips.lost == 0
            assert all(ms < 500 for ms in trips.answered_ms)

    def test_a_port_that_swallows_every_question(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steadiness, "PROBE_WAIT_SECONDS", 0.1)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            full = [_half_open(server.getsockname()[1]) for _ in range(4)]  # nobody accepts: its queue is full, more is dropped
            with RoundTrips("127.0.0.1", server.getsockname()[1], every_seconds=0.05) as asked:
                time.sleep(0.5)
            for sock in full:
                sock.close()
        if asked.result().known:
            pytest.skip("this system answers for a service that does not")
        assert asked.result().lost >= 1

    def test_a_name_that_does_not_resolve_gives_no_trips(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with RoundTrips("nss-4299.hospital.invalid") as asked:
            pass
        assert asked.result().trips == ()


def _half_open(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    return sock


class TestOnAConnection:
    @pytest.fixture
    def linac(self) -> Iterator[SimulatedLinac]:
        with SimulatedLinac("4299", speed=2) as linac:
            yield linac

    def test_arrivals_are_as_far_apart_as_the_linac_sends_them(self, linac: SimulatedLinac) -> None:
        seen = check.probe(*linac.address, "4299", seconds=3.0)
        result = measure(seen.arrivals, seen.seconds, seen.breaks)
        assert 6 < result.rate_hz < 10
        assert 20 <= result.messages <= 26
        assert result.lost == 0
        assert result.longest_silence_s < 1
        between = [later.seconds - earlier.seconds for earlier, later in itertools.pairwise(seen.arrivals)]
        assert 0.1 < sorted(between)[len(between) // 2] < 0.15, "each counts when it came, not when the next one proved it"
        assert not seen.breaks

    def test_a_pause_and_lost_messages_are_seen(self, linac: SimulatedLinac) -> None:
        def disturb() -> None:
            time.sleep(0.6)
            linac.pause()
            time.sleep(1.5)
            linac.jump(3)
            linac.resume()

        thread = threading.Thread(target=disturb)
        thread.start()
        seen = check.probe(*linac.address, "4299", seconds=3.0)
        thread.join()
        result = measure(seen.arrivals, seen.seconds)
        assert result.lost == 3
        assert 1.3 < result.longest_silence_s < 2.2
        _, odd = judge(result, Trips())
        assert len(odd) >= 2

    def test_a_connection_that_is_cut_is_a_break(self, linac: SimulatedLinac) -> None:
        timer = threading.Timer(0.8, linac.reset)
        timer.start()
        seen = check.probe(*linac.address, "4299", seconds=2.0)
        assert len(seen.breaks) == 1
        assert judge(measure(seen.arrivals, seen.seconds, seen.breaks), Trips())[0]

    def test_through_the_journal_of_the_listener_that_records(self, linac: SimulatedLinac, tmp_path: Any) -> None:
        control.start("4299", *linac.address, tmp_path)
        try:
            deadline = time.monotonic() + 10
            while not ((said := control.status(tmp_path, "4299")) and said.messages > 3) and time.monotonic() < deadline:
                time.sleep(0.05)
            seen = check.probe_journal(tmp_path, "4299", seconds=2.0)
            assert linac.status()["clients"] == 1, "the listener's connection stays the only one"
        finally:
            assert control.stop(tmp_path, "4299")
        assert seen is not None
        assert seen.from_journal
        result = measure(seen.arrivals, seen.seconds)
        assert 6 < result.rate_hz < 10
        assert result.lost == 0
