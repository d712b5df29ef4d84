"""Between two connections: the waits, what ends them, and the frames that are queued or refused
meanwhile.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    FixedDelay,
    RawServer,
    RawServerPeer,
    ReconnectingClient,
    Recorder,
    connect,
    converse,
    drop_on_request,
    echo_server,
    ms,
    polite,
    process_of,
    send_text,
    text,
    upgrade_and_drop,
    upgraded,
    wait_for,
)
from support.reconnection import ENDED, NEVER, thread_of, waiting

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    focBinary,
    focConnectionClose,
    sClosed,
    sFinished,
)

# ----------------------------------------------------------------------------- waiting and stopping


def test_reconnect_now_cuts_the_wait_short(recorder: Recorder) -> None:
    """A client that waits for ten minutes attempts at once when it is told to."""
    with waiting(recorder, FixedDelay(NEVER)) as reconnecting:
        assert recorder.names == ["focContinuation", *ENDED]
        reconnecting.process.reconnect_now()
        reconnecting.wait_reconnected()


def test_reconnect_now_on_a_running_connection_does_nothing_harmful(recorder: Recorder) -> None:
    """Called while connected it leaves the connection alone."""
    with RawServer(polite) as server, ReconnectingClient(server.port, recorder) as reconnecting:
        reconnecting.process.reconnect_now()
        assert send_text(reconnecting.client, "x")
        recorder.wait("focText")
    assert recorder.names == ["focContinuation", "focText", *ENDED]


def test_terminate_ends_the_wait_and_the_thread(recorder: Recorder) -> None:
    """After ``terminate()`` the thread ends at once, without another attempt: nobody knocks at the
    server any more.
    """
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
    assert recorder.names == ["focContinuation", *ENDED]


def test_free_ends_the_wait_at_once(recorder: Recorder) -> None:
    """``free()`` does not wait for the next attempt."""
    with waiting(recorder, FixedDelay(NEVER)) as reconnecting:
        began = time.monotonic()
        reconnecting.client.free()
        assert time.monotonic() - began < 1_000 * MS
    assert recorder.names == ["focContinuation", *ENDED]


def test_free_ends_an_upgrade_that_waits_for_a_silent_server(recorder: Recorder) -> None:
    """``free()`` interrupts the handshake inside ``on_reconnect``, which returns a text; nothing
    follows.
    """
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
    assert recorder.names == ["focContinuation", *ENDED, "on_reconnect(process)"]
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
        reconnecting = ReconnectingClient(
            listener.getsockname()[1], recorder, reconnect_policy=lambda: policy
        )
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
    assert recorder.names == ["focContinuation", *ENDED]


@pytest.mark.parametrize("callback", ["focConnectionClose", "on_websockets_closed", "on_reconnect"])
def test_terminate_in_a_callback_stops_the_reconnection(callback: str, recorder: Recorder) -> None:
    """The right way to give up inside a callback: ``terminate()``; the thread ends and no further
    attempt is made.
    """
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
    expected = ["focContinuation", *ENDED, "on_reconnect"]
    assert recorder.names == (expected if callback == "on_reconnect" else expected[:-1])


@pytest.mark.parametrize("reason", ["no on_reconnect", "client_auto_upgrade", "terminated before"])
def test_a_client_that_is_not_to_reconnect_ends_its_thread(reason: str, recorder: Recorder) -> None:
    """Without ``on_reconnect``, with ``client_auto_upgrade=False`` or after ``terminate()`` a loss
    is the end.
    """
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
        assert send_text(
            reconnecting.client, "a terminated thread's connection goes on until it is lost"
        )
        thread.join(BOUND)
        assert not thread.is_alive()
        assert thread.thread_state is sFinished
        assert server.accepted == 1
    assert recorder.names == ["focContinuation", *ENDED]


def test_a_policy_that_gives_up_ends_the_thread(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """``None`` instead of a wait is the end of it, with a warning that says why."""
    policy = FixedDelay(ms(1), max_attempts=2)
    with RawServer(polite) as server:
        reconnecting = ReconnectingClient(server.port, recorder, reconnect_policy=lambda: policy)
        server.close()
    with reconnecting:
        thread = thread_of(reconnecting.client)
        thread.join(BOUND)
        assert not thread.is_alive()
        assert thread.thread_state is sFinished
        assert not reconnecting.process.send_frame_async(text("nobody will send this"))
    assert recorder.names == ["focContinuation", *ENDED, *["on_reconnect(None)"] * 2]
    last = caplog.records[-1]
    assert last.levelname == "WARNING"
    assert "giving up after 2 attempts: ConnectionRefusedError" in last.getMessage()


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
    """The document sets it behind the upgrade: a server that drops the connection before that does
    not win the race.
    """
    with (
        RawServer(drop_on_request, polite) as server,
        connect(server.port, recorder.frame) as client,
    ):
        thread = thread_of(client)
        assert send_text(client, "drop me")
        thread.join(BOUND)
        assert not thread.is_alive()
        process_of(client).on_reconnect = lambda process: client.websockets_upgrade(
            "", "", reconnect=True
        )
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
    """When ``free()`` has returned, in whatever state, the client is silent for good and its
    thread has ended.
    """
    with RawServer(upgrade_and_drop) as server:
        for _ in range(20):
            reconnecting = ReconnectingClient(
                server.port, recorder, reconnect_policy=lambda: FixedDelay(ms(1))
            )
            thread = thread_of(reconnecting.client)
            recorder.wait("on_reconnect(process)", len(recorder.all("on_reconnect(process)")) + 1)
            reconnecting.client.free()
            assert not thread.is_alive()
            names = recorder.names
            assert names.count("focContinuation") == names.count("focConnectionClose")


# ----------------------------------------------------------------------------------- frames waiting


def test_frames_queued_while_disconnected_go_out_after_the_reconnect_in_order(
    recorder: Recorder,
) -> None:
    """``send_frame_async`` accepts frames during the wait; they arrive, each once, in order, when
    the connection is back.
    """
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


def test_frames_that_were_under_way_when_the_connection_was_lost_are_sent_again_in_order(
    recorder: Recorder,
) -> None:
    """What the kernel had not taken whole goes to the next connection: a contiguous rest of the
    queue, to its end.
    """
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
        reconnecting.before_upgrade = lambda process: counted.append(
            process.protocol.frames_out_count
        )
        for number in range(count):
            assert process.send_frame_async(WebSocketFrame(focBinary, bytes((number,)) * size))
        waiting_frames: list[int] = []

        def stuck() -> bool:
            waiting_frames.append(process.outgoing.count)
            return (
                len(waiting_frames) > 20 and 0 < waiting_frames[-20] == waiting_frames[-1] < count
            )

        wait_for(stuck)
        drop.set()
        assert done.wait(2 * BOUND)
    assert received == list(range(received[0], count))
    assert received[0] == counted[0]


def test_a_frame_sent_in_on_reconnect_is_the_first_of_the_new_connection(
    recorder: Recorder,
) -> None:
    """Once the upgrade has succeeded ``on_reconnect`` can authenticate and subscribe; before it,
    sending is refused.
    """
    results: list[bool] = []
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, recorder) as reconnecting,
    ):
        reconnecting.before_upgrade = lambda process: results.append(
            process.send_frame(text("too early"))
        )
        reconnecting.after_upgrade = lambda process: results.append(
            process.send_frame(text("subscribe"))
        )
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


def test_a_connection_closed_in_on_reconnect_sends_nothing_behind_its_close_frame(
    recorder: Recorder,
) -> None:
    """A close frame sent right after the upgrade is the last one of that connection, in the frame
    callback too.
    """
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

    with (
        RawServer(drop_on_request, remembering_frames) as server,
        connect(server.port, callback) as client,
    ):

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            assert process is not None
            error = client.websockets_upgrade(
                "", "", False, (), process.protocol, "", reconnect=True
            )
            process.send_frame(WebSocketFrame(focConnectionClose, b"\x0f\xa0"))
            thread_of(client).terminate()
            return error

        process_of(client).on_reconnect = on_reconnect
        assert send_text(client, "drop me")
        thread_of(client).join(BOUND)
        assert not thread_of(client).is_alive()
    assert [frame.opcode for frame in frames] == [focConnectionClose]
    assert True not in sent
