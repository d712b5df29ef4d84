"""A client whose calls are interrupted: at each place where a signal may be handled, and its thread
at each line by a finaliser.
"""

from __future__ import annotations

import threading

import pytest
from support import FixedDelay, connect, echo_server, new_client, process_of, upgrade, wait_for
from support.lines import Line, each_line
from support.signal_places import each_signal, signals_anywhere

from mormot_ws import HttpClientWebSockets, WebSocketProcessClientThread, WebSocketServer
from mormot_ws.client import client as client_module
from mormot_ws.client import life, socket_use, thread
from mormot_ws.process import keeper
from mormot_ws.testing import FaultProxy

#: milliseconds that no test waits
_NEVER = 600_000


class Raised(BaseException):
    """What the signal handlers of these tests raise."""


def interrupt() -> None:
    raise Raised


def wait_until_nothing_is_left() -> None:
    """Wait for the end of the client's thread, and of the keeper of all clients."""
    names = ("WebSocketClient", "mormot_ws clients")
    wait_for(lambda: not any(each.name.startswith(names) for each in threading.enumerate()))
    assert keeper._shared is None


@signals_anywhere
def test_a_free_that_was_interrupted_anywhere_is_finished_by_the_next(
    server: WebSocketServer,
) -> None:
    """Nothing is left after it, not even the keeper of all clients."""
    for place in each_signal(life, keeper):
        client = connect(server.port)
        try:
            with place.interrupted_by(interrupt):
                client.free()
        except Raised:
            client.free()
        wait_until_nothing_is_left()
    assert place.number > 20


@signals_anywhere
@pytest.mark.parametrize("frees", [False, True])
def test_an_upgrade_that_was_interrupted_anywhere_leaves_nothing_to_free(
    server: WebSocketServer, frees: bool
) -> None:
    """By an exception, or by a handler that frees the client: nothing is left."""
    for place in each_signal(life, socket_use, keeper):
        client = new_client(server.port)
        try:
            with place.interrupted_by(client.free if frees else interrupt):
                upgrade(client)
        except Raised:
            assert not client._use.upgrading
        client.free()
        wait_until_nothing_is_left()
    assert place.number > 20


@signals_anywhere
def test_after_an_interrupted_reconnect_now_the_next_one_works(proxy: FaultProxy) -> None:
    """It does not rely on the first one to have woken the thread."""
    for place in each_signal(client_module, thread):
        with connect(proxy.port, reconnect_policy=lambda: FixedDelay(_NEVER)) as client:
            client.auto_reconnect()
            proxy.cut()
            wait_for(lambda client=client: process_of(client).attempts == 0)  # type: ignore[misc]
            wait_for(lambda client=client: not client.status().connected)  # type: ignore[misc]
            try:
                with place.interrupted_by(interrupt):
                    client.reconnect_now()
            except Raised:
                client.reconnect_now()
            wait_for(lambda client=client: client.status().reconnects == 1)  # type: ignore[misc]
    assert place.number > 1


def test_free_later_in_a_finaliser_at_each_line_of_the_end_of_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client is freed, even if its thread has just decided that there is nothing to free."""
    current: list[tuple[Line, HttpClientWebSockets]] = []
    run = WebSocketProcessClientThread.run

    def interrupted(self: WebSocketProcessClientThread) -> None:
        line, client = current[0]
        with line.interrupted_by(client.free_later):
            run(self)

    monkeypatch.setattr(WebSocketProcessClientThread, "run", interrupted)
    for line in each_line(life, thread):
        # not a lost connection: less is to be done then
        with echo_server() as server:
            client = new_client(server.port)
            current[:] = [(line, client)]
            upgrade(client)
        process = client.websockets
        if process is not None:
            ended = process.client_thread
            wait_for(lambda ended=ended: ended not in threading.enumerate())  # type: ignore[misc]
        if line.reached:
            wait_until_nothing_is_left()
        client.free()
    assert line.number > 20
