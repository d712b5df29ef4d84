"""A Tkinter window that shows received messages and sends what you type.

    python examples/desktop_tk.py [ws://127.0.0.1:8999/]

Tkinter widgets may only be used in the main thread, but a connection's callbacks run in another
one. Here a timer of the window runs the callbacks in the main thread.
"""

from __future__ import annotations

import sys
import tkinter
from pathlib import Path

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

import mormot_ws


class Window(tkinter.Tk):
    def __init__(self, uri: str) -> None:
        super().__init__()
        self.title("connecting")
        self.lines = tkinter.Listbox(self, width=60)
        self.lines.pack()
        self.entry = tkinter.Entry(self, width=60)
        self.entry.pack()
        self.entry.bind("<Return>", self.say)
        self.protocol("WM_DELETE_WINDOW", self.close)

        main = self.main = mormot_ws.MainThreadQueue()
        main.start(self.after)
        self.ws = mormot_ws.connect(
            uri,
            on_open=main.wrap(self.opened),
            on_message=main.wrap(self.message),
            on_close=main.wrap(self.closed),
        )

    def opened(self, ws: mormot_ws.Connection) -> None:
        self.title("connected")

    def message(self, ws: mormot_ws.Connection, message: str | bytes) -> None:
        self.lines.insert(tkinter.END, str(message))

    def closed(self, ws: mormot_ws.Connection, code: int, reason: str) -> None:
        self.title("connecting")

    def say(self, event: object = None) -> None:
        # the window does not wait for a connection
        if self.ws.send(self.entry.get(), timeout=0):
            self.entry.delete(0, tkinter.END)

    def close(self) -> None:
        self.ws.close()
        self.main.close()
        self.destroy()


if __name__ == "__main__":
    Window(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8999/").mainloop()
