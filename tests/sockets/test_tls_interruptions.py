"""Writes over TLS that a real signal interrupts in the main thread, and peers that read slowly or
not at all.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mormot_ws import (
    PermessageDeflate,
    WebSocketFrame,
    WebSocketProcess,
    focBinary,
    focPong,
)
from tests.support import BOUND, Recorder, active, ms, wait_for
from tests.support.tls import Authority, TlsRawClient, authority, tls_server, tls_upgraded

__all__ = ["authority"]

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs such signals")

#: what fits into no buffer of the kernel, compressed or not
BYTES = os.urandom(10 << 20)
BIG = WebSocketFrame(focBinary, BYTES)


class Interrupted(Exception):
    """A signal handler's own exception."""


@pytest.fixture
def interrupting() -> Iterator[Callable[[Callable[[], bool]], threading.Thread]]:
    """A function that raises :class:`Interrupted` here as soon as its condition is true."""

    def handler(*_: object) -> None:
        raise Interrupted

    main = threading.main_thread().ident or 0

    def start(condition: Callable[[], bool]) -> threading.Thread:
        def run() -> None:
            wait_for(condition)
            signal.pthread_kill(main, signal.SIGUSR1)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield start
    finally:
        signal.signal(signal.SIGUSR1, before)


def is_stuck(process: WebSocketProcess) -> bool:
    """Tell whether the kernel's buffers are full, and stay so."""
    before = process.output_state()
    # "stay so" is a matter of time
    time.sleep(0.05)
    return before is not None and before[1] > 100_000 and before == process.output_state()


def send_big(process: WebSocketProcess) -> None:
    process.send_frame(BIG)


def send_behind_a_batch(process: WebSocketProcess) -> None:
    assert process.send_frame_async(WebSocketFrame(focBinary, BYTES))
    wait_for(lambda: process.sender.batch.wire is not None)
    process.send_frame(WebSocketFrame(focBinary, b"behind it"))


def send_a_control_frame_behind_a_batch(process: WebSocketProcess) -> None:
    assert process.send_frame_async(WebSocketFrame(focBinary, BYTES))
    wait_for(lambda: process.sender.batch.wire is not None)
    process.send_frame(WebSocketFrame(focPong, b"alive"))


def close_behind_a_batch(process: WebSocketProcess) -> None:
    assert process.send_frame_async(WebSocketFrame(focBinary, BYTES))
    wait_for(lambda: process.sender.batch.wire is not None)
    process.shutdown()


@pytest.mark.parametrize(
    "send",
    [send_big, send_behind_a_batch, send_a_control_frame_behind_a_batch, close_behind_a_batch],
)
@pytest.mark.parametrize("deflate", [False, True])
def test_a_signal_in_the_middle_of_a_write_gives_the_connection_up(
    authority: Authority,
    recorder: Recorder,
    interrupting: Callable[[Callable[[], bool]], threading.Thread],
    send: Callable[[WebSocketProcess], None],
    deflate: bool,
) -> None:
    """The exception is raised again, nothing follows, and no lock stays taken."""
    options = PermessageDeflate(level=1) if deflate else False
    with (
        tls_server(
            authority.server_context(),
            recorder.frame,
            permessage_deflate=options,
            send_timeout=20_000,
            close_timeout=20_000,
        ) as server,
        TlsRawClient(server.port, authority.client_context(), receive_buffer=4096) as client,
    ):
        offer = b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        client.send(client.request("", "echo").replace(b"\r\n\r\n", offer))
        number = int(client.read_head().headers["sec-websocket-connection-id"])
        process = active(server, number)
        assert (process.protocol.compression is not None) == deflate
        thread = interrupting(lambda: is_stuck(process))
        begin = time.monotonic()
        with pytest.raises(Interrupted):
            send(process)
        thread.join()
        assert time.monotonic() - begin < BOUND
        recorder.wait("focConnectionClose")
        # a close frame that was begun counts as sent
        assert process.close_code == (1000 if send is close_behind_a_batch else 1006)
        assert not process.send_frame(WebSocketFrame(focBinary, b"late"))
        assert process.sender.safe_out.acquire(timeout=BOUND)
        process.sender.safe_out.release()


def slow_reader(client: socket.socket, enough: threading.Event) -> None:
    """Read 10 kB/s, in ten pieces a second, until *enough*."""
    while not enough.wait(0.1):
        # the bytes of the stream: an ``SSLSocket`` takes whole records, every 1.6 seconds
        socket.socket.recv(client, 1024)


def test_a_peer_that_reads_ten_kilobytes_a_second_is_not_given_up(
    authority: Authority, recorder: Recorder
) -> None:
    """The write outlasts ``send_timeout`` several times."""
    with (
        tls_server(authority.server_context(), recorder.frame, send_timeout=ms(700)) as server,
        tls_upgraded(server.port, authority.client_context(), receive_buffer=4096) as client,
    ):
        process = active(server, client.connection_id)
        transport = process.transport
        assert transport is not None
        transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        enough = threading.Event()
        reader = threading.Thread(target=slow_reader, args=(client.sock, enough))
        reader.start()
        try:
            begin = time.monotonic()
            assert process.send_frame(WebSocketFrame(focBinary, bytes(60_000)))
            assert time.monotonic() - begin > 2 * ms(700) / 1000
        finally:
            enough.set()
            reader.join(BOUND)
        # nobody reads any more
        begin = time.monotonic()
        assert not process.send_frame(WebSocketFrame(focBinary, bytes(1 << 20)))
        assert time.monotonic() - begin < 6 * ms(700) / 1000
        recorder.wait("focConnectionClose")
        assert "does not read" in process.last_error
