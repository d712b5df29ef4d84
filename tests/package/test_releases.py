"""What a release says of itself: licences, links, what an import loads."""

from __future__ import annotations

import configparser
import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest
from support import ROOT

RUNTIME = ("cli", "proxy", "idna", "speedups", "crypto", "uri", "metrics", "redis")


def test_each_dependency_has_its_licence_on_the_page() -> None:
    """Those of the package, and of its extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    wanted = setup["options"]["install_requires"].split()
    for extra in RUNTIME:
        wanted += setup["options.extras_require"][extra].split()
    _, _, table = (ROOT / "docs/dependencies.md").read_text("utf-8").partition("## Licences")
    listed = re.findall(r"^\| ([a-z0-9-]+)", table, re.MULTILINE)
    assert set(listed) == {re.split(r"[>=\[]", requirement)[0] for requirement in wanted}


@pytest.fixture
def setup_py() -> ModuleType:
    """The module setup.py."""
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("the_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_the_readme_become_absolute(setup_py: ModuleType) -> None:
    """On the package index there are no files: without an address only the text is left."""
    text = "[a](docs/a.md#b), ![p](docs/p.svg), [c](https://c.example/), [d](#d)"
    assert setup_py.description(text, "https://s.example/x") == (
        "[a](https://s.example/x/blob/main/docs/a.md#b), "
        "![p](https://s.example/x/raw/main/docs/p.svg), [c](https://c.example/), [d](#d)"
    )
    assert setup_py.description(text, "") == "a, p, [c](https://c.example/), [d](#d)"


@pytest.mark.parametrize(
    ("name", "most"), [("HttpClientWebSockets", 80), ("WebSocketServer", 80), ("connect", 115)]
)
def test_an_import_loads_no_more_than_it_needs(name: str, most: int) -> None:
    """Modules of the package, not times: they are the same on every machine and every Python. What
    is optional, and large, is not loaded with them.
    """
    program = (
        f"import sys, mormot_ws; mormot_ws.{name};"
        " print(sum(name.startswith('mormot_ws') for name in sys.modules));"
        " print(*{'redis', 'prometheus_client', 'cryptography', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    count, optional = done.stdout.splitlines()
    assert int(count) <= most
    assert optional == ""
