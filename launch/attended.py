"""Runs a module that ends when its parent does: `python -m launch.attended PARENT_PID MODULE [ARGUMENT...]`.

Server and worker are children of `serve`, which ends them in order. Killed, it cannot; then they notice that it has gone and end
by themselves, as on Ctrl-C, so that no port stays taken. Listeners are nobody's children here and go on recording.

Linux: an orphan gets another parent, which is looked for twice a second. Windows: a process can be waited for.
"""

import os
import runpy
import signal
import sys
import threading
import time

LOOK_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""What has not ended in order by then is ended."""


def main(arguments: list[str]) -> None:
    parent, module = int(arguments[0]), arguments[1]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
    threading.Thread(target=_attend, args=(parent,), name="attend", daemon=True).start()
    sys.argv[:] = arguments[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _attend(parent: int) -> None:
    _wait_for_end_of(parent)
    print(f"The process {parent} that started this one has gone; ending.", file=sys.stderr, flush=True)
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if sys.platform == "win32":
    import ctypes

    SYNCHRONIZE, INFINITE = 0x00100000, 0xFFFFFFFF

    def _wait_for_end_of(parent: int) -> None:
        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel32.OpenProcess.restype = ctypes.c_void_p
        kernel32.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        handle = kernel32.OpenProcess(SYNCHRONIZE, 0, parent)
        if handle:  # else it has gone already
            kernel32.WaitForSingleObject(handle, INFINITE)

else:

    def _wait_for_end_of(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1:])
