"""The programs of ``examples/``, started as a reader of the documentation starts them."""

from __future__ import annotations

from pathlib import Path

from .programs import EXAMPLES, Program


def start_server(script: str, *arguments: str | Path, port: int = 0) -> Program:
    """Return the server *script*, started; it listens on *port*, 0: any free one."""
    return Program(EXAMPLES / script, "--port", str(port), *arguments)


def start_client(script: str, port: int, *arguments: str) -> Program:
    """Return the client *script*, started; it connects to *port*."""
    return Program(EXAMPLES / script, "--port", str(port), *arguments)


def listening_port(server: Program) -> int:
    """Wait until *server* listens; return its port."""
    return int(server.expect(r"^Listening on 127\.0\.0\.1:(\d+)")[1])
