"""The arguments of an upgrade: their checks and defaults, and WebSocket URIs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import unquote, urlsplit

from ..core.addresses import is_unix, unix_name
from ..core.handshake import checked_header_value
from ..core.names import plain_host, wire_resource
from ..logs import shown_uri
from ..protocols.base import WebSocketProtocol
from ..settings import WebSocketProcessSettings
from ..states import WebSocketProtocolBinaryOptions, pboSynLzCompress
from .upgrade import check_custom_headers

#: the schemes of Unix sockets, without and with TLS; the first is also used by the Node.js package
#: ws
_UNIX_SCHEMES = ("ws+unix", "wss+unix")


class HeaderValue:
    """An attribute that is sent as the value of a header line, and checked when it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> str:
        # access through the class: there is no value yet
        return "" if instance is None else str(instance.__dict__[self._name])

    def __set__(self, instance: object, value: str) -> None:
        instance.__dict__[self._name] = checked_header_value(self._name, value)


def check_upgrade_arguments(
    uri: str, key: str, protocol: WebSocketProtocol | None, headers: str
) -> None:
    if protocol is not None and not isinstance(protocol, WebSocketProtocol):
        raise TypeError(
            f"protocol must be a WebSocketProtocol or None, not {type(protocol).__name__}"
        )
    for name, value in (("uri", uri), ("key", key), ("headers", headers)):
        if not isinstance(value, str):
            hint = ""
            if name == "headers":
                hint = "; it has lines like 'Name: value', joined by CRLF"
            elif isinstance(value, WebSocketProtocol):
                hint = ": pass the protocol by name, protocol=…"
            raise TypeError(f"{name} must be a str, not {type(value).__name__}{hint}")
    if uri.lower().startswith(("ws://", "wss://", "http://", "https://")):
        raise ValueError(
            "uri must only contain the path and the query, like 'chat?room=7';"
            " websockets_connect() takes a whole URI"
        )
    if any(c <= " " or c in "#\x7f" for c in uri):
        raise ValueError(
            f"{shown_uri(uri)!r}, with its query, cannot be requested: percent-encode spaces, '#'"
            " and control characters"
        )
    if (
        key and protocol is not None and not protocol.encrypted
    ):  # otherwise it may be the protocol that got this key before
        raise ValueError("key is for the REST protocols: leave it '' with a protocol of your own")
    wire_resource(uri)
    check_custom_headers(headers)


def parse_websocket_uri(uri: str) -> tuple[str, int, str, bool]:
    """Return (host, port, resource with its query, TLS) of a ``ws://`` or ``wss://`` *uri*.

    ``ws+unix:/path:/resource``, with or without two slashes before the path, is a resource on a
    Unix socket: its host is ``unix:/path`` and its port 0. Raises ``ValueError`` for anything else.
    """
    scheme, _, rest = uri.partition(":")
    if scheme.lower() in _UNIX_SCHEMES:
        return _parse_unix_uri(uri, rest, scheme.lower() == _UNIX_SCHEMES[1])
    parts = urlsplit(uri)
    if (
        parts.scheme not in ("ws", "wss")
        or not parts.hostname
        or parts.fragment
        or parts.username is not None
    ):
        # a password or a query may be secret, and is not shown
        raise ValueError(
            f"{shown_uri(uri.partition('#')[0].partition('?')[0])!r} is not a WebSocket URI like"
            " ws://host:port/resource, without a user name and a fragment"
        )
    tls = parts.scheme == "wss"
    resource = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    try:
        port = (443 if tls else 80) if parts.port is None else parts.port
    except ValueError:
        raise ValueError("the port in a URI must be a number from 1 to 65535") from None
    # a name may be percent-encoded (RFC 3986 §3.2.2); in an address, '%' begins the zone
    host = plain_host(parts.hostname) if ":" in parts.hostname else unquote(parts.hostname)
    if any(c <= " " or c in "/\x7f" for c in host):
        raise ValueError(f"{host!r} is not a host name")
    return host, port, resource, tls


def _parse_unix_uri(uri: str, rest: str, tls: bool) -> tuple[str, int, str, bool]:
    path, colon, resource = rest.partition(":")
    host = f"unix:{unquote(path.removeprefix('//'))}"
    if "?" in path or "#" in rest or (colon and resource[:1] not in ("", "/", "?")):
        host = ""
    try:
        unix_name(host)
    except ValueError:
        raise ValueError(
            f"{shown_uri(uri.partition('#')[0].partition('?')[0])!r} is not a URI like"
            " ws+unix:/path:/resource; percent-encode ':', '?', '#' and '%' in the path"
        ) from None
    return host, 0, resource.removeprefix("/"), tls


def is_websocket_uri(text: str) -> bool:
    """Return whether *text* begins like a whole URI, not like a host or a resource."""
    return text.lower().startswith(("ws://", "wss://", *(f"{each}:" for each in _UNIX_SCHEMES)))


def connect_target(
    host: str,
    port: int | str | WebSocketProtocol | None,
    protocol: WebSocketProtocol | str | None,
    uri: str,
    headers: str,
    tls: bool,
) -> tuple[str, int | str, WebSocketProtocol, str, str, bool]:
    """Return the same arguments in the one form of ``websockets_connect()`` that has them all."""
    if not isinstance(host, str):
        raise TypeError(
            f"host must be a name, an address or a whole URI, not {type(host).__name__}"
        )
    if not isinstance(headers, str):
        raise TypeError(
            f"headers must be a str, not {type(headers).__name__}; it has lines like 'Name: value',"
            " joined by CRLF"
        )
    if is_unix(host):
        if isinstance(port, WebSocketProtocol) and protocol is None:
            protocol, port = port, None
        port = "" if port is None else port
    elif "://" in host or is_websocket_uri(host):
        if uri:
            raise TypeError("the address already contains the URI")
        if isinstance(port, WebSocketProtocol):
            if isinstance(protocol, str):
                headers = f"{protocol}\r\n{headers}" if headers else protocol
            elif isinstance(protocol, WebSocketProtocol):
                raise TypeError("pass one protocol, not two")
            elif protocol is not None:
                raise TypeError(
                    "the headers follow the protocol, as lines like 'Name: value' in one str,"
                    f" not {type(protocol).__name__}"
                )
            protocol, port = port, None
        host, number, uri, tls = parse_websocket_uri(host)
        port = number if port is None else port
    if not isinstance(protocol, WebSocketProtocol) or not isinstance(port, (int, str)):
        raise TypeError(
            "call websockets_connect(host, port, protocol) or"
            " websockets_connect('ws://…', protocol); a protocol is required"
        )
    return host, port, protocol, uri, headers, tls


def already_upgraded(current: str, uri: str) -> str:
    """Return the error for a second upgrade, on the *current* URI or another one."""
    if current.lower() == uri.lower():
        return "Already upgraded to WebSockets on this URI"
    return (
        f"Already upgraded to WebSockets with URI=[{shown_uri(current)}] but requested "
        f"[{shown_uri(uri)}]"
    )


def rest_protocol(
    uri: str,
    key: str,
    ajax: bool,
    options: Collection[Any] | WebSocketProtocolBinaryOptions | None,
    settings: WebSocketProcessSettings,
) -> WebSocketProtocol:
    """Return the default REST protocol."""
    # imported here, so that clients of other protocols do not load it
    from ..rest.protocols import new_rest_protocol

    return new_rest_protocol(
        uri, key, ajax, pboSynLzCompress if options is None else options, settings
    )
