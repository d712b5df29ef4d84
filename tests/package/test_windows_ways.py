"""What other systems lack or name differently: Windows and macOS, by simulation."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import BOUND, HOST, ROOT, echo_server, wait_for
from support.windows import MOST, be_like_windows

from mormot_ws import Server
from mormot_ws.cli.inputs import PipeInput
from mormot_ws.cli.mailbox import Mailbox, News
from mormot_ws.client.upgrade import default_user_agent
from mormot_ws.front import signals
from mormot_ws.front.console import close_handler, console_close
from mormot_ws.process.keeper import FlushResult, ProcessKeeper
from mormot_ws.sockets import systems
from mormot_ws.sockets.grouped import GroupedSelector
from mormot_ws.sockets.transport import Transport

# ------------------------------------------------------------------------------------------ waiting


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of a main thread, which last 20 ms at most."""
    for module in ("front.inbox", "front.signals"):
        monkeypatch.setattr(f"mormot_ws.{module}.LONGEST_WAIT", 0.02)
    waits: list[float] = []
    wait = signals._Wake.wait

    def noted(self: signals._Wake, seconds: float) -> None:
        waits.append(seconds)
        wait(self, seconds)

    monkeypatch.setattr(signals._Wake, "wait", noted)
    return waits


def test_the_mailbox_waits_in_slices(waits: list[float]) -> None:
    mailbox = Mailbox()
    threading.Timer(0.1, mailbox.post, (News.interrupt,)).start()
    letter = mailbox.next()
    assert letter is not None
    assert letter.news is News.interrupt
    assert max(waits) <= 0.02
    began = time.monotonic()
    assert mailbox.next(0.05) is None
    assert 0.05 <= time.monotonic() - began < BOUND


def test_a_server_of_the_front_door_waits_in_slices(waits: list[float]) -> None:
    server = Server(0, address=HOST)
    server.on_message(lambda peer, message: None)
    threading.Timer(0.1, server.close).start()
    server.run()
    assert 0 < max(waits) <= 0.02


# ------------------------------------------------------------------------------------------ signals


def test_a_wsgi_application_closes_on_the_signals_that_there_are() -> None:
    """Windows has no SIGQUIT: a Flask program did not start there."""
    source = (
        "import signal\n"
        "for name in ('QUIT', 'HUP', 'STOP', 'KILL', 'CONT'): delattr(signal, 'SIG' + name)\n"
        "signal.SIGBREAK = signal.SIGUSR1\n"
        "import mormot_ws.wsgi, mormot_ws.testing, mormot_ws.cli\n"
        "server = mormot_ws.wsgi.WebSocketWsgiServer()\n"
        "server.close_on_signals()\n"
        "print(all(callable(signal.getsignal(number)) for number in"
        " (signal.SIGTERM, signal.SIGINT, signal.SIGBREAK)))\n"
        "from mormot_ws.front.signals import StopSignals\n"
        "with StopSignals(lambda: None) as stop:\n"
        "    print(signal.SIGBREAK in stop._before)\n"
    )
    done = run_python(source)
    assert done == ["True", "True"]


def run_python(source: str) -> list[str]:
    """Return the lines that a program prints."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=6 * BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_console_that_is_closed_waits_for_the_goodbye() -> None:
    stopped, done = threading.Event(), threading.Event()
    handler = close_handler(stopped.set, done)
    # Ctrl-C and Ctrl-Break are signals
    assert not handler(0)
    assert not handler(1)
    assert not stopped.is_set()
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(handler(2)))
    thread.start()
    assert stopped.wait(BOUND)
    assert not results
    done.set()
    thread.join(BOUND)
    assert results == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="about other systems")
def test_elsewhere_there_is_no_such_console() -> None:
    with console_close(pytest.fail):
        pass


# ------------------------------------------------------------------------------------------- errors


def test_an_error_of_a_socket_has_the_systems_words(monkeypatch: pytest.MonkeyPatch) -> None:
    error = systems.system_error(errno.ECONNREFUSED)
    assert type(error) is ConnectionRefusedError
    assert "Unknown error" not in str(error)

    import ctypes

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(
        ctypes, "WinError", lambda code: OSError(code, "actively refused"), raising=False
    )
    assert systems.system_error(10061).strerror == "actively refused"
    assert systems.error_text(OSError(10061, "Unknown error")) == "actively refused"
    assert systems.error_text(OSError(10061, "in words")) == "in words"


# -------------------------------------------------------------------------------------------- ports


def test_a_port_is_taken_exclusively_where_that_is_an_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``SO_REUSEADDR`` of Windows lets any program steal the port."""
    options: list[int] = []

    class Watched(socket.socket):
        def setsockopt(self, level: int, option: int, *value: Any) -> None:  # type: ignore[override]
            options.append(option)

    monkeypatch.setattr(systems, "_EXCLUSIVE", -5)
    with Watched() as sock:
        systems.own_port(sock)
    assert options == [-5]


def _listen(sock: socket.socket, port: int) -> None:
    sock.bind((HOST, port))
    sock.listen()


def test_no_other_program_gets_the_port_of_a_server() -> None:
    with echo_server() as server, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match=r".+"):
            _listen(other, server.port)


# ------------------------------------------------------------------------------------------- select


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """More connected sockets than one ``select`` of Windows takes."""
    made = [socket.socketpair() for _ in range(MOST + 20)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    be_like_windows(monkeypatch)


def fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(1 << 16))
    except BlockingIOError:
        pass


few_descriptors = pytest.mark.skipif(
    (systems.descriptor_limit() or 1 << 20) < 2 * MOST + 100, reason="needs many descriptors"
)


@few_descriptors
def test_a_selector_takes_more_sockets_than_one_select(
    pairs: list[tuple[socket.socket, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mormot_ws.sockets.grouped._MOST", 100)
    with GroupedSelector() as selector:
        # select() of Linux has a limit too, of the numbers
        some = [pair for pair in pairs if max(end.fileno() for end in pair) < 1000][:250]
        assert len(some) > 200
        for ours, _ in some[1:]:
            fill(ours)
            selector.register(ours, selectors.EVENT_WRITE)
        selector.register(some[0][0], selectors.EVENT_READ)
        began = time.monotonic()
        assert selector.select(0.1) == []
        assert 0.1 <= time.monotonic() - began < BOUND
        some[0][1].send(b"x")
        assert [key.fd for key, _ in selector.select(BOUND)] == [some[0][0].fileno()]
        some[0][0].recv(1)
        last, peer = some[-1]
        while last not in [key.fileobj for key, _ in selector.select(0)]:
            peer.recv(1 << 20)
        assert (last.fileno(), selectors.EVENT_WRITE) in [
            (key.fd, events) for key, events in selector.select(None)
        ]


class Blocked:
    """What the keeper flushes: it is blocked until its socket has room."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.flushes = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def flush_queued(self) -> FlushResult:
        self.flushes += 1
        try:
            self.sock.send(b"x")
        except BlockingIOError:
            return FlushResult.blocked
        except OSError:
            return FlushResult.done
        return FlushResult.done


def test_the_keeper_does_not_spin_over_many_blocked_connections(
    windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mormot_ws.sockets.grouped._MOST", 10)
    monkeypatch.setattr("support.windows.MOST", 12)
    made = [socket.socketpair() for _ in range(30)]
    keeper = ProcessKeeper("test keeper")
    try:
        for ours, _ in made:
            fill(ours)
        blocked = [Blocked(ours) for ours, _ in made]
        for one in blocked:
            keeper.wake(one)
        wait_for(lambda: all(one.flushes for one in blocked))
        # several of its turns: each look wakes it
        for _ in range(5):
            turned = threading.Event()
            keeper.call_at(time.monotonic() + 0.02, turned.set)
            assert turned.wait(BOUND)
        assert sum(one.flushes for one in blocked) <= 3 * len(blocked)
        peer = made[-1][1]
        before = blocked[-1].flushes
        while blocked[-1].flushes == before:
            peer.setblocking(False)
            try:
                peer.recv(1 << 20)
            except BlockingIOError:
                wait_for(lambda: blocked[-1].flushes > before)
    finally:
        keeper.stop()
        for pair in made:
            for end in pair:
                end.close()


def test_the_keeper_survives_a_socket_that_is_closed_while_it_waits_for_it(windows: None) -> None:
    ours, peer = socket.socketpair()
    fill(ours)
    blocked = Blocked(ours)
    keeper = ProcessKeeper("test keeper")
    try:
        keeper.wake(blocked)
        wait_for(lambda: blocked.flushes)
        ours.close()
        done = threading.Event()
        keeper.call_at(time.monotonic() + 0.02, done.set)
        assert done.wait(BOUND)
    finally:
        keeper.stop()
        peer.close()


# ----------------------------------------------------------------------------------- standard input


def test_input_is_read_where_select_is_for_sockets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe or a console was taken for ended there."""
    read_end, write_end = os.pipe()
    saved = os.dup(0)
    os.dup2(read_end, 0)
    os.close(read_end)
    monkeypatch.setattr("mormot_ws.cli.inputs._BLOCKS", True)
    monkeypatch.setattr(sys, "stdin", object())
    lines: list[bytes] = []
    mailbox = Mailbox()

    def take(line: bytes) -> bool:
        lines.append(line)
        return True

    try:
        source = PipeInput(mailbox, take)
        os.write(write_end, b"hello\ngr\xc3\xbcn\r\nend")
        wait_for(lambda: len(lines) == 2)
        began = time.monotonic()
        source.stop()
        # its thread is left behind
        assert time.monotonic() - began < BOUND / 2
        os.close(write_end)
        letter = mailbox.next(BOUND)
        assert letter is not None
        assert letter.news is News.input_end
        source._thread.join(BOUND)
    finally:
        os.dup2(saved, 0)
        os.close(saved)
    assert lines == [b"hello", "grün".encode()]


# -------------------------------------------------------------------------------------------- macOS


def test_the_idle_time_of_keep_alive_has_its_own_name_on_macos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idle = getattr(socket, "TCP_KEEPIDLE", None)
    if idle is None:
        pytest.skip("it has that name here already")
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", idle, raising=False)
    with socket.create_server((HOST, 0)) as listener:
        ours = socket.create_connection(listener.getsockname()[:2])
        transport = Transport(ours)
        assert ours.getsockopt(socket.IPPROTO_TCP, idle) == 60
        transport.close()


@pytest.mark.parametrize(("limit", "said"), [(256, True), (1024, False), (None, False)])
def test_a_server_with_few_descriptors_says_so(
    limit: int | None, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """macOS gives a program 256."""
    monkeypatch.setattr("mormot_ws.server.accepting.descriptor_limit", lambda: limit)
    with caplog.at_level(logging.WARNING), echo_server():
        pass
    assert ("open only 256 files" in caplog.text) == said


def test_a_server_whose_connections_are_bounded_says_nothing_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mormot_ws.server.accepting.descriptor_limit", lambda: 256)
    with caplog.at_level(logging.WARNING), echo_server(max_connections=100):
        pass
    assert "files" not in caplog.text


# ------------------------------------------------------------------------------------------- others


def test_the_user_agent_needs_no_service_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """``platform.system()`` asks one on Windows, which can take seconds."""
    import platform

    monkeypatch.setattr(platform, "uname", pytest.fail)
    monkeypatch.setattr(sys, "platform", "win32")
    assert "(Windows x" in default_user_agent()


@pytest.mark.parametrize("name", ["at_least_once", "chat_client", "client", "demo", "server"])
def test_an_example_shows_any_text_in_any_code_page(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redirected output of Windows has one of 256 characters."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module(name)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="cp1252"))
    getattr(example, "say", getattr(example, "show", None))("→ grün")
    assert shown.getvalue() == "\\u2192 grün\n".encode("cp1252")
