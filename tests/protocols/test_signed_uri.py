"""WebSocketProtocolUri on real sockets: who has a URI that the server made gets in, once and in
time, and nobody else.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import itsdangerous.timed
import pytest
from support import HOST, RawClient, fast_settings, wait_for

from mormot_ws import (
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketProtocolUri,
    WebSocketsError,
    WebSocketServer,
)

SHARED = "a secret of their own"


@dataclass
class Ticket:
    """A record."""

    user: str
    seat: int = 0


@pytest.fixture
def server() -> Iterator[WebSocketServer]:
    with WebSocketServer(f"{HOST}:0", settings=fast_settings()) as running:
        yield running


def offer(server: WebSocketServer, **options: Any) -> WebSocketProtocolUri:
    """Offer a protocol ``gate`` on *server*, whose callback answers each text with what it knows
    of the connection.
    """
    protocol = WebSocketProtocolUri("gate", f"ws://{HOST}:{server.port}/gateway", 1, **options)

    def on_incoming_frame(process: WebSocketProcess, frame: Any) -> None:
        known = process.protocol
        assert isinstance(known, WebSocketProtocolUri)
        if frame.opcode == 1:
            frame.payload = f"{known.session} {known.created} {known.record_data!r}".encode()
            process.send_frame(frame)

    protocol.on_incoming_frame = on_incoming_frame
    server.websocket_protocols.add(protocol)
    return protocol


def path_of(uri: str) -> str:
    """Return the path of *uri*, without its leading ``/``."""
    return uri.partition("://")[2].partition("/")[2] if "://" in uri else uri


def status_of(server: WebSocketServer, uri: str, name: str = "gate") -> int:
    """Return the status of an upgrade on *uri*, which is complete or a path."""
    path = path_of(uri)
    with RawClient(server.port) as client:
        client.send(client.request(path, name))
        return client.read_head().status


class TestUpgrade:
    def test_a_new_uri_gets_in_and_the_connection_knows_its_record(
        self, server: WebSocketServer
    ) -> None:
        """Session, time of making and record are those of new_uri."""
        protocol = offer(server)
        uri, session = protocol.new_uri({"user": "zoë", "rights": [1, 2]})
        assert uri.startswith(f"ws://{HOST}:{server.port}/gateway/")
        with RawClient(server.port) as client:
            client.upgrade(uri.removeprefix(f"ws://{HOST}:{server.port}/"), "gate")
            client.send_frame(1, b"who am I?")
            known, created, record = client.receive_frame().text.split(" ", 2)
        assert (int(known), record) == (session, "{'user': 'zoë', 'rights': [1, 2]}")
        assert int(created) > 1_700_000_000
        assert (protocol.session, protocol.record_data) == (0, None)

    def test_a_record_type_comes_back_as_itself(self, server: WebSocketServer) -> None:
        """As the dataclass that was given."""
        protocol = offer(server, record_type=Ticket)
        uri = protocol.new_uri(Ticket("eve", 7)).uri
        with RawClient(server.port) as client:
            client.upgrade(uri.rpartition(f":{server.port}/")[2] + "?and=a+query", "gate")
            client.send_frame(1, b"who am I?")
            assert client.receive_frame().text.endswith("Ticket(user='eve', seat=7)")

    def test_a_uri_is_good_for_one_connection(self, server: WebSocketServer) -> None:
        """Also in another spelling of the same token, and while the first connection is open."""
        uri = offer(server).new_uri().uri
        with RawClient(server.port) as client:
            client.upgrade(uri.removeprefix(f"ws://{HOST}:{server.port}/"), "gate")
            assert status_of(server, uri) == 404
            others = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
            assert {status_of(server, uri[:-1] + last) for last in others} == {404}

    def test_an_expired_uri_is_refused(
        self, server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One minute and a second later; what was open stays open."""
        protocol = offer(server)
        early, late = protocol.new_uri().uri, protocol.new_uri().uri
        now = itsdangerous.timed.time.time()
        monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + 59)
        assert status_of(server, early) == 101
        monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + 62)
        assert status_of(server, late) == 404

    def test_no_token_stands_in_a_log_line_or_an_error(
        self,
        server: WebSocketServer,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whatever is wrong with it; nor in a repr."""
        caplog.set_level(logging.DEBUG)
        protocol = offer(server, secret=SHARED, record_type=Ticket)
        other = WebSocketProtocolUri("gate", "localhost/gateway", 1, secret=SHARED)
        made = [protocol.new_uri(Ticket("eve")) for _ in range(4)] + [other.new_uri({"a": "xyz"})]
        tokens = [item.uri.rpartition("/")[2] for item in made]
        record, stamp, signature = tokens[0].split(".")
        now = itsdangerous.timed.time.time()
        paths = [
            f"gateway/{tokens[1]}x",
            f"gateway/{record}.{stamp}",
            f"gateway/{record}.{stamp}.{signature[::-1]}",
            f"gateway/{record}.!.{signature}",
            f"gateway/{record}",
            f"gateway/{tokens[4]}",
            f"elsewhere/{tokens[2]}",
        ]
        assert {status_of(server, path) for path in paths} == {404}
        assert status_of(server, f"gateway/{tokens[3]}") == 101
        assert status_of(server, f"gateway/{tokens[3]}") == 404
        errors = []
        for path in paths:
            assert not protocol.process_handshake_uri(path)
            errors.append(protocol.last_error)
        monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + 100)
        assert status_of(server, f"gateway/{tokens[2]}") == 404
        wait_for(lambda: "it has expired" in caplog.text)
        shown = [caplog.text, *errors, repr(made), str(made[0]), repr(protocol)]
        shown += [repr(server), repr(server.status()), repr(server.websocket_protocols)]
        for part in (*(token[:-1] for token in tokens), record, stamp, signature, "xyz", SHARED):
            assert not [text for text in shown if part in text]
        assert "session=" in repr(made[0])

    @pytest.mark.parametrize(
        "damage", [lambda t: t[:-5], lambda t: "x" + t, lambda t: t.replace(".", ""), lambda t: ""]
    )
    def test_a_damaged_token_is_refused(self, server: WebSocketServer, damage: Any) -> None:
        """Truncated, changed, without its parts, or none at all."""
        start, slash, token = offer(server).new_uri().uri.rpartition("/")
        assert status_of(server, start + slash + damage(token)) == 404
        assert status_of(server, start + slash + token) == 101

    def test_any_character_of_a_token_counts(self, server: WebSocketServer) -> None:
        """None can be changed without being refused; asked of the protocol itself, which is what
        the upgrade asks.
        """
        protocol = offer(server)
        start, slash, token = protocol.new_uri("record").uri.rpartition("/")
        for at in range(len(token) - 1):  # of the last one some bits are unused
            changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            assert not protocol.process_handshake_uri(f"gateway/{changed}")
        assert status_of(server, start + slash + token) == 101

    def test_a_uri_of_another_server_is_refused(self, server: WebSocketServer) -> None:
        """Each object has its secret, unless they are given the same."""
        offer(server)
        foreign = WebSocketProtocolUri("gate", f"ws://{HOST}:{server.port}", 1)
        assert status_of(server, foreign.new_uri().uri) == 404

    def test_servers_can_share_a_secret(self, server: WebSocketServer) -> None:
        """A URI of one is good on the other, whatever the host's name and the path's case."""
        offer(server, secret=SHARED)
        for public_uri in ("wss://example.com/gateway", "localhost/gateway/", "ws://h:1/GateWay"):
            other = WebSocketProtocolUri("gate", public_uri, 1, secret=SHARED)
            token = other.new_uri().uri.rpartition("/")[2]
            assert status_of(server, f"gateway/{token}") == 101

    @pytest.mark.parametrize(
        ("name", "path"),
        [("user", "gateway"), ("gate", "gate/way"), ("gate", ""), ("gateway", "gate")],
    )
    def test_a_uri_opens_only_the_protocol_that_it_was_made_for(
        self, server: WebSocketServer, name: str, path: str
    ) -> None:
        """Others may have the same secret: of another name, or on another path."""
        protocol = offer(server, secret=SHARED)
        other = WebSocketProtocolUri(name, f"ws://{HOST}:{server.port}/{path}", 1, secret=SHARED)
        server.websocket_protocols.add(other)
        uri = other.new_uri({"name": "bob"}).uri
        token = uri.rpartition("/")[2]
        assert status_of(server, f"gateway/{token}", "gate") == 404
        assert status_of(server, uri, "gate") == 404
        assert (protocol.session, status_of(server, uri, name)) == (
            0,
            404 if name == "gate" else 101,
        )

    @pytest.mark.parametrize(
        "path", ["", "anything/", "gateway/deeper/", "gateway//", "/gateway/", "gatewa/"]
    )
    def test_a_uri_opens_only_the_path_that_it_was_made_for(
        self, server: WebSocketServer, path: str
    ) -> None:
        """And is still good for it."""
        token = offer(server).new_uri().uri.rpartition("/")[2]
        assert status_of(server, path + token) == 404
        assert status_of(server, f"gateway/{token}?a=query") == 101

    def test_a_proxy_may_change_the_path(self, server: WebSocketServer) -> None:
        """The server is told which one it sees, here none."""
        uri = offer(server, local_path="").new_uri().uri
        assert status_of(server, uri) == 404
        assert status_of(server, uri.rpartition("/")[2]) == 101

    def test_a_record_of_another_shape_is_refused(self, server: WebSocketServer) -> None:
        """Made by another version of the program, with the same secret."""
        offer(server, secret=SHARED, record_type=Ticket)
        other = WebSocketProtocolUri("gate", "localhost/gateway", 1, secret=SHARED)
        assert (
            status_of(server, other.new_uri({"user": "eve"}).uri.removeprefix("localhost/")) == 101
        )
        for wrong in ({"color": "red"}, 5, {"user": "eve", "seat": 1, "x": 2}, ["eve"], "eve"):
            uri = other.new_uri(wrong).uri
            assert status_of(server, uri.removeprefix("localhost/")) == 404

    def test_other_protocols_of_the_server_are_not_affected(self, server: WebSocketServer) -> None:
        """They need no token."""
        offer(server)
        server.websocket_protocols.add(WebSocketProtocolChat("echo"))
        assert status_of(server, "anything", "echo") == 101

    def test_an_upgrade_that_the_application_refuses_has_used_its_uri(
        self, server: WebSocketServer
    ) -> None:
        """A token is taken before the application is asked."""
        uri = offer(server).new_uri().uri
        server.on_websocket_upgraded = lambda protocol: 403
        assert status_of(server, uri) == 403
        server.on_websocket_upgraded = None
        assert status_of(server, uri) == 404

    def test_used_uris_are_forgotten_when_they_have_expired(
        self, server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The memory of a long-running server does not grow."""
        protocol = offer(server)
        uris = [protocol.new_uri().uri for _ in range(20)]
        assert all(protocol.process_handshake_uri(path_of(uri)) for uri in uris)
        assert len(protocol._generator._used) == 20
        later = itsdangerous.timed.time.time() + 62
        monkeypatch.setattr("itsdangerous.timed.time.time", lambda: later)
        monkeypatch.setattr("mormot_ws.protocols.signed_uri.time", lambda: later)
        assert protocol.process_handshake_uri(path_of(protocol.new_uri().uri))
        assert len(protocol._generator._used) == 1

    def test_a_closed_connection_leaves_nothing(self, server: WebSocketServer) -> None:
        """The server goes on counting."""
        uri = offer(server).new_uri().uri
        assert status_of(server, uri) == 101
        wait_for(lambda: server.websocket_connections == 0)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("", "localhost", 1), "name"),
            (("gate", "", 1), "public_uri"),
            (("gate", "localhost?a=b", 1), "must end with a path"),
            (("gate", "localhost/#a", 1), "must end with a path"),
            (("gate", "localhost", 0), "expiration_minutes"),
        ],
    )
    def test_what_cannot_work_is_refused(
        self, arguments: tuple[str, str, float], message: str
    ) -> None:
        """At once, with its name."""
        with pytest.raises(ValueError, match=message):
            WebSocketProtocolUri(*arguments)

    def test_records_are_checked(self) -> None:
        """Of another type, no JSON value, or too long for a URI."""
        with pytest.raises(TypeError, match="dataclass"):
            WebSocketProtocolUri("gate", "localhost", 1, int)
        with pytest.raises(TypeError, match="Ticket"):
            WebSocketProtocolUri("gate", "localhost", 1, Ticket).new_uri("eve")
        with pytest.raises(TypeError):
            WebSocketProtocolUri("gate", "localhost", 1).new_uri(object())
        with pytest.raises(ValueError, match="2000"):
            WebSocketProtocolUri("gate", "localhost", 1).new_uri([str(i * i) for i in range(1_000)])
        with pytest.raises(ValueError, match="16"):
            WebSocketProtocolUri("gate", "localhost", 1, secret="short")

    def test_without_the_package_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The extra is named."""
        monkeypatch.setitem(sys.modules, "itsdangerous", None)
        with pytest.raises(WebSocketsError, match=r"mormot_ws\[uri\]"):
            WebSocketProtocolUri("gate", "localhost", 1)
