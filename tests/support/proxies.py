"""Proxies for the tests: HTTP CONNECT and SOCKS 4/4a/5, threaded, on the loopback interface,
well-behaved or not.

Whatever host a client asks for, they dial that port of this machine: so names can be used that do
not exist.
"""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from abc import abstractmethod
from typing import NamedTuple

from mormot_ws.process.freeing import ClosedByWith

from . import BOUND, HOST, MS


class Asked(NamedTuple):
    """What a client wanted of a proxy."""

    host: str
    port: int
    user: str = ""
    password: str = ""


class ProxyServer(ClosedByWith):
    """A proxy; a context manager that ends it, with all its connections and threads.

    :param user: whom it lets through, with *password*; ``''``: anybody.
    :param mute: True: it takes connections and requests, and never answers.
    :param drip: milliseconds (scaled) between the bytes of its answers; 0: they leave whole.
    """

    scheme = ""

    def __init__(
        self, user: str = "", password: str = "", *, mute: bool = False, drip: float = 0
    ) -> None:
        self.user = user
        self.password = password
        self.mute = mute
        self.drip = drip
        #: what was asked for, in the order of the requests
        self.asked: list[Asked] = []
        #: how many connections were accepted
        self.accepted = 0
        self._stopping = threading.Event()
        #: guards the sockets of all connections, so that stop() meets every one of them
        self._safe = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, name=f"{self.scheme} proxy", daemon=True
        )
        self._acceptor.start()

    @property
    def url(self) -> str:
        """The URL of the proxy, without credentials."""
        return f"{self.scheme}://{HOST}:{self.port}"

    def url_for(self, user: str, password: str) -> str:
        """Return the URL with credentials."""
        return f"{self.scheme}://{user}:{password}@{HOST}:{self.port}"

    @abstractmethod
    def negotiate(self, sock: socket.socket, stack: contextlib.ExitStack) -> socket.socket | None:
        """Do the proxy's part on a new connection; return that to the target (on the *stack*), or
        None for a refusal.
        """

    # ------------------------------------------------------------------------------ for negotiate()

    def dial(self, asked: Asked, stack: contextlib.ExitStack) -> socket.socket:
        """Remember the request and connect to its port, on this machine. Raises ``OSError``."""
        self.asked.append(asked)
        return self._track(socket.create_connection((HOST, asked.port), BOUND), stack)

    def reply(self, sock: socket.socket, data: bytes) -> None:
        """Send an answer in the way that this proxy answers."""
        if self.mute:
            self._stopping.wait()
            raise ConnectionAbortedError("stopped")
        if not self.drip:
            sock.sendall(data)
            return
        for byte in data:
            sock.sendall(bytes([byte]))
            if self._stopping.wait(self.drip * MS):
                raise ConnectionAbortedError("stopped")

    @staticmethod
    def exactly(sock: socket.socket, size: int) -> bytes:
        """Return *size* bytes; raise ``EOFError`` when they do not come."""
        data = b""
        while len(data) < size:
            more = sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    @staticmethod
    def until(sock: socket.socket, mark: bytes) -> bytes:
        """Return what comes before *mark*."""
        data = b""
        while not data.endswith(mark):
            more = sock.recv(1)
            if not more:
                raise EOFError
            data += more
        return data[: -len(mark)]

    # ------------------------------------------------------------------------------------- internal

    def _track(self, sock: socket.socket, stack: contextlib.ExitStack) -> socket.socket:
        """Close *sock* with the *stack*; until then cut() and stop() find it."""

        def close() -> None:
            with self._safe:
                self._sockets.discard(sock)
                sock.close()

        stack.callback(close)
        with self._safe:
            if self._stopping.is_set():
                raise ConnectionAbortedError("stopped")
            self._sockets.add(sock)
        return sock

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(
                target=self._serve, args=(sock,), name=f"{self.scheme} proxy relay", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        # an end that has gone, or stop(), is no fault
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            self._track(sock, stack)
            sock.settimeout(BOUND)
            other = self.negotiate(sock, stack)
            if other is not None:
                self._relay(sock, other)

    @staticmethod
    def _relay(one: socket.socket, two: socket.socket) -> None:
        """Carry bytes both ways until both ends have finished."""
        others = {one: two, two: one}
        reading = [one, two]
        while reading:
            for end in select.select(reading, [], [])[0]:
                data = end.recv(65536)
                if data:
                    others[end].sendall(data)
                else:
                    reading.remove(end)
                    with contextlib.suppress(OSError):
                        others[end].shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End all connections, and go on listening."""
        with self._safe:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(BOUND)
        self.cut()
        for thread in [self._acceptor, *self._threads]:
            thread.join(BOUND)
            assert not thread.is_alive(), "the proxy does not end"
        self._listener.close()


class HttpProxy(ProxyServer):
    """An HTTP proxy that knows ``CONNECT``.

    :param refusal: the status line that it answers with, instead of connecting.
    :param headers: header lines of its good answer, each with its CRLF.
    :param split: True: head and end of the answer leave in two segments, one after the other.
    """

    scheme = "http"

    def __init__(
        self,
        user: str = "",
        password: str = "",
        *,
        refusal: str = "",
        headers: str = "",
        split: bool = False,
        mute: bool = False,
        drip: float = 0,
    ) -> None:
        self.refusal = refusal
        self.headers = headers
        self.split = split
        super().__init__(user, password, mute=mute, drip=drip)

    def negotiate(self, sock: socket.socket, stack: contextlib.ExitStack) -> socket.socket | None:
        first, *lines = self.until(sock, b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        method, target, _ = first.split()
        host, _, port = target.rpartition(":")
        if ":" in host and not host.startswith("["):
            # RFC 9112 §3.2.3: an IPv6 address stands in brackets
            return self._refuse(sock, "400 Bad Request")
        _, _, encoded = fields.get("proxy-authorization", "").partition(" ")
        user, _, password = base64.b64decode(encoded).decode("latin-1").partition(":")
        asked = Asked(host.strip("[]"), int(port), user, password)
        if method != "CONNECT" or self.refusal:
            self.asked.append(asked)
            return self._refuse(sock, self.refusal or "405 Method Not Allowed")
        if self.user and (user, password) != (self.user, self.password):
            self.asked.append(asked)
            return self._refuse(
                sock,
                "407 Proxy Authentication Required",
                'Proxy-Authenticate: Basic realm="test"\r\n',
            )
        try:
            other = self.dial(asked, stack)
        except OSError:
            return self._refuse(sock, "502 Bad Gateway")
        answer = f"HTTP/1.1 200 Connection established\r\n{self.headers}\r\n".encode("latin-1")
        if self.split:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(answer[:20])
            self._stopping.wait(50 * MS)
            answer = answer[20:]
        self.reply(sock, answer)
        return other

    def _refuse(self, sock: socket.socket, status: str, headers: str = "") -> socket.socket | None:
        more = f"{headers}Content-Length: 0\r\nConnection: close\r\n"
        self.reply(sock, f"HTTP/1.1 {status}\r\n{more}\r\n".encode())
        return None


class SocksProxy(ProxyServer):
    """A SOCKS 5 proxy (RFC 1928, with the authentication of RFC 1929).

    :param code: the reply to the request; 0: succeeded.
    """

    scheme = "socks5"

    def __init__(
        self,
        user: str = "",
        password: str = "",
        *,
        code: int = 0,
        mute: bool = False,
        drip: float = 0,
    ) -> None:
        self.code = code
        super().__init__(user, password, mute=mute, drip=drip)

    def negotiate(self, sock: socket.socket, stack: contextlib.ExitStack) -> socket.socket | None:
        _, count = self.exactly(sock, 2)
        offered = self.exactly(sock, count)
        wanted = 2 if self.user else 0
        if wanted not in offered:
            self.reply(sock, b"\x05\xff")
            return None
        self.reply(sock, bytes((5, wanted)))
        user = password = ""
        if wanted == 2:
            self.exactly(sock, 1)
            user = self._text(sock)
            password = self._text(sock)
            good = (user, password) == (self.user, self.password)
            self.reply(sock, b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return None
        _, _, _, kind = self.exactly(sock, 4)
        if kind == 1:
            host = socket.inet_ntoa(self.exactly(sock, 4))
        elif kind == 3:
            host = self._text(sock)
        else:
            host = socket.inet_ntop(socket.AF_INET6, self.exactly(sock, 16))
        asked = Asked(host, int.from_bytes(self.exactly(sock, 2), "big"), user, password)
        other: socket.socket | None = None
        code = self.code
        if code:
            self.asked.append(asked)
        else:
            try:
                other = self.dial(asked, stack)
            except OSError:
                code = 5  # connection refused
        self.reply(sock, bytes((5, code, 0, 1)) + bytes(6))
        return other

    def _text(self, sock: socket.socket) -> str:
        return self.exactly(sock, self.exactly(sock, 1)[0]).decode()


class Socks4Proxy(ProxyServer):
    """A SOCKS 4 proxy that also takes names (4a)."""

    scheme = "socks4"

    def negotiate(self, sock: socket.socket, stack: contextlib.ExitStack) -> socket.socket | None:
        self.exactly(sock, 2)
        port = int.from_bytes(self.exactly(sock, 2), "big")
        address = self.exactly(sock, 4)
        user = self.until(sock, b"\0").decode()
        is_name = address[:3] == b"\0\0\0" and address[3]
        host = self.until(sock, b"\0").decode() if is_name else socket.inet_ntoa(address)
        try:
            other = self.dial(Asked(host, port, user), stack)
        except OSError:
            self.reply(sock, b"\x00\x5b" + bytes(6))
            return None
        self.reply(sock, b"\x00\x5a" + bytes(6))
        return other
