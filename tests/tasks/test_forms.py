"""The linac that the answers of a form make."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import Linac, Share, Site, SmbCredentials, SshGateway
from blocks.linac import Service, checked_energy
from linac.errors import SetupError
from tasks import forms
from tasks.steps import block, differences, facts

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is on the server: a site, an account and a gateway, and no linac yet."""
    site = Site(name="NBCC", time_zone="Australia/Sydney", records=Share(path=str(tmp_path)), spool=str(tmp_path / "spool"))
    account = SmbCredentials(username="icomreader", password=SecretStr("Sicherlich-geheim-7"))
    gateway = SshGateway(host="gate.nbcc.example", port=38471, username="tunnel", host_key=HOST_KEY)
    monkeypatch.setattr(forms, "load_site", {"nbcc": site}.__getitem__)
    monkeypatch.setattr(forms, "load_credentials", {"nss-4299": account}.__getitem__)
    monkeypatch.setattr(forms, "load_gateway", {"nbcc-gateway": gateway}.__getitem__)
    monkeypatch.setattr(forms, "load", lambda *_: None)


def linac(**answers: Any) -> Linac:
    return forms.make_linac(serial="4299", address="192.168.17.40", site=" nbcc ", **answers)


def test_four_answers_do_for_a_linac_as_elekta_delivers_it() -> None:
    made = linac(nss_credentials="nss-4299")
    assert (made.backup.path, made.backup.port) == (r"\\192.168.17.40\Backup\TCS", 445)
    assert made.backup.credentials is not None
    assert made.backup.credentials.username == "icomreader"
    assert made.backup.gateway is None


def test_a_login_installs_a_service_and_nothing_else() -> None:
    with pytest.raises(SetupError, match="Choose nssm"):
        linac(capture_login="nbcc-gateway")
    made = linac(service=Service.NSSM, capture_login=" nbcc-gateway ", service_account="nss-4299")
    assert made.capture_login is not None
    assert made.service_account is not None
    told = facts(made)
    assert told["SSH login"] == "tunnel at gate.nbcc.example port 38471"
    assert told["account of the service"] == "icomreader"
    assert "geheim" not in str(told)


def test_what_differs_is_saved_whether_it_may_be_told_or_not() -> None:
    one = linac(nss_credentials="nss-4299")
    assert not block(one, one).change
    other = one.model_copy(deep=True)
    assert other.backup.credentials is not None
    other.backup.credentials.password = SecretStr("Sicherlich-geheim-8")
    assert block(other, one).change == "updated: another account or key of the same name"
    assert block(linac(nss_credentials="nss-4299", service_folder="/for-it"), one).change == (
        "updated: folder for service files none → /for-it"
    )


@pytest.mark.parametrize(
    ("energy", "good"),
    [(energy, True) for energy in ("6", " 10 FFF", "6 MeV", "15MV", "10 mv fff", "18 ")]
    + [(energy, False) for energy in ("six", "", "0", "6X", "100", "6, 10", "6 10", "FFF")],
)
def test_the_form_takes_the_energies_that_the_linac_takes(energy: str, good: bool) -> None:
    assert bool(re.search(forms.ENERGY, energy)) is good
    assert taken(energy) is good


def taken(energy: str) -> bool:
    try:
        checked_energy(energy)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("address", ["192.168.17.40", " nss-4299.nbcc.example ", "localhost", "fe80::1", "::1", "3com-box"])
def test_the_form_takes_addresses(address: str) -> None:
    assert re.search(forms.ADDRESS, address)


@pytest.mark.parametrize("address", ["192.168.17", "192.168.17.", "192.168.17.40.1", "4299", "", "127.0.0.1; rm", "http://nss"])
def test_the_form_refuses_what_is_no_whole_address(address: str) -> None:
    assert not re.search(forms.ADDRESS, address)


def test_what_a_pattern_wants_stands_in_words_in_the_field_s_description() -> None:
    """The browser tells the pattern alone."""
    from flows.add_linac import add_linac
    from flows.remove_linac import remove_linac

    for flow in (add_linac, remove_linac):
        for name, field in flow.parameters.properties.items():
            if "pattern" in field:
                assert re.search("letters|four numbers", field["description"]), name


def test_answers_that_do_not_fit_are_told_in_words() -> None:
    from flows.add_linac import add_linac

    forms.check_answers(add_linac, {"serial": "4299", "address": "192.168.17.40", "site": "nbcc"})
    with pytest.raises(SetupError) as refused:
        forms.check_answers(add_linac, {"serial": "12 34", "address": "192.168.17", "site": "nbcc"})
    first, *rest = str(refused.value).splitlines()
    assert (first, len(rest)) == ("These answers do not fit:", 2)
    assert rest[0].startswith(" - serial: A serial or unique name has 1 to 40 letters")


def test_the_pattern_of_an_energy_is_in_the_form() -> None:
    from flows.add_linac import add_linac

    assert add_linac.parameters.properties["energies"]["items"]["pattern"] == forms.ENERGY


def test_the_backups_of_a_linac_at_another_site_come_through_its_gateway() -> None:
    made = linac(nss_credentials="nss-4299", nss_gateway=" nbcc-gateway ")
    assert made.backup.gateway is not None
    assert made.backup.gateway.host == "gate.nbcc.example"
    assert any(
        "gate.nbcc.example port 38471" in line for line in differences(facts(linac(nss_credentials="nss-4299")), facts(made))
    )


@pytest.mark.parametrize("folder", ["relative/x", "\\", '""'])
def test_a_backup_folder_that_is_no_whole_path_is_refused_in_one_sentence(folder: str) -> None:
    with pytest.raises(SetupError, match=r"^Backup folder of the NSS: ") as refused:
        linac(backup_folder=folder)
    assert "pydantic" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("alias", ["4299\n_iView", '4299"iView', "4299'iView"])
def test_an_alias_with_a_quote_or_a_line_break_is_refused_in_words(alias: str) -> None:
    with pytest.raises(SetupError, match="iView alias: it has a quote or a line break"):
        linac(iview_alias=alias)
    assert linac(iview_alias="4299_iView").iview_alias == "4299_iView"
