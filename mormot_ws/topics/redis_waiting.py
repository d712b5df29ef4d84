"""Waiting for a few descriptors at once."""

from __future__ import annotations

import select


def wait_readable(descriptors: list[int], seconds: float) -> bool:
    """Wait until one of the *descriptors* can be read; return whether one can.

    Negative descriptors are ignored.
    """
    wanted = [descriptor for descriptor in descriptors if descriptor >= 0]
    if hasattr(select, "poll"):
        poll = select.poll()
        for descriptor in wanted:
            poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))
    return bool(select.select(wanted, [], [], max(0.0, seconds))[0])
