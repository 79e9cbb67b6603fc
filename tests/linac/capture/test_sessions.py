"""Sessions: whatever happens to the connection, every message is kept once, with its patient, and what is missing is said."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linac.capture.journal import Damage, Entry, Kind, Position, Record
from linac.capture.sessions import Ended, Kept, Session, SessionCutter, cut, told_gaps, told_missing
from linac.icom import Message

UNHURRIED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy computer, too


def kinds(session: Session) -> list[str]:
    return [event.kind for event in session.events]


def raws(messages: list[Message]) -> list[bytes]:
    return [message.raw for message in messages]


def test_a_session_is_from_the_first_message_with_a_patient_to_the_last(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 12, first=4)
    script = lab.Script().note(Kind.STARTED).note(Kind.CONNECTED)
    script.data(*lab.idle(4, 0), *treated, *lab.idle(4, 16))
    [(session, messages)] = cut(script.entries)
    assert raws(messages) == treated
    assert (session.patient_id, session.patient_name) == ("TEST-1", "Nobody^At All")
    assert session.stamp == "20240506_121315"
    assert (session.messages, session.mu, session.gaps, session.events) == (12, 11.0, 0, [])
    assert session.machine_ids == ["4299"]
    assert session.lacking == {}
    assert (session.started, session.ended) == (lab.START + timedelta(seconds=1), lab.START + timedelta(seconds=3))


@pytest.mark.parametrize("blank", [None, "", "   ", "-32767"])
def test_a_patient_id_that_is_absent_or_empty_ends_a_session(lab: SimpleNamespace, blank: str | None) -> None:
    script = lab.Script().data(*lab.session("TEST-1", 5), lab.message(5, patient=blank), *lab.session("TEST-1", 5, first=6))
    assert [session.messages for session, _ in cut(script.data(lab.message(11)).entries)] == [5, 5]


def test_a_change_of_patient_without_an_idle_message_is_two_sessions(lab: SimpleNamespace) -> None:
    one, two = lab.session("TEST-1", 6), lab.session("TEST-2", 7, first=6)
    script = lab.Script().data(*one, *two, *lab.idle(2, 13))
    assert [raws(messages) for _, messages in cut(script.entries)] == [one, two]


@pytest.mark.parametrize("patient", ["0123456789", "Müller-7", "M\xfcller".encode("latin-1"), "A^B/C:D", "1\n2"])
def test_ids_of_every_kind_come_through(lab: SimpleNamespace, patient: str | bytes) -> None:
    script = lab.Script().data(*lab.session(patient, 5, name="DOE^JÖRN"), *lab.idle(2, 5))
    [(session, _)] = cut(script.entries)
    assert session.messages == 5
    assert session.patient_id == (patient if isinstance(patient, str) else "Müller")


def test_the_name_may_be_missing_from_some_messages(lab: SimpleNamespace) -> None:
    messages = [lab.message(n, patient="TEST-1", name=None if n < 3 else "Nobody^At All") for n in range(6)]
    [(session, _)] = cut(lab.Script().data(*messages, *lab.idle(2, 6)).entries)
    assert (session.patient_name, session.messages) == ("Nobody^At All", 6)


def test_no_patient_shows_in_a_repr(lab: SimpleNamespace) -> None:
    [(session, _)] = cut(lab.Script().data(*lab.session("TEST-1", 3), *lab.idle(2, 3)).entries)
    assert "TEST-1" not in repr(session)
    assert "Nobody" not in repr(session)


def test_a_lost_connection_is_a_gap_in_one_session(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 40)
    script = lab.Script().data(*treated[:20])
    script.note(Kind.DISCONNECTED, reason="the network: reset").note(Kind.CONNECTED, seconds=2)
    [(session, messages)] = cut(script.data(*treated[28:], *lab.idle(2, 40)).entries)
    assert raws(messages) == treated[:20] + treated[28:]
    [gap] = session.events
    assert (gap.kind, gap.missing, gap.reason, session.gaps) == ("reconnect", 8, "the network: reset", 1)
    assert (gap.before.counter, gap.after.counter) == (19, 28)
    assert gap.after.arrived_ns > gap.before.arrived_ns


def test_a_killed_listener_is_a_gap_in_one_session(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 40)
    script = lab.Script().data(*treated[:20]).restart().data(*treated[28:], *lab.idle(2, 40))
    [(session, messages)] = cut(script.entries)
    assert raws(messages) == treated[:20] + treated[28:]
    assert [(gap.kind, gap.missing) for gap in session.events] == [("restart", 8)]
    assert session.runs == ["run-1", "run-1+"]


def test_what_the_linac_sends_again_is_kept_once(lab: SimpleNamespace) -> None:
    """After a reconnect comes a batch: known messages (idle ones and of the patient before, too), then those that were missed."""
    earlier = [*lab.session("TEST-0", 8), *lab.idle(3, 8)]
    treated = lab.session("TEST-1", 40, first=11)
    script = lab.Script().data(*earlier, *treated[:20])
    script.note(Kind.DISCONNECTED, reason="x").note(Kind.CONNECTED, seconds=2)
    script.data(b"".join([*earlier[-6:], *treated[:28]])).data(*treated[28:], *lab.idle(2, 51))
    (before, _), (session, messages) = cut(script.entries)
    assert raws(messages) == treated
    assert before.messages == 8
    assert [(event.kind, event.count, event.missing) for event in session.events] == [("repeats", 26, None), ("reconnect", 1, 0)]


def test_what_the_linac_sends_again_behind_new_messages_is_kept_once_too(lab: SimpleNamespace) -> None:
    """A linac may go on with what is new at once, and send the batch of earlier messages a moment later."""
    treated = lab.session("TEST-1", 60)
    script = lab.Script().data(*treated[:20])
    script.note(Kind.DISCONNECTED, reason="x").note(Kind.CONNECTED, seconds=2)
    script.data(*treated[28:32], b"".join(treated[5:20])).data(*treated[32:], *lab.idle(2, 60))
    [(session, messages)] = cut(script.entries)
    assert raws(messages) == treated[:20] + treated[28:]
    assert [(event.kind, event.count, event.missing) for event in session.events] == [("reconnect", 1, 8), ("repeats", 15, None)]


def test_an_old_message_that_was_missed_is_kept_and_said(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 40)
    script = lab.Script().data(*treated[:10], *treated[18:24])
    script.note(Kind.DISCONNECTED, reason="x").note(Kind.CONNECTED, seconds=2)
    script.data(*treated[8:30], *treated[30:], *lab.idle(2, 40))
    [(session, messages)] = cut(script.entries)
    assert sorted(raws(messages)) == sorted(treated)
    assert [(event.kind, event.missing) for event in session.events] == [
        ("counter_jump", 8),
        ("repeats", None),
        ("reconnect", None),
        ("late", None),
        ("counter_jump", 6),
    ], "which messages a late one fills in for is not known"


def test_a_jumping_counter_is_recorded_and_ends_nothing(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 40)
    [(session, messages)] = cut(lab.Script().data(*treated[:10], *treated[15:], *lab.idle(2, 40)).entries)
    assert len(messages) == 35
    [event] = session.events
    assert (event.kind, event.missing, event.before.counter, event.after.counter) == ("counter_jump", 5, 9, 15)
    assert session.gaps == 1


def test_the_counter_may_wrap(lab: SimpleNamespace) -> None:
    [(session, messages)] = cut(lab.Script().data(*lab.session("TEST-1", 20, first=250), *lab.idle(2, 270)).entries)
    assert len(messages) == 20
    assert session.events == []


def test_the_same_message_twice_is_kept_once(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 10)
    [(session, messages)] = cut(lab.Script().data(*treated[:5], treated[4], treated[4], *treated[5:], *lab.idle(2, 10)).entries)
    assert raws(messages) == treated
    assert [(event.kind, event.count) for event in session.events] == [("repeats", 2)]
    assert session.gaps == 0


def test_the_same_counter_with_other_data_is_kept_and_said(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 10)
    other = lab.message(4, patient="TEST-1", mu=4.5)
    [(session, messages)] = cut(lab.Script().data(*treated[:5], other, *treated[5:], *lab.idle(2, 10)).entries)
    assert raws(messages) == [*treated[:5], other, *treated[5:]]
    assert kinds(session) == ["repeat_with_other_data"]


def test_a_clock_that_goes_back_ends_nothing(lab: SimpleNamespace) -> None:
    """As in the last night of summer time."""
    later = [lab.message(n, patient="TEST-1", mu=n, time=lab.START - timedelta(hours=1)) for n in range(10, 20)]
    [(session, messages)] = cut(lab.Script().data(*lab.session("TEST-1", 10), *later, *lab.idle(2, 20)).entries)
    assert len(messages) == 20
    assert kinds(session) == ["clock_back"]
    assert session.events[0].after.timestamp == lab.START - timedelta(hours=1)


def test_garbage_is_counted_and_ends_nothing(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 20)
    script = lab.Script().data(*treated[:10], b"\x00GARBAGE\xff" * 3, *treated[10:], *lab.idle(2, 20))
    [(session, messages)] = cut(script.entries)
    assert raws(messages) == treated
    assert [(event.kind, event.count) for event in session.events] == [("skipped", 27)]


def test_a_header_alone_is_garbage_and_ends_nothing(lab: SimpleNamespace) -> None:
    """It says nothing of a patient, not even that there is none."""
    treated = lab.session("TEST-1", 20)
    header = lab.message(177)[:27]
    [(session, messages)] = cut(lab.Script().data(*treated[:10], header, *treated[10:], *lab.idle(2, 20)).entries)
    assert raws(messages) == treated
    assert [(event.kind, event.count) for event in session.events] == [("skipped", 27)]
    assert session.gaps == 0


@pytest.mark.parametrize("rubbish", ["garbage", "headers"])
def test_a_session_ends_a_quarter_of_an_hour_after_its_last_message_whatever_else_comes(
    lab: SimpleNamespace, rubbish: str
) -> None:
    script = lab.Script().data(*lab.session("TEST-1", 12))
    pieces = [bytes(range(200)) if rubbish == "garbage" else lab.message(n % 256)[:27] for n in range(100)]
    script.data(*pieces, seconds=10)
    cutter = SessionCutter()
    steps = steps_of(cutter, script.entries)
    assert [type(step) for step in steps] == [Kept] * 12 + [Ended]
    assert cutter.session is None


@pytest.mark.parametrize("size", [10, 60, 400, 2000])
def test_half_a_message_is_skipped_and_said(lab: SimpleNamespace, size: int) -> None:
    treated = lab.session("TEST-1", 30)
    script = lab.Script().data(*treated[:20], treated[20][:size])
    script.note(Kind.DISCONNECTED, reason="x").note(Kind.CONNECTED, seconds=1)
    [(session, messages)] = cut(script.data(*treated[20:], *lab.idle(2, 30)).entries)
    assert raws(messages) == treated
    [skipped] = [event for event in session.events if event.kind == "skipped"]
    assert skipped.count == size
    assert skipped.before is not None
    assert skipped.before != skipped.after, "it is not before and behind one message"


def test_another_name_under_the_same_id_leaves_it_one_session_under_the_first(lab: SimpleNamespace) -> None:
    one, two = lab.session("TEST-1", 10), lab.session("TEST-1", 10, first=10, name="Other^Invented")
    [(session, messages)] = cut(lab.Script().data(*one, *two, *lab.idle(2, 20)).entries)
    assert raws(messages) == [*one, *two]
    assert session.patient_name == "Nobody^At All"


def test_a_message_cut_at_the_end_of_an_item_is_not_taken_for_a_whole_one(lab: SimpleNamespace) -> None:
    """Neither for one without leaves, nor, where the patient comes later in it, for an idle one."""
    first = lab.message(0, patient="TEST-1")
    ends = [27]
    while ends[-1] < len(first):
        ends.append(ends[-1] + 12 + int.from_bytes(first[ends[-1] + 8 : ends[-1] + 12], "little"))
    for end in [*ends[1:6], ends[-2]]:
        treated = lab.session("TEST-1", 6)  # fewer than the prefix needs to prove itself
        script = lab.Script().data(*treated[:3], treated[3][:end])
        script.note(Kind.DISCONNECTED, seconds=2, reason="x").note(Kind.CONNECTED, seconds=1)
        [(session, messages)] = cut(script.data(*treated[3:], *lab.idle(2, 6)).entries)
        assert raws(messages) == treated, f"cut at {end}"
        assert ("skipped", end) in [(event.kind, event.count) for event in session.events]


def test_a_pause_inside_a_message_at_the_end_of_an_item_cuts_nothing(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 6)
    at = 27 + 12 + 6 + 12 + 13  # header, patient ID, patient name
    script = (
        lab.Script().data(*treated[:3], treated[3][:at]).data(treated[3][at:], seconds=5.0).data(*treated[4:], *lab.idle(2, 6))
    )
    [(_session, messages)] = cut(script.entries)
    assert raws(messages) == treated


def test_the_first_message_of_a_patient_may_pause_at_the_end_of_any_item(lab: SimpleNamespace) -> None:
    """Nothing like it came before, so nothing shows that it is not complete."""
    treated = lab.session("TEST-1", 6)
    for at in (27, 27 + 12 + 6, 27 + 12 + 6 + 12 + 13, len(treated[0]) - 17):
        for seconds in (2.0, 15.0):
            script = lab.Script().data(*lab.idle(3, 253), treated[0][:at]).data(treated[0][at:], seconds=seconds)
            [(session, messages)] = cut(script.data(*treated[1:], *lab.idle(2, 6)).entries)
            kept = raws(messages)
            assert kept == treated or (seconds > 10 and kept[1:] == treated and "replaced" in kinds(session)), (at, seconds)


def test_a_shorter_message_before_a_pause_is_kept(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 6)
    shorter = lab.message(3, patient="TEST-1", mu=3.0)[: -(12 + 5)]  # without its last item, but whole
    treated[3] = shorter
    script = lab.Script().data(*treated[:4]).data(treated[4], seconds=5.0).data(*treated[5:], *lab.idle(2, 6))
    [(_session, messages)] = cut(script.entries)
    assert raws(messages) == treated


def test_damage_in_the_journal_is_a_gap(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 20)
    script = lab.Script().data(*treated[:10])
    script.entries.append(Entry(Position(1, 1), Position(1, 2), Damage("a record inside a journal segment is lost", 4711)))
    [(session, messages)] = cut(script.data(*treated[12:], *lab.idle(2, 20)).entries)
    assert len(messages) == 18
    assert [(event.kind, event.missing) for event in session.events] == [("damaged", 2)]


def test_dropped_bytes_are_a_gap(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 20)
    script = lab.Script().data(*treated[:10], treated[10][:100]).note(Kind.DROPPED, bytes=5000)
    [(session, messages)] = cut(script.data(treated[14][70:], *treated[15:], *lab.idle(2, 20)).entries)
    assert raws(messages) == treated[:10] + treated[15:]
    assert "dropped" in kinds(session)
    assert session.gaps == 1


def test_a_gap_at_the_end_of_a_session_belongs_to_it(lab: SimpleNamespace) -> None:
    script = lab.Script().data(*lab.session("TEST-1", 10)).note(Kind.DISCONNECTED, reason="x").note(Kind.CONNECTED, seconds=9)
    script.data(*lab.session("TEST-2", 5, first=40), *lab.idle(2, 45))
    (one, _), (two, _) = cut(script.entries)
    assert kinds(one) == kinds(two) == ["reconnect"], "the last of one or the first of the other may be missing"
    assert (one.gaps, two.gaps) == (1, 0), "but it was one interruption"
    assert (two.missing, two.at_least) == (0, False)


def test_a_gap_after_which_nothing_comes_for_long_is_not_counted_again_with_the_next_patient(lab: SimpleNamespace) -> None:
    script = lab.Script().data(*lab.session("TEST-1", 10)).note(Kind.DISCONNECTED, reason="x").note(Kind.CONNECTED, seconds=1000)
    script.data(*lab.session("TEST-2", 5, first=40), *lab.idle(2, 45))
    script.note(Kind.DISCONNECTED, reason="y").note(Kind.CONNECTED, seconds=9)
    script.data(*lab.session("TEST-3", 5, first=60), *lab.idle(2, 65))
    assert [session.gaps for session, _ in cut(script.entries)] == [1, 0, 1]


def test_what_the_journal_lost_before_the_first_message_is_a_gap_of_its_session(lab: SimpleNamespace) -> None:
    script = lab.Script()
    script.entries.append(Entry(Position(2, 0), Position(2, 0), Damage("journal records 1 to 50 are missing", 0)))
    script.data(*lab.session("TEST-1", 12, first=50), *lab.idle(2, 62))
    [(session, _)] = cut(script.entries)
    assert (kinds(session), session.gaps, session.missing, session.at_least) == (["damaged"], 1, 0, True)


def steps_of(cutter: SessionCutter, entries: list[Entry]) -> list[Kept | Ended]:
    return [step for entry in entries for step in cutter.feed(entry)]


def test_a_session_ends_when_nothing_came_for_a_quarter_of_an_hour(lab: SimpleNamespace) -> None:
    treated = lab.session("TEST-1", 10)
    script = lab.Script().data(*treated).note(Kind.DISCONNECTED, reason="x")
    cutter = SessionCutter()
    steps = steps_of(cutter, script.entries)
    assert len(steps) == 10, "the last message is not waited for when the stream has ended"
    seconds = 10**9
    assert cutter.now(script.wall_ns + 899 * seconds, script.mono_ns + 899 * seconds) == []
    [ended] = cutter.now(script.wall_ns + 901 * seconds, script.mono_ns + 901 * seconds)
    assert isinstance(ended, Ended)
    assert kinds(ended.session) == ["reconnect"]
    script.note(Kind.CONNECTED, seconds=1000).data(*lab.session("TEST-1", 5, first=50))
    assert [session.messages for session, _ in cut(script.entries)] == [10, 4], "and reading it again gives the same"


def test_a_computer_clock_that_jumps_ends_no_session(lab: SimpleNamespace) -> None:
    script = lab.Script().data(*lab.session("TEST-1", 10))
    script.wall_ns += 7200 * 10**9
    script.data(*lab.session("TEST-1", 10, first=10), *lab.idle(2, 20))
    assert [session.messages for session, _ in cut(script.entries)] == [20]
    cutter = SessionCutter()
    steps_of(cutter, script.entries[:5])
    last = script.entries[4].what
    assert isinstance(last, Record)
    assert cutter.now(last.wall_ns + 7200 * 10**9, last.mono_ns + 10**8) == []


def test_the_last_message_needs_no_next_one(lab: SimpleNamespace) -> None:
    """It is complete after a second if its length is proven, else after ten."""
    cutter = SessionCutter()
    script = lab.Script().data(*lab.session("TEST-1", 12), lab.message(12))
    assert len(steps_of(cutter, script.entries)) == 12
    later = 2 * 10**9
    assert [type(step) for step in cutter.now(script.wall_ns + later, script.mono_ns + later)] == [Ended, Kept]
    cutter = SessionCutter()
    script = lab.Script().data(*lab.session("TEST-1", 3), lab.message(3))
    assert len(steps_of(cutter, script.entries)) == 3
    assert cutter.now(script.wall_ns + later, script.mono_ns + later) == []
    later = 11 * 10**9
    assert [type(step) for step in cutter.now(script.wall_ns + later, script.mono_ns + later)] == [Ended, Kept]
    assert cutter.now(script.wall_ns + 2 * later, script.mono_ns + 2 * later) == []


def test_a_week_of_trouble_does_not_fill_the_memory(lab: SimpleNamespace) -> None:
    script = lab.Script().data(*[lab.message(3 * n, patient="TEST-1", leaves=0) for n in range(700)], lab.message(0))
    [(session, _)] = cut(script.data(lab.message(1)).entries)
    assert session.gaps == 700
    assert len(session.events) == 500


LONG = 24


@UNHURRIED
@given(st.data())
def test_however_the_bytes_are_cut_the_same_sessions_come_out(data: st.DataObject) -> None:
    lab = SimpleNamespace(**SESSIONS)
    stream = b"".join([*lab.one, *lab.two, *lab.idle, *lab.three])
    edges = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    script = lab.Script()
    for begin, end in zip([0, *edges], [*edges, len(stream)], strict=True):
        script.data(stream[begin:end], seconds=data.draw(st.sampled_from([0.001, 0.2, 0.9])))
    script.note(Kind.DISCONNECTED, reason="x")
    assert [raws(messages) for _, messages in cut(script.entries)] == [lab.one, lab.two, lab.three]


SESSIONS: dict[str, object] = {}


@pytest.fixture(autouse=True)
def _sessions(lab: SimpleNamespace) -> None:
    SESSIONS.update(
        one=lab.session("TEST-1", 5),
        two=lab.session("TEST-0000002", 5, first=5),
        idle=lab.idle(3, 10),
        three=lab.session("TEST-1", LONG // 8, first=13),
        Script=lab.Script,
    )


def lost(lab: SimpleNamespace, missing: int, *, seen: int = 120, break_off: bool = True) -> Session:
    """A session of four messages a second in which so many are missing, after `seen` others."""
    script = lab.Script().data(*lab.session("TEST-1", seen))
    if break_off:
        script.note(Kind.DISCONNECTED, reason="reset").note(Kind.CONNECTED, missing / 4)
    script.data(*lab.session("TEST-1", 12, first=seen + missing), *lab.idle(2, seen + missing + 12))
    [(session, _)] = cut(script.entries)
    return session


@pytest.mark.parametrize("missing", [0, 1, 12, 255, 256, 257, 300, 1000, 2400])
def test_how_many_are_missing_is_told_although_the_counter_wraps_at_256(lab: SimpleNamespace, missing: int) -> None:
    session = lost(lab, missing)
    assert (session.gaps, session.missing, session.at_least) == (1, missing, False)
    [event] = session.events
    assert (event.missing, event.about) == (missing % 256, missing)


def test_a_counter_that_jumps_far_is_told_likewise(lab: SimpleNamespace) -> None:
    session = lost(lab, 700, break_off=False)
    assert (kinds(session), session.missing, session.at_least) == (["counter_jump"], 700, False)


def test_without_a_known_rate_the_number_missing_is_a_lower_bound(lab: SimpleNamespace) -> None:
    session = lost(lab, 300, seen=8)
    assert (session.gaps, session.missing, session.at_least) == (1, 300 % 256, True)
    assert told_missing(session.missing, at_least=session.at_least) == "at least 44"
    assert told_missing(1200, at_least=False) == "about 1,200"
    assert told_missing(0, at_least=False) == "none known"
    assert told_missing(0, at_least=True) == "an unknown number of"
    assert told_gaps(0, 0, at_least=False) == "0 gaps"
    assert told_gaps(1, 0, at_least=True) == "1 gap (an unknown number of messages missing)"
    assert told_gaps(1, 1, at_least=False) == "1 gap (about 1 message missing)"
    assert told_gaps(2, 0, at_least=False) == "2 gaps (no message known to be missing)"


@pytest.mark.parametrize("wrong", [timedelta(days=900), timedelta(hours=5)])
def test_a_wrong_time_makes_no_thousands_of_missing_messages(lab: SimpleNamespace, wrong: timedelta) -> None:
    script = lab.Script().data(*lab.session("TEST-1", 60))
    script.data(lab.message(70, patient="TEST-1", mu=60.0, time=lab.START + wrong))
    script.data(*lab.session("TEST-1", 12, first=72), *lab.idle(2, 84))
    [(session, _)] = cut(script.entries)
    assert [(event.missing, event.about) for event in session.events if event.kind == "counter_jump"] == [(10, None), (1, None)]
    assert (session.missing, session.at_least) == (11, True)
