"""Standard input, read in a thread of its own: lines or blocks, from a pipe or a terminal.

On a terminal there may be a prompt that incoming lines do not tear.

Nothing of the network in here: what is read is given to a function.
"""

from __future__ import annotations

import contextlib
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

#: takes a line without its newline, or a block; False: it could not be used, read no more
Take = Callable[[bytes], bool]


class PipeInput:
    """Reads standard input to its end, and then posts ``input_end``. Starts at once.

    :param take: called in the input's thread for each line; while it blocks, nothing is read.
    :param binary: blocks as they come, instead of lines.

    Read past ``sys.stdin``: its lock, held by a thread that waits, would be in the way of the
    interpreter's end.
    """

    def __init__(self, mailbox: Mailbox, take: Take, binary: bool = False) -> None:
        self._mailbox = mailbox
        self._take = take
        self._binary = binary
        self._stopping = False
        # written to by stop(): ends the wait for input
        self._wake_read, self._wake_write = os.pipe()
        # daemon: must not keep the program from ending, though take() may be waiting
        self._thread = threading.Thread(target=self._run, name="mormot-ws input", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading and wait for the thread. Main thread."""
        self._stopping = True
        os.write(self._wake_write, b"\0")
        self._thread.join(_JOIN)
        if not self._thread.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _run(self) -> None:
        try:
            self._read()
        except OSError:
            pass  # there is no standard input, or no more: as good as its end
        self._mailbox.post(News.input_end)

    def _read(self) -> None:
        if sys.stdin is None:
            return  # descriptor 0 may be anything
        rest = b""
        while not self._stopping:
            select.select([0, self._wake_read], [], [])  # without a bound: stop() ends it
            if self._stopping:
                return
            data = os.read(0, _BLOCK)
            if not data:
                if rest:
                    self._take(rest)  # the last line need not have a newline
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

    Needs the extra ``cli``.

    :param take: called for each line in a thread of its own: while it blocks, the prompt still
        takes keys.
    :param toolbar: returns the line below the prompt; called twice a second.

    Ctrl-C posts ``interrupt``, Ctrl-D in an empty line ``input_end``.
    """

    def __init__(
        self, mailbox: Mailbox, take: Take, output: Output, toolbar: Callable[[], str]
    ) -> None:
        from prompt_toolkit import PromptSession

        self._mailbox = mailbox
        self._take = take
        self._output = output
        self._stopping = False
        #: what was entered last, until it is given to take(): only then, when the next prompt
        #: stands below it, an answer cannot tear it
        self._entered: bytes | None = None
        self._session: PromptSession[str] = PromptSession(
            "> ", bottom_toolbar=toolbar, refresh_interval=0.5
        )
        self._session.app.after_render += self._give
        # daemon: must not keep the program from ending, though take() may be waiting
        self._thread = threading.Thread(target=self._run, name="mormot-ws prompt", daemon=True)
        #: lines for take(), then None
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        # likewise
        self._taker = threading.Thread(
            target=self._take_all, name="mormot-ws prompt sender", daemon=True
        )
        self._taker.start()
        self._thread.start()

    def stop(self) -> None:
        """Take the prompt away, restore the terminal, and wait for that. Main thread."""
        self._end_prompt()
        self._thread.join(_JOIN)
        self._taker.join(_JOIN)

    def _end_prompt(self) -> None:
        """Let the prompt's loop end itself. From any other thread."""
        self._stopping = True
        loop = self._session.app.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        """In the prompt's loop."""
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
            self._mailbox.post(news)  # at once: it is not to wait for a line that is being sent
        self._lines.put(None)

    def _give(self, app: object) -> None:
        """After the prompt was drawn: hand over the line before it."""
        line, self._entered = self._entered, None
        if line is not None:
            self._lines.put(line)

    def _take_all(self) -> None:
        """Give the lines to take(), in their order. In the taker's thread."""
        # without a bound: the prompt's end, which stop() brings, puts None
        while (line := self._lines.get()) is not None:
            if not self._stopping and not self._take(line):  # nothing more can be sent
                self._mailbox.post(News.input_end)
                self._end_prompt()
        if not self._stopping:
            self._mailbox.post(News.input_end)

    def _check_stop(self) -> None:
        """When a prompt begins: stop() may have come between two of them."""
        if self._stopping:
            self._leave()
