"""CloseHandshake: the closing of one connection (RFC 6455 §7), as a table of states and events.

Pure: no socket, no thread, no clock. Client and server close in the same way, so the table has no
roles. The layers above send the frames and limit the wait for an answer.
"""

from __future__ import annotations

from enum import Enum

from .frames import CLOSE_ABNORMAL, CLOSE_NO_STATUS, parse_close_payload


class CloseState(Enum):
    """The state of a connection's close handshake."""

    #: no close frame in either direction
    open = "open"
    #: we sent our close frame, and the peer's has not arrived
    closing = "closing"
    #: the peer's close frame has arrived, and we still have to answer it
    answering = "answering"
    #: both close frames have been exchanged
    closed = "closed"
    #: the peer broke a rule: nothing more is read, and we still have to send our close frame
    refusing = "refusing"
    #: the peer broke a rule, and our close frame reported it
    refused = "refused"


class CloseEvent(Enum):
    """What changes a :class:`CloseState`."""

    #: our close frame was given to the connection
    sent = "sent"
    #: the peer's close frame was read
    received = "received"
    #: the peer broke a rule
    fault = "fault"


_S, _E = CloseState, CloseEvent
#: the next state for a state and an event; a pair that is missing here changes nothing
TRANSITIONS: dict[tuple[CloseState, CloseEvent], CloseState] = {
    (_S.open, _E.sent): _S.closing,
    (_S.open, _E.received): _S.answering,
    (_S.open, _E.fault): _S.refusing,
    # both sides closed at the same time: neither answers the other's close frame
    (_S.closing, _E.received): _S.closed,
    # our close frame has been sent already, and there is only one
    (_S.closing, _E.fault): _S.refused,
    (_S.answering, _E.sent): _S.closed,
    (_S.refusing, _E.sent): _S.refused,
}

_SENT = frozenset((_S.closing, _S.closed, _S.refused))


class CloseHandshake:
    """The close frames of one connection: which were sent and received, and their codes.

    The methods that change it are called from one thread at a time, under the caller's lock. Any
    thread may read the attributes.
    """

    __slots__ = ("code", "reason", "received", "state")

    def __init__(self) -> None:
        self.state = CloseState.open
        #: True once the peer's close frame was read
        self.received = False
        #: the code of the first close frame in either direction. 1005: the frame had no code. 1006:
        #: there was no close frame. 0: the connection is open
        self.code: int = 0
        #: the reason in that close frame
        self.reason: str = ""

    def __repr__(self) -> str:
        return f"<CloseHandshake {self.state.name} {self.code}>"

    @property
    def sent(self) -> bool:
        """True once our close frame has been handed to the connection."""
        return self.state in _SENT

    @property
    def ends_reading(self) -> bool:
        """True if a close frame or a fault has ended the reading (not the end of the stream)."""
        return self.received or self.state in (CloseState.refusing, CloseState.refused)

    def happened(self, event: CloseEvent) -> None:
        """Change the state according to the table."""
        self.state = TRANSITIONS.get((self.state, event), self.state)

    def send(self, code: int, reason: str) -> bool:
        """Record that our close frame is about to be sent; return False if one was sent before."""
        if self.sent:
            return False
        self.note(code, reason)
        self.happened(CloseEvent.sent)
        return True

    def receive(self, payload: bytes) -> tuple[int, str]:
        """Record the peer's close frame; return its code and reason.

        Raises ``WebSocketsProtocolError`` for a *payload* that RFC 6455 §5.5.1 forbids.
        """
        code, reason = parse_close_payload(payload)
        self.received = True
        self.happened(CloseEvent.received)
        return code, reason

    def fault(self) -> None:
        """Record that the peer broke a rule: nothing more will be read."""
        self.happened(CloseEvent.fault)

    def end(self) -> None:
        """Record the end of the connection: without a close frame the code is 1006."""
        if not self.code:
            self.code = CLOSE_ABNORMAL

    def note(self, code: int, reason: str) -> None:
        """Keep *code* and *reason* if none have been recorded yet."""
        if not self.code:
            self.code = code
            self.reason = reason

    def payload(self) -> bytes:
        """Return code and reason as the payload of a close frame; empty if there is no code."""
        if self.code in (CLOSE_ABNORMAL, CLOSE_NO_STATUS):
            return b""
        return self.code.to_bytes(2, "big") + self.reason.encode("utf-8")
