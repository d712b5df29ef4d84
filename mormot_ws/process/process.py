"""WebSocketProcess: the life of one connection, without a socket (that is in ``on_socket.py``).

It owns four parts, each with its own state: a reader, a sender, the liveness, and a closer. Its
loop can be stepped: ``begin_loop()``, ``loop_step()``, ``end_loop()``. They are driven by a thread
of the connection's own (``process_loop()``), or by an owner that knows when there is something to
read.

Lock order: the reader's ``safe_in``, then the sender's ``safe_out``, then the queue's and the
transport's own locks. No callback runs and nothing is logged while any of them is held.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from threading import current_thread, get_ident
from time import monotonic
from typing import Any

from ..attributes import KnownAttributes
from ..core.closing import CloseHandshake
from ..core.forks import dies_in_child
from ..core.frames import (
    WebSocketFrame,
    close_payload,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    parse_close_payload,
)
from ..core.incoming import WebProcessInFrame
from ..core.outgoing import OutgoingFrames
from ..errors import WebSocketsProtocolError
from ..logs import get_logger, shown_name
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest, OnHttpServerRequest, RequestExchange
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..states import (
    WebSocketProcessNotifyCallback,
    WebSocketProcessState,
    wpsClose,
    wpsCreate,
    wpsDestroy,
    wpsRun,
    wscBlockWithAnswer,
)
from ..status import ConnectionStatus
from .closer import Closer, write_fault
from .encoder import PreparedFrame, check_sendable
from .frame_log import log_frame
from .keeper import ProcessKeeper
from .liveness import Liveness
from .reader import Reader
from .sender import Sender, is_foreign_timeout

_log = get_logger("mormot_ws.process")


class _LoopThread:
    """Which thread is inside the loop; 0: none."""

    __slots__ = ("ident",)

    def __init__(self) -> None:
        self.ident = 0


class WebSocketProcess(KnownAttributes, ABC):
    """What both sides of a connection have in common, whatever carries the bytes. Mirrors
    ``TWebSocketProcess``.

    :param protocol: this connection's own protocol object.
    :param settings: shared by reference with the server or client.
    :param keeper: the thread that looks after heartbeats and queued frames.
    :param mask_sent_frames: True on the client's side (the original's ``MaskSentFrames``).
    :param connection_id: the server's number for the connection.
    :param process_name: names threads and log lines.

    For anybody, from any thread: :meth:`send_frame`, :meth:`send_frame_async`, :meth:`shutdown`,
    :meth:`abort`, :meth:`notify_callback`, :meth:`status`, and the attributes, to be read.

    Subclasses implement :meth:`receive_bytes`, :meth:`receive_now`, :meth:`write_bytes`,
    :meth:`write_now`, :meth:`interrupt` and :meth:`fileno`.
    """

    #: True in a forked child: the connection is the parent's, and this copy is dead
    inherited: bool = False

    def __init__(
        self,
        protocol: WebSocketProtocol,
        settings: WebSocketProcessSettings,
        keeper: ProcessKeeper,
        *,
        mask_sent_frames: bool,
        connection_id: int = 0,
        process_name: str = "",
    ) -> None:
        self.protocol = protocol
        self.settings = settings
        self.process_name = process_name
        #: the server's number for this connection; on a client the one that the last handshake
        #: brought (0: none)
        self.connection_id = connection_id
        #: the peer's IP address; '' when unknown
        self.remote_ip = ""
        #: the thread that runs the loop
        self.owner_thread: threading.Thread | None = None
        #: what waits for answers, set by protocols that carry requests; None on others
        self.exchange: RequestExchange | None = None
        #: where the connection is in its life; mirrors ``State``
        self.state: WebSocketProcessState = wpsCreate
        #: messages that were read after the end of the connection, and reached no callback
        self.dropped_count: int = 0
        self._state_since = monotonic()
        self._keeper = keeper
        #: the parts: for the package
        self.reader = Reader(self)
        self.sender = Sender(self, settings, keeper, mask_sent_frames)
        self.liveness = Liveness(self, keeper)
        self.closer = Closer(self, keeper)
        #: frames of ``send_frame_async`` that wait to be sent; mirrors ``Outgoing``
        self.outgoing: OutgoingFrames = self.sender.outgoing
        self._begin()
        dies_in_child(self)

    def _begin(self) -> None:
        """(Re)set what belongs to one connection. The loop is not running; a reconnected client
        comes here again.
        """
        settings = self.settings
        compression = self.protocol.compression
        in_frame = WebProcessInFrame(
            masked=not self.client_side,
            max_message_bytes=settings.max_message_bytes,
            max_frame_bytes=settings.max_frame_mb << 20,
            max_fragments=settings.max_fragments,
            inflater=None if compression is None else compression.inflater(self.client_side),
            lenient_text=self.protocol.lenient_text,
        )
        self.reader.begin(in_frame, settings.notify_all_frames)
        self.sender.begin()
        self.liveness.begin()
        self.closer.begin()
        self._log_frames = bool(settings.log_details)
        self._lenient_text = self.protocol.lenient_text
        self._loop = _LoopThread()
        kind = type(self.protocol)
        self._after_get = (
            None
            if kind.after_get_frame is WebSocketProtocol.after_get_frame
            else self.protocol.after_get_frame
        )

    # ------------------------------------------------------------------------------------- to read

    @property
    def client_side(self) -> bool:
        """True on the side that connected and masks its frames."""
        return self.sender.encoder.masks is not None

    @property
    def safe_out(self) -> threading.Lock:
        """Held while frames leave; the sender's."""
        return self.sender.safe_out

    @property
    def in_frame(self) -> WebProcessInFrame:
        """The decoder of the connection."""
        return self.reader.in_frame

    @property
    def closing(self) -> CloseHandshake:
        """Which close frames of the connection went, and with what code."""
        return self.closer.handshake

    @property
    def last_error(self) -> str:
        """What ended the connection, or the last fault, in words; '' when there was none."""
        return self.closer.last_error

    @property
    def state_since(self) -> float:
        """Milliseconds since :attr:`state` last changed."""
        return (monotonic() - self._state_since) * 1000

    @property
    def close_code(self) -> int:
        """The code of the close frame that ended the connection, ours or the peer's, whichever came
        first; 1005: it had none; 1006: there was no close frame; 0: the connection is open.
        """
        return self.closing.code

    @property
    def close_reason(self) -> str:
        """The reason in that close frame."""
        return self.closing.reason

    @property
    def connection_close_was_sent(self) -> bool:
        """True once our close frame was given to the connection; mirrors
        ``ConnectionCloseWasSent``.

        To cut a connection without a close frame call :meth:`abort`; the original sets this
        property for that.
        """
        return self.closing.sent

    @property
    def invalid_ping_count(self) -> int:
        """Heartbeats in a row that could not be sent or were not answered."""
        return self.liveness.invalid_ping_count

    @property
    def invalid_ping_send_count(self) -> int:
        """The Pascal name of :attr:`invalid_ping_count`; mirrors ``InvalidPingSendCount``."""
        return self.liveness.invalid_ping_count

    @property
    def last_ping_delay(self) -> float:
        """Milliseconds from the last heartbeat to its answer; 0: none yet. (The original's is the
        age of the last traffic.)
        """
        return self.liveness.last_ping_delay

    def status(self) -> ConnectionStatus:
        """Return a snapshot for monitoring. From any thread, never waits."""
        protocol = self.protocol
        return ConnectionStatus(
            connection_id=self.connection_id,
            remote_ip=self.remote_ip,
            protocol=shown_name(protocol.name),
            state=self.state.name,
            state_since_ms=self.state_since,
            frames_in=protocol.frames_in_count,
            frames_out=protocol.frames_out_count,
            bytes_in=protocol.frames_in_bytes,
            bytes_out=protocol.frames_out_bytes,
            queued_frames=self.outgoing.count,
            queued_bytes=self.outgoing.bytes,
            queue_lost=self.outgoing.lost,
            ping_ms=self.last_ping_delay,
            invalid_pings=self.invalid_ping_count,
            close_code=self.close_code,
            close_reason=self.close_reason,
            last_error=self.last_error,
        )

    def log_fields(self) -> dict[str, object]:
        """Return what log records of this connection carry as ``extra``."""
        return {
            "connection_id": self.connection_id,
            "remote_ip": self.remote_ip,
            "close_code": self.close_code,
        }

    # ------------------------------------------------------------------------------------- to send

    def send_frame(self, frame: WebSocketFrame, ahead: PreparedFrame | None = None) -> bool:
        """Send *frame* now. Mirrors ``SendFrame``.

        From any thread; frames of several threads never mix. Returns True when the kernel of a
        running connection has taken all its bytes, else False (not in ``wpsRun``, connection lost,
        or the peer took nothing for ``send_timeout`` ms: the connection is then given up). Waits up
        to another ``send_timeout`` while other threads send. A ``focConnectionClose`` frame starts
        the close handshake.

        In a signal handler or finaliser that has interrupted a ``send_frame`` of the same
        connection, the frame is queued as :meth:`send_frame_async` does.

        Raises ``TypeError``/``ValueError`` for what is no frame that may be sent. Whatever else is
        raised in it (``KeyboardInterrupt``, the exception of a signal handler) is raised again;
        when a part of the frame has left by then, the connection is given up. *ahead* is for the
        package itself: what ``prepare_ahead`` has returned for it.
        """
        try:
            opcode = frame.opcode
            payload = frame.payload
        except AttributeError:
            check_sendable(frame)
            raise
        if opcode is focText:
            if type(payload) is not bytes or not (payload.isascii() or self._lenient_text):
                check_sendable(frame)
        elif opcode is not focBinary or type(payload) is not bytes:
            check_sendable(frame)
            if opcode is focConnectionClose:
                return self.closer.send(*parse_close_payload(payload), payload)
        sent = self.sender.send(frame, ahead)
        if self._log_frames and sent:
            log_frame(self, "sent", frame)
        return sent

    def prepare_ahead(self, frame: WebSocketFrame) -> PreparedFrame | None:
        """Let the protocol prepare a copy of *frame* without any lock: for the package."""
        if self.state is not wpsRun:
            return None
        return self.sender.encoder.prepare_ahead(self.protocol, frame)

    def send_frame_async(self, frame: WebSocketFrame) -> bool:
        """Queue a copy of *frame* to be sent soon, together with others. Mirrors
        ``SendFrameAsync``.

        From any thread, never waits; also from a signal handler or finaliser. Returns False when
        the queue is full (``max_outgoing_frames``, ``max_outgoing_bytes``) or the connection will
        not come back. Frames leave in the order of these calls. Raises as :meth:`send_frame` does.
        """
        if not isinstance(frame, WebSocketFrame):
            check_sendable(frame)
        return self.sender.queue_frame(frame)

    def notify_callback(
        self, request: HttpServerRequest, mode: WebSocketProcessNotifyCallback = wscBlockWithAnswer
    ) -> int:
        """Send *request* to the peer over a REST protocol; return the status. Mirrors
        ``NotifyCallback``.

        From any thread. Waits with ``wscBlockWithAnswer``, up to :meth:`answer_timeout` ms; the
        answer is then in the ``out_…`` attributes of *request*. The other modes return 200 when the
        request was sent or queued. Without an answer the status is 666 when the request surely did
        not reach the peer, 404 when it may have, and ``request.out_error`` says why. 404 on a
        protocol without requests.

        Raises :class:`WebSocketsError` when it would have to wait inside a callback of this very
        connection, whose thread reads the answers, and ``ValueError`` for an unknown *mode*.

        Requests that wait take turns on ``synopsejson`` and ``synopsebinary``, whose answers carry
        no number: each waits up to another :meth:`answer_timeout` for its turn, and gets 666 when
        that does not come.
        """
        if self.exchange is None:
            name = shown_name(self.protocol.name)
            request.out_error = f"the protocol {name!r} carries no requests"
            return 404
        return self.exchange.notify(request, mode)

    def answer_timeout(self) -> int:
        """Return the milliseconds that a request waits for its answer, as they are set:
        ``callback_answer_timeout_ms``.
        """
        return self.settings.callback_answer_timeout_ms

    @property
    def takes_messages(self) -> bool:
        """True while messages of the peer may reach callbacks: the connection runs, and nobody has
        closed or cut it.
        """
        return self.state is wpsRun and not self.closer.given_up

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        """Return a new context for a request of the peer, and who answers it (None: nobody).
        Mirrors ``ComputeContext``.
        """
        return HttpServerRequest(connection_id=self.connection_id, remote_ip=self.remote_ip), None

    # ------------------------------------------------------------------------------------ to close

    def shutdown(self, code: int | None = 1000, reason: str = "") -> bool:
        """Close the connection in the orderly way: send a close frame once, wait for the answer.
        Mirrors ``Shutdown``.

        From any thread. Waits up to ``close_timeout`` ms for the peer's close frame, then cuts the
        connection; inside a callback of this connection it does not wait, the loop goes on and ends
        by itself. Messages that come while it waits still reach their callback; none does after it
        has returned: they are dropped, and counted in :attr:`dropped_count`. Returns True when the
        peer answered (inside a callback: when the frame was sent). Raises ``ValueError`` for a
        *code* that may not be sent.
        """
        return self.closer.close(code, reason, self.settings.close_timeout, self.runs_loop())

    def shutdown_within(self, code: int, most_ms: int) -> bool:
        """The same for ``free()``, which has a bound of its own: wait up to *most_ms*, whatever
        ``close_timeout`` says.
        """
        return self.closer.close_within(code, min(most_ms, self.settings.close_timeout))

    def start_shutdown(self, code: int, reason: str, wait_ms: int = 0) -> bool:
        """Send a close frame without waiting for the answer, which has ``close_timeout`` ms to
        come; tell whether it was sent.

        Waits up to *wait_ms* for another thread that is writing on the connection just now.
        """
        return self.closer.send(code, reason, close_payload(code, reason), wait_ms)

    def abort(self, why: str) -> None:
        """Cut the connection at once, from any thread: its loop ends, a blocked write fails. *why*
        becomes ``last_error``.
        """
        self.closer.abort(why)

    def attach_exchange(self, exchange: RequestExchange) -> None:
        """Let *exchange* carry the requests of this connection. For protocols that have such."""
        self.exchange = exchange

    def detach_exchange(self) -> None:
        """Undo :meth:`attach_exchange`."""
        self.exchange = None

    def run_at_once(self) -> None:
        """After the handshake: frames may be sent, even before the loop starts."""
        self.enter_run()
        self.entered_run()

    def enter_run(self) -> None:
        """Do what :meth:`run_at_once` does, without a log record: under a lock, after which
        :meth:`entered_run` follows.
        """
        self.state = wpsRun
        self._state_since = monotonic()

    def entered_run(self) -> None:
        """Log that the connection runs. Without any lock."""
        _log.debug("%s: %s -> %s", self, wpsCreate.name, wpsRun.name)

    def die_in_child(self) -> None:
        """In a forked child: be dead, without a callback, a log line or a byte to the peer. The
        transport closes its descriptor by itself.

        The thread that forks may be the loop's own: it finds nothing more to read or to handle, and
        leaves by :meth:`process_loop` without telling anybody.
        """
        self.inherited = True
        # not by set_state(), which tells others; all else looks at the state first
        self.state = wpsDestroy
        self._state_since = monotonic()
        # threads that are not here may have held the locks of the parts
        self.reader.die_in_child()
        self.sender.die_in_child()
        self.outgoing = self.sender.outgoing
        self.closer.die_in_child()

    # ------------------------------------------------------------------------ subclasses implement

    @abstractmethod
    def receive_bytes(self, size: int) -> bytes:
        """Return up to *size* bytes from the peer, ``b''`` at the end; raise ``OSError`` when the
        connection is broken.
        """

    @abstractmethod
    def receive_now(self, size: int) -> bytes | None:
        """Like :meth:`receive_bytes`, but without waiting: None when nothing is there or the
        connection is broken.
        """

    @abstractmethod
    def write_bytes(self, data: bytes) -> None:
        """Write *data* whole; raise ``OSError`` when that fails. Called under ``safe_out``."""

    def write_parts(self, header: bytes, payload: bytes) -> None:
        """Write a large frame; may avoid joining its parts. Called under ``safe_out``."""
        self.write_bytes(header + payload)

    @abstractmethod
    def write_now(self, data: memoryview) -> int:
        """Write what can be written without waiting and return its size; raise ``OSError``. Called
        under ``safe_out``.
        """

    def wait_writable(self, deadline: Deadline) -> bool:
        """Wait until :meth:`write_now` may get on; False when the *deadline* came first. Called
        under ``safe_out``.
        """
        return False

    def waits_for_input(self) -> bool:
        """Tell whether :meth:`write_now` took nothing for another reason than a full socket: then
        readiness says nothing.
        """
        return False

    def unsent_bytes(self) -> int:
        """Return how many of the last bytes that :meth:`write_now` accepted have not left, and
        would be lost with the connection.
        """
        return 0

    def output_state(self) -> tuple[int, int] | None:
        """Return how many bytes the peer's kernel has acknowledged so far, and how many are under
        way; None where nobody tells.
        """
        return None

    def received_bytes(self) -> int | None:
        """Return how many bytes our kernel has received from the peer so far, read or not; None
        where it does not tell.
        """
        return None

    @abstractmethod
    def interrupt(self) -> None:
        """Break the connection so that reads and writes in other threads return. From any thread,
        must not raise.
        """

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor to wait for, −1 when there is none."""

    @abstractmethod
    def finish(self) -> None:
        """Close what carries the bytes, after the last read. Called by the loop's thread."""

    def keeps_queue(self) -> bool:
        """Tell whether frames may be queued while the connection is not running."""
        return False

    # ------------------------------------------------------------------------------------ the loop

    def process_loop(self) -> None:
        """Run the connection from its first callback to its last. Called by the owner thread, once
        per connection.
        """
        step = self.loop_step
        try:
            if self.begin_loop():
                # the thread stays inside the loop between the steps, too
                self._loop.ident = get_ident()
                while step():
                    pass
        finally:
            if not self.inherited:
                self.end_loop()

    def begin_loop(self) -> bool:
        """Start the connection: run its first callbacks; return whether there is anything to read.

        In the thread that is going to call :meth:`loop_step`; whatever it returns or raises,
        :meth:`end_loop` comes last.
        """
        self._loop.ident = get_ident()
        try:
            if not self.process_start():
                return False
            self.sender.open_queue()
            return True
        finally:
            self._loop.ident = 0

    def loop_step(self) -> bool:
        """Read once, and handle the frames that are complete; return whether to go on.

        Waits for bytes when there are none. One thread at a time; the frames of one connection are
        handled one after another, in their order.
        """
        loop = self._loop
        stays = loop.ident
        if not stays:
            loop.ident = get_ident()
        reader = self.reader
        try:
            if self.outgoing.frames:
                self.process_loop_step_send()
            frames = self.process_loop_step_receive()
            if frames is None:
                return False
            received = self.process_loop_received
            for frame in frames:
                received(frame)
            reader.handled()
            in_frame = reader.in_frame
            if in_frame.error is not None and not reader.has_backlog:
                raise in_frame.error
            if not self.closer.handshake.received:
                return True
            if self.outgoing.frames:
                self.process_loop_step_send()
            return False
        except WebSocketsProtocolError as exc:
            self.fault(exc)
            return False
        finally:
            if not stays:
                loop.ident = 0

    def end_loop(self) -> None:
        """End the connection: close it, and run its last callbacks. After the last step."""
        self._loop.ident = get_ident()
        try:
            self.reader.handled()
            self.closer.end()
            self.liveness.stop()
            self.set_state(wpsClose)
            why = self.last_error or self.close_reason or "in an orderly way"
            text = "%s: ended with %d: %s"
            _log.debug(text, self, self.close_code, why, extra=self.log_fields())
            self.finish()
            self.sender.requeue()
            self.reader.drop()
            self.process_stop()
        finally:
            self._loop.ident = 0
            self.set_state(wpsDestroy)

    def runs_loop(self) -> bool:
        """Tell whether the calling thread is inside the loop: in one of its callbacks."""
        return get_ident() == self._loop.ident

    def process_start(self) -> bool:
        """Enter ``wpsRun`` and tell the user; return False when a callback refused by an exception.
        Mirrors ``ProcessStart``.
        """
        if self.state is wpsCreate:
            # else run_at_once() was called, and the connection may be closing already
            self.set_state(wpsRun)
        self.reader.touch()
        self.liveness.start()
        self._tell("on_client_connected", self.settings.on_client_connected)
        try:
            frame = WebSocketFrame(focContinuation)
            before = self.protocol.on_before_incoming_frame
            if self.inherited:
                # on_client_connected has forked
                return False
            if before is None or not before(self, frame):
                self.protocol.process_incoming_frame(self, frame, "")
        except BaseException as exc:  # noqa: BLE001
            # whatever the user's code raises ends this connection only
            self._raise_in_main(exc)
            _log.exception("%s: a callback refused the connection", self, extra=self.log_fields())
            self.closer.note_error("a callback refused the connection")
            self.start_shutdown(1011, "refused", self.settings.close_timeout)
            return False
        return True

    def process_stop(self) -> None:
        """Tell the user that the connection has ended. Mirrors ``ProcessStop``."""
        frame = WebSocketFrame(focConnectionClose, self.closing.payload())
        try:
            before = self.protocol.on_before_incoming_frame
            if before is None or not before(self, frame):
                self.protocol.process_incoming_frame(self, frame, "")
        except BaseException as exc:  # noqa: BLE001
            # the connection has ended: there is nobody left to tell but the log
            text = "%s: the callback for the end of the connection failed"
            _log.exception(text, self, extra=self.log_fields())
            self._raise_in_main(exc)
        self._tell("on_client_disconnected", self.settings.on_client_disconnected)

    def _tell(self, name: str, callback: Any) -> None:
        """Call an event of the settings; as in the original, what it raises changes nothing."""
        if callback is None:
            return
        try:
            callback(self)
        except BaseException as exc:  # noqa: BLE001
            self._raise_in_main(exc)
            _log.exception("%s: %s failed", self, name, extra=self.log_fields())

    def _raise_in_main(self, exc: BaseException) -> None:
        """Raise Ctrl-C again where the loop runs in the main thread, and anything in a child that a
        callback has forked; nothing else is raised.
        """
        main = threading.main_thread()
        if self.inherited or (isinstance(exc, KeyboardInterrupt) and current_thread() is main):
            raise exc

    def process_loop_step_send(self) -> None:
        """Send what callbacks have queued in this turn of the loop. Mirrors
        ``ProcessLoopStepSend``.
        """
        self.sender.step()

    def process_loop_step_receive(self) -> list[WebSocketFrame] | None:
        """Wait for bytes and return the frames that they complete; None when there is nothing more
        to read. Mirrors ``ProcessLoopStepReceive``.
        """
        try:
            return self.reader.read()
        except EOFError as exc:
            self._lost(str(exc))
        except OSError as exc:
            if is_foreign_timeout(exc):
                self._lost("interrupted")
                raise
            self._lost(f"{type(exc).__name__}: {exc}")
        return None

    def process_loop_received(self, frame: WebSocketFrame) -> None:
        """Handle one frame in the loop's thread. Mirrors ``ProcessLoopReceived``."""
        opcode = frame.opcode
        if self._log_frames:
            log_frame(self, "received", frame)
        if opcode is focText or opcode is focBinary:
            if self.closer.given_up:
                # we have closed or cut the connection: this message came too late
                self.dropped_count += 1
                return
            counts = self.protocol.counts
            counts.frames_in += 1
            counts.bytes_in += len(frame.payload)
            self._dispatch(frame)
        elif opcode is focPing:
            self.liveness.ping_received(frame)
            if self.settings.notify_all_frames:
                self._dispatch(frame)
        elif opcode is focPong:
            self.liveness.pong_received(frame)
            if self.settings.notify_all_frames:
                self._dispatch(frame)
        elif opcode is focConnectionClose:
            self.closer.answer(frame.payload)

    def _dispatch(self, frame: WebSocketFrame) -> None:
        protocol = self.protocol
        try:
            if self._after_get is not None:
                self._after_get(frame)
            before = protocol.on_before_incoming_frame
            if before is None or not before(self, frame):
                protocol.process_incoming_frame(self, frame, "")
        except WebSocketsProtocolError:
            # what the peer sent cannot be used (a frame that does not decrypt): the loop closes
            raise
        except BaseException as exc:  # noqa: BLE001
            # a bug in the user's code must not end the connection, nor must sys.exit()
            self._raise_in_main(exc)
            _log.exception("%s: a callback failed on %r", self, frame, extra=self.log_fields())

    # ----------------------------------------------------------------------------- closing, faults

    def fault(self, error: WebSocketsProtocolError, wait_ms: int | None = None) -> bool:
        """The peer broke a rule: close with the code that this deserves; tell whether the close
        frame was sent. Waits as :meth:`start_shutdown` does.
        """
        return self.closer.fault(error, wait_ms)

    def _lost(self, why: str) -> None:
        """Nothing more can be read."""
        if not self.inherited:
            self.closer.lost(why)

    def overflowed(self) -> None:
        """The queue is full, and the settings say that the connection then is to be closed."""
        if self.state is wpsRun and not self.start_shutdown(1008, "outgoing queue is full"):
            self.abort("outgoing queue is full: the peer does not read")

    def cut(self, exc: BaseException) -> None:
        """A write failed, or waited too long: the stream may be cut inside a frame, so it can only
        be given up. Under ``safe_out``, so that nobody writes behind it; logs nothing.
        """
        self.closer.cut(exc)

    def write_failed(self, exc: BaseException) -> None:
        """Say that the connection was cut because a write failed. Without any lock."""
        _log.debug("%s: cut: %s", self, write_fault(exc))

    def queue_failed(self, exc: BaseException) -> None:
        """The protocol could not prepare a queued frame, which is dropped; the others go on."""
        text = "%s: a queued frame could not be prepared, and is dropped"
        _log.error(text, self, extra=self.log_fields(), exc_info=exc)

    def note_error(self, why: str) -> None:
        """Keep *why* as :attr:`last_error`. For the package."""
        self.closer.note_error(why)

    def set_state(self, state: WebSocketProcessState) -> None:
        """Change the state, and tell who waits for answers. For the package."""
        before = self.state
        if state is not before:
            self.state = state
            self._state_since = monotonic()
            self._state_changed(before)

    def leave_run(self) -> bool:
        """Go from ``wpsRun`` to ``wpsClose``; False when it was left before. Under ``safe_out``;
        :meth:`left_run` follows without it.
        """
        if self.state is not wpsRun:
            return False
        self.state = wpsClose
        self._state_since = monotonic()
        return True

    def left_run(self) -> None:
        """Tell who waits for answers that none comes any more."""
        self._state_changed(wpsRun)

    def _state_changed(self, before: WebSocketProcessState) -> None:
        """The state has changed from *before*."""
        state = self.state
        _log.debug("%s: %s -> %s", self, before.name, state.name)
        if self.exchange is not None and state is not wpsRun:
            self.exchange.closed()

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        return (
            f"<{type(self).__name__} {name}#{self.connection_id} "
            f"{shown_name(self.protocol.name)!r} {self.state.name}"
            f"{' ' + self.remote_ip if self.remote_ip else ''}>"
        )
