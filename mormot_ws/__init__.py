"""mormot_ws: threaded WebSocket client and server that reconnect by themselves, after the classes of mORMot 2.

The public names are those below; everything else may change. See the README for a server and a client to copy.
"""

from __future__ import annotations

from .chat import WebSocketProtocolChat
from .client import HttpClientWebSockets
from .clientthread import WebSocketProcessClient, WebSocketProcessClientThread
from .crtprocess import WebCrtSocketProcess
from .deflate import PermessageDeflate
from .errors import HttpServerError, WebSocketsError, WebSocketsProtocolError
from .frames import (
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
from .httpserver import HttpServerRequest
from .incoming import WebProcessInFrame, WebProcessInFrameState
from .process import WebSocketProcess
from .protocols import WebSocketProtocol, WebSocketProtocolList
from .reconnect import ExponentialBackoff, FailureKind, LinearBackoff, ReconnectFailure, ReconnectPolicy, StopOn
from .server import WebSocketProcessServer, WebSocketServer, WebSocketServerSocket
from .settings import (
    WebSocketProcessSettings,
    WebSocketProcessSettingsLogDetails,
    logBinaryFrameContent,
    logHeartbeat,
    logTextFrameContent,
)
from .sockets import CrtSocket
from .states import (
    WebSocketProcessClientThreadState,
    WebSocketProcessState,
    sClosed,
    sCreate,
    sFinished,
    sRun,
    wpsClose,
    wpsCreate,
    wpsDestroy,
    wpsRun,
)
from .status import ClientStatus, ConnectionStatus, ServerStatus
from .tls import client_tls_context, server_tls_context

__version__ = "0.1.0"

__all__ = [
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
    "ServerStatus",
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
    "WebSocketProcessSettings",
    "WebSocketProcessSettingsLogDetails",
    "WebSocketProcessState",
    "WebSocketProtocol",
    "WebSocketProtocolChat",
    "WebSocketProtocolList",
    "WebSocketServer",
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
    "sClosed",
    "sCreate",
    "sFinished",
    "sRun",
    "wpsClose",
    "wpsCreate",
    "wpsDestroy",
    "wpsRun",
]
