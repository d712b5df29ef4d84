"""TLS contexts for both sides, by the standard library's defaults: TLS 1.2 and newer, verified
certificates.

Any ``ssl.SSLContext`` of your own serves as well; the two functions only save you its reading up.
No socket in here.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

from ..logs import get_logger

_log = get_logger("mormot_ws.tls")

#: what a client takes: a context, or a function that returns the one for the next connection
TlsContext = ssl.SSLContext | Callable[[], ssl.SSLContext]


class DefaultContext:
    """The context of a client that was given none. It is kept, since reading the system's
    authorities takes many milliseconds, until these are renewed.
    """

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._state: list[Any] = []

    def get(self) -> ssl.SSLContext:
        """Return a context that trusts the authorities that the system has now."""
        state = _state_of_authorities()
        if self._context is None or state != self._state:
            self._context = ssl.create_default_context()
            self._state = state
        return self._context

    def forget(self) -> None:
        """Read the authorities again the next time."""
        self._context = None


def _state_of_authorities() -> list[Any]:
    """Return what differs once the files of the system's authorities have changed."""
    paths = ssl.get_default_verify_paths()
    state: list[Any] = []
    for variable, usual in (
        (paths.openssl_cafile_env, paths.openssl_cafile),
        (paths.openssl_capath_env, paths.openssl_capath),
    ):
        path = os.environ.get(variable, usual)
        try:
            found = os.stat(path)
        except OSError:
            state.append((path, None))
        else:
            state.append((path, found.st_mtime_ns, found.st_size, found.st_ino))
    return state


def client_tls_context(
    ca_certificates_file: str | None = None,
    certificate_file: str | None = None,
    private_key_file: str | None = None,
    private_key_password: str | None = None,
    ignore_certificate_errors: bool = False,
) -> ssl.SSLContext:
    """Return a context for ``HttpClientWebSockets(…, tls=True, tls_context=…)``. Mirrors the client
    fields of ``TNetTlsContext``.

    :param ca_certificates_file: PEM file of the authorities to trust; None: those of the system.
    :param certificate_file: PEM file of the client's own certificate (and key, without
        *private_key_file*); None: it has none.
    :param private_key_file: PEM file of its key, *private_key_password* its password.
    :param ignore_certificate_errors: True accepts any certificate for any name. For tests on your
        own machine only: it is logged.

    The name of the host is sent (SNI) and checked. Raises ``OSError`` (``ssl.SSLError``) for files
    that cannot be read.
    """
    context = ssl.create_default_context(cafile=ca_certificates_file)
    if certificate_file is not None:
        context.load_cert_chain(certificate_file, private_key_file, private_key_password)
    if ignore_certificate_errors:
        _log.warning(
            "certificates are not verified: whoever is in between can read and change everything"
        )
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_tls_context(
    certificate_file: str,
    private_key_file: str | None = None,
    private_key_password: str | None = None,
    ca_certificates_file: str | None = None,
) -> ssl.SSLContext:
    """Return a context for ``WebSocketServer(…, tls_context=…)``. Mirrors the server fields of
    ``TNetTlsContext``.

    :param certificate_file: PEM file of the certificate chain (and key, without
        *private_key_file*).
    :param ca_certificates_file: PEM file of authorities; given, a client has to show a certificate
        of one of them.

    Raises ``OSError`` (``ssl.SSLError``) for files that cannot be read.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_certificates_file)
    context.load_cert_chain(certificate_file, private_key_file, private_key_password)
    if ca_certificates_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
