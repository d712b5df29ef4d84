"""How a connection ends, in both roles: close frames from either side, cuts, shutdown() from
anywhere.
"""

from __future__ import annotations

import time

import pytest
from support import (
    BOUND,
    MS,
    Recorder,
    ms,
    text,
    wait_for,
)
from support.pairs import both_roles, end_of, in_thread, pair

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    focConnectionClose,
    focText,
    parse_close_payload,
    wpsDestroy,
    wpsRun,
)


@both_roles
@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [(b"", 1005, ""), (b"\x03\xe8", 1000, ""), (b"\x0f\xa0gr\xc3\xbcn", 4000, "grün")],
    ids=["empty", "code", "code and reason"],
)
def test_a_close_frame_is_answered_with_its_payload(
    role: str, payload: bytes, code: int, reason: str
) -> None:
    """The peer's close frame comes back once, its code and reason are told, and the connection
    ends.
    """
    with pair(role) as (process, peer, recorder):
        peer.send_frame(focConnectionClose, payload)
        assert peer.receive_opcode(focConnectionClose).payload == payload
        end_of(peer)
        assert recorder.wait("focConnectionClose").value.payload == payload
        assert (process.close_code, process.close_reason) == (code, reason)
        wait_for(lambda: process.state is wpsDestroy)
    assert recorder.names == ["focContinuation", "focConnectionClose"]


@both_roles
def test_shutdown_closes_with_code_and_reason(role: str) -> None:
    """``shutdown`` sends one close frame, returns True when it is answered, and the callback gets
    the same payload.
    """
    with pair(role) as (process, peer, recorder):
        thread, results = in_thread(lambda: process.shutdown(4001, "grün"))
        frame = peer.receive_opcode(focConnectionClose)
        assert parse_close_payload(frame.payload) == (4001, "grün")
        peer.send_frame(focConnectionClose, frame.payload)
        thread.join(BOUND)
        assert results == [True]
        end_of(peer)
        assert recorder.wait("focConnectionClose").value.payload == frame.payload
        assert (process.close_code, process.close_reason) == (4001, "grün")


@both_roles
def test_shutdown_without_an_answer_cuts_the_connection(role: str) -> None:
    """After ``close_timeout`` without the peer's close frame ``shutdown`` returns False and the
    connection is ended.
    """
    with pair(role, close_timeout=ms(100)) as (process, peer, recorder):
        began = time.monotonic()
        assert not process.shutdown()
        assert 90 * MS <= time.monotonic() - began < 2_000 * MS
        recorder.wait("focConnectionClose")
        peer.receive_opcode(focConnectionClose)
        assert peer.read_to_end() == b""


@both_roles
def test_messages_on_their_way_are_delivered_while_shutdown_waits(role: str) -> None:
    """What the peer sent before it answered our close frame still reaches the callback."""
    with pair(role) as (process, peer, recorder):
        thread, _ = in_thread(process.shutdown)
        peer.receive_opcode(focConnectionClose)
        peer.send_frame(focText, "late")
        peer.send_frame(focConnectionClose, b"\x03\xe8")
        thread.join(BOUND)
        peer.close()
        recorder.wait("focConnectionClose")
    assert recorder.names == ["focContinuation", "focText", "focConnectionClose"]


@pytest.mark.parametrize("how", ["shutdown", "abort"])
@both_roles
def test_no_message_reaches_a_callback_after_the_one_that_ends_the_connection(
    role: str, how: str
) -> None:
    """Nor those that came in the same read: they are dropped, and counted."""
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText:
            if how == "shutdown":
                process.shutdown(1008, "who are you?")
            else:
                process.abort("who are you?")

    with pair(role, callback) as (process, peer, _):
        peer.send(peer.encoded(focText, b"wrong") + peer.encoded(focText, b"delete") * 20)
        wait_for(lambda: process.dropped_count == 20)
        peer.close()
        recorder.wait("focConnectionClose")
    assert recorder.names == ["focContinuation", "focText", "focConnectionClose"]


@both_roles
def test_only_one_close_frame_is_sent(role: str) -> None:
    """Four concurrent ``shutdown`` calls, and one later, give one close frame; nothing can be sent
    behind it.
    """
    with pair(role) as (process, peer, recorder):
        calls = [in_thread(process.shutdown) for _ in range(4)]
        frame = peer.receive_opcode(focConnectionClose)
        assert not process.send_frame(text("too late"))
        assert not process.send_frame_async(text("too late"))
        peer.send_frame(focConnectionClose, frame.payload)
        for thread, results in calls:
            thread.join(BOUND)
            assert results == [True]
        process.shutdown()
        end_of(peer)
        recorder.wait("focConnectionClose")
    assert recorder.names == ["focContinuation", "focConnectionClose"]


@both_roles
def test_shutdown_beside_senders_closes_behind_a_whole_frame(role: str) -> None:
    """While three threads send, ``shutdown`` gets its turn: whole frames, then the close frame,
    then nothing.
    """
    with pair(role) as (process, peer, recorder):

        def send_until_refused() -> bool:
            while process.send_frame(text("busy")):
                pass
            return process.send_frame_async(text("too late"))

        senders = [in_thread(send_until_refused) for _ in range(3)]
        assert peer.receive_opcode(focText).text == "busy"
        closing, results = in_thread(lambda: process.shutdown(4000))
        while (frame := peer.receive_frame()).opcode is focText:
            assert frame.text == "busy"
        assert parse_close_payload(frame.payload)[0] == 4000
        peer.send_frame(focConnectionClose, frame.payload)
        end_of(peer)
        for thread, refused in senders:
            thread.join(BOUND)
            assert refused == [False]
        closing.join(BOUND)
        assert results == [True]
        recorder.wait("focConnectionClose")


@both_roles
def test_close_frames_that_cross_end_the_connection_once(role: str) -> None:
    """Both sides close at the same time: our code is kept, no second close frame is sent."""
    with pair(role) as (process, peer, recorder):
        thread, results = in_thread(lambda: process.shutdown(4001))
        wait_for(lambda: process.state is not wpsRun)
        peer.send_frame(focConnectionClose, b"\x0f\xa2")
        assert peer.receive_opcode(focConnectionClose).payload == b"\x0f\xa1"
        end_of(peer)
        thread.join(BOUND)
        assert results == [True]
        recorder.wait("focConnectionClose")
        assert process.close_code == 4001
    assert recorder.names == ["focContinuation", "focConnectionClose"]


@both_roles
def test_shutdown_in_a_callback_does_not_wait(role: str) -> None:
    """Inside the loop's own thread ``shutdown`` returns at once; the loop then ends in the
    ordinary way.
    """
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText:
            recorder.add("shutdown", process.shutdown(4000, "enough"))

    with pair(role, callback, close_timeout=ms(5_000)) as (process, peer, _):
        peer.send_frame(focText, "x")
        frame = peer.receive_opcode(focConnectionClose)
        assert recorder.wait("shutdown").value is True
        peer.send_frame(focConnectionClose, frame.payload)
        end_of(peer)
        recorder.wait("focConnectionClose")
        assert process.close_code == 4000
    assert recorder.names == ["focContinuation", "focText", "shutdown", "focConnectionClose"]


@both_roles
def test_a_close_frame_given_to_send_frame_starts_the_handshake(role: str) -> None:
    """Sending a focConnectionClose frame closes with its code."""
    with pair(role) as (process, peer, recorder):
        assert process.send_frame(WebSocketFrame(focConnectionClose, b"\x0f\xa0"))
        assert not process.send_frame(text("too late"))
        peer.send_frame(focConnectionClose, peer.receive_opcode(focConnectionClose).payload)
        end_of(peer)
        recorder.wait("focConnectionClose")
        assert process.close_code == 4000


@both_roles
@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015, 2999, 5000])
def test_a_close_code_that_may_not_be_sent_is_a_value_error(role: str, code: int) -> None:
    """``shutdown`` refuses such a code, and the connection goes on."""
    with pair(role) as (process, peer, _):
        with pytest.raises(ValueError, match=str(code)):
            process.shutdown(code)
        assert process.send_frame(text("still here"))
        assert peer.receive_opcode(focText).text == "still here"


@both_roles
def test_what_comes_behind_a_close_frame_is_ignored(role: str) -> None:
    """RFC 6455 §1.4: after the close frame nothing of the peer is looked at, not even in the same
    segment.
    """
    with pair(role) as (_, peer, recorder):
        peer.send(
            peer.encoded(focConnectionClose, b"\x03\xe8")
            + peer.encoded(focText, "behind")
            + b"\xff\xff"
        )
        peer.receive_opcode(focConnectionClose)
        peer.close()
        recorder.wait("focConnectionClose")
    assert recorder.names == ["focContinuation", "focConnectionClose"]


@both_roles
def test_a_lost_connection_is_told_as_1006(role: str) -> None:
    """Without a close frame the code is 1006, the callback's payload is empty, and ``last_error``
    says why.
    """
    with pair(role) as (process, peer, recorder):
        peer.close()
        assert recorder.wait("focConnectionClose").value.payload == b""
        assert (process.close_code, process.close_reason) == (1006, "")
        assert process.last_error


def test_an_on_client_connected_that_raises_changes_nothing_for_a_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in the original: the exception is logged, and the connection goes on."""

    def refuse(process: WebSocketProcess) -> None:
        raise RuntimeError("bug in a callback")

    with pair("client", on_client_connected=refuse) as (process, peer, recorder):
        peer.send_frame(focText, "hello")
        recorder.wait("focText")
        assert process.state is wpsRun
    assert recorder.names[:2] == ["focContinuation", "focText"]
    assert "bug in a callback" in caplog.text
