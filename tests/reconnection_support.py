"""What the tests of reconnection share: a client that waits for its next attempt, and what is
recorded of it. No test in here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from support import (
    Behaviour,
    FixedDelay,
    RawServer,
    ReconnectingClient,
    Recorder,
    drop_on_request,
    polite,
    process_of,
    wait_for,
)

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProcessClientThread,
)

NEVER = 600_000.0
#: what is recorded when a connection ends
ENDED = ["focConnectionClose", "on_websockets_closed"]
#: what is recorded when it comes back at the first attempt
BACK = ["on_reconnect(process)", "focContinuation"]


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
