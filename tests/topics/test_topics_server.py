"""The server's side of topics, as a peer sees it that writes the messages itself."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any, ClassVar

import pytest
from support.lines import Line, each_line
from support.topics import OTHER_SESSION, SESSION, Talker, refusing, topics_on
from support.waiting import BOUND, ms, wait_for

from mormot_ws import (
    Changed,
    HubFull,
    HubUnavailable,
    MemoryHub,
    TopicLimits,
    WebSocketAsyncServer,
    WebSocketAsyncServerRest,
    WebSocketProtocolTopics,
    WebSocketsError,
    WebSocketServer,
    WebSocketServerRest,
)
from mormot_ws.topics import feed, wire
from mormot_ws.topics.feed import Feed, Member

EVENTS = WebSocketAsyncServer


class TestHello:
    def test_it_is_answered_with_the_limits(self, kind: Any) -> None:
        """A client learns what it may do, and its name for others, which is not its session."""
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            limits = {"topics": 100, "topic": 200, "payload": 65536, "rate": 100, "window": 64}
            assert talker.welcome["v"] == 1
            assert talker.welcome["limits"] == limits
            assert talker.welcome["member"] not in ("", SESSION)
            assert topics.protocol.status().sessions == 1

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ('{"type":"sub","topic":"news"}', 1008),
            ('{"type":"hello","v":0,"session":"' + SESSION + '"}', 4002),
            ('{"type":"hello","v":1,"session":"short"}', 1007),
            ("no JSON", 1007),
        ],
    )
    def test_it_comes_first_and_is_valid(self, text: str, code: int) -> None:
        """Anything else closes the connection."""
        with topics_on(EVENTS) as topics, Talker(topics.port, hello=False) as talker:
            talker.say(text)
            assert talker.closed() == code

    def test_it_comes_once(self) -> None:
        """A session cannot be changed."""
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            talker.say(type="hello", v=1, session=OTHER_SESSION)
            assert talker.closed() == 1008

    def test_binary_messages_close_with_1003(self) -> None:
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            talker.ws.send_binary(b"x")
            assert talker.closed() == 1003

    def test_what_is_unknown_is_said_and_changes_nothing(self) -> None:
        """A later version may have other messages."""
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            talker.say(type="later")
            answer = talker.read("error")
            assert (answer["on"], answer["code"]) == ("later", "unknown")
            talker.silence()

    def test_a_newer_connection_of_the_session_ends_the_older(self, kind: Any) -> None:
        """A client that comes back is not held up by its own half-open connection."""
        with topics_on(kind) as topics, Talker(topics.port) as old:
            old.subscribe()
            with Talker(topics.port) as new:
                assert old.closed() == 4001
                new.subscribe()
                topics.hub.publish("news", 1)
                assert new.publications(1) == [(1, 1)]
                status = topics.protocol.status()
                assert (status.sessions, status.subscriptions, status.taken_over) == (1, 1, 1)


class TestSubscriptions:
    def test_publications_come_from_now_on_in_order(self, kind: Any) -> None:
        """What was published before a first subscription is not sent."""
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            topics.hub.publish("news", "old")
            answer = talker.subscribe()
            assert (answer["offset"], answer["recovered"], answer["missed"]) == (1, True, 0)
            for number in range(20):
                topics.hub.publish("news", number)
            assert talker.publications(20) == [(number + 2, number) for number in range(20)]

    def test_what_was_missed_comes_first(self, kind: Any) -> None:
        """``since`` is where the client has stopped to read."""
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            epoch = talker.subscribe()["epoch"]
            talker.say(type="unsub", topic="news")
            assert talker.read() == {"type": "unsub", "topic": "news"}
            for number in range(5):
                topics.hub.publish("news", number)
            answer = talker.subscribe(since={"epoch": epoch, "offset": 2})
            assert (answer["offset"], answer["recovered"], answer["missed"]) == (2, True, 3)
            topics.hub.publish("news", "new")
            assert talker.publications(4) == [(3, 2), (4, 3), (5, 4), (6, "new")]
            assert topics.protocol.status().recovered == 1

    def test_nothing_was_missed(self) -> None:
        """The hub need not be asked when the client is as far as the server."""
        with (
            topics_on(EVENTS) as topics,
            Talker(topics.port) as talker,
            Talker(topics.port, OTHER_SESSION) as other,
        ):
            other.subscribe()
            topics.hub.publish("news", 1)
            epoch = topics.hub.history("news").position.epoch
            topics.hub.__dict__["history"] = None
            answer = talker.subscribe(since={"epoch": epoch, "offset": 1})
            assert (answer["offset"], answer["recovered"], answer["missed"]) == (1, True, 0)

    def test_another_epoch_is_told_and_what_is_there_comes(self, kind: Any) -> None:
        """The server has lost its history: it counts from 1 again."""
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            topics.hub.publish("news", "first")
            answer = talker.subscribe(since={"epoch": "gone", "offset": 7})
            assert (answer["recovered"], answer["reason"]) == (False, "epoch")
            assert (answer["offset"], answer["missed"]) == (0, 1)
            assert talker.publications(1) == [(1, "first")]
            assert topics.protocol.status().unrecovered == 1

    def test_a_history_that_is_too_short_is_told(self) -> None:
        """What is still there comes."""
        with (
            MemoryHub(history_count=2) as hub,
            topics_on(EVENTS, hub) as topics,
            Talker(topics.port) as talker,
        ):
            epoch = hub.publish("news", 0).epoch
            for number in range(1, 5):
                hub.publish("news", number)
            answer = talker.subscribe(since={"epoch": epoch, "offset": 1})
            assert (answer["recovered"], answer["reason"]) == (False, "trimmed")
            assert (answer["offset"], answer["missed"]) == (3, 2)
            assert talker.publications(2) == [(4, 3), (5, 4)]

    def test_subscribing_again_begins_again(self) -> None:
        """A second ``sub`` takes the place of the first: each publication comes once."""
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            talker.subscribe()
            talker.subscribe()
            topics.hub.publish("news", 1)
            assert talker.publications(1) == [(1, 1)]
            talker.silence()
            assert topics.protocol.status().subscriptions == 1

    def test_nothing_comes_after_the_end(self, kind: Any) -> None:
        """``unsub`` is answered behind the last publication."""
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            talker.subscribe()
            talker.say(type="unsub", topic="news")
            talker.read("unsub")
            topics.hub.publish("news", 1)
            talker.silence()

    def test_what_is_published_meanwhile_comes_behind_what_was_missed(self, kind: Any) -> None:
        """A member that catches up is not overtaken."""
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            epoch = topics.hub.publish("news", 0).epoch
            with Talker(topics.port, OTHER_SESSION) as other:
                other.subscribe()
                history = topics.hub.history

                def late(*arguments: Any) -> Any:
                    found = history(*arguments)
                    for number in (1, 2):
                        topics.hub.publish("news", number)
                    return found

                topics.hub.publish("news", "between")
                topics.hub.history = late  # type: ignore[method-assign]
                talker.subscribe(since={"epoch": epoch, "offset": 1})
                assert talker.publications(3) == [(2, "between"), (3, 1), (4, 2)]
                talker.silence()

    def test_much_that_was_missed_comes_in_pieces(self, kind: Any) -> None:
        """No more waits in the queue than the limit; the client asks for the rest."""
        limits = TopicLimits(max_behind=10_000)
        with topics_on(kind, limits=limits) as topics, Talker(topics.port) as talker:
            epoch = talker.subscribe()["epoch"]
            talker.say(type="unsub", topic="news")
            talker.read("unsub")
            for number in range(12):
                topics.hub.publish("news", [number, "x" * 1_000])
            got: list[int] = []
            pieces = 0
            while len(got) < 12:
                talker.say(type="sub", topic="news", since={"epoch": epoch, "offset": len(got)})
                pieces += 1
                answer = talker.read("sub")
                assert answer["recovered"]
                assert 0 < answer["missed"] <= 5
                got += [data[0] for _, data in talker.publications(answer["missed"])]
                if len(got) < 12:
                    talker.read("paused")
            assert got == list(range(12))
            assert pieces >= 3
            topics.hub.publish("news", "new")
            assert talker.publications(1) == [(13, "new")]

    def test_the_hub_has_one_subscription_for_all(self, kind: Any) -> None:
        """It ends with the last connection's."""
        with topics_on(kind) as topics:
            with Talker(topics.port) as one, Talker(topics.port, OTHER_SESSION) as other:
                one.subscribe()
                other.subscribe()
                assert topics.hub.status().subscribers == 1
                topics.hub.publish("news", 1)
                assert one.publications(1) == other.publications(1) == [(1, 1)]
            wait_for(lambda: topics.hub.status().subscribers == 0)
            assert topics.protocol.status().topics == 0

    def test_a_publication_is_encoded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All subscribers of a process share its bytes."""
        made: list[str] = []
        encode = wire.publication
        monkeypatch.setattr(
            wire, "publication", lambda *each: made.append(encode(*each)) or made[-1]
        )
        with topics_on(EVENTS) as topics:
            talkers = [Talker(topics.port, f"{SESSION}{number}") for number in range(5)]
            for talker in talkers:
                talker.subscribe()
            topics.hub.publish("news", {"a": 1})
            for talker in talkers:
                assert talker.publications(1) == [(1, {"a": 1})]
                talker.ws.shutdown()
        assert len(made) == 1

    def test_an_epoch_that_changes_without_a_loss_is_named(self) -> None:
        """Redis was restarted with all of its data: the numbers go on."""
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            talker.subscribe()
            topics.hub.publish("news", 1)
            topic = topics.hub._topics["news"]  # type: ignore[attr-defined]
            topic.epoch = "another"
            topics.hub.publish("news", 2)
            topics.hub.publish("news", 3)
            assert "epoch" not in talker.read("pub")
            assert talker.read("pub")["epoch"] == "another"
            assert "epoch" not in talker.read("pub")


class TestPublications:
    def test_they_are_acknowledged_with_their_offset(self, kind: Any) -> None:
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            answer = talker.publish({"a": "ü"}, 1)
            position = topics.hub.history("news").position
            assert answer == {
                "type": "ack",
                "seq": 1,
                "topic": "news",
                "epoch": position.epoch,
                "offset": 1,
            }
            assert topics.hub.history("news").publications[0].json == '{"a":"ü"}'

    def test_one_that_is_sent_again_is_not_published_twice(self, kind: Any) -> None:
        """Also on another connection of the session, and beside those of other sessions."""
        with topics_on(kind) as topics:
            with Talker(topics.port) as talker:
                talker.publish("once", 1)
            with Talker(topics.port) as talker, Talker(topics.port, OTHER_SESSION) as other:
                answer = talker.publish("once", 1)
                assert (answer["type"], answer["offset"], answer["repeated"]) == ("ack", 1, True)
                assert talker.publish("two", 2)["offset"] == 2
                assert other.publish("three", 1)["offset"] == 3
                assert [each.data for each in topics.hub.history("news").publications] == [
                    "once",
                    "two",
                    "three",
                ]
                status = topics.protocol.status()
                assert (status.published, status.repeated) == (3, 1)

    @pytest.mark.parametrize("topic", ["$own", "", "x" * 201, "a\nb", "\ud800"])
    def test_names_that_cannot_be_are_refused(self, topic: str) -> None:
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            assert talker.publish(1, 1, topic)["code"] == "topic"
            talker.say(type="sub", topic=topic)
            answer = talker.read("error")
            assert (answer["on"], answer["code"]) == ("sub", "topic")
            assert answer.get("topic", "") == topic

    def test_data_that_is_too_large_is_refused(self) -> None:
        limits = TopicLimits(max_payload=10)
        with topics_on(EVENTS, limits=limits) as topics, Talker(topics.port) as talker:
            assert talker.publish("x" * 8, 1)["type"] == "ack"
            assert talker.publish("x" * 9, 2)["code"] == "too_large"
            assert talker.publish("üüüü", 3)["type"] == "ack"
            assert talker.publish("üüüüü", 4)["code"] == "too_large"

    @pytest.mark.parametrize(
        "data",
        ["1e999", "[-1e999]", "[" * 201 + "]" * 201, '{"a":' * 201 + "1" + "}" * 201],
        ids=["number", "numbers", "arrays", "objects"],
    )
    def test_data_that_others_could_not_read_is_refused(
        self, data: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is not an error of the server, and the connection goes on."""
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            talker.say(f'{{"type":"pub","topic":"news","seq":1,"data":{data}}}')
            answer = talker.read("nack")
            assert (answer["code"], "retry" in answer) == ("refused", False)
            assert talker.publish(1, 2)["offset"] == 1
            assert topics.protocol.status().refused == 1
        assert "ERROR" not in caplog.text

    def test_brackets_beside_each_other_or_in_strings_are_not_depth(self) -> None:
        data = [[[]]] * 300 + ["[" * 300, '"\\' + "{" * 300]
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            assert talker.publish(data, 1)["offset"] == 1

    def test_too_many_in_a_second_are_put_off(self, kind: Any) -> None:
        """The server then ignores all until ``again``, so that their order stays."""
        limits = TopicLimits(max_publications_per_second=20)
        with topics_on(kind, limits=limits) as topics, Talker(topics.port) as talker:
            for number in range(1, 31):
                talker.say(type="pub", topic="news", seq=number, data=number)
            answers = [talker.read() for _ in range(21)]
            assert {each["type"] for each in answers[:20]} == {"ack"}
            refused = answers[20]
            assert (refused["seq"], refused["code"]) == (21, "rate")
            assert 0 < refused["retry"] <= 1_000
            talker.silence()
            assert topics.hub.history("news").position.offset == 20
            talker.say(type="again")
            answer = talker.publish(21, 21)
            assert answer["type"] in ("ack", "nack")

    def test_an_exception_of_the_hub_is_told(self, kind: Any) -> None:
        """While it is away publishing fails for now, subscribing too, and subscribers stay."""
        with MemoryHub() as hub, topics_on(kind, hub) as topics, Talker(topics.port) as talker:
            talker.subscribe()
            end = refusing(hub, lambda: HubUnavailable("away: redis://secret-host"))
            answer = talker.publish(1, 1)
            assert (answer["type"], answer["code"]) == ("nack", "unavailable")
            assert answer["retry"] > 0
            assert "secret" not in json.dumps(answer)
            talker.say(type="pub", topic="news", seq=2, data=2)
            talker.say(type="sub", topic="other")
            answer = talker.read("error")
            assert (answer["on"], answer["code"]) == ("sub", "unavailable")
            end()
            talker.say(type="again")
            assert talker.publish(1, 1)["type"] == "pub"
            assert talker.read()["offset"] == 1
            assert talker.subscribe("other")["recovered"]
            assert topics.protocol.status().unavailable == 2

    def test_a_full_hub_is_told(self) -> None:
        with MemoryHub() as hub, topics_on(EVENTS, hub) as topics, Talker(topics.port) as talker:
            refusing(hub, lambda: HubFull("no room"))
            answer = talker.publish(1, 1)
            assert (answer["code"], answer["retry"] > 0) == ("full", True)


class TestControl:
    @pytest.mark.parametrize(
        ("answer", "code", "reason"),
        [
            (False, "refused", "the server does not allow it"),
            ("members only", "refused", "members only"),
            (None, "failed", "internal server error"),
        ],
    )
    def test_the_application_refuses(self, answer: Any, code: str, reason: str) -> None:
        """By False, or a text; nothing at all is a fault of the application."""
        with (
            topics_on(
                EVENTS, on_subscribe=lambda *_: answer, on_publish=lambda *_: answer
            ) as topics,
            Talker(topics.port) as talker,
        ):
            refused = talker.publish(1, 1)
            assert (refused["type"], refused["code"], refused["reason"]) == ("nack", code, reason)
            assert "retry" not in refused
            talker.say(type="sub", topic="news")
            refused = talker.read("error")
            assert (refused["code"], refused["reason"]) == (code, reason)
            assert topics.protocol.status().refused == 1

    def test_an_exception_refuses_and_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail(*_: object) -> bool:
            raise SystemExit("a bug")

        with (
            topics_on(EVENTS, on_subscribe=fail, on_publish=fail) as topics,
            Talker(topics.port) as talker,
        ):
            assert talker.publish(1, 1)["code"] == "failed"
            talker.say(type="sub", topic="news")
            assert talker.read("error")["code"] == "failed"
        assert "on_publish failed" in caplog.text
        assert "on_subscribe failed" in caplog.text

    @pytest.mark.parametrize(
        ("given", "published"),
        [(True, 1), ({"b": 2}, {"b": 2}), ([3], [3]), (4, 4), (Changed("text"), "text")],
    )
    def test_the_application_changes_the_data(self, given: Any, published: Any) -> None:
        with (
            topics_on(EVENTS, on_publish=lambda *_: given) as topics,
            Talker(topics.port) as talker,
        ):
            assert talker.publish(1, 1)["type"] == "ack"
            assert topics.hub.history("news").publications[0].data == published

    def test_it_is_told_the_connection_the_topic_and_the_data(self) -> None:
        asked: list[Any] = []

        def allow(process: Any, *what: Any) -> bool:
            asked.append((process.connection_id, *what))
            return True

        with (
            topics_on(EVENTS, on_subscribe=allow, on_publish=allow) as topics,
            Talker(topics.port) as talker,
        ):
            talker.subscribe()
            talker.say(type="pub", topic="news", seq=1, data={"a": 1})
            talker.read("pub")
            number = topics.server.connections()[0].connection_id
            assert asked == [(number, "news"), (number, "news", {"a": 1})]

    def test_a_callback_that_blocks_holds_up_nobody_else(self, kind: Any) -> None:
        """Each connection has its own turn."""
        go_on = threading.Event()

        def wait(process: Any, topic: str, data: Any) -> bool:
            return data != "wait" or go_on.wait(BOUND)

        with (
            topics_on(kind, on_publish=wait) as topics,
            Talker(topics.port) as blocked,
            Talker(topics.port, OTHER_SESSION) as other,
        ):
            other.subscribe()
            blocked.say(type="pub", topic="news", seq=1, data="wait")
            other.say(type="pub", topic="news", seq=1, data="go on")
            assert other.publications(1) == [(1, "go on")]
            go_on.set()
            assert blocked.read("ack")["offset"] == 2

    def test_a_connection_has_so_many_topics(self) -> None:
        limits = TopicLimits(max_topics=2)
        with topics_on(EVENTS, limits=limits) as topics, Talker(topics.port) as talker:
            talker.subscribe("a")
            talker.subscribe("b")
            talker.subscribe("b")
            talker.say(type="sub", topic="c")
            assert talker.read("error")["code"] == "limit"
            talker.say(type="unsub", topic="a")
            talker.read("unsub")
            talker.subscribe("c")

    def test_too_many_subscriptions_in_a_second_are_put_off(self) -> None:
        """Each may cost the hub a history; that of all topics after a reconnection is allowed."""
        limits = TopicLimits(max_topics=3)
        with topics_on(EVENTS, limits=limits) as topics, Talker(topics.port) as talker:
            for _ in range(150):
                talker.say(type="sub", topic="news")
            answers = [talker.read() for _ in range(150)]
            assert {each["type"] for each in answers[:100]} == {"sub"}
            refused = [each for each in answers if each["type"] == "error"]
            assert refused
            assert {(each["code"], each["retry"] > 0) for each in refused} == {("rate", True)}

    def test_a_topic_has_so_many_clients(self) -> None:
        limits = TopicLimits(max_clients=1)
        with (
            topics_on(EVENTS, limits=limits) as topics,
            Talker(topics.port) as one,
            Talker(topics.port, OTHER_SESSION) as other,
        ):
            one.subscribe()
            other.say(type="sub", topic="news")
            assert other.read("error")["code"] == "full"
            one.say(type="unsub", topic="news")
            one.read("unsub")
            other.subscribe()

    def test_the_server_ends_a_subscription(self, kind: Any) -> None:
        with topics_on(kind) as topics, Talker(topics.port) as talker:
            talker.subscribe()
            protocol: Any = topics.server.connections()[0].protocol
            assert protocol.topics == ["news"]
            assert protocol.end_subscription("news", "go away")
            assert talker.read("unsub")["reason"] == "go away"
            assert not protocol.end_subscription("news")
            topics.hub.publish("news", 1)
            talker.silence()

    def test_subscribers_may_ask_who_is_there(self, kind: Any) -> None:
        """Where the server allows it: with what the application tells of them."""
        with (
            topics_on(
                kind, presence=True, on_member=lambda process, topic: {"on": topic}
            ) as topics,
            Talker(topics.port) as one,
            Talker(topics.port, OTHER_SESSION) as other,
        ):
            one.say(type="members", topic="news")
            assert one.read("error")["code"] == "refused"
            one.subscribe()
            other.subscribe()
            one.say(type="members", topic="news")
            there = {each.welcome["member"]: {"on": "news"} for each in (one, other)}
            assert one.read("members")["members"] == there
            other.ws.shutdown()
            wait_for(lambda: topics.hub.count("news") == 1)
            one.say(type="unsub", topic="news")
            one.read("unsub")
            assert topics.hub.members("news") == {}

    def test_without_presence_nobody_is_told(self) -> None:
        with topics_on(EVENTS) as topics, Talker(topics.port) as talker:
            talker.subscribe()
            talker.say(type="members", topic="news")
            assert talker.read("error")["code"] == "no_presence"
            assert topics.hub.members("news") == {}


class TestSlowClients:
    SETTINGS: ClassVar[dict[str, Any]] = {"send_timeout": ms(10_000)}

    def test_one_is_skipped_and_told_and_others_get_all(self, kind: Any) -> None:
        """It asks for what it has missed when it reads again."""
        limits = TopicLimits(max_behind=500_000)
        with (
            topics_on(kind, limits=limits, settings=self.SETTINGS) as topics,
            Talker(topics.port) as slow,
            Talker(topics.port, OTHER_SESSION) as quick,
        ):
            epoch = slow.subscribe()["epoch"]
            quick.subscribe()
            count = 0
            while not topics.protocol.status().slow:
                count += 1
                topics.hub.publish("news", [count, "x" * 300_000])
                assert quick.publications(1)[0][1][0] == count
                assert count < 200
            got = 0
            while (message := slow.read())["type"] == "pub":
                got += 1
                assert message["offset"] == got
            assert message["type"] == "paused"
            assert got < count
            answer = slow.subscribe(since={"epoch": epoch, "offset": got})
            assert answer["recovered"]
            assert answer["offset"] == got
            assert slow.read("pub")["offset"] == got + 1

    def test_one_is_closed(self, kind: Any) -> None:
        """It is not waited for, and comes back by itself."""
        limits = TopicLimits(max_behind=500_000, slow="close")
        with (
            topics_on(kind, limits=limits, settings=self.SETTINGS) as topics,
            Talker(topics.port) as slow,
        ):
            slow.subscribe()
            while not topics.protocol.status().slow:
                topics.hub.publish("news", "x" * 300_000)
            wait_for(lambda: topics.server.websocket_connections == 0)
            assert topics.protocol.status().subscriptions == 0


@pytest.mark.parametrize("rest", [WebSocketServerRest, WebSocketAsyncServerRest])
def test_servers_with_rest_protocols_have_topics_too(rest: Any) -> None:
    with topics_on(rest) as topics, Talker(topics.port) as talker:
        talker.subscribe()
        topics.hub.publish("news", 1)
        assert talker.publications(1) == [(1, 1)]


def test_a_server_that_is_freed_leaves_nothing_at_the_hub(kind: Any) -> None:
    """The hub is the application's, and goes on."""
    with MemoryHub() as hub:
        with topics_on(kind, hub, presence=True) as topics:
            talker = Talker(topics.port)
            talker.subscribe()
            assert hub.count("news") == 1
            talker.ws.shutdown()
        assert (hub.status().subscribers, hub.count("news")) == (0, 0)


def test_what_is_for_clients_says_so() -> None:
    """And what is for servers, too."""
    with MemoryHub() as hub:
        server = WebSocketProtocolTopics(hub=hub)
        client = WebSocketProtocolTopics()
        for call in (
            lambda: server.publish("news", 1),
            lambda: server.subscribe("news", print),
            lambda: server.state(),
            lambda: client.status(),
            lambda: client.end_subscription("news"),
        ):
            with pytest.raises(WebSocketsError, match="only for"):
                call()
        assert client.clone("") is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hub": "redis://x"}, TypeError),
        ({"limits": 3}, TypeError),
        ({"presence": 1}, TypeError),
        ({"max_unacknowledged": -1}, ValueError),
        ({"max_unacknowledged_bytes": "x"}, TypeError),
        ({"unacknowledged_policy": "close"}, ValueError),
        ({"on_publish": lambda process: True}, TypeError),
        ({"name": "a b"}, ValueError),
    ],
)
def test_wrong_options_raise_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        WebSocketProtocolTopics(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_topics": -1}, ValueError),
        ({"max_topics": True}, TypeError),
        ({"max_behind": 0}, ValueError),
        ({"max_topic_length": 256}, ValueError),
        ({"slow": "wait"}, ValueError),
    ],
)
def test_wrong_limits_raise_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TopicLimits(**options)


def test_a_lasting_fault_of_the_hub_is_logged_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MemoryHub() as hub, topics_on(EVENTS, hub) as topics, Talker(topics.port) as talker:
        refusing(hub, lambda: HubUnavailable("away"))
        for number in range(5):
            talker.say(type="again")
            talker.publish(1, number + 1)
        lines = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert len(lines) == 1
        assert "away" in lines[0].getMessage()


def test_what_a_finaliser_publishes_while_a_member_catches_up_is_sent_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, at whichever line the finaliser runs."""
    catch_up = Feed.catch_up
    limits = TopicLimits(max_topics=0)
    with topics_on(WebSocketServer, limits=limits) as topics, Talker(topics.port) as talker:
        for line in each_line(feed):
            topic, done = f"news {line.number}", threading.Event()

            def interrupted(
                self: Feed,
                member: Member,
                line: Line = line,
                topic: str = topic,
                done: threading.Event = done,
            ) -> None:
                with line.interrupted_by(lambda: topics.hub.publish(topic, "interrupting")):
                    catch_up(self, member)
                done.set()

            monkeypatch.setattr(Feed, "catch_up", interrupted)
            talker.subscribe(topic)
            assert done.wait(BOUND)
            newest = topics.hub.publish(topic, "last").offset
            offsets = [offset for offset, _ in talker.publications(newest)]
            assert offsets == list(range(1, newest + 1)), line.number
        assert line.number > 5
