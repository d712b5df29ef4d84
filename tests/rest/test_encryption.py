"""AES by a shared key: round trips, messages that no end wrote, keys that cannot be used. The
captured messages are elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import ciphers
from hypothesis import given, settings
from hypothesis import strategies as st
from support import in_threads

from mormot_ws import WebSocketsError, WebSocketsProtocolError
from mormot_ws.rest.encryption import AesEncryption, derive_key, is_key_exchange

quick = settings(deadline=None, max_examples=150)
AES = AesEncryption("secret")


class TestMessages:
    @given(st.binary(min_size=1, max_size=100))
    @quick
    def test_what_was_encrypted_comes_back(self, plain: bytes) -> None:
        """Padded to whole blocks behind a fresh vector; another object with the same key reads
        it.
        """
        message = AES.encrypt(plain)
        assert len(message) == 16 + (len(plain) // 16 + 1) * 16
        assert AesEncryption.of_bytes(derive_key("secret")[:16]).decrypt(message) == plain
        assert AES.encrypt(plain) != message

    def test_nothing_stays_nothing(self) -> None:
        """As natively: an empty payload is not encrypted."""
        assert AES.encrypt(b"") == b""

    @given(st.binary(max_size=100))
    @quick
    def test_garbage_raises_its_one_exception_or_decrypts_to_something(
        self, message: bytes
    ) -> None:
        """One garbage in 256 has a valid padding: there is no authentication."""
        try:
            assert AES.decrypt(message)
        except WebSocketsProtocolError:
            pass

    def test_truncated_messages_are_refused(self) -> None:
        """At every position that is no border of blocks, and where only the vector is left."""
        message = AES.encrypt(b"x" * 40)
        for size in range(len(message)):
            if size % 16 or size < 32:
                with pytest.raises(WebSocketsProtocolError):
                    AES.decrypt(message[:size])

    @pytest.mark.parametrize("padding", [bytes(16), b"\x11" * 16, b"\x01\x02", b"\x10" * 16])
    def test_bad_padding_and_a_message_of_padding_only_are_refused(self, padding: bytes) -> None:
        """The native ends close the connection on them."""
        encryptor = AES._cipher(AES._aes, AES._ctr(bytes(16))).encryptor()
        message = bytes(16) + encryptor.update(padding.rjust(16, b"\x05"))
        with pytest.raises(WebSocketsProtocolError, match="decrypt") as caught:
            AES.decrypt(message)
        assert caught.value.code == 1008

    def test_a_wrong_key_is_noticed(self) -> None:
        """By the padding, nearly always."""
        other = AesEncryption("Secret")
        refused = 0
        for _ in range(50):
            try:
                other.decrypt(AES.encrypt(b"some plain text"))
            except WebSocketsProtocolError:
                refused += 1
        assert refused > 40

    @pytest.mark.parametrize("key_size", [128, 192, 256])
    def test_key_sizes(self, key_size: int) -> None:
        """Each has its own key."""
        aes = AesEncryption("secret", key_size=key_size, rounds=2, salt="salt")
        assert aes.decrypt(aes.encrypt(b"plain")) == b"plain"
        assert repr(aes) == f"<AesEncryption {key_size} bits>"

    def test_one_object_serves_several_threads(self) -> None:
        """Each with messages of its own, one after the other: every one comes back, and no key
        stream is used twice.
        """
        aes = AesEncryption.of_bytes(bytes(16))

        def work(number: int) -> list[bytes]:
            messages = []
            for size in range(200):
                plain = bytes([number]) * (size + 1)
                messages.append(aes.encrypt(plain))
                assert aes.decrypt(messages[-1]) == plain
            return messages

        made = [message for messages in in_threads(4, work) for message in messages]
        other = AesEncryption.of_bytes(bytes(16))  # knows nothing of what came before
        assert all(other.decrypt(message) for message in reversed(made))
        assert len({message[:16] for message in made}) == len(made)

    def test_with_an_older_package_each_message_has_its_context(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before cryptography 43 they cannot be used again."""

        class Old:
            def __init__(self, context: Any) -> None:
                self.update = context.update

        class Cipher:
            def __init__(self, *arguments: Any) -> None:
                self._cipher = ciphers.Cipher(*arguments)

            def encryptor(self) -> Old:
                return Old(self._cipher.encryptor())

        new = AesEncryption.of_bytes(bytes(16))
        old = AesEncryption.of_bytes(bytes(16))
        monkeypatch.setattr(old, "_cipher", Cipher)
        for plain in (b"first", b"second"):
            assert new.decrypt(old.encrypt(plain)) == old.decrypt(new.encrypt(plain)) == plain


class TestKeys:
    def test_rounds_and_salt_matter(self) -> None:
        """All three give other keys."""
        keys = {
            derive_key("k"),
            derive_key("k", rounds=2),
            derive_key("k", salt="s"),
            derive_key("k", rounds=0),
        }
        assert len(keys) == 4

    def test_a_long_password_of_the_legacy_form_is_not_padded(self) -> None:
        """From 256 bytes on."""
        assert derive_key(b"p" * 256, rounds=0) != derive_key(b"p" * 255, rounds=0)

    @pytest.mark.parametrize(("password", "rounds"), [("", 1024), ("x", -1)])
    def test_values_that_make_no_key(self, password: str, rounds: int) -> None:
        """ValueError at once."""
        with pytest.raises(ValueError, match=r"password|rounds"):
            derive_key(password, rounds=rounds)

    def test_sizes_that_are_none(self) -> None:
        """Of a text key and of bytes."""
        with pytest.raises(ValueError, match="128, 192 or 256"):
            AesEncryption("secret", key_size=512)
        with pytest.raises(ValueError, match="16, 24 or 32"):
            AesEncryption.of_bytes(b"short")

    def test_the_syntax_of_the_key_exchange_is_refused(self, tmp_path: Path) -> None:
        """A password that only looks like it, without such a file, is a password."""
        private = tmp_path / "server.private"
        assert not is_key_exchange(f"pass#{private}")
        private.write_bytes(b"")
        for key in ("a=mutual;e=aesctr128", f"pass#{private}"):
            with pytest.raises(WebSocketsError, match="ECDHE"):
                AesEncryption(key)

    def test_without_the_package_a_key_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The extra is named."""
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
        with pytest.raises(WebSocketsError, match=r"mormot_ws\[crypto\]"):
            AesEncryption("secret")
