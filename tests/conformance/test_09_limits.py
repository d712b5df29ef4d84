"""Section 9, limits and performance: long messages, many fragments, tiny chops, many messages; and
the limits of what is accepted.
"""

from __future__ import annotations

import random
import tracemalloc

import pytest

from mormot_ws import WebProcessInFrame

from .peer import Peer, open_peer
from .wire import BINARY, MASK, TEXT, Frame, binary, cut, encode, fragments, more, ping, pong, text

KB, MB = 1 << 10, 1 << 20
_OCTETS = random.Random(9).randbytes(MB)
_TEXT = "BAsd7&jh23 µ€😀 ".encode()


def message(kind: str, size: int) -> Frame:
    """Return a text or binary message of exactly *size* bytes."""
    if kind == "binary":
        return binary((_OCTETS * (size // MB + 1))[:size])
    whole, left = divmod(size, len(_TEXT))
    return text(_TEXT * whole + b"." * left)


# ------------------------------------------------------------------------------------ long messages


@pytest.mark.parametrize("size", [64 * KB, 256 * KB, MB, 4 * MB])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_1_a_long_message_is_echoed(peer: Peer, kind: str, size: int) -> None:
    """A message in one long frame comes back whole."""
    peer.exchange(message(kind, size))
    peer.close()


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_2_a_message_of_16_mb_is_echoed(role: str, kind: str) -> None:
    """16 MB are within the default limits, for the client as for the server."""
    with open_peer(role) as peer:
        peer.exchange(message(kind, 16 * MB))
        peer.close()


@pytest.mark.parametrize("size", [64, KB, 16 * KB, 256 * KB, MB])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_3_a_long_message_in_fragments_is_echoed(peer: Peer, kind: str, size: int) -> None:
    """One MB in fragments of any size, thousands of them included, comes back whole."""
    whole = message(kind, MB)
    peer.send(*fragments(whole.opcode, *cut(whole.payload, size)))
    peer.expect(whole)
    peer.close()


@pytest.mark.parametrize(
    ("size", "chop"), [(2 * KB, 1), (128 * KB, 64), (256 * KB, 256), (MB, 2048)]
)
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_5_a_long_message_in_chops_is_echoed(peer: Peer, kind: str, size: int, chop: int) -> None:
    """A frame that arrives in many small pieces, bytes even, comes back whole."""
    peer.exchange(message(kind, size), chop=chop)
    peer.close()


@pytest.mark.parametrize("size", [0, 16, 256, 4096])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_7_many_messages_are_echoed_one_by_one(peer: Peer, kind: str, size: int) -> None:
    """Two hundred round trips on one connection."""
    for _ in range(200):
        peer.exchange(message(kind, size))
    peer.close()


def test_9_8_many_messages_are_echoed_in_their_order(peer: Peer) -> None:
    """Thousands of messages sent without waiting come back complete and in order."""
    for start in range(0, 4000, 500):
        peer.exchange(*[text(f"message {number}") for number in range(start, start + 500)])
    peer.close()


def test_9_9_thousands_of_empty_fragments_are_one_message(peer: Peer) -> None:
    """Fragments without payload are allowed, however many."""
    peer.send(text("a", fin=False), *[more("", fin=False)] * 5000, more("b"))
    peer.expect(text("ab"))
    peer.close()


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_10_a_message_of_exactly_the_limit_is_echoed(role: str, kind: str) -> None:
    """``max_message_bytes`` itself is allowed: in one frame, in fragments, and with pings that do
    not count.
    """
    with open_peer(role, max_message_bytes=1000) as peer:
        whole = message(kind, 1000)
        peer.exchange(whole)
        first, last = fragments(whole.opcode, whole.payload[:600], whole.payload[600:])
        peer.send(first, ping("p" * 125), last)
        peer.expect(pong("p" * 125), whole)
        peer.close()


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_11_a_frame_above_the_limit_is_too_big_at_its_header(role: str, kind: str) -> None:
    """One byte more than ``max_message_bytes`` is refused with 1009 before its payload comes."""
    with open_peer(role, max_message_bytes=1000) as peer:
        peer.send_bytes(peer.wire(message(kind, 1001))[:-1001])
        peer.expect_failure(1009)


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_9_12_fragments_above_the_limit_are_too_big_together(role: str, kind: str) -> None:
    """The limit is that of the whole message: the fragment that exceeds it is refused at its
    header.
    """
    with open_peer(role, max_message_bytes=1000) as peer:
        whole = message(kind, 1001)
        peer.send(Frame(whole.opcode, whole.payload[:1000], fin=False))
        peer.expect_pong()
        peer.send_bytes(peer.wire(more(b"x"))[:-1])
        peer.expect_failure(1009)


def test_9_13_a_frame_above_the_frame_limit_is_too_big_at_its_header(role: str) -> None:
    """``max_frame_mb`` limits the announced length of a frame, whatever messages may have."""
    with open_peer(role, max_message_bytes=64 * MB, max_frame_mb=1) as peer:
        peer.exchange(message("binary", MB))
        peer.send_bytes(encode(Frame(BINARY), peer.mask, 8, MB + 1))
        peer.expect_failure(1009)


def test_9_14_too_many_fragments_violate_the_policy(role: str) -> None:
    """``max_fragments`` frames are a message, one more is refused with 1008."""
    with open_peer(role, max_fragments=10) as peer:
        peer.send(*fragments(TEXT, *["x"] * 10))
        peer.expect(text("x" * 10))
        peer.send(*fragments(TEXT, *["x"] * 11))
        peer.expect_failure(1008)


def test_9_15_a_limit_that_was_met_does_not_count_for_the_next_message(role: str) -> None:
    """Sizes and fragments are counted from nought for each message."""
    with open_peer(role, max_message_bytes=1000, max_fragments=10) as peer:
        for _ in range(5):
            peer.send(*fragments(TEXT, *["x" * 100] * 10))
            peer.expect(text("x" * 1000))
        peer.close()


@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_9_16_memory_grows_with_what_arrives_not_with_what_is_announced(masked: bool) -> None:
    """A frame that announces 200 MB and brings 64 kB costs the codec about 64 kB."""
    header = encode(Frame(BINARY, fin=False), MASK if masked else None, 8, 200 * MB)
    decoder = WebProcessInFrame(masked=masked, max_message_bytes=256 * MB)
    part = bytes(8 * KB)
    tracemalloc.start()
    try:
        decoder.feed(header)
        for _ in range(8):
            decoder.feed(part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.error is None
    assert peak < 256 * KB


@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_9_17_tiny_fragments_cost_no_more_than_their_bytes(masked: bool) -> None:
    """8000 fragments of one byte are held in about 8 kB, not in 8000 objects."""
    mask = MASK if masked else None
    stream = (
        encode(Frame(BINARY, b"x", fin=False), mask) + encode(more(b"x", fin=False), mask) * 7_999
    )
    decoder = WebProcessInFrame(masked=masked)
    parts = cut(stream, 16 * KB)
    tracemalloc.start()
    try:
        for part in parts:
            assert decoder.feed(part) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.error is None
    assert peak < 120 * KB
