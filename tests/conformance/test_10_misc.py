"""Section 10, what the other sections have no place for."""

from __future__ import annotations

import threading

import pytest
from support import BOUND, ms

from mormot_ws import WebSocketFrame, WebSocketProcess, focBinary, focText

from .peer import Peer, open_peer
from .wire import MASK, TEXT, Frame, binary, close, cut, encode, fragments, ping, pong, text


def test_10_1_a_message_in_1300_fragments_is_echoed(peer: Peer) -> None:
    """65 536 characters in fragments of 50 bytes come back as one message."""
    payload = b"*" * 65536
    peer.send(*fragments(TEXT, *cut(payload, 50)))
    peer.expect(text(payload))
    peer.close()


def test_10_2_fragments_in_chops_that_never_meet_their_borders(peer: Peer) -> None:
    """Fragments of 251 bytes in pieces of 83: headers are cut everywhere."""
    payload = bytes(range(256)) * 64
    peer.send(*fragments(2, *cut(payload, 251)), chop=83)
    peer.expect(binary(payload))
    peer.close()


@pytest.mark.parametrize("role", ["server", "client"])
def test_10_3_a_close_right_behind_the_handshake_is_answered(role: str) -> None:
    """A whole connection in the segment of the handshake: a message, a ping, a close."""
    mask = MASK if role == "server" else None
    behind = b"".join(encode(frame, mask) for frame in (text("t"), ping("p"), close(1000)))
    with open_peer(role, behind=behind) as peer:
        peer.expect(text("t"), pong("p"))
        peer.expect_close(1000)
        peer.expect_end()


@pytest.mark.parametrize("role", ["server", "client"])
def test_10_4_a_fault_right_behind_the_handshake_fails(role: str) -> None:
    """What follows the handshake in its segment is judged like anything else."""
    with open_peer(role, behind=b"\xff\xff") as peer:
        peer.expect_failure(1002)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
def test_10_5_the_librarys_own_messages_are_framed_to_the_letter(peer: Peer, size: int) -> None:
    """What the application sends leaves in one frame with the shortest length, masked by the
    client only.
    """
    payload = b"\xa5" * size
    for opcode, sent in ((focBinary, binary(payload)), (focText, text(b"x" * size))):
        assert peer.process.send_frame(WebSocketFrame(opcode, sent.payload)) is True
        peer.expect(sent)
    peer.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_10_6_queued_messages_are_framed_to_the_letter(peer: Peer, size: int) -> None:
    """What ``send_frame_async`` queues leaves in the same form, in order."""
    messages = [binary(bytes([number]) * size) for number in range(3)]
    for sent in messages:
        assert peer.process.send_frame_async(WebSocketFrame(focBinary, sent.payload)) is True
    peer.expect(*messages)
    peer.close()


def test_10_7_a_heartbeat_is_a_ping_that_its_pong_keeps_quiet(role: str) -> None:
    """The library pings an idle peer, and a pong is all that it wants."""
    with open_peer(
        role, heartbeat_delay=ms(50), disconnect_after_invalid_heartbeat_count=4
    ) as peer:
        for _ in range(6):
            frame = peer.receive()
            assert frame == ping(), frame
            peer.send(pong(frame.payload))
        peer.skip_heartbeats = True
        peer.close()


@pytest.mark.parametrize(
    "last", [Frame(15), text(b"\xff"), close(1000)], ids=["opcode", "utf-8", "close"]
)
def test_10_8_messages_that_come_during_a_long_callback_are_delivered_before_what_ends_it(
    role: str, last: Frame
) -> None:
    """While a callback runs the library may read ahead (it answers pings then); nothing of what it
    has read is lost by a fault.
    """
    entered, release = threading.Event(), threading.Event()

    def wait(process: WebSocketProcess, frame: WebSocketFrame) -> bool:
        if frame.payload == b"slow":
            entered.set()
            assert release.wait(BOUND)
        return False

    with open_peer(
        role, heartbeat_delay=ms(40), disconnect_after_invalid_heartbeat_count=0
    ) as peer:
        peer.skip_heartbeats = True
        peer.process.protocol.on_before_incoming_frame = wait
        try:
            peer.send(text("slow"))
            assert entered.wait(BOUND)
            peer.send(text("good"), ping("p"), last)
            peer.expect(pong("p"))
        finally:
            release.set()
        peer.expect(text("slow"), text("good"))
        peer.expect_close({15: 1002, 1: 1007, 8: 1000}[last.opcode])
        peer.expect_end()
