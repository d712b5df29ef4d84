"""WebSocketProcess on real sockets, in both roles: sending, closing, pings, heartbeats, counters, large messages."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from support import (
    BOUND,
    MS,
    TIMEOUT_FACTOR,
    RawClient,
    RawPeer,
    RawServer,
    RawServerPeer,
    Recorder,
    connect,
    echo,
    echo_server,
    ms,
    new_client,
    process_of,
    send_text,
    text,
    upgraded,
    wait_for,
)

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketsProtocolError,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    parse_close_payload,
    wpsDestroy,
    wpsRun,
)

both_roles = pytest.mark.parametrize("role", ["server", "client"])


class Pair(NamedTuple):
    """A process of ours and the raw peer at the other end of its connection."""

    process: WebSocketProcess
    peer: RawPeer
    recorder: Recorder

    def send_text(self, payload: str) -> bool:
        """Send by the protocol, as the document does."""
        protocol = self.process.protocol
        assert isinstance(protocol, WebSocketProtocolChat)
        return protocol.send_frame(self.process, text(payload))


@contextlib.contextmanager
def pair(
    role: str,
    callback: Callable[..., Any] | None = None,
    protocol: type[WebSocketProtocolChat] = WebSocketProtocolChat,
    **settings: Any,
) -> Iterator[Pair]:
    """Give a running process in that *role*, whose peer is a plain socket in the hands of the test."""
    recorder = Recorder()
    callback = recorder.frame if callback is None else callback
    if role == "server":
        with echo_server(callback=callback, **settings) as server, RawClient(server.port) as peer:
            server.websocket_protocols.add_once(protocol("echo", "", callback))
            peer.upgrade()
            process = wait_for(lambda: server.is_active_websocket(peer.connection_id))
            assert process is not None
            yield Pair(process, peer, recorder)
        return
    peers: queue.Queue[RawServerPeer] = queue.Queue()
    done = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        peers.put(peer)
        done.wait()

    with RawServer(behaviour) as raw:
        try:
            with new_client(raw.port, **settings) as client:
                assert client.websockets_upgrade("", "", protocol=protocol("echo", "", callback)) == ""
                yield Pair(process_of(client), peers.get(timeout=BOUND), recorder)
                done.set()
        finally:
            done.set()


def end_of(peer: RawPeer) -> None:
    """Check that nothing more comes from the process, and end the TCP connection, the server's side first."""
    if not peer.client_side:
        peer.sock.shutdown(socket.SHUT_WR)
    assert peer.read_to_end() == b""
    peer.close()


def wait_flushed(process: WebSocketProcess) -> None:
    """Wait until the thread that writes queued frames has done so; it might take a new one along otherwise."""
    assert process.safe_out.acquire(timeout=BOUND)
    process.safe_out.release()


def in_thread(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start *action* in a thread; return it and the list that will hold its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(action()))
    thread.start()
    return thread, results


# ------------------------------------------------------------------------------------------------------------- sending


@both_roles
def test_frames_of_eight_threads_do_not_interleave(role: str) -> None:
    """Frames of all sizes sent by eight threads at once arrive whole, and those of each thread in their order."""
    sizes = [0, 1, 125, 126, 4_000, 65_535, 65_536, 70_000]
    rounds = 40

    with pair(role) as (process, peer, _):

        def send(number: int) -> bool:
            frames = [
                WebSocketFrame(focBinary, bytes((number, at)) + bytes((number,)) * sizes[(at + number) % len(sizes)])
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
    """``send_frame_async`` beside ``send_frame``: every frame arrives whole, and the queued ones in their order."""
    rounds = 100
    with pair(role) as (process, peer, _):

        def send(number: int) -> bool:
            sender = process.send_frame if number % 2 else process.send_frame_async
            start.wait(BOUND)
            frames = [WebSocketFrame(focBinary, bytes((number, at)) * 3_000) for at in range(rounds)]
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
    """The mask bit is set by the role, for immediate and for queued frames, and masks differ from frame to frame."""
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
        assert [peer.receive_opcode(focText).text for _ in range(300)] == [str(number) for number in range(300)]
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
    """However the pushes of two threads and the flushes meet, each queued frame leaves without a push behind it."""
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
    """After a burst of queued frames every thread waits: a fifth of a second costs next to nothing."""
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
    """Before nothing is raised and False is returned by every way of sending, once the connection has ended."""
    with pair(role) as p:
        p.peer.close()
        p.recorder.wait("focConnectionClose")
        assert not p.process.send_frame(text("x"))
        assert not p.process.send_frame_async(text("x"))
        assert not p.process.send_frame(WebSocketFrame(focPing))
        assert not p.send_text("x")


@both_roles
def test_the_chat_protocol_sends_messages_only(role: str) -> None:
    """``protocol.send_frame`` returns False for what is neither text nor binary, without raising or sending."""
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
    """``send_frame_async`` returns False at ``max_outgoing_frames``, and goes on when the peer reads again."""
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
    """A peer that sends faster than it reads is slowed down: its answers are never refused, and come whole and in order."""
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
    """``before_send_frame`` and ``after_get_frame`` change what travels; the sender's own frame stays as it was."""
    with pair(role, protocol=_Turning) as (process, peer, recorder):
        frame = text("abc")
        assert getattr(process, method)(frame)
        assert peer.receive_opcode(focText).text == "cba"
        assert frame.text == "abc"
        peer.send_frame(focText, "fed")
        assert recorder.wait("focText").value.text == "def"


@both_roles
def test_an_after_get_frame_that_refuses_closes_with_its_code(role: str) -> None:
    """A ``WebSocketsProtocolError`` for a message that cannot be used ends the connection with its code."""
    with pair(role, protocol=_Turning) as (process, peer, recorder):
        peer.send_frame(focText, "rotten")
        assert parse_close_payload(peer.receive_opcode(focConnectionClose).payload) == (1008, "rotten")
        peer.close()
        recorder.wait("focConnectionClose")
        assert process.close_code == 1008


@both_roles
def test_a_send_to_a_peer_that_reads_nothing_gives_up(role: str) -> None:
    """When the peer takes no byte for ``send_timeout`` the send returns False and the connection is given up."""
    with pair(role, send_timeout=ms(100)) as (process, _, recorder):
        began = time.monotonic()
        assert not process.send_frame(WebSocketFrame(focBinary, bytes(32 << 20)))
        recorder.wait("focConnectionClose")
        assert time.monotonic() - began < BOUND / 2
        assert process.close_code == 1006
        assert "does not read" in process.last_error


# ------------------------------------------------------------------------------------------------------------- closing


@both_roles
@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [(b"", 1005, ""), (b"\x03\xe8", 1000, ""), (b"\x0f\xa0gr\xc3\xbcn", 4000, "grün")],
    ids=["empty", "code", "code and reason"],
)
def test_a_close_frame_is_answered_with_its_payload(role: str, payload: bytes, code: int, reason: str) -> None:
    """The peer's close frame comes back once, its code and reason are told, and the connection ends."""
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
    """``shutdown`` sends one close frame, returns True when it is answered, and the callback gets the same payload."""
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
    """After ``close_timeout`` without the peer's close frame ``shutdown`` returns False and the connection is ended."""
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


@both_roles
def test_only_one_close_frame_is_sent(role: str) -> None:
    """Four concurrent ``shutdown`` calls, and one later, give one close frame; nothing can be sent behind it."""
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
    """While three threads send, ``shutdown`` gets its turn: whole frames, then the close frame, then nothing."""
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
    """Inside the loop's own thread ``shutdown`` returns at once; the loop then ends in the ordinary way."""
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
    """RFC 6455 §1.4: after the close frame nothing of the peer is looked at, not even in the same segment."""
    with pair(role) as (_, peer, recorder):
        peer.send(peer.encoded(focConnectionClose, b"\x03\xe8") + peer.encoded(focText, "behind") + b"\xff\xff")
        peer.receive_opcode(focConnectionClose)
        peer.close()
        recorder.wait("focConnectionClose")
    assert recorder.names == ["focContinuation", "focConnectionClose"]


@both_roles
def test_a_lost_connection_is_told_as_1006(role: str) -> None:
    """Without a close frame the code is 1006, the callback's payload is empty, and ``last_error`` says why."""
    with pair(role) as (process, peer, recorder):
        peer.close()
        assert recorder.wait("focConnectionClose").value.payload == b""
        assert (process.close_code, process.close_reason) == (1006, "")
        assert process.last_error


def test_an_on_client_connected_that_raises_ends_a_clients_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A client refused by its own callback closes with 1011 and reports the end once."""

    def refuse(process: WebSocketProcess) -> None:
        raise RuntimeError("bug in a callback")

    with pair("client", on_client_connected=refuse) as (process, peer, recorder):
        assert parse_close_payload(peer.receive_opcode(focConnectionClose).payload)[0] == 1011
        peer.close()
        recorder.wait("focConnectionClose")
        assert process.close_code == 1011
    assert recorder.names == ["focConnectionClose"]
    assert "bug in a callback" in caplog.text


# --------------------------------------------------------------------------------------------------- pings, heartbeats


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


# -------------------------------------------------------------------------------------------- counters, logs, messages


@both_roles
def test_counters_count_messages_and_payload_bytes(role: str) -> None:
    """The protocol counts text and binary messages both ways, queued ones too, and no control frames."""
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
def test_contents_are_logged_only_when_asked_for(full: bool, caplog: pytest.LogCaptureFixture) -> None:
    """``set_full_log`` puts the contents of messages and the heartbeats into the DEBUG log; by default they stay out."""
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
        answer = recorder.wait("focText" if opcode == focText else "focBinary", bound=3 * BOUND).value
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
    """Both sides send 8 MB at the same time, larger than all buffers between them, and both arrive."""
    recorder = Recorder()
    ready = Recorder()
    big = WebSocketFrame(focBinary, bytes(8 << 20))
    with echo_server(callback=ready.frame) as server, connect(server.port, recorder.frame) as client:
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
    """No polling on either side: after idle times, too, an echo takes far less than the native 35 to 147 ms."""
    recorder = Recorder()
    with echo_server() as server, connect(server.port, recorder.frame) as client:
        times = []
        for number in range(10):
            time.sleep(5 * MS)
            began = time.monotonic()
            assert send_text(client, str(number))
            recorder.wait("focText", number + 1)
            times.append(time.monotonic() - began)
    assert min(times) < 20 * MS
