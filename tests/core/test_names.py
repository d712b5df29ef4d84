"""Names of hosts, and resources, in the forms in which they go out on the wire."""

from __future__ import annotations

import sys

import pytest

from mormot_ws.core.names import dialled_host, plain_host, wire_authority, wire_host, wire_resource


@pytest.mark.parametrize(
    ("host", "dialled", "told"),
    [
        ("example.com", "example.com", "example.com"),
        ("Example.COM", "Example.COM", "Example.COM"),
        ("example.com.", "example.com.", "example.com"),
        ("my_host", "my_host", "my_host"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3"),
        ("::1", "::1", "::1"),
        ("[::1]", "::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]", "fe80::1%eth0", "fe80::1"),
        ("fe80::1%25", "fe80::1%25", "fe80::1"),
        ("bücher.test", "xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("BÜCHER.test.", "xn--bcher-kva.test.", "xn--bcher-kva.test"),
        ("bücher。test", "xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("☃.test", "xn--n3h.test", "xn--n3h.test"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_a_host_is_looked_up_and_told(host: str, dialled: str, told: str) -> None:
    """International names in ASCII; the zone and the dot at the end stay on this machine."""
    assert (dialled_host(host), wire_host(host)) == (dialled, told)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "a/b",
        "a?b",
        "a@b",
        "a%b",
        "a\r\nb",
        "a:80",
        "1.2.3.4:80",
        "::1::",
        "::1%",
        "fe80::1%a]",
        "[example.com]",
        "[::1",
        "::1]",
        "[]",
        "b\ud800.test",
        "ü..test",
        "ü" * 70,
        "a／ü.test",
        "ü::1",
    ],
)
def test_what_is_no_host_is_a_value_error(host: str) -> None:
    """Also what would turn into something else than a name once it is ASCII."""
    with pytest.raises(ValueError):
        wire_host(host)


def test_a_sharp_s_stays_one() -> None:
    """As in browsers (IDNA 2008): the older standard leads to another host."""
    pytest.importorskip("idna")
    assert wire_host("faß.test") == "xn--fa-hia.test"


def test_without_idna_a_name_that_would_lead_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The standard library knows the older standard only; other names work with it."""
    monkeypatch.setitem(sys.modules, "idna", None)
    assert wire_host("bücher.test") == "xn--bcher-kva.test"
    with pytest.raises(ValueError, match=r"mormot_ws\[idna\]"):
        wire_host("faß.test")


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("example.com", 80, "example.com"),
        ("example.com.", 81, "example.com:81"),
        ("::1", 80, "[::1]"),
        ("fe80::1%eth0", 81, "[fe80::1]:81"),
        ("bücher.test", 81, "xn--bcher-kva.test:81"),
    ],
)
def test_an_authority_has_brackets_and_only_other_ports(host: str, port: int, text: str) -> None:
    """``Host`` as RFC 9110 wants it, for a scheme with port 80."""
    assert wire_authority(host, port, 80) == text


@pytest.mark.parametrize(
    ("uri", "wire"),
    [
        ("", ""),
        ("café?name=Łukasz", "caf%C3%A9?name=%C5%81ukasz"),
        ("caf%C3%A9?q=a%2Fb%20c&r=%25", "caf%C3%A9?q=a%2Fb%20c&r=%25"),
        ("a;b=c|{}~%zz", "a;b=c|{}~%zz"),
        ("😀", "%F0%9F%98%80"),
    ],
)
def test_a_resource_is_encoded_where_it_is_not_ascii(uri: str, wire: str) -> None:
    """As UTF-8; what is encoded already, and all other ASCII, stays as it is."""
    assert wire_resource(uri) == wire
    assert wire_resource(wire) == wire


def test_half_a_character_in_a_resource_is_a_value_error_that_shows_nothing() -> None:
    """A URI may hold a token."""
    with pytest.raises(ValueError, match="must not contain lone surrogates") as raised:
        wire_resource("secret\ud800")
    assert "secret" not in str(raised.value)


def test_plain_hosts_keep_their_zone() -> None:
    """Only brackets and the encoding of ``%`` go."""
    assert plain_host("[fe80::1%25eth0]") == "fe80::1%eth0"
    assert plain_host("example.com") == "example.com"
