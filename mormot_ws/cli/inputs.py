"""Reads standard input in a thread of its own and passes lines or blocks to a function.

On a terminal there can be a prompt, which incoming lines do not disturb.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from .mailbox import Mailbox, News
from .output import Output

_BLOCK = 1 << 16
#: seconds that stop() waits for the thread
_JOIN = 1.0
#: the same when the thread may be in a read that nothing can end
_SHORT_JOIN = 0.1
#: True where select() works only for sockets, so that only a read can wait for input
_BLOCKS = sys.platform == "win32"

#: takes a line without its newline, or a block; returns False when it can use no more
Take = Callable[[bytes], bool]


class PipeInput:
    """Reads standard input to its end, then posts ``input_end``. Starts at once.

    :param take: called in the input's thread for each line; while it blocks, nothing is read.
    :param binary: pass blocks as they arrive instead of lines.

    It bypasses ``sys.stdin``: a waiting thread would hold the lock of that object and keep the
    interpreter from ending.
    """

    def __init__(self, mailbox: Mailbox, take: Take, binary: bool = False) -> None:
        self._mailbox = mailbox
        self._take = take
        self._binary = binary
        self._stopping = False
        # stop() writes to it, which ends the wait for input
        self._wake: tuple[int, ...] = () if _BLOCKS else os.pipe()
        # a daemon thread: a take() that waits must not keep the program from ending
        self._thread = threading.Thread(target=self._run, name="mormot-ws input", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, and wait for the thread. Called in the main thread."""
        self._stopping = True
        if not self._wake:
            # it is in a read that nothing can end: leave the thread behind
            self._thread.join(_SHORT_JOIN)
            return
        os.write(self._wake[1], b"\0")
        self._thread.join(_JOIN)
        if not self._thread.is_alive():
            for end in self._wake:
                os.close(end)

    def _run(self) -> None:
        try:
            self._read()
        except OSError:
            pass  # missing or broken standard input counts as its end
        self._mailbox.post(News.input_end)

    def _read(self) -> None:
        if sys.stdin is None:
            return  # descriptor 0 may be something else
        # unbuffered: on a Windows console this reads UTF-8, whatever the code page
        with open(0, "rb", buffering=0, closefd=False) as source:
            self._read_from(source)

    def _read_from(self, source: io.RawIOBase) -> None:
        rest = b""
        while not self._stopping:
            if self._wake:
                select.select([0, self._wake[0]], [], [])  # no time-out: stop() ends it
            if self._stopping:
                return
            data = source.read(_BLOCK)
            if self._stopping:
                return
            if not data:
                if rest:
                    self._take(rest)  # the last line may lack a newline
                return
            if self._binary:
                if not self._take(data):
                    return
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if self._stopping or not self._take(line.removesuffix(b"\r")):
                    return


class PromptInput:
    """A prompt with line editing and history; other lines appear above it.

    Requires the extra ``cli``.

    :param take: called for each line in another thread, so that the prompt accepts keys while
        *take* blocks.
    :param toolbar: returns the line below the prompt; called twice a second.

    Ctrl-C posts ``interrupt``, Ctrl-D on an empty line ``input_end``.
    """

    def __init__(
        self, mailbox: Mailbox, take: Take, output: Output, toolbar: Callable[[], str]
    ) -> None:
        from prompt_toolkit import PromptSession

        self._mailbox = mailbox
        self._take = take
        self._output = output
        self._stopping = False
        #: the last line entered. take() gets it after the next prompt has been drawn; before that
        #: an answer could disturb the prompt
        self._entered: bytes | None = None
        self._session: PromptSession[str] = PromptSession(
            "> ", bottom_toolbar=toolbar, refresh_interval=0.5
        )
        self._session.app.after_render += self._give
        # a daemon thread: a take() that waits must not keep the program from ending
        self._thread = threading.Thread(target=self._run, name="mormot-ws prompt", daemon=True)
        #: lines for take(), then None
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        # a daemon thread for the same reason
        self._taker = threading.Thread(
            target=self._take_all, name="mormot-ws prompt sender", daemon=True
        )
        self._taker.start()
        self._thread.start()

    def stop(self) -> None:
        """Remove the prompt, restore the terminal, and wait for both threads.

        Called in the main thread.
        """
        self._end_prompt()
        self._thread.join(_JOIN)
        self._taker.join(_JOIN)

    def _end_prompt(self) -> None:
        """End the prompt's loop. Called in any other thread."""
        self._stopping = True
        loop = self._session.app.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        """End the prompt; called in its loop."""
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    def _run(self) -> None:
        from prompt_toolkit.patch_stdout import patch_stdout

        news = News.input_end
        with patch_stdout(raw=True):
            self._output.prompting = True
            try:
                while not self._stopping:
                    line = self._session.prompt(pre_run=self._check_stop)
                    self._entered = line.encode("utf-8", "replace")
            except EOFError:
                pass  # Ctrl-D, or stop()
            except KeyboardInterrupt:
                news = News.interrupt
            finally:
                self._output.prompting = False
        if news is News.interrupt:
            self._stopping = True
            self._mailbox.post(news)  # without waiting for a line that is being sent
        self._lines.put(None)

    def _give(self, app: object) -> None:
        """Hand over the last line, after the next prompt has been drawn."""
        line, self._entered = self._entered, None
        if line is not None:
            self._lines.put(line)

    def _take_all(self) -> None:
        """Pass the lines to take() in order, in the taker's thread."""
        # no time-out: stop() ends the prompt, which puts None
        while (line := self._lines.get()) is not None:
            if not self._stopping and not self._take(line):  # nothing more can be sent
                self._mailbox.post(News.input_end)
                self._end_prompt()
        if not self._stopping:
            self._mailbox.post(News.input_end)

    def _check_stop(self) -> None:
        """End a new prompt if stop() was called between two prompts."""
        if self._stopping:
            self._leave()
