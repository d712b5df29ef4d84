"""Checks of some attributes and arguments of a server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .connection import WebSocketProcessServer


def is_process_class(name: str, value: object) -> None:
    """Raise ``TypeError`` if *value* is not a process class."""
    if not isinstance(value, type) or not issubclass(value, WebSocketProcessServer):
        raise TypeError(
            f"{name} must be a class that derives from WebSocketProcessServer, not {value!r}"
        )


def numbers_of(name: str, numbers: Iterable[int]) -> list[int]:
    """Return *numbers* of connections as a collection; raise ``TypeError`` for anything else."""
    found: Any = numbers
    if isinstance(numbers, Iterable) and not isinstance(numbers, (str, bytes)):
        found = list(numbers)
        if all(isinstance(number, int) for number in found):
            return found  # type: ignore[no-any-return]
        found = next(number for number in found if not isinstance(number, int))
    raise TypeError(
        f"{name} must contain numbers of connections, like [process.connection_id], not"
        f" {type(found).__name__}"
    )
