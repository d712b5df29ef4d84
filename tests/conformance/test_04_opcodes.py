"""Section 4, opcodes: the reserved ones fail the connection (RFC 6455 §5.2)."""

from __future__ import annotations

import pytest

from .peer import Peer
from .wire import RESERVED_OPCODES, Frame, text


@pytest.mark.parametrize("payload", [b"", b"reserved opcode payload"], ids=["empty", "payload"])
@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
def test_4_1_a_reserved_opcode_fails(peer: Peer, opcode: int, payload: bytes) -> None:
    """Opcodes 3–7 and 11–15 have no meaning yet: a frame with one fails the connection."""
    peer.send(Frame(opcode, payload))
    peer.expect_failure(1002)


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
def test_4_2_what_came_before_a_reserved_opcode_is_echoed(
    peer: Peer, opcode: int, chop: int
) -> None:
    """A good message before it is delivered and answered; what follows is not."""
    peer.send(text("good"), Frame(opcode, b"bad"), text("not read"), chop=chop)
    peer.expect(text("good"))
    peer.expect_failure(1002)
    assert peer.messages() == [text("good")]


@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
def test_4_3_a_reserved_opcode_between_fragments_fails(peer: Peer, opcode: int) -> None:
    """Inside a fragmented message it fails as well, and the message is not delivered."""
    peer.send(text("a", fin=False), Frame(opcode, b"bad"))
    peer.expect_failure(1002)
    assert peer.messages() == []


@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
def test_4_4_a_reserved_opcode_fails_at_the_first_byte(peer: Peer, opcode: int) -> None:
    """The first byte of a frame shows the fault: nothing more is waited for."""
    peer.send_bytes(peer.wire(Frame(opcode))[:1])
    peer.expect_failure(1002)
