"""Who may connect: the origins that are allowed, tokens in header, URI and cookie, and the answers
401 and 403.
"""

from __future__ import annotations

import http.cookies
import logging
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support import (
    FixedDelay,
    HttpHead,
    RawClient,
    Recorder,
    echo_server,
    fast_settings,
    ms,
    new_client,
    process_of,
    upgrade,
    upgraded,
    wait_for,
)

from mormot_ws import (
    HttpClientWebSockets,
    StopOn,
    WebSocketProcessSettings,
    WebSocketProtocol,
    WebSocketServer,
    focText,
)

PAGE = "https://example.com"


def answer_to(server: WebSocketServer, uri: str = "", **headers: str | None) -> HttpHead:
    """Return the head of the answer to an upgrade request with these headers."""
    with RawClient(server.port) as client:
        client.send(client.request(uri, "echo", **headers))
        head = client.read_head()
        if head.status != 101:
            client.read_to_end()  # a refusal ends the connection
        return head


def cut(server: WebSocketServer, client: HttpClientWebSockets) -> None:
    """Cut a client's connection at the server's end."""
    process = wait_for(lambda: server.is_active_websocket(process_of(client).connection_id))
    assert process is not None
    process.abort("cut by the test")


class TestOrigin:
    @pytest.fixture
    def server(self) -> Iterator[WebSocketServer]:
        """A server for the pages of two sites."""
        with echo_server(allowed_origins={PAGE, "http://localhost:8000"}) as server:
            yield server

    @pytest.mark.parametrize("origin", [PAGE, "http://localhost:8000", "HTTPS://Example.COM"])
    def test_pages_of_allowed_sites_connect(self, server: WebSocketServer, origin: str) -> None:
        """Scheme and host are compared whatever their case, as RFC 6454 has them."""
        assert answer_to(server, Origin=origin).status == 101

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "https://example.com.evil.example",
            "https://evil.example/https://example.com",
            "https://www.example.com",
            "http://example.com",
            "https://example.com:8443",
            "example.com",
            "null",
            "*",
            "",
            f"{PAGE} https://evil.example",
        ],
    )
    def test_pages_of_other_sites_get_403(self, server: WebSocketServer, origin: str) -> None:
        """Scheme, host and port have to be the same; a part of the name is not enough."""
        assert answer_to(server, Origin=origin).status == 403

    def test_two_origins_are_no_origin(self, server: WebSocketServer) -> None:
        """A request with the header twice is not let through because one of them is good."""
        with RawClient(server.port) as client:
            request = client.request(Origin=PAGE)
            client.send(request.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n"))
            assert client.read_head().status == 403

    def test_a_client_that_is_no_browser_has_no_origin_and_connects(
        self, server: WebSocketServer
    ) -> None:
        """The check protects people with browsers; programs send no ``Origin``, and could send
        any.
        """
        assert answer_to(server).status == 101
        with new_client(server.port) as client:
            assert upgrade(client) == ""

    def test_a_page_is_refused_before_anything_of_the_application_runs(
        self, server: WebSocketServer, recorder: Recorder
    ) -> None:
        """Neither the upgrade's callback nor the connection's sees a foreign page, whatever
        cookies it brings.
        """
        server.on_websocket_upgraded = recorder.call("upgraded", 200)
        server.on_websocket_connect = recorder.call("connect")
        assert answer_to(server, Origin="https://evil.example", Cookie="session=abc").status == 403
        assert recorder.names == []
        assert server.websocket_connections == 0

    def test_without_the_setting_any_page_connects(self) -> None:
        """The default lets everybody in, like the original: a public server wants no list."""
        with echo_server() as server:
            assert answer_to(server, Origin="https://anywhere.example").status == 101

    def test_an_empty_list_allows_no_page_at_all(self) -> None:
        """An empty set is not the same as None."""
        with echo_server(allowed_origins=frozenset()) as server:
            assert answer_to(server, Origin=PAGE).status == 403
            assert answer_to(server).status == 101

    def test_the_list_may_change_while_the_server_runs(self, server: WebSocketServer) -> None:
        """The setting is read for each upgrade."""
        assert answer_to(server, Origin="https://new.example").status == 403
        server.settings.allowed_origins = {"https://new.example"}
        assert answer_to(server, Origin="https://new.example").status == 101
        assert answer_to(server, Origin=PAGE).status == 403

    def test_a_text_is_no_list(self) -> None:
        """``allowed_origins='https://example.com'`` would allow its letters."""
        with pytest.raises(ValueError, match="allowed_origins"):
            WebSocketProcessSettings(allowed_origins=PAGE)

    def test_the_application_can_decide_by_itself(self, recorder: Recorder) -> None:
        """The origin is among the headers that ``on_websocket_upgraded`` sees."""

        def by_suffix(protocol: WebSocketProtocol) -> int:
            host = urlsplit(protocol.upgrade_header("Origin")).hostname or ""
            return 200 if host.endswith(".example.com") else 403

        with echo_server() as server:
            server.on_websocket_upgraded = by_suffix
            assert answer_to(server, Origin="https://shop.example.com").status == 101
            assert answer_to(server, Origin="https://example.com.evil.example").status == 403


def by_header(protocol: WebSocketProtocol) -> int:
    """Let those in who have the right token in ``Authorization: Bearer …``."""
    if not protocol.upgrade_bearer_token:
        return 401
    return 200 if protocol.upgrade_bearer_token == "good" else 403


def by_uri(protocol: WebSocketProtocol) -> int:
    """Let those in who have the right ``?token=…``."""
    return 200 if parse_qs(urlsplit(protocol.upgrade_uri).query).get("token") == ["good"] else 401


def by_cookie(protocol: WebSocketProtocol) -> int:
    """Let those in who have the right ``session`` cookie."""
    cookies: http.cookies.SimpleCookie = http.cookies.SimpleCookie(
        protocol.upgrade_header("cookie")
    )
    return 200 if "session" in cookies and cookies["session"].value == "good" else 401


class TestTokens:
    @pytest.mark.parametrize(
        ("authorization", "status"),
        [
            ("Bearer good", 101),
            ("bearer good", 101),
            ("BEARER   good", 101),
            ("Bearer bad", 403),
            ("Bearer good, Bearer bad", 403),
            ("Bearer", 401),
            ("Basic Z29vZDpnb29k", 401),
            ("good", 401),
            (None, 401),
        ],
    )
    def test_a_bearer_token_in_the_header(
        self, server: WebSocketServer, authorization: str | None, status: int
    ) -> None:
        """``upgrade_bearer_token`` has the token of the scheme Bearer (in any case), '' for
        anything else.
        """
        server.on_websocket_upgraded = by_header
        assert answer_to(server, Authorization=authorization).status == status

    @pytest.mark.parametrize(
        ("uri", "status"),
        [
            ("room?token=good", 101),
            ("room?x=1&token=good", 101),
            ("room?token=bad", 401),
            ("room", 401),
        ],
    )
    def test_a_token_in_the_uri(self, server: WebSocketServer, uri: str, status: int) -> None:
        """``upgrade_uri`` has the query: what a browser's page can send, since it cannot set
        headers.
        """
        server.on_websocket_upgraded = by_uri
        assert answer_to(server, uri).status == status

    @pytest.mark.parametrize(
        ("cookie", "status"),
        [("session=good", 101), ("a=b; session=good; c=d", 101), ("session=bad", 401), (None, 401)],
    )
    def test_a_cookie(self, server: WebSocketServer, cookie: str | None, status: int) -> None:
        """``upgrade_header('Cookie')`` has what the browser sends along by itself."""
        server.on_websocket_upgraded = by_cookie
        assert answer_to(server, Cookie=cookie).status == status

    def test_our_client_sends_a_token_and_learns_of_its_refusal(
        self, server: WebSocketServer
    ) -> None:
        """The refusal is the status line in the result of ``websockets_upgrade``."""
        server.on_websocket_upgraded = by_header
        for headers, error in (
            ("Authorization: Bearer good", ""),
            ("Authorization: Bearer bad", "HTTP/1.1 403 WebSocket Upgrade Error"),
            ("", "HTTP/1.1 401 WebSocket Upgrade Error"),
        ):
            with new_client(server.port) as client:
                assert upgrade(client, headers=headers) == error
                assert client.connected is not bool(error)

    def test_our_client_sends_a_token_in_its_uri(self, server: WebSocketServer) -> None:
        """A query belongs to the URI, the path alone decides about the protocol."""
        server.on_websocket_upgraded = by_uri
        with new_client(server.port) as client:
            assert upgrade(client, uri="room?token=good") == ""

    def test_a_fresh_token_goes_with_each_reconnection(
        self, server: WebSocketServer, recorder: Recorder
    ) -> None:
        """``auto_reconnect`` asks for the headers each time, so that an expired token is not sent
        again.
        """
        tokens: list[str] = []

        def accept(protocol: WebSocketProtocol) -> int:
            tokens.append(protocol.upgrade_bearer_token)
            return 200

        server.on_websocket_upgraded = accept
        numbers = iter(range(2, 10))
        with new_client(server.port) as client:
            assert upgrade(client, recorder.frame, headers="Authorization: Bearer number-1") == ""
            client.auto_reconnect(headers=lambda: f"Authorization: Bearer number-{next(numbers)}")
            for turn in (2, 3):
                cut(server, client)
                recorder.wait("focContinuation", turn)
        assert tokens == ["number-1", "number-2", "number-3"]

    def test_a_client_whose_token_is_refused_can_give_up(
        self, server: WebSocketServer, recorder: Recorder
    ) -> None:
        """``StopOn`` ends the reconnection at 401: repetition will not heal it."""
        server.on_websocket_upgraded = by_header
        policy = FixedDelay(ms(5))
        with new_client(server.port, reconnect_policy=lambda: StopOn(policy)) as client:
            assert upgrade(client, recorder.frame, headers="Authorization: Bearer good") == ""
            client.auto_reconnect(headers="")
            cut(server, client)
            wait_for(lambda: client.status().thread_state == "sFinished")
            assert client.upgrade_failure is not None
            assert client.upgrade_failure.http_status == 401
        assert len(policy.failures) == 1  # it was asked once, after the loss

    def test_tokens_are_not_logged(
        self, server: WebSocketServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither side writes a token to its log, or shows it by ``repr``, good or refused."""
        server.on_websocket_upgraded = by_header
        with caplog.at_level(logging.DEBUG, "mormot_ws"):
            for token in ("good", "s3cret"):
                with new_client(server.port) as client:
                    upgrade(
                        client,
                        uri=f"room?token={token}",
                        headers=f"Authorization: Bearer {token}\r\nCookie: {token}",
                    )
                    shown = (
                        repr(client) + repr(process_of(client))
                        if client.websockets
                        else repr(client)
                    )
                    assert token not in shown
        assert "s3cret" not in caplog.text
        assert "good" not in caplog.text


class TestOnWebsocketUpgraded:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503])
    def test_any_status_refuses(self, server: WebSocketServer, status: int) -> None:
        """What the callback returns is the answer's status; then the connection ends."""
        server.on_websocket_upgraded = lambda protocol: status
        head = answer_to(server)
        assert head.status == status
        assert "sec-websocket-accept" not in head.headers
        assert server.websocket_connections == 0

    def test_401_tells_how_to_authenticate(self, server: WebSocketServer) -> None:
        """RFC 9110 §15.5.2 wants ``WWW-Authenticate`` with every 401, and with nothing else."""
        server.on_websocket_upgraded = lambda protocol: 401
        assert answer_to(server).headers["www-authenticate"] == "Bearer"
        server.on_websocket_upgraded = lambda protocol: 403
        assert "www-authenticate" not in answer_to(server).headers

    def test_everything_that_a_decision_needs_is_there(self, server: WebSocketServer) -> None:
        """Name, URI with its query, headers, address and number of the connection."""
        seen: list[WebSocketProtocol] = []

        def look(protocol: WebSocketProtocol) -> int:
            seen.append(protocol)
            return 200

        server.on_websocket_upgraded = look
        assert (
            answer_to(server, "room?x=1", Origin=PAGE, X_Custom="value", Cookie="a=b").status == 101
        )
        (protocol,) = seen
        assert protocol.name == "echo"
        assert protocol.upgrade_uri == "room?x=1"
        assert protocol.remote_ip == "127.0.0.1"
        assert protocol.remote_localhost
        assert protocol.connection_id == 1
        assert protocol.upgrade_header("ORIGIN") == PAGE
        assert protocol.upgrade_header("x-custom") == "value"
        assert protocol.upgrade_header("cookie") == "a=b"
        assert protocol.upgrade_header("absent") == ""

    def test_what_it_decides_can_be_kept_for_the_connection(self, server: WebSocketServer) -> None:
        """``connection_opaque`` carries e.g. the user from the upgrade to the callbacks of the
        same connection.
        """
        from mormot_ws import WebSocketFrame, WebSocketProcess, WebSocketProtocolChat

        def who(protocol: WebSocketProtocol) -> int:
            protocol.connection_opaque = protocol.upgrade_bearer_token.upper()
            return 200

        def greet(process: WebSocketProcess, frame: WebSocketFrame) -> None:
            if frame.opcode is focText:
                process.send_frame(WebSocketFrame(focText, process.protocol.connection_opaque))

        server.websocket_protocols.add_once(WebSocketProtocolChat("echo", "", greet))
        server.on_websocket_upgraded = who
        with RawClient(server.port) as alice, RawClient(server.port) as bob:
            for client, name in ((alice, "alice"), (bob, "bob")):
                client.send(client.request(Authorization=f"Bearer {name}"))
                assert client.read_head().status == 101
            for client, name in ((alice, "ALICE"), (bob, "BOB")):
                client.send_frame(focText, "who am I?")
                assert client.receive_opcode(focText).text == name

    def test_it_runs_in_the_connections_thread_and_delays_nobody_else(
        self, server: WebSocketServer
    ) -> None:
        """A slow decision (a database, another server) is waited for by its own connection only."""
        go_on = threading.Event()
        threads: list[threading.Thread] = []

        def decide(protocol: WebSocketProtocol) -> int:
            threads.append(threading.current_thread())
            if "slow" in protocol.upgrade_uri:
                go_on.wait(10)
            return 200

        server.on_websocket_upgraded = decide
        with RawClient(server.port) as slow:
            slow.send(slow.request("slow"))
            wait_for(lambda: threads)
            assert answer_to(server, "fast").status == 101
            go_on.set()
            assert slow.read_head().status == 101
        assert len(set(threads)) == 2

    @pytest.mark.parametrize("result", [None, "forbidden", 0, 99, 1000, -1, True, 403.5], ids=repr)
    def test_a_result_that_is_no_status_refuses_with_a_valid_answer(
        self, server: WebSocketServer, result: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A forgotten ``return`` must not let anybody in, nor make an answer that is no HTTP: it
        is a 500, and logged.
        """
        server.on_websocket_upgraded = lambda protocol: result
        head = answer_to(server)
        assert head.first_line.split()[1] == "500"
        assert "on_websocket_upgraded" in caplog.text or "on_upgraded" in caplog.text

    def test_an_exception_refuses_with_500(
        self, server: WebSocketServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A bug in the callback lets nobody in; the client gets an answer, the log the traceback,
        and the server goes on.
        """

        def broken(protocol: WebSocketProtocol) -> int:
            raise RuntimeError("the database is down")

        server.on_websocket_upgraded = broken
        assert answer_to(server).status == 500
        assert "the database is down" in caplog.text
        server.on_websocket_upgraded = None
        with upgraded(server.port) as client:
            client.send_frame(focText, "hello")
            assert client.receive_opcode(focText).text == "hello"

    def test_a_refused_page_does_not_reach_the_callbacks_of_the_connection(
        self, recorder: Recorder
    ) -> None:
        """No ``focContinuation``, no ``on_websocket_connect``, no ``on_client_connected`` for who
        was refused.
        """
        with echo_server(
            0, recorder.frame, on_client_connected=recorder.call("on_client_connected")
        ) as server:
            server.on_websocket_upgraded = lambda protocol: 403
            server.on_websocket_connect = recorder.call("on_websocket_connect")
            assert answer_to(server).status == 403
        assert recorder.names == []


def test_settings_for_the_cookbook_are_as_it_says() -> None:
    """The defaults: any origin."""
    assert fast_settings().allowed_origins is None
