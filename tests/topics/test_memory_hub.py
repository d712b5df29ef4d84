"""MemoryHub: what is its own, beside what all hubs have in common (see test_hubs.py)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support import wait_for
from support.hubs import Heard
from support.waiting import BOUND, MS, ms

from mormot_ws import HubFull, Lost, MemoryHub, Publication
from mormot_ws.topics import memory_hub, memory_topic


@pytest.fixture
def hub() -> Iterator[MemoryHub]:
    """A hub."""
    with MemoryHub() as hub:
        yield hub


class Gate:
    """A subscriber that lets its thread wait until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.heard = Heard()

    def __call__(self, heard: Publication | Lost) -> None:
        self.entered.set()
        self.opened.wait(BOUND)
        self.heard(heard)


def in_thread(function: Callable[[], object]) -> threading.Thread:
    """Run *function* in a thread of its own."""
    thread = threading.Thread(target=function)
    thread.start()
    return thread


class TestDelivery:
    def test_subscribers_are_called_before_publish_returns(self, hub: MemoryHub) -> None:
        """In the same thread; there is no other."""
        before = threading.active_count()
        threads = []
        hub.subscribe("news", lambda publication: threads.append(threading.current_thread()))
        hub.publish("news", 1)
        assert threads == [threading.current_thread()]
        assert threading.active_count() == before

    def test_another_thread_hands_over_what_comes_meanwhile(self, hub: MemoryHub) -> None:
        """So publishing does not wait for a subscriber that is busy."""
        gate = Gate()
        hub.subscribe("news", gate)
        thread = in_thread(lambda: hub.publish("news", 1))
        assert gate.entered.wait(BOUND)
        hub.publish("news", 2)
        assert gate.heard == []
        gate.opened.set()
        thread.join()
        assert gate.heard.data == [1, 2]

    def test_other_topics_do_not_wait(self, hub: MemoryHub) -> None:
        """For a subscriber that is busy."""
        gate, heard = Gate(), Heard()
        hub.subscribe("news", gate)
        hub.subscribe("sports", heard)
        thread = in_thread(lambda: hub.publish("news", 1))
        assert gate.entered.wait(BOUND)
        hub.publish("sports", 2)
        assert heard.data == [2]
        gate.opened.set()
        thread.join()

    def test_nothing_is_lost_when_many_threads_are_quicker_than_one(self, hub: MemoryHub) -> None:
        """They wait for the one that hands over."""
        heard = Heard()
        hub.subscribe("news", heard)
        threads = [
            in_thread(lambda: [hub.publish("news", 0) for _ in range(600)]) for _ in range(8)
        ]
        for thread in threads:
            thread.join()
        assert [each.offset for each in heard] == list(range(1, 4_801))
        assert hub.status().lost == 0

    def test_a_thread_does_not_hand_over_for_others_for_ever(
        self, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One of those that wait takes its place."""
        monkeypatch.setattr(memory_topic, "_MOST_AHEAD", 4)
        monkeypatch.setattr(memory_topic, "_MOST_AT_ONCE", 2)
        monkeypatch.setattr(memory_topic, "_MOST_AT_A_STRETCH", 20)
        stop, gate = threading.Event(), Gate()
        hub.subscribe("news", gate)

        def publish() -> None:
            while not stop.is_set():
                hub.publish("news", 0)

        first = in_thread(lambda: hub.publish("news", 0))
        assert gate.entered.wait(BOUND)
        others = [in_thread(publish) for _ in range(3)]
        gate.opened.set()
        first.join(BOUND)
        assert not first.is_alive()
        stop.set()
        for thread in others:
            thread.join()
        assert [each.offset for each in gate.heard] == list(range(1, len(gate.heard) + 1))

    def test_a_subscriber_that_stands_still_holds_nobody_for_long(
        self, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It gets what is still there when it goes on, and is told what is not."""
        monkeypatch.setattr(memory_topic, "_MOST_AHEAD", 4)
        monkeypatch.setattr(memory_hub, "_LEAST_WAITING", 10)
        monkeypatch.setattr(memory_hub, "_LONGEST_STANDSTILL", ms(30))
        hub.history_count = 5
        gate = Gate()
        hub.subscribe("news", gate)
        first = in_thread(lambda: hub.publish("news", 1))
        assert gate.entered.wait(BOUND)
        began = time.monotonic()
        for number in range(2, 31):
            hub.publish("news", number)
        # only one of them has waited for it
        assert time.monotonic() - began < 500 * MS
        gate.opened.set()
        first.join()
        assert gate.heard.data == [1, "trimmed", *range(21, 31)]
        assert gate.heard[1].position == (gate.heard[0].epoch, 20)
        hub.publish("news", 31)
        assert gate.heard.data[-1] == 31
        assert hub.status().lost == 1

    def test_publishing_much_in_a_callback_does_not_wait(
        self, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would wait for itself, or for another callback that waits for it."""
        monkeypatch.setattr(memory_topic, "_MOST_AHEAD", 4)
        monkeypatch.setattr(memory_hub, "_LONGEST_STANDSTILL", ms(60_000))
        heard = Heard()

        def publish(publication: Publication | Lost) -> None:
            assert isinstance(publication, Publication)
            if publication.data == 0:
                for number in range(1, 50):
                    hub.publish("news", number)

        hub.subscribe("news", publish)
        hub.subscribe("news", heard)
        hub.publish("news", 0)
        assert heard.data == list(range(50))


class TestInterruption:
    def test_ctrl_c_in_a_callback_reaches_the_main_thread(
        self, hub: MemoryHub, ctrl_c: Callable[[], None]
    ) -> None:
        """After the others have heard it, and the topic goes on."""
        heard = Heard()

        def interrupt(publication: object) -> None:
            if not heard:
                ctrl_c()
                time.sleep(BOUND)

        hub.subscribe("news", interrupt)
        hub.subscribe("news", heard)
        with pytest.raises(KeyboardInterrupt):
            hub.publish("news", 1)
        hub.publish("news", 2)
        assert heard.data == [1, 2]

    def test_sys_exit_in_a_callback_is_logged(
        self, hub: MemoryHub, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It ends nobody else's thread."""

        def leave(publication: object) -> None:
            raise SystemExit(7)

        hub.subscribe("news", leave)
        hub.publish("news", 1)
        assert "a subscriber of the topic 'news' failed" in caplog.text

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_child_that_a_callback_has_forked_ends_as_it_likes(self, hub: MemoryHub) -> None:
        """By what it raises, and without handing on what the parent does."""
        heard = Heard()
        children = []

        def fork(publication: object) -> None:
            child = os.fork()
            if child == 0:
                raise SystemExit(7)
            children.append(child)

        hub.subscribe("news", fork)
        hub.subscribe("news", heard)
        try:
            hub.publish("news", 1)
        except SystemExit as exc:
            os._exit(7 if exc.code == 7 and not heard else 1)
        assert heard.data == [1]
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7


class TestBounds:
    def test_more_topics_than_allowed_are_refused(self) -> None:
        """Those that are there go on."""
        with MemoryHub(max_topics=3) as hub:
            for number in range(3):
                hub.publish(f"news{number}", 1)
            with pytest.raises(HubFull, match="3 topics"):
                hub.publish("one more", 1)
            assert hub.publish("news0", 2).offset == 2

    def test_topics_of_which_nothing_is_kept_make_room(self) -> None:
        """But not those with subscribers or members."""
        with MemoryHub(max_topics=4) as hub:
            epoch = hub.subscribe("heard", Heard()).position.epoch
            hub.join("joined", "ann")
            for number in range(20):
                hub.history(f"looked at {number}")
            assert hub.history("heard").position.epoch == epoch
            assert hub.members("joined") == {"ann": None}
            assert hub.status().topics == 4

    def test_topics_that_nobody_uses_any_more_are_forgotten(self) -> None:
        """While others are published on, without a thread for that."""
        with MemoryHub(topic_age=ms(20), history_age=ms(10)) as hub:
            for number in range(100):
                hub.publish(f"news{number}", 1)

            def forgotten() -> bool:
                hub.publish("used", 1)
                return hub.status().topics == 1

            wait_for(forgotten)
            assert hub.status().kept <= 1_000

    @pytest.mark.parametrize("value", [0, -1, 1.5, None])
    def test_a_limit_that_cannot_be_is_refused(self, value: object) -> None:
        """When the hub is made."""
        with pytest.raises((TypeError, ValueError), match="max_topics"):
            MemoryHub(max_topics=value)  # type: ignore[arg-type]
