"""What the longest head that a peer may send costs in memory, time and words of errors."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest

from mormot_ws import WebSocketProtocolChat
from mormot_ws.core.deflate import PermessageDeflate, parse_extension
from mormot_ws.core.handshake import UpgradeRequest, header_tokens, uri_key
from mormot_ws.protocols.protocol_list import WebSocketProtocolList

#: bytes, as in ``settings.max_header_bytes``
HEAD = 16 << 10


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that *work* has used at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", ["a,", '"', '"\\', '"\\"', "\\", " ", '"a', 'a"', '",', ","])
def test_a_list_costs_memory_in_proportion_to_its_header(piece: str) -> None:
    value = (piece * HEAD)[:HEAD]
    assert peak(lambda: header_tokens([value])) < 50 * HEAD


@pytest.mark.parametrize("piece", ["/", "%", "%2F", "%41", "%ff", "%C4%B0", "%C4%B0/", "%25", "a"])
def test_a_path_costs_memory_in_proportion_to_its_length(piece: str) -> None:
    path = (piece * HEAD)[:HEAD]
    assert peak(lambda: uri_key(path)) < 100 * HEAD


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("Chat%20Room", "chat room"),
        ("%C3%84", "ä"),
        ("%c4%b0", "\u0130"),
        ("a%2fb", "A%2FB"),
        ("100%", "100%25"),
        ("%ff", "%FF"),
    ],
)
def test_paths_that_name_one_resource_have_one_key(path: str, same: str) -> None:
    assert uri_key(path) == uri_key(same)
    assert uri_key(path) == uri_key(path.upper())


def test_many_names_on_a_long_path_are_refused_at_once() -> None:
    """Names × protocols × the length of the path would be seconds for one head."""
    offered = WebSocketProtocolList()
    for number in range(20):
        offered.add(WebSocketProtocolChat("chat", f"room{number}"))
    headers = [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat," * (HEAD // 10)),
    ]
    request = UpgradeRequest("GET", "/" + "%" * (HEAD // 2), "1.1", headers)
    begin = time.thread_time()
    status, protocol, _ = offered.server_upgrade(request, "127.0.0.1", 1)
    assert (status, protocol) == (400, None)
    # 0.003 s; without the bound on the path it was more than 90 s
    assert time.thread_time() - begin < 0.05


def test_a_name_that_is_repeated_makes_no_longer_line(caplog: pytest.LogCaptureFixture) -> None:
    offered = WebSocketProtocolList()
    offered.add(WebSocketProtocolChat("chat", "room"))
    headers = [
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat,CHAT," * (HEAD // 20)),
    ]
    with caplog.at_level("INFO", "mormot_ws"):
        offered.server_upgrade(UpgradeRequest("GET", "/other", "1.1", headers), "127.0.0.1", 1)
    assert max(len(record.getMessage()) for record in caplog.records) < 500


@pytest.mark.parametrize(
    "answer",
    [
        ";" * HEAD,
        "x" * HEAD,
        "permessage-deflate; " + "x" * HEAD,
        "permessage-deflate; =" + "x" * HEAD,
    ],
)
def test_an_error_quotes_little_of_an_extension(answer: str) -> None:
    with pytest.raises(ValueError) as caught:
        PermessageDeflate().settle([answer])
    assert len(str(caught.value)) < 200


def test_a_short_extension_is_quoted_whole() -> None:
    with pytest.raises(ValueError, match="'a; =1' is not an extension"):
        parse_extension("a; =1")
