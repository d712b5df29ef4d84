"""HttpServerRequest: what an application reads of a request, whatever carried it."""

from __future__ import annotations

import pytest

from mormot_ws import HttpServerRequest
from mormot_ws.request import bearer_of, header_value

HEADERS = (
    "Host: example.com:81\r\nuser-agent:  mine/1 \r\nX-Two: first\r\nX-Two: second\r\nno colon"
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "example.com:81"),
        ("User-Agent", "mine/1"),
        ("x-two", "first"),
        ("no colon", ""),
        ("missing", ""),
    ],
)
def test_headers_are_found_whatever_their_case(name: str, value: str) -> None:
    """The first line of that name counts; its value has no blanks around it."""
    assert header_value(HEADERS, name) == value
    assert HttpServerRequest("/", "GET", HEADERS).in_header(name) == value


def test_two_headers_have_properties() -> None:
    """Those that the original has."""
    ctxt = HttpServerRequest("/", "GET", HEADERS)
    assert (ctxt.host, ctxt.user_agent) == ("example.com:81", "mine/1")


def test_prepare_sets_the_request_and_leaves_the_answer() -> None:
    """The same object can carry another request; text becomes UTF-8."""
    ctxt = HttpServerRequest("/one", connection_id=7)
    ctxt.out_content = "kept"
    assert ctxt.prepare("/two", "PUT", "A: 1", "µ", "text/plain", "10.0.0.1") is ctxt
    assert (ctxt.url, ctxt.method, ctxt.in_headers, ctxt.in_content) == (
        "/two",
        "PUT",
        "A: 1",
        "µ".encode(),
    )
    assert (ctxt.in_content_type, ctxt.remote_ip) == ("text/plain", "10.0.0.1")
    assert (ctxt.connection_id, ctxt.out_content) == (7, "kept")


@pytest.mark.parametrize(
    ("authorization", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", ""),
        ("Bearer", ""),
        ("", ""),
        ("Bearerabc", ""),
    ],
)
def test_a_bearer_token_is_behind_its_scheme(authorization: str, token: str) -> None:
    """The scheme's case does not matter; other schemes have no token."""
    assert bearer_of(authorization) == token


def test_a_query_is_not_shown() -> None:
    """It may hold a secret, and the object may be logged."""
    assert (
        repr(HttpServerRequest("/path?token=secret", "GET", connection_id=3))
        == "<HttpServerRequest #3 GET /path?…>"
    )
