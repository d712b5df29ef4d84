"""RedisHub: several hubs on one Redis, and everything that can go wrong with it."""

from __future__ import annotations

import inspect
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import HOST, wait_for
from support.hubs import Heard
from support.lines import each_call
from support.redis_server import RedisServer, redis_server
from support.tls import Authority, authority, stranger  # noqa: F401
from support.waiting import BOUND, MS, ms

from mormot_ws import (
    ExponentialBackoff,
    HubFull,
    HubRefused,
    HubUnavailable,
    Lost,
    MemoryHub,
    Position,
    ReconnectFailure,
    RedisHub,
    StopOn,
    WebSocketProcessSettings,
    client_tls_context,
)
from mormot_ws.topics import (
    redis_feed,
    redis_hub,
    redis_link,
    redis_listener,
    redis_pool,
    redis_presence,
)
from mormot_ws.topics.redis_scripts import PUBLISH, keys_of

SECRET = "s3cr3t-of-nobody"
Make = Callable[..., RedisHub]


@pytest.fixture
def make(prefix: str) -> Iterator[Make]:
    """What makes hubs that know each other, with short waits."""
    with ExitStack() as stack:

        def make(url: str, **settings: Any) -> RedisHub:
            settings = {
                "timeout": ms(1_000),
                "prefix": prefix,
                "policy": ExponentialBackoff(base_ms=ms(5), cap_ms=ms(30)),
                **settings,
            }
            return stack.enter_context(RedisHub(url, **settings))

        yield make


@contextmanager
def bounded(milliseconds: float) -> Iterator[None]:
    """Fail when the block takes longer, by more than a busy machine may need."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < (milliseconds + 1_000) * MS


def is_away(hub: RedisHub) -> bool:
    """Tell whether *hub* has noticed that Redis is away."""
    return not hub.status().connected


class TestSeveralHubs:
    def test_what_one_publishes_the_others_hear(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """In order, with the same offsets, also the publisher itself."""
        hubs = [make(shared_redis.url) for _ in range(3)]
        heard = [Heard() for _ in hubs]
        for hub, each in zip(hubs, heard, strict=True):
            hub.subscribe("news", each)
        for number in range(30):
            hubs[number % 3].publish("news", number)
        for each in heard:
            assert each.wait(30) == list(range(30))
            assert [publication.offset for publication in each] == list(range(1, 31))

    def test_the_history_and_the_window_are_common(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """What one was told, another one knows."""
        one, other = make(shared_redis.url), make(shared_redis.url)
        first = one.publish("news", 1, session="s", sequence=1)
        again = other.publish("news", 1, session="s", sequence=1)
        assert (again.offset, again.epoch, again.repeated) == (first.offset, first.epoch, True)
        assert other.history("news", Position(first.epoch, 0)).recovered

    def test_another_prefix_or_database_is_another_world(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """For keys by either of them; channels know no databases, so prefixes are for these."""
        one = make(shared_redis.url)
        other = make(shared_redis.url, prefix="other:")
        database = make(shared_redis.url.replace("/0", "/1"))
        heard = Heard()
        other.subscribe("news", heard)
        one.publish("news", 1)
        assert other.history("news").position.offset == 0
        assert database.history("news").position.offset == 0
        other.publish("news", 2)
        assert heard.wait(1) == [2]

    def test_members_are_those_of_all_hubs(self, make: Make, shared_redis: RedisServer) -> None:
        """They vanish with their hub."""
        one, other = make(shared_redis.url), make(shared_redis.url)
        one.join("news", "ann", 1)
        other.join("news", "bob", 2)
        assert one.wait_connected()
        assert one.members("news") == other.members("news") == {"ann": 1, "bob": 2}
        assert one.count("news") == 2
        one.free()
        assert other.members("news") == {"bob": 2}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_the_members_of_a_process_that_was_killed_vanish(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """After ``presence_age``; those of the living stay longer than that."""
        hub = make(shared_redis.url, presence_age=ms(200))
        hub.join("news", "bob")
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                hub.join("news", "ann")
                os.write(write, b"joined")
                time.sleep(BOUND)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb", buffering=0) as pipe:
            assert pipe.read(6) == b"joined"
        assert hub.members("news") == {"bob": None, "ann": None}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_for(lambda: hub.members("news") == {"bob": None})
        # longer than it would take without a word
        time.sleep(300 * MS)
        assert hub.members("news") == {"bob": None}

    def test_a_hub_has_one_thread_from_the_first_subscription_on(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """Publishing alone needs none."""
        before = threading.active_count()
        hub = make(shared_redis.url)
        hub.publish("news", 1)
        assert threading.active_count() == before
        for number in range(20):
            hub.subscribe(f"news{number}", Heard())
        assert threading.active_count() == before + 1
        hub.free()
        assert threading.active_count() == before

    def test_more_threads_than_connections_wait_for_each_other(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """All is published."""
        hub = make(shared_redis.url, max_connections=2)
        threads = [
            threading.Thread(target=lambda: [hub.publish("news", 0) for _ in range(20)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert hub.history("news").position.offset == 160

    def test_a_redis_that_has_forgotten_the_scripts_gets_them_again(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """As after a restart."""
        hub = make(shared_redis.url)
        hub.publish("news", 1)
        shared_redis.command("SCRIPT", "FLUSH")
        assert hub.publish("news", 2).offset == 2

    def test_a_unix_socket(self, make: Make, tmp_path: Path) -> None:
        """With a password and a database."""
        path = tmp_path / "r.sock"
        with redis_server(tmp_path, unixsocket=str(path)):
            hub = make(f"unix://{path}?db=1")
            assert hub.publish("news", 1).offset == 1
            assert str(path) in repr(hub)


class TestGaps:
    def test_a_message_that_did_not_come_is_read_from_the_history(
        self, make: Make, shared_redis: RedisServer, prefix: str
    ) -> None:
        """When the next one shows the gap; in order, once."""
        hub = make(shared_redis.url)
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        self.publish_elsewhere(shared_redis, prefix, 3)
        hub.publish("news", 5)
        assert heard.wait(5) == [1, "lost", "lost", "lost", 5]
        assert [each.offset for each in heard] == [1, 2, 3, 4, 5]

    def test_a_message_that_did_not_come_is_found_without_another_one(
        self,
        make: Make,
        shared_redis: RedisServer,
        prefix: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Quiet topics are looked after now and then."""
        monkeypatch.setattr(redis_listener, "_ROUND_SECONDS", 0.02)
        monkeypatch.setattr(redis_listener, "_LONGEST_WAIT", 0.02)
        hub = make(shared_redis.url)
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        self.publish_elsewhere(shared_redis, prefix, 1)
        assert heard.wait(2) == [1, "lost"]

    def test_a_gap_of_thousands_is_filled(
        self, make: Make, shared_redis: RedisServer, prefix: str
    ) -> None:
        """It is read part by part."""
        hub = make(shared_redis.url, history_count=2_000)
        heard = Heard()
        hub.subscribe("news", heard)
        self.publish_elsewhere(shared_redis, prefix, 1_500)
        hub.publish("news", 0)
        heard.wait(1_501)
        assert [each.offset for each in heard] == list(range(1, 1_502))

    def test_a_gap_that_the_history_does_not_reach_is_told(
        self, make: Make, shared_redis: RedisServer, prefix: str
    ) -> None:
        """The rest follows."""
        hub = make(shared_redis.url, history_count=10)
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        self.publish_elsewhere(shared_redis, prefix, 1_000)
        hub.publish("news", "last")
        wait_for(lambda: heard.data[-1] == "last")
        lost = heard[1]
        assert isinstance(lost, Lost)
        assert (lost.topic, lost.reason) == ("news", "trimmed")
        assert [each.offset for each in heard[2:]] == list(range(lost.position.offset + 1, 1_003))
        assert hub.status().lost == 1

    @staticmethod
    def publish_elsewhere(server: RedisServer, prefix: str, count: int) -> None:
        """Publish so that nobody gets a message: on another channel."""
        keys = keys_of(prefix, "news")
        with server.client() as client:
            info: Any = client.info("server")
            together = client.pipeline(transaction=False)
            for _ in range(count):
                together.eval(
                    PUBLISH.text,  # type: ignore[arg-type]
                    4,
                    *keys[:4],
                    info["run_id"],
                    "fresh",
                    100_000,
                    "elsewhere",
                    '"lost"',
                    2_000 if count != 1_000 else 200,
                    100_000,
                    "",
                    0,
                    1,
                )
            together.execute()

    @pytest.mark.parametrize(
        "message", ["", "x", "epoch 1", "epoch x {}", b"\xff 1 {}", b"e 2 \xff"]
    )
    def test_what_others_write_on_our_channels_does_no_harm(
        self, make: Make, shared_redis: RedisServer, message: str | bytes
    ) -> None:
        """It is logged, and not heard."""
        hub = make(shared_redis.url)
        heard = Heard()
        hub.subscribe("news", heard)
        assert hub.wait_connected()
        hub.publish("news", 1)
        heard.wait(1)
        shared_redis.command("PUBLISH", keys_of(hub.prefix, "news").channel, message)
        hub.publish("news", 2)
        assert heard.wait(2) == [1, 2]
        assert hub.status().reconnects == 0

    def test_connections_that_are_cut_come_back_without_a_gap(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """Again and again; only publications that were being sent may fail."""
        hub, other = make(own_redis.url), make(own_redis.url)
        heard = Heard()
        hub.subscribe("news", heard)
        assert hub.wait_connected()
        published = []
        for number in range(5):
            for _ in range(10):
                published.append(other.publish("news", 0, session="s", sequence=len(published) + 1))
            own_redis.cut()
            wait_for(lambda number=number: hub.status().reconnects > number or None)
        heard.wait(50)
        assert [each.offset for each in heard] == [each.offset for each in published]

    def test_subscriptions_of_many_topics_come_back(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """All of them."""
        hub, other = make(own_redis.url), make(own_redis.url)
        heard = Heard()
        topics = [f"news{number}" for number in range(300)]
        for topic in topics:
            hub.subscribe(topic, heard)
        assert hub.wait_connected()
        own_redis.cut()
        for topic in topics:
            other.publish(topic, topic, session="s", sequence=1)
        heard.wait(300)
        assert sorted(heard.data) == sorted(topics)


class TestRedisAway:
    def test_publishing_fails_at_once_and_is_not_heard(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """Nothing was published, and it says so."""
        hub = make(own_redis.url)
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        own_redis.die()
        wait_for(lambda: is_away(hub))
        with bounded(0), pytest.raises(HubUnavailable, match="refused") as failed:
            hub.publish("news", 2)
        assert not failed.value.maybe_published
        assert f"Redis at {HOST}:{own_redis.port}" in str(failed.value)
        assert "refused" in hub.status().last_error
        assert heard.data == [1]

    def test_a_redis_that_has_lost_its_data_begins_a_new_epoch(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """All subscribers of all hubs are told, once, before what is new."""
        hub, other = make(own_redis.url), make(own_redis.url)
        heard, also = Heard(), Heard()
        hub.subscribe("news", heard)
        other.subscribe("news", also)
        first = hub.publish("news", 1)
        heard.wait(1)
        also.wait(1)
        own_redis.die()
        own_redis.start()
        second = other.publish("news", 2)
        assert (second.offset, second.epoch != first.epoch) == (1, True)
        assert heard.wait(3) == also.wait(3) == [1, "epoch", 2]
        lost = heard[1]
        assert lost == Lost("news", Position(second.epoch, 0), "epoch")
        assert hub.history("news", Position(first.epoch, 1))[2:] == (False, "epoch")

    def test_a_redis_that_has_kept_its_data_goes_on(self, make: Make, tmp_path: Path) -> None:
        """Nothing is lost: not what was published before, nor what comes afterwards."""
        with redis_server(tmp_path, appendonly="yes", appendfsync="always") as server:
            hub, other = make(server.url), make(server.url)
            heard = Heard()
            hub.subscribe("news", heard)
            first = hub.publish("news", 1)
            heard.wait(1)
            server.die()
            server.start()
            second = other.publish("news", 2)
            assert second.offset == 2
            assert heard.wait(2) == [1, 2]
            history = hub.history("news", Position(first.epoch, 1))
            assert ([each.data for each in history.publications], history.recovered) == ([2], True)
            # a third run
            server.die()
            server.start()
            other.publish("news", 3)
            assert heard.wait(3) == [1, 2, 3]
            for done in (first, second):
                assert hub.history("news", Position(done.epoch, done.offset)).recovered

    def test_a_subscriber_that_begins_between_two_restarts_misses_nothing(
        self, make: Make, tmp_path: Path
    ) -> None:
        """The hub does not listen at that time: another subscriber is an epoch behind then."""
        go_on = threading.Event()

        class Patient(ExponentialBackoff):
            """Lets the hub reconnect when the test says so."""

            def next_delay(self, failure: ReconnectFailure) -> float:
                go_on.wait(BOUND)
                return 0

        with redis_server(tmp_path, appendonly="yes", appendfsync="always") as server:
            hub, other = make(server.url, policy=Patient()), make(server.url)
            first, second = Heard(), Heard()
            hub.subscribe("news", first)
            hub.publish("news", 1)
            first.wait(1)
            server.die()
            wait_for(lambda: not hub._listener.connected.is_set())
            server.start()
            assert hub.subscribe("news", second).position.offset == 1
            other.publish("news", 2)
            server.die()
            server.start()
            go_on.set()
            other.publish("news", 3)
            assert first.wait(3) == [1, 2, 3]
            assert second.wait(2) == [2, 3]

    def test_a_redis_that_has_lost_its_last_moments_is_noticed(
        self, make: Make, tmp_path: Path
    ) -> None:
        """Also when newer publications have the numbers of the lost ones by then."""
        with redis_server(tmp_path) as server:
            hub, other = make(server.url), make(server.url)
            heard = Heard()
            hub.subscribe("news", heard)
            for number in range(1, 4):
                epoch = hub.publish("news", number).epoch
            server.command("SAVE")
            for number in (4, 5):
                hub.publish("news", number)
            heard.wait(5)
            server.die()
            server.start()
            for number in range(14, 20):
                done = other.publish("news", number)
            assert done.offset == 9
            wait_for(lambda: heard.data[-1] == 19)
            assert heard[5] == Lost("news", heard[5].position, "epoch")
            # what is kept was perhaps heard before, but not under this epoch
            assert heard.data[6:][-6:] == [14, 15, 16, 17, 18, 19]
            # who has not read what was lost has lost nothing
            history = hub.history("news", Position(epoch, 2))
            assert [each.data for each in history.publications] == [3, 14, 15, 16, 17, 18, 19]
            assert history.recovered
            assert hub.history("news", Position(epoch, 3)).recovered
            for offset in (4, 5, 9):
                assert not hub.history("news", Position(epoch, offset)).recovered

    def test_a_flushed_database_is_a_new_epoch(self, make: Make, own_redis: RedisServer) -> None:
        """Told with the next publication."""
        hub = make(own_redis.url)
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        own_redis.command("FLUSHALL")
        hub.publish("news", 2)
        assert heard.wait(3) == [1, "epoch", 2]

    def test_members_are_there_again(self, make: Make, own_redis: RedisServer) -> None:
        """And those that have left meanwhile are not."""
        hub, other = make(own_redis.url), make(own_redis.url)
        hub.join("news", "ann", 1)
        hub.join("news", "bob", 2)
        assert hub.wait_connected()
        own_redis.die()
        wait_for(lambda: is_away(hub))
        assert hub.leave("news", "bob")
        with pytest.raises(HubUnavailable):
            hub.join("news", "eve", 3)
        own_redis.start()
        wait_for(lambda: not is_away(hub))
        wait_for(lambda: other.members("news") == {"ann": 1, "eve": 3})

    def test_a_command_that_comes_late_changes_nothing(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """A Redis that was frozen does it when the member is there again."""
        hub, other = make(own_redis.url, presence_age=ms(300)), make(own_redis.url)
        hub.join("news", "ann", 1)
        fields = own_redis.command("HKEYS", f"{hub.prefix}{{news}}:here")
        request = hub._pool.request

        def lose(*_: object) -> list[Any]:
            hub._pool.request = request  # type: ignore[method-assign]
            raise HubUnavailable("not answered in time", True)

        hub._pool.request = lose  # type: ignore[method-assign]
        assert hub.leave("news", "ann")
        hub.join("news", "ann", 2)
        own_redis.command("HDEL", f"{hub.prefix}{{news}}:here", *fields)  # type: ignore[misc]
        wait_for(lambda: other.members("news") == {"ann": 2})

    def test_leave_does_not_wait_for_a_redis_that_is_away(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """Many connections of a server may end at once, each with many topics."""
        hub, other = make(own_redis.url), make(own_redis.url)
        topics = [f"topic {number}" for number in range(20)]
        for topic in topics:
            hub.join(topic, "ann")
        assert hub.wait_connected()
        own_redis.freeze()
        with bounded(1_000):
            for topic in topics:
                assert hub.leave(topic, "ann")
        own_redis.thaw()
        wait_for(lambda: not any(other.members(topic) for topic in topics))

    def test_those_who_leave_while_redis_is_away_take_bounded_memory(
        self, make: Make, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many they were, all are gone when it is back, and who has stayed is there."""
        monkeypatch.setattr(redis_presence, "_MOST_LEFT", 4)
        hub, other = make(own_redis.url), make(own_redis.url)
        hub.join("news", "ann")
        names = [f"member{number}" for number in range(20)]
        for name in names:
            hub.join("news", name)
        assert hub.wait_connected()
        own_redis.freeze()
        for name in names:
            assert hub.leave("news", name)
            assert len(hub._presence._left) <= 4
        own_redis.thaw()
        wait_for(lambda: other.members("news") == {"ann": None})

    def test_many_members_and_topics_are_there_again(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """Hundreds are told and looked for together."""
        hub, other = make(own_redis.url), make(own_redis.url)
        heard = Heard()
        topics = [f"news{number}" for number in range(90)]
        for topic in topics:
            hub.subscribe(topic, heard)
        for number in range(450):
            hub.join("news", f"member{number}", number)
        assert hub.wait_connected()
        own_redis.die()
        own_redis.start()
        for topic in topics:
            other.publish(topic, topic)
        heard.wait(180)
        assert sorted(heard.data) == sorted(["epoch"] * 90 + topics)
        wait_for(lambda: other.count("news") == 450)

    def test_a_frozen_redis(self, make: Make, own_redis: RedisServer) -> None:
        """Every call ends in time; everything that was published is heard when it goes on."""
        timeout = 200
        hub, other = make(own_redis.url, timeout=ms(timeout)), make(own_redis.url)
        heard = Heard()
        hub.subscribe("news", heard)
        hub.publish("news", 1)
        heard.wait(1)
        own_redis.freeze()
        calls: list[Callable[[], object]] = [
            lambda: hub.publish("news", 2),
            lambda: hub.history("news"),
            lambda: hub.subscribe("sports", heard),
            lambda: hub.members("news"),
        ]
        for call in calls:
            with bounded(timeout), pytest.raises(HubUnavailable, match="in time"):
                call()
        wait_for(lambda: is_away(hub))
        own_redis.thaw()
        wait_for(lambda: not is_away(hub))
        last = wait_for(lambda: self.published(other, 3))
        wait_for(lambda: heard.data[-1] == 3)
        assert [each.offset for each in heard] == list(range(1, last + 1))

    @staticmethod
    def published(hub: RedisHub, data: object) -> int:
        """Publish, if Redis is there; return the offset."""
        try:
            return hub.publish("news", data, session="p", sequence=1).offset
        except HubUnavailable:
            return 0

    def test_freeing_while_redis_is_frozen_is_quick(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """Also while other threads wait for it, which are told."""
        hub = make(own_redis.url, timeout=ms(60_000))
        hub.subscribe("news", Heard())
        hub.join("news", "ann")
        assert hub.wait_connected()
        own_redis.freeze()
        failed: list[Exception] = []

        def publish() -> None:
            try:
                hub.publish("news", 1)
            except HubUnavailable as exc:
                failed.append(exc)

        threads = [threading.Thread(target=publish) for _ in range(3)]
        for thread in threads:
            thread.start()
        with bounded(500):
            hub.free()
        for thread in threads:
            thread.join(BOUND)
        assert len(failed) == 3
        assert "freed" in str(failed[0])

    def test_freeing_while_connecting_is_quick(self, make: Make) -> None:
        """To an address that nobody answers at."""
        with socket.socket() as silent:
            silent.bind((HOST, 0))
            silent.listen(1)
            hub = make(f"redis://{HOST}:{silent.getsockname()[1]}", timeout=ms(60_000))
            assert not hub.wait_connected(ms(20))
            with bounded(100):
                hub.free()

    def test_a_lost_answer_with_a_session_is_asked_for_again(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """It is published once."""
        with LosesAnswers(shared_redis.port) as relay:
            hub = make(f"redis://{HOST}:{relay.port}")
            hub.publish("news", 1)
            relay.lose_one.set()
            done = hub.publish("news", 2, session="s", sequence=1)
            assert not relay.lose_one.is_set()
            assert (done.offset, done.repeated) == (2, True)
            assert hub.history("news").position.offset == 2

    def test_a_lost_answer_without_a_session_may_have_been_published(
        self, make: Make, shared_redis: RedisServer
    ) -> None:
        """The error says so; here it was."""
        with LosesAnswers(shared_redis.port) as relay:
            hub = make(f"redis://{HOST}:{relay.port}")
            hub.publish("news", 1)
            relay.lose_one.set()
            with pytest.raises(HubUnavailable, match="may have been published") as failed:
                hub.publish("news", 2)
            assert failed.value.maybe_published
            assert hub.history("news").position.offset == 2

    def test_a_connection_that_has_ended_idly_is_not_used(
        self, make: Make, own_redis: RedisServer
    ) -> None:
        """So nothing is uncertain."""
        hub = make(own_redis.url)
        hub.publish("news", 1)
        own_redis.die()
        own_redis.start()
        assert hub.publish("news", 2).offset == 1

    def test_a_hub_may_be_made_before_its_redis(self, make: Make, tmp_path: Path) -> None:
        """It connects when Redis is there."""
        with redis_server(tmp_path) as server:
            server.die()
            hub = make(server.url)
            assert not hub.wait_connected(ms(30))
            with pytest.raises(HubUnavailable):
                hub.subscribe("news", Heard())
            assert hub.status().subscribers == 0
            server.start()
            assert hub.wait_connected()

    def test_a_policy_that_gives_up_is_revived_by_use(
        self, make: Make, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is said in the log."""
        policy = StopOn(ExponentialBackoff(base_ms=1, max_attempts=2))
        hub = make(own_redis.url, policy=policy)
        heard = Heard()
        hub.subscribe("news", heard)
        assert hub.wait_connected()
        own_redis.die()
        wait_for(lambda: "gave up" in caplog.text)
        own_redis.start()
        hub.publish("news", 1)
        wait_for(lambda: not is_away(hub))
        hub.publish("news", 2)
        assert heard.wait(3) == ["epoch", 1, 2]

    def test_the_same_fault_is_logged_once(
        self, make: Make, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And its end, once."""
        caplog.set_level(logging.INFO, "mormot_ws.topics")
        hub = make(own_redis.url)
        hub.subscribe("news", Heard())
        assert hub.wait_connected()
        own_redis.die()
        wait_for(lambda: is_away(hub))
        for _ in range(5):
            with pytest.raises(HubUnavailable):
                hub.publish("news", 1)
        told = [each.getMessage() for each in caplog.records]
        assert sum("refused" in text for text in told) == 1
        own_redis.start()
        wait_for(lambda: not is_away(hub))
        told = [each.getMessage() for each in caplog.records]
        assert sum("answers again" in text for text in told) == 1


class TestRefusals:
    @pytest.mark.parametrize("user", [":wrong@", "", "nobody:wrong@"])
    def test_a_wrong_password(
        self, make: Make, tmp_path: Path, user: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is told without it; the right one works."""
        with redis_server(tmp_path, requirepass=SECRET) as server:
            place = f"{HOST}:{server.port}"
            hub = make(f"redis://{user}{place}")
            with pytest.raises(HubUnavailable, match="rejected the login") as failed:
                hub.publish("news", 1)
            assert "password" in str(failed.value)
            good = make(f"redis://:{SECRET}@{place}")
            good.publish("news", 1)
            good.subscribe("news", Heard())
            assert good.wait_connected()
            server.die()
            with pytest.raises(HubUnavailable):
                good.publish("news", 1)
            said = f"{failed.value!r}{caplog.text}{good!r}{hub!r}{good.status()}{vars(good)}"
            assert SECRET not in said
            assert "wrong" not in said.replace("password is wrong", "")

    def test_no_such_host(self, make: Make) -> None:
        """Within the time-out."""
        hub = make("redis://nowhere.invalid")
        with pytest.raises(HubUnavailable, match=r"nowhere\.invalid:6379"):
            hub.publish("news", 1)

    @pytest.mark.parametrize(
        ("rule", "what"),
        [
            ("~other:* &* +@all", "key"),
            ("~* &other:* +@all", "channel"),
            ("~* &* +@all -xadd", "user"),
            ("~* &* +@all -evalsha -eval", "evalsha"),
            ("~* &* +@all -info", "info"),
        ],
    )
    def test_a_user_without_the_right_to_publish(
        self, make: Make, own_redis: RedisServer, rule: str, what: str
    ) -> None:
        """Nothing of the publication stays."""
        own_redis.command("ACL", "SETUSER", "ann", "on", f">{SECRET}", *rule.split())
        hub = make(own_redis.url.replace("redis://", f"redis://ann:{SECRET}@"))
        for _ in range(2):
            with pytest.raises(HubRefused, match=f"(?i){what}") as failed:
                hub.publish("news", 1)
            assert not failed.value.maybe_published
            assert SECRET not in str(failed.value)
        own_redis.command("ACL", "SETUSER", "ann", "~*", "&*", "+@all")
        assert hub.publish("news", 2).offset == 1
        assert [each.data for each in hub.history("news").publications] == [2]

    def test_a_user_without_the_right_to_subscribe(
        self, make: Make, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is told once; what there is comes when the right is there."""
        own_redis.command("ACL", "SETUSER", "ann", "on", ">x", "~*", "&*", "+@all", "-subscribe")
        hub = make(own_redis.url.replace("redis://", "redis://ann:x@"))
        heard = Heard()
        hub.subscribe("news", heard)
        wait_for(lambda: "subscribe" in hub.status().last_error)
        hub.publish("news", 1)
        own_redis.command("ACL", "SETUSER", "ann", "+subscribe")
        assert heard.wait(1) == [1]
        assert caplog.text.count("refused:") == 1

    def test_a_redis_without_memory(self, make: Make, own_redis: RedisServer) -> None:
        """What was there can still be read; it goes on when there is room."""
        hub = make(own_redis.url)
        hub.publish("news", 1)
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(HubFull, match="memory"):
            hub.publish("news", 2)
        assert [each.data for each in hub.history("news").publications] == [1]
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        assert hub.publish("news", 3).offset == 2

    def test_a_replica(self, make: Make, own_redis: RedisServer) -> None:
        """It is refused, until it is a master."""
        hub = make(own_redis.url)
        hub.publish("news", 1)
        own_redis.command("REPLICAOF", HOST, "1")
        with pytest.raises(HubRefused, match="replica"):
            hub.publish("news", 2)
        own_redis.command("REPLICAOF", "NO", "ONE")
        assert hub.publish("news", 2).offset == 2

    @pytest.mark.parametrize(
        ("info", "said"),
        [
            (b"redis_version:5.0.14\r\nrun_id:abc\r\n", "5.0.14"),
            (b"redis_version:\r\n", "does not report"),
            (b"nonsense", "does not report"),
        ],
    )
    def test_a_redis_that_is_too_old(self, make: Make, info: bytes, said: str) -> None:
        """Or that does not report its version."""
        with old_redis(b"$%d\r\n%s\r\n" % (len(info), info)) as port:
            hub = make(f"redis://{HOST}:{port}")
            with pytest.raises(HubRefused, match=said):
                hub.publish("news", 1)

    def test_something_that_is_not_redis(self, make: Make) -> None:
        """An HTTP server, for example."""
        with old_redis(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            hub = make(f"redis://{HOST}:{port}")
            with pytest.raises(HubUnavailable, match=f"Redis at {HOST}:{port}"):
                hub.publish("news", 1)


class LosesAnswers:
    """Stands between a hub and its Redis, and may lose an answer, together with the connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        #: when set, the next answer is lost
        self.lose_one = threading.Event()
        self._threads: list[threading.Thread] = []
        self._hubs: list[socket.socket] = []

    def __enter__(self) -> LosesAnswers:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._hubs):
            # OSError: it has ended already
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(BOUND)
        self._listener.close()

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                hub, _ = self._listener.accept()
            except OSError:
                return
            self._hubs.append(hub)
            self._start(self._carry, hub)

    def _carry(self, hub: socket.socket) -> None:
        with hub, socket.create_connection((HOST, self._target)) as redis:
            while True:
                ready, _, _ = select.select([hub, redis], [], [], BOUND)
                for source in ready:
                    try:
                        data = source.recv(100_000)
                    except OSError:
                        return
                    if not data:
                        return
                    if source is redis and self.lose_one.is_set():
                        self.lose_one.clear()
                        return
                    (redis if source is hub else hub).sendall(data)
                if not ready:
                    return


@contextmanager
def old_redis(answer: bytes) -> Iterator[int]:
    """A server that answers the same to the first command of each connection."""
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(BOUND)

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.settimeout(BOUND)
                    try:
                        # CLIENT SETINFO, perhaps, and INFO
                        while data := peer.recv(10_000):
                            peer.sendall(answer if b"INFO\r\n" in data else b"+OK\r\n")
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


class TestTls:
    @pytest.fixture
    def tls_redis(
        self,
        tmp_path: Path,
        authority: Authority,  # noqa: F811
    ) -> Iterator[RedisServer]:
        """A Redis that speaks TLS."""
        certificate, key = authority.issue("localhost")
        options = {
            "tls-port": "0",
            "tls-cert-file": certificate,
            "tls-key-file": key,
            "tls-ca-cert-file": authority.file,
            "tls-auth-clients": "no",
        }
        with TlsRedis(tmp_path, **options).running() as server:
            yield server

    def test_messages_both_ways(
        self,
        make: Make,
        tls_redis: RedisServer,
        authority: Authority,  # noqa: F811
    ) -> None:
        """With a certificate of an authority that we trust."""
        url = f"rediss://localhost:{tls_redis.port}"
        hub = make(url, tls_context=client_tls_context(authority.file))
        heard = Heard()
        hub.subscribe("news", heard)
        for number in range(20):
            hub.publish("news", "x" * 10_000 + str(number))
        assert [data[10_000:] for data in heard.wait(20)] == [str(each) for each in range(20)]

    def test_a_certificate_of_a_stranger(
        self,
        make: Make,
        tls_redis: RedisServer,
        stranger: Authority,  # noqa: F811
    ) -> None:
        """Is not accepted, nor one for another name."""
        for name, context in (
            ("localhost", client_tls_context(stranger.file)),
            ("localhost", None),
        ):
            hub = make(f"rediss://{name}:{tls_redis.port}", tls_context=context)
            with pytest.raises(HubUnavailable, match="certificate"):
                hub.publish("news", 1)

    def test_tls_on_one_side_only(
        self, make: Make, tls_redis: RedisServer, shared_redis: RedisServer
    ) -> None:
        """Ends in time."""
        plain = make(f"redis://{HOST}:{tls_redis.port}", timeout=ms(300))
        with pytest.raises(HubUnavailable):
            plain.publish("news", 1)
        tls = make(shared_redis.url.replace("redis:", "rediss:"), timeout=ms(300))
        with bounded(300), pytest.raises(HubUnavailable):
            tls.publish("news", 1)


class TlsRedis(RedisServer):
    """A Redis with no other port than one for TLS."""

    @contextmanager
    def running(self) -> Iterator[RedisServer]:
        """End it after the block."""
        try:
            yield self
        finally:
            self.die()

    def options(self) -> dict[str, str]:
        """The only port is for TLS."""
        return {**super().options(), "port": "0", "tls-port": str(self.port)}


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "localhost",
            "http://localhost",
            "redis://",
            "redis://:pw@",
            f"redis://:{SECRET}/x@localhost",
            f"redis://:{SECRET}@localhost:x",
            f"redis://:{SECRET}@localhost:99999",
            f"redis://:{SECRET}@localhost/x",
            f"redis://:{SECRET}@localhost?ssl=1",
            f"redis://:{SECRET}@[localhost",
            "unix://",
            "unix:///path?db=x",
        ],
    )
    def test_a_wrong_url_is_a_value_error_without_its_password(self, url: str) -> None:
        """When the hub is made."""
        with pytest.raises(ValueError, match="url") as failed:
            RedisHub(url)
        assert SECRET not in str(failed.value)
        assert failed.value.__cause__ is None

    def test_no_text_is_a_type_error(self) -> None:
        """When the hub is made."""
        with pytest.raises(TypeError, match="url"):
            RedisHub(None)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("setting", "value", "error"),
        [
            ("prefix", "{a}", ValueError),
            ("prefix", "a\n", ValueError),
            ("prefix", 1, TypeError),
            ("presence_age", 0, ValueError),
            ("max_connections", 0, ValueError),
            ("max_connections", 1.5, TypeError),
            ("policy", ExponentialBackoff, TypeError),
            ("tls_context", 1, TypeError),
        ],
    )
    def test_a_wrong_setting_is_refused(
        self, setting: str, value: Any, error: type[Exception]
    ) -> None:
        """When the hub is made."""
        with pytest.raises(error, match=setting):
            RedisHub("redis://localhost", **{setting: value})

    def test_special_characters_are_escaped_in_the_url(self, make: Make, tmp_path: Path) -> None:
        """Of a password, for example."""
        with redis_server(tmp_path, requirepass="a/b@c:d%") as server:
            hub = make(f"redis://:a%2Fb%40c%3Ad%25@{HOST}:{server.port}")
            assert hub.publish("news", 1).offset == 1

    def test_without_redis_py_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When a hub is made; the class is there."""
        monkeypatch.setitem(sys.modules, "redis", None)
        monkeypatch.delitem(sys.modules, "mormot_ws.topics.redis_link", raising=False)
        monkeypatch.delattr("mormot_ws.topics.redis_link", raising=False)
        with pytest.raises(ImportError, match=r"pip install 'mormot_ws\[redis\]'"):
            RedisHub("redis://localhost")


def test_a_server_outwaits_a_hub_by_default() -> None:
    """Else free() would leave behind the thread of a callback that waits for a Redis that hangs."""
    settings = WebSocketProcessSettings()
    assert MemoryHub().timeout < 2 * settings.close_timeout + 2500
    assert inspect.signature(RedisHub).parameters["timeout"].default == MemoryHub().timeout


# of sockets that were just made, and of finalisers that were interrupted
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestRaisingSignalHandlers:
    """A signal handler may raise wherever a call of the hub's code ends."""

    PARTS = (redis_hub, redis_feed, redis_link, redis_pool, redis_presence)

    @pytest.mark.parametrize("name", ["publish", "subscribe", "members"])
    def test_the_next_calls_find_connections_and_a_topic_that_goes_on(
        self, make: Make, shared_redis: RedisServer, name: str
    ) -> None:
        """With only one connection, which may be lost, but not the right to have one."""
        hub = make(shared_redis.url, max_connections=1)
        calls: dict[str, Callable[[str], object]] = {
            "publish": lambda topic: hub.publish(topic, "interrupted"),
            "subscribe": lambda topic: hub.subscribe(topic, print),
            "members": hub.members,
        }
        for end in each_call(*self.PARTS):
            topic, heard = f"news {end.number}", Heard()
            hub.subscribe(topic, heard)
            with end.raises():
                calls[name](topic)
            newest = hub.publish(topic, "next").offset
            heard.wait(newest)
            assert [each.offset for each in heard] == list(range(1, newest + 1)), end.number
            # the connections of the pool, and that of the thread
            assert len(hub._pool._links) <= 2, end.number
            hub.unsubscribe(topic, heard)
            hub.unsubscribe(topic, print)
        assert end.number > 50

    def test_the_thread_is_started_again(self, make: Make, shared_redis: RedisServer) -> None:
        """And there is only one in the end."""
        for end in each_call(redis_hub, redis_listener):
            hub, heard = make(shared_redis.url), Heard()
            with end.raises():
                hub.wait_connected(ms(5_000))
            hub.subscribe("news", heard)
            offset = hub.publish("news", end.number).offset
            heard.wait(1)
            assert [each.offset for each in heard] == [offset], end.number
            wait_for(lambda: hub_threads() == 1, what="only one thread")
            hub.free()
        assert end.number > 5


def hub_threads() -> int:
    """Return how many threads of hubs there are."""
    return sum(each.name == "redis hub" for each in threading.enumerate())
