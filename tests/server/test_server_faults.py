"""The server's side of faults: leaving gracefully with many clients, coming back at once, running
out of descriptors, bad callbacks.

``MORMOT_WS_TEST_CLIENTS=1000`` makes the crowds as large as the promises are; the bounds stay the
same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    RawClient,
    Recorder,
    active,
    connect,
    echo,
    echo_server,
    exchange,
    ms,
    process_of,
    send_text,
    text,
    upgraded,
    wait_for,
)
from support.faults import ServerPeer, took
from support.programs import Script
from support.windows import kernel_waits

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    WebSocketServerSocket,
    focBinary,
    focConnectionClose,
    focContinuation,
    focText,
    parse_close_payload,
)
from mormot_ws.testing import FaultProxy

#: how many clients a crowd has
CLIENTS = int(os.environ.get("MORMOT_WS_TEST_CLIENTS", "200"))
#: how many of them do not read
DEAF = 10
#: seconds that a server may take to leave
LEAVES_WITHIN = 5000 * MS
#: seconds for a broadcast to those that read
BROADCAST_WITHIN = 1000 * MS

_log = logging.getLogger("mormot_ws.tests")


class Crowd(Script):
    """Many clients in a process of its own: see ``tests/crowd.py``."""

    def __init__(self, server: WebSocketServer, clients: int = CLIENTS, deaf: int = 0) -> None:
        source = (
            "import runpy, sys; sys.argv[0] = 'crowd'; "
            "runpy.run_module('tests.crowd', run_name='__main__')"
        )
        options = ("--port", str(server.port), "--clients", str(clients), "--deaf", str(deaf))
        super().__init__(source, *options)
        try:
            before = server.websocket_connections
            self.wait_line("ready", 6 * BOUND)
            wait_for(lambda: server.websocket_connections == before + clients)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def told(self, what: str, bound: float = 2 * BOUND) -> tuple[int, float]:
        """Wait until all that read have got *what*; return their number and the last one's time."""
        number, at = self.wait_line(f"{what} ", bound).split()
        return int(number), float(at)


@pytest.fixture
def server() -> Iterator[WebSocketServer]:
    """An echo server with a server's usual time-outs, with which the promises are made."""
    with WebSocketServer(f"{HOST}:0") as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        yield server


# ------------------------------------------------------------------------------------------ leaving


def test_free_says_goodbye_to_all_and_waits_for_them_together(server: WebSocketServer) -> None:
    """Every one of many clients gets 1001 and answers, and that takes about as long as with one."""
    with Crowd(server) as crowd:
        started = time.monotonic()
        server.free()
        duration = took(started)
        number, at = crowd.told("closed 1001")
        _log.info(
            "free() with %d clients: %.2f s, the last goodbye after %.2f s",
            number,
            duration,
            at - started,
        )
        assert number == CLIENTS
        assert duration < LEAVES_WITHIN
        if CLIENTS <= 200:
            assert duration < 2_000 * MS
        crowd.wait_line(f"ended {CLIENTS}")


def test_free_does_not_wait_for_frozen_clients_one_after_another(server: WebSocketServer) -> None:
    """With some clients frozen (SIGSTOP) and some that never read, the others get 1001 and
    ``free()`` keeps its bound.
    """
    with Crowd(server, DEAF) as frozen, Crowd(server, CLIENTS, DEAF) as crowd:
        os.kill(frozen.pid, signal.SIGSTOP)
        started = time.monotonic()
        server.free()
        duration = took(started)
        _log.info("free() with %d clients, 20 of them silent: %.2f s", CLIENTS, duration)
        assert duration < LEAVES_WITHIN
        assert crowd.told("closed 1001")[0] == CLIENTS - DEAF


def test_free_waits_for_a_close_handshake_that_is_under_way(server: WebSocketServer) -> None:
    """A connection that is being closed already gets its answer through; it is not cut by the
    goodbye that comes second.
    """
    ended: list[bool] = []
    with upgraded(server.port) as peer:
        process = active(server, peer.connection_id)
        server.on_websocket_close = lambda _: ended.append(process.closing.received)
        assert process.start_shutdown(
            1000, "done", ms(1000)
        )  # behind the answer to the upgrade, which may be on its way out
        said, join = threading.Event(), server._join
        server._join = lambda sockets: said.set() or join(sockets)  # type: ignore[method-assign,func-returns-value]
        freeing = threading.Thread(target=server.free)
        freeing.start()
        assert said.wait(BOUND)
        assert peer.receive_opcode(focConnectionClose).payload[2:] == b"done"
        peer.send_frame(focConnectionClose, (1000).to_bytes(2, "big"))
        freeing.join(BOUND)
    assert ended == [True]


def test_free_says_goodbye_behind_what_is_queued(server: WebSocketServer) -> None:
    """Clients that read, but have more queued than the kernel takes at once, get all of it and
    then 1001.
    """
    count, size = 8, 500_000
    with contextlib.ExitStack() as stack:
        recorders = [Recorder() for _ in range(20)]
        clients = [
            stack.enter_context(connect(server.port, recorder.frame)) for recorder in recorders
        ]
        wait_for(lambda: server.websocket_connections == len(clients))
        for _ in range(count):
            assert server.websocket_broadcast(WebSocketFrame(focBinary, bytes(size))) == len(
                clients
            )
        started = time.monotonic()
        server.free()
        assert took(started) < LEAVES_WITHIN
        for recorder in recorders:
            recorder.wait("focConnectionClose")
        codes = [process_of(client).close_code for client in clients]
        assert codes == [1001] * len(clients)
        assert [len(recorder.all("focBinary")) for recorder in recorders] == [count] * len(clients)


def test_free_under_traffic_says_goodbye_to_all(server: WebSocketServer) -> None:
    """Messages that go both ways just then keep nobody from getting 1001."""
    # for all that is on its way, on a busy machine
    server.settings.close_timeout = 5_000
    stop = threading.Event()

    def broadcast() -> None:
        while not stop.wait(0.001):
            server.websocket_broadcast(WebSocketFrame(focBinary, bytes(20_000)))

    def chatter(client: Any) -> None:
        while not stop.is_set() and send_text(client, "x" * 2_000):
            pass

    with contextlib.ExitStack() as stack:
        recorders = [Recorder() for _ in range(30)]
        clients = [
            stack.enter_context(connect(server.port, recorder.frame)) for recorder in recorders
        ]
        threads = [threading.Thread(target=chatter, args=(client,)) for client in clients[:5]]
        threads.append(threading.Thread(target=broadcast))
        for thread in threads:
            thread.start()
        for recorder in recorders:
            recorder.wait("focBinary", 3)
        wait_for(lambda: server.status().frames_in > 50)
        started = time.monotonic()
        server.free()
        assert took(started) < LEAVES_WITHIN
        stop.set()
        for thread in threads:
            thread.join(BOUND)
        for recorder in recorders:
            recorder.wait("focConnectionClose")
        assert [process_of(client).close_code for client in clients] == [1001] * len(clients)


def test_free_leaves_callbacks_behind_that_do_not_return(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that blocks for ever costs its bound, says so in the log, and keeps no other
    client from its 1001.
    """
    go_on = threading.Event()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            go_on.wait(BOUND)

    server = echo_server(callback=callback)
    try:
        with upgraded(server.port) as stuck, Crowd(server, 20) as crowd:
            stuck.send_frame(focText, "hang")
            wait_for(lambda: server.status().frames_in == 1)
            started = time.monotonic()
            server.free()
            assert took(started) < LEAVES_WITHIN
            assert crowd.told("closed 1001")[0] == 20
            assert any("does not return" in record.getMessage() for record in caplog.records)
    finally:
        go_on.set()
        server.free()


def test_free_while_connections_arrive(server: WebSocketServer) -> None:
    """Clients that connect just then are served and get 1001, or are refused; none is left
    hanging.
    """
    stop = threading.Event()
    ends: list[str] = []

    def knock() -> None:
        while not stop.is_set():
            try:
                with RawClient(server.port) as client:
                    client.send(client.request())
                    client.read_head()
                    frame = client.receive_frame()
                    ends.append(str(parse_close_payload(frame.payload)[0]))
            except (OSError, EOFError) as exc:
                ends.append(type(exc).__name__)

    threads = [threading.Thread(target=knock) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: server.websocket_connections == len(threads))
    started = time.monotonic()
    server.free()
    assert took(started) < LEAVES_WITHIN
    stop.set()
    for thread in threads:
        thread.join(BOUND)
        assert not thread.is_alive()
    assert ends.count("1001") >= len(threads)


# -------------------------------------------------------------------------------------- coming back


def test_a_restart_on_the_same_port_works_at_once() -> None:
    """As soon as ``free()`` has returned another server can listen there, though connections were
    open, and the clients come back.
    """
    recorder = Recorder()
    with contextlib.ExitStack() as stack:
        with echo_server() as server:
            port = server.port
            clients = [stack.enter_context(connect(port, recorder.frame)) for _ in range(5)]
            for client in clients:
                client.auto_reconnect()

        def back(number: int) -> bool:
            found = [client.status() for client in clients]
            return all(status.connected and status.reconnects == number for status in found)

        for number in range(1, 4):
            with echo_server(port):
                wait_for(lambda number=number: back(number))  # type: ignore[misc]
                assert all(send_text(client, "back") for client in clients)
                recorder.wait("focText", 5 * number)


def test_a_restart_after_a_kill_works_at_once() -> None:
    """A server whose process was killed with open connections can be started again on its port at
    once.
    """
    with ServerPeer() as first, connect(first.port) as client:
        client.auto_reconnect()
        first.kill()
        with ServerPeer(first.port) as second:
            assert second.port == first.port
            wait_for(lambda: client.status().reconnects == 1)
            assert send_text(client, "back")


# ----------------------------------------------------------------------- running out of descriptors

_EXHAUSTED = """
import logging, os, resource, socket, sys, threading, time
sys.path.insert(0, "tests")
from support import RawClient, RawPeer, echo_server, exchange, upgraded, wait_for

records = []

class Keep(logging.Handler):
    def emit(self, record):
        records.append(record)

logging.getLogger("mormot_ws").addHandler(Keep())
server = echo_server()
listener = server._listener
if not RESERVE:  # as if another thread were always faster
    os.close(listener._reserve)
    listener._reserve = -1
    listener._keep_reserve = lambda: None

class Pauses(threading.Event):
    # counts the pauses of the accept thread
    count = 0

    def wait(self, timeout=None):
        self.count += 1
        return super().wait(timeout)

pauses = server._retry = Pauses()
first = upgraded(server.port)
exchange(first, ["hello"])

class Late(RawClient):
    # a client whose descriptor is there before the limit is reached
    def __init__(self):
        RawPeer.__init__(self, socket.socket(), client_side=True)

clients = [Late() for _ in range(8)]
resource.setrlimit(resource.RLIMIT_NOFILE, (48, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
mine = []
try:
    while True:
        mine.append(socket.socket())
except OSError:
    pass
for _ in range(2):
    mine.pop().close()
for client in clients:  # the first ones take the last descriptors
    client.sock.connect(("127.0.0.1", server.port))
wait_for(lambda: records)
print("records", len(records), records[0].levelname, records[0].getMessage())
cpu, began, before = time.process_time(), time.monotonic(), pauses.count
wait_for(lambda: pauses.count >= before + 5)
print("cpu", (time.process_time() - cpu) / (time.monotonic() - began), flush=True)
print("lines after more attempts", len(records))
print("alive", exchange(first, ["still"]))
for sock in mine:
    sock.close()
for client in clients:
    client.upgrade()
print("served", [exchange(client, ["x"])[0] for client in clients])
for client in [first, *clients]:
    client.close()
began = time.monotonic()
server.free()
print("freed", time.monotonic() - began < 5)
print("threads", threading.active_count())
"""


no_limit = pytest.mark.skipif(
    sys.platform == "win32", reason="there is no limit on descriptors to be set"
)
_NO_RESERVE = f"RESERVE = False\n{_EXHAUSTED}"
_RESERVE = "RESERVE = True\n" + _EXHAUSTED.partition("cpu, began")[0]


@no_limit
def test_without_descriptors_accept_waits_and_goes_on_later() -> None:
    """EMFILE neither spins nor ends the accept thread, even without a descriptor in reserve: it is
    logged, open connections work, and the waiting ones are served later.
    """
    with Script(_NO_RESERVE) as script:
        code = script.wait()
        output = script.text
    assert code == 0, output
    level, message = script.wait_line("records 1 ").split(" ", 1)
    assert level == "ERROR"
    assert "cannot accept" in message
    assert float(script.wait_line("cpu ")) < 0.3
    assert script.wait_line("lines after more attempts ") == "1"
    assert script.wait_line("alive ") == "['still']"
    assert script.wait_line("served ") == str(["x"] * 8)
    assert script.wait_line("freed ") == "True"
    assert script.wait_line("threads ") == "1"


@no_limit
@kernel_waits
def test_without_descriptors_visitors_are_told() -> None:
    """They get 503 by the descriptor in reserve, which is there again afterwards; the log has one
    line, and whoever is connected goes on.
    """
    source = _RESERVE + (
        # the first two have got the last two descriptors
        "print('told', [client.read_answer()[0].status for client in clients[2:]])\n"
        "print('away', server.status().turned_away, server.status().accepted, len(records))\n"
        "print('alive', exchange(first, ['still']))\n"
        "wait_for(lambda: listener._reserve >= 0)\n"
        "for sock in mine:\n    sock.close()\n"
        "with upgraded(server.port) as late:\n    print('late', exchange(late, ['x']))\n"
        "for client in [first, *clients]:\n    client.close()\n"
        "server.free()\nprint('freed', listener._reserve)\n"
    )
    with Script(source) as script:
        assert script.wait() == 0, script.text
    assert script.wait_line("told ") == str([503] * 6)
    assert script.wait_line("away ") == "6 9 1"
    assert script.wait_line("alive ") == "['still']"
    assert script.wait_line("late ") == "['x']"
    assert script.wait_line("freed ") == "-1"


@no_limit
@pytest.mark.parametrize("script", [_NO_RESERVE.partition("cpu, began")[0], _RESERVE])
def test_without_descriptors_free_works(script: str) -> None:
    """``free()`` ends a server that waits for a descriptor, in its time."""
    source = script + (
        "began = time.monotonic()\nserver.free()\n"
        "print('freed', time.monotonic() - began < 5, threading.active_count())\n"
        "for sock in [first.sock, *mine, *(client.sock for client in clients)]:\n    sock.close()\n"
    )
    with Script(source) as running:
        assert running.wait() == 0, running.text
        assert running.wait_line("freed ") == "True 1"


# ------------------------------------------------------------------------------------ bad callbacks


def test_a_callback_that_blocks_delays_its_own_connection_only() -> None:
    """While one connection is in a callback that does not return, others are accepted, upgraded
    and answered at once.
    """
    go_on = threading.Event()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.payload == b"block":
            go_on.wait(BOUND)
        echo(process, frame)

    with (
        echo_server(callback=callback) as server,
        upgraded(server.port) as stuck,
        upgraded(server.port) as good,
    ):
        stuck.send_frame(focText, "block")
        wait_for(lambda: server.status().frames_in == 1)
        started = time.monotonic()
        for number in range(20):
            good.send_frame(focText, str(number))
            assert good.receive_opcode(focText).text == str(number)
        with upgraded(server.port) as new:
            new.send_frame(focText, "new")
            assert new.receive_opcode(focText).text == "new"
        assert server.websocket_broadcast(text("to all")) >= 2
        assert good.receive_opcode(focText).text == "to all"
        assert took(started) < 3_000 * MS
        go_on.set()
        # the broadcast did not wait for the callback, its answer does
        assert [stuck.receive_opcode(focText).text for _ in range(2)] == ["to all", "block"]


BLOCKED_EVENTS = [
    "on_websocket_connect",
    "on_client_connected",
    "focContinuation",
    "on_websocket_disconnect",
]


@pytest.mark.parametrize("event", BLOCKED_EVENTS)
def test_an_event_that_blocks_delays_its_own_connection_only(event: str) -> None:
    """The same for the callbacks at the begin and at the end of a connection."""
    inside, go_on = threading.Event(), threading.Event()
    number = 1  # the first connection is the one that blocks

    def block(what: Any) -> None:
        if getattr(what, "connection_id", 0) == number:
            inside.set()
            go_on.wait(BOUND)

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if event == "focContinuation" and frame.opcode is focContinuation:
            block(process)
        echo(process, frame)

    with echo_server(callback=callback) as server:
        if event == "on_client_connected":
            server.settings.on_client_connected = block
        elif event.startswith("on_websocket"):
            setattr(server, event, block)
        with upgraded(server.port) as stuck:
            if event == "on_websocket_disconnect":
                stuck.close()
            assert inside.wait(BOUND)
            with upgraded(server.port) as good:
                good.send_frame(focText, "x")
                assert good.receive_opcode(focText).text == "x"
            go_on.set()


def raiser(*_: Any) -> Any:
    """A callback with a bug."""
    raise RuntimeError("a bug in a callback")


class Buggy(WebSocketProtocolChat):
    """A protocol with a bug in one of its methods, at messages that begin with ``bad``."""

    method = ""

    def _maybe(self, method: str, frame: WebSocketFrame) -> None:
        if self.method == method and frame.payload.startswith(b"bad"):
            raise RuntimeError("a bug in a callback")

    def before_send_frame(self, frame: WebSocketFrame) -> None:
        self._maybe("before_send_frame", frame)

    def after_get_frame(self, frame: WebSocketFrame) -> None:
        self._maybe("after_get_frame", frame)

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        self._maybe("process_incoming_frame", frame)
        super().process_incoming_frame(process, frame, info)


@pytest.mark.parametrize(
    "method", ["before_send_frame", "after_get_frame", "process_incoming_frame"]
)
def test_a_protocol_method_that_raises_hurts_its_own_connection_only(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a bug in one connection does to it, the others send and receive, broadcasts and
    heartbeats go on, and the log has it.
    """
    kind = type("Kind", (Buggy,), {"method": method})
    with echo_server(heartbeat_delay=ms(50)) as server:
        server.websocket_protocols.add(kind("buggy", "", echo))
        with RawClient(server.port) as bad, upgraded(server.port) as good:
            bad.upgrade(protocol="buggy")
            wait_for(lambda: server.websocket_connections == 2)
            bad.send_frame(focText, "bad")
            wait_for(
                lambda: any(
                    "a bug in a callback" in str(record.exc_info) for record in caplog.records
                )
            )
            good.send_frame(focText, "x")
            assert next_text(good) == "x"
            server.websocket_broadcast(text("to all"))
            assert next_text(good) == "to all"


def next_text(client: RawClient) -> str:
    """Return the next text message, and answer the pings before it."""
    while (frame := client.receive_frame()).opcode is not focText:
        assert frame.opcode is not focConnectionClose
        client.send_frame(10, frame.payload)
    return frame.text


def test_a_queued_frame_that_cannot_be_prepared_hurts_its_own_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A ``before_send_frame`` that raises for a broadcast does not keep the sender thread from
    serving the others, now and later.
    """
    kind = type("Kind", (Buggy,), {"method": "before_send_frame"})
    with echo_server() as server:
        server.websocket_protocols.add(kind("buggy", "", echo))
        with RawClient(server.port) as bad, upgraded(server.port) as good:
            bad.upgrade(protocol="buggy")
            wait_for(lambda: server.websocket_connections == 2)
            for message in ("bad", "good 1", "good 2"):
                assert server.websocket_broadcast(text(message)) >= 1
                assert next_text(good) == message
            # while it is open: what is queued on a connection that is lost is never prepared
            wait_for(
                lambda: any(
                    "a bug in a callback" in str(record.exc_info) for record in caplog.records
                )
            )


RAISING: dict[str, Callable[[WebSocketServer], Any]] = {
    "on_websocket_connect": lambda server: setattr(server, "on_websocket_connect", raiser),
    "on_websocket_disconnect": lambda server: setattr(server, "on_websocket_disconnect", raiser),
    "on_websocket_close": lambda server: setattr(server, "on_websocket_close", raiser),
    "on_client_connected": lambda server: setattr(server.settings, "on_client_connected", raiser),
    "on_client_disconnected": lambda server: setattr(
        server.settings, "on_client_disconnected", raiser
    ),
}


@pytest.mark.parametrize("event", RAISING)
def test_an_event_that_raises_hurts_its_own_connection_only(
    event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is open already does not notice; the log has the traceback."""
    with echo_server() as server, upgraded(server.port) as good:
        assert exchange(good, ["hello"]) == ["hello"]
        RAISING[event](server)
        with upgraded(server.port):
            wait_for(lambda: server.status().upgraded == 2)
        wait_for(
            lambda: any("a bug in a callback" in str(record.exc_info) for record in caplog.records)
        )
        good.send_frame(focText, "x")
        assert good.receive_opcode(focText).text == "x"
        wait_for(lambda: server.websocket_connections == 1)
        server.on_websocket_disconnect = server.on_websocket_close = None
        server.settings.on_client_disconnected = None


# --------------------------------------------------------------------------------------- broadcasts


def stuff(server: WebSocketServer, connections: list[WebSocketServerSocket]) -> None:
    """Send so much to these connections that their kernels take no more, and their queues are in
    use.
    """
    numbers = [connection.connection_id for connection in connections]
    frame = WebSocketFrame(focBinary, bytes(1 << 20))

    def full() -> bool:
        server.websocket_broadcast(
            frame, [one.connection_id for one in connections if not queued(one)]
        )
        return all(map(queued, connections))

    def queued(connection: WebSocketServerSocket) -> int:
        process = connection.websocket_process
        assert process is not None
        return process.outgoing.count

    wait_for(full, what=f"full queues of {numbers}")


def test_a_broadcast_reaches_the_others_although_some_do_not_read(server: WebSocketServer) -> None:
    """Ten clients with full queues delay nobody: all others have each broadcast within a second."""
    connections: list[WebSocketServerSocket] = []
    server.on_websocket_connect = connections.append
    with Crowd(server, DEAF, DEAF):
        wait_for(lambda: len(connections) == DEAF, what="the events of all upgrades")
        deaf = list(connections)
        assert len(deaf) == DEAF
        with Crowd(server, CLIENTS) as crowd:
            stuff(server, deaf)
            durations = []
            for number in range(5):
                started = time.monotonic()
                assert (
                    server.websocket_broadcast(text(f"broadcast {number} " + "x" * 200)) >= CLIENTS
                )
                _, at = crowd.told(f"got broadcast {number} " + "x" * 200)
                durations.append(at - started)
            _log.info(
                "broadcast to %d clients: the last has it after %s s",
                CLIENTS,
                [round(d, 3) for d in durations],
            )
            assert max(durations) < BROADCAST_WITHIN
            # a large one as well, once
            started = time.monotonic()
            server.websocket_broadcast(text("L" * 20_000))
            assert crowd.told("got " + "L" * 20_000)[1] - started < 2 * BROADCAST_WITHIN


def test_those_that_did_not_read_get_everything_when_they_do(server: WebSocketServer) -> None:
    """A client that reads again gets all that was queued for it, in order."""
    with upgraded(server.port, receive_buffer=4096) as deaf, upgraded(server.port) as good:
        wait_for(lambda: server.websocket_connections == 2)
        for number in range(60):
            assert (
                server.websocket_broadcast(WebSocketFrame(focBinary, bytes((number,)) * 100_000))
                == 2
            )
            assert good.receive_opcode(focBinary).payload[0] == number
        assert [deaf.receive_opcode(focBinary).payload[0] for _ in range(60)] == list(range(60))


def test_a_slow_link_delays_no_broadcast(server: WebSocketServer) -> None:
    """A client behind a slow link gets its messages late, the others at once."""
    recorder = Recorder()
    with (
        FaultProxy(HOST, server.port, buffer_bytes=8192) as proxy,
        connect(proxy.port, recorder.frame),
        upgraded(server.port) as good,
    ):
        wait_for(lambda: server.websocket_connections == 2)
        proxy.throttle(2_000_000 / (MS * 1000), "down")
        started = time.monotonic()
        for _ in range(10):
            server.websocket_broadcast(WebSocketFrame(focBinary, bytes(100_000)))
        for _ in range(10):
            good.receive_opcode(focBinary)
        assert took(started) < BROADCAST_WITHIN
        recorder.wait("focBinary", 10)
