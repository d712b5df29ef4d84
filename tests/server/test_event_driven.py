"""What the event-driven server does with its threads. All else is tested with both servers."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    RawClient,
    Recorder,
    any_alive,
    echo,
    exchange,
    fast_settings,
    ms,
    upgraded,
    wait_for,
)
from support.tls import Authority, authority

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerError,
    HttpServerRequest,
    WebSocketAsyncServer,
    WebSocketAsyncServerRest,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketsError,
    focBinary,
    focConnectionClose,
    focPing,
    focPong,
    focText,
)
from mormot_ws.server import event_driven, leader_pool

__all__ = ["authority"]

pytestmark = pytest.mark.event_driven


class Blocking:
    """A callback that blocks on ``block``, until it may go on, and echoes all else."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.inside = 0
        self._lock = threading.Lock()

    def __call__(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.payload == b"block":
            with self._lock:
                self.inside += 1
            self.go_on.wait(BOUND)
        echo(process, frame)


@contextlib.contextmanager
def serving(callback: Any = echo, **options: Any) -> Iterator[WebSocketAsyncServer]:
    """An event-driven server on a free port, with that callback."""
    settings = {key: options.pop(key) for key in [*options] if hasattr(fast_settings(), key)}
    with WebSocketAsyncServer(f"{HOST}:0", settings=fast_settings(**settings), **options) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
        yield server


def test_a_step_that_the_application_has_put_in_place_of_its_connection_is_taken() -> None:
    """In a callback, before the first step."""
    steps: list[int] = []

    def connected(process: WebSocketProcess) -> None:
        step = process.loop_step

        def counted() -> bool:
            steps.append(process.connection_id)
            return step()

        process.loop_step = counted  # type: ignore[method-assign]

    with serving(on_client_connected=connected) as server, upgraded(server.port) as client:
        assert exchange(client, ["a"]) == ["a"]
        assert exchange(client, ["b"]) == ["b"]
        assert len(steps) >= 2


# ----------------------------------------------------------------------------- callbacks that block


def test_blocking_callbacks_hold_up_no_other_connection() -> None:
    """Thirty at once, each in a thread of its own; the thirty-first connection is served."""
    callback = Blocking()
    with serving(callback) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(upgraded(server.port)) for _ in range(30)]
        for client in clients:
            client.send_frame(focText, "block")
        wait_for(lambda: callback.inside == 30)
        with upgraded(server.port) as other:
            assert exchange(other, ["a", "b"]) == ["a", "b"]
        callback.go_on.set()
        assert [client.receive_frame().payload for client in clients] == [b"block"] * 30


def test_what_comes_during_a_long_callback_is_handled_after_it_and_in_order() -> None:
    """By one thread at a time."""
    callback = Blocking()
    with serving(callback) as server, upgraded(server.port) as client:
        client.send_frame(focText, "block")
        wait_for(lambda: callback.inside == 1)
        for number in range(100):
            client.send_frame(focText, str(number))
        callback.go_on.set()
        received = [client.receive_frame().payload.decode() for _ in range(101)]
    assert received == ["block", *map(str, range(100))]


def test_pings_are_answered_during_a_long_callback() -> None:
    callback = Blocking()
    with serving(callback, heartbeat_delay=100) as server, upgraded(server.port) as client:
        client.send_frame(focText, "block")
        wait_for(lambda: callback.inside == 1)
        client.send_frame(focPing, "are you there?")
        assert client.receive_opcode(focPong).payload == b"are you there?"
        callback.go_on.set()
        client.receive_opcode(focText)
        assert exchange(client, ["after"]) == ["after"]


def test_callbacks_of_one_connection_never_overlap() -> None:
    """Though they are sometimes long, and then another thread leads."""
    inside = threading.Lock()
    seen: list[int] = []

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            assert inside.acquire(blocking=False)
            seen.append(int(frame.text))
            if len(seen) % 10 == 0:
                # a long callback
                time.sleep(10 * MS)
            inside.release()

    with serving(callback) as server, upgraded(server.port) as client:
        for number in range(200):
            client.send_frame(focText, str(number))
        wait_for(lambda: len(seen) == 200)
    assert seen == list(range(200))


def test_a_callback_that_raises_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.payload == b"exit":
            raise SystemExit("bye")
        echo(process, frame)

    with serving(callback) as server, upgraded(server.port) as client:
        for _ in range(10):
            client.send_frame(focText, "exit")
        assert exchange(client, ["x"]) == ["x"]
    assert caplog.text.count("on_incoming_frame failed") == 10


def test_when_all_threads_are_inside_callbacks_the_others_wait_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a member whose handshake was long on a busy machine would get no thread but the leader
    for name in ("_LONG_SECONDS", "_NEXT_LONG_SECONDS"):
        monkeypatch.setattr(leader_pool, name, 200 * MS)
    callback = Blocking()
    with serving(callback, max_server_threads=2) as server, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(upgraded(server.port)) for _ in range(3))
        for client in (first, second):
            client.send_frame(focText, "block")
        wait_for(lambda: callback.inside == 2)
        third.send_frame(focText, "late")
        wait_for(lambda: "max_server_threads" in caplog.text)
        callback.go_on.set()
        assert third.receive_frame().payload == b"late"
        assert len(server._pool.threads) == 2
    assert caplog.text.count("max_server_threads") == 1


def test_threads_that_are_not_needed_any_more_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but ``server_thread_pool_count``."""
    monkeypatch.setattr(leader_pool, "_IDLE_SECONDS", 0.05)
    callback = Blocking()
    with serving(callback, server_thread_pool_count=3) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(upgraded(server.port)) for _ in range(10)]
        for client in clients:
            client.send_frame(focText, "block")
        wait_for(lambda: callback.inside == 10)
        assert len(server._pool.threads) >= 10
        callback.go_on.set()
        wait_for(lambda: len(server._pool.threads) == 3)
        assert exchange(clients[0], ["x"])[-1:] in (["block"], ["x"])


def test_a_request_to_another_connection_may_wait_for_its_answer_in_a_callback() -> None:
    """On the same one it could never come, and raises."""
    told: list[Any] = []
    server = WebSocketAsyncServerRest(f"{HOST}:0", uri="root", ajax=True, settings=fast_settings())

    def on_request(ctxt: HttpServerRequest) -> int:
        for number in (ctxt.connection_id, 3 - ctxt.connection_id):
            question = HttpServerRequest("root/ask", "GET", connection_id=number)
            try:
                told.append(server.callback(question, False))
            except WebSocketsError as exc:
                told.append(type(exc))
        return 200

    server.on_request = on_request
    with server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(HttpClientWebSockets(HOST, server.port)) for _ in range(2)]
        for client in clients:
            client.on_callback_request_process = lambda ctxt: 200
            assert client.websockets_upgrade("root", ajax=True) == ""
        assert clients[0].request("root/x", "GET", 5_000, "", b"", "") == 200
    assert told == [WebSocketsError, 200]


# ---------------------------------------------------------------------------------- slow visitors


def test_visitors_who_send_half_a_request_cost_no_thread() -> None:
    """Nor time for others; after ``handshake_timeout`` they are gone."""
    with serving(handshake_timeout=1500) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(RawClient(server.port)) for _ in range(50)]
        for client in slow:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        wait_for(lambda: server.status().sockets == 50)
        # on a busy machine a step takes long enough for a follower
        assert len(server._pool.threads) <= 5
        with upgraded(server.port) as other:
            assert exchange(other, ["x"]) == ["x"]
        assert [client.read_to_end() for client in slow] == [b""] * 50


def test_visitors_who_stop_in_the_tls_handshake_cost_no_thread(authority: Authority) -> None:
    context = authority.server_context()
    with (
        serving(handshake_timeout=1500, tls_context=context) as server,
        contextlib.ExitStack() as stack,
    ):
        half = [stack.enter_context(RawClient(server.port)) for _ in range(20)]
        hello = client_hello()
        for client in half:
            client.send(hello[:100])
        wait_for(lambda: server.status().sockets == 20)
        # on a busy machine a step takes long enough for a follower
        assert len(server._pool.threads) <= 5
        assert [client.read_to_end() for client in half] == [b""] * 20


def client_hello() -> bytes:
    """The first bytes of a TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def test_a_peer_that_does_not_read_holds_up_only_its_own_callback() -> None:
    """``send_frame`` waits for it in its own thread."""

    def flood(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.payload == b"flood":
            while process.send_frame(WebSocketFrame(focText, b"x" * 100_000)):
                pass
        else:
            echo(process, frame)

    with serving(flood, send_timeout=500) as server, upgraded(server.port, 4096) as deaf:
        deaf.send_frame(focText, "flood")
        with upgraded(server.port) as other:
            for number in range(20):
                assert exchange(other, [str(number)]) == [str(number)]
        wait_for(lambda: not server.websocket_connections)


#: for tests of what is forgotten
nothing_is_kept = pytest.mark.skipif(
    bool(os.environ.get("MORMOT_WS_TEST_LOCKS")), reason="the log records that are kept name it"
)


@nothing_is_kept
def test_the_last_connection_is_forgotten_at_its_end() -> None:
    """Not at the next event, which may come hours later."""
    seen: list[weakref.ref[WebSocketProcess]] = []

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            seen.append(weakref.ref(process))
            echo(process, frame)

    def forgotten() -> bool:
        gc.collect()
        return seen[0]() is None

    with serving(callback) as server:
        with upgraded(server.port) as client:
            assert exchange(client, ["x"]) == ["x"]
        wait_for(lambda: not server.websocket_connections)
        wait_for(forgotten)


@nothing_is_kept
def test_a_connection_whose_last_callback_is_long_is_forgotten() -> None:
    """The keeper is not left with an ended connection to look at."""
    seen: list[weakref.ref[WebSocketProcess]] = []

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focConnectionClose:
            seen.append(weakref.ref(process))
            # what the pool's watcher does then
            process.liveness.callback_is_long()

    def forgotten() -> bool:
        gc.collect()
        return seen[0]() is None

    with serving(callback) as server:
        with upgraded(server.port):
            wait_for(lambda: server.websocket_connections)
        wait_for(lambda: seen)
        wait_for(forgotten)


def test_a_peer_that_never_reads_has_send_timeout_and_no_longer() -> None:
    """What its kernel takes at first, before it is full, does not make it a slow peer, which would
    have four times as long.
    """
    limit = 1000
    took: list[float] = []

    def flood(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.payload == b"flood":
            begin = time.monotonic()
            assert not process.send_frame(WebSocketFrame(focBinary, bytes(16 << 20)))
            took.append(time.monotonic() - begin)

    with serving(flood, send_timeout=ms(limit)) as server, upgraded(server.port, 4096) as deaf:
        deaf.send_frame(focText, "flood")
        wait_for(lambda: took)
    assert 0.9 * limit * MS < took[0] < 3 * limit * MS


def test_a_hang_up_during_a_long_callback_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports it again and again, to those who would listen."""
    callback = Blocking()
    with serving(callback) as server:
        polls = [0]
        poll = server._pool._readiness.poll

        def counted() -> Any:
            polls[0] += 1
            return poll()

        monkeypatch.setattr(server._pool._readiness, "poll", counted)
        with upgraded(server.port) as client:
            client.send_frame(focText, "block")
            wait_for(lambda: callback.inside == 1)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with upgraded(server.port) as other:
            assert exchange(other, ["x"]) == ["x"]
        # a thread that turns in circles polls thousands of times meanwhile
        time.sleep(100 * MS)
        assert polls[0] < 50
        callback.go_on.set()
        wait_for(lambda: not server.websocket_connections)


# ------------------------------------------------------------------------------------ start and end


def test_on_start_and_on_stop_are_called_in_each_thread_that_runs_callbacks(
    recorder: Recorder,
) -> None:
    with serving(on_start=recorder.call("start"), on_stop=recorder.call("stop")) as server:
        recorder.wait("start", 2)
        assert {event.value for event in recorder.all("start")} == {*server._pool.threads}
    recorder.wait("stop", 2)
    assert all(event.thread is event.value for event in recorder.events)


def test_without_epoll_and_kqueue_the_constructor_names_the_server_to_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_driven, "HAS_READINESS", False)
    with pytest.raises(HttpServerError, match="use WebSocketServer"):
        WebSocketAsyncServer(f"{HOST}:0")


@pytest.mark.parametrize("count", [0, -1, True, "2", 1.5], ids=repr)
def test_a_count_of_threads_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="server_thread_pool_count"):
        WebSocketAsyncServer(f"{HOST}:0", None, None, "", count)


def test_a_callback_that_returns_after_free_ends_its_connection_and_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """``free()`` has left it, with a line in the log."""
    callback = Blocking()
    closed = threading.Event()
    server = WebSocketAsyncServer(f"{HOST}:0", settings=fast_settings(close_timeout=50))
    server.on_websocket_close = lambda protocol: closed.set()
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
    with upgraded(server.port) as client:
        client.send_frame(focText, "block")
        wait_for(lambda: callback.inside == 1)
        server.free()
        assert "does not return" in caplog.text
        callback.go_on.set()
        assert closed.wait(BOUND)
        wait_for(lambda: not any_alive(server))
        wait_for(lambda: not server._sockets)


def test_a_broadcast_with_a_timeout_waits_until_it_has_left() -> None:
    """And no longer for a receiver that does not read."""
    with serving() as server, upgraded(server.port) as client, upgraded(server.port, 4096):
        wait_for(lambda: server.websocket_connections == 2)
        ids = [process.connection_id for process in server.connections()]
        small = WebSocketFrame(focText, b"x")
        assert server.websocket_broadcast(small, ids[:1], timeout=5_000) == 1
        assert not server.connections()[0].outgoing.count
        assert client.receive_frame().payload == b"x"
        started = time.monotonic()
        big = WebSocketFrame(focText, b"x" * 15_000_000)
        assert server.websocket_broadcast(big, ids[1:], timeout=200) == 1
        assert 0.2 <= time.monotonic() - started < BOUND


def test_a_leader_that_fails_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it has failed with: the server goes on, and the log says so."""
    callback = Blocking()
    with serving(callback) as server, upgraded(server.port) as client:
        poll = server._pool._readiness.poll
        faults: list[BaseException] = [MemoryError("full")]

        def failing() -> Any:
            if faults:
                raise faults.pop()
            return poll()

        # for the next leader
        monkeypatch.setattr(server._pool._readiness, "poll", failing)
        client.send_frame(focText, "block")
        with upgraded(server.port) as other:
            assert exchange(other, ["x"]) == ["x"]
        callback.go_on.set()
        assert client.receive_frame().payload == b"block"
    assert "a leader has failed" in caplog.text


def test_a_connection_whose_input_was_taken_by_a_writer_is_handled_without_an_event() -> None:
    """Also if a thread is just leaving it."""
    callback = Blocking()
    with serving(callback) as server, upgraded(server.port) as client:
        # its loop runs from here on
        assert exchange(client, ["x"]) == ["x"]
        [connection] = server._sockets
        handled = threading.Event()
        step = connection.handle  # type: ignore[attr-defined]

        def handle() -> bool:
            handled.set()
            result: bool = step()
            return result

        connection.handle = handle  # type: ignore[attr-defined]
        server._pool.revisit(connection)  # type: ignore[arg-type]
        assert handled.wait(BOUND)
        client.send_frame(focText, "block")
        wait_for(lambda: callback.inside == 1)
        handled.clear()
        server._pool.revisit(connection)  # type: ignore[arg-type]
        callback.go_on.set()
        assert handled.wait(BOUND)
        assert client.receive_frame().payload == b"block"


def test_a_connection_that_inflates_megabytes_does_not_hold_up_the_watcher() -> None:
    """It holds the lock of its input meanwhile."""
    with serving() as server, upgraded(server.port):
        [process] = wait_for(server.connections)
        with process.reader.safe_in:
            watching = threading.Thread(target=process.liveness.callback_is_long)
            watching.start()
            watching.join(BOUND)
            assert not watching.is_alive()
        process.liveness.callback_has_ended()
