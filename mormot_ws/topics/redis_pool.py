"""RedisPool: the connections of a hub for requests with answers. Any thread may use it."""

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

#: seconds after which a persistent refusal is logged again
_TOLD_AGAIN = 600.0


class RedisPool:
    """Connections that are opened on demand and reused.

    :param shown: the name of this Redis in logs and errors.
    :param most: the maximum number of connections; further threads wait for one.
    :param on_success: called without a lock at the first success after a failure.
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
        #: the idle connections; the last one used is reused first
        self._idle: deque[RedisLink] = deque()
        #: all connections, so that they can be stopped
        self._links: dict[RedisLink, None] = {}
        #: one item for each connection that may be in use. A semaphore would not be safe in a
        #: signal handler that interrupts it
        self._permits = self._new_permits()
        self._stopped = False
        #: the last error, and whether the last request failed with it
        self.last_error = ""
        self.is_failing = False
        #: the errors logged since requests began to fail
        self._told: set[str] = set()
        self._refusals = SeldomLog(_TOLD_AGAIN)

    def _new_permits(self) -> SimpleQueue[None]:
        permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._most):
            permits.put(None)
        return permits

    def new_link(self, deadline: Deadline, taken: list[RedisLink] | None = None) -> RedisLink:
        """Return a new connection that is stopped by :meth:`stop`. Raises ``HubError``.

        It is added to *taken* too, for a caller in which a signal handler may raise.
        """
        link = self._make_link()
        if taken is not None:
            taken.append(link)
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
        """Return the answer of *script*.

        :param arguments: the arguments after the first one, which is the run of Redis.
        :param repeat: the script may be run again if it is unknown whether it was run.

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
        """Return the answers of *script* to several sets of keys and arguments, sent together.

        Raises ``HubError``, also for an error among the answers.
        """

        def run(link: RedisLink) -> Any:
            given = [(len(keys), *keys, link.run, *arguments) for keys, arguments in asked]
            answers = link.request(deadline, *((b"EVALSHA", script.sha, *each) for each in given))
            if any(map(link.lacks_script, answers)):
                # it has run none of them: the script is missing for all
                answers = link.request(deadline, *((b"EVAL", script.text, *each) for each in given))
            return _first_error(answers)

        answers: list[Any] = self._with_link(deadline, run, repeat)
        return answers

    def request(self, deadline: Deadline, *commands: tuple[Any, ...]) -> list[Any]:
        """Return the answers to *commands*. Raises ``HubError``, also for an error as an answer."""

        def ask(link: RedisLink) -> Any:
            return _first_error(link.request(deadline, *commands))

        answers: list[Any] = self._with_link(deadline, ask, True)
        return answers

    def _with_link(self, deadline: Deadline, ask: Callable[[RedisLink], Any], repeat: bool) -> Any:
        """Call *ask* with a connection; return its answer or raise the error that it returns."""
        permits = self._permits
        held: list[None] = []
        try:
            try:
                try:
                    # one step for signals, as in take()
                    held.extend(map(permits.get, (True,), (deadline.seconds(),)))
                except Empty:
                    raise HubUnavailable(
                        f"{self._shown}: all {self._most} connections were in use until the"
                        " time-out"
                    ) from None
                try:
                    answer = self._ask(deadline, ask)
                except HubUnavailable as exc:
                    if not (repeat and exc.maybe_published) or deadline.passed or self._stopped:
                        raise
                    try:
                        answer = self._ask(deadline, ask)
                    except HubError as again:
                        # the first attempt may have published it
                        again.maybe_published = True
                        raise
            finally:
                if held:
                    permits.put(None)
            if isinstance(answer, HubError):
                raise answer
        except HubError as exc:
            self.note_failure(exc)
            raise
        self.note_success()
        return answer

    def _ask(self, deadline: Deadline, ask: Callable[[RedisLink], Any]) -> Any:
        taken: list[RedisLink] = []
        try:
            link = self._take(deadline, taken)
            answer = ask(link)
            if link.is_read_only(answer) or self._stopped:
                # the name may now belong to another machine: the next connection looks it up
                self.drop(link)
            else:
                # one step for signals, as in take(): from now on another thread may use it
                self._idle.extend(map(list.pop, (taken,)))
        except BaseException:
            for each in taken:
                self.drop(each)
            raise
        if self._stopped:
            # stop() may not have seen this one
            self._close_idle()
        if isinstance(answer, Exception):
            failed = link.explained(answer)
            failed.__cause__ = answer
            return failed
        return answer

    def _take(self, deadline: Deadline, taken: list[RedisLink]) -> RedisLink:
        """Return a connection, which is then the last one in *taken*."""
        if self._stopped:
            raise HubUnavailable("the hub was freed")
        while True:
            try:
                # one step for signals, as in take()
                taken.extend(map(deque.pop, (self._idle,)))
            except IndexError:
                return self.new_link(deadline, taken)
            link = taken[-1]
            if link.is_idle:
                return link
            # e.g. Redis was restarted: detect this before sending something that gets no answer
            self.drop(link)

    def note_success(self) -> None:
        """Record and log that Redis answers again."""
        if self.is_failing:
            self.is_failing = False
            self._told.clear()
            _log.info("%s answers again", self._shown)
            self._on_success()

    def note_failure(self, exc: HubError) -> None:
        """Record an error, and log it once while it lasts."""
        if self._stopped:
            return
        text = self.last_error = exc.text
        if isinstance(exc, HubUnavailable):
            self.is_failing = True
            # of two alternating errors, neither is logged again
            if text not in self._told:
                self._told.add(text)
                _log.warning("%s", text)
        else:
            # other requests may succeed meanwhile, so the end of a refusal is not noticed
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
        """Stop all connections: waiting and later requests fail at once."""
        self._stopped = True
        for link in list(self._links):
            link.stop()
        self._close_idle()

    def die_in_child(self) -> None:
        """In a forked child: start afresh."""
        links, self._links = list(self._links), {}
        self._idle = deque()
        self._permits = self._new_permits()
        for link in links:
            link.die_in_child()
        self.last_error, self.is_failing = "", False


def _first_error(answers: list[Any]) -> Any:
    """Return an error among the *answers*, or all answers."""
    return next((answer for answer in answers if isinstance(answer, Exception)), answers)
