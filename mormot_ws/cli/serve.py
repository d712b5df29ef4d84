"""``serve``: an echo, chat or broadcast server that prints its counters."""

from __future__ import annotations

import argparse
import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from ..core.addresses import is_unix, websocket_uri
from ..core.frames import WebSocketFrame, focBinary, focConnectionClose, focContinuation, focText
from ..errors import HttpServerError
from ..logs import shown_name, shown_uri
from ..page import answer_page, greet_page
from ..process.process import WebSocketProcess
from ..protocols.any_name import AnyNameList
from ..protocols.chat import WebSocketProtocolChat
from ..server.accepting import ListeningServer
from ..server.choice import server_class
from ..server.listening import is_ip
from ..settings import WebSocketProcessSettings
from ..sockets.systems import error_text
from ..sockets.tls_contexts import server_tls_context
from ..status import ServerStatus
from ..topics.protocol import WebSocketProtocolTopics
from ..topics.server_side import TopicsStatus
from .figures import size
from .inputs import PipeInput
from .mailbox import SIGNAL_CODES, Mailbox, News
from .output import Output, has_module
from .topics import NAME as TOPICS
from .topics import new_hub

#: status lines between two headers
_HEADER_EVERY = 20
#: descriptions of the counters, in the order of the table
_COUNTERS = {
    "connections": "WebSocket connections",
    "sockets": "TCP connections",
    "accepted": "accepted",
    "turned_away": "turned away by a limit",
    "upgraded": "upgraded",
    "refused": "upgrades refused",
    "frames_in": "messages received",
    "frames_out": "messages sent",
    "bytes_in": "bytes received",
    "bytes_out": "bytes sent",
}


class Room:
    """Passes messages between connections. The callback runs in their threads."""

    def __init__(self, mode: str, output: Output) -> None:
        self._mode = mode
        self._output = output
        #: set before the server gets its protocols, so before any callback
        self.server: ListeningServer | None = None
        #: the topics, and their hub; None without ``--hub``
        self.topics: WebSocketProtocolTopics | None = None
        #: guards the table below; last in the lock order
        self._safe_ids = threading.Lock()
        self._ids: set[int] = set()

    def opened(self, server: ListeningServer, args: argparse.Namespace) -> None:
        """Prepare for the clients of *server*, before the first one connects."""
        self.server = server
        if args.hub:
            self.topics = WebSocketProtocolTopics(
                TOPICS, args.uri, new_hub(args.hub), presence=True
            )
            server.websocket_protocols.add(self.topics)

    def close(self) -> None:
        """Free the hub, after the server."""
        if self.topics is not None and self.topics.hub is not None:
            self.topics.hub.free()

    def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Handle the beginning or end of a connection, or a message."""
        number = process.connection_id
        if frame.opcode is focContinuation:
            with self._safe_ids:
                self._ids.add(number)
            name = shown_name(process.protocol.name)
            named = f", protocol {name!r}" if name else ""
            self._output.event(
                "connected",
                f"#{number} connected from {process.remote_ip}{named}",
                "dim",
                connection_id=number,
                remote_ip=process.remote_ip,
                protocol=name,
                uri=shown_uri(process.protocol.upgrade_uri),
            )
            greet_page(process)
        elif frame.opcode is focConnectionClose:
            with self._safe_ids:
                self._ids.discard(number)
            said = f"{process.close_code} {process.close_reason or process.last_error}".rstrip()
            self._output.event(
                "disconnected",
                f"#{number} disconnected: {said}",
                "dim",
                connection_id=number,
                code=process.close_code,
                reason=process.close_reason,
                why=process.last_error,
            )
        elif self._mode == "echo":
            process.send_frame(frame)
        elif self._mode == "chat":
            with self._safe_ids:
                others = self._ids - {number}
            assert self.server is not None
            self.server.websocket_broadcast(frame, others)


class StatusLines:
    """Formats the counters as table lines, with the rates since the previous line."""

    _FORMAT = "{:>6} {:>7} {:>7} {:>7} {:>10} {:>10} {:>12} {:>12} {:>9} {:>9}"
    _HEADS = (
        "conns",
        "accept",
        "refused",
        "away",
        "msgs in/s",
        "out/s",
        "msgs in",
        "out",
        "in/s",
        "out/s",
    )

    def __init__(self) -> None:
        self._lines = 0
        self._last = (0, 0, 0, 0)
        self._last_at = monotonic()

    def next(self, status: ServerStatus, now: float) -> list[str]:
        """Return the line for *status* at the monotonic time *now*, after a header if it is due."""
        seconds = max(now - self._last_at, 0.001)
        present = (status.frames_in, status.frames_out, status.bytes_in, status.bytes_out)
        rates = [(value - last) / seconds for value, last in zip(present, self._last, strict=True)]
        self._last, self._last_at = present, now
        line = self._FORMAT.format(
            status.connections,
            status.accepted,
            status.refused,
            status.turned_away,
            f"{rates[0]:.0f}",
            f"{rates[1]:.0f}",
            status.frames_in,
            status.frames_out,
            size(rates[2]),
            size(rates[3]),
        )
        lines = [line] if self._lines % _HEADER_EVERY else [self._FORMAT.format(*self._HEADS), line]
        self._lines += 1
        return lines


def serve(args: argparse.Namespace, mailbox: Mailbox, output: Output) -> int:
    """Run the command; return its exit code. Called in the main thread."""
    if not is_certificate_usable(args, output):
        return 1
    room = Room(args.mode, output)
    if args.metrics and not has_module("prometheus_client"):
        output.error("--metrics requires prometheus-client: pip install 'mormot_ws[metrics]'")
        return 1
    try:
        server = make_server(
            args, room, port=args.where, reuse_port=args.reuse_port, unix_mode=args.unix_mode
        )
    except HttpServerError as exc:
        output.error(_why_not(exc, args.where))
        return 1
    except (ImportError, ValueError) as exc:
        # redis-py is missing, or the system cannot share ports
        output.error(str(exc))
        return 1
    with contextlib.closing(room), server:
        uri = websocket_uri(server.host, server.port, args.uri, bool(args.cert))
        output.event(
            "listening",
            f"Listening on {uri} ({what_is_served(args)}); Ctrl-C stops the server",
            "good",
            uri=uri,
            host=server.host,
            port=server.port,
            mode=args.mode,
        )
        source = (
            PipeInput(mailbox, lambda line: _broadcast(server, line))
            if args.mode == "broadcast"
            else None
        )
        code = wait_for_end(args, mailbox, output, server.status)
        if args.drain and not code:
            server.is_ready = False
            output.event(
                "draining", f"Health checks get 503 for {args.drain:g} s, then the server stops"
            )
            # a second signal ends the wait
            mailbox.next(args.drain)
        if source is not None:
            source.stop()
    tell_counters(args, output, server.status())
    if room.topics is not None:
        tell_topics(args, output, room.topics.status())
    return code


def make_server(
    args: argparse.Namespace, room: Room, port: str | None = None, **place: Any
) -> ListeningServer:
    """Return the server. Raises what its constructor raises."""

    def prepare(server: ListeningServer) -> None:
        _offer(server, args, room.on_incoming_frame)
        room.opened(server, args)
        if args.metrics:
            from ..metrics import Metrics

            Metrics().serve_on(server, args.metrics)

    return server_class()(
        port,
        process_name="mormot-ws",
        settings=_settings(args),
        tls_context=_context(args),
        prepare=prepare,
        **place,
    )


def what_is_served(args: argparse.Namespace) -> str:
    """Return the mode, and the topics if there are any, for the line printed at the start."""
    return f"{args.mode}, {TOPICS}" if args.hub else str(args.mode)


def is_certificate_usable(args: argparse.Namespace, output: Output) -> bool:
    """Return whether the certificate can be used, if there is one; report why not."""
    try:
        _context(args)
    except OSError as exc:
        output.error(f"cannot use the certificate: {exc}")
        return False
    return True


def _context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if not args.cert:
        return None
    return server_tls_context(args.cert, args.key, ca_certificates_file=args.client_ca)


def tell_counters(args: argparse.Namespace, output: Output, status: ServerStatus) -> None:
    """Print the counters at the end."""
    final = status.as_dict()
    if args.json:
        output.event("stopped", **final)
    else:
        output.table("Counters at the end", {text: final[name] for name, text in _COUNTERS.items()})


def tell_topics(args: argparse.Namespace, output: Output, status: TopicsStatus) -> None:
    """Print the counters of the topics at the end."""
    final = status.as_dict()
    if args.json:
        output.event("topics", **final)
    else:
        output.table("Topics", {name.replace("_", " "): value for name, value in final.items()})


def wait_for_end(
    args: argparse.Namespace,
    mailbox: Mailbox,
    output: Output,
    get_status: Callable[[], ServerStatus],
) -> int:
    """Print the status until a letter ends the command; return the exit code."""
    lines = StatusLines()
    due = monotonic() + args.status if args.status else None
    while True:
        letter = mailbox.next(None if due is None else due - monotonic())
        if letter is None:
            assert due is not None
            due += args.status
            status = get_status()
            if args.json:
                output.event("status", **status.as_dict())
            else:
                for line in lines.next(status, monotonic()):
                    output.line(line)
        elif letter.news is News.output_gone:
            return SIGNAL_CODES[letter.news]
        elif letter.news is News.ended:
            return letter.value
        elif letter.news in (News.interrupt, News.terminate, News.input_end):
            return 0


def _offer(server: ListeningServer, args: argparse.Namespace, callback: Callable[..., Any]) -> None:
    """Add the protocols, and the page for browsers."""
    if args.protocol:
        server.websocket_protocols.add(WebSocketProtocolChat(args.protocol, args.uri, callback))
    else:
        server.websocket_protocols = AnyNameList(WebSocketProtocolChat("", args.uri, callback))
    server.on_request = partial(answer_page, protocol=args.protocol or "", uri=args.uri)


def _broadcast(server: ListeningServer, line: bytes) -> bool:
    """Send a line of standard input to all clients, as text if it is UTF-8."""
    try:
        line.decode("utf-8")
        opcode = focText
    except UnicodeDecodeError:
        opcode = focBinary
    server.websocket_broadcast(WebSocketFrame(opcode, line))
    return True


def _settings(args: argparse.Namespace) -> WebSocketProcessSettings:
    return WebSocketProcessSettings(
        heartbeat_delay=round(args.heartbeat * 1000),
        max_connections=args.max_connections,
        max_connections_per_ip=args.max_per_ip,
        max_message_bytes=args.max_message,
        max_frame_mb=1024,  # so that max_message_bytes is the limit
        allowed_origins=set(args.origin) or None,
        permessage_deflate=args.deflate,
        health_path=args.health,
        proxy_protocol_from=args.proxy_protocol,
    )


def _why_not(error: HttpServerError, address: str) -> str:
    """Return in one line why the server cannot listen."""
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno is None or isinstance(cause, socket.gaierror):
        return str(error)
    if not (is_unix(address) or is_ip(address)):
        return str(error)
    hint = ""
    if cause.errno == errno.EADDRINUSE:
        hint = (
            "; another program listens there" if is_unix(address) else "; --port 0 picks a free one"
        )
    return f"cannot listen on {address}: {error_text(cause)}{hint}"
