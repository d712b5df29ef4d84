"""A server is replaced by another one on the same listening socket, and no visitor is refused."""

from __future__ import annotations

import socket
import threading
import time

from support import BOUND, HOST, RawClient, echo, fast_settings, wait_for

from mormot_ws import WebSocketProtocolChat, WebSocketServer, focConnectionClose, focText


def server_on(listening: socket.socket) -> WebSocketServer:
    """Return a server with a socket of its own for the same port, as a new process has one."""

    def prepare(server: WebSocketServer) -> None:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))

    return WebSocketServer(socket=listening.dup(), settings=fast_settings(), prepare=prepare)


def visit(port: int) -> None:
    """Connect, upgrade and get an answer, or the goodbye of a server that stops."""
    with RawClient(port) as client:
        client.upgrade()
        client.send_frame(focText, "hello")
        frame = client.receive_frame()
        assert frame.payload == b"hello" or frame.opcode is focConnectionClose


def test_no_visitor_is_refused_while_servers_are_replaced() -> None:
    """They come one after another, from two threads, while four servers follow each other."""
    faults: list[str] = []
    visits = [0, 0]
    done = threading.Event()

    def visitor(number: int) -> None:
        while not done.is_set():
            try:
                visit(port)
            except (OSError, EOFError, AssertionError) as exc:
                faults.append(repr(exc))
            visits[number] += 1

    with socket.create_server((HOST, 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        server = server_on(listening)
        threads = [threading.Thread(target=visitor, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                before = sum(visits)
                wait_for(lambda before=before: sum(visits) > before + 5)  # type: ignore[misc]
                following = server_on(listening)
                server.free()
                server = following
        finally:
            done.set()
            for thread in threads:
                thread.join(BOUND)
            server.free()
    assert faults == []


def test_an_opening_handshake_may_end_while_the_server_stops() -> None:
    """Half a request is there when free() is called: it is answered, then comes the goodbye."""
    with socket.create_server((HOST, 0)) as listening:
        server = server_on(listening)
        with RawClient(server.port) as client:
            request = client.request()
            client.send(request[:40])
            wait_for(lambda: server.status().sockets == 1)
            stopping = threading.Thread(target=server.free)
            stopping.start()
            wait_for(lambda: server._stopping)
            client.send(request[40:])
            assert client.read_head().status == 101
            assert client.receive_opcode(focConnectionClose).payload[:2] == b"\x03\xe9"
            client.close()
            stopping.join(BOUND)


def test_a_visitor_who_says_nothing_delays_the_stop_by_half_a_second_at_most() -> None:
    """And a server with a port of its own by nothing: nobody would serve those who come next."""
    with socket.create_server((HOST, 0)) as listening:
        server = server_on(listening)
        with RawClient(server.port):
            wait_for(lambda: server.status().sockets == 1)
            began = time.monotonic()
            server.free()
            assert time.monotonic() - began < BOUND
    assert server.status().sockets == 0
