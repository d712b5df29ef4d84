"""WebSocketProcess on real sockets, in both roles: sending, counters, logs, large messages."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from support import (
    BOUND,
    MS,
    TIMEOUT_FACTOR,
    Recorder,
    connect,
    echo_server,
    ms,
    process_of,
    send_text,
    text,
    upgraded,
    wait_for,
)
from support.pairs import both_roles, in_thread, pair, wait_flushed

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessServer,
    WebSocketProtocolChat,
    WebSocketsProtocolError,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    parse_close_payload,
)

# ------------------------------------------------------------------------------------------ sending


@both_roles
def test_frames_of_eight_threads_do_not_interleave(role: str) -> None:
    """Frames of all sizes sent by eight threads at once arrive whole, and those of each thread in
    their order.
    """
    sizes = [0, 1, 125, 126, 4_000, 65_535, 65_536, 70_000]
    rounds = 40

    with pair(role) as (process, peer, _):

        def send(number: int) -> bool:
            frames = [
                WebSocketFrame(
                    focBinary,
                    bytes((number, at)) + bytes((number,)) * sizes[(at + number) % len(sizes)],
                )
                for at in range(rounds)
            ]
            start.wait(BOUND)
            return [process.send_frame(frame) for frame in frames].count(True) == rounds

        start = threading.Barrier(8)
        threads = [in_thread(lambda number=number: send(number)) for number in range(8)]  # type: ignore[misc]
        turns = [0] * 8
        for _ in range(8 * rounds):
            payload = peer.receive_opcode(focBinary).payload
            number, at = payload[:2]
            assert at == turns[number]
            assert payload[2:] == bytes((number,)) * sizes[(at + number) % len(sizes)]
            turns[number] += 1
        for thread, results in threads:
            thread.join(BOUND)
            assert results == [True]
        assert turns == [rounds] * 8


@both_roles
def test_queued_and_immediate_frames_of_several_threads_do_not_interleave(role: str) -> None:
    """``send_frame_async`` beside ``send_frame``: every frame arrives whole, and the queued ones
    in their order.
    """
    rounds = 100
    with pair(role) as (process, peer, _):

        def send(number: int) -> bool:
            sender = process.send_frame if number % 2 else process.send_frame_async
            start.wait(BOUND)
            frames = [
                WebSocketFrame(focBinary, bytes((number, at)) * 3_000) for at in range(rounds)
            ]
            return [sender(frame) for frame in frames].count(True) == rounds

        start = threading.Barrier(6)
        threads = [in_thread(lambda number=number: send(number)) for number in range(6)]  # type: ignore[misc]
        turns = [0] * 6
        for _ in range(6 * rounds):
            payload = peer.receive_opcode(focBinary).payload
            number, at = payload[:2]
            assert at == turns[number]
            assert payload == bytes((number, at)) * 3_000
            turns[number] += 1
        for thread, results in threads:
            thread.join(BOUND)
            assert results == [True]


@both_roles
def test_the_client_masks_and_the_server_does_not(role: str) -> None:
    """The mask bit is set by the role, for immediate and for queued frames, and masks differ from
    frame to frame.
    """
    with pair(role) as (process, peer, _):
        for _ in range(2):
            assert process.send_frame(text("same"))
            assert process.send_frame_async(text("same"))
        size = 10 if role == "client" else 6
        wire = b""
        while len(wire) < 4 * size:
            wire += peer.receive()
        frames = {wire[at : at + size] for at in range(0, 4 * size, size)}
    if role == "client":
        assert {frame[:2] for frame in frames} == {b"\x81\x84"}
        assert len(frames) == 4
    else:
        assert frames == {b"\x81\x04same"}


@both_roles
def test_queued_frames_arrive_in_order(role: str) -> None:
    """Frames of ``send_frame_async`` leave in the order of the calls."""
    with pair(role) as (process, peer, _):
        for number in range(300):
            assert process.send_frame_async(text(str(number)))
        assert [peer.receive_opcode(focText).text for _ in range(300)] == [
            str(number) for number in range(300)
        ]
        assert process.outgoing.count == 0


@both_roles
def test_queued_frames_are_gathered_for_send_delay(role: str) -> None:
    """After a write, queued frames wait until ``send_delay`` is over and then leave together."""
    with pair(role, send_delay=ms(200)) as (process, peer, _):
        for _ in range(10):
            assert process.send_frame_async(text("first"))
            assert peer.receive_opcode(focText).text == "first"
            wait_flushed(process)
            began = time.monotonic()
            for number in range(3):
                assert process.send_frame_async(text(str(number)))
            assert [peer.receive_opcode(focText).text for _ in range(3)] == ["0", "1", "2"]
            if time.monotonic() - began > 100 * MS:
                return
            # the loop was in the middle of a turn, and took them along: again
        pytest.fail("queued frames are never gathered")


@both_roles
def test_an_immediate_frame_does_not_wait_for_send_delay(role: str) -> None:
    """``send_frame`` goes out at once, even while queued frames are being gathered."""
    with pair(role, send_delay=ms(5_000)) as (process, peer, _):
        assert process.send_frame_async(text("first"))
        assert peer.receive_opcode(focText).text == "first"
        wait_flushed(process)
        assert process.send_frame_async(text("gathered"))
        began = time.monotonic()
        assert process.send_frame(text("now"))
        while peer.receive_opcode(focText).text != "now":
            pass
        assert time.monotonic() - began < 2_500 * MS


@both_roles
def test_no_queued_frame_is_forgotten(role: str) -> None:
    """However the pushes of two threads and the flushes meet, each queued frame leaves without a
    push behind it.
    """
    with pair(role, send_delay=1) as (process, peer, _):
        for number in range(300):
            frame = text(str(number))
            pushing, results = in_thread(lambda frame=frame: process.send_frame_async(frame))  # type: ignore[misc]
            assert process.send_frame_async(frame)
            assert [peer.receive_opcode(focText).text for _ in range(2)] == [str(number)] * 2
            pushing.join(BOUND)
            assert results == [True]


@both_roles
def test_an_idle_process_uses_no_processor_time(role: str) -> None:
    """After a burst of queued frames every thread waits: a fifth of a second costs next to
    nothing.
    """
    with pair(role) as (process, peer, _):
        for number in range(300):
            assert process.send_frame_async(text(str(number)))
        for _ in range(300):
            peer.receive_opcode(focText)
        used = time.process_time()
        peer.sock.settimeout(200 * MS)
        with pytest.raises(TimeoutError):
            peer.receive_frame()
        assert time.process_time() - used < 0.1 * TIMEOUT_FACTOR


@both_roles
def test_frames_queued_in_a_callback_leave_when_it_returns(role: str) -> None:
    """Answers queued by the loop's own thread do not wait for the gathering time."""

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            process.send_frame_async(text(frame.text + "!"))

    with pair(role, callback, send_delay=ms(5_000)) as (_, peer, _):
        began = time.monotonic()
        for number in range(5):
            peer.send_frame(focText, str(number))
            assert peer.receive_opcode(focText).text == f"{number}!"
        assert time.monotonic() - began < 2_500 * MS


@both_roles
@pytest.mark.parametrize("method", ["send_frame", "send_frame_async"])
def test_a_sent_frame_is_a_copy(role: str, method: str) -> None:
    """Changing a frame after it was given to the process does not change what is sent."""
    with pair(role, send_delay=ms(50)) as (process, peer, _):
        frame = text("before")
        for _ in range(2):
            frame.payload = b"before"
            assert getattr(process, method)(frame)
            frame.payload = b"after"
        assert [peer.receive_opcode(focText).text for _ in range(2)] == ["before", "before"]


@both_roles
def test_a_process_that_does_not_run_sends_nothing(role: str) -> None:
    """Before nothing is raised and False is returned by every way of sending, once the connection
    has ended.
    """
    with pair(role) as p:
        p.peer.close()
        p.recorder.wait("focConnectionClose")
        assert not p.process.send_frame(text("x"))
        assert not p.process.send_frame_async(text("x"))
        assert not p.process.send_frame(WebSocketFrame(focPing))
        assert not p.send_text("x")


@both_roles
def test_the_chat_protocol_sends_messages_only(role: str) -> None:
    """``protocol.send_frame`` returns False for what is neither text nor binary, without raising
    or sending.
    """
    with pair(role) as (process, peer, _):
        protocol = process.protocol
        assert isinstance(protocol, WebSocketProtocolChat)
        for opcode in (focContinuation, focConnectionClose, focPing, focPong):
            assert not protocol.send_frame(process, WebSocketFrame(opcode))
        assert not protocol.send_frame(None, text("x"))
        assert protocol.send_frame(process, WebSocketFrame(focBinary, b"b"))
        assert protocol.send_frame_json(process, '{"a": "ü"}')
        assert peer.receive_opcode(focBinary).payload == b"b"
        assert peer.receive_opcode(focText).text == '{"a": "ü"}'


_UNSENDABLE: dict[str, tuple[Any, type[Exception]]] = {
    "no frame": ("x", TypeError),
    "no frame at all": (None, TypeError),
    "text that is not UTF-8": (WebSocketFrame(focText, b"\xff"), ValueError),
    "a continuation": (WebSocketFrame(focContinuation, b"x"), ValueError),
    "a long ping": (WebSocketFrame(focPing, bytes(126)), ValueError),
    "a bad close code": (WebSocketFrame(focConnectionClose, b"\x03\xed"), ValueError),
}


@both_roles
@pytest.mark.parametrize("method", ["send_frame", "send_frame_async"])
def test_what_must_not_be_sent_raises_and_harms_nothing(role: str, method: str) -> None:
    """The caller's mistakes raise at once, and nothing of them gets on the wire."""
    with pair(role) as (process, peer, _):
        for frame, error in _UNSENDABLE.values():
            with pytest.raises(error):
                getattr(process, method)(frame)
        assert process.send_frame(text("good"))
        assert peer.receive_opcode(focText).text == "good"


@both_roles
def test_a_full_queue_refuses(role: str) -> None:
    """``send_frame_async`` returns False at ``max_outgoing_frames``, and goes on when the peer
    reads again.
    """
    with pair(role, max_outgoing_frames=20) as (process, peer, _):
        frame = WebSocketFrame(focBinary, bytes(256 << 10))
        sent = 0
        while process.send_frame_async(frame):
            sent += 1
            assert sent < 1_000
        assert process.outgoing.count <= 20
        for _ in range(sent):
            peer.receive_opcode(focBinary)
        assert process.send_frame_async(text("again"))
        assert peer.receive_opcode(focText).text == "again"


@both_roles
def test_answers_queued_in_a_callback_wait_for_a_slow_reader(role: str) -> None:
    """A peer that sends faster than it reads is slowed down: its answers are never refused, and
    come whole and in order.
    """
    count, size = 200, 32 << 10
    refused: list[int] = []

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focBinary and not process.send_frame_async(frame):
            refused.append(frame.payload[0])

    with pair(role, callback, max_outgoing_bytes=1 << 20) as (_, peer, _):
        frames = [peer.encoded(focBinary, bytes((number,)) * size) for number in range(count)]
        sending, _ = in_thread(lambda: [peer.send(frame) for frame in frames])
        for number in range(count):
            assert peer.receive_opcode(focBinary).payload == bytes((number,)) * size
        sending.join(BOUND)
    assert not refused


class _Turning(WebSocketProtocolChat):
    """Turns each payload round on the wire."""

    def before_send_frame(self, frame: WebSocketFrame) -> None:
        frame.payload = frame.payload[::-1]

    def after_get_frame(self, frame: WebSocketFrame) -> None:
        if frame.payload == b"rotten":
            raise WebSocketsProtocolError(1008, "rotten")
        frame.payload = frame.payload[::-1]


@both_roles
@pytest.mark.parametrize("method", ["send_frame", "send_frame_async"])
def test_a_protocol_may_change_frames_on_the_wire(role: str, method: str) -> None:
    """``before_send_frame`` and ``after_get_frame`` change what travels; the sender's own frame
    stays as it was.
    """
    with pair(role, protocol=_Turning) as (process, peer, recorder):
        frame = text("abc")
        assert getattr(process, method)(frame)
        assert peer.receive_opcode(focText).text == "cba"
        assert frame.text == "abc"
        peer.send_frame(focText, "fed")
        assert recorder.wait("focText").value.text == "def"


@both_roles
def test_an_after_get_frame_that_refuses_closes_with_its_code(role: str) -> None:
    """A ``WebSocketsProtocolError`` for a message that cannot be used ends the connection with its
    code.
    """
    with pair(role, protocol=_Turning) as (process, peer, recorder):
        peer.send_frame(focText, "rotten")
        assert parse_close_payload(peer.receive_opcode(focConnectionClose).payload) == (
            1008,
            "rotten",
        )
        peer.close()
        recorder.wait("focConnectionClose")
        assert process.close_code == 1008


@both_roles
def test_a_send_to_a_peer_that_reads_nothing_gives_up(role: str) -> None:
    """When the peer takes no byte for ``send_timeout`` the send returns False and the connection
    is given up.
    """
    with pair(role, send_timeout=ms(100)) as (process, _, recorder):
        began = time.monotonic()
        assert not process.send_frame(WebSocketFrame(focBinary, bytes(32 << 20)))
        recorder.wait("focConnectionClose")
        assert time.monotonic() - began < BOUND / 2
        assert process.close_code == 1006
        assert "does not read" in process.last_error


# ------------------------------------------------------------------------- counters, logs, messages


@both_roles
def test_counters_count_messages_and_payload_bytes(role: str) -> None:
    """The protocol counts text and binary messages both ways, queued ones too, and no control
    frames.
    """
    with pair(role) as (process, peer, recorder):
        protocol = process.protocol
        for payload in ("a", "bcd"):
            peer.send_frame(focText, payload)
        peer.send_frame(focPing, "not counted")
        peer.send_frame(focBinary, bytes(70_000))
        assert process.send_frame(text("12"))
        assert process.send_frame_async(text("345"))
        assert {peer.receive_frame().payload for _ in range(3)} == {b"12", b"345", b"not counted"}
        recorder.wait("focBinary")
        assert (protocol.frames_in_count, protocol.frames_in_bytes) == (3, 70_004)
        wait_for(lambda: (protocol.frames_out_count, protocol.frames_out_bytes) == (2, 5))


@pytest.mark.parametrize("full", [False, True])
def test_contents_are_logged_only_when_asked_for(
    full: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """``set_full_log`` puts the contents of messages and the heartbeats into the DEBUG log; by
    default they stay out.
    """
    caplog.set_level(logging.DEBUG)
    with echo_server() as server:
        if full:
            server.settings.set_full_log()
        with upgraded(server.port) as client:
            client.send_frame(focText, "secret text")
            client.receive_opcode(focText)
            client.send_frame(focBinary, b"secret data")
            client.receive_opcode(focBinary)
            client.send_frame(focPing)
            client.receive_opcode(focPong)
    for wanted in ("secret text", "secret data", "focPing"):
        assert (wanted in caplog.text) is full


@pytest.mark.parametrize("size", [1 << 20, 16 << 20], ids=["1 MB", "16 MB"])
@pytest.mark.parametrize("opcode", [focText, focBinary], ids=["text", "binary"])
def test_large_messages_arrive_unchanged_both_ways(opcode: int, size: int) -> None:
    """A message of that size goes to our server and back to our client, byte by byte the same."""
    unit = "grün, " if opcode == focText else "".join(map(chr, range(128)))
    payload = (unit.encode() * (size // len(unit.encode()) + 1))[: size - size % 7]
    if opcode == focText:
        payload = payload.decode("utf-8", "ignore").encode()
    recorder = Recorder()
    with echo_server() as server, connect(server.port, recorder.frame) as client:
        assert process_of(client).send_frame(WebSocketFrame(opcode, payload))
        answer = recorder.wait(
            "focText" if opcode == focText else "focBinary", bound=3 * BOUND
        ).value
        assert len(answer.payload) == len(payload)
        assert answer.payload == payload


@both_roles
def test_a_large_message_of_many_fragments_is_joined(role: str) -> None:
    """A megabyte in 64 fragments is one message."""
    part = bytes(range(256)) * 64
    with pair(role) as (_, peer, recorder):
        for at in range(64):
            peer.send_frame(focContinuation if at else focBinary, part, fin=at == 63)
        assert recorder.wait("focBinary").value.payload == part * 64


def test_large_messages_both_ways_at_once_do_not_block_each_other() -> None:
    """Both sides send 8 MB at the same time, larger than all buffers between them, and both
    arrive.
    """
    recorder = Recorder()
    ready = Recorder()
    big = WebSocketFrame(focBinary, bytes(8 << 20))
    with (
        echo_server(callback=ready.frame) as server,
        connect(server.port, recorder.frame) as client,
    ):
        ready.wait("focContinuation")
        other = server.is_active_websocket(process_of(client).connection_id)
        assert other is not None
        thread, results = in_thread(lambda: other.send_frame(big))
        assert process_of(client).send_frame(big)
        thread.join(3 * BOUND)
        assert results == [True]
        assert recorder.wait("focBinary", bound=3 * BOUND).value == big
        assert ready.wait("focBinary", bound=3 * BOUND).value == big


def test_a_message_is_echoed_at_once() -> None:
    """No polling on either side: after idle times, too, an echo takes far less than the native 35
    to 147 ms.
    """
    recorder = Recorder()
    with echo_server() as server, connect(server.port, recorder.frame) as client:
        times = []
        for number in range(10):
            # an idle time is what this is about: nothing happens that could end it
            time.sleep(5 * MS)
            began = time.monotonic()
            assert send_text(client, str(number))
            recorder.wait("focText", number + 1)
            times.append(time.monotonic() - began)
    assert min(times) < 20 * MS


# --------------------------------------------------------------------------------------- subclasses


class _Carrying(WebSocketProcessServer):
    """Sees what is read and written."""

    received = b""
    written = 0

    def receive_bytes(self, size: int) -> bytes:
        data = super().receive_bytes(size)
        self.received += data
        return data

    def write_bytes(self, data: bytes) -> None:
        self.written += len(data)
        super().write_bytes(data)


@pytest.mark.parametrize("size", [5, 1_000, 70_000, 300_000])
def test_the_methods_of_a_subclass_carry_frames_of_every_size(size: int) -> None:
    with echo_server() as server:
        server.process_class = _Carrying
        with upgraded(server.port) as client:
            client.send_frame(focBinary, bytes(size))
            assert len(client.receive_frame().payload) == size
            (process,) = server.connections()
            assert isinstance(process, _Carrying)
            assert len(process.received) > size
            assert process.written > size
