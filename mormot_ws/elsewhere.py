"""Elsewhere: a name that users of other libraries look for in a class that has it not.

It costs nothing where it is not read: unlike ``__getattr__``, which makes all other attributes of
its class slower.
"""

from __future__ import annotations

from typing import Any


class Elsewhere:
    """Stands for an attribute that is not there, and says so when it is read.

    :param name: the attribute.
    :param meant: what is there instead, in words.
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
