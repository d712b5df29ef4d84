"""Requests both ways over a link that stalls and breaks again and again: what each status promises
holds.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest
from support import BOUND, HOST, MS, ms, wait_for
from support.rest import KEY, mirror, rest_client, rest_server
from support.rest import short_waits as short_waits

from mormot_ws import HttpServerRequest, WebSocketServerRest
from mormot_ws.testing import FaultProxy

SECONDS = 2_000 * MS
THREADS = 4


class Traffic:
    """Threads that request from both ends; what they got, and what the server's application has
    executed.
    """

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()
        self.statuses: dict[str, int] = {}
        self.wrong: list[str] = []
        self.longest = 0.0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def application(self, ctxt: HttpServerRequest) -> int:
        # no two threads count the same URL, unless it is executed twice
        self.executed[ctxt.url] += 1
        return mirror(ctxt)

    def start(self, ask: object, name: str) -> None:
        """Let a thread call ``ask(url, body) -> (status, content)`` all the time."""
        thread = threading.Thread(target=self._run, args=(ask, name), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, ask: object, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            url = f"/{name}/{number}"
            body = (url * (1 + number % 50)).encode()
            begun = time.monotonic()
            status, content = ask(url, body)  # type: ignore[operator]
            self.longest = max(self.longest, time.monotonic() - begun)
            self.statuses[url] = status
            if content != (body if status == 200 else b""):
                self.wrong.append(url)
            if status != 200:
                self._stop.wait(10 * MS)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(BOUND)
        assert not any(thread.is_alive() for thread in self._threads)


def disturb(proxy: FaultProxy, rounds: random.Random) -> None:
    """Cut, delay and stall the link for some seconds, then leave it in peace."""
    pause = threading.Event()
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        pause.wait(rounds.uniform(20, 150) * MS)
        fault = rounds.choice(["cut", "delay", "blackhole", "heal"])
        if fault == "cut":
            proxy.cut()
        elif fault == "delay":
            proxy.delay(rounds.choice([5, 250]))
        elif fault == "blackhole":
            proxy.blackhole()
        else:
            proxy.heal()
    proxy.cut()
    proxy.heal()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "key"), [("synopsejson", ""), ("synopsebinary", KEY), ("synopsebin", KEY)]
)
def test_statuses_are_true(
    kind: str, key: str, short_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 was executed once and has its own answer, 666 was not executed, 404 at most once;
    nothing hangs.
    """
    monkeypatch.setattr("mormot_ws.rest.exchange.LATE_ANSWER_TIMEOUT_MS", ms(500))
    traffic = Traffic()
    with (
        rest_server(traffic.application, key, callback_answer_timeout_ms=ms(200)) as server,
        FaultProxy(HOST, server.port) as proxy,
        rest_client(
            proxy.port,
            kind,
            key,
            application=mirror,
            timeout=200,
            callback_answer_timeout_ms=ms(200),
        ) as client,
    ):
        client.auto_reconnect()

        def request(url: str, body: bytes) -> tuple[int, bytes]:
            return client.request(
                url, "POST", data=body, data_type="text/plain"
            ), client.answer.content

        for number in range(THREADS):
            traffic.start(request, f"client {number}")
        traffic.start(lambda url, body: call_back(server, url, body), "server")
        try:
            disturb(proxy, random.Random(f"{kind} {key}"))
            wait_for(lambda: client.request("/last", "GET") == 200)
        finally:
            traffic.stop()
        assert client.status().reconnects >= 1
    assert not traffic.wrong
    assert traffic.longest < 2_000 * MS
    assert set(traffic.statuses.values()) <= {200, 404, 666}
    for url, status in traffic.statuses.items():
        if url.startswith("/client"):
            allowed = {200: {1}, 404: {0, 1}, 666: {0}}[status]
            assert traffic.executed[url] in allowed, (url, status)


def call_back(server: WebSocketServerRest, url: str, body: bytes) -> tuple[int, bytes]:
    """Ask the newest client."""
    newest = max(server._processes, default=0)
    ctxt = HttpServerRequest(url, "POST", "", body, "text/plain", newest)
    status = server.callback(ctxt, False)
    assert isinstance(ctxt.out_content, bytes)
    return status, ctxt.out_content
