"""The examples with windows, run on a screen that nobody sees."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest
from support import HOST
from support.endpoints import echo
from support.programs import EXAMPLES
from support.waiting import BOUND

from mormot_ws import WebSocketProtocolChat, WebSocketServer

#: a user: types while there is a connection, looks at what comes, and closes the window
TK = """
from desktop_tk import Window
window = Window(sys.argv[1])
def step():
    shown = window.lines.get(0, "end")
    if len(shown) >= 20:
        print(*shown)
        window.close()
        return
    if window.title() == "connected" and len(sent) < 20:
        window.entry.insert(0, str(len(sent)))
        sent.append(1)
        window.say()
    window.after(5, step)
sent = []
step()
window.mainloop()
"""

QT = """
import desktop_qt
from desktop_qt import QApplication, Window
application = QApplication([])
window = Window(sys.argv[1])
window.show()
sent = []
def step():
    shown = [window.lines.item(n).text() for n in range(window.lines.count())]
    if len(shown) >= 20:
        print(*shown)
        timer.stop()
        window.close()
        return
    if window.windowTitle() == "connected" and len(sent) < 20:
        window.entry.setText(str(len(sent)))
        sent.append(1)
        window.say()
QTimer = sys.modules[QApplication.__module__.replace("QtWidgets", "QtCore")].QTimer
timer = QTimer()
timer.timeout.connect(step)
timer.start(5)
application.exec()
"""


def missing(what: str) -> NoReturn:
    """Skip the test; fail it where CI has installed all that it needs."""
    if os.environ.get("MORMOT_WS_REQUIRE_DESKTOP"):
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def screen() -> Iterator[str]:
    """A screen of X11 in memory."""
    read, write = os.pipe()
    try:
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-nolisten", "tcp"],
            pass_fds=(write,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        os.close(write)
    try:
        with os.fdopen(read) as number:
            yield f":{number.readline().strip()}"
    finally:
        server.terminate()
        server.wait(BOUND)


def run(user: str, uri: str, **environment: str) -> None:
    """Run the program of *user* until the window is closed, and look at what it has shown."""
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n{user}\nprint('ended')"
    done = subprocess.run(
        [sys.executable, "-c", code, uri],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=6 * BOUND,
        check=False,
    )
    # the plugin of Qt that shows nothing says so
    said = [line for line in done.stderr.splitlines() if not line.startswith("This plugin")]
    assert said == []
    assert done.returncode == 0
    assert done.stdout.split() == [*(str(number) for number in range(20)), "ended"]


@pytest.mark.parametrize("toolkit", ["tk", "qt"])
def test_a_window_shows_what_comes_and_closes(toolkit: str) -> None:
    """What is typed comes back in order, and closing the window ends the program, without an error,
    while its client is connected.
    """
    with WebSocketServer(f"{HOST}:0") as server:
        server.websocket_protocols.add(WebSocketProtocolChat("", "", echo))
        uri = f"ws://{HOST}:{server.port}/"
        if toolkit == "qt":
            if not any(importlib.util.find_spec(name) for name in ("PySide6", "PyQt6")):
                missing("neither PySide6 nor PyQt6 is installed")
            run(QT, uri, QT_QPA_PLATFORM="offscreen")
            return
        if not importlib.util.find_spec("tkinter") or not importlib.util.find_spec("_tkinter"):
            missing("this Python has no tkinter")
        if not shutil.which("Xvfb"):
            missing("there is no Xvfb to show a window of Tkinter on")
        with screen() as display:
            run(TK, uri, DISPLAY=display)
