"""mormot_ws: threaded WebSocket client and server that reconnect by themselves, after the classes
of mORMot 2.

The public names are those below; everything else may change. See the README for a server and a
client to copy.

Each name is imported from its module when it is first used (PEP 562), so that a program pays only
for what it needs: a client does not load the server, and a server does not load what only a TLS
client wants.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors: the same names as in the table below
    from .client.client import HttpClientWebSockets
    from .client.thread import WebSocketProcessClient, WebSocketProcessClientThread
    from .core.deflate import PermessageDeflate
    from .core.frames import (
        WebSocketFrame,
        WebSocketFrameList,
        WebSocketFrameOpCode,
        WebSocketFramePayload,
        close_payload,
        encode_frame,
        focBinary,
        focConnectionClose,
        focContinuation,
        focPing,
        focPong,
        focText,
        fopAlreadyCompressed,
        parse_close_payload,
    )
    from .core.incoming import WebProcessInFrame, WebProcessInFrameState
    from .errors import (
        HttpServerError,
        ServiceConnectionError,
        ServiceError,
        ServiceTimeoutError,
        WebSocketsError,
        WebSocketsProtocolError,
    )
    from .process.on_socket import WebCrtSocketProcess
    from .process.process import WebSocketProcess
    from .protocols.base import WebSocketProtocol
    from .protocols.chat import WebSocketProtocolChat
    from .protocols.offered import WebSocketProtocolList
    from .protocols.signed_uri import WebSocketProtocolUri
    from .reconnect_policies import (
        ExponentialBackoff,
        FailureKind,
        LinearBackoff,
        ReconnectFailure,
        ReconnectPolicy,
        StopOn,
    )
    from .request import HttpServerRequest
    from .rest.protocols import (
        WebSocketProtocolBinary,
        WebSocketProtocolJson,
        WebSocketProtocolRest,
    )
    from .server.connection import WebSocketProcessServer, WebSocketServerSocket
    from .server.rest import WebSocketServerRest
    from .server.threaded import WebSocketServer
    from .services.remote import ClientServices, ServerServices
    from .settings import (
        WebSocketProcessSettings,
        WebSocketProcessSettingsLogDetails,
        logBinaryFrameContent,
        logHeartbeat,
        logTextFrameContent,
    )
    from .sockets.crtsocket import CrtSocket
    from .sockets.tls_contexts import client_tls_context, server_tls_context
    from .states import (
        WebSocketProcessClientThreadState,
        WebSocketProcessNotifyCallback,
        WebSocketProcessState,
        WebSocketProtocolBinaryOptions,
        pboNoLocalHostCompress,
        pboNoLocalHostEncrypt,
        pboSynLzCompress,
        sClosed,
        sCreate,
        sFinished,
        sRun,
        wpsClose,
        wpsCreate,
        wpsDestroy,
        wpsRun,
        wscBlockWithAnswer,
        wscBlockWithoutAnswer,
        wscNonBlockWithoutAnswer,
    )
    from .status import ClientStatus, ConnectionStatus, ServerStatus

#: which module each public name comes from
_NAMES_OF_MODULES: dict[str, tuple[str, ...]] = {
    "protocols.chat": ("WebSocketProtocolChat",),
    "client.client": ("HttpClientWebSockets",),
    "client.thread": ("WebSocketProcessClient", "WebSocketProcessClientThread"),
    "request": ("HttpServerRequest",),
    "process.on_socket": ("WebCrtSocketProcess",),
    "core.deflate": ("PermessageDeflate",),
    "errors": (
        "HttpServerError",
        "ServiceConnectionError",
        "ServiceError",
        "ServiceTimeoutError",
        "WebSocketsError",
        "WebSocketsProtocolError",
    ),
    "core.frames": (
        "WebSocketFrame",
        "WebSocketFrameList",
        "WebSocketFrameOpCode",
        "WebSocketFramePayload",
        "close_payload",
        "encode_frame",
        "focBinary",
        "focConnectionClose",
        "focContinuation",
        "focPing",
        "focPong",
        "focText",
        "fopAlreadyCompressed",
        "parse_close_payload",
    ),
    "core.incoming": ("WebProcessInFrame", "WebProcessInFrameState"),
    "process.process": ("WebSocketProcess",),
    "protocols.base": ("WebSocketProtocol",),
    "protocols.offered": ("WebSocketProtocolList",),
    "reconnect_policies": (
        "ExponentialBackoff",
        "FailureKind",
        "LinearBackoff",
        "ReconnectFailure",
        "ReconnectPolicy",
        "StopOn",
    ),
    "rest.protocols": ("WebSocketProtocolBinary", "WebSocketProtocolJson", "WebSocketProtocolRest"),
    "server.connection": ("WebSocketProcessServer", "WebSocketServerSocket"),
    "server.threaded": ("WebSocketServer",),
    "server.rest": ("WebSocketServerRest",),
    "services.remote": ("ClientServices", "ServerServices"),
    "settings": (
        "WebSocketProcessSettings",
        "WebSocketProcessSettingsLogDetails",
        "logBinaryFrameContent",
        "logHeartbeat",
        "logTextFrameContent",
    ),
    "sockets.crtsocket": ("CrtSocket",),
    "states": (
        "WebSocketProcessClientThreadState",
        "WebSocketProcessNotifyCallback",
        "WebSocketProcessState",
        "WebSocketProtocolBinaryOptions",
        "pboNoLocalHostCompress",
        "pboNoLocalHostEncrypt",
        "pboSynLzCompress",
        "sClosed",
        "sCreate",
        "sFinished",
        "sRun",
        "wpsClose",
        "wpsCreate",
        "wpsDestroy",
        "wpsRun",
        "wscBlockWithAnswer",
        "wscBlockWithoutAnswer",
        "wscNonBlockWithoutAnswer",
    ),
    "status": ("ClientStatus", "ConnectionStatus", "ServerStatus"),
    "sockets.tls_contexts": ("client_tls_context", "server_tls_context"),
    "protocols.signed_uri": ("WebSocketProtocolUri",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF_MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import *name* from its module, and keep it here for the next time."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names: what an editor is to offer."""
    return [*__all__, "__version__"]


__all__ = [
    "ClientServices",
    "CrtSocket",
    "ExponentialBackoff",
    "FailureKind",
    "HttpClientWebSockets",
    "HttpServerError",
    "HttpServerRequest",
    "LinearBackoff",
    "ReconnectFailure",
    "ReconnectPolicy",
    "ClientStatus",
    "ConnectionStatus",
    "ServerServices",
    "ServerStatus",
    "ServiceConnectionError",
    "ServiceError",
    "ServiceTimeoutError",
    "StopOn",
    "WebCrtSocketProcess",
    "WebProcessInFrame",
    "WebProcessInFrameState",
    "WebSocketFrame",
    "WebSocketFrameList",
    "WebSocketFrameOpCode",
    "WebSocketFramePayload",
    "WebSocketProcess",
    "WebSocketProcessClient",
    "WebSocketProcessClientThread",
    "WebSocketProcessClientThreadState",
    "WebSocketProcessServer",
    "WebSocketProcessNotifyCallback",
    "WebSocketProcessSettings",
    "WebSocketProcessSettingsLogDetails",
    "WebSocketProcessState",
    "WebSocketProtocol",
    "WebSocketProtocolBinary",
    "WebSocketProtocolBinaryOptions",
    "WebSocketProtocolChat",
    "WebSocketProtocolJson",
    "WebSocketProtocolList",
    "WebSocketProtocolRest",
    "WebSocketProtocolUri",
    "WebSocketServer",
    "WebSocketServerRest",
    "WebSocketServerSocket",
    "WebSocketsError",
    "WebSocketsProtocolError",
    "PermessageDeflate",
    "client_tls_context",
    "server_tls_context",
    "close_payload",
    "encode_frame",
    "focBinary",
    "focConnectionClose",
    "focContinuation",
    "focPing",
    "focPong",
    "focText",
    "fopAlreadyCompressed",
    "logBinaryFrameContent",
    "logHeartbeat",
    "logTextFrameContent",
    "parse_close_payload",
    "pboNoLocalHostCompress",
    "pboNoLocalHostEncrypt",
    "pboSynLzCompress",
    "sClosed",
    "sCreate",
    "sFinished",
    "sRun",
    "wpsClose",
    "wpsCreate",
    "wpsDestroy",
    "wpsRun",
    "wscBlockWithAnswer",
    "wscBlockWithoutAnswer",
    "wscNonBlockWithoutAnswer",
]
