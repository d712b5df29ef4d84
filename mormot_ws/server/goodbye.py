"""say_goodbye(): report to all peers that the server stops, within one time limit for all."""

from __future__ import annotations

from collections.abc import Iterable

from ..sockets.deadline import Deadline
from ..states import wpsRun
from .connection import WebSocketServerSocket

#: milliseconds within which a peer has to accept a frame from the thread that writes to it, so that
#: free() waits for its end; and how long free() waits for one peer before it checks the next
_GOODBYE_MS = 1_000
_TRY_MS = 10


def say_goodbye(sockets: Iterable[WebSocketServerSocket], deadline: Deadline) -> None:
    """Send 1001 to all by the *deadline*, starting where no thread is writing. Cut those that
    accept nothing from a thread that is writing: a peer that accepts data gets its goodbye.
    """
    left = {socket_ for socket_ in sockets if not socket_.say_goodbye(0)}
    while left:
        sent = {socket_: _frames_sent(socket_) for socket_ in left}
        turn = deadline.sooner(_GOODBYE_MS)
        deaf = set()
        while left and not turn.passed:
            # in the opening handshake, or at its end: nobody is writing there
            deaf |= {socket_ for socket_ in left if not _is_running(socket_)}
            left = {
                socket_
                for socket_ in left - deaf
                if not socket_.say_goodbye(turn.sooner(_TRY_MS).milliseconds() or 0)
            }
        deaf |= {s for s in left if deadline.passed or _frames_sent(s) == sent[s]}
        for socket_ in deaf:
            socket_.interrupt()
        left -= deaf


def _is_running(socket_: WebSocketServerSocket) -> bool:
    process = socket_.websocket_process
    return process is not None and process.state is wpsRun


def _frames_sent(socket_: WebSocketServerSocket) -> int:
    process = socket_.websocket_process
    return 0 if process is None else process.protocol.frames_out_count
