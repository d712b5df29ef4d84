"""The chat server: who hears what, and what a member that does not read does to the others."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import threading
import time
from dataclasses import dataclass

from tests.support.waiting import wait_for

from .members import Member, deaf_member, new_member
from .running import BOUND, last_words, new_port, start_server

#: messages that are sent while one member does not read, and the bytes of each
FLOOD = 100
SIZE = 65_536
#: seconds in which the others should have them
IN_TIME = 20.0
#: seconds between two words of one that waits to be heard
_PAUSE = 0.1


@dataclass
class Chatting:
    """What was seen of one chat server."""

    #: what is wrong with who hears what; '' when nothing is
    fault: str
    #: seconds that the flood took while all members read; None: longer than IN_TIME
    alone: float | None = None
    #: how many of its messages the others had in time while one did not read, and in how many
    #: seconds
    had: int = 0
    took: float = 0.0
    #: seconds until the members talk again after a kill and a restart at once; None: never
    back: float | None = None
    #: why not
    why: str = ""


def talk(one: Member, other: Member) -> None:
    """Wait until *other* hears what *one* says."""
    word = f"word {random.random()}"

    def heard() -> bool:
        one.say(word)
        with contextlib.suppress(AssertionError):
            return bool(other.heard.expect(f"^{word}$", _PAUSE))
        return False

    wait_for(heard, BOUND, "talking")


def fault_of(ann: Member, bob: Member, outsider: Member) -> str:
    """Tell what is wrong with who hears what."""
    talk(ann, bob)
    ann.say("for bob")
    bob.heard.expect("^for bob$")
    bob.say("for ann")
    ann.heard.expect("^for ann$")
    if "for bob" in ann.heard.text:
        return "who sends hears himself"
    return "others hear it" if outsider.heard.text else ""


def flood(ann: Member, bob: Member) -> tuple[int, float]:
    """Let *ann* talk much; return how much of it *bob* has in time, and in which time."""
    text = base64.b64encode(os.urandom(SIZE * 3 // 4)).decode()
    before = len(bob.heard.text)
    begin = time.monotonic()
    # daemon: a server that does not read holds it, too
    talker = threading.Thread(
        target=lambda: [ann.say(text) for _ in range(FLOOD)], daemon=True, name="talker"
    )
    talker.start()

    def had() -> int:
        return (len(bob.heard.text) - before) // SIZE

    with contextlib.suppress(AssertionError):
        wait_for(lambda: had() >= FLOOD, IN_TIME)
    return had(), time.monotonic() - begin


def watch(library: str) -> Chatting:
    """Start the server and its members; let one of them be slow; kill and restart the server."""
    port = new_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_server(library, "chat", port))
        members = [new_member(library, port, room) for room in ("kitchen", "kitchen", "garden")]
        for member in members:
            stack.callback(member.leave)
        ann, bob, outsider = members
        found = Chatting(fault_of(ann, bob, outsider))
        had, took = flood(ann, bob)
        found.alone = took if had >= FLOOD else None
        with deaf_member(library, port, "kitchen"):
            talk(ann, bob)
            found.had, found.took = flood(ann, bob)
        server.kill()
        try:
            server = stack.enter_context(start_server(library, "chat", port))
        except AssertionError:
            found.why = f"cannot be restarted: {last_words(server)}"
            return found
        begin = time.monotonic()
        talk(ann, bob)
        found.back = time.monotonic() - begin
    return found
