"""WebSocketProtocolTopics: topics over WebSocket connections, for servers and clients.

The messages are specified in ``docs/reference/topics-protocol.md``. The server side is in
``visitor.py`` and ``server_side.py``, the client side in ``client_side.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from ..attributes import IS_BOOL, IS_INT, Check, of_kind
from ..callbacks import check_callback
from ..core.frames import WebSocketFrame
from ..errors import WebSocketsError
from ..process.process import WebSocketProcess
from ..protocols.base import WebSocketProtocol
from .client_side import TopicClient
from .hub import Hub, Position
from .limits import TopicLimits
from .publishing import OnDone, Publishing
from .server_side import TopicServer, TopicsStatus
from .subscriptions import OnPublication, OnRecovered, OnRefused, TopicSubscription
from .visitor import Visitor

#: ``f(process, topic)``: True, False, or the reason for a refusal
OnSubscribe = Callable[[WebSocketProcess, str], bool | str]
#: ``f(process, topic, data)``: True, False, the reason for a refusal, or other data
OnPublish = Callable[[WebSocketProcess, str, Any], Any]
#: ``f(process, topic)``: any JSON value
OnMember = Callable[[WebSocketProcess, str], Any]


class WebSocketProtocolTopics(WebSocketProtocol):
    """Publish and subscribe with a history: missed publications arrive after a reconnection.

    :param name: the sub-protocol.
    :param uri: the path to which it is limited; ``''``: any path.
    :param hub: on a server, the hub of its topics; None on a client. The application creates it,
        and frees it after the server.
    :param limits: on a server, the limits for clients; None: the defaults of :class:`TopicLimits`.
    :param presence: on a server, whether subscribers may ask who else is subscribed.
    :param on_subscribe: on a server, ``f(process, topic)``, called for each subscription. It
        returns True, False, or the reason for a refusal. None: everything is allowed.
    :param on_publish: on a server, ``f(process, topic, data)``, called for each publication of a
        client. It returns True, False, the reason for a refusal, or data to publish instead: a
        dict, a list, a number, or ``Changed(value)`` for any value. After a lost connection it may
        be called again for the same publication.
    :param on_member: on a server with *presence*, ``f(process, topic)``. It returns what others see
        of the member, any JSON value.
    :param max_unacknowledged: on a client, the maximum number of unanswered publications; 0: no
        limit.
    :param max_unacknowledged_bytes: the maximum bytes of their data; 0: no limit.
    :param unacknowledged_policy: what to do at these limits. ``'refuse'``: a new publication fails
        at once; ``'drop_oldest'``: the oldest one fails.

    The callbacks run in the connection's thread and may block without delaying other connections.
    If one raises, the exception is logged and the request refused. The methods for clients may be
    called from any thread, in callbacks, before the first connection, and while disconnected.

    Raises ``TypeError``/``ValueError`` for invalid values.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "max_unacknowledged": IS_INT,
        "max_unacknowledged_bytes": IS_INT,
    }
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {
        "on_subscribe": ("process", "topic"),
        "on_publish": ("process", "topic", "data"),
        "on_member": ("process", "topic"),
    }
    _CLONED = ("on_subscribe", "on_publish", "on_member")
    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "broadcast": "hub.publish(topic, data)",
        "emit": "publish(topic, data)",
        "on_message": "subscribe(topic, on_publication)",
    }

    def __init__(
        self,
        name: str = "topics",
        uri: str = "",
        hub: Hub | None = None,
        *,
        limits: TopicLimits | None = None,
        presence: bool = False,
        on_subscribe: OnSubscribe | None = None,
        on_publish: OnPublish | None = None,
        on_member: OnMember | None = None,
        max_unacknowledged: int = 1_000,
        max_unacknowledged_bytes: int = 16 << 20,
        unacknowledged_policy: Literal["refuse", "drop_oldest"] = "refuse",
    ) -> None:
        super().__init__(name, uri)
        if hub is not None and not isinstance(hub, Hub):
            raise TypeError(
                f"hub must be a MemoryHub, a RedisHub or None, not {type(hub).__name__}"
            )
        if unacknowledged_policy not in ("refuse", "drop_oldest"):
            raise ValueError(
                f"unacknowledged_policy must be 'refuse' or 'drop_oldest', not"
                f" {unacknowledged_policy!r}"
            )
        for given, value in (
            ("max_unacknowledged", max_unacknowledged),
            ("max_unacknowledged_bytes", max_unacknowledged_bytes),
        ):
            IS_INT(given, value)
            if value < 0:
                raise ValueError(f"{given} must be at least 0 (0 means any number), not {value}")
        if limits is None:
            limits = TopicLimits()
        of_kind(TopicLimits)("limits", limits)
        IS_BOOL("presence", presence)
        self._hub = hub
        self._limits = limits
        self._presence = presence
        #: see the parameters above
        self.on_subscribe: OnSubscribe | None = on_subscribe
        self.on_publish: OnPublish | None = on_publish
        self.on_member: OnMember | None = on_member
        self.max_unacknowledged = max_unacknowledged
        self.max_unacknowledged_bytes = max_unacknowledged_bytes
        self.unacknowledged_policy: str = unacknowledged_policy
        #: on a server: shared by all connections
        self._shared = None if hub is None else TopicServer(hub, limits, presence)
        #: on a server's connection: its visitor
        self._visitor: Visitor | None = None
        #: on a client
        self._own: TopicClient | None = None
        if hub is None:
            self._own = TopicClient(
                max_unacknowledged,
                max_unacknowledged_bytes,
                unacknowledged_policy == "drop_oldest",
            )

    # ----------------------------------------------------------------------- on servers and clients

    @property
    def hub(self) -> Hub | None:
        """On a server, the hub of its topics; None on a client."""
        return self._hub

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Handle a message of the peer."""
        visitor = self._visitor
        if visitor is not None:
            visitor.received(frame)
        elif self._own is not None:
            self._own.received(process, frame)

    # -------------------------------------------------------------------------------- on a server

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol for a connection of a server; None on a client."""
        if self._hub is None:
            return None
        clone = self._new_clone()
        clone._shared = self._shared
        return clone

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = {"limits": self._limits, "presence": self._presence}
        return (self.name, self.uri, self._hub), options

    def used_by(self, client: object) -> None:
        if self._own is None:
            raise ValueError("a client's protocol has no hub: the hub belongs to the server")
        super().used_by(client)

    def prepare_process(self, process: WebSocketProcess) -> None:
        """Create the server side of a connection."""
        if self._shared is not None:
            self._visitor = Visitor(self._shared, self, process)

    def status(self) -> TopicsStatus:
        """Return a snapshot of a server's topics, in this OS process.

        Raises :class:`WebSocketsError` on a client.
        """
        if self._shared is None:
            raise WebSocketsError("only for servers, whose protocol has a hub")
        return self._shared.status()

    @property
    def limits(self) -> TopicLimits:
        """On a server, the limits for clients."""
        return self._limits

    @property
    def presence(self) -> bool:
        """On a server, whether subscribers may ask who else is subscribed."""
        return self._presence

    @property
    def topics(self) -> list[str]:
        """The topics that this connection's client is subscribed to, on a server or a client."""
        if self._visitor is not None:
            return self._visitor.topics
        return [each.topic for each in self.subscriptions]

    def end_subscription(self, topic: str, reason: str = "the server has ended it") -> bool:
        """On a server's connection (``process.protocol``), end a subscription of its client.

        The client gets the *reason*, and does not resubscribe by itself. Returns False if it is not
        subscribed.
        """
        if self._visitor is None:
            raise WebSocketsError("only for the protocol of a server's connection")
        return self._visitor.end_subscription(topic, reason)

    # -------------------------------------------------------------------------------- on a client

    def _client_only(self) -> TopicClient:
        if self._own is None:
            raise WebSocketsError(
                "only for clients; on a server, publish and subscribe with its hub"
            )
        return self._own

    def subscribe(
        self,
        topic: str,
        on_publication: OnPublication,
        since: Position | None = None,
        on_recovered: OnRecovered | None = None,
        on_refused: OnRefused | None = None,
    ) -> TopicSubscription:
        """Call ``on_publication(publication)`` for each publication on *topic*.

        The calls are made in the client's thread, in order, once for each publication, and continue
        after reconnections.

        :param since: start after this position; None: at the position from :meth:`restore`, or now.
        :param on_recovered: ``f(recovery)``, called after a reconnection, before the missed
            publications, and whenever publications are lost; ``recovery.recovered`` is then False.
        :param on_refused: ``f(subscription)``, called when the server refuses or ends the
            subscription.

        Raises ``ValueError`` if *topic* is already subscribed to or is not a valid name.
        """
        check_callback(on_publication, "on_publication", "publication")
        if on_recovered is not None:
            check_callback(on_recovered, "on_recovered", "recovery")
        if on_refused is not None:
            check_callback(on_refused, "on_refused", "subscription")
        return self._client_only().subscribe(topic, on_publication, since, on_recovered, on_refused)

    def unsubscribe(self, topic: str) -> bool:
        """End a subscription; return False if there is none.

        When called in the client's thread, no callback runs after this returns.
        """
        return self._client_only().unsubscribe(topic)

    def publish(self, topic: str, data: Any, on_done: OnDone | None = None) -> Publishing:
        """Publish *data*, any JSON value, now or as soon as there is a connection.

        :param on_done: ``f(publishing)``, called when the publication is acknowledged, refused or
            failed: in the client's thread, or in the calling thread if it fails at once.

        Never waits. Publications reach the hub once and in the order of the calls: unanswered ones
        are sent again after a reconnection. Raises ``TypeError``/``ValueError`` for data that JSON
        cannot represent and for an invalid topic name.
        """
        if on_done is not None:
            check_callback(on_done, "on_done", "publishing")
        return self._client_only().publish(topic, data, on_done)

    def members(self, topic: str, timeout_ms: float = 5_000) -> dict[str, Any] | None:
        """Return who is subscribed to *topic*: a dict that maps each name to what the server
        reports about it.

        This client has to be subscribed too. Returns None without a connection or without an answer
        in time. Raises :class:`WebSocketsError` if the server refuses, and in callbacks.
        """
        return self._client_only().members(topic, timeout_ms)

    @property
    def member(self) -> str:
        """On a client, its name in :meth:`members`; '' before the first connection."""
        return self._client_only().member

    @property
    def subscriptions(self) -> list[TopicSubscription]:
        """On a client, its subscriptions."""
        return self._client_only().subscriptions

    @property
    def unacknowledged(self) -> list[Publishing]:
        """On a client, its unanswered publications, in order."""
        return self._client_only().unacknowledged

    def state(self) -> dict[str, Any]:
        """Return what another program needs to continue for this client, as JSON values.

        These are the positions of its topics, counting publications whose callbacks are running,
        and the unanswered publications. Keep it secret: it contains the session.
        """
        return self._client_only().state()

    def restore(self, state: object) -> None:
        """Continue where *state* was taken, in another program or object.

        Call this before any other method, and use a state in only one place at a time. Raises
        ``ValueError`` if *state* was not returned by :meth:`state`.
        """
        self._client_only().restore(state)

    def client_ended(self) -> None:
        if self._own is not None:
            self._own.over()
