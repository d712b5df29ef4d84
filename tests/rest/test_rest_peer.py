"""Our server and our client beside a peer in a process of its own, written from the description of
the wire alone (``rest_peer.py``).
"""

from __future__ import annotations

import queue
from typing import Any

import pytest
from support import BOUND, HOST, fast_settings
from support.children import Child
from support.rest import active, mirror, rest_server

from mormot_ws import HttpClientWebSockets, HttpServerRequest, pboSynLzCompress

NON_BLOCKING = "Sec-WebSocket-REST: NonBlocking"
forms = pytest.mark.parametrize(
    ("kind", "key", "form"),
    [
        ("synopsejson", "", "plain"),
        ("synopsebin", "", "plain"),
        ("synopsebin", "", "synlz"),
        ("synopsebin", "correct horse", "plain"),
        ("synopsebin", "pässword", "synlz"),
        ("synopsebinary", "", "synlz"),
        ("synopsebinary", "secret", "synlz"),
    ],
)

#: method, URL, headers, content type, content: one line for each rule
MESSAGES: list[tuple[str, str, str, str, bytes]] = [
    ("GET", "/hello", "", "", b""),
    (
        "POST",
        "no/slash?a=b&c=%20",
        "X-One: 1\r\nX-Two: zwei é",
        "application/json",
        b'{"a":[1,"]}",null]}',
    ),
    ("get", "", "", "application/json", b'"text \\u00e9"'),
    ("PUT", '/"quotes"\\\t\x01\x7f/é€😀', "", "text/plain", 'Hé€😀 "\\/\b\f\n\r\t\x1f'.encode()),
    ("DELETE", "/x", "", "text/plain", b"a"),
    ("POST", "/binary", "", "application/octet-stream", bytes(range(256)) + b"\xff\xfe\0"),
    ("POST", "/long", "", "text/plain; charset=utf-8", b"the quick brown fox " * 40),
    ("POST", "/longer", "", "application/json", b"[" + b'{"id":1,"name":"fox"},' * 1_600 + b"{}]"),
    # 449 bytes with its fields
    ("POST", "/border", "", "application/x-any", (b"abcdefg" * 60)[:411]),
    ("POST", "/border", "", "application/x-any", (b"abcdefg" * 60)[:412]),  # 450
    (
        "POST",
        "/noise",
        "",
        "application/x-any",
        bytes(i * i * 31 >> 3 & 255 for i in range(1, 900)),
    ),
    ("POST", "/image", "", "image/jpeg", b"\xff\xd8\xff\xe0" + b"abcdefg" * 100),
]


def answer_of(kind: str, content_type: str, content: bytes) -> tuple[str, bytes]:
    """Return type and content as they arrive: an empty body is two quotes in JSON."""
    return (
        ("application/json", b'""')
        if kind == "synopsejson" and not content
        else (content_type, content)
    )


class Seen:
    """An application that remembers what it was asked, and answers with that."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[HttpServerRequest] = queue.SimpleQueue()

    def __call__(self, ctxt: HttpServerRequest) -> int:
        self.requests.put(ctxt)
        ctxt.out_content, ctxt.out_content_type = ctxt.in_content, ctxt.in_content_type
        if ctxt.in_content == b'""':
            ctxt.out_content, ctxt.out_content_type = b"", ""
        ctxt.out_custom_headers = "X-Answer: 1\r\nX-Other: é"
        return 201

    def next(self) -> HttpServerRequest:
        return self.requests.get(timeout=BOUND)


def check_asked_by(peer: Child, seen: Seen, kind: str) -> None:
    """Let the peer send each message; our application has to see it, the peer has to get its
    answer.
    """
    for method, url, headers, content_type, content in MESSAGES:
        answer = peer.ask(ask=[method, url, headers, 0, content_type, content.hex()])
        back_type, back = answer_of(kind, content_type if content else "", content)
        ctxt = seen.next()
        assert (ctxt.method, ctxt.url, ctxt.in_headers) == (method, url, headers)
        assert (ctxt.in_content_type, ctxt.in_content) == (back_type, back)
        if kind == "synopsejson" and not content:
            back_type, back = "application/json", b""
        assert answer == {"answer": [201, "X-Answer: 1\r\nX-Other: é", back_type, back.hex()]}
    assert peer.ask(ask=["POST", "/silent", NON_BLOCKING, 1, "text/plain", "41"]) == {"sent": True}
    ctxt = seen.next()
    assert (ctxt.url, ctxt.in_headers) == ("/silent", NON_BLOCKING)
    if kind == "synopsejson":
        return
    for count in (1, 2, 3, 40):
        peer.ask(batch=count)
        asked = [seen.next() for _ in range(count)]
        assert [ctxt.url for ctxt in asked] == [f"batch/{n}" for n in range(count)]
        marks = [ctxt.in_headers.removeprefix("X: y") for ctxt in asked]
        first, last = "\r\nSec-WebSocket-Frame: [0]", "\r\nSec-WebSocket-Frame: [1]"
        assert marks == ([first] if count == 1 else [first, *[""] * (count - 2), last])


def check_heard_by(peer: Child, kind: str, ask: Any) -> None:
    """Let us send each message by *ask*; the peer has to make the same bytes of it, we have to get
    its answer.
    """
    for method, url, headers, content_type, content in MESSAGES:
        status, out_type, out_content = ask(method, url, headers, content_type, content)
        sent_type = (
            content_type.partition(";")[0]
            if content_type.startswith("application/json")
            else content_type
        )
        if kind == "synopsejson" and not content:
            sent_type = "application/json"
        sent_method = "" if method == "POST" else method
        expected = [
            sent_method,
            url,
            headers,
            0,
            sent_type if content or kind == "synopsejson" else "",
            content.hex(),
        ]
        assert peer.hear() == {"request": expected, "same": True}
        assert status == 200
        assert (out_type, out_content) == answer_of(kind, content_type if content else "", content)


@forms
def test_our_server_and_a_peer_that_is_a_client(kind: str, key: str, form: str) -> None:
    """Requests both ways, batches, and each byte that we send made again by the peer."""
    seen = Seen()
    options = pboSynLzCompress if form == "synlz" else ()
    with (
        rest_server(seen, key, options) as server,
        Child("tests.support.rest_peer", "client", kind, key, form, str(server.port)) as peer,
    ):
        assert peer.hear() == {"ready": True}
        check_asked_by(peer, seen, kind)
        [process] = [
            active(server, number) for number in range(1, 3) if server.is_active_websocket(number)
        ]

        def ask(
            method: str, url: str, headers: str, content_type: str, content: bytes
        ) -> tuple[int, str, Any]:
            ctxt = HttpServerRequest(
                url, method, headers, content, content_type, process.connection_id
            )
            return server.callback(ctxt, False), ctxt.out_content_type, ctxt.out_content

        peer.tell(hear=True)
        check_heard_by(peer, kind, ask)
        for n in range(40):
            assert (
                server.callback(
                    HttpServerRequest(f"n/{n}", connection_id=process.connection_id), True
                )
                == 200
            )
        check_queued(peer, kind, "")


@forms
def test_our_client_and_a_peer_that_is_a_server(kind: str, key: str, form: str) -> None:
    """The same the other way round."""
    seen = Seen()
    options = pboSynLzCompress if form == "synlz" else ()
    with Child("tests.support.rest_peer", "server", kind, key, form) as peer:
        port = peer.hear()["port"]
        with HttpClientWebSockets(HOST, port, timeout=5_000, settings=fast_settings()) as client:
            client.on_callback_request_process = seen
            assert client.websockets_upgrade("root", key, kind == "synopsejson", options) == ""
            check_asked_by(peer, seen, kind)

            def ask(
                method: str, url: str, headers: str, content_type: str, content: bytes
            ) -> tuple[int, str, Any]:
                status = client.request(url, method, 0, headers, content, content_type)
                return status, client.answer.content_type, client.answer.content

            peer.tell(hear=True)
            check_heard_by(peer, kind, ask)
            for n in range(40):
                assert client.request(f"n/{n}", "POST", header=NON_BLOCKING) == 200
            check_queued(peer, kind, NON_BLOCKING)


def check_queued(peer: Child, kind: str, headers: str) -> None:
    """Forty queued requests arrive in their order, in jumbo frames where there are such."""
    jumbos = 0
    number = 0
    while number < 40:
        heard = peer.hear()
        if "jumbo" in heard:
            jumbos += 1
            continue
        empty = "application/json" if kind == "synopsejson" else ""
        assert heard == {"request": ["", f"n/{number}", headers, 1, empty, ""], "same": True}
        number += 1
    assert (jumbos > 0) is (kind != "synopsejson")


def test_a_wrong_key_ends_the_connection() -> None:
    """With a close frame that the peer can answer."""
    with (
        rest_server(mirror, "right", pboSynLzCompress) as server,
        Child(
            "tests.support.rest_peer", "client", "synopsebin", "wrong", "synlz", str(server.port)
        ) as peer,
    ):
        assert peer.hear() == {"ready": True}
        assert peer.ask(ask=["GET", "/", "", 0, "", ""]) == {"closed": True}
