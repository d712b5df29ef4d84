"""The server side of callbacks: objects that clients passed as interfaces.

The client assigns each object a number, for which the server has a proxy. When the proxy is no
longer referenced, the client is notified; when the client or its connection is gone, the service is
notified.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..core.forks import renew_in_child
from ..errors import ServiceConnectionError
from ..logs import get_logger
from ..process.process import WebSocketProcess
from ..request import HTTP_CLIENTERROR, HttpServerRequest
from ..rest.exchange import RestExchange
from ..rest.protocols import WebSocketProtocolRest
from .guarded import guarded
from .interface import CALLBACK_RELEASED, ServiceInterface, ServiceMethod, call_of, proxy_of

_log = get_logger("mormot_ws.services")

#: the maximum number of callbacks of a connection
MOST_CALLBACKS = 10_000
#: seconds between two searches for callbacks whose connections were never upgraded; also the
#: seconds that an upgrade may take
_LOOK_SECONDS, _UPGRADE_SECONDS = 5, 60
#: the largest number of a callback
_MOST_NUMBER = (1 << 31) - 1

#: calls a method on the client of a process, with a suffix for the URI
CallBack = Callable[[WebSocketProcess, ServiceMethod, str, tuple[Any, ...], dict[str, Any]], Any]


class Callback:
    """An object of a client."""

    def __init__(
        self,
        owner: Callbacks,
        connection_id: int,
        number: int,
        interface: ServiceInterface,
        session_id: int,
    ) -> None:
        self._owner = owner
        #: changes when the client has reconnected and passes its callbacks on the new connection
        self.connection_id = connection_id
        self.number = number
        self.interface = interface
        self.session_id = session_id
        self.passed_at = time.monotonic()
        #: a weak reference to the proxy
        self.proxy: Callable[[], Any] = _nobody
        #: the service to which it was passed
        self.service: Callable[[], Any] = _nobody
        # empty if the client is no longer called
        self._live = [True]

    @property
    def released(self) -> bool:
        """True if the client is no longer called."""
        return not self._live

    def call(self, method: ServiceMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the client's object."""
        return self._owner.call(self, method, args, kwargs)

    def stand_for(self, proxy: object) -> None:
        """Be called by *proxy*, as long as it is referenced."""
        self.proxy = weakref.ref(proxy, self.unreferenced)

    def end(self) -> bool:
        """Stop calling the client; return False if that was already done."""
        try:
            # a single step, so that the end is reported once
            return self._live.pop()
        except IndexError:
            return False

    def move_to(self, connection_id: int) -> None:
        """Call the client over another connection."""
        self.connection_id = connection_id

    def serve(self, service: object) -> None:
        """Notify *service* when the client releases the callback."""
        try:
            self.service = weakref.ref(service)
        except TypeError:
            text = "a %s cannot be notified of released callbacks: its class lacks __weakref__"
            _log.debug(text, type(service).__name__)

    def unreferenced(self, ref: object) -> None:
        """Handle the end of the proxy. Runs in any thread, at any moment."""
        self._owner.unreferenced(self)


def _nobody() -> None:
    return None


def callback_of(proxy: object) -> Callback | None:
    """Return the callback that *proxy* calls; None for any other object."""
    owner = getattr(call_of(proxy), "__self__", None)
    return owner if isinstance(owner, Callback) else None


class Callbacks:
    """The callbacks of all connections of a server.

    :param find: returns the process of a connection, or None.
    :param call: see :data:`CallBack`.
    :param root: returns the root of the URIs.
    :param passed: called when a callback was passed by plain HTTP, which expires if its connection
        is not upgraded.
    """

    def __init__(
        self,
        find: Callable[[int], WebSocketProcess | None],
        call: CallBack,
        root: Callable[[], str],
        passed: Callable[[], object] = lambda: None,
    ) -> None:
        self._find = find
        self._call = call
        self._root = root
        self._passed = passed
        #: guards changes of the table; reentrant, because a finaliser may change it at any moment
        self._safe = threading.RLock()
        renew_in_child(self, "_safe", threading.RLock)
        self._callbacks: dict[int, dict[int, Callback]] = {}
        self._next_look = 0.0
        #: connections on which a callback was passed by plain HTTP
        self._plain: set[int] = set()
        #: connections whose end is reported to us
        self._watched: weakref.WeakSet[RestExchange] = weakref.WeakSet()

    def __len__(self) -> int:
        return sum(map(len, list(self._callbacks.values())))

    # ------------------------------------------------------------------------- passed by a client

    def receive(
        self, connection_id: int, number: int, interface: ServiceInterface, session_id: int
    ) -> Any:
        """Return the proxy of the object to which a client assigned that *number*.

        Raises ``ValueError`` for an invalid number, or if there are too many.
        """
        if not 0 < number <= _MOST_NUMBER:
            raise ValueError("the number of a callback must be positive")
        process = self._find(connection_id)
        if process is None:
            # by plain HTTP, just before the upgrade: clean up what others left behind
            self._forget_lost()
        else:
            self._watch(process)
        mine = self._callbacks.get(connection_id, {})
        known = mine.get(number)
        if known is not None and known.interface is interface:
            proxy = known.proxy()
            if proxy is not None:
                return proxy
        if len(mine) >= MOST_CALLBACKS:
            raise ValueError(f"a connection may have at most {MOST_CALLBACKS} callbacks")
        if process is None and self._without_upgrade() >= MOST_CALLBACKS:
            raise ValueError("too many callbacks wait for the upgrades of their connections")
        callback = Callback(self, connection_id, number, interface, session_id)
        proxy = proxy_of(interface, callback.call)
        callback.stand_for(proxy)
        with self._safe:
            self._callbacks.setdefault(connection_id, {})[number] = callback
        if process is None:
            self._plain.add(connection_id)
            self._passed()
        return proxy

    def _without_upgrade(self) -> int:
        """Return the number of callbacks on connections that are not WebSocket connections yet.

        They were passed by plain HTTP, and any client could create many of them.
        """
        count = 0
        for connection_id in list(self._plain):
            mine = self._callbacks.get(connection_id)
            if mine is None or self._find(connection_id) is not None:
                self._plain.discard(connection_id)
            else:
                count += len(mine)
        return count

    def _watch(self, process: WebSocketProcess) -> None:
        exchange = process.exchange
        if isinstance(exchange, RestExchange) and exchange not in self._watched:
            self._watched.add(exchange)
            exchange.watchers.append(self._connection_changed)

    def _connection_changed(self, process: WebSocketProcess, begins: bool) -> None:
        if not begins:
            self.connection_ended(process.connection_id)
            self._forget_lost()

    # -------------------------------------------------------------------------------------- calls

    def call(
        self,
        callback: Callback,
        method: ServiceMethod,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a method of a client's object; raise what methods of proxies raise."""
        process = self._find(callback.connection_id)
        if process is None or callback.released:
            why = "has released it" if callback.released else "is no longer connected"
            raise ServiceConnectionError(
                f"{method.title}(): the client that passed the callback {why}",
                HTTP_CLIENTERROR,
                maybe_executed=False,
            )
        self._watch(process)
        return self._call(process, method, f"/{callback.number}", args, kwargs)

    # ----------------------------------------------------------------------------------- releases

    def unreferenced(self, callback: Callback) -> None:
        """Notify the client that its object is no longer needed."""
        if not self._drop(callback):
            return
        process = self._find(callback.connection_id)
        if process is not None and isinstance(process.protocol, WebSocketProtocolRest):
            url = f"{self._root()}/_free_/{callback.number}"
            request = HttpServerRequest(url, "POST", "", b"[]", "application/json")
            process.send_frame_async(process.protocol.input_to_frame(request, True)[0])

    def _drop(self, callback: Callback) -> bool:
        """End *callback*; return False if that was already done."""
        if not callback.end():
            return False
        tables, number = self._callbacks, callback.number
        # no call is made under the lock, so that no signal handler runs meanwhile: it may free the
        # server, and wait for connections that need the lock
        with self._safe:
            connection_id = callback.connection_id
            if connection_id in tables:
                mine = tables[connection_id]
                if number in mine and mine[number] is callback:
                    # keep an empty table: a finaliser may run while another thread is filling it
                    del mine[number]
        return True

    def released(self, connection_id: int, number: object, name: str) -> bool | None:
        """Release a callback at the request of its client.

        Returns whether its service was notified; None if there is no such callback.
        """
        mine = self._callbacks.get(connection_id, {})
        callback = mine.get(number) if type(number) is int else None
        if callback is None or callback.interface.pascal_name.lower() != name.lower():
            return None
        return self._release(callback)

    def _release(self, callback: Callback) -> bool:
        proxy = callback.proxy()
        if not self._drop(callback):
            return False
        service = callback.service()
        told = getattr(service, CALLBACK_RELEASED, None)
        if proxy is None or not callable(told):
            return False
        # the callback is gone, whatever the application does
        what = f"{CALLBACK_RELEASED}() of a {type(service).__name__}"
        guarded(what, told, proxy, callback.interface.pascal_name)
        return True

    def connection_ended(self, connection_id: int) -> None:
        """Release the callbacks of a connection that has ended. Called in its thread."""
        for callback in list(self._callbacks.get(connection_id, {}).values()):
            self._release(callback)
        with self._safe:
            self._callbacks.pop(connection_id, None)

    def _forget_lost(self) -> None:
        """Forget callbacks passed by plain HTTP on connections that were never upgraded."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        self.free_expired()

    def _lost(self) -> list[tuple[int, float]]:
        """Return the connections that are not WebSocket connections.

        Each comes with the time when its last callback was passed.
        """
        return [
            (connection_id, max((one.passed_at for one in list(mine.values())), default=0.0))
            for connection_id, mine in list(self._callbacks.items())
            if self._find(connection_id) is None
        ]

    def next_due(self) -> float | None:
        """Return when the next connection without an upgrade expires (monotonic clock), or None."""
        passed = min((passed_at for _, passed_at in self._lost()), default=None)
        return None if passed is None else passed + _UPGRADE_SECONDS

    def has_expired(self) -> bool:
        """Return whether such a connection has expired."""
        now = time.monotonic()
        return any(now - passed_at > _UPGRADE_SECONDS for _, passed_at in self._lost())

    def free_expired(self) -> None:
        """Release the callbacks of connections that were never upgraded."""
        now = time.monotonic()
        for connection_id, passed_at in self._lost():
            if now - passed_at > _UPGRADE_SECONDS:
                self.connection_ended(connection_id)

    def replace_connection(self, before: int, after: int, session_id: int) -> int:
        """Move the callbacks of a session's connection to another one; return how many."""
        process = self._find(after)
        if process is None or before == after:
            return 0
        self._watch(process)
        with self._safe:
            mine = self._callbacks.get(before, {})
            moved = [one for one in list(mine.values()) if one.session_id == session_id]
            theirs = self._callbacks.setdefault(after, {})
            for callback in moved:
                # a finaliser may end it at any moment, and then tells the new connection
                callback.move_to(after)
                theirs[callback.number] = callback
                mine.pop(callback.number, None)
                if callback.released:
                    theirs.pop(callback.number, None)
        return len(moved)
