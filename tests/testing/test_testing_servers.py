"""The servers of ``mormot_ws.testing``: what users' tests stand on stops, dies, freezes and comes
back as it says.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import (
    BOUND,
    HOST,
    ReconnectingClient,
    Recorder,
    connect,
    ms,
    process_of,
    send_text,
    text,
    wait_for,
)

from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat, parse_close_payload
from mormot_ws.testing import EchoServer, EchoServerProcess


def refused(port: int) -> bool:
    """Tell whether a connection attempt is refused."""
    try:
        socket.create_connection((HOST, port), BOUND).close()
    except ConnectionRefusedError:
        return True
    return False


def test_stop_is_graceful_and_start_takes_the_same_port(recorder: Recorder) -> None:
    """The client gets 1001, finds the port closed, and comes back when it is open again."""
    with EchoServer() as server, ReconnectingClient(server.port, recorder):
        server.wait_connections(1)
        server.stop()
        assert parse_close_payload(recorder.wait("focConnectionClose").value.payload)[0] == 1001
        assert not server.running
        assert refused(server.port)
        recorder.wait("on_reconnect(None)")
        server.start()
        recorder.wait("focContinuation", 2)
        server.wait_connections(1)


def test_kill_ends_connections_without_a_close_frame(recorder: Recorder) -> None:
    """The client sees 1006, not 1001, and the port is closed; its goodbye is not missed by
    ``start``.
    """
    with EchoServer() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        server.wait_connections(1)
        server.kill()
        assert recorder.wait("focConnectionClose").value.payload == b""
        wait_for(lambda: reconnecting.process.lost_code == 1006)  # after the callback
        assert refused(server.port)
        server.start()
        recorder.wait("focContinuation", 2)


def test_it_keeps_what_it_echoes(recorder: Recorder) -> None:
    """Over all its lives, in order; waiting for too many is a ``TimeoutError`` that tells how many
    came.
    """
    with EchoServer() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        assert send_text(reconnecting.client, "one")
        recorder.wait("focText")
        server.stop()
        server.start()
        recorder.wait("focContinuation", 2)
        assert send_text(reconnecting.client, "two")
        assert [frame.text for frame in server.wait_messages(2)] == ["one", "two"]
        assert [frame.text for frame in server.messages] == ["one", "two"]
        with pytest.raises(TimeoutError, match="not 3 messages, but 2 after"):
            server.wait_messages(3, ms(20))
        with pytest.raises(TimeoutError, match="not 3 upgrades, but 2 after"):
            server.wait_upgrades(3, ms(20))
        with pytest.raises(TimeoutError, match="not 0 connections, but 1 after"):
            server.wait_connections(0, ms(20))


@pytest.mark.parametrize("name", ["echo", "chat", "some.other-name"])
def test_it_takes_any_sub_protocol_on_any_uri(name: str, recorder: Recorder) -> None:
    """A user's client need not be changed to be tested."""
    with EchoServer() as server, HttpClientWebSockets.open(HOST, server.port) as client:
        protocol = WebSocketProtocolChat(name, "", recorder.frame)
        assert client.websockets_upgrade("some/where?x=1", "", False, frozenset(), protocol) == ""
        assert protocol.name == name
        assert send_text(client, "hello")
        assert recorder.wait("focText").value.text == "hello"


def test_it_takes_a_client_without_a_sub_protocol() -> None:
    """As a browser's ``new WebSocket(uri)`` is one."""
    import websocket

    with EchoServer() as server:
        peer = websocket.create_connection(server.uri, timeout=BOUND)
        peer.send("plain")
        assert peer.recv() == "plain"
        peer.close()


def test_it_offers_protocols_of_the_users_own(recorder: Recorder) -> None:
    """With protocols given, it offers these, again after each start, and nothing else."""
    protocol = WebSocketProtocolChat(
        "echo", "", lambda process, frame: process.send_frame(text("mine"))
    )
    with EchoServer(protocol) as server:
        server.stop()
        server.start()
        with connect(server.port, recorder.frame):
            assert recorder.wait("focText").value.text == "mine"
        with HttpClientWebSockets.open(HOST, server.port) as client:
            other = WebSocketProtocolChat("other", "")
            assert "400" in client.websockets_upgrade("", "", False, frozenset(), other)
    with pytest.raises(ValueError, match="passed twice"):
        EchoServer(protocol, protocol)


def test_the_port_stays_its_own_while_it_is_stopped() -> None:
    """Nobody else gets it; once freed, anybody does. A port in use is an ``OSError`` at once."""
    with EchoServer() as server:
        server.stop()
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind((HOST, server.port))
        server.stop()
        server.kill()
        assert repr(server) == f"<EchoServer {HOST}:{server.port} stopped>"
        server.start()
        server.start()
        assert repr(server) == f"<EchoServer {HOST}:{server.port} running connections=0>"
        with pytest.raises(OSError, match=r"in use|cannot listen"):
            EchoServer(port=server.port)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, server.port))


def test_no_client_in_a_hurry_meets_a_server_without_protocols(recorder: Recorder) -> None:
    """A client that connects while ``start`` is at work is upgraded: there is no moment without
    protocols.
    """
    with EchoServer() as server:
        for _ in range(10):
            server.stop()
            starter = threading.Thread(target=server.start)
            starter.start()
            with wait_for(lambda: _open(server.port)) as client:
                starter.join(BOUND)
                protocol = WebSocketProtocolChat("echo", "", recorder.frame)
                assert client.websockets_upgrade("", "", False, frozenset(), protocol) == ""


def _open(port: int) -> HttpClientWebSockets | None:
    client = HttpClientWebSockets.open(HOST, port)
    if client.connected:
        return client
    client.free()
    return None


# -------------------------------------------------------------------------- in a process of its own


def test_a_process_is_killed_stopped_and_frozen(recorder: Recorder) -> None:
    """SIGKILL is no goodbye, ``stop`` is one with 1001, a frozen process answers nobody and keeps
    its connections.
    """
    with EchoServerProcess() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        first = server.pid
        assert f"running pid={first}" in repr(server)
        server.kill()
        assert recorder.wait("focConnectionClose").value.payload == b""
        assert (server.pid, server.running) == (0, False)
        assert refused(server.port)
        server.start()
        recorder.wait("focContinuation", 2)
        assert server.pid not in (0, first)
        server.freeze()
        assert f"frozen pid={server.pid}" in repr(server)
        assert send_text(reconnecting.client, "held back")
        assert not recorder.all("focText")
        server.thaw()
        assert recorder.wait("focText").value.text == "held back"
        server.freeze()
        assert server.stop() == 0
        assert parse_close_payload(recorder.wait("focConnectionClose", 2).value.payload)[0] == 1001
        wait_for(lambda: process_of(reconnecting.client).lost_code == 1001)  # after the callback
        assert server.stop() == 0
        assert repr(server).endswith(" stopped>")


def test_a_process_ends_with_the_one_that_started_it() -> None:
    """Tests that are killed leave no server behind."""
    source = (
        "from mormot_ws.testing import EchoServerProcess; s = EchoServerProcess(); print(s.pid, "
        "flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    wait_for(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # an orphan may wait for whoever collects it
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_process_that_cannot_listen_is_an_error_at_once() -> None:
    """A port in use is an ``OSError``, before any process is started."""
    with EchoServer() as taken, pytest.raises(OSError, match="in use"):
        EchoServerProcess(port=taken.port)
