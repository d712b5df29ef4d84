"""The messages of the topics protocol, as docs/reference/topics-protocol.md specifies them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support import ROOT

from mormot_ws import WebSocketsProtocolError
from mormot_ws.topics import wire

SESSION = "s6JwXb0aQ1ePz3mN"
PAGE = (ROOT / "docs/reference/topics-protocol.md").read_text(encoding="utf-8")

FROM_CLIENTS = [
    (wire.hello(SESSION), wire.Hello(1, SESSION)),
    (wire.subscribe("news"), wire.Subscribe("news", None)),
    (wire.subscribe("news", ("e1", 17)), wire.Subscribe("news", ("e1", 17))),
    (wire.unsubscribe("news"), wire.Unsubscribe("news")),
    (wire.publish("news", 3, '{"a":[1,null]}'), wire.Publish("news", 3, {"a": [1, None]})),
    (wire.AGAIN, wire.Again()),
    (wire.ask_members("news"), wire.AskMembers("news")),
    (wire.PING, wire.Ping()),
    ('{"type":"later","x":1}', wire.Unknown("later")),
]

FROM_SERVERS = [
    (wire.welcome(1, "4f", {"topics": 3}), wire.Welcome(1, "4f", {"topics": 3})),
    (
        wire.subscribed("news", "e1", 17, True, 2),
        wire.Subscribed("news", "e1", 17, True, 2, ""),
    ),
    (
        wire.subscribed("news", "e1", 17, False, 2, "trimmed"),
        wire.Subscribed("news", "e1", 17, False, 2, "trimmed"),
    ),
    (
        wire.publication("news", 18, '{"a":"b"}'),
        wire.Received("news", 18, "", '{"a":"b"}', {"a": "b"}),
    ),
    (wire.publication("news", 18, "1", "e2"), wire.Received("news", 18, "e2", "1", 1)),
    (wire.lost("news", "e2", 0, "epoch"), wire.LostSome("news", "e2", 0, "epoch")),
    (wire.paused("news", "slow"), wire.Paused("news", "slow")),
    (wire.unsubscribed("news"), wire.Unsubscribed("news", "", "")),
    (wire.unsubscribed("news", "refused", "no"), wire.Unsubscribed("news", "refused", "no")),
    (wire.ack(1, "news", "e1", 18, False), wire.Ack(1, "news", "e1", 18, False)),
    (wire.ack(1, "news", "e1", 18, True), wire.Ack(1, "news", "e1", 18, True)),
    (wire.nack(1, "news", "refused", "no"), wire.Nack(1, "refused", "no", None)),
    (wire.nack(1, "news", "rate", "slower", 500), wire.Nack(1, "rate", "slower", 500)),
    (wire.members("news", {"4f": None}), wire.MembersAre("news", {"4f": None})),
    (
        wire.error("sub", "news", "unavailable", "away", 500),
        wire.Failed("sub", "news", "unavailable", "away", 500),
    ),
    (wire.error("x", "", "unknown", "?"), wire.Failed("x", "", "unknown", "?", None)),
    (wire.PONG, wire.Pong()),
    ('{"type":"later"}', wire.Unknown("later")),
]

#: names and data that quoting must not harm
ODD = ['a"b\\c', "Grüße, 世界", "\u2028", "</script>", "\U0001f600", '","offset":9,"data":1}']


@pytest.mark.parametrize(("text", "message"), FROM_CLIENTS)
def test_what_clients_write_is_read(text: str, message: Any) -> None:
    """Each message of a client comes out of its text."""
    assert wire.read_client_message(text) == message


@pytest.mark.parametrize(("text", "message"), FROM_SERVERS)
def test_what_servers_write_is_read(text: str, message: Any) -> None:
    """Each message of a server comes out of its text, from any JSON writer."""
    assert wire.read_server_message(text) == message
    assert wire.read_server_message(json.dumps(json.loads(text), separators=(",", ":"))) == message


@pytest.mark.parametrize("odd", ODD)
def test_any_text_can_be_a_name_and_data(odd: str) -> None:
    """Quotes, backslashes and what looks like the rest of a message come through."""
    data = wire.compact(odd)
    published = wire.read_client_message(wire.publish(odd, 1, data))
    assert published == wire.Publish(odd, 1, odd)
    received = wire.read_server_message(wire.publication(odd, 1, data, odd))
    assert received == wire.Received(odd, 1, odd, data, odd)


def test_half_surrogates_of_a_peer_can_be_written() -> None:
    """JSON can say them, UTF-8 cannot: they stay escaped."""
    text = wire.compact(json.loads('"\\ud800 ü"'))
    assert text.encode()
    assert json.loads(text) == json.loads('"\\ud800 ü"')


@pytest.mark.parametrize("reader", [wire.read_client_message, wire.read_server_message])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "null",
        "{}",
        '{"type":1}',
        '{"type":"pub"',
        '{"type":"pub","topic":"t","offset":1,"data":NaN}',
        '{"type":"pub","topic":"t","seq":1,"offset":1}',
        '{"type":"pub","topic":"t","seq":0,"offset":0,"data":1}',
        '{"type":"pub","topic":"t","seq":true,"offset":true,"data":1}',
        '{"type":"pub","topic":"t","seq":1.0,"offset":1.0,"data":1}',
        '{"type":"pub","topic":"t","seq":9007199254740992,"offset":9007199254740992,"data":1}',
        '{"type":"pub","topic":1,"seq":1,"offset":1,"data":1}',
        '{"type":"sub"}',
        '{"type":"members","topic":["t"]}',
        '{"type":"unsub","topic":null}',
        "[" * 100_000,
        '{"type":"pub","topic":"t","seq":1,"offset":1,"data":' + "[" * 100_000,
        '{"type":"pub","topic":"t","seq":1,"offset":1,"data":1,',
        '{"type":"pub","topic":"t","seq":1,"offset":1,"data":' + "9" * 5_000 + "x}",
    ],
)
def test_what_is_no_message_closes_with_1007(reader: Any, text: str) -> None:
    """What is no JSON object, and fields of the wrong type, are the peer's fault."""
    with pytest.raises(WebSocketsProtocolError) as caught:
        reader(text)
    assert caught.value.code == 1007
    assert len(caught.value.reason.encode()) <= 123


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"hello","v":1,"session":"short"}',
        '{"type":"hello","v":1,"session":"%s"}' % ("x" * 65),
        '{"type":"hello","v":1,"session":"sixteen chars or so"}',
        f'{{"type":"hello","v":"1","session":"{SESSION}"}}',
        f'{{"type":"hello","session":"{SESSION}"}}',
        '{"type":"sub","topic":"t","since":5}',
        '{"type":"sub","topic":"t","since":{}}',
        '{"type":"sub","topic":"t","since":{"epoch":"e","offset":-1}}',
        '{"type":"sub","topic":"t","since":{"epoch":1,"offset":1}}',
        '{"type":"sub","topic":"t","since":{"epoch":"%s","offset":1}}' % ("e" * 300),
        '{"type":"pub","topic":"t","seq":-1,"data":1}',
    ],
)
def test_wrong_fields_of_clients_close_with_1007(text: str) -> None:
    """Each field has its type and its range."""
    with pytest.raises(WebSocketsProtocolError) as caught:
        wire.read_client_message(text)
    assert caught.value.code == 1007


def test_unknown_fields_are_ignored() -> None:
    """Later versions may add some, in any place."""
    text = '{"x":{},"type":"sub","y":[1],"topic":"t","since":{"z":1,"epoch":"e","offset":2}}'
    assert wire.read_client_message(text) == wire.Subscribe("t", ("e", 2))
    text = '{"type":"pub","topic":"t","offset":4,"data":{"a":1},"tag":"x"}'
    assert wire.read_server_message(text) == wire.Received("t", 4, "", '{"a":1}', {"a": 1})
    text = '{"type":"pub","topic":"t","offset":4,"data":1,"data":2}'
    assert wire.read_server_message(text) == wire.Received("t", 4, "", "2", 2)


def test_the_page_has_the_messages_that_are_sent() -> None:
    """The specification's examples are what is written, or read, here."""
    shown = re.findall(r"^[→←] (\{.*\})$", PAGE, re.MULTILINE)
    assert len(shown) == 16
    client = re.findall(r"^→ (.*)$", PAGE, re.MULTILINE)
    assert [type(wire.read_client_message(text)).__name__ for text in client] == [
        "Hello",
        "Subscribe",
        "Publish",
        "Publish",
        "Hello",
        "Subscribe",
        "Publish",
    ]
    for text in re.findall(r"^← (.*)$", PAGE, re.MULTILINE):
        message = wire.read_server_message(text)
        if isinstance(message, wire.Received):
            assert wire.publication(message.topic, message.offset, message.json) == text
        if isinstance(message, wire.Subscribed):
            assert wire.subscribed(*message) == text
        if isinstance(message, wire.Ack):
            assert wire.ack(*message) == text
    table = re.findall(r"^\| `(\{.*?\})` \|", PAGE, re.MULTILINE)
    kinds = {
        json.loads(text.replace("…", "null") if "{…}" not in text else text.replace("{…}", "{}"))[
            "type"
        ]
        for text in table
    }
    known = {json.loads(text)["type"] for text, _ in FROM_CLIENTS + FROM_SERVERS}
    assert kinds == known - {"later"}
