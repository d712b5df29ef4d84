"""The REST protocols: requests and answers as frames, in both directions.

``synopsejson`` is text; ``synopsebin`` and ``synopsebinary`` are binary, with optional compression
and encryption. The bytes are the same as in native mORMot 2. ``exchange.py`` waits for answers,
``answering.py`` answers requests, and the two forms are in ``json_form.py`` and ``binary_form.py``.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from ..attributes import IS_BOOL, IS_INT, IS_TEXT, Check, of_kind
from ..core.forks import renew_in_child
from ..core.frames import (
    WebSocketFrame,
    WebSocketFramePayload,
    focBinary,
    focContinuation,
    focText,
    fopAlreadyCompressed,
)
from ..logs import get_logger
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest
from ..states import (
    WebSocketProtocolBinaryOptions,
    pboNoLocalHostCompress,
    pboNoLocalHostEncrypt,
    pboSynLzCompress,
)
from .algosynlz import algo_compress, algo_decompress, is_worth_storing
from .answering import Answerer
from .binary_form import (
    MAX_JUMBO,
    binary_head,
    decode_binary,
    encode_binary,
    encode_jumbo,
    is_jumbo,
    jumbo_count,
    split_jumbo,
)
from .binary_options import binary_options
from .exchange import RestExchange
from .json_form import decode_json, encode_json, json_head
from .key_guard import KeyFaults, KeyGuard
from .long_work import LongWork, WorkStoppedError
from .messages import (
    REQUEST_HEAD,
    RestAnswer,
    RestMessageError,
    RestRequest,
    answer_head_of,
    batch_marker,
    content_bytes,
    request_head,
)
from .options_guard import OptionsGuard

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess
    from ..settings import WebSocketProcessSettings

_log = get_logger("mormot_ws.rest")

_NO_FLAGS = WebSocketFramePayload(0)
#: bytes that native counters add to each payload for its frame
_FRAME_OVERHEAD = 2


class WebSocketProtocolRest(WebSocketProtocol, ABC):
    """The base class of protocols with HTTP-like requests and answers, in both directions.

    Mirrors ``TWebSocketProtocolRest``. The server's ``on_request`` or the client's
    ``on_callback_request_process`` gets each request in the connection's thread, and the answer
    that it sets is sent back. If it raises, even ``SystemExit``, the answer is 500, and the
    exception is logged. Send requests with
    :meth:`WebSocketProcess.notify_callback <mormot_ws.WebSocketProcess.notify_callback>`.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {"sequencing": IS_BOOL, "frames_in_dropped": IS_INT}

    #: True if requests have numbers, which match them with their answers; mirrors ``fSequencing``
    sequencing = False

    def __init__(self, name: str, uri: str = "") -> None:
        super().__init__(name, uri)
        #: messages that could not be read and were dropped, as in native code
        self.frames_in_dropped: int = 0
        self._answerer = Answerer(self)

    def prepare_process(self, process: WebSocketProcess) -> None:
        """Prepare *process* for requests from this side."""
        self._answerer.begin()
        exchange = process.exchange
        if not isinstance(exchange, RestExchange):
            exchange = RestExchange(process, self)
            process.attach_exchange(exchange)
        exchange.begin(self)

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Answer a request, or pass an answer to the waiting thread; drop anything else.

        *info* is a header line to add to a request.
        """
        if frame.opcode is not focText and frame.opcode is not focBinary:
            # the beginning or the end of the connection
            if isinstance(process.exchange, RestExchange) and process.exchange.watchers:
                process.exchange.tell(frame.opcode is focContinuation)
            return
        self._answerer.begin_frame()
        self._handle(process, frame, info)

    def _handle(self, process: WebSocketProcess, frame: WebSocketFrame, info: str) -> None:
        """Handle a message, possibly one of many in its frame."""
        head = self.head_of(frame)
        kind = head[:1]
        if kind == "r":
            try:
                _, request = self.decode(frame)
            except RestMessageError as exc:
                self._unreadable(process, f"invalid request: {exc}")
                return
            assert isinstance(request, RestRequest)
            self._answerer.answer(process, request, head, info)
        elif kind == "a":
            if isinstance(process.exchange, RestExchange):
                process.exchange.answer_arrived(head, frame)
        else:
            self._unreadable(process, "neither a request nor an answer")

    def tells_first(self, kind: str) -> bool:
        """Return whether this is the connection's first log record of that *kind*.

        Used by the package, so that a peer cannot fill the log.
        """
        return self._answerer.is_first(kind)

    def count_unreadable(self, why: str) -> None:
        """Count a message that could not be read, and store *why*."""
        self.note_error(why)
        self.frames_in_dropped += 1

    def _unreadable(self, process: WebSocketProcess, why: str) -> None:
        """Drop a peer's message; log only the first one of a connection."""
        if not process.takes_messages:
            process.count_dropped()
            return
        self.count_unreadable(why)
        if self._answerer.is_first("unreadable"):
            text = "%s: dropped an unreadable message (further ones are not logged): %s"
            _log.info(text, process, why, extra=process.log_fields())

    def frame_is(self, frame: WebSocketFrame, head: str) -> bool:
        """Return whether the head of *frame* is *head*."""
        return self.head_of(frame) == head

    # ------------------------------------------------------------------------ messages of this side

    def input_to_frame(
        self, ctxt: HttpServerRequest, no_answer: bool
    ) -> tuple[WebSocketFrame, str]:
        """Return the frame of the request in *ctxt*, and the head of its answer.

        Mirrors ``InputToFrame``.
        """
        head = self.next_head()
        request = RestRequest(
            ctxt.method or "POST",
            ctxt.url,
            ctxt.in_headers,
            no_answer,
            ctxt.in_content_type,
            ctxt.in_content,
        )
        return self.encode(request, head), answer_head_of(head)

    def output_to_frame(self, ctxt: HttpServerRequest, status: int, head: str) -> WebSocketFrame:
        """Return the frame of the answer in *ctxt* to the request with that *head*.

        Raises ``TypeError`` or ``ValueError`` if it cannot be sent. Mirrors ``OutputToFrame``.
        """
        for text in (ctxt.out_custom_headers, ctxt.out_content_type):
            if not isinstance(text, str):
                raise TypeError(f"content type and headers must be str, not {type(text).__name__}")
        content = content_bytes(ctxt.out_content)
        answer = RestAnswer(status, ctxt.out_custom_headers, ctxt.out_content_type, content)
        return self.encode(answer, answer_head_of(head))

    def frame_to_output(self, frame: WebSocketFrame, ctxt: HttpServerRequest) -> int:
        """Set the answer in *ctxt* from *frame*; return the status.

        It is 404 if the frame is not an answer. Mirrors ``FrameToOutput``.
        """
        try:
            _, answer = self.decode(frame)
        except RestMessageError as exc:
            answer = None
            ctxt.out_error = f"the answer cannot be read: {exc}"
        if not isinstance(answer, RestAnswer):
            return 404
        ctxt.out_custom_headers = answer.headers
        ctxt.out_content_type = answer.content_type
        ctxt.out_content = answer.content
        return answer.status

    def next_head(self) -> str:
        """Return the head of this side's next request. Any thread may call it."""
        return REQUEST_HEAD

    # ------------------------------------------------------------------------ subclasses implement

    @abstractmethod
    def head_of(self, frame: WebSocketFrame) -> str:
        """Return the head of the message in *frame*; '' if it is not a message. Cheap."""

    @abstractmethod
    def encode(self, message: RestRequest | RestAnswer, head: str) -> WebSocketFrame:
        """Return the frame that carries *message* under *head*."""

    @abstractmethod
    def decode(self, frame: WebSocketFrame) -> tuple[str, RestRequest | RestAnswer]:
        """Return (head, message) of *frame*; raise ``RestMessageError`` if it has none."""


class WebSocketProtocolJson(WebSocketProtocolRest):
    """``synopsejson``: requests as text frames that a browser can read.

    Mirrors ``TWebSocketProtocolJson``. It has no compression or encryption of its own; use TLS.
    Answers have no numbers, so waiting requests take turns on a connection.
    """

    lenient_text = True

    def __init__(self, uri: str = "") -> None:
        super().__init__("synopsejson", uri)

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol for one connection."""
        return self._new_clone()

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.uri,), {}

    def head_of(self, frame: WebSocketFrame) -> str:
        return json_head(frame.payload) if frame.opcode is focText else ""

    def encode(self, message: RestRequest | RestAnswer, head: str) -> WebSocketFrame:
        return WebSocketFrame(focText, encode_json(message, head))

    def decode(self, frame: WebSocketFrame) -> tuple[str, RestRequest | RestAnswer]:
        return decode_json(frame.payload)


class WebSocketProtocolBinary(WebSocketProtocolRest):
    """``synopsebin`` and ``synopsebinary``: requests as binary frames.

    Mirrors ``TWebSocketProtocolBinary``.

    :param uri: the path to which it is limited; '': any.
    :param key: a password for AES encryption, the same on both sides; '': none. It requires the
        extra ``crypto``.
    :param options: :class:`WebSocketProtocolBinaryOptions`, the same on both sides.
    :param settings: supplies ``aes_salt``, ``aes_rounds`` and ``aes_bits``; None: the defaults.

    ``synopsebin`` is preferred: it numbers its requests, so several threads can wait for answers on
    one connection at once. Raises ``ValueError`` or :class:`WebSocketsError` for an invalid *key*.
    """

    prepares_in_any_order = True

    _CHECKS: ClassVar[dict[str, Check]] = {
        "options": of_kind(WebSocketProtocolBinaryOptions),
        "frames_in_bytes_socket": IS_INT,
        "frames_out_bytes_socket": IS_INT,
    }

    def __init__(
        self,
        uri: str = "",
        key: str = "",
        options: WebSocketProtocolBinaryOptions
        | Collection[WebSocketProtocolBinaryOptions] = pboSynLzCompress,
        *,
        settings: WebSocketProcessSettings | None = None,
    ) -> None:
        super().__init__("synopsebin", uri)
        #: how frames are encoded; mirrors ``Options``
        self.options: WebSocketProtocolBinaryOptions = binary_options(options)
        self.sequencing: bool = True
        #: bytes of frames on the wire, received and sent; mirror ``FramesInBytesSocket`` and
        #: ``FramesOutBytesSocket``
        self.frames_in_bytes_socket: int = 0
        self.frames_out_bytes_socket: int = 0
        #: guards frames_out_bytes_socket, because several threads prepare frames at once; last in
        #: the lock order; held only briefly
        self._safe_counter = threading.RLock()
        renew_in_child(self, "_safe_counter", threading.RLock)
        # next() on it is atomic. As in mORMot, a reconnection does not reset it, so a late answer
        # cannot match a new request
        self._numbers = count(1)
        self._max_message_bytes = 16 << 20
        self._guard = KeyGuard(KeyFaults())
        self._options_guard = OptionsGuard()
        self._process: weakref.ref[WebSocketProcess] | None = None
        IS_TEXT("key", key)
        if key:
            self.set_encrypt_key(key, settings)

    def set_encrypt_key(self, key: str, settings: WebSocketProcessSettings | None = None) -> None:
        """Encrypt with *key* from the next connection on; '': no encryption.

        Raises the same exceptions as the constructor. Mirrors ``SetEncryptKey``.
        """
        if not key:
            self._encrypt_with(None)
            return
        from .encryption import AesEncryption

        if settings is None:
            encryption = AesEncryption(key)
        else:
            encryption = AesEncryption(
                key, key_size=settings.aes_bits, rounds=settings.aes_rounds, salt=settings.aes_salt
            )
        self._encrypt_with(encryption)

    def set_encrypt_key_aes(self, key: bytes) -> None:
        """Encrypt with the 16, 24 or 32 bytes of *key*, from the next connection on.

        The encryption is AES-CTR, as with a password. ``b''``: no encryption. Raises ``ValueError``
        for any other size, ``TypeError`` if *key* is not bytes, and :class:`WebSocketsError`
        without the extra ``crypto``. Mirrors ``SetEncryptKeyAes``.
        """
        if not isinstance(key, (bytes, bytearray)):
            raise TypeError(
                f"key must be 16, 24 or 32 bytes, not {type(key).__name__};"
                " set_encrypt_key() takes a password"
            )
        if not key:
            self._encrypt_with(None)
            return
        from .encryption import AesEncryption

        self._encrypt_with(AesEncryption.of_bytes(bytes(key)))

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol for one connection, with the same options and key."""
        clone = self._new_clone()
        clone._encrypt_with(self.encryption)
        clone._guard = KeyGuard(self._guard.faults)
        clone.sequencing = self.sequencing
        return clone

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.uri,), {"options": self.options}

    def get_subprotocols(self) -> str:
        """Return both names of the protocol."""
        return "synopsebin, synopsebinary"

    def set_subprotocol(self, name: str) -> bool:
        """Accept either name; with ``synopsebinary``, requests are not numbered."""
        kind = name.lower()
        if kind not in ("synopsebin", "synopsebinary"):
            return False
        self._agree_on(name)
        self.sequencing = kind == "synopsebin"
        return True

    def process_handshake(self, extensions: Sequence[str]) -> str | None:
        """Refuse blocked addresses, and extensions (406) if frames are encrypted.

        mORMot refuses extensions too, except for its key exchange. An address is blocked for a
        while after too many messages that could not be read with the key.
        """
        if not self.encrypted:
            return ""
        return None if extensions or self._guard.faults.blocks(self.remote_ip) else ""

    def prepare_process(self, process: WebSocketProcess) -> None:
        super().prepare_process(process)
        self._max_message_bytes = process.settings.max_message_bytes
        self._process = weakref.ref(process)
        self._guard.begin(process.settings.max_key_faults_per_minute)
        self._options_guard.begin()

    # ------------------------------------------------------------------------------------- messages

    def next_head(self) -> str:
        return request_head(next(self._numbers)) if self.sequencing else REQUEST_HEAD

    def head_of(self, frame: WebSocketFrame) -> str:
        return binary_head(frame.payload) if frame.opcode is focBinary else ""

    def encode(self, message: RestRequest | RestAnswer, head: str) -> WebSocketFrame:
        stored = is_worth_storing(message.content_type, message.content)
        return WebSocketFrame(
            focBinary, encode_binary(head, message), fopAlreadyCompressed if stored else _NO_FLAGS
        )

    def decode(self, frame: WebSocketFrame) -> tuple[str, RestRequest | RestAnswer]:
        return decode_binary(frame.payload)

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Handle a message, or the messages of a jumbo frame one by one while the process runs."""
        if frame.opcode is not focBinary or not is_jumbo(frame.payload):
            super().process_incoming_frame(process, frame, info)
            return
        try:
            count = jumbo_count(frame.payload)
        except RestMessageError as exc:
            self._unreadable(process, f"invalid jumbo frame: {exc}")
            return
        self._answerer.begin_frame()
        for index, payload in enumerate(split_jumbo(frame.payload)):
            if not process.takes_messages:
                process.count_dropped(count - index)
                break
            self._handle(process, WebSocketFrame(focBinary, payload), batch_marker(index, count))
        self._answerer.end_frame(process)

    def _unreadable(self, process: WebSocketProcess, why: str) -> None:
        if self._encrypts() and process.takes_messages:
            raise self._guard.fault(self)
        super()._unreadable(process, why)

    def send_frames(self, process: WebSocketProcess, frames: Iterable[WebSocketFrame]) -> bool:
        """Send several frames as a jumbo frame, more than 65 536 as several jumbo frames."""
        frames = list(frames)
        if len(frames) < 2 or any(frame.opcode is not focBinary for frame in frames):
            return super().send_frames(process, frames)
        payloads = [frame.payload for frame in frames]
        return all(
            process.send_frame(
                WebSocketFrame(focBinary, encode_jumbo(payloads[at : at + MAX_JUMBO]))
            )
            for at in range(0, len(payloads), MAX_JUMBO)
        )

    def join_payloads(self, payloads: list[bytes]) -> bytes | None:
        return encode_jumbo(payloads)

    # ------------------------------------------------------------ compression, encryption, counters

    def before_send_frame(self, frame: WebSocketFrame) -> None:
        """Compress, then encrypt. Several threads may call it at once."""
        if frame.opcode is focBinary and frame.payload:
            if pboSynLzCompress in self.options:
                stored = fopAlreadyCompressed in frame.content or self._spares(
                    pboNoLocalHostCompress
                )
                frame.payload = algo_compress(frame.payload, stored=stored)
            if self._encrypts():
                frame.payload = self.encryption.encrypt(frame.payload)
        with self._safe_counter:
            self.frames_out_bytes_socket += len(frame.payload) + _FRAME_OVERHEAD

    def after_get_frame(self, frame: WebSocketFrame) -> None:
        """Decrypt, then decompress.

        With a key, an unreadable message ends the connection with 1008, always in the same way, so
        the peer does not learn what was wrong. Without a key, a first message that shows that only
        one side compresses ends it too; a damaged message is emptied and dropped.
        """
        received = len(frame.payload)
        self.frames_in_bytes_socket += received + _FRAME_OVERHEAD
        if frame.opcode is not focBinary:
            return
        try:
            if self._encrypts():
                frame.payload = self._guard.read(self, frame.payload, self._unpacked)
            elif received:
                if not self._options_guard.agreed:
                    compressed = pboSynLzCompress in self.options
                    self._options_guard.check(self, frame.payload, compressed)
                frame.payload = self._unpacked(frame.payload)
                if not frame.payload:
                    self._options_guard.drop(self)
        except WorkStoppedError:
            # the connection has ended in the meantime: drop the message
            frame.payload = b""
        # the received bytes were counted, but the decoded message should be
        self.counts.decoded(received, len(frame.payload))

    def _unpacked(self, payload: bytes) -> bytes:
        """Return the content of the container *payload*; b'' if a checksum is wrong."""
        if pboSynLzCompress not in self.options:
            return payload
        with LongWork(self._is_wanted) as between:
            return algo_decompress(payload, self._max_message_bytes, between)

    def _is_wanted(self) -> bool:
        """Return whether messages of the connection are still handled."""
        process = None if self._process is None else self._process()
        return process is None or process.takes_messages

    def _encrypts(self) -> bool:
        return self.encryption is not None and not self._spares(pboNoLocalHostEncrypt)

    def _spares(self, option: WebSocketProtocolBinaryOptions) -> bool:
        return self.remote_localhost and option in self.options

    @property
    def frames_in_compression(self) -> int:
        """The percentage saved by compression of received frames; mirrors ``FramesInCompression``.

        It is 100 before the first frame, and 0 if compression had no effect.
        """
        return self._ratio(self.frames_in_bytes, self.frames_in_bytes_socket)

    @property
    def frames_out_compression(self) -> int:
        """The same for sent frames; mirrors ``FramesOutCompression``."""
        return self._ratio(self.frames_out_bytes, self.frames_out_bytes_socket)

    def _ratio(self, plain: int, socket: int) -> int:
        if not plain:
            return 100
        return (
            0
            if socket >= plain or pboSynLzCompress not in self.options
            else 100 - socket * 100 // plain
        )


def new_rest_protocol(
    uri: str, key: str, ajax: bool, options: Any, settings: WebSocketProcessSettings
) -> WebSocketProtocolRest:
    """Return the protocol for ``websockets_upgrade(uri, key, ajax, options)``."""
    if ajax:
        if key:
            _log.warning("synopsejson is never encrypted: the key is ignored")
        return WebSocketProtocolJson(uri)
    return WebSocketProtocolBinary(uri, key, options, settings=settings)
