"""Names: safe on Windows shares, the same patient always in the same folder, never two patients in one."""

import re
from pathlib import PureWindowsPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linac.capture.names import address_folder, patient_folder
from linac.transport.paths import split_name

UNHURRIED = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy computer, too

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=70)


@pytest.mark.parametrize(
    ("patient_id", "name", "folder"),
    [
        ("123456", "TEST, Invented", "123456_TEST, Invented"),  # as PyMedPhys writes it today
        ("0123456789", "TEST^Invented", "0123456789_TEST, Invented"),
        ("A_1", "TEST_QA", "A_1_TEST QA"),  # what follows the last _ is the name, for PyMedPhys
        ("7", "Müller^Jörg^von", "7_Müller, Jörg von"),
        ("7", "Exists^Not/Jörg", "7_Exists, Not Jörg"),
        ("7", "O'Nobody, Al-Bert Jr.", "7_O'Nobody, Al-Bert Jr"),
        ("7", None, "7_None"),
        ("7", " ^ ", "7_None"),
        ("7", "NOBODY^", "7_NOBODY"),
        ("12/3", "X", "12%2F3_X"),
        ("12:3*?", "X", "12%3A3%2A%3F_X"),
        ("50%", "X", "50%25_X"),
        ("..", "X", "%2E._X"),
        ("nul.1", "X", "nul%2E1_X"),
        ("CONOUT$.1", "X", "CONOUT$%2E1_X"),
        ("com\u00b9.1", "X", "com\u00b9%2E1_X"),
        ("CON", "X", "CON_X"),
        ("1\n2", "X", "1%0A2_X"),
        (" 7 ", "X", "7_X"),
    ],
)
def test_the_folder_of_a_patient(patient_id: str, name: str | None, folder: str) -> None:
    assert patient_folder(patient_id, name) == folder


@UNHURRIED
@given(TEXT, st.none() | TEXT)
def test_every_folder_of_a_patient_is_a_name_that_shares_take(patient_id: str, name: str | None) -> None:
    folder = patient_folder(patient_id, name)
    assert split_name(f"patients/{folder}/20240506_121314.xz")[1] == folder


@pytest.mark.parametrize("device", ["CON", "nul", "COM1", "LPT9", "CONIN$", "conout$", "COM\u00b9", "lpt\u00b3"])
def test_no_patient_of_a_devices_name_waits_for_ever(device: str) -> None:
    """A name that no share takes would keep the session in the journal."""
    folder = patient_folder(f"{device}.7", None)
    assert split_name(folder) == [folder]


def test_very_long_ids_stay_apart() -> None:
    one, two = patient_folder("A" * 100 + "1", "N" * 200), patient_folder("A" * 100 + "2", "N" * 200)
    assert one != two
    assert max(len(one), len(two)) <= 64 + 1 + 64


def test_long_names_of_letters_that_take_several_bytes_fit_on_linux_too() -> None:
    one, two = patient_folder("患" * 64 + "1", "無" * 64), patient_folder("患" * 64 + "2", "無" * 64)
    assert one != two
    assert max(len(one.encode()), len(two.encode())) <= 255


@UNHURRIED
@given(TEXT, st.none() | TEXT)
def test_every_name_is_one_part_that_windows_keeps_as_it_is(patient_id: str, name: str | None) -> None:
    folder = patient_folder(patient_id, name)
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f]', folder)
    assert not folder.endswith((" ", "."))
    assert not folder.startswith((" ", "."))
    assert folder.split(".")[0].rstrip().lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")
    assert not PureWindowsPath(folder).is_absolute()
    assert len(PureWindowsPath(folder).parts) == 1
    assert len(folder.encode()) <= 255


@UNHURRIED
@given(TEXT.map(str.strip).filter(bool), TEXT.map(str.strip).filter(bool))
def test_two_patients_never_share_a_folder(one: str, two: str) -> None:
    import unicodedata

    if unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", two):
        assert patient_folder(one, "Nobody") != patient_folder(two, "Nobody")


def test_the_folder_of_an_address() -> None:
    assert address_folder("192.168.17.40") == "192.168.17.40"
    assert address_folder("fe80::1") == "fe80%3A%3A1"
