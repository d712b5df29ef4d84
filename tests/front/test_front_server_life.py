"""How a Server begins and ends: run(), signals, close()."""

from __future__ import annotations

import signal
import socket
import threading
from typing import Any

import pytest
import websocket
from support import BOUND, HOST, Recorder, fast_settings, wait_for
from support.programs import Script

from mormot_ws import HttpServerError, Peer, Server

PROGRAM = """
    import logging, signal, sys, time
    from mormot_ws import Server

    server = Server(0, address="127.0.0.1")
    closed = []

    @server.on_open
    def opened(peer):
        # run() may not have begun
        while signal.getsignal(signal.SIGTERM) == before[1]:
            time.sleep(0.01)
        print("open", flush=True)

    @server.on_close
    def ended(peer, code, reason):
        closed.append(code)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server.start()
    print("port", server.port, flush=True)
    server.run()
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    print("ended", closed, before == after, server.running, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_run_with_1001_to_all_and_exit_code_0(
    number: signal.Signals,
) -> None:
    """Ctrl-C shows no traceback; the handlers that were there are there again."""
    with Script(PROGRAM) as program:
        port = int(program.expect(r"port (\d+)")[1])
        client = websocket.create_connection(f"ws://{HOST}:{port}", timeout=BOUND)
        program.expect("open")
        program.signal(number)
        opcode, data = client.recv_data(control_frame=True)
        assert (opcode, data[:2]) == (websocket.ABNF.OPCODE_CLOSE, (1001).to_bytes(2, "big"))
        client.shutdown()
        program.expect(r"ended \[1001\] True False")
        assert program.wait() == 0
        assert "Traceback" not in program.output


def test_run_in_another_thread_ends_with_close() -> None:
    """And touches no handler of a signal."""
    server = Server(0, address=HOST, settings=fast_settings())
    seen = Recorder()
    server.on_open(lambda peer: seen.add("open"))
    server.on_close(lambda peer, code, reason: seen.add("close", code))
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.running)
    client = websocket.create_connection(f"ws://{HOST}:{server.port}", timeout=BOUND)
    seen.wait("open")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    server.close()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert seen.wait("close").value == 1001
    client.shutdown()


def test_run_raises_when_the_port_is_taken() -> None:
    """And the signals are as before."""
    before = signal.getsignal(signal.SIGTERM)
    with Server(0, address=HOST, settings=fast_settings()) as first:
        second = Server(first.port, address=HOST)
        with pytest.raises(HttpServerError, match="another program listens there"):
            second.run()
    assert signal.getsignal(signal.SIGTERM) == before
    assert not second.running


def test_a_with_block_serves_inside_another_program() -> None:
    """It can be closed twice, and begin anew."""
    server = Server(0, address=HOST, settings=fast_settings())
    server.on_message(lambda peer, message: peer.send(message))
    ports = []
    for _ in range(2):
        with server:
            ports.append(server.port)
            client = websocket.create_connection(f"ws://{HOST}:{server.port}", timeout=BOUND)
            client.send("x")
            assert client.recv() == "x"
            client.close(timeout=BOUND)
        server.close()
        assert not server.running
        assert (server.send("x"), server.peers, server.groups) == (0, [], {})
    assert all(ports)


def test_close_in_a_callback_returns_and_run_ends() -> None:
    """It cannot wait for itself: a thread says goodbye."""
    server = Server(0, address=HOST, settings=fast_settings())
    seen = Recorder()

    @server.on_message
    def message(peer: Peer, text: str | bytes) -> None:
        server.close()
        seen.add("returned")

    server.on_close(lambda peer, code, reason: seen.add("close", code))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.running)
    client = websocket.create_connection(f"ws://{HOST}:{server.port}", timeout=BOUND)
    client.send("stop")
    seen.wait("returned")
    assert seen.wait("close").value == 1001
    thread.join(BOUND)
    assert not thread.is_alive()
    client.shutdown()


def test_a_client_that_comes_at_once_finds_everything_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The functions are there before the first connection is accepted: one that comes back at the
    moment of a restart is not refused.
    """
    offered: list[Any] = []
    start = threading.Thread.start

    def watched(thread: threading.Thread) -> None:
        # the first of those that accept
        if thread.name.startswith("WebSocketAsyncServer") and not offered:
            offered.append(len(server._server_made.websocket_protocols))  # type: ignore[attr-defined]
        start(thread)

    class Watched(Server):
        __slots__ = ("_server_made",)

        def _prepare(self, made: Any) -> None:
            self._server_made = made
            super()._prepare(made)

    server = Watched(0, address=HOST, settings=fast_settings())
    server.on_open("chat")(lambda peer: None)
    monkeypatch.setattr(threading.Thread, "start", watched)
    with server:
        assert offered == [1]


def test_an_interrupted_close_is_finished_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in close() does not make the server forget what it still has to free."""
    server = Server("127.0.0.1:0")
    server.on_message(lambda peer, message: None)
    server.start()
    inner = server.server
    free = inner.free

    def interrupted() -> None:
        monkeypatch.setattr(inner, "free", free)
        raise KeyboardInterrupt

    monkeypatch.setattr(inner, "free", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.close()
    port = inner.port
    server.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 5).close()
