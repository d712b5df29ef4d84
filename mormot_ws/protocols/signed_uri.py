"""WebSocketProtocolUri: connections on signed URIs that the server creates and that expire.

A browser cannot set the headers of a WebSocket, so it cannot send a token in one. Instead it asks
the application for a URI over HTTP, with any authentication, and connects there. itsdangerous
(extra ``uri``) signs the URIs; it is imported when the first such protocol is created.
"""

from __future__ import annotations

import re
import secrets
import threading
from dataclasses import asdict, is_dataclass
from time import time
from typing import Any, ClassVar, NamedTuple

from ..attributes import IS_INT, IS_NUMBER, IS_TEXT, Check
from ..core.forks import renew_in_child
from ..core.handshake import uri_key
from ..errors import WebSocketsError
from ..logs import get_logger
from .base import WebSocketProtocol
from .chat import OnIncomingFrame, WebSocketProtocolChat

_log = get_logger("mormot_ws.uriprotocol")

#: the most characters of a token, so that servers, proxies and browsers accept the URI
_MAX_TOKEN = 2_000
#: the part of a URI before its path
_PLACE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/]*/")


class NewUri(NamedTuple):
    """The result of :meth:`WebSocketProtocolUri.new_uri`."""

    #: the URI, to which a client can connect once
    uri: str
    #: the number of the connection, which is its :attr:`WebSocketProtocolUri.session`
    session: int

    def __repr__(self) -> str:
        # the token can open a connection, and a repr may end up in a log
        return f"NewUri(uri={self.uri.rpartition('/')[0] + '/…'!r}, session={self.session})"


class _UriGenerator:
    """Creates and checks the tokens of one registered protocol and of all its clones.

    Any thread may use it.
    """

    def __init__(
        self, expiration_seconds: int, secret: str | bytes, name: str, path_key: str
    ) -> None:
        try:
            from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer
        except ImportError as exc:
            raise WebSocketsError(
                "WebSocketProtocolUri needs itsdangerous: pip install 'mormot_ws[uri]'"
            ) from exc
        self._expiration = expiration_seconds
        # several protocols may share a secret: a token is valid only for the one that created it
        self._serializer = URLSafeTimedSerializer(
            secret, salt=f"mormot_ws.uri {name.lower()} {path_key}"
        )
        self._bad_data: type[Exception] = BadData
        self._expired: type[Exception] = SignatureExpired
        #: guards the fields below; nothing is called while it is held
        self._safe = threading.Lock()
        renew_in_child(self, "_safe", threading.Lock)
        self._session = secrets.randbits(30)
        #: (session, created) of the used tokens, oldest first, until they expire
        self._used: dict[tuple[int, int], None] = {}

    def generate(self, record: Any) -> tuple[str, int]:
        with self._safe:
            self._session = self._session % 0x7FFFFFFF + 1
            session = self._session
        token = self._serializer.dumps([session, record])
        if isinstance(token, bytes):
            token = token.decode("ascii")
        if len(token) > _MAX_TOKEN:
            raise ValueError(
                f"the record results in a token of {len(token)} characters, but only {_MAX_TOKEN} "
                "fit in a URI"
            )
        return token, session

    def validate(self, token: str) -> tuple[int, int, Any]:
        """Return (session, created, record) of *token*, which can be used only once.

        Raises ``ValueError`` for an invalid token; the message does not contain any part of it.
        """
        try:
            (session, record), stamp = self._serializer.loads(
                token, max_age=self._expiration, return_timestamp=True
            )
        except self._expired:
            raise ValueError("it has expired") from None
        # the exception's text has parts of the token. ValueError, TypeError: signed by others
        except (self._bad_data, ValueError, TypeError):
            raise ValueError("it was not created here, or was changed") from None
        created = int(stamp.timestamp())
        with self._safe:
            # compares the signed values: a token's text can be spelled in several ways
            if (session, created) in self._used:
                raise ValueError("it was already used")
            self._used[session, created] = None
            self._forget(time() - self._expiration - 1)
        return session, created, record

    def _forget(self, expired_before: float) -> None:
        assert self._safe.locked()
        for key in list(self._used):
            if key[1] >= expired_before:
                break  # tokens are not always used in the order of creation: the rest comes later
            del self._used[key]


def _is_record_type(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, type) and is_dataclass(value)):
        raise TypeError(f"{name} must be a dataclass, not {value!r}")


class WebSocketProtocolUri(WebSocketProtocolChat):
    """A protocol for connections on temporary, signed URIs, each valid for one connection.

    Mirrors ``TWebSocketProtocolUri``.

    :param name: the sub-protocol, which clients must request (``new WebSocket(uri, name)`` in a
        browser).
    :param public_uri: the beginning of the URIs, e.g. ``'wss://example.com/gateway'``; as in the
        original, the scheme may be omitted (``'example.com/gateway'``).
    :param expiration_minutes: how long clients can connect to a URI. Open connections stay open.
    :param record_type: a dataclass for the records of :meth:`new_uri`, which are returned as its
        instances. Without it, a record is any JSON value.
    :param on_incoming_frame: as on :class:`WebSocketProtocolChat`, the base class; or override
        ``process_incoming_frame``.
    :param secret: signs the URIs. By default each object generates a new one, so its URIs do not
        survive a restart. With your own secret they do, and several servers can share it; but each
        server remembers only the URIs that were used on it.
    :param local_path: the path that this server sees, if a proxy in front of it changes the path of
        *public_uri*: ``''`` if the proxy removes the whole of ``/gateway``. None: the same path.

    A URI opens only this protocol, on its own path, even if other protocols use the same secret. An
    upgrade is refused with 404 if its token is not ours, has expired, was already used or came on
    another path. The record is signed, not encrypted: the receiver can read it, but not change it.

    Raises ``ValueError`` or ``TypeError`` for invalid arguments, and :class:`WebSocketsError`
    without the extra ``uri``.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "public_uri": IS_TEXT,
        "record_type": _is_record_type,
        "session": IS_INT,
        "created": IS_INT,
    }

    def __init__(
        self,
        name: str,
        public_uri: str,
        expiration_minutes: float,
        record_type: type[Any] | None = None,
        on_incoming_frame: OnIncomingFrame | None = None,
        *,
        secret: str | bytes | None = None,
        local_path: str | None = None,
    ) -> None:
        super().__init__(name, "", on_incoming_frame)
        if not name:
            raise ValueError("a name is required: clients use it to request the protocol")
        IS_TEXT("public_uri", public_uri)
        IS_NUMBER("expiration_minutes", expiration_minutes)
        if secret is not None and not isinstance(secret, (str, bytes)):
            raise TypeError(f"secret must be str or bytes, not {type(secret).__name__}")
        if local_path is not None:
            IS_TEXT("local_path", local_path)
        if not public_uri:
            raise ValueError(
                "public_uri must be the address for clients, e.g. 'wss://example.com/gateway'"
            )
        if "?" in public_uri or "#" in public_uri:
            raise ValueError("public_uri must end with a path, without '?' and '#'")
        if expiration_minutes <= 0:
            raise ValueError(f"expiration_minutes must be more than 0, not {expiration_minutes}")
        if secret is not None and len(secret) < 16:
            raise ValueError("a secret must have at least 16 characters or bytes")
        #: the beginning of new URIs, up to the last ``/``; mirrors ``PublicUri``
        self.public_uri: str = public_uri.rstrip("/") + "/"
        #: mirrors ``RecordTypeInfo``
        self.record_type = record_type
        #: on a connection: the number of its URI, as :meth:`new_uri` returned it; 0 before. Mirrors
        #: ``Session``
        self.session: int = 0
        #: on a connection: when its URI was created, in seconds of Unix time. Mirrors ``Created``
        self.created: int = 0
        #: on a connection: the record of its URI, None without one. Mirrors ``RecordData``
        self.record_data: Any = None
        path = _PLACE.sub("", self.public_uri, count=1).strip("/")
        self._local_path = uri_key(path if local_path is None else local_path.strip("/"))
        self._generator = _UriGenerator(
            max(1, round(expiration_minutes * 60)),
            secrets.token_bytes(32) if secret is None else secret,
            name,
            uri_key(path),
        )
        self._expiration_minutes = expiration_minutes

    def new_uri(self, record_data: Any = None) -> NewUri:
        """Return a new URI, to which one client can connect, and its session number.

        The connection will have *record_data* as :attr:`record_data`. It is an instance of
        ``record_type``, or a JSON value. Raises ``TypeError`` for any other value, and
        ``ValueError`` if it is too long for a URI. Any thread may call it. Mirrors ``NewUri``.
        """
        if self.record_type is not None and record_data is not None:
            if not isinstance(record_data, self.record_type):
                raise TypeError(
                    f"record_data must be a {self.record_type.__name__}, not "
                    f"{type(record_data).__name__}"
                )
            record_data = asdict(record_data)
        token, session = self._generator.generate(record_data)
        return NewUri(self.public_uri + token, session)

    def process_handshake_uri(self, uri: str) -> bool:
        """Accept an upgrade on one of our URIs, once; refuse all others with 404.

        Mirrors ``ProcessHandshakeUri``.
        """
        path, _, token = uri.partition("?")[0].rpartition("/")
        try:
            # checked first, so that the token is not used up
            if uri_key(path) != self._local_path:
                raise ValueError("it came on another path")
            session, created, record = self._generator.validate(token)
            if self.record_type is not None and record is not None:
                record = self._record_of(record)
        except ValueError as exc:
            self.note_error(f"the URI is refused: {exc}")
            _log.info("%s: an upgrade is refused, its URI is not valid: %s", self.name, exc)
            return False
        self.session, self.created, self.record_data = session, created, record
        return True

    def _record_of(self, record: Any) -> Any:
        """Return the *record* of a token as a ``record_type``.

        Raises ``ValueError`` if it does not fit; the message does not contain the record.
        """
        assert self.record_type is not None
        try:
            return self.record_type(**record)
        except (ValueError, TypeError):
            raise ValueError(
                f"its record is not a {self.record_type.__name__} (from another version of the "
                "program?)"
            ) from None

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol of the same class, with the same URIs, for one connection."""
        clone = self._new_clone()
        clone._generator, clone._local_path = self._generator, self._local_path
        return clone

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self.public_uri, self._expiration_minutes, self.record_type), {}
