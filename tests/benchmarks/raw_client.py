# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""The client that the servers are measured with.

It is as thin as Python allows, so that what is measured is the server: the masked frames are
computed beforehand, the answers are not parsed but counted in bytes. To be sure that those bytes
are an echo, the first answer on each connection is compared with what it has to be.

Timeouts are set with ``SO_RCVTIMEO`` and ``SO_SNDTIMEO`` and not with ``settimeout()``, since the
latter puts a ``poll()`` before each call. Only behind TLS it has to be ``settimeout()``, for all
contestants alike.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence

from .handshake import upgrade_as_client

TEXT, BINARY, CLOSE = 1, 2, 8

_KEY = b"\x5a\xc3\x17\x8e"
_ANSWER_TIMEOUT = 10  # seconds until a server that does not answer makes its measure fail
_CLOSE_TIMEOUT = 1  # seconds until a server that does not end the connection is left alone
_CHUNK = 262144  # bytes per system call for big messages
_SMALL_BATCH = 50  # round trips between two looks at the clock


class EchoError(Exception):
    """The server did not answer with an echo."""


def _length_bytes(length: int, mask_bit: int) -> bytes:
    """Encode the length of a payload as RFC 6455 wants it, in 1, 3 or 9 bytes."""
    if length < 126:
        return bytes([mask_bit | length])
    if length < 65536:
        return struct.pack("!BH", mask_bit | 126, length)
    return struct.pack("!BQ", mask_bit | 127, length)


def client_frame(opcode: int, payload: bytes, key: bytes = _KEY) -> bytes:
    """Return the frame of a whole message, masked with 4 bytes of key, as a client sends it."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(
        size, "little"
    )
    return bytes([0x80 | opcode]) + _length_bytes(size, 0x80) + key + masked


def server_frame(opcode: int, payload: bytes) -> bytes:
    """Return the unmasked frame of a whole message, as a server sends it."""
    return bytes([0x80 | opcode]) + _length_bytes(len(payload), 0) + payload


class Message:
    """One message in the shape it goes out and the shape it has to come back."""

    __slots__ = ("payload", "reply", "request")

    def __init__(self, opcode: int, payload: bytes, *, websocket: bool) -> None:
        """Frame the payload; without ``websocket`` the very same bytes are expected back."""
        self.payload = payload
        self.request = client_frame(opcode, payload)
        self.reply = server_frame(opcode, payload) if websocket else self.request


class RawConnection:
    """One connection, upgraded and proven to echo. For one thread: an ``ssl.SSLSocket`` is not
    made for more.
    """

    __slots__ = ("message", "sock", "websocket")

    def __init__(
        self, port: int, message: Message, *, websocket: bool, context: ssl.SSLContext | None = None
    ) -> None:
        """Connect to the port of the loopback interface, with TLS if there is a context, upgrade
        if needed, and check one echo.
        """
        self.message = message
        self.websocket = websocket
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_TIMEOUT)
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
            self.make_blocking()
            self._set_timeout(_ANSWER_TIMEOUT)
            if websocket:
                upgrade_as_client(self.sock, port)
            if echo_once(self) != message.reply:
                raise EchoError("the first answer is not an echo")
        except BaseException:
            self.sock.close()
            raise

    def make_blocking(self) -> None:
        """Undo ``setblocking(False)``; the timeouts of the kernel are still there, that of an
        ``SSLSocket`` is not.
        """
        self.sock.settimeout(_ANSWER_TIMEOUT if isinstance(self.sock, ssl.SSLSocket) else None)

    def _set_timeout(self, seconds: int) -> None:
        """Let ``recv()`` and ``send()`` raise :class:`BlockingIOError`, or :class:`TimeoutError`
        with TLS, after this time.
        """
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(seconds)
            return
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))

    def say_goodbye(self) -> None:
        """Tell the server that this is the end, so that it has nothing to complain about."""
        try:
            self.make_blocking()
            self._set_timeout(_CLOSE_TIMEOUT)
            if self.websocket:
                self.sock.sendall(client_frame(CLOSE, struct.pack("!H", 1000)))
            else:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def wait_end(self) -> bool:
        """Read until the server ends the connection; return False if it did not do so in time."""
        try:
            while self.sock.recv(65536):
                pass
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            pass
        return True


@contextlib.contextmanager
def raw_connections(
    port: int,
    message: Message,
    *,
    websocket: bool,
    count: int = 1,
    context: ssl.SSLContext | None = None,
) -> Iterator[list[RawConnection]]:
    """Open some connections to one server, one after the other, and end them all afterwards.

    The goodbyes go out first and are waited for thereafter, as long as the server ends each in
    time.
    """
    connections: list[RawConnection] = []
    try:
        for _ in range(count):
            connections.append(RawConnection(port, message, websocket=websocket, context=context))
        yield connections
    finally:
        for connection in connections:
            connection.say_goodbye()
        waiting = True
        for connection in connections:
            waiting = waiting and connection.wait_end()
            connection.sock.close()


def _missing_bytes(chunk: bytes, expected: int) -> int:
    """Return how many bytes of an answer are still to come after this chunk."""
    if not chunk:
        raise EchoError("the server closed the connection")
    if len(chunk) > expected:
        raise EchoError(f"{len(chunk) - expected} bytes more than expected")
    return expected - len(chunk)


def echo_once(connection: RawConnection) -> bytes:
    """Send the message once and return the whole answer, whatever its size."""
    answer = bytearray()
    _echo_streamed(connection, _poller(connection), bytearray(_CHUNK), answer)
    connection.make_blocking()
    return bytes(answer)


def round_trip(connection: RawConnection, seconds: float) -> float:
    """Send a message, wait for its echo, and so on; return the microseconds per round trip."""
    send, recv = connection.sock.send, connection.sock.recv
    request, expected = connection.message.request, len(connection.message.reply)
    count = 0
    begin = time.perf_counter()
    end = begin + seconds
    now = begin
    while now < end:
        for _ in range(_SMALL_BATCH):
            send(request)
            chunk = recv(4096)
            if len(chunk) != expected:
                missing = _missing_bytes(chunk, expected)
                while missing:
                    missing = _missing_bytes(recv(missing), missing)
        count += _SMALL_BATCH
        now = time.perf_counter()
    return (now - begin) / count * 1e6


def _receive(connection: RawConnection, size: int) -> bytes:
    """Receive exactly so many bytes."""
    answer = b""
    while len(answer) < size:
        chunk = connection.sock.recv(65536)
        _missing_bytes(chunk, size - len(answer))
        answer += chunk
    return answer


def pipelined(connection: RawConnection, seconds: float, depth: int) -> float:
    """Send ``depth`` messages at once, wait for all their echoes, and so on; return the messages
    per second.

    The messages of a batch are as long as that of the connection, and all different, as are their
    keys; the echoes of the first batch, which is not counted, are compared with what they have to
    be.
    """
    send, recv = connection.sock.sendall, connection.sock.recv
    size = len(connection.message.payload)
    payloads = [(b"%d " % number * size)[:size] for number in range(1000, 1000 + depth)]
    requests = b"".join(
        client_frame(TEXT, payload, struct.pack("!I", 0x9E3779B1 * number & 0xFFFFFFFF))
        for number, payload in enumerate(payloads, 1)
    )
    replies = b"".join(server_frame(TEXT, payload) for payload in payloads)
    send(requests)
    if _receive(connection, len(replies)) != replies:
        raise EchoError("the first batch of answers is not an echo")
    expected = len(replies)
    count = 0
    begin = time.perf_counter()
    end = begin + seconds
    now = begin
    while now < end:
        send(requests)
        missing = expected
        while missing:
            missing = _missing_bytes(recv(65536), missing)
        count += depth
        now = time.perf_counter()
    return count / (now - begin)


def _poller(connection: RawConnection) -> select.poll:
    """Make the connection non-blocking and return its poller.

    A message bigger than the buffers of the kernel has to be received while it is still being sent:
    an echo server that answers piecemeal would otherwise wait for us just as we wait for it.
    """
    connection.sock.setblocking(False)
    poller = select.poll()
    poller.register(connection.sock, select.POLLIN)
    return poller


def _echo_streamed(
    connection: RawConnection,
    poller: select.poll,
    buffer: bytearray,
    answer: bytearray | None = None,
) -> None:
    """Send the message once and receive as much as it has to come back, both at the same time."""
    sock = connection.sock
    if isinstance(sock, ssl.SSLSocket):
        _echo_streamed_tls(connection, poller, buffer, answer)
        return
    to_send, missing = memoryview(connection.message.request), len(connection.message.reply)
    poller.modify(sock, select.POLLIN | select.POLLOUT)
    while missing:
        events = poller.poll(_ANSWER_TIMEOUT * 1000)
        if not events:
            raise EchoError(f"no answer within {_ANSWER_TIMEOUT} s")
        flags = events[0][1]
        if flags & select.POLLOUT:
            to_send = to_send[sock.send(to_send[:_CHUNK]) :]
            if not to_send:
                poller.modify(sock, select.POLLIN)
        if flags & ~select.POLLOUT:
            size = sock.recv_into(buffer)
            if not size or size > missing:
                raise EchoError(
                    "the connection was closed" if not size else "more bytes than expected"
                )
            if answer is not None:
                answer += memoryview(buffer)[:size]
            missing -= size
    if to_send:
        raise EchoError("answered before it was asked")


def _echo_streamed_tls(
    connection: RawConnection,
    poller: select.poll,
    buffer: bytearray,
    answer: bytearray | None = None,
) -> None:
    """Do the same behind TLS, where a socket that can be read need not have a record to read, and
    the other way round.
    """
    sock = connection.sock
    to_send, missing = memoryview(connection.message.request), len(connection.message.reply)
    while missing:
        waiting_for = select.POLLIN
        if to_send:
            try:
                to_send = to_send[sock.send(to_send[:_CHUNK]) :]
            except ssl.SSLWantWriteError:
                waiting_for |= select.POLLOUT
            except ssl.SSLWantReadError:
                pass
        try:
            size = sock.recv_into(buffer)
        except ssl.SSLWantReadError:
            if to_send and not waiting_for & select.POLLOUT:
                continue
            poller.modify(sock, waiting_for)
            if not poller.poll(_ANSWER_TIMEOUT * 1000):
                raise EchoError(f"no answer within {_ANSWER_TIMEOUT} s") from None
            continue
        if not size or size > missing:
            raise EchoError("the connection was closed" if not size else "more bytes than expected")
        if answer is not None:
            answer += memoryview(buffer)[:size]
        missing -= size
    if to_send:
        raise EchoError("answered before it was asked")


def big_echo(connection: RawConnection, seconds: float) -> float:
    """Echo a big message again and again, one in flight; return the messages per second."""
    poller, buffer = _poller(connection), bytearray(_CHUNK)
    count = 0
    begin = time.perf_counter()
    end = begin + seconds
    now = begin
    while now < end:
        _echo_streamed(connection, poller, buffer)
        count += 1
        now = time.perf_counter()
    return count / (now - begin)


def ping_pong(connections: Sequence[RawConnection], seconds: float) -> float:
    """Keep one message in flight on each connection; return the messages per second of all
    together.

    When the time is over, the answers still to come are waited for but not counted.
    """
    request, expected = connections[0].message.request, len(connections[0].message.reply)
    calls = {item.sock.fileno(): (item.sock.recv, item.sock.send) for item in connections}
    missing = dict.fromkeys(calls, expected)
    count = 0
    with select.epoll(len(calls)) as poller:
        for handle in calls:
            poller.register(handle, select.EPOLLIN)
        begin = time.perf_counter()
        end = begin + seconds
        now = begin
        for _, send in calls.values():
            send(request)
        while now < end:
            events = poller.poll(_ANSWER_TIMEOUT)
            if not events:
                raise EchoError(f"no answer within {_ANSWER_TIMEOUT} s")
            for handle, _ in events:
                recv, send = calls[handle]
                chunk = recv(4096)
                if len(chunk) != expected:
                    missing[handle] = _missing_bytes(chunk, missing[handle])
                    if missing[handle]:
                        continue
                    missing[handle] = expected
                count += 1
                send(request)
            now = time.perf_counter()
    for handle, (recv, _) in calls.items():
        while missing[handle]:
            missing[handle] = _missing_bytes(recv(4096), missing[handle])
    return count / (now - begin)
