"""What is handed to a keeper in place of a connection."""

from __future__ import annotations

import threading

from mormot_ws.process.keeper import FlushResult, ProcessKeeper

from .waiting import BOUND


class Kept:
    """A process that only knows whether it was flushed."""

    def __init__(self) -> None:
        self.flushed = threading.Event()

    def flush_queued(self) -> FlushResult:
        self.flushed.set()
        return FlushResult.done

    def fileno(self) -> int:
        return -1


def wait_served(keeper: ProcessKeeper) -> None:
    """Wait until *keeper* has looked at all queues that it was told of up to now."""
    last = Kept()
    keeper.wake(last)
    assert last.flushed.wait(BOUND), "the keeper does not get on"
