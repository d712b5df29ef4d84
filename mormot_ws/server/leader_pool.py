"""LeaderPool: threads that serve many sockets, and one of them at a time waits for all sockets.

That thread, the leader, handles each ready member itself, so a short callback costs no more than in
an event loop. If it stays inside one member for some milliseconds, a watcher ends its term, and a
follower takes the lead. The old leader finishes its work, and becomes a follower. If a callback
blocked, rather than computed, a follower handles that member from then on, so that many callbacks
that block for a moment do not wait for each other.

Correctness does not depend on there being one leader, but on a lock for each member: the thread
that handles a member holds its ``busy``. A leader that finds it taken removes the member from the
set that is waited for; the holder puts it back when it leaves. Two leaders for a moment do no harm.

The pool knows neither WebSockets nor settings.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from threading import current_thread
from time import monotonic, thread_time

from ..core.forks import dies_in_child
from ..logs import SeldomLog, get_logger
from ..process.freeing import joined
from ..sockets.deadline import Deadline
from ..sockets.readiness import Readiness
from .pool_member import Member
from .pool_term import Term

_log = get_logger("mormot_ws.server")

#: seconds after which a callback is long; for some time after a long one, fewer are enough
_LONG_SECONDS = 0.005
_NEXT_LONG_SECONDS = 0.001
_HURRY_SECONDS = 0.05
#: if there are no more turns than this in _LONG_SECONDS, callbacks may block
_FEW_TURNS = 5
#: idle seconds after which a surplus thread ends
_IDLE_SECONDS = 10.0
#: seconds between two warnings that all threads are busy
_WARN_SECONDS = 60.0
#: how often a thread that returns from a callback handles a member after the end
_LAST_TURNS = 64
#: seconds that a leader pauses after a fault that no member has caused
_AFTER_FAULT = 0.1


class LeaderPool:
    """Threads that handle members.

    :param name: the beginning of the threads' names.
    :param keep: this many threads are started immediately, and do not end when idle.
    :param most: the most threads, and therefore the most callbacks that can be long at a time.
    :param on_start: called in each thread when it begins; must not raise.
    :param on_stop: called in each thread when it ends; must not raise.
    """

    def __init__(
        self,
        name: str,
        keep: int,
        most: Callable[[], int],
        on_start: Callable[[], object],
        on_stop: Callable[[], object],
    ) -> None:
        self._name = name
        # one leads, one can follow
        self._keep = max(2, keep)
        self._most = most
        self._on_start = on_start
        self._on_stop = on_stop
        self._busy_log = SeldomLog(_WARN_SECONDS)
        self._thread_log = SeldomLog(_WARN_SECONDS)
        self._members: dict[int, Member] = {}
        self._readiness = Readiness()
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._make_locks()
        # the term of the current leader; None: there is no leader
        self._term: Term | None = None
        # True if a leader is needed
        self._wanted = True
        #: members that wait for a follower to handle them; their ``busy`` is held
        self._given: deque[Member] = deque()
        self._idle = 0
        self._numbers = 0
        self._threads: set[threading.Thread] = set()
        self._watcher: threading.Thread | None = None
        self._stopping = False
        #: members to be handled without an event from the kernel
        self._revisits: deque[Member] = deque()
        dies_in_child(self)

    def _make_locks(self) -> None:
        #: guards the terms, the threads, and which members are masked. While it is held, only short
        #: methods of members are called
        self._safe = threading.Lock()
        self._follow = threading.Condition(self._safe)
        # set while a leader finds something to do: the watcher sleeps otherwise
        self._active = threading.Event()
        self._stopped = threading.Event()

    # ---------------------------------------------------------------------------- for other threads

    def start(self) -> None:
        """Start the threads. Raises ``RuntimeError`` if none can be started."""
        self._readiness.add(self._wake_read.fileno())
        for _ in range(self._keep):
            self._spawn()
        self._watcher = threading.Thread(
            target=self._watch, name=f"{self._name} watcher", daemon=True
        )
        self._watcher.start()

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that may run callbacks."""
        return list(self._threads)

    def add(self, member: Member) -> None:
        """Handle *member* from now on. Raises ``OSError``."""
        fd = member.fileno()
        member.masked = False
        self._members[fd] = member
        try:
            self._readiness.add(fd)
        except BaseException:
            self._members.pop(fd, None)
            raise

    def remove(self, member: Member) -> None:
        """Stop handling *member*, before its descriptor is closed. Safe to call twice."""
        fd = member.fileno()
        with self._safe:
            if self._members.get(fd) is not member:
                return
            del self._members[fd]
            if not member.masked:
                # it is closed when a callback returns after stop()
                with contextlib.suppress(OSError, ValueError):
                    self._readiness.remove(fd)

    def revisit(self, member: Member) -> None:
        """Let a leader handle *member* although the kernel reports nothing. From any thread."""
        self._revisits.append(member)
        self._wake()

    def stop(self, deadline: Deadline) -> list[threading.Thread]:
        """End all threads, and wait for them until the *deadline*; return those that are left."""
        self._stopping = True
        self._stopped.set()
        self._active.set()
        with self._safe:
            self._follow.notify_all()
        self._wake()
        watcher = [] if self._watcher is None else [self._watcher]
        left = [thread for thread in [*self._threads, *watcher] if not joined(thread, deadline)]
        if not left:
            self._close()
        return left

    def _close(self) -> None:
        """Close the descriptors, once no thread uses them. Safe to call twice."""
        self._readiness.close()
        self._wake_read.close()
        self._wake_write.close()

    def die_in_child(self) -> None:
        """Leave the threads and the members to the parent, in a forked child."""
        self._stopping = True
        # a leader that has forked in a callback is deposed, and ends
        self._term = None
        self._make_locks()
        self._members.clear()
        self._given.clear()
        self._threads.clear()
        self._watcher = None
        self._close()

    def _wake(self) -> None:
        # full: the leader is being woken already; closed: it has ended
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    # ------------------------------------------------------------------------ leaders and followers

    def _spawn(self) -> None:
        with self._safe:
            self._numbers += 1
            number = self._numbers
        # a daemon thread: a callback that never returns must not block the interpreter's exit
        thread = threading.Thread(target=self._work, name=f"{self._name} {number}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            raise

    def _work(self) -> None:
        safe = self._safe
        try:
            self._on_start()
            while task := self._next_task():
                if not isinstance(task, Term):
                    self._handle_blocking(task)
                    # an ended connection is not kept until the next task
                    del task
                    continue
                try:
                    self._lead(task)
                # e.g. MemoryError: a server without a leader would be worse
                except BaseException as exc:
                    # it has to end a child that a callback has forked
                    if self._safe is not safe:
                        raise
                    self._hand_on(task, exc)
        finally:
            # if the lock is another one, this is a child that was forked in this same thread
            if self._safe is safe:
                self._on_stop()
                with safe:
                    self._threads.discard(current_thread())
                    last = self._stopping and not self._threads
                if last:
                    # stop() has not waited for a long callback
                    self._close()

    def _next_task(self) -> Term | Member | None:
        """Wait until a leader is needed, or a member is given away; return the term or the member,
        or None if this thread has to end.
        """
        with self._safe:
            while True:
                if self._wanted and not self._stopping:
                    term = self._term = Term()
                    self._wanted = False
                    return term
                if self._given:
                    return self._given.popleft()
                if self._stopping:
                    return None
                self._idle += 1
                notified = self._follow.wait(_IDLE_SECONDS)
                self._idle -= 1
                surplus = self._idle + 1 >= self._keep
                if not (notified or self._wanted or self._given) and surplus:
                    return None

    def _lead(self, term: Term) -> None:
        """Handle ready members until the end of the *term*."""
        poll, members = self._readiness.poll, self._members
        active, wake = self._active, self._wake_read.fileno()
        member: Member | None
        handle: Callable[[], bool] | None
        while not self._stopping:
            # one that another thread ends is not kept until the next event
            member = handle = None
            called: list[Member] = []
            term.waits = True
            try:
                ready = poll()
            except OSError as exc:
                self._pause(exc)
                continue
            # in this order: the watcher clears it, then looks whether the leader waits
            term.waits = False
            if not active.is_set():
                active.set()
            for fd, _ in ready:
                member = members.get(fd)
                if member is None:
                    if fd == wake:
                        if self._stopping:
                            # the byte stays, for another leader
                            return
                        called = self._called_back()
                        # these come last
                        ready += [(each.fileno(), None) for each in called]
                    continue
                if not member.busy.acquire(False):
                    self._mask(member)
                    continue
                if member.blocks:
                    self._give_away(member)
                    continue
                term.turn += 1
                term.member = member
                # a local variable: Python calls it faster than an attribute
                handle = member.handle
                try:
                    goes_on = handle() or member.end(None)
                except BaseException as exc:  # noqa: BLE001
                    goes_on = self._end(member, exc)
                # in this order: the watcher ends the term, then looks at the member
                term.member = None
                if self._term is not term and self._is_over(term):
                    # the rest is void: it is reported again to the new leader
                    self._call_back_later(called)
                    self._leave_late(member, goes_on)
                    return
                if goes_on:
                    # _leave(), written out for the hot path
                    member.busy.release()
                    if member.masked:
                        self._unmask(member)
                else:
                    # nor one that has ended here during the callbacks of others
                    member = handle = None

    def _is_over(self, term: Term) -> bool:
        """Return whether another thread is to lead. Called between two members."""
        # the watcher may take back what it has just done: see _depose()
        with self._safe:
            return self._term is not term

    def _give_away(self, member: Member) -> None:
        """Let a follower handle *member*, whose callbacks block."""
        with self._safe:
            self._given.append(member)
            self._follow.notify()
            missing = self._is_follower_missing()
        if missing:
            self._get_follower()

    def _handle_blocking(self, member: Member) -> None:
        """Handle a *member* that was given away, and see whether its callbacks still block."""
        again, last_turns = True, _LAST_TURNS
        while again:
            begin, computed = monotonic(), thread_time()
            try:
                member.callback_is_long()
                goes_on = member.handle()
                if self._stopping and not self._members:
                    # a child that the callback has forked
                    return
                if not (goes_on and member.callback_has_ended()) and not member.end(None):
                    return
                took = monotonic() - begin
                member.blocks = took >= _NEXT_LONG_SECONDS and thread_time() - computed < took / 2
                # input that has come meanwhile is handled here, without another change of threads
                again = self._wait_for(member)
                if self._stopping and last_turns:
                    # see _leave_late()
                    again, last_turns = True, last_turns - 1
            except BaseException as exc:  # noqa: BLE001
                if not self._end(member, exc):
                    return
                again = False
        self._leave(member)

    def _hand_on(self, term: Term, exc: BaseException) -> None:
        """Let another thread lead, because *exc* has ended the *term*."""
        _log.error("%s: a leader has failed, another one takes over", self._name, exc_info=exc)
        self._stopped.wait(_AFTER_FAULT)
        with self._safe:
            if self._term is term:
                self._term = None
                self._wanted = True
                self._follow.notify()

    def _pause(self, exc: OSError) -> None:
        """Report that waiting has failed, which is the system's fault or a bug, and pause."""
        if not self._stopping:
            _log.error("%s cannot wait for connections: %s", self._name, exc)
            self._stopped.wait(_AFTER_FAULT)

    def _end(self, member: Member, exc: BaseException) -> bool:
        try:
            return member.end(exc)
        # a fault of one member must not end the thread that serves all
        except BaseException:
            if self._stopping and not self._members:
                # a child that a callback has forked: the exception has to end it
                raise
            _log.exception("%s: %r failed at its end", self._name, member)
            self.remove(member)
            return False

    def _leave_late(self, member: Member, goes_on: bool) -> None:
        """Leave a member after the end of the term, because its callback was long."""
        # the watcher may not have finished: see _depose()
        with self._safe:
            if self._stopping and not self._members:
                return
        if goes_on:
            try:
                goes_on = member.callback_has_ended() or member.end(None)
                # there will be no other leader; free() has cut the connection, so this ends it
                for _ in range(_LAST_TURNS):
                    if not (goes_on and self._stopping):
                        break
                    goes_on = member.handle() or member.end(None)
            except BaseException as exc:  # noqa: BLE001
                goes_on = self._end(member, exc)
        if goes_on:
            self._leave(member)

    def _leave(self, member: Member) -> None:
        """Let other threads handle a member again."""
        member.busy.release()
        if member.masked:
            self._unmask(member)

    def _called_back(self) -> list[Member]:
        """Return the members that are to be handled without an event."""
        with contextlib.suppress(BlockingIOError):
            while len(self._wake_read.recv(4096)) == 4096:
                pass
        called: list[Member] = []
        while self._revisits:
            called.append(self._revisits.popleft())
        return called

    def _call_back_later(self, called: list[Member]) -> None:
        """Let the next leader handle the members that were *called* back."""
        if called:
            self._revisits.extend(called)
            self._wake()

    def _mask(self, member: Member) -> None:
        """Stop waiting for a member while another thread is inside it."""
        with self._safe:
            fd = member.fileno()
            if member.masked or self._members.get(fd) is not member:
                return
            member.masked = True
            # not with an empty set of events: the kernel would still report a hang-up
            with contextlib.suppress(OSError):
                self._readiness.remove(fd)
        # the other thread releases first, then looks, so one of the two sees the other
        if not member.busy.locked():
            self._unmask(member)

    def _unmask(self, member: Member) -> None:
        """Wait for a member again, after its ``busy`` was released."""
        try:
            if self._wait_for(member):
                # there may be input that the kernel does not know of
                self._revisits.append(member)
                self._wake()
        except OSError as exc:
            # that ends this member, not the leader
            if member.busy.acquire(False) and self._end(member, exc):
                member.busy.release()

    def _wait_for(self, member: Member) -> bool:
        """Undo :meth:`_mask`; return False if there was nothing to undo.

        Raises ``OSError`` if the kernel has no room for one more.
        """
        if not member.masked:
            return False
        with self._safe:
            fd = member.fileno()
            if not member.masked or self._members.get(fd) is not member:
                return False
            member.masked = False
            self._readiness.add(fd)
        return True

    # ------------------------------------------------------------------------- the watcher's thread

    def _watch(self) -> None:
        """End the leader's term each time it stays inside one member for long."""
        active, hurry = self._active, 0.0
        while not self._stopping:
            # without a time limit: leaders and stop() set it
            active.wait()
            term = self._term
            member, turn = (None, 0) if term is None else (term.member, term.turn)
            begin, computed = monotonic(), 0.0 if term is None else term.cpu_seconds()
            if self._stopped.wait(_NEXT_LONG_SECONDS if begin < hurry else _LONG_SECONDS):
                return
            if term is None or self._term is not term:
                continue
            if member is None:
                if term.waits:
                    active.clear()
                    # an event may have come just before, or another leader
                    if not term.waits or self._term is not term:
                        active.set()
                continue
            now = monotonic()
            idles = term.cpu_seconds() - computed < (now - begin) / 2
            if term.member is not member or term.turn != turn:
                if idles and term.turn - turn <= _FEW_TURNS:
                    # each of its callbacks takes a while, but none as long as that
                    hurry = now + _HURRY_SECONDS
            elif not self._idle:
                self._get_follower()
            elif self._depose(term, member, turn, idles):
                hurry = now + _HURRY_SECONDS

    def _depose(self, term: Term, member: Member, turn: int, blocks: bool) -> bool:
        """End the leader's *term*, because it is still inside *member*, in the same *turn*, and
        *blocks* rather than computes.
        """
        with self._safe:
            if self._term is not term or not self._idle:
                return False
            self._term = None
            # the leader looks in the opposite order: if it is still inside the member, it sees the
            # end of its term, and waits for this lock before it leaves the member
            if term.member is not member or term.turn != turn:
                # it has left, and may wait for members already, without having seen the end
                self._term = term
                return False
            member.blocks = blocks
            member.callback_is_long()
            self._wanted = True
            self._follow.notify()
            missing = self._is_follower_missing()
        if missing:
            self._get_follower()
        return True

    def _is_follower_missing(self) -> bool:
        """Return whether there are more tasks than idle threads. Called with ``_safe`` held."""
        # a thread that was notified is idle until it has the lock: its task is counted, too
        return len(self._given) + self._wanted > self._idle

    def _get_follower(self) -> bool:
        """Start a thread, if there may be one more; return whether it was started."""
        most = self._most()
        if len(self._threads) >= most:
            more = self._busy_log.due()
            if more is not None:
                _log.warning(
                    "%s: all %d threads are inside callbacks; other connections wait until one"
                    " returns. settings.max_server_threads limits their number%s",
                    self._name,
                    most,
                    more,
                )
            return False
        try:
            self._spawn()
        except RuntimeError as exc:
            more = self._thread_log.due()
            if more is not None:
                text = "%s: no further thread (%s): other connections wait until a callback returns"
                _log.error(text + "%s", self._name, exc, more)
            return False
        return True
