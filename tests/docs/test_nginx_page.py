"""docs/how-to/nginx.md is true: its configuration, as it stands there, in a real nginx, between a
server and a client of ours.
"""

from __future__ import annotations

import re
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import HOST, ROOT, Recorder, echo, fast_settings, ms, send_text, wait_for
from support.children import fixed_port
from support.nginx import RunningNginx
from support.pages import blocks_of
from support.tls import Authority

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketServer,
    close_payload,
)

PAGE = "docs/how-to/nginx.md"
LISTEN = "docs/how-to/listen.md"


class Nginx(RunningNginx):
    """A real nginx with the page's site in *folder*; *changes* replace texts in it."""

    def __init__(self, folder: Path, changes: dict[str, str] | None = None) -> None:
        (site,) = [
            block.code
            for block in blocks_of((ROOT / PAGE).read_text(encoding="utf-8"), PAGE)
            if block.language == "nginx"
        ]
        self.authority = Authority(folder)
        shutil.copy(self.authority.certificate_file, folder / "server.pem")
        shutil.copy(self.authority.private_key_file, folder / "server-key.pem")
        self.backend, port, self.tls_port = (fixed_port() for _ in range(3))
        for number, free in ((8999, self.backend), (8080, port), (8443, self.tls_port)):
            site, count = re.subn(rf"\b{number}\b", str(free), site)
            assert count == 1, number
        for old, new in (changes or {}).items():
            assert site.count(old) == 1, old
            site = site.replace(old, new)
        super().__init__(folder, site, port)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """The page's nginx."""
    with Nginx(tmp_path) as nginx:
        yield nginx


def serve(nginx: Nginx, **settings: object) -> WebSocketServer:
    """Return the server behind *nginx*; it remembers addresses as the page's does."""

    def remember_address(protocol: WebSocketProtocol) -> int:
        protocol.connection_opaque = protocol.upgrade_header("X-Real-IP") or "none"
        return 200

    server = WebSocketServer(f"{HOST}:{nginx.backend}", settings=fast_settings(**settings))
    server.websocket_protocols.add(WebSocketProtocolChat("chat", "chat", echo))
    server.on_websocket_upgraded = remember_address
    return server


def connect(
    nginx: Nginx, recorder: Recorder, context: ssl.SSLContext | None = None, **settings: object
) -> HttpClientWebSockets:
    """Return a client that has gone through *nginx*, and reconnects by itself; with a *context* by
    TLS.
    """
    port = nginx.port if context is None else nginx.tls_port
    client = HttpClientWebSockets(
        "localhost",
        port,
        tls=context is not None,
        tls_context=context,
        settings=fast_settings(**settings),
    )
    protocol = WebSocketProtocolChat("chat", "", recorder.frame)
    error = client.websockets_upgrade("chat", "", False, frozenset(), protocol)
    if error:
        client.free()
        raise AssertionError(error)
    client.auto_reconnect()
    return client


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_messages_of_any_size_pass_with_and_without_tls(
    nginx: Nginx, recorder: Recorder, tls: bool
) -> None:
    context = nginx.authority.client_context() if tls else None
    deflate = {"permessage_deflate": tls}  # compressed or not, nginx does not look
    with serve(nginx, **deflate) as server, connect(nginx, recorder, context, **deflate) as client:
        for text in ("hello", "x" * 3_000_000):
            assert send_text(client, text)
        recorder.wait("focText", 2)
        assert server.status().bytes_in == 3_000_005


def test_the_server_learns_the_real_address(nginx: Nginx, recorder: Recorder) -> None:
    with serve(nginx) as server, connect(nginx, recorder):
        process = wait_for(
            lambda: next(iter(filter(None, map(server.is_active_websocket, range(1, 5)))), None)
        )
        assert process.protocol.connection_opaque in (HOST, "::1")


def test_a_unix_socket_behind_it_gets_messages_and_addresses(
    tmp_path: Path, recorder: Recorder
) -> None:
    """With the upstream of docs/how-to/listen.md, and a server that trusts ``unix:``."""
    path = tmp_path / "ws.sock"
    (upstream,) = [
        block.code
        for block in blocks_of((ROOT / LISTEN).read_text(encoding="utf-8"), LISTEN)
        if block.language == "nginx"
    ]
    (line,) = [line.strip() for line in upstream.splitlines() if "unix:" in line]
    line = line.replace("/run/chat/ws.sock", str(path))
    settings = fast_settings(remote_ip_header="X-Real-IP", trusted_proxies={"unix:"})
    server = WebSocketServer(f"unix:{path}", settings=settings)
    server.websocket_protocols.add(WebSocketProtocolChat("chat", "chat", echo))
    with (
        server,
        Nginx(tmp_path, {"server 127.0.0.1:": f"{line} # "}) as nginx,
        connect(nginx, recorder) as client,
    ):
        assert send_text(client, "x" * 300_000)
        recorder.wait("focText")
        assert [process.remote_ip for process in server.connections()] == [HOST]


def test_the_server_restarted_behind_it_is_found_again(nginx: Nginx, recorder: Recorder) -> None:
    """Goodbye with 1001; then 502 from nginx, which is a failed attempt; then the new server."""
    with serve(nginx) as server, connect(nginx, recorder) as client:
        server.free()
        wait_for(lambda: "502" in client.status().last_error)
        assert recorder.all("focConnectionClose")[0].value.payload == close_payload(
            1001, "server stopped"
        )
        with serve(nginx):
            wait_for(lambda: client.status().reconnects == 1)
            assert send_text(client, "hello")
            recorder.wait("focText")


def test_nginx_restarted_is_found_again(nginx: Nginx, recorder: Recorder) -> None:
    with serve(nginx), connect(nginx, recorder) as client:
        nginx.stop()
        wait_for(lambda: not client.status().connected)
        nginx.start()
        wait_for(lambda: client.status().reconnects == 1)


def test_heartbeats_keep_a_quiet_connection(tmp_path: Path, recorder: Recorder) -> None:
    """Below nginx's patience they keep it; without them nginx cuts it."""
    changes = {"proxy_read_timeout 60s": "proxy_read_timeout 1s"}
    with (
        Nginx(tmp_path, changes) as nginx,
        serve(nginx, heartbeat_delay=0),
        connect(nginx, recorder, heartbeat_delay=ms(200)) as kept,
        connect(nginx, Recorder(), heartbeat_delay=0) as cut,
    ):
        wait_for(lambda: cut.status().reconnects == 2)  # so more than two seconds have gone by
        assert kept.status().connected
        assert kept.status().reconnects == 0


def test_a_reload_leaves_connections_alone(
    nginx: Nginx, recorder: Recorder, tmp_path: Path
) -> None:
    """The old worker serves them on, while the new one has taken over."""
    with serve(nginx), connect(nginx, recorder) as client:
        nginx.reload()
        wait_for(
            lambda: (
                "gracefully shutting down" in (tmp_path / "error.log").read_text(encoding="utf-8")
            )
        )
        assert send_text(client, "hello")
        recorder.wait("focText")
        assert client.status().reconnects == 0


def test_a_reload_ends_them_after_the_shutdown_timeout(tmp_path: Path, recorder: Recorder) -> None:
    """They come back to the new worker."""
    with Nginx(tmp_path) as nginx:
        nginx.stop()
        main = tmp_path / "nginx.conf"
        main.write_text(
            "worker_shutdown_timeout 100ms;\n" + main.read_text(encoding="utf-8"), encoding="utf-8"
        )
        nginx.start()
        with serve(nginx), connect(nginx, recorder) as client:
            nginx.reload()
            wait_for(lambda: client.status().reconnects == 1)
