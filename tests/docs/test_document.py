"""Every behaviour, message text and mistake of the document that the project starts from
(websocket-reconnection-demo.md).
"""

from __future__ import annotations

import inspect
import threading

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    HttpHead,
    RawServer,
    RawServerPeer,
    ReconnectingClient,
    Recorder,
    connect,
    drop_on_request,
    echo_server,
    fast_settings,
    new_client,
    polite,
    process_of,
    remembering,
    send_text,
    wait_for,
)
from support.programs import run_script

from mormot_ws import (
    ExponentialBackoff,
    FailureKind,
    HttpClientWebSockets,
    ReconnectFailure,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketsError,
    WebSocketServer,
    focBinary,
    focText,
    wpsRun,
)

_CASES_OF_MISTAKE_3 = pytest.mark.parametrize("result", ["", None], ids=["''", "None"])


# ------------------------------------------------------------------ Problem and Root Cause Analysis


def test_the_error_of_the_document() -> None:
    """Upgraded with URI '', asked again with '/': the very text of the document, because the
    process still exists.
    """
    with echo_server() as server, new_client(server.port) as client:
        protocol = WebSocketProtocolChat("echo", "")
        assert client.websockets_upgrade("", "", False, [], protocol) == ""
        error = client.websockets_upgrade("/", "", False, [], protocol)
        assert error == "Already upgraded to WebSockets with URI=[] but requested [/]"


def test_the_error_for_the_same_uri() -> None:
    """The other branch of the quoted code: the same URI."""
    with echo_server() as server, new_client(server.port) as client:
        protocol = WebSocketProtocolChat("echo", "")
        assert client.websockets_upgrade("", "", False, [], protocol) == ""
        assert (
            client.websockets_upgrade("", "", False, [], protocol)
            == "Already upgraded to WebSockets on this URI"
        )


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("", "Already upgraded to WebSockets on this URI"),
        ("/", "Already upgraded to WebSockets with URI=[] but requested [/]"),
    ],
)
def test_inside_on_reconnect_the_error_comes_when_reconnect_is_forgotten(
    uri: str, expected: str
) -> None:
    """The old process still exists while the client reconnects: without ``reconnect=True`` the
    upgrade is refused.
    """
    errors: list[str] = []
    with RawServer(drop_on_request, polite) as server, connect(server.port) as client:

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            assert process is not None
            errors.append(client.websockets_upgrade(uri, "", False, [], process.protocol))
            return errors[-1]

        process_of(client).on_reconnect = on_reconnect
        assert send_text(client, "drop me")
        wait_for(lambda: len(errors) >= 2)
    assert set(errors) == {expected}


@pytest.mark.parametrize("uri", ["", "/", "elsewhere"])
def test_reconnect_true_bypasses_the_check(uri: str) -> None:
    """The key insight: with ``reconnect=True`` neither the old process nor another URI stands in
    the way.
    """
    heads: list[HttpHead] = []
    with (
        RawServer(drop_on_request, remembering(heads)) as server,
        ReconnectingClient(server.port) as reconnecting,
    ):
        process = reconnecting.process
        process.protocol.upgrade_uri = uri
        reconnecting.drop()
        reconnecting.wait_reconnected()
        assert reconnecting.client.websockets is process
        assert process.protocol.upgrade_uri == uri
    assert heads[0].first_line == f"GET /{uri.removeprefix('/')} HTTP/1.1"


def test_the_promised_signature() -> None:
    """``websockets_upgrade`` has the parameters that users were promised, in that order, with
    those defaults.
    """
    parameters = inspect.signature(HttpClientWebSockets.websockets_upgrade).parameters
    assert list(parameters)[1:] == [
        "uri",
        "key",
        "ajax",
        "options",
        "protocol",
        "headers",
        "reconnect",
    ]
    defaults = [parameters[name].default for name in ("ajax", "protocol", "headers", "reconnect")]
    assert defaults == [False, None, "", False]
    assert parameters["uri"].default is inspect.Parameter.empty
    assert parameters["key"].default == ""  # only the REST protocols have one
    assert not parameters["options"].default


# ----------------------------------------------------- Solution: the built-in on_reconnect callback


class Demo:
    """The document's client: its fields, its ``DoReconnect``, its output."""

    def __init__(self, port: int) -> None:
        self.lines: list[str] = []
        self.connected = False
        self.reconnect_count = 0
        self.protocol = WebSocketProtocolChat("echo", "", self.on_incoming_frame)
        self.client = HttpClientWebSockets.open(HOST, port, settings=fast_settings())
        self.client.on_websockets_closed = self.on_closed
        error = self.client.websockets_upgrade("", "", False, [], self.protocol)
        assert error == "", error
        process_of(self.client).on_reconnect = self.do_reconnect
        self.connected = True

    def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            self.lines.append(f"Echo: {frame.text}")

    def on_closed(self, client: HttpClientWebSockets) -> None:
        self.lines.append("[CLOSED]")

    def do_reconnect(self, process: WebSocketProcessClient | None) -> str:
        if process is None:
            self.reconnect_count += 1
            self.connected = False
            self.lines.append(f"Reconnection attempt #{self.reconnect_count} failed")
            return "Retry"
        result = self.client.websockets_upgrade(
            process.protocol.upgrade_uri, "", False, [], process.protocol, "", True
        )
        if result == "":
            self.connected = True
            self.reconnect_count = 0
            self.lines.append(f"Reconnected! ConnectionID: {process.connection_id}")
            return ""
        self.connected = False
        self.lines.append(f"WebSocket upgrade failed after reconnect: {result}")
        return "Retry"

    def send(self, message: str) -> bool:
        return self.protocol.send_frame(self.client.websockets, WebSocketFrame(focText, message))


def test_the_reconnection_of_the_document() -> None:
    """Stop the server, watch [CLOSED] and the failed attempts, start it again, watch the client
    come back, and echo.
    """
    with echo_server() as first:
        demo = Demo(first.port)
        with demo.client:
            assert demo.send("before")
            wait_for(lambda: "Echo: before" in demo.lines)
            first.free()
            wait_for(lambda: "Reconnection attempt #2 failed" in demo.lines)
            assert not demo.connected
            assert not demo.send("nobody there")
            with echo_server(first.port):
                wait_for(lambda: demo.connected)
                assert demo.reconnect_count == 0
                assert demo.send("after")
                wait_for(lambda: "Echo: after" in demo.lines)
                demo.client.free()
    # a server listens before its protocols are added: a client that comes between the two is
    # refused, and tries again
    demo.lines = [line for line in demo.lines if not line.startswith("WebSocket upgrade failed")]
    failed = [line for line in demo.lines if line.startswith("Reconnection attempt")]
    assert failed == [f"Reconnection attempt #{n + 1} failed" for n in range(len(failed))]
    (reconnected,) = [line for line in demo.lines if line.startswith("Reconnected! ConnectionID: ")]
    assert int(reconnected.rpartition(" ")[2]) >= 1
    assert demo.lines == [
        "Echo: before",
        "[CLOSED]",
        *failed,
        reconnected,
        "Echo: after",
        "[CLOSED]",
    ]


def test_a_failed_upgrade_after_the_reconnect_is_told_and_retried() -> None:
    """The other branch of ``DoReconnect``: the text of the failed upgrade, 'Retry', and a later
    success.
    """

    def refuse(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    with RawServer(drop_on_request, refuse, polite) as server:
        demo = Demo(server.port)
        with demo.client:
            assert demo.send("drop me")
            wait_for(lambda: "Reconnected! ConnectionID: 7" in demo.lines)
    assert demo.lines[:3] == [
        "[CLOSED]",
        "WebSocket upgrade failed after reconnect: HTTP/1.1 503 Service Unavailable",
        "Reconnected! ConnectionID: 7",
    ]


def test_retries_back_off_exponentially_up_to_10_to_15_seconds() -> None:
    """By default the bound of the waits doubles, and is capped at a value between 10 and 15 s,
    drawn for each client.
    """
    policies = [WebSocketProcessSettings().reconnect_policy() for _ in range(20)]
    caps = []
    for policy in policies:
        assert isinstance(policy, ExponentialBackoff)
        caps.append(policy.cap_ms)
        delays = [
            policy.next_delay(ReconnectFailure(FailureKind.connect, "", n, 0.0)) for n in range(30)
        ]
        assert all(delay is not None and 0 <= delay <= policy.cap_ms for delay in delays)
        assert (delays[0] or 0) <= policy.base_ms
    assert all(10_000 <= cap <= 15_000 for cap in caps)
    assert len(set(caps)) > 1


def test_a_loss_is_detected_by_heartbeats_on_both_sides() -> None:
    """The Architecture's heartbeats: 20 s by default for server and client."""
    with (
        WebSocketServer("127.0.0.1:0") as server,
        HttpClientWebSockets.open(HOST, server.port) as client,
    ):
        assert server.settings.heartbeat_delay == client.settings.heartbeat_delay == 20_000
        assert client.settings.disconnect_after_invalid_heartbeat_count == 5


# ----------------------------------------------------------------------------- Implementation Notes


class WebSocketProtocolEcho(WebSocketProtocolChat):
    """The document's own protocol class."""

    def echo_frame(self, sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Its ``EchoFrame``."""
        if frame.opcode in (focText, focBinary):
            self.send_frame(sender, frame)


def test_the_echo_server_of_the_document(recorder: Recorder) -> None:
    """A subclass with its method as the callback, added by ``add``; its clones are of the subclass
    and all echo.
    """
    with WebSocketServer("127.0.0.1:0") as server:
        protocol = WebSocketProtocolEcho("echo", "")
        protocol.on_incoming_frame = protocol.echo_frame
        assert server.websocket_protocols.add(protocol)
        with (
            connect(server.port, recorder.frame) as one,
            connect(server.port, recorder.frame) as two,
        ):
            assert send_text(one, "1")
            assert send_text(two, "2")
            recorder.wait("focText", 2)
            assert sorted(recorder.texts()) == ["1", "2"]
            process = server.is_active_websocket(1)
            assert process is not None
            assert type(process.protocol) is WebSocketProtocolEcho
            assert process.protocol is not protocol


def test_the_names_of_client_and_server_must_match() -> None:
    """Another name is refused, with the native server's status line."""
    with echo_server() as server, new_client(server.port) as client:
        error = client.websockets_upgrade("", "", False, [], WebSocketProtocolChat("chat", ""))
        assert error == "HTTP/1.1 400 WebSocket Upgrade Error"


@pytest.mark.parametrize("uri", ["", "/", "any/path", "with?query=1"])
def test_a_protocol_with_an_empty_uri_serves_any_path(uri: str) -> None:
    """URI '' of the server's protocol matches every request."""
    with echo_server() as server, new_client(server.port) as client:
        assert (
            client.websockets_upgrade(uri, "", False, [], WebSocketProtocolChat("echo", "")) == ""
        )


def test_add_keeps_what_is_there_and_add_once_replaces_it() -> None:
    """``add`` says False to a second protocol of that name; ``add_once`` takes it for later
    connections: the confusion.
    """
    said: list[str] = []

    def saying(word: str) -> WebSocketProtocolChat:
        return WebSocketProtocolChat("echo", "", lambda process, frame: said.append(word))

    with WebSocketServer("127.0.0.1:0") as server:
        protocols = server.websocket_protocols
        assert protocols.add(saying("first"))
        assert not protocols.add(saying("second"))
        with connect(server.port):
            wait_for(lambda: said == ["first"])
        wait_for(lambda: said == ["first", "first"])
        assert not protocols.add_once(saying("third"))
        with connect(server.port):
            wait_for(lambda: said[2:] == ["third"])


# ---------------------------------------------------------------------------------------- Mistake 1


def test_mistake_1_freeing_the_client_during_a_reconnection_freezes_and_explains() -> None:
    """The document's wrong code freezes the client's thread; the log has the reason, and the
    program goes on and ends.
    """
    code, output = run_script(
        """
        import logging, sys
        from mormot_ws import *
        logging.basicConfig(stream=sys.stdout)
        server = WebSocketServer("127.0.0.1:0")
        server.websocket_protocols.add(WebSocketProtocolChat("echo", ""))
        client = HttpClientWebSockets.open("127.0.0.1", server.port)
        assert client.websockets_upgrade("", "", False, [], WebSocketProtocolChat("echo", "")) == ""

        def do_reconnect(process):
            if process is None:
                client.free()  # DON'T DO THIS!
                print("not reached")

        client.websockets.on_reconnect = do_reconnect
        thread = client.websockets.client_thread
        server.free()
        thread.join(3)
        print("frozen:", thread.is_alive())
        """.replace("thread.join(3)", f"thread.join({500 * MS})")
    )
    assert code == 0, output
    assert "CRITICAL" in output
    assert "own callback" in output
    assert "in do_reconnect" in output
    assert "not reached" not in output
    assert "frozen: True" in output


def test_mistake_1_can_be_made_an_exception() -> None:
    """``free_in_callback='raise'`` shows the mistake at once, in the callback that makes it."""
    raised: list[WebSocketsError] = []
    with echo_server() as server, new_client(server.port, free_in_callback="raise") as client:
        assert client.websockets_upgrade("", "", False, [], WebSocketProtocolChat("echo", "")) == ""

        def do_reconnect(process: WebSocketProcessClient | None) -> str:
            if process is None:
                try:
                    client.free()
                except WebSocketsError as exc:
                    raised.append(exc)
            return "Retry"

        process_of(client).on_reconnect = do_reconnect
        server.free()
        wait_for(lambda: raised)
    assert "own callback" in str(raised[0])


def test_mistake_1_done_right() -> None:
    """A flag for the main thread and ``terminate()`` in the callback; the main thread frees."""
    give_up = threading.Event()
    with echo_server() as server, connect(server.port) as client:

        def do_reconnect(process: WebSocketProcessClient | None) -> str:
            if process is None:
                thread = process_of(client).client_thread
                assert thread is not None
                thread.terminate()
                give_up.set()
            return "Retry"

        process_of(client).on_reconnect = do_reconnect
        server.free()
        assert give_up.wait(BOUND)
        client.free()


# ---------------------------------------------------------------------------------------- Mistake 2


def test_mistake_2_an_inconsistent_uri_is_refused_and_harms_nothing(recorder: Recorder) -> None:
    """First '' and then '/': the text of the document, and the running connection goes on."""
    with echo_server() as server, connect(server.port, recorder.frame) as client:
        error = client.websockets_upgrade("/", "", False, [], process_of(client).protocol)
        assert error == "Already upgraded to WebSockets with URI=[] but requested [/]"
        assert send_text(client, "still here")
        recorder.wait("focText")


def test_mistake_2_the_uris_are_the_same_to_the_server() -> None:
    """'' and '/' ask the server for the same path: only the client's check tells them apart."""
    heads: list[HttpHead] = []
    with RawServer(remembering(heads)) as server:
        for uri in ("", "/"):
            with new_client(server.port) as client:
                assert (
                    client.websockets_upgrade(uri, "", False, [], WebSocketProtocolChat("echo", ""))
                    == ""
                )
    assert [head.first_line for head in heads] == ["GET / HTTP/1.1"] * 2


# ---------------------------------------------------------------------------------------- Mistake 3


@_CASES_OF_MISTAKE_3
def test_mistake_3_is_logged_as_an_error_that_explains_it(
    result: str | None, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time ``on_reconnect`` returns '' without an upgrade there is one ERROR line that names
    the mistake and the cure.
    """

    def wrong(process: WebSocketProcessClient | None) -> str | None:
        recorder.add("on_reconnect", process)
        return result

    with (
        RawServer(drop_on_request, RawServerPeer.read_to_end) as server,
        connect(server.port) as client,
    ):
        process_of(client).on_reconnect = wrong
        assert send_text(client, "drop me")
        recorder.wait("on_reconnect", 3)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    calls = len(recorder.all("on_reconnect"))
    assert calls - 1 <= len(errors) <= calls
    for words in (
        "on_reconnect",
        "websockets_upgrade",
        "reconnect=True",
        "not a WebSocket",
        "Mistake 3",
        "porting-guide",
    ):
        assert words in errors[0].getMessage()


def test_mistake_3_nothing_is_sent_or_received_and_no_connection_is_pretended(
    recorder: Recorder,
) -> None:
    """Without the upgrade sends return False, nothing reaches the server, and no callback says
    that it is connected.
    """
    received: list[bytes] = []
    sent: list[bool] = []

    with (
        RawServer(drop_on_request, lambda peer: received.append(peer.read_to_end())) as server,
        connect(server.port, recorder.frame) as client,
    ):

        def wrong(process: WebSocketProcessClient | None) -> str:
            assert process is not None
            sent.append(send_text(client, "lost"))
            sent.append(process.state is wpsRun)
            return ""

        process_of(client).on_reconnect = wrong
        assert send_text(client, "drop me")
        wait_for(lambda: len(received) >= 3)
        sent.append(send_text(client, "lost"))
    assert set(received) == {b""}
    assert not any(sent)
    assert recorder.names == ["focContinuation", "focConnectionClose"]


def test_mistake_3_ends_as_soon_as_the_callback_does_it_right(recorder: Recorder) -> None:
    """The attempts go on, so that a callback that upgrades at last succeeds."""
    with (
        RawServer(drop_on_request, RawServerPeer.read_to_end, polite) as server,
        connect(server.port, recorder.frame) as client,
    ):

        def at_last(process: WebSocketProcessClient | None) -> str:
            recorder.add("on_reconnect")
            if process is None or len(recorder.all("on_reconnect")) == 1:
                return ""
            return client.websockets_upgrade(
                process.protocol.upgrade_uri, "", False, [], process.protocol, "", True
            )

        process_of(client).on_reconnect = at_last
        assert send_text(client, "drop me")
        recorder.wait("focContinuation", 2)
        assert send_text(client, "x")
        recorder.wait("focText")


# ------------------------------------------------------------------------------------ Key Takeaways


def test_without_on_reconnect_there_is_no_reconnection(recorder: Recorder) -> None:
    """Takeaway 1: the callback is the only way to the automatic reconnection."""
    with (
        RawServer(drop_on_request, polite) as server,
        connect(server.port, recorder.frame) as client,
    ):
        thread = process_of(client).client_thread
        assert thread is not None
        assert send_text(client, "drop me")
        thread.join(BOUND)
        assert not thread.is_alive()
        assert server.accepted == 1


def test_the_protocol_object_is_reused_by_the_reconnection(recorder: Recorder) -> None:
    """The callback passes the existing protocol, which keeps its callback and its counters."""
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        protocol = reconnecting.process.protocol
        reconnecting.drop()
        reconnecting.wait_reconnected()
        assert send_text(reconnecting.client, "x")
        recorder.wait("focText")
        assert reconnecting.process.protocol is protocol
        assert protocol.frames_out_count == 2
