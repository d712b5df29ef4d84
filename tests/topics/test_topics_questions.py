"""Questions that are not answered yet: of a client that asks again, where the last answer counts;
and on a server that is being freed.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import websocket
from support import HOST, RawServer, RawServerPeer
from support.topics import Heard, Talker, client_of, refusing, topics_on
from support.waiting import BOUND, ms, wait_for

from mormot_ws import (
    HubUnavailable,
    MemoryHub,
    WebSocketAsyncServer,
    WebSocketProtocolTopics,
    focText,
)
from mormot_ws.testing import FaultProxy


def test_subscribed_again_before_the_answer(kind: Any) -> None:
    """Both answers begin at the same position; what follows comes once."""
    heard = Heard()
    protocol = WebSocketProtocolTopics()
    with (
        topics_on(kind) as topics,
        FaultProxy(HOST, topics.port) as proxy,
        client_of(proxy.port, protocol),
    ):
        first = protocol.subscribe("news", heard)
        assert first.wait(ms(2_000))
        topics.hub.publish("news", 1)
        heard.wait(1)
        proxy.blackhole("down")
        topics.hub.publish("news", 2)
        for _ in range(2):
            position = protocol.subscriptions[0].position
            protocol.unsubscribe("news")
            last = protocol.subscribe("news", heard, position, heard.recovered)
        proxy.restore()
        assert last.wait(ms(2_000))
        topics.hub.publish("news", 3)
        heard.wait(3)
        assert protocol.publish("news", 4).wait(ms(2_000))
        assert heard.wait(4) == [1, 2, 3, 4]
        assert [each.position.offset for each in heard.recoveries] == [1]


def test_answered_questions_take_no_memory() -> None:
    """A client may use any number of topics in its life."""
    protocol = WebSocketProtocolTopics()
    with topics_on(WebSocketAsyncServer, presence=True) as topics, client_of(topics.port, protocol):
        for topic in ("one", "two"):
            assert protocol.subscribe(topic, Heard()).wait(ms(2_000))
            assert protocol.members(topic, ms(2_000))
            assert protocol.unsubscribe(topic)
        own = protocol._own
        assert not own._questions
        assert not own._asked


class Script:
    """A server that says what the test wants, and reads what the client says."""

    def __init__(self) -> None:
        self.types: list[str] = []

    def __call__(self, peer: RawServerPeer) -> None:
        peer.accept()
        self._read(peer, "hello")
        self._say(peer, type="hello", v=1, member="m", limits={})
        self._read(peer, "sub")
        self._say(peer, type="sub", topic="news", epoch="e", offset=0, recovered=True, missed=0)
        self._say(peer, type="pub", topic="news", offset=1, data=1)
        for _ in range(2):
            self._say(peer, type="paused", topic="news", reason="slow")
        assert self._read(peer, "sub")["since"] == {"epoch": "e", "offset": 1}
        self._say(peer, type="sub", topic="news", epoch="e", offset=1, recovered=True, missed=1)
        self._say(peer, type="pub", topic="news", offset=2, data=2)
        # another question would come before it
        self._read(peer, "pub")
        self._say(peer, type="ack", seq=1, topic="news", epoch="e", offset=3)
        peer.wait_end()

    @staticmethod
    def _say(peer: RawServerPeer, **fields: Any) -> None:
        peer.send_frame(focText, json.dumps(fields))

    def _read(self, peer: RawServerPeer, kind: str) -> Any:
        message = json.loads(peer.receive_opcode(focText).text)
        self.types.append(message["type"])
        assert message["type"] == kind, message
        return message


def test_paused_twice_is_asked_once() -> None:
    """A pause that comes while a question is on the way needs no other."""
    heard = Heard()
    protocol = WebSocketProtocolTopics()
    script = Script()
    with RawServer(script) as server, client_of(server.port, protocol):
        protocol.subscribe("news", heard)
        assert heard.wait(2) == [1, 2]
        assert protocol.publish("news", 3).wait(ms(2_000))
    assert script.types == ["hello", "sub", "sub", "pub"]


def test_a_refusal_that_another_question_has_overtaken_asks_for_nothing() -> None:
    """The hub was away for the first one only."""
    heard = Heard()
    protocol = WebSocketProtocolTopics()
    with MemoryHub() as hub, topics_on(WebSocketAsyncServer, hub) as topics:
        back = refusing(hub, lambda: HubUnavailable("away"))
        with client_of(topics.port, protocol):
            protocol.subscribe("news", heard)
            wait_for(lambda: topics.protocol.status().unavailable == 1)
            back()
            protocol.unsubscribe("news")
            assert protocol.subscribe("news", heard, None, heard.recovered).wait(ms(2_000))
            topics.hub.publish("news", 1)
            assert heard.wait(1) == [1]
            assert heard.recoveries == []


def test_a_server_that_is_freed_asks_the_hub_nothing_more(kind: Any) -> None:
    """Each question may wait for the hub, and nobody can hear the answer."""
    asked: list[str] = []
    go_on = threading.Event()
    with MemoryHub() as hub, topics_on(kind, hub) as topics, Talker(topics.port) as talker:
        subscribe = hub.subscribe

        def slow(topic: str, *arguments: Any) -> Any:
            asked.append(topic)
            assert go_on.wait(BOUND)
            return subscribe(topic, *arguments)

        hub.__dict__["subscribe"] = slow
        frames = [
            websocket.ABNF.create_frame(json.dumps({"type": "sub", "topic": topic}), 1)
            for topic in ("a", "b", "c")
        ]
        for frame in frames:
            frame.mask_value = 1
        talker.ws.sock.sendall(b"".join(frame.format() for frame in frames))
        wait_for(lambda: asked)
        freeing = threading.Thread(target=topics.server.free)
        freeing.start()
        assert talker.closed() == 1001
        go_on.set()
        freeing.join(BOUND)
        assert not freeing.is_alive()
    assert asked == ["a"]
