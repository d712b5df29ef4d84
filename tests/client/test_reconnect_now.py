"""``reconnect_now()`` at the moments that are easily missed: before a wait has begun, and during
an attempt.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest
from support import BOUND, MS, FixedDelay, connect, process_of, wait_for

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketServer,
)
from mormot_ws.testing import FaultProxy

#: milliseconds that no test waits
_NEVER = 600_000


def in_on_websockets_closed(client: HttpClientWebSockets) -> None:
    client.on_websockets_closed = lambda closed: closed.reconnect_now()


def in_on_client_disconnected(client: HttpClientWebSockets) -> None:
    client.settings.on_client_disconnected = lambda process: client.reconnect_now()


def by_the_policy(client: HttpClientWebSockets) -> None:
    """The last moment before the wait."""
    policy = client.policy
    assert isinstance(policy, FixedDelay)
    ask = policy.next_delay

    def next_delay(failure: object) -> float | None:
        client.reconnect_now()
        return ask(failure)  # type: ignore[arg-type]

    policy.next_delay = next_delay  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "arrange", [in_on_websockets_closed, in_on_client_disconnected, by_the_policy]
)
def test_said_before_the_wait_has_begun_it_is_not_lost(
    proxy: FaultProxy, arrange: Callable[[HttpClientWebSockets], None]
) -> None:
    """A client that hears of the loss and says it at once does not wait for ten minutes."""
    with connect(proxy.port, reconnect_policy=lambda: FixedDelay(_NEVER)) as client:
        client.auto_reconnect()
        arrange(client)
        proxy.cut()
        wait_for(lambda: client.status().reconnects == 1)


@pytest.mark.parametrize("ends_well", [False, True])
def test_said_during_an_attempt_it_counts_for_the_next_one_after_a_failure_only(
    proxy: FaultProxy, ends_well: bool
) -> None:
    """When that attempt fails there is another one at once; when it succeeds, the next loss has
    its whole wait.
    """
    policy = FixedDelay(_NEVER)
    inside, go_on = threading.Event(), threading.Event()
    texts = iter(["not yet"])

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        inside.set()
        assert go_on.wait(BOUND)
        if not ends_well:
            for text in texts:
                return text
        return again(process) or ""

    with connect(proxy.port, reconnect_policy=lambda: policy) as client:
        client.auto_reconnect()
        again = process_of(client).on_reconnect
        assert again is not None
        process_of(client).on_reconnect = on_reconnect
        proxy.cut()
        wait_for(lambda: policy.failures)
        client.reconnect_now()
        assert inside.wait(BOUND)
        client.reconnect_now()
        go_on.set()
        wait_for(lambda: client.status().reconnects == 1)
        assert len(policy.failures) == (1 if ends_well else 2)
        wait_for(lambda: client.status().connected)
        asked = len(policy.failures)
        proxy.cut()
        wait_for(lambda: len(policy.failures) > asked)
        assert not attempts_soon(client)


def attempts_soon(client: HttpClientWebSockets) -> bool:
    """Tell whether the client attempts although it ought to wait."""
    # there is no condition to wait for: nothing is to happen
    time.sleep(100 * MS)
    return client.status().attempts != 0


def test_a_wait_without_an_end_ends_by_it(proxy: FaultProxy) -> None:
    """A policy may answer infinity: attempts are then made on demand only."""
    policy = FixedDelay(math.inf)
    with connect(proxy.port, reconnect_policy=lambda: policy) as client:
        client.auto_reconnect()
        proxy.cut()
        wait_for(lambda: policy.failures)
        client.reconnect_now()
        wait_for(lambda: client.status().reconnects == 1)


def test_said_in_the_middle_of_a_connection_it_is_forgotten(
    server: WebSocketServer, proxy: FaultProxy
) -> None:
    """A frame callback that says it touches neither the connection nor the wait after its loss."""
    policy = FixedDelay(_NEVER)
    heard = threading.Event()

    def callback(process: WebSocketProcess, frame: object) -> None:
        if process.state.name == "wpsRun":
            assert isinstance(process, WebSocketProcessClient)
            process.reconnect_now()
            heard.set()

    with connect(proxy.port, callback, reconnect_policy=lambda: policy) as client:
        client.auto_reconnect()
        assert heard.wait(BOUND)
        proxy.cut()
        wait_for(lambda: policy.failures)
        assert not attempts_soon(client)
