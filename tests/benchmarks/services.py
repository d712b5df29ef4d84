"""Calls per second of typed methods: ``python -m tests.benchmarks.services [--seconds S]
[--rounds N] [--any-cpu]``.

The same calls of one server, which is a process of its own: as methods of an object, as requests
with the same JSON, and by plain HTTP that keeps its connection alive (http.client), all answered by
the same services. One client thread, which waits for each answer. Contestants take turns in each
round; the ratio is the median of those within the rounds, to http.client.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from mormot_ws import (
    AuthUser,
    ClientServices,
    HttpClientWebSockets,
    RestServerAuthenticationDefault,
    ServerServices,
    WebSocketProtocolBinary,
    WebSocketServerRest,
)
from tests.support.children import HOST, Child, answer, commands, end_with_parent

from .rounds import rounds_and_seconds

BASE = "HTTP, http.client"
KIND = "application/json"


@dataclass
class Place:
    name: str = ""
    x: int = 0
    y: int = 0
    tags: list[str] = field(default_factory=list)


class ISums(Protocol):
    def add(self, a: int, b: int) -> int: ...
    def mirror(self, place: Place) -> Place: ...


class Sums(ISums):
    def add(self, a: int, b: int) -> int:
        return a + b

    def mirror(self, place: Place) -> Place:
        return Place(place.name, -place.x, -place.y, place.tags)


PLACE = Place("here", 3, -4, ["u", "v"])
#: each method with its arguments, and those as JSON, with the answer
CALLS = {
    "add": ((20, 22), b"[20,22]", b'{"result":[42]}'),
    "mirror": (
        (PLACE,),
        b'[{"name":"here","x":3,"y":-4,"tags":["u","v"]}]',
        b'{"result":[{"name":"here","x":-3,"y":4,"tags":["u","v"]}]}',
    ),
}

#: makes one call
Call = Callable[[], object]


def serve() -> None:
    """Serve until the parent has gone."""
    users = {"tester": AuthUser.with_password("tester", "pass-word")}
    with WebSocketServerRest(f"{HOST}:0", uri="", ajax=True, options=()) as server:
        ServerServices(server).register(ISums, Sums())
        guarded = ServerServices(
            server, root="guarded", authentication=RestServerAuthenticationDefault(users.get)
        )
        guarded.register(ISums, Sums())
        answer(port=server.port)
        for _ in commands():
            pass


def _client(port: int, ajax: bool, stack: ExitStack) -> HttpClientWebSockets:
    client = stack.enter_context(HttpClientWebSockets(HOST, port))
    protocol = None if ajax else WebSocketProtocolBinary("root", options=())
    error = client.websockets_upgrade("root", "", ajax, None, protocol)
    if error:
        raise RuntimeError(f"no upgrade: {error}")
    return client


def _typed(client: HttpClientWebSockets, name: str, root: str = "root") -> Call:
    services = ClientServices(client, root=root)
    if root != "root":
        services.set_user("tester", "pass-word")
    method, arguments = getattr(services.get(ISums), name), CALLS[name][0]
    return lambda: method(*arguments)


def _request(client: HttpClientWebSockets, name: str) -> Call:
    _, content, wanted = CALLS[name]
    url = f"root/Sums.{name.capitalize()}"

    def call() -> None:
        assert client.request(url, "POST", 0, "", content, KIND) == 200
        assert client.answer.content == wanted

    return call


def _by_http(port: int, name: str, stack: ExitStack) -> Call:
    _, content, wanted = CALLS[name]
    connection = http.client.HTTPConnection(HOST, port)
    stack.callback(connection.close)

    def call() -> None:
        connection.request(
            "POST", f"/root/Sums.{name.capitalize()}", content, {"Content-Type": KIND}
        )
        response = connection.getresponse()
        assert (response.read(), response.status) == (wanted, 200)

    return call


@contextmanager
def contestants(port: int, name: str) -> Iterator[dict[str, Call]]:
    """Give the calls, each on its own connection."""
    with ExitStack() as stack:
        yield {
            "typed method, synopsejson": _typed(_client(port, True, stack), name),
            "typed method, synopsebin": _typed(_client(port, False, stack), name),
            "typed, in a session": _typed(_client(port, False, stack), name, "guarded"),
            "client.request, synopsejson": _request(_client(port, True, stack), name),
            "client.request, synopsebin": _request(_client(port, False, stack), name),
            BASE: _by_http(port, name, stack),
        }


def _per_second(call: Call, seconds: float) -> float:
    began = time.perf_counter()
    count = 0
    while (took := time.perf_counter() - began) < seconds:
        call()
        count += 1
    return count / took


def measure(port: int, rounds: int, seconds: float) -> None:
    """Measure and print."""
    for name in CALLS:
        with contestants(port, name) as calls:
            figures: dict[str, list[float]] = {who: [] for who in calls}
            for call in calls.values():
                call()
            for _ in range(rounds):
                for who, call in calls.items():
                    figures[who].append(_per_second(call, seconds))
        print(f"\n{name}{CALLS[name][0]}")
        for who, values in figures.items():
            ratio = statistics.median(
                ours / base for ours, base in zip(values, figures[BASE], strict=True)
            )
            print(f"{who:<30}{statistics.median(values):>9.0f} calls/s{ratio:>8.2f} x")


def main() -> None:
    """The command line."""
    if sys.argv[1:] == ["server"]:
        end_with_parent()
        serve()
        return
    rounds, seconds = rounds_and_seconds("tests.benchmarks.services", __doc__, 5, 0.5)
    with Child("tests.benchmarks.services", "server") as server:
        measure(server.hear()["port"], rounds, seconds)


if __name__ == "__main__":
    main()
