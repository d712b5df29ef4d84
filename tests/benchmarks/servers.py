# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""The echo servers: ``python -m tests.benchmarks.servers NAME [CERTIFICATE]``.

Each listens on a free port of the loopback interface, prints one line of JSON - ``{"port":
12345}``, or ``{"missing": "why"}`` if its library cannot be imported - and serves until its
standard input ends, that is, until whoever started it closes it or dies.

With the name of a PEM file, which holds a certificate and its key, some of them serve TLS 1.3 by
it.

Libraries run with their defaults. ``TCP_NODELAY`` is set by hand only where the library leaves the
accepting of connections to its user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from .handshake import PROTOCOL, read_head, upgrade_as_server

HOST = "127.0.0.1"
_BACKLOG = 1024


def announce(**fields: object) -> None:
    """Print one line of JSON for the process that started this one."""
    print(json.dumps(fields), flush=True)


def wait_end_of_input() -> None:
    """Block until the starting process closes our standard input."""
    while sys.stdin.readline():
        pass


def _serve_threads(handler: Callable[[socket.socket], None]) -> None:
    """Give each connection a thread, and the thread to ``handler``; the plainest threaded server
    there is.
    """
    listener = socket.create_server((HOST, 0), backlog=_BACKLOG)

    def run(sock: socket.socket) -> None:
        try:
            handler(sock)
        except OSError:
            pass
        finally:
            sock.close()

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=run, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    announce(port=listener.getsockname()[1])
    wait_end_of_input()


def bare(context: ssl.SSLContext | None = None) -> None:
    """Serve the yardstick: no WebSocket at all, what comes goes back."""

    def handler(sock: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            if context is not None:
                sock = stack.enter_context(context.wrap_socket(sock, server_side=True))
            while data := sock.recv(65536):
                sock.sendall(data)

    _serve_threads(handler)


def fast() -> None:
    """Serve WebSockets with next to nothing around the sockets: the server that clients are
    measured against.

    It checks nothing and joins no fragments, which is all right for the well-behaved clients it
    meets. A small message that comes alone, the ping of a ping-pong, takes a short cut.
    """

    def handler(sock: socket.socket) -> None:
        upgrade_as_server(sock)
        recv, send, number = sock.recv, sock.send, int.from_bytes
        starts = {
            bytes((first, 0x80 | size)): bytes((first, size))
            for first in (0x81, 0x82)
            for size in range(126)
        }
        data = b""
        while chunk := recv(65536):
            if not data and (head := starts.get(chunk[:2])) and len(chunk) == head[1] + 6:
                size = head[1]
                unmasked = number(chunk[6:], "little") ^ number((chunk[2:6] * 32)[:size], "little")
                send(head + unmasked.to_bytes(size, "little"))
                continue
            data = data + chunk if data else chunk
            answers = []
            while len(data) >= 6:
                size, start = data[1] & 0x7F, 6
                if size >= 126:
                    start = 8 if size == 126 else 14
                    if len(data) < start:
                        break
                    size = int.from_bytes(data[2 : start - 4], "big")
                end = start + size
                if len(data) < end:
                    break
                mask = data[start - 4 : start] * ((size + 3) // 4)
                masked = int.from_bytes(data[start:end], "little")
                payload = (masked ^ int.from_bytes(mask[:size], "little")).to_bytes(size, "little")
                opcode = data[0] & 0x0F
                first = b"\x8a" if opcode == 9 else data[:1]
                if opcode != 10:
                    answers.append(first + _length(size) + payload)
                if opcode == 8:
                    sock.sendall(b"".join(answers))
                    return
                data = data[end:]
            if answers:
                sock.sendall(answers[0] if len(answers) == 1 else b"".join(answers))

    _serve_threads(handler)


def _length(size: int) -> bytes:
    """Encode the length of an unmasked payload."""
    if size < 126:
        return bytes((size,))
    return struct.pack("!BH", 126, size) if size < 65536 else struct.pack("!BQ", 127, size)


def picows(context: ssl.SSLContext | None = None) -> None:
    """Serve with picows, that is Cython on asyncio, through its core API."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport

    class Echo(WSListener):  # type: ignore[misc,unused-ignore]
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    serve_picows(Echo, context)


def serve_picows(listener: Callable[[], Any], context: ssl.SSLContext | None = None) -> None:
    """Serve with picows, each connection with a *listener* of its own."""
    from picows import (
        WSUpgradeRequest,
        WSUpgradeResponse,
        WSUpgradeResponseWithListener,
        ws_create_server,
    )

    def accept(request: WSUpgradeRequest) -> Any:
        if "Sec-WebSocket-Protocol" not in request.headers:
            return listener()
        response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": PROTOCOL})
        return WSUpgradeResponseWithListener(response, listener())

    async def main() -> None:
        server = await ws_create_server(accept, HOST, 0, backlog=_BACKLOG, ssl=context)
        announce(port=server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, wait_end_of_input)

    asyncio.run(main())


def websockets(context: ssl.SSLContext | None = None) -> None:
    """Serve with the threads of websockets, its ``sync`` API."""
    from websockets.sync.server import ServerConnection, serve
    from websockets.typing import Subprotocol

    def handler(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    def select(_: ServerConnection, offered: object) -> Subprotocol | None:
        return Subprotocol(PROTOCOL) if offered else None

    listener = socket.create_server((HOST, 0), backlog=_BACKLOG)
    server = serve(
        handler,
        sock=listener,
        ssl=context,
        subprotocols=[Subprotocol(PROTOCOL)],
        select_subprotocol=select,
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce(port=server.socket.getsockname()[1])
    wait_end_of_input()


def websockets_asyncio(context: ssl.SSLContext | None = None) -> None:
    """Serve with websockets on asyncio."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.typing import Subprotocol

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    def select(_: ServerConnection, offered: object) -> Subprotocol | None:
        return Subprotocol(PROTOCOL) if offered else None

    async def main() -> None:
        async with serve(
            handler,
            HOST,
            0,
            ssl=context,
            backlog=_BACKLOG,
            subprotocols=[Subprotocol(PROTOCOL)],
            select_subprotocol=select,
        ) as server:
            announce(port=next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().run_in_executor(None, wait_end_of_input)

    asyncio.run(main())


def simple_websocket() -> None:
    """Serve with simple-websocket, which is handed the socket the way Werkzeug does it."""
    from simple_websocket import ConnectionClosed, Server

    def handler(sock: socket.socket) -> None:
        _, headers = read_head(sock)
        environ: dict[str, object] = {
            "HTTP_" + key.upper().replace("-", "_"): text for key, text in headers.items()
        }
        environ["werkzeug.socket"] = sock
        connection = Server(environ, subprotocols=[PROTOCOL])
        try:
            while True:
                connection.send(connection.receive())
        except ConnectionClosed:
            pass

    _serve_threads(handler)


def _mormot(
    *, asynchronous: bool = False, events: bool = False, context: ssl.SSLContext | None = None
) -> None:
    """Serve with the library under test."""
    from mormot_ws import (
        WebSocketAsyncServer,
        WebSocketFrame,
        WebSocketFrameOpCode,
        WebSocketProcess,
        WebSocketProtocolChat,
        WebSocketServer,
    )

    echoed = (WebSocketFrameOpCode.focText, WebSocketFrameOpCode.focBinary)

    def echo(sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode in echoed:
            sender.send_frame(frame)

    def echo_async(sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode in echoed:
            sender.send_frame_async(frame)

    kind = WebSocketAsyncServer if events else WebSocketServer
    server = kind(f"{HOST}:0", tls_context=context)
    server.websocket_protocols.add(
        WebSocketProtocolChat(PROTOCOL, "", echo_async if asynchronous else echo)
    )
    announce(port=server.port)
    wait_end_of_input()


def mormot_ws(context: ssl.SSLContext | None = None) -> None:
    """Serve with mormot_ws, answering with ``send_frame``."""
    _mormot(asynchronous=False, context=context)


def mormot_ws_async(context: ssl.SSLContext | None = None) -> None:
    """Serve with mormot_ws, answering with ``send_frame_async``."""
    _mormot(asynchronous=True, context=context)


def mormot_ws_events(context: ssl.SSLContext | None = None) -> None:
    """Serve with the event-driven server of mormot_ws."""
    _mormot(events=True, context=context)


def mormot_ws_below() -> None:
    """Serve with the classes below the front door of mormot_ws, and like it: texts are answered."""
    from mormot_ws import WebSocketFrame, WebSocketProcess, WebSocketProtocolChat, focText
    from mormot_ws.server.choice import server_class

    def echo(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            process.send_frame(WebSocketFrame(focText, frame.text))

    server = server_class()(f"{HOST}:0")
    server.websocket_protocols.add(WebSocketProtocolChat(PROTOCOL, "", echo))
    announce(port=server.port)
    wait_end_of_input()


def mormot_ws_door() -> None:
    """Serve with the front door of mormot_ws."""
    from mormot_ws import Peer, Server

    server = Server(0, address=HOST)

    @server.on_message(PROTOCOL)
    def echo(peer: Peer, message: str | bytes) -> None:
        peer.send(message)

    server.start()
    announce(port=server.port)
    wait_end_of_input()


SERVERS: dict[str, Callable[[], None]] = {
    "bare": bare,
    "fast": fast,
    "picows": picows,
    "websockets": websockets,
    "websockets-asyncio": websockets_asyncio,
    "simple-websocket": simple_websocket,
    "mormot_ws": mormot_ws,
    "mormot_ws-async": mormot_ws_async,
    "mormot_ws-events": mormot_ws_events,
    "mormot_ws-below": mormot_ws_below,
    "mormot_ws-door": mormot_ws_door,
}


TLS_SERVERS: dict[str, Callable[[ssl.SSLContext], None]] = {
    "bare": bare,
    "picows": picows,
    "websockets": websockets,
    "websockets-asyncio": websockets_asyncio,
    "mormot_ws": mormot_ws,
    "mormot_ws-async": mormot_ws_async,
    "mormot_ws-events": mormot_ws_events,
}


def _context(certificate: str) -> ssl.SSLContext:
    """Return the context that all servers get."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    return context


def main() -> None:
    """Run the server that the command line names."""
    name, certificate = (*sys.argv[1:], "", "")[:2]
    if len(sys.argv) > 3 or name not in (TLS_SERVERS if certificate else SERVERS):
        sys.exit(f"usage: python -m tests.benchmarks.servers {{{'|'.join(SERVERS)}}} [CERTIFICATE]")
    try:
        if certificate:
            TLS_SERVERS[name](_context(certificate))
        else:
            SERVERS[name]()
    except ImportError as error:
        announce(missing=str(error))
    sys.stdout.flush()
    os._exit(0)  # the threads of the libraries are not to delay the end


if __name__ == "__main__":
    main()
