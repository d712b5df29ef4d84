"""Section 1, framing: every form of length, in chops, lengths that are not minimal, and the
direction of masking (RFC 6455 §5.2, §5.3).
"""

from __future__ import annotations

import random

import pytest

from .peer import Peer, open_peer
from .wire import BINARY, CLOSE, MASK, PING, TEXT, Frame, binary, close, encode, ping, text

SIZES = [0, 1, 125, 126, 127, 128, 65535, 65536, 65537]
#: pieces in which a frame is sent; 0: all at once
CHOPS = [0, 997, 16384]
MESSAGES = random.Random(1).randbytes(65537)


@pytest.mark.parametrize("size", SIZES)
def test_1_1_a_text_message_of_each_form_of_length_is_echoed(peer: Peer, size: int) -> None:
    """A text message comes back whole, whichever of the three forms its length takes."""
    peer.exchange(text("*" * size))
    peer.close()


@pytest.mark.parametrize("size", SIZES)
def test_1_2_a_binary_message_of_each_form_of_length_is_echoed(peer: Peer, size: int) -> None:
    """A binary message of any octets comes back whole, whichever of the three forms its length
    takes.
    """
    peer.exchange(binary(MESSAGES[:size]))
    peer.close()


@pytest.mark.parametrize("chop", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 126, 300])
def test_1_3_a_message_in_small_chops_is_echoed(peer: Peer, size: int, chop: int) -> None:
    """Where TCP cuts a header or a payload makes no difference."""
    peer.exchange(text("*" * size), binary(MESSAGES[:size]), chop=chop)
    peer.close()


@pytest.mark.parametrize("chop", CHOPS)
@pytest.mark.parametrize("size", [65535, 65536])
def test_1_4_a_long_message_in_chops_is_echoed(peer: Peer, size: int, chop: int) -> None:
    """A message that needs many reads comes back whole."""
    peer.exchange(binary(MESSAGES[:size]), chop=chop)
    peer.close()


def test_1_5_messages_in_one_segment_are_echoed_in_order(peer: Peer) -> None:
    """Frames that arrive together are answered one by one, in their order."""
    peer.exchange(*[text(f"message {number}" * number) for number in range(50)])
    peer.close()


@pytest.mark.parametrize(
    ("width", "announce"),
    [(2, 0), (2, 1), (2, 125), (8, 0), (8, 125), (8, 126), (8, 65535)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_1_6_a_length_that_is_not_minimal_fails_at_the_header(
    peer: Peer, opcode: int, width: int, announce: int
) -> None:
    """The minimal number of bytes has to be used to encode a length (§5.2); the payload is not
    waited for.
    """
    peer.send_bytes(encode(Frame(opcode), peer.mask, width, announce))
    peer.expect_failure(1002)


@pytest.mark.parametrize("announce", [1 << 63, (1 << 63) + 5, (1 << 64) - 1], ids=hex)
def test_1_7_a_length_with_its_highest_bit_set_fails(peer: Peer, announce: int) -> None:
    """The most significant bit of a 64-bit length has to be 0 (§5.2)."""
    peer.send_bytes(encode(Frame(BINARY), peer.mask, 8, announce))
    peer.expect_failure(1002)


@pytest.mark.parametrize("announce", [1 << 40, (1 << 63) - 1], ids=hex)
def test_1_8_an_absurd_length_is_too_big_before_its_payload_comes(
    peer: Peer, announce: int
) -> None:
    """A valid length beyond the limits is refused with 1009 as soon as it is read."""
    peer.send_bytes(encode(Frame(BINARY), peer.mask, 8, announce))
    peer.expect_failure(1009)


@pytest.mark.parametrize(
    "frame", [text("x"), text(""), binary(b"x"), ping("x"), close(1000)], ids=str
)
def test_1_9_a_frame_masked_the_wrong_way_fails(peer: Peer, frame: Frame) -> None:
    """A server closes on a frame that is not masked, a client on one that is (§5.1), whatever the
    frame.
    """
    peer.send_bytes(encode(frame, None if peer.mask else MASK))
    peer.expect_failure(1002)


def test_1_10_the_wrong_masking_fails_at_the_second_byte(peer: Peer) -> None:
    """The mask bit alone shows the fault: neither key nor payload is waited for."""
    peer.send_bytes(encode(text("hello"), None if peer.mask else MASK)[:2])
    peer.expect_failure(1002)


def test_1_11_what_came_before_a_frame_masked_the_wrong_way_is_echoed(peer: Peer) -> None:
    """A good message in the same segment as the bad frame is delivered and answered first."""
    peer.send_bytes(peer.wire(text("good")) + encode(text("bad"), None if peer.mask else MASK))
    peer.expect(text("good"))
    peer.expect_failure(1002)


@pytest.mark.parametrize(
    "mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0"], ids=bytes.hex
)
def test_1_12_a_client_may_mask_with_any_key(mask: bytes) -> None:
    """The server takes every key, even one that changes nothing."""
    with open_peer("server") as peer:
        peer.mask = mask
        peer.exchange(text("Hello-µ@ßöä"), binary(MESSAGES[:1000]))
        peer.close()


def test_1_13_a_key_may_change_with_every_frame() -> None:
    """The server takes each frame with its own key, fragments of one message included."""
    with open_peer("server") as peer:
        for number in range(1, 20):
            peer.mask = number.to_bytes(4, "big")
            peer.send(text("a", fin=False))
            peer.mask = number.to_bytes(4, "little")
            peer.send(Frame(0, b"b" * number))
            peer.expect(text("a" + "b" * number))
        peer.close()


def test_1_14_the_client_masks_each_frame_with_a_fresh_key() -> None:
    """Masking keys are unpredictable (§5.3): no two of many frames have the same, control frames
    included.
    """
    with open_peer("client") as peer:
        peer.exchange(*[text("same text")] * 100)
        for _ in range(10):
            peer.expect_pong()
        peer.close()
        keys = peer.reader.masks
        assert len(keys) == 111
        assert len(set(keys)) >= 110  # two equal ones among 111 come by chance once in 700 000 runs


@pytest.mark.parametrize("role", ["server", "client"])
def test_1_15_frames_right_behind_the_handshake_are_not_lost(role: str) -> None:
    """Frames in the segment that ends the handshake are read like any others, even one that the
    segment cuts.
    """
    mask = MASK if role == "server" else None
    stream = encode(text("first"), mask) + encode(ping("p"), mask) + encode(text("second"), mask)
    for size in (len(stream), len(stream) - 3):
        with open_peer(role, behind=stream[:size]) as peer:
            peer.send_bytes(stream[size:])
            peer.expect(text("first"), Frame(10, b"p"), text("second"))
            peer.close()


def test_1_16_the_code_of_the_close_frame_needs_no_particular_mask(peer: Peer) -> None:
    """A close frame is masked and read like any other frame."""
    if peer.mask:
        peer.mask = b"\x03\xe8\0\0"  # makes the code 1000 look like zeros
    peer.send(close(1000, "bye"))
    peer.expect_close(1000, "bye")
    peer.expect_end()
    assert peer.told() == close(1000, "bye").payload


def test_1_17_ends_inside_a_frame_are_no_message(peer: Peer) -> None:
    """A message that the end of the TCP connection cuts is not delivered; the application is told
    of an abnormal end.
    """
    peer.send_bytes(peer.wire(text("whole"), text("cut off"))[:-2])
    peer.expect(text("whole"))
    peer.end_output()
    assert peer.told() == b""
    assert peer.process.close_code == 1006
    assert peer.messages() == [text("whole")]


def test_1_18_every_opcode_of_the_library_is_read_in_any_first_chop(peer: Peer) -> None:
    """A frame whose first byte arrives alone is the same frame."""
    for frame in (text("t"), binary(b"b")):
        data = peer.wire(frame)
        peer.send_bytes(data[:1])
        peer.send_bytes(data[1:])
        peer.expect(frame)
    data = peer.wire(ping("p"))
    peer.send_bytes(data[:1])
    peer.send_bytes(data[1:])
    assert peer.receive().opcode == PING + 1
    data = peer.wire(close(1000))
    peer.send_bytes(data[:1])
    peer.send_bytes(data[1:])
    assert peer.receive().opcode == CLOSE
    peer.expect_end()
