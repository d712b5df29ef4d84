"""The objects that a client has passed to its server as interfaces: their numbers, and their end.

They are held weakly, as native clients do: the server is told when nobody else refers to one. After
a reconnection the calls that have passed them are made again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

from ..core.forks import renew_in_child
from ..process.process import WebSocketProcess
from ..request import HttpServerRequest
from ..rest.protocols import WebSocketProtocolRest
from .interface import ServiceInterface, ServiceMethod, interface_of

#: calls that passed callbacks and may be made again
MOST_PASSINGS = 10_000


class PassedCallback:
    """One object of this client under one number."""

    def __init__(self, owner: PassedCallbacks, number: int, interface: ServiceInterface) -> None:
        self._owner = owner
        self.number = number
        self.interface = interface
        #: gives the object, or None
        self.object: Callable[[], Any] = lambda: None
        #: True once the server does not need it any more
        self.freed = False

    def hold(self, passed: Any) -> None:
        """Refer to *passed*: weakly, if its class allows that."""
        try:
            self.object = weakref.ref(passed, self._gone)
        except TypeError:
            self.object = lambda: passed

    def free(self) -> None:
        """Record that the server does not need it any more."""
        self.freed = True

    def _gone(self, ref: object) -> None:
        self._owner.gone(self)


class Passing:
    """A call that has passed callbacks, to be made again after a reconnection."""

    def __init__(
        self,
        method: ServiceMethod,
        args: tuple[Any, ...],
        callbacks: list[PassedCallback],
        path: str,
    ) -> None:
        self.method = method
        #: the arguments with a mark in place of callbacks
        self._args = args
        self.callbacks = callbacks
        #: the URI, which has the number of an instance
        self.path = path

    @property
    def is_needed(self) -> bool:
        """True while all its callbacks live, and the server has freed none."""
        return all(
            not callback.freed and callback.object() is not None for callback in self.callbacks
        )

    def made_again(self, callbacks: list[PassedCallback]) -> None:
        """Record the new numbers of its objects."""
        self.callbacks = callbacks

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the call with its objects."""
        args = list(self._args)
        passed = iter(self.callbacks)
        for at in self.method.parameters.callbacks:
            if args[at] is PASSED:
                args[at] = next(passed).object()
        return tuple(args)


#: stands for an object that was passed
PASSED: Any = object()


class PassedCallbacks:
    """The callbacks of one client.

    :param send: sends a request without waiting, from any thread and from finalisers: the part of
        the URI behind the root, and the content.
    """

    def __init__(self, send: Callable[[str, bytes], object]) -> None:
        self._send = send
        #: guards changes of the tables; reentrant, because a finaliser may run at any moment
        self._safe = threading.RLock()
        renew_in_child(self, "_safe", threading.RLock)
        self._numbers = count(1)
        self._callbacks: dict[int, PassedCallback] = {}
        self._passings: list[Passing] = []

    def __len__(self) -> int:
        return len(self._callbacks)

    def give(self, passed: Any, interface: type) -> PassedCallback:
        """Give *passed* a number; raise ``TypeError`` when it does not implement *interface*."""
        described = interface_of(interface)
        described.check_implementation(passed)
        callback = PassedCallback(self, next(self._numbers), described)
        callback.hold(passed)
        with self._safe:
            self._callbacks[callback.number] = callback
        return callback

    def find(self, number: int) -> tuple[ServiceInterface, Any] | None:
        """Return the interface and the object of that number."""
        callback = self._callbacks.get(number)
        found = None if callback is None else callback.object()
        return None if callback is None or found is None else (callback.interface, found)

    def freed(self, number: int) -> bool:
        """Record that the server does not need a callback any more; tell whether there is one.

        Calls to it that are under way are still executed.
        """
        callback = self._callbacks.get(number)
        if callback is None:
            return False
        callback.free()
        self._forget_passings()
        return True

    def gone(self, callback: PassedCallback) -> None:
        """Tell the server that an object is no more. Runs in any thread."""
        with self._safe:
            known = self._callbacks.pop(callback.number, None)
        if known is not None and not callback.freed:
            self.tell(callback)

    def tell(self, callback: PassedCallback) -> None:
        """Send the server that *callback* is released."""
        name = callback.interface.pascal_name
        self._send("CacheFlush/_callback_", b'{"%b":%d}' % (name.encode(), callback.number))

    def release(self, passed: object) -> bool:
        """Release all numbers of *passed*; return whether it had any."""
        with self._safe:
            mine = [one for one in list(self._callbacks.values()) if one.object() is passed]
        for callback in mine:
            self.gone(callback)
            callback.free()
        self._forget_passings()
        return bool(mine)

    # ------------------------------------------------------------------------ after a reconnection

    def remember(self, passing: Passing) -> None:
        """Keep a call for after a reconnection."""
        with self._safe:
            self._passings.append(passing)
            too_many = len(self._passings) > MOST_PASSINGS
        if too_many:
            self._forget_passings()
            with self._safe:
                del self._passings[:-MOST_PASSINGS]

    def _forget_passings(self) -> None:
        with self._safe:
            self._passings = [passing for passing in self._passings if passing.is_needed]

    def take_passings(self) -> list[Passing]:
        """Return the calls to be made again, and forget them and the old numbers."""
        with self._safe:
            passings, self._passings = self._passings, []
            needed = [passing for passing in passings if passing.is_needed]
            for passing in needed:
                for callback in passing.callbacks:
                    self._callbacks.pop(callback.number, None)
        return needed


def send_without_waiting(process: WebSocketProcess, request: HttpServerRequest) -> bool:
    """Queue *request*, which needs no answer. From any thread, and from finalisers."""
    protocol = process.protocol
    if not isinstance(protocol, WebSocketProtocolRest):
        return False
    return process.send_frame_async(protocol.input_to_frame(request, True)[0])
