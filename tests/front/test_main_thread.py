"""MainThreadQueue: callbacks in the main thread of a desktop program; here that of the test."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest
from support import HOST, echo_server, wait_for
from support.waiting import BOUND, MS

import mormot_ws
from mormot_ws import (
    HttpClientWebSockets,
    MainThreadQueue,
    WebSocketFrame,
    WebSocketProtocolChat,
    WebSocketsError,
    focText,
)
from mormot_ws.front import main_thread


@pytest.fixture
def main() -> Iterator[MainThreadQueue]:
    with MainThreadQueue() as queue:
        yield queue


class Thread(threading.Thread):
    """A thread that remembers what its function has returned or raised."""

    def __init__(self, function: object) -> None:
        super().__init__(daemon=True)
        self.function, self.result, self.error = function, None, None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.function()  # type: ignore[operator]
        except BaseException as exc:  # noqa: BLE001 - looked at by the test
            self.error = exc

    def end(self) -> None:
        self.join(BOUND)
        assert not self.is_alive()


def run_until(main: MainThreadQueue, condition: object) -> None:
    wait_for(lambda: (main.run_pending(), condition())[1])  # type: ignore[operator]


def test_callbacks_of_a_connection_run_in_the_main_thread_in_order(main: MainThreadQueue) -> None:
    got: list[object] = []
    threads = set()

    @main.wrap
    def message(ws: mormot_ws.Connection, message: str) -> None:
        threads.add(threading.get_ident())
        got.append(message)

    with echo_server() as server:
        uri = f"ws://{HOST}:{server.port}/"
        with mormot_ws.connect(uri, protocol="echo", on_message=message) as ws:
            for number in range(300):
                assert ws.send(str(number))
            run_until(main, lambda: len(got) == 300)
    assert got == [str(number) for number in range(300)]
    assert threads == {threading.get_ident()}


def test_a_wrapped_coroutine_function_is_refused(main: MainThreadQueue) -> None:
    async def message(ws: object, message: object) -> None:
        pass

    with pytest.raises(TypeError, match="not async def"):
        main.wrap(message)
    with pytest.raises(TypeError, match="on_message is called as"):
        mormot_ws.connect("ws://127.0.0.1:1/", on_message=main.wrap(lambda ws: None))  # type: ignore[arg-type,misc]


def test_an_exception_is_logged_and_the_next_call_runs(
    main: MainThreadQueue, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    main.queue(lambda: 1 // 0)
    main.queue(ran.append, 1)
    assert main.run_pending() == 2
    assert ran == [1]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ZeroDivisionError" in record.getMessage()


def test_nothing_begins_after_the_time_of_a_turn(main: MainThreadQueue) -> None:
    ran: list[int] = []
    for number in range(3):
        main.queue(ran.append, number)
    assert main.run_pending(time=0) == 1
    assert main.run_pending() == 2
    assert ran == [0, 1, 2]


def test_what_a_call_queues_has_its_turn_the_next_time(main: MainThreadQueue) -> None:
    main.queue(lambda: main.queue(lambda: None))
    assert (main.run_pending(), main.run_pending(), main.run_pending()) == (1, 1, 0)


def test_the_main_thread_is_woken_once_for_many_calls_and_again_for_the_rest() -> None:
    wakes: list[int] = []
    with MainThreadQueue(wake=lambda: wakes.append(1)) as main:
        for _ in range(3):
            main.queue(lambda: None)
        assert len(wakes) == 1
        main.run_pending(time=0)
        assert len(wakes) == 2
        main.run_pending()
        assert len(wakes) == 2
        main.queue(lambda: None)
        assert len(wakes) == 3


def test_a_wake_that_raises_is_logged_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with MainThreadQueue(wake=lambda: 1 // 0) as main:
        main.queue(lambda: None)
        assert "wake()" in caplog.text
        assert main.run_pending() == 1


def test_a_timer_runs_what_waits_until_close() -> None:
    timers: list[tuple[int, object]] = []
    ran: list[int] = []
    main = MainThreadQueue()
    main.start(lambda ms, function: timers.append((ms, function)), every=0.5)
    main.queue(ran.append, 1)
    ms, turn = timers.pop()
    assert ms == 500
    turn()  # type: ignore[operator]
    assert ran == [1]
    _, turn = timers.pop()
    main.close()
    turn()  # type: ignore[operator]
    assert timers == []


def test_a_full_queue_lets_the_thread_wait_until_there_is_room() -> None:
    ran: list[int] = []
    with MainThreadQueue(most=2) as main:
        thread = Thread(lambda: [main.queue(ran.append, number) for number in range(50)])
        wait_for(lambda: main.pending == 2)
        run_until(main, lambda: len(ran) == 50)
        thread.end()
    assert ran == list(range(50))


def test_after_its_bound_a_call_is_queued_without_room_and_the_log_says_where_the_main_thread_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(main_thread, "_FULL", 50 * MS)
    with MainThreadQueue(most=1) as main:
        main.queue(lambda: None)
        Thread(lambda: main.queue(lambda: None)).end()
        assert main.pending == 2
        assert "is full: 1 calls wait" in caplog.text or "is full: 2 calls wait" in caplog.text
        assert __file__ in caplog.text


def test_closing_a_connection_does_not_wait_for_a_full_queue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its thread waits for room, and the main thread, in close(), for that thread."""
    with MainThreadQueue(most=1) as main, echo_server() as server:
        ws = mormot_ws.connect(
            f"ws://{HOST}:{server.port}/",
            protocol="echo",
            on_message=main.wrap(lambda ws, message: None),
        )
        assert ws.wait_connected(BOUND)
        for _ in range(20):
            ws.send("x")
        wait_for(lambda: main.pending)
        ws.close()
        # close() would leave a thread behind that does not end within its bound
        assert "does not return" not in caplog.text


def test_synchronize_returns_the_result_and_raises_what_is_raised(main: MainThreadQueue) -> None:
    good = Thread(lambda: main.synchronize(threading.get_ident))
    bad = Thread(lambda: main.synchronize(lambda: 1 // 0))
    run_until(main, lambda: not good.is_alive() and not bad.is_alive())
    assert good.result == threading.get_ident()
    assert isinstance(bad.error, ZeroDivisionError)
    assert main.synchronize(lambda: 3) == 3


def test_synchronize_ends_with_its_time_out_and_the_call_is_not_made(main: MainThreadQueue) -> None:
    ran: list[int] = []
    thread = Thread(lambda: main.synchronize(lambda: ran.append(1), timeout=50 * MS))
    thread.end()
    assert isinstance(thread.error, TimeoutError)
    assert main.run_pending() == 0
    assert ran == []


def test_close_ends_a_synchronize_and_discards_what_waits() -> None:
    main = MainThreadQueue()
    thread = Thread(lambda: main.synchronize(lambda: 1))
    wait_for(lambda: main.pending)
    main.close()
    thread.end()
    assert isinstance(thread.error, WebSocketsError)
    main.queue(lambda: None)
    assert (main.run_pending(), main.discarded) == (0, 2)


def test_a_callback_that_synchronises_does_not_freeze_an_upgrade(main: MainThreadQueue) -> None:
    got: list[str] = []
    with echo_server() as server:
        protocol = WebSocketProtocolChat(
            "echo",
            "",
            lambda process, frame: main.synchronize(lambda: got.append(frame.opcode.name)),
        )
        with HttpClientWebSockets(HOST, server.port) as client:
            assert client.websockets_upgrade("", protocol=protocol) == ""
            assert client.websockets is not None
            run_until(main, lambda: got)
            client.websockets.send_frame(WebSocketFrame(focText, "x"))
            run_until(main, lambda: "focText" in got)
            # the end is a callback as well, for which free() waits
            protocol_of_client = client.websockets.protocol
            assert isinstance(protocol_of_client, WebSocketProtocolChat)
            protocol_of_client.on_incoming_frame = None


def test_a_callback_that_synchronises_with_a_main_thread_in_free_is_told(
    main: MainThreadQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(main_thread, "_PATIENCE", 200 * MS)
    entered = threading.Event()

    def frame(process: object, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            entered.set()
            main.synchronize(lambda: None)

    with echo_server() as server:
        client = HttpClientWebSockets(HOST, server.port)
        protocol = WebSocketProtocolChat("echo", "", frame)
        assert client.websockets_upgrade("", protocol=protocol) == ""
        assert client.websockets is not None
        client.websockets.send_frame(WebSocketFrame(focText, "x"))
        assert entered.wait(BOUND)
        client.free()
    assert "DEADLOCK" in caplog.text
    assert "client.free()" in caplog.text
    assert "does not return" not in caplog.text


def test_other_threads_may_not_run_it(main: MainThreadQueue) -> None:
    thread = Thread(main.run_pending)
    thread.end()
    assert isinstance(thread.error, WebSocketsError)


def test_in_a_forked_child_it_is_closed(main: MainThreadQueue) -> None:
    main.queue(lambda: None)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if main.run_pending() == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert main.run_pending() == 1
