"""Names of files and folders from what the linac sends, safe on Windows shares and readable by PyMedPhys's apps.

>>> patient_folder("123456", "TEST, Invented")
'123456_TEST, Invented'
>>> patient_folder("12/3", "TEST^Invented^M")
'12%2F3_TEST, Invented M'
>>> patient_folder("CON.1", None)
'CON%2E1_None'

PyMedPhys looks for `<id>_*` and takes what follows the last `_` as the name, `Last, First`. So the ID stays as it is where it
can; a character that a file name may not hold is written as in web addresses (%2F), so that two patients never share a folder.
The name is only for people: what does not fit becomes a blank. A missing name is `None`, as PyMedPhys writes it.
"""

import hashlib
import re
import unicodedata

from linac.capture.spool import WINDOWS_DEVICES

LONGEST = 64
"""Characters of an ID or a name (DICOM allows 64 in each); with the rest of the path it stays under Windows's 260."""

LONGEST_BYTES = 120
"""The same in UTF-8: both together stay under the 255 bytes that Linux's file systems allow a name."""

_FORBIDDEN = '<>:"/\\|?*%'
"""What Windows forbids in names, and the escape character itself. Control characters are escaped as well."""


def patient_folder(patient_id: str, patient_name: str | None) -> str:
    """`<id>_<name>`, a single path part."""
    return f"{_safe_id(patient_id)}_{_safe_name(patient_name)}"


def address_folder(address: str) -> str:
    """The folder for an address under `live/`: the address, with the colons of IPv6 written %3A."""
    return _safe_id(address)


def _safe_id(text: str) -> str:
    text = unicodedata.normalize("NFC", text.strip())
    safe = "".join(_escaped(letter) if letter in _FORBIDDEN or not letter.isprintable() else letter for letter in text)
    if safe != _cut(safe, LONGEST, LONGEST_BYTES):
        safe = f"{_cut(safe, LONGEST - 9, LONGEST_BYTES - 9)}~{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    if safe.startswith("."):
        safe = _escaped(".") + safe[1:]
    base, dot, rest = safe.partition(".")
    if dot and base.rstrip().lower() in WINDOWS_DEVICES:
        safe = f"{base}{_escaped('.')}{rest}"
    return safe


def _escaped(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))


def _cut(text: str, letters: int, size: int) -> str:
    """The beginning of a text: no more letters, and in UTF-8 no more bytes, than these."""
    return text[:letters].encode()[:size].decode(errors="ignore")


def _safe_name(name: str | None) -> str:
    if name is None or not name.strip():
        return "None"
    text = unicodedata.normalize("NFC", name).strip(" ^")
    last, caret, first = text.partition("^")
    if caret:
        text = f"{last}, {first}"
    text = "".join(" " if letter in _FORBIDDEN or letter in "^_" or not letter.isprintable() else letter for letter in text)
    text = _cut(re.sub(r" +", " ", text).strip(" ,"), LONGEST, LONGEST_BYTES).rstrip(" .")
    return text or "None"
