"""RemoteMethods: the functions that peers call, with arguments checked against annotations.

No thread belongs in here, and nothing about how calls and answers are transported.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from enum import Enum
from inspect import BoundArguments
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..core.frames import WebSocketFrame
from ..errors import CallError
from ..logs import get_logger
from ..services.readers import reader_of
from .callbacks import check_plain
from .messages import (
    CALL_BAD_ARGUMENTS,
    CALL_FAILED,
    CALL_INVALID,
    CALL_NOT_FOUND,
    Call,
    answer_frame,
    error_frame,
)

if TYPE_CHECKING:
    from .peer import Peer

_log = get_logger("mormot_ws.front")


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


#: what a method may return: anything that JSON can represent, but not a coroutine
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
    """*function*, which peers call by *name*. If its first parameter is annotated as *peer_type*,
    it receives the calling peer.

    Raises ``TypeError`` for a function that cannot be called remotely.
    """

    def __init__(self, name: str, function: Callable[..., Any], peer_type: type) -> None:
        check_plain(function, f"the method {name!r}")
        if not name:
            raise ValueError("a method needs a name: write server.method('name')(function)")
        self.name = name
        self.function = function
        signature = inspect.signature(function)
        try:
            target = function if inspect.isroutine(function) else type(function).__call__
            hints = typing.get_type_hints(target, include_extras=True)
        except NameError as exc:
            raise TypeError(
                f"{name}(): {exc}; its types must be global names at run time"
            ) from None
        parameters = list(signature.parameters.values())
        #: True: the first argument is the calling peer
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
        """Return the *arguments* of a call, converted according to the annotations; raise
        ``ValueError`` if they do not fit.
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


class RemoteMethods:
    """The methods of a server, by name. The server guards :meth:`add`.

    *hide_errors*: do not send the text of exceptions to callers, except for :class:`CallError`.
    """

    def __init__(self, hide_errors: bool) -> None:
        self._hide_errors = hide_errors
        self._methods: dict[str, RemoteMethod] = {}

    def __len__(self) -> int:
        return len(self._methods)

    def add(self, method: RemoteMethod) -> None:
        """Add *method*; raise ``ValueError`` if there is already one with that name."""
        if method.name in self._methods:
            raise ValueError(f"there is already a method {method.name!r}")
        self._methods[method.name] = method

    def answer(self, peer: Peer, call: Call) -> WebSocketFrame:
        """Execute the *call* of *peer*; return the frame that answers it."""
        number = call.number
        if call.fault:
            return error_frame(number, CALL_INVALID, call.fault)
        method = self._methods.get(call.name)
        if method is None:
            return error_frame(number, CALL_NOT_FOUND, f"there is no method {call.name[:80]!r}")
        try:
            arguments = method.read(call.arguments)
        except ValueError as exc:
            return error_frame(number, CALL_BAD_ARGUMENTS, f"{method.name}(): {exc}")
        first = (peer,) if method.wants_peer else ()
        try:
            result = method.function(*first, *arguments.args, **arguments.kwargs)
            return answer_frame(number, result)
        except CallError as exc:
            return error_frame(number, exc.code, exc.text)
        # any exception in a method is an error for its caller
        except BaseException as exc:
            # in a child that the method has forked, which ends as it likes
            if peer.process.inherited:
                raise
            fields = peer.process.log_fields()
            _log.exception("%r: the method %s failed", peer, method.name, extra=fields)
            return error_frame(
                number, CALL_FAILED, "internal error" if self._hide_errors else _words(exc)
            )


def _words(exc: BaseException) -> str:
    """Return what the caller learns about *exc*."""
    name = type(exc).__name__
    try:
        return f"{name}: {exc}"
    # its __str__ is the application's
    except Exception:  # noqa: BLE001
        return name
