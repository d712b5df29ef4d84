"""The server is killed under requests, as a process, and comes back: each request ends with a
documented status, none hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from support import BOUND, ms, wait_for
from support.children import Child, fixed_port
from support.rest import KEY, rest_client

from mormot_ws import HttpClientWebSockets

THREADS = 8
#: milliseconds of the client's time-out; much more than the end of a request may take
TIMEOUT = 20_000


class Outcome(NamedTuple):
    """One request."""

    begun: float
    ended: float
    status: int
    right: bool  # the answer is its own


class Requesters:
    """Threads that request without a pause, and write down how each request ended."""

    def __init__(self, client: HttpClientWebSockets) -> None:
        self._client = client
        self._stop = threading.Event()
        self.outcomes: list[Outcome] = []  # list.append is atomic
        self._threads = [
            threading.Thread(target=self._run, args=(n,), name=f"requester {n}", daemon=True)
            for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            url, begun = f"/{number}/{turn}", time.monotonic()
            status = self._client.request(url, "POST", data=b"body", data_type="text/plain")
            right = self._client.answer.content == (
                f"{url} body".encode() if status == 200 else b""
            )
            self.outcomes.append(Outcome(begun, time.monotonic(), status, right))
            if status != 200:
                self._stop.wait(0.01)

    def of(self, status: int, since: float = 0.0) -> list[Outcome]:
        """Return what ended with *status*, begun after *since*."""
        return [
            outcome
            for outcome in self.outcomes
            if outcome.status == status and outcome.begun > since
        ]

    def stop(self) -> None:
        """End the threads, and be sure that none hangs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(BOUND)
        assert not any(thread.is_alive() for thread in self._threads)


def kill(server: Child) -> None:
    server.kill()


def stop(server: Child) -> None:
    server.tell(stop=True)
    server.wait()


@pytest.mark.parametrize("end", [kill, stop])
@pytest.mark.parametrize(
    ("kind", "key"),
    [("synopsejson", ""), ("synopsebinary", ""), ("synopsebin", ""), ("synopsebin", KEY)],
)
def test_requests_survive_the_end_of_the_server(
    kind: str, key: str, end: Callable[[Child], None]
) -> None:
    """Eight threads request all the time: what was under way ends at once with 404, the next with
    666, and then they go on with 200.
    """
    port = fixed_port()

    def start() -> Child:
        return Child("tests.support.rest_child", str(port), key, "10")

    with start() as first:
        first.hear()
        with rest_client(port, kind, key, timeout=TIMEOUT) as client:
            client.auto_reconnect()
            requesters = Requesters(client)
            try:
                wait_for(lambda: len(requesters.of(200)) >= 2 * THREADS, what="the first answers")
                ending = time.monotonic()
                end(first)
                wait_for(lambda: requesters.of(666), what="a request without a connection")
                with start() as second:
                    second.hear()
                    again = time.monotonic()
                    wait_for(
                        lambda: len(requesters.of(200, again)) >= 2 * THREADS,
                        what="answers after the reconnect",
                    )
                    requesters.stop()
            finally:
                requesters.stop()
            assert client.websockets is not None
            assert client.websockets.exchange is not None
            assert client.websockets.exchange.waiting == 0
    assert all(outcome.right for outcome in requesters.outcomes)
    assert {outcome.status for outcome in requesters.outcomes} <= {200, 404, 666}
    under_way = [o for o in requesters.outcomes if o.begun < ending and o.status != 200]
    assert under_way or end is stop
    # what was under way did not wait for its time-out, nor for the reconnection
    assert all(outcome.ended - ending < ms(TIMEOUT) / 1000 / 4 for outcome in under_way)
    if kind != "synopsebin":
        assert len(requesters.of(404)) <= 1  # the others had not been sent
