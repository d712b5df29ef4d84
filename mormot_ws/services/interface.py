"""ServiceInterface: the methods of a class that declares a service, and their form on the wire.

Pure: a class in, names and JSON out. No socket, thread or connection belongs in here; who calls and
is called, is in ``remote.py``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .readers import Reader, reader_of
from .values import dump_json, load_json

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class ServiceMethod:
    """One method of a service: how its calls and answers are written and read."""

    #: ``Interface.method``, for messages
    title: str
    name: str
    #: the part of the URI that stands for it: ``Calculator.Add``
    wire_name: str
    #: without ``self``
    signature: inspect.Signature
    #: one for each parameter
    readers: tuple[Reader, ...]
    #: one for each value of the result: none for None, several for a tuple
    results: tuple[Reader, ...]
    returns_tuple: bool

    def write_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the arguments of a call as a JSON array; raise ``TypeError``/``ValueError`` when
        they do not fit.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self.title}(): {exc}") from None
        bound.apply_defaults()
        return dump_json(list(bound.arguments.values()))

    def read_arguments(self, content: bytes) -> list[Any]:
        """Return the arguments of a call from its JSON array; raise ``ValueError`` when they do
        not fit.
        """
        values = load_json(content) if content else []
        if not isinstance(values, list):
            raise ValueError("the arguments have to be a JSON array")
        names = list(self.signature.parameters)
        try:
            self.signature.bind(*values)
        except TypeError as exc:
            raise ValueError(str(exc)) from None
        # zip: where the array is shorter, the rest has defaults
        return _read_all(self.readers, values, names)

    def write_result(self, value: Any) -> bytes:
        """Return *value*, what the method returned, as ``{"result":[…]}``; raise
        ``TypeError``/``ValueError`` when it does not fit.
        """
        if self.returns_tuple:
            if not isinstance(value, tuple) or len(value) != len(self.results):
                raise TypeError(f"{self.title}() returned no tuple of {len(self.results)}")
            return dump_json({"result": list(value)})
        return dump_json({"result": [value] if self.results else []})

    def read_result(self, content: bytes) -> Any:
        """Return the result from the JSON of an answer; raise ``ValueError`` if it does not fit."""
        answer = load_json(content)
        values = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(values, list):
            raise ValueError('it is not {"result":[…]}')
        if len(values) != len(self.results) and self.results:
            raise ValueError(f"{len(self.results)} values are expected in it, not {len(values)}")
        read = _read_all(self.results, values, ["the result"] * len(self.results))
        if self.returns_tuple:
            return tuple(read)
        return read[0] if read else None


class ServiceInterface:
    """The service that *declaration* declares: a ``Protocol``, an abstract class, or a class with
    methods.

    Each public method is part of it, those of base classes too, with parameters and result
    annotated. Raises ``TypeError`` for what cannot be called from afar: coroutines, properties,
    ``*args``, types that JSON does not have, two methods with one name on the wire.
    """

    def __init__(self, declaration: Any) -> None:
        if not isinstance(declaration, type):
            raise TypeError(
                f"an interface is a class (a Protocol, an abstract class …), not {declaration!r}"
            )
        self.declaration = declaration
        name = declaration.__name__
        #: the name on the wire: that of the class, without an ``I`` in front
        self.wire_name: str = name[1:] if name[:1] == "I" and name[1:2].isupper() else name
        self.methods: list[ServiceMethod] = [
            self._method(name, function) for name, function in _members(declaration).items()
        ]
        if not self.methods:
            raise TypeError(f"{name} has no public methods")
        self._check_names()

    def _check_names(self) -> None:
        """Raise ``TypeError`` when two methods have one name on the wire, where native ends compare
        without case.
        """
        named: dict[str, str] = {}
        for method in self.methods:
            other = named.setdefault(method.wire_name.lower(), method.title)
            if other != method.title:
                raise TypeError(
                    f"{other} and {method.title} are both {method.wire_name} on the wire: rename "
                    "one of them"
                )

    def _method(self, name: str, function: Any) -> ServiceMethod:
        title = f"{self.declaration.__name__}.{name}"
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"{title} is no plain method, and only methods can be called from afar")
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]  # without self
        for parameter in parameters:
            if parameter.kind not in _POSITIONAL:
                raise TypeError(f"{title}: {parameter} has no place in an array of arguments")
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError as exc:
            raise TypeError(
                f"{title}: {exc}; its types have to be global names at run time"
            ) from None
        if "return" not in hints:
            raise TypeError(f"{title} has to say what it returns (-> None for nothing)")
        try:
            readers = tuple(reader_of(hints.get(parameter.name, Any)) for parameter in parameters)
            result = hints["return"]
            values = _result_types(result)
            results = tuple(reader_of(value) for value in values)
        except TypeError as exc:
            raise TypeError(f"{title}: {exc}") from None
        wire_name = f"{self.wire_name}.{pascal_name(name)}"
        without_self = signature.replace(parameters=parameters)
        return ServiceMethod(
            title,
            name,
            wire_name,
            without_self,
            readers,
            results,
            typing.get_origin(result) is tuple,
        )

    def check_implementation(self, implementation: object) -> None:
        """Raise ``TypeError`` when *implementation* lacks a method, or cannot be called with its
        arguments.
        """
        who = f"{type(implementation).__name__} does not implement {self.declaration.__name__}"
        if isinstance(implementation, type):
            raise TypeError(f"register an object, not the class {implementation.__name__}")
        for method in self.methods:
            function = getattr(implementation, method.name, None)
            if not callable(function):
                raise TypeError(f"{who}: it has no method {method.name}()")
            try:
                inspect.signature(function).bind(*method.signature.parameters)
            except TypeError as exc:
                raise TypeError(f"{who}: {method.name}(): {exc}") from None
            except ValueError:  # a function in C that does not tell its parameters
                pass


def _read_all(readers: tuple[Reader, ...], values: list[Any], names: list[str]) -> list[Any]:
    return [read(value, name) for read, value, name in zip(readers, values, names, strict=False)]


def pascal_name(name: str) -> str:
    """Return a method's name as it is on the wire: ``run_task`` is ``RunTask``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_") if part)


def _result_types(result: Any) -> tuple[Any, ...]:
    """Return the types of the values in the answer: none for None, the members of a ``tuple[int,
    str]``, else one.
    """
    if result is None or result is type(None):
        return ()
    if typing.get_origin(result) is not tuple:
        return (result,)
    types = typing.get_args(result)
    if ... in types:
        raise TypeError(f"{result!r} is no result: a tuple stands for several results; use a list")
    return types


def _members(declaration: type) -> dict[str, Any]:
    """Return the public members that *declaration* and its bases define."""
    members: dict[str, Any] = {}
    for base in reversed(declaration.__mro__):
        if base is object or base.__module__ in ("typing", "typing_extensions", "abc"):
            continue
        for name in [*vars(base), *vars(base).get("__annotations__", ())]:
            if not name.startswith("_"):
                members[name] = vars(base).get(name)
    return members


def proxy_of(interface: ServiceInterface, call: Callable[[ServiceMethod, bytes], Any]) -> Any:
    """Return an instance of the interface's class whose methods give their arguments to *call* and
    return what it returns.
    """

    def method_for(method: ServiceMethod) -> Callable[..., Any]:
        def calling(self: object, *args: Any, **kwargs: Any) -> Any:
            return call(method, method.write_arguments(args, kwargs))

        calling.__name__ = method.name
        calling.__qualname__ = method.title
        calling.__doc__ = getattr(interface.declaration, method.name).__doc__
        return calling

    def represent(self: object) -> str:
        return f"<proxy of {interface.declaration.__name__}>"

    body: dict[str, Any] = {method.name: method_for(method) for method in interface.methods}
    body |= {
        "__init__": lambda self: None,
        "__repr__": represent,
        "__module__": interface.declaration.__module__,
    }
    return type(f"{interface.declaration.__name__}Proxy", (interface.declaration,), body)()
