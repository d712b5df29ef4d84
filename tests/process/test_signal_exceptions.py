"""What a signal handler raises in the main thread leaves no lock and no mark behind, wherever it
comes. Each program is interrupted some hundred times, at random moments.
"""

from __future__ import annotations

import sys

import pytest
from support.programs import run_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGALRM")

PROGRAM = """
import logging, random, signal, sys, threading, warnings
from mormot_ws import *

logging.disable(logging.CRITICAL)
# Python closes a socket whose constructor was interrupted, and says so
warnings.simplefilter("ignore", ResourceWarning)
random.seed(1)


class Boom(BaseException):
    pass


def handler(number, frame):
    raise Boom


def interrupted(action):
    # again after a second, because Python itself drops what is raised in a finaliser
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.001), 1.0)
        while True:
            action()
    except Boom:
        pass
    # on a busy machine the next signal comes before the timer is stopped
    while True:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        except Boom:
            pass


def connected():
    client = HttpClientWebSockets("127.0.0.1", server.port)
    text = client.websockets_upgrade("", protocol=WebSocketProtocolChat("chat"))
    assert not text, text
    return client


signal.signal(signal.SIGALRM, handler)
# the programs count on a library that is loaded: an interrupted import is Python's affair
server = WebSocketServer("127.0.0.1:0")
server.websocket_protocols.add(WebSocketProtocolChat("chat", "", lambda process, frame: None))
connected().free()
"""

SENDS = """
def held(lock):
    taken = lock.acquire(timeout=5)
    if taken:
        lock.release()
    return not taken


client, rounds = connected(), 0
while rounds < 300:
    process = client.websockets
    interrupted(lambda: {send})
    rounds += 1
    assert not held(process.safe_out), rounds
    if process.state is not wpsRun:
        client.free()
        client = connected()
client.free()
server.free()
print("all well")
"""

FRAME = "WebSocketFrame(focText, b'x' * 50)"


@pytest.mark.parametrize(
    "send",
    [
        f"process.send_frame({FRAME})",
        f"process.send_frame_async({FRAME})",
        "process.start_shutdown(1000, '')",
    ],
    ids=["send_frame", "send_frame_async", "a close frame"],
)
def test_no_lock_of_the_output_is_left_behind(send: str) -> None:
    code, output = run_script(PROGRAM + SENDS.replace("{send}", send))
    assert (code, output.splitlines()[-1:]) == (0, ["all well"]), output


@pytest.mark.parametrize(
    "call", ["client.status()", f"process.send_frame_async({FRAME})"], ids=["status", "queue"]
)
def test_no_running_thread_is_taken_for_ended(call: str) -> None:
    """Up to Python 3.12, an interrupted ``Thread.is_alive()`` does that."""
    program = """
client = connected()
client.auto_reconnect()
process = client.websockets
for number in range(300):
    interrupted(lambda: {call})
    assert client.status().connected, number
    assert process.client_thread.is_alive()
client.free()
server.free()
assert threading.active_count() == 1, threading.enumerate()
print("all well")
"""
    code, output = run_script(PROGRAM + program.replace("{call}", call))
    assert (code, output.splitlines()[-1:]) == (0, ["all well"]), output


def test_an_interrupted_upgrade_can_be_made_again() -> None:
    """Neither it nor ``reopen()`` is told that another thread is at it."""
    program = """
client = HttpClientWebSockets("127.0.0.1", server.port)


def upgrade():
    client.reopen()
    client.websockets_upgrade("elsewhere", protocol=WebSocketProtocolChat("other"))


for _ in range(150):
    interrupted(upgrade)
assert not client.reopen(), client.last_error
text = client.websockets_upgrade("", protocol=WebSocketProtocolChat("chat"))
assert not text, text
client.free()
server.free()
print("all well")
"""
    code, output = run_script(PROGRAM + program)
    assert (code, output.splitlines()[-1:]) == (0, ["all well"]), output
