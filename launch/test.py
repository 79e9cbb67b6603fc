"""`python run.py test`: style, types, import rules and tests. What follows the command goes to pytest (`-k trf`, `-x`)."""

import os
import subprocess
import sys

from launch.stack import PROJECT

STEPS = (
    ("style", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
)


def main(arguments: list[str]) -> int:
    os.chdir(PROJECT)
    failed = []
    for name, command in STEPS:
        print(f"--- {name}", flush=True)
        if subprocess.run([sys.executable, "-m", *command], stdin=subprocess.DEVNULL, check=False).returncode:
            failed.append(name)
    print("--- import rules and tests", flush=True)
    if subprocess.run([sys.executable, "-m", "pytest", *arguments], stdin=subprocess.DEVNULL, check=False).returncode:
        failed.append("tests")
    if failed:
        print(f"FAILED: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
