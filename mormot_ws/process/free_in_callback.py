"""The deadlock: ``free()`` called in a callback of the same connection, for which it must wait.

Like the original, it blocks forever, but logs the reason; or it raises, depending on the settings.
The porting guide explains what to do instead: set a flag, or call ``terminate()``, and free from
another thread.
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
    """Block forever or raise, because ``free()`` was called in a callback.

    ``free()`` of *owner* (*what*: client or server) calls it in the thread for which it would have
    to wait. It logs at CRITICAL with the callback's stack, and never returns. With
    ``free_in_callback='raise'`` it raises :class:`WebSocketsError` instead.
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
    # no time-out, as in the original: ported code should meet this deadlock in its tests
    threading.Event().wait()
