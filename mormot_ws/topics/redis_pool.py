"""RedisPool: the connections of a hub that wait for answers. Any thread may use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..errors import HubError, HubUnavailable
from ..logs import SeldomLog, get_logger
from ..sockets.deadline import Deadline
from .redis_scripts import Script

if TYPE_CHECKING:
    from .redis_link import RedisLink

_log = get_logger("mormot_ws.topics")

#: seconds after which a refusal that goes on is logged once more
_TOLD_AGAIN = 600.0


class RedisPool:
    """Connections that are made when they are needed, and used again.

    :param shown: how logs and errors call this Redis.
    :param most: the most at a time; another thread waits for one.
    :param on_success: called, without a lock, after a time in which nothing succeeded.
    """

    def __init__(
        self,
        shown: str,
        make_link: Callable[[], RedisLink],
        most: int,
        on_success: Callable[[], object],
    ) -> None:
        self._shown = shown
        self._make_link = make_link
        self._most = most
        self._on_success = on_success
        #: those that nobody uses; the last one used is used first
        self._idle: deque[RedisLink] = deque()
        #: all, so that they can be stopped
        self._links: dict[RedisLink, None] = {}
        #: one for each connection that may be in use. A semaphore would not be safe in a signal
        #: handler that has interrupted it
        self._permits = self._new_permits()
        self._stopped = False
        #: the last fault, and whether the last request has ended with it
        self.last_error = ""
        self.is_failing = False
        #: the faults that were logged since it is failing
        self._told: set[str] = set()
        self._refusals = SeldomLog(_TOLD_AGAIN)

    def _new_permits(self) -> SimpleQueue[None]:
        permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._most):
            permits.put(None)
        return permits

    def new_link(self, deadline: Deadline) -> RedisLink:
        """Return a new connection that is stopped by :meth:`stop`. Raises ``HubError``."""
        link = self._make_link()
        self._links[link] = None
        if self._stopped:
            link.stop()
        try:
            link.connect(deadline)
        except BaseException:
            self._links.pop(link, None)
            raise
        return link

    def drop(self, link: RedisLink) -> None:
        """Close *link*, which the calling thread uses."""
        self._links.pop(link, None)
        link.close()

    def run_script(
        self,
        deadline: Deadline,
        script: Script,
        keys: tuple[bytes, ...],
        arguments: tuple[Any, ...],
        repeat: bool = True,
    ) -> Any:
        """Return what *script* answers.

        :param arguments: those behind the first one, which is the run of Redis.
        :param repeat: it may be run once more when nobody knows whether it was.

        Raises ``HubError``.
        """

        (answer,) = self.run_scripts(deadline, script, [(keys, arguments)], repeat)
        return answer

    def run_scripts(
        self,
        deadline: Deadline,
        script: Script,
        asked: list[tuple[tuple[bytes, ...], tuple[Any, ...]]],
        repeat: bool = True,
    ) -> list[Any]:
        """Return what *script* answers to several sets of keys and arguments, in one go. Raises
        ``HubError``, also for an error among the answers.
        """

        def run(link: RedisLink) -> Any:
            given = [(len(keys), *keys, link.run, *arguments) for keys, arguments in asked]
            answers = link.request(deadline, *((b"EVALSHA", script.sha, *each) for each in given))
            if any(map(link.lacks_script, answers)):
                # it has run none of them: they lack it all
                answers = link.request(deadline, *((b"EVAL", script.text, *each) for each in given))
            return _first_error(answers)

        answers: list[Any] = self._with_link(deadline, run, repeat)
        return answers

    def request(self, deadline: Deadline, *commands: tuple[Any, ...]) -> list[Any]:
        """Return the answers to *commands*. Raises ``HubError``, for an error as an answer, too."""

        def ask(link: RedisLink) -> Any:
            return _first_error(link.request(deadline, *commands))

        answers: list[Any] = self._with_link(deadline, ask, True)
        return answers

    def _with_link(self, deadline: Deadline, ask: Callable[[RedisLink], Any], repeat: bool) -> Any:
        """Return what *ask* returns for a connection; raise the error that it returns."""
        permits = self._permits
        try:
            try:
                permits.get(timeout=deadline.seconds())
            except Empty:
                raise HubUnavailable(
                    f"{self._shown}: {self._most} connections were in use all the time"
                ) from None
            try:
                try:
                    answer = self._ask(deadline, ask)
                except HubUnavailable as exc:
                    if not (repeat and exc.maybe_published) or deadline.passed or self._stopped:
                        raise
                    try:
                        answer = self._ask(deadline, ask)
                    except HubError as again:
                        # the first time may have been the one
                        again.maybe_published = True
                        raise
            finally:
                permits.put(None)
            if isinstance(answer, HubError):
                raise answer
        except HubError as exc:
            self.note_failure(exc)
            raise
        self.note_success()
        return answer

    def _ask(self, deadline: Deadline, ask: Callable[[RedisLink], Any]) -> Any:
        link = self._take(deadline)
        try:
            answer = ask(link)
        except BaseException:
            self.drop(link)
            raise
        if link.is_read_only(answer) or self._stopped:
            # another machine may have its name by now: the next one looks it up
            self.drop(link)
        else:
            self._idle.append(link)
            if self._stopped:
                # it has not seen this one
                self._close_idle()
        if isinstance(answer, Exception):
            failed = link.explained(answer)
            failed.__cause__ = answer
            return failed
        return answer

    def _take(self, deadline: Deadline) -> RedisLink:
        if self._stopped:
            raise HubUnavailable("the hub was freed")
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return self.new_link(deadline)
            if link.is_idle:
                return link
            # e.g. Redis was restarted: found before something is sent that nobody answers
            self.drop(link)

    def note_success(self) -> None:
        """Remember, and log, that Redis answers again."""
        if self.is_failing:
            self.is_failing = False
            self._told.clear()
            _log.info("%s answers again", self._shown)
            self._on_success()

    def note_failure(self, exc: HubError) -> None:
        """Remember a fault, and log it once while it lasts."""
        if self._stopped:
            return
        text = self.last_error = exc.text
        if isinstance(exc, HubUnavailable):
            self.is_failing = True
            # of two faults in turn, neither is told again
            if text not in self._told:
                self._told.add(text)
                _log.warning("%s", text)
        else:
            # it may do other things meanwhile, so its end is not seen
            more = self._refusals.due(text)
            if more is not None:
                _log.warning("%s%s", text, more)

    def _close_idle(self) -> None:
        while self._idle:
            try:
                self.drop(self._idle.pop())
            except IndexError:
                return

    def stop(self) -> None:
        """End all: what waits fails at once, and so does what comes later."""
        self._stopped = True
        for link in list(self._links):
            link.stop()
        self._close_idle()

    def die_in_child(self) -> None:
        """Start afresh, in a forked child."""
        links, self._links = list(self._links), {}
        self._idle = deque()
        self._permits = self._new_permits()
        for link in links:
            link.die_in_child()
        self.last_error, self.is_failing = "", False


def _first_error(answers: list[Any]) -> Any:
    """Return an error among the *answers*, or all of them."""
    return next((answer for answer in answers if isinstance(answer, Exception)), answers)
