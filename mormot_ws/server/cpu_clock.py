"""The CPU time of a thread, read by another thread: it tells whether that thread computes or waits.

No pool, server or connection belongs in here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import get_ident


def cpu_clock() -> Callable[[], float]:
    """Return a function that returns the CPU time of the calling thread in seconds. Any thread may
    call it; after the end of that thread it returns 0.0.

    Without such a clock, as on macOS, it is the CPU time of the OS process.
    """
    if sys.platform == "win32" or not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time
    clock = time.pthread_getcpuclockid(get_ident())

    def cpu_seconds() -> float:
        try:
            return time.clock_gettime(clock)
        # the thread has ended
        except OSError:
            return 0.0

    return cpu_seconds
