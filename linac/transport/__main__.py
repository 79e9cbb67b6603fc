"""`python -m linac.transport key HOST`: the host key of an SSH gateway, to be confirmed and put into its block."""

import argparse
import sys
from collections.abc import Sequence

from linac.errors import LinacError
from linac.transport.ssh import TIMEOUT_SECONDS, shown_key
from linac.transport.ssh_keys import ALGORITHMS

ADVICE = """\
Ask whoever runs the gateway to compare it: on the gateway, `ssh-keygen -lf FILE` prints the fingerprint of each .pub file
in /etc/ssh (on Windows in C:\\ProgramData\\ssh). Only if they agree, put this line into the SSH gateway block as its host key:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the key; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m linac.transport", description="Look at what folders are reached through.")
    commands = parser.add_subparsers(dest="command", required=True)
    key = commands.add_parser("key", help="print the host key of an SSH gateway, for its SSH gateway block")
    key.add_argument("host", help="name or address of the gateway")
    key.add_argument("--port", type=int, default=22, help="port of its SSH service (%(default)d)")
    key.add_argument("--type", default="ssh-ed25519", choices=list(ALGORITHMS), help="type of key to ask for (%(default)s)")
    key.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, help="seconds to wait (%(default)g)")
    chosen = parser.parse_args(arguments)
    try:
        found = shown_key(chosen.host, chosen.port, chosen.type, chosen.timeout)
    except LinacError as error:
        print(error, file=sys.stderr)
        return 1
    if found.kind != chosen.type:
        print(f"The gateway has no host key of type {chosen.type}; it shows one of another type instead.\n")
    print(f"The gateway {chosen.host} port {chosen.port} shows this host key:\n\n    {found.kind}  {found.fingerprint}\n")
    print(f"{ADVICE}\n{found.line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
