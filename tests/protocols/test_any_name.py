"""A list that offers one protocol under any name."""

from __future__ import annotations

from mormot_ws import WebSocketProtocolChat
from mormot_ws.protocols.any_name import AnyNameList


def test_any_name_is_answered_to_and_none() -> None:
    """The clone has the name that was asked for; without one it keeps the protocol's."""
    offered = AnyNameList(WebSocketProtocolChat("echo"))
    named, nameless = offered.clone_by_name("whatever", "a/b"), offered.clone_by_uri("a/b")
    assert named is not None
    assert named.name == "whatever"
    assert nameless is not None
    assert nameless.name == "echo"


def test_a_protocol_with_a_uri_is_offered_there_only() -> None:
    """On another URI there is nothing, whatever the name."""
    offered = AnyNameList(WebSocketProtocolChat("echo", "here"))
    assert offered.clone_by_name("whatever", "here") is not None
    assert offered.clone_by_name("whatever", "there") is None
    assert offered.clone_by_uri("there") is None


def test_what_is_added_besides_is_preferred() -> None:
    """A name that somebody has stays theirs, and so does a URI."""

    class Special(WebSocketProtocolChat):
        pass

    offered = AnyNameList(WebSocketProtocolChat("echo"))
    offered.add(Special("special", "room"))
    assert isinstance(offered.clone_by_name("special", "room"), Special)
    assert isinstance(offered.clone_by_uri("room"), Special)
    assert not isinstance(offered.clone_by_name("other", "room"), Special)
