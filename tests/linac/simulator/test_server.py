"""The pretend linac sends what it says it sends, and misbehaves only as told."""

import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from linac.errors import SetupError
from linac.icom import Delivery, MessageStream, delivered_mu, split
from linac.simulator import AS_FAST_AS_POSSIBLE, RESET, Beam, Session, SimulatedLinac, make_beams

CLOCK = datetime.fromisoformat("2024-05-06 12:00:00")
SHORT = make_beams(1, mu=15)


def fast(machine: str = "4299", **options) -> SimulatedLinac:
    return SimulatedLinac(machine, speed=AS_FAST_AS_POSSIBLE, clock=CLOCK, **options)


def treat(read, linac: SimulatedLinac, *sessions: Session):
    """Connect, treat after some idle messages, wait until all is sent; then what arrived when the connection has ended."""
    reader = read(linac.address)
    while not linac.messages_sent:
        time.sleep(0.001)
    for session in sessions:
        linac.start_session(session)
    assert linac.wait_ended(sessions[-1], 30)
    linac.stop()
    reader.wait()
    return reader


def test_a_session_arrives_as_recorded_and_pymedphys_reads_it(read: Callable) -> None:
    pymedphys = pytest.importorskip("pymedphys", reason="PyMedPhys is what users have today: pip install the 'peer' extra")
    session = Session(beams=make_beams(3, mu=30))
    with fast() as linac:
        reader = treat(read, linac, session)
    treated = [message for message in reader.messages() if message.get("Patient ID")]
    assert [message.raw for message in treated] == session.raw
    assert len(treated) == session.messages == session.sent
    theirs = pymedphys.Delivery.from_icom(b"".join(session.raw))
    ours = Delivery.from_messages(treated)
    assert list(theirs.mu) == ours.mu
    assert session.planned_mu == session.delivered_mu == 90.0
    assert ours.delivered_mu == delivered_mu(treated) == pytest.approx(90.0)
    assert max(theirs.gantry) - min(theirs.gantry) > 200
    assert {message.get("Machine ID") for message in treated} == {"4299"}


def test_messages_are_like_real_ones(read: Callable) -> None:
    session = Session(beams=make_beams(2, mu=20))
    with fast(counter=250) as linac:
        reader = treat(read, linac, session)
    messages = reader.messages()
    assert all(7000 < len(message.raw) < 9000 for message in messages)
    assert [message.counter for message in messages] == [n % 256 for n in range(250, 250 + len(messages))]
    assert {message.unread for message in messages} == {b""}
    seconds = [(message.timestamp - CLOCK).total_seconds() for message in messages]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(len(messages) / 4, abs=1)
    treated = split(b"".join(session.raw))
    assert len({message.leaves_cm for message in treated}) > 25, "leaves move"
    assert ["Interrupt", "Gantry"] in [message.get("Interlocks") for message in treated]
    assert all(message.get("Patient ID") is None for message in (messages[0], messages[-1]))
    metersets = [message.get("Delivery MU") for message in treated]
    assert metersets.count(20.0) >= 2, "the last MU of each beam is shown"


def test_the_same_plan_makes_the_same_messages(read: Callable) -> None:
    raws = []
    for _ in range(2):
        session = Session(beams=make_beams(2, seed=7, mu=10))
        with fast() as linac:
            treat(read, linac, session)
        raws.append([raw[27:] for raw in session.raw])  # when the session began differs
    assert raws[0] == raws[1]
    assert make_beams(5, seed=7) == make_beams(5, seed=7) != make_beams(5, seed=8)


@pytest.mark.parametrize("idle_id", [None, ""])
def test_between_patients_the_id_is_absent_or_empty(read: Callable, idle_id: str | None) -> None:
    session = Session(beams=SHORT)
    with fast(idle_id=idle_id) as linac:
        reader = treat(read, linac, session)
    idle = [message for message in reader.messages() if not message.get("Patient ID")]
    assert idle
    for message in idle:
        ids = [item.value for item in message.items if (item.group, item.element) == (0x0010, 0x0020)]
        assert ids == ([] if idle_id is None else [b""])


def test_two_patients_follow_with_no_idle_message_between_them(read: Callable) -> None:
    first = Session("TEST-0001", "Simulated^Patient", SHORT, idle_after=0)
    second = Session("TEST-00002", "Invented^Müller", SHORT, name_every=3)
    with fast() as linac:
        reader = treat(read, linac, first, second)
    ids = [message.get("Patient ID") for message in reader.messages()]
    change = ids.index("TEST-00002")
    assert ids[change - 1] == "TEST-0001"
    names = [message.get("Patient Name") for message in split(b"".join(second.raw))]
    assert names[:4] == ["Invented^Müller", None, None, "Invented^Müller"]


@pytest.mark.parametrize("name", ["Müller".encode("latin-1"), "", None])
def test_names_of_any_kind(read: Callable, name: str | bytes | None) -> None:
    session = Session("TEST-0001", name, SHORT)
    with fast() as linac:
        treat(read, linac, session)
    assert split(b"".join(session.raw))[0].get("Patient Name") == ("Müller" if name else None)


def test_faults_come_where_the_session_says(read: Callable) -> None:
    session = Session(
        beams=SHORT,
        events={
            5: lambda linac: linac.garbage(b"garbage"),
            8: lambda linac: linac.jump(10),
            11: lambda linac: linac.repeat(),
            14: lambda linac: linac.repeat(changed=True),
            17: lambda linac: linac.step_clock(timedelta(hours=-1)),
        },
    )
    with fast() as linac:
        reader = treat(read, linac, session)
    stream = MessageStream()
    messages = [message for message in stream.feed(bytes(reader.data)) + stream.close() if message.get("Patient ID")]
    assert stream.skipped_bytes == 7
    steps = [(b.counter - a.counter) % 256 for a, b in pairwise(messages)]
    assert [steps[i] for i in (7, 10, 14)] == [11, 0, 0]
    assert messages[10] == messages[11]
    assert messages[14] != messages[15]
    assert messages[15].get("Gantry") != messages[14].get("Gantry")
    assert messages[19].timestamp < messages[18].timestamp
    assert len(messages) == session.messages + 2


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("half", [False, True])
def test_connections_end_as_told_and_new_ones_are_welcome(read: Callable, how: str, half: bool) -> None:
    def end(linac: SimulatedLinac) -> None:
        if half:
            linac.half_message(how)
        elif how == RESET:
            linac.reset()
        else:
            linac.hang_up()

    session = Session(beams=SHORT, events={10: end})
    with fast() as linac:
        first = read(linac.address)
        linac.start_session(session)
        assert first.wait() == how
        assert linac.clients[0].ending == how
        second = read(linac.address)
        assert linac.wait_ended(session, 30)
        linac.stop()
        second.wait()
    stream = MessageStream()
    ids = [message.get("Patient ID") for message in stream.feed(bytes(first.data)) + stream.close()]
    assert len([i for i in ids if i]) <= 10
    if how == "fin":
        assert len([i for i in ids if i]) == 10
        assert (stream.skipped_bytes > 1000) == half
    assert second.messages()[-1].get("Patient ID") is None


def test_earlier_messages_are_sent_again_after_a_reconnect(read: Callable) -> None:
    with fast(replay=20) as linac:
        first = read(linac.address)
        session = linac.start_session(beams=SHORT)
        assert linac.wait_ended(session, 30)
        linac.pause()
        assert linac.wait_sent(10)
        linac.hang_up()
        assert first.wait() == "fin"
        second = read(linac.address)
        for _ in range(500):
            if len(second.messages()) >= 20:
                break
            time.sleep(0.01)
        assert second.messages() == first.messages()[-20:]


def test_several_clients_get_the_same_and_each_message_counts_once(read: Callable) -> None:
    session = Session(beams=SHORT)
    with fast() as linac:
        readers = [read(linac.address) for _ in range(3)]
        while len(linac.clients) < 3:
            time.sleep(0.01)
        linac.start_session(session)
        assert linac.wait_ended(session, 30)
        linac.stop()
    for reader in readers:
        assert reader.wait() == "fin"
        assert [message.raw for message in reader.messages() if message.get("Patient ID")] == session.raw
    assert session.sent == session.messages


def test_it_keeps_time_and_falls_silent_when_told(read: Callable) -> None:
    with SimulatedLinac(rate_hz=4, speed=10) as linac:
        reader = read(linac.address)
        began = time.monotonic()
        while linac.messages_sent < 20:
            time.sleep(0.005)
        assert 0.3 < time.monotonic() - began < 3
        linac.pause()
        time.sleep(0.1)
        assert linac.wait_sent(5)
        silent = len(reader.data)
        time.sleep(0.2)
        assert len(reader.data) == silent
        linac.resume()
        time.sleep(0.2)
        assert len(reader.data) > silent


def test_messages_can_come_in_pieces(read: Callable) -> None:
    session = Session(beams=[Beam("1", "x", 0.5, 0, 0)])
    with fast(chunk=(1000, 0.0)) as linac:
        reader = treat(read, linac, session)
    assert [message.raw for message in reader.messages() if message.get("Patient ID")] == session.raw


def test_a_client_that_does_not_read_shows_as_a_long_send() -> None:
    with SimulatedLinac(speed=50, send_buffer=4096) as linac:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(linac.address)
            for _ in range(500):
                if linac.longest_send_seconds > 0.3:
                    break
                time.sleep(0.01)
            assert linac.longest_send_seconds > 0.3
        began = time.monotonic()
    assert time.monotonic() - began < 5, "a stuck client does not keep it from ending"


def test_it_sees_how_a_client_leaves_and_whether_it_spoke() -> None:
    with SimulatedLinac(speed=20) as linac:
        with socket.create_connection(linac.address) as polite:
            polite.recv(100000)
            polite.sendall(b"hello")
            time.sleep(0.3)
            polite.shutdown(socket.SHUT_WR)
            time.sleep(0.3)
        assert linac.clients[0].ending == "client fin"
        assert linac.clients[0].received_bytes == 5
        rude = socket.create_connection(linac.address)
        rude.recv(1)
        time.sleep(0.3)
        rude.close()  # with unread data: the system resets
        for _ in range(300):
            if linac.clients[1].ending:
                break
            time.sleep(0.01)
        assert linac.clients[1].ending == "client reset"


def test_a_port_that_is_taken_is_said_plainly() -> None:
    with SimulatedLinac() as linac:
        with pytest.raises(SetupError, match="choose another port"):
            SimulatedLinac(port=linac.address[1]).start()


def test_status_is_plain_numbers_and_names_nobody(read: Callable) -> None:
    session = Session(beams=SHORT)
    with fast("7777") as linac:
        treat(read, linac, session)
        status = linac.status()
    assert status["machine"] == "7777"
    assert status["sessions"] == [
        {
            "state": "ended",
            "beams": 1,
            "messages": session.messages,
            "messages_sent": session.messages,
            "planned_mu": 15,
            "delivered_mu": 15.0,
        }
    ]
    assert status["messages_sent"] >= session.messages
    assert "TEST" not in str(status)
