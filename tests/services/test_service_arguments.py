"""What a peer may send as arguments and results of services: it costs time and memory in proportion
to its size, stops no other thread, and is refused with 406 and a short text where it does not fit.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum, Flag, IntFlag
from typing import Any, Literal, Protocol

import pytest
from support.rest import pair

from mormot_ws import ClientServices, HttpServerRequest, ServerServices, ServiceError
from mormot_ws.rest import json_structure
from mormot_ws.services import json_parts, values
from mormot_ws.services.interface import ServiceInterface
from mormot_ws.services.readers import reader_of
from mormot_ws.services.values import MOST_VALUES, dump_json, load_json


@dataclass
class Not:
    """Two types that hold each other, as expressions do."""

    arg: Not | Minus | int


@dataclass
class Minus:
    """The same in another type."""

    arg: Not | Minus | int


@dataclass
class Pair:
    """One with two of them, and a list of either."""

    left: Pair | Trio | None
    right: list[Pair | Trio] | list[Trio] | None


@dataclass
class Trio:
    """Cannot be told from a Pair by its names."""

    left: Pair | Trio | None
    right: list[Pair | Trio] | list[Trio] | None
    #: never there
    third: int = 0


@dataclass(frozen=True)
class Spot:
    """Can be in a set."""

    x: int
    y: int


class Right(Flag):
    READ = 1
    WRITE = 2


class Number(IntFlag):
    ONE = 1


class Sloppy(Enum):
    """Fails on what it does not expect."""

    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls(value.lower())  # type: ignore[attr-defined]


class Picky:
    """Counts what is made."""

    made = 0


@dataclass
class Part:
    """Is counted."""

    size: int

    def __post_init__(self) -> None:
        Picky.made += 1
        if self.size < 0:
            raise ValueError("a size is not negative\n")


@dataclass
class Whole:
    """Has parts, and something behind them."""

    parts: list[Part]
    name: str


@dataclass
class Other:
    """Has the same parts, and something else."""

    parts: list[Part]
    name: int


class IEcho(Protocol):
    def half(self, a: float) -> float: ...
    def whole(self, a: int) -> int: ...
    def text(self, a: str) -> str: ...
    def anything(self, a: Any) -> None: ...
    def evaluate(self, a: Not | Minus | int) -> None: ...
    def both(self, a: Pair | Trio) -> None: ...
    def spots(self, a: set[Spot]) -> int: ...
    def numbers(self, a: list[int]) -> int: ...
    def sloppy(self, a: Sloppy) -> None: ...
    def when(self, a: datetime, b: date) -> None: ...


class Echo(IEcho):
    """Takes all that fits."""

    def half(self, a: float) -> float:
        return a / 2

    def whole(self, a: int) -> int:
        return a

    def text(self, a: str) -> str:
        return a

    def anything(self, a: Any) -> None:
        if isinstance(a, dict) and len(a) < 100:
            json.dumps(a, allow_nan=False).encode()

    def evaluate(self, a: Not | Minus | int) -> None: ...

    def both(self, a: Pair | Trio) -> None: ...

    def spots(self, a: set[Spot]) -> int:
        return len(a)

    def numbers(self, a: list[int]) -> int:
        return sum(a)

    def sloppy(self, a: Sloppy) -> None: ...

    def when(self, a: datetime, b: date) -> None: ...


class Server:
    """As much of a server as the constructor of services looks at."""

    on_request = None

    def is_active_websocket(self, connection_id: int) -> object:
        """All of them are."""
        return self


@pytest.fixture(params=["json", "orjson"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library that reads JSON."""
    module = pytest.importorskip("orjson") if request.param == "orjson" else None
    monkeypatch.setattr(values, "_orjson", lambda: module)
    return str(request.param)


def call(method: str, arguments: bytes) -> tuple[int, str]:
    """Return (status, text) of a call as it arrives."""
    services = ServerServices(Server())  # type: ignore[arg-type]
    services.register(IEcho, Echo())
    ctxt = HttpServerRequest(f"root/Echo.{method}", "POST", "", arguments, "application/json")
    status = services.on_request(ctxt)
    content = ctxt.out_content
    assert isinstance(content, bytes)
    return status, content.decode()


def nested(depth: int, inner: Any, name: str = "arg") -> Any:
    """Return *inner* in so many objects."""
    for _ in range(depth):
        inner = {name: inner}
    return inner


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("half", b"[1" + b"0" * 400 + b"]"),
        ("half", b"[-1" + b"0" * 400 + b"]"),
        ("half", b"[" + b"9" * 100_000 + b"]"),
        ("half", b"[1e999]"),
        ("half", b"[-1e999]"),
        ("half", b"[" + b"9" * 400 + b".5]"),
        ("half", b"[NaN]"),
        ("half", b"[Infinity]"),
        ("whole", b"[18446744073709551616]"),
        ("whole", b"[1" + b"0" * 400 + b"]"),
        ("whole", b"[1e2]"),
        ("whole", b"[1e999]"),
        ("anything", b"[1e999]"),
        ("anything", b'[{"a":[-1e999]}]'),
        ("anything", b"[1" + b"0" * 400 + b"]"),
        ("anything", b'["\\ud800"]'),
        ("anything", b'[{"\\udc00":1}]'),
        ("text", b'["\\ud800"]'),
        ("text", b'["\\udc00\\ud800"]'),
        ("text", b'["\\\\\\ud800x"]'),
        ("text", b'["\xed\xa0\x80"]'),
        ("anything", b"[" * 101 + b"]" * 101),
        ("anything", b"[" * 2_000 + b"]" * 2_000),
        ("anything", b"[" * 500_000),
        ("anything", b'{"":' * 100_000),
        ("spots", b'[[{"x":1,"y":[]}]]'),
        ("sloppy", b"[5]"),
        ("sloppy", b"[null]"),
        ("sloppy", b'["blue"]'),
        ("when", b'["9999-12-31T23:59:59.9999999999+23:59", "0000-00-00"]'),
        ("when", b'["' + b"1" * 100_000 + b'","2020-01-01"]'),
    ],
    ids=lambda value: str(value[:24]),
)
def test_what_does_not_fit_is_refused_with_a_short_text(
    method: str, arguments: bytes, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And without a line in the log: a peer could fill it."""
    caplog.set_level(logging.INFO)
    status, text = call(method, arguments)
    assert status == 406
    assert len(text) < 600
    assert not caplog.records


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("half", b"[1" + b"0" * 300 + b"]"),
        ("half", b"[18446744073709551616]"),
        ("whole", b"[18446744073709551615]"),
        ("whole", b"[-9223372036854775808]"),
        ("anything", b"[18446744073709551616]"),
        ("text", b'["\\ud83d\\ude00 \\\\ud800"]'),
        ("anything", b"[" * 100 + b"]" * 100),
        ("anything", b'["' + b"[" * 1_000 + b'"]'),
        ("anything", b'["' + b'\\"[{' * 100_000 + b'"]'),
        ("sloppy", b'["RED"]'),
        ("evaluate", json.dumps([nested(98, 5)]).encode()),
        ("when", b'["2026-11-28T12:00:00+00:00","2026-11-28"]'),
    ],
    ids=lambda value: str(value[:24]),
)
def test_what_fits_is_taken(method: str, arguments: bytes, library: str) -> None:
    """Up to the limits."""
    status, text = call(method, arguments)
    assert (status, text[:9]) == (200, '{"result"')


def test_both_libraries_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers that 64 bits do not suffice for are floats."""
    orjson = pytest.importorskip("orjson")
    content = b"[1,-0,0.5,18446744073709551615,18446744073709551616,-9223372036854775809,1e300]"
    read = []
    for module in (None, orjson):
        monkeypatch.setattr(values, "_orjson", lambda module=module: module)
        read.append([(type(value), value) for value in load_json(content)])
    assert read[0] == read[1]


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, 1e30, "^it must fit into 64 bits$"),
        (int, 2.5, "^it must be int, not float$"),
        (float, 10**400, "^it is too large for a float$"),
        (Right, 4, "^it must be the value of a Right$"),
        (Right, -5, "^it must be the value of a Right$"),
        (Number, 2, "^it must be the value of a Number$"),
        (Part, {"size": -1}, r"^it is not a valid Part: a size is not negative\\n$"),
        (dict[str, int], {"a\n\ud800": ""}, r"^it\.a\\n\\ud800 must be int, not str$"),
        (dict[str, int], {"x" * 1_000: ""}, "^it.x{60} must be int, not str$"),
        (Not, {"x" * 1_000: 1}, "^it has a field 'x{60}', which Not does not have$"),
        (
            Not | Minus,
            {"arg": {"arg": "x"}},
            r"^it\.arg\.arg must be an object \(Not\), not str; or it\.arg\.arg must be an o",
        ),
        (Not | int, {"arg": ""}, r"^it\.arg must be .*; or it\.arg must be int, not str$"),
        (
            dict[str, Any] | list[dict[str, dict[str, int]]],
            [{"a": {"b": 1}}, {"a": {"b": None}}],
            r"^it\[1\]\.a\.b must be int, not null$",
        ),
        (tuple[int, str], [1, 2], r"^it\[1\] must be str, not int$"),
        (Literal[tuple(range(1_000))], 5_000, "^it must be one of 0, 1, "),
    ],
)
def test_a_misfit_is_told_in_short(annotation: Any, value: Any, message: str) -> None:
    """With its place; what a peer has named is cut and escaped."""
    with pytest.raises(ValueError, match=message) as caught:
        reader_of(annotation)(value, "it")
    assert len(str(caught.value)) < 450


def test_a_deep_place_is_told_by_its_ends() -> None:
    """The text of a misfit has a bounded number of places."""
    with pytest.raises(
        ValueError, match=r"^it\.arg\.arg\.arg\.arg…\.arg\.arg\.arg\.arg must be"
    ) as caught:
        reader_of(Not | Minus)(nested(80, "no number"), "it")
    assert len(str(caught.value)) < 450


def test_flags_that_are_known_are_combined() -> None:
    """Only what an unknown one would add to the class is refused."""
    assert reader_of(Right)(3, "it") == Right.READ | Right.WRITE
    assert reader_of(Right)((~Right.READ).value, "it") == Right.WRITE


@pytest.mark.parametrize("base", [Flag, IntFlag])
def test_a_peer_cannot_fill_a_class_with_combinations_of_flags(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a set with 40 members there are 2⁴⁰. Those that are there are good for ever."""
    monkeypatch.setattr("mormot_ws.services.scalar_readers._MOST_COMBINATIONS", 100)
    kind = base("Wide", [f"F{number}" for number in range(40)])
    reader = reader_of(kind, True)
    refused = 0
    for value in range(300):
        try:
            assert reader(value, "it").value == value
        except ValueError:
            refused += 1
        assert len(kind._value2member_map_) <= 100
    assert bool(refused) == (base is Flag)
    assert reader(3, "it") == kind.F0 | kind.F1


# ------------------------------------------------------------------------------- what a value costs


def seconds_of(action: Callable[[], Any]) -> float:
    """Return the least processor time of three runs."""
    least = float("inf")
    for _ in range(3):
        begin = time.thread_time()
        action()
        least = min(least, time.thread_time() - begin)
    return least


@pytest.mark.parametrize("kind", ["chain", "tree", "list"])
def test_a_union_that_holds_itself_is_read_in_linear_time(kind: str) -> None:
    """Not in every combination of its types: 2 to the power of the depth."""

    def value(depth: int) -> Any:
        if kind == "chain":
            return nested(depth, "no number")
        inner: Any = {"left": None, "right": 5}
        for _ in range(depth):
            if kind == "tree":
                inner = {"left": inner, "right": None}
            else:
                inner = {"left": None, "right": [inner]}
        return inner

    method = "evaluate" if kind == "chain" else "both"
    arguments = [json.dumps([value(depth)]).encode() for depth in (10, 40)]
    assert [call(method, content)[0] for content in arguments] == [406, 406]
    small, large = (seconds_of(lambda: call(method, content)) for content in arguments)  # noqa: B023
    assert large < 30 * small + 0.02


def test_types_are_looked_at_before_values_are_built() -> None:
    """Nothing is made for a type of a union that another field rules out."""
    Picky.made = 0
    value = {"parts": [{"size": 1}] * 50, "name": 5}
    read = reader_of(Whole | Other)(value, "it")
    assert (type(read), Picky.made) == (Other, 50)
    for wrong in (
        {**value, "name": None},
        {**value, "x": 1},
        {"parts": [{"size": 1}, 5], "name": 5},
    ):
        Picky.made = 0
        with pytest.raises(ValueError, match="it"):
            reader_of(Whole | Other)(wrong, "it")
        assert Picky.made == 0


def colliding(count: int) -> list[dict[str, int]]:
    """Return so many pairs of numbers whose tuples have one hash; see ``tuplehash`` of CPython."""
    modulus, first, second, third = (
        1 << 64,
        11400714785074694791,
        14029467366897019727,
        2870177450012600261,
    )

    def rotated(number: int) -> int:
        return (number << 31 | number >> 33) % modulus

    found = []
    inverse = pow(second, -1, modulus)
    wanted = rotated((third + 5 * second) % modulus) * first % modulus
    wanted = (wanted + 7 * second) % modulus
    x = 0
    while len(found) < count:
        x += 1
        before = rotated((third + x * second) % modulus) * first % modulus
        y = (wanted - before) * inverse % modulus
        if y >= modulus // 2:
            y -= modulus
        if hash(y) == y:
            found.append({"x": x, "y": y})
    return found


def test_items_of_a_set_with_the_same_hash_are_refused() -> None:
    """They would take quadratic time, in one call that no other thread can interrupt."""
    items = colliding(3_000)
    if len({hash(Spot(**item)) for item in items}) > 1:
        pytest.skip("this Python hashes tuples in another way")
    status, text = call("spots", json.dumps([items]).encode())
    assert (status, "too many items with the same hash" in text) == (406, True)
    assert call("spots", json.dumps([items[:50]]).encode()) == (200, '{"result":[50]}')
    honest = [{"x": x, "y": x % 7} for x in range(3_000)]
    assert call("spots", json.dumps([honest * 2]).encode()) == (200, '{"result":[3000]}')


SHAPES = {
    "numbers": b"[[%b]]" % b",".join([b"1"] * (MOST_VALUES - 10)),
    "arrays": b"[[%b]]" % b",".join([b"[]"] * (MOST_VALUES // 2 - 10)),
    "objects": b"[[%b]]" % b",".join([b'{"":0}'] * (MOST_VALUES // 2 - 10)),
    "names": b"[{%b}]" % b",".join(b'"%d":0' % i for i in range(MOST_VALUES - 10)),
    "too many": b"[" + b"[],[[]]," * 200_000 + b"0]",
    "not closed": b"[" * 2_000_000,
    "text": b'["%b"]' % (b"a" * 2_000_000),
    "escapes": b'["%b"]' % (b"\\n" * 300_000),
}


def shortened(shape: str, parts: int) -> bytes:
    """Return a *shape* with fewer values, because measuring takes long; still in several parts."""
    content = SHAPES[shape]
    if shape in ("numbers", "arrays", "objects", "names"):
        return content[: content.index(b",", len(content) // parts)] + content[-2:]
    return content


@pytest.mark.parametrize("shape", SHAPES)
def test_a_value_takes_memory_in_proportion(shape: str, library: str) -> None:
    """At its peak less than 100 times its bytes."""
    content = shortened(shape, 8)
    services = ServerServices(Server())  # type: ignore[arg-type]
    services.register(IEcho, Echo())
    ctxt = HttpServerRequest("root/Echo.Anything", "POST", "", content, "application/json")
    tracemalloc.start()
    try:
        status = services.on_request(ctxt)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == (406 if shape in ("too many", "not closed") else 200)
    assert peak < 100 * len(content)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "text"])
def test_no_call_of_a_parser_gets_much_at_once(
    shape: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such call stops all other threads."""
    largest = [0]
    loads = values._orjson().loads if library == "orjson" else values._loads

    def measured(content: bytes) -> Any:
        structure = sum(map(content.count, (b"[", b"{", b",")))
        largest[0] = max(largest[0], structure)
        return loads(content)

    if library == "orjson":
        monkeypatch.setattr(values, "_orjson", lambda: Module(measured))
    else:
        monkeypatch.setattr(values, "_loads", measured)
    try:
        load_json(shortened(shape, 4))
    except ValueError:
        assert shape in ("too many", "not closed")
    assert largest[0] <= 21_000


class Module:
    """Stands for orjson."""

    def __init__(self, loads: Any) -> None:
        self.loads = loads


# ---------------------------------------------------------------------------------- part by part


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that makes pieces so small that everything is cut."""

    def shrink(size: int) -> None:
        monkeypatch.setattr(json_structure, "PIECE", size)
        monkeypatch.setattr(json_parts, "_FEW", 2)

    return shrink


@pytest.mark.parametrize("size", [1, 3, 17, 1 << 16])
def test_parts_give_the_same_as_the_whole(
    size: int, small_parts: Callable[[int], None], library: str
) -> None:
    """Value or error, for JSON and for what is nearly JSON."""
    small_parts(size)
    rng = random.Random(size)
    loads = values._loads if library == "json" else values._orjson().loads

    def value(depth: int) -> Any:
        kind = rng.random()
        if depth > 4 or kind < 0.4:
            return rng.choice([1, -2.5, 'x"y', "\\", "],[", "é€", "{", None, True, [], {}])
        if kind < 0.7:
            return [value(depth + 1) for _ in range(rng.randrange(6))]
        names = ["a", "b", "", '"', "\\", ",", "c:"]
        return {rng.choice(names) + str(i): value(depth + 1) for i in range(rng.randrange(5))}

    refused = 0
    for _ in range(600):
        made = {"k": value(0)} if rng.random() < 0.1 else [value(0)]
        text = json.dumps(made, indent=rng.choice([None, None, 1])).encode()
        assert json_parts.parse_by_parts(text, loads) == made
        damaged = bytearray(text)
        at = rng.randrange(len(damaged))
        damaged[at : at + rng.randrange(2)] = rng.choice(b'[]{},:"\\1 a').to_bytes(1, "big")
        try:
            wanted = loads(bytes(damaged))
        except ValueError:
            refused += 1
            with pytest.raises(ValueError):  # its text is the library's
                json_parts.parse_by_parts(bytes(damaged), loads)
            continue
        if isinstance(wanted, (list, dict)):
            assert json_parts.parse_by_parts(bytes(damaged), loads) == wanted
    assert refused > 120


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
def test_the_end_of_brackets_is_found_in_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever strings and escape sequences are cut."""
    monkeypatch.setattr(json_structure, "PIECE", size)
    rng = random.Random(size)
    for _ in range(500):
        item = [rng.choice(["]", '"', "\\", '\\"', "a{", 1]) for _ in range(rng.randrange(5))]
        text = json.dumps({"a": item, "[": [item, {}]}).encode()
        behind = rng.choice([b"", b"]}", b" ] }", b',"]",{}]}', b"]" * 20])
        assert json_structure.end_of_brackets(b"x" + text + behind, 1) == len(text) + 1
        assert json_structure.end_of_brackets(text[:-1], 0) == -1


# ----------------------------------------------------------------------------- on a real connection


@pytest.mark.parametrize("kind", ["synopsejson", "synopsebin"])
def test_a_hostile_result_is_an_error_of_the_caller(kind: str) -> None:
    """What a server answers is read as carefully as what a client sends."""
    answers = [
        b"[" * 5_000 + b"]" * 5_000,
        b'{"result":[1e999]}',
        b'{"result":[1%b]}' % (b"0" * 400),
    ]

    def hostile(ctxt: HttpServerRequest) -> int:
        ctxt.out_content, ctxt.out_content_type = answers.pop(), "application/json"
        return 200

    with pair(kind, hostile) as ends:
        echo = ClientServices(ends.client).get(IEcho)
        while answers:
            with pytest.raises(ServiceError, match="the answer cannot be read") as caught:
                echo.half(1.0)
            assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", ["synopsejson", "synopsebin"])
def test_large_arguments_arrive(kind: str) -> None:
    """As many values as are allowed, parsed part by part; one more is refused with a reason."""
    with pair(kind, on_request=None, timeout=30_000) as ends:
        ServerServices(ends.server).register(IEcho, Echo())
        echo = ClientServices(ends.client).get(IEcho)
        many = list(range(MOST_VALUES - 10))
        assert echo.numbers(many) == sum(many)
        with pytest.raises(ServiceError, match="more than 250000 values") as caught:
            echo.numbers([1] * (MOST_VALUES + 10))
        assert caught.value.status == 406


def test_what_is_written_can_be_read() -> None:
    """As deep as it may be."""
    deepest = nested(100, 5)
    assert load_json(dump_json(deepest)) == deepest
    with pytest.raises(ValueError, match="nested"):
        dump_json(nested(102, 5))


def test_near_the_end_of_the_stack_it_is_a_value_error() -> None:
    """A service may be called deep inside an application."""
    method = next(m for m in ServiceInterface(IEcho).methods if m.name == "evaluate")
    content = json.dumps([nested(98, 5)]).encode()

    def descend() -> str:
        try:
            return descend()
        except RecursionError:
            try:
                method.read_arguments(content)
            except ValueError as exc:
                return str(exc)
            return "read"

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        assert descend() in ("read", "the JSON is nested too deeply")
    finally:
        sys.setrecursionlimit(limit)
