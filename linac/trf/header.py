"""The header of a TRF: bytes in, a `Header` out.

Four strings as .NET's BinaryWriter writes them (length in 7-bit groups, low group first, then the characters), then
little-endian: float64 prescribed MU in tenths, int32 version, int32 N, N pairs of int16. Reading by length rather than by
pattern takes names of any length and script. Read off 16 real files; no public specification exists.
"""

import math
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from linac.errors import TrfError
from linac.trf.item_parts import Part

VERSIONS = {1: (0, 2), 2: (8, 2), 3: (8, 2), 4: (8, 4)}
"""Bytes of a row's timestamp and of one count, by version. 1 and 3 are in the samples; 2 and 4 (Unity) by PyMedPhys 0.41."""

MAX_STRING_BYTES = 1 << 16
"""No header string is longer; the longest seen is 55. A longer one means that the file is not a TRF, or is damaged."""

MAX_ITEM_PARTS = 1 << 14
"""No header lists more item parts; all files seen list 350."""

MAX_HEADER_BYTES = 4 * (MAX_STRING_BYTES + 5) + 16 + 4 * MAX_ITEM_PARTS
"""What suffices to read any header."""

PRESCRIBED_TENTHS = 10
"""The header's prescribed MU is in tenths: 2274.0 stands where Elekta's export says `Total Dose = 227.4 MU`."""

ICOM_FIELD = "[ICOM"
"""A field that begins so was made by the iCom fx client, outside the record-and-verify system, and has no label."""

NOT_A_TRF = "It is not a TRF, or it is damaged: copy it again from the backup."

# .NET writes `yy/MM/dd HH:mm:ss Z` with the separators of the linac's locale: `/` in the samples, `-` and `.` were reported.
_START = re.compile(r"([0-9]{2})[^0-9]{1,3}([0-9]{2})[^0-9]{1,3}([0-9]{2})[^0-9]+([0-9]{2})[^0-9]([0-9]{2})[^0-9]([0-9]{2}) ?Z?")
_DATE_LIKE = re.compile(rb"[0-9 ./:Z-]*")
_A_START = "the UTC start of delivery, as in '17/04/19 21:59:24 Z'"
_OFFSET = re.compile(r"([+-])([0-9]{1,2})[^0-9]?([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Header:
    """What a TRF says about itself.

    `start` is aware, UTC, by the linac's treatment clock, which can differ from the rows' clock by minutes. `utc_offset` is
    the site's. `field` is the beam as recorded; `field_label` and `field_name` are its two parts (see `split_field`).
    `machine` is the linac's serial or the site's name for it. `prescribed_mu` is in MU. `item_parts` are the columns.
    `encoding` says how the strings were read: "utf-8", or "latin-1" where one of them is not UTF-8. `size` is in bytes.
    `start_text` and `utc_offset_text` are as recorded.
    """

    start: datetime
    utc_offset: timedelta
    field: str
    field_label: str
    field_name: str
    machine: str
    prescribed_mu: float
    version: int
    item_parts: tuple[Part, ...]
    encoding: str
    size: int
    start_text: str
    utc_offset_text: str

    @property
    def local_start(self) -> datetime:
        """The start by the site's wall clock, aware."""
        return self.start.astimezone(timezone(self.utc_offset))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        stamp, count = VERSIONS[self.version]
        return stamp + count * len(self.item_parts)


def split_field(field: str) -> tuple[str, str]:
    """Label and name of a recorded field, `label/name`.

    The label is what stands before the first `/`: a name may hold more of them (`3-1/AP/PA` is label `3-1`, name `AP/PA`), a
    label is the short number that the record-and-verify system gives (`2-2`, `1-1` in the samples). There is none where there
    is no `/` (service mode), nor where the iCom fx client made the field, whose time stamp holds slashes of its own.

    >>> split_field("2-2/DIR SCALP"), split_field("[ICOM: 7/03/2018 15:18:19] PF_G0."), split_field("Service")
    (('2-2', 'DIR SCALP'), ('', '[ICOM: 7/03/2018 15:18:19] PF_G0.'), ('', 'Service'))
    """
    label, slash, name = field.partition("/")
    if not slash or field.startswith(ICOM_FIELD):
        return "", field
    return label, name


def parse_header(data: bytes | memoryview, path: str | None = None) -> Header:
    """Read the header at the start of `data`. `path` is named in errors. Raises `TrfError`."""
    raw = [_start_string(data, path)]
    start = _start(raw[0][1].decode("latin-1"), data, raw[0][0], path)  # any other file fails here, before it can look cut short
    for what in ("the UTC offset", "the field", "the machine"):
        raw.append(_string(data, raw[-1][0] + len(raw[-1][1]), what, path))
    offset = raw[-1][0] + len(raw[-1][1])
    encoding, (start_text, utc_offset_text, field, machine) = _decode([text for _, text in raw])
    utc_offset = _utc_offset(utc_offset_text, raw[1][0], path)

    fixed = _take(data, offset, 16, "prescribed MU, version and number of item parts (16 bytes)", path)
    tenths, version, number = struct.unpack("<dii", fixed)
    if not math.isfinite(tenths):
        raise TrfError(path, offset, "the prescribed MU as a number", str(tenths), NOT_A_TRF)
    if version not in VERSIONS:
        advice = "Newer linac software may write a newer version: report it with this message. Or the file is damaged."
        raise TrfError(path, offset + 8, "TRF version 1, 2, 3 or 4", f"version {version}", advice)
    if not 1 <= number <= MAX_ITEM_PARTS:
        raise TrfError(path, offset + 12, f"1 to {MAX_ITEM_PARTS} item parts", str(number), NOT_A_TRF)
    offset += 16
    pairs = _take(data, offset, 4 * number, f"{number} item parts ({4 * number} bytes)", path)
    label, name = split_field(field)
    return Header(
        start=start,
        utc_offset=utc_offset,
        field=field,
        field_label=label,
        field_name=name,
        machine=machine,
        prescribed_mu=tenths / PRESCRIBED_TENTHS,
        version=version,
        item_parts=_parts(pairs),
        encoding=encoding,
        size=offset + 4 * number,
        start_text=start_text,
        utc_offset_text=utc_offset_text,
    )


_known_pairs: dict[bytes, tuple[Part, ...]] = {}


def _parts(pairs: bytes) -> tuple[Part, ...]:
    """The pairs as a tuple. All files of a machine list the same ones, so the last few lists are kept rather than made again."""
    parts = _known_pairs.get(pairs)
    if parts is None:
        parts = tuple(Part(part, subpart) for part, subpart in struct.iter_unpack("<hh", pairs))
        if len(_known_pairs) >= 16:
            _known_pairs.clear()
        _known_pairs[pairs] = parts
    return parts


def _take(data: bytes | memoryview, offset: int, size: int, expected: str, path: str | None) -> bytes:
    taken = bytes(data[offset : offset + size])
    if len(taken) < size:
        advice = "The file was cut while it was copied: fetch it again."
        raise TrfError(path, offset, expected, f"the end of the file after {len(taken)} bytes", advice)
    return taken


def _string(data: bytes | memoryview, offset: int, what: str, path: str | None) -> tuple[int, bytes]:
    """One .NET string: where its characters begin, and they."""
    length = shift = 0
    at = offset
    while True:
        byte = _take(data, at, 1, f"the length of {what}", path)[0]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 28:
            raise TrfError(path, offset, f"the length of {what}", "a length that does not end", NOT_A_TRF)
    if length > MAX_STRING_BYTES:
        raise TrfError(path, offset, f"{what} in at most {MAX_STRING_BYTES} bytes", f"a length of {length}", NOT_A_TRF)
    return at, _take(data, at, length, f"{what} ({length} bytes)", path)


def _decode(strings: list[bytes]) -> tuple[str, list[str]]:
    """All four strings as UTF-8; if one is not, all as Latin-1, which older software may have written and never fails."""
    try:
        return "utf-8", [text.decode("utf-8") for text in strings]
    except UnicodeDecodeError:
        return "latin-1", [text.decode("latin-1") for text in strings]


def _start_string(data: bytes | memoryview, path: str | None) -> tuple[int, bytes]:
    """The first string. A file that ends within it is a TRF that was cut only if what is there may be a date."""
    try:
        return _string(data, 0, "the start of delivery", path)
    except TrfError as error:
        begin = bytes(data[: 1 << 10])
        if not begin or (len(begin) <= begin[0] and _DATE_LIKE.fullmatch(begin[1:])):
            raise
        raise TrfError(path, 0, _A_START, what_it_is(data), NOT_A_TRF) from error


def _start(text: str, data: bytes | memoryview, offset: int, path: str | None) -> datetime:
    match = _START.fullmatch(text)
    if not match:
        kind = what_it_is(data)
        raise TrfError(path, offset, _A_START, kind if kind != _OTHER or not text else f"a string like {_shape(text)}", NOT_A_TRF)
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        return datetime(2000 + year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise TrfError(path, offset, _A_START, "a date or time that no calendar or clock has", NOT_A_TRF) from error


def _utc_offset(text: str, offset: int, path: str | None) -> timedelta:
    match = _OFFSET.fullmatch(text)
    if not match or int(match[2]) > 23 or int(match[3]) > 59:
        raise TrfError(path, offset, "the site's UTC offset, as in '+10:00'", f"{len(text)} characters that are none", NOT_A_TRF)
    size = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return -size if match[1] == "-" else size


_KINDS = (
    (b"PK", "a zip file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF file"),
    (b"MZ", "a Windows program"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
)
"""How files of other kinds begin."""


_OTHER = "other binary data"


def _shape(text: str) -> str:
    """How a text looks, without its letters and digits: enough to learn a date of another locale, and no name.

    >>> _shape("4/19/17 9:59:24 PM")
    "'9/99/99 9:99:99 xx'"
    """
    return repr("".join("9" if c.isdigit() else "x" if c.isalpha() or not c.isprintable() else c for c in text[:40]))


def what_it_is(data: bytes | memoryview) -> str:
    """What kind of file this is, in words. Nothing of its content is quoted: it could be a patient's name, and errors travel.

    >>> what_it_is(b"Patient: INVENTED^PATIENT"), what_it_is(bytes(100)), what_it_is(b"PK\\x03\\x04...")
    ('text', 'zeros', 'a zip file')
    """
    begin = bytes(data[: 1 << 10])
    if not begin:
        return "an empty file"
    for start, kind in _KINDS:
        if begin.startswith(start):
            return kind
    if not any(begin):
        return "zeros"
    control = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in begin)
    return _OTHER if control * 20 > len(begin) else "text"
