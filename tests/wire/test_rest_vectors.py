"""Bytes captured from native mORMot 2 programs, against our REST protocols, SynLZ and AES: every
one decoded, and made again.

``test_wire_vectors.py`` has those of the chat protocol; what is here and what is there together is
the whole file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache

import pytest
import test_wire_vectors as chat
from support.rest import NamedProtocolBinary
from support.wire_vectors import (
    ALL_SCENARIOS,
    ALL_VECTORS,
    Vector,
    connection_id_of,
    frame_of,
    input_of,
    of_kind,
    pairs_of,
    parametrize,
    payload_of,
    receiver_of,
    request_of,
    upgrade_as_captured,
    wire_of,
)

from mormot_ws import WebSocketFrame
from mormot_ws.core.frames import encode_frame
from mormot_ws.protocols.protocol_list import WebSocketProtocolList
from mormot_ws.rest.algosynlz import algo_compress, algo_decompress
from mormot_ws.rest.binary_form import (
    decode_binary,
    decode_jumbo,
    decode_varuint,
    encode_jumbo,
    encode_varuint,
)
from mormot_ws.rest.crc32c import crc32c, crc32c_python
from mormot_ws.rest.encryption import AesEncryption, derive_key
from mormot_ws.rest.messages import RestAnswer, RestRequest
from mormot_ws.rest.protocols import WebSocketProtocolJson, WebSocketProtocolRest
from mormot_ws.rest.synlz import synlz_compress, synlz_decompress
from mormot_ws.states import WebSocketProtocolBinaryOptions

SCENARIOS = [name for name in ALL_SCENARIOS if name.startswith("synopse")]
FRAMES = of_kind("frame", SCENARIOS)
MESSAGES = [vector for vector in FRAMES if vector["opcode"] != 8]
PAIRS = pairs_of(SCENARIOS)
KINDS = {"synlz": 25, "aes": 16, "varuint": 12, "key": 4, "crc32c": 4, "ctr": 3}


@cache
def _offered(scenario: str, uri: str) -> WebSocketProtocolRest:
    """Return what is cloned for each message: the key is derived once, which takes long."""
    params = ALL_SCENARIOS[scenario]["params"]
    options = [WebSocketProtocolBinaryOptions[name] for name in params["options"]]
    return NamedProtocolBinary(uri, params["key"], options)


def protocol_of(scenario: str, uri: str = "") -> WebSocketProtocolRest:
    """Return the protocol of both ends in *scenario*, which ran on one machine."""
    params = ALL_SCENARIOS[scenario]["params"]
    if params["protocol"] == "synopsejson":
        return WebSocketProtocolJson(uri)
    protocol = _offered(scenario, uri).clone(uri)
    assert isinstance(protocol, NamedProtocolBinary)
    protocol.set_subprotocol(params["protocol"])
    protocol.remote_localhost = True
    return protocol


def plain_of(vector: Vector) -> bytes:
    """Return the captured payload, decrypted and decompressed by our protocol."""
    frame = frame_of(vector)
    protocol_of(vector["scenario"]).after_get_frame(frame)
    return frame.payload


def check_message(head: str, message: RestRequest | RestAnswer, stated: Vector) -> None:
    """Compare *message* with what the vector says of it, field by field."""
    assert (head, message.headers, message.content_type) == (
        stated["head"],
        stated["headers"],
        stated["ctype"],
    )
    assert message.content == bytes.fromhex(stated["content"])
    if isinstance(message, RestRequest):
        assert (message.method, message.url, message.no_answer) == (
            stated["method"],
            stated["url"],
            stated["noanswer"],
        )
    else:
        assert message.status == stated["status"]


class TestCoverage:
    def test_every_vector_of_the_file_is_used(self) -> None:
        """By this module or the other one, all 492 of them, and no kind is new."""
        counted = Counter(vector["kind"] for vector in ALL_VECTORS)
        assert counted == {"frame": 48 + 346, "handshake": 14 + 20, **KINDS}
        assert sum(counted.values()) == 492
        assert len(chat.FRAMES) + len(FRAMES) == counted["frame"]
        assert 2 * (len(chat.PAIRS) + len(PAIRS)) == counted["handshake"]

    def test_the_messages_are_of_all_forms(self) -> None:
        """Text and binary, jumbo frames among them, compressed and stored, encrypted and in the
        clear.
        """
        forms = Counter(vector["scenario"] for vector in MESSAGES)
        assert (len(SCENARIOS), len(MESSAGES), forms["synopsejson"]) == (10, 326, 50)
        assert sum("jumbo" in vector for vector in MESSAGES) == 18
        assert Counter(vector.get("container_marker") for vector in MESSAGES) == {
            None: 136,
            0: 172,
            1: 18,
        }
        assert sum("iv" in vector for vector in MESSAGES) == 135


class TestMessages:
    @parametrize(FRAMES)
    def test_a_captured_frame_decodes_to_its_payload(self, vector: Vector) -> None:
        """By the incoming machine, mask and length included."""
        assert receiver_of(vector).feed(wire_of(vector)) == [frame_of(vector)]

    @parametrize(MESSAGES)
    def test_a_captured_message_decodes_to_its_fields(self, vector: Vector) -> None:
        """Through AES and SynLZ where they are in use."""
        plain = plain_of(vector)
        if "plain" in vector:
            assert plain == bytes.fromhex(vector["plain"])
        protocol = protocol_of(vector["scenario"])
        frame = WebSocketFrame(vector["opcode"], plain)
        if "jumbo" in vector:
            frames = decode_jumbo(plain)
            for payload, stated in zip(frames, vector["decoded"], strict=True):
                check_message(*decode_binary(payload), stated)
        else:
            assert protocol.head_of(frame) == vector["decoded"]["head"]
            check_message(*protocol.decode(frame), vector["decoded"])

    @parametrize(MESSAGES)
    def test_a_message_encodes_to_the_captured_bytes(
        self, vector: Vector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From its fields to the whole frame on the wire, with the initialisation vector and the
        mask that were drawn then.
        """
        protocol = protocol_of(vector["scenario"])
        received = WebSocketFrame(vector["opcode"], plain_of(vector))
        if "jumbo" in vector:
            messages = [
                protocol.decode(WebSocketFrame(2, payload))
                for payload in decode_jumbo(received.payload)
            ]
            frame = WebSocketFrame(
                2, encode_jumbo([protocol.encode(m, head).payload for head, m in messages])
            )
        else:
            head, message = protocol.decode(received)
            if vector["opcode"] == 1 and message.content == b'""':
                message.content = b""  # an empty body arrives so
            frame = protocol.encode(message, head)
        if "iv" in vector:
            monkeypatch.setattr(
                "mormot_ws.rest.encryption.os.urandom", lambda size: bytes.fromhex(vector["iv"])
            )
        protocol.before_send_frame(frame)
        assert frame.payload == payload_of(vector)
        mask = bytes.fromhex(vector["mask"]) if vector["masked"] else None
        assert encode_frame(frame.opcode, frame.payload, mask) == wire_of(vector)

    @parametrize([vector for vector in FRAMES if vector["opcode"] == 8])
    def test_a_close_frame_stays_in_the_clear(self, vector: Vector) -> None:
        """It is neither compressed nor encrypted."""
        frame = frame_of(vector)
        protocol = protocol_of(vector["scenario"])
        protocol.before_send_frame(frame)
        protocol.after_get_frame(frame)
        mask = bytes.fromhex(vector["mask"]) if vector["masked"] else None
        assert encode_frame(frame.opcode, frame.payload, mask) == wire_of(vector)


class TestHandshakes:
    @pytest.mark.parametrize(
        ("asked", "answered"), PAIRS, ids=[asked["name"] for asked, _ in PAIRS]
    )
    def test_both_sides_are_those_captured(
        self, asked: Vector, answered: Vector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Our server gives the captured answer, and our client makes the captured request."""
        offered = WebSocketProtocolList()
        offered.add(protocol_of(asked["scenario"], "root"))
        answer = offered.server_upgrade(request_of(asked), "127.0.0.1", connection_id_of(answered))[
            2
        ]
        assert answer == bytes.fromhex(answered["wire"])
        client = protocol_of(asked["scenario"])
        result = upgrade_as_captured(asked, answered, client, "root", "", monkeypatch)
        assert result.connection_id == connection_id_of(answered)
        assert client.name == ALL_SCENARIOS[asked["scenario"]]["params"]["protocol"]


class TestPieces:
    @parametrize(of_kind("synlz"))
    def test_synlz_and_its_container(self, vector: Vector) -> None:
        """Stream and containers of both thresholds are the captured bytes, and give the input
        back.
        """
        data = input_of(vector)
        container = algo_compress(data, threshold=0)
        if "container" in vector:
            assert container == bytes.fromhex(vector["container"])
            raw = container[9:].hex() if vector["raw"] == "container from byte 9" else vector["raw"]
            assert synlz_compress(data).hex() == raw
        else:
            assert hashlib.sha256(container).hexdigest() == vector["container_sha256"]
            assert hashlib.sha256(synlz_compress(data)).hexdigest() == vector["raw_sha256"]
        usual = algo_compress(data)
        same = vector["container_450"] == "same as container"
        assert usual == (container if same else bytes.fromhex(vector["container_450"]))
        assert algo_decompress(container, len(data)) == algo_decompress(usual, len(data)) == data
        assert synlz_decompress(synlz_compress(data), len(data)) == data

    @parametrize(of_kind("aes"))
    def test_aes_messages(self, vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
        """Decrypted, and encrypted again with the same initialisation vector."""
        aes = AesEncryption.of_bytes(bytes.fromhex(vector["aes_key"]))
        message, plain = bytes.fromhex(vector["message"]), bytes.fromhex(vector["plain"])
        assert aes.decrypt(message) == plain
        monkeypatch.setattr("mormot_ws.rest.encryption.os.urandom", lambda size: message[:size])
        assert aes.encrypt(plain) == message

    @parametrize(of_kind("ctr"))
    def test_the_counter_carries_through_all_bytes(
        self, vector: Vector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The key stream, which is what zero bytes encrypt to."""
        aes = AesEncryption.of_bytes(bytes.fromhex(vector["aes_key"]))
        iv = bytes.fromhex(vector["iv"])
        monkeypatch.setattr("mormot_ws.rest.encryption.os.urandom", lambda size: iv)
        message = aes.encrypt(bytes(vector["length"]))
        assert message[16:][: vector["length"]].hex() == vector["keystream"]

    @parametrize(of_kind("key"))
    def test_keys_are_derived_as_natively(self, vector: Vector) -> None:
        """With rounds and salt, and in the legacy form."""
        password = bytes.fromhex(vector["password"])
        derived = derive_key(password, salt=vector["salt"], rounds=vector["rounds"])
        assert derived.hex() == vector["derived"]
        assert derived[:16].hex() == vector["aes128_key"]
        assert derive_key(vector["password_text"]) == derived
        assert derive_key(password, rounds=0).hex() == vector["legacy_rounds0_derived"]

    @parametrize(of_kind("crc32c"))
    def test_crc32c(self, vector: Vector) -> None:
        """By the function in use, and in Python."""
        data, crc = bytes.fromhex(vector["input"]), int(vector["crc32c"], 16)
        assert crc32c(data) == crc32c_python(data) == crc

    @parametrize(of_kind("varuint"))
    def test_varuints(self, vector: Vector) -> None:
        """Both ways."""
        data = bytes.fromhex(vector["bytes"])
        assert encode_varuint(vector["value"]) == data
        assert decode_varuint(b"\x01" + data + b"\x02", 1) == (vector["value"], 1 + len(data))
