"""``no_proxy`` as curl reads it."""

from __future__ import annotations

import pytest

from mormot_ws.core.names import wire_host
from mormot_ws.sockets.no_proxy import is_left_out


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("*", "a.test"),
        ("*", "10.1.2.3"),
        ("corp.test", "corp.test"),
        ("corp.test", "ws.corp.test"),
        (".corp.test", "ws.corp.test"),
        (".corp.test", "corp.test"),
        ("corp.test.", "ws.corp.test"),
        ("corp.test", "ws.corp.test."),
        ("WS.Corp.Test", "ws.corp.test"),
        ("*.corp.test", "ws.corp.test"),
        ("ws*.corp.test", "ws7.corp.test"),
        ("x, corp.test", "ws.corp.test"),
        ("x corp.test\ty", "ws.corp.test"),
        ("bücher.test", "xn--bcher-kva.test"),
        ("xn--bcher-kva.test", "bücher.test"),
        ("192.168.1.7", "192.168.1.7"),
        ("192.168.1.7/32", "192.168.1.7"),
        ("192.168.*", "192.168.1.7"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.9.9.9/8", "10.1.2.3"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("fd00::1", "fd00::1"),
        ("fd00:0::0:1", "fd00::1"),
        ("[fd00::1]", "fd00::1"),
        ("fd00::/8", "fd12::1"),
        ("[fd00::]/8", "fd12::1"),
        ("fe80::1", "fe80::1%eth0"),
        ("corp.test:8999", "ws.corp.test"),
        ("10.1.2.3:8999", "10.1.2.3"),
        ("[fd00::1]:8999", "fd00::1"),
        ("*:8999", "a.test"),
    ],
)
def test_a_host_that_is_left_out(no_proxy: str, host: str) -> None:
    """Names with those below them, ranges, wildcards, ports, brackets, dots, either case."""
    assert is_left_out(wire_host(host), 8999, no_proxy)


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("", "a.test"),
        (",, ,", "a.test"),
        (".", "a.test"),
        ("rp.test", "corp.test"),
        ("*.corp.test", "corp.test"),
        ("corp.test:80", "corp.test"),
        ("10.1.2.3:80", "10.1.2.3"),
        ("10.0.0.0/8", "11.1.2.3"),
        ("10.0.0.0/99", "10.1.2.3"),
        ("2.3", "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3.test"),
        ("fd00::/8", "fe00::1"),
        ("[fd00::1", "fd00::1"),
        ("[a-z].test", "a.test"),
        ("?.test", "a.test"),
    ],
)
def test_a_host_that_is_not_left_out(no_proxy: str, host: str) -> None:
    """What looks alike, another port, and entries that mean nothing."""
    assert not is_left_out(wire_host(host), 8999, no_proxy)


def test_without_a_port_an_entry_for_any_port_counts() -> None:
    """For those who ask before they know it."""
    assert is_left_out("corp.test", 0, "corp.test:8999")
