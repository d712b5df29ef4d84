"""Interrupting a call at each line, as a signal handler or a finaliser may, or at each place at
which what a signal handler raises comes out.
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
                if self._passed == self.number:
                    self.reached = True
                    action()
                self._passed += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


def each_line(*modules: ModuleType) -> Iterator[Line]:
    """Give the lines of the *modules* that a test's call runs, one for each round of the test, and
    at last one that it does not reach.
    """
    for number in itertools.count():
        line = Line(number, modules)
        yield line
        if not line.reached:
            return


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


def each_place(*modules: ModuleType) -> Iterator[Place]:
    """Give the places in the *modules* that a test's call reaches, like :func:`each_line`."""
    for number in itertools.count():
        place = Place(number, modules)
        yield place
        if not place.reached:
            return
