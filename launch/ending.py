"""Ctrl-C and its kin: one orderly end, whatever arrives, however often, from whomever.

The first Ctrl-C, Ctrl-Break, hang-up or termination raises `KeyboardInterrupt` once. What follows while things are ended in order
raises nothing: everything that ends them is bounded in time, and cut short it would leave something behind. A person who
presses Ctrl-C again is told so.
"""

import contextlib
import os
import signal
import sys
import time

SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")
"""SIGBREAK is Windows' Ctrl-Break; SIGHUP comes when a terminal is closed."""

DOUBLE_SECONDS = 1.0
"""What arrives so soon after the first is the same wish: a terminal and a service manager tell each process of a group."""

STILL_STOPPING = (
    "Still stopping: recordings end in order, so that each linac sees a proper end. It takes about a minute; with many linacs on "
    "a busy computer, several."
)

_asked: float | None = None


def end_in_order() -> None:
    """From now on, take the signals as described above, also where a shell had Ctrl-C ignored."""
    global _asked
    _asked = None
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue  # started with nohup: meant to outlive its terminal
        signal.signal(number, _interrupt)


def end_undisturbed() -> None:
    """An end has begun for a reason of its own: signals raise nothing from now on."""
    global _asked
    if _asked is None:
        _asked = time.monotonic()


def asked() -> bool:
    """Whether an end was asked for. Python drops an exception raised in a destructor, so whoever loops looks here as well."""
    return _asked is not None


def say(text: str) -> None:
    """Print, unless the terminal has gone: the end goes on without it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)


def complain(text: object) -> None:
    """The same, as an error."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    global _asked
    now = time.monotonic()
    if _asked is None:
        _asked = now
        raise KeyboardInterrupt
    if now - _asked > DOUBLE_SECONDS:
        with contextlib.suppress(OSError):
            os.write(2, f"{STILL_STOPPING}\n".encode())  # not print: a signal may have interrupted one
