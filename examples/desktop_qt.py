"""A Qt window (PySide6 or PyQt6) that shows received messages and sends what you type.

    python examples/desktop_qt.py [ws://127.0.0.1:8999/]

Qt widgets may only be used in the main thread, but a connection's callbacks run in another one. A
signal may be emitted in any thread: it wakes the main thread.
"""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import sys
from pathlib import Path

try:
    from PySide6.QtCore import Qt, Signal
    from PySide6.QtWidgets import QApplication, QLineEdit, QListWidget, QVBoxLayout, QWidget
except ImportError:
    from PyQt6.QtCore import Qt
    from PyQt6.QtCore import pyqtSignal as Signal
    from PyQt6.QtWidgets import QApplication, QLineEdit, QListWidget, QVBoxLayout, QWidget

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

import mormot_ws


class Window(QWidget):
    woken = Signal()

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.setWindowTitle("connecting")
        self.lines, self.entry = QListWidget(), QLineEdit()
        layout = QVBoxLayout(self)
        layout.addWidget(self.lines)
        layout.addWidget(self.entry)
        self.entry.returnPressed.connect(self.say)

        main = self.main = mormot_ws.MainThreadQueue(wake=self.woken.emit)
        # queued: the slot runs in the event loop, whichever thread emits the signal
        self.woken.connect(lambda: main.run_pending(), Qt.ConnectionType.QueuedConnection)
        self.ws = mormot_ws.connect(
            uri,
            on_open=main.wrap(self.opened),
            on_message=main.wrap(self.message),
            on_close=main.wrap(self.closed),
        )

    def opened(self, ws: mormot_ws.Connection) -> None:
        self.setWindowTitle("connected")

    def message(self, ws: mormot_ws.Connection, message: str | bytes) -> None:
        self.lines.addItem(str(message))

    def closed(self, ws: mormot_ws.Connection, code: int, reason: str) -> None:
        self.setWindowTitle("connecting")

    def say(self) -> None:
        # the window does not wait for a connection
        if self.ws.send(self.entry.text(), timeout=0):
            self.entry.clear()

    def closeEvent(self, event: object) -> None:
        self.ws.close()
        self.main.close()
        event.accept()  # type: ignore[attr-defined]


if __name__ == "__main__":
    application = QApplication(sys.argv[:1])
    window = Window(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8999/")
    window.show()
    sys.exit(application.exec())
