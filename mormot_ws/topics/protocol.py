"""WebSocketProtocolTopics: topics on a WebSocket connection, on servers and on clients.

The messages are specified in ``docs/reference/topics-protocol.md``. The server's side is in
``visitor.py`` and ``server_side.py``, the client's in ``client_side.py``.
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

#: ``f(process, topic)``: True, False, or a text why not
OnSubscribe = Callable[[WebSocketProcess, str], bool | str]
#: ``f(process, topic, data)``: True, False, a text why not, or other data
OnPublish = Callable[[WebSocketProcess, str, Any], Any]
#: ``f(process, topic)``: any JSON value
OnMember = Callable[[WebSocketProcess, str], Any]


class WebSocketProtocolTopics(WebSocketProtocol):
    """Publish and subscribe, with a history: what was missed comes after a reconnection.

    :param name: the sub-protocol.
    :param uri: the path that it is limited to; ``''``: any.
    :param hub: on a server what its topics are published on; None on a client. The application
        makes it, and frees it after the server.
    :param limits: on a server, what clients may do; None: :class:`TopicLimits`.
    :param presence: on a server, whether subscribers may ask who else is subscribed.
    :param on_subscribe: on a server, ``f(process, topic)``, asked for each subscription: True,
        False, or a text why not. None: everything is allowed.
    :param on_publish: on a server, ``f(process, topic, data)``, asked for each publication of a
        client: True, False, a text why not, or what is published instead: a dict, a list, a number,
        or ``Changed(value)`` for any value. After a loss of the connection it may be asked again
        for the same publication.
    :param on_member: on a server with *presence*, ``f(process, topic)``: what others see of the
        member, any JSON value.
    :param max_unacknowledged: on a client, how many publications may wait for the server's answer;
        0: any number.
    :param max_unacknowledged_bytes: bytes of their data; 0: any number.
    :param unacknowledged_policy: ``'refuse'``: when there are too many, a new one fails at once;
        ``'drop_oldest'``: the oldest one fails.

    The callbacks run in the connection's thread and may block: nobody else waits for that. What
    they raise is logged, and refuses. Methods of clients may be called from any thread, in
    callbacks, before the first connection, and while there is none.

    Raises ``TypeError``/``ValueError`` for values that cannot be.
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
        #: see above
        self.on_subscribe: OnSubscribe | None = on_subscribe
        self.on_publish: OnPublish | None = on_publish
        self.on_member: OnMember | None = on_member
        self.max_unacknowledged = max_unacknowledged
        self.max_unacknowledged_bytes = max_unacknowledged_bytes
        self.unacknowledged_policy: str = unacknowledged_policy
        #: on a server: what all connections share
        self._shared = None if hub is None else TopicServer(hub, limits, presence)
        #: on a server's connection: its side
        self._visitor: Visitor | None = None
        #: on a client
        self._own: TopicClient | None = None
        if hub is None:
            self._own = TopicClient(
                max_unacknowledged,
                max_unacknowledged_bytes,
                unacknowledged_policy == "drop_oldest",
            )

    # ------------------------------------------------------------------------------------ for both

    @property
    def hub(self) -> Hub | None:
        """What the server's topics are published on; None on a client."""
        return self._hub

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Handle a message of the other side."""
        visitor = self._visitor
        if visitor is not None:
            visitor.received(frame)
        elif self._own is not None:
            self._own.received(process, frame)

    # -------------------------------------------------------------------------------- on a server

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol for one connection of a server; None on a client."""
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
            raise ValueError("the protocol of a client has no hub: that is the server's")
        super().used_by(client)

    def prepare_process(self, process: WebSocketProcess) -> None:
        """Make the server's side of a connection."""
        if self._shared is not None:
            self._visitor = Visitor(self._shared, self, process)

    def status(self) -> TopicsStatus:
        """Return a snapshot of a server's topics, in this OS process.

        Raises :class:`WebSocketsError` on a client.
        """
        if self._shared is None:
            raise WebSocketsError("this is for servers, whose protocol has a hub")
        return self._shared.status()

    @property
    def limits(self) -> TopicLimits:
        """On a server, what clients may do."""
        return self._limits

    @property
    def presence(self) -> bool:
        """On a server, whether subscribers may ask who else is subscribed."""
        return self._presence

    @property
    def topics(self) -> list[str]:
        """On a server's connection, the topics that its client is subscribed to; on a client, those
        that it has subscribed to.
        """
        if self._visitor is not None:
            return self._visitor.topics
        return [each.topic for each in self.subscriptions]

    def end_subscription(self, topic: str, reason: str = "the server has ended it") -> bool:
        """On a server's connection (``process.protocol``), end a subscription of its client.

        The client is told the *reason*, and does not subscribe again by itself. Returns False when
        it is not subscribed.
        """
        if self._visitor is None:
            raise WebSocketsError("this is for the protocol of a server's connection")
        return self._visitor.end_subscription(topic, reason)

    # -------------------------------------------------------------------------------- on a client

    def _client_only(self) -> TopicClient:
        if self._own is None:
            raise WebSocketsError(
                "this is for clients: a server publishes and subscribes with its hub"
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
        """Call ``on_publication(publication)`` with each publication on *topic*, in the client's
        thread, over all reconnections: each once, in order.

        :param since: first with everything after that position; None: where :meth:`restore` says,
            or from now on.
        :param on_recovered: ``f(recovery)``, called after a reconnection, before what was missed
            comes, and whenever some of it is lost: ``recovery.recovered`` is False then.
        :param on_refused: ``f(subscription)``, called when the server refuses it, or ends it.

        Raises ``ValueError`` when there is a subscription to *topic* already, and for what is no
        name of a topic.
        """
        check_callback(on_publication, "on_publication", "publication")
        if on_recovered is not None:
            check_callback(on_recovered, "on_recovered", "recovery")
        if on_refused is not None:
            check_callback(on_refused, "on_refused", "subscription")
        return self._client_only().subscribe(topic, on_publication, since, on_recovered, on_refused)

    def unsubscribe(self, topic: str) -> bool:
        """End a subscription; return False when there is none.

        In the client's thread nothing is called any more after it returns.
        """
        return self._client_only().unsubscribe(topic)

    def publish(self, topic: str, data: Any, on_done: OnDone | None = None) -> Publishing:
        """Publish *data*, any JSON value, now or as soon as there is a connection.

        :param on_done: ``f(publishing)``, called when it is acknowledged, refused or failed: in the
            client's thread, or in this one when it fails at once.

        Never waits. Publications reach the hub in the order of the calls, each once: one without an
        answer is sent again after a reconnection. Raises ``TypeError``/``ValueError`` for what JSON
        cannot say, and for what is no name of a topic.
        """
        if on_done is not None:
            check_callback(on_done, "on_done", "publishing")
        return self._client_only().publish(topic, data, on_done)

    def members(self, topic: str, timeout_ms: float = 5_000) -> dict[str, Any] | None:
        """Return who is subscribed to *topic*, which this client has to be, too: what the server
        tells of each, by its name; None without a connection, or an answer in time.

        Raises :class:`WebSocketsError` when the server refuses, and in callbacks.
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
        """On a client, its publications without an answer, in order."""
        return self._client_only().unacknowledged

    def state(self) -> dict[str, Any]:
        """Return what another program needs to go on for this client: JSON values.

        The positions of its topics, with the publications whose callbacks are running, and the
        publications without an answer. It is a secret: it holds the session.
        """
        return self._client_only().state()

    def restore(self, state: object) -> None:
        """Go on where *state* was taken, in another program or object: before anything else is
        called, and while nobody else uses that state.

        Raises ``ValueError`` for what :meth:`state` has not returned.
        """
        self._client_only().restore(state)

    def client_ended(self) -> None:
        if self._own is not None:
            self._own.over()
