"""What becomes of a command whose output somebody stops reading (`... | head -1`), or goes to a disk that is full."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable


def printing(command: Callable[[], int]) -> int:
    """Run a command that prints; its exit code, or 1 where what it prints cannot be written.

    A reader that has gone knows why: nothing is said. Errors of files, which bear a name, are not the output's and go on.
    """
    try:
        code = command()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return code
    except OSError as error:
        if error.filename is not None:
            raise
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                _let_go(stream.fileno())
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # the latter is what Windows says of a reader that has gone
            with contextlib.suppress(OSError):
                sys.stderr.write(f"The output could not be written: {error.strerror or error}.\n")
                sys.stderr.flush()
        return 1


def printable(text: str, most: int | None = None) -> str:
    r"""A text without anything that a terminal would obey; of more letters than `most`, the first and dots.

    >>> printable("a\x1b[2J"), printable("a long one", 5)
    ('a?[2J', 'a lo…')
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def _let_go(number: int) -> None:
    """What is still to be written goes nowhere: the interpreter would try it again at its end, and say that it failed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
