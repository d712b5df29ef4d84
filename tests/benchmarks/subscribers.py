# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""Many subscribers in one thread: bare sockets that say what has to be said, and count what comes.

They do not read the messages, which would take longer than sending them: each publication has one
byte that nothing else has.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from .handshake import HandshakeError
from .raw_client import TEXT, client_frame
from .topic_servers import DATA, MARK

_PATIENCE = 60.0  # seconds
_MARK = MARK.encode()


def _request(path: str, protocol: str = "") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    if protocol:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    return "\r\n".join([*lines, "", ""]).encode()


def _text(text: str) -> bytes:
    return client_frame(TEXT, text.encode())


class Dialect(ABC):
    """What subscribers of one library say."""

    #: the request for the upgrade
    request: bytes
    #: what tells that one is subscribed
    ready: bytes

    @abstractmethod
    def steps(self, number: int, topics: list[str]) -> list[tuple[bytes, bytes]]:
        """Return what is waited for, and what is said then, up to the subscriptions."""

    @abstractmethod
    def publication(self, topic: str, sequence: int) -> bytes:
        """Return the message that publishes."""


class Topics(Dialect):
    """Those of mormot_ws.

    :param since: the epoch of the topics, to go on from their beginnings; ``''``: from now on.
    """

    request = _request("/", "topics")
    ready = b'"type":"sub"'

    def __init__(self, since: dict[str, Any] | None = None) -> None:
        self._since = since

    def steps(self, number: int, topics: list[str]) -> list[tuple[bytes, bytes]]:
        hello = _text(f'{{"type":"hello","v":1,"session":"session-{number:010}"}}')
        since = ""
        if self._since is not None:
            since = (
                f',"since":{{"epoch":"{self._since["epoch"]}","offset":{self._since["offset"]}}}'
            )
        subs = [_text(f'{{"type":"sub","topic":"{topic}"{since}}}') for topic in topics]
        return [(b"\r\n\r\n", hello + b"".join(subs))]

    def publication(self, topic: str, sequence: int) -> bytes:
        return _text(f'{{"type":"pub","topic":"{topic}","seq":{sequence},"data":"{DATA}"}}')


class Rooms(Dialect):
    """Those of python-socketio."""

    request = _request("/socket.io/?EIO=4&transport=websocket")
    ready = b'["ready"'

    def steps(self, number: int, topics: list[str]) -> list[tuple[bytes, bytes]]:
        subs = b"".join(_text(f'42["sub","{topic}"]') for topic in topics)
        return [(b"0{", _text("40")), (b"40{", subs)]

    def publication(self, topic: str, sequence: int) -> bytes:
        return _text(f'42["pub","{topic}","{DATA}"]')


class _Subscriber:
    """One connection."""

    __slots__ = ("heard", "ready", "said", "seen", "sock", "steps")

    def __init__(self, steps: list[tuple[bytes, bytes]]) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.steps = steps
        self.said = False
        #: what has come before it was ready
        self.seen = b""
        self.ready = 0
        #: publications
        self.heard = 0


class Subscribers:
    """So many connections to *ports* in turn, each subscribed to *topics*; a context manager."""

    def __init__(self, ports: list[int], count: int, dialect: Dialect, topics: list[str]) -> None:
        self._ports = ports
        self._dialect = dialect
        self._topics = topics
        self._poller = select.epoll()
        self._by_handle: dict[int, _Subscriber] = {}
        self.count = count
        #: publications that all have heard together
        self.heard = 0
        self._ready = 0

    def open(self, heard: int = 0) -> float:
        """Connect all at once; return the seconds until all are subscribed, and each has *heard* so
        many publications.
        """
        begin = time.perf_counter()
        for number in range(self.count):
            each = _Subscriber(self._dialect.steps(number, self._topics))
            self._by_handle[each.sock.fileno()] = each
            each.sock.connect_ex(("127.0.0.1", self._ports[number % len(self._ports)]))
            self._poller.register(each.sock, select.EPOLLOUT)
        self.wait(lambda: self._ready == self.count and self.heard >= heard * self.count)
        return time.perf_counter() - begin

    def wait(
        self, done: Callable[[], bool], latencies: list[float] | None = None, since: float = 0.0
    ) -> None:
        """Read until *done*; note the seconds from *since* to each arrival."""
        give_up = time.monotonic() + _PATIENCE
        while not done():
            events = self._poller.poll(1.0, self.count)
            for handle, flags in events:
                self._handle(self._by_handle[handle], flags, latencies, since)
            if time.monotonic() > give_up:
                raise HandshakeError(f"{self._ready} are ready, {self.heard} heard")

    def _handle(
        self, each: _Subscriber, flags: int, latencies: list[float] | None, since: float
    ) -> None:
        sock = each.sock
        if not each.said:
            if flags & (select.EPOLLERR | select.EPOLLHUP):
                raise HandshakeError("refused")
            sock.sendall(self._dialect.request)
            each.said = True
            self._poller.modify(sock, select.EPOLLIN)
            return
        data = sock.recv(262_144)
        if not data:
            raise HandshakeError(f"the server has closed the connection: {each.seen[-200:]!r}")
        if each.ready < len(self._topics):
            self._is_ready(each, data)
        count = data.count(_MARK)
        if count:
            each.heard += count
            self.heard += count
            if latencies is not None:
                latencies.append(time.perf_counter() - since)

    def _is_ready(self, each: _Subscriber, data: bytes) -> None:
        each.seen += data
        while each.steps and each.steps[0][0] in each.seen:
            awaited, said = each.steps.pop(0)
            each.seen = each.seen.partition(awaited)[2]
            each.sock.sendall(said)
        each.ready = each.seen.count(self._dialect.ready)
        if each.ready == len(self._topics):
            self._ready += 1
            each.seen = b""

    def close(self) -> None:
        """Cut all connections."""
        self._poller.close()
        for each in self._by_handle.values():
            each.sock.close()

    def __enter__(self) -> Subscribers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Publisher:
    """A connection that publishes."""

    def __init__(self, port: int, dialect: Dialect) -> None:
        self._dialect = dialect
        self._sequence = 0
        self.sock = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self.sock.sendall(dialect.request)
        # a session that the hub has never seen: else it would know the publications already
        for awaited, said in dialect.steps(random.randrange(10**9, 10**10), []):
            seen = b""
            while awaited not in seen:
                seen += self.sock.recv(65_536)
            self.sock.sendall(said)
        self.sock.setblocking(False)

    def publish(self, topic: str) -> None:
        """Publish one; what has been answered to earlier ones is thrown away."""
        with contextlib.suppress(BlockingIOError):
            self.sock.recv(65_536)
        self._sequence += 1
        self.sock.sendall(self._dialect.publication(topic, self._sequence))

    def close(self) -> None:
        """Cut the connection."""
        self.sock.close()


@contextlib.contextmanager
def publisher(port: int, dialect: Dialect) -> Iterator[Publisher]:
    """Give a connection that publishes."""
    made = Publisher(port, dialect)
    try:
        yield made
    finally:
        made.close()
