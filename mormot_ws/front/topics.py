"""DoorTopics: the topics of a ``Server``, and its messages to other servers with the same hub.

``WebSocketProtocolTopics`` and the hub do the work; here they get peers instead of connections.
"""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..attributes import IS_BOOL, of_kind
from ..core.frames import WebSocketFrame, focText
from ..errors import HubError, WebSocketsError
from ..logs import LOG_SECONDS, SeldomLog, get_logger
from ..process.freeing import joined
from ..process.process import WebSocketProcess
from ..sockets.deadline import Deadline
from ..topics.hub import Heard, Hub, Publication
from ..topics.limits import TopicLimits
from ..topics.memory_hub import MemoryHub
from ..topics.protocol import WebSocketProtocolTopics
from .messages import Message, frame_of
from .peer import OfPeer, Peer

if TYPE_CHECKING:
    from .server import Server

_log = get_logger("mormot_ws.front")

#: the sub-protocol for topics
TOPICS = "topics"
#: the topic of messages between servers; no client can subscribe to it
_TOPIC = "$door"
#: seconds between two attempts to subscribe to it while the hub is unavailable
_RETRY_SECONDS = 1.0
#: seconds that the server's end waits for the thread that subscribes
_END_SECONDS = 2.0


class TopicPeer(Peer):
    """A peer that uses topics: it gets publications, and no other messages."""

    __slots__ = ()

    def send(self, message: Message) -> NoReturn:
        """Raise :class:`WebSocketsError`: only publications can be sent to it."""
        raise WebSocketsError(
            "this peer connected for topics: publish on a topic that it is subscribed to"
        )

    def send_json(self, value: Any) -> NoReturn:
        """Raise :class:`WebSocketsError`: only publications can be sent to it."""
        self.send("")


class TopicPeerProtocol(OfPeer, WebSocketProtocolTopics):
    """The topics of one peer of the *door*."""

    def __init__(self, door: DoorTopics) -> None:
        super().__init__(TOPICS, "", door.hub, limits=door.limits, presence=door.presence)
        self._door = door
        self.on_subscribe = self._may_subscribe
        self.on_publish = self._may_publish

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self._door,), {}

    def _copy_to(self, clone: Any) -> None:
        """Its callbacks are methods, which the clone has itself."""

    def prepare_process(self, process: WebSocketProcess) -> None:
        super().prepare_process(process)
        self.made_peer(process, self._door.server, TopicPeer)

    def _known_peer(self) -> Peer:
        # prepare_process() has been called
        assert self.peer is not None
        return self.peer

    def _may_subscribe(self, process: WebSocketProcess, topic: str) -> Any:
        callback = self._door.on_subscribe
        return True if callback is None else callback(self._known_peer(), topic)

    def _may_publish(self, process: WebSocketProcess, topic: str, data: Any) -> Any:
        callback = self._door.on_publish
        return True if callback is None else callback(self._known_peer(), topic, data)


class DoorTopics:
    """The topics of *server*, on *hub*."""

    __slots__ = (
        "_ending",
        "_me",
        "_seldom",
        "_subscriber",
        "hub",
        "limits",
        "on_publish",
        "on_subscribe",
        "presence",
        "server",
    )

    def __init__(
        self, server: Server, hub: Hub, limits: TopicLimits | None, presence: bool
    ) -> None:
        of_kind(Hub, meant="a MemoryHub or a RedisHub")("hub", hub)
        if limits is not None:
            of_kind(TopicLimits)("topic_limits", limits)
        IS_BOOL("presence", presence)
        self.server = server
        self.hub = hub
        self.limits = limits
        self.presence = presence
        self.on_subscribe: Callable[[Peer, str], Any] | None = None
        self.on_publish: Callable[[Peer, str, Any], Any] | None = None
        #: identifies this server among those of the hub
        self._me = secrets.token_urlsafe(9)
        self._seldom = SeldomLog(LOG_SECONDS)
        #: set when the server ends
        self._ending = threading.Event()
        #: the thread that subscribes when the hub is available again
        self._subscriber: threading.Thread | None = None

    @property
    def reaches_others(self) -> bool:
        """True if other OS processes may have servers of the same hub."""
        return not isinstance(self.hub, MemoryHub)

    def start(self) -> None:
        """Start passing messages from other servers of the hub to this server's peers."""
        if not self.reaches_others:
            return
        self._ending.clear()
        if not self._subscribe():
            self._subscriber = threading.Thread(
                target=self._subscribe_later, name="door topics", daemon=True
            )
            self._subscriber.start()

    def stop(self) -> None:
        """Undo :meth:`start`."""
        self._ending.set()
        thread, self._subscriber = self._subscriber, None
        if thread is not None and thread is not threading.current_thread():
            joined(thread, Deadline(1000 * _END_SECONDS))
        if self.reaches_others:
            try:
                self.hub.unsubscribe(_TOPIC, self._heard)
            except HubError as exc:
                _log.debug("%r: cannot unsubscribe at the hub: %s", self.server, exc)

    def _subscribe(self) -> bool:
        try:
            self.hub.subscribe(_TOPIC, self._heard)
        except HubError as exc:
            more = self._seldom.due("subscribe")
            if more is not None:
                text = "%r: messages from other servers do not arrive yet: %s%s"
                _log.warning(text, self.server, exc, more)
            return False
        return True

    def _subscribe_later(self) -> None:
        while not self._ending.wait(_RETRY_SECONDS):
            if self._subscribe():
                return

    def tell_others(self, frame: WebSocketFrame, group: str | None, protocol: str | None) -> None:
        """Let the other servers of the hub send *frame*, too. Waits for the hub, with a bound. If
        the hub is unavailable, this is logged.
        """
        if not self.reaches_others:
            return
        is_text = frame.opcode is focText
        content = frame.payload.decode() if is_text else base64.b64encode(frame.payload).decode()
        message = {
            "from": self._me,
            "group": group,
            "protocol": protocol,
            "text" if is_text else "base64": content,
        }
        try:
            self.hub.publish(_TOPIC, message)
        except HubError as exc:
            more = self._seldom.due("publish")
            if more is not None:
                text = "%r: a message has only reached the peers of this server: %s%s"
                _log.warning(text, self.server, exc, more)

    def _heard(self, heard: Heard) -> None:
        """Send what another server has sent. Called by the hub."""
        if not isinstance(heard, Publication):
            _log.warning("%r: messages from other servers are lost: %s", self.server, heard.reason)
            return
        said = heard.data
        if said["from"] != self._me:
            message = said["text"] if "text" in said else base64.b64decode(said["base64"])
            self.server._send_here(frame_of(message), said["group"], said["protocol"])
