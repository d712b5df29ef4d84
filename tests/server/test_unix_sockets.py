"""Servers on Unix sockets: their files, their permissions, and who comes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    MS,
    ROOT,
    RawClient,
    any_alive,
    echo,
    exchange,
    fast_settings,
    upgraded,
    wait_for,
)

from mormot_ws import (
    HttpServerError,
    WebSocketProtocolChat,
    WebSocketServer,
    WebSocketServerRest,
)
from mormot_ws.server import unix_file

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here"
)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The path of a socket file; nothing is left of it, or beside it."""
    yield tmp_path / "ws.sock"
    assert not list(tmp_path.iterdir())


def offer_echo(server: WebSocketServer) -> None:
    """Set up a server."""
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))


def server_on(path: Path | str, **options: Any) -> WebSocketServer:
    """Return a server on a Unix socket that echoes; free it."""
    settings = options.pop("settings", None) or fast_settings()
    options.setdefault("prepare", offer_echo)
    return WebSocketServer(f"unix:{path}", settings=settings, **options)


def serves(path: Path | str) -> bool:
    """Tell whether a new client is served there."""
    with upgraded(str(path)) as client:
        return exchange(client, ["x"]) == ["x"]


def stale(path: Path) -> None:
    """Leave a socket file behind, as a killed server does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def test_a_server_on_a_unix_socket_serves_and_takes_its_file_with_it(path: Path) -> None:
    """Its address is in the attributes, the status and the repr; the port is 0."""
    with server_on(path) as server:
        assert serves(path)
        assert server.host == server.address == f"unix:{path}"
        assert server.port == 0
        assert (server.status().host, server.status().port) == (f"unix:{path}", 0)
        assert f" unix:{path} running" in repr(server)
        assert any(f"unix:{path}" in thread.name for thread in threading.enumerate())
    assert not path.exists()


def test_a_rest_server_on_a_unix_socket_serves(path: Path) -> None:
    """The arguments are the same."""
    with WebSocketServerRest(f"unix:{path}", uri="", unix_mode=0o600, ajax=True) as server:
        server.on_request = lambda context: 200
        with RawClient(str(path)) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_head().status == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_free_tells_the_clients_and_ends_the_accept_thread(path: Path) -> None:
    """As on a port: 1001, and no thread is left."""
    server = server_on(path)
    with upgraded(str(path)) as client:
        freeing = threading.Thread(target=server.free)
        freeing.start()
        frame = client.receive_frame()
        assert frame.payload[:2] == (1001).to_bytes(2, "big")
        client.send_frame(8, frame.payload)
        freeing.join(BOUND)
        assert not freeing.is_alive()
    assert not any_alive(server)
    server.free()


# ----------------------------------------------------------------------------------------- its file


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_the_file_has_the_permissions_asked_for(path: Path, mode: int) -> None:
    """Whatever the umask is."""
    with server_on(path, unix_mode=mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_without_a_mode_the_umask_decides(path: Path) -> None:
    """As for any file."""
    before = os.umask(0o027)
    try:
        with server_on(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o750
    finally:
        os.umask(before)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
@pytest.mark.parametrize(("mode", "answer"), [(0o600, "PermissionError"), (0o666, "connected")])
def test_who_may_not_write_to_the_file_may_not_connect(path: Path, mode: int, answer: str) -> None:
    """The kernel refuses another user where the mode does."""
    source = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except OSError as exc:\n    print(type(exc).__name__)\n"
        "else:\n    print('connected')\n"
    )
    for directory in path.parents:
        if stat.S_IMODE(directory.stat().st_mode) & 0o001 == 0:
            directory.chmod(directory.stat().st_mode | 0o001)
    with server_on(path, unix_mode=mode):
        command = [sys.executable, "-I", "-c", source, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=True)
    assert done.stdout.strip() == answer


def test_nobody_can_connect_before_the_permissions_are_right(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no moment with those of the umask: it listens after they are set."""
    seen: list[int] = []
    real = os.chmod

    def chmod(target: Any, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as early:
            seen.append(early.connect_ex(str(path)))
        real(target, mode)

    monkeypatch.setattr(os, "chmod", chmod)
    with server_on(path, unix_mode=0o600):
        assert seen == [errno.ECONNREFUSED]


def test_a_file_on_which_nobody_listens_is_replaced(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A killed server does not keep the next one from starting."""
    caplog.set_level(logging.INFO, "mormot_ws.server")
    stale(path)
    with server_on(path):
        assert serves(path)
    assert any("nobody was listening" in text for text in caplog.messages)


def test_a_server_that_was_killed_can_be_started_again(path: Path) -> None:
    """What it leaves behind is such a file."""
    source = (
        f"import sys, signal, os\nfrom mormot_ws import {WebSocketServer.__name__} as Server\n"
        "server = Server('unix:' + sys.argv[1])\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", source, str(path)], timeout=BOUND, cwd=ROOT, check=False)
    assert path.exists()
    with server_on(path):
        assert serves(path)


def test_where_a_server_listens_another_one_cannot(path: Path) -> None:
    """The first one goes on; its file stays."""
    with server_on(path):
        with pytest.raises(HttpServerError, match="another program listens there"):
            server_on(path)
        assert serves(path)


def test_where_the_queue_of_a_server_is_full_another_one_cannot(path: Path) -> None:
    """A server that is too busy to accept is not taken for a dead one."""
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            waiting.connect_ex(str(path))
        with pytest.raises(HttpServerError, match="another program listens there"):
            server_on(path)
        assert path.exists()
        path.unlink()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "datagram"])
def test_what_is_not_a_servers_socket_is_not_touched(path: Path, kind: str) -> None:
    """A file, a directory, a link to somewhere, a socket of another kind."""
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/nowhere")
    else:
        other.bind(str(path))
    before = os.lstat(path)
    try:
        with pytest.raises(HttpServerError, match="cannot listen on unix:"):
            server_on(path)
        assert os.lstat(path)[:3] == before[:3]
    finally:
        other.close()
        path.rmdir() if kind == "directory" else path.unlink()


def test_the_file_of_a_successor_is_left_alone(path: Path) -> None:
    """A server that ends removes its own file only."""
    server = server_on(path)
    path.unlink()
    with server_on(path):
        server.free()
        assert serves(path)


def test_a_file_that_is_gone_is_no_fault(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has cleaned up before."""
    server = server_on(path)
    path.unlink()
    server.free()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_working_directory_that_changes_does_not_matter(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means what it meant at the start."""
    monkeypatch.chdir(path.parent)
    server = server_on(path.name)
    monkeypatch.chdir("/")
    assert path.exists()
    server.free()
    assert not path.exists()


def test_two_that_start_at_once_are_not_both_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one does not remove the new file of the second for the old one that it has seen."""
    stale(path)
    started: list[WebSocketServer] = []
    real = os.unlink

    def start() -> None:
        with contextlib.suppress(HttpServerError):
            started.append(server_on(path))

    second = threading.Thread(target=start)

    def unlink(target: Any) -> None:
        # it is about to remove the old file
        monkeypatch.setattr(os, "unlink", real)
        second.start()
        second.join(200 * MS)
        real(target)

    monkeypatch.setattr(os, "unlink", unlink)
    start()
    second.join(BOUND)
    assert len(started) == 1
    assert serves(path)
    started[0].free()


def test_a_directory_that_another_one_has_locked_does_not_stop_a_server(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a bounded time."""
    monkeypatch.setattr(unix_file, "_LOCK_SECONDS", 0.05)
    with unix_file._locked(str(path.parent)), server_on(path):
        assert serves(path)


def test_a_server_that_cannot_start_leaves_no_file(path: Path) -> None:
    """Neither when the mode cannot be set, nor when the application's part fails."""

    def fail(server: WebSocketServer) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        server_on(path, prepare=fail)
    assert not path.exists()


def test_a_mode_that_cannot_be_set_leaves_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not listen with other permissions."""

    def chmod(target: Any, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(HttpServerError, match="not permitted"):
        server_on(path, unix_mode=0o600)
    assert not path.exists()


def test_a_file_that_cannot_be_removed_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``free()`` goes on."""
    server = server_on(path)

    def unlink(target: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        server.free()
    assert "cannot be removed" in caplog.text
    path.unlink()


def test_the_file_goes_at_the_interpreters_end(path: Path) -> None:
    """Also of a server that was not freed."""
    source = (
        f"import sys\nfrom mormot_ws import {WebSocketServer.__name__} as Server\n"
        "server = Server('unix:' + sys.argv[1])\n"
        "import os; print(os.path.exists(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", source, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BOUND, cwd=ROOT, check=True
    )
    assert done.stdout == "True\n"
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_leaves_the_socket_to_its_parent(path: Path) -> None:
    """Neither its end nor its ``free()`` removes the file; it does not listen."""
    source = (
        f"import os, sys\nfrom mormot_ws import {WebSocketServer.__name__} as Server\n"
        "server = Server('unix:' + sys.argv[1])\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    server.free()\n"
        "    print('child', os.path.exists(sys.argv[1]), server._listener.sockets[0].fileno(),"
        " server._listener._reserve, flush=True)\n"
        "    sys.exit()\n"
        "os.waitpid(child, 0)\n"
        "print('parent', os.path.exists(sys.argv[1]), flush=True)\n"
        "server.free()\n"
    )
    command = [sys.executable, "-c", source, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BOUND, cwd=ROOT, check=True
    )
    assert done.stdout == "child True -1 -1\nparent True\n"


# ---------------------------------------------------------------------------------------- the names


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_an_abstract_name_needs_no_file() -> None:
    """``unix:@name``, which is free again when the server ends."""
    name = f"mormot-{uuid.uuid4().hex}"
    for _ in range(2):
        with server_on(f"@{name}") as server:
            assert server.address == f"unix:@{name}"
            assert serves(f"\0{name}")
            with pytest.raises(HttpServerError, match="another program listens there"):
                server_on(f"@{name}")


def test_three_slashes_are_one(path: Path) -> None:
    """``unix:///path`` is written by many programs."""
    with server_on(f"//{path}") as server:
        assert server.address == f"unix:{path}"
        assert serves(path)


@pytest.mark.parametrize("port", ["unix:", "unix:@", "unix:/a\0b", "unix:/tmp/"])
def test_what_is_not_a_unix_socket_is_a_value_error(port: str) -> None:
    """It can never work."""
    with pytest.raises(ValueError, match="a Unix socket is"):
        WebSocketServer(port)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"port": "unix:/x", "unix_mode": 660}, ValueError),
        ({"port": "unix:/x", "unix_mode": -1}, ValueError),
        ({"port": "unix:/x", "unix_mode": "660"}, TypeError),
        ({"port": "unix:/x", "unix_mode": True}, TypeError),
        ({"port": "unix:@x", "unix_mode": 0o660}, ValueError),
        ({"port": 0, "unix_mode": 0o660}, ValueError),
        ({"port": "unix:/x", "reuse_port": True}, ValueError),
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    """By the constructor, before anything is opened."""
    with pytest.raises(error):
        WebSocketServer(**options)


def test_a_path_that_cannot_be_has_a_clear_error(tmp_path: Path) -> None:
    """A directory that is not there, and a name that is too long."""
    with pytest.raises(HttpServerError, match="there is no such directory"):
        server_on(tmp_path / "none" / "ws.sock")
    with pytest.raises(HttpServerError, match="too long"):
        server_on(tmp_path / ("x" * 120))


def test_a_python_without_unix_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(HttpServerError, match="this Python has no Unix sockets"):
        WebSocketServer("unix:/tmp/x.sock")


def test_a_system_without_abstract_names_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are Linux's."""
    monkeypatch.setattr("mormot_ws.server.listening.sys.platform", "darwin")
    with pytest.raises(HttpServerError, match="Linux"):
        WebSocketServer("unix:@x")


def test_without_file_locks_a_server_starts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have none."""
    monkeypatch.setattr(unix_file, "fcntl", None)
    with server_on(path):
        assert serves(path)


# ---------------------------------------------------------------------------------------- who comes


def test_a_peer_is_called_unix_and_is_of_this_machine(path: Path) -> None:
    """It has no IP address."""
    with server_on(path) as server, upgraded(str(path)):
        [process] = server.connections()
        assert process.remote_ip == process.status().remote_ip == "unix:"
        assert process.protocol.remote_ip == "unix:"
        assert process.protocol.remote_localhost


def test_the_limit_per_address_is_not_for_unix_sockets(path: Path) -> None:
    """Behind a proxy, all clients would be one; the limit of all connections holds."""
    settings = fast_settings(max_connections_per_ip=1, max_connections=2)
    with (
        server_on(path, settings=settings),
        upgraded(str(path)),
        upgraded(str(path)),
        RawClient(str(path)) as third,
    ):
        assert third.read_answer()[0].status == 503


def test_a_proxy_on_a_unix_socket_is_believed_when_trusted(path: Path) -> None:
    """``trusted_proxies={'unix:'}``: the visitor's address is the one that it tells, and counts."""
    settings = fast_settings(
        remote_ip_header="X-Real-IP", trusted_proxies={"unix:"}, max_connections_per_ip=1
    )
    with server_on(path, settings=settings) as server, RawClient(str(path)) as client:
        client.send(client.request(X_Real_IP="192.0.2.7"))
        assert client.read_head().status == 101
        assert [each.remote_ip for each in server.connections()] == ["192.0.2.7"]
        with RawClient(str(path)) as second:
            second.send(second.request(X_Real_IP="192.0.2.7"))
            assert second.read_head().status == 503


def test_a_proxy_on_a_unix_socket_is_not_believed_untold(path: Path) -> None:
    """Any user who may write to the file could be one."""
    settings = fast_settings(remote_ip_header="X-Real-IP", trusted_proxies={"127.0.0.1"})
    with server_on(path, settings=settings) as server, RawClient(str(path)) as client:
        client.send(client.request(X_Real_IP="192.0.2.7"))
        assert client.read_head().status == 101
        assert [each.remote_ip for each in server.connections()] == ["unix:"]


def test_a_large_message_comes_through(path: Path) -> None:
    """In more than one piece, both ways."""
    with server_on(path) as server, upgraded(str(path)) as client:
        payload = "x" * 3_000_000
        assert exchange(client, [payload]) == [payload]
        wait_for(lambda: server.status().frames_out == 1)
