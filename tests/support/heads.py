"""Heads of HTTP as lists of lines, to be changed and spoiled by tests. No test in here."""

from __future__ import annotations

from . import RawClient

#: a request as a browser would write it, line by line
REQUEST = [
    "GET / HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {RawClient.KEY}",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: echo",
]


def octets(lines: list[str], end: str = "\r\n") -> bytes:
    """Return a head of these *lines*."""
    return (end.join(lines) + 2 * end).encode("latin-1")


def changed(name: str, *lines: str, of: list[str] = REQUEST) -> list[str]:
    """Return *of* with *lines* in the place of the header *name*, or of the first line for the
    name ``''``.
    """
    at = next((at for at, line in enumerate(of) if line.lower().startswith(f"{name.lower()}:")), 0)
    assert bool(at) is bool(name), name
    return [*of[:at], *lines, *of[at + 1 :]]
