"""Lists of linacs: TOML and CSV as people write them, and every mistake found before anything is done."""

from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.callables import ParameterSchema

from linac.errors import SetupError
from tasks.linac_list import read_list


@pytest.fixture(scope="module")
def schema() -> ParameterSchema:
    from flows.add_linac import add_linac

    return add_linac.parameters


def write(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8-sig")
    return str(path)


TOML = """
site = "nbcc"            # holds for all that name none
steadiness_seconds = 10

[[linac]]
serial = 4299            # a number will do
address = "192.168.17.40"
nss_credentials = "nss-4299"
energies = ["6", "10 FFF"]

[[linac]]
serial = "2619"
address = "192.168.17.41"
site = "sash"
backup_folder = '\\\\192.168.17.41\\Backup\\TCS'
"""

CSV = """serial;address;site;energies;dry_run;icom_port
4299;192.168.17.40;nbcc;6, 10 FFF;no;1706
2619;192.168.17.41;;;;

"""


def test_toml(tmp_path: Path, schema: ParameterSchema) -> None:
    first, second = read_list(write(tmp_path, "l.toml", TOML), "", schema, False)
    assert first == {
        "site": "nbcc",
        "steadiness_seconds": 10,
        "serial": "4299",
        "address": "192.168.17.40",
        "nss_credentials": "nss-4299",
        "energies": ["6", "10 FFF"],
    }
    assert second["site"] == "sash"
    assert second["backup_folder"] == r"\\192.168.17.41\Backup\TCS"


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, schema: ParameterSchema, separator: str) -> None:
    text = CSV if separator == ";" else CSV.replace(",", "|").replace(";", separator).replace("|", ";")
    first, second = read_list(write(tmp_path, "l.csv", text), "sash", schema, True)
    assert first == {
        "serial": "4299",
        "address": "192.168.17.40",
        "site": "nbcc",
        "energies": ["6", "10 FFF"],
        "dry_run": True,
        "icom_port": 1706,
    }
    assert second == {"serial": "2619", "address": "192.168.17.41", "site": "sash", "dry_run": True}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.toml", "[[linac]\n", "not valid TOML"),
        ("l.toml", "", "names no linac"),
        ("l.toml", "[linac]\nserial = '1'", "with two brackets"),
        ("l.toml", "[[linac]]\nserial = '1'\naddress = 'a'\n", "has no site"),
        ("l.toml", "[[linac]]\nserial = '1'\nadress = 'a'\n", "a field 'adress'"),
        ("l.csv", "serial,address,site\n1,a,x\n1,b,x\n", "have the serial 1"),
        ("l.csv", "serial,address,site\n1,a,x\n2,A,x\n", "have the address a"),
        ("l.csv", "serial,address,site,icom_port\n1,a,x,many\n", "which is no number"),
        ("l.csv", "serial,address,site,dry_run\n1,a,x,perhaps\n", "Write yes or no"),
        ("l.csv", "serial,address,site\n1,a,x,y\n", "more cells than"),
        ("l.csv", "", "names no linac"),
    ],
)
def test_mistakes(tmp_path: Path, schema: ParameterSchema, name: str, text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        read_list(write(tmp_path, name, text), "", schema, False)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_list_in_an_encoding_of_excels_own_is_refused_with_what_to_choose_there(
    encoding: str, tmp_path: Path, schema: ParameterSchema
) -> None:
    path = tmp_path / "l.csv"
    path.write_text("serial;address;site;done_by\n1;a;x;Jos\u00e9\n", encoding=encoding)
    with pytest.raises(SetupError, match='In Excel save it as "CSV UTF-8"'):
        read_list(str(path), "", schema, False)


@pytest.mark.parametrize("separator", [";", ",", "\t"])
@pytest.mark.parametrize("line", ["sep={}", '"sep={}"'])
def test_the_line_that_tells_excel_the_separator_is_no_line_of_the_list(
    line: str, separator: str, tmp_path: Path, schema: ParameterSchema
) -> None:
    text = f"{line.format(separator)}\nserial;address;site;icom_port\n1;a;x;{{}}\n".replace(";", separator)
    (only,) = read_list(write(tmp_path, "l.csv", text.format("1706")), "", schema, False)
    assert only == {"serial": "1", "address": "a", "site": "x", "icom_port": 1706}
    with pytest.raises(SetupError, match="Line 3 of the list: icom_port"):
        read_list(write(tmp_path, "l.csv", text.format("many")), "", schema, False)


def test_serials_that_prefect_would_give_one_name_are_refused_with_the_other_mistakes(
    tmp_path: Path, schema: ParameterSchema
) -> None:
    text = "serial,address,site\n4299_A,a,x\n4299-a,b,x\n2619,a,x\n"
    with pytest.raises(SetupError, match=r"have the address a\..*The serials 4299_A and 4299-a are too much alike"):
        read_list(write(tmp_path, "l.csv", text), "", schema, False)


def test_all_mistakes_are_told_at_once(tmp_path: Path, schema: ParameterSchema) -> None:
    text = "serial,address,site,colour\n1,a,x,\n1,b,,\n3,A,x,red\n4,,x,\n"
    with pytest.raises(SetupError) as caught:
        read_list(write(tmp_path, "l.csv", text), "", schema, False)
    for words in ("Linac 2 of the list (1) has no site.", "Linac 3 of the list (3) has a field 'colour'.", "(4) has no address."):
        assert words in str(caught.value)
    for words in ("have the serial 1.", "have the address a.", "The fields are serial, address"):
        assert str(caught.value).count(words) == 1
    text = "serial,address,site,icom_port,dry_run\n1,a,x,many,perhaps\n2,b,x,1,no,more\n"
    with pytest.raises(SetupError, match=r"no number.*Write yes or no.*Line 3 of the list has more cells"):
        read_list(write(tmp_path, "l.csv", text), "", schema, False)


def test_an_iview_alias_is_one_linacs_only_at_a_site(tmp_path: Path, schema: ParameterSchema) -> None:
    text = "serial,address,site,iview_alias\n1,a,x,Linac1\n2,b,{},linac1\n"
    with pytest.raises(SetupError, match="have the iview_alias linac1"):
        read_list(write(tmp_path, "l.csv", text.format("x")), "", schema, False)
    assert len(read_list(write(tmp_path, "l.csv", text.format("y")), "", schema, False)) == 2


def test_every_field_of_the_form_can_be_in_a_list(tmp_path: Path, schema: ParameterSchema) -> None:
    text = "serial,address,site,nss_gateway,done_by\n1,a,x,nbcc-gateway,A. Miller\n"
    (only,) = read_list(write(tmp_path, "l.csv", text), "", schema, False)
    assert (only["nss_gateway"], only["done_by"]) == ("nbcc-gateway", "A. Miller")
    text = "done_by = 'A. Miller'\n[[linac]]\nserial = 1\naddress = 'a'\nsite = 'x'\nnss_gateway = 'nbcc-gateway'\n"
    (only,) = read_list(write(tmp_path, "l.toml", text), "", schema, False)
    assert (only["nss_gateway"], only["done_by"]) == ("nbcc-gateway", "A. Miller")


def test_two_linacs_behind_one_address_on_different_ports_are_two(tmp_path: Path, schema: ParameterSchema) -> None:
    text = "serial,address,site,icom_port\n1,hub,x,17061\n2,hub,x,17062\n"
    assert len(read_list(write(tmp_path, "l.csv", text), "", schema, False)) == 2


@pytest.mark.parametrize("name", ["away.toml", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, schema: ParameterSchema, name: str) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        read_list(str(tmp_path / name), "", schema, False)


def test_the_table_says_how_it_went_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import linac_list
    from tasks.linac_list import Result, report_list

    shown: dict[str, Any] = {}
    monkeypatch.setattr(linac_list, "create_markdown_artifact", lambda text, **more: shown.update(text=text, **more))
    verdict = report_list(
        [Result("4299", "In service. Recorded."), Result("2619", "Failed", "The NSS refused port 1706.")], False
    )
    assert verdict == "1 of 2 linacs are as the list wants them, 1 failed."
    assert "| 4299 | ✅ | In service |" in shown["text"]
    assert "| 2619 | ❌ | failed, see below |" in shown["text"]
    assert "- **2619**: The NSS refused port 1706." in shown["text"]
    assert shown["key"] == "add-linacs"


def test_the_example_that_users_copy_is_understood(project: Path, schema: ParameterSchema) -> None:
    first, second = read_list(str(project / "linacs.example.toml"), "", schema, False)
    assert (first["serial"], second["serial"], second["capture_host"]) == ("4299", "2619", "nbccc-capture")
