"""``ws.call()``: the caller's side of docs/reference/calls.md, with a server made of the classes
underneath.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import BOUND, HOST, FixedDelay, echo_server, in_threads, ms, refused_port, wait_for

from mormot_ws import (
    CallError,
    ConnectionClosed,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketServer,
    connect,
    focText,
)
from mormot_ws.front.messages import CALL_NOT_FOUND, answer_frame, error_frame, read_call


def answering(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Answer calls of some methods; echo other messages."""
    if frame.opcode is not focText:
        return
    call = read_call(frame.text)
    if call is None or call.number is None:
        process.send_frame(frame)
    elif call.name == "add":
        numbers = call.arguments
        result = sum(numbers.values() if isinstance(numbers, dict) else numbers)
        process.send_frame(answer_frame(call.number, result))
    elif call.name == "twice":
        for _ in range(2):
            process.send_frame(answer_frame(call.number, "once"))
    elif call.name == "cut":
        process.abort("as it was asked to")
    elif call.name != "silent":
        text = f"there is no method {call.name!r}"
        process.send_frame(error_frame(call.number, CALL_NOT_FOUND, text))


@pytest.fixture
def server() -> Iterator[WebSocketServer]:
    """A server that answers calls."""
    with echo_server(callback=answering) as server:
        yield server


def uri_of(server: WebSocketServer) -> str:
    """Return its URI."""
    return f"ws://{HOST}:{server.port}/"


def test_results_and_errors(server: WebSocketServer) -> None:
    """By position and by name; an error is an exception with the text and code of the server."""
    with connect(uri_of(server), protocol="echo") as ws:
        assert ws.call("add", 1, 2) == 3
        assert ws.call("add", a=3, b=4) == 7
        assert ws.call("add") == 0
        with pytest.raises(CallError, match="no method 'ad'") as caught:
            ws.call("ad", 1)
        assert caught.value.code == CALL_NOT_FOUND


def test_calls_of_many_threads(server: WebSocketServer) -> None:
    """Each gets its own answer, beside messages that go to recv()."""
    with connect(uri_of(server), protocol="echo") as ws:
        assert ws.send("a message")

        def call(number: int) -> list[int]:
            return [ws.call("add", number, index, timeout=BOUND) for index in range(50)]

        results = in_threads(8, call)
        assert results == [[number + index for index in range(50)] for number in range(8)]
        assert ws.recv(BOUND) == "a message"


def test_answers_that_nobody_waits_for_are_messages(server: WebSocketServer) -> None:
    """A second answer, and one that comes too late, go where messages go."""
    with connect(uri_of(server), protocol="echo") as ws:
        assert ws.call("twice") == "once"
        assert '"once"' in str(ws.recv(BOUND))


def test_without_an_answer_it_times_out(server: WebSocketServer) -> None:
    """After its seconds, and later calls work."""
    with connect(uri_of(server), protocol="echo") as ws:
        assert ws.wait_connected(BOUND)
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"silent\(\) was not answered within 0\.1 s"):
            ws.call("silent", timeout=0.1)
        assert 0.1 <= time.monotonic() - started < BOUND / 4
        assert ws.call("add", 1) == 1
    with (
        refused_port() as port,
        connect(f"ws://{HOST}:{port}/") as ws,
        pytest.raises(TimeoutError, match="not sent within"),
    ):
        ws.call("add", timeout=0.05)


def test_a_lost_connection_ends_a_call(server: WebSocketServer) -> None:
    """At once, not at the end of its time; the next one works on the next connection."""
    with connect(uri_of(server), protocol="echo", policy=FixedDelay(ms(5))) as ws:
        assert ws.call("add", 1, timeout=BOUND) == 1
        with pytest.raises(ConnectionClosed, match=r"lost before cut\(\) was answered"):
            ws.call("cut", timeout=600)
        assert ws.call("add", 2, timeout=BOUND) == 2


def test_close_ends_a_call(server: WebSocketServer) -> None:
    """In another thread, with ``ConnectionClosed``."""
    errors: list[Exception] = []
    ws = connect(uri_of(server), protocol="echo")

    def call() -> None:
        try:
            ws.call("silent", timeout=600)
        except ConnectionClosed as exc:
            errors.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(lambda: ws.status.connection and ws.status.connection.frames_out)
    ws.close()
    thread.join(BOUND)
    assert "close()" in str(errors[0])


@pytest.mark.parametrize(
    ("name", "arguments", "named", "words"),
    [
        ("", [], {}, "name of a method"),
        (7, [], {}, "name of a method"),
        ("add", [1], {"b": 2}, "not both"),
        ("add", [object()], {}, ""),
    ],
)
def test_calls_that_can_never_work(
    server: WebSocketServer, name: Any, arguments: list[Any], named: dict[str, Any], words: str
) -> None:
    """They raise at once, and nothing is sent."""
    with connect(uri_of(server), protocol="echo") as ws:
        assert ws.wait_connected(BOUND)
        with pytest.raises((TypeError, ValueError)) as caught:
            ws.call(name, *arguments, **named)
        assert words in str(caught.value)
        assert ws.status.connection is not None
        assert ws.status.connection.frames_out == 0
