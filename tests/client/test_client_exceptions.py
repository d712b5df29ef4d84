"""What is raised around a client: by callbacks, policies, libraries and signal handlers."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    FixedDelay,
    RawServer,
    answering,
    connect,
    new_client,
    polite,
    process_of,
    send_text,
    sending,
    upgrade,
    upgrade_and_drop,
    wait_for,
)

from mormot_ws import (
    HttpClientWebSockets,
    ReconnectFailure,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
)
from mormot_ws.testing import FaultProxy

REFUSAL = (
    b"HTTP/1.1 429 Too\x1b[2K Many\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy and more"
)


def once(function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Return *function*, which raises *error* the first time."""
    errors = [error]

    def called(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*args)

    return called


@pytest.mark.parametrize("where", ["on_websockets_closed", "on_reconnect", "policy", "reopen"])
@pytest.mark.parametrize("error", [SystemExit("mine"), GeneratorExit("mine"), KeyError("mine")])
def test_whatever_is_raised_the_thread_goes_on(
    proxy: FaultProxy, where: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The client comes back, and a line at ERROR says who raised what."""
    policy = FixedDelay(0)
    with connect(proxy.port, reconnect_policy=lambda: policy) as client:
        client.auto_reconnect()
        process = process_of(client)
        if where == "on_websockets_closed":
            client.on_websockets_closed = once(lambda closed: None, error)
        elif where == "on_reconnect":
            again = process.on_reconnect
            assert again is not None
            process.on_reconnect = once(again, error)
        elif where == "policy":
            policy.next_delay = once(policy.next_delay, error)  # type: ignore[method-assign]
        else:
            client.reopen = once(client.reopen, error)  # type: ignore[method-assign]
        proxy.cut()
        wait_for(lambda: client.status().reconnects == 1 and client.status().connected)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None
    assert errors[0].exc_info[0] is type(error)


@pytest.mark.parametrize("delay", [math.nan, -1, 1e300, 10**400, "5", True])
def test_a_wait_that_is_no_number_of_milliseconds_is_refused(
    proxy: FaultProxy, delay: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The default is used, with a line in the log."""
    with connect(proxy.port, reconnect_policy=lambda: FixedDelay(delay)) as client:
        client.auto_reconnect()
        proxy.cut()
        wait_for(lambda: client.status().reconnects == 1)
    assert "the reconnection policy returned" in caplog.text


def test_no_thread_to_be_had_is_told_and_tried_again(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client whose thread has ended is revived as soon as threads can be started again."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with connect(proxy.port) as client:
        proxy.cut()
        thread = process_of(client).client_thread
        assert thread is not None
        wait_for(lambda: not thread.is_alive())
        with monkeypatch.context() as patch:
            patch.setattr(type(thread), "start", start)
            client.auto_reconnect()
        assert "no thread can be started" in caplog.text
        assert not client.status().connected
        client.auto_reconnect()
        wait_for(lambda: client.status().connected)


def test_reconnecting_when_the_connection_has_ended_works(proxy: FaultProxy) -> None:
    """In ``on_websockets_closed``, without ``on_reconnect``: the thread goes on and reads."""
    got: list[bytes] = []
    results: list[tuple[str, str]] = []

    def on_frame(process: WebSocketProcess, frame: Any) -> None:
        got.append(bytes(frame.payload))

    def again(client: HttpClientWebSockets) -> None:
        if not results:
            opened = client.reopen()
            results.append((opened, client.websockets_upgrade("", "", reconnect=True)))

    with connect(proxy.port, on_frame) as client:
        client.on_websockets_closed = again
        proxy.cut()
        wait_for(lambda: client.status().connected and results)
        assert results == [("", "")]
        assert send_text(client, "still there")
        wait_for(lambda: b"still there" in got)


def test_reconnecting_in_a_frame_callback_is_refused(proxy: FaultProxy) -> None:
    """The last callback of a connection belongs to it still."""
    results: list[str] = []

    def on_frame(process: WebSocketProcess, frame: Any) -> None:
        if frame.opcode.name == "focConnectionClose":
            client.reopen()
            results.append(client.websockets_upgrade("", "", reconnect=True))

    with connect(proxy.port, on_frame) as client:
        proxy.cut()
        wait_for(lambda: results)
        assert results[0].startswith("The last connection has not ended yet")
        wait_for(lambda: not client.status().connected)


def test_a_free_that_was_interrupted_is_finished_by_the_next(
    server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thread, socket and keeper are gone after it."""
    client = connect(server.port)
    with monkeypatch.context() as patch:
        patch.setattr(client, "interrupt", once(client.interrupt, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            client.free()
    client.free()
    thread = process_of(client).client_thread
    assert thread is not None
    assert not thread.is_alive()
    assert not client.connected
    names = [thread.name for thread in threading.enumerate()]
    assert "mormot_ws clients' keeper" not in names


@pytest.mark.signals
def test_free_in_a_signal_handler_whatever_it_interrupts(server: WebSocketServer) -> None:
    """Also where the main thread holds the client's own locks."""
    client = connect(server.port)
    thread = process_of(client).client_thread
    assert thread is not None

    def handler(number: int, where: object) -> None:
        thread.terminate()
        thread.reconnect_now()
        client.reconnect_now()
        client.status()
        client.free()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        life, use = client._life, client._use
        with use._safe, life._safe_free, life._safe_freed, client._safe_socket, thread._safe:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    wait_for(lambda: not thread.is_alive())


def test_a_refusal_is_told_with_what_the_server_said() -> None:
    """Status, headers and the begin of the body; what moves a terminal's cursor is escaped."""
    policy = FixedDelay(0)
    with (
        RawServer(upgrade_and_drop, sending(REFUSAL), polite) as raw,
        connect(raw.port, reconnect_policy=lambda: policy) as client,
    ):
        client.auto_reconnect()
        wait_for(lambda: client.status().reconnects == 1)
    failure = next(failure for failure in policy.failures if failure.http_status)
    assert (failure.http_status, failure.body, failure.retry_after_ms) == (429, b"busy", 7_000)
    assert ("Retry-After", "7") in failure.headers
    assert failure.text == "HTTP/1.1 429 Too\\x1b[2K Many"


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [("0", 0), ("2", 2_000), ("3600", 300_000), ("soon", 0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0)],
)
def test_retry_after_is_bounded(value: str, milliseconds: float) -> None:
    """At most five minutes; what cannot be read or is past asks for nothing."""
    failure = ReconnectFailure(
        failure_kind(), "", 1, 0, http_status=503, headers=(("retry-after", value),)
    )
    assert failure.retry_after_ms == milliseconds


def failure_kind() -> Any:
    from mormot_ws import FailureKind

    return FailureKind.upgrade


def test_no_sub_protocol_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A warning and a flag, when the server chose none."""
    with (
        RawServer(answering(Sec_WebSocket_Protocol=None)) as raw,
        new_client(raw.port) as client,
    ):
        assert client.subprotocol_chosen
        assert upgrade(client) == ""
        assert not client.subprotocol_chosen
    assert "the server chose none of the requested sub-protocols" in caplog.text


def test_a_protocol_object_belongs_to_one_client(server: WebSocketServer) -> None:
    """A second client is refused while the first one uses it, and may have it afterwards."""
    protocol = WebSocketProtocolChat("echo")
    with new_client(server.port) as first, new_client(server.port) as second:
        assert first.websockets_upgrade("", "", protocol=protocol) == ""
        with pytest.raises(ValueError, match="being used by another client"):
            second.websockets_upgrade("", "", protocol=protocol)
        first.free()
        assert second.websockets_upgrade("", "", protocol=protocol) == ""


def test_a_connection_that_was_used_counts_as_a_good_one(proxy: FaultProxy) -> None:
    """After messages both ways the waits start anew, however short it was."""
    policy = FixedDelay(0)
    resets: list[int] = []
    policy.reset = lambda: resets.append(1)  # type: ignore[method-assign]
    got: list[bytes] = []

    def on_frame(process: WebSocketProcess, frame: Any) -> None:
        got.append(bytes(frame.payload))

    settings: dict[str, Any] = {"reconnect_stable_after": 600_000}
    with connect(proxy.port, on_frame, reconnect_policy=lambda: policy, **settings) as client:
        client.auto_reconnect()
        for number in range(1, 4):
            before = client.status().reconnects
            if number != 2:
                assert send_text(client, f"{number}")
                wait_for(lambda number=number: f"{number}".encode() in got)  # type: ignore[misc]
            proxy.cut()
            wait_for(
                lambda before=before: (
                    client.status().reconnects > before  # type: ignore[misc]
                    and client.status().connected
                )
            )
        assert len(resets) == 2


def test_a_plain_request_names_its_user_agent(server: WebSocketServer) -> None:
    """As a native client does, with ``Accept``; header lines of the application win."""
    heads: list[Any] = []

    def behaviour(peer: Any) -> None:
        heads.append(peer.read_head())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with RawServer(behaviour) as raw, new_client(raw.port) as client:
        assert client.request("/", header="accept: text/plain", keep_alive=0) == 200
    text = repr(heads[0])
    assert client.user_agent in text
    assert "text/plain" in text
    assert "*/*" not in text
