"""Interrupting a call at each of its lines, as a finaliser may, or behind each call that it makes,
where signal handlers run.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any


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


class CallMade(Line):
    """The beginning or end of a call in some modules' code that comes as the *number*-th.

    Python runs signal handlers there. What they raise comes out of the call, which is not so with
    a line.
    """

    @contextlib.contextmanager
    def interrupted_by(self, action: Callable[[], object]) -> Iterator[None]:
        """Call *action* there, once; it may raise."""

        def profile(frame: FrameType, event: str, arg: object) -> None:
            if frame.f_code.co_filename in self._files and event in ("call", "return", "c_return"):
                self._pass(action)

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(before)


class Place(Line):
    """The place in some modules' code that is reached as the *number*-th, in the calling thread, at
    which Python runs signal handlers: after a call of a C function, or before the first line of a
    function.
    """

    @contextlib.contextmanager
    def interrupted_by(self, action: Callable[[], object]) -> Iterator[None]:
        """Call *action* there, once. What it raises comes out there: unlike what is raised between
        two lines, never between a call and the ``finally`` that belongs to it.
        """

        def profile(frame: FrameType, event: str, arg: object) -> None:
            if event in ("call", "c_return") and frame.f_code.co_filename in self._files:
                self._passed += 1
                if self._passed > self.number:
                    sys.setprofile(None)
                    self.reached = True
                    action()

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(before)


def each_line(*modules: ModuleType) -> Iterator[Line]:
    """Give the lines of the *modules* that a test's call runs, one for each round of the test, and
    at last one that it does not reach.
    """
    return _each(Line, modules)


def each_call(*modules: ModuleType) -> Iterator[Line]:
    """Do the same with the calls that code of the *modules* makes."""
    return _each(CallMade, modules)


def each_place(*modules: ModuleType) -> Iterator[Line]:
    """Do the same with the places in the *modules* at which Python runs signal handlers."""
    return _each(Place, modules)


def _each(kind: type[Line], modules: tuple[ModuleType, ...]) -> Iterator[Line]:
    for number in itertools.count():
        place = kind(number, modules)
        yield place
        if not place.reached:
            return


class Interrupted(BaseException):
    """What is raised at the end of a call."""


class CallEnd:
    """The end of the *number*-th call that some modules' code makes, in the calling thread.

    A signal handler runs as a call ends, so what it raises comes from there. Not every line is such
    a place: none is between the last call in a ``with`` and the release of its lock, for example.
    """

    def __init__(self, number: int, modules: tuple[ModuleType, ...]) -> None:
        self.number = number
        self._files = {module.__file__ for module in modules}
        #: whether there are so many
        self.reached = False
        self._passed = 0

    @contextlib.contextmanager
    def raises(self) -> Iterator[None]:
        """Raise there, once; end quietly."""

        def profile(frame: FrameType, event: str, arg: object) -> None:
            if event not in ("return", "c_return"):
                return
            caller = frame.f_back if event == "return" else frame
            if caller is None or caller.f_code.co_filename not in self._files:
                return
            if self._passed == self.number:
                self.reached = True
                sys.setprofile(None)
                raise Interrupted
            self._passed += 1

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield
        except Interrupted:
            pass
        finally:
            sys.setprofile(before)


def each_call_end(*modules: ModuleType) -> Iterator[CallEnd]:
    """Give the ends of all calls that the *modules* make in a test's call, one for each round of
    the test, and at last one that it does not reach.
    """
    for number in itertools.count():
        end = CallEnd(number, modules)
        yield end
        if not end.reached:
            return
