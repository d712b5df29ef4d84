"""What the tests of reconnection share: a client that waits for its next attempt, and what is
recorded of it. No test in here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from mormot_ws import (
    HttpClientWebSockets,
    ReconnectFailure,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProcessClientThread,
)
from mormot_ws.process.freeing import EndedByWith

from .endpoints import connect, process_of, send_text
from .raw_server import Behaviour, RawServer, drop_on_request, polite
from .recorder import Recorder
from .waiting import BOUND, wait_for

NEVER = 600_000.0
#: what is recorded when a connection ends
ENDED = ["focConnectionClose", "on_websockets_closed"]
#: what is recorded when it comes back at the first attempt
BACK = ["on_reconnect(process)", "focContinuation"]


class ReconnectingClient(EndedByWith):
    """The client of the document: it upgrades again in ``on_reconnect``, and records every
    callback.

    *before_upgrade* and *after_upgrade* are called in ``on_reconnect`` with the process. The first
    frame callback is held until everything is in its place, so that no event is missed, however
    soon the server ends the connection.
    """

    def __init__(self, port: int, recorder: Recorder | None = None, **settings: Any) -> None:
        self.recorder = Recorder() if recorder is None else recorder
        self._ready = threading.Event()
        self.before_upgrade: Callable[[WebSocketProcessClient], Any] | None = None
        self.after_upgrade: Callable[[WebSocketProcessClient], Any] | None = None
        self.client = connect(port, self.on_incoming_frame, **settings)
        self.process = process_of(self.client)
        self.client.on_websockets_closed = self.recorder.call("on_websockets_closed")
        self.process.on_reconnect = self.on_reconnect
        self._ready.set()

    def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Record the frame."""
        self._ready.wait(BOUND)
        self.recorder.frame(process, frame)

    def on_reconnect(self, process: WebSocketProcessClient | None) -> str:
        """What the document's ``DoReconnect`` does."""
        if process is None:
            self.recorder.add("on_reconnect(None)")
            return "Retry"
        if self.before_upgrade is not None:
            self.before_upgrade(process)
        error = self.client.websockets_upgrade(
            process.protocol.upgrade_uri,
            "",
            False,
            frozenset(),
            process.protocol,
            "",
            reconnect=True,
        )
        self.recorder.add("on_reconnect(process)", error)
        if not error and self.after_upgrade is not None:
            self.after_upgrade(process)
        return error

    def drop(self) -> None:
        """Ask a server that behaves by :func:`drop_on_request` to end the connection."""
        assert send_text(self.client, "drop me")

    def wait_reconnected(self, n: int = 1) -> None:
        """Wait until the connection has come back for the *n*-th time, and its first callback was
        called.
        """
        self.recorder.wait("focContinuation", n + 1)

    def _end_block(self) -> None:
        self.client.free()


class FixedDelay:
    """A reconnection policy that always waits the same, gives up after some attempts, and
    remembers what it was told.
    """

    def __init__(self, milliseconds: float, max_attempts: int | None = None) -> None:
        self.milliseconds = milliseconds
        self.max_attempts = max_attempts
        self.failures: list[ReconnectFailure] = []

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        self.failures.append(failure)
        if self.max_attempts is not None and failure.attempts >= self.max_attempts:
            return None
        return self.milliseconds

    def reset(self) -> None:
        """It has nothing to forget."""


def thread_of(client: HttpClientWebSockets) -> WebSocketProcessClientThread:
    """Return the thread of a client that has been upgraded."""
    thread = process_of(client).client_thread
    assert thread is not None
    return thread


def successful(recorder: Recorder) -> list[str]:
    """Return the names of all events but of the upgrades that failed.

    A server listens before its protocols are added: a client that comes between the two is refused,
    and tries again.
    """
    return [
        event.name
        for event in recorder.events
        if event.name != "on_reconnect(process)" or not event.value
    ]


@contextlib.contextmanager
def waiting(
    recorder: Recorder, policy: FixedDelay, *behaviours: Behaviour
) -> Iterator[ReconnectingClient]:
    """Give a client that has lost its connection to a raw server and waits for its next attempt,
    as *policy* says.
    """
    with (
        RawServer(drop_on_request, *(behaviours or (polite,))) as server,
        ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy) as reconnecting,
    ):
        reconnecting.drop()
        wait_for(lambda: policy.failures, what="the loss of the connection")
        yield reconnecting
