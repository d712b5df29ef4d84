"""A request that is interrupted at any line, as a signal handler or a finaliser may do: by another
request, by the end of the connection, or by an exception.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.lines import Line, each_call, each_line
from support.rest import KINDS, RestPair, mirror, pair
from support.waiting import BOUND, ms

from mormot_ws import (
    HttpServerRequest,
    WebSocketsError,
    wscBlockWithoutAnswer,
    wscNonBlockWithoutAnswer,
)
from mormot_ws.process.process import WebSocketProcess
from mormot_ws.rest import exchange, protocols, turns

# the interrupting calls run under the locks of the interrupted ones
pytestmark = pytest.mark.signals

kinds = pytest.mark.parametrize("kind", KINDS)

MODULES = (exchange, turns, protocols)


class Boom(BaseException):
    """What a signal handler raises."""


class Gate:
    """An application that answers a request for ``/slow`` only when it is open."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, ctxt: HttpServerRequest) -> int:
        if ctxt.url == "/slow":
            self.entered.set()
            self.opened.wait(BOUND)
        return mirror(ctxt)


def asked(process: WebSocketProcess, url: str) -> int:
    """Send a request and return its status; fail if the answer is that to another request."""
    ctxt = HttpServerRequest(url, "GET")
    status = process.notify_callback(ctxt)
    if status == 200:
        assert isinstance(ctxt.out_content, bytes)
        assert f'"{url}"'.encode() in ctxt.out_content
    return status


@contextlib.contextmanager
def prompt() -> Iterator[None]:
    """Fail if the block waits for a time-out."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND / 10


def nothing_left(process: WebSocketProcess) -> bool:
    """Whether no request waits, and the turn is free."""
    found: Any = process.exchange
    return found.waiting == 0 and not found._turns.queue and not found._asking


@kinds
@pytest.mark.parametrize("mode", [wscBlockWithoutAnswer, wscNonBlockWithoutAnswer])
def test_a_request_without_an_answer_works_at_each_line_of_one_that_waits(
    kind: str, mode: Any
) -> None:
    with pair(kind) as ends:
        for line in each_line(*MODULES):
            statuses: list[int] = []

            def send(statuses: list[int] = statuses) -> None:
                statuses.append(ends.process.notify_callback(HttpServerRequest("/x"), mode))

            with prompt(), line.interrupted_by(send):
                assert asked(ends.process, f"/{line.number}") == 200
            assert statuses == [200] * line.reached, line.number
            assert nothing_left(ends.process), line.number
    assert line.number > 50


@kinds
def test_a_request_at_each_line_of_another_works_or_raises_at_once(kind: str) -> None:
    """It raises if it would wait for the thread that it interrupts."""
    with pair(kind) as ends:
        outcomes: set[str] = set()
        for line in each_line(*MODULES):

            def ask() -> None:
                try:
                    with prompt():
                        assert asked(ends.process, "/inner") == 200
                    outcomes.add("worked")
                except WebSocketsError:
                    outcomes.add("raised")

            with line.interrupted_by(ask):
                assert asked(ends.process, f"/{line.number}") == 200
            assert nothing_left(ends.process), line.number
        assert outcomes == {"worked", "raised"}


@kinds
@pytest.mark.parametrize(
    "end",
    [
        lambda ends: ends.process.abort("enough"),
        lambda ends: ends.process.shutdown(),
        lambda ends: ends.client.free_later(),
        lambda ends: ends.client.free(),
    ],
    ids=["abort", "shutdown", "free_later", "free"],
)
def test_a_connection_ends_promptly_at_each_line_of_a_request(
    kind: str, end: Callable[[RestPair], object]
) -> None:
    """No thread of it waits for the interrupted one."""
    for line in each_line(*MODULES):
        with pair(kind) as ends:
            with prompt(), line.interrupted_by(lambda ends=ends: end(ends)):  # type: ignore[misc]
                assert asked(ends.process, "/x") in (200, 404, 666)
            assert nothing_left(ends.process), line.number
    assert line.number > 50


def boom(*_: object) -> None:
    """A signal handler that raises."""
    raise Boom


def abort(ends: RestPair) -> None:
    """A signal handler or finaliser that ends the connection."""
    ends.process.abort("again")


@kinds
@pytest.mark.parametrize("action", [abort, boom])
def test_a_waiting_request_is_woken_whatever_interrupts_the_end_of_the_connection(
    kind: str, action: Callable[[RestPair], object]
) -> None:
    for place in each_call(*MODULES):
        gate = Gate()
        with pair(kind, gate) as ends:
            statuses: list[int] = []

            def ask(ends: RestPair = ends, statuses: list[int] = statuses) -> None:
                statuses.append(asked(ends.process, "/slow"))

            thread = threading.Thread(target=ask)
            thread.start()
            assert gate.entered.wait(BOUND)
            with prompt():
                with (
                    contextlib.suppress(Boom),
                    place.interrupted_by(lambda ends=ends: action(ends)),  # type: ignore[misc]
                ):
                    ends.process.start_shutdown(1000, "", ms(500))
                # now the other end can answer the close frame, too
                gate.opened.set()
                thread.join(BOUND)
            assert statuses in ([200], [404]), place.number
    assert place.number > 1


@kinds
def test_what_a_signal_handler_raises_in_a_request_comes_out(kind: str) -> None:
    """The next requests get their own answers."""
    with pair(kind) as ends:
        for place in each_call(*MODULES):
            with prompt():
                with contextlib.suppress(Boom), place.interrupted_by(boom):
                    asked(ends.process, "/interrupted")
                    assert not place.reached
                assert nothing_left(ends.process), place.number
                for number in range(2):
                    assert asked(ends.process, f"/{number}") == 200, place.number
    assert place.number > 20


@kinds
def test_what_a_signal_handler_raises_in_a_late_request_comes_out(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its late answer is nobody's."""
    gate, timeout = Gate(), [0]
    monkeypatch.setattr(exchange.RestExchange, "_timeout_ms", lambda self: timeout[0])
    with pair(kind, gate) as ends:
        for place in each_call(*MODULES):
            gate.opened.clear()
            timeout[0] = ms(5)
            with contextlib.suppress(Boom), place.interrupted_by(boom):
                asked(ends.process, "/slow")
                assert not place.reached
            assert nothing_left(ends.process), place.number
            gate.opened.set()
            timeout[0] = round(BOUND * 1000)
            with prompt():
                for number in range(2):
                    assert asked(ends.process, f"/{number}") == 200, place.number
    assert place.number > 20


class TestAnswersAtTheTimeOut:
    """Either the request gets its answer, or it is late; the next one gets its own."""

    @pytest.fixture
    def timeout(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The time-out of requests, in milliseconds."""
        timeout = [0]
        monkeypatch.setattr(exchange.RestExchange, "_timeout_ms", lambda self: timeout[0])
        return timeout

    @kinds
    def test_at_each_line_of_the_request(
        self, kind: str, timeout: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate, arrived = Gate(), threading.Event()
        handle = exchange.RestExchange.answer_arrived

        def answer_arrived(*args: Any) -> None:
            handle(*args)
            arrived.set()

        def answer() -> None:
            gate.opened.set()
            if gate.entered.is_set():
                assert arrived.wait(BOUND)

        monkeypatch.setattr(exchange.RestExchange, "answer_arrived", answer_arrived)
        statuses: set[int] = set()
        with pair(kind, gate) as ends:
            for line in each_line(*MODULES):
                for event in (gate.opened, gate.entered, arrived):
                    event.clear()
                timeout[0] = ms(5)
                with line.interrupted_by(answer):
                    statuses.add(asked(ends.process, "/slow"))
                gate.opened.set()
                assert nothing_left(ends.process), line.number
                timeout[0] = round(BOUND * 1000)
                with prompt():
                    assert asked(ends.process, f"/{line.number}") == 200, line.number
            assert statuses == {200, 404}
        assert line.number > 50

    @kinds
    def test_at_each_line_of_the_loop(
        self, kind: str, timeout: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gave_up = threading.Event()
        handle = exchange.RestExchange.answer_arrived
        current: list[Line] = []

        def answer_arrived(*args: Any) -> None:
            with current[0].interrupted_by(lambda: gave_up.wait(BOUND)):
                handle(*args)

        monkeypatch.setattr(exchange.RestExchange, "answer_arrived", answer_arrived)
        with pair(kind) as ends:
            for line in each_line(*MODULES):
                current[:] = [line]
                gave_up.clear()
                timeout[0] = ms(20)
                assert asked(ends.process, "/first") in (200, 404)
                gave_up.set()
                assert nothing_left(ends.process)
                timeout[0] = round(BOUND * 1000)
                with prompt():
                    assert asked(ends.process, f"/{line.number}") == 200
        assert line.number > 3
