"""CrtSocket: a client's TCP (or TLS) connection, that can be opened again with the same
parameters. No WebSocket in here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Any

from ..attributes import KnownAttributes
from ..core.forks import dies_in_child
from ..core.names import wire_host
from ..logs import escaped, get_logger
from ..settings import check_timeout
from .deadline import Deadline
from .dialling import Dialling
from .proxies import check_proxy, open_through_proxy, proxy_from_environment
from .tls_contexts import DefaultContext, TlsContext
from .tls_transport import TlsTransport
from .transport import Transport

_log = get_logger("mormot_ws.sockets")

#: how many addresses that did not work are remembered
_MOST_FAILED = 64


class CrtSocket(KnownAttributes):
    """A connection to *host* and *port*, with TLS if *tls*. Mirrors ``TCrtSocket``.

    :param host: a name or an address. All addresses of a name are tried, the next one 250 ms after
        the last (RFC 8305); one that fails in TLS or in the upgrade is tried last the next time.
        International names are encoded (IDNA); an IPv6 address may have a zone,
        ``fe80::1%eth0``.
    :param port: a number, or a number as text.
    :param tls_context: an ``ssl.SSLContext``, or a function that returns one for each connection,
        to read certificates anew; None: the default one, which verifies the certificate and the
        host's name, and trusts the authorities that the system has at that time.
    :param tls_server_name: the name that the certificate has to be for, sent as SNI; None: *host*.
        ``Host`` is *host* all the same: a header of your own changes it.
    :param proxy: ``http://user:password@host:port`` (CONNECT), ``socks5://…`` or ``socks4://…``,
        which need the extra ``proxy``; ``''``: none; None: what ``http_proxy``, ``https_proxy``,
        ``all_proxy`` and ``no_proxy`` in the environment say.
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
        tls_context: TlsContext | None = None,
        timeout: int = 10_000,
        *,
        tls_server_name: str | None = None,
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
        wire_host(host)
        if tls_server_name is not None:
            if not isinstance(tls_server_name, str) or any(c <= " " for c in tls_server_name):
                raise ValueError(f"tls_server_name is a name or None, not {tls_server_name!r}")
            if not wire_host(tls_server_name).strip("."):
                raise ValueError("tls_server_name is a name or None, not an empty one")
        if not str(port).isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"port is a number from 1 to 65535, not {port!r}")
        check_timeout("timeout", timeout)
        self.host = host
        self.port: int = int(port)
        self.tls: bool = bool(tls)
        self.tls_context = tls_context
        #: the name in SNI and in the certificate; None: the host's
        self.tls_server_name = tls_server_name
        self.timeout = timeout
        #: the proxy to go through: a URL; '' for none; None: what the environment says
        self.proxy: str | None = check_proxy(proxy) if proxy else proxy
        #: why the last open or reopen failed, '' when it did not
        self.last_error: str = ""
        #: the same as an exception, None when it did not
        self.last_exception: OSError | None = None
        self._send_timeout = send_timeout
        self._resolve_timeout = resolve_timeout
        self._default_context = DefaultContext()
        #: the addresses that failed after their TCP connection, the oldest failure first
        self._failed_addresses: dict[Any, None] = {}
        #: the address at the other end of the last TCP connection, None when there is none
        self._address: Any = None
        #: guards the fields below, so that an interrupt from another thread meets the sockets of
        #: the moment; innermost
        # taken again by its own thread: a signal handler may close or interrupt at any moment
        self._safe_socket = threading.RLock()
        self._interrupted = False
        self._dialling: Dialling | None = None
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
        self._address = None
        deadline = Deadline(self.timeout if timeout is None else timeout)
        error: OSError | None = None
        try:
            self._open(deadline)
        except OSError as exc:  # time-outs and faults of TLS are OSErrors as well
            error = exc
            self._judge_address(False)
        except BaseException:
            self.close()
            raise
        self.last_exception = error
        text = "" if error is None else escaped(f"{type(error).__name__}: {error}")
        self.last_error = text
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
        dialling, self._dialling = self._dialling, None
        if dialling is not None and dialling.die_in_child():
            self._inherited = self._interrupted = True
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
            dialling = self._dialling
        if dialling is not None:
            dialling.stop()
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def __repr__(self) -> str:
        what = "connected" if self.connected else "not connected"
        return f"<CrtSocket {self.host}:{self.port}{' TLS' if self.tls else ''} {what}>"

    def _judge_address(self, worked: bool) -> None:
        """Remember whether the address of the last connection *worked*, up to the upgrade: one that
        did not is tried last the next time. By the thread that connects.
        """
        address, self._address = self._address, None
        if address is None or self._interrupted:
            return
        self._failed_addresses.pop(address, None)
        if not worked:
            self._failed_addresses[address] = None
            if len(self._failed_addresses) > _MOST_FAILED:
                del self._failed_addresses[next(iter(self._failed_addresses))]

    def _open(self, deadline: Deadline) -> None:
        proxy = self.proxy
        if proxy is None:
            proxy = proxy_from_environment(self.host, self.tls, self.port)
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
        transport = self._with_tls(raw, deadline) if self.tls else None
        if transport is None:
            transport = Transport(raw, self._send_timeout)
        with self._safe_socket:
            self._check_interrupted()
            self._raw = None
            self._transport = transport

    def _with_tls(self, raw: socket.socket, deadline: Deadline) -> Transport:
        """Do the TLS handshake on *raw*."""
        context = self.tls_context or self._default_context.get()
        if not isinstance(context, ssl.SSLContext):
            context = context()
        try:
            name = wire_host(self.tls_server_name or self.host)
            transport = TlsTransport(raw, context, self._send_timeout, server_hostname=name)
        except ValueError as exc:
            # a name that no certificate can be for
            raise OSError(str(exc)) from None
        try:
            transport.handshake(deadline)
        except ssl.SSLCertVerificationError:
            # not everywhere can it be seen that the authorities have changed
            self._default_context.forget()
            raise
        return transport

    def _connect_any(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """Return a connected socket, which ``self._raw`` holds too."""
        dialling = Dialling(host, port, self._failed_addresses)
        try:
            with self._safe_socket:
                self._check_interrupted()
                self._dialling = dialling
            sock, address = dialling.connect(deadline, deadline.sooner(self._resolve_timeout))
            with self._safe_socket:
                self._check_interrupted()
                self._raw = sock
            dialling.taken(sock)
            self._address = address
            return sock
        finally:
            dialling.taken(self._raw)
            self._dialling = None

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise ConnectionAbortedError("interrupted")
