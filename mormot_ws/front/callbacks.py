"""Checks of callbacks that both doors share.

They are checked when they are set, so that a function that could never be called is rejected
immediately, with an explanation. No connection, thread or frame belongs in here.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from ..callbacks import Ignored, check_callback, check_plain


def only_kind(function: object, position: int) -> type | None:
    """Return ``str`` or ``bytes`` if the annotation of the parameter at *position* accepts nothing
    else; otherwise None.
    """
    try:
        signature = inspect.signature(typing.cast("Callable[..., Any]", function))
        parameter = list(signature.parameters.values())[position]
        target = function if inspect.isroutine(function) else type(function).__call__
        hint = typing.get_type_hints(target).get(parameter.name, parameter.annotation)
    # annotations belong to the application, and may be anything
    except Exception:  # noqa: BLE001
        return None
    return hint if hint in (str, bytes) else None


def fitting(function: Any, taker: str) -> Any:
    """Return *function*, the callback *taker* with a connection and a message. If its annotation
    accepts only ``str``, or only ``bytes``, return a wrapper that rejects other messages.
    """
    if function is None:
        return None
    wanted = only_kind(function, 1)
    if wanted is None:
        return function

    def checked(ws: object, message: object) -> Any:
        if type(message) is not wanted:
            came = "text" if isinstance(message, str) else "binary"
            raise TypeError(f"received a {came} message, but {taker} only takes {wanted.__name__}")
        return function(ws, message)

    return checked


__all__ = ["Ignored", "check_callback", "check_plain", "only_kind"]
