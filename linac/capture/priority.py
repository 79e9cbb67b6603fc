"""Good manners: what can wait gets the processor after what cannot."""

import os
import sys
import threading

STEPS = 5
"""Of 19: still far more than what runs when nothing else wants to."""


def lower_priority() -> None:
    """Lower the priority of the calling thread, of nothing else: a process that another thread starts does not inherit it.

    On Linux and Windows; elsewhere, and where it is refused, everything stays as it is.
    """
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentThread.restype = ctypes.c_void_p
        kernel.SetThreadPriority(ctypes.c_void_p(kernel.GetCurrentThread()), -1)  # THREAD_PRIORITY_BELOW_NORMAL
    elif sys.platform == "linux":  # where each thread has its own
        me = threading.get_native_id()
        try:
            os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + STEPS)
        except OSError:
            return
