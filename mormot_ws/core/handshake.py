"""The opening handshake (RFC 6455 §4) as values and bytes: requests and answers. No I/O.

``protocols/protocol_list.py`` decides on a server's answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from urllib.parse import quote, urlsplit

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: the characters that determine where an item of a comma-separated list ends
_MARK = re.compile(r'[,"\\]')
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
#: an ASCII letter or digit that is percent-encoded without need
_NEEDLESS = re.compile(r"%(3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])")
#: the ports that a browser leaves out of an origin
_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: what would end a header line, or must not be in one (RFC 9110 §5.5)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def accept_value(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers *key*."""
    return base64.b64encode(
        hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    ).decode("ascii")


def header_tokens(values: Iterable[str]) -> list[str]:
    """Return the comma-separated items of a header, which may occur several times.

    The items are trimmed, and empty ones are left out. A comma inside a quoted string does not
    separate items.
    """
    return [
        item
        for value in values
        for item in (part.strip(" \t") for part in _parts_of_list(value))
        if item
    ]


def _parts_of_list(value: str) -> list[str]:
    if '"' not in value:
        return value.split(",")
    # not by one pattern with nested repetitions: those need 190 bytes of memory per character
    parts = []
    begin = escaped = 0
    quoted = False
    for match in _MARK.finditer(value):
        at = match.start()
        if at < escaped:
            continue
        mark = value[at]
        if mark == '"':
            quoted = not quoted
        elif mark == ",":
            if not quoted:
                parts.append(value[begin:at])
                begin = at + 1
        elif quoted:
            escaped = at + 2
    parts.append(value[begin:])
    return parts


def checked_header_value(name: str, value: str) -> str:
    """Return *value*, which the application has set as *name*, if a header line can contain it.

    Raises ``TypeError``, or ``ValueError`` for control characters, which could add lines, and for
    text that is not Latin-1. The value is not quoted, because it may contain a token.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if _CONTROL.search(value) or any(c > "\xff" for c in value):
        raise ValueError(f"{name} contains a character that is not allowed in a header line")
    return value


def split_header_lines(lines: str) -> list[tuple[str, str]]:
    """Return the (name, value) pairs of CRLF-separated header *lines*.

    Raises ``ValueError`` for a line that is not a header.
    """
    headers = []
    for number, line in enumerate(lines.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            name, colon, value = line.partition(":")
            if not colon or not _TOKEN.fullmatch(name.strip()) or _CONTROL.search(value):
                # the line is not quoted: it may contain a token, and this text ends up in a log
                raise ValueError(
                    f"line {number} of the headers is not a header line: write 'Name: value'"
                )
            headers.append((name.strip(), value.strip()))
    return headers


class UpgradeRequest:
    """A parsed HTTP request that may ask for an upgrade to WebSocket.

    *target* is the request target; *headers* are (name, value) pairs in order, with names in lower
    case.
    """

    def __init__(
        self, method: str, target: str, http_version: str, headers: Iterable[tuple[str, str]]
    ) -> None:
        self.method = method
        self.target = target
        self.http_version = http_version
        self.headers: list[tuple[str, str]] = list(headers)
        #: the target without one leading '/', with its query
        self.uri: str = _origin_form(target.strip()).removeprefix("/")
        #: the same without its query; protocols are matched against it
        self.path: str = self.uri.partition("?")[0]
        self._values: dict[str, list[str]] = {}
        for name, value in self.headers:
            self._values.setdefault(name, []).append(value)
        self.key: str = self.header("sec-websocket-key")
        #: the requested sub-protocols, in order; None without that header
        self.protocols: list[str] | None = None
        if "sec-websocket-protocol" in self._values:
            self.protocols = header_tokens(self.all("sec-websocket-protocol"))
        self.extensions: list[str] = []
        if "sec-websocket-extensions" in self._values:
            self.extensions = header_tokens(self.all("sec-websocket-extensions"))
        self.bearer_token: str = ""
        if "authorization" in self._values:
            scheme, _, token = self.header("authorization").partition(" ")
            self.bearer_token = token.strip() if scheme.lower() == "bearer" else ""
        #: True if this asks for a WebSocket; otherwise it is a plain HTTP request
        self.is_upgrade: bool = (
            method == "GET"
            and http_version == "1.1"
            and self._has_token("upgrade", "websocket")
            and self._has_token("connection", "upgrade")
        )

    def _has_token(self, name: str, wanted: str) -> bool:
        """Return whether the list in the header *name* has an item *wanted*, in any case."""
        values = self._values.get(name, ())
        if len(values) == 1 and values[0].lower() == wanted:
            # the usual case, without a list
            return True
        return wanted in map(str.lower, header_tokens(values))

    def all(self, name: str) -> list[str]:
        """Return the values of all headers with that (lower-case) *name*."""
        return list(self._values.get(name, ()))

    def header(self, name: str) -> str:
        """Return the value of the first header with that (lower-case) *name*, or ''."""
        return self._values.get(name, ("",))[0]

    def origin_is_in(self, allowed: Collection[str] | None) -> bool:
        """Return whether *allowed* admits the ``Origin``; None admits all.

        A request without an ``Origin`` is admitted. Case is ignored, and the default port of a
        scheme may be left out.
        """
        origins = self.all("origin")
        if allowed is None or not origins:
            return True
        return len(origins) == 1 and _without_default_port(origins[0]) in map(
            _without_default_port, allowed
        )

    def fault(self) -> int:
        """Return the HTTP status that refuses this upgrade as malformed; 0: it is well-formed."""
        versions = self.all("sec-websocket-version")
        if len(versions) != 1:
            return 400
        if versions[0].strip() != "13":
            return 426
        keys = self.all("sec-websocket-key")
        if len(keys) != 1 or not is_valid_key(keys[0]):
            return 400
        if self.protocols is not None and not all(
            _TOKEN.fullmatch(name) for name in self.protocols
        ):
            return 400
        return 0


def _without_default_port(origin: str) -> str:
    """Return *origin* as a browser writes it: in lower case, without its scheme's default port."""
    origin = origin.strip().lower()
    scheme, _, place = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme, "")
    return origin.removesuffix(port) if port and place else origin


def uri_key(path: str) -> str:
    """Return a key that is equal for all paths (without query) that name the same resource.

    Case is ignored, and so is percent-encoding, except of letters, digits and ``/``: these never
    need it, so encoding them names another resource, as in the native server.
    """
    path = _NEEDLESS.sub(r"%25\1", path)
    return "/".join(
        quote(_decoded(part).lower(), safe="", errors="surrogateescape") for part in path.split("/")
    )


@lru_cache(maxsize=256)
def _own_key(path: str) -> str:
    return uri_key(path)


def _decoded(part: str) -> str:
    """Return *part* without percent-encoding. ``urllib`` needs 190 bytes of memory for each '%'."""
    if "%" not in part:
        return part
    return _ENCODED.sub(
        lambda match: bytes.fromhex(match[1].decode()), part.encode("utf-8", "surrogateescape")
    ).decode("utf-8", "surrogateescape")


#: the most characters of a path per character of its key: percent-encoding triples the bytes, and a
#: capital letter of three or four bytes may have a lower-case form of a single byte
_LONGEST_ENCODING = 12


def is_same_uri(own: str, asked: str) -> bool:
    """Return whether a peer's path *asked* names the same resource as *own*, which is one of ours.

    A peer may request many sub-protocols on one long path, and each of them is compared with all of
    ours. Therefore a path that is too long is refused unread.
    """
    key = _own_key(own)
    return len(asked) <= _LONGEST_ENCODING * len(key) and uri_key(asked) == key


def _origin_form(target: str) -> str:
    """Return the path and query of *target*, which may be a whole URI (RFC 9112 §3.2.2)."""
    if re.match(r"(?i)(https?|wss?)://", target):
        try:
            parts = urlsplit(target)
        except ValueError:
            return target  # not a URI: it names nothing that we serve
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return target


def is_token(text: str) -> bool:
    """Return whether *text* is a token (RFC 9110 §5.6.2), e.g. the name of a header."""
    return _TOKEN.fullmatch(text) is not None


def is_valid_key(key: str) -> bool:
    """Return whether *key* is the base64 of 16 bytes."""
    try:
        return len(base64.b64decode(key.strip(), validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def upgrade_answer(
    key: str, connection_id: int, protocol: str | None, extensions: str = ""
) -> bytes:
    """Return the answer 101, with the headers of a native server in the same order."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Connection-ID: {connection_id}",
    ]
    if protocol:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    if extensions:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    lines.append(f"Sec-WebSocket-Accept: {accept_value(key.strip())}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def upgrade_refusal(status: int, text: str = "") -> bytes:
    """Return the answer to an upgrade that is refused with *status*, and a line of *text* for
    people to read.

    The reason phrase is a native server's. The version is not: a native server answers with
    HTTP/1.0, which some other clients cannot read.
    """
    extra = ""
    connection = "Close"
    if status == 426:
        extra = "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"
        connection = "Upgrade, close"
    elif status == 401:
        extra = "WWW-Authenticate: Bearer\r\n"  # required by RFC 9110 §15.5.2
    body = f"{text}\n".encode() if text else b""
    if body:
        extra += f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return (
        f"HTTP/1.1 {status} WebSocket Upgrade Error\r\n{extra}Connection: {connection}\r\n\r\n"
    ).encode("latin-1") + body
