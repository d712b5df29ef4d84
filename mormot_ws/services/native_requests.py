"""Requests of native clients other than calls: the time, sessions, the release of callbacks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from ..request import HttpServerRequest
from .authentication import time_log
from .callbacks import Callbacks
from .errors import HTTP_BADREQUEST, HTTP_FORBIDDEN, answer_content, answer_error
from .registered import RegisteredServices
from .sessions import AuthSession, Sessions, closes
from .values import dump_json, load_native_json

_TEXT_TYPE = "text/plain;charset=utf-8"
#: requests that need no session
_FREE_FOR_ALL = ("timestamp", "timestamp/info", "auth")

#: answers a request, given its root as written, its query and its session
Handler = Callable[[HttpServerRequest, str, str, "AuthSession | None"], int]


class NativeRequests:
    """Answers these requests.

    :param begun: called with each new session.
    :param name: returns the name of the server.
    """

    def __init__(
        self,
        services: RegisteredServices,
        callbacks: Callbacks,
        sessions: Sessions | None,
        begun: Callable[[AuthSession], object],
        name: Callable[[], str],
    ) -> None:
        self._services = services
        self._callbacks = callbacks
        self._sessions = sessions
        self._begun = begun
        self._name = name
        self._handlers: dict[str, tuple[str, Handler]] = {
            path.lower(): (path, handler)
            for path, handler in (
                ("timestamp", self._timestamp),
                ("timestamp/info", self._timestamp_info),
                ("auth", self._auth),
                ("stat/soa", self._services_list),
                ("CacheFlush/_callback_", self._release_callback),
                ("CacheFlush/_ping_", self._ping),
                ("CacheFlush/_replaceconn_", self._replace_connection),
            )
        }

    def handler(self, name: str, any_case: bool) -> Handler | None:
        """Return the handler for *name*, the path after the root; None: there is none."""
        if any_case:
            name = name.removesuffix("/")
        exact, handler = self._handlers.get(name.lower(), ("", None))
        if handler is None or (exact != name and not any_case):
            return None
        return None if exact == "auth" and self._sessions is None else handler

    def needs_session(self, name: str) -> bool:
        """Return whether *name* requires a session."""
        return self._sessions is not None and name.lower().removesuffix("/") not in _FREE_FOR_ALL

    def _timestamp(self, ctxt: HttpServerRequest, *unused: object) -> int:
        now = time_log(datetime.now(timezone.utc))
        return answer_content(ctxt, b"%d" % now, _TEXT_TYPE)

    def _timestamp_info(self, ctxt: HttpServerRequest, *unused: object) -> int:
        """Answer with the time in readable form."""
        now = datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None)
        told = {"nowutc": now, "timestamp": time_log(now), "server": self._name()}
        return answer_content(ctxt, dump_json(told))

    def _services_list(self, ctxt: HttpServerRequest, *unused: object) -> int:
        if ctxt.method.upper() == "POST":
            # the client's own services
            return answer_content(ctxt)
        return answer_content(ctxt, dump_json(self._services.published()))

    def _auth(
        self, ctxt: HttpServerRequest, root: str, query: str, session: AuthSession | None
    ) -> int:
        sessions = self._sessions
        assert sessions is not None
        if session is not None and closes(query, session):
            sessions.end(session)
            return answer_content(ctxt)
        begun = sessions.begin(ctxt, root, query)
        if begun is None:
            text = "authentication failed: wrong user or password, or too many sessions"
            return answer_error(ctxt, HTTP_FORBIDDEN, text)
        if isinstance(begun, str):
            return answer_content(ctxt, dump_json({"result": begun}))
        session, result = begun
        user = session.user
        cookie = sessions.cookie_of(session, root)
        self._begun(session)
        answer = {
            "result": session.id if cookie else result,
            "logonid": user.id,
            "logonname": user.logon_name,
            "logondisplay": user.display_name,
            "logongroup": user.group_rights,
            "timeout": sessions.timeout_minutes,
            "server": self._name(),
            "soa": self._services.published(),
        }
        ctxt.out_custom_headers = cookie
        return answer_content(ctxt, dump_json(answer))

    def _ping(
        self, ctxt: HttpServerRequest, root: str, query: str, session: AuthSession | None
    ) -> int:
        renewed = 0
        if session is not None:
            renewed = sum(service.instances.renew(session) for service in self._services.all())
        return answer_content(ctxt, b'{"n":%d}' % renewed)

    def _release_callback(self, ctxt: HttpServerRequest, *unused: object) -> int:
        released: list[bool | None] = []
        try:
            wanted = load_native_json(ctxt.in_content)
        except ValueError:
            wanted = None
        if isinstance(wanted, dict):
            released = [
                self._callbacks.released(ctxt.connection_id, number, name)
                for name, number in wanted.items()
            ]
        if not released or None in released:
            return answer_error(ctxt, HTTP_BADREQUEST, "unknown or released callback")
        return answer_content(ctxt, b'{"result":[]}' if any(released) else b"")

    def _replace_connection(
        self, ctxt: HttpServerRequest, root: str, query: str, session: AuthSession | None
    ) -> int:
        text = ctxt.in_content.strip(b'" \r\n')
        moved = 0
        if session is not None and text.isdigit() and len(text) < 20:
            moved = self._callbacks.replace_connection(int(text), ctxt.connection_id, session.id)
        return answer_content(ctxt, b'{"n":%d}' % moved)
