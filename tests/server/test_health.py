"""Health checks: who is told that the server serves, and when it says that it does not."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from support import BOUND, HOST, RawClient, echo_server, wait_for
from support.tls import Authority

from mormot_ws import (
    Server,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
    server_tls_context,
)


def ask(port: int, request: str = "GET /health HTTP/1.1") -> tuple[int, bytes, dict[str, str]]:
    """Send a request; return status, body and headers of the answer."""
    with RawClient(port) as client:
        client.send(f"{request}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = client.read_head()
        return head.status, client.read_to_end(), head.headers


@pytest.mark.parametrize(
    ("method", "body"), [("GET", b"ok\n"), ("HEAD", b""), ("OPTIONS", b"ok\n")]
)
def test_a_server_that_serves_is_healthy(method: str, body: bytes) -> None:
    """HAProxy asks with OPTIONS or HEAD, Kubernetes, nginx and AWS with GET; nothing is cached."""
    with echo_server(health_path="/health") as server:
        status, content, headers = ask(server.port, f"{method} /health HTTP/1.1")
        assert (status, content, headers["cache-control"]) == (200, body, "no-store")
        assert headers["content-length"] == "3"


def test_http_1_0_is_enough() -> None:
    """HAProxy's checks are of HTTP/1.0 where nothing else is configured, and have no Host."""
    with echo_server(health_path="/health") as server, RawClient(server.port) as client:
        client.send(b"OPTIONS /health HTTP/1.0\r\n\r\n")
        assert client.read_head().status == 200
        assert client.read_to_end() == b"ok\n"


def test_a_query_and_a_kept_connection_are_fine() -> None:
    """A check may come on the connection of the last one."""
    with echo_server(health_path="/health") as server, RawClient(server.port) as client:
        for _ in range(3):
            client.send(b"GET /health?from=elb HTTP/1.1\r\nHost: x\r\n\r\n")
            head, body = client.read_answer()
            assert (head.status, body) == (200, b"ok\n")


def test_another_method_is_not_allowed() -> None:
    """And is told which are."""
    with echo_server(health_path="/health") as server:
        status, _, headers = ask(server.port, "DELETE /health HTTP/1.1")
        assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_without_the_setting_the_application_is_asked() -> None:
    """No path is taken from it unasked."""
    with echo_server() as server:
        server.on_request = lambda ctxt: 299
        assert ask(server.port)[0] == 299


def test_other_paths_are_the_applications() -> None:
    """Also longer ones."""
    with echo_server(health_path="/health") as server:
        server.on_request = lambda ctxt: 299
        assert ask(server.port, "GET /health/x HTTP/1.1")[0] == 299


def test_an_upgrade_on_that_path_is_one() -> None:
    """A protocol may have the same URI."""
    with echo_server(health_path="/health") as server, RawClient(server.port) as client:
        client.upgrade("/health")


def test_hosts_and_origins_do_not_matter() -> None:
    """Checks come by the address of the machine, with any Host or none."""
    with echo_server(
        health_path="/health", allowed_hosts={"app.example"}, allowed_origins=set()
    ) as server:
        assert ask(server.port)[0] == 200


def test_a_server_that_is_not_ready_says_so_and_goes_on() -> None:
    """Set before a restart, it makes balancers send visitors elsewhere; nothing else changes."""
    with echo_server(health_path="/health") as server:
        server.is_ready = False
        assert ask(server.port)[:2] == (503, b"not ready\n")
        with RawClient(server.port) as client:
            client.upgrade()
        server.is_ready = True
        assert ask(server.port)[0] == 200


def test_a_full_server_is_not_healthy() -> None:
    """The next visitor would be turned away. The connection of the check counts as well."""
    with echo_server(health_path="/health", max_connections=2) as server:
        with RawClient(server.port) as client:
            client.upgrade()
            with RawClient(server.port) as kept:
                kept.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                head, body = kept.read_answer()
                assert (head.status, body) == (503, b"too many connections\n")
                assert head.headers["connection"] == "close"
                # a check that comes anew gets 503 unread
                assert ask(server.port)[0] == 503
        wait_for(lambda: not server.status().sockets)
        assert ask(server.port)[0] == 200


def test_a_server_that_leaves_its_visitors_is_not_healthy() -> None:
    """While another OS process accepts on its listening socket."""
    with echo_server(health_path="/health") as server, RawClient(server.port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer()[0].status == 200
        server.leave_visitors()
        client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer()[1] == b"stopping\n"


def test_callbacks_that_block_and_locks_that_are_held_do_not_delay_it() -> None:
    """The answer needs neither: not the tables' lock, nor one that a callback has."""
    inside, leave = threading.Event(), threading.Event()

    def block(process: object, frame: object) -> None:
        inside.set()
        leave.wait(BOUND)

    with (
        echo_server(0, block, health_path="/health") as server,
        RawClient(server.port) as client,
        RawClient(server.port) as kept,
    ):
        kept.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        kept.read_answer()
        client.upgrade()
        assert inside.wait(BOUND)
        try:
            with server._safe_connections:
                kept.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert kept.read_answer()[0].status == 200
        finally:
            leave.set()


def tls_server(folder: Path) -> tuple[WebSocketServer, Authority]:
    """Return a server that wants certificates of its clients."""
    authority = Authority(folder)
    server = echo_server(health_path="/health")
    server.tls_context = server_tls_context(
        authority.certificate_file, authority.private_key_file, ca_certificates_file=authority.file
    )
    return server, authority


def test_a_port_with_tls_answers_a_plain_check(tmp_path: Path) -> None:
    """The check needs neither TLS nor a certificate; other plain requests are refused."""
    server, _ = tls_server(tmp_path)
    with server:
        server.on_request = lambda ctxt: 299
        assert ask(server.port)[:2] == (200, b"ok\n")
        assert ask(server.port, "GET / HTTP/1.1")[:2] == (400, b"this port is for TLS\n")
        with RawClient(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
            assert client.read_answer()[0].status == 400


def test_a_port_with_tls_serves_tls_behind_the_look(tmp_path: Path) -> None:
    """The first byte is looked at, not taken; a check by TLS is answered too."""
    server, authority = tls_server(tmp_path)
    context = ssl.create_default_context(cafile=authority.file)
    context.load_cert_chain(*authority.issue("client"))
    with (
        server,
        socket.create_connection((HOST, server.port), BOUND) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_visitor_of_a_tls_port_who_says_nothing_is_cut(tmp_path: Path) -> None:
    """After handshake_timeout, as everywhere."""
    server, _ = tls_server(tmp_path)
    with server:
        server.settings.handshake_timeout = 150
        with RawClient(server.port) as client:
            assert client.read_to_end() == b""
        wait_for(lambda: not server.status().sockets)


def test_the_front_door_has_it() -> None:
    """By its settings, beside its own paths."""
    server = Server(0, address=HOST, settings=WebSocketProcessSettings(health_path="/live"))
    server.http("/live")(lambda: "shadowed")
    server.http("/other")(lambda: "mine")
    with server:
        assert ask(server.port, "GET /live HTTP/1.1")[:2] == (200, b"ok\n")
        assert ask(server.port, "GET /other HTTP/1.1")[:2] == (200, b"mine")


@pytest.mark.parametrize("path", ["health", "/a b", "/a?b", "/a#b", "/ä", 5, None])
def test_a_path_that_cannot_be_one_is_refused(path: object) -> None:
    """At once, by name."""
    with pytest.raises(ValueError, match="health_path"):
        WebSocketProcessSettings(health_path=path)  # type: ignore[arg-type]


def test_is_ready_is_a_bool() -> None:
    """A misspelt or wrong value is refused where it stands."""
    with echo_server() as server, pytest.raises(TypeError, match="is_ready"):
        server.is_ready = 0  # type: ignore[assignment]


def test_the_root_can_be_the_path() -> None:
    """Where a balancer cannot be told another one."""
    with WebSocketServer(f"{HOST}:0", settings=WebSocketProcessSettings(health_path="/")) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo"))
        assert ask(server.port, "OPTIONS / HTTP/1.1")[0] == 200
