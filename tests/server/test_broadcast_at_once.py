"""A broadcast outside of the main thread is written at once; what does not fit is left to the
keeper.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import RawClient, echo_server, ms, text, upgraded, wait_for
from support.tls import Authority, authority, tls_server, tls_upgraded

from mormot_ws import WebSocketFrame, WebSocketServer, focBinary, focText
from mormot_ws.process.keeper import ProcessKeeper

__all__ = ["authority"]


def elsewhere(function: Callable[[], Any]) -> Any:
    """Return what *function* returns in another thread than the main one."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@contextlib.contextmanager
def running(size: int = 0, **settings: Any) -> Iterator[tuple[WebSocketServer, RawClient]]:
    """Give a server and a client of it, both ready."""
    with echo_server(**settings) as server, upgraded(server.port, size) as client:
        wait_for(server.connections)
        wait_for(lambda: server.connections()[0].sender._queue_open)
        yield server, client


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whom the keeper is asked to flush."""
    found: list[object] = []
    wake = ProcessKeeper.wake

    def noted(self: ProcessKeeper, process: Any) -> None:
        found.append(process)
        wake(self, process)

    monkeypatch.setattr(ProcessKeeper, "wake", noted)
    return found


def test_it_does_not_take_the_keeper(woken: list[object]) -> None:
    """So a broadcast costs half as much."""
    with running() as (server, client):
        assert elsewhere(lambda: server.websocket_broadcast(text("now"))) == 1
        assert not woken
        assert client.receive_opcode(focText).text == "now"
        (connection,) = server.connections()
        status = connection.status()
        assert (status.frames_out, status.bytes_out) == (1, 3)


def test_in_the_main_thread_the_keeper_writes(woken: list[object]) -> None:
    """A signal handler may interrupt that thread anywhere."""
    with running() as (server, client):
        assert server.websocket_broadcast(text("later")) == 1
        assert woken
        assert client.receive_opcode(focText).text == "later"


def test_broadcasts_in_a_row_are_gathered(woken: list[object]) -> None:
    """Those within ``send_delay`` of the first go out together, in order."""
    with running(send_delay=ms(1_000)) as (server, client):

        def burst() -> None:
            for number in range(20):
                assert server.websocket_broadcast(text(str(number))) == 1

        elsewhere(burst)
        assert len(woken) <= 1
        assert server.connections()[0].outgoing
        assert [client.receive_opcode(focText).text for _ in range(20)] == [*map(str, range(20))]


def test_a_receiver_that_does_not_read_gets_all_in_the_end(woken: list[object]) -> None:
    """What the kernel does not take waits in the queue, in order, and nobody waits for it."""
    with running(4096, send_delay=0) as (server, client):

        def burst() -> None:
            for number in range(6):
                assert server.websocket_broadcast(WebSocketFrame(focBinary, bytes([number]) * size))

        size = 2 << 20
        elsewhere(burst)
        assert woken
        for number in range(6):
            assert client.receive_opcode(focBinary).payload == bytes([number]) * size
        wait_for(lambda: server.connections()[0].status().frames_out == 6)


def test_it_comes_behind_what_is_queued() -> None:
    """A frame that was queued before is sent before."""
    with running(send_delay=100) as (server, client):
        (connection,) = server.connections()
        for number in range(10):
            connection.send_frame_async(text(f"queued {number}"))
            elsewhere(lambda number=number: server.websocket_broadcast(text(f"all {number}")))
        wanted = [f"{what} {number}" for number in range(10) for what in ("queued", "all")]
        assert [client.receive_opcode(focText).text for _ in wanted] == wanted


def test_a_broken_connection_does_not_disturb_the_others() -> None:
    """Its failure is logged, and no exception comes of it."""
    with running(send_delay=0) as (server, client), upgraded(server.port) as other:
        wait_for(lambda: len(server.connections()) == 2)
        wait_for(lambda: all(each.sender._queue_open for each in server.connections()))
        # a reset, not an end
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

        def several() -> None:
            for number in range(3):
                assert server.websocket_broadcast(text(str(number))) >= 1

        elsewhere(several)
        assert [other.receive_opcode(focText).text for _ in range(3)] == ["0", "1", "2"]
        wait_for(lambda: len(server.connections()) == 1)


def test_over_tls_all_arrive_in_order(authority: Authority) -> None:
    """Small and large ones in turn: records that are half written are finished first."""
    wanted = [bytes([number]) * (1 if number % 2 else 300_000) for number in range(10)]
    with (
        tls_server(authority.server_context(), lambda *_: None, send_delay=0) as server,
        tls_upgraded(server.port, authority.client_context(), 4096) as client,
    ):
        wait_for(server.connections)

        def several() -> None:
            for payload in wanted:
                assert server.websocket_broadcast(WebSocketFrame(focBinary, payload)) == 1

        elsewhere(several)
        assert [client.receive_opcode(focBinary).payload for _ in wanted] == wanted
