"""The portable transport: every wait has its bound, and ends at once from another thread, on a
system that lacks what Windows lacks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    RawClient,
    Recorder,
    connect,
    echo,
    echo_server,
    ms,
    process_of,
    text,
    upgrade,
    wait_for,
)
from support.pairs import in_thread
from support.raw_server import RawServer
from support.tls import Authority, authority, tls_client, tls_server
from support.windows import be_like_windows

from mormot_ws import HttpClientWebSockets
from mormot_ws.sockets import portable
from mormot_ws.sockets.crtsocket import CrtSocket
from mormot_ws.sockets.deadline import Deadline
from mormot_ws.sockets.transport import Transport, wait_socket

__all__ = ["authority"]

pytestmark = pytest.mark.skipif(
    os.environ.get("MORMOT_WS_TEST_SERVER") == "async",
    reason="the event-driven server needs epoll or kqueue, and Windows has neither",
)

#: a wait that is ended by another thread ends sooner than this
SOON = 0.2
#: the send time-out of the transport, in milliseconds
LIMIT = ms(150)


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    be_like_windows(monkeypatch)


@pytest.fixture
def ends() -> Iterator[tuple[Transport, socket.socket]]:
    """A portable transport, and its peer."""
    with socket.create_server((HOST, 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        ours = socket.create_connection(listener.getsockname()[:2])
        peer, _ = listener.accept()
        transport = Transport(ours, LIMIT)
        with peer:
            yield transport, peer
            transport.close()


def waits(transport: Transport) -> bool:
    """Tell whether a thread has begun to wait."""
    io = transport._io
    return io is not None and bool(io._wakes)


def ended_soon(thread: threading.Thread) -> bool:
    """Tell whether the thread ends now, not at the end of a slice of its wait."""
    thread.join(SOON)
    return not thread.is_alive()


def test_a_read_waits_for_bytes(ends: tuple[Transport, socket.socket]) -> None:
    transport, peer = ends
    thread, read = in_thread(lambda: transport.recv(100))
    wait_for(lambda: waits(transport))
    peer.sendall(b"hello")
    thread.join(BOUND)
    assert read == [b"hello"]


def test_bytes_that_are_there_are_read_piece_by_piece(
    ends: tuple[Transport, socket.socket],
) -> None:
    """A full read may be followed by another one without an event of the kernel."""
    transport, peer = ends
    peer.sendall(b"abcde")
    wait_for(lambda: transport.sock.recv(10, socket.MSG_PEEK) == b"abcde")
    assert [transport.recv(2), transport.recv(2), transport.recv(2)] == [b"ab", b"cd", b"e"]


def test_another_thread_ends_a_read_at_once(ends: tuple[Transport, socket.socket]) -> None:
    transport, _ = ends
    thread, read = in_thread(lambda: transport.recv(100))
    wait_for(lambda: waits(transport))
    transport.shutdown()
    assert ended_soon(thread)
    assert read == [b""]
    assert transport.recv(100) == b""


def test_another_thread_ends_a_write_at_once(ends: tuple[Transport, socket.socket]) -> None:
    transport, _ = ends
    transport._send_timeout = ms(30_000)

    def write() -> None:
        with pytest.raises((BrokenPipeError, ConnectionAbortedError)):
            transport.sendall(bytes(64 << 20))

    thread, done = in_thread(write)
    wait_for(lambda: waits(transport))
    transport.shutdown()
    thread.join(BOUND)
    assert done == [None]


def test_a_read_with_a_deadline_ends_with_it(ends: tuple[Transport, socket.socket]) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].recv_within(100, Deadline(ms(100)))
    assert ms(100) / 1000 <= time.monotonic() - began < ms(100) / 1000 + SOON


def test_another_thread_ends_a_read_with_a_deadline(
    ends: tuple[Transport, socket.socket],
) -> None:
    transport, _ = ends
    thread, read = in_thread(lambda: transport.recv_within(100, Deadline(60_000)))
    wait_for(lambda: waits(transport))
    transport.shutdown()
    assert ended_soon(thread)
    assert read == [b""]


def test_calls_that_must_not_wait_do_not(ends: tuple[Transport, socket.socket]) -> None:
    transport, _ = ends
    assert transport.recv_now(100) is None
    while transport.send_now(bytes(1 << 20)):
        pass


def test_the_peers_end_of_the_stream_ends_a_read(ends: tuple[Transport, socket.socket]) -> None:
    transport, peer = ends
    thread, read = in_thread(lambda: transport.recv(100))
    wait_for(lambda: waits(transport))
    peer.close()
    thread.join(BOUND)
    assert read == [b""]


def test_a_write_to_a_peer_that_takes_nothing_has_a_bound(
    ends: tuple[Transport, socket.socket],
) -> None:
    began = time.monotonic()
    with pytest.raises(BlockingIOError, match="accepted no data for"):
        ends[0].sendall(bytes(64 << 20))
    assert time.monotonic() - began < 6 * LIMIT / 1000


def test_a_slow_reader_is_not_given_up(ends: tuple[Transport, socket.socket]) -> None:
    """It takes the frame in three times the limit, and all the while a little."""
    transport, peer = ends
    transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    # so that a busy machine does not make it look dead
    transport._send_timeout = 2 * LIMIT
    size = 1 << 20
    thread, failed = in_thread(lambda: transport.sendall(bytes(size)))
    read = 0
    pause = threading.Event()
    while read < size:
        read += len(peer.recv(size // 30))
        pause.wait(LIMIT / 1000 / 10)
    thread.join(BOUND)
    assert failed == [None]


def test_a_large_write_is_offered_in_pieces(
    ends: tuple[Transport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows takes any number of bytes at once; then nothing would show a peer that takes none."""
    transport, peer = ends
    io = transport._io
    assert io is not None
    sizes: list[int] = []
    real = io._send
    monkeypatch.setattr(io, "_send", lambda data: (sizes.append(len(data)), real(data))[1])
    thread, _ = in_thread(lambda: transport.sendall(bytes(1 << 20)))
    left = 1 << 20
    while left:
        left -= len(peer.recv(1 << 18))
    thread.join(BOUND)
    # at once, too: all that the kernel takes
    assert transport.send_now(bytes(1 << 22)) > portable._PIECE
    assert max(sizes) <= portable._PIECE


def test_where_the_kernel_does_not_tell_what_it_has_taken_from_us_counts(
    ends: tuple[Transport, socket.socket],
) -> None:
    transport, _ = ends
    transport.sendall(b"abc")
    transport.send_parts(b"de", b"fg")
    transport.send_now(b"h")
    assert transport.output_state() == (8, 0)


def test_without_a_descriptor_for_it_a_wait_ends_a_little_later(
    ends: tuple[Transport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, _ = ends
    waiting = threading.Event()

    def none_left() -> Any:
        waiting.set()
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket, "socketpair", none_left)
    thread, read = in_thread(lambda: transport.recv(100))
    assert waiting.wait(BOUND)
    transport.shutdown()
    thread.join(BOUND)
    assert read == [b""]


def test_a_closed_socket_is_a_network_error(ends: tuple[Transport, socket.socket]) -> None:
    transport, _ = ends
    transport.sock.close()
    with pytest.raises(OSError, match="file descriptor"):
        transport.recv_within(100, Deadline(ms(1_000)))


def test_a_wait_for_a_closed_socket_is_a_network_error(
    ends: tuple[Transport, socket.socket],
) -> None:
    transport, _ = ends
    transport.sock.close()
    with pytest.raises(OSError, match="closed"):
        wait_socket(transport.sock, False, Deadline(ms(1_000)))
    with pytest.raises(OSError, match="closed"):
        transport.wait_writable(Deadline(ms(1_000)))


def test_a_broken_connection_is_reported_by_a_read(ends: tuple[Transport, socket.socket]) -> None:
    transport, peer = ends
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    with pytest.raises(ConnectionResetError):
        transport.recv(100)


def test_a_send_on_a_dying_socket_of_macos_is_a_broken_connection(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    """EPROTOTYPE is what macOS raises there now and then."""
    with echo_server() as server, connect(server.port, recorder.frame) as client:
        process = process_of(client)
        assert process.transport is not None

        def dying(_: object) -> None:
            raise OSError(errno.EPROTOTYPE, "Protocol wrong type for socket")

        monkeypatch.setattr(process.sender, "_write", dying)
        assert not process.send_frame(text("x"))


# ------------------------------------------------------------------------------------ whole clients


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A server that accepts connections and says nothing; its port."""
    over = threading.Event()
    with RawServer(lambda peer: over.wait()) as server:
        try:
            yield server.port
        finally:
            over.set()


@pytest.mark.parametrize("what", ["TLS", "an HTTP proxy"])
def test_another_thread_ends_a_handshake_at_once(what: str) -> None:
    with silent_server() as port:
        client = CrtSocket.__new__(CrtSocket)
        options: dict[str, Any] = (
            {"tls": True} if what == "TLS" else {"proxy": f"http://{HOST}:{port}"}
        )
        CrtSocket.__init__(client, HOST, port, timeout=60_000, **options)
        thread, opened = in_thread(lambda: client.reopen())
        wait_for(lambda: client._opening is not None and waits(client._opening))
        client.interrupt()
        assert ended_soon(thread)
        assert opened[0]
        client.close()


@pytest.mark.parametrize("what", ["TLS", "an HTTP proxy"])
def test_a_handshake_has_its_bound(what: str) -> None:
    with silent_server() as port:
        options: dict[str, Any] = (
            {"tls": True} if what == "TLS" else {"proxy": f"http://{HOST}:{port}"}
        )
        began = time.monotonic()
        client = CrtSocket(HOST, port, timeout=ms(200), **options)
        assert "Timeout" in client.reopen(ms(200))
        assert time.monotonic() - began < BOUND / 2
        client.close()


def test_an_upgrade_has_its_bound_and_free_ends_it() -> None:
    with silent_server() as port, HttpClientWebSockets.open(HOST, port, timeout=ms(150)) as client:
        assert "in time" in client.websockets_upgrade("")
    with silent_server() as port:
        client = HttpClientWebSockets.open(HOST, port, timeout=60_000)
        transport = client.transport
        assert transport is not None
        thread, result = in_thread(lambda: client.websockets_upgrade(""))
        wait_for(lambda: waits(transport))
        client.free()
        assert ended_soon(thread)
        assert result[0]


def test_a_server_cuts_clients_that_send_nothing() -> None:
    with echo_server(handshake_timeout=ms(150)) as server:
        with socket.create_connection((HOST, server.port), timeout=BOUND) as silent:
            assert silent.recv(100) == b""
        with socket.create_connection((HOST, server.port)):
            wait_for(lambda: server.status().sockets == 1)
            began = time.monotonic()
            server.free()
            assert time.monotonic() - began < BOUND / 2


def test_the_header_of_a_load_balancer_has_its_bound_and_free_ends_the_wait() -> None:
    balancers = {"127.0.0.1"}
    with (
        echo_server(handshake_timeout=ms(150), proxy_protocol_from=balancers) as server,
        socket.create_connection((HOST, server.port), timeout=BOUND) as balancer,
    ):
        balancer.sendall(b"PROXY TCP4 ")
        assert balancer.recv(100) == b""
    server = echo_server(handshake_timeout=60_000, proxy_protocol_from=balancers)
    with socket.create_connection((HOST, server.port), timeout=BOUND) as balancer:
        balancer.sendall(b"PROXY TCP4 ")
        wait_for(lambda: server.status().sockets == 1)
        began = time.monotonic()
        server.free()
        assert time.monotonic() - began < BOUND / 2


def test_a_silent_peer_is_noticed_by_heartbeats() -> None:
    recorder = Recorder()
    settings = {
        "heartbeat_delay": ms(60),
        "disconnect_after_invalid_heartbeat_count": 2,
    }
    with echo_server(callback=recorder.frame, **settings) as server, RawClient(server.port) as peer:
        peer.upgrade()
        # it reads nothing, and answers no ping
        wait_for(lambda: server.websocket_connections == 0)


def test_a_long_callback_holds_up_no_other_connection() -> None:
    """The keeper looks at a connection whose callback is long, and goes on with all others."""
    go_on, inside = threading.Event(), threading.Event()

    def callback(process: Any, frame: Any) -> None:
        if frame.opcode.name == "focText" and frame.text == "slow":
            inside.set()
            go_on.wait(BOUND)
        else:
            echo(process, frame)

    recorder = Recorder()
    with (
        echo_server(callback=callback, heartbeat_delay=ms(50)) as server,
        connect(server.port) as slow,
        connect(server.port, recorder.frame) as other,
    ):
        assert process_of(slow).send_frame(text("slow"))
        assert inside.wait(BOUND)
        # several sweeps of the keeper
        keeper = server._keeper
        for _ in range(3):
            swept = threading.Event()
            keeper.call_at(time.monotonic() + ms(60) / 1000, swept.set)
            assert swept.wait(BOUND)
        server.websocket_broadcast(text("to all"))
        wait_for(lambda: "to all" in recorder.texts())
        assert process_of(other).send_frame(text("mine"))
        wait_for(lambda: "mine" in recorder.texts())
        go_on.set()


def test_an_encrypted_connection_works_and_ends(authority: Authority) -> None:
    recorder = Recorder()
    with (
        tls_server(authority.server_context(), echo) as server,
        tls_client(server.port, authority.client_context()) as client,
    ):
        assert upgrade(client, recorder.frame) == ""
        payload = "x" * 300_000
        assert process_of(client).send_frame(text(payload))
        wait_for(lambda: payload in recorder.texts())
        server.websocket_broadcast(text("b"))
        wait_for(lambda: "b" in recorder.texts())
