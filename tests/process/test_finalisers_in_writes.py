"""A finaliser that sends on the connection that its thread is writing to queues its frame: waiting
for the lock would be waiting for its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any
from unittest import mock

import pytest
from support import text
from support.topics import Talker, topics_on
from support.waiting import BOUND, ms, wait_for

from mormot_ws import WebSocketServer
from mormot_ws.process.queue_writer import QueueWriter

#: what a call that waits for itself takes longer than; it ends after send_timeout
SEND_TIMEOUT = ms(20_000)


def in_thread(action: Callable[[], Any]) -> None:
    """Run *action* in another thread than the main one, where signal handlers do not run."""
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive(), "it waits for its own thread"


def test_while_a_publication_is_written_at_once() -> None:
    """Both messages arrive, the publication first."""
    settings = {"send_timeout": SEND_TIMEOUT}
    with topics_on(WebSocketServer, settings=settings) as topics, Talker(topics.port) as talker:
        talker.subscribe()
        (process,) = topics.server.connections()
        sender = process.sender
        # otherwise the publication is gathered with the answer
        due = sender._last_flush + process.settings.send_delay / 1000
        wait_for(lambda: monotonic() > due and not sender.has_queued)
        write = process.write_now
        results: list[bool] = []

        def interrupted(data: bytes) -> Any:
            if not results:
                results.append(False)
                results[0] = process.send_frame(text('{"type":"pong"}'))
            return write(data)

        with mock.patch.object(process, "write_now", interrupted):
            in_thread(lambda: topics.hub.publish("news", "x"))
        assert results == [True]
        assert talker.publications(1) == [(1, "x")]
        assert talker.read("pong")


@pytest.mark.parametrize("method", ["write_pong", "write_answers", "requeue"])
def test_while_the_loop_writes(method: str) -> None:
    """The other methods that write under the lock."""
    settings = {"send_timeout": SEND_TIMEOUT}
    with topics_on(WebSocketServer, settings=settings) as topics, Talker(topics.port) as talker:
        (process,) = topics.server.connections()
        sender = process.sender
        results: list[bool] = []

        def interrupted(*_: object) -> None:
            results.append(process.send_frame(text('{"type":"pong"}')))

        calls: dict[str, Callable[[], Any]] = {
            "write_pong": lambda: sender._write_held(lambda: sender._queued.write_pong(b"")),
            "write_answers": lambda: sender._write_held(sender._queued.write_answers),
            "requeue": sender.requeue,
        }
        with mock.patch.object(QueueWriter, method, interrupted):
            in_thread(calls[method])
        assert results == [True]
        assert talker.read("pong")
