"""Each script of examples/mistakes shows its symptom, the log line that explains it, and a cure
that works; and ends by itself with 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from support import ROOT
from support.programs import EXAMPLES, Program

FOLDER = EXAMPLES / "mistakes"


class Mistake(NamedTuple):
    """What a script has to print: patterns for its symptom, its log line ('' for none) and its
    cure.
    """

    symptom: str
    log: str
    cure: str


MISTAKES = {
    "mistake1_free_in_callback": Mistake(
        "SYMPTOM: free.* has not returned; the client does not reconnect\nSYMPTOM: the main thread"
        " goes on",
        "LOG CRITICAL mormot_ws: DEADLOCK: the client .* is being freed from its own callback",
        "CURE: freed by the main thread\nCURE: with free_in_callback='raise': the client is being"
        " freed from its own callback",
    ),
    "mistake2_inconsistent_uri": Mistake(
        r"SYMPTOM: Already upgraded to WebSockets with URI=\[\] but requested \[/\]",
        "LOG WARNING mormot_ws.protocols: an upgrade requests the protocol 'echo' on the URI '';"
        " offered: 'echo' on 'room'",
        "CURE: upgraded again on 'room', result ''\nCURE: .*: hello",
    ),
    "mistake3_no_upgrade": Mistake(
        r"SYMPTOM: TCP opened again 2×, state wpsCreate; \(not sent",
        "LOG ERROR mormot_ws.client: .* on_reconnect returned '' without calling"
        " websockets_upgrade.*Mistake 3",
        "CURE: TCP opened again 1×, state wpsRun; hello again",
    ),
    "mistake4_already_upgraded": Mistake(
        r"Already upgraded to WebSockets on this URI\nSYMPTOM: .*Already upgraded to WebSockets"
        r" with URI=\[\] but requested \[/\]",
        "",
        "CURE: hello again",
    ),
    "mistake5_add_once": Mistake(
        "SYMPTOM: the connected client gets 'old', the new one 'new'",
        "LOG INFO mormot_ws.protocols: protocol 'echo', uri '': replaced by add_once.*keep the"
        " old one",
        "CURE: add returns True, and the second time False\nCURE: .*: 'new'",
    ),
    "mistake6_protocol_names": Mistake(
        "SYMPTOM: HTTP/1.1 400 WebSocket Upgrade Error",
        "LOG WARNING mormot_ws.protocols: an upgrade requests a protocol that is not offered on the"
        " URI ''; offered: 'echo'",
        "CURE: 'echo' returns '', 'ECHO' ''",
    ),
    "mistake7_waiting_in_callback": Mistake(
        "SYMPTOM: waited 1.* s in 'WebSocketClient .*'; answered: False\nSYMPTOM: the answer"
        " arrives now",
        "",
        "CURE: in 'worker'; answered: True",
    ),
    "mistake8_callback_exception": Mistake(
        "SYMPTOM: no answer to this message; the answer to the next: 2",
        "LOG ERROR mormot_ws.chat: .*on_incoming_frame failed on WebSocketFrame.*\nTraceback",
        r'CURE: please send {"number": n}',
    ),
    "mistake9_payload_is_bytes": Mistake("SYMPTOM: unknown command b'ping'", "", "CURE: pong"),
}


def test_each_script_is_tested_and_linked_from_the_guide() -> None:
    assert {path.stem for path in FOLDER.glob("mistake*.py")} == set(MISTAKES)
    guide = (ROOT / "docs" / "porting-guide.md").read_text(encoding="utf-8")
    for name in MISTAKES:
        assert f"../examples/mistakes/{name}.py" in guide


@pytest.mark.parametrize("name", MISTAKES)
def test_the_script_shows_symptom_log_line_and_cure(name: str) -> None:
    mistake = MISTAKES[name]
    with Program(FOLDER / f"{name}.py") as program:
        assert program.wait() == 0
    before, _, after = program.output.partition("== The cure")
    assert re.search(mistake.symptom, before)
    assert re.search(mistake.log, before)
    assert re.search(mistake.cure, after)
    assert "DEADLOCK" not in after
