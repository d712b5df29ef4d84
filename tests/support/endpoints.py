"""Servers and clients of the library, with the settings of the tests."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from mormot_ws import (
    ExponentialBackoff,
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProcessServer,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
    focBinary,
    focText,
    wpsCreate,
)

from .places import HOST
from .recorder import Recorder
from .waiting import ms, wait_for, when_free


def echo(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """An ``on_incoming_frame`` that answers each message with itself."""
    if frame.opcode in (focText, focBinary):
        process.send_frame(frame)


def text(payload: str) -> WebSocketFrame:
    """Return a text frame."""
    return WebSocketFrame(focText, payload)


def fast_settings(**values: Any) -> WebSocketProcessSettings:
    """Return settings with a short close time-out, and waits of at most 20 ms between attempts to
    reconnect; *values* are others.

    Tests want time-outs below 100 ms, which elsewhere are probably seconds: ``setup.cfg`` lets this
    module set them without the warning.
    """
    settings = WebSocketProcessSettings(
        close_timeout=ms(300),
        reconnect_policy=lambda: ExponentialBackoff(base_ms=ms(5), cap_ms=ms(20)),
    )
    for name, value in values.items():
        setattr(settings, name, value)
    return settings


def any_alive(server: WebSocketServer) -> bool:
    """Tell whether a thread of *server* is alive."""
    return any(thread is not None and thread.is_alive() for thread in server._own_threads())


def echo_server(
    port: int = 0, callback: Callable[..., Any] = echo, **settings: Any
) -> WebSocketServer:
    """Return a running server that offers the protocol ``echo`` on any URI; free it."""
    server = when_free(
        lambda: WebSocketServer(f"{HOST}:{port}", settings=fast_settings(**settings))
    )
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
    return server


def new_client(port: int, timeout: float = 5_000, **settings: Any) -> HttpClientWebSockets:
    """Return a client with a TCP connection, not yet upgraded; free it."""
    return HttpClientWebSockets.open(
        HOST, port, timeout=ms(timeout), settings=fast_settings(**settings)
    )


def upgrade(
    client: HttpClientWebSockets,
    callback: Callable[..., Any] | None = None,
    uri: str = "",
    headers: str = "",
) -> str:
    """Upgrade *client* to the chat protocol ``echo``; return what ``websockets_upgrade``
    returns.
    """
    return client.websockets_upgrade(
        uri, "", False, frozenset(), WebSocketProtocolChat("echo", "", callback), headers=headers
    )


def connect(
    port: int, callback: Callable[..., Any] | None = None, **settings: Any
) -> HttpClientWebSockets:
    """Return a client that has upgraded to ``echo`` on *port*; free it."""
    client = new_client(port, **settings)
    error = upgrade(client, callback)
    if error:
        client.free()
        raise AssertionError(f"cannot upgrade: {error} ({client.last_error})")
    return client


def active(server: WebSocketServer, connection_id: int) -> WebSocketProcessServer:
    """Return the process of a connection as soon as it runs."""
    process = wait_for(
        lambda: server.is_active_websocket(connection_id), what=f"connection #{connection_id}"
    )
    assert process is not None
    # it is known a moment before it runs
    wait_for(lambda: process.state is not wpsCreate, what="its start")
    return process


def chat(recorder: Recorder | None = None) -> WebSocketProtocolChat:
    """Return a protocol ``echo`` for a client."""
    return WebSocketProtocolChat("echo", "", None if recorder is None else recorder.frame)


def process_of(client: HttpClientWebSockets) -> WebSocketProcessClient:
    """Return the process of a client that has been upgraded."""
    process = client.websockets
    assert process is not None
    return process


def send_text(client: HttpClientWebSockets, payload: str) -> bool:
    """Send a text message the way the document does, by the protocol."""
    process = process_of(client)
    protocol = process.protocol
    assert isinstance(protocol, WebSocketProtocolChat)
    return protocol.send_frame(process, text(payload))


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """Give a port on which connections are refused: it is taken, but nobody listens."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]
