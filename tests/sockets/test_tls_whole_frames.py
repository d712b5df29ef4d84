"""A frame whose last byte has left over TLS counts as sent, whatever comes after it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from support import Recorder, active, wait_for
from support.tls import Authority, authority, tls_server, tls_upgraded

from mormot_ws import WebSocketFrame, focBinary
from mormot_ws.sockets.tls_transport import TlsTransport
from mormot_ws.sockets.transport import Transport

__all__ = ["authority"]


class FailingAnswers:
    """An answer of OpenSSL's appears as soon as *size* bytes have left, and cannot be sent.

    OpenSSL has such answers to the peer's key updates.
    """

    def __init__(self, transport: TlsTransport, size: int) -> None:
        self._transport = transport
        self._left = size
        self.failures = 0

    def before(self) -> None:
        """Fail if all bytes have left."""
        if self._left <= 0:
            self.failures += 1
            raise ConnectionResetError("injected")

    def after(self, sent: int) -> int:
        """Count *sent* bytes; the answer follows the last one."""
        self._left -= sent
        if self._left <= 0:
            self._transport._outgoing.write(b"the answer")
        return sent


@pytest.mark.parametrize("size", [5, 100_000])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["send_frame", "send_frame_async"])
def test_a_frame_that_has_left_whole_counts_as_sent(
    authority: Authority,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    asynchronous: bool,
) -> None:
    """Although the connection breaks when OpenSSL's answer is to follow it."""
    payload = os.urandom(size)
    with (
        tls_server(authority.server_context(), recorder.frame) as server,
        tls_upgraded(server.port, authority.client_context()) as client,
    ):
        process = active(server, client.connection_id)
        transport = process.transport
        assert isinstance(transport, TlsTransport)
        # more bytes than this are only in the record that ends the frame
        answers = FailingAnswers(transport, size)
        blocking, at_once = transport._send, Transport.send_now

        def send(data: Any) -> int:
            answers.before()
            return answers.after(blocking(data))

        def send_now(self: Transport, data: Any) -> int:
            if self is not transport:
                return at_once(self, data)
            answers.before()
            return answers.after(at_once(self, data))

        transport._send = send
        monkeypatch.setattr(Transport, "send_now", send_now)
        frame = WebSocketFrame(focBinary, payload)
        if asynchronous:
            assert process.send_frame_async(frame)
        else:
            assert process.send_frame(frame)
        assert client.receive_frame().payload == payload
        wait_for(lambda: answers.failures)
        wait_for(lambda: process.status().frames_out == 1)
        assert process.status().queued_frames == 0
