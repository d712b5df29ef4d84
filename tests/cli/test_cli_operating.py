"""What operators ask of ``mormot-ws serve``: health checks, PROXY headers, logs for machines."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from support import HOST, RawClient
from support.programs import Program

from mormot_ws.cli.arguments import parse


def answer_of(port: int, path: str, before: bytes = b"") -> tuple[int, bytes]:
    """Return status and body of a plain request."""
    with RawClient(port) as client:
        client.send(before + f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, body = client.read_answer()
        return head.status, body


def lines_of(output: str) -> list[dict[str, Any]]:
    """Return the lines of JSON."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_serve_drains_and_logs_lines_of_json() -> None:
    """It answers Prometheus. One SIGTERM makes health checks fail, a second one ends the wait;
    every line on standard error is JSON, and the exit code is 0.
    """
    with Program(
        *("-m", "mormot_ws", "serve", "--port", "0", "--health", "/health", "--drain", "30"),
        *("--log-json", "--proxy-protocol", HOST, "--metrics", "/metrics"),
    ) as server:
        listening = json.loads(server.expect(r'^{.*"event": "listening"').string)
        assert (listening["level"], listening["logger"]) == ("INFO", "mormot-ws")
        port = listening["port"]
        header = b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n"
        assert answer_of(port, "/health", header) == (200, b"ok\n")
        status, text = answer_of(port, "/metrics", header)
        assert (status, b"mormot_ws_server_accepted_total" in text) == (200, True)
        with RawClient(port) as client:
            client.send(b"no header")
            assert client.read_to_end() == b""
        warned = json.loads(server.expect('"level": "WARNING"').string)
        assert (warned["logger"], warned["remote_ip"]) == ("mormot_ws.server", HOST)
        server.signal(signal.SIGTERM)
        server.expect('"event": "draining"')
        assert answer_of(port, "/health", header) == (503, b"not ready\n")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert len(lines_of(server.output)) >= 3


@pytest.mark.parametrize(
    "options",
    [
        ["--health", "health"],
        ["--proxy-protocol", "balancer"],
        ["--drain", "5"],
        ["--metrics", "/metrics", "--processes", "2"],
        ["--drain", "5", "--health", "/health", "--processes", "2"],
    ],
)
def test_options_that_make_no_sense_end_with_2(options: list[str]) -> None:
    """With a message."""
    with pytest.raises(SystemExit) as caught:
        parse(["serve", *options])
    assert caught.value.code == 2
