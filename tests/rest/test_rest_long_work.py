"""Large SynLZ streams are decompressed in pieces: one thread at a time, with pauses for all others,
and no longer than the connection lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from support import BOUND, TIMEOUT_FACTOR, active, in_threads, wait_for
from support.rest import RawRestClient, mirror, rest_server

from mormot_ws import focBinary, pboSynLzCompress
from mormot_ws.rest import long_work
from mormot_ws.rest.crc32c import crc32c
from mormot_ws.rest.long_work import LongWork, WorkStoppedError
from mormot_ws.rest.synlz import synlz_compress, synlz_decompress
from mormot_ws.rest.turns import Turn, Turns


def slow_stream(groups: int) -> tuple[bytes, int]:
    """Return a stream of short matches, the slowest there is, and the size of its content."""
    first = b"\xf0\xff\xff\xff" + bytes(4) + b"\x01\x00" * 28
    size = 4 + 28 * 3 + groups * 96
    head = (0x8000 | size & 0x7FFF | size >> 15 << 16).to_bytes(4, "little")
    return head + first + (b"\xff" * 4 + b"\x01\x00" * 32) * groups, size


def container(stream: bytes, content: bytes) -> bytes:
    """Return *stream* in a container."""
    crc = crc32c(content).to_bytes(4, "little")
    return crc + b"\x01" + crc32c(stream).to_bytes(4, "little") + stream


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Give the turns of this test alone."""
    shared = long_work._Shared()
    monkeypatch.setattr(long_work, "_shared", shared)
    yield shared.turns
    assert not shared.turns.queue, "a turn was not given on"


class TestLongWork:
    def test_one_thread_works_at_a_time_and_all_get_on(self, turns: Turns) -> None:
        """After its first piece, each waits for its turn."""
        working: list[int] = []
        most: list[int] = []

        def work(number: int) -> int:
            with LongWork(lambda: True) as between:
                for _ in range(20):
                    between()
                    working.append(number)
                    most.append(len(working))
                    working.remove(number)
            return number

        assert sorted(in_threads(4, work)) == list(range(4))
        assert max(most) == 1

    def test_it_stops_when_it_is_no_longer_wanted(self, turns: Turns) -> None:
        """The turn is given on."""
        wanted = [True]
        with LongWork(lambda: wanted[0]) as between:
            between()
            wanted[0] = False
            with pytest.raises(WorkStoppedError):
                between()

    def test_a_turn_that_does_not_come_is_not_waited_for_long(
        self, turns: Turns, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody can hold up the others for good."""
        monkeypatch.setattr(long_work, "_MOST_WAIT", 0.01)
        mine = Turn()
        assert turns.wait(mine, 0)
        with LongWork(lambda: True) as between:
            between()
            between()
        turns.give(mine)


class TestDecoding:
    def test_a_short_stream_has_no_pause(self) -> None:
        """It costs nothing."""
        stream = synlz_compress(b"some text, " * 2_000)
        synlz_decompress(stream, 1 << 20, pytest.fail)  # type: ignore[arg-type]

    def test_a_piece_takes_a_few_milliseconds_of_processor_time(self) -> None:
        """Of the slowest stream there is; what is raised between them comes out."""
        stream, size = slow_stream(5_000)
        ends = [time.thread_time()]
        content = synlz_decompress(stream, size, lambda: ends.append(time.thread_time()))
        assert content == bytes(size)
        pieces = sorted(later - earlier for earlier, later in pairwise(ends))
        assert len(pieces) > 15
        assert pieces[len(pieces) // 2] < 0.05 * TIMEOUT_FACTOR

        def stop() -> None:
            raise WorkStoppedError

        with pytest.raises(WorkStoppedError):
            synlz_decompress(stream, size, stop)

    @pytest.mark.parametrize("key", ["", "secret"])
    def test_the_end_of_the_connection_ends_it(
        self, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its thread does not work on for seconds; the message is dropped, and nobody blamed."""
        begun, ended = threading.Event(), threading.Event()

        class Watched(LongWork):
            def __call__(self) -> None:
                begun.set()
                assert ended.wait(BOUND)
                super().__call__()

        monkeypatch.setattr("mormot_ws.rest.protocols.LongWork", Watched)
        stream, size = slow_stream(1_000)
        wire = container(stream, bytes(size))
        with (
            rest_server(mirror, key, pboSynLzCompress) as server,
            RawRestClient(server.port, "synopsebin") as peer,
        ):
            process = active(server, 1)
            encryption = process.protocol.encryption
            peer.send_frame(focBinary, encryption.encrypt(wire) if key else wire)
            assert begun.wait(BOUND)
            process.abort("test")
            ended.set()
            wait_for(lambda: process.dropped_count == 1)
        assert process.last_error == "test"
        assert process.protocol.last_error == ""
