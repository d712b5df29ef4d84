"""Answers the peer's requests: calls the application, and sends its answer back.

Answers to our own requests are handled in ``exchange.py``. Whatever the application does, the peer
gets an answer, and failures are logged. All of this runs in the connection's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.frames import WebSocketFrame
from ..logs import get_logger
from ..process.dispatcher import raise_in_main
from ..request import NORESPONSE_CONTENT_TYPE, HttpServerRequest, OnHttpServerRequest, bearer_of
from .messages import RestRequest, add_header

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess
    from .protocols import WebSocketProtocolRest

_log = get_logger("mormot_ws.rest")


class Answerer:
    """Answers requests for *protocol*.

    Errors of a peer are logged once per connection. Failures of the application are all logged; in
    a jumbo frame, only the first one and the number of the others.
    """

    def __init__(self, protocol: WebSocketProtocolRest) -> None:
        self._protocol = protocol
        self._told: set[str] = set()
        self._failures = 0

    def begin(self) -> None:
        """Prepare for a new connection."""
        self._told.clear()

    def is_first(self, kind: str) -> bool:
        """Return whether this is the connection's first log record of that *kind*.

        Later ones are omitted.
        """
        if kind in self._told:
            return False
        self._told.add(kind)
        return True

    def begin_frame(self) -> None:
        """Begin a frame with one or many messages."""
        self._failures = 0

    def end_frame(self, process: WebSocketProcess) -> None:
        """End a frame, and log the number of omitted failures."""
        if self._failures > 1:
            text = "%s: %d more requests of the same frame failed"
            _log.error(text, process, self._failures - 1, extra=process.log_fields())

    def answer(self, process: WebSocketProcess, request: RestRequest, head: str, info: str) -> None:
        """Let the application answer *request*, and send its answer under *head*.

        *info* is a header line to add to the request.
        """
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
        if not self._send(process, ctxt, status, head):
            self._protocol.note_error("the answer could not be sent")
            if self.is_first("not sent"):
                text = "%s: the answer to %r could not be sent"
                _log.info(text, process, ctxt, extra=process.log_fields())

    def _ask_application(
        self,
        process: WebSocketProcess,
        ctxt: HttpServerRequest,
        on_request: OnHttpServerRequest | None,
    ) -> int:
        """Let the application put its answer into *ctxt*; return the status."""
        if on_request is None:
            if self.is_first("nobody"):
                text = "%s: no callback answers requests here: 404 for %r"
                _log.warning(text, process, ctxt, extra=process.log_fields())
            return 404
        try:
            status = on_request(ctxt)
            if type(status) is bool or not isinstance(status, int) or not 0 <= status <= 999:
                raise TypeError(f"the status must be a number like 200, not {status!r}")
            return int(status)
        except BaseException as exc:  # noqa: BLE001
            # after a bug or sys.exit() in the user's code, this request gets a 500
            self._failed(process, exc, "%s: %r failed", ctxt)
            return _internal_error(ctxt)

    def _send(
        self, process: WebSocketProcess, ctxt: HttpServerRequest, status: int, head: str
    ) -> bool:
        """Send the answer in *ctxt*; return False if that fails."""
        frame: WebSocketFrame
        try:
            frame = self._protocol.output_to_frame(ctxt, status, head)
            return process.send_frame(frame)
        except BaseException as exc:  # noqa: BLE001
            # the user sets the out_… attributes and may have overridden before_send_frame
            self._failed(process, exc, "%s: the answer to %r cannot be sent as it is", ctxt)
        frame = self._protocol.output_to_frame(ctxt, _internal_error(ctxt), head)
        return process.send_frame(frame)

    def _failed(
        self, process: WebSocketProcess, exc: BaseException, text: str, ctxt: HttpServerRequest
    ) -> None:
        raise_in_main(process, exc)
        self._failures += 1
        if self._failures == 1:
            _log.exception(text, process, ctxt, extra=process.log_fields())
        self._protocol.note_error(f"{type(exc).__name__}: {exc}")


def _internal_error(ctxt: HttpServerRequest) -> int:
    """Make *ctxt* an answer that reports only an internal error to the peer."""
    ctxt.out_content, ctxt.out_content_type, ctxt.out_custom_headers = (
        b"internal error\n",
        "text/plain",
        "",
    )
    return 500
