"""The header: what each byte means, and what cannot be a header."""

import pickle
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from linac.errors import TrfError
from linac.trf import parse_header, read_header
from linac.trf.header import MAX_HEADER_BYTES, split_field
from linac.trf.item_parts import Part
from linac.trf.writer import encode

# The header of a log with two columns, field by field.
SMALL = b"".join(
    (
        b"\x13" + b"17/04/19 21:59:24 Z",  # start, UTC: a length byte, then as many characters
        b"\x06" + b"+10:00",  # the site's UTC offset
        b"\x0d" + b"2-2/DIR SCALP",  # field: label/name
        b"\x04" + b"2694",  # machine
        struct.pack("<d", 2274.0),  # prescribed dose, in tenths of a MU
        struct.pack("<i", 1),  # version
        struct.pack("<i", 2),  # number of item parts
        struct.pack("<hh", 2224, 129),  # Step Gantry, scaled actual
        struct.pack("<hh", 2224, 220),  # Step Gantry, positional error
    )
)


def small(
    start: str = "17/04/19 21:59:24 Z", offset: str = "+10:00", field: str = "a", machine: str = "m", **rest: object
) -> bytes:
    return encode([], item_parts=[(2224, 129)], start=start, utc_offset=offset, field=field, machine=machine, **rest)  # type: ignore[arg-type]


class TestEveryByte:
    header = parse_header(SMALL)

    def test_strings(self) -> None:
        assert self.header.start == datetime(2017, 4, 19, 21, 59, 24, tzinfo=UTC)
        assert self.header.utc_offset == timedelta(hours=10)
        assert self.header.local_start.isoformat() == "2017-04-20T07:59:24+10:00"
        assert (self.header.field, self.header.field_label, self.header.field_name) == ("2-2/DIR SCALP", "2-2", "DIR SCALP")
        assert self.header.machine == "2694"
        assert self.header.encoding == "utf-8"

    def test_numbers(self) -> None:
        assert self.header.prescribed_mu == 227.4
        assert self.header.version == 1
        assert self.header.item_parts == (Part(2224, 129), Part(2224, 220))
        assert self.header.item_parts[1].subpart == 220
        assert self.header.size == len(SMALL)
        assert self.header.row_bytes == 4

    def test_it_travels_between_processes(self) -> None:
        assert pickle.loads(pickle.dumps(self.header)) == self.header

    def test_what_follows_does_not_matter(self) -> None:
        assert parse_header(SMALL + b"rows") == self.header


@pytest.mark.parametrize("size", range(len(SMALL)))
def test_every_shorter_piece_is_an_error_that_says_where(size: int) -> None:
    with pytest.raises(TrfError) as caught:
        parse_header(SMALL[:size], "some.trf")
    assert caught.value.path == "some.trf"
    assert 0 <= caught.value.offset <= size
    assert "end of the file" in caught.value.found


@pytest.mark.parametrize(
    ("field", "label", "name"),
    [
        ("2-2/DIR SCALP", "2-2", "DIR SCALP"),
        ("3-1/AP/PA", "3-1", "AP/PA"),
        ("1-1/a/b/c/", "1-1", "a/b/c/"),
        ("[ICOM: 7/03/2018 15:18:19] PF_G0.", "", "[ICOM: 7/03/2018 15:18:19] PF_G0."),
        ("Service", "", "Service"),
        ("", "", ""),
        ("/name", "", "name"),
        ("label/", "label", ""),
        ("1-1/Prüfkörper – 左", "1-1", "Prüfkörper – 左"),
    ],
)
def test_label_and_name(field: str, label: str, name: str) -> None:
    assert split_field(field) == (label, name)
    header = parse_header(small(field=field))
    assert (header.field, header.field_label, header.field_name) == (field, label, name)


@pytest.mark.parametrize(
    "start",
    ["17/04/19 21:59:24 Z", "17-04-19 21:59:24 Z", "17.04.19 21.59.24 Z", "17. 04. 19 21:59:24 Z", "17年04月19 21:59:24 Z"],
)
def test_any_date_separator(start: str) -> None:
    header = parse_header(small(start=start))
    assert header.start == datetime(2017, 4, 19, 21, 59, 24, tzinfo=UTC)
    assert header.start_text == start


@pytest.mark.parametrize(
    ("text", "minutes"), [("+10:00", 600), ("-03:30", -210), ("+00:00", 0), ("+5:45", 345), ("+05.45", 345), ("-0030", -30)]
)
def test_utc_offsets(text: str, minutes: int) -> None:
    assert parse_header(small(offset=text)).utc_offset == timedelta(minutes=minutes)


@pytest.mark.parametrize("length", [0, 1, 50, 51, 127, 128, 300, 16_383, 16_384, 60_000])
def test_strings_of_any_length(length: int) -> None:
    header = parse_header(small(field="ü" * (length // 2) + "x" * (length % 2), machine="m" * length))
    assert len(header.field.encode()) == len(header.machine) == length


def test_what_is_not_utf8_is_read_as_latin1_and_says_so() -> None:
    header = parse_header(small(field="1-1/Prüfkörper", machine="Süd", encoding="latin-1"))
    assert (header.encoding, header.field_name, header.machine) == ("latin-1", "Prüfkörper", "Süd")


def damaged(at: int, kind: str, value: float) -> bytes:
    return SMALL[:at] + struct.pack(kind, value) + SMALL[at + struct.calcsize(kind) :]


@pytest.mark.parametrize(
    ("data", "offset", "expected", "found"),
    [
        (b"", 0, "the length of the start", "end of the file after 0 bytes"),
        (b"\xff\xff\xff\xff\xff\x01", 0, "UTC start", "other binary data"),
        (b"\xff\xff\xff\xff\x07" + bytes(100), 0, "UTC start", "other binary data"),
        (b"\x03abc" + SMALL, 1, "UTC start", "a string like 'xxx'"),
        (small(start="17/13/19 21:59:24 Z"), 1, "UTC start", "no calendar or clock has"),
        (small(start="17/02/30 21:59:24 Z"), 1, "UTC start", "no calendar or clock has"),
        (small(start="4/19/17 9:59:24 PM"), 1, "UTC start", "a string like '9/99/99 9:99:99 xx'"),
        (small(start="x" * 100), 1, "UTC start", "xxx'"),
        (small(start="\x1b[2J"), 1, "UTC start", "a string like 'x[9x'"),
        (small(offset="10"), 21, "UTC offset", "2 characters that are none"),
        (small(offset="+24:00"), 21, "UTC offset", "6 characters that are none"),
        (small(offset="+10:60"), 21, "UTC offset", "6 characters that are none"),
        (damaged(46, "<d", float("nan")), 46, "prescribed MU", "nan"),
        (damaged(46, "<d", float("inf")), 46, "prescribed MU", "inf"),
        (damaged(54, "<i", 0), 54, "version 1, 2, 3 or 4", "version 0"),
        (damaged(54, "<i", 5), 54, "version 1, 2, 3 or 4", "version 5"),
        (damaged(54, "<i", -1), 54, "version 1, 2, 3 or 4", "version -1"),
        (damaged(58, "<i", 0), 58, "item parts", "0"),
        (damaged(58, "<i", -2), 58, "item parts", "-2"),
        (damaged(58, "<i", 1 << 30), 58, "item parts", "1073741824"),
        (damaged(58, "<i", 3), 62, "3 item parts (12 bytes)", "end of the file after 8 bytes"),
    ],
)
def test_what_cannot_be_a_header(data: bytes, offset: int, expected: str, found: str) -> None:
    with pytest.raises(TrfError) as caught:
        parse_header(data, "some.trf")
    error = caught.value
    assert (error.path, error.offset) == ("some.trf", offset)
    assert expected in error.expected
    assert found in error.found
    assert str(error).startswith(f"some.trf: at byte {offset} expected ")
    assert str(error).isprintable()


def test_no_header_is_longer_than_the_limit_that_reading_uses() -> None:
    longest = encode([], item_parts=[(1, 1)] * (1 << 14), start="17/04/19 21:59:24 Z", field="f" * 65_536, machine="m" * 65_536)
    assert len(longest) <= MAX_HEADER_BYTES
    assert parse_header(longest).size == len(longest)


class TestRealHeaders:
    """Each real log's header, as its file name, Elekta's export and a hex editor show it."""

    def header(self, samples: Path, name: str) -> tuple[object, ...]:
        found = read_header(samples / name)
        assert len(found.item_parts) == 350
        assert found.encoding == "utf-8"
        return (
            found.start.isoformat(),
            found.utc_offset,
            found.field_label,
            found.field_name,
            found.machine,
            found.prescribed_mu,
            found.version,
        )

    def test_service_beam(self, samples: Path) -> None:
        assert self.header(samples, "17_04_19 21_18_39 Z .trf") == (
            *("2017-04-19T21:18:39+00:00", timedelta(hours=10), "", "", "2694", 0.0, 1),
        )

    def test_treatment_field(self, samples: Path) -> None:
        assert self.header(samples, "17_04_19 21_59_24 Z 2-2_DIR SCALP.trf") == (
            *("2017-04-19T21:59:24+00:00", timedelta(hours=10), "2-2", "DIR SCALP", "2694", 227.4, 1),
        )

    def test_arc(self, samples: Path) -> None:
        assert self.header(samples, "17_04_24 02_23_05 Z 1-1_1ARCVMAT.trf") == (
            *("2017-04-24T02:23:05+00:00", timedelta(hours=10), "1-1", "1ARCVMAT", "2694", 773.9, 1),
        )

    def test_beams_made_by_icom(self, samples: Path) -> None:
        offset, fence = timedelta(hours=11), "[ICOM: 7/03/2018 15:18:19] PF_G0."
        assert self.header(samples, "INT3 18_10_18 05_19_40 Z [ICOM_ 7_03_2018 15_18_19] PF_G0..trf") == (
            *("2018-10-18T05:19:40+00:00", offset, "", fence, "9002", 200.0, 1),
        )
        assert self.header(samples, "INT4 18_12_12 08_24_07 Z [ICOM_ 7_03_2018 15_18_19] PF_G0..trf") == (
            *("2018-12-12T08:24:07+00:00", offset, "", fence, "9002", 200.0, 3),
        )
        assert self.header(samples, "INT4 18_12_12 08_21_44 Z [ICOM_ 7_03_2018 15_16_23] D Abut..trf") == (
            *("2018-12-12T08:21:44+00:00", offset, "", "[ICOM: 7/03/2018 15:16:23] D Abut.", "9002", 40.0, 3),
        )


NAME = "INVENTED^PATIENT"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (f"Patient name: {NAME}\r\nField: 2-2\r\n".encode(), "text"),
        (f"{NAME}: a longer text, {NAME} and more of it; ".encode() * 100, "text"),
        (f"<patient>{NAME}</patient>".encode(), "text"),
        (NAME.encode("utf-16"), "text in UTF-16"),
        (bytes(1000), "zeros"),
        (b"PK\x03\x04" + NAME.encode(), "a zip file"),
        (b"PAR1" + NAME.encode(), "a Parquet file"),
        (b"\x1f\x8b\x08" + bytes(30), "a gzip file"),
        (bytes(range(256)) + NAME.encode(), "other binary data"),
    ],
)
def test_a_file_of_another_kind_is_called_so_and_not_quoted_nor_called_cut(data: bytes, found: str) -> None:
    with pytest.raises(TrfError) as caught:
        parse_header(data)
    assert caught.value.found == found
    for part in (NAME, "Patient", "INVENT", "cut"):
        assert part not in str(caught.value)


@pytest.mark.parametrize("end", range(len(SMALL)))
def test_no_error_of_a_damaged_header_quotes_its_strings(end: int) -> None:
    data = small(field=f"2-2/{NAME}", machine=NAME)
    for damage in (0, 0x20, 0xFF):
        harmed = data[:end] + bytes([damage]) + data[end + 1 :]
        for given in (harmed, data[:end]):
            said = ""
            try:
                parse_header(given)
            except TrfError as error:
                said = str(error)
            assert "INVENT" not in said


def test_a_trf_that_is_cut_in_its_start_is_called_cut() -> None:
    for end in range(1, 20):
        with pytest.raises(TrfError, match="The file was cut while it was copied"):
            parse_header(SMALL[:end])
