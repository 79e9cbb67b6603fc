"""PyMedPhys's config.toml: what people wrote stays, what is new is right, and a file that is not understood is left alone."""

import contextlib
import errno
import importlib.util
import os
import re
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linac.errors import SetupError, StorageError
from linac.provision import config
from linac.provision.config import Entry
from linac.transport import connect

NOW = datetime(2026, 11, 22, 23, 15, tzinfo=UTC)

FULL = r"""# PyMedPhys at the coast. Ask Jane before you change this!
version = 1

[trf_logfiles]
root_directory = '\\NBCCC-pdc\physics\TRF'  # backed up nightly

[icom]
patient_directories = [
    '\\NBCCC-pdc\physics\iCom\patients',  # NBCC
]

[[site]]
name = "rccc"   # the hub

    [site.export-directories]
    icom = '\\rccc\iCom\patients'
    # escan = 'old'

    [site.mosaiq]
    hostname = "rccc-mosaiq"
    port = 1433
    timezone = "Australia/Sydney"

    # Peter
    [[site.linac]]
    name = "2619"
    ip = "10.0.0.1"      # behind the tunnel
    samba_ip = "10.0.0.2"
    energies = ["6", "10"]

        [site.linac.aliases]
        iview = "2619_iView"

    # Harry is to come
    [[site.linac]]
    name = "2694"
    ip = "10.0.0.3"

# The coast
[[site]]
name = "nbcc"

    [site.export-directories]
    icom = 'X:\iCom'

[output]
png_directory = '~/x'
"""

FLAT = """[[site]]
name = "nbcc"

[site.export-directories]
icom = "/mnt/icom"

[[site.linac]]
name = "9183"
ip = "192.168.17.41"
[gamma]
quiet = true"""

FILES = {"full": FULL, "flat": FLAT, "empty": "", "comments": "# nothing yet\n", "no site": "[gamma]\nquiet = true\n"}


def comments(text: str) -> list[str]:
    return re.findall(r"#.*", text)


def lines_gone(change: config.Change) -> list[str]:
    return [line[1:] for line in change.diff.splitlines() if line.startswith("-") and not line.startswith("---")]


@pytest.mark.parametrize("text", FILES.values(), ids=list(FILES))
@pytest.mark.parametrize("site", ["nbcc", "sash"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_new_linac_is_added_and_everything_else_stays(text: str, site: str, newline: str) -> None:
    before = text.replace("\n", newline)
    change = config.update(before, Entry(site, "4299", "192.168.17.40", energies=("6", "10"), iview_alias="4299_iView"))
    sites = tomllib.loads(change.after)["site"]
    [ours] = [one for one in sites if one["name"] == site]
    assert ours["linac"][-1] == {
        "name": "4299",
        "ip": "192.168.17.40",
        "samba_ip": "192.168.17.40",
        "energies": ["6", "10"],
        "aliases": {"iview": "4299_iView"},
    }
    assert lines_gone(change) == []
    assert comments(change.after) == comments(before)
    if newline == "\r\n" and text.count("\n"):
        assert change.after.count("\n") == change.after.count("\r\n")
    again = config.update(change.after, Entry(site, "4299", "192.168.17.40", energies=("6", "10"), iview_alias="4299_iView"))
    assert not again.changed
    assert again.diff == ""


def test_new_lines_look_like_their_neighbours_and_stand_before_the_next_comment() -> None:
    after = config.update(FULL, Entry("rccc", "4299", "192.168.17.40", iview_alias="4299_iView")).after
    assert (
        """    ip = "10.0.0.3"

    [[site.linac]]
    name = "4299"
    ip = "192.168.17.40"
    samba_ip = "192.168.17.40"

        [site.linac.aliases]
        iview = "4299_iView"

# The coast
[[site]]
"""
        in after
    )


BEHIND = """version = 1

[[site]]
name = "nbcc"

    [[site.linac]]
    name = "2619"
    ip = "192.168.17.41"

    # --- Mosaiq: ask Jane before changing ---
    [site.mosaiq]
    hostname = "msq"
    # trailing note on the Mosaiq port
    port = 1433

    # Monaco's
    [site.directories]
    monaco = []

# --- second site, owned by Bob ---
[[site]]
name = "rccc"
linac = []
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_new_linac_stands_beside_its_sibling_and_a_second_run_changes_nothing(newline: str) -> None:
    before = BEHIND.replace("\n", newline)
    entry = Entry("nbcc", "4299", "192.168.17.40")
    change = config.update(before, entry)
    new = '\n    [[site.linac]]\n    name = "4299"\n    ip = "192.168.17.40"\n    samba_ip = "192.168.17.40"\n'
    assert change.after.replace("\r\n", "\n") == BEHIND.replace('41"\n', f'41"\n{new}')
    assert not config.update(change.after, entry).changed
    moved = config.update(change.after, Entry("nbcc", "4299", "192.168.17.42"))
    assert moved.after == change.after.replace("17.40", "17.42")
    assert not config.update(moved.after, Entry("nbcc", "4299", "192.168.17.42")).changed


APART = """[[site]]
name = "nbcc"
[[site.linac]]
name = "2619"
ip = "192.168.17.41"

[icom]  # the site's directories come later
patient_directories = []

# Monaco's
[site.directories]
monaco = []
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_that_stand_apart_from_their_site_stay_where_they_are_with_their_comments(newline: str) -> None:
    before = APART.replace("\n", newline)
    entry = Entry("nbcc", "4299", "192.168.17.40")
    change = config.update(before, entry)
    assert lines_gone(change) == []
    assert f"# Monaco's{newline}[site.directories]" in change.after
    assert not config.update(change.after, entry).changed
    with pytest.raises(SetupError, match="without moving them"):
        config.update(change.after, Entry("nbcc", "4299", "192.168.17.42"))


def test_values_are_updated_in_place_with_their_comments() -> None:
    entry = Entry(
        "rccc", "2619", "10.9.9.9", icom_live=r"\\rccc\iCom\live", mosaiq={"port": 11433}, patients=r"\\rccc\iCom\patients"
    )
    change = config.update(FULL, entry)
    assert lines_gone(change) == ["    port = 1433", '    ip = "10.0.0.1"      # behind the tunnel']
    assert '    ip = "10.9.9.9"      # behind the tunnel' in change.after
    assert r"    icom_live = '\\rccc\iCom\live'" in change.after
    assert tomllib.loads(change.after)["icom"]["patient_directories"] == [
        r"\\NBCCC-pdc\physics\iCom\patients",
        r"\\rccc\iCom\patients",
    ]
    assert comments(change.after) == comments(FULL)
    linac = tomllib.loads(change.after)["site"][0]["linac"][0]
    assert linac["samba_ip"] == "10.0.0.2"  # it was another one than the address, and stays
    assert linac["energies"] == ["6", "10"]


def test_of_a_list_over_several_lines_what_stays_keeps_its_comments() -> None:
    listed = """energies = [
        # photons
        "6",   # the low one
        "10",  # the high one
        # electrons
        "12 MeV",  # seldom
    ]  # all of them"""
    before = FULL.replace('energies = ["6", "10"]', listed)
    change = config.update(before, Entry("rccc", "2619", "10.0.0.1", energies=("6", "10 FFF", "12 MeV", "15")))
    assert tomllib.loads(change.after)["site"][0]["linac"][0]["energies"] == ["6", "10 FFF", "12 MeV", "15"]
    assert lines_gone(change) == ['        "10",  # the high one']
    assert set(comments(before)) - set(comments(change.after)) == {"# the high one"}
    for energies in (("15",), ("12 MeV", "6"), ("18", "15", "12 MeV", "10", "6")):
        after = config.update(before, Entry("rccc", "2619", "10.0.0.1", energies=energies)).after
        assert tomllib.loads(after)["site"][0]["linac"][0]["energies"] == list(energies)
    short = config.update(FULL, Entry("rccc", "2619", "10.0.0.1", energies=("4", "6")))
    assert '    energies = ["4", "6"]\n' in short.after


def test_a_file_whose_lines_end_in_both_ways_keeps_each_of_them() -> None:
    before = FULL.replace("\n", "\r\n").replace("# Peter\r\n", "# Peter \u2028 and Paul\n")
    entry = Entry("rccc", "4299", "192.168.17.40", mosaiq={"port": 11433}, iview_alias="x", trf="/mnt/trf")
    change = config.update(before, entry)
    kept = before.replace("port = 1433", "port = 11433").replace(r"'\\NBCCC-pdc\physics\TRF'", '"/mnt/trf"').split("\n")
    lines = change.after.split("\n")
    assert [line for line in lines if line not in kept] == [
        "    [[site.linac]]",
        '    name = "4299"',
        '    ip = "192.168.17.40"',
        '    samba_ip = "192.168.17.40"',
        "        [site.linac.aliases]",
        '        iview = "x"',
    ]
    assert [line for line in kept if line not in lines] == []
    assert "# Peter \u2028 and Paul" not in config.remove(change.after, "2619").after
    assert config.remove(before, "2694").after.count("\r\n") > 20


def test_a_samba_address_that_was_the_address_moves_along() -> None:
    first = config.update(FLAT, Entry("nbcc", "4299", "192.168.17.40")).after
    moved = tomllib.loads(config.update(first, Entry("nbcc", "4299", "192.168.17.60")).after)
    assert moved["site"][0]["linac"][1]["samba_ip"] == "192.168.17.60"


def test_a_linac_is_removed_and_comes_back() -> None:
    gone = config.remove(FULL, "2619")
    assert [linac["name"] for linac in tomllib.loads(gone.after)["site"][0]["linac"]] == ["2694"]
    assert set(comments(FULL)) - set(comments(gone.after)) == {"# Peter", "# behind the tunnel"}
    last = config.remove(gone.after, "2694")
    assert tomllib.loads(last.after)["site"][0]["linac"] == []  # PyMedPhys's apps look the key up
    back = config.update(last.after, Entry("rccc", "2694", "10.0.0.3"))
    assert [linac["name"] for linac in tomllib.loads(back.after)["site"][0]["linac"]] == ["2694"]
    assert not config.remove(FULL, "4299").changed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[site]\nname=", "cannot be read"),
        ('redirect = "S:/config.toml"', "only points to another one: S:/config.toml"),
        ("version = 2", "version 2"),
        ('site = "nbcc"', "not a list of [[site]] tables"),
        ("[site]\nname = 'nbcc'", "not a list of [[site]] tables"),
        ("[[site]]\n[[site]]", "a name of their own"),
        ("[[site]]\nname='a'\n[[site]]\nname='a'", "a name of their own"),
        ("[[site]]\nname='a'\nlinac='4299'", "not a list of [[site.linac]]"),
        ("[[site]]\nname='a'\nmosaiq=1", "`mosaiq` is not a table"),
        ("[[site]]\nname='a'\n[[site.linac]]\nname=4299", "a name of their own"),
        (
            "site = [{name='a', linac=[{name='1', ip='x'}]}]",
            "written as a list, site = [{...}]",
        ),
        ("site = [{name='b'}]", "written as a list, site = [{...}]"),
        ("[[site]]\nname='a'\nlinac=[{name='1', ip='x'}]", "Write them as [[site.linac]] tables"),
        ("[[site]]\nname='a'\nlinac=[{name='1', ip='x'}, {name='4299'}]", "Write them as [[site.linac]] tables"),
        ("[icom]\npatient_directories = 'x'", "is not what PyMedPhys wants"),
        ("[[site]]\nname='b'\n[[site.linac]]\nname='4299'\nip='x'", "is at site b"),
        ("[[site]]\nname='b'\n[[site.linac]]\nname='1'\nip='192.168.17.40'", "Linac 1 has the address"),
        ("\ufeff[[site]]\nname='a'", "a BOM"),
        ("[[site]]\nname='a'\nx = [\n[1]\n]", "cannot change safely"),  # a line that looks like a header
    ],
)
def test_what_is_not_understood_is_refused(text: str, says: str) -> None:
    with pytest.raises(SetupError, match=re.escape(says)):
        config.update(text, Entry("a", "4299", "192.168.17.40"))


def test_an_iview_alias_is_one_linacs_alone() -> None:
    for site in ("rccc", "nbcc"):
        for alias in ("2619_iView", "2619_IVIEW "):
            with pytest.raises(SetupError, match="Linac 2619 of site rccc has the iView alias 2619_iView"):
                config.update(FULL, Entry(site, "4299", "192.168.17.40", iview_alias=alias))
    assert not config.update(FULL, Entry("rccc", "2619", "10.0.0.1", iview_alias="2619_iView")).changed


@pytest.mark.parametrize("field", ["address", "samba_address"])
def test_a_mistyped_address_is_refused(field: str) -> None:
    with pytest.raises(SetupError, match=r"'192\.168\.17\.4O' is not an address"):
        config.update("", Entry(**{"site": "nbcc", "serial": "4299", "address": "192.168.17.40", field: "192.168.17.4O"}))


def test_tunnels_to_several_linacs_may_end_at_one_computer() -> None:
    first = config.update("", Entry("a", "4299", "127.0.0.1")).after
    assert len(tomllib.loads(config.update(first, Entry("a", "9183", "127.0.0.1")).after)["site"][0]["linac"]) == 2


PRINTABLE = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20).filter(
    lambda text: text.strip() and text.isprintable()
)


@settings(max_examples=40, deadline=None)
@given(PRINTABLE, PRINTABLE, st.sampled_from(sorted(FILES)))
def test_any_name_comes_back_from_the_file_in_ascii(site: str, value: str, name: str) -> None:
    """PyMedPhys opens the file in its computer's code page: what we add is plain ASCII."""
    entry = Entry(site, "4299", "192.168.17.40", iview_alias=value, icom=value)
    change = config.update(FILES[name], entry)
    ours = [one for one in tomllib.loads(change.after)["site"] if one["name"] == site]
    assert ours[0]["export-directories"]["icom"] == value
    assert ours[0]["linac"][-1]["aliases"]["iview"] == value
    assert change.after.isascii()
    assert not config.update(change.after, entry).changed


def test_a_site_is_the_same_in_capitals() -> None:
    upper, both = FLAT.replace('"nbcc"', '"NBCC"'), FLAT + '\n[[site]]\nname = "NBCC"\n'
    for text, site, expected in ((upper, "nbcc", ["NBCC"]), (both, "NBCC", ["nbcc", "NBCC"]), (both, "Nbcc", ["nbcc", "NBCC"])):
        change = config.update(text, Entry(site, "4299", "192.168.17.40"))
        sites = tomllib.loads(change.after)["site"]
        assert [one["name"] for one in sites] == expected
        (at,) = [one["name"] for one in sites if "4299" in [linac["name"] for linac in one.get("linac", [])]]
        assert at == (site if site in expected else expected[0])
        assert not config.update(change.after, Entry(site, "4299", "192.168.17.40")).changed


def test_the_file_is_replaced_with_a_dated_backup(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(FULL.encode())
    with connect(tmp_path) as folder:
        change = config.update(config.read(folder), Entry("nbcc", "4299", "192.168.17.40"))
        assert config.write(folder, change, NOW) == "config.toml.20261122-231500.bak"
        assert (tmp_path / "config.toml.20261122-231500.bak").read_bytes() == FULL.encode()
        assert config.read(folder) == change.after
        same = config.update(config.read(folder), Entry("nbcc", "4299", "192.168.17.40"))
        assert config.write(folder, same, NOW) == ""
        with pytest.raises(SetupError, match="somebody has just changed"):
            config.write(folder, change, NOW)
        removed = config.remove(config.read(folder), "4299")
        assert config.write(folder, removed, NOW) == "config.toml.20261122-231500-1.bak"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.toml",
        "config.toml.20261122-231500-1.bak",
        "config.toml.20261122-231500.bak",
    ]


def test_of_two_who_write_at_once_both_linacs_are_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_bytes(FULL.encode())
    before, compared = FULL, threading.Barrier(2)
    read = config.read

    def slow(folder: Any, name: str = config.NAME) -> str:
        text = read(folder, name)
        with contextlib.suppress(threading.BrokenBarrierError):  # without a lock both get here before one has written
            compared.wait(0.5)
        return text

    def enter(serial: str, address: str) -> None:
        def made(text: str) -> config.Change:
            return config.update(text, Entry("nbcc", serial, address))

        with connect(tmp_path) as folder:
            config.write(folder, made(before), NOW, again=made)

    monkeypatch.setattr(config, "read", slow)
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(enter, "4299", "192.168.17.40"), both.submit(enter, "9183", "192.168.17.41")]:
            done.result(30)
    names = [linac["name"] for site in tomllib.loads((tmp_path / "config.toml").read_text())["site"] for linac in site["linac"]]
    assert {"4299", "9183"} < set(names)
    assert not (tmp_path / "config.toml.lock").exists()


def test_a_file_that_was_changed_since_and_is_not_understood_any_more_is_left(change: config.Change, tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "config.toml").write_text("[[site\n")
    with connect(real) as folder, pytest.raises(SetupError, match="cannot be read"):
        config.write(folder, change, NOW, again=lambda text: config.update(text, Entry("nbcc", "4299", "192.168.17.40")))
    assert {path.name: path.read_text() for path in real.iterdir()} == {"config.toml": "[[site\n"}


def test_another_writer_is_waited_for_and_what_a_crash_left_goes(
    change: config.Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "WAIT_SECONDS", 0.3)
    real = tmp_path / "real"
    lock = real / "config.toml.lock"
    lock.write_bytes(b"another's")
    with connect(real) as folder:
        with pytest.raises(SetupError, match=r"another run is just changing config\.toml"):
            config.write(folder, change, NOW)
        assert lock.read_bytes() == b"another's"
        assert (real / "config.toml").read_bytes() == FULL.encode()
        os.utime(lock, (lock.stat().st_mtime - 2 * config.STALE_SECONDS,) * 2)
        config.write(folder, change, NOW)
    assert (real / "config.toml").read_text() == change.after
    assert not lock.exists()


@pytest.fixture
def change(tmp_path: Path) -> config.Change:
    """What changes the file `config.toml` in the folder `real`."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.toml").write_bytes(FULL.encode())
    return config.update(FULL, Entry("nbcc", "4299", "192.168.17.40"))


posix = pytest.mark.skipif(os.name == "nt", reason="modes and links as Linux has them")


@posix
def test_a_link_stays_and_the_file_that_it_leads_to_is_changed(change: config.Change, tmp_path: Path) -> None:
    real = tmp_path / "real" / "config.toml"
    (tmp_path / "there").symlink_to("real/config.toml")
    (tmp_path / "config.toml").symlink_to("there")
    with connect(tmp_path) as folder:
        config.write(folder, change, NOW)
    assert (tmp_path / "config.toml").is_symlink()
    assert real.read_text() == change.after
    assert [path.name for path in real.parent.glob("*.bak")] == ["config.toml.20261122-231500.bak"]
    (tmp_path / "config.toml").unlink()
    (tmp_path / "config.toml").symlink_to("config.toml")
    with connect(tmp_path) as folder, pytest.raises(SetupError, match="leads nowhere"):
        config.write(folder, change, NOW)


@posix
@pytest.mark.parametrize("mode", [0o640, 0o664, 0o600])
def test_the_mode_stays(mode: int, change: config.Change, tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "config.toml").chmod(mode)
    with connect(real) as folder:
        config.write(folder, change, NOW)
    assert {path.name: path.stat().st_mode & 0o777 for path in real.iterdir()} == {
        "config.toml": mode,
        "config.toml.20261122-231500.bak": mode,
    }


def test_a_file_that_is_read_only_is_refused(change: config.Change, tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "config.toml").chmod(0o444)
    try:
        with connect(real) as folder, pytest.raises(SetupError, match="is read-only"):
            config.write(folder, change, NOW)
        assert [path.name for path in real.iterdir()] == ["config.toml"]
        assert (real / "config.toml").read_bytes() == FULL.encode()
    finally:
        (real / "config.toml").chmod(0o644)


@posix
def test_a_write_that_fails_leaves_nothing_behind(change: config.Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real"
    moved = config.replace_local

    def full(old: Path, new: Path) -> None:
        if new.name == "config.toml":
            raise OSError(errno.ENOSPC, "No space left on device")
        moved(old, new)

    monkeypatch.setattr(config, "replace_local", full)
    with connect(real) as folder, pytest.raises(StorageError, match="full"):
        config.write(folder, change, NOW)
    assert [path.name for path in real.iterdir()] == ["config.toml"]
    assert (real / "config.toml").read_bytes() == FULL.encode()


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"# gr\xfc\xdfe\n")
    with connect(tmp_path) as folder, pytest.raises(SetupError, match="UTF-8"):
        config.read(folder)


@pytest.mark.skipif(importlib.util.find_spec("pymedphys") is None, reason="PyMedPhys is not installed")
@pytest.mark.parametrize("text", FILES.values(), ids=list(FILES))
def test_the_result_loads_in_pymedphys(text: str, tmp_path: Path) -> None:
    from pymedphys._config import get_config

    entry = Entry(
        "nbcc",
        "4299",
        "192.168.17.40",
        energies=("6 MV", "10 MV"),
        iview_alias="4299_iView",
        icom=r"\\NBCCC-pdc\physics\Größe & Maß\iCom\patients",
        icom_live=r"\\NBCCC-pdc\physics\iCom\live",
        iview=r"\\NBCCC-pdc\iView",
        patients=r"\\NBCCC-pdc\Größe\iCom\patients",
        trf=r"\\NBCCC-pdc\physics\TRF",
        mosaiq={"hostname": "mosaiq", "port": 1433, "timezone": "Australia/Sydney", "alias": "NBCC Mosaiq"},
    )
    after = config.update(text, entry).after
    (tmp_path / "config.toml").write_text(after)
    loaded: dict[str, Any] = get_config(tmp_path)
    assert loaded == tomllib.loads(after)
    [site] = [one for one in loaded["site"] if one["name"] == "nbcc"]
    assert site["export-directories"]["icom_live"] == r"\\NBCCC-pdc\physics\iCom\live"
    assert site["linac"][-1]["aliases"] == {"iview": "4299_iView"}
    assert loaded["icom"]["patient_directories"][-1] == r"\\NBCCC-pdc\Größe\iCom\patients"
