"""Section 2, pings and pongs (RFC 6455 §5.5.2, §5.5.3)."""

from __future__ import annotations

import pytest

from .peer import Peer
from .wire import PING, PONG, Frame, encode, ping, pong, text


@pytest.mark.parametrize(
    "payload",
    [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125],
    ids=["2.1 empty", "2.2 text", "2.3 binary", "2.4 125 bytes"],
)
def test_2_1_a_ping_is_answered_with_its_payload(peer: Peer, payload: bytes) -> None:
    """The pong carries exactly what the ping carried, whatever it is."""
    peer.send(ping(payload))
    peer.expect(pong(payload))
    peer.close()


@pytest.mark.parametrize("opcode", [PING, PONG])
@pytest.mark.parametrize("size", [126, 127, 65536])
def test_2_5_a_ping_or_pong_above_125_bytes_fails_at_its_header(
    peer: Peer, opcode: int, size: int
) -> None:
    """A control frame has at most 125 bytes (§5.5); its payload is not waited for."""
    peer.send_bytes(encode(Frame(opcode, b"\xfe" * size), peer.mask)[:2])
    peer.expect_failure(1002)


def test_2_6_a_ping_in_octets_is_answered(peer: Peer) -> None:
    """A ping of the greatest size that arrives byte by byte is answered like any other."""
    peer.send(ping(b"\xfe" * 125), chop=1)
    peer.expect(pong(b"\xfe" * 125))
    peer.close()


@pytest.mark.parametrize("payload", [b"", b"unsolicited pong payload", b"\xff" * 125], ids=len)
def test_2_7_an_unsolicited_pong_is_ignored(peer: Peer, payload: bytes) -> None:
    """A pong that nobody asked for gets no answer, and does no harm (§5.5.3)."""
    peer.send(pong(payload))
    peer.exchange(text("next"))
    peer.close()


def test_2_9_a_ping_after_an_unsolicited_pong_is_answered(peer: Peer) -> None:
    """The pong is ignored, the ping is answered with its own payload."""
    peer.send(pong("unsolicited"), ping("ping payload"))
    peer.expect(pong("ping payload"))
    peer.close()


@pytest.mark.parametrize("chop", [0, 1, 7])
def test_2_10_many_pings_are_answered_in_their_order(peer: Peer, chop: int) -> None:
    """Each of ten pings gets its own pong, in order, however they are cut."""
    payloads = [f"payload-{number}" for number in range(10)]
    peer.send(*map(ping, payloads), chop=chop)
    peer.expect(*map(pong, payloads))
    peer.close()


def test_2_12_pings_and_messages_are_answered_in_their_order(peer: Peer) -> None:
    """A ping between two messages is answered between their echoes."""
    peer.send(text("one"), ping("p1"), text("two"), ping("p2"))
    peer.expect(text("one"), pong("p1"), text("two"), pong("p2"))
    peer.close()


def test_2_13_pings_and_pongs_are_not_messages(peer: Peer) -> None:
    """The application is not given pings and pongs, unless it asks for them."""
    peer.send(ping("p"), pong("q"))
    peer.expect(pong("p"))
    peer.close()
    assert peer.told() == b"\x03\xe8"
    assert peer.messages() == []
    assert not {"focPing", "focPong"} & set(peer.recorder.names)
