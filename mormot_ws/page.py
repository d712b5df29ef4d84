"""Pages for browsers: a test page for your server, and helpers to serve a page of your own.

A page is one self-contained file: there is no build step, and nothing is loaded from elsewhere.
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
from urllib.parse import parse_qs, urlsplit

from .core.frames import WebSocketFrame, focText
from .process.process import WebSocketProcess
from .request import HttpServerRequest

#: a Host header that can be copied into a policy: a name or an IP address, and a port
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def answer_page(ctxt: HttpServerRequest, protocol: str = "echo", uri: str = "") -> int:
    """Answer ``GET /`` with a page for trying out this server.

    The page sends messages, shows echoes, latency and state, and reconnects.

    :param protocol: the sub-protocol that the page asks for; ``''``: none. ``/?protocol=…`` in the
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
    """Answer ``GET /`` with the HTML text *page*, and other requests with a hint.

    Returns the HTTP status: 200, 404 or 405.

    A ``Content-Security-Policy`` allows the page to run the contents of its ``<script>`` and
    ``<style>`` elements (without attributes), and to connect to its own server, but nothing else:
    what a message might inject into the page is neither run nor fetched. Browsers do not cache the
    page, so it always has the same version as its server.
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
    """Send a page its connection ID, if it asks for one; return True when it was sent.

    Call it in ``on_incoming_frame`` for ``focContinuation``. Other clients find the ID in the
    headers of the answer 101, which a script in a browser cannot read. So the page of
    :func:`answer_page` connects with ``?greet=1`` in its URI, and takes a first message of the form
    ``{"connection_id": 7}`` as the answer. Clients that do not ask get no such message.
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
    """Return the ``Content-Security-Policy`` for *page*, which the browser loads from *host*."""
    none = "'none'"
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, source in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
        allowed[kind].append(f"'sha256-{digest}'")
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
