"""Whole conversations recorded between native programs, played again on a socket, with our server
or our client as one of the two.

The other side is a script that sends the captured bytes. What our side sends has to be the captured
bytes too, with the masks and initialisation vectors of the recording. (Handshake requests and
closing are compared elsewhere.)
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import BOUND, RawClient, RawPeer, RawServer, RawServerPeer, active, wait_for
from support.rest import rest_client, rest_server
from support.wire_vectors import ALL_SCENARIOS, ALL_VECTORS, Vector, connection_id_of, wire_of

from mormot_ws import (
    HttpServerRequest,
    WebSocketProcess,
    WebSocketProtocolBinaryOptions,
    focConnectionClose,
    wscBlockWithAnswer,
    wscBlockWithoutAnswer,
    wscNonBlockWithoutAnswer,
)

SCENARIOS = [name for name in ALL_SCENARIOS if name.startswith("synopse")]
scenarios = pytest.mark.parametrize("scenario", SCENARIOS)


def vectors_of(scenario: str, kind: str) -> list[Vector]:
    return [v for v in ALL_VECTORS if v.get("scenario") == scenario and v["kind"] == kind]


def messages_of(vector: Vector) -> list[Vector]:
    """Return what is stated of each message of a frame."""
    decoded = vector.get("decoded", [])
    return decoded if isinstance(decoded, list) else [decoded]


def content_of(vector: Vector, message: Vector) -> bytes:
    """Return the body as its sender had it: an empty one arrives as an empty JSON text."""
    content = bytes.fromhex(message["content"])
    return b"" if vector["opcode"] == 1 and content == b'""' else content


class Playing:
    """Plays *scenario* between our side, whose frames are those of direction *ours*, and a raw
    *peer*.
    """

    def __init__(self, scenario: str, ours: str) -> None:
        self.frames = vectors_of(scenario, "frame")
        self.ours = ours
        self.mine = [v for v in self.frames if v["dir"] == ours]
        self._answers = deque(
            (content_of(v, m), m)
            for v in self.mine
            for m in messages_of(v)
            if m["head"].startswith("a")
        )
        #: requests of the peer, as our application saw them
        self.seen: list[HttpServerRequest] = []
        self._received = 0
        self._waiting: threading.Thread | None = None
        self._results: list[tuple[int, HttpServerRequest]] = []

    def application(self, ctxt: HttpServerRequest) -> int:
        """Answer as the captured application did."""
        self.seen.append(ctxt)
        if ctxt.url in ("/burst", "/single", "/bigburst", "/noans") or ctxt.url.startswith("cb/nb"):
            return 200
        content, stated = self._answers.popleft()
        ctxt.out_content, ctxt.out_content_type = content, stated["ctype"]
        ctxt.out_custom_headers = stated["headers"]
        status: int = stated["status"]
        return status

    def replay_random(self, monkeypatch: pytest.MonkeyPatch, process: WebSocketProcess) -> None:
        """Let our side draw what the recorded one drew."""
        vectors = iter([bytes.fromhex(v["iv"]) for v in self.mine if "iv" in v])
        real = os.urandom
        monkeypatch.setattr(
            "mormot_ws.rest.encryption.os.urandom",
            lambda size: next(vectors) if size == 16 else real(size),
        )
        if self.ours == "c2s":
            process.sender.encoder.masks = Masks(
                iter([bytes.fromhex(v["mask"]) for v in self.mine])
            )  # type: ignore[assignment]

    def play(self, process: WebSocketProcess, peer: RawPeer) -> int:
        """Play all frames but those of the end; return how many of ours were compared."""
        compared = 0
        for vector in self.frames:
            if vector["opcode"] == focConnectionClose:
                break
            wire = wire_of(vector)
            if vector["dir"] != self.ours:
                peer.send(wire)
                self._settle(vector)
                continue
            self._cause(process, vector)
            assert receive_exactly(peer, len(wire)) == wire, vector["name"]
            compared += 1
        return compared

    def _cause(self, process: WebSocketProcess, vector: Vector) -> None:
        """Let our side send what *vector* has, unless the application does."""
        requests = [m for m in messages_of(vector) if m["head"].startswith("r")]
        if not requests:
            return
        contexts = [
            HttpServerRequest(
                m["url"], m["method"], m["headers"], content_of(vector, m), m["ctype"]
            )
            for m in requests
        ]
        if not requests[0]["noanswer"]:
            self._waiting = threading.Thread(
                target=self._ask, args=(process, contexts[0]), daemon=True
            )
            self._waiting.start()
            return
        mode = (
            wscBlockWithoutAnswer
            if "WithoutAnswer" in requests[0]["headers"]
            else wscNonBlockWithoutAnswer
        )
        if len(contexts) == 1:
            assert process.notify_callback(contexts[0], mode) == 200
            return
        with process.safe_out:  # nothing leaves before all of them are queued
            assert [process.notify_callback(ctxt, mode) for ctxt in contexts] == [200] * len(
                contexts
            )

    def _ask(self, process: WebSocketProcess, ctxt: HttpServerRequest) -> None:
        self._results.append((process.notify_callback(ctxt, wscBlockWithAnswer), ctxt))

    def _settle(self, vector: Vector) -> None:
        """After a frame of the peer: wait until our side has taken it, and check what it has made
        of it.
        """
        messages = messages_of(vector)
        message = messages[-1]
        content = bytes.fromhex(message["content"])
        if message["head"].startswith("a"):
            assert self._waiting is not None
            self._waiting.join(BOUND)
            status, ctxt = self._results.pop()
            assert (status, ctxt.out_custom_headers) == (message["status"], message["headers"])
            assert (ctxt.out_content, ctxt.out_content_type) == (content, message["ctype"])
            return
        self._received += len(messages)
        wait_for(lambda: len(self.seen) == self._received)
        seen = self.seen[-1]
        assert seen.in_content == content
        assert (seen.method, seen.url, seen.in_content_type) == (
            message["method"],
            message["url"],
            message["ctype"],
        )
        assert seen.in_headers.startswith(message["headers"])


class Masks:
    """Draws the masks of a recording."""

    def __init__(self, keys: Iterator[bytes]) -> None:
        self.next_key: Callable[[], bytes] = keys.__next__


def receive_exactly(peer: RawPeer, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.receive()
        assert more, "our side ended the connection"
        data += more
    peer._unread = data[size:]
    return data[:size]


def ends_of(scenario: str) -> dict[str, Any]:
    """Return kind, key and options of both ends."""
    params = ALL_SCENARIOS[scenario]["params"]
    options = [WebSocketProtocolBinaryOptions[name] for name in params.get("options", ())]
    return {"kind": params["protocol"], "key": params.get("key", ""), "options": options}


@scenarios
def test_our_server_says_what_the_native_one_said(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the captured bytes of a native client, from its handshake to the answered close frame."""
    playing = Playing(scenario, "s2c")
    asked, answered = vectors_of(scenario, "handshake")
    ends = ends_of(scenario)
    with rest_server(playing.application, ends["key"], ends["options"]) as server:
        server._last_connection_id = connection_id_of(answered) - 1
        with RawClient(server.port) as peer:
            peer.send(bytes.fromhex(asked["wire"]))
            expected = bytes.fromhex(answered["wire"])
            assert receive_exactly(peer, len(expected)) == expected
            process = active(server, connection_id_of(answered))
            playing.replay_random(monkeypatch, process)
            assert playing.play(process, peer) >= 3
            closes = [v for v in playing.frames if v["opcode"] == focConnectionClose]
            peer.send(wire_of(closes[0]))
            assert peer.read_to_end() == wire_of(closes[1])


@scenarios
def test_our_client_says_what_the_native_one_said(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the captured bytes of a native server, masks included."""
    playing = Playing(scenario, "c2s")
    ends = ends_of(scenario)
    peers: list[RawServerPeer] = []
    ended = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        peer.send(peer.answer(peer.read_head(), Sec_WebSocket_Protocol=ends["kind"]))
        peers.append(peer)
        ended.wait(BOUND)
        peer.receive_opcode(focConnectionClose)

    with (
        RawServer(behaviour) as server,
        rest_client(server.port, **ends, application=playing.application) as client,
    ):
        process = client.websockets
        assert process is not None
        playing.replay_random(monkeypatch, process)
        assert playing.play(process, wait_for(lambda: peers)[0]) >= 3
        process.sender.encoder.masks = Masks(iter([b"\1\2\3\4"] * 9))  # type: ignore[assignment]
        ended.set()
