"""The client's half of the opening handshake, without a socket: :class:`ScriptedTransport` records
the request and plays an answer.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from mormot_ws.client.upgrade import (
    HandshakeSocket,
    UpgradeError,
    UpgradeResult,
    check_custom_headers,
    client_upgrade,
    default_user_agent,
)
from mormot_ws.core.deflate import PermessageDeflate
from mormot_ws.core.handshake import (
    UpgradeRequest,
    accept_value,
    is_valid_key,
    upgrade_answer,
)
from mormot_ws.protocols.base import WebSocketProtocol
from mormot_ws.sockets.deadline import Deadline, timed_out

#: the key and the accept value that RFC 6455 §1.3 prints
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class ScriptedTransport:
    """Records what is sent and plays what *answer* makes of the request's key, in reads of at most
    *step* bytes.
    """

    def __init__(
        self, answer: Callable[[str], bytes], step: int = 4096, is_tls: bool = False
    ) -> None:
        self.is_tls = is_tls
        self.request = b""
        self._answer = answer
        self._step = step
        self._left: bytes | None = None

    def sendall(self, data: bytes) -> None:
        self.request += data

    def recv_within(self, size: int, deadline: Deadline) -> bytes:
        if self._left is None:
            self._left = self._answer(self.header("Sec-WebSocket-Key"))
        size = min(size, self._step)
        part, self._left = self._left[:size], self._left[size:]
        return part

    def header(self, name: str) -> str:
        """Return the first header of that name in the request that was sent."""
        lines = self.request.decode("utf-8").split("\r\n")
        return next((line.partition(": ")[2] for line in lines if line.startswith(f"{name}: ")), "")

    def upgrade(
        self,
        uri: str = "chat",
        protocol: WebSocketProtocol | None = None,
        headers: str = "",
        host: str = "server.example.com",
        port: int = 8080,
        max_head: int = 16384,
        deflate: PermessageDeflate | None = None,
    ) -> UpgradeResult:
        """Do the client's handshake on this transport."""
        transport: Any = self
        protocol = protocol or WebSocketProtocol("echo")
        return client_upgrade(
            transport,
            host,
            port,
            uri,
            protocol,
            headers,
            "agent",
            Deadline(1000),
            max_head,
            deflate,
        )


def answer(
    *more: str,
    status: str = "HTTP/1.1 101 Switching Protocols",
    upgrade: str | None = "websocket",
    connection: str | None = "Upgrade",
    accept: Callable[[str], Iterable[str]] = lambda value: [value],
    after: bytes = b"",
    end: str = "\r\n",
) -> Callable[[str], bytes]:
    """Return a script of the server's answer: the standard one with something changed, *more*
    lines, and bytes *after* it.
    """

    def play(key: str) -> bytes:
        lines = [status]
        lines += [] if upgrade is None else [f"Upgrade: {upgrade}"]
        lines += [] if connection is None else [f"Connection: {connection}"]
        lines += more
        lines += [f"Sec-WebSocket-Accept: {value}" for value in accept(accept_value(key))]
        return "".join(line + end for line in [*lines, ""]).encode("latin-1") + after

    return play


def refused(script: Callable[[str], bytes], **options: Any) -> UpgradeError:
    """Return the error with which the client's handshake ends."""
    with pytest.raises(UpgradeError) as caught:
        ScriptedTransport(script).upgrade(**options)
    return caught.value


class ListProtocol(WebSocketProtocol):
    """Asks for two names and accepts either, as the binary protocol does."""

    def get_subprotocols(self) -> str:
        return "synopsebin, synopsebinary"

    def set_subprotocol(self, name: str) -> bool:
        self.name = name
        return name.lower() in ("synopsebin", "synopsebinary")


class TestClientRequest:
    def sent(self, transport: ScriptedTransport | None = None, **options: Any) -> list[str]:
        """Return the lines of the request that these options make."""
        transport = transport or ScriptedTransport(answer())
        transport.upgrade(**options)
        assert transport.request.endswith(b"\r\n\r\n")
        return transport.request.decode("utf-8").removesuffix("\r\n\r\n").split("\r\n")

    def test_the_lines_are_those_of_a_native_client_in_their_order(self) -> None:
        """Wire rules 1.1, custom headers last."""
        transport = ScriptedTransport(answer())
        lines = self.sent(transport, headers="X-Token: 12345\r\nX-More: a: b")
        assert lines == [
            "GET /chat HTTP/1.1",
            "Host: server.example.com:8080",
            "Accept: */*",
            "User-Agent: agent",
            "Content-Length: 0",
            "Connection: Upgrade",
            "Upgrade: websocket",
            f"Sec-WebSocket-Key: {transport.header('Sec-WebSocket-Key')}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: echo",
            "X-Token: 12345",
            "X-More: a: b",
        ]

    def test_the_key_is_16_bytes_and_new_each_time(self) -> None:
        """RFC 6455 §4.1: a nonce."""
        keys = []
        for _ in range(3):
            transport = ScriptedTransport(answer())
            transport.upgrade()
            keys.append(transport.header("Sec-WebSocket-Key"))
        assert all(is_valid_key(key) for key in keys)
        assert len(set(keys)) == 3

    @pytest.mark.parametrize(
        ("uri", "target"),
        [
            ("", "/"),
            ("/", "/"),
            ("chat", "/chat"),
            ("/chat", "/chat"),
            ("re/con?n=1", "/re/con?n=1"),
            ("?n=1", "/?n=1"),
            ("a%20b", "/a%20b"),
            ("//a/./b/../c;d=e", "//a/./b/../c;d=e"),
            ("é?ü=%20", "/%C3%A9?%C3%BC=%20"),
        ],
    )
    def test_the_uri_goes_out_as_it_is_with_one_leading_slash(self, uri: str, target: str) -> None:
        """No tidying up, no slash where there is one already, query included; what is not ASCII is
        encoded.
        """
        assert self.sent(uri=uri)[0] == f"GET {target} HTTP/1.1"

    @pytest.mark.parametrize(
        ("host", "port", "is_tls", "line"),
        [
            ("h.example", 80, False, "Host: h.example"),
            ("h.example", 443, True, "Host: h.example"),
            ("h.example", 443, False, "Host: h.example:443"),
            ("h.example", 80, True, "Host: h.example:80"),
            ("::1", 8080, False, "Host: [::1]:8080"),
            ("::1", 80, False, "Host: [::1]"),
        ],
    )
    def test_the_host_names_the_port_unless_it_is_the_usual_one(
        self, host: str, port: int, is_tls: bool, line: str
    ) -> None:
        """80, or 443 with TLS, is left out; an IPv6 address stands in brackets."""
        assert (
            self.sent(ScriptedTransport(answer(), is_tls=is_tls), host=host, port=port)[1] == line
        )

    def test_custom_host_accept_and_agent_replace_ours(self) -> None:
        """These three may be given by the application; each is sent once, in its place."""
        lines = self.sent(
            headers="user-agent: mine\r\nHOST: other.example\r\nAccept: text/plain\r\nX-A: 1"
        )
        assert lines[1:4] == ["Host: other.example", "Accept: text/plain", "User-Agent: mine"]
        assert lines[-1] == "X-A: 1"
        assert (
            len(
                [
                    line
                    for line in lines
                    if line.lower().startswith(("host:", "accept:", "user-agent:"))
                ]
            )
            == 3
        )

    def test_a_protocol_without_a_name_asks_for_none(self) -> None:
        """The line is left out."""
        assert not [
            line for line in self.sent(protocol=WebSocketProtocol("")) if "Protocol" in line
        ]

    def test_a_list_of_names_goes_out_in_one_line(self) -> None:
        """As the binary protocol asks for its two names."""
        script = answer("Sec-WebSocket-Protocol: synopsebin")
        lines = self.sent(ScriptedTransport(script), protocol=ListProtocol("x"))
        assert "Sec-WebSocket-Protocol: synopsebin, synopsebinary" in lines

    def test_deflate_is_offered_only_when_wanted(self) -> None:
        """With options their offer goes out behind the protocol; without them no extension is
        named.
        """
        lines = self.sent(deflate=PermessageDeflate())
        assert lines[9:] == [
            "Sec-WebSocket-Protocol: echo",
            f"Sec-WebSocket-Extensions: {PermessageDeflate().offer()}",
        ]
        assert not [line for line in self.sent() if "Extensions" in line]

    def test_cookies_of_one_connection_do_not_appear_in_another(self) -> None:
        """What a server sets is not sent by the next client, whoever's it is."""
        ScriptedTransport(answer("Set-Cookie: session=secret; Domain=shared.example")).upgrade(
            host="shared.example"
        )
        assert not [line for line in self.sent(host="shared.example") if line.startswith("Cookie:")]


class TestClientJudgesTheAnswer:
    @pytest.mark.parametrize("step", [1, 7, 4096])
    def test_a_good_answer_settles_the_upgrade(self, step: int) -> None:
        """Number, no extensions, and what came behind the answer, however it arrives."""
        script = answer(
            "Sec-WebSocket-Connection-ID: 17", "Sec-WebSocket-Protocol: echo", after=b"\x81\x02hi"
        )
        result = ScriptedTransport(script, step).upgrade()
        # with small steps the frame behind the answer has not been read yet, which is as good
        assert (result.connection_id, result.extensions) == (17, [])
        assert result.unread == (
            b"\x81\x02hi" if step == 4096 else b"\x81\x02hi"[: len(result.unread)]
        )

    @pytest.mark.parametrize(
        "after", [b"\x81\x02hi", b"\r\n\r\n", b"\n\n\x81\x00", b"\x88\x00" * 100]
    )
    def test_frames_behind_the_answer_are_kept(self, after: bytes) -> None:
        """The first frames of a server in a hurry are not lost, whatever they look like."""
        assert ScriptedTransport(answer(after=after)).upgrade().unread == after

    def test_interim_answers_are_passed_over(self) -> None:
        """RFC 9110 §15.2: any number of 1xx answers may come first, in the same read or not."""
        script = answer("Sec-WebSocket-Connection-ID: 3", after=b"\x81\x00")
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        for step in (10, 4096):
            result = ScriptedTransport(lambda key: interim + script(key), step).upgrade()
            assert result.connection_id == 3
            assert b"\x81\x00".startswith(result.unread)

    def test_a_refusal_after_an_interim_answer_is_the_error(self) -> None:
        """It is the final answer that counts."""
        script = answer(status="HTTP/1.1 403 Forbidden")
        error = refused(lambda key: b"HTTP/1.1 100 Continue\r\n\r\n" + script(key))
        assert (str(error), error.http_status) == ("HTTP/1.1 403 Forbidden", 403)

    def test_interim_answers_without_end_are_refused(self) -> None:
        """A server that sends nothing else does not keep the handshake busy for ever."""
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        transport = ScriptedTransport(lambda key: interim * 20_000)
        with pytest.raises(UpgradeError):
            transport.upgrade()
        assert transport._left

    @pytest.mark.parametrize("bare", ["X-A: 1\rX-B: 2", "X-A: 1\r"], ids=repr)
    def test_a_carriage_return_alone_is_refused(self, bare: str) -> None:
        """What one reader takes for a line end and another does not is no header to trust."""
        assert str(refused(answer(bare))).startswith("Invalid HTTP Upgrade Header: ")

    def test_bare_line_feeds_are_accepted(self) -> None:
        """An answer with LF line ends is read all the same."""
        assert (
            ScriptedTransport(answer(end="\n", after=b"\x81\x00")).upgrade().unread == b"\x81\x00"
        )

    def test_the_name_may_be_missing(self) -> None:
        """Native servers leave it out when they matched by URI."""
        protocol = WebSocketProtocol("echo")
        assert ScriptedTransport(answer()).upgrade(protocol=protocol) == UpgradeResult()
        assert protocol.name == "echo"

    def test_the_servers_spelling_of_the_name_is_adopted(self) -> None:
        """The protocol is called what both sides agreed on."""
        protocol = WebSocketProtocol("echo")
        ScriptedTransport(answer("Sec-WebSocket-Protocol: ECHO")).upgrade(protocol=protocol)
        assert protocol.name == "ECHO"

    @pytest.mark.parametrize(
        "lines",
        [
            ["Sec-WebSocket-Protocol: other"],
            ["Sec-WebSocket-Protocol: echo, echo"],
            ["Sec-WebSocket-Protocol: echo", "Sec-WebSocket-Protocol: echo"],
            ["Sec-WebSocket-Protocol:"],
        ],
        ids=["another", "a list", "twice", "empty"],
    )
    def test_another_name_is_refused(self, lines: list[str]) -> None:
        """One of the client's names, once, or none at all."""
        error = refused(answer(*lines))
        assert (str(error), error.http_status) == ("Invalid HTTP Upgrade Sub-Protocol", 101)

    def test_a_name_that_was_not_asked_for_is_refused(self) -> None:
        """A client without name takes none."""
        error = refused(answer("Sec-WebSocket-Protocol: echo"), protocol=WebSocketProtocol(""))
        assert str(error) == "Invalid HTTP Upgrade Sub-Protocol"

    def test_a_list_of_names_needs_an_answer(self) -> None:
        """Who offers several has to be told which one it is."""
        error = refused(answer(), protocol=ListProtocol("x"))
        assert (str(error), error.http_status) == ("Invalid HTTP Upgrade Sub-Protocol", 101)

    @pytest.mark.parametrize(
        ("status", "http_status"),
        [
            ("HTTP/1.0 400 WebSocket Upgrade Error", 400),
            ("HTTP/1.1 403 Forbidden", 403),
            ("HTTP/1.1 200 OK", 200),
            ("HTTP/1.1 301 Moved", 301),
            ("HTTP/1.0 101 Switching Protocols", 101),
            ("HTTP/1.1 426", 426),
            ("HTTP/1.1 1010 What", 0),
            ("SSH-2.0-OpenSSH_9.6", 0),
        ],
    )
    def test_another_status_line_is_the_error_itself(self, status: str, http_status: int) -> None:
        """The text is the server's status line, and the status is there as a number."""
        error = refused(answer("Location: http://elsewhere.example/", status=status))
        assert (str(error), error.http_status) == (status, http_status)

    def test_an_empty_status_line_is_no_response(self) -> None:
        """As a native client puts it."""
        error = refused(lambda key: b"\r\n\r\n")
        assert (str(error), error.http_status) == ("No server response", 0)

    def test_an_end_of_stream_before_any_byte_is_no_response(self) -> None:
        """The server closed without a word."""
        assert str(refused(lambda key: b"")) == "No server response"

    def test_an_end_of_stream_inside_the_answer_says_so(self) -> None:
        """The server closed in the middle of its headers."""
        error = refused(lambda key: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: web")
        assert (
            str(error) == "EOFError: the server closed the connection in the middle of its answer"
        )

    def test_a_silent_server_is_a_timeout(self) -> None:
        """The deadline of the handshake ends the wait; the text names it, and the error carries
        it.
        """

        def silence(key: str) -> bytes:
            raise timed_out()

        error = refused(silence)
        assert str(error).startswith("TimeoutError: ")
        assert (error.timed_out, error.http_status) == (True, 0)

    def test_another_refusal_is_no_timeout(self) -> None:
        """Only the deadline counts as one."""
        assert not refused(answer(status="HTTP/1.1 403 Forbidden")).timed_out

    def test_a_broken_connection_is_left_to_the_caller(self) -> None:
        """An ``OSError`` of the transport comes through as it is."""

        def broken(key: str) -> bytes:
            raise ConnectionResetError("reset")

        with pytest.raises(ConnectionResetError):
            ScriptedTransport(broken).upgrade()

    @pytest.mark.parametrize("connection", ["Upgrade", "upgrade", "keep-alive, Upgrade"])
    @pytest.mark.parametrize("upgrade", ["websocket", "WebSocket"])
    def test_the_two_upgrade_headers_are_read_in_any_case(
        self, upgrade: str, connection: str
    ) -> None:
        """Tokens, not texts."""
        assert (
            ScriptedTransport(answer(upgrade=upgrade, connection=connection)).upgrade()
            == UpgradeResult()
        )

    @pytest.mark.parametrize(
        "changes",
        [{"upgrade": None}, {"upgrade": "h2c"}, {"connection": None}, {"connection": "close"}],
        ids=str,
    )
    def test_without_them_the_header_is_invalid(self, changes: dict[str, Any]) -> None:
        """A 101 for something else is no upgrade to WebSocket."""
        error = refused(answer(**changes))
        assert (str(error), error.http_status) == ("Invalid HTTP Upgrade Header", 101)

    @pytest.mark.parametrize(
        "lines", [["keep-alive", "Upgrade"], ["Upgrade", "keep-alive"]], ids=", ".join
    )
    def test_the_upgrade_headers_may_be_repeated(self, lines: list[str]) -> None:
        """Two Connection lines are one list (RFC 9110 §5.3), in any order."""
        script = answer(*[f"Connection: {line}" for line in lines], connection=None)
        assert ScriptedTransport(script).upgrade() == UpgradeResult()

    @pytest.mark.parametrize(
        "accept",
        [
            lambda value: [ACCEPT],
            lambda value: [],
            lambda value: [""],
            lambda value: [value, value],
            lambda value: [value[:-1]],
        ],
        ids=["another key's", "missing", "empty", "twice", "cut"],
    )
    def test_a_wrong_accept_value_is_refused(self, accept: Callable[[str], Iterable[str]]) -> None:
        """Only a server that has read our key can know it."""
        error = refused(answer(accept=accept))
        assert (str(error), error.http_status) == ("Invalid HTTP Upgrade Accept Challenge", 101)

    def test_the_accept_value_is_case_sensitive(self) -> None:
        """It is base64: another case is another value."""
        error = refused(answer(accept=lambda value: [value.swapcase()]))
        assert (str(error), error.http_status) == ("Invalid HTTP Upgrade Accept Challenge", 101)

    @pytest.mark.parametrize(
        "line",
        ["no colon here", ": no name", " folded: start"],
        ids=["no colon", "no name", "folded first"],
    )
    def test_a_line_that_is_no_header_is_refused(self, line: str) -> None:
        """The answer is not guessed at."""
        script = answer()

        def play(key: str) -> bytes:
            first, rest = script(key).split(b"\r\n", 1)
            return first + b"\r\n" + line.encode() + b"\r\n" + rest

        assert str(refused(play)).startswith("Invalid HTTP Upgrade Header")

    def test_too_many_header_lines_are_refused(self) -> None:
        """The limit of ``http.client`` ends in our error, not in its own."""
        error = refused(answer(*[f"X-{i}: 1" for i in range(200)]))
        assert str(error).startswith("Invalid HTTP Upgrade Header: ")

    @pytest.mark.parametrize("step", [100, 4096])
    def test_a_head_above_the_limit_is_refused(self, step: int) -> None:
        """An endless answer does not fill the memory, whether its end is seen or not."""
        with pytest.raises(UpgradeError, match="more than 500 bytes"):
            ScriptedTransport(answer("X-Long: " + "x" * 600), step).upgrade(max_head=500)

    def test_an_endless_head_is_refused_at_the_limit(self) -> None:
        """Without any end of head the reading stops soon after *max_head*."""
        transport = ScriptedTransport(lambda key: b"HTTP/1.1 101 X\r\nX: " + b"x" * 1_000_000)
        with pytest.raises(UpgradeError, match="more than 16384 bytes"):
            transport.upgrade()
        assert transport._left is not None
        assert len(transport._left) > 900_000

    def test_the_limit_is_for_the_head_not_for_what_follows(self) -> None:
        """Frames behind a short answer may be longer than *max_head*."""
        after = b"\x82\x7e\x0b\xb8" + b"x" * 3000
        assert ScriptedTransport(answer(after=after)).upgrade(max_head=500).unread == after

    @pytest.mark.parametrize("number", ["", "abc", "-1", "1.5", "٣", "1 2"])
    def test_a_number_that_is_none_counts_as_missing(self, number: str) -> None:
        """``connection_id`` is 0 then."""
        lines = [f"Sec-WebSocket-Connection-ID: {number}".encode().decode("latin-1")]
        assert ScriptedTransport(answer(*lines)).upgrade().connection_id == 0

    def test_an_absurd_number_counts_as_missing(self) -> None:
        """More digits than Python would convert do not raise."""
        script = answer("Sec-WebSocket-Connection-ID: " + "9" * 5000)
        assert ScriptedTransport(script).upgrade().connection_id == 0

    def test_the_largest_number_of_a_native_server_is_read(self) -> None:
        """64 bits, signed."""
        script = answer(f"Sec-WebSocket-Connection-ID: {2**63 - 1}")
        assert ScriptedTransport(script).upgrade().connection_id == 2**63 - 1

    def test_an_absurd_cookie_does_not_raise(self) -> None:
        """Cookies of the answer are nothing that the upgrade depends on."""
        assert ScriptedTransport(answer("Set-Cookie: a,b=1")).upgrade() == UpgradeResult()

    @pytest.mark.parametrize("value", ["caf\xe9", "\xc3\xa0"], ids=["latin-1", "utf-8 with A0"])
    def test_bytes_above_7f_in_some_header_do_not_matter(self, value: str) -> None:
        """RFC 9110 §5.5 allows them (obs-text); nothing of the upgrade depends on them."""
        assert ScriptedTransport(answer(f"X-Name: {value}")).upgrade() == UpgradeResult()

    def test_an_extension_that_was_not_asked_for_is_refused(self) -> None:
        """RFC 6455 §4.1."""
        error = refused(answer("Sec-WebSocket-Extensions: permessage-deflate"))
        assert str(error).startswith("Invalid HTTP Upgrade ProcessHandshake")
        assert error.http_status == 101

    def test_an_extension_that_was_asked_for_is_settled(self) -> None:
        """What both agreed on is with the protocol, and in the result."""
        protocol = WebSocketProtocol("echo")
        script = answer("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
        result = ScriptedTransport(script).upgrade(protocol=protocol, deflate=PermessageDeflate())
        assert result.extensions == ["permessage-deflate; server_no_context_takeover"]
        assert protocol.compression is not None
        assert protocol.compression.server_no_context_takeover

    def test_an_answer_to_another_offer_is_refused(self) -> None:
        """The reason is in the text."""
        error = refused(answer("Sec-WebSocket-Extensions: x-other"), deflate=PermessageDeflate())
        assert str(error) == "Invalid HTTP Upgrade ProcessHandshake: x-other was not offered"
        assert error.http_status == 101

    def test_a_declined_offer_leaves_no_compression_from_before(self) -> None:
        """After a reconnect to a server that no longer compresses the old agreement is gone."""
        protocol = WebSocketProtocol("echo")
        options = PermessageDeflate()
        script = answer("Sec-WebSocket-Extensions: permessage-deflate")
        ScriptedTransport(script).upgrade(protocol=protocol, deflate=options)
        ScriptedTransport(answer()).upgrade(protocol=protocol, deflate=options)
        assert protocol.compression is None

    def test_the_refusal_of_websocket_client_is_in_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its own words help where ours are those of the original."""
        caplog.set_level(logging.DEBUG, "mormot_ws.upgrade")
        refused(answer(upgrade=None))
        assert "websocket-client refused the answer" in caplog.text


class TestHandshakeSocket:
    def test_it_leaves_timeouts_and_closing_to_their_owners(self) -> None:
        """websocket-client may set a time-out and close it: neither reaches the transport."""
        transport: Any = object()  # has no method that could be called
        sock = HandshakeSocket(transport, Deadline(1000), 100)
        sock.settimeout(5)
        sock.close()
        assert sock.gettimeout() == 0

    def test_a_request_without_a_key_is_answered_by_no_accept_value(self) -> None:
        """The key is read from what is sent; a request of another form leaves it empty."""
        transport: Any = ScriptedTransport(answer())
        sock = HandshakeSocket(transport, Deadline(1000), 100, "chat")
        assert sock.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") == 27
        assert sock.key == ""
        assert transport.request == b"GET /chat HTTP/1.1\r\nHost: h\r\n\r\n"


class TestCustomHeaders:
    @pytest.mark.parametrize(
        "headers",
        [
            "",
            "X-A: 1",
            "Host: h",
            "accept: x\r\nUser-Agent: y",
            "Authorization: Bearer t",
            "Cookie: a=b",
        ],
    )
    def test_headers_of_the_application_are_allowed(self, headers: str) -> None:
        """Also the three that replace ours."""
        check_custom_headers(headers)

    @pytest.mark.parametrize(
        "name",
        [
            "Upgrade",
            "connection",
            "Content-Length",
            "Sec-WebSocket-Key",
            "SEC-WEBSOCKET-VERSION",
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Extensions",
        ],
    )
    def test_headers_of_the_handshake_are_a_value_error(self, name: str) -> None:
        """They would contradict those that the handshake writes; the error names the header."""
        with pytest.raises(ValueError, match=name):
            check_custom_headers(f"X-A: 1\r\n{name}: x")

    def test_lines_that_are_no_headers_are_a_value_error(self) -> None:
        """The same check as for the request itself."""
        with pytest.raises(ValueError, match="is not a header line"):
            check_custom_headers("nonsense")


class TestUserAgent:
    def test_it_has_the_form_of_a_native_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """System, processor, and the program without path and suffix."""
        monkeypatch.setattr(sys, "argv", ["/opt/tools/probe.py", "-v"])
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(sys, "maxsize", 2**63 - 1)
        assert default_user_agent() == "Mozilla/5.0 (Linux x64; mORMot) HCWS/4 probe"

    def test_a_32_bit_python_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The processor is that of the interpreter."""
        monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
        assert " x86; mORMot) " in default_user_agent()

    @pytest.mark.parametrize("argv", [[], [""]], ids=["none", "empty"])
    def test_without_a_program_it_names_python(
        self, monkeypatch: pytest.MonkeyPatch, argv: list[str]
    ) -> None:
        """Embedded or interactive interpreters, and other systems, have an agent too."""
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "platform", "freebsd14")
        agent = default_user_agent()
        assert agent.startswith("Mozilla/5.0 (freebsd14 ")
        assert agent.endswith(" HCWS/4 python")


def test_what_a_client_asks_and_a_server_answers_fit() -> None:
    """Our own client accepts our own server's answer: both halves as values."""
    transport = ScriptedTransport(lambda key: upgrade_answer(key, 42, "echo"))
    assert transport.upgrade() == UpgradeResult(42, [], b"")
    first, *lines = transport.request.decode().removesuffix("\r\n\r\n").split("\r\n")
    headers = [
        (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
    ]
    asked = UpgradeRequest("GET", first.split(" ")[1], first[-3:], headers)
    assert (asked.is_upgrade, asked.fault(), asked.protocols, asked.uri) == (
        True,
        0,
        ["echo"],
        "chat",
    )
