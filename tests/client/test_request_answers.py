"""Answers to plain requests: their time and their size are bounded."""

from __future__ import annotations

import time

from support import BOUND, RawServer, RawServerPeer, ms, new_client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


def answering(*pieces: bytes) -> RawServer:
    """A server that reads a request and sends *pieces*, one after another."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        for piece in pieces:
            peer.send(piece)
        peer.wait_end()

    return RawServer(behaviour)


def test_a_longer_answer_than_announced_as_allowed_is_refused() -> None:
    """By its announced length, before the body is read."""
    with (
        answering(HEAD + b"Content-Length: 2000\r\n\r\n" + bytes(2000)) as server,
        new_client(server.port, max_answer_bytes=1000) as client,
    ):
        assert client.request("/", "GET") == 666
        assert "max_answer_bytes is 1000" in client.answer.error


def test_an_answer_without_a_length_is_cut_at_the_limit() -> None:
    """In chunks, whose sum nobody announces."""
    chunks = b"64\r\n" + bytes(100) + b"\r\n"
    with (
        answering(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 20) as server,
        new_client(server.port, max_answer_bytes=1000) as client,
    ):
        assert client.request("/", "GET") == 666
        assert "max_answer_bytes" in client.answer.error


def test_an_answer_in_many_chunks_comes_whole() -> None:
    """Within the limit nothing changes."""
    chunks = b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    with (
        answering(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks) as server,
        new_client(server.port) as client,
    ):
        assert client.request("/", "GET") == 200
        assert client.answer.content == b"x" * 5000


def test_an_answer_that_trickles_in_is_given_up_at_the_time_out() -> None:
    """The time-out is the whole answer's, not that of each byte."""

    def trickle(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
        give_up = time.monotonic() + BOUND
        try:
            while time.monotonic() < give_up:
                peer.send(b"xx")
        except OSError:
            # the client has closed
            return

    with RawServer(trickle) as server, new_client(server.port, timeout=ms(300)) as client:
        began = time.monotonic()
        assert client.request("/", "GET") == 666
        assert "Timeout" in client.answer.error
        assert time.monotonic() - began < BOUND / 2
