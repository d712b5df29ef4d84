"""Where all threads of a process are, on demand: for what does not go on."""

from __future__ import annotations

import signal
import sys
import threading
import traceback

#: what is sent to a process that is to tell it
SIGNAL = signal.SIGUSR1


def stacks_on_signal(path: str) -> None:
    """Write the stacks of all threads beside the log at *path* when :data:`SIGNAL` comes.

    The main thread does it, because ``faulthandler`` may crash a process whose threads go on
    running meanwhile.
    """

    def write(number: int, frame: object) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        with open(f"{path}.stacks", "a", encoding="utf-8") as file:
            for ident, top in sys._current_frames().items():
                stack = "".join(traceback.format_stack(top))
                file.write(f"{names.get(ident, ident)}:\n{stack}\n")

    signal.signal(SIGNAL, write)
