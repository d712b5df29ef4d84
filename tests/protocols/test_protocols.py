"""WebSocketProtocol and WebSocketProtocolList: what is offered, what is matched, and how an upgrade
is decided.

The rules are those of a native server, with two deliberate differences: token lists in Upgrade and
Connection are read (see ``test_handshake``), and a version other than 13 is answered with 426.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from mormot_ws.core.deflate import DeflateAgreement, PermessageDeflate
from mormot_ws.core.frames import WebSocketFrame, focText
from mormot_ws.core.handshake import UpgradeRequest, upgrade_answer, upgrade_refusal
from mormot_ws.protocols.base import WebSocketProtocol
from mormot_ws.protocols.protocol_list import WebSocketProtocolList

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Sample(WebSocketProtocol):
    """A protocol that can be cloned, and whose decisions a test can set on the original."""

    extensions: str | None = ""
    accepts_uri = True
    seen_uris: list[str]
    seen_extensions: list[Sequence[str]]
    origin: Sample | None = None

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        clone = Sample(self.name, self.uri)
        self._copy_to(clone)
        clone.origin = self
        clone.extensions, clone.accepts_uri = self.extensions, self.accepts_uri
        clone.client_uri = client_uri
        clone.seen_uris = self.seen_uris = []
        clone.seen_extensions = self.seen_extensions = []
        return clone

    client_uri = ""

    def process_handshake(self, extensions: Sequence[str]) -> str | None:
        self.seen_extensions.append(extensions)
        return self.extensions

    def process_handshake_uri(self, uri: str) -> bool:
        self.seen_uris.append(uri)
        return self.accepts_uri


class TwoNames(Sample):
    """Answers to two names, as the binary protocol does."""

    def get_subprotocols(self) -> str:
        return "synopsebin, synopsebinary"

    def set_subprotocol(self, name: str) -> bool:
        self.name = name
        return True

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        return TwoNames(self.name, self.uri)


class ClientOnly(WebSocketProtocol):
    """Cannot serve: its ``clone`` is None."""


def offering(*protocols: WebSocketProtocol) -> WebSocketProtocolList:
    """Return a list that offers *protocols*, in that order."""
    offered = WebSocketProtocolList()
    for protocol in protocols:
        assert offered.add(protocol)
    return offered


def origin_of(protocol: WebSocketProtocol | None) -> WebSocketProtocol | None:
    """Return what *protocol* was cloned from."""
    assert isinstance(protocol, Sample)
    return protocol.origin


def request(names: str | None = "echo", target: str = "/", **headers: str | None) -> UpgradeRequest:
    """Return an upgrade of *target* that asks for *names* (None: no such header); *headers* with
    '_' for '-'.
    """
    given: dict[str, str | None] = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        "sec-websocket-protocol": names,
    }
    given.update({name.replace("_", "-"): value for name, value in headers.items()})
    return UpgradeRequest(
        "GET", target, "1.1", [(name, value) for name, value in given.items() if value is not None]
    )


# ----------------------------------------------------------------------------------------- protocol


class TestWebSocketProtocol:
    def test_a_new_protocol_knows_its_name_and_uri_and_nothing_else(self) -> None:
        """Everything that belongs to a connection is empty."""
        protocol = WebSocketProtocol("echo", "chat")
        assert (protocol.name, protocol.uri) == ("echo", "chat")
        assert (protocol.upgrade_uri, protocol.upgrade_bearer_token, protocol.upgrade_headers) == (
            "",
            "",
            [],
        )
        assert (protocol.remote_ip, protocol.remote_localhost, protocol.connection_id) == (
            "",
            False,
            0,
        )
        assert (protocol.connection_flags, protocol.connection_opaque, protocol.custom_data) == (
            frozenset(),
            None,
            None,
        )
        assert (protocol.last_error, protocol.encryption, protocol.compression) == ("", None, None)
        assert (protocol.frames_in_count, protocol.frames_out_count) == (0, 0)
        assert (protocol.frames_in_bytes, protocol.frames_out_bytes) == (0, 0)
        assert protocol.on_before_incoming_frame is None

    def test_the_uri_defaults_to_any(self) -> None:
        """An empty URI."""
        assert WebSocketProtocol("echo").uri == ""

    @pytest.mark.parametrize("name", ["", "echo", "chat.v2+json", "a'b", "~!#$%&*+-.^_`|"])
    def test_any_token_is_a_name(self, name: str) -> None:
        """Whatever may stand in a header; an empty name asks for nothing."""
        assert WebSocketProtocol(name).name == name

    @pytest.mark.parametrize("char", [*' \t\r\n\0\x7fé€"(),/:;<=>?@[\\]{}'], ids=repr)
    def test_a_character_that_no_token_has_is_a_value_error(self, char: str) -> None:
        """Separators, blanks, controls and what is not ASCII (RFC 6455 §4.1)."""
        with pytest.raises(ValueError, match="must not contain"):
            WebSocketProtocol(f"a{char}b")

    @pytest.mark.parametrize("arguments", [(None,), (b"echo",), ("echo", None), ("echo", b"chat")])
    def test_name_and_uri_are_text(self, arguments: tuple[Any, ...]) -> None:
        """Anything else is a TypeError."""
        with pytest.raises(TypeError):
            WebSocketProtocol(*arguments)

    def test_custom_data_is_what_was_set(self) -> None:
        """The application's own object, itself."""
        protocol = WebSocketProtocol("echo")
        data = object()
        protocol.set_custom_data(data)
        assert protocol.custom_data is data

    def test_it_is_encrypted_when_there_is_an_encryption(self) -> None:
        """``encrypted`` follows ``encryption``."""
        protocol = WebSocketProtocol("echo")
        assert not protocol.encrypted
        protocol.encryption = object()
        assert protocol.encrypted

    def test_a_header_of_the_upgrade_is_found_whatever_its_case(self) -> None:
        """The first of that name; '' when there is none."""
        protocol = WebSocketProtocol("echo")
        protocol.upgrade_headers = [("cookie", "a=1"), ("cookie", "b=2")]
        assert protocol.upgrade_header("Cookie") == "a=1"
        assert protocol.upgrade_header("Origin") == ""

    def test_the_base_serves_no_connection(self) -> None:
        """It has no clone: it is for clients only."""
        assert WebSocketProtocol("echo").clone("") is None

    def test_a_client_asks_for_its_name(self) -> None:
        """``get_subprotocols`` is the name."""
        assert WebSocketProtocol("Echo").get_subprotocols() == "Echo"

    def test_the_other_sides_spelling_is_adopted(self) -> None:
        """The same name in another case is accepted, and becomes the name."""
        protocol = WebSocketProtocol("echo")
        assert protocol.set_subprotocol("ECHO") is True
        assert protocol.name == "ECHO"

    def test_another_name_is_refused_and_changes_nothing(self) -> None:
        """The name stays."""
        protocol = WebSocketProtocol("echo")
        assert protocol.set_subprotocol("echo2") is False
        assert protocol.name == "echo"

    def test_the_hooks_of_the_base_accept_everything(self) -> None:
        """No extension, any URI; and nothing happens in the others."""
        protocol: Any = WebSocketProtocol("echo")
        frame = WebSocketFrame(focText, b"x")
        assert protocol.process_handshake(["permessage-deflate"]) == ""
        assert protocol.process_handshake_uri("any") is True
        assert protocol.frame_is(frame, "x") is False
        hooks = [
            protocol.reset(),
            protocol.after_upgrade(None),
            protocol.process_incoming_frame(None, frame, ""),
            protocol.before_send_frame(frame),
            protocol.after_get_frame(frame),
        ]
        assert hooks == [None] * 5
        assert frame == WebSocketFrame(focText, b"x")

    @pytest.mark.parametrize(
        ("fails_at", "sent", "result"), [(None, 3, True), (1, 2, False), (0, 1, False)]
    )
    def test_several_frames_are_sent_in_order_up_to_a_failure(
        self, fails_at: int | None, sent: int, result: bool
    ) -> None:
        """``send_frames`` stops at the first frame that cannot be sent, and says so."""
        seen: list[WebSocketFrame] = []

        def send_frame(frame: WebSocketFrame) -> bool:
            seen.append(frame)
            return len(seen) - 1 != fails_at

        frames = [WebSocketFrame(focText, str(i)) for i in range(3)]
        process: Any = SimpleNamespace(send_frame=send_frame)
        assert WebSocketProtocol("echo").send_frames(process, frames) is result
        assert seen == frames[:sent]

    @pytest.mark.parametrize(
        ("own", "uri", "matches"),
        [
            ("", "", True),
            ("", "anything", True),
            ("chat", "chat", True),
            ("chat", "CHAT", True),
            ("Chat", "chat", True),
            ("chat", "", False),
            ("chat", "chat/", False),
            ("chat", "cha", False),
            ("chat", "/chat", False),
            ("/chat", "/chat", True),
            ("chat", "cha%74", False),
        ],
    )
    def test_a_uri_is_matched_whole_and_whatever_its_case(
        self, own: str, uri: str, matches: bool
    ) -> None:
        """'' matches any; nothing is decoded, no slash forgiven (wire rules 1.4.3 and 5)."""
        assert WebSocketProtocol("echo", own).matches_uri(uri) is matches

    def test_the_repr_shows_name_uri_and_traffic(self) -> None:
        """What a log line needs; the URI only when there is one."""
        protocol = WebSocketProtocol("echo", "chat")
        protocol.counts.frames_in, protocol.counts.bytes_in = 2, 30
        protocol.counts.frames_out, protocol.counts.bytes_out = 4, 50
        assert repr(protocol) == "<WebSocketProtocol 'echo' uri='chat' in=2/30B out=4/50B>"
        assert "uri" not in repr(Sample("x"))
        assert repr(Sample("x")).startswith("<Sample 'x' ")


# --------------------------------------------------------------------------------------------- list


class TestAdd:
    def test_a_new_list_is_empty(self) -> None:
        """Nothing is offered, nobody is asked."""
        offered = WebSocketProtocolList()
        assert (offered.count, len(offered), offered.on_upgraded) == (0, 0, None)

    def test_a_protocol_is_added(self) -> None:
        """It counts, and the answer is True."""
        offered = WebSocketProtocolList()
        assert offered.add(Sample("echo")) is True
        assert (offered.count, len(offered)) == (1, 1)

    @pytest.mark.parametrize(
        ("name", "uri"), [("echo", "chat"), ("ECHO", "chat"), ("echo", "Chat")]
    )
    def test_the_same_name_and_uri_are_not_added_twice(self, name: str, uri: str) -> None:
        """Whatever their case; the first one stays."""
        first = Sample("echo", "chat")
        offered = offering(first)
        assert offered.add(Sample(name, uri)) is False
        assert offered.count == 1
        assert origin_of(offered.clone_by_name("echo", "chat")) is first

    def test_one_of_name_and_uri_may_be_the_same(self) -> None:
        """Only both together identify a protocol."""
        assert offering(Sample("echo"), Sample("echo", "chat"), Sample("other", "chat")).count == 3

    @pytest.mark.parametrize("method", ["add", "add_once"])
    def test_only_protocols_are_added(self, method: str) -> None:
        """A class, a name or None is a TypeError that names what came."""
        offered = WebSocketProtocolList()
        for wrong, name in (("echo", "str"), (Sample, "type"), (None, "NoneType")):
            with pytest.raises(TypeError, match=name):
                getattr(offered, method)(wrong)
        assert offered.count == 0

    def test_the_repr_shows_what_is_offered(self) -> None:
        """Each protocol of the list."""
        assert repr(offering(Sample("echo"))) == f"<WebSocketProtocolList [{Sample('echo')!r}]>"


class TestAddOnce:
    def test_a_new_protocol_is_added(self) -> None:
        """True, as with ``add``."""
        offered = offering(Sample("echo"))
        assert offered.add_once(Sample("echo", "chat")) is True
        assert offered.count == 2

    def test_a_previous_one_is_replaced_in_its_place(self) -> None:
        """False, and the new one answers from now on, at the same position."""
        new = Sample("ECHO")
        offered = offering(Sample("echo"), Sample("echo", "chat"))
        assert offered.add_once(new) is False
        assert offered.count == 2
        assert origin_of(offered.clone_by_name("echo", "chat")) is new


class TestRemove:
    def test_a_protocol_is_removed_by_name_and_uri(self) -> None:
        """Whatever their case; the others stay."""
        kept = Sample("echo")
        offered = offering(kept, Sample("echo", "chat"))
        assert offered.remove("ECHO", "Chat") is True
        assert offered.count == 1
        assert origin_of(offered.clone_by_name("echo", "chat")) is kept

    def test_the_uri_defaults_to_the_empty_one(self) -> None:
        """``remove(name)`` means the protocol for any URI, and no other."""
        offered = offering(Sample("echo", "chat"), Sample("echo"))
        assert offered.remove("echo") is True
        assert offered.clone_by_uri("chat") is not None

    def test_what_is_not_there_is_not_removed(self) -> None:
        """False, and nothing changes."""
        offered = offering(Sample("echo", "chat"))
        assert offered.remove("echo") is False
        assert offered.remove("other", "chat") is False
        assert offered.count == 1


class TestCloneByName:
    def test_each_connection_gets_its_own_clone(self) -> None:
        """Two calls, two objects, neither of them the one that was added."""
        protocol = Sample("echo")
        offered = offering(protocol)
        one, two = offered.clone_by_name("echo", ""), offered.clone_by_name("echo", "")
        assert origin_of(one) is origin_of(two) is protocol
        assert one is not two

    def test_the_clone_is_made_for_the_clients_uri(self) -> None:
        """``clone`` is told where the client wants to go."""
        clone: Any = offering(Sample("echo")).clone_by_name("echo", "chat")
        assert clone.client_uri == "chat"

    def test_the_clone_has_the_clients_spelling(self) -> None:
        """The name is matched in any case, and echoed as it was asked for; the original keeps its
        own.
        """
        protocol = Sample("echo")
        clone = offering(protocol).clone_by_name("EcHo", "")
        assert clone is not None
        assert (clone.name, protocol.name) == ("EcHo", "echo")

    def test_the_clone_has_the_applications_data(self) -> None:
        """Custom data and the first callback go over to every connection."""

        def before(process: Any, frame: WebSocketFrame) -> bool:
            return False

        protocol = Sample("echo")
        protocol.set_custom_data("data")
        protocol.on_before_incoming_frame = before
        clone = offering(protocol).clone_by_name("echo", "")
        assert clone is not None
        assert (clone.custom_data, clone.on_before_incoming_frame) == ("data", before)

    def test_the_first_that_matches_is_taken(self) -> None:
        """Order of registration decides, also between '' and an exact URI."""
        any_uri, exact = Sample("echo"), Sample("echo", "chat")
        assert origin_of(offering(any_uri, exact).clone_by_name("echo", "chat")) is any_uri
        assert origin_of(offering(exact, any_uri).clone_by_name("echo", "chat")) is exact

    def test_a_protocol_for_another_uri_is_passed_over(self) -> None:
        """Name and URI have to match."""
        offered = offering(Sample("echo", "chat"))
        assert offered.clone_by_name("echo", "other") is None
        assert offered.clone_by_name("echo", "") is None
        assert offered.clone_by_name("other", "chat") is None

    @pytest.mark.parametrize("name", ["synopsebin", "SynopseBinary"])
    def test_a_protocol_may_answer_to_several_names(self, name: str) -> None:
        """Each of ``get_subprotocols`` matches, and the clone is called as asked."""
        clone = offering(TwoNames("synopsebin")).clone_by_name(name, "")
        assert clone is not None
        assert clone.name == name

    def test_the_list_of_names_is_not_a_name(self) -> None:
        """Nor is a part of one."""
        offered = offering(TwoNames("synopsebin"))
        assert offered.clone_by_name("synopsebin, synopsebinary", "") is None
        assert offered.clone_by_name("synopse", "") is None

    def test_a_protocol_for_clients_only_is_passed_over(self) -> None:
        """One behind it with the same name may serve."""
        served = Sample("echo")
        assert (
            origin_of(offering(ClientOnly("echo", "chat"), served).clone_by_name("echo", "chat"))
            is served
        )
        assert offering(ClientOnly("echo")).clone_by_name("echo", "") is None


class TestCloneByUri:
    def test_the_uri_has_to_be_equal_whatever_its_case(self) -> None:
        """The protocol registered with that URI, for that URI, under its own name."""
        protocol = Sample("echo", "Chat")
        clone: Any = offering(Sample("other", "x"), protocol).clone_by_uri("chaT")
        assert clone.origin is protocol
        assert (clone.name, clone.client_uri) == ("echo", "chaT")

    @pytest.mark.parametrize("uri", ["", "chat/", "cha", "/chat", "other"])
    def test_another_uri_matches_nothing(self, uri: str) -> None:
        """No prefix, no slash, and no empty URI (wire rule 1.4.4)."""
        assert offering(Sample("echo", "chat")).clone_by_uri(uri) is None

    @pytest.mark.parametrize("uri", ["", "chat"])
    def test_a_protocol_for_any_uri_cannot_be_reached_without_its_name(self, uri: str) -> None:
        """An empty registered URI never matches here (wire rule 1.4.4)."""
        assert offering(Sample("echo")).clone_by_uri(uri) is None

    def test_a_protocol_for_clients_only_is_passed_over(self) -> None:
        """The next one with that URI may serve."""
        served = Sample("echo", "chat")
        assert (
            origin_of(offering(ClientOnly("client", "chat"), served).clone_by_uri("chat")) is served
        )

    def test_the_first_that_matches_is_taken(self) -> None:
        """Order of registration decides between two names on one URI."""
        first = Sample("one", "chat")
        assert origin_of(offering(first, Sample("two", "chat")).clone_by_uri("chat")) is first


class TestServesUri:
    def test_it_tells_whether_some_protocol_would(self) -> None:
        """Exact URIs only, as long as no protocol is for any."""
        offered = offering(Sample("a", "chat"), Sample("b", "news"))
        assert offered.serves_uri("NEWS")
        assert not offered.serves_uri("other")
        offered.add(Sample("c"))
        assert offered.serves_uri("other")

    def test_an_empty_list_serves_nothing(self) -> None:
        """Not even the root."""
        assert not WebSocketProtocolList().serves_uri("")


# ----------------------------------------------------------------------------------- server_upgrade


def accepted(
    offered: WebSocketProtocolList, asked: UpgradeRequest, **options: Any
) -> tuple[Sample, bytes]:
    """Return the connection's protocol and the answer of an upgrade that has to succeed."""
    status, protocol, answer = offered.server_upgrade(asked, "10.0.0.7", 42, **options)
    assert status == 101
    assert isinstance(protocol, Sample)
    return protocol, answer


def refusal(offered: WebSocketProtocolList, asked: UpgradeRequest, **options: Any) -> int:
    """Return the status of an upgrade that has to be refused, in the form of a native server; a
    line for people may follow.
    """
    status, protocol, answer = offered.server_upgrade(asked, "10.0.0.7", 42, **options)
    assert protocol is None
    assert answer == upgrade_refusal(status, answer.partition(b"\r\n\r\n")[2].decode().strip())
    return status


class TestServerUpgrade:
    def test_an_upgrade_by_name_is_answered_with_the_clients_spelling(self) -> None:
        """101, the connection's number, and the name as it was asked for."""
        protocol, answer = accepted(offering(Sample("echo")), request("ECHO"))
        assert answer == upgrade_answer(KEY, 42, "ECHO")
        assert protocol.name == "ECHO"

    def test_an_upgrade_by_uri_is_answered_without_a_name(self) -> None:
        """The client asked for none (wire rule 1.2)."""
        protocol, answer = accepted(offering(Sample("echo", "chat")), request(None, "/chat"))
        assert answer == upgrade_answer(KEY, 42, None)
        assert protocol.name == "echo"

    def test_the_connections_protocol_knows_its_upgrade(self) -> None:
        """URI with query, bearer token, headers, address and number are on the clone, not on the
        original.
        """
        offered_one = Sample("echo")
        asked = request("echo", "/a/b?c=d", authorization="Bearer tok", cookie="x=1")
        protocol, _ = accepted(offering(offered_one), asked)
        assert (protocol.upgrade_uri, protocol.upgrade_bearer_token) == ("a/b?c=d", "tok")
        assert (protocol.remote_ip, protocol.connection_id) == ("10.0.0.7", 42)
        assert protocol.upgrade_header("Cookie") == "x=1"
        assert (
            offered_one.upgrade_uri,
            offered_one.connection_id,
            offered_one.upgrade_headers,
        ) == ("", 0, [])

    @pytest.mark.parametrize(
        ("remote_ip", "local"),
        [
            ("", True),
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", False),
            ("10.0.0.1", False),
            ("128.127.0.1", False),
            ("::2", False),
        ],
    )
    def test_a_peer_on_this_machine_is_recognised(self, remote_ip: str, local: bool) -> None:
        """The loopback addresses, and an unknown one."""
        _, protocol, _ = offering(Sample("echo")).server_upgrade(request(), remote_ip, 1)
        assert protocol is not None
        assert (protocol.remote_ip, protocol.remote_localhost) == (remote_ip, local)

    def test_the_names_are_tried_in_the_clients_order(self) -> None:
        """The first name that some protocol has wins, wherever that protocol stands in the list
        (wire rule 1.4.3).
        """
        offered = offering(Sample("one"), Sample("two"))
        assert accepted(offered, request("none, two, one"))[0].name == "two"
        assert accepted(offered, request("one, two"))[0].name == "one"

    def test_a_name_that_does_not_serve_the_uri_is_passed_over(self) -> None:
        """The next name of the client is tried."""
        offered = offering(Sample("one", "elsewhere"), Sample("two"))
        assert accepted(offered, request("one, two", "/chat"))[0].name == "two"

    @pytest.mark.parametrize("target", ["/chat", "/CHAT", "chat", "/chat?x=1", " /chat "])
    def test_the_uri_is_matched_without_slash_and_query(self, target: str) -> None:
        """One leading slash and the query do not count, by name and by URI (wire rules 1.4.1 and
        2).
        """
        offered = offering(Sample("echo", "chat"))
        assert accepted(offered, request("echo", target))
        assert accepted(offered, request(None, target))

    @pytest.mark.parametrize("target", ["/", "//chat", "/chat/", "/cha%74", "/chat/x", "/?chat"])
    @pytest.mark.parametrize("names", ["echo", None])
    def test_another_uri_is_400(self, names: str | None, target: str) -> None:
        """Nothing is decoded or forgiven (wire rule 1.4.5)."""
        assert refusal(offering(Sample("echo", "chat")), request(names, target)) == 400

    def test_a_protocol_may_be_registered_with_its_slash(self) -> None:
        """Clients that ask for ``/chat`` get it, and native ones that are given ``/chat`` and ask
        for ``//chat`` (wire rule 1.4.5).
        """
        offered = offering(Sample("echo", "/chat"))
        assert accepted(offered, request("echo", "//chat"))
        assert accepted(offered, request("echo", "/chat"))
        assert accepted(offered, request(None, "/chat"))
        assert refusal(offered, request("echo", "/chat/")) == 400
        assert refusal(offered, request("echo", "///chat")) == 400

    def test_a_slash_alone_is_the_root(self) -> None:
        """And not any URI."""
        offered = offering(Sample("echo", "/"))
        assert accepted(offered, request("echo", "/"))
        assert accepted(offered, request(None, "/?a=1"))
        assert refusal(offered, request("echo", "/chat")) == 400

    def test_an_unknown_name_is_400_and_does_not_fall_back_to_the_uri(self) -> None:
        """A client that names protocols wants one of them (wire rule 1.4.3)."""
        assert refusal(offering(Sample("echo", "chat")), request("other", "/chat")) == 400

    def test_an_empty_name_header_is_400(self) -> None:
        """The header is there, and nothing in it is offered."""
        assert refusal(offering(Sample("echo", "chat")), request("", "/chat")) == 400

    def test_without_a_name_a_protocol_for_any_uri_is_not_reached(self) -> None:
        """Wire rule 1.4.4."""
        offered = offering(Sample("echo"))
        assert refusal(offered, request(None, "/")) == 400
        assert refusal(offered, request(None, "/chat")) == 400

    def test_the_lines_of_a_repeated_name_header_are_one_list(self) -> None:
        """As RFC 6455 §11.3.4 says; a native server looks at the first line only."""
        asked = request("none")
        asked = UpgradeRequest(
            "GET", "/", "1.1", [*asked.headers, ("sec-websocket-protocol", "echo")]
        )
        status, protocol, _ = offering(Sample("echo")).server_upgrade(asked, "", 1)
        assert status == 101
        assert protocol is not None
        assert protocol.name == "echo"

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"sec_websocket_version": "12"}, 426),
            ({"sec_websocket_version": "14"}, 426),
            ({"sec_websocket_version": None}, 400),
            ({"sec_websocket_key": "short"}, 400),
            ({"sec_websocket_key": None}, 400),
        ],
        ids=str,
    )
    def test_a_malformed_request_is_refused_before_a_clone_is_made(
        self, headers: dict[str, str | None], status: int
    ) -> None:
        """Its own fault comes first: 426 for the version, 400 for the rest."""

        class NeverCloned(WebSocketProtocol):
            def clone(self, client_uri: str) -> WebSocketProtocol | None:
                raise AssertionError("no clone is wanted")

        assert refusal(offering(NeverCloned("echo")), request("echo", **headers)) == status

    def test_a_protocol_for_any_uri_may_refuse_it_with_404(self) -> None:
        """``process_handshake_uri`` sees the URI with its query."""
        protocol = Sample("echo")
        protocol.accepts_uri = False
        assert refusal(offering(protocol), request("echo", "/secret?x=1")) == 404
        assert protocol.seen_uris == ["secret?x=1"]

    def test_a_protocol_with_a_uri_is_not_asked_about_it(self) -> None:
        """It has matched already."""
        protocol = Sample("echo", "chat")
        protocol.accepts_uri = False
        assert accepted(offering(protocol), request("echo", "/chat"))
        assert protocol.seen_uris == []

    def test_a_refused_extension_handshake_is_406(self) -> None:
        """``process_handshake`` sees the extensions that were asked for, and None refuses."""
        protocol = Sample("echo")
        protocol.extensions = None
        asked = request("echo", sec_websocket_extensions="a; b=1, c")
        assert refusal(offering(protocol), asked) == 406
        assert protocol.seen_extensions == [["a; b=1", "c"]]

    def test_the_protocols_extensions_are_answered(self) -> None:
        """What ``process_handshake`` returns is in the answer."""
        protocol = Sample("echo")
        protocol.extensions = "x-ours"
        _, answer = accepted(offering(protocol), request())
        assert answer == upgrade_answer(KEY, 42, "echo", "x-ours")

    def test_an_extension_that_nobody_knows_is_harmless(self) -> None:
        """Browsers ask for permessage-deflate: the answer does not mention it (wire rules 1.3,
        last line).
        """
        asked = request(
            "echo", sec_websocket_extensions="permessage-deflate; client_max_window_bits"
        )
        protocol, answer = accepted(offering(Sample("echo")), asked)
        assert b"Extensions" not in answer
        assert protocol.compression is None


class TestOnUpgraded:
    def test_200_goes_on(self) -> None:
        """It is asked with the connection's own protocol, which knows its upgrade by then."""
        seen: list[tuple[WebSocketProtocol, int, str]] = []

        def on_upgraded(protocol: WebSocketProtocol) -> int:
            seen.append((protocol, protocol.connection_id, protocol.upgrade_uri))
            return 200

        offered = offering(Sample("echo"))
        offered.on_upgraded = on_upgraded
        protocol, _ = accepted(offered, request("echo", "/a"))
        assert seen == [(protocol, 42, "a")]

    @pytest.mark.parametrize("status", [401, 403, 404, 500])
    def test_any_other_status_refuses(self, status: int) -> None:
        """That status is the answer."""
        offered = offering(Sample("echo"))
        offered.on_upgraded = lambda protocol: status
        assert refusal(offered, request()) == status

    def test_it_is_asked_last(self) -> None:
        """Not for what is refused anyway."""
        offered = offering(protocol := Sample("echo"))
        calls: list[WebSocketProtocol] = []

        def on_upgraded(asked: WebSocketProtocol) -> int:
            calls.append(asked)
            return 200

        offered.on_upgraded = on_upgraded
        refusal(offered, request("other"))
        refusal(offered, request(sec_websocket_version="8"))
        protocol.accepts_uri = False
        refusal(offered, request())
        protocol.accepts_uri, protocol.extensions = True, None
        refusal(offered, request())
        assert calls == []

    @pytest.mark.parametrize("result", [None, 101, 0], ids=str)
    def test_a_result_that_refuses_nothing_is_no_status_line(self, result: Any) -> None:
        """A forgotten return must not give an answer that is no HTTP, or one that looks like
        success.
        """
        offered = offering(Sample("echo"))
        offered.on_upgraded = lambda protocol: result
        status, protocol, answer = offered.server_upgrade(request(), "", 1)
        assert protocol is None
        assert 400 <= status <= 599
        assert answer == upgrade_refusal(status)


class TestDeflate:
    OFFER = "permessage-deflate"

    def test_an_offer_is_accepted_when_it_is_wanted(self) -> None:
        """The agreement is on the protocol, and in the answer."""
        asked = request("echo", sec_websocket_extensions=self.OFFER)
        protocol, answer = accepted(offering(Sample("echo")), asked, deflate=PermessageDeflate())
        assert protocol.compression == DeflateAgreement()
        assert answer == upgrade_answer(KEY, 42, "echo", "permessage-deflate")

    def test_it_stands_behind_the_protocols_own_extension(self) -> None:
        """Both are answered."""
        offered_one = Sample("echo")
        offered_one.extensions = "x-ours"
        asked = request("echo", sec_websocket_extensions=self.OFFER)
        _, answer = accepted(offering(offered_one), asked, deflate=PermessageDeflate())
        assert answer == upgrade_answer(KEY, 42, "echo", "x-ours, permessage-deflate")

    @pytest.mark.parametrize("extensions", [None, "x-other", "permessage-deflate; unknown=1"])
    def test_without_an_offer_that_can_be_met_there_is_none(self, extensions: str | None) -> None:
        """The upgrade goes on without compression."""
        asked = request("echo", sec_websocket_extensions=extensions)
        protocol, answer = accepted(offering(Sample("echo")), asked, deflate=PermessageDeflate())
        assert protocol.compression is None
        assert b"Extensions" not in answer

    def test_encrypted_frames_are_not_compressed(self) -> None:
        """Compressing what is encrypted would be a waste."""

        class Encrypted(Sample):
            @property
            def encrypted(self) -> bool:
                return True

            def clone(self, client_uri: str) -> WebSocketProtocol | None:
                clone = Encrypted(self.name, self.uri)
                clone.seen_uris, clone.seen_extensions = [], []
                return clone

        asked = request("echo", sec_websocket_extensions=self.OFFER)
        protocol, answer = accepted(offering(Encrypted("echo")), asked, deflate=PermessageDeflate())
        assert protocol.compression is None
        assert b"Extensions" not in answer


class TestAllowedOrigins:
    def test_another_origin_is_403(self) -> None:
        """Before anything else is looked at."""
        offered = offering(Sample("echo"))
        asked = request("echo", origin="https://evil.example", sec_websocket_version="8")
        assert refusal(offered, asked, allowed_origins={"https://good.example"}) == 403

    def test_an_allowed_origin_and_none_at_all_are_let_through(self) -> None:
        """A browser's page that may, and a client that is no browser."""
        offered = offering(Sample("echo"))
        allowed = {"https://good.example"}
        assert accepted(
            offered, request("echo", origin="https://good.example"), allowed_origins=allowed
        )
        assert accepted(offered, request("echo"), allowed_origins=allowed)
