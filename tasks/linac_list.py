"""A list of linacs in a file, for add-linacs: read, checked as a whole before anything is done, and reported as one table."""

import csv
import io
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.utilities.callables import ParameterSchema

from linac.errors import SetupError
from tasks.record import listed
from tasks.reports import artifact_key, table

LIST_SEPARATOR = ";"
"""Between the energies in one cell of a CSV file, where the comma separates cells."""

YES, NO = ("true", "yes", "1"), ("false", "no", "0", "")


@dataclass
class Result:
    """How it went for one linac."""

    serial: str
    outcome: str = "not tried yet"
    problem: str = ""

    def note(self, state: State[Any]) -> None:
        """What its run of add-linac ended with."""
        text = (state.message or "").strip()
        if state.is_completed():
            self.outcome = text
        else:
            error = state.result(raise_on_failure=False)
            self.outcome, self.problem = state.name or "failed", str(error) if isinstance(error, Exception) else text


def read_list(file: str, site: str, schema: ParameterSchema, dry_run: bool) -> list[dict[str, Any]]:
    """The answers to add-linac's form for each linac of the file, in its order.

    Raises `SetupError` for a file that cannot be read, a field that the form does not have, and a serial or address given twice:
    then nothing is done for any of them.
    """
    path = Path(file.strip().strip('"'))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SetupError(f"The list {path} cannot be read: {reason}. Give its path on the worker's computer.") from error
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
    """The lines of a CSV file, with the fields' names in its first. Commas, semicolons or tabs separate. Raises `SetupError`."""
    head = text.splitlines()[0] if text.strip() else ""
    separator = max(",;\t", key=head.count)
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text), delimiter=separator), start=2):
        if None in row:
            raise SetupError(f"Line {number} of the list has more cells than its first line has names.")
        filled = {name.strip(): value.strip() for name, value in row.items() if value and value.strip()}
        if filled:
            rows.append({name: _typed(name, value, schema, number, separator) for name, value in filled.items()})
    return rows


def _typed(name: str, value: str, schema: ParameterSchema, number: int, separator: str) -> Any:
    """A cell as the form wants it."""
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
    """The rows with what holds for all of them. Raises `SetupError` for the first that cannot be right."""
    if not rows:
        raise SetupError("The list names no linac. Each needs at least a serial, an address and a site.")
    answers = []
    for number, row in enumerate(rows, start=1):
        whose = f"Linac {number} of the list ({row.get('serial', 'no serial')})"
        strangers = sorted(set(row) - set(schema.properties))
        if strangers:
            raise SetupError(f"{whose} has a field {strangers[0]!r}. The fields are {', '.join(schema.properties)}.")
        answer = {**({"site": site} if site else {}), **row, **({"dry_run": True} if dry_run else {})}
        missing = [name for name in schema.required or [] if not answer.get(name)]
        if missing:
            raise SetupError(f"{whose} has no {missing[0]}.")
        answers.append(answer)
    for name in ("serial", "address"):
        values = [(str(answer[name]).lower(), answer.get("icom_port") if name == "address" else None) for answer in answers]
        twice = next(
            (value for value, _ in values if [item[0] for item in values].count(value) > 1 and len(set(values)) < len(values)), ""
        )
        if twice:
            raise SetupError(f"Two linacs of the list have the {name} {twice}. Correct one of them.")
    return answers


def _short(result: Result) -> str:
    """An outcome that fits into a table: its first sentence."""
    return "failed, see below" if result.problem else result.outcome.partition(".")[0]


def report_list(results: list[Result], dry_run: bool) -> str:
    """The table, as the artifact `add-linacs`; returns its first line."""
    bad = sum(bool(result.problem) for result in results)
    good = f"{len(results) - bad} of {len(results)} linacs"
    verdict = f"{good} {'could be added' if dry_run else 'are as the list wants them'}, {bad} failed."
    rows = [(result.serial, "❌" if result.problem else "✅", _short(result)) for result in results]
    text = f"# Linacs of a list\n\n{verdict}\n\n{table(['Linac', '', 'Outcome'], rows)}\n\n"
    if bad:
        text += f"## What to do\n\n{listed((result.serial, result.problem) for result in results if result.problem)}\n\n"
    text += "Each linac's own record is the artifact add-linac- with its serial."
    create_markdown_artifact(text, key=artifact_key("add-linacs"), description="What the last add-linacs run did")
    return verdict
