"""Topics of several servers over one Redis, which goes and comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import HOST
from support.redis_server import RedisServer, redis_server
from support.topics import Heard, Topics, client_of, topics_on
from support.waiting import ms, wait_for

from mormot_ws import (
    ExponentialBackoff,
    Hub,
    RedisHub,
    Server,
    TopicLimits,
    WebSocketAsyncServer,
    WebSocketProtocolTopics,
    WebSocketServer,
    connect,
)
from mormot_ws.testing import FaultProxy

NO_RATE = TopicLimits(max_publications_per_second=0)
Make = Callable[..., Hub]


@pytest.fixture
def make(prefix: str) -> Iterator[Make]:
    """What makes hubs that know each other, with short waits."""
    with ExitStack() as stack:

        def make(url: str, timeout: float = 1_000) -> Hub:
            return stack.enter_context(
                RedisHub(
                    url,
                    prefix=prefix,
                    timeout=ms(timeout),
                    policy=ExponentialBackoff(base_ms=ms(5), cap_ms=ms(30)),
                )
            )

        yield make


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients try again soon what the hub was not there for."""
    monkeypatch.setattr("mormot_ws.topics.visitor._RETRY_MS", ms(30))


class Two:
    """Two servers, each with a hub of its own and a client that hears and publishes."""

    def __init__(self, stack: ExitStack, make: Make, url: str, **options: Any) -> None:
        self.servers: list[Topics] = []
        self.protocols: list[WebSocketProtocolTopics] = []
        self.heard: list[Heard] = []
        for kind in (WebSocketServer, WebSocketAsyncServer):
            topics = stack.enter_context(topics_on(kind, make(url, **options), limits=NO_RATE))
            protocol, heard = WebSocketProtocolTopics(), Heard()
            stack.enter_context(client_of(topics.port, protocol))
            subscription = protocol.subscribe("news", heard, None, heard.recovered)
            assert subscription.wait(ms(5_000))
            self.servers.append(topics)
            self.protocols.append(protocol)
            self.heard.append(heard)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_clients_of_two_servers_hear_each_other(
    make: Make, shared_redis: RedisServer, stack: ExitStack
) -> None:
    """All in the same order."""
    two = Two(stack, make, shared_redis.url)
    made = [protocol.publish("news", number) for number in range(50) for protocol in two.protocols]
    for publishing in made:
        assert publishing.wait(ms(5_000))
    for heard in two.heard:
        heard.wait(100)
        assert [each.offset for each in heard.publications] == list(range(1, 101))
    assert two.heard[0].data == two.heard[1].data


def test_a_client_moves_to_the_other_server(
    make: Make, shared_redis: RedisServer, stack: ExitStack
) -> None:
    """With its position, and what it has published without an answer."""
    one = stack.enter_context(topics_on(WebSocketServer, make(shared_redis.url)))
    other = stack.enter_context(topics_on(WebSocketAsyncServer, make(shared_redis.url)))
    proxy = stack.enter_context(FaultProxy(HOST, one.port))
    protocol, heard = WebSocketProtocolTopics(), Heard()
    stack.enter_context(client_of(proxy.port, protocol))
    assert protocol.subscribe("news", heard, None, heard.recovered).wait(ms(5_000))
    assert protocol.publish("news", 0).wait(ms(5_000))
    proxy.blackhole("down")
    publishing = protocol.publish("news", 1)
    wait_for(lambda: other.hub.history("news").position.offset == 2)
    other.hub.publish("news", 2)
    proxy.target = (HOST, other.port)
    proxy.cut()
    proxy.heal()
    assert publishing.wait(ms(5_000))
    assert (publishing.offset, publishing.repeated) == (2, True)
    assert heard.wait(3) == [0, 1, 2]
    assert all(each.recovered for each in heard.recoveries)


def test_a_redis_that_is_killed_and_has_kept_its_data_loses_nothing(
    make: Make, tmp_path: Path, stack: ExitStack
) -> None:
    """Publications wait for it, subscribers stay, and nobody is told of a loss."""
    redis = stack.enter_context(redis_server(tmp_path, appendonly="yes", appendfsync="always"))
    two = Two(stack, make, redis.url)
    assert two.protocols[0].publish("news", 0).wait(ms(5_000))
    for heard in two.heard:
        heard.wait(1)
    redis.die()
    made = [two.protocols[number % 2].publish("news", number) for number in range(1, 11)]
    wait_for(lambda: all(topics.protocol.status().unavailable for topics in two.servers))
    assert {each.state for each in made} == {"waiting"}
    assert [topics.server.websocket_connections for topics in two.servers] == [1, 1]
    redis.start()
    for publishing in made:
        assert publishing.wait(ms(10_000))
    for heard in two.heard:
        heard.wait(11)
        assert [each.offset for each in heard.publications] == list(range(1, 12))
        assert heard.recoveries == []
    for number in (0, 1):
        mine = [data for data in two.heard[0].data[1:] if data % 2 == number]
        assert mine == sorted(mine)


def test_a_redis_that_has_lost_its_data_is_told(
    make: Make, own_redis: RedisServer, stack: ExitStack
) -> None:
    """By recovered=False, to all; then it goes on."""
    two = Two(stack, make, own_redis.url)
    assert two.protocols[0].publish("news", "old").wait(ms(5_000))
    for heard in two.heard:
        heard.wait(1)
    own_redis.die()
    own_redis.forget()
    own_redis.start()
    assert two.protocols[1].publish("news", "new").wait(ms(10_000))
    for heard in two.heard:
        assert heard.wait(2) == ["old", "new"]
        assert [each.recovered for each in heard.recoveries] == [False]
        assert heard.recoveries[0].reason == "epoch"


def test_a_frozen_redis_holds_up_publishers_only(
    make: Make, own_redis: RedisServer, stack: ExitStack
) -> None:
    """Each for a bounded time; what they have published comes once."""
    two = Two(stack, make, own_redis.url, timeout=200)
    own_redis.freeze()
    made = [protocol.publish("news", "frozen") for protocol in two.protocols]
    wait_for(lambda: any(topics.protocol.status().unavailable for topics in two.servers))
    own_redis.thaw()
    for publishing in made:
        assert publishing.wait(ms(10_000))
    for heard in two.heard:
        assert heard.wait(2) == ["frozen", "frozen"]


def test_presence_is_that_of_all_servers(
    make: Make, shared_redis: RedisServer, stack: ExitStack
) -> None:
    names: set[str] = set()
    protocols: list[Any] = []
    for kind in (WebSocketServer, WebSocketAsyncServer):
        topics = stack.enter_context(topics_on(kind, make(shared_redis.url), presence=True))
        protocol = WebSocketProtocolTopics()
        stack.enter_context(client_of(topics.port, protocol))
        assert protocol.subscribe("news", print).wait(ms(5_000))
        names.add(protocol.member)
        protocols.append(protocol)
    for protocol in protocols:
        wait_for(lambda protocol=protocol: set(protocol.members("news") or ()) == names)


def test_a_group_of_the_front_door_has_peers_of_all_servers(
    make: Make, shared_redis: RedisServer, stack: ExitStack
) -> None:
    servers = [Server(f"{HOST}:0", hub=make(shared_redis.url)) for _ in range(2)]
    doors = []
    for server in servers:
        server.on_open(lambda peer: peer.join("room"))
        server.on_message(lambda peer, message: None)
        stack.enter_context(server)
        doors.append(stack.enter_context(connect(f"ws://{HOST}:{server.port}/")))
    wait_for(lambda: all(server.groups for server in servers))
    servers[0].send("hello", group="room")
    servers[0].publish("news", "beside it")
    servers[1].send(b"bytes")
    for ws in doors:
        assert {ws.recv(5), ws.recv(5)} == {"hello", b"bytes"}
