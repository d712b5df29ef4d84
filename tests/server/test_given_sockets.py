"""Servers on sockets that somebody else has opened, and on ports that servers share."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    ROOT,
    RawClient,
    echo,
    exchange,
    fast_settings,
    upgraded,
    wait_for,
)

from mormot_ws import HttpServerError, WebSocketProtocolChat, WebSocketServer
from mormot_ws.server.handed_over import systemd_sockets

posix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors cannot be passed on")
shared = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="ports cannot be shared")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that listens; closed at the end."""
    with socket.create_server((HOST, 0)) as sock:
        yield sock


def offer_echo(server: WebSocketServer) -> None:
    """Set up a server."""
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))


def server_on(port: str | int | None = None, **options: Any) -> WebSocketServer:
    """Return a server that echoes; free it."""
    return WebSocketServer(port, settings=fast_settings(), prepare=offer_echo, **options)


def serves(port: int | str) -> bool:
    """Tell whether a new client is served there."""
    with upgraded(port) as client:
        return exchange(client, ["x"]) == ["x"]


# ------------------------------------------------------------------------------------------ socket=


def test_a_given_socket_is_listened_on_and_closed_at_the_end(listening: socket.socket) -> None:
    """It belongs to the server; host and port are its own."""
    port = listening.getsockname()[1]
    with server_on(socket=listening) as server:
        assert (server.host, server.port) == (HOST, port)
        assert serves(port)
    assert listening.fileno() == -1


def test_several_given_sockets_are_listened_on(tmp_path: Path) -> None:
    """Of different kinds, as a proxy and a visitor want them."""
    first, second = socket.create_server((HOST, 0)), socket.create_server((HOST, 0))
    ports: list[int | str] = [each.getsockname()[1] for each in (first, second)]
    sockets = [first, second]
    if hasattr(socket, "AF_UNIX"):
        third = socket.socket(socket.AF_UNIX)
        third.bind(str(tmp_path / "x.sock"))
        third.listen()
        sockets.append(third)
        ports.append(str(tmp_path / "x.sock"))
    with server_on(socket=sockets) as server:
        assert [serves(port) for port in ports] == [True] * len(ports)
        assert server.port == ports[0]
    # who has made the file removes it
    assert (tmp_path / "x.sock").exists() is hasattr(socket, "AF_UNIX")


def test_what_another_process_has_of_the_socket_goes_on(listening: socket.socket) -> None:
    """A server that ends closes its own descriptor only; visitors wait for the other one."""
    port = listening.getsockname()[1]
    with socket.socket(fileno=os.dup(listening.fileno())) as other:
        server_on(socket=listening).free()
        with RawClient(port) as waiting:
            waiting.send(RawClient.request())
            with server_on(socket=other):
                assert waiting.read_head().status == 101


def test_two_servers_may_accept_from_one_socket(listening: socket.socket) -> None:
    """As processes do that were given the same one: nobody is served twice, or not at all."""
    port = listening.getsockname()[1]
    other = socket.socket(fileno=os.dup(listening.fileno()))
    with (
        server_on(socket=listening) as first,
        server_on(socket=other) as second,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(20):
            stack.enter_context(upgraded(port))
        wait_for(lambda: first.websocket_connections + second.websocket_connections == 20)


def test_a_socket_that_blocks_is_made_one_that_does_not(listening: socket.socket) -> None:
    """A visitor who has left must not keep the server from noticing its end."""
    listening.settimeout(None)
    server = server_on(socket=listening)
    assert listening.gettimeout() == 0
    freeing = threading.Thread(target=server.free)
    freeing.start()
    freeing.join(BOUND)
    assert not freeing.is_alive()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (list, ValueError, "not an empty list"),
        (lambda: "unix:/x", TypeError, "socket must be"),
        (lambda: 3, TypeError, "socket must be"),
        (lambda: [None], TypeError, "socket must be"),
        (socket.socket, ValueError, "is not listening"),
        (lambda: socket.socket(type=socket.SOCK_DGRAM), ValueError, "not a TCP or Unix"),
    ],
)
def test_what_is_not_a_listening_socket_is_refused(make: Any, error: Any, text: str) -> None:
    """By the constructor, which leaves it alone."""
    given = make()
    with pytest.raises(error, match=text):
        server_on(socket=given)
    if isinstance(given, socket.socket):
        assert given.fileno() >= 0
        given.close()


def test_a_closed_socket_is_refused(listening: socket.socket) -> None:
    """E.g. one that belonged to a server before."""
    listening.close()
    with pytest.raises(ValueError, match="is closed"):
        server_on(socket=listening)


def test_a_tls_socket_is_refused(listening: socket.socket) -> None:
    """The server does TLS itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with (
        context.wrap_socket(listening, server_side=True) as wrapped,
        pytest.raises(TypeError, match="tls_context"),
    ):
        server_on(socket=wrapped)


def test_a_port_and_a_socket_are_one_too_many(listening: socket.socket) -> None:
    """And none is one too few."""
    for options in ({"port": 0, "socket": listening}, {}):
        with pytest.raises(ValueError, match="port must be given, unless you pass socket"):
            server_on(**options)
    assert listening.fileno() >= 0


# ------------------------------------------------------------------------------------- descriptors

_PASSED = """
import os, sys
sys.path.insert(0, "tests")
from support import echo
from mormot_ws import WebSocketProtocolChat, {server} as Server
os.environ["LISTEN_PID"] = str(os.getpid())

def offer_echo(server):
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))

servers = [Server(port, prepare=offer_echo) for port in sys.argv[1:]]
for server in servers:
    print(server.address, flush=True)
sys.stdin.read()
for server in servers:
    server.free()
print([os.fstat(3 + at).st_ino > 0 for at in range(len(servers))], os.get_inheritable(3))
"""


@contextlib.contextmanager
def activated(
    sockets: list[socket.socket], *ports: str, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run servers in a process that gets *sockets* as descriptors 3, 4, …, as systemd does it."""

    # a shell moves them: dup2() in preexec_fn would be unsafe with threads
    numbers = [sock.fileno() for sock in sockets]
    moves = " ".join(f"{100 + at}<&{number}" for at, number in enumerate(numbers))
    back = " ".join(f"{3 + at}<&{100 + at}" for at in range(len(numbers)))
    source = _PASSED.replace("{server}", WebSocketServer.__name__)
    command = ["bash", "-c", f'exec {moves}; exec {back}; exec "$@"', "bash"]
    environment = {**os.environ, "LISTEN_FDS": str(len(sockets)), **variables}
    child = subprocess.Popen(
        [*command, sys.executable, "-c", source, *ports],
        pass_fds=numbers,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


@posix
def test_sockets_of_systemd_are_listened_on(listening: socket.socket) -> None:
    """All of them by ``systemd:``; they stay open, and are not inherited by what we start."""
    with (
        socket.create_server((HOST, 0)) as second,
        activated([listening, second], "systemd:") as child,
    ):
        assert child.stdout is not None
        port = listening.getsockname()[1]
        assert child.stdout.readline() == f"{HOST}:{port}\n"
        assert serves(port)
        assert serves(second.getsockname()[1])
        output, errors = child.communicate("", BOUND)
        assert output == "[True] False\n", errors


@posix
def test_sockets_of_systemd_have_names(listening: socket.socket) -> None:
    """``systemd:name`` takes those with that name; a descriptor can be named by its number."""
    with (
        socket.create_server((HOST, 0)) as second,
        activated(
            [listening, second], "systemd:chat", "fd://3", LISTEN_FDNAMES="admin:chat"
        ) as child,
    ):
        assert child.stdout is not None
        ports = [sock.getsockname()[1] for sock in (listening, second)]
        assert [child.stdout.readline() for _ in ports] == [
            f"{HOST}:{ports[1]}\n",
            f"{HOST}:{ports[0]}\n",
        ]
        assert all(serves(port) for port in ports)


@posix
@pytest.mark.threaded
@pytest.mark.parametrize(
    ("port", "text"),
    [
        ("systemd:other", "no socket with the name 'other'"),
        ("fd://99", "descriptor 99 is not a socket"),
        ("fd://0", "descriptor 0 is not"),
    ],
)
def test_what_was_not_passed_is_an_error_that_says_so(
    listening: socket.socket, port: str, text: str
) -> None:
    """In the constructor."""
    with activated([listening], port, LISTEN_FDNAMES="chat") as child:
        _, errors = child.communicate("", BOUND)
    assert child.returncode == 1
    assert "HttpServerError" in errors
    assert text in errors


def test_without_systemd_there_are_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor with the variables of a parent, which is what ``LISTEN_PID`` is for."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert systemd_sockets() == []
    monkeypatch.delenv("LISTEN_PID")
    assert systemd_sockets() == []
    with pytest.raises(HttpServerError, match="systemd has passed no socket to this process"):
        server_on("systemd:")


@pytest.mark.parametrize("count", ["x", "-1", "", "9" * 30])
def test_a_count_that_is_no_number_is_an_error(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has set the variable."""
    monkeypatch.setenv("LISTEN_FDS", count)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(HttpServerError, match="LISTEN_FDS must be a number"):
        systemd_sockets()


@pytest.mark.parametrize("port", ["fd://", "fd://x", "fd://-1", "fd://٣"])
def test_what_is_no_descriptor_is_a_value_error(port: str) -> None:
    """By the constructor."""
    with pytest.raises(ValueError, match="a descriptor must"):
        WebSocketServer(port)


@posix
def test_a_server_on_a_descriptor_can_be_started_again(listening: socket.socket) -> None:
    """It closes its own copy only."""
    for _ in range(2):
        with server_on(f"fd://{listening.fileno()}") as server:
            assert serves(server.port)


# -------------------------------------------------------------------------------------- reuse_port


@shared
def test_servers_with_reuse_port_share_a_port() -> None:
    """All of them accept, and one that ends does not disturb the other."""
    with server_on(f"{HOST}:0", reuse_port=True) as first:
        with server_on(f"{HOST}:{first.port}", reuse_port=True) as second:
            assert second.port == first.port
            with contextlib.ExitStack() as stack:
                for _ in range(64):
                    stack.enter_context(upgraded(first.port))
                wait_for(lambda: first.websocket_connections + second.websocket_connections == 64)
                if sys.platform == "linux":
                    assert first.websocket_connections
                    assert second.websocket_connections
        assert serves(first.port)


@shared
def test_servers_with_reuse_port_share_a_port_of_all_addresses() -> None:
    """In both families."""
    with server_on(0, reuse_port=True) as first:
        with server_on(first.port, reuse_port=True) as second:
            assert len(second._listener.sockets) == len(first._listener.sockets)
        assert serves(first.port)


@shared
def test_a_port_is_shared_only_by_those_who_want_it() -> None:
    """With one that does not, it is taken, whichever comes first; the error says why."""
    for first_shares in (True, False):
        with server_on(f"{HOST}:0", reuse_port=first_shares) as first:
            with pytest.raises(HttpServerError, match="listen") as raised:
                server_on(f"{HOST}:{first.port}", reuse_port=not first_shares)
            if not first_shares:
                assert "without reuse_port" in str(raised.value)


def test_a_system_that_cannot_share_ports_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows."""
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ValueError, match="cannot share a port"):
        WebSocketServer(0, reuse_port=True)
