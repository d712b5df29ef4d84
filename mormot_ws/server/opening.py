"""Opening: what may arrive on an accepted connection before TLS and HTTP.

That is the PROXY protocol header, from load balancers that send one, and the first byte after it:
on a port with TLS, a health check may use plain HTTP. Nothing is read beyond the
header.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from ..core.proxy_protocol import ProxyHeader, ProxyHeaderError
from ..logs import SeldomLog, get_logger
from ..settings import WebSocketProcessSettings
from ..sockets import portable
from ..sockets.deadline import Deadline, timed_out
from ..sockets.transport import wait_socket
from .visitors import is_trusted

_log = get_logger("mormot_ws.server")

#: the first byte of a TLS connection: a record of a handshake
_TLS = b"\x16"
_DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
#: bytes that are peeked at a time
_LOOKED_AT = 512


class OpeningFault(Exception):
    """Raised for a PROXY header that is missing or invalid; the text says why."""

    def log(self, seldom: SeldomLog, fields: Mapping[str, object]) -> None:
        """Log it, but not every time while a balancer is misconfigured."""
        more = seldom.due()
        if more is not None:
            _log.warning(
                "#%s from %s is closed: %s; its address is in settings.proxy_protocol_from%s",
                fields["connection_id"],
                fields["remote_ip"],
                self,
                more,
                extra=fields,
            )


def opening_of(
    sock: socket.socket,
    ip: str,
    settings: WebSocketProcessSettings,
    has_tls: bool,
    deadline: Deadline,
) -> Opening | None:
    """Return what has to be read first on a connection from *ip*; None: nothing."""
    balancers = settings.proxy_protocol_from
    has_header = bool(balancers) and is_trusted(ip, balancers)
    looks = has_tls and bool(settings.health_path)
    return Opening(sock, has_header, looks, deadline) if has_header or looks else None


class Opening:
    """Reads the beginning of a connection. Use it from one thread at a time.

    :param has_header: the connection begins with a PROXY header.
    :param looks: detect TLS by the first byte after the header.
    :param deadline: when all of it has to be there.
    """

    def __init__(
        self, sock: socket.socket, has_header: bool, looks: bool, deadline: Deadline
    ) -> None:
        self._sock = sock
        if portable.NEVER_BLOCKS:
            # no flag of a single call prevents it from blocking there
            sock.setblocking(False)
        self._header = ProxyHeader() if has_header else None
        self._looks = looks
        self._deadline = deadline
        #: True if plain HTTP was seen where TLS is served
        self.is_plain = False

    @property
    def source(self) -> str:
        """The client's address in the PROXY header; '': it has none."""
        return "" if self._header is None else self._header.source

    def wait(self) -> None:
        """Read until it is complete. Raises as :meth:`step` does, and ``TimeoutError``."""
        while not self._deadline.passed:
            # where shutdown() does not wake a thread, the step checks for it
            looks = portable.NEVER_BLOCKS
            until = self._deadline.sooner(portable.LOOK_MS) if looks else self._deadline
            wait_socket(self._sock, False, until)
            if self.step():
                return
        self._check_time()
        raise timed_out()

    def step(self) -> bool:
        """Read the available bytes, without waiting; return True if the opening is complete.

        Raises :class:`OpeningFault`; ``EOFError`` if the peer ended the connection before its first
        byte, as port checks do; and ``OSError``.
        """
        while True:
            header = self._header
            in_header = header is not None and not header.complete
            if not in_header and not self._looks:
                return True
            try:
                seen = self._sock.recv(_LOOKED_AT, socket.MSG_PEEK | _DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return False
            if not seen:
                self._check_time()
                if in_header and header is not None and header.begun:
                    raise OpeningFault("the connection ended inside its PROXY header")
                raise EOFError("the connection ended before its first byte")
            if header is None or not in_header:
                self.is_plain = seen[:1] != _TLS
                return True
            try:
                taken = header.take(seen)
            except ProxyHeaderError as exc:
                raise OpeningFault(str(exc)) from None
            self._sock.recv(taken)

    def _check_time(self) -> None:
        """Raise :class:`OpeningFault` if the time for the header is over."""
        header = self._header
        if header is not None and not header.complete and self._deadline.passed:
            raise OpeningFault("no complete PROXY header arrived in time")
