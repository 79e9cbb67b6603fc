"""What an Elekta linac says, and what we keep of it: a plain Python library, no Prefect anywhere below.

`linac.trf` reads TRF logs, `linac.icom` the iCom stream, `linac.capture` records that stream, `linac.index` keeps the logs
findable as Parquet, `linac.transport` reaches shares, `linac.simulator` pretends to be a linac. Parsers take bytes and return
values; whoever calls them owns files, sockets and clocks.
"""

import sys
from types import TracebackType

ENDED = 130
"""The exit code after a Ctrl-C, as shells have it."""


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A Ctrl-C is no fault that anybody has to read of."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
        sys.exit(ENDED)
    sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m linac...`, whose imports have just begun and take a moment
    sys.excepthook = _end_quietly
