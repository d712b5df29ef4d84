"""What native ends make of a call: loose JSON, arguments in other forms, raw answers, names."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, IntFlag
from typing import Annotated, Any, Protocol, TypedDict
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rest import pair

from mormot_ws import (
    ClientServices,
    HttpServerRequest,
    ServerServices,
    ServiceCustomAnswer,
    ServiceCustomStatus,
    ServiceError,
    sicPerSession,
    sicShared,
    sicSingle,
    wire_name,
)
from mormot_ws.rest import json_structure, loose_json
from mormot_ws.services.contracts import contract_of, hash32
from mormot_ws.services.interface import ServiceInterface
from mormot_ws.services.readers import item_reader, reader_of
from mormot_ws.services.values import (
    MOST_VALUES,
    ZERO_TIME,
    dump_native_json,
    load_json,
    load_native_json,
)

# ------------------------------------------------------------------------------------- loose JSON

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.$-]+")


def loosely(value: Any, draw: Any) -> str:
    """Return *value* as native ends write it, now and then with blanks."""
    blank = draw(st.sampled_from(["", "", " ", "\r\n\t"]))
    if isinstance(value, dict):
        items = [
            f"{blank}{name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)}{blank}:"
            f"{loosely(item, draw)}"
            for name, item in value.items()
        ]
        return f"{{{','.join(items)}}}"
    if isinstance(value, list):
        return f"[{','.join(blank + loosely(item, draw) for item in value)}]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


_names = st.text(st.sampled_from('aZ09_.$-ä"\\{:, '), max_size=4)
_texts = st.text(st.sampled_from('a:{},[]"\\ \u0001ä😀'), max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=15,
)


@given(_values, st.data())
@settings(deadline=None, max_examples=40)
def test_json_without_quotes_is_read_as_with_them(value: Any, data: Any) -> None:
    """Whatever stands in the texts; in pieces of any size too."""
    text = loosely([value], data.draw).encode()
    assert load_native_json(text) == [value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_structure, "PIECE", 7)
        patch.setattr(loose_json, "PIECE", 7)
        assert load_native_json(text) == [value]


@pytest.mark.parametrize(
    "text",
    [
        b"{a}",
        b"{a:1,}",
        b"{,a:1}",
        b"{a b:1}",
        b"{a:b}",
        b"{:1}",
        b"[a:1]",
        b"[1,2:3]",
        b'{a"b:1}',
        b"{a:1",
        b"{a::1}",
        b"{a:1}{b:2}",
        b"{\x01a:1}",
        b'{a:"\x01"}',
        b"{a:\\u0031}",
        b"{\xff:1}",
        b"{a:NaN}",
        b"{a:+1}",
    ],
)
def test_what_is_not_even_loose_json_is_refused(text: bytes) -> None:
    """A name may lack its quotes, and nothing else."""
    with pytest.raises(ValueError):  # its text is the parser's
        load_native_json(text)


def test_json_of_the_front_door_keeps_its_quotes() -> None:
    """It is only for services."""
    with pytest.raises(ValueError):  # its text is the parser's
        load_json(b"{a:1}")


def test_names_of_native_ends() -> None:
    """Those of the specification: even numbers, and words that mean something elsewhere."""
    text = '{"a b":1,1x:2,x.y:3,"uä":4,a-b:6,null:7,$p:8,true:9}'.encode()
    assert list(load_native_json(text)) == ["a b", "1x", "x.y", "uä", "a-b", "null", "$p", "true"]


def test_the_limits_are_those_of_other_json() -> None:
    """100 levels, 250 000 values."""
    assert load_native_json(b"{a:" * 100 + b"1" + b"}" * 100)
    for text in (b"{a:" * 101 + b"1" + b"}" * 101, b"[%b1]" % (b"{a:1}," * (MOST_VALUES // 2 + 9))):
        with pytest.raises(ValueError, match=r"nested too deeply|more than"):
            load_native_json(text)


# ------------------------------------------------------------------------------------------ types


class Color(IntEnum):
    colRed = 0
    colBlue = 1


class Kinds(IntFlag):
    kSmall = 1
    kLarge = 2


class Gaps(IntFlag):
    gFirst = 1
    gThird = 4


@dataclass
class Part:
    name: str
    size: int
    at: datetime
    color: Color
    kinds: Kinds
    data: bytes
    id: UUID
    price: Decimal
    parts: list[Part] = field(default_factory=list)
    first_name: str = field(default="", metadata={"wire_name": "FirstName"})


class Spot(TypedDict):
    x: int
    label: str


_decimals = st.decimals(
    min_value=-922337203685477, max_value=922337203685477, allow_nan=False, places=4
)
_times = st.datetimes(min_value=datetime(1900, 1, 1)).map(
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)
#: any value of each type
TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(1 << 63), (1 << 64) - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (str, st.text()),
    (bytes, st.binary()),
    (Decimal, _decimals),
    (datetime, _times),
    (datetime | None, st.none() | _times),
    (date, st.dates(min_value=date(1900, 1, 1))),
    (UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (Kinds, st.integers(0, 3).map(Kinds)),
    (list[int], st.lists(st.integers(0, 255))),
    (list[Color], st.lists(st.sampled_from(Color))),
    (Spot, st.fixed_dictionaries({"x": st.integers(0, 9), "label": st.text()})),
    (Any, _values),
    (
        Part,
        st.builds(
            Part,
            st.text(),
            st.integers(0, 9),
            _times,
            st.sampled_from(Color),
            st.integers(0, 3).map(Kinds),
            st.binary(),
            st.uuids(),
            _decimals,
            st.just([]),
            st.text(),
        ),
    ),
]


@pytest.mark.parametrize(("annotation", "values"), TYPES, ids=lambda value: str(value)[:30])
def test_any_value_of_a_type_comes_back(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    """As a result, an argument and the item of a list."""
    one, many = item_reader(annotation, True), item_reader(list[annotation], True)

    @given(st.lists(values, max_size=3))
    @settings(deadline=None, max_examples=25)
    def there_and_back(written: list[Any]) -> None:
        read = load_native_json(dump_native_json(written), exact=True)
        assert many(read, "it") == written
        assert [one(item, "it") for item in read] == written

    there_and_back()


EMPTY = [
    (int, 0),
    (float, 0.0),
    (str, ""),
    (bytes, b""),
    (bool, False),
    (Decimal, Decimal(0)),
    (UUID, UUID(int=0)),
    (datetime, ZERO_TIME),
    (date, ZERO_TIME.date()),
    (Color, Color.colRed),
    (Kinds, Kinds(0)),
    (list[int], []),
    (dict[str, int], {}),
    (int | None, None),
    (Any, None),
    (Spot, {"x": 0, "label": ""}),
]


@pytest.mark.parametrize(("annotation", "empty"), EMPTY, ids=lambda value: str(value)[:30])
def test_null_is_the_empty_value(annotation: Any, empty: Any) -> None:
    """Of its type; nothing else of another type is."""
    read = item_reader(annotation, True)(None, "it")
    assert (read, type(read)) == (empty, type(empty))


def test_a_missing_field_is_empty_or_its_default() -> None:
    """Names are found without case, unknown ones ignored."""
    read = reader_of(Part, True)({"SIZE": 3, "firstname": "x", "unknown": []}, "it")
    zero = UUID(int=0)
    assert read == Part(
        "", 3, ZERO_TIME, Color.colRed, Kinds(0), b"", zero, Decimal(0), [], first_name="x"
    )


@dataclass
class Circle:
    radius: int


@dataclass
class Square:
    side: int


def test_classes_of_a_union_are_told_by_their_exact_fields() -> None:
    """Where several fit loosely, none would be sure."""
    reader = reader_of(Circle | Square | None, True)
    assert reader({"side": 1}, "it") == Square(1)
    for wrong in ({}, {"Side": 1}, {"side": 1, "x": 2}, {"side": None}):
        with pytest.raises(ValueError, match="it"):
            reader(wrong, "it")
    assert reader_of(Circle | None, True)({"RADIUS": None}, "it") == Circle(0)


@pytest.mark.parametrize(
    ("annotation", "value", "read"),
    [
        (datetime, "2024-02-29", datetime(2024, 2, 29)),
        (datetime, "2024-02-29 13:14:15", datetime(2024, 2, 29, 13, 14, 15)),
        (datetime, "20240229T131415", datetime(2024, 2, 29, 13, 14, 15)),
        (datetime, "20240229", datetime(2024, 2, 29)),
        (datetime, "T12:00:00.000", datetime(1899, 12, 30, 12)),
        (datetime, "\ufff12024-02-29T01:02:03.678", datetime(2024, 2, 29, 1, 2, 3, 678_000)),
        (datetime, 45351.5, datetime(2024, 2, 29, 12)),
        (datetime, -1.25, datetime(1899, 12, 29, 6)),
        (datetime, "", ZERO_TIME),
        (date, "2024-02-29T00:00:00", date(2024, 2, 29)),
        (UUID, "{5b1c7e52-0a36-4c2b-9a5e-6a1f0d4e1bff}", UUID("5b1c7e520a364c2b9a5e6a1f0d4e1bff")),
        (UUID, "5b1c7e520a364c2b9a5e6a1f0d4e1bff", UUID("5b1c7e520a364c2b9a5e6a1f0d4e1bff")),
        (Color, "colBlue", Color.colBlue),
        (Color, "BLUE", Color.colBlue),
        (Kinds, ["kLarge", "small"], Kinds(3)),
        (Kinds, "*", Kinds(3)),
        (Kinds, [], Kinds(0)),
        (Kinds, -2, Kinds(2)),
        (Gaps, -1, Gaps(5)),
        (bytes, "\ufff0AAE=", b"\0\1"),
        (bytes, "", b""),
        (bytes, "no base64, ä", "no base64, ä".encode()),
        (bytes | None, "AAE", b"AAE"),
        (Annotated[bytes, "RawByteString"], "a?", b"a?"),
        (list[bytes], ["AAE=", "?"], [b"\0\1", b"?"]),
        # who may get a text gets it
        (bytes | str, "no base64", "no base64"),
        (float, "NaN", 0.0),
        (float | None, "   -Inf", 0.0),
        (list[float], [1.5, "+Infinity", "nan"], [1.5, 0.0, 0.0]),
        (float | str, "NaN", "NaN"),
        (Decimal, "1.23456", Decimal("1.23456")),
        (Decimal, 7, Decimal(7)),
    ],
)
def test_other_forms_that_native_ends_may_send(annotation: Any, value: Any, read: Any) -> None:
    assert item_reader(annotation, True)(value, "it") == read


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (datetime, "yesterday"),
        (datetime, 1e300),
        (date, "2024-02-29T01:00:00"),
        (UUID, "5b1c7e52"),
        (UUID, "urn:uuid:5b1c7e52-0a36-4c2b-9a5e-6a1f0d4e1bff"),
        (Color, 7),
        (Color, "green"),
        (Color, True),
        (bytes, "\ufff0AAE"),
        (float, "1.5"),
        (float, "Nano"),
        (Kinds, 4),
        (Kinds, [1]),
        (Kinds, ["kHuge"]),
        (Decimal, "NaN"),
        (Decimal, "1e999999"),
        (Decimal, "x"),
        (Decimal, True),
        (Spot, []),
    ],
)
def test_what_is_of_no_such_form_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        item_reader(annotation, True)(value, "it")


def test_what_is_written_for_native_ends() -> None:
    """Forms that they read; empty bytes and no time are null, a Decimal keeps all its digits."""
    written = dump_native_json(
        [
            b"\0\1",
            ZERO_TIME,
            ZERO_TIME.date(),
            date(2024, 2, 29),
            datetime(1899, 12, 30, 12),
            datetime(2024, 2, 29, 1, 2, 3, 678_000),
            UUID(int=0xAB),
            Decimal("12.3456"),
            Decimal("922337203685477.5807"),
            Decimal("1E+30"),
            Color.colBlue,
            Kinds(3),
            Part("", 0, ZERO_TIME, Color.colRed, Kinds(0), b"", UUID(int=0), Decimal(0)),
        ]
    )
    assert json.loads(written) == [
        "AAE=",
        None,
        None,
        "2024-02-29",
        "T12:00:00.000",
        "2024-02-29T01:02:03.678",
        "00000000-0000-0000-0000-0000000000AB",
        12.3456,
        "922337203685477.5807",
        1e30,
        1,
        3,
        {
            "name": "",
            "size": 0,
            "at": None,
            "color": 0,
            "kinds": 0,
            "data": None,
            "id": "00000000-0000-0000-0000-000000000000",
            "price": 0,
            "parts": [],
            "FirstName": "",
        },
    ]
    for wrong in (Decimal("NaN"), Decimal("Infinity")):
        with pytest.raises(ValueError, match="cannot be written"):
            dump_native_json(wrong)


# ------------------------------------------------------------------------------------------ calls


class IStore(Protocol):
    def add(self, a: int, b: int) -> int: ...
    def words(self, first: str, second_word: str = "x") -> tuple[str, str]: ...
    def put(self, data: bytes) -> int: ...
    def get(self, size: int) -> bytes: ...
    def price(self, value: Decimal) -> Decimal: ...
    def raw(self, status: int) -> ServiceCustomAnswer: ...
    def status(self, number: int) -> ServiceCustomStatus: ...
    def fail(self) -> None: ...
    def spot(self, spot: Spot, anything: Any) -> Spot: ...
    @wire_name("GetURL")
    def get_url(self) -> str: ...


class Store(IStore):
    def add(self, a: int, b: int) -> int:
        return a + b

    def words(self, first: str, second_word: str = "x") -> tuple[str, str]:
        return first, second_word

    def put(self, data: bytes) -> int:
        return len(data)

    def get(self, size: int) -> bytes:
        return b"\xff" * size

    def price(self, value: Decimal) -> Decimal:
        return value

    def raw(self, status: int) -> ServiceCustomAnswer:
        if status == 204:
            return ServiceCustomAnswer("", "", status)
        return ServiceCustomAnswer("as it is", "text/plain", status, "X-Colour: blue")

    def status(self, number: int) -> ServiceCustomStatus:
        return ServiceCustomStatus(number)

    def fail(self) -> None:
        raise KeyError("gone")

    def spot(self, spot: Spot, anything: Any) -> Spot:
        return spot

    def get_url(self) -> str:
        return "http://"


class Server:
    """As much of a server as the constructor of services looks at."""

    on_request = None
    process_name = ""

    def __init__(self, over_websocket: bool = True) -> None:
        self.over_websocket = over_websocket

    def is_active_websocket(self, connection_id: int) -> object:
        return self if self.over_websocket else None


def ask(
    url: str,
    content: bytes = b"",
    kind: str = "application/json",
    method: str = "POST",
    over_websocket: bool = True,
) -> tuple[int, bytes]:
    """Return (status, content) of a request as it arrives."""
    services = ServerServices(Server(over_websocket))  # type: ignore[arg-type]
    services.register(IStore, Store())
    ctxt = HttpServerRequest(url, method, "", content, kind)
    status = services.on_request(ctxt)
    return status, bytes(ctxt.out_content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "content", "result"),
    [
        ("root/Store.Add", b"[1,2,3,{}]", "[3]"),
        ("root/Store.Add", b'{"B":2,"a":1,"c":[]}', "[3]"),
        ("root/Store.Add", b"{b:2}", "[2]"),
        ("root/Store.Add", b"null", "[0]"),
        ("root/Store.Add", b"", "[0]"),
        ("root/Store.Add?a=5&b=6", b"", "[11]"),
        ("root/Store.Add?%5B5%2C6%5D", b"", "[11]"),
        ("root/Store.Add?{a:5}", b"", "[5]"),
        ("root/Store.Add?a=5&b=6&session_signature=00000001", b"", "[11]"),
        ("root/Store.Words?first=1+2&SECONDWORD=%C3%A4", b"", '["1 2","ä"]'),
        ("root/Store.Words?first=\udcff1", b"", '["\ufffd1","x"]'),
        ("root/Store.Words", b'["1"]', '["1","x"]'),
        ("root/Store.Words", b"{first:null}", '["","x"]'),
        ("root/Store.Put", b"[null]", "[0]"),
        ("root/Store.Put", b'["AAE="]', "[2]"),
        ("root/Store.Get", b"[0]", "[null]"),
        ("root/Store.Price", b"[922337203685477.5807]", '["922337203685477.5807"]'),
        ("root/Store.Spot", b"[{X:1},{a:2}]", '[{"x":1,"label":""}]'),
        ("ROOT/STORE/GETURL/", b"[]", '["http://"]'),
    ],
)
def test_arguments_come_in_several_forms(url: str, content: bytes, result: str) -> None:
    """As native ends send them."""
    assert ask(url, content) == (200, f'{{"result":{result}}}'.encode())


@pytest.mark.parametrize(
    ("url", "content", "status"),
    [
        ("root/Store.Add", b"[1]", 406),
        ("root/Store.Add", b'""', 406),
        ("root/Store.Add", b'"1"', 406),
        ("root/Store.Add?a=x&b=1", b"", 406),
        ("root/Store.Add?" + "a=1&" * 2_000, b"", 406),
        ("root/Store.Add?[1", b"", 406),
        ("root/Store.Nothing", b"[]", 400),
        ("root/Nothing.Add", b"[]", 400),
        ("root/Store._signature_", b"[]", 400),
        ("root/Store._instance_", b"[]", 400),
        ("root/timestamp/nothing", b"", 400),
        ("root/auth?username=x", b"", 400),
        ("other/Store.Add", b"[]", 404),
    ],
)
def test_what_is_wrong_has_the_native_status(url: str, content: bytes, status: int) -> None:
    assert ask(url, content)[0] == status


def test_the_time_is_told_to_people_too() -> None:
    """And a trailing slash does no harm, as with calls."""
    status, content = ask("ROOT/TimeStamp/Info/", method="GET")
    told = json.loads(content)
    time = datetime.fromisoformat(told["nowutc"])
    bits = (time.year, time.month - 1, time.day - 1, time.hour, time.minute, time.second)
    shifts = (26, 22, 17, 12, 6, 0)
    number = sum(part << shift for part, shift in zip(bits, shifts, strict=True))
    assert (status, told["timestamp"], told["server"]) == (200, number, "mormot_ws")
    assert int(ask("root/timestamp/", method="GET")[1]) >= number


@pytest.mark.parametrize(
    ("kind", "over_websocket", "status"),
    [
        ("application/octet-stream", True, 200),
        ("image/png", True, 200),
        ("text/plain", True, 200),
        ("application/octet-stream", False, 200),
        ("text/plain", False, 400),
        ("multipart/form-data; boundary=x", False, 400),
        ("", False, 400),
    ],
)
def test_bytes_may_be_the_whole_content(kind: str, over_websocket: bool, status: int) -> None:
    """Of any type, but for those that a browser lets any page send by plain HTTP."""
    found = ask("root/Store.Put", b"\0\xff", kind, over_websocket=over_websocket)
    assert found[0] == status
    assert (found[1] == b'{"result":[2]}') == (status == 200)


def test_a_get_calls_over_a_websocket_only() -> None:
    """By plain HTTP any page could make a browser do it."""
    assert ask("root/Store.Add?a=1", method="GET")[0] == 200
    assert ask("/root/Store.Add?a=1", method="GET", over_websocket=False)[0] == 405


@pytest.mark.parametrize("kind", ["synopsejson", "synopsebin"])
def test_answers_may_be_as_they_are(kind: str) -> None:
    """With any status; a status of one's own is a result. Bytes travel both ways."""
    with pair(kind, None, None) as ends:
        ServerServices(ends.server).register(IStore, Store())
        store = ClientServices(ends.client).get(IStore)
        assert store.raw(204) == ServiceCustomAnswer(b"", "", 204, "")
        for status in (200, 201, 404, 500):
            assert store.raw(status) == ServiceCustomAnswer(
                b"as it is", "text/plain", status, "X-Colour: blue"
            )
            assert store.status(status) == status
        assert store.put(bytes(range(256)) * 9) == 2_304
        assert (store.put(b""), store.get(0), store.get(3)) == (0, b"", b"\xff" * 3)
        assert store.price(Decimal("922337203685477.5807")) == Decimal("922337203685477.5807")
        assert store.get_url() == "http://"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{\r\n"errorCode":403,\r\n"errorText":"no"\r\n}', "no"),
        (
            b'{"errorCode":500,"error":\r\n{"EConvertError":{"Message":"on \\"purpose\\""}}}',
            'EConvertError: on "purpose"',
        ),
        (b'{ClassName:"EAbort",Message:"stop"}', "stop"),
        (b"{a:1}", "{a:1}"),
        (b"", "no reason given"),
    ],
)
def test_a_native_error_is_told_in_its_words(content: bytes, text: str) -> None:
    def native(ctxt: HttpServerRequest) -> int:
        ctxt.out_content, ctxt.out_content_type = content, "application/json"
        return 500

    with pair("synopsebin", native) as ends, pytest.raises(ServiceError) as raised:
        ClientServices(ends.client).get(IStore).add(1, 2)
    assert raised.value.text == text


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b'{"result":["a",{b:1}]}', ("a", {"b": 1})),
        (b'{"result":["a",2,3]}', ("a", 2)),
        (b'{"Result" : {First:"a",second:2}}', ("a", 2)),
        (b'{first:"a",second:2}', ("a", 2)),
        (b'{"result":[null,null],"id":7}', ("", None)),
    ],
)
def test_a_result_comes_in_several_forms(answer: bytes, result: Any) -> None:
    """With names too, and with more than was expected."""

    class Two(Protocol):
        def two(self) -> tuple[str, Any]: ...

    assert ServiceInterface(Two).methods[0].read_result(answer) == result


def test_the_mistakes_of_wire_names_and_raw_answers_are_told() -> None:
    with pytest.raises(ValueError, match="a name on the wire"):
        wire_name("get url")

    class Liar(Store):
        def raw(self, status: int) -> ServiceCustomAnswer:
            return "text"  # type: ignore[return-value]

    services = ServerServices(Server())  # type: ignore[arg-type]
    services.register(IStore, Liar())
    ctxt = HttpServerRequest("root/Store.Raw", in_content="[200]")
    assert services.on_request(ctxt) == 500
    assert b"did not return a ServiceCustomAnswer" in bytes(ctxt.out_content)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), ("a", 0x00610061), ("abcd", 0xA0A16261), ("abcde", 0xA14462C6)],
)
def test_the_hash_of_contracts(text: str, number: int) -> None:
    assert hash32(text.encode()) == number


@pytest.mark.parametrize(
    ("name", "kind", "contract"),
    [
        ("IOnce", sicSingle, "CA91A22F1F7512DF"),
        ("IMine", sicPerSession, "D5FC05A489E39261"),
    ],
)
def test_a_contract_is_that_of_the_native_interface(name: str, kind: Any, contract: str) -> None:
    """An Integer must be named; the kind of its objects is part of it."""

    def count(self: object) -> Annotated[int, "integer"]: ...  # type: ignore[empty-body]

    interface = ServiceInterface(type(name, (), {"count": count}))
    assert contract_of(interface, kind) == contract


def test_a_contract_can_be_computed_unless_a_method_has_several_results() -> None:
    """Nothing says which of them are var in Pascal."""

    class ISums(Protocol):
        def sum(self, values: list[int]) -> int: ...

    assert re.fullmatch("[0-9A-F]{16}", contract_of(ServiceInterface(ISums), sicShared))
    services = ServerServices(Server())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="words returns several values"):
        services.register(IStore, Store(), contract=None)
