"""The states of connections and threads, the modes and options of the REST protocols. Values only,
which every layer may import.
"""

from __future__ import annotations

from enum import Flag, IntEnum


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


class WebSocketProcessNotifyCallback(IntEnum):
    """How a request is sent over a REST protocol. Mirrors ``TWebSocketProcessNotifyCallback``."""

    wscBlockWithAnswer = 0  # send at once, wait for the answer
    wscBlockWithoutAnswer = 1  # send at once, expect no answer
    wscNonBlockWithoutAnswer = 2  # queue, to leave together with others; expect no answer


wscBlockWithAnswer = WebSocketProcessNotifyCallback.wscBlockWithAnswer
wscBlockWithoutAnswer = WebSocketProcessNotifyCallback.wscBlockWithoutAnswer
wscNonBlockWithoutAnswer = WebSocketProcessNotifyCallback.wscNonBlockWithoutAnswer


class WebSocketProtocolBinaryOptions(Flag):
    """What the binary REST protocol does to its frames; both ends need the same.

    Mirrors the set ``TWebSocketProtocolBinaryOptions``.
    """

    pboSynLzCompress = 1  # frames travel in SynLZ containers, compressed from 450 bytes
    pboNoLocalHostCompress = 2  # the containers are not compressed between programs of one machine
    pboNoLocalHostEncrypt = 4  # frames are not encrypted between programs of one machine


pboSynLzCompress = WebSocketProtocolBinaryOptions.pboSynLzCompress
pboNoLocalHostCompress = WebSocketProtocolBinaryOptions.pboNoLocalHostCompress
pboNoLocalHostEncrypt = WebSocketProtocolBinaryOptions.pboNoLocalHostEncrypt
