"""Pings, pongs and heartbeats, in both roles: who is alive, who is given up, and what happens
during a long callback.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support import (
    BOUND,
    MS,
    TIMEOUT_FACTOR,
    RawPeer,
    Recorder,
    echo,
    ms,
    text,
    wait_for,
)
from support.pairs import Pair, both_roles, pair

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    wpsRun,
)
from mormot_ws.process.liveness import Liveness


@both_roles
@pytest.mark.parametrize(
    "payload", [b"", b"\0\xffping", bytes(125)], ids=["empty", "binary", "longest"]
)
def test_a_ping_is_answered_at_once_with_its_payload(role: str, payload: bytes) -> None:
    """The pong repeats the ping, comes before the answer to a later message, and no callback sees
    either.
    """
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        echo(process, frame)

    with pair(role, callback) as (_, peer, _):
        peer.send(
            peer.encoded(focPing, payload)
            + peer.encoded(focText, "later")
            + peer.encoded(focPong, b"nobody asked")
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
def test_a_ping_does_not_wait_for_the_send_delay(role: str) -> None:
    """A heartbeat that falls due right after a queued frame has left goes out all the same: nobody
    is given up unasked.
    """
    with pair(role, heartbeat_delay=ms(100), send_delay=60_000) as (process, peer, _):
        assert process.send_frame_async(text("begins the delay"))
        peer.receive_opcode(focText)
        peer.receive_opcode(focPing)


@both_roles
def test_a_ping_goes_out_behind_the_frames_that_it_met(role: str) -> None:
    """One that falls due while queued frames are stuck leaves with the end of them, and not with
    the next frame that comes along.
    """
    with pair(role, heartbeat_delay=0) as (process, peer, _):
        size = 0
        while process.sender.batch.wire is None or size < 1 << 22:  # the peer does not read yet
            assert process.send_frame_async(WebSocketFrame(focBinary, bytes(1 << 18)))
            size += 1 << 18
            wait_for(lambda: process.sender.batch.wire is not None or not process.outgoing)
        process.sender.send_control(focPing, b"")
        while peer.receive_frame().opcode is not focPing:
            pass
        assert process.state is wpsRun


@both_roles
def test_whatever_is_received_postpones_the_ping(role: str) -> None:
    """The heartbeat counts from the last byte received."""
    with pair(role, heartbeat_delay=ms(200), disconnect_after_invalid_heartbeat_count=0) as (
        _,
        peer,
        _,
    ):
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
    """A silent peer is given up after ``disconnect_after_invalid_heartbeat_count`` pings without a
    sign of life.
    """
    began = time.monotonic()
    with pair(role, heartbeat_delay=ms(60), disconnect_after_invalid_heartbeat_count=2) as (
        process,
        peer,
        recorder,
    ):
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
    with pair(role, heartbeat_delay=ms(50), disconnect_after_invalid_heartbeat_count=2) as (
        process,
        peer,
        recorder,
    ):
        for _ in range(6):
            peer.send_frame(sign, peer.receive_opcode(focPing).payload)
        assert process.state is wpsRun
        peer.receive_opcode(focPing)
        assert process.invalid_ping_count <= 1
        assert not recorder.all("focConnectionClose")


@both_roles
def test_a_late_sign_of_life_forgives_what_was_missed(role: str) -> None:
    """One unanswered ping of every two does not add up."""
    with pair(role, heartbeat_delay=ms(60), disconnect_after_invalid_heartbeat_count=3) as (
        process,
        peer,
        recorder,
    ):
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
    with pair(role, heartbeat_delay=ms(20), disconnect_after_invalid_heartbeat_count=0) as (
        process,
        peer,
        _,
    ):
        for _ in range(10):
            peer.receive_opcode(focPing)
        assert process.state is wpsRun
        assert process.send_frame(text("still here"))


@both_roles
def test_a_slow_callback_is_no_silent_peer(role: str) -> None:
    """While our own callback takes its time, answers that wait unread in the socket do not count
    as missing.
    """
    go_on = threading.Event()
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText and frame.payload == b"slow":
            go_on.wait(BOUND)

    with pair(
        role, callback, heartbeat_delay=ms(60), disconnect_after_invalid_heartbeat_count=2
    ) as (process, peer, _):
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
@pytest.mark.parametrize("starved", ["before it reads", "before it notes what it read"])
@pytest.mark.parametrize("kernel_tells", [True, False], ids=["kernel counts", "kernel is silent"])
def test_a_loop_without_a_turn_is_no_silent_peer(
    role: str, starved: str, kernel_tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer counts from its arrival, though the loop's thread has not come to read it, or to
    say so. Where no kernel counts what arrives, the loop is given a little more time.
    """
    answered, held, go_on = threading.Event(), threading.Event(), threading.Event()
    recorder = Recorder()

    def starve(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.payload == b"starve":
            # in the loop's thread: its next read is this one
            reader = process.reader
            receive = reader._receive
            monkeypatch.setattr(reader, "_receive", lambda size: receive_late(receive, size))
        recorder.frame(process, frame)

    def receive_late(receive: Callable[[int], bytes], size: int) -> bytes:
        data = b"" if starved == "before it reads" else receive(size)
        held.set()
        go_on.wait(3 * BOUND)
        return data or receive(size)

    def nobody_counts() -> None:
        if answered.is_set():
            # asked for the verdict: the loop has its turn right after it
            go_on.set()

    with pair(
        role, starve, heartbeat_delay=ms(100), disconnect_after_invalid_heartbeat_count=1
    ) as (process, peer, _):
        if not kernel_tells:
            monkeypatch.setattr(process, "received_bytes", nobody_counts)
        try:
            peer.send_frame(focText, "starve")
            ping = peer.receive_opcode(focPing)
            answered.set()
            peer.send_frame(focPong, ping.payload)
            peer.receive_opcode(focPing)
            assert held.is_set()
        finally:
            go_on.set()
        peer.send_frame(focText, "alive")
        recorder.wait("focText", 2)
        assert process.state is wpsRun
        assert not recorder.all("focConnectionClose")


@both_roles
def test_a_sign_of_life_during_the_verdict_counts(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loop reads while the keeper is about to give the peer up saves it."""
    verdicts: list[float] = []

    def stand_in(now: float) -> bool:
        if answered.is_set():
            verdicts.append(now)
            peer.send_frame(focText, "just in time")
            recorder.wait("focText", len(verdicts))
        return bool(original(now))

    answered = threading.Event()
    with pair(role, heartbeat_delay=ms(100), disconnect_after_invalid_heartbeat_count=1) as (
        process,
        peer,
        recorder,
    ):
        recorder.wait("focContinuation")
        original = process.liveness.stand_in
        # Linux would know without looking
        monkeypatch.setattr(process, "received_bytes", lambda: 0)
        process.liveness.unwatch()
        monkeypatch.setattr(process.liveness, "stand_in", stand_in)
        peer.receive_opcode(focPing)
        answered.set()
        for _ in range(3):
            peer.receive_opcode(focPing)
        assert process.state is wpsRun
        assert verdicts
        answered.clear()


@contextlib.contextmanager
def slow_pair(role: str, **settings: Any) -> Iterator[tuple[Pair, threading.Event]]:
    """Give a pair whose callback waits, when it gets the message ``slow``, for the event that
    comes with it.
    """
    go_on = threading.Event()
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText and frame.payload == b"slow":
            go_on.wait(3 * BOUND)  # longer than the peer waits for an answer

    with pair(role, callback, disconnect_after_invalid_heartbeat_count=0, **settings) as both:
        try:
            yield both._replace(recorder=recorder), go_on
        finally:
            go_on.set()


def next_but_pings(peer: RawPeer) -> tuple[int, str]:
    """Return opcode and payload of the next frame that is no heartbeat of the process."""
    give_up = time.monotonic() + BOUND
    while (frame := peer.receive_frame()).opcode is focPing:
        assert time.monotonic() < give_up, "nothing but heartbeats"
    return frame.opcode, frame.text


@both_roles
@pytest.mark.parametrize("heartbeat_delay", [ms(200), 0], ids=["heartbeats", "no heartbeats"])
def test_a_ping_is_answered_while_a_callback_takes_its_time(
    role: str, heartbeat_delay: int
) -> None:
    """The peer of a busy process does not have to give it up: its pings are answered, and its
    messages wait in order.
    """
    with slow_pair(role, heartbeat_delay=heartbeat_delay) as ((_, peer, recorder), go_on):
        peer.send_frame(focText, "slow")
        recorder.wait("focText")
        peer.send(
            peer.encoded(focText, "1")
            + peer.encoded(focPing, "alive?")
            + peer.encoded(focText, "2")
        )
        assert next_but_pings(peer) == (focPong, "alive?")
        go_on.set()
        recorder.wait("focText", 3)
    assert recorder.texts() == ["slow", "1", "2"]


@both_roles
def test_a_ping_right_behind_the_message_of_a_long_callback_is_answered_once(role: str) -> None:
    """It came in the same read as the message, so that it waits in the hands of the busy loop."""
    with slow_pair(role, heartbeat_delay=ms(100)) as ((_, peer, recorder), go_on):
        peer.send(
            peer.encoded(focPing, "before")
            + peer.encoded(focText, "slow")
            + peer.encoded(focPing, "alive?")
        )
        assert next_but_pings(peer) == (focPong, "before")
        assert next_but_pings(peer) == (focPong, "alive?")
        assert recorder.texts() == ["slow"]
        go_on.set()
        peer.send_frame(focPing, "after")
        assert next_but_pings(peer) == (focPong, "after")


@both_roles
def test_a_ping_behind_many_messages_is_answered_at_the_next_look(role: str) -> None:
    """What has arrived during a long callback is read at once, up to a megabyte."""
    message = "x" * 10_000
    with slow_pair(role, heartbeat_delay=0) as ((_, peer, recorder), go_on):
        peer.send_frame(focText, "slow")
        recorder.wait("focText")
        peer.send(peer.encoded(focText, message) * 50 + peer.encoded(focPing, "alive?"))
        began = time.monotonic()
        assert next_but_pings(peer) == (focPong, "alive?")
        assert time.monotonic() - began < 5_000 * MS
        go_on.set()
        recorder.wait("focText", 51)
    assert recorder.texts() == ["slow", *[message] * 50]


@both_roles
def test_a_flood_of_pings_is_refused_during_a_long_callback_too(role: str) -> None:
    """The thread that answers in the loop's stead counts them, and sends the close frame before
    the callback returns.
    """
    with slow_pair(role, heartbeat_delay=ms(100), max_pings_per_second=50) as (
        (process, peer, recorder),
        go_on,
    ):
        peer.send_frame(focText, "slow")
        recorder.wait("focText")
        peer.send(peer.encoded(focPing) * 51)
        opcode, _ = next_but_pings(peer)
        assert opcode is focConnectionClose
        assert not go_on.is_set()
        go_on.set()
        assert recorder.wait("focConnectionClose")
        assert (process.close_code, process.close_reason) == (
            1008,
            "more than 50 pings in a second",
        )


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
        assert (
            0
            < process.last_ping_delay
            < (time.monotonic() - answered) * 1000 + 5_000 * TIMEOUT_FACTOR
        )


@both_roles
def test_last_ping_delay_is_that_of_the_link_during_a_long_callback(role: str) -> None:
    """The pong is timed when it arrives, and not when the callback in hand has returned."""
    go_on = threading.Event()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            assert go_on.wait(3 * BOUND)

    with pair(
        role, callback, heartbeat_delay=ms(100), disconnect_after_invalid_heartbeat_count=0
    ) as (
        process,
        peer,
        _,
    ):
        try:
            peer.send_frame(focText, "long")
            peer.receive_opcode(focPing)
            peer.send_frame(focPong)
            wait_for(lambda: process.last_ping_delay, what="the time of a pong")
        finally:
            go_on.set()


@both_roles
def test_pings_that_were_never_answered_do_not_spoil_later_times(role: str) -> None:
    """A peer that answers the last of several pings only (RFC 6455 §5.5.3 allows it) is not
    measured against an earlier one for ever.
    """
    with pair(role, heartbeat_delay=ms(200), disconnect_after_invalid_heartbeat_count=0) as (
        process,
        peer,
        _,
    ):
        for _ in range(3):
            peer.receive_opcode(focPing)
        peer.send_frame(focPong)
        for _ in range(10):
            peer.receive_opcode(focPing)
            peer.send_frame(focPong)
            peer.send_frame(focPing)
            peer.receive_opcode(focPong)  # what was sent before is handled
            if process.last_ping_delay < 200 * MS * 1000:
                return
        pytest.fail(f"{process.last_ping_delay:.0f} ms")


class _Clock:
    """A keeper that only notes when it has to call."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def call_at(self, when: float, action: Callable[[], object]) -> Any:
        self.times.append(when)


@pytest.mark.parametrize(("delay", "apart"), [(20_000, 0.25), (5_000, 0.1), (50, 0.001)])
def test_heartbeats_of_many_connections_are_due_together(delay: int, apart: float) -> None:
    """The keeper does not wake for each of them, and none is late by more than a fiftieth."""
    clock: Any = _Clock()
    for number in range(1000):
        reader = SimpleNamespace(last_in=1000 + number * apart / 1000, in_frame=None, reads_ahead=0)
        settings = SimpleNamespace(heartbeat_delay=delay)
        process: Any = SimpleNamespace(reader=reader, settings=settings)
        Liveness(process, clock).start()
        assert -1e-6 < clock.times[-1] - reader.last_in - delay / 1000 < apart + 1e-6
    assert len(set(clock.times)) <= 2


@both_roles
def test_heartbeats_end_when_their_delay_becomes_0(
    role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They neither go on without a pause, nor fail."""
    caplog.set_level(logging.ERROR)
    unanswered = 0
    with pair(role, heartbeat_delay=ms(20), disconnect_after_invalid_heartbeat_count=0) as (
        process,
        peer,
        _,
    ):
        peer.receive_opcode(focPing)
        process.settings.heartbeat_delay = 0
        peer.sock.settimeout(100 * MS)
        with contextlib.suppress(TimeoutError):
            while unanswered < 5:
                peer.receive_opcode(focPing)
                unanswered += 1
    assert unanswered <= 1
    assert not caplog.records
