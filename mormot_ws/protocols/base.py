"""WebSocketProtocol: what a connection means; WebSocketProtocolList: what a server offers.

A protocol is asked at the upgrade and sees the whole messages of a connection. It holds no socket
and starts no thread. The server clones one for every connection; on a client the application's own
object is used, and reused after a reconnect.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.deflate import DeflateAgreement, PermessageDeflate
from ..core.frames import WebSocketFrame
from ..core.handshake import UpgradeRequest, upgrade_answer, upgrade_refusal, uri_key
from ..core.publicdir import PublicDir

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess

_log = logging.getLogger("mormot_ws.protocols")

OnBeforeIncomingFrame = Callable[["WebSocketProcess", WebSocketFrame], bool]


class WebSocketProtocol(PublicDir):
    """One application protocol, known by its *name* (``Sec-WebSocket-Protocol``) and *uri*. Mirrors
    ``TWebSocketProtocol``.

    *uri* is the path without its leading ``/`` to which the protocol is limited; ``''`` means any.
    Both are matched whatever their case; what is percent-encoded in an address (``/caf%C3%A9``) may
    be written as it is (``'café'``). Raises ``ValueError`` for a name that cannot stand in an
    HTTP header.
    """

    _internal = frozenset({"matches_uri", "prepare_process"})

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
                f"a protocol's name and uri are str, not {type(name).__name__} and {type(uri).__name__}"
            )
        if any(c <= " " or c >= "\x7f" or c in '"(),/:;<=>?@[\\]{}' for c in name):
            raise ValueError(
                f"{name!r} cannot be the name of a sub-protocol: letters, digits, '-', '.' and '_' are safe"
            )
        #: the sub-protocol's name; after an upgrade in the spelling that both sides agreed on
        self.name: str = name
        #: the path that this protocol is limited to; '' for any
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
        #: numbers of messages and of payload bytes, both ways, over all connections of this object
        self.frames_in_count = 0
        self.frames_out_count = 0
        self.frames_in_bytes = 0
        self.frames_out_bytes = 0
        #: ``f(process, frame) -> bool``, called first for each message, in the connection's thread;
        #: True: it was handled
        self.on_before_incoming_frame: OnBeforeIncomingFrame | None = None
        self._custom_data: Any = None

    # -------------------------------------------------------------------------- for the application

    @property
    def custom_data(self) -> Any:
        """What :meth:`set_custom_data` was given; mirrors ``CustomData``."""
        return self._custom_data

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

    def matches_uri(self, uri: str) -> bool:
        """Tell whether the path *uri* (no leading ``/``, no query) is served by this protocol."""
        return not self.uri or uri_key(self.uri) == uri_key(uri)

    def _copy_to(self, clone: WebSocketProtocol) -> None:
        clone.on_before_incoming_frame = self.on_before_incoming_frame
        clone._custom_data = self._custom_data

    def __repr__(self) -> str:
        where = f" uri={self.uri!r}" if self.uri else ""
        return (
            f"<{type(self).__name__} {self.name!r}{where} in={self.frames_in_count}/{self.frames_in_bytes}B"
            f" out={self.frames_out_count}/{self.frames_out_bytes}B>"
        )


def is_localhost(ip: str) -> bool:
    """Tell whether a peer of that *ip* ('': none) counts as being on this machine, by the rule of
    the native ends: ``::1`` does not.
    """
    return not ip or ip.startswith("127.")


class WebSocketProtocolList(PublicDir):
    """The protocols that a server offers. Mirrors ``TWebSocketProtocolList``. All methods may be
    called from any thread.
    """

    def __init__(self) -> None:
        #: ``f(protocol) -> status``, asked for each upgrade in its connection's thread, with the
        #: connection's clone: 200 goes on, any other HTTP status refuses. Mirrors ``OnUpgraded``
        self.on_upgraded: Callable[[WebSocketProtocol], int] | None = None
        #: guards _protocols; no method of a protocol is called while it is held
        self._safe = threading.Lock()
        self._protocols: list[WebSocketProtocol] = []

    @property
    def count(self) -> int:
        """How many protocols there are; mirrors ``Count``."""
        return len(self._protocols)

    def __len__(self) -> int:
        return len(self._protocols)

    def add(self, protocol: WebSocketProtocol) -> bool:
        """Offer *protocol*; return False, changing nothing, when its name and URI are there
        already. Mirrors ``Add``.
        """
        self._check(protocol)
        with self._safe:
            if self._find(protocol.name, protocol.uri) >= 0:
                return False
            self._protocols.append(protocol)
            return True

    def add_once(self, protocol: WebSocketProtocol) -> bool:
        """Offer *protocol*, in place of one with the same name and URI; return True when there was
        none. Mirrors ``AddOnce``.

        On a running server prefer :meth:`add`: connections that are open keep the old one.
        """
        self._check(protocol)
        with self._safe:
            at = self._find(protocol.name, protocol.uri)
            if at < 0:
                self._protocols.append(protocol)
                return True
            self._protocols[at] = protocol
        _log.info(
            "protocol %r, uri %r: replaced by add_once(); connections that are open keep the old one",
            protocol.name,
            protocol.uri,
        )
        return False

    def remove(self, name: str, uri: str = "") -> bool:
        """Stop offering the protocol of that *name* and *uri*; return False when there is none.
        Mirrors ``Remove``.
        """
        with self._safe:
            at = self._find(name, uri)
            if at < 0:
                return False
            del self._protocols[at]
            return True

    def clone_by_name(self, name: str, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone of the first protocol that answers to *name* on *client_uri*, or None.
        Mirrors ``CloneByName``.
        """
        for protocol in self._all():
            if protocol.matches_uri(client_uri):
                offered = [item.strip().lower() for item in protocol.get_subprotocols().split(",")]
                if name.lower() in offered:
                    clone = protocol.clone(client_uri)
                    if clone is not None:
                        clone.set_subprotocol(name)
                        return clone
        return None

    def clone_by_uri(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone of the first protocol registered with exactly that URI, which is not
        empty; or None. Mirrors ``CloneByUri``.
        """
        if not client_uri:
            return None
        for protocol in self._all():
            if protocol.uri and protocol.matches_uri(client_uri):
                clone = protocol.clone(client_uri)
                if clone is not None:
                    return clone
        return None

    def serves_uri(self, uri: str) -> bool:
        """Tell whether some protocol would serve the path *uri* (no leading ``/``, no query)."""
        return any(protocol.matches_uri(uri) for protocol in self._all())

    def _all(self) -> list[WebSocketProtocol]:
        with self._safe:
            return list(self._protocols)

    def server_upgrade(
        self,
        request: UpgradeRequest,
        remote_ip: str,
        connection_id: int,
        deflate: PermessageDeflate | None = None,
        allowed_origins: Collection[str] | None = None,
    ) -> tuple[int, WebSocketProtocol | None, bytes]:
        """Decide on an upgrade; return (status, the connection's protocol, the answer to send).
        Mirrors ``ServerUpgrade``.

        The status is 101 and there is a protocol, or it is an error's and there is none. *deflate*:
        how permessage-deflate is accepted when the client offers it; None: not at all.
        *allowed_origins*: what an ``Origin`` may be; None: anything. Called in the connection's
        thread.
        """
        if not request.origin_is_in(allowed_origins):
            _log.info(
                "an upgrade by a page of %.200s is refused: allowed_origins does not have that origin",
                ", ".join(map(repr, request.all("origin"))),
            )
            return 403, None, upgrade_refusal(403)
        status, protocol, extensions = self._negotiate(request, remote_ip, connection_id)
        if protocol is None:
            return status, None, upgrade_refusal(status)
        if deflate is not None and not protocol.encrypted:
            accepted = deflate.accept(request.extensions)
            if accepted is not None:
                answer, protocol.compression = accepted
                extensions = f"{extensions}, {answer}" if extensions else answer
        subprotocol = None if request.protocols is None else protocol.name
        return 101, protocol, upgrade_answer(request.key, connection_id, subprotocol, extensions)

    def _negotiate(
        self, request: UpgradeRequest, remote_ip: str, connection_id: int
    ) -> tuple[int, WebSocketProtocol | None, str]:
        status = request.fault()
        if status:
            return status, None, ""
        protocol = self._choose(request)
        if protocol is None:
            self._log_mismatch(request)
            return 400, None, ""
        protocol.upgrade_uri = request.uri
        protocol.upgrade_bearer_token = request.bearer_token
        protocol.upgrade_headers = request.headers
        protocol.remote_ip = remote_ip
        protocol.remote_localhost = is_localhost(remote_ip)
        protocol.connection_id = connection_id
        if not protocol.uri and not protocol.process_handshake_uri(request.uri):
            return 404, None, ""
        extensions = protocol.process_handshake(request.extensions)
        if extensions is None:
            return 406, None, ""
        status = self._ask_application(protocol)
        if status != 200:
            return status, None, ""
        return 101, protocol, extensions

    def _ask_application(self, protocol: WebSocketProtocol) -> int:
        """Return what ``on_upgraded`` says: 200 or the status of a refusal; 500 when it fails."""
        if self.on_upgraded is None:
            return 200
        try:
            status = self.on_upgraded(protocol)
        # whatever the user's code raises, or its sys.exit(), refuses this connection only
        except BaseException:  # noqa: BLE001
            _log.exception("on_websocket_upgraded failed; the upgrade is refused with 500")
            return 500
        if isinstance(status, int) and (status == 200 or 300 <= status <= 599):
            return status
        _log.error(
            "on_websocket_upgraded has to return 200 or an HTTP status that refuses, not %r: refused with 500",
            status,
        )
        return 500

    def _choose(self, request: UpgradeRequest) -> WebSocketProtocol | None:
        if request.protocols is None:
            return self.clone_by_uri(request.path)
        for name in request.protocols:
            protocol = self.clone_by_name(name, request.path)
            if protocol is not None:
                return protocol
        return None

    def _log_mismatch(self, request: UpgradeRequest) -> None:
        """Say what was asked for and what there is: the client gets no more than a 400."""
        offered = ", ".join(
            f"{item.name!r} on {item.uri!r}" if item.uri else f"{item.name!r}"
            for item in self._all()
        )
        asked = (
            "no protocol"
            if request.protocols is None
            else f"the protocol {', '.join(request.protocols)!r}"
        )
        _log.info(
            "an upgrade asks for %.200s on the URI %.200r; offered: %s. Name and URI have to match one that was given to add()",
            asked,
            request.path,
            offered or "none",
        )

    def _find(self, name: str, uri: str) -> int:
        assert self._safe.locked()
        for at, protocol in enumerate(self._protocols):
            if protocol.name.lower() == name.lower() and uri_key(protocol.uri) == uri_key(uri):
                return at
        return -1

    @staticmethod
    def _check(protocol: WebSocketProtocol) -> None:
        if not isinstance(protocol, WebSocketProtocol):
            raise TypeError(
                f"an object of a WebSocketProtocol class is added, not {type(protocol).__name__}"
            )

    def __repr__(self) -> str:
        return f"<WebSocketProtocolList {self._protocols!r}>"
