"""The options of the binary protocols, in the forms that an application may pass."""

from __future__ import annotations

from typing import Any

from ..states import WebSocketProtocolBinaryOptions


def binary_options(options: Any) -> WebSocketProtocolBinaryOptions:
    """Return *options*, a flag or a collection of flags (empty: none), as one flag.

    Raises ``TypeError`` for anything else.
    """
    if isinstance(options, WebSocketProtocolBinaryOptions):
        return options
    result = WebSocketProtocolBinaryOptions(0)
    try:
        for option in options:
            result |= option
    except TypeError:
        raise TypeError(
            f"options must be a WebSocketProtocolBinaryOptions or a set of them, not {options!r}"
        ) from None
    return result
