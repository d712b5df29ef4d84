"""The states of connections and threads, and the modes and options of the REST protocols."""

from __future__ import annotations

from enum import Flag, IntEnum


class WebSocketProcessState(IntEnum):
    """The state of a connection. Mirrors ``TWebSocketProcessState``."""

    wpsCreate = 0  # not upgraded yet, or to be upgraded again
    wpsRun = 1  # frames can be sent and received
    wpsClose = 2  # a close frame was sent or received: nothing more can be sent
    wpsDestroy = 3  # the connection has ended


wpsCreate = WebSocketProcessState.wpsCreate
wpsRun = WebSocketProcessState.wpsRun
wpsClose = WebSocketProcessState.wpsClose
wpsDestroy = WebSocketProcessState.wpsDestroy


class WebSocketProcessClientThreadState(IntEnum):
    """The state of a client's thread. Mirrors ``TWebSocketProcessClientThreadState``."""

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

    wscBlockWithAnswer = 0  # send immediately, wait for the answer
    wscBlockWithoutAnswer = 1  # send immediately, expect no answer
    wscNonBlockWithoutAnswer = 2  # queue, to send together with others; expect no answer


wscBlockWithAnswer = WebSocketProcessNotifyCallback.wscBlockWithAnswer
wscBlockWithoutAnswer = WebSocketProcessNotifyCallback.wscBlockWithoutAnswer
wscNonBlockWithoutAnswer = WebSocketProcessNotifyCallback.wscNonBlockWithoutAnswer


class WebSocketProtocolBinaryOptions(Flag):
    """How the binary REST protocol encodes its frames; both ends need the same options.

    Mirrors the set ``TWebSocketProtocolBinaryOptions``.
    """

    pboSynLzCompress = 1  # frames are sent in SynLZ containers, compressed from 450 bytes
    pboNoLocalHostCompress = 2  # no compression between programs on one machine
    pboNoLocalHostEncrypt = 4  # no encryption between programs on one machine


pboSynLzCompress = WebSocketProtocolBinaryOptions.pboSynLzCompress
pboNoLocalHostCompress = WebSocketProtocolBinaryOptions.pboNoLocalHostCompress
pboNoLocalHostEncrypt = WebSocketProtocolBinaryOptions.pboNoLocalHostEncrypt


class ServiceInstanceImplementation(IntEnum):
    """Which object handles the calls of a service. Mirrors ``TServiceInstanceImplementation``."""

    sicSingle = 0  # a new object for each call
    sicShared = 1  # one object for all callers
    sicClientDriven = 2  # one for each object that a client requested
    sicPerSession = 3  # one per session
    sicPerUser = 4  # one per user with a session
    sicPerGroup = 5  # one per group of users
    sicPerThread = 6  # one per thread of the server that handles calls


sicSingle = ServiceInstanceImplementation.sicSingle
sicShared = ServiceInstanceImplementation.sicShared
sicClientDriven = ServiceInstanceImplementation.sicClientDriven
sicPerSession = ServiceInstanceImplementation.sicPerSession
sicPerUser = ServiceInstanceImplementation.sicPerUser
sicPerGroup = ServiceInstanceImplementation.sicPerGroup
sicPerThread = ServiceInstanceImplementation.sicPerThread
