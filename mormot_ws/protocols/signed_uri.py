"""WebSocketProtocolUri: connections on URIs that the server has made, signed and limited in time.

A browser cannot set headers on a WebSocket, so it cannot send a token in one. It asks the
application for a URI instead, over HTTP with whatever authentication that has, and connects there.
Signing is done by itsdangerous (extra ``uri``), imported when the first such protocol is made. No
socket and no thread belongs in here.
"""

from __future__ import annotations

import re
import secrets
import threading
from dataclasses import asdict, is_dataclass
from time import time
from typing import Any, NamedTuple

from ..core.forks import renew_in_child
from ..core.handshake import uri_key
from ..errors import WebSocketsError
from ..logs import get_logger
from .base import WebSocketProtocol
from .chat import OnIncomingFrame, WebSocketProtocolChat

_log = get_logger("mormot_ws.uriprotocol")

#: characters that a token may have, so that the URI passes servers, proxies and browsers
_MAX_TOKEN = 2_000
#: what is before a path in a URI
_PLACE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/]*/")


class NewUri(NamedTuple):
    """What :meth:`WebSocketProtocolUri.new_uri` returns."""

    #: what a client connects to, once
    uri: str
    #: the number under which the connection will be known, as :attr:`WebSocketProtocolUri.session`
    session: int

    def __repr__(self) -> str:
        # the token opens a connection, and a repr ends up in logs
        return f"NewUri(uri={self.uri.rpartition('/')[0] + '/…'!r}, session={self.session})"


class _UriGenerator:
    """Makes and checks the tokens of one registered protocol and of all its clones. From any
    thread.
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
        # with one secret for several protocols, a token is good for the one that made it only
        self._serializer = URLSafeTimedSerializer(
            secret, salt=f"mormot_ws.uri {name.lower()} {path_key}"
        )
        self._bad_data: type[Exception] = BadData
        self._expired: type[Exception] = SignatureExpired
        #: guards the fields below; nothing is called while it is held
        self._safe = threading.Lock()
        renew_in_child(self, "_safe", threading.Lock)
        self._session = secrets.randbits(30)
        #: (session, created) of the tokens that were used, oldest first; they are forgotten when
        #: they have expired
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
                f"the record makes a token of {len(token)} characters, at most {_MAX_TOKEN} "
                "fit into a URI"
            )
        return token, session

    def validate(self, token: str) -> tuple[int, int, Any]:
        """Return (session, created, record) of *token*, this once.

        Raises ``ValueError`` that says why not, and has nothing of the token.
        """
        try:
            (session, record), stamp = self._serializer.loads(
                token, max_age=self._expiration, return_timestamp=True
            )
        except self._expired:
            raise ValueError("it has expired") from None
        # its text has parts of the token. ValueError, TypeError: signed, but not by us
        except (self._bad_data, ValueError, TypeError):
            raise ValueError("it was not made here, or was changed") from None
        created = int(stamp.timestamp())
        with self._safe:
            # by what is signed and not by the text: that has several spellings
            if (session, created) in self._used:
                raise ValueError("it was used before")
            self._used[session, created] = None
            self._forget(time() - self._expiration - 1)
        return session, created, record

    def _forget(self, expired_before: float) -> None:
        assert self._safe.locked()
        for key in list(self._used):
            if key[1] >= expired_before:
                break  # used in another order than made: it goes with the next ones
            del self._used[key]


class WebSocketProtocolUri(WebSocketProtocolChat):
    """A protocol for connections on ephemeral, signed URIs, each good for one connection. Mirrors
    ``TWebSocketProtocolUri``.

    :param name: the sub-protocol, which the client has to ask for (``new WebSocket(uri, name)`` in
        a browser).
    :param public_uri: what the URIs begin with, e.g. ``'wss://example.com/gateway'``; the
        original's ``'example.com/gateway'`` without scheme is taken as well.
    :param expiration_minutes: how long a URI can be connected to. A connection that is open stays
        open.
    :param record_type: a dataclass; records of it may be given to :meth:`new_uri`, and come back as
        such. Without it a record is any JSON value.
    :param on_incoming_frame: as on :class:`WebSocketProtocolChat`, of which this is a kind; or
        override ``process_incoming_frame``.
    :param secret: signs the URIs. By default it is drawn anew for each object, so URIs do not
        survive a restart; with a secret of your own they do, and servers can share it, but each
        remembers only the URIs that were used on itself.
    :param local_path: the path that this server sees, where a proxy in front of it changes that of
        *public_uri*: ``''`` when it takes the whole of ``/gateway`` away. None: the same path.

    A URI opens this protocol only, by its name, and on its path only, also where others have the
    same secret. An upgrade without a valid token is refused with 404: one that is not ours, has
    expired, was used before or came on another path. The record is signed, not encrypted: its
    receiver can read it, and not change it.

    Raises ``ValueError``/``TypeError`` for arguments that cannot work, :class:`WebSocketsError`
    without the extra ``uri``.
    """

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
            raise ValueError("a name is needed: it is how a client asks for the protocol")
        if not public_uri:
            raise ValueError(
                "public_uri is what clients reach this server by, e.g. 'wss://example.com/gateway'"
            )
        if "?" in public_uri or "#" in public_uri:
            raise ValueError("public_uri ends with a path: no '?' and no '#' can be in it")
        if expiration_minutes <= 0:
            raise ValueError(f"expiration_minutes is more than 0, not {expiration_minutes}")
        if record_type is not None and not (
            isinstance(record_type, type) and is_dataclass(record_type)
        ):
            raise TypeError(f"record_type is a dataclass, not {record_type!r}")
        if secret is not None and len(secret) < 16:
            raise ValueError("a secret has at least 16 characters or bytes")
        #: what new URIs begin with, up to the last ``/``; mirrors ``PublicUri``
        self.public_uri: str = public_uri.rstrip("/") + "/"
        #: mirrors ``RecordTypeInfo``
        self.record_type = record_type
        #: on a connection: the number of its URI, as :meth:`new_uri` returned it; 0 before. Mirrors
        #: ``Session``
        self.session: int = 0
        #: on a connection: when its URI was made, in seconds of Unix time. Mirrors ``Created``
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
        """Return a new URI that one client can connect to, and its session number. Mirrors
        ``NewUri``. From any thread.

        *record_data* is what the connection will find as :attr:`record_data`: an instance of
        ``record_type``, or a JSON value. Raises ``TypeError`` for another one, ``ValueError`` when
        it is too long for a URI.
        """
        if self.record_type is not None and record_data is not None:
            if not isinstance(record_data, self.record_type):
                raise TypeError(
                    f"record_data is a {self.record_type.__name__}, not "
                    f"{type(record_data).__name__}"
                )
            record_data = asdict(record_data)
        token, session = self._generator.generate(record_data)
        return NewUri(self.public_uri + token, session)

    def process_handshake_uri(self, uri: str) -> bool:
        """Accept an upgrade on one of the URIs that were made, once; refuse any other with 404.
        Mirrors ``ProcessHandshakeUri``.
        """
        path, _, token = uri.partition("?")[0].rpartition("/")
        try:
            # first, so that the token is not used up
            if uri_key(path) != self._local_path:
                raise ValueError("it came on another path")
            session, created, record = self._generator.validate(token)
            if self.record_type is not None and record is not None:
                record = self._record_of(record)
        except ValueError as exc:
            self.last_error: str = f"the URI is refused: {exc}"
            _log.info("%s: an upgrade is refused, its URI is not valid: %s", self.name, exc)
            return False
        self.session, self.created, self.record_data = session, created, record
        return True

    def _record_of(self, record: Any) -> Any:
        """Return *record*, of a token, as a ``record_type``; raise ``ValueError`` that says nothing
        of what is in it.
        """
        assert self.record_type is not None
        try:
            return self.record_type(**record)
        except (ValueError, TypeError):
            raise ValueError(
                f"its record is not a {self.record_type.__name__} (of another version of the "
                "program?)"
            ) from None

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol of the same class for one connection, that knows the same URIs."""
        clone = self._new_clone()
        clone._generator, clone._local_path = self._generator, self._local_path
        return clone

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self.public_uri, self._expiration_minutes, self.record_type), {}
