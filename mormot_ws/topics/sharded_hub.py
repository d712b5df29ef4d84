"""ShardedHub: distributes topics over several hubs; each topic is always on the same hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from ..sockets.deadline import Deadline
from .hub import History, Hub, HubStatus, OnPublication, Position, Published, check_name


class ShardedHub(Hub):
    """Distributes topics over several hubs, e.g. over several Redis servers if one is not enough.

    The name of a topic decides its hub. A topic is always on the same hub, so everything that a hub
    guarantees for a topic holds. All processes must use the same hubs in the same order. If you
    append an n-th hub, one in n topics moves to it and begins a new epoch there.

    If one hub is not available, only its topics are affected. The settings are those of the hubs.

    :param hubs: at least one hub. They are freed together with this one.
    """

    def __init__(self, hubs: Sequence[Hub]) -> None:
        self._hubs = tuple(hubs)
        if not self._hubs:
            raise ValueError("hubs must contain at least one hub")
        for hub in self._hubs:
            if not isinstance(hub, Hub):
                raise TypeError(f"hubs must contain only hubs, not {type(hub).__name__}")
        first = self._hubs[0]
        super().__init__(
            first.history_count,
            first.history_age,
            first.window_count,
            first.window_age,
            first.topic_age,
            first.timeout,
        )
        self._number_of = lru_cache(10_000)(self._choose)

    def _choose(self, topic: str) -> int:
        # the hub whose hash with the topic is the highest: appending a hub moves only the topics
        # for which the new hub has the highest hash
        return max(
            range(len(self._hubs)),
            key=lambda number: blake2b(f"{number} {topic}".encode(), digest_size=8).digest(),
        )

    def hub_of(self, topic: str) -> Hub:
        """Return the hub that *topic* is on."""
        check_name("topic", topic)
        return self._hubs[self._number_of(topic)]

    def publish(
        self, topic: str, data: object, *, session: str = "", sequence: int = 0
    ) -> Published:
        return self.hub_of(topic).publish(topic, data, session=session, sequence=sequence)

    def publish_json(
        self, topic: str, json: str, *, session: str = "", sequence: int = 0
    ) -> Published:
        return self.hub_of(topic).publish_json(topic, json, session=session, sequence=sequence)

    def history(self, topic: str, since: Position | None = None, limit: int = 0) -> History:
        return self.hub_of(topic).history(topic, since, limit)

    def subscribe(
        self, topic: str, callback: OnPublication, since: Position | None = None
    ) -> History:
        return self.hub_of(topic).subscribe(topic, callback, since)

    def unsubscribe(self, topic: str, callback: OnPublication) -> bool:
        return self.hub_of(topic).unsubscribe(topic, callback)

    def join(self, topic: str, member: str, info: object = None) -> None:
        self.hub_of(topic).join(topic, member, info)

    def leave(self, topic: str, member: str) -> bool:
        return self.hub_of(topic).leave(topic, member)

    def members(self, topic: str) -> dict[str, Any]:
        return self.hub_of(topic).members(topic)

    def count(self, topic: str) -> int:
        return self.hub_of(topic).count(topic)

    def status(self) -> HubStatus:
        """Return the sums; ``connected`` if all hubs are, and the first ``last_error``."""
        every = [hub.status() for hub in self._hubs]
        sums: dict[str, Any] = {
            field.name: sum(getattr(each, field.name) for each in every)
            for field in fields(HubStatus)
            if field.name not in ("connected", "last_error")
        }
        return HubStatus(
            connected=all(each.connected for each in every),
            last_error=next((each.last_error for each in every if each.last_error), ""),
            **sums,
        )

    def wait_connected(self, timeout_ms: float | None = None) -> bool:
        deadline = Deadline(self.timeout if timeout_ms is None else timeout_ms)
        return all(hub.wait_connected((deadline.seconds() or 0) * 1000) for hub in self._hubs)

    def free(self) -> None:
        for hub in self._hubs:
            hub.free()

    def __repr__(self) -> str:
        return f"ShardedHub({list(self._hubs)!r})"
