"""Runs a Python program with a share that misbehaves on demand. A script for `python -I`, with the standard library only.

    python -I bench_capture_share.py PID_FILE PATH ORDERS SHARE MODULE ARGUMENT...

Runs MODULE as `python -m` does, with PATH ahead on the module path, after writing its process number into PID_FILE. Where ORDERS
is not `-`, it names a file that says how the folder SHARE behaves just now; it is looked at before each operation:

    (missing or empty)   as it is
    slow SECONDS         each operation waits so long first
    hang                 operations wait until the file says something else
    readonly             whatever would change something fails, as on a share that was made read-only

The operations are those that Python announces to audit hooks: opening, making, listing, renaming, removing. The program itself is
not changed, and it is the same for every program, system and user: no mount, no rights, no preloaded library.
"""

import errno
import os
import runpy
import sys
import time
from typing import Any

LOOK_SECONDS = 0.02
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime", "shutil.move"}
LOOKS = {"os.listdir", "os.scandir"}


def watch(orders: str, share: str) -> None:
    """From now on do what the orders say. There is no way back: an audit hook stays."""
    inside = os.path.join(os.path.abspath(share), "")

    def order() -> list[str]:
        try:
            with open(orders, encoding="ascii") as file:
                return file.read().split()
        except OSError:  # missing, or being replaced on Windows
            return []

    def hook(event: str, details: tuple[Any, ...]) -> None:
        changes = event in CHANGES
        if event == "open":
            _, mode, flags = details
            changes = bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        elif not changes and event not in LOOKS:
            return
        path = details[0] if details else None
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or not os.path.join(os.path.abspath(path), "").startswith(inside):
            return
        now = order()
        if now[:1] == ["slow"]:
            time.sleep(float(now[1]))
        while now[:1] == ["hang"]:
            time.sleep(LOOK_SECONDS)
            now = order()
        if now[:1] == ["readonly"] and changes:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    sys.addaudithook(hook)


def main() -> None:
    pid_file, path, orders, share, module = sys.argv[1:6]
    if sys.platform != "win32" and os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # whoever starts this may go ahead of others; this does not
    with open(f"{pid_file}.part", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    os.replace(f"{pid_file}.part", pid_file)
    if path:
        sys.path.insert(0, path)
    sys.argv = [module, *sys.argv[6:]]
    if orders != "-":
        watch(orders, share)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
