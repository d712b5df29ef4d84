"""What the application needs on a reconnection: the same parameters or fresh ones, its
subscriptions again, and time to do so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    FixedDelay,
    HttpHead,
    RawServer,
    Recorder,
    connect,
    echo_server,
    ms,
    new_client,
    process_of,
    remembering,
    send_text,
    text,
    upgrade,
    wait_for,
)
from support.faults import HEARTBEATS, Losses, ServerPeer
from support.keepers import wait_served

from mormot_ws import (
    FailureKind,
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketsError,
    WebSocketServer,
    focConnectionClose,
    focContinuation,
    focText,
    wpsRun,
)
from mormot_ws.testing import FaultProxy


@pytest.fixture
def heads() -> list[HttpHead]:
    """The upgrade requests that the server has got."""
    return []


@pytest.fixture
def raw_server(heads: list[HttpHead]) -> Iterator[RawServer]:
    """A server that remembers the requests."""
    with RawServer(remembering(heads)) as server:
        yield server


@pytest.fixture
def proxy(raw_server: RawServer) -> Iterator[FaultProxy]:
    """A proxy in front of ``raw_server``."""
    with FaultProxy(HOST, raw_server.port) as proxy:
        yield proxy


def lose_and_wait(proxy: FaultProxy, client: HttpClientWebSockets) -> None:
    """Cut the connection and wait until it is back."""
    before = client.status().reconnects
    proxy.cut()
    wait_for(lambda: client.status().reconnects == before + 1 and client.status().connected)


# --------------------------------------------------------------------------------------- parameters


def test_it_upgrades_again_as_before(proxy: FaultProxy, heads: list[HttpHead]) -> None:
    """With one line of code the client comes back with the same URI, headers, sub-protocol and
    protocol object, as often as needed.
    """
    recorder = Recorder()
    with new_client(proxy.port) as client:
        assert (
            upgrade(client, recorder.frame, "room/7?x=1", "Authorization: Bearer one\r\nX-Mine: 1")
            == ""
        )
        protocol, process = process_of(client).protocol, process_of(client)
        client.auto_reconnect()
        for _ in range(3):
            lose_and_wait(proxy, client)
        assert process_of(client) is process
        assert process.protocol is protocol
        assert send_text(client, "back")
        recorder.wait("focText")
    assert len(heads) == 4
    for head in heads:
        assert head.first_line == "GET /room/7?x=1 HTTP/1.1"
        assert head.headers["authorization"] == "Bearer one"
        assert head.headers["x-mine"] == "1"
        assert head.headers["sec-websocket-protocol"] == "echo"
    keys = {head.headers["sec-websocket-key"] for head in heads}
    assert len(keys) == 4
    assert recorder.names == ["focContinuation", "focConnectionClose"] * 3 + [
        "focContinuation",
        "focText",
    ] + ["focConnectionClose"]


def test_uri_and_headers_may_be_others(proxy: FaultProxy, heads: list[HttpHead]) -> None:
    """Given as text they are used from the first reconnection on."""
    with new_client(proxy.port) as client:
        assert upgrade(client, None, "first", "Authorization: Bearer one") == ""
        client.auto_reconnect("second", "Authorization: Bearer two")
        lose_and_wait(proxy, client)
    assert [head.first_line.split()[1] for head in heads] == ["/first", "/second"]
    assert [head.headers["authorization"] for head in heads] == ["Bearer one", "Bearer two"]


def test_uri_and_headers_may_be_fresh_for_each_attempt(
    proxy: FaultProxy, heads: list[HttpHead]
) -> None:
    """Given as functions they are asked for each attempt, in the client's thread."""
    asked: list[threading.Thread] = []

    def headers() -> str:
        asked.append(threading.current_thread())
        return f"Authorization: Bearer {len(asked)}"

    with new_client(proxy.port) as client:
        assert upgrade(client, None, "0", "Authorization: Bearer 0") == ""
        client.auto_reconnect(lambda: f"{len(asked)}", headers)
        for _ in range(3):
            lose_and_wait(proxy, client)
        assert set(asked) == {process_of(client).client_thread}
        assert process_of(client).protocol.upgrade_uri == "2"
        assert process_of(client).protocol.upgrade_bearer_token == "Authorization: Bearer 3"
    assert [head.headers["authorization"] for head in heads] == [f"Bearer {n}" for n in range(4)]
    assert [head.first_line.split()[1] for head in heads] == ["/0", "/0", "/1", "/2"]


def test_an_empty_text_is_a_value_too(proxy: FaultProxy, heads: list[HttpHead]) -> None:
    """'' is no URI or no headers; only None means the same as before."""
    with new_client(proxy.port) as client:
        assert upgrade(client, None, "first", "Authorization: Bearer one") == ""
        client.auto_reconnect("", lambda: "")
        lose_and_wait(proxy, client)
    assert heads[1].first_line.split()[1] == "/"
    assert "authorization" not in heads[1].headers


# --------------------------------------------------------------------------------------- its faults


def raising_twice(result: str) -> Callable[[], str]:
    """Return a function that raises twice and then returns *result*."""
    left = [ValueError("no token yet"), KeyError("token")]

    def function() -> str:
        if left:
            raise left.pop(0)
        return result

    return function


@pytest.mark.parametrize("which", ["uri", "headers"])
def test_what_the_functions_raise_is_a_failed_attempt(
    proxy: FaultProxy, heads: list[HttpHead], which: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, told to the policy, and the next attempt asks again."""
    policy = FixedDelay(ms(5))
    with new_client(proxy.port, reconnect_policy=lambda: policy) as client:
        assert upgrade(client) == ""
        client.auto_reconnect(**{which: raising_twice("" if which == "uri" else "X-Token: 1")})
        lose_and_wait(proxy, client)
    kinds = [failure.kind for failure in policy.failures]
    assert kinds == [FailureKind.lost, FailureKind.callback, FailureKind.callback]
    assert "no token yet" in policy.failures[1].text
    assert (
        sum(
            record.levelno == logging.ERROR and record.exc_info is not None
            for record in caplog.records
        )
        == 2
    )
    assert len(heads) == 2


@pytest.mark.parametrize("bad", [None, 7, "bad uri with blanks"])
def test_what_can_never_be_requested_is_a_failed_attempt(
    proxy: FaultProxy, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that returns nonsense does not end the client's thread: None is the same as
    before, the rest is logged.
    """
    values: Iterator[Any] = iter([bad, bad, "good"])
    with new_client(proxy.port) as client:
        assert upgrade(client) == ""
        client.auto_reconnect(lambda: next(values))
        lose_and_wait(proxy, client)
    if bad is not None:
        assert any(record.exc_info for record in caplog.records)


def test_without_it_there_is_no_reconnection(server: WebSocketServer) -> None:
    """As in the original a client without ``on_reconnect`` stays where it is when the connection
    ends.
    """
    with FaultProxy(HOST, server.port) as proxy, connect(proxy.port) as client:
        thread = process_of(client).client_thread
        assert thread is not None
        proxy.cut()
        thread.join(BOUND)
        assert not thread.is_alive()
        assert proxy.accepted == 1


def test_taking_on_reconnect_away_ends_it(server: WebSocketServer) -> None:
    """``on_reconnect = None`` undoes it: the next loss is the last."""
    with FaultProxy(HOST, server.port) as proxy, connect(proxy.port) as client:
        client.auto_reconnect()
        lose_and_wait(proxy, client)
        process_of(client).on_reconnect = None
        thread = process_of(client).client_thread
        assert thread is not None
        proxy.cut()
        thread.join(BOUND)
        assert not thread.is_alive()


def test_called_too_late_it_is_not_silent(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture
) -> None:
    """When the connection was lost before the call, the client reconnects all the same, or says
    that it will not.
    """
    caplog.set_level(logging.INFO, "mormot_ws")
    with FaultProxy(HOST, server.port) as proxy, connect(proxy.port) as client:
        thread = process_of(client).client_thread
        assert thread is not None
        proxy.cut()
        thread.join(BOUND)
        caplog.clear()
        try:
            client.auto_reconnect()
        except WebSocketsError:
            return
        if not caplog.records:
            wait_for(
                lambda: client.status().reconnects == 1,
                2_000 * MS,
                "a reconnection, or a word about it",
            )


# ------------------------------------------------------------------------------------ subscriptions


class Subscriptions:
    """A server's callback: ``subscribe TOPIC`` subscribes a connection."""

    def __init__(self) -> None:
        self.topics: dict[int, list[str]] = {}

    def __call__(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focContinuation:
            self.topics[process.connection_id] = []
        elif frame.opcode is focConnectionClose:
            del self.topics[process.connection_id]
        else:
            self.topics[process.connection_id].append(frame.text.removeprefix("subscribe "))

    def publish(self, server: WebSocketServer, topic: str, message: str) -> int:
        """Send *message* to the subscribers of *topic*; return their number."""
        receivers = [number for number, topics in list(self.topics.items()) if topic in topics]
        return server.websocket_broadcast(text(message), receivers)


def test_subscriptions_in_the_first_callback_are_renewed() -> None:
    """What the callback sends at ``focContinuation`` is sent on every connection, so that the
    messages go on.
    """
    recorder = Recorder()
    subscriptions = Subscriptions()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focContinuation:
            assert process.send_frame(text("subscribe news"))
            assert process.send_frame_async(text("subscribe weather"))

    with (
        echo_server(callback=subscriptions) as server,
        FaultProxy(HOST, server.port) as proxy,
        connect(proxy.port, callback) as client,
    ):
        client.auto_reconnect()
        for number in range(1, 4):
            for topic in ("news", "weather"):
                wait_for(
                    lambda number=number, topic=topic: subscriptions.publish(
                        server, topic, f"{topic} {number}"
                    )
                )  # type: ignore[misc]
            wait_for(
                lambda number=number: (
                    {f"news {number}", f"weather {number}"} <= set(recorder.texts())
                )
            )  # type: ignore[misc]
            wait_for(lambda: list(subscriptions.topics.values()) == [["news", "weather"]])
            lose_and_wait(proxy, client)


def test_a_subscription_goes_out_before_what_was_queued_meanwhile() -> None:
    """What ``on_reconnect`` and the first callback send at once comes before the frames that were
    queued while there was no connection.
    """
    received = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focContinuation:
            assert process.send_frame(text("hello"))

    with (
        echo_server(callback=received.frame) as server,
        FaultProxy(HOST, server.port) as proxy,
        connect(proxy.port, callback) as client,
    ):
        client.auto_reconnect()
        received.wait("focText")
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: not client.status().connected)
        for number in range(3):
            assert process_of(client).send_frame_async(text(f"queued {number}"))
        proxy.accept()
        received.wait("focText", 5)
    assert received.texts() == ["hello", "hello", "queued 0", "queued 1", "queued 2"]


def test_a_subscription_goes_out_before_what_others_queue_meanwhile() -> None:
    """The queue waits until ``on_reconnect`` has returned and the first callback has run, also
    when another thread adds to it just then.
    """
    received = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focContinuation:
            assert process.send_frame(text("hello"))

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        error = again(process) or ""
        if process is not None and not error:
            other = threading.Thread(target=process.send_frame_async, args=(text("queued 3"),))
            other.start()
            other.join(BOUND)
            # the keeper has looked at the queue, and has left it alone
            wait_served(process._keeper)
        return error

    with (
        echo_server(callback=received.frame) as server,
        FaultProxy(HOST, server.port) as proxy,
        connect(proxy.port, callback) as client,
    ):
        client.auto_reconnect()
        process = process_of(client)
        assert process.on_reconnect is not None
        again = process.on_reconnect
        process.on_reconnect = on_reconnect
        received.wait("focText")
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: not client.status().connected)
        for number in range(3):
            assert process.send_frame_async(text(f"queued {number}"))
        proxy.accept()
        received.wait("focText", 6)
    assert received.texts() == ["hello", "hello", "queued 0", "queued 1", "queued 2", "queued 3"]


# ---------------------------------------------------------------------------------- taking its time


@pytest.mark.parametrize("when", ["before", "after"])
def test_on_reconnect_may_take_long(when: str) -> None:
    """An ``on_reconnect`` that works for longer than the heartbeats allow a silence, before or
    after its upgrade, harms nothing.

    The other side is a process with heartbeats of 0.1 s: it has to be answered meanwhile.
    """
    losses = Losses()
    called: list[WebSocketProcessClient | None] = []

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        called.append(process)
        # it works for long, before or after the upgrade
        if when == "before":
            time.sleep(1_000 * MS)
        error = again(process) or ""
        if when == "after":
            time.sleep(1_000 * MS)
        return error

    with (
        ServerPeer(**HEARTBEATS) as peer,
        FaultProxy(HOST, peer.port) as proxy,
        connect(proxy.port, losses.frame, **HEARTBEATS) as client,
    ):
        client.auto_reconnect()
        process = process_of(client)
        assert process.on_reconnect is not None
        again = process.on_reconnect
        process.on_reconnect = on_reconnect
        proxy.cut()
        losses.wait("focContinuation", 2)
        assert send_text(client, "still there")
        wait_for(lambda: losses.texts() or len(losses.all("lost")) > 1)
        assert losses.texts() == ["still there"]
        assert len(losses.all("lost")) == 1
        assert len(called) == 1


def test_messages_that_arrive_during_on_reconnect_come_after_it() -> None:
    """What the server sends at once waits for the end of ``on_reconnect`` and for the first
    callback, in its order.
    """
    recorder = Recorder()
    upgraded = threading.Event()

    def greet(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focContinuation:
            for number in range(3):
                process.send_frame(text(f"greeting {number}"))
            upgraded.set()

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        upgraded.clear()
        error = again(process) or ""
        upgraded.wait(BOUND)
        recorder.add("on_reconnect")
        return error

    with (
        echo_server(callback=greet) as server,
        FaultProxy(HOST, server.port) as proxy,
        connect(proxy.port, recorder.frame) as client,
    ):
        recorder.wait("focText", 3)
        client.auto_reconnect()
        process = process_of(client)
        assert process.on_reconnect is not None
        again = process.on_reconnect
        process.on_reconnect = on_reconnect
        proxy.cut()
        recorder.wait("focText", 6)
        names = recorder.names
    assert names == [
        *("focContinuation", "focText", "focText", "focText", "focConnectionClose"),
        *("on_reconnect", "focContinuation", "focText", "focText", "focText"),
    ]
    assert len(recorder.threads) == 1


def test_the_process_may_send_inside_on_reconnect(server: WebSocketServer) -> None:
    """After its upgrade ``on_reconnect`` may log in: the connection can send at once, before the
    loop runs.
    """
    recorder = Recorder()
    with FaultProxy(HOST, server.port) as proxy, connect(proxy.port, recorder.frame) as client:
        client.auto_reconnect()
        process = process_of(client)
        assert process.on_reconnect is not None
        again = process.on_reconnect

        def on_reconnect(reopened: WebSocketProcessClient | None) -> str:
            error = again(reopened) or ""
            if not error:
                assert reopened is not None
                assert reopened.state is wpsRun
                assert reopened.send_frame(text("login"))
            return error

        process.on_reconnect = on_reconnect
        proxy.cut()
        assert recorder.wait("focText").value == WebSocketFrame(focText, "login")
