"""Section 3, reserved bits: they are 0 unless an extension gives them a meaning (RFC 6455 §5.2)."""

from __future__ import annotations

import pytest

from .peer import Peer
from .wire import BINARY, CLOSE, PING, PONG, TEXT, Frame, more, text

RSV = range(1, 8)


@pytest.mark.parametrize(
    "opcode", [TEXT, BINARY, PING, PONG, CLOSE], ids=["text", "binary", "ping", "pong", "close"]
)
@pytest.mark.parametrize("rsv", RSV, ids="rsv{:03b}".format)
def test_3_1_any_reserved_bit_fails(peer: Peer, rsv: int, opcode: int) -> None:
    """Each combination of reserved bits fails the connection, on each kind of frame."""
    peer.send(Frame(opcode, b"\x03\xe8" if opcode == CLOSE else b"", rsv=rsv))
    peer.expect_failure(1002)


@pytest.mark.parametrize("rsv", RSV, ids="rsv{:03b}".format)
@pytest.mark.parametrize("chop", [0, 1])
def test_3_2_what_came_before_a_reserved_bit_is_echoed(peer: Peer, rsv: int, chop: int) -> None:
    """A good message before it is delivered and answered; what follows is not."""
    peer.send(text("good"), text("bad", rsv=rsv), chop=chop)
    peer.expect(text("good"))
    peer.expect_failure(1002)
    assert peer.messages() == [text("good")]


@pytest.mark.parametrize("rsv", RSV, ids="rsv{:03b}".format)
def test_3_3_a_reserved_bit_on_a_continuation_fails(peer: Peer, rsv: int) -> None:
    """The bits of later fragments are looked at as well."""
    peer.send(text("a", fin=False), more("b", rsv=rsv))
    peer.expect_failure(1002)


@pytest.mark.parametrize("rsv", RSV, ids="rsv{:03b}".format)
def test_3_4_a_reserved_bit_fails_at_the_first_byte(peer: Peer, rsv: int) -> None:
    """The first byte of a frame shows the fault: nothing more is waited for."""
    peer.send_bytes(peer.wire(text("x", rsv=rsv))[:1])
    peer.expect_failure(1002)
