"""Answers that do not come: each way to wait for one has its bound, and each end of the waiting
its documented status.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from support import (
    BOUND,
    MS,
    RawServer,
    RawServerPeer,
    active,
    chat,
    fast_settings,
    in_threads,
    ms,
    wait_for,
)
from support.rest import KINDS, RawRestClient, accept_rest, mirror, pair, rest_client, rest_server
from support.rest import short_waits as short_waits

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketProtocolChat,
    WebSocketServerRest,
    focConnectionClose,
    wscBlockWithAnswer,
)
from mormot_ws.rest.messages import RestAnswer
from mormot_ws.rest.turns import Turn, Turns

kinds = pytest.mark.parametrize("kind", KINDS)
#: those whose answers carry no number
unnumbered = pytest.mark.parametrize("kind", ["synopsejson", "synopsebinary"])


class Gate:
    """An application whose answers to ``/slow`` are held until the gate opens."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.seen: list[str] = []

    def __call__(self, ctxt: HttpServerRequest) -> int:
        self.seen.append(ctxt.url)
        if ctxt.url == "/slow":
            self.entered.set()
            self.opened.wait(BOUND)
        return mirror(ctxt)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc: object) -> None:
        """Before the server is freed, which waits for its callbacks."""
        self.opened.set()


@pytest.fixture
def gate() -> Gate:
    """A closed gate."""
    return Gate()


class TestTheBounds:
    @pytest.mark.parametrize(
        ("asked", "timeout", "waited"),
        [
            (30_000, 10_000, 10_000),
            (30_000, 500, 2_000),
            (700, 9_000, 2_000),
            (4_000, 9_000, 4_000),
            (0, 9_000, 30_000),
        ],
    )
    def test_how_long_a_client_waits(self, asked: int, timeout: int, waited: int) -> None:
        """As long as its time-out says, unless the setting was changed; 2 s at least; 0 stands for
        30 s.
        """
        with (
            rest_server() as server,
            HttpClientWebSockets("127.0.0.1", server.port, timeout=timeout) as client,
        ):
            client.settings.callback_answer_timeout_ms = asked
            assert client.websockets_upgrade("root", "") == ""
            assert client.websockets is not None
            assert client.websockets.exchange is not None
            assert client.websockets.exchange._timeout_ms() == waited

    def test_how_long_a_server_waits(self) -> None:
        """30 s by default."""
        with pair("synopsebin") as ends:
            assert ends.server_process.answer_timeout() == 30_000
            assert ends.server_process.exchange is not None
            ends.server.settings.callback_answer_timeout_ms = 100
            assert ends.server_process.exchange._timeout_ms() == 2_000

    @kinds
    def test_a_client_gives_up_with_404(self, kind: str, gate: Gate, short_waits: None) -> None:
        """After its time-out, not before, and the late answer is nobody's."""
        with pair(kind, gate, timeout=150) as ends, gate:
            start = time.monotonic()
            assert ends.client.request("/slow", "GET") == 404
            assert 140 * MS <= time.monotonic() - start < 1_500 * MS
            assert ends.client.answer.error == f"no answer within {ms(150)} ms"
            gate.opened.set()
            for number in range(3):
                assert ends.client.request(f"/{number}", "GET") == 200
                assert b'"/%d"' % number in ends.client.answer.content
            assert ends.process.exchange is not None
            assert ends.process.exchange.waiting == 0

    @kinds
    def test_a_server_gives_up_with_404(self, kind: str, gate: Gate, short_waits: None) -> None:
        """As long as ``callback_answer_timeout_ms`` says."""
        with pair(kind, on_callback=gate, callback_answer_timeout_ms=ms(150)) as ends, gate:
            status, ctxt = ends.call_back("/slow")
            assert (status, ctxt.out_error) == (404, f"no answer within {ms(150)} ms")
            assert ctxt.out_timed_out
            gate.opened.set()
            status, ctxt = ends.call_back("/fast")
            assert status == 200
            assert b'"/fast"' in ctxt.out_content


class TestLateAnswers:
    @unnumbered
    def test_the_next_request_waits_for_the_late_answer(
        self, kind: str, gate: Gate, short_waits: None
    ) -> None:
        """It is discarded, and only then the request is sent: its answer cannot be mistaken."""
        with pair(kind, gate, timeout=100) as ends, gate:
            assert ends.client.request("/slow", "GET") == 404
            assert ends.process.exchange is not None
            assert ends.process.exchange.waiting == 0
            results: list[Any] = []

            def ask() -> None:
                results.append((ends.client.request("/next", "GET"), ends.client.answer.content))

            thread = threading.Thread(target=ask, daemon=True)
            thread.start()
            # much longer than its own time-out
            thread.join(200 * MS)
            assert thread.is_alive()
            assert gate.seen == ["/slow"]
            gate.opened.set()
            thread.join(BOUND)
            assert results == [(200, b'{"method": "GET", "url": "/next"}')]

    @unnumbered
    def test_without_the_late_answer_it_is_666(
        self, kind: str, gate: Gate, short_waits: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing was sent."""
        monkeypatch.setattr("mormot_ws.rest.exchange.LATE_ANSWER_TIMEOUT_MS", ms(100))
        with pair(kind, gate, timeout=100) as ends, gate:
            assert ends.client.request("/slow", "GET") == 404
            assert ends.client.request("/next", "GET") == 666
            assert "an earlier request" in ends.client.answer.error
            assert gate.seen == ["/slow"]

    def test_with_numbers_nobody_waits_for_it(self, gate: Gate, short_waits: None) -> None:
        """The late answer is simply ignored."""
        with pair("synopsebin", gate, timeout=100) as ends, gate:
            assert ends.client.request("/slow", "GET") == 404
            # behind the slow one, in the server's one thread
            assert ends.client.request("/next", "GET") == 404
            assert gate.seen == ["/slow"]

    @unnumbered
    def test_a_lost_connection_ends_the_waiting_for_it(
        self, kind: str, gate: Gate, short_waits: None
    ) -> None:
        """At once, with 666: nothing was sent."""
        with pair(kind, gate, timeout=100) as ends, gate:
            assert ends.client.request("/slow", "GET") == 404
            results: list[int] = []
            thread = threading.Thread(
                target=lambda: results.append(ends.client.request("/next", "GET")), daemon=True
            )
            thread.start()
            # it has the time to begin waiting: nothing tells that it does
            thread.join(50 * MS)
            ends.process.abort("test")
            thread.join(BOUND)
            assert results == [666]


class TestTurns:
    @kinds
    def test_slow_answers_reach_all_that_wait(self, kind: str, short_waits: None) -> None:
        """Eight threads whose answers take 50 ms each: together far more than
        ``callback_acquire_timeout_ms``, which is not looked at.
        """
        pause = threading.Event()

        def application(ctxt: HttpServerRequest) -> int:
            pause.wait(50 * MS)
            return mirror(ctxt)

        with pair(kind, application, timeout=2_000, callback_acquire_timeout_ms=10) as ends:

            def ask(number: int) -> tuple[int, bytes]:
                return ends.client.request(f"/{number}", "GET"), ends.client.answer.content

            for number, (status, content) in enumerate(in_threads(8, ask)):
                assert status == 200
                assert b'"/%d"' % number in content

    @unnumbered
    def test_whose_turn_does_not_come_gets_666(
        self, kind: str, gate: Gate, short_waits: None
    ) -> None:
        """It was not sent, so it may be tried again."""
        with pair(kind, gate, timeout=150) as ends, gate:

            def ask(number: int) -> int:
                if number:
                    gate.entered.wait(BOUND)
                    ends.client.settings.callback_answer_timeout_ms = ms(50)
                return ends.client.request(f"/{number}" if number else "/slow", "GET")

            assert in_threads(2, ask) == [404, 666]
            assert gate.seen == ["/slow"]

    @unnumbered
    def test_an_answer_that_never_comes_shifts_no_other(
        self, kind: str, short_waits: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A peer that answers only some requests: nobody gets his neighbour's answer."""
        monkeypatch.setattr("mormot_ws.rest.exchange.LATE_ANSWER_TIMEOUT_MS", ms(100))

        def application(ctxt: HttpServerRequest) -> int:
            if ctxt.url == "/0":
                ctxt.out_content_type = "!NORESPONSE"
                return 200
            return mirror(ctxt)

        with pair(kind, application, timeout=200) as ends:

            def ask(number: int) -> tuple[int, bytes]:
                return ends.client.request(f"/{number}", "GET"), ends.client.answer.content

            first, *others = in_threads(4, ask)
            assert first[0] == 404
            for number, (status, content) in enumerate(others, 1):
                assert (status == 200 and b'"/%d"' % number in content) or status == 666

    def test_turns_come_in_order(self) -> None:
        """Who asked first gets it first, and who gave up is skipped."""
        turns = Turns()
        mine = Turn()
        assert turns.wait(mine, 0)
        order: list[int] = []

        def wait(number: int) -> None:
            turn = Turn()
            came = turns.wait(turn, 0.02 * (number == 1) or BOUND)
            order.append(number if came else -number)
            turns.give(turn)

        threads = []
        for number in range(4):
            thread = threading.Thread(target=wait, args=(number,), daemon=True)
            thread.start()
            threads.append(thread)
            wait_for(lambda: len(turns.queue) == 1 + len(threads) or -1 in order)
        wait_for(lambda: order == [-1])
        turns.give(mine)
        for thread in threads:
            thread.join(BOUND)
        assert order == [-1, 0, 2, 3]
        assert not turns.queue

    def test_a_turn_that_comes_when_giving_up_is_not_lost(self) -> None:
        """Many threads with hardly any patience, for a while: afterwards the turn is free."""
        turns = Turns()

        def work(number: int) -> None:
            for _ in range(300):
                turn = Turn()
                turns.wait(turn, 0.0001)
                turns.give(turn)

        in_threads(6, work)
        assert not turns.queue

    def test_one_that_was_given_up_without_a_word_is_noticed(self) -> None:
        """Its thread was interrupted by a signal before it could wake the next."""
        turns = Turns()
        mine = Turn()
        assert turns.wait(mine, 0)
        came: list[bool] = []
        next_ = Turn()
        thread = threading.Thread(target=lambda: came.append(turns.wait(next_, BOUND)))
        thread.start()
        wait_for(lambda: len(turns.queue) == 2)
        turns.queue.remove(mine)
        thread.join(BOUND)
        assert came == [True]


class TestLostConnections:
    @kinds
    def test_without_a_connection_it_is_666_at_once(self, kind: str) -> None:
        """On both sides; nothing was sent."""
        with pair(kind) as ends:
            ends.process.abort("test")
            wait_for(lambda: ends.process.state.name == "wpsDestroy")
            assert ends.client.request("/x", "GET") == 666
            assert ends.client.answer.error
            assert (
                ends.client.request("/x", "GET", header="Sec-WebSocket-REST: WithoutAnswer") == 666
            )
            assert ends.client.request("/x", "GET", header="Sec-WebSocket-REST: NonBlocking") == 666
            process = ends.server_process
            wait_for(lambda: process.state.name == "wpsDestroy")
            ctxt = HttpServerRequest("x")
            assert process.notify_callback(ctxt, wscBlockWithAnswer) == 666
            assert ctxt.out_error
            assert not ctxt.out_timed_out

    @kinds
    @pytest.mark.parametrize("how", ["close", "cut"])
    def test_requests_under_way_end_with_404_at_once(self, kind: str, how: str) -> None:
        """As soon as the connection is lost, whoever ended it; those whose turn had not come get
        666.
        """

        def behaviour(peer: RawServerPeer) -> None:
            accept_rest(peer, kind)
            peer.receive_frame()
            asked.set()
            ready.wait(BOUND)
            if how == "close":
                peer.send_frame(focConnectionClose)
                peer.read_to_end()

        asked, ready = threading.Event(), threading.Event()
        with (
            RawServer(behaviour) as server,
            rest_client(server.port, kind, options=(), timeout=60_000) as client,
        ):

            def work(number: int) -> int:
                if number == 4:
                    asked.wait(BOUND)
                    ready.set()
                    return 0
                return client.request("/x", "GET")

            start = time.monotonic()
            statuses = in_threads(5, work)[:4]
            assert time.monotonic() - start < BOUND / 2
            assert statuses.count(404) >= 1
            assert set(statuses) <= {404, 666}
            if kind != "synopsebin":
                assert statuses.count(404) == 1
            assert client.websockets is not None
            assert client.websockets.exchange is not None
            assert client.websockets.exchange.waiting == 0

    @kinds
    def test_freeing_the_server_ends_a_callback_that_waits(self, kind: str) -> None:
        """Not only when its 30 s are over."""
        with rest_server() as server, RawRestClient(server.port, kind) as peer:
            process = active(server, peer.connection_id)
            statuses: list[int] = []
            ctxt = HttpServerRequest("x")
            thread = threading.Thread(
                target=lambda: statuses.append(process.notify_callback(ctxt)), daemon=True
            )
            thread.start()
            peer.receive_frame()
            server.free()
            thread.join(BOUND)
            assert statuses == [404]
            assert (
                ctxt.out_error
                == "the connection was lost before the answer came: closed with 1001 server stopped"
            )

    def test_freeing_the_client_ends_a_request_that_waits(self, gate: Gate) -> None:
        with pair("synopsebin", gate, timeout=60_000) as ends, gate:
            statuses: list[int] = []
            thread = threading.Thread(
                target=lambda: statuses.append(ends.client.request("/slow", "GET")), daemon=True
            )
            thread.start()
            gate.entered.wait(BOUND)
            ends.client.free()
            thread.join(BOUND)
            assert statuses == [404]

    def test_a_wrong_key_is_told_to_who_waits(self) -> None:
        """The server closes on the first message that it cannot read, and says so."""
        with (
            rest_server(key="right") as server,
            rest_client(server.port, "synopsebin", "wrong") as client,
        ):
            assert client.request("/x", "GET") == 404
            assert client.answer.error.endswith("closed with 1008 a message cannot be read")


class TestAnswersThatAreNone:
    @kinds
    def test_an_answer_that_cannot_be_read_is_404(self, kind: str) -> None:
        """With a reason; its number is used up."""

        def behaviour(peer: RawServerPeer) -> None:
            form = accept_rest(peer, kind)
            for _ in range(2):
                head, _ = form.decode(peer.receive_frame())
                frame = form.encode(
                    RestAnswer(200), "answer" if head == "request" else "a" + head[1:]
                )
                peer.send_frame(frame.opcode, frame.payload.replace(b"200", b"2x0"))
            peer.wait_end()

        with RawServer(behaviour) as server, rest_client(server.port, kind, options=()) as client:
            for _ in range(2):
                assert client.request("/x", "GET") == 404
                assert "the status is not a number" in client.answer.error

    def test_an_answer_to_another_number_is_not_taken(self) -> None:
        """Only the one that was asked for."""

        def behaviour(peer: RawServerPeer) -> None:
            form = accept_rest(peer, "synopsebin")
            head, _ = form.decode(peer.receive_frame())
            for answer in ("a000000", "answer", "a000002", "a" + head[1:], "a" + head[1:]):
                frame = form.encode(RestAnswer(200, "", "text/plain", answer.encode()), answer)
                peer.send_frame(frame.opcode, frame.payload)
            peer.wait_end()

        with (
            RawServer(behaviour) as server,
            rest_client(server.port, "synopsebin", options=()) as client,
        ):
            assert client.request("/x", "GET") == 200
            assert client.answer.content == b"a000001"


class TestProtocolsWithoutRequests:
    def test_a_request_on_a_chat_connection_is_refused(self) -> None:
        """The original's ``Request`` and ``NotifyCallback`` cannot do it either."""
        with rest_server() as server:
            server.websocket_protocols.add(WebSocketProtocolChat("echo", ""))
            with HttpClientWebSockets("127.0.0.1", server.port) as client:
                assert client.websockets_upgrade("", "", False, None, chat()) == ""
                assert client.request("/x", "GET") == 666
                assert "does not support requests" in client.answer.error
                assert client.websockets is not None
                assert client.websockets.notify_callback(HttpServerRequest("/x")) == 404

    def test_after_a_reconnect_with_another_protocol(self) -> None:
        """Requests are refused, or carried, as the protocol of the moment says."""
        with WebSocketServerRest("127.0.0.1:0", uri="root", settings=fast_settings()) as server:
            server.on_request = mirror
            server.websocket_protocols.add(WebSocketProtocolChat("echo", ""))
            with HttpClientWebSockets("127.0.0.1", server.port, settings=fast_settings()) as client:
                assert client.websockets_upgrade("root", "") == ""
                process = client.websockets
                assert process is not None
                rest = process.protocol
                turns = [("", chat()), ("root", rest)]

                def on_reconnect(reopened: Any) -> str:
                    if reopened is None:
                        return "Retry"
                    uri, protocol = turns[0]
                    error = client.websockets_upgrade(uri, "", False, None, protocol, "", True)
                    if not error:
                        turns.pop(0)
                    return error

                process.on_reconnect = on_reconnect
                assert client.request("/x", "GET") == 200
                process.abort("test")
                wait_for(lambda: process.state.name == "wpsRun" and len(turns) == 1)
                assert client.request("/x", "GET") == 666
                process.abort("test")
                wait_for(lambda: process.state.name == "wpsRun" and not turns)
                assert client.request("/x", "GET") == 200
                process.on_reconnect = None
