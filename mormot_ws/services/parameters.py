"""The parameters of a method: how the arguments of a call are written and read.

Native code sends a JSON array, an object by name, parameters in the URI, or raw bytes. Pure
functions: values and bytes in, bytes and values out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from .reader import Reader
from .values import dump_native_json, load_native_json

JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"
#: empty content, as synopsejson sends it
NO_CONTENT = b'""'
#: parameters in a URI
_MOST_FIELDS = 1_000
#: JSON types that the text of a parameter in a URI may represent
_NO_TEXTS = frozenset((bool, int, float, list, dict))

#: returns the number of an object passed as an interface, given the object and the class
NumberOf = Callable[[Any, type], int]


def plain_name(name: str) -> str:
    """Return the form in which names of parameters are compared: Pascal ignores case."""
    return name.lower().replace("_", "")


class Parameters:
    """The parameters of a method, in order.

    *callbacks* contains the interfaces of the parameters that are callbacks, by index.
    """

    def __init__(
        self,
        title: str,
        signature: inspect.Signature,
        readers: tuple[Reader, ...],
        callbacks: dict[int, type],
        exact: bool,
    ) -> None:
        self._title = title
        #: without ``self``
        self.signature = signature
        self._names = list(signature.parameters)
        self._readers = readers
        self.callbacks = callbacks
        self._exact = exact
        self._by_name = {plain_name(name): at for at, name in enumerate(self._names)}
        annotations = [parameter.annotation for parameter in signature.parameters.values()]
        self._bytes = [at for at, kind in enumerate(annotations) if kind in (bytes, "bytes")]
        #: True if the content of a call may be the bytes of its only argument
        self.is_content = len(annotations) == 1 and bool(self._bytes)

    # -------------------------------------------------------------------------------------- writing

    def write(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        number_of: NumberOf | None = None,
        only_json: bool = False,
    ) -> tuple[bytes, str]:
        """Return the content of a call, and its type.

        With *only_json*, bytes are not sent as raw content. Raises ``TypeError``/``ValueError`` for
        invalid arguments.
        """
        values = self.bound(args, kwargs)
        if self.is_content and not only_json and isinstance(values[0], bytes) and values[0]:
            return values[0], BYTES_TYPE
        for at in self._bytes:
            if values[at] == b"":
                values[at] = None
        for at, interface in self.callbacks.items():
            if number_of is None:
                raise TypeError(f"{self._title}(): an interface cannot be passed to a callback")
            values[at] = 0 if values[at] is None else number_of(values[at], interface)
        return dump_native_json(values), JSON_TYPE

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the arguments of a call in the order of the parameters, including defaults.

        Raises ``TypeError`` if they do not match the parameters.
        """
        if len(args) == len(self._names) and not kwargs:
            return list(args)
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self._title}(): {exc}") from None
        bound.apply_defaults()
        return list(bound.arguments.values())

    # -------------------------------------------------------------------------------------- reading

    def read(self, content: bytes, query: str = "") -> list[Any]:
        """Return the arguments of a call from its JSON *content*, or, if empty, its *query*.

        The argument for a callback is its number, 0 for None. Raises ``ValueError`` for invalid
        arguments.
        """
        if content == NO_CONTENT:
            content = b""
            if not query:
                return self._in_order([])
        if not content:
            return self._from_query(query)
        values = load_native_json(content, self._exact)
        if isinstance(values, list):
            return self._in_order(values)
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise ValueError("the arguments must be a JSON array, or an object by their names")
        return self._by_names(values)

    def _in_order(self, values: list[Any]) -> list[Any]:
        names = self._names
        if len(values) < len(names):
            try:
                self.signature.bind(*values)
            except TypeError as exc:
                raise ValueError(str(exc)) from None
        # zip: if the array is shorter, the rest has defaults; extra items are ignored
        return [
            read(value, name)
            for read, value, name in zip(self._readers, values, names, strict=False)
        ]

    def _by_names(self, values: dict[str, Any]) -> list[Any]:
        given = {}
        for name, value in values.items():
            at = self._by_name.get(plain_name(name))
            if at is not None:
                given[at] = self._readers[at](value, self._names[at])
        return self._completed(given)

    def _completed(self, given: dict[int, Any]) -> list[Any]:
        """Return all arguments: the *given* ones, and defaults or empty values for the others."""
        arguments = []
        for at, parameter in enumerate(self.signature.parameters.values()):
            empty = self._readers[at].empty
            if at in given:
                arguments.append(given[at])
            elif parameter.default is not parameter.empty:
                arguments.append(parameter.default)
            elif empty is not None:
                arguments.append(empty())
            else:
                raise ValueError(f"missing a required argument: {parameter.name!r}")
        return arguments

    def _from_query(self, query: str) -> list[Any]:
        whole = unquote_plus(query)
        if whole.startswith(("[", "{")):
            return self.read(whole.encode("utf-8"))
        given = {}
        for name, text in parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS):
            at = self._by_name.get(plain_name(name))
            if at is not None:
                given[at] = self._readers[at](self._value_of(text, at), self._names[at])
        return self._completed(given)

    def _value_of(self, text: str, at: int) -> Any:
        """Return the value that the *text* of a parameter in a URI represents."""
        kinds = self._readers[at].kinds
        if kinds is not None and str in kinds and not kinds & _NO_TEXTS:
            return text
        try:
            return load_native_json(text.encode("utf-8"), self._exact)
        except ValueError:
            return text
