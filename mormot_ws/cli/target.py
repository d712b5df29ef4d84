"""Makes the client of connect and bench from the arguments, and gives hints after failures."""

from __future__ import annotations

import argparse
import ssl

from ..client.arguments import parse_websocket_uri
from ..client.client import HttpClientWebSockets
from ..core.frames import WebSocketFrame
from ..logs import shown_uri
from ..process.process import WebSocketProcess
from ..protocols.any_of import AnyOf
from ..protocols.chat import OnIncomingFrame
from ..reconnect_policies import FailureKind, ReconnectFailure, failure_kind
from ..settings import WebSocketProcessSettings
from ..sockets.tls_contexts import client_tls_context

#: the reason phrase with which mORMot's and our servers refuse an unknown protocol
_MORMOT_REFUSAL = "WebSocket Upgrade Error"


class ConsoleProtocol(AnyOf):
    """Asks for any of *names*, or for no sub-protocol; *callback* receives the frames."""

    def __init__(self, names: list[str], callback: OnIncomingFrame) -> None:
        super().__init__(names)
        self._callback = callback

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Call *callback*, which never raises."""
        self._callback(process, frame)


class Target:
    """The server named on the command line, and how to reach it.

    Raises ``OSError`` for certificates that cannot be read.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        #: the URI as it is shown
        self.text: str = shown_uri(args.uri)
        self.host: str
        self.port: int
        self.resource: str
        self.tls: bool
        self.host, self.port, self.resource, self.tls = parse_websocket_uri(args.uri)
        self._args = args
        self._context: ssl.SSLContext | None = None
        if self.tls:
            self._context = client_tls_context(
                args.ca, args.cert, args.key, ignore_certificate_errors=args.insecure
            )

    def headers(self) -> str:
        """Return the header lines for one attempt.

        Raises ``OSError`` or ``ValueError`` when a token cannot be read.
        """
        lines = list(self._args.header)
        if self._args.bearer is not None:
            lines.append(f"Authorization: Bearer {self._args.bearer()}")
        return "\r\n".join(lines)

    def open(
        self, settings: WebSocketProcessSettings, connect: bool = True
    ) -> HttpClientWebSockets:
        """Return a client that has tried to open the TCP connection, unless *connect* is False.

        Raises ``ValueError`` for an invalid address or proxy.
        """
        args = self._args
        return HttpClientWebSockets(
            self.host,
            self.port,
            self.tls,
            self._context,
            round(args.timeout * 1000),
            settings=settings,
            process_name="mormot-ws",
            proxy=args.proxy,
            connect=connect,
        )

    def upgrade(self, client: HttpClientWebSockets, protocol: ConsoleProtocol) -> str:
        """Upgrade the open connection; return '' or the error."""
        if not client.connected:
            return client.last_error
        try:
            headers = self.headers()
        except (OSError, ValueError) as exc:
            return str(exc)
        return client.websockets_upgrade(self.resource, protocol=protocol, headers=headers)

    def failure(
        self, client: HttpClientWebSockets, text: str, attempts: int, elapsed_ms: float
    ) -> ReconnectFailure:
        """Return the failure of a first attempt, in the form that reconnection policies get."""
        upgrade = client.upgrade_failure
        if client.last_exception is not None:
            kind = failure_kind(client.last_exception)
        elif upgrade is not None and upgrade.timed_out:
            kind = FailureKind.timeout
        else:
            kind = FailureKind.upgrade
        return ReconnectFailure(
            kind, text, attempts, elapsed_ms, 0, 0 if upgrade is None else upgrade.http_status
        )

    def hint(self, failure: ReconnectFailure) -> str:
        """Return a hint what to try after *failure*; '': none."""
        args = self._args
        status = failure.http_status
        if status == 400 and _MORMOT_REFUSAL in failure.text:
            if args.protocol:
                return f"the server has no sub-protocol {' or '.join(args.protocol)} for this URI"
            return "this server requires a sub-protocol: try --protocol NAME"
        if status == 400 and not args.protocol:
            return "the server may require a sub-protocol: try --protocol NAME"
        if status in (401, 403):
            return "the server requires authentication: try --bearer or --header"
        if status in (404, 426) or (200 <= status < 400 and status != 101):
            return "there is no WebSocket endpoint at this path: check the URI"
        if failure.kind is FailureKind.tls and "CERTIFICATE_VERIFY_FAILED" in failure.text:
            return "try --ca FILE with the authority's certificate, or --insecure for testing"
        if failure.kind is FailureKind.tls:
            return "is it a TLS server? ws:// does not use TLS"
        if failure.kind is FailureKind.upgrade and not status and not self.tls:
            return "is it a TLS server? wss:// uses TLS"
        if failure.kind is FailureKind.refused and ": proxy " in failure.text:
            return "is the proxy running, and on this port?"
        if failure.kind is FailureKind.refused:
            return f"is the server running, and on this {'port' if self.port else 'socket'}?"
        return ""
