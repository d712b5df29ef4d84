"""The client's side of topics: subscribe and publish, in any thread and at any time."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import threading
import time
from typing import Any
from unittest import mock

import pytest
from support import HOST
from support.lines import each_call, each_call_end, each_line
from support.topics import SESSION, Heard, Talker, client_of, refusing, topics_on
from support.waiting import BOUND, MS, in_threads, ms, wait_for

from mormot_ws import (
    HttpClientWebSockets,
    HubUnavailable,
    MemoryHub,
    PermessageDeflate,
    Position,
    Publishing,
    TopicLimits,
    TopicSubscription,
    WebSocketAsyncServer,
    WebSocketProtocolTopics,
    WebSocketsError,
)
from mormot_ws.topics import client_side, outlet, publishing
from mormot_ws.topics.publishing import Unacknowledged

EVENTS = WebSocketAsyncServer


class TestTooLarge:
    """What the server does not take would end one connection after another."""

    @staticmethod
    def small(kind: Any) -> Any:
        """A server whose messages have at most 4 kB, which is less than its limit of data."""
        return topics_on(kind, settings={"max_message_bytes": 4_096})

    def test_it_is_refused_at_once_where_the_limit_is_known(self, kind: Any) -> None:
        protocol = WebSocketProtocolTopics()
        with self.small(kind) as topics, client_of(topics.port, protocol) as client:
            assert protocol.publish("news", "small").wait(ms(2_000))
            large = protocol.publish("news", "x" * 5_000)
            assert (large.state, large.code) == ("refused", "too_large")
            assert protocol.publish("news", "small").wait(ms(2_000))
            assert client.status().reconnects == 0

    def test_it_costs_one_connection_where_the_limit_is_not_known_yet(self, kind: Any) -> None:
        protocol = WebSocketProtocolTopics()
        large = protocol.publish("news", "x" * 5_000)
        small = protocol.publish("news", "small")
        with self.small(kind) as topics, client_of(topics.port, protocol):
            assert small.wait(ms(5_000))
            assert (large.state, large.code) == ("refused", "too_large")
            assert "5002 bytes" in large.reason


class TestSubscribe:
    def test_publications_come_in_the_clients_thread(self, kind: Any) -> None:
        """With topic, number and data."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with topics_on(kind) as topics, client_of(topics.port, protocol) as client:
            subscription = protocol.subscribe("news", heard)
            assert subscription.wait(ms(2_000))
            published = topics.hub.publish("news", {"a": ["ü", 1]})
            assert heard.wait(1) == [{"a": ["ü", 1]}]
            publication = heard.publications[0]
            assert (publication.topic, publication.offset) == ("news", 1)
            assert publication.epoch == published.epoch
            assert publication.json == '{"a":["ü",1]}'
            assert subscription.position == publication.position
            assert heard.threads == {client.websockets.client_thread}  # type: ignore[union-attr]

    def test_it_may_come_before_the_first_connection(self, kind: Any) -> None:
        """It is sent as soon as there is one."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        subscription = protocol.subscribe("news", heard)
        assert subscription.state == "waiting"
        assert not subscription.wait(1)
        with topics_on(kind) as topics, client_of(topics.port, protocol):
            assert subscription.wait(ms(2_000))
            topics.hub.publish("news", 1)
            assert heard.wait(1) == [1]

    def test_it_may_begin_in_the_past(self) -> None:
        """At a position that the application has kept."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with topics_on(EVENTS) as topics:
            epoch = topics.hub.publish("news", 1).epoch
            topics.hub.publish("news", 2)
            protocol.subscribe("news", heard, Position(epoch, 1), heard.recovered)
            with client_of(topics.port, protocol):
                assert heard.wait(1) == [2]
                assert heard.recoveries == [("news", True, "", 1, Position(epoch, 1))]

    def test_a_topic_has_one_subscription(self) -> None:
        protocol = WebSocketProtocolTopics()
        protocol.subscribe("news", print)
        with pytest.raises(ValueError, match="already"):
            protocol.subscribe("news", print)
        assert protocol.unsubscribe("news")
        assert not protocol.unsubscribe("news")
        protocol.subscribe("news", print)
        assert protocol.topics == ["news"]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("", print), ValueError),
            ((1, print), TypeError),
            (("news", None), TypeError),
            (("news", lambda: None), TypeError),
            (("news", print, ("e", 1)), TypeError),
            (("news", print, None, lambda: None), TypeError),
        ],
    )
    def test_wrong_arguments_raise_at_once(self, arguments: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            WebSocketProtocolTopics().subscribe(*arguments)

    def test_nothing_comes_after_unsubscribe(self, kind: Any) -> None:
        """Also when it is called in the callback."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()

        def once(publication: Any) -> None:
            heard(publication)
            protocol.unsubscribe("news")

        with topics_on(kind) as topics, client_of(topics.port, protocol):
            subscription = protocol.subscribe("news", once)
            assert subscription.wait(ms(2_000))
            for number in range(3):
                topics.hub.publish("news", number)
            wait_for(lambda: topics.protocol.status().subscriptions == 0)
            other = protocol.subscribe("other", heard)
            assert other.wait(ms(2_000))
            assert heard.data == [0]
            assert subscription.state == "ended"

    def test_what_a_callback_raises_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """The connection and the subscription go on."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()

        def fail(publication: Any) -> None:
            heard(publication)
            raise SystemExit("a bug")

        with topics_on(EVENTS) as topics, client_of(topics.port, protocol):
            assert protocol.subscribe("news", fail).wait(ms(2_000))
            topics.hub.publish("news", 1)
            topics.hub.publish("news", 2)
            assert heard.wait(2) == [1, 2]
        assert "on_publication failed" in caplog.text

    def test_a_refusal_is_told(self, kind: Any) -> None:
        """It is final: the client does not ask again."""
        refused: list[TopicSubscription] = []
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind, on_subscribe=lambda *_: "members only") as topics,
            client_of(topics.port, protocol),
        ):
            subscription = protocol.subscribe("news", print, on_refused=refused.append)
            wait_for(lambda: refused)
            assert refused == [subscription]
            assert not subscription.wait()
            assert (subscription.state, subscription.reason) == ("refused", "members only")
            assert protocol.subscriptions == []

    def test_the_servers_end_of_it_is_told(self) -> None:
        refused: list[TopicSubscription] = []
        protocol = WebSocketProtocolTopics()
        with topics_on(EVENTS) as topics, client_of(topics.port, protocol):
            subscription = protocol.subscribe("news", print, on_refused=refused.append)
            assert subscription.wait(ms(2_000))
            served: Any = topics.server.connections()[0].protocol
            assert served.end_subscription("news", "no more")
            wait_for(lambda: refused)
            assert subscription.reason == "no more"

    def test_it_waits_for_a_hub_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The client asks again by itself."""
        monkeypatch.setattr("mormot_ws.topics.visitor._RETRY_MS", ms(20))
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with (
            MemoryHub() as hub,
            topics_on(EVENTS, hub) as topics,
            client_of(topics.port, protocol),
        ):
            end = refusing(hub, lambda: HubUnavailable("away"))
            subscription = protocol.subscribe("news", heard)
            wait_for(lambda: topics.protocol.status().unavailable >= 2)
            assert subscription.state == "waiting"
            end()
            assert subscription.wait(ms(2_000))

    def test_one_that_is_skipped_misses_nothing(self, kind: Any) -> None:
        """A callback that blocks: the server stops to send, and the client asks for the rest."""
        heard = Heard()
        go_on = threading.Event()
        protocol = WebSocketProtocolTopics()

        def block(publication: Any) -> None:
            go_on.wait(BOUND)
            heard(publication)

        limits = TopicLimits(max_behind=500_000)
        with topics_on(kind, limits=limits) as topics, client_of(topics.port, protocol):
            assert protocol.subscribe("news", block, None, heard.recovered).wait(ms(2_000))
            count = 0
            while not topics.protocol.status().slow:
                count += 1
                topics.hub.publish("news", [count, "x" * 300_000])
            go_on.set()
            heard.wait(count)
            assert [each.offset for each in heard.publications] == list(range(1, count + 1))
            assert heard.recoveries == []


class TestPublish:
    def test_it_is_acknowledged(self, kind: Any) -> None:
        """With the number that the hub has given it."""
        protocol = WebSocketProtocolTopics()
        with topics_on(kind) as topics, client_of(topics.port, protocol):
            publishing = protocol.publish("news", {"a": 1})
            assert publishing.wait(ms(2_000))
            assert (publishing.state, publishing.offset) == ("acknowledged", 1)
            assert publishing.epoch == topics.hub.history("news").position.epoch
            assert publishing.wait()
            assert protocol.unacknowledged == []

    def test_it_may_come_before_the_first_connection(self, kind: Any) -> None:
        protocol = WebSocketProtocolTopics()
        kept = [protocol.publish("news", number) for number in range(200)]
        assert protocol.unacknowledged == kept
        assert not kept[0].wait(1)
        with topics_on(kind, limits=TopicLimits(max_publications_per_second=0)) as topics:
            with client_of(topics.port, protocol):
                assert kept[-1].wait(ms(5_000))
            assert [each.offset for each in kept] == list(range(1, 201))

    def test_threads_publish_at_once(self, kind: Any) -> None:
        """The publications of each come in its order."""
        protocol = WebSocketProtocolTopics()
        limits = TopicLimits(max_publications_per_second=0)
        with topics_on(kind, limits=limits) as topics, client_of(topics.port, protocol):

            def work(thread: int) -> list[Publishing]:
                return [protocol.publish("news", [thread, number]) for number in range(50)]

            for made in in_threads(4, work):
                assert made[-1].wait(ms(5_000))
            found = [each.data for each in topics.hub.history("news").publications]
            for thread in range(4):
                assert [data for data in found if data[0] == thread] == [
                    [thread, number] for number in range(50)
                ]
            assert len(found) == 200

    def test_callbacks_publish_and_subscribe(self, kind: Any) -> None:
        """Waiting in them would wait for itself, and says so."""
        heard = Heard()
        raised: list[Exception] = []
        done: list[Publishing] = []
        protocol = WebSocketProtocolTopics()

        def answer(publication: Any) -> None:
            publishing = protocol.publish("answers", publication.data, done.append)
            for wait in (publishing.wait, lambda: protocol.members("news")):
                try:
                    wait()
                except WebSocketsError as exc:
                    raised.append(exc)

        with topics_on(kind) as topics, client_of(topics.port, protocol):
            assert protocol.subscribe("news", answer).wait(ms(2_000))
            assert protocol.subscribe("answers", heard).wait(ms(2_000))
            topics.hub.publish("news", "question")
            assert heard.wait(1) == ["question"]
            wait_for(lambda: done)
            assert done[0].state == "acknowledged"
            assert len(raised) == 2

    def test_one_after_another_waits_for_nothing(self, kind: Any) -> None:
        """Few are sent at once; only many are gathered for ``send_delay``, both ways."""
        protocols = [WebSocketProtocolTopics(), WebSocketProtocolTopics()]
        heard = Heard()
        with (
            topics_on(kind, settings={"send_delay": ms(2_000)}) as topics,
            client_of(topics.port, protocols[0], send_delay=ms(2_000)),
            client_of(topics.port, protocols[1]),
        ):
            assert protocols[1].subscribe("news", heard).wait(ms(2_000))
            began = time.monotonic()
            for number in range(20):
                assert protocols[0].publish("news", number).wait(ms(2_000))
                heard.wait(number + 1)
            assert time.monotonic() - began < 2_000 * MS

    def test_a_refusal_is_told(self, kind: Any) -> None:
        """With the code and the reason, to on_done too; the next ones go on."""
        done: list[Publishing] = []
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind, on_publish=lambda *what: what[2] != "bad" or "no such words") as topics,
            client_of(topics.port, protocol),
        ):
            refused = protocol.publish("news", "bad", done.append)
            taken = protocol.publish("news", "good")
            assert taken.wait(ms(2_000))
            assert not refused.wait(ms(2_000))
            assert (refused.state, refused.code, refused.reason) == (
                "refused",
                "refused",
                "no such words",
            )
            assert done == [refused]
            assert taken.offset == 1

    def test_what_on_done_raises_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        protocol = WebSocketProtocolTopics()

        def fail(publishing: Publishing) -> None:
            raise ValueError(publishing.state)

        with topics_on(EVENTS) as topics, client_of(topics.port, protocol):
            protocol.publish("news", 1, fail)
            assert protocol.publish("news", 2).wait(ms(2_000))
        assert "on_done failed" in caplog.text

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("news", b"bytes"), TypeError),
            (("news", float("nan")), ValueError),
            (("", 1), ValueError),
            (("news", 1, lambda: None), TypeError),
        ],
    )
    def test_wrong_arguments_raise_at_once(self, arguments: Any, error: Any) -> None:
        protocol = WebSocketProtocolTopics()
        with pytest.raises(error):
            protocol.publish(*arguments)
        assert protocol.unacknowledged == []

    def test_too_many_at_once_come_later_in_order(self, kind: Any) -> None:
        """The server puts them off, and the client waits as long as it says."""
        protocol = WebSocketProtocolTopics()
        limits = TopicLimits(max_publications_per_second=200)
        with topics_on(kind, limits=limits) as topics, client_of(topics.port, protocol):
            made = [protocol.publish("news", number) for number in range(260)]
            assert made[-1].wait(ms(5_000))
            found = [each.data for each in topics.hub.history("news").publications]
            assert found == list(range(260))

    def test_it_waits_for_a_hub_that_is_away(
        self, kind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is lost, and the order stays."""
        monkeypatch.setattr("mormot_ws.topics.visitor._RETRY_MS", ms(20))
        protocol = WebSocketProtocolTopics()
        with (
            MemoryHub() as hub,
            topics_on(kind, hub) as topics,
            client_of(topics.port, protocol),
        ):
            end = refusing(hub, lambda: HubUnavailable("away"))
            made = [protocol.publish("news", number) for number in range(5)]
            wait_for(lambda: topics.protocol.status().unavailable >= 2)
            assert {each.state for each in made} == {"waiting"}
            end()
            assert made[-1].wait(ms(2_000))
            assert [each.offset for each in made] == [1, 2, 3, 4, 5]

    def test_a_full_list_refuses_the_new_one(self) -> None:
        protocol = WebSocketProtocolTopics(max_unacknowledged=2)
        kept = [protocol.publish("news", number) for number in range(3)]
        assert [each.state for each in kept] == ["waiting", "waiting", "failed"]
        assert "too many" in kept[2].reason

    def test_a_full_list_drops_its_oldest(self) -> None:
        protocol = WebSocketProtocolTopics(
            max_unacknowledged_bytes=30, unacknowledged_policy="drop_oldest"
        )
        done: list[Publishing] = []
        kept = [protocol.publish("news", "x" * 8, done.append) for _ in range(4)]
        assert [each.state for each in kept] == ["failed", "waiting", "waiting", "waiting"]
        assert done == kept[:1]
        large = protocol.publish("news", "x" * 50)
        assert (large.state, len(protocol.unacknowledged)) == ("failed", 3)

    def test_a_small_queue_of_the_connection_is_enough(self) -> None:
        """What does not fit is queued later."""
        protocol = WebSocketProtocolTopics()
        limits = TopicLimits(max_publications_per_second=0)
        with (
            topics_on(EVENTS, limits=limits) as topics,
            client_of(topics.port, protocol, max_outgoing_frames=2),
        ):
            made = [protocol.publish("news", number) for number in range(100)]
            assert made[-1].wait(ms(5_000))
            assert [each.offset for each in made] == list(range(1, 101))


class TestTheEnd:
    def test_free_fails_what_has_no_answer(self) -> None:
        """It is said to those who wait, and to on_done."""
        done: list[Publishing] = []
        protocol = WebSocketProtocolTopics()
        with client_of(1, protocol, connected=False):
            publishing = protocol.publish("news", 1, done.append)
        assert not publishing.wait(ms(2_000))
        assert publishing.state == "failed"
        assert "freed" in publishing.reason
        assert done == [publishing]
        assert protocol.publish("news", 2).state == "failed"

    def test_without_a_reconnection_it_fails_too(self) -> None:
        """A client without ``on_reconnect`` whose server goes."""
        protocol = WebSocketProtocolTopics()
        with topics_on(EVENTS) as topics:
            client = HttpClientWebSockets(HOST, topics.port)
            assert client.websockets_upgrade("topics", protocol=protocol) == ""
            assert protocol.publish("news", 1).wait(ms(2_000))
        with client:
            wait_for(lambda: protocol.publish("news", 2).state == "failed")


class TestMembers:
    def test_a_subscriber_asks_who_is_there(self, kind: Any) -> None:
        protocol = WebSocketProtocolTopics()
        with topics_on(kind, presence=True) as topics:
            assert protocol.members("news") is None
            with client_of(topics.port, protocol), Talker(topics.port) as other:
                assert protocol.subscribe("news", print).wait(ms(2_000))
                other.subscribe()
                assert protocol.members("news") == {
                    protocol.member: None,
                    other.welcome["member"]: None,
                }
                with pytest.raises(WebSocketsError, match="subscribers may ask"):
                    protocol.members("other")

    def test_a_server_that_does_not_answer_is_not_waited_for(self) -> None:
        """And what it answers later is not taken for another answer."""
        protocol = WebSocketProtocolTopics()
        go_on = threading.Event()
        with (
            topics_on(EVENTS, presence=True, on_publish=lambda *_: go_on.wait(BOUND)) as topics,
            client_of(topics.port, protocol),
        ):
            assert protocol.subscribe("news", print).wait(ms(2_000))
            protocol.publish("news", 1)
            assert protocol.members("news", 20) is None
            go_on.set()
            assert protocol.members("news", ms(2_000)) == {protocol.member: None}


class TestState:
    def test_another_program_goes_on(self, kind: Any) -> None:
        """With the positions, the session and what has no answer."""
        heard = Heard()
        first = WebSocketProtocolTopics()
        with topics_on(kind) as topics:
            with client_of(topics.port, first):
                assert first.subscribe("news", heard).wait(ms(2_000))
                assert first.publish("news", "one").wait(ms(2_000))
                heard.wait(1)
                state = json.loads(json.dumps(first.state()))
            topics.hub.publish("news", "two")
            second = WebSocketProtocolTopics()
            second.restore(state)
            second.subscribe("news", heard, on_recovered=heard.recovered)
            three = second.publish("news", "three")
            with client_of(topics.port, second):
                assert three.wait(ms(2_000))
                assert (three.sequence, three.repeated) == (2, False)
                assert heard.wait(3) == ["one", "two", "three"]
                assert heard.recoveries[0].recovered
                assert second.member == first.member

    def test_publications_without_an_answer_are_sent_by_the_next_program(self) -> None:
        first = WebSocketProtocolTopics()
        first.publish("news", {"a": "ü"})
        second = WebSocketProtocolTopics()
        second.restore(first.state())
        with topics_on(EVENTS) as topics, client_of(topics.port, second):
            (kept,) = second.unacknowledged or [None]
            if kept is not None:
                assert kept.wait(ms(2_000))
            assert second.publish("news", 2).wait(ms(2_000))
            found = [each.data for each in topics.hub.history("news").publications]
            assert found == [{"a": "ü"}, 2]

    def test_it_comes_first(self) -> None:
        protocol = WebSocketProtocolTopics()
        state = protocol.state()
        protocol.publish("news", 1)
        with pytest.raises(WebSocketsError, match="before any other method"):
            protocol.restore(state)

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 2},
            {"session": "short"},
            {"session": None},
            {"sequence": -1},
            {"positions": {"news": ["e"]}},
            {"positions": {"news": ["e", -1]}},
            {"positions": []},
            {"unacknowledged": [[1, "news"]]},
            {"unacknowledged": [[2, "news", "1"], [1, "news", "1"]]},
            {"unacknowledged": [[9, "news", "1"]]},
        ],
    )
    def test_what_is_no_state_is_refused(self, change: dict[str, Any]) -> None:
        state = {**WebSocketProtocolTopics().state(), **change}
        with pytest.raises(ValueError, match="state") as caught:
            WebSocketProtocolTopics().restore(state)
        assert str(state["session"]) not in str(caught.value) or state["session"] is None


class TestHostileServer:
    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            '{"type":"pub","topic":"news"}',
            '{"type":"ack","seq":"x"}',
            '{"type":"sub","topic":"news","epoch":1,"offset":0}',
            '{"type":"pub","topic":"news","offset":1,"data":1e999,"later":1}',
        ],
    )
    def test_what_is_no_message_ends_the_connection(self, text: str) -> None:
        """With 1007; the client comes back."""
        protocol = WebSocketProtocolTopics()
        with topics_on(EVENTS) as topics, client_of(topics.port, protocol) as client:
            process = topics.server.connections()[0]
            process.send_frame_async(_frame(text))
            wait_for(lambda: client.status().reconnects == 1)
            assert process.close_code == 1007

    @pytest.mark.parametrize(
        "text",
        [
            '{"type":"pub","topic":"other","offset":1,"data":1}',
            '{"type":"ack","seq":99,"topic":"news","epoch":"e","offset":1}',
            '{"type":"nack","seq":99,"topic":"news","code":"refused","reason":""}',
            '{"type":"sub","topic":"other","epoch":"e","offset":0,"recovered":true}',
            '{"type":"sub","topic":"news","epoch":"forged","offset":7,"recovered":true}',
            '{"type":"lost","topic":"other","epoch":"e","offset":0,"reason":"epoch"}',
            '{"type":"paused","topic":"other","reason":""}',
            '{"type":"unsub","topic":"other","code":"refused","reason":""}',
            '{"type":"members","topic":"other","members":{}}',
            '{"type":"error","on":"sub","topic":"other","code":"unavailable","retry":1}',
            '{"type":"error","on":"x","code":"unknown"}',
            '{"type":"later"}',
        ],
    )
    def test_what_nobody_asked_for_changes_nothing(self, text: str) -> None:
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with topics_on(EVENTS) as topics, client_of(topics.port, protocol) as client:
            assert protocol.subscribe("news", heard).wait(ms(2_000))
            topics.server.connections()[0].send_frame_async(_frame(text))
            topics.hub.publish("news", 1)
            assert heard.wait(1) == [1]
            assert client.status().reconnects == 0

    def test_one_timer_for_any_number_of_nacks(self) -> None:
        """A server that puts publications off again and again fills no memory."""
        protocol = WebSocketProtocolTopics()
        with topics_on(EVENTS) as topics, client_of(topics.port, protocol):
            process = topics.server.connections()[0]
            outlet = protocol._own._outlet
            text = '{"type":"nack","seq":99,"topic":"news","code":"rate","retry":1}'
            with mock.patch.object(outlet, "later", wraps=outlet.later) as later:
                # the answer to the question comes behind them; the timer may have fired by then
                later.side_effect = lambda *_: None
                for _ in range(20):
                    process.send_frame_async(_frame(text))
                assert protocol.subscribe("news", Heard()).wait(ms(2_000))
            assert later.call_count == 1

    def test_a_gap_is_filled(self) -> None:
        """Should publications be missing, the client asks for them."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with topics_on(EVENTS) as topics, client_of(topics.port, protocol):
            assert protocol.subscribe("news", heard).wait(ms(2_000))
            topics.hub.publish("news", 1)
            heard.wait(1)
            process = topics.server.connections()[0]
            text = '{"type":"pub","topic":"news","offset":%d,"data":"forged"}'
            process.send_frame_async(_frame(text % 1))
            process.send_frame_async(_frame(text % 5))
            topics.hub.publish("news", 2)
            assert heard.wait(2) == [1, 2]
            topics.hub.publish("news", 3)
            assert heard.wait(3) == [1, 2, 3]


def _frame(text: str) -> Any:
    from mormot_ws import WebSocketFrame, focText

    return WebSocketFrame(focText, text)


def test_compressed_connections_carry_topics(kind: Any) -> None:
    """The shared bytes are for connections that are not compressed."""
    heard = Heard()
    protocol = WebSocketProtocolTopics()
    deflate = {"permessage_deflate": PermessageDeflate()}
    with (
        topics_on(kind, settings=deflate) as topics,
        client_of(topics.port, protocol, **deflate),
        Talker(topics.port) as plain,
    ):
        assert protocol.subscribe("news", heard).wait(ms(2_000))
        plain.subscribe()
        data = {"a": "x" * 1_000}
        assert protocol.publish("news", data).wait(ms(2_000))
        assert heard.wait(1) == [data]
        assert plain.publications(1) == [(1, data)]
        assert protocol.compression is not None


def test_a_protocol_with_a_hub_is_no_clients() -> None:
    with (
        MemoryHub() as hub,
        HttpClientWebSockets(HOST, 1, connect=False) as client,
        pytest.raises(ValueError, match="no hub"),
    ):
        client.auto_reconnect("x", protocol=WebSocketProtocolTopics(hub=hub))


def test_the_session_is_in_no_repr_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Who knows it could take the connection over."""
    caplog.set_level("DEBUG")
    protocol = WebSocketProtocolTopics()
    with topics_on(EVENTS) as topics, client_of(topics.port, protocol):
        subscription = protocol.subscribe("news", print)
        publishing = protocol.publish("news", 1)
        assert publishing.wait(ms(2_000))
        session = protocol.state()["session"]
        shown = "".join(map(repr, (protocol, subscription, publishing, topics.protocol)))
    assert len(session) >= 16
    assert session not in shown
    assert session not in caplog.text
    assert SESSION not in caplog.text


def test_publications_on_the_way_are_counted() -> None:
    """At most the window, and at most so many bytes; the order stays when they come back."""
    kept = Unacknowledged()
    made = [Publishing("news", number, "x" * 10, None, lambda: False) for number in range(1, 6)]
    for each in made:
        kept.append(each)
    assert [kept.next(2, 1_000), kept.next(2, 1_000), kept.next(2, 1_000)] == [*made[:2], None]
    assert kept.next(9, 25) is None
    assert kept.answered(1) is made[0]
    assert kept.answered(1) is None
    assert kept.next(9, 25) is made[2]
    kept.back_one(made[2])
    kept.back()
    assert list(kept) == made[1:]
    assert (len(kept), kept.bytes) == (4, 40)
    assert kept.oldest() is made[1]
    assert kept.clear() == made[2:]
    assert (len(kept), kept.bytes, kept.oldest()) == (0, 0, None)


#: for tests that interrupt calls anywhere
locks_are_c = pytest.mark.skipif(
    bool(os.environ.get("MORMOT_WS_TEST_LOCKS")),
    reason="the locks that are watched are Python's, and may be interrupted inside",
)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
@locks_are_c
def test_signal_handlers_publish_and_raise() -> None:
    """Wherever they interrupt another publish(): nothing is stuck afterwards."""
    handled: list[Publishing] = []
    protocol = WebSocketProtocolTopics(max_unacknowledged=0)
    limits = TopicLimits(max_publications_per_second=0)

    def interrupt(*_: object) -> None:
        handled.append(protocol.publish("handler", len(handled)))
        topics.protocol.status()
        if not len(handled) % 5:
            # the next one must not come before this one is caught
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise LookupError

    def publish(end: float) -> None:
        while time.monotonic() < end:
            protocol.publish("main", 1)
            topics.protocol.status()

    with topics_on(EVENTS, limits=limits) as topics, client_of(topics.port, protocol):
        # Python drops what is raised in a finaliser: here only the library's own may run
        gc.collect()
        gc.disable()
        end = time.monotonic() + 0.3
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            while time.monotonic() < end:
                with contextlib.suppress(LookupError):
                    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
                    publish(end)
                    signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            gc.enable()
        assert len(handled) > 5
        wait_for(lambda: not protocol.unacknowledged, 3 * BOUND)
        assert protocol.publish("main", 2).wait(ms(5_000))


def test_a_publication_is_interrupted_by_another_one_at_each_line() -> None:
    """Each is published, with a number of its own."""
    protocol = WebSocketProtocolTopics(max_unacknowledged=0)
    limits = TopicLimits(max_publications_per_second=0)
    with topics_on(EVENTS, limits=limits) as topics, client_of(topics.port, protocol):
        made: list[Publishing] = []
        for line in each_line(client_side, outlet, publishing):
            with line.interrupted_by(lambda: made.append(protocol.publish("news", 1))):
                made.append(protocol.publish("news", 2))
        assert all(each.wait(ms(5_000)) for each in made)
        assert len({each.sequence for each in made}) == len(made)
        assert sorted(each.offset for each in made) == list(range(1, len(made) + 1))
        assert line.number > 30


@locks_are_c
def test_what_a_raising_signal_handler_has_left_is_sent() -> None:
    """Wherever it interrupts the sending of a publication or of a subscription."""
    protocol = WebSocketProtocolTopics(max_unacknowledged=0)
    limits = TopicLimits(max_publications_per_second=0, max_topics=0)
    with topics_on(EVENTS, limits=limits) as topics, client_of(topics.port, protocol):
        for end in each_call(outlet, publishing):
            with end.raises():
                protocol.publish("news", end.number)
            assert protocol.publish("news", "next").wait(ms(5_000))
            wait_for(lambda: not protocol.unacknowledged, what=f"an answer, {end.number}")
        assert end.number > 15
        kept = [each.data for each in topics.hub.history("news").publications]
        assert len(kept) == len(set(kept)) + kept.count("next") - 1
        for end in each_call_end(outlet):
            topic = f"news {end.number}"
            with end.raises():
                protocol.subscribe(topic, print)
            assert protocol.publish(topic, "next").wait(ms(5_000))
            assert protocol.subscriptions[-1].topic == topic
            assert protocol.subscriptions[-1].wait(ms(5_000)), end.number
        assert end.number > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_leaves_the_connection_to_its_parent() -> None:
    """What it publishes fails, and the parent goes on."""
    protocol = WebSocketProtocolTopics()
    with topics_on(EVENTS) as topics, client_of(topics.port, protocol):
        assert protocol.publish("news", 1).wait(ms(2_000))
        child = os.fork()
        if not child:
            failed = protocol.publish("news", 2).state == "failed"
            os._exit(0 if failed and topics.protocol.status().sessions == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert protocol.publish("news", 3).wait(ms(2_000))
        assert [each.data for each in topics.hub.history("news").publications] == [1, 3]
