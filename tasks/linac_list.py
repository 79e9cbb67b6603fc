"""A list of linacs in a file, for add-linacs: read, checked as a whole before anything is done, and reported as one table."""

import csv
import io
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.utilities.callables import ParameterSchema

from blocks import block_name
from linac.capture.lock import numbers
from linac.errors import SetupError
from tasks.record import listed, told
from tasks.reports import artifact_key, table

LIST_SEPARATOR = ";"
"""Between the energies in one cell of a CSV file, where the comma separates cells."""

YES, NO = ("true", "yes", "1"), ("false", "no", "0", "")


@dataclass
class Result:
    """How it went for one linac."""

    serial: str
    outcome: str = ""
    problem: str = ""

    @property
    def sign(self) -> str:
        return "❌" if self.problem else "✅" if self.outcome else ""

    def note(self, state: State[Any]) -> None:
        """What its run of add-linac ended with."""
        text = (state.message or "").strip()
        if state.is_completed():
            self.outcome = text
        else:
            error = state.result(raise_on_failure=False)
            self.outcome, self.problem = state.name or "failed", str(error) if isinstance(error, Exception) else text

    def note_failure(self, error: Exception) -> None:
        """Why its run of add-linac could not be made or followed."""
        self.problem = f"{told(error)} Run the list again: what is done stays."


def read_list(file: str, site: str, schema: ParameterSchema, dry_run: bool) -> list[dict[str, Any]]:
    """The answers to add-linac's form for each linac of the file, in its order.

    Raises `SetupError` for a file that cannot be read, fields that the form does not have, and a serial, address or iView alias
    given twice: all mistakes at once, and nothing is done for any linac.
    """
    path = Path(file.strip().strip('"'))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SetupError(f"The list {path} cannot be read: {error.strerror}. Give its path on the worker's computer.") from error
    except UnicodeDecodeError as error:
        raise SetupError(
            f'The list {path} is not UTF-8 text. In Excel save it as "CSV UTF-8", elsewhere choose the encoding UTF-8.'
        ) from error
    rows = rows_of_toml(text) if path.suffix.lower() == ".toml" else rows_of_csv(text, schema)
    return checked(rows, site, schema, dry_run)


def rows_of_toml(text: str) -> list[dict[str, Any]]:
    """The [[linac]] tables of a TOML file; what stands above them holds for all. Raises `SetupError`.

    >>> rows_of_toml('site = "nbcc"\\n[[linac]]\\nserial = 4299\\naddress = "10.0.0.1"')
    [{'site': 'nbcc', 'serial': '4299', 'address': '10.0.0.1'}]
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"The list is not valid TOML: {error}. Write paths between single quotes.") from error
    linacs = content.pop("linac", [])
    if not isinstance(linacs, list) or not all(isinstance(item, dict) for item in linacs):
        raise SetupError("The list has no [[linac]] tables. Write [[linac]], with two brackets, above each linac's fields.")
    rows = [{**content, **item} for item in linacs]
    return [{**row, "serial": str(row["serial"])} if "serial" in row else row for row in rows]


def rows_of_csv(text: str, schema: ParameterSchema) -> list[dict[str, Any]]:
    """The lines of a CSV file, with the fields' names in its first. Commas, semicolons or tabs separate. Raises `SetupError`.

    A line `sep=;` may stand above, for Excel.
    """
    named = re.match(r'"?sep=([,;\t])"?[ ,;\t]*\r?\n', text, re.IGNORECASE)
    text = text[named.end() :] if named else text
    head = text.splitlines()[0] if text.strip() else ""
    separator = named[1] if named else max(",;\t", key=head.count)
    rows: list[dict[str, Any]] = []
    mistakes: list[str] = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text), delimiter=separator), start=3 if named else 2):
        if None in row:
            mistakes.append(f"Line {number} of the list has more cells than its first line has names.")
            continue
        filled = {name.strip(): value.strip() for name, value in row.items() if value and value.strip()}
        typed = {}
        for name, value in filled.items():
            try:
                typed[name] = _typed(name, value, schema, number, separator)
            except SetupError as error:
                mistakes.append(str(error))
        if filled:
            rows.append(typed)
    if mistakes:
        raise SetupError(" ".join(mistakes))
    return rows


def _typed(name: str, value: str, schema: ParameterSchema, number: int, separator: str) -> Any:
    """A cell as the form wants it. Raises `SetupError`."""
    kind = schema.properties.get(name, {}).get("type")
    if kind == "integer":
        if not value.isdecimal():
            raise SetupError(f"Line {number} of the list: {name} is {value!r}, which is no number.")
        return int(value)
    if kind == "boolean":
        if value.lower() not in YES + NO:
            raise SetupError(f"Line {number} of the list: {name} is {value!r}. Write yes or no.")
        return value.lower() in YES
    if kind == "array":
        parts = value.split(LIST_SEPARATOR if separator != LIST_SEPARATOR else ",")
        return [part.strip() for part in parts if part.strip()]
    return value


def checked(rows: list[dict[str, Any]], site: str, schema: ParameterSchema, dry_run: bool) -> list[dict[str, Any]]:
    """The rows with what holds for all of them. Raises `SetupError` with everything in any row that cannot be right."""
    if not rows:
        raise SetupError("The list names no linac. Each needs at least a serial, an address and a site.")
    answers, mistakes, unknown = [], [], False
    for number, row in enumerate(rows, start=1):
        whose = f"Linac {number} of the list ({row.get('serial', 'no serial')})"
        strangers = sorted(set(row) - set(schema.properties))
        unknown = unknown or bool(strangers)
        mistakes += [f"{whose} has a field {stranger!r}." for stranger in strangers]
        answer = {**({"site": site} if site else {}), **row, **({"dry_run": True} if dry_run else {})}
        mistakes += [f"{whose} has no {name}." for name in schema.required or [] if not answer.get(name)]
        answers.append(answer)
    if unknown:
        mistakes.append(f"The fields are {', '.join(schema.properties)}.")
    mistakes += [f"Two linacs of the list have the {name} {value}. Correct one of them." for name, value in given_twice(answers)]
    mistakes += [f"The serials {' and '.join(alike)} are too much alike: {SAME_NAME}." for alike in same_blocks(answers)]
    if mistakes:
        raise SetupError(" ".join(mistakes))
    return answers


SAME_NAME = "capitals, _ and - make no difference in the names that Prefect gives them. Change one of them"


def same_blocks(answers: list[dict[str, Any]]) -> list[list[str]]:
    """Different serials whose blocks would have one name; those that differ in capitals alone are given twice already.

    >>> same_blocks([{"serial": "4299_A"}, {"serial": "4299-a"}, {"serial": "2619"}])
    [['4299_A', '4299-a']]
    """
    found: dict[str, dict[str, str]] = {}
    for serial in (str(item["serial"]) for item in answers if item.get("serial")):
        found.setdefault(block_name(serial), {}).setdefault(serial.lower(), serial)
    return [list(alike.values()) for alike in found.values() if len(alike) > 1]


UNIQUE = {"serial": (), "address": ("icom_port",), "iview_alias": ("site",)}
"""What no two linacs may share, unless they differ in what stands behind it."""


def given_twice(answers: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names and values of what two linacs have alike and must not.

    >>> given_twice([{"serial": "1", "address": "127.0.0.1"}, {"serial": "2", "address": "localhost"}])
    [('address', '127.0.0.1')]
    """
    found = []
    for name, unless in UNIQUE.items():
        plain = numbers if name == "address" else str.lower
        values = [(plain(str(item[name])), [item.get(other) for other in unless]) for item in answers if item.get(name)]
        twice = dict.fromkeys(value for value, other in values if values.count((value, other)) > 1)
        found += [(name, value) for value in twice]
    return found


def _short(result: Result) -> str:
    """An outcome that fits into a table: its first sentence."""
    return "failed, see below" if result.problem else result.outcome.partition(".")[0] or "not tried yet"


def report_so_far(results: list[Result], dry_run: bool) -> None:
    """The table as it stands. Where the server does not take it, the list goes on: it is told again after the next linac."""
    try:
        report_list(results, dry_run)
    except Exception as error:
        get_run_logger().warning("The table of the list could not be written: %s", type(error).__name__)


def report_list(results: list[Result], dry_run: bool) -> str:
    """The table, as the artifact `add-linacs`; returns its first line."""
    bad = sum(bool(result.problem) for result in results)
    untried = sum(not result.sign for result in results)
    good = f"{len(results) - bad - untried} of {len(results)} linacs"
    verdict = f"{good} {'could be added' if dry_run else 'are as the list wants them'}, {bad} failed."
    if untried:
        verdict += f" Not tried yet: {untried}."
    rows = [(result.serial, result.sign, _short(result)) for result in results]
    text = f"# Linacs of a list\n\n{verdict}\n\n{table(['Linac', '', 'Outcome'], rows)}\n\n"
    if bad:
        text += f"## What to do\n\n{listed((result.serial, result.problem) for result in results if result.problem)}\n\n"
    text += "Each linac's own record is the artifact add-linac- with its serial."
    create_markdown_artifact(text, key=artifact_key("add-linacs"), description="What the last add-linacs run did")
    return verdict
