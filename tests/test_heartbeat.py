"""Pings, pongs and heartbeats, in both roles: who is alive, who is given up, and what happens during a long callback."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from pairs import both_roles, pair
from support import (
    BOUND,
    MS,
    TIMEOUT_FACTOR,
    Recorder,
    echo,
    ms,
    text,
)

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    focContinuation,
    focPing,
    focPong,
    focText,
    wpsRun,
)


@both_roles
@pytest.mark.parametrize("payload", [b"", b"\0\xffping", bytes(125)], ids=["empty", "binary", "longest"])
def test_a_ping_is_answered_at_once_with_its_payload(role: str, payload: bytes) -> None:
    """The pong repeats the ping, comes before the answer to a later message, and no callback sees either."""
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        echo(process, frame)

    with pair(role, callback) as (_, peer, _):
        peer.send(
            peer.encoded(focPing, payload) + peer.encoded(focText, "later") + peer.encoded(focPong, b"nobody asked")
        )
        assert peer.receive_opcode(focPong).payload == payload
        assert peer.receive_opcode(focText).text == "later"
        peer.send_frame(focText, "end")
        assert peer.receive_opcode(focText).text == "end"
    assert recorder.names[:3] == ["focContinuation", "focText", "focText"]


@both_roles
def test_a_ping_inside_a_fragmented_message_is_answered_before_its_end(role: str) -> None:
    """Control frames may come between fragments, and the message is joined all the same."""
    with pair(role) as (_, peer, recorder):
        peer.send_frame(focText, "frag", fin=False)
        peer.send_frame(focPing, "between")
        assert peer.receive_opcode(focPong).text == "between"
        peer.send_frame(focContinuation, "mented")
        assert recorder.wait("focText").value.text == "fragmented"


@both_roles
def test_notify_all_frames_shows_pings_and_pongs(role: str) -> None:
    """With ``notify_all_frames`` the callback sees control frames too; a ping is still answered."""
    with pair(role, notify_all_frames=True) as (process, peer, recorder):
        peer.send_frame(focPing, "question")
        assert peer.receive_opcode(focPong).text == "question"
        assert recorder.wait("focPing").value.text == "question"
        assert process.send_frame(WebSocketFrame(focPing, b"ours"))
        peer.send_frame(focPong, peer.receive_opcode(focPing).payload)
        assert recorder.wait("focPong").value.text == "ours"


@both_roles
def test_an_idle_connection_is_pinged(role: str) -> None:
    """After ``heartbeat_delay`` without anything received a ping goes out, and not before."""
    began = time.monotonic()
    with pair(role, heartbeat_delay=ms(100)) as (_, peer, _):
        peer.receive_opcode(focPing)
        assert time.monotonic() - began >= 90 * MS


@both_roles
def test_whatever_is_received_postpones_the_ping(role: str) -> None:
    """The heartbeat counts from the last byte received."""
    with pair(role, heartbeat_delay=ms(200), disconnect_after_invalid_heartbeat_count=0) as (_, peer, _):
        for _ in range(20):
            peer.sock.settimeout(120 * MS)
            try:
                peer.receive_opcode(focPing)
                continue  # this machine was asleep for a while: again
            except TimeoutError:
                began = time.monotonic()
            peer.send_frame(focText, "alive")
            peer.sock.settimeout(BOUND)
            peer.receive_opcode(focPing)
            assert time.monotonic() - began >= 180 * MS
            return
        pytest.fail("this machine is too slow to tell")


@both_roles
def test_heartbeat_delay_0_never_pings(role: str) -> None:
    """Without heartbeats an idle connection stays silent."""
    with pair(role, heartbeat_delay=0) as (_, peer, _):
        peer.sock.settimeout(150 * MS)
        with pytest.raises(TimeoutError):
            peer.receive_frame()


@both_roles
def test_unanswered_pings_close_the_connection(role: str) -> None:
    """A silent peer is given up after ``disconnect_after_invalid_heartbeat_count`` pings without a sign of life."""
    began = time.monotonic()
    with pair(role, heartbeat_delay=ms(60), disconnect_after_invalid_heartbeat_count=2) as (process, peer, recorder):
        pings = 0
        with contextlib.suppress(EOFError):
            while True:
                peer.receive_opcode(focPing)
                pings += 1
        elapsed = time.monotonic() - began
        closed = recorder.wait("focConnectionClose").value
        assert pings == 2
        assert 3 * 60 * 0.9 * MS <= elapsed < 2_000 * MS
        assert closed.payload == b""
        assert process.close_code == 1006
        assert process.invalid_ping_count == 2
        assert "heartbeat" in process.last_error


@both_roles
@pytest.mark.parametrize("sign", [focPong, focText])
def test_a_peer_that_gives_a_sign_of_life_is_kept(role: str, sign: int) -> None:
    """A pong or any other frame after each ping keeps the connection for as long as it lasts."""
    with pair(role, heartbeat_delay=ms(50), disconnect_after_invalid_heartbeat_count=2) as (process, peer, recorder):
        for _ in range(6):
            peer.send_frame(sign, peer.receive_opcode(focPing).payload)
        assert process.state is wpsRun
        peer.receive_opcode(focPing)
        assert process.invalid_ping_count <= 1
        assert not recorder.all("focConnectionClose")


@both_roles
def test_a_late_sign_of_life_forgives_what_was_missed(role: str) -> None:
    """One unanswered ping of every two does not add up."""
    with pair(role, heartbeat_delay=ms(60), disconnect_after_invalid_heartbeat_count=3) as (process, peer, recorder):
        for _ in range(4):
            peer.receive_opcode(focPing)
            peer.receive_opcode(focPing)
            peer.send_frame(focPong)
        peer.receive_opcode(focPing)
        assert process.state is wpsRun
        assert not recorder.all("focConnectionClose")


@both_roles
def test_an_invalid_heartbeat_count_of_0_never_gives_up(role: str) -> None:
    """With 0 the pings go on, unanswered, and the connection stays."""
    with pair(role, heartbeat_delay=ms(20), disconnect_after_invalid_heartbeat_count=0) as (process, peer, _):
        for _ in range(10):
            peer.receive_opcode(focPing)
        assert process.state is wpsRun
        assert process.send_frame(text("still here"))


@both_roles
def test_a_slow_callback_is_no_silent_peer(role: str) -> None:
    """While our own callback takes its time, answers that wait unread in the socket do not count as missing."""
    go_on = threading.Event()
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText and frame.payload == b"slow":
            go_on.wait(BOUND)

    with pair(role, callback, heartbeat_delay=ms(60), disconnect_after_invalid_heartbeat_count=2) as (process, peer, _):
        peer.send_frame(focText, "slow")
        recorder.wait("focText")
        for _ in range(6):
            peer.send_frame(focPong, peer.receive_opcode(focPing).payload)
        go_on.set()
        peer.send_frame(focText, "after")
        recorder.wait("focText", 2)
        assert process.state is wpsRun
        assert not recorder.all("focConnectionClose")


@both_roles
def test_a_ping_is_answered_while_a_callback_takes_its_time(role: str) -> None:
    """The peer of a busy process does not have to give it up: its pings are answered, and its messages wait in order."""
    go_on = threading.Event()
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText and frame.payload == b"slow":
            go_on.wait(BOUND)

    with pair(role, callback, heartbeat_delay=ms(200), disconnect_after_invalid_heartbeat_count=0) as (_, peer, _):
        peer.send_frame(focText, "slow")
        recorder.wait("focText")
        peer.send(peer.encoded(focText, "1") + peer.encoded(focPing, "alive?") + peer.encoded(focText, "2"))
        while (frame := peer.receive_frame()).opcode is focPing:
            pass  # its own heartbeat
        assert (frame.opcode, frame.text) == (focPong, "alive?")
        go_on.set()
        recorder.wait("focText", 3)
    assert recorder.texts() == ["slow", "1", "2"]


@both_roles
def test_last_ping_delay_is_measured(role: str) -> None:
    """The time from a heartbeat to its pong is told in milliseconds."""
    with pair(role, heartbeat_delay=ms(30)) as (process, peer, _):
        assert process.last_ping_delay == 0
        for _ in range(5):
            ping = peer.receive_opcode(focPing)
            answered = time.monotonic()
            peer.send_frame(focPong, ping.payload)
            if process.last_ping_delay:
                break
        assert 0 < process.last_ping_delay < (time.monotonic() - answered) * 1000 + 5_000 * TIMEOUT_FACTOR
