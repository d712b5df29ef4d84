"""Encryption by a shared key: how the native protocols derive an AES key from a password, and how they encrypt a message.

Each message has its own random initialisation vector, so nothing has to be kept between messages and one object serves any number of
connections and threads. The ``cryptography`` package (extra ``crypto``) is imported when the first key is used. No frame, socket or
thread belongs in here.
"""

from __future__ import annotations

#: salt and rounds that both native ends use unless they are told otherwise
AES_SALT = "E750ACCA-2C6F-4B0E-999B-D31C9A14EFAB"
AES_ROUNDS = 1024


def derive_key(password: str | bytes, *, salt: str | bytes = AES_SALT, rounds: int = AES_ROUNDS) -> bytes:
    """Return the 32 bytes that the native ends derive from *password*; AES-128 uses the first 16.

    *rounds* 0 is the legacy form without salt. Takes about a millisecond. Raises ``ValueError`` for an empty password or negative rounds.
    """
    raise NotImplementedError


class AesEncryption:
    """AES-CTR with a key derived from the text *key*; mirrors ``TProtocolAes``.

    *key_size* is 128, 192 or 256 bits; *salt* and *rounds* are those of :func:`derive_key`. They are not negotiated: both ends have to
    use the same. All methods may be called from any thread.

    There is no authentication: whoever can change bytes on the way changes the message (the CRCs of compression notice accidents
    only). Use TLS against an attacker.

    Raises ``ValueError`` for an empty key or an unknown *key_size*, and :class:`WebSocketsError` for a key in the ECDHE syntax
    (``a=…`` or ``password#file.private``), or when the ``cryptography`` package is not installed.
    """

    def __init__(self, key: str, *, key_size: int = 128, rounds: int = AES_ROUNDS, salt: str | bytes = AES_SALT) -> None:
        raise NotImplementedError

    def encrypt(self, plain: bytes) -> bytes:
        """Return the encrypted message of *plain*: 17 to 32 bytes longer."""
        raise NotImplementedError

    def decrypt(self, message: bytes) -> bytes:
        """Return the plain bytes of *message*; raise :class:`WebSocketsProtocolError` (1008) when it cannot come from this key."""
        raise NotImplementedError
