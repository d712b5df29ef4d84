"""TopicLimits: what clients may do with a server's topics. Values only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .hub import MOST_NAME


@dataclass(frozen=True)
class TopicLimits:
    """The limits for clients of :class:`WebSocketProtocolTopics` on a server.

    Unless noted otherwise, 0 means no limit. Raises ``TypeError``/``ValueError`` for invalid
    values.
    """

    #: the maximum number of topics that a connection may subscribe to
    max_topics: int = 100
    #: the maximum length of a topic's name, 1 to 255 characters
    max_topic_length: int = 200
    #: the maximum bytes of a publication's data, as compact JSON in UTF-8
    max_payload: int = 65_536
    #: the maximum publications per second of a connection; as many may come in one burst
    max_publications_per_second: int = 100
    #: the maximum number of unanswered publications of a client, at least 1
    max_unanswered: int = 64
    #: the maximum number of connections in this OS process that may subscribe to a topic
    max_clients: int = 0
    #: the maximum bytes that may wait for a client that does not read, at least 1; beyond that,
    #: :attr:`slow` applies
    max_behind: int = 1 << 20
    #: ``'skip'``: stop sending the topic to the client, which requests what it has missed when it
    #: reads again. ``'close'``: close its connection with 1008
    slow: Literal["skip", "close"] = "skip"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "slow":
                if value not in ("skip", "close"):
                    raise ValueError(f"slow must be 'skip' or 'close', not {value!r}")
                continue
            least = 1 if field.name in _FROM_1 else 0
            if type(value) is not int:
                raise TypeError(f"{field.name} must be a whole number, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{field.name} must be at least {least}, not {value}")
        if self.max_topic_length > MOST_NAME:
            raise ValueError(f"max_topic_length must be at most {MOST_NAME}")

    def payload_within(self, message_bytes: int) -> int:
        """Return how many bytes of data a message of *message_bytes* can hold.

        The result is at most :attr:`max_payload`.
        """
        room = max(1, message_bytes - _AROUND_DATA - _BYTES_OF_CHARACTER * self.max_topic_length)
        return min(room, self.max_payload) if self.max_payload else room

    def as_wire(self, message_bytes: int) -> dict[str, int]:
        """Return the limits that clients are sent, for messages of at most *message_bytes*."""
        return {
            "topics": self.max_topics,
            "topic": self.max_topic_length,
            "payload": self.payload_within(message_bytes),
            "rate": self.max_publications_per_second,
            "window": self.max_unanswered,
        }


#: the maximum bytes of a publication's message in addition to its topic and data
_AROUND_DATA = 100
#: the maximum bytes of a topic's character as JSON
_BYTES_OF_CHARACTER = 6
_FROM_1 = frozenset({"max_topic_length", "max_unanswered", "max_behind"})
