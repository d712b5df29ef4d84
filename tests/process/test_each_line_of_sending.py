"""Signal handlers and finalisers in the middle of sending: at each line, or behind each call, of
the modules that send.
"""

from __future__ import annotations

import operator
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from support import BOUND, connect, echo_server, process_of, text, wait_for
from support.lines import Line, each_call, each_line
from support.pairs import pair, wait_flushed
from support.waiting import MS, ms

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    focText,
    wpsDestroy,
    wpsRun,
)
from mormot_ws.core import outgoing, taking
from mormot_ws.process import batch, closer, encoder, keeper, on_socket, queue_writer, sender
from mormot_ws.process.on_socket import WebCrtSocketProcess
from mormot_ws.sockets import transport
from mormot_ws.sockets.transport import Transport

#: what a call that waits for its own thread takes; longer than any of the tests
SEND_TIMEOUT = ms(60_000)
MODULES = (
    batch,
    closer,
    encoder,
    keeper,
    on_socket,
    outgoing,
    queue_writer,
    sender,
    taking,
    transport,
)
SETTINGS: dict[str, Any] = {"send_timeout": SEND_TIMEOUT, "heartbeat_delay": 0, "send_delay": 1}

Act = Callable[[WebSocketProcess, str], bool]


class Boom(BaseException):
    """What a signal handler raises."""


def send(process: WebSocketProcess, payload: str) -> bool:
    return process.send_frame(text(payload))


def queue(process: WebSocketProcess, payload: str) -> bool:
    return process.send_frame_async(text(payload))


def flush(process: WebSocketProcess, payload: str) -> bool:
    """What a publication does, without the keeper, which would be faster at times."""
    pushed = process.outgoing.push(text(payload))
    process.sender.flush_at_once()
    return pushed


def close_and_send(process: WebSocketProcess, payload: str) -> bool:
    process.start_shutdown(1000, "")
    return process.send_frame(text(payload))


def in_main(action: Callable[[], Any]) -> None:
    action()


def elsewhere(action: Callable[[], Any]) -> None:
    """Run *action* in a thread where no signal handlers run."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive(), "it waits for its own thread"


def boom() -> None:
    raise Boom


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Give a client and a server that are connected."""
    ends = Ends()
    try:
        yield ends
    finally:
        ends.free()


class Ends:
    """A server, a client whose process sends, and what the server has received."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self._server = echo_server(callback=self._got, **SETTINGS)
        self._client = connect(self._server.port, **SETTINGS)
        self.process: WebSocketProcess = process_of(self._client)

    def _got(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            self.received.append(frame.payload.decode())

    def next_round(self) -> None:
        """Wait for the end of a connection that was given up, and connect again."""
        if self.process.state is not wpsRun or self.process.closer.given_up:
            wait_for(lambda: self.process.state is wpsDestroy)
            self._client.free()
            wait_for(lambda: not self._server.websocket_connections)
            self._client = connect(self._server.port, **SETTINGS)
            self.process = process_of(self._client)
        self.received.clear()

    def free(self) -> None:
        self._client.free()
        self._server.free()


@pytest.mark.parametrize("run", [in_main, elsewhere])
@pytest.mark.parametrize("inner", [send, queue, close_and_send])
@pytest.mark.parametrize("outer", [send, queue, flush])
def test_sending_at_each_line_of_sending(
    ends: Ends, outer: Act, inner: Act, run: Callable[[Callable[[], Any]], None]
) -> None:
    """Each message arrives once, unless it is refused, or the connection is closed."""
    sent: list[str] = []

    def act(how: Act, payload: str) -> None:
        if how(ends.process, payload):
            sent.append(payload)

    def interrupted(line: Line) -> None:
        with line.interrupted_by(lambda: act(inner, "inner")):
            act(outer, "outer")

    for line in each_line(*MODULES):
        run(partial(interrupted, line))
        if ends.process.state is wpsRun:
            wait_for(lambda: len(ends.received) >= len(sent), what=f"line {line.number}")
            assert sorted(ends.received) == sorted(sent), line.number
        ends.next_round()
        sent.clear()


@pytest.mark.parametrize("act", [send, queue, flush])
def test_a_signal_handler_raises_behind_each_call_of_sending(ends: Ends, act: Act) -> None:
    """The connection is given up, or goes on with what is sent later; nothing comes twice."""
    for call in each_call(*MODULES):
        process, received = ends.process, ends.received
        with suppress(Boom), call.interrupted_by(boom):
            act(process, "interrupted")
        assert threading.get_ident() not in process.sender.holders
        if not process.closer.given_up:
            for later in (queue, send):
                assert later(process, later.__name__)
                wait_for(
                    partial(operator.contains, received, later.__name__), what=f"call {call.number}"
                )
        assert len(set(received)) == len(received), call.number
        ends.next_round()


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_signal_handler_raises_behind_each_call_of_closing(role: str) -> None:
    """A peer that does not answer is cut in time."""
    for call in each_call(*MODULES):
        with pair(role, close_timeout=ms(200), heartbeat_delay=0) as (process, _, _):
            # the upgrade has ended for this side, too
            wait_for(partial(runs, process))
            wait_flushed(process)
            with suppress(Boom), call.interrupted_by(boom):
                process.start_shutdown(1000, "")
            wait_flushed(process)
            if process.state is not wpsRun:
                wait_for(partial(ended, process), what=f"call {call.number}")


def runs(process: WebSocketProcess) -> bool:
    return process.state is wpsRun


def ended(process: WebSocketProcess) -> bool:
    return process.state is wpsDestroy


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGALRM")
def test_a_loop_in_the_main_thread_sends_what_a_signal_handler_queues_while_it_waits() -> None:
    """It does not go on before the peer sends something."""
    own, other = socket.socketpair()
    keeper_of_it = keeper.ProcessKeeper("a keeper")
    process = WebCrtSocketProcess(
        WebSocketProtocolChat("echo"),
        WebSocketProcessSettings(heartbeat_delay=0, send_delay=1),
        keeper_of_it,
        mask_sent_frames=False,
    )
    process.attach(Transport(own))
    received: list[bytes] = []

    def peer() -> None:
        wait_for(partial(runs, process))
        signal.setitimer(signal.ITIMER_REAL, 10 * MS)
        with suppress(TimeoutError):
            received.append(other.recv(100))
        other.close()

    other.settimeout(BOUND)
    before = signal.signal(signal.SIGALRM, lambda *_: queue(process, "queued"))
    thread = threading.Thread(target=peer)
    thread.start()
    try:
        process.process_loop()
    finally:
        thread.join()
        signal.signal(signal.SIGALRM, before)
        keeper_of_it.stop()
    assert received == [b"\x81\x06queued"]
