#!/usr/bin/env python3
"""From a fresh clone to a running product: makes .venv from the pinned requirements, then does what it is told.

    python run.py demo     a pretend linac, recorded and indexed before your eyes
    python run.py test     every check of this project
    python run.py bench    speed and size on this computer, beside PyMedPhys's
    python run.py serve    Prefect server, worker and flows; Ctrl-C stops them
    python run.py blocks FILE    a site's blocks from a file (see site.example.toml)

Needs Python 3.11 to 3.13 and nothing else; works the same on Windows and Linux. `python run.py COMMAND --help` tells more.
"""

from __future__ import annotations  # so that an old Python gets as far as the message about its age

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
VENV = PROJECT / ".venv"
STAMP = VENV / "linac-flows.installed"
SUPPORTED = ((3, 11), (3, 13))
COMMANDS = {
    "demo": "launch.demo",
    "serve": "launch.serve",
    "test": "launch.test",
    "blocks": "launch.site_file",
    "bench": "launch.bench",
}


def main(arguments: list[str]) -> int:
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        return complain(
            f"This is Python {sys.version_info[0]}.{sys.version_info[1]}; linac-flows needs Python 3.11, 3.12 or 3.13. "
            "Start run.py with one of these, for example `py -3.13 run.py demo` on Windows or `python3.13 run.py demo`."
        )
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command != "setup" and command not in COMMANDS:
        return complain(f"There is no command {command!r}. The commands are: {', '.join(COMMANDS)}.")
    problem = install()
    if problem:
        return complain(problem)
    return 0 if command == "setup" else hand_over(COMMANDS[command], rest)


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wanted_stamp() -> str:
    """What .venv must have been made from: this Python, these pins, this project file and this folder."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml"):
        digest.update((PROJECT / name).read_bytes())
    return f"{sys.version_info[0]}.{sys.version_info[1]} {sys.platform} {PROJECT} {digest.hexdigest()}"


def install() -> str | None:
    """Make .venv unless it is complete and right. Returns what is wrong, or None. Cut short, it starts over next time."""
    wanted = wanted_stamp()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted and venv_python().is_file():
        return None
    started = time.monotonic()
    print("Installing the pinned packages into .venv (once, about two minutes)...", flush=True)
    try:
        STAMP.unlink(missing_ok=True)
        if not reusable():
            shutil.rmtree(VENV, ignore_errors=True)
        if not venv_python().is_file():
            import venv

            venv.EnvBuilder(with_pip=True).create(VENV)
    except (OSError, subprocess.CalledProcessError) as error:
        return (
            f"Could not make the virtual environment {VENV}: {error}. On Debian or Ubuntu, `apt install python3-venv` "
            "is probably missing; on Windows, close programs that use the folder and try again."
        )
    pip = [str(venv_python()), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-input"]
    for what in (
        ["-r", str(PROJECT / "requirements.txt")],
        ["--no-deps", "--no-build-isolation", "-e", str(PROJECT)],
    ):
        done = subprocess.run(pip + what, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            return (
                f"pip could not install {' '.join(what)}:\n{done.stdout.decode(errors='replace')[-3000:]}\n"
                "Check the connection to the package index (pip's own settings tell it of a hospital's proxy), then try again."
            )
    STAMP.write_text(wanted, encoding="utf-8")
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)
    return None


def reusable() -> bool:
    """Whether the .venv that is there was made by this version of Python."""
    config = VENV / "pyvenv.cfg"
    if not config.is_file():
        return False
    version = f"{sys.version_info[0]}.{sys.version_info[1]}."
    return any(
        line.startswith("version") and line.split("=")[1].strip().startswith(version) for line in config.open(encoding="utf-8")
    )


def hand_over(module: str, arguments: list[str]) -> int:
    """Run a module of the project in .venv. Ctrl-C reaches it directly; a termination is passed on."""
    child = subprocess.Popen([str(venv_python()), "-m", module, *arguments], env={**os.environ, "PYTHONUTF8": "1"})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGBREAK"):
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    return child.wait()


def complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
