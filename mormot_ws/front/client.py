"""connect(): a client that connects in the background, and comes back by itself.

What it returns is in ``connection.py``, what its arguments may be in ``options.py``.
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
    additional_headers="give headers={name: value}",
    extra_headers="give headers={name: value}",
    header="give headers={name: value}",
    on_connect="on_open is called at each connection",
    ping_interval="give settings=WebSocketProcessSettings(heartbeat_delay=…), in milliseconds",
    reconnect="it always comes back; policy decides when",
    subprotocols="give protocol=[name, …]",
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
    proxy: str | None = None,
    policy: ReconnectPolicy | None = None,
    inbox: int = 1024,
    overflow: Overflow = "wait",
    compression: bool | PermessageDeflate | None = None,
    topics: bool | Mapping[str, Any] = False,
    timeout: float = 10.0,
    settings: WebSocketProcessSettings | None = None,
) -> Connection:
    """Return a :class:`Connection` to a WebSocket server at once, and let it connect in the
    background: the first time too, and again whenever it is lost, until it is closed.

    :param uri: ``ws://host:port/path?query`` or ``wss://…``, or a function that returns it for each
        attempt: with a fresh token, or to another server. ``ws+unix:/file:/path?query``: on a Unix
        socket.
    :param protocol: the sub-protocol to ask for, or several, the preferred one first.
    :param headers: of the upgrade, by name; or a function that returns them for each attempt.
    :param on_open: ``f(ws)``, called on each new connection, before any other thread can send on
        it: log in, subscribe.
    :param on_message: ``f(ws, message)`` with a ``str`` or ``bytes``; messages then go there
        instead of to :meth:`Connection.recv`. With the annotation ``str`` or ``bytes`` it gets
        only these; others are an error.
    :param on_close: ``f(ws, code, reason)``, called when a connection has ended, on either side.
    :param on_error: ``f(ws, error)``, called with what a callback has raised, with what an attempt
        to connect has failed with, and with :class:`GaveUp`.
    :param tls: for ``wss://``; None: the default, which checks the certificate and the name.
    :param proxy: ``http://…``, ``socks5://…``; '': none; None: as the environment says.
    :param policy: decides how long to wait between attempts, and when to give up; None:
        ``settings.reconnect_policy`` when that was set, else waits that grow from a tenth of a
        second to at most 4 s, and :class:`StopOn` for 401, 403, 404 and bad certificates.
    :param inbox: how many messages wait for :meth:`Connection.recv` at most.
    :param overflow: what a full inbox does: ``'wait'`` reads no further, so that the sender has to
        wait, too; ``'drop_oldest'`` message; ``'close'`` the connection for good.
    :param compression: offer permessage-deflate; None: as *settings* say, by default not.
    :param topics: True: for :meth:`Connection.subscribe` and :meth:`Connection.publish`, in place
        of messages; *protocol* then is ``'topics'`` when none is given. What ``ws.topics.state()``
        has returned in an earlier program: the same, and go on from there.
    :param timeout: seconds for connecting, for each handshake, and for a :meth:`Connection.send`
        that waits for the connection.
    :param settings: for everything else; None: their defaults, but two heartbeats without an answer
        end a connection, not five.

    The functions and callbacks run in the connection's own thread, one at a time. What they raise
    is logged, told to *on_error*, and changes nothing else; for a function it is a failed attempt.
    Raises ``ValueError``/``TypeError`` at once for what can never work.
    """
    if not isinstance(topics, (bool, Mapping)):
        raise TypeError(f"topics must be True, False or a saved state, not {type(topics).__name__}")
    lines = header_lines(headers)
    names = sub_protocols(protocol)
    wait = seconds("timeout", timeout)
    target = Target(uri, tls)
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
            connect=False,
        ),
        topics,
    )
