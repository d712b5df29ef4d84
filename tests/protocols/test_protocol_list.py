"""WebSocketProtocolList: what runs while its lock is held, and what it tells the log."""

from __future__ import annotations

import logging

import pytest

from mormot_ws import WebSocketProtocol, WebSocketProtocolChat, WebSocketProtocolList
from mormot_ws.core.handshake import UpgradeRequest


def request(names: str | None, target: str = "/") -> UpgradeRequest:
    """Return an upgrade of *target* that asks for the sub-protocols *names*; None: has no such
    header.
    """
    headers = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        *([] if names is None else [("sec-websocket-protocol", names)]),
    ]
    return UpgradeRequest("GET", target, "1.1", headers)


class Meddling(WebSocketProtocolChat):
    """Changes the list of offers in each method that the list calls, and when it is forgotten."""

    def __init__(self, name: str, uri: str = "") -> None:
        super().__init__(name, uri)
        self.offers: WebSocketProtocolList | None = None

    def meddle(self) -> None:
        if self.offers is not None:
            assert self.offers.add(WebSocketProtocol(f"extra-{len(self.offers)}"))

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        self.meddle()
        return super().clone(client_uri)

    def get_subprotocols(self) -> str:
        self.meddle()
        return super().get_subprotocols()

    def __del__(self) -> None:
        self.meddle()


def test_methods_and_finalisers_of_a_protocol_may_use_the_list() -> None:
    """Nothing of the application's runs while the lock of the list is held."""
    offers = WebSocketProtocolList()
    protocol = Meddling("echo", "room")
    protocol.offers = offers
    assert offers.add(protocol)
    assert offers.clone_by_name("echo", "room") is not None
    assert offers.clone_by_uri("room") is not None
    assert len(offers) == 4
    del protocol
    assert not offers.add_once(WebSocketProtocolChat("echo", "room"))
    assert len(offers) == 5
    last = Meddling("last")
    last.offers = offers
    assert offers.add(last)
    del last
    assert offers.remove("last")
    assert len(offers) == 6


def test_what_a_client_asks_for_is_not_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A sub-protocol or a path that is not offered may be a token; those that are offered are
    named.
    """
    caplog.set_level(logging.DEBUG)
    offers = WebSocketProtocolList()
    offers.add(WebSocketProtocolChat("echo", "room"))
    for names, target in (
        ("bearer-SECRET", "/room"),
        ("echo, SECRET", "/SECRET"),
        ("echo", "/?token=SECRET"),
    ):
        assert offers.server_upgrade(request(names, target), "", 1)[0] == 400
    assert "SECRET" not in caplog.text
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "an upgrade requests a protocol that is not offered on the URI 'room'",
        "an upgrade requests the protocol 'echo' or another on another URI",
        "an upgrade requests the protocol 'echo' on the URI ''",
    ]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, KeyError])
def test_whatever_on_upgraded_raises_refuses_the_upgrade(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The thread of the connection goes on, and the log says what was raised."""
    offers = WebSocketProtocolList()
    offers.add(WebSocketProtocolChat("echo"))

    def fail(protocol: WebSocketProtocol) -> int:
        raise error("mine")

    offers.on_upgraded = fail
    assert offers.server_upgrade(request("echo"), "", 1)[0] == 500
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert error.__name__ in caplog.text


def test_a_protocol_without_a_name_serves_clients_that_name_none() -> None:
    """On any URI, and without naming one in the answer; a client that names one is refused."""
    offers = WebSocketProtocolList()
    offers.add(WebSocketProtocolChat(""))
    for target in ("/", "/x", "/a/b?c=d"):
        status, protocol, answer = offers.server_upgrade(request(None, target), "", 1)
        assert (status, protocol is not None) == (101, True)
        assert b"Sec-WebSocket-Protocol" not in answer
    assert offers.server_upgrade(request("chat"), "", 1)[0] == 400


def test_the_most_exact_protocol_serves_a_client_that_names_none() -> None:
    """That of its URI without a name, then that of its URI, then that of any."""
    offers = WebSocketProtocolList()
    offers.add(WebSocketProtocolChat(""))
    offers.add(WebSocketProtocolChat("named", "room"))
    offers.add(WebSocketProtocolChat("named", "other"))
    offers.add(WebSocketProtocolChat("", "/room"))
    offers.add(WebSocketProtocolChat("root", "/"))
    found = []
    for target in ("/room", "/other", "/", "/any"):
        _, protocol, _ = offers.server_upgrade(request(None, target), "", 1)
        assert protocol is not None
        found.append((protocol.name, protocol.uri))
    assert found == [("", "/room"), ("named", "other"), ("root", "/"), ("", "")]


def test_a_slash_makes_no_other_protocol() -> None:
    """``add``, ``add_once`` and ``remove`` find it with and without."""
    offers = WebSocketProtocolList()
    assert offers.add(WebSocketProtocolChat("chat", "/room"))
    assert not offers.add(WebSocketProtocolChat("chat", "room"))
    assert not offers.add_once(WebSocketProtocolChat("chat", "room"))
    assert offers.add(WebSocketProtocolChat("chat", "/"))
    assert offers.add(WebSocketProtocolChat("chat", ""))
    assert offers.remove("chat", "/room")
    assert offers.remove("chat", "/")
    assert [len(offers), offers.remove("chat", ""), len(offers)] == [1, True, 0]


def test_who_names_no_protocol_is_told_which_there_are() -> None:
    """In the body of the 400, as a browser or curl shows it; those of this URI, or the others."""
    offers = WebSocketProtocolList()
    body = offers.server_upgrade(request(None), "", 1)[2].partition(b"\r\n\r\n")[2].decode()
    assert body == "This server offers no sub-protocol.\n"
    offers.add(WebSocketProtocolChat("chat"))
    offers.add(WebSocketProtocolChat("news"))
    offers.add(WebSocketProtocolChat("special", "room"))
    answer = offers.server_upgrade(request(None), "", 1)[2]
    head, _, content = answer.partition(b"\r\n\r\n")
    assert content.decode().endswith("offers on this URI: 'chat', 'news'.\n")
    assert b"\r\nContent-Length: %d\r\n" % len(content) in head


def test_a_mismatch_is_a_warning_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The others are at INFO, so that who sends many fills no disk."""
    caplog.set_level(logging.INFO)
    offers = WebSocketProtocolList()
    offers.add(WebSocketProtocolChat("chat"))
    for _ in range(3):
        offers.server_upgrade(request(None), "", 1)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO", "INFO"]
    text = caplog.records[0].getMessage()
    assert "requests no protocol on the URI ''; offered: 'chat'" in text
    assert "the name '' serves clients that request no protocol" in text
