"""docs/how-to/health.md is true: its HAProxy in front of two servers, and its lines for nginx.

HAProxy's test is skipped where it is missing, nginx' unless ``MORMOT_WS_REQUIRE_NGINX=1``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import HOST, ROOT, connect, echo_server, wait_for
from support.children import fixed_port
from support.pages import blocks_of
from support.programs import PATIENCE

PAGE = "docs/how-to/health.md"


def block(language: str) -> str:
    """Return the page's block in that language."""
    text = (ROOT / PAGE).read_text("utf-8")
    (found,) = [block.code for block in blocks_of(text, PAGE) if block.language == language]
    return found


@contextlib.contextmanager
def haproxy(folder: Path, port: int, ports: list[int], options: str = "") -> Iterator[None]:
    """Run HAProxy by the page's configuration, with checks that are ten times as quick."""
    config = block("none").replace("inter 2s", f"inter 50ms {options}")
    for name, inside in zip((".11", ".12"), ports, strict=True):
        config = config.replace(f"10.0.0{name}:8999", f"{HOST}:{inside}")
    config += f"\nfrontend in\n    bind {HOST}:{port}\n    default_backend chat\n"
    (folder / "haproxy.cfg").write_text(config, "utf-8")
    with (folder / "log").open("wb") as log:
        program = subprocess.Popen(
            ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            program.terminate()
            program.wait(PATIENCE)


def status_of(port: int) -> int:
    """Return the status of a plain request; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code
    except OSError:
        return 0


needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="there is no HAProxy")


@needs_haproxy
def test_haproxy_takes_out_a_server_that_is_not_ready(tmp_path: Path) -> None:
    """By the page's configuration: all new connections go to the other one."""
    port = fixed_port()
    with (
        echo_server(health_path="/health") as one,
        echo_server(health_path="/health") as two,
        haproxy(tmp_path, port, [one.port, two.port]),
    ):
        wait_for(lambda: status_of(port) == 200, bound=PATIENCE)
        one.is_ready = False
        accepted = one.status().accepted
        # two checks that fail
        wait_for(lambda: one.status().accepted >= accepted + 4, bound=PATIENCE)
        for _ in range(4):
            connect(port).free()
        assert (one.status().upgraded, two.status().upgraded) == (0, 4)
        two.is_ready = False
        wait_for(lambda: status_of(port) == 503, bound=PATIENCE)


@needs_haproxy
@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_haproxy_tells_the_visitors_address(tmp_path: Path, options: str) -> None:
    """By either version of the PROXY protocol, in its checks too."""
    port = fixed_port()
    with (
        echo_server(health_path="/health", proxy_protocol_from={HOST}) as server,
        haproxy(tmp_path, port, [server.port] * 2, f"{options} check-send-proxy"),
    ):
        wait_for(lambda: status_of(port) == 200, bound=PATIENCE)
        with connect(port):
            (process,) = server.connections()
            assert process.remote_ip == HOST


@pytest.mark.skipif(
    shutil.which("nginx") is None and not os.environ.get("MORMOT_WS_REQUIRE_NGINX"),
    reason="there is no nginx here",
)
def test_nginx_takes_the_lines(tmp_path: Path) -> None:
    """As part of a site."""
    upstream, _, line = block("nginx").partition("# in the location\n")
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {upstream}"
        f" server {{ listen {HOST}:{fixed_port()}; location / {{ proxy_pass http://chat; {line} }}"
        " } }",
        "utf-8",
    )
    done = subprocess.run(
        ["nginx", "-t", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
