"""The REST protocols: requests and answers as frames, both ways. What a message is, is here; who
waits for it, in ``notify.py``.

``synopsejson`` is text, ``synopsebin`` and ``synopsebinary`` are binary, compressed and encrypted
if that is wanted. The bytes are those of native mORMot 2. No socket and no thread belongs in here,
and no byte of the forms themselves (``restjson.py``, ``restbinary.py``).
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from ..core.forks import renew_in_child
from ..core.frames import (
    WebSocketFrame,
    WebSocketFramePayload,
    focBinary,
    focText,
    fopAlreadyCompressed,
)
from ..errors import WebSocketsProtocolError
from ..logs import get_logger
from ..protocols.base import WebSocketProtocol
from ..request import NORESPONSE_CONTENT_TYPE, HttpServerRequest, OnHttpServerRequest, bearer_of
from ..states import (
    WebSocketProtocolBinaryOptions,
    pboNoLocalHostCompress,
    pboNoLocalHostEncrypt,
    pboSynLzCompress,
)
from .algosynlz import algo_compress, algo_decompress, is_worth_storing
from .binary_form import (
    binary_head,
    decode_binary,
    decode_jumbo,
    encode_binary,
    encode_jumbo,
    is_jumbo,
)
from .exchange import RestExchange
from .json_form import decode_json, encode_json, json_head
from .messages import (
    REQUEST_HEAD,
    RestAnswer,
    RestMessageError,
    RestRequest,
    add_header,
    answer_head_of,
    batch_marker,
    request_head,
)

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess
    from ..settings import WebSocketProcessSettings

_log = get_logger("mormot_ws.rest")

_NO_FLAGS = WebSocketFramePayload(0)
#: bytes that the native counters add to each payload for its frame
_FRAME_OVERHEAD = 2


class WebSocketProtocolRest(WebSocketProtocol):
    """Base of the protocols that carry HTTP-like requests and their answers, from either side.
    Mirrors ``TWebSocketProtocolRest``.

    A request that arrives is given to the server's ``on_request`` or the client's
    ``on_callback_request_process``, in the connection's thread, and what they leave in the context
    is sent back. An exception there is answered with 500, and logged. A request is sent by
    :meth:`WebSocketProcess.notify_callback <mormot_ws.WebSocketProcess.notify_callback>`.
    """

    #: True when requests are numbered, and answers find theirs by that; mirrors ``fSequencing``
    sequencing = False

    def prepare_process(self, process: WebSocketProcess) -> None:
        """Prepare *process* for requests of this side."""
        exchange = process.exchange
        if not isinstance(exchange, RestExchange):
            exchange = RestExchange(process, self)
            process.attach_exchange(exchange)
        exchange.begin(self)

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Answer a request, or hand an answer over to who waits for it; drop anything else. *info*
        is a header line added to a request.
        """
        if frame.opcode is not focText and frame.opcode is not focBinary:
            return  # of the beginning or the end of the connection
        head = self.head_of(frame)
        if head[:1] == "r":
            self._answer(process, frame, head, info)
        elif head and isinstance(process.exchange, RestExchange):
            process.exchange.answer_arrived(head, frame)
        else:
            _log.debug("%s: dropped, neither a request nor an answer: %r", process, frame)

    def frame_is(self, frame: WebSocketFrame, head: str) -> bool:
        """Tell whether the head of *frame* is *head*."""
        return self.head_of(frame) == head

    # ------------------------------------------------------------------------ messages of this side

    def input_to_frame(
        self, ctxt: HttpServerRequest, no_answer: bool
    ) -> tuple[WebSocketFrame, str]:
        """Return the frame that carries the request in *ctxt*, and the head that its answer will
        have. Mirrors ``InputToFrame``.
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
        """Return the frame that carries the answer in *ctxt* to the request of that *head*.
        Mirrors ``OutputToFrame``.
        """
        content = ctxt.out_content
        if isinstance(content, str):
            content = content.encode("utf-8")
        answer = RestAnswer(status, ctxt.out_custom_headers, ctxt.out_content_type, content)
        return self.encode(answer, answer_head_of(head))

    def frame_to_output(self, frame: WebSocketFrame, ctxt: HttpServerRequest) -> int:
        """Set the answer's side of *ctxt* from *frame*; return the status, 404 for a frame that is
        no answer. Mirrors ``FrameToOutput``.
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
        """Return the head of the next request of this side. From any thread."""
        return REQUEST_HEAD

    # ---------------------------------------------------------------------- to be implemented below

    @abstractmethod
    def head_of(self, frame: WebSocketFrame) -> str:
        """Return the head of the message in *frame*, '' when it is none. Cheap."""

    @abstractmethod
    def encode(self, message: RestRequest | RestAnswer, head: str) -> WebSocketFrame:
        """Return the frame that carries *message* under *head*."""

    @abstractmethod
    def decode(self, frame: WebSocketFrame) -> tuple[str, RestRequest | RestAnswer]:
        """Return (head, message) of *frame*; raise ``RestMessageError`` when it has none."""

    # ------------------------------------------------------------------------- requests of the peer

    def _answer(
        self, process: WebSocketProcess, frame: WebSocketFrame, head: str, info: str
    ) -> None:
        """In the connection's thread: let the application answer a request; send the answer."""
        try:
            _, request = self.decode(frame)
        except RestMessageError as exc:
            self.last_error: str = f"invalid request: {exc}"
            _log.info(
                "%s: an invalid request is dropped: %s", process, exc, extra=process.log_fields()
            )
            return
        assert isinstance(request, RestRequest)
        headers = add_header(request.headers, info) if info else request.headers
        ctxt, on_request = process.compute_context()
        ctxt.prepare(
            request.url,
            request.method,
            headers,
            request.content,
            request.content_type,
            process.remote_ip,
        )
        if not ctxt.auth_bearer:
            ctxt.auth_bearer = bearer_of(ctxt.in_header("authorization"))
        status = self._ask_application(process, ctxt, on_request)
        if request.no_answer or ctxt.out_content_type == NORESPONSE_CONTENT_TYPE:
            return
        if not process.send_frame(self._answer_frame(process, ctxt, status, head)):
            self.last_error = "the answer could not be sent"
            _log.info(
                "%s: the answer to %r could not be sent", process, ctxt, extra=process.log_fields()
            )

    def _ask_application(
        self,
        process: WebSocketProcess,
        ctxt: HttpServerRequest,
        on_request: OnHttpServerRequest | None,
    ) -> int:
        """Return the status of the answer, which is in *ctxt* then."""
        if on_request is None:
            _log.warning(
                "%s: nobody answers requests here: 404 for %r",
                process,
                ctxt,
                extra=process.log_fields(),
            )
            return 404
        try:
            status = on_request(ctxt)
            if not isinstance(status, int) or not 0 <= status <= 999:
                raise TypeError(f"the status has to be a number like 200, not {status!r}")
            return int(status)
        # a bug in the user's code is a 500 for this request
        except Exception as exc:  # noqa: BLE001
            _log.exception("%s: %r failed", process, ctxt)
            self.last_error = f"{type(exc).__name__}: {exc}"
            return _internal_error(ctxt)

    def _answer_frame(
        self, process: WebSocketProcess, ctxt: HttpServerRequest, status: int, head: str
    ) -> WebSocketFrame:
        try:
            return self.output_to_frame(ctxt, status, head)
        # the out_… attributes are the user's: anything may stand there
        except Exception as exc:  # noqa: BLE001
            _log.exception("%s: the answer of %r cannot be sent as it is", process, ctxt)
            self.last_error = f"{type(exc).__name__}: {exc}"
            return self.output_to_frame(ctxt, _internal_error(ctxt), head)


def _internal_error(ctxt: HttpServerRequest) -> int:
    """Make *ctxt* an answer that tells the peer nothing but that this side failed."""
    ctxt.out_content, ctxt.out_content_type, ctxt.out_custom_headers = (
        b"internal error\n",
        "text/plain",
        "",
    )
    return 500


class WebSocketProtocolJson(WebSocketProtocolRest):
    """``synopsejson``: requests as text frames that a browser can read. Mirrors
    ``TWebSocketProtocolJson``.

    Neither compressed nor encrypted by itself; use TLS. Answers carry no number, so requests that
    wait take turns on a connection.
    """

    lenient_text = True

    def __init__(self, uri: str = "") -> None:
        super().__init__("synopsejson", uri)

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol for one connection."""
        clone = type(self)(self.uri)
        self._copy_to(clone)
        return clone

    def head_of(self, frame: WebSocketFrame) -> str:
        return json_head(frame.payload) if frame.opcode is focText else ""

    def encode(self, message: RestRequest | RestAnswer, head: str) -> WebSocketFrame:
        return WebSocketFrame(focText, encode_json(message, head))

    def decode(self, frame: WebSocketFrame) -> tuple[str, RestRequest | RestAnswer]:
        return decode_json(frame.payload)


class WebSocketProtocolBinary(WebSocketProtocolRest):
    """``synopsebin`` and ``synopsebinary``: requests as binary frames. Mirrors
    ``TWebSocketProtocolBinary``.

    :param uri: the path that it is limited to; '' for any.
    :param key: a password for AES encryption, the same on both ends; '' for none. Needs the extra
        ``crypto``.
    :param options: :class:`WebSocketProtocolBinaryOptions`; the other end needs the same.
    :param settings: where ``aes_salt``, ``aes_rounds`` and ``aes_bits`` are looked up; None: the
        defaults.

    ``synopsebin``, which is preferred, numbers its requests, so several threads can wait for
    answers on one connection at once. Raises ``ValueError``/:class:`WebSocketsError` for a *key*
    that cannot be used.
    """

    prepares_in_any_order = True

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
        #: what is done to frames; mirrors ``Options``
        self.options: WebSocketProtocolBinaryOptions = binary_options(options)
        self.sequencing: bool = True
        #: bytes of frames as they went over the wire, both ways; mirror ``FramesInBytesSocket`` and
        #: ``FramesOutBytesSocket``
        self.frames_in_bytes_socket: int = 0
        self.frames_out_bytes_socket: int = 0
        #: frames whose container did not verify: dropped, as by the native ends
        self.frames_in_dropped: int = 0
        #: guards frames_out_bytes_socket: frames are prepared by several threads at once;
        #: innermost, held for moments
        self._safe_counter = threading.Lock()
        renew_in_child(self, "_safe_counter", threading.Lock)
        # next() on it is atomic. Not reset by a reconnection, as in the original: a late answer
        # then finds nobody
        self._numbers = count(1)
        self._max_message_bytes = 16 << 20
        if key:
            self.set_encrypt_key(key, settings)

    def set_encrypt_key(self, key: str, settings: WebSocketProcessSettings | None = None) -> None:
        """Encrypt with *key* from the next connection on; '' ends it. Mirrors ``SetEncryptKey``.
        Raises as the constructor does.
        """
        if not key:
            self.encryption = None
            return
        from .encryption import AesEncryption

        if settings is None:
            encryption = AesEncryption(key)
        else:
            encryption = AesEncryption(
                key, key_size=settings.aes_bits, rounds=settings.aes_rounds, salt=settings.aes_salt
            )
        self.encryption: Any = encryption

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol for one connection, with the same options and key."""
        clone = type(self)(self.uri, options=self.options)
        clone.encryption = self.encryption
        clone.sequencing = self.sequencing
        self._copy_to(clone)
        return clone

    def get_subprotocols(self) -> str:
        """Return both names that it answers to."""
        return "synopsebin, synopsebinary"

    def set_subprotocol(self, name: str) -> bool:
        """Accept either name; with ``synopsebinary`` requests are not numbered."""
        kind = name.lower()
        if kind not in ("synopsebin", "synopsebinary"):
            return False
        self.name = name
        self.sequencing = kind == "synopsebin"
        return True

    def process_handshake(self, extensions: Sequence[str]) -> str | None:
        """Refuse extensions (406) when the frames are encrypted, as the original does: it knows no
        other than its key exchange.
        """
        return None if self.encrypted and extensions else ""

    def prepare_process(self, process: WebSocketProcess) -> None:
        super().prepare_process(process)
        self._max_message_bytes = process.settings.max_message_bytes

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
        """Also take jumbo frames apart: their messages are handled one after the other."""
        if frame.opcode is not focBinary or not is_jumbo(frame.payload):
            super().process_incoming_frame(process, frame, info)
            return
        try:
            payloads = decode_jumbo(frame.payload)
        except RestMessageError as exc:
            _log.info(
                "%s: an invalid jumbo frame is dropped: %s",
                process,
                exc,
                extra=process.log_fields(),
            )
            return
        for index, payload in enumerate(payloads):
            marker = batch_marker(index, len(payloads))
            super().process_incoming_frame(process, WebSocketFrame(focBinary, payload), marker)

    def send_frames(self, process: WebSocketProcess, frames: Iterable[WebSocketFrame]) -> bool:
        """Send several frames as one jumbo frame; a single one as it is."""
        frames = list(frames)
        if len(frames) < 2 or any(frame.opcode is not focBinary for frame in frames):
            return super().send_frames(process, frames)
        return process.send_frame(
            WebSocketFrame(focBinary, encode_jumbo([frame.payload for frame in frames]))
        )

    def join_payloads(self, payloads: list[bytes]) -> bytes | None:
        return encode_jumbo(payloads)

    # ------------------------------------------------------------ compression, encryption, counters

    def before_send_frame(self, frame: WebSocketFrame) -> None:
        """Compress, then encrypt. From any thread, several at once."""
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
        """Decrypt, then decompress; a frame that does not decrypt ends the connection, one that
        does not verify is emptied.
        """
        received = len(frame.payload)
        self.frames_in_bytes_socket += received + _FRAME_OVERHEAD
        if frame.opcode is not focBinary or not received:
            return
        if self._encrypts():
            try:
                frame.payload = self.encryption.decrypt(frame.payload)
            except WebSocketsProtocolError as exc:
                self.last_error: str = (
                    f"{exc.reason} (is the key, are the options the same on both ends?)"
                )
                raise
        if pboSynLzCompress in self.options:
            frame.payload = algo_decompress(frame.payload, self._max_message_bytes)
            if not frame.payload:
                self.last_error = (
                    "a message is dropped: its SynLZ container does not verify (are the options "
                    "the same on both ends?)"
                )
                _log.log(
                    logging.DEBUG if self.frames_in_dropped else logging.WARNING,
                    "%r: %s",
                    self,
                    self.last_error,
                )
                self.frames_in_dropped += 1
        # counted as it arrived; what counts is the message
        self.counts.bytes_in += len(frame.payload) - received

    def _encrypts(self) -> bool:
        return self.encryption is not None and not self._spares(pboNoLocalHostEncrypt)

    def _spares(self, option: WebSocketProtocolBinaryOptions) -> bool:
        return self.remote_localhost and option in self.options

    @property
    def frames_in_compression(self) -> int:
        """By how many percent what arrived was compressed; 100 before any frame, 0 without effect.
        Mirrors ``FramesInCompression``.
        """
        return self._ratio(self.frames_in_bytes, self.frames_in_bytes_socket)

    @property
    def frames_out_compression(self) -> int:
        """The same for what was sent; mirrors ``FramesOutCompression``."""
        return self._ratio(self.frames_out_bytes, self.frames_out_bytes_socket)

    def _ratio(self, plain: int, socket: int) -> int:
        if not plain:
            return 100
        return (
            0
            if socket >= plain or pboSynLzCompress not in self.options
            else 100 - socket * 100 // plain
        )


def binary_options(options: Any) -> WebSocketProtocolBinaryOptions:
    """Return *options*, a flag or any collection of flags (an empty one for none), as one flag;
    raise ``TypeError`` for anything else.
    """
    if isinstance(options, WebSocketProtocolBinaryOptions):
        return options
    result = WebSocketProtocolBinaryOptions(0)
    try:
        for option in options:
            result |= option
    except TypeError:
        raise TypeError(
            f"options is a WebSocketProtocolBinaryOptions or a set of them, not {options!r}"
        ) from None
    return result


def new_rest_protocol(
    uri: str, key: str, ajax: bool, options: Any, settings: WebSocketProcessSettings
) -> WebSocketProtocolRest:
    """Return the protocol that ``websockets_upgrade(uri, key, ajax, options)`` asks for."""
    if ajax:
        if key:
            _log.warning("synopsejson is never encrypted: the key is not used")
        return WebSocketProtocolJson(uri)
    return WebSocketProtocolBinary(uri, key, options, settings=settings)
