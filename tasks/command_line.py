"""A flow from the command line, with the questions of its form: `python -m flows.add_linac --serial 4299 ...`.

The run is made here and now, and shows in Prefect's UI like any other. The options come from the form's own description, so
that the two cannot differ.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from prefect import Flow
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL

from linac.errors import LinacError, SetupError
from tasks.forms import check_answers

HEALTH_SECONDS = 5.0

REPEATS = ("Finished in state Failed(", "Parameter validation failed", "Validation of flow parameters failed")
"""How lines of Prefect's begin that tell what is said better at the end."""


def parser(flow: Flow[..., Any]) -> argparse.ArgumentParser:
    """A parser with an option for each of the flow's parameters."""
    schema = flow.parameters
    name = flow.name.replace("-", "_")
    made = argparse.ArgumentParser(
        prog=f"python -m flows.{name}", description=flow.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for parameter, facts in sorted(schema.properties.items(), key=lambda item: item[1].get("position", 0)):
        options: dict[str, Any] = {"help": _help(facts), "dest": parameter, "default": argparse.SUPPRESS}
        kind = _kind(facts, schema.definitions)
        if kind.get("type") == "boolean":
            options["action"] = "store_true"
        elif kind.get("type") == "array":
            options |= {"nargs": "*", "metavar": "VALUE"}
            options["help"] += f' Several as in --{parameter} 6,10 or --{parameter} 6 "10 FFF".'
        else:
            options |= {"required": parameter in schema.required, "metavar": parameter.upper()}
            if "enum" in kind:
                options |= {"choices": kind["enum"], "metavar": None}
            if kind.get("type") == "integer":
                options["type"] = int
        made.add_argument(f"--{parameter.replace('_', '-')}", **options)
    return made


def run_from_command_line(flow: Flow[..., Any], arguments: Sequence[str] | None = None) -> int:
    """Run the flow with these options; the exit code. What goes wrong is said in a sentence."""
    answers = {name: _parts(value) for name, value in vars(parser(flow).parse_args(arguments)).items()}
    with without_tracebacks():
        try:
            check_answers(flow, answers)
        except LinacError as error:
            print(f"\n{error}", file=sys.stderr)  # noqa: T201
            return 2
        try:
            need_server()
            flow(**answers)
        except LinacError as error:
            print(f"\n{error}", file=sys.stderr)  # noqa: T201
            return 1
    return 0


def _parts(value: Any) -> Any:
    """A list's values, which may be given with blanks or commas between."""
    if not isinstance(value, list):
        return value
    return [part.strip() for item in value for part in item.split(",") if part.strip()]


@contextmanager
def without_tracebacks() -> Iterator[None]:
    """On the terminal, an error of ours is the sentence alone; the run's log on the server keeps the traceback."""
    consoles = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    for handler in consoles:
        handler.addFilter(_worth_showing)
    try:
        yield
    finally:
        for handler in consoles:
            handler.removeFilter(_worth_showing)


def _worth_showing(record: logging.LogRecord) -> bool:
    """Not the traceback of an error of ours, nor what repeats its text: its sentence is printed at the end."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, LinacError) and not record.getMessage().startswith(REPEATS)


def need_server() -> None:
    """Raise `SetupError` unless the Prefect server answers: without one Prefect would start a short-lived one of its own."""
    url = PREFECT_API_URL.value()
    if not url:
        raise SetupError("No Prefect server is named. Run this in the project's folder, where prefect.toml names it.")
    try:
        httpx.get(f"{url}/health", timeout=HEALTH_SECONDS, trust_env=False).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SetupError(
            f"No Prefect server answers at {url}. Start it in another window with `python run.py serve`. If it runs at another "
            "port, as after `serve --port 4201`, set the environment variable PREFECT_API_URL to http://127.0.0.1:4201/api here."
        ) from error


def _kind(facts: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A parameter's own schema; a choice stands among the definitions."""
    reference = facts.get("$ref") or next((item["$ref"] for item in facts.get("allOf", []) if "$ref" in item), "")
    return dict(definitions[reference.rpartition("/")[2]]) if reference else facts


def _help(facts: dict[str, Any]) -> str:
    default = facts.get("default")
    shown = (
        "" if default in (None, "", False, []) else f" Usually {default if isinstance(default, str) else json.dumps(default)}."
    )
    return (str(facts.get("description", "")) + shown).replace("%", "%%").replace("\n", " ")
