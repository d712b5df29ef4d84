"""The proofs and signatures of native sessions, as both ends compute them.

A signature says that a request comes from a session; it hides nothing, and may be repeated by those
who have seen it: TLS is the protection. Pure: texts in, texts out.
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

#: what stands in front of a signature in a URL
SIGNATURE = "session_signature="
#: how far the time of a request may lie behind the latest one, in units of 256 ms
MOST_LATE = 20
#: rounds of PBKDF2 that a server may ask for
_MOST_ROUNDS = 10_000_000
#: characters of what a server says of a password
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
    """Return *time* as native ends have it: a ``TTimeLog``, whose fields are bits of a number."""
    days = (time.day - 1) << 17 | (time.month - 1) << 22 | time.year << 26
    return days | time.hour << 12 | time.minute << 6 | time.second


def hashed_password(password: str) -> str:
    """Return what a server keeps of *password*, as ``PasswordHashHexa`` of native ones."""
    return hashlib.sha256(b"salt" + password.encode("utf-8")).hexdigest()


def password_proof(root: str, nonce: str, client_nonce: str, user: str, hashed: str) -> str:
    """Return the proof that a client knows the password that *hashed* was made of."""
    return hashlib.sha256((root + nonce + client_nonce + user + hashed).encode("utf-8")).hexdigest()


def session_key(hashed: str, result: str) -> int:
    """Return the key that requests of a session are signed with; *result* began it."""
    return zlib.crc32(hashed.encode("utf-8"), zlib.crc32(result.encode("utf-8")))


def signature_of(url: str, time: str, key: int, algorithm: str = "") -> str:
    """Return the signature of *url* at *time*, which has 8 hexadecimal digits.

    *algorithm* is what the server has chosen; CRC-32 when it is unknown, as in native ends.
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
    """A password whose hash a server keeps with a salt of its own, as *mcf* says.

    Raises ``ValueError`` for an unknown *mcf*. Takes a tenth of a second.
    """

    def __init__(self, mcf: str, password: str) -> None:
        parts = mcf[1:].split("$") if len(mcf) <= _MOST_MCF else []
        if mcf[:1] not in ("$", "#") or len(parts) != 4 or parts[0] != "pbkdf2-sha256":
            raise ValueError("the server keeps the password in an unknown form")
        if not parts[1].isdecimal() or not 0 < int(parts[1]) <= _MOST_ROUNDS:
            raise ValueError("the server asks for an impossible number of rounds")
        #: True when both ends prove that they know the password
        self.is_mutual = mcf[0] == "#"
        try:
            salt = base64.b64decode(_padded(parts[2].replace(".", "+")), validate=True)
        except ValueError:
            raise ValueError("the server keeps the password in an unknown form") from None
        digest = hashlib.pbkdf2_hmac("sha256", password.encode("utf-8"), salt, int(parts[1]))
        text = base64.b64encode(digest).decode("ascii").rstrip("=").replace("+", ".")
        #: what the server keeps
        self.hashed = f"${parts[0]}${parts[1]}${parts[2]}${text}"

    def proofs(self, root: str, nonce: str, client_nonce: str, user: str) -> tuple[str, str]:
        """Return the client's proof, and the one that is expected of the server."""
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
