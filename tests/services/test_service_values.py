"""What services carry: values as JSON and back by their annotations, with either JSON library; and
what is an interface.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mormot_ws import sicShared
from mormot_ws.services import values as servicevalues
from mormot_ws.services.contracts import signature_text
from mormot_ws.services.interface import ServiceInterface, pascal_name, proxy_of
from mormot_ws.services.readers import reader_of
from mormot_ws.services.values import dump_json, load_json


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@dataclass
class Node:
    """Has fields of its own kind."""

    name: str
    children: list[Node] = field(default_factory=list)
    level: Level = Level.LOW


@pytest.fixture(params=["json", "orjson"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library that reads and writes JSON."""
    module = pytest.importorskip("orjson") if request.param == "orjson" else None
    monkeypatch.setattr(servicevalues, "_orjson", lambda: module)
    return str(request.param)


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, -(1 << 63)),
    (int, (1 << 64) - 1),
    (float, 1.5),
    (str, "zoë 🎈 \0"),
    (bytes, b"\0\xff"),
    (date, date(2026, 11, 25)),
    (datetime, datetime(2026, 11, 25, 12, 30, tzinfo=timezone.utc)),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (Node, Node("a", [Node("b"), Node("c", [Node("d")])])),
    (list[Node], [Node("a")]),
    (Sequence[int], [1, 2]),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (dict[str, Node], {"x": Node("a")}),
    (Mapping[str, int], {"x": 1}),
    (Node | None, None),
    (Node | None, Node("a")),
    (int | str, "a"),
    (int | None, 5),
    (Annotated[int, "a note"], 5),
    (Literal["a", 1], "a"),
    (Any, {"a": [1, None, "x"]}),
    (list, [1, "a"]),
    (dict, {"a": 1}),
    (tuple, (1, "a")),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=lambda value: str(value)[:40])
def test_a_value_comes_back(annotation: Any, value: Any, library: str) -> None:
    """With its type."""
    read = reader_of(annotation)(load_json(dump_json(value)), "it")
    assert read == value
    assert type(read) is type(value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
@settings(deadline=None, max_examples=100)
def test_both_libraries_agree(value: Any) -> None:
    """What one writes the other reads as the same."""
    assert json.loads(dump_json(value)) == value
    assert load_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "value",
    [1 << 64, float("nan"), float("inf"), 1j, object(), {1: 2}, [[object()]], "\ud800", Node],
    ids=[
        "2**64",
        "nan",
        "inf",
        "complex",
        "object",
        "number as key",
        "object inside",
        "surrogate",
        "class",
    ],
)
def test_what_json_does_not_have_is_refused(value: Any, library: str) -> None:
    """Before anything is sent."""
    with pytest.raises((TypeError, ValueError)):
        dump_json(value)


def test_a_kind_of_str_is_sent_as_str(library: str) -> None:
    """Libraries differ in what they do with classes derived from ``str``; the wire does not."""

    class Name(str):
        __slots__ = ()

    assert servicevalues.dump_json([Name("x"), {Name("key"): Name("y")}]) == b'["x",{"key":"y"}]'


@pytest.mark.parametrize("wanted", [True, False])
def test_orjson_is_used_where_it_is_there_and_wanted(
    wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``MORMOT_WS_NO_SPEEDUPS`` keeps to the standard library; without orjson there is no other
    way.
    """
    monkeypatch.setenv("MORMOT_WS_NO_SPEEDUPS", "" if wanted else "1")
    monkeypatch.setitem(sys.modules, "orjson", sys)  # any module
    servicevalues._orjson.cache_clear()
    assert servicevalues._orjson() is (sys if wanted else None)
    monkeypatch.setitem(sys.modules, "orjson", None)  # as if it was not installed
    servicevalues._orjson.cache_clear()
    assert servicevalues._orjson() is None
    servicevalues._orjson.cache_clear()


def test_a_value_that_contains_itself_is_refused() -> None:
    """Instead of running out of stack."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested"):
        dump_json(endless)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[NaN]", b"\xff\xfe[\0]\0", b"[" * 100_000],
    ids=lambda c: repr(c[:8]),
)
def test_what_is_no_json_is_a_value_error(content: bytes, library: str) -> None:
    """Whatever arrives."""
    with pytest.raises(ValueError):  # its text is the library's
        load_json(content)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "1", "it must be int, not str"),
        (int, True, "it must be int, not bool"),
        (int, 1.0, "it must be int, not float"),
        (int, 1 << 65, "it must fit into 64 bits"),
        (float, "1", "it must be float, not str"),
        (float, False, "it must be float, not bool"),
        (str, None, "it must be str, not null"),
        (None, 0, "it must be null, not int"),
        (bytes, "no base64", "it cannot be read as base64"),
        (bytes, 1, "it must be base64, not int"),
        (datetime, "yesterday", "it cannot be read as ISO 8601 time"),
        (list[int], [1, "a"], r"it\[1\] must be int, not str"),
        (list[int], {}, "it must be an array, not an object"),
        (set[Any], [{}], "it has items that a set cannot hold"),
        (tuple[int, str], [1], "it must be an array of 2, not an array"),
        (dict[str, int], {"a": "b"}, r"it\.a must be int, not str"),
        (dict[str, int], [], "it must be an object, not an array"),
        (int | None, "a", "^it must be int, not str$"),
        (int | bool, "a", "it must be int, not str; or it must be bool, not str"),
        (Literal[1, "a"], True, "it must be one of 1, 'a'"),
        (Colour, "blue", "it must be the value of a Colour"),
        (Level, True, "it must be the value of a Level"),
        (Node, 1, r"it must be an object \(Node\), not int"),
        (Node, {}, "it lacks name"),
        (Node, {"name": "a", "x": 1}, "it has a field 'x', which Node does not have"),
        (
            Node,
            {"name": "a", "children": [{"name": 1}]},
            r"it\.children\[0\]\.name must be str, not int",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    annotation: Any, value: Any, message: str
) -> None:
    """Nothing is converted but an int to a float."""
    assert reader_of(float)(1, "it") == 1.0
    with pytest.raises(ValueError, match=message):
        reader_of(annotation)(value, "it")


@pytest.mark.parametrize("annotation", [complex, dict[int, str], type, Protocol, "int"], ids=str)
def test_an_annotation_that_json_does_not_have_is_a_type_error(annotation: Any) -> None:
    """When it is declared, not when it is called."""
    with pytest.raises(TypeError):
        reader_of(annotation)


# --------------------------------------------------------------------------------------- interfaces


class Base(Protocol):
    def first(self, nodes: list[Node], depth: int = 3) -> None: ...


class IDerived(Base, Protocol):
    def second_one(self) -> tuple[int, str]: ...

    def _private(self, *whatever: object) -> None: ...


def test_an_interface_has_the_public_methods_of_its_bases_too() -> None:
    """With their names on the wire."""
    interface = ServiceInterface(IDerived)
    assert [method.wire_name for method in interface.methods] == [
        "Derived.First",
        "Derived.SecondOne",
    ]


@pytest.mark.parametrize(
    ("name", "wire"),
    [("add", "Add"), ("run_task", "RunTask"), ("runTask", "RunTask"), ("a_1", "A1")],
)
def test_names_on_the_wire(name: str, wire: str) -> None:
    assert pascal_name(name) == wire


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("IPlain", "Plain"),
        ("Plain", "Plain"),
        ("Image", "Image"),
        ("IImage", "Image"),
        ("I2CBus", "2CBus"),
        ("I18n", "18n"),
        ("IO", "O"),
        ("I", "I"),
    ],
)
def test_names_of_interfaces_on_the_wire(name: str, wire: str) -> None:
    """In Pascal they begin with an I, which is left out; and so does a contract that has one as
    the type of a parameter.
    """

    def ping(self: object) -> None: ...

    interface: Any = type(name, (Protocol,), {"ping": ping, "__module__": __name__})

    def take(self: object, one: interface) -> None: ...

    take.__annotations__ = {"one": interface, "return": None}
    assert ServiceInterface(interface).wire_name == wire
    text = signature_text(ServiceInterface(type("ITaker", (), {"take": take})), sicShared)
    assert f'"argument":"one","direction":"in","type":"I{wire}"' in text


def test_too_deep_arguments_are_a_value_error() -> None:
    """A tree of objects that is deeper than the stack allows."""
    method = ServiceInterface(IDerived).methods[0]
    deep = b'{"name":"x","children":[' * 480 + b'{"name":"x"}' + b"]}" * 480
    with pytest.raises(ValueError, match="nested"):
        method.read_arguments(b"[[" + deep + b"]]")


def test_a_proxy_gives_its_calls_away() -> None:
    """Arguments as JSON with their defaults, because the other side may have others; results as
    they come.
    """
    seen: list[tuple[str, bytes]] = []

    def call(method: Any, args: Any, kwargs: Any) -> Any:
        seen.append((method.name, method.write_arguments(args, kwargs)))
        return "answer"

    proxy = proxy_of(ServiceInterface(IDerived), call)
    assert proxy.first(depth=2, nodes=[]) == "answer"
    proxy.first([])
    assert seen == [("first", b"[[],2]"), ("first", b"[[],3]")]


def test_a_result_that_is_none_or_not_what_was_declared_is_refused() -> None:
    """On the side that has it."""
    first, second = ServiceInterface(IDerived).methods
    assert first.write_result("ignored") == b'{"result":[]}'
    assert first.read_result(b'{"result":["whatever"]}') is None
    for wrong in ((1,), [1, "a"], None):
        with pytest.raises(TypeError, match="did not return a tuple of 2"):
            second.write_result(wrong)
    for content in (b"[]", b"{}", b'{"result":1}', b'{"result":[1]}', b'{"result":[1,2]}'):
        with pytest.raises(ValueError, match=r"result|values"):
            second.read_result(content)


class Least(Protocol):
    def least(self, one: int, other: int) -> int: ...


def test_an_implementation_that_does_not_tell_its_parameters_is_taken() -> None:
    """A function in C may have no signature; what is wrong with it shows when it is called."""

    class Opaque:
        least = min  # has none in most versions of Python

    ServiceInterface(Least).check_implementation(Opaque())


class Async(Protocol):
    async def call(self) -> None: ...


class Star(Protocol):
    def call(self, *numbers: int) -> None: ...


class Keyword(Protocol):
    def call(self, *, number: int) -> None: ...


class Silent(Protocol):
    def call(self): ...  # type: ignore[no-untyped-def]


class Strange(Protocol):
    def call(self, number: complex) -> None: ...


class Unknown(Protocol):
    def call(self, number: NoSuchType) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Open(Protocol):
    def call(self) -> tuple[int, ...]: ...


class Value(Protocol):
    @property
    def call(self) -> int: ...


class Empty(Protocol):
    pass


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (Async, "Async.call is not a plain method"),
        (Star, "is not possible in an array"),
        (Keyword, "is not possible in an array"),
        (Silent, "must have a return annotation"),
        (Strange, "complex.* cannot be read from JSON"),
        (Unknown, "NoSuchType.*global names at run time"),
        (Open, "use a list"),
        (Value, "Value.call is not a plain method"),
        (Empty, "Empty has no public methods"),
        ("Empty", "an interface must be a class"),
    ],
)
def test_what_cannot_be_called_from_afar_is_no_interface(declaration: Any, message: str) -> None:
    """It is said when it is registered or got."""
    with pytest.raises(TypeError, match=message):
        ServiceInterface(declaration)
