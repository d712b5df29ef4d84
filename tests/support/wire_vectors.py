"""The captured bytes of ``data/vectors.json``, which is described in its own ``meta``, and what the
tests of them share.

The frames were recorded on the wire between native mORMot 2 programs, so a client's are masked with
the key that it drew then. Long inputs are stated by a generator or as zlib data, and checked
against their hashes here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from mormot_ws.client.upgrade import UpgradeResult, client_upgrade
from mormot_ws.core.frames import WebSocketFrame
from mormot_ws.core.handshake import UpgradeRequest
from mormot_ws.core.incoming import WebProcessInFrame
from mormot_ws.protocols.base import WebSocketProtocol
from mormot_ws.sockets.deadline import Deadline

Vector = dict[str, Any]

_DATA = json.loads(
    (Path(__file__).parents[1] / "data" / "vectors.json").read_text(encoding="utf-8")
)
#: what was recorded under each name
ALL_SCENARIOS: dict[str, Vector] = _DATA["scenarios"]
ALL_VECTORS: list[Vector] = _DATA["vectors"]


def of_kind(kind: str, scenarios: Collection[str] | None = None) -> list[Vector]:
    """Return the vectors of that *kind*, of those *scenarios* only if they are given."""
    return [
        vector
        for vector in ALL_VECTORS
        if vector["kind"] == kind and (scenarios is None or vector.get("scenario") in scenarios)
    ]


def pairs_of(scenarios: Collection[str]) -> list[tuple[Vector, Vector]]:
    """Return (request, answer) of each connection's handshake."""
    handshakes = of_kind("handshake", scenarios)
    return [
        (asked, answered)
        for asked in handshakes
        for answered in handshakes
        if (asked["dir"], answered["dir"]) == ("c2s", "s2c")
        and (asked["scenario"], asked["conn"]) == (answered["scenario"], answered["conn"])
    ]


def parametrize(vectors: list[Vector]) -> pytest.MarkDecorator:
    """Run a test for each of *vectors*, as its argument ``vector``."""
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def payload_of(vector: Vector) -> bytes:
    """Return the payload that *vector* states; that of a long one is made from its scenario and
    checked against its hash.
    """
    if "payload" in vector:
        return bytes.fromhex(vector["payload"])
    made = ALL_SCENARIOS[vector["scenario"]]["params"]
    payload: bytes = made["text_prefix"].encode() + b"x" * made["x_count"]
    assert hashlib.sha256(payload).hexdigest() == vector["payload_sha256"]
    return payload


def wire_of(vector: Vector) -> bytes:
    """Return the captured bytes; those of a long frame from its header, mask and payload, checked
    against their hash.
    """
    if "wire" in vector:
        return bytes.fromhex(vector["wire"])
    payload = payload_of(vector)
    if vector["masked"]:
        pad = int.from_bytes(
            bytes.fromhex(vector["mask"]) * (len(payload) // 4 + 1), "big"
        ) >> 8 * (4 - len(payload) % 4)
        payload = (int.from_bytes(payload, "big") ^ pad).to_bytes(len(payload), "big")
    wire = bytes.fromhex(vector["wire_header"]) + payload
    assert hashlib.sha256(wire).hexdigest() == vector["wire_sha256"]
    return wire


def frame_of(vector: Vector) -> WebSocketFrame:
    return WebSocketFrame(vector["opcode"], payload_of(vector))


def receiver_of(vector: Vector) -> WebProcessInFrame:
    """Return the machine of the side that received *vector*."""
    return WebProcessInFrame(masked=vector["dir"] == "c2s")


def request_of(vector: Vector) -> UpgradeRequest:
    """Take the captured request apart, as our HTTP layer does."""
    first, *lines = (
        bytes.fromhex(vector["wire"]).decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    )
    method, target, version = first.split(" ")
    headers = [
        (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
    ]
    return UpgradeRequest(method, target, version.removeprefix("HTTP/"), headers)


def connection_id_of(answered: Vector) -> int:
    """Return the number that the captured answer gave to its connection; any will do for a
    refusal.
    """
    return next(
        (
            int(line.split(b":")[1])
            for line in bytes.fromhex(answered["wire"]).split(b"\r\n")
            if b"Connection-ID" in line
        ),
        1,
    )


class PlayedTransport:
    """Records the client's request and plays a captured answer."""

    is_tls = False

    def __init__(self, answer: bytes) -> None:
        self.request = b""
        self._reads: Iterator[bytes] = iter([answer])

    def sendall(self, data: bytes) -> None:
        self.request += data

    def recv_within(self, size: int, deadline: Deadline) -> bytes:
        return next(self._reads, b"")


def upgrade_as_captured(
    asked: Vector,
    answered: Vector,
    protocol: WebSocketProtocol,
    uri: str,
    headers: str,
    monkeypatch: pytest.MonkeyPatch,
) -> UpgradeResult:
    """Return what our client makes of *answered*; check that it asks as in *asked*, given the same
    key and agent.
    """
    request = request_of(asked)
    monkeypatch.setattr("websocket._handshake._create_sec_websocket_key", lambda: request.key)
    transport: Any = PlayedTransport(bytes.fromhex(answered["wire"]))
    host, port = request.header("host").split(":")
    agent = request.header("user-agent")
    try:
        return client_upgrade(
            transport, host, int(port), uri, protocol, headers, agent, Deadline(10_000), 16_384
        )
    finally:
        assert transport.request == bytes.fromhex(asked["wire"])


# ------------------------------------------------------------------------------- generated contents

_WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"),
    *("websocket", "frame", "mormot", "synopse", "reconnect", "server", "client", "protocol"),
)


def _numbers(seed: int) -> Iterator[int]:
    while True:
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        yield seed >> 16


def generated(kind: str, size: int, seed: int) -> bytes:
    """Return the content that ``meta.generator`` describes."""
    numbers = _numbers(seed)
    if kind == "rand":
        return bytes(next(numbers) & 255 for _ in range(size))
    if kind == "zero":
        return bytes(size)
    if kind in ("rep", "jpeg"):
        data = bytes(97 + i % 7 for i in range(size))
        return data if kind == "rep" else b"\xff\xd8\xff\xe0" + data[4:]
    text = "[" if kind == "json" else ""
    while len(text) < size - 2 if kind == "json" else len(text) < size:
        if kind == "json":
            comma = "," if len(text) > 1 else ""
            text += f'{comma}{{"id":{next(numbers)},"name":"{_WORDS[next(numbers) & 15]}"}}'
        else:
            text += _WORDS[next(numbers) & 15] + (" " if next(numbers) & 7 else ". ")
    return (text + "]" if kind == "json" else text[:size]).encode()


def input_of(vector: Vector) -> bytes:
    """Return the input of a compression vector, checked against its hash."""
    if "input" in vector:
        data = bytes.fromhex(vector["input"])
    elif "input_gen" in vector:
        data = generated(**vector["input_gen"])
    else:
        data = zlib.decompress(base64.b64decode(vector["input_zlib_base64"]))
    assert hashlib.sha256(data).hexdigest() == vector["input_sha256"]
    return data
