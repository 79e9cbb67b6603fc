"""`python -m linac.icom`: look into recorded sessions, and (with `linac.capture`) record them.

show FILE...          what is in recorded sessions (.xz) or live files (.txt), without the patient unless asked for
listen, status        see `linac.capture`
"""

import sys

ENDED = 130
"""The exit code after a Ctrl-C, as shells have it."""

try:
    import argparse
    import io
    from collections.abc import Sequence
    from pathlib import Path

    from linac.console import printing
    from linac.errors import LinacError
    from linac.icom import show
except KeyboardInterrupt:  # during the imports: nothing has begun
    sys.exit(ENDED)


def _add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("show", help="say what is in recorded sessions (.xz) or live files (.txt)")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--identity", action="store_true", help="also print the patient's ID and name, and the field")
    parser.add_argument("--items", action="store_true", help="also list the tags that occur, the unknown ones included")
    parser.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    failed = 0
    for path in arguments.files:
        try:
            print(path.name, *show.summary(show.read(path), identity=arguments.identity, items=arguments.items), sep="\n")
        except LinacError as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return ENDED


def _run(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m linac.icom", description="Look into recorded iCom sessions, or record them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_show(commands)
    if arguments[:1] != ["show"]:  # looking into a file needs none of it
        from linac.capture import cli

        cli.add_commands(commands)
    chosen = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a console may lack letters that a name has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if arguments[:1] == ["show"]:
            return printing(lambda: int(chosen.run(chosen) or 0))
        return int(chosen.run(chosen) or 0)
    except LinacError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
