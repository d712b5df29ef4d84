"""The opening handshake (RFC 6455 §4) as values: requests taken apart, answers built. And its
deadline, on a clock of our own.
"""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mormot_ws.core.handshake import (
    UpgradeRequest,
    accept_value,
    header_tokens,
    is_valid_key,
    split_header_lines,
    upgrade_answer,
    upgrade_refusal,
)
from mormot_ws.sockets import deadline as deadline_module
from mormot_ws.sockets.deadline import Deadline

QUICK = settings(deadline=None, max_examples=100)

#: the key and the accept value that RFC 6455 §1.3 prints
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

STANDARD = {
    "host": "server.example.com",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": KEY,
    "sec-websocket-version": "13",
}


def request(
    changes: dict[str, str | None] | None = None,
    *more: tuple[str, str],
    method: str = "GET",
    target: str = "/chat",
    http_version: str = "1.1",
) -> UpgradeRequest:
    """Return a well-formed upgrade with some headers changed (None: left out) and *more* at the
    end.
    """
    headers = {**STANDARD, **(changes or {})}
    pairs = [(name, value) for name, value in headers.items() if value is not None]
    return UpgradeRequest(method, target, http_version, [*pairs, *more])


class TestAcceptValue:
    def test_the_example_of_the_rfc(self) -> None:
        """The key of §1.3 has the accept value that is printed there."""
        assert accept_value(KEY) == ACCEPT


class TestHeaderTokens:
    @pytest.mark.parametrize(
        ("values", "tokens"),
        [
            ([], []),
            ([""], []),
            (["a"], ["a"]),
            (["a,b"], ["a", "b"]),
            ([" a ,\tb\t"], ["a", "b"]),
            (["a,,b, ,"], ["a", "b"]),
            (["a", "b, c"], ["a", "b", "c"]),
            (["a;x=1, b"], ["a;x=1", "b"]),
            (["A, a"], ["A", "a"]),
        ],
        ids=str,
    )
    def test_items_are_split_trimmed_and_joined_over_lines(
        self, values: list[str], tokens: list[str]
    ) -> None:
        """Comma-separated items of all lines, in order, in their spelling, without empty ones (RFC
        9110 §5.6.1).
        """
        assert header_tokens(values) == tokens


class TestSplitHeaderLines:
    @pytest.mark.parametrize(
        ("lines", "headers"),
        [
            ("", []),
            ("\r\n\r\n", []),
            ("X-Token: 12345", [("X-Token", "12345")]),
            ("X-Token: 12345\r\n", [("X-Token", "12345")]),
            ("A: 1\r\nB: 2", [("A", "1"), ("B", "2")]),
            ("A: 1\nB: 2\n", [("A", "1"), ("B", "2")]),
            ("A: 1\r\n\r\nB: 2", [("A", "1"), ("B", "2")]),
            ("A:1", [("A", "1")]),
            ("A:  1 2  ", [("A", "1 2")]),
            ("A:", [("A", "")]),
            ("A: b:c", [("A", "b:c")]),
            ("A: 1\r\nA: 2", [("A", "1"), ("A", "2")]),
            ("A: é", [("A", "é")]),
        ],
        ids=repr,
    )
    def test_lines_become_pairs(self, lines: str, headers: list[tuple[str, str]]) -> None:
        """Names and values are trimmed, empty lines skipped, repeated names and the order kept."""
        assert split_header_lines(lines) == headers

    @pytest.mark.parametrize("line", ["no colon", ": no name", " : blank name", "A: 1\r\nno colon"])
    def test_a_line_without_name_or_colon_is_a_value_error(self, line: str) -> None:
        """Such a line would corrupt the request that it is put into."""
        with pytest.raises(ValueError, match="is not a header line"):
            split_header_lines(line)

    @pytest.mark.parametrize("value", ["a\rX: 1", "a\0b", "a\r"], ids=repr)
    def test_a_value_with_a_control_character_is_a_value_error(self, value: str) -> None:
        """A bare CR or a NUL in a value is an attempt to smuggle."""
        with pytest.raises(ValueError, match="is not a header line"):
            split_header_lines(f"X-A: {value}\r\nX-B: 1")

    @pytest.mark.parametrize("name", ["X\rEvil", "X\0", "X Y", "X\tY", "Ünï", "X(Y)"], ids=repr)
    def test_a_name_that_is_no_token_is_a_value_error(self, name: str) -> None:
        """RFC 9110 §5.1: a name is a token; a bare CR in it is an attempt to smuggle."""
        with pytest.raises(ValueError):
            split_header_lines(f"{name}: 1")


class TestKeys:
    @pytest.mark.parametrize(
        "key", [KEY, f" {KEY} ", "AAAAAAAAAAAAAAAAAAAAAA==", "/+/+/+/+/+/+/+/+/+/+/w=="]
    )
    def test_the_base64_of_16_bytes_is_valid(self, key: str) -> None:
        """Any 16 bytes will do, blanks around them too."""
        assert is_valid_key(key)

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "AAAA",
            base64.b64encode(bytes(15)).decode(),
            base64.b64encode(bytes(17)).decode(),
            KEY.rstrip("="),
            KEY[:-1],
            KEY.replace("G", "*", 1),
            KEY.replace("G", "é", 1),
            KEY[:8] + " " + KEY[8:],
            "x" * 24,
        ],
        ids=repr,
    )
    def test_anything_else_is_not(self, key: str) -> None:
        """Other lengths, other alphabets, missing padding."""
        assert not is_valid_key(key)

    @QUICK
    @given(data=st.binary(max_size=40))
    def test_only_the_number_of_bytes_counts(self, data: bytes) -> None:
        """Base64 of any data is a key exactly when it is 16 bytes long."""
        assert is_valid_key(base64.b64encode(data).decode()) is (len(data) == 16)

    @QUICK
    @given(key=st.text(max_size=30))
    def test_no_text_raises(self, key: str) -> None:
        """What a client sends as key is judged, never an exception."""
        assert is_valid_key(key) in (False, True)


class TestUpgradeRequest:
    def test_it_keeps_what_it_is_made_of(self) -> None:
        """Method, target, version and headers are there as they came."""
        asked = UpgradeRequest("GET", "/a?b", "1.1", iter([("host", "h"), ("x", "1")]))
        assert (asked.method, asked.target, asked.http_version) == ("GET", "/a?b", "1.1")
        assert asked.headers == [("host", "h"), ("x", "1")]

    @pytest.mark.parametrize(
        ("target", "uri", "path"),
        [
            ("/", "", ""),
            ("/chat", "chat", "chat"),
            ("chat", "chat", "chat"),
            (" /chat ", "chat", "chat"),
            ("//chat", "/chat", "/chat"),
            ("/chat/", "chat/", "chat/"),
            ("/chat?a=1", "chat?a=1", "chat"),
            ("/chat?a=1?b=2", "chat?a=1?b=2", "chat"),
            ("/?a=1", "?a=1", ""),
            ("/cha%74", "cha%74", "cha%74"),
        ],
    )
    def test_uri_and_path_come_from_the_target(self, target: str, uri: str, path: str) -> None:
        """One leading '/' goes, the query stays in the URI and not in the path, and nothing is
        decoded (wire rules 1.4.1, 2 and 5).
        """
        asked = request(target=target)
        assert (asked.uri, asked.path) == (uri, path)

    @pytest.mark.parametrize(
        ("target", "uri"),
        [
            ("http://h.example/chat?a=1", "chat?a=1"),
            ("HTTPS://h.example:8443/chat", "chat"),
            ("ws://[::1]/a/b", "a/b"),
            ("wss://h.example", ""),
            ("http://h.example?a=1", "?a=1"),
            ("http://h.example//chat", "/chat"),
            ("/http://h.example/chat", "http://h.example/chat"),
            ("ftp://h.example/chat", "ftp://h.example/chat"),
        ],
    )
    def test_a_whole_uri_as_target_counts_by_its_path_and_query(
        self, target: str, uri: str
    ) -> None:
        """RFC 9112 §3.2.2: a server has to accept the absolute form; other schemes are no form of
        ours.
        """
        asked = request(target=target)
        assert (asked.uri, asked.target) == (uri, target)

    @pytest.mark.parametrize("target", ["http://[/x", "ws://h]/x", "http://[v1.a/"])
    def test_no_target_raises(self, target: str) -> None:
        """A request that makes no sense is judged like any other, never an exception."""
        assert request(target=target).method == "GET"

    def test_a_repeated_header_keeps_all_its_values(self) -> None:
        """``all`` gives them in order, ``header`` the first."""
        asked = request(None, ("x-a", "1"), ("x-b", "2"), ("x-a", "3"))
        assert asked.all("x-a") == ["1", "3"]
        assert asked.header("x-a") == "1"

    def test_a_missing_header_is_empty(self) -> None:
        """No values, and '' as the first."""
        asked = request()
        assert (asked.all("x-none"), asked.header("x-none")) == ([], "")

    def test_without_the_header_no_protocols_were_asked_for(self) -> None:
        """None, which is not the same as an empty list."""
        assert request().protocols is None

    def test_the_protocols_asked_for_are_in_order(self) -> None:
        """Names in the client's order and spelling."""
        assert request({"sec-websocket-protocol": "Chat,  echo ,json"}).protocols == [
            "Chat",
            "echo",
            "json",
        ]

    def test_an_empty_protocol_header_asks_for_nothing(self) -> None:
        """The header is there, so it is an empty list."""
        assert request({"sec-websocket-protocol": ""}).protocols == []

    def test_the_extensions_asked_for_are_in_order(self) -> None:
        """Each with its parameters, over several lines."""
        asked = request(
            {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits, a"},
            ("sec-websocket-extensions", "b"),
        )
        assert asked.extensions == ["permessage-deflate; client_max_window_bits", "a", "b"]
        assert request().extensions == []

    @pytest.mark.parametrize(
        ("value", "token"),
        [
            ("Bearer abc.def", "abc.def"),
            ("bearer  abc ", "abc"),
            ("Basic dXNlcg==", ""),
            ("Bearer", ""),
            ("Bearerabc", ""),
            (None, ""),
        ],
    )
    def test_a_bearer_token_is_found(self, value: str | None, token: str) -> None:
        """From ``Authorization``, whatever the case of its scheme; other schemes are none."""
        assert request({"authorization": value}).bearer_token == token


class TestIsUpgrade:
    """Wire rules 1.3; deliberately wider than the original in the two token lists."""

    def test_the_standard_request_is_one(self) -> None:
        """As every client sends it."""
        assert request().is_upgrade

    @pytest.mark.parametrize("method", ["get", "POST", "CONNECT", "HEAD", ""])
    def test_the_method_is_exactly_get(self, method: str) -> None:
        """Methods are case-sensitive."""
        assert not request(method=method).is_upgrade

    @pytest.mark.parametrize("http_version", ["1.0", "0.9", "2"])
    def test_the_version_is_1_1(self, http_version: str) -> None:
        """An HTTP/1.0 request is a plain one."""
        assert not request(http_version=http_version).is_upgrade

    @pytest.mark.parametrize(
        "value", ["websocket", "WebSocket", "WEBSOCKET", "websocket, h2c", "h2c,websocket"]
    )
    def test_upgrade_names_websocket_in_any_case_and_list(self, value: str) -> None:
        """We accept a list where the original does not."""
        assert request({"upgrade": value}).is_upgrade

    @pytest.mark.parametrize("value", [None, "", "h2c", "websockets", "web socket", "websocket/13"])
    def test_another_upgrade_is_a_plain_request(self, value: str | None) -> None:
        """The token has to be there, whole."""
        assert not request({"upgrade": value}).is_upgrade

    @pytest.mark.parametrize(
        "value", ["Upgrade", "upgrade", "keep-alive, Upgrade", "close,upgrade", "UPGRADE, foo"]
    )
    def test_connection_names_upgrade_in_any_case_and_list(self, value: str) -> None:
        """We accept any list where the original knows only one."""
        assert request({"connection": value}).is_upgrade

    @pytest.mark.parametrize("value", [None, "", "keep-alive", "upgraded", "close"])
    def test_another_connection_is_a_plain_request(self, value: str | None) -> None:
        """The token has to be there, whole."""
        assert not request({"connection": value}).is_upgrade

    def test_the_tokens_may_be_on_a_second_line(self) -> None:
        """A repeated header is one list."""
        asked = request({"connection": "keep-alive"}, ("connection", "Upgrade"))
        assert asked.is_upgrade


class TestFault:
    def test_a_well_formed_request_has_none(self) -> None:
        """With and without protocols."""
        assert request().fault() == 0
        assert request({"sec-websocket-protocol": "echo, chat.v2+json"}).fault() == 0

    @pytest.mark.parametrize(
        "version", ["12", "14", "8", "13abc", "0", "", "thirteen", "13, 8", "013"]
    )
    def test_another_version_is_426(self, version: str) -> None:
        """Deliberately not the original's 400: the answer says which version to come with (RFC
        6455 §4.4).
        """
        assert request({"sec-websocket-version": version}).fault() == 426

    def test_blanks_around_the_version_do_not_matter(self) -> None:
        """They are no part of a header's value."""
        assert request({"sec-websocket-version": " 13 "}).fault() == 0

    def test_a_missing_version_is_400(self) -> None:
        """There is nothing to negotiate with."""
        assert request({"sec-websocket-version": None}).fault() == 400

    def test_a_repeated_version_is_400(self) -> None:
        """RFC 6455 §11.3.5: once only."""
        assert request(None, ("sec-websocket-version", "13")).fault() == 400

    @pytest.mark.parametrize("key", [None, "", "short", base64.b64encode(bytes(17)).decode()])
    def test_a_bad_or_missing_key_is_400(self, key: str | None) -> None:
        """It has to decode to 16 bytes."""
        assert request({"sec-websocket-key": key}).fault() == 400

    def test_a_repeated_key_is_400(self) -> None:
        """RFC 6455 §11.3.1: once only."""
        assert request(None, ("sec-websocket-key", KEY)).fault() == 400

    @pytest.mark.parametrize("names", ["two words", "a, b/c", 'quo"ted', "é", "a;b", "a=b"])
    def test_a_protocol_name_that_is_no_token_is_400(self, names: str) -> None:
        """It could not be answered in a header."""
        assert request({"sec-websocket-protocol": names}).fault() == 400


class TestOrigins:
    def test_without_a_list_any_origin_passes(self) -> None:
        """None allows everything."""
        assert request({"origin": "https://evil.example"}).origin_is_in(None)

    def test_without_an_origin_the_request_passes(self) -> None:
        """It does not come from a browser's page."""
        assert request().origin_is_in({"https://good.example"})
        assert request().origin_is_in(())

    @pytest.mark.parametrize(
        "origin", ["https://good.example", "HTTPS://Good.Example", " https://good.example "]
    )
    def test_a_listed_origin_passes_whatever_its_case(self, origin: str) -> None:
        """Scheme and host are case-insensitive."""
        assert request({"origin": origin}).origin_is_in(
            ["https://other.example", "https://GOOD.example"]
        )

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "http://good.example", "https://good.example:444", "null", ""],
    )
    def test_another_origin_does_not_pass(self, origin: str) -> None:
        """The whole origin has to be equal; an empty one is no origin of ours."""
        assert not request({"origin": origin}).origin_is_in({"https://good.example"})

    def test_two_origins_do_not_pass(self) -> None:
        """Which of them would count?"""
        asked = request({"origin": "https://good.example"}, ("origin", "https://good.example"))
        assert not asked.origin_is_in({"https://good.example"})


class TestAnswers:
    def test_the_101_has_the_lines_of_a_native_server(self) -> None:
        """Exactly these headers, in this order (wire rules 1.2)."""
        assert upgrade_answer(KEY, 7, "echo") == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Connection-ID: 7\r\n"
            b"Sec-WebSocket-Protocol: echo\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n"
            b"\r\n"
        )

    @pytest.mark.parametrize("protocol", [None, ""])
    def test_without_a_protocol_its_line_is_left_out(self, protocol: str | None) -> None:
        """A client that named none is told none."""
        assert b"Protocol:" not in upgrade_answer(KEY, 1, protocol)

    def test_extensions_stand_before_the_accept_value(self) -> None:
        """Where a native server has them; without any there is no line."""
        lines = upgrade_answer(KEY, 1, "echo", "permessage-deflate").split(b"\r\n")
        assert lines[5:7] == [
            b"Sec-WebSocket-Extensions: permessage-deflate",
            b"Sec-WebSocket-Accept: " + ACCEPT.encode(),
        ]
        assert b"Extensions" not in upgrade_answer(KEY, 1, "echo")

    def test_blanks_around_the_key_are_no_part_of_it(self) -> None:
        """The accept value is that of the key itself."""
        assert upgrade_answer(f" {KEY} ", 1, None) == upgrade_answer(KEY, 1, None)

    @pytest.mark.parametrize("status", [400, 403, 404, 406, 503])
    def test_a_refusal_has_the_reason_of_a_native_server(self, status: int) -> None:
        """Status line and one header, no body; HTTP/1.1, which every client can read."""
        assert upgrade_refusal(status) == (
            f"HTTP/1.1 {status} WebSocket Upgrade Error\r\nConnection: Close\r\n\r\n".encode()
        )

    def test_a_426_names_the_version_that_we_speak(self) -> None:
        """RFC 6455 §4.4, and ``Upgrade`` as RFC 9110 §15.5.22 wants it."""
        first, *headers, end, nothing = upgrade_refusal(426).split(b"\r\n")
        assert first == b"HTTP/1.1 426 WebSocket Upgrade Error"
        assert sorted(headers) == [
            b"Connection: Upgrade, close",
            b"Sec-WebSocket-Version: 13",
            b"Upgrade: websocket",
        ]
        assert end == nothing == b""

    def test_a_401_says_how_to_authenticate(self) -> None:
        """RFC 9110 §15.5.2 demands it."""
        assert upgrade_refusal(401) == (
            b"HTTP/1.1 401 WebSocket Upgrade Error\r\nWWW-Authenticate: "
            b"Bearer\r\nConnection: Close\r\n\r\n"
        )


# ------------------------------------------------------------------------------------- the deadline


class TestDeadline:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """A clock that stands still: its time is the list's only item."""
        now = [1000.0]
        monkeypatch.setattr(deadline_module, "monotonic", lambda: now[0])
        return now

    def test_it_counts_down(self, clock: list[float]) -> None:
        """Seconds and milliseconds left follow the clock."""
        deadline = Deadline(2500)
        assert (deadline.seconds(), deadline.milliseconds(), deadline.passed) == (2.5, 2500, False)
        clock[0] += 2
        assert (deadline.seconds(), deadline.milliseconds(), deadline.passed) == (0.5, 500, False)

    def test_milliseconds_are_rounded_up(self, clock: list[float]) -> None:
        """A wait of the last fraction is no busy loop of zero-waits."""
        assert Deadline(0.25).milliseconds() == 1
        assert Deadline(1.5).milliseconds() == 2

    def test_it_passes_at_its_point_in_time(self, clock: list[float]) -> None:
        """At that very moment nothing is left."""
        deadline = Deadline(1000)
        clock[0] += 1
        assert (deadline.seconds(), deadline.milliseconds(), deadline.passed) == (0.0, 0, True)

    def test_nothing_is_left_after_it(self, clock: list[float]) -> None:
        """Time that is left is never negative."""
        deadline = Deadline(1000)
        clock[0] += 60
        assert (deadline.seconds(), deadline.milliseconds(), deadline.passed) == (0.0, 0, True)

    def test_a_sooner_one_comes_first(self, clock: list[float]) -> None:
        """Of two limits the nearer counts, from now on."""
        deadline = Deadline(1000)
        assert deadline.sooner(300).milliseconds() == 300
        assert deadline.sooner(5000).milliseconds() == 1000
        clock[0] += 0.75
        assert deadline.sooner(300).milliseconds() == 250
        assert Deadline(None).sooner(300).milliseconds() == 300

    def test_a_deadline_of_none_never_comes(self, clock: list[float]) -> None:
        """None is left, whatever the clock says."""
        deadline = Deadline(None)
        clock[0] += 10**9
        assert (deadline.seconds(), deadline.milliseconds(), deadline.passed) == (None, None, False)
