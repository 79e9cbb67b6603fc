"""Who lowers its own priority lowers nobody else's."""

import os
import subprocess
import sys
import threading

import pytest

from linac.capture.priority import STEPS, lower_priority

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="threads have a priority of their own on Linux, which can be read there"
)


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@linux
def test_only_the_calling_thread_yields() -> None:
    before, inside = nice(), []

    def work() -> None:
        lower_priority()
        inside.append(nice())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [min(before + STEPS, 19)]
    assert nice() == before


@linux
def test_a_process_that_another_thread_starts_is_as_before() -> None:
    thread = threading.Thread(target=lower_priority)
    thread.start()
    thread.join()
    child = subprocess.run([sys.executable, "-c", "import os; print(os.nice(0))"], capture_output=True, text=True, check=True)
    assert int(child.stdout) == nice()


def test_it_may_be_called_anywhere() -> None:
    thread = threading.Thread(target=lower_priority)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
