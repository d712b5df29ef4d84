"""RemoteMethod: a function that peers call, and what its annotations say of its arguments.

No connection and no thread belongs in here.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from enum import Enum
from inspect import BoundArguments
from typing import Any, ClassVar, Protocol

from ..services.values import reader_of
from .callbacks import check_plain


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


#: what a method may return: what JSON can hold, and no coroutine
Sendable = (
    None
    | bool
    | int
    | float
    | str
    | bytes
    | date
    | Enum
    | Dataclass
    | Mapping[str, Any]
    | Sequence[Any]
    | AbstractSet[Any]
)


class RemoteMethod:
    """*function* as peers call it by *name*. When its first parameter has the annotation
    *peer_type*, it is given the calling peer.

    Raises ``TypeError`` for what cannot be called from afar.
    """

    def __init__(self, name: str, function: Callable[..., Any], peer_type: type) -> None:
        check_plain(function, f"the method {name!r}")
        self.name = name
        self.function = function
        signature = inspect.signature(function)
        try:
            target = function if inspect.isroutine(function) else type(function).__call__
            hints = typing.get_type_hints(target, include_extras=True)
        except NameError as exc:
            raise TypeError(
                f"{name}(): {exc}; its types have to be global names at run time"
            ) from None
        parameters = list(signature.parameters.values())
        #: True: the calling peer is its first argument
        self.wants_peer = bool(parameters) and hints.get(parameters[0].name) is peer_type
        if self.wants_peer:
            del parameters[0]
        self._signature = signature.replace(parameters=parameters)
        try:
            self._readers = {
                parameter.name: reader_of(hints.get(parameter.name, Any))
                for parameter in parameters
            }
        except TypeError as exc:
            raise TypeError(f"{name}(): {exc}") from None
        self._kinds = {parameter.name: parameter.kind for parameter in parameters}

    def read(self, arguments: list[Any] | dict[str, Any]) -> BoundArguments:
        """Return the *arguments* of a call, as their annotations say; raise ``ValueError`` when
        they do not fit.
        """
        try:
            if isinstance(arguments, dict):
                bound = self._signature.bind(**arguments)
            else:
                bound = self._signature.bind(*arguments)
            for name, value in bound.arguments.items():
                bound.arguments[name] = self._read_one(name, value)
        except TypeError as exc:
            raise ValueError(str(exc)) from None
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None
        return bound

    def _read_one(self, name: str, value: Any) -> Any:
        read = self._readers[name]
        if self._kinds[name] is inspect.Parameter.VAR_POSITIONAL:
            return tuple(read(item, f"{name}[{at}]") for at, item in enumerate(value))
        if self._kinds[name] is inspect.Parameter.VAR_KEYWORD:
            return {key: read(item, key) for key, item in value.items()}
        return read(value, name)
