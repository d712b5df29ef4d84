"""The header of the PROXY protocol, byte by byte."""

from __future__ import annotations

import socket
import struct

import pytest

from mormot_ws.core.proxy_protocol import ProxyHeader, ProxyHeaderError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PORTS = struct.pack("!HH", 5000, 443)
V4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("10.0.0.1") + PORTS
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(15) + b"\1" + PORTS
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7") + bytes(16) + PORTS


def v2(command: int, family: int, data: bytes) -> bytes:
    """Return a header of version 2."""
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(data)) + data


GOOD = [
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n", "192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 0 65535\r\n", "192.0.2.7"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ff:ff what ever\r\n", ""),
    (v2(0x21, 0x11, V4), "192.0.2.7"),
    (v2(0x21, 0x21, V6), "2001:db8::7"),
    (v2(0x21, 0x21, MAPPED), "192.0.2.7"),
    (v2(0x21, 0x11, V4 + b"\4\0\3abc"), "192.0.2.7"),
    (v2(0x21, 0x31, bytes(216)), "unix:"),
    (v2(0x20, 0x11, V4), ""),
    (v2(0x20, 0x00, b""), ""),
    (v2(0x21, 0x00, b"any"), ""),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"PROXY\r\n",
    b"proxy TCP4 192.0.2.7 10.0.0.1 5000 443\r\n",
    b"PROXY TCP5 192.0.2.7 10.0.0.1 5000 443\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 5000\r\n",
    b"PROXY TCP4 192.0.2.7  10.0.0.1 5000 443\r\n",
    b"PROXY TCP4 ::1 ::1 5000 443\r\n",
    b"PROXY TCP6 192.0.2.7 10.0.0.1 5000 443\r\n",
    b"PROXY TCP4 192.0.2.7 \xff 5000 443\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 65536\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 05000 443\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1" + b"0" * 80 + b" 443\r\n",
    b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    SIGNATURE[:-1] + b"\r",
    v2(0x11, 0x11, V4),
    v2(0x22, 0x11, V4),
    v2(0x21, 0x41, V4),
    v2(0x21, 0x13, V4),
    v2(0x21, 0x12, V4),
    v2(0x21, 0x11, V4[:-1]),
    v2(0x21, 0x21, V4),
    v2(0x21, 0x31, V6),
    SIGNATURE + b"\x21\x11\xff\xff",
]


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_it_tells_the_client_and_leaves_what_follows(header: bytes, source: str) -> None:
    """Whether it comes at once or in single bytes."""
    at_once = ProxyHeader()
    assert at_once.take(header + b"\x16\x03") == len(header)
    assert (at_once.complete, at_once.source) == (True, source)
    in_bytes = ProxyHeader()
    for at in range(len(header)):
        assert not in_bytes.complete
        assert in_bytes.take(header[at : at + 1]) == 1
    assert (in_bytes.complete, in_bytes.source) == (True, source)


@pytest.mark.parametrize("header", BAD)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    """Whether it comes at once or in single bytes."""
    with pytest.raises(ProxyHeaderError):
        ProxyHeader().take(header)

    def in_bytes() -> None:
        slow = ProxyHeader()
        for at in range(len(header)):
            slow.take(header[at : at + 1])

    with pytest.raises(ProxyHeaderError):
        in_bytes()
