"""Losing the connection and coming back: the order of the callbacks, their thread, and failed
attempts.
"""

from __future__ import annotations

import threading
import time

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    Behaviour,
    FixedDelay,
    RawServer,
    RawServerPeer,
    ReconnectingClient,
    Recorder,
    accept_and_close,
    answering,
    connect,
    converse,
    drop_on_request,
    echo_server,
    ms,
    polite,
    process_of,
    send_text,
    sending,
    silent,
    truncated,
    upgrade_and_drop,
    wait_for,
)
from support.reconnection import BACK, ENDED, successful, thread_of

from mormot_ws import (
    FailureKind,
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProtocolChat,
    focConnectionClose,
    parse_close_payload,
    wpsRun,
)
from mormot_ws.testing import EchoServerProcess

# ------------------------------------------------------------------------ order and thread identity


def test_a_killed_server_gives_every_callback_once_in_order_in_one_thread(
    recorder: Recorder,
) -> None:
    """SIGKILL, failed attempts, a new server, and the end: the whole life of a client, all in the
    client's thread.
    """
    with EchoServerProcess() as server:
        reconnecting = ReconnectingClient(server.port, recorder)
        thread = thread_of(reconnecting.client)
        with reconnecting:
            assert send_text(reconnecting.client, "one")
            recorder.wait("focText")
            server.kill()
            recorder.wait("on_reconnect(None)", 2)
            server.start()
            reconnecting.wait_reconnected()
            assert send_text(reconnecting.client, "two")
            recorder.wait("focText", 2)
            reconnecting.client.free()
    failed = len(recorder.all("on_reconnect(None)"))
    assert failed >= 2
    assert successful(recorder) == [
        "focContinuation",
        "focText",
        *ENDED,
        *["on_reconnect(None)"] * failed,
        *BACK,
        "focText",
        *ENDED,
    ]
    assert recorder.texts() == ["one", "two"]
    assert recorder.threads == {thread}
    assert recorder.all("on_websockets_closed")[0].value is reconnecting.client


def test_a_killed_server_is_noticed_at_once(recorder: Recorder) -> None:
    """The loss of an idle link is told in a fraction of the native client's time, without a
    heartbeat, and as 1006.
    """
    with EchoServerProcess() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        recorder.wait("focContinuation")
        began = time.monotonic()
        server.kill()
        closed = recorder.wait("focConnectionClose")
        assert time.monotonic() - began < 1_000 * MS
        assert closed.value.payload == b""
        wait_for(lambda: reconnecting.process.lost_code == 1006)  # after the callback


def test_a_gracefully_stopped_server_is_told_with_its_code(recorder: Recorder) -> None:
    """After ``server.free()`` the callback gets 1001, and the client comes back to the next
    server.
    """
    with echo_server() as first, ReconnectingClient(first.port, recorder) as reconnecting:
        recorder.wait("focContinuation")
        first.free()
        closed = recorder.wait("focConnectionClose")
        assert parse_close_payload(closed.value.payload)[0] == 1001
        recorder.wait("on_reconnect(None)")
        with echo_server(first.port):
            reconnecting.wait_reconnected()
            assert send_text(reconnecting.client, "back")
            recorder.wait("focText")
            reconnecting.client.free()
    failed = len(recorder.all("on_reconnect(None)"))
    assert successful(recorder) == [
        "focContinuation",
        *ENDED,
        *["on_reconnect(None)"] * failed,
        *BACK,
        "focText",
        *ENDED,
    ]


def test_a_server_process_that_stops_and_starts_again_is_found_again(recorder: Recorder) -> None:
    """The document's test: stop the server gracefully, watch the client notice it, start it
    again.
    """
    with EchoServerProcess() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        assert server.stop() == 0
        recorder.wait("on_reconnect(None)")
        server.start()
        reconnecting.wait_reconnected()
        assert send_text(reconnecting.client, "again")
        assert recorder.wait("focText").value.text == "again"


def test_a_client_comes_back_any_number_of_times(recorder: Recorder) -> None:
    """Five losses, five reconnections: the same process and protocol objects, counted, and every
    event once.
    """
    with (
        RawServer(*[upgrade_and_drop] * 5, polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        process, protocol = reconnecting.process, reconnecting.process.protocol
        reconnecting.wait_reconnected(5)
        assert send_text(reconnecting.client, "still me")
        recorder.wait("focText")
        assert reconnecting.client.websockets is process
        assert process.protocol is protocol
        assert (process.reconnects, process.attempts) == (5, 0)
    assert recorder.names == ["focContinuation", *[*ENDED, *BACK] * 5, "focText", *ENDED]


def test_the_connection_id_is_that_of_the_new_connection(recorder: Recorder) -> None:
    """Inside ``on_reconnect``, once the upgrade succeeded, and afterwards ``connection_id`` is the
    new server's number.
    """
    seen: list[int] = []

    def numbered(number: int, then: Behaviour) -> Behaviour:
        def behaviour(peer: RawServerPeer) -> None:
            peer.send(peer.answer(peer.read_head(), Sec_WebSocket_Connection_ID=str(number)))
            then(peer)

        return behaviour

    with (
        RawServer(numbered(41, RawServerPeer.receive_frame), numbered(5, converse)) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        assert reconnecting.process.connection_id == 41
        reconnecting.after_upgrade = lambda process: seen.append(process.connection_id)
        reconnecting.drop()
        reconnecting.wait_reconnected()
        assert seen == [5]
        assert reconnecting.process.connection_id == 5


def test_on_reconnect_gets_the_process_with_the_tcp_connection_open(recorder: Recorder) -> None:
    """The argument is the client's own process; the socket is connected, the WebSocket not yet."""
    seen: list[tuple[bool, bool, bool]] = []
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        reconnecting.before_upgrade = lambda process: seen.append(
            (
                process is reconnecting.process,
                reconnecting.client.connected,
                process.state is wpsRun,
            )
        )
        reconnecting.drop()
        reconnecting.wait_reconnected()
    assert seen == [(True, True, False)]


def test_after_a_reconnect_close_frames_are_answered_and_sent(recorder: Recorder) -> None:
    """The close state starts anew with each connection (the native client's third fault): codes,
    answers, and free's goodbye.
    """
    answers: list[bytes] = []

    def closing(code: int) -> Behaviour:
        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            peer.send_frame(focConnectionClose, code.to_bytes(2, "big"))
            answers.append(peer.receive_opcode(focConnectionClose).payload)

        return behaviour

    def last(peer: RawServerPeer) -> None:
        peer.accept()
        answers.append(peer.receive_opcode(focConnectionClose).payload)
        peer.send_frame(focConnectionClose, answers[-1])

    with (
        RawServer(closing(4000), closing(4001), last) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        reconnecting.wait_reconnected(2)
        assert reconnecting.process.close_code == 0
    assert answers == [b"\x0f\xa0", b"\x0f\xa1", b"\x03\xe8"]
    assert [event.value.payload for event in recorder.all("focConnectionClose")] == answers


def test_a_silent_server_is_lost_by_heartbeats_and_the_client_comes_back(
    recorder: Recorder,
) -> None:
    """A server that stops answering pings is given up, told as lost, and reconnected to."""

    def upgrade_and_fall_silent(peer: RawServerPeer) -> None:
        peer.accept()
        peer.wait_end()

    with (
        RawServer(upgrade_and_fall_silent, polite) as server,
        ReconnectingClient(
            server.port,
            recorder,
            heartbeat_delay=ms(50),
            disconnect_after_invalid_heartbeat_count=2,
        ) as reconnecting,
    ):
        reconnecting.wait_reconnected()
        assert reconnecting.process.lost_code == 1006
        assert send_text(reconnecting.client, "x")
        recorder.wait("focText")
    assert recorder.names == ["focContinuation", *ENDED, *BACK, "focText", *ENDED]


# ---------------------------------------------------------------------------------- failed attempts

_BAD_UPGRADES: dict[str, Behaviour] = {
    "accepts and closes": accept_and_close,
    "closes at once": lambda peer: None,
    "cuts its answer in the status line": truncated(9),
    "cuts its answer in the headers": truncated(70),
    "stays silent": silent,
    "refuses with 503": sending(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
    "answers with a wrong accept": answering(Sec_WebSocket_Accept="AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    "answers with another sub-protocol": answering(Sec_WebSocket_Protocol="other"),
    "speaks another protocol": sending(b"220 mail.example.org ESMTP\r\n\r\n"),
}


@pytest.mark.parametrize("case", _BAD_UPGRADES)
def test_a_server_that_fails_during_the_upgrade_is_a_failed_attempt_and_no_more(
    case: str, recorder: Recorder
) -> None:
    """The upgrade inside ``on_reconnect`` returns a text, the thread lives on, and the next
    attempt succeeds.
    """
    with (
        RawServer(drop_on_request, _BAD_UPGRADES[case], polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        reconnecting.client.timeout = ms(100)
        thread = thread_of(reconnecting.client)
        reconnecting.drop()
        reconnecting.wait_reconnected()
        assert thread_of(reconnecting.client) is thread
        assert send_text(reconnecting.client, "x")
        recorder.wait("focText")
    attempts = recorder.all("on_reconnect(process)")
    assert [bool(event.value) for event in attempts] == [True, False]
    assert recorder.names == [
        "focContinuation",
        *ENDED,
        "on_reconnect(process)",
        *BACK,
        "focText",
        *ENDED,
    ]


def test_each_refused_attempt_is_told_once_by_on_reconnect_none(recorder: Recorder) -> None:
    """As long as nobody listens, each attempt calls ``on_reconnect(None)``, and ``attempts``
    counts them.
    """
    policy = FixedDelay(ms(5))
    with RawServer(polite) as server:
        reconnecting = ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy)
        server.close()
    with reconnecting:
        recorder.wait("on_reconnect(None)", 5)
        assert reconnecting.process.attempts >= 5
    refused = [failure for failure in policy.failures if failure.kind is FailureKind.refused]
    told = len(recorder.all("on_reconnect(None)"))
    assert told - 1 <= len(refused) <= told
    assert [failure.attempts for failure in policy.failures] == list(range(len(policy.failures)))


def test_the_policy_is_told_what_happened(recorder: Recorder) -> None:
    """Before each wait the policy learns the kind of failure, its text, the close code, and the
    HTTP status.
    """
    policy = FixedDelay(ms(1))

    def closing(peer: RawServerPeer) -> None:
        peer.accept()
        peer.send_frame(focConnectionClose, b"\x0f\xa0")
        peer.receive_opcode(focConnectionClose)

    busy = sending(b"HTTP/1.1 503 Busy\r\n\r\n")
    with (
        RawServer(closing, busy, busy, polite) as server,
        ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy) as reconnecting,
    ):
        raised: list[bool] = []

        def raise_once(process: WebSocketProcessClient) -> None:
            if len(policy.failures) == 2 and not raised:
                raised.append(True)
                raise RuntimeError("bug in on_reconnect")

        reconnecting.before_upgrade = raise_once
        reconnecting.wait_reconnected()
    kinds = [(failure.kind, failure.http_status) for failure in policy.failures[:4]]
    assert kinds[:2] == [(FailureKind.lost, 0), (FailureKind.upgrade, 503)]
    assert (FailureKind.callback, 0) in kinds
    assert {failure.close_code for failure in policy.failures} == {4000}
    assert policy.failures[1].text == "HTTP/1.1 503 Busy"
    assert [failure.attempts for failure in policy.failures] == list(range(len(policy.failures)))
    assert all(failure.elapsed_ms >= 0 for failure in policy.failures)


def test_each_client_has_a_policy_of_its_own() -> None:
    """``settings.reconnect_policy`` is called once for each client's thread, also when the
    settings are shared.
    """
    made: list[FixedDelay] = []

    def make() -> FixedDelay:
        made.append(FixedDelay(ms(1)))
        return made[-1]

    with echo_server() as server:
        first = connect(server.port, reconnect_policy=make)
        second = HttpClientWebSockets.open(HOST, server.port, settings=first.settings)
        with first, second:
            assert second.websockets_upgrade("", "", protocol=WebSocketProtocolChat("echo")) == ""
            assert len(made) == 2


def test_a_text_from_on_reconnect_closes_the_socket_and_tries_again(recorder: Recorder) -> None:
    """A callback that does not want this connection gets another one, and the server sees the
    first one end.
    """
    ended = threading.Event()

    def unwanted(peer: RawServerPeer) -> None:
        assert peer.read_to_end() == b""
        ended.set()

    with (
        RawServer(drop_on_request, unwanted, polite) as server,
        connect(server.port, recorder.frame) as client,
    ):

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            recorder.add("on_reconnect", process)
            if len(recorder.all("on_reconnect")) == 1:
                return "not this one"
            assert process is not None
            return client.websockets_upgrade(
                "", "", False, (), process.protocol, "", reconnect=True
            )

        process_of(client).on_reconnect = on_reconnect
        assert send_text(client, "drop me")
        recorder.wait("focContinuation", 2)
        assert ended.wait(BOUND)
        assert len(recorder.all("on_reconnect")) == 2


def test_a_text_after_a_successful_upgrade_closes_that_connection(recorder: Recorder) -> None:
    """A callback that upgrades and then refuses: the server gets a close frame, no callback tells
    of that connection.
    """
    frames: list[WebSocketFrame] = []

    def refused(peer: RawServerPeer) -> None:
        peer.accept()
        frames.append(peer.receive_frame())

    with (
        RawServer(drop_on_request, refused, polite) as server,
        connect(server.port, recorder.frame) as client,
    ):

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            recorder.add("on_reconnect", process)
            assert process is not None
            error = client.websockets_upgrade(
                "", "", False, (), process.protocol, "", reconnect=True
            )
            return error or ("no" if len(recorder.all("on_reconnect")) == 1 else "")

        process_of(client).on_reconnect = on_reconnect
        assert send_text(client, "drop me")
        recorder.wait("focContinuation", 2)
        assert send_text(client, "x")
        recorder.wait("focText")
    assert [frame.opcode for frame in frames] == [focConnectionClose]
    assert recorder.names == [
        "focContinuation",
        "focConnectionClose",
        *["on_reconnect"] * 2,
        "focContinuation",
        "focText",
        "focConnectionClose",
    ]


def test_an_exception_in_on_reconnect_is_logged_and_a_failed_attempt(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it is raised for a failed attempt or a successful one, the thread logs the traceback
    and tries again.
    """
    attempts: list[int] = []

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        recorder.add("on_reconnect(None)" if process is None else "on_reconnect(process)")
        attempts.append(process_of(client).attempts)
        if process is None:
            raise RuntimeError("bug at None")
        if len(recorder.all("on_reconnect(process)")) == 1:
            raise RuntimeError("bug at process")
        return client.websockets_upgrade("", "", False, (), process.protocol, "", reconnect=True)

    with RawServer(polite) as first, connect(first.port, recorder.frame) as client:
        process_of(client).on_reconnect = on_reconnect
        thread = thread_of(client)
        first.close()
        recorder.wait("on_reconnect(None)", 2)
        with RawServer(polite, port=first.port):
            recorder.wait("focContinuation", 2)
            assert thread_of(client) is thread
            client.free()
    assert attempts == list(range(1, len(attempts) + 1))
    for bug in ("bug at None", "bug at process"):
        assert f"RuntimeError: {bug}" in caplog.text
    assert "Traceback" in caplog.text


def test_an_exception_in_on_websockets_closed_is_logged_and_the_client_comes_back(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread lives on after a bug in ``on_websockets_closed``."""

    def closed(client: HttpClientWebSockets) -> None:
        recorder.add("on_websockets_closed")
        raise RuntimeError("bug in on_websockets_closed")

    policy = FixedDelay(ms(20))
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy) as reconnecting,
    ):
        reconnecting.client.on_websockets_closed = closed
        reconnecting.drop()
        reconnecting.wait_reconnected()
    assert "RuntimeError: bug in on_websockets_closed" in caplog.text
    assert recorder.names == ["focContinuation", *ENDED, *BACK, *ENDED]


def test_an_exception_in_the_frame_callback_does_not_hinder_the_reconnection(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug at focConnectionClose and at focContinuation is logged, and the client comes back."""

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        raise RuntimeError("bug in on_incoming_frame")

    with RawServer(drop_on_request, polite) as server, connect(server.port, callback) as client:
        process_of(client).on_reconnect = lambda process: client.websockets_upgrade(
            "", "", reconnect=True
        )
        assert send_text(client, "drop me")
        recorder.wait("focContinuation", 2)
        assert send_text(client, "x")
        recorder.wait("focText")
    assert caplog.text.count("RuntimeError: bug in on_incoming_frame") == 5


def test_connections_that_do_not_last_do_not_reset_the_waits(recorder: Recorder) -> None:
    """A server that accepts and drops at once is not hammered: only a connection that lived long
    enough starts anew.
    """
    resets: list[int] = []

    class Counting(FixedDelay):
        def reset(self) -> None:
            resets.append(len(self.failures))

    policy = Counting(ms(1))
    with (
        RawServer(*[upgrade_and_drop] * 3, polite) as server,
        ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy) as reconnecting,
    ):
        reconnecting.wait_reconnected(3)
    assert resets == [0]
