"""WebSocketServer on real sockets: listening, upgrading, events, broadcast. Its end, and those of
connections: ``test_server_life.py``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    RawClient,
    Recorder,
    active,
    echo,
    echo_server,
    exchange,
    ms,
    refused_port,
    text,
    upgraded,
    wait_for,
)

from mormot_ws import (
    HttpServerError,
    WebSocketAsyncServer,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketServer,
    WebSocketServerSocket,
    focBinary,
    focConnectionClose,
    focPing,
    focText,
    wpsRun,
)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


# ---------------------------------------------------------------------------------------- listening


@pytest.mark.parametrize("form", ["{}", " {} ", "127.0.0.1:{}", "localhost:{}"])
def test_a_port_is_given_as_text_with_or_without_host(form: str) -> None:
    """'8999' and 'host:8999' listen on that port."""
    port = free_port()
    with WebSocketServer(form.format(port)) as server, RawClient(port):
        assert server.port == port


def test_a_port_is_given_as_a_number() -> None:
    """8999 listens on that port."""
    port = free_port()
    with WebSocketServer(port) as server, RawClient(port):
        assert server.port == port


@pytest.mark.parametrize("zero", ["0", 0, "127.0.0.1:0"])
def test_port_0_is_a_free_one_and_the_real_number_is_told(zero: str | int) -> None:
    """``server.port`` is the port that the system chose."""
    with WebSocketServer(zero) as server, RawClient(server.port):
        assert server.port > 0


def test_a_host_limits_the_server_to_its_address() -> None:
    """With a host the server listens there, without one on all addresses."""
    with WebSocketServer("127.0.0.1:0") as one, WebSocketServer("0") as all_of_them:
        assert one.host == "127.0.0.1"
        assert all_of_them.host == "0.0.0.0"


def test_an_ipv6_address_stands_in_brackets() -> None:
    """'[::1]:0' listens on the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with (
        WebSocketServer("[::1]:0") as server,
        socket.create_connection(("::1", server.port), BOUND),
    ):
        assert server.host == "::1"


@pytest.mark.parametrize(
    "port",
    ["", "abc", "127.0.0.1", "127.0.0.1:", ":8999", "65536", "-1", -1, 65536, None, 1.5, True],
)
def test_what_is_no_port_is_a_value_error(port: Any) -> None:
    """A port that can never work is refused by the constructor."""
    with pytest.raises(ValueError, match="port must"):
        WebSocketServer(port)


def test_a_taken_port_raises_http_server_error_at_once() -> None:
    """A server that cannot bind its port raises from the constructor, naming the address."""
    with refused_port() as port, pytest.raises(HttpServerError, match=rf"127\.0\.0\.1:{port}"):
        WebSocketServer(f"127.0.0.1:{port}")


def test_an_address_of_another_machine_raises_http_server_error() -> None:
    """An address that is not ours cannot be listened on."""
    with pytest.raises(HttpServerError, match=r"192\.0\.2\.1"):
        WebSocketServer("192.0.2.1:0")


def test_a_port_can_be_used_again_at_once() -> None:
    """A server that was freed with connections leaves its port to the next one."""
    with echo_server() as first, upgraded(first.port) as client:
        assert exchange(client, ["a"]) == ["a"]
        first.free()
        with echo_server(first.port) as second, upgraded(second.port) as other:
            assert exchange(other, ["b"]) == ["b"]


# -------------------------------------------------------------------------------------- the upgrade


def test_connection_ids_count_every_accepted_connection(server: WebSocketServer) -> None:
    """IDs start with 1 and grow by one for each TCP connection, upgraded or not."""
    with (
        upgraded(server.port) as first,
        RawClient(server.port) as plain,
        upgraded(server.port) as third,
    ):
        assert (first.connection_id, third.connection_id) == (1, 3)
        plain.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert plain.read_answer()[0].status == 426


def test_the_connection_id_of_the_answer_is_the_process_one(server: WebSocketServer) -> None:
    """The header, the server's process and its protocol agree on the connection's number."""
    with upgraded(server.port) as client:
        process = active(server, client.connection_id)
        assert process.connection_id == process.protocol.connection_id == client.connection_id


def test_the_sub_protocol_is_answered_in_the_clients_spelling(server: WebSocketServer) -> None:
    """Names are matched whatever their case, and come back as they were asked for."""
    with RawClient(server.port) as client:
        assert client.upgrade(protocol="nobody, ECHO").headers["sec-websocket-protocol"] == "ECHO"


def test_without_a_sub_protocol_only_an_exact_uri_matches() -> None:
    """A protocol registered for a URI serves requests for it that name none, and the answer names
    none either.
    """
    with echo_server() as server:
        server.websocket_protocols.add(WebSocketProtocolChat("room", "chat/room", echo))
        with RawClient(server.port) as client:
            head = client.upgrade("Chat/Room?user=1", protocol="")
            assert "sec-websocket-protocol" not in head.headers
            assert exchange(client, ["x"]) == ["x"]


def test_each_connection_gets_its_own_clone(server: WebSocketServer) -> None:
    """Two connections have two protocol objects, with the callback of the registered one."""
    with upgraded(server.port) as one, upgraded(server.port) as other:
        processes = active(server, one.connection_id), active(server, other.connection_id)
        assert processes[0].protocol is not processes[1].protocol
        assert exchange(one, ["1"]) + exchange(other, ["2"]) == ["1", "2"]


def test_the_protocol_knows_where_its_peer_comes_from(server: WebSocketServer) -> None:
    """The upgrade's URI with its query, the bearer token and the address are on the connection's
    protocol.
    """
    with RawClient(server.port) as client:
        client.send(client.request("room?x=1", Authorization="Bearer secret"))
        head = client.read_head()
        protocol = active(server, int(head.headers["sec-websocket-connection-id"])).protocol
        assert (protocol.upgrade_uri, protocol.upgrade_bearer_token) == ("room?x=1", "secret")
        assert (protocol.remote_ip, protocol.remote_localhost) == ("127.0.0.1", True)


def test_frames_in_the_segment_of_the_request_are_not_lost(server: WebSocketServer) -> None:
    """A client in a hurry may send frames together with its upgrade request."""
    with RawClient(server.port) as client:
        client.upgrade(behind=client.encoded(focText, "one") + client.encoded(focText, "two"))
        assert [client.receive_opcode(focText).text for _ in range(2)] == ["one", "two"]


def test_a_frame_cut_by_the_end_of_the_request_segment_is_put_together(
    server: WebSocketServer,
) -> None:
    """Half a frame behind the request waits for its other half."""
    with RawClient(server.port) as client:
        wire = client.encoded(focText, "halves")
        client.upgrade(behind=wire[:5])
        client.send(wire[5:])
        assert client.receive_opcode(focText).text == "halves"


class _Picky(WebSocketProtocolChat):
    """Refuses the URI 'nowhere' and an extension 'x-bad'."""

    def process_handshake_uri(self, uri: str) -> bool:
        return uri != "nowhere"

    def process_handshake(self, extensions: Any) -> str | None:
        return None if "x-bad" in extensions else ""


_BAD_HANDSHAKES: dict[str, tuple[bytes, int]] = {
    "unknown sub-protocol": (RawClient.request(protocol="other"), 400),
    "no sub-protocol and no URI of one": (RawClient.request(protocol=""), 400),
    "sub-protocol that is no token": (RawClient.request(protocol="e cho"), 400),
    "no key": (RawClient.request(Sec_WebSocket_Key=None), 400),
    "key of 15 bytes": (RawClient.request(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j"), 400),
    "key that is no base64": (RawClient.request(Sec_WebSocket_Key="*" * 24), 400),
    "no version": (RawClient.request(Sec_WebSocket_Version=None), 400),
    "refused URI": (RawClient.request("nowhere"), 404),
    "refused extension": (RawClient.request(Sec_WebSocket_Extensions="x-bad"), 406),
    "refused by on_websocket_upgraded": (RawClient.request("forbidden"), 403),
}


@pytest.mark.parametrize("case", _BAD_HANDSHAKES)
def test_a_refused_upgrade_gets_its_status_and_is_closed(case: str) -> None:
    """Each bad handshake is answered in the native server's form, and the socket is closed."""
    request, status = _BAD_HANDSHAKES[case]
    with WebSocketServer("127.0.0.1:0") as server:
        server.websocket_protocols.add(_Picky("echo"))
        server.on_websocket_upgraded = lambda protocol: (
            403 if protocol.upgrade_uri == "forbidden" else 200
        )
        with RawClient(server.port) as client:
            client.send(request)
            answer = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 %d WebSocket Upgrade Error\r\n" % status)
        assert b"\r\nConnection: Close\r\n" in answer
        # a client that names none is told which there are
        told = b"'echo'" in answer.partition(b"\r\n\r\n")[2]
        assert told if "no sub-protocol" in case else answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("version", ["8", "12", "x"])
def test_an_unsupported_version_is_told_the_one_that_works(
    server: WebSocketServer, version: str
) -> None:
    """A version other than 13 is refused, with the header that RFC 6455 §4.4 wants."""
    with RawClient(server.port) as client:
        client.send(client.request(Sec_WebSocket_Version=version))
        head = client.read_head()
        assert head.status in (400, 426)
        assert head.headers["sec-websocket-version"] == "13"
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        # TLS, spoken to a port without it
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nbroken line\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, 413),
    ],
    ids=["tls", "no host", "no header", "long head", "long body"],
)
def test_a_request_that_is_none_gets_its_status_and_is_closed(data: bytes, status: int) -> None:
    """What is no acceptable HTTP request is answered with the fitting status, and the socket is
    closed.
    """
    with (
        echo_server(max_header_bytes=16_384, max_body_bytes=1_000) as server,
        RawClient(server.port) as client,
    ):
        client.send(data)
        assert client.read_head().status == status
        client.read_to_end()


def test_a_refused_client_does_not_count_as_connection(server: WebSocketServer) -> None:
    """After a refusal there is no WebSocket connection, and the next client is served."""
    with RawClient(server.port) as bad:
        bad.send(bad.request(protocol="other"))
        bad.read_to_end()
    assert server.websocket_connections == 0
    with upgraded(server.port) as good:
        assert exchange(good, ["x"]) == ["x"]


@pytest.mark.parametrize(
    "start", [b"", b"GET / HT", RawClient.request()[:-2]], ids=["silent", "cut line", "cut head"]
)
def test_a_client_that_does_not_finish_its_request_is_dropped(start: bytes) -> None:
    """After ``handshake_timeout`` a connection without a whole request is closed."""
    with echo_server(handshake_timeout=ms(100)) as server, RawClient(server.port) as client:
        if start:
            client.send(start)
        began = time.monotonic()
        client.read_to_end()
        assert time.monotonic() - began < BOUND / 2


def test_the_handshake_time_is_not_renewed_by_every_byte() -> None:
    """A client that sends its request byte by byte has the same time for all of it."""
    with echo_server(handshake_timeout=ms(150)) as server, RawClient(server.port) as client:
        give_up = time.monotonic() + BOUND / 2
        client.sock.settimeout(10 * MS)
        request = b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 10_000
        with contextlib.suppress(ConnectionError):
            for byte in request:
                client.send(bytes((byte,)))
                try:
                    assert not client.receive()
                    break
                except TimeoutError:
                    assert time.monotonic() < give_up, "still connected"


# ------------------------------------------------------------------------------------------- events


def _record_all(server: WebSocketServer, recorder: Recorder) -> None:
    server.on_websocket_upgraded = recorder.call("upgraded", 200)
    server.on_websocket_connect = recorder.call("connect")
    server.on_websocket_disconnect = recorder.call("disconnect")
    server.on_websocket_close = recorder.call("close")
    server.settings.on_client_connected = recorder.call("on_client_connected")
    server.settings.on_client_disconnected = recorder.call("on_client_disconnected")


_ALL_EVENTS = [
    "upgraded",
    "connect",
    "on_client_connected",
    "focContinuation",
    "focText",
    "focConnectionClose",
    "on_client_disconnected",
    "disconnect",
    "close",
]


@pytest.mark.parametrize("goodbye", [True, False], ids=["close frame", "lost"])
def test_the_events_of_a_connection_come_once_and_in_order_in_its_thread(
    recorder: Recorder, goodbye: bool
) -> None:
    """From the upgrade to the end each event comes once, all in the connection's own thread,
    however it ends. With the event-driven server, that is any of its threads.
    """
    with echo_server(callback=recorder.frame) as server:
        _record_all(server, recorder)
        with upgraded(server.port) as client:
            client.send_frame(focText, "x")
            recorder.wait("focText")
            if goodbye:
                client.send_frame(focConnectionClose, b"\x03\xe8bye")
                client.receive_opcode(focConnectionClose)
        recorder.wait("close")
    assert recorder.names == _ALL_EVENTS
    if isinstance(server, WebSocketAsyncServer):
        assert {each.name.split()[0] for each in recorder.threads} == {"WebSocketAsyncServer"}
    else:
        assert len(recorder.threads) == 1
    assert threading.current_thread() not in recorder.threads


def test_the_events_get_the_socket_the_process_and_the_protocol(recorder: Recorder) -> None:
    """Each event is given the connection's own objects, which belong together."""
    with echo_server(callback=recorder.frame) as server:
        _record_all(server, recorder)
        with upgraded(server.port) as client:
            recorder.wait("focContinuation")
        recorder.wait("close")
    connection = recorder.all("connect")[0].value
    assert isinstance(connection, WebSocketServerSocket)
    assert (connection.connection_id, connection.remote_ip) == (client.connection_id, "127.0.0.1")
    assert recorder.all("disconnect")[0].value is connection
    process = connection.websocket_process
    assert recorder.all("on_client_connected")[0].value is process
    assert recorder.all("on_client_disconnected")[0].value is process
    protocol = connection.websocket_protocol
    assert isinstance(protocol, WebSocketProtocol)
    assert recorder.all("upgraded")[0].value is protocol
    assert recorder.all("close")[0].value is protocol


@pytest.mark.threaded
def test_connections_have_different_threads(recorder: Recorder) -> None:
    """Each connection is served by a thread of its own."""
    with (
        echo_server(callback=recorder.frame) as server,
        upgraded(server.port),
        upgraded(server.port),
    ):
        recorder.wait("focContinuation", 2)
        assert len(recorder.threads) == 2


def test_a_connection_that_ends_is_forgotten_before_on_websocket_disconnect() -> None:
    """In ``on_websocket_disconnect`` the connection is no longer active."""
    seen: list[tuple[int, Any]] = []
    with echo_server() as server:
        server.on_websocket_disconnect = lambda connection: seen.append(
            (server.websocket_connections, server.is_active_websocket(connection.connection_id))
        )
        with upgraded(server.port) as client:
            active(server, client.connection_id)
        wait_for(lambda: seen)
    assert seen == [(0, None)]


@pytest.mark.threaded
def test_on_start_and_on_stop_are_called_in_each_thread_of_the_server(recorder: Recorder) -> None:
    """The accept thread and each connection's thread report their start and end."""
    with WebSocketServer(
        "127.0.0.1:0", recorder.call("start"), recorder.call("stop"), "named"
    ) as server:
        recorder.wait("start", 1)
        with RawClient(server.port):
            recorder.wait("start", 2)
        recorder.wait("stop", 1)
    recorder.wait("stop", 2)
    assert all(event.thread is event.value for event in recorder.events)
    assert {e.thread for e in recorder.all("start")} == {e.thread for e in recorder.all("stop")}
    assert all("named" in thread.name for thread in recorder.threads)


# ------------------------------------------------------------------------ connections and broadcast


def test_is_active_websocket_is_the_process_of_a_running_connection(
    server: WebSocketServer,
) -> None:
    """An ID gives its process while the connection runs, and None for one that is unknown or has
    ended.
    """
    assert server.is_active_websocket(1) is None
    with upgraded(server.port) as client:
        process = active(server, client.connection_id)
        assert process.state is wpsRun
        assert server.is_active_websocket(client.connection_id + 1) is None
    wait_for(lambda: server.is_active_websocket(client.connection_id) is None)


def test_a_frame_sent_by_id_reaches_that_connection_only(server: WebSocketServer) -> None:
    """``is_active_websocket(id).send_frame`` talks to one client."""
    with upgraded(server.port) as one, upgraded(server.port) as other:
        assert active(server, other.connection_id).send_frame(text("for the other"))
        assert exchange(one, ["mine"]) == ["mine"]
        assert other.receive_opcode(focText).text == "for the other"


def test_websocket_connections_counts_them(server: WebSocketServer) -> None:
    """The count follows connects and disconnects, and does not count plain HTTP."""
    assert server.websocket_connections == 0
    with upgraded(server.port), RawClient(server.port):
        with upgraded(server.port):
            wait_for(lambda: server.websocket_connections == 2)
        wait_for(lambda: server.websocket_connections == 1)
    wait_for(lambda: server.websocket_connections == 0)


def test_a_broadcast_reaches_all_connections_in_order(server: WebSocketServer) -> None:
    """Without IDs each connection gets every frame, in the order of the calls."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(upgraded(server.port)) for _ in range(5)]
        for client in clients:
            active(server, client.connection_id)
        for number in range(20):
            assert server.websocket_broadcast(text(str(number))) == 5
        for client in clients:
            assert [client.receive_opcode(focText).text for _ in range(20)] == [
                str(n) for n in range(20)
            ]


class Slow(WebSocketProtocolChat):
    """Its upgrades go on after the client has their answer, until ``go_on`` is set."""

    go_on = threading.Event()

    def after_upgrade(self, process: WebSocketProcess) -> None:
        assert self.go_on.wait(BOUND)


def test_a_broadcast_reaches_a_client_as_soon_as_its_upgrade_has_returned(
    server: WebSocketServer,
) -> None:
    """Also when the server's thread of the connection has not gone on yet behind the answer."""
    server.websocket_protocols.add(Slow("slow"))
    Slow.go_on.clear()
    with RawClient(server.port) as client:
        client.upgrade(protocol="slow")
        assert server.websocket_connections == 1
        assert server.websocket_broadcast(text("early")) == 1
        Slow.go_on.set()
        assert client.receive_opcode(focText).text == "early"


def test_a_broadcast_to_some_ids_reaches_those_only(server: WebSocketServer) -> None:
    """With IDs only these connections get the frame; unknown ones are passed over."""
    with upgraded(server.port) as one, upgraded(server.port) as other:
        active(server, one.connection_id)
        active(server, other.connection_id)
        frame = WebSocketFrame(focBinary, b"\0\xff")
        assert server.websocket_broadcast(frame, [other.connection_id, 999]) == 1
        assert other.receive_opcode(focBinary).payload == b"\0\xff"
        assert exchange(one, ["nothing else"]) == ["nothing else"]


def test_a_broadcast_without_receivers_is_0(server: WebSocketServer) -> None:
    """Nobody connected, or no ID given: nothing is queued."""
    assert server.websocket_broadcast(text("x")) == 0
    with upgraded(server.port) as client:
        active(server, client.connection_id)
        assert server.websocket_broadcast(text("x"), []) == 0
        assert exchange(client, ["nothing else"]) == ["nothing else"]


def test_a_broadcast_of_a_control_frame_is_a_value_error(server: WebSocketServer) -> None:
    """Only text and binary frames can be broadcast."""
    with pytest.raises(ValueError, match="focPing"):
        server.websocket_broadcast(WebSocketFrame(focPing))


def test_a_reader_that_does_not_read_delays_no_other(server: WebSocketServer) -> None:
    """A broadcast larger than all buffers reaches the others although one client reads nothing,
    and that one still gets all later.
    """
    size, count = 256 << 10, 40
    with upgraded(server.port, receive_buffer=4096) as stuck, upgraded(server.port) as good:
        process = active(server, stuck.connection_id)
        active(server, good.connection_id)
        for number in range(count):
            assert (
                server.websocket_broadcast(WebSocketFrame(focBinary, bytes((number,)) * size)) == 2
            )
        began = time.monotonic()
        assert [good.receive_opcode(focBinary).payload[0] for _ in range(count)] == list(
            range(count)
        )
        assert time.monotonic() - began < 2_500 * MS
        assert process.outgoing.count > 0
        assert [stuck.receive_opcode(focBinary).payload[0] for _ in range(count)] == list(
            range(count)
        )


def test_a_full_queue_refuses_a_broadcast() -> None:
    """A connection whose queue is full is not counted, and its queue stays bounded."""
    with (
        echo_server(max_outgoing_bytes=1 << 20) as server,
        upgraded(server.port, receive_buffer=4096) as stuck,
    ):
        process = active(server, stuck.connection_id)
        frame = WebSocketFrame(focBinary, bytes(256 << 10))
        wait_for(lambda: server.websocket_broadcast(frame) == 0, what="a refused broadcast")
        assert process.outgoing.bytes <= 1 << 20
