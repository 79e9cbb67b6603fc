"""Prefect's startup hook: lets `prefect deployment run add-linac -p serial=4299` mean what its writer meant.

Prefect calls `setup_environment` before it reads the command's arguments (public `prefect.plugins` entry point, switched on in
prefect.toml). A bare flow name is completed to the one deployment that everybody means, and a serial such as 4299 or 12E3
stays text, which Prefect would read as a number and then refuse.
"""

import json
import sys

from prefect.plugins import HookContext, SetupResult, register_hook

USUAL_DEPLOYMENTS = {
    "add-linac": "add-linac",
    "add-linacs": "add-linacs",
    "check-linac": "by-serial",
    "remove-linac": "remove-linac",
    "icom-capture": "by-serial",
    "trf-index": "nightly",
}
"""Flow name -> the deployment meant by its bare name (prefect.yaml)."""

TEXTS = (
    "serial",
    "site",
    "nss_credentials",
    "nss_gateway",
    "capture_host",
    "iview_alias",
    "capture_login",
    "service_account",
    "done_by",
)
"""Parameters that are text even where they look like a number, or like another word of JSON."""


def completed(arguments: list[str]) -> list[str]:
    """The command line of a `deployment run` completed; any other command line as it is.

    >>> completed(["prefect", "deployment", "run", "add-linac", "-p", "serial=4299"])
    ['prefect', 'deployment', 'run', 'add-linac/add-linac', '-p', 'serial="4299"']
    """
    for place in range(len(arguments) - 1):
        if arguments[place] in ("deployment", "deployments") and arguments[place + 1] == "run":
            return arguments[: place + 2] + [_completed_word(word) for word in arguments[place + 2 :]]
    return list(arguments)


def _completed_word(word: str) -> str:
    if word in USUAL_DEPLOYMENTS:
        return f"{word}/{USUAL_DEPLOYMENTS[word]}"
    name, _, value = word.partition("=")
    if name in TEXTS and value not in ("", "null") and not value.startswith('"'):
        return f"{name}={json.dumps(value)}"
    if "\\" in value and not value.startswith(('"', "[", "{")):  # a Windows path, which Prefect would read as JSON with escapes
        return f"{name}={json.dumps(value)}"
    return word


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult:  # noqa: ARG001 (Prefect passes it by name)
    sys.argv[:] = completed(sys.argv)
    return SetupResult(env={"DO_NOT_TRACK": "1"}, note="no telemetry; bare deployment names are completed")
