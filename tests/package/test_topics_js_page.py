"""The client of topics for browsers as a server answers it, without a browser, and what a page that
imports it may do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from support import HOST, HttpHead, RawClient

from mormot_ws import Server, WebSocketServer
from mormot_ws.page import TOPICS_JS, answer_html, answer_page, answer_topics_js, topics_js

PAGE = f'<script type="module">import {{ Topics }} from "{TOPICS_JS}";</script>'


@pytest.fixture(params=["answer_page", "answer_html", "answer_topics_js", "Server"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A server that has the file, in each of the ways to have it."""
    if request.param == "Server":
        with Server(0, address=HOST) as door:
            door.http(TOPICS_JS)(topics_js)
            yield door.port
        return
    with WebSocketServer(f"{HOST}:0") as server:
        server.on_request = {
            "answer_page": answer_page,
            "answer_html": lambda ctxt: answer_html(ctxt, PAGE),
            "answer_topics_js": answer_topics_js,
        }[request.param]
        yield server.port


def ask(
    port: int, target: str = TOPICS_JS, method: str = "GET", tag: str = ""
) -> tuple[HttpHead, bytes]:
    """Ask a server over a real connection; return the head and the body of its answer."""
    line = f"If-None-Match: {tag}\r\n" if tag else ""
    with RawClient(port) as client:
        client.send(
            f"{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{line}"
            "Connection: close\r\n\r\n".encode()
        )
        return client.read_head(), client.read_to_end()


def test_it_comes_as_a_script_that_is_kept_and_asked_for_each_time(port: int) -> None:
    head, body = ask(port)
    assert head.status == 200
    assert head.headers["content-type"] == "text/javascript; charset=utf-8"
    assert head.headers["x-content-type-options"] == "nosniff"
    assert head.headers["cache-control"] == "no-cache"
    assert body == files("mormot_ws").joinpath("static/topics.js").read_bytes()
    tag = head.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        head, nothing = ask(port, tag=known)
        assert (head.status, nothing, head.headers["etag"]) == (304, b"", tag)
    assert ask(port, tag='"other"')[0].status == 200


def test_it_can_only_be_read(port: int) -> None:
    head, nothing = ask(port, method="HEAD")
    assert (head.status, nothing) == (200, b"")
    assert int(head.headers["content-length"]) > 1_000
    assert ask(port, method="POST")[0].status == 405


def test_other_paths_are_not_found() -> None:
    with WebSocketServer(f"{HOST}:0") as server:
        server.on_request = answer_topics_js
        for target in ("/", "/mormot_ws/", "/mormot_ws/page.html", "/mormot_ws/static/topics.js"):
            head, body = ask(server.port, target)
            assert head.status == 404
            assert TOPICS_JS.encode() in body


def test_a_page_that_imports_it_may_run_it_and_the_test_page_may_not() -> None:
    with WebSocketServer(f"{HOST}:0") as server:
        server.on_request = lambda ctxt: answer_html(ctxt, PAGE)
        policy = ask(server.port, "/")[0].headers["content-security-policy"]
        assert re.search(r"script-src 'sha256-[^']{44}' 'self';", policy)
        server.on_request = answer_page
        assert "'self';" not in ask(server.port, "/")[0].headers["content-security-policy"]


def test_it_is_one_short_file_that_needs_nothing_else() -> None:
    source = files("mormot_ws").joinpath("static/topics.js").read_text("utf-8")
    assert len(source.splitlines()) < 300
    assert max(map(len, source.splitlines())) <= 100
    assert not re.search(r"^\s*import\b|\bimport\(|\beval\(|\bFunction\(", source, re.MULTILINE)
