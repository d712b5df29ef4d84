"""Section 6, UTF-8: text is well-formed, and what is not fails at the octet that shows it, not at
the end of the message (RFC 6455 §8.1).

How much of a message may arrive before the fault shows is worked out by :func:`utf8_tables.judge`,
from the Unicode standard's table.
"""

from __future__ import annotations

import pytest

from mormot_ws import WebProcessInFrame

from .peer import Peer
from .utf8_tables import INVALID, NONCHARACTERS, TRUNCATED, VALID, judge
from .wire import CLOSE, MASK, TEXT, Frame, binary, close, cut, encode, fragments, more, text

#: one of each kind, where each sequence would cost a connection to show the same
some_invalid = pytest.mark.parametrize("bad", [*INVALID.values()][::3], ids=[*INVALID][::3])
invalid = pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
truncated = pytest.mark.parametrize("start", TRUNCATED.values(), ids=TRUNCATED)
valid = pytest.mark.parametrize("good", VALID.values(), ids=VALID)
KOSME = "κόσμε".encode()


def split_at_fault(data: bytes) -> tuple[bytes, bytes]:
    """Return what *data* has before its first impossible octet, and the rest."""
    at, _ = judge(data)
    assert at is not None
    return data[:at], data[at:]


def test_6_0_the_tables_are_what_they_say() -> None:
    """The judge agrees with the tables, so that the cases test what their names say."""
    for name, octets in VALID.items():
        assert judge(octets) == (None, True), name
    for name, octets in INVALID.items():
        assert judge(octets)[0] is not None, name
    for name, octets in TRUNCATED.items():
        assert judge(octets) == (None, False), name


# -------------------------------------------------------------------------------------- well-formed


@pytest.mark.parametrize(
    "parts",
    [("",), ("", "", ""), ("", "middle", "")],
    ids=["6.1.1 empty", "6.1.2 fragments", "6.1.3 middle"],
)
def test_6_1_empty_text_is_echoed(peer: Peer, parts: tuple[str, ...]) -> None:
    """Text without a character, or with fragments that have none, is valid."""
    peer.send(*fragments(TEXT, *parts))
    peer.expect(text("".join(parts)))
    peer.close()


def test_6_2_valid_text_is_echoed_wherever_it_is_cut(peer: Peer) -> None:
    """A fragment may end inside a character; so may what TCP delivers."""
    payload = "Hello-µ@ßöäüàá-UTF-8!! 日本 😀".encode()
    for at in range(len(payload) + 1):
        peer.send(*fragments(TEXT, payload[:at], payload[at:]))
        peer.expect(text(payload))
    peer.close()


@valid
def test_6_5_valid_octets_are_echoed(peer: Peer, good: bytes) -> None:
    """A valid sequence comes back unchanged: at once, in fragments of one octet, and octet by
    octet.
    """
    peer.exchange(text(good))
    peer.send(*fragments(TEXT, *cut(good, 1)))
    peer.expect(text(good))
    peer.exchange(text(good), chop=1)
    peer.close()


def test_6_22_code_points_that_are_no_characters_are_echoed(peer: Peer) -> None:
    """Noncharacters are valid in UTF-8 (Unicode, corrigendum 9)."""
    peer.exchange(*[text(chr(point)) for point in NONCHARACTERS])
    peer.close()


def test_6_24_all_lengths_of_characters_are_echoed_in_a_long_text(peer: Peer) -> None:
    """A long text of characters of 1 to 4 octets, in fragments that cut them anywhere."""
    payload = ("aé€😀" * 7000).encode()
    peer.send(*fragments(TEXT, *cut(payload, 997)))
    peer.expect(text(payload))
    peer.close()


def test_6_25_binary_messages_need_no_utf8(peer: Peer) -> None:
    """What is invalid as text is fine in a binary message, fragmented or not."""
    for bad in INVALID.values():
        peer.send(*fragments(2, bad[:1], bad[1:]))
        peer.exchange(binary(bad))
        assert peer.receive() == binary(bad)
    peer.close()


def test_6_26_a_ping_may_come_inside_a_character(peer: Peer) -> None:
    """A control frame between the fragments of one character changes nothing."""
    peer.send(text(b"\xe2", fin=False))
    peer.expect_pong(b"\xff\xfe")
    peer.send(more(b"\x82", fin=False))
    peer.expect_pong(b"\x80")
    peer.send(more(b"\xac"))
    peer.expect(text("€"))
    peer.close()


# ------------------------------------------------------------------------------------------ invalid


@invalid
def test_6_3_invalid_utf8_fails(peer: Peer, bad: bytes) -> None:
    """A whole message that is not UTF-8 fails the connection with 1007, and is not delivered."""
    peer.exchange(text("good"))
    peer.send(text(bad))
    peer.expect_failure(1007)
    assert peer.messages() == [text("good")]


@invalid
def test_6_4_1_invalid_utf8_fails_fast_in_a_fragment(peer: Peer, bad: bytes) -> None:
    """It fails with the fragment that has the impossible octet, before the message is complete,
    and not earlier.
    """
    start, rest = split_at_fault(bad)
    peer.send(text(KOSME + start, fin=False))
    peer.expect_pong()
    peer.send(more(rest[:1], fin=False))
    peer.expect_failure(1007)


@invalid
def test_6_4_3_invalid_utf8_fails_fast(peer: Peer, bad: bytes) -> None:
    """It fails at the impossible octet, inside a frame of which much is still to come."""
    start, rest = split_at_fault(bad)
    stream = peer.wire(text(KOSME + start + rest[:1] + b"a" * 1000))
    peer.send_bytes(stream[:-1000])
    peer.expect_failure(1007)


@some_invalid
def test_6_4_4_invalid_utf8_fails_fast_in_chops(peer: Peer, bad: bytes) -> None:
    """It fails at the impossible octet when the frame arrives octet by octet."""
    start, rest = split_at_fault(bad)
    stream = peer.wire(text(KOSME + start + rest[:1] + b"a" * 1000))
    peer.send_bytes(stream[:-1000], chop=1)
    peer.expect_failure(1007)


@invalid
@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_6_4_5_invalid_utf8_fails_at_exactly_that_octet(masked: bool, bad: bytes) -> None:
    """The codec reports the fault with the impossible octet: not one octet later, and not one too
    early.
    """
    stream = encode(text(KOSME + bad + b"a" * 1000), MASK if masked else None)
    start, rest = split_at_fault(KOSME + bad)
    header = len(stream) - len(start) - len(rest) - 1000
    decoder = WebProcessInFrame(masked=masked)
    for octet in stream[: header + len(start)]:
        assert decoder.feed(bytes([octet])) == []
        assert decoder.error is None
    assert decoder.feed(stream[header + len(start) :][:1]) == []
    assert decoder.error is not None
    assert decoder.error.code == 1007


@some_invalid
def test_6_4_6_invalid_utf8_fails_across_fragments(peer: Peer, bad: bytes) -> None:
    """A sequence that is spread over fragments of one octet is no better."""
    peer.send(*fragments(TEXT, *cut(bad, 1), b" and more"))
    peer.expect_failure(1007)
    assert peer.messages() == []


@truncated
def test_6_23_a_character_that_the_end_cuts_fails(peer: Peer, start: bytes) -> None:
    """A message may not end inside a character, be it in one frame or in fragments."""
    peer.send(text(start))
    peer.expect_failure(1007)


@truncated
def test_6_23_a_character_that_the_end_cuts_fails_with_the_last_fragment(
    peer: Peer, start: bytes
) -> None:
    """An unfinished character is fine until the fragment that ends the message, even when that one
    is empty.
    """
    peer.send(*[frame._replace(fin=False) for frame in fragments(TEXT, *cut(start, 1))])
    peer.expect_pong()
    peer.send(more(b""))
    peer.expect_failure(1007)


@truncated
def test_6_23_a_character_does_not_continue_in_the_next_message(peer: Peer, start: bytes) -> None:
    """Nothing of one message is carried over to the next."""
    peer.send(text("a"), text(start), text(b"\x80"))
    peer.expect(text("a"))
    peer.expect_failure(1007)


@some_invalid
def test_6_27_an_invalid_close_reason_fails(peer: Peer, bad: bytes) -> None:
    """The reason of a close frame is UTF-8 as well (§5.5.1)."""
    peer.send(close(1000, bad))
    peer.expect_failure(1007)


@truncated
def test_6_28_a_close_reason_that_ends_inside_a_character_fails(peer: Peer, start: bytes) -> None:
    """A close frame that cuts the last character of its reason is refused."""
    peer.send(Frame(CLOSE, b"\x03\xe8" + start))
    peer.expect_failure(1007)


@valid
def test_6_29_a_valid_close_reason_is_told(peer: Peer, good: bytes) -> None:
    """Any valid text may be the reason; it reaches the application unchanged."""
    peer.close(1000, good)
    assert peer.told() == close(1000, good).payload
    assert peer.process.close_reason == good.decode("utf-8")
