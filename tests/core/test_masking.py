"""Masking (RFC 6455 §5.3): both ways of doing it, the choice between them, and the supply of
keys.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mormot_ws.core import masking
from mormot_ws.core.masking import STRIDED_FROM, Buffer, MaskSource, mask_bytes, mask_bytes_python

QUICK = settings(deadline=None, max_examples=100)
KEY = b"\x12\x34\xab\xcd"

MaskFunction = Callable[[Buffer, bytes], bytes]

#: every function that may end up masking our payloads
both_functions = pytest.mark.parametrize(
    "function", [mask_bytes_python, mask_bytes], ids=["pure Python", "the one in use"]
)


def xor_by_definition(data: bytes, key: bytes) -> bytes:
    """Mask *data* the way that the RFC writes it down: octet i with octet i modulo 4 of the key."""
    return bytes(octet ^ key[i % 4] for i, octet in enumerate(data))


class TestMaskBytes:
    @both_functions
    @pytest.mark.parametrize(
        "size",
        [
            0,
            1,
            2,
            3,
            4,
            5,
            125,
            STRIDED_FROM - 1,
            STRIDED_FROM,
            STRIDED_FROM + 1,
            STRIDED_FROM + 3,
            70_001,
        ],
    )
    def test_it_is_the_xor_of_the_rfc_at_every_size(
        self, function: MaskFunction, size: int
    ) -> None:
        """Short, long and odd sizes are masked octet by octet as §5.3 defines it, on both sides of
        the strided path.
        """
        data = bytes(i * 7 & 0xFF for i in range(size))
        assert function(data, KEY) == xor_by_definition(data, KEY)

    @both_functions
    def test_the_example_of_the_rfc(self, function: MaskFunction) -> None:
        """The masked "Hello" of §5.7 comes out as printed there."""
        assert function(b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("7f9f4d5158")

    @both_functions
    @QUICK
    @given(data=st.binary(max_size=1500), key=st.binary(min_size=4, max_size=4))
    def test_masking_twice_gives_the_data_back(
        self, function: MaskFunction, data: bytes, key: bytes
    ) -> None:
        """Masking is its own inverse, for any data and any key."""
        assert function(function(data, key), key) == data

    @QUICK
    @given(data=st.binary(max_size=1500), key=st.binary(min_size=4, max_size=4))
    def test_both_functions_agree(self, data: bytes, key: bytes) -> None:
        """The function in use and the pure Python one give the same bytes for any data."""
        assert mask_bytes(data, key) == mask_bytes_python(data, key) == xor_by_definition(data, key)

    @both_functions
    @pytest.mark.parametrize("size", [5, STRIDED_FROM + 5])
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_is_masked_into_new_bytes(
        self, function: MaskFunction, kind: Callable[[bytes], Buffer], size: int
    ) -> None:
        """Every kind of buffer is accepted, left as it was, and answered with ``bytes``."""
        original = b"z" * size
        data = kind(original)
        masked = function(data, KEY)
        assert type(masked) is bytes
        assert masked == xor_by_definition(original, KEY)
        assert bytes(data) == original


class TestChoice:
    def test_the_environment_variable_keeps_to_pure_python(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``MORMOT_WS_NO_SPEEDUPS`` wins over an installed C function."""
        monkeypatch.setattr(
            masking, "_c_function", lambda: pytest.fail("looked for the C function")
        )
        monkeypatch.setenv("MORMOT_WS_NO_SPEEDUPS", "1")
        assert masking._choose() == (mask_bytes_python, False)

    @pytest.mark.parametrize("missing", ["the package", "its compiled part"])
    def test_without_the_extra_pure_python_serves(
        self, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        """A missing ``websockets``, or one without its compiled part, is no error: the pure Python
        function is chosen.
        """
        monkeypatch.delenv("MORMOT_WS_NO_SPEEDUPS", raising=False)
        if missing == "the package":
            monkeypatch.setattr(masking, "find_spec", lambda name: None)
        else:
            monkeypatch.setattr(
                masking, "PathFinder", SimpleNamespace(find_spec=lambda name, path: None)
            )
        assert masking._choose() == (mask_bytes_python, False)

    def test_the_c_function_is_taken_when_it_is_there(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the ``speedups`` extra its ``apply_mask`` replaces ours, and gives the same
        bytes.
        """
        monkeypatch.delenv("MORMOT_WS_NO_SPEEDUPS", raising=False)
        function, found = masking._choose()
        assert found
        assert function is not mask_bytes_python
        assert function(b"some payload", KEY) == mask_bytes_python(b"some payload", KEY)

    def test_the_c_function_comes_without_the_package_around_it(self) -> None:
        """Loading the one module does not import ``websockets``, and does not disturb who imports
        that afterwards.
        """
        code = (
            "import sys; from mormot_ws.core.masking import HAVE_SPEEDUPS, mask_bytes; "
            "assert HAVE_SPEEDUPS;"
            "assert 'websockets' not in sys.modules;"
            "from websockets.speedups import apply_mask; assert apply_mask(b'ab', b'1234') "
            "== mask_bytes(b'ab', b'1234')"
        )
        environment = {
            name: value for name, value in os.environ.items() if name != "MORMOT_WS_NO_SPEEDUPS"
        }
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code], env=environment, check=True, timeout=60
        )

    def test_have_speedups_tells_which_function_is_in_use(self) -> None:
        """``HAVE_SPEEDUPS`` is true exactly when ``mask_bytes`` is not the pure Python function."""
        assert masking.HAVE_SPEEDUPS is (mask_bytes is not mask_bytes_python)


class TestMaskSource:
    @staticmethod
    def _serve(monkeypatch: pytest.MonkeyPatch, *batches: bytes) -> list[int]:
        """Let the system's generator give out *batches*; return the list that its calls are noted
        in.
        """
        calls: list[int] = []
        supply = iter(batches)

        def urandom(size: int) -> bytes:
            calls.append(size)
            return next(supply)

        monkeypatch.setattr(masking, "os", SimpleNamespace(urandom=urandom))
        return calls

    def test_keys_are_the_generators_bytes_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each key is the next four bytes of the system's generator: none is used twice, none is
        left out.
        """
        self._serve(monkeypatch, b"aaaabbbbcccc")
        source = MaskSource()
        assert [source.next_key() for _ in range(3)] == [b"aaaa", b"bbbb", b"cccc"]

    def test_an_empty_pool_is_filled_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When a batch is used up the next key comes from a new one, and only then."""
        calls = self._serve(monkeypatch, b"aaaabbbb", b"cccc")
        source = MaskSource()
        assert (source.next_key(), source.next_key(), len(calls)) == (b"aaaa", b"bbbb", 1)
        assert (source.next_key(), len(calls)) == (b"cccc", 2)

    def test_a_batch_is_a_whole_number_of_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The generator is asked for a multiple of four bytes, so that no short key is ever cut
        from the end.
        """
        calls = self._serve(monkeypatch, b"aaaa")
        MaskSource().next_key()
        assert calls[0] >= 4
        assert calls[0] % 4 == 0

    def test_a_key_of_four_zero_bytes_is_never_given_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Native peers close the connection on an all-zero key, so it is skipped wherever it
        stands in a batch.
        """
        self._serve(monkeypatch, b"\0\0\0\0aaaa\0\0\0\0", b"\0\0\0\0\0\0\0b")
        source = MaskSource()
        assert [source.next_key() for _ in range(2)] == [b"aaaa", b"\0\0\0b"]

    def test_real_keys_are_four_bytes_and_differ(self) -> None:
        """Over several batches of the real generator keys have four bytes and hardly ever
        repeat.
        """
        source = MaskSource()
        keys = [source.next_key() for _ in range(600)]
        assert {len(key) for key in keys} == {4}
        assert len(set(keys)) > 590

    def test_two_sources_do_not_share_their_keys(self) -> None:
        """Each process draws from its own pool: two sources do not hand out the same sequence."""
        one, other = MaskSource(), MaskSource()
        assert [one.next_key() for _ in range(4)] != [other.next_key() for _ in range(4)]
