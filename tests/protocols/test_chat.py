"""WebSocketProtocolChat: its callback, its clones, and sending through a process."""

from __future__ import annotations

from typing import Any

import pytest

from mormot_ws.core.frames import (
    WebSocketFrame,
    WebSocketFrameOpCode,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
)
from mormot_ws.protocols.chat import WebSocketProtocolChat
from mormot_ws.states import WebSocketProcessState, wpsClose, wpsCreate, wpsDestroy, wpsRun


class FakeProcess:
    """Has a state, and notes what it is given to send."""

    inherited = False

    def log_fields(self) -> dict[str, object]:
        return {}

    def __init__(self, state: WebSocketProcessState = wpsRun, accepts: bool = True) -> None:
        self.state = state
        self.accepts = accepts
        self.sent: list[WebSocketFrame] = []

    def send_frame(self, frame: WebSocketFrame) -> bool:
        self.sent.append(frame)
        return self.accepts


def ignore(process: Any, frame: WebSocketFrame) -> None:
    """A callback that does nothing."""


class TestCallback:
    @pytest.mark.parametrize("opcode", [focContinuation, focText, focBinary, focConnectionClose])
    def test_it_gets_the_process_and_the_frame_themselves(
        self, opcode: WebSocketFrameOpCode
    ) -> None:
        """The connection's start, its messages and its end all come to the one callback."""
        calls: list[tuple[Any, WebSocketFrame]] = []
        chat = WebSocketProtocolChat(
            "echo", "", lambda process, frame: calls.append((process, frame))
        )
        process: Any = FakeProcess()
        frame = WebSocketFrame(opcode, b"x")
        chat.process_incoming_frame(process, frame, "")
        assert len(calls) == 1
        assert calls[0][0] is process
        assert calls[0][1] is frame

    def test_without_a_callback_frames_are_dropped(self) -> None:
        """No callback is no error."""
        process: Any = FakeProcess()
        WebSocketProtocolChat("echo").process_incoming_frame(
            process, WebSocketFrame(focText, b"x"), ""
        )
        assert process.sent == []

    def test_it_can_be_set_later(self) -> None:
        """The attribute is looked at for each frame."""
        calls: list[WebSocketFrame] = []
        chat = WebSocketProtocolChat("echo")
        chat.on_incoming_frame = lambda process, frame: calls.append(frame)
        process: Any = FakeProcess()
        chat.process_incoming_frame(process, WebSocketFrame(focText, b"x"), "")
        assert calls == [WebSocketFrame(focText, b"x")]

    def test_its_exception_is_logged_with_its_traceback_and_goes_no_further(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A mistake in the application does not end the connection, but it is not silent either."""

        def on_incoming_frame(process: Any, frame: WebSocketFrame) -> None:
            raise ZeroDivisionError("the application's mistake")

        chat = WebSocketProtocolChat("echo", "", on_incoming_frame)
        process: Any = FakeProcess()
        chat.process_incoming_frame(process, WebSocketFrame(focText, b"x"), "")
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("mormot_ws.chat", "ERROR")
        assert "WebSocketFrame(focText, b'x')" in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError

    def test_sys_exit_is_an_exception_as_any_other(self, caplog: pytest.LogCaptureFixture) -> None:
        """It would end the connection's thread only: it is logged, and the connection goes on."""

        def on_incoming_frame(process: Any, frame: WebSocketFrame) -> None:
            raise SystemExit(3)

        process: Any = FakeProcess()
        WebSocketProtocolChat("echo", "", on_incoming_frame).process_incoming_frame(
            process, WebSocketFrame(focText), ""
        )
        assert "SystemExit: 3" in caplog.text

    def test_ctrl_c_in_the_main_thread_goes_on(self) -> None:
        """A loop that the program runs in its main thread can be interrupted."""

        def on_incoming_frame(process: Any, frame: WebSocketFrame) -> None:
            raise KeyboardInterrupt

        process: Any = FakeProcess()
        with pytest.raises(KeyboardInterrupt):
            WebSocketProtocolChat("echo", "", on_incoming_frame).process_incoming_frame(
                process, WebSocketFrame(focText), ""
            )


class TestConstructor:
    def test_only_the_name_has_to_be_given(self) -> None:
        """Any URI, and no callback."""
        chat = WebSocketProtocolChat("echo")
        assert (chat.name, chat.uri, chat.on_incoming_frame) == ("echo", "", None)


class TestClone:
    def test_it_has_name_uri_and_callback(self) -> None:
        """Another object that behaves the same."""
        chat = WebSocketProtocolChat("echo", "chat", ignore)
        clone = chat.clone("chat")
        assert isinstance(clone, WebSocketProtocolChat)
        assert clone is not chat
        assert (clone.name, clone.uri, clone.on_incoming_frame) == ("echo", "chat", ignore)

    def test_it_has_the_callback_and_the_data_of_every_protocol(self) -> None:
        """``on_before_incoming_frame`` and ``custom_data`` go over too."""

        def before(process: Any, frame: WebSocketFrame) -> bool:
            return True

        chat = WebSocketProtocolChat("echo")
        chat.on_before_incoming_frame = before
        chat.set_custom_data("data")
        clone = chat.clone("")
        assert clone is not None
        assert (clone.on_before_incoming_frame, clone.custom_data) == (before, "data")

    def test_a_subclass_is_cloned_as_itself(self) -> None:
        """Overridden methods are those of every connection."""

        class Mine(WebSocketProtocolChat):
            pass

        assert type(Mine("echo").clone("")) is Mine

    def test_nothing_of_a_connection_goes_over(self) -> None:
        """Counters, number and address start afresh."""
        chat = WebSocketProtocolChat("echo")
        chat.connection_id, chat.remote_ip, chat.upgrade_uri = 7, "10.0.0.1", "x"
        chat.counts.frames_in = 3
        clone = chat.clone("")
        assert clone is not None
        assert (clone.connection_id, clone.remote_ip, clone.frames_in_count, clone.upgrade_uri) == (
            0,
            "",
            0,
            "",
        )


class TestSendFrame:
    @pytest.mark.parametrize("opcode", [focText, focBinary])
    def test_messages_go_to_the_process(self, opcode: WebSocketFrameOpCode) -> None:
        """Text and binary frames are sent, once, and the result is True."""
        process: Any = FakeProcess()
        frame = WebSocketFrame(opcode, b"x")
        assert WebSocketProtocolChat("echo").send_frame(process, frame) is True
        assert process.sent == [frame]

    def test_the_answer_of_the_process_is_the_result(self) -> None:
        """False when the connection is lost."""
        process: Any = FakeProcess(accepts=False)
        assert WebSocketProtocolChat("echo").send_frame(process, WebSocketFrame(focText)) is False

    @pytest.mark.parametrize("opcode", [focContinuation, focConnectionClose, focPing, focPong])
    def test_other_opcodes_are_refused(self, opcode: WebSocketFrameOpCode) -> None:
        """False, and nothing reaches the process."""
        process: Any = FakeProcess()
        assert WebSocketProtocolChat("echo").send_frame(process, WebSocketFrame(opcode)) is False
        assert process.sent == []

    @pytest.mark.parametrize(
        "state", [wpsCreate, wpsClose, wpsDestroy], ids=lambda state: state.name
    )
    def test_a_process_that_does_not_run_is_left_alone(self, state: WebSocketProcessState) -> None:
        """False, without raising."""
        process: Any = FakeProcess(state)
        assert WebSocketProtocolChat("echo").send_frame(process, WebSocketFrame(focText)) is False
        assert process.sent == []

    def test_without_a_process_it_is_false(self) -> None:
        """``client.websockets`` is None before the first upgrade."""
        assert WebSocketProtocolChat("echo").send_frame(None, WebSocketFrame(focText)) is False


class TestSendFrameJson:
    @pytest.mark.parametrize("json", ['{"a":"é"}', '{"a":"é"}'.encode()], ids=["text", "bytes"])
    def test_it_is_sent_as_a_text_frame(self, json: str | bytes) -> None:
        """JSON given as text or as UTF-8 bytes goes out as it is."""
        process: Any = FakeProcess()
        assert WebSocketProtocolChat("echo").send_frame_json(process, json) is True
        assert process.sent == [WebSocketFrame(focText, '{"a":"é"}')]

    def test_it_fails_like_send_frame(self) -> None:
        """No process, a process that does not run, a connection that is lost."""
        chat = WebSocketProtocolChat("echo")
        closed: Any = FakeProcess(wpsClose)
        lost: Any = FakeProcess(accepts=False)
        assert [chat.send_frame_json(process, "{}") for process in (None, closed, lost)] == [
            False
        ] * 3


def test_a_clone_keeps_a_callback_that_is_a_method_of_its_prototype() -> None:
    """As in the example ``server.py``: a method of another name, set as the callback."""

    class Echo(WebSocketProtocolChat):
        def echo_frame(self, process: Any, frame: WebSocketFrame) -> None:
            """Do nothing."""

    protocol = Echo("echo")
    protocol.on_incoming_frame = protocol.echo_frame
    clone = protocol.clone("")
    assert isinstance(clone, Echo)
    assert clone.on_incoming_frame == protocol.echo_frame
