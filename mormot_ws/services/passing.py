"""The client side of callbacks: objects passed to the server as interfaces, and their numbers.

They are held weakly, as in native clients: when an object is no longer referenced elsewhere, the
server is notified. After a reconnection the calls that passed them are repeated.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from ..process.process import WebSocketProcess
from ..request import HttpServerRequest
from ..rest.protocols import WebSocketProtocolRest
from .interface import ServiceInterface, ServiceMethod, interface_of

#: the maximum number of calls that passed callbacks and may be repeated
MOST_PASSINGS = 10_000
#: numbers that are still good for calls after the server has freed them
MOST_FREED = 1_000


class PassedCallback:
    """An object of this client, under a number."""

    def __init__(self, owner: PassedCallbacks, number: int, interface: ServiceInterface) -> None:
        self._owner = owner
        self.number = number
        self.interface = interface
        #: returns the object, or None
        self.object: Callable[[], Any] = lambda: None
        #: True when the server no longer needs it
        self.freed = False
        #: True when the server no longer knows the number, because the connection was lost
        self.lost = False

    def hold(self, passed: Any) -> None:
        """Hold *passed*, weakly if its class allows that."""
        try:
            self.object = weakref.ref(passed, self._gone)
        except TypeError:
            self.object = lambda: passed

    def free(self) -> None:
        """Record that the server no longer needs it."""
        self.freed = True

    def lose(self) -> None:
        """Record that the server no longer knows the number."""
        self.lost = True

    def _gone(self, ref: object) -> None:
        self._owner.gone(self)


class Passing:
    """A call that passed callbacks, to be repeated after a reconnection.

    :param args: the arguments of the call.
    """

    def __init__(
        self,
        method: ServiceMethod,
        args: list[Any],
        callbacks: list[PassedCallback],
        path: str,
    ) -> None:
        self.method = method
        # with a mark in place of each callback, which is not kept alive
        self._args = list(args)
        for at in method.parameters.callbacks:
            if args[at] is not None:
                self._args[at] = PASSED
        self.callbacks = callbacks
        #: the URI, which contains the number of an instance
        self.path = path
        #: the connection on which the call was made, see :func:`connection_of`; None: unknown
        self.connection: object = None

    @property
    def is_needed(self) -> bool:
        """True while all its callbacks exist and the server has released none."""
        return all(
            not callback.freed and callback.object() is not None for callback in self.callbacks
        )

    def made_again(self, callbacks: list[PassedCallback]) -> None:
        """Record the new numbers of its objects."""
        self.callbacks = callbacks

    def made_on(self, connection: object) -> None:
        """Record on which connection the call was made; None: it may be another one, too."""
        self.connection = connection

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the call, with its objects."""
        args = list(self._args)
        passed = iter(self.callbacks)
        for at in self.method.parameters.callbacks:
            if args[at] is PASSED:
                args[at] = next(passed).object()
        return tuple(args)


#: marks the place of a passed object
PASSED: Any = object()


class PassedCallbacks:
    """The callbacks of a client.

    :param send: sends a request without waiting, from any thread and finaliser; it takes the part
        of the URI after the root, and the content.
    """

    def __init__(self, send: Callable[[str, bytes], object]) -> None:
        self._send = send
        # the tables change by atomic operations, without a lock: finalisers and signal handlers
        # change them at any moment, and may free the client, whose thread changes them, too
        self._numbers = count(1)
        self._callbacks: dict[int, PassedCallback] = {}
        #: in order, by a number of their own
        self._passings: dict[int, Passing] = {}
        self._order = count(1)
        #: numbers that the server has freed, the latest ones
        self._freed: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._callbacks)

    def give(self, passed: Any, interface: type) -> PassedCallback:
        """Assign a number to *passed*; raise ``TypeError`` if it does not implement *interface*."""
        described = interface_of(interface)
        described.check_implementation(passed)
        callback = PassedCallback(self, next(self._numbers), described)
        callback.hold(passed)
        self._callbacks[callback.number] = callback
        return callback

    def find(self, number: int) -> tuple[ServiceInterface, Any] | None:
        """Return the interface and the object with that number."""
        callback = self._callbacks.get(number)
        found = None if callback is None else callback.object()
        return None if callback is None or found is None else (callback.interface, found)

    def freed(self, number: int) -> bool:
        """Record that the server no longer needs a callback; return whether there is one.

        Calls to it in flight are still executed.
        """
        callback = self._callbacks.get(number)
        if callback is None or callback.lost:
            # the object is passed again, under another number
            return False
        if not callback.freed:
            callback.free()
            self._freed.append(number)
            # an object that is passed with each call would have more and more numbers
            if len(self._freed) > MOST_FREED:
                self._callbacks.pop(self._freed.popleft(), None)
            self._forget_passings()
        return True

    def gone(self, callback: PassedCallback) -> None:
        """Notify the server that an object is gone. Runs in any thread."""
        known = self._callbacks.pop(callback.number, None)
        if known is not None and not callback.freed and not callback.lost:
            self.tell(callback)

    def tell(self, callback: PassedCallback) -> None:
        """Notify the server that *callback* is released."""
        name = callback.interface.pascal_name
        self._send("CacheFlush/_callback_", b'{"%b":%d}' % (name.encode(), callback.number))

    def release(self, passed: object) -> bool:
        """Release all numbers of *passed*; return whether there were any."""
        mine = [one for one in list(self._callbacks.values()) if one.object() is passed]
        for callback in mine:
            self.gone(callback)
            callback.free()
        self._forget_passings()
        return bool(mine)

    # ------------------------------------------------------------------------ after a reconnection

    def remember(self, passing: Passing) -> None:
        """Keep a call to repeat it after a reconnection.

        An object that was released during the call is released again: the server may not have known
        it yet.
        """
        for callback in passing.callbacks:
            if callback.freed and not callback.lost and callback.number not in self._callbacks:
                self.tell(callback)
        passings = self._passings
        passings[next(self._order)] = passing
        if len(passings) > MOST_PASSINGS:
            self._forget_passings()
            for order in list(passings)[:-MOST_PASSINGS]:
                passings.pop(order, None)

    def _forget_passings(self) -> None:
        for order in list(self._passings):
            passing = self._passings.get(order)
            if passing is not None and not passing.is_needed:
                self._passings.pop(order, None)

    def take_passings(self, connection: object) -> list[Passing]:
        """Return the calls to be repeated on *connection*; forget them.

        A call that was made on it already is kept: repeating it would pass its objects twice. The
        old numbers stay until :meth:`renewed` or :meth:`forget`, so that an object can be released
        meanwhile.
        """
        needed: list[Passing] = []
        uncertain: list[PassedCallback] = []
        for order in list(self._passings):
            passing = self._passings.get(order)
            if passing is None:
                continue
            made_here = passing.connection is not None and passing.connection is connection
            if made_here and passing.is_needed:
                continue
            self._passings.pop(order, None)
            if not passing.is_needed:
                continue
            needed.append(passing)
            for callback in passing.callbacks:
                callback.lose()
            if passing.connection is None:
                uncertain += passing.callbacks
        for callback in uncertain:
            # the server may know the old number on this connection; otherwise it ignores this
            self.tell(callback)
        return needed

    def forget(self, callbacks: list[PassedCallback]) -> None:
        """Forget numbers that the server does not know."""
        for callback in callbacks:
            self._callbacks.pop(callback.number, None)

    def renewed(self, before: list[PassedCallback], callbacks: list[PassedCallback]) -> None:
        """Forget the numbers *before* a call was repeated; its objects have those in *callbacks*.

        Objects that were released in the meantime are released again, under their new numbers.
        """
        self.forget(before)
        for old, new in zip(before, callbacks, strict=True):
            if old.freed:
                self.gone(new)
                new.free()


def connection_of(process: WebSocketProcess | None) -> object:
    """Return an object that is another one after each reconnection; None without *process*.

    If it is the same before a request and after its answer, the request was made on that
    connection.
    """
    return None if process is None else process.closer.handshake


def send_without_waiting(process: WebSocketProcess, request: HttpServerRequest) -> bool:
    """Queue *request*, which needs no answer. May be called from any thread and finaliser."""
    protocol = process.protocol
    if not isinstance(protocol, WebSocketProtocolRest):
        return False
    return process.send_frame_async(protocol.input_to_frame(request, True)[0])
