"""An echo server: every message goes back to its sender.

    python examples/server.py [--host 127.0.0.1] [--port 8999] [--protocol echo] [--async]

Open it in a browser to get a page that talks to it. Enter, Ctrl-C or SIGTERM stops it. After the
end of standard input it runs until a signal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpServerError,
    WebSocketAsyncServer,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focConnectionClose,
    focContinuation,
    focText,
)
from mormot_ws.page import answer_page, greet_page


class WebSocketProtocolEcho(WebSocketProtocolChat):
    """Sends every message back."""

    def echo_frame(self, sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Runs in the thread of the sender's connection. Never free() the server in here."""
        if frame.opcode is focContinuation:
            # a page that asks for it gets its connection ID; other clients get nothing
            greet_page(sender)
            say(f"#{sender.connection_id} connected from {sender.remote_ip}")
        elif frame.opcode is focConnectionClose:
            say(f"#{sender.connection_id} disconnected")
        else:
            self.send_frame(sender, frame)
            message = frame.text if frame.opcode is focText else frame.payload
            say(f"#{sender.connection_id} echo: {message!r:.100}")


def serve(port: str, name: str, by_events: bool = False) -> None:
    """Serve the protocol *name* on *port* until a line on standard input, or a signal.

    *port* is 'host:port'. *by_events*: use a few threads for all connections instead of one each.
    """
    protocol = WebSocketProtocolEcho(name, "")  # name, uri: '' accepts any URI
    protocol.on_incoming_frame = protocol.echo_frame
    # listens from here on; free() at the end says goodbye to all clients
    with WebSocketAsyncServer(port) if by_events else WebSocketServer(port) as server:
        server.websocket_protocols.add(protocol)  # add, not add_once
        server.on_request = partial(answer_page, protocol=name)  # the page for browsers
        entered = threading.Event()
        threading.Thread(target=wait_for_enter, args=(entered,), daemon=True).start()
        say(f"Listening on {server.host}:{server.port}, protocol {name!r}. Enter stops the server.")
        say(f"For a browser: http://{server.host.replace('0.0.0.0', 'localhost')}:{server.port}/")
        while not entered.wait(0.5):  # a signal ends this at once with an exception
            pass
    say("Stopped")


def wait_for_enter(entered: threading.Event) -> None:
    """Set *entered* when a line is typed.

    Runs in a separate thread, so that the main thread is free for signals.
    """
    with contextlib.suppress(OSError):  # there may be no standard input at all
        # not with sys.stdin, whose lock could keep the program from ending after a signal
        while data := os.read(0, 1024):
            if b"\n" in data:
                entered.set()
                break


def say(text: str) -> None:
    """Print a line as a whole and at once, because several threads print.

    The output may be a pipe.
    """
    # escape what a Windows code page does not have
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="A WebSocket echo server.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0: all (default %(default)s)",
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="0: any free port (default %(default)s)"
    )
    parser.add_argument("--protocol", default="echo", help="the sub-protocol (default %(default)s)")
    parser.add_argument(
        "--async",
        dest="by_events",
        action="store_true",
        help="use the event-driven server: a few threads for any number of clients",
    )
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # both raise KeyboardInterrupt here, in the main thread
        signal.signal(number, signal.default_int_handler)
    try:
        serve(f"{args.host}:{args.port}", args.protocol, args.by_events)
    except KeyboardInterrupt:
        say("Stopped by a signal")
    except (HttpServerError, ValueError) as exc:
        sys.exit(f"Cannot serve: {exc}")


if __name__ == "__main__":
    main()
