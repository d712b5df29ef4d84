"""What a connection holds while nothing happens on it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import pytest
from support import RawClient, connect, echo_server, wait_for

from mormot_ws import HttpServerRequest, WebSocketFrame, WebSocketProcess, focBinary, focText

MB = 1 << 20


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("size", [3 * MB, 8 * MB], ids=["3 MB", "8 MB"])
def test_an_idle_connection_holds_nothing_of_its_last_message(size: int) -> None:
    """Neither end does, soon after the message."""
    answers: list[bool] = []

    def answer(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focBinary:
            process.send_frame(frame)

    def count(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focBinary:
            answers.append(True)

    with echo_server(callback=answer) as server, connect(server.port, callback=count) as client:
        process = client.websockets
        assert process is not None
        process.send_frame(WebSocketFrame(focText, "warm up"))
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        process.send_frame(WebSocketFrame(focBinary, bytes(size)))
        wait_for(lambda: answers)
        wait_for(lambda: tracemalloc.get_traced_memory()[0] < before + size // 2)


@pytest.mark.usefixtures("traced")
def test_an_idle_http_connection_holds_nothing_of_its_last_request() -> None:
    """The server forgets the body before it waits for the next request."""

    def on_request(context: HttpServerRequest) -> int:
        context.out_content = "read"
        return 200

    with echo_server() as server, RawClient(server.port) as client:
        server.on_request = on_request
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (4 * MB))
        client.send(bytes(4 * MB))
        assert client.read_answer()[1] == b"read"
        wait_for(lambda: tracemalloc.get_traced_memory()[0] < before + MB)
