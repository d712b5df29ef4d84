"""FixedAttributes and ConnectionAttributes: objects that refuse attributes that they do not have,
and say what is meant.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from ..attributes import Check, explains_keywords

#: names that are looked for on a Server and are elsewhere
SERVER_ELSEWHERE: dict[str, str] = {
    "broadcast": "send(message) sends to all, send(message, group=…) to a group",
    "emit": "send(message) or send_json(value)",
    "settings": "give them to Server(settings=…); a running one has server.server.settings",
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
    """Base of the classes of the front door, whose attributes are their ``__slots__``."""

    __slots__ = ()

    #: what to do with data of one's own
    _OWN_DATA: ClassVar[str] = "a subclass may have attributes of its own"

    #: names that others use, and what to do about them
    _ELSEWHERE: ClassVar[dict[str, str]] = {}

    #: what attributes can be
    _CHECKS: ClassVar[dict[str, Check]] = {}

    # a type checker that saw this method would allow any name
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
            """Raise ``AttributeError``, with what was meant. Called for what there is not."""
            kind = type(self)
            if inspect.getattr_static(kind, name, None) is not None:
                # a property that has raised AttributeError, or what is not set yet
                return object.__getattribute__(self, name)
            text = f"{kind.__name__} has no attribute {name!r}"
            if not name.startswith("_"):
                text = f"{text}: {self._meant(name)}"
            raise AttributeError(text, name=name, obj=self)

    def _meant(self, name: str) -> str:
        # only those who mistype a name pay for it
        from difflib import get_close_matches

        known = getattr(type(self), name, None)
        if callable(known):
            return f"it is a method, so call it: {name}(…), or use it as a decorator"
        if known is not None:
            return "it can only be read"
        if name in self._ELSEWHERE:
            return self._ELSEWHERE[name]
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        like = get_close_matches(name, public, 1)
        return f"did you mean {like[0]!r}?" if like else f"there is none; {self._OWN_DATA}"


class ConnectionAttributes:
    """Base of :class:`Connection`: what there is can only be read, and callbacks are decorators."""

    #: names that others use, and what to do about them
    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "on_connect": "on_open is called at each connection",
        "on_reconnect": "on_open is called at each connection",
        "on_disconnect": "on_close is called when a connection has ended",
        "on_websockets_closed": "on_close is called when a connection has ended",
        "on_gave_up": "on_error is told, with GaveUp",
        "auto_reconnect": "a Connection always comes back",
        "closed": "status says what it does",
        "connected": "status.connected says so, and wait_connected() waits for it",
        "emit": "send(message) or send_json(value)",
        "on": "it has on_open, on_message, on_close and on_error",
        "receive": "recv(timeout=…), or iterate over it",
        "run_forever": "it runs already: iterate over it, or recv()",
        "settings": "give them to connect(settings=…)",
    }
    _DECORATORS: ClassVar[tuple[str, ...]] = ("on_open", "on_message", "on_close", "on_error")

    # a type checker that saw these methods would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self._DECORATORS:
                raise AttributeError(
                    f"{name} is a decorator: write @ws.{name} above the function,"
                    f" or give it to connect({name}=…)"
                )
            if not name.startswith("_"):
                if name in dir(type(self)):
                    raise AttributeError(f"{name} of a Connection cannot be set")
                raise AttributeError(self._unknown(name), name=name, obj=self)
            object.__setattr__(self, name, value)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name in dir(type(self)):
                # a property that has raised AttributeError says so itself
                return object.__getattribute__(self, name)
            raise AttributeError(self._unknown(name), name=name, obj=self)

    def _unknown(self, name: str) -> str:
        # only those who mistype a name pay for it
        from difflib import get_close_matches

        text = f"Connection has no attribute {name!r}"
        if name in self._ELSEWHERE:
            return f"{text}: {self._ELSEWHERE[name]}"
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        like = get_close_matches(name, public, 1)
        return f"{text}: did you mean {like[0]!r}?" if like else text


__all__ = ["SERVER_ELSEWHERE", "ConnectionAttributes", "FixedAttributes", "explains_keywords"]
