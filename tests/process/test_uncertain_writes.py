"""A queued frame of which nobody knows whether it was sent is not sent again."""

from __future__ import annotations

import errno
from unittest import mock

import pytest
from support import Recorder, connect, echo_server, process_of, text, wait_for
from support.reconnection import NEVER, FixedDelay

from mormot_ws import HttpClientWebSockets, WebSocketProcessClient, WebSocketServer
from mormot_ws.process.batch import Batch


class Boom(BaseException):
    """What a signal handler raises."""


def reading(client: HttpClientWebSockets) -> WebSocketProcessClient:
    """Return the process of *client* when its loop waits for input: before that, the loop would
    send what is queued.
    """
    process = process_of(client)
    wait_for(process.reader.safe_in.locked)
    return process


def interrupted(
    server: WebSocketServer, fault: BaseException, before: bool, again: OSError | None = None
) -> tuple[int, int]:
    """Let *fault* come *before* a queued frame is written, or right behind it; return how many
    frames are queued, and how many are counted as lost, when the connection has been given up.
    *again*: what another flush meets before that.
    """
    # no other connection takes what is queued, before it is counted
    with connect(server.port, reconnect_policy=lambda: FixedDelay(NEVER)) as client:
        client.auto_reconnect()
        process = reading(client)
        write = process.write_now

        def writing(data: memoryview) -> int:
            if not before:
                write(data)
            raise fault

        process.write_now = writing  # type: ignore[method-assign]
        # the keeper is not told of it
        process.outgoing.push(text("once"))
        try:
            process.sender.flush_outgoing()
        except Boom:
            pass
        if again is not None:
            fault, before = again, True
            process.sender.flush_outgoing()
        process.write_now = write  # type: ignore[method-assign]
        process.sender.requeue()
        return process.outgoing.count, process.outgoing.lost


def test_what_a_signal_handler_raises_behind_a_write_costs_the_frame(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been sent, and here it was."""
    with echo_server(callback=recorder.frame) as server:
        assert interrupted(server, Boom(), before=False) == (0, 1)
        # the loop's thread may have counted it, and logs it after that
        lost = "interrupted a write: 1 queued frames count as lost"
        wait_for(lambda: lost in caplog.text)
        recorder.wait("focText")
        wait_for(lambda: not server.websocket_connections)
    assert recorder.texts() == ["once"]


def test_an_error_of_the_socket_sends_it_again(recorder: Recorder) -> None:
    """The kernel has taken nothing then."""
    error = ConnectionResetError(errno.ECONNRESET, "reset")
    with echo_server(callback=recorder.frame) as server:
        assert interrupted(server, error, before=True) == (1, 0)


def test_a_later_error_of_the_socket_does_not_make_it_certain(recorder: Recorder) -> None:
    """It tells what the kernel took then, not what it took before."""
    error = BrokenPipeError(errno.EPIPE, "broken")
    with echo_server(callback=recorder.frame) as server:
        assert interrupted(server, Boom(), before=False, again=error) == (0, 1)
        wait_for(lambda: not server.websocket_connections)
    assert recorder.texts() == ["once"]


def test_frames_that_a_signal_handler_keeps_out_of_the_batch_are_queued_again(
    recorder: Recorder,
) -> None:
    """Nothing of them was written."""
    with echo_server(callback=recorder.frame) as server, connect(server.port) as client:
        client.auto_reconnect()
        process = reading(client)
        process.outgoing.push(text("one"))
        process.outgoing.push(text("two"))
        with mock.patch.object(Batch, "fill", side_effect=Boom), pytest.raises(Boom):
            process.sender.flush_outgoing()
        process.sender.requeue()
        assert [queued.payload for queued in process.outgoing.frames] == [b"one", b"two"]
        assert process.outgoing.lost == 0
