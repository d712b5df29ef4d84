"""Observability: snapshots of clients, servers and connections, cheap and from any thread, and log
records with fields.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    FixedDelay,
    RawClient,
    RawServer,
    Recorder,
    connect,
    echo_server,
    exchange,
    ms,
    new_client,
    polite,
    process_of,
    refused_port,
    send_text,
    sending,
    text,
    upgrade,
    upgraded,
    wait_for,
)
from support.faults import Losses, shrink_buffers, took

from mormot_ws import (
    ClientStatus,
    ConnectionStatus,
    HttpClientWebSockets,
    ServerStatus,
    WebSocketFrame,
    WebSocketServer,
    focBinary,
    focPing,
    focPong,
    focText,
)
from mormot_ws.testing import FaultProxy


def connection_of(client: HttpClientWebSockets) -> ConnectionStatus:
    """Return the status of a client's connection."""
    found = client.status().connection
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------ clients


def test_a_client_before_its_upgrade(server: WebSocketServer) -> None:
    """It is not connected as a WebSocket, has no thread, and no connection to tell of."""
    with new_client(server.port) as client:
        status = client.status()
    assert isinstance(status, ClientStatus)
    assert (status.host, status.port) == (HOST, server.port)
    assert (status.connected, status.thread_state, status.connection) == (False, "", None)
    assert (status.attempts, status.reconnects, status.last_error) == (0, 0, "")


def test_a_client_that_found_nobody_says_why() -> None:
    """``last_error`` is that of the connection attempt."""
    with refused_port() as port, new_client(port) as client:
        assert "refused" in client.status().last_error.lower()


def test_a_client_whose_upgrade_was_refused_says_why() -> None:
    """``last_error`` is what the upgrade has returned."""
    with (
        RawServer(sending(b"HTTP/1.1 503 Busy\r\n\r\n")) as server,
        new_client(server.port) as client,
    ):
        error = upgrade(client)
        assert "503" in error
        assert client.status().last_error == error
        assert client.status().connection is None


def test_a_connected_client(server: WebSocketServer) -> None:
    """Its connection is described: number, peer, protocol, state."""
    with connect(server.port) as client:
        status = client.status()
        connection = connection_of(client)
    assert (status.connected, status.thread_state) == (True, "sRun")
    assert connection.connection_id == 1
    assert connection.remote_ip == HOST
    assert connection.protocol == "echo"
    assert connection.state == "wpsRun"
    assert (connection.close_code, connection.close_reason, connection.last_error) == (0, "", "")


def test_messages_and_bytes_are_counted(server: WebSocketServer, recorder: Recorder) -> None:
    """Messages and their payload bytes, both ways; pings, pongs and close frames are not
    messages.
    """
    with connect(server.port, recorder.frame) as client:
        for payload in ("one", "two", "grün"):
            assert send_text(client, payload)
        assert process_of(client).send_frame_async(WebSocketFrame(focBinary, bytes(1_000)))
        assert process_of(client).send_frame(WebSocketFrame(focPing, b"not a message"))
        recorder.wait("focBinary")
        wait_for(lambda: connection_of(client).frames_out == 4)
        connection = connection_of(client)
    assert (connection.frames_in, connection.frames_out) == (4, 4)
    assert (connection.bytes_in, connection.bytes_out) == (1_011, 1_011)


def test_the_attempts_since_the_loss_are_told(server: WebSocketServer, proxy: FaultProxy) -> None:
    """While it tries, the number of attempts and the last error are there; when it is back they
    are 0 and the reconnections count.
    """
    with connect(proxy.port, reconnect_policy=lambda: FixedDelay(ms(5))) as client:
        client.auto_reconnect()
        for number in range(1, 3):
            proxy.refuse()
            proxy.cut()
            wait_for(lambda: client.status().attempts >= 3)
            status = client.status()
            assert (status.connected, status.thread_state) == (False, "sRun")
            assert status.reconnects == number - 1
            assert "refused" in status.last_error.lower()
            proxy.accept()
            wait_for(lambda number=number: client.status().reconnects == number)  # type: ignore[misc]
            wait_for(lambda: client.status().connected)
            status = client.status()
            assert (status.attempts, status.thread_state) == (0, "sRun")
        assert connection_of(client).connection_id == 3


def test_counters_of_a_client_go_on_over_its_connections(
    proxy: FaultProxy, recorder: Recorder
) -> None:
    """Messages and bytes are those of all its connections together."""
    with connect(proxy.port, recorder.frame) as client:
        client.auto_reconnect()
        for number in range(1, 4):
            wait_for(lambda: send_text(client, "12345"))
            recorder.wait("focText", number)
            proxy.cut()
            wait_for(lambda number=number: client.status().reconnects == number)  # type: ignore[misc]
        connection = connection_of(client)
    assert (
        connection.frames_in,
        connection.bytes_in,
        connection.frames_out,
        connection.bytes_out,
    ) == (3, 15, 3, 15)


@pytest.mark.parametrize("end", ["close frame", "loss", "free"])
def test_a_client_after_the_end(proxy: FaultProxy, server: WebSocketServer, end: str) -> None:
    """How it ended is still there: state, close code and reason, or the error."""
    losses = Losses()
    with connect(proxy.port, losses.frame) as client:
        connection = wait_for(lambda: server.is_active_websocket(process_of(client).connection_id))
        if end == "close frame":
            connection.shutdown(4001, "enough")
        elif end == "loss":
            proxy.cut()
        else:
            client.free()
        losses.loss()
        thread = process_of(client).client_thread
        assert thread is not None
        thread.join(BOUND)
        status, last = client.status(), connection_of(client)
    assert not status.connected
    assert last.state == "wpsDestroy"
    if end == "close frame":
        assert (last.close_code, last.close_reason, status.thread_state) == (
            4001,
            "enough",
            "sClosed",
        )
    elif end == "loss":
        assert (last.close_code, status.thread_state) == (1006, "sFinished")
        assert status.last_error
        assert status.last_error == last.last_error
    else:
        assert (last.close_code, status.thread_state) == (1000, "sClosed")


# -------------------------------------------------------------------------------------- connections


def test_the_time_in_a_state_is_told(proxy: FaultProxy) -> None:
    """``state_since_ms`` grows, and begins anew when the state changes."""
    losses = Losses()
    with connect(proxy.port, losses.frame) as client:
        wait_for(lambda: connection_of(client).state_since_ms >= 60)
        proxy.cut()
        losses.loss()
        wait_for(lambda: connection_of(client).state == "wpsDestroy")
        assert connection_of(client).state_since_ms < 60_000
        first = connection_of(client).state_since_ms
        wait_for(lambda: connection_of(client).state_since_ms > first)


@pytest.mark.parametrize(
    "heartbeat", [200, 30], ids=["shorter than a heartbeat", "longer than a heartbeat"]
)
def test_the_round_trip_of_heartbeats_is_told(proxy: FaultProxy, heartbeat: int) -> None:
    """``ping_ms`` is the time from a heartbeat to its own pong, also on a link so slow that the
    next one leaves before.
    """
    with connect(proxy.port, heartbeat_delay=ms(heartbeat)) as client:
        wait_for(lambda: connection_of(client).ping_ms > 0)
        proxy.delay(60 * MS * 1000)
        wait_for(
            lambda: connection_of(client).ping_ms >= 100 * MS * 1000,
            2_000 * MS,
            "a ping that took 120 ms",
        )
        assert connection_of(client).ping_ms < 2_000 * MS * 1000


def test_unanswered_heartbeats_are_told(proxy: FaultProxy) -> None:
    """``invalid_pings`` counts them, and a sign of life makes it 0."""
    with connect(
        proxy.port, heartbeat_delay=ms(30), disconnect_after_invalid_heartbeat_count=0
    ) as client:
        proxy.blackhole()
        wait_for(lambda: connection_of(client).invalid_pings >= 3)
        proxy.restore()
        wait_for(lambda: connection_of(client).invalid_pings == 0)


def test_the_queue_is_told(proxy: FaultProxy) -> None:
    """Frames and bytes that wait, and those that a full queue has refused."""
    with connect(proxy.port, max_outgoing_frames=5) as client:
        client.auto_reconnect()
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: not client.status().connected)
        for _ in range(7):
            process_of(client).send_frame_async(text("1234567890"))
        connection = connection_of(client)
    assert (connection.queued_frames, connection.queued_bytes, connection.queue_lost) == (5, 50, 2)


# ------------------------------------------------------------------------------------------ servers


def test_a_new_server() -> None:
    """All its counters are 0, and its address is told."""
    with echo_server() as server:
        status = server.status()
        assert isinstance(status, ServerStatus)
        assert (status.host, status.port) == (HOST, server.port)
        counters = {
            key: value for key, value in status.as_dict().items() if key not in ("host", "port")
        }
        assert counters.pop("close_codes") == {}
        assert set(counters.values()) == {0}


def test_connections_are_counted_by_what_became_of_them() -> None:
    """Accepted, turned away, upgraded, refused; and how many there are now, with and without an
    upgrade.
    """
    with (
        echo_server(max_connections=3) as server,
        upgraded(server.port) as first,
        upgraded(server.port) as second,
    ):
        with RawClient(server.port) as refused:
            refused.send(refused.request(protocol="unknown"))
            assert refused.read_head().status == 400
            refused.read_to_end()
        wait_for(lambda: server.status().sockets == 2)
        with RawClient(server.port) as silent:
            wait_for(lambda: server.status().sockets == 3)
            with RawClient(server.port) as too_many:
                assert too_many.read_head().status == 503
            status = server.status()
            assert (status.accepted, status.upgraded, status.refused, status.turned_away) == (
                5,
                2,
                1,
                1,
            )
            assert (status.connections, status.sockets) == (2, 3)
            silent.close()
        first.close()
        second.close()
        wait_for(lambda: server.status().sockets == 0)
        status = server.status()
        assert (status.accepted, status.upgraded, status.connections) == (5, 2, 0)


def test_a_servers_messages_include_those_of_ended_connections(server: WebSocketServer) -> None:
    """Totals never shrink: what ended connections have sent and received stays in them."""
    for number in range(1, 4):
        with upgraded(server.port) as client:
            assert exchange(client, ["12345", "123"]) == ["12345", "123"]
            status = server.status()
            assert (status.frames_in, status.bytes_in) == (2 * number, 8 * number)
            wait_for(lambda number=number: server.status().frames_out == 2 * number)  # type: ignore[misc]
        wait_for(lambda: not server.status().connections)
        status = server.status()
        assert (status.frames_in, status.frames_out, status.bytes_in, status.bytes_out) == (
            *(2 * number, 2 * number),
            *(8 * number, 8 * number),
        )


def test_a_broadcast_counts_for_each_receiver(server: WebSocketServer) -> None:
    """One broadcast to three connections is three messages out."""
    with upgraded(server.port) as one, upgraded(server.port) as two, upgraded(server.port) as three:
        wait_for(lambda: server.websocket_connections == 3)
        assert server.websocket_broadcast(text("12345")) == 3
        for client in (one, two, three):
            client.receive_opcode(focText)
        wait_for(lambda: server.status().frames_out == 3)
        assert server.status().bytes_out == 15


def test_each_connection_of_a_server_has_its_own_status(server: WebSocketServer) -> None:
    """``process.status()`` describes one connection, from the server's side."""
    with upgraded(server.port) as one, upgraded(server.port) as two:
        assert exchange(one, ["a", "b"]) == ["a", "b"]
        first = wait_for(lambda: server.is_active_websocket(one.connection_id))
        second = wait_for(lambda: server.is_active_websocket(two.connection_id))
        wait_for(lambda: first.status().frames_out == 2)
        assert (first.status().connection_id, first.status().frames_in) == (one.connection_id, 2)
        assert (second.status().connection_id, second.status().frames_in) == (two.connection_id, 0)
        assert first.status().remote_ip == HOST


def test_a_server_after_its_end(server: WebSocketServer) -> None:
    """A freed server still tells what it has done."""
    with upgraded(server.port) as client:
        assert exchange(client, ["x"]) == ["x"]
        server.free()
    status = server.status()
    assert (status.connections, status.sockets, status.upgraded, status.frames_in) == (0, 0, 1, 1)


# -------------------------------------------------------------------------- what all have in common


def test_as_dict_can_be_written_as_json(
    client: HttpClientWebSockets, server: WebSocketServer
) -> None:
    """Every snapshot becomes plain values, with the names of its fields."""
    wait_for(lambda: server.websocket_connections)
    for status in (client.status(), server.status(), process_of(client).status()):
        found = json.loads(json.dumps(status.as_dict()))
        assert list(found) == [field.name for field in dataclasses.fields(status)]
    nested = client.status().as_dict()["connection"]
    assert nested["state"] == "wpsRun"


def test_a_snapshot_does_not_change(client: HttpClientWebSockets, recorder: Recorder) -> None:
    """It is a moment: frozen, and not touched by what comes later."""
    before = client.status()
    assert before.connection is not None
    frames = before.connection.frames_out
    assert send_text(client, "x")
    recorder.wait("focText")
    assert before.connection.frames_out == frames
    status: Any = before
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.port = 1


def test_a_snapshot_does_not_wait(proxy: FaultProxy, server: WebSocketServer) -> None:
    """While a send is blocked, a callback runs and a broadcast is stuck, ``status()`` answers at
    once, on both sides.
    """
    with connect(proxy.port, heartbeat_delay=0, send_timeout=ms(60_000)) as client:
        assert client.transport is not None
        shrink_buffers(client.transport.sock)
        connection = wait_for(lambda: server.is_active_websocket(process_of(client).connection_id))
        proxy.blackhole()
        threads = [
            threading.Thread(
                target=side.send_frame, args=(WebSocketFrame(focBinary, bytes(16 << 20)),)
            )
            for side in (process_of(client), connection)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: process_of(client).safe_out.locked() and connection.safe_out.locked())
        started = time.monotonic()
        for _ in range(50):
            assert client.status().connected
            assert server.status().connections == 1
            assert connection.status().state == "wpsRun"
        assert took(started) < 500 * MS
        proxy.cut()
        for thread in threads:
            thread.join(BOUND)


def test_snapshots_are_cheap(server: WebSocketServer) -> None:
    """A thousand of them, while messages fly and clients come and go, cost less than a second and
    harm nothing.
    """
    stop = threading.Event()
    recorder = Recorder()

    def chatter() -> None:
        with connect(server.port, recorder.frame) as client:
            while not stop.is_set() and send_text(client, "x"):
                pass

    threads = [threading.Thread(target=chatter) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: server.status().frames_in > 10)
    started = time.thread_time()
    before = 0
    for _ in range(1_000):
        frames = server.status().frames_in
        assert frames >= before
        before = frames
    cost = time.thread_time() - started
    stop.set()
    for thread in threads:
        thread.join(BOUND)
    assert cost < 1_000 * MS


# -------------------------------------------------------------------------------------- log records


def records_of(caplog: pytest.LogCaptureFixture, words: str) -> list[Any]:
    """Return the records whose message contains *words*."""
    return [record for record in caplog.records if words in record.getMessage()]


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """``caplog`` at DEBUG."""
    caplog.set_level(logging.DEBUG, "mormot_ws")
    return caplog


def test_the_end_of_a_connection_is_logged_with_its_fields(
    server: WebSocketServer, logs: pytest.LogCaptureFixture
) -> None:
    """Both sides: the number of the connection, the peer and the close code are fields of the
    record.
    """
    with connect(server.port) as client:
        number = process_of(client).connection_id
        process_of(client).shutdown(4002, "bye")
        wait_for(lambda: len(records_of(logs, "ended with 4002")) == 2)
    for record in records_of(logs, "ended with 4002"):
        assert (record.connection_id, record.remote_ip, record.close_code) == (number, HOST, 4002)


def test_a_reconnection_is_logged_with_its_fields(
    proxy: FaultProxy, logs: pytest.LogCaptureFixture
) -> None:
    """The new number of the connection, and how many attempts it took."""
    with connect(proxy.port) as client:
        client.auto_reconnect()
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: client.status().attempts >= 2)
        proxy.accept()
        wait_for(lambda: client.status().reconnects == 1)
        record = wait_for(lambda: records_of(logs, "reconnected as"))[0]
        assert record.connection_id == process_of(client).connection_id
        assert record.attempts >= 2
        assert record.levelno == logging.INFO


def test_a_refused_upgrade_is_logged_with_its_fields(
    server: WebSocketServer, logs: pytest.LogCaptureFixture
) -> None:
    """The number of the connection, the peer and the HTTP status."""
    with RawClient(server.port) as client:
        client.send(client.request(protocol="unknown"))
        assert client.read_head().status == 400
    record = wait_for(lambda: records_of(logs, "upgrade refused"))[0]
    assert (record.connection_id, record.remote_ip, record.http_status) == (1, HOST, 400)


def test_a_silent_peer_is_logged_with_its_fields(logs: pytest.LogCaptureFixture) -> None:
    """Heartbeats without an answer: which connection, which peer."""
    settings = {"heartbeat_delay": ms(20), "disconnect_after_invalid_heartbeat_count": 1}
    with echo_server(**settings) as server, upgraded(server.port) as client:
        client.receive_opcode(focPing)
        record = wait_for(lambda: records_of(logs, "without an answer"))[0]
    assert (record.connection_id, record.remote_ip) == (client.connection_id, HOST)


def test_a_broken_rule_is_logged_with_its_fields(
    server: WebSocketServer, logs: pytest.LogCaptureFixture
) -> None:
    """A peer that breaks the protocol: which connection, which peer."""
    with upgraded(server.port) as client:
        client.send(b"\xff\xff")
        record = wait_for(lambda: records_of(logs, "closing with 1002"))[0]
    assert (record.connection_id, record.remote_ip) == (client.connection_id, HOST)


def test_giving_up_is_logged_with_its_fields(
    server: WebSocketServer, logs: pytest.LogCaptureFixture
) -> None:
    """The last word of a client that will not come back: how many attempts there were."""
    with connect(server.port, reconnect_policy=lambda: FixedDelay(ms(5), max_attempts=2)) as client:
        client.auto_reconnect()
        server.free()
        record = wait_for(lambda: records_of(logs, "giving up"))[0]
    assert record.levelno == logging.WARNING
    assert record.attempts == 2


def test_a_callback_that_raises_is_logged_with_its_fields(
    server: WebSocketServer, logs: pytest.LogCaptureFixture
) -> None:
    """Whose callback it was: in the middle of a connection, and at its end on both sides of the
    client.
    """

    def fail(*_: object) -> None:
        raise KeyError("a bug")

    with connect(server.port, fail) as client:
        client.on_websockets_closed = fail
        number = process_of(client).connection_id
    records = records_of(logs, "on_incoming_frame failed") + records_of(
        logs, "on_websockets_closed failed"
    )
    assert len(records) == 3
    for record in records:
        assert (record.levelno, record.connection_id, record.remote_ip) == (
            logging.ERROR,
            number,
            HOST,
        )


def test_fields_are_plain_values(logs: pytest.LogCaptureFixture) -> None:
    """What the records carry can be written by any formatter, e.g. as JSON, and collides with no
    attribute of logging.
    """
    with RawServer(polite) as server, connect(server.port) as client:
        process_of(client).send_frame(WebSocketFrame(focPong, b"unasked"))
        process_of(client).shutdown()
    usual = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
    extras = [
        {name: value for name, value in vars(record).items() if name not in usual}
        for record in logs.records
    ]
    assert any(extras)
    assert json.loads(json.dumps(extras)) == extras
