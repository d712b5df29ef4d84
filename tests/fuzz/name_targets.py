"""Proxies' answers, and names: of hosts, of proxies, of resources."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from mormot_ws.client.arguments import parse_websocket_uri
from mormot_ws.core.names import dialled_host, wire_authority, wire_host, wire_resource
from mormot_ws.sockets.no_proxy import is_left_out
from mormot_ws.sockets.proxies import ProxyError, ProxyUrl, connect_by_http, connect_by_socks

#: bytes of an input that are looked at
MAX_INPUT = 8192
#: the most that is read of an HTTP proxy's answer
_MOST_ANSWER = 16384
_SCHEMES = ("http", "socks5", "socks4", "http")


def check(condition: object, what: str) -> None:
    """Raise when something that must hold does not."""
    if not condition:
        raise AssertionError(what)


class _Proxy:
    """Stands for the socket to a proxy that sends *answer*, in pieces of some size."""

    def __init__(self, answer: bytes, size: int) -> None:
        self._answer = answer
        self._size = size
        self.taken = 0
        self.sent = b""

    def recv(self, size: int) -> bytes:
        data = self._answer[self.taken : self.taken + min(size, self._size)]
        self.taken += len(data)
        return data

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def setsockopt(self, *_: object) -> None:
        """Nothing to set."""

    def close(self) -> None:
        """Nothing to close."""


def _ask(scheme: str, answer: bytes, size: int) -> tuple[Hashable, ...]:
    sock = _Proxy(answer, size)
    talk: Any = sock
    proxy = ProxyUrl(scheme, "proxy", 1, "me", "secret")
    try:
        if scheme == "http":
            connect_by_http(talk, proxy, "server.test:80")
        else:
            connect_by_socks(talk, proxy, "server.test", 80)
    except OSError as exc:
        text = str(exc)
        check(text, "an error without a text")
        check(isinstance(exc, ProxyError), f"{type(exc).__name__} is no refusal")
        status = getattr(exc, "http_status", 0)
        check(status == 0 or 300 <= status <= 999, f"refused with {status}")
        check(sock.taken <= _MOST_ANSWER, "read beyond the limit")
        return "refused", scheme, status, "" if status else text[:24]
    if scheme == "http":
        head = answer[: sock.taken]
        check(head.endswith((b"\n\r\n", b"\n\n")), "the answer did not end at an empty line")
    return "opened", scheme, sock.taken


def run_proxy(data: bytes) -> Hashable:
    """Let a client ask a proxy, and judge its answer."""
    scheme, size, answer = (
        (_SCHEMES[data[0] & 3], data[1], data[2:MAX_INPUT]) if len(data) > 2 else ("http", 1, b"")
    )
    outcome = _ask(scheme, answer, len(answer) or 1)
    again = _ask(scheme, answer, size & 7 or 1)
    check(outcome == again, f"{outcome} in one piece, {again} in pieces")
    return outcome[:3] if outcome[0] == "opened" else outcome


def proxy_seeds() -> list[bytes]:
    """Return answers of good and bad proxies."""
    http = [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\nearly",
        b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nearly",
        b"HTTP/1.1 204 No\nTransfer-Encoding: chunked\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
        b"HTTP/1.1 503 \x1b[31m\r\nRetry-After: 5\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 6000 + b"\r\n\r\n",
    ]
    socks5 = [
        b"\x05\x00\x05\x00\x00\x01" + bytes(6),
        b"\x05\x02\x01\x00\x05\x00\x00\x01" + bytes(6) + b"early",
        b"\x05\x00\x05\x00\x00\x03\x04name\x00\x50",
        b"\x05\x00\x05\x00\x00\x04" + bytes(18),
        b"\x05\x02\x01\x01",
        b"\x05\xff",
        *(b"\x05\x00\x05" + bytes([code]) + b"\x00\x01" + bytes(6) for code in (1, 2, 5, 8)),
    ]
    socks4 = [b"\x00" + bytes([code]) + bytes(6) for code in (0x5A, 0x5B, 0x5C, 0x5D, 0x99)]
    return [
        bytes([kind, 3]) + answer
        for kind, answers in ((0, http), (1, socks5), (2, socks4))
        for answer in answers
    ]


PROXY_TOKENS = [
    b"HTTP/1.1 ",
    b"HTTP/1.0 ",
    b"200",
    b"100",
    b"101",
    b"407",
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"\x05\x00",
    b"\x05\x02\x01\x00",
    b"\x00\x5a",
]


def _parts(text: str) -> Iterator[tuple[str, Hashable]]:
    """Give the name of each reader, and what it made of *text*."""
    for name, reader in (
        ("host", lambda: (wire_host(text), dialled_host(text), wire_authority(text, 81, 80))),
        ("resource", lambda: wire_resource(text)),
        ("uri", lambda: parse_websocket_uri(text)),
        ("proxy", lambda: ProxyUrl.parse(text)),
    ):
        try:
            yield name, reader()
        except ValueError as exc:
            check(str(exc), "an error without a text")
            yield name, None


def run_names(data: bytes) -> Hashable:
    """Read *data* as a host, a resource, a URI, a proxy's URL, and an entry of ``no_proxy``."""
    text = data[:MAX_INPUT].decode("utf-8", "surrogateescape")
    found = dict(_parts(text))
    host, resource, uri, proxy = (found[name] for name in ("host", "resource", "uri", "proxy"))
    kind: list[Hashable] = []
    if host is not None:
        told, dialled, authority = host  # type: ignore[misc]
        for name in host:  # type: ignore[attr-defined]
            check(name and name.isascii() and name.isprintable(), f"{name!r} goes out")
            check(not set(name) & set(" /?#@\\"), f"{name!r} has a separator")
        check("%" not in told + authority, "a zone goes out")
        check(wire_host(dialled) == told, "what was dialled is another host")
        check(wire_host(told) in (told, told.removesuffix(".")), "what was told is another host")
        kind.append((":" in told, told == text, dialled.endswith("."), "xn--" in told))
    if resource is not None:
        check(str(resource).isascii(), "a resource that is not ASCII")
        check(wire_resource(str(resource)) == resource, "it is encoded twice")
        kind.append(resource == text)
    if uri is not None:
        name, port, path, tls = uri  # type: ignore[misc]
        check(0 <= port < 65536 and name and not path.startswith("//x"), f"{uri!r}")
        kind.append((tls, port in (80, 443), bool(path)))
    if isinstance(proxy, ProxyUrl):
        check(0 < proxy.port < 65536 and wire_host(proxy.host), f"{proxy!r}")
        kind.append((proxy.scheme, bool(proxy.user), bool(proxy.password)))
    left_out = [
        is_left_out(name, 80, text) for name in ("server.test", "10.1.2.3", "fd00::1", "xn--x")
    ]
    return (*kind, *left_out)


def name_seeds() -> list[bytes]:
    """Return names of all kinds."""
    return [
        text.encode()
        for text in (
            "server.test",
            "server.test.",
            "bücher.test",
            "faß.test",
            "☃.test",
            "127.0.0.1",
            "[fe80::1%25eth0]",
            "fe80::1%eth0",
            "café/ü?x=%20&y=é",
            "ws://server.test:81/path?query",
            "wss://[fe80::1%25lo]/",
            "ws://b%C3%BCcher.test/é",
            "http://me:a#b@proxy:3128/",
            "socks://proxy",
            "socks5h://me@[fd00::1]:9",
            "http://:%40@proxy",
            "*",
            "*.test, 10.0.0.0/8",
            "10.1.2.3:80 [fd00::]/8:81",
            ".test:80",
        )
    ]


NAME_TOKENS = [
    b"ws://",
    b"wss://",
    b"http://",
    b"socks5://",
    b"[",
    b"]",
    b"%25",
    b"%",
    b"@",
    b":",
    b"::",
    b".",
    b"*",
    b"/8",
    b":80",
    "ü".encode(),
    "。".encode(),
    "／".encode(),
    b"xn--",
    b"server.test",
    b"10.1.2.3",
    b"\xff",
]
