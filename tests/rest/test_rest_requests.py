"""Requests of a client over the REST protocols, on real sockets: what the application sees, and
what comes back.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support import BOUND, HOST, MS, fast_settings, in_threads, wait_for
from support.rest import KEY, KINDS, RawRestClient, mirror, pair, rest_client, rest_server
from support.rest import short_waits as short_waits
from support.tls import Authority

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketFrame,
    WebSocketProtocolBinary,
    WebSocketServerRest,
    focBinary,
    focPing,
    focPong,
    focText,
    pboNoLocalHostCompress,
    pboNoLocalHostEncrypt,
    pboSynLzCompress,
)
from mormot_ws.rest.messages import RestAnswer, RestRequest

LONG = b'{"text":"' + b"words that come again and again " * 100 + b'"}'
#: what each sub-protocol is tried with: (kind, key, options)
FORMS = [
    ("synopsejson", "", None),
    ("synopsebin", "", None),
    ("synopsebin", "", ()),
    ("synopsebin", KEY, None),
    ("synopsebin", KEY, ()),
    ("synopsebinary", "", None),
    ("synopsebinary", KEY, None),
]
forms = pytest.mark.parametrize(
    ("kind", "key", "options"),
    FORMS,
    ids=[f"{k}{'+key' if s else ''}{'' if o is None else '+plain'}" for k, s, o in FORMS],
)
kinds = pytest.mark.parametrize("kind", KINDS)


class TestRequests:
    @forms
    def test_the_application_sees_the_request_and_the_caller_its_answer(
        self, kind: str, key: str, options: Any
    ) -> None:
        """All fields, both ways."""
        seen: list[HttpServerRequest] = []

        def application(ctxt: HttpServerRequest) -> int:
            seen.append(ctxt)
            ctxt.out_content = "<b>né</b>"
            ctxt.out_content_type = "text/html"
            ctxt.out_custom_headers = "X-One: 1\r\nX-Two: 2"
            return 201

        with pair(kind, application, key=key, options=options) as ends:
            client = ends.client
            status = client.request(
                "/path?q=1", "PUT", header="X-Mine: yes", data=b"\x00\xff raw", data_type="image/x"
            )
            assert (status, client.answer.status, client.answer.error) == (201, 201, "")
            assert client.answer.content.decode() == "<b>né</b>"
            assert client.answer.content_type == "text/html"
            assert client.answer.headers == [("X-One", "1"), ("X-Two", "2")]
            (ctxt,) = seen
            assert (ctxt.method, ctxt.url, ctxt.in_headers) == ("PUT", "/path?q=1", "X-Mine: yes")
            assert (ctxt.in_content, ctxt.in_content_type) == (b"\x00\xff raw", "image/x")
            assert (ctxt.connection_id, ctxt.remote_ip) == (ends.process.connection_id, "127.0.0.1")
            assert ends.process.protocol.name == kind

    @forms
    @pytest.mark.parametrize(
        ("content", "content_type"),
        [
            (b'{"a":[1,{"b":"]}"}]}', "application/json"),
            (LONG, "application/json"),
            ('h\u00e9llo "w\u00f6rld"\\\r\n\t\x01'.encode(), "text/plain"),
            (bytes(range(256)) * 8, "application/octet-stream"),
            (b"\xff\xd8\xff\xe0" + bytes(1000), "image/jpeg"),
            (b"x" * 300_000, "text/plain"),
        ],
        ids=["json", "long json", "text", "binary", "jpeg", "large"],
    )
    def test_bodies_come_back_as_they_went(
        self, kind: str, key: str, options: Any, content: bytes, content_type: str
    ) -> None:
        """Text, JSON, binary, compressed already, and large."""
        with pair(kind, key=key, options=options) as ends:
            assert ends.client.request("/x", "POST", data=content, data_type=content_type) == 200
            assert ends.client.answer.content == content
            assert ends.client.answer.content_type == content_type

    @kinds
    def test_a_request_without_a_body(self, kind: str) -> None:
        """It arrives empty on the binary protocols, as an empty JSON text on synopsejson, as
        natively.
        """
        seen: list[HttpServerRequest] = []
        with pair(kind, lambda ctxt: seen.append(ctxt) or 204) as ends:  # type: ignore[func-returns-value]
            assert ends.client.request("", "DELETE") == 204
            expected = (b'""', "application/json") if kind == "synopsejson" else (b"", "")
            assert (seen[0].in_content, seen[0].in_content_type) == expected
            assert seen[0].method == "DELETE"
            assert ends.client.answer.content == expected[0]

    @kinds
    def test_methods_keep_their_spelling(self, kind: str) -> None:
        """The usual one and unusual ones."""
        with pair(kind) as ends:
            for method in ("POST", "GET", "get", "OPTIONS", "X-OWN"):
                assert ends.client.request("/m", method) == 200
                assert json.loads(ends.client.answer.content) == {"method": method, "url": "/m"}

    @kinds
    def test_the_bearer_token_of_the_upgrade_is_given_to_each_request(self, kind: str) -> None:
        """And the one of a request counts where the upgrade had none."""
        seen: list[str] = []

        def application(ctxt: HttpServerRequest) -> int:
            seen.append(ctxt.auth_bearer)
            return 200

        with rest_server(application) as server:
            with rest_client(
                server.port, kind, headers="Authorization: Bearer of-upgrade"
            ) as client:
                client.request("/x")
                client.request("/x", header="Authorization: Bearer of-request")
            with rest_client(server.port, kind) as client:
                client.request("/x")
                client.request("/x", header="Authorization: Bearer of-request")
        assert seen == ["of-upgrade", "of-upgrade", "", "of-request"]

    def test_the_same_application_answers_plain_http(self) -> None:
        """Before the upgrade a client's requests are HTTP, afterwards they are frames."""
        with rest_server() as server, HttpClientWebSockets(HOST, server.port) as client:
            assert client.request("/plain", "GET") == 200
            assert json.loads(client.answer.content) == {"method": "GET", "url": "/plain"}
            assert client.websockets_upgrade("root", "", True) == ""
            assert client.request("/framed", "GET") == 200
            assert json.loads(client.answer.content) == {"method": "GET", "url": "/framed"}

    def test_what_is_asked_for_without_a_protocol(self) -> None:
        """``ajax`` asks for the JSON protocol, else it is the binary one with its key and
        options.
        """
        with rest_server(key=KEY, options={pboSynLzCompress, pboNoLocalHostCompress}) as server:
            with HttpClientWebSockets(HOST, server.port) as client:
                assert (
                    client.websockets_upgrade(
                        "/root", KEY, False, {pboSynLzCompress, pboNoLocalHostCompress}
                    )
                    == ""
                )
                assert client.websockets is not None
                protocol = client.websockets.protocol
                assert isinstance(protocol, WebSocketProtocolBinary)
                assert (protocol.name, protocol.encrypted) == ("synopsebin", True)
                assert client.request("/x", "GET") == 200
            with HttpClientWebSockets(HOST, server.port) as client:
                assert client.websockets_upgrade("root", "", True) == ""
                assert client.websockets is not None
                assert client.websockets.protocol.name == "synopsejson"

    def test_over_tls(self, tmp_path: Path) -> None:
        """REST over wss, from several threads at once."""
        authority = Authority(tmp_path)
        with WebSocketServerRest(
            f"{HOST}:0", uri="root", key=KEY, tls_context=authority.server_context()
        ) as server:
            server.on_request = mirror
            with HttpClientWebSockets(
                HOST, server.port, tls=True, tls_context=authority.client_context()
            ) as client:
                assert client.websockets_upgrade("root", KEY) == "", client.last_error

                def ask(number: int) -> None:
                    for _ in range(20):
                        assert (
                            client.request(
                                "/x", data=b"%d " % number + LONG, data_type="text/plain"
                            )
                            == 200
                        )
                        assert client.answer.content.startswith(b"%d " % number)

                in_threads(4, ask)


class TestModes:
    @kinds
    @pytest.mark.parametrize("mode", ["WithoutAnswer", "NonBlocking"])
    def test_a_request_that_does_not_wait_is_200_at_once(self, kind: str, mode: str) -> None:
        """It arrives, with its header, and nothing is sent back."""
        seen: list[HttpServerRequest] = []
        blocked = threading.Event()

        def application(ctxt: HttpServerRequest) -> int:
            blocked.wait(5_000 * MS)
            seen.append(ctxt)
            ctxt.out_content = b"nobody reads this"
            return 500

        with pair(kind, application) as ends:
            header = f"sec-websocket-rest: {mode}"
            assert (
                ends.client.request(
                    "/later", "POST", header=header, data=b"[1]", data_type="application/json"
                )
                == 200
            )
            assert ends.client.answer.content == b""
            blocked.set()
            wait_for(lambda: seen, what="the request")
            assert (seen[0].in_content, seen[0].in_headers) == (b"[1]", header)
            # everything before has been worked on
            assert ends.client.request("/last", "GET") == 500
            # counted after it was sent
            wait_for(lambda: ends.server_process.protocol.frames_out_count)
            assert ends.server_process.protocol.frames_out_count == 1

    @kinds
    def test_other_values_of_the_header_wait(self, kind: str) -> None:
        """The values are told apart by their case, as natively."""
        with pair(kind) as ends:
            assert ends.client.request("/x", "GET", header="Sec-WebSocket-REST: nonblocking") == 200
            assert ends.client.answer.content != b""

    @kinds
    def test_an_application_may_refuse_to_answer(self, kind: str, short_waits: None) -> None:
        """``!NORESPONSE`` sends no frame: the caller gets 404 after its time-out."""

        def application(ctxt: HttpServerRequest) -> int:
            ctxt.out_content_type = "!NORESPONSE"
            return 200

        with pair(kind, application, timeout=100) as ends:
            assert ends.client.request("/x", "GET") == 404
            assert "no answer within" in ends.client.answer.error
            assert ends.server_process.protocol.frames_out_count == 0


class TestFailures:
    @forms
    def test_an_exception_of_the_application_is_500_and_logged(
        self, kind: str, key: str, options: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The peer is told nothing of it, and the connection goes on."""

        def application(ctxt: HttpServerRequest) -> int:
            if ctxt.url == "/bug":
                raise RuntimeError("secret of the house")
            return 200

        with pair(kind, application, key=key, options=options) as ends:
            assert ends.client.request("/bug?token=abc", "GET") == 200
            assert ends.client.request("/bug", "GET") == 500
            assert b"secret" not in ends.client.answer.content
            assert ends.client.request("/fine", "GET") == 200
        assert "RuntimeError: secret of the house" in caplog.text
        assert "token" not in caplog.text

    @pytest.mark.parametrize("status", [None, "200", 1000, -1])
    def test_a_status_that_is_none_is_500_and_logged(
        self, status: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pair("synopsejson", lambda ctxt: status) as ends:
            assert ends.client.request("/x", "GET") == 500
        assert "the status must be a number" in caplog.text

    def test_an_answer_that_cannot_be_sent_is_500_and_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def application(ctxt: HttpServerRequest) -> int:
            ctxt.out_content = 3.14  # type: ignore[assignment]
            return 200

        with pair("synopsebin", application) as ends:
            assert ends.client.request("/x", "GET") == 500
            assert ends.client.answer.content == b"internal error\n"
        assert "cannot be sent as it is" in caplog.text

    @kinds
    def test_where_nobody_answers_it_is_404(
        self, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pair(kind, None, None) as ends:
            assert ends.client.request("/x", "GET") == 404
            assert ends.call_back("/x")[0] == 404
        assert caplog.text.count("no callback answers requests here") == 2

    def test_header_lines_that_are_none_are_the_callers_fault(self) -> None:
        with pair("synopsejson") as ends, pytest.raises(ValueError, match="header"):
            ends.client.request("/x", "GET", header="no colon here")

    def test_a_request_shows_no_query_in_the_log(self) -> None:
        """A token may stand there."""
        assert (
            repr(HttpServerRequest("/a?token=x", "GET", connection_id=7))
            == "<HttpServerRequest #7 GET /a?…>"
        )
        assert repr(HttpServerRequest("/a", "GET")) == "<HttpServerRequest #0 GET /a>"


class TestPeersOfTheirOwnKind:
    @kinds
    def test_an_answer_has_the_head_that_belongs_to_its_request(self, kind: str) -> None:
        """A peer may use tags of its own; a third letter ``q`` stands for ``request``."""
        with rest_server(options=()) as server, RawRestClient(server.port, kind) as peer:
            for head, expected in (
                ("request", "answer"),
                ("rzz", "azz"),
                ("rxQ", "answer"),
                ("r123456", "a123456"),
            ):
                peer.say(RestRequest("GET", "/x"), head)
                assert peer.hear()[0] == expected

    @kinds
    def test_what_is_neither_request_nor_answer_is_dropped(self, kind: str) -> None:
        """Unknown heads, unexpected answers, garbage and frames of the other opcode: the
        connection stays, nothing is sent back.
        """
        with rest_server(options=()) as server, RawRestClient(server.port, kind) as peer:
            good = peer.form.encode(RestRequest("GET", "/x"), "request").payload
            other = focBinary if kind == "synopsejson" else focText
            peer.say(RestAnswer(200), "answer")
            peer.say(RestAnswer(200), "a000001")
            peer.send_frame(
                peer.form.encode(RestRequest("GET", "/x"), "qqq").opcode,
                good.replace(b"request", b"xequest"),
            )
            peer.send_frame(other, b'{"request":[' if other is focText else good)
            for garbage in (
                b"",
                b"r",
                b"r000001",
                b"request\x01",
                b'{"request":["GET"',
                b'{"request":["GET",',
                b"{" * 99,
            ):
                peer.send_frame(
                    peer.form.encode(RestRequest("GET", "/x"), "request").opcode, garbage
                )
            for cut in range(1, len(good)):
                peer.send_frame(
                    peer.form.encode(RestRequest("GET", "/x"), "request").opcode, good[:cut]
                )
            peer.send_frame(focPing, b"still there")
            frame = peer.receive_frame()
            while frame.opcode is not focPong:  # a frame cut inside its body may still be a request
                assert frame.opcode in (focText, focBinary)
                frame = peer.receive_frame()
            assert frame.payload == b"still there"

    def test_memory_does_not_grow_with_answers_that_nobody_waits_for(self) -> None:
        """They are dropped, where the original keeps them for half an hour."""
        with rest_server() as server, RawRestClient(server.port, "synopsejson") as peer:
            for _ in range(2_000):
                peer.say(RestAnswer(200, "", "text/plain", b"x" * 100), "answer")
            peer.say(RestRequest("GET", "/x"), "request")
            assert peer.hear()[0] == "answer"
            process = server.is_active_websocket(peer.connection_id)
            assert process is not None
            assert process.exchange is not None
            assert process.exchange.waiting == 0


class TestManyThreads:
    @forms
    def test_each_thread_gets_its_own_answers(self, kind: str, key: str, options: Any) -> None:
        """Eight of them over one connection, while the server calls back from two more, and the
        application calls back as well.
        """

        def on_callback(ctxt: HttpServerRequest) -> int:
            ctxt.out_content = ctxt.url.encode()
            ctxt.out_content_type = "text/plain"
            return 202

        with pair(kind, mirror, on_callback, key=key, options=options) as ends:

            def work(number: int) -> None:
                for turn in range(25):
                    if number < 8:
                        url = f"/{number}/{turn}"
                        assert ends.client.request(url, "GET") == 200
                        assert json.loads(ends.client.answer.content) == {
                            "method": "GET",
                            "url": url,
                        }
                    else:
                        status, ctxt = ends.call_back(f"cb/{number}/{turn}", "GET")
                        assert (status, ctxt.out_content) == (
                            202,
                            f"cb/{number}/{turn}".encode(),
                        ), ctxt.out_error

            in_threads(10, work)
            assert ends.process.exchange is not None
            assert ends.process.exchange.waiting == 0

    def test_a_small_request_need_not_wait_for_the_compression_of_a_large_one(self) -> None:
        """Frames are prepared before any lock is taken."""
        prepared, go_on = threading.Event(), threading.Event()

        class Slow(WebSocketProtocolBinary):
            def before_send_frame(self, frame: WebSocketFrame) -> None:
                super().before_send_frame(frame)
                if b"/large" in frame.payload:
                    prepared.set()
                    assert go_on.wait(BOUND)

        with (
            rest_server() as server,
            HttpClientWebSockets(
                HOST, server.port, timeout=5_000, settings=fast_settings()
            ) as client,
        ):
            assert client.websockets_upgrade("root", "", False, None, Slow("root")) == ""
            large = threading.Thread(
                target=client.request, args=("/large", "POST"), name="large", daemon=True
            )
            large.start()
            assert prepared.wait(BOUND)
            try:
                assert client.request("/small", "GET") == 200
                assert large.is_alive()
            finally:
                go_on.set()
                large.join(BOUND)


class TestCountersAndOptions:
    def test_bytes_are_counted_before_and_after_compression(self) -> None:
        """The ratio says by how many percent the traffic shrank."""
        with pair("synopsebin") as ends:
            for _ in range(5):
                assert (
                    ends.client.request("/x", "POST", data=LONG, data_type="application/json")
                    == 200
                )
            sent, received = ends.process.protocol, ends.server_process.protocol
            assert isinstance(sent, WebSocketProtocolBinary)
            assert isinstance(received, WebSocketProtocolBinary)
            wait_for(lambda: received.frames_out_count == 5)  # counted after it was sent
            assert sent.frames_out_bytes == received.frames_in_bytes > 5 * len(LONG)
            assert (
                sent.frames_out_bytes_socket
                == received.frames_in_bytes_socket
                < sent.frames_out_bytes // 4
            )
            assert sent.frames_out_compression == received.frames_in_compression > 75
            assert sent.frames_in_compression == received.frames_out_compression > 75

    def test_without_compression_there_is_no_ratio(self) -> None:
        with pair("synopsebin", options=()) as ends:
            protocol = ends.process.protocol
            assert isinstance(protocol, WebSocketProtocolBinary)
            assert protocol.frames_out_compression == 100
            assert ends.client.request("/x", "POST", data=LONG, data_type="application/json") == 200
            assert (protocol.frames_out_compression, protocol.frames_in_compression) == (0, 0)

    @pytest.mark.parametrize(
        ("options", "small", "clear"),
        [
            ((pboSynLzCompress,), True, False),
            ((pboSynLzCompress, pboNoLocalHostCompress), False, False),
            ((pboSynLzCompress, pboNoLocalHostEncrypt), True, True),
            ((pboSynLzCompress, pboNoLocalHostCompress, pboNoLocalHostEncrypt), False, True),
            ((), False, False),
        ],
    )
    def test_what_is_done_on_this_machine(self, options: Any, small: bool, clear: bool) -> None:
        """By default all of it; two options spare the work where nobody listens."""
        wires: list[bytes] = []
        with pair("synopsebin", key=KEY, options=options) as ends:
            protocol: Any = ends.process.protocol
            before = protocol.before_send_frame

            def spy(frame: Any) -> None:
                before(frame)
                wires.append(frame.payload)

            protocol.before_send_frame = spy
            for data in (LONG, b'{"short":1}'):
                assert (
                    ends.client.request("/x", "POST", data=data, data_type="application/json")
                    == 200
                )
                assert ends.client.answer.content == data
        assert (len(wires[0]) < len(LONG) // 2) is small
        assert (b'{"short":1}' in wires[1]) is clear
