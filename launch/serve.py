"""`python run.py serve`: Prefect server on SQLite, a worker, everything deployed; Ctrl-C stops all of it in order."""

import argparse
import os
import sys
import time
from pathlib import Path

from launch.stack import PROJECT, Stack, end_in_order, end_undisturbed
from linac.errors import LinacError

DATA = PROJECT / ".linac-flows"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python run.py serve", description=__doc__)
    parser.add_argument("--port", type=int, default=4200, help="port of the UI and the API on this computer (default 4200)")
    parser.add_argument(
        "--data",
        type=lambda text: Path(text).resolve(),
        default=DATA,
        help="folder for Prefect's database and logs (default .linac-flows in the project)",
    )
    options = parser.parse_args(arguments)
    os.chdir(PROJECT)
    stack = Stack(options.data, options.port, say)
    stack.adopt_environment()
    end_in_order()
    try:
        print("Starting the Prefect server and a worker...", flush=True)
        stack.start()
        from launch import runs

        runs.resume_captures(options.data / "captures.json", say)
        print(
            f"\nPrefect's UI is at {stack.ui}\n\nTo add a linac: Deployments, add-linac, Run. Ctrl-C stops everything in order.",
            flush=True,
        )
        while True:
            time.sleep(1)
            stack.keep_up()
    except KeyboardInterrupt:
        print("\nStopping...", flush=True)
        return _stop(stack, options.data)
    except LinacError as error:
        print(error, file=sys.stderr)
        _stop(stack, options.data)
        return 1


def _stop(stack: Stack, data: Path) -> int:
    """Recordings end in order first: each listener closes its connection to the linac. A second Ctrl-C does not cut it short."""
    end_undisturbed()
    ended = True
    if stack.server is not None and stack.worker is not None and not stack.server.ended():
        from launch import runs

        try:
            runs.remember_captures(data / "captures.json")
            ended = runs.cancel_running(say)
        except Exception as error:
            print(f"The Prefect server could not be asked to end its runs: {type(error).__name__}.", file=sys.stderr)
            ended = False
    stack.stop()
    print(
        "Stopped."
        if ended
        else "Stopped; a run had not ended by itself. Listeners that still record are adopted at the next start."
    )
    return 0


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
