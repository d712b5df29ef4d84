"""TopicClient: the client side of topics, across all connections of a client.

On each new connection the subscriptions continue from their positions, then the unanswered
publications are sent again (``outlet.py``). Callbacks run in the client's thread.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from ..core.forks import dies_in_child
from ..core.frames import WebSocketFrame, focBinary, focConnectionClose, focContinuation, focText
from ..errors import WebSocketsError, WebSocketsProtocolError
from ..logs import get_logger
from ..process.process import WebSocketProcess
from . import wire
from .hub import Position, check_name, check_since, encode_json
from .outlet import Outlet
from .publishing import OnDone, Publishing
from .saved import ClientState
from .subscriptions import (
    OnPublication,
    OnRecovered,
    OnRefused,
    ReceivedPublication,
    Recovery,
    TopicSubscription,
)

_log = get_logger("mormot_ws.topics")

_NO_MORE = "the client was freed or gave up"


class TopicClient:
    """The subscriptions and publications of a client.

    :param most: the maximum number of unanswered publications; 0: no limit.
    :param most_bytes: the maximum bytes of their data; 0: no limit.
    :param drop_oldest: when a limit is reached, drop the oldest instead of refusing the new one.

    All public methods may be called from any thread, and in callbacks.
    """

    def __init__(self, most: int, most_bytes: int, drop_oldest: bool) -> None:
        #: guards all fields below and those of the outlet. While it is held, there is no callback,
        #: no log record and no other lock except those of the events. Reentrant for signal
        #: handlers. Not a Condition, whose ``with`` would keep it locked if a handler raised
        self._safe = threading.RLock()
        self._outlet = Outlet(self._safe, most, most_bytes, drop_oldest)
        self._session = secrets.token_urlsafe(18)
        self._sequence = 0
        self._subscriptions: dict[str, TopicSubscription] = {}
        #: positions from restore() of topics that are not subscribed to yet
        self._positions: dict[str, Position] = {}
        #: how many ``sub`` of a topic are unanswered on this connection; only the answer to the
        #: last one counts, because the others began earlier
        self._questions: Counter[str] = Counter()
        #: the calls that wait for an answer to ``members``, by topic
        self._asked: dict[str, list[_Answer]] = {}
        #: the name of the session for other clients; '' until the server has sent it
        self.member = ""
        dies_in_child(self)

    def die_in_child(self) -> None:
        """In a forked child: do nothing more. The connection belongs to the parent."""
        self._safe = threading.RLock()
        self._outlet.die_in_child(self._safe)
        self._asked = {}
        self._questions.clear()

    # ------------------------------------------------------------------------- for the application

    def subscribe(
        self,
        topic: str,
        on_publication: OnPublication,
        since: Position | None,
        on_recovered: OnRecovered | None,
        on_refused: OnRefused | None,
    ) -> TopicSubscription:
        """Subscribe to *topic* on this connection and all later ones."""
        check_name("topic", topic)
        check_since(since)
        with self._safe:
            if topic in self._subscriptions:
                raise ValueError(f"already subscribed to {topic!r}")
            restored = self._positions.pop(topic, None)
            subscription = TopicSubscription(
                topic, on_publication, since or restored, on_recovered, on_refused
            )
            self._subscriptions[topic] = subscription
            self._outlet.add(self._question(subscription))
        self._outlet.queue()
        return subscription

    def unsubscribe(self, topic: str) -> bool:
        """End a subscription; return False if there is none."""
        with self._safe:
            self._positions.pop(topic, None)
            subscription = self._subscriptions.pop(topic, None)
            if subscription is None:
                return False
            self._outlet.add(wire.unsubscribe(topic))
        subscription.settle("ended")
        self._outlet.queue()
        return True

    def publish(self, topic: str, data: Any, on_done: OnDone | None) -> Publishing:
        """Publish *data*, now or on a later connection."""
        check_name("topic", topic)
        text = encode_json(data)
        dropped: list[Publishing] = []
        with self._safe:
            # in one step: a signal handler may publish too
            sequence = self._sequence = self._sequence + 1
            publishing = Publishing(topic, sequence, text, on_done, self._in_own_thread)
            large = self._outlet.refuses(publishing)
            reason = large or (
                _NO_MORE if self._outlet.over else self._outlet.keep(publishing, dropped)
            )
            if reason and self._sequence == sequence:
                self._sequence = sequence - 1
        for oldest in dropped:
            oldest.finish("failed", "dropped: too many unanswered publications")
        if large:
            publishing.finish("refused", large, "too_large")
        elif reason:
            publishing.finish("failed", reason)
        else:
            self._outlet.queue()
        return publishing

    def members(self, topic: str, timeout_ms: float) -> dict[str, Any] | None:
        """Return who is subscribed to *topic*; None if there is no answer."""
        check_name("topic", topic)
        if self._in_own_thread():
            raise WebSocketsError("members() would deadlock in a callback of the same client")
        answer = _Answer()
        with self._safe:
            if self._outlet.process is None:
                return None
            self._asked.setdefault(topic, []).append(answer)
            self._outlet.add(wire.ask_members(topic))
        self._outlet.queue()
        # a late answer still has its place, because answers arrive in the order of the requests
        answer.event.wait(timeout_ms / 1000)
        if answer.refusal:
            raise WebSocketsError(answer.refusal)
        return answer.members

    @property
    def subscriptions(self) -> list[TopicSubscription]:
        """All subscriptions, oldest first."""
        with self._safe:
            return list(self._subscriptions.values())

    @property
    def unacknowledged(self) -> list[Publishing]:
        """The unanswered publications, in order."""
        with self._safe:
            return list(self._outlet.kept)

    def state(self) -> dict[str, Any]:
        """Return what another program needs to continue."""
        with self._safe:
            positions = dict(self._positions)
            for topic, subscription in self._subscriptions.items():
                if subscription.position is not None:
                    positions[topic] = subscription.position
            kept = [(each.sequence, each.topic, each.json) for each in self._outlet.kept]
            return ClientState(self._session, self._sequence, positions, kept).as_json()

    def restore(self, state: object) -> None:
        """Continue where *state* was taken."""
        saved = ClientState.of_json(state)
        with self._safe:
            if self._outlet.number or self._sequence or self._subscriptions:
                raise WebSocketsError("restore() must be called before any other method")
            self._session, self._sequence = saved.session, saved.sequence
            self._positions = dict(saved.positions)
            for sequence, topic, json in saved.unacknowledged:
                self._outlet.kept.append(
                    Publishing(topic, sequence, json, None, self._in_own_thread)
                )

    def _in_own_thread(self) -> bool:
        process = self._outlet.process
        return process is not None and process.runs_loop()

    # ---------------------------------------------------------------------------------- connections

    def received(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Handle a message, or the start or end of a connection. Raises what closes it."""
        opcode = frame.opcode
        if opcode is focText:
            message = wire.read_server_message(frame.payload.decode())
            if type(message) is wire.Received:
                self._received(process, message)
            else:
                self._handle(process, message)
        elif opcode is focContinuation:
            self._begin(process)
        elif opcode is focConnectionClose:
            self._end(process)
        elif opcode is focBinary:
            raise WebSocketsProtocolError(wire.CLOSE_BINARY, "topics messages must be text")

    def _begin(self, process: WebSocketProcess) -> None:
        """Say hello on a new connection, and send again whatever needs it."""
        for large in self._outlet.begin(process, self._opening):
            large.finish("refused", self._outlet.refuses(large), "too_large")

    def _opening(self) -> list[str]:
        """Return the first messages of a connection. Called with the lock held."""
        self._questions.clear()
        questions = [self._question(each) for each in self._subscriptions.values()]
        return [wire.hello(self._session), *questions]

    def _end(self, process: WebSocketProcess) -> None:
        """Wait for the next connection."""
        with self._safe:
            self._outlet.end()
            asked, self._asked = self._asked, {}
        for answers in asked.values():
            for answer in answers:
                answer.give(None, "")
        if process.close_code == wire.CLOSE_TAKEN_OVER:
            _log.warning(
                "%s: another client uses the same session; each client needs its own",
                process,
                extra=process.log_fields(),
            )

    def over(self) -> None:
        """Let everything that waits fail: there will be no further connection."""
        for publishing in self._outlet.end_all():
            publishing.finish("failed", _NO_MORE)

    def _question(self, subscription: TopicSubscription, goes_on: bool = False) -> str:
        """Return the ``sub`` of a subscription, from its position. Called with the lock held."""
        self._questions[subscription.topic] += 1
        return wire.subscribe(subscription.topic, subscription.asks(goes_on))

    def _is_last_answer(self, topic: str) -> bool:
        """Count the answer to a ``sub``; return whether no other is in flight.

        False also if there was no question. Called with the lock held.
        """
        count = self._questions[topic]
        if count > 1:
            self._questions[topic] = count - 1
            return False
        # not kept as 0: a client may use any number of topics in its life
        del self._questions[topic]
        return count == 1

    def _ask_again(self, topic: str, goes_on: bool = False) -> None:
        """Send the ``sub`` of a topic again on this connection."""
        with self._safe:
            subscription = self._subscriptions.get(topic)
            if subscription is None:
                return
            self._outlet.add(self._question(subscription, goes_on))
        self._outlet.queue()

    # ------------------------------------------------------------------------ the server's messages

    def _received(self, process: WebSocketProcess, message: wire.Received) -> None:
        subscription = self._subscriptions.get(message.topic)
        if subscription is None:
            return
        with self._safe:
            is_next = subscription.hears(message.epoch, message.offset)
            position = subscription.position
        if is_next:
            assert position is not None
            publication = ReceivedPublication.made(
                message.topic, message.offset, position.epoch, message.json, message.data
            )
            self._call(process, "on_publication", subscription.on_publication, publication)
        elif is_next is None:
            _log.debug("%s: publications on %r are missing", process, message.topic)
            self._ask_again(message.topic)

    def _handle(self, process: WebSocketProcess, message: wire.ServerMessage) -> None:
        if isinstance(message, wire.Ack):
            self._answered(message)
        elif isinstance(message, wire.Nack):
            self._refused(process, message)
        elif isinstance(message, wire.Subscribed):
            self._subscribed(process, message)
        elif isinstance(message, wire.LostSome):
            self._lost(process, message)
        elif isinstance(message, wire.Paused):
            self._paused(message.topic)
        elif isinstance(message, wire.Unsubscribed):
            if message.code:
                self._ended_by_server(process, message.topic, message.reason)
        elif isinstance(message, wire.Failed):
            self._failed(process, message)
        elif isinstance(message, wire.MembersAre):
            self._tell_members(message.topic, message.members, "")
        elif isinstance(message, wire.Welcome):
            with self._safe:
                self.member = message.member
                self._outlet.allow(
                    message.limits.get("window", 0), message.limits.get("payload", 0)
                )

    def _answered(self, message: wire.Ack) -> None:
        publishing = self._outlet.answered(message.sequence)
        if publishing is not None:
            publishing.finish(
                "acknowledged",
                offset=message.offset,
                epoch=message.epoch,
                repeated=message.repeated,
            )

    def _refused(self, process: WebSocketProcess, message: wire.Nack) -> None:
        if message.retry is not None:
            _log.debug("%s: publishing again in %d ms: %s", process, message.retry, message.reason)
            self._outlet.pause(process, message.retry)
            return
        publishing = self._outlet.answered(message.sequence)
        if publishing is not None:
            publishing.finish("refused", message.reason, message.code)

    def _subscribed(self, process: WebSocketProcess, message: wire.Subscribed) -> None:
        topic, epoch, offset, recovered, missed, reason = message
        position = Position(epoch, offset)
        with self._safe:
            subscription = self._subscriptions.get(topic)
            if not self._is_last_answer(topic) or subscription is None:
                return
            tells = subscription.asked_since and not (subscription.goes_on and recovered)
            subscription.moved(position)
        subscription.settle("subscribed")
        if tells:
            self._recovered(
                process, subscription, Recovery(topic, recovered, reason, missed, position)
            )

    def _lost(self, process: WebSocketProcess, message: wire.LostSome) -> None:
        topic, epoch, offset, reason = message
        position = Position(epoch, offset)
        with self._safe:
            subscription = self._subscriptions.get(topic)
            if subscription is None or subscription.state != "subscribed":
                return
            subscription.moved(position)
        self._recovered(process, subscription, Recovery(topic, False, reason, 0, position))

    def _paused(self, topic: str) -> None:
        with self._safe:
            # the answer to that ``sub`` comes after the pause, and begins where this one would
            if self._questions[topic] > 0:
                return
        self._ask_again(topic, True)

    def _recovered(
        self, process: WebSocketProcess, subscription: TopicSubscription, recovery: Recovery
    ) -> None:
        if subscription.on_recovered is not None:
            self._call(process, "on_recovered", subscription.on_recovered, recovery)
        elif not recovery.recovered:
            _log.warning(
                "%s: publications on %r are lost: %s",
                process,
                subscription.topic,
                recovery.reason,
                extra=process.log_fields(),
            )

    def _ended_by_server(self, process: WebSocketProcess, topic: str, reason: str) -> None:
        with self._safe:
            subscription = self._subscriptions.pop(topic, None)
        if subscription is None:
            return
        subscription.settle("refused", reason)
        if subscription.on_refused is not None:
            self._call(process, "on_refused", subscription.on_refused, subscription)
        else:
            _log.warning(
                "%s: the subscription to %r was refused: %s",
                process,
                topic,
                reason,
                extra=process.log_fields(),
            )

    def _failed(self, process: WebSocketProcess, message: wire.Failed) -> None:
        if message.on == "members":
            self._tell_members(message.topic, None, message.reason or message.code)
            return
        if message.on != "sub":
            _log.warning("%s: the server does not support %r", process, message.on)
            return
        with self._safe:
            if not self._is_last_answer(message.topic):
                return
        if message.retry is None:
            self._ended_by_server(process, message.topic, message.reason or message.code)
        else:
            _log.debug("%s: subscribing again later: %s", process, message.reason)
            again = partial(self._subscribe_again, message.topic)
            self._outlet.later(process, message.retry / 1000, again)

    def _subscribe_again(self, topic: str) -> None:
        with self._safe:
            subscription = self._subscriptions.get(topic)
            if subscription is None or subscription.state == "subscribed":
                return
            # unsubscribed and subscribed again in the meantime
            if self._questions[topic] > 0:
                return
        self._ask_again(topic)

    def _tell_members(self, topic: str, members: dict[str, Any] | None, refusal: str) -> None:
        with self._safe:
            waiting = self._asked.get(topic, [])
            answer = waiting.pop(0) if waiting else None
            if not waiting:
                self._asked.pop(topic, None)
        if answer is not None:
            answer.give(members, refusal)

    def _call(
        self, process: WebSocketProcess, name: str, callback: Callable[..., Any], argument: object
    ) -> None:
        """Call a callback of the application, and log what it raises."""
        try:
            callback(argument)
        except BaseException:
            if process.inherited:
                # in a child that the callback has forked
                raise
            _log.exception("%s: %s failed", process, name, extra=process.log_fields())


class _Answer:
    """Waits for an answer to ``members``."""

    __slots__ = ("event", "members", "refusal")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.members: dict[str, Any] | None = None
        self.refusal = ""

    def give(self, members: dict[str, Any] | None, refusal: str) -> None:
        """Wake the waiting thread."""
        self.members, self.refusal = members, refusal
        self.event.set()
