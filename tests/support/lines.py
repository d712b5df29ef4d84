"""Interrupting a call at each of its lines, as a finaliser may, or behind each call that it makes,
where signal handlers run.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any, TypeVar

_Place = TypeVar("_Place", bound="Line")


class Line:
    """The line of some modules' code that is run as the *number*-th, in the calling thread."""

    def __init__(self, number: int, modules: tuple[ModuleType, ...]) -> None:
        self.number = number
        self._files = {module.__file__ for module in modules}
        #: whether the line was reached
        self.reached = False
        self._passed = 0

    @contextlib.contextmanager
    def interrupted_by(self, action: Callable[[], object]) -> Iterator[None]:
        """Call *action* before the line, once; its own lines do not count."""

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            if frame.f_code.co_filename not in self._files:
                return None
            if event == "line":
                self._pass(action)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _pass(self, action: Callable[[], object]) -> None:
        self._passed += 1
        if self._passed == self.number + 1:
            self.reached = True
            action()


class Interrupted(BaseException):
    """What :meth:`CallMade.raises` raises."""


class CallMade(Line):
    """The beginning or end of a call in some modules' code that comes as the *number*-th.

    Python runs signal handlers there. What they raise comes out of the call, which is not so with
    a line.
    """

    _events = frozenset({"call", "return", "c_return"})

    @contextlib.contextmanager
    def interrupted_by(self, action: Callable[[], object]) -> Iterator[None]:
        """Call *action* there, once; it may raise."""

        def profile(frame: FrameType, event: str, arg: object) -> None:
            if frame.f_code.co_filename in self._files and event in self._events:
                self._pass(action)

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(before)

    @contextlib.contextmanager
    def raises(self) -> Iterator[None]:
        """Raise there, once; end quietly."""

        def interrupt() -> None:
            sys.setprofile(None)
            raise Interrupted

        with contextlib.suppress(Interrupted), self.interrupted_by(interrupt):
            yield


class CallEnded(CallMade):
    """The end of such a call."""

    _events = frozenset({"return", "c_return"})


def each_line(*modules: ModuleType) -> Iterator[Line]:
    """Give the lines of the *modules* that a test's call runs, one for each round of the test, and
    at last one that it does not reach.
    """
    return _each(Line, modules)


def each_call(*modules: ModuleType) -> Iterator[CallMade]:
    """Do the same with the calls that code of the *modules* makes."""
    return _each(CallMade, modules)


def each_call_end(*modules: ModuleType) -> Iterator[CallMade]:
    """Do the same with the ends of those calls."""
    return _each(CallEnded, modules)


def _each(kind: type[_Place], modules: tuple[ModuleType, ...]) -> Iterator[_Place]:
    for number in itertools.count():
        place = kind(number, modules)
        yield place
        if not place.reached:
            return
