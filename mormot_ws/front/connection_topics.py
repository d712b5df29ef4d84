"""The topics of a ``Connection``: what ``connect(topics=True)`` adds to it.

``WebSocketProtocolTopics`` does the work; this module passes its callbacks on to the connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from ..core.frames import WebSocketFrame, focConnectionClose, focContinuation
from ..errors import WebSocketsError
from ..process.process import WebSocketProcess
from ..topics.hub import Position, Publication
from ..topics.protocol import WebSocketProtocolTopics
from ..topics.publishing import OnDone, Publishing
from ..topics.subscriptions import OnRecovered, OnRefused, TopicSubscription
from .callbacks import Ignored, check_callback
from .options import seconds

if TYPE_CHECKING:
    from .connection import Connection

#: the default sub-protocol
_NAME = "topics"

OnPublication = Callable[[Publication], Ignored]
_OnPublication = TypeVar("_OnPublication", bound=OnPublication)


class DoorTopicsProtocol(WebSocketProtocolTopics):
    """The topics of a client's *door*, with the session of *state* if it is a saved state."""

    def __init__(self, names: tuple[str, ...], door: Connection, state: object) -> None:
        if len(names) > 1:
            raise ValueError("a connection with topics needs exactly one sub-protocol")
        super().__init__(names[0] if names else _NAME)
        self._door = door
        if state is not True:
            self.restore(state)

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        super().process_incoming_frame(process, frame, info)
        if frame.opcode is focContinuation:
            self._door._opened(process)
        elif frame.opcode is focConnectionClose:
            self._door._lost(process)


class ConnectionTopics(ABC):
    """The half of a :class:`Connection` that deals with topics."""

    __slots__ = ()

    _topics: DoorTopicsProtocol | None

    @property
    def topics(self) -> WebSocketProtocolTopics:
        """The underlying protocol, with everything that :class:`Connection` does not expose:
        ``state()``, the ``unacknowledged`` publications. Raises :class:`WebSocketsError` without
        topics.
        """
        topics = self._topics
        if topics is None:
            raise WebSocketsError("this connection has no topics: use connect(…, topics=True)")
        return topics

    @overload
    def subscribe(
        self,
        topic: str,
        on_publication: OnPublication,
        *,
        since: Position | None = None,
        on_recovered: OnRecovered | None = None,
        on_refused: OnRefused | None = None,
    ) -> TopicSubscription: ...
    @overload
    def subscribe(
        self,
        topic: str,
        *,
        since: Position | None = None,
        on_recovered: OnRecovered | None = None,
        on_refused: OnRefused | None = None,
    ) -> Callable[[_OnPublication], _OnPublication]: ...
    def subscribe(
        self,
        topic: str,
        on_publication: Any = None,
        *,
        since: Position | None = None,
        on_recovered: OnRecovered | None = None,
        on_refused: OnRefused | None = None,
    ) -> Any:
        """Call ``on_publication(publication)`` for each publication on *topic*, across all
        reconnections: each once, in order. ``publication.data`` is the published value.

        Without *on_publication* it is a decorator: ``@ws.subscribe("news")``.

        :param since: start with everything after that position; None: start now.
        :param on_recovered: ``f(recovery)``, called after a reconnection, before the missed
            publications, and whenever publications are lost: then ``recovery.recovered`` is False.
        :param on_refused: ``f(subscription)``, called if the server refuses or ends it.

        Raises ``ValueError`` if there is already a subscription to *topic*.
        """
        topics = self.topics

        def begin(function: Any) -> TopicSubscription:
            check_callback(function, "on_publication", "publication")
            return topics.subscribe(
                topic,
                self._telling("on_publication", function),
                since,
                self._telling("on_recovered", on_recovered),
                self._telling("on_refused", on_refused),
            )

        if on_publication is not None:
            return begin(on_publication)

        def decorate(function: Any) -> Any:
            begin(function)
            return function

        return decorate

    def unsubscribe(self, topic: str) -> bool:
        """End a subscription; return False if there is none."""
        return self.topics.unsubscribe(topic)

    def publish(self, topic: str, data: Any, on_done: OnDone | None = None) -> Publishing:
        """Publish *data*, any JSON value, on *topic*, now or as soon as there is a connection.

        It never waits. The result becomes acknowledged, refused or failed:
        :meth:`Publishing.wait` waits for that, and ``on_done(publishing)`` is called.
        Publications reach the hub in the order of the calls, each once.
        """
        return self.topics.publish(topic, data, self._telling("on_done", on_done))

    def members(self, topic: str, timeout: float = 5.0) -> dict[str, Any] | None:
        """Return who is subscribed to *topic*, by name; None if there is no answer within *timeout*
        seconds. Raises :class:`WebSocketsError` if the server refuses, and in callbacks.
        """
        return self.topics.members(topic, 1000 * seconds("timeout", timeout))

    def _telling(self, name: str, function: Any) -> Any:
        """Return *function* wrapped so that its exceptions are logged and go to ``on_error``."""
        if function is None:
            return None
        check_callback(function, name, name.removeprefix("on_"))

        def tell(argument: object) -> None:
            try:
                function(argument)
            except BaseException as exc:
                if self._process_is_inherited():
                    raise
                self._callback_failed(name, exc)

        return tell

    @abstractmethod
    def _process_is_inherited(self) -> bool:
        """Return whether this is a forked child, which must not use the parent's connection."""

    @abstractmethod
    def _callback_failed(self, name: str, error: BaseException) -> None:
        """Log and report an exception in the callback *name*."""


def no_messages(*_: object) -> NoReturn:
    """Replace the methods for messages on a connection that has topics."""
    raise WebSocketsError(
        "this connection has topics: use publish() and subscribe(); for messages, open another"
        " connection without topics=True"
    )
