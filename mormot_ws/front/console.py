"""Closing the Windows console as a reason to say goodbye.

When the user closes the window, logs off or shuts down, Windows calls a handler in a thread of its
own. It ends the OS process when the handler returns, or after 5 s. That is too early for Python's
signal handlers.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT
_ENDS = (2, 5, 6)
#: seconds that the handler gives the program to shut down
_PATIENCE = 4.5


def close_handler(stop: Callable[[], Any], done: threading.Event) -> Callable[[int], bool]:
    """Return the function for Windows to call: it calls *stop* and waits for *done*."""

    def handler(event: int) -> bool:
        if event not in _ENDS:
            return False
        stop()
        done.wait(_PATIENCE)
        return True

    return handler


@contextlib.contextmanager
def console_close(stop: Callable[[], Any]) -> Iterator[None]:
    """Call *stop*, in another thread, if the console is closed while the block runs.

    The program then has 4.5 s to leave the block. Does nothing on other systems.
    """
    if sys.platform != "win32":
        yield
        return
    import ctypes

    done = threading.Event()
    handler = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(close_handler(stop, done))
    kernel = ctypes.WinDLL("kernel32")
    # 0 without a console: then nobody can close it
    added = kernel.SetConsoleCtrlHandler(handler, 1)
    try:
        yield
    finally:
        done.set()
        if added:
            kernel.SetConsoleCtrlHandler(handler, 0)
