"""What a message says: every row of the table, and every way of saying nothing."""

import pickle
from collections.abc import Callable
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linac.errors import NotIcomError
from linac.icom import VALUES, Item, Message, device, encode, encode_item, named

TIME = datetime.fromisoformat("2024-05-06 12:13:14")

BYTES = b"".join(  # a message, byte for byte, with the evidence's own patterns
    [
        b"\x5b\x00\x00\x00\x04\x04\x00\x00",  # prefix
        b"2024-05-0612:13:14",  # date
        b"\x29",  # counter 41
        b"\x10\x00\x20\x00LO\x00P\x09\x00\x00\x00TEST-0001",  # (0010,0020) Patient ID
        b"\x08\x30\x32\x00DS\x00R\x06\x00\x00\x00123.45",  # (3008,0032) Delivery MU
        b"\x01\x30\x07\x10DS\x00R\x01\x00\x00\x003",  # (3001,1007) Segment
    ]
)


def message(*items: Item) -> Message:
    return Message(encode(TIME, 7, items))


def test_the_bytes_of_a_message_read_field_by_field() -> None:
    read = Message(BYTES)
    assert (read.timestamp, read.counter, read.raw) == (TIME, 41, BYTES)
    assert read.timestamp.tzinfo is None
    assert read.items == (
        Item(0x0010, 0x0020, "LO", "P", b"TEST-0001"),
        Item(0x3008, 0x0032, "DS", "R", b"123.45"),
        Item(0x3001, 0x1007, "DS", "R", b"3"),
    )
    assert (read.get("Patient ID"), read.get("Delivery MU"), read.get("Segment")) == ("TEST-0001", 123.45, 3)
    assert encode(TIME, 41, read.items, length=0x5B) == BYTES


EXAMPLES = {"text": ("Some Text", "Some Text"), "number": ("-12.50", -12.5), "whole": ("4", 4), "texts": ("A", ["A"])}


@pytest.mark.parametrize("row", VALUES, ids=lambda row: row.name)
def test_every_name_is_found_and_only_by_its_own_tag(row) -> None:
    sent, expected = EXAMPLES[row.kind]
    read = message(named(row.name, sent))
    assert read.get(row.name) == expected
    assert type(read.get(row.name)) is type(expected)
    for other in VALUES:
        if other.name != row.name:
            assert read.get(other.name) in (None, [])
    wrong_part = message(named(row.name, sent, "S"))
    assert wrong_part.get(row.name) in (None, [])


@pytest.mark.parametrize("row", [row for row in VALUES if row.group is None], ids=lambda row: row.name)
@pytest.mark.parametrize("group", [0x3001, 0x0001, 0x7055, 0x50AA])
def test_a_private_value_is_found_in_any_group_of_its_family(row, group: int) -> None:
    sent, expected = EXAMPLES[row.kind]
    assert message(Item(group, row.element, row.vr, row.part, sent.encode())).get(row.name) == expected
    assert message(Item(group ^ 0x0100, row.element, row.vr, row.part, sent.encode())).get(row.name) in (None, [])


@pytest.mark.parametrize("value", ["", " ", "\x00", "-32767"])
def test_no_value_is_none_everywhere(value: str) -> None:
    for row in VALUES:
        assert message(named(row.name, value)).get(row.name) == ([] if row.kind == "texts" else None)
        assert message().get(row.name) == ([] if row.kind == "texts" else None)


@pytest.mark.parametrize("value", ["-32767.00", "nan", "inf", "-inf", "1e999", "twelve", "1_0", "1,5", "\xff"])
def test_what_is_no_number_is_none_and_stays_in_items(value: str) -> None:
    read = message(named("Gantry", value))
    assert read.get("Gantry") is None
    assert read.items[0].text == value


def test_the_first_value_that_is_one_counts() -> None:
    assert message(named("Gantry", "-32767"), named("Gantry", 12.5), named("Gantry", 13.5)).get("Gantry") == 12.5


def test_interlocks_repeat_in_a_row_or_apart() -> None:
    read = message(named("Interlocks", "A"), named("Interlocks", "B b"), named("Gantry", 1.0), named("Interlocks", "Ü"))
    assert read.get("Interlocks") == ["A", "B b", "Ü"]
    assert read.get("Previous Interlocks") == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Müller^Jörg".encode(), "Müller^Jörg"),
        ("Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"DOE^JOHN", "DOE^JOHN"),
        (b"A/B_C", "A/B_C"),
        (b"TEST-00010", "TEST-00010"),
        (b" padded \x00", "padded"),
        (b"x" * 300, "x" * 300),
        (b"x" * 65536, "x" * 65536),
    ],
)
def test_text(value: bytes, expected: str) -> None:
    read = message(named("Patient Name", value))
    assert read.get("Patient Name") == expected
    assert read.items[0].value == value


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(KeyError, match="Gantry, Collimator"):
        message().get("gantry angle")


def test_leaves_and_jaws_are_the_actual_ones_in_the_order_of_the_message() -> None:
    leaves = [0.01 * i - 5 for i in range(160)]
    read = message(
        *device("MLCX", [9.0] * 160, "P"), *device("MLCX", leaves), *device("ASYMX", [1.0, -2.0]), *device("ASYMY", [3.25, 4.0])
    )
    assert read.leaves_cm == pytest.approx(leaves)
    assert read.jaws_cm == ((1.0, -2.0), (3.25, 4.0))
    assert read.jaws_cm.y == (3.25, 4.0)
    assert read.positions("ASYMZ") is None


@pytest.mark.parametrize(
    "items",
    [
        [],
        device("MLCX", [1.0] * 159),
        device("MLCX", [1.0] * 161),
        device("MLCX", [1.0] * 160, "P"),
        device("MLCX", []),
        [*device("MLCX", []), named("Gantry", 1.0), *device("MLCX", [1.0] * 160)[1:]],
        [*device("MLCX", [1.0] * 159), Item(0x300A, 0x011C, "DS", "R", b"wide open")],
        device("ASYMX", [1.0]) + device("ASYMY", [1.0, 2.0, 3.0]),
    ],
)
def test_positions_that_are_not_all_there_are_none(items: list[Item]) -> None:
    read = message(*items)
    assert read.leaves_cm is None
    assert read.jaws_cm == (None, None)


def test_nothing_shows_a_patient_unless_asked() -> None:
    read = message(named("Patient ID", "TEST-0001"), named("Patient Name", "Simulated^Patient"))
    for shown in (repr(read), str(read), repr(read.items), f"{read.items[0]}", repr([read])):
        assert "TEST" not in shown
        assert "Simulated" not in shown
    assert "(0010,0020) LO P, 9 bytes" in repr(read.items)


@pytest.mark.parametrize("raw", [b"", b"x" * 26, b"x" * 100, encode(TIME, 1).replace(b"05-06", b"02-31"), encode(TIME, 1)[:26]])
def test_what_is_no_message_is_refused_without_showing_it(raw: bytes) -> None:
    with pytest.raises(NotIcomError, match="check the path or the address") as caught:
        Message(raw)
    assert "xx" not in str(caught.value)


def test_messages_are_values(treating: Callable[..., bytes]) -> None:
    one, same, other = Message(treating(1)), Message(treating(1)), Message(treating(2))
    assert one == same
    assert one != other
    assert one != one.raw
    assert len({one, same, other}) == 2
    assert pickle.loads(pickle.dumps(one)) == one


items = st.builds(
    Item,
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.sampled_from(["DS", "LO", "UN"]),
    st.sampled_from("PSR"),
    st.binary(max_size=400),
)


@given(
    st.lists(items, max_size=12),
    st.datetimes(datetime.fromisoformat("1990-01-01"), datetime.fromisoformat("2089-12-31")),
    st.integers(0, 255),
)
def test_what_is_encoded_reads_back(sent: list[Item], at: datetime, counter: int) -> None:
    read = Message(encode(at, counter, sent))
    assert (list(read.items), read.timestamp, read.counter) == (sent, at.replace(microsecond=0), counter)
    assert b"".join(map(encode_item, sent)) == read.raw[27:]
    assert read.unread == b""


@given(st.binary(max_size=200))
def test_no_bytes_after_a_header_make_reading_fail(body: bytes) -> None:
    read = Message(encode(TIME, 1) + body)
    for row in VALUES:
        read.get(row.name)
    assert b"".join(map(encode_item, read.items)) + read.unread == body
    assert read.leaves_cm is None
