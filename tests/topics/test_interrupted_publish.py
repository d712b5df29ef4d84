"""What a signal handler raises inside ``MemoryHub.publish()``, a Ctrl-C for example, leaves the
topic whole, wherever it comes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest
from support import wait_for
from support.hubs import Heard
from support.lines import each_call, each_line
from support.waiting import BOUND, ms

from mormot_ws import Lost, MemoryHub, Publication
from mormot_ws.topics import memory_hub, memory_topic, subscription
from mormot_ws.topics.memory_topic import MemoryTopic


class Boom(BaseException):
    """What the handler raises."""


def boom() -> None:
    """Be a handler that raises."""
    raise Boom


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

            def callback(heard: Publication | Lost, offsets: list[int] = offsets) -> None:
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
            # nor is what was taken for the delivery lost
            assert offsets == (list(range(1, 10)) if subscribed else []), at
        at += 1
    # there is more than the checks of arguments
    assert at > 20


def test_what_was_waiting_is_heard_by_every_subscriber() -> None:
    """Once, in order, at the latest with the next publication, wherever the delivery ends."""
    for line in each_line(memory_hub, memory_topic):
        with MemoryHub() as hub:
            first, second = Heard(), Heard()

            def publish_more(
                heard: Publication | Lost, hub: MemoryHub = hub, first: Heard = first
            ) -> None:
                first(heard)
                if len(first) == 1:
                    for number in range(3):
                        hub.publish("news", number)

            hub.subscribe("news", publish_more)
            hub.subscribe("news", second)
            with suppress(Boom), line.interrupted_by(boom):
                hub.publish("news", "interrupted")
            hub.publish("news", "next")
            newest = hub.history("news").position.offset
            for heard in (first, second):
                offsets = [each.offset for each in heard]
                assert offsets == list(range(1, newest + 1)), line.number
            # no thread is taken for one that calls subscribers, for which publishers do not wait
            assert not hub._delivering, line.number
    assert line.number > 100


def test_publishers_that_wait_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, from a call that a signal handler has ended."""
    monkeypatch.setattr(memory_hub, "_LONGEST_STANDSTILL", ms(60_000))
    hub, heard = MemoryHub(timeout=ms(60_000)), Heard()
    many = 600
    waiting = threading.Thread(target=hub.publish, args=("news", "waited"), daemon=True)

    def fill(publication: Publication | Lost) -> None:
        heard(publication)
        if len(heard) == 1:
            for number in range(many):
                hub.publish("news", number)
            waiting.start()
            wait_for(lambda: hub._topics["news"].publishers_waiting, what="a publisher that waits")

    hub.subscribe("news", fill)
    end = hub._deliver

    def deliver(topic: MemoryTopic, mine: object) -> None:
        if threading.current_thread() is waiting:
            end(topic, mine)
            return
        with after_the_first(heard):
            end(topic, mine)

    monkeypatch.setattr(hub, "_deliver", deliver)
    with pytest.raises(Boom):
        hub.publish("news", "first")
    waiting.join(BOUND)
    assert not waiting.is_alive()
    assert [each.offset for each in heard] == list(range(1, many + 3))


@contextmanager
def after_the_first(heard: Heard) -> Iterator[None]:
    """Raise in the hub's code as soon as something was heard."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != memory_hub.__file__:
            return None
        if event == "line" and heard and frame.f_code.co_name == "_deliver":
            sys.settrace(None)
            raise Boom
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_a_subscription_hears_what_was_raised_before_its_call() -> None:
    """And not again what it was called with."""
    for end in each_call(memory_hub, memory_topic, subscription):
        with MemoryHub() as hub:
            first, second = Heard(), Heard()
            hub.subscribe("news", first)
            hub.subscribe("news", second)
            with end.raises():
                hub.publish("news", 1)
            hub.publish("news", 2)
            newest = hub.history("news").position.offset
            for heard in (first, second):
                assert [each.offset for each in heard] == list(range(1, newest + 1)), end.number
    assert end.number > 30
