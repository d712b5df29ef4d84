"""``python -m mormot_ws.testing``: the fault proxy as a program.

For tests in other languages and for manual experiments.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from .faultproxy import FaultProxy, obey


def main() -> None:
    """Parse the arguments, then execute lines of standard input until ``stop`` or its end."""
    parser = argparse.ArgumentParser(
        prog="python -m mormot_ws.testing",
        description=(
            "A TCP proxy that produces the faults of real networks. It reads commands from standard"
            " input and answers each with a line: cut, close, blackhole, restore,"
            " delay MS, throttle BYTES_PER_SECOND, truncate BYTES, refuse, stall, accept, heal,"
            " status, stop. Most accept a direction, up or down, as the last argument."
        ),
    )
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="where to forward to")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port to listen on (default: any free one)"
    )
    arguments = parser.parse_args()
    host, _, port = arguments.target.rpartition(":")
    if not port.isdigit():
        parser.error(f"--target must be HOST:PORT, not {arguments.target!r}")
    with (
        FaultProxy(
            host or "127.0.0.1", int(port), host=arguments.host, port=arguments.port
        ) as proxy,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print("port", proxy.port, flush=True)
        for line in sys.stdin:
            if line.strip() == "stop":
                break
            if line.strip():
                print(obey(proxy, line.strip()), flush=True)


if __name__ == "__main__":
    main()
