"""Where all threads of a process are, on demand: for what does not go on."""

from __future__ import annotations

import faulthandler
import signal

#: what is sent to a process that is to tell it
SIGNAL = signal.SIGUSR1


def stacks_on_signal(path: str) -> None:
    """Write the stacks of all threads beside the log at *path* when :data:`SIGNAL` comes."""
    # it lives as long as the process
    file = open(f"{path}.stacks", "a", encoding="utf-8")  # noqa: SIM115
    faulthandler.register(SIGNAL, file)
