"""The client through proxies: HTTP CONNECT and SOCKS, by argument and from the environment, good
ones and bad ones.
"""

from __future__ import annotations

import logging
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    Recorder,
    echo,
    echo_server,
    fast_settings,
    ms,
    process_of,
    refused_port,
    send_text,
    upgrade,
    wait_for,
)
from support.proxies import Asked, HttpProxy, ProxyServer, Socks4Proxy, SocksProxy
from support.tls import VERSIONS, Authority, tls_server

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProtocolChat,
    WebSocketServer,
    server_tls_context,
)
from mormot_ws.sockets.proxies import check_proxy, proxy_from_environment

#: a host that only the test proxies know
HIDDEN = "server.test"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that the tests were started in is none of their business."""
    for name in (*NAMES, "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(params=[HttpProxy, SocksProxy, Socks4Proxy], ids=lambda kind: kind.scheme)
def proxy(request: pytest.FixtureRequest) -> Iterator[ProxyServer]:
    """A proxy that lets everybody through, of one kind after the other."""
    with request.param() as proxy:
        yield proxy


@pytest.fixture(params=[HttpProxy, SocksProxy], ids=lambda kind: kind.scheme)
def guarded(request: pytest.FixtureRequest) -> Iterator[ProxyServer]:
    """A proxy that wants a name and a password."""
    with request.param("alice", "p@ss:w/rd") as proxy:
        yield proxy


def through(
    proxy: str | None,
    port: int,
    host: str = HIDDEN,
    timeout: float = 5_000,
    tls: bool = False,
    context: ssl.SSLContext | None = None,
) -> HttpClientWebSockets:
    """Return a client that has tried to connect through *proxy*, not upgraded; free it."""
    return HttpClientWebSockets.open(
        host, port, tls, context, ms(timeout), settings=fast_settings(), proxy=proxy
    )


def failure(proxy: str | None, port: int = 9, host: str = HIDDEN, timeout: float = 5_000) -> str:
    """Return why a client does not get through *proxy*."""
    with through(proxy, port, host, timeout) as client:
        assert not client.connected
        assert upgrade(client) == "Not Connected"
        assert client.last_error
        return client.last_error


def assert_echo(client: HttpClientWebSockets, recorder: Recorder, payload: str = "hello") -> None:
    """Fail unless *client*, upgraded and recording, gets an echo."""
    assert send_text(client, payload)
    wait_for(lambda: payload in recorder.texts(), what=f"an echo of {payload!r}")


class TestByArgument:
    def test_messages_go_through_the_proxy(
        self, server: WebSocketServer, proxy: ProxyServer, recorder: Recorder
    ) -> None:
        """The proxy is asked for the server's name and port, and everything goes through it."""
        with through(proxy.url, server.port) as client:
            assert upgrade(client, recorder.frame) == ""
            assert_echo(client, recorder, "x" * 100_000)
        assert proxy.asked == [Asked(HIDDEN, server.port)]
        assert proxy.accepted == 1

    @pytest.mark.parametrize("kind", [HttpProxy, SocksProxy])
    def test_an_ipv6_address_is_asked_for_as_one(
        self, server: WebSocketServer, kind: type[ProxyServer]
    ) -> None:
        """The address reaches the proxy whole: in brackets by CONNECT, as an address and not as a
        name by SOCKS.
        """
        with kind() as proxy:
            with through(proxy.url, server.port, "2001:db8::7") as client:
                assert client.last_error == ""
                assert upgrade(client) == ""
            assert proxy.asked == [Asked("2001:db8::7", server.port)]

    def test_the_factory_takes_a_proxy_too(
        self, server: WebSocketServer, proxy: ProxyServer
    ) -> None:
        """``websockets_connect('ws://…', proxy=…)`` does both steps through the proxy."""
        protocol = WebSocketProtocolChat("echo", "")
        client = HttpClientWebSockets.websockets_connect(
            f"ws://{HIDDEN}:{server.port}/room", protocol, proxy=proxy.url, settings=fast_settings()
        )
        assert client is not None
        client.free()
        assert [asked.host for asked in proxy.asked] == [HIDDEN]

    def test_a_name_and_password_open_a_guarded_proxy(
        self, server: WebSocketServer, guarded: ProxyServer
    ) -> None:
        """Credentials in the URL are sent, percent-encoded characters decoded."""
        with through(guarded.url_for("alice", "p%40ss%3Aw%2Frd"), server.port) as client:
            assert client.last_error == ""
            assert upgrade(client) == ""
        assert guarded.asked == [Asked(HIDDEN, server.port, "alice", "p@ss:w/rd")]

    @pytest.mark.parametrize("credentials", ["", "alice:wrong"])
    def test_a_guarded_proxy_refuses_others_and_the_password_stays_secret(
        self, guarded: ProxyServer, credentials: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without the right credentials there is a clear error, which names the proxy and not the
        password.
        """
        url = guarded.url.replace("//", f"//{credentials}@") if credentials else guarded.url
        with caplog.at_level(logging.DEBUG, "mormot_ws"):
            error = failure(url)
        assert guarded.url in error
        if isinstance(guarded, HttpProxy):
            assert "407 Proxy Authentication Required" in error
        assert "wrong" not in error + caplog.text

    def test_the_credentials_are_not_shown_by_repr(self, guarded: ProxyServer) -> None:
        """``repr`` of a client may end up in logs."""
        with through(guarded.url_for("alice", "secret"), 9) as client:
            assert "secret" not in repr(client)

    def test_an_empty_proxy_means_none_whatever_the_environment_says(
        self, server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``proxy=''`` connects directly."""
        with refused_port() as port:
            monkeypatch.setenv("all_proxy", f"http://{HOST}:{port}")
            with through("", server.port, HOST) as client:
                assert upgrade(client) == ""

    def test_an_argument_is_used_for_loopback_addresses_too(
        self, server: WebSocketServer, proxy: ProxyServer
    ) -> None:
        """A proxy that was asked for by name is used, even to this machine."""
        with through(proxy.url, server.port, HOST) as client:
            assert upgrade(client) == ""
        assert proxy.asked == [Asked(HOST, server.port)]

    @pytest.mark.parametrize(
        "url", ["https://proxy:1", "ftp://proxy", "proxy:8080", "socks5://", "http://"]
    )
    def test_a_url_that_is_no_proxy_is_a_value_error(self, url: str) -> None:
        """What can never work is an error of the caller, at once."""
        with pytest.raises(ValueError, match="a proxy must be like"):
            through(url, 9)

    @pytest.mark.parametrize("port", ["99999", "abc"])
    def test_a_port_that_is_none_is_a_value_error(self, port: str) -> None:
        """The same for a port that no proxy can have."""
        with pytest.raises(ValueError):
            through(f"http://proxy:{port}", 9)

    def test_an_error_text_for_a_bad_url_does_not_show_its_password(self) -> None:
        """Not even an exception shows the password."""
        with pytest.raises(ValueError, match="a proxy must be like") as raised:
            check_proxy("ftp://alice:secret@proxy:21")
        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize("scheme", ["socks5h", "socks4a"])
    def test_the_schemes_that_stress_names_are_understood(
        self, server: WebSocketServer, scheme: str
    ) -> None:
        """``socks5h`` and ``socks4a`` say that the proxy resolves names, which it does anyway."""
        with SocksProxy() if scheme == "socks5h" else Socks4Proxy() as proxy:
            with through(f"{scheme}://{HOST}:{proxy.port}", server.port) as client:
                assert client.last_error == ""
                assert upgrade(client) == ""
            assert proxy.asked[0].host == HIDDEN


class TestTls:
    @pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
    def test_wss_goes_through_a_proxy(
        self, tmp_path: Path, proxy: ProxyServer, version: ssl.TLSVersion, recorder: Recorder
    ) -> None:
        """TLS is between client and server: the certificate is checked for the server's name, the
        proxy sees none of it.
        """
        authority = Authority(tmp_path)
        with tls_server(server_tls_context(*authority.issue(HIDDEN)), echo) as server:
            context = authority.client_context(version)
            with through(proxy.url, server.port, tls=True, context=context) as client:
                assert client.last_error == ""
                assert upgrade(client, recorder.frame) == ""
                assert_echo(client, recorder)
            with through(proxy.url, server.port, "other.test", tls=True, context=context) as client:
                assert "Hostname mismatch" in client.last_error


class TestFromTheEnvironment:
    def test_http_proxy_is_used_for_ws(
        self, server: WebSocketServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without an argument the proxy of the environment is used, with the credentials in its
        URL.
        """
        with HttpProxy("alice", "secret") as proxy:
            monkeypatch.setenv("http_proxy", proxy.url_for("alice", "secret"))
            with through(None, server.port) as client:
                assert upgrade(client, recorder.frame) == ""
                assert_echo(client, recorder)
            assert proxy.asked == [Asked(HIDDEN, server.port, "alice", "secret")]

    def test_https_proxy_is_used_for_wss(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``https_proxy`` is for TLS, ``http_proxy`` is not."""
        authority = Authority(tmp_path)
        with refused_port() as refused, HttpProxy() as proxy:
            monkeypatch.setenv("http_proxy", f"http://{HOST}:{refused}")
            monkeypatch.setenv("https_proxy", proxy.url)
            with (
                tls_server(server_tls_context(*authority.issue(HIDDEN)), echo) as server,
                through(None, server.port, tls=True, context=authority.client_context()) as client,
            ):
                assert upgrade(client) == ""
            assert len(proxy.asked) == 1

    def test_all_proxy_is_used_for_both_and_may_be_socks(
        self, server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``all_proxy`` serves where there is nothing more special."""
        with SocksProxy() as proxy:
            monkeypatch.setenv("all_proxy", proxy.url)
            with through(None, server.port) as client:
                assert upgrade(client) == ""
            assert proxy.asked == [Asked(HIDDEN, server.port)]

    def test_this_machine_is_reached_directly(
        self, server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Loopback addresses never go through a proxy of the environment."""
        with refused_port() as port:
            monkeypatch.setenv("all_proxy", f"http://{HOST}:{port}")
            for host in (HOST, "localhost"):
                with through(None, server.port, host) as client:
                    assert upgrade(client) == ""

    @pytest.mark.parametrize(
        ("environment", "host", "tls", "proxy"),
        [
            ({}, HIDDEN, False, ""),
            ({"http_proxy": "http://p:1"}, HIDDEN, False, "http://p:1"),
            ({"HTTP_PROXY": "http://p:1"}, HIDDEN, False, "http://p:1"),
            ({"http_proxy": "http://p:1"}, HIDDEN, True, ""),
            ({"https_proxy": "http://p:2"}, HIDDEN, True, "http://p:2"),
            (
                {"https_proxy": "http://p:2", "all_proxy": "socks5://p:3"},
                HIDDEN,
                True,
                "http://p:2",
            ),
            (
                {"https_proxy": "http://p:2", "all_proxy": "socks5://p:3"},
                HIDDEN,
                False,
                "socks5://p:3",
            ),
            ({"http_proxy": "p:1"}, HIDDEN, False, "http://p:1"),
            ({"http_proxy": ""}, HIDDEN, False, ""),
            ({"all_proxy": "http://p:1", "no_proxy": HIDDEN}, HIDDEN, False, ""),
            ({"all_proxy": "http://p:1", "no_proxy": "other.test, .test"}, HIDDEN, False, ""),
            ({"all_proxy": "http://p:1", "no_proxy": "*"}, HIDDEN, False, ""),
            ({"all_proxy": "http://p:1", "no_proxy": "rver.test"}, HIDDEN, False, "http://p:1"),
            ({"all_proxy": "http://p:1", "no_proxy": "other.test"}, HIDDEN, True, "http://p:1"),
            ({"all_proxy": "http://p:1"}, "127.8.9.1", False, ""),
            ({"all_proxy": "http://p:1"}, "::1", False, ""),
            ({"all_proxy": "http://p:1"}, "LOCALHOST", False, ""),
            ({"all_proxy": "http://p:1"}, "10.1.2.3", False, "http://p:1"),
        ],
    )
    def test_what_the_environment_says(
        self,
        environment: dict[str, str],
        host: str,
        tls: bool,
        proxy: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Names in either case, ``no_proxy`` with hosts, suffixes and ``*``, and this machine left
        out.
        """
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert proxy_from_environment(host, tls) == proxy

    @pytest.mark.parametrize(
        "url", ["https://proxy.test:443", "nonsense://x", "http://", "http://proxy.test:port"]
    )
    def test_a_proxy_of_the_environment_that_cannot_be_used_is_an_error_text(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the environment says is no argument of the caller: ``last_error`` tells, nothing is
        raised.
        """
        monkeypatch.setenv("all_proxy", url)
        assert failure(None)

    def test_a_client_survives_an_environment_that_turns_bad(
        self, server: WebSocketServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment is asked anew at each reconnection; a bad value is a failed attempt, not
        the end of the thread.
        """
        with HttpProxy() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            with through(None, server.port) as client:
                assert upgrade(client, recorder.frame) == ""
                client.auto_reconnect()
                monkeypatch.setenv("http_proxy", "https://proxy.test:443")
                proxy.cut()
                wait_for(lambda: process_of(client).attempts > 0, what="a failed attempt")
                monkeypatch.setenv("http_proxy", proxy.url)
                recorder.wait("focContinuation", 2)
                assert_echo(client, recorder)


class TestReconnection:
    def test_a_reconnection_goes_through_the_same_proxy(
        self, server: WebSocketServer, guarded: ProxyServer, recorder: Recorder
    ) -> None:
        """The client keeps its proxy, credentials included."""
        with through(guarded.url_for("alice", "p%40ss%3Aw%2Frd"), server.port) as client:
            assert upgrade(client, recorder.frame) == ""
            client.auto_reconnect()
            guarded.cut()
            recorder.wait("focContinuation", 2)
            assert_echo(client, recorder)
        assert guarded.asked == 2 * [Asked(HIDDEN, server.port, "alice", "p@ss:w/rd")]

    def test_a_server_that_is_away_for_a_while_is_found_again(
        self, proxy: ProxyServer, recorder: Recorder
    ) -> None:
        """While the proxy cannot reach the server, the attempts fail with its words; then one
        succeeds.
        """
        with echo_server() as first:
            port = first.port
            client = through(proxy.url, port)
            assert upgrade(client, recorder.frame) == ""
            client.auto_reconnect()
        with client:
            wait_for(lambda: process_of(client).attempts > 1)
            assert "proxy" in client.last_error
            with echo_server(port):
                recorder.wait("focContinuation", 2)
                assert_echo(client, recorder)
                client.free()


class TestBadProxies:
    def test_a_refusal_of_an_http_proxy_is_told(self) -> None:
        """Its status line is in ``last_error``, with the proxy's address."""
        with HttpProxy(refusal="502 Bad Gateway") as proxy:
            error = failure(proxy.url)
        assert "502 Bad Gateway" in error
        assert proxy.url in error

    def test_a_target_that_cannot_be_reached_is_told(self, proxy: ProxyServer) -> None:
        """The proxy works, but the server behind it does not listen."""
        with refused_port() as port:
            assert proxy.url in failure(proxy.url, port)

    @pytest.mark.parametrize(
        ("code", "words"), [(2, "not allowed"), (4, "Host unreachable"), (5, "refused")]
    )
    def test_a_refusal_of_a_socks_proxy_is_told(self, code: int, words: str) -> None:
        """The meaning of its reply code is in ``last_error``."""
        with SocksProxy(code=code) as proxy:
            assert words.lower() in failure(proxy.url).lower()

    def test_an_answer_in_pieces_is_understood(
        self, server: WebSocketServer, recorder: Recorder
    ) -> None:
        """TCP may deliver a proxy's answer in several segments; the rest of it is not taken for
        the server's.
        """
        with (
            HttpProxy(split=True, headers="Via: 1.1 somewhere\r\n") as proxy,
            through(proxy.url, server.port) as client,
        ):
            assert client.last_error == ""
            assert upgrade(client, recorder.frame) == ""
            assert_echo(client, recorder)

    def test_an_answer_byte_by_byte_is_understood(self, server: WebSocketServer) -> None:
        """The same in the extreme."""
        for kind in (SocksProxy, HttpProxy):
            with kind(drip=1) as proxy, through(proxy.url, server.port) as client:
                assert client.last_error == ""
                assert upgrade(client) == ""

    def test_a_dead_proxy_is_an_error_at_once(self) -> None:
        """Nobody listens there: no waiting for the time-out, and it is told from a server that
        refuses.
        """
        begin = time.monotonic()
        with refused_port() as port:
            for scheme in ("http", "socks5", "socks4"):
                error = failure(f"{scheme}://{HOST}:{port}", timeout=60_000)
                assert error.startswith(f"ConnectionRefusedError: proxy {scheme}://{HOST}:{port}: ")
        assert time.monotonic() - begin < BOUND

    def test_something_that_is_no_proxy_is_an_error(self, server: WebSocketServer) -> None:
        """A web server that does not know CONNECT, or SOCKS."""
        assert "proxy" in failure(f"http://{HOST}:{server.port}")
        assert "proxy" in failure(f"socks5://{HOST}:{server.port}")

    @pytest.mark.parametrize("kind", [HttpProxy, SocksProxy, Socks4Proxy])
    def test_a_silent_proxy_obeys_the_time_out(self, kind: type[ProxyServer]) -> None:
        """A proxy that accepts and says nothing costs the client its time-out, and not more."""
        with kind(mute=True) as proxy:
            begin = time.monotonic()
            error = failure(proxy.url, timeout=300)
            assert 290 * MS <= time.monotonic() - begin < 2_000 * MS
        assert "timeout" in error.lower() or "timed out" in error.lower()

    @pytest.mark.parametrize("kind", [HttpProxy, SocksProxy, Socks4Proxy])
    def test_a_dripping_proxy_obeys_the_time_out(
        self, server: WebSocketServer, kind: type[ProxyServer]
    ) -> None:
        """The time-out is for all of it: a byte now and then does not prolong it."""
        with kind(drip=250) as proxy:
            begin = time.monotonic()
            failure(proxy.url, server.port, timeout=400)
            assert time.monotonic() - begin < 1_000 * MS

    def test_free_interrupts_a_proxy_that_gets_silent(
        self, server: WebSocketServer, proxy: ProxyServer, recorder: Recorder
    ) -> None:
        """A reconnection that hangs at the proxy does not delay ``free()``."""
        client = through(proxy.url, server.port, timeout=60_000)
        assert upgrade(client, recorder.frame) == ""
        client.auto_reconnect()
        proxy.mute = True
        proxy.cut()
        wait_for(lambda: proxy.accepted == 2)
        begin = time.monotonic()
        client.free()
        assert time.monotonic() - begin < 1_000 * MS


def test_without_python_socks_the_error_says_what_to_install(
    server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named; connections without a proxy do not need it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "python_socks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "python_socks", None)
    error = failure("socks5://alice:secret@proxy.test:1080")
    assert "pip install 'mormot_ws[proxy]'" in error
    assert "secret" not in error
    with through(None, server.port, HOST) as client:
        assert upgrade(client) == ""


def test_an_http_proxy_needs_no_extra(
    server: WebSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONNECT is done by h11, which a server needs too."""
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with HttpProxy() as proxy, through(proxy.url, server.port) as client:
        assert upgrade(client) == ""
