"""TLS on both sides, in both versions that are in use: connecting, certificates, reconnection,
time-outs, wrong peers.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    RawClient,
    RawServer,
    RawServerPeer,
    Recorder,
    active,
    echo,
    echo_server,
    fast_settings,
    ms,
    new_client,
    process_of,
    silent,
    text,
    tls,
    upgrade,
    wait_for,
)
from support.tls import (
    VERSIONS,
    Authority,
    TlsRawClient,
    echoes,
    tls_client,
    tls_server,
    tls_upgraded,
    works,
)

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    client_tls_context,
    focBinary,
    focContinuation,
    focText,
    server_tls_context,
)
from mormot_ws.sockets.tls_transport import TlsTransport

authority, stranger, context, server = (
    tls.authority,
    tls.stranger,
    tls.context,
    tls.server,
)


def transport_of(process: WebSocketProcess) -> TlsTransport:
    """Return what carries the bytes of a connection, which has to be TLS."""
    transport = getattr(process, "transport", None)
    assert isinstance(transport, TlsTransport)
    return transport


class TestConnecting:
    def test_a_server_by_certificate_files_echoes(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
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
        """By contexts on both sides, messages go both ways in the version of TLS that the client's
        context allows.
        """
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""
            assert echoes(client, recorder)
            version = transport_of(process_of(client)).ssl_object.version()
            assert (
                version
                == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[context.maximum_version.name]
            )

    def test_a_wss_uri_connects_over_tls(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """``websockets_connect('wss://…')`` connects and upgrades in one call."""
        protocol = WebSocketProtocolChat("echo", "", recorder.frame)
        client = HttpClientWebSockets.websockets_connect(
            f"wss://localhost:{server.port}/chat?room=1",
            protocol,
            tls_context=context,
            settings=fast_settings(),
        )
        assert client is not None
        with client:
            assert client.tls
            assert protocol.upgrade_uri == "chat?room=1"
            assert echoes(client, recorder)

    def test_a_plain_request_is_answered_over_tls(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """HTTP without an upgrade goes through the same TLS connection, before an upgrade as
        well.
        """

        def page(request: HttpServerRequest) -> int:
            request.out_content = "secret page"
            return 200

        with (
            tls_server(authority.server_context(), echo) as server,
            tls_client(server.port, context) as client,
        ):
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
        assert (
            server_tls_context(
                authority.certificate_file, authority.private_key_file
            ).minimum_version
            >= VERSIONS[0]
        )

    def test_a_key_with_a_password_is_read(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """An encrypted key serves with its password, and fails clearly without the right one."""
        certificate, key = authority.issue_encrypted("open sesame")
        with tls_server(server_tls_context(certificate, key, "open sesame"), echo) as server:
            assert works(server.port, context)
        with pytest.raises(ssl.SSLError):
            server_tls_context(certificate, key, "wrong")

    def test_files_that_cannot_be_read_are_an_error_before_anything_listens(
        self, tmp_path: Path
    ) -> None:
        """A wrong path is an ``OSError`` of the constructor, which leaves no socket and no thread
        behind.
        """
        with pytest.raises(OSError, match="No such file"):
            WebSocketServer(f"{HOST}:0", certificate_file=str(tmp_path / "none.pem"))
        garbage = tmp_path / "garbage.pem"
        garbage.write_text("not a certificate", encoding="ascii")
        with pytest.raises(ssl.SSLError):
            WebSocketServer(f"{HOST}:0", certificate_file=str(garbage))
        with pytest.raises(ssl.SSLError):
            client_tls_context(str(garbage))

    def test_compression_and_tls_go_together(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
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
        """A certificate that no trusted authority has signed is refused, and ``last_error`` says
        so.
        """
        trusting_others = stranger.client_context(context.maximum_version)
        error = self.refusal(server.port, trusting_others)
        assert "certificate verify failed" in error
        assert "unable to get local issuer" in error
        assert works(server.port, context)

    def test_without_a_context_the_authorities_of_the_system_are_asked(
        self, server: WebSocketServer
    ) -> None:
        """``tls=True`` alone verifies: our own authority is not among those of the system."""
        assert "certificate verify failed" in self.refusal(server.port, None)

    def test_a_certificate_for_another_name_is_refused(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """The name in the certificate has to be the one that the client has asked for, be it a
        host's name or an address.
        """
        with tls_server(server_tls_context(*authority.issue("elsewhere.test")), echo) as server:
            assert "Hostname mismatch" in self.refusal(server.port, context)
            assert "IP address mismatch" in self.refusal(server.port, context, HOST)

    def test_an_expired_certificate_is_refused(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
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
            assert (
                HttpClientWebSockets.websockets_connect(f"wss://localhost:{server.port}", protocol)
                is None
            )
        assert "certificate verify failed" in caplog.text

    def test_verification_can_be_switched_off(
        self, authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        """``ignore_certificate_errors`` accepts any certificate for any name, and a warning in the
        log says what that means.
        """
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
        with (
            tls_server(server_context, echo) as server,
            tls_client(server.port, context, host) as client,
        ):
            assert client.last_error == ""
        assert names == [None if host == HOST else host]

    def test_the_server_can_choose_its_certificate_by_name(
        self, authority: Authority, stranger: Authority, context: ssl.SSLContext
    ) -> None:
        """An ``sni_callback`` may exchange the context, as a server for several names does."""
        good, other = authority.server_context(), stranger.server_context()

        def choose(
            tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
        ) -> None:
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
        with (
            tls_server(authority.server_context(), echo) as server,
            tls_upgraded(server.port, context) as early,
        ):
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
        context = server_tls_context(
            authority.certificate_file, authority.private_key_file, None, authority.file
        )
        with tls_server(context, recorder.frame) as server:
            yield server

    def outcome(self, port: int, context: ssl.SSLContext) -> str:
        """Return why a client gets no WebSocket, whether it learns that at the handshake (1.2) or
        at the first read (1.3).
        """
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
        """Without a certificate there is no connection, and the client is told that one was
        wanted.
        """
        error = self.outcome(strict.port, context)
        assert "SSLError" in error
        assert re.search("certificate required|handshake failure", error)
        assert recorder.names == []

    def test_a_certificate_of_another_authority_is_refused(
        self,
        stranger: Authority,
        strict: WebSocketServer,
        context: ssl.SSLContext,
        recorder: Recorder,
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
        """After a cut the client opens TLS again by the context that it was given, and the same
        objects go on.
        """
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""
            client.auto_reconnect()
            process = process_of(client)
            first = transport_of(process)
            for turn in (1, 2):
                active(server, process.connection_id).abort("cut by the test")
                recorder.wait("focContinuation", turn + 1)
                assert echoes(client, recorder, f"after cut {turn}")
            assert process_of(client) is process
            assert transport_of(process) is not first
            assert transport_of(process).ssl_object.context is context
            assert process.reconnects == 2

    def test_frames_queued_meanwhile_leave_over_the_new_connection(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """What ``send_frame_async`` took while the server was away arrives after the reconnection,
        in order.
        """
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
        """The reconnection verifies like the first connection did; the right server is accepted
        again later.
        """
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
    def test_a_server_that_never_shakes_hands_obeys_the_time_out(
        self, context: ssl.SSLContext
    ) -> None:
        """A server that accepts TCP and says nothing costs the client its time-out, and not
        more.
        """
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
                # the pace of what drips
                time.sleep(20 * MS)

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
        """A client that connects and says nothing is cut after ``handshake_timeout``, and delays
        nobody meanwhile.
        """
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
        """Time-outs are for handshakes and writes: a link on which nothing comes for longer is
        healthy, not at its end.
        """
        with (
            tls_server(
                authority.server_context(), echo, send_timeout=ms(100), heartbeat_delay=ms(150)
            ) as server,
            tls_client(server.port, context, timeout=ms(500), send_timeout=ms(100)) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            here = active(server, process_of(client).connection_id)
            begin = time.monotonic()
            wait_for(lambda: here.last_ping_delay > 0 and time.monotonic() - begin > 700 * MS)
            assert echoes(client, recorder)
            assert "focConnectionClose" not in recorder.names

    def test_a_write_to_a_peer_that_never_reads_ends_after_send_timeout(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """``send_frame`` returns False when the peer took nothing for ``send_timeout`` ms, and the
        connection is given up.
        """
        with tls_server(authority.server_context(), recorder.frame, send_timeout=ms(300)) as server:
            with tls_upgraded(server.port, context, receive_buffer=4096) as client:
                process = active(server, client.connection_id)
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
        """``ws://`` instead of ``wss://`` is an error text within a short time, and the server
        goes on.
        """
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
        """``wss://`` instead of ``ws://`` is an error that names TLS, at once and not after the
        time-out.
        """
        with echo_server() as server:
            with tls_client(server.port, context, timeout=ms(60_000)) as client:
                assert client.last_error.startswith("SSLError")
                assert upgrade(client) == "Not Connected"
            with new_client(server.port) as client:
                assert upgrade(client) == ""

    def test_garbage_at_a_tls_port_hurts_nobody(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """Random bytes end their connection only."""
        for garbage in (
            b"\x00" * 100,
            b"\x16\x03\x01\xff\xff" + b"A" * 70_000,
            b"\x80\x80\x01\x03\x01",
        ):
            with RawClient(server.port) as client:
                with contextlib.suppress(OSError):  # it may have ended already
                    client.send(garbage)
                    client.sock.shutdown(socket.SHUT_WR)
                client.read_to_end()
        assert works(server.port, context)

    def test_garbage_inside_an_established_connection_ends_it(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """A record that does not decrypt ends the connection with 1006 and a reason that names
        TLS.
        """
        with tls_server(authority.server_context(), recorder.frame) as server:
            client = tls_upgraded(server.port, context)
            process = active(server, client.connection_id)
            with socket.socket(fileno=client.sock.detach()) as bare:
                bare.settimeout(BOUND)
                bare.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                recorder.wait("focConnectionClose")
            assert process.close_code == 1006
            assert "SSLError" in process.last_error
