"""The types of command line options: functions that argparse calls with the text of an option.

Each returns the value, or raises ``argparse.ArgumentTypeError`` with a one-line explanation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from ..client.arguments import parse_websocket_uri
from ..client.upgrade import check_custom_headers
from ..core.addresses import unix_name
from ..core.handshake import split_header_lines
from ..errors import WebSocketsError
from ..protocols.base import WebSocketProtocol
from ..settings import WebSocketProcessSettings, is_origin
from ..topics.hub import check_name
from ..topics.redis_url import parse_redis_url

_SIZES = {"": 1, "k": 1000, "M": 1000**2, "Ki": 1 << 10, "Mi": 1 << 20}
#: upper limits for bench, so that a typo does not become an attack
MOST_COUNT = 10_000_000
MOST_CONNECTIONS = 1_000
MOST_SECONDS = 3_600.0


def serve_mode(text: str) -> str:
    """Return the mode of ``serve``, which is not a port."""
    if text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode; for a port, use --port {text}")
    return text


def origin(text: str) -> str:
    """Return the origin of ``--origin``."""
    if not is_origin(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an origin like https://example.com:8443 (without a path) or null"
        )
    return text


def uri(text: str) -> str:
    """Return a ``ws://`` or ``wss://`` URI."""
    try:
        parse_websocket_uri(text)
    except ValueError:
        hint = (
            "; put an IPv6 address in brackets: ws://[::1]:8999"
            if text.count(":") > 2 and "[" not in text
            else ""
        )
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a URI like ws://host:port/resource, wss://... or "
            f"ws+unix:/path:/resource{hint}"
        ) from None
    if any(c <= " " or c == "\x7f" for c in text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: spaces and control characters must be percent-encoded"
        )
    return text


def hub(text: str) -> str:
    """Return the URL of a hub: ``memory:`` or that of a Redis server, possibly from a file."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise argparse.ArgumentTypeError(f"cannot read the file: {exc}") from None
    if text != "memory:":
        try:
            parse_redis_url(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None
    return text


def topic(text: str) -> str:
    """Return the name of a topic."""
    try:
        check_name("a topic", text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return text


def port(text: str) -> int:
    """Return a port, 0 to 65535."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def path(text: str) -> str:
    """Return a path for HTTP requests."""
    try:
        WebSocketProcessSettings(health_path=text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path like /health") from None
    return text


def network(text: str) -> str:
    """Return an IP address or a network."""
    try:
        WebSocketProcessSettings(proxy_protocol_from=[text])
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an address nor a network like 10.0.0.0/8"
        ) from None
    return text


def unix(text: str) -> str:
    """Return the address of a Unix socket, given its path or ``@NAME``."""
    address = f"unix:{text.removeprefix('unix:')}"
    try:
        unix_name(address)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return address


def mode(text: str) -> int:
    """Return the permissions of a file, given in octal."""
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not an octal number like 660")
    return value


def protocol(text: str) -> str:
    """Return the name of a sub-protocol."""
    try:
        WebSocketProtocol(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; leave out --protocol to ask for none")
    return text


def header(text: str) -> str:
    """Return a header line, ``Name: value``."""
    try:
        if len(split_header_lines(text)) != 1 or ":" not in text:
            raise ValueError("a header must have the form 'Name: value'")
        check_custom_headers(text)
    except (ValueError, WebSocketsError) as exc:
        # the message omits the value, which may be a token
        name = text.partition(":")[0] if ":" in text else ""
        raise argparse.ArgumentTypeError(f"{name!r}: {exc}" if name else str(exc)) from None
    return text


def bearer(text: str) -> Callable[[], str]:
    """Return a function that returns the token of ``--bearer``, which may be in a file.

    The function raises ``OSError`` if the file cannot be read, and ``ValueError`` if it does not
    contain a token.
    """

    def token() -> str:
        found = Path(text[1:]).read_text("utf-8").strip() if text.startswith("@") else text
        if not found or any(not "!" <= c <= "~" for c in found):
            raise ValueError("a bearer token must be one word of printable ASCII characters")
        return found

    try:
        token()
    except (OSError, ValueError) as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return token


def seconds(text: str) -> float:
    """Return a number of seconds, at least 0.01."""
    value = seconds_or_0(text)
    if not value:
        raise argparse.ArgumentTypeError("must be at least 0.01 s")
    return value


def seconds_or_0(text: str) -> float:
    """Return a number of seconds, 0 or at least 0.01."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not (value == 0 or 0.01 <= value <= 1e6):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds from 0.01 to 1000000"
        )
    return value


def linger(text: str) -> float:
    """Return a number of seconds; infinity for ``forever``."""
    return math.inf if text == "forever" else seconds_or_0(text)


def bench_seconds(text: str) -> float:
    """Return the maximum duration of a measurement, in seconds."""
    value = seconds(text)
    if value > MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_SECONDS:g} s")
    return value


def whole(text: str) -> int:
    """Return a whole number, 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> int:
    """Return a whole number, 1 or more."""
    value = whole(text)
    if not value:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def up_to(most: int) -> Callable[[str], int]:
    """Return a type for whole numbers from 1 to *most*."""

    def check(text: str) -> int:
        value = positive(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}")
        return value

    return check


def size(text: str) -> int:
    """Return a number of bytes; the text may have one of the units k, M, Ki and Mi."""
    digits = text.rstrip("kMi")
    unit = text[len(digits) :]
    if (
        not (digits.isascii() and digits.isdigit())
        or unit not in _SIZES
        or not 0 < int(digits) * _SIZES[unit] <= 1 << 30
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size like 32, 16k or 4Mi, up to 1024Mi"
        )
    return int(digits) * _SIZES[unit]
