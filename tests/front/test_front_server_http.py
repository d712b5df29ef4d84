"""Plain HTTP requests that a Server answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from support import BOUND, HOST, fast_settings

from mormot_ws import Request, Server

#: ``ask("/path", method="GET", body=…)`` returns the status, the headers and the body
Ask = Callable[..., tuple[int, Any, bytes]]


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server that answers some requests."""
    made = Server(0, address=HOST, settings=fast_settings())
    made.on_message("chat")(lambda peer, message: None)

    @made.http("/health")
    def health() -> dict[str, Any]:
        return {"ok": True}

    @made.http("/echo", methods=["GET", "POST"])
    def echo(request: Request) -> str:
        return f"{request.method} {request.query} {request.bearer} {request.body!r}"

    answers: dict[str, Any] = {
        "text": "é",
        "bytes": b"\x00\xff",
        "list": [1],
        "none": None,
        "status": 404,
        "pair": (201, "made"),
        "headers": (200, "<p>", {"Content-Type": "text/html; charset=utf-8", "X-One": "1"}),
        "wrong": object(),
        "triple": (1, 2, 3, 4),
    }
    for name, answer in answers.items():
        made.http(f"/{name}")(partial(lambda value: value, answer))

    @made.http("/fails")
    def fails(request: Request) -> str:
        raise ValueError("secret")

    with made:
        yield made


@pytest.fixture
def ask(server: Server) -> Iterator[Ask]:
    """Sends requests to *server*."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=BOUND)

    def request(path: str, method: str = "GET", **options: Any) -> tuple[int, Any, bytes]:
        connection.request(method, path, **options)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    yield request
    connection.close()


@pytest.mark.parametrize(
    ("path", "status", "content_type", "body"),
    [
        ("/health", 200, "application/json", b'{"ok":true}'),
        ("/health?a=1", 200, "application/json", b'{"ok":true}'),
        ("/text", 200, "text/plain; charset=utf-8", "é".encode()),
        ("/bytes", 200, "application/octet-stream", b"\x00\xff"),
        ("/list", 200, "application/json", b"[1]"),
        ("/none", 204, None, b""),
        ("/status", 404, None, b""),
        ("/pair", 201, "text/plain; charset=utf-8", b"made"),
        ("/headers", 200, "text/html; charset=utf-8", b"<p>"),
    ],
)
def test_what_a_function_returns_is_the_answer(
    ask: Ask, path: str, status: int, content_type: str | None, body: bytes
) -> None:
    """With the type that belongs to it."""
    found, headers, content = ask(path)
    assert (found, headers["Content-Type"], content) == (status, content_type, body)
    assert (headers["X-One"] == "1") == (path == "/headers")


def test_a_function_sees_the_request(ask: Ask) -> None:
    """Method, query, bearer and body."""
    headers = {"Authorization": "Bearer t"}
    assert ask("/echo?a=1", headers=headers)[2] == b"GET {'a': '1'} t b''"
    assert ask("/echo", "POST", body=b"x")[2] == b"POST {}  b'x'"


def test_a_method_that_is_not_served_is_405(ask: Ask) -> None:
    """With those that are; HEAD goes with GET."""
    status, headers, _ = ask("/health", "DELETE")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert ask("/health", "HEAD")[0] == 200


def test_a_path_that_nobody_answers_is_the_servers(ask: Ask) -> None:
    """It tells a visitor to come with a WebSocket client, as it does without any function."""
    status, headers, body = ask("/chat")
    assert (status, headers["Upgrade"]) == (426, "websocket")
    assert b"connect to it with a WebSocket client" in body


@pytest.mark.parametrize("path", ["/fails", "/wrong", "/triple"])
def test_a_function_that_fails_is_500(
    ask: Ask, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor is told nothing, the log everything; the next request is answered."""
    status, _, body = ask(path)
    assert status == 500
    assert b"secret" not in body
    assert "Traceback" in caplog.text
    assert json.loads(ask("/health")[2]) == {"ok": True}
