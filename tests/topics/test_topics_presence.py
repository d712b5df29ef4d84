"""Who is present, when a session has two connections for a moment."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.topics import Talker, topics_on
from support.waiting import BOUND, wait_for

from mormot_ws import HubUnavailable, MemoryHub, WebSocketAsyncServer
from mormot_ws.topics.presence import Presence


def test_the_slow_end_of_the_old_connection_leaves_the_new_one_present(kind: Any) -> None:
    """The new one has taken over, and joined, before the old one leaves."""
    ending, go_on = threading.Event(), threading.Event()
    with MemoryHub() as hub, topics_on(kind, hub, presence=True) as topics:
        unsubscribe = hub.unsubscribe

        def slow(topic: str, callback: Any) -> bool:
            ending.set()
            assert go_on.wait(BOUND)
            return unsubscribe(topic, callback)

        with Talker(topics.port) as old:
            old.subscribe()
            wait_for(lambda: hub.count("news") == 1)
            hub.__dict__["unsubscribe"] = slow
        assert ending.wait(BOUND)
        with Talker(topics.port) as new:
            new.subscribe()
            wait_for(lambda: topics.protocol.status().subscriptions == 1)
            new.say(type="members", topic="news")
            assert len(new.read("members")["members"]) == 1
            go_on.set()
            wait_for(lambda: topics.server.websocket_connections == 1)
            new.say(type="members", topic="news")
            assert list(new.read("members")["members"]) == [new.welcome["member"]]


def test_a_subscriber_that_is_refused_now_is_not_present_any_more() -> None:
    """It subscribes again, and the application has changed its mind."""
    answers = iter([True, False])
    with (
        topics_on(
            WebSocketAsyncServer, presence=True, on_subscribe=lambda *_: next(answers)
        ) as topics,
        Talker(topics.port) as talker,
    ):
        talker.subscribe()
        wait_for(lambda: topics.hub.count("news") == 1)
        talker.say(type="sub", topic="news")
        talker.read("error")
        assert topics.hub.count("news") == 0


class Failing(MemoryHub):
    """A hub of an application, with a mistake in it."""

    def unsubscribe(self, topic: str, callback: Any) -> bool:
        super().unsubscribe(topic, callback)
        raise RuntimeError("unsubscribe")

    def leave(self, topic: str, member: str) -> bool:
        super().leave(topic, member)
        raise RuntimeError("leave")


def test_a_hub_that_fails_keeps_nothing_of_a_connection_that_has_ended(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The first topic's failure does not keep the others, and each failure is logged."""
    with Failing() as hub, topics_on(kind, hub, presence=True) as topics:
        with Talker(topics.port) as talker:
            for topic in ("news", "sport"):
                talker.subscribe(topic)
            wait_for(lambda: hub.count("news") == hub.count("sport") == 1)
        wait_for(lambda: not topics.protocol.status().sessions)
        assert topics.protocol.status().topics == 0
        assert hub.count("news") == hub.count("sport") == 0
    told = [str(each.exc_info[1]) for each in caplog.records if each.exc_info]
    assert sorted(told) == ["leave", "leave", "unsubscribe", "unsubscribe"]


class Overtaken(MemoryHub):
    """While it is told something, *between* happens."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[Any] = []
        self.fails = False

    def _happen(self) -> None:
        if self.between:
            self.between.pop()()

    def join(self, topic: str, member: str, info: object = None) -> None:
        self._happen()
        super().join(topic, member, info)
        if self.fails:
            raise HubUnavailable("away")

    def leave(self, topic: str, member: str) -> bool:
        self._happen()
        return super().leave(topic, member)


def test_what_is_told_last_is_true() -> None:
    """Whatever else happens while the hub is told."""
    with Overtaken() as hub:
        presence = Presence(hub)

        def hold(visitor: str) -> None:
            presence.hold(visitor, "news", "a", visitor)
            presence.tell("news", "a")

        def give_up(visitor: str) -> None:
            if presence.give_up(visitor, "news", "a"):
                presence.tell("news", "a")

        hub.between.append(lambda: give_up("old"))
        hold("old")
        assert hub.members("news") == {}
        hold("old")
        hub.between.append(lambda: hold("new"))
        give_up("old")
        assert hub.members("news") == {"a": "new"}
        give_up("old")
        assert hub.members("news") == {"a": "new"}
        hub.fails = True
        hub.between.append(lambda: give_up("newer"))
        hold("newer")
        assert hub.members("news") == {}
        with pytest.raises(HubUnavailable):
            hold("newest")
