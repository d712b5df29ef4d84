"""What Windows lacks, or does in another way, for a test on any system.

Nothing is waited for in the kernel, ``shutdown()`` wakes no thread of this OS process, and
``select`` takes sockets only, at most 512, all of them open.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import selectors
import socket
import stat
from collections.abc import Sequence
from typing import Any

import pytest

from mormot_ws.sockets import portable

#: the most sockets of one ``select``
MOST = 512
#: WSAENOTSOCK
NOT_A_SOCKET = 10038

#: for a test whose subject is what the kernel does in the fast transport
kernel_waits = pytest.mark.skipif(
    portable.NEVER_BLOCKS, reason="about the transport that waits in the kernel"
)


def be_like_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package meet Windows until the end of the test."""
    monkeypatch.setattr(portable, "NEVER_BLOCKS", True)
    for module in ("sockets.transport", "server.opening"):
        monkeypatch.setattr(f"mormot_ws.{module}._DONTWAIT", 0)
    # neither does the kernel tell what the peer has taken
    monkeypatch.setattr("mormot_ws.sockets.transport.fcntl", None)
    monkeypatch.setattr("mormot_ws.sockets.transport.Transport.received_bytes", _unknown)
    for module, name in ((select, "poll"), (selectors, "PollSelector")):
        monkeypatch.delattr(module, name, raising=False)
    monkeypatch.setattr(select, "select", _select(select.select))
    monkeypatch.setattr(socket.socket, "shutdown", _shutdown)


def _unknown(_: object) -> None:
    return None


def _shutdown(sock: socket.socket, how: int) -> None:
    """Send the end of the stream, and wake nobody here."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.ENOTCONN, "a listening socket")
    if how != socket.SHUT_RD:
        _socket.socket.shutdown(sock, socket.SHUT_WR)


def _select(real: Any) -> Any:
    def wait(
        readers: Sequence[Any], writers: Sequence[Any], others: Sequence[Any], seconds: Any = None
    ) -> Any:
        groups = (readers, writers, others)
        if not any(groups):
            raise OSError(errno.EINVAL, "nothing to wait for")
        for group in groups:
            if len(group) > MOST:
                raise ValueError("too many file descriptors in select()")
            for one in group:
                number = one if isinstance(one, int) else one.fileno()
                if not _is_open_socket(number):
                    raise OSError(NOT_A_SOCKET, "not a socket")
        return real(readers, writers, others, seconds)

    return wait


def _is_open_socket(number: int) -> bool:
    if number < 0:
        raise ValueError("file descriptor cannot be a negative integer")
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False
