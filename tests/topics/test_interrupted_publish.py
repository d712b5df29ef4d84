"""What a signal handler raises inside ``MemoryHub.publish()``, a Ctrl-C for example, leaves the
topic whole, wherever it comes.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from mormot_ws import MemoryHub, Publication
from mormot_ws.topics.hub import Heard


class Boom(BaseException):
    """What the handler raises."""


def interrupt(hub: MemoryHub, at: int, **options: Any) -> bool:
    """Publish, and raise at the line with that number in the hub's own code; return whether there
    are so many.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if "memory_" not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines += 1
            if lines == at:
                sys.settrace(None)
                raise Boom
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        hub.publish("news", "interrupted", **options)
    except Boom:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("subscribed", [False, True])
def test_the_history_has_no_gap_and_no_repetition(subscribed: bool) -> None:
    at, reached = 1, True
    while reached:
        with MemoryHub() as hub:
            offsets: list[int] = []

            def callback(heard: Heard, offsets: list[int] = offsets) -> None:
                assert isinstance(heard, Publication)
                offsets.append(heard.offset)

            if subscribed:
                hub.subscribe("news", callback)
            for number in range(7):
                first = hub.publish("news", number)
            # the eighth also looks for topics that have expired
            reached = interrupt(hub, at, session="s" * 16, sequence=1)
            done = hub.publish("news", "again", session="s" * 16, sequence=1)
            last = hub.publish("news", "last")
            found = hub.history("news", first.position)
            # it was published once: by the call that was interrupted, or by the other
            assert [each.offset for each in found.publications] == [8, 9], at
            assert (done.offset, last.offset, found.position.offset) == (8, 9, 9), at
            assert offsets == sorted(set(offsets)), at
            assert offsets[-1:] == ([9] if subscribed else []), at
        at += 1
    # there is more than the checks of arguments
    assert at > 20
