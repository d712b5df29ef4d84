"""Checks of the attributes of a client's connection, and of its target."""

from __future__ import annotations

import os.path
import ssl
from types import NoneType
from typing import Any

from ..attributes import IS_TEXT, Check, of_kind
from ..callbacks import check_callback
from ..core.addresses import is_unix, unix_address, unix_name
from ..core.names import wire_host
from ..settings import check_timeout


def checked_target(host: object, port: object) -> tuple[str, int]:
    """Return where a client is to connect: the host, and the port as a number.

    The path of a Unix socket becomes absolute, and its port is 0. Raises ``ValueError`` or
    ``TypeError``.
    """
    if isinstance(host, str) and is_unix(host):
        if port not in ("", 0, None):
            raise ValueError(f"a Unix socket has no port: {port!r}")
        name = unix_name(host)
        # the working directory may be different at a reconnection
        return unix_address(name if name[0] == "\0" else os.path.abspath(name)), 0
    _is_host("host", host)
    text = str(port)
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 65536:
        raise ValueError(f"port must be a number from 1 to 65535, not {port!r}")
    return str(host), int(text)


def _is_host(name: str, value: Any) -> None:
    if isinstance(value, int):
        raise TypeError(
            f"{name} must be a name or an address, not {value!r}: it comes before the port"
        )
    if not isinstance(value, str) or not value or any(c <= " " for c in value):
        raise ValueError(f"{name} must be a name or an address, not {value!r}")
    if "/" in value:  # it may contain a token, which must not be shown
        raise ValueError(
            f"{name} must be a name or an address; HttpClientWebSockets.websockets_connect() "
            "takes a whole URI"
        )
    if value.count(":") == 1:
        raise ValueError(f"{name} must be a name or an address without its port, not {value!r}")
    wire_host(value)


def _is_place(name: str, value: Any) -> None:
    if isinstance(value, str) and is_unix(value):
        unix_name(value)
    else:
        _is_host(name, value)


def _is_port(name: str, value: Any) -> None:
    # 0 is the port of a Unix socket
    if type(value) is not int or not 0 <= value < 65536:
        raise ValueError(f"{name} must be a number from 1 to 65535, not {value!r}")


def _is_tls(name: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    context = isinstance(value, ssl.SSLContext)
    hint = "True, with the context as tls_context=…" if context else "True or False"
    raise TypeError(f"{name} must be {hint}, not {type(value).__name__}")


def _is_tls_context(name: str, value: Any) -> None:
    if value is None or isinstance(value, ssl.SSLContext):
        return
    if not callable(value):
        raise TypeError(
            f"{name} must be an ssl.SSLContext, or a function that returns one, not"
            f" {type(value).__name__}"
        )
    check_callback(value, name)


def _is_server_name(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or any(c <= " " for c in value):
        raise ValueError(f"{name} must be a name or None, not {value!r}")
    if not wire_host(value).strip("."):
        raise ValueError(f"{name} must be a name or None, and must not be empty")


SOCKET_CHECKS: dict[str, Check] = {
    "host": _is_place,
    "port": _is_port,
    "tls": _is_tls,
    "tls_context": _is_tls_context,
    "tls_server_name": _is_server_name,
    "timeout": check_timeout,
    "last_error": IS_TEXT,
    "last_exception": of_kind(OSError, NoneType),
}
