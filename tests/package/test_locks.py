"""No log record is written, and nothing of the application runs, while a lock of the library is
held. ``MORMOT_WS_TEST_LOCKS=1`` looks at all tests in this way.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    RawClient,
    RawServer,
    RawServerPeer,
    ReconnectingClient,
    Recorder,
    connect,
    drop_on_request,
    echo,
    echo_server,
    fast_settings,
    in_threads,
    ms,
    new_client,
    process_of,
    send_text,
    text,
    upgrade,
    wait_for,
)
from support.locks import LockWatch, look, watched_locks
from support.rest import KINDS, accept_rest, mirror, pair
from support.tls import Authority, tls_client, tls_server
from werkzeug.serving import make_server

from mormot_ws import (
    ClientServices,
    ExponentialBackoff,
    HttpServerRequest,
    ServerServices,
    WebSocketFrame,
    WebSocketFrameList,
    WebSocketProcess,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketProtocolJson,
    WebSocketServer,
    focText,
    wpsRun,
)
from mormot_ws.settings import logHeartbeat, logTextFrameContent
from mormot_ws.wsgi import WebSocketWsgiServer

#: everything that is logged of frames
DETAILS = logHeartbeat | logTextFrameContent


@pytest.fixture
def locks_are_watched() -> None:
    """Whatever the environment says: here the fixture below watches."""


@pytest.fixture(autouse=True)
def watch() -> Iterator[LockWatch]:
    """The watch over the locks of each test here; it fails the test at its end."""
    with watched_locks() as watch:
        yield watch


class LookingChat(WebSocketProtocolChat):
    """A protocol of the application, which looks in all of its methods."""

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        look("clone()")
        clone = type(self)(self.name, self.uri, self.on_incoming_frame)
        self._copy_to(clone)
        return clone

    def get_subprotocols(self) -> str:
        look("get_subprotocols()")
        return super().get_subprotocols()

    def process_handshake(self, extensions: Any) -> str | None:
        look("process_handshake()")
        return super().process_handshake(extensions)

    def after_get_frame(self, frame: WebSocketFrame) -> None:
        look("after_get_frame()")

    def after_upgrade(self, process: WebSocketProcess) -> None:
        look("after_upgrade()")

    def reset(self) -> None:
        look("reset()")

    def __del__(self) -> None:
        look("__del__() of a protocol")


class LookingPolicy(ExponentialBackoff):
    """A policy of the application."""

    def next_delay(self, failure: Any) -> float | None:
        look("next_delay()")
        return super().next_delay(failure)

    def reset(self) -> None:
        look("reset() of the policy")
        super().reset()

    def __del__(self) -> None:
        look("__del__() of a policy")


def policy() -> LookingPolicy:
    """Return a policy that waits for milliseconds."""
    look("the policy's factory")
    return LookingPolicy(base_ms=ms(5), cap_ms=ms(20))


@contextlib.contextmanager
def looking_server(recorder: Recorder, **settings: Any) -> Iterator[WebSocketServer]:
    """Give a server all of whose callbacks are recorded, and echo."""

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        echo(process, frame)

    with echo_server(callback=callback, log_details=DETAILS, **settings) as server:
        server.websocket_protocols.add_once(LookingChat("echo", "", callback))
        server.on_websocket_upgraded = recorder.call("upgraded", 200)
        server.on_websocket_connect = recorder.call("connect")
        server.on_websocket_disconnect = recorder.call("disconnect")
        server.on_websocket_close = recorder.call("close")
        server.settings.on_client_connected = recorder.call("client connected")
        server.settings.on_client_disconnected = recorder.call("client disconnected")
        yield server


def reset_of(peer: RawClient | RawServerPeer) -> None:
    """End a raw peer's connection by a reset."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()


# --------------------------------------------------------------------------------- the check itself


def test_what_runs_under_a_lock_is_found(watch: LockWatch) -> None:
    """A record under the lock of the output is found, with the lock's name; so is a callback."""
    with echo_server() as server, connect(server.port) as client:
        process = process_of(client)
        with process.safe_out:
            assert watch.holds(process.safe_out)
            process.abort("logs this under the lock")
        wait_for(lambda: not process.reader.safe_in.locked())
        with process.reader.safe_in:
            watch.callback(lambda: None, "a callback")()
    found, watch.found[:] = watch.found[:], []
    assert len(found) == 2
    assert "logs this under the lock" in found[0]
    assert "mormot_ws.process.sender.safe_out" in found[0]
    assert "a callback\nunder mormot_ws.process.reader.safe_in" in found[1]


# -------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "deflate"])
def test_messages_broadcasts_and_a_close_handshake(compressed: bool, recorder: Recorder) -> None:
    """Both sides, in all ways to send, from the upgrade to the last callback."""
    ours = Recorder()
    settings: dict[str, Any] = {"permessage_deflate": compressed, "heartbeat_delay": ms(100)}

    def numbers() -> Iterator[int]:
        for process in processes:
            look("the iterator of a broadcast")
            yield process.connection_id

    with looking_server(recorder, **settings) as server:
        clients = [connect(server.port, ours.frame, log_details=DETAILS, **settings) for _ in "abc"]
        processes = [process_of(client) for client in clients]
        in_threads(3, lambda n: [send_text(clients[n], str(k)) for k in range(20)])
        for process in processes:
            assert process.send_frame_async(text("queued"))
        ours.wait("focText", 63)
        wait_for(lambda: server.websocket_connections == 3)
        assert server.websocket_broadcast(text("to all"), numbers()) == 3
        ours.wait("focText", 66)
        assert processes[0].shutdown(1000, "bye")
        processes[1].abort("enough")
        for client in clients:
            client.free()
        recorder.wait("client disconnected", 3)


def test_failing_senders(recorder: Recorder) -> None:
    """A frame that cannot be prepared, sends to a peer that has gone, and a queue that is full."""

    class Refusing(LookingChat):
        def before_send_frame(self, frame: WebSocketFrame) -> None:
            if frame.payload == b"refused":
                raise ValueError("not this one")

    with looking_server(recorder, outgoing_policy="close", max_outgoing_frames=2) as server:
        server.websocket_protocols.add_once(Refusing("echo", "", recorder.frame))
        peers = [RawClient(server.port) for _ in range(3)]
        processes = []
        for peer in peers:
            peer.upgrade()
            number = peer.connection_id
            processes.append(wait_for(lambda n=number: server.is_active_websocket(n)))
        recorder.wait("focContinuation", 3)
        with pytest.raises(ValueError, match="not this one"):
            processes[0].send_frame(text("refused"))
        processes[0].send_frame_async(text("refused"))
        reset_of(peers[0])
        wait_for(lambda: not processes[0].send_frame(text("into nothing")))
        with processes[1].safe_out:
            queued = [processes[1].outgoing.push(text("queued")) for _ in range(3)]
        assert queued == [True, True, False]
        processes[1].send_frame_async(text("too much"))
        for peer in peers[1:]:
            reset_of(peer)
        recorder.wait("client disconnected", 3)


@pytest.mark.parametrize(
    "bytes_",
    [b"\x83\x80abcd", b"\xc1\x80abcd", b"\x81\x84\0\0\0\0\xff\xff\xff\xff", b"\x88\x81\0\0\0\0x"],
)
def test_peers_that_break_the_rules(bytes_: bytes, recorder: Recorder) -> None:
    """Reserved opcodes and bits, bad UTF-8, a bad close frame."""
    with looking_server(recorder) as server, RawClient(server.port) as peer:
        peer.upgrade()
        peer.send(bytes_)
        recorder.wait("client disconnected")


def test_upgrades_that_are_refused(recorder: Recorder) -> None:
    """By the application, by a missing protocol, by a status of the server, by garbage."""
    with looking_server(recorder, allowed_origins=["https://good"]) as server:
        server.on_websocket_upgraded = recorder.call("upgraded", 403)
        with new_client(server.port) as client:
            assert upgrade(client)
        with new_client(server.port) as client:
            assert client.websockets_upgrade("", "", protocol=LookingChat("other", ""))
        for request in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01garbage\r\n\r\n"):
            with RawClient(server.port) as peer:
                peer.send(request)
                peer.sock.shutdown(socket.SHUT_WR)
                peer.read_to_end()


def test_reconnections_and_their_policy(recorder: Recorder) -> None:
    """The client's callbacks, its policies and their finalisers, over lost connections."""
    with (
        RawServer(*[drop_on_request] * 3) as raw,
        ReconnectingClient(
            raw.port, recorder, reconnect_policy=policy, log_details=DETAILS
        ) as client,
    ):
        client.drop()
        client.wait_reconnected()
        client.drop()
        client.wait_reconnected(2)
        client.drop()
        recorder.wait("on_websockets_closed", 3)


def test_a_client_that_upgrades_again_drops_its_policy_without_a_lock(recorder: Recorder) -> None:
    """The finalisers of the last policy and of the last protocol run without a lock."""
    with (
        looking_server(recorder) as server,
        new_client(server.port, reconnect_policy=policy) as client,
    ):
        for _ in range(3):
            protocol = LookingChat("echo", "", recorder.frame)
            error = client.websockets_upgrade("", "", protocol=protocol, reconnect=True)
            assert not error, error
            del protocol
            process_of(client).shutdown()
            wait_for(lambda: process_of(client).state is not wpsRun)
            thread = process_of(client).owner_thread
            assert thread is not None
            thread.join(BOUND)
            assert client.reopen() == ""
        gc.collect()


# ---------------------------------------------------------------------------------------------- TLS


def test_tls_from_the_handshake_to_its_close(tmp_path: Path, recorder: Recorder) -> None:
    """Messages, an orderly close, a reset in the middle, and a peer that speaks no TLS."""
    authority = Authority(tmp_path)
    with tls_server(authority.server_context(), recorder.frame, log_details=DETAILS) as server:
        for end in ("close", "cut"):
            ours = Recorder()
            with tls_client(server.port, authority.client_context()) as client:
                assert upgrade(client, ours.frame) == ""
                assert send_text(client, "hello")
                recorder.wait("focText")
                if end == "cut":
                    process_of(client).abort("cut")
        recorder.wait("focConnectionClose", 2)
        with RawClient(server.port) as peer:
            peer.send(b"GET / HTTP/1.1\r\n\r\n")
            peer.read_to_end()


# ------------------------------------------------------------------------------- requests, services


@pytest.mark.parametrize("kind", KINDS)
def test_requests_both_ways(kind: str) -> None:
    """With answers, without, too late, and with an application that raises."""

    def application(ctxt: HttpServerRequest) -> int:
        look("on_request")
        if ctxt.url == "raise":
            raise ValueError("as it was asked")
        return mirror(ctxt)

    with pair(kind, application, application, log_details=DETAILS) as both:
        for url in ("one", "raise"):
            both.client.request(url, "GET")
            both.call_back(url)
        both.call_back("no answer", non_blocking=True)
        in_threads(4, lambda n: both.call_back(f"at once {n}"))


def test_a_request_whose_sending_fails() -> None:
    """The record of the failed write is not written under the lock of the request."""

    def wait(peer: RawServerPeer) -> None:
        accept_rest(peer, "synopsejson")
        done.wait(BOUND)

    done = threading.Event()
    with RawServer(wait) as raw, new_client(raw.port) as client:
        assert not client.websockets_upgrade("root", "", protocol=WebSocketProtocolJson("root"))
        process = process_of(client)
        assert process.transport is not None
        # a write fails from here on, and the loop does not know
        process.transport.sock.shutdown(socket.SHUT_WR)
        assert process.notify_callback(HttpServerRequest("lost", "GET")) == 666
        assert process.last_error.startswith("write failed")
        done.set()


class Computed:
    """A service whose methods are computed attributes."""

    @property
    def add(self) -> Any:
        look("an attribute of the implementation")
        return lambda a, b: a + b


class Adder:
    """Its interface."""

    def add(self, a: int, b: int) -> int:
        raise NotImplementedError


def test_services() -> None:
    """Registering and calling, both ends."""
    with pair("synopsejson", on_request=None, on_callback=None) as both:
        server, client = ServerServices(both.server), ClientServices(both.client)
        server.register(Adder, Computed())
        client.register(Adder, Computed())
        assert client.get(Adder).add(1, 2) == 3
        assert server.get(Adder, both.process.connection_id).add(3, 4) == 7


def test_a_protocol_looks_at_frames_of_a_list_without_its_lock() -> None:
    """``frame_is`` may be the application's."""

    class Heads(WebSocketProtocolChat):
        def frame_is(self, frame: WebSocketFrame, head: str) -> bool:
            look("frame_is()")
            return frame.text.startswith(head)

    frames = WebSocketFrameList()
    frames.push(WebSocketFrame(focText, "one"))
    found = frames.pop(Heads("heads", ""), "o")
    assert found is not None
    assert found.text == "one"


# --------------------------------------------------------------------------------------------- WSGI


def test_a_wsgi_server(recorder: Recorder) -> None:
    """The same inside another server."""
    with WebSocketWsgiServer("hosted", settings=fast_settings(log_details=DETAILS)) as websockets:
        websockets.websocket_protocols.add(LookingChat("echo", "", recorder.frame))
        websockets.on_websocket_connect = recorder.call("connect")
        websockets.on_websocket_disconnect = recorder.call("disconnect")
        hosting = make_server(HOST, 0, websockets, threaded=True)
        thread = threading.Thread(target=hosting.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with connect(hosting.server_port) as client:
                assert send_text(client, "hello")
                recorder.wait("focText")
            recorder.wait("disconnect")
        finally:
            hosting.shutdown()
            thread.join(BOUND)
            hosting.server_close()
