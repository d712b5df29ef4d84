"""HttpClientWebSockets on real sockets: connecting, and the upgrade with all its error texts."""

from __future__ import annotations

import base64
import logging
import re
import socket
import threading
import time
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    Behaviour,
    HttpHead,
    RawServer,
    RawServerPeer,
    Recorder,
    accept_and_close,
    answering,
    chat,
    connect,
    converse,
    echo,
    echo_server,
    fast_settings,
    ms,
    new_client,
    polite,
    process_of,
    refused_port,
    remembering,
    send_text,
    sending,
    silent,
    truncated,
    upgrade,
    wait_for,
)
from support.faults import full_listener

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProcessClient,
    WebSocketProcessClientThread,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
    focBinary,
    focConnectionClose,
    focText,
    sRun,
    wpsRun,
)

# ---------------------------------------------------------------------------------------- factories


def test_open_connects_and_does_not_upgrade_yet(server: WebSocketServer) -> None:
    """``open`` gives a client with a TCP connection and no WebSocket side."""
    with HttpClientWebSockets.open(HOST, server.port) as client:
        assert client.connected
        assert client.websockets is None
        assert client.last_error == ""


def test_the_port_may_be_text(server: WebSocketServer) -> None:
    """'8999' is as good as 8999."""
    with HttpClientWebSockets.open(HOST, str(server.port)) as client:
        assert (client.connected, client.port) == (True, server.port)


def test_a_host_may_be_a_name(server: WebSocketServer) -> None:
    """'localhost' is resolved, and all its addresses are tried."""
    with HttpClientWebSockets.open("localhost", server.port) as client:
        assert upgrade(client) == ""


def test_websockets_connect_by_host_and_port(server: WebSocketServer, recorder: Recorder) -> None:
    """The first form connects and upgrades in one call."""
    client = HttpClientWebSockets.websockets_connect(HOST, server.port, chat(recorder))
    assert client is not None
    with client:
        assert send_text(client, "x")
        assert recorder.wait("focText").value.text == "x"


def test_websockets_connect_by_uri(server: WebSocketServer, recorder: Recorder) -> None:
    """The second form takes host, port and resource with its query from a ws:// URI."""
    client = HttpClientWebSockets.websockets_connect(
        f"ws://localhost:{server.port}/room?user=1", chat(recorder)
    )
    assert client is not None
    with client:
        assert process_of(client).protocol.upgrade_uri == "room?user=1"
        assert send_text(client, "x")
        assert recorder.wait("focText").value.text == "x"


def test_websockets_connect_passes_on_what_it_is_given() -> None:
    """URI, headers, time-out and settings reach the client and the server."""
    heads: list[HttpHead] = []
    settings = fast_settings()
    with RawServer(remembering(heads)) as server:
        client = HttpClientWebSockets.websockets_connect(
            HOST,
            server.port,
            chat(),
            "room",
            "X-Mine: 1",
            timeout=ms(4_321),
            settings=settings,
            process_name="named",
        )
        assert client is not None
        client.free()
    assert heads[0].first_line == "GET /room HTTP/1.1"
    assert heads[0].headers["x-mine"] == "1"
    assert client.settings is settings
    assert (client.timeout, client.process_name) == (ms(4_321), "named")


def test_websockets_connect_to_a_refused_port_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """No server: None, and the log says why."""
    with refused_port() as port:
        assert HttpClientWebSockets.websockets_connect(HOST, port, chat()) is None
        assert HttpClientWebSockets.websockets_connect(f"ws://{HOST}:{port}/", chat()) is None
    # the watch over the locks records DEBUG, too
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([text for text in told if "ConnectionRefusedError" in text]) == 2


def test_websockets_connect_to_a_server_that_refuses_is_none(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused upgrade: None, and the log has the server's status line."""
    assert (
        HttpClientWebSockets.websockets_connect(HOST, server.port, WebSocketProtocolChat("other"))
        is None
    )
    assert "HTTP/1.1 400 WebSocket Upgrade Error" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        ("localhost",),
        ("localhost", 8999),
        ("localhost", WebSocketProtocolChat("echo")),
        ("ws://localhost:8999/",),
        ("ws://localhost:8999/", 8999),
    ],
)
def test_websockets_connect_without_a_protocol_is_a_type_error(arguments: tuple[Any, ...]) -> None:
    """A call that is neither of the two forms raises at once."""
    with pytest.raises(TypeError):
        HttpClientWebSockets.websockets_connect(*arguments)


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost/",
        "ws://",
        "ws:///room",
        "ws://me@localhost/",
        "ws://localhost/#part",
        "ws://x:70000/",
    ],
)
def test_websockets_connect_with_a_bad_uri_is_a_value_error(uri: str) -> None:
    """A URI that is none of WebSocket's raises at once."""
    with pytest.raises(ValueError):
        HttpClientWebSockets.websockets_connect(uri, chat())


# ------------------------------------------------------------------------------------ not connected


def test_a_refused_port_does_not_raise_and_the_upgrade_says_not_connected() -> None:
    """As in the original ``open`` succeeds, and the upgrade returns 'Not Connected'."""
    with refused_port() as port, new_client(port) as client:
        assert not client.connected
        assert client.last_error.startswith("ConnectionRefusedError: ")
        assert upgrade(client) == "Not Connected"
        assert client.websockets is None


def test_an_upgrade_that_gets_no_thread_is_a_text_and_may_be_tried_again(
    server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a further thread or descriptor is no exception of ours; what was begun is
    taken back.
    """

    def exhausted(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with new_client(server.port) as client:
        with monkeypatch.context() as patch:
            patch.setattr(WebSocketProcessClientThread, "start", exhausted)
            assert upgrade(client) == "RuntimeError: can't start new thread"
        assert client.websockets is None
        assert client.reopen() == ""
        assert upgrade(client) == ""
        assert send_text(client, "x")


def test_a_failed_upgrade_never_looks_like_a_success() -> None:
    """Its text is returned although another thread empties ``last_error`` just then, as
    ``reopen()`` does.
    """

    class Reopening(HttpClientWebSockets):
        def close(self) -> None:
            super().close()
            self.last_error = ""

    with (
        RawServer(accept_and_close) as server,
        Reopening(HOST, server.port, settings=fast_settings()) as client,
    ):
        assert upgrade(client)


def test_an_address_that_does_not_answer_does_not_hide_the_next(
    server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with two addresses, of which the first leads nowhere (often IPv6): the second one has
    its share of the time.
    """
    real = socket.getaddrinfo

    def two_addresses(host: str, port: int, **options: Any) -> list[Any]:
        return real(HOST, deaf, **options) + real(HOST, server.port, **options)

    with full_listener() as deaf:
        monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
        with new_client(server.port, timeout=ms(400)) as client:
            assert client.last_error == ""
            assert upgrade(client) == ""


def test_reopen_connects_a_client_whose_server_came_later() -> None:
    """``reopen`` tries again with the same parameters; then the upgrade works."""
    with refused_port() as port:
        client = new_client(port)
    with client:
        assert client.reopen().startswith("ConnectionRefusedError: ")
        with echo_server(port):
            assert client.reopen() == ""
            assert upgrade(client) == ""
            client.free()


def test_a_connection_attempt_without_any_answer_ends_in_time() -> None:
    """A server that does not even accept costs the time-out, no more."""
    with full_listener() as port:
        began = time.monotonic()
        with new_client(port, timeout=100) as client:
            assert client.last_error.startswith("TimeoutError: ")
            assert upgrade(client) == "Not Connected"
        assert time.monotonic() - began < BOUND / 2


# ---------------------------------------------------------------------------------- argument errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("", 8999),
        ("two words", 8999),
        ("line\n", 8999),
        (None, 8999),
        (b"localhost", 8999),
        ("localhost", 0),
        ("localhost", 65536),
        ("localhost", "http"),
        ("localhost", None),
        ("localhost", 8999, False, None, 0),
        ("localhost", 8999, False, None, -1),
        ("localhost", 8999, False, None, "1"),
        ("localhost", 8999, False, None, True),
    ],
)
def test_a_client_of_nowhere_is_a_value_error(arguments: tuple[Any, ...]) -> None:
    """Host, port and time-out that can never work are refused by the constructor."""
    with pytest.raises((ValueError, TypeError)):
        HttpClientWebSockets(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None, "", False, (), chat()), TypeError),
        ((b"", "", False, (), chat()), TypeError),
        (("", None, False, (), chat()), TypeError),
        (("", "", False, (), "echo"), TypeError),
        (("", "", False, (), WebSocketProtocolChat), TypeError),
        (("", "", False, (), chat(), None), TypeError),
        (("two words", "", False, (), chat()), ValueError),
        (("line\r\nX: 1", "", False, (), chat()), ValueError),
        (("room#part", "", False, (), chat()), ValueError),
        (("", "secret", False, (), chat()), ValueError),
        (("", "", False, (), chat(), "no header"), ValueError),
        (("", "", False, (), chat(), "X: a\rb"), ValueError),
        (("", "", False, (), chat(), "Sec-WebSocket-Key: x"), ValueError),
        (("", "", False, (), chat(), "Connection: close"), ValueError),
    ],
)
def test_bad_upgrade_arguments_raise_at_once_and_harm_nothing(
    server: WebSocketServer, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    """Arguments that can never work raise; the connection is still there, and good arguments work
    on it.
    """
    with new_client(server.port) as client:
        with pytest.raises(error):
            client.websockets_upgrade(*arguments)
        assert upgrade(client) == ""


def test_bad_upgrade_arguments_raise_without_a_connection_too() -> None:
    """The programmer's error is told before the network's."""
    with refused_port() as port, new_client(port) as client, pytest.raises(TypeError):
        client.websockets_upgrade("", "", False, frozenset(), "echo")  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [("", ""), ("", "", True)])
def test_without_a_protocol_the_rest_protocols_are_asked_for(
    server: WebSocketServer, arguments: tuple[Any, ...]
) -> None:
    """A server that does not offer them refuses, and its status line is the text."""
    with new_client(server.port) as client:
        assert client.websockets_upgrade(*arguments) == "HTTP/1.1 400 WebSocket Upgrade Error"


# --------------------------------------------------------------------------------- the good upgrade


def test_a_successful_upgrade_returns_the_empty_text_and_sets_everything(
    server: WebSocketServer,
) -> None:
    """'' is success; URI, headers, connection ID, process and thread are then in their places."""
    protocol = chat()
    with new_client(server.port) as client:
        error = client.websockets_upgrade("room", "", False, frozenset(), protocol, "X-Mine: 1")
        process = client.websockets
        assert error == ""
        assert isinstance(process, WebSocketProcessClient)
        assert process.protocol is protocol
        assert (protocol.upgrade_uri, protocol.upgrade_bearer_token) == ("room", "X-Mine: 1")
        assert process.connection_id == 1
        assert process.state is wpsRun
        assert isinstance(process.owner_thread, WebSocketProcessClientThread)


def test_the_connection_runs_as_soon_as_the_upgrade_returns(server: WebSocketServer) -> None:
    """The thread has entered its loop, and there is no moment in which ``send_frame`` is
    refused.
    """
    for _ in range(20):
        recorder = Recorder()
        with connect(server.port, recorder.frame) as client:
            thread = process_of(client).client_thread
            assert thread is not None
            assert thread.thread_state is sRun
            assert send_text(client, "at once")
            recorder.wait("focText")


def test_the_request_is_that_of_a_native_client() -> None:
    """Request line, standard headers, a fresh random key, the sub-protocol, and behind them the
    custom headers.
    """
    heads: list[HttpHead] = []

    with RawServer(remembering(heads)) as server:
        for _ in range(2):
            with new_client(server.port) as client:
                assert (
                    upgrade(client, uri="a/b?c=d", headers="X-One: 1\r\nAuthorization: Bearer t")
                    == ""
                )
    headers = heads[0].headers
    assert heads[0].first_line == "GET /a/b?c=d HTTP/1.1"
    assert headers["host"] == f"{HOST}:{server.port}"
    assert headers["connection"].lower() == "upgrade"
    assert headers["upgrade"] == "websocket"
    assert headers["content-length"] == "0"
    assert headers["sec-websocket-version"] == "13"
    assert headers["sec-websocket-protocol"] == "echo"
    assert headers["user-agent"].startswith("Mozilla/5.0 ")
    assert "origin" not in headers
    keys = [head.headers["sec-websocket-key"] for head in heads]
    assert [len(base64.b64decode(key, validate=True)) for key in keys] == [16, 16]
    assert keys[0] != keys[1]
    assert list(headers)[-2:] == ["x-one", "authorization"]


@pytest.mark.parametrize(
    ("uri", "line"), [("", "/"), ("/", "/"), ("room", "/room"), ("/room", "/room")]
)
def test_a_uri_is_requested_with_or_without_its_slash(uri: str, line: str) -> None:
    """'' and '/', and 'room' and '/room', ask for the same."""
    heads: list[HttpHead] = []
    with (
        RawServer(remembering(heads)) as server,
        new_client(server.port) as client,
    ):
        assert upgrade(client, uri=uri) == ""
    assert heads[0].first_line == f"GET {line} HTTP/1.1"


def test_a_host_header_of_ones_own_replaces_the_usual_one() -> None:
    """``Host:`` among the custom headers is sent instead of the address, once."""
    heads: list[HttpHead] = []
    with (
        RawServer(remembering(heads)) as server,
        new_client(server.port) as client,
    ):
        assert upgrade(client, headers="Host: example.org") == ""
    assert heads[0].headers["host"] == "example.org"
    assert heads[0].raw.lower().count(b"\r\nhost:") == 1


def test_custom_headers_arrive_at_our_server(server: WebSocketServer) -> None:
    """A bearer token given as a header is on the server's protocol object."""
    tokens: list[str] = []
    server.on_websocket_close = lambda protocol: tokens.append(protocol.upgrade_bearer_token)
    with new_client(server.port) as client:
        assert upgrade(client, headers="Authorization: Bearer secret") == ""
    wait_for(lambda: tokens)
    assert tokens == ["secret"]


@pytest.mark.parametrize("number", ["7", None, "seven"])
def test_the_connection_id_is_the_servers_or_0(number: str | None) -> None:
    """``Sec-WebSocket-Connection-ID`` is taken when it is there and a number."""
    with (
        RawServer(answering(Sec_WebSocket_Connection_ID=number)) as server,
        connect(server.port) as client,
    ):
        assert process_of(client).connection_id == (7 if number == "7" else 0)


def test_an_answer_without_sub_protocol_is_accepted() -> None:
    """Native peers leave it out; one sub-protocol was asked for, so there is no doubt."""
    with (
        RawServer(answering(Sec_WebSocket_Protocol=None)) as server,
        new_client(server.port) as client,
    ):
        assert upgrade(client) == ""


def test_an_answer_is_read_whatever_its_spelling() -> None:
    """Header names and the fixed values are compared without case, and blanks around values are
    ignored.
    """

    def behaviour(peer: RawServerPeer) -> None:
        answer = peer.answer(peer.read_head(), Sec_WebSocket_Protocol="ECHO").decode()
        head, _, rest = answer.partition("\r\n")
        lines = [line.partition(": ") for line in rest.strip().split("\r\n")]
        fields = "".join(f"{name.upper()}:  {value}  \r\n" for name, _, value in lines)
        peer.send(f"{head}\r\n{fields.replace('websocket', 'WebSocket')}\r\n".encode())
        converse(peer)

    with RawServer(behaviour) as server, new_client(server.port) as client:
        assert upgrade(client) == ""


def test_an_answer_that_arrives_byte_by_byte_is_put_together(recorder: Recorder) -> None:
    """The slicing of the answer, and of the frame behind it, does not matter."""

    def behaviour(peer: RawServerPeer) -> None:
        for byte in peer.answer(peer.read_head()) + peer.encoded(focText, "sliced"):
            peer.send(bytes((byte,)))
        converse(peer)

    with RawServer(behaviour) as server, connect(server.port, recorder.frame):
        assert recorder.wait("focText").value.text == "sliced"


def test_frames_in_the_segment_of_the_answer_are_delivered(recorder: Recorder) -> None:
    """Messages that arrive together with the 101, the last of them cut, come in order behind
    focContinuation.
    """
    go_on = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        frames = [
            peer.encoded(focText, "one"),
            peer.encoded(focBinary, b"two"),
            peer.encoded(focText, "three"),
        ]
        wire = b"".join(frames)
        peer.send(peer.answer(peer.read_head()) + wire[:-3])
        go_on.wait(BOUND)
        peer.send(wire[-3:])
        converse(peer)

    with RawServer(behaviour) as server, connect(server.port, recorder.frame):
        recorder.wait("focBinary")
        go_on.set()
        recorder.wait("focText", 2)
        assert recorder.names == ["focContinuation", "focText", "focBinary", "focText"]


def test_a_close_frame_in_the_segment_of_the_answer_is_obeyed(recorder: Recorder) -> None:
    """A server that upgrades and closes at once is a connection that began and ended in the
    ordinary way.
    """

    def behaviour(peer: RawServerPeer) -> None:
        peer.send(peer.answer(peer.read_head()) + peer.encoded(focConnectionClose, b"\x03\xf5"))
        peer.receive_opcode(focConnectionClose)

    with RawServer(behaviour) as server, new_client(server.port) as client:
        assert upgrade(client, recorder.frame) == ""
        recorder.wait("focConnectionClose")
        assert process_of(client).close_code == 1013
    assert recorder.names == ["focContinuation", "focConnectionClose"]


def test_two_settings_objects_are_never_mixed_and_one_is_shared(server: WebSocketServer) -> None:
    """A client's settings are those it was given, by reference, down to its process; others have
    their own.
    """
    settings = WebSocketProcessSettings()
    with (
        HttpClientWebSockets.open(HOST, server.port, settings=settings) as one,
        HttpClientWebSockets.open(HOST, server.port, settings=settings) as two,
        HttpClientWebSockets.open(HOST, server.port) as other,
    ):
        assert upgrade(one) == upgrade(two) == upgrade(other) == ""
        settings.send_delay = 77
        assert process_of(one).settings.send_delay == process_of(two).settings.send_delay == 77
        assert process_of(other).settings.send_delay == 10


# ------------------------------------------------------------------------------- upgrades that fail


def status(line: str, headers: str = "Content-Length: 0\r\n") -> Behaviour:
    """Behaviour: answer with that status line."""
    return sending(f"{line}\r\n{headers}\r\n".encode())


_INVALID_HEADER = re.escape("Invalid HTTP Upgrade Header")
_INVALID_ACCEPT = re.escape("Invalid HTTP Upgrade Accept Challenge")
_INVALID_PROTOCOL = re.escape("Invalid HTTP Upgrade Sub-Protocol")
_INVALID_HANDSHAKE = re.escape("Invalid HTTP Upgrade ProcessHandshake") + "(: .+)?"
_CLASS_AND_MESSAGE = r"\w+Error: .+"

_FAILURES: dict[str, tuple[Behaviour, str]] = {
    "no answer": (accept_and_close, "No server response"),
    "closed before the request was read": (
        lambda peer: None,
        f"No server response|{_CLASS_AND_MESSAGE}",
    ),
    "cut in the status line": (truncated(5), _CLASS_AND_MESSAGE),
    "cut in the headers": (truncated(60), _CLASS_AND_MESSAGE),
    "400": (status("HTTP/1.1 400 Bad Request"), re.escape("HTTP/1.1 400 Bad Request")),
    "native 400": (
        status("HTTP/1.0 400 WebSocket Upgrade Error"),
        re.escape("HTTP/1.0 400 WebSocket Upgrade Error"),
    ),
    "403": (status("HTTP/1.1 403 Forbidden"), re.escape("HTTP/1.1 403 Forbidden")),
    "404": (status("HTTP/1.1 404 Not Found"), re.escape("HTTP/1.1 404 Not Found")),
    "401": (
        status("HTTP/1.1 401 Unauthorized", "WWW-Authenticate: Basic\r\n"),
        re.escape("HTTP/1.1 401 Unauthorized"),
    ),
    "redirect": (
        status("HTTP/1.1 301 Moved Permanently", "Location: ws://127.0.0.1:1/\r\n"),
        re.escape("HTTP/1.1 301 Moved Permanently"),
    ),
    "200": (status("HTTP/1.1 200 OK"), re.escape("HTTP/1.1 200 OK")),
    "another protocol": (sending(b"SSH-2.0-x\r\n\r\n"), re.escape("SSH-2.0-x")),
    "too long": (
        sending(b"HTTP/1.1 101 x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"),
        f"{_INVALID_HEADER}.*",
    ),
    "no end": (sending(b"HTTP/1.1 101 x\r\nX: " + b"x" * 40_000), f"{_INVALID_HEADER}.*"),
    "no Upgrade": (answering(Upgrade=None), _INVALID_HEADER),
    "other Upgrade": (answering(Upgrade="h2c"), _INVALID_HEADER),
    "no Connection": (answering(Connection=None), _INVALID_HEADER),
    "other Connection": (answering(Connection="close"), _INVALID_HEADER),
    "no accept": (answering(Sec_WebSocket_Accept=None), _INVALID_ACCEPT),
    "wrong accept": (
        answering(Sec_WebSocket_Accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        _INVALID_ACCEPT,
    ),
    "other sub-protocol": (answering(Sec_WebSocket_Protocol="other"), _INVALID_PROTOCOL),
    "two sub-protocols": (answering(Sec_WebSocket_Protocol="echo, other"), _INVALID_PROTOCOL),
    "unasked extension": (answering(Sec_WebSocket_Extensions="x-unasked"), _INVALID_HANDSHAKE),
}


@pytest.mark.parametrize("case", _FAILURES)
def test_a_failed_upgrade_returns_its_text(case: str) -> None:
    """Each failure returns the original's text, without raising, and the client is then not
    connected.
    """
    behaviour, expected = _FAILURES[case]
    with RawServer(behaviour) as server, new_client(server.port) as client:
        error = upgrade(client)
        assert re.fullmatch(expected, error)
        assert not client.connected
        assert client.websockets is None


def test_a_cut_answer_is_a_failure_wherever_it_is_cut() -> None:
    """A server that closes after any number of bytes of its answer gives a text, never an
    exception or a success.
    """
    sizes: list[int] = []

    def behaviour(peer: RawServerPeer) -> None:
        answer = peer.answer(peer.read_head())
        if len(sizes) < len(answer):
            sizes.append(len(sizes))
            peer.send(answer[: sizes[-1]])
        else:
            peer.send(answer)
            converse(peer)

    errors = []
    with RawServer(behaviour) as server, new_client(server.port) as client:
        while error := upgrade(client):
            errors.append(error)
            assert client.reopen() == ""
    assert errors[0] == "No server response"
    assert all(re.fullmatch(_CLASS_AND_MESSAGE, error) for error in errors[1:])
    assert len(errors) == len(sizes) > 100


def test_a_silent_server_costs_the_time_out_and_no_more() -> None:
    """No answer within ``timeout`` is a failure with the time-out's name."""
    with RawServer(silent) as server, new_client(server.port, timeout=100) as client:
        began = time.monotonic()
        assert re.fullmatch("TimeoutError: .+", upgrade(client))
        assert 90 * MS <= time.monotonic() - began < BOUND / 2
        assert not client.connected


def test_a_server_that_trickles_its_answer_does_not_renew_the_time_out() -> None:
    """The time-out is for the whole answer, not for each piece of it."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nX-Slow: ")
        peer.sock.settimeout(10 * MS)
        while True:
            try:
                if not peer.receive():
                    return
            except TimeoutError:
                peer.send(b"x")

    with RawServer(behaviour) as server, new_client(server.port, timeout=150) as client:
        began = time.monotonic()
        assert re.fullmatch("TimeoutError: .+", upgrade(client))
        assert time.monotonic() - began < BOUND / 2


def test_after_a_failed_upgrade_the_client_can_be_used_again(recorder: Recorder) -> None:
    """``reopen`` and a new upgrade succeed when the server has come to its senses, with the same
    protocol object.
    """
    protocol = chat(recorder)
    with RawServer(accept_and_close, polite) as server, new_client(server.port) as client:
        assert client.websockets_upgrade("", "", protocol=protocol) == "No server response"
        assert client.reopen() == ""
        assert client.websockets_upgrade("", "", protocol=protocol) == ""
        assert send_text(client, "x")
        recorder.wait("focText")


def test_an_upgrade_refused_by_our_server_returns_its_status_line(server: WebSocketServer) -> None:
    """An unknown sub-protocol is refused with the native server's status line."""
    with new_client(server.port) as client:
        error = client.websockets_upgrade(
            "", "", False, frozenset(), WebSocketProtocolChat("other")
        )
        assert error == "HTTP/1.1 400 WebSocket Upgrade Error"


def test_two_upgrades_at_once_do_not_mix() -> None:
    """While one thread upgrades, another one gets a text at once."""
    asked = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        asked.set()
        silent(peer)

    with RawServer(behaviour) as server, new_client(server.port, timeout=5_000) as client:
        errors: list[str] = []
        first = threading.Thread(target=lambda: errors.append(upgrade(client)))
        first.start()
        assert asked.wait(BOUND)
        assert upgrade(client) == "Another upgrade is in progress"
        client.free()
        first.join(BOUND)
        assert len(errors) == 1
        assert errors[0] not in ("", "Another upgrade is in progress")


# --------------------------------------------------------------------------------- already upgraded


def test_a_second_upgrade_on_the_same_uri_says_so(server: WebSocketServer) -> None:
    """The text of the original for the URI of the running protocol, whatever its case."""
    server.websocket_protocols.add(WebSocketProtocolChat("room", "Lobby", echo))
    with new_client(server.port) as client:
        assert (
            client.websockets_upgrade("Lobby", "", protocol=WebSocketProtocolChat("room", "Lobby"))
            == ""
        )
        assert upgrade(client, uri="LOBBY") == "Already upgraded to WebSockets on this URI"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("", "Already upgraded to WebSockets on this URI"),
        ("/", "Already upgraded to WebSockets with URI=[] but requested [/]"),
        ("room", "Already upgraded to WebSockets with URI=[] but requested [room]"),
    ],
)
def test_a_second_upgrade_without_reconnect_changes_nothing(
    client: HttpClientWebSockets, recorder: Recorder, uri: str, expected: str
) -> None:
    """The text is returned, and the running connection goes on with its protocol and process."""
    process = process_of(client)
    protocol = process.protocol
    assert upgrade(client, uri=uri) == expected
    assert client.websockets_upgrade(uri, "", False, frozenset(), protocol) == expected
    assert client.websockets is process
    assert process.protocol is protocol
    assert send_text(client, "still here")
    assert recorder.wait("focText").value.text == "still here"


def test_an_upgrade_with_reconnect_on_a_running_connection_is_refused(
    client: HttpClientWebSockets, recorder: Recorder
) -> None:
    """``reconnect=True`` is for lost connections: on a running one it gives a text and leaves it
    alone.
    """
    error = client.websockets_upgrade(
        "", "", False, frozenset(), process_of(client).protocol, "", reconnect=True
    )
    assert error == "Already upgraded to WebSockets on this URI"
    assert send_text(client, "still here")
    recorder.wait("focText")
