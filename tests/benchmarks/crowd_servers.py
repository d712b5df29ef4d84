# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""Servers that do more than echo: ``python -m tests.benchmarks.crowd_servers JOB LIBRARY``.

* ``broadcast``: each message that comes goes to all connections, as 64 bytes of text;
* ``compute``: each message is answered after a millisecond of computing;
* ``deflate``: an echo that accepts permessage-deflate.

They start, announce themselves and end like those of ``servers``.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Callable

from .handshake import PROTOCOL
from .servers import HOST, announce, serve_picows, wait_end_of_input

CAST = b"c" * 64
"""What ``broadcast`` sends."""


def compute() -> None:
    """Compute for one millisecond of this thread."""
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass


def picows(job: str) -> None:
    """Serve with picows; its broadcast is a loop over the transports."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport

    transports: set[WSTransport] = set()

    class Listener(WSListener):  # type: ignore[misc,unused-ignore]
        def on_ws_connected(self, transport: WSTransport) -> None:
            transports.add(transport)

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            transports.discard(transport)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            elif job == "compute":
                compute()
                transport.send(frame.msg_type, frame.get_payload_as_memoryview())
            else:
                for each in transports:
                    each.send(WSMsgType.TEXT, CAST)

    serve_picows(Listener)


def websockets_asyncio(job: str) -> None:
    """Serve with websockets on asyncio; its broadcast is its own function."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    from websockets.typing import Subprotocol

    connections: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            async for message in connection:
                if job == "broadcast":
                    broadcast(connections, CAST.decode())
                else:
                    if job == "compute":
                        compute()
                    await connection.send(message)
        finally:
            connections.discard(connection)

    async def main() -> None:
        async with serve(
            handler,
            HOST,
            0,
            backlog=4096,
            compression="deflate" if job == "deflate" else None,
            subprotocols=[Subprotocol(PROTOCOL)],
        ) as server:
            announce(port=next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().run_in_executor(None, wait_end_of_input)

    asyncio.run(main())


def _mormot(job: str, *, events: bool) -> None:
    """Serve with the library under test."""
    from mormot_ws import (
        WebSocketAsyncServer,
        WebSocketFrame,
        WebSocketProcess,
        WebSocketProcessSettings,
        WebSocketProtocolChat,
        WebSocketServer,
        focBinary,
        focText,
    )

    def answer(sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode not in (focText, focBinary):
            return
        if job == "broadcast":
            server.websocket_broadcast(WebSocketFrame(focText, CAST))
            return
        if job == "compute":
            compute()
        sender.send_frame(frame)

    # no pings: the receivers of the broadcast would take them for it
    settings = WebSocketProcessSettings(permessage_deflate=job == "deflate", heartbeat_delay=0)
    kind = WebSocketAsyncServer if events else WebSocketServer
    server = kind(f"{HOST}:0", settings=settings)
    server.websocket_protocols.add(WebSocketProtocolChat(PROTOCOL, "", answer))
    announce(port=server.port)
    wait_end_of_input()


JOBS = ("broadcast", "compute", "deflate")
LIBRARIES: dict[str, Callable[[str], None]] = {
    "picows": picows,
    "websockets-asyncio": websockets_asyncio,
    "mormot_ws": lambda job: _mormot(job, events=False),
    "mormot_ws-events": lambda job: _mormot(job, events=True),
}


def main() -> None:
    """Run the server that the command line names."""
    if len(sys.argv) != 3 or sys.argv[1] not in JOBS or sys.argv[2] not in LIBRARIES:
        sys.exit(
            f"usage: python -m tests.benchmarks.crowd_servers {{{'|'.join(JOBS)}}} "
            f"{{{'|'.join(LIBRARIES)}}}"
        )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        LIBRARIES[sys.argv[2]](sys.argv[1])
    except ImportError as error:
        announce(missing=str(error))
    sys.stdout.flush()
    # the threads of the libraries are not to delay the end
    os._exit(0)


if __name__ == "__main__":
    main()
