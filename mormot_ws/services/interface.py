"""ServiceInterface: the methods of a class that declares a service, and their form on the wire.

Pure functions: a class in, names and JSON out. This module uses no sockets, threads or connections;
calls are made in ``base.py``, ``client.py`` and ``server.py``.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from .answers import ServiceCustomAnswer, ServiceCustomStatus
from .parameters import Parameters
from .reader import Reader
from .readers import item_reader
from .values import dump_native_json, load_native_json

_Function = TypeVar("_Function", bound=Callable[..., Any])
#: modules whose abstract classes are types of values, not interfaces
_LIBRARY = ("abc", "collections.abc", "typing", "typing_extensions")
#: the attribute of a method with its name on the wire, and that of a proxy with its call
_WIRE_NAME, _CALL = "_mormot_ws_name", "_mormot_ws_call"
#: the type of a callback on the wire; None is 0
_NUMBER = int
#: a method of implementations that is not called remotely; mirrors ``CallbackReleased``
CALLBACK_RELEASED = "callback_released"

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class ServiceMethod:
    """A method of a service: how its calls and answers are written and read."""

    #: ``Interface.method``, for messages
    title: str
    name: str
    #: its part of the URI: ``Calculator.Add``
    wire_name: str
    parameters: Parameters
    #: one for each value of the result: none for None, several for a tuple
    results: tuple[Reader, ...]
    returns_tuple: bool
    #: :class:`ServiceCustomAnswer` or :class:`ServiceCustomStatus` if it returns one of these
    custom: type | None
    #: True if the result may contain a Decimal
    exact: bool
    #: True if native code may omit quotes in the answer
    has_names: bool
    #: the indexes of results that are bytes
    byte_results: tuple[int, ...]

    @property
    def signature(self) -> inspect.Signature:
        """The parameters, without ``self``."""
        return self.parameters.signature

    @property
    def waits(self) -> bool:
        """True if a caller needs the answer."""
        return bool(self.results) or self.custom is not None

    def write_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the content of a call.

        Raises ``TypeError``/``ValueError`` for invalid arguments.
        """
        return self.parameters.write(args, kwargs)[0]

    def read_arguments(self, content: bytes) -> list[Any]:
        """Return the arguments of a call from its JSON; raise ``ValueError`` if invalid."""
        return self.parameters.read(content)

    def write_result(self, value: Any, instance_id: int = 0) -> bytes:
        """Return *value*, which the method returned, as ``{"result":[…]}``.

        The number of the instance is added unless it is 0. Raises ``TypeError``/``ValueError`` if
        *value* does not match the annotation.
        """
        if self.returns_tuple:
            if not isinstance(value, tuple) or len(value) != len(self.results):
                raise TypeError(f"{self.title}() did not return a tuple of {len(self.results)}")
            values = list(value)
        else:
            values = [value] if self.results else []
        for at in self.byte_results:
            if values[at] == b"":
                values[at] = None
        if instance_id:
            return dump_native_json({"result": values, "id": instance_id})
        return dump_native_json({"result": values})

    def read_result(self, content: bytes) -> Any:
        """Return the result from the JSON of an answer; raise ``ValueError`` if invalid."""
        return self.read_answer(content)[0]

    def read_answer(self, content: bytes) -> tuple[Any, int]:
        """Return the result, and the number of the instance that answered (0: none)."""
        answer = load_native_json(content, self.exact)
        values, number = self._values_of(answer)
        if not isinstance(values, list):
            raise ValueError('not in the form {"result":[…]}')
        if len(values) < len(self.results):
            raise ValueError(f"it must have {len(self.results)} values, not {len(values)}")
        read = [
            reader(value, "the result") for reader, value in zip(self.results, values, strict=False)
        ]
        if self.returns_tuple:
            return tuple(read), number
        return (read[0] if read else None), number

    def _values_of(self, answer: Any) -> tuple[Any, int]:
        """Return the values of an answer, an array or an object by names, and its ``id``."""
        if not isinstance(answer, dict):
            return None, 0
        number = answer.get("id")
        for name in answer:
            if name.lower() == "result" and isinstance(answer[name], (list, dict)):
                values = answer[name]
                break
        else:
            # ResultAsJsonObjectWithoutResult of native servers
            values = answer if self.results and len(answer) == len(self.results) else None
            number = 0
            if values is not None and set(map(str.lower, values)) <= {"result", "id"}:
                values = None
        if isinstance(values, dict):
            values = list(values.values())
        return values, number if type(number) is int else 0


class ServiceInterface:
    """The service declared by *declaration*, a ``Protocol``, an abstract class, or any other class.

    It consists of all public methods, including those of base classes, whose parameters and results
    must be annotated. Raises ``TypeError`` for what cannot be called remotely: coroutines,
    properties, ``*args``, types without a form in JSON, two methods with one name on the wire.
    """

    def __init__(self, declaration: Any) -> None:
        if not isinstance(declaration, type):
            raise TypeError(
                "an interface must be a class (a Protocol, an abstract class …), not"
                f" {declaration!r}"
            )
        self.declaration = declaration
        name = declaration.__name__
        #: the name on the wire: the name of the class without a leading ``I``
        self.wire_name: str = name[1:] if _is_pascal_name(name) else name
        self.methods: list[ServiceMethod] = [
            self._method(name, function) for name, function in _members(declaration).items()
        ]
        if not self.methods:
            raise TypeError(f"{name} has no public methods")
        self._check_names()

    @property
    def pascal_name(self) -> str:
        """The name of the interface in Pascal."""
        return f"I{self.wire_name}"

    def _check_names(self) -> None:
        """Raise ``TypeError`` if two methods have one name on the wire, where case is ignored."""
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
            raise TypeError(f"{title} is not a plain method; only these can be called remotely")
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]  # without self
        for parameter in parameters:
            if parameter.kind not in _POSITIONAL:
                raise TypeError(f"{title}: {parameter} is not possible in an array of arguments")
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError as exc:
            raise TypeError(f"{title}: {exc}; its types must be global names at run time") from None
        if "return" not in hints:
            raise TypeError(f"{title} must have a return annotation (-> None for no result)")
        try:
            callbacks: dict[int, type] = {}
            readers = []
            for at, parameter in enumerate(parameters):
                hint = hints.get(parameter.name, Any)
                parameters[at] = parameter.replace(annotation=hint)
                found = interface_in(hint)
                if found is not None:
                    callbacks[at] = found
                readers.append(item_reader(_NUMBER if found is not None else hint, True))
            result = hints["return"]
            custom = result if result in (ServiceCustomAnswer, ServiceCustomStatus) else None
            if custom is ServiceCustomStatus:
                result = int
            values = () if custom is ServiceCustomAnswer else _result_types(result)
            results = tuple(item_reader(value, True) for value in values)
        except TypeError as exc:
            raise TypeError(f"{title}: {exc}") from None
        wire_name = getattr(function, _WIRE_NAME, "") or pascal_name(name)
        exact = any(has_decimal(hints.get(parameter.name)) for parameter in parameters)
        return ServiceMethod(
            title,
            name,
            f"{self.wire_name}.{wire_name}",
            Parameters(
                title,
                signature.replace(parameters=parameters, return_annotation=hints["return"]),
                tuple(readers),
                callbacks,
                exact,
            ),
            results,
            typing.get_origin(result) is tuple,
            custom,
            any(map(has_decimal, values)),
            any(
                reader.kinds is None or dict in reader.kinds or list in reader.kinds
                for reader in results
            ),
            tuple(at for at, value in enumerate(values) if value is bytes),
        )

    def check_factory(self, factory: object) -> None:
        """Check that *factory* creates implementations: their class or a function.

        Raises ``TypeError`` if it does not, or if it needs arguments.
        """
        if not callable(factory):
            raise TypeError(
                f"register a class, or a function that returns an object, not {factory!r}: only"
                " shared services have one object"
            )
        try:
            inspect.signature(factory).bind()
        except TypeError as exc:
            raise TypeError(f"{factory!r} cannot be called without arguments: {exc}") from None
        except ValueError:  # a class in C without a signature
            pass
        if isinstance(factory, type):
            self._check_methods(factory, factory.__name__, None)

    def check_implementation(self, implementation: object) -> None:
        """Raise ``TypeError`` if *implementation* lacks a method or cannot take its arguments."""
        if isinstance(implementation, type):
            raise TypeError(f"register an object, not the class {implementation.__name__}")
        self._check_methods(implementation, type(implementation).__name__)

    def _check_methods(self, owner: object, name: str, *first: object) -> None:
        """Check the methods of *owner*, which are called with *first* before the arguments."""
        who = f"{name} does not implement {self.declaration.__name__}"
        for method in self.methods:
            function = getattr(owner, method.name, None)
            if not callable(function):
                raise TypeError(f"{who}: the method {method.name}() is missing")
            bound = isinstance(owner, type) and not isinstance(
                inspect.getattr_static(owner, method.name), types.FunctionType
            )
            try:
                inspect.signature(function).bind(
                    *(() if bound else first), *method.signature.parameters
                )
            except TypeError as exc:
                raise TypeError(f"{who}: {method.name}(): {exc}") from None
            except ValueError:  # a function in C without a signature
                pass


@lru_cache(maxsize=512)
def interface_of(declaration: Any) -> ServiceInterface:
    """Return the cached interface of *declaration*; raise what the class raises."""
    return ServiceInterface(declaration)


def interface_in(hint: Any) -> type | None:
    """Return the interface named by an annotation, alone or with None; None: there is none."""
    candidates = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and len(candidates) == 1:
        hint = candidates[0]
    # in Python 3.10, list[int] counts as a type
    if typing.get_origin(hint) is not None or not isinstance(hint, type):
        return None
    if hint.__module__ in _LIBRARY or is_dataclass(hint):
        return None
    if issubclass(hint, Enum) or not (
        getattr(hint, "_is_protocol", False) or inspect.isabstract(hint)
    ):
        return None
    return hint


def has_decimal(hint: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Return whether values of the annotation *hint* may contain a Decimal."""
    if hint is Decimal:
        return True
    inner = typing.get_args(hint)
    if isinstance(hint, type) and (is_dataclass(hint) or typing.is_typeddict(hint)):
        if hint in seen:
            return False
        seen |= {hint}
        inner = tuple(typing.get_type_hints(hint).values())
    return any(has_decimal(kind, seen) for kind in inner)


def wire_name(name: str) -> Callable[[_Function], _Function]:
    """Set the name of an interface's method on the wire, if the default does not fit.

    Example: ``@wire_name("GetURL")`` above ``def get_url(self)``. The default would be ``GetUrl``,
    which is equivalent over a WebSocket, but not over plain HTTP. Raises ``ValueError`` if *name*
    is not a valid Pascal name.
    """
    if not (isinstance(name, str) and name.isascii() and name.isidentifier()):
        raise ValueError(f"a name on the wire must be a Pascal name like 'GetURL', not {name!r}")

    def name_it(function: _Function) -> _Function:
        setattr(function, _WIRE_NAME, name)
        return function

    return name_it


def _is_pascal_name(name: str) -> bool:
    """Return whether *name* is a Pascal interface name: ``IPlain``, ``I2CBus``, not ``Image``."""
    return name[:1] == "I" and (name[1:2].isupper() or name[1:2].isdigit())


def pascal_name(name: str) -> str:
    """Return a method's name on the wire: ``run_task`` becomes ``RunTask``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_") if part)


def _result_types(result: Any) -> tuple[Any, ...]:
    """Return the types of the values in the answer.

    None has none, a ``tuple[int, str]`` has those of its items, any other type is the only one.
    """
    if result is None or result is type(None):
        return ()
    if typing.get_origin(result) is not tuple:
        return (result,)
    types = typing.get_args(result)
    if ... in types:
        raise TypeError(f"{result!r} cannot be a result: a tuple means several results; use a list")
    return types


def _members(declaration: type) -> dict[str, Any]:
    """Return the public members of *declaration* and its bases."""
    members: dict[str, Any] = {}
    for base in reversed(declaration.__mro__):
        if base is object or base.__module__ in ("typing", "typing_extensions", "abc"):
            continue
        for name in [*vars(base), *vars(base).get("__annotations__", ())]:
            if not name.startswith("_") and name != CALLBACK_RELEASED:
                members[name] = vars(base).get(name)
    return members


#: takes the method and the arguments of a call, and returns its result
Call = Callable[[ServiceMethod, tuple[Any, ...], dict[str, Any]], Any]


def proxy_of(interface: ServiceInterface, call: Call) -> Any:
    """Return an instance of the interface's class whose methods delegate to *call*."""
    proxy = _proxy_class(interface)()
    proxy.__dict__[_CALL] = call
    return proxy


def call_of(proxy: object) -> Call | None:
    """Return the *call* of a proxy; None for any other object."""
    found: Call | None = getattr(proxy, "__dict__", {}).get(_CALL)
    return found


@lru_cache(maxsize=512)
def _proxy_class(interface: ServiceInterface) -> type[Any]:
    def method_for(method: ServiceMethod) -> Callable[..., Any]:
        def calling(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self.__dict__[_CALL](method, args, kwargs)

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
    return type(f"{interface.declaration.__name__}Proxy", (interface.declaration,), body)
