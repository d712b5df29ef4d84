"""WebSocketWsgiServer in werkzeug's threaded server: what holds for our own server holds there,
and the WSGI server is not confused.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from flask import Flask, current_app, request
from support import (
    BOUND,
    HOST,
    MS,
    RawClient,
    ReconnectingClient,
    Recorder,
    connect,
    echo,
    fast_settings,
    ms,
    process_of,
    send_text,
    text,
    upgrade,
    upgraded,
    wait_for,
)
from support.programs import Script
from support.tls import Authority, tls_client
from werkzeug.serving import make_server

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketsError,
    focConnectionClose,
    focPing,
    focText,
    parse_close_payload,
)
from mormot_ws.wsgi import WebSocketWsgiServer, WebSocketWsgiSocket


@contextlib.contextmanager
def serving(
    application: Callable[..., Any], port: int = 0, threaded: bool = True, tls: Any = None
) -> Iterator[int]:
    """Run *application* in werkzeug's server, and give its port."""
    server = make_server(HOST, port, application, threaded=threaded, ssl_context=tls)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="werkzeug"
    )
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(BOUND)
        server.server_close()


@pytest.fixture
def websockets() -> Iterator[WebSocketWsgiServer]:
    """The server inside the server, with an echo on any URI."""
    with WebSocketWsgiServer(
        "hosted", settings=fast_settings(free_in_callback="raise")
    ) as websockets:
        websockets.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        yield websockets


@pytest.fixture
def port(websockets: WebSocketWsgiServer) -> Iterator[int]:
    """Where it is found."""
    with serving(websockets) as port:
        yield port


def ended(websockets: WebSocketWsgiServer) -> Callable[[], bool]:
    """Return a condition: all connections have gone."""
    return lambda: websockets.status().sockets == 0


# ------------------------------------------------------------------------ what holds for our server


def test_an_upgrade_an_echo_and_the_events_in_their_order(
    websockets: WebSocketWsgiServer, recorder: Recorder
) -> None:
    """Everything of one connection runs in the one thread that the WSGI server lent, in the order
    of our own server.
    """
    websockets.websocket_protocols.add_once(WebSocketProtocolChat("echo", "", recorder.frame))
    websockets.on_websocket_upgraded = recorder.call("upgraded", 200)
    websockets.on_websocket_connect = recorder.call("connect")
    websockets.on_websocket_disconnect = recorder.call("disconnect")
    websockets.on_websocket_close = recorder.call("close")
    websockets.settings.on_client_connected = recorder.call("client connected")
    websockets.settings.on_client_disconnected = recorder.call("client disconnected")
    with serving(websockets) as port, HttpClientWebSockets.open(HOST, port) as client:
        assert (
            upgrade(
                client, uri="some/where?x=1", headers="Authorization: Bearer sesame\r\nX-Mine: 7"
            )
            == ""
        )
        process = process_of(client)
        assert process.connection_id == 1
        assert send_text(client, "hello")
        served = recorder.wait("focText").value
        assert served.text == "hello"
        here = websockets.is_active_websocket(1)
        assert here is not None
        assert (here.remote_ip, here.process_name, here.protocol.name) == (HOST, "hosted", "echo")
        assert here.protocol.upgrade_uri == "some/where?x=1"
        assert here.protocol.upgrade_bearer_token == "sesame"
        assert here.protocol.upgrade_header("X-Mine") == "7"
        assert isinstance(here.owner, WebSocketWsgiSocket)
        assert here.owner.environ["HTTP_X_MINE"] == "7"
    wait_for(ended(websockets))
    assert recorder.names == [
        "upgraded",
        "connect",
        "client connected",
        "focContinuation",
        "focText",
        "focConnectionClose",
        "client disconnected",
        "disconnect",
        "close",
    ]
    assert len(recorder.threads) == 1


def test_status_counts(websockets: WebSocketWsgiServer, port: int) -> None:
    """The figures of our own server's status, without an address of its own."""
    with connect(port) as client:
        assert send_text(client, "12345")
        wait_for(lambda: websockets.status().frames_out == 1)
        assert f"running connections={websockets.websocket_connections}>" in repr(websockets)
        assert websockets.websocket_connections == 1
    wait_for(ended(websockets))
    with RawClient(port) as raw:
        raw.send(raw.request(protocol="nothing"))
        assert raw.read_head().status == 400
    wait_for(ended(websockets))
    status = websockets.status()
    assert (status.host, status.port, status.accepted, status.upgraded, status.refused) == (
        "",
        0,
        2,
        1,
        1,
    )
    assert (status.frames_in, status.bytes_in, status.bytes_out, status.connections) == (1, 5, 5, 0)


def test_broadcast_reaches_all_of_them(websockets: WebSocketWsgiServer, port: int) -> None:
    """Or those whose numbers are given."""
    recorders = [Recorder(), Recorder()]
    with connect(port, recorders[0].frame), connect(port, recorders[1].frame) as second:
        wait_for(lambda: websockets.websocket_connections == 2)
        assert websockets.websocket_broadcast(text("all")) == 2
        assert websockets.websocket_broadcast(text("one"), [process_of(second).connection_id]) == 1
        recorders[1].wait("focText", 2)
        recorders[0].wait("focText")
        assert [recorder.texts() for recorder in recorders] == [["all"], ["all", "one"]]


def test_heartbeats_limits_and_close_codes_are_ours(
    websockets: WebSocketWsgiServer, port: int
) -> None:
    """An idle client is pinged; too long a message is 1009; a bad frame is 1002."""
    websockets.settings.heartbeat_delay = ms(100)
    websockets.settings.max_message_bytes = 10
    with RawClient(port) as raw:
        raw.upgrade()
        raw.receive_opcode(focPing)
        raw.send_frame(focText, "x" * 11)
        assert parse_close_payload(raw.receive_opcode(focConnectionClose).payload)[0] == 1009
    with RawClient(port) as raw:
        raw.upgrade()
        raw.send(b"\x81\x01x")  # not masked
        assert parse_close_payload(raw.receive_opcode(focConnectionClose).payload)[0] == 1002


def test_compression_is_negotiated(
    websockets: WebSocketWsgiServer, port: int, recorder: Recorder
) -> None:
    """By the same setting."""
    websockets.settings.permessage_deflate = True
    with connect(port, recorder.frame, permessage_deflate=True) as client:
        assert process_of(client).protocol.compression is not None
        assert send_text(client, "long " * 1000)
        assert recorder.wait("focText").value.text == "long " * 1000


def test_a_client_in_a_hurry_loses_nothing(port: int) -> None:
    """What it sends right behind its request, and the WSGI server has read already, is a frame
    like any other.
    """
    with RawClient(port) as raw:
        raw.upgrade(behind=raw.encoded(focText, "at once"))
        assert raw.receive_opcode(focText).text == "at once"


def test_a_foreign_client_is_served(port: int) -> None:
    """websocket-client sends, receives and closes."""
    peer = websocket.create_connection(
        f"ws://{HOST}:{port}/", subprotocols=["other", "echo"], timeout=BOUND
    )
    assert peer.subprotocol == "echo"
    peer.send("hello")
    assert peer.recv() == "hello"
    peer.close()


def test_a_client_comes_back_when_the_server_does(recorder: Recorder) -> None:
    """1001, refused attempts, and the next server on the same port."""
    settings = fast_settings()
    with contextlib.ExitStack() as second:
        with WebSocketWsgiServer(settings=settings) as websockets, serving(websockets) as port:
            websockets.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
            reconnecting = second.enter_context(ReconnectingClient(port, recorder))
            websockets.free()
            assert parse_close_payload(recorder.wait("focConnectionClose").value.payload)[0] == 1001
        websockets = second.enter_context(WebSocketWsgiServer(settings=settings))
        websockets.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        second.enter_context(serving(websockets, port))
        recorder.wait("focContinuation", 2)
        assert send_text(reconnecting.client, "back")
        recorder.wait("focText")


def test_groups_are_those_of_our_own_server(websockets: WebSocketWsgiServer, port: int) -> None:
    """A broadcast to one, and its end with its last connection."""
    with upgraded(port) as member, upgraded(port):
        websockets.connections()[0].join("room")
        assert websockets.websocket_broadcast(text("hello"), group="room") == 1
        assert member.receive_opcode(focText).text == "hello"
    wait_for(lambda: websockets.groups == [])


# --------------------------------------------------------------------------------- refused, and why


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"protocol": "nothing"}, 400),
        ({"protocol": ""}, 400),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Sec_WebSocket_Version": "12"}, 426),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Content_Length": "5"}, 400),
        ({"Upgrade": None}, 426),
    ],
)
def test_what_is_refused_is_an_ordinary_answer(
    websockets: WebSocketWsgiServer, port: int, headers: dict[str, Any], status: int
) -> None:
    """With the status of our own server, sent by the WSGI server."""
    websockets.settings.allowed_origins = {"https://here.example"}
    with RawClient(port) as raw:
        raw.send(raw.request(**headers))
        head, body = raw.read_answer()
        assert head.status == status
        assert "WebSocket Upgrade Error" in head.first_line
        assert (head.headers.get("sec-websocket-version") == "13") == (status == 426)
        if headers.get("protocol") == "":
            # which there are: a client that names none reads it in the body
            assert body.endswith(b"'echo'.\n")
    wait_for(ended(websockets))


def test_the_application_refuses_by_its_status(websockets: WebSocketWsgiServer, port: int) -> None:
    """``on_websocket_upgraded`` is asked; 401 says how to authenticate. Our client is told the
    line.
    """

    def check(protocol: WebSocketProtocol) -> int:
        return 200 if protocol.upgrade_bearer_token == "sesame" else 401

    websockets.on_websocket_upgraded = check
    with HttpClientWebSockets.open(HOST, port) as client:
        assert upgrade(client) == "HTTP/1.1 401 WebSocket Upgrade Error"
    with HttpClientWebSockets.open(HOST, port) as client:
        assert upgrade(client, headers="Authorization: Bearer sesame") == ""
    with RawClient(port) as raw:
        raw.send(raw.request())
        assert raw.read_head().headers["www-authenticate"] == "Bearer"


def test_limits_of_connections_hold(websockets: WebSocketWsgiServer, port: int) -> None:
    """One too many is turned away with 503, and says why."""
    websockets.settings.max_connections = 1
    with connect(port), RawClient(port) as raw:
        raw.send(raw.request())
        head, body = raw.read_answer()
        assert (head.status, body) == (503, b"too many connections\n")
        assert websockets.status().turned_away == 1


def test_hosts_are_limited(websockets: WebSocketWsgiServer, port: int) -> None:
    """``allowed_hosts`` refuses the others with 403."""
    websockets.settings.allowed_hosts = {"localhost"}
    for host, status in (("localhost", 101), ("localhost:80", 101), ("evil.example", 403)):
        with RawClient(port) as raw:
            raw.send(raw.request(Host=host))
            assert raw.read_head().status == status
    wait_for(ended(websockets))


def test_behind_a_proxy_the_limit_is_that_of_each_visitor(
    websockets: WebSocketWsgiServer, port: int
) -> None:
    """``remote_ip_header`` of ``trusted_proxies`` tells who it is."""
    settings = websockets.settings
    settings.remote_ip_header, settings.trusted_proxies = "X-Forwarded-For", {"127.0.0.1"}
    settings.max_connections_per_ip = 1
    seen: list[str] = []
    websockets.on_websocket_connect = lambda connection: seen.append(connection.remote_ip)
    visitors = (("192.0.2.1", 101), ("192.0.2.2", 101), ("192.0.2.1", 503))
    clients = [RawClient(port) for _ in visitors]
    for client, (ip, status) in zip(clients, visitors, strict=True):
        client.send(client.request(X_Forwarded_For=f"198.51.100.1, {ip}"))
        assert client.read_head().status == status
    wait_for(lambda: sorted(seen) == ["192.0.2.1", "192.0.2.2"])
    for client in clients:
        client.close()
    wait_for(ended(websockets))
    assert not websockets._addresses.counts


def test_sys_exit_of_a_callback_is_an_exception_like_others(
    websockets: WebSocketWsgiServer, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged at ERROR, and ends neither the connection nor the WSGI server's thread."""

    def leave(connection: Any) -> None:
        raise SystemExit("bye")

    websockets.on_websocket_connect = leave
    with connect(port) as client:
        wait_for(lambda: "SystemExit: bye" in caplog.text)
        assert send_text(client, "x")
    wait_for(ended(websockets))


def test_an_uri_that_nobody_serves_is_not_found() -> None:
    """A plain request gets 404 where no protocol is, 426 where one is."""
    with WebSocketWsgiServer() as websockets, serving(websockets) as port:
        websockets.websocket_protocols.add(WebSocketProtocolChat("echo", "ws"))
        for uri, status in (("nothing", 404), ("ws", 426)):
            with RawClient(port) as raw:
                raw.send(raw.request(uri, Upgrade=None))
                assert raw.read_answer()[0].status == status


def test_a_server_that_cannot_host_says_so(
    websockets: WebSocketWsgiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a socket, without threads, or with TLS of its own, the answer is 501 and an error in
    the log.
    """
    environ = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "x=1",
    }
    upgrade_headers = {
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": RawClient.KEY,
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_PROTOCOL": "echo",
    }
    said: list[str] = []
    assert websockets(
        {**environ, **upgrade_headers}, lambda status, headers: said.append(status)
    ) == [b"this WSGI server does not give access to its sockets\n"]
    assert said == ["501 WebSocket Upgrade Error"]
    with serving(websockets, threaded=False) as port, RawClient(port) as raw:
        raw.send(raw.request())
        head, body = raw.read_answer()
        assert (head.status, b"without threads" in body) == (501, True)
    assert "no WebSocket here: the WSGI server runs without threads" in caplog.text


def test_tls_of_the_wsgi_server_is_refused(
    websockets: WebSocketWsgiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A front end has to do it: Python's TLS sockets cannot be shared by a reader and writers."""
    authority = Authority(tmp_path)
    with (
        serving(websockets, tls=authority.server_context()) as port,
        tls_client(port, authority.client_context()) as client,
    ):
        assert "501" in upgrade(client)
    assert "terminate TLS in a front end" in caplog.text


# --------------------------------------------------------------------- the WSGI server, and its log


def test_nothing_follows_the_close_frame_and_the_log_has_one_line(
    websockets: WebSocketWsgiServer, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees our close frame and the end of the stream, never an HTTP answer; werkzeug
    logs 101 and no error.
    """
    caplog.set_level(logging.INFO, "werkzeug")
    with RawClient(port) as raw:
        raw.upgrade("some/where")
        raw.send_frame(focConnectionClose, b"\x03\xe8")
        assert raw.receive_opcode(focConnectionClose).payload == b"\x03\xe8"
        assert raw.read_to_end() == b""
    wait_for(lambda: "GET /some/where" in caplog.text)
    lines = [record for record in caplog.records if record.name == "werkzeug"]
    assert len(lines) == 1
    assert '" 101 -' in lines[0].getMessage().replace("\x1b[0m", "")


def test_a_client_that_vanishes_is_an_end_like_any_other(
    websockets: WebSocketWsgiServer, port: int, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A reset ends the connection with 1006, and no error is logged by anybody."""
    websockets.websocket_protocols.add_once(WebSocketProtocolChat("echo", "", recorder.frame))
    with RawClient(port) as raw:
        raw.upgrade()
        recorder.wait("focContinuation")
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert recorder.wait("focConnectionClose").value.payload == b""
    wait_for(ended(websockets))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_failure_behind_the_answer_ends_the_connection_and_no_more(
    websockets: WebSocketWsgiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A protocol that fails after the upgrade: our log says so, and no HTTP answer follows the
    101.
    """

    class Fails(WebSocketProtocolChat):
        def after_upgrade(self, process: WebSocketProcess) -> None:
            raise RuntimeError("not today")

    websockets.websocket_protocols.add_once(Fails("echo"))
    with serving(websockets) as port, RawClient(port) as raw:
        raw.upgrade()
        assert raw.read_to_end() == b""
    wait_for(ended(websockets))
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [(record.name, "not today" in (record.exc_text or "")) for record in failures] == [
        ("mormot_ws.wsgi", True)
    ]


def test_free_says_goodbye_and_refuses_what_comes_later(
    websockets: WebSocketWsgiServer, port: int, recorder: Recorder
) -> None:
    """1001 for each client, then 503; calling it twice does no harm. No thread of ours is left
    (see conftest).
    """
    with connect(port, recorder.frame):
        wait_for(lambda: websockets.websocket_connections == 1)
        websockets.free()
        assert parse_close_payload(recorder.wait("focConnectionClose").value.payload)[0] == 1001
        assert ended(websockets)()
    websockets.free()
    with RawClient(port) as raw:
        raw.send(raw.request())
        assert raw.read_answer()[1] == b"stopping\n"
    assert "stopped" in repr(websockets)


def test_free_in_a_callback_is_the_hazard(
    websockets: WebSocketWsgiServer, recorder: Recorder
) -> None:
    """It would wait for its own thread, and behaves as the setting says."""

    def free(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            try:
                websockets.free()
            except WebSocketsError as exc:
                recorder.add("refused", str(exc))

    websockets.websocket_protocols.add_once(WebSocketProtocolChat("echo", "", free))
    with serving(websockets) as port, connect(port) as client:
        assert send_text(client, "free")
        assert "from its own callback" in recorder.wait("refused").value


def test_free_cuts_a_client_that_does_not_answer(
    websockets: WebSocketWsgiServer, port: int
) -> None:
    """Within its bound."""
    with RawClient(port) as raw:
        raw.upgrade()
        wait_for(lambda: websockets.websocket_connections == 1)
        websockets.free()
        assert ended(websockets)()


# ----------------------------------------------------------------------------- around, and in Flask


def test_it_wraps_another_application(websockets: WebSocketWsgiServer, recorder: Recorder) -> None:
    """Upgrades are ours, everything else is the application's."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return [b"plain"]

    with serving(websockets.wrap(application)) as port:
        with RawClient(port) as raw:
            raw.send(raw.request(Upgrade=None))
            assert raw.read_answer()[1] == b"plain"
        with connect(port, recorder.frame) as client:
            assert send_text(client, "hello")
            recorder.wait("focText")


def test_a_flask_view_returns_it(websockets: WebSocketWsgiServer, recorder: Recorder) -> None:
    """The callbacks run inside the view's request, with its application and request at hand; other
    views go on.
    """
    app = Flask("hosting")

    def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            process.send_frame(text(f"{current_app.name} {request.args['x']} {frame.text}"))

    websockets.websocket_protocols.add_once(WebSocketProtocolChat("echo", "", on_incoming_frame))

    @app.get("/ws", websocket=True)
    def view() -> WebSocketWsgiServer:
        return websockets

    @app.get("/count")
    def count() -> str:
        return f"{websockets.websocket_connections}"

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        recorder.add(f"teardown {request.path}", error)

    with serving(app) as port:
        with HttpClientWebSockets.open(HOST, port) as client:
            assert upgrade(client, recorder.frame, uri="ws?x=7") == ""
            assert send_text(client, "hello")
            assert recorder.wait("focText").value.text == "hosting 7 hello"
            with RawClient(port) as raw:
                raw.send(b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert raw.read_answer()[1] == b"1"
        assert recorder.wait("teardown /ws").value is None


def test_a_signal_handler_cannot_be_set_in_another_thread(
    websockets: WebSocketWsgiServer, recorder: Recorder
) -> None:
    """``close_on_signals`` belongs into the main thread, and says so as Python does."""

    def run() -> None:
        try:
            websockets.close_on_signals()
        except ValueError as exc:
            recorder.add("refused", exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(BOUND)
    recorder.wait("refused")


def test_a_signal_says_goodbye_without_a_thread_too(
    websockets: WebSocketWsgiServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the system's limit the handler does it itself, and the previous one is called."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "goodbyes":
            raise RuntimeError("can't start new thread")
        start(thread)

    called: list[int] = []
    with RawClient(port) as raw:
        raw.upgrade()
        wait_for(lambda: websockets.websocket_connections == 1)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        websockets._signalled(lambda number, frame: called.append(number), 15, None)
        assert called == [15]
        close = raw.receive_opcode(focConnectionClose)
        raw.send_frame(focConnectionClose, close.payload)
        assert raw.read_to_end() == b""


def test_what_was_not_freed_says_goodbye_at_exit() -> None:
    """A program that just ends sends 1001, and is not kept from ending by a connection in a thread
    of a pool.
    """
    source = """
        import sys, threading
        from concurrent.futures import ThreadPoolExecutor
        from werkzeug.serving import make_server
        from mormot_ws import WebSocketProtocolChat
        from mormot_ws.wsgi import WebSocketWsgiServer

        websockets = WebSocketWsgiServer()
        websockets.websocket_protocols.add(WebSocketProtocolChat("echo"))
        pool = ThreadPoolExecutor(2)

        def pooled(environ, start_response):
            return pool.submit(websockets, environ, start_response).result()

        server = make_server("127.0.0.1", 0, pooled, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("port", server.server_port, flush=True)
        sys.stdin.readline()
        server.socket.close()
    """
    with Script(source) as script:
        with RawClient(int(script.wait_line("port "))) as raw:
            raw.upgrade()
            script.enter("")
            close = raw.receive_opcode(focConnectionClose)
            assert parse_close_payload(close.payload)[0] == 1001
            raw.send_frame(focConnectionClose, close.payload)
            assert raw.read_to_end() == b""
        assert script.wait() == 0, script.text


def test_asking_twice_to_end_cuts_nobody_short(websockets: WebSocketWsgiServer, port: int) -> None:
    """A signal, and the interpreter's end behind it, leave the time that a client has for its
    answer.
    """
    with RawClient(port) as raw:
        raw.upgrade()
        wait_for(lambda: websockets.websocket_connections == 1)
        websockets.begin_exit()
        websockets.begin_exit()
        close = raw.receive_opcode(focConnectionClose)
        raw.sock.settimeout(50 * MS)
        with pytest.raises(TimeoutError):
            raw.sock.recv(1)
        raw.sock.settimeout(BOUND)
        raw.send_frame(focConnectionClose, close.payload)
        assert raw.read_to_end() == b""
