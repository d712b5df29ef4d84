"""Pages for browsers: a test page for your server, and helpers to serve your own page.

A page is one file, without a build step or external resources. It may import the client of topics
that comes with the library, :data:`TOPICS_JS`.
Import what you need (``from mormot_ws.page import answer_page``); the library itself never does.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from .core.frames import WebSocketFrame, focText
from .process.process import WebSocketProcess
from .request import HttpServerRequest

if TYPE_CHECKING:
    from .front.request import Request

#: the path at which pages find the client of topics: ``import { Topics } from …``
TOPICS_JS = "/mormot_ws/topics.js"
#: a Host header that is safe to copy into a policy: a name or an IP address, and a port
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_INLINE = re.compile(r"<(script|style)(?: type=\"module\")?>(.*?)</\1>", re.DOTALL)
_TEXT = "text/plain; charset=utf-8"


def answer_page(ctxt: HttpServerRequest, protocol: str = "echo", uri: str = "") -> int:
    """Answer ``GET /`` with a page for trying out this server.

    The page sends messages, shows echoes, latency and state, and reconnects.

    :param protocol: the sub-protocol that the page requests; ``''``: none. ``/?protocol=…`` in the
        browser's address overrides it.
    :param uri: the URI to connect to, relative to the page; ``''``: the page's own. ``/?uri=…``
        overrides it.

    Use it as an ``on_request`` handler, either directly or with other parameters as
    ``functools.partial(answer_page, protocol="chat")``. It runs in the connection's thread, sets
    the ``out_…`` attributes and returns the HTTP status, like :func:`answer_html`.
    """
    page = _packaged_page()
    for marker, value in (("{{protocol}}", protocol), ("{{uri}}", uri)):
        page = page.replace(marker, html.escape(value))
    return answer_html(ctxt, page)


def answer_html(ctxt: HttpServerRequest, page: str) -> int:
    """Answer ``GET /`` with the HTML text *page*, :data:`TOPICS_JS` as :func:`answer_topics_js`
    does, and other requests with a hint.

    Returns the HTTP status: 200, 304, 404 or 405.

    A ``Content-Security-Policy`` lets the page run the contents of its ``<script>`` and ``<style>``
    elements (without attributes, except ``type="module"``) and connect to its own server, but
    nothing else, so content injected by a message is neither executed nor fetched. A page that
    contains :data:`TOPICS_JS` may also run scripts from its own server. Browsers do not cache the
    page, so it always has the same version as its server.
    """
    path = urlsplit(ctxt.url).path
    if path == TOPICS_JS:
        return answer_topics_js(ctxt)
    if path != "/":
        ctxt.out_content_type = _TEXT
        ctxt.out_content = (
            "Nothing here. The page is at /, and WebSocket clients connect with an upgrade.\n"
        )
        return 404
    if ctxt.method not in ("GET", "HEAD"):
        return _refuse_method(ctxt)
    ctxt.out_content_type = "text/html; charset=utf-8"
    ctxt.out_content = page
    ctxt.out_custom_headers = "\r\n".join(
        (
            f"Content-Security-Policy: {_policy(page, ctxt.in_header('host'))}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Referrer-Policy: no-referrer",
        )
    )
    return 200


def answer_topics_js(ctxt: HttpServerRequest) -> int:
    """Answer ``GET /mormot_ws/topics.js`` with the client of topics, an ES module; return the HTTP
    status: 200, 304, 404 or 405.

    Call it in your ``on_request`` handler; :func:`answer_html` and :func:`answer_page` do so
    themselves. Browsers cache the file but revalidate it each time, so it always has the server's
    version.
    """
    if urlsplit(ctxt.url).path != TOPICS_JS:
        ctxt.out_content_type = _TEXT
        ctxt.out_content = f"Nothing here. The client of topics is at {TOPICS_JS}\n"
        return 404
    if ctxt.method not in ("GET", "HEAD"):
        return _refuse_method(ctxt)
    status, content, headers = _topics_js(ctxt.in_header("if-none-match"))
    ctxt.out_content = content
    ctxt.out_content_type = headers.pop("Content-Type", "")
    ctxt.out_custom_headers = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    return status


def topics_js(request: Request) -> tuple[int, bytes, dict[str, str]]:
    """Do the same for a :class:`mormot_ws.Server`: ``server.http(TOPICS_JS)(topics_js)``."""
    return _topics_js(request.headers.get("if-none-match", ""))


def greet_page(process: WebSocketProcess) -> bool:
    """Send a page its connection ID if it asks for one; return True if it was sent.

    Call it in ``on_incoming_frame`` for ``focContinuation``. Other clients find the ID in the
    headers of the 101 answer, which a script in a browser cannot read. The page of
    :func:`answer_page` therefore connects with ``?greet=1`` in its URI, and expects a first message
    of the form ``{"connection_id": 7}``. Clients that do not ask get no such message.
    """
    query = parse_qs(urlsplit(process.protocol.upgrade_uri).query)
    if query.get("greet") != ["1"]:
        return False
    return process.send_frame(
        WebSocketFrame(focText, json.dumps({"connection_id": process.connection_id}))
    )


@lru_cache(maxsize=1)
def _packaged_page() -> str:
    return files("mormot_ws").joinpath("page.html").read_text("utf-8")


@lru_cache(maxsize=1)
def _packaged_script() -> tuple[bytes, str]:
    """Return the client of topics, and its entity tag."""
    script = files("mormot_ws").joinpath("static/topics.js").read_bytes()
    return script, f'"{hashlib.sha256(script).hexdigest()[:32]}"'


def _topics_js(if_none_match: str) -> tuple[int, bytes, dict[str, str]]:
    script, tag = _packaged_script()
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    # a proxy that compresses turns it into a weak tag
    tags = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    if tag in tags or tags == ["*"]:
        return 304, b"", headers
    headers["Content-Type"] = "text/javascript; charset=utf-8"
    headers["X-Content-Type-Options"] = "nosniff"
    return 200, script, headers


def _refuse_method(ctxt: HttpServerRequest) -> int:
    ctxt.out_content_type = _TEXT
    ctxt.out_content = "This page only supports GET and HEAD.\n"
    ctxt.out_custom_headers = "Allow: GET, HEAD"
    return 405


def _policy(page: str, host: str) -> str:
    """Return the ``Content-Security-Policy`` for *page*, which the browser loads from *host*."""
    none = "'none'"
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, source in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
        allowed[kind].append(f"'sha256-{digest}'")
    if TOPICS_JS in page:
        # not its URL: behind a proxy, the Host header may differ from the browser's
        allowed["script"].append("'self'")
    # only recent browsers let 'self' include ws: and wss:
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(allowed['script']) or none}",
            f"style-src {' '.join(allowed['style']) or none}",
            f"connect-src 'self'{sockets}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
