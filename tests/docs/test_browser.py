"""The pages in a real Chromium, headless: the test page of a server, and the chat room, with
servers that are killed and come back.

Skipped where there is no browser: ``support/browser.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import HOST, echo, echo_server, wait_for
from support.browser import Tab, complaints
from support.children import fixed_port
from support.nginx import RunningNginx
from support.programs import EXAMPLES, Program
from support.redis_server import RedisServer, redis_server
from support.tls import Authority, tls_server
from support.topics import topics_on

from mormot_ws import MemoryHub, WebSocketServer
from mormot_ws.page import answer_html, answer_page

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MARKUP = "<img src=x onerror=\"document.body.id='run'\"><b>bold</b> &amp;"


# ------------------------------------------------------------------------------------ the test page


def start_echo(port: int) -> Program:
    """Return examples/server.py when it listens."""
    server = Program(EXAMPLES / "server.py", "--port", str(port))
    server.expect("^Listening on")
    return server


@pytest.fixture
def page_server() -> Iterator[WebSocketServer]:
    """An echo server in this process that answers with the page."""
    with echo_server() as server:
        server.on_request = answer_page
        yield server


def test_the_page_comes_back_by_itself_when_its_server_was_killed(
    chrome: Chrome, open_tab: Callable[[str], Tab]
) -> None:
    """Open, send, see the echo; kill the server, see the state; start it again, see the page
    reconnect and echo.
    """
    port = fixed_port()
    with start_echo(port) as server:
        tab = open_tab(f"http://{HOST}:{port}/")
        tab.wait_state("open")
        id = server.expect(r"^#(\d+) connected from 127\.0\.0\.1$")[1]
        tab.wait(lambda: tab.text("connection-id") == id, "the connection's ID")
        tab.enter("message", "hello", "grüße")
        tab.wait_texts("#log .received .text", ["hello", "grüße"])
        assert tab.text("state") == "Connected"
        assert tab.text("counts") == "2 / 2"
        assert tab.text("latency").endswith(" ms")
        assert all(note.startswith("echo after") for note in tab.texts("#log .received .note"))
        assert complaints(chrome) == []
        server.kill()
        tab.wait_state("waiting")
        assert tab.text("connection-id") == "–"
        assert tab.text("detail").startswith("Next attempt in")
        assert tab.run("return document.getElementById('send').disabled")
    with start_echo(port):
        tab.wait_state("open")
        tab.enter("message", "again")
        tab.wait_texts("#log .received .text", ["hello", "grüße", "again"])
        assert tab.text("reconnections") == "1"
        assert tab.text("counts") == "3 / 3"
        assert tab.texts("#log .event .text") == ["Connected", "Connection lost", "Connected again"]


def test_a_message_without_its_echo_is_marked_when_the_connection_is_lost(
    open_tab: Callable[[str], Tab],
) -> None:
    port = fixed_port()
    with echo_server(port, callback=lambda process, frame: None) as server:
        server.on_request = answer_page
        tab = open_tab(f"http://{HOST}:{port}/")
        tab.wait_state("open")
        tab.enter("message", "lost")
        assert tab.texts("#log .sent .note") == ["waiting for the echo"]
    tab.wait_state("waiting")
    tab.wait_texts("#log .sent .note", ["no echo: the connection was lost"])
    assert "Closed by the server: 1001" in " ".join(tab.texts("#log .event .text"))


def test_reconnect_now_does_not_wait(open_tab: Callable[[str], Tab]) -> None:
    port = fixed_port()
    with echo_server(port) as server:
        server.on_request = answer_page
        tab = open_tab(f"http://{HOST}:{port}/")
        tab.wait_state("open")
        tab.run("bound = 3600000; Math.random = () => 1")  # the wait would last an hour
    tab.wait_state("waiting")
    with echo_server(port):
        tab.click("now")
        tab.wait_state("open")


def test_the_page_shows_markup_as_text(
    page_server: WebSocketServer, open_tab: Callable[[str], Tab]
) -> None:
    tab = open_tab(f"http://{HOST}:{page_server.port}/")
    tab.wait_state("open")
    tab.enter("message", MARKUP)
    tab.wait_texts("#log .received .text", [MARKUP])
    assert tab.texts("#log img, #log b") == []
    assert tab.run("return document.body.id") == ""


def test_the_policy_keeps_smuggled_scripts_and_strangers_out(
    page_server: WebSocketServer, open_tab: Callable[[str], Tab]
) -> None:
    """Were markup to get into the page as HTML all the same, it would neither run nor connect to
    another server.
    """
    with echo_server() as stranger:
        tab = open_tab(f"http://{HOST}:{page_server.port}/")
        tab.wait_state("open")
        tab.run(
            """window.refused = [];
            document.addEventListener("securitypolicyviolation",
                (e) => refused.push(e.effectiveDirective));
            document.getElementById("log").innerHTML = arguments[0];
            try { new WebSocket(arguments[1], "echo"); } catch { }""",
            MARKUP,
            f"ws://{HOST}:{stranger.port}/",
        )
        expected = {"img-src", "script-src-attr", "connect-src"}
        tab.wait(
            lambda: set(tab.run("return refused")) >= {"img-src", "connect-src"}, "the refusals"
        )
        assert set(tab.run("return refused")) <= expected
        assert tab.run("return document.body.id") == ""
        assert stranger.websocket_connections == 0


@pytest.mark.parametrize("uri", ["http://example.org/room", "//example.org/room", "/room"])
def test_a_link_to_the_page_cannot_make_it_talk_to_somebody_else(
    page_server: WebSocketServer, open_tab: Callable[[str], Tab], uri: str
) -> None:
    tab = open_tab(f"http://{HOST}:{page_server.port}/?uri={uri}")
    tab.wait_state("open")
    assert tab.text("address") == f"ws://{HOST}:{page_server.port}/room  (echo)"


def test_behind_https_the_page_connects_by_wss(
    open_tab: Callable[[str], Tab], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    with tls_server(authority.server_context(), echo) as server:
        server.on_request = answer_page
        tab = open_tab(f"https://{HOST}:{server.port}/")
        tab.wait_state("open")
        tab.enter("message", "in secret")
        tab.wait_texts("#log .received .text", ["in secret"])
        assert tab.text("address").startswith("wss://")


# ---------------------------------------------------------------------------- a page with topics.js

TOPICS_PAGE = """<!doctype html><title>News</title><body>
<script type="module">
import { Topics } from "/mormot_ws/topics.js";
const topics = new Topics("/");
topics.addEventListener("online", () => { document.body.dataset.state = "online"; });
topics.subscribe("news", ({ data }) => { document.title = data; });
</script>"""


def test_a_page_of_topics_works_behind_nginx_which_changes_the_host(
    chrome: Chrome, open_tab: Callable[[str], Tab], tmp_path: Path
) -> None:
    """Its policy still lets it import topics.js and connect, though the server believes that the
    browser is at another address.
    """
    front, *backends = (fixed_port() for _ in range(3))
    site = (EXAMPLES / "chat_nginx.conf").read_text("utf-8").replace("$http_host", "$host")
    for old, new in zip(("8999", "8997", "8998"), (front, *backends), strict=True):
        site = site.replace(old, str(new))
    with MemoryHub() as hub, topics_on(WebSocketServer, hub, backends[1]) as topics:
        topics.server.on_request = lambda ctxt: answer_html(ctxt, TOPICS_PAGE)
        with RunningNginx(tmp_path, site, front):
            tab = open_tab(f"http://localhost:{front}/")
            tab.wait_state("online")
            wait_for(lambda: topics.protocol.status().subscriptions == 1)
            hub.publish("news", "through nginx")
            tab.wait(lambda: tab.run("return document.title") == "through nginx", "the title")
            assert complaints(chrome) == []


# ------------------------------------------------------------------------------------ the chat room


def start_chat(port: int, redis: RedisServer) -> Program:
    """Return the chat server when it listens."""
    server = Program(EXAMPLES / "chat_server.py", "--port", str(port), "--redis", redis.url)
    server.expect("^Listening on")
    return server


def test_two_tabs_and_a_terminal_chat_and_miss_nothing_when_the_server_is_killed(
    chrome: Chrome, open_tab: Callable[[str], Tab], tmp_path: Path
) -> None:
    port = fixed_port()
    said = "#log li:not(.unsaid) .text"
    with (
        contextlib.ExitStack() as stack,
        redis_server(tmp_path) as redis,
        start_chat(port, redis) as server,
    ):
        ann = open_tab(f"http://{HOST}:{port}/?name=ann")
        bob = open_tab(f"http://{HOST}:{port}/")
        bob.enter("name", "bob")
        carol = stack.enter_context(
            Program(EXAMPLES / "chat_client.py", "carol", "--port", str(port))
        )
        carol.expect("You are carol in lobby")
        for tab in (ann, bob):
            tab.wait_state("in")
            tab.wait(lambda tab=tab: tab.text("people") == "Here: ann, bob, carol", "all three")
        ann.enter("text", "Hello from ann")
        carol.expect("ann: Hello from ann")
        carol.enter("Hello from carol")
        carol.expect("carol: Hello from carol")
        bob.enter("text", MARKUP)
        carol.expect("bob: <img")
        first = ["Hello from ann", "Hello from carol", MARKUP]
        for tab in (ann, bob):
            tab.wait_texts(said, first)
            assert tab.texts("#log img, #log b") == []
        assert complaints(chrome) == []
        server.kill()
        for tab in (ann, bob):
            tab.wait_state("waiting")
        carol.expect("Connection lost")
        bob.enter("text", "bob while away 1", "bob while away 2")
        carol.enter("carol while away")
        assert bob.texts("#log .unsaid .text") == ["bob while away 1", "bob while away 2"]
        stack.enter_context(start_chat(port, redis))
        for tab in (ann, bob):
            tab.wait_state("in")
            tab.wait(lambda tab=tab: len(tab.texts(said)) == 6, "what was said meanwhile")
        ann.enter("text", "The end")
        carol.expect("ann: The end")
        seen = ann.texts(said)
        assert seen[:3] == first
        assert sorted(seen[3:6]) == ["bob while away 1", "bob while away 2", "carol while away"]
        assert seen.index("bob while away 1") < seen.index("bob while away 2")
        bob.wait_texts(said, seen)
        assert bob.texts("#log .unsaid") == []
        for tab in (ann, bob):
            numbers = tab.run(
                "return [...document.querySelectorAll('#log [data-number]')].map((e) =>"
                " e.dataset.number)"
            )
            assert numbers == [str(number) for number in range(1, 8)]
        printed = [line.split(": ", 1)[1] for line in carol.output.splitlines() if line[2:3] == ":"]
        assert printed == seen
        bob.click("leave")
        bob.wait_state("out")
        carol.enter("/quit")
        assert carol.wait() == 0
