"""What the tests of the REST protocols share: servers, clients and applications for each
sub-protocol, and raw peers that speak them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketProtocolBinary,
    WebSocketProtocolJson,
    WebSocketServerRest,
    focBinary,
    focText,
)
from mormot_ws.rest.messages import RestAnswer, RestRequest
from mormot_ws.rest.protocols import WebSocketProtocolRest

from . import HOST, RawClient, RawServerPeer, active, fast_settings, ms

KINDS = ("synopsejson", "synopsebin", "synopsebinary")
KEY = "secret"


class NamedProtocolBinary(WebSocketProtocolBinary):
    """Asks for one of its two names only."""

    def get_subprotocols(self) -> str:
        return self.name if self.name == "synopsebinary" else super().get_subprotocols()


def protocol_of(
    kind: str, key: str = "", options: Any = None, uri: str = ""
) -> WebSocketProtocolRest:
    """Return a protocol for one end of a connection of that *kind*, a name of :data:`KINDS`."""
    if kind == "synopsejson":
        return WebSocketProtocolJson(uri)
    protocol = (
        NamedProtocolBinary(uri, key) if options is None else NamedProtocolBinary(uri, key, options)
    )
    assert protocol.set_subprotocol(kind)
    return protocol


def mirror(ctxt: HttpServerRequest) -> int:
    """An application that answers with the body of the request, or tells its method and URL when
    there is none.
    """
    if ctxt.in_content and ctxt.in_content != b'""':
        ctxt.out_content, ctxt.out_content_type = ctxt.in_content, ctxt.in_content_type
    else:
        ctxt.out_content = json.dumps({"method": ctxt.method, "url": ctxt.url})
        ctxt.out_content_type = "application/json"
    return 200


Application = Callable[[HttpServerRequest], int]


@contextlib.contextmanager
def rest_server(
    application: Application | None = mirror, key: str = "", options: Any = None, **settings: Any
) -> Iterator[WebSocketServerRest]:
    """Give a server of all sub-protocols whose requests are answered by *application*."""
    extra = {} if options is None else {"options": options}
    with WebSocketServerRest(
        f"{HOST}:0", uri="root", key=key, ajax=True, settings=fast_settings(**settings), **extra
    ) as server:
        server.on_request = application
        yield server


@contextlib.contextmanager
def rest_client(
    port: int,
    kind: str,
    key: str = "",
    options: Any = None,
    application: Application | None = None,
    timeout: float = 5_000,
    headers: str = "",
    **settings: Any,
) -> Iterator[HttpClientWebSockets]:
    """Give a client that has upgraded to the protocol *kind*; requests of the server are answered
    by *application*.
    """
    with HttpClientWebSockets(
        HOST, port, timeout=ms(timeout), settings=fast_settings(**settings)
    ) as client:
        client.on_callback_request_process = application
        protocol = protocol_of(kind, key, options, "root")
        error = client.websockets_upgrade("root", "", False, None, protocol, headers)
        assert not error, f"{error} ({client.last_error})"
        yield client


class Pair:
    """A server and a client that is connected to it."""

    def __init__(self, server: WebSocketServerRest, client: HttpClientWebSockets) -> None:
        self.server = server
        self.client = client
        assert client.websockets is not None
        self.process = client.websockets
        self.server_process = active(server, self.process.connection_id)

    def call_back(
        self, url: str, method: str = "POST", content: bytes = b"", non_blocking: bool = False
    ) -> Any:
        """Send a request to the client; return (status, its context)."""
        ctxt = HttpServerRequest(url, method, "", content, connection_id=self.process.connection_id)
        return self.server.callback(ctxt, non_blocking), ctxt


@contextlib.contextmanager
def pair(
    kind: str,
    on_request: Application | None = mirror,
    on_callback: Application | None = mirror,
    key: str = "",
    options: Any = None,
    timeout: float = 5_000,
    **settings: Any,
) -> Iterator[Pair]:
    """Give a server and a connected client, with the same key, options and settings."""
    with (
        rest_server(on_request, key, options, **settings) as server,
        rest_client(server.port, kind, key, options, on_callback, timeout, **settings) as client,
    ):
        yield Pair(server, client)


class RawRestClient(RawClient):
    """A client on a plain socket that speaks a REST protocol without key and compression, frame by
    frame.
    """

    def __init__(self, port: int, kind: str) -> None:
        super().__init__(port)
        self.form = protocol_of(kind, options=())
        self.upgrade("root", kind)

    def say(self, message: RestRequest | RestAnswer, head: str) -> None:
        """Send one message."""
        frame = self.form.encode(message, head)
        self.send_frame(frame.opcode, frame.payload)

    def hear(self) -> tuple[str, RestRequest | RestAnswer]:
        """Return the next message with its head."""
        frame = self.receive_frame()
        assert frame.opcode in (focText, focBinary), frame
        return self.form.decode(frame)


def accept_rest(peer: RawServerPeer, kind: str) -> WebSocketProtocolRest:
    """Accept a client's upgrade to *kind* on a raw server; return what encodes and decodes its
    messages, without key and compression.
    """
    head = peer.read_head()
    peer.send(peer.answer(head, Sec_WebSocket_Protocol=kind))
    return protocol_of(kind, options=())


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let answers be given up as soon as the settings say, instead of after 2 s at least."""
    monkeypatch.setattr("mormot_ws.rest.exchange.LEAST_ANSWER_TIMEOUT_MS", 1)
