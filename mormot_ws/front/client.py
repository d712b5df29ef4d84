"""connect(): a client that connects in the background and reconnects automatically.

Its result is in ``connection.py``, the checks of its arguments in ``options.py``.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..client.client import HttpClientWebSockets
from ..core.deflate import PermessageDeflate
from ..reconnect_policies import ReconnectPolicy
from ..settings import WebSocketProcessSettings
from .attributes import explains_keywords
from .connection import Connection, OnClose, OnError, OnMessage, OnOpen
from .inbox import Overflow
from .options import (
    Target,
    header_lines,
    new_inbox,
    policy_of,
    seconds,
    settings_of,
    sub_protocols,
)


@explains_keywords(
    additional_headers="pass headers={name: value}",
    extra_headers="pass headers={name: value}",
    header="pass headers={name: value}",
    on_connect="on_open is called for each new connection",
    ping_interval="pass settings=WebSocketProcessSettings(heartbeat_delay=…), in milliseconds",
    reconnect="it always reconnects; policy decides when",
    subprotocols="pass protocol=[name, …]",
)
def connect(
    uri: str | Callable[[], str],
    *,
    protocol: str | Sequence[str] = "",
    headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
    on_open: OnOpen | None = None,
    on_message: OnMessage | None = None,
    on_close: OnClose | None = None,
    on_error: OnError | None = None,
    tls: ssl.SSLContext | None = None,
    tls_server_name: str | None = None,
    proxy: str | None = None,
    policy: ReconnectPolicy | None = None,
    inbox: int = 1024,
    overflow: Overflow = "wait",
    compression: bool | PermessageDeflate | None = None,
    topics: bool | Mapping[str, Any] = False,
    timeout: float = 10.0,
    settings: WebSocketProcessSettings | None = None,
) -> Connection:
    """Return a :class:`Connection` to a WebSocket server immediately. It connects in the
    background, and reconnects whenever the connection is lost, until you close it.

    :param uri: ``ws://host:port/path?query`` or ``wss://…``, or a function that returns it for each
        attempt, for example with a fresh token or for another server. ``ws+unix:/file:/path?query``
        connects to a Unix socket.
    :param protocol: the sub-protocol to request, or several in order of preference.
    :param headers: headers of the upgrade, by name, or a function that returns them for each
        attempt.
    :param on_open: ``f(ws)``, called on each new connection before any other thread can send on
        it; the place to log in or subscribe.
    :param on_message: ``f(ws, message)`` with a ``str`` or ``bytes``; replaces
        :meth:`Connection.recv`. If its parameter is annotated as ``str`` or ``bytes``, messages of
        the other type are an error.
    :param on_close: ``f(ws, code, reason)``, called when a connection has ended, on either side.
    :param on_error: ``f(ws, error)``, called with exceptions raised in callbacks, with the errors
        of failed attempts to connect, and with :class:`GaveUp`.
    :param tls: an ``ssl.SSLContext`` for ``wss://``; None: the default context, which verifies the
        certificate and the host name.
    :param tls_server_name: the name that the certificate must be valid for, if it is not the host
        in *uri*: behind a tunnel, or with an address instead of a name. It is sent as SNI.
    :param proxy: ``http://…``, ``socks5://…``; '': none; None: from the environment.
    :param policy: decides how long to wait between attempts, and when to give up; None:
        ``settings.reconnect_policy`` if it was set; otherwise waits that grow from a tenth of a
        second to at most 4 s, and :class:`StopOn` for 401, 403, 404 and rejected certificates.
    :param inbox: the maximum number of messages that can wait for :meth:`Connection.recv`.
    :param overflow: what to do when the inbox is full: ``'wait'`` stops reading, so that the sender
        has to wait, too; ``'drop_oldest'`` drops the oldest message; ``'close'`` closes the
        connection permanently.
    :param compression: offer permessage-deflate; None: as in *settings*, where it is off by
        default.
    :param topics: True: use :meth:`Connection.subscribe` and :meth:`Connection.publish` instead of
        messages; *protocol* is then ``'topics'`` by default. To continue where an earlier program
        stopped, pass what its ``ws.topics.state()`` returned.
    :param timeout: seconds for connecting, for each handshake, and for a :meth:`Connection.send`
        that waits for the connection.
    :param settings: all other settings; None: the defaults, except that a connection ends after two
        unanswered heartbeats instead of five.

    The functions and callbacks run in the connection's own thread, one at a time. An exception in
    a callback is logged and passed to *on_error*, and has no other effect; in a function for *uri*
    or *headers*, it makes the attempt fail. Raises ``ValueError``/``TypeError`` for invalid
    arguments.
    """
    if not isinstance(topics, (bool, Mapping)):
        raise TypeError(f"topics must be True, False or a saved state, not {type(topics).__name__}")
    lines = header_lines(headers)
    names = sub_protocols(protocol)
    wait = seconds("timeout", timeout)
    target = Target(uri, tls, tls_server_name)
    chosen = settings_of(settings, compression)
    return Connection(
        target,
        names,
        lines,
        {"on_open": on_open, "on_message": on_message, "on_close": on_close, "on_error": on_error},
        policy_of(policy, chosen),
        new_inbox(inbox, overflow),
        wait,
        lambda: HttpClientWebSockets(
            target.host,
            target.port,
            target.tls,
            tls,
            max(100, round(wait * 1000)),
            settings=chosen,
            proxy=proxy,
            tls_server_name=tls_server_name,
            connect=False,
        ),
        topics,
    )
