"""`python run.py serve`: Prefect server on SQLite, a worker, everything deployed; Ctrl-C stops all of it in order."""

import argparse
import os
import sys
import time
from pathlib import Path

from launch import ending
from launch.ending import complain, say
from launch.stack import PROJECT, Stack
from linac.errors import LinacError

DATA = PROJECT / ".linac-flows"
PORT = 4200
"""Where `prefect` commands in the project's folder look for the API (prefect.toml)."""


def main(arguments: list[str] | None = None) -> int:
    ending.end_in_order()
    try:
        return _serve(_options(arguments))
    except KeyboardInterrupt:  # before anything was started
        return 1


def _serve(options: argparse.Namespace) -> int:
    os.chdir(PROJECT)
    stack = Stack(options.data, options.port, say)
    stack.adopt_environment()
    try:
        say("Starting the Prefect server and a worker...")
        stack.start()
        from launch import runs

        for flow in runs.LASTING:
            runs.resume(flow, options.data, say)
        if options.port != PORT:
            say(f"For commands in another window (`prefect`, `run.py blocks`), set PREFECT_API_URL to {stack.ui}/api there.")
        say(f"\nPrefect's UI is at {stack.ui}\n\nTo add a linac: Deployments, add-linac, Run. Ctrl-C stops everything in order.")
        while not ending.asked():
            time.sleep(1)
            stack.keep_up()
    except KeyboardInterrupt:
        pass
    except (LinacError, OSError) as error:
        complain(error)
        _stop(stack, options.data)
        return 1
    except Exception:
        stack.stop()
        raise
    say("\nStopping...")
    return _stop(stack, options.data)


def _stop(stack: Stack, data: Path) -> int:
    """Recordings end in order first: each listener closes its connection to the linac."""
    ending.end_undisturbed()
    if stack.server is None:  # nothing was started
        stack.stop()
        return 0
    ended = True
    if stack.worker is not None and not stack.server.ended():
        try:
            from launch import runs

            for flow in runs.LASTING:
                runs.remember(flow, data)
            linacs = runs.recorded_by_workers()
            ended = runs.cancel_running(say)
            stack.stop()
            ended = runs.end_listeners(linacs, say) and ended
        except Exception as error:
            complain(f"The Prefect server could not be asked to end its runs: {type(error).__name__}.")
            ended = False
    stack.stop()
    say(
        "Stopped."
        if ended
        else "Stopped; a run had not ended by itself. Listeners that still record are adopted at the next start."
    )
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python run.py serve", description=__doc__)
    parser.add_argument("--port", type=_port, default=PORT, help=f"port of the UI and the API on this computer (default {PORT})")
    parser.add_argument(
        "--data",
        type=lambda text: Path(text).resolve(),
        default=DATA,
        help="folder for Prefect's database and logs (default .linac-flows in the project)",
    )
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
