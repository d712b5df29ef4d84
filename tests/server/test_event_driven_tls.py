"""TLS on the event-driven server: whatever a peer does or leaves undone, no thread belongs to it,
and the others are served.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import BOUND, HOST, RawClient, echo, exchange, fast_settings, wait_for
from support.tls import VERSIONS, Authority, authority, tls_upgraded

from mormot_ws import (
    WebSocketAsyncServer,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    focText,
)

__all__ = ["authority"]

pytestmark = pytest.mark.event_driven

#: on a busy machine a step takes long enough for some followers; one for each peer would be more
FEW = 6


@contextlib.contextmanager
def serving(authority: Authority, callback: Any = echo, **options: Any) -> Iterator[Any]:
    """An event-driven server behind TLS."""
    settings = fast_settings(**options)
    context = authority.server_context()
    with WebSocketAsyncServer(f"{HOST}:0", settings=settings, tls_context=context) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
        yield server


class Hello:
    """A TLS client, made by hand: its bytes go out when the test wants it."""

    def __init__(self, authority: Authority, version: ssl.TLSVersion | None = None) -> None:
        context = authority.client_context(version)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def next_flight(self, received: bytes = b"") -> bytes:
        """Return what the client says to what it has *received*."""
        self._incoming.write(received)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()


def is_served(server: WebSocketAsyncServer, authority: Authority) -> bool:
    """Tell whether a new connection gets its echoes."""
    with tls_upgraded(server.port, authority.client_context()) as other:
        return exchange(other, ["a", "b"]) == ["a", "b"]


def few_threads(server: WebSocketAsyncServer) -> bool:
    return len(server._pool.threads) <= FEW


def test_a_storm_of_handshakes_is_served_by_few_threads(authority: Authority) -> None:
    """All at once; meanwhile a connection that is there already goes on."""
    with (
        serving(authority) as server,
        tls_upgraded(server.port, authority.client_context()) as old,
        contextlib.ExitStack() as stack,
        select.epoll() as poller,
    ):
        waiting = {}
        for _ in range(60):
            sock = stack.enter_context(socket.create_connection((HOST, server.port), BOUND))
            hello = Hello(authority)
            sock.sendall(hello.next_flight())
            waiting[sock.fileno()] = (sock, hello)
            poller.register(sock, select.EPOLLIN)
        assert exchange(old, ["x"]) == ["x"]
        while waiting:
            events = poller.poll(BOUND)
            assert events
            for handle, _ in events:
                sock, hello = waiting[handle]
                sock.sendall(hello.next_flight(sock.recv(65536)))
                if hello.tls.version() is not None:
                    poller.unregister(handle)
                    del waiting[handle]
        assert few_threads(server)
        assert exchange(old, ["y"]) == ["y"]


def test_handshakes_that_stop_anywhere_cost_no_thread(authority: Authority) -> None:
    """Before the first byte, in the middle of a record, and behind the server's answer; they are
    cut after ``handshake_timeout``.
    """
    with serving(authority, handshake_timeout=1_200) as server, contextlib.ExitStack() as stack:
        silent: list[RawClient] = []
        for version in VERSIONS:
            for size in (0, 1, 5, 6, 100, -1, 100_000, 100_000):
                client = stack.enter_context(RawClient(server.port))
                hello = Hello(authority, version)
                client.send(hello.next_flight()[:size])
                silent.append(client)
            # the last one stops in the middle of its second flight
            answer = client.sock.recv(65536)
            client.send(hello.next_flight(answer)[:10])
        wait_for(lambda: server.status().sockets == len(silent))
        assert is_served(server, authority)
        assert few_threads(server)
        for client in silent:
            # an answer, an alert or nothing; then the end
            with contextlib.suppress(ConnectionResetError):
                client.read_to_end()
        assert is_served(server, authority)


def test_peers_that_do_not_read_hold_no_thread(authority: Authority) -> None:
    """What is queued for them waits in their queues; the other receivers have all of it soon."""
    with serving(authority, send_timeout=10_000) as server, contextlib.ExitStack() as stack:
        context = authority.client_context()
        for _ in range(12):
            stack.enter_context(tls_upgraded(server.port, context, 4096))
        reader = stack.enter_context(tls_upgraded(server.port, context))
        wait_for(lambda: server.websocket_connections == 13)
        large = "x" * 300_000
        for number in range(20):
            server.websocket_broadcast(WebSocketFrame(focText, f"{number}{large}"))
            assert reader.receive_frame().payload == f"{number}{large}".encode()
        assert few_threads(server)
        assert exchange(reader, ["x"]) == ["x"]
        assert is_served(server, authority)


def test_a_callback_that_sends_to_a_peer_that_does_not_read_holds_only_itself(
    authority: Authority,
) -> None:
    """Its thread waits for at most ``send_timeout``."""

    def flood(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.payload == b"flood":
            while process.send_frame(WebSocketFrame(focText, b"x" * 200_000)):
                pass
        else:
            echo(process, frame)

    context = authority.client_context()
    with serving(authority, flood, send_timeout=700) as server, contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(tls_upgraded(server.port, context, 4096)) for _ in range(5)]
        for client in deaf:
            client.send_frame(focText, "flood")
        with tls_upgraded(server.port, context) as other:
            for number in range(20):
                assert exchange(other, [str(number)]) == [str(number)]
        wait_for(lambda: not server.websocket_connections)


# ------------------------------------------------- what Python's ssl has no call for


def openssl(sock: ssl.SSLSocket) -> tuple[Any, ctypes.c_void_p]:
    """Return OpenSSL, as Python has loaded it, and its object of that socket."""
    if sys.implementation.name != "cpython" or not sys.platform.startswith("linux"):
        pytest.skip("looks into the memory of CPython")
    import _ssl

    try:
        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.SSL_renegotiate.argtypes = [ctypes.c_void_p]
        library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    except (AttributeError, OSError):
        pytest.skip("this ssl module does not give its OpenSSL away")
    # PyObject_HEAD, the socket, the SSL object
    words = ctypes.cast(id(sock._sslobj), ctypes.POINTER(ctypes.c_void_p))  # type: ignore[attr-defined]
    return library, ctypes.c_void_p(words[3])


def test_new_keys_are_answered_in_the_midst_of_messages(authority: Authority) -> None:
    """A KeyUpdate that asks for one (RFC 8446 §4.6.3), before each message."""
    context = authority.client_context(ssl.TLSVersion.TLSv1_3)
    with serving(authority) as server, tls_upgraded(server.port, context) as client:
        library, tls = openssl(client.sock)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(20):
            assert library.SSL_key_update(tls, 1) == 1
            assert exchange(client, [str(number)]) == [str(number)]
        assert few_threads(server)


def test_a_flood_of_key_updates_of_a_peer_that_does_not_read_delays_no_other(
    authority: Authority,
) -> None:
    """Each of them asks for an answer."""
    context = authority.client_context(ssl.TLSVersion.TLSv1_3)
    over = threading.Event()

    def flood() -> None:
        with tls_upgraded(server.port, context, 4096) as client, contextlib.suppress(OSError):
            client.sock.settimeout(1)
            library, tls = openssl(client.sock)
            for _ in range(3_000):
                if over.is_set() or library.SSL_key_update(tls, 1) != 1:
                    return
                # this writes the message that is due
                client.sock.send(b"")

    with serving(authority) as server, tls_upgraded(server.port, context) as other:
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for number in range(50):
                assert exchange(other, [str(number)]) == [str(number)]
            assert few_threads(server)
            assert is_served(server, authority)
        finally:
            over.set()
            flooding.join(BOUND)


def test_a_renegotiation_is_refused_and_harms_no_other(authority: Authority) -> None:
    """TLS 1.2 has it, and it costs a server much more than its clients."""
    context = authority.client_context(ssl.TLSVersion.TLSv1_2)
    with serving(authority) as server, tls_upgraded(server.port, context) as client:
        library, tls = openssl(client.sock)
        library.SSL_renegotiate(tls)
        client.sock.settimeout(BOUND)
        library.SSL_do_handshake(tls)
        # the alert, and the end of the connection if the client makes one of it
        with contextlib.suppress(OSError):
            exchange(client, ["x"])
        assert is_served(server, authority)
        assert few_threads(server)
