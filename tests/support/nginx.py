"""A real nginx for the tests that need one, which are skipped where there is none, unless the
environment says ``MORMOT_WS_REQUIRE_NGINX=1``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TypeVar

import pytest

from .places import HOST
from .programs import PATIENCE
from .waiting import wait_for

_Nginx = TypeVar("_Nginx", bound="RunningNginx")

#: what surrounds a site: no daemon, no files outside of its folder
MAIN = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include site.conf;
}}
"""


def nginx_program() -> str:
    """Return the path of nginx; skip the test without one, or fail if it has to be there."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        if os.environ.get("MORMOT_WS_REQUIRE_NGINX") == "1":
            pytest.fail(
                "nginx is not installed (MORMOT_WS_REQUIRE_NGINX=1): apt-get install nginx-light"
            )
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    return found


def accepts(port: int) -> bool:
    """Whether somebody listens on *port*."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
        return True
    return False


class RunningNginx:
    """nginx with the *site* in *folder*, which listens on *port*. A context manager that ends it,
    by its pid.
    """

    def __init__(self, folder: Path, site: str, port: int) -> None:
        self._program = nginx_program()
        self._folder = folder
        self.port = port
        (folder / "site.conf").write_text(site, encoding="utf-8")
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(MAIN.format(user=user), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return when it accepts connections."""
        command = [self._program, "-p", str(self._folder), "-c", "nginx.conf", "-e", "error.log"]
        with open(self._folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_for(lambda: accepts(self.port), PATIENCE, "nginx")

    def stop(self) -> None:
        """End it at once, connections and all."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE)
            self._process = None

    def reload(self) -> None:
        """Let it read its configuration again, as ``nginx -s reload`` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def __enter__(self: _Nginx) -> _Nginx:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
