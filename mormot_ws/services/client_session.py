"""A client's session: how it begins, and what it adds to each request."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
import zlib
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote

from ..errors import ServiceError
from ..request import HttpServerRequest, header_value
from .authentication import (
    SIGNATURE,
    SaltedPassword,
    hashed_password,
    password_proof,
    session_key,
    signature_of,
)
from .values import load_native_json

Scheme = Literal["default", "none", "basic"]
SCHEMES = ("default", "none", "basic")
#: sends a request: (method, URI, header lines) -> the answered request; raises ServiceError
Ask = Callable[[str, str, str], HttpServerRequest]

#: minutes assumed for a session without a time-out, and the maximum between two requests to keep it
_DEFAULT_MINUTES, _MOST_MINUTES = 60, 25


class ClientSession:
    """The session of a client. Its methods may be called from any thread and finaliser."""

    def __init__(self, scheme: Scheme, user_name: str, answer: dict[str, Any]) -> None:
        self._scheme = scheme
        result = answer.get("result")
        number = result.partition("+")[0] if isinstance(result, str) else result
        if isinstance(number, str) and number.isascii() and number.isdecimal():
            number = int(number)
        if type(number) is not int or not 0 < number < 1 << 32:
            raise ValueError("the server's answer contains no session")
        #: the number of the session
        self.id: int = number
        name = answer.get("logonname")
        #: the user's name, as spelled by the server
        self.user_name: str = name if isinstance(name, str) and name else user_name
        minutes = answer.get("timeout")
        if type(minutes) is not int or minutes <= 0:
            minutes = _DEFAULT_MINUTES
        #: the interval for requests to keep the session, in seconds
        self.ping_seconds: float = min(minutes * 30, _MOST_MINUTES * 60)
        algorithm = answer.get("algo")
        self._algorithm = algorithm if isinstance(algorithm, str) else ""
        self._key = 0
        self._headers = ""

    def signs_with(self, key: int) -> None:
        """Sign with *key* from now on."""
        self._key = key

    def sends(self, headers: str) -> None:
        """Add these *headers* to each request from now on."""
        self._headers = headers

    def signed(self, url: str) -> str:
        """Return *url* with the mark or signature of this session."""
        if self._scheme == "basic":
            return url
        mark = f"{url}{'&' if '?' in url else '?'}{SIGNATURE}{self.id:08x}"
        if self._scheme == "none":
            return mark
        moment = f"{(int(time.monotonic() * 1000) >> 8) & 0xFFFFFFFF:08x}"
        return f"{mark}{moment}{signature_of(url, moment, self._key, self._algorithm)}"

    @property
    def headers(self) -> str:
        """The header lines of each request."""
        return self._headers

    def goodbye(self, root: str) -> str:
        """Return the URI that ends the session."""
        name = quote(self.user_name, safe="")
        return self.signed(f"{root}/auth?userName={name}&session={self.id}")


def begin_session(
    ask: Ask, root: str, user_name: str, password: str, scheme: Scheme
) -> ClientSession:
    """Authenticate and return the new session.

    Raises :class:`ServiceError` if the server refuses or fails to prove its own identity.
    """
    try:
        if scheme == "default":
            return _begin_default(ask, root, user_name, password)
        if scheme == "basic":
            return _begin_basic(ask, root, user_name, password)
        answer = _object(ask("GET", f"{root}/auth?userName={quote(user_name, safe='')}", ""))
        return ClientSession(scheme, user_name, answer)
    except ValueError as exc:
        raise ServiceError(f"no session: {exc}", 403) from None


def _begin_default(ask: Ask, root: str, user_name: str, password: str) -> ClientSession:
    name = quote(user_name, safe="")
    first = _object(ask("GET", f"{root}/auth?username={name}&mcf=1", ""))
    nonce, mcf = first.get("result"), first.get("mcf")
    if not isinstance(nonce, str):
        raise ValueError("the server's answer contains no nonce")
    client_nonce = f"00000000_{secrets.token_hex(16)}"
    salted = SaltedPassword(mcf, password) if isinstance(mcf, str) else None
    hashed = salted.hashed if salted is not None else hashed_password(password)
    expected = ""
    if salted is not None and salted.is_mutual:
        proof, expected = salted.proofs(root, nonce, client_nonce, user_name)
    else:
        proof = password_proof(root, nonce, client_nonce, user_name, hashed)
    url = f"{root}/auth?username={name}&password={proof}&clientnonce={client_nonce}"
    answer = _object(ask("GET", url, ""))
    if expected and not hmac.compare_digest(
        expected.encode("ascii"), str(answer.get("proof", "")).encode("utf-8")
    ):
        raise ValueError("the server did not prove that it knows the password")
    session = ClientSession("default", user_name, answer)
    result = str(answer["result"])
    session.signs_with(zlib.crc32(result.encode()) if expected else session_key(hashed, result))
    return session


def _begin_basic(ask: Ask, root: str, user_name: str, password: str) -> ClientSession:
    if ":" in user_name:
        raise ValueError("a user name with a colon cannot be sent")
    credentials = base64.b64encode(f"{user_name}:{password}".encode()).decode("ascii")
    header = f"Authorization: Basic {credentials}"
    request = ask("GET", f"{root}/auth", header)
    session = ClientSession("basic", user_name, _object(request))
    cookie = header_value(request.out_custom_headers, "Set-Cookie").partition(";")[0].strip()
    session.sends(f"Cookie: {cookie}\r\n{header}" if cookie else header)
    return session


def _object(request: HttpServerRequest) -> dict[str, Any]:
    content = request.out_content
    assert isinstance(content, bytes)
    answer = load_native_json(content)
    if not isinstance(answer, dict):
        raise ValueError("the server's answer is not an object")
    return answer
