"""Peers of other libraries."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .places import HOST
from .waiting import BOUND


@contextlib.contextmanager
def foreign_server(handler: Callable[[Any], Any], **options: Any) -> Iterator[int]:
    """Serve ``handler(connection)`` by the threaded server of ``websockets``; give its port."""
    from websockets.sync.server import serve  # here: few tests need it

    server = serve(handler, HOST, 0, **options)
    thread = threading.Thread(target=server.serve_forever, name="foreign server", daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join(BOUND)
        # versions before 17 leave the ends of a pipe
        for name in ("shutdown_watcher", "shutdown_notifier"):
            end = getattr(server, name, None)
            if isinstance(end, int):
                os.close(end)
