"""Every public object refuses an attribute that it does not have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from enum import Enum
from typing import Any

import pytest
from support import HOST, active, connect, echo_server, process_of, wait_for
from support.process_servers import make_server

import mormot_ws
from mormot_ws import (
    ExponentialBackoff,
    FailureKind,
    HttpClientWebSockets,
    LinearBackoff,
    MainThreadQueue,
    ReconnectFailure,
    StopOn,
    WebProcessInFrame,
    WebSocketAsyncServerRest,
    WebSocketFrame,
    WebSocketFrameList,
    WebSocketServerRest,
    focText,
)

#: those that are made without more ado
MADE: dict[str, Callable[[], object]] = {
    "AuthSession": lambda: mormot_ws.AuthSession(2, mormot_ws.AuthUser("x"), ""),
    "AuthUser": lambda: mormot_ws.AuthUser("x"),
    "Changed": lambda: mormot_ws.Changed(1),
    "ExponentialBackoff": ExponentialBackoff,
    "History": lambda: mormot_ws.History([], mormot_ws.Position("e", 0)),
    "HttpServerRequest": mormot_ws.HttpServerRequest,
    "HubStatus": lambda: mormot_ws.MemoryHub().status(),
    "LinearBackoff": LinearBackoff,
    "Lost": lambda: mormot_ws.Lost("x", mormot_ws.Position("e", 0), "epoch"),
    "MemoryHub": mormot_ws.MemoryHub,
    "PermessageDeflate": mormot_ws.PermessageDeflate,
    "Position": lambda: mormot_ws.Position("e", 0),
    "ProcessStatus": lambda: mormot_ws.ProcessStatus(0, 0, "waiting", 0, None),
    "ProcessesStatus": lambda: mormot_ws.ProcessesStatus((), mormot_ws.ServerStatus("", *[0] * 11)),
    "Publication": lambda: mormot_ws.Publication("x", 1, "e", "{}"),
    "Published": lambda: mormot_ws.Published(1, "e"),
    "Publishing": lambda: mormot_ws.WebSocketProtocolTopics().publish("x", 1),
    "Recovery": lambda: mormot_ws.Recovery("x", True, "", 0, mormot_ws.Position("e", 0)),
    "ReconnectFailure": lambda: ReconnectFailure(FailureKind.upgrade, "", 1, 0),
    "RestServerAuthenticationDefault": lambda: mormot_ws.RestServerAuthenticationDefault({}.get),
    "RestServerAuthenticationHttpBasic": lambda: mormot_ws.RestServerAuthenticationHttpBasic(
        {}.get
    ),
    "RestServerAuthenticationNone": lambda: mormot_ws.RestServerAuthenticationNone({}.get),
    "RedisHub": lambda: mormot_ws.RedisHub("redis://localhost"),
    "ServerProcesses": lambda: mormot_ws.ServerProcesses(make_server, 1, 0),
    "ServiceCustomAnswer": mormot_ws.ServiceCustomAnswer,
    "ServiceCustomStatus": lambda: mormot_ws.ServiceCustomStatus(201),
    "ShardedHub": lambda: mormot_ws.ShardedHub([mormot_ws.MemoryHub()]),
    "StopOn": lambda: StopOn(LinearBackoff()),
    "TopicLimits": mormot_ws.TopicLimits,
    "TopicSubscription": lambda: mormot_ws.WebSocketProtocolTopics().subscribe("x", print),
    "TopicsStatus": lambda: mormot_ws.WebSocketProtocolTopics(hub=mormot_ws.MemoryHub()).status(),
    "WebProcessInFrame": lambda: WebProcessInFrame(True),
    "WebSocketFrame": lambda: WebSocketFrame(focText, "x"),
    "WebSocketFrameList": WebSocketFrameList,
    "WebSocketProcessSettings": mormot_ws.WebSocketProcessSettings,
    "WebSocketProtocol": lambda: mormot_ws.WebSocketProtocol("x"),
    "WebSocketProtocolBinary": mormot_ws.WebSocketProtocolBinary,
    "WebSocketProtocolChat": lambda: mormot_ws.WebSocketProtocolChat("x"),
    "WebSocketProtocolJson": mormot_ws.WebSocketProtocolJson,
    "WebSocketProtocolList": mormot_ws.WebSocketProtocolList,
    "WebSocketProtocolTopics": mormot_ws.WebSocketProtocolTopics,
    "WebSocketProtocolUri": lambda: mormot_ws.WebSocketProtocolUri("x", "ws://a.example/x", 1),
}
#: those of a conversation
MET = (
    "ClientServices",
    "ClientStatus",
    "Connection",
    "ConnectionStatus",
    "HttpClientWebSockets",
    "MainThreadQueue",
    "Peer",
    "Request",
    "Server",
    "ServerServices",
    "ServerStatus",
    "WebSocketProcessClient",
    "WebSocketProcessClientThread",
    "WebSocketProcessServer",
    "WebSocketAsyncConnection",
    "WebSocketAsyncServer",
    "WebSocketAsyncServerRest",
    "WebSocketServer",
    "WebSocketServerRest",
    "WebSocketServerSocket",
)
#: bases, of which there are no objects of their own in a conversation
BASES = {
    "CrtSocket": "HttpClientWebSockets",
    "Hub": "MemoryHub",
    "ReconnectPolicy": "StopOn",
    "RestServerAuthentication": "RestServerAuthenticationDefault",
    "WebCrtSocketProcess": "WebSocketProcessClient",
    "WebSocketProcess": "WebSocketProcessClient",
    "WebSocketProtocolRest": "WebSocketProtocolJson",
}


@pytest.fixture
def met() -> Iterator[dict[str, object]]:
    """The objects of conversations that are going on, by the names of their classes."""
    with ExitStack() as stack:
        server = stack.enter_context(echo_server())
        sockets: list[object] = []
        server.on_websocket_connect = sockets.append
        client = stack.enter_context(connect(server.port))
        process = process_of(client)
        door = stack.enter_context(mormot_ws.Server(f"{HOST}:0"))
        door.on_message(lambda peer, message: None)
        ws = stack.enter_context(mormot_ws.connect(f"ws://{HOST}:{door.port}/"))
        (peer,) = wait_for(lambda: door.peers)
        rest = stack.enter_context(WebSocketServerRest(f"{HOST}:0"))
        wait_for(lambda: sockets)
        events = stack.enter_context(WebSocketAsyncServerRest(f"{HOST}:0", uri="root", ajax=True))
        accepted: list[object] = []
        events.on_websocket_connect = accepted.append
        rest_client = stack.enter_context(HttpClientWebSockets(HOST, events.port))
        assert rest_client.websockets_upgrade("root", ajax=True) == ""
        wait_for(lambda: accepted)
        queue = MainThreadQueue()
        stack.callback(queue.close)
        found = [
            mormot_ws.ClientServices(client),
            client,
            client.status(),
            process,
            process.status(),
            process.client_thread,
            door,
            mormot_ws.ServerServices(rest),
            peer,
            peer.request,
            queue,
            accepted[0],
            events,
            stack.enter_context(mormot_ws.WebSocketAsyncServer(f"{HOST}:0")),
            rest,
            server,
            server.status(),
            sockets[0],
            active(server, process.connection_id),
            ws,
        ]
        yield {type(thing).__name__: thing for thing in found}


def refuses(thing: object) -> None:
    """Fail unless *thing* refuses an attribute that it does not have, twice."""
    name = "unheard_of"
    for _ in range(2):
        with pytest.raises(AttributeError):
            setattr(thing, name, 1)
        assert not hasattr(thing, name)


@pytest.mark.parametrize("name", MADE)
def test_an_object_refuses_what_it_does_not_have(name: str) -> None:
    thing = MADE[name]()
    assert type(thing).__name__ == name
    refuses(thing)


@pytest.mark.parametrize("name", MET)
def test_an_object_of_a_conversation_does(name: str, met: dict[str, object]) -> None:
    refuses(met[name])


def test_no_public_class_is_left_out() -> None:
    """Except enumerations, whose members are constants; exceptions: other programs note on them
    what they know of where they were caught; and what belongs to ``logging``, which sets its own.
    """
    classes: dict[str, Any] = {
        name: kind
        for name in mormot_ws.__all__
        if isinstance(kind := getattr(mormot_ws, name), type)
        and not issubclass(kind, Enum | Exception | logging.Formatter)
    }
    assert {*classes} == {*MADE, *MET, *BASES}
    for base, derived in BASES.items():
        assert base == "ReconnectPolicy" or issubclass(classes[derived], classes[base])
