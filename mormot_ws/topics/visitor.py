"""Visitor: handles the messages of one connection to a server's topics.

All answers are queued, in order with the publications for the client; nothing here waits for the
client. The hub and the application's callbacks are called in the connection's thread.
"""

from __future__ import annotations

import threading
from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.frames import WebSocketFrame, focBinary, focConnectionClose, focText
from ..errors import HubError, HubFull, HubRefused, WebSocketsProtocolError
from ..logs import get_logger
from ..process.process import WebSocketProcess
from . import wire
from .feed import Member, text_frame
from .hub import Position, check_depth
from .server_side import Start, TopicServer

if TYPE_CHECKING:
    from .protocol import WebSocketProtocolTopics

_log = get_logger("mormot_ws.topics")

#: milliseconds after which a client may retry when the hub was not available
_RETRY_MS = 1_000

#: the minimum rate of subscriptions and questions of a connection, per second
_QUESTIONS = 100

_FAILED = object()


class Changed(NamedTuple):
    """Returned by ``on_publish`` to publish other data that is a str, True or False."""

    data: Any


class _Refusal(Exception):
    """A request is refused; *retry*: the milliseconds after which the client may try again."""

    def __init__(self, code: str, reason: str, retry: int | None = None) -> None:
        super().__init__(code, reason, retry)
        self.code = code
        self.reason = reason
        self.retry = retry


class _Rate:
    """A limit per second, which also allows bursts of that size. 0: no limit."""

    __slots__ = ("_at", "_left", "rate")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._left = float(rate)
        self._at = monotonic()

    def count(self) -> int:
        """Count one; return 0, or the milliseconds after which it may be tried again."""
        rate = self.rate
        if not rate:
            return 0
        now = monotonic()
        self._left = min(float(rate), self._left + (now - self._at) * rate)
        self._at = now
        if self._left < 1:
            # until a quarter of them may come in one burst
            return max(1, round(1000 * max(1.0, rate / 4) / rate))
        self._left -= 1
        return 0


class Visitor:
    """The connection *process*, with its *protocol* object."""

    __slots__ = (
        "_ended",
        "_ignores",
        "_members",
        "_name",
        "_present",
        "_protocol",
        "_publications",
        "_questions",
        "_safe",
        "_server",
        "process",
        "session",
    )

    def __init__(
        self, server: TopicServer, protocol: WebSocketProtocolTopics, process: WebSocketProcess
    ) -> None:
        self._server = server
        self._protocol = protocol
        self.process = process
        #: the name of the session at the hub; no client can use it in a ``hello``
        self.session = ""
        #: the name of the session for other clients
        self._name = ""
        #: guards _members, _present and _ended; while it is held, only the lock of the presence is
        #: taken
        self._safe = threading.RLock()
        self._members: dict[str, Member] = {}
        #: the topics on which others see it as a member
        self._present: set[str] = set()
        self._ended = False
        #: True after a temporary refusal, until the client sends again from that publication
        self._ignores = False
        self._publications = _Rate(server.limits.max_publications_per_second)
        # each may cost the hub a history; a reconnecting client asks for all topics at once
        most = server.limits.max_topics
        self._questions = _Rate(most and max(_QUESTIONS, 2 * most))

    def __repr__(self) -> str:
        return f"<Visitor {self._name} of {self.process!r}, {len(self._members)} topics>"

    @property
    def topics(self) -> list[str]:
        """The topics that it is subscribed to."""
        return list(self._members)

    # -------------------------------------------------------------------------- its messages

    def received(self, frame: WebSocketFrame) -> None:
        """Handle a message. Raises what closes the connection."""
        opcode = frame.opcode
        if opcode is focConnectionClose:
            self.end()
            return
        if opcode is focBinary:
            raise WebSocketsProtocolError(wire.CLOSE_BINARY, "topics messages must be text")
        # after our close frame no answer can be sent, and the hub may delay each answer; the client
        # asks again on its next connection
        if opcode is not focText or self._ended or not self.process.takes_messages:
            return
        message = wire.read_client_message(frame.payload.decode())
        if not self.session:
            if not isinstance(message, wire.Hello):
                raise WebSocketsProtocolError(wire.CLOSE_POLICY, "the first message must be hello")
            self._hello(message)
        elif isinstance(message, wire.Publish):
            self._publish(message)
        elif isinstance(message, wire.Subscribe):
            self._subscribe(message.topic, message.since)
        elif isinstance(message, wire.Unsubscribe):
            self._unsubscribe(message.topic)
        elif isinstance(message, wire.Again):
            self._ignores = False
        elif isinstance(message, wire.AskMembers):
            self._tell_members(message.topic)
        elif isinstance(message, wire.Ping):
            self.say(wire.PONG)
        elif isinstance(message, wire.Hello):
            raise WebSocketsProtocolError(wire.CLOSE_POLICY, "hello must be sent only once")
        else:
            kind = message.type[:32]
            self.say(wire.error(kind, "", "unknown", "unknown message type"))

    def say(self, text: str) -> bool:
        """Queue a message; close the connection if there is no room for it."""
        process = self.process
        if process.sender.queue(text_frame(text)):
            return True
        if process.takes_messages:
            self.close(wire.CLOSE_POLICY, "the client does not read its answers")
        return False

    def close(self, code: int, reason: str) -> None:
        """Close the connection without waiting."""
        process = self.process
        if not process.start_shutdown(code, reason):
            process.abort(reason)

    def _hello(self, message: wire.Hello) -> None:
        if message.version < 1:
            raise WebSocketsProtocolError(wire.CLOSE_VERSION, "only version 1 is supported")
        # the session itself is a secret: it allows to take over the connection
        digest = sha256(message.session.encode()).hexdigest()
        self._name, self.session = digest[:16], digest[16:48]
        before = self._server.welcome(self)
        if before is not None:
            before.taken_over()
        limits = self._server.limits.as_wire(self.process.settings.max_message_bytes)
        self.say(wire.welcome(wire.VERSION, self._name, limits))

    def taken_over(self) -> None:
        """End the visitor, because the same client has a newer connection."""
        if not self.end():
            return
        self._server.counts.add("taken_over")
        _log.info(
            "%s: ended: its session has a newer connection",
            self.process,
            extra=self.process.log_fields(),
        )
        self.close(wire.CLOSE_TAKEN_OVER, "the session has a newer connection")

    def end(self) -> bool:
        """Leave all topics; return False if that was done before."""
        with self._safe:
            if self._ended:
                return False
            self._ended = True
            members, self._members = self._members, {}
            present, self._present = self._present, set()
        for member in members.values():
            self._server.leave(member)
        for topic in present:
            self._leave(topic)
        self._server.forget(self)
        return True

    # ------------------------------------------------------------------------------ subscriptions

    def _subscribe(self, topic: str, since: tuple[str, int] | None) -> None:
        member: Member | None = None
        try:
            self._may_subscribe(topic)
            joined = self._server.join(self, topic)
            if joined is None:
                raise _Refusal("full", "the topic has reached its limit of clients")
            member, first = joined
            position = None if since is None else Position(*since)
            start = self._server.begin(member, first, position)
        except Exception as exc:  # noqa: BLE001
            if member is not None:
                self._server.drop(member)
            refusal = self._refusal(exc)
            retry = refusal.retry
            if retry is None:
                # the client may have been subscribed before
                self._absent(topic)
            self.say(wire.error("sub", topic, refusal.code, refusal.reason, retry))
            return
        with self._safe:
            ended = self._ended
            if not ended:
                self._members[topic] = member
        if ended:
            self._server.leave(member)
            return
        self._answer(topic, member, start, since is not None)
        if self._server.shows_presence:
            self._join(topic)

    def _may_subscribe(self, topic: str) -> None:
        """Raise a refusal or another error. An existing subscription begins again."""
        fault = self._server.topic_fault(topic)
        if fault:
            raise _Refusal("topic", fault)
        self._count(self._questions, "subscriptions")
        with self._safe:
            before = self._members.pop(topic, None)
            count = len(self._members)
        if before is not None:
            self._server.leave(before)
        most = self._server.limits.max_topics
        if 0 < most <= count:
            raise _Refusal("limit", f"a connection may subscribe to at most {most} topics")
        callback = self._protocol.on_subscribe
        if callback is not None:
            self._check_answer("on_subscribe", self._ask("on_subscribe", callback, topic))

    def _answer(self, topic: str, member: Member, start: Start, asked: bool) -> None:
        """Send the answer, the missed publications, then those made in the meantime."""
        counts = self._server.counts
        if asked:
            counts.add("recovered" if start.recovered else "unrecovered")
        position = start.position
        self.say(
            wire.subscribed(
                topic,
                position.epoch,
                position.offset,
                start.recovered,
                len(start.missed),
                start.reason,
            )
        )
        for text in start.missed:
            if not self.say(text):
                return
        self._server.delivered(len(start.missed))
        member.begins_behind(start.after)
        feed = member.feed
        assert feed is not None
        if start.more:
            # the client asks again by itself, so the queue never has more than fits
            if self._part(member):
                self.say(wire.paused(topic, "more publications follow"))
        else:
            feed.catch_up(member)

    def _unsubscribe(self, topic: str) -> None:
        with self._safe:
            member = self._members.pop(topic, None)
        if member is not None:
            self._server.leave(member)
        self._absent(topic)
        self.say(wire.unsubscribed(topic))

    def end_subscription(self, topic: str, reason: str) -> bool:
        """End a subscription from the server side; return False if there is none."""
        with self._safe:
            member = self._members.pop(topic, None)
        self._absent(topic)
        if member is None:
            return False
        self._server.leave(member)
        self.say(wire.unsubscribed(topic, "refused", reason))
        return True

    def fell_behind(self, member: Member) -> None:
        """Skip or close a slow connection. Called in the hub's thread."""
        process = self.process
        if not process.takes_messages or not self._part(member):
            # it has ended or was already skipped
            return
        server = self._server
        server.counts.add("slow")
        assert member.feed is not None
        topic = member.feed.topic
        _log.debug("%s: too slow for the topic %r", process, topic, extra=process.log_fields())
        if server.limits.slow == "close":
            self.close(wire.CLOSE_POLICY, "the client reads too slowly")
        else:
            self.say(wire.paused(topic, "the client reads too slowly"))

    def _part(self, member: Member) -> bool:
        """Remove *member* from its feed, but not from the presence.

        Return False if that was done before.
        """
        assert member.feed is not None
        topic = member.feed.topic
        with self._safe:
            if self._members.get(topic) is member:
                del self._members[topic]
        return self._server.leave(member)

    # -------------------------------------------------------------------------------- publications

    def _publish(self, message: wire.Publish) -> None:
        if self._ignores:
            return
        topic, sequence, data = message
        server = self._server
        try:
            text = self._may_publish(topic, data)
            done = server.hub.publish_json(topic, text, session=self.session, sequence=sequence)
        except Exception as exc:  # noqa: BLE001
            refusal = self._refusal(exc)
            if refusal.retry is not None:
                self._ignores = True
            else:
                server.counts.add("refused")
            self.say(wire.nack(sequence, topic, refusal.code, refusal.reason, refusal.retry))
            return
        server.counts.add("repeated" if done.repeated else "published")
        self.say(wire.ack(sequence, topic, done.epoch, done.offset, done.repeated))

    def _may_publish(self, topic: str, data: Any) -> str:
        """Return the data to publish, as JSON text. Raises a refusal or another error."""
        server = self._server
        fault = server.topic_fault(topic)
        if fault:
            raise _Refusal("topic", fault)
        self._count(self._publications, "publications")
        text = self._sized(data)
        callback = self._protocol.on_publish
        if callback is None:
            return text
        answer = self._ask("on_publish", callback, topic, data)
        if answer is True:
            return text
        if isinstance(answer, Changed):
            return wire.compact(answer.data)
        if isinstance(answer, (dict, list, int, float)) and not isinstance(answer, bool):
            return wire.compact(answer)
        self._check_answer("on_publish", answer)
        return text

    def _sized(self, data: Any) -> str:
        try:
            text = wire.compact(data)
            check_depth(text)
        except ValueError as exc:
            # a number like 1e999, or what other clients could not read
            raise _Refusal("refused", str(exc)) from None
        most = self._server.limits.max_payload
        size = len(text) if text.isascii() else len(text.encode())
        if 0 < most < size:
            raise _Refusal("too_large", f"the data has {size} bytes; at most {most} are allowed")
        return text

    def _count(self, rate: _Rate, what: str) -> None:
        """Raise a refusal if there were too many in the last second."""
        retry = rate.count()
        if retry:
            raise _Refusal("rate", f"at most {rate.rate} {what} per second are allowed", retry)

    # ------------------------------------------------------------------------------------ presence

    def _join(self, topic: str) -> None:
        """Make it present, unless it already is: a subscription may continue in pieces."""
        if topic in self._present:
            return
        callback = self._protocol.on_member
        info = None if callback is None else self._ask("on_member", callback, topic)
        with self._safe:
            if self._ended:
                return
            self._present.add(topic)
            self._server.presence.hold(self, topic, self._name, None if info is _FAILED else info)
        self._tell_presence(topic)

    def _leave(self, topic: str) -> None:
        """End its presence, unless a newer connection of the session has taken over."""
        if self._server.presence.give_up(self, topic, self._name):
            self._tell_presence(topic)

    def _tell_presence(self, topic: str) -> None:
        try:
            self._server.presence.tell(topic, self._name)
        except HubError as exc:
            self._log_fault("presence", exc)
        except (TypeError, ValueError) as exc:
            self._log_fault("on_member", exc)
        # a bug in an application's hub; the visitor still has to leave its other topics
        except Exception:  # noqa: BLE001
            _log.exception("%s: presence on %r failed at the hub", self.process, topic)

    def _absent(self, topic: str) -> None:
        """End its presence on *topic*, if there is one."""
        with self._safe:
            present = topic in self._present
            self._present.discard(topic)
        if present:
            self._leave(topic)

    def _tell_members(self, topic: str) -> None:
        server = self._server
        try:
            if not server.shows_presence:
                raise _Refusal("no_presence", "presence is not enabled on the server")
            if topic not in self._members:
                raise _Refusal("refused", "only subscribers may ask who is subscribed")
            self._count(self._questions, "questions")
            present = server.hub.members(topic)
        except Exception as exc:  # noqa: BLE001
            refusal = self._refusal(exc)
            self.say(wire.error("members", topic, refusal.code, refusal.reason, refusal.retry))
            return
        self.say(wire.members(topic, present))

    # ------------------------------------------------------------------------- application and hub

    def _ask(self, name: str, callback: Any, *arguments: Any) -> Any:
        """Return the result of a callback of the application; log what it raises."""
        try:
            return callback(self.process, *arguments)
        except BaseException:
            if self.process.inherited:
                # in a child that the callback forked
                raise
            process = self.process
            _log.exception("%s: %s failed", process, name, extra=process.log_fields())
            return _FAILED

    def _check_answer(self, name: str, answer: Any) -> None:
        """Raise a refusal, unless the *answer* of a callback is True."""
        if answer is True:
            return
        if isinstance(answer, str):
            raise _Refusal("refused", answer)
        if answer is False:
            raise _Refusal("refused", "the server does not allow it")
        if answer is not _FAILED:
            process = self.process
            _log.error(
                "%s: %s returned %r; it must return True, False or a str with the reason",
                process,
                name,
                answer,
                extra=process.log_fields(),
            )
        raise _Refusal("failed", "internal server error")

    def _refusal(self, exc: Exception) -> _Refusal:
        """Return the refusal for *exc* to send to the client; log what it must not see."""
        if isinstance(exc, _Refusal):
            return exc
        counts = self._server.counts
        if isinstance(exc, HubRefused):
            self._log_fault("the hub", exc)
            return _Refusal("failed", "the hub refused it")
        if isinstance(exc, HubFull):
            self._log_fault("the hub", exc)
            counts.add("unavailable")
            return _Refusal("full", "the hub is full", _RETRY_MS)
        if isinstance(exc, (HubError, TimeoutError)):
            self._log_fault("the hub", exc)
            counts.add("unavailable")
            return _Refusal("unavailable", "the hub is not available", _RETRY_MS)
        process = self.process
        _log.error(
            "%s: handling a message failed", process, extra=process.log_fields(), exc_info=exc
        )
        return _Refusal("failed", "internal server error")

    def _log_fault(self, what: str, exc: Exception) -> None:
        more = self._server.fault_log.due(what)
        if more is not None:
            _log.warning("%s: %s: %s%s", self.process, what, exc, more)
