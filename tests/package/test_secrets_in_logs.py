"""Log lines at INFO and above show no token and no password, whatever goes wrong: in the query of
a URI, in a header, in a proxy's URL.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
from support import (
    HOST,
    FixedDelay,
    echo,
    fast_settings,
    ms,
    process_of,
    refused_port,
    text,
    wait_for,
    when_free,
)
from support.proxies import HttpProxy

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketServer,
)

SECRETS = {
    "query": "s3cret-in-the-query",
    "bearer": "s3cret-bearer",
    "header": "s3cret-in-a-header",
    "password": "s3cret-of-the-proxy",
    # a sub-protocol, and a segment of a path, that are tokens
    "name": "s3cret-name-that-is-as-long-as-a-token",
    "path": "s3cret-segment-that-is-as-long-as-a-token",
}
URI = f"room?token={SECRETS['query']}"
HEADERS = f"Authorization: Bearer {SECRETS['bearer']}\r\nX-Api-Key: {SECRETS['header']}"


class Log(logging.Handler):
    """What a program sees of all loggers at INFO: formatted, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        #: guards the list; records come from all threads
        self._safe = threading.Lock()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + repr(
            {key: value for key, value in vars(record).items() if key not in ("args", "msg")}
        )
        with self._safe:
            self._lines.append(line)

    def has(self, words: str) -> bool:
        """Tell whether some line contains *words*."""
        with self._safe:
            return any(words in line for line in self._lines)

    def check(self, *expected: str) -> None:
        """Wait for lines with the *expected* words, then fail if any line has a secret in it."""
        for words in expected:
            # called at once
            wait_for(lambda: self.has(words), what=f"a log line with {words!r}")  # noqa: B023
        with self._safe:
            told = [line for line in self._lines for secret in SECRETS.values() if secret in line]
        assert told == []


@pytest.fixture
def log() -> Iterator[Log]:
    """The root logger's lines while the test runs."""
    handler = Log()
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(before)
    root.removeHandler(handler)


def serve(port: int = 0) -> WebSocketServer:
    """Return a server whose callbacks all fail."""

    def fail(argument: object) -> int:
        raise RuntimeError("a bug of the application")

    server = when_free(lambda: WebSocketServer(f"{HOST}:{port}", settings=fast_settings()))
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
    server.on_websocket_connect = server.on_websocket_disconnect = server.on_websocket_close = fail
    server.on_request = fail
    return server


def new_client(
    port: int, proxy: HttpProxy | None = None, attempts: int | None = None
) -> HttpClientWebSockets:
    """Return a client that knows all the secrets."""
    settings = fast_settings(reconnect_policy=lambda: FixedDelay(5, attempts))
    url = "" if proxy is None else proxy.url_for("user", SECRETS["password"])
    return HttpClientWebSockets(HOST, port, timeout=ms(5_000), settings=settings, proxy=url)


def upgrade(client: HttpClientWebSockets, name: str = "echo") -> str:
    return client.websockets_upgrade(URI, "", protocol=WebSocketProtocolChat(name), headers=HEADERS)


def test_a_client_that_loses_its_server_and_comes_back_through_a_proxy(log: Log) -> None:
    """Refused connections, failing callbacks on both sides, a refusing proxy, a reconnection."""

    def fail(client: HttpClientWebSockets) -> None:
        raise RuntimeError("a bug of the application")

    server = serve()
    port = server.port
    with HttpProxy("user", SECRETS["password"]) as proxy, new_client(port, proxy) as client:
        client.on_websockets_closed = fail
        assert upgrade(client) == ""
        client.auto_reconnect(URI, lambda: HEADERS)
        process = process_of(client)
        server.free()
        wait_for(lambda: process.attempts > 2)
        proxy.password = "another"
        attempts = process.attempts
        wait_for(lambda: process.attempts > attempts + 2)
        proxy.password = SECRETS["password"]
        with serve(port) as second:
            client.reconnect_now()
            wait_for(lambda: process.reconnects == 1)
            assert process.send_frame(text("hello"))
            wait_for(lambda: second.status().frames_in == 1)
    log.check("a server callback failed", "on_websockets_closed failed", "reconnected as")


@pytest.mark.parametrize("status", [401, 500])
def test_an_upgrade_that_the_application_refuses(log: Log, status: int) -> None:
    """By a status, or by failing."""

    def refuse(protocol: WebSocketProtocol) -> int:
        if status == 500:
            raise RuntimeError("a bug of the application")
        return status

    with serve() as server, new_client(server.port) as client:
        server.on_websocket_upgraded = refuse
        assert f" {status} " in upgrade(client)
    log.check(f"upgrade refused with {status}")


def test_a_protocol_that_is_not_offered_and_a_factory_that_fails(log: Log) -> None:
    with serve() as server:
        found = HttpClientWebSockets.websockets_connect(
            f"ws://{HOST}:{server.port}/{URI}",
            WebSocketProtocolChat("chat"),
            headers=HEADERS,
            proxy="",
        )
        assert found is None
    with refused_port() as port, HttpProxy("user", "another") as proxy:
        url = proxy.url_for("user", SECRETS["password"])
        found = HttpClientWebSockets.websockets_connect(
            HOST, port, WebSocketProtocolChat("echo"), URI, HEADERS, proxy=url
        )
        assert found is None
    log.check("an upgrade requests", "400", "407")


def test_a_page_that_is_not_let_in_is_named_by_its_origin(log: Log) -> None:
    """The log of the server says why, and what it would take."""
    with serve() as server, new_client(server.port) as client:
        server.settings.allowed_origins = {"https://here.example"}
        headers = f"{HEADERS}\r\nOrigin: https://there.example"
        assert " 403 " in client.websockets_upgrade(
            URI, "", protocol=WebSocketProtocolChat("echo"), headers=headers
        )
    log.check(
        "an upgrade from a page of 'https://there.example' is refused: this origin is not in"
        " allowed_origins"
    )


def test_plain_requests_whose_answering_fails(log: Log) -> None:
    with serve() as server, new_client(server.port) as client:
        assert client.request(f"/{URI}", header=HEADERS) == 500
    log.check("on_request failed")


@pytest.mark.parametrize(
    ("uri", "headers"),
    [
        (URI, f"Authorization Bearer {SECRETS['bearer']}"),
        (URI, f"{HEADERS}\r\n{SECRETS['header']}"),
        (f"room?token={SECRETS['query']} ", HEADERS),
        (URI, f"Sec-WebSocket-Key: {SECRETS['header']}"),
    ],
    ids=["no colon", "no header", "a blank in the query", "a header of the handshake"],
)
def test_arguments_that_an_attempt_to_reconnect_cannot_send(
    log: Log, uri: str, headers: str
) -> None:
    """The exception's text is logged with its traceback, and again when the client gives up."""
    with serve() as server, new_client(server.port, attempts=2) as client:
        assert upgrade(client) == ""
        client.auto_reconnect(lambda: uri, lambda: headers)
        process = process_of(client)
        process.abort("for the test")
        log.check("on_reconnect failed", "giving up after 2 attempts: ValueError")
        assert not [secret for secret in SECRETS.values() if secret in process.last_error]


def test_rest_requests_that_nobody_answers_or_whose_answering_fails(log: Log) -> None:
    """Over a REST protocol the request line and the headers travel in frames."""
    from mormot_ws import WebSocketProtocolJson, WebSocketServerRest

    def fail(ctxt: HttpServerRequest) -> int:
        raise RuntimeError("a bug of the application")

    with (
        WebSocketServerRest(f"{HOST}:0", uri="", ajax=True, settings=fast_settings()) as server,
        new_client(server.port) as client,
    ):
        protocol = WebSocketProtocolJson("")
        assert client.websockets_upgrade(URI, "", protocol=protocol, headers=HEADERS) == ""
        assert client.request(f"/{URI}", header=HEADERS) == 404
        server.on_request = fail
        assert client.request(f"/{URI}", header=HEADERS) == 500
    log.check("no callback answers requests here", "a bug of the application")


@pytest.mark.parametrize("kind", ["HTTP", "upgrade", "REST"])
def test_a_path_that_ends_with_a_token(log: Log, kind: str) -> None:
    """As those of signed URIs do: in the lines about requests, and in what a client is told."""
    from mormot_ws import WebSocketProtocolJson, WebSocketServerRest

    def fail(ctxt: HttpServerRequest) -> int:
        raise RuntimeError("a bug of the application")

    path = f"room/{SECRETS['path']}"
    with (
        WebSocketServerRest(f"{HOST}:0", uri="", ajax=True, settings=fast_settings()) as server,
        new_client(server.port) as client,
    ):
        server.on_request = fail
        server.websocket_protocols.add(WebSocketProtocolChat("echo", path))
        if kind == "HTTP":
            assert client.request(f"/{path}") == 500
            told = [client.request("/a b?" + SECRETS["query"]), client.answer]
        elif kind == "REST":
            protocol: WebSocketProtocol = WebSocketProtocolJson("")
            assert client.websockets_upgrade("", "", protocol=protocol) == ""
            assert client.request(f"/{path}") == 500
            told = [client.answer]
        else:
            protocol = WebSocketProtocolChat("echo", path)
            assert client.websockets_upgrade(path, "", protocol=protocol) == ""
            with pytest.raises(ValueError, match="percent-encode") as caught:
                client.websockets_upgrade(f"{path} ", "", protocol=protocol)
            told = [
                client.websockets_upgrade(f"{path}x", "", protocol=protocol),
                caught.value,
                protocol,
                client.status(),
                server.websocket_protocols,
            ]
    log.check(*(["failed"] if kind != "upgrade" else []))
    assert not [secret for secret in SECRETS.values() if secret in repr(told)]


def test_a_sub_protocol_that_is_a_token(log: Log) -> None:
    """Browsers can send one that way only: server and client show its beginning."""
    from mormot_ws.protocols.any_name import AnyNameList

    name = SECRETS["name"]
    with serve() as server, new_client(server.port) as client:
        assert " 400 " in upgrade(client, name)
        server.websocket_protocols = AnyNameList(WebSocketProtocolChat("echo", "", echo))
        client.free()
        with new_client(server.port) as second:
            assert upgrade(second, name) == ""
            process = process_of(second)
            assert process.protocol.name == name
            served = server.is_active_websocket(process.connection_id)
            assert second.request("/x") == 666
            shown = [second, process, process.protocol, second.status(), served, second.answer]
            assert served is not None
            shown += [served.protocol, served.status()]
            process.abort("for the test")
    log.check("a protocol that is not offered")
    assert name not in repr(shown)
    assert "s3cr…" in repr(shown)


def test_a_sub_protocol_that_cannot_be_one_is_not_shown() -> None:
    """A token in base64 may have characters that a name cannot have."""
    with pytest.raises(ValueError, match="must not contain '='") as caught:
        WebSocketProtocolChat("s3cret=")
    assert "s3cret" not in str(caught.value)
