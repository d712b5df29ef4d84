"""Under gevent: the standard library is patched, and threads are greenlets."""

from __future__ import annotations

import importlib.util

import pytest
from support import tls
from support.programs import run_script
from support.tls import Authority

authority = tls.authority

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
)

_BEGIN = """
import warnings
warnings.simplefilter("ignore")
import gevent.monkey
gevent.monkey.patch_all()
import gevent, socket, sys, time
from mormot_ws import *
"""

_ECHO = """
got = []
def echo(process, frame):
    if frame.opcode in (focText, focBinary):
        process.send_frame(frame)
server = WebSocketServer("127.0.0.1:0")
server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
client = HttpClientWebSockets("127.0.0.1", server.port, timeout=5000)
protocol = WebSocketProtocolChat("echo", "", lambda process, frame: got.append(frame.payload))
assert client.websockets_upgrade("", "", False, frozenset(), protocol) == ""
def wait_for(condition):
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.005)
"""


def _run(source: str) -> str:
    code, output = run_script(_BEGIN + source)
    assert code == 0, output
    return output


def test_a_silent_server_does_not_hang_an_upgrade() -> None:
    """``timeout`` bounds it, though a socket of gevent's would wait for ever."""
    _run("""
silent = socket.create_server(("127.0.0.1", 0))
with gevent.Timeout(20):
    client = HttpClientWebSockets("127.0.0.1", silent.getsockname()[1], timeout=300)
    text = client.websockets_upgrade("", "", False, frozenset(), WebSocketProtocolChat("echo"))
    assert "did not answer" in text, text
    client.free()
""")


def test_messages_of_any_size_go_both_ways() -> None:
    """Sent at once and queued; the end of both is a matter of moments."""
    _run(
        _ECHO
        + """
big = bytes(8 << 20)
assert client.websockets.send_frame(WebSocketFrame(focBinary, big))
wait_for(lambda: big in got)
for number in range(100):
    assert client.websockets.send_frame_async(WebSocketFrame(focText, str(number)))
wait_for(lambda: b"99" in got)
with gevent.Timeout(20):
    client.free()
    server.free()
"""
    )


def test_a_peer_that_never_reads_is_given_up() -> None:
    """After ``send_timeout``, and other greenlets run meanwhile."""
    _run("""
server = WebSocketServer("127.0.0.1:0", settings=WebSocketProcessSettings(send_timeout=500))
seen = []
server.websocket_protocols.add(WebSocketProtocolChat("echo", "", lambda p, frame: seen.append(p)))
peer = socket.create_connection(("127.0.0.1", server.port))
peer.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n"
             b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n"
             b"Sec-WebSocket-Protocol: echo\\r\\n\\r\\n")
assert peer.recv(4096).startswith(b"HTTP/1.1 101")
turns = []
def work():
    while True:
        turns.append(1)
        gevent.sleep(0.01)
gevent.spawn(work)
with gevent.Timeout(20):
    while not seen:
        gevent.sleep(0.005)
    before = len(turns)
    assert not seen[0].send_frame(WebSocketFrame(focBinary, bytes(64 << 20)))
    assert len(turns) > before + 10
    server.free()
""")


def test_a_client_comes_back() -> None:
    """Reconnection, its waits and the keeper run as greenlets too."""
    _run(
        _ECHO
        + """
client.auto_reconnect()
port = server.port
server.free()
server = WebSocketServer(f"127.0.0.1:{port}")
server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
wait_for(lambda: client.status().reconnects == 1 and client.status().connected)
assert client.websockets.send_frame(WebSocketFrame(focText, "again"))
wait_for(lambda: b"again" in got)
with gevent.Timeout(20):
    client.free()
    server.free()
"""
    )


def test_messages_go_both_ways_over_tls(authority: Authority) -> None:
    """A socket of gevent's waits in another way, but for the same bytes."""
    _run(
        _ECHO.replace(
            'WebSocketServer("127.0.0.1:0")',
            'WebSocketServer("127.0.0.1:0",'
            f" certificate_file={authority.certificate_file!r},"
            f" private_key_file={authority.private_key_file!r})",
        ).replace(
            "timeout=5000)",
            f"timeout=5000, tls=True, tls_context=client_tls_context({authority.file!r}))",
        )
        + """
big = bytes(2 << 20)
assert client.websockets.send_frame(WebSocketFrame(focBinary, big))
wait_for(lambda: big in got)
with gevent.Timeout(20):
    client.free()
    server.free()
"""
    )
