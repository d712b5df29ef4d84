"""What type checkers say to programs that use Server rightly and wrongly."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.type_checkers import refused_by_mypy, refused_by_pyright, wrong_lines

#: a program of a user; a line that a type checker has to refuse ends with ``# wrong``
PROGRAM = """
from dataclasses import dataclass
from typing import Any
import mormot_ws
from mormot_ws import Peer, Request, Server, WebSocketProcessSettings

@dataclass
class Item:
    name: str

def who(request: Request) -> dict[str, str] | int:
    return {"name": request.query.get("name", "")} if request.bearer else 401

server = Server(8999, address="127.0.0.1", authenticate=who, settings=WebSocketProcessSettings())
Server("127.0.0.1:0", tls=("cert.pem", "key.pem"))
Server(8999, tls="cert.pem")  # wrong
Server(address="unix:/run/chat.sock", unix_mode=0o660)
Server(0, unix_mode="660")  # wrong
Server(8999, authentcate=who)  # wrong
Server(8999, authenticate=lambda: None)  # wrong

@server.on_message("chat")
def chat(peer: Peer, message: str | bytes) -> None:
    peer.send(message)
    peer.send(1)  # wrong
    peer.close(1000, "bye")
    peer.join(7)  # wrong
    peer.send_json({"a": peer.id})
    peer.nothing  # wrong
    peer.session["x"] = peer.request.headers.get("origin")
    server.send("x", group="g", exclude=peer)
    server.send("x", to=[peer, 7], protocol="chat")
    server.send({"a": 1})  # wrong
    server.send("x", room="g")  # wrong

@server.on_message
def text(peer: Peer, text: str) -> bool:
    return peer.send(text)

@server.on_message("untyped")
def untyped(peer, message):  # type: ignore[no-untyped-def]
    peer.send(message)

@server.on_message("a")  # wrong
async def slow(peer: Peer, message: str | bytes) -> None:
    pass

@server.on_message  # wrong
async def slow2(peer: Peer, message: str | bytes) -> None:
    pass

@server.on_message("b")  # wrong
def short(peer: Peer) -> None:
    pass

@server.on_message("c")  # wrong
def number(peer: Peer, message: int) -> None:
    pass

server.on_message("d")(lambda peer, message: peer.send(message))
server.on_message("e")(lambda peer: None)  # wrong
server.on_open("d")(lambda peer: peer.join("x"))

@server.on_open
def opened(peer: Peer) -> None: ...

@server.on_close("chat")
def closed(peer: Peer, code: int, reason: str) -> None: ...

@server.on_close  # wrong
def closed_short(peer: Peer) -> None: ...

@server.method
def add(a: int, b: int) -> int:
    return a + b

@server.method("named")
def items(peer: Peer, names: list[str]) -> list[Item]:
    return [Item(name) for name in names]

@server.method
def one() -> Item:
    return Item("x")

@server.method
def nothing() -> None: ...

@server.method  # wrong
async def later(a: int) -> int:
    return a

total: int = add(1, 2)

@server.http("/health")
def health() -> dict[str, Any]:
    return {"ok": True}

@server.http("/hook", methods=["POST"])
def hook(request: Request) -> tuple[int, str]:
    return 201, request.path

@server.http("/bad")  # wrong
async def bad(request: Request) -> str:
    return ""

@server.http("/object")  # wrong
def strange(request: Request) -> object:
    return 1

server.on_message = chat  # wrong
server.on_mesage("x")  # wrong
with server as running:
    port: int = running.port
    running.server.settings.max_connections = 3
    for peer in running.peers:
        peer.send("x")
    running.groups["a"][0].close()
server.run()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The file with the program."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_refuses_wrong_callbacks_and_no_others(program: Path) -> None:
    """Coroutines, other parameters, misspelt names, and what is no message."""
    found, said = refused_by_mypy(program)
    assert found == wrong_lines(PROGRAM), said


@pytest.mark.skipif(
    find_spec("pyright") is None or not os.environ.get("MORMOT_WS_PYRIGHT"),
    reason="only where pyright and its Node.js are known to be there: MORMOT_WS_PYRIGHT=1",
)
def test_pyright_refuses_wrong_callbacks_and_no_others(program: Path) -> None:
    """The same as mypy; editors have it built in."""
    found, said = refused_by_pyright(program)
    assert found == wrong_lines(PROGRAM), said
