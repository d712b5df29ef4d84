"""The proofs and signatures of native sessions, as both sides compute them.

A signature shows that a request comes from a session. It hides nothing and can be replayed by
eavesdroppers; TLS protects against both. Pure functions: strings in, strings out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable
from datetime import datetime
from struct import unpack

from ..rest.crc32c import crc32c_from

#: the text before a signature in a URL
SIGNATURE = "session_signature="
#: how far the time of a request may lie behind the latest one, in units of 256 ms
MOST_LATE = 20
#: the maximum rounds of PBKDF2 that a server may request
_MOST_ROUNDS = 10_000_000
#: the maximum length of a server's description of a password hash, in characters
_MOST_MCF = 300

_HASHES: dict[str, Callable[[bytes], bytes]] = {
    name: (lambda data, make=make: make(data).digest())  # type: ignore[misc]
    for name, make in {
        "md5": hashlib.md5,
        "sha1": hashlib.sha1,
        "sha256": hashlib.sha256,
        "sha512": hashlib.sha512,
        "sha3": hashlib.sha3_256,
    }.items()
}


def time_log(time: datetime) -> int:
    """Return *time* in native form: a ``TTimeLog``, an integer with bit fields."""
    days = (time.day - 1) << 17 | (time.month - 1) << 22 | time.year << 26
    return days | time.hour << 12 | time.minute << 6 | time.second


def hashed_password(password: str) -> str:
    """Return the hash of *password* that a server stores, like the native ``PasswordHashHexa``."""
    return hashlib.sha256(b"salt" + password.encode("utf-8")).hexdigest()


def password_proof(root: str, nonce: str, client_nonce: str, user: str, hashed: str) -> str:
    """Return the proof that a client knows the password whose hash is *hashed*."""
    return hashlib.sha256((root + nonce + client_nonce + user + hashed).encode("utf-8")).hexdigest()


def session_key(hashed: str, result: str) -> int:
    """Return the key that signs the requests of the session that *result* began."""
    return zlib.crc32(hashed.encode("utf-8"), zlib.crc32(result.encode("utf-8")))


def signature_of(url: str, time: str, key: int, algorithm: str = "") -> str:
    """Return the signature of *url* at *time*, given as 8 hexadecimal digits.

    *algorithm* is the server's choice; if it is unknown, CRC-32 is used, as in native code.
    """
    text, moment = url.encode("utf-8", "surrogateescape"), time.encode("ascii")
    make = _HASHES.get(algorithm)
    if make is not None:
        digest = make(key.to_bytes(4, "little") + moment + text)
        number = 0
        for word in unpack(f"<{len(digest) // 4}I", digest):
            number ^= word
    elif algorithm == "crc32c":
        number = crc32c_from(moment, key) ^ crc32c_from(text, key)
    else:
        number = zlib.crc32(text, zlib.crc32(moment, key))
    return f"{number:08x}"


class SaltedPassword:
    """A password whose hash the server stores with a salt, described by *mcf*.

    Raises ``ValueError`` for an unknown *mcf*. Takes about 0.1 s.
    """

    def __init__(self, mcf: str, password: str) -> None:
        parts = mcf[1:].split("$") if len(mcf) <= _MOST_MCF else []
        if mcf[:1] not in ("$", "#") or len(parts) != 4 or parts[0] != "pbkdf2-sha256":
            raise ValueError("the server stores the password in an unknown format")
        if not parts[1].isdecimal() or not 0 < int(parts[1]) <= _MOST_ROUNDS:
            raise ValueError("the server requests an invalid number of rounds")
        #: True if both sides prove that they know the password
        self.is_mutual = mcf[0] == "#"
        try:
            salt = base64.b64decode(_padded(parts[2].replace(".", "+")), validate=True)
        except ValueError:
            raise ValueError("the server stores the password in an unknown format") from None
        digest = hashlib.pbkdf2_hmac("sha256", password.encode("utf-8"), salt, int(parts[1]))
        text = base64.b64encode(digest).decode("ascii").rstrip("=").replace("+", ".")
        #: the hash stored by the server
        self.hashed = f"${parts[0]}${parts[1]}${parts[2]}${text}"

    def proofs(self, root: str, nonce: str, client_nonce: str, user: str) -> tuple[str, str]:
        """Return the client's proof, and the proof expected from the server."""
        key = self.hashed.encode("ascii")
        client_key = _keyed(key, f"{user}|Client Key")
        stored = hashlib.sha256(client_key).digest()
        sealed = _keyed(stored, "|".join((root, nonce, client_nonce, user)))
        return (
            _url_text(bytes(map(int.__xor__, client_key, sealed))),
            _url_text(bytes(map(int.__xor__, _keyed(key, f"{user}|Server Key"), sealed))),
        )


def _keyed(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("utf-8"), "sha256")


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)


def _url_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")
