"""Elsewhere: a name that users of other libraries look for in a class that does not have it.

It costs nothing unless it is read, unlike ``__getattr__``, which makes all other attributes of its
class slower.
"""

from __future__ import annotations

from typing import Any


class Elsewhere:
    """Represents a missing attribute, and raises an explanation when it is read.

    :param name: the attribute.
    :param meant: what to use instead.
    """

    def __init__(self, name: str, meant: str) -> None:
        self._name = name
        self._meant = meant

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(
            f"{owner.__name__} has no attribute {self._name!r}: {self._meant}",
            name=self._name,
            obj=owner if instance is None else instance,
        )
