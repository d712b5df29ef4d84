"""WebSocketProtocol: what the messages of a connection mean.

A protocol is asked at the upgrade and sees the whole messages of a connection. It holds no socket
and starts no thread. The server clones one for every connection; on a client the application's own
object is used, and reused after a reconnect. What a server offers is in ``offered.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.counts import MessageCounts
from ..core.deflate import DeflateAgreement
from ..core.frames import WebSocketFrame
from ..core.handshake import uri_key
from ..logs import shown_name, shown_uri

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess

#: printable ASCII that a token cannot have (RFC 9110 §5.6.2)
_SEPARATORS = frozenset('"(),/:;<=>?@[\\]{}')


def bare_uri(uri: str) -> str:
    """Return a protocol's *uri* without its leading ``/``; that of the root stays ``/``."""
    return uri if uri == "/" else uri.removeprefix("/")


OnBeforeIncomingFrame = Callable[["WebSocketProcess", WebSocketFrame], bool]


def is_localhost(ip: str) -> bool:
    """Tell whether a peer of that *ip* ('': none) counts as being on this machine, by the rule of
    the native ends: ``::1`` does not.
    """
    return not ip or ip.startswith("127.")


class WebSocketProtocol:
    """One application protocol, known by its *name* (``Sec-WebSocket-Protocol``) and *uri*. Mirrors
    ``TWebSocketProtocol``.

    *uri* is the path to which the protocol is limited, with or without its leading ``/``; ``''``
    means any, and ``'/'`` the root. A protocol whose *name* is ``''`` serves the clients that ask
    for no sub-protocol. Both are matched whatever their case; what is percent-encoded in an address
    (``/caf%C3%A9``) may be written as it is (``'café'``). Raises ``ValueError`` for a name that
    cannot stand in an HTTP header.
    """

    #: True on protocols whose native peers may send text that is not UTF-8: it is then neither
    #: refused nor kept from being sent
    lenient_text = False
    #: True where :meth:`before_send_frame` needs nothing but its frame: several threads then
    #: prepare frames at once, each before it takes the output lock, so that a large frame does not
    #: hold up the small ones of others
    prepares_in_any_order = False

    def __init__(self, name: str, uri: str = "") -> None:
        if not isinstance(name, str) or not isinstance(uri, str):
            raise TypeError(
                "a protocol's name and uri are str, not"
                f" {type(name).__name__} and {type(uri).__name__}"
            )
        wrong = next((c for c in name if c <= " " or c >= "\x7f" or c in _SEPARATORS), "")
        if wrong:
            # not the whole name: some applications send a token as one
            raise ValueError(
                f"the name of a sub-protocol cannot have {wrong!r}: letters, digits, '-', '.' and"
                " '_' are safe"
            )
        #: the sub-protocol's name; after an upgrade in the spelling that both sides agreed on
        self.name: str = name
        #: the path that this protocol is limited to; '' for any, '/' for the root
        self.uri = uri
        #: the URI of the upgrade, with its query
        self.upgrade_uri = ""
        #: on a client the custom headers of the upgrade; on a server the bearer token that came
        #: with it
        self.upgrade_bearer_token = ""
        #: on a server the (name, value) headers of the upgrade, names in lower case; see
        #: :meth:`upgrade_header`
        self.upgrade_headers: list[tuple[str, str]] = []
        #: the peer's IP address, server side; '' when unknown
        self.remote_ip = ""
        #: True when the peer is on this machine
        self.remote_localhost = False
        #: the server's number of the connection
        self.connection_id = 0
        #: kept for ported code: flags of the underlying connection
        self.connection_flags: frozenset[str] = frozenset()
        #: anything that the application wants to keep with the connection
        self.connection_opaque: Any = None
        #: the last fault, in words
        self.last_error = ""
        #: encrypts and decrypts frames; None: they are sent as they are
        self.encryption: Any = None
        #: what was agreed on permessage-deflate for the connection; None: it is not used
        self.compression: DeflateAgreement | None = None
        #: numbers of messages and of payload bytes, both ways, over all connections of this object:
        #: for the package, which counts
        self.counts: MessageCounts = MessageCounts()
        #: ``f(process, frame) -> bool``, called first for each message, in the connection's thread;
        #: True: it was handled
        self.on_before_incoming_frame: OnBeforeIncomingFrame | None = None
        self._custom_data: Any = None
        #: a weak reference to the client that uses this object, None before its upgrade
        self._client: Any = None

    # -------------------------------------------------------------------------- for the application

    @property
    def custom_data(self) -> Any:
        """What :meth:`set_custom_data` was given; mirrors ``CustomData``."""
        return self._custom_data

    @property
    def frames_in_count(self) -> int:
        """How many messages were received; mirrors ``FramesInCount``."""
        return self.counts.frames_in

    @property
    def frames_out_count(self) -> int:
        """How many messages were sent; mirrors ``FramesOutCount``."""
        return self.counts.frames_out

    @property
    def frames_in_bytes(self) -> int:
        """How many bytes of payload were received; mirrors ``FramesInBytes``."""
        return self.counts.bytes_in

    @property
    def frames_out_bytes(self) -> int:
        """How many bytes of payload were sent; mirrors ``FramesOutBytes``."""
        return self.counts.bytes_out

    def upgrade_header(self, name: str) -> str:
        """Return a header of the upgrade on a server, e.g. ``'Cookie'`` or ``'Origin'``, whatever
        its case; '' without it.
        """
        return next((value for key, value in self.upgrade_headers if key == name.lower()), "")

    def set_custom_data(self, data: Any) -> None:
        """Keep *data* with this connection; mirrors ``SetCustomData``."""
        self._custom_data = data

    @property
    def encrypted(self) -> bool:
        """True when frames are encrypted; mirrors ``Encrypted``."""
        return self.encryption is not None

    # ---------------------------------------------------------------------------- may be overridden

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a new object for one connection of a server, or None on a protocol for clients
        only. Mirrors ``Clone``.
        """
        return None

    def reset(self) -> None:
        """Forget what belongs to one connection; called when the object is used again for the
        next. Mirrors ``Reset``.
        """

    def get_subprotocols(self) -> str:
        """Return what a client asks for in ``Sec-WebSocket-Protocol``; '' for nothing. Mirrors
        ``GetSubprotocols``.
        """
        return self.name

    def set_subprotocol(self, name: str) -> bool:
        """Accept *name*, which the other side chose; return False when it is not one of ours.
        Mirrors ``SetSubprotocol``.
        """
        if name.lower() != self.name.lower():
            return False
        self.name = name
        return True

    def process_handshake(self, extensions: Sequence[str]) -> str | None:
        """Look at the peer's ``Sec-WebSocket-Extensions``; return what to answer ('' for nothing),
        None to refuse (406).

        Mirrors ``ProcessHandshake``.
        """
        return ""

    def process_handshake_uri(self, uri: str) -> bool:
        """Accept or refuse (404) the *uri* of an upgrade; called for protocols with an empty
        ``uri``. Mirrors ``ProcessHandshakeUri``.
        """
        return True

    def prepare_process(self, process: WebSocketProcess) -> None:
        """Give *process* what this protocol needs in it; called in the upgrading thread, before
        anybody else can know the process.
        """

    def after_upgrade(self, process: WebSocketProcess) -> None:
        """Called once in the upgrading thread when the handshake has succeeded. Mirrors
        ``AfterUpgrade``.
        """

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Handle a message; also called with ``focContinuation`` first and ``focConnectionClose``
        last. Mirrors ``ProcessIncomingFrame``.

        Runs in the connection's thread, with no lock held.
        """

    def before_send_frame(self, frame: WebSocketFrame) -> None:
        """Change *frame* (a copy) before it is encoded, e.g. encrypt it. Mirrors
        ``BeforeSendFrame``.

        Called under the output lock, in the order in which frames leave; but see
        :attr:`prepares_in_any_order`.
        """

    def after_get_frame(self, frame: WebSocketFrame) -> None:
        """Change *frame* after it was decoded; raise :class:`WebSocketsProtocolError` to close.
        Mirrors ``AfterGetFrame``.
        """

    def send_frames(self, process: WebSocketProcess, frames: Iterable[WebSocketFrame]) -> bool:
        """Send several frames, in order; return False at the first that cannot be sent. Mirrors
        ``SendFrames``.
        """
        return all(process.send_frame(frame) for frame in frames)

    def join_payloads(self, payloads: list[bytes]) -> bytes | None:
        """Return one message that stands for queued binary messages with these *payloads*, when the
        protocol has such; else None.

        Overridden: two or more of them leave as one frame. Called under the output lock.
        """
        return None

    def frame_is(self, frame: WebSocketFrame, head: str) -> bool:
        """Tell whether *frame* begins with *head* as this protocol writes heads. Mirrors
        ``FrameIs``.
        """
        return False

    # ------------------------------------------------------------------------------------- internal

    def connection_upgraded(
        self,
        uri: str,
        bearer_token: str,
        remote_ip: str,
        connection_id: int,
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        """Keep what the upgrade of a connection has told: for the package. *headers*: those of
        the request, on a server.
        """
        self.upgrade_uri = uri
        self.upgrade_bearer_token = bearer_token
        self.upgrade_headers = headers or []
        self.remote_ip = remote_ip
        self.remote_localhost = is_localhost(remote_ip)
        self.connection_id = connection_id

    def compression_agreed(self, agreement: DeflateAgreement | None) -> None:
        """Keep what was agreed on permessage-deflate: for the package."""
        self.compression = agreement

    def matches_uri(self, uri: str) -> bool:
        """Tell whether the path *uri* (no leading ``/``, no query) is served by this protocol."""
        if not self.uri:
            return True
        asked = uri_key(uri)
        # as natively, where a client that is given '/chat' asks for '//chat'
        if uri_key(self.uri) == asked:
            return True
        return self.uri.startswith("/") and uri_key(self.uri[1:]) == asked

    def _copy_to(self, clone: WebSocketProtocol) -> None:
        clone.on_before_incoming_frame = self.on_before_incoming_frame
        clone._custom_data = self._custom_data

    def __repr__(self) -> str:
        where = f" uri={shown_uri(self.uri)!r}" if self.uri else ""
        return (
            f"<{type(self).__name__} {shown_name(self.name)!r}{where}"
            f" in={self.frames_in_count}/{self.frames_in_bytes}B"
            f" out={self.frames_out_count}/{self.frames_out_bytes}B>"
        )
