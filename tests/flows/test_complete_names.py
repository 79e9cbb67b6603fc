"""Prefect's startup hook: what a user types is completed, all else stays as it was."""

import json

import pytest

from flows.complete_names import completed


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("prefect deployment run add-linac", "prefect deployment run add-linac/add-linac"),
        ("prefect deployment run add-linac/add-linac", "prefect deployment run add-linac/add-linac"),
        (
            "prefect --no-prompt deployments run trf-index --watch",
            "prefect --no-prompt deployments run trf-index/nightly --watch",
        ),
        ("prefect deployment run icom-capture -p serial=4299", 'prefect deployment run icom-capture/by-serial -p serial="4299"'),
        ("prefect deployment run add-linac -p serial=12E3", 'prefect deployment run add-linac/add-linac -p serial="12E3"'),
        ("prefect deployment run add-linac -p done_by=42", 'prefect deployment run add-linac/add-linac -p done_by="42"'),
        ('prefect deployment run add-linac -p serial="4299"', 'prefect deployment run add-linac/add-linac -p serial="4299"'),
        ("prefect deployment run add-linac -p icom_port=1706", "prefect deployment run add-linac/add-linac -p icom_port=1706"),
        ("prefect deployment inspect add-linac", "prefect deployment inspect add-linac"),
        ("prefect flow-run ls --flow-name add-linac", "prefect flow-run ls --flow-name add-linac"),
        ("python my_script.py add-linac", "python my_script.py add-linac"),
        ("prefect deployment run", "prefect deployment run"),
        ("prefect", "prefect"),
    ],
)
def test_bare_names_of_our_flows_are_completed_and_nothing_else(typed: str, meant: str) -> None:
    assert completed(typed.split()) == meant.split()


def test_a_windows_path_is_taken_as_it_is_typed() -> None:
    """Prefect reads values as JSON, where a backslash begins an escape: it would refuse `\\B` and turn `\\t` into a tab."""
    for path in (r"\\192.168.17.40\Backup\TCS", r"D:\physics\trf records"):
        *_, word = completed(["prefect", "deployment", "run", "add-linac", "-p", f"backup_folder={path}"])
        name, _, value = word.partition("=")
        assert (name, json.loads(value)) == ("backup_folder", path)
    ready = ["prefect", "deployment", "run", "trf-index/nightly", "-p", r'backlog="D:\\old logs"']
    assert completed(ready) == ready
