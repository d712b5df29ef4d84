"""A process of ours in either role, and a plain socket at the other end of its connection, in the
hands of the test.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from mormot_ws import (
    WebSocketProcess,
    WebSocketProtocolChat,
)

from . import (
    BOUND,
    RawClient,
    RawPeer,
    RawServer,
    RawServerPeer,
    Recorder,
    echo_server,
    new_client,
    process_of,
    text,
    wait_for,
)

both_roles = pytest.mark.parametrize("role", ["server", "client"])


class Pair(NamedTuple):
    """A process of ours and the raw peer at the other end of its connection."""

    process: WebSocketProcess
    peer: RawPeer
    recorder: Recorder

    def send_text(self, payload: str) -> bool:
        """Send by the protocol, as the document does."""
        protocol = self.process.protocol
        assert isinstance(protocol, WebSocketProtocolChat)
        return protocol.send_frame(self.process, text(payload))


@contextlib.contextmanager
def pair(
    role: str,
    callback: Callable[..., Any] | None = None,
    protocol: type[WebSocketProtocolChat] = WebSocketProtocolChat,
    **settings: Any,
) -> Iterator[Pair]:
    """Give a running process in that *role*, whose peer is a plain socket in the hands of the
    test.
    """
    recorder = Recorder()
    callback = recorder.frame if callback is None else callback
    if role == "server":
        with echo_server(callback=callback, **settings) as server, RawClient(server.port) as peer:
            server.websocket_protocols.add_once(protocol("echo", "", callback))
            peer.upgrade()
            process = wait_for(lambda: server.is_active_websocket(peer.connection_id))
            assert process is not None
            yield Pair(process, peer, recorder)
        return
    peers: queue.Queue[RawServerPeer] = queue.Queue()
    done = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        peers.put(peer)
        done.wait()

    with RawServer(behaviour) as raw:
        try:
            with new_client(raw.port, **settings) as client:
                assert (
                    client.websockets_upgrade("", "", protocol=protocol("echo", "", callback)) == ""
                )
                yield Pair(process_of(client), peers.get(timeout=BOUND), recorder)
                done.set()
        finally:
            done.set()


def end_of(peer: RawPeer) -> None:
    """Check that nothing more comes from the process, and end the TCP connection, the server's
    side first.
    """
    if not peer.client_side:
        peer.sock.shutdown(socket.SHUT_WR)
    assert peer.read_to_end() == b""
    peer.close()


def wait_flushed(process: WebSocketProcess) -> None:
    """Wait until the thread that writes queued frames has done so; it might take a new one along
    otherwise.
    """
    assert process.safe_out.acquire(timeout=BOUND)
    process.safe_out.release()


def in_thread(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start *action* in a thread; return it and the list that will hold its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(action()))
    thread.start()
    return thread, results
