"""A client that sends what is typed, prints the echo, and reconnects by itself.

    python examples/client.py [--host 127.0.0.1] [--port 8999] [--protocol echo] [--uri '']

Each line is sent; an empty line prints the status; Q (or the end of input, or Ctrl-C) quits.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProtocolChat,
    focConnectionClose,
    focText,
    wpsRun,
)


class EchoClient:
    """The application.

    Its callbacks run in the client's thread, one at a time, and must never free() the client.
    """

    def __init__(self, host: str, port: int, name: str) -> None:
        self.protocol = WebSocketProtocolChat(name, "")  # the server's name for it
        self.protocol.on_incoming_frame = self.on_incoming_frame
        self.client = HttpClientWebSockets.open(host, port)
        self.reconnect_count = 0
        # the number of messages whose echo is missing; guarded by the condition
        self._missing = 0
        self._missing_changed = threading.Condition()

    def connect(self, uri: str) -> str:
        """Upgrade to WebSocket and enable reconnection; return '' or the error."""
        error = self.client.websockets_upgrade(uri, protocol=self.protocol)
        if self.client.websockets is not None:
            self.client.websockets.on_reconnect = self.do_reconnect
        return error

    def do_reconnect(self, process: WebSocketProcessClient | None) -> str:
        """The connection is lost; the client's thread has just tried to reopen its TCP socket."""
        if process is None:
            # that failed; after a growing pause the thread tries again
            self.reconnect_count += 1
            say(f"Reconnection attempt #{self.reconnect_count} failed")
            return "Retry"
        # the TCP connection is open, but not a WebSocket yet: upgrade it, with the same URI and
        # protocol object
        error = self.client.websockets_upgrade(
            process.protocol.upgrade_uri,
            "",  # key
            False,  # ajax
            frozenset(),  # options
            process.protocol,
            "",  # headers
            True,  # reconnect
        )
        if error:
            self.reconnect_count += 1
            say(f"WebSocket upgrade failed after reconnect: {error}")
            return "Retry"  # any text closes the socket and tries again later
        self.reconnect_count = 0
        say(f"Reconnected! ConnectionID: {process.connection_id}")
        # here an application would log in again, renew its subscriptions, and so on
        return ""  # success

    def on_incoming_frame(self, sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Called for each message, and when the connection opens or ends.

        The opcode is focContinuation at the start and focConnectionClose at the end.
        """
        if frame.opcode is focText:
            say(f"[ECHO] {frame.text}")
            self._count(-1)
        elif frame.opcode is focConnectionClose:
            say("[CLOSED]")
            self._count(None)

    def send(self, line: str) -> None:
        """Send one line."""
        self._count(1)
        if not self.protocol.send_frame(self.client.websockets, WebSocketFrame(focText, line)):
            self._count(-1)
            say("Not sent: disconnected")

    def wait_for_echoes(self, seconds: float) -> None:
        """Wait for all missing echoes: after free() no message is delivered."""
        with self._missing_changed:
            self._missing_changed.wait_for(lambda: self._missing <= 0, seconds)

    def _count(self, change: int | None) -> None:
        """Add *change* to the number of missing echoes; None: no more will arrive."""
        with self._missing_changed:
            self._missing = 0 if change is None else self._missing + change
            self._missing_changed.notify_all()

    def status(self) -> str:
        """Return the state in one line."""
        process = self.client.websockets
        assert process is not None
        word = "Connected" if process.state is wpsRun else "Disconnected"
        return (
            f"{word}, ConnectionID: {process.connection_id}, reconnection attempts:"
            f" {self.reconnect_count}"
        )


def say(text: str) -> None:
    """Print a line as a whole and at once, because several threads print.

    The output may be a pipe.
    """
    # escape what a Windows code page does not have
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def talk(app: EchoClient) -> None:
    """Handle the lines of standard input until Q or their end."""
    say(f"{app.status()}. Type a message; an empty line shows the status, Q quits.")
    for raw in sys.stdin.buffer if sys.stdin else ():
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.strip().upper() == "Q":
            break
        if line:
            app.send(line)
        else:
            say(app.status())
    if app.client.websockets is not None and app.client.websockets.state is wpsRun:
        app.wait_for_echoes(1.0)


def main() -> None:
    """Read the command line, connect and send what is typed."""
    parser = argparse.ArgumentParser(description="A WebSocket client that reconnects.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the server's name or address (default %(default)s)"
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="the server's port (default %(default)s)"
    )
    parser.add_argument("--protocol", default="echo", help="the sub-protocol (default %(default)s)")
    parser.add_argument("--uri", default="", help="the path of the upgrade (default: /)")
    args = parser.parse_args()
    try:
        app = EchoClient(args.host, args.port, args.protocol)
        with app.client:  # frees it at the end, in this thread; never in a callback
            error = app.connect(args.uri)
            if error:
                if error == "Not Connected":
                    error = f"no server is listening ({app.client.last_error})"
                sys.exit(f"Cannot connect to {args.host}:{args.port}: {error}")
            talk(app)
    except KeyboardInterrupt:
        pass
    except ValueError as exc:
        sys.exit(f"Cannot connect: {exc}")


if __name__ == "__main__":
    main()
