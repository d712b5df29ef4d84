"""Server: its functions, peers and groups, through real sockets."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import websocket
from support import BOUND, HOST, Recorder, fast_settings, in_threads, wait_for
from support.tls import Authority

import mormot_ws
from mormot_ws import Peer, Request, Server, WebSocketsError

#: connects another library's client: ``connect("chat", "/path", header=…)``
Connect = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port, which is not started yet; it is closed at the end."""
    made = Server(0, address=HOST, settings=fast_settings(), name="door")
    yield made
    made.close()


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Connects clients to *server*, which runs from the first one on."""
    with contextlib.ExitStack() as clients:

        def open_one(protocol: str = "", path: str = "/", **options: Any) -> Any:
            if not server.running:
                server.start()
            client = websocket.create_connection(
                f"ws://{HOST}:{server.port}{path}",
                subprotocols=[protocol] if protocol else None,
                timeout=BOUND,
                # which is slow in Python
                skip_utf8_validation=True,
                **options,
            )
            # close() leaves the socket of a connection whose end it has seen
            clients.callback(client.shutdown)
            clients.callback(client.close, timeout=BOUND)
            return client

        yield open_one


# ------------------------------------------------------------------------------- messages and peers


def test_clients_of_each_sub_protocol_have_their_functions(
    server: Server, connect: Connect
) -> None:
    """Those that name none have theirs, decorated with or without parentheses."""

    @server.on_message("chat")
    def chat(peer: Peer, message: str | bytes) -> None:
        peer.send(b"chat " + message if isinstance(message, bytes) else f"chat {message}")

    @server.on_message("news")
    def news(peer: Peer, message: str | bytes) -> None:
        peer.send_json({"news": str(message)})

    @server.on_message
    def plain(peer: Peer, message: str | bytes) -> None:
        peer.send(f"plain {peer.protocol!r}")

    for protocol, path, sent, answer in (
        ("chat", "/", "a", "chat a"),
        ("CHAT", "/any", b"b", b"chat b"),
        ("news", "/", "c", '{"news":"c"}'),
        ("", "/x", "d", "plain ''"),
    ):
        client = connect(protocol, path)
        client.send(sent) if isinstance(sent, str) else client.send_binary(sent)
        assert client.recv() == answer


def test_a_client_of_another_sub_protocol_is_refused(server: Server, connect: Connect) -> None:
    """One that names none reads which there are."""
    server.on_message("chat")(lambda peer, message: None)
    with pytest.raises(websocket.WebSocketBadStatusException, match="'chat'"):
        connect("")
    with pytest.raises(websocket.WebSocketBadStatusException, match="400"):
        connect("other")


def test_open_and_close_come_first_and_last(server: Server, connect: Connect) -> None:
    """In the connection's own thread, with the code and reason of the client's close frame."""
    seen = Recorder()
    server.on_open("chat")(lambda peer: seen.add("open", peer))
    server.on_message("chat")(lambda peer, message: seen.add("message", (peer, message)))
    server.on_close("chat")(lambda peer, code, reason: seen.add("close", (peer, code, reason)))
    client = connect("chat")
    client.send("x")
    seen.wait("message")
    client.close(3001, b"enough", timeout=BOUND)
    assert seen.wait("close").value[1:] == (3001, "enough")
    assert seen.names == ["open", "message", "close"]
    assert len(seen.threads) == 1
    peers = [seen.wait("open").value, seen.wait("message").value[0], seen.wait("close").value[0]]
    assert peers[0] is peers[1] is peers[2]
    assert peers[0].send("late") is False


def test_a_peer_knows_the_request_it_came_with(server: Server, connect: Connect) -> None:
    """URI, path, query, headers whatever their case, bearer; and who it is."""
    seen = Recorder()
    server.on_open(lambda peer: seen.add("open", peer))
    connect("", "/room/7?a=1&b=%C3%A9&a=2", header=["X-One: 1", "Authorization: Bearer t0ken"])
    peer = seen.wait("open").value
    request = peer.request
    assert (request.uri, request.path) == ("/room/7?a=1&b=%C3%A9&a=2", "/room/7")
    assert request.query == {"a": "2", "b": "é"}
    assert (request.headers["x-one"], request.headers["X-ONE"]) == ("1", "1")
    assert request.headers.get("missing") is None
    assert (request.bearer, request.remote_ip, request.method) == ("t0ken", HOST, "GET")
    assert (peer.id, peer.remote_ip, peer.connected, peer.user) == (1, HOST, True, None)
    assert "t0ken" not in repr(request) + repr(request.headers) + repr(peer)
    assert "a=1" not in repr(request)
    assert server.peers == [peer]
    with pytest.raises(AttributeError, match=r"keep your own data in peer\.session"):
        peer.nickname = "ann"
    peer.session["count"] = 1
    assert server.peers[0].session == {"count": 1}


def test_a_closed_peer_gets_the_code(server: Server, connect: Connect) -> None:
    """``close`` in a callback does not wait for the answer."""
    closed = Recorder()
    server.on_message(lambda peer, message: peer.close(3005, "bye"))
    server.on_close(lambda peer, code, reason: closed.add("close", (code, reason)))
    client = connect()
    client.send("x")
    opcode, data = client.recv_data(control_frame=True)
    assert (opcode, data) == (websocket.ABNF.OPCODE_CLOSE, (3005).to_bytes(2, "big") + b"bye")
    assert closed.wait("close").value == (3005, "bye")


@pytest.mark.parametrize("code", [1005, 999, 5000])
def test_a_close_code_that_may_not_be_sent_is_refused(
    server: Server, connect: Connect, code: int
) -> None:
    """At once."""
    server.on_open(lambda peer: None)
    connect()
    wait_for(lambda: server.peers)
    with pytest.raises(ValueError, match="close code"):
        server.peers[0].close(code)


def test_a_function_for_text_gets_no_bytes(server: Server, connect: Connect) -> None:
    """Its annotation says so, and the peer is closed with 1003."""
    seen = Recorder()

    @server.on_message("chat")
    def chat(peer: Peer, text: str) -> None:
        seen.add("text", text)

    client = connect("chat")
    client.send("x")
    client.send_binary(b"y")
    _, data = client.recv_data(control_frame=True)
    assert data[:2] == (1003).to_bytes(2, "big")
    assert [event.value for event in seen.all("text")] == ["x"]


def test_what_a_function_raises_is_logged_and_hurts_nobody(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection goes on, after ``sys.exit()`` too; the log has the function's name."""
    closed = threading.Event()

    @server.on_open
    def opened(peer: Peer) -> None:
        raise KeyError("opened")

    @server.on_message
    def message(peer: Peer, text: str | bytes) -> None:
        if text == "exit":
            raise SystemExit
        peer.send(text)
        raise ValueError("message")

    @server.on_close
    def ended(peer: Peer, code: int, reason: str) -> None:
        closed.set()
        raise OSError("ended")

    client = connect()
    for text in ("a", "exit", "b"):
        client.send(text)
    assert [client.recv(), client.recv()] == ["a", "b"]
    client.close(timeout=BOUND)
    assert closed.wait(BOUND)
    server.close()
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text.rpartition(">: ")[2] for text in texts] == [
        "on_open failed",
        *["on_message failed"] * 3,
        "on_close failed",
    ]
    assert all(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)


# --------------------------------------------------------------------------------- groups, sending


def test_a_chat_with_groups(server: Server, connect: Connect) -> None:
    """A message to a group reaches its members, and is left to those that are excluded."""

    @server.on_open("chat")
    def opened(peer: Peer) -> None:
        peer.join(peer.request.path)

    @server.on_message("chat")
    def message(peer: Peer, text: str | bytes) -> None:
        [room] = peer.groups
        server.send(text, group=room, exclude=peer)
        peer.send("sent")

    one, two, other = (connect("chat", path) for path in ("/a", "/a", "/b"))
    wait_for(lambda: sorted(server.groups) == ["/a", "/b"] and len(server.groups["/a"]) == 2)
    one.send("hello")
    assert (one.recv(), two.recv()) == ("sent", "hello")
    assert server.send("to all") == 3
    assert [client.recv() for client in (one, two, other)] == ["to all"] * 3
    one.close(timeout=BOUND)
    two.close(timeout=BOUND)
    wait_for(lambda: list(server.groups) == ["/b"])


def test_messages_go_to_whom_they_are_meant_for(server: Server, connect: Connect) -> None:
    """One peer, several, those of a sub-protocol, and their intersections."""
    for name in ("chat", "news"):
        server.on_message(name)(lambda peer, message: None)
    for name in ("chat", "chat", "news"):
        connect(name)
    wait_for(lambda: len(server.peers) == 3)
    one, two, three = server.peers
    one.join("g")
    three.join("g")
    assert server.send("x", to=one) == 1
    assert server.send("x", to=one.id) == 1
    assert server.send("x", to=[one, three.id]) == 2
    assert server.send_json([1], protocol="chat") == 2
    assert server.send("x", protocol="chat", group="g") == 1
    assert server.send("x", protocol="NEWS", to=[one]) == 0
    assert server.send("x", exclude=[one, two]) == 1
    assert server.send("x", to=[]) == 0
    assert server.send("x", to=99) == 0
    with pytest.raises(ValueError, match="'other' is not offered"):
        server.send("x", protocol="other")
    with pytest.raises(TypeError, match="Peer objects or ids, not str"):
        server.send("x", to="one")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a message must be str or bytes, not dict"):
        server.send({"a": 1})  # type: ignore[arg-type]


def test_what_is_sent_to_a_peer_keeps_its_order(server: Server, connect: Connect) -> None:
    """Whether it was sent to the peer alone or to all."""

    @server.on_message
    def message(peer: Peer, text: str | bytes) -> None:
        for number in range(100):
            if number % 2:
                server.send(str(number))
            else:
                peer.send(str(number))

    client = connect()
    client.send("go")
    assert [client.recv() for _ in range(100)] == [str(number) for number in range(100)]


def test_a_peer_that_does_not_read_delays_no_other(server: Server, connect: Connect) -> None:
    """``server.send`` queues for it and returns; the others go on."""
    large = "x" * 1_000_000
    server.on_message(lambda peer, message: server.send(f"{message}{large}"))
    quick = connect()
    slow = connect(sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
    wait_for(lambda: len(server.peers) == 2)
    for number in range(8):
        quick.send(f"{number}")
        assert quick.recv() == f"{number}{large}"
    assert slow.recv() == f"0{large}"


def test_peers_is_a_snapshot_that_threads_may_use(server: Server, connect: Connect) -> None:
    """While peers come and go."""
    server.on_open(lambda peer: peer.join("all"))

    def come_and_go(number: int) -> None:
        for _ in range(10):
            client = connect()
            for peer in server.peers:
                peer.send("x")
            server.send("y", group="all")
            assert isinstance(server.groups, dict)
            client.close(timeout=BOUND)

    server.start()
    in_threads(4, come_and_go)
    wait_for(lambda: server.peers == [] and server.groups == {})


# ------------------------------------------------------------------------------------------ methods


class Money:
    """What JSON does not have."""


@pytest.fixture
def calling(server: Server) -> Iterator[Callable[..., Any]]:
    """``call(name, …)`` of our own client, which is connected to *server*."""

    @server.method
    def add(a: int, b: int = 1) -> int:
        return a + b

    @server.method("who")
    def described(peer: Peer, *tags: str) -> dict[str, Any]:
        return {"id": peer.id, "tags": tags}

    @server.method
    def fail(text: str) -> None:
        raise ValueError(text)

    @server.method
    def refuse() -> None:
        raise mormot_ws.CallError("no such room", 7)

    @server.method
    def leave() -> None:
        raise SystemExit

    @server.method
    def strange() -> Any:
        return Money()

    server.start()
    with mormot_ws.connect(f"ws://{HOST}:{server.port}/") as ws:
        yield partial(ws.call, timeout=BOUND)


def test_a_method_is_called_with_its_types(calling: Callable[..., Any]) -> None:
    """By position and by name, with defaults; and it knows who calls."""
    assert calling("add", 1, 2) == 3
    assert calling("add", a=5) == 6
    assert calling("who", "x", "y") == {"id": 1, "tags": ["x", "y"]}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("add", 1, "2"), -32602, r"add\(\): b must be int, not str"),
        (("add",), -32602, r"add\(\): missing a required argument"),
        (("add", 1, 2, 3), -32602, r"add\(\): too many positional arguments"),
        (("who", 1), -32602, r"tags\[0\] must be str, not int"),
        (("ad", 1), -32601, "there is no method 'ad'"),
        (("fail", "oh"), -32000, "^ValueError: oh$"),
        (("fail", "\ud800".encode("utf-16", "surrogatepass").decode("latin-1")), -32000, "Value"),
        (("refuse",), 7, "^no such room$"),
        (("leave",), -32000, "SystemExit"),
        (("strange",), -32000, "TypeError: .*Money"),
    ],
)
def test_an_error_is_the_callers_exception(
    calling: Callable[..., Any], arguments: tuple[Any, ...], code: int, text: str
) -> None:
    """Wrong arguments, no such method, what the method raises; then the next call works."""
    with pytest.raises(mormot_ws.CallError, match=text) as caught:
        calling(*arguments)
    assert caught.value.code == code
    assert calling("add", 1, 2) == 3


def test_errors_may_be_hidden(caplog: pytest.LogCaptureFixture) -> None:
    """But for those that a method chooses; the log has them all."""
    server = Server(0, address=HOST, settings=fast_settings(), hide_errors=True)

    @server.method
    def fail() -> None:
        raise ValueError("secret")

    with (
        server,
        mormot_ws.connect(f"ws://{HOST}:{server.port}") as ws,
        pytest.raises(mormot_ws.CallError, match=r"^internal error$"),
    ):
        ws.call("fail", timeout=BOUND)
    assert "the method fail failed" in caplog.text


def test_calls_and_messages_share_a_connection(server: Server, connect: Connect) -> None:
    """Of any sub-protocol; what is no call is a message."""
    server.method("top")(lambda *numbers: max(numbers))
    server.on_message("chat")(lambda peer, message: peer.send(f"message {message!r}"))
    client = connect("chat")
    for sent, answer in (
        ('{"jsonrpc":"2.0","method":"top","params":[3,9],"id":"a"}', '"result":9,"id":"a"}'),
        ('{"jsonrpc":"2.0","method":"top","params":3,"id":1}', '"code":-32600'),
        ('{"json":1}', "message '{\"json\":1}'"),
        ("{", "message '{'"),
    ):
        client.send(sent)
        assert answer in client.recv()
    client.send('{"jsonrpc":"2.0","method":"top","params":[3,9]}')
    client.send("no answer to that")
    assert client.recv() == "message 'no answer to that'"


def test_without_methods_a_call_is_a_message(server: Server, connect: Connect) -> None:
    """The application may speak JSON-RPC itself."""
    server.on_message(lambda peer, message: peer.send("mine"))
    client = connect()
    client.send('{"jsonrpc":"2.0","method":"top","id":1}')
    assert client.recv() == "mine"


# ----------------------------------------------------------------------------------- authentication


@pytest.mark.parametrize(
    ("result", "status"),
    [(401, 401), (403, 403), (None, 401), (False, 401), (503, 503), (200, 500), (42, 500)],
)
def test_authenticate_refuses_by_a_status(result: Any, status: int) -> None:
    """None and False are 401; what is neither a user nor such a status is 500."""
    server = Server(0, address=HOST, settings=fast_settings(), authenticate=lambda request: result)
    server.on_open(lambda peer: None)
    with server, pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(f"ws://{HOST}:{server.port}", timeout=BOUND)
    assert caught.value.status_code == status


def test_what_authenticate_returns_is_the_user() -> None:
    """It is asked with the request, before anything else."""
    seen = Recorder()

    def authenticate(request: Request) -> Any:
        return {"name": request.query["user"]} if request.bearer == "let me in" else 403

    server = Server(0, address=HOST, settings=fast_settings(), authenticate=authenticate)
    server.on_open(lambda peer: seen.add("open", peer.user))
    with server:
        client = websocket.create_connection(
            f"ws://{HOST}:{server.port}/?user=ann",
            header=["Authorization: Bearer let me in"],
            timeout=BOUND,
        )
        assert seen.wait("open").value == {"name": "ann"}
        client.close(timeout=BOUND)


def test_an_authenticate_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """500, and the traceback in the log."""

    def authenticate(request: Request) -> Any:
        raise LookupError("no database")

    server = Server(0, address=HOST, settings=fast_settings(), authenticate=authenticate)
    server.on_open(lambda peer: None)
    with server, pytest.raises(websocket.WebSocketBadStatusException, match="500"):
        websocket.create_connection(f"ws://{HOST}:{server.port}", timeout=BOUND)
    assert "no database" in caplog.text


# ------------------------------------------------------------------------------- wrong at the start


async def coroutine(*arguments: Any) -> None:
    """Return a coroutine that nobody awaits."""


@pytest.mark.parametrize(
    ("register", "error", "text"),
    [
        (lambda s: s.on_message("chat")(coroutine), TypeError, "not async def"),
        (lambda s: s.on_message(coroutine), TypeError, "not async def"),
        (lambda s: s.method(coroutine), TypeError, "not async def"),
        (lambda s: s.http("/")(coroutine), TypeError, "not async def"),
        (lambda s: Server(0, authenticate=coroutine), TypeError, "not async def"),
        (lambda s: s.on_message("chat")(lambda peer: None), TypeError, r"\(peer, message\)"),
        (lambda s: s.on_open(lambda: None), TypeError, r"on_open\(peer\)"),
        (lambda s: s.on_close(lambda peer: None), TypeError, r"\(peer, code, reason\)"),
        (lambda s: s.http("/")(lambda a, b: None), TypeError, r"http\(request\)"),
        (lambda s: s.on_message("a b"), ValueError, "name of a sub-protocol"),
        (lambda s: s.on_message(7), TypeError, "on_message must be a function, not int"),
        (lambda s: s.http("health"), ValueError, "must begin with '/'"),
        (lambda s: s.method(lambda a: a), None, ""),
        (lambda s: [s.on_open(lambda p: None) for _ in "12"], ValueError, "an on_open for clients"),
        (lambda s: [s.method("a")(len) for _ in "12"], ValueError, "is already a method 'a'"),
        (lambda s: [s.http("/")(lambda: None) for _ in "12"], ValueError, "already has a handler"),
        (lambda s: s.server, WebSocketsError, "is not running: call run"),
        (lambda s: s.status(), WebSocketsError, "is not running: call run"),
        (lambda s: Server("x"), ValueError, "port must"),
        (lambda s: Server(0, address=1), TypeError, "address must be a str"),  # type: ignore[arg-type]
        (lambda s: Server(0, tls="cert.pem"), TypeError, "tls must"),  # type: ignore[arg-type]
        (lambda s: setattr(s, "on_mesage", len), AttributeError, "did you mean 'on_message'"),
        (lambda s: setattr(s, "on_message", len), AttributeError, "use it as a decorator"),
        (lambda s: setattr(s, "port", 1), AttributeError, "it is read-only"),
        (lambda s: setattr(s, "zzz", 1), AttributeError, "it does not exist"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_set(
    server: Server, register: Callable[[Server], Any], error: type[Exception] | None, text: str
) -> None:
    """In a sentence that says what is meant."""
    if error is None:
        register(server)
    else:
        with pytest.raises(error, match=text):
            register(server)


def test_what_is_registered_while_it_runs_is_there_at_once(
    server: Server, connect: Connect
) -> None:
    """As in a program that starts it first."""
    server.start()
    with pytest.raises(WebSocketsError, match="is already running"):
        server.start()
    server.on_message("late")(lambda peer, message: peer.send("here"))
    client = connect("late")
    client.send("x")
    assert client.recv() == "here"


def test_tls_is_the_certificate_and_its_key(tmp_path: Path) -> None:
    """Or a context of one's own."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    server = Server(0, address=HOST, settings=fast_settings(), tls=(certificate, key))
    server.on_message(lambda peer, message: peer.send(message))
    with server:
        client = websocket.create_connection(
            f"wss://localhost:{server.port}",
            sslopt={"context": authority.client_context()},
            timeout=BOUND,
        )
        client.send("x")
        assert client.recv() == "x"
        client.close(timeout=BOUND)


def test_limits_and_origins_are_those_of_the_settings() -> None:
    """The settings are the server's underneath."""
    settings = fast_settings(allowed_origins={"https://a.example"}, max_connections=1)
    server = Server(f"{HOST}:0", settings=settings)
    server.on_open(lambda peer: None)
    with server:
        uri = f"ws://{HOST}:{server.port}"
        assert server.server.settings is settings
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            websocket.create_connection(uri, origin="https://b.example", timeout=BOUND)
        wait_for(lambda: server.status().sockets == 0)
        client = websocket.create_connection(uri, origin="https://a.example", timeout=BOUND)
        with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
            websocket.create_connection(uri, origin="https://a.example", timeout=BOUND)
        client.close(timeout=BOUND)
