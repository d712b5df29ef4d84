"""Connection: what ``connect()`` returns, a client with a Pythonic interface.

``HttpClientWebSockets`` does the work. Every callback runs in the client's thread; any thread may
send, receive and close.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from queue import Empty
from threading import get_ident
from time import monotonic
from typing import Any, TypeVar

from ..client.client import HttpClientWebSockets
from ..core.addresses import websocket_uri
from ..core.forks import dies_in_child
from ..core.frames import WebSocketFrame, close_payload, focText
from ..errors import CallError, ConnectionClosed, GaveUp, WebSocketsError
from ..logs import get_logger, shown_uri
from ..process.freeing import ClosedByWith
from ..process.process import WebSocketProcess
from ..reconnect_policies import FailureKind, ReconnectFailure, ReconnectPolicy
from ..states import wpsRun
from ..status import ClientStatus
from .attributes import ConnectionAttributes
from .callbacks import Ignored, check_callback, fitting
from .connection_topics import ConnectionTopics, DoorTopicsProtocol, no_messages
from .inbox import Inbox
from .messages import Message, call_frame, frame_of, json_frame
from .options import Target, seconds
from .pending import PendingCalls
from .protocol import FrontProtocol, ToldPolicy, cannot_send

_log = get_logger("mormot_ws.front")

OnOpen = Callable[["Connection"], Ignored]
OnMessage = (
    Callable[["Connection", Message], Ignored]
    | Callable[["Connection", str], Ignored]
    | Callable[["Connection", bytes], Ignored]
)
OnClose = Callable[["Connection", int, str], Ignored]
OnError = Callable[["Connection", Exception], Ignored]

_OnOpen = TypeVar("_OnOpen", bound=OnOpen)
_OnMessage = TypeVar("_OnMessage", bound=OnMessage)
_OnClose = TypeVar("_OnClose", bound=OnClose)
_OnError = TypeVar("_OnError", bound=OnError)

#: the parameters of each callback
_PARAMETERS = {
    "on_open": ("ws",),
    "on_message": ("ws", "message"),
    "on_close": ("ws", "code", "reason"),
    "on_error": ("ws", "error"),
}
#: the close code of a connection whose messages nobody reads
_POLICY_VIOLATION = 1008
#: seconds after a failed send before the connection is checked again
_PAUSE = 0.01


class Connection(ConnectionTopics, ConnectionAttributes, ClosedByWith):
    """A connection that reconnects automatically; created by :func:`connect`.

    Iterate over it to get the messages, across all reconnections, until :meth:`close`. As a context
    manager, it closes at the end of the block. All methods are thread-safe; times are in seconds.
    In a forked child it is closed.
    """

    def __init__(
        self,
        target: Target,
        names: tuple[str, ...],
        headers: str | Callable[[], str],
        callbacks: Mapping[str, Any],
        policy: ReconnectPolicy,
        inbox: Inbox,
        timeout: float,
        new_client: Callable[[], HttpClientWebSockets],
        topics: object = False,
    ) -> None:
        for name, function in callbacks.items():
            if function is not None:
                check_callback(function, name, *_PARAMETERS[name])
        self._on_open: OnOpen | None = callbacks["on_open"]
        self._on_message: Any = fitting(callbacks["on_message"], "on_message")
        self._on_close: OnClose | None = callbacks["on_close"]
        self._on_error: OnError | None = callbacks["on_error"]
        #: guards the callbacks, and what is put into the inbox; callbacks are never called while
        #: it is held
        self._safe = inbox.safe
        #: guards _ready, _closed and _failure. Taken without the condition, in whose __enter__() an
        #: exception from a signal handler could come when it has the lock
        self._safe_state = threading.RLock()
        #: notified when one of them changes
        self._changed = threading.Condition(self._safe_state)
        #: True while there is a connection and its on_open has returned
        self._ready = False
        self._closed = False
        self._failure: ReconnectFailure | None = None
        # True while there is a connection that started without an on_open
        self._open_untold = False
        # the ident of the reading thread, once there was a connection
        self._reader = 0
        # True once the log has reported an unsent message, until the next connection
        self._unsent = False
        self._inbox = inbox
        self._timeout = timeout
        self._calls = PendingCalls()
        self._shown = target.shown
        self._topics = DoorTopicsProtocol(names, self, topics) if topics is not False else None
        self._protocol = self._topics or FrontProtocol(names, self)
        #: sends a frame on the connection, if there is one
        self._send_frame: Callable[[WebSocketFrame], bool] = cannot_send
        if self._topics is not None:
            if self._on_message is not None:
                raise ValueError("a connection with topics=True has no messages for on_message")
            self._on_message = no_messages
        client = self._client = new_client()
        client.on_gave_up = self._gave_up
        client.on_ended = self._ended
        dies_in_child(self)
        try:
            client.auto_reconnect(
                target.resource,
                headers,
                protocol=self._protocol,
                policy=ToldPolicy(policy, self),
            )
        except BaseException:
            client.free()
            raise

    # --------------------------------------------------------------------------------- properties

    @property
    def client(self) -> HttpClientWebSockets:
        """The underlying client, with everything that :class:`Connection` does not expose."""
        return self._client

    @property
    def connected(self) -> bool:
        """True while messages can be sent."""
        return self._ready and self._is_running()

    @property
    def status(self) -> ClientStatus:
        """A snapshot for monitoring: attempts, reconnections, the last error, counters."""
        return self._client.status()

    @property
    def protocol(self) -> str:
        """The sub-protocol that the server has chosen; '' for none."""
        return self._protocol.name

    @property
    def dropped(self) -> int:
        """How many messages were dropped because the inbox was full."""
        return self._inbox.dropped

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until messages can be sent, for up to *timeout* seconds (None: no limit). Return
        whether they can; False immediately if the connection is closed or has given up.
        """
        end = None if timeout is None else monotonic() + seconds("timeout", timeout, zero=True)
        return self._wait_ready(end)

    # --------------------------------------------------------------------------------- to send

    def send(self, message: Message, timeout: float | None = None) -> bool:
        """Send a ``str`` as text or ``bytes`` as a binary message; return True if it was sent.

        Without a connection, it waits for the next one, for up to *timeout* seconds (None: the
        ``timeout`` of :func:`connect`; 0: do not wait), and then returns False. It never waits in
        callbacks. True means that the operating system has accepted the message; messages in
        transit are lost if the connection breaks. Raises :class:`ConnectionClosed`,
        :class:`GaveUp`, and ``TypeError`` if *message* has another type.
        """
        frame = WebSocketFrame(focText, message) if type(message) is str else frame_of(message)
        if timeout is not None:
            seconds("timeout", timeout, zero=True)
        return (self._ready and self._send_frame(frame)) or self._send_later(frame, timeout)

    def send_json(self, value: Any, timeout: float | None = None) -> bool:
        """Send *value* as JSON in a text message; otherwise like :meth:`send`.

        Raises ``TypeError``/``ValueError`` for values that JSON cannot represent. Dataclasses,
        dates and enums can be sent; ``bytes`` are sent as base64.
        """
        frame = json_frame(value)
        if timeout is not None:
            seconds("timeout", timeout, zero=True)
        return (self._ready and self._send_frame(frame)) or self._send_later(frame, timeout)

    def call(self, name: str, /, *arguments: Any, timeout: float = 5.0, **named: Any) -> Any:
        """Call the server's method *name* and return its result.

        Pass the arguments by position or by name. *timeout* is in seconds and covers both the
        connection and the answer. Raises :class:`CallError` if the server answers with an error;
        ``TimeoutError``; :class:`ConnectionClosed` if the connection is lost meanwhile (the method
        may have been executed); :class:`GaveUp`; and ``TypeError``/``ValueError`` for arguments
        that JSON cannot represent. Do not use it in callbacks: they run in the thread that reads
        the answer.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a method must be a str, not {type(name).__name__}")
        if arguments and named:
            raise TypeError("pass the arguments of a call by position or by name, not both")
        self._check_thread("call()")
        end = monotonic() + seconds("timeout", timeout)
        number, answers = self._calls.begin()
        try:
            if not self._send_until(call_frame(number, name, named or arguments), end):
                raise TimeoutError(f"{name}() was not sent within {timeout:g} s: no connection")
            try:
                answer = answers.get(timeout=max(0.0, end - monotonic()))
            except Empty:
                raise TimeoutError(f"{name}() was not answered within {timeout:g} s") from None
        finally:
            self._calls.end(number)
        if answer is None:
            self._check_open()
            raise ConnectionClosed(f"the connection was lost before {name}() was answered")
        if answer.error is not None:
            raise CallError(answer.error, answer.code)
        return answer.result

    # ------------------------------------------------------------------------------- to receive

    def recv(self, timeout: float | None = None) -> Message:
        """Return the next message, a ``str`` or ``bytes``. Wait for it for up to *timeout* seconds
        (None: no limit).

        Raises ``TimeoutError``; :class:`ConnectionClosed` after :meth:`close`; :class:`GaveUp`
        after the last message if there will be no further connection; :class:`WebSocketsError` in
        callbacks, and if messages go to ``on_message``.
        """
        message = self._next(timeout)
        if message is None:
            raise ConnectionClosed("the connection was closed by close()")
        return message

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = self._next(None)
        if message is None:
            raise StopIteration
        return message

    def _next(self, timeout: float | None) -> Message | None:
        """Return the next message; None after close()."""
        if self._closed:
            return None
        inbox = self._inbox
        if (inbox.messages.qsize() or inbox.returned) and (message := inbox.take()) is not None:
            return message
        if self._on_message is not None or get_ident() == self._reader:
            self._check_reader()
        message = inbox.get(None if timeout is None else seconds("timeout", timeout, zero=True))
        if message is None and not self._closed:
            self._check_reader()
            assert self._failure is not None
            raise GaveUp(self._failure)
        return message

    def _check_reader(self) -> None:
        """Raise an error where no message would ever arrive."""
        if self._topics is not None:
            no_messages()
        if self._on_message is not None:
            raise WebSocketsError("the messages of this connection go to on_message")
        self._check_thread("recv()")

    # ---------------------------------------------------------------------------------- to close

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection permanently, with a close handshake. Safe to call twice.

        Takes up to 3 seconds. In callbacks it returns immediately, and the connection ends
        afterwards. Iterations end, and waiting threads get :class:`ConnectionClosed`. Unread
        messages are dropped. Raises ``ValueError`` for a *code* or *reason* that cannot be sent.
        """
        close_payload(code, reason)
        self._end()
        client = self._client
        in_callback = self._in_callback()
        if in_callback or (code, reason) != (1000, ""):
            client.free_later(code, reason)
        if not in_callback:
            client.free()

    def _end(self) -> None:
        """Nothing more can be sent or received."""
        with self._safe_state:
            self._closed = True
            self._ready = False
            self._changed.notify_all()
        self._inbox.end()
        self._calls.fail()

    # -------------------------------------------------------------------------------- callbacks

    def on_open(self, function: _OnOpen) -> _OnOpen:
        """Set the callback for each new connection; a decorator. If there is a connection already,
        it is called immediately, in the calling thread.
        """
        check_callback(function, "on_open", *_PARAMETERS["on_open"])
        with self._safe:
            self._on_open = function
            untold, self._open_untold = self._open_untold, False
        if untold:
            self._call("on_open", function)
        return function

    def on_message(self, function: _OnMessage) -> _OnMessage:
        """Set the callback for messages; a decorator. It gets the messages that wait in the inbox
        immediately, in the calling thread.
        """
        check_callback(function, "on_message", *_PARAMETERS["on_message"])
        fit = fitting(function, "on_message")
        while True:
            with self._safe:
                message = None if self._on_message is not None else self._inbox.take()
                if message is None:
                    self._on_message = fit
                    break
            self._call("on_message", fit, message)
        return function

    def on_close(self, function: _OnClose) -> _OnClose:
        """Set the callback for the end of each connection; a decorator."""
        check_callback(function, "on_close", *_PARAMETERS["on_close"])
        self._on_close = function
        return function

    def on_error(self, function: _OnError) -> _OnError:
        """Set the callback for errors; a decorator. If the connection has given up already, it is
        called immediately, in the calling thread.
        """
        check_callback(function, "on_error", *_PARAMETERS["on_error"])
        with self._safe:
            before, self._on_error = self._on_error, function
            failure = self._failure
        if failure is not None and before is None:
            self._tell_error(GaveUp(failure))
        return function

    def _call(self, name: str, function: Any, *arguments: Any) -> None:
        """Call a callback of the application; log and report its exceptions."""
        try:
            function(self, *arguments)
        except BaseException as exc:
            if self._process_is_inherited():
                # it ends a child that the callback has forked
                raise
            self._callback_failed(name, exc)

    def _callback_failed(self, name: str, error: BaseException) -> None:
        """Log and report an exception in the callback *name*, including SystemExit."""
        fields = {} if (process := self._client.websockets) is None else process.log_fields()
        _log.error("%r: %s failed", self, name, exc_info=error, extra=fields)
        self._tell_error(error)

    def _tell_error(self, error: BaseException) -> None:
        callback = self._on_error
        if callback is None or not isinstance(error, Exception):
            return
        try:
            callback(self, error)
        except BaseException:
            if self._process_is_inherited():
                raise
            _log.exception("%r: on_error failed", self)

    # ---------------------------------------------------------------------- the connection's thread

    def _opened(self, process: WebSocketProcess) -> None:
        """A connection has started."""
        self._send_frame = process.send_frame
        if self._topics is not None:
            self._send_frame = no_messages
        self._reader = get_ident()
        self._shown = shown_uri(
            websocket_uri(
                self._client.host,
                self._client.port,
                self._protocol.upgrade_uri.removeprefix("/"),
                self._client.tls,
            )
        )
        with self._safe:
            callback = self._on_open
            self._open_untold = callback is None
        if callback is not None:
            self._call("on_open", callback)
        with self._safe_state:
            self._unsent = False
            self._ready = not self._closed
            self._changed.notify_all()

    def _lost(self, process: WebSocketProcess) -> None:
        """A connection has ended."""
        with self._safe_state:
            self._ready = False
            self._changed.notify_all()
        with self._safe:
            self._open_untold = False
        self._calls.fail()
        if self._on_close is not None:
            self._call("on_close", self._on_close, process.close_code, process.close_reason)

    def _deliver(self, message: Message) -> None:
        """Keep *message* for recv(), or pass it to a callback that was set meanwhile."""
        inbox = self._inbox
        with self._safe:
            if self._on_message is None and inbox.messages.qsize() < inbox.most:
                inbox.messages.put(message)
                return
        while not self._closed:
            with self._safe:
                callback = self._on_message
                if callback is None and inbox.offer(message):
                    return
            if callback is not None:
                self._call("on_message", callback, message)
                return
            if inbox.overflow == "close":
                self._give_up_reading()
                return
            inbox.wait_for_room()

    def _give_up_reading(self) -> None:
        """The inbox is full, and ``overflow`` is to close the connection."""
        text = "the inbox is full: nothing is reading the messages"
        failure = ReconnectFailure(FailureKind.lost, text, 0, 0.0, _POLICY_VIOLATION)
        _log.warning("%r: closing: %s", self, text)
        self._client.free_later(_POLICY_VIOLATION, "inbox is full")
        self._gave_up(self._client, failure)

    def _attempt_failed(self, failure: ReconnectFailure) -> None:
        """An attempt to connect has failed."""
        self._tell_error(failure.exception or WebSocketsError(failure.text))

    def _gave_up(self, client: HttpClientWebSockets, failure: ReconnectFailure) -> None:
        """There will be no further attempt."""
        with self._safe_state:
            if self._closed or self._failure is not None:
                return
            self._failure = failure
            self._ready = False
            self._changed.notify_all()
        self._inbox.end()
        self._calls.fail()
        self._tell_error(GaveUp(failure))

    def _ended(self, client: HttpClientWebSockets) -> None:
        """The thread ends. If the reason is not known yet, the underlying client was freed, or
        was told not to reconnect.
        """
        if not self._closed and self._failure is None:
            text = client.status().last_error or "the client was freed"
            self._gave_up(client, ReconnectFailure(FailureKind.lost, text, 0, 0.0))

    # ----------------------------------------------------------------------------------- internal

    def _send_later(self, frame: WebSocketFrame, timeout: float | None) -> bool:
        """Send *frame* on the next connection, if there is one in time."""
        wait = self._timeout if timeout is None else seconds("timeout", timeout, zero=True)
        if self._send_until(frame, monotonic() + wait):
            return True
        if not self._unsent:
            self._unsent = True
            _log.warning("%r: a message was not sent: no connection within %g s", self, wait)
        return False

    def _send_until(self, frame: WebSocketFrame, end: float) -> bool:
        while True:
            self._check_open()
            if self._in_callback():
                # waiting here would prevent the connection from being established
                return self._send_frame(frame)
            if self._wait_ready(end):
                if self._send_frame(frame):
                    return True
                # a partially sent message has not reached the peer: it is sent again
                with self._safe_state:
                    self._changed.wait(_PAUSE)
            elif not (self._closed or self._failure is not None):
                return False

    def _wait_ready(self, end: float | None) -> bool:
        """Wait until *end* for a connection. False immediately if there will be none, and in
        callbacks if there is none.
        """
        with self._safe_state:
            while not (self._ready and self._is_running()):
                if self._closed or self._failure is not None:
                    return False
                left = 3_600.0 if end is None else end - monotonic()
                if left <= 0 or self._in_callback():
                    return False
                self._changed.wait(left)
            return True

    def _is_running(self) -> bool:
        process = self._client.websockets
        return process is not None and process.state is wpsRun

    def _process_is_inherited(self) -> bool:
        process = self._client.websockets
        return process is not None and process.inherited

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed("the connection was closed by close()")
        if self._failure is not None:
            raise GaveUp(self._failure)

    def _in_callback(self) -> bool:
        """Return whether the calling thread is the one that connects and reads."""
        process = self._client.websockets
        return process is not None and process.client_thread is threading.current_thread()

    def _check_thread(self, what: str) -> None:
        if self._in_callback():
            raise WebSocketsError(
                f"{what} would wait forever in a callback of the same connection, whose thread"
                " does the reading: use another thread"
            )

    def die_in_child(self) -> None:
        """Become closed, in a forked child."""
        safe = self._safe_state = threading.RLock()
        self._safe, self._changed = threading.RLock(), threading.Condition(safe)
        self._closed, self._ready = True, False
        self._inbox.die_in_child()

    def __repr__(self) -> str:
        if self._closed:
            what = "closed"
        elif self._failure is not None:
            what = "gave up"
        else:
            what = "connected" if self.connected else "connecting"
        return f"<Connection {self._shown} {what}>"
