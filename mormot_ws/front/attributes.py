"""FixedAttributes and ConnectionAttributes: objects that reject unknown attributes and suggest the
one that was meant.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from ..attributes import Check, explains_keywords

#: names that users look for on a Server but that are elsewhere
SERVER_ELSEWHERE: dict[str, str] = {
    "broadcast": "use send(message) for all, send(message, group=…) for a group",
    "emit": "use send(message) or send_json(value)",
    "settings": "pass them to Server(settings=…); a running server has server.server.settings",
    "stop": "close()",
    "shutdown": "close()",
    "free": "close()",
    "event": "use on_message for messages, or method for calls",
    "on": "it has on_open, on_message and on_close",
    "on_connect": "use on_open",
    "on_disconnect": "use on_close",
    "route": "use on_message for WebSockets, or http(path) for plain requests",
    "serve_forever": "run()",
}


class FixedAttributes:
    """Base class of the front door's classes, whose attributes are their ``__slots__``."""

    __slots__ = ()

    #: where to keep application data
    _OWN_DATA: ClassVar[str] = "a subclass may have attributes of its own"

    #: names that other libraries use, with a hint for each
    _ELSEWHERE: ClassVar[dict[str, str]] = {}

    #: the checks of attributes
    _CHECKS: ClassVar[dict[str, Check]] = {}

    # if a type checker saw this method, it would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            check = self._CHECKS.get(name)
            if check is not None:
                check(name, value)
            try:
                object.__setattr__(self, name, value)
            except AttributeError:
                raise AttributeError(
                    f"{type(self).__name__}.{name} cannot be set: {self._meant(name)}",
                    name=name,
                    obj=self,
                ) from None

        def __getattr__(self, name: str) -> Any:
            """Raise ``AttributeError`` with a suggestion. Called only for missing attributes."""
            kind = type(self)
            if inspect.getattr_static(kind, name, None) is not None:
                # a property raised AttributeError, or the attribute is not set yet
                return object.__getattribute__(self, name)
            text = f"{kind.__name__} has no attribute {name!r}"
            if not name.startswith("_"):
                text = f"{text}: {self._meant(name)}"
            raise AttributeError(text, name=name, obj=self)

    def _meant(self, name: str) -> str:
        # only needed after a mistyped name
        from difflib import get_close_matches

        known = getattr(type(self), name, None)
        if callable(known):
            return f"it is a method, so call it: {name}(…), or use it as a decorator"
        if known is not None:
            return "it is read-only"
        if name in self._ELSEWHERE:
            return self._ELSEWHERE[name]
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        like = get_close_matches(name, public, 1)
        return f"did you mean {like[0]!r}?" if like else f"it does not exist; {self._OWN_DATA}"


class ConnectionAttributes:
    """Base class of :class:`Connection`: attributes are read-only, callbacks are decorators."""

    #: names that other libraries use, with a hint for each
    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "on_connect": "on_open is called for each new connection",
        "on_reconnect": "on_open is called for each new connection",
        "on_disconnect": "on_close is called when a connection has ended",
        "on_websockets_closed": "on_close is called when a connection has ended",
        "on_gave_up": "on_error is called with GaveUp",
        "auto_reconnect": "a Connection always reconnects",
        "closed": "status shows its state",
        "connected": "see status.connected, or wait with wait_connected()",
        "emit": "use send(message) or send_json(value)",
        "on": "it has on_open, on_message, on_close and on_error",
        "receive": "use recv(timeout=…), or iterate over it",
        "run_forever": "it is already running: iterate over it, or call recv()",
        "settings": "pass them to connect(settings=…)",
    }
    _DECORATORS: ClassVar[tuple[str, ...]] = ("on_open", "on_message", "on_close", "on_error")

    # if a type checker saw these methods, it would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self._DECORATORS:
                raise AttributeError(
                    f"{name} is a decorator: write @ws.{name} above the function,"
                    f" or pass it to connect({name}=…)"
                )
            if not name.startswith("_"):
                if name in dir(type(self)):
                    raise AttributeError(f"{name} of a Connection cannot be set")
                raise AttributeError(self._unknown(name), name=name, obj=self)
            object.__setattr__(self, name, value)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name in dir(type(self)):
                # a property that raised AttributeError raises its own error again
                return object.__getattribute__(self, name)
            raise AttributeError(self._unknown(name), name=name, obj=self)

    def _unknown(self, name: str) -> str:
        # only needed after a mistyped name
        from difflib import get_close_matches

        text = f"Connection has no attribute {name!r}"
        if name in self._ELSEWHERE:
            return f"{text}: {self._ELSEWHERE[name]}"
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        like = get_close_matches(name, public, 1)
        return f"{text}: did you mean {like[0]!r}?" if like else text


__all__ = ["SERVER_ELSEWHERE", "ConnectionAttributes", "FixedAttributes", "explains_keywords"]
