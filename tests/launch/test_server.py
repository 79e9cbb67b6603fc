"""The server lets other computers in over TLS and with a login only, and its pages load nothing from elsewhere."""

import argparse
from pathlib import Path

import pytest

from launch.server import policy, unfit


def options(tmp_path: Path, **given: object) -> argparse.Namespace:
    values = {"host": "0.0.0.0", "port": 4200, "name": "hub.example", "certificate": tmp_path / "crt", "key": tmp_path / "key"}
    for file in (tmp_path / "crt", tmp_path / "key"):
        file.write_text("PEM")
    return argparse.Namespace(**{**values, **given})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.5"])
def test_this_computer_alone_needs_neither_tls_nor_login(tmp_path: Path, host: str) -> None:
    assert unfit(options(tmp_path, host=host, name=None, certificate=None, key=None), "") == ""


@pytest.mark.parametrize(
    ("given", "login", "reason"),
    [
        ({"certificate": None, "key": None}, "physics:secret", "do not travel in clear"),
        ({"name": None}, "physics:secret", "--name"),
        ({}, "", "PREFECT_SERVER_API_AUTH_STRING to NAME:PASSWORD"),
        ({}, "secret", "PREFECT_SERVER_API_AUTH_STRING to NAME:PASSWORD"),
        ({"host": "192.168.1.7", "key": None}, "physics:secret", "both --certificate and --key"),
        ({"host": "hub.example", "certificate": Path("nowhere.crt")}, "physics:secret", "no file nowhere.crt"),
    ],
)
def test_others_are_let_in_over_tls_and_with_a_login_only(
    tmp_path: Path, given: dict[str, object], login: str, reason: str
) -> None:
    problem = unfit(options(tmp_path, **given), login)
    assert reason in problem
    assert "secret" not in problem
    assert unfit(options(tmp_path), "physics:secret") == ""


def test_the_pages_may_ask_this_server_only() -> None:
    assert "http://127.0.0.1:4200 http://localhost:4200 ws://127.0.0.1:4200" in policy(4200)
    over_tls = policy(443, ("hub.example",), secure=True)
    assert "https://hub.example:443 wss://hub.example:443" in over_tls
    assert "http:" not in over_tls
