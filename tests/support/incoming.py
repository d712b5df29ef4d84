"""What the tests of WebProcessInFrame share: frames built without our encoder, the two roles,
streams in any slicing. No test in here.

:func:`wire` can write what our own encoder refuses to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mormot_ws.core.frames import (
    WebSocketFrame,
    focBinary,
    focConnectionClose,
    focPing,
    focPong,
    focText,
)
from mormot_ws.core.incoming import WebProcessInFrame

FUZZ = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
KEY = b"\x9a\x01\xfe\x37"

#: what a frame's header may hold beyond its payload: 2 bytes, 8 of length, 4 of mask
MAX_HEADER = 14


def wire(
    first: int, payload: bytes = b"", mask: bytes | None = None, *, announce: int | None = None
) -> bytes:
    """Return a frame with that *first* byte; *announce* is the length to write instead of the
    payload's own.
    """
    size = len(payload) if announce is None else announce
    bit = 0 if mask is None else 0x80
    if size <= 125:
        head = bytes((first, bit | size))
    elif size <= 0xFFFF:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(octet ^ mask[i % 4] for i, octet in enumerate(payload))


@dataclass(frozen=True)
class Role:
    """One of the two sides that the machine can be."""

    masked: bool

    @property
    def bit(self) -> int:
        return 0x80 if self.masked else 0

    def machine(self, **limits: int) -> WebProcessInFrame:
        return WebProcessInFrame(self.masked, **limits)

    def wire(self, first: int, payload: bytes = b"", *, announce: int | None = None) -> bytes:
        """Return a frame as the peer of this role sends it."""
        return wire(first, payload, KEY if self.masked else None, announce=announce)


@pytest.fixture(params=[True, False], ids=["server", "client"])
def role(request: pytest.FixtureRequest) -> Role:
    """The machine of a server, whose peer masks, and that of a client, whose peer does not."""
    return Role(request.param)


def feed_all(machine: WebProcessInFrame, parts: Iterable[bytes]) -> list[WebSocketFrame]:
    return [frame for part in parts for frame in machine.feed(part)]


def octets(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    """Return *stream* in slices, cut at *points* (taken modulo its length)."""
    places = sorted(point % (len(stream) + 1) for point in points)
    return [
        stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)
    ]


def held(machine: WebProcessInFrame) -> int:
    """Return how many bytes the machine keeps, in whatever attributes and lists it keeps them."""
    values = [
        value
        for kept in [getattr(machine, name) for name in WebProcessInFrame.__slots__]
        for value in (kept if isinstance(kept, list) else [kept])
    ]
    return sum(len(value) for value in values if isinstance(value, bytes | bytearray | memoryview))


def code_of(machine: WebProcessInFrame) -> int | None:
    return None if machine.error is None else machine.error.code


# --------------------------------------------------------------------------------------- strategies

sizes = st.sampled_from([124, 125, 126, 127, 639, 640, 641]) | st.integers(0, 700)
payloads = st.one_of(st.binary(max_size=20), sizes.map(lambda size: (bytes(range(256)) * 3)[:size]))
texts = st.one_of(
    st.text(max_size=30), st.sampled_from(["é", "€", "😀"]).map(lambda c: c * 60)
).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
controls = st.lists(
    st.tuples(
        st.sampled_from([focPing, focPong]),
        st.one_of(st.binary(max_size=8), st.binary(min_size=125, max_size=125)),
    ),
    max_size=2,
)


@st.composite
def streams(draw: st.DrawFn, masked: bool) -> tuple[bytes, list[WebSocketFrame]]:
    """Draw a valid stream of one peer, and the frames that it has to give, in the order of their
    completion.
    """
    stream: list[bytes] = []
    expected: list[WebSocketFrame] = []

    def put(first: int, payload: bytes) -> None:
        stream.append(wire(first, payload, draw(masks) if masked else None))

    def put_controls() -> None:
        for opcode, payload in draw(controls):
            put(0x80 | opcode, payload)
            expected.append(WebSocketFrame(opcode, payload))

    for _ in range(draw(st.integers(0, 4))):
        opcode = draw(st.sampled_from([focText, focBinary]))
        payload = draw(texts if opcode is focText else payloads)
        fragments = cut(payload, draw(st.lists(st.integers(0, 1000), max_size=3)))
        put_controls()
        for i, fragment in enumerate(fragments):
            fin = 0x80 if i == len(fragments) - 1 else 0
            put(fin | (0 if i else opcode), fragment)
            if not fin:
                put_controls()
        expected.append(WebSocketFrame(opcode, payload))
    if draw(st.booleans()):
        close = draw(st.sampled_from([b"", b"\x03\xe8", b"\x0f\xa0bye \xe2\x82\xac"]))
        put(0x88, close)
        expected.append(WebSocketFrame(focConnectionClose, close))
    return b"".join(stream), expected


#: bytes that look like frames often enough to get beyond the first header, and are wrong often
#: enough to be garbage
garbage = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.tuples(
            st.sampled_from(
                [0x01, 0x02, 0x00, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x09, 0x83, 0xF2]
            ),
            st.sampled_from(
                [
                    b"",
                    b"a",
                    b"\xc3\xa9",
                    b"\xc3",
                    b"\x03\xe8",
                    b"\xff",
                    b"x" * 60,
                    b"x" * 126,
                    b"y" * 200,
                ]
            ),
            st.sampled_from([None, KEY, b"\0\0\0\0"]),
            st.sampled_from([None, None, None, 3, 70, 126, 65536, 1 << 40, 1 << 63]),
        ).map(lambda f: wire(f[0], f[1], f[2], announce=f[3])),
    ),
    max_size=8,
).map(b"".join)

cut_points = st.lists(st.integers(0, 10_000), max_size=12)
