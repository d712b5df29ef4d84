"""A member that the kernel does not take back ends; the pool goes on."""

from __future__ import annotations

import socket
import threading

from mormot_ws.server.leader_pool import LeaderPool
from mormot_ws.sockets.deadline import Deadline


class _Member:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.busy = threading.Lock()
        self.masked = False
        self.blocks = False
        self.ended: BaseException | None = None

    def handle(self) -> bool:
        return True

    def end(self, exc: BaseException | None) -> bool:
        self.ended = exc
        return False

    def fileno(self) -> int:
        return self.sock.fileno()

    def callback_is_long(self) -> None:
        pass

    def callback_has_ended(self) -> bool:
        return True


def test_a_member_that_cannot_be_waited_for_again_is_ended(monkeypatch):
    pool = LeaderPool("pool", 2, lambda: 2, lambda: None, lambda: None)
    near, far = socket.socketpair()
    with near, far:
        member = _Member(near)
        pool.add(member)
        with member.busy:
            pool._mask(member)
        fault = OSError(28, "No space left on device")

        def refuse(fd: int) -> None:
            raise fault

        monkeypatch.setattr(pool._readiness, "add", refuse)
        pool._unmask(member)
        assert member.ended is fault
    pool.stop(Deadline(1000))
