"""Foreign peers: websocket-client and simple-websocket's client on our server, our client on a
simple-websocket server.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import simple_websocket
import websocket
from support import (
    BOUND,
    HOST,
    RawServerPeer,
    ReconnectingClient,
    Recorder,
    connect,
    echo_server,
    process_of,
    send_text,
    wait_for,
)

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketServer,
    WebSocketServerSocket,
    close_payload,
    focBinary,
    focPing,
    focText,
    parse_close_payload,
)

_TEXTS = [
    "",
    "plain",
    "grün, 漢字, 😀",
    "x" * 125,
    "x" * 126,
    "x" * 65_535,
    "x" * 65_536,
    "x" * 300_000,
]


@pytest.fixture
def endings(server: WebSocketServer) -> list[tuple[int, str]]:
    """The close codes and reasons of the server's connections that have ended."""
    ended: list[tuple[int, str]] = []

    def on_disconnect(connection: WebSocketServerSocket) -> None:
        process = connection.websocket_process
        assert process is not None
        ended.append((process.close_code, process.close_reason))

    server.on_websocket_disconnect = on_disconnect
    return ended


# --------------------------------------------------------------------- websocket-client as a client


@contextlib.contextmanager
def websocket_client(port: int) -> Iterator[websocket.WebSocket]:
    """Give a connection of websocket-client's."""
    client = websocket.create_connection(
        f"ws://{HOST}:{port}/", subprotocols=["echo"], timeout=BOUND
    )
    try:
        yield client
    finally:
        client.shutdown()


def test_websocket_client_upgrades(server: WebSocketServer) -> None:
    """It accepts our answer, with the sub-protocol that it asked for."""
    with websocket_client(server.port) as client:
        assert client.getsubprotocol() == "echo"
        assert client.getstatus() == 101


def test_websocket_client_exchanges_texts_of_all_sizes(server: WebSocketServer) -> None:
    """Every length encoding, and UTF-8 beyond ASCII, comes back unchanged."""
    with websocket_client(server.port) as client:
        for payload in _TEXTS:
            client.send(payload)
            assert client.recv() == payload


def test_websocket_client_exchanges_binary_messages(server: WebSocketServer) -> None:
    """A megabyte of binary data comes back unchanged."""
    payload = bytes(range(256)) * 4096
    with websocket_client(server.port) as client:
        client.send_binary(payload)
        assert client.recv() == payload


def test_websocket_client_sends_fragments(server: WebSocketServer) -> None:
    """A message sent in three frames comes back as one."""
    with websocket_client(server.port) as client:
        client.send_frame(websocket.ABNF.create_frame("frag", websocket.ABNF.OPCODE_TEXT, 0))
        client.send_frame(websocket.ABNF.create_frame("men", websocket.ABNF.OPCODE_CONT, 0))
        client.send_frame(websocket.ABNF.create_frame("ted", websocket.ABNF.OPCODE_CONT, 1))
        assert client.recv() == "fragmented"


def test_websocket_client_gets_its_pong(server: WebSocketServer) -> None:
    """Its ping is answered with the same payload."""
    with websocket_client(server.port) as client:
        client.ping("are you there")
        opcode, frame = client.recv_data_frame(control_frame=True)
        assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"are you there")


def test_websocket_client_closes(server: WebSocketServer, endings: list[tuple[int, str]]) -> None:
    """Its close frame is answered with the same code, and our side knows code and reason."""
    with websocket_client(server.port) as client:
        client.send_close(4001, b"done")
        opcode, frame = client.recv_data_frame(control_frame=True)
        assert (opcode, frame.data) == (websocket.ABNF.OPCODE_CLOSE, close_payload(4001, "done"))
    wait_for(lambda: endings)
    assert endings == [(4001, "done")]


def test_websocket_clients_close_method_ends_cleanly(
    server: WebSocketServer, endings: list[tuple[int, str]]
) -> None:
    """``close()`` of websocket-client is a normal closure for us."""
    with websocket_client(server.port) as client:
        client.close()
    wait_for(lambda: endings)
    assert endings == [(1000, "")]


def test_websocket_client_is_closed_by_our_server(
    server: WebSocketServer, endings: list[tuple[int, str]]
) -> None:
    """``server.free()`` is a close frame 1001 for it, which it answers."""
    with websocket_client(server.port) as client:
        wait_for(lambda: server.is_active_websocket(1))
        freeing = threading.Thread(target=server.free)
        freeing.start()
        opcode, frame = client.recv_data_frame(control_frame=True)
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert parse_close_payload(frame.data)[0] == 1001
        freeing.join(BOUND)
    assert [code for code, _ in endings] == [1001]


def test_websocket_client_gets_broadcasts(server: WebSocketServer) -> None:
    """A broadcast of ours is an ordinary message for it."""
    with websocket_client(server.port) as client:
        wait_for(lambda: server.is_active_websocket(1))
        assert server.websocket_broadcast(WebSocketFrame(focText, "to all")) == 1
        assert client.recv() == "to all"


# --------------------------------------------------------------------- simple-websocket as a client


@contextlib.contextmanager
def simple_client(port: int) -> Iterator[simple_websocket.Client]:
    """Give a connection of simple-websocket's client."""
    client = simple_websocket.Client.connect(f"ws://{HOST}:{port}/", subprotocols=["echo"])
    try:
        yield client
    finally:
        with contextlib.suppress(simple_websocket.ConnectionClosed):
            client.close()
        client.thread.join(BOUND)
        client.sock.close()


def test_simple_websocket_client_exchanges_messages(server: WebSocketServer) -> None:
    """Texts of all sizes and binary data come back unchanged."""
    with simple_client(server.port) as client:
        assert client.subprotocol == "echo"
        for payload in [*_TEXTS, b"\0\xff" * 50_000]:
            client.send(payload)
            assert client.receive(timeout=BOUND) == payload


def test_simple_websocket_client_closes(
    server: WebSocketServer, endings: list[tuple[int, str]]
) -> None:
    """Its close with code and reason reaches our side."""
    with simple_client(server.port) as client:
        client.close(4002, "done")
    wait_for(lambda: endings)
    assert endings == [(4002, "done")]


def test_simple_websocket_client_is_closed_by_our_server(
    server: WebSocketServer, endings: list[tuple[int, str]]
) -> None:
    """Our ``shutdown`` with code and reason is its ``ConnectionClosed`` with both."""
    with simple_client(server.port) as client:
        process = wait_for(lambda: server.is_active_websocket(1))
        assert process is not None
        process.shutdown(4003, "enough")
        with pytest.raises(simple_websocket.ConnectionClosed) as closed:
            client.receive(timeout=BOUND)
        assert (closed.value.reason, closed.value.message) == (4003, "enough")
    wait_for(lambda: endings)
    assert endings == [(4003, "enough")]


# --------------------------------------------------------------------- simple-websocket as a server


class SimpleServer:
    """A simple-websocket server on a threaded socket, as a WSGI server would drive it: an echo,
    until the client closes.

    *handle* is called instead of the echo; what ended each connection is in *endings*, as (code,
    reason).
    """

    def __init__(
        self,
        handle: Callable[[simple_websocket.Server], Any] | None = None,
        subprotocols: str | None = "echo",
    ) -> None:
        self.endings: list[tuple[int, str]] = []
        self._handle = handle if handle is not None else self.echo
        self._subprotocols = subprotocols
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name="simple-websocket accept")
        self._acceptor.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(
                    target=self._serve, args=(sock,), name="simple-websocket connection"
                )
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        head = RawServerPeer(sock).read_head()
        sock.settimeout(None)
        environ: dict[str, Any] = {
            f"HTTP_{name.upper().replace('-', '_')}": v for name, v in head.headers.items()
        }
        environ["werkzeug.socket"] = sock
        server = simple_websocket.Server(environ, subprotocols=self._subprotocols)
        try:
            self._handle(server)
        except simple_websocket.ConnectionClosed as exc:
            self.endings.append((int(exc.reason), exc.message or ""))
        server.thread.join(BOUND)
        sock.close()

    @staticmethod
    def echo(server: simple_websocket.Server) -> None:
        """Answer each message with itself."""
        while True:
            server.send(server.receive())

    def __enter__(self) -> SimpleServer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(BOUND)
        self._listener.close()
        for thread in self._threads:
            thread.join(BOUND)


@pytest.mark.parametrize("subprotocols", ["echo", None], ids=["with sub-protocol", "without"])
def test_our_client_exchanges_messages_with_a_simple_websocket_server(
    subprotocols: str | None, recorder: Recorder
) -> None:
    """Texts of all sizes and binary data come back unchanged, whether the server names a
    sub-protocol or not.
    """
    with (
        SimpleServer(subprotocols=subprotocols) as server,
        connect(server.port, recorder.frame) as client,
    ):
        for payload in _TEXTS:
            assert send_text(client, payload)
        recorder.wait("focText", len(_TEXTS))
        assert recorder.texts() == _TEXTS
        data = WebSocketFrame(focBinary, b"\0\xff" * 50_000)
        assert process_of(client).send_frame(data)
        assert recorder.wait("focBinary").value == data
        assert process_of(client).connection_id == 0


def test_our_client_closes_cleanly_to_a_simple_websocket_server() -> None:
    """``free()`` is a normal closure for it."""
    with SimpleServer() as server:
        with connect(server.port):
            pass
        wait_for(lambda: server.endings)
        assert server.endings == [(1000, "")]


def test_our_shutdown_is_told_to_a_simple_websocket_server() -> None:
    """Code and reason of our ``shutdown`` arrive, and it is answered."""
    with SimpleServer() as server, connect(server.port) as client:
        assert process_of(client).shutdown(4004, "grün")
        wait_for(lambda: server.endings)
        assert server.endings == [(4004, "grün")]


def test_a_simple_websocket_server_closes_our_client(recorder: Recorder) -> None:
    """Its close with code and reason reaches our callback, and the connection ends cleanly."""
    with (
        SimpleServer(lambda server: server.close(4005, "enough")) as server,
        connect(server.port, recorder.frame) as client,
    ):
        payload = recorder.wait("focConnectionClose").value.payload
        assert parse_close_payload(payload) == (4005, "enough")
        assert (process_of(client).close_code, process_of(client).close_reason) == (4005, "enough")


def test_our_ping_is_answered_by_a_simple_websocket_server(recorder: Recorder) -> None:
    """Its pong to our ping arrives."""
    with (
        SimpleServer() as server,
        connect(server.port, recorder.frame, notify_all_frames=True) as client,
    ):
        assert process_of(client).send_frame(WebSocketFrame(focPing, b"hello"))
        assert recorder.wait("focPong").value.payload == b"hello"


def test_our_client_reconnects_to_a_simple_websocket_server(recorder: Recorder) -> None:
    """After a loss the client comes back to a foreign server as it does to ours."""
    connections: list[simple_websocket.Server] = []

    def drop_the_first(server: simple_websocket.Server) -> None:
        connections.append(server)
        if len(connections) == 1:
            server.receive()
            server.sock.shutdown(socket.SHUT_RDWR)
        else:
            SimpleServer.echo(server)

    with (
        SimpleServer(drop_the_first) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        reconnecting.drop()
        reconnecting.wait_reconnected()
        assert send_text(reconnecting.client, "back")
        assert recorder.wait("focText").value.text == "back"


def test_our_own_two_sides_exchange_the_same_messages(recorder: Recorder) -> None:
    """The same exchange between our client and our server, as the measure for the others."""

    def answer(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode in (focText, focBinary):
            process.send_frame(frame)

    with echo_server(callback=answer) as server, connect(server.port, recorder.frame) as client:
        for payload in _TEXTS:
            assert send_text(client, payload)
        recorder.wait("focText", len(_TEXTS))
    assert recorder.texts() == _TEXTS
