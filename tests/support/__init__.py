"""What the tests share: each helper once, in the module that its name tells.

The most used ones can be imported from here.
"""

from __future__ import annotations

from .endpoints import (
    active,
    any_alive,
    chat,
    connect,
    echo,
    echo_server,
    fast_settings,
    new_client,
    process_of,
    refused_port,
    send_text,
    text,
    upgrade,
)
from .foreign import foreign_server
from .places import HOST, ROOT
from .raw_peer import HttpHead, RawClient, RawPeer, RawServerPeer, accept_for, exchange, upgraded
from .raw_server import (
    Behaviour,
    RawServer,
    accept_and_close,
    answering,
    converse,
    drop_on_request,
    polite,
    remembering,
    sending,
    silent,
    truncated,
    upgrade_and_drop,
)
from .reconnection import FixedDelay, ReconnectingClient
from .recorder import Event, Recorder
from .waiting import BOUND, MS, TIMEOUT_FACTOR, in_threads, ms, wait_for, when_free

__all__ = [
    "BOUND",
    "Behaviour",
    "Event",
    "FixedDelay",
    "HOST",
    "HttpHead",
    "MS",
    "ROOT",
    "RawClient",
    "RawPeer",
    "RawServer",
    "RawServerPeer",
    "ReconnectingClient",
    "Recorder",
    "TIMEOUT_FACTOR",
    "accept_and_close",
    "accept_for",
    "active",
    "answering",
    "any_alive",
    "chat",
    "connect",
    "converse",
    "drop_on_request",
    "echo",
    "echo_server",
    "exchange",
    "fast_settings",
    "foreign_server",
    "in_threads",
    "ms",
    "new_client",
    "polite",
    "process_of",
    "refused_port",
    "remembering",
    "send_text",
    "sending",
    "silent",
    "text",
    "truncated",
    "upgrade",
    "upgrade_and_drop",
    "upgraded",
    "wait_for",
    "when_free",
]
