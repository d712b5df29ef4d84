"""What both hubs have in common: every test runs with a MemoryHub and with a RedisHub."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support import Recorder, wait_for
from support.hubs import Heard
from support.lines import each_line
from support.waiting import BOUND, MS, ms

from mormot_ws import Hub, HubUnavailable, Lost, MemoryHub, Position, Publication
from mormot_ws.topics import memory_hub, memory_topic

Make = Callable[..., Hub]


class TestPublishing:
    def test_publications_are_numbered_from_1_in_each_topic(self, hub: Hub) -> None:
        """Without gaps, in one epoch."""
        first, second = hub.publish("news", 1), hub.publish("news", 2)
        other = hub.publish("sports", 3)
        assert (first.offset, second.offset, other.offset) == (1, 2, 1)
        assert first.epoch == second.epoch != ""
        assert not first.repeated

    @pytest.mark.parametrize(
        "data", [None, True, 1, -1.5, "", "ä\u2028€\U0001f600\0", [1, []], {"a": {"b": None}}]
    )
    def test_any_json_value_arrives_as_it_was(self, hub: Hub, data: object) -> None:
        """In the history, and at a subscriber."""
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", data)
        assert heard.wait(1) == [data]
        assert [each.data for each in hub.history("news").publications] == [data]

    def test_data_is_compact_json_text(self, hub: Hub) -> None:
        """Without blanks, and not in ASCII only."""
        hub.publish("news", {"a": [1, "ä"]})
        (publication,) = hub.history("news").publications
        assert publication.json == '{"a":[1,"ä"]}'

    def test_json_text_is_published_as_it_is(self, hub: Hub) -> None:
        """Nobody encodes it again."""
        hub.publish_json("news", "[ 1 ]")
        (publication,) = hub.history("news").publications
        assert (publication.json, publication.data) == ("[ 1 ]", [1])

    @pytest.mark.parametrize("data", [object(), {1, 2}, b"x", {(1,): 2}])
    def test_what_json_does_not_know_is_a_type_error(self, hub: Hub, data: object) -> None:
        """Nothing is published."""
        with pytest.raises(TypeError):
            hub.publish("news", data)
        assert hub.history("news").position.offset == 0

    @pytest.mark.parametrize("data", [math.nan, math.inf, "\ud800", ["\udfff"]])
    def test_what_json_cannot_say_is_a_value_error(self, hub: Hub, data: object) -> None:
        """NaN, infinity and half surrogates; nothing is published."""
        with pytest.raises(ValueError):
            hub.publish("news", data)
        assert hub.history("news").position.offset == 0

    def test_data_in_a_circle_is_a_value_error(self, hub: Hub) -> None:
        """And so is data that is nested too deeply."""
        circle: list[Any] = []
        circle.append(circle)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        # what Python can read, but not every client
        levels: list[Any] = []
        for _ in range(200):
            levels = [levels]
        hub.publish("other", levels[0])
        for data in (circle, deep, levels):
            with pytest.raises(ValueError):
                hub.publish("news", data)

    @pytest.mark.parametrize("topic", ["", "x" * 256, "a\nb", "a\0", "\x7f", "\ud800"])
    def test_what_cannot_be_a_topic_is_a_value_error(self, hub: Hub, topic: str) -> None:
        """In every method."""
        for call in self.calls_with_topic(hub, topic):
            with pytest.raises(ValueError):
                call()

    @pytest.mark.parametrize("topic", [None, 1, b"news", ["news"]])
    def test_a_topic_of_another_type_is_a_type_error(self, hub: Hub, topic: Any) -> None:
        """In every method."""
        for call in self.calls_with_topic(hub, topic):
            with pytest.raises(TypeError):
                call()

    @staticmethod
    def calls_with_topic(hub: Hub, topic: Any) -> list[Callable[[], object]]:
        """All calls that take a topic."""
        return [
            lambda: hub.publish(topic, 1),
            lambda: hub.publish_json(topic, "1"),
            lambda: hub.history(topic),
            lambda: hub.subscribe(topic, print),
            lambda: hub.unsubscribe(topic, print),
            lambda: hub.join(topic, "ann"),
            lambda: hub.leave(topic, "ann"),
            lambda: hub.members(topic),
            lambda: hub.count(topic),
        ]

    @pytest.mark.parametrize("topic", ["a b", "{a}", "}{", "%7B", "ä/€", "x" * 255, ":meta", "*"])
    def test_any_other_text_is_a_topic(self, hub: Hub, topic: str) -> None:
        """Also what Redis has a use for; and each is another one."""
        heard = Heard()
        hub.subscribe(topic, heard)
        hub.publish(topic, 1)
        hub.publish("other", 2)
        assert heard.wait(1) == [1]
        assert hub.history(topic).position.offset == 1

    @pytest.mark.parametrize("json", ["", None, b"1", 1])
    def test_json_text_that_is_no_text_is_refused(self, hub: Hub, json: Any) -> None:
        """Empty text is a ``ValueError``, another type a ``TypeError``."""
        with pytest.raises(ValueError if json == "" else TypeError):
            hub.publish_json("news", json)


class TestRepeating:
    def test_a_repeated_publication_is_recognised(self, hub: Hub) -> None:
        """It has its first number, and is neither kept nor heard again."""
        heard = Heard()
        hub.subscribe("news", heard)
        first = hub.publish("news", "a", session="s", sequence=7)
        hub.publish("news", "b")
        again = hub.publish("news", "a", session="s", sequence=7)
        hub.publish("news", "c")
        assert (first.offset, again.offset) == (1, 1)
        assert (first.repeated, again.repeated) == (False, True)
        assert heard.wait(3) == ["a", "b", "c"]
        assert hub.status().repeated == 1

    def test_another_session_sequence_or_topic_is_another_publication(self, hub: Hub) -> None:
        """Whatever their names look like."""
        hub.publish("news", 0, session="1 2", sequence=3)
        for session, sequence in (("2", 31), ("1 2", 4), ("1", 23), ("2 3", 1)):
            assert not hub.publish("news", 0, session=session, sequence=sequence).repeated
        assert not hub.publish("sports", 0, session="1 2", sequence=3).repeated

    def test_sequences_may_come_in_any_order(self, hub: Hub) -> None:
        """A lower one that was never there is new."""
        hub.publish("news", 0, session="s", sequence=5)
        assert not hub.publish("news", 0, session="s", sequence=3).repeated
        assert hub.publish("news", 0, session="s", sequence=5).repeated

    def test_the_window_is_bounded_by_count(self, make_hub: Make) -> None:
        """The oldest ones are forgotten, so that one of these is published again."""
        hub = make_hub(window_count=3)
        for sequence in range(1, 5):
            hub.publish("news", sequence, session="s", sequence=sequence)
        assert hub.publish("news", 4, session="s", sequence=4).repeated
        assert hub.publish("news", 2, session="s", sequence=2).repeated
        assert not hub.publish("news", 1, session="s", sequence=1).repeated

    def test_the_window_is_bounded_by_age(self, make_hub: Make) -> None:
        """What is older is forgotten."""
        hub = make_hub(window_age=ms(40))
        hub.publish("news", 1, session="s", sequence=1)
        # the age itself is waited for
        time.sleep(60 * MS)
        assert not hub.publish("news", 1, session="s", sequence=1).repeated

    def test_a_window_of_none_remembers_nothing(self, make_hub: Make) -> None:
        """Each publication is new."""
        hub = make_hub(window_count=0)
        hub.publish("news", 1, session="s", sequence=1)
        assert not hub.publish("news", 1, session="s", sequence=1).repeated

    def test_repeating_in_many_threads_publishes_once(self, hub: Hub) -> None:
        """One of them is the first, and all learn its number."""
        done = [None] * 8

        def publish(number: int) -> None:
            done[number] = hub.publish("news", 1, session="s", sequence=1)  # type: ignore[call-overload]

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(each.repeated for each in done) == [False] + [True] * 7  # type: ignore[attr-defined]
        assert {each.offset for each in done} == {1}  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("session", "sequence", "error"),
        [
            ("s", 0, ValueError),
            ("", 1, ValueError),
            ("s", -1, ValueError),
            ("s", 2**53, ValueError),
            ("s\n", 1, ValueError),
            ("x" * 256, 1, ValueError),
            (b"s", 1, TypeError),
            (None, 1, TypeError),
            ("s", "1", TypeError),
            ("s", 1.0, TypeError),
            ("s", True, TypeError),
        ],
    )
    def test_a_name_that_cannot_be_one_is_refused(
        self, hub: Hub, session: Any, sequence: Any, error: type[Exception]
    ) -> None:
        """Nothing is published."""
        with pytest.raises(error):
            hub.publish("news", 1, session=session, sequence=sequence)
        assert hub.history("news").position.offset == 0


class TestHistory:
    def test_what_was_missed_comes_in_order(self, hub: Hub) -> None:
        """All after the position, and the position after that."""
        first = hub.publish("news", 1)
        hub.publish("news", 2)
        hub.publish("news", 3)
        history = hub.history("news", Position(first.epoch, 1))
        assert [each.data for each in history.publications] == [2, 3]
        assert [each.offset for each in history.publications] == [2, 3]
        assert history.position == Position(first.epoch, 3)
        assert (history.recovered, history.reason) == (True, "")

    def test_nothing_missed_is_recovered(self, hub: Hub) -> None:
        """With an empty list."""
        done = hub.publish("news", 1)
        history = hub.history("news", Position(done.epoch, 1))
        assert history == ([], Position(done.epoch, 1), True, "")

    def test_a_position_before_the_first_publication_is_good(self, hub: Hub) -> None:
        """Somebody who has only subscribed misses nothing either."""
        position = hub.history("news").position
        assert position.offset == 0
        hub.publish("news", 1)
        history = hub.history("news", position)
        assert ([each.data for each in history.publications], history.recovered) == ([1], True)

    def test_a_limit_gives_the_first_after_a_position(self, hub: Hub) -> None:
        """So that one can go on from there."""
        for number in range(1, 6):
            epoch = hub.publish("news", number).epoch
        history = hub.history("news", Position(epoch, 1), 2)
        assert [each.data for each in history.publications] == [2, 3]
        assert (history.position.offset, history.recovered) == (5, True)

    def test_a_limit_without_a_position_gives_the_last(self, hub: Hub) -> None:
        """The newest, in order."""
        for number in range(1, 6):
            hub.publish("news", number)
        assert [each.data for each in hub.history("news", limit=2).publications] == [4, 5]

    def test_the_history_is_bounded_by_count(self, make_hub: Make) -> None:
        """Who reads from before that is told so, and gets what there is."""
        hub = make_hub(history_count=3)
        for number in range(1, 6):
            epoch = hub.publish("news", number).epoch
        history = hub.history("news", Position(epoch, 1))
        assert [each.data for each in history.publications] == [3, 4, 5]
        assert (history.recovered, history.reason) == (False, "trimmed")
        assert hub.history("news", Position(epoch, 2)).recovered

    def test_the_history_is_bounded_by_age(self, make_hub: Make) -> None:
        """What is older is not given away."""
        hub = make_hub(history_age=ms(60))
        epoch = hub.publish("news", 1).epoch
        # the age itself is waited for
        time.sleep(80 * MS)
        hub.publish("news", 2)
        history = hub.history("news", Position(epoch, 0))
        assert [each.data for each in history.publications] == [2]
        assert (history.recovered, history.reason) == (False, "trimmed")
        assert hub.history("news", Position(epoch, 1)).recovered

    def test_a_history_of_none_keeps_nothing(self, make_hub: Make) -> None:
        """The numbers go on; subscribers hear everything."""
        hub = make_hub(history_count=0)
        heard = Heard()
        hub.subscribe("news", heard)
        epoch = hub.publish("news", 1).epoch
        # one after another: over Redis a gap could not be filled
        heard.wait(1)
        assert hub.publish("news", 2).offset == 2
        assert heard.wait(2) == [1, 2]
        history = hub.history("news", Position(epoch, 1))
        assert history == ([], Position(epoch, 2), False, "trimmed")

    def test_a_position_of_another_epoch_is_not_recovered(self, hub: Hub) -> None:
        """What is kept is all new to its owner."""
        done = hub.publish("news", 1)
        history = hub.history("news", Position("another", 1))
        assert [each.data for each in history.publications] == [1]
        assert history[1:] == (Position(done.epoch, 1), False, "epoch")

    def test_a_position_in_the_future_is_not_recovered(self, hub: Hub) -> None:
        """It cannot be of this epoch."""
        done = hub.publish("news", 1)
        assert hub.history("news", Position(done.epoch, 2))[2:] == (False, "epoch")

    def test_a_topic_is_forgotten_after_its_age(self, make_hub: Make) -> None:
        """Its numbers begin again, in a new epoch."""
        hub = make_hub(topic_age=ms(60), history_age=ms(30), window_age=ms(30))
        epoch = hub.publish("news", 1).epoch

        def renewed() -> bool:
            # other topics let the old ones be found
            hub.publish("other", 1)
            # looking would keep it; the age is waited for
            time.sleep(80 * MS)
            done = hub.publish("news", 1)
            return done.epoch != epoch and done.offset == 1

        wait_for(renewed)

    @pytest.mark.parametrize(
        ("since", "limit", "error"),
        [
            (("e", 1), 0, TypeError),
            (1, 0, TypeError),
            (Position("e", -1), 0, ValueError),
            (Position("e", 2**53), 0, ValueError),
            (Position("e", True), 0, TypeError),
            (Position("e", "1"), 0, TypeError),  # type: ignore[arg-type]
            (Position(b"e", 1), 0, TypeError),  # type: ignore[arg-type]
            (None, -1, ValueError),
            (None, "1", TypeError),
        ],
    )
    def test_what_cannot_be_a_position_or_a_limit_is_refused(
        self, hub: Hub, since: Any, limit: Any, error: type[Exception]
    ) -> None:
        """With the type of error that says which."""
        with pytest.raises(error):
            hub.history("news", since, limit)

    @pytest.mark.parametrize("epoch", ["", "a b", "%s", "é\u2028", "x" * 10_000, "a\0b"])
    def test_any_text_of_a_peer_may_be_an_epoch(self, hub: Hub, epoch: str) -> None:
        """It is only one that nobody knows."""
        hub.publish("news", 1)
        history = hub.history("news", Position(epoch, 1))
        assert (history.recovered, history.reason) == (False, "epoch")


class TestSubscribing:
    def test_a_subscriber_hears_what_is_published_from_then_on(self, hub: Hub) -> None:
        """Everything, in order, with offset and epoch."""
        hub.publish("news", 0)
        heard = Heard()
        history = hub.subscribe("news", heard)
        assert (history.publications, history.position.offset) == ([], 1)
        for number in range(1, 50):
            hub.publish("news", number)
        assert heard.wait(49) == list(range(1, 50))
        assert [each.offset for each in heard] == list(range(2, 51))
        assert {each.position.epoch for each in heard} == {history.position.epoch}

    def test_what_was_missed_is_returned_and_the_rest_is_called(self, hub: Hub) -> None:
        """Together they are without gaps."""
        position = hub.history("news").position
        hub.publish("news", 1)
        hub.publish("news", 2)
        heard = Heard()
        history = hub.subscribe("news", heard, position)
        hub.publish("news", 3)
        assert [each.data for each in history.publications] == [1, 2]
        assert heard.wait(1) == [3]

    def test_other_topics_are_not_heard(self, hub: Hub) -> None:
        """Nor is what is published after the end of the subscription."""
        heard, all_ = Heard(), Heard()
        hub.subscribe("news", heard)
        hub.subscribe("news", all_)
        hub.publish("sports", 1)
        hub.publish("news", 2)
        heard.wait(1)
        assert hub.unsubscribe("news", heard)
        hub.publish("news", 3)
        all_.wait(2)
        assert heard.data == [2]

    def test_ending_what_there_is_not_is_false(self, hub: Hub) -> None:
        """Also the second time."""
        heard = Heard()
        assert not hub.unsubscribe("news", heard)
        hub.subscribe("news", heard)
        assert hub.unsubscribe("news", heard)
        assert not hub.unsubscribe("news", heard)

    def test_a_subscription_may_begin_again(self, hub: Hub) -> None:
        """From where the last one ended."""
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        hub.unsubscribe("news", heard)
        hub.publish("news", 2)
        history = hub.subscribe("news", heard, heard[-1].position)
        hub.publish("news", 3)
        assert [each.data for each in history.publications] == [2]
        assert heard.wait(2) == [1, 3]

    def test_the_same_callback_twice_is_a_value_error(self, hub: Hub) -> None:
        """On another topic it is not."""
        heard = Heard()
        hub.subscribe("news", heard.__call__)
        with pytest.raises(ValueError, match="subscribed"):
            hub.subscribe("news", heard.__call__)
        hub.subscribe("sports", heard.__call__)
        assert hub.status().subscribers == 2

    @pytest.mark.parametrize("callback", [None, 1, lambda: None])
    def test_what_cannot_be_called_is_a_type_error(self, hub: Hub, callback: Any) -> None:
        """Also a function without a parameter, or one that would not run."""

        async def later(heard: object) -> None:
            """Would not run."""

        for wrong in (callback, later):
            with pytest.raises(TypeError):
                hub.subscribe("news", wrong)

    def test_what_a_callback_raises_harms_nobody(self, hub: Hub, caplog: Any) -> None:
        """It is logged, and the next publication comes."""
        heard = Heard()

        def fails(publication: object) -> None:
            raise RuntimeError("a bug")

        hub.subscribe("news", fails)
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        hub.publish("news", 2)
        assert heard.wait(2) == [1, 2]
        assert sum("a bug" in str(each.exc_info) for each in caplog.records) == 2

    def test_unsubscribing_waits_for_a_call_that_is_running(self, hub: Hub) -> None:
        """After it nothing is called."""
        entered, leave = threading.Event(), threading.Event()
        ended: list[float] = []

        def slow(publication: object) -> None:
            entered.set()
            leave.wait(BOUND)
            ended.append(time.monotonic())

        hub.subscribe("news", slow)
        thread = threading.Thread(target=hub.publish, args=("news", 1))
        thread.start()
        assert entered.wait(BOUND)
        timer = threading.Timer(20 * MS, leave.set)
        timer.start()
        assert hub.unsubscribe("news", slow)
        assert ended
        assert time.monotonic() >= ended[0]
        thread.join()
        timer.join()

    def test_unsubscribing_in_the_callback_itself_does_not_wait(self, hub: Hub) -> None:
        """It was called for the last time."""
        heard = Heard()

        def once(publication: Publication | Lost) -> None:
            heard(publication)
            hub.unsubscribe("news", once)

        last = Heard()
        hub.subscribe("news", once)
        hub.subscribe("news", last)
        hub.publish("news", 1)
        hub.publish("news", 2)
        last.wait(2)
        assert heard.data == [1]

    def test_unsubscribing_waits_no_longer_than_the_timeout(self, make_hub: Make) -> None:
        """A callback that never returns freezes nobody else."""
        hub = make_hub(timeout=ms(300))
        entered, leave = threading.Event(), threading.Event()

        def stuck(publication: object) -> None:
            entered.set()
            leave.wait(BOUND)

        hub.subscribe("news", stuck)
        thread = threading.Thread(target=hub.publish, args=("news", 1))
        thread.start()
        assert entered.wait(BOUND)
        assert hub.unsubscribe("news", stuck)
        leave.set()
        thread.join()

    def test_publishing_in_a_callback_keeps_the_order(self, hub: Hub) -> None:
        """Without a deadlock, on the same topic and on another one."""
        heard, echoed = Heard(), Heard()

        def answer(publication: Publication | Lost) -> None:
            assert isinstance(publication, Publication)
            if publication.data < 5:
                hub.publish("news", publication.data + 1)
            hub.publish("echo", publication.data)

        hub.subscribe("news", answer)
        hub.subscribe("news", heard)
        hub.subscribe("echo", echoed)
        hub.publish("news", 1)
        assert heard.wait(5) == [1, 2, 3, 4, 5]
        assert echoed.wait(5) == [1, 2, 3, 4, 5]

    def test_subscribing_in_a_callback(self, hub: Hub) -> None:
        """The new subscriber misses nothing from there on."""
        later = Heard()

        def begin(publication: object) -> None:
            if not later and hub.status().subscribers == 1:
                hub.subscribe("news", later)
                hub.publish("news", "after")

        hub.subscribe("news", begin)
        hub.publish("news", "before")
        assert later.wait(1)[-1] == "after"

    def test_all_hear_everything_once_and_in_order_from_many_threads(self, hub: Hub) -> None:
        """Subscribers that come and go get each a part without gaps."""
        heard = Heard()
        hub.subscribe("news", heard)
        parts: list[tuple[list[int], Heard]] = []

        def publish() -> None:
            for _ in range(60):
                hub.publish("news", 0)

        def come_and_go() -> None:
            for _ in range(6):
                part = Heard()
                history = hub.subscribe("news", part)
                wait_for(lambda part=part: len(part) > 2 or not any(t.is_alive() for t in threads))
                hub.unsubscribe("news", part)
                parts.append(([history.position.offset], part))

        threads = [threading.Thread(target=publish) for _ in range(4)]
        others = [threading.Thread(target=come_and_go) for _ in range(2)]
        for thread in threads + others:
            thread.start()
        for thread in threads + others:
            thread.join()
        heard.wait(240)
        assert [each.offset for each in heard] == list(range(1, 241))
        for (start,), part in parts:
            assert [each.offset for each in part] == list(range(start + 1, start + 1 + len(part)))

    def test_subscribers_that_begin_at_the_same_time_miss_nothing(self, hub: Hub) -> None:
        """Each hears all that comes after its own position."""
        stop = threading.Event()

        def publish() -> None:
            while not stop.is_set():
                hub.publish("news 0", 0)

        publisher = threading.Thread(target=publish)
        publisher.start()
        found: list[tuple[Position, Heard]] = []

        def subscribe() -> None:
            heard = Heard()
            barrier.wait(BOUND)
            found.append((hub.subscribe("news 0", heard).position, heard))

        try:
            for _ in range(5):
                barrier = threading.Barrier(4)
                threads = [threading.Thread(target=subscribe) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                for _, heard in found:
                    heard.wait(2)
                    hub.unsubscribe("news 0", heard)
                for position, heard in found:
                    assert [each.offset for each in heard] == list(
                        range(position.offset + 1, position.offset + 1 + len(heard))
                    )
                found.clear()
        finally:
            stop.set()
            publisher.join()

    def test_one_call_at_a_time(self, hub: Hub) -> None:
        """However many threads publish."""
        inside, most = [0], [0]

        def look(publication: object) -> None:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0)
            inside[0] -= 1

        heard = Heard()
        hub.subscribe("news", look)
        hub.subscribe("news", heard)
        threads = [
            threading.Thread(target=lambda: [hub.publish("news", 0) for _ in range(30)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        heard.wait(120)
        assert most == [1]


class TestPresence:
    def test_members_are_present_until_they_leave(self, hub: Hub) -> None:
        """With what was told of them."""
        assert hub.members("news") == {}
        hub.join("news", "ann", {"age": 7})
        hub.join("news", "bob:x {ä}")
        assert hub.members("news") == {"ann": {"age": 7}, "bob:x {ä}": None}
        assert hub.count("news") == 2
        assert hub.leave("news", "ann")
        assert (hub.members("news"), hub.count("news")) == ({"bob:x {ä}": None}, 1)
        assert hub.members("sports") == {}

    def test_leaving_twice_is_false(self, hub: Hub) -> None:
        """And so is leaving without having joined."""
        assert not hub.leave("news", "ann")
        hub.join("news", "ann")
        assert hub.leave("news", "ann")
        assert not hub.leave("news", "ann")

    def test_joining_again_changes_what_is_told(self, hub: Hub) -> None:
        """It is still one member."""
        hub.join("news", "ann", 1)
        hub.join("news", "ann", 2)
        assert hub.members("news") == {"ann": 2}
        assert hub.leave("news", "ann")
        assert hub.count("news") == 0

    @pytest.mark.parametrize(
        ("member", "info", "error"),
        [
            ("", None, ValueError),
            ("a\n", None, ValueError),
            (1, None, TypeError),
            ("a", object(), TypeError),
            ("a", math.nan, ValueError),
        ],
    )
    def test_what_cannot_be_a_member_is_refused(
        self, hub: Hub, member: Any, info: Any, error: type[Exception]
    ) -> None:
        """Nobody has joined."""
        with pytest.raises(error):
            hub.join("news", member, info)
        assert hub.members("news") == {}


class TestLife:
    def test_the_status_tells_what_there_is(self, hub: Hub) -> None:
        """As a value, and as a dictionary."""
        heard = Heard()
        hub.subscribe("news", heard)
        hub.join("news", "ann")
        hub.publish("news", 1)
        heard.wait(1)
        assert hub.wait_connected()
        status = hub.status()
        assert (status.connected, status.topics, status.subscribers) == (True, 1, 1)
        assert (status.members, status.published, status.last_error) == (1, 1, "")
        assert wait_for(lambda: hub.status().delivered) == 1
        assert status.as_dict()["published"] == 1

    def test_a_freed_hub_does_nothing_more(self, hub: Hub) -> None:
        """It says so, and may be freed again."""
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        hub.free()
        hub.free()
        calls: list[Callable[[], object]] = [
            lambda: hub.publish("news", 2),
            lambda: hub.history("news"),
            lambda: hub.subscribe("news", heard),
            lambda: hub.join("news", "ann"),
            lambda: hub.members("news"),
            lambda: hub.count("news"),
        ]
        for call in calls:
            with pytest.raises(HubUnavailable, match="freed"):
                call()
        assert not hub.unsubscribe("news", heard)
        assert not hub.leave("news", "ann")
        assert not hub.wait_connected()
        assert not hub.status().connected
        assert heard.data == [1]
        assert "freed" in repr(hub)

    def test_freeing_in_a_callback(self, hub: Hub) -> None:
        """It does not wait for itself."""
        heard = Heard()

        def free(publication: Publication | Lost) -> None:
            hub.free()
            heard(publication)

        hub.subscribe("news", free)
        hub.publish("news", 1)
        assert heard.wait(1) == [1]

    def test_freeing_waits_for_a_callback(self, hub: Hub) -> None:
        """Nothing is called after it."""
        entered, leave = threading.Event(), threading.Event()
        ended = []

        def slow(publication: object) -> None:
            entered.set()
            leave.wait(BOUND)
            ended.append(True)

        hub.subscribe("news", slow)
        thread = threading.Thread(target=hub.publish, args=("news", 1))
        thread.start()
        assert entered.wait(BOUND)
        timer = threading.Timer(20 * MS, leave.set)
        timer.start()
        hub.free()
        assert ended
        thread.join()
        timer.join()

    def test_callbacks_and_logs_are_outside_of_locks(self, hub: Hub, recorder: Recorder) -> None:
        """Another thread may use the hub meanwhile."""
        done = []

        def use(publication: object) -> None:
            def other() -> None:
                hub.publish("sports", 1)
                hub.members("news")
                hub.status()
                done.append(True)

            thread = threading.Thread(target=other)
            thread.start()
            thread.join(BOUND)

        hub.subscribe("news", use)
        hub.publish("news", 1)
        assert wait_for(lambda: done)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_forked_child_starts_afresh(self, hub: Hub) -> None:
        """The subscriptions are the parent's, which hears everything once."""
        heard = Heard()
        hub.subscribe("news", heard)
        hub.join("news", "ann")
        hub.publish("news", "parent")
        heard.wait(1)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            answer = b"failed"
            try:
                own = Heard()
                counts = (hub.status().subscribers, hub.status().members)
                hub.subscribe("sports", own)
                hub.publish("sports", "child")
                own.wait(1)
                if counts == (0, 0) and heard.data == ["parent"] and own.data == ["child"]:
                    answer = b"good"
                hub.free()
            finally:
                os.write(write, answer)
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            assert pipe.read() == b"good"
        os.waitpid(pid, 0)
        hub.publish("news", "after")
        assert heard.wait(2) == ["parent", "after"]
        assert hub.members("news") == {"ann": None}

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("history_count", -1, ValueError),
            ("history_count", 1.5, TypeError),
            ("history_age", 0, ValueError),
            ("history_age", math.nan, ValueError),
            ("window_count", "1", TypeError),
            ("window_age", -1, ValueError),
            ("topic_age", 0, ValueError),
            ("timeout", 0, ValueError),
            ("timeout", math.inf, ValueError),
            ("timeout", None, TypeError),
        ],
    )
    def test_a_setting_that_cannot_be_is_refused(
        self, make_hub: Make, name: str, value: Any, error: type[Exception]
    ) -> None:
        """When the hub is made, and when it is set later."""
        with pytest.raises(error, match=name):
            make_hub(**{name: value})
        with pytest.raises(error, match=name):
            setattr(make_hub(), name, value)


def test_publishing_in_a_finaliser_at_each_line_of_a_publication() -> None:
    """It is told that it cannot, or everything is heard once, in order."""
    for line in each_line(memory_hub, memory_topic):
        hub, heard = MemoryHub(), Heard()
        hub.subscribe("news", heard)
        offsets: list[int] = []

        def publish(hub: Hub = hub, offsets: list[int] = offsets) -> None:
            with suppress(HubUnavailable):
                offsets.append(hub.publish("news", "interrupting").offset)

        with line.interrupted_by(publish):
            offsets.append(hub.publish("news", "interrupted").offset)
        assert [each.offset for each in heard] == sorted(offsets), line.number
    assert line.number > 30


@pytest.mark.parametrize("missed", [False, True])
def test_publishing_in_a_finaliser_at_each_line_of_a_subscription(missed: bool) -> None:
    """What is published meanwhile is either returned or heard."""
    for line in each_line(memory_hub, memory_topic):
        with MemoryHub() as hub:
            heard = Heard()
            since = hub.publish("news", 1).position if missed else None
            hub.publish("news", 2)
            with line.interrupted_by(lambda hub=hub: hub.publish("news", "interrupting")):
                history = hub.subscribe("news", heard, since)
            newest = hub.publish("news", "last").offset
            start = history.position.offset if since is None else since.offset
            offsets = [each.offset for each in [*history.publications, *heard]]
            assert offsets == list(range(start + 1, newest + 1)), line.number
    assert line.number > 20


@pytest.mark.parametrize("topic", ["news", "new"])
def test_publishing_in_a_finaliser_at_each_line_of_a_history(
    topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is that of one moment, also when a part of it is too old, or the topic is new."""
    now = 0.0
    monkeypatch.setattr(memory_hub, "monotonic", lambda: now)
    for line in each_line(memory_hub, memory_topic):
        now = 0.0
        with MemoryHub(history_age=1_000, window_age=1_000) as hub:
            for number in range(2):
                hub.publish("news", number, session="session", sequence=number + 1)
            now = 2.0

            def publish(hub: Hub = hub) -> None:
                hub.publish(topic, "interrupting", session="session", sequence=9)
                hub.publish("another", "interrupting")

            with line.interrupted_by(publish):
                history = hub.history(topic)
            offsets = [each.offset for each in history.publications]
            assert offsets in ([], [history.position.offset]), line.number
            if line.reached:
                kept = hub.history(topic)
                assert [each.data for each in kept.publications] == ["interrupting"], line.number
                assert hub.publish(topic, 1, session="session", sequence=9).repeated, line.number
    assert line.number > 20


@pytest.mark.signals
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers")
def test_publishing_in_a_signal_handler(hub: Hub) -> None:
    """It may interrupt the hub anywhere: nothing gets stuck, and the order is kept."""
    heard, done = Heard(), []

    def publish(number: int, frame: object) -> None:
        # HubUnavailable: at a moment at which MemoryHub cannot
        with suppress(HubUnavailable):
            done.append(hub.publish("news", "handler"))

    hub.subscribe("news", heard)
    previous = signal.signal(signal.SIGALRM, publish)
    try:
        for number in range(200):
            # once in each, somewhere else each time
            signal.setitimer(signal.ITIMER_REAL, (number % 40 + 1) * 1e-5)
            done.append(hub.publish("news", "main"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    heard.wait(len(done))
    assert [each.offset for each in heard] == list(range(1, len(done) + 1))
