"""CloseHandshake: the closing of one connection (RFC 6455 §7), as a table of states and events.

Pure: no socket, no thread, no clock. It knows no role: both sides close alike. Who sends the
frames, and how long an answer may take, is decided above.
"""

from __future__ import annotations

from enum import Enum

from .frames import CLOSE_ABNORMAL, CLOSE_NO_STATUS, parse_close_payload


class CloseState(Enum):
    """How far the closing of a connection has come."""

    #: no close frame in either direction
    open = "open"
    #: ours is on its way, the peer's has not come
    closing = "closing"
    #: the peer's has come, ours is owed
    answering = "answering"
    #: one in each direction
    closed = "closed"
    #: the peer broke a rule: nothing more is read, our close frame is owed
    refusing = "refusing"
    #: the peer broke a rule, and was told so by our close frame
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
#: what follows from what; a pair that is not here changes nothing
TRANSITIONS: dict[tuple[CloseState, CloseEvent], CloseState] = {
    (_S.open, _E.sent): _S.closing,
    (_S.open, _E.received): _S.answering,
    (_S.open, _E.fault): _S.refusing,
    # both sides closed at the same time: neither answers the other's close frame
    (_S.closing, _E.received): _S.closed,
    # our close frame was there before: the fault needs no second one
    (_S.closing, _E.fault): _S.refused,
    (_S.answering, _E.sent): _S.closed,
    (_S.refusing, _E.sent): _S.refused,
}

_SENT = frozenset((_S.closing, _S.closed, _S.refused))


class CloseHandshake:
    """The close frames of one connection: which were sent and received, with what code.

    :meth:`happened` and what uses it are called by one thread at a time; the caller's lock sees to
    that. The attributes may be read by any thread.
    """

    __slots__ = ("code", "reason", "received", "state")

    def __init__(self) -> None:
        self.state = CloseState.open
        #: True once the peer's close frame was read
        self.received = False
        #: the code of the first close frame in either direction; 1005: it had none; 1006: there was
        #: no close frame; 0: the connection is open
        self.code: int = 0
        #: the reason in that close frame
        self.reason: str = ""

    def __repr__(self) -> str:
        return f"<CloseHandshake {self.state.name} {self.code}>"

    @property
    def sent(self) -> bool:
        """True once our close frame was given to the connection."""
        return self.state in _SENT

    @property
    def ends_reading(self) -> bool:
        """True when a close frame or a fault, and not the end of the stream, ends the reading."""
        return self.received or self.state in (CloseState.refusing, CloseState.refused)

    def happened(self, event: CloseEvent) -> None:
        """Follow the table."""
        self.state = TRANSITIONS.get((self.state, event), self.state)

    def send(self, code: int, reason: str) -> bool:
        """Our close frame is about to leave; return False when one has left before."""
        if self.sent:
            return False
        self.note(code, reason)
        self.happened(CloseEvent.sent)
        return True

    def receive(self, payload: bytes) -> tuple[int, str]:
        """The peer's close frame has come; return its code and reason.

        Raises ``WebSocketsProtocolError`` for a *payload* that RFC 6455 §5.5.1 forbids.
        """
        code, reason = parse_close_payload(payload)
        self.received = True
        self.happened(CloseEvent.received)
        return code, reason

    def fault(self) -> None:
        """The peer broke a rule: nothing more will be read."""
        self.happened(CloseEvent.fault)

    def end(self) -> None:
        """The connection is over: without any close frame its code is 1006."""
        if not self.code:
            self.code = CLOSE_ABNORMAL

    def note(self, code: int, reason: str) -> None:
        """Keep *code* and *reason* if they are the first ones."""
        if not self.code:
            self.code = code
            self.reason = reason

    def payload(self) -> bytes:
        """Return code and reason as the payload of a close frame; empty where there is no code."""
        if self.code in (CLOSE_ABNORMAL, CLOSE_NO_STATUS):
            return b""
        return self.code.to_bytes(2, "big") + self.reason.encode("utf-8")
