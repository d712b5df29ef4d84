"""Sessions of a server: who may have one, and which requests belong to it.

Their number and duration are limited. Proofs and signatures are compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import parse_qsl

from ..attributes import KnownAttributes
from ..core.forks import renew_in_child
from ..logs import escaped, get_logger
from ..request import HttpServerRequest
from .authentication import (
    MOST_LATE,
    SIGNATURE,
    hashed_password,
    password_proof,
    session_key,
    signature_of,
)
from .users import AuthUser, RestServerAuthentication

_log = get_logger("mormot_ws.services")

#: seconds for which a nonce is offered; it is accepted for as long again
_NONCE_SECONDS = 240
#: the minimum and maximum length of a client's nonce, in characters
_LEAST_NONCE, _MOST_NONCE = 33, 200
#: the maximum minutes sent to clients: native ones may count milliseconds in 32 bits
_MOST_MINUTES = 30 * 24 * 60
#: the maximum number of parameters of a request for a session
_MOST_FIELDS = 20
#: seconds between two searches for expired sessions
_SWEEP_SECONDS = 5
_NOBODY = hashed_password(secrets.token_hex(16))


class AuthSession(KnownAttributes):
    """The session of a user on this server. Mirrors ``TAuthSession``.

    Treat its attributes as read-only.
    """

    def __init__(self, number: int, user: AuthUser, remote_ip: str) -> None:
        #: the number known to the client; mirrors ``ID``
        self.id = number
        self.user = user
        #: the address from which it began
        self.remote_ip = remote_ip
        self._key = 0
        #: the random part of the session's initial key; a cookie in HttpBasic
        self._secret = secrets.token_hex(16)
        self._credentials = b""
        self._latest = 0
        self._used_at = time.monotonic()

    @property
    def user_name(self) -> str:
        """The user's name; mirrors ``UserName``."""
        return self.user.logon_name

    @property
    def secret(self) -> str:
        """The secret shared with its client. For the package."""
        return self._secret

    @property
    def credentials(self) -> bytes:
        """A digest of the credentials that each HttpBasic request must have. For the package."""
        return self._credentials

    def signs_with(self, key: int) -> None:
        """Expect signatures made with *key*. For the package."""
        self._key = key

    def shows(self, credentials: bytes) -> None:
        """Expect these *credentials* in each request. For the package."""
        self._credentials = credentials

    def is_signed(self, url: str, moment: str, signature: str) -> bool:
        """Return whether its client signed *url* at that *moment*. For the package.

        A *moment* too long before the latest one is refused.
        """
        try:
            wanted = signature_of(url, moment, self._key)
        except UnicodeEncodeError:
            # half characters, which no client can sign
            return False
        if not hmac.compare_digest(wanted, signature):
            return False
        ticks = int(moment, 16)
        if ticks < self._latest - MOST_LATE:
            return False
        # two threads may do this at once; the error is far smaller than the allowed delay
        self._latest = max(self._latest, ticks)
        return True

    def idle_seconds(self) -> float:
        """Return the time since its last request."""
        return time.monotonic() - self._used_at

    def is_used(self) -> None:
        """Record a request. For the package."""
        self._used_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<AuthSession of {escaped(self.user_name)}>"


class Sessions:
    """The sessions of a server.

    :param timeout: minutes without a request after which a session ends.
    :param most: the maximum number of sessions.
    :param ended: called without a lock with each session that has ended.
    :param begun: called when there is a new session, which will expire.
    """

    def __init__(
        self,
        authentication: RestServerAuthentication,
        timeout: float,
        most: int,
        ended: Callable[[AuthSession], object],
        begun: Callable[[], object] = lambda: None,
    ) -> None:
        self._authentication = authentication
        self._seconds = timeout * 60
        self._most = most
        self._ended = ended
        self._begun = begun
        #: guards additions to the two tables. Requests read them without it, and sessions end
        #: without it, by atomic operations: in a signal handler or finaliser, too
        self._safe = threading.Lock()
        renew_in_child(self, "_safe", threading.Lock)
        self._sessions: dict[int, AuthSession] = {}
        self._cookies: dict[str, AuthSession] = {}
        # the sessions of the parent's clients end there, and only once
        renew_in_child(self, "_sessions", dict)
        renew_in_child(self, "_cookies", dict)
        self._nonce_key = secrets.token_bytes(32)
        self._next_sweep = 0.0
        self._told_full = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> Iterable[AuthSession]:
        """Return the current sessions."""
        return list(self._sessions.values())

    @property
    def timeout_minutes(self) -> int:
        """The time-out sent to clients."""
        return max(1, int(min(self._seconds / 60, _MOST_MINUTES)))

    # ----------------------------------------------------------------- the session of a request

    def session_of(self, ctxt: HttpServerRequest, root: str) -> AuthSession | None:
        """Return the session of the request in *ctxt*; None: none, or it has ended."""
        scheme = self._authentication.scheme
        if scheme == "basic":
            session = self._of_cookie(ctxt, root)
        else:
            url, _, text = ctxt.url.rpartition(SIGNATURE)
            if url[-1:] not in ("?", "&") or not _is_hexadecimal(text):
                return None
            session = self._sessions.get(int(text[:8], 16))
            if session is None:
                return None
            if scheme == "default":
                if len(text) != 24:
                    return None
                signed = url[:-1].removeprefix("/")
                if not session.is_signed(signed, text[8:16].lower(), text[16:].lower()):
                    return None
            elif len(text) != 8:
                return None
        if session is None or not self._is_alive(session):
            return None
        return session

    def _of_cookie(self, ctxt: HttpServerRequest, root: str) -> AuthSession | None:
        for part in ctxt.in_header("cookie").split(";"):
            name, _, value = part.strip().partition("=")
            if name.lower() == root.lower():
                session = self._cookies.get(value)
                if session is None:
                    return None
                # a browser adds cookies to requests from other sites, but not this header
                given = _credentials_digest(ctxt.in_header("authorization"))
                return session if hmac.compare_digest(given, session.credentials) else None
        return None

    def _is_alive(self, session: AuthSession) -> bool:
        if session.idle_seconds() > self._seconds:
            self.end(session)
            return False
        session.is_used()
        return True

    # --------------------------------------------------------------------- beginning and end

    def begin(
        self, ctxt: HttpServerRequest, root: str, query: str
    ) -> tuple[AuthSession, str] | str | None:
        """Handle a request for a session.

        Return the new session and the result for the client, or a nonce for the client's next
        request, or None if the client gets no session.
        """
        given = _fields(query)
        name = given.get("username", "")
        scheme = self._authentication.scheme
        if scheme == "basic":
            return self._begin_basic(ctxt)
        if not name:
            return None
        if scheme == "none":
            user = self._authentication.find_user(name)
            return None if user is None else self._new(user, ctxt)
        if "password" not in given:
            return self._nonce(0)
        proof, client_nonce = given["password"], given.get("clientnonce", "")
        user = self._authentication.find_user(name)
        hashed = _NOBODY if user is None else user.password_hash_hexa.lower()
        right = False
        for before in (0, 1):
            wanted = password_proof(root, self._nonce(before), client_nonce, name, hashed)
            right |= hmac.compare_digest(wanted.encode(), proof.lower().encode("utf-8"))
        if user is None or not right or not _LEAST_NONCE <= len(client_nonce) <= _MOST_NONCE:
            return None
        begun = self._new(user, ctxt)
        if begun is not None:
            session, result = begun
            session.signs_with(session_key(hashed, result))
        return begun

    def _begin_basic(self, ctxt: HttpServerRequest) -> tuple[AuthSession, str] | None:
        header = ctxt.in_header("authorization")
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(text.strip()).decode("utf-8").partition(":")
        except ValueError:
            return None
        user = self._authentication.find_user(name)
        hashed = _NOBODY if user is None else user.password_hash_hexa
        right = hmac.compare_digest(hashed_password(password), hashed.lower())
        begun = self._new(user, ctxt) if user is not None and right else None
        if begun is not None:
            session, _ = begun
            session.shows(_credentials_digest(header))
            with self._safe:
                self._cookies[session.secret] = session
        return begun

    def cookie_of(self, session: AuthSession, root: str) -> str:
        """Return the header line that sets a client's cookie; '' in other schemes."""
        if self._authentication.scheme != "basic":
            return ""
        return f"Set-Cookie: {root}={session.secret}; Path=/{root}; HttpOnly"

    def _new(self, user: AuthUser, ctxt: HttpServerRequest) -> tuple[AuthSession, str] | None:
        """Return a new session with the result for its client; None: there are too many."""
        self.sweep()
        with self._safe:
            full = len(self._sessions) >= self._most
            if not full:
                number = 0
                while number < 2 or number in self._sessions:
                    number = secrets.randbits(32)
                session = self._sessions[number] = AuthSession(number, user, ctxt.remote_ip)
        if full:
            now = time.monotonic()
            if now >= self._told_full:
                self._told_full = now + 60
                text = "no session for %s from %s: there are already %d"
                _log.warning(text, escaped(user.logon_name), ctxt.remote_ip, self._most)
            return None
        self._begun()
        return session, f"{number}+{session.secret}"

    def end(self, session: AuthSession) -> None:
        """End *session*, if it has not ended."""
        found = self._sessions.pop(session.id, None)
        self._cookies.pop(session.secret, None)
        if found is not None:
            self._ended(session)

    def sweep(self) -> None:
        """End expired sessions, every few seconds."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_SECONDS
        self.free_expired()

    def next_due(self) -> float | None:
        """Return when the next session may have expired (monotonic clock), or None."""
        idle = max((session.idle_seconds() for session in self.all()), default=None)
        return None if idle is None else time.monotonic() + self._seconds - idle

    def has_expired(self) -> bool:
        """Return whether a session has expired."""
        return any(session.idle_seconds() > self._seconds for session in self.all())

    def free_expired(self) -> None:
        """End the expired sessions."""
        for session in self.all():
            if session.idle_seconds() > self._seconds:
                self.end(session)

    def _nonce(self, before: int) -> str:
        """Return the current nonce, or that of *before* periods ago; the same for all clients."""
        period = int(time.monotonic() / _NONCE_SECONDS) - before
        return hmac.new(self._nonce_key, str(period).encode(), hashlib.sha256).hexdigest()


def closes(query: str, session: AuthSession) -> bool:
    """Return whether a request with that *query* ends its own *session*."""
    given = _fields(query)
    return (
        given.get("session") == str(session.id)
        and given.get("username", "").lower() == session.user_name.lower()
    )


def _fields(query: str) -> dict[str, str]:
    """Return the parameters of *query* by lower-case name."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}
    return {name.lower(): value for name, value in pairs}


def _is_hexadecimal(text: str) -> bool:
    return len(text) in (8, 24) and all(char in "0123456789abcdefABCDEF" for char in text)


def _credentials_digest(header: str) -> bytes:
    return hashlib.sha256(header.encode("utf-8", "surrogatepass")).digest()
