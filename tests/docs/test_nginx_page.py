"""docs/how-to/nginx.md is true: its configuration, as it stands there, in a real nginx, between a
server and a client of ours.

Skipped where there is no nginx, unless the environment says ``MORMOT_WS_REQUIRE_NGINX=1``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import HOST, ROOT, Recorder, echo, fast_settings, ms, send_text, wait_for
from support.children import fixed_port
from support.pages import blocks_of
from support.programs import PATIENCE
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
#: what surrounds a site: no daemon, no files outside of its folder
MAIN = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include site.conf;
}}
"""


def nginx_program() -> str:
    """Return the path of nginx; skip the test without one, or fail if it has to be there."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        if os.environ.get("MORMOT_WS_REQUIRE_NGINX") == "1":
            pytest.fail(
                "nginx is not installed (MORMOT_WS_REQUIRE_NGINX=1): apt-get install nginx-light"
            )
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    return found


def accepts(port: int) -> bool:
    """Whether somebody listens on *port*."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
        return True
    return False


class Nginx:
    """A real nginx with the page's site in *folder*; *changes* replace texts in it. A context
    manager that ends it, by its pid.
    """

    def __init__(self, folder: Path, changes: dict[str, str] | None = None) -> None:
        self._program = nginx_program()
        self._folder = folder
        (site,) = [
            block.code
            for block in blocks_of((ROOT / PAGE).read_text(encoding="utf-8"), PAGE)
            if block.language == "nginx"
        ]
        self.authority = Authority(folder)
        shutil.copy(self.authority.certificate_file, folder / "server.pem")
        shutil.copy(self.authority.private_key_file, folder / "server-key.pem")
        self.backend, self.port, self.tls_port = (fixed_port() for _ in range(3))
        for number, port in ((8999, self.backend), (8080, self.port), (8443, self.tls_port)):
            site, count = re.subn(rf"\b{number}\b", str(port), site)
            assert count == 1, number
        for old, new in (changes or {}).items():
            assert site.count(old) == 1, old
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site, encoding="utf-8")
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(MAIN.format(user=user), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return when it accepts connections."""
        command = [self._program, "-p", str(self._folder), "-c", "nginx.conf", "-e", "error.log"]
        with open(self._folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_for(lambda: accepts(self.port), PATIENCE, "nginx")

    def stop(self) -> None:
        """End it at once, connections and all."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE)
            self._process = None

    def reload(self) -> None:
        """Let it read its configuration again, as ``nginx -s reload`` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def __enter__(self) -> Nginx:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


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
