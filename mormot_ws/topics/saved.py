"""ClientState: what a topics client saves, so that another program can continue. Values only."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import wire
from .hub import Position, check_json, check_name

_VERSION = 1


class ClientState(NamedTuple):
    """The state of a client, converted to JSON values and back."""

    session: str
    #: the sequence of its last publication
    sequence: int
    positions: dict[str, Position]
    #: (sequence, topic, data as JSON text), in order
    unacknowledged: list[tuple[int, str, str]]

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "version": _VERSION,
            "session": self.session,
            "sequence": self.sequence,
            "positions": {topic: list(position) for topic, position in self.positions.items()},
            "unacknowledged": [list(each) for each in self.unacknowledged],
        }

    @classmethod
    def of_json(cls, state: object) -> ClientState:
        """Return the state for a result of :meth:`as_json`. Raises ``ValueError`` otherwise."""
        try:
            return cls._of_json(state)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            # omit the session, which is a secret
            raise ValueError(f"not a value returned by state(): {type(exc).__name__}") from None

    @classmethod
    def _of_json(cls, state: Any) -> ClientState:
        if state["version"] != _VERSION or not wire.is_session(state["session"]):
            raise ValueError
        positions = {}
        for topic, (epoch, offset) in state["positions"].items():
            check_name("topic", topic)
            if not isinstance(epoch, str) or type(offset) is not int or offset < 0:
                raise ValueError
            positions[topic] = Position(epoch, offset)
        kept = []
        last = 0
        for sequence, topic, json in state["unacknowledged"]:
            check_name("topic", topic)
            check_json(json)
            if type(sequence) is not int or sequence <= last:
                raise ValueError
            last = sequence
            kept.append((sequence, topic, json))
        if type(state["sequence"]) is not int or state["sequence"] < last:
            raise ValueError
        return cls(state["session"], state["sequence"], positions, kept)
