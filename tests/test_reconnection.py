"""Losing the connection and coming back: the order of the callbacks, failed attempts, waits, stop conditions, queued frames."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

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
    text,
    truncated,
    upgrade_and_drop,
    upgraded,
    wait_for,
)

from mormot_ws import (
    FailureKind,
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProcessClientThread,
    WebSocketProtocolChat,
    focBinary,
    focConnectionClose,
    parse_close_payload,
    sClosed,
    sFinished,
    wpsRun,
)
from mormot_ws.testing import EchoServerProcess

NEVER = 600_000.0
#: what is recorded when a connection ends
_ENDED = ["focConnectionClose", "on_websockets_closed"]
#: what is recorded when it comes back at the first attempt
_BACK = ["on_reconnect(process)", "focContinuation"]


def thread_of(client: HttpClientWebSockets) -> WebSocketProcessClientThread:
    """Return the thread of a client that has been upgraded."""
    thread = process_of(client).client_thread
    assert thread is not None
    return thread


def successful(recorder: Recorder) -> list[str]:
    """Return the names of all events but of the upgrades that failed.

    A server listens before its protocols are added: a client that comes between the two is refused, and tries again.
    """
    return [event.name for event in recorder.events if event.name != "on_reconnect(process)" or not event.value]


@contextlib.contextmanager
def waiting(recorder: Recorder, policy: FixedDelay, *behaviours: Behaviour) -> Iterator[ReconnectingClient]:
    """Give a client that has lost its connection to a raw server and waits for its next attempt, as *policy* says."""
    with (
        RawServer(drop_on_request, *(behaviours or (polite,))) as server,
        ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy) as reconnecting,
    ):
        reconnecting.drop()
        wait_for(lambda: policy.failures, what="the loss of the connection")
        yield reconnecting


# ------------------------------------------------------------------------------------------------ order and thread identity


def test_a_killed_server_gives_every_callback_once_in_order_in_one_thread(recorder: Recorder) -> None:
    """SIGKILL, failed attempts, a new server, and the end: the whole life of a client, all in the client's thread."""
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
        *_ENDED,
        *["on_reconnect(None)"] * failed,
        *_BACK,
        "focText",
        *_ENDED,
    ]
    assert recorder.texts() == ["one", "two"]
    assert recorder.threads == {thread}
    assert recorder.all("on_websockets_closed")[0].value is reconnecting.client


def test_a_killed_server_is_noticed_at_once(recorder: Recorder) -> None:
    """The loss of an idle link is told in a fraction of the native client's time, without a heartbeat, and as 1006."""
    with EchoServerProcess() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        recorder.wait("focContinuation")
        began = time.monotonic()
        server.kill()
        closed = recorder.wait("focConnectionClose")
        assert time.monotonic() - began < 1_000 * MS
        assert closed.value.payload == b""
        assert reconnecting.process.lost_code == 1006


def test_a_gracefully_stopped_server_is_told_with_its_code(recorder: Recorder) -> None:
    """After ``server.free()`` the callback gets 1001, and the client comes back to the next server."""
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
        *_ENDED,
        *["on_reconnect(None)"] * failed,
        *_BACK,
        "focText",
        *_ENDED,
    ]


def test_a_server_process_that_stops_and_starts_again_is_found_again(recorder: Recorder) -> None:
    """The document's test: stop the server gracefully, watch the client notice it, start it again."""
    with EchoServerProcess() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        assert server.stop() == 0
        recorder.wait("on_reconnect(None)")
        server.start()
        reconnecting.wait_reconnected()
        assert send_text(reconnecting.client, "again")
        assert recorder.wait("focText").value.text == "again"


def test_a_client_comes_back_any_number_of_times(recorder: Recorder) -> None:
    """Five losses, five reconnections: the same process and protocol objects, counted, and every event once."""
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
    assert recorder.names == ["focContinuation", *[*_ENDED, *_BACK] * 5, "focText", *_ENDED]


def test_the_connection_id_is_that_of_the_new_connection(recorder: Recorder) -> None:
    """Inside ``on_reconnect``, once the upgrade succeeded, and afterwards ``connection_id`` is the new server's number."""
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
            (process is reconnecting.process, reconnecting.client.connected, process.state is wpsRun)
        )
        reconnecting.drop()
        reconnecting.wait_reconnected()
    assert seen == [(True, True, False)]


def test_after_a_reconnect_close_frames_are_answered_and_sent(recorder: Recorder) -> None:
    """The close state starts anew with each connection (the native client's third fault): codes, answers, and free's goodbye."""
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


def test_a_silent_server_is_lost_by_heartbeats_and_the_client_comes_back(recorder: Recorder) -> None:
    """A server that stops answering pings is given up, told as lost, and reconnected to."""

    def upgrade_and_fall_silent(peer: RawServerPeer) -> None:
        peer.accept()
        peer.wait_end()

    with (
        RawServer(upgrade_and_fall_silent, polite) as server,
        ReconnectingClient(
            server.port, recorder, heartbeat_delay=ms(50), disconnect_after_invalid_heartbeat_count=2
        ) as reconnecting,
    ):
        reconnecting.wait_reconnected()
        assert reconnecting.process.lost_code == 1006
        assert send_text(reconnecting.client, "x")
        recorder.wait("focText")
    assert recorder.names == ["focContinuation", *_ENDED, *_BACK, "focText", *_ENDED]


# ------------------------------------------------------------------------------------------------------- failed attempts

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
def test_a_server_that_fails_during_the_upgrade_is_a_failed_attempt_and_no_more(case: str, recorder: Recorder) -> None:
    """The upgrade inside ``on_reconnect`` returns a text, the thread lives on, and the next attempt succeeds."""
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
        *_ENDED,
        "on_reconnect(process)",
        *_BACK,
        "focText",
        *_ENDED,
    ]


def test_each_refused_attempt_is_told_once_by_on_reconnect_none(recorder: Recorder) -> None:
    """As long as nobody listens, each attempt calls ``on_reconnect(None)``, and ``attempts`` counts them."""
    policy = FixedDelay(ms(5))
    with RawServer(polite) as server:
        reconnecting = ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy)
        server.stop()
    with reconnecting:
        recorder.wait("on_reconnect(None)", 5)
        assert reconnecting.process.attempts >= 5
    refused = [failure for failure in policy.failures if failure.kind is FailureKind.refused]
    told = len(recorder.all("on_reconnect(None)"))
    assert told - 1 <= len(refused) <= told
    assert [failure.attempts for failure in policy.failures] == list(range(len(policy.failures)))


def test_the_policy_is_told_what_happened(recorder: Recorder) -> None:
    """Before each wait the policy learns the kind of failure, its text, the close code, and the HTTP status."""
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
    """``settings.reconnect_policy`` is called once for each client's thread, also when the settings are shared."""
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
    """A callback that does not want this connection gets another one, and the server sees the first one end."""
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
            return client.websockets_upgrade("", "", False, (), process.protocol, "", reconnect=True)

        process_of(client).on_reconnect = on_reconnect
        assert send_text(client, "drop me")
        recorder.wait("focContinuation", 2)
        assert ended.wait(BOUND)
        assert len(recorder.all("on_reconnect")) == 2


def test_a_text_after_a_successful_upgrade_closes_that_connection(recorder: Recorder) -> None:
    """A callback that upgrades and then refuses: the server gets a close frame, no callback tells of that connection."""
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
            error = client.websockets_upgrade("", "", False, (), process.protocol, "", reconnect=True)
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
    """Whether it is raised for a failed attempt or a successful one, the thread logs the traceback and tries again."""
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
        first.stop()
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
    assert recorder.names == ["focContinuation", *_ENDED, *_BACK, *_ENDED]


def test_an_exception_in_the_frame_callback_does_not_hinder_the_reconnection(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug at focConnectionClose and at focContinuation is logged, and the client comes back."""

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        raise RuntimeError("bug in on_incoming_frame")

    with RawServer(drop_on_request, polite) as server, connect(server.port, callback) as client:
        process_of(client).on_reconnect = lambda process: client.websockets_upgrade("", "", reconnect=True)
        assert send_text(client, "drop me")
        recorder.wait("focContinuation", 2)
        assert send_text(client, "x")
        recorder.wait("focText")
    assert caplog.text.count("RuntimeError: bug in on_incoming_frame") == 5


def test_connections_that_do_not_last_do_not_reset_the_waits(recorder: Recorder) -> None:
    """A server that accepts and drops at once is not hammered: only a connection that lived long enough starts anew."""
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


# ------------------------------------------------------------------------------------------------- waiting and stopping


def test_reconnect_now_cuts_the_wait_short(recorder: Recorder) -> None:
    """A client that waits for ten minutes attempts at once when it is told to."""
    with waiting(recorder, FixedDelay(NEVER)) as reconnecting:
        assert recorder.names == ["focContinuation", *_ENDED]
        reconnecting.process.reconnect_now()
        reconnecting.wait_reconnected()


def test_reconnect_now_on_a_running_connection_does_nothing_harmful(recorder: Recorder) -> None:
    """Called while connected it leaves the connection alone."""
    with RawServer(polite) as server, ReconnectingClient(server.port, recorder) as reconnecting:
        reconnecting.process.reconnect_now()
        assert send_text(reconnecting.client, "x")
        recorder.wait("focText")
    assert recorder.names == ["focContinuation", "focText", *_ENDED]


def test_terminate_ends_the_wait_and_the_thread(recorder: Recorder) -> None:
    """After ``terminate()`` the thread ends at once, without another attempt: nobody knocks at the server any more."""
    policy = FixedDelay(NEVER)
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy) as reconnecting,
    ):
        thread = thread_of(reconnecting.client)
        reconnecting.drop()
        wait_for(lambda: policy.failures)
        thread.terminate()
        thread.join(BOUND)
        assert not thread.is_alive()
        assert thread.terminated
        with upgraded(server.port):  # whoever came before was accepted before this one
            assert server.accepted == 2
    assert recorder.names == ["focContinuation", *_ENDED]


def test_free_ends_the_wait_at_once(recorder: Recorder) -> None:
    """``free()`` does not wait for the next attempt."""
    with waiting(recorder, FixedDelay(NEVER)) as reconnecting:
        began = time.monotonic()
        reconnecting.client.free()
        assert time.monotonic() - began < 1_000 * MS
    assert recorder.names == ["focContinuation", *_ENDED]


def test_free_ends_an_upgrade_that_waits_for_a_silent_server(recorder: Recorder) -> None:
    """``free()`` interrupts the handshake inside ``on_reconnect``, which returns a text; nothing follows."""
    reached = threading.Event()

    def reaching(peer: RawServerPeer) -> None:
        peer.read_head()
        reached.set()
        peer.wait_end()

    with (
        RawServer(upgrade_and_drop, reaching) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        assert reached.wait(BOUND)
        began = time.monotonic()
        reconnecting.client.free()
        assert time.monotonic() - began < 1_000 * MS
    assert recorder.names == ["focContinuation", *_ENDED, "on_reconnect(process)"]
    assert recorder.events[-1].value


def test_free_ends_a_connection_attempt_that_gets_no_answer(recorder: Recorder) -> None:
    """``free()`` interrupts the TCP connection attempt of the client's thread."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        accepted: queue.Queue[RawServerPeer] = queue.Queue()

        def accept() -> None:
            peer = RawServerPeer(listener.accept()[0])
            peer.accept()
            accepted.put(peer)

        accepting = threading.Thread(target=accept)
        accepting.start()
        policy = FixedDelay(ms(1))
        reconnecting = ReconnectingClient(listener.getsockname()[1], recorder, reconnect_policy=lambda: policy)
        stack.callback(reconnecting.client.free)
        accepting.join(BOUND)
        with contextlib.suppress(TimeoutError):
            while True:  # until the listener's queue is full
                probe = stack.enter_context(socket.socket())
                probe.settimeout(50 * MS)
                probe.connect(listener.getsockname())
        accepted.get().close()
        wait_for(lambda: reconnecting.process.attempts == 1, what="the attempt")
        began = time.monotonic()
        reconnecting.client.free()
        assert time.monotonic() - began < 1_000 * MS
    assert recorder.names == ["focContinuation", *_ENDED]


@pytest.mark.parametrize("callback", ["focConnectionClose", "on_websockets_closed", "on_reconnect"])
def test_terminate_in_a_callback_stops_the_reconnection(callback: str, recorder: Recorder) -> None:
    """The right way to give up inside a callback: ``terminate()``; the thread ends and no further attempt is made."""
    with RawServer(drop_on_request) as server:

        def terminate_at(name: str) -> str:
            recorder.add(name)
            if name == callback:
                thread_of(client).terminate()
            return "Retry"

        with connect(server.port, lambda process, frame: terminate_at(frame.opcode.name)) as client:
            client.on_websockets_closed = lambda _: terminate_at("on_websockets_closed")
            process_of(client).on_reconnect = lambda _: terminate_at("on_reconnect")
            thread = thread_of(client)
            assert send_text(client, "drop me")
            thread.join(BOUND)
            assert not thread.is_alive()
    expected = ["focContinuation", *_ENDED, "on_reconnect"]
    assert recorder.names == (expected if callback == "on_reconnect" else expected[:-1])


@pytest.mark.parametrize("reason", ["no on_reconnect", "client_auto_upgrade", "terminated before"])
def test_a_client_that_is_not_to_reconnect_ends_its_thread(reason: str, recorder: Recorder) -> None:
    """Without ``on_reconnect``, with ``client_auto_upgrade=False`` or after ``terminate()`` a loss is the end."""
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        thread = thread_of(reconnecting.client)
        if reason == "no on_reconnect":
            reconnecting.process.on_reconnect = None
        elif reason == "client_auto_upgrade":
            reconnecting.client.settings.client_auto_upgrade = False
        else:
            thread.terminate()
        assert send_text(reconnecting.client, "a terminated thread's connection goes on until it is lost")
        thread.join(BOUND)
        assert not thread.is_alive()
        assert thread.thread_state is sFinished
        assert server.accepted == 1
    assert recorder.names == ["focContinuation", *_ENDED]


def test_a_policy_that_gives_up_ends_the_thread(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """``None`` instead of a wait is the end of it, with a warning that says why."""
    policy = FixedDelay(ms(1), max_attempts=2)
    with RawServer(polite) as server:
        reconnecting = ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy)
        server.stop()
    with reconnecting:
        thread = thread_of(reconnecting.client)
        thread.join(BOUND)
        assert not thread.is_alive()
        assert thread.thread_state is sFinished
        assert not reconnecting.process.send_frame_async(text("nobody will send this"))
    assert recorder.names == ["focContinuation", *_ENDED, *["on_reconnect(None)"] * 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ConnectionRefusedError" in caplog.text


def test_on_reconnect_taken_away_during_the_wait_is_the_end(recorder: Recorder) -> None:
    """An application may change its mind: without ``on_reconnect`` no further attempt is made."""
    with waiting(recorder, FixedDelay(NEVER)) as reconnecting:
        thread = thread_of(reconnecting.client)
        reconnecting.process.on_reconnect = None
        reconnecting.process.reconnect_now()
        thread.join(BOUND)
        assert not thread.is_alive()
    assert "on_reconnect(process)" not in recorder.names


def test_on_reconnect_set_after_the_loss_is_not_too_late(recorder: Recorder) -> None:
    """The document sets it behind the upgrade: a server that drops the connection before that does not win the race."""
    with RawServer(drop_on_request, polite) as server, connect(server.port, recorder.frame) as client:
        thread = thread_of(client)
        assert send_text(client, "drop me")
        thread.join(BOUND)
        assert not thread.is_alive()
        process_of(client).on_reconnect = lambda process: client.websockets_upgrade("", "", reconnect=True)
        recorder.wait("focContinuation", 2)
        assert send_text(client, "x")
        recorder.wait("focText")
    assert recorder.names == [
        "focContinuation",
        "focConnectionClose",
        "focContinuation",
        "focText",
        "focConnectionClose",
    ]


def test_a_graceful_close_without_reconnection_leaves_the_thread_closed(recorder: Recorder) -> None:
    """``sClosed`` after a close handshake, for clients that do not reconnect."""
    with echo_server() as server, ReconnectingClient(server.port, recorder) as reconnecting:
        thread = thread_of(reconnecting.client)
        reconnecting.process.on_reconnect = None
        recorder.wait("focContinuation")
        server.free()
        thread.join(BOUND)
        assert thread.thread_state is sClosed


def test_no_callback_comes_after_free(recorder: Recorder) -> None:
    """When ``free()`` has returned, in whatever state, the client is silent for good and its thread has ended."""
    with RawServer(upgrade_and_drop) as server:
        for _ in range(20):
            reconnecting = ReconnectingClient(server.port, recorder, reconnect_policy=lambda: FixedDelay(ms(1)))
            thread = thread_of(reconnecting.client)
            recorder.wait("on_reconnect(process)", len(recorder.all("on_reconnect(process)")) + 1)
            reconnecting.client.free()
            assert not thread.is_alive()
            names = recorder.names
            assert names.count("focContinuation") == names.count("focConnectionClose")


# --------------------------------------------------------------------------------------------------------- frames waiting


def test_frames_queued_while_disconnected_go_out_after_the_reconnect_in_order(recorder: Recorder) -> None:
    """``send_frame_async`` accepts frames during the wait; they arrive, each once, in order, when the connection is back."""
    with waiting(recorder, FixedDelay(NEVER)) as reconnecting:
        process = reconnecting.process
        for number in range(50):
            assert process.send_frame_async(text(str(number)))
        assert process.outgoing.count == 50
        reconnecting.process.reconnect_now()
        recorder.wait("focText", 50)
        assert send_text(reconnecting.client, "and then")
        recorder.wait("focText", 51)
    assert recorder.texts() == [*map(str, range(50)), "and then"]


def test_send_frame_while_disconnected_is_false_and_never_sent_later(recorder: Recorder) -> None:
    """An immediate frame is not queued: the caller knows at once that it was not sent."""
    with waiting(recorder, FixedDelay(NEVER)) as reconnecting:
        assert not send_text(reconnecting.client, "lost")
        assert not reconnecting.process.send_frame(text("lost"))
        reconnecting.process.reconnect_now()
        reconnecting.wait_reconnected()
        assert send_text(reconnecting.client, "end")
        recorder.wait("focText")
    assert recorder.texts() == ["end"]


def test_frames_that_were_under_way_when_the_connection_was_lost_are_sent_again_in_order(recorder: Recorder) -> None:
    """What the kernel had not taken whole goes to the next connection: a contiguous rest of the queue, to its end."""
    count, size = 60, 256 << 10
    received: list[int] = []
    counted: list[int] = []
    drop = threading.Event()
    done = threading.Event()

    def reads_nothing(peer: RawServerPeer) -> None:
        peer.accept()
        drop.wait(BOUND)

    def reads_all(peer: RawServerPeer) -> None:
        peer.accept()
        while not received or received[-1] != count - 1:
            payload = peer.receive_opcode(focBinary).payload
            assert payload == bytes((payload[0],)) * size
            received.append(payload[0])
        done.set()
        converse(peer)

    with (
        RawServer(reads_nothing, reads_all) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        process = reconnecting.process
        reconnecting.before_upgrade = lambda process: counted.append(process.protocol.frames_out_count)
        for number in range(count):
            assert process.send_frame_async(WebSocketFrame(focBinary, bytes((number,)) * size))
        waiting_frames: list[int] = []

        def stuck() -> bool:
            waiting_frames.append(process.outgoing.count)
            return len(waiting_frames) > 20 and 0 < waiting_frames[-20] == waiting_frames[-1] < count

        wait_for(stuck)
        drop.set()
        assert done.wait(2 * BOUND)
    assert received == list(range(received[0], count))
    assert received[0] == counted[0]


def test_a_frame_sent_in_on_reconnect_is_the_first_of_the_new_connection(recorder: Recorder) -> None:
    """Once the upgrade has succeeded ``on_reconnect`` can authenticate and subscribe; before it, sending is refused."""
    results: list[bool] = []
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        reconnecting.before_upgrade = lambda process: results.append(process.send_frame(text("too early")))
        reconnecting.after_upgrade = lambda process: results.append(process.send_frame(text("subscribe")))
        reconnecting.drop()
        reconnecting.wait_reconnected()
        assert recorder.wait("focText").value.text == "subscribe"
    assert results == [False, True]


def test_a_frame_queued_in_on_reconnect_goes_out_too(recorder: Recorder) -> None:
    """``send_frame_async`` inside ``on_reconnect`` is sent when the loop runs."""
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        reconnecting.after_upgrade = lambda process: process.send_frame_async(text("queued"))
        reconnecting.drop()
        assert recorder.wait("focText").value.text == "queued"


def test_a_connection_closed_in_on_reconnect_sends_nothing_behind_its_close_frame(recorder: Recorder) -> None:
    """A close frame sent right after the upgrade is the last one of that connection, in the frame callback too."""
    frames: list[WebSocketFrame] = []
    sent: list[bool] = []

    def remembering_frames(peer: RawServerPeer) -> None:
        peer.accept()
        with contextlib.suppress(EOFError):
            while True:
                frames.append(peer.receive_frame())
                if frames[-1].opcode is focConnectionClose:
                    peer.send_frame(focConnectionClose, frames[-1].payload)

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode.name == "focContinuation" and len(recorder.all("focContinuation")) == 2:
            sent.append(process.send_frame(text("behind the close frame")))

    with RawServer(drop_on_request, remembering_frames) as server, connect(server.port, callback) as client:

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            assert process is not None
            error = client.websockets_upgrade("", "", False, (), process.protocol, "", reconnect=True)
            process.send_frame(WebSocketFrame(focConnectionClose, b"\x0f\xa0"))
            thread_of(client).terminate()
            return error

        process_of(client).on_reconnect = on_reconnect
        assert send_text(client, "drop me")
        thread_of(client).join(BOUND)
        assert not thread_of(client).is_alive()
    assert [frame.opcode for frame in frames] == [focConnectionClose]
    assert True not in sent
