"""Which server the programs of the tests use: ``MORMOT_WS_TEST_SERVER=async`` asks for the
event-driven one. Their option ``--server`` sets it for what they start.
"""

from __future__ import annotations

import argparse
import os

from mormot_ws import WebSocketAsyncServer, WebSocketServer

VARIABLE = "MORMOT_WS_TEST_SERVER"


def server_class() -> type[WebSocketAsyncServer | WebSocketServer]:
    """Return the class that is asked for."""
    return WebSocketAsyncServer if os.environ.get(VARIABLE) == "async" else WebSocketServer


class _Choose(argparse.Action):
    def __call__(self, parser: object, namespace: object, values: object, *_: object) -> None:
        os.environ[VARIABLE] = str(values)


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--server``."""
    parser.add_argument(
        "--server",
        action=_Choose,
        choices=["threaded", "async"],
        help="the threaded server (default) or the event-driven one",
    )
