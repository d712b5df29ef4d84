"""Peers that know the REST protocols and mean harm, and applications that fail: the work, the
memory and the log lines that a frame can cause are bounded, and each request gets its answer.
"""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from support import BOUND, active, wait_for
from support.rest import KINDS, RawRestClient, pair, rest_server

from mormot_ws import (
    HttpServerRequest,
    WebSocketFrame,
    WebSocketProcess,
    focBinary,
    pboSynLzCompress,
)
from mormot_ws.rest.binary_form import encode_binary, encode_jumbo, jumbo_count, split_jumbo
from mormot_ws.rest.messages import RestAnswer, RestRequest

kinds = pytest.mark.parametrize("kind", KINDS)
SILENT = encode_binary("r", RestRequest("GET", "/", "", True))


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of the REST layer."""
    return [r.getMessage() for r in caplog.records if r.name == "mormot_ws.rest"]


class Counting:
    """An application that counts its requests, and does something at the second one."""

    def __init__(self, at_second: Callable[[HttpServerRequest], Any] = lambda ctxt: None) -> None:
        self.count = 0
        self._at_second = at_second

    def __call__(self, ctxt: HttpServerRequest) -> int:
        self.count += 1
        if self.count == 2:
            self._at_second(ctxt)
        return 200


class TestJumboFrames:
    @pytest.mark.parametrize(
        "end",
        [
            lambda process: process.abort("test"),
            lambda process: process.shutdown(),
            lambda process: process.start_shutdown(1000, ""),
        ],
        ids=["abort", "shutdown", "close-frame"],
    )
    def test_no_further_message_is_handled_when_the_connection_ends(
        self, end: Callable[[WebSocketProcess], object]
    ) -> None:
        """Those that are left are counted as dropped."""
        processes: list[WebSocketProcess] = []

        def at_second(ctxt: HttpServerRequest) -> None:
            processes.append(active(server, ctxt.connection_id))
            end(processes[0])

        application = Counting(at_second)
        with (
            rest_server(application, options=()) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            peer.send_frame(focBinary, encode_jumbo([SILENT] * 50))
            wait_for(lambda: processes and processes[0].dropped_count == 48)
        assert application.count == 2

    def test_more_than_65536_messages_are_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        """The frame is dropped with one line; the connection goes on."""
        caplog.set_level(logging.INFO, "mormot_ws.rest")
        application = Counting()
        with (
            rest_server(application, options=()) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            for _ in range(2):
                peer.send_frame(focBinary, encode_jumbo([b""] * 65_537))
            peer.say(RestRequest("GET", "/"), "r000001")
            assert peer.hear()[0] == "a000001"
        assert application.count == 1
        [line] = lines_of(caplog)
        assert "too many messages" in line

    def test_its_messages_take_no_memory_of_their_own(self) -> None:
        """They are handled one by one: a list of 65 536 would take twenty times the frame."""
        plain = encode_jumbo([b"x"] * 65_536)
        peaks = []
        # the least of three: another thread may be at work, too
        for _ in range(3):
            tracemalloc.start()
            try:
                assert jumbo_count(plain) == sum(1 for _ in split_jumbo(plain))
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            if peaks[-1] < 10_000:
                break
        assert min(peaks) < 10_000


class TestLogLines:
    @pytest.mark.parametrize(
        "message",
        [b"r\x01", b"x\x01", b"", encode_binary("a000001", RestAnswer()), encode_jumbo([b"r\x01"])],
        ids=["truncated", "unknown", "empty", "late-answer", "nested"],
    )
    def test_a_flood_of_useless_messages_is_one_line(
        self, message: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of each connection, even at DEBUG; the next request is answered."""
        caplog.set_level(logging.DEBUG, "mormot_ws.rest")
        with (
            rest_server(Counting(), options=()) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            for _ in range(3):
                peer.send_frame(focBinary, encode_jumbo([message] * 1_000))
            peer.say(RestRequest("GET", "/"), "r000001")
            assert peer.hear()[0] == "a000001"
        assert len(lines_of(caplog)) == 1

    def test_requests_that_nobody_answers_are_one_line(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with rest_server(None, options=()) as server, RawRestClient(server.port, "synopsebin") as p:
            p.send_frame(focBinary, encode_jumbo([SILENT] * 1_000))
            for _ in range(2):
                p.say(RestRequest("GET", "/"), "r000001")
                assert p.hear()[1].status == 404  # type: ignore[union-attr]
        assert len(lines_of(caplog)) == 1

    def test_failures_of_one_frame_are_one_traceback_and_a_number(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Those of frames of their own are told each."""

        def application(ctxt: HttpServerRequest) -> int:
            raise RuntimeError("a bug")

        with (
            rest_server(application, options=()) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            peer.send_frame(focBinary, encode_jumbo([SILENT] * 1_000))
            peer.say(RestRequest("GET", "/"), "r000001")
            assert peer.hear()[1].status == 500  # type: ignore[union-attr]
        first, second, third = lines_of(caplog)
        assert "failed" in first
        assert "999 more requests" in second
        assert "failed" in third

    @pytest.mark.parametrize("options", [(), pboSynLzCompress], ids=["plain", "synlz"])
    def test_damaged_frames_are_one_line(
        self, options: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With and without a container around them."""
        caplog.set_level(logging.INFO, "mormot_ws.rest")
        with (
            rest_server(Counting(), options=options) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            for _ in range(20):
                peer.send_frame(focBinary, b"garbage, no message at all")
            peer.send_frame(9, b"ping")
            assert peer.receive_frame().opcode == 10
        assert len([line for line in lines_of(caplog) if "dropped" in line]) == (
            2 if options else 1
        )


class _Odd(BaseException):
    """Neither an Exception nor anything that Python knows."""


class TestFailingApplications:
    @kinds
    @pytest.mark.parametrize(
        "raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), _Odd()]
    )
    def test_whatever_an_application_raises_is_500_and_logged(
        self, kind: str, raised: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        """On both sides: sys.exit() in a callback ends neither the thread nor the connection."""

        def application(ctxt: HttpServerRequest) -> int:
            if ctxt.url == "/fails":
                raise raised
            return 200

        with pair(kind, application, application) as ends:
            assert ends.client.request("/fails", "GET") == 500
            assert ends.call_back("/fails")[0] == 500
            assert ends.client.request("/works", "GET") == 200
            assert ends.call_back("/works")[0] == 200
        failed = [r for r in caplog.records if r.exc_info and r.exc_info[1] is raised]
        assert [record.levelno for record in failed] == [logging.ERROR] * 2

    @kinds
    @pytest.mark.parametrize(
        "attributes",
        [
            {"out_content": None},
            {"out_content": {}},
            {"out_content": {"a": 1}},
            {"out_content": 0},
            {"out_content": [b"a"]},
            {"out_content": "\ud800"},
            {"out_content_type": None},
            {"out_content_type": b"text/plain", "out_content": b"x"},
            {"out_custom_headers": None},
            {"out_custom_headers": ["A: b"]},
            {"out_custom_headers": b"A: b"},
            {"status": None},
            {"status": True},
            {"status": "200"},
            {"status": 200.0},
            {"status": -1},
            {"status": 1000},
        ],
        ids=repr,
    )
    def test_an_answer_that_cannot_be_sent_is_a_logged_500(
        self, kind: str, attributes: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The same in each form; the connection goes on."""

        def application(ctxt: HttpServerRequest) -> Any:
            if ctxt.url == "/works":
                return 200
            for name, value in attributes.items():
                if name != "status":
                    setattr(ctxt, name, value)
            return attributes.get("status", 200)

        with pair(kind, application) as ends:
            assert ends.client.request("/x", "GET") == 500
            assert ends.client.request("/works", "GET") == 200
        assert len([record for record in caplog.records if record.exc_info]) == 1

    @kinds
    @pytest.mark.parametrize("content", [bytearray(b"ok"), memoryview(b"ok"), "ok"])
    def test_bytes_of_any_kind_and_text_are_sent(self, kind: str, content: Any) -> None:
        def application(ctxt: HttpServerRequest) -> int:
            ctxt.out_content, ctxt.out_content_type = content, "text/plain"
            return 200

        with pair(kind, application) as ends:
            assert ends.client.request("/x", "GET") == 200
            assert ends.client.answer.content == b"ok"

    def test_an_answer_that_cannot_be_compressed_is_a_logged_500(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is encoded while it is sent: a gigabyte is too much for SynLZ, for instance."""
        from mormot_ws.rest import protocols

        compress = protocols.algo_compress

        def limited(data: bytes, **options: Any) -> bytes:
            if len(data) > 1_000:
                raise ValueError("too much")
            return compress(data, **options)

        def application(ctxt: HttpServerRequest) -> int:
            ctxt.out_content, ctxt.out_content_type = b"x" * 2_000, "text/plain"
            return 200

        monkeypatch.setattr(protocols, "algo_compress", limited)
        with pair("synopsebin", application, options=pboSynLzCompress) as ends:
            assert ends.client.request("/x", "GET") == 500
        assert "cannot be sent as it is" in caplog.text


def test_a_queued_jumbo_frame_counts_as_one() -> None:
    """At both ends, and with the same bytes, as one that is sent at once."""
    with pair("synopsebin", Counting(), options=(), send_delay=100) as ends:
        out, into = ends.process.protocol, ends.server_process.protocol
        frame = WebSocketFrame(focBinary, SILENT)
        with ends.process.safe_out:
            for _ in range(10):
                assert ends.process.send_frame_async(frame)
        wait_for(lambda: into.frames_in_count == 1)
        wait_for(lambda: out.frames_out_count)
        assert out.frames_out_count == 1
        assert out.frames_out_bytes == into.frames_in_bytes == len(encode_jumbo([SILENT] * 10))
        assert out.send_frames(ends.process, [frame] * 10)
        wait_for(lambda: into.frames_in_count == 2)
        assert out.frames_out_count == 2
        assert out.frames_out_bytes == into.frames_in_bytes


def test_more_frames_than_a_jumbo_frame_holds_leave_as_several() -> None:
    """All of them arrive."""
    application = Counting()
    with pair("synopsebin", application, options=()) as ends:
        frames = [WebSocketFrame(focBinary, SILENT)] * 65_540
        assert ends.process.protocol.send_frames(ends.process, frames)
        wait_for(lambda: application.count == 65_540, 3 * BOUND)
        assert ends.server_process.protocol.frames_in_count == 2
