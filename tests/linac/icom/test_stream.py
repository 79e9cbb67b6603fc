"""Invariants of the splitter.

- However the bytes are cut, the same messages come out.
- Every byte is in exactly one message, or counted as skipped.
- No bytes make it raise, or take more memory than a message may have.
"""

import struct
import time
from collections.abc import Callable, Iterable
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linac.icom import Item, Message, MessageStream, encode, named, split
from linac.icom.layout import MAX_MESSAGE

TIME = datetime.fromisoformat("2024-05-06 12:13:14")


def small(counter: int, *items: Item, length: int | None = None) -> bytes:
    """A short message: 27 bytes of header, 16 of machine, 18 of gantry, and `items`."""
    return encode(TIME, counter, [named("Machine ID", "4299"), named("Gantry", -179.5), *items], length=length)


def text(value: bytes) -> Item:
    """An item that no table knows, with any value."""
    return Item(0x0099, 0x0001, "LO", "R", value)


def run(chunks: Iterable[bytes]) -> tuple[list[bytes], int, int]:
    """What comes out of a stream: the messages' bytes, how many bytes were skipped, how many messages were broken."""
    stream = MessageStream()
    found = [message for chunk in chunks for message in stream.feed(chunk)] + stream.close()
    assert stream.messages == len(found)
    assert not any(message.replaces for message in found)
    return [message.raw for message in found], stream.skipped_bytes, stream.broken_messages


def one_by_one(data: bytes) -> Iterable[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


A, B, C = small(1), small(2), small(3)
CUT_IN_VALUE = small(4)[:-3]
CUT_IN_HEAD = small(4)[:-15]

WHOLE = {
    "one message": [A],
    "three": [A, B, C],
    "a message without items": [A, encode(TIME, 2), C],
    "first without items": [encode(TIME, 1), B],
    "empty values": [small(1, named("Patient ID", "")), B],
    "a 10-byte value (its length is a newline)": [small(1, named("Patient ID", "TEST-00010")), B],
    "umlauts, ^ and /": [small(1, named("Patient Name", "Müller^Jörg/ß")), B],
    "Latin-1": [small(1, named("Patient Name", "Müller".encode("latin-1"))), B],
    "a date in a value": [small(1, text(b"seen 2024-05-0612:13:14 and")), B],
    "a date at the end of a value": [small(1, text(b"12345678" + b"2024-05-0612:13:14")), B],
    "a whole message in a value": [small(1, text(B)), C],
    "a message in a value, three times": [small(1, text(B), text(B + B)), C],
    "64 bytes, 255, 256, 4000": [small(1, *(text(b"x" * n) for n in (63, 64, 65, 255, 256, 4000))), B],
    "binary values": [small(1, text(bytes(range(256)))), B],
    "unknown groups": [small(1, Item(0xFFFF, 0xFFFF, "ZZ", "Q", b"?"), Item(0, 0, "AA", "A", b"")), B],
    "lengths in the prefix that are wrong": [small(1, length=5), small(2, length=2**32 - 1), small(3, length=0), A],
    "the same message again": [A, A, B],
    "the counter goes backwards": [C, A],
}


@pytest.mark.parametrize("name", WHOLE)
def test_messages_come_out_as_they_went_in(name: str) -> None:
    messages = WHOLE[name]
    data = b"".join(messages)
    assert run([data]) == (messages, 0, 0)
    assert run(one_by_one(data)) == (messages, 0, 0)
    assert run([data, b""]) == (messages, 0, 0)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("tail", [b"tail of garbage", A[:20], b"\xff" * 100, b"12345678" + b"2024-05-0612:13:14"])
def test_a_tail_changes_nothing(name: str, tail: bytes) -> None:
    messages = WHOLE[name]
    data = b"".join(messages) + tail
    assert run([data]) == (messages, len(tail), 0)
    assert run(one_by_one(data)) == (messages, len(tail), 0)


def test_a_message_without_items_needs_another_or_the_end_after_it() -> None:
    """A header alone is only a date: in the middle of garbage that proves nothing."""
    empty = encode(TIME, 2)
    assert run([empty]) == ([empty], 0, 0)
    assert run([empty + b"garbage of twenty-seven bytes"]) == ([], 27 + 29, 0)


BROKEN = {
    # name: (bytes in, messages out, bytes skipped, messages broken)
    "nothing": (b"", [], 0, 0),
    "garbage only": (b"garbage" * 50, [], 350, 0),
    "garbage before": (b"garbage" + A + B, [A, B], 7, 0),
    "garbage between": (A + b"garbage" + B, [A, B], 7, 0),
    "long garbage between": (A + b"\x00" * 9000 + B + C, [A, B, C], 9000, 0),
    "garbage with a date": (A + b"at 2024-05-0612:13:14 it" + B, [A, B], 24, 0),
    "garbage with half a date, then the header": (A + b"2024-05-" + B, [A, B], 8, 0),
    "no such day": (encode(TIME, 1).replace(b"05-06", b"02-30") + A[27:] + B, [B], len(A), 0),
    "no such month": (encode(TIME, 1).replace(b"05-06", b"13-06") + A[27:] + B, [B], len(A), 0),
    "no such hour": (encode(TIME, 1).replace(b"12:13", b"24:13") + A[27:] + B, [B], len(A), 0),
    "starts in the middle of a message": (A[30:] + B + C, [B, C], len(A) - 30, 0),
    "starts in the middle of a header": (A[10:] + B + C, [B, C], len(A) - 10, 0),
    "cut in a value, then more": (A + CUT_IN_VALUE + B + C, [A, B, C], len(CUT_IN_VALUE), 1),
    "cut in a value, then the end": (A + CUT_IN_VALUE, [A], len(CUT_IN_VALUE), 1),
    "cut in the head of an item, then the end": (A + CUT_IN_HEAD, [A], len(CUT_IN_HEAD), 1),
    "cut in a header, then more": (A + B[:20] + C, [A, C], 20, 0),
    "cut before the counter, then more": (A + B[:26] + C, [A, C], 26, 1),
    "starts with a header cut before the counter": (B[:26] + A + C, [A, C], 26, 0),
    "cut in a header, then the end": (A + B[:20], [A], 20, 0),
    "an item claims 4 GB": (A + B[:35] + b"\xff\xff\xff\xff" + B[39:] + C, [A, B[:27], C], len(B) - 27, 0),
    "an item claims 60 kB, swallows the rest": (A + B[:35] + struct.pack("<I", 60000) + B[39:] + C, [A, C], len(B), 1),
    "an item claims a few bytes too many": (A + B[:-10] + struct.pack("<I", 60) + B[-6:] + C + A, [A, C, A], len(B), 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_costs_only_what_is_broken(name: str) -> None:
    data, messages, skipped, broken = BROKEN[name]
    assert run([data]) == (messages, skipped, broken)
    assert run(one_by_one(data)) == (messages, skipped, broken)


header_like = st.sampled_from([A, B[:27], B[:40], b"2024-05-0612:13:14", b"x" * 8 + b"2024-05-0612:13:14", CUT_IN_VALUE, C[3:]])
anything = st.binary(max_size=80)
pieces = st.lists(st.one_of(header_like, anything, st.sampled_from([A, B, C])), max_size=20)
cuts = st.lists(st.integers(1, 60), min_size=1)


def in_chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at, i = [], 0, 0
    while at < len(data):
        chunks.append(data[at : at + sizes[i % len(sizes)]])
        at, i = at + sizes[i % len(sizes)], i + 1
    return chunks


@settings(max_examples=400, deadline=None)
@given(pieces, cuts)
def test_however_the_bytes_are_cut_the_same_messages_come_out(parts: list[bytes], sizes: list[int]) -> None:
    data = b"".join(parts)
    whole = run([data])
    assert run(in_chunks(data, sizes)) == whole
    assert sum(map(len, whole[0])) + whole[1] == len(data), "every byte is in one message or counted as skipped"


values = st.one_of(st.binary(max_size=300), header_like)
items = st.builds(
    Item, st.integers(0, 65535), st.integers(0, 65535), st.sampled_from(["DS", "LO", "PN", "QQ"]), st.sampled_from("PSRX"), values
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(items, max_size=6), min_size=1, max_size=12), cuts, st.booleans())
def test_any_items_come_through(sent: list[list[Item]], sizes: list[int], lengths: bool) -> None:
    data = [encode(TIME, i, own, length=None if lengths else 7 * i) for i, own in enumerate(sent)]
    assert run(in_chunks(b"".join(data), sizes)) == (data, 0, 0)
    assert [list(message.items) for message in split(b"".join(data))] == sent


def chunked(stream: MessageStream, data: bytes, size: int) -> list[Message]:
    return [message for i in range(0, len(data), size) for message in stream.feed(data[i : i + size])]


@pytest.mark.parametrize(
    "flood",
    [
        b"\x00" * (4 * MAX_MESSAGE),
        A[:27] + Item(1, 1, "LO", "R", b"x" * 8).value * (MAX_MESSAGE // 2),
        A[:27] + A[27:43] * (MAX_MESSAGE // 4),
        A[:27] + (b"\x0a\x30\x1c\x01DS\x00R" + struct.pack("<I", 65000) + b"9" * 65000) * 20,
        (A[:39] + b"2024-05-0612:13:14") * 20000,
    ],
    ids=["zeros", "text without end", "items without end", "long items without end", "headers without end"],
)
def test_memory_stays_bounded_and_the_next_message_is_found(flood: bytes) -> None:
    stream = MessageStream()
    began = time.process_time()
    chunked(stream, flood, 4096)
    assert len(stream._buffer) <= MAX_MESSAGE + 2 * 65536
    found = chunked(stream, B + C + A, 4096) + stream.close()
    assert [message.raw for message in found[-3:]] == [B, C, A]
    assert time.process_time() - began < 5


# The 100 ms rule: the caller calls flush().


def test_flush_gives_the_last_message_out_once() -> None:
    stream = MessageStream()
    assert stream.feed(A) == []
    assert [message.raw for message in stream.flush()] == [A]
    assert stream.flush() == []
    assert stream.feed(B) == []  # A's end is confirmed; it was given out already
    assert [message.raw for message in stream.close()] == [B]
    assert (stream.messages, stream.skipped_bytes) == (2, 0)


def test_a_message_that_goes_on_after_flush_is_given_again_whole() -> None:
    stream = MessageStream()
    long = small(1, named("Collimator", 5.0))
    stream.feed(long[: len(A)])  # ends where an item ends
    [early] = stream.flush()
    assert (early.raw[27:], early.replaces) == (A[27:], False)
    assert stream.feed(long[len(A) :] + B[:10]) == []
    [again] = stream.feed(B[10:])
    assert (again.raw, again.replaces) == (long, True)
    assert stream.messages == 1


def test_flush_gives_nothing_out_in_the_middle_of_an_item() -> None:
    stream = MessageStream()
    for end in range(1, len(A)):
        stream.feed(A[end - 1 : end])
        if end not in (27, 43):  # where items end, a message could end
            assert stream.flush() == [], end


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([A, B, C, small(4, named("Collimator", 5.0))]), max_size=12), cuts, st.sets(st.integers(0, 200)))
def test_flushing_at_any_time_changes_only_when_a_message_comes(parts: list[bytes], sizes: list[int], flushes: set[int]) -> None:
    stream, kept = MessageStream(), []
    for i, chunk in enumerate(in_chunks(b"".join(parts), sizes)):
        for message in stream.feed(chunk) + (stream.flush() if i in flushes else []):
            kept[len(kept) - message.replaces :] = [message.raw]
    for message in stream.close():
        kept[len(kept) - message.replaces :] = [message.raw]
    assert kept == parts


# The length in the prefix: never trusted alone, used once proven.


def learned(count: int = 9, offset: int = 0) -> MessageStream:
    stream = MessageStream()
    for i in range(count):
        stream.feed(small(i, text(b"x" * i), length=len(small(i, text(b"x" * i))) + offset))
    stream.flush()
    return stream


@pytest.mark.parametrize("offset", [0, -4, -8, -27], ids=["all", "without itself", "without the prefix", "without the header"])
def test_a_proven_length_says_at_once_that_a_message_is_whole(offset: int) -> None:
    stream = learned(9, offset)
    stream.feed(small(10, length=len(A) + offset)[:-1])
    assert not stream.whole
    stream.feed(A[-1:])
    assert stream.whole
    assert len(stream.flush()) == 1
    assert not stream.whole


def test_a_length_is_not_used_before_it_is_proven() -> None:
    stream = learned(7)
    stream.feed(A)
    assert not stream.whole
    stream.feed(B)
    assert stream.whole


@pytest.mark.parametrize("offset", [-33, 33, 1000])
def test_a_number_that_is_far_off_is_no_length(offset: int) -> None:
    stream = learned(12, offset)
    stream.feed(small(12, length=len(A) + offset))
    assert not stream.whole


def test_one_clean_message_that_contradicts_the_length_ends_its_use() -> None:
    stream = learned(9)
    out = stream.feed(small(10, length=5000) + B)
    assert [len(message.raw) for message in out] == [len(A)]
    assert not stream.whole


def test_a_message_cut_where_an_item_ends_is_recognised_by_the_proven_length() -> None:
    cut = small(10, named("Collimator", 5.0))[: len(A)]
    for tail in (b"", b"\x00\x01"):
        stream = learned(9)
        stream.feed(cut + tail)
        assert stream.flush() == []
        assert stream.close() == []
        assert stream.broken_messages == 1
    stream = MessageStream()  # without the proof nothing tells that there was more
    stream.feed(cut)
    assert len(stream.close()) == 1


def test_a_cut_message_and_the_next_that_together_look_like_one_are_told_apart_by_the_proven_length() -> None:
    """Cut in a value of 70 bytes, of which 27 + 16 are then the next message's header and first item."""
    cut = small(10, text(b"x" * 70))[: -(27 + 16)]
    for chunks in ([cut + B + C], one_by_one(cut + B + C)):
        stream = learned(9)
        found = [message.raw for chunk in chunks for message in stream.feed(chunk)] + [m.raw for m in stream.close()]
        assert found == [B, C]
        assert (stream.broken_messages, stream.skipped_bytes) == (1, len(cut))


def test_a_proven_length_tells_garbage_from_the_beginning_of_an_item() -> None:
    stream = learned(9)
    stream.feed(A + b"\x00\x01")
    assert [message.raw for message in stream.close()] == [A]
    assert stream.skipped_bytes == 2


def test_a_damaged_length_at_the_end_of_a_connection_hides_no_message() -> None:
    damaged = B[:35] + struct.pack("<I", 60000) + B[39:]
    stream = MessageStream()
    found = stream.feed(A + damaged + C + A)
    found += stream.close()
    assert [message.raw for message in found] == [A, C, A]
    assert (stream.skipped_bytes, stream.broken_messages) == (len(B), 1)


def test_messages_with_items_of_an_unknown_form_are_kept_whole_once_the_length_is_proven() -> None:
    """Should a real machine send something that our idea of an item does not cover, recording goes on."""
    strange = b"\x01\x30\x99\x99un\x00\x00" + b"something else, of another form"
    sent = [small(i, text(b"x" * i)) + strange + small(i)[43:] for i in range(20)]
    sent = [struct.pack("<I", len(raw)) + raw[4:] for raw in sent]
    for chunks in ([b"".join(sent)], one_by_one(b"".join(sent))):
        stream = MessageStream()
        found = [message for chunk in chunks for message in stream.feed(chunk)]
        assert len(found) == 19
        assert [message.raw for message in found[8:]] == sent[8:19]
        assert found[10].unread == strange + small(10)[43:]
        assert found[10].get("Gantry") == -179.5
        assert stream.broken_messages == 0


def test_a_length_that_goes_wrong_is_distrusted_before_it_costs_much() -> None:
    stream = learned(9)
    out = []
    for i in range(20):
        out += stream.feed(small(i, length=5000) + b"garbage")
    assert len(out) >= 14


def test_a_closed_stream_refuses_more() -> None:
    stream = MessageStream()
    stream.close()
    for use in (lambda: stream.feed(A), stream.close, stream.flush):
        with pytest.raises(ValueError, match="new MessageStream"):
            use()


def test_split_reads_a_recorded_session(treating: Callable[..., bytes]) -> None:
    sent = [treating(i, 0.5 * i) for i in range(30)]
    assert [message.raw for message in split(b"".join(sent))] == sent


@pytest.mark.parametrize("data", ["text", None, 7, [b"x"]])
def test_what_is_not_bytes_is_refused_with_advice(data: object) -> None:
    with pytest.raises(TypeError, match="bytes as they came"):
        MessageStream().feed(data)  # type: ignore[arg-type]


def test_any_kind_of_bytes_is_taken() -> None:
    assert MessageStream().feed(bytearray(b"abc")) == MessageStream().feed(memoryview(b"abc")) == []
