"""HttpClientWebSockets beside the upgrade: plain HTTP before it, callbacks after it, and its
end.
"""

from __future__ import annotations

import threading
import time

import pytest
from support import (
    BOUND,
    MS,
    Behaviour,
    RawServer,
    RawServerPeer,
    Recorder,
    accept_and_close,
    connect,
    in_threads,
    ms,
    new_client,
    process_of,
    refused_port,
    send_text,
    sending,
    silent,
    text,
    upgrade,
    wait_for,
)
from support.programs import Script

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClientThread,
    WebSocketProtocol,
    WebSocketServer,
    WebSocketServerSocket,
    focBinary,
    focConnectionClose,
    sClosed,
    sFinished,
)


def closing_codes(server: WebSocketServer) -> list[int]:
    """Return a list that gets the close code of each connection of *server* that ends."""
    codes: list[int] = []

    def on_disconnect(connection: WebSocketServerSocket) -> None:
        assert connection.websocket_process is not None
        codes.append(connection.websocket_process.close_code)

    server.on_websocket_disconnect = on_disconnect
    return codes


# --------------------------------------------------------------------------------------- plain HTTP


def test_request_is_plain_http_on_the_connection_of_the_upgrade(server: WebSocketServer) -> None:
    """Requests before the upgrade, and the upgrade, travel on one TCP connection."""
    ids: list[int] = []

    def on_request(context: HttpServerRequest) -> int:
        ids.append(context.connection_id)
        context.out_content = f"{context.method} {context.url}"
        context.out_content_type = "text/plain"
        return 200

    server.on_request = on_request
    with new_client(server.port) as client:
        assert client.request("status?full=1") == 200
        assert client.answer.content == b"GET /status?full=1"
        assert client.answer.content_type == "text/plain"
        assert client.request("/again") == 200
        assert upgrade(client) == ""
        assert ids == [process_of(client).connection_id] * 2


def test_request_sends_method_headers_and_body(server: WebSocketServer) -> None:
    """A body given as ``str`` is sent as UTF-8 with its type; custom headers arrive."""
    seen: list[tuple[str, bytes, str, str]] = []

    def on_request(context: HttpServerRequest) -> int:
        seen.append(
            (
                context.method,
                context.in_content,
                context.in_content_type,
                context.in_header("x-mine"),
            )
        )
        return 404

    server.on_request = on_request
    with new_client(server.port) as client:
        assert (
            client.request("x", "PUT", header="X-Mine: 1", data="grün", data_type="text/plain")
            == 404
        )
    assert seen == [("PUT", "grün".encode(), "text/plain", "1")]


def test_request_without_keep_alive_closes_and_the_next_one_reconnects(
    server: WebSocketServer,
) -> None:
    """``keep_alive=0`` ends the connection; a further request opens it again."""
    server.on_request = lambda context: 200
    with new_client(server.port) as client:
        assert client.request("", keep_alive=0) == 200
        assert not client.connected
        assert client.request("") == 200
        assert client.connected
        assert upgrade(client) == ""


@pytest.mark.parametrize(
    "behaviour",
    [
        accept_and_close,
        silent,
        sending(b"nonsense\r\n\r\n"),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"),
    ],
    ids=["closed", "silent", "nonsense", "cut"],
)
def test_request_without_a_good_answer_is_666(behaviour: Behaviour) -> None:
    """The original's client error, in time, with the reason in ``last_error``."""
    with RawServer(behaviour) as server, new_client(server.port, timeout=100) as client:
        assert client.request("") == 666
        assert client.last_error
        assert not client.connected


def test_request_to_a_refused_port_is_666() -> None:
    """Without a connection, and none to be had, the status is the client error."""
    with refused_port() as port, new_client(port) as client:
        assert client.request("") == 666
        assert client.last_error.startswith("ConnectionRefusedError: ")


def test_request_after_the_upgrade_is_666_and_harms_nothing(
    client: HttpClientWebSockets, recorder: Recorder
) -> None:
    """The chat protocol carries no requests: a clear error, and the WebSocket goes on."""
    assert client.request("x") == 666
    assert "WebSocket" in client.last_error
    assert send_text(client, "still here")
    recorder.wait("focText")


def test_request_with_a_bad_header_is_a_value_error(server: WebSocketServer) -> None:
    """A header line that is none raises."""
    with new_client(server.port) as client, pytest.raises(ValueError):
        client.request("", header="no header")


# ---------------------------------------------------------------------------------------- callbacks


@pytest.mark.parametrize("handled", [True, False])
def test_on_before_incoming_frame_comes_first_and_may_handle_a_message(
    server: WebSocketServer, recorder: Recorder, handled: bool
) -> None:
    """It sees the start, each message and the end before the protocol does, in the same thread;
    True keeps them from the protocol.
    """

    def before(process: WebSocketProcess, frame: WebSocketFrame) -> bool:
        recorder.add(f"before {frame.opcode.name}", (process, frame))
        return handled

    with new_client(server.port) as client:
        client.on_before_incoming_frame = before
        assert upgrade(client, recorder.frame) == ""
        assert send_text(client, "x")
        process, frame = recorder.wait("before focText").value
        assert process is client.websockets
        assert frame.text == "x"
    expected = []
    for name in ("focContinuation", "focText", "focConnectionClose"):
        expected += [f"before {name}"] if handled else [f"before {name}", name]
    assert recorder.names == expected
    assert len(recorder.threads) == 1


def test_an_on_before_incoming_frame_that_raises_is_logged_and_ends_nothing(
    server: WebSocketServer, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in it costs that message, not the connection."""

    def before(process: WebSocketProcess, frame: WebSocketFrame) -> bool:
        if frame.payload == b"bad":
            raise RuntimeError("bug in a callback")
        return False

    with new_client(server.port) as client:
        client.on_before_incoming_frame = before
        assert upgrade(client, recorder.frame) == ""
        assert send_text(client, "bad")
        assert send_text(client, "good")
        recorder.wait("focText")
    assert recorder.texts() == ["good"]
    assert "bug in a callback" in caplog.text


def test_on_websockets_closed_gets_the_client_once_in_its_thread(
    server: WebSocketServer, recorder: Recorder
) -> None:
    """It comes last, behind focConnectionClose, in the client's thread."""
    with new_client(server.port) as client:
        assert upgrade(client, recorder.frame) == ""
        client.on_websockets_closed = recorder.call("closed")
        thread = process_of(client).owner_thread
    assert recorder.names == ["focContinuation", "focConnectionClose", "closed"]
    assert recorder.events[-1].value is client
    assert recorder.threads == {thread}


def test_a_protocol_of_ones_own_class_is_driven_in_the_original_order(
    server: WebSocketServer,
) -> None:
    """``reset`` and ``after_upgrade`` come before the first frame, and each frame is given with
    its process.
    """
    recorder = Recorder()

    class Mine(WebSocketProtocol):
        def reset(self) -> None:
            recorder.add("reset")

        def after_upgrade(self, process: WebSocketProcess) -> None:
            recorder.add("after_upgrade", process)

        def process_incoming_frame(
            self, process: WebSocketProcess, frame: WebSocketFrame, info: str
        ) -> None:
            recorder.add(frame.opcode.name, process)

    with new_client(server.port) as client:
        assert client.websockets_upgrade("", "", protocol=Mine("echo")) == ""
        assert process_of(client).send_frame(text("x"))
        recorder.wait("focText")
    names = [name for name in recorder.names if name != "reset"]
    assert names == ["after_upgrade", "focContinuation", "focText", "focConnectionClose"]
    assert recorder.names[0] == "reset"
    assert {event.value for event in recorder.events if event.name != "reset"} == {
        client.websockets
    }


# ------------------------------------------------------------------------------------------ the end


@pytest.mark.parametrize("goodbye", [True, False], ids=["close frame", "lost"])
def test_the_thread_state_tells_how_a_connection_ended(recorder: Recorder, goodbye: bool) -> None:
    """sClosed after a close handshake, sFinished when the connection was lost; the thread has
    ended in both cases.
    """

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        if goodbye:
            peer.send_frame(focConnectionClose, b"\x03\xe8")
            peer.receive_opcode(focConnectionClose)

    with RawServer(behaviour) as server, new_client(server.port) as client:
        assert upgrade(client, recorder.frame) == ""
        thread = process_of(client).client_thread
        assert thread is not None
        thread.join(BOUND)
        assert not thread.is_alive()
        assert thread.thread_state is (sClosed if goodbye else sFinished)
        assert not client.connected
        assert recorder.names == ["focContinuation", "focConnectionClose"]


def test_free_of_a_client_that_never_connected() -> None:
    """There is nothing to end, twice."""
    with refused_port() as port:
        client = new_client(port)
        why = client.last_error
        assert why
        client.free()
        client.free()
    assert not client.connected
    assert client.last_error == why


def test_free_of_a_client_that_was_not_upgraded(server: WebSocketServer) -> None:
    """The TCP connection is closed."""
    client = new_client(server.port)
    client.free()
    assert not client.connected


def test_free_sends_a_close_frame_and_waits_for_the_last_callback(
    server: WebSocketServer, recorder: Recorder
) -> None:
    """When ``free`` returns the server has seen code 1000, the callbacks are through, and the
    thread has ended.
    """
    codes = closing_codes(server)
    client = connect(server.port, recorder.frame)
    client.on_websockets_closed = recorder.call("closed")
    thread = process_of(client).owner_thread
    client.free()
    assert recorder.names == ["focContinuation", "focConnectionClose", "closed"]
    assert thread is not None
    assert not thread.is_alive()
    wait_for(lambda: codes)
    assert codes == [1000]


def test_free_after_the_connection_was_lost(recorder: Recorder) -> None:
    """A client whose server has gone is freed without further callbacks."""
    with RawServer(lambda peer: peer.accept()) as server:
        client = connect(server.port, recorder.frame)
        recorder.wait("focConnectionClose")
    client.free()
    assert recorder.names == ["focContinuation", "focConnectionClose"]


def test_free_interrupts_an_upgrade_that_waits_for_a_silent_server() -> None:
    """The other thread's upgrade returns a text at once, long before its time-out."""
    errors: list[str] = []
    reached = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        reached.set()
        peer.wait_end()

    with RawServer(behaviour) as server:
        client = new_client(server.port, timeout=60_000)
        thread = threading.Thread(target=lambda: errors.append(upgrade(client)))
        thread.start()
        assert reached.wait(BOUND)
        client.free()
        thread.join(BOUND)
    assert len(errors) == 1
    assert errors[0]


def test_free_may_be_called_by_many_threads_at_once(
    server: WebSocketServer, recorder: Recorder
) -> None:
    """Each of eight concurrent calls returns after the work is done, and the callbacks come
    once.
    """
    client = connect(server.port, recorder.frame)

    def free(number: int) -> None:
        client.free()
        recorder.add("freed")

    in_threads(8, free)
    assert recorder.names == ["focContinuation", "focConnectionClose"] + ["freed"] * 8


def test_free_does_not_wait_for_a_server_that_does_not_answer() -> None:
    """A server that ignores the close frame costs ``close_timeout``."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        peer.wait_end()

    with RawServer(behaviour) as server:
        client = connect(server.port, close_timeout=ms(100))
        began = time.monotonic()
        client.free()
        assert time.monotonic() - began < 2000 * MS


def test_free_ends_a_send_that_waits_for_a_server_that_does_not_read() -> None:
    """``send_frame`` in another thread returns False when the client is freed, and ``free``
    returns in time.
    """
    go_on = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        go_on.wait(2 * BOUND)

    results: list[bool] = []
    with RawServer(behaviour) as server:
        client = connect(server.port, close_timeout=ms(100))
        process = process_of(client)
        frame = WebSocketFrame(focBinary, bytes(32 << 20))
        sender = threading.Thread(target=lambda: results.append(process.send_frame(frame)))
        sender.start()
        wait_for(process.safe_out.locked, what="a send under way")
        began = time.monotonic()
        client.free()
        assert time.monotonic() - began < 3000 * MS
        sender.join(BOUND)
        go_on.set()
    assert results == [False]


def test_after_free_everything_says_no(server: WebSocketServer) -> None:
    """A freed client sends, upgrades, requests and reopens nothing, and raises nothing."""
    client = connect(server.port)
    process = process_of(client)
    client.free()
    assert not send_text(client, "x")
    assert not process.send_frame(text("x"))
    assert not process.send_frame_async(text("x"))
    assert upgrade(client) == "Not Connected"
    assert client.reopen() != ""
    assert client.request("") == 666
    assert not client.connected
    assert server.websocket_connections <= 1


def test_a_client_is_a_context_manager(server: WebSocketServer) -> None:
    """Leaving the ``with`` block frees the client."""
    with connect(server.port) as client:
        thread = process_of(client).owner_thread
    assert thread is not None
    assert not thread.is_alive()


def test_clients_come_and_go_without_leaving_anything(server: WebSocketServer) -> None:
    """Thirty clients, eight at a time, leave no thread of theirs."""

    def use() -> None:
        recorder = Recorder()
        with connect(server.port, recorder.frame) as client:
            send_text(client, "x")
            recorder.wait("focText")

    for _ in range(4):
        users = [threading.Thread(target=use) for _ in range(8)]
        for user in users:
            user.start()
        for user in users:
            user.join(BOUND)
    wait_for(lambda: server.websocket_connections == 0)
    assert not [t for t in threading.enumerate() if isinstance(t, WebSocketProcessClientThread)]


def test_a_client_that_was_not_freed_says_goodbye_at_exit(server: WebSocketServer) -> None:
    """At the end of the interpreter the server gets a close frame 1001, and the process ends by
    itself.
    """
    codes = closing_codes(server)
    source = """
        import sys
        from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat
        protocol = WebSocketProtocolChat("echo")
        client = HttpClientWebSockets.websockets_connect("127.0.0.1", sys.argv[1], protocol)
        client.websockets.on_reconnect = lambda process: "Retry"
    """
    with Script(source, str(server.port)) as script:
        assert script.wait() == 0, script.text
    wait_for(lambda: codes)
    assert codes == [1001]
