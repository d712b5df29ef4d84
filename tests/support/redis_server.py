"""A Redis of the tests' own: on a free port, with its data in a folder, and faults on demand."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from .places import HOST
from .waiting import BOUND

#: whether tests that need Redis may be skipped
REQUIRED = os.environ.get("MORMOT_WS_REQUIRE_REDIS") == "1"


def redis_program() -> str:
    """Return the path of redis-server; skip the test where there is none."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        text = "redis-server is not installed: apt-get install redis-server"
        if REQUIRED:
            pytest.fail(f"{text} (MORMOT_WS_REQUIRE_REDIS=1)")
        pytest.skip(text)
    return program


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


class RedisServer:
    """A redis-server that this test has started.

    :param folder: where its data are.
    :param port: where it listens; 0: a free one.
    :param options: of its configuration, like ``requirepass="x"``; by default it saves nothing.
    """

    def __init__(self, folder: Path, port: int = 0, /, **options: str) -> None:
        self._folder = folder
        self._options = {"save": "", "appendonly": "no", **options}
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        try:
            self.start()
        except AssertionError:
            if port:
                raise
            # another program may have got the port meanwhile
            self.die()
            self.port = _free_port()
            self.start()

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        options = self.options()
        self._process = subprocess.Popen(
            [
                redis_program(),
                *(part for name, value in options.items() for part in (f"--{name}", value)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_for_answer(options)

    def _wait_for_answer(self, options: dict[str, str]) -> None:
        give_up = time.monotonic() + BOUND
        plain = options["port"] != "0"
        while True:
            try:
                with socket.create_connection((HOST, self.port), 1) as sock:
                    if not plain:
                        return
                    sock.sendall(b"PING\r\n")
                    answer = sock.recv(100)
                    # e.g. a password is wanted; not: it is loading its data
                    if answer[:1] in b"+-" and not answer.startswith(b"-LOADING"):
                        return
            except OSError:
                pass
            assert self._process is not None
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < give_up, "redis-server does not answer"
            # there is nothing to wait for but its answer
            time.sleep(0.005)

    def options(self) -> dict[str, str]:
        """Its configuration."""
        return {"port": str(self.port), "bind": HOST, "dir": str(self._folder), **self._options}

    @contextmanager
    def client(self, **arguments: str) -> Iterator[Redis]:
        """A connection of the test to it."""
        client = Redis(HOST, self.port, protocol=2, socket_timeout=BOUND, **arguments)  # type: ignore[arg-type]
        try:
            yield client
        finally:
            client.close()

    def command(self, *words: str | bytes | int) -> object:
        """Return its answer to a command."""
        with self.client() as client:
            return client.execute_command(*words)

    def die(self) -> None:
        """Kill it, without giving it time to save anything."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(BOUND)
        self._frozen = False

    def end(self) -> None:
        """Ask it to end, which saves what its configuration says."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(BOUND)

    def forget(self) -> None:
        """Delete what it has saved, while it does not run."""
        assert self._process is None
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def freeze(self) -> None:
        """Let it do nothing any more, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None and self._frozen:
            self._process.send_signal(signal.SIGCONT)
        self._frozen = False

    def cut(self) -> None:
        """End all connections of clients, from its side."""
        try:
            self.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
        except RedisError:
            # its own connection was one of them
            pass
        with self.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


@contextmanager
def redis_server(folder: Path, port: int = 0, /, **options: str) -> Iterator[RedisServer]:
    """A Redis for one test."""
    server = RedisServer(folder, port, **options)
    try:
        yield server
    finally:
        server.die()
