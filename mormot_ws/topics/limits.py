"""TopicLimits: what the clients of a server's topics may do. Values only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .hub import MOST_NAME


@dataclass(frozen=True)
class TopicLimits:
    """What the clients of :class:`WebSocketProtocolTopics` may do on a server.

    0 means: no limit, where nothing else is said. Raises ``TypeError``/``ValueError`` for values
    that cannot be.
    """

    #: topics that one connection may be subscribed to
    max_topics: int = 100
    #: characters of a topic's name, from 1 to 255
    max_topic_length: int = 200
    #: bytes of one publication's data, as compact JSON in UTF-8
    max_payload: int = 65_536
    #: publications per second of one connection; as many may come at once
    max_publications_per_second: int = 100
    #: publications that a client may have on the way without an answer, from 1
    max_unanswered: int = 64
    #: connections of this OS process that may be subscribed to one topic
    max_clients: int = 0
    #: bytes that may wait for a client that does not read, from 1; then *slow* says what is done
    max_behind: int = 1 << 20
    #: ``'skip'``: the topic is sent to it no more; it asks for what it has missed when it reads
    #: again. ``'close'``: its connection is closed with 1008
    slow: Literal["skip", "close"] = "skip"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "slow":
                if value not in ("skip", "close"):
                    raise ValueError(f"slow is 'skip' or 'close', not {value!r}")
                continue
            least = 1 if field.name in _FROM_1 else 0
            if type(value) is not int:
                raise TypeError(f"{field.name} must be a whole number, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{field.name} must be at least {least}, not {value}")
        if self.max_topic_length > MOST_NAME:
            raise ValueError(f"max_topic_length is at most {MOST_NAME}")

    def payload_within(self, message_bytes: int) -> int:
        """Return how many bytes of data fit into a message of *message_bytes*, or fewer if
        :attr:`max_payload` says so.
        """
        room = max(1, message_bytes - _AROUND_DATA - _BYTES_OF_CHARACTER * self.max_topic_length)
        return min(room, self.max_payload) if self.max_payload else room

    def as_wire(self, message_bytes: int) -> dict[str, int]:
        """Return what clients are told, where a message has at most *message_bytes*."""
        return {
            "topics": self.max_topics,
            "topic": self.max_topic_length,
            "payload": self.payload_within(message_bytes),
            "rate": self.max_publications_per_second,
            "window": self.max_unanswered,
        }


#: the most bytes of a publication's message beside its topic and its data
_AROUND_DATA = 100
#: the most bytes of one character of a topic as JSON
_BYTES_OF_CHARACTER = 6
_FROM_1 = frozenset({"max_topic_length", "max_unanswered", "max_behind"})
