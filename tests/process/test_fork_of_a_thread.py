"""In the child of a thread's fork that thread is the main one, which runs the signal handlers."""

from __future__ import annotations

import os
import threading

import pytest

from mormot_ws.process import sender, sharing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_it_is_the_one_that_never_waits_for_itself() -> None:
    codes: list[int] = []

    def fork() -> None:
        child = os.fork()
        if not child:
            own = threading.get_ident()
            os._exit(int((sender._main_ident, sharing._main_ident) != (own, own)))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    assert codes == [0]
