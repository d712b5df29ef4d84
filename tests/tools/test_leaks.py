"""Nothing is left behind: not by reconnections, and not by ``free()`` at whatever moment, which
returns within 3 s in every one of them.

The fixture of all tests (see conftest.py) fails each of these that leaves a thread or a file
descriptor. The figures for 1 000 reconnections come from ``python -m tests.leaks``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    FixedDelay,
    RawServer,
    connect,
    echo,
    echo_server,
    in_threads,
    ms,
    new_client,
    process_of,
    send_text,
    silent,
    text,
    upgrade,
    wait_for,
)
from support.faults import FREE_WITHIN, Losses, ServerPeer, full_listener, shrink_buffers, took
from support.programs import run_module
from support.tls import Authority, tls_client, tls_server

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProtocolChat,
    WebSocketServer,
    focBinary,
    focText,
)
from mormot_ws.testing import FaultProxy

NOBODY = WebSocketFrame(focText, "nobody will ever get this")


@contextlib.contextmanager
def bounded(seconds: float = FREE_WITHIN) -> Iterator[None]:
    """Fail when the block takes longer."""
    started = time.monotonic()
    yield
    assert took(started) < seconds


def reconnecting(port: int, **settings: Any) -> HttpClientWebSockets:
    """Return an upgraded client with a long time-out that reconnects; free it."""
    client = new_client(port, timeout=60_000, **settings)
    assert upgrade(client) == ""
    client.auto_reconnect()
    return client


def free_from_another_thread(client: HttpClientWebSockets) -> float:
    """Free *client* in another thread; return how long that took."""
    durations: list[float] = []

    def free() -> None:
        started = time.monotonic()
        client.free()
        durations.append(took(started))

    thread = threading.Thread(target=free)
    thread.start()
    thread.join(BOUND)
    return durations[0]


# ------------------------------------------------------------------------------------ reconnections


@pytest.mark.soak
@pytest.mark.parametrize("options", [[], ["--tls", "--clients", "4"]], ids=["plain", "tls"])
def test_reconnections_leave_nothing_behind(options: list[str]) -> None:
    """The short form of ``python -m tests.leaks``: neither threads nor descriptors nor memory of
    either process grow.
    """
    done = run_module("tests.leaks", "--reconnects", "100", "--json", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["reconnects"] >= 100
    assert figures["client"]["grown"] == figures["server"]["grown"] == []


def test_hundreds_of_attempts_leave_nothing_behind() -> None:
    """Attempts that fail leave nothing either: hundreds of refused ones, then the connection is
    back with the same threads.
    """
    with (
        echo_server() as server,
        FaultProxy(HOST, server.port) as proxy,
        connect(proxy.port, reconnect_policy=lambda: FixedDelay(0)) as client,
    ):
        client.auto_reconnect()
        wait_for(lambda: server.websocket_connections)
        threads = threading.active_count()
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: process_of(client).attempts >= 200)
        proxy.accept()
        wait_for(lambda: client.status().connected)
        assert send_text(client, "x")
        wait_for(lambda: threading.active_count() <= threads)


# ----------------------------------------------------------------------------- free() at any moment


def free_meanwhile(
    client: HttpClientWebSockets, action: Callable[[], str], ready: Callable[[], Any]
) -> None:
    """Free *client* while another thread is inside *action*, right after *ready* or a little
    later; it has to return an error text.
    """
    results: list[Any] = []

    def act() -> None:
        try:
            results.append(action())
        except Exception as exc:  # noqa: BLE001 - none is wanted, whatever it is
            results.append(exc)

    thread = threading.Thread(target=act)
    thread.start()
    wait_for(ready)
    if random.random() < 0.5:
        # anywhere in the action: there is no event for that
        time.sleep(random.random() * 0.001)
    with bounded():
        client.free()
        thread.join(BOUND)
    assert len(results) == 1
    assert isinstance(results[0], str), repr(results[0])
    assert results[0]


def test_free_during_the_first_connection_attempt(server: WebSocketServer) -> None:
    """While another thread waits in ``reopen()`` for an answer to its SYN, ``free()`` ends that
    wait, and ``reopen()`` does not raise.
    """
    with full_listener() as port:
        for _ in range(30):
            client = new_client(server.port, timeout=60_000)
            client.port = port
            free_meanwhile(
                client, client.reopen, lambda client=client: client._dialling is not None
            )  # type: ignore[misc]


def test_free_during_a_connection_attempt(server: WebSocketServer, proxy: FaultProxy) -> None:
    """While the client's thread waits for an answer to its SYN."""
    with full_listener() as port, reconnecting(proxy.port) as client:
        client.port = port
        proxy.cut()
        wait_for(lambda: process_of(client).attempts)
        wait_for(lambda: client._dialling is not None)
        with bounded():
            client.free()


def test_free_during_a_tls_handshake(tmp_path: Path) -> None:
    """While the client's thread waits in the TLS handshake with a server that says nothing."""
    authority = Authority(tmp_path)
    with (
        tls_server(authority.server_context(), echo) as server,
        FaultProxy(HOST, server.port) as proxy,
        tls_client(proxy.port, authority.client_context(), timeout=ms(60_000)) as client,
    ):
        assert upgrade(client) == ""
        client.auto_reconnect()
        proxy.blackhole()
        proxy.cut()
        wait_for(lambda: proxy.links)
        with bounded():
            client.free()


def test_free_during_the_first_tls_handshake(tmp_path: Path) -> None:
    """While another thread waits in ``reopen()`` for a TLS server that says nothing: the same."""
    authority = Authority(tmp_path)
    context = authority.client_context()
    with (
        tls_server(authority.server_context(), echo) as server,
        FaultProxy(HOST, server.port) as proxy,
    ):
        for number in range(1, 61):
            proxy.restore()
            client = tls_client(proxy.port, context, timeout=ms(60_000))
            proxy.blackhole()
            free_meanwhile(
                client, client.reopen, lambda number=number: proxy.accepted == 2 * number
            )  # type: ignore[misc]


def test_free_during_an_upgrade(proxy: FaultProxy) -> None:
    """While ``on_reconnect`` waits in ``websockets_upgrade`` for a server that does not answer."""
    with reconnecting(proxy.port) as client:
        proxy.blackhole()
        proxy.cut()
        wait_for(lambda: proxy.links)
        wait_for(lambda: client._use.upgrading)
        with bounded():
            client.free()


def test_free_during_the_first_upgrade() -> None:
    """While another thread waits in the first ``websockets_upgrade``: the same."""
    with RawServer(silent) as server:
        for _ in range(30):
            client = new_client(server.port, timeout=60_000)
            free_meanwhile(
                client,
                lambda client=client: upgrade(client),
                lambda client=client: client._use.upgrading,
            )  # type: ignore[misc]


def test_free_right_behind_the_first_handshake(server: WebSocketServer) -> None:
    """``free()`` between the server's answer and the start of the client's thread: no upgrade, and
    nobody keeps the shared keeper.
    """

    class Freeing(WebSocketProtocolChat):
        def set_subprotocol(self, name: str) -> bool:
            freeing = threading.Thread(target=client.free)
            freeing.start()
            freeing.join(BOUND)
            return super().set_subprotocol(name)

    client = new_client(server.port)
    assert (
        client.websockets_upgrade("", "", protocol=Freeing("echo", ""))
        == "The client is being freed"
    )
    with connect(server.port) as other:
        assert send_text(other, "x")
    assert "mormot_ws clients' keeper" not in [thread.name for thread in threading.enumerate()]


def test_free_during_a_wait(proxy: FaultProxy) -> None:
    """While the client's thread waits a minute for its next attempt; it ends at once."""
    policy = FixedDelay(60_000)
    with reconnecting(proxy.port, reconnect_policy=lambda: policy) as client:
        proxy.cut()
        wait_for(lambda: policy.failures)
        with bounded(1_000 * MS):
            client.free()
        assert proxy.accepted == 1


def test_free_during_a_callback_that_does_not_return(
    proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """``free()`` does not wait for it beyond its bound: it leaves the thread behind and says so;
    the thread ends with the callback.
    """
    inside, go_on = [threading.Event() for _ in range(3)], threading.Event()

    def hang(number: int) -> Callable[..., str]:
        def callback(*_: Any) -> str:
            inside[number].set()
            go_on.wait(BOUND)
            return "Retry"

        return callback

    with (
        connect(proxy.port) as first,
        connect(proxy.port) as second,
        connect(proxy.port, hang(2)) as third,
    ):
        process_of(first).on_reconnect = hang(0)
        second.on_websockets_closed = hang(1)
        assert inside[2].wait(BOUND)
        proxy.cut()
        assert all(event.wait(BOUND) for event in inside)
        frees = [threading.Thread(target=client.free) for client in (first, second, third)]
        with bounded():
            for free in frees:
                free.start()
            for free in frees:
                free.join(BOUND)
        assert sum("does not return" in record.getMessage() for record in caplog.records) == 3
        go_on.set()
        for client in (first, second, third):
            thread = process_of(client).client_thread
            assert thread is not None
            thread.join(BOUND)
            assert not thread.is_alive()
            assert not process_of(client).send_frame(NOBODY)


def test_free_during_an_on_reconnect_that_returns_soon(proxy: FaultProxy) -> None:
    """``free()`` waits for a callback that returns within its bound, and nothing is reconnected
    behind its back.
    """
    inside = threading.Event()

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        inside.set()
        # it works, for less than the bound of free()
        time.sleep(500 * MS)
        return again(process) or ""

    with reconnecting(proxy.port) as client:
        process = process_of(client)
        assert process.on_reconnect is not None
        again = process.on_reconnect
        process.on_reconnect = on_reconnect
        proxy.cut()
        assert inside.wait(BOUND)
        with bounded():
            client.free()
        thread = process.client_thread
        assert thread is not None
        assert not thread.is_alive()
        assert not client.connected


@pytest.mark.parametrize("where", ["another thread", "a callback"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_free_during_a_send_that_is_blocked(tmp_path: Path, where: str, tls: bool) -> None:
    """While a send waits for a peer that takes nothing: ``free()`` ends it, and it returns
    False.
    """
    sent: list[bool] = []
    large = WebSocketFrame(focBinary, bytes(32 << 20))
    settings: dict[str, Any] = {"heartbeat_delay": 0, "send_timeout": ms(60_000)}

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            sent.append(process.send_frame(large))

    with contextlib.ExitStack() as stack:
        if tls:
            authority = Authority(tmp_path)
            server = stack.enter_context(tls_server(authority.server_context(), None))
        else:
            server = stack.enter_context(echo_server(callback=lambda process, frame: None))
        proxy = stack.enter_context(FaultProxy(HOST, server.port))
        if tls:
            client = stack.enter_context(
                tls_client(proxy.port, authority.client_context(), **settings)
            )
        else:
            client = stack.enter_context(new_client(proxy.port, **settings))
        assert upgrade(client, callback) == ""
        client.auto_reconnect()
        process = process_of(client)
        proxy.blackhole("up")
        thread: threading.Thread | None = None
        if where == "another thread":
            thread = threading.Thread(target=lambda: sent.append(process.send_frame(large)))
            thread.start()
        else:
            connection = wait_for(lambda: server.is_active_websocket(process.connection_id))
            assert connection.send_frame(text("send"))
        wait_for(process.safe_out.locked)
        # it has filled the kernel's buffers, and waits: nothing outside tells that
        time.sleep(50 * MS)
        with bounded():
            client.free()
            if thread is not None:
                thread.join(BOUND)
        assert sent == [False]


def test_free_while_a_frozen_server_does_not_read() -> None:
    """While a send waits for a process that is stopped (SIGSTOP), and others wait behind it."""
    with (
        ServerPeer() as peer,
        connect(peer.port, heartbeat_delay=0, send_timeout=ms(60_000)) as client,
        peer.frozen(),
    ):
        process = process_of(client)
        large = WebSocketFrame(focBinary, bytes(32 << 20))
        sent: list[bool] = []
        threads = [
            threading.Thread(target=lambda: sent.append(process.send_frame(large)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_for(process.safe_out.locked)
        for _ in range(100):
            process.send_frame_async(NOBODY)
        with bounded():
            client.free()
            for thread in threads:
                thread.join(BOUND)
        assert sent == [False] * 3


@pytest.mark.parametrize("close_timeout", [0.3, 10])
def test_free_of_a_client_whose_peer_is_silent(proxy: FaultProxy, close_timeout: float) -> None:
    """Nobody answers the close frame: ``free()`` keeps its bound whatever ``close_timeout``
    says.
    """
    with connect(proxy.port, close_timeout=ms(close_timeout * 1000)) as client:
        proxy.blackhole()
        with bounded():
            client.free()


def test_free_with_a_queue_that_cannot_leave(proxy: FaultProxy) -> None:
    """A full queue to a silent peer does not prolong it."""
    with connect(proxy.port) as client:
        shrink_buffers(client.transport.sock)  # type: ignore[union-attr]
        proxy.blackhole()
        while process_of(client).send_frame_async(WebSocketFrame(focBinary, bytes(100_000))):
            pass
        with bounded():
            client.free()


def test_free_twice(proxy: FaultProxy) -> None:
    """The second time there is nothing to do."""
    with connect(proxy.port) as client:
        with bounded():
            client.free()
        with bounded(100 * MS):
            client.free()


def test_free_by_several_threads_at_once(proxy: FaultProxy) -> None:
    """All of them return in time, the later ones not before the work is done, whoever was first;
    the peer is silent.
    """
    with reconnecting(proxy.port) as client:
        proxy.blackhole()
        client_thread = process_of(client).client_thread
        assert client_thread is not None

        def free(number: int) -> tuple[float, bool]:
            started = time.monotonic()
            client.free()
            return took(started), client_thread.is_alive()

        ended = in_threads(8, free)
    assert all(duration < FREE_WITHIN and not alive for duration, alive in ended)


def test_free_during_a_close_by_the_server(server: WebSocketServer) -> None:
    """Both sides say goodbye at the same time; both are done in time."""
    for _ in range(20):
        losses = Losses()
        with connect(server.port, losses.frame) as client:
            connection = wait_for(
                lambda client=client: server.is_active_websocket(process_of(client).connection_id)  # type: ignore[misc]
            )
            thread = threading.Thread(target=connection.shutdown, args=(1001, ""))
            thread.start()
            with bounded(1_000 * MS):
                client.free()
            thread.join(BOUND)
        assert losses.loss().code in (1000, 1001)


@pytest.mark.parametrize("seed", range(4))
def test_free_at_random_moments_of_a_flapping_client(proxy: FaultProxy, seed: int) -> None:
    """A client that loses its connection all the time is freed at a random moment: always in time,
    and nothing is left.
    """
    chance = random.Random(seed)
    faults: list[Callable[[], Any]] = [
        proxy.cut,
        proxy.close,
        proxy.refuse,
        proxy.accept,
        proxy.blackhole,
        proxy.restore,
    ]
    for _ in range(8):
        client = reconnecting(proxy.port)
        for _ in range(chance.randrange(8)):
            chance.choice(faults)()
            send_text(client, "x")
            process_of(client).send_frame_async(NOBODY)
            # the pace of the faults is a matter of chance
            time.sleep(chance.random() * 0.02)
        proxy_healed = threading.Thread(target=proxy.heal)
        proxy_healed.start()
        assert free_from_another_thread(client) < FREE_WITHIN
        proxy_healed.join(BOUND)
        proxy.heal()


def test_free_of_many_clients_at_once(server: WebSocketServer) -> None:
    """Fifty clients freed by as many threads do not wait for each other."""
    clients = [connect(server.port) for _ in range(50)]
    with bounded():
        durations = in_threads(50, lambda number: free_from_another_thread(clients[number]))
    logging.getLogger("mormot_ws.tests").debug("slowest of 50: %.3f s", max(durations))
