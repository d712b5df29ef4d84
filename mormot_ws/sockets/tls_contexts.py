"""TLS contexts with the standard library's defaults: TLS 1.2 or newer, verified certificates.

You can use your own ``ssl.SSLContext`` instead; these functions are only shortcuts.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

from ..logs import get_logger

_log = get_logger("mormot_ws.tls")

#: a client accepts a context, or a function that returns one for the next connection
TlsContext = ssl.SSLContext | Callable[[], ssl.SSLContext]


class DefaultContext:
    """The context of a client without its own.

    It is kept until the system's authorities change, because reading them takes many milliseconds.
    """

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._state: list[Any] = []

    def get(self) -> ssl.SSLContext:
        """Return a context that trusts the system's current authorities."""
        state = _state_of_authorities()
        if self._context is None or state != self._state:
            self._context = ssl.create_default_context()
            self._state = state
        return self._context

    def forget(self) -> None:
        """Make :meth:`get` read the authorities again."""
        self._context = None


def _state_of_authorities() -> list[Any]:
    """Return a value that changes when the files of the system's authorities change."""
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


def _check_files(*files: str | None) -> None:
    """Raise ``OSError`` for a file that cannot be read; unlike ``ssl``, with its name."""
    for name in files:
        if name is not None:
            with open(os.fspath(name), "rb"):
                pass


def client_tls_context(
    ca_certificates_file: str | None = None,
    certificate_file: str | None = None,
    private_key_file: str | None = None,
    private_key_password: str | None = None,
    ignore_certificate_errors: bool = False,
) -> ssl.SSLContext:
    """Return a context for ``HttpClientWebSockets(…, tls=True, tls_context=…)``.

    Mirrors the client fields of ``TNetTlsContext``.

    :param ca_certificates_file: a PEM file with the authorities to trust; None: the system's.
    :param certificate_file: a PEM file with the client's own certificate (and its key, without
        *private_key_file*); None: no certificate.
    :param private_key_file: a PEM file with the key; *private_key_password* is its password.
    :param ignore_certificate_errors: True accepts any certificate for any name, and logs a warning.
        Use it only for tests on your own machine.

    The host's name is sent (SNI) and checked. Raises ``OSError`` (``ssl.SSLError``) for files that
    cannot be read.
    """
    _check_files(ca_certificates_file, certificate_file, private_key_file)
    context = ssl.create_default_context(cafile=ca_certificates_file)
    if certificate_file is not None:
        context.load_cert_chain(certificate_file, private_key_file, private_key_password)
    if ignore_certificate_errors:
        _log.warning(
            "certificates are not verified: anyone in between can read and change everything"
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
    """Return a context for ``WebSocketServer(…, tls_context=…)``.

    Mirrors the server fields of ``TNetTlsContext``.

    :param certificate_file: a PEM file with the certificate chain (and its key, without
        *private_key_file*).
    :param ca_certificates_file: a PEM file with authorities; if it is given, clients need a
        certificate issued by one of them.

    Raises ``OSError`` (``ssl.SSLError``) for files that cannot be read.
    """
    _check_files(ca_certificates_file, certificate_file, private_key_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_certificates_file)
    context.load_cert_chain(certificate_file, private_key_file, private_key_password)
    if ca_certificates_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
