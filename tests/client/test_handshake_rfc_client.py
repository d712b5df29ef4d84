"""The opening handshake on real sockets, to the letter: what a client has to send, to take and to
refuse. A raw server writes answers.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable

import pytest
from support import (
    HOST,
    MS,
    Behaviour,
    HttpHead,
    RawServer,
    RawServerPeer,
    Recorder,
    accept_for,
    ms,
    new_client,
    sending,
    upgrade,
)
from support.heads import changed, octets

from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat


def attempt(behaviour: Behaviour, timeout: float = 5_000) -> tuple[str, int]:
    """Let a client upgrade on a raw server of that *behaviour*; return what it returned, and the
    HTTP status that it noted.
    """
    with RawServer(behaviour) as raw, new_client(raw.port, timeout, close_timeout=ms(10)) as client:
        error = upgrade(client)
        failure = client.upgrade_failure
        assert client.connected is not bool(error)
        return error, 0 if failure is None else failure.http_status


def answer_lines(head: HttpHead) -> list[str]:
    """Return a good answer to the request *head*, line by line."""
    return [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Protocol: echo",
        f"Sec-WebSocket-Accept: {accept_for(head.headers['sec-websocket-key'])}",
    ]


def answering_with(
    change: Callable[[list[str]], list[str]], chop: int = 0, behind: bytes = b"", end: str = "\r\n"
) -> Behaviour:
    """Behaviour: a good answer *change*\\ d, in pieces of *chop* bytes, with something *behind*
    it; then wait for the end.
    """

    def behaviour(peer: RawServerPeer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = octets(change(answer_lines(peer.read_head())), end) + behind
        for at in range(0, len(data), chop or len(data)):
            peer.send(data[at : at + (chop or len(data))])
        peer.wait_end()

    return behaviour


def test_the_request_is_to_the_letter() -> None:
    """The client sends what RFC 6455 §4.1 demands, and no ``Origin``, which is for browsers."""
    heads: list[HttpHead] = []

    def behaviour(peer: RawServerPeer) -> None:
        heads.append(peer.accept())
        peer.wait_end()

    with RawServer(behaviour) as raw:
        for _ in range(3):
            with new_client(raw.port, close_timeout=ms(10)) as client:
                assert upgrade(client, uri="chat/room?a=b") == ""
    for head in heads:
        assert head.first_line == "GET /chat/room?a=b HTTP/1.1"
        assert head.headers["host"] == f"{HOST}:{raw.port}"
        assert head.headers["upgrade"].lower() == "websocket"
        assert "upgrade" in head.headers["connection"].lower()
        assert head.headers["sec-websocket-version"] == "13"
        assert head.headers["sec-websocket-protocol"] == "echo"
        assert "origin" not in head.headers
        assert "sec-websocket-extensions" not in head.headers
        names = [line.split(b":")[0].lower() for line in head.raw.split(b"\r\n")[1:] if line]
        assert len(names) == len(set(names))
    keys = {head.headers["sec-websocket-key"] for head in heads}
    assert len(keys) == len(heads) == 3
    assert {len(base64.b64decode(key, validate=True)) for key in keys} == {16}


def _in_other_case(lines: list[str]) -> list[str]:
    split = [line.partition(": ") for line in lines[1:]]
    return [lines[0], *[f"{name.swapcase()}: {value}" for name, _, value in split]]


GOOD_ANSWERS: dict[str, Callable[[list[str]], list[str]]] = {
    "as it is": lambda lines: lines,
    "names in another case": _in_other_case,
    "another order": lambda lines: [lines[0], *reversed(lines[1:])],
    "no blank behind colons": lambda lines: [line.replace(": ", ":") for line in lines],
    "blanks around values": lambda lines: [
        lines[0],
        *[line.replace(": ", ": \t ") + " \t" for line in lines[1:]],
    ],
    "upgrade in another case": lambda lines: changed("Upgrade", "Upgrade: WebSocket", of=lines),
    "connection of several tokens": lambda lines: changed(
        "Connection", "Connection: keep-alive, UPGRADE", of=lines
    ),
    "connection twice": lambda lines: changed(
        "Connection", "Connection: keep-alive", "Connection: Upgrade", of=lines
    ),
    "folded with a blank": lambda lines: [*lines[:-1], lines[-1].replace(": ", ":\r\n ")],
    "folded with a tab": lambda lines: changed(
        "Connection", "Connection: keep-alive,", "\tUpgrade", of=lines
    ),
    "another reason": lambda lines: ["HTTP/1.1 101 Web Socket Protocol Handshake", *lines[1:]],
    "an empty reason": lambda lines: ["HTTP/1.1 101 ", *lines[1:]],
    "no reason": lambda lines: ["HTTP/1.1 101", *lines[1:]],
    "a reason beyond ascii": lambda lines: ["HTTP/1.1 101 Protokoll ge\xe4ndert", *lines[1:]],
    "unknown headers": lambda lines: [
        *lines,
        "X-Empty:",
        "X-Latin: \xe4",
        "Set-Cookie: a=b",
        "Set-Cookie: c=d; Path=/",
    ],
    "no protocol": lambda lines: changed("Sec-WebSocket-Protocol", of=lines),
}


@pytest.mark.parametrize("change", GOOD_ANSWERS.values(), ids=GOOD_ANSWERS)
def test_an_answer_in_any_valid_form_is_taken(change: Callable[[list[str]], list[str]]) -> None:
    """Case, order, blanks, folding, lists, repetition and reason phrase are as free as RFC 9110
    and 9112 have them.
    """
    assert attempt(answering_with(change)) == ("", 0)


@pytest.mark.parametrize("chop", [1, 2, 9])
def test_an_answer_in_chops_is_taken(chop: int) -> None:
    """Where TCP cuts the answer makes no difference, be it byte by byte."""
    assert attempt(answering_with(lambda lines: lines, chop)) == ("", 0)


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_an_interim_answer_comes_before_the_final_one(interim: str) -> None:
    """A client has to be able to read 1xx answers before the final one, even when it does not
    expect one (RFC 9110 §15.2).
    """

    def change(lines: list[str]) -> list[str]:
        return [f"HTTP/1.1 {interim}", "Link: </style.css>", "", *lines]

    assert attempt(answering_with(change)) == ("", 0)


@pytest.mark.parametrize("chop", [0, 1])
def test_frames_behind_the_answer_are_read(chop: int) -> None:
    """A server may send frames in the segment of its answer, or byte by byte behind it."""
    recorder = Recorder()
    frames = b"\x81\x05early\x89\x00\x81\x04bird"
    with (
        RawServer(answering_with(lambda lines: lines, chop, frames)) as raw,
        new_client(raw.port, close_timeout=ms(10)) as client,
    ):
        assert upgrade(client, recorder.frame) == ""
        recorder.wait("focText", 2)
        assert recorder.texts() == ["early", "bird"]


def _accept(change: Callable[[str], list[str]]) -> Callable[[list[str]], list[str]]:
    return lambda lines: [
        *lines[:-1],
        *[f"Sec-WebSocket-Accept: {value}" for value in change(lines[-1].split(": ")[1])],
    ]


REFUSED_ANSWERS: dict[str, Callable[[list[str]], list[str]]] = {
    "no accept": _accept(lambda value: []),
    "an empty accept": _accept(lambda value: [""]),
    "a wrong accept": _accept(lambda value: [accept_for("x")]),
    "an accept in another case": _accept(lambda value: [value.swapcase()]),
    "an accept without padding": _accept(lambda value: [value.rstrip("=")]),
    "an accept and more": _accept(lambda value: [f"{value}, {value}"]),
    "two accepts": _accept(lambda value: [value, value]),
    "two accepts, one wrong": _accept(lambda value: [value, accept_for("x")]),
    "two accepts, the other wrong": _accept(lambda value: [accept_for("x"), value]),
    "no upgrade": lambda lines: changed("Upgrade", of=lines),
    "another upgrade": lambda lines: changed("Upgrade", "Upgrade: h2c", of=lines),
    "upgrade with a no-break space": lambda lines: changed(
        "Upgrade", "Upgrade: websocket\xa0", of=lines
    ),
    "upgrade with a control character": lambda lines: changed(
        "Upgrade", "Upgrade: websocket\x1d", of=lines
    ),
    "no connection": lambda lines: changed("Connection", of=lines),
    "connection with a no-break space": lambda lines: changed(
        "Connection", "Connection: \xa0Upgrade", of=lines
    ),
    "accept with a no-break space": _accept(lambda value: [f"{value}\xa0"]),
    "another connection": lambda lines: changed("Connection", "Connection: close", of=lines),
    "a protocol that was not asked for": lambda lines: changed(
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: chat", of=lines
    ),
    "two protocols": lambda lines: changed(
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: echo, echo", of=lines
    ),
    "the protocol twice": lambda lines: changed(
        "Sec-WebSocket-Protocol", *["Sec-WebSocket-Protocol: echo"] * 2, of=lines
    ),
    "an empty protocol": lambda lines: changed(
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol:", of=lines
    ),
    "an extension that was not asked for": lambda lines: [
        *lines,
        "Sec-WebSocket-Extensions: permessage-deflate",
    ],
    "an unknown extension": lambda lines: [*lines, "Sec-WebSocket-Extensions: foo; bar=1"],
    "a header without a colon": lambda lines: [*lines, "nonsense"],
    "a blank before the colon": lambda lines: [*lines, "X-Blank : x"],
    "a header without a name": lambda lines: [*lines, ": nonsense"],
    "the accept behind a bare cr": lambda lines: [*lines[:-1], f"X-CR: a\r{lines[-1]}"],
}


@pytest.mark.parametrize("change", REFUSED_ANSWERS.values(), ids=REFUSED_ANSWERS)
def test_an_answer_that_is_wrong_fails_the_handshake(
    change: Callable[[list[str]], list[str]],
) -> None:
    """Each of the client's checks of RFC 6455 §4.1 fails by a text, closes the socket, and
    delivers nothing.
    """
    error, status = attempt(answering_with(change))
    assert error.startswith("Invalid HTTP Upgrade"), error
    assert status == 101


@pytest.mark.parametrize("start", [" ", "\t", "\x1d", "\xa0"], ids=ascii)
def test_a_status_line_that_begins_with_something_else_is_refused(start: str) -> None:
    """The answer begins with ``HTTP/1.1 101``, not with a blank or anything that Python takes for
    one.
    """
    assert attempt(answering_with(lambda lines: [start + lines[0], *lines[1:]]))[0]


def test_an_answer_ends_at_its_first_empty_line() -> None:
    """Where a bare LF ends a line, CRLF may end the next: what follows the empty line are
    frames.
    """
    recorder = Recorder()

    def behaviour(peer: RawServerPeer) -> None:
        head = "\n".join(answer_lines(peer.read_head())) + "\n\r\n"
        peer.send(head.encode() + b"\x81\x02hi\x82\x04\r\n\r\n")
        peer.wait_end()

    with (
        RawServer(behaviour) as raw,
        new_client(raw.port, close_timeout=ms(10)) as client,
    ):
        error = upgrade(client, recorder.frame)
        if not error:
            assert recorder.wait("focText", bound=2000 * MS).value.text == "hi"


def test_an_unasked_protocol_is_refused() -> None:
    """A client that asks for no sub-protocol takes none (RFC 6455 §4.1)."""
    with (
        RawServer(answering_with(lambda lines: lines)) as raw,
        HttpClientWebSockets.open(HOST, raw.port, timeout=ms(5000)) as client,
    ):
        error = client.websockets_upgrade("", "", protocol=WebSocketProtocolChat("", ""))
        assert error == "Invalid HTTP Upgrade Sub-Protocol"


STATUSES = {
    "200": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "400": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad",
    "401": (
        b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: '
        b"0\r\n\r\n"
    ),
    "403": (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<p>no "
        b"way</p>"
    ),
    "404": b"HTTP/1.0 404 Not Found\r\n\r\nno length, and an end",
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "426": b"HTTP/1.1 426 Upgrade Required\r\n"
    b"Sec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "500": (
        b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: "
        b"chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ),
    "502": b"HTTP/1.1 502 \r\nContent-Length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
}


@pytest.mark.parametrize("status", STATUSES)
def test_an_http_error_is_reported_with_its_status_line(status: str) -> None:
    """Whatever body comes with it, the status line is the error that ``websockets_upgrade``
    returns.
    """
    error, number = attempt(sending(STATUSES[status]))
    assert error == STATUSES[status].split(b"\r\n")[0].decode().strip()
    assert number == int(status)


@pytest.mark.parametrize(
    "status",
    [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ],
)
@pytest.mark.parametrize("location", ["http", "ws", "relative"])
def test_a_redirect_is_reported_and_not_followed(status: str, location: str) -> None:
    """The application learns of the redirect; neither the other server nor this one is asked
    again.
    """
    with RawServer(sending(b"")) as other:
        target = "/other" if location == "relative" else f"{location}://{HOST}:{other.port}/"
        answer = f"HTTP/1.1 {status}\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        with RawServer(sending(answer)) as raw, new_client(raw.port) as client:
            assert upgrade(client) == f"HTTP/1.1 {status}"
            assert client.upgrade_failure is not None
            assert client.upgrade_failure.http_status == int(status[:3])
        assert (raw.accepted, other.accepted) == (1, 0)


GARBAGE = {
    "an empty line": b"\r\n\r\n",
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "another protocol": b"ICY 101 OK\r\n\r\n",
    "http/1.0": b"HTTP/1.0 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "http/2": b"HTTP/2 101 Switching Protocols\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 1010 OK\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status in other digits": "HTTP/1.1 １０１ OK\r\n\r\n".encode(),
    "frames": b"\x81\x05hello\r\n\r\n",
    "noise": bytes(range(256)) * 10 + b"\r\n\r\n",
    "nothing": b"",
    "a cut status line": b"HTTP/1.1 10",
    "a cut header": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_an_answer_that_is_none_fails_the_handshake(data: bytes) -> None:
    """Whatever a server sends instead of an answer is an error text, never an exception."""
    error, _ = attempt(sending(data))
    assert error


ENDLESS = {
    "a status line": (b"HTTP/1.1 101 ", b"a" * 1000),
    "a header": (b"HTTP/1.1 101 Switching Protocols\r\nX-Long: ", b"a" * 1000),
    "headers": (b"HTTP/1.1 101 Switching Protocols\r\n", b"a: b\r\n" * 200),
    "folded lines": (b"HTTP/1.1 101 Switching Protocols\r\na: b\r\n", b" c\r\n" * 200),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_that_does_not_end_is_given_up_at_the_limit(what: str) -> None:
    """A head of more than ``max_header_bytes`` fails the handshake at once, not at its time-out."""
    start, part = ENDLESS[what]
    sent: list[int] = []

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(start)
        for _ in range(100_000):
            sent.append(len(part))
            peer.send(part)

    error, _ = attempt(behaviour, timeout=60_000)
    assert error.startswith("Invalid HTTP Upgrade Header")
    assert sum(sent) < 50_000_000


def test_a_head_of_many_headers_fails_or_is_read_but_does_not_raise() -> None:
    """Hundreds of headers within ``max_header_bytes`` are an answer or an error text."""
    more = [f"X-{number}: {number}" for number in range(300)]
    error, _ = attempt(answering_with(lambda lines: [lines[0], *more, *lines[1:]]))
    assert not error or error.startswith("Invalid HTTP Upgrade Header")


def test_an_answer_of_bare_line_feeds_is_read_or_refused() -> None:
    """A recipient may take a single LF for a line's end (RFC 9112 §2.2), or refuse; it does not
    hang.
    """
    error, _ = attempt(answering_with(lambda lines: lines, end="\n"))
    assert not error or error.startswith("Invalid HTTP Upgrade")
