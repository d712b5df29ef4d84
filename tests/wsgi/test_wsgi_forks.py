"""WSGI servers that fork their workers after the application was loaded."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support import BOUND, Recorder
from support.programs import run_script
from test_wsgi_gunicorn import SOON, client_of, close_code, echoes, gunicorn, port, worker_of

__all__ = ["port"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")


#: what docs/how-to/wsgi.md says
_PRELOADING = """
preload_app = True

def post_worker_init(worker):
    from flask_app import websockets
    websockets.close_on_signals()
"""


def test_a_server_made_before_the_fork_works_in_the_worker(
    port: int, tmp_path: Path, recorder: Recorder
) -> None:
    """``preload_app``: the worker serves with the object that the master made at import, a second
    worker too; both say goodbye, or are killed.
    """
    (tmp_path / "gunicorn.conf.py").write_text(_PRELOADING)
    with gunicorn(port, tmp_path) as program, client_of(port, recorder) as client:
        echoes(client, recorder, "first worker")
        os.kill(worker_of(program), signal.SIGKILL)
        assert close_code(recorder, 1) == 0
        recorder.wait("focContinuation", 2, SOON)
        echoes(client, recorder, "second worker")
        program.signal(signal.SIGTERM)
        assert close_code(recorder, 2) == 1001
        assert program.wait() == 0
        assert "Traceback" not in program.output


_WERKZEUG = r"""
import gc, logging, os, sys, threading, time
from werkzeug.serving import make_server
from mormot_ws import *
from mormot_ws.wsgi import WebSocketWsgiServer

BOUND = float(sys.argv[1])
PARENT = os.getpid()


class Handler(logging.Handler):
    def emit(self, record):
        if os.getpid() != PARENT:
            os.write(1, f"LOGGED {record.getMessage()}\n".encode())


logging.basicConfig(level=logging.DEBUG, handlers=[Handler()])
received, ended = [], []


def on_incoming(process, frame):
    if os.getpid() != PARENT:
        os.write(1, b"TOLD\n")
    if frame.opcode is focText:
        process.send_frame(frame)


def wait_for(condition, what):
    give_up = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.002)


sockets = WebSocketWsgiServer()
sockets.websocket_protocols.add(WebSocketProtocolChat("echo", "", on_incoming))
sockets.on_websocket_disconnect = ended.append
web = make_server("127.0.0.1", 0, sockets, threaded=True)
threading.Thread(target=web.serve_forever, daemon=True).start()
client = HttpClientWebSockets("127.0.0.1", web.port)
def on_frame(process, frame):
    if frame.opcode is focText:
        received.append(frame.text)


protocol = WebSocketProtocolChat("echo", "", on_frame)
assert client.websockets_upgrade("", "", False, frozenset(), protocol) == ""


def check_echo(text):
    assert client.websockets.send_frame(WebSocketFrame(focText, text))
    wait_for(lambda: text in received, text)


check_echo("before")
pid = os.fork()
if pid == 0:
    assert sockets.websocket_connections == 0 and sockets.status().sockets == 0
    if "free" in sys.argv:
        sockets.free()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
check_echo("after")
assert not ended and sockets.websocket_connections == 1
client.free()
wait_for(lambda: ended, "the end")
sockets.free()
web.shutdown()
print("unharmed")
"""


@pytest.mark.parametrize("way", ["exit", "free"])
def test_a_child_of_a_wsgi_program_harms_no_connection(way: str) -> None:
    """The child of a program whose WSGI server has connections ends, or frees; the connections go
    on.
    """
    code, output = run_script(_WERKZEUG, str(BOUND), way)
    assert (code, output) == (0, "unharmed\n")


_FORKS_IN_CALLBACK = r"""
import os, signal, sys, threading, time
from werkzeug.serving import make_server
from mormot_ws import *
from mormot_ws.wsgi import WebSocketWsgiServer

way, bound = sys.argv[1], float(sys.argv[2])
received = []


def on_incoming(process, frame):
    if frame.opcode is not focText:
        return
    if frame.text == "fork":
        pid = os.fork()
        if pid == 0:
            signal.alarm(int(bound))  # a child that hangs ends, with another status
            if way == "exit":
                sys.exit(7)
            if way == "raise":
                raise ValueError("in the child")
            return
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        frame = WebSocketFrame(focText, f"child ended with {code}")
    process.send_frame(frame)


sockets = WebSocketWsgiServer()
sockets.websocket_protocols.add(WebSocketProtocolChat("echo", "", on_incoming))
web = make_server("127.0.0.1", 0, sockets, threaded=True)
threading.Thread(target=web.serve_forever, daemon=True).start()
answered = threading.Semaphore(0)


def on_answer(process, frame):
    if frame.opcode is focText:
        received.append(frame.text)
        answered.release()


client = HttpClientWebSockets("127.0.0.1", web.port)
protocol = WebSocketProtocolChat("echo", "", on_answer)
assert client.websockets_upgrade("", "", False, frozenset(), protocol) == ""
for text in ("fork", "after"):
    client.websockets.send_frame(WebSocketFrame(focText, text))
    if not answered.acquire(timeout=bound + 5):
        break
print(received, client.status().last_error)
client.free()
sockets.free()
web.shutdown()
"""


@pytest.mark.parametrize(("way", "code"), [("exit", 7), ("raise", 1), ("return", 0)])
def test_a_child_forked_by_a_callback_ends_before_the_wsgi_server_gets_it(
    way: str, code: int
) -> None:
    """The WSGI server's code would write an answer to the parent's connection, or shut it down."""
    _, output = run_script(_FORKS_IN_CALLBACK, way, str(BOUND))
    assert f"['child ended with {code}', 'after']" in output
