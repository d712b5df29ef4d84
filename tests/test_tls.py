"""TLS on both sides, in both versions that are in use: certificates, time-outs, the close, reading while others write, foreign peers."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from support import (
    BOUND,
    HOST,
    MS,
    ROOT,
    RawClient,
    RawServer,
    RawServerPeer,
    Recorder,
    Script,
    echo,
    echo_server,
    fast_settings,
    ms,
    new_client,
    polite,
    process_of,
    send_text,
    silent,
    text,
    upgrade,
    wait_for,
)
from tls_support import VERSIONS, Authority, TlsRawClient, behind_tls, tls_client, tls_server, tls_upgraded

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessServer,
    WebSocketProtocolChat,
    WebSocketServer,
    WebSocketServerSocket,
    client_tls_context,
    focBinary,
    focConnectionClose,
    focContinuation,
    focText,
    server_tls_context,
)
from mormot_ws.deadline import Deadline
from mormot_ws.tlstransport import TlsTransport


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Our own authority, whom the clients of these tests trust."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(params=VERSIONS, ids=["1.2", "1.3"])
def context(request: pytest.FixtureRequest, authority: Authority) -> ssl.SSLContext:
    """A client's context, for one version of TLS after the other."""
    return authority.client_context(request.param)


@pytest.fixture
def server(authority: Authority) -> Iterator[WebSocketServer]:
    """An echo server over TLS."""
    with tls_server(authority.server_context(), echo) as server:
        yield server


def there(server: WebSocketServer, connection_id: int) -> WebSocketProcessServer:
    """Return the server's process of a connection, as soon as it runs."""
    process = wait_for(lambda: server.is_active_websocket(connection_id), what=f"connection #{connection_id}")
    assert process is not None
    return process


def transport_of(process: WebSocketProcess) -> TlsTransport:
    """Return what carries the bytes of a connection, which has to be TLS."""
    transport = getattr(process, "transport", None)
    assert isinstance(transport, TlsTransport)
    return transport


def echoes(client: HttpClientWebSockets, recorder: Recorder, payload: str = "hello") -> bool:
    """Tell whether an upgraded client that records its frames gets an echo."""
    assert send_text(client, payload)
    wait_for(lambda: payload in recorder.texts(), what=f"an echo of {payload!r}")
    return True


class OtherEnd:
    """The end of a TLS connection that works on memory, so that a test can hold back its records. For one thread."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool = False) -> None:
        sock.settimeout(BOUND)
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self._in, self._out, server_side, name)

    def handshake(self) -> None:
        """Shake hands."""
        self._repeat(self.tls.do_handshake)
        self.sock.sendall(self.output())

    def read(self) -> bytes:
        """Return decrypted bytes; what has to be answered is left in :meth:`output`."""
        data: bytes = self._repeat(lambda: self.tls.read(65536))
        return data

    def output(self) -> bytes:
        """Return what waits to be sent."""
        return self._out.read()

    def _repeat(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                self.sock.sendall(self.output())
                self._in.write(self.sock.recv(65536))


def works(port: int, context: ssl.SSLContext) -> bool:
    """Tell whether a new connection gets an echo: the server is in order."""
    with tls_upgraded(port, context) as client:
        client.send_frame(focText, "still there?")
        return client.receive_opcode(focText).text == "still there?"


class TestConnecting:
    def test_a_server_by_certificate_files_echoes(self, authority: Authority, context: ssl.SSLContext) -> None:
        """The short way: two files given to the server are enough for TLS."""
        settings = fast_settings()
        with WebSocketServer(
            f"{HOST}:0",
            settings=settings,
            certificate_file=authority.certificate_file,
            private_key_file=authority.private_key_file,
        ) as server:
            server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
            assert works(server.port, context)

    def test_client_and_server_agree_on_the_version_that_both_have(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """By contexts on both sides, messages go both ways in the version of TLS that the client's context allows."""
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""
            assert echoes(client, recorder)
            version = transport_of(process_of(client)).ssl_object.version()
            assert version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[context.maximum_version.name]

    def test_a_wss_uri_connects_over_tls(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """``websockets_connect('wss://…')`` connects and upgrades in one call."""
        protocol = WebSocketProtocolChat("echo", "", recorder.frame)
        client = HttpClientWebSockets.websockets_connect(
            f"wss://localhost:{server.port}/chat?room=1", protocol, tls_context=context, settings=fast_settings()
        )
        assert client is not None
        with client:
            assert client.tls
            assert protocol.upgrade_uri == "chat?room=1"
            assert echoes(client, recorder)

    def test_a_plain_request_is_answered_over_tls(self, authority: Authority, context: ssl.SSLContext) -> None:
        """HTTP without an upgrade goes through the same TLS connection, before an upgrade as well."""

        def page(request: HttpServerRequest) -> int:
            request.out_content = "secret page"
            return 200

        with tls_server(authority.server_context(), echo) as server, tls_client(server.port, context) as client:
            server.on_request = page
            assert client.request("/page") == 200
            assert client.answer.content == b"secret page"
            assert upgrade(client) == ""

    def test_old_versions_are_refused(self, server: WebSocketServer, authority: Authority) -> None:
        """A client that speaks nothing newer than TLS 1.1 gets no connection."""
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(authority.file)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, OSError)):
            TlsRawClient(server.port, old)
        assert server_tls_context(authority.certificate_file, authority.private_key_file).minimum_version >= VERSIONS[0]

    def test_a_key_with_a_password_is_read(self, authority: Authority, context: ssl.SSLContext) -> None:
        """An encrypted key serves with its password, and fails clearly without the right one."""
        certificate, key = authority.issue_encrypted("open sesame")
        with tls_server(server_tls_context(certificate, key, "open sesame"), echo) as server:
            assert works(server.port, context)
        with pytest.raises(ssl.SSLError):
            server_tls_context(certificate, key, "wrong")

    def test_files_that_cannot_be_read_are_an_error_before_anything_listens(self, tmp_path: Path) -> None:
        """A wrong path is an ``OSError`` of the constructor, which leaves no socket and no thread behind."""
        with pytest.raises(OSError, match="No such file"):
            WebSocketServer(f"{HOST}:0", certificate_file=str(tmp_path / "none.pem"))
        garbage = tmp_path / "garbage.pem"
        garbage.write_text("not a certificate", encoding="ascii")
        with pytest.raises(ssl.SSLError):
            WebSocketServer(f"{HOST}:0", certificate_file=str(garbage))
        with pytest.raises(ssl.SSLError):
            client_tls_context(str(garbage))

    def test_compression_and_tls_go_together(self, authority: Authority, context: ssl.SSLContext) -> None:
        """permessage-deflate is negotiated and used inside TLS like anywhere."""
        recorder = Recorder()
        with (
            tls_server(authority.server_context(), echo, permessage_deflate=True) as server,
            tls_client(server.port, context, permessage_deflate=True) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            assert process_of(client).protocol.compression is not None
            assert echoes(client, recorder, "compressible " * 1000)


class TestServerCertificates:
    def refusal(self, port: int, context: ssl.SSLContext | None, host: str = "localhost") -> str:
        """Return why a client does not connect."""
        with tls_client(port, context, host) as client:
            assert not client.connected
            assert upgrade(client) == "Not Connected"
            return client.last_error

    def test_an_unknown_authority_is_refused(
        self, server: WebSocketServer, stranger: Authority, context: ssl.SSLContext
    ) -> None:
        """A certificate that no trusted authority has signed is refused, and ``last_error`` says so."""
        trusting_others = stranger.client_context(context.maximum_version)
        error = self.refusal(server.port, trusting_others)
        assert "certificate verify failed" in error
        assert "unable to get local issuer" in error
        assert works(server.port, context)

    def test_without_a_context_the_authorities_of_the_system_are_asked(self, server: WebSocketServer) -> None:
        """``tls=True`` alone verifies: our own authority is not among those of the system."""
        assert "certificate verify failed" in self.refusal(server.port, None)

    def test_a_certificate_for_another_name_is_refused(self, authority: Authority, context: ssl.SSLContext) -> None:
        """The name in the certificate has to be the one that the client has asked for, be it a host's name or an address."""
        with tls_server(server_tls_context(*authority.issue("elsewhere.test")), echo) as server:
            assert "Hostname mismatch" in self.refusal(server.port, context)
            assert "IP address mismatch" in self.refusal(server.port, context, HOST)

    def test_an_expired_certificate_is_refused(self, authority: Authority, context: ssl.SSLContext) -> None:
        """A certificate that was good once is not good any more."""
        expired = server_tls_context(*authority.issue("localhost", expired=True))
        with tls_server(expired, echo) as server:
            assert "certificate has expired" in self.refusal(server.port, context)

    def test_websockets_connect_logs_why_a_certificate_was_refused(
        self, server: WebSocketServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The factory returns None for a bad certificate, and the log has the reason."""
        protocol = WebSocketProtocolChat("echo", "")
        with caplog.at_level(logging.WARNING, "mormot_ws"):
            assert HttpClientWebSockets.websockets_connect(f"wss://localhost:{server.port}", protocol) is None
        assert "certificate verify failed" in caplog.text

    def test_verification_can_be_switched_off(
        self, authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        """``ignore_certificate_errors`` accepts any certificate for any name, and a warning in the log says what that means."""
        with tls_server(server_tls_context(*stranger.issue("elsewhere.test")), echo) as server:
            with caplog.at_level(logging.WARNING, "mormot_ws"):
                careless = client_tls_context(ignore_certificate_errors=True)
            assert "not verified" in caplog.text
            with tls_client(server.port, careless, HOST) as client:
                assert upgrade(client) == ""

    @pytest.mark.parametrize("host", ["localhost", HOST])
    def test_the_server_sees_the_name_that_the_client_asks_for(
        self, authority: Authority, context: ssl.SSLContext, host: str
    ) -> None:
        """SNI carries the host's name; an address is not sent (RFC 6066 §3)."""
        names: list[str | None] = []
        server_context = authority.server_context()
        server_context.sni_callback = lambda tls, name, context: names.append(name)
        with tls_server(server_context, echo) as server, tls_client(server.port, context, host) as client:
            assert client.last_error == ""
        assert names == [None if host == HOST else host]

    def test_the_server_can_choose_its_certificate_by_name(
        self, authority: Authority, stranger: Authority, context: ssl.SSLContext
    ) -> None:
        """An ``sni_callback`` may exchange the context, as a server for several names does."""
        good, other = authority.server_context(), stranger.server_context()

        def choose(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
            if name == "localhost":
                tls.context = good

        other.sni_callback = choose
        with tls_server(other, echo) as server:
            assert works(server.port, context)
            assert "certificate verify failed" in self.refusal(server.port, context, HOST)

    def test_a_renewed_certificate_is_shown_to_later_connections(
        self, authority: Authority, stranger: Authority, context: ssl.SSLContext
    ) -> None:
        """Loading it into the server's context is enough; connections that are open go on."""
        with tls_server(authority.server_context(), echo) as server, tls_upgraded(server.port, context) as early:
            assert server.tls_context is not None
            server.tls_context.load_cert_chain(stranger.certificate_file, stranger.private_key_file)
            assert works(server.port, stranger.client_context(context.maximum_version))
            assert "certificate verify failed" in self.refusal(server.port, context)
            early.send_frame(focText, "undisturbed")
            assert early.receive_opcode(focText).text == "undisturbed"


class TestClientCertificates:
    @pytest.fixture
    def strict(self, authority: Authority, recorder: Recorder) -> Iterator[WebSocketServer]:
        """A server that wants a certificate of its clients."""
        context = server_tls_context(authority.certificate_file, authority.private_key_file, None, authority.file)
        with tls_server(context, recorder.frame) as server:
            yield server

    def outcome(self, port: int, context: ssl.SSLContext) -> str:
        """Return why a client gets no WebSocket, whether it learns that at the handshake (1.2) or at the first read (1.3)."""
        with tls_client(port, context) as client:
            return client.last_error or upgrade(client)

    def test_a_certificate_of_the_right_authority_is_accepted_and_seen(
        self, authority: Authority, strict: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """The server's callbacks see whose certificate it was."""
        seen: list[Any] = []

        def look(process: WebSocketProcess, frame: WebSocketFrame) -> None:
            if frame.opcode is focContinuation:
                seen.append(transport_of(process).ssl_object.getpeercert())

        strict.websocket_protocols.add_once(WebSocketProtocolChat("echo", "", look))
        certificate, key = authority.issue("alice@example.org")
        context.load_cert_chain(certificate, key)
        with tls_client(strict.port, context) as client:
            assert upgrade(client) == ""
            wait_for(lambda: seen)
        assert ("email", "alice@example.org") in seen[0]["subjectAltName"]

    def test_the_context_of_a_client_takes_certificate_and_key_files(
        self, authority: Authority, strict: WebSocketServer
    ) -> None:
        """``client_tls_context`` loads the client's own certificate, its key encrypted or not."""
        certificate, key = authority.issue_encrypted("open sesame")
        context = client_tls_context(authority.file, certificate, key, "open sesame")
        assert self.outcome(strict.port, context) == ""

    def test_no_certificate_is_refused(
        self, strict: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """Without a certificate there is no connection, and the client is told that one was wanted."""
        error = self.outcome(strict.port, context)
        assert "SSLError" in error
        assert re.search("certificate required|handshake failure", error)
        assert recorder.names == []

    def test_a_certificate_of_another_authority_is_refused(
        self, stranger: Authority, strict: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """A certificate that the server's authority has not signed is none."""
        context.load_cert_chain(*stranger.issue("mallory@example.org"))
        error = self.outcome(strict.port, context)
        assert "SSLError" in error
        assert "unknown ca" in error
        assert recorder.names == []


class TestReconnection:
    def test_a_lost_connection_comes_back_with_the_same_context(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """After a cut the client opens TLS again by the context that it was given, and the same objects go on."""
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""
            client.auto_reconnect()
            process = process_of(client)
            first = transport_of(process)
            for turn in (1, 2):
                there(server, process.connection_id).abort("cut by the test")
                recorder.wait("focContinuation", turn + 1)
                assert echoes(client, recorder, f"after cut {turn}")
            assert process_of(client) is process
            assert transport_of(process) is not first
            assert transport_of(process).ssl_object.context is context
            assert process.reconnects == 2

    def test_frames_queued_meanwhile_leave_over_the_new_connection(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """What ``send_frame_async`` took while the server was away arrives after the reconnection, in order."""
        with tls_server(authority.server_context(), echo) as first:
            port = first.port
            client = tls_client(port, context)
            assert upgrade(client, recorder.frame) == ""
            client.auto_reconnect()
        with client:
            recorder.wait("focConnectionClose")
            for number in range(20):
                assert process_of(client).send_frame_async(text(str(number)))
            with tls_server(authority.server_context(), echo, port):
                wait_for(lambda: len(recorder.texts()) == 20)
                client.free()
        assert recorder.texts() == [str(number) for number in range(20)]

    def test_a_server_that_comes_back_with_a_wrong_certificate_is_not_trusted(
        self, authority: Authority, stranger: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """The reconnection verifies like the first connection did; the right server is accepted again later."""
        with tls_server(authority.server_context(), echo) as first:
            port = first.port
            client = tls_client(port, context)
            assert upgrade(client, recorder.frame) == ""
            client.auto_reconnect()
        with client:
            with tls_server(stranger.server_context(), recorder.frame, port):
                wait_for(lambda: "certificate verify failed" in client.last_error)
                assert process_of(client).attempts > 0
                assert len(recorder.all("focContinuation")) == 1
            with tls_server(authority.server_context(), echo, port):
                recorder.wait("focContinuation", 2)
                assert echoes(client, recorder)
                client.free()


class TestTimeouts:
    def test_a_server_that_never_shakes_hands_obeys_the_time_out(self, context: ssl.SSLContext) -> None:
        """A server that accepts TCP and says nothing costs the client its time-out, and not more."""
        with RawServer(silent) as server:
            begin = time.monotonic()
            with tls_client(server.port, context, timeout=ms(300)) as client:
                took = time.monotonic() - begin
                assert client.last_error.startswith("TimeoutError")
                assert 290 * MS <= took < 2_000 * MS

    def test_a_server_that_drips_obeys_the_time_out(self, context: ssl.SSLContext) -> None:
        """The time-out is for the whole handshake: a byte now and then does not prolong it."""

        def drip(peer: RawServerPeer) -> None:
            peer.receive()
            for byte in b"\x16\x03\x03\x20\x00" + bytes(1000):
                peer.send(bytes([byte]))
                threading.Event().wait(20 * MS)

        with RawServer(drip) as server:
            begin = time.monotonic()
            with tls_client(server.port, context, timeout=ms(300)) as client:
                assert client.last_error.startswith("TimeoutError")
            assert time.monotonic() - begin < 2_000 * MS

    def test_free_interrupts_a_handshake_that_gets_no_answer(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """A reconnection that hangs in the TLS handshake does not delay ``free()``."""
        with tls_server(authority.server_context(), echo) as first:
            client = tls_client(first.port, context, timeout=ms(60_000))
            assert upgrade(client) == ""
            client.auto_reconnect()
            port = first.port
        with RawServer(silent, port=port) as server:
            wait_for(lambda: server.accepted)
            begin = time.monotonic()
            client.free()
            assert time.monotonic() - begin < 1_000 * MS

    def test_the_server_ends_a_handshake_that_takes_too_long(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """A client that connects and says nothing is cut after ``handshake_timeout``, and delays nobody meanwhile."""
        with (
            tls_server(authority.server_context(), echo, handshake_timeout=ms(400)) as server,
            RawClient(server.port) as mute,
        ):
            begin = time.monotonic()
            assert works(server.port, context)
            assert mute.read_to_end() == b""
            assert 300 * MS < time.monotonic() - begin < 3_000 * MS

    def test_the_server_ends_an_upgrade_that_does_not_come_after_the_handshake(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """``handshake_timeout`` covers the TLS handshake and the HTTP request together."""
        with (
            tls_server(authority.server_context(), echo, handshake_timeout=ms(400)) as server,
            TlsRawClient(server.port, context) as mute,
            pytest.raises((ssl.SSLEOFError, ConnectionResetError)),  # cut, without the close of TLS
        ):
            mute.read_to_close_notify()

    def test_free_of_the_server_does_not_wait_for_a_handshake(self, authority: Authority) -> None:
        """A connection that is inside its TLS handshake is cut at once when the server ends."""
        with (
            tls_server(authority.server_context(), echo, handshake_timeout=ms(60_000)) as server,
            RawClient(server.port) as mute,
        ):
            mute.send(b"\x16\x03\x01")
            wait_for(lambda: server._sockets)
            begin = time.monotonic()
            server.free()
            assert time.monotonic() - begin < 1_000 * MS

    def test_an_idle_connection_outlives_the_time_outs(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """Time-outs are for handshakes and writes: a link on which nothing comes for longer is healthy, not at its end."""
        with (
            tls_server(authority.server_context(), echo, send_timeout=ms(100), heartbeat_delay=ms(150)) as server,
            tls_client(server.port, context, timeout=ms(500), send_timeout=ms(100)) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            here = there(server, process_of(client).connection_id)
            begin = time.monotonic()
            wait_for(lambda: here.last_ping_delay > 0 and time.monotonic() - begin > 700 * MS)
            assert echoes(client, recorder)
            assert "focConnectionClose" not in recorder.names

    def test_a_write_to_a_peer_that_never_reads_ends_after_send_timeout(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """``send_frame`` returns False when the peer took nothing for ``send_timeout`` ms, and the connection is given up."""
        with tls_server(authority.server_context(), recorder.frame, send_timeout=ms(300)) as server:
            with tls_upgraded(server.port, context, receive_buffer=4096) as client:
                process = there(server, client.connection_id)
                big = WebSocketFrame(focBinary, bytes(1 << 20))
                begin = time.monotonic()
                assert any(not process.send_frame(big) for _ in range(64))
                assert time.monotonic() - begin < BOUND
                recorder.wait("focConnectionClose")
            assert "does not read" in process.last_error


class TestWrongPeers:
    def test_a_plain_websocket_client_at_a_tls_port_fails_cleanly(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """``ws://`` instead of ``wss://`` is an error text within a short time, and the server goes on."""
        with new_client(server.port) as client:
            assert upgrade(client) != ""
            assert not client.connected
        assert works(server.port, context)

    def test_plain_http_at_a_tls_port_gets_no_http_answer(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """A request in clear text is not answered in clear text; the connection ends."""
        with RawClient(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"HTTP" not in client.read_to_end()
        assert works(server.port, context)

    def test_tls_at_a_plain_port_fails_cleanly(self, context: ssl.SSLContext) -> None:
        """``wss://`` instead of ``ws://`` is an error that names TLS, at once and not after the time-out."""
        with echo_server() as server:
            with tls_client(server.port, context, timeout=ms(60_000)) as client:
                assert client.last_error.startswith("SSLError")
                assert upgrade(client) == "Not Connected"
            with new_client(server.port) as client:
                assert upgrade(client) == ""

    def test_garbage_at_a_tls_port_hurts_nobody(self, server: WebSocketServer, context: ssl.SSLContext) -> None:
        """Random bytes end their connection only."""
        for garbage in (b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"A" * 70_000, b"\x80\x80\x01\x03\x01"):
            with RawClient(server.port) as client:
                with contextlib.suppress(OSError):  # it may have ended already
                    client.send(garbage)
                    client.sock.shutdown(socket.SHUT_WR)
                client.read_to_end()
        assert works(server.port, context)

    def test_garbage_inside_an_established_connection_ends_it(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """A record that does not decrypt ends the connection with 1006 and a reason that names TLS."""
        with tls_server(authority.server_context(), recorder.frame) as server:
            client = tls_upgraded(server.port, context)
            process = there(server, client.connection_id)
            with socket.socket(fileno=client.sock.detach()) as bare:
                bare.settimeout(BOUND)
                bare.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                recorder.wait("focConnectionClose")
            assert process.close_code == 1006
            assert "SSLError" in process.last_error


class TestMessages:
    def test_a_big_message_goes_both_ways(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """Eight megabytes come back as they were."""
        payload = bytes(range(251)) * 33_422  # no power of two in it: misplaced pieces would show
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""
            assert process_of(client).send_frame(WebSocketFrame(focBinary, payload))
            assert recorder.wait("focBinary", bound=2 * BOUND).value.payload == payload

    def test_messages_of_all_sizes_around_the_records_come_back(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """Payloads around the 16 kB of a TLS record and the size below which header and payload are joined."""
        with tls_upgraded(server.port, context) as client:
            for size in (0, 1, 125, 126, 16_370, 16_384, 16_390, 65_535, 65_536, 65_537, 300_000):
                payload = bytes(number & 0xFF for number in range(size))
                client.send_frame(focBinary, payload)
                assert client.receive_opcode(focBinary).payload == payload

    def test_a_stream_that_arrives_byte_by_byte_is_read(self, server: WebSocketServer, context: ssl.SSLContext) -> None:
        """Records of one byte each, several in one segment, lose nothing and stall nothing."""
        with tls_upgraded(server.port, context) as client:
            for byte in client.encoded(focText, "drop by drop") + client.encoded(focText, "and again"):
                client.send(bytes([byte]))
            assert client.receive_opcode(focText).text == "drop by drop"
            assert client.receive_opcode(focText).text == "and again"

    def test_frames_in_the_record_of_the_request_are_not_lost(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """A client in a hurry may send its first frame together with its upgrade request."""
        with TlsRawClient(server.port, context) as client:
            client.upgrade(behind=client.encoded(focText, "early"))
            assert client.receive_opcode(focText).text == "early"

    def test_a_broadcast_reaches_all_in_order(self, authority: Authority, context: ssl.SSLContext) -> None:
        """``websocket_broadcast`` encodes once and encrypts for each connection; nobody misses anything."""
        payloads = [f"number {number} " + "x" * (number * 97) for number in range(100)]
        with (
            tls_server(authority.server_context(), echo) as server,
            contextlib.ExitStack() as stack,
        ):
            clients = [stack.enter_context(tls_upgraded(server.port, context)) for _ in range(4)]
            wait_for(lambda: server.websocket_connections == 4)
            for payload in payloads:
                assert server.websocket_broadcast(text(payload)) == 4
            for client in clients:
                assert [client.receive_opcode(focText).text for _ in payloads] == payloads

    def test_a_slow_reader_gets_everything_in_order_and_delays_nobody(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """Queued frames wait for a peer that does not read, while others are served; then all of them arrive."""
        with (
            tls_server(authority.server_context(), echo) as server,
            tls_upgraded(server.port, context, receive_buffer=4096) as slow,
            tls_upgraded(server.port, context) as other,
        ):
            process = there(server, slow.connection_id)
            for number in range(500):
                payload = number.to_bytes(2, "big") * (5 + number * 30)
                assert process.send_frame_async(WebSocketFrame(focBinary, payload))
            other.send_frame(focText, "quick")
            assert other.receive_opcode(focText).text == "quick"
            assert process.outgoing.count > 0  # the slow one is still being waited for
            for number in range(500):
                assert slow.receive_opcode(focBinary).payload == number.to_bytes(2, "big") * (5 + number * 30)
            slow.send_frame(focText, "done")
            assert slow.receive_opcode(focText).text == "done"

    def test_many_threads_send_while_the_loop_reads(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """Frames of several threads never mix with each other, nor with what comes in at the same time."""
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""

            def send(name: int) -> None:
                for number in range(50):
                    payload = f"{name}:{number}:" + str(name) * 3000
                    if number % 2:
                        assert process_of(client).send_frame(text(payload))
                    else:
                        assert process_of(client).send_frame_async(text(payload))

            threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(BOUND)
            recorder.wait("focText", 200)
        fields = [payload.split(":") for payload in recorder.texts()]
        assert all(filler == name * 3000 for name, _, filler in fields)
        for name in "0123":
            numbers = [int(number) for owner, number, _ in fields if owner == name]
            # the queue may overtake, but each way keeps its order
            assert [number for number in numbers if number % 2] == list(range(1, 50, 2))
            assert [number for number in numbers if not number % 2] == list(range(0, 50, 2))


class TestClose:
    def test_the_server_answers_a_close_and_ends_tls_in_order(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """After the close frames the server sends the close_notify of TLS, so that nobody takes the end for a cut."""
        with tls_upgraded(server.port, context) as client:
            client.send_frame(focConnectionClose, (1000).to_bytes(2, "big") + b"bye")
            assert client.receive_opcode(focConnectionClose).payload[:2] == (1000).to_bytes(2, "big")
            assert client.read_to_close_notify() == b""

    def test_a_server_that_stops_says_goodbye_and_ends_tls_in_order(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """``free()`` of the server sends 1001 inside TLS, and close_notify once the client has answered."""
        with tls_server(authority.server_context(), echo) as server, tls_upgraded(server.port, context) as client:
            there(server, client.connection_id)
            freeing = threading.Thread(target=server.free)
            freeing.start()
            goodbye = client.receive_opcode(focConnectionClose)
            assert goodbye.payload[:2] == (1001).to_bytes(2, "big")
            client.send_frame(focConnectionClose, goodbye.payload)
            assert client.read_to_close_notify() == b""
            freeing.join(BOUND)

    def test_a_refused_upgrade_ends_tls_in_order(self, server: WebSocketServer, context: ssl.SSLContext) -> None:
        """The answer to a bad request is followed by close_notify: the client knows that it has all of it."""
        with TlsRawClient(server.port, context) as client:
            client.send(client.request(protocol="unknown"))
            assert client.read_head().status == 400
            assert client.read_to_close_notify() == b""

    def closed_by_client(self, authority: Authority, context: ssl.SSLContext, act: Callable[[Any], Any]) -> list[str]:
        """Let a client close by *act*; return what a foreign server saw of it, in order."""
        seen: list[str] = []

        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            peer.receive_opcode(focConnectionClose)
            seen.append("close frame")
            peer.send_frame(focConnectionClose, (1000).to_bytes(2, "big"))
            try:
                peer.sock.unwrap()  # type: ignore[attr-defined]  # sends close_notify and waits for that of the peer
                seen.append("close_notify")
            except OSError as exc:
                seen.append(f"{type(exc).__name__}: {exc}")

        with RawServer(behind_tls(authority.server_context(), behaviour)) as server:
            client = tls_client(server.port, context)
            assert upgrade(client) == ""
            act(client)
            wait_for(lambda: len(seen) == 2)
            client.free()
        return seen

    def test_a_client_that_closes_ends_tls_in_order(self, authority: Authority, context: ssl.SSLContext) -> None:
        """``shutdown()`` of the client: close frames, then the server ends TLS, and the client answers its close_notify."""

        def act(client: HttpClientWebSockets) -> None:
            assert process_of(client).shutdown(1000)

        assert self.closed_by_client(authority, context, act) == ["close frame", "close_notify"]

    def test_a_client_that_is_freed_ends_tls_in_order(self, authority: Authority, context: ssl.SSLContext) -> None:
        """``free()`` of the client closes like ``shutdown()``: RFC 8446 §6.1 wants a close_notify from both sides."""
        seen = self.closed_by_client(authority, context, lambda client: client.free())
        assert seen == ["close frame", "close_notify"]

    def test_an_end_without_a_close_frame_is_abnormal(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """close_notify alone does not end a WebSocket: without a close frame it is 1006."""
        with tls_server(authority.server_context(), recorder.frame) as server:
            with tls_upgraded(server.port, context) as client:
                process = there(server, client.connection_id)
                with contextlib.suppress(OSError):
                    client.sock.unwrap()  # type: ignore[attr-defined]
            assert recorder.wait("focConnectionClose").value.payload == b""
        assert process.close_code == 1006

    def test_a_cut_inside_tls_is_abnormal(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """A TCP connection that just ends, without close_notify, is 1006 too, and no exception."""
        with tls_server(authority.server_context(), recorder.frame) as server:
            with tls_upgraded(server.port, context) as client:
                process = there(server, client.connection_id)
            recorder.wait("focConnectionClose")
        assert process.close_code == 1006


#: websockets' sync client and server read in one thread and write in another without a lock, which TLS 1.3 session tickets turn into
#: crashes: they live in a process of their own here, and get no tickets
_FOREIGN_CLIENT = """
import ssl, sys
from websockets.sync.client import connect

context = ssl.create_default_context(cafile=sys.argv[2])
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[3]]
with connect("wss://localhost:" + sys.argv[1], ssl=context, subprotocols=["echo"], proxy=None) as connection:
    connection.send("hello")
    assert connection.recv(20) == "hello"
    connection.send(bytes(200_000))
    assert connection.recv(20) == bytes(200_000)
    version = connection.socket.version()
print("done", version)
"""

_FOREIGN_SERVER = """
import ssl, sys, threading
from websockets.sync.server import serve

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.num_tickets = 0

def echo(connection):
    for message in connection:
        connection.send(message)
    print("closed", connection.close_code, flush=True)

with serve(echo, "127.0.0.1", 0, ssl=context, subprotocols=["echo"]) as server:
    print("port", server.socket.getsockname()[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.readline()
    server.shutdown()
"""


class TestForeignPeers:
    def test_the_sync_client_of_websockets_talks_to_our_server(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """Text, a message of several records, and the close, over TLS from another library."""
        closes: list[int] = []

        def ended(connection: WebSocketServerSocket) -> None:
            assert connection.websocket_process is not None
            closes.append(connection.websocket_process.close_code)

        server_context = authority.server_context()
        server_context.num_tickets = 0
        with tls_server(server_context, echo) as server:
            server.on_websocket_disconnect = ended
            version = context.maximum_version.name
            with Script(_FOREIGN_CLIENT, str(server.port), authority.file, version) as script:
                assert script.wait() == 0, script.text
                assert script.text.split() == ["done", version.replace("_", ".")]
            wait_for(lambda: closes)
        # our side of the close is what counts: on Python 3.10 theirs misses one in twenty close frames, of its own server's too
        assert closes == [1000]

    def test_our_client_talks_to_the_sync_server_of_websockets(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """The same with the roles exchanged."""
        with Script(_FOREIGN_SERVER, authority.certificate_file, authority.private_key_file) as script:
            with tls_client(int(script.wait_line("port ")), context) as client:
                assert upgrade(client, recorder.frame) == ""
                assert echoes(client, recorder)
                assert process_of(client).send_frame(WebSocketFrame(focBinary, bytes(200_000)))
                assert recorder.wait("focBinary").value.payload == bytes(200_000)
                assert process_of(client).shutdown(1000)
            script.wait_line("closed 1000")
            script.write_line()
            assert script.wait() == 0, script.text

    def test_websocket_client_talks_to_our_server(self, server: WebSocketServer, context: ssl.SSLContext) -> None:
        """websocket-client in one thread, with a time-out set."""
        connection = websocket.create_connection(
            f"wss://localhost:{server.port}/", BOUND, sslopt={"context": context}, subprotocols=["echo"]
        )
        try:
            connection.send("hello")
            assert connection.recv() == "hello"
            connection.send_binary(bytes(200_000))
            assert connection.recv() == bytes(200_000)
            connection.send_close(1000)
            opcode, payload = connection.recv_data(control_frame=True)
            assert (opcode, payload[:2]) == (websocket.ABNF.OPCODE_CLOSE, (1000).to_bytes(2, "big"))
        finally:
            connection.shutdown()  # type: ignore[no-untyped-call]

    def test_our_client_talks_to_a_server_on_plain_ssl_sockets(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """The other end is an ``ssl.SSLSocket`` of the standard library, and nothing else."""
        with (
            RawServer(behind_tls(authority.server_context(), polite)) as server,
            tls_client(server.port, context) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            assert echoes(client, recorder)
            assert process_of(client).shutdown(1000)


class TestReadingThatWrites:
    """Post-handshake authentication (TLS 1.3): what the server asks in the midst of a connection, the client answers while it reads."""

    @pytest.fixture
    def contexts(self, authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Of a server that may ask a client who it is at any time, and of a client that answers."""
        server_context = authority.server_context()
        server_context.load_verify_locations(authority.file)
        server_context.verify_mode = ssl.CERT_OPTIONAL
        client_context = authority.client_context(ssl.TLSVersion.TLSv1_3)
        client_context.load_cert_chain(*authority.issue("alice@example.org"))
        server_context.post_handshake_auth = client_context.post_handshake_auth = True
        return server_context, client_context

    @pytest.fixture
    def sockets(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """The two ends of a connection."""
        left, right = socket.socketpair()
        with left, right:
            yield left, right

    @staticmethod
    def shake_hands(transport: TlsTransport, other: OtherEnd) -> None:
        """Shake hands, each end in a thread."""
        shaking = threading.Thread(target=transport.handshake, args=(Deadline(ms(5_000)),))
        shaking.start()
        other.handshake()
        shaking.join(BOUND)

    @pytest.fixture
    def ends(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], sockets: tuple[socket.socket, socket.socket]
    ) -> tuple[TlsTransport, OtherEnd]:
        """A transport on the server's side, and the other end of its connection."""
        transport = TlsTransport(sockets[0], contexts[0], ms(5_000), server_side=True)
        other = OtherEnd(sockets[1], contexts[1])
        self.shake_hands(transport, other)
        return transport, other

    def half_answered(self, transport: TlsTransport, other: OtherEnd) -> bytes:
        """Let the server ask and read the first record of the answer; return the other records."""
        transport.ssl_object.verify_client_post_handshake()
        transport.sendall(b"who are you?")
        assert other.read() == b"who are you?"
        answer = other.output()
        first = 5 + int.from_bytes(answer[3:5], "big")
        assert first < len(answer)
        other.sock.sendall(answer[:first])
        assert transport.recv_now(100) is None
        return answer[first:]

    def test_a_write_while_half_an_answer_is_read_waits_for_the_rest(self, ends: tuple[TlsTransport, OtherEnd]) -> None:
        """OpenSSL does not write between two records of the answer: the write waits for the reader, it does not fail."""
        transport, other = ends
        rest = self.half_answered(transport, other)
        failed: list[Exception] = []

        def write() -> None:
            try:
                transport.sendall(b"welcome")
            except OSError as exc:
                failed.append(exc)

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(50 * MS)  # gives it the time to fail in
        other.sock.sendall(rest)
        assert transport.recv_now(100) is None
        writer.join(BOUND)
        assert failed == []
        assert other.read() == b"welcome"
        assert transport.ssl_object.getpeercert()

    def test_a_write_that_does_not_wait_is_put_off_then(self, ends: tuple[TlsTransport, OtherEnd]) -> None:
        """The keeper's way of writing takes nothing meanwhile (or takes it and sends it later), and does not fail either."""
        transport, other = ends
        rest = self.half_answered(transport, other)
        taken = transport.send_now(b"welcome")
        assert taken in (0, len(b"welcome"))
        other.sock.sendall(rest)
        assert transport.recv_now(100) is None
        transport.send_now(b"welcome"[taken:])
        assert other.read() == b"welcome"

    def test_an_answer_that_meets_a_blocked_write_leaves_behind_it(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        """What reading gave rise to while a write was blocked must not wait for some later write, which may never come."""
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport = TlsTransport(sockets[0], contexts[1], ms(5_000), server_hostname="localhost")
        other = OtherEnd(sockets[1], contexts[0], server_side=True)
        self.shake_hands(transport, other)
        other.tls.verify_client_post_handshake()
        other.tls.write(b"who are you?")
        other.sock.sendall(other.output())
        payload = bytes(200_000)
        writer = threading.Thread(target=transport.sendall, args=(payload,))
        writer.start()
        wait_for(lambda: select.select([other.sock], [], [], 0)[0])  # it is writing, more than the kernel takes
        assert transport.recv_now(100) == b"who are you?"
        received = 0
        while received < len(payload):
            received += len(other.read())
        writer.join(BOUND)
        other.sock.settimeout(500 * MS)
        with contextlib.suppress(TimeoutError):
            other.read()  # there is no more to read, but records of the handshake to work on
        assert other.tls.getpeercert(), "the answer did not leave"

    def test_a_client_answers_while_it_only_reads(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], recorder: Recorder
    ) -> None:
        """Our client sends the answer by itself, although its application sends nothing."""
        server_context, context = contexts
        seen: list[Any] = []

        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            assert isinstance(peer.sock, ssl.SSLSocket)
            seen.append(peer.sock.getpeercert())
            peer.sock.verify_client_post_handshake()
            peer.send_frame(focText, "who are you?")
            peer.sock.settimeout(100 * MS)
            with contextlib.suppress(TimeoutError):
                peer.receive()  # nothing but the answer comes, which is no application data
            seen.append(peer.sock.getpeercert())
            peer.sock.settimeout(BOUND)
            peer.send_frame(focText, "thank you")
            peer.receive_opcode(focConnectionClose)

        with RawServer(behind_tls(server_context, behaviour)) as server, tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""
            recorder.wait("focText", 2)
        assert seen[0] is None
        assert ("email", "alice@example.org") in seen[1]["subjectAltName"]


@pytest.mark.soak
def test_reading_while_others_write_is_safe() -> None:
    """The short form of ``python -m tests.tls_duplex``: TLS 1.3 under load in both directions loses and garbles nothing."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.tls_duplex",
        "--connections",
        "40",
        "--peer",
        "mormot_ws",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)["mormot_ws"]
    assert figures["connections"] == 40
    assert figures["failures"] == 0
    assert figures["crashes"] == 0
    assert figures["server"] == {"": 40}
    assert figures["asked"] > 40  # reading had to write, in the midst of the load
