"""WebSocketProtocol: what the messages of a connection mean.

A protocol takes part in the upgrade, and handles the whole messages of a connection. It has no
socket or thread. A server clones it for each connection; a client uses the application's object,
and reuses it after a reconnection. ``protocol_list.py`` has the list that a server offers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from inspect import signature
from types import FunctionType, NoneType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..attributes import IS_BOOL, IS_INT, IS_TEXT, Check, CheckedAttributes, of_kind
from ..core.addresses import UNIX_PEER
from ..core.counts import MessageCounts
from ..core.deflate import DeflateAgreement
from ..core.frames import WebSocketFrame
from ..core.handshake import is_same_uri
from ..logs import shown_name, shown_uri

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess

_P = TypeVar("_P", bound="WebSocketProtocol")

_PACKAGE = __name__.partition(".")[0]
_MISSING = object()
#: values that cannot be the state of one connection
_PLAIN = (bool, int, float, str, bytes, tuple, frozenset, type(None), FunctionType)

#: printable ASCII characters that a token cannot contain (RFC 9110 §5.6.2)
_SEPARATORS = frozenset('"(),/:;<=>?@[\\]{}')


def bare_uri(uri: str) -> str:
    """Return a protocol's *uri* without its leading ``/``; that of the root stays ``/``."""
    return uri if uri == "/" else uri.removeprefix("/")


OnBeforeIncomingFrame = Callable[["WebSocketProcess", WebSocketFrame], bool]


def is_localhost(ip: str) -> bool:
    """Return whether a peer with that *ip* ('': none) counts as being on this machine; a peer on a
    Unix socket does.

    The rule is mORMot's: ``::1`` does not count.
    """
    return not ip or ip == UNIX_PEER or ip.startswith("127.")


def _is_name(name: str, value: Any) -> None:
    IS_TEXT(name, value)
    wrong = next((c for c in value if c <= " " or c >= "\x7f" or c in _SEPARATORS), "")
    if wrong:
        # the message does not show the whole name: some applications use a token as a name
        raise ValueError(
            f"the name of a sub-protocol must not contain {wrong!r}: use letters, digits, '-', '.'"
            " and '_'"
        )


class WebSocketProtocol(CheckedAttributes):
    """One application protocol, identified by its *name* and *uri*.

    Mirrors ``TWebSocketProtocol``. *name* is the sub-protocol (``Sec-WebSocket-Protocol``).
    *uri* is the path to which the protocol is limited, with or without its leading ``/``; ``''``
    means any, and ``'/'`` the root. A protocol whose *name* is ``''`` serves clients that request
    no sub-protocol. Both are matched ignoring case. You can pass a path that is percent-encoded in
    a URI (``/caf%C3%A9``) in decoded form (``'café'``). Raises ``ValueError`` for a name that
    cannot be in an HTTP header.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "name": _is_name,
        "uri": IS_TEXT,
        "upgrade_uri": IS_TEXT,
        "upgrade_bearer_token": IS_TEXT,
        "upgrade_headers": of_kind(list),
        "remote_ip": IS_TEXT,
        "remote_localhost": IS_BOOL,
        "connection_id": IS_INT,
        "connection_flags": of_kind(frozenset, set),
        "last_error": IS_TEXT,
        "compression": of_kind(DeflateAgreement, NoneType),
        "counts": of_kind(MessageCounts),
        "lenient_text": IS_BOOL,
        "prepares_in_any_order": IS_BOOL,
    }
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {
        "on_before_incoming_frame": ("process", "frame")
    }

    #: True on protocols whose native peers may send text that is not UTF-8, which is then accepted
    #: in both directions
    lenient_text = False
    #: True if :meth:`before_send_frame` depends only on its frame. Several threads can then prepare
    #: frames at the same time, before they take the output lock, and a large frame does not delay
    #: small frames of other threads
    prepares_in_any_order = False

    _FROM_CLASS = (
        "upgrade_uri",
        "upgrade_bearer_token",
        "remote_ip",
        "remote_localhost",
        "connection_id",
        "connection_flags",
        "connection_opaque",
        "last_error",
        "encryption",
        "compression",
    )

    #: the URI of the upgrade, with its query
    upgrade_uri: str = ""
    #: on a client, the custom headers of the upgrade; on a server, its bearer token
    upgrade_bearer_token: str = ""
    #: on a server, the peer's IP address; ``'unix:'`` on a Unix socket, '' if unknown
    remote_ip: str = ""
    #: True if the peer is on this machine
    remote_localhost: bool = False
    #: the server's number for the connection
    connection_id: int = 0
    #: kept for ported code: flags of the underlying connection
    connection_flags: frozenset[str] = frozenset()
    #: any data that the application wants to keep with the connection
    connection_opaque: Any = None
    #: a description of the last fault
    last_error: str = ""
    encryption: Any = None
    #: the agreement on permessage-deflate for the connection; None: it is not used
    compression: DeflateAgreement | None = None
    _custom_data: Any = None
    # a weak reference to the client that uses this object, None before its upgrade
    _client: Any = None

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "broadcast": "server.websocket_broadcast(frame)",
        "on_close": "on_incoming_frame of a WebSocketProtocolChat gets focConnectionClose last",
        "on_message": "use on_incoming_frame of a WebSocketProtocolChat",
        "on_open": "on_incoming_frame of a WebSocketProtocolChat gets focContinuation first",
        "send": "use process.send_frame(frame), on the connection that callbacks get",
    }

    #: the callbacks that clones get, too
    _CLONED: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, uri: str = "") -> None:
        if not isinstance(name, str) or not isinstance(uri, str):
            raise TypeError(
                "a protocol's name and uri must be str, not"
                f" {type(name).__name__} and {type(uri).__name__}"
            )
        #: the sub-protocol's name; after an upgrade in the spelling that both sides agreed on
        self.name: str = name
        self.uri = uri
        #: on a server, the (name, value) headers of the upgrade, names in lower case; see
        #: :meth:`upgrade_header`
        self.upgrade_headers: list[tuple[str, str]] = []
        #: messages and payload bytes in both directions, over all connections of this object; the
        #: package updates them
        self.counts: MessageCounts = MessageCounts()
        #: ``f(process, frame) -> bool``, called first for each message, in the connection's thread;
        #: True: the message was handled
        self.on_before_incoming_frame: OnBeforeIncomingFrame | None = None

    # -------------------------------------------------------------------------- for the application

    @property
    def uri(self) -> str:
        """The path that this protocol is limited to; '' for any, '/' for the root.

        Setting it raises ``ValueError`` for control characters, including line ends. Mirrors
        ``Uri``.
        """
        return self._uri

    @uri.setter
    def uri(self, value: str) -> None:
        # the messages do not show the URI: some applications use a token in it
        if "://" in value[:8]:
            raise ValueError("the URI of a protocol is a path, like 'chat', without host and port")
        if any(c < " " or c == "\x7f" for c in value):
            raise ValueError("the URI of a protocol must not contain control characters")
        self._uri = value

    @property
    def custom_data(self) -> Any:
        """The data passed to :meth:`set_custom_data`; mirrors ``CustomData``."""
        return self._custom_data

    @property
    def frames_in_count(self) -> int:
        """The number of messages received; mirrors ``FramesInCount``."""
        return self.counts.frames_in

    @property
    def frames_out_count(self) -> int:
        """The number of messages sent; mirrors ``FramesOutCount``."""
        return self.counts.frames_out

    @property
    def frames_in_bytes(self) -> int:
        """The number of payload bytes received; mirrors ``FramesInBytes``."""
        return self.counts.bytes_in

    @property
    def frames_out_bytes(self) -> int:
        """The number of payload bytes sent; mirrors ``FramesOutBytes``."""
        return self.counts.bytes_out

    def upgrade_header(self, name: str) -> str:
        """Return a header of the upgrade on a server, e.g. ``'Cookie'``; '' if it is missing.

        The case of *name* is ignored.
        """
        return next((value for key, value in self.upgrade_headers if key == name.lower()), "")

    def set_custom_data(self, data: Any) -> None:
        """Keep *data* with this connection; mirrors ``SetCustomData``."""
        self._custom_data = data

    @property
    def encrypted(self) -> bool:
        """True if frames are encrypted; mirrors ``Encrypted``."""
        return self.encryption is not None

    # ---------------------------------------------------------------------------- may be overridden

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a new object for one connection of a server. Mirrors ``Clone``.

        A protocol that is only for clients returns None.
        """
        return None

    def reset(self) -> None:
        """Discard the state of the last connection, before the next one. Mirrors ``Reset``."""

    def get_subprotocols(self) -> str:
        """Return a client's ``Sec-WebSocket-Protocol``; '' to send none.

        Mirrors ``GetSubprotocols``.
        """
        return self.name

    def set_subprotocol(self, name: str) -> bool:
        """Accept *name*, chosen by the other side; return False if it is not one of ours.

        Mirrors ``SetSubprotocol``.
        """
        if name.lower() != self.name.lower():
            return False
        self._agree_on(name)
        return True

    def process_handshake(self, extensions: Sequence[str]) -> str | None:
        """Return the answer to the peer's ``Sec-WebSocket-Extensions``; None to refuse (406).

        '' sends no such header. Mirrors ``ProcessHandshake``.
        """
        return ""

    def process_handshake_uri(self, uri: str) -> bool:
        """Return True to accept the *uri* of an upgrade, False to refuse it (404).

        Called for protocols with an empty ``uri``. Mirrors ``ProcessHandshakeUri``.
        """
        return True

    def prepare_process(self, process: WebSocketProcess) -> None:
        """Set up *process* for this protocol.

        Called in the upgrading thread, before any other thread knows the process.
        """

    def after_upgrade(self, process: WebSocketProcess) -> None:
        """Called once in the upgrading thread, after the upgrade. Mirrors ``AfterUpgrade``."""

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Handle a message. Mirrors ``ProcessIncomingFrame``.

        It is also called first with ``focContinuation``, and last with ``focConnectionClose``. Runs
        in the connection's thread, with no lock held.
        """

    def before_send_frame(self, frame: WebSocketFrame) -> None:
        """Change *frame* (a copy) before it is encoded, e.g. encrypt it.

        Called under the output lock, in the order of sending, unless :attr:`prepares_in_any_order`
        is True. Mirrors ``BeforeSendFrame``.
        """

    def after_get_frame(self, frame: WebSocketFrame) -> None:
        """Change *frame* after it was decoded, e.g. decrypt it. Mirrors ``AfterGetFrame``.

        Raise :class:`WebSocketsProtocolError` to close the connection.
        """

    def send_frames(self, process: WebSocketProcess, frames: Iterable[WebSocketFrame]) -> bool:
        """Send *frames* in order; return False at the first that cannot be sent.

        Mirrors ``SendFrames``.
        """
        return all(process.send_frame(frame) for frame in frames)

    def join_payloads(self, payloads: list[bytes]) -> bytes | None:
        """Return one message that replaces queued binary messages with these *payloads*.

        None: the protocol has no such messages. If this is overridden, two or more messages are
        sent as one frame. Called under the output lock.
        """
        return None

    def frame_is(self, frame: WebSocketFrame, head: str) -> bool:
        """Return whether *frame* begins with *head*, as this protocol writes it.

        Mirrors ``FrameIs``.
        """
        return False

    def client_ended(self) -> None:
        """Called on a client when there will be no further connection: after ``free()``, when the
        policy has given up, or if there is no reconnection. Runs in the client's thread, last of
        all.
        """

    # ------------------------------------------------------------------------------------- internal

    def connection_upgraded(
        self,
        uri: str,
        bearer_token: str,
        remote_ip: str,
        connection_id: int,
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        """Store the data of a connection's upgrade; called by the package.

        *headers* are those of the request, on a server.
        """
        self.upgrade_begins(uri, bearer_token)
        self.upgrade_headers = headers or []
        self.remote_ip = remote_ip
        self.remote_localhost = is_localhost(remote_ip)
        self.connection_id = connection_id

    def upgrade_begins(self, uri: str, headers: str) -> None:
        """Store what a client requests, before its first attempt; called by the package."""
        self.upgrade_uri = uri
        self.upgrade_bearer_token = headers

    def used_by(self, client: object) -> None:
        """Keep a weak reference to *client*, which uses this object; called by the package."""
        self._client = weakref.ref(client)

    def _agree_on(self, name: str) -> None:
        """Store the sub-protocol's *name*, in the spelling that both sides agreed on."""
        self.name = name

    def _encrypt_with(self, encryption: Any) -> None:
        """Let *encryption* encrypt and decrypt frames; None: they are not encrypted."""
        self.encryption = encryption

    def note_error(self, text: str) -> None:
        """Keep *text* as :attr:`last_error`: for the package."""
        self.last_error = text

    def compression_agreed(self, agreement: DeflateAgreement | None) -> None:
        """Store the agreement on permessage-deflate; called by the package."""
        self.compression = agreement

    def matches_uri(self, uri: str) -> bool:
        """Return whether this protocol serves the path *uri* (no leading ``/``, no query)."""
        if not self.uri:
            return True
        if is_same_uri(self.uri, uri):
            return True
        # as in mORMot, whose client requests '//chat' for '/chat'
        return self.uri.startswith("/") and is_same_uri(self.uri[1:], uri)

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments that :meth:`clone` passes to the constructor."""
        return (self.name, self.uri), {}

    def check_clone(self) -> None:
        """Raise ``TypeError`` if :meth:`clone` could not work, and explain what to do. For servers,
        which clone for each connection.
        """
        kind: Any = type(self)
        if not kind.clone.__module__.startswith(_PACKAGE):
            # the application's own clone()
            return
        arguments, options = self._clone_arguments()
        if not (_takes(kind, len(arguments), tuple(options)) or _takes(kind, 0, ())):
            names = ", ".join(repr(value) for value in arguments)
            raise TypeError(
                f"{kind.__name__} is cloned for each connection as {kind.__name__}({names}), but"
                " its __init__ does not accept that: override clone(self, client_uri) to return a"
                f" new {kind.__name__} with the arguments that it needs"
            )

    def _new_clone(self: _P) -> _P:
        """Return another object of this class, with everything the application set on this one."""
        # the application's class may have another constructor
        kind: Any = type(self)
        arguments, options = self._clone_arguments()
        clone: _P
        if _takes(kind, len(arguments), tuple(options)) or not _takes(kind, 0, ()):
            clone = kind(*arguments, **options)
        else:
            # it passes the name and the URI itself
            clone = kind()
        self._copy_to(clone)
        if kind._added:
            self._copy_added(clone)
        return clone

    def _copy_to(self, clone: WebSocketProtocol) -> None:
        """Give *clone* the callbacks and the custom data."""
        for name in ("on_before_incoming_frame", *self._CLONED):
            value = getattr(self, name)
            # otherwise it is a method of the subclass, which the clone has itself
            method = getattr(type(self), name, None)
            if method is None or getattr(value, "__func__", None) is not method:
                setattr(clone, name, value)
        clone._custom_data = self._custom_data

    def _copy_added(self, clone: WebSocketProtocol) -> None:
        """Give *clone* the attributes that an application's subclass was given after construction:
        those that its constructor does not set, and plain values that were changed since.
        """
        for name in self._added & vars(self).keys():
            value = getattr(self, name)
            here = getattr(clone, name, _MISSING)
            if here is _MISSING or (isinstance(value, _PLAIN) and here != value):
                setattr(clone, name, value)

    def __repr__(self) -> str:
        where = f" uri={shown_uri(self.uri)!r}" if self.uri else ""
        return (
            f"<{type(self).__name__} {shown_name(self.name)!r}{where}"
            f" in={self.frames_in_count}/{self.frames_in_bytes}B"
            f" out={self.frames_out_count}/{self.frames_out_bytes}B>"
        )


@lru_cache(maxsize=256)
def _takes(kind: Any, count: int, options: tuple[str, ...]) -> bool:
    """Return whether objects of *kind* can be created with *count* arguments and these options."""
    try:
        signature(kind).bind(*(None,) * count, **dict.fromkeys(options))
    except TypeError:
        return False
    return True
