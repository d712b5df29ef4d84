"""What a user of the library meets on a system, with seconds: ``python scenarios.py [NAME ...]``.

It needs nothing but the package, so that it runs under any Python. Each scenario says which facts
have to be, by assertions, and returns the seconds that count. The output is a line of JSON each.
``python -m tests.windows`` runs it here and under Wine, and compares.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple

from mormot_ws import (
    ExponentialBackoff,
    HttpClientWebSockets,
    HttpServerError,
    Server,
    WebSocketFrame,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
    connect,
    focBinary,
    focText,
)
from mormot_ws.reconnect_policies import failure_kind
from mormot_ws.sockets.crtsocket import CrtSocket
from mormot_ws.testing import EchoServer, EchoServerProcess, FaultProxy
from mormot_ws.wsgi import WebSocketWsgiServer

HOST = "127.0.0.1"
#: seconds after which a scenario counts as blocked for ever
BLOCKED = 25.0


class Scenario(NamedTuple):
    """One scenario, and the seconds that it may take."""

    run: Callable[[], float]
    least: float
    most: float


SCENARIOS: dict[str, Scenario] = {}
#: what a blocked scenario may have left running
PROGRAMS: list[subprocess.Popen[bytes]] = []


def scenario(least: float, most: float) -> Callable[[Callable[[], float]], Callable[[], float]]:
    """Make a scenario of a function that returns seconds; its docstring says what it is."""

    def add(run: Callable[[], float]) -> Callable[[], float]:
        SCENARIOS[run.__name__] = Scenario(run, least, most)
        return run

    return add


# -------------------------------------------------------------------------------------- ingredients


def echo(process: Any, frame: Any) -> None:
    if frame.opcode in (focText, focBinary):
        process.send_frame(frame)


def ignore(process: Any, frame: Any) -> None:
    pass


def new_server(callback: Any = echo, where: str = f"{HOST}:0", **settings: Any) -> WebSocketServer:
    server = WebSocketServer(where, settings=WebSocketProcessSettings(**settings))
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
    return server


def new_client(port: int, callback: Any = ignore, **options: Any) -> HttpClientWebSockets:
    client = HttpClientWebSockets.open(HOST, port, **options)
    error = client.websockets_upgrade("", protocol=WebSocketProtocolChat("echo", "", callback))
    assert error == "", error
    return client


def send(client: HttpClientWebSockets, text: str) -> bool:
    process = client.websockets
    assert process is not None
    return process.send_frame(WebSocketFrame(focText, text))


def raw_upgraded(port: int, receive_buffer: int = 0) -> socket.socket:
    """Return a socket that has upgraded, and reads nothing by itself."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(BLOCKED)
    sock.connect((HOST, port))
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: echo\r\n\r\n"
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
    return sock


@contextmanager
def silent_server() -> Iterator[int]:
    """A server that accepts and says nothing; its port."""
    with socket.create_server((HOST, 0)) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    accepted.append(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        for sock in accepted:
            sock.close()


def timed(action: Callable[[], Any]) -> float:
    began = monotonic()
    action()
    return monotonic() - began


def until(condition: Callable[[], Any], seconds: float = BLOCKED - 5) -> float:
    """Wait for *condition*; return the seconds."""
    began = monotonic()
    while not condition():
        assert monotonic() - began < seconds, "it did not come"
        time.sleep(0.005)
    return monotonic() - began


def interrupted(action: Callable[[], Any], interrupt: Callable[[], Any]) -> float:
    """Return how long *action* lasts after *interrupt*, in another thread."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive(), "it has not waited"
    began = monotonic()
    interrupt()
    thread.join(BLOCKED - 5)
    assert not thread.is_alive(), "it goes on"
    return monotonic() - began


# --------------------------------------------------------------------------------------- the bounds


@scenario(0.9, 1.5)
def upgrade_on_a_silent_server() -> float:
    """a client upgrades on a silent server, time-out 1 s"""
    with silent_server() as port, HttpClientWebSockets.open(HOST, port, timeout=1000) as client:
        began = monotonic()
        assert "in time" in client.websockets_upgrade("")
        return monotonic() - began


@scenario(0.9, 1.6)
def tls_on_a_silent_server() -> float:
    """a TLS handshake with a silent server, time-out 1 s"""
    with silent_server() as port:
        client = CrtSocket(HOST, port, timeout=1000)
        client.close()
        client.tls = True
        client.tls_context = ssl.create_default_context()
        return timed(lambda: client.reopen())


@scenario(0.9, 1.5)
def proxy_that_is_silent() -> float:
    """a CONNECT to a silent proxy, time-out 1 s"""
    with silent_server() as port:
        client = CrtSocket.__new__(CrtSocket)
        CrtSocket.__init__(client, HOST, 9, timeout=1000, proxy=f"http://{HOST}:{port}")
        return timed(lambda: client.reopen())


@scenario(0.9, 1.5)
def visitor_that_is_silent() -> float:
    """a server cuts clients that send nothing, handshake_timeout 1 s"""
    with (
        new_server(handshake_timeout=1000) as server,
        socket.create_connection((HOST, server.port), timeout=BLOCKED) as visitor,
    ):
        return timed(lambda: visitor.recv(100))


@scenario(1.0, 4.5)
def peer_that_falls_silent() -> float:
    """heartbeats every 0.5 s notice a peer that answers nothing any more"""
    noticed = threading.Event()
    with EchoServer() as server, FaultProxy(HOST, server.port) as proxy:
        settings = WebSocketProcessSettings(heartbeat_delay=500)
        with HttpClientWebSockets.open(HOST, proxy.port, settings=settings) as client:
            protocol = WebSocketProtocolChat("echo", "", ignore)
            assert client.websockets_upgrade("", protocol=protocol) == ""
            client.on_websockets_closed = lambda _: noticed.set()
            time.sleep(0.7)
            proxy.blackhole()
            return timed(lambda: noticed.wait(BLOCKED))


@scenario(1.8, 3.0)
def send_to_a_peer_that_takes_nothing() -> float:
    """send_frame of 50 MB to a peer that takes nothing, send_timeout 2 s"""
    with new_server(send_timeout=2000) as server, raw_upgraded(server.port):
        until(lambda: server.connections())
        process = server.connections()[0]
        began = monotonic()
        assert not process.send_frame(WebSocketFrame(focBinary, bytes(50_000_000)))
        return monotonic() - began


@scenario(2.0, 12.0)
def send_to_a_slow_reader() -> float:
    """send_frame of 6 MB to a slow reader, send_timeout 1 s: the connection stays"""
    with new_server(send_timeout=1000) as server, raw_upgraded(server.port, 65536) as peer:
        until(lambda: server.connections())
        process = server.connections()[0]
        size, read = 6_000_000, [0]

        def slowly() -> None:
            with suppress(OSError):
                while data := peer.recv(30_000):
                    read[0] += len(data)
                    time.sleep(0.012)

        threading.Thread(target=slowly, daemon=True).start()
        began = monotonic()
        assert process.send_frame(WebSocketFrame(focBinary, bytes(size)))
        until(lambda: read[0] >= size)
        return monotonic() - began


# ------------------------------------------------------------------------------------ interruptions


@scenario(0.0, 0.5)
def free_ends_an_upgrade() -> float:
    """free() by another thread ends an upgrade that waits"""
    with silent_server() as port:
        client = HttpClientWebSockets.open(HOST, port, timeout=60_000)
        return interrupted(lambda: client.websockets_upgrade(""), client.free)


@scenario(0.0, 0.5)
def interrupt_ends_a_tls_handshake() -> float:
    """interrupt() ends a TLS handshake that waits"""
    with silent_server() as port:
        client = CrtSocket(HOST, port, timeout=60_000)
        client.close()
        client.tls = True
        client.tls_context = ssl.create_default_context()
        return interrupted(lambda: client.reopen(), client.interrupt)


@scenario(0.0, 0.5)
def interrupt_ends_an_attempt_to_connect() -> float:
    """interrupt() ends an attempt to connect that gets no answer"""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        fillers = []
        for _ in range(300):
            filler = socket.socket()
            fillers.append(filler)
            filler.settimeout(0.2)
            try:
                filler.connect(listener.getsockname())
            except OSError:
                break
        client = CrtSocket.__new__(CrtSocket)
        # fails at once: nobody listens on port 9
        CrtSocket.__init__(client, HOST, 9, timeout=1000)
        client.port = listener.getsockname()[1]
        try:
            return interrupted(lambda: client.reopen(60_000), client.interrupt)
        finally:
            for filler in fillers:
                filler.close()


@scenario(0.0, 0.5)
def free_ends_a_connection_that_waits() -> float:
    """free() of a client whose connection is idle"""
    with new_server() as server:
        client = new_client(server.port)
        time.sleep(0.2)
        return timed(client.free)


def _free_on(where: str) -> float:
    server = new_server(where=where)
    time.sleep(0.2)
    return timed(server.free)


@scenario(0.0, 0.5)
def free_an_idle_server() -> float:
    """free() of an idle server on 127.0.0.1, 0.0.0.0 and a port alone: the longest"""
    return max(map(_free_on, (f"{HOST}:0", "0.0.0.0:0", "0")))


@scenario(0.0, 2.0)
def free_a_server_with_visitors() -> float:
    """free() of a server with 3 clients and 3 silent visitors"""
    server = new_server()
    clients = [new_client(server.port) for _ in range(3)]
    visitors = [socket.create_connection((HOST, server.port)) for _ in range(3)]
    until(lambda: server.status().sockets == 6)
    seconds = timed(server.free)
    for client in clients:
        client.free()
    for visitor in visitors:
        visitor.close()
    return seconds


# ------------------------------------------------------------------------------ nobody holds others


@scenario(0.0, 0.5)
def long_callback_elsewhere() -> float:
    """a callback of 3 s on one connection: the longest delay of broadcasts to another"""
    inside = threading.Event()
    arrived: SimpleQueue[float] = SimpleQueue()

    def callback(process: Any, frame: Any) -> None:
        if frame.opcode is focText:
            inside.set()
            time.sleep(3)

    def receive(process: Any, frame: Any) -> None:
        if frame.opcode is focText:
            arrived.put(monotonic())

    worst = 0.0
    with (
        new_server(callback, heartbeat_delay=500) as server,
        new_client(server.port) as slow,
        new_client(server.port, receive),
    ):
        assert send(slow, "slow")
        assert inside.wait(BLOCKED)
        for _ in range(12):
            began = monotonic()
            server.websocket_broadcast(WebSocketFrame(focText, "x"))
            worst = max(worst, arrived.get(timeout=BLOCKED - 5) - began)
            time.sleep(0.2)
    return worst


@scenario(0.0, 1.0)
def reader_that_stops_elsewhere() -> float:
    """30 broadcasts of 500 kB while one client reads nothing: the longest delay at another"""
    arrived: SimpleQueue[float] = SimpleQueue()

    def receive(process: Any, frame: Any) -> None:
        if frame.opcode is focBinary:
            arrived.put(monotonic())

    worst = 0.0
    with (
        new_server() as server,
        raw_upgraded(server.port),
        new_client(server.port, receive),
    ):
        until(lambda: server.websocket_connections == 2)
        frame = WebSocketFrame(focBinary, bytes(500_000))
        for _ in range(30):
            began = monotonic()
            server.websocket_broadcast(frame)
            worst = max(worst, arrived.get(timeout=BLOCKED - 5) - began)
    return worst


@scenario(0.0, 6.0)
def many_connections() -> float:
    """600 idle connections, and an echo beside them"""
    texts: SimpleQueue[str] = SimpleQueue()

    def receive(process: Any, frame: Any) -> None:
        if frame.opcode is focText:
            texts.put(frame.text)

    with new_server() as server:
        idle = [socket.create_connection((HOST, server.port)) for _ in range(600)]
        until(lambda: server.status().sockets >= 600)
        with new_client(server.port, receive) as client:
            began = monotonic()
            assert send(client, "x")
            assert texts.get(timeout=BLOCKED - 5) == "x"
            seconds = monotonic() - began
        for sock in idle:
            sock.close()
    return seconds


# ------------------------------------------------------------------------------------ what is usual


@scenario(0.0, 5.0)
def large_echoes() -> float:
    """echoes of 5 B, 70 kB and 8 MB, then 2 000 queued messages in order"""
    got: SimpleQueue[Any] = SimpleQueue()

    def receive(process: Any, frame: Any) -> None:
        if frame.opcode in (focText, focBinary):
            got.put(frame.text if frame.opcode is focText else len(frame.payload))

    with new_server() as server, new_client(server.port, receive) as client:
        process = client.websockets
        assert process is not None
        began = monotonic()
        for size in (5, 70_000, 8_000_000):
            assert process.send_frame(WebSocketFrame(focBinary, bytes(size)))
            assert got.get(timeout=BLOCKED - 5) == size
        for number in range(2000):
            assert process.send_frame_async(WebSocketFrame(focText, str(number)))
        for number in range(2000):
            assert got.get(timeout=BLOCKED - 5) == str(number)
        return monotonic() - began


@scenario(0.0, 5.0)
def tls_echoes() -> float:
    """TLS: echoes of 5 B, 70 kB and 3 MB, and a broadcast"""
    folder = os.environ["SCENARIO_CERTIFICATES"]
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(os.path.join(folder, "server.pem"))
    trusting = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
    got: SimpleQueue[int] = SimpleQueue()

    def receive(process: Any, frame: Any) -> None:
        if frame.opcode in (focText, focBinary):
            got.put(len(frame.payload))

    server = WebSocketServer(f"{HOST}:0", tls_context=serving)
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
    with server, new_client(server.port, receive, tls=True, tls_context=trusting) as client:
        process = client.websockets
        assert process is not None
        began = monotonic()
        for size in (5, 70_000, 3_000_000):
            assert process.send_frame(WebSocketFrame(focBinary, bytes(size)))
            assert got.get(timeout=BLOCKED - 5) == size
        server.websocket_broadcast(WebSocketFrame(focText, "b"))
        assert got.get(timeout=BLOCKED - 5) == 1
        return monotonic() - began


@scenario(0.0, 3.0)
def server_that_comes_back() -> float:
    """a server goes and comes: seconds until the client is back"""
    with EchoServer() as server:
        settings = WebSocketProcessSettings(
            reconnect_policy=lambda: ExponentialBackoff(base_ms=100, cap_ms=500)
        )
        with HttpClientWebSockets.open(HOST, server.port, settings=settings) as client:
            protocol = WebSocketProtocolChat("echo", "", ignore)
            assert client.websockets_upgrade("", protocol=protocol) == ""
            client.auto_reconnect()
            server.stop()
            time.sleep(1)
            server.start()
            seconds = until(lambda: client.status().reconnects == 1)
            assert send(client, "x")
    return seconds


@scenario(0.0, 0.3)
def localhost() -> float:
    """opening localhost, where the server listens on 127.0.0.1 only"""
    with new_server() as server:
        began = monotonic()
        client = HttpClientWebSockets.open("localhost", server.port)
        seconds = monotonic() - began
        assert client.connected
        client.free()
    return seconds


@scenario(0.0, 0.5)
def port_of_a_server() -> float:
    """a second server and SO_REUSEADDR do not get a server's port; the texts say why"""
    with new_server() as server:
        began = monotonic()
        for where in (f"{HOST}:{server.port}", f"0.0.0.0:{server.port}"):
            text = ""
            try:
                new_server(where=where)
            except HttpServerError as exc:
                text = str(exc)
            assert "another program listens there" in text, text or f"a second server on {where}"
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                thief.bind((HOST, server.port))
                thief.listen()
            except OSError:
                pass
            else:
                raise AssertionError("the port was stolen")
        return monotonic() - began


@scenario(0.0, 4.0)
def errors_in_words() -> float:
    """a refused connection has its kind, and words"""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        client = CrtSocket(HOST, unused.getsockname()[1])
        client.reopen()
        assert client.last_exception is not None
        assert "Unknown error" not in client.last_error, client.last_error
        assert failure_kind(client.last_exception).name == "refused", client.last_error
        return timed(lambda: client.reopen())


@scenario(0.0, 5.0)
def front_door() -> float:
    """mormot_ws.Server and connect(): a call, a message, and the way back"""
    server = Server(0, address=HOST)

    @server.on_message("chat")
    def message(peer: Any, text: Any) -> None:
        peer.send(text)

    began = monotonic()
    with server, connect(f"ws://{HOST}:{server.port}/", protocol="chat") as ws:
        assert ws.send("grün", timeout=10)
        assert ws.recv(timeout=10) == "grün"
    return monotonic() - began


# ------------------------------------------------------------------------------- processes, signals


@scenario(0.0, 0.6)
def ctrl_c_ends_run() -> float:
    """Ctrl-C ends Server.run() in the main thread: seconds from the signal on"""
    source = (
        "import os, signal, sys, threading, time\n"
        "from mormot_ws import Server\n"
        "server = Server(0, address='127.0.0.1')\n"
        "at = []\n"
        "def press():\n"
        "    at.append(time.monotonic())\n"
        "    if sys.platform == 'win32': signal.raise_signal(signal.SIGINT)\n"
        "    else: os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Timer(1, press).start()\n"
        "server.run()\n"
        "print(time.monotonic() - at[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=3 * BLOCKED,
        check=True,
    )
    return float(done.stdout.split()[-1])


@scenario(0.0, 0.5)
def wsgi_signals() -> float:
    """a WSGI application closes on the signals that the system has"""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # in a process of its own: only a main thread has signals
    source = (
        "from mormot_ws.wsgi import WebSocketWsgiServer\n"
        "server = WebSocketWsgiServer(); server.close_on_signals(); server.free()\n"
    )
    subprocess.run([sys.executable, "-c", source], timeout=3 * BLOCKED, check=True)
    with WebSocketWsgiServer() as server:
        assert server.websocket_connections == 0
    assert before == {number: signal.getsignal(number) for number in before}
    return 0.0


@scenario(0.0, 1.0)
def frozen_process() -> float:
    """EchoServerProcess: frozen it answers nothing, thawed it answers; seconds of the last"""
    texts: SimpleQueue[str] = SimpleQueue()

    def receive(process: Any, frame: Any) -> None:
        if frame.opcode is focText:
            texts.put(frame.text)

    with EchoServerProcess() as server, new_client(server.port, receive) as client:
        assert send(client, "a")
        assert texts.get(timeout=BLOCKED - 5) == "a"
        server.freeze()
        assert send(client, "b")
        try:
            texts.get(timeout=0.7)
        except Empty:
            pass
        else:
            raise AssertionError("a frozen process has answered")
        server.thaw()
        began = monotonic()
        assert texts.get(timeout=BLOCKED - 5) == "b"
        return monotonic() - began


@scenario(0.0, 150.0)
def command_line() -> float:
    """mormot-ws serve, connect through pipes, with non-ASCII text, and bench"""
    began = monotonic()
    command = [sys.executable, "-u", "-m", "mormot_ws"]
    pipe = subprocess.PIPE
    serving = subprocess.Popen([*command, "serve", "--port", "0"], stdin=pipe, stderr=pipe)
    PROGRAMS.append(serving)
    try:
        assert serving.stderr is not None
        line = serving.stderr.readline().decode()
        uri = line.partition(" on ")[2].split()[0]
        talking = subprocess.Popen([*command, "connect", uri], stdin=pipe, stdout=pipe)
        PROGRAMS.append(talking)
        assert talking.stdin is not None
        assert talking.stdout is not None
        talking.stdin.write("grün\n".encode())
        talking.stdin.flush()
        # it has not taken the pipe for ended
        assert talking.stdout.readline().strip() == "grün".encode()
        talking.stdin.write(b"bye\n")
        talking.stdin.close()
        assert talking.stdout.readline().strip() == b"bye"
        assert talking.wait(3 * BLOCKED) == 0
        talking.stdout.close()
        bench = [*command, "bench", uri, "--seconds", "1", "--connections", "4"]
        done = subprocess.run(
            bench, stdin=pipe, capture_output=True, timeout=3 * BLOCKED, check=False
        )
        assert done.returncode == 0, done.stderr
        nobody = [*command, "connect", f"ws://{HOST}:9/"]
        done = subprocess.run(
            nobody, stdin=pipe, capture_output=True, timeout=3 * BLOCKED, check=False
        )
        assert done.returncode == 1, done
        assert b"Unknown error" not in done.stderr
    finally:
        serving.kill()
        serving.wait(BLOCKED)
        for end in (serving.stdin, serving.stderr):
            if end is not None:
                end.close()
    return monotonic() - began


def run(name: str) -> dict[str, Any]:
    """Run one scenario; return its result."""
    chosen = SCENARIOS[name]
    result: dict[str, Any] = {"name": name, "what": chosen.run.__doc__, "fault": "blocked"}

    def work() -> None:
        try:
            seconds = chosen.run()
        except BaseException as exc:  # noqa: BLE001
            result["fault"] = f"{type(exc).__name__}: {exc}"
            return
        result["seconds"] = round(seconds, 3)
        inside = chosen.least <= seconds <= chosen.most
        result["fault"] = "" if inside else f"not within {chosen.least:g} to {chosen.most:g} s"

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(chosen.most + BLOCKED)
    return result


def main() -> None:
    """Run the scenarios that are named, or all."""
    # what is imported with the first connection is no part of a scenario
    with new_server() as server, new_client(server.port):
        pass
    for name in sys.argv[1:] or SCENARIOS:
        print(json.dumps(run(name)), flush=True)
    for program in PROGRAMS:
        program.kill()
    # a scenario may be blocked
    os._exit(0)


if __name__ == "__main__":
    main()
