"""The accept thread goes on, whatever is raised in it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import MS, RawClient, any_alive, echo, echo_server, exchange, upgraded, wait_for

from mormot_ws import (
    HttpServerError,
    WebSocketAsyncServer,
    WebSocketProtocolChat,
    WebSocketServer,
)
from mormot_ws.server import accepting, listening


@pytest.fixture
def broken_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A handler of the library's log that raises, as one with a full queue does."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise BufferError("the queue is full")

    # where the interpreter tells what cannot be raised
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    handler = Broken()
    logger = logging.getLogger("mormot_ws.server")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


def serves(server: WebSocketServer) -> bool:
    """Tell whether a new client is served."""
    with upgraded(server.port) as client:
        return exchange(client, ["x"]) == ["x"]


def test_a_log_handler_that_raises_makes_no_server_deaf(
    broken_log: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when a connection is turned away, refused or ends."""
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    with echo_server(max_connections=1) as server:
        with upgraded(server.port), RawClient(server.port) as second:
            assert second.read_answer()[0].status == 503
        wait_for(lambda: not server._sockets)
        with RawClient(server.port) as refused:
            refused.send(refused.request("", "unknown"))
            assert refused.read_head().status == 400
        wait_for(lambda: not server._sockets)
        assert serves(server)


@pytest.mark.parametrize("error", [SystemExit("bye"), KeyboardInterrupt(), RuntimeError("bug")])
def test_on_start_and_on_stop_may_raise_anything(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """``sys.exit()`` in them ends no thread: each is logged at ERROR."""

    def fail(thread: threading.Thread) -> None:
        raise error

    with WebSocketServer("127.0.0.1:0", fail, fail) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        assert serves(server)
        wait_for(lambda: not server._sockets)
    failed = [record for record in caplog.records if "server callback failed" in record.message]
    # each thread at its start and at its end; on a busy machine the event-driven server has more
    if isinstance(server, WebSocketAsyncServer):
        assert len(failed) >= 4
        assert len(failed) % 2 == 0
    else:
        assert len(failed) == 4
    assert {record.levelno for record in failed} == {logging.ERROR}


def failing_once(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the first connection fail in the accept thread."""
    errors = [error]

    begin = accepting.ListeningServer._begin

    def failing(server: accepting.ListeningServer, visitor: Any) -> None:
        if errors:
            raise errors.pop()
        begin(server, visitor)

    monkeypatch.setattr(accepting.ListeningServer, "_begin", failing)


@pytest.mark.parametrize("error", [MemoryError("full"), SystemExit("bye"), RuntimeError("bug")])
def test_a_connection_that_cannot_be_made_is_closed_and_logged(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is served."""
    failing_once(monkeypatch, error)
    with echo_server() as server:
        with RawClient(server.port) as lost:
            assert lost.read_to_end() == b""
        assert serves(server)
    [record] = [record for record in caplog.records if "the server continues" in record.message]
    assert record.levelno == logging.ERROR
    assert f"{type(error).__name__}: {error}" in record.message


def no_thread(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], None]:
    """Let threads of that *name* fail to start as at the system's limit; return what ends this."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if name in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return lambda: monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.threaded
def test_without_threads_clients_get_503_and_the_log_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one for each connection; and the server serves again when it can."""
    caplog.set_level(logging.INFO, "mormot_ws.server")
    with echo_server() as server:
        recover = no_thread(monkeypatch, "#")
        for _ in range(50):
            with RawClient(server.port) as client:
                assert client.read_answer()[0].status == 503
        recover()
        assert server.status().turned_away == 50
        assert not server._sockets
        assert not server._addresses.counts
        assert serves(server)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "no thread for a connection" in record.message


def test_a_flood_that_a_limit_turns_away_writes_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One, and the count tells of the others."""
    caplog.set_level(logging.INFO, "mormot_ws.server")
    with echo_server(max_connections=1) as server, upgraded(server.port):
        for _ in range(50):
            with RawClient(server.port) as client:
                assert client.read_answer()[0].status == 503
        assert server.status().turned_away == 50
    assert sum("away: too many connections" in text for text in caplog.messages) == 1


def test_a_server_without_a_thread_to_accept_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its constructor, and leaves no socket open."""
    listeners: list[Any] = []
    real = listening.listen

    def listen(*args: Any) -> Any:
        listeners.extend(real(*args))
        return listeners

    monkeypatch.setattr(listening, "listen", listen)
    # of the accept thread, or of one of the event-driven server
    no_thread(monkeypatch, "Server")
    with pytest.raises(HttpServerError, match="no thread"):
        WebSocketServer("127.0.0.1:0")
    assert [sock.fileno() for sock in listeners] == [-1]


def test_free_ends_the_pause_after_a_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server whose accepting fails all the time can be freed at once."""

    def accept(server: WebSocketServer, listener: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(accepting.ListeningServer, "_accept_from", accept)
    server = WebSocketServer("127.0.0.1:0")
    with RawClient(server.port):
        wait_for(lambda: "cannot accept" in caplog.text)
        freeing = threading.Thread(target=server.free)
        freeing.start()
        freeing.join(2000 * MS)
        assert not freeing.is_alive()
    assert caplog.text.count("cannot accept") == 1
    assert not any_alive(server)
