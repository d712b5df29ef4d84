"""How Sphinx builds these pages:  python -m sphinx -n -W --keep-going -b html docs docs/_build/html

Nothing is fetched from anywhere while building, nor by the pages when they are read.
"""

from __future__ import annotations

import re
import sys
from abc import ABC
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mormot_ws import __version__
from mormot_ws.attributes import CheckedAttributes, KnownAttributes
from mormot_ws.front.attributes import ConnectionAttributes, FixedAttributes
from mormot_ws.process.freeing import ClosedByWith, EndedByWith, FreedByWith

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "mormot_ws"
author = "the mormot_ws maintainers"
release = version = __version__
language = "en"
smartquotes = False  # '' in a docstring is an empty string

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

# pages are CommonMark with tables, headings have the same anchors as on GitHub, and a link that
# leads nowhere is an error
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nitpicky = True
nitpick_ignore_regex = [
    # the standard library's pages are not asked for over the network
    (
        "py:class",
        r"(_thread|ssl|socket|threading|prometheus_client|enum|logging|concurrent|collections\.abc|pathlib|types)\..*",
    ),
    # what is not public has no page; it shows in the signatures of what an application does not
    # call
    (
        "py:class",
        r"mormot_ws\.(client\.(life|owner|thread|http|upgrade|delays)|core\.(deflate|handshake|incoming|outgoing)|sockets\.(deadline|transport)|server\.(event_connection|leader_pool))\..*",
    ),
    (
        "py:class",
        r"abc\.ABC|mormot_ws\.server\.owner\.(Event)?ServerOwner|UpgradeError|Ignored|_P",
    ),
    ("py:class", r"mormot_ws\.(front|process|request|rest|services|protocols\.signed_uri)\..*"),
    (
        "py:class",
        r"(OnBeforeIncomingFrame|OnHttpServerRequest|OnIncomingFrame|DeflateAgreement|RestMessageError)",
    ),
    (
        "py:class",
        r"MessageCounts|OnOpen|OnMessage|OnClose|OnError|Overflow|OnSubscribe|OnPublish|OnMember|OnPublication|OnRecovered|OnRefused|OnDone",
    ),
]
suppress_warnings = ["myst.header"]  # pascal-names.md gives all its tables headings of one level

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"mormot_ws {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False
pygments_style = "default"
pygments_dark_style = "github-dark"


#: members without an underscore that other modules of the package call, and applications have no
#: use for: the reference leaves them out
_FOR_THE_PACKAGE = frozenset(
    [
        "answer_arrived",
        "begin_exit",
        "begin_loop",
        "closing",
        "decode",
        "die_in_child",
        "encode",
        "end_exit",
        "end_loop",
        "enter_run",
        "entered",
        "entered_run",
        "exchange",
        "fault",
        "finish",
        "gave_up_without_callback",
        "head_of",
        "inherited",
        "join_server",
        "keeps_queue",
        "leave_server",
        "log_fields",
        "loop_step",
        "may_be_revived",
        "next_head",
        "notify_closed",
        "output_state",
        "received_bytes",
        "overflowed",
        "policy",
        "reader",
        "revive",
        "run",
        "run_at_once",
        "runs_loop",
        "safe_out",
        "say_goodbye",
        "sender",
        "liveness",
        "set_state",
        "shutdown_within",
        "start_shutdown",
        "take_over",
        "unsent_bytes",
        "upgrade_begins",
        "used_by",
        "wait_writable",
        "waits_for_input",
        "write_parts",
    ]
)


#: the space inside a number
_THOUSANDS = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")


def setup(app: Sphinx) -> None:
    """Leave out of the reference what is there for the package only."""
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("autodoc-process-bases", _without_helpers)
    app.connect("doctree-resolved", _keep_numbers_whole)


def _skip_member(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: object
) -> bool | None:
    # in the front door everything without an underscore is for applications
    if str(getattr(member, "__module__", "")).startswith("mormot_ws.front"):
        return None
    return True if what == "class" and name in _FOR_THE_PACKAGE else None


def _without_helpers(
    app: Sphinx, name: str, cls: object, options: object, bases: list[type]
) -> None:
    """It is of no interest to who reads which classes a class descends from."""
    ways_to_end = (ClosedByWith, EndedByWith, FreedByWith)
    helpers = (
        ABC,
        ConnectionAttributes,
        FixedAttributes,
        CheckedAttributes,
        KnownAttributes,
        *ways_to_end,
    )
    bases[:] = [base for base in bases if base not in helpers] or [object]


def _keep_numbers_whole(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Break no line inside a number such as 10 000; code stays as it is."""
    for text in list(doctree.findall(nodes.Text)):
        whole = _THOUSANDS.sub("\N{NO-BREAK SPACE}", text)
        if whole != text and not isinstance(text.parent, (nodes.literal, nodes.FixedTextElement)):
            text.parent.replace(text, nodes.Text(whole))
