"""What an Elekta linac says, and what we keep of it: a plain Python library, no Prefect anywhere below.

`linac.trf` reads TRF logs, `linac.icom` the iCom stream, `linac.capture` records that stream, `linac.index` keeps the logs
findable as Parquet, `linac.transport` reaches shares, `linac.simulator` pretends to be a linac. Parsers take bytes and return
values; whoever calls them owns files, sockets and clocks.
"""

import sys
from types import TracebackType

ENDED = 130
"""The exit code after a Ctrl-C, as shells have it."""

_OURS = ("linac", "blocks", "tasks", "flows", "launch")


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A Ctrl-C is no fault that anybody has to read of, nor is a Python without our packages one of the program."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
        sys.exit(ENDED)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in _OURS:
        python = ".venv\\Scripts\\python" if sys.platform == "win32" else ".venv/bin/python"
        sys.stderr.write(
            f"This Python has no package {error.name!r}. Call that of the project's folder instead: {python} -m ... "
            "(`python run.py setup` makes it).\n"
        )
        sys.exit(1)
    sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m linac...`, whose imports have just begun and take a moment
    sys.excepthook = _end_quietly
