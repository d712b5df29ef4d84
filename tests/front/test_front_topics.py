"""Topics through the front door: ``connect(topics=True)`` and ``Server(hub=…)``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import HOST
from support.topics import Heard
from support.waiting import ms, wait_for, when_free

import mormot_ws
from mormot_ws import (
    HubUnavailable,
    MemoryHub,
    Server,
    TopicLimits,
    WebSocketsError,
    connect,
)
from mormot_ws.front.topics import DoorTopics


@pytest.fixture
def hub() -> Iterator[MemoryHub]:
    with MemoryHub() as hub:
        yield hub


def uri(server: Server, name: str = "") -> str:
    """Return where *server* is, for the client *name*."""
    return f"ws://{HOST}:{server.port}/?name={name}"


def test_publications_go_both_ways(hub: MemoryHub) -> None:
    """From a client to others, and from the server."""
    heard = Heard()
    with Server(f"{HOST}:0", hub=hub) as server, connect(uri(server), topics=True) as ws:
        assert ws.subscribe("news", heard).wait(ms(2_000))
        assert ws.publish("news", {"a": 1}).wait(ms(2_000))
        assert server.publish("news", "b").offset == 2
        assert heard.wait(2) == [{"a": 1}, "b"]
        assert server.hub is hub
        assert ws.topics.topics == ["news"]
        assert ws.unsubscribe("news")


def test_subscribe_is_a_decorator(hub: MemoryHub) -> None:
    """And an exception of the function is told to on_error."""
    errors: list[Exception] = []
    with (
        Server(f"{HOST}:0", hub=hub) as server,
        connect(uri(server), topics=True, on_error=lambda ws, error: errors.append(error)) as ws,
    ):

        @ws.subscribe("news")
        def news(publication: mormot_ws.Publication) -> None:
            raise LookupError(publication.data)

        wait_for(lambda: hub.status().subscribers)
        server.publish("news", 1)
        wait_for(lambda: errors)
        assert isinstance(errors[0], LookupError)
        assert callable(news)


def test_it_begins_before_the_server(hub: MemoryHub) -> None:
    """A connection comes when there is a server, and with it what was asked for."""
    heard = Heard()
    with Server(f"{HOST}:0", hub=hub) as server:
        port = server.port
    with connect(f"ws://{HOST}:{port}/", topics=True) as ws:
        subscription = ws.subscribe("news", heard)
        published = ws.publish("news", 1)
        with when_free(lambda: Server(f"{HOST}:{port}", hub=hub)):
            assert published.wait(ms(10_000))
            assert subscription.wait(ms(2_000))
            wait_for(lambda: ws.connected)


def test_the_server_asks_the_application(hub: MemoryHub) -> None:
    """With the peer, whom authenticate has let in."""
    server = Server(f"{HOST}:0", hub=hub, authenticate=lambda request: request.query["name"])

    @server.on_subscribe
    def may_hear(peer: mormot_ws.Peer, topic: str) -> bool | str:
        return peer.user == "ann" or "ask ann"

    @server.on_publish
    def may_say(peer: mormot_ws.Peer, topic: str, data: Any) -> Any:
        return {"from": peer.user, "data": data}

    heard = Heard()
    with (
        server,
        connect(uri(server, "ann"), topics=True) as ann,
        connect(uri(server, "bob"), topics=True) as bob,
    ):
        assert ann.subscribe("news", heard).wait(ms(2_000))
        refused = bob.subscribe("news", print)
        assert not refused.wait(ms(2_000))
        assert refused.reason == "ask ann"
        assert bob.publish("news", 1).wait(ms(2_000))
        assert heard.wait(1) == [{"from": "bob", "data": 1}]
        assert {peer.user for peer in server.peers} == {"ann", "bob"}


def test_nobody_is_let_in_who_is_refused(hub: MemoryHub) -> None:
    """``authenticate`` is asked for topics, too."""
    with (
        Server(f"{HOST}:0", hub=hub, authenticate=lambda request: 403) as server,
        connect(uri(server), topics=True) as ws,
    ):
        publishing = ws.publish("news", 1)
        assert not publishing.wait(ms(5_000))
        assert publishing.state == "failed"
        assert hub.history("news").publications == []


def test_limits_and_presence_are_given_to_the_server(hub: MemoryHub) -> None:
    with (
        Server(
            f"{HOST}:0", hub=hub, topic_limits=TopicLimits(max_payload=5), presence=True
        ) as server,
        connect(uri(server), topics=True) as ws,
    ):
        assert not ws.publish("news", "much too long").wait(ms(2_000))
        assert ws.subscribe("news", print).wait(ms(2_000))
        assert ws.members("news", 2.0) == {ws.topics.member: None}


def test_messages_and_topics_are_beside_each_other(hub: MemoryHub) -> None:
    """What is sent to all goes to those who take messages."""
    server = Server(f"{HOST}:0", hub=hub)
    server.on_message(lambda peer, message: peer.send(message))
    with (
        server,
        connect(uri(server)) as plain,
        connect(uri(server), topics=True) as ws,
    ):
        assert plain.wait_connected(10)
        assert ws.wait_connected(10)
        assert server.send("to all") == 1
        assert plain.recv(5) == "to all"
        assert plain.send("echo")
        assert plain.recv(5) == "echo"
        assert ws.publish("news", 1).wait(ms(2_000))
        (peer,) = (peer for peer in server.peers if peer.protocol == "topics")
        for send in (peer.send, peer.send_json):
            with pytest.raises(WebSocketsError, match="connected for topics"):
                send("x")


def test_what_a_connection_is_not_for_says_so(hub: MemoryHub) -> None:
    server = Server(f"{HOST}:0", hub=hub)
    server.on_message(lambda peer, message: None)
    with (
        server,
        connect(uri(server)) as plain,
        connect(uri(server), topics=True) as ws,
    ):
        assert ws.wait_connected(10)
        for call in (
            lambda: ws.send("x"),
            lambda: ws.send_json(1),
            lambda: ws.recv(1),
            lambda: next(ws),
            lambda: ws.call("x"),
        ):
            with pytest.raises(WebSocketsError, match="this connection has topics"):
                call()
        for call in (
            lambda: plain.publish("news", 1),
            lambda: plain.subscribe("news", print),
            lambda: plain.topics,
        ):
            with pytest.raises(WebSocketsError, match="topics=True"):
                call()


def test_a_server_without_a_hub_says_so() -> None:
    server = Server(f"{HOST}:0")
    for call in (
        lambda: server.hub,
        lambda: server.publish("news", 1),
        lambda: server.on_subscribe(lambda peer, topic: True),
        lambda: server.on_publish(lambda peer, topic, data: True),
    ):
        with pytest.raises(WebSocketsError, match=r"Server\(hub=MemoryHub\(\)\)"):
            call()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hub": "redis://x"}, TypeError),
        ({"topic_limits": 3}, TypeError),
        ({"presence": "yes"}, TypeError),
    ],
)
def test_wrong_options_raise_at_once(
    hub: MemoryHub, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Server(f"{HOST}:0", **{"hub": hub, **options})


def test_wrong_arguments_of_connect_raise_at_once() -> None:
    for options, error in (
        ({"topics": "yes"}, TypeError),
        ({"topics": {"version": 9}}, ValueError),
        ({"topics": True, "protocol": ["a", "b"]}, ValueError),
        ({"topics": True, "on_message": print}, ValueError),
    ):
        with pytest.raises(error):
            connect(f"ws://{HOST}:1/", **options)  # type: ignore[arg-type]


def test_the_sub_protocol_of_the_topics_is_taken(hub: MemoryHub) -> None:
    server = Server(f"{HOST}:0", hub=hub)
    with pytest.raises(ValueError, match="hub's topics"):
        server.on_message("Topics")(lambda peer, message: None)


def test_another_program_goes_on(hub: MemoryHub) -> None:
    """``connect(topics=state)``."""
    heard = Heard()
    with Server(f"{HOST}:0", hub=hub) as server:
        with connect(uri(server), topics=True) as ws:
            assert ws.subscribe("news", heard).wait(ms(2_000))
            assert ws.publish("news", 1).wait(ms(2_000))
            heard.wait(1)
            state = ws.topics.state()
        server.publish("news", 2)
        with connect(uri(server), topics=state) as ws:
            ws.subscribe("news", heard)
            assert heard.wait(2) == [1, 2]


class TestSeveralServers:
    """Of one hub; the hub of these tests counts as one that several processes share."""

    @pytest.fixture(autouse=True)
    def shared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(DoorTopics, "reaches_others", True)

    def test_a_group_has_peers_of_all_of_them(self, hub: MemoryHub) -> None:
        """Text, bytes and JSON, to a group or to all."""
        servers = [Server(f"{HOST}:0", hub=hub), Server(f"{HOST}:0", hub=hub)]
        for server in servers:
            server.on_open(lambda peer: peer.join("room"))
            server.on_message(lambda peer, message: None)
        with (
            servers[0],
            servers[1],
            connect(uri(servers[0])) as one,
            connect(uri(servers[1])) as two,
        ):
            assert one.wait_connected(10)
            assert two.wait_connected(10)
            wait_for(lambda: all(server.groups for server in servers))
            assert servers[0].send("text", group="room") == 1
            assert servers[0].send(b"bytes") == 1
            assert servers[1].send_json({"a": 1}, group="room") == 1
            assert servers[1].send("nobody", group="other") == 0
            assert servers[1].send("last", protocol="") == 1
            for ws in (one, two):
                assert [ws.recv(5) for _ in range(4)] == ["text", b"bytes", '{"a":1}', "last"]

    def test_a_peer_that_is_named_is_one_of_this_server(self, hub: MemoryHub) -> None:
        """Numbers of peers are those of one server."""
        servers = [Server(f"{HOST}:0", hub=hub), Server(f"{HOST}:0", hub=hub)]
        for server in servers:
            server.on_message(lambda peer, message: None)
        with (
            servers[0],
            servers[1],
            connect(uri(servers[0])) as one,
            connect(uri(servers[1])) as two,
        ):
            assert one.wait_connected(10)
            assert two.wait_connected(10)
            assert servers[0].send("only one", to=servers[0].peers) == 1
            servers[0].send("all")
            assert one.recv(5) == "only one"
            assert two.recv(5) == "all"

    def test_a_hub_that_is_away_changes_nothing_here(
        self, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged, and the others are joined when it is back."""
        monkeypatch.setattr("mormot_ws.front.topics._RETRY_SECONDS", 0.02)

        def fail(*_: object, **__: object) -> Any:
            raise HubUnavailable("away")

        hub.__dict__.update(subscribe=fail, publish=fail)
        server = Server(f"{HOST}:0", hub=hub)
        server.on_message(lambda peer, message: None)
        with server, connect(uri(server)) as ws:
            assert ws.wait_connected(10)
            assert server.send("here") == 1
            assert ws.recv(5) == "here"
            assert "peers of this server: away" in caplog.text
            assert "do not arrive yet: away" in caplog.text
            del hub.__dict__["subscribe"], hub.__dict__["publish"]
            wait_for(lambda: hub.status().subscribers == 1)
        assert hub.status().subscribers == 0
