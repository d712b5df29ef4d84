"""What a careless caller passes to methods and functions is refused in a sentence, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import HOST, chat, echo_server, process_of, text, wait_for

import mormot_ws
from mormot_ws import (
    ClientServices,
    HttpClientWebSockets,
    HttpServerRequest,
    PermessageDeflate,
    ServerServices,
    WebSocketFrame,
    WebSocketProcessSettings,
    WebSocketProtocolBinary,
    WebSocketProtocolChat,
    WebSocketProtocolUri,
    WebSocketServer,
    WebSocketServerRest,
    focText,
)
from mormot_ws.testing import EchoServer, EchoServerProcess, FaultProxy

Made = Callable[[Any], object]


@pytest.fixture
def met() -> Iterator[SimpleNamespace]:
    """A conversation by each of the doors."""
    with ExitStack() as stack:
        server = stack.enter_context(echo_server())
        client = stack.enter_context(HttpClientWebSockets(HOST, server.port))
        assert client.websockets_upgrade("", protocol=chat()) == ""
        door = stack.enter_context(mormot_ws.Server(f"{HOST}:0"))
        door.on_message(lambda peer, message: None)
        ws = stack.enter_context(mormot_ws.connect(f"ws://{HOST}:{door.port}/"))
        assert ws.wait_connected(10)
        (peer,) = wait_for(lambda: door.peers)
        yield SimpleNamespace(
            server=server, client=client, process=process_of(client), door=door, ws=ws, peer=peer
        )


REFUSED_WHEN_MADE: list[tuple[Callable[[], object], str]] = [
    (lambda: HttpClientWebSockets(f"{HOST}:80", 80), "without its port, not '127.0.0.1:80'"),
    (
        lambda: HttpClientWebSockets(HOST, 80, connect="no"),
        "connect must be True or False, not str",
    ),  # type: ignore[arg-type]
    (
        lambda: mormot_ws.connect("ws://localhost:99999/"),
        "the port in a URI must be a number from 1",
    ),
    (lambda: mormot_ws.connect("ws://a/", protocol=b"chat"), "name or a list of names, not bytes"),  # type: ignore[arg-type]
    (lambda: mormot_ws.connect("ws://a/", protocol=["a", 5]), "sub-protocols must be str, not int"),  # type: ignore[list-item]
    (lambda: mormot_ws.Server(0, name=5), "name must be a str, not int"),  # type: ignore[arg-type]
    (lambda: mormot_ws.Server(0, hide_errors="yes"), "hide_errors must be True or False, not str"),  # type: ignore[arg-type]
    (lambda: WebSocketServer("0", private_key_file="k"), "private_key_file requires certificate"),
    (lambda: WebSocketServerRest("0", uri=5), "uri must be a str, not int"),  # type: ignore[arg-type]
    (lambda: WebSocketServerRest("0", uri="x", key=b"k"), "key must be a str, not bytes"),  # type: ignore[arg-type]
    (lambda: WebSocketServerRest("0", uri="x", ajax=1), "ajax must be True or False, not int"),  # type: ignore[arg-type]
    (lambda: WebSocketProtocolBinary("uri", b"key"), "key must be a str, not bytes"),  # type: ignore[arg-type]
    (lambda: WebSocketProtocolChat("a", "ws://a/b"), "is a path, like 'chat', without host"),
    (
        lambda: WebSocketProtocolUri("a", "ws://a/", "5"),
        "expiration_minutes must be a number, not str",
    ),  # type: ignore[arg-type]
    (lambda: WebSocketProtocolUri("a", b"ws://a/", 5), "public_uri must be a str, not bytes"),  # type: ignore[arg-type]
    (
        lambda: WebSocketProtocolUri("a", "ws://a/", 5, secret=5),
        "secret must be str or bytes, not int",
    ),  # type: ignore[arg-type]
    (
        lambda: WebSocketProcessSettings(5000),
        r"pass settings by name, as in .*\(heartbeat_delay=5000\)",
    ),  # type: ignore[call-arg]
    (
        lambda: WebSocketProcessSettings(max_frame_mb=256 << 20),
        "max_frame_mb must be at most 1048576",
    ),
    (lambda: PermessageDeflate(5), "server_no_context_takeover must be True or False, not int"),  # type: ignore[arg-type]
    (lambda: PermessageDeflate(level="9"), "level must be a whole number, not str"),  # type: ignore[arg-type]
    (lambda: mormot_ws.parse_close_payload("x"), "payload of a close frame must be bytes, not str"),  # type: ignore[arg-type]
    (lambda: EchoServer(port="abc"), "port must be a whole number, not str"),  # type: ignore[arg-type]
    (lambda: EchoServer(host=5), "host must be a str, not int"),  # type: ignore[arg-type]
    (lambda: EchoServerProcess(port="abc"), "port must be a whole number, not str"),  # type: ignore[arg-type]
    (lambda: FaultProxy(f"{HOST}:80", 80), "without its port, not '127.0.0.1:80'"),
    (lambda: ServerServices("x"), "server must be a WebSocketServerRest, not str"),  # type: ignore[arg-type]
    (lambda: ClientServices("x"), "client must be an HttpClientWebSockets, not str"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "said"), REFUSED_WHEN_MADE, ids=[s for _, s in REFUSED_WHEN_MADE])
def test_an_argument_of_a_constructor(make: Callable[[], object], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        make()


REFUSED: list[tuple[Made, str]] = [
    (lambda m: m.client.websockets_upgrade(chat()), r"uri must be a str, .*by name, protocol=…"),
    (
        lambda m: m.client.websockets_upgrade("", chat()),
        r"key must be a str, .*by name, protocol=…",
    ),
    (
        lambda m: m.client.websockets_upgrade("", headers={}),
        "headers must be a str, not dict; it has",
    ),
    (
        lambda m: m.client.websockets_upgrade("ws://a/b"),
        "uri must only contain the path and the query",
    ),
    (lambda m: m.client.reopen("5 s"), "timeout must be a number of milliseconds"),
    (lambda m: m.client.request("/", data={}), "data must be bytes or str, not dict"),
    (
        lambda m: m.client.request("/", header={}),
        "header must be a str with lines like .*, not dict",
    ),
    (lambda m: m.client.request(b"/"), "url must be a str, not bytes"),
    (lambda m: m.client.request("/", None), "method must be a str, not NoneType"),
    (
        lambda m: m.client.websockets_connect(80, chat()),
        "host must be a name, an address or a whole",
    ),
    (
        lambda m: m.client.websockets_connect("ws://a/", chat(), {}),
        "the headers follow the protocol, .*not dict",
    ),
    (
        lambda m: m.client.websockets_connect("a", 1, chat(), headers={}),
        "headers must be a str, not di",
    ),
    (
        lambda m: m.client.websockets_connect("ws://a/", chat(), retry=1),
        "retry must be True or False",
    ),
    (lambda m: m.process.notify_callback("x"), "only an HttpServerRequest can be sent, not str"),
    (
        lambda m: m.server.websocket_broadcast(text("x"), 1),
        "connection_ids must contain numbers.*not int",
    ),
    (
        lambda m: m.server.websocket_broadcast(text("x"), "1"),
        "connection_ids must contain numbers.*not str",
    ),
    (
        lambda m: m.server.websocket_broadcast(text("x"), m.server.connections()),
        "connection_ids must contain numbers of connections, .*not WebSocketProcessServer",
    ),
    (lambda m: m.server.websocket_broadcast(text("x"), exclude=1), "exclude must contain numbers"),
    (
        lambda m: m.server.websocket_broadcast(text("x"), exclude=m.server.connections()),
        "exclude must contain numbers of connections, .*not WebSocketProcessServer",
    ),
    (lambda m: m.server.is_active_websocket("1"), "connection_id must be a whole number, not str"),
    (
        lambda m: m.server.websocket_protocols.remove(chat()),
        "name and uri of the protocol to remove",
    ),
    (lambda m: ServerServices(m.client), "ClientServices takes a client"),
    (lambda m: ClientServices(m.server), "ServerServices takes a server"),
    (
        lambda m: ServerServices(m.server).get(Path, "1"),
        "connection_id must be a whole number, not str",
    ),
    (lambda m: m.ws.send("hi", "soon"), "timeout must be a number of seconds, not str"),
    (lambda m: m.ws.send_json("hi", -1), "timeout must be a number of seconds above 0"),
    (lambda m: m.ws.call(print), "the name of a method must be a str, not builtin"),
    (lambda m: m.door.method("")(print), "a method needs a name"),
    (lambda m: m.door.http(print), r"write @server\.http\('/path'\)"),
    (
        lambda m: m.door.http("/x", methods=5),
        r"methods must be names like \['GET', 'POST'\], not 5",
    ),
    (lambda m: m.door.send("hi", protocol=5), "protocol must be a str, not int"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_an_argument_of_a_method(met: SimpleNamespace, call: Made, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        call(met)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.process.send("hi"), r"send_frame\(WebSocketFrame\(focText, text\)\)"),
        (lambda m: m.process.close(), r"shutdown\(code, reason\), or abort\(why\)"),
        (lambda m: m.process.on_message, "use the protocol: WebSocketProtocolChat"),
        (lambda m: m.process.join("a"), "groups belong to servers"),
        (lambda m: m.process.protocol.send("hi"), r"process\.send_frame\(frame\)"),
        (lambda m: m.process.protocol.broadcast(1), r"server\.websocket_broadcast\(frame\)"),
        (lambda m: m.client.connect(), "call websockets_upgrade"),
        (lambda m: m.client.disconnect(), r"call free\(\)"),
        (lambda m: m.server.start(), "it has been running since it was created"),
        (lambda m: m.server.stop(), r"call free\(\)"),
        (lambda m: m.server.callback(1, True), "a WebSocketServerRest has it"),
        (lambda m: m.server.websocket_protocols.append(1), r"add\(protocol\)"),
        (lambda m: m.door.settings, r"pass them to Server\(settings=…\)"),
        (lambda m: m.door.stop(), r"close\(\)"),
        (lambda m: m.peer.request.args, "query"),
        (lambda m: m.peer.request.json, r"json\.loads\(request\.body\)"),
        (lambda m: WebSocketFrame(focText).data, "did you mean payload"),
        (lambda m: WebSocketFrame(focText).message, "did you mean payload"),
    ],
)
def test_a_name_of_other_libraries_leads_to_ours(
    met: SimpleNamespace, call: Made, said: str
) -> None:
    with pytest.raises(AttributeError, match=said):
        call(met)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: HttpClientWebSockets(HOST, 1, heartbeat_delay=5000),  # type: ignore[call-arg]
            r"pass settings=WebSocketProcessSettings\(heartbeat_delay=…\)",
        ),
        (
            lambda: HttpClientWebSockets(HOST, 1, on_gave_up=print),  # type: ignore[call-arg]
            r"set it before the upgrade: client\.on_gave_up = …",
        ),
        (
            lambda: HttpClientWebSockets(HOST, 1, proces_name="x"),  # type: ignore[call-arg]
            "did you mean 'process_name'",
        ),
        (
            lambda: WebSocketServer("0", max_connections=5),  # type: ignore[call-arg]
            r"pass settings=WebSocketProcessSettings\(max_connections=…\)",
        ),
        (
            lambda: WebSocketServer("0", on_request=print),  # type: ignore[call-arg]
            r"prepare\(server\): server\.on_request = …",
        ),
        (lambda: WebSocketServer("0", host=HOST), "use port for it too"),  # type: ignore[call-arg]
    ],
)
def test_a_keyword_that_is_elsewhere(make: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()


def test_a_file_of_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    for make in (mormot_ws.server_tls_context, mormot_ws.client_tls_context):
        with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
            make(missing)


def test_a_protocol_that_no_server_can_clone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with WebSocketServer(f"{HOST}:0") as server:
        server.websocket_protocols.add(mormot_ws.WebSocketProtocol("mine"))
    assert "has no clone() of its own: no connection of a server will get it" in caplog.text


class TestTools:
    """Those for the tests of applications."""

    def test_attributes_of_a_proxy(self) -> None:
        with FaultProxy(HOST, 1) as proxy:
            for target, said in (
                (f"{HOST}:80", "target must be a host and a port, like"),
                ((f"{HOST}:80", 80), "without its port"),
                ((HOST, "80"), "a port must be a number up to 65535, not '80'"),
            ):
                with pytest.raises((TypeError, ValueError), match=said):
                    proxy.target = target  # type: ignore[assignment]
            with pytest.raises(AttributeError, match="did you mean 'target'"):
                proxy.tarrget = (HOST, 80)  # type: ignore[attr-defined]
            assert proxy.target == (HOST, 1)

    def test_waits_of_an_echo_server(self) -> None:
        with EchoServer() as server:
            for wait in (server.wait_connections, server.wait_upgrades, server.wait_messages):
                with pytest.raises(TypeError, match="count must be a whole number, not str"):
                    wait("1")  # type: ignore[arg-type]
                with pytest.raises(TypeError, match="timeout must be a number of milliseconds"):
                    wait(0, "5 s")  # type: ignore[arg-type]
            with pytest.raises(AttributeError, match="did you mean 'kill'"):
                server.kil()  # type: ignore[attr-defined]


def test_a_request_that_was_sent_says_why_there_is_no_answer(met: SimpleNamespace) -> None:
    request = HttpServerRequest("x")
    assert met.process.notify_callback(request) == 404
    assert request.out_error == "the protocol 'echo' does not support requests"
