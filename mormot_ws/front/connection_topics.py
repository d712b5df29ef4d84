"""The topics of a ``Connection``: what ``connect(topics=True)`` adds to it.

The work is done by ``WebSocketProtocolTopics``; here its callbacks are told to the connection.
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

#: the sub-protocol, when none is named
_NAME = "topics"

OnPublication = Callable[[Publication], Ignored]
_OnPublication = TypeVar("_OnPublication", bound=OnPublication)


class DoorTopicsProtocol(WebSocketProtocolTopics):
    """The topics of a client's *door*, with the session of *state* if that is one."""

    def __init__(self, names: tuple[str, ...], door: Connection, state: object) -> None:
        if len(names) > 1:
            raise ValueError("a connection for topics asks for one sub-protocol")
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
    """The half of a :class:`Connection` that is for topics."""

    __slots__ = ()

    _topics: DoorTopicsProtocol | None

    @property
    def topics(self) -> WebSocketProtocolTopics:
        """The protocol underneath, with all that the front door does not show: ``state()``, the
        ``unacknowledged`` publications. Raises :class:`WebSocketsError` without topics.
        """
        topics = self._topics
        if topics is None:
            raise WebSocketsError("this connection has no topics: write connect(…, topics=True)")
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
        """Call ``on_publication(publication)`` with each publication on *topic*, over all
        connections: each once, in order. ``publication.data`` is what was published.

        Without *on_publication* it is a decorator: ``@ws.subscribe("news")``.

        :param since: first with everything after that position; None: from now on.
        :param on_recovered: ``f(recovery)``, called after a reconnection, before what was missed,
            and whenever publications are lost: ``recovery.recovered`` is False then.
        :param on_refused: ``f(subscription)``, called when the server refuses it, or ends it.

        Raises ``ValueError`` when there is a subscription to *topic* already.
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
        """End a subscription; return False when there is none."""
        return self.topics.unsubscribe(topic)

    def publish(self, topic: str, data: Any, on_done: OnDone | None = None) -> Publishing:
        """Publish *data*, any JSON value, on *topic*, now or as soon as there is a connection.

        It never waits: the result becomes acknowledged, refused or failed, which
        :meth:`Publishing.wait` waits for, and ``on_done(publishing)`` is told. Publications reach
        the hub in the order of the calls, each once.
        """
        return self.topics.publish(topic, data, self._telling("on_done", on_done))

    def members(self, topic: str, timeout: float = 5.0) -> dict[str, Any] | None:
        """Return who is subscribed to *topic*, by name; None without an answer within *timeout*
        seconds. Raises :class:`WebSocketsError` when the server refuses, and in callbacks.
        """
        return self.topics.members(topic, 1000 * seconds("timeout", timeout))

    def _telling(self, name: str, function: Any) -> Any:
        """Return *function*, whose exceptions are logged and told to ``on_error``."""
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
        """Return whether this is a forked child, which the parent's connection is not for."""

    @abstractmethod
    def _callback_failed(self, name: str, error: BaseException) -> None:
        """Log what the callback *name* has raised, and tell it."""


def no_messages(*_: object) -> NoReturn:
    """Stand for what sends and takes messages on a connection that has topics."""
    raise WebSocketsError(
        "this connection is for topics: publish() and subscribe(); for messages, make another one"
        " without topics=True"
    )
