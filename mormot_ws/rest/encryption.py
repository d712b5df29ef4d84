"""Encryption with a shared key: derives an AES key from a password, and encrypts messages.

Each message has its own random initialisation vector, so there is no state between messages, and
one object serves any number of connections and threads. Each thread keeps a context only because
creating one is slow. The ``cryptography`` package (extra ``crypto``) is imported when the first key
is used.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any

from ..errors import WebSocketsError, WebSocketsProtocolError

#: the default salt and rounds of native code
AES_SALT = "E750ACCA-2C6F-4B0E-999B-D31C9A14EFAB"
AES_ROUNDS = 1024

_IV_SIZE = _BLOCK = 16


def derive_key(
    password: str | bytes, *, salt: str | bytes = AES_SALT, rounds: int = AES_ROUNDS
) -> bytes:
    """Return the 32 bytes that native code derives from *password*; AES-128 uses the first 16.

    *rounds* 0 is the legacy form without salt. Takes about a millisecond. Raises ``ValueError`` for
    an empty password or negative rounds.
    """
    secret = password.encode("utf-8") if isinstance(password, str) else bytes(password)
    salt = salt.encode("utf-8") if isinstance(salt, str) else bytes(salt)
    if not secret:
        raise ValueError("the password must not be empty")
    if rounds < 0:
        raise ValueError(f"rounds must be a number, at least 0, not {rounds}")
    if rounds == 0:
        if len(secret) < 256:
            secret += bytes((len(secret),)) * (256 - len(secret))
        return hashlib.sha256(secret).digest()
    prefix = hashlib.sha3_256(secret)
    link = salt
    derived = 0
    for _ in range(rounds):
        step = prefix.copy()
        step.update(link)
        link = step.digest()
        derived ^= int.from_bytes(link, "big")
    return derived.to_bytes(32, "big")


def is_key_exchange(key: str) -> bool:
    """Return whether native code would read *key* as parameters of ECDHE, not as a password."""
    if key[:2].lower() == "a=":
        return True
    _, sharp, file = key.rpartition("#")
    return bool(sharp) and file.endswith(".private") and os.path.isfile(file)


class _Mine(threading.local):
    """The context of each thread: creating one costs far more than using it."""

    context: Any = None


class AesEncryption:
    """AES-CTR with a key derived from the text *key*; mirrors ``TProtocolAes``.

    *key_size* is 128, 192 or 256 bits; *salt* and *rounds* are those of :func:`derive_key`. They
    are not negotiated: both sides must use the same. All methods may be called from any thread.

    There is no authentication. An attacker in between can change messages (the CRCs of compression
    detect only accidents) and replay recorded ones. Use TLS to protect against attackers.

    Raises ``ValueError`` for an empty key or an unknown *key_size*, and :class:`WebSocketsError`
    for a key in the ECDHE syntax (``a=…`` or ``password#file.private``), or when the
    ``cryptography`` package is not installed.
    """

    __slots__ = ("_aes", "_cipher", "_ctr", "_mine", "key_size")

    def __init__(
        self,
        key: str,
        *,
        key_size: int = 128,
        rounds: int = AES_ROUNDS,
        salt: str | bytes = AES_SALT,
    ) -> None:
        if key_size not in (128, 192, 256):
            raise ValueError(f"key_size must be 128, 192 or 256 bits, not {key_size}")
        if is_key_exchange(key):
            raise WebSocketsError(
                "the key requests an ECDHE key exchange, which is not supported: use a "
                "password, and TLS for forward secrecy"
            )
        self._use(derive_key(key, salt=salt, rounds=rounds)[: key_size // 8])

    @classmethod
    def of_bytes(cls, key: bytes) -> AesEncryption:
        """Return an object that uses the 16, 24 or 32 bytes of *key* directly.

        Raises the same as the constructor.
        """
        if len(key) not in (16, 24, 32):
            raise ValueError(f"an AES key must have 16, 24 or 32 bytes, not {len(key)}")
        made = cls.__new__(cls)
        made._use(bytes(key))
        return made

    def _use(self, key: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        except ImportError as exc:
            raise WebSocketsError(
                "a key requires the cryptography package: pip install 'mormot_ws[crypto]', or "
                "leave the key empty"
            ) from exc
        self.key_size: int = len(key) * 8
        self._cipher: Any = Cipher
        self._ctr: Any = modes.CTR
        self._aes = algorithms.AES(key)
        self._mine = _Mine()

    def encrypt(self, plain: bytes) -> bytes:
        """Return *plain* encrypted, which is 17 to 32 bytes longer; b'' stays b''."""
        if not plain:
            return b""
        iv = os.urandom(_IV_SIZE)
        return iv + self._encrypt(iv, plain)

    def _encrypt(self, iv: bytes, plain: bytes) -> bytes:
        padding = _BLOCK - len(plain) % _BLOCK
        return self._apply(iv, plain + bytes((padding,)) * padding)

    def _apply(self, iv: bytes, data: bytes) -> bytes:
        """Return *data* XOR the key stream of *iv*, for both encryption and decryption."""
        mine = self._mine
        # removed while it is used, because a signal handler may interrupt this thread
        context, mine.context = mine.context, None
        if context is None:
            context = self._cipher(self._aes, self._ctr(iv)).encryptor()
        else:
            context.reset_nonce(iv)
        result: bytes = context.update(data)
        if hasattr(context, "reset_nonce"):  # from cryptography 43 on
            mine.context = context
        return result

    def decrypt(self, message: bytes) -> bytes:
        """Return the plain bytes of *message*.

        Raises :class:`WebSocketsProtocolError` (1008) if it was not encrypted with this key. A peer
        must not learn whether this step or a later one failed: the answers to a few thousand
        guesses would allow it to forge messages without the key.
        """
        if len(message) < _IV_SIZE + _BLOCK or len(message) % _BLOCK:
            raise WebSocketsProtocolError(1008, "a message is not encrypted")
        padded = self._apply(message[:_IV_SIZE], message[_IV_SIZE:])
        padding = padded[-1]
        if (
            not 1 <= padding <= _BLOCK
            or padding == len(padded)
            or not padded.endswith(bytes((padding,)) * padding)
        ):
            raise WebSocketsProtocolError(1008, "a message cannot be decrypted")
        return padded[:-padding]

    def __repr__(self) -> str:
        return f"<AesEncryption {self.key_size} bits>"
