"""Programs of users that type checkers look at: a line that they have to refuse ends with ``#
wrong``.
"""

from __future__ import annotations

CLASSES_AND_CONNECT = """
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


def framed(process: mormot_ws.WebSocketProcess, frame: mormot_ws.WebSocketFrame) -> None:
    frame.payload = b"x"
    frame.opcode = mormot_ws.focBinary
    frame.payload = 7  # wrong
    frame.opcode = "text"  # wrong
    frame.Payload = b"x"  # wrong
    process.send_frame(frame)
    process.send_frame("x")  # wrong
    process.state = "run"  # wrong


async def framed_later(
    process: mormot_ws.WebSocketProcess, frame: mormot_ws.WebSocketFrame
) -> None:
    pass


def handled(process: mormot_ws.WebSocketProcess, frame: mormot_ws.WebSocketFrame) -> bool:
    return True


async def told_later(thing: object) -> None:
    pass


hello = mormot_ws.WebSocketFrame(mormot_ws.focText, "hello")
mormot_ws.WebSocketFrame("text")  # wrong
mormot_ws.WebSocketFrame(mormot_ws.focText, 7)  # wrong
chat = mormot_ws.WebSocketProtocolChat("chat", "", framed)
mormot_ws.WebSocketProtocolChat("chat", "", lambda process, frame: process.send_frame(frame))
mormot_ws.WebSocketProtocolChat("chat", on_incoming_frame=handled)
mormot_ws.WebSocketProtocolChat()  # wrong
mormot_ws.WebSocketProtocolChat("chat", framed)  # wrong
mormot_ws.WebSocketProtocolChat("chat", "", framed_later)  # wrong
mormot_ws.WebSocketProtocolChat("chat", "", lambda process: None)  # wrong
mormot_ws.WebSocketProtocolChat("chat", "", told_later)  # wrong
chat.on_incoming_frame = framed
chat.on_incoming_frame = None
chat.on_incoming_frame = framed_later  # wrong
chat.on_incomming_frame = framed  # wrong
chat.on_before_incoming_frame = handled
chat.on_before_incoming_frame = framed  # wrong
chat.name = 7  # wrong
chat.connection_opaque = {"any": "thing"}
chat.send_frame(client.websockets, hello)
chat.send_frame_json(client.websockets, "{}")
chat.send_frame(client, hello)  # wrong
chat.send_frame(client.websockets, "hello")  # wrong
server.websocket_protocols.add(chat)
server.websocket_protocols.add("chat")  # wrong
server.websocket_protocols.add(mormot_ws.WebSocketProtocolChat)  # wrong
server.websocket_protocols = [chat]  # wrong
mormot_ws.WebSocketProtocolBinary("uri", "key", mormot_ws.pboSynLzCompress)
mormot_ws.WebSocketProtocolBinary("uri", b"key")  # wrong
mormot_ws.WebSocketProtocolBinary(options="lz")  # wrong
mormot_ws.WebSocketProtocolJson("uri").send_frame(client.websockets, hello)  # wrong
mormot_ws.WebSocketProtocolUri("chat", "wss://a.example/", 5, on_incoming_frame=framed)
mormot_ws.WebSocketProtocolUri("chat", "wss://a.example/", "5")  # wrong


class Method(mormot_ws.WebSocketProtocolChat):
    def on_incoming_frame(
        self, process: mormot_ws.WebSocketProcess, frame: mormot_ws.WebSocketFrame
    ) -> None:
        process.send_frame(frame)


class Cloned(mormot_ws.WebSocketProtocol):
    def clone(self, client_uri: str) -> mormot_ws.WebSocketProtocol:
        return Cloned(self.name, self.uri)

    def frame_is(self, frame: str, head: str) -> bool:  # wrong
        return False


server.on_websocket_connect = lambda socket: print(socket.connection_id)
server.on_websocket_upgraded = lambda protocol: 200
server.on_websocket_connect = told_later  # wrong
server.on_websocket_close = framed  # wrong
server.on_websocket_upgraded = lambda protocol: "yes"  # wrong
settings.on_client_connected = told_later  # wrong
client.on_websockets_closed = lambda client: print(client.host)
client.on_websockets_closed = told_later  # wrong
client.on_gave_up = lambda client, failure: print(failure.text)
client.on_gave_up = lambda client: None  # wrong
WebSocketServer(8999, prepare=told_later)  # wrong
WebSocketServer("127.0.0.1", 8999)  # wrong
client.websockets_upgrade("", protocol="chat")  # wrong
found = HttpClientWebSockets.websockets_connect("ws://localhost/", chat)
found.free()  # wrong
HttpClientWebSockets.websockets_connect("ws://localhost/", chat, retry=True).free()
if client.websockets is not None:
    client.websockets.on_reconnect = lambda process: "Retry"
    client.websockets.on_reconnect = told_later  # wrong
mormot_ws.ExponentialBackoff("1 s")  # wrong
mormot_ws.StopOn(LinearBackoff)  # wrong
"""

SERVER = """
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
