"""The forms of accounts: secrets stay secret whatever happens, and a gateway's check speaks an operator's words."""

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr, ValidationError

from blocks import Linac, Share, Site, SmbCredentials, SshGateway
from linac.errors import LinacError

if TYPE_CHECKING:
    from linac.simulator.sshd import SshServer

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def form(server: "SshServer", **changes: Any) -> SshGateway:
    """A gateway's form, filled in rightly apart from `changes`."""
    values: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "username": server.user,
        "host_key": server.host_key,
        "key_file": str(server.key_file),
    }
    return SshGateway(**{**values, **changes})


@pytest.fixture
def echo() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as service:
        yield int(service.getsockname()[1])


class TestSecrets:
    def test_neither_key_nor_passphrase_nor_password_shows(self) -> None:
        secrets = {"private_key": SecretStr("geheim-eins"), "passphrase": SecretStr("geheim-zwei")}
        blocks = [
            SshGateway(host="gate", username="tunnel", host_key=HOST_KEY, **secrets),
            SmbCredentials(username="icomreader", password=SecretStr("geheim-drei")),
        ]
        for block in blocks:
            for shown in (repr(block), str(block), block.model_dump_json(), json.dumps(block.model_dump(mode="json"))):
                assert "geheim" not in shown

    def test_what_is_said_of_a_form_filled_in_wrongly_repeats_no_secret(self) -> None:
        account = {"password": "geheim-eins"}
        gate = {
            "host": "g",
            "username": "t",
            "host_key": HOST_KEY,
            "private_key": "geheim-zwei",
            "key_file": "f",
            "passphrase": "geheim",
        }
        forms: list[tuple[type[Block], dict[str, Any]]] = [
            (SmbCredentials, account),
            (SmbCredentials, {"username": "a", "password": ["geheim"]}),
            (SshGateway, gate),
            (Share, {"path": "/a", "credentials": account}),
            (Share, {"path": "/a", "gateway": gate}),
            (Site, {"records": {"path": "/a", "credentials": account}}),
            (Linac, {"backup": {"path": "/a", "credentials": account}}),
        ]
        for form_of, values in forms:
            with pytest.raises(ValidationError) as caught:
                form_of(**values)
            assert "geheim" not in str(caught.value) + repr(caught.value)

    def test_no_error_and_no_log_holds_a_word_of_a_key(
        self, ssh_server: "SshServer", caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        locked = ssh_server.make_key("locked", passphrase="offen-sesam")
        stranger = ssh_server.make_key("stranger")
        texts = []
        for key, passphrase in ((locked, None), (locked, "falsch-geraten"), (stranger, None)):
            changes = {"key_file": None, "private_key": SecretStr(key.read_text())}
            gateway = form(ssh_server, passphrase=SecretStr(passphrase) if passphrase else None, **changes)
            with pytest.raises(LinacError) as caught:
                gateway.open().connect()
            texts += [str(caught.value), repr(caught.value.__cause__), *gateway.check()]
        said = "\n".join([*texts, caplog.text, *capfd.readouterr()])
        for key in (locked, stranger):
            body = "".join(key.read_text().splitlines()[1:-1])
            assert not any(body[at : at + 16] in said for at in range(40, len(body) - 16, 4))
        assert "falsch-geraten" not in said


class TestForm:
    def test_a_private_key_and_a_key_file_exclude_each_other(self) -> None:
        both: dict[str, Any] = {"private_key": "K", "key_file": "/k"}
        with pytest.raises(ValidationError, match="not both"):
            SshGateway(host="gate", username="tunnel", host_key=HOST_KEY, **both)

    def test_fields_left_empty_and_blanks_around_words_do_no_harm(self, ssh_server: "SshServer") -> None:
        gateway = form(
            ssh_server,
            host=f" {ssh_server.host} ",
            username=f"{ssh_server.user}\n",
            key_file=f' "{ssh_server.key_file}" ',
            private_key=SecretStr(""),
            passphrase=SecretStr(" "),
        )
        gateway.open().connect().close()

    def test_a_key_pasted_on_one_line_works(self, ssh_server: "SshServer") -> None:
        pasted = ssh_server.key_file.read_text().strip().replace("\n", " ")
        form(ssh_server, key_file=None, private_key=SecretStr(pasted)).open().connect().close()

    def test_a_host_key_that_cannot_be_read_is_told_with_the_way_to_get_it(self) -> None:
        with pytest.raises(ValidationError, match=r"(?s)host_key.*cannot be read.*linac\.transport key HOST"):
            SshGateway(host="gate", username="tunnel", host_key="SHA256:abc", key_file="/k")


class TestCheck:
    def test_when_all_is_well_each_step_says_so(self, ssh_server: "SshServer", echo: int) -> None:
        lines = form(ssh_server).check("127.0.0.1", echo)
        assert [line.partition(":")[0] for line in lines] == ["ok"] * 4
        assert ssh_server.host_key.split()[0] in lines[1]
        assert f"127.0.0.1 port {echo} answers" in lines[3]

    def test_the_first_trouble_is_the_last_line(self, ssh_server: "SshServer", tmp_path: Path, echo: int) -> None:
        other = ssh_server.make_key("another").with_suffix(".pub").read_text()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            closed = int(probe.getsockname()[1])
        expected = {
            1: ({"port": closed}, "refused the connection", closed),
            2: ({"host_key": other}, "shows another host key", echo),
            3: ({"username": "nobody-of-that-name"}, "did not let", echo),
            4: ({}, "it refused the connection", closed),
        }
        for steps, (changes, words, port) in expected.items():
            lines = form(ssh_server, **changes).check("127.0.0.1", port)
            assert lines[-1].startswith("trouble: ")
            assert words in lines[-1]
            assert len(lines) == steps
            assert all(line.startswith("ok: ") for line in lines[:-1])
