"""The states of connections and client threads. Values only, importable from every floor."""

from __future__ import annotations

from enum import IntEnum


class WebSocketProcessState(IntEnum):
    """The life of a connection. Mirrors ``TWebSocketProcessState``."""

    wpsCreate = 0  # the handshake is not done, or a new one has to come
    wpsRun = 1  # frames can be sent and received
    wpsClose = 2  # a close frame was sent or received: nothing can be sent any more
    wpsDestroy = 3  # the connection has ended


wpsCreate = WebSocketProcessState.wpsCreate
wpsRun = WebSocketProcessState.wpsRun
wpsClose = WebSocketProcessState.wpsClose
wpsDestroy = WebSocketProcessState.wpsDestroy


class WebSocketProcessClientThreadState(IntEnum):
    """What a client's thread is doing. Mirrors ``TWebSocketProcessClientThreadState``."""

    sCreate = 0  # not in the loop yet
    sRun = 1  # in the loop, or reconnecting
    sFinished = 2  # ended: the connection was lost, or free() was called
    sClosed = 3  # ended by a close handshake


sCreate = WebSocketProcessClientThreadState.sCreate
sRun = WebSocketProcessClientThreadState.sRun
sFinished = WebSocketProcessClientThreadState.sFinished
sClosed = WebSocketProcessClientThreadState.sClosed
