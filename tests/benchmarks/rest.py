"""Requests per second over the REST protocols and over HTTP: ``python -m tests.benchmarks.rest
[--seconds S] [--rounds N] [--any-cpu]``.

The same calls to the same handler of one server, which is a process of its own: over
``synopsejson`` and ``synopsebin`` (plain, in SynLZ containers, encrypted, both), and over plain
HTTP that keeps its connection alive, by http.client and by requests. One client thread, which waits
for each answer. Contestants take turns in each round; the ratio is the median of those within the
rounds, to http.client.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketProtocolBinary,
    WebSocketProtocolBinaryOptions,
    WebSocketProtocolJson,
    WebSocketServerRest,
    pboSynLzCompress,
)
from tests.support.children import HOST, Child, answer, commands, end_with_parent

from .rounds import rounds_and_seconds

KEY = "a shared key"
NONE = WebSocketProtocolBinaryOptions(0)
#: the binary protocols, each on a URI of its own
BINARY = {
    "synopsebin, plain": ("plain", "", NONE),
    "synopsebin, SynLZ": ("lz", "", pboSynLzCompress),
    "synopsebin, AES": ("aes", KEY, NONE),
    "synopsebin, SynLZ and AES": ("both", KEY, pboSynLzCompress),
}
BASE = "HTTP, http.client"
_ROWS = json.dumps(
    [{"id": i * 7919, "name": f"customer {i}", "active": i % 3 == 0} for i in range(50)]
).encode()
#: what is sent to each URI; /small answers with as little, /rows with 2.4 kB of JSON
CALLS = {"/small": b'{"id":12345}', "/rows": b'{"from":0,"count":50}'}

#: makes one call, and returns the body of the answer
Call = Callable[[str, bytes], bytes]


def serve() -> None:
    """Serve until the parent has gone."""

    def on_request(ctxt: HttpServerRequest) -> int:
        ctxt.out_content = _ROWS if ctxt.url == "/rows" else ctxt.in_content
        ctxt.out_content_type = "application/json"
        return 200

    with WebSocketServerRest(f"{HOST}:0") as server:
        server.on_request = on_request
        for uri, key, options in BINARY.values():
            server.websocket_protocols.add(WebSocketProtocolBinary(uri, key, options))
        server.websocket_protocols.add(WebSocketProtocolJson("json"))
        answer(port=server.port)
        for _ in commands():
            pass


def _over_websocket(
    port: int,
    uri: str,
    key: str,
    ajax: bool,
    options: WebSocketProtocolBinaryOptions,
    stack: ExitStack,
) -> Call:
    client = stack.enter_context(HttpClientWebSockets(HOST, port))
    error = client.websockets_upgrade(uri, key, ajax, options)
    if error:
        raise RuntimeError(f"no upgrade on {uri}: {error}")

    def call(url: str, data: bytes) -> bytes:
        status = client.request(url, "POST", 0, "", data, "application/json")
        assert status == 200, client.answer
        return client.answer.content

    return call


def _by_http_client(port: int, stack: ExitStack) -> Call:
    connection = http.client.HTTPConnection(HOST, port)
    stack.callback(connection.close)

    def call(url: str, data: bytes) -> bytes:
        connection.request("POST", url, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200
        assert connection.sock is not None, "the connection was not kept alive"
        return content

    return call


def _by_requests(port: int, stack: ExitStack) -> Call:
    import requests

    session = stack.enter_context(requests.Session())
    session.trust_env = False

    def call(url: str, data: bytes) -> bytes:
        response = session.post(
            f"http://{HOST}:{port}{url}", data=data, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 200
        return response.content

    return call


@contextmanager
def contestants(port: int) -> Iterator[dict[str, Call]]:
    """Give the calls, each on its own connection."""
    with ExitStack() as stack:
        calls = {"synopsejson": _over_websocket(port, "json", "", True, NONE, stack)}
        for name, (uri, key, options) in BINARY.items():
            calls[name] = _over_websocket(port, uri, key, False, options, stack)
        calls[BASE] = _by_http_client(port, stack)
        if importlib.util.find_spec("requests"):
            calls["HTTP, requests"] = _by_requests(port, stack)
        yield calls


def _per_second(call: Call, url: str, data: bytes, seconds: float) -> float:
    began = time.perf_counter()
    count = 0
    while (took := time.perf_counter() - began) < seconds:
        call(url, data)
        count += 1
    return count / took


def measure(port: int, rounds: int, seconds: float) -> None:
    """Measure and print."""
    with contestants(port) as calls:
        for url, data in CALLS.items():
            sizes = {len(call(url, data)) for call in calls.values()}
            assert len(sizes) == 1, "not all answers are the same"
            figures: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(rounds):
                for name, call in calls.items():
                    figures[name].append(_per_second(call, url, data, seconds))
            print(f"\n{url}: {len(data)} bytes to the server, {sizes.pop()} bytes back")
            for name, values in figures.items():
                ratio = statistics.median(
                    ours / base for ours, base in zip(values, figures[BASE], strict=True)
                )
                print(f"{name:<28}{statistics.median(values):>9.0f} requests/s{ratio:>8.2f} x")
        if "HTTP, requests" not in calls:
            print("\nrequests is not installed: pip install requests")


def main() -> None:
    """The command line."""
    if sys.argv[1:] == ["server"]:
        end_with_parent()
        serve()
        return
    rounds, seconds = rounds_and_seconds("tests.benchmarks.rest", __doc__, 5, 0.5)
    with Child("tests.benchmarks.rest", "server") as server:
        measure(server.hear()["port"], rounds, seconds)


if __name__ == "__main__":
    main()
