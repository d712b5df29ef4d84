"""The package as a whole: its public names, what importing it costs and brings along."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mormot_ws

PACKAGE = Path(mormot_ws.__file__).parent
#: what only some programs need, and an import must not bring along
RARE = (
    "websocket",
    "h11",
    "websockets",
    "http.client",
    "urllib.request",
    "asyncio",
    "email.message",
    "cryptography",
    "redis",
    "rich",
    "pytest",
)
MODULES = [
    module.name
    for module in pkgutil.iter_modules([str(PACKAGE)])
    if not module.name.startswith("__")
]


def run(code: str) -> None:
    """Run *code* in a new interpreter in which warnings are errors; fail with what it says when it
    does.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def names_for_type_checkers() -> set[str]:
    """Return the names that the package imports under ``TYPE_CHECKING``."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name
        for node in block.body
        # the package's own
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }


class TestPublicNames:
    @pytest.mark.parametrize("name", mormot_ws.__all__)
    def test_every_public_name_is_there(self, name: str) -> None:
        """What ``__all__`` promises can be imported."""
        assert getattr(mormot_ws, name) is not None

    def test_type_checkers_see_the_same_names(self) -> None:
        """The names of ``__all__`` are those of the imports that type checkers and editors look
        at.
        """
        assert names_for_type_checkers() == set(mormot_ws.__all__)

    def test_dir_shows_the_public_names_only(self) -> None:
        """An editor offers nothing that is not public."""
        assert sorted(dir(mormot_ws)) == sorted([*mormot_ws.__all__, "__version__"])

    def test_a_wrong_name_is_an_attribute_error(self) -> None:
        """A misspelt name fails as on any module."""
        with pytest.raises(AttributeError, match="no attribute 'WebsocketServer'"):
            getattr(mormot_ws, "WebsocketServer")  # noqa: B009

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("THttpClientWebSockets", "HttpClientWebSockets"),
            ("TWebSocketServerRest", "WebSocketServerRest"),
            ("EWebSockets", "WebSocketsError"),
            ("WebSocketClient", "HttpClientWebSockets"),
            ("HttpClientWebsockets", "HttpClientWebSockets"),
            ("WebSocketFrames", "WebSocketFrame"),
        ],
    )
    def test_a_wrong_name_leads_to_the_right_one(self, name: str, meant: str) -> None:
        """Pascal's names, those of other libraries and misspelt ones; in an import as well."""
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; did you mean '{meant}'"):
            getattr(mormot_ws, name)
        with pytest.raises(ImportError, match=f"no attribute '{name}'; did you mean '{meant}'"):
            exec(f"from mormot_ws import {name}", {})
        assert not hasattr(mormot_ws, name)

    @pytest.mark.parametrize("name", ["xyz", "_HttpClientWebSockets", "__path_hooks__"])
    def test_without_a_likely_name_none_is_suggested(self, name: str) -> None:
        """Nor for the private names that tools look for."""
        with pytest.raises(AttributeError, match=f"no attribute '{name}'$"):
            getattr(mormot_ws, name)

    def test_modules_can_be_imported_from_the_package(self) -> None:
        """They are no public names, but no wrong ones either."""
        run("from mormot_ws import page, testing; from mormot_ws import wsgi")


class TestImport:
    def test_import_is_silent_and_brings_nothing_rare(self) -> None:
        """``import mormot_ws`` and a star import warn of nothing, and load no module that only
        some programs need.
        """
        run(
            f"import sys; from mormot_ws import *; found = set({RARE!r}) & set(sys.modules) "
            "- {'h11'}; assert not found, found"
        )

    def test_a_client_does_not_load_the_server(self) -> None:
        """A program that uses the client only does not pay for the server's HTTP library."""
        run(
            "import sys; from mormot_ws import HttpClientWebSockets; assert 'h11' not in "
            "sys.modules"
        )

    def test_every_module_can_be_the_first(self) -> None:
        """No module depends on another one having been imported before it."""
        code = (
            "import importlib, sys\n"
            f"for name in {MODULES!r}:\n"
            "    for loaded in [m for m in sys.modules if m.partition('.')[0] == 'mormot_ws']:\n"
            "        del sys.modules[loaded]\n"
            "    importlib.import_module(f'mormot_ws.{name}')\n"
        )
        run(code)
