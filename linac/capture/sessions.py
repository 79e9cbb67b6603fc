"""From the journal to patient sessions: what belongs together, what is missing, what came twice. No files, no clock.

`SessionCutter` takes the journal's entries one by one and never holds more than a message; `cut` is for small journals.

- A session is what comes from the first message with a patient ID to the last with the same one, as PyMedPhys cuts it. A message
  without patient ID ends it, and so does one with another patient ID, which begins the next. Another name under the same ID does
  not: the first name stays, for the ID alone tells patients apart.
- A lost connection, a restart of the listener, a hole in the journal do not end it: the session goes on with the patient's next
  message, and the interruption is recorded in it. Only if nothing of that patient comes for 15 minutes (`SILENCE_SECONDS`) it has
  ended with its last message.
- After a connection is made the linac may send messages again, before new ones or (for ten seconds) behind them. Those that are
  known (the last 4096 are remembered) are dropped.
- A message is complete when the next one begins. After a second without a byte it is, if its length says so or its items are
  those of a message before; after ten, and when the stream of bytes ends, unless it looks like one whose last items are missing.
- A counter that jumps, a message that comes twice with other data, a clock that goes back are recorded with what stood before and
  after. They end nothing.
- Bytes that belong to no message are counted. They stay in the journal. A header with nothing behind it counts with them: it
  does not even say that there is no patient.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from linac.capture.journal import Damage, Entry, Kind, Position, Record
from linac.icom import BY_NAME, NO_VALUE, Message, MessageStream
from linac.icom.layout import HEADER_SIZE

SILENCE_SECONDS = 900.0
SETTLE_SECONDS = 1.0
"""After so long without a byte the last message is taken as complete if it shows that it is. Not earlier: a lost packet on the
network takes a few hundred milliseconds to come again."""

UNSURE_SECONDS = 10.0
"""After so long it is taken as complete if nothing speaks against it."""

CATCH_UP_SECONDS = 10.0
"""So long after a connection is made the linac may still send messages again, also behind new ones."""

REMEMBERED = 4096
"""Messages that can be recognised when they come again: 17 minutes at 4 a second."""

RATE_SECONDS = 8.0
"""So long the linac's messages are counted before their rate is believed."""

LONGEST_SECONDS = 2 * SILENCE_SECONDS
"""A step of the linac's clock that is longer says nothing about how many messages of a session are missing: no session goes on
over so long a time without a message, so the date or time is wrong, or was set."""

MOST_EVENTS = 500
"""Events that a session keeps; more are only counted."""

INTERRUPTIONS = {
    "restart": "the listener was restarted",
    "reconnect": "the connection was lost",
    "dropped": "the disk was too slow",
    "damaged": "the journal is damaged",
}
"""Kinds of events after which the record goes on with a new stream of bytes, the most telling first."""

NO_VALUE_MU = "Delivery MU (the linac says: no value)"

GAPS = {*INTERRUPTIONS, "counter_jump"}
"""Kinds of events after which messages may be missing."""


Shape = tuple[tuple[int, int, str, str], ...]
"""Tag, VR and part of each item of a message: what it is made of, without what it says."""


class Edge(NamedTuple):
    """The message on one side of an event: when it arrived (ns since 1970, UTC), and the linac's time and counter in it."""

    arrived_ns: int
    timestamp: datetime
    counter: int


@dataclass
class Event:
    """Something out of the ordinary, with the messages before and after (None where there is none).

    `kind`: one of `GAPS`; `repeat_with_other_data`, `clock_back`, `repeats` (dropped, `count` of them), `skipped` (`count`
    bytes), `late` (an old message that was not known before: kept), `replaced` (a message came again with more items: kept).
    `missing`: how many messages are missing by the counter, which is modulo 256, so at least so many; `about`: likewise by the
    counter and the linac's clock together, at the rate seen before (None where no rate is known yet, or the clock went back or
    on by more than half an hour).
    """

    kind: str
    before: Edge | None = None
    after: Edge | None = None
    count: int = 1
    missing: int | None = None
    reason: str = ""
    about: int | None = None


def told_missing(count: int, *, at_least: bool) -> str:
    """A number of missing messages in words: `none known`, `about 1,200`, `at least 12` or `an unknown number of`."""
    if not count:
        return "an unknown number of" if at_least else "none known"
    return f"{'at least' if at_least else 'about'} {count:,}"


def told_gaps(gaps: int, missing: int, *, at_least: bool) -> str:
    """Gaps and what is missing in them, in words: `0 gaps`, `1 gap (about 1 message missing)`, `2 gaps (none known missing)`."""
    told = f"{gaps} gap{'' if gaps == 1 else 's'}"
    if not gaps:
        return told
    if not missing and not at_least:
        return f"{told} (no message known to be missing)"
    return f"{told} ({told_missing(missing, at_least=at_least)} message{'' if missing == 1 else 's'} missing)"


@dataclass
class Session:
    """One patient's session, without the messages. The repr shows nothing of the patient.

    `started`, `ended`: the linac's local time in the first and last message; `first_ns`, `last_ns`: when these arrived; `start`:
    journal position of what completed the first message, `end`: behind what completed the last; `runs`: the listener's runs it
    lies in; `mu`: monitor units delivered, the sum of the positive steps; `lacking`: for each thing that a control point needs,
    how many messages are without it; `gaps`: how many of its events are gaps; `missing`: about how many messages are missing in
    them, `at_least` where one of them only tells modulo 256; `events`: the first 500; `last_message`: hash of the last message.

    An interruption between two patients is in the events of both, and counts with the first only.
    """

    patient_id: str = field(repr=False)
    start: Position
    end: Position
    started: datetime
    ended: datetime
    first_ns: int
    last_ns: int
    patient_name: str | None = field(default=None, repr=False)
    runs: list[str] = field(default_factory=list)
    messages: int = 0
    mu: float = 0.0
    machine_ids: list[str] = field(default_factory=list)
    lacking: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    gaps: int = 0
    missing: int = 0
    at_least: bool = False
    last_message: str = ""
    _meterset: float | None = field(default=None, repr=False)

    @property
    def stamp(self) -> str:
        """When it started, as the archive's files are named: `YYYYMMDD_HHMMSS`, the linac's local time."""
        return f"{self.started:%Y%m%d_%H%M%S}"

    def add(self, message: Message, arrived_ns: int, end: Position, run: str) -> None:
        """Count one more message."""
        self.messages += 1
        self.ended, self.last_ns, self.end = message.timestamp, arrived_ns, end
        self.last_message = _hash(message).hex()
        if run not in self.runs:
            self.runs.append(run)
        self.patient_name = self.patient_name or message.text("Patient Name")
        machine = message.text("Machine ID")
        if machine and machine not in self.machine_ids:
            self.machine_ids.append(machine)
        for name in lacking(message):
            self.lacking[name] = self.lacking.get(name, 0) + 1
        meterset = message.number("Delivery MU")
        if meterset is not None:
            if self._meterset is not None and meterset > self._meterset:
                self.mu += meterset - self._meterset
            self._meterset = meterset

    def note(self, event: Event, *, counts: bool = True) -> None:
        """Record an event; repeats and skipped bytes are counted in one. However bad a stream is, memory stays bounded. A gap
        that `counts` with another session is only kept."""
        if event.kind in ("repeats", "skipped"):
            for known in self.events:
                if known.kind == event.kind:
                    known.count += event.count
                    known.after = event.after
                    return
        if event.kind in GAPS and counts:
            self.gaps += 1
            self.missing += event.missing or 0 if event.about is None else event.about
            self.at_least = self.at_least or (event.about is None and event.after is not None)
        if len(self.events) < MOST_EVENTS:
            self.events.append(event)


def _hash(message: Message) -> bytes:
    return hashlib.blake2b(message.raw, digest_size=8).digest()


def lacking(message: Message) -> list[str]:
    """What a control point needs and the message does not have. PyMedPhys cannot read a session with such a message."""
    names = []
    if message.number("Delivery MU") is None:
        names.append(NO_VALUE_MU if _says_no_value(message, "Delivery MU") else "Delivery MU")
    if message.leaves_cm is None:
        names.append("160 leaf positions (MLCX)")
    if message.jaws_cm.y is None:
        names.append("2 jaw positions (ASYMY)")
    return names


def _says_no_value(message: Message, name: str) -> bool:
    """Whether the item is there and says "no value", which is a clear answer; absent or garbled is none."""
    row = BY_NAME[name]
    found = [item.text.strip(" \x00") for item in message.items if (item.group, item.element) == (row.group, row.element)]
    return bool(found) and all(text == str(NO_VALUE) for text in found)


class Kept(NamedTuple):
    """A message, once; `session` is None between patients."""

    message: Message
    session: Session | None
    arrived_ns: int


class Ended(NamedTuple):
    """A session is complete."""

    session: Session


Step = Kept | Ended


class SessionCutter:
    """Feed it the journal's entries in order; it returns messages and ended sessions in order.

    `session` is the one that is going on. `messages` counts those kept, `repeats` those dropped, `skipped_bytes` what belonged
    to no message.
    """

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        self.silence_seconds = silence_seconds
        self.session: Session | None = None
        self.messages = self.repeats = self.skipped_bytes = 0
        self._stream = MessageStream()
        self._counted = 0
        self._last: Message | None = None
        self._last_idle: Message | None = None
        self._recent: deque[Message] = deque(maxlen=8)
        self._last_edge: Edge | None = None
        self._latest: datetime | None = None
        self._rate = _Rate()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._catching_up = False
        self._connected_ns = 0  # when the last connection was made or lost, by the monotonic clock
        self._interruption: Event | None = None
        self._interruption_counts = True  # not yet with a session that it ended
        self._arrival: Record | None = None  # the last data
        self._arrival_run = ""
        self._spoke: Record | None = None  # the data that completed the session's last message
        self._spoke_run = ""
        self._settled = True
        self._doubtful: Message | None = None  # perhaps not complete when a second had passed: what comes next decides
        self._end = Position(0, 0)

    def feed(self, entry: Entry) -> list[Step]:
        """Take the journal's next entry."""
        what = entry.what
        if isinstance(what, Damage):
            self._end = entry.end
            return self._interrupt("damaged", what.reason, entry, catch_up=False)
        steps = self._pass_time(what.wall_ns, what.mono_ns, entry.run)
        self._end = entry.end
        match what.kind:
            case Kind.DATA:
                self._arrival, self._arrival_run, self._settled = what, entry.run, False
                steps += self._take(self._stream.feed(what.payload), entry)
            case Kind.STARTED:
                steps += self._interrupt("restart", "", entry)
            case Kind.DISCONNECTED:
                steps += self._interrupt("reconnect", str(what.facts().get("reason", "")), entry)
            case Kind.CONNECTED:
                self._catching_up, self._connected_ns = True, what.mono_ns
            case Kind.DROPPED:
                steps += self._interrupt("dropped", f"{what.facts().get('bytes', 0)} bytes", entry, catch_up=False)
            case _:
                pass
        return steps

    def now(self, wall_ns: int, mono_ns: int) -> list[Step]:
        """Time has passed, by the clocks of the computer that wrote the journal, and there are no further entries."""
        return self._pass_time(wall_ns, mono_ns, None)

    def end_session(self) -> list[Step]:
        """End the session that is going on, if there is one."""
        session, self.session = self.session, None
        if session is not None and self._interruption is not None:
            session.note(replace(self._interruption))
            self._interruption_counts = False
        return [Ended(session)] if session else []

    def _pass_time(self, wall_ns: int, mono_ns: int, run: str | None) -> list[Step]:
        """What comes of it that the clocks have gone on to this, in a run of the listener (None: the one that goes on)."""
        elapsed = _elapsed(self._arrival, wall_ns, mono_ns, same_run=run in (None, self._arrival_run))
        steps: list[Step] = []
        if elapsed >= SETTLE_SECONDS and not self._settled:
            self._settled = True
            sure = self._stream.whole
            for message in self._stream.flush():
                if sure or self._shape(message) in self._shapes():
                    steps += self._accept(message)
                else:
                    self._doubtful = message
        doubtful = self._doubtful
        if elapsed >= UNSURE_SECONDS and doubtful is not None and not self._cut_short(doubtful):
            self._doubtful = None
            steps += self._accept(doubtful)
        said_nothing = _elapsed(self._spoke, wall_ns, mono_ns, same_run=run in (None, self._spoke_run))
        if self.session is not None and said_nothing >= self.silence_seconds:
            steps += self.end_session()
        return steps

    def _accept(self, message: Message) -> list[Step]:
        """Take a message that time has shown to be complete."""
        arrived = self._arrival.wall_ns if self._arrival else 0
        return self._message(message, arrived, self._end, self._end, self._arrival_run)

    def _take(self, found: list[Message], entry: Entry) -> list[Step]:
        """Messages that the stream gave out, and what it had to skip for them."""
        if found and self._doubtful is not None:
            if not found[0].replaces:
                found.insert(0, self._doubtful)
            self._doubtful = None
        arrived = self._arrival.wall_ns if self._arrival else 0
        before = self._last_edge
        steps: list[Step] = []
        for message in found:
            steps += self._message(message, arrived, entry.start, entry.end, self._arrival_run)
        self._count_skipped(before)
        return steps

    def _count_skipped(self, before: Edge | None) -> None:
        skipped, self._counted = self._stream.skipped_bytes - self._counted, self._stream.skipped_bytes
        if skipped:
            self.skipped_bytes += skipped
            after = self._last_edge if self._last_edge is not before else None
            self._note(Event("skipped", before, after, skipped))

    def _note(self, event: Event) -> None:
        if self.session is not None:
            self.session.note(event)

    def _interrupt(self, kind: str, reason: str, entry: Entry, *, catch_up: bool = True) -> list[Step]:
        """The bytes do not go on: finish the stream, begin another, remember the edge."""
        before = self._last_edge
        found = self._stream.close()
        if not found and self._doubtful is not None:
            found, self._doubtful = [self._doubtful], None
        fragment = found.pop() if found and self._cut_short(found[-1]) else None
        steps = self._take(found, entry)
        if fragment is not None:
            self.skipped_bytes += len(fragment.raw)
            self._note(Event("skipped", before, None, len(fragment.raw)))
        self._doubtful = None
        self._stream, self._counted, self._settled = MessageStream(), 0, True
        if catch_up and isinstance(entry.what, Record):
            self._catching_up, self._connected_ns = True, entry.what.mono_ns
        if self._last_edge is not None or kind == "damaged":  # what is lost may have been the beginning of a session
            known = self._interruption
            if known is None:
                self._interruption = Event(kind, self._last_edge, reason=reason)
            else:
                order = list(INTERRUPTIONS)
                known.kind = min(known.kind, kind, key=order.index)
                known.reason = known.reason or reason
        return steps

    def _cut_short(self, message: Message) -> bool:
        """Whether a message whose end nothing shows has lost its end: it has only the first items of one that came before, or
        is of a new kind and lacks what every control point has."""
        shape, shapes = self._shape(message), self._shapes()
        if shape in shapes:
            return False
        return any(known[: len(shape)] == shape for known in shapes) or bool(lacking(message))

    def _shapes(self) -> list[Shape]:
        """What the messages before were made of."""
        known = [*self._recent, self._last_idle] if self._last_idle is not None else [*self._recent]
        return [self._shape(message) for message in known]

    @staticmethod
    def _shape(message: Message) -> Shape:
        return tuple(item[:4] for item in message.items)

    def _message(self, message: Message, arrived_ns: int, start: Position, end: Position, run: str) -> list[Step]:
        edge = Edge(arrived_ns, message.timestamp, message.counter)
        if len(message.raw) == HEADER_SIZE:
            self.skipped_bytes += HEADER_SIZE
            self._note(Event("skipped", self._last_edge, edge, HEADER_SIZE))
            return []
        if self._is_repeat(message):
            self.repeats += 1
            self._note(Event("repeats", self._last_edge, edge))
            return []
        counts = self._interruption_counts and self.session is None
        events = self._compare(message, edge)
        self._interruption_counts = True
        self._rate.count(message.timestamp, follows=not events)
        self._last, self._last_edge = message, edge
        self._recent.append(message)
        self._latest = max(self._latest or message.timestamp, message.timestamp)
        for event in events:
            self._note(event)
        steps: list[Step] = []
        patient = message.text("Patient ID")
        if not patient:
            self._last_idle = message
        session = self.session
        if session is not None and patient != session.patient_id:
            steps += self.end_session()
            session = None
        if patient and session is None:
            session = self.session = Session(patient, start, end, message.timestamp, message.timestamp, arrived_ns, arrived_ns)
            for event in events:
                if event.kind in GAPS:
                    session.note(event, counts=counts)
        if session is not None:
            session.add(message, arrived_ns, end, run)
            self._spoke, self._spoke_run = self._arrival, self._arrival_run
        self.messages += 1
        return [*steps, Kept(message, session, arrived_ns)]

    def _is_repeat(self, message: Message) -> bool:
        """Whether the same bytes came before: just now, or ever since we remember if a new connection catches up."""
        key = _hash(message)
        if self._last is not None and message.raw == self._last.raw:
            return True
        known = key in self._seen
        if self._catching_up:
            if known:
                return True
            connected = self._arrival.mono_ns - self._connected_ns if self._arrival else 0
            if connected >= CATCH_UP_SECONDS * 1e9 and (self._latest is None or message.timestamp >= self._latest):
                self._catching_up = False
        if not known:
            self._seen[key] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return False

    def _compare(self, message: Message, edge: Edge) -> list[Event]:
        """What is out of the ordinary between the last message and this one."""
        before, events = self._last_edge, []
        interruption, self._interruption = self._interruption, None
        if before is None:
            return [replace(interruption, after=edge)] if interruption is not None else []
        missing = (message.counter - before.counter - 1) % 256
        late = self._catching_up and message.timestamp < before.timestamp
        if interruption is not None:
            interruption.after, interruption.missing = edge, None if late else missing
            interruption.about = None if late else self._rate.missing(before.timestamp, message.timestamp, missing)
            interruption.reason = interruption.reason or INTERRUPTIONS[interruption.kind]
            events.append(interruption)
        elif message.replaces:
            events.append(Event("replaced", before, edge))
        elif message.counter == before.counter:
            events.append(Event("repeat_with_other_data", before, edge))
        elif missing and not late:
            about = self._rate.missing(before.timestamp, message.timestamp, missing)
            events.append(Event("counter_jump", before, edge, missing=missing, about=about))
        if late:
            events.append(Event("late", before, edge))
        elif message.timestamp < before.timestamp:
            events.append(Event("clock_back", before, edge))
        return events


def _elapsed(since: Record | None, wall_ns: int, mono_ns: int, *, same_run: bool) -> float:
    """Seconds since a record. A wall clock can be set, a monotonic one starts anew with the computer: of two that can be right
    the shorter."""
    if since is None:
        return 0.0
    wall, mono = wall_ns - since.wall_ns, mono_ns - since.mono_ns
    if same_run and mono >= 0:
        return min(wall, mono) / 1e9 if wall >= 0 else mono / 1e9
    return max(wall, 0) / 1e9


class _Rate:
    """Messages a second by the linac's own clock, while nothing is out of the ordinary. It shows whole seconds, so a rate is only
    believed after some."""

    def __init__(self) -> None:
        self._known: float | None = None
        self._since: datetime | None = None
        self._messages = 0

    def count(self, timestamp: datetime, *, follows: bool) -> None:
        """One more message, which follows the one before it or does not."""
        if self._since is None or not follows:
            self._since, self._messages = timestamp, 0
            return
        self._messages += 1
        seconds = (timestamp - self._since).total_seconds()
        if seconds >= RATE_SECONDS:
            self._known = self._messages / seconds
        if seconds >= 100 * RATE_SECONDS:
            self._since, self._messages = timestamp, 0

    def missing(self, before: datetime, after: datetime, by_counter: int) -> int | None:
        """How many messages are missing between two: of the numbers that the counter allows, the one that the clock suggests."""
        seconds = (after - before).total_seconds()
        if self._known is None or not 0 <= seconds <= LONGEST_SECONDS:
            return None
        rounds = round((seconds * self._known - 1 - by_counter) / 256)
        return by_counter + 256 * max(rounds, 0)


def cut(entries: Iterable[Entry], silence_seconds: float = SILENCE_SECONDS) -> list[tuple[Session, list[Message]]]:
    """The sessions in a journal, with their messages; one that has not ended comes last. For looking at small journals."""
    cutter = SessionCutter(silence_seconds)
    messages: dict[int, list[Message]] = {}
    sessions: list[Session] = []
    for entry in entries:
        for step in cutter.feed(entry):
            if isinstance(step, Kept) and step.session is not None:
                if id(step.session) not in messages:
                    messages[id(step.session)] = []
                    sessions.append(step.session)
                messages[id(step.session)].append(step.message)
    return [(session, messages[id(session)]) for session in sessions]


def facts_of(event: Event) -> dict[str, Any]:
    """An event as plain values for a JSON file. Nothing of a patient in it."""
    return {
        "kind": event.kind,
        "count": event.count,
        "missing": event.missing,
        "about": event.about,
        "reason": event.reason,
        "before": _facts_of_edge(event.before),
        "after": _facts_of_edge(event.after),
    }


def _facts_of_edge(edge: Edge | None) -> dict[str, Any] | None:
    return edge and {"arrived_ns": edge.arrived_ns, "timestamp": edge.timestamp.isoformat(), "counter": edge.counter}
