"""What ``repr`` shows of every public class: what it is and how it is doing, and nothing that is
secret.
"""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

import pytest
from support import process_of

import mormot_ws
from mormot_ws.client.arguments import parse_websocket_uri
from mormot_ws.core.outgoing import OutgoingFrames
from mormot_ws.request import HttpServerRequest

SECRET = "s3cr3t-of-nobody"
CLASSES = [name for name in mormot_ws.__all__ if inspect.isclass(getattr(mormot_ws, name))]
#: abstract: only what the application derives from it is ever seen
ABSTRACT = {"ReconnectPolicy"}


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ABSTRACT])
def test_every_public_class_has_a_repr_of_its_own(name: str) -> None:
    """None is shown as ``<… object at 0x…>``."""
    cls: Any = getattr(mormot_ws, name)
    assert cls.__repr__ is not object.__repr__


class Chat(mormot_ws.WebSocketProtocolChat):
    """A protocol that an application derives."""


def test_what_belongs_to_a_running_client_and_server_is_shown_without_its_secrets() -> None:
    """A token in a header or a query, and a proxy's password, must not get into logs by ``%r``."""
    with mormot_ws.WebSocketServer("127.0.0.1:0") as server:
        server.websocket_protocols.add(Chat("chat", ""))
        with mormot_ws.HttpClientWebSockets("127.0.0.1", server.port, proxy="") as client:
            protocol = Chat("chat", "")
            headers = f"Authorization: Bearer {SECRET}\r\nX-Token: {SECRET}"
            assert (
                client.websockets_upgrade(
                    f"room?token={SECRET}", "", protocol=protocol, headers=headers
                )
                == ""
            )
            process = process_of(client)
            shown = [
                repr(each)
                for each in (client, process, process.owner_thread, process.outgoing, protocol)
            ]
            shown += [
                repr(client.status()),
                repr(server),
                repr(server.status()),
                repr(server.websocket_protocols),
            ]
            client.proxy = f"http://user:{SECRET}@127.0.0.1:1"
            shown.append(repr(client))
    for text in shown:
        assert SECRET not in text
        assert " object at 0x" not in text
    assert "sRun" in shown[2]
    assert "127.0.0.1" in shown[2]
    assert shown[3] == "<OutgoingFrames count=0 bytes=0 lost=0>"


def test_a_socket_shows_its_peer_and_not_the_password_of_its_proxy() -> None:
    """A failed connection is the moment when somebody prints it."""
    plain = mormot_ws.CrtSocket(
        "127.0.0.1", 1, timeout=500, proxy=f"http://user:{SECRET}@127.0.0.1:1"
    )
    assert repr(plain) == "<CrtSocket 127.0.0.1:1 not connected>"
    assert SECRET not in plain.last_error


def test_a_request_is_shown_without_its_query() -> None:
    """A browser can only put its token into the query."""
    request = HttpServerRequest()
    request.prepare(
        f"/x?token={SECRET}", "GET", f"Authorization: Bearer {SECRET}", b"", "", "127.0.0.1"
    )
    assert SECRET not in repr(request)
    assert "GET /x?…" in repr(request)


def test_lists_and_decoders_show_their_counters_and_no_content() -> None:
    """What is in the frames is nobody's business."""
    frames = mormot_ws.WebSocketFrameList(5)
    queue = OutgoingFrames()
    frame = mormot_ws.WebSocketFrame(mormot_ws.focText, SECRET.encode())
    frames.push(frame)
    queue.push(frame)
    decoder = mormot_ws.WebProcessInFrame(False)
    decoder.feed(bytes([0x81, 10]) + SECRET.encode()[:4])
    assert repr(frames) == "<WebSocketFrameList count=1 timeout_sec=5>"
    assert repr(queue) == f"<OutgoingFrames count=1 bytes={len(SECRET)} lost=0>"
    assert repr(decoder) == "<WebProcessInFrame pfsData missing=6 fragments=1>"
    settings = mormot_ws.WebSocketProcessSettings(aes_salt=SECRET)
    assert repr(settings) == "WebSocketProcessSettings(aes_salt=…)"


def test_enumerations_show_their_pascal_names() -> None:
    """So that a log can be searched for what the documentation says."""
    for name in CLASSES:
        cls = getattr(mormot_ws, name)
        if issubclass(cls, Enum):
            for member in cls:
                assert member.name in repr(member)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"ws://user:{SECRET}@host/x", "'ws://host/x'"),
        (f"http://host/x?token={SECRET}", "'http://host/x'"),
        (f"localhost:80?token={SECRET}", "'localhost:80'"),
    ],
)
def test_a_refused_uri_is_shown_without_password_and_query(uri: str, shown: str) -> None:
    """The exception's text ends up in a log."""
    with pytest.raises(ValueError, match="is not a WebSocket URI") as caught:
        parse_websocket_uri(uri)
    assert str(caught.value).startswith(shown)
    assert SECRET not in str(caught.value)
