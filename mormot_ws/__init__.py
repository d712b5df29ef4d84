"""mormot_ws: a threaded WebSocket client and server, modelled on the classes of mORMot 2.

Only the names below are public; everything else may change. Start from the server and the client
in the README.

Each name is imported from its module on first use (PEP 562), so a program loads only what it needs:
a client does not load the server, and a server does not load what only a TLS client uses.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0rc1"

if TYPE_CHECKING:  # for type checkers and editors: the same names as in the table below
    from types import FrameType

    from .client.client import HttpClientWebSockets
    from .client.connection import WebSocketProcessClient
    from .client.thread import WebSocketProcessClientThread
    from .core.deflate import PermessageDeflate
    from .core.frames import (
        WebSocketFrame,
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
        CallError,
        ConnectionClosed,
        GaveUp,
        HttpServerError,
        HubError,
        HubFull,
        HubRefused,
        HubUnavailable,
        ServiceConnectionError,
        ServiceError,
        ServiceTimeoutError,
        WebSocketsError,
        WebSocketsProtocolError,
    )
    from .front.client import connect
    from .front.connection import Connection
    from .front.main_thread import MainThreadQueue
    from .front.peer import Peer
    from .front.request import Request
    from .front.server import Server
    from .json_logs import JsonLogFormatter
    from .process.on_socket import WebCrtSocketProcess
    from .process.process import WebSocketProcess
    from .processes.processes import ServerProcesses, run_processes
    from .processes.status import ProcessesStatus, ProcessStatus
    from .protocols.base import WebSocketProtocol
    from .protocols.chat import WebSocketProtocolChat
    from .protocols.protocol_list import WebSocketProtocolList
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
    from .rest.frame_list import WebSocketFrameList
    from .rest.protocols import (
        WebSocketProtocolBinary,
        WebSocketProtocolJson,
        WebSocketProtocolRest,
    )
    from .server.connection import WebSocketProcessServer, WebSocketServerSocket
    from .server.event_connection import WebSocketAsyncConnection
    from .server.event_driven import WebSocketAsyncServer
    from .server.handed_over import systemd_sockets
    from .server.rest import WebSocketAsyncServerRest, WebSocketServerRest
    from .server.threaded import WebSocketServer
    from .services.answers import ServiceCustomAnswer, ServiceCustomStatus
    from .services.client import ClientServices
    from .services.interface import wire_name
    from .services.server import ServerServices
    from .services.sessions import AuthSession
    from .services.users import (
        AuthUser,
        RestServerAuthentication,
        RestServerAuthenticationDefault,
        RestServerAuthenticationHttpBasic,
        RestServerAuthenticationNone,
    )
    from .settings import (
        MillisecondsWarning,
        WebSocketProcessSettings,
        WebSocketProcessSettingsLogDetails,
        logBinaryFrameContent,
        logHeartbeat,
        logTextFrameContent,
    )
    from .sockets.crtsocket import CrtSocket
    from .sockets.tls_contexts import client_tls_context, server_tls_context
    from .states import (
        ServiceInstanceImplementation,
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
        sicClientDriven,
        sicPerGroup,
        sicPerSession,
        sicPerThread,
        sicPerUser,
        sicShared,
        sicSingle,
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
    from .topics.hub import (
        History,
        Hub,
        HubStatus,
        Lost,
        Position,
        Publication,
        Published,
    )
    from .topics.limits import TopicLimits
    from .topics.memory_hub import MemoryHub
    from .topics.protocol import WebSocketProtocolTopics
    from .topics.publishing import Publishing
    from .topics.redis_hub import RedisHub
    from .topics.server_side import TopicsStatus
    from .topics.sharded_hub import ShardedHub
    from .topics.subscriptions import Recovery, TopicSubscription
    from .topics.visitor import Changed

#: the module of each public name
_NAMES_OF_MODULES: dict[str, tuple[str, ...]] = {
    "protocols.chat": ("WebSocketProtocolChat",),
    "client.client": ("HttpClientWebSockets",),
    "client.connection": ("WebSocketProcessClient",),
    "client.thread": ("WebSocketProcessClientThread",),
    "request": ("HttpServerRequest",),
    "front.peer": ("Peer",),
    "front.request": ("Request",),
    "front.server": ("Server",),
    "processes.processes": ("ServerProcesses", "run_processes"),
    "processes.status": ("ProcessStatus", "ProcessesStatus"),
    "process.on_socket": ("WebCrtSocketProcess",),
    "core.deflate": ("PermessageDeflate",),
    "errors": (
        "CallError",
        "ConnectionClosed",
        "GaveUp",
        "HttpServerError",
        "HubError",
        "HubFull",
        "HubRefused",
        "HubUnavailable",
        "ServiceConnectionError",
        "ServiceError",
        "ServiceTimeoutError",
        "WebSocketsError",
        "WebSocketsProtocolError",
    ),
    "core.frames": (
        "WebSocketFrame",
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
    "front.client": ("connect",),
    "front.connection": ("Connection",),
    "front.main_thread": ("MainThreadQueue",),
    "json_logs": ("JsonLogFormatter",),
    "process.process": ("WebSocketProcess",),
    "protocols.base": ("WebSocketProtocol",),
    "protocols.protocol_list": ("WebSocketProtocolList",),
    "reconnect_policies": (
        "ExponentialBackoff",
        "FailureKind",
        "LinearBackoff",
        "ReconnectFailure",
        "ReconnectPolicy",
        "StopOn",
    ),
    "rest.frame_list": ("WebSocketFrameList",),
    "rest.protocols": ("WebSocketProtocolBinary", "WebSocketProtocolJson", "WebSocketProtocolRest"),
    "server.connection": ("WebSocketProcessServer", "WebSocketServerSocket"),
    "server.handed_over": ("systemd_sockets",),
    "server.threaded": ("WebSocketServer",),
    "server.event_connection": ("WebSocketAsyncConnection",),
    "server.event_driven": ("WebSocketAsyncServer",),
    "server.rest": ("WebSocketAsyncServerRest", "WebSocketServerRest"),
    "services.answers": ("ServiceCustomAnswer", "ServiceCustomStatus"),
    "services.client": ("ClientServices",),
    "services.interface": ("wire_name",),
    "services.server": ("ServerServices",),
    "services.sessions": ("AuthSession",),
    "services.users": (
        "AuthUser",
        "RestServerAuthentication",
        "RestServerAuthenticationDefault",
        "RestServerAuthenticationHttpBasic",
        "RestServerAuthenticationNone",
    ),
    "settings": (
        "MillisecondsWarning",
        "WebSocketProcessSettings",
        "WebSocketProcessSettingsLogDetails",
        "logBinaryFrameContent",
        "logHeartbeat",
        "logTextFrameContent",
    ),
    "sockets.crtsocket": ("CrtSocket",),
    "states": (
        "ServiceInstanceImplementation",
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
        "sicClientDriven",
        "sicPerGroup",
        "sicPerSession",
        "sicPerThread",
        "sicPerUser",
        "sicShared",
        "sicSingle",
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
    "topics.hub": (
        "History",
        "Hub",
        "HubStatus",
        "Lost",
        "Position",
        "Publication",
        "Published",
    ),
    "topics.limits": ("TopicLimits",),
    "topics.memory_hub": ("MemoryHub",),
    "topics.redis_hub": ("RedisHub",),
    "topics.protocol": ("WebSocketProtocolTopics",),
    "topics.publishing": ("Publishing",),
    "topics.server_side": ("TopicsStatus",),
    "topics.sharded_hub": ("ShardedHub",),
    "topics.subscriptions": ("Recovery", "TopicSubscription"),
    "topics.visitor": ("Changed",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF_MODULES.items() for name in names}


# if a type checker saw this function, it would believe that every name exists
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import *name* from its module, and keep it here for later use."""
        module = _MODULE_OF.get(name)
        if module is None:
            text = _no_such_name(name)
            if _is_import_of_a_name(sys._getframe(1)):
                # Python would replace an AttributeError with an ImportError that has its own text
                raise ImportError(text, name=__name__, path=__file__)
            raise AttributeError(text, name=name, obj=sys.modules[__name__])
        value = getattr(import_module(f".{module}", __name__), name)
        globals()[name] = value
        return value


#: names from other libraries, for which the closest spelling would suggest the wrong class
_NAMES_ELSEWHERE = {
    "EHttpServer": "HttpServerError",
    "EWebSockets": "WebSocketsError",
    "WebSocketApp": "connect",
    "create_connection": "connect",
    "WebSocketClient": "HttpClientWebSockets",
}


def _no_such_name(name: str) -> str:
    """Return the message for an unknown *name*, suggesting the public name probably meant."""
    # imported only after a mistyped name
    from difflib import get_close_matches

    text = f"module {__name__!r} has no attribute {name!r}"
    # other programs probe private names to find out what a module has
    if name.startswith("_"):
        return text
    # Pascal class names start with a T
    for plain in (name, name.removeprefix("T")):
        meant = _NAMES_ELSEWHERE.get(plain, plain)
        if meant in _MODULE_OF:
            return f"{text}; did you mean {meant!r}?"
    like = get_close_matches(name.removeprefix("T"), _MODULE_OF, 1)
    return f"{text}; did you mean {like[0]!r}?" if like else text


def _is_import_of_a_name(caller: FrameType) -> bool:
    """Return whether *caller* is executing a ``from … import …``."""
    from opcode import opmap

    return caller.f_code.co_code[caller.f_lasti] == opmap["IMPORT_FROM"]


def __dir__() -> list[str]:
    """Return the public names, for completion in editors."""
    return [*__all__, "__version__"]


__all__ = [
    "Peer",
    "Request",
    "Server",
    "ServerProcesses",
    "run_processes",
    "ProcessStatus",
    "ProcessesStatus",
    "CallError",
    "AuthSession",
    "AuthUser",
    "ClientServices",
    "Connection",
    "ConnectionClosed",
    "GaveUp",
    "connect",
    "CrtSocket",
    "ExponentialBackoff",
    "FailureKind",
    "HttpClientWebSockets",
    "HttpServerError",
    "HttpServerRequest",
    "JsonLogFormatter",
    "LinearBackoff",
    "MainThreadQueue",
    "ReconnectFailure",
    "MillisecondsWarning",
    "ReconnectPolicy",
    "ClientStatus",
    "ConnectionStatus",
    "RestServerAuthentication",
    "RestServerAuthenticationDefault",
    "RestServerAuthenticationHttpBasic",
    "RestServerAuthenticationNone",
    "ServerServices",
    "ServerStatus",
    "ServiceConnectionError",
    "ServiceCustomAnswer",
    "ServiceCustomStatus",
    "ServiceError",
    "ServiceInstanceImplementation",
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
    "WebSocketAsyncServer",
    "WebSocketAsyncServerRest",
    "WebSocketAsyncConnection",
    "WebSocketServer",
    "WebSocketServerRest",
    "WebSocketServerSocket",
    "WebSocketsError",
    "WebSocketsProtocolError",
    "PermessageDeflate",
    "client_tls_context",
    "server_tls_context",
    "systemd_sockets",
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
    "sicClientDriven",
    "sicPerGroup",
    "sicPerSession",
    "sicPerThread",
    "sicPerUser",
    "sicShared",
    "sicSingle",
    "wire_name",
    "wpsClose",
    "wpsCreate",
    "wpsDestroy",
    "wpsRun",
    "wscBlockWithAnswer",
    "wscBlockWithoutAnswer",
    "wscNonBlockWithoutAnswer",
    "History",
    "Hub",
    "HubError",
    "HubFull",
    "HubRefused",
    "HubStatus",
    "HubUnavailable",
    "Lost",
    "MemoryHub",
    "Position",
    "Publication",
    "Published",
    "RedisHub",
    "ShardedHub",
    "Changed",
    "Publishing",
    "Recovery",
    "TopicLimits",
    "TopicSubscription",
    "TopicsStatus",
    "WebSocketProtocolTopics",
]
