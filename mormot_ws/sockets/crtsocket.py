"""CrtSocket: a client's TCP (or TLS) connection, that can be opened again with the same
parameters. No WebSocket in here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading

from ..attributes import KnownAttributes
from ..core.forks import dies_in_child
from ..logs import get_logger
from ..settings import check_timeout
from .addresses import resolve
from .deadline import Deadline
from .proxies import check_proxy, open_through_proxy, proxy_from_environment
from .tls_transport import TlsTransport
from .transport import Transport, wait_socket

_log = get_logger("mormot_ws.sockets")


class CrtSocket(KnownAttributes):
    """A connection to *host* and *port*, with TLS if *tls*. Mirrors ``TCrtSocket``.

    :param host: a name or an address.
    :param port: a number, or a number as text.
    :param tls_context: an ``ssl.SSLContext``; None: the default one, which verifies the certificate
        and the host's name.
    :param proxy: ``http://user:password@host:port`` (CONNECT), ``socks5://…`` or ``socks4://…``;
        ``''``: none; None: what ``http_proxy``/``https_proxy``/``all_proxy``/``no_proxy`` in the
        environment say. Needs the extra ``proxy``.
    :param timeout: milliseconds for connecting, and for each handshake on the connection.

    Constructing it tries to connect, and does not raise when that fails: :attr:`connected` and
    :attr:`last_error` tell. Raises ``ValueError``/``TypeError`` for arguments that can never work.
    :meth:`interrupt` may be called from any thread, the rest by one at a time.
    """

    #: True in a forked child: what was connected is the parent's
    _inherited = False

    def __init__(
        self,
        host: str,
        port: int | str,
        tls: bool = False,
        tls_context: ssl.SSLContext | None = None,
        timeout: int = 10_000,
        *,
        proxy: str | None = None,
        send_timeout: int = 10_000,
        resolve_timeout: int = 5_000,
    ) -> None:
        if not isinstance(host, str) or not host or any(c <= " " for c in host):
            raise ValueError(f"host is a name or an address, not {host!r}")
        if "/" in host:  # it may hold a token, which is not to be shown
            raise ValueError(
                "host is a name or an address; HttpClientWebSockets.websockets_connect() "
                "takes a whole URI"
            )
        if not str(port).isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"port is a number from 1 to 65535, not {port!r}")
        check_timeout("timeout", timeout)
        self.host = host
        self.port: int = int(port)
        self.tls: bool = bool(tls)
        self.tls_context = tls_context
        self.timeout = timeout
        #: the proxy to go through: a URL; '' for none; None: what the environment says
        self.proxy: str | None = check_proxy(proxy) if proxy else proxy
        #: why the last open or reopen failed, '' when it did not
        self.last_error: str = ""
        #: the same as an exception, None when it did not
        self.last_exception: OSError | None = None
        self._send_timeout = send_timeout
        self._resolve_timeout = resolve_timeout
        self._default_context: ssl.SSLContext | None = (
            None  # made once: reading the system's authorities takes many milliseconds
        )
        #: guards the three fields below, so that an interrupt from another thread meets the socket
        #: of the moment; innermost
        # taken again by its own thread: a signal handler may close or interrupt at any moment
        self._safe_socket = threading.RLock()
        self._interrupted = False
        self._raw: socket.socket | None = None
        self._transport: Transport | None = None

    @property
    def connected(self) -> bool:
        """True while the socket is open, as far as this side knows."""
        return self._transport is not None

    @property
    def transport(self) -> Transport | None:
        """What carries the bytes, None when there is no connection."""
        return self._transport

    def reopen(self, timeout: int | None = None) -> str:
        """Close, and connect again with the same parameters. Mirrors ``ReOpen``.

        Takes up to *timeout* milliseconds (None: that of the constructor) and returns '', or the
        error in words.
        """
        if self._inherited:
            self.last_error = "the connection belongs to the parent of this forked child"
            return self.last_error
        dies_in_child(self)
        self.close()
        deadline = Deadline(self.timeout if timeout is None else timeout)
        error: OSError | None = None
        try:
            self._open(deadline)
        except OSError as exc:  # time-outs and faults of TLS are OSErrors as well
            error = exc
        self.last_exception = error
        self.last_error = text = "" if error is None else f"{type(error).__name__}: {error}"
        if text:
            self.close()
            _log.debug("%s:%d: %s", self.host, self.port, text)
        return text

    def close(self) -> None:
        """Close the socket, if there is one. Never raises."""
        with self._safe_socket:
            transport, self._transport = self._transport, None
            raw, self._raw = self._raw, None
        if transport is not None:
            transport.shutdown()
            transport.close()
        if raw is not None:
            raw.close()

    def die_in_child(self) -> None:
        """In a forked child: close the copies of the descriptors. One that had a connection, or was
        about to have one, is dead here; any other one is as new.
        """
        self._safe_socket = threading.RLock()
        transport, self._transport = self._transport, None
        raw, self._raw = self._raw, None
        for copy in (transport, raw):
            if copy is not None:
                self._inherited = self._interrupted = True
                copy.close()

    def interrupt(self) -> None:
        """Make whatever waits on this socket fail now, and every later attempt to open it. From
        any thread, for good.
        """
        with self._safe_socket:
            self._interrupted = True
            sock = self._raw if self._transport is None else self._transport.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def __repr__(self) -> str:
        what = "connected" if self.connected else "not connected"
        return f"<CrtSocket {self.host}:{self.port}{' TLS' if self.tls else ''} {what}>"

    def _open(self, deadline: Deadline) -> None:
        proxy = proxy_from_environment(self.host, self.tls) if self.proxy is None else self.proxy
        if proxy:
            raw = open_through_proxy(
                proxy,
                self.host,
                self.port,
                lambda host, port: self._connect_any(host, port, deadline),
                deadline,
            )
        else:
            raw = self._connect_any(self.host, self.port, deadline)
        if not self.tls:
            transport = Transport(raw, self._send_timeout)
        else:
            context = self.tls_context or self._default_context
            if context is None:
                context = self._default_context = ssl.create_default_context()
            transport = TlsTransport(raw, context, self._send_timeout, server_hostname=self.host)
            transport.handshake(deadline)
        with self._safe_socket:
            if self._interrupted:
                raise ConnectionAbortedError("interrupted")
            self._raw = None
            self._transport = transport

    def _connect_any(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """Try the host's addresses in turn; return a connected socket, which ``self._raw`` holds
        too.

        Each has its share of the time, so that one that does not answer (IPv6 that leads nowhere)
        does not hide the next.
        """
        error: OSError = OSError(f"no address for {host}")
        found = resolve(host, port, deadline.sooner(self._resolve_timeout))
        for left, (family, kind, protocol, _, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as exc:
                # a kernel without IPv6 knows its addresses all the same
                error = exc
                continue
            try:
                with self._safe_socket:
                    if self._interrupted:
                        raise ConnectionAbortedError("interrupted")
                    self._raw = sock
                self._connect(sock, address, deadline.share(left))
            except OSError as exc:
                with self._safe_socket:
                    self._raw = None
                    interrupted = self._interrupted
                sock.close()
                error = exc
                if interrupted or deadline.passed:
                    break
            else:
                return sock
        raise error

    @staticmethod
    def _connect(sock: socket.socket, address: object, deadline: Deadline) -> None:
        sock.setblocking(False)
        code = sock.connect_ex(address)  # type: ignore[arg-type]
        if code in (
            errno.EINPROGRESS,
            errno.EWOULDBLOCK,
            errno.EINTR,
            getattr(errno, "WSAEWOULDBLOCK", -1),
        ):
            if not wait_socket(sock, True, deadline):
                raise TimeoutError("no answer to the connection attempt")
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        # an interrupted attempt may leave no error, but it leaves no peer either
        if sock.getpeername() == sock.getsockname():
            # nobody listens there, but the kernel gave us that very port and connected us to
            # ourselves
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
