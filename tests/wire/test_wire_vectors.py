"""Bytes captured between native mORMot 2 programs, against our codec and our handshake, byte for
byte.

``data/vectors.json`` is described in its own ``meta``; of its scenarios those are used here that
the chat protocol covers. The frames were recorded on the wire, so a client's are masked with the
key that it drew then.
"""

from __future__ import annotations

import pytest
from support.wire_vectors import (
    ALL_SCENARIOS,
    Vector,
    connection_id_of,
    frame_of,
    of_kind,
    pairs_of,
    parametrize,
    payload_of,
    receiver_of,
    request_of,
    upgrade_as_captured,
    wire_of,
)

from mormot_ws.client.upgrade import UpgradeError
from mormot_ws.core.frames import encode_frame, encode_unmasked
from mormot_ws.core.incoming import WebProcessInFrame
from mormot_ws.protocols.chat import WebSocketProtocolChat
from mormot_ws.protocols.protocol_list import WebSocketProtocolList

SCENARIOS = {
    name: scenario
    for name, scenario in ALL_SCENARIOS.items()
    if name.startswith(("echo_", "fail_")) or name in ("ping", "bcast", "reconnect")
}
FRAMES = of_kind("frame", SCENARIOS)
HANDSHAKES = of_kind("handshake", SCENARIOS)
PAIRS = pairs_of(SCENARIOS)

each_frame = parametrize(FRAMES)
each_pair = pytest.mark.parametrize(
    ("asked", "answered"), PAIRS, ids=[asked["name"] for asked, _ in PAIRS]
)


def server_of(scenario: str) -> WebSocketProtocolList:
    """Return the list of the native server in *scenario*, from its parameters."""
    params = SCENARIOS[scenario]["params"]
    name, uri, status = params["protocol"], params["uri"] if scenario == "echo_uri" else "", 200
    for argument in params.get("server", []):
        key, equals, value = argument.partition("=")
        if not equals:
            name = key
        elif key == "uri":
            uri = value
        else:
            assert key == "upcode"
            status = int(value)
    offered = WebSocketProtocolList()
    offered.add(WebSocketProtocolChat(name, uri))
    offered.on_upgraded = lambda protocol: status
    return offered


class TestCoverage:
    def test_every_scenario_of_the_chat_protocol_is_used(self) -> None:
        """The file has not lost what these tests live on."""
        assert {vector["scenario"] for vector in FRAMES + HANDSHAKES} == set(SCENARIOS)
        assert (len(SCENARIOS), len(FRAMES), len(PAIRS)) == (14, 48, 7)

    def test_the_captured_text_is_the_captured_bytes(self) -> None:
        """What the handshake tests read is what was on the wire."""
        for vector in HANDSHAKES:
            assert bytes.fromhex(vector["wire"]).decode("latin-1") == vector["text"]


class TestFrames:
    @each_frame
    def test_a_captured_frame_decodes_to_its_payload(self, vector: Vector) -> None:
        """Opcode and payload, and nothing is left over."""
        machine = receiver_of(vector)
        assert machine.feed(wire_of(vector)) == [frame_of(vector)]
        assert machine.error is None
        assert machine.closed is (vector["opcode"] == 8)
        assert not machine.in_message

    @each_frame
    def test_a_frame_encodes_to_the_captured_bytes(self, vector: Vector) -> None:
        """With the key that the native client drew then; a server's also by the short form."""
        mask = bytes.fromhex(vector["mask"]) if vector["masked"] else None
        payload = payload_of(vector)
        assert encode_frame(vector["opcode"], payload, mask) == wire_of(vector)
        if mask is None:
            assert encode_unmasked(0x80 | vector["opcode"], payload) == wire_of(vector)

    @pytest.mark.parametrize("direction", ["c2s", "s2c"])
    @pytest.mark.parametrize("step", [1, 1000, 1 << 20])
    @pytest.mark.parametrize("scenario", sorted({vector["scenario"] for vector in FRAMES}))
    def test_a_captured_session_decodes_as_one_stream(
        self, scenario: str, step: int, direction: str
    ) -> None:
        """All that one side sent over a connection, in reads of any size, gives its frames in
        their order.
        """
        for conn in (1, 2):
            session = [
                vector
                for vector in FRAMES
                if (vector["scenario"], vector["dir"], vector["conn"])
                == (scenario, direction, conn)
            ]
            stream = b"".join(map(wire_of, session))
            machine = WebProcessInFrame(masked=direction == "c2s")
            frames = [
                frame
                for i in range(0, len(stream), step)
                for frame in machine.feed(stream[i : i + step])
            ]
            assert frames == [frame_of(vector) for vector in session]
            assert machine.error is None


class TestHandshakes:
    @each_pair
    def test_the_server_answers_a_captured_request_byte_for_byte(
        self, asked: Vector, answered: Vector
    ) -> None:
        """Successes and refusals are those of the native server, but for the HTTP version of a
        refusal: not every client can read HTTP/1.0.
        """
        request = request_of(asked)
        assert request.is_upgrade
        answer = server_of(asked["scenario"]).server_upgrade(
            request, "127.0.0.1", connection_id_of(answered)
        )[2]
        captured = bytes.fromhex(answered["wire"])
        assert answer == captured.replace(b"HTTP/1.0 ", b"HTTP/1.1 ", 1)

    @each_pair
    def test_the_client_sends_the_captured_request_byte_for_byte(
        self, asked: Vector, answered: Vector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the same key, agent and custom headers, and it comes to the native client's
        conclusion from the answer.
        """
        params = SCENARIOS[asked["scenario"]]["params"]
        status_line = answered["text"].split("\r\n")[0]
        protocol = WebSocketProtocolChat(params["protocol"])
        headers = params.get("custom_header", "")
        if " 101 " in status_line:
            result = upgrade_as_captured(
                asked, answered, protocol, params["uri"], headers, monkeypatch
            )
            assert result.connection_id == connection_id_of(answered)
        else:
            with pytest.raises(UpgradeError) as caught:
                upgrade_as_captured(asked, answered, protocol, params["uri"], headers, monkeypatch)
            assert str(caught.value) == status_line

    def test_a_refused_upgrade_has_the_status_that_was_captured(self) -> None:
        """The application's 403, and 400 for a wrong name and for a wrong URI."""
        statuses = {}
        for asked, _ in PAIRS:
            status, protocol, _ = server_of(asked["scenario"]).server_upgrade(
                request_of(asked), "127.0.0.1", 1
            )
            statuses[asked["scenario"]] = status
            assert (protocol is not None) is (status == 101)
        assert statuses == {
            "echo_plain": 101,
            "echo_uri": 101,
            "fail_badproto": 400,
            "fail_baduri": 400,
            "fail_refused": 403,
            "reconnect": 101,
        }
