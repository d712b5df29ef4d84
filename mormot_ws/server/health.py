"""Answers health checks of load balancers and orchestrators: 200, or 503 with the reason.

It needs no lock and calls nothing of the application, so the application cannot
delay the answer.
"""

from __future__ import annotations

from ..core.handshake import UpgradeRequest
from .http import HttpServerConnection

_ALLOW = "GET, HEAD, OPTIONS"
_PLAIN_TEXT = "text/plain; charset=utf-8"


def is_health_check(request: UpgradeRequest, path: str) -> bool:
    """Return whether *request* is for *path*, that of ``settings.health_path``; ``''``: never."""
    return bool(path) and request.path == path[1:] and not request.is_upgrade


def answer_health(http: HttpServerConnection, method: str, unready: str) -> bool:
    """Answer a health check; return True if the connection stays open.

    *unready*: why visitors should go elsewhere; '': they should not.
    """
    headers = [("Server", "mormot_ws"), ("Cache-Control", "no-store")]
    if method not in ("GET", "HEAD", "OPTIONS"):
        return http.answer(405, "", "", [*headers, ("Allow", _ALLOW)])
    if method == "OPTIONS":
        headers.append(("Allow", _ALLOW))
    if unready:
        # the balancer's next check may reach another OS process
        headers.append(("Connection", "close"))
    return http.answer(503 if unready else 200, f"{unready or 'ok'}\n", _PLAIN_TEXT, headers)
