"""``connect()``: a client that connects in the background, and comes back by itself."""

from __future__ import annotations

import json
import logging
import os
import signal
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
    echo_server,
    ms,
    refused_port,
    remembering,
    sending,
    silent,
    text,
    wait_for,
)
from support.raw_peer import RawServerPeer
from support.reconnection import NEVER
from support.tls import Authority, authority, tls_server

import mormot_ws
from mormot_ws import (
    CallError,
    Connection,
    ConnectionClosed,
    ExponentialBackoff,
    GaveUp,
    HttpClientWebSockets,
    StopOn,
    WebSocketProcessSettings,
    WebSocketsError,
    connect,
    focText,
    server_tls_context,
)
from mormot_ws.testing import EchoServer, EchoServerProcess, FaultProxy

__all__ = ["authority"]

REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnever"


def soon() -> FixedDelay:
    """Return a policy that tries again at once."""
    return FixedDelay(ms(5))


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """A server that can go away and come back."""
    with EchoServer() as server:
        yield server


def ignore(ws: Connection, message: str | bytes) -> None:
    """A callback that wants nothing."""


def uri_of(port: int, path: str = "") -> str:
    """Return the URI of a server of ours."""
    return f"ws://{HOST}:{port}/{path}"


# ------------------------------------------------------------------------------- coming and going


def test_the_ten_lines_of_the_readme_work_and_the_server_may_come_last() -> None:
    """Nothing but ``connect()`` and a loop: it waits for the server, survives its death, and ends
    by ``close()``.
    """
    got: list[Any] = []

    def run(port: int) -> None:
        with connect(uri_of(port), protocol="echo", policy=soon()) as ws:
            for message in ws:
                got.append(message)
                if message == "end":
                    ws.close()

    with refused_port() as port:
        thread = threading.Thread(target=run, args=(port,))
        thread.start()
    for number in range(2):
        with echo_server(port) as server:
            wait_for(lambda server=server: server.websocket_broadcast(text("hello")))  # type: ignore[misc]
            wait_for(lambda number=number: len(got) == number + 1)  # type: ignore[misc]
    with echo_server(port) as server:
        wait_for(lambda: server.websocket_broadcast(text("end")))
        thread.join(BOUND)
    assert not thread.is_alive()
    assert got == ["hello", "hello", "end"]


def test_it_returns_before_it_is_connected() -> None:
    """``connect()`` does not wait, neither for a server that is silent nor for one that is not
    there; ``wait_connected()`` does.
    """
    with RawServer(silent) as server:
        started = time.monotonic()
        with connect(uri_of(server.port)) as ws:
            assert time.monotonic() - started < BOUND / 4
            assert not ws.wait_connected(0)
            assert not ws.wait_connected(0.05)
            assert not ws.connected
            assert "connecting" in repr(ws)
    with echo_server() as served, connect(uri_of(served.port), protocol="echo") as ws:
        assert ws.wait_connected(BOUND)
        assert ws.wait_connected()
        assert ws.connected
        assert ws.status.connected
        assert ws.protocol == "echo"
        assert repr(ws) == f"<Connection {uri_of(served.port)} connected>"


def test_a_killed_server_comes_back() -> None:
    """A server process that is killed and started again: what was sent in between arrives, and
    iteration goes on.
    """
    with EchoServerProcess() as server, connect(server.uri, policy=soon()) as ws:
        assert ws.send("one")
        assert ws.recv(BOUND) == "one"
        server.kill()
        wait_for(lambda: not ws.connected)
        starting = threading.Timer(0.1, server.start)
        starting.start()
        assert ws.send("two", timeout=BOUND)
        assert ws.recv(BOUND) == "two"
        assert ws.status.reconnects == 1
        # it may still wait for the process to say that it listens, which must not end before
        starting.join(BOUND)


def test_on_open_is_called_at_each_connection_before_others_can_send(server: EchoServer) -> None:
    """What it sends comes first, also when other threads wait to send."""
    recorder = Recorder()

    def on_open(ws: Connection) -> None:
        recorder.add("open")
        # the other thread has time to be too early
        time.sleep(0.02)
        ws.send("login")

    with connect(server.uri, on_open=on_open, policy=soon()) as ws:
        for number in range(1, 4):
            assert ws.send(f"message {number}")
            recorder.wait("open", number)
            assert [ws.recv(BOUND), ws.recv(BOUND)] == ["login", f"message {number}"]
            server.kill()
            server.start()
            wait_for(lambda: not ws.connected)


def test_callbacks_are_told_what_happens(server: EchoServer) -> None:
    """As arguments: ``on_open(ws)``, ``on_message(ws, message)``, ``on_close(ws, code, reason)``,
    all in one thread.
    """
    recorder = Recorder()
    with connect(
        server.uri,
        on_open=lambda ws: recorder.add("open", ws),
        on_message=lambda ws, message: recorder.add("message", message),
        on_close=lambda ws, code, reason: recorder.add("close", (code, reason)),
        policy=soon(),
    ) as ws:
        assert ws.send("text")
        assert ws.send(b"\x00\xff")
        recorder.wait("message", 2)
        server.stop()
        recorder.wait("close")
        server.start()
        recorder.wait("open", 2)
        ws.close(4000, "done")
        recorder.wait("close", 2)
    assert [(event.name, event.value) for event in recorder.events] == [
        ("open", ws),
        ("message", "text"),
        ("message", b"\x00\xff"),
        ("close", (1001, "server stopped")),
        ("open", ws),
        ("close", (4000, "done")),
    ]
    assert len(recorder.threads) == 1


def test_decorators_miss_nothing(server: EchoServer) -> None:
    """Set when the connection is there already, ``on_open`` is called, and ``on_message`` gets what
    waits in the inbox, in order; then both go on in the connection's thread.
    """
    recorder = Recorder()
    with connect(server.uri, policy=soon()) as ws:
        for number in range(50):
            assert ws.send(str(number))
        server.wait_messages(50)

        @ws.on_open
        def opened(ws: Connection) -> None:
            recorder.add("open")

        @ws.on_message
        def message(ws: Connection, message: str | bytes) -> None:
            recorder.add("message", message)

        @ws.on_close
        def closed(ws: Connection, code: int, reason: str) -> None:
            recorder.add("close", code)

        recorder.wait("open")
        for number in range(50, 100):
            assert ws.send(str(number))
        recorder.wait("message", 100)
        assert [event.value for event in recorder.all("message")] == [str(n) for n in range(100)]
        server.kill()
        recorder.wait("close")
        server.start()
        recorder.wait("open", 2)
        assert len(recorder.all("open")) == 2
    assert callable(opened)
    assert callable(message)
    assert callable(closed)


def test_a_decorator_beside_a_flood_keeps_the_order(server: EchoServer) -> None:
    """No message is lost, twice there, or in the wrong place when the callback is set meanwhile."""
    got: list[Any] = []
    with connect(server.uri) as ws:
        assert ws.wait_connected(BOUND)

        def flood() -> None:
            for number in range(2_000):
                ws.send(str(number))

        thread = threading.Thread(target=flood)
        thread.start()
        wait_for(lambda: server.messages)
        ws.on_message(lambda ws, message: got.append(message))
        thread.join(BOUND)
        wait_for(lambda: len(got) == 2_000)
    assert got == [str(number) for number in range(2_000)]


# ------------------------------------------------------------------------------------------ sending


def test_send_waits_for_the_connection_up_to_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """Then it returns False, and the log says so once; 0 does not wait."""
    with refused_port() as port:
        ws = connect(uri_of(port), protocol="echo", timeout=0.1, policy=soon())
        assert ws.send("a", timeout=0) is False
        assert ws.send("b") is False
        assert ws.send_json({}, timeout=0.01) is False
        assert caplog.text.count("a message was not sent") == 1
    with ws, echo_server(port):
        assert ws.send("c", timeout=BOUND) is True
        assert ws.recv(BOUND) == "c"


def test_what_send_tries_again_comes_at_most_once_and_in_order() -> None:
    """A message whose connection breaks inside ``send()`` goes over the next one; none is there
    twice, and those of a thread stay in their order, whatever is cut.
    """
    with EchoServer() as server, FaultProxy(HOST, server.port) as proxy:
        stop = threading.Event()
        sent: dict[int, int] = {}

        def work(which: int) -> None:
            number = 0
            while not stop.is_set():
                assert ws.send(f"{which} {number}")
                number += 1
            sent[which] = number

        with connect(f"ws://{HOST}:{proxy.port}/", policy=FixedDelay(1), on_message=ignore) as ws:
            threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
            for thread in threads:
                thread.start()
            for number in range(15):
                wait_for(lambda number=number: ws.status.reconnects >= number and ws.connected)  # type: ignore[misc]
                before = len(server.messages)
                wait_for(lambda before=before: len(server.messages) > before + 10)  # type: ignore[misc]
                proxy.cut()
            stop.set()
            for thread in threads:
                thread.join(BOUND)
        assert len(sent) == 2
        for which in range(2):
            texts = [frame.text.split() for frame in server.messages]
            numbers = [int(number) for name, number in texts if name == str(which)]
            assert numbers == sorted(set(numbers))


def test_send_in_a_callback_never_waits() -> None:
    """It would keep the connection from coming back; it returns False at once."""
    results: list[Any] = []

    def on_close(ws: Connection, code: int, reason: str) -> None:
        started = time.monotonic()
        results.append(ws.send("too late", timeout=60))
        results.append(ws.wait_connected(60))
        results.append(time.monotonic() - started < BOUND / 2)

    with EchoServer() as server, connect(server.uri, on_close=on_close) as ws:
        assert ws.wait_connected(BOUND)
        server.kill()
        wait_for(lambda: len(results) == 3)
    assert results == [False, False, True]


def test_json_goes_both_ways(server: EchoServer) -> None:
    """``send_json`` sends text."""
    with connect(server.uri) as ws:
        assert ws.send_json({"a": [1, None, "ü"]})
        assert json.loads(ws.recv(BOUND)) == {"a": [1, None, "ü"]}


@pytest.mark.parametrize("message", [None, 7, ["a"], {"a": 1}])
def test_what_is_no_message_is_refused(message: Any) -> None:
    """At once, whether there is a connection or not, and with the cure."""
    with (
        refused_port() as port,
        connect(uri_of(port)) as ws,
        pytest.raises(TypeError, match="send_json"),
    ):
        ws.send(message)


# ---------------------------------------------------------------------- fresh values, several names


def test_headers_and_uri_may_be_functions() -> None:
    """They are asked for each attempt, in the connection's thread; what they raise is a failed
    attempt, told and logged.
    """
    heads: list[HttpHead] = []
    errors: list[BaseException] = []
    threads = set()
    numbers = iter(range(100))

    def uri() -> str:
        threads.add(threading.current_thread())
        number = next(numbers)
        if number < 2:
            raise OSError("no token yet")
        if number == 2:
            return "http://wrong"
        return uri_of(server.port, f"?token={number}")

    def headers() -> dict[str, str]:
        threads.add(threading.current_thread())
        return {"Authorization": f"Bearer {len(heads)}", "X-Mine": "ü"}

    with (
        RawServer(remembering(heads)) as server,
        connect(
            uri, headers=headers, policy=soon(), on_error=lambda ws, error: errors.append(error)
        ) as ws,
    ):
        assert ws.wait_connected(BOUND)
        assert "token" not in repr(ws)
        thread = ws.client.websockets.client_thread  # type: ignore[union-attr]
    assert threads == {thread}
    assert [type(error) for error in errors] == [OSError, OSError, ValueError]
    assert heads[0].first_line == "GET /?token=3 HTTP/1.1"
    assert heads[0].headers["authorization"] == "Bearer 0"


def test_several_sub_protocols_are_asked_for() -> None:
    """The server chooses; ``ws.protocol`` tells."""
    with (
        echo_server() as server,
        connect(uri_of(server.port), protocol=["other", "echo"]) as ws,
    ):
        assert ws.wait_connected(BOUND)
        assert ws.protocol == "echo"


def test_tls(authority: Authority) -> None:
    """``wss://`` with a context of one's own; a bad certificate is given up."""
    with tls_server(authority.server_context(), None) as server:
        uri = f"wss://localhost:{server.port}/"
        with connect(uri, protocol="echo", tls=authority.client_context()) as ws:
            assert ws.wait_connected(BOUND)
        with connect(uri, protocol="echo") as ws:
            with pytest.raises(GaveUp, match="CERTIFICATE_VERIFY_FAILED") as caught:
                ws.recv(BOUND)
            assert caught.value.status == 0
            assert caught.value.__cause__ is caught.value.failure.exception


def test_a_certificate_for_another_name_than_that_of_the_uri(authority: Authority) -> None:
    """``tls_server_name`` is verified in place of the host, and sent as SNI."""
    context = server_tls_context(*authority.issue("ws.example.com"))
    names: list[object] = []
    context.sni_callback = lambda sock, name, used: names.append(name)
    with tls_server(context, None) as server:
        uri = f"wss://127.0.0.1:{server.port}/"
        trusting = authority.client_context()
        with connect(uri, protocol="echo", tls=trusting, tls_server_name="ws.example.com") as ws:
            assert ws.wait_connected(BOUND)
        assert names == ["ws.example.com"]
        with connect(uri, protocol="echo", tls=trusting) as ws, pytest.raises(GaveUp):
            ws.recv(BOUND)


def test_settings_and_compression() -> None:
    """The settings are used as they are; ``compression`` overrides them for this client."""
    settings = WebSocketProcessSettings(max_message_bytes=1_000)
    with echo_server(permessage_deflate=True) as server:
        with connect(
            uri_of(server.port), protocol="echo", settings=settings, compression=True
        ) as ws:
            assert ws.wait_connected(BOUND)
            process = ws.client.websockets
            assert process is not None
            assert process.protocol.compression is not None
            assert process.settings.max_message_bytes == 1_000
            assert settings.permessage_deflate is False
        with connect(uri_of(server.port), protocol="echo", settings=settings) as ws:
            assert ws.client.settings is settings


# ---------------------------------------------------------------------------------------- giving up


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_final_no_ends_iteration(status: int) -> None:
    """With an exception that says why and carries the status; everything that waits gets it."""
    errors: list[Exception] = []
    with RawServer(sending(REFUSED.replace(b"401", str(status).encode()))) as server:
        with connect(uri_of(server.port), on_error=lambda ws, error: errors.append(error)) as ws:
            with pytest.raises(GaveUp, match=str(status)) as caught:
                list(ws)
            assert caught.value.status == status
            assert caught.value.failure.body == b"never"
            assert not ws.wait_connected()
            for act in (
                ws.recv,
                lambda: ws.send("x"),
                lambda: ws.call("f"),
                lambda: next(iter(ws)),
            ):
                with pytest.raises(GaveUp):
                    act()
            wait_for(lambda: len(errors) == 2)
            assert "gave up" in repr(ws)
        assert server.accepted == 1
        with pytest.raises(ConnectionClosed):
            ws.send("x")
    assert isinstance(errors[0], WebSocketsError)
    assert isinstance(errors[1], GaveUp)


def test_a_policy_of_ones_own_gives_up() -> None:
    """After so many attempts, say; the messages that came before can still be read."""

    def twice_and_away(peer: RawServerPeer) -> None:
        peer.accept()
        peer.send_frame(focText, "one")
        peer.send_frame(focText, "two")

    with RawServer(twice_and_away) as server:
        ws = connect(uri_of(server.port), policy=ExponentialBackoff(ms(1), ms(1), max_attempts=3))
        wait_for(lambda: ws.status.connection and ws.status.connection.frames_in >= 2)
    got: list[Any] = []
    with ws:
        with pytest.raises(GaveUp, match="after 3 attempts"):
            got.extend(ws)
        assert got[:2] == ["one", "two"]


def test_what_waits_learns_that_it_gave_up() -> None:
    """A thread in ``send()`` or ``wait_connected()`` does not wait to the end of its time."""
    policy = FixedDelay(NEVER)
    with refused_port() as port, connect(uri_of(port), policy=policy) as ws:
        results: list[Any] = []

        def send() -> None:
            try:
                ws.send("x", timeout=600)
            except GaveUp as exc:
                results.append(exc)

        threads = [
            threading.Thread(target=send),
            threading.Thread(target=lambda: results.append(ws.wait_connected(600))),
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: policy.failures)
        policy.max_attempts = 1
        ws.client.reconnect_now()
        for thread in threads:
            thread.join(BOUND)
        assert len(results) == 2


def test_on_error_set_late_is_told_that_it_gave_up() -> None:
    """At once, by the decorator."""
    with RawServer(sending(REFUSED)) as server, connect(uri_of(server.port)) as ws:
        with pytest.raises(GaveUp):
            ws.recv(BOUND)
        errors: list[Exception] = []
        ws.on_error(lambda ws, error: errors.append(error))
        assert len(errors) == 1


def test_the_default_policy_of_settings_is_used_when_it_was_set() -> None:
    """``settings.reconnect_policy``, as everywhere."""
    policy = FixedDelay(ms(5), max_attempts=2)
    settings = WebSocketProcessSettings(reconnect_policy=lambda: policy)
    with refused_port() as port, connect(uri_of(port), settings=settings) as ws:
        with pytest.raises(GaveUp):
            ws.recv(BOUND)
        assert len(policy.failures) == 2


def test_a_client_that_is_freed_underneath_ends_iteration(server: EchoServer) -> None:
    """Nobody waits for ever when somebody else ends it."""
    ws = connect(server.uri)
    assert ws.wait_connected(BOUND)
    ws.client.free()
    with pytest.raises(GaveUp):
        ws.recv(BOUND)
    ws.close()


# ------------------------------------------------------------------------------------------ closing


def test_close_ends_everything_that_waits(server: EchoServer) -> None:
    """Iterations end, ``recv()`` raises, and no thread is left."""
    ws = connect(server.uri)
    assert ws.wait_connected(BOUND)
    results: list[Any] = []

    def receive() -> None:
        try:
            ws.recv()
        except ConnectionClosed as exc:
            results.append(exc)

    threads = [
        threading.Thread(target=lambda: results.append(list(ws))),
        threading.Thread(target=receive),
    ]
    for thread in threads:
        thread.start()
    ws.close()
    for thread in threads:
        thread.join(BOUND)
    assert len(results) == 2
    assert [] in results
    assert not ws.client.websockets.client_thread.is_alive()  # type: ignore[union-attr]
    ws.close()
    assert list(ws) == []
    assert not ws.wait_connected()
    assert repr(ws) == f"<Connection {server.uri} closed>"
    with pytest.raises(ConnectionClosed):
        ws.call("f")


@pytest.mark.parametrize("where", ["on_open", "on_message", "on_close", "on_error"])
def test_close_inside_a_callback(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """It returns at once, nothing freezes, the thread ends, and nothing is left to be done."""
    returned = threading.Event()

    def close(ws: Connection, *_: Any) -> None:
        ws.close(4001)
        returned.set()

    callbacks: dict[str, Any] = {where: close}
    with EchoServer() as server:
        uri = server.uri if where != "on_error" else "ws://127.0.0.1:1/"
        ws = connect(uri, policy=soon(), **callbacks)
        if where == "on_message":
            assert ws.send("x")
        elif where == "on_close":
            assert ws.wait_connected(BOUND)
            server.kill()
        assert returned.wait(BOUND)
        wait_for(lambda: "freed" in repr(ws.client))
        thread = ws.client.websockets.client_thread  # type: ignore[union-attr]
        assert thread is not None
        thread.join(BOUND)
        assert not thread.is_alive()
        ws.close()
    assert "DEADLOCK" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_end_of_the_block_inside_a_callback(server: EchoServer) -> None:
    """``with`` in a callback closes like ``close()``."""
    done = threading.Event()

    def on_message(ws: Connection, message: str) -> None:
        with ws:
            pass
        done.set()

    ws = connect(server.uri, on_message=on_message)
    ws.send("x")
    assert done.wait(BOUND)
    ws.close()


def test_free_of_the_client_in_a_callback_raises(server: EchoServer) -> None:
    """The original's freeze is not for people who never heard of it: ``free_in_callback='raise'``
    by default here, and ``on_error`` is told.
    """
    recorder = Recorder()
    with connect(
        server.uri,
        on_message=lambda ws, message: ws.client.free(),
        on_error=lambda ws, error: recorder.add("error", error),
    ) as ws:
        ws.send("x")
        assert "its own callback" in str(recorder.wait("error").value)
        assert ws.send("still there")


def test_a_code_that_cannot_be_sent_is_refused(server: EchoServer) -> None:
    """Before anything is closed."""
    with connect(server.uri) as ws:
        assert ws.wait_connected(BOUND)
        with pytest.raises(ValueError, match="1006"):
            ws.close(1006)
        assert ws.connected


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise")
def test_ctrl_c_in_an_iteration(server: EchoServer, ctrl_c: Callable[[], None]) -> None:
    """It is raised in the loop, and the block closes the connection."""
    ws = connect(server.uri)
    inside, ended = threading.Event(), threading.Event()

    def interrupted() -> None:
        with ws:
            try:
                for _ in ws:
                    inside.set()
            finally:
                ended.set()

    def interrupt() -> None:
        if inside.wait(BOUND):
            # Python does not see a signal that comes on its way into a wait: users press again
            bound = 100 * MS
            while not ended.wait(bound):
                ctrl_c()
                bound = BOUND / 10

    assert ws.send("x", timeout=BOUND)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "closed" in repr(ws)
    server.wait_connections(0)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise")
def test_close_in_a_signal_handler_ends_the_iteration(server: EchoServer) -> None:
    """A service that gets SIGTERM says goodbye from the handler, and its loop ends."""
    main = threading.main_thread().ident
    assert main is not None
    with connect(server.uri) as ws:
        assert ws.wait_connected(BOUND)
        before = signal.signal(signal.SIGTERM, lambda *_: ws.close(1001))
        try:
            threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGTERM)).start()
            assert list(ws) == []
        finally:
            signal.signal(signal.SIGTERM, before)
    server.wait_connections(0)


def test_closed_connections_leave_nothing(server: EchoServer) -> None:
    """No thread and no socket, however early they are closed."""
    threads = threading.active_count()
    for number in range(30):
        ws = connect(server.uri)
        if number % 3 == 0:
            ws.send("x")
        elif number % 3 == 1:
            ws.close(4000)
        ws.close()
    wait_for(lambda: threading.active_count() <= threads + 1)  # the keeper may stay for a moment
    server.wait_connections(0)


def test_close_does_not_wait_for_an_attempt() -> None:
    """A server that does not answer the handshake holds nobody up, with a code of its own
    either.
    """
    for code in (1000, 4000):
        with RawServer(silent) as silent_server:
            ws = connect(uri_of(silent_server.port))
            wait_for(lambda server=silent_server: server.accepted)  # type: ignore[misc]
            started = time.monotonic()
            ws.close(code)
            assert time.monotonic() - started < BOUND / 5
            thread = ws.client.websockets.client_thread  # type: ignore[union-attr]
            assert thread is not None
            assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_child_it_is_closed(server: EchoServer) -> None:
    """It neither sends nor waits there, and the parent's connection goes on."""
    with connect(server.uri) as ws:
        assert ws.wait_connected(BOUND)
        child = os.fork()
        if not child:
            code = 1
            try:
                ws.recv()
            except ConnectionClosed:
                try:
                    ws.send("from the child")
                except ConnectionClosed:
                    ws.close()
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ws.send("parent")
        assert ws.recv(BOUND) == "parent"


# ------------------------------------------------------------------------------------------- faults


def test_what_callbacks_raise_is_logged_and_told(
    server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    """And changes nothing else: the connection goes on. What ``on_error`` raises is logged."""
    errors: list[Exception] = []

    def fail(ws: Connection, *_: Any) -> None:
        raise ValueError("a bug")

    def on_error(ws: Connection, error: Exception) -> None:
        errors.append(error)
        raise KeyError("another bug")

    with connect(server.uri, on_open=fail, on_message=fail, on_close=fail, on_error=on_error) as ws:
        assert ws.send("x")
        wait_for(lambda: len(errors) == 2)
        assert ws.send("y")
        wait_for(lambda: len(errors) == 3)
        assert ws.status.reconnects == 0
    assert len(errors) == 4
    for name in ("on_open", "on_message", "on_close", "on_error"):
        assert f"{name} failed" in caplog.text


def test_sys_exit_in_a_callback_does_not_end_the_thread(
    server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged like any other fault."""

    def leave(ws: Connection, message: str | bytes) -> None:
        raise SystemExit(3)

    with connect(server.uri, on_message=leave) as ws:
        assert ws.send("x")
        wait_for(lambda: "on_message failed" in caplog.text)
        assert ws.send("y")
        server.wait_messages(2)


def test_a_callback_that_takes_one_kind_is_not_given_the_other(server: EchoServer) -> None:
    """Its annotation says which; ``on_error`` is told of the others."""
    recorder = Recorder()

    def on_message(ws: Connection, message: str) -> None:
        recorder.add("message", message)

    with connect(
        server.uri,
        on_message=on_message,
        on_error=lambda ws, error: recorder.add("error", str(error)),
    ) as ws:
        assert ws.send(b"binary")
        assert ws.send("text")
        recorder.wait("message")
        assert recorder.names == ["error", "message"]
        assert "only takes str" in recorder.wait("error").value


def test_receiving_in_a_callback_is_refused(server: EchoServer) -> None:
    """It would wait for itself; so would a call."""
    refused: list[str] = []

    def on_open(ws: Connection) -> None:
        for act in (lambda: ws.recv(1), lambda: next(iter(ws)), lambda: ws.call("f")):
            try:
                act()
            except WebSocketsError as exc:
                refused.append(str(exc))

    with connect(server.uri, on_open=on_open) as ws:
        assert ws.wait_connected(BOUND)
    assert len(refused) == 3
    assert all("in a callback" in text for text in refused)


def test_recv_beside_on_message_is_refused(server: EchoServer) -> None:
    """The messages go there."""
    with (
        connect(server.uri, on_message=lambda ws, message: None) as ws,
        pytest.raises(WebSocketsError, match="on_message"),
    ):
        ws.recv(1)


async def coroutine(ws: Connection, *_: Any) -> None:
    """Return a coroutine that nobody awaits."""


@pytest.mark.parametrize("name", ["on_open", "on_message", "on_close", "on_error"])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (coroutine, "async def"),
        (lambda: None, "is called as"),
        ("f", "must be a function, not str"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(name: str, function: Any, words: str) -> None:
    """As arguments and as decorators, in a sentence."""
    callbacks: dict[str, Any] = {name: function}
    with refused_port() as port:
        with pytest.raises(TypeError, match=words):
            connect(uri_of(port), **callbacks)
        with connect(uri_of(port)) as ws:
            with pytest.raises(TypeError, match=words):
                getattr(ws, name)(function)
            with pytest.raises(AttributeError, match=f"@ws.{name}"):
                setattr(ws, name, function)
            with pytest.raises(AttributeError, match="did you mean 'on_message'"):
                ws.on_mesage = function  # type: ignore[attr-defined]
            with pytest.raises(AttributeError, match="on_open is called for each new connection"):
                ws.on_reconnect = function  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"uri": "http://localhost/"}, ValueError, "ws://"),
        ({"uri": "localhost:8999"}, ValueError, "ws://"),
        ({"uri": "ws://"}, ValueError, "ws://"),
        ({"uri": "ws://localhost:x/"}, ValueError, "(?i)port"),
        ({"uri": "ws://localhost:0/"}, ValueError, "1 to 65535"),
        ({"uri": "ws://localhost:70000/"}, ValueError, "(?i)port"),
        ({"uri": f"ws://{'a' * 64}.example/"}, ValueError, "host name"),
        ({"uri": "ws://a..example/"}, ValueError, "host name"),
        ({"uri": "ws://localhost/a b"}, ValueError, "percent-encode"),
        ({"uri": "ws://localhost/#a"}, ValueError, "fragment"),
        ({"uri": "ws://user:secret@localhost/"}, ValueError, "user name"),
        ({"uri": 7}, TypeError, "uri must be a str"),
        ({"uri": None}, TypeError, "uri must be a str"),
        ({"protocol": "no name"}, ValueError, "sub-protocol"),
        ({"protocol": ["a", ""]}, ValueError, "empty"),
        ({"protocol": ["a", 7]}, TypeError, "str"),
        ({"protocol": 7}, TypeError, "name or a list"),
        ({"headers": "X: 1"}, TypeError, "dictionary"),
        ({"headers": {"X Y": "1"}}, ValueError, "name of a header"),
        ({"headers": {"X": 1}}, TypeError, "'X' must be a str"),
        ({"headers": {"X": "secret\r\nY: 2"}}, ValueError, "line break"),
        ({"headers": {"Upgrade": "h2c"}}, ValueError, "handshake sets the header"),
        ({"tls": True}, TypeError, "SSLContext"),
        ({"uri": "wss://localhost/", "tls_server_name": 1}, ValueError, "tls_server_name"),
        ({"proxy": "ftp://localhost"}, ValueError, "proxy"),
        ({"policy": StopOn}, TypeError, "StopOn()"),
        ({"policy": 3}, TypeError, "next_delay"),
        ({"inbox": 0}, ValueError, "inbox"),
        ({"inbox": 1.5}, ValueError, "inbox"),
        ({"overflow": "drop"}, ValueError, "drop_oldest"),
        ({"timeout": 0}, ValueError, "seconds"),
        ({"timeout": "5"}, TypeError, "seconds"),
        ({"timeout": True}, TypeError, "seconds"),
        ({"timeout": float("nan")}, ValueError, "seconds"),
        ({"settings": {}}, TypeError, "WebSocketProcessSettings"),
        (
            {"settings": WebSocketProcessSettings(client_auto_upgrade=False)},
            ValueError,
            "client_auto_upgrade",
        ),
        ({"compression": "yes"}, ValueError, "permessage_deflate"),
        ({"on_mesage": print}, TypeError, "on_mesage"),
    ],
    ids=str,
)
def test_what_can_never_work_raises_at_once(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """In the caller's thread, and nothing is left running; no secret is in the text."""
    threads = threading.active_count()
    with pytest.raises(error, match=words) as caught:
        connect(**{"uri": "ws://localhost:1/", **arguments})
    assert "secret" not in str(caught.value)
    assert threading.active_count() <= threads


def test_tls_context_for_a_plain_uri_is_refused(authority: Authority) -> None:
    """It would not be used: a mistake without a word."""
    with pytest.raises(ValueError, match="wss://"):
        connect("ws://localhost:1/", tls=authority.client_context())
    with pytest.raises(ValueError, match="wss://"):
        connect("ws://localhost:1/", tls_server_name="localhost")


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), True])
def test_a_timeout_that_is_none_is_refused(timeout: Any) -> None:
    """By every method that takes one."""
    with refused_port() as port, connect(uri_of(port)) as ws:
        acts: list[Callable[[], Any]] = [
            lambda: ws.recv(timeout),
            lambda: ws.wait_connected(timeout),
            lambda: ws.send("x", timeout),
            lambda: ws.call("f", timeout=timeout),
        ]
        for act in acts:
            with pytest.raises((TypeError, ValueError), match="seconds"):
                act()


def test_the_public_names_are_those_of_the_page() -> None:
    """``connect`` and what it returns and raises."""
    assert isinstance(mormot_ws.connect, type(connect))
    assert issubclass(GaveUp, WebSocketsError)
    assert issubclass(ConnectionClosed, WebSocketsError)
    assert issubclass(ConnectionClosed, ConnectionError)
    assert issubclass(CallError, WebSocketsError)
    with refused_port() as port, connect(uri_of(port)) as ws:
        assert isinstance(ws, Connection)
        assert isinstance(ws.client, HttpClientWebSockets)
