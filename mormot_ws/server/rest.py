"""The servers of the REST protocols: a server and its clients send each other requests.

:class:`RestServer` adds the two REST protocols, and requests to clients, to either server.
"""

from __future__ import annotations

import socket as sockets
import ssl
from collections.abc import Collection, Iterable

from ..attributes import IS_BOOL, IS_TEXT
from ..request import HttpServerRequest
from ..settings import WebSocketProcessSettings
from ..states import (
    WebSocketProtocolBinaryOptions,
    pboSynLzCompress,
    wscBlockWithAnswer,
    wscNonBlockWithoutAnswer,
)
from .accepting import ListeningServer, OnThread
from .event_driven import WebSocketAsyncServer
from .threaded import WebSocketServer

Options = WebSocketProtocolBinaryOptions | Collection[WebSocketProtocolBinaryOptions]


class RestServer(ListeningServer):
    """The common interface of both servers of the REST protocols.

    ``on_request(ctxt) -> status`` handles all requests: over plain HTTP and over WebSocket;
    those of one connection run one after the other. :meth:`callback` sends a request to a client.
    """

    def _enable_at_start(self, uri: str | None, key: str, ajax: bool, options: Options) -> None:
        """Do what the constructor's *uri* asks for; free the server if that fails."""
        if uri is None:
            return
        try:
            self.websockets_enable(uri, key, ajax, options)
        except BaseException:
            self.free()
            raise

    def websockets_enable(
        self,
        uri: str,
        key: str,
        ajax: bool = False,
        options: Options = pboSynLzCompress,
    ) -> WebSocketProcessSettings:
        """Offer the binary protocol, and with *ajax* the JSON one too; return the server's
        settings, so that you can tune them before the first connection. Mirrors
        ``WebSocketsEnable``.

        :param uri: the path that is upgraded; ``''``: any.
        :param key: encrypts the binary protocol; ``''``: no encryption. The JSON protocol is never
            encrypted. With both *key* and *ajax*, the same requests are therefore also answered
            unencrypted, so use TLS.
        :param options: the options of the binary protocol; clients need the same.

        Raises ``ValueError`` or ``WebSocketsError`` for a *key* that cannot be used, e.g.
        without the extra ``crypto``.
        """
        from ..rest.protocols import WebSocketProtocolBinary, WebSocketProtocolJson

        IS_TEXT("uri", uri)
        IS_TEXT("key", key)
        IS_BOOL("ajax", ajax)
        uri = uri.removeprefix("/")
        binary = WebSocketProtocolBinary(uri, key, options, settings=self.settings)
        self.websocket_protocols.add_once(binary)
        if ajax:
            self.websocket_protocols.add_once(WebSocketProtocolJson(uri))
        return self.settings

    def set_encrypt_key_aes(self, key: bytes) -> None:
        """Encrypt the offered binary protocols with the 16, 24 or 32 bytes of *key* instead of a
        password; ``b''``: no encryption. This applies to subsequent connections; their clients need
        :meth:`WebSocketProtocolBinary.set_encrypt_key_aes
        <mormot_ws.WebSocketProtocolBinary.set_encrypt_key_aes>` with the same bytes.

        Raises the same exceptions as that method, and ``ValueError`` if no binary protocol is
        offered yet. Mirrors ``SetEncryptKeyAes``.
        """
        from ..rest.protocols import WebSocketProtocolBinary

        binary = [
            protocol
            for protocol in self.websocket_protocols
            if isinstance(protocol, WebSocketProtocolBinary)
        ]
        if not binary:
            raise ValueError("no binary protocol is offered: call websockets_enable() first")
        for protocol in binary:
            protocol.set_encrypt_key_aes(key)

    def callback(self, ctxt: HttpServerRequest, non_blocking: bool) -> int:
        """Send the request in *ctxt* to the client of ``ctxt.connection_id``; return the status.

        Any thread may call it. The answer is in the ``out_…`` attributes of *ctxt*. With
        *non_blocking* the request is queued, there is no answer, and the status is 200. 404: there
        is no such client, or no answer (``ctxt.out_error`` says which). 666: the connection has
        just ended. Mirrors ``Callback``.

        Raises ``WebSocketsError`` for a blocking call inside ``on_request`` of the same
        connection, which could never be answered.
        """
        process = self.is_active_websocket(ctxt.connection_id)
        if process is None:
            ctxt.out_error = f"there is no WebSocket connection #{ctxt.connection_id}"
            return 404
        return process.notify_callback(
            ctxt, wscNonBlockWithoutAnswer if non_blocking else wscBlockWithAnswer
        )


class WebSocketServerRest(RestServer, WebSocketServer):
    """A server of the REST protocols. Mirrors ``TWebSocketServerRest``.

    The parameters are those of :class:`WebSocketServer` and of ``websockets_enable()``. If *uri*
    is given (``''``: any URI), the constructor calls that method. Otherwise no protocol is offered
    until you call it.
    """

    def __init__(
        self,
        port: str | int | None = None,
        on_start: OnThread | None = None,
        on_stop: OnThread | None = None,
        process_name: str = "",
        uri: str | None = None,
        key: str = "",
        ajax: bool = False,
        options: Options = pboSynLzCompress,
        *,
        settings: WebSocketProcessSettings | None = None,
        tls_context: ssl.SSLContext | None = None,
        certificate_file: str | None = None,
        private_key_file: str | None = None,
        socket: sockets.socket | Iterable[sockets.socket] | None = None,
        reuse_port: bool = False,
        unix_mode: int | None = None,
    ) -> None:
        _check_key(uri, key, ajax)
        WebSocketServer.__init__(
            self,
            port,
            on_start,
            on_stop,
            process_name,
            settings=settings,
            tls_context=tls_context,
            certificate_file=certificate_file,
            private_key_file=private_key_file,
            socket=socket,
            reuse_port=reuse_port,
            unix_mode=unix_mode,
        )
        self._enable_at_start(uri, key, ajax, options)


class WebSocketAsyncServerRest(RestServer, WebSocketAsyncServer):
    """An event-driven server of the REST protocols. Mirrors ``TWebSocketAsyncServerRest``.

    The parameters are those of :class:`WebSocketAsyncServer` and of ``websockets_enable()``. If
    *uri* is given (``''``: any URI), the constructor calls that method. Otherwise no protocol is
    offered until you call it.
    """

    def __init__(
        self,
        port: str | int | None = None,
        on_start: OnThread | None = None,
        on_stop: OnThread | None = None,
        process_name: str = "",
        uri: str | None = None,
        key: str = "",
        ajax: bool = False,
        options: Options = pboSynLzCompress,
        server_thread_pool_count: int = 2,
        *,
        settings: WebSocketProcessSettings | None = None,
        tls_context: ssl.SSLContext | None = None,
        certificate_file: str | None = None,
        private_key_file: str | None = None,
        socket: sockets.socket | Iterable[sockets.socket] | None = None,
        reuse_port: bool = False,
        unix_mode: int | None = None,
    ) -> None:
        _check_key(uri, key, ajax)
        WebSocketAsyncServer.__init__(
            self,
            port,
            on_start,
            on_stop,
            process_name,
            server_thread_pool_count,
            settings=settings,
            tls_context=tls_context,
            certificate_file=certificate_file,
            private_key_file=private_key_file,
            socket=socket,
            reuse_port=reuse_port,
            unix_mode=unix_mode,
        )
        self._enable_at_start(uri, key, ajax, options)


def _check_key(uri: str | None, key: str, ajax: bool) -> None:
    if uri is None and (key or ajax):
        raise ValueError("key and ajax need a uri ('' for any)")
