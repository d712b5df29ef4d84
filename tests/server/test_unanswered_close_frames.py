"""Close frames of a server that are not answered: native clients ignore them once they have
reconnected, and notice only the end of TCP.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time

import pytest
from support import BOUND, RawClient, Recorder, active, echo, echo_server, ms, wait_for
from support.pairs import pair
from support.tls import Authority, TlsRawClient, authority, tls_server

from mormot_ws import WebSocketServer, focConnectionClose, focText

__all__ = ["authority"]

#: a server that waits for close frames alone is found out by it
LONG = 3 * BOUND


def answer_the_first_close_frame(server: WebSocketServer, peer: RawClient) -> None:
    """Be closed by the server, as a native client is before it reconnects."""
    process = active(server, peer.connection_id)
    thread = threading.Thread(target=process.shutdown)
    thread.start()
    peer.send_frame(focConnectionClose, peer.receive_opcode(focConnectionClose).payload)
    assert peer.read_to_end() == b""
    peer.close()
    thread.join(BOUND)


def ignore_close_frames(peer: RawClient) -> None:
    """Read as a native client that has reconnected: only the end of TCP ends it."""
    peer.read_to_end()
    peer.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_free_does_not_wait_long_for_native_clients_that_have_reconnected(
    authority: Authority, tls: bool
) -> None:
    """The server ends its streams soon, all at once; such clients then leave."""
    timeout = int(LONG * 1000)
    if tls:
        server = tls_server(authority.server_context(), echo, close_timeout=timeout)
    else:
        server = echo_server(close_timeout=timeout)

    def native_client() -> RawClient:
        peer = (
            TlsRawClient(server.port, authority.client_context()) if tls else RawClient(server.port)
        )
        peer.upgrade()
        return peer

    with contextlib.ExitStack() as stack:
        stack.callback(server.free)
        threads = []
        for _ in range(3):
            answer_the_first_close_frame(server, stack.enter_context(native_client()))
            peer = stack.enter_context(native_client())
            threads.append(threading.Thread(target=ignore_close_frames, args=(peer,)))
        for thread in threads:
            thread.start()
        began = time.monotonic()
        server.free()
        assert time.monotonic() - began < BOUND / 2
        for thread in threads:
            thread.join(BOUND)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_what_a_peer_sends_behind_the_end_of_our_stream_is_read(
    authority: Authority, recorder: Recorder, tls: bool
) -> None:
    """A peer that needs longer still hands over its messages, and its answer counts."""
    timeout = int(LONG * 1000)
    with contextlib.ExitStack() as stack:
        if tls:
            server = tls_server(authority.server_context(), recorder.frame, close_timeout=timeout)
            stack.callback(server.free)
            peer: RawClient = TlsRawClient(server.port, authority.client_context())
        else:
            server = echo_server(callback=recorder.frame, close_timeout=timeout)
            stack.callback(server.free)
            peer = RawClient(server.port)
        stack.enter_context(peer)
        peer.upgrade()
        process = active(server, peer.connection_id)
        answered: list[bool] = []
        thread = threading.Thread(target=lambda: answered.append(process.shutdown(4000, "bye")))
        thread.start()
        close = peer.receive_opcode(focConnectionClose)
        sent = 0
        # until the end of the server's stream
        while not select.select([peer.sock], [], [], 0.001)[0]:
            peer.send_frame(focText, "on its way")
            sent += 1
        assert peer.receive() == b""
        peer.send_frame(focText, "late")
        peer.send_frame(focConnectionClose, close.payload)
        thread.join(BOUND)
        peer.close()
        assert answered == [True]
        recorder.wait("focConnectionClose")
        assert recorder.names.count("focText") == sent + 1


def test_the_stream_of_a_client_does_not_end_before_the_servers() -> None:
    """RFC 6455 §7.1.1: the server ends TCP first; a client's wait ends with the cut."""
    ends = []
    with pair("client", close_timeout=ms(350)) as (process, peer, _):
        process.end_output = lambda: ends.append(process)  # type: ignore[method-assign]
        assert not process.shutdown()
        wait_for(lambda: peer.read_to_end() is not None)
        assert not ends
        assert process.last_error == "no answer to our close frame"
