"""Requests of the server to its clients, and of both sides inside each other's callbacks; jumbo
frames, which carry queued ones.
"""

from __future__ import annotations

import threading
from itertools import count
from typing import Any

import pytest
from support import BOUND, RawServer, RawServerPeer, active, in_threads, wait_for
from support.rest import (
    KEY,
    KINDS,
    RawRestClient,
    accept_rest,
    mirror,
    pair,
    protocol_of,
    rest_client,
    rest_server,
)

from mormot_ws import (
    HttpServerRequest,
    WebSocketFrame,
    WebSocketProtocolRest,
    WebSocketsError,
    focBinary,
    pboSynLzCompress,
    wscBlockWithAnswer,
    wscBlockWithoutAnswer,
    wscNonBlockWithoutAnswer,
)
from mormot_ws.rest.binary_form import decode_binary, decode_jumbo, encode_jumbo, is_jumbo
from mormot_ws.rest.messages import RestRequest

kinds = pytest.mark.parametrize("kind", KINDS)


class TestFromTheServer:
    @kinds
    @pytest.mark.parametrize("key", ["", KEY])
    def test_a_client_answers_the_servers_requests(self, kind: str, key: str) -> None:
        """What it leaves in the context comes back to who called."""
        if kind == "synopsejson":
            key = ""

        def on_callback(ctxt: HttpServerRequest) -> int:
            ctxt.out_content = ctxt.in_content[::-1]
            ctxt.out_content_type = "text/plain"
            ctxt.out_custom_headers = f"X-Url: {ctxt.url}\r\nX-Method: {ctxt.method}"
            return 299

        with pair(kind, on_callback=on_callback, key=key) as ends:
            ctxt = HttpServerRequest(
                "cb/1?x", "PUT", "X-In: 1", "abc", "text/plain", ends.process.connection_id
            )
            assert ends.server.callback(ctxt, False) == 299
            assert (ctxt.out_content, ctxt.out_content_type) == (b"cba", "text/plain")
            assert ctxt.out_custom_headers == "X-Url: cb/1?x\r\nX-Method: PUT"
            assert ctxt.out_error == ""

    @kinds
    def test_a_callback_that_does_not_wait_is_200_at_once(self, kind: str) -> None:
        """It comes in its order, and is not answered."""
        seen: list[str] = []

        def on_callback(ctxt: HttpServerRequest) -> int:
            seen.append(ctxt.url)
            return 500

        with pair(kind, on_callback=on_callback) as ends:
            for number in range(5):
                assert ends.call_back(f"{number}", non_blocking=True)[0] == 200
            wait_for(lambda: len(seen) == 5)
            assert seen == ["0", "1", "2", "3", "4"]
            assert ends.call_back("last")[0] == 500
            assert ends.process.protocol.frames_out_count <= 1

    @kinds
    def test_a_connection_that_is_known_can_be_called(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also in the moment in which its upgrade is not quite over: the client has the answer
        already.
        """
        release = threading.Event()
        monkeypatch.setattr(
            WebSocketProtocolRest, "after_upgrade", lambda self, process: release.wait(BOUND)
        )
        with rest_server() as server, RawRestClient(server.port, kind) as peer:
            try:
                process = active(server, peer.connection_id)
                assert process.notify_callback(HttpServerRequest("x"), wscBlockWithoutAnswer) == 200
                assert peer.receive_frame().payload
            finally:
                release.set()

    def test_without_such_a_connection_it_is_404(self) -> None:
        with pair("synopsebin") as ends:
            ctxt = HttpServerRequest("x", connection_id=99)
            assert ends.server.callback(ctxt, False) == ends.server.callback(ctxt, True) == 404
            assert ctxt.out_error == "there is no WebSocket connection #99"

    def test_an_exception_of_the_client_is_500_and_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def on_callback(ctxt: HttpServerRequest) -> int:
            raise RuntimeError("of the client")

        with pair("synopsebin", on_callback=on_callback) as ends:
            assert ends.call_back("x")[0] == 500
            assert ends.client.request("/x", "GET") == 200
        assert "RuntimeError: of the client" in caplog.text

    @kinds
    def test_a_process_notifies_in_each_mode(self, kind: str) -> None:
        """The way of the original, on either side."""
        with pair(kind) as ends:
            for process in (ends.process, ends.server_process):
                for mode in (wscBlockWithAnswer, wscBlockWithoutAnswer, wscNonBlockWithoutAnswer):
                    request = HttpServerRequest("/x", in_content=b"[1]")
                    assert process.notify_callback(request, mode) == 200
                    assert request.out_content == (b"[1]" if mode is wscBlockWithAnswer else b"")
                with pytest.raises(ValueError, match="7"):
                    process.notify_callback(HttpServerRequest("/x"), 7)  # type: ignore[arg-type]


class TestNested:
    @kinds
    def test_a_callback_may_be_called_back_from_another_thread(self, kind: str) -> None:
        """The server calls the client while it works on its request, and the client asks the
        server meanwhile, in other threads.
        """
        answers: dict[str, Any] = {}

        def ask_elsewhere(name: str, ask: Any) -> None:
            def run() -> None:
                answers[name] = ask()

            thread = threading.Thread(target=run, name=name, daemon=True)
            thread.start()
            threads.append(thread)

        def application(ctxt: HttpServerRequest) -> int:
            if ctxt.url == "/outer":
                ask_elsewhere("of the server", lambda: ends.call_back("cb/inner")[0])
            return 210

        def on_callback(ctxt: HttpServerRequest) -> int:
            ask_elsewhere("of the client", lambda: ends.client.request("/innermost", "GET"))
            return 220

        threads: list[threading.Thread] = []
        with pair(kind, application, on_callback) as ends:
            assert ends.client.request("/outer", "GET") == 210
            wait_for(lambda: len(answers) == 2)
            for thread in threads:
                thread.join(BOUND)
            assert answers == {"of the server": 220, "of the client": 210}

    @kinds
    def test_a_callback_may_call_another_connection(self, kind: str) -> None:
        """Only its own connection's thread is busy."""

        def application(ctxt: HttpServerRequest) -> int:
            other = HttpServerRequest("cb", connection_id=ctxt.connection_id + 1)
            return server.callback(other, False)

        with (
            rest_server(application) as server,
            rest_client(server.port, kind) as first,
            rest_client(server.port, kind, application=lambda ctxt: 233),
        ):
            wait_for(lambda: server.websocket_connections == 2)
            assert first.request("/x", "GET") == 233

    @kinds
    def test_waiting_inside_a_callback_of_the_same_connection_raises_at_once(
        self, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """On both sides; the error says what to do. Without waiting it is allowed."""
        caught: list[Exception] = []
        seen: list[str] = []

        def application(ctxt: HttpServerRequest) -> int:
            if ctxt.url == "/nested":
                try:
                    ends.call_back("cb")
                except WebSocketsError as exc:
                    caught.append(exc)
                return ends.call_back("cb/queued", non_blocking=True)[0]
            return 200

        def on_callback(ctxt: HttpServerRequest) -> int:
            seen.append(ctxt.url)
            if ctxt.url == "cb/nested":
                try:
                    ends.client.request("/x", "GET")
                except WebSocketsError as exc:
                    caught.append(exc)
                return ends.client.request("/x", "GET", header="Sec-WebSocket-REST: NonBlocking")
            return 200

        with pair(kind, application, on_callback) as ends:
            assert ends.client.request("/nested", "GET") == 200
            assert ends.call_back("cb/nested")[0] == 200
            # what is queued may be overtaken
            wait_for(lambda: sorted(seen) == ["cb/nested", "cb/queued"])
        assert [str(exc).split(":")[0] for exc in caught] == [
            (
                "a request that waits for its answer inside a callback of the same connection "
                "would wait forever"
            )
        ] * 2
        assert "from another thread" in str(caught[0])

    def test_both_sides_ask_at_once_from_many_threads(self) -> None:
        """While each answers the other, in both orders, without a deadlock."""
        with pair("synopsebin", key=KEY) as ends:

            def work(number: int) -> None:
                for turn in range(20):
                    body = b"[%d,%d]" % (number, turn)
                    if number % 2:
                        status, ctxt = ends.call_back("cb", content=body)
                        assert (status, ctxt.out_content) == (200, body)
                    else:
                        assert ends.client.request("/x", data=body) == 200
                        assert ends.client.answer.content == body

            in_threads(8, work)


class TestJumboFrames:
    def test_queued_requests_leave_as_one_frame(self) -> None:
        """Of the client; a single one leaves as it is. Numbers go on, and answers of waiting
        requests are not mixed up with them.
        """
        frames: list[list[bytes]] = []

        def behaviour(peer: RawServerPeer) -> None:
            accept_rest(peer, "synopsebin")
            while (frame := peer.receive_frame()).opcode is focBinary:
                frames.append(
                    decode_jumbo(frame.payload) if is_jumbo(frame.payload) else [frame.payload]
                )

        with (
            RawServer(behaviour) as server,
            rest_client(server.port, "synopsebin", options=()) as client,
        ):
            assert client.websockets is not None
            with client.websockets.safe_out:  # nothing leaves before all of them are queued
                for number in range(4):
                    assert (
                        client.request(
                            f"/{number}", "GET", header="Sec-WebSocket-REST: NonBlocking"
                        )
                        == 200
                    )
            wait_for(lambda: sum(map(len, frames)) == 4)
            last = client.request("/alone", "GET", header="Sec-WebSocket-REST: NonBlocking")
            assert last == 200
            wait_for(lambda: sum(map(len, frames)) == 5)
        messages = [decode_binary(payload) for frame in frames for payload in frame]
        assert [head for head, _ in messages] == [f"r{number:06x}" for number in range(1, 6)]
        assert all(
            isinstance(message, RestRequest) and message.no_answer for _, message in messages
        )
        assert [len(frame) for frame in frames] == [4, 1]
        assert messages[-1][1].url == "/alone"  # type: ignore[union-attr]

    @pytest.mark.parametrize(("key", "options"), [("", None), (KEY, None), (KEY, ())])
    def test_a_batch_arrives_in_its_order_with_markers(self, key: str, options: Any) -> None:
        """Between our two ends, compressed and encrypted as a whole: the first and the last
        message are marked.
        """
        seen: list[tuple[str, str]] = []

        def on_callback(ctxt: HttpServerRequest) -> int:
            seen.append((ctxt.url, ctxt.in_headers))
            return 200

        with pair("synopsebin", on_callback=on_callback, key=key, options=options) as ends:
            ends.call_back("first", non_blocking=True)
            wait_for(lambda: seen)
            with ends.server_process.safe_out:  # nothing leaves before all of them are queued
                for number in range(5):
                    ends.call_back(f"{number}", non_blocking=True)
            wait_for(lambda: len(seen) == 6)
        assert seen[0] == ("first", "")
        assert [url for url, _ in seen[1:]] == ["0", "1", "2", "3", "4"]
        assert [mark for _, mark in seen[1:]] == [
            "Sec-WebSocket-Frame: [0]",
            "",
            "",
            "",
            "Sec-WebSocket-Frame: [1]",
        ]

    def test_a_peer_may_send_requests_that_want_answers_in_a_batch(self) -> None:
        """They come back as frames of their own; a batch of one is marked as a first; other
        messages may be among them.
        """
        heads: list[str] = []

        def application(ctxt: HttpServerRequest) -> int:
            heads.append(ctxt.in_headers)
            return mirror(ctxt)

        with (
            rest_server(application, options=()) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):

            def encoded(*numbers: int) -> list[bytes]:
                return [
                    peer.form.encode(RestRequest("GET", f"/{n}", "X: 1"), f"r{n:06x}").payload
                    for n in numbers
                ]

            peer.send_frame(focBinary, encode_jumbo([*encoded(1, 2), b"junk", *encoded(3)]))
            assert [peer.hear()[0] for _ in range(3)] == ["a000001", "a000002", "a000003"]
            peer.send_frame(focBinary, encode_jumbo(encoded(4)))
            assert peer.hear()[0] == "a000004"
        assert heads == [
            "X: 1\r\nSec-WebSocket-Frame: [0]",
            "X: 1",
            "X: 1\r\nSec-WebSocket-Frame: [1]",
            "X: 1\r\nSec-WebSocket-Frame: [0]",
        ]

    @pytest.mark.parametrize("cut", [1, 8, 12, -1])
    def test_a_batch_that_is_cut_is_dropped_whole(self, cut: int) -> None:
        """Nothing of it is executed, so nothing can be executed twice."""
        seen: list[str] = []

        def application(ctxt: HttpServerRequest) -> int:
            seen.append(ctxt.url)
            return 200

        with (
            rest_server(application, options=()) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            jumbo = encode_jumbo(
                [peer.form.encode(RestRequest("GET", f"/{n}"), "rq").payload for n in range(3)]
            )
            peer.send_frame(focBinary, jumbo[: len(jumbo) - cut if cut > 0 else 9])
            peer.say(RestRequest("GET", "/after"), "rq")
            peer.hear()
        assert seen == ["/after"]

    def test_a_batch_inside_a_batch_is_not_opened(self) -> None:
        """Its payload is no message: a few bytes cannot become a tree of them."""
        seen: list[str] = []

        def application(ctxt: HttpServerRequest) -> int:
            seen.append(ctxt.url)
            return 200

        with (
            rest_server(application, options=()) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            inner = encode_jumbo([peer.form.encode(RestRequest("GET", "/inner"), "r1").payload])
            peer.send_frame(focBinary, encode_jumbo([inner, inner]))
            peer.say(RestRequest("GET", "/after"), "r2")
            assert peer.hear()[0] == "a2"
        assert seen == ["/after"]

    def test_send_frames_joins_them_too(self) -> None:
        """The protocol's own way, for ported code."""
        seen: list[str] = []

        def application(ctxt: HttpServerRequest) -> int:
            seen.append(ctxt.in_headers)
            return 200

        with pair("synopsebin", application, options=pboSynLzCompress) as ends:
            protocol = ends.process.protocol
            frames = [
                protocol_of("synopsebin").encode(
                    RestRequest("GET", f"/{n}", no_answer=True), f"r{n}"
                )
                for n in range(3)
            ]
            assert protocol.send_frames(ends.process, frames)
            wait_for(lambda: len(seen) == 3)
            assert protocol.send_frames(ends.process, frames[:1])
            wait_for(lambda: len(seen) == 4)
        assert seen == ["Sec-WebSocket-Frame: [0]", "", "Sec-WebSocket-Frame: [1]", ""]

    @kinds
    def test_without_a_delay_nothing_is_queued(self, kind: str) -> None:
        """``send_delay`` 0 turns a queued request into one that is sent at once, as natively."""
        with pair(kind, send_delay=0) as ends:
            assert ends.client.request("/x", "GET", header="Sec-WebSocket-REST: NonBlocking") == 200
            assert ends.process.outgoing.count == 0
            assert ends.process.protocol.frames_out_count == 1


def test_numbers_wrap_after_24_bits() -> None:
    """The sequence goes on with 0, as natively."""
    with pair("synopsebin") as ends:
        protocol: Any = ends.process.protocol
        protocol._numbers = count(0xFFFFFF)
        heads: list[str] = []
        encode = protocol.encode

        def spy(message: Any, head: str) -> WebSocketFrame:
            heads.append(head)
            frame: WebSocketFrame = encode(message, head)
            return frame

        protocol.encode = spy
        for body in (b"[1]", b"[2]", b"[3]"):
            assert ends.client.request("/x", data=body) == 200
            assert ends.client.answer.content == body
        assert heads == ["rffffff", "r000000", "r000001"]
