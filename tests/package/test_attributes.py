"""Misspelt attributes and callbacks that cannot be called are refused where they are set; what a
subclass of the application has reaches the connections of a server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support import (
    HOST,
    Recorder,
    active,
    chat,
    connect,
    echo_server,
    process_of,
    text,
    wait_for,
)

import mormot_ws
from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketServer,
    focText,
)


async def coroutine(process: Any, frame: Any) -> None:
    """Return a coroutine that nobody awaits."""


async def stream(process: Any, frame: Any) -> AsyncIterator[int]:
    """Return an asynchronous generator."""
    yield 1


def generator(process: Any, frame: Any) -> Iterator[int]:
    """Return a generator that nobody iterates."""
    yield 1


class Own(WebSocketProtocolChat):
    """A protocol of an application, with an attribute of its own."""

    def __init__(self, name: str, uri: str = "") -> None:
        super().__init__(name, uri)
        self.room = "lobby"


@pytest.fixture
def client() -> Iterator[HttpClientWebSockets]:
    """A client without a connection."""
    with HttpClientWebSockets(HOST, 1, connect=False) as client:
        yield client


class TestNames:
    """What a program writes on the left of an assignment."""

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("on_incomming_frame", "on_incoming_frame"),
            ("OnIncomingFrame", "on_incoming_frame"),
            ("onincomingframe", "on_incoming_frame"),
            ("OnBeforeIncomingFrame", "on_before_incoming_frame"),
            ("ConnectionOpaque", "connection_opaque"),
            ("conection_opaque", "connection_opaque"),
        ],
    )
    def test_a_misspelt_name_is_refused_with_the_right_one(self, name: str, meant: str) -> None:
        with pytest.raises(AttributeError, match=f"no attribute {name!r}: did you mean '{meant}'"):
            setattr(chat(), name, print)

    def test_a_name_like_no_other_is_refused_with_a_way_to_keep_own_data(self) -> None:
        with pytest.raises(AttributeError, match="a subclass may have attributes of its own"):
            chat().xyzzy = 1  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("name", "cure"),
        [
            ("on_reconnect", r"client\.websockets\.on_reconnect"),
            ("on_incoming_frame", "WebSocketProtocolChat"),
            ("on_message", "WebSocketProtocolChat"),
            ("on_close", "on_websockets_closed"),
            ("on_error", "on_gave_up"),
        ],
    )
    def test_what_is_elsewhere_is_named(
        self, client: HttpClientWebSockets, name: str, cure: str
    ) -> None:
        with pytest.raises(AttributeError, match=cure):
            setattr(client, name, print)

    def test_a_method_is_not_overwritten_by_a_value(self, client: HttpClientWebSockets) -> None:
        with pytest.raises(AttributeError, match=r"auto_reconnect is a method: call it"):
            client.auto_reconnect = True  # type: ignore[assignment, method-assign]
        assert callable(client.auto_reconnect)

    def test_a_method_may_be_replaced_by_a_function(self) -> None:
        protocol = chat()
        protocol.process_handshake_uri = lambda uri: False  # type: ignore[method-assign]
        assert protocol.process_handshake_uri("") is False

    def test_a_read_only_property_stays_one(self) -> None:
        with pytest.raises(AttributeError):
            chat().frames_in_count = 7  # type: ignore[misc]

    @pytest.mark.parametrize("kind", [WebSocketProtocolChat, Own])
    def test_names_with_an_underscore_are_free(self, kind: type[WebSocketProtocol]) -> None:
        protocol: Any = kind("echo")
        protocol._mine = 7
        assert protocol._mine == 7

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("Free", "did you mean 'free'"),
            ("WebSocketsUpgrade", "did you mean 'websockets_upgrade'"),
            ("reopn", "did you mean 'reopen'"),
            ("send", r"websockets\.send_frame"),
        ],
    )
    def test_what_is_read_and_is_not_there_is_named_too(
        self, client: HttpClientWebSockets, name: str, said: str
    ) -> None:
        with pytest.raises(AttributeError, match=f"no attribute '{name}': .*{said}"):
            getattr(client, name)
        assert not hasattr(client, name)

    def test_a_property_that_fails_says_why_itself(self) -> None:
        class Mine(WebSocketProtocolChat):
            @property
            def room(self) -> str:
                return self.missing.name  # type: ignore[attr-defined, no-any-return]

        with pytest.raises(AttributeError, match="no attribute 'missing'"):
            _ = Mine("echo").room

    def test_refusing_a_name_does_not_make_it_known(self) -> None:
        for _ in range(2):
            with pytest.raises(AttributeError):
                chat().on_incomming_frame = print  # type: ignore[attr-defined]


class TestSubclasses:
    """A class of the application has attributes of its own; its typing errors are found too."""

    def test_it_has_attributes_of_its_own(self) -> None:
        own: Any = Own("echo")
        own.members = ["a"]
        assert (own.room, own.members) == ("lobby", ["a"])

    def test_an_event_of_its_own_is_allowed(self) -> None:
        own: Any = Own("echo")
        own.on_joined = print
        assert own.on_joined is print

    @pytest.mark.parametrize("name", ["on_incomming_frame", "OnIncomingFrame"])
    def test_a_misspelt_callback_is_refused(self, name: str) -> None:
        with pytest.raises(AttributeError, match="did you mean 'on_incoming_frame'"):
            setattr(Own("echo"), name, print)

    def test_its_names_are_not_those_of_the_class_above(self) -> None:
        Own("echo")
        with pytest.raises(AttributeError):
            chat().room = "x"  # type: ignore[attr-defined]


class TestCallbacks:
    """What a program writes on the right."""

    @pytest.mark.parametrize(
        ("function", "said"),
        [
            (coroutine, "with def, not async def"),
            (stream, "with def, not async def"),
            (generator, "has a yield"),
            ("echo", "on_incoming_frame must be a function, not str"),
            (7, "on_incoming_frame must be a function, not int"),
        ],
    )
    def test_what_would_not_run_is_refused(self, function: Any, said: str) -> None:
        with pytest.raises(TypeError, match=said):
            WebSocketProtocolChat("echo", "", function)
        protocol = chat()
        with pytest.raises(TypeError, match=said):
            protocol.on_incoming_frame = function
        assert protocol.on_incoming_frame is None

    @pytest.mark.parametrize("name", ["on_websockets_closed", "on_gave_up", "on_ended"])
    def test_the_events_of_a_client_are_checked(
        self, client: HttpClientWebSockets, name: str
    ) -> None:
        with pytest.raises(TypeError, match=f"{name} must be a function, not bool"):
            setattr(client, name, True)
        setattr(client, name, None)

    @pytest.mark.parametrize(
        "name",
        ["on_request", "on_websocket_upgraded", "on_websocket_connect", "on_websocket_disconnect"],
    )
    def test_the_events_of_a_server_are_checked(self, name: str) -> None:
        with echo_server() as server, pytest.raises(TypeError, match="with def, not async def"):
            setattr(server, name, coroutine)

    @pytest.mark.parametrize("name", ["on_start", "on_stop", "prepare"])
    def test_what_a_server_is_given_is_checked(self, name: str) -> None:
        with pytest.raises(TypeError, match=f"{name} must be a function, not str"):
            WebSocketServer(f"{HOST}:0", **{name: "my server"})  # type: ignore[arg-type]


def test_settings_are_not_a_dictionary() -> None:
    wrong: Any = {"heartbeat_delay": 5_000}
    for make in (
        lambda: WebSocketServer(f"{HOST}:0", settings=wrong),
        lambda: HttpClientWebSockets(HOST, 1, settings=wrong, connect=False),
        lambda: mormot_ws.Server(f"{HOST}:0", settings=wrong),
        lambda: mormot_ws.connect(f"ws://{HOST}:1/", settings=wrong),
    ):
        with pytest.raises(TypeError, match=r"settings must be WebSocketProcessSettings.*not dict"):
            make()


class TestCallbacksAsMethods:
    """As a Pascal programmer overrides a method."""

    def test_one_of_a_protocol_is_heard_on_both_sides(self) -> None:
        server_side, client_side = Recorder(), Recorder()

        class ServerChat(WebSocketProtocolChat):
            def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
                server_side.frame(process, frame)
                if frame.opcode is focText:
                    process.send_frame(frame)

        class ClientChat(WebSocketProtocolChat):
            def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
                client_side.frame(process, frame)

        with echo_server() as server:
            server.websocket_protocols.add_once(ServerChat("echo"))
            with HttpClientWebSockets(HOST, server.port) as client:
                assert client.websockets_upgrade("", protocol=ClientChat("echo")) == ""
                process_of(client).send_frame(text("hi"))
                wait_for(lambda: "hi" in client_side.texts())
        for side in (server_side, client_side):
            assert side.names == ["focContinuation", "focText", "focConnectionClose"]

    def test_one_of_a_client_is_heard(self) -> None:
        closed: list[object] = []

        class Client(HttpClientWebSockets):
            def on_websockets_closed(self, client: HttpClientWebSockets) -> None:
                closed.append(client)

        with echo_server() as server, Client(HOST, server.port) as client:
            assert client.websockets_upgrade("", protocol=chat()) == ""
            active(server, process_of(client).connection_id).shutdown()
            wait_for(lambda: closed == [client])

    def test_that_of_upgrades_is_heard(self) -> None:
        class Server(WebSocketServer):
            def on_websocket_upgraded(self, protocol: WebSocketProtocol) -> int:
                return 200 if protocol.upgrade_header("x-token") == "one" else 403

        with Server(f"{HOST}:0") as server:
            server.websocket_protocols.add(chat())
            with HttpClientWebSockets(HOST, server.port) as client:
                assert "403" in client.websockets_upgrade("", protocol=chat())
                assert client.websockets_upgrade("", protocol=chat(), headers="X-Token: one") == ""

    @pytest.mark.parametrize("name", ["on_incomming_frame", "on_incoming_frames"])
    def test_a_misspelt_one_is_refused_when_an_object_is_made(self, name: str) -> None:
        kind: Any = type("Mine", (WebSocketProtocolChat,), {name: lambda self, process, frame: 0})
        for _ in range(2):
            with pytest.raises(
                AttributeError, match=f"method '{name}', which is never called: .*'on_incoming_fra"
            ):
                kind("echo")

    @pytest.mark.parametrize("name", ["OnIncomingFrame", "onIncomingFrame"])
    def test_the_pascal_spelling_is_logged(
        self, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        kind: Any = type("Mine", (WebSocketProtocolChat,), {name: lambda self, process, frame: 0})
        # may still set the callback to it
        protocol = kind("echo")
        protocol.on_incoming_frame = getattr(protocol, name)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert record.getMessage() == (
            f"Mine has a method {name!r}: it is called only if it is named 'on_incoming_frame', or"
            " if on_incoming_frame is set to it"
        )

    def test_a_method_of_another_name_that_is_given_as_the_callback_is_allowed(self) -> None:
        class Mine(WebSocketProtocolChat):
            def __init__(self) -> None:
                super().__init__("echo", "", self.OnIncomingFrame)

            def OnIncomingFrame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
                pass

        assert Mine().on_incoming_frame is not None

    def test_one_of_a_server_is_heard(self) -> None:
        connected: list[object] = []

        class Server(WebSocketServer):
            def on_websocket_connect(self, process: WebSocketProcess) -> None:
                connected.append(process)

        with Server(f"{HOST}:0") as server:
            server.websocket_protocols.add(chat())
            with connect(server.port):
                wait_for(lambda: len(connected) == 1)


def _clone(protocol: WebSocketProtocol) -> Any:
    """Return what a server makes of *protocol* for one connection."""
    with WebSocketServer(f"{HOST}:0") as server:
        assert server.websocket_protocols.add(protocol)
        return server.websocket_protocols.clone_by_name(protocol.name, "")


class TestClones:
    """A server clones its protocols for each connection."""

    def test_a_clone_has_what_was_given_after_construction(self) -> None:
        own: Any = Own("echo")
        own.room, own.store, own.on_incoming_frame = "kitchen", {"a": 1}, print
        clone = _clone(own)
        assert clone is not own
        assert (type(clone), clone.room, clone.on_incoming_frame) == (Own, "kitchen", print)
        assert clone.store is own.store

    def test_a_clone_has_its_own_of_what_the_constructor_makes(self) -> None:
        class Members(WebSocketProtocolChat):
            def __init__(self, name: str, uri: str = "") -> None:
                super().__init__(name, uri)
                self.members: list[str] = []

        protocol = Members("echo")
        protocol.members.append("a")
        assert _clone(protocol).members == []

    def test_a_constructor_without_arguments_will_do(self) -> None:
        class Fixed(WebSocketProtocolChat):
            def __init__(self) -> None:
                super().__init__("echo", "", print)

        clone = _clone(Fixed())
        assert (type(clone), clone.name, clone.on_incoming_frame) == (Fixed, "echo", print)

    def test_another_constructor_is_refused_with_the_cure(self) -> None:
        class Needs(WebSocketProtocolChat):
            def __init__(self, store: object) -> None:
                super().__init__("echo")
                self.store = store

        with WebSocketServer(f"{HOST}:0") as server:
            with pytest.raises(TypeError, match=r"override clone\(self, client_uri\)"):
                server.websocket_protocols.add(Needs({}))
            assert server.websocket_protocols.count == 0

    def test_an_own_clone_is_called(self) -> None:
        class Needs(WebSocketProtocolChat):
            def __init__(self, store: object) -> None:
                super().__init__("echo")
                self.store = store

            def clone(self, client_uri: str) -> WebSocketProtocol | None:
                return Needs(self.store)

        store = object()
        assert _clone(Needs(store)).store is store


class TestMessages:
    """What is sent is a frame; and what to make of a text is said."""

    SAID = (
        "only a WebSocketFrame can be sent, not str: "
        r"create one with WebSocketFrame\(focText, text\)"
    )

    def test_a_text_is_not_a_frame(self) -> None:
        with echo_server() as server, connect(server.port) as client:
            process: Any = process_of(client)
            for send in (
                server.websocket_broadcast,
                process.send_frame,
                process.send_frame_async,
                lambda hi: process.protocol.send_frame(process, hi),
            ):
                assert callable(send)
                with pytest.raises(TypeError, match=self.SAID):
                    send("hi")

    def test_a_client_is_not_a_connection(self) -> None:
        with echo_server() as server, connect(server.port) as client:
            process: Any = process_of(client)
            with pytest.raises(TypeError, match=r"of a client it is client\.websockets"):
                process.protocol.send_frame(client, text("hi"))

    def test_the_payload_of_a_frame_is_converted_like_the_constructors(self) -> None:
        frame = WebSocketFrame(focText, "x")
        frame.payload = "größer"  # type: ignore[assignment]
        assert frame.payload == "größer".encode()
        with pytest.raises(TypeError):
            frame.payload = 7  # type: ignore[assignment]

    def test_a_header_after_the_protocol_is_sent(self) -> None:
        with echo_server() as server:
            seen: list[str] = []

            def upgraded(protocol: WebSocketProtocol) -> int:
                seen.append(protocol.upgrade_header("x-token"))
                return 200

            server.on_websocket_upgraded = upgraded
            client = HttpClientWebSockets.websockets_connect(
                f"ws://{HOST}:{server.port}/", chat(), "X-Token: one"
            )
            assert client is not None
            client.free()
        assert seen == ["one"]


def test_an_upgrade_in_on_reconnect_without_reconnect_is_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each attempt says so: it is lost, and the connection never comes back."""
    texts: list[str] = []
    with echo_server() as server, connect(server.port) as client:
        process = process_of(client)

        def on_reconnect(process: WebSocketProcess | None) -> str:
            if process is None:
                return "Retry"
            texts.append(client.websockets_upgrade("", protocol=process.protocol))
            return texts[-1]

        process.on_reconnect = on_reconnect
        with caplog.at_level(logging.ERROR, "mormot_ws"):
            active(server, process.connection_id).abort("lost")
            wait_for(lambda: len(texts) >= 2)
        client.free()
    said = [r for r in caplog.records if "without reconnect=True" in r.getMessage()]
    assert texts[0] == "Already upgraded to WebSockets on this URI"
    assert len(said) >= 2
    assert {record.levelname for record in said} == {"ERROR"}


def _generator(self: object, process: object, frame: object) -> object:
    yield


async def _coroutine(self: object, process: object, frame: object) -> None: ...


@pytest.mark.parametrize("method", [_generator, _coroutine], ids=["a yield", "async def"])
def test_a_method_that_would_not_run_as_a_callback_is_refused(method: object) -> None:
    """Its messages would be lost without a word."""
    kind = type("Kind", (WebSocketProtocolChat,), {"on_incoming_frame": method})
    with pytest.raises(TypeError, match="on_incoming_frame is called"):
        kind("chat")
