"""What callbacks raise, what they see at the end of a connection, and ``free()`` interrupted."""

from __future__ import annotations

import _thread
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    BOUND,
    MS,
    RawClient,
    Recorder,
    active,
    any_alive,
    connect,
    echo,
    echo_server,
    exchange,
    upgraded,
    wait_for,
)

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focBinary,
    focConnectionClose,
    focText,
)


@pytest.mark.parametrize(
    "event", ["on_websocket_connect", "on_websocket_disconnect", "on_websocket_close"]
)
def test_sys_exit_in_a_server_event_is_an_exception_like_others(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    """It is logged at ERROR, the connection goes on, and the later events come."""
    ended = threading.Event()
    server.on_websocket_close = lambda protocol: ended.set()

    def leave(argument: Any) -> None:
        ended.set()
        sys.exit("bye")

    setattr(server, event, leave)
    with upgraded(server.port) as client:
        assert exchange(client, ["x"]) == ["x"]
    assert ended.wait(BOUND)
    wait_for(lambda: not server._sockets)
    [record] = [record for record in caplog.records if "server callback failed" in record.message]
    assert record.levelno == logging.ERROR
    assert "SystemExit: bye" in caplog.text


def test_the_callbacks_for_the_end_count_those_that_are_left(recorder: Recorder) -> None:
    """And a broadcast in them goes to these."""
    servers: list[WebSocketServer] = []

    def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focConnectionClose:
            server = servers[0]
            recorder.add("counted", server.websocket_connections)
            recorder.add("sent", server.websocket_broadcast(WebSocketFrame(focText, "left")))

    with WebSocketServer("127.0.0.1:0") as server:
        servers.append(server)
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", on_incoming_frame))
        for name in ("on_websocket_disconnect", "on_websocket_close"):
            setattr(
                server, name, lambda _, name=name: recorder.add(name, server.websocket_connections)
            )
        with connect(server.port), connect(server.port):
            with connect(server.port):
                wait_for(lambda: server.websocket_connections == 3)
            recorder.wait("on_websocket_close")
            seen = [(event.name, event.value) for event in recorder.events]
            assert seen == [
                ("counted", 2),
                ("sent", 2),
                ("on_websocket_disconnect", 2),
                ("on_websocket_close", 2),
            ]
            assert server.status().connections == 2


def test_a_connection_that_was_cut_is_not_found_any_more() -> None:
    """Not even inside the callback that has cut it, which its loop has to leave first."""
    found: list[Any] = []
    servers: list[WebSocketServer] = []

    def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            process.abort("who are you?")
            found.append(servers[0].is_active_websocket(process.connection_id))
            found.append(True)

    with WebSocketServer("127.0.0.1:0") as server:
        servers.append(server)
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", on_incoming_frame))
        with upgraded(server.port) as client:
            assert active(server, client.connection_id)
            client.send_frame(focText, "x")
            assert client.read_to_end() == b""
        wait_for(lambda: len(found) == 2)
    assert found == [None, True]


# ---------------------------------------------------------------------------------------- broadcast


class Lenient(WebSocketProtocolChat):
    """A protocol whose text need not be UTF-8."""

    lenient_text = True


def test_a_broadcast_of_bad_text_is_a_value_error(server: WebSocketServer) -> None:
    """As with ``send_frame``; nobody's connection is lost by it."""
    bad = WebSocketFrame(focText, b"caf\xe9")
    with pytest.raises(ValueError, match="UTF-8"):
        server.websocket_broadcast(bad)
    with upgraded(server.port) as client:
        active(server, client.connection_id)
        with pytest.raises(ValueError, match="UTF-8"):
            server.websocket_broadcast(bad)
        with pytest.raises(TypeError, match="str"):
            server.websocket_broadcast("text")  # type: ignore[arg-type]
        assert server.websocket_broadcast(WebSocketFrame(focText, "café")) == 1
        assert server.websocket_broadcast(WebSocketFrame(focBinary, b"caf\xe9")) == 1
        assert client.receive_frame().text == "café"
        assert client.receive_frame().payload == b"caf\xe9"


def test_a_lenient_protocol_may_broadcast_bad_text() -> None:
    """Where all receivers take it."""
    bad = WebSocketFrame(focText, b"caf\xe9")
    with echo_server() as server:
        server.websocket_protocols.add(Lenient("lenient"))
        with RawClient(server.port) as one:
            one.upgrade("", "lenient")
            wait_for(lambda: server.websocket_connections == 1)
            assert server.websocket_broadcast(bad) == 1
            with upgraded(server.port):
                wait_for(lambda: server.websocket_connections == 2)
                with pytest.raises(ValueError, match="UTF-8"):
                    server.websocket_broadcast(bad)
                assert server.websocket_broadcast(bad, [1]) == 1


def test_an_iterator_of_receivers_runs_under_no_lock(server: WebSocketServer) -> None:
    """It may ask the server, or wait for a lock of the application that others hold meanwhile."""

    def numbers() -> Iterator[int]:
        assert not server._safe_connections.locked()
        thread = threading.Thread(target=server.status)
        thread.start()
        thread.join(BOUND)
        assert not thread.is_alive()
        yield from (1, 99)

    with upgraded(server.port) as client:
        active(server, client.connection_id)
        assert server.websocket_broadcast(WebSocketFrame(focText, "x"), numbers()) == 1


# --------------------------------------------------------------------------------------------- free


def test_a_free_that_was_interrupted_is_finished_by_the_next(server: WebSocketServer) -> None:
    """Ctrl-C ends the waiting; another ``free()`` does the rest."""
    join = server._join

    def interrupted(connections: Any) -> None:
        server._join = join  # type: ignore[method-assign]
        raise KeyboardInterrupt

    server._join = interrupted  # type: ignore[method-assign]
    with upgraded(server.port) as client:
        with pytest.raises(KeyboardInterrupt):
            server.free()
        freeing = threading.Thread(target=server.free)
        freeing.start()
        close = client.receive_opcode(focConnectionClose)
        client.send_frame(focConnectionClose, close.payload)
        freeing.join(BOUND)
        assert not freeing.is_alive()
    assert not server._sockets
    assert not any_alive(server)


@pytest.mark.threaded
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_free_that_a_real_signal_interrupts_is_finished_by_the_next(
    server: WebSocketServer,
) -> None:
    """While it joins a connection's thread, which Python up to 3.12 takes for ended afterwards."""

    class Interruption(BaseException):
        pass

    def handler(*_: Any) -> None:
        raise Interruption

    with upgraded(server.port):
        wait_for(lambda: server.websocket_connections == 1)
        thread = next(iter(server._sockets)).thread
        assert thread is not None
        join, main = thread.join, threading.main_thread().ident
        assert main is not None

        def joining(timeout: float | None = None) -> None:
            thread.join = join  # type: ignore[method-assign]
            threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1)).start()
            join(timeout)

        thread.join = joining  # type: ignore[method-assign]
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with pytest.raises(Interruption):
                server.free()
        finally:
            signal.signal(signal.SIGUSR1, before)
        server.free()
        assert thread not in threading.enumerate()
        assert not server._sockets


def during(server: WebSocketServer, name: str, do: Callable[[], object]) -> None:
    """Let *do* run in the middle of the method *name* of *server*, once."""
    method = getattr(server, name)

    def both(*args: Any) -> Any:
        setattr(server, name, method)
        do()
        return method(*args)

    setattr(server, name, both)


@pytest.mark.parametrize("where", ["_say_goodbye", "_join", "_stop_accepting"])
def test_free_in_a_signal_handler_interrupts_a_free(server: WebSocketServer, where: str) -> None:
    """The handler's does the work, the other one finds it done."""
    during(server, where, server.free)
    with connect(server.port):
        wait_for(lambda: server.websocket_connections == 1)
        server.free()
        assert not server._sockets


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_free_works_in_a_signal_handler_whatever_it_interrupts() -> None:
    """The main thread asks for the status without a pause; SIGTERM frees."""
    for _ in range(5):
        server = WebSocketServer("127.0.0.1:0")
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        freed: list[bool] = []

        def handler(*_: Any, server: WebSocketServer = server, freed: Any = freed) -> None:
            server.free()
            freed.append(not server._sockets)

        previous = signal.signal(signal.SIGTERM, handler)
        try:
            with connect(server.port), connect(server.port):
                wait_for(lambda server=server: server.websocket_connections == 2)
                timer = threading.Timer(20 * MS, _thread.interrupt_main, (signal.SIGTERM,))
                timer.start()
                give_up = time.monotonic() + BOUND
                while not freed and time.monotonic() < give_up:
                    server.status()
                    server.is_active_websocket(1)
                timer.join(BOUND)
        finally:
            signal.signal(signal.SIGTERM, previous)
            server.free()
        assert freed == [True]
