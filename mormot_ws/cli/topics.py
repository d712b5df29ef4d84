"""Topics on the command line: the hub of ``serve``, and the client of ``connect --subscribe``."""

from __future__ import annotations

import argparse
import threading

from ..core.frames import WebSocketFrame, focBinary, focText
from ..process.process import WebSocketProcess
from ..topics.hub import Hub
from ..topics.memory_hub import MemoryHub
from ..topics.protocol import WebSocketProtocolTopics
from ..topics.publishing import Publishing
from ..topics.redis_hub import RedisHub
from ..topics.subscriptions import Recovery, TopicSubscription
from .events import ConnectionEvents
from .mailbox import Mailbox, News
from .output import Output

#: the default sub-protocol
NAME = "topics"
#: with this many publications unanswered, reading of input pauses
_MOST_WAITING = 500


def new_hub(url: str) -> Hub:
    """Return a hub for *url*. Raises ``ImportError`` when redis-py is missing."""
    return MemoryHub() if url == "memory:" else RedisHub(url)


class ConsoleTopics(WebSocketProtocolTopics):
    """The topics of ``connect``. The callbacks run in the client's thread."""

    def __init__(
        self,
        args: argparse.Namespace,
        events: ConnectionEvents,
        mailbox: Mailbox,
        output: Output,
    ) -> None:
        super().__init__(args.protocol[0] if args.protocol else NAME)
        self._args = args
        self._events = events
        self._mailbox = mailbox
        self._output = output
        #: publications that were refused or have failed
        self.unpublished: int = 0
        for topic in args.subscribe:
            self.subscribe(topic, events.publication, None, self._recovered, self._refused)

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        super().process_incoming_frame(process, frame, info)
        if frame.opcode is not focText and frame.opcode is not focBinary:
            self._events.on_incoming_frame(process, frame)

    def _recovered(self, recovery: Recovery) -> None:
        topic, recovered, reason, missed, _ = recovery
        how = f"{missed} missed" if recovered else f"some publications are lost ({reason})"
        self._output.event(
            "recovered" if recovered else "lost",
            f"* {topic}: {how}",
            "good" if recovered else "bad",
            topic=topic,
            missed=missed,
            reason=reason,
        )

    def _refused(self, subscription: TopicSubscription) -> None:
        topic, reason = subscription.topic, subscription.reason
        text = f"subscription to {topic!r} refused: {reason}"
        self._output.error(text, topic=topic, reason=reason)
        self._mailbox.post(News.ended, 3)

    def send_line(self, data: bytes, stopping: threading.Event, look: float) -> bool:
        """Publish a line of the input; return False when no more can be sent.

        Called in the input's thread. Waits while too many publications are unanswered.
        """
        while len(self.unacknowledged) >= _MOST_WAITING:
            if stopping.is_set() or self._events.over.is_set():
                return False
            stopping.wait(look)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self._output.error("not sent: the line is not UTF-8")
            self.unpublished += 1
            return True
        self.publish(self._args.publish, text, self._done)
        return not self._events.over.is_set()

    def _done(self, publishing: Publishing) -> None:
        if publishing.state != "acknowledged":
            self.unpublished += 1
            self._output.error(f"not published: {publishing.reason}", code=publishing.code)
        else:
            self._events.restart_idle()
