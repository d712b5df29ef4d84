"""Pages for the browser: a test page for one's own server, and what a hand-written page of one's
own needs. No thread, no socket.

Here lives what answers ``GET /`` with a page that is complete in itself: one file, no build step,
nothing from elsewhere. It is imported by whoever wants it (``from mormot_ws.page import
answer_page``), never by the library itself; no other HTTP routing belongs in here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import lru_cache
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from .core.frames import WebSocketFrame, focText
from .process.process import WebSocketProcess
from .request import HttpServerRequest

#: a Host header that can be repeated in a policy: a name or an address, and a port
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def answer_page(ctxt: HttpServerRequest, protocol: str = "echo", uri: str = "") -> int:
    """Answer ``GET /`` with a page that tries this very server out: sends, shows echoes, latency
    and state, and reconnects.

    :param protocol: the sub-protocol that the page asks for; ``''``: none. ``/?protocol=…`` in the
        browser's address overrides it.
    :param uri: the URI that it connects to, as seen from the page; ``''``: the page's own.
        ``/?uri=…`` overrides it.

    An ``on_request`` handler as it is; with other parameters ``functools.partial(answer_page,
    protocol="chat")`` is one. Runs in the connection's thread; sets the ``out_…`` attributes and
    returns the HTTP status, as :func:`answer_html` does.
    """
    page = _packaged_page()
    for marker, value in (("{{protocol}}", protocol), ("{{uri}}", uri)):
        page = page.replace(marker, html.escape(value))
    return answer_html(ctxt, page)


def answer_html(ctxt: HttpServerRequest, page: str) -> int:
    """Answer ``GET /`` with *page*, an HTML text, and anything else with a hint; return the HTTP
    status: 200, 404 or 405.

    The browser is told to let the page run what stands inside its ``<script>`` and ``<style>``
    elements (without attributes) and to connect to its own server, and nothing else: whatever a
    message might smuggle into the page is neither run nor fetched (``Content-Security-Policy``). It
    is not kept in a cache, so that a page and its server are always of the same version.
    """
    if urlsplit(ctxt.url).path != "/":
        ctxt.out_content_type = "text/plain; charset=utf-8"
        ctxt.out_content = (
            "There is nothing here. The page is at /, and WebSocket clients connect by an "
            "upgrade.\n"
        )
        return 404
    if ctxt.method not in ("GET", "HEAD"):
        ctxt.out_content_type = "text/plain; charset=utf-8"
        ctxt.out_content = "This page can only be read.\n"
        ctxt.out_custom_headers = "Allow: GET, HEAD"
        return 405
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


def greet_page(process: WebSocketProcess) -> bool:
    """Tell the page behind *process* its connection ID, if it is a page that asks; return True when
    that was sent.

    Call it in ``on_incoming_frame`` for ``focContinuation``. A script in a browser cannot read the
    handshake's headers, where other clients find the ID, so the page of :func:`answer_page`
    connects with ``?greet=1`` in its URI, and takes the first message, if it is ``{"connection_id":
    7}``, for the answer. Clients that do not ask get nothing that they would not expect.
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


def _policy(page: str, host: str) -> str:
    """Return the ``Content-Security-Policy`` for *page* on a server that the browser knows as
    *host*.
    """
    none = "'none'"
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, source in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
        allowed[kind].append(f"'sha256-{digest}'")
    # 'self' covers ws: and wss: in recent browsers only
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
