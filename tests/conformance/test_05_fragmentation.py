"""Section 5, fragmentation: order, interleaved control frames, and every way to get it wrong (RFC
6455 §5.4).
"""

from __future__ import annotations

import pytest

from .peer import Peer
from .wire import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    binary,
    close,
    fragments,
    more,
    ping,
    pong,
    text,
)

#: 0: all frames at once; -1: a write for each frame; else pieces of so many bytes
SENDING = {"together": 0, "frame by frame": -1, "octet by octet": 1}
KINDS = {"text": TEXT, "binary": BINARY}


def send(peer: Peer, frames: list[Frame], how: str) -> None:
    """Send *frames* in one of the ways of :data:`SENDING`."""
    if SENDING[how] < 0:
        for frame in frames:
            peer.send(frame)
    else:
        peer.send(*frames, chop=SENDING[how])


@pytest.fixture(params=SENDING)
def how(request: pytest.FixtureRequest) -> str:
    """How a case's frames are cut."""
    value: str = request.param
    return value


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [(PING, b""), (PING, b"x"), (PONG, b""), (PONG, b"x"), (CLOSE, b""), (CLOSE, b"\x03\xe8")],
)
def test_5_1_a_fragmented_control_frame_fails(peer: Peer, opcode: int, payload: bytes) -> None:
    """Control frames must not be fragmented (§5.5)."""
    peer.send(Frame(opcode, payload, fin=False), more())
    peer.expect_failure(1002)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_5_2_a_fragmented_control_frame_fails_at_its_first_byte(peer: Peer, opcode: int) -> None:
    """The missing FIN bit shows the fault: nothing more is waited for."""
    peer.send_bytes(peer.wire(Frame(opcode, b"x", fin=False))[:1])
    peer.expect_failure(1002)


@pytest.mark.parametrize(
    "parts",
    [
        ("fragment1", "fragment2"),
        ("", ""),
        ("a", ""),
        ("", "a"),
        ("", "", "a", "", ""),
        tuple("Hello, world!"),
    ],
    ids=["two", "empty", "empty last", "empty first", "one of five", "octets"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_5_3_a_fragmented_message_is_joined(
    peer: Peer, how: str, kind: str, parts: tuple[str, ...]
) -> None:
    """The fragments are one message, whose opcode is that of the first."""
    frames = fragments(KINDS[kind], *parts)
    send(peer, frames, how)
    peer.expect(Frame(KINDS[kind], "".join(parts).encode()))
    peer.close()


def test_5_6_a_ping_between_fragments_is_answered_before_the_message(peer: Peer, how: str) -> None:
    """A control frame may come between fragments, and is answered before the message is
    complete.
    """
    first, last = fragments(TEXT, "fragment1", "fragment2")
    send(peer, [first, ping("ping payload")], how)
    peer.expect(pong("ping payload"))
    send(peer, [last], how)
    peer.expect(text("fragment1fragment2"))
    peer.close()


def test_5_7_a_pong_between_fragments_is_ignored(peer: Peer, how: str) -> None:
    """An unsolicited pong between fragments changes nothing."""
    first, last = fragments(BINARY, b"fragment1", b"fragment2")
    send(peer, [first, pong("unsolicited"), last], how)
    peer.expect(binary(b"fragment1fragment2"))
    peer.close()


def test_5_8_control_frames_of_full_size_come_between_all_fragments(peer: Peer, how: str) -> None:
    """Pings of 125 bytes between all of five fragments are answered in order, and the message is
    whole.
    """
    frames: list[Frame] = []
    for number, fragment in enumerate(
        fragments(TEXT, *[f"fragment{number}" for number in range(5)])
    ):
        frames += [fragment, ping(bytes([number]) * 125)]
    send(peer, frames[:-1], how)
    peer.expect(*[pong(bytes([number]) * 125) for number in range(4)])
    peer.expect(text("".join(f"fragment{number}" for number in range(5))))
    peer.close()


@pytest.mark.parametrize("payload", [b"", b"non-continuation payload"], ids=["empty", "payload"])
@pytest.mark.parametrize("fin", [True, False], ids=["fin", "not fin"])
def test_5_9_a_continuation_of_nothing_fails(
    peer: Peer, how: str, fin: bool, payload: bytes
) -> None:
    """A continuation frame needs a message that it continues."""
    send(peer, [more(payload, fin=fin), text("Hello")], how)
    peer.expect_failure(1002)


@pytest.mark.parametrize("fin", [True, False], ids=["fin", "not fin"])
def test_5_10_a_continuation_after_a_whole_message_fails(peer: Peer, how: str, fin: bool) -> None:
    """A message that has its FIN frame cannot be continued; it is delivered all the same."""
    send(
        peer,
        [*fragments(TEXT, "fragment1", "fragment2"), more("fragment3", fin=fin), text("Hello")],
        how,
    )
    peer.expect(text("fragment1fragment2"))
    peer.expect_failure(1002)
    assert peer.messages() == [text("fragment1fragment2")]


def test_5_11_a_continuation_of_nothing_fails_at_its_first_byte(peer: Peer) -> None:
    """The first byte shows the fault: nothing more is waited for."""
    peer.send_bytes(peer.wire(more("x"))[:1])
    peer.expect_failure(1002)


@pytest.mark.parametrize("second", ["text", "binary"])
@pytest.mark.parametrize("first", ["text", "binary"])
@pytest.mark.parametrize("fin", [True, False], ids=["fin", "not fin"])
def test_5_18_a_new_message_inside_a_fragmented_one_fails(
    peer: Peer, first: str, second: str, fin: bool
) -> None:
    """The fragments of two messages must not be mixed: all but the first have to be continuation
    frames.
    """
    peer.send(
        Frame(KINDS[first], b"fragment1", fin=False), Frame(KINDS[second], b"fragment2", fin=fin)
    )
    peer.expect_failure(1002)
    assert peer.messages() == []


def test_5_19_messages_pings_and_fragments_mix(peer: Peer, how: str) -> None:
    """Two fragmented messages with pings among their fragments, one after the other."""
    frames = [
        text("1a", fin=False),
        more("1b", fin=False),
        ping("first"),
        more("1c", fin=False),
        more("1d", fin=False),
        ping("second"),
        more("1e"),
        ping("third"),
        *fragments(BINARY, b"2a", b"2b"),
    ]
    send(peer, frames, how)
    peer.expect(pong("first"), pong("second"), text("1a1b1c1d1e"), pong("third"), binary(b"2a2b"))
    peer.close()


def test_5_20_a_message_waits_for_its_last_fragment(peer: Peer) -> None:
    """Nothing is delivered of a message that is not complete, however long that takes."""
    peer.send(text("fragment1", fin=False))
    for number in range(5):
        peer.expect_pong(f"after {number}")
        peer.send(more("more", fin=False))
    assert peer.messages() == []
    peer.send(more("end"))
    peer.expect(text("fragment1" + "more" * 5 + "end"))
    peer.close()


def test_5_21_a_close_between_fragments_ends_the_connection(peer: Peer) -> None:
    """A close frame may come between fragments: it is answered, and the message is not
    delivered.
    """
    peer.send(text("fragment1", fin=False), close(1000), more("fragment2"))
    peer.expect_close(1000)
    peer.expect_end()
    assert peer.told() == close(1000).payload
    assert peer.messages() == []
