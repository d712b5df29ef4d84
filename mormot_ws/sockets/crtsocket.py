"""CrtSocket: a client's TCP or TLS connection, which can be opened again."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any, ClassVar, TypeVar

from ..attributes import Check, KnownAttributes
from ..core.addresses import is_unix, shown_target
from ..core.forks import dies_in_child
from ..core.names import wire_host
from ..logs import escaped, get_logger
from ..settings import check_timeout
from .checks import SOCKET_CHECKS, checked_target
from .deadline import Deadline, is_foreign_timeout
from .dialling import Dialling
from .proxies import check_proxy, open_through_proxy, proxy_from_environment
from .tls_contexts import DefaultContext, TlsContext
from .tls_transport import TlsTransport
from .transport import Transport

_log = get_logger("mormot_ws.sockets")

#: the most failed addresses that are remembered
_MOST_FAILED = 64

_T = TypeVar("_T")


class CrtSocket(KnownAttributes):
    """A connection to *host* and *port*, with TLS if *tls* is True. Mirrors ``TCrtSocket``.

    :param host: a name or an IP address. All addresses of a name are tried, each 250 ms after the
        previous one (RFC 8305); an address that fails in TLS or in the upgrade is tried last the
        next time. International names are encoded (IDNA); an IPv6 address may have a zone,
        ``fe80::1%eth0``. ``'unix:/path'`` or ``'unix:@name'``: a Unix socket, which has no port and
        no proxy; its server sees the host ``localhost``.
    :param port: a number, or a number as text.
    :param tls_context: an ``ssl.SSLContext``, or a function that returns one for each connection
        (e.g. to read certificates again); None: the default context, which verifies the certificate
        and the host's name, and trusts the system's current authorities.
    :param tls_server_name: the name that the certificate must be for, sent as SNI; None: *host*.
        The ``Host`` header remains *host*; a header of your own can change it.
    :param proxy: ``http://user:password@host:port`` (CONNECT), ``socks5://…`` or ``socks4://…``,
        which need the extra ``proxy``; ``''``: none; None: the proxy from ``http_proxy``,
        ``https_proxy``, ``all_proxy`` and ``no_proxy`` in the environment.
    :param timeout: milliseconds for connecting, and for each handshake on the connection.

    The constructor tries to connect, and does not raise if that fails: see :attr:`connected` and
    :attr:`last_error`. It raises ``ValueError`` or ``TypeError`` for invalid arguments. Any thread
    may call :meth:`interrupt`; call the other methods from one thread at a time.
    """

    _CHECKS: ClassVar[dict[str, Check]] = SOCKET_CHECKS

    #: True in a forked child: the connection belongs to the parent
    _inherited = False

    def __init__(
        self,
        host: str,
        port: int | str = "",
        tls: bool = False,
        tls_context: TlsContext | None = None,
        timeout: int = 10_000,
        *,
        tls_server_name: str | None = None,
        proxy: str | None = None,
        send_timeout: int = 10_000,
        resolve_timeout: int = 5_000,
    ) -> None:
        host, number = checked_target(host, port)
        if proxy and is_unix(host):
            raise ValueError("a Unix socket cannot be reached through a proxy")
        self.host = host
        self.port: int = number
        self.tls = tls
        self.tls_context = tls_context
        #: the name in SNI and in the certificate; None: the host's
        self.tls_server_name = tls_server_name
        self.timeout = timeout
        self.proxy = proxy
        #: why the last open or reopen failed; '' if it did not
        self.last_error: str = ""
        #: the same as an exception; None if it did not fail
        self.last_exception: OSError | None = None
        self._send_timeout = send_timeout
        self._resolve_timeout = resolve_timeout
        self._default_context = DefaultContext()
        #: the addresses that failed after their TCP connection, the oldest failure first
        self._failed_addresses: dict[Any, None] = {}
        #: the peer's address of the last TCP connection; None if there was none
        self._address: Any = None
        #: guards the fields below, so that interrupt() in another thread finds the current sockets;
        #: last in the lock order
        # reentrant, because a signal handler may close or interrupt at any moment
        self._safe_socket = threading.RLock()
        self._interrupted = False
        self._dialling: Dialling | None = None
        self._raw: socket.socket | None = None
        # what talks to a proxy, or does the TLS handshake, on the socket above
        self._opening: Transport | None = None
        self._transport: Transport | None = None
        # the transport on which an HTTP exchange is in progress, and the thread that does it
        self._exchange: tuple[Transport, int] | None = None

    @property
    def proxy(self) -> str | None:
        """The URL of the proxy; '': none; None: the proxy from the environment.

        A new value takes effect with the next connection. Setting it raises ``ValueError`` if it is
        not the URL of a proxy.
        """
        return self._proxy

    @proxy.setter
    def proxy(self, value: str | None) -> None:
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"proxy must be a URL like http://host:port, not {type(value).__name__}"
            )
        self._proxy = check_proxy(value) if value else value

    @property
    def connected(self) -> bool:
        """True while the socket is open, as far as this object knows."""
        return self._transport is not None

    @property
    def transport(self) -> Transport | None:
        """The transport; None if there is no connection."""
        return self._transport

    def reopen(self, timeout: int | None = None) -> str:
        """Close the connection and connect again with the same parameters. Mirrors ``ReOpen``.

        Takes up to *timeout* milliseconds (None: that of the constructor), and returns '' or an
        error text.
        """
        if self._inherited:
            self.last_error = "the connection belongs to the parent of this forked child"
            return self.last_error
        if timeout is not None:
            check_timeout("timeout", timeout)
        dies_in_child(self)
        self.close()
        self._address = None
        deadline = Deadline(self.timeout if timeout is None else timeout)
        error: OSError | None = None
        try:
            self._open(deadline)
        except OSError as exc:  # time-outs and TLS errors are OSErrors too
            if is_foreign_timeout(exc):
                self.close()
                raise
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
            _log.debug("%s: %s", shown_target(self.host, self.port), text)
        return text

    def lead_to(self, host: str, port: int, tls: bool) -> None:
        """Make the next connection to *host* and *port*. For the package: called by the thread
        that connects. Raises ``ValueError`` for an invalid address.
        """
        self.host, self.port = checked_target(host, port)
        self.tls = tls

    def _note_error(self, text: str) -> None:
        """Keep *text* as :attr:`last_error`."""
        self.last_error = text

    def _exchanging(self, transport: Transport, action: Callable[[], _T]) -> _T:
        """Call *action*, which sends a request on *transport* and reads its answer.

        An exception from a signal handler is raised again, and closes the connection.
        """
        try:
            self._exchange = (transport, get_ident())
            result = action()
            self._exchange = None
            return result
        finally:
            self._drop_unfinished_exchange()

    def _drop_unfinished_exchange(self) -> None:
        """Close the connection if this thread has started an exchange on it but not finished it.

        A signal handler may raise anywhere in it, e.g. at Ctrl-C; the answer must then not be taken
        as that to the next request.
        """
        exchange = self._exchange
        if exchange is not None and exchange[1] == get_ident():
            if exchange[0] is self._transport:
                self.close()
            self._exchange = None

    def close(self) -> None:
        """Close the socket, if there is one. Never raises."""
        with self._safe_socket:
            transport, self._transport = self._transport, None
            opening, self._opening = self._opening, None
            raw, self._raw = self._raw, None
        if transport is not None:
            transport.shutdown()
            transport.close()
        if opening is not None:
            opening.close()
        if raw is not None:
            raw.close()

    def die_in_child(self) -> None:
        """Close the copies of the descriptors, in a forked child.

        An object that was connected or connecting is dead here; others start afresh.
        """
        self._safe_socket = threading.RLock()
        dialling, self._dialling = self._dialling, None
        if dialling is not None and dialling.die_in_child():
            self._leave_to_parent()
        transport, self._transport = self._transport, None
        opening, self._opening = self._opening, None
        raw, self._raw = self._raw, None
        for copy in (transport, opening, raw):
            if copy is not None:
                self._leave_to_parent()
                copy.close()

    def _leave_to_parent(self) -> None:
        """Become dead, in a forked child."""
        self._inherited = self._interrupted = True

    def interrupt(self) -> None:
        """Make all waits on this socket fail now, and all later attempts to open it as well.

        It cannot be undone. Any thread may call it.
        """
        with self._safe_socket:
            self._interrupted = True
            transport = self._transport or self._opening
            raw = self._raw
            dialling = self._dialling
        if dialling is not None:
            dialling.stop()
        if transport is not None:
            transport.shutdown()
        elif raw is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(raw, socket.SHUT_RDWR)

    def __repr__(self) -> str:
        what = "connected" if self.connected else "not connected"
        tls = " TLS" if self.tls else ""
        return f"<CrtSocket {shown_target(self.host, self.port)}{tls} {what}>"

    def _judge_address(self, worked: bool) -> None:
        """Record whether the address of the last connection *worked*, including the upgrade.

        One that did not is tried last the next time. Called by the thread that connects.
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
        if is_unix(self.host):
            if proxy:
                # set later, or for another host before
                raise OSError("a Unix socket cannot be reached through a proxy")
            proxy = ""
        elif proxy is None:
            proxy = proxy_from_environment(self.host, self.tls, self.port)
        if proxy:
            raw = open_through_proxy(
                proxy,
                self.host,
                self.port,
                lambda host, port: self._to_proxy(host, port, deadline),
                deadline,
            )
        else:
            raw = self._connect_any(self.host, self.port, deadline)
        transport = self._with_tls(raw, deadline) if self.tls else None
        if transport is None:
            transport = Transport(raw, self._send_timeout)
        with self._safe_socket:
            self._check_interrupted()
            self._raw = self._opening = None
            self._transport = transport

    def _to_proxy(self, host: str, port: int, deadline: Deadline) -> Transport:
        """Return what talks to the proxy, which :meth:`interrupt` finds."""
        transport = Transport(self._connect_any(host, port, deadline), self._send_timeout)
        self._open_on(transport)
        return transport

    def _open_on(self, transport: Transport) -> None:
        with self._safe_socket:
            self._check_interrupted()
            self._opening = transport

    def _with_tls(self, raw: socket.socket, deadline: Deadline) -> Transport:
        """Do the TLS handshake on *raw*."""
        context = self.tls_context or self._default_context.get()
        if not isinstance(context, ssl.SSLContext):
            context = context()
        try:
            name = wire_host(self.tls_server_name or self.host)
            transport = TlsTransport(raw, context, self._send_timeout, server_hostname=name)
        except ValueError as exc:
            # no certificate can be for this name
            raise OSError(str(exc)) from None
        self._open_on(transport)
        try:
            transport.handshake(deadline)
        except ssl.SSLCertVerificationError:
            # some systems do not show that their authorities have changed
            self._default_context.forget()
            raise
        return transport

    def _connect_any(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """Return a connected socket, which is also in ``self._raw``."""
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
