"""examples/flask_app.py as people run it: by Flask's own server and by a real gunicorn with
threads, stopped, reloaded and killed.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import BOUND, HOST, RawClient, Recorder, fast_settings, send_text, wait_for
from support.programs import EXAMPLES, Program

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProtocolChat,
    focConnectionClose,
    focText,
    parse_close_payload,
)
from mormot_ws.testing.echoserver import hold_port

#: seconds within which a server that says goodbye ends; far below gunicorn's graceful_timeout of 30
#: s
SOON = 1.5 * BOUND


@pytest.fixture
def port() -> Iterator[int]:
    """A port that stays ours while the server is down."""
    port, holder = hold_port(HOST)
    yield port
    if holder is not None:
        holder.close()


@contextlib.contextmanager
def gunicorn(port: int, home: Path, *arguments: str) -> Iterator[Program]:
    """Run the example in gunicorn with threads, serving when the block begins; ended by SIGTERM at
    the latest.
    """
    with Program(
        *("-W", "default", "-m", "gunicorn", "--worker-class", "gthread", "--threads", "8"),
        *("--chdir", str(EXAMPLES), "--bind", f"{HOST}:{port}", "--access-logfile", "-"),
        *arguments,
        "flask_app:app",
        cwd=home,
        env={"HOME": str(home)},  # where newer ones keep a socket of their own
    ) as program:
        wait_for(lambda: program.has_ended or served(port), 3 * BOUND)
        assert not program.has_ended, program.output
        yield program
        if not program.has_ended:
            program.signal(signal.SIGTERM)
            program.wait()


def served(port: int) -> bool:
    """Tell whether ``GET /`` is answered."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=BOUND)) as connection:
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False


def worker_of(program: Program) -> int:
    """Return the number of gunicorn's one worker."""
    children: list[psutil.Process] = wait_for(psutil.Process(program.pid).children)
    return int(children[-1].pid)


@contextlib.contextmanager
def client_of(port: int, recorder: Recorder) -> Iterator[HttpClientWebSockets]:
    """Give a client on ``/ws`` that reconnects by itself."""
    with HttpClientWebSockets.open(HOST, port, settings=fast_settings()) as client:
        protocol = WebSocketProtocolChat("echo", "", recorder.frame)
        assert client.websockets_upgrade("ws", "", False, frozenset(), protocol) == ""
        client.auto_reconnect()
        yield client


def close_code(recorder: Recorder, n: int) -> int:
    """Wait for the *n*-th end of the connection; return its code, 0 when there was none."""
    payload = recorder.wait("focConnectionClose", n, SOON).value.payload
    return parse_close_payload(payload)[0] if payload else 0


def echoes(client: HttpClientWebSockets, recorder: Recorder, message: str) -> None:
    """Check that a message comes back."""
    wait_for(lambda: send_text(client, message))
    wait_for(lambda: message in recorder.texts())


def test_a_client_comes_back_to_a_gunicorn_that_is_stopped_and_started(
    port: int, tmp_path: Path, recorder: Recorder
) -> None:
    """SIGTERM: 1001 at once, gunicorn ends soon and well, its log has the request as 101; the next
    one is found.
    """
    with gunicorn(port, tmp_path) as first, client_of(port, recorder) as client:
        echoes(client, recorder, "one")
        began = time.monotonic()
        first.signal(signal.SIGTERM)
        assert close_code(recorder, 1) == 1001
        assert first.wait() == 0
        assert time.monotonic() - began < SOON
        assert '"GET /ws HTTP/1.1" 101 0' in first.output
        assert "Traceback" not in first.output
        with gunicorn(port, tmp_path):
            recorder.wait("focContinuation", 2, SOON)
            echoes(client, recorder, "two")


def test_a_client_comes_back_to_another_worker(
    port: int, tmp_path: Path, recorder: Recorder
) -> None:
    """A reload (SIGHUP) says goodbye with 1001; a killed worker (SIGKILL) says nothing; SIGQUIT is
    quick, and says 1001 too.
    """
    with gunicorn(port, tmp_path) as program, client_of(port, recorder) as client:
        program.signal(signal.SIGHUP)
        assert close_code(recorder, 1) == 1001
        recorder.wait("focContinuation", 2, SOON)
        echoes(client, recorder, "reloaded")
        os.kill(worker_of(program), signal.SIGKILL)
        assert close_code(recorder, 2) == 0
        recorder.wait("focContinuation", 3, SOON)
        echoes(client, recorder, "replaced")
        program.signal(signal.SIGQUIT)
        assert close_code(recorder, 3) == 1001
        assert program.wait() == 0


def test_workers_of_a_killed_gunicorn_end_too(
    port: int, tmp_path: Path, recorder: Recorder
) -> None:
    """SIGKILL for the master: its worker gives up after gunicorn's graceful time-out, says
    goodbye, and is not kept by its clients.
    """
    with (
        gunicorn(port, tmp_path, "--graceful-timeout", "1") as program,
        client_of(port, recorder) as client,
    ):
        echoes(client, recorder, "hello")
        worker = psutil.Process(worker_of(program))
        program.signal(signal.SIGKILL)
        assert close_code(recorder, 1) == 1001
        worker.wait(SOON)


def test_a_preloaded_application_says_goodbye_by_a_hook(
    port: int, tmp_path: Path, recorder: Recorder
) -> None:
    """With ``preload_app`` the handlers are set in ``post_worker_init``, as the how-to has it;
    what is read ahead arrives.
    """
    (tmp_path / "gunicorn.conf.py").write_text(
        "preload_app = True\n"
        "def post_worker_init(worker):\n"
        "    from flask_app import websockets\n"
        "    websockets.close_on_signals()\n",
        encoding="utf-8",
    )
    config = str(tmp_path / "gunicorn.conf.py")
    with (
        gunicorn(port, tmp_path, "--config", config) as program,
        client_of(port, recorder) as client,
    ):
        with RawClient(port) as raw:
            raw.upgrade("ws", behind=raw.encoded(focText, "at once"))
            assert raw.receive_opcode(focText).text == "at once"
            raw.send_frame(focConnectionClose, b"\x03\xe8")
            assert raw.receive_opcode(focConnectionClose).payload == b"\x03\xe8"
            assert raw.read_to_end() == b""
        echoes(client, recorder, "preloaded")
        program.signal(signal.SIGTERM)
        assert close_code(recorder, 1) == 1001
        assert program.wait() == 0


def test_the_example_runs_by_itself(port: int, recorder: Recorder) -> None:
    """``python examples/flask_app.py``: a page, an echo, a broadcast; SIGTERM says goodbye and
    ends it as it would have without.
    """
    with Program(EXAMPLES / "flask_app.py", env={"PORT": str(port)}) as program:
        wait_for(lambda: program.has_ended or served(port), 3 * BOUND)
        with client_of(port, recorder) as client:
            echoes(client, recorder, "hello")
            with contextlib.closing(
                http.client.HTTPConnection(HOST, port, timeout=BOUND)
            ) as connection:
                connection.request("POST", "/broadcast", "to everybody")
                assert connection.getresponse().read() == b"1 clients\n"
            wait_for(lambda: "to everybody" in recorder.texts())
            program.signal(signal.SIGTERM)
            assert close_code(recorder, 1) == 1001
            assert program.wait() == -signal.SIGTERM
        assert "Traceback" not in program.output
