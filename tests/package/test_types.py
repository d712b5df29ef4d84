"""What type checkers say to programs that use the library rightly and wrongly."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.type_checkers import refused_by_mypy, refused_by_pyright, wrong_lines

#: a program of a user; a line that a type checker has to refuse ends with ``# wrong``
PROGRAM = """
from mormot_ws import HttpClientWebSockets, WebSocketProcessSettings, WebSocketServer
from mormot_ws import WebSocketClient  # wrong
from mormot_ws import PermessageDeflate, LinearBackoff
import mormot_ws

settings = WebSocketProcessSettings(heartbeat_delay=20_000, outgoing_policy="close")
WebSocketProcessSettings(heartbeat_dely=1)  # wrong
WebSocketProcessSettings(heartbeat_delay="20 s")  # wrong
WebSocketProcessSettings(heartbeat_delay=1.5)  # wrong
WebSocketProcessSettings(outgoing_policy="drop")  # wrong
WebSocketProcessSettings(free_in_callback="ignore")  # wrong
WebSocketProcessSettings(20_000)  # wrong
WebSocketProcessSettings(allowed_origins={"https://a.example"}, trusted_proxies=["10.0.0.0/8"])
WebSocketProcessSettings(permessage_deflate=PermessageDeflate(level=1))
WebSocketProcessSettings(reconnect_policy=LinearBackoff)
WebSocketProcessSettings(reconnect_policy=LinearBackoff())  # wrong
WebSocketProcessSettings(on_client_connected=lambda process: process.connection_id)

settings.heartbeat_delay = 5_000
settings.outgoing_policy = "drop_oldest"
settings.typo = 1  # wrong
settings.outgoing_policy = "drop"  # wrong
settings.heartbeat_delay = None  # wrong
settings.set_full_log().max_frame_mb = 1
delay: int = settings.heartbeat_delay
policy = settings.reconnect_policy()
policy.reset()

server = WebSocketServer("127.0.0.1:0", settings=settings)
server.settings.typo = 1  # wrong
client = HttpClientWebSockets("127.0.0.1", server.port, timeout=1_000)
mormot_ws.WebsocketServer  # wrong


def opened(ws: mormot_ws.Connection) -> None:
    sent: bool = ws.send("hello")
    ws.send(b"hello", timeout=1)
    ws.send_json({"a": [1, 2.5, None]})
    ws.send({"a": 1})  # wrong
    ws.send("hello", "now")  # wrong


def text_or_bytes(ws: mormot_ws.Connection, message: str | bytes) -> bool:
    return ws.send(message)


def text(ws: mormot_ws.Connection, message: str) -> None:
    ws.send(message.upper())


def failed(ws: mormot_ws.Connection, error: Exception) -> None:
    if isinstance(error, mormot_ws.GaveUp):
        status: int = error.status


async def coroutine(ws: mormot_ws.Connection, message: str | bytes) -> None:
    pass


mormot_ws.connect("ws://localhost/", on_open=opened, on_message=text_or_bytes, on_error=failed)
mormot_ws.connect("ws://localhost/", on_message=text)
mormot_ws.connect("ws://localhost/", on_open=lambda ws: ws.send("x"))
mormot_ws.connect("ws://localhost/", on_message=lambda ws, message: print(message))
mormot_ws.connect(lambda: "ws://localhost/", headers=lambda: {"X": "1"}, protocol=["a", "b"])
mormot_ws.connect("ws://localhost/", policy=LinearBackoff(), overflow="drop_oldest")
mormot_ws.connect("ws://localhost/", on_message=coroutine)  # wrong
mormot_ws.connect("ws://localhost/", on_message=opened)  # wrong
mormot_ws.connect("ws://localhost/", on_open=text)  # wrong
mormot_ws.connect("ws://localhost/", on_mesage=text)  # wrong
mormot_ws.connect("ws://localhost/", headers="X: 1")  # wrong
mormot_ws.connect("ws://localhost/", policy=LinearBackoff)  # wrong
mormot_ws.connect("ws://localhost/", overflow="drop")  # wrong
mormot_ws.connect("ws://localhost/", "chat")  # wrong
mormot_ws.connect(7)  # wrong

with mormot_ws.connect("ws://localhost/") as ws:

    @ws.on_open
    def at_open(ws: mormot_ws.Connection) -> None:
        pass

    @ws.on_close
    def at_end(ws: mormot_ws.Connection, code: int, reason: str) -> None:
        pass

    ws.on_message(text)
    ws.on_message(coroutine)  # wrong
    ws.on_close(opened)  # wrong
    ws.on_mesage(text)  # wrong
    ws.on_reconnect = text  # wrong
    for message in ws:
        ws.send(message.upper())
    received: str | bytes = ws.recv(timeout=1)
    ws.recv("1")  # wrong
    ready: bool = ws.wait_connected(1)
    attempts: int = ws.status.attempts
    result: int = ws.call("add", 1, 2, timeout=5)
    ws.close(1000, "done")
    ws.client.reconnect_now()
"""
WRONG = wrong_lines(PROGRAM)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The file with the program."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_refuses_wrong_uses_and_no_others(program: Path) -> None:
    """Misspelt settings and names, wrong types and words are errors, each on its line."""
    found, said = refused_by_mypy(program)
    assert found == WRONG, said


@pytest.mark.skipif(
    find_spec("pyright") is None or not os.environ.get("MORMOT_WS_PYRIGHT"),
    reason="only where pyright and its Node.js are known to be there: MORMOT_WS_PYRIGHT=1",
)
def test_pyright_refuses_wrong_uses_and_no_others(program: Path) -> None:
    """The same as mypy; editors have it built in."""
    found, said = refused_by_pyright(program)
    assert found == WRONG, said
