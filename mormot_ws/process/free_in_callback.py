"""The hazard: ``free()`` called inside a callback of the very connection that it has to wait for.

Like the original it blocks for ever, but never silently; or it raises, when the settings say so.
The porting guide explains the way out: set a flag, or call ``terminate()``, and free from another
thread.
"""

from __future__ import annotations

import threading
import traceback

from ..errors import WebSocketsError
from ..logs import OwnText, get_logger
from ..settings import WebSocketProcessSettings

_log = get_logger("mormot_ws")

GUIDE = "docs/porting-guide.md, 'Do not free in a callback'"


def meet_free_in_callback(owner: object, what: str, settings: WebSocketProcessSettings) -> None:
    """Called by ``free()`` of *owner* (a *what*: client or server) in the thread that it would have
    to wait for.

    Logs at CRITICAL with the callback's stack and never returns; with ``free_in_callback='raise'``
    raises :class:`WebSocketsError` instead.
    """
    me = threading.current_thread().name
    if settings.free_in_callback == "raise":
        raise WebSocketsError(
            f"the {what} is being freed from its own callback, in thread {me!r}; free it "
            f"from another thread (see {GUIDE})"
        )
    stack = "".join(traceback.format_stack()[:-2])
    _log.critical(
        "DEADLOCK: the %s %r is being freed from its own callback. Thread %r would have to "
        "end before free() returns, and waits inside "
        "free() for itself: it is frozen from here on. Set a flag (or call terminate()) in "
        "the callback and free from another thread; "
        "see %s. settings.free_in_callback = 'raise' turns this freeze into a "
        "WebSocketsError. The callback's stack:\n%s",
        what,
        owner,
        me,
        GUIDE,
        OwnText(stack),
    )
    # without a bound, as in the original: this is the hazard that ported code has to meet in its
    # tests
    threading.Event().wait()
