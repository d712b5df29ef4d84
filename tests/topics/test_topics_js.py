"""topics.js in a real Chromium: with a server that is the test, and says and hears the messages of
the specification, and with our servers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from support import HOST, ROOT, ms, wait_for
from support.browser import Tab, complaints
from support.children import fixed_port
from support.pages import blocks_of
from support.topics import topics_on
from support.topics_page import PAGE, SCRIPT, ScriptedServer, TopicsTab, page_served

from mormot_ws import (
    ExponentialBackoff,
    FailureKind,
    MemoryHub,
    ReconnectFailure,
    Server,
    TopicLimits,
    WebSocketAsyncServer,
    WebSocketServer,
)
from mormot_ws.page import TOPICS_JS, topics_js
from mormot_ws.testing import FaultProxy

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

StartTopics = Callable[..., TopicsTab]

SUB = {"type": "sub", "topic": "news"}
AGAIN = {"type": "again"}


def sub(epoch: str, offset: int) -> dict[str, Any]:
    """Return a subscription that goes on."""
    return {**SUB, "since": {"epoch": epoch, "offset": offset}}


def pub(seq: int, data: Any = "x") -> dict[str, Any]:
    """Return a publication of the client."""
    return {"type": "pub", "topic": "news", "seq": seq, "data": data}


@pytest.fixture
def page() -> Iterator[str]:
    """The address of the page."""
    with page_served() as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A server that does what the test says."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def start(page: str, scripted: ScriptedServer, open_tab: Callable[[str], Tab]) -> StartTopics:
    """Return what starts a client of the scripted server; waits are short."""
    return lambda **options: TopicsTab(
        open_tab(page), scripted.port, **{"baseMs": 1, "capMs": 20, **options}
    )


def test_what_was_missed_comes_once_and_in_order_and_what_was_published_is_sent_again(
    chrome: Chrome, scripted: ScriptedServer, start: StartTopics
) -> None:
    """The conversation of the specification, with repeated and missing publications in it."""
    topics = start()
    topics.run("listen('news')")
    first = scripted.accept()
    session = first.hello()
    assert re.fullmatch(r"[A-Za-z0-9_-]{16,64}", session)
    first.hear(SUB)
    first.say("sub", topic="news", epoch="e1", offset=17, recovered=True, missed=0)
    topics.run("settle('one', topics.publish('news', { text: 'grüße \\ud800' }))")
    first.hear(pub(1, {"text": "grüße \ud800"}))
    first.say("pub", topic="news", offset=18, data="a")
    first.say("pub", topic="news", offset=18, data="a")
    first.say("pub", topic="other", offset=19, data="not subscribed")
    first.say("later", topic="news", offset=19, data="of a later version")
    first.say("ack", seq=1, topic="news", epoch="e1", offset=18)
    topics.wait_settled("one", {"epoch": "e1", "offset": 18, "repeated": False})
    topics.publish("two", [2])
    topics.publish("three", 3)
    first.hear(pub(2, [2]), pub(3, 3))
    first.close()
    assert topics.wait_event("offline") == {"code": 1006, "reason": ""}
    topics.publish("four", None)
    second = scripted.accept()
    assert second.hello() == session
    second.hear(sub("e1", 18), pub(2, [2]), pub(3, 3), pub(4, None))
    second.say("sub", topic="news", epoch="e1", offset=18, recovered=True, missed=2)
    second.say("pub", topic="news", offset=19, data="b")
    second.say("pub", topic="news", offset=20, epoch="e2", data="c")
    second.say("ack", seq=2, topic="news", epoch="e1", offset=19, repeated=True)
    second.say("ack", seq=3, topic="news", epoch="e2", offset=20)
    second.say("ack", seq=4, topic="news", epoch="e2", offset=21)
    topics.wait_settled("two", {"epoch": "e1", "offset": 19, "repeated": True})
    topics.wait_settled("four", {"epoch": "e2", "offset": 21, "repeated": False})
    # a gap: what is behind it comes again
    second.say("pub", topic="news", offset=22, data="e")
    second.hear(sub("e2", 20))
    second.say("pub", topic="news", offset=23, data="f")
    second.say("sub", topic="news", epoch="e2", offset=20, recovered=True, missed=3)
    for offset, data in enumerate("def", 21):
        second.say("pub", topic="news", offset=offset, data=data)
    topics.wait_heard(
        {"recovered": True, "missed": 0, "epoch": "e1", "offset": 17, "reason": ""},
        {"topic": "news", "epoch": "e1", "offset": 18, "data": "a"},
        {"recovered": True, "missed": 2, "offset": 18},
        {"topic": "news", "epoch": "e1", "offset": 19, "data": "b"},
        {"epoch": "e2", "offset": 20, "data": "c"},
        {"recovered": True, "missed": 3},
        *({"epoch": "e2", "offset": offset, "data": data} for offset, data in enumerate("def", 21)),
    )
    assert [type for type, _ in topics.events if type != "answered"] == [
        "online",
        "offline",
        "waiting",
        "online",
    ]
    assert topics.run("return topics.unacknowledged") == 0
    assert complaints(chrome) == []


def test_what_is_lost_is_told_and_the_subscription_goes_on(
    scripted: ScriptedServer, start: StartTopics
) -> None:
    topics = start()
    topics.run("listen('news', { since: { epoch: 'e0', offset: 7 } })")
    talk = scripted.accept()
    talk.hello()
    talk.hear(sub("e0", 7))
    news = {"topic": "news"}
    talk.say("sub", **news, epoch="e1", offset=2, recovered=False, missed=1, reason="epoch")
    talk.say("pub", **news, offset=3, data="kept")
    talk.say("lost", **news, epoch="e2", offset=9, reason="trimmed")
    talk.say("pub", **news, offset=10, data="new")
    talk.say("paused", **news, reason="slow")
    talk.hear(sub("e2", 10))
    talk.say("sub", **news, epoch="e2", offset=10, recovered=True, missed=0)
    talk.say("unsub", **news, code="refused", reason="no more")
    talk.say("pub", **news, offset=11, data="not subscribed")
    talk.say("pong")
    topics.wait_heard(
        {"recovered": False, "reason": "epoch", "epoch": "e1", "offset": 2, "missed": 1},
        {"epoch": "e1", "offset": 3, "data": "kept"},
        {"recovered": False, "reason": "trimmed", "epoch": "e2", "offset": 9},
        {"epoch": "e2", "offset": 10, "data": "new"},
        {"recovered": True},
        {"code": "refused", "reason": "no more"},
    )
    # it is no subscription any more
    assert topics.run("return subscription.unsubscribe()") is False
    topics.run("listen('news')")
    talk.hear(SUB)


def test_publications_wait_for_the_window_and_for_the_time_that_the_server_wants(
    scripted: ScriptedServer, start: StartTopics
) -> None:
    topics = start()
    for number in (1, 2, 3, 4):
        topics.publish(str(number), number)
    talk = scripted.accept()
    talk.hello(window=2, payload=20)
    talk.hear(pub(1, 1), pub(2, 2))
    talk.say("nack", seq=1, topic="news", code="rate", reason="slowly", retry=5)
    talk.hear(AGAIN, pub(1, 1), pub(2, 2))
    talk.say("nack", seq=1, topic="news", code="refused", reason="not this one")
    talk.hear(pub(3, 3))
    talk.say("ack", seq=2, topic="news", epoch="e1", offset=1)
    talk.hear(pub(4, 4))
    topics.wait_settled("1", {"error": "refused", "reason": "not this one"})
    topics.publish("5", "x" * 19)
    topics.publish("6", "x" * 18)
    talk.say("ack", seq=3, topic="news", epoch="e1", offset=2)
    talk.hear(pub(6, "x" * 18))
    topics.wait_settled("5", {"error": "too_large", "reason": "over 20 bytes"})
    answered = [detail for type, detail in topics.events if type == "answered"]
    assert [detail["json"] for detail in answered] == ["1", "2", "3", '"' + "x" * 19 + '"']


def test_a_subscription_is_refused_or_tried_again_and_an_earlier_one_does_not_disturb(
    scripted: ScriptedServer, start: StartTopics
) -> None:
    topics = start()
    topics.run("listen('news')")
    talk = scripted.accept()
    talk.hello()
    talk.hear(SUB)
    talk.say("error", on="sub", topic="news", code="unavailable", reason="", retry=5)
    talk.hear(SUB)
    # a new one with the same topic, before the answer to the old one
    topics.run("subscription.unsubscribe(); listen('news')")
    talk.hear({"type": "unsub", "topic": "news"}, SUB)
    talk.say("sub", topic="news", epoch="e1", offset=5, recovered=True, missed=0)
    talk.say("pub", topic="news", offset=6, data="of the old one")
    talk.say("unsub", topic="news")
    talk.say("sub", topic="news", epoch="e1", offset=8, recovered=True, missed=0)
    talk.say("pub", topic="news", offset=9, data="new")
    topics.wait_heard({"recovered": True, "offset": 8}, {"offset": 9, "data": "new"})
    topics.run("topics.subscribe('secret', () => {}, { onRefused: (e) => heard.push([e.code]) })")
    talk.hear({"type": "sub", "topic": "secret"})
    talk.say("error", on="sub", topic="secret", code="refused", reason="no")
    topics.tab.wait(lambda: topics.heard[2:] == [["refused"]], "the refusal")
    # the members, in the order of the questions
    topics.run("settle('m', topics.members('news')); settle('n', topics.members('secret'))")
    talk.hear({"type": "members", "topic": "news"}, {"type": "members", "topic": "secret"})
    talk.say("members", topic="news", members={"4f0c": {"name": "Ann"}})
    talk.say("error", on="members", topic="secret", code="no_presence", reason="nobody is told")
    topics.wait_settled("m", {"4f0c": {"name": "Ann"}})
    topics.wait_settled("n", {"error": "no_presence", "reason": "nobody is told"})


def test_a_silent_connection_is_given_up_and_the_new_one_has_the_same_session(
    scripted: ScriptedServer, start: StartTopics
) -> None:
    topics = start(heartbeatMs=ms(250))
    first = scripted.accept()
    session = first.hello()
    first.hear({"type": "ping"})
    first.say("pong")
    first.hear({"type": "ping"})
    second = scripted.accept()  # without an end of the first
    assert second.hello() == session
    assert topics.wait_event("offline") == {"code": 1006, "reason": "the server is silent"}


@pytest.mark.parametrize("code", [1007, 4001])
def test_some_close_codes_end_it_and_what_waits_fails(
    scripted: ScriptedServer, start: StartTopics, code: int
) -> None:
    topics = start()
    topics.publish("one", 1)
    talk = scripted.accept()
    talk.hello()
    talk.hear(pub(1, 1))
    talk.end(code)
    assert topics.wait_event("ended") == {"code": code, "reason": "why"}
    topics.wait_settled("one", {"error": "closed", "reason": "why"})
    topics.publish("two", 2)
    topics.wait_settled("two", {"error": "closed", "reason": "closed"})
    assert [type for type, _ in topics.events] == ["online", "ended"]


def test_it_waits_as_the_back_off_of_the_library_does(
    page: str, scripted: ScriptedServer, open_tab: Callable[[str], Tab], monkeypatch: Any
) -> None:
    port = scripted.port
    scripted.close()
    tab = open_tab(page)
    tab.wait_state("ready")
    tab.run("Math.random = () => 0.75")
    topics = TopicsTab(tab, port, baseMs=4, capMs=50)
    topics.wait_event("waiting", 6)
    monkeypatch.setattr("random.uniform", lambda low, high: low + 0.75 * (high - low))
    policy = ExponentialBackoff(4, 50)
    failure = ReconnectFailure(FailureKind.refused, "", 1, 0)
    assert [detail["ms"] for type, detail in topics.events if type == "waiting"][:6] == [
        policy.next_delay(failure) for _ in range(6)
    ]
    topics.run("topics.close()")
    assert topics.wait_event("ended") == {"code": 1000, "reason": "closed"}


def test_another_page_goes_on_with_the_state(scripted: ScriptedServer, start: StartTopics) -> None:
    old = start(maxUnacknowledged=2)
    old.run("listen('news')")
    talk = scripted.accept()
    session = talk.hello()
    talk.hear(SUB)
    talk.say("sub", topic="news", epoch="e1", offset=5, recovered=True, missed=0)
    old.wait_heard({"offset": 5})
    old.publish("one", 1)
    old.publish("two", 2)
    old.publish("three", 3)
    old.wait_settled("three", {"error": "full", "reason": "full"})
    talk.hear(pub(1, 1), pub(2, 2))
    state = old.run("const state = topics.state(); topics.close(); return state")
    assert state == {
        "version": 1,
        "session": session,
        "sequence": 2,
        "positions": {"news": ["e1", 5]},
        "unacknowledged": [[1, "news", "1"], [2, "news", "2"]],
    }
    new = start(state=state)
    assert new.run("return topics.state()") == state
    talk = scripted.accept()
    assert talk.hello() == session
    talk.hear(pub(1, 1), pub(2, 2))
    new.run("listen('news')")
    new.publish("three", 3)
    talk.hear(sub("e1", 5), pub(3, 3))
    talk.say("ack", seq=1, topic="news", epoch="e1", offset=6)
    assert new.wait_event("answered") == {"topic": "news", "json": "1", "error": None}


def test_a_page_that_is_reloaded_goes_on(
    scripted: ScriptedServer, open_tab: Callable[[str], Tab]
) -> None:
    """With the lines of the reference page."""
    page = "docs/reference/topics-js.md"
    (block,) = [
        block.code
        for block in blocks_of((ROOT / page).read_text(encoding="utf-8"), page)
        if block.language == "js"
    ]
    assert block.count('new Topics("/",') == 1
    script = block.replace('Topics("/",', f'Topics("ws://{HOST}:{scripted.port}/",')
    with page_served(f"{script}\nwindow.topics = topics;") as port:
        tab = open_tab(f"http://{HOST}:{port}/")
        session = scripted.accept().hello()
        tab.run("topics.publish('news', 'kept'); location.reload()")
        talk = scripted.accept()
        assert talk.hello() == session
        talk.hear(pub(1, "kept"))
        assert tab.run("return sessionStorage.length") == 0


def test_a_browser_that_is_online_again_does_not_wait(
    scripted: ScriptedServer, start: StartTopics
) -> None:
    """A new attempt at once; and a connection that is open gets a ping, since the network may be
    another one.
    """
    topics = start(baseMs=3_600_000, capMs=3_600_000)
    scripted.accept().close()
    topics.wait_event("waiting")
    topics.run("dispatchEvent(new Event('online'))")
    talk = scripted.accept()
    talk.hello()
    topics.wait_event("online")
    topics.run("dispatchEvent(new Event('online'))")
    talk.hear({"type": "ping"})


def test_it_works_in_a_worker(
    page: str, scripted: ScriptedServer, open_tab: Callable[[str], Tab]
) -> None:
    tab = open_tab(page)
    tab.wait_state("ready")
    tab.run(
        """const worker = new Worker("/worker.js", { type: "module" });
        worker.onmessage = ({ data }) => heard.push(data);
        worker.postMessage(arguments[0]);""",
        f"http://{HOST}:{scripted.port}/",
    )
    talk = scripted.accept()
    talk.hello()
    talk.hear(SUB)
    talk.say("sub", topic="news", epoch="e1", offset=5, recovered=True, missed=0)
    talk.say("pub", topic="news", offset=6, data="heard")
    expected = [{"topic": "news", "epoch": "e1", "offset": 6, "data": "heard"}]
    tab.wait(lambda: tab.run("return heard") == expected, "the publication")


def test_mistakes_are_refused_at_once_and_those_of_callbacks_do_not_stop_it(
    chrome: Chrome, scripted: ScriptedServer, start: StartTopics
) -> None:
    topics = start()
    for call in (
        "topics.publish('news', undefined)",
        "topics.publish('news', () => 1)",
        "topics.publish('', 1)",
        "topics.subscribe(7, () => 1)",
        "listen('news'); listen('news')",
        "start(['http://'])",
        "start(['/'], { state: {} })",
        "start(['/'], { baseMs: 0 })",
        "start(['/'], { heartbeatMs: 'soon' })",
    ):
        assert topics.run(f"try {{ {call} }} catch (error) {{ return true }}"), call
    talk = scripted.accept()
    talk.hello()
    talk.hear(SUB)
    topics.run("settle('m', topics.members('news')); heard.push = () => { throw Error('oops'); }")
    talk.say("sub", topic="news", epoch="e1", offset=5, recovered=True, missed=0)
    topics.run("delete heard.push")
    talk.say("pub", topic="news", offset=6, data="heard")
    topics.wait_heard({"data": "heard"})
    talk.close()
    topics.wait_settled("m", {"error": "offline", "reason": "offline"})
    assert sum("oops" in line for line in complaints(chrome)) == 1


# ------------------------------------------------------------------------------- with a real server


def test_nothing_is_lost_when_the_server_dies_and_comes_back(
    page: str, open_tab: Callable[[str], Tab]
) -> None:
    """Both ways, each once and in order, and what was said to the dead server too."""
    port = fixed_port()
    with MemoryHub() as hub:
        with topics_on(WebSocketServer, hub, port):
            topics = TopicsTab(open_tab(page), port, baseMs=1, capMs=20)
            topics.run("listen('news'); listen('mine')")
            topics.tab.wait(lambda: len(topics.heard) == 2, "the answers")
            topics.publish("before", 0, "mine")
            hub.publish("news", 0)
            topics.tab.wait(lambda: len(topics.heard) == 4, "what was published")
        topics.wait_event("offline")
        for number in range(1, 21):
            hub.publish("news", number)
        topics.run("for (let n = 1; n <= 200; n += 1) settle(n, topics.publish('mine', n))")
        with topics_on(WebSocketServer, hub, port):
            topics.wait_settled("200", {"epoch": ANY, "offset": 201, "repeated": False})
            topics.tab.wait(lambda: len(topics.heard) == 226, "all")
        heard = [each for each in topics.heard if "data" in each]
        for topic, count in (("news", 21), ("mine", 201)):
            assert [each["data"] for each in heard if each["topic"] == topic] == [*range(count)]
        assert [each.data for each in hub.history("mine").publications] == [*range(201)]
        assert [each["recovered"] for each in topics.heard if "recovered" in each] == [True] * 4
        # nothing is left of the history
        topics.wait_event("offline", 2)
    with topics_on(WebSocketServer, port=port) as other:
        topics.tab.wait(lambda: len(topics.heard) == 228, "the answers of the new server")
        assert {(each["recovered"], each["reason"]) for each in topics.heard[226:]} == {
            (False, "epoch")
        }
        other.hub.publish("news", "afresh")
        topics.tab.wait(lambda: topics.heard[-1].get("data") == "afresh", "what is new")


def test_the_front_door_has_a_page_with_topics(open_tab: Callable[[str], Tab]) -> None:
    with MemoryHub() as hub, Server(0, address=HOST, hub=hub) as door:
        door.http(TOPICS_JS)(topics_js)
        door.http("/page.js")(lambda: (200, SCRIPT, {"Content-Type": "text/javascript"}))
        door.http("/")(lambda: (200, PAGE, {"Content-Type": "text/html; charset=utf-8"}))
        topics = TopicsTab(open_tab(f"http://{HOST}:{door.port}/"), door.port)
        topics.run("listen('news')")
        topics.tab.wait(lambda: topics.heard, "the answer")
        topics.publish("one", "from the page")
        topics.wait_settled("one", {"epoch": ANY, "offset": 1, "repeated": False})
        hub.publish("news", "from the server")
        topics.wait_heard(
            {"recovered": True},
            {"offset": 1, "data": "from the page"},
            {"offset": 2, "data": "from the server"},
        )


def test_a_connection_that_is_half_open_is_taken_over_and_nothing_comes_twice(
    page: str, open_tab: Callable[[str], Tab]
) -> None:
    """The network goes silent in the middle of answers: the server still believes in it."""
    with (
        topics_on(WebSocketAsyncServer) as server,
        FaultProxy(HOST, server.port) as proxy,
    ):
        topics = TopicsTab(open_tab(page), proxy.port, server.port, baseMs=1, heartbeatMs=ms(500))
        topics.run("listen('mine')")
        topics.tab.wait(lambda: topics.heard, "the answer")
        proxy.blackhole("down")
        topics.run("for (let n = 0; n < 9; n += 1) settle(n, topics.publish('mine', n))")
        wait_for(lambda: server.protocol.status().published == 9)
        proxy.blackhole()
        topics.wait_event("offline")
        topics.wait_settled("8", {"epoch": ANY, "offset": 9, "repeated": True})
        topics.tab.wait(lambda: len(topics.heard) == 11, "all")
        assert [each["data"] for each in topics.heard if "data" in each] == [*range(9)]
        status = server.protocol.status()
        assert (status.published, status.repeated, status.taken_over) == (9, 9, 1)


def test_nothing_is_lost_or_twice_or_out_of_order_when_the_network_fails_again_and_again(
    page: str, open_tab: Callable[[str], Tab]
) -> None:
    """Connections end in the middle of messages, by RST, by FIN, and with a silent network; both
    sides publish all the time.
    """
    chance = random.Random(14)
    count = 0
    with (
        MemoryHub(history_count=10_000) as hub,
        topics_on(
            WebSocketServer, hub, limits=TopicLimits(max_publications_per_second=0)
        ) as server,
        FaultProxy(HOST, server.port) as proxy,
    ):
        topics = TopicsTab(open_tab(page), proxy.port, baseMs=1, capMs=20, heartbeatMs=60)
        topics.run(
            """listen('news'); listen('mine'); window.said = 0;
            window.talking = setInterval(() => {
              if (topics.unacknowledged < 900) topics.publish('mine', said++);
            }, 2);"""
        )
        for fault in ("cut", "truncate", "close", "blackhole") * 3:
            topics.tab.wait(lambda: topics.run("return topics.online"), "a connection")
            lost = len(topics.events)
            if fault == "truncate":
                proxy.truncate(chance.randrange(1, 300), chance.choice(("up", "down")))
            else:
                getattr(proxy, fault)()
            for _ in range(chance.randrange(1, 9)):
                hub.publish("news", count)
                count += 1
            topics.tab.wait(
                lambda lost=lost: "offline" in [type for type, _ in topics.events[lost:]],
                f"the loss by {fault}",
            )
            proxy.heal()
        topics.run("clearInterval(talking)")
        said = topics.run("return said")
        topics.tab.wait(lambda: topics.run("return topics.unacknowledged") == 0, "all answers")

        def heard(topic: str) -> list[int]:
            return list(
                topics.run(
                    "return heard.filter((each) => each.topic === arguments[0] && 'data' in each)"
                    ".map((each) => each.data)",
                    topic,
                )
            )

        topics.tab.wait(lambda: len(heard("news")) >= count, "all news")
        assert heard("news") == [*range(count)]
        topics.tab.wait(lambda: len(heard("mine")) >= said, "all that was said")
        assert heard("mine") == [*range(said)]
        assert [each.data for each in hub.history("mine").publications] == [*range(said)]
