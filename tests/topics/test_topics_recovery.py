"""Over losses of the connection: nothing is missed, nothing comes twice, the order stays."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import HOST, tls
from support.tls import Authority
from support.topics import Heard, Talker, client_of, topics_on
from support.waiting import BOUND, ms, wait_for

from mormot_ws import (
    HttpClientWebSockets,
    Lost,
    MemoryHub,
    Position,
    Publication,
    TopicLimits,
    WebSocketAsyncServer,
    WebSocketProtocolTopics,
    WebSocketServer,
)
from mormot_ws.testing import FaultProxy

EVENTS = WebSocketAsyncServer
#: our own authority, whom the client of the test of TLS trusts
authority = tls.authority
NO_RATE = TopicLimits(max_publications_per_second=0)


@pytest.fixture
def hub() -> Iterator[MemoryHub]:
    """A hub that lives longer than its servers."""
    with MemoryHub(history_count=5_000) as hub:
        yield hub


def fixed_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class TestWhatTheServerHasSent:
    def test_it_comes_after_a_cut(self, kind: Any) -> None:
        """What was published meanwhile comes first, then what is new; recovered is told."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol),
        ):
            subscription = protocol.subscribe("news", heard, None, heard.recovered)
            assert subscription.wait(ms(2_000))
            topics.hub.publish("news", 0)
            heard.wait(1)
            proxy.refuse()
            proxy.cut()
            wait_for(lambda: topics.server.websocket_connections == 0)
            epoch = topics.hub.publish("news", 1).epoch
            topics.hub.publish("news", 2)
            proxy.accept()
            heard.wait(3)
            topics.hub.publish("news", 3)
            assert heard.wait(4) == [0, 1, 2, 3]
            assert heard.recoveries == [("news", True, "", 2, Position(epoch, 1))]

    def test_it_comes_when_nothing_was_received_before(self, kind: Any) -> None:
        """The answer to the subscription is position enough."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol),
        ):
            assert protocol.subscribe("news", heard).wait(ms(2_000))
            proxy.refuse()
            proxy.cut()
            topics.hub.publish("news", "missed")
            proxy.accept()
            assert heard.wait(1) == ["missed"]

    def test_it_comes_after_the_tenth_loss(self, kind: Any) -> None:
        """As after the first."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol) as client,
        ):
            assert protocol.subscribe("news", heard, None, heard.recovered).wait(ms(2_000))
            for number in range(10):
                proxy.refuse()
                proxy.cut()
                wait_for(lambda: not client.status().connected)
                topics.hub.publish("news", [number, "missed"])
                proxy.accept()
                heard.wait(2 * number + 1)
                topics.hub.publish("news", [number, "new"])
                heard.wait(2 * number + 2)
            wanted = [[number, word] for number in range(10) for word in ("missed", "new")]
            assert heard.data == wanted
            assert [each[1] for each in heard.recoveries] == [True] * 10

    def test_it_comes_while_the_server_believes_in_the_old_connection(self, kind: Any) -> None:
        """The new connection of the session takes over; the old one is ended."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind) as topics,
            FaultProxy(HOST, topics.port) as dead,
            client_of(dead.port, protocol) as client,
            client_of(topics.port, WebSocketProtocolTopics()),
        ):
            assert protocol.subscribe("news", heard).wait(ms(2_000))
            topics.hub.publish("news", 0)
            heard.wait(1)
            # the server keeps the link, and hears nothing of its end
            dead.blackhole()
            epoch = topics.hub.publish("news", 1).epoch
            with Talker(topics.port, protocol.state()["session"]) as again:
                assert topics.server.websocket_connections == 3
                again.subscribe(since={"epoch": epoch, "offset": 1})
                assert again.publications(1) == [(2, 1)]
                assert topics.protocol.status().taken_over == 1
                assert topics.protocol.status().subscriptions == 1
            dead.cut()
            dead.heal()
            assert heard.wait(2) == [0, 1]
            assert client.status().reconnects >= 1

    def test_it_comes_after_the_servers_death(self, kind: Any, hub: MemoryHub) -> None:
        """From another server of the same hub, at the same place."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        port = fixed_port()
        with client_of(port, protocol, connected=False):
            subscription = protocol.subscribe("news", heard, None, heard.recovered)
            with topics_on(kind, hub, port):
                assert subscription.wait(ms(5_000))
                hub.publish("news", 0)
                heard.wait(1)
            hub.publish("news", 1)
            with topics_on(kind, hub, port):
                heard.wait(2)
                hub.publish("news", 2)
                assert heard.wait(3) == [0, 1, 2]
        assert [each.recovered for each in heard.recoveries] == [True]

    def test_another_history_is_told(self, kind: Any) -> None:
        """The hub has died with its server: recovered is False, and what is there comes."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        port = fixed_port()
        with client_of(port, protocol, connected=False):
            subscription = protocol.subscribe("news", heard, None, heard.recovered)
            with topics_on(kind, None, port) as topics:
                assert subscription.wait(ms(5_000))
                for number in range(3):
                    topics.hub.publish("news", number)
                heard.wait(3)
            with MemoryHub() as hub:
                hub.publish("news", "again")
                with topics_on(kind, hub, port):
                    assert heard.wait(4) == [0, 1, 2, "again"]
        ((_, recovered, reason, missed, position),) = heard.recoveries
        assert (recovered, reason, missed, position.offset) == (False, "epoch", 1, 0)
        assert heard.publications[3].offset == 1

    def test_a_history_that_is_too_short_is_told(self) -> None:
        """And logged, where nobody has an on_recovered."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with (
            MemoryHub(history_count=2) as hub,
            topics_on(EVENTS, hub) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol),
        ):
            assert protocol.subscribe("news", heard, None, heard.recovered).wait(ms(2_000))
            proxy.refuse()
            proxy.cut()
            for number in range(5):
                hub.publish("news", number)
            proxy.accept()
            assert heard.wait(2) == [3, 4]
            recovery = heard.recoveries[0]
            assert (recovery.recovered, recovery.reason) == (False, "trimmed")
            assert (recovery.missed, recovery.position.offset) == (2, 3)

    def test_a_loss_in_the_hub_is_told(self, kind: Any) -> None:
        """While the connection lives: the hub has lost its data."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with topics_on(kind) as topics, client_of(topics.port, protocol):
            assert protocol.subscribe("news", heard, None, heard.recovered).wait(ms(2_000))
            topics.hub.publish("news", 0)
            heard.wait(1)
            hub: Any = topics.hub
            (subscription,) = hub._topics["news"].subscriptions
            subscription.callback(Lost("news", Position("another", 0), "epoch"))
            subscription.callback(Publication("news", 1, "another", "1"))
            assert heard.wait(2) == [0, 1]
            assert heard.publications[1].position == ("another", 1)
            assert heard.recoveries == [("news", False, "epoch", 0, Position("another", 0))]

    def test_subscriptions_of_the_time_without_connection_are_made(self) -> None:
        """And those that have ended are not."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(EVENTS) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol) as client,
        ):
            assert protocol.subscribe("old", heard).wait(ms(2_000))
            proxy.refuse()
            proxy.cut()
            wait_for(lambda: not client.status().connected)
            protocol.unsubscribe("old")
            subscription = protocol.subscribe("new", heard)
            proxy.accept()
            assert subscription.wait(ms(2_000))
            topics.hub.publish("old", "old")
            topics.hub.publish("new", "new")
            assert heard.wait(1) == ["new"]
            assert topics.protocol.status().subscriptions == 1


class TestWhatTheClientHasPublished:
    def test_it_is_sent_after_the_reconnection(self, kind: Any) -> None:
        """In the order of the calls."""
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol) as client,
        ):
            proxy.refuse()
            proxy.cut()
            wait_for(lambda: not client.status().connected)
            made = [protocol.publish("news", number) for number in range(5)]
            proxy.accept()
            assert made[-1].wait(ms(2_000))
            found = [each.data for each in topics.hub.history("news").publications]
            assert found == [0, 1, 2, 3, 4]

    def test_one_whose_answer_is_lost_is_not_published_twice(self, kind: Any) -> None:
        """It is sent again, and answered with the offset of the first time."""
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol),
        ):
            assert protocol.publish("news", 0).wait(ms(2_000))
            proxy.blackhole("down")
            publishing = protocol.publish("news", 1)
            wait_for(lambda: topics.hub.history("news").position.offset == 2)
            later = protocol.publish("news", 2)
            wait_for(lambda: topics.hub.history("news").position.offset == 3)
            proxy.cut()
            proxy.heal()
            assert later.wait(ms(5_000))
            assert (publishing.offset, publishing.repeated) == (2, True)
            assert (later.offset, later.repeated) == (3, True)
            found = [each.data for each in topics.hub.history("news").publications]
            assert found == [0, 1, 2]
            assert topics.protocol.status().repeated == 2

    def test_one_that_the_server_never_got_is_sent_again(self, kind: Any) -> None:
        """What was on its way when the connection broke."""
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind) as topics,
            FaultProxy(HOST, topics.port) as proxy,
            client_of(proxy.port, protocol),
        ):
            assert protocol.publish("news", 0).wait(ms(2_000))
            proxy.blackhole("up")
            made = [protocol.publish("news", number) for number in (1, 2)]
            wait_for(lambda: proxy.links)
            proxy.cut()
            proxy.heal()
            assert made[-1].wait(ms(5_000))
            assert [(each.offset, each.repeated) for each in made] == [(2, False), (3, False)]

    def test_what_was_queued_for_the_last_connection_is_dropped(self, kind: Any) -> None:
        """It must not come before the hello of the next one, where all of it is sent again."""
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(kind, limits=NO_RATE) as topics,
            client_of(topics.port, protocol, send_delay=ms(500)) as client,
        ):
            assert protocol.publish("news", -1).wait(ms(2_000))
            process: Any = client.websockets
            made = [protocol.publish("news", number) for number in range(50)]
            assert process.outgoing.count
            process.abort("the test")
            assert made[-1].wait(ms(5_000))
            found = [each.data for each in topics.hub.history("news").publications]
            assert found == list(range(-1, 50))
            assert client.status().reconnects == 1

    def test_another_server_of_the_hub_knows_it_too(self, hub: MemoryHub) -> None:
        """The window lies in the hub."""
        protocol = WebSocketProtocolTopics()
        with (
            topics_on(EVENTS, hub) as one,
            topics_on(WebSocketServer, hub) as two,
            FaultProxy(HOST, one.port) as proxy,
            client_of(proxy.port, protocol),
        ):
            assert protocol.publish("news", 0).wait(ms(2_000))
            proxy.blackhole("down")
            publishing = protocol.publish("news", 1)
            wait_for(lambda: hub.history("news").position.offset == 2)
            proxy.target = (HOST, two.port)
            proxy.cut()
            proxy.heal()
            assert publishing.wait(ms(5_000))
            assert (publishing.offset, publishing.repeated) == (2, True)
            assert two.protocol.status().repeated == 1


@pytest.mark.parametrize("fault", ["cut", "close", "truncate"])
def test_both_ways_over_many_losses(kind: Any, fault: str, hub: MemoryHub) -> None:
    """Two clients that talk while their connections break: each publication once, in order."""
    heards = [Heard(), Heard()]
    protocols = [WebSocketProtocolTopics(), WebSocketProtocolTopics()]
    count = 150
    with (
        topics_on(kind, hub, limits=NO_RATE) as topics,
        FaultProxy(HOST, topics.port) as proxy,
        client_of(proxy.port, protocols[0]),
        client_of(proxy.port, protocols[1]),
    ):
        for protocol, heard in zip(protocols, heards, strict=True):
            assert protocol.subscribe("room", heard, None, heard.recovered).wait(ms(5_000))

        def talk(number: int) -> None:
            for sequence in range(count):
                protocols[number].publish("room", [number, sequence])
                if not sequence % 10:
                    pause.wait(0.005)

        pause = threading.Event()
        threads = [threading.Thread(target=talk, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for _ in range(8):
            before = proxy.accepted
            if fault == "cut":
                proxy.cut()
            elif fault == "close":
                proxy.close()
            else:
                proxy.truncate(500, "down")
                proxy.truncate(700, "up")
            # once all is said, nothing more may come to be truncated
            wait_for(
                lambda before=before: (  # type: ignore[misc]
                    proxy.accepted > before or not any(each.is_alive() for each in threads)
                )
            )
        proxy.truncate(None, "down")
        proxy.truncate(None, "up")
        for thread in threads:
            thread.join(BOUND)
        for heard in heards:
            heard.wait(2 * count)
        wait_for(lambda: not any(each.unacknowledged for each in protocols))
    for heard in heards:
        offsets = [each.offset for each in heard.publications]
        assert offsets == list(range(1, 2 * count + 1))
        for number in (0, 1):
            said = [data[1] for data in heard.data if data[0] == number]
            assert said == list(range(count))
        assert all(each.recovered for each in heard.recoveries)


def test_many_missed_publications_come_in_pieces(kind: Any, hub: MemoryHub) -> None:
    """The client asks for the next piece by itself; recovered is told once."""
    heard = Heard()
    protocol = WebSocketProtocolTopics()
    with (
        topics_on(kind, hub, limits=TopicLimits(max_behind=100_000)) as topics,
        FaultProxy(HOST, topics.port) as proxy,
        client_of(proxy.port, protocol),
    ):
        assert protocol.subscribe("news", heard, None, heard.recovered).wait(ms(2_000))
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: topics.server.websocket_connections == 0)
        for number in range(1_200):
            hub.publish("news", [number, "x" * 200])
        proxy.accept()
        heard.wait(1_200)
        assert [data[0] for data in heard.data] == list(range(1_200))
        assert len(heard.recoveries) == 1


def test_topics_over_tls(authority: Authority, kind: Any) -> None:
    """With a reconnection."""
    heard = Heard()
    protocol = WebSocketProtocolTopics()
    with MemoryHub() as hub:
        server = kind(
            f"{HOST}:0",
            tls_context=authority.server_context(),
            prepare=lambda made: made.websocket_protocols.add(WebSocketProtocolTopics(hub=hub)),
        )
        with (
            server,
            FaultProxy(HOST, server.port) as proxy,
            HttpClientWebSockets(
                HOST, proxy.port, True, authority.client_context(), connect=False
            ) as client,
        ):
            client.auto_reconnect("topics", protocol=protocol)
            assert protocol.subscribe("news", heard).wait(ms(5_000))
            assert protocol.publish("news", 0).wait(ms(2_000))
            proxy.cut()
            hub.publish("news", 1)
            assert protocol.publish("news", 2).wait(ms(5_000))
            assert heard.wait(3) == [0, 1, 2]
