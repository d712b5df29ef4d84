"""SynLZ, its container and CRC-32C: round trips of anything, and streams that no encoder wrote.
The captured ones are elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from binascii import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BOUND

from mormot_ws.rest.algosynlz import (
    OVERHEAD,
    algo_compress,
    algo_decompress,
    is_compressed,
    is_text_type,
    is_worth_storing,
)
from mormot_ws.rest.crc32c import HAVE_SPEEDUPS, crc32c, crc32c_python
from mormot_ws.rest.synlz import SynLZError, synlz_compress, synlz_decompress

LIMIT = 5_000
#: bytes with enough repetition for matches of all lengths and distances
compressible = st.lists(
    st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 80))
    | st.tuples(st.binary(max_size=40), st.just(1)),
    max_size=12,
).map(lambda runs: b"".join(piece * count for piece, count in runs))
anything = compressible | st.binary(max_size=400)
quick = settings(deadline=None, max_examples=150)


def flipped(data: bytes, at: int, bits: int = 1) -> bytes:
    return data[:at] + bytes((data[at] ^ bits,)) + data[at + 1 :]


class TestSynLZ:
    @given(anything)
    @quick
    def test_what_was_compressed_comes_back(self, data: bytes) -> None:
        """With a limit that is just large enough, and not with one byte less."""
        stream = synlz_compress(data)
        assert len(stream) <= 10 + len(data) + len(data) // 8
        assert synlz_decompress(stream, len(data)) == data
        if data:
            with pytest.raises(SynLZError):
                synlz_decompress(stream, len(data) - 1)

    @pytest.mark.parametrize("size", [11, 12, 32, 43, 32_767, 32_768, 32_780, 65_546, 98_500])
    @pytest.mark.parametrize("repeated", [1, 3, 7, 300])
    def test_sizes_around_the_borders(self, size: int, repeated: int) -> None:
        """Of the header, of the last group, and of the pieces in which hashes are computed."""
        data = (bytes(i * i % 251 for i in range(repeated)) * (size // repeated + 1))[:size]
        assert synlz_decompress(synlz_compress(data), size) == data

    def test_a_match_ends_before_the_last_byte(self) -> None:
        """As in the native encoder: the last byte is always a literal."""
        data = b"abcd" * 100
        assert synlz_compress(data)[-1:] == data[-1:]

    @given(st.binary(max_size=300), st.integers(0, LIMIT))
    @quick
    def test_garbage_raises_its_one_exception_or_gives_what_it_announces(
        self, stream: bytes, limit: int
    ) -> None:
        """And never more than the limit."""
        try:
            data = synlz_decompress(stream, limit)
        except SynLZError:
            return
        assert len(data) <= limit

    @given(anything, st.data())
    @quick
    def test_a_damaged_stream_raises_its_one_exception_or_keeps_its_size(
        self, data: bytes, draw: st.DataObject
    ) -> None:
        """Truncated, or with some bits inverted."""
        stream = synlz_compress(data)
        at = draw.draw(st.integers(0, len(stream) - 1))
        try:
            # a control word of no items may be cut off at the end: it says nothing
            assert synlz_decompress(stream[:at], LIMIT) == data
            assert stream[at:] == bytes(4)
        except SynLZError:
            pass
        try:
            damaged = synlz_decompress(flipped(stream, at, draw.draw(st.integers(1, 255))), LIMIT)
        except SynLZError:
            return
        assert len(damaged) <= LIMIT

    def test_a_stream_that_announces_much_costs_nothing(self) -> None:
        """The limit is looked at before anything else, and a short stream cannot become long."""
        for announced in (b"\xff\xff\xff\xff", b"\x00\x80\xff\x01"):
            began = time.process_time()
            with pytest.raises(SynLZError, match=r"limit|announces|truncated"):
                synlz_decompress(announced + b"\0\0\0\0" + b"x" * 32, 1 << 20)
            assert time.process_time() - began < 0.5

    def test_a_match_of_nothing_is_an_error(self) -> None:
        """The table is empty at the beginning."""
        with pytest.raises(SynLZError, match="invalid reference"):
            synlz_decompress(b"\x05\x00" + b"\x01\0\0\0" + b"\x13\x00", 10)

    def test_a_bomb_ends_at_its_size(self) -> None:
        """Three megabytes from 33 kB, but one hundred bytes are announced: no more memory is taken
        than for those.
        """
        stream = synlz_compress(b"abc" * 1_000_000)
        bomb = b"\x64\x00" + stream[4:]
        tracemalloc.start()
        try:
            with pytest.raises(SynLZError, match="more than its header announces"):
                synlz_decompress(bomb, 1 << 30)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()

    def test_the_last_match_begins_eleven_bytes_before_the_end(self) -> None:
        """One that could begin later is not made: its bytes are literals."""
        filling = bytes(range(128, 160))
        no_match, match = (b"abc" + filling + b"abc" + b"0123456789"[:rest] for rest in (7, 8))
        literals = 2 + len(no_match) + 2 * 4
        assert len(synlz_compress(no_match)) == literals
        assert len(synlz_compress(match)) == literals  # one byte more, of which three are two now

    def test_more_than_a_gigabyte_is_refused(self) -> None:
        """At once; the object below has a size only."""

        class Huge(bytes):
            def __len__(self) -> int:
                return 1 << 30

        with pytest.raises(ValueError, match="1 GB"):
            synlz_compress(Huge())


class TestContainer:
    @given(anything, st.booleans())
    @quick
    def test_what_was_put_in_comes_out(self, data: bytes, stored: bool) -> None:
        """Compressed or stored, whatever the threshold; no data has no container."""
        for threshold in (0, 450):
            container = algo_compress(data, stored=stored, threshold=threshold)
            assert algo_decompress(container, len(data)) == data
            assert len(container) <= (len(data) + OVERHEAD if data else 0)
            assert not stored or container[4:5] != b"\x01"
            if data:
                assert algo_decompress(container, len(data) - 1) == b""

    @given(st.binary(max_size=60))
    @quick
    def test_garbage_is_nothing(self, container: bytes) -> None:
        """No exception comes out, and no content: the checksums do not fit."""
        assert algo_decompress(container, LIMIT) == b""

    @pytest.mark.parametrize("data", [b"x" * 40, b"some text, " * 60], ids=["stored", "compressed"])
    def test_any_bit_inverted_and_any_truncation_is_noticed(self, data: bytes) -> None:
        """By one of the two hashes, or the marker."""
        container = algo_compress(data)
        assert container[4] == (len(data) > 450)
        for at in range(len(container)):
            assert algo_decompress(container[:at], LIMIT) == b""
            for bit in range(8):
                assert algo_decompress(flipped(container, at, 1 << bit), LIMIT) == b""

    def test_a_stream_whose_hash_is_right_but_which_is_corrupt_is_nothing(self) -> None:
        """An attacker can compute hashes."""
        stream = b"\x05\x00\x01\0\0\0\x13\x00"
        container = bytes(4) + b"\x01" + crc32c(stream).to_bytes(4, "little") + stream
        assert algo_decompress(container, LIMIT) == b""

    def test_short_and_incompressible_data_is_stored(self) -> None:
        """From 450 bytes on the shorter form wins."""
        assert algo_compress(b"a b " * 112)[4] == 0
        assert algo_compress(b"a b " * 113)[4] == 1
        assert algo_compress(bytes(i * 89 % 256 for i in range(200)), threshold=0)[4] == 0

    @pytest.mark.parametrize(
        ("content_type", "text"),
        [
            ("text/plain", True),
            ("TEXT/HTML; charset=utf-8", True),
            ("image/svg+xml", True),
            ("application/json", True),
            ("application/vnd.api+json", True),
            ("application/atom+xml", True),
            ("application/javascript", True),
            ("application/rtf", True),
            ("application/octet-stream", False),
            ("image/png", False),
            ("", False),
        ],
    )
    def test_text_types(self, content_type: str, text: bool) -> None:
        """Of any letter case; only a type that is no text lets compressed content be stored."""
        assert is_text_type(content_type) is text
        jpeg = b"\xff\xd8\xff\xe0" + bytes(10)
        assert is_worth_storing(content_type, jpeg) is (content_type != "" and not text)
        assert not is_worth_storing(content_type, b"no image at all")

    @pytest.mark.parametrize(
        "start",
        [
            *(
                b"\xff\xd8\xff",
                b"\x89PNG",
                b"PK\x03\x04",
                b"\x1f\x8b\x08",
                b"GIF8",
                b"BZh",
                b"7z\xbc\xaf",
                b"Rar!",
                b"RIFF",
            ),
            *(
                b"\0\0\0\x18ftyp",
                b"ABCDmoov",
                b"\x51\x10\xa5\xab",
                b"\xab\xa5\xa5\xab",
                b"\xb2\xa5\xa5\xab",
            ),
        ],
    )
    def test_signatures(self, start: bytes) -> None:
        """Of more than eight bytes."""
        assert is_compressed(start.ljust(9, b"."))
        assert not is_compressed(start[:8])

    @pytest.mark.parametrize(
        "start",
        [
            b"OggS",
            b"\xfd7zXZ",
            b"\x28\xb5\x2f\xfd",
            b"\x1a\x45\xdf\xa3",
            b"wOF2",
            b"\x1f\x8b\x00",
            b"\xb3\xa5\xa5\xab",
        ],
    )
    def test_what_a_native_sender_compresses_all_the_same(self, start: bytes) -> None:
        """Compressed or not: the bytes on the wire would be others."""
        assert not is_compressed(start.ljust(9, b"."))


class TestCrc32c:
    @given(st.binary(max_size=3_000))
    @quick
    def test_folding_gives_what_the_table_gives(self, data: bytes) -> None:
        """Byte by byte, by the definition."""
        crc = 0xFFFFFFFF
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        assert crc32c_python(data) == crc ^ 0xFFFFFFFF

    @pytest.mark.skipif(not HAVE_SPEEDUPS, reason="google-crc32c is not installed")
    @pytest.mark.parametrize("size", [63, 64, 4_095, 131_071, 131_072, 131_073, 400_001])
    def test_both_forms_agree(self, size: int) -> None:
        """Around the borders of what is folded at once."""
        data = crc32(b"seed").to_bytes(4, "big") * (size // 4) + b"xyz"[: size % 4]
        assert crc32c_python(data) == crc32c(data)

    def test_the_environment_keeps_to_python(self) -> None:
        """With MORMOT_WS_NO_SPEEDUPS."""
        code = (
            "from mormot_ws.rest import crc32c as m; assert m.crc32c is m.crc32c_python; "
            "print(hex(m.crc32c(b'123456789')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"MORMOT_WS_NO_SPEEDUPS": "1"},
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=True,
        )
        assert done.stdout == "0xe3069283\n"
