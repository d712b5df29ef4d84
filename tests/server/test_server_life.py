"""WebSocketServer on real sockets: what callbacks that raise do to a connection, and the end by
``free()`` or the interpreter's.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    BOUND,
    MS,
    RawClient,
    Recorder,
    accept_for,
    active,
    any_alive,
    connect,
    echo,
    echo_server,
    exchange,
    in_threads,
    ms,
    send_text,
    text,
    upgraded,
    wait_for,
)
from support.programs import Script

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focBinary,
    focConnectionClose,
    focPing,
    focPong,
    focText,
    parse_close_payload,
)

# ----------------------------------------------------------------------------- callbacks that raise


def _fail(*_: object) -> Any:
    raise RuntimeError("bug in a callback")


@pytest.mark.parametrize(
    "event", ["on_websocket_connect", "on_websocket_disconnect", "on_websocket_close"]
)
def test_a_server_event_that_raises_hurts_nobody(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    """The connection whose event failed works, the traceback is logged, and the next connection
    works too.
    """
    setattr(server, event, _fail)
    for _ in range(2):
        with upgraded(server.port) as client:
            assert exchange(client, ["x"]) == ["x"]
    wait_for(lambda: caplog.text.count("RuntimeError: bug in a callback") >= 2)


@pytest.mark.parametrize("at_fault", ["focContinuation", "focText", "focConnectionClose"])
def test_an_on_incoming_frame_that_raises_ends_nothing(
    at_fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in the chat callback is logged with its traceback; the connection goes on."""

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode.name == at_fault and frame.payload != b"echo me":
            raise RuntimeError("bug in a callback")
        echo(process, frame)

    with echo_server(callback=callback) as server:
        with upgraded(server.port) as client:
            client.send_frame(focText, "x")
            if at_fault != "focText":
                assert client.receive_opcode(focText).text == "x"
            assert exchange(client, ["echo me"]) == ["echo me"]
            client.send_frame(focConnectionClose, b"\x03\xe8")
            client.read_to_end()
        wait_for(lambda: "RuntimeError: bug in a callback" in caplog.text)
        with upgraded(server.port) as client:
            assert exchange(client, ["echo me"]) == ["echo me"]


def test_an_on_client_connected_that_raises_is_logged_and_changes_nothing(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """As in the original: the connection goes on."""
    with echo_server(callback=recorder.frame, on_client_connected=_fail) as server:
        with upgraded(server.port) as client:
            client.send_frame(focText, "x")
            recorder.wait("focText")
        recorder.wait("focConnectionClose")
        wait_for(lambda: server.websocket_connections == 0)
    assert recorder.names == ["focContinuation", "focText", "focConnectionClose"]
    assert "bug in a callback" in caplog.text


def test_an_on_client_disconnected_that_raises_ends_nothing_else(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's events still come after a failing ``on_client_disconnected``."""
    with echo_server(on_client_disconnected=_fail) as server:
        server.on_websocket_close = recorder.call("close")
        with upgraded(server.port):
            pass
        recorder.wait("close")
    assert "bug in a callback" in caplog.text


def test_an_on_websocket_upgraded_that_raises_refuses_the_upgrade(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is not upgraded, the traceback is logged, and the server goes on."""
    server.on_websocket_upgraded = _fail
    with RawClient(server.port) as client:
        client.send(client.request())
        assert not client.read_to_end().startswith(b"HTTP/1.1 101")
    wait_for(lambda: "bug in a callback" in caplog.text)
    server.on_websocket_upgraded = None
    with upgraded(server.port) as client:
        assert exchange(client, ["x"]) == ["x"]


def test_an_on_start_or_on_stop_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The threads do their work although their start and end callbacks fail."""
    with WebSocketServer("127.0.0.1:0", _fail, _fail) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        with upgraded(server.port) as client:
            assert exchange(client, ["x"]) == ["x"]
    assert caplog.text.count("RuntimeError: bug in a callback") == 4


@pytest.mark.threaded
def test_free_waits_for_on_stop_of_a_connection_that_has_ended() -> None:
    """Its thread is the last thing that is left of it."""
    entered, release = threading.Event(), threading.Event()
    freed: list[bool] = []

    def on_stop(thread: threading.Thread) -> None:
        if "accept" not in thread.name:
            entered.set()
            release.wait(BOUND)
            freed.append(freeing.is_alive())

    server = WebSocketServer("127.0.0.1:0", None, on_stop)
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
    freeing = threading.Thread(target=server.free)
    with upgraded(server.port):
        pass
    assert entered.wait(BOUND)
    wait_for(lambda: server.status().connections == 0)
    freeing.start()
    freeing.join(0.05)
    release.set()
    freeing.join(BOUND)
    assert freed == [True]
    assert not any_alive(server)


# ------------------------------------------------------------------------------------------ the end


def test_free_says_goodbye_with_1001_and_closes(recorder: Recorder) -> None:
    """Each client gets a close frame 1001 and the end of its connection; the callback sees the
    same.
    """
    with echo_server(callback=recorder.frame) as server, upgraded(server.port) as client:
        recorder.wait("focContinuation")
        freeing = threading.Thread(target=server.free)
        freeing.start()
        frame = client.receive_opcode(focConnectionClose)
        client.send_frame(focConnectionClose, frame.payload)
        assert client.read_to_end() == b""
        freeing.join(BOUND)
        assert parse_close_payload(frame.payload)[0] == 1001
        assert recorder.all("focConnectionClose")[0].value.payload == frame.payload
        assert server.websocket_connections == 0


def test_free_says_goodbye_to_busy_clients_too(server: WebSocketServer) -> None:
    """A connection on which frames are being sent at that very moment gets its close frame behind
    a whole frame.
    """
    with upgraded(server.port) as client:
        process = active(server, client.connection_id)

        def send_until_refused() -> None:
            while process.send_frame(text("busy")):
                pass

        sending = [threading.Thread(target=send_until_refused) for _ in range(3)]
        for thread in sending:
            thread.start()
        assert client.receive_opcode(focText).text == "busy"
        freeing = threading.Thread(target=server.free)
        freeing.start()
        while (frame := client.receive_frame()).opcode is focText:
            pass
        assert frame.opcode is focConnectionClose
        assert parse_close_payload(frame.payload)[0] == 1001
        client.send_frame(focConnectionClose, frame.payload)
        for thread in [*sending, freeing]:
            thread.join(BOUND)


def test_after_free_connections_are_refused(server: WebSocketServer) -> None:
    """Nobody listens any more when ``free()`` returns."""
    server.free()
    with pytest.raises(ConnectionRefusedError):
        RawClient(server.port)


def test_free_may_be_called_again(server: WebSocketServer) -> None:
    """A second ``free()`` returns at once and changes nothing."""
    server.free()
    before = server.status()
    started = time.monotonic()
    server.free()
    assert time.monotonic() - started < 100 * MS
    assert server.status() == before


def test_free_may_be_called_by_many_threads_at_once(
    server: WebSocketServer, recorder: Recorder
) -> None:
    """Each of eight concurrent calls returns, and only after the work is done."""
    server.on_websocket_close = recorder.call("close")
    with connect(server.port):
        wait_for(lambda: server.websocket_connections == 1)

        def free(number: int) -> None:
            server.free()
            recorder.add("freed")

        in_threads(8, free)
        assert recorder.names == ["close"] + ["freed"] * 8


def test_free_does_not_wait_for_a_client_that_does_not_answer() -> None:
    """A client that ignores the close frame costs ``close_timeout``, no more."""
    with echo_server(close_timeout=ms(100)) as server, upgraded(server.port) as client:
        active(server, client.connection_id)
        began = time.monotonic()
        server.free()
        assert time.monotonic() - began < 2000 * MS
        assert parse_close_payload(client.receive_opcode(focConnectionClose).payload)[0] == 1001


def test_free_does_not_wait_for_a_client_that_does_not_read() -> None:
    """A client whose queue and socket are full is cut, within the same bound."""
    with (
        echo_server(close_timeout=ms(100)) as server,
        upgraded(server.port, receive_buffer=4096) as stuck,
    ):
        active(server, stuck.connection_id)
        for _ in range(30):
            server.websocket_broadcast(WebSocketFrame(focBinary, bytes(256 << 10)))
        began = time.monotonic()
        server.free()
        assert time.monotonic() - began < 2000 * MS


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["new", "begun", "idle"]
)
def test_free_does_not_wait_for_plain_connections(server: WebSocketServer, sent: bytes) -> None:
    """A connection that has not upgraded is cut at once."""
    with RawClient(server.port) as client:
        client.send(sent)
        if sent.endswith(b"\n"):
            client.read_answer()
        began = time.monotonic()
        server.free()
        assert time.monotonic() - began < 2000 * MS
        client.read_to_end()


def test_free_waits_for_a_running_callback(recorder: Recorder) -> None:
    """``free()`` returns after the callback that was under way."""
    go_on = threading.Event()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            recorder.add("begin")
            go_on.wait(BOUND)
            recorder.add("end")

    def free() -> None:
        server.free()
        recorder.add("freed")

    with echo_server(callback=callback) as server, upgraded(server.port) as client:
        client.send_frame(focText, "x")
        recorder.wait("begin")
        freeing = threading.Thread(target=free)
        freeing.start()
        client.receive_opcode(focConnectionClose)
        go_on.set()
        freeing.join(BOUND)
    assert recorder.names == ["begin", "end", "freed"]


def test_a_server_is_a_context_manager() -> None:
    """Leaving the ``with`` block frees the server."""
    with WebSocketServer("127.0.0.1:0") as server:
        pass
    with pytest.raises(ConnectionRefusedError):
        RawClient(server.port)


def test_connections_come_and_go_without_leaving_anything(server: WebSocketServer) -> None:
    """Forty short connections, ended in four ways, leave no thread and no descriptor in the
    running server.
    """

    def lost(client: RawClient) -> None:
        client.close()

    def reset(client: RawClient) -> None:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()

    def closed(client: RawClient) -> None:
        client.send_frame(focConnectionClose)
        client.read_to_end()

    def faulty(client: RawClient) -> None:
        client.send(b"\xff\xff")
        client.read_to_end()

    endings: list[Callable[[RawClient], None]] = [lost, reset, closed, faulty]
    threads = threading.active_count()
    for number in range(40):
        with upgraded(server.port) as client:
            assert exchange(client, ["x"]) == ["x"]
            endings[number % 4](client)
    wait_for(lambda: server.websocket_connections == 0)
    # the keeper's thread may have started
    wait_for(lambda: threading.active_count() <= threads + 1)


def test_a_server_that_was_not_freed_says_goodbye_at_exit() -> None:
    """At the end of the interpreter its clients get a close frame 1001, and the process ends by
    itself.
    """
    source = """
        import sys
        from mormot_ws import WebSocketProtocolChat, WebSocketServer
        server = WebSocketServer("127.0.0.1:0")
        server.websocket_protocols.add(WebSocketProtocolChat("echo"))
        print("port", server.port)
        sys.stdin.readline()
    """
    with Script(source) as script, upgraded(int(script.wait_line("port "))) as client:
        client.send_frame(focPing)
        client.receive_opcode(focPong)
        script.enter("")
        frame = client.receive_opcode(focConnectionClose)
        assert parse_close_payload(frame.payload)[0] == 1001
        client.send_frame(focConnectionClose, frame.payload)
        client.close()
        assert script.wait() == 0


def test_the_clients_of_this_library_and_of_others_share_a_server(
    server: WebSocketServer, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Our client and a bare one talk to the same server, and nothing is logged as a warning."""
    caplog.set_level(logging.WARNING)
    with upgraded(server.port) as raw, connect(server.port, recorder.frame) as ours:
        assert send_text(ours, "ours")
        assert exchange(raw, ["raw"]) == ["raw"]
        recorder.wait("focText")
    assert recorder.texts() == ["ours"]
    assert not caplog.records


def test_the_accept_value_is_that_of_the_rfc() -> None:
    """The oracle of these tests gives the value of RFC 6455 §1.3."""
    assert accept_for("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_on_before_incoming_frame_sees_the_start_and_the_end_of_a_connection(
    recorder: Recorder,
) -> None:
    """As in the original; True keeps a frame from the protocol, as with messages."""
    seen: list[str] = []

    def before(process: WebSocketProcess, frame: WebSocketFrame) -> bool:
        seen.append(frame.opcode.name)
        return frame.opcode.name == "focConnectionClose"

    protocol = WebSocketProtocolChat("echo", "", recorder.frame)
    protocol.on_before_incoming_frame = before
    with WebSocketServer("127.0.0.1:0") as server:
        server.websocket_protocols.add(protocol)
        with upgraded(server.port) as client:
            client.send_frame(focText, "x")
            recorder.wait("focText")
        wait_for(lambda: server.websocket_connections == 0 and len(seen) == 3)
    assert seen == ["focContinuation", "focText", "focConnectionClose"]
    assert recorder.names == ["focContinuation", "focText"]
