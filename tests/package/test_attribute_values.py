"""What an attribute cannot be is refused where it is set: nothing breaks later, in another thread,
where nobody could say who was wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import getattr_static
from typing import Any

import pytest
from support import HOST, chat, connect, echo_server, process_of, wait_for

import mormot_ws
from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcessSettings,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketServer,
    focBinary,
    focText,
    fopAlreadyCompressed,
)
from mormot_ws.elsewhere import Elsewhere


class Other:
    """What no attribute can be."""


def attributes(thing: object) -> list[str]:
    """Return the public attributes of *thing* that can be set, except callbacks."""
    found = []
    for name in dir(thing):
        if isinstance(getattr_static(type(thing), name, None), Elsewhere):
            # a hint, not an attribute
            continue
        known = getattr(type(thing), name, None)
        if name.startswith(("_", "on_")) or callable(known):
            continue
        if isinstance(known, property) and known.fset is None:
            continue
        found.append(name)
    return found


#: those that may be anything: data of the application, and what a protocol keeps for itself
ANYTHING = {"connection_opaque", "record_data", "encryption", "exchange", "user", "server"}
#: what the package has read of a request, and what it says of one that was sent: only the handler
#: that changes it sees that
READ = {
    "auth_bearer",
    "connection_id",
    "in_content",
    "in_content_type",
    "in_headers",
    "method",
    "out_error",
    "out_timed_out",
    "remote_ip",
    "url",
}

MADE: dict[str, Callable[[], object]] = {
    "ExponentialBackoff": mormot_ws.ExponentialBackoff,
    "LinearBackoff": mormot_ws.LinearBackoff,
    "StopOn": mormot_ws.StopOn,
    "HttpServerRequest": mormot_ws.HttpServerRequest,
    "WebSocketFrame": lambda: WebSocketFrame(focText),
    "WebSocketFrameList": mormot_ws.WebSocketFrameList,
    "WebSocketProcessSettings": WebSocketProcessSettings,
    "WebSocketProtocol": lambda: WebSocketProtocol("x"),
    "WebSocketProtocolBinary": mormot_ws.WebSocketProtocolBinary,
    "WebSocketProtocolChat": chat,
    "WebSocketProtocolJson": mormot_ws.WebSocketProtocolJson,
    "WebSocketProtocolUri": lambda: mormot_ws.WebSocketProtocolUri("x", "ws://a.example/x", 1),
}


def refuses_wrong_types(thing: object) -> None:
    """Fail for an attribute of *thing* that can be anything."""
    free = ANYTHING | (READ if isinstance(thing, mormot_ws.HttpServerRequest) else set())
    for name in sorted({*attributes(thing)} - free):
        before = getattr(thing, name)
        with pytest.raises((TypeError, ValueError, RuntimeError), match=name.replace("_", "[_ ]")):
            setattr(thing, name, Other())
        assert getattr(thing, name) is before or getattr(thing, name) == before


@pytest.mark.parametrize("name", MADE)
def test_each_attribute_refuses_what_it_cannot_be(name: str) -> None:
    refuses_wrong_types(MADE[name]())


def test_those_of_a_conversation_do() -> None:
    with echo_server() as server, connect(server.port) as client:
        sockets: list[object] = []
        server.on_websocket_connect = sockets.append
        process = process_of(client)
        for thing in (server, client, process, server.connections()[0], process.client_thread):
            refuses_wrong_types(thing)
        with connect(server.port):
            refuses_wrong_types(wait_for(lambda: sockets)[0])


def test_those_of_the_front_door_do() -> None:
    with mormot_ws.Server(f"{HOST}:0") as door:
        door.on_message(lambda peer, message: None)
        with mormot_ws.connect(f"ws://{HOST}:{door.port}/"):
            (peer,) = wait_for(lambda: door.peers)
            refuses_wrong_types(peer)


def test_a_request_is_checked_when_it_is_made() -> None:
    for name in ("url", "method", "in_headers", "in_content", "in_content_type"):
        wrong: Any = {name: ["X: 1"]}
        with pytest.raises(TypeError, match=f"{name} must be .*, not list"):
            mormot_ws.HttpServerRequest(**wrong)


def test_a_decoder_is_checked_when_it_is_made() -> None:
    for wrong in ({"masked": 1}, {"masked": True, "max_fragments": 1.5}):
        with pytest.raises(TypeError, match=r"not (int|float)"):
            mormot_ws.WebProcessInFrame(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "settings",
            {"heartbeat_delay": 1},
            "settings must be WebSocketProcessSettings.*, not dict",
        ),
        ("settings", None, "settings must be WebSocketProcessSettings.*, not NoneType"),
        ("timeout", "x", "timeout must be a number of milliseconds above 0, not 'x'"),
        ("timeout", 0, "timeout must be a number of milliseconds above 0, not 0"),
        ("port", "8999", "port must be a number from 1 to 65535, not '8999'"),
        ("host", "a b", "host must be a name or an address, not 'a b'"),
        ("tls", "cert.pem", "tls must be True or False, not str"),
        ("tls_context", "cert.pem", "tls_context must be an ssl.SSLContext, or a function"),
        ("proxy", 5, "proxy must be a URL like http://host:port, not int"),
        ("user_agent", 5, "user_agent"),
        ("policy", mormot_ws.LinearBackoff, r"policy must be an object with next_delay\(\)"),
    ],
)
def test_an_attribute_of_a_client_says_what_is_meant(name: str, value: object, said: str) -> None:
    with HttpClientWebSockets(HOST, 1, connect=False) as client:
        before = getattr(client, name)
        with pytest.raises((TypeError, ValueError), match=said):
            setattr(client, name, value)
        assert getattr(client, name) is before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((8999, HOST), "host must be a name or an address, not 8999: it comes before the port"),
        ((HOST, 8999, 5000), "tls must be True or False, not int"),
        ((HOST, "http"), "port must be a number from 1 to 65535, not 'http'"),
        ((HOST, "²"), "port must be a number from 1 to 65535, not '²'"),
        ((HOST, 80.0), "port must be a number from 1 to 65535, not 80.0"),
    ],
)
def test_arguments_of_a_client_in_another_order_are_refused(arguments: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        HttpClientWebSockets(*arguments, connect=False)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("settings", {}, "settings must be WebSocketProcessSettings.*, not dict"),
        ("websocket_protocols", [], r"to which you add\(\) protocols, not list"),
        ("tls_context", "cert.pem", "tls_context must be an ssl.SSLContext or None, not str"),
        ("process_class", WebSocketServer, "derives from WebSocketProcessServer, not <class"),
        ("process_class", 7, "derives from WebSocketProcessServer, not 7"),
    ],
)
def test_an_attribute_of_a_server_says_what_is_meant(name: str, value: object, said: str) -> None:
    with echo_server() as server, pytest.raises(TypeError, match=said):
        setattr(server, name, value)


class TestFrames:
    """A frame is checked when it is made and when it is changed, not only when it is sent."""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("text",), r"opcode must be focText, focBinary.*, not str: the text comes second"),
            ((b"data",), r"opcode must be .*, not bytes: the text comes second"),
            ((None,), "opcode must be .*, not NoneType$"),
            ((True,), "opcode must be .*, not bool$"),
            ((3,), "3 is not an opcode: they are 0, 1, 2, 8, 9, 10"),
            ((focText, 7), "payload must be bytes or str, not int"),
            ((focText, "a", "b"), "content must be WebSocketFramePayload flags.*, not str"),
            ((focText, "a", fopAlreadyCompressed, "b"), "tix must be a whole number of seconds"),
        ],
    )
    def test_wrong_arguments(self, arguments: Any, said: str) -> None:
        with pytest.raises((TypeError, ValueError), match=said):
            WebSocketFrame(*arguments)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("opcode", "text"), ("opcode", 3), ("content", 1), ("tix", "x"), ("payload", 7)],
    )
    def test_wrong_values_of_attributes(self, name: str, value: object) -> None:
        frame = WebSocketFrame(focText, "a")
        with pytest.raises((TypeError, ValueError)):
            setattr(frame, name, value)
        assert frame == WebSocketFrame(focText, "a")

    def test_the_number_of_an_opcode_is_converted(self) -> None:
        frame = WebSocketFrame(focText)
        frame.opcode = 2  # type: ignore[assignment]
        assert frame.opcode is focBinary


class TestPolicies:
    """They run in a client's thread, where nobody sees what they raise."""

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: mormot_ws.ExponentialBackoff("x"), "base_ms must be a number of milliseconds"),
            (
                lambda: mormot_ws.ExponentialBackoff(None),
                "base_ms must be a number of milliseconds",
            ),
            (
                lambda: mormot_ws.ExponentialBackoff(1, "x"),
                "cap_ms must be a number of milliseconds",
            ),
            (
                lambda: mormot_ws.LinearBackoff(max_attempts=1.5),
                "max_attempts must be a whole number",
            ),
            (
                lambda: mormot_ws.LinearBackoff(max_time_ms="1"),
                "max_time_ms must be a number of milli",
            ),
            (lambda: mormot_ws.StopOn(mormot_ws.LinearBackoff), "policy must be an object with"),
            (lambda: mormot_ws.StopOn(5), "policy must be an object with"),
            (
                lambda: mormot_ws.StopOn(None, 401),
                "http_statuses must be whole numbers, like .*401",
            ),
            (lambda: mormot_ws.StopOn(None, "401"), "http_statuses must be whole numbers, like"),
            (lambda: mormot_ws.StopOn(None, ["401"]), "http_statuses must be whole .*, not '401'"),
            (lambda: mormot_ws.StopOn(close_codes=1008), "close_codes must be whole numbers"),
            (lambda: mormot_ws.StopOn(certificates="no"), "certificates must be True or False"),
        ],
    )
    def test_wrong_arguments(self, make: Callable[[], object], said: str) -> None:
        with pytest.raises(TypeError, match=said):
            make()

    @pytest.mark.parametrize("name", ["base_ms", "cap_ms", "max_attempts", "max_time_ms"])
    def test_a_value_without_a_meaning_is_refused_later_too(self, name: str) -> None:
        policy = mormot_ws.ExponentialBackoff()
        with pytest.raises(ValueError, match=name):
            setattr(policy, name, -1)

    def test_a_client_takes_an_object(self) -> None:
        said = r"policy must be an object with next_delay\(\)"
        client = HttpClientWebSockets(HOST, 1, connect=False)
        with client, pytest.raises(TypeError, match=said):
            client.auto_reconnect(policy=mormot_ws.LinearBackoff)  # type: ignore[arg-type]


def _one(a: object) -> None: ...
def _none() -> None: ...
def _three(a: object, b: object, c: object) -> None: ...
async def _async_none() -> None: ...
async def _async_one(a: object) -> None: ...
async def _async_two(a: object, b: object) -> None: ...


class TestCallbacks:
    """What could not be called as callbacks are is refused where it is set."""

    @pytest.mark.parametrize("function", [_one, _none, _three, lambda: None, print.__class__])
    def test_one_with_other_parameters(self, function: Any) -> None:
        said = r"on_incoming_frame is called as on_incoming_frame\(process, frame\)"
        with pytest.raises(TypeError, match=said):
            WebSocketProtocolChat("echo", "", function)
        protocol = chat()
        with pytest.raises(TypeError, match=said):
            protocol.on_incoming_frame = function
        with pytest.raises(TypeError, match="on_before_incoming_frame is called as"):
            protocol.on_before_incoming_frame = function

    def test_a_method_of_a_subclass_with_other_parameters(self) -> None:
        kind: Any = type("Mine", (WebSocketProtocolChat,), {"on_incoming_frame": _three})
        kind("echo")
        kind = type("Mine", (WebSocketProtocolChat,), {"on_incoming_frame": _one})
        with pytest.raises(TypeError, match=r"on_incoming_frame is called as .*\(process, frame\)"):
            kind("echo")

    @pytest.mark.parametrize(
        "function", [print, lambda *a: None, lambda a, b, c=1: None, [].append.__call__]
    )
    def test_one_that_takes_them_or_does_not_tell(self, function: Any) -> None:
        protocol = chat()
        protocol.on_before_incoming_frame = function
        assert protocol.on_before_incoming_frame is function

    def test_what_a_decorator_returns_is_called_not_what_it_decorates(self) -> None:
        from functools import wraps

        def with_more(function: Callable[..., None]) -> Callable[..., None]:
            @wraps(function)
            def wrapper(*arguments: object) -> None:
                function("more", *arguments)

            return wrapper

        protocol = chat()
        protocol.on_incoming_frame = with_more(_three)

    @pytest.mark.parametrize(
        ("name", "parameters"),
        [
            ("on_websockets_closed", "client"),
            ("on_before_incoming_frame", "process, frame"),
            ("on_gave_up", "client, failure"),
            ("on_ended", "client"),
            ("on_callback_request_process", "ctxt"),
        ],
    )
    def test_those_of_a_client(self, name: str, parameters: str) -> None:
        said = rf"{name} is called as {name}\({parameters}\)"
        client = HttpClientWebSockets(HOST, 1, connect=False)
        with client, pytest.raises(TypeError, match=said):
            setattr(client, name, _three)

    def test_that_of_a_reconnection(self) -> None:
        with echo_server() as server, connect(server.port) as client:
            process = process_of(client)
            for function, said in ((_none, "does not take that"), (_async_one, "not async def")):
                with pytest.raises(TypeError, match=said):
                    process.on_reconnect = function  # type: ignore[assignment]

    @pytest.mark.parametrize(
        ("name", "parameters"),
        [
            ("on_request", "ctxt"),
            ("on_websocket_upgraded", "protocol"),
            ("on_websocket_connect", "socket"),
            ("on_websocket_disconnect", "socket"),
            ("on_websocket_close", "protocol"),
        ],
    )
    def test_those_of_a_server(self, name: str, parameters: str) -> None:
        said = rf"{name} is called as {name}\({parameters}\)"
        with echo_server() as server, pytest.raises(TypeError, match=said):
            setattr(server, name, _three)

    @pytest.mark.parametrize("name", ["on_start", "on_stop", "prepare"])
    def test_those_of_a_server_that_starts(self, name: str) -> None:
        wrong: Any = {name: _none}
        with pytest.raises(TypeError, match=f"{name} is called as"):
            WebSocketServer(f"{HOST}:0", **wrong)

    @pytest.mark.parametrize("name", ["on_client_connected", "on_client_disconnected"])
    @pytest.mark.parametrize(
        ("function", "said"),
        [(_async_one, "not async def"), (_none, "does not take that"), (_three, "not take that")],
    )
    def test_those_of_settings(self, name: str, function: Any, said: str) -> None:
        settings = WebSocketProcessSettings()
        with pytest.raises(TypeError, match=f"{name} is called .*{said}"):
            setattr(settings, name, function)
        with pytest.raises(TypeError, match=said):
            WebSocketProcessSettings(**{name: function})
        assert getattr(settings, name) is None

    @pytest.mark.parametrize("function", [_async_none, _one])
    def test_one_that_makes_policies(self, function: Any) -> None:
        with pytest.raises(TypeError, match="reconnect_policy is called"):
            WebSocketProcessSettings(reconnect_policy=function)

    @pytest.mark.parametrize("function", [_async_none, _one])
    def test_those_that_return_a_fresh_value(self, function: Any) -> None:
        makers: list[Callable[[], object]] = [
            lambda: mormot_ws.connect(function),
            lambda: mormot_ws.connect(f"ws://{HOST}:1/", headers=function),
            lambda: HttpClientWebSockets(HOST, 1, tls_context=function, connect=False),
        ]
        with HttpClientWebSockets(HOST, 1, connect=False) as client:
            makers += [
                lambda: client.auto_reconnect(function),
                lambda: client.auto_reconnect(headers=function),
            ]
            for make in makers:
                with pytest.raises(TypeError, match="is called"):
                    make()

    @pytest.mark.parametrize("function", [_async_one, _async_two])
    def test_one_that_authenticates_is_no_coroutine(self, function: Any) -> None:
        with pytest.raises(TypeError, match="authenticate is called in a thread"):
            mormot_ws.Server(f"{HOST}:0", authenticate=function)
