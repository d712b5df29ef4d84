"""A chat server with rooms, for chat_client.py in a terminal and chat.html in a browser.

    python examples/chat_server.py [--host 127.0.0.1] [--port 8999] [--room lobby]...
                                   [--redis URL] [--cert FILE [--key FILE]]

Ctrl-C or SIGTERM stops it. Open http://127.0.0.1:8999/ for the page. With --redis the rooms survive
a restart, and several servers share them.

A room is a topic: lines are published on it, and a client that reconnects gets those it has missed.
So this program only decides who may say what.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpServerError,
    Hub,
    MemoryHub,
    RedisHub,
    TopicLimits,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocol,
    WebSocketProtocolTopics,
    WebSocketServer,
)
from mormot_ws.page import answer_html

PAGE = Path(__file__).with_name("chat.html")
HISTORY = 50  # lines that a room remembers
HISTORY_AGE = 24 * 3_600_000  # milliseconds for which it remembers them
MAX_NAME = 30  # characters of a name
MAX_TEXT = 2_000  # characters of a line


class Chat:
    """The rules of the rooms. The methods run in the connections' threads."""

    def __init__(self, rooms: set[str]) -> None:
        self._rooms = rooms

    def protocol(self, hub: Hub) -> WebSocketProtocolTopics:
        """Return the protocol for the server."""
        return WebSocketProtocolTopics(
            "topics",
            "",
            hub,
            # a client that sends more has to wait a little
            limits=TopicLimits(max_publications_per_second=10, max_payload=16_384),
            presence=True,
            on_subscribe=self.enter,
            on_publish=self.say,
            on_member=lambda process, room: {"name": process.protocol.connection_opaque},
        )

    def enter(self, process: WebSocketProcess, room: str) -> bool | str:
        """Called when a client subscribes to a room."""
        return room in self._rooms or "there is no such room"

    def say(self, process: WebSocketProcess, room: str, data: Any) -> dict[str, Any] | str:
        """Called for each line; return what the others get, or the reason for a refusal."""
        if room not in self._rooms:
            return "there is no such room"
        match data:
            case {"text": str(text)} if text.strip() and len(text) <= MAX_TEXT:
                name = process.protocol.connection_opaque
                return {"name": name, "text": text, "time": int(time.time())}
        return f"a line must have 1 to {MAX_TEXT} characters"


def upgraded(protocol: WebSocketProtocol) -> int:
    """Check the name of a new client, which connects to ``/?name=…``.

    Pages of other sites are refused, because they could listen through a visitor's browser.
    Programs send no Origin.
    """
    origin = protocol.upgrade_header("Origin")
    if origin and urlsplit(origin).netloc != protocol.upgrade_header("Host"):
        return 403
    name = parse_qs(urlsplit(protocol.upgrade_uri).query).get("name", [""])[0].strip()
    protocol.connection_opaque = name
    return 200 if 0 < len(name) <= MAX_NAME and name.isprintable() else 400


def new_hub(redis: str) -> Hub:
    """Return the hub with the rooms: in Redis, or in memory."""
    if redis:
        return RedisHub(redis, history_count=HISTORY, history_age=HISTORY_AGE)
    return MemoryHub(history_count=HISTORY, history_age=HISTORY_AGE)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="A chat server based on topics.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
    parser.add_argument("--port", default=8999, type=int, help="0: any free port")
    parser.add_argument("--room", action="append", help="a room (default lobby); repeatable")
    parser.add_argument("--redis", metavar="URL", help="keep the rooms in Redis: redis://…")
    parser.add_argument("--cert", metavar="FILE", help="certificate chain in PEM: https and wss")
    parser.add_argument("--key", metavar="FILE", help="private key, if not in the same file")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # both raise KeyboardInterrupt here, in the main thread
        signal.signal(number, signal.default_int_handler)
    settings = WebSocketProcessSettings(
        max_message_bytes=32_768,
        # a client that is silent for 30 s counts as lost
        heartbeat_delay=10_000,
        disconnect_after_invalid_heartbeat_count=2,
    )
    chat = Chat(set(args.room or ["lobby"]))

    def prepare(server: WebSocketServer) -> None:
        server.on_request = lambda ctxt: answer_html(ctxt, PAGE.read_text("utf-8"))
        server.on_websocket_upgraded = upgraded
        server.websocket_protocols.add(chat.protocol(hub))

    try:
        with (
            new_hub(args.redis) as hub,
            WebSocketServer(
                f"{args.host}:{args.port}",
                prepare=prepare,
                settings=settings,
                certificate_file=args.cert,
                private_key_file=args.key,
            ) as server,
        ):
            print(f"Listening on {server.host}:{server.port}. Ctrl-C stops the server.", flush=True)
            host = server.host.replace("0.0.0.0", "localhost")
            scheme = "https" if args.cert else "http"
            print(f"For a browser: {scheme}://{host}:{server.port}/", flush=True)
            while not threading.Event().wait(0.5):  # on Windows, Ctrl-C ends only short waits
                pass
    except KeyboardInterrupt:
        print("Stopped by a signal", flush=True)
    except (HttpServerError, ValueError, OSError, ImportError) as exc:
        sys.exit(f"Cannot serve: {exc}")


if __name__ == "__main__":
    main()
