"""One server in several OS processes: real ones, on loopback."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
from support.process_servers import make_no_server, make_server
from support.waiting import BOUND, wait_for

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerError,
    Server,
    ServerProcesses,
    WebSocketProtocolChat,
    WebSocketsError,
    WebSocketServer,
    connect,
)
from mormot_ws.processes import supervisor
from mormot_ws.processes.child import _make
from mormot_ws.processes.supervisor import Slot

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not on Windows")


def who(address: str) -> tuple[int, int]:
    """Return the number and the process ID of the OS process that a new connection meets."""
    with connect(f"ws://{address}", protocol="who") as ws:
        ws.send("?")
        answer = ws.recv(timeout=BOUND)
        assert isinstance(answer, str)
        number, pid = answer.split()
        return int(number), int(pid)


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """Start the standard library's resource tracker, which stays until the interpreter's end."""
    resource_tracker.ensure_running()


@pytest.fixture
def pair() -> Iterator[ServerProcesses]:
    with ServerProcesses(make_server, 2, "127.0.0.1:0") as processes:
        yield processes


@contextlib.contextmanager
def program() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``support.process_servers`` as a program; give it, and its address."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    with subprocess.Popen(
        [sys.executable, "-m", "support.process_servers"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


def test_all_processes_serve_and_the_status_has_all(pair: ServerProcesses) -> None:
    met: dict[int, int] = {}
    visits = 0

    def met_both() -> bool:
        nonlocal visits
        number, pid = who(pair.address)
        met[number] = pid
        visits += 1
        return set(met) == {0, 1}

    wait_for(met_both)
    status = pair.status()
    assert [(each.number, each.pid) for each in status.processes] == sorted(met.items())
    assert [each.state for each in status.processes] == ["listening"] * 2
    assert len({each.pid for each in status.processes} | {os.getpid()}) == 3
    assert status.total.upgraded == visits
    assert status.total.port == pair.port
    assert status.as_dict()["processes"][1]["server"]["port"] == pair.port


def test_one_that_is_killed_or_terminated_is_started_again_and_the_other_goes_on(
    pair: ServerProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair.status().processes
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: pair.status().processes[0].starts > first.starts)
    wait_for(lambda: pair.status().processes[0].state == "listening")
    present = pair.status().processes
    assert present[0].pid != first.pid
    assert present[1].pid == second.pid
    os.kill(second.pid, signal.SIGTERM)
    wait_for(lambda: pair.status().processes[1].starts > second.starts)
    assert f"process 1 (PID {second.pid}) ended with the exit code 0" in caplog.text
    assert pair.status().processes[0].pid == present[0].pid


def test_replacing_refuses_no_connection(pair: ServerProcesses) -> None:
    before = {each.pid for each in pair.status().processes}
    done = threading.Event()
    results: list[str] = []

    def visit() -> None:
        while not done.is_set():
            try:
                with HttpClientWebSockets.open("127.0.0.1", pair.port) as client:
                    protocol = WebSocketProtocolChat("who")
                    results.append(client.websockets_upgrade("", protocol=protocol))
            except (OSError, WebSocketsError) as exc:
                results.append(repr(exc))

    visitors = [threading.Thread(target=visit) for _ in range(2)]
    for visitor in visitors:
        visitor.start()
    try:
        assert pair.replace()
    finally:
        done.set()
        for visitor in visitors:
            visitor.join(BOUND)
    assert len(results) > 10
    assert not [result for result in results if result]
    assert before.isdisjoint(each.pid for each in pair.status().processes)


def test_replacing_lets_opening_handshakes_end() -> None:
    """Half a request is with the old server when the new one listens: it answers the whole."""
    head = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Protocol: who\r\n\r\n"
    )
    with (
        ServerProcesses(make_server, 1, "127.0.0.1:0") as processes,
        socket.create_connection(("127.0.0.1", processes.port), timeout=BOUND) as visitor,
    ):
        visitor.sendall(head[:40])
        wait_for(lambda: processes.status().total.sockets == 1)
        processes.replace_later()
        wait_for(lambda: is_new(processes))
        visitor.sendall(head[40:])
        assert visitor.recv(12) == b"HTTP/1.1 101"


def is_new(processes: ServerProcesses) -> bool:
    """Tell whether the second OS process has taken the place of the first."""
    server = processes.status().processes[0].server
    return server is not None and server.accepted == 0


def test_sigterm_says_1001_and_the_exit_code_is_0() -> None:
    closed: list[int] = []
    with program() as (child, address):
        with connect(
            f"ws://{address}", protocol="who", on_close=lambda ws, code, reason: closed.append(code)
        ) as ws:
            ws.send("?")
            ws.recv(timeout=BOUND)
            child.send_signal(signal.SIGTERM)
            wait_for(lambda: closed)
        assert child.wait(BOUND) == 0
    assert closed[0] == 1001


def test_sighup_replaces_the_processes() -> None:
    with program() as (child, address):
        _, pid = who(address)
        opened: list[object] = []
        with connect(f"ws://{address}", protocol="who", on_open=opened.append):
            wait_for(lambda: opened)
            child.send_signal(signal.SIGHUP)
            # it comes back to the new one, because the old one accepts nobody any more
            wait_for(lambda: len(opened) == 2)
        assert who(address)[1] != pid
        child.send_signal(signal.SIGINT)
        assert child.wait(BOUND) == 0


def test_the_processes_end_with_a_parent_that_is_killed() -> None:
    with program() as (child, address):
        served = psutil.Process(who(address)[1])
        child.kill()
        wait_for(lambda: not served.is_running() or served.status() == psutil.STATUS_ZOMBIE)


def test_a_server_that_cannot_be_made_ends_with_its_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    processes = ServerProcesses(make_no_server, 2, "127.0.0.1:0")
    with pytest.raises(HttpServerError, match="LookupError: there is no configuration"):
        processes.start()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "in make_no_server" in errors[0].getMessage()
    assert not processes.status().processes[0].pid


def test_what_dies_too_often_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_MOST_DEATHS", 0)
    processes = ServerProcesses(make_server, 1, "127.0.0.1:0")
    processes.start()
    os.kill(processes.status().processes[0].pid, signal.SIGKILL)
    with pytest.raises(HttpServerError, match="killed by SIGKILL"):
        processes.run()
    assert "stopping all processes" in caplog.text


def test_the_waits_before_a_start_grow_until_it_is_given_up() -> None:
    slot = Slot(0, [])
    waits = [slot.wait_after_death(100.0 + at) for at in range(6)]
    assert waits == [0, 0.25, 0.5, 1, 2, None]
    assert slot.wait_after_death(500.0) == 0


def test_a_server_that_does_not_take_its_sockets_is_an_error() -> None:
    def make_elsewhere(sockets: list[socket.socket], number: int) -> Server:
        return server

    server = Server(0, address="127.0.0.1")
    with server, pytest.raises(ValueError, match="must pass its sockets on"):
        _make(make_elsewhere, [], "127.0.0.1:1", 0)


def test_a_port_that_another_server_has_is_taken() -> None:
    with WebSocketServer("127.0.0.1:0", reuse_port=True) as server:
        processes = ServerProcesses(make_server, 2, server.address)
        with pytest.raises(HttpServerError, match="another program listens there"):
            processes.start()


def test_what_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="must be a module-level function"):
        ServerProcesses(lambda sockets, number: Server(socket=sockets), 2, 0)
    with pytest.raises(TypeError, match="make_server must be a function"):
        ServerProcesses(None, 2, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count must be from 1"):
        ServerProcesses(make_server, 0, 0)
    with pytest.raises(ValueError, match="port must be given"):
        ServerProcesses(make_server, 2)
    with pytest.raises(WebSocketsError, match="are not running"):
        ServerProcesses(make_server, 2, 0).status()
