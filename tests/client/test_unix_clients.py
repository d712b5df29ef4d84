"""Clients on Unix sockets: addresses and URIs, waits, reconnections, what the server is told."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import BOUND, MS, Recorder, echo, fast_settings, ms, send_text, wait_for
from support.tls import Authority

import mormot_ws
from mormot_ws import (
    CrtSocket,
    HttpClientWebSockets,
    WebSocketProtocolChat,
    WebSocketServer,
)
from mormot_ws.client.arguments import parse_websocket_uri
from mormot_ws.core.addresses import shown_target, unix_address, unix_name, websocket_uri
from mormot_ws.core.names import wire_authority, wire_host
from mormot_ws.reconnect_policies import FailureKind, failure_kind

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a socket file."""
    return tmp_path / "ws.sock"


def offer_echo(server: WebSocketServer) -> None:
    """Set up a server."""
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))


def serve(path: Path, **options: Any) -> WebSocketServer:
    """Return a server on a Unix socket that echoes; free it."""
    settings = fast_settings(**options.pop("settings", {}))
    return WebSocketServer(f"unix:{path}", settings=settings, prepare=offer_echo, **options)


@pytest.fixture
def server(path: Path) -> Iterator[WebSocketServer]:
    """Such a server, freed at the end."""
    with serve(path) as server:
        yield server


def echoes(client: HttpClientWebSockets, recorder: Recorder) -> bool:
    """Tell whether a message comes back."""
    before = len(recorder.all("focText"))
    return send_text(client, "x") and bool(recorder.wait("focText", before + 1))


# ------------------------------------------------------------------------------------ connecting


def test_open_and_upgrade(server: WebSocketServer, path: Path, recorder: Recorder) -> None:
    """The address is written as for a server; there is no port."""
    with HttpClientWebSockets.open(f"unix:{path}", settings=fast_settings()) as client:
        assert client.connected
        protocol = WebSocketProtocolChat("echo", "", recorder.frame)
        assert client.websockets_upgrade("", protocol=protocol) == ""
        assert echoes(client, recorder)
        assert (client.host, client.port) == (f"unix:{path}", 0)
        assert client.websockets is not None
        assert client.websockets.remote_ip == "unix:"
        assert f" unix:{path} connected" in repr(client)
        assert client.status().host == f"unix:{path}"


@pytest.mark.parametrize(
    "arguments",
    [
        lambda path, protocol: {"host": f"ws+unix:{path}:/room", "protocol": protocol},
        lambda path, protocol: {"host": f"ws+unix://{path}:/room", "port": protocol},
        lambda path, protocol: {"host": f"unix:{path}", "port": protocol, "uri": "room"},
        lambda path, protocol: {"host": f"unix:{path}", "protocol": protocol, "uri": "room"},
    ],
)
def test_connect_in_one_call(server: WebSocketServer, path: Path, arguments: Any) -> None:
    """By a URI, and by an address."""
    protocol = WebSocketProtocolChat("echo")
    client = HttpClientWebSockets.websockets_connect(**arguments(path, protocol))
    assert client is not None
    with client:
        assert protocol.upgrade_uri == "room"


def test_the_front_door_connects(server: WebSocketServer, path: Path) -> None:
    """``connect()`` takes such a URI; its repr shows it without the query."""
    with mormot_ws.connect(f"ws+unix:{path}:/x?token=1", protocol="echo") as ws:
        ws.send("hello")
        assert ws.recv(timeout=BOUND) == "hello"
        assert repr(ws) == f"<Connection ws+unix:{path}:/x?… connected>"


def test_a_function_may_lead_to_a_unix_socket(server: WebSocketServer, path: Path) -> None:
    """And from a port to there."""
    uris = [f"ws+unix:{path}:/x"]
    with mormot_ws.connect(lambda: uris[0], protocol="echo") as ws:
        ws.send("hello")
        assert ws.recv(timeout=BOUND) == "hello"


def test_a_plain_request_goes_over_it(server: WebSocketServer, path: Path) -> None:
    """The ``Host`` is localhost, which is what ``allowed_hosts`` has to have."""
    hosts: list[str] = []

    def on_request(context: Any) -> int:
        hosts.append(context.in_headers)
        return 200

    server.on_request = on_request
    with HttpClientWebSockets.open(f"unix:{path}", settings=fast_settings()) as client:
        assert client.request("/x") == 200
    assert "localhost\r\n" in f"{hosts[0]}\r\n"


def test_tls_on_a_unix_socket(path: Path, tmp_path: Path, recorder: Recorder) -> None:
    """``wss+unix:``, with a certificate for localhost."""
    authority = Authority(tmp_path)
    with (
        serve(path, tls_context=authority.server_context()),
        mormot_ws.connect(
            f"wss+unix:{path}:/", protocol="echo", tls=authority.client_context()
        ) as ws,
    ):
        ws.send("secret")
        assert ws.recv(timeout=BOUND) == "secret"


def test_a_client_comes_back(path: Path, recorder: Recorder) -> None:
    """When the server does, with a new file."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serve(path))
        client = stack.enter_context(
            HttpClientWebSockets.open(f"unix:{path}", settings=fast_settings())
        )
        protocol = WebSocketProtocolChat("echo", "", recorder.frame)
        assert client.websockets_upgrade("", protocol=protocol) == ""
        client.auto_reconnect()
        first.free()
        wait_for(lambda: client.status().attempts > 1)
        stack.enter_context(serve(path))
        wait_for(lambda: client.status().reconnects == 1)
        assert echoes(client, recorder)


def test_a_relative_path_means_the_same_after_chdir(
    server: WebSocketServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of the moment in which the client was made."""
    monkeypatch.chdir(path.parent)
    with CrtSocketOn("unix:ws.sock") as client:
        monkeypatch.chdir("/")
        assert client.reopen() == ""
        assert client.host == f"unix:{path}"


class CrtSocketOn(CrtSocket):
    """A connection that is opened for a block, and closed at its end."""

    def __enter__(self) -> CrtSocketOn:
        self.reopen()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@pytest.mark.parametrize("left_behind", [False, True], ids=["no file", "a stale file"])
def test_where_nobody_listens_it_is_refused(path: Path, left_behind: bool) -> None:
    """As on a port: a failure of that kind, not another one."""
    if left_behind:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    with CrtSocketOn(f"unix:{path}") as client:
        assert not client.connected
        assert client.last_exception is not None
        assert failure_kind(client.last_exception) is FailureKind.refused


def test_a_busy_server_is_waited_for(path: Path) -> None:
    """Its queue is full, which the kernel tells at once; the client tries until the time-out."""
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex(str(path)):
                break
        began = time.monotonic()
        client = stack.enter_context(CrtSocketOn(f"unix:{path}", timeout=ms(150)))
        assert isinstance(client.last_exception, TimeoutError)
        assert time.monotonic() - began >= 0.1
        opening = threading.Thread(target=client.reopen, args=(ms(5000),))
        opening.start()
        # until there is room, the client and those who wait
        while not client.connected:
            busy.settimeout(20 * MS)
            with contextlib.suppress(TimeoutError):
                stack.enter_context(busy.accept()[0])
        opening.join(BOUND)


def test_free_ends_the_wait_for_a_busy_server(path: Path) -> None:
    """At once, whatever the time-out is."""
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex(str(path)):
                break
        client = HttpClientWebSockets(
            f"unix:{path}", timeout=ms(60_000), settings=fast_settings(), connect=False
        )
        client.auto_reconnect("", protocol=WebSocketProtocolChat("echo"))
        wait_for(lambda: client._dialling is not None)
        began = time.monotonic()
        client.free()
        assert time.monotonic() - began < 2


def test_a_file_that_may_not_be_written_to_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permissions of the file are the reason, not the server."""

    class Refused(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return errno.EACCES

    monkeypatch.setattr("mormot_ws.sockets.dialling.socket.socket", Refused)
    with CrtSocketOn(f"unix:{path}") as client:
        assert isinstance(client.last_exception, PermissionError)


def test_a_proxy_of_the_environment_is_not_for_it(
    server: WebSocketServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on this machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    with CrtSocketOn(f"unix:{path}") as client:
        assert client.connected


def test_a_proxy_for_it_is_a_value_error(server: WebSocketServer, path: Path) -> None:
    """Set later it is a failure, in words."""
    with pytest.raises(ValueError, match="through a proxy"):
        CrtSocket(f"unix:{path}", proxy="http://127.0.0.1:1")
    with CrtSocketOn(f"unix:{path}") as client:
        client.proxy = "http://127.0.0.1:1"
        assert "through a proxy" in client.reopen()


def test_a_python_without_unix_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(socket, "AF_UNIX")
    with CrtSocketOn("unix:/tmp/x.sock") as client:
        assert "this Python has no Unix sockets" in client.last_error


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("unix:", 0),
        ("unix:@", 0),
        ("unix:/a\0", 0),
        ("unix:/x", 80),
        ("unix:/x", "80"),
        ("/x", 0),
        ("host", ""),
        ("host", "٣"),
    ],
)
def test_what_can_never_work_is_a_value_error(host: str, port: Any) -> None:
    """At once."""
    with pytest.raises(ValueError, match=r"Unix socket|port must|host must"):
        CrtSocket(host, port)


# ------------------------------------------------------------------------------------------- URIs


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("ws+unix:/run/x.sock:/chat", ("unix:/run/x.sock", 0, "chat", False)),
        ("ws+unix:///run/x.sock:/chat?a=b:c", ("unix:/run/x.sock", 0, "chat?a=b:c", False)),
        ("wss+unix:/run/x.sock:/", ("unix:/run/x.sock", 0, "", True)),
        ("WS+UNIX:/run/x.sock", ("unix:/run/x.sock", 0, "", False)),
        ("ws+unix:/run/x.sock:", ("unix:/run/x.sock", 0, "", False)),
        ("ws+unix:/run/x.sock:?a=1", ("unix:/run/x.sock", 0, "?a=1", False)),
        ("ws+unix:@name:/chat", ("unix:@name", 0, "chat", False)),
        ("ws+unix://@name:/chat", ("unix:@name", 0, "chat", False)),
        ("ws+unix:x.sock:/chat", ("unix:x.sock", 0, "chat", False)),
        ("ws+unix:/a%3Ab%20c.sock:/x%20y", ("unix:/a:b c.sock", 0, "x%20y", False)),
    ],
)
def test_a_uri_is_taken_apart(uri: str, parsed: tuple[str, int, str, bool]) -> None:
    """The file up to the colon, then the resource, as the package ws for Node.js has it."""
    assert parse_websocket_uri(uri) == parsed


@pytest.mark.parametrize(
    "uri",
    [
        "ws+unix:",
        "ws+unix://",
        "ws+unix::/x",
        "ws+unix:/x?a=1",
        "ws+unix:/x:y",
        "ws+unix:/x:/y#z",
        "ws+unix:/x%00:/y",
        "unix:/x:/y",
    ],
)
def test_what_is_no_uri_is_a_value_error(uri: str) -> None:
    """It says how one looks like."""
    with pytest.raises(ValueError, match="is not a"):
        parse_websocket_uri(uri)


@pytest.mark.parametrize("host", ["unix:/run/x.sock", "unix:@name", "unix:/a:b c%.sock", "unix:/é"])
def test_a_uri_that_was_made_is_understood(host: str) -> None:
    """Whatever characters the path has."""
    assert parse_websocket_uri(websocket_uri(host, 0, "x?y", True)) == (host, 0, "x?y", True)


def test_names_and_addresses() -> None:
    """As the kernel has them, and as we show them."""
    assert unix_name("unix:@x") == "\0x"
    assert unix_address(b"\0x") == unix_address("\0x") == "unix:@x"
    assert unix_address("/x") == shown_target("unix:/x", 0) == "unix:/x"
    assert shown_target("h", 1) == "h:1"
    assert wire_host("unix:/x") == wire_authority("unix:/x", 0, 80) == "localhost"
    assert websocket_uri("::1", 8, "x", False) == "ws://[::1]:8/x"


# --------------------------------------------------------------------------------- the front door


def test_a_server_of_the_front_door_on_a_unix_socket(path: Path) -> None:
    """Again after its end."""
    server = mormot_ws.Server(address=f"unix:{path}", unix_mode=0o600, settings=fast_settings())
    server.on_message("echo")(lambda peer, message: peer.send(message))
    assert server.address == f"unix:{path}"
    assert repr(server) == f"<Server unix:{path} not running>"
    for _ in range(2):
        with server, mormot_ws.connect(f"ws+unix:{path}:/", protocol="echo") as ws:
            ws.send("hello")
            assert ws.recv(timeout=BOUND) == "hello"
            assert [peer.remote_ip for peer in server.peers] == ["unix:"]
            assert path.stat().st_mode & 0o777 == 0o600
            assert repr(server) == f"<Server unix:{path} peers=1>"
            assert server.port == 0
        assert not path.exists()


def test_a_server_of_the_front_door_on_a_given_socket() -> None:
    """Once: it closes it."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        server = mormot_ws.Server(socket=given, settings=fast_settings())
        server.on_message("echo")(lambda peer, message: peer.send(message))
        with server, mormot_ws.connect(f"ws://127.0.0.1:{port}/", protocol="echo") as ws:
            ws.send("hello")
            assert ws.recv(timeout=BOUND) == "hello"
            assert server.port == port
        with pytest.raises(mormot_ws.HttpServerError, match="the socket is closed"):
            server.start()


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="ports cannot be shared")
def test_servers_of_the_front_door_share_a_port() -> None:
    """With ``reuse_port``."""
    with mormot_ws.Server(0, address="127.0.0.1", reuse_port=True) as first:
        assert first.address == f"127.0.0.1:{first.port}"
        with mormot_ws.Server(first.port, address="127.0.0.1", reuse_port=True) as second:
            assert second.port == first.port


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"address": "127.0.0.1"},
        {"port": 0, "address": "unix:/x"},
        {"port": 1, "address": "systemd:"},
        {"address": "unix:/x", "reuse_port": True},
        {"port": 0, "unix_mode": 0o600},
    ],
)
def test_arguments_that_make_no_sense_together(arguments: dict[str, Any]) -> None:
    """Are refused where they stand."""
    with pytest.raises(ValueError, match=r"port|unix_mode"):
        mormot_ws.Server(**arguments)


def test_frames_of_a_large_message_arrive(
    server: WebSocketServer, path: Path, recorder: Recorder
) -> None:
    """In more pieces than the kernel takes at once, both ways."""
    with mormot_ws.connect(f"ws+unix:{path}:/", protocol="echo") as ws:
        for size in (70_000, 3_000_000):
            ws.send("x" * size)
            assert len(ws.recv(timeout=BOUND)) == size
