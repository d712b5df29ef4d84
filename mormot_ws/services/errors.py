"""Errors of calls: as an answer, and as the exception that the caller gets."""

from __future__ import annotations

from ..errors import ServiceConnectionError, ServiceError, ServiceTimeoutError
from ..logs import escaped
from ..request import HTTP_CLIENTERROR, HttpServerRequest
from .parameters import JSON_TYPE
from .values import dump_json, load_native_json

#: the statuses of errors before the service is called, as in mORMot
HTTP_BADREQUEST = 400
HTTP_FORBIDDEN = 403
HTTP_NOTFOUND = 404
HTTP_NOTALLOWED = 405
HTTP_NOTACCEPTABLE = 406
HTTP_UNAVAILABLE = 503

#: the maximum length of a peer's text in answers, errors and log records, in characters
MOST_TEXT = 2_000


class CallRefused(Exception):
    """Raised for a call that does not reach the application, with the answer for the caller."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def shortened(text: str) -> str:
    """Return *text*, shortened to a bounded number of characters."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"


def _message(exc: BaseException) -> str:
    """Return the text of *exc*, whose ``__str__`` may be the application's and may fail."""
    try:
        return shortened(str(exc))
    except Exception:  # noqa: BLE001
        return ""


def answer_error(ctxt: HttpServerRequest, status: int, text: str) -> int:
    """Make *ctxt* an error in mORMot's form; return *status*."""
    ctxt.out_content = dump_json({"errorCode": status, "errorText": text})
    ctxt.out_content_type = JSON_TYPE
    ctxt.out_custom_headers = ""
    return status


def answer_content(ctxt: HttpServerRequest, content: bytes = b"", kind: str = JSON_TYPE) -> int:
    """Make *ctxt* an answer with *content*; return 200."""
    ctxt.out_content = content
    ctxt.out_content_type = kind if content else ""
    return 200


def answer_failure(ctxt: HttpServerRequest, text: str, hide: bool) -> int:
    """Answer 500, with *text* unless *hide*."""
    return answer_error(ctxt, 500, "internal error" if hide else text)


def answer_raised(ctxt: HttpServerRequest, exc: BaseException, hide: bool, callback: bool) -> int:
    """Answer an exception of the application with 500, or like a native *callback*."""
    name, text = type(exc).__name__, _message(exc)
    if not callback:
        return answer_failure(ctxt, f"{name}: {text}" if text else name, hide)
    if hide:
        name, text = "Exception", "internal error"
    return answer_callback_failed(ctxt, name, text)


def answer_callback_failed(ctxt: HttpServerRequest, name: str, text: str) -> int:
    """Answer like a native client whose callback failed with the exception *name*; return 666.

    Native clients answer this way to parameters that they cannot read, too.
    """
    ctxt.out_content = dump_json({"ClassName": name, "Message": text})
    ctxt.out_content_type = JSON_TYPE
    return HTTP_CLIENTERROR


def check_answered(request: HttpServerRequest, status: int, title: str) -> None:
    """Raise if *request*, the call *title*, has no answer."""
    if request.out_error:
        sent = status != HTTP_CLIENTERROR
        kind = ServiceTimeoutError if request.out_timed_out else ServiceConnectionError
        raise kind(f"{title}(): {request.out_error}", status, maybe_executed=sent)


def error_of(content: bytes, status: int) -> ServiceError:
    """Return the exception for an error answer."""
    text = _error_text(content)
    error = ServiceError(escaped(text), status)
    error.text = text
    return error


def _error_text(content: bytes) -> str:
    """Return the text of an error answer, in a bounded number of characters."""
    text: object = None
    try:
        answer = load_native_json(content)
    except ValueError:
        answer = None
    if isinstance(answer, str):
        # synopsejson turns an empty body into ""
        text = answer
    elif isinstance(answer, dict):
        text = answer.get("errorText", answer.get("Message"))
        raised = answer.get("error")
        if text is None and isinstance(raised, dict) and len(raised) == 1:
            ((name, details),) = raised.items()
            if isinstance(details, dict) and isinstance(details.get("Message"), str):
                text = f"{name}: {details['Message']}"
    if not isinstance(text, str):
        # not in our form: return it unchanged
        text = content[: 4 * MOST_TEXT].decode("utf-8", "replace").strip()
    return shortened(text) or "no reason given"
