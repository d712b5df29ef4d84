"""A REST server as a process of its own, to be killed: ``python -m tests.support.rest_child PORT
KEY MILLISECONDS``. See ``children.py``.

Each request takes that many milliseconds, and is answered with its URL and body. On its standard
input it hears ``{"stop": true}``, for a graceful end.
"""

from __future__ import annotations

import sys
import time

from mormot_ws import HttpServerRequest, WebSocketServerRest

from .children import HOST, answer, commands, end_with_parent


def main() -> None:
    port, key, milliseconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    end_with_parent()

    def on_request(ctxt: HttpServerRequest) -> int:
        # the work that a request means
        time.sleep(milliseconds / 1000)
        ctxt.out_content = ctxt.url.encode() + b" " + ctxt.in_content
        ctxt.out_content_type = "text/plain"
        return 200

    with WebSocketServerRest(f"{HOST}:{port}", uri="root", key=key, ajax=True) as server:
        server.on_request = on_request
        answer(port=server.port)
        for _ in commands():
            break


if __name__ == "__main__":
    main()
