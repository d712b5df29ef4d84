"""Readiness: reports which of many sockets can be read, using epoll or kqueue.

Level-triggered: what was not read yet is reported again. No thread or lock belongs in here.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import Any

#: the most events that one poll returns
_MOST = 256

#: True if :class:`Readiness` works here
HAS_READINESS = hasattr(select, "epoll") or hasattr(select, "kqueue")


class Readiness:
    """The sockets that were added, and which of them can be read.

    Any thread may call :meth:`add` and :meth:`remove`, even while another is inside :meth:`poll`.
    """

    def __init__(self) -> None:
        #: wait for events; return pairs, each beginning with a descriptor
        self.poll: Callable[[], list[tuple[int, Any]]]
        self._epoll: Any = None
        self._kqueue: Any = None
        if hasattr(select, "epoll"):
            self._epoll = select.epoll()
            self.poll = _epoll_poll(self._epoll)
        elif sys.platform != "linux":
            self._kqueue = select.kqueue()
            self.poll = self._kqueue_poll

    def add(self, fd: int) -> None:
        """Report *fd* from now on. Raises ``OSError``."""
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN)
        elif sys.platform != "linux":
            event = select.kevent(fd, select.KQ_FILTER_READ, select.KQ_EV_ADD)
            self._kqueue.control([event], 0)

    def remove(self, fd: int) -> None:
        """Stop reporting *fd*, even if its peer hangs up. Raises ``OSError``."""
        if self._epoll is not None:
            self._epoll.unregister(fd)
        elif sys.platform != "linux":
            event = select.kevent(fd, select.KQ_FILTER_READ, select.KQ_EV_DELETE)
            self._kqueue.control([event], 0)

    def _kqueue_poll(self) -> list[tuple[int, Any]]:
        return [(event.ident, 0) for event in self._kqueue.control(None, _MOST, None)]

    def close(self) -> None:
        """Close the descriptor of the set; the sockets stay open."""
        (self._kqueue if self._epoll is None else self._epoll).close()


def _epoll_poll(epoll: Any) -> Callable[[], list[tuple[int, Any]]]:
    poll = epoll.poll
    return lambda: poll(-1, _MOST)
