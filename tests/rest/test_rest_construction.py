"""REST protocols and their server as objects: what they take, what they refuse at once and with
which words.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support import HOST, wait_for
from support.rest import KEY, pair, rest_server

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketProtocolBinary,
    WebSocketProtocolBinaryOptions,
    WebSocketProtocolJson,
    WebSocketsError,
    WebSocketServerRest,
    pboNoLocalHostCompress,
    pboSynLzCompress,
)
from mormot_ws.rest.messages import RestAnswer


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (pboSynLzCompress, pboSynLzCompress),
            ({pboSynLzCompress, pboNoLocalHostCompress}, pboSynLzCompress | pboNoLocalHostCompress),
            (pboSynLzCompress | pboNoLocalHostCompress, pboSynLzCompress | pboNoLocalHostCompress),
            ((), WebSocketProtocolBinaryOptions(0)),
            (frozenset(), WebSocketProtocolBinaryOptions(0)),
        ],
    )
    def test_a_flag_or_a_set_of_flags(
        self, given: Any, expected: WebSocketProtocolBinaryOptions
    ) -> None:
        assert WebSocketProtocolBinary(options=given).options == expected

    @pytest.mark.parametrize("given", ["pboSynLzCompress", 7, [None]])
    def test_anything_else_is_the_callers_mistake(self, given: Any) -> None:
        with pytest.raises(
            TypeError, match="options must be a WebSocketProtocolBinaryOptions or a set of them"
        ):
            WebSocketProtocolBinary(options=given)

    def test_the_default_compresses(self) -> None:
        assert WebSocketProtocolBinary().options == pboSynLzCompress


class TestNames:
    def test_the_binary_protocol_answers_to_two(self) -> None:
        """In the peer's spelling; only the first means numbers."""
        protocol = WebSocketProtocolBinary()
        assert protocol.get_subprotocols() == "synopsebin, synopsebinary"
        for name, numbered in (("SynopseBinary", False), ("SYNOPSEBIN", True)):
            assert protocol.set_subprotocol(name)
            assert (protocol.name, protocol.sequencing) == (name, numbered)
        assert not protocol.set_subprotocol("synopsejson")

    def test_a_clone_is_like_its_original(self) -> None:
        """The connections of a server share options and key, and count by themselves."""
        protocol = WebSocketProtocolBinary("root", KEY, pboNoLocalHostCompress)
        protocol.next_head()
        clone = protocol.clone("root")
        assert isinstance(clone, WebSocketProtocolBinary)
        assert (clone.uri, clone.options, clone.encryption) == (
            "root",
            protocol.options,
            protocol.encryption,
        )
        assert clone.next_head() == "r000001"
        assert isinstance(WebSocketProtocolJson("x").clone("x"), WebSocketProtocolJson)


class TestKeys:
    def test_a_key_can_be_set_and_taken_away(self) -> None:
        protocol = WebSocketProtocolBinary()
        assert not protocol.encrypted
        protocol.set_encrypt_key(KEY)
        assert protocol.encrypted
        protocol.set_encrypt_key("")
        assert not protocol.encrypted

    def test_a_key_exchange_is_refused(self) -> None:
        with pytest.raises(WebSocketsError, match="ECDHE key exchange, which is not supported"):
            WebSocketProtocolBinary("", "a=mutual;e=aesctr128")

    def test_the_json_protocol_says_that_it_does_not_use_one(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with rest_server() as server, HttpClientWebSockets(HOST, server.port) as client:
            assert client.websockets_upgrade("root", KEY, ajax=True) == ""
        assert "synopsejson is never encrypted" in caplog.text

    def test_an_encrypted_protocol_refuses_extensions(self) -> None:
        """With 406, as natively: it would take them for those of a key exchange."""
        protocol = WebSocketProtocolBinary("", KEY)
        assert protocol.process_handshake(["permessage-deflate"]) is None
        assert protocol.process_handshake([]) == ""
        assert WebSocketProtocolBinary().process_handshake(["permessage-deflate"]) == ""


class TestServer:
    def test_key_and_ajax_need_a_uri(self) -> None:
        with pytest.raises(ValueError, match="need a uri"):
            WebSocketServerRest(f"{HOST}:0", key=KEY)
        with pytest.raises(ValueError, match="need a uri"):
            WebSocketServerRest(f"{HOST}:0", ajax=True)

    def test_a_bad_key_leaves_no_server(self) -> None:
        """Nothing listens, no thread is left."""
        with pytest.raises(WebSocketsError, match="ECDHE"):
            WebSocketServerRest(f"{HOST}:0", uri="", key="a=x")

    def test_without_a_uri_nothing_is_offered_at_first(self) -> None:
        with WebSocketServerRest(f"{HOST}:0") as server:
            assert server.websocket_protocols.count == 0
            server.websockets_enable("/root", "", ajax=True)
            assert server.websocket_protocols.count == 2
            assert server.websocket_protocols.serves_uri("root")
            assert not server.websocket_protocols.serves_uri("other")

    def test_any_uri(self) -> None:
        with WebSocketServerRest(f"{HOST}:0", uri="") as server:
            server.on_request = lambda ctxt: 200
            with HttpClientWebSockets(HOST, server.port) as client:
                assert client.websockets_upgrade("some/where?x=1", "") == ""
                assert client.request("/x", "GET") == 200


class TestContext:
    def test_headers_are_found_whatever_their_case(self) -> None:
        ctxt = HttpServerRequest(
            "/x", in_headers="HOST: a:1\r\nuser-agent:  me \r\nX: 1\r\nno colon\r\nx: 2"
        )
        assert (ctxt.host, ctxt.user_agent, ctxt.in_header("X"), ctxt.in_header("y")) == (
            "a:1",
            "me",
            "1",
            "",
        )

    def test_a_context_can_be_used_again(self) -> None:
        ctxt = HttpServerRequest("/a", "GET").prepare(
            "/b", "PUT", "X: 1", "é", "text/plain", "10.0.0.1"
        )
        assert (ctxt.url, ctxt.method, ctxt.in_content, ctxt.remote_ip) == (
            "/b",
            "PUT",
            "é".encode(),
            "10.0.0.1",
        )


def test_an_answer_that_finds_no_connection_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client went while the application worked on its request."""
    caplog.set_level(logging.INFO, "mormot_ws.rest")

    def application(ctxt: HttpServerRequest) -> int:
        ends.client.interrupt()
        wait_for(lambda: not ends.server_process.send_frame(protocol.encode(answer, "a")))
        return 200

    protocol, answer = WebSocketProtocolJson(), RestAnswer()
    with pair("synopsejson", application) as ends:
        assert ends.client.request("/x", "GET") == 404
        wait_for(lambda: ends.server_process.protocol.last_error)
    assert ends.server_process.protocol.last_error == "the answer could not be sent"
    assert "could not be sent" in caplog.text
