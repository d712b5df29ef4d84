"""The listening sockets of a server, and the file of a Unix socket, without a server."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import HOST, MS, RawClient, wait_for

from mormot_ws.server.listener import Listener
from mormot_ws.server.unix_file import UnixFile


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that listens; closed at the end."""
    with socket.create_server((HOST, 0)) as sock:
        yield sock


def test_the_listener_accepts_without_waiting(listening: socket.socket) -> None:
    """None when nobody waits; then the visitors, one at a time."""
    listener = Listener([listening])
    try:
        assert listener.accept_now(listening) is None
        with RawClient(listener.port), RawClient(listener.port):
            for _ in range(2):
                visitor = wait_for(lambda: listener.accept_now(listening))
                assert visitor.shortage is None
                visitor.sock.close()
        assert listener.accept_now(listening) is None
    finally:
        listener.close()
    listener.close()


class Failing(socket.socket):
    """A listening socket whose ``accept()`` fails."""

    errors: list[int]

    def accept(self) -> Any:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.fixture
def failing() -> Iterator[Failing]:
    """Such a socket; closed at the end."""
    with Failing() as sock:
        sock.errors = []
        sock.bind((HOST, 0))
        sock.listen()
        yield sock


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_the_descriptor_in_reserve_lets_a_visitor_in_to_be_told(
    failing: Failing, number: int
) -> None:
    """It is given up for that moment, and there again afterwards."""
    listener = Listener([failing])
    try:
        with RawClient(listener.port) as client:
            failing.errors = [number]
            visitor = wait_for(lambda: listener.accept_now(failing))
            assert visitor.shortage is not None
            assert visitor.shortage.errno == number
            assert listener._reserve == -1
            listener.turn_away(visitor.sock, b"HTTP/1.1 503 No\r\n\r\n")
            assert client.read_head().status == 503
            assert client.read_to_end() == b""
        assert listener._reserve >= 0
        # the last descriptor went to the visitor before: nobody waits, and nothing is wrong
        failing.errors = [number]
        assert listener.accept_now(failing) is None
        assert listener._reserve >= 0
    finally:
        listener.close()


def test_without_a_descriptor_in_reserve_accepting_raises(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The visitor keeps waiting, and is accepted when there is a descriptor again."""

    def none_left(*args: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        listener = Listener([failing])
        try:
            failing.errors = [errno.EMFILE]
            with pytest.raises(OSError, match="Too many open files"):
                listener.accept_now(failing)
        except BaseException:
            listener.close()
            raise
    try:
        with RawClient(listener.port):
            wait_for(lambda: listener.accept_now(failing)).sock.close()
    finally:
        listener.close()


def test_a_lack_of_memory_raises(failing: Failing) -> None:
    """The reserve is of no use for it."""
    listener = Listener([failing])
    try:
        failing.errors = [errno.ENOMEM]
        with pytest.raises(OSError, match="memory"):
            listener.accept_now(failing)
        assert listener._reserve >= 0
    finally:
        listener.close()


def test_a_visitor_who_is_turned_away_reads_the_answer_behind_its_request(
    listening: socket.socket,
) -> None:
    """What it has sent already must not reset the connection."""
    listener = Listener([listening])
    try:
        with RawClient(listener.port) as client:
            client.send(RawClient.request())
            visitor = wait_for(lambda: listener.accept_now(listening))
            visitor.sock.settimeout(100 * MS)
            # its request is there
            assert visitor.sock.recv(1, socket.MSG_PEEK)
            listener.turn_away(visitor.sock, b"HTTP/1.1 503 No\r\n\r\n")
            assert client.read_head().status == 503
            assert client.receive() == b""
            # a reset would have left an error
            assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    finally:
        listener.close()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_the_file_belongs_to_nobody_after_leave(tmp_path: Path) -> None:
    """A child removes nothing, even if it asks for it."""
    path = tmp_path / "x.sock"
    file = UnixFile(str(path))
    with socket.socket(socket.AF_UNIX) as sock:
        file.listen(sock, 1, None)
        file.leave()
        file.remove()
        assert path.exists()
    path.unlink()
