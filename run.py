#!/usr/bin/env python3
"""From a fresh clone to a running product: makes .venv from the pinned requirements, then does what it is told.

    python run.py demo     a pretend linac, recorded and indexed before your eyes
    python run.py test     every check of this project
    python run.py bench    speed and size on this computer, beside PyMedPhys's
    python run.py serve    Prefect server, worker and flows; Ctrl-C stops them
    python run.py blocks FILE    a site's blocks from a file (see site.example.toml)
    python run.py setup    only makes .venv, for a service or for a computer that is to have no connection later

Needs Python 3.11 to 3.13 and nothing else; works the same on Windows and Linux. `python run.py COMMAND --help` tells more.
"""

from __future__ import annotations  # so that an old Python gets as far as the message about its age

import hashlib
import os
import re
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
    for what in (
        ["-r", str(PROJECT / "requirements.txt")],
        ["--no-deps", "--no-build-isolation", "-e", str(PROJECT)],
    ):
        code, said = pip(what)
        if code:
            return f"pip could not install {' '.join(what)}:\n{said[-3000:]}\n{advice_on(said)}"
    STAMP.write_text(wanted, encoding="utf-8")
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)
    return None


def pip(what: list[str]) -> tuple[int, str]:
    """Run `pip install`: its exit code and what it said. Now and then a line tells that it is still at work."""
    command = [str(venv_python()), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-input", *what]
    started = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while True:
            try:
                said, _ = process.communicate(timeout=30)
                return process.returncode, said.decode(errors="replace")
            except subprocess.TimeoutExpired:
                print(f"  still installing, for {time.monotonic() - started:.0f} s...", flush=True)
            except BaseException:  # Ctrl-C: what is half installed is installed anew next time
                process.kill()
                raise


PIP_TROUBLES = {
    r"No space left|Errno 28|not enough space|WinError 112": "The disk is full: make 2 GB of room, then try again.",
    r"Permission denied|Errno 13|Access is denied|WinError (5|32)\b": "A file is in use, or may not be written by your account. "
    "Close programs that use this folder (a running `serve` does), look at its access rights, then try again.",
    r"CERTIFICATE_VERIFY_FAILED|SSLError": "The certificate of the package index, or of a proxy before it, is not trusted. "
    "Ask hospital IT for the proxy's certificate as a file, run `python -m pip config set global.cert FILE`, then try again.",
    r"connection broken|(Connection|Connect|Proxy|Timeout)Error|timed out|name resolution|getaddrinfo|Network is unreachable": (
        "The package index cannot be reached. Behind a proxy, run `python -m pip config set global.proxy http://PROXY:PORT`; "
        "with a mirror of the hospital's own, `python -m pip config set global.index-url ADDRESS`; then try again."
    ),
    r"No matching distribution|Could not find a version|Failed building wheel|metadata-generation-failed": (
        "The package index that pip asks has no such version for this Python. Use a 64-bit Python 3.11, 3.12 or 3.13 from "
        "python.org or your Linux; where pip asks a mirror, it must hold the versions of requirements.txt."
    ),
}
"""What pip says (a pattern) -> what to do. The first that fits counts: a full disk or a broken connection has consequences."""


def advice_on(said: str) -> str:
    """What to do about a failure of pip, by what it says."""
    for pattern, advice in PIP_TROUBLES.items():
        if re.search(pattern, said, re.IGNORECASE):
            return advice
    return "What pip says above is the reason. Once it is mended, the same command goes on from there."


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
    """Run a module of the project in .venv.

    On Linux it takes this process's place, so that what a terminal, a service manager or `kill` tells this process reaches it,
    once. On Windows the console's Ctrl-C and Ctrl-Break reach it directly.
    """
    command = [str(venv_python()), "-m", module, *arguments]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        os.execve(command[0], command, environment)  # noqa: S606 (no shell is meant)
    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    return subprocess.Popen(command, env=environment).wait()


def complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(complain("\nStopped. The same command goes on from there."))
