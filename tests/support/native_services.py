"""The services of the native programs whose conversations are in ``tests/data``, in Python."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import IntEnum, IntFlag
from typing import Annotated, Any, Protocol
from uuid import UUID

from mormot_ws import (
    ServerServices,
    ServiceCustomAnswer,
    ServiceCustomStatus,
    ServiceError,
    sicClientDriven,
    sicPerSession,
    sicShared,
    sicSingle,
)


class Color(IntEnum):
    colRed = 0
    colGreen = 1
    colBlue = 2
    colWhite = 3


class Kinds(IntFlag):
    kSmall = 1
    kLarge = 2
    kHeavy = 4


@dataclass
class Place:
    name: str = ""
    x: int = 0
    y: int = 0
    w: float = 0.0
    on_: bool = False
    color: Color = Color.colRed
    tags: list[str] = field(default_factory=list)


@dataclass
class Box:
    """Without defaults: what is missing is empty all the same."""

    data: bytes
    bytes: list[int]
    at: datetime | None
    id: UUID
    price: Decimal
    kinds: Kinds
    v: Any
    big: int
    q: int
    home: Place
    places: list[Place]
    raw: Any


@dataclass
class Thing:
    title: str
    amount: int
    kind: Color


class ITypes(Protocol):
    def add(self, a: int, b: int) -> int: ...
    def big(self, a: int, b: int, c: int) -> tuple[int, int, int]: ...
    def flt(self, a: float, b: float) -> tuple[float, float]: ...
    def cur(self, a: Decimal) -> Decimal: ...
    def flag(self, a: bool) -> bool: ...
    def text(self, s: str, t: str, w: str) -> tuple[str, str]: ...
    def when(self, a: datetime | None, b: datetime) -> tuple[datetime, datetime | None]: ...
    def logs(self, a: int, b: int, c: int) -> tuple[int, int, int]: ...
    def guid(self, a: UUID) -> tuple[UUID, UUID]: ...
    def enum(self, a: Color, b: Kinds) -> tuple[Color, Kinds]: ...
    def rec(self, r: Place) -> Place: ...
    def rec_var(self, r: Place) -> Place: ...
    def arr(self, a: list[int], b: list[str]) -> tuple[list[int], list[str]]: ...
    def rec_arr(self, a: list[Place]) -> list[Place]: ...
    def box(self, b: Box) -> Box: ...
    def colors(self, a: list[Color]) -> list[Color]: ...
    def vari(self, v: Any) -> Any: ...
    def json(self, j: Any) -> Any: ...
    def obj(self, a: Thing, b: Thing) -> Thing: ...
    def blob(self, b: bytes, n: int) -> tuple[bytes, int]: ...
    def blob_only(self, b: bytes) -> int: ...
    def blob_result(self, n: int) -> bytes: ...
    def swap(self, a: str, b: str) -> tuple[str, str]: ...
    def mixed(self, a: str, c: int, d: int) -> tuple[str, int, int]: ...
    def nothing(self) -> None: ...
    def take(self, n: int) -> None: ...
    def raw(self, kind: str) -> ServiceCustomAnswer: ...
    def status(self, n: int) -> ServiceCustomStatus: ...
    def fail(self, text: str) -> None: ...


class Types(ITypes):
    """The service."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def big(self, a: int, b: int, c: int) -> tuple[int, int, int]:
        return b, c, a

    def flt(self, a: float, b: float) -> tuple[float, float]:
        return b, a

    def cur(self, a: Decimal) -> Decimal:
        return a

    def flag(self, a: bool) -> bool:
        return not a

    def text(self, s: str, t: str, w: str) -> tuple[str, str]:
        return t, f"{s}|{w}"

    def when(self, a: datetime | None, b: datetime) -> tuple[datetime, datetime | None]:
        return b, a

    def logs(self, a: int, b: int, c: int) -> tuple[int, int, int]:
        return a, b, c

    def guid(self, a: UUID) -> tuple[UUID, UUID]:
        return a, a

    def enum(self, a: Color, b: Kinds) -> tuple[Color, Kinds]:
        return a, b

    def rec(self, r: Place) -> Place:
        return r

    def rec_var(self, r: Place) -> Place:
        r.x += 1
        return r

    def arr(self, a: list[int], b: list[str]) -> tuple[list[int], list[str]]:
        return a, b

    def rec_arr(self, a: list[Place]) -> list[Place]:
        return a

    def box(self, b: Box) -> Box:
        b.big += 1
        return b

    def colors(self, a: list[Color]) -> list[Color]:
        return a

    def vari(self, v: Any) -> Any:
        return v

    def json(self, j: Any) -> Any:
        return j

    def obj(self, a: Thing, b: Thing) -> Thing:
        return Thing(f"{a.title}!", a.amount * 2, a.kind)

    def blob(self, b: bytes, n: int) -> tuple[bytes, int]:
        return b, n + len(b)

    def blob_only(self, b: bytes) -> int:
        return len(b)

    def blob_result(self, n: int) -> bytes:
        return bytes(range(n))

    def swap(self, a: str, b: str) -> tuple[str, str]:
        return b, a

    def mixed(self, a: str, c: int, d: int) -> tuple[str, int, int]:
        return f"{a}!", c * 2, d + 1

    def nothing(self) -> None: ...

    def take(self, n: int) -> None: ...

    def raw(self, kind: str) -> ServiceCustomAnswer:
        return {
            "text": ServiceCustomAnswer("hello", "text/plain; charset=UTF-8"),
            "bin": ServiceCustomAnswer(b"\0\1\2\xff", "application/octet-stream"),
            "head": ServiceCustomAnswer("<p>", "text/html", 201, "X-Colour: blue"),
            "json": ServiceCustomAnswer('{"plain":[1,2]}'),
            "coffee": ServiceCustomAnswer("no coffee", "text/plain", 404),
        }[kind]

    def status(self, n: int) -> ServiceCustomStatus:
        return ServiceCustomStatus(n)

    def fail(self, text: str) -> None:
        raise RuntimeError(text)


class ICart(Protocol):
    def put(self, n: int) -> None: ...
    def sum(self) -> int: ...
    def id(self) -> int: ...


class ICount(Protocol):
    def count(self) -> int: ...


class IOnce(ICount, Protocol): ...


class IMine(ICount, Protocol): ...


class Counter(IOnce, IMine):
    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls


Integer = Annotated[int, "integer"]


class IPlain(Protocol):
    def add(self, a: Integer, b: Integer) -> Integer: ...


class Plain(IPlain):
    def add(self, a: int, b: int) -> int:
        return a + b


class INewsCallback(ABC):
    """What is passed to be called back."""

    @abstractmethod
    def progress(self, n: int) -> None: ...
    @abstractmethod
    def ask(self, question: str) -> int: ...
    @abstractmethod
    def place(self, where: Place) -> None: ...
    @abstractmethod
    def both(self, a: str) -> tuple[str, int]: ...
    @abstractmethod
    def bad(self) -> None: ...
    @abstractmethod
    def bad_ask(self) -> int: ...


class INews(Protocol):
    def subscribe(self, topic: str, callback: INewsCallback | None) -> None: ...
    def fire(self, kind: str) -> int: ...
    def fire_inside(self, kind: str) -> int: ...
    def drop(self) -> None: ...


class IShort(Protocol):
    def run(self, n: int, callback: INewsCallback) -> int: ...


class News(INews, IShort):
    """Calls back: what it does after its answer is in :attr:`later`."""

    def __init__(self) -> None:
        self.subscribers: list[INewsCallback] = []
        self.released: list[str] = []
        self.later: list[Callable[[], object]] = []
        self.answers: list[Any] = []
        self.all_released = threading.Event()

    def subscribe(self, topic: str, callback: INewsCallback | None) -> None:
        if callback is not None:
            self.subscribers.append(callback)

    def _calls(self, kind: str, to: INewsCallback) -> list[Callable[[], object]]:
        place = Place("here", 1, -2, 0.5, True, Color.colBlue, ['a"b'])
        return {
            "progress": [lambda: to.progress(50)],
            "ask": [lambda: self.answers.append(to.ask("why?"))],
            "burst": [lambda n=n: to.progress(n) for n in (1, 2, 3)],  # type: ignore[misc]
            "place": [lambda: to.place(place), lambda: to.place(Place(y=3))],
            "both": [lambda: self.answers.append(to.both("x"))],
            "bad": [lambda: to.bad()],
            "badask": [lambda: self._asks_badly(to)],
        }[kind]

    def _asks_badly(self, to: INewsCallback) -> None:
        try:
            to.bad_ask()
        except ServiceError as exc:
            self.answers.append((exc.status, exc.text))

    def fire(self, kind: str) -> int:
        for one in self.subscribers:
            self.later += self._calls(kind, one)
        return len(self.subscribers)

    def fire_inside(self, kind: str) -> int:
        for one in self.subscribers:
            for call in self._calls(kind, one):
                call()
        return len(self.subscribers)

    def drop(self) -> None:
        self.later.clear()
        self.subscribers.clear()

    def run(self, n: int, callback: INewsCallback) -> int:
        for step in range(n):
            callback.progress(step + 1)
        return n

    def callback_released(self, callback: object, name: str) -> None:
        self.subscribers = [one for one in self.subscribers if one is not callback]
        self.released.append(name)
        if not self.subscribers:
            self.all_released.set()


def register_all(services: ServerServices, news: News, bypass: bool = False) -> list[int]:
    """Register all services; return the list that gets the sums of carts that have ended."""
    freed: list[int] = []

    class Cart(ICart):
        def __init__(self) -> None:
            self.total = 0

        def put(self, n: int) -> None:
            self.total += n

        def sum(self) -> int:
            return self.total

        def id(self) -> int:
            return services.instance_id

        def free(self) -> None:
            freed.append(self.total)

    services.register(ITypes, Types())
    services.register(ICart, Cart, sicClientDriven)
    services.register(IOnce, Counter, sicSingle)
    services.register(IMine, Counter, sicPerSession)
    services.register(IPlain, Plain(), sicShared, contract=None, bypass_authentication=bypass)
    services.register(INews, news)
    services.register(IShort, news)
    return freed
