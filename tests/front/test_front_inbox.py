"""The inbox of a connection: bounded, with a policy when nobody reads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import BOUND, HOST, RawServer, echo_server, in_threads, polite, text, wait_for
from support.raw_peer import RawServerPeer
from support.signal_places import each_signal, signals_anywhere

from mormot_ws import GaveUp, connect, focConnectionClose, focText, parse_close_payload
from mormot_ws.front import connection
from mormot_ws.front import inbox as inbox_module
from mormot_ws.front.inbox import Inbox
from mormot_ws.testing import EchoServer


def numbers(count: int) -> Callable[[RawServerPeer], None]:
    """Behaviour: upgrade, send *count* messages, and go on politely."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        for number in range(count):
            peer.send_frame(focText, str(number))
        peer.sock.settimeout(None)
        while (frame := peer.receive_frame()).opcode is not focConnectionClose:
            pass
        peer.send_frame(frame.opcode, frame.payload)

    return behaviour


def test_a_slow_reader_loses_nothing() -> None:
    """``'wait'``: when the inbox is full no more is read, the server has to wait, and every message
    comes in order; heartbeats are answered all the same.
    """
    big = "x" * 10_000
    with (
        echo_server(send_timeout=int(BOUND * 1000)) as server,
        connect(f"ws://{HOST}:{server.port}/", protocol="echo", inbox=4) as ws,
    ):
        assert ws.wait_connected(BOUND)
        process = wait_for(lambda: server.is_active_websocket(1))
        sent = threading.Event()

        def send() -> None:
            for number in range(2_000):
                assert process.send_frame(text(f"{number} {big}"))
            sent.set()

        thread = threading.Thread(target=send)
        thread.start()
        assert not sent.wait(0.2)  # it has to wait for the reader
        for number in range(2_000):
            message = ws.recv(BOUND)
            assert isinstance(message, str)
            assert message.split()[0] == str(number)
        thread.join(BOUND)
        assert sent.is_set()
        assert ws.dropped == 0
        assert ws.status.reconnects == 0


def test_drop_oldest() -> None:
    """The newest messages stay, and the others are counted."""
    with (
        RawServer(numbers(100)) as server,
        connect(f"ws://{HOST}:{server.port}/", inbox=10, overflow="drop_oldest") as ws,
    ):
        wait_for(lambda: ws.dropped == 90)
        assert [ws.recv(BOUND) for _ in range(10)] == [str(n) for n in range(90, 100)]
        with pytest.raises(TimeoutError):
            ws.recv(0)


def test_close() -> None:
    """The connection is closed with 1008 and does not come back; what was kept can be read, then
    there is an exception that says why.
    """
    codes: list[int] = []

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        for number in range(11):
            peer.send_frame(focText, str(number))
        frame = peer.receive_opcode(focConnectionClose)
        codes.append(parse_close_payload(frame.payload)[0])
        peer.send_frame(frame.opcode, frame.payload)

    errors: list[Exception] = []
    with RawServer(behaviour) as server:
        with connect(
            f"ws://{HOST}:{server.port}/",
            inbox=10,
            overflow="close",
            on_error=lambda ws, error: errors.append(error),
        ) as ws:
            wait_for(lambda: codes == [1008])
            got: list[Any] = []
            with pytest.raises(GaveUp, match="inbox is full"):
                got.extend(ws)
            assert got == [str(number) for number in range(10)]
            wait_for(lambda: len(errors) == 1)
        assert server.accepted == 1


def test_close_while_it_waits_for_room() -> None:
    """A connection whose thread waits for a reader ends at once."""
    with RawServer(numbers(100)) as server:
        ws = connect(f"ws://{HOST}:{server.port}/", inbox=10)
        wait_for(lambda: ws.status.connection and ws.status.connection.frames_in == 11)
        started = time.monotonic()
        ws.close()
        assert time.monotonic() - started < BOUND / 4
        assert not ws.client.websockets.client_thread.is_alive()  # type: ignore[union-attr]
        assert list(ws) == []


def test_a_loss_while_it_waits_for_room_keeps_the_order() -> None:
    """What was read of the lost connection comes before what the next one brings."""

    def burst(peer: RawServerPeer) -> None:
        peer.accept()
        for number in range(20):
            peer.send_frame(focText, f"{server.accepted} {number}")
        if server.accepted > 1:
            peer.sock.settimeout(None)
            peer.receive_opcode(focConnectionClose)

    with RawServer(burst) as server, connect(f"ws://{HOST}:{server.port}/", inbox=3) as ws:
        got = [str(ws.recv(BOUND)) for _ in range(40)]
    assert got == [f"{connection} {number}" for connection in (1, 2) for number in range(20)]


def test_recv_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its seconds, not before; 0 only looks. Also where waits are cut into slices."""
    monkeypatch.setattr("mormot_ws.front.inbox.LONGEST_WAIT", 0.01)
    with RawServer(polite) as server, connect(f"ws://{HOST}:{server.port}/") as ws:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
            ws.recv(0.1)
        assert time.monotonic() - started >= 0.1
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)


def test_several_readers_share_the_messages() -> None:
    """Each message goes to one of them, and all of them end."""
    got: list[Any] = []
    with EchoServer() as server, connect(server.uri) as ws:
        readers = [threading.Thread(target=lambda: [got.append(m) for m in ws]) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(300):
            assert ws.send(str(number))
        # not: until the server has them; their echoes may be on the way still
        wait_for(lambda: len(got) == 300)
        ws.close()
        for reader in readers:
            reader.join(BOUND)
        assert not any(reader.is_alive() for reader in readers)
    assert sorted(got, key=int) == [str(number) for number in range(300)]


def test_the_inbox_alone() -> None:
    """Room, order, the end, and what is dropped, without a connection."""
    inbox = Inbox(2, "wait")
    assert inbox.offer("a")
    assert inbox.offer("b")
    assert not inbox.offer("c")
    threading.Timer(0.05, inbox.take).start()
    inbox.wait_for_room()
    assert inbox.offer("c")
    inbox.end()
    inbox.wait_for_room()
    assert [inbox.get(1), inbox.get(1), inbox.get(None), inbox.get(0)] == ["b", "c", None, None]
    assert inbox.take() is None


class Raised(BaseException):
    """What the signal handlers of these tests raise."""


def interrupt() -> None:
    raise Raised


@signals_anywhere
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("timeout", [BOUND, None])
def test_a_reader_that_was_interrupted_anywhere_loses_no_message(
    wait: bool, timeout: float | None
) -> None:
    """The next one gets all of them, in order, and the end."""
    for place in each_signal(inbox_module):
        inbox = Inbox(9, "wait")
        got: list[Any] = []
        for number in range(3):
            inbox.offer(str(number))
        inbox.end()
        with contextlib.suppress(Raised), place.interrupted_by(interrupt):
            for _ in range(4):
                got.append(inbox.get(timeout) if wait else inbox.take())
        while None not in got:
            got.append(inbox.get(BOUND))
        assert got == ["0", "1", "2", None], place.number
        assert inbox.get(BOUND) is None
    assert place.number > 6


@signals_anywhere
def test_a_recv_that_was_interrupted_anywhere_loses_no_message() -> None:
    """Neither does a loop, which can be continued."""
    with EchoServer() as server, connect(server.uri) as ws:
        for place in each_signal(inbox_module, connection):
            for number in range(3):
                assert ws.send(str(number))
            got: list[Any] = []
            try:
                with place.interrupted_by(interrupt):
                    for message in ws:
                        got.append(message)
                        if len(got) == 2:
                            break
            except Raised:
                pass
            while len(got) < 3:
                got.append(ws.recv(BOUND))
            assert got == ["0", "1", "2"], place.number
    assert place.number > 3


@signals_anywhere
def test_a_wait_that_was_interrupted_anywhere_keeps_no_lock() -> None:
    """The connection's own thread, and others, go on."""
    with EchoServer() as server, connect(server.uri) as ws:
        assert ws.wait_connected(BOUND)
        for place in each_signal(connection, threading):
            with contextlib.suppress(Raised), place.interrupted_by(interrupt):
                ws.wait_connected(BOUND)
            # takes the lock, too
            assert in_threads(1, lambda number: ws.wait_connected(BOUND)) == [True], place.number
    assert place.number > 1
