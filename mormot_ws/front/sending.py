"""What a ``Server`` sends: messages to its peers, publications to the subscribers of its hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..attributes import IS_TEXT
from ..core.frames import WebSocketFrame
from ..errors import WebSocketsError
from ..topics.hub import Hub, Published
from .attributes import FixedAttributes
from .callbacks import check_callback
from .messages import Message, frame_of, json_frame
from .peer import Handlers, Peer, PeerProtocol, Peers, ids_of

if TYPE_CHECKING:
    from ..server.accepting import ListeningServer
    from .topics import DoorTopics

_OnSubscribe = TypeVar("_OnSubscribe", bound=Callable[[Peer, str], bool | str])
_OnPublish = TypeVar("_OnPublish", bound=Callable[[Peer, str, Any], Any])


class Sending(FixedAttributes):
    """The half of a server that sends. The server sets its attributes."""

    __slots__ = ()

    _handlers: dict[str, Handlers]
    _server: ListeningServer | None
    _topics: DoorTopics | None

    @property
    def hub(self) -> Hub:
        """The hub for its topics. Raises :class:`WebSocketsError` if there is none."""
        return self._of_hub().hub

    def _of_hub(self) -> DoorTopics:
        if self._topics is None:
            raise WebSocketsError("the server has no hub: pass one, Server(hub=MemoryHub())")
        return self._topics

    def on_subscribe(self, callback: _OnSubscribe, /) -> _OnSubscribe:
        """Register ``f(peer, topic)``, called each time a peer subscribes. It returns True, False,
        or the reason for a refusal as text. Without it, everything is allowed. Raises
        :class:`WebSocketsError` without a hub.
        """
        check_callback(callback, "on_subscribe", "peer", "topic")
        self._of_hub().on_subscribe = callback
        return callback

    def on_publish(self, callback: _OnPublish, /) -> _OnPublish:
        """Register ``f(peer, topic, data)``, called each time a peer publishes. It returns True,
        False, the reason for a refusal as text, or the data to publish instead, as described in
        :class:`WebSocketProtocolTopics`; otherwise like :meth:`on_subscribe`.
        """
        check_callback(callback, "on_publish", "peer", "topic", "data")
        self._of_hub().on_publish = callback
        return callback

    # -------------------------------------------------------------------------------------- to send

    def send(
        self,
        message: Message,
        *,
        group: str | None = None,
        to: Peers | None = None,
        protocol: str | None = None,
        exclude: Peers = (),
    ) -> int:
        """Send a ``str`` as text or ``bytes`` as a binary message to all peers; return the number
        of receivers.

        :param group: send only to this group.
        :param to: send only to this peer or these peers, given as objects or ids.
        :param protocol: send only to peers of this sub-protocol.
        :param exclude: do not send to this peer or these peers.

        It never waits: the message is encoded once, queued for each peer, and sent by another
        thread. A peer that does not read does not delay the others. Each peer's queue is limited by
        ``settings.max_outgoing_frames`` and ``max_outgoing_bytes``. Raises ``TypeError`` if
        *message* has another type.
        """
        return self._broadcast(frame_of(message), group, to, protocol, exclude)

    def send_json(
        self,
        value: Any,
        *,
        group: str | None = None,
        to: Peers | None = None,
        protocol: str | None = None,
        exclude: Peers = (),
    ) -> int:
        """Send *value* as JSON in a text message; otherwise like :meth:`send`."""
        return self._broadcast(json_frame(value), group, to, protocol, exclude)

    def publish(self, topic: str, data: Any) -> Published:
        """Publish *data*, any JSON value, on *topic*, for the subscribers of all servers with the
        same hub; return its offset.

        Waits for the hub, for at most the hub's ``timeout``. Raises the same exceptions as
        :meth:`Hub.publish`, and :class:`WebSocketsError` without a hub.
        """
        return self.hub.publish(topic, data)

    def _broadcast(
        self,
        frame: WebSocketFrame,
        group: str | None,
        to: Peers | None,
        protocol: str | None,
        exclude: Peers,
    ) -> int:
        numbers = None if to is None else ids_of(to)
        excluded = ids_of(exclude)
        if protocol is not None:
            IS_TEXT("protocol", protocol)
            if protocol.lower() not in self._handlers:
                raise ValueError(f"the sub-protocol {protocol!r} is not offered")
        sent = self._send_here(frame, group, protocol, numbers, excluded)
        if numbers is None and self._topics is not None and self._server is not None:
            self._topics.tell_others(frame, group, protocol)
        return sent

    def _send_here(
        self,
        frame: WebSocketFrame,
        group: str | None,
        protocol: str | None,
        numbers: list[int] | None = None,
        excluded: Iterable[int] = (),
    ) -> int:
        """Send to the peers of this server."""
        server = self._server
        if server is None:
            return 0
        if protocol is not None or self._topics is not None:
            # not to connections with topics, or with protocols that are not the door's
            wanted = None if numbers is None else set(numbers)
            numbers = [
                process.connection_id
                for process in server.connections()
                if isinstance(process.protocol, PeerProtocol)
                and (protocol is None or process.protocol.name.lower() == protocol.lower())
                and (wanted is None or process.connection_id in wanted)
            ]
        return server.websocket_broadcast(frame, numbers, group=group, exclude=excluded)


for _name, _member in vars(Sending).items():
    if callable(_member) and not _name.startswith("_"):
        # Python's messages about wrong arguments then name the class that users know
        _member.__qualname__ = f"Server.{_name}"
