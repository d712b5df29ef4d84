"""TLS contexts for both sides, by the standard library's defaults: TLS 1.2 and newer, verified
certificates.

Any ``ssl.SSLContext`` of your own serves as well; these two functions only save its reading up. No
socket in here.
"""

from __future__ import annotations

import ssl

from ..logs import get_logger

_log = get_logger("mormot_ws.tls")


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
