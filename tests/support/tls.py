"""What the tests of TLS share: an authority with certificates in files, contexts of one TLS
version, raw peers behind TLS.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProtocolChat,
    WebSocketServer,
    client_tls_context,
    focText,
    server_tls_context,
)

from . import (
    BOUND,
    HOST,
    Behaviour,
    RawClient,
    RawPeer,
    RawServerPeer,
    Recorder,
    echo,
    fast_settings,
    send_text,
    wait_for,
)

#: both versions that are in use
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Authority:
    """An authority of our own, and the certificates that it has signed, all in PEM files of
    *folder*.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self._count = 0
        #: the authority's certificate
        self.file = str(folder / f"{name}.pem")
        self._name = name
        self._ca.cert_pem.write_to_path(self.file)
        #: of a server on this machine: certificate with its chain, and its key
        self.certificate_file, self.private_key_file = self.issue("localhost", HOST)

    def issue(self, *names: str, expired: bool = False) -> tuple[str, str]:
        """Return the files (certificate, key) of a new certificate for these *names*."""
        until = datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc) if expired else None
        since = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc) if expired else None
        issued = self._ca.issue_cert(*names, not_before=since, not_after=until)
        self._count += 1
        stem = self._folder / f"{self._name}-{self._count}"
        certificate, key = f"{stem}-cert.pem", f"{stem}-key.pem"
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(certificate, append=number > 0)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def issue_encrypted(self, password: str) -> tuple[str, str]:
        """Return the files (certificate, key) of a new certificate, the key encrypted with
        *password*.
        """
        from cryptography.hazmat.primitives import serialization

        certificate, path = self.issue("localhost", HOST)
        key = serialization.load_pem_private_key(Path(path).read_bytes(), None)
        encryption = serialization.BestAvailableEncryption(password.encode())
        form = serialization.PrivateFormat.PKCS8
        Path(path).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
        return certificate, path

    def client_context(
        self, version: ssl.TLSVersion | None = None, ignore_errors: bool = False
    ) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority, limited to one TLS *version*
        if given.
        """
        context = client_tls_context(self.file, ignore_certificate_errors=ignore_errors)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server on this machine."""
        return server_tls_context(self.certificate_file, self.private_key_file)


def tls_server(
    context: ssl.SSLContext, callback: object, port: int = 0, **settings: object
) -> WebSocketServer:
    """Return a running server that offers the protocol ``echo`` over TLS; free it."""
    server = WebSocketServer(
        f"{HOST}:{port}", settings=fast_settings(**settings), tls_context=context
    )
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))  # type: ignore[arg-type]
    return server


def tls_client(
    port: int,
    context: ssl.SSLContext | None,
    host: str = "localhost",
    timeout: int = 5_000,
    **settings: object,
) -> HttpClientWebSockets:
    """Return a client that has tried to open a TLS connection, not yet upgraded; free it."""
    return HttpClientWebSockets.open(
        host, port, True, context, timeout, settings=fast_settings(**settings)
    )


class TlsRawClient(RawClient):
    """A raw WebSocket client behind TLS, by an ``ssl.SSLSocket``. For one thread: that is what
    those are good for.
    """

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        receive_buffer: int = 0,
        host: str | None = "localhost",
    ) -> None:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket())
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(BOUND)
            sock.connect((HOST, port))
            # ragged ends are raised: a test of the end wants to know whether there was a
            # close_notify
            tls = context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)
            RawPeer.__init__(self, tls, client_side=True)
            stack.pop_all()
        self.connection_id = 0

    def read_to_close_notify(self) -> bytes:
        """Read to the end of the stream, which has to be one in the orderly way of TLS; return
        what came before.
        """
        data = b""
        # raises ssl.SSLEOFError for an end without close_notify
        while more := self.sock.recv(65536):
            data += more
        return data


def tls_upgraded(port: int, context: ssl.SSLContext, receive_buffer: int = 0) -> TlsRawClient:
    """Return a raw client that has upgraded to ``echo`` over TLS; close it."""
    client = TlsRawClient(port, context, receive_buffer)
    try:
        client.upgrade()
    except BaseException:
        client.close()
        raise
    return client


def behind_tls(context: ssl.SSLContext, behaviour: Behaviour) -> Behaviour:
    """Return the *behaviour* of a raw server, behind TLS."""

    def wrapped(peer: RawServerPeer) -> None:
        peer.sock = context.wrap_socket(peer.sock, server_side=True, suppress_ragged_eofs=False)
        try:
            behaviour(peer)
        finally:
            peer.sock.close()

    return wrapped


def echoes(client: HttpClientWebSockets, recorder: Recorder, payload: str = "hello") -> bool:
    """Tell whether an upgraded client that records its frames gets an echo."""
    assert send_text(client, payload)
    wait_for(lambda: payload in recorder.texts(), what=f"an echo of {payload!r}")
    return True


def works(port: int, context: ssl.SSLContext) -> bool:
    """Tell whether a new connection gets an echo: the server is in order."""
    with tls_upgraded(port, context) as client:
        client.send_frame(focText, "still there?")
        return client.receive_opcode(focText).text == "still there?"


# ----------------------------------------- fixtures, for modules that take them over by their names


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Our own authority, whom the clients of these tests trust."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(params=VERSIONS, ids=["1.2", "1.3"])
def context(request: pytest.FixtureRequest, authority: Authority) -> ssl.SSLContext:
    """A client's context, for one version of TLS after the other."""
    return authority.client_context(request.param)


@pytest.fixture
def server(authority: Authority) -> Iterator[WebSocketServer]:
    """An echo server over TLS."""
    with tls_server(authority.server_context(), echo) as server:
        yield server
