"""What is counted, as the callbacks for the end of a connection see it, on both sides."""

from __future__ import annotations

from typing import Any

import pytest
from support import HOST, Recorder, echo_server, fast_settings, wait_for

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focConnectionClose,
    focText,
)


def messages(process: WebSocketProcess) -> tuple[int, int, int, int, int]:
    """Return the messages and bytes of *process*, in and out, and how many frames wait."""
    at = process.status()
    return at.frames_in, at.frames_out, at.bytes_in, at.bytes_out, at.queued_frames


@pytest.mark.parametrize("ended_by", ["client", "server", "cut"])
def test_the_callbacks_for_the_end_see_the_whole_count(recorder: Recorder, ended_by: str) -> None:
    """All messages of the connection are counted, and the connection itself no more."""
    servers: list[WebSocketServer] = []
    clients: list[HttpClientWebSockets] = []

    def on_server(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            process.send_frame_async(frame)
        elif frame.opcode is focConnectionClose:
            of_server("server: the frame")
            recorder.add("server: messages", (*messages(process), process.state.name))

    def of_server(where: str) -> None:
        at = servers[0].status()
        total = (at.frames_in, at.frames_out, at.bytes_in, at.bytes_out)
        found = len(servers[0].connections()), servers[0].websocket_connections
        recorder.add(where, (*total, at.connections, *found))

    def on_client(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            recorder.add("echo")
        elif frame.opcode is focConnectionClose:
            of_client("client: the frame")

    def of_client(where: str) -> None:
        process = clients[0].websockets
        assert process is not None
        at = clients[0].status()
        recorder.add(where, (*messages(process), at.connected, at.attempts, at.reconnects))

    with echo_server(callback=on_server) as server:
        servers.append(server)
        server.settings.on_client_disconnected = lambda _: of_server("on_client_disconnected")
        server.on_websocket_disconnect = lambda _: of_server("on_websocket_disconnect")
        server.on_websocket_close = lambda _: of_server("on_websocket_close")
        with HttpClientWebSockets(HOST, server.port, settings=fast_settings()) as client:
            clients.append(client)
            client.on_websockets_closed = lambda _: of_client("on_websockets_closed")
            assert not client.websockets_upgrade(
                "", protocol=WebSocketProtocolChat("echo", "", on_client)
            )
            process = client.websockets
            assert process is not None
            for text in (b"a", b"bc", b"def"):
                assert process.send_frame(WebSocketFrame(focText, text))
            recorder.wait("echo", 3)
            [accepted] = server.connections()
            # the server counts a message that it has sent once the kernel has it
            wait_for(lambda: accepted.status().frames_out == 3)
            if ended_by == "client":
                client.free()
            elif ended_by == "server":
                accepted.shutdown()
            else:
                accepted.abort("cut")
            recorder.wait("on_websocket_close")
            recorder.wait("on_websockets_closed")
    seen: dict[str, Any] = {e.name: e.value for e in recorder.events if e.name != "echo"}
    after = (3, 3, 6, 6)
    for where in (
        "server: the frame",
        *(
            f"on_{name}"
            for name in ("client_disconnected", "websocket_disconnect", "websocket_close")
        ),
    ):
        assert seen[where] == (*after, 0, 0, 0), where
    assert seen["server: messages"] == (*after, 0, "wpsClose")
    for where in ("client: the frame", "on_websockets_closed"):
        assert seen[where] == (*after, 0, False, 0, 0), where
