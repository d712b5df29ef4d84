"""Checks callbacks when they are set, so that mistakes are found immediately.

A coroutine or generator function would return without running a line of its body. No connection,
thread or frame belongs in here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast

#: what a callback may return; the value is ignored. Anything is allowed except a coroutine, so a
#: type checker rejects an ``async def``
Ignored = (
    bool
    | int
    | float
    | str
    | bytes
    | list[Any]
    | dict[Any, Any]
    | set[Any]
    | tuple[Any, ...]
    | Future[Any]
    | None
)

#: the flags of code that does not run when its function is called
_NOT_RUN = (
    inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
    | inspect.CO_ITERABLE_COROUTINE
)


def check_callback(function: object, name: str, *parameters: str) -> None:
    """Raise ``TypeError`` if *function* cannot be the callback *name*, called with *parameters*.

    A coroutine or generator function would return without running a line of its body. A function
    whose parameters are unknown is accepted.
    """
    if _plainly_fits(function, len(parameters)):
        return
    called = f"{name} is called as {name}({', '.join(parameters)})"
    check_plain(function, name)
    try:
        # the parameters of a decorated function are those of its wrapper
        signature = inspect.signature(cast("Callable[..., Any]", function), follow_wrapped=False)
    except (TypeError, ValueError):  # a C function without a signature
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        raise TypeError(f"{called}; {_title(function)}{signature} does not take that") from None


def check_plain(function: object, name: str) -> None:
    """Raise ``TypeError`` if *function*, given as *name*, would not run when called."""
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {type(function).__name__}")
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


def _plainly_fits(function: object, count: int) -> bool:
    """Return whether *function*, like most callbacks, is a plain function or method that takes
    *count* arguments.

    This is 20 times faster than inspecting the signature. Servers set the callbacks of each
    connection.
    """
    if type(function) is MethodType:
        function, count = function.__func__, count + 1
    if type(function) is not FunctionType:
        return False
    code = function.__code__
    return (
        not code.co_flags & _NOT_RUN
        and not code.co_kwonlyargcount
        and code.co_argcount - len(function.__defaults__ or ()) <= count <= code.co_argcount
    )


def _title(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)
