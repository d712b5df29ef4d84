"""The page for the browser, without a browser: what a server answers to a plain request, byte by
byte, and the page's own greeting.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files

import pytest
from support import HOST, HttpHead, RawClient, echo_server, exchange, upgraded

from mormot_ws import (
    HttpServerRequest,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketServer,
    focContinuation,
    focText,
)
from mormot_ws.page import answer_html, answer_page, greet_page

Handler = Callable[[HttpServerRequest], int]


@pytest.fixture
def page_server(server: WebSocketServer) -> WebSocketServer:
    """An echo server that answers with the page."""
    server.on_request = answer_page
    return server


def ask(
    port: int, target: str = "/", method: str = "GET", host: str = f"{HOST}:8999"
) -> tuple[HttpHead, str]:
    """Ask a server over a real connection; return the head and the body of its answer."""
    with RawClient(port) as client:
        client.send(
            f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        head = client.read_head()
        return head, client.read_to_end().decode("utf-8")


def policy_of(head: HttpHead) -> dict[str, list[str]]:
    """Return the directives of the answer's ``Content-Security-Policy``."""
    directives = (part.split() for part in head.headers["content-security-policy"].split(";"))
    return {name: sources for name, *sources in directives}


def hash_source(text: str) -> str:
    """Return how a policy names an inline element with that text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def metas(body: str) -> dict[str, str]:
    """Return the page's settings as they stand in its source."""
    return dict(re.findall(r'<meta name="mormot-ws-(\w+)" content="([^"]*)">', body))


# --------------------------------------------------------------------------------------- the answer


def test_the_page_comes_as_html_that_is_not_cached_guessed_at_or_referred_to(
    page_server: WebSocketServer,
) -> None:
    head, body = ask(page_server.port)
    assert head.status == 200
    assert head.headers["content-type"] == "text/html; charset=utf-8"
    assert int(head.headers["content-length"]) == len(body.encode())
    assert body.startswith("<!doctype html>")
    assert head.headers["cache-control"] == "no-store"
    assert head.headers["x-content-type-options"] == "nosniff"
    assert head.headers["referrer-policy"] == "no-referrer"


def test_a_query_does_not_change_where_the_page_is(page_server: WebSocketServer) -> None:
    assert ask(page_server.port, "/?protocol=chat")[0].status == 200


@pytest.mark.parametrize("target", ["/favicon.ico", "/index.html", "//", "/%2e"])
def test_anything_but_the_root_is_not_found_and_says_where_the_page_is(
    page_server: WebSocketServer, target: str
) -> None:
    head, body = ask(page_server.port, target)
    assert head.status == 404
    assert head.headers["content-type"] == "text/plain; charset=utf-8"
    assert "The page is at /" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_told_which_ones_there_are(
    page_server: WebSocketServer, method: str
) -> None:
    head, body = ask(page_server.port, method=method)
    assert head.status == 405
    assert head.headers["allow"] == "GET, HEAD"
    assert body == "This page only supports GET and HEAD.\n"


def test_the_server_upgrades_as_before(page_server: WebSocketServer) -> None:
    with upgraded(page_server.port) as client:
        assert exchange(client, ["hello"]) == ["hello"]


# --------------------------------------------------------------------------------------------- HEAD


def test_head_gets_the_head_of_the_page_without_the_page(page_server: WebSocketServer) -> None:
    whole, body = ask(page_server.port)
    head, nothing = ask(page_server.port, method="HEAD")
    assert nothing == ""
    assert head.status == 200
    assert head.headers["content-length"] == str(len(body.encode()))
    assert head.headers["content-security-policy"] == whole.headers["content-security-policy"]


def test_the_connection_is_in_step_after_head(page_server: WebSocketServer) -> None:
    """A body behind the answer to HEAD would be read as the head of the next answer."""
    with RawClient(page_server.port) as client:
        client.send(
            b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: "
            b"localhost\r\n\r\n"
        )
        assert client.read_head().status == 200
        head, body = client.read_answer()
        assert head.status == 404
        assert body.startswith(b"Nothing here")


def test_get_after_head_on_the_same_connection_has_its_body(page_server: WebSocketServer) -> None:
    with RawClient(page_server.port) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_head().status == 200
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, body = client.read_answer()
        assert len(body) == int(head.headers["content-length"]) > 1000


# ----------------------------------------------------------------------------- what the page may do


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(
    page_server: WebSocketServer,
) -> None:
    head, body = ask(page_server.port)
    policy = policy_of(head)
    (script,) = re.findall(r"<script>(.*?)</script>", body, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", body, re.DOTALL)
    assert policy == {
        "default-src": ["'none'"],
        "script-src": [hash_source(script)],
        "style-src": [hash_source(style)],
        "connect-src": ["'self'", f"ws://{HOST}:8999", f"wss://{HOST}:8999"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }


def test_the_policy_fits_the_packaged_page_whatever_is_filled_in(server: WebSocketServer) -> None:
    """The script and the style hold no marker, so their hashes are those of the file."""
    server.on_request = partial(answer_page, protocol="other", uri="/elsewhere")
    source = files("mormot_ws").joinpath("page.html").read_text("utf-8")
    policy = policy_of(ask(server.port)[0])
    assert policy["script-src"] == [
        hash_source(text) for text in re.findall(r"<script>(.*?)</script>", source, re.S)
    ]
    assert policy["style-src"] == [
        hash_source(text) for text in re.findall(r"<style>(.*?)</style>", source, re.S)
    ]


def test_the_packaged_page_fetches_nothing_and_has_no_inline_handlers() -> None:
    source = files("mormot_ws").joinpath("page.html").read_text("utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", source)
    assert not re.findall(r"<[a-z][^>]*\son\w+=", source)
    assert not re.findall(r"<[a-z][^>]*\sstyle=", source)
    assert "innerHTML" not in source


@pytest.mark.parametrize("host", ["example.org", "example.org:443", "[::1]:8999", "10.0.0.1:1"])
def test_the_host_that_the_browser_knows_may_be_connected_to(
    page_server: WebSocketServer, host: str
) -> None:
    connect = policy_of(ask(page_server.port, host=host)[0])["connect-src"]
    assert connect == ["'self'", f"ws://{host}", f"wss://{host}"]


@pytest.mark.parametrize(
    "host", ["x; script-src *", "a b", "*", "x,y", "[::1", "a" * 254, "x:123456", "x/y"]
)
def test_a_host_that_would_change_the_policy_is_left_out(
    page_server: WebSocketServer, host: str
) -> None:
    head, _ = ask(page_server.port, host=host)
    assert policy_of(head)["connect-src"] == ["'self'"]
    assert len(policy_of(head)) == 8


def test_a_page_without_script_and_style_may_have_none(server: WebSocketServer) -> None:
    server.on_request = lambda ctxt: answer_html(ctxt, "<p>Hello, wörld</p>")
    head, body = ask(server.port)
    assert body == "<p>Hello, wörld</p>"
    assert policy_of(head)["script-src"] == policy_of(head)["style-src"] == ["'none'"]


# -------------------------------------------------------------------------------- what is filled in


@pytest.mark.parametrize(
    ("handler", "protocol", "uri"),
    [
        (answer_page, "echo", ""),
        (partial(answer_page, protocol=""), "", ""),
        (partial(answer_page, protocol="chat", uri="/room?x=1&y=2"), "chat", "/room?x=1&amp;y=2"),
        (
            partial(answer_page, protocol='"><script>x()</script>'),
            "&quot;&gt;&lt;script&gt;x()&lt;/script&gt;",
            "",
        ),
        (partial(answer_page, uri="'><img src=x>"), "echo", "&#x27;&gt;&lt;img src=x&gt;"),
    ],
)
def test_protocol_and_uri_stand_in_the_page_as_text(
    server: WebSocketServer, handler: Handler, protocol: str, uri: str
) -> None:
    server.on_request = handler
    _, body = ask(server.port)
    assert metas(body) == {"protocol": protocol, "uri": uri}
    assert "{{" not in body.replace("{{…}}", "")
    assert len(re.findall(r"<script>", body)) == 1


# ------------------------------------------------------------------------------------- the greeting


def greeting(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """An ``on_incoming_frame`` that greets, and answers each message with itself."""
    if frame.opcode is focContinuation:
        greet_page(process)
    elif frame.opcode is focText:
        process.send_frame(WebSocketFrame(focText, frame.payload))


@pytest.fixture
def greeting_server() -> Iterator[WebSocketServer]:
    """An echo server that greets the pages that ask."""
    with echo_server(callback=greeting) as server:
        yield server


@pytest.mark.parametrize("uri", ["?greet=1", "some/where?x=2&greet=1"])
def test_a_page_that_asks_is_told_its_connection_id_first(
    greeting_server: WebSocketServer, uri: str
) -> None:
    with RawClient(greeting_server.port) as client:
        client.upgrade(uri)
        client.send_frame(focText, "hello")
        assert json.loads(client.receive_opcode(focText).text) == {
            "connection_id": client.connection_id
        }
        assert client.receive_opcode(focText).text == "hello"


@pytest.mark.parametrize("uri", ["", "?greet=0", "?greet=1&greet=0", "?greeting=1", "greet=1"])
def test_who_does_not_ask_is_not_greeted(greeting_server: WebSocketServer, uri: str) -> None:
    with RawClient(greeting_server.port) as client:
        client.upgrade(uri)
        assert exchange(client, ["hello"]) == ["hello"]
