"""When a frame for several connections is written at once."""

from __future__ import annotations

import threading

from mormot_ws.process.sharing import Sharing


def _elsewhere(sharing: Sharing, delay: float) -> float:
    """Return what ``begin()`` says in another thread than the main one."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(sharing.begin(delay)))
    thread.start()
    thread.join()
    return found[0]


def test_a_frame_by_itself_is_written_at_once() -> None:
    """But not in the main thread, which a signal handler may interrupt."""
    sharing = Sharing()
    assert _elsewhere(sharing, 10_000) > 0
    assert sharing.begin(10_000) == 0


def test_a_quick_series_is_queued() -> None:
    """From the second frame on, however long the first one took; without a delay nothing is."""
    sharing = Sharing()
    assert _elsewhere(sharing, 10_000) > 0
    sharing.end()
    assert _elsewhere(sharing, 10_000) == 0
    assert _elsewhere(sharing, 0) > 0
