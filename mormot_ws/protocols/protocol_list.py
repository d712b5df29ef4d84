"""WebSocketProtocolList: the protocols that a server offers, and the decision on an upgrade."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from typing import ClassVar

from ..attributes import KnownAttributes
from ..core.deflate import PermessageDeflate
from ..core.forks import renew_in_child
from ..core.handshake import UpgradeRequest, upgrade_answer, upgrade_refusal, uri_key
from ..logs import SeldomLog, get_logger
from .base import WebSocketProtocol, bare_uri

_log = get_logger("mormot_ws.protocols")

#: seconds between two warnings about clients that request a protocol that is not offered
_MISMATCH_SECONDS = 60.0


class WebSocketProtocolList(KnownAttributes):
    """The protocols that a server offers. Mirrors ``TWebSocketProtocolList``.

    All methods are thread-safe.
    """

    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {"on_upgraded": ("protocol",)}

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "append": "use add(protocol), or add_once(protocol)",
        "register": "use add(protocol), or add_once(protocol)",
    }

    def __init__(self) -> None:
        #: ``f(protocol) -> status``, called for each upgrade in the connection's thread with the
        #: connection's clone: 200 accepts, any other HTTP status refuses. Mirrors ``OnUpgraded``
        self.on_upgraded: Callable[[WebSocketProtocol], int] | None = None
        #: held while _protocols is replaced; no application code runs while it is held. It is
        #: reentrant, because a finaliser may run at any moment
        self._safe = threading.RLock()
        renew_in_child(self, "_safe", threading.RLock)
        #: never changed, only replaced, so readers need no lock
        self._protocols: tuple[WebSocketProtocol, ...] = ()
        self._mismatch_log = SeldomLog(_MISMATCH_SECONDS)

    @property
    def count(self) -> int:
        """The number of protocols; mirrors ``Count``."""
        return len(self._protocols)

    def __len__(self) -> int:
        return len(self._protocols)

    def __iter__(self) -> Iterator[WebSocketProtocol]:
        return iter(self._protocols)

    def add(self, protocol: WebSocketProtocol) -> bool:
        """Offer *protocol*; return False if its name and URI are already offered.

        Mirrors ``Add``.
        """
        self._check(protocol)
        with self._safe:
            if self._find(protocol.name, protocol.uri) >= 0:
                return False
            self._protocols = (*self._protocols, protocol)
            return True

    def add_once(self, protocol: WebSocketProtocol) -> bool:
        """Offer *protocol*, and replace one with the same name and URI. Mirrors ``AddOnce``.

        Returns True if there was none. On a running server prefer :meth:`add`, because open
        connections keep the old protocol.
        """
        self._check(protocol)
        with self._safe:
            before = self._protocols
            at = self._find(protocol.name, protocol.uri)
            end = len(before) if at < 0 else at
            self._protocols = (*before[:end], protocol, *before[end + 1 :])
        if at < 0:
            return True
        _log.info(
            "protocol %r, uri %r: replaced by add_once(); open connections keep the old one",
            protocol.name,
            protocol.uri,
        )
        return False

    def remove(self, name: str, uri: str = "") -> bool:
        """Stop offering the protocol with that *name* and *uri*; return False if there is none.

        Mirrors ``Remove``.
        """
        if not isinstance(name, str) or not isinstance(uri, str):
            raise TypeError(
                "the name and uri of the protocol to remove must be str, not"
                f" {type(name).__name__} and {type(uri).__name__}"
            )
        with self._safe:
            # keeps the protocol alive until the lock is free: this may be the last reference
            before = self._protocols
            at = self._find(name, uri)
            if at >= 0:
                self._protocols = (*before[:at], *before[at + 1 :])
        return at >= 0

    def clone_by_name(self, name: str, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone of the first protocol called *name* that serves *client_uri*, or None.

        Mirrors ``CloneByName``.
        """
        for protocol in self._protocols:
            if protocol.matches_uri(client_uri):
                offered = [item.strip().lower() for item in protocol.get_subprotocols().split(",")]
                if name.lower() in offered:
                    clone = protocol.clone(client_uri)
                    if clone is not None:
                        clone.set_subprotocol(name)
                        return clone
        return None

    def clone_by_uri(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone of the first protocol with exactly that non-empty URI, or None.

        Mirrors ``CloneByUri``.
        """
        if not client_uri:
            return None
        for protocol in self._protocols:
            if protocol.uri and protocol.matches_uri(client_uri):
                clone = protocol.clone(client_uri)
                if clone is not None:
                    return clone
        return None

    def clone_for_nameless(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone for a client that requests no sub-protocol on *client_uri*, or None.

        Protocols with exactly that URI come first, and among them those without a name; then those
        without a name that serve any URI.
        """
        fitting = [item for item in self._protocols if item.matches_uri(client_uri)]
        exact = [item for item in fitting if item.uri]
        return (
            self._clone_first([item for item in exact if not item.name], client_uri)
            # as in mORMot, this does not match the root path
            or self.clone_by_uri(client_uri)
            or self._clone_first(exact, client_uri)
            or self._clone_first([item for item in fitting if not item.name], client_uri)
        )

    def serves_uri(self, uri: str) -> bool:
        """Return whether some protocol would serve the path *uri* (no leading ``/``, no query)."""
        return any(protocol.matches_uri(uri) for protocol in self._protocols)

    def server_upgrade(
        self,
        request: UpgradeRequest,
        remote_ip: str,
        connection_id: int,
        deflate: PermessageDeflate | None = None,
        allowed_origins: Collection[str] | None = None,
    ) -> tuple[int, WebSocketProtocol | None, bytes]:
        """Decide on an upgrade; return (status, the connection's protocol, the answer to send).

        The status is 101, or it is the status of a refusal and the protocol is None. *deflate*: how
        to accept permessage-deflate if the client offers it; None: not at all. *allowed_origins*:
        the origins to accept; None: any. Called in the connection's thread. Mirrors
        ``ServerUpgrade``.
        """
        if not request.origin_is_in(allowed_origins):
            _log.info(
                "an upgrade from a page of %.200s is refused: this origin is not in"
                " allowed_origins",
                ", ".join(map(repr, request.all("origin"))),
            )
            return 403, None, upgrade_refusal(403)
        status, protocol, extensions = self._negotiate(request, remote_ip, connection_id)
        if protocol is None:
            # after a refusal, `extensions` is a text for the client
            return status, None, upgrade_refusal(status, extensions)
        if deflate is not None and not protocol.encrypted:
            accepted = deflate.accept(request.extensions)
            if accepted is not None:
                answer, agreement = accepted
                protocol.compression_agreed(agreement)
                extensions = f"{extensions}, {answer}" if extensions else answer
        subprotocol = None if request.protocols is None else protocol.name
        return 101, protocol, upgrade_answer(request.key, connection_id, subprotocol, extensions)

    def _negotiate(
        self, request: UpgradeRequest, remote_ip: str, connection_id: int
    ) -> tuple[int, WebSocketProtocol | None, str]:
        """Return the status, the protocol and its extensions.

        For a refusal, they are the status, None, and a text for the client.
        """
        status = request.fault()
        if status:
            return status, None, ""
        protocol = self._choose(request)
        if protocol is None:
            self._log_mismatch(request)
            # a client that names protocols gets exactly a native server's answer
            named = request.protocols is not None
            return 400, None, "" if named else self._what_is_offered(request.path)
        protocol.connection_upgraded(
            request.uri, request.bearer_token, remote_ip, connection_id, request.headers
        )
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
        """Return the status from ``on_upgraded``: 200, or that of a refusal; 500 if it fails."""
        if self.on_upgraded is None:
            return 200
        try:
            status = self.on_upgraded(protocol)
        # any exception in the application, even from sys.exit(), refuses only this connection
        except BaseException:  # noqa: BLE001
            _log.exception("on_websocket_upgraded failed; the upgrade is refused with 500")
            return 500
        if isinstance(status, int) and (status == 200 or 300 <= status <= 599):
            return status
        _log.error(
            "on_websocket_upgraded must return 200 or an HTTP status that refuses, not %r:"
            " refused with 500",
            status,
        )
        return 500

    def _choose(self, request: UpgradeRequest) -> WebSocketProtocol | None:
        if request.protocols is None:
            return self.clone_for_nameless(request.path)
        # without repetitions, which cost a peer only bytes
        for name in dict.fromkeys(request.protocols):
            protocol = self.clone_by_name(name, request.path)
            if protocol is not None:
                return protocol
        return None

    @staticmethod
    def _clone_first(
        protocols: list[WebSocketProtocol], client_uri: str
    ) -> WebSocketProtocol | None:
        """Return a clone of the first of *protocols* that servers can use, or None."""
        clones = (protocol.clone(client_uri) for protocol in protocols)
        return next((clone for clone in clones if clone is not None), None)

    def _what_is_offered(self, path: str) -> str:
        """Return a line that tells a refused client what it can request."""
        here = [item for item in self._protocols if item.matches_uri(path)]
        where = "on this URI" if here else "on other URIs only"
        names: dict[str, None] = {}
        for protocol in here or self._protocols:
            for name in protocol.get_subprotocols().split(","):
                names[repr(name.strip()) if name.strip() else "none at all"] = None
        if not names:
            return "This server offers no sub-protocol."
        return (
            f"Sub-protocols (Sec-WebSocket-Protocol) that this server offers {where}: "
            f"{', '.join(names)}."
        )

    def _log_mismatch(self, request: UpgradeRequest) -> None:
        """Log what was requested and what is offered, at WARNING, but only once a minute.

        Only our own names and URIs are logged, because others may be tokens.
        """
        protocols = self._protocols
        offered = ", ".join(
            f"{item.name!r} on {item.uri!r}" if item.uri else f"{item.name!r}" for item in protocols
        )
        names = {item.name.lower() for item in protocols}
        asked = request.protocols or []
        known = [repr(name) for name in sorted({name.lower() for name in asked} & names)]
        what = f"the protocol {', '.join(known)}" if known else "no protocol"
        if any(name.lower() not in names for name in asked):
            what = f"{what} or another" if known else "a protocol that is not offered"
        path = request.path
        ours = not path or any(item.uri and item.matches_uri(path) for item in protocols)
        more = self._mismatch_log.due()
        _log.log(
            logging.INFO if more is None else logging.WARNING,
            "an upgrade requests %s on %s; offered: %s. Name and URI must match a protocol that "
            "was passed to add()%s%s",
            what,
            f"the URI {path!r}" if ours else "another URI",
            offered or "none",
            "" if asked else "; the name '' serves clients that request no protocol",
            more or "",
        )

    def _find(self, name: str, uri: str) -> int:
        key = uri_key(bare_uri(uri))
        for at, protocol in enumerate(self._protocols):
            if protocol.name.lower() == name.lower() and uri_key(bare_uri(protocol.uri)) == key:
                return at
        return -1

    @staticmethod
    def _check(protocol: WebSocketProtocol) -> None:
        if not isinstance(protocol, WebSocketProtocol):
            raise TypeError(
                f"add() needs an object of a WebSocketProtocol class, not {type(protocol).__name__}"
            )
        if type(protocol).clone is WebSocketProtocol.clone:
            _log.warning(
                "%s has no clone() of its own: no connection of a server will get it",
                type(protocol).__name__,
            )
        protocol.check_clone()

    def __repr__(self) -> str:
        return f"<WebSocketProtocolList {list(self._protocols)!r}>"
