"""Checks callbacks when they are set, so that mistakes are found at once.

A coroutine or generator function would return without having run a line of its own. No connection,
no thread and no frame belongs in here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast


def check_callback(function: object, name: str, *parameters: str) -> None:
    """Raise ``TypeError`` when *function* cannot be the callback *name*, called with *parameters*.

    A coroutine or generator function would return without having run a line of its own.
    """
    called = f"{name} is called as {name}({', '.join(parameters)})"
    check_plain(function, name)
    try:
        signature = inspect.signature(cast("Callable[..., Any]", function))
    except (TypeError, ValueError):  # a function in C that does not tell its parameters
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        raise TypeError(f"{called}; {_title(function)}{signature} does not take that") from None


def check_plain(function: object, name: str) -> None:
    """Raise ``TypeError`` when *function*, given as *name*, does not run when it is called."""
    if not callable(function):
        raise TypeError(f"{name} is a function, not {type(function).__name__}")
    plain = function.func if isinstance(function, partial) else function
    for candidate in (plain, getattr(plain, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise TypeError(
                f"{name} is called in a thread, without an event loop: write {_title(function)}"
                " with def, not async def"
            )
        if inspect.isgeneratorfunction(candidate):
            raise TypeError(
                f"{name} is called like any function: {_title(function)} has a yield, and would"
                " not run"
            )


def _title(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)
