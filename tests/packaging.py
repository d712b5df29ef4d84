"""What is released is whole, and works for who has nothing else:  python -m tests.packaging
[--keep]

Needs ``build`` and ``twine``. Builds the source distribution and the wheel of this tree, twice, bit
by bit the same; checks both; runs some tests from the source distribution. Installs the wheel alone
in a fresh environment, and uses it there from an empty folder: the import, every public name, the
README's server and client, the command line, the pytest plugin. Then once more with the oldest
versions of all dependencies that setup.cfg allows. Stops at the first fault, with its output. It is
a step of CI, and no module of tests: it needs a minute.
"""

from __future__ import annotations

import argparse
import configparser
import gzip
import hashlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: seconds for one command
_BOUND = 300.0

_NAMES = """
import mormot_ws, mormot_ws.testing, mormot_ws.wsgi
missing = [name for name in mormot_ws.__all__ if not hasattr(mormot_ws, name)]
assert not missing, missing
assert "site-packages" in mormot_ws.__file__, mormot_ws.__file__
print(mormot_ws.__version__)
"""

_PLUGIN_TEST = """
from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat

def test_it(mormot_ws_proxy, mormot_ws_echo_server):
    protocol = WebSocketProtocolChat("any")
    with HttpClientWebSockets.websockets_connect(mormot_ws_proxy.uri, protocol) as client:
        client.auto_reconnect()
        mormot_ws_proxy.cut()
        mormot_ws_echo_server.wait_upgrades(2)
"""
#: the extras of the package itself; others are for working on it
RUNTIME_EXTRAS = ("cli", "proxy", "idna", "speedups", "crypto", "uri", "metrics", "redis")

#: what each extra is for, in short; the versions are those that are installed
_EXTRAS = """
import importlib.metadata
from mormot_ws import (HttpClientWebSockets, RedisHub, WebSocketProtocolBinary,
    WebSocketProtocolChat, WebSocketProtocolUri, WebSocketServer, focText, WebSocketFrame)
from mormot_ws.metrics import Metrics
import mormot_ws.sockets.proxies, python_socks, idna, rich, prompt_toolkit, orjson, google_crc32c
WebSocketProtocolBinary("x", "a key")
assert WebSocketProtocolUri("chat", "ws://127.0.0.1/x", 1)
metrics = Metrics()
with WebSocketServer("127.0.0.1:0") as server:
    server.websocket_protocols.add(
        WebSocketProtocolChat("chat", "", lambda process, frame: process.send_frame(frame)))
    metrics.serve_on(server)
    client = HttpClientWebSockets.websockets_connect(
        "127.0.0.1", server.port, WebSocketProtocolChat("chat"))
    assert client.websockets.send_frame(WebSocketFrame(focText, "x" * 1000))
    client.free()
    assert b"mormot_ws_server_upgraded_total" in metrics.text()[0]
"""

#: what is installed beside the package
TOP_MODULES = {"mormot_ws_script.py", "pytest_mormot_ws.py"}


def _environment() -> dict[str, str]:
    """Return our environment without what would change a Python in it."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST"))
    }


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, text: str = ""
) -> str:
    """Run a command, and return what it printed; leave with that when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**_environment(), **(env or {})},
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=_BOUND,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def check(condition: object, fault: str) -> None:
    """Leave with *fault* unless *condition* is true."""
    if not condition:
        sys.exit(fault)


def build(folder: Path) -> tuple[Path, Path]:
    """Build from a copy without leftovers; return the source distribution and the wheel."""
    source = folder / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
        ),
    )
    when = {"SOURCE_DATE_EPOCH": str(_source_date())}
    run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=folder, env=when)
    sdist, wheel = next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))
    normalise(sdist, _source_date())
    return sdist, wheel


def _source_date() -> int:
    """Return the time that all files of a release get: that of the last commit, if there is one."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return int(asked.stdout) if asked.stdout.strip().isdigit() else 1_700_000_000


def normalise(sdist: Path, when: int) -> None:
    """Write *sdist* anew, without what differs from one build to the next: times, owners, order.

    A wheel has nothing of that already where ``SOURCE_DATE_EPOCH`` is set.
    """
    with tarfile.open(sdist) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        found = []
        for member in members:
            content = archive.extractfile(member)
            found.append((member, b"" if content is None else content.read()))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in found:
            member.pax_headers = {}
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            archive.addfile(member, io.BytesIO(content) if member.isfile() else None)
    with sdist.open("wb") as file, gzip.GzipFile("", "wb", 9, file, when) as packed:
        packed.write(raw.getvalue())


def check_reproducible(sdist: Path, wheel: Path, folder: Path) -> None:
    """Another build, elsewhere, gives the same bytes."""
    again = folder / "again"
    again.mkdir()
    for first, second in zip((sdist, wheel), build(again), strict=True):
        one, two = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second))
        check(one == two, f"{first.name} differs from one build to the next: {one}, {two}")


def check_tests_of_sdist(sdist: Path, folder: Path) -> None:
    """Some tests pass from the unpacked source distribution alone."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked")
    (source,) = (folder / "unpacked").iterdir()
    tests = ["core", "protocols", "server/test_groups.py", "package/test_request.py"]
    arguments = ["-q", "-n", "2", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)]
    done = run(sys.executable, "-m", "pytest", *arguments, cwd=source)
    check(" passed" in done, f"no test has passed: {done}")


def lowest_versions() -> list[str]:
    """Return the oldest allowed version of each dependency, those of the extras of the package
    itself included, as requirements.
    """
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    wanted = setup["options"]["install_requires"].split()
    for extra in RUNTIME_EXTRAS:
        wanted += setup["options.extras_require"][extra].split()
    return [requirement.replace(">=", "==") for requirement in wanted]


def check_contents(sdist: Path, wheel: Path) -> None:
    """Each has what it should have, and nothing else."""
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    tree = {
        path.relative_to(ROOT).as_posix()
        for part in ("mormot_ws", "tests", "docs", "examples")
        for path in tracked(part)
    }
    check(tree <= shipped, f"not in the source distribution: {sorted(tree - shipped)}")
    for name in (
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "setup.cfg",
        "pyproject.toml",
        "setup.py",
        *TOP_MODULES,
    ):
        check(name in shipped, f"not in the source distribution: {name}")
    with zipfile.ZipFile(wheel) as archive:
        installed = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(
            next(n for n in archive.namelist() if n.endswith("METADATA"))
        ).decode()
    wanted = {path.relative_to(ROOT).as_posix() for path in tracked("mormot_ws")} | TOP_MODULES
    check(installed == wanted, f"the wheel differs from the package: {sorted(installed ^ wanted)}")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    for extra in setup["options.extras_require"]:
        check(f"Provides-Extra: {extra}" in metadata, f"the extra {extra} is not there")
    dead = re.findall(r"\]\((?!\w+:|#)[^)]*\)", metadata)
    check(not dead, f"links that lead nowhere on the package index: {dead}")


def tracked(part: str) -> list[Path]:
    """Return the files of a folder that belong to the project."""
    skipped = {"__pycache__", "_build"}
    return [
        path
        for path in (ROOT / part).rglob("*")
        if path.is_file() and not skipped & set(path.parts)
    ]


def check_readme(python: Path, folder: Path) -> None:
    """The README's client and server, copied into an empty folder and started in this order, talk
    to each other.
    """
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    server_source, client_source = blocks[:2]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (folder / "server.py").write_text(server_source.replace("8999", port), "utf-8")
    (folder / "client.py").write_text(client_source.replace("8999", port), "utf-8")
    with _program(python, "client.py", folder) as client:
        printed = _typed(client, "early")
        check("not sent" in printed, f"the README's client printed {printed!r} without a server")
        with _program(python, "server.py", folder) as server:
            try:
                check("Ctrl-C" in _next_line(server), "the README's server does not say a word")
                # each line takes up to a second while there is no connection
                for _ in range(30):
                    printed = _typed(client, "hello")
                    if "not sent" not in printed:
                        break
                check("echo: hello" in printed, f"the README's client printed {printed!r}")
                client.communicate("bye\n", timeout=_BOUND)
                check(client.returncode == 0, f"the client ended with {client.returncode}")
            finally:
                # Ctrl-C stops it
                server.send_signal(signal.SIGINT)
                server.communicate(timeout=_BOUND)
    check(server.returncode == 0, f"the README's server ended with {server.returncode}")


def _typed(program: subprocess.Popen[str], line: str) -> str:
    """Type *line*, and return what *program* then prints."""
    assert program.stdin is not None
    program.stdin.write(f"{line}\n")
    program.stdin.flush()
    return _next_line(program)


def _program(python: Path, script: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # -u: its lines come at once, as in a terminal
        [str(python), "-W", "error", "-u", script],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _next_line(program: subprocess.Popen[str]) -> str:
    """Return the next line that *program* prints; kill it if none comes in time."""
    assert program.stdout is not None
    patience = threading.Timer(_BOUND, program.kill)
    patience.start()
    try:
        return program.stdout.readline()
    finally:
        patience.cancel()


def check_lowest(wheel: Path, folder: Path) -> None:
    """The package works with the oldest versions that it allows."""
    environment = folder / "lowest"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    empty = folder / "empty-lowest"
    empty.mkdir()
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(python, *install, wheel, *lowest_versions(), cwd=empty)
    run(python, "-c", _NAMES + _EXTRAS, cwd=empty)


def check_installed(wheel: Path, folder: Path) -> None:
    """Install the wheel alone, and use it from an empty folder."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    empty = folder / "empty"
    empty.mkdir()
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=empty)
    version = run(python, "-W", "error", "-c", _NAMES, cwd=empty).strip()
    check(f"-{version}-" in wheel.name, f"the wheel {wheel.name} says that it is {version}")
    check_readme(python, empty)
    check(
        "serve" in run(python.parent / "mormot-ws", "--help", cwd=empty),
        "mormot-ws --help says nothing of 'serve'",
    )
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "pytest>=8",
        cwd=empty,
    )
    (empty / "test_it.py").write_text(_PLUGIN_TEST, "utf-8")
    check(
        "1 passed" in run(python, "-m", "pytest", "-q", "-W", "error", cwd=empty),
        "the pytest plugin does not work",
    )


def main() -> None:
    """Do all of it, and say what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.packaging", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        type=Path,
        help="put the source distribution and the wheel there",
    )
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mormot_ws-packaging.") as name:
        folder = Path(name)
        sdist, wheel = build(folder)
        print(
            f"built {sdist.name} ({sdist.stat().st_size >> 10} kB) and {wheel.name} "
            f"({wheel.stat().st_size >> 10} kB)"
        )
        print(
            run(
                sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=folder
            ).strip()
        )
        check_contents(sdist, wheel)
        print("both have what they should have")
        check_reproducible(sdist, wheel, folder)
        print("another build gives the same bytes")
        check_tests_of_sdist(sdist, folder)
        print("tests pass from the source distribution")
        check_installed(wheel, folder)
        print("the wheel alone works: names, README, command line, pytest plugin")
        check_lowest(wheel, folder)
        print("and so it does with the oldest versions of all dependencies")
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for path in (sdist, wheel):
                shutil.copy(path, arguments.keep)
    print(f"packaging: all well, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
