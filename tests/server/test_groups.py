"""The connections of a server, and groups of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    RawClient,
    Recorder,
    in_threads,
    text,
    upgraded,
    wait_for,
)

from mormot_ws import WebSocketProcessServer, WebSocketServer, focText

#: connects so many clients
Connected = Callable[[int], list[RawClient]]


@pytest.fixture
def connected(server: WebSocketServer) -> Iterator[Connected]:
    """A function that returns so many new clients, which the server knows."""
    with contextlib.ExitStack() as clients:
        yield lambda count: [clients.enter_context(upgraded(server.port)) for _ in range(count)]


def test_connections_is_a_snapshot(server: WebSocketServer, connected: Connected) -> None:
    """It stays as it was when one comes or goes, and a new one has neither."""
    first, second = connected(2)
    before = server.connections()
    assert [process.connection_id for process in before] == [1, 2]
    first.close()
    wait_for(lambda: [process.connection_id for process in server.connections()] == [2])
    assert len(before) == 2
    assert before[0].send_frame(text("late")) is False
    assert before[1].send_frame(text("hi")) is True
    assert second.receive_opcode(focText).text == "hi"


def test_a_group_gets_what_is_broadcast_to_it(
    server: WebSocketServer, connected: Connected
) -> None:
    """And nobody else; a connection may be in several, and is told once."""
    clients = connected(3)
    one, two, _ = server.connections()
    assert one.join("room")
    assert one.join("room")
    assert two.join("room")
    assert two.join("other")
    assert server.groups == ["room", "other"]
    assert two.groups == {"room", "other"}
    assert server.connections("room") == [one, two]
    assert server.websocket_broadcast(text("hello"), group="room") == 2
    assert server.websocket_broadcast(text("all")) == 3
    for client, texts in zip(clients, (["hello", "all"], ["hello", "all"], ["all"]), strict=True):
        assert [client.receive_opcode(focText).text for _ in texts] == texts


def test_a_broadcast_can_leave_some_out(server: WebSocketServer, connected: Connected) -> None:
    """By their numbers, of all or of a group; numbers and a group together mean both."""
    connected(3)
    for process in server.connections()[:2]:
        process.join("room")
    assert server.websocket_broadcast(text("x"), exclude=[1]) == 2
    assert server.websocket_broadcast(text("x"), group="room", exclude=[1]) == 1
    assert server.websocket_broadcast(text("x"), [2, 3], group="room") == 1
    assert server.websocket_broadcast(text("x"), group="nobody") == 0


def test_a_connection_leaves_a_group_when_it_wants(
    server: WebSocketServer, connected: Connected
) -> None:
    """The last one takes the group with it."""
    connected(1)
    [process] = server.connections()
    assert not process.leave("room")
    process.join("room")
    assert process.leave("room")
    assert not process.leave("room")
    assert (server.groups, process.groups) == ([], frozenset())


def test_a_connection_leaves_all_groups_at_its_end(
    server: WebSocketServer, connected: Connected
) -> None:
    """It cannot join any more; the callback for the end still sees which ones it was in."""
    seen = Recorder()

    def disconnected(connection: Any) -> None:
        process = connection.websocket_process
        seen.add("end", (process.groups, process.join("late"), server.groups))

    server.on_websocket_disconnect = disconnected
    [client] = connected(1)
    [process] = server.connections()
    process.join("room")
    client.close()
    assert seen.wait("end").value == (frozenset({"room"}), False, [])
    assert not process.join("room")
    assert server.groups == []


@pytest.mark.parametrize(("name", "error"), [(1, TypeError), (None, TypeError), ("", ValueError)])
def test_what_is_no_name_of_a_group_is_refused(
    server: WebSocketServer, connected: Connected, name: Any, error: type[Exception]
) -> None:
    """Where it is used first."""
    connected(1)
    [process] = server.connections()
    with pytest.raises(error, match="a group's name"):
        process.join(name)
    with pytest.raises(error, match="a group's name"):
        process.leave(name)
    if name is not None:
        with pytest.raises(error, match="a group's name"):
            server.websocket_broadcast(text("x"), group=name)


def test_joining_and_leaving_of_many_threads_loses_nobody(
    server: WebSocketServer, connected: Connected
) -> None:
    """While connections end: what is left is exactly what is still connected."""
    staying = connected(3)
    going = connected(12)
    processes = server.connections()

    def busy(number: int) -> None:
        for round_ in range(300):
            process: WebSocketProcessServer = processes[(number + round_) % len(processes)]
            process.join(f"g{round_ % 7}")
            server.websocket_broadcast(text("x"), group=f"g{round_ % 7}", exclude=range(1, 20))
            if round_ % 3:
                process.leave(f"g{(round_ + number) % 7}")

    in_threads(16, lambda n: busy(n) if n < 4 else going[n - 4].close())
    wait_for(lambda: server.websocket_connections == len(staying))
    alive = set(server.connections())
    wait_for(lambda: all(set(server.connections(group)) <= alive for group in server.groups))
    for group in server.groups:
        assert server.websocket_broadcast(text("x"), group=group) == len(server.connections(group))
    for process in list(alive):
        for group in process.groups:
            process.leave(group)
    # a connection that has just ended leaves its groups behind the table of connections
    wait_for(lambda: server.groups == [])
